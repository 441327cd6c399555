# Limits as they are now, where levels stand in Redis: GET limits, usage pages,
# and what the headers say, over two nodes; and the same in a Cluster.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Apikey::Http;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;

$t->upstream;
$t->redis;

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_usage headers;
            apikey_reserve tokens=0 cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

sub limit {
    my ($name, $unit, $limit, $window, %more) = @_;

    return { name => $name, unit => $unit, limit => $limit,
             $window ? (window => $window) : (), %more };
}

sub nodes {
    my ($mode, $redis) = @_;

    return map { $t->nginx(name => "$mode-$_", server => $server,
        base => { redis => "apikey_redis $redis timeout=2s"
            . " prefix=$mode;\n    apikey_limit_mode $mode;" })->start } 1, 2;
}

sub ask {
    my ($node, $path, %opt) = @_;

    my $r = $node->admin('GET', $path, %opt);
    return json($r) if $r->{status} == 200;
    return "$r->{status} " . json($r)->{code};
}

sub used { return map { join ' ', $_->{name}, $_->{used}, $_->{remaining},
                                  $_->{percent} } @{$_[0]} }


for my $mode (qw(direct leased)) { subtest $mode => sub {
    my ($a, $b) = nodes($mode, '%%REDIS%%');

    my $key = $t->key(owner => "ada $mode", limits => [
        limit('small', 'requests', 12, '31d'),
        limit('budget', 'cost', '50.00', 'month'),
        limit('jobs', 'concurrent', 8),
        limit('all', 'requests', 40, 'total'),
        limit('other', 'requests', 9, 'day', model => 'x'),
        limit('rolls', 'requests', 20, '31d', rolling => JSON::PP::true) ],
        owner_limits => [ limit('monthly', 'requests', 400, 'month') ]);
    my $debt = $t->key(owner => "bob $mode", limits => [
        limit('seen', 'cost', '1.00', 'month', mode => 'observe') ]);
    my $idle = $t->key(limits => [ limit('month', 'requests', 9, 'month') ]);
    my $three = $t->key(limits => [ limit('hr', 'requests', 1000, '1h'),
        limit('jobs', 'concurrent', 8),
        limit('tpm', 'tokens', 200000, '1m') ]);
    my $many = $t->key(limits => [ map {
        limit("m$_", 'requests', 99_999, "${_}m") } 1 .. 50 ]);

    $t->sync($a, $b);

    my @r = map { $_->get('/set/X-Usage-Cost/20.85?weight=5&cost=22',
                          key => $key->{key}) } $a, $b;
    is_deeply([ map { $_->{status} } @r ], [ 200, 200 ], 'ten requests');
    is($_->get('/set/X-Usage-Cost/0.80?cost=0.80', key => $debt->{key})
       ->{status}, 200, 'and money') for $a, $b;

    like($_->get('/', key => $three->{key})->{headers}{ratelimit} // '',
         qr/^"hr";r=99[89];t=\d+$/, 'a request that costs no tokens')
        for $a, $b;
    is($_->get('/', key => $many->{key})->{status}, 200, 'fifty limits of one')
        for $a, $b, $a;

    # and as many of a plan, beside them in one value

    is($a->admin('PUT', 'plans/fifty', body => { limits => [ map {
        limit("p$_", 'requests', 99_999, 'total') } 1 .. 50 ] })->{status},
       $mode eq 'direct' ? 201 : 200, 'a plan of fifty');
    is($a->admin('PATCH', "api-keys/$many->{id}",
                 body => { plan => 'fifty' })->{status}, 200, 'given to it');
    $t->sync($a, $b);
    is($_->get('/', key => $many->{key})->{status}, 200, 'a hundred of one')
        for $a, $b, $a;

    # one of the nodes has settled later than the other answers

    my $have = [ 'small 10 2 83.3', 'budget 41.70 8.30 83.4', 'jobs 0 8 0',
                 'all 10 30 25', 'other 0 9 0', 'rolls 10 10 50',
                 'monthly 10 390 2.5' ];

    for my $node ($a, $b) {
        wait_for('what is settled', sub {
            join(',', used(ask($node, "limits?key=$key->{id}")->{data}))
                eq join(',', @$have) }, 20);
        pass('a key with its owner, at either node');
    }

    my @data = @{ask($a, "limits?key=$key->{id}")->{data}};
    my ($start, $end) = @{($pg->rows("SELECT p.start,
        apikey.time_text(p.\"end\")
        FROM apikey.period('UTC', 1, now()) AS p"))[0]};

    is_deeply([ map { $_->{resets_at} } @data[0 .. 3, 6] ],
              [ undef, $end, undef, undef, $end ], 'when they reset');
    cmp_ok(abs($data[0]{reset} - 10 * 31 * 7200), '<=', 120,
           'what refills is full again');
    is($data[3]{reset}, undef, 'a total never resets');

    is_deeply([ used(ask($a, "limits?key=$idle->{id}")->{data}) ],
              [ 'month 0 9 0' ], 'one that nobody has used');
    is_deeply([ used(ask($b, "limits?owner=ada%20$mode")->{data}) ],
              [ 'monthly 10 390 2.5' ], 'an owner alone');
    is_deeply([ used(ask($b, "limits?key=$debt->{id}")->{data}) ],
              [ 'seen 1.60 0.00 160' ], 'more than there is');

    # looking takes nothing

    is_deeply([ used(ask($a, "limits?key=$key->{id}")->{data}) ], $have,
              'looked at again');

    # everyone, as Redis has it: whichever node is asked

    for my $node ($a, $b) {
        is_deeply([ map { "$_->{owner} $_->{name} $_->{percent}" }
                    @{ask($node, 'limits?min_percent=80')->{data}} ],
                  [ "bob $mode seen 160", "ada $mode budget 83.4",
                    "ada $mode small 83.3" ],
                  'everyone from 80 percent on, highest first');
    }

    is_deeply([ map { "$_->{owner} $_->{name}" } @{ask($a, 'limits')->{data}} ],
              [ "bob $mode seen" ], 'who has used all');

    my @seen;
    my $cursor = '';

    for my $page (1 .. 5) {
        my $r = ask($b, "limits?min_percent=1&limit=2$cursor");
        push @seen, map { $_->{name} } @{$r->{data}};
        last if !$r->{has_more};
        $cursor = "&cursor=$r->{next_cursor}";
    }

    is("@seen", 'seen budget small rolls all monthly', 'in pages');

    # who leaves meanwhile is let go

    for my $path ('limits?min_percent=1', "limits?key=$key->{id}") {
        for (1 .. 10) {
            my $c = $a->conn;
            $c->send(Apikey::Http::build('GET', "/api/v1/$path",
                headers => [ Authorization => 'Bearer ' . $t->token ]));
            $c->abort;
        }
    }

    is_deeply([ used(ask($a, "limits?key=$key->{id}")->{data}) ], $have,
              'others are answered');

    # usage pages

    my $page = ask($a, "api-keys/$key->{id}/usage");

    is_deeply([ used($page->{limits}) ], $have, 'on a usage page');
    is_deeply([ sort keys %{$page->{limits}[0]} ],
              [ qw(level limit name percent remaining reset resets_at unit
                   used window) ], 'its members');
    is_deeply([ used(ask($b, 'usage/summary', as => $key->{key})->{limits}) ],
              $have, 'the key sees the same of itself');
    is_deeply([ used(ask($a, "usage/summary?owner=ada%20$mode")->{limits}) ],
              [ 'monthly 10 390 2.5' ], 'of an owner');

    # Redis lost all: what usage tells is told

    wait_for('its usage', sub { ($pg->value("SELECT cost FROM apikey.key_usage
        WHERE key_id = '$key->{id}'") // 0) == 41_700_000_000 });

    $t->redis->command('FLUSHALL');

    my @known = grep { /^(budget|all|other|monthly)/ } @$have;

    is_deeply([ grep { /^(budget|all|other|monthly)/ }
                used(ask($a, "limits?key=$key->{id}")->{data}) ], \@known,
              'quotas after a loss');

    # or is down

    $t->redis->stop;

    is(ask($a, "limits?key=$key->{id}"), '503 unavailable', 'Redis is down');
    is(ask($a, 'limits'), '503 unavailable', 'for everyone');
    is_deeply([ used(ask($_, "api-keys/$key->{id}/usage")->{limits}) ],
              \@known, 'a usage page has what usage tells') for $a, $b;
    is_deeply([ map { $_->{resets_at} }
                @{ask($a, "api-keys/$key->{id}/usage")->{limits}}[0, 3] ],
              [ $end, $end ], 'and when it resets');
    is_deeply([ used(ask($a, 'usage/summary', as => $key->{key})->{limits}) ],
              \@known, 'also what its owner has used');

    $t->redis->start;
    $_->stop for $a, $b;
} }


# Postgres answers, but has not got all that was used: who knows of it waits
# until it has, and so does who has never seen that key, for Redis has lost
# all.  A key made since has lost nothing.

for my $who (0, 1) { for my $mode (qw(direct leased)) {
my $first = $who ? 'by another node' : 'by the same';
subtest "$mode: lost before it is shipped, asked for $first" => sub {
    my ($n, $other) = nodes($mode, '%%REDIS%%');
    my $key = $t->key(limits => [ limit('all', 'requests', 12, 'total') ]);
    my $all = sub { map { $_->{status} } $n->parallel(map { {
        uri => '/?cost=0', key => $key->{key} } } 1 .. $_[0]) };

    $t->sync($n, $other);

    my $hits = $t->upstream->hits;

    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xqo',
        '/dev/null', $pg->conninfo(user => 'postgres') or die "psql: $!\n";
    $psql->autoflush;
    print $psql "BEGIN; LOCK TABLE apikey.usage_stream IN EXCLUSIVE MODE;\n";
    wait_for('the lock', sub {
        $pg->value("SELECT count(*) FROM pg_locks WHERE granted
            AND mode = 'ExclusiveLock'
            AND relation = 'apikey.usage_stream'::regclass") });

    is(join(' ', $all->(12)), join(' ', (200) x 12), 'it has as many');
    $t->redis->command('FLUSHALL');
    ($n, $other) = ($other, $n) if $who;
    is(join(' ', $all->(4)), join(' ', (503) x 4), 'nobody knows');

    wait_for('who finds it empty', sub {
        ($t->redis->command('GET', "$mode:since") // '') =~ / L\d+$/ });

    my $new = $t->key(limits => [ limit('all', 'requests', 1, 'total') ]);

    $t->sync($n);
    is($n->get('/?cost=0', key => $new->{key})->{status}, 200, 'of a new one');

    print $psql "COMMIT;\n";
    close $psql;

    wait_for('an answer', sub { ($all->(1))[0] != 503 }, 30);
    is(join(' ', $all->(2)), '402 402', 'nothing is granted anew');
    is($t->upstream->hits, $hits + 13, 'to nobody');

    $_->stop for $n, $other;
} } }


# A node asks before its connection has noticed the loss, and what it makes is
# older than what Redis then says: the later of the two is waited for.

subtest 'asked for at once' => sub {
    my ($n, $other) = nodes('direct', '%%REDIS%%');

    $other->stop;

    my $key = $t->key(limits => [
        limit('second', 'requests', 1000, '1s'),
        limit('month', 'requests', 12, 'month') ]);
    my $one = sub { $n->get('/?cost=0', key => $key->{key})->{status} };

    $t->sync($n);
    is($one->(), 200, 'before');

    # leases of a second: one ends between the loss and its being noticed

    for my $round (1, 2) {
        wait_for('the end of a second', sub {
            my $part = time - int(time);
            return $part > 0.85 && $part < 0.95;
        });

        $t->redis->command('FLUSHALL');
        is($one->(), 503, 'nobody knows');

        wait_for('an answer', sub { $one->() != 503 }, 15);
        pass('somebody does');
    }

    $n->stop;
};


# Redis starts again, with all it had: what runs meanwhile was paid, and
# Postgres does not know of it before it has ended.

subtest 'what runs over a start of Redis' => sub {
    my $kept = $t->redis(name => 'kept', aof => 1);
    my (%node, %key, %stream);

    for my $mode (qw(direct leased)) {
        ($node{$mode}, my $other) = nodes($mode, 'redis://127.0.0.1:'
                                                 . $kept->port);
        $other->stop;
        $key{$mode} = $t->key(limits => [
            limit('month', 'requests', 10, 'month'),
            limit('budget', 'cost', '1.00', 'month') ]);
    }

    $t->sync(values %node);

    for my $mode (sort keys %node) {
        for (1 .. 6) {
            my $c = $node{$mode}->conn;
            $c->send(Apikey::Http::build('GET', '/stream/900/100?cost=0.10',
                                         key => $key{$mode}{key}));
            $c->need('a chunk', sub { $c->{buffer} =~ /chunk/ }, time + 20);
            push @{$stream{$mode}}, $c;
        }
    }

    $kept->stop;
    $kept->start;

    for my $mode (sort keys %node) {
        my ($hits, $status) = (6);

        wait_for('an answer', sub {
            $status = $node{$mode}->get('/?cost=0.10&weight=1',
                                        key => $key{$mode}{key})->{status};
            $hits += $status == 200;
            return $status != 503 && $status != 200;
        }, 60);
        is($hits, 10, "$mode: as many as there may be");
        like($status, qr/^4/, 'and then none');

        $_->close for @{$stream{$mode}};
    }

    $_->stop for values %node;
};


subtest 'a Cluster' => sub {
    my $cluster = $t->cluster(name => 'c', n => 3);
    my ($a, $b) = nodes('direct', 'redis://127.0.0.1:'
                        . ($cluster->nodes)[0]->port . ' cluster');

    my @keys = $t->keys(40, limits => [
        limit('small', 'requests', 4, '31d') ]);

    $t->sync($a, $b);
    is($a->get('/?weight=3', key => $_->{key})->{status}, 200, 'three of four')
        for @keys;

    my %got = map { $_->{key} => $_->{used} }
              @{ask($b, 'limits?min_percent=75&limit=100')->{data}};

    is_deeply(\%got, { map { $_->{id} => 3 } @keys },
              'all of all primaries');
    $_->stop for $a, $b;
};

$t->done;
