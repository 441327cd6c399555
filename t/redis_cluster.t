# Redis Cluster: one map a worker, found from any node; slots that move, under
# load and with nothing admitted twice; nodes that die; nodes that lie.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $cluster = $t->cluster(name => 'c', n => 3, replicas => 1, spare => 1);
my @nodes = $cluster->nodes;
my $spare = $nodes[6];
my $seeds = join ' ', map { 'redis://127.0.0.1:' . $_ }
            Apikey::Process::free_port(), $nodes[4]->port, $nodes[0]->port;

sub node {
    my ($name, $redis, %opt) = @_;

    return $t->nginx(name => $name, server => <<'EOT', %opt,
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        base => { redis => "apikey_redis $redis;\n"
                           . "apikey_limit_mode direct;\n"
                           . '    apikey_redis_down deny;' })->start;
}

my $a = node('a', "$seeds cluster timeout=2s", workers => 2);
my $b = node('b', "$seeds cluster timeout=2s prefix=apikey");

# a little more than is asked for, and always some again

my %limit = (name => 'rate', limit => 20, window => '1s', burst => 100);

# a key of each primary, and many that lie anywhere

my @keys = map { $t->key(limits => [ \%limit ]) } 1 .. 30;

sub slot {
    my ($key) = @_;

    # asked once: nodes die here
    return $key->{slot} //= $nodes[0]->command('CLUSTER', 'KEYSLOT',
                                               $key->{root} // $key->{id});
}

sub owner { return $cluster->owner(slot($_[0])) }

my %of;

push @{$of{owner($_)->port}}, $_ for @keys;
is(scalar keys %of, 3, 'keys of all primaries');

# two accounts a request: of the key and of its owner

my $both = $t->key(name => 'both', owner => 'ada',
                   limits => [ \%limit ],
                   owner_limits => [ { name => 'all', limit => 1000,
                                       window => '1s' } ]);
$both->{root} = $t->{pg}->value(
    "SELECT id FROM apikey.owner WHERE external = 'ada'");

$t->sync;

sub ask {
    my ($node, $key, $query) = @_;

    my $r = $node->get('/' . ($query // '?weight=0'), key => $key->{key});
    return "$r->{status} $r->{headers}{'x-mode'}";
}

sub works {
    my ($what, @keys) = @_;

    for my $node ($a, $b) {
        ok(eval { wait_for($what, sub {
            !grep { ask($node, $_) ne '200 direct' } @keys }, 20) },
           "$what: " . $node->name) or diag($node->tail(10));
    }
}

works('every key has its primary', @keys, $both);
is($a->metric('apikey_redis_up'), 1, 'redis_up');

{
    my @n = map { $_->calls->{evalsha} // 0 } @nodes;
    is(scalar(grep { $_ } @n[0 .. 2]), 3, 'each primary is asked');
    is(scalar(grep { $_ } @n[3 .. 6]), 0, 'and nobody else');
}


# Every answer counts: what the clients got, not what Redis believes.  Returns
# how many were turned away without a decision.

sub under_load {
    my ($what, $key, $code) = @_;

    my $load = Apikey::Load->new(dir => $t->dir, nodes => [ $a, $b ],
                                 key => $key->{key}, clients => 4,
                                 pause => 0.01);
    push @{$t->{loads}}, $load;

    my $count = sub {
        my ($status) = @_;
        return scalar grep { $_->{status} == $status } $load->results;
    };

    wait_for('the burst', sub { $count->(200) >= 110 });
    $code->();

    my $n = $count->(200);
    ok(eval { wait_for('more', sub { $count->(200) >= $n + 40 }, 20) },
       "$what: the limit is given");
    $load->stop;

    cmp_ok($load->excess(100, 20), '<=', 0, "$what: and no more");
    return $count->(503);
}

sub maps {
    my $n = 0;

    $n += $_->calls->{'cluster|nodes'} // 0 for grep { $_->awake } @nodes;
    return $n;
}

# slots move under load, there and back, and to a node nobody has heard of

for my $case ([ 'one account', $keys[0] ], [ 'two accounts', $both ]) {
    my ($what, $key) = @$case;
    my $slot = slot($key);
    my $home = $cluster->owner($slot);
    my ($next) = grep { $_ != $home } @nodes[0 .. 2];
    my $n = 0;
    my $maps = maps();

    my $refused = under_load("resharding, $what", $key, sub {
        for my $to ($next, $home, $spare, $next, $home) {
            $cluster->migrate($slot, $to);
            $n++;
        }
    });

    is($n, 5, "resharding, $what: five times");
    is($refused, 0, "resharding, $what: nobody was turned away");

    # hundreds of requests were, and three workers, and five moves
    cmp_ok(maps() - $maps, '<=', 60, "resharding, $what: no herd for maps");
}

# half of a request's keys have moved: it waits, and is decided once

{
    my $slot = slot($both);
    my $home = $cluster->owner($slot);
    my ($to) = grep { $_ != $home } @nodes[0 .. 2];
    my $conn;

    my $fresh = $t->key(name => 'fresh', owner => 'ada',
                        limits => [ \%limit ]);
    $t->sync;
    ask($a, $fresh);

    $cluster->migrate($slot, $to, sub {
        my $keys = $home->command('CLUSTER', 'GETKEYSINSLOT', $slot, 10);
        my ($one) = grep { /:k:$fresh->{id}:/ } @$keys;

        $home->command('MIGRATE', '127.0.0.1', $to->port, '', 0, 5000,
                       'KEYS', $one) if $one;

        $conn = $a->conn;
        $conn->send(Apikey::Http::build('GET', '/', key => $fresh->{key}));
        wait_for('it waits', sub { $a->metric('apikey_waiting') >= 1 });
    });

    my $r = $conn->response;
    is($r->{status}, 200, 'two keys in two places: it waits');
    $cluster->migrate($slot, $home);
}

# scripts and values lost on one node

$nodes[0]->command('SCRIPT', 'FLUSH');
works('the script was flushed', @keys);

# a primary dies: its keys wait for the replica, all others go on

my $victim = owner($keys[1]);
my ($other) = grep { owner($_) != $victim } @keys;

$cluster->wait_known;

my $refused = under_load('the primary is killed', $keys[1], sub {
    $victim->stop('kill');

    # whoever asks for a key of the dead one is refused at once; first, for
    # that ends with the replica's promotion, however slow all else is
    wait_for('no hope', sub { ask($a, $keys[1]) eq '503 down_deny' });
    is($a->metric('apikey_redis_up'), 0, 'redis_up 0');

    my %n;
    $n{ask($_ % 2 ? $a : $b, $other)}++ for 1 .. 100;
    is_deeply(\%n, { '200 direct' => 100 }, 'the others go on');

    wait_for('the replica is promoted', sub {
        my $owner = owner($keys[1]);
        return $owner && $owner != $victim;
    }, 30);
    works('the replica is in use', $keys[1], $other);
});

wait_for('redis_up 1', sub { $a->metric('apikey_redis_up') == 1 });
pass('redis_up 1');

$victim->start;
wait_for('it is back as a replica', sub {
    $victim->command('INFO', 'replication') =~ /role:slave/ }, 30);
works('the dead one is back', @keys);

# a node that hangs is no reason to wait for the others

my $hung = owner($keys[2]);
($other) = grep { owner($_) != $hung } @keys;

$hung->freeze;
is(ask($a, $other), '200 direct', 'one hangs, another answers');
wait_for('its replica', sub {
    my $slots = eval { $cluster->owner(slot($keys[2])) };
    return ask($a, $keys[2]) eq '200 direct';
}, 30);
pass('its replica is in use');
$hung->thaw;
works('it goes on', @keys);

# who lies about where keys are is not followed for ever

my $liar = $t->peer(redis => sub {
    my ($state, @command) = @_;

    my $identity = Apikey::Peer::identity(@command);
    return $identity if $identity;
    return "+OK\r\n" if $command[0] =~ /^(PING|SCRIPT|ASKING)$/;

    if ($command[0] eq 'CLUSTER') {
        my $nodes = 'f' x 40 . " :$state->{port}"
            . '@1 myself,master - 0 0 1 connected 0-16383' . "\n";
        return '$' . length($nodes) . "\r\n$nodes\r\n";
    }

    return "-MOVED 1 :$state->{port}\r\n";
});

my $lied = node('lied', 'redis://127.0.0.1:' . $liar->port
                        . ' cluster timeout=500ms');
$t->sync($lied);

is(ask($lied, $keys[0]), '503 down_deny', 'MOVED for ever');
cmp_ok(scalar(grep { $_->[0] eq 'EVALSHA' } $liar->commands), '<=', 12,
       'is followed a few times');

$t->done;
