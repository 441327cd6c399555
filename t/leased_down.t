# Leases while Redis is there, what the headers say of them, a dry run over
# them; and what each policy does of them when Redis is gone.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->allow(qr/apikey_redis:/);

my $up = $t->upstream;
my $redis = $t->redis;

sub node {
    my ($name, $down) = @_;

    return $t->nginx(name => $name, base => { redis =>
        "apikey_redis %%REDIS%% timeout=2s;\n    apikey_redis_down $down;" },
        server => <<'EOT')->start;
        add_header X-Mode $apikey_decision_mode always;
        add_header X-Verdict "$apikey_verdict $apikey_limit_name" always;
        apikey_reserve tokens=1 cost=0.01;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /dry/ {
            apikey required;
            apikey_dry_run on;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT
}

my %n = (local => node('local', 'local nodes=2'), deny => node('deny', 'deny'),
         allow => node('allow', 'allow'));

sub limit {
    my ($unit, $limit, $window, %more) = @_;

    return { name => 'l', unit => $unit, limit => $limit, window => $window,
             %more };
}

my %key = map { my ($name, @limits) = @$_;
                $name => $t->key(limits => \@limits) } (
    [ headers => limit(requests => 60, '31d') ],
    [ dry     => limit(requests => 40, '31d') ],
    [ fast    => limit(requests => 1000, '1s') ],
    [ hour    => limit(requests => 1000, '1h') ],
    [ small   => limit(requests => 12, '31d') ],
    [ unseen  => limit(requests => 12, '31d') ],
    [ month   => limit(requests => 12, 'month') ],
    [ other   => limit(requests => 12, 'month') ],
    [ nowhere => limit(requests => 12, 'month') ],
    [ total   => limit(requests => 12, 'total') ],
    [ money   => limit(cost => '0.12', 'month') ],
    [ watched => limit(cost => '0.12', 'month', mode => 'observe') ],
    [ looked  => limit(tokens => 12, 'month', mode => 'observe') ],
    [ tokens  => limit(tokens => 12, '31d') ]);

$t->sync;

sub get { return $n{$_[0]}->get($_[2] // '/', key => $key{$_[1]}{key}) }

sub answers {
    my ($node, $key, $n, $uri) = @_;

    my %got;

    for (1 .. $n) {
        my $r = get($node, $key, $uri);
        $got{"$r->{status} $r->{headers}{'x-mode'}"}++;
    }

    return \%got;
}


# headers: never more is left than there is, nothing only at the end

my ($passed, $wrong, $empty, %modes) = (0, 0, 0);
my $r;

for my $i (1 .. 90) {
    $r = get('deny', 'headers');

    my $left = $r->{headers}{'x-ratelimit-remaining'};
    my ($policy, $rest) = @{$r->{headers}}{qw(ratelimit-policy ratelimit)};

    $modes{$r->{headers}{'x-mode'}}++;
    $passed++ if $r->{status} == 200;
    $wrong++ if $left > 60 - $passed || $policy ne '"l";q=60;w=2678400'
        || $rest !~ /^"l";r=$left;t=\d+$/;
    $empty++ if $r->{status} == 200 && $left == 0;
    $wrong++ if $r->{status} == 429 && $left != 0;
}

is("$passed $wrong", '60 0', '60 pass, and headers say so');
is($empty, 1, 'nothing is left after the last one');
cmp_ok($modes{leased} // 0, '>', 0, 'out of leases');
cmp_ok($r->{headers}{'retry-after'}, '>', 0, 'it opens again');


# a dry run says who would be refused, and refuses nobody

$up->forget;

my %said;

for (1 .. 60) {
    $r = get('deny', 'dry', '/dry/');
    $said{"$r->{status} $r->{headers}{'x-verdict'}"}++;
}

is_deeply(\%said, { '200 ok l' => 40, '200 rate_limited l' => 20 },
          'a dry run counts as any other');
is($up->hits, 60, 'all reach the upstream');
is(get('deny', 'dry')->{status}, 429, 'what it counted is spent');


# what is known when Redis goes

for my $name (qw(small month total money tokens)) {
    is_deeply([ map { get($_, $name)->{status} } qw(allow deny local local) ],
              [ (200) x 4 ], "$name: four of twelve");
}

# ... where one node has never been asked

for my $name (qw(other nowhere)) {
    is_deeply([ map { get($_, $name)->{status} } qw(allow deny allow deny) ],
              [ (200) x 4 ], "$name: four of twelve");
    $t->wait_events(4, "key_id = '$key{$name}{id}'");
}

# a lease of an hour lasts for 20 s, one of a second for one

wait_for('leases', sub {
    2 == grep { get('deny', $_)->{headers}{'x-mode'} eq 'leased' }
         qw(fast hour) });

$redis->stop;

is(get('deny', 'hour')->{headers}{'x-mode'}, 'leased',
   'what is leased is spent without Redis');
wait_for('its end', sub { get('deny', 'fast')->{status} == 503 }, 20);

$r = get('deny', 'fast');
is("$r->{headers}{'x-mode'} $r->{headers}{'retry-after'}", 'down_deny 1',
   'then it is refused');
is($r->{headers}{ratelimit}, undef, 'nothing is invented');

# leases of quotas may last for a while

for my $name (qw(small unseen month total money tokens)) {
    for my $node (sort keys %n) {
        wait_for("$name at $node without Redis", sub {
            get($node, $name, '/dry/')->{headers}{'x-mode'} =~ /^down_/ }, 20);
    }

    is_deeply(answers('deny', $name, 2), { '503 down_deny' => 2 },
              "$name: deny");
    is_deeply(answers('allow', $name, 9), { '200 down_allow' => 9 },
              "$name: allow");
}

# a share of what is left; money and totals never

# (the look above was one of them, as a dry run pays)

is_deeply(answers('local', 'unseen', 20),
          { '200 down_local' => 5, '429 down_local' => 15 },
          'half of a burst that was never seen');
is_deeply(answers('local', $_, 2), { '503 down_local' => 2 }, "$_: refused")
    for qw(total money);
is_deeply(answers('local', $_, 20),
          { '200 down_local' => 3, '429 down_local' => 17 },
          "$_: half of what was left") for qw(small month tokens);

is_deeply(answers('local', $_, 20), { '200 down_local' => 20 },
          "$_: what only observes refuses nobody") for qw(watched looked);

# what it has never seen Postgres says, if anybody does

is_deeply(answers('local', 'other', 20),
          { '200 down_local' => 4, '429 down_local' => 16 },
          'other: half of what others had left');

$pg->stop;
is_deeply(answers('local', 'nowhere', 3), { '503 down_local' => 3 },
          'nowhere: nobody knows');
is_deeply(answers('local', 'other', 2), { '429 down_local' => 2 },
          'other: what was said is known');

$pg->start;
wait_for('Postgres is back', sub {
    get('local', 'nowhere')->{status} != 503 }, 30);
is_deeply(answers('local', 'nowhere', 20),
          { '200 down_local' => 3, '429 down_local' => 17 },
          'nowhere: half of what others had left');


# and back again

$redis->start;

for my $node (sort keys %n) {
    wait_for("Redis at $node", sub {
        get($node, 'fast')->{headers}{'x-mode'} =~ /^(leased|direct)$/ }, 20);
    pass("$node is back");
}

$t->done;
