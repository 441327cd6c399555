package Apikey::Siege;

# Many nodes with leases, a flood over all of them, and what may happen to a
# node; at the end a judge that knows nothing of the protocol.
#
#     my $siege = Apikey::Siege->new($t, nodes => 8, redis => 'URL ...',
#                                    most => 1000);
#     $siege->more(200)              until so many more have been admitted
#     $siege->node                   another node each time
#     $siege->fault('kill')          to another node: kill stop stop_node
#                                    reload lost
#     $siege->decided                so far, admitted and refused
#     $siege->roots                  what tags the values in Redis
#     $siege->end                    judges
#
# The limits: fast is refilled all the time, slow hardly, so its tokens are
# spent once; roll goes to Redis each time; pair and twin pay two accounts,
# their own and their owner's; heavy costs three; total never refills; paid
# reserves thrice what a request costs in the end.  Besides, requests that take
# a while have slots; what runs on a node that was stopped may be too many, so
# they are judged between faults.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use Apikey::Flood;
use Apikey::Judge qw(at_once over);
use Apikey::Load;
use Apikey::Process qw(wait_for);

use constant { SLOTS => 12, TAKES => 0.04 };


my %limits = (
    fast  => { limit => 400, window => '1s', burst => 400 },
    slow  => { limit => 2000, window => '1h' },
    roll  => { limit => 150, window => '1s', rolling => \1 },
    pair  => { limit => 300, window => '1s', burst => 600 },
    twin  => { limit => 250, window => '1s' },
    ada   => { limit => 350, window => '1s', burst => 500 },
    heavy => { limit => 300, window => '1s', burst => 600 },
    total => { window => 'total' },
    paid  => { window => 'total', unit => 'cost', mode => 'strict' },
);

sub limits { return [ { name => 'l', %{$limits{$_[0]}} } ] }


# nodes: how many; redis: what apikey_redis gets; most: what total and paid admit
# at most, which are to be spent midway; flood: more for it

sub new {
    my ($class, $t, %opt) = @_;

    my $most = $opt{most};

    $limits{total}{limit} = $most;
    $limits{paid}{limit} = sprintf '%.3f', $most / 1000;

    my $self = bless { test => $t, turn => 0, most => $most, faults => [],
        sink => Apikey::Flood::sink($t, 'X-Usage-Cost 0.001') }, $class;

    my %key = map { $_ => $t->key(name => $_, limits => limits($_)) }
        qw(fast slow roll heavy total paid);

    $key{$_} = $t->key(name => $_, owner => 'ada', limits => limits($_),
                       owner_limits => limits('ada')) for qw(pair twin);

    $key{slots} = $t->key(name => 'slots', limits => [
        { name => 'l', unit => 'concurrent', limit => SLOTS } ]);

    $self->{roots} = [ map({ $_->{id} } grep { !$_->{owner} } values %key),
        $t->{pg}->value("SELECT id FROM apikey.owner WHERE external = 'ada'")
    ];

    $self->{slow} = $t->upstream(name => 'slow');

    my $slow = '127.0.0.1:' . $self->{slow}->port;

    $self->{nodes} = [ map { $t->nginx(name => "n$_", workers => 2,
                                       server => <<"EOS" . <<'EOT',
        location /delay/ {
            apikey required;
            proxy_pass http://$slow;
            proxy_next_upstream off;
        }
EOS
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_reserve cost=$arg_cost;
            apikey_usage headers;
            proxy_pass http://sink;
            proxy_next_upstream off;
            proxy_set_header X-Decided-At $apikey_decided_at;
            proxy_set_header X-Key $apikey_name;
            proxy_set_header X-Mode $apikey_decision_mode;
        }
EOT
        http => 'keepalive_requests 1000000;
    upstream sink { server %%UPSTREAM%%; keepalive 16; }',
        base => { redis => "apikey_redis $opt{redis};\n"
                           . '    apikey_redis_down deny;' })
        ->start(wait => 0) } 1 .. $opt{nodes} ];

    $_->wait_ready for @{$self->{nodes}};
    $t->sync(@{$self->{nodes}});

    $self->{load} = Apikey::Load->new(dir => $t->dir, nodes => $self->{nodes},
        key => $key{slots}{key}, uri => '/delay/' . 1000 * TAKES,
        clients => 2 * $opt{nodes}, pause => TAKES);
    push @{$t->{loads}}, $self->{load};

    $self->{flood} = Apikey::Flood->new(test => $t, nodes => $self->{nodes},
        keys => { map { $_ => $key{$_}{key} } grep { $_ ne 'slots' }
                                              keys %key },
        uris => { heavy => '/?weight=3', paid => '/?cost=0.003' },
        clients => 4 * $opt{nodes}, pause => 0.05, %{$opt{flood} // {}});

    return $self;
}


sub admitted { $_[0]{sink}->admitted }
sub decided  { $_[0]{flood}->count(200, 204, 402, 429) }
sub nodes    { @{$_[0]{nodes}} }
sub roots    { @{$_[0]{roots}} }
sub node     { my ($self) = @_;
               return $self->{nodes}[$self->{turn}++ % @{$self->{nodes}}] }


# What follows shall meet traffic, and leave time for more.

sub more {
    my ($self, $n) = @_;

    my $have = $self->admitted;
    wait_for('traffic', sub { $self->admitted >= $have + $n }, 60);
}


my %fault = (
    kill      => sub { $_[1]->kill_worker },
    reload    => sub { $_[1]->reload },
    stop      => sub { stopped($_[0], ($_[1]->workers)[0]) },
    stop_node => sub { stopped($_[0], $_[1]->workers) },

    # with all it holds, and back again
    lost => sub {
        my ($self, $node) = @_;

        $node->stop('KILL');
        $self->more(100);
        $node->start(wait => 0);
    },
);

sub fault {
    my ($self, $what) = @_;

    $fault{$what}->($self, $self->node);
}


# These faults, one after the other; in a soak again until enough is decided.

sub suffer {
    my ($self, $faults, $order, $target) = @_;

    my $n = 0;

    do {
        for my $what (@$order) {
            $self->more(150);
            note $self->decided . " decided: $what";

            my $from = time;

            $faults->{$what}->();
            push @{$self->{faults}}, [ $from, time + 0.15 ];
            $n++;
        }
    } while $ENV{APIKEY_SOAK} && $self->decided < $target;

    wait_for('all to be spent that is there once', sub {
        my $n = $self->{flood}->counts;
        return !grep { ($n->{$_}{402} // 0) < 30 } qw(total paid);
    }, 120);

    $self->more(300);
    note "$n faults";
    $self->end;
}


sub stopped {
    my ($self, @pids) = @_;

    kill 'STOP', @pids;
    $self->more(300);
    kill 'CONT', @pids;
}


# What never refills goes by counting, all else by an exact bucket.

sub end {
    my ($self) = @_;

    my ($sink, $flood) = @$self{qw(sink flood)};
    my %of = (ada => [ qw(pair twin) ]);

    $flood->stop;

    my $modes = $sink->modes;
    my $admitted = $sink->admitted;
    my $refused = $flood->count(402, 429);

    note "$admitted admitted, $refused refused; without a decision: "
        . $flood->count(503) . ', without an answer: '
        . $flood->count(0, 502, 504);
    my %once = map { my @at = $sink->at($_); ($_ => scalar @at) }
               qw(total paid);
    note "of $self->{most} each: total $once{total}, paid $once{paid}";
    note 'admitted: ' . join ', ', map { "$_ $modes->{$_}" } sort keys %$modes;

    cmp_ok($modes->{leased} // 0, '>', $admitted / 2,
           'most were paid by leases');
    cmp_ok($refused, '>', 0, 'some were refused');

    for my $name (sort keys %limits) {
        my $limit = $limits{$name};
        my @at = $sink->at(@{$of{$name} // [ $name ]});
        my @costs = $name eq 'heavy' ? (3) x @at : ();

        cmp_ok(scalar @at, '>', 0, "$name: some passed");

        my @excess = $limit->{window} eq 'total'
            ? map { [ $_, $self->{most} - $_ ] } $self->{most} .. $#at
            : over(\@at, %$limit, costs => \@costs);

        ok(!@excess, "$name: no more than the limit")
            or diag(scalar(@excess) . " too many\n", map {
                "$at[$_->[0]] $_->[1]\n" } grep { defined } @excess[0 .. 8]);
    }

    $self->judge_slots;
    return { admitted => $admitted, refused => $refused };
}


sub judge_slots {
    my ($self) = @_;

    my @results = $self->{load}->stop;
    my @began = sort { $a <=> $b } map { $_->{time} } $self->{slow}->requests;
    my @faults = (@{$self->{faults}}, [ 9e99, 9e99 ]);
    my @judged;

    for my $at (@began) {
        shift @faults while $faults[0][1] < $at;
        next if $faults[0][0] <= $at;

        my $end = $at + TAKES;

        push @judged, [ map { int $_ * 1e6 } $at,
                        $end < $faults[0][0] ? $end : $faults[0][0] ];
    }

    my $most = at_once(@judged);
    my $refused = grep { $_->{status} == 429 } @results;

    note 'slots: ' . @began . ' had one, of which ' . @judged
        . " began between faults, $refused had none; $most at once";

    cmp_ok(scalar @judged, '>', 0, 'slots: some passed');
    cmp_ok($most, '<=', SLOTS, 'slots: no more than the limit');
}


1;
