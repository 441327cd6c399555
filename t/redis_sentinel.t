# Redis behind Sentinels: the primary is found by its name, followed when it
# moves, under load and with nothing admitted twice; ACLs and TLS everywhere.

use strict;
use warnings;

use Test::More;
use Apikey::Certs;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

# as docs/redis.md has it: who was cut off takes no writes

my $group = $t->sentinels(name => 'main', n => 3, redis => {
    args => [ '--min-replicas-to-write', 1, '--min-replicas-max-lag', 1 ] });
my @sentinels = map { 'redis://127.0.0.1:' . $_->port } $group->sentinel_list;
my $nobody = 'redis://127.0.0.1:' . Apikey::Process::free_port();

sub node {
    my ($name, $redis, %opt) = @_;

    my $mode = delete $opt{mode} // 'direct';

    return $t->nginx(name => $name, server => <<'EOT', %opt,
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        base => { redis => "apikey_redis $redis timeout=1s;\n"
                           . "apikey_limit_mode $mode;\n"
                           . '    apikey_redis_down deny;' })->start;
}

my $a = node('a', "@sentinels sentinel=main", workers => 2);
my $b = node('b', "$nobody $sentinels[1] sentinel=main");
my $other = node('other', "@sentinels sentinel=other");
my @leased = map { node($_, "@sentinels sentinel=main", mode => 'leased') }
             qw(c d);

# a little more than is asked for, and always some again

my %limit = (name => 'rate', limit => 20, window => '1s', burst => 100);
my $big = $t->key(limits => [ { name => 'monthly', limit => 1000000,
                                window => '31d' } ]);
my @keys = map { $t->key(limits => [ \%limit ]) } 0 .. 5;

$t->sync;

sub mode {
    my ($node) = @_;

    return $node->get('/', key => $big->{key})->{headers}{'x-mode'};
}

sub works {
    my ($what, @nodes) = @_;

    for my $node (@nodes) {
        ok(eval { wait_for($what, sub {
            mode($node) =~ /^(direct|leased)$/ }, 20) },
           "$what: " . $node->name) or diag($node->tail(10));
    }
}

works('the primary is found', $a, $b);

is(mode($other), 'down_deny', 'a master that no Sentinel knows');
ok($other->wait_log(qr/it does not know the master other/), 'is named');


# Every answer counts: what the clients got, not what Redis believes.

sub under_load {
    my ($what, $key, $nodes, $code) = @_;

    # a replica that has not caught up would lose what Redis acknowledged

    $group->wait_in_step;

    my $load = Apikey::Load->new(dir => $t->dir, nodes => $nodes,
                                 key => $key->{key}, clients => 4,
                                 pause => 0.01);
    push @{$t->{loads}}, $load;

    my $passed = sub {
        return scalar grep { $_->{status} == 200 } $load->results;
    };

    wait_for('the burst', sub { $passed->() >= 110 }, 30);
    $code->();
    works("$what, in use again", @$nodes);

    my $n = $passed->();
    ok(eval { wait_for('more', sub { $passed->() >= $n + 40 }, 20) },
       "$what: the limit is given again");
    $load->stop;

    cmp_ok($load->excess(100, 20), '<=', 0, "$what: and no more");
}

under_load('failover', $keys[0], [ $a, $b ], sub { $group->failover });

my $old;

under_load('the primary is killed', $keys[1], [ $a, $b ], sub {
    $old = $group->named;
    $old->stop('kill');
    $group->wait_failover($old);
});

# it comes back as a replica, which nobody takes for more

$old->start;
wait_for('a replica', sub {
    $old->command('INFO', 'replication') =~ /role:slave/ }, 20);
works('the old one is back', $a, $b);
ok(!$old->calls->{evalsha}, 'and is asked for nothing');

under_load('the primary hangs', $keys[2], [ $a, $b ], sub {
    my $primary = $group->named;

    $primary->freeze;
    $group->wait_failover($primary);
    $primary->thaw;
});

# the same with leases: what is out when the primary goes has to count

under_load('failover, leased', $keys[3], \@leased, sub { $group->failover });

under_load('the primary is killed, leased', $keys[4], \@leased, sub {
    my $primary = $group->named;

    $primary->stop('kill');
    $group->wait_failover($primary);
    $primary->start;
});

# two of three Sentinels are gone: the third one will do; then none: what is
# connected stays

$_->stop('kill') for ($group->sentinel_list)[0, 1];
$a->reload;
works('one Sentinel is left', $a);
($group->sentinel_list)[2]->stop('kill');
works('no Sentinel is left', $a);

# TLS and a user everywhere, and Sentinels that tell names

my $certs = Apikey::Certs->new($t->dir);
my $ca = $certs->ca('ours');
my @cert = $certs->cert('ours', 'redis', 'DNS:localhost');

my %redis = (tls => [ $ca, @cert ],
             users => [ 'user gate on >s3cret ~* &* +@all' ]);
my $closed = $t->sentinels(name => 'closed', n => 1, quorum => 1,
    host => 'localhost',
    redis => \%redis, auth => [ 'gate', 's3cret' ],
    sentinel => { users => [ 'user default off',
        'user test on >test ~* &* +@all',
        'user gate on >s3cret -@all +ping +sentinel|get-master-addr-by-name' ],
                  login => 'test test' });

my $url = 'localhost:' . ($closed->sentinel_list)[0]->tls_port
          . ' sentinel=closed';
my $tls = node('tls', "rediss://gate:s3cret\@$url ca=$ca");
my $wrong = node('wrong', "rediss://gate:secret\@$url ca=$ca");

$t->sync($tls, $wrong);
works('TLS and users', $tls);
is(mode($wrong), 'down_deny', 'a wrong password');
ok($wrong->wait_log(qr/it is not ready to serve: NOAUTH/), 'is refused');

$closed->failover;
works('TLS and users, after a failover', $tls);

$t->done;
