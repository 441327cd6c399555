# A Redis Cluster with TLS, a user of few rights, and nodes that are told by
# name.

use strict;
use warnings;

use Test::More;
use Apikey::Certs;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $certs = Apikey::Certs->new($t->dir);
my $ca = $certs->ca('ours');
my @cert = $certs->cert('ours', 'node', 'DNS:localhost');

my $cluster = $t->cluster(name => 'c', n => 3, redis => {
    tls => [ $ca, @cert ], clients => 0,

    # as docs/redis.md has it
    users => [ 'user gate on >s3cret ~apikey:* resetchannels -@all +ping +info'
               . ' +time +get +set +del +eval +evalsha +script|load'
               . ' +cluster|nodes +cluster|myid +asking' ],
    args => [ '--cluster-announce-hostname', 'localhost',
              '--cluster-preferred-endpoint-type', 'hostname' ] });
my ($first) = $cluster->nodes;

my $n = $t->nginx(name => 'n', workers => 2, server => <<'EOT',
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
    base => { redis => 'apikey_redis rediss://gate:s3cret@localhost:'
                       . $first->tls_port . " cluster ca=$ca timeout=2s;\n"
                       . '    apikey_limit_mode direct;'
                       . ' apikey_redis_down deny;' })->start;

my @keys = map { $t->key(limits => [ { name => 'rate', limit => 1000,
                                       window => '1s' } ]) } 1 .. 20;
$t->sync;

sub works {
    my ($what) = @_;

    ok(eval { wait_for($what, sub {
        !grep { my $r = $n->get('/', key => $_->{key});
                "$r->{status} $r->{headers}{'x-mode'}" ne '200 direct' } @keys
    }, 20) }, $what) or diag($n->tail(10));
}

works('every key has its primary');

my $slot = $first->command('CLUSTER', 'KEYSLOT', $keys[0]{id});
my $home = $cluster->owner($slot);
my ($other) = grep { $_ != $home } $cluster->nodes;

$cluster->migrate($slot, $other, sub { works('in the middle of a move') });
works('a slot has moved');

unlike($n->log_text, qr/s3cret/, 'no password in the log');
unlike($n->log_text, qr/NOPERM|no connection/, 'and no trouble');

$t->done;
