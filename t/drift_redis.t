# apikey_budget_drift where levels stand in Redis: every node holds what Redis
# says against what Postgres knows, whichever node the requests came to.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;

$t->upstream;
$t->redis;

my %key = map { $_ => $t->key(owner => "ada $_", limits => [
    { name => 'all', unit => 'cost', limit => '90.00', window => 'total' },
    { name => 'month', unit => 'cost', limit => '50.00', window => 'month' },
    { name => 'gpt', unit => 'cost', limit => '50.00', window => 'month',
      model => 'gpt-*' } ]) } qw(direct leased);

my %n = map { my $mode = $_; $mode => [ map { $t->nginx(name => "$mode-$_",
    base => { redis => "apikey_redis %%REDIS%% prefix=$mode timeout=2s;\n"
                       . "    apikey_limit_mode $mode;" },
    server => <<'EOT')->start } 1, 2 ] } qw(direct leased);
        location / {
            apikey required;
            apikey_usage headers;
            apikey_reserve cost=1;
            apikey_model $arg_model;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my @all = map { @$_ } values %n;

$t->sync;

for my $mode (sort keys %n) {
    for my $i (0, 1, 1) {
        is($n{$mode}[$i]->get('/set/X-Usage-Cost/0.125?model=gpt-4',
                              key => $key{$mode}{key})->{status}, 200,
           "a request in $mode mode");
    }
}

for my $key (values %key) {
    wait_for('their records', sub {
        ($pg->value("SELECT requests FROM apikey.key_usage
                     WHERE key_id = '$key->{id}'") // 0) == 3;
    });
}


# New workers look soon; a budget that is leased just then is left alone, and
# looked at by the next ones.

sub looks {
    my ($change, $want, $name) = @_;

    my $tries = 5;

    # of each key one row of several

    $pg->run("UPDATE apikey.usage_quarter q SET cost = cost + $change
              FROM (SELECT DISTINCT ON (key_id) ctid AS row
                    FROM apikey.usage_quarter WHERE model = 'gpt-4'
                    ORDER BY key_id, node, start) AS x
              WHERE q.ctid = x.row");

    my @left = @all;

    while (@left && $tries--) {
        $_->reload for @left;

        eval { wait_for('a look', sub {
            @left = grep { $_->metric('apikey_budget_drift') != $want } @left;
            return !@left;
        }, 9) };
    }

    is(join(' ', map { $_->name } @left), '', $name);
}

looks(2_000_000_000, 2, 'Postgres has more');
looks(-2_000_000_000, 0, 'none');

$t->done;
