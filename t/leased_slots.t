
# concurrent over several nodes: a slot belongs to a request that runs,
# whichever node it runs on, and is free when it ends, however it ends.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->redis;
$t->allow(qr/exited on signal 9/);

my $server = <<'EOT';
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Limit-Name $apikey_limit_name always;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT

for my $mode (qw(leased direct)) {
    my ($a, $b) = map { $t->nginx(name => "$mode-$_", workers => 2,
        server => $server,
        base => { redis => "apikey_redis %%REDIS%% timeout=2s;\n"
                           . "    apikey_limit_mode $mode;" })->start }
        qw(a b);

    my $key = $t->key(limits => [
        { name => 'jobs', unit => 'concurrent', limit => 4 },
        { name => 'hourly', limit => 100000, window => '1h' } ]);

    $t->sync($a, $b);

    my $run = sub {
        my ($node) = @_;

        my $conn = $node->conn;
        my $hits = $t->upstream->hits;

        $conn->send(Apikey::Http::build('GET', '/hang', key => $key->{key}));
        eval { wait_for('it runs', sub { $t->upstream->hits > $hits }, 1) }
            or return;

        return $conn;
    };

    my $status = sub { $_[0]->get('/', key => $key->{key})->{status} };

    # a node may hold what another one wants, until it gives it back

    my $more = sub {
        my ($node) = @_;
        my $conn;

        wait_for('a slot', sub { $conn = $run->($node) }, 20);
        return $conn;
    };

    my @conns = map { $more->($_) } $a, $b, $a, $b;

    my $r = $a->get('/', key => $key->{key});
    is($r->{status}, 429, "$mode: a fifth one, here");
    is($r->{headers}{'x-limit-name'}, 'jobs', "$mode: is told why");
    like($r->{headers}{'retry-after'}, qr/^[1-5]$/, "$mode: and to come again");
    is(json($r)->{code}, 'rate_limited', "$mode: rate_limited");
    is($status->($b), 429, "$mode: a fifth one, there");

    # slots of leases that nobody renews would come back by themselves

    my $calls = $a->metric('apikey_lease_calls_total');
    wait_for('renewals', sub {
        $a->metric('apikey_lease_calls_total') > $calls + 4 }, 20);
    is($status->($a), 429, "$mode: what runs long keeps its slot");

    $conns[0]->abort;
    ok(wait_for('another', sub { $status->($a) == 200 }, 20),
       "$mode: one has left, another comes");
    ok(wait_for('another', sub { $status->($b) == 200 }, 20),
       "$mode: or there");

    kill 'KILL', $b->workers;
    push @conns, map { $more->($a) } 1 .. 3;
    pass("$mode: who ran on a worker that was killed runs no more");
    is($status->($a), 429, "$mode: and no more than before may run");

    $_->abort for @conns;

    $_->stop for $a, $b;
}


# One slot, and a client that goes from node to node.  The answer comes before
# the end of its request, of which Redis is told at once.

for my $mode (qw(leased direct)) {
    my ($a, $b) = map { $t->nginx(name => "one-$mode-$_", server => $server,
        base => { redis => "apikey_redis %%REDIS%% timeout=10s;\n"
                           . "    apikey_limit_mode $mode;" })->start }
        qw(a b);

    my $one = $t->key(limits => [
        { name => 'one', unit => 'concurrent', limit => 1 } ]);
    my $free = $t->key;

    $t->sync($a, $b);

    my $status = sub { $_[0]->get('/', key => $one->{key})->{status} };

    # The worker has no time for a second look: it does one thing after the
    # other, and so does Redis.  Twice, for what follows from an answer.

    my $told = sub {
        for (1 .. 2) {
            $_[0]->get('/', key => $free->{key});
            $t->redis->command('PING');
        }
    };

    my $refused = 0;

    for my $i (1 .. 30) {
        my $node = ($a, $b)[$i % 2];

        $refused += $status->($node) != 200;
        $told->($node);
    }

    is($refused, 0, "$mode: the slot is where it is wanted");

    my $gate = sub {
        my $conn = $a->conn;
        my $hits = $t->upstream->hits;

        $conn->send(Apikey::Http::build('GET', '/gate', key => $one->{key}));
        $t->upstream->wait_hits($hits + 1);

        return $conn;
    };

    # who is refused tells his node that nothing is left, for a while

    my $conn = $gate->();

    is($status->($a), 429, "$mode: one at a time");
    $t->upstream->let_go;
    is($conn->response->{status}, 200, "$mode: it ends");
    $told->($a);
    is($status->($a), 200, "$mode: and is free where others were refused");
    $told->($a);

    # a call is on its way that the slot was too late for

    $conn = $gate->();

    my $late = $a->conn;

    $t->redis->freeze;
    $late->send(Apikey::Http::build('GET', '/', key => $one->{key}));
    wait_for('it waits', sub { ($a->metric('apikey_waiting') // 0) > 0 });
    $late->abort;
    wait_for('nobody waits', sub { $a->metric('apikey_waiting') == 0 });

    $t->upstream->let_go;
    is($conn->response->{status}, 200, "$mode: it ends meanwhile");
    $a->get('/', key => $free->{key});
    $t->redis->thaw;
    $told->($a);
    is($status->($b), 200, "$mode: and is free when that is answered");

    $_->stop for $a, $b;
}


# Redis answers and the clients leave within one turn of the event loop: they
# were admitted, and never ran.

my $n = $t->nginx(name => 'gone', server => $server,
                  base => { redis => 'apikey_redis %%REDIS%% timeout=10s;' })
    ->start;

my %jobs = map {
    $_ => $t->key(limits => [ { name => 'jobs', unit => 'concurrent',
                                limit => $_ } ])
} 4, 100;

$t->sync($n);

for my $limit (sort keys %jobs) {
    my $key = $jobs{$limit}{key};

    is($n->get('/', key => $key)->{status}, 200, "$limit at a time: Redis");
    $t->redis->freeze;

    my @conns = map { $n->conn } 1 .. $limit;

    $_->send(Apikey::Http::build('GET', '/hang', key => $key)) for @conns;
    wait_for('they wait', sub { ($n->metric('apikey_waiting') // 0) > 0 });

    my ($worker) = $n->workers;

    kill 'STOP', $worker;
    $t->redis->thaw;
    $t->redis->command('PING') for 1 .. 3;
    $_->abort for @conns;
    kill 'CONT', $worker;

    wait_for('nobody waits', sub { $n->metric('apikey_waiting') == 0 });

    @conns = all_run($key, $limit, 'who left before running keeps no slot');

    # No call is on its way that would be lost: one has just been answered, and
    # the next one is half a lease away.

    my $calls = $n->metric('apikey_lease_calls_total');

    wait_for('a renewal', sub {
        $n->metric('apikey_lease_calls_total') > $calls });
    $t->redis->command('PING');
    $n->metric('apikey_waiting');

    # not killed: it ends in order, its requests do not

    kill 'TERM', $worker;
    wait_for('another worker', sub { grep { $_ != $worker } $n->workers });
    $_->close for @conns;

    @conns = all_run($key, $limit, 'nor who ran on a worker that has gone');
    $_->abort for @conns;
}


# A worker goes whose call is on its way: nobody waits for that.

my %asked = map {
    $_ => $t->key(limits => [ { name => 'jobs', unit => 'concurrent',
                                limit => 2 } ])->{key}
} qw(TERM KILL);

$t->sync($n);

for my $signal (sort keys %asked) {
    my ($worker) = $n->workers;
    my $conn = $n->conn;

    $t->redis->freeze;
    $conn->send(Apikey::Http::build('GET', '/', key => $asked{$signal}));
    wait_for('it waits', sub { ($n->metric('apikey_waiting') // 0) > 0 });

    kill $signal, $worker;
    wait_for('another worker', sub { grep { $_ != $worker } $n->workers });
    $t->redis->thaw;

    my $r = $n->get('/', key => $asked{$signal});
    is("$r->{status} $r->{headers}{'x-mode'}", '200 leased',
       "$signal: a call whose worker is gone holds up nobody");
}


sub all_run {
    my ($key, $limit, $name) = @_;

    my $hits = $t->upstream->hits;
    my @conns = map { $n->conn } 1 .. $limit;

    $_->send(Apikey::Http::build('GET', '/hang', key => $key)) for @conns;

    ok(eval { wait_for('they run', sub {
           $t->upstream->hits == $hits + $limit }) },
       "$limit at a time: $name");

    return @conns;
}

$t->done;
