# GET limits: what is left now, by who counts it; of a key with its owner, of
# an owner, of everyone who is at so many percent.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(base => { redis => undef }, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_reserve tokens=0 cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my $key = $t->key(owner => 'ada', scopes => [ 'apikey:manage' ], limits => [
    { name => 'long', limit => 1000, window => '31d' },
    { name => 'budget', unit => 'cost', limit => '50.00', window => 'month' },
    { name => 'jobs', unit => 'concurrent', limit => 8 },
    { name => 'all', limit => 40, window => 'total' } ],
    owner_limits => [ { name => 'monthly', limit => 400, window => 'month' } ],
    credits => { unit => 'requests', remaining => 100 });
my $other = $t->key(owner => 'bob', limits => [
    { name => 'hourly', limit => 10, window => '1h' } ]);
my $blind = $t->key(owner => 'eve', limits => [
    { name => 'strict', unit => 'cost', limit => '5.00', window => 'month' },
    { name => 'total', unit => 'cost', limit => '6.00', window => 'total' },
    { name => 'trim', unit => 'cost', limit => '7.00', window => 'month',
      mode => 'trim' } ]);
my $idle = $t->key(limits => [ { name => 'month', limit => 9,
                                 window => 'month' } ]);

$t->sync;

sub ask {
    my ($query, %opt) = @_;

    my $r = $n->admin('GET', "limits$query", %opt);
    return json($r) if $r->{status} == 200;
    return "$r->{status} " . json($r)->{code};
}

is($n->get('/?weight=30&cost=41.7', key => $key->{key})->{status}, 200,
   'thirty requests, and money');
is($n->get('/?weight=9', key => $other->{key})->{status}, 200, 'nine of ten');

my ($start, $end) = @{($pg->rows("SELECT p.start, apikey.time_text(p.\"end\")
                        FROM apikey.period('UTC', 1, now()) AS p"))[0]};
my $r = ask("?key=$key->{id}");
my %common = (key => $key->{id}, owner => 'ada', level => 'key');
my @data = @{$r->{data}};

like($r->{as_of}, qr/^20\d\d-.*Z$/, 'as of now');
is($r->{currency}, 'USD', 'the currency');
ok(!$r->{has_more}, 'all of them');

my @reset = map { delete $_->{reset} } @data;

is_deeply(\@data, [
    { %common, name => 'long', unit => 'requests', limit => 1000, used => 30,
      remaining => 970, percent => 3, window => '31d', resets_at => undef },
    { %common, name => 'budget', unit => 'cost', limit => '50.00',
      used => '41.70', remaining => '8.30', percent => 83.4,
      window => 'month', resets_at => $end },
    { %common, name => 'jobs', unit => 'concurrent', limit => 8, used => 0,
      remaining => 8, percent => 0, window => undef, resets_at => undef },
    { %common, name => 'all', unit => 'requests', limit => 40, used => 30,
      remaining => 10, percent => 75, window => 'total', resets_at => undef },
    { %common, key => undef, level => 'owner', name => 'monthly',
      unit => 'requests', limit => 400, used => 30, remaining => 370,
      percent => 7.5, window => 'month', resets_at => $end } ],
    'a key with its owner');

cmp_ok(abs($reset[0] - 31 * 86400 * 0.03), '<=', 20,
       'a length of time refills all the time');
cmp_ok(abs($reset[1] - $reset[4]), '<=', 1, 'a month ends for both');
is($reset[3], undef, 'a total never resets');

my $page = json($n->admin('GET', "api-keys/$key->{id}/usage"));

is_deeply($page->{limits}, [ map {
    my %limit = %{$data[$_]};
    delete @limit{qw(key owner)};
    +{ %limit, reset => $page->{limits}[$_]{reset} } } 0 .. $#data ],
    'a usage page has the same');
cmp_ok(abs(($page->{limits}[$_]{reset} // 0) - ($reset[$_] // 0)), '<=', 60,
       'and when it is full again') for 0 .. $#data;

is_deeply([ map { $_->{name} } @{ask("?key=$key->{id}&min_percent=75")
                                 ->{data}} ],
          [ qw(budget all) ], 'from 75 percent on');
is_deeply([ map { "$_->{name} $_->{used}" } @{ask('?owner=ada')->{data}} ],
          [ 'monthly 30' ], 'an owner alone');
is_deeply([ map { "$_->{name} $_->{used} $_->{remaining}" }
            @{ask("?key=$idle->{id}")->{data}} ],
          [ 'month 0 9' ], 'one that nobody has used');

# who calls

is(scalar @{ask('', as => $key->{key})->{data}}, 1, 'an owner of itself');
is(scalar @{ask("?key=$key->{id}", as => $key->{key})->{data}}, 5,
   '... and of its key');
is(scalar @{ask('', as => $other->{key})->{data}}, 1, 'a key of itself');
is(ask("?key=$other->{id}", as => $key->{key}), '404 not_found',
   'not of others');
is(ask('?owner=bob', as => $other->{key}), '403 forbidden',
   'a key names no owner');
is(ask('?min_percent=x'), '400 invalid_request', 'no number');
is(ask('?key=a&owner=b'), '400 invalid_request', 'both');

# everyone

is_deeply([ map { "$_->{owner} $_->{name} $_->{percent}" }
            @{ask('?min_percent=70')->{data}} ],
          [ 'bob hourly 90', 'ada budget 83.4', 'ada all 75' ],
          'everyone from 70 percent on, highest first');
is_deeply(ask('')->{data}, [], 'nobody has used all');

$n->get('/', key => $other->{key});
is_deeply([ map { "$_->{owner} $_->{used}" } @{ask('')->{data}} ],
          [ 'bob 10' ], 'one has');

my @seen;
my $cursor = '';

for my $page (1 .. 5) {
    $r = ask("?min_percent=1&limit=2$cursor");
    push @seen, map { $_->{name} } @{$r->{data}};
    last if !$r->{has_more};
    $cursor = "&cursor=$r->{next_cursor}";
}

is("@seen", 'hourly budget all monthly long', 'in pages');

$t->key(owner => 'zoe', limits => [ { name => 'no', limit => 0,
                                      window => '1h' } ]);
$t->sync;

is_deeply([ map { "$_->{owner} $_->{name} $_->{percent}" }
            @{ask('')->{data}} ],
          [ 'bob hourly 100', 'zoe no 100' ], 'nothing is used up at once');
like($n->admin('GET', "limits?min_percent=$_")->{body},
     qr/a whole number is needed, 0 or more/, "not $_ percent")
    for '0.1', '-5';

# what a restart has lost is told by usage

wait_for('its usage', sub {
    $pg->value("SELECT sum(units) FROM apikey.usage_quarter") == 40 });
is_deeply([ map { join ' ', map { $_ // 'null' } @$_ } $pg->rows(
    "SELECT owner, name, level, \"limit\"::float8, used::float8,
         remaining::float8, percent, \"window\",
         apikey.time_text(resets_at) FROM apikey.limit_status
     WHERE owner = 'ada' ORDER BY level, name", user => 'apikey_reader') ],
    [ 'ada all key 40 30 10 75.0 total null',
      "ada budget key 50 41.7 8.3 83.4 month $end",
      'ada jobs key 8 null null null null null',
      'ada long key 1000 null null null 31d null',
      "ada monthly owner 400 30 370 7.5 month $end" ],
    'what usage tells is in a view');

# a request whose cost nobody knows takes what is left of strict budgets, and
# as much of others

my $all = 'strict 5.00 0.00, total 5.00 1.00, trim 5.00 2.00';

sub left {
    return join ', ', sort map { "$_->{name} $_->{used} $_->{remaining}" }
        @{ask("?key=$blind->{id}")->{data}};
}

$n->get('/?cost=1', key => $blind->{key});
is($n->get('/', key => $blind->{key})->{status}, 200, 'an unknown cost');
is(left(), $all, 'as requests are decided');
wait_for('its usage', sub { $pg->value("SELECT sum(unpriced)
    FROM apikey.usage_quarter WHERE key_id = '$blind->{id}'") });
is(join(', ', map { join ' ', @$_ } $pg->rows("SELECT name, used::numeric(9, 2),
       remaining::numeric(9, 2) FROM apikey.limit_status
       WHERE owner = 'eve' ORDER BY name", user => 'apikey_reader')), $all,
   'as the view says');

$n->stop('KILL');
$n->start;
is($n->get('/?cost=0.5', key => $blind->{key})->{status}, 402,
   'as after a loss');
is(left(), $all, 'which tells the same');
is_deeply([ map { "$_->{name} $_->{used}" } grep { $_->{name} =~ /^all|^mon/ }
            @{ask("?key=$key->{id}")->{data}} ],
          [ 'all 30', 'monthly 30' ], 'totals and months after a loss');

$t->done;
