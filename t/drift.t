
# apikey_budget_drift: budgets are held against what Postgres knows.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->upstream;

sub budget { return { name => $_[0], unit => 'cost', limit => $_[1],
                      window => $_[2], mode => 'strict', model => $_[3] } }

my $n = $t->nginx(workers => 2, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_reserve cost=1;
            apikey_model $arg_model;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my $key = $t->key(owner => 'ada',
    limits => [ budget('all', '90.00', 'total'),
                budget('gpt', '50.00', 'month', 'gpt-*'),
                { name => 'hourly', limit => 100, window => '1h' } ],
    owner_limits => [ budget('own', '70.00', 'total') ]);

$t->sync;

is($n->metric('apikey_budget_drift'), 0, 'none at first');

for my $model ('gpt-4', 'gpt-4o', 'other') {
    is($n->get("/set/X-Usage-Cost/0.125?model=$model", key => $key->{key})
       ->{status}, 200, "a request of $model");
}

wait_for('their records', sub {
    ($pg->value("SELECT requests FROM apikey.key_usage
                 WHERE key_id = '$key->{id}'") // 0) == 3;
});


# New workers look soon; what they see is what the caller says is so.

sub looks {
    my ($change, $want, $name) = @_;

    $pg->run("UPDATE apikey.usage_quarter SET cost = cost + $change
              WHERE model = 'gpt-4'");
    $n->reload;
    wait_for("a drift of $want", sub {
        $n->metric('apikey_budget_drift') == $want;
    }, 30);
    pass($name);
}

looks(2_000_000_000, 2, 'Postgres has more');
looks(-2_000_000_000, 0, 'none again');
looks(-100_000_001, 0.100000001, 'Postgres has less');

my ($row) = grep { $_->[0] eq 'key' } $pg->rows(
    "SELECT level, used FROM apikey.budgets_used(NULL, 20)",
    user => 'apikey_gateway');
is($row->[1], '274999999 149999999 -', 'what Postgres knows of each');

is($pg->value("SELECT count(*) FROM apikey.budgets_used(NULL, 1)",
              user => 'apikey_gateway'), 1, 'of so many holders at most');

# what was used before there was a budget is none of its use

$pg->run("UPDATE apikey.usage_quarter SET cost = cost + 100000001
          WHERE model = 'gpt-4';
          UPDATE apikey.limit_rule SET made = now() WHERE name = 'gpt'");
($row) = grep { $_->[0] eq 'key' } $pg->rows(
    "SELECT level, used FROM apikey.budgets_used(NULL, 20)",
    user => 'apikey_gateway');
is($row->[1], '375000000 0 -', 'a budget made in the middle of its period');

$t->done;
