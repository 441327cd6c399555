# What Postgres is asked for is what that primary of a Cluster wants to know
# that has lost its data: another one is asked meanwhile, by the same worker.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $cluster = $t->cluster(name => 'c', n => 3);
my ($lost, $other) = $cluster->nodes;

my $node = $t->nginx(name => 'n', workers => 1, base => {
    redis => 'apikey_redis redis://127.0.0.1:' . $lost->port
             . " cluster timeout=5s;\n"
             . "    apikey_limit_mode direct;\n"
             . '    apikey_redis_down deny;' })->start;

my %limit = (name => 'month', unit => 'requests', limit => 9,
             window => 'month');
my %of;

for my $key (map { $t->key(limits => [ \%limit ]) } 1 .. 24) {
    my $slot = $lost->command('CLUSTER', 'KEYSLOT', $key->{id});
    push @{$of{$cluster->owner($slot)->port}}, $key;
}

my @asked = @{$of{$lost->port}};
my $same = $of{$other->port}[0];

cmp_ok(@asked, '>', 2, 'keys of the one that loses its data');
$t->sync;

sub ask { return $node->get('/', key => $_[0]{key})->{status} }

is(ask($same), 200, 'a key of the other');
is(ask($asked[0]), 200, '... and of this one');

$lost->command('FLUSHALL');

wait_for('Redis believes Postgres', sub { ask($asked[1]) == 200 }, 60);

$lost->freeze;
my $waits = $node->conn;
$waits->send(Apikey::Http::build('GET', '/', key => $asked[2]{key}));
is(ask($same), 200, 'the other one is asked while this one stands');
$lost->thaw;

is($waits->response->{status}, 200, 'what is used is known at once');

$t->done;
