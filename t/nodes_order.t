#!/usr/bin/perl

# Two nodes that write the same 50 keys in opposite order, all the time: they
# wait for no row in a circle, and every sum is the upstream's.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use Apikey::Postgres;
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;

# owners with credits, too: rows that all batches meet

my @keys = $t->keys(50, owner => 'user_1');
$pg->run("INSERT INTO apikey.credit (key_id, owner_id, unit, total, used, base,
              place)
    SELECT NULL::uuid, o.id, 'requests', apikey.credit_base() + 1000000,
        apikey.credit_base(), apikey.credit_base(), o.id
    FROM apikey.owner o
    UNION ALL SELECT k.id, NULL, 'requests', apikey.credit_base() + 1000000,
        apikey.credit_base(), apikey.credit_base(), k.owner_id
    FROM apikey.key k");

my @nodes = map { $t->nginx(name => $_, workers => 2)->start } 'up', 'down';

$t->sync;

my @load;

for my $i (0, 1) {
    my @order = $i ? reverse @keys : @keys;

    push @load, map { $nodes[$i]->load(keys => [ map { $_->{key} } @order ],
                                       clients => 1, pause => 0) } 1, 2;
}

# as many batches as come in this time, and some of each node at least

my $end = time + rounds(4, 60);

wait_for('batches of both', sub {
    time >= $end && ($pg->value('SELECT min(n) FROM (SELECT count(*) AS n
        FROM apikey.usage_batch GROUP BY node) x') // 0) >= 5;
}, 180);

# and surely at the same time: both wait for a row that somebody else holds,
# with those in hand that came before

for my $round (1 .. 3) {
    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xqo',
        '/dev/null', '-d', $pg->conninfo(user => 'postgres') or die $!;
    $psql->autoflush;
    print $psql "BEGIN; SELECT FROM apikey.key_usage WHERE key_id =
        (SELECT key_id FROM apikey.key_usage ORDER BY 1 OFFSET 25 LIMIT 1)
        FOR UPDATE;\n";
    wait_for('both to wait', sub {
        $pg->value(q{SELECT count(*) FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock'
                         AND usename = 'apikey_gateway'}) >= 2;
    });
    print $psql "COMMIT;\n";
    close $psql;
}

$_->stop for @load;

my @r = map { $_->results } @load;
my @ids = $up->ids;

is(grep({ $_->{status} != 200 } @r), 0, 'all pass');
is(scalar(@ids), scalar(@r), 'and went upstream');
is_deeply([ sort map { $_->{id} } @r ], [ sort @ids ], 'the same ones');
is_deeply([ $t->wait_events(scalar @ids) ], [ sort @ids ],
          'every one is in Postgres, once');
note(scalar(@ids), ' requests, ', $pg->value('SELECT count(*)
     FROM apikey.usage_batch'), ' batches');

my %id = map { $_->{key} => $_->{id} } @keys;
my %sent;

$sent{$id{$_->{key}}}++ for @r;
is_deeply({ map { $_->[0] => $_->[1] }
            $pg->rows('SELECT key_id, requests FROM apikey.key_usage
                       WHERE requests > 0') }, \%sent, 'sums of keys');
is($pg->value('SELECT sum(requests) FROM apikey.usage_daily'), scalar(@ids),
   'of the day');
is($pg->value('SELECT sum(used - base) FROM apikey.credit
               WHERE owner_id IS NOT NULL'), scalar(@ids), 'of the owner');
is($pg->value('SELECT sum(used - base) FROM apikey.credit
               WHERE key_id IS NOT NULL'), scalar(@ids), 'of credits of keys');
is($pg->value('SELECT count(*) FROM apikey.usage_node'), 2, 'two nodes');

is($pg->value('SELECT deadlocks FROM pg_stat_database
               WHERE datname = current_database()'), 0, 'no deadlock');
is(grep({ $_->log_text =~ /refused a batch|applied by somebody|deadlock/ }
        @nodes), 0, 'no batch is refused');

$t->done;
