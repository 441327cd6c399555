package Apikey::Api;

# The admin API without nginx: apikey.api() called as the module calls it, over
# a connection as apikey_gateway.
#
#   my $api = Apikey::Api->new($t->postgres);
#   my $r = $api->call('key_create', body => { name => 'one' });
#
# $r: status, headers (a hash), body (text), json, refresh (lines).  Status 100
# is answered with a digest of random bytes; last_secret is what was sent then.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP;
use Test::More ();

my $json = JSON::PP->new->utf8(0)->allow_nonref->canonical;
my $n = 0;

our %operator = (kind => 'operator', name => 'ops', role => 'admin',
                 address => '192.0.2.1');


sub new {
    my ($class, $pg) = @_;

    return bless { pg => $pg }, $class;
}


sub uuid {
    my $hex = substr sha256_hex(join ' ', $$, time, rand, $n++), 0, 32;

    $hex =~ s/^(.{8})(.{4})(.{4})(.{4})/$1-$2-$3-$4-/;
    return $hex;
}


# call(FUNCTION, id => of the path, path => {more of it},
# query => {name => value or [values]}, body => data or text, as => caller,
# match => If-Match, once => Idempotency-Key, req => {more})

sub call {
    my ($self, $fn, %opt) = @_;

    my $query = $opt{query} // {};
    my $body = $opt{body};

    my $req = {
        request_id => uuid(), node => 'n1', base => '/api/v1/',
        method => 'POST', path => { id => $opt{id}, %{$opt{path} // {}} },
        query => { map { $_ => ref $query->{$_} ? $query->{$_}
                                                : [ "$query->{$_}" ] }
                   keys %$query },
        body => ref $body ? $json->encode($body) : $body,
        content_type => 'application/json', if_match => $opt{match},
        idempotency_key => $opt{once}, key_prefix => 'sk', secret => undef,
        %{$opt{req} // {}},
    };

    my $r = $self->once($fn, $opt{as} // \%operator, $req);

    if ($r->{status} == 100) {
        my $plain = uuid();

        $req->{secret} = { id => uuid(), digest => sha256_hex($plain),
                           start => "$r->{prefix}_abcd", last4 => 'wxyz' };
        $self->{last_secret} = $req->{secret};

        my $prefix = $r->{prefix};
        $r = $self->once($fn, $opt{as} // \%operator, $req);
        $r->{prefix} = $prefix;
    }

    $r->{request_id} = $req->{request_id};
    return $r;
}


sub once {
    my ($self, $fn, $as, $req) = @_;

    my $pg = $self->{pg};
    my ($row) = $pg->rows(sprintf(
        'SELECT status, headers, body, refresh FROM apikey.api(%s, %s, %s)',
        map { $pg->quote($_) } $fn, $json->encode($as), $json->encode($req)),
        user => 'apikey_gateway');

    my ($status, $headers, $body, $refresh) = @$row;
    utf8::decode($body);

    return { status => 100, prefix => $headers } if $status == 100;

    return {
        status => $status,
        headers => { map { split /: /, $_, 2 } split /\n/, $headers },
        body => $body,
        json => $body eq '' ? undef : $json->decode($body),
        refresh => [ split /\n/, $refresh ],
    };
}


# "location code" of every wrong field, sorted.

sub errors {
    my ($self, $r) = @_;

    return [ sort map { "$_->{location} $_->{code}" }
             @{$r->{json}{errors} // []} ];
}


# Tests: exactly these fields are wrong; this problem was the answer.

sub is_wrong {
    my ($self, $r, $errors, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    my %codes = map { /(\w+)$/ => 1 } @$errors;
    my $code = keys %codes > 1 ? '' : (keys %codes)[0] // '';

    $code = 'invalid_request' unless $code =~ /^(forbidden|not_supported)$/;
    $self->is_problem($r, $code eq 'forbidden' ? 403 : 400, $code, $name);
    Test::More::is_deeply($self->errors($r), [ sort @$errors ],
                          "$name: @$errors");
}


sub is_problem {
    my ($self, $r, $status, $code, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    Test::More::is("$r->{status} " . ($r->{json}{code} // ''),
                   "$status $code", $name);
}


1;
