# Which primary holds the values: a restart, a failover, a primary that is
# demoted and promoted again, each is told from the one before, by all nodes
# alike; PREFIX:since says since when.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $redis = $t->redis(aof => 1);
my $other = $t->redis(name => 'other',
    args => [ '--replicaof', '127.0.0.1', $redis->port ]);

my $node = $t->nginx(name => 'n', base => {
    redis => 'apikey_redis redis://127.0.0.1:' . $redis->port
             . ' redis://127.0.0.1:' . $other->port . ';' })->start;

# RUNID OFFSET SINCE, once it is what the test wants

sub since {
    my ($what, $server, $is) = @_;

    my $since = eval { wait_for($what, sub {
        my $text = eval { $server->command('GET', 'apikey:since') } // '';
        my ($run) = eval { $server->command('INFO', 'server') }
                    =~ /run_id:(\w+)/;
        return $text =~ /^$run / && $is->(split ' ', $text) && $text;
    }, 20) };

    ok($since, $what);
    return split ' ', $since // '- - 0';
}

sub now { my ($s, $us) = @{$_[0]->command('TIME')}; return $s * 1e6 + $us }

my ($run, $offset, $at, $made) = since('the first one', $redis,
                                       sub { $_[2] == 0 });
is($at, 0, 'nobody was here before');
like($made, qr/^M\d+$/, 'nor is anything gone');

my $before = now($redis);
$redis->stop('kill');
$redis->start;

my ($run2, $offset2, $at2) = since('a restart', $redis,
    sub { $_[2] >= $before });
isnt($run2, $run, 'is another one');

# demoted, and promoted again: the same process, another reign

wait_for('a replica in step', sub {
    $other->command('INFO', 'replication') =~ /master_link_status:up/ });

$other->command(qw(REPLICAOF NO ONE));
$redis->command('REPLICAOF', '127.0.0.1', $other->port);
since('a promotion', $other, sub { $_[2] > $at2 });

wait_for('a replica in step', sub {
    $redis->command('INFO', 'replication') =~ /master_link_status:up/ });

$redis->command(qw(REPLICAOF NO ONE));
$other->command('REPLICAOF', '127.0.0.1', $redis->port);

my ($run3, $offset3, $at3, $made3) = since('promoted again', $redis,
    sub { $_[2] > $at2 && $_[1] != $offset2 });
is($run3, $run2, 'the same process');

ok($node->wait_log(qr/is another primary than before/), 'the log says so');

is($made3, $made, 'with the data of the first');

# emptied: the same reign, of which all went

$before = now($redis);
$redis->command('FLUSHALL');
($run, $offset, $at, $made) = since('FLUSHALL', $redis, sub { $_[2] == 0 });
is("$run $offset", "$run3 $offset3", 'the same reign');
like($made, qr/^L\d+$/, 'all is gone');
cmp_ok(substr($made, 1), '>=', $before, 'since then');

# by a node that comes back, too; and who is new has not been here before

my $key = $t->key(limits => [
    { name => 'all', unit => 'requests', limit => 9, window => '1h' } ]);

$t->sync($node);
is($node->get('/', key => $key->{key})->{status}, 200, 'it asks for tokens');
$node->stop;
$before = now($redis);
$redis->command('FLUSHALL');
$node->start;
(undef, undef, undef, $made) = since('a start', $redis, sub { 1 });
cmp_ok($made =~ /^L(\d+)$/ ? $1 : 0, '>=', $before, 'its tmpfs knows');

$t->done;
