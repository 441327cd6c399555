# What is left of a quota that nobody has paid yet: told to whom it costs
# nothing, and to whom it will never have room for; and never a guess.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->upstream;
my $redis = $t->redis;

$t->allow(qr/apikey_redis:/);

# who costs nothing waits for Postgres as long as for Redis, and no longer

my %n = map {
    my ($mode, $down) = split / /;

    $down // $mode => $t->nginx(name => $down // $mode, workers => 1, base => {
        redis => "apikey_redis %%REDIS%% timeout=5s;\n"
                 . "    apikey_limit_mode $mode;\n"
                 . ($down ? "    apikey_redis_down $down;" : '') },
        server => <<'EOT')->start
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Limit "$apikey_verdict $apikey_limit_name" always;
        }
EOT
} qw(direct leased local), 'direct deny';

my %limits = (
    month => [ { name => 'month', limit => 100, window => 'month' } ],
    total => [ { name => 'total', limit => 100, window => 'total' } ],
    two   => [ { name => 'day', limit => 100, window => 'day' },
               { name => 'rate', limit => 500, window => '1s' } ],
);

sub keys_of { return map { $_ => $t->key(limits => $limits{$_}) } keys %limits }

my %free = map { $_ => { keys_of() } } keys %n;
my %large = map { $_ => { keys_of() } } keys %n;
my $paid = $t->key(limits => $limits{month});
my $dark = { map { $_ => $t->key(limits => $limits{month}) } keys %n };

$t->sync;

# status, what the first item says is left, the name of the limit

sub told {
    my ($node, $key, $weight) = @_;

    my $r = $n{$node}->get("/?weight=$weight", key => $key->{key});
    my ($left) = ($r->{headers}{ratelimit} // '') =~ /^"\w+";r=(\d+)/;

    return join ' ', $r->{status}, $left // '-',
        $r->{headers}{'x-ratelimit-remaining'} // '-',
        $r->{headers}{'x-limit'};
}

for my $node (qw(direct leased local)) {
    for my $kind (qw(month total)) {
        my $key = $free{$node}{$kind};

        is(told($node, $key, 0), "200 100 100 ok $kind",
           "$node: nothing of the $kind, at first") for 1, 2;
        is(told($node, $key, 1), "200 99 99 ok $kind", '... one');
        is(told($node, $key, 0), "200 99 99 ok $kind", '... nothing');
    }

    is(told($node, $free{$node}{two}, 0), '200 100 100 ok day',
       "$node: one of two is a quota");

    for my $kind (qw(month total)) {
        my $key = $large{$node}{$kind};
        my $no = $kind eq 'month' ? '429 100 100 quota_exceeded month'
                                  : '402 100 100 credits_exhausted total';

        is(told($node, $key, 101), $no, "$node: more than a $kind holds")
            for 1, 2;
        is(told($node, $key, 1), "200 99 99 ok $kind", '... one');
    }
}

# what others have paid Redis knows

is(told('direct', $paid, 30), '200 70 70 ok month', 'paid by another node');
is(told('leased', $paid, 0), '200 70 70 ok month', '... is known at once');

# who costs nothing passes, whatever becomes of Postgres

$pg->stop;

for my $node (qw(direct leased)) {
    is(told($node, $dark->{$node}, 0), '200 - - ok',
       "$node: nothing is invented") for 1, 2;
    is($n{$node}->get('/?weight=101', key => $dark->{$node}{key})->{status},
       503, '... for whom it costs, too');
}

$pg->start;

for my $node (qw(direct leased)) {
    ok(wait_for('Postgres', sub {
        told($node, $dark->{$node}, 0) eq '200 100 100 ok month' }),
       "$node: known again");
}

# nor does it matter to it whether there is a Redis

$redis->stop('kill');

for my $node (qw(direct deny)) {
    wait_for("$node without Redis", sub {
        told($node, $paid, 1);
        return $n{$node}->metric('apikey_redis_up') == 0;
    });

    for my $kind (qw(month total two)) {
        my $key = $free{$node}{$kind};

        is(told($node, $key, 0),
           $node eq 'deny' ? '503 - - unavailable' : '200 - - ok',
           "$node: a $kind, and nothing is to be paid");
    }

    is((split / /, told($node, $free{$node}{total}, 1))[0], 503,
       '... as one has to');
}

$redis->start;

$t->done;
