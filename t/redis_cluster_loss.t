# What a Cluster forgets is not admitted again: a primary dies, and its replica
# has not heard of what it admitted last.  What has moved with its slot is all
# there.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $cluster = $t->cluster(name => 'c', n => 3, replicas => 1, spare => 1);
my @nodes = $cluster->nodes;
my $spare = $nodes[6];

my $node = $t->nginx(name => 'n', workers => 2, server => <<'EOT',
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT
    base => { redis => 'apikey_redis redis://127.0.0.1:' . $nodes[0]->port
                       . " cluster timeout=2s;\n"
                       . "apikey_limit_mode direct;\n"
                       . '    apikey_redis_down deny;' })->start;

# what refills while this runs is less than one

my %limit = (name => 'rate', limit => 10, window => '1h', burst => 50);

my @keys = map { $t->key(limits => [ \%limit ]) } 1 .. 60;
my %of;

sub slot {
    my ($key) = @_;

    return $key->{slot} //= $nodes[1]->command('CLUSTER', 'KEYSLOT',
                                               $key->{id});
}

sub ask {
    my ($key, $weight) = @_;

    return $node->get("/?weight=$weight", key => $key->{key})->{status};
}

# once somebody decides, and not that nobody can

sub decided {
    my ($key, $weight) = @_;

    my $status;
    wait_for('a decision', sub {
        $status = ask($key, $weight);
        return $status != 503;
    }, 30);
    return $status;
}

push @{$of{$cluster->owner(slot($_))->port}}, $_ for @keys;
is(scalar keys %of, 3, 'keys of all primaries');

$t->sync;

my ($lost, $other, $third) = map { $of{$nodes[$_]->port} } 0 .. 2;
my $victim = $nodes[0];
my $replica = $nodes[3];

is(decided($_, 10), 200, 'it begins')
    for @$lost[0 .. 2], @$other[0 .. 2], $third->[0];

# a slot that moves, to one that has been nobody's primary yet

$cluster->migrate(slot($third->[0]), $spare);

is(decided($third->[0], 41), 429, 'moved: what was used is used');
is(decided($third->[0], 40), 200, '... and no more');
is(decided($third->[0], 1), 429, '... than that');

# the replica hears no more

is($victim->command('WAIT', 1, 5000), 1, 'the replica has heard of these');
$victim->command(qw(ACL SETUSER default -psync -sync));
$victim->command(qw(CLIENT KILL TYPE replica));

wait_for('the replica is alone', sub {
    $victim->command('INFO', 'replication') =~ /connected_slaves:0/ });

is(ask($lost->[0], 40), 200, 'what the replica does not know');
is(ask($lost->[0], 1), 429, '... is all there was');
is(ask($lost->[3], 50), 200, '... and a value that it does not have');

$victim->stop('kill');

wait_for('the replica is promoted', sub {
    my $owner = $cluster->owner(slot($lost->[0]));
    return $owner && $owner == $replica;
}, 30);

is(decided($_->[0], 1), 429, $_->[1])
    for [ $lost->[0], 'what it forgot is spent' ],
        [ $lost->[3], '... and what it never had' ],
        [ $lost->[1], '... and what nobody knows better of' ];

is(decided($other->[0], 40), 200, 'others have what is theirs');
is(decided($other->[0], 1), 429, '... and no more');

my $fresh = $t->key(limits => [ \%limit ]);
$t->sync;
is(decided($fresh, 50), 200, 'a limit that is younger is full');

# from now on values may come to it, too

my ($since) = map { abs((split ' ')[2]) } grep { $_ } map {
    $replica->command('GET', $_) } @{$replica->command('KEYS',
                                                       'apikey:since:*')};
wait_for('a while', sub {
    my ($s, $us) = @{$replica->command('TIME')};
    return $s * 1e6 + $us > $since + 1.1e6;
});

is(decided($other->[1], 1), 200, 'used since');
$cluster->migrate(slot($other->[1]), $replica);

is(decided($other->[1], 40), 429, 'moved to the promoted one: as it was');
is(decided($other->[1], 39), 200, '... and no less');

$t->done;
