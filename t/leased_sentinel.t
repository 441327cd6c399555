
# Eight nodes with leases behind Sentinels: Redis is killed, and in make soak
# fails over by command, hangs, is cut off from all others, loses answers, while
# nodes and workers are killed, stopped and replaced.  Nothing passes twice.

use strict;
use warnings;

use Test::More;

use Apikey::Siege;
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;

$t->postgres;
$t->allow(qr/apikey_redis:|exited on signal 9|process \d+ exited/);

my $soak = $ENV{APIKEY_SOAK};

# a process before each costs more than all the rest

my $group = $t->sentinels(name => 'main', n => 3, fronted => $soak, redis => {
    args => [ '--min-replicas-to-write', 1, '--min-replicas-max-lag', 1 ] });

my $target = $ENV{APIKEY_DECISIONS} // rounds(16_000, 500_000);
my $siege = Apikey::Siege->new($t, nodes => 8, most => int($target / 80),
    redis => join ' ',
    map({ 'redis://127.0.0.1:' . $_->port } $group->sentinel_list),
    'sentinel=main timeout=300ms');


# Until another one is the primary and in use; the old one shall follow.  One
# that has not heard of anything yet must not be promoted.

sub replace {
    my ($code, $again) = @_;

    $group->wait_in_step;

    my $old = $group->named;

    $code->($old);
    $group->wait_failover($old);
    $again->($old) if $again;
    $siege->more(200);
}

my %fault = (
    failover => sub { replace(sub { $group->failover }) },
    killed   => sub { replace(sub { $_[0]->stop('kill') },
                              sub { $_[0]->start }) },
    hangs    => sub { replace(sub { $_[0]->freeze }, sub { $_[0]->thaw }) },
    cut      => sub { replace(sub { $group->peer($_[0])->mode('cut') },
                              sub { $group->peer($_[0])->mode('pass') }) },

    # answers, and what replicas were to hear
    half => sub {
        my $peer = $group->peer($group->named);

        $peer->mode('half');
        $peer->mode('pass');
    },
    late => sub {
        my $peer = $group->peer($group->named);

        $peer->mode('delay', 0.15);
        $siege->more(100);
        $peer->mode('pass');
    },
    forget => sub { $group->named->command('SCRIPT', 'FLUSH') },
    map({ my $what = $_; $what => sub { $siege->fault($what) } }
        qw(kill stop stop_node reload lost)),
);

my @order = $soak ? qw(failover kill half stop killed reload late lost hangs
                       forget stop_node cut kill half)
                  : qw(kill killed lost);

$siege->suffer(\%fault, \@order, $target);

$t->done;
