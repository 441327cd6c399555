# A zone that is too small for all accounts in use: limits stay exact, also
# without Redis, and whoever is refused for it is told that the store is
# missing.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;

my $up = $t->upstream;
my $redis = $t->redis;

my $node = $t->nginx(name => 'n', workers => 1, base => {
    zone => 'apikey_zone zone=apikey:1m;',
    redis => 'apikey_redis %%REDIS%% timeout=3s;' }, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_reserve tokens=$arg_reserve;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my $SLOTS = 600;

sub limited {
    my ($n, $unit, $limit, $window) = @_;

    return $t->keys($n, limits => [ { name => 'l', unit => $unit,
        limit => $limit, $window ? (window => $window) : () } ]);
}

my @slots = limited($SLOTS, concurrent => 2);
my @month = limited(700, requests => 3, 'month');
my ($hour) = limited(1, requests => 3, '1h');
my ($over) = limited(1, tokens => 30, 'month');
my ($under) = limited(1, tokens => 30, 'month');
my ($sum) = limited(1, tokens => 30, 'total');

$t->sync;

sub answers {
    my ($n, $key, $reserve, $tokens) = @_;

    my %n;

    for (1 .. $n) {
        my $r = $node->get("/set/X-Usage-Input-Tokens/" . ($tokens // 0)
                           . '?reserve=' . ($reserve // 0),
                           key => $key->{key});
        my $code = $r->{status} == 200 ? 'ok' : json($r)->{code};
        $n{"$r->{status} $code"}++;
    }

    return \%n;
}

# what runs in slots keeps its places

my @runs = map { my $c = $node->conn;
                 $c->send(Apikey::Http::build('GET', '/gate',
                                              key => $_->{key}));
                 $c } @slots;

my $refused = wait_for('refusals', sub {
    my $no = $node->metric('apikey_requests_total', verdict => 'unavailable');
    return $no && $no + $up->hits >= $SLOTS && $no;
});

cmp_ok($refused, '<', $SLOTS, 'some run');
ok($node->wait_log(qr/apikey_zone: no room for another lease/),
   'the log says why others do not');
is_deeply(answers(2, $slots[-1]), { '503 unavailable' => 2 },
          'what nobody can count is refused');

my $r = $node->get('/', key => $slots[-1]{key});
is($r->{headers}{'retry-after'}, 1, '... for now');

# all else is asked about in Redis, and settled there

is_deeply(answers(5, $month[0]),
          { '200 ok' => 3, '429 quota_exceeded' => 2 }, 'a month');
is_deeply(answers(5, $hour), { '200 ok' => 3, '429 rate_limited' => 2 },
          'an hour');
is_deeply(answers(8, $over, 1, 10),
          { '200 ok' => 3, '429 quota_exceeded' => 5 },
          'what answers cost above their reserve is charged');
is_deeply(answers(8, $sum, 1, 10),
          { '200 ok' => 3, '402 credits_exhausted' => 5 }, '... to a total');
is_deeply(answers(12, $under, 10, 1), { '200 ok' => 12 },
          'what they did not cost comes back');

# the places are free again

$up->let_go;
my %status;
$status{$_->response->{status}}++ for @runs;

is_deeply(\%status, { 200 => $SLOTS - $refused, 503 => $refused },
          'who runs ends well');
wait_for('a place', sub { answers(1, $slots[-1])->{'200 ok'} });

# ... also those of who has used some of a month, and is not there any more

answers(1, $_) for @month;
ok(wait_for('a place', sub { answers(1, $slots[0])->{'200 ok'} }),
   'who runs takes the place of who does not');
is_deeply(answers(3, $month[1]),
          { '200 ok' => 2, '429 quota_exceeded' => 1 },
          'what was used is used');

subtest 'Redis goes away' => sub {
    my $alone = $t->nginx(name => 'alone', workers => 1, base => {
        zone => 'apikey_zone zone=apikey:1m;',
        redis => "apikey_redis %%REDIS%% timeout=500ms;\n"
                 . '    apikey_redis_down local nodes=1;' },
        server => <<'EOT')->start;
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

    my $one = { name => 'one', unit => 'requests', limit => 3 };
    my @all = ([ bucket => { %$one, window => '31d' } ],
               [ rolling => { %$one, window => '31d', rolling => \1 } ],
               [ both => { %$one, window => '31d' },
                         { %$one, name => 'two', limit => 50,
                           window => 'month' } ],
               [ month => { %$one, window => 'month' } ]);
    my %key;

    for (@all) {
        my ($name, @limits) = @$_;
        $key{$name} = $t->key(limits => \@limits);
    }

    $t->sync;

    my $get = sub { return $alone->get('/', key => $_[0]{key})->{status} };

    for my $name (map { $_->[0] } @all) {
        is_deeply([ map { $get->($key{$name}) } 1 .. 4 ],
                  [ (200) x 3, 429 ], "$name: all is used");
    }

    $t->wait_events(4, "key_id = '$key{month}{id}'");

    # each of these takes a place of the oldest in its part of the table, and
    # nobody is older than the four

    $get->($_) for @month;

    for my $slot (@slots[0 .. 31]) {
        wait_for('a place', sub { $get->($slot) == 200 });
    }

    $redis->stop('kill');
    wait_for('Redis has gone', sub {
        return $alone->metric('apikey_redis_up') == 0 });

    for my $name (map { $_->[0] } @all) {
        is_deeply([ map { $get->($key{$name}) } 1 .. 4 ], [ (429) x 4 ],
                  "$name: nothing of it is forgotten");
    }
};

$t->allow(qr/apikey_redis:/);
$t->allow(qr/apikey_zone: no room/);
$t->done;
