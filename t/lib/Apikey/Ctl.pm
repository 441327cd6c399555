package Apikey::Ctl;

# apikeyctl for a test: exit code, stdout and stderr of one call.
#
#   my $ctl = Apikey::Ctl->new($t);
#   my ($rc, $out, $err) = $ctl->run([ 'schema', 'status' ], env => {...});

use strict;
use warnings;

use File::Path qw(make_path);
use POSIX ();
use Test::More ();


sub new {
    my ($class, $t) = @_;

    # what libpq and apikeyctl would take from the tester's environment
    delete @ENV{grep { /^(APIKEY_(POSTGRES|SCHEMA|TOKEN)|PG[A-Z]+)$/ }
                keys %ENV};

    return bless { dir => $t->{dir}, bin => "$t->{build}/apikeyctl" }, $class;
}


# run([ARGUMENTS], env => {besides}, in => text for stdin, out => file)

sub run {
    my ($self, $args, %opt) = @_;

    local %ENV = (%ENV, %{$opt{env} // {}});
    my ($in, $out, $err) = map { "$self->{dir}/ctl.$$.$_" } qw(in out err);

    write_file($in, $opt{in} // '');

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDIN, '<', $in;
        open STDOUT, '>', $opt{out} // $out;
        open STDERR, '>', $err;
        { exec $self->{bin}, @$args };
        POSIX::_exit(127);
    }

    waitpid $pid, 0;

    my @said = ($? & 127 ? "signal $?" : $? >> 8,
                slurp($opt{out} // $out), slurp($err));
    unlink $in, $out, $err;

    return @said;
}


# Arguments that are refused: exit code 2, said on stderr alone.

sub wrong {
    my ($self, $args, $like, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my ($rc, $out, $err) = $self->run($args);

    Test::More::is($rc, 2, $name);
    Test::More::is($out, '', "$name: nothing on stdout");
    Test::More::like($err, $like, "$name: is said");
}


# A directory of files for a test.

sub files {
    my ($self, $name, %files) = @_;

    my $dir = "$self->{dir}/$name";

    make_path($dir);
    write_file("$dir/$_", $files{$_}) for keys %files;

    return $dir;
}


sub write_file {
    my ($file, $text) = @_;

    open my $f, '>', $file or die "$file: $!\n";
    print $f $text;
    close $f;
}


sub slurp {
    my ($name) = @_;

    return '' if -c $name;
    open my $f, '<', $name or return '';
    return do { local $/; <$f> } // '';
}


1;
