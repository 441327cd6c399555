
# What is admitted without Redis is charged there later: by a node that was in
# local mode for a while, and by nodes that went on while Redis stood still.
# The upstream counts.

use strict;
use warnings;

use Test::More;
use JSON::PP;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->allow(qr/apikey_redis:/);

my $up = $t->upstream;
my $redis = $t->redis;

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_usage headers;
            apikey_reserve tokens=0 cost=$arg_cost;
            proxy_set_header X-Key $apikey_id;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT

# who waits for Redis in vain may be charged twice: patience where it is well

sub base {
    my ($mode, $down) = @_;

    return { redis => 'apikey_redis %%REDIS%% timeout='
                      . ($down ? '500ms' : '3s') . ";\n"
                      . "    apikey_limit_mode $mode; " . ($down // '') };
}

sub node {
    my ($name, $mode, $down, $workers) = @_;

    return $t->nginx(name => $name, server => $server,
                     workers => $workers // 1, base => base($mode, $down))
        ->start;
}

my %limits = (
    total  => [ limits => [ { name => 'l', limit => 100,
                              window => 'total' } ] ],
    month  => [ limits => [ { name => 'l', limit => 100,
                              window => 'month' } ] ],
    long   => [ limits => [ { name => 'l', limit => 100,
                              window => '31d' } ] ],
    roll   => [ limits => [ { name => 'l', limit => 100, window => '1h',
                              rolling => JSON::PP::true } ] ],
    two    => [ limits => [ { name => 'l', limit => 100, window => 'day' },
                            { name => 'm', limit => 140,
                              window => 'month' } ] ],
    cost   => [ limits => [ { name => 'l', unit => 'cost', limit => '1.00',
                              window => 'month' } ] ],
    credit => [ credits => { unit => 'requests', remaining => 100 } ],
);

sub keys_for {
    my (@which) = @_;

    return { map { $_ => $t->key(@{$limits{$_}}) } @which };
}

# what costs a cent is reserved with more

sub ask {
    my ($node, $keys, $n, $cost) = @_;

    $cost //= '0.02';

    Apikey::Http::parallel(map {
        my $kind = $_;
        map { { uri => $kind eq 'cost' ? "/set/X-Usage-Cost/0.01?cost=$cost"
                                       : '/?cost=0',
                port => $node->port, key => $keys->{$kind}{key} } } 1 .. $n;
    } sort keys %$keys);
}

sub hits {
    my ($keys) = @_;
    my %n = map { $_ => 0 } keys %$keys;
    my %kind = map { $keys->{$_}{id} => $_ } keys %$keys;

    $n{$kind{$_->{headers}{'x-key'}} // 'other'}++ for $up->requests;
    delete $n{other};
    return \%n;
}

sub all_of { my ($keys, $n) = @_; return { map { $_ => $n } keys %$keys } }


# A node changes its mode, and back, twice.

my @kinds = sort keys %limits;
my $one = node('one', 'direct', '', 2);
my $two = node('two', 'leased', '', 2);
my ($direct, $leased) = (keys_for(@kinds), keys_for(@kinds));

$t->sync;

sub turn {
    my (@mode) = @_;

    for my $node ($one, $two) {
        $node->set(base => base(shift @mode));
        $node->reload;
    }
}

sub both {
    my (@n) = @_;

    ask($one, $direct, @n);
    ask($two, $leased, @n);
}

both(20);
turn('local', 'local');
both(30);
turn('direct', 'leased');
both(10);
turn('local', 'local');
both(15);
is_deeply(hits($direct), all_of($direct, 75), 'in turns without and with Redis');
turn('direct', 'leased');
both(60, '0.01');

is_deeply(hits($direct), all_of($direct, 100),
          'local and direct: what one has used counts with the other');

my $hits = hits($leased);

is_deeply([ grep { $hits->{$_} > 100 } @kinds ], [],
          'local and leased: no more than the limit')
    or diag(explain($hits));
is_deeply([ grep { $hits->{$_} < 75 } @kinds ], [], 'and not much less');

$_->stop for $one, $two;


# Redis stands still, and comes back with all it had.

my @open = qw(month long roll two);
my $local = node('local', 'direct', 'apikey_redis_down local nodes=2;');
my $allow = node('allow', 'direct', 'apikey_redis_down allow;');
my ($shared, $passed) = (keys_for(@open), keys_for(@kinds));
my $probe = $t->key(limits => [ { name => 'l', limit => 1000000,
                                window => '1s' } ]);

$t->sync;

# a TAKE that nobody waits for any more may still be made: with the breaker
# open none is sent

sub freeze {
    $redis->freeze;

    wait_for($_->name . ' without Redis', sub {
        mode($_);
        return !$_->metric('apikey_redis_up');
    }) for $local, $allow;
}


sub thaw {
    $redis->thaw;
    wait_mode('direct');
}


sub mode { $_[0]->get('/?cost=0', key => $probe->{key})->{headers}{'x-mode'} }

sub wait_mode {
    my ($mode) = @_;

    wait_for($_->name . " $mode", sub { mode($_) =~ /^$mode/ })
        for $local, $allow;
}

wait_mode('direct');
ask($local, $shared, 20);
ask($allow, $passed, 20);

for my $round (1, 2) {
    freeze();
    ask($local, $shared, 10);
    ask($allow, $passed, 15);
    thaw();
}

is_deeply(hits($passed), all_of($passed, 50), 'allow lets all pass');
is_deeply(hits($shared), all_of($shared, 40), 'local what was left');

ask($local, $shared, 90);
ask($allow, $passed, 90, '0.01');

is_deeply(hits($passed), all_of($passed, 100), 'all that passed is charged');
is_deeply(hits($shared), all_of($shared, 100), 'all that was left, too');


# More than there is, and nobody asks again: the debt is told all the same.

my $debt = keys_for('month');

$t->sync;
ask($allow, $debt, 10);
freeze();
ask($allow, $debt, 120);
$redis->thaw;

wait_for('told by itself', sub {
    my $r = $local->admin('GET', "limits?key=$debt->{month}{id}");
    return $r->{status} == 200 && json($r)->{data}[0]{used} == 130;
});

pass('what passed is told without another request');


# A limit that owes is taken away, and comes back: it has forgotten nothing.

my @two = map { { name => $_->[0], unit => 'requests', limit => $_->[1],
                  window => '31d' } }
          [ l => 100 ], [ m => 90 ];
my $edited = { two => $t->key(limits => \@two) };

sub edit {
    my $id = $edited->{two}{id};

    my $r = $local->admin('PATCH', "api-keys/$id",
                           body => { limits => [ @two[@_] ] });

    is($r->{status}, 200, 'limits are edited') or diag($r->{body});
    $t->sync;
}

$t->sync;
ask($allow, $edited, 10);
freeze();
ask($allow, $edited, 50);
edit(0);
thaw();
ask($allow, $edited, 5);
edit(0, 1);
ask($allow, $edited, 90);

cmp_ok(hits($edited)->{two}, '<=', 95, 'what passed is charged to both');


# An nginx ends while it owes, and another one finds its file.

my $left = keys_for('month');

$t->sync;
ask($allow, $left, 10);
freeze();
ask($allow, $left, 20);
$allow->stop('KILL');

my ($file) = glob("$allow->{ring}/*/tally.0");
rename($file, $file =~ s/0$/7/r) or die "$file: $!\n";

$redis->thaw;
$allow->start;
wait_mode('direct');
ask($allow, $left, 90);

is_deeply(hits($left), all_of($left, 100), 'what is left in a file is told');

# Redis loses all while a node is away, and another one asks Postgres first.
# What the one that was away has admitted then is charged all the same, once.
# Leases of a second: for two of them nobody knows what was lost.

sub soon {
    my ($kind) = @_;

    my %of = @{$limits{$kind}};
    my $unit = $kind eq 'cost' ? 'cost' : 'requests';

    return $t->key(%of, limits => [ @{$of{limits} // []},
        { name => 'f', unit => $unit, limit => 1000, window => '1s' } ]);
}

$_->stop for $local, $allow;

my @known = grep { !/^(?:long|roll)$/ } @kinds;
my $away = { map { $_ => soon($_) } @known };

$one->start;
$two->set(base => base('direct'));
$two->start;
$t->sync;

sub shipped {
    my ($n) = @_;

    for my $key (values %$away) {
        wait_for("usage of $n", sub {
            ($t->{pg}->value("SELECT sum(requests) FROM apikey.key_usage
                WHERE key_id = '$key->{id}'") || 0) >= $n });
    }
}

# one of each that is decided, by this node

sub decided {
    my ($node) = @_;

    my %left = %$away;

    wait_for('what is known', sub {
        for my $kind (sort keys %left) {
            my ($r) = ask($node, { $kind => $left{$kind} }, 1);
            delete $left{$kind} if $r->{status} != 503;
        }
        return !%left;
    });
}

ask($two, $away, 20);
$one->set(base => base('local'));
$one->reload;
ask($one, $away, 10);
shipped(30);
$redis->command('FLUSHALL');
decided($two);
ask($one, $away, 30);
$one->set(base => base('direct'));
$one->reload;
decided($one);
ask($_, $away, 50, '0.01') for $two, $one;

is_deeply(hits($away), all_of($away, 100),
          'what was admitted elsewhere after a loss is charged once')
    or diag(explain(hits($away)));

$t->done;
