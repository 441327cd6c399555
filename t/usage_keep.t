#!/usr/bin/perl

# How long usage is kept: days of raw events made ahead and dropped after
# raw_days by the nodes' heartbeat, which holds up no ingest; raw_days 0.

use strict;
use warnings;

use Test::More;

use Apikey::Postgres;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

sub days {
    return [ $pg->column(q{SELECT day - (now() AT TIME ZONE 'UTC')::date
                           FROM apikey.usage_days() ORDER BY day}) ];
}

# as a node's heartbeat

sub beat {
    return $pg->value(q{
        BEGIN; SELECT set_config('apikey.caller', 'node', true) \gset x
        SELECT apikey.node_seen('11111111-1111-1111-1111-111111111111', 'n',
                                '1'); COMMIT;}, user => 'apikey_gateway');
}

sub event {
    my ($when, $n) = @_;

    $pg->run("INSERT INTO apikey.usage_event (time, event, node, service,
        endpoint, method, status_code, outcome, verdict, mode, bytes_in,
        bytes_out, duration_us, upstream_us)
        SELECT $when, gen_random_uuid(), gen_random_uuid(), '', '', 'GET',
            200, 'success', 'ok', 'none', 0, 0, 0, 0
        FROM generate_series(1, $n)", user => 'apikey_gateway');
}

sub drop { $pg->run('DROP TABLE apikey.usage_event_' . $pg->value(
    "SELECT to_char((now() AT TIME ZONE 'UTC')::date + $_[0], 'YYYYMMDD')")) }

sub make { $pg->run("SET ROLE apikey_owner; SELECT apikey.usage_partitions(
    (now() AT TIME ZONE 'UTC')::date + $_[0], 1)") }

sub stored { return $pg->value('SELECT count(*) FROM apikey.usage_event') }

sub in_default {
    return $pg->value('SELECT count(*) FROM apikey.usage_event_default');
}

my $noon = "date_trunc('day', now(), 'UTC') + interval '12 h'";


# ahead

is_deeply(days(), [ 0 .. 30 ], 'the first ones');
drop($_) for 0 .. 30;
event("$noon + $_ * interval '1 d'", 10) for 0, 1, 3;
is(in_default(), 30, 'events of days that have no partition');

is(beat(), 1, 'a heartbeat');
is_deeply(days(), [ 0 .. 7 ], 'makes a week ahead');
is(in_default(), 0, 'what came before stands in its day');
is(stored(), 30, 'all of it');
is($pg->value("SELECT count(*) FROM pg_class p WHERE relname ~
   '^usage_event_[0-9]{8}\$' AND pg_get_userbyid(relowner) = 'apikey_owner'"),
   8, 'the owner\'s');
event("$noon + interval '1 d'", 5);
is(in_default(), 0, 'new ones, too');
drop(5);
beat();
is_deeply(days(), [ 0 .. 7 ], 'one that is missing is made');


# behind

make($_) for -9 .. -1;
event("$noon + $_ * interval '1 d'", 1) for -9 .. -1;
event("$noon - interval '40 d'", 7);
beat();
is_deeply(days(), [ -7 .. 7 ], 'seven days are kept');
is(in_default(), 0, 'what came too late is not');
is(stored(), 42, 'nor what stood in older days');

$pg->run(q{UPDATE apikey.setting SET value = '2' WHERE name = 'raw_days'});
beat();
is_deeply(days(), [ -2 .. 7 ], 'as many as raw_days says');


# ingest waits for none of it

{
    drop(7);
    $pg->run(q{UPDATE apikey.setting SET value = '1' WHERE name = 'raw_days'});

    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xqo',
        '/dev/null', '-d', $pg->conninfo(user => 'postgres') or die $!;
    $psql->autoflush;
    print $psql "BEGIN; SET application_name = 'blocker';"
        . " SELECT count(*) FROM apikey.usage_event;\n";
    wait_for('a long report', sub {
        $pg->value(q{SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'blocker'
                     AND state = 'idle in transaction'});
    });

    is(beat(), 1, 'a heartbeat beside a long report');
    is_deeply(days(), [ -2 .. 6 ], 'leaves it for the next one');
    print $psql "COMMIT;\n";
    close $psql;
    beat();
    is_deeply(days(), [ -1 .. 7 ], 'which does it');
}

is_deeply([ map { eval { $pg->run($_, user => 'apikey_gateway'); 1 } ? $_ : () }
            'DROP TABLE apikey.usage_event_default',
            'TRUNCATE apikey.usage_event', 'DELETE FROM apikey.usage_event',
            q{SELECT apikey.usage_day_drop('apikey.usage_event_default')} ],
          [], 'the gateway drops nothing else');


# without raw events

$pg->run(q{UPDATE apikey.setting SET value = '0' WHERE name = 'raw_days'});
beat();
is(stored(), 0, 'raw_days 0: none are kept');

$t->upstream;
my $key = $t->key;
my $n = $t->nginx(base => { redis => undef })->start;

sub used { return $pg->value("SELECT coalesce(sum(requests), 0)
    FROM apikey.usage_quarter WHERE key_id = '$key->{id}'") }

$t->sync;
$n->get('/', key => $key->{key}) for 1 .. 20;
wait_for('their sums', sub { used() == 20 });
is(stored(), 0, 'nor written');
is($pg->value('SELECT count(*) FROM apikey.usage_quarantine'), 0,
   'which is no mistake');

$pg->run(q{UPDATE apikey.setting SET value = '7' WHERE name = 'raw_days'});
beat();

# the node hears of it from Postgres, which it asks twice a second

my $more = 0;
wait_for('raw_days 7: they are again', sub {
    $more++;
    $n->get('/', key => $key->{key});
    wait_for('its sum', sub { used() == 20 + $more });
    return stored();
});
is(stored(), 1, 'that one');


$t->done;
