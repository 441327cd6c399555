package Apikey::Certs;

# Certificates of a test's own, made by openssl.
#
#     my $certs = Apikey::Certs->new($t->dir);
#     my ($ca) = $certs->ca('ours');
#     my ($cert, $key) = $certs->cert('ours', 'redis', 'DNS:redis.test', ...);
#
# All are names of files that any user may read.

use strict;
use warnings;


sub new {
    my ($class, $dir) = @_;

    mkdir "$dir/certs";
    return bless { dir => "$dir/certs" }, $class;
}


sub openssl {
    my ($self, @args) = @_;

    system("openssl @args > $self->{dir}/log 2>&1") == 0
        or die "openssl @args: see $self->{dir}/log\n";
}


sub ca {
    my ($self, $name) = @_;

    my $base = "$self->{dir}/$name";

    $self->openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256",
                   "-nodes -days 3 -subj /CN=$name",
                   "-keyout $base.key -out $base.pem");
    chmod 0644, "$base.key";
    return "$base.pem";
}


sub cert {
    my ($self, $ca, $name, @names) = @_;

    my $base = "$self->{dir}/$name";
    my $by = "$self->{dir}/$ca";

    open my $f, '>', "$base.ext" or die "$base.ext: $!\n";
    print $f 'subjectAltName = ', join(',', @names), "\n" if @names;
    close $f;

    $self->openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes",
                   "-subj /CN=$name -keyout $base.key -out $base.csr");
    $self->openssl("x509 -req -in $base.csr -CA $by.pem -CAkey $by.key",
                   "-CAcreateserial -days 3 -extfile $base.ext",
                   "-out $base.pem");
    chmod 0644, "$base.key";
    return ("$base.pem", "$base.key");
}


1;
