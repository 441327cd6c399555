# Redis over TLS: who is trusted, who is refused, and what the log says; ACL
# users; several URLs.

use strict;
use warnings;

use Test::More;
use Apikey::Certs;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $certs = Apikey::Certs->new($t->dir);
my $ca = $certs->ca('ours');
my $other = $certs->ca('theirs');
my @server = $certs->cert('ours', 'server', 'DNS:redis.test',
                          'IP:127.0.0.1');
my @named = $certs->cert('ours', 'named', 'DNS:redis.test', 'DNS:localhost');
my @client = $certs->cert('ours', 'client');
my @stranger = $certs->cert('theirs', 'stranger');

# three servers: one for everybody, one with another name, one that wants
# certificates and knows users

my $open = $t->redis(name => 'open', tls => [ $ca, @server ]);
my $named = $t->redis(name => 'named', tls => [ $ca, @named ]);
my $strict = $t->redis(name => 'strict', tls => [ $ca, @server ],
    clients => 1, users => [
        # as docs/redis.md has it
        'user gate on >s3cret ~apikey:* resetchannels -@all +ping +info +time'
        . ' +get +set +del +eval +evalsha +script|load +select',
        'user blind on >s3cret ~apikey:* +@read +ping',
        'user elsewhere on >s3cret ~other:* +@all' ]);

my $key = $t->key(limits => [ { name => 'hourly', limit => 100000,
                                window => '1h' } ]);

my %node;

sub node {
    my ($name, $urls, %opt) = @_;

    return $node{$name} = $t->nginx(name => $name, server => <<'EOT', %opt,
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        base => { redis => "apikey_redis $urls timeout=1s;\n"
                           . "apikey_limit_mode direct;\n"
                           . '    apikey_redis_down deny;' })->start;
}

sub mode {
    my ($node) = @_;

    return $node->get('/', key => $key->{key})->{headers}{'x-mode'};
}

sub works {
    my ($what, $node) = @_;

    $t->sync($node);
    ok(eval { wait_for($what, sub { mode($node) eq 'direct' }) }, $what)
        or diag($node->tail(5));
}

# Refused, and the log says why, not at each attempt

sub refused {
    my ($what, $node, $why) = @_;

    $t->allow(qr/apikey_redis:/);
    $t->sync($node);
    is(mode($node), 'down_deny', $what);

    ok(eval { $node->wait_log($why) }, "$what: the log says why")
        or diag($node->tail(5));
    cmp_ok(scalar(() = $node->log_text =~ /apikey_redis: no connection to/g),
           '<=', 3, "$what: not at each attempt");
}

my $url = 'rediss://127.0.0.1:';

works('a CA and an address', node('ca', $url . $open->tls_port
                                        . " ca=$ca verify=on"));
works('a name', node('name', 'rediss://localhost:' . $named->tls_port
                             . " ca=$ca"));
works('no check', node('off', $url . $named->tls_port . ' verify=off'));

refused('another CA', node('other', $url . $open->tls_port . " ca=$other"),
        qr/127\.0\.0\.1:\d+: its certificate is not trusted: /);
refused('the CAs of the system', node('system', $url . $open->tls_port),
        qr/its certificate is not trusted: .*(self.signed|local issuer)/);
refused('another name', node('wrong', $url . $named->tls_port . " ca=$ca"),
        qr/its certificate does not name 127\.0\.0\.1/);
refused('no TLS there', node('plain', $url . $open->port . " ca=$ca"),
        qr/no connection to 127\.0\.0\.1:\d+: no TLS/);
refused('TLS there', node('tls', 'redis://127.0.0.1:' . $open->tls_port),
        qr/no connection to 127\.0\.0\.1:\d+: it closed the connection/);

# certificates of clients, and users

sub strict {
    my ($name, $user, @cert) = @_;

    return node($name, "rediss://$user" . '127.0.0.1:' . $strict->tls_port
        . " ca=$ca" . (@cert ? " cert=$cert[0] cert_key=$cert[1]" : ''));
}

works('a certificate and a user', strict('user', 'gate:s3cret@', @client));
unlike($node{user}->log_text, qr/NOPERM/, 'who may do all that is needed');
refused('no certificate', strict('none', 'gate:s3cret@'),
        qr/no connection to .*certificate/);
refused('a certificate of another CA',
        strict('stranger', 'gate:s3cret@', @stranger),
        qr/no connection to .*(unknown ca|certificate)/);
refused('a wrong password', strict('wrongpass', 'gate:secret@', @client),
        qr/it refuses the user or the password/);
refused('no such user', strict('nobody', 'nobody:s3cret@', @client),
        qr/it refuses the user or the password/);
refused('a user without rights', strict('blind', 'blind:s3cret@', @client),
        qr/it does not say who it is: NOPERM/);
refused('a user of other keys', strict('keys', 'elsewhere:s3cret@', @client),
        qr/it does not say who it is: .*NOPERM/i);

for my $node (values %node) {
    unlike($node->log_text, qr/s3cret|gate:secret/,
           $node->name . ': no password in the log');
}

# a lost connection is made anew, with the session it had

for (1, 2) {
    $open->command(qw(CLIENT KILL TYPE normal SKIPME yes));
    works('connected again', $node{ca});
}

# by the word of a server of OpenSSL's, which does nothing but TLS

{
    my $port = Apikey::Process::free_port();
    my $log = "$t->{dir}/s_server.log";
    my $server = Apikey::Process::spawn(name => 'openssl', log => $log,
        cmd => [ 'openssl', 's_server', '-accept', $port, '-cert', $server[0],
                 '-key', $server[1], '-www', '-state' ]);

    wait_for('openssl', sub { IO::Socket::INET->new("127.0.0.1:$port") });

    my $node = node('session', $url . "$port ca=$ca");

    # a short handshake sends no certificate
    ok(eval { wait_for('a session', sub {
        open my $f, '<', $log or return 0;
        return grep { /read finished/ && !/write certificate/ }
               split /read client hello/, do { local $/; <$f> };
    }, 20) }, 'a session is used again');

    $node->stop;
    $server->stop('KILL');
}

# the first that takes writes: a replica is none, neither is who is not there

my $primary = $t->redis(name => 'primary');
my $replica = $t->redis(name => 'replica',
    args => [ '--replicaof', '127.0.0.1', $primary->port ]);
my $gone = Apikey::Process::free_port();

my $several = node('several', join ' ', map { "redis://127.0.0.1:$_" }
    $gone, $replica->port, $primary->port);

works('the third of three', $several);

my $hits = $primary->calls->{evalsha};
mode($several);
is($primary->calls->{evalsha}, $hits + 1, 'the primary decides');

# promoted by hand: the others are looked at again

$replica->command(qw(REPLICAOF NO ONE));
$primary->command('REPLICAOF', '127.0.0.1', $replica->port);
works('another primary', $several);
$hits = $replica->calls->{evalsha};
mode($several);
is($replica->calls->{evalsha}, $hits + 1, 'the new primary decides');

$t->done;
