package Apikey::RedisGroup;

# Several redis-servers that belong together.
#
#     my $group = $t->sentinels(name => 'main', redis => {...}, n => 3,
#                               host => 'localhost',     told by name
#                               fronted => 1);           a peer before each
#     $group->primary, $group->replicas   Apikey::Redis, as they are now
#     $group->sentinels                   Apikey::Redis, too
#     $group->failover                    by a Sentinel's own command
#     $group->wait_failover($old)         until they name another primary
#     $group->wait_in_step                until replicas follow the primary
#     $group->peer($redis)                Apikey::Peer that all others see
#
#     my $group = $t->cluster(name => 'c', n => 3, replicas => 1);
#     $group->nodes, $group->owner(KEY)
#     $group->migrate(SLOT, FROM, TO)     keys and slot, as redis-cli does it
#
# redis => {} are options of all of them, of Apikey::Redis; of Sentinels, too
# where they apply (tls, clients, users, password).

use strict;
use warnings;

use Apikey::Peer;
use Apikey::Process qw(free_port wait_for);
use Apikey::Redis;


sub sentinels {
    my ($class, %opt) = @_;

    my $name = $opt{name} // 'main';
    my %redis = %{$opt{redis} // {}};
    my $self = bless { name => $name, tls => $redis{tls} }, $class;

    my $new = sub {
        my ($which, @args) = @_;

        my $port = free_port();
        my $peer = $opt{fronted}
            ? Apikey::Peer->new(dir => $opt{dir}, name => "$name-$which-peer",
                                to => $port) : undef;

        unshift @args, '--replica-announce-port', $peer->port if $peer;

        my $redis = Apikey::Redis->new(dir => $opt{dir}, port => $port,
            name => "$name-$which", %redis,
            args => [ '--repl-diskless-sync-delay', 0,
                      @{$redis{args} // []}, @args ]);

        $redis->{peer} = $peer;
        return $redis;
    };

    my $primary = $new->('a');
    my $port = $self->port_of($primary);
    my @auth = $opt{auth} ? ($opt{auth}[0], $opt{auth}[1]) : ();

    my @more = ('--replicaof', '127.0.0.1', $port);

    push @more, '--tls-replication', 'yes' if $redis{tls};
    push @more, '--replica-announce-ip', $opt{host} if $opt{host};
    push @more, '--masteruser', $auth[0], '--masterauth', $auth[1] if @auth;

    my @replicas = map { $new->($_, @more) } qw(b c);

    $self->{redis} = [ $primary, @replicas ];

    for my $replica (@replicas) {
        wait_for('a replica in step', sub {
            $replica->command('INFO', 'replication')
                =~ /master_link_status:up/;
        });
    }

    # names, where they are to be told
    my $host = $opt{host} // '127.0.0.1';

    my $config = ($opt{host} ? "sentinel resolve-hostnames yes\n"
                               . "sentinel announce-hostnames yes\n" : '')
        . "sentinel monitor $name $host $port "
        . ($opt{quorum} // 2) . "\n"
        . "sentinel down-after-milliseconds $name 500\n"
        . "sentinel failover-timeout $name 3000\n";
    $config .= "sentinel auth-user $name $auth[0]\n"
               . "sentinel auth-pass $name $auth[1]\n" if @auth;
    $config .= "tls-replication yes\n" if $redis{tls};

    $self->{sentinels} = [ map {
        Apikey::Redis->new(dir => $opt{dir}, name => "$name-sentinel-$_",
                           %redis, args => [], config => $config,
                           sentinel => 1,
                           $opt{sentinel} ? %{$opt{sentinel}} : ())
    } 1 .. ($opt{n} // 3) ];

    for my $sentinel (@{$self->{sentinels}}) {
        wait_for('the Sentinels know each other', sub {
            $sentinel->command('INFO', 'sentinel')
                =~ /name=$name,status=ok,.*slaves=2,sentinels=$opt{n}/;
        }, 30);
    }

    return $self;
}


# where others find it

sub port_of {
    my ($self, $redis) = @_;

    return $redis->{peer} ? $redis->{peer}->port
         : $self->{tls} ? $redis->tls_port : $redis->port;
}


sub peer { $_[1]{peer} }

sub sentinel_list { @{$_[0]{sentinels}} }


sub primary {
    my ($self) = @_;

    for my $redis (grep { $_->awake } @{$self->{redis}}) {
        return $redis if eval {
            $redis->command('INFO', 'replication') =~ /role:master/ };
    }

    return undef;
}


# What the Sentinels say, all of them alike; undef while they do not agree.

sub named {
    my ($self) = @_;

    my %port = map { $self->named_by($_) => 1 }
               grep { $_->awake } @{$self->{sentinels}};

    my ($port, @more) = keys %port;
    return undef if @more;

    my ($redis) = grep { $self->port_of($_) == $port } @{$self->{redis}};
    return $redis;
}


sub named_by {
    my ($self, $sentinel) = @_;

    return $sentinel->command('SENTINEL', 'get-master-addr-by-name',
                              $self->{name})->[1];
}


# A Sentinel whose clock has jumped does nothing for half a minute, and one that
# has given up tries again some seconds later.

sub wait_failover {
    my ($self, $old, $again) = @_;

    return wait_for('another primary', sub {
        my $new = $self->named;

        return $new if $new && $new != $old
                       && eval { $new->command('INFO', 'replication')
                                 =~ /role:master/ };
        $again->() if $again;
        return undef;
    }, 90);
}


# Until all that live have what the primary has.

sub wait_in_step {
    my ($self) = @_;

    wait_for('replicas in step', sub {
        my $primary = $self->named or return 0;
        my $n = grep { $_->awake } @{$self->{redis}};

        # Sentinels cut the clients of whom they promote
        my $info = eval { $primary->command('INFO', 'replication') } // '';
        my @state = $info =~ /^slave\d+:.*state=(\w+)/mg;

        return $n - 1 == grep { $_ eq 'online' } @state;
    }, 30);
}


# Sentinel refuses while what it knows of the replicas is old, ten seconds at
# times, and gives up where the one that it has chosen is slow to become a
# primary.  Then it is asked again.

sub failover {
    my ($self) = @_;

    my $old = wait_for('a primary', sub { $self->named });
    my $asked = $self->{sentinels}[0];

    return $self->wait_failover($old, sub {
        eval {
            $asked->command('SENTINEL', 'failover', $self->{name})
                if $self->named_by($asked) == $self->port_of($old);
        };
    });
}


# As $t->server keeps it.

sub new {
    my ($class, %opt) = @_;

    return $opt{kind} eq 'sentinels' ? $class->sentinels(%opt)
                                     : $class->cluster(%opt);
}


sub cluster {
    my ($class, %opt) = @_;

    my $name = $opt{name} // 'cluster';
    my $n = $opt{n} // 3;
    my %redis = %{$opt{redis} // {}};
    my $self = bless { name => $name, tls => $redis{tls} }, $class;

    my @args = ('--cluster-enabled', 'yes', '--cluster-node-timeout', 1000,
                '--cluster-require-full-coverage', 'no',
                '--cluster-replica-validity-factor', 0,
                '--cluster-allow-replica-migration', 'no',
                '--repl-diskless-sync-delay', 0,
                @{$redis{args} // []});

    push @args, '--tls-cluster', 'yes', '--tls-replication', 'yes'
        if $redis{tls};

    $self->{redis} = [ map {
        my $bus = free_port();
        my $redis = Apikey::Redis->new(dir => $opt{dir}, name => "$name-$_",
            %redis, args => [ @args, '--cluster-port', $bus ]);
        $redis->{bus} = $bus;
        $redis;
    } 1 .. $n * (1 + ($opt{replicas} // 0)) + ($opt{spare} // 0) ];

    my ($first, @rest) = @{$self->{redis}};

    for my $redis (@rest) {
        $first->command('CLUSTER', 'MEET', '127.0.0.1',
                        $self->port_of($redis), $redis->{bus});
    }

    my @nodes = @{$self->{redis}};

    for my $i (0 .. $n - 1) {
        my $from = int(16384 * $i / $n);
        my $to = int(16384 * ($i + 1) / $n) - 1;

        $nodes[$i]->command('CLUSTER', 'ADDSLOTSRANGE', $from, $to);
    }

    $self->wait_known;

    for my $i ($n .. $n * (1 + ($opt{replicas} // 0)) - 1) {
        $nodes[$i]->command('CLUSTER', 'REPLICATE',
                            $nodes[$i % $n]->command('CLUSTER', 'MYID'));
        wait_for('a replica in step', sub {
            $nodes[$i]->command('INFO', 'replication')
                =~ /master_link_status:up/;
        });
    }

    $self->wait_known;
    return $self;
}


# Until each that lives knows all others, and all slots.

sub wait_known {
    my ($self) = @_;

    my $all = @{$self->{redis}};

    for my $redis (grep { $_->awake } @{$self->{redis}}) {
        wait_for('the cluster', sub {
            my $info = $redis->command('CLUSTER', 'INFO');
            return $info =~ /cluster_state:ok/
                   && $info =~ /cluster_slots_assigned:16384/
                   && $info =~ /cluster_known_nodes:$all\b/;
        }, 30);
    }
}


sub nodes { @{$_[0]{redis}} }


# Who has this slot, by the word of one that lives.

sub owner {
    my ($self, $slot) = @_;

    for my $redis (grep { $_->awake } @{$self->{redis}}) {
        my $owner = $self->owner_by($redis, $slot);
        return $owner if $owner;
    }

    return undef;
}


# As one of them sees it, who may not have heard yet.

sub owner_by {
    my ($self, $redis, $slot) = @_;

    my $slots = eval { $redis->command('CLUSTER', 'SLOTS') } or return undef;

    for my $range (@$slots) {
        next unless $range->[0] <= $slot && $slot <= $range->[1];

        my $port = $range->[2][1];
        my ($owner) = grep { $self->port_of($_) == $port
                             || $_->port == $port } @{$self->{redis}};
        return $owner;
    }

    return undef;
}


# As all of them see it: what moved before has come round.

sub owner_of_all {
    my ($self, $slot) = @_;

    my $owner;

    wait_for("one owner of slot $slot", sub {
        my @seen = map { $self->owner_by($_, $slot) // 0 }
                   grep { $_->awake } @{$self->{redis}};
        $owner = $seen[0];
        return $owner && !grep { $_ != $owner } @seen;
    }, 30);

    return $owner;
}


# The steps of redis-cli --cluster reshard; between() runs in the middle.

sub migrate {
    my ($self, $slot, $to, $between) = @_;

    my $from = $self->owner_of_all($slot);
    my ($from_id, $to_id) = map { $_->command('CLUSTER', 'MYID') } $from, $to;

    $to->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from_id);
    $from->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to_id);

    $between->() if $between;

    while (my @keys = @{$from->command('CLUSTER', 'GETKEYSINSLOT', $slot,
                                       10)})
    {
        $from->command('MIGRATE', '127.0.0.1', $self->port_of($to), '', 0,
                       5000, 'KEYS', @keys);
    }

    for my $redis ($to, $from,
                   grep { $_ != $to && $_ != $from && $_->awake }
                   @{$self->{redis}})
    {
        eval { $redis->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to_id) };
    }
}


sub stop {
    my ($self, @how) = @_;

    $_->stop(@how) for @{$self->{sentinels} // []}, @{$self->{redis}};
    $_->stop for grep { $_ } map { $_->{peer} } @{$self->{redis}};
}


1;
