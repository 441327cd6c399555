
# Usage: what stands in Postgres after requests, how soon, and through stops,
# reloads and a Postgres that is away or refuses.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

my $key = $t->key(name => 'one', owner => 'user_1', customer => 'c_1',
    limits => [{ name => 'hourly', limit => 1000, window => '1h' }]);
my $few = $t->key(name => 'few',
    limits => [{ name => 'two', limit => 2, window => '1h' }]);

my $n = $t->nginx(workers => 2, base => { redis => undef })->start;
$t->sync;


sub used { return $pg->value('SELECT requests FROM apikey.key_usage
                              WHERE key_id = ' . $pg->quote($_[0])) // 0 }


subtest 'one request' => sub {
    my $before = $pg->value('SELECT clock_timestamp()');
    my $r = $n->get('/delay/20?a=b', key => $key->{key});
    my $id = $r->{headers}{'x-request-id'};

    is($r->{status}, 200, 'passes');

    ok($t->wait_events(1, "event = '$id'"),
       'is in Postgres, and no other request had to come');
    is(used($key->{id}), 1, 'usage_count');
    is($pg->value("SELECT last_used_at BETWEEN '$before' AND now()
                   FROM apikey.key_usage
                   WHERE key_id = '$key->{id}'"), 't', 'last_used_at');
    ok($pg->value("SELECT last_used_at IS NOT NULL FROM apikey.secret_usage
                   WHERE secret_id = '$key->{secret}'"), 'of the secret too');

    my ($line) = $pg->value("SELECT concat_ws('|', owner, customer, client,
        service, endpoint, method, status_code, outcome, verdict, mode,
        weight, tokens_input, cost, usage_source, coalesce(aborted, '-'),
        bytes_in > 0, bytes_out > 0, duration_us > 0, upstream_us > 0)
        FROM apikey.usage_event WHERE event = '$id'");
    like($line, qr{^user_1\|c_1\|127\.0\.0\.0/24\|[^|]*\|/\|GET\|200\|success
                   \|ok\|local\|1\|0\|0\|none\|-\|t\|t\|t\|t$}x, 'the record');

    is($pg->value("SELECT concat_ws('|', owner, customer, endpoint, outcome,
        status_code, verdict, node, requests, refused, errors, tokens, cost,
        unpriced) FROM apikey.usage_hourly"),
       'user_1|c_1|/|success|200|ok|node|1|0|0|0|0.000000000|0', 'the hour');
};


subtest 'threads end with their work' => sub {
    $n->get('/', key => $key->{key}) for 1 .. 20;

    wait_for('workers of one thread each', sub {
        return 2 == grep { 1 == (() = glob "/proc/$_/task/*") } $n->workers;
    });
    pass('no worker keeps one');
};


subtest 'refusals are sums, and a few of them details' => sub {
    my $from = time;
    my $ok = grep { $_->{status} == 200 }
             map { $n->get('/', key => $few->{key}) } 1 .. 60;
    my $seconds = time - $from + 2;     # that were begun, by any clock

    is($ok, 2, 'two pass');

    wait_for('58 refused', sub {
        ($pg->value("SELECT refused FROM apikey.key_usage
                     WHERE key_id = '$few->{id}'") // 0) == 58;
    });

    is(used($few->{id}), 2, 'a refusal is no use');
    is($pg->value("SELECT sum(refused) FROM apikey.usage_daily
                   WHERE limit_name = 'two' AND outcome = 'refused'
                   AND verdict = 'rate_limited'"), 58, 'the day');

    my $details = $pg->value("SELECT count(*) FROM apikey.usage_event
                              WHERE outcome = 'refused'");
    cmp_ok($details, '>=', 1, 'details');
    cmp_ok($details, '<=', 10 * $seconds, 'at most ten a second');

    $n->get('/', key => 'sk_unknown_unknown') for 1 .. 20;

    wait_for('unknown keys', sub {
        ($pg->value("SELECT sum(refused) FROM apikey.usage_hourly
                     WHERE key IS NULL AND verdict = 'invalid_key'") // 0)
            == 20;
    });
};


subtest 'as_of' => sub {
    my $id = $n->get('/', key => $key->{key})->{headers}{'x-request-id'};
    my $now = $pg->value('SELECT clock_timestamp()');

    wait_for('as_of after the request', sub {
        $pg->value("SELECT apikey.usage_as_of() > '$now'") eq 't';
    });
    is($t->events("event = '$id'") + 0, 1, 'then it is in');

    # a batch that waits, longer than a node is waited for: what is known of
    # it is its heartbeat alone

    open my $lock, '|-', $pg->bindir . '/psql', '-Xqo', '/dev/null', '-d',
        $pg->conninfo(user => 'postgres') or die "psql: $!\n";
    print $lock "BEGIN; LOCK apikey.usage_quarter IN SHARE MODE;\n";
    $lock->flush;
    wait_for('a lock', sub { $pg->value(
        q{SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock'
          AND relation = 'apikey.usage_quarter'::regclass}) });

    $id = $n->get('/', key => $key->{key})->{headers}{'x-request-id'};
    $now = $pg->value('SELECT clock_timestamp()');
    wait_for('a batch that waits', sub { $pg->value(
        q{SELECT count(*) FROM pg_stat_activity
          WHERE wait_event_type = 'Lock'}) });
    $pg->run("UPDATE apikey.usage_node SET seen_at = now() - interval '1 h'");
    wait_for('a heartbeat', sub { $pg->value(
        "SELECT seen_at > '$now'::timestamptz + interval '1 s'
         FROM apikey.node") eq 't' });

    is($pg->value("SELECT apikey.usage_as_of() < '$now'"), 't',
       'a node that is alive is waited for');
    is($pg->value(qq{BEGIN; UPDATE apikey.node SET seen_at = 'epoch';
        SELECT count(*) FROM apikey.limits_known((SELECT json_build_object(
            'node', node, 'born', 0, 'after', apikey.micros('$now'), 'limits',
            '[{"kind": "credits"}]'::json) FROM apikey.usage_node)::text);
        ROLLBACK}), 0, 'also where only itself knows that it is');

    close $lock or die "psql: $?\n";
    wait_for('as_of goes on', sub {
        $pg->value("SELECT apikey.usage_as_of() > '$now'") eq 't';
    });
    is($t->events("event = '$id'") + 0, 1, 'until it is in');
};


subtest 'a reload and a stop lose nothing' => sub {
    my $load = $n->load(key => $key->{key}, clients => 4);

    $load->wait_results(200);
    $n->reload;
    $load->wait_results(500);
    $n->wait_old;
    $load->stop;
    $n->stop;

    my @want = sort { $a cmp $b } $up->ids;
    my @have = sort { $a cmp $b } $t->events("outcome <> 'refused'");

    cmp_ok(@want, '>', 500, 'many requests');
    is_deeply(\@have, \@want, 'all of them, once');
};


subtest 'Postgres is away' => sub {
    $n->start;
    $pg->stop('kill');

    my @ids = map { $n->get('/', key => $key->{key})
                        ->{headers}{'x-request-id'} } 1 .. 50;

    $n->stop('KILL');
    $n->start(wait => 0);

    push @ids, map { $n->get('/', key => $key->{key})
                         ->{headers}{'x-request-id'} } 1 .. 50;

    $pg->start;

    my $in = join ',', map { "'$_'" } @ids;
    $t->wait_events(100, "event IN ($in)");
    is($t->events("event IN ($in)") + 0, 100, 'it gets all of it, once');
};


subtest 'a record that Postgres refuses' => sub {
    $pg->run(qq{ALTER TABLE apikey.usage_event ADD CONSTRAINT
              "it's \xf6dd" CHECK (method <> 'DELETE') NOT VALID});

    my @r = map { $n->request($_ % 7 ? 'GET' : 'DELETE', '/',
                              key => $key->{key}) } 1 .. 30;
    my $in = join ',', map { "'$_->{headers}{'x-request-id'}'" } @r;

    $t->wait_events(26, "event IN ($in)");
    wait_for('quarantine', sub {
        $pg->value('SELECT count(*) FROM apikey.usage_quarantine') == 4;
    });
    is($t->events("event IN ($in)") + 0, 26, 'the others pass it');
    is($pg->value('SELECT DISTINCT state FROM apikey.usage_quarantine'),
       '23514', 'the SQLSTATE is kept');
    like($pg->value('SELECT DISTINCT reason FROM apikey.usage_quarantine'),
         qr/^new row for relation "usage_event_\w+" violates check constraint "it's \?\?dd"$/,
         'and the reason, in ASCII');

    # the first row of a long batch: all behind it pass

    my $long = $t->key;
    my $in_key = "key_id = '$long->{id}'";

    $t->sync;
    $pg->stop;

    for my $round (1 .. 3) {
        my $conn = $n->conn;

        $conn->request($round * 1000 + $_ > 1000 ? 'GET' : 'DELETE', '/',
                       key => $long->{key}) for 0 .. 800;
    }

    $pg->start;
    $t->wait_events(3 * 801 - 1, $in_key);
    is($pg->value('SELECT count(*) FROM apikey.usage_quarantine'), 5,
       'one of a long batch');
};


$t->allow(qr/Postgres refused a usage record/);
$t->done;
