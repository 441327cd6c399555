
# Leases under faults: several nodes, traffic on all of them, workers killed,
# stopped and replaced, connections cut, answers lost and late, Redis restarted.
# Whatever happens no more passes than the limits say; an exact bucket judges,
# at the instants of decision, from what the upstream has seen.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Apikey::Judge qw(excess);
use Apikey::Load;
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:|exited on signal 9|process \d+ exited/);

my $redis = $t->redis(aof => 1);
my @names = qw(a b c);
my %peer = map { $_ => $t->peer(name => "peer-$_", to => $redis->port) }
    @names;

my @nodes = map { $t->nginx(name => $_, workers => 2, server => <<'EOT',
        location / {
            apikey required;
            apikey_service $arg_service;
            proxy_pass http://%%UPSTREAM%%;
            proxy_set_header X-Decided-At $apikey_decided_at;
            proxy_set_header X-Key $apikey_name;
            proxy_set_header X-Mode $apikey_decision_mode;
        }
EOT
    base => { redis => 'apikey_redis redis://127.0.0.1:' . $peer{$_}->port
                       . ' timeout=300ms; apikey_redis_down deny;' })->start }
    @names;

# fast is refilled all the time, slow hardly: its tokens are spent once; roll
# goes to Redis each time; pair pays two accounts, its owner's is shared by twin

my %limits = (
    fast => { limit => 400, window => '1s', burst => 400 },
    slow => { limit => 2000, window => '1h' },
    roll => { limit => 150, window => '1s', rolling => \1 },
    pair => { limit => 300, window => '1s', burst => 600 },
    twin => { limit => 250, window => '1s' },
    ada  => { limit => 350, window => '1s', burst => 500 },
);

sub limits { return [ { name => 'l', %{$limits{$_[0]}} } ] }

my %key = map { $_ => $t->key(name => $_, limits => limits($_)) }
    qw(fast slow roll);

$key{$_} = $t->key(name => $_, owner => 'ada', limits => limits($_),
                   owner_limits => limits('ada')) for qw(pair twin);

$t->sync;

my %load = map {
    $_ => Apikey::Load->new(dir => $t->dir, nodes => \@nodes,
                            key => $key{$_}{key}, clients => 6, pause => 0.004)
} sort keys %key;

push @{$t->{loads}}, values %load;

# there are too many to read them all again and again

my ($log, $hits) = (undef, 0);

sub hits {
    $log //= do {
        open my $f, '<', "$t->{dir}/upstream.requests" or return 0;
        $f;
    };

    seek $log, 0, 1;
    $hits++ while <$log>;
    return $hits;
}

# what follows shall meet traffic, and leave time for more

sub more {
    my ($n) = @_;

    my $have = hits();
    wait_for('traffic', sub { hits() >= $have + $n }, 60);
}

my %fault = (
    kill => sub { $_[0]->kill_worker },
    stop => sub {
        my ($node) = @_;

        my ($worker) = $node->workers;
        kill 'STOP', $worker;
        more(400);
        kill 'CONT', $worker;
    },
    stop_node => sub {
        my ($node) = @_;

        my @workers = $node->workers;
        kill 'STOP', @workers;
        more(300);
        kill 'CONT', @workers;
    },
    cut => sub {
        my $peer = $peer{$_[0]->name};

        $peer->mode('cut');
        more(200);
        $peer->mode('pass');
    },
    silent => sub {
        my ($node) = @_;
        my $peer = $peer{$node->name};

        # what it has swallowed is gone with the connection
        $peer->mode('silent');
        wait_for('redis_up 0', sub { !$node->metric('apikey_redis_up') });
        more(200);
        $peer->mode('cut');
        $peer->mode('pass');
    },
    late => sub {
        my $peer = $peer{$_[0]->name};

        $peer->mode('delay', 0.25);
        more(200);
        $peer->mode('pass');
    },
    half => sub {
        my $peer = $peer{$_[0]->name};

        $peer->mode('half');
        more(50);
        $peer->mode('pass');
    },
    reload => sub { $_[0]->reload },
    forget => sub { $redis->command('SCRIPT', 'FLUSH') },
    restart => sub {
        $redis->stop('kill');
        $redis->start;
    },
);

my @order = qw(kill cut stop silent reload late forget stop_node half restart
               kill);

for my $round (1 .. rounds(1, 20)) {

    for my $i (0 .. $#order) {
        more(150);
        $fault{$order[$i]}->($nodes[($i + $round) % @nodes]);
    }
}

more(300);
$_->stop for values %load;

my @requests = grep { defined $_->{headers}{'x-key'} }
               $t->upstream->requests;

note scalar(@requests) . ' admitted';

my %mode;
$mode{$_->{headers}{'x-mode'}}++ for @requests;
note join ', ', map { "$_ $mode{$_}" } sort keys %mode;

cmp_ok($mode{leased}, '>', @requests / 2, 'most were paid by leases');

for my $name (sort keys %limits) {
    my $of = sub {
        my $key = $_[0]{headers}{'x-key'};
        return $key eq $name || ($name eq 'ada' && $key =~ /^(pair|twin)$/);
    };

    my @excess = excess(requests => \@requests, match => $of,
                        %{$limits{$name}});

    ok(!@excess, "$name: no more than the limit")
        or diag(map { "$_->{headers}{'x-decided-at'} $_->{level} "
                      . "$_->{headers}{'x-mode'}\n" }
                @excess > 9 ? @excess[0 .. 8] : @excess);
}

$t->done;
