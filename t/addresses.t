# Allowed addresses: IPv4, IPv6, IPv4 inside IPv6, and behind proxies that
# nginx's realip believes.

use strict;
use warnings;

use IO::Socket::IP;
use IO::Socket::UNIX;
use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my %key = map { $_->[0] => $t->key(name => $_->[0], allowed_ips => $_->[1]) } (
    [ any      => undef ],
    [ none     => [] ],
    [ net10    => [ '10.0.0.0/8' ] ],
    [ host     => [ '10.1.2.3/32' ] ],
    [ odd      => [ '10.1.2.0/23' ] ],
    [ v4       => [ '0.0.0.0/0' ] ],
    [ v6       => [ '::/0' ] ],
    [ doc      => [ '2001:db8::/32' ] ],
    [ host6    => [ '2001:db8::1/128' ] ],
    [ odd6     => [ '2001:db8:0:2::/63' ] ],
    [ mapped   => [ '::ffff:10.0.0.0/104' ] ],
    [ mapped1  => [ '::ffff:10.1.2.3/128' ] ],
    [ mapped95 => [ '::fffe:0:0/95' ] ],
    [ several  => [ '192.0.2.0/24', '2001:db8::/32', '10.1.2.3/32' ] ],
    [ local    => [ '127.0.0.0/8', '::1/128' ] ],
);


my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    server {
        listen [::]:%%PORT_six%% ipv6only=off;
        listen unix:%%DIR%%/plain.sock;
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_proxy%% proxy_protocol;
        listen unix:%%DIR%%/proxy.sock proxy_protocol;
        set_real_ip_from 127.0.0.0/8;
        set_real_ip_from unix:;
        real_ip_header proxy_protocol;
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /real/ {
            set_real_ip_from 127.0.0.0/8;
            real_ip_header X-Forwarded-For;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /chain/ {
            set_real_ip_from 127.0.0.0/8;
            set_real_ip_from 192.0.2.0/24;
            real_ip_header X-Forwarded-For;
            real_ip_recursive on;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /not-ours/ {
            set_real_ip_from 192.0.2.0/24;
            real_ip_header X-Forwarded-For;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /on/ {
            set_real_ip_from 127.0.0.0/8;
            real_ip_header X-Forwarded-For;
            try_files /nowhere /;
        }
EOS

$t->sync;


# Which keys pass from there.

sub pass_from {
    my ($what, $get, @want) = @_;

    my @got;

    for my $name (sort keys %key) {
        my $r = $get->($key{$name}{key});

        if ($r->{status} == 200) {
            push @got, $name;

        } elsif ($r->{status} != 403
                 || (eval { json($r)->{code} } // '') ne 'ip_denied')
        {
            push @got, "$name: $r->{status}";
        }
    }

    is("@got", join(' ', sort 'any', @want), $what);
}

sub forwarded {
    my ($uri, $for) = @_;

    return sub {
        return $n->request('GET', $uri, key => $_[0],
                           headers => [ 'X-Forwarded-For' => $for ]);
    };
}


pass_from('directly', sub { $n->get('/', key => $_[0]) }, 'v4', 'local');

for my $case (
    [ '10.1.2.3', qw(net10 host odd v4 mapped mapped1 several) ],
    [ '10.1.2.4', qw(net10 odd v4 mapped) ],
    [ '10.1.3.255', qw(net10 odd v4 mapped) ],
    [ '10.1.4.0', qw(net10 v4 mapped) ],
    [ '11.0.0.0', qw(v4) ],
    [ '9.255.255.255', qw(v4) ],
    [ '192.0.2.255', qw(v4 several) ],
    [ '127.0.0.1', qw(v4 local) ],
    [ '0.0.0.0', qw(v4) ],
    [ '2001:db8::1', qw(v6 doc host6 several) ],
    [ '2001:db8::2', qw(v6 doc several) ],
    [ '2001:db8:0:2::1', qw(v6 doc odd6 several) ],
    [ '2001:db8:0:3:ffff:ffff:ffff:ffff', qw(v6 doc odd6 several) ],
    [ '2001:db8:0:4::', qw(v6 doc several) ],
    [ '2001:db9::', qw(v6) ],
    [ '::1', qw(v6 local) ],
    [ '::ffff:10.1.2.3', qw(net10 host odd v4 mapped mapped1 several) ],
    [ '::ffff:11.0.0.1', qw(v4) ],
    [ '::fffe:0:1', qw(v6 mapped95) ],
) {
    my ($address, @want) = @$case;

    pass_from("forwarded for $address", forwarded('/real/', $address), @want);
}

pass_from('X-Forwarded-For where nobody believes it',
          forwarded('/', '10.1.2.3'), 'v4', 'local');
pass_from('or not this proxy', forwarded('/not-ours/', '10.1.2.3'), 'v4',
          'local');
pass_from('the last of several',
          forwarded('/real/', '2001:db8::1, 10.1.2.3'),
          qw(net10 host odd v4 mapped mapped1 several));
pass_from('the last that is no proxy',
          forwarded('/chain/', '11.1.1.1, 10.1.2.3, 192.0.2.7'),
          qw(net10 host odd v4 mapped mapped1 several));
pass_from('nonsense', forwarded('/real/', 'nonsense'), 'v4', 'local');
pass_from('in the place a request ends', forwarded('/on/', '2001:db8::1'),
          qw(v6 doc host6 several));


# PROXY protocol, over TCP and a local socket, which has no address itself

sub raw {
    my ($socket, $head) = @_;

    return sub {
        my $c = $socket->();
        my $key = $_[0];

        print $c $head . "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            . "X-API-Key: $key\r\n\r\n";

        my $text = do { local $/; <$c> } // '';
        my ($status) = $text =~ m{^HTTP/1.1 (\d+)};
        my ($body) = $text =~ /\r\n\r\n(.*)/s;

        return { status => $status // 0, body => $body };
    };
}

sub tcp {
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                 PeerPort => $n->port('proxy')) || die $!;
}

sub unix {
    my ($name) = @_;

    return sub {
        return IO::Socket::UNIX->new(Peer => $n->dir . "/$name.sock") || die $!;
    };
}

# over IPv6, and IPv4 inside it

sub six {
    my ($host) = @_;

    return sub {
        return IO::Socket::IP->new(PeerHost => $host,
                                   PeerPort => $n->port('six')) || die $!;
    };
}

pass_from('IPv4 on an IPv6 socket', raw(six('127.0.0.1'), ''), 'v4', 'local');

SKIP: {
    skip 'no IPv6 here', 1 unless eval { six('::1')->() };

    pass_from('IPv6', raw(six('::1'), ''), 'v6', 'local');
}


my $v1 = "PROXY TCP4 10.1.2.3 10.0.0.1 1 2\r\n";
my $v1six = "PROXY TCP6 2001:db8::1 2001:db8::9 1 2\r\n";
my $v2 = "\r\n\r\n\0\r\nQUIT\n\x21\x11" . pack('n', 12)
         . pack('C4 C4 n n', 10, 1, 2, 3, 10, 0, 0, 1, 1, 2);

pass_from('PROXY protocol', raw(\&tcp, $v1),
          qw(net10 host odd v4 mapped mapped1 several));
pass_from('PROXY protocol, IPv6', raw(\&tcp, $v1six),
          qw(v6 doc host6 several));
pass_from('PROXY protocol, version 2', raw(\&tcp, $v2),
          qw(net10 host odd v4 mapped mapped1 several));
pass_from('PROXY protocol, unknown', raw(\&tcp, "PROXY UNKNOWN\r\n"),
          'v4', 'local');
pass_from('PROXY protocol on a local socket', raw(unix('proxy'), $v1),
          qw(net10 host odd v4 mapped mapped1 several));
pass_from('a local socket has no address', raw(unix('plain'), ''));


subtest 'a change' => sub {
    my $k = $key{none};

    for my $case ([ "'{10.0.0.0/8}'", 200 ], [ "'{11.0.0.0/8}'", 403 ],
                  [ "'{11.0.0.0/8,10.1.2.3/32}'", 200 ], [ "'{}'", 403 ],
                  [ 'NULL', 200 ])
    {
        my ($ips, $status) = @$case;

        $pg->run("UPDATE apikey.key SET allowed_ips = $ips
                  WHERE id = '$k->{id}'");
        ok(wait_for($ips, sub {
            forwarded('/real/', '10.1.2.3')->($k->{key})->{status} == $status;
        }), "$ips: $status");
    }
};


subtest 'written by the API' => sub {
    my $r = $n->admin('POST', 'api-keys', body => { name => 'api',
        allowed_ips => [ '10.1.2.3', '::FFFF:192.0.2.0/120', '2001:DB8::/32' ] });
    my $j = json($r);

    is($r->{status}, 201, 'made') or diag $r->{body};

    for my $case ([ '10.1.2.3', 200 ], [ '10.1.2.4', 403 ],
                  [ '192.0.2.7', 200 ], [ '192.0.3.7', 403 ],
                  [ '2001:db8::7', 200 ], [ '2001:db9::7', 403 ])
    {
        is(forwarded('/real/', $case->[0])->($j->{key})->{status},
           $case->[1], "$case->[0]: $case->[1]");
    }

    is($n->request('GET', '/api/v1/whoami', headers => [
        Authorization => "Bearer $j->{key}" ])->{status}, 403,
       'the admin API goes by addresses, too');
};

$t->done;
