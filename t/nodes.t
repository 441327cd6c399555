
# Several nodes on one Postgres: they ship the same keys at the same time,
# and every sum is exact.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;

my @keys = $t->keys(12, owner => 'user_1', customer => 'c', limits => [
    { name => 'wide', limit => 1000000, window => '1h' } ]);
my @nodes = map { $t->nginx(name => $_, workers => 2)->start } 'a', 'b', 'c';

$t->sync;


# Each key at each node; roll-ups and sums of keys collide all the time.

my %sent;

for my $round (1 .. 20) {
    for my $i (0 .. $#nodes) {
        my @order = $round % 2 ? @keys : reverse @keys;

        my @r = $nodes[$i]->parallel(map { { uri => '/x', key => $_->{key} } }
                                     @order);

        is(grep({ $_->{status} != 200 } @r), 0, "round $round: all pass")
            or last;
        $sent{$order[$_]{id}}++ for 0 .. $#r;
    }
}

my @ids = $up->ids;

is(scalar(@ids), 20 * @keys * @nodes, 'all went upstream');
is_deeply([ $t->wait_events(scalar @ids) ], [ sort @ids ],
          'every one is in Postgres, once');

is_deeply({ map { $_->[0] => $_->[1] }
            $pg->rows('SELECT key_id, requests FROM apikey.key_usage') },
          \%sent, 'the sums of keys');
is_deeply([ $pg->rows('SELECT node, sum(requests) FROM apikey.usage_hourly
                       GROUP BY 1 ORDER BY 1') ],
          [ map { [ $_, 20 * @keys ] } 'a' .. 'c' ], 'of nodes');
is($pg->value('SELECT sum(requests) FROM apikey.usage_daily
               WHERE owner = \'user_1\''), scalar(@ids), 'of the day');
is($pg->value('SELECT count(*) FROM apikey.secret_usage
               WHERE last_used_at > now() - interval \'1 min\''),
   scalar(@keys), 'secrets');

is($pg->value('SELECT deadlocks FROM pg_stat_database
               WHERE datname = current_database()'), 0, 'no deadlock');
is(grep({ $_->log_text =~ /refused a batch|applied by somebody/ } @nodes), 0,
   'no batch is refused');

$t->done;
