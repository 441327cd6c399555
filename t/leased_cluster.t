
# Eight nodes with leases over a Redis Cluster: slots move while their limits
# are spent, primaries are killed and hang, connections are cut, while nodes and
# workers are killed, stopped and replaced.  Nothing passes twice.

use strict;
use warnings;

use Test::More;

use Apikey::Siege;
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;

$t->postgres;
$t->allow(qr/apikey_redis:|exited on signal 9|process \d+ exited/);

my $cluster = $t->cluster(name => 'c', n => 3, replicas => 1, spare => 1);
my @redis = $cluster->nodes;
my $spare = $redis[6];

my $target = $ENV{APIKEY_DECISIONS} // rounds(16_000, 500_000);
my $siege = Apikey::Siege->new($t, nodes => 8, most => int($target / 80),
    redis => join ' ',
    map({ 'redis://127.0.0.1:' . $_->port } @redis[0, 4]),
    'cluster timeout=300ms');

my %slot = map { $_ => $redis[0]->command('CLUSTER', 'KEYSLOT', $_) }
           $siege->roots;
my @slots = values %slot;
my $turn = 0;

# another one each time; the spare has no replica, and is left alone

sub victim {
    for (1 .. @slots) {
        my $owner = $cluster->owner($slots[$turn++ % @slots]);
        return $owner if $owner && $owner != $spare;
    }

    return $cluster->owner(0);
}


# Until another one has its slots, and it follows that one.

sub replaced {
    my ($old, $slot, $again) = @_;

    wait_for('the replica is promoted', sub {
        my $owner = $cluster->owner($slot);
        return $owner && $owner != $old;
    }, 30);

    $again->();

    wait_for('it is back as a replica', sub {
        eval { $old->command('INFO', 'replication') }
            =~ /role:slave.*master_link_status:up/s;
    }, 30);

    $siege->more(200);
}

# a slot that this primary has

sub slot_of {
    my ($redis) = @_;

    for my $range (@{$redis->command('CLUSTER', 'SLOTS')}) {
        return $range->[0] if $range->[2][1] == $redis->port;
    }
}

my %fault = (
    moved => sub {
        for my $slot (@slots) {
            my $home = $cluster->owner($slot);
            my @to = grep { $_ != $home } $spare,
                     map { $cluster->owner($_) } 0, 8000, 16383;

            $cluster->migrate($slot, $to[$turn++ % @to]);
        }
    },
    killed => sub {
        my $old = victim();
        my $slot = slot_of($old);

        $old->stop('kill');
        replaced($old, $slot, sub { $old->start });
    },
    hangs => sub {
        my $old = victim();
        my $slot = slot_of($old);

        $old->freeze;
        replaced($old, $slot, sub { $old->thaw });
    },
    cut => sub {
        $_->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
            for grep { $_->awake } @redis;
    },
    forget => sub { $_->command('SCRIPT', 'FLUSH') for @redis },
    map({ my $what = $_; $what => sub { $siege->fault($what) } }
        qw(kill stop stop_node reload lost)),
);

my @order = $ENV{APIKEY_SOAK}
    ? qw(moved kill cut stop moved killed reload lost moved hangs forget
         stop_node cut kill)
    : qw(moved kill cut moved killed lost moved);

$siege->suffer(\%fault, \@order, $target);

$t->done;
