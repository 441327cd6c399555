
# Alerts on limits that only Redis and nodes count: lengths of time, those that
# roll, slots.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use Apikey::Http;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;

$t->redis;
$t->upstream;

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my %node = map { $_ => $t->nginx(name => $_, workers => 2,
                     http => "apikey_limit_mode $_;\n", server => $server)
                     ->start } qw(leased direct local);

my %key = map { $_ => $t->key(owner => $_, name => $_, limits => [
              { name => 'long', limit => 1000, window => '30d' },
              { name => 'rolling', limit => 1200, window => '1d',
                rolling => \1 },
              { name => 'slots', unit => 'concurrent', limit => 2 },
              { name => 'idle', limit => 100_000, window => '1d' } ],
              owner_limits => [ { name => 'daily', limit => 1800,
                                  window => '1d' } ]) } keys %node;

$t->sync(values %node);

# slots that a node holds in advance are taken, too: no rule for them there

for my $rule ([ 'long', undef ], [ 'owner:daily', undef ],
              [ 'rolling', undef ], [ 'idle', undef ],
              [ 'slots', 'direct' ], [ 'slots', 'local' ])
{
    is($node{local}->admin('POST', 'alerts', body => {
        name => $rule->[0], kind => 'limit', thresholds => [ 45, 75, 85 ],
        match => { limit_name => $rule->[0], owner => $rule->[1] } })
       ->{status}, 201, "an alert on $rule->[0]");
}


sub says {
    my ($mode) = @_;

    return join ', ', $pg->column("SELECT concat_ws(' ', state, limit_name,
        threshold, reason) FROM apikey.alert_log WHERE owner = '$mode'
        ORDER BY 1");
}

sub wait_says {
    my ($name, $between, %want) = @_;

    for my $mode (sort keys %want) {
        my $want = join ', ', sort @{$want{$mode}};

        eval { wait_for($name, sub {
            $between->() if $between;
            return says($mode) eq $want }, 60) };
        is(says($mode), $want, "$mode: $name");
    }
}

sub all_modes { my ($sub) = @_; return map { $_ => $sub->($_) } keys %node }


my %hang = map { $_ => $node{$_}->conn } keys %node;

for my $mode (sort keys %node) {
    $hang{$mode}->send(Apikey::Http::build('GET', '/hang?weight=0',
                                           key => $key{$mode}{key}));
    is($node{$mode}->get("/?weight=$_", key => $key{$mode}{key})->{status},
       200, "$mode: $_") for 700, 200;
}

my @length = map { "firing $_" } 'long 45', 'long 75', 'long 85',
                 'rolling 45', 'rolling 75', 'owner:daily 45';
my @slots = ('firing slots 45');

wait_says('fire', undef, all_modes(sub {
    [ @length, $_[0] eq 'leased' ? () : @slots ] }));

my %told = %{JSON::PP::decode_json($pg->value("SELECT data
               FROM apikey.alert_log WHERE owner = 'direct'
                   AND limit_name = 'long' AND threshold = '85'"))};
is_deeply({ map { $_ => $told{$_} } qw(key level unit window limit used
            remaining percent resets_at) },
          { key => $key{direct}{id}, level => 'key', unit => 'requests',
            window => '30d', limit => 1000, used => 900, remaining => 100,
            percent => 90, resets_at => undef }, 'what it says');


# what one node does not see another one may

my $few = qq([{"level": "key", "holder": "$key{local}{id}", "name": "long",
               "used": 1, "remaining": 999}]);

$pg->run("SELECT apikey.alert_looked('$_', true)", user => 'apikey_gateway')
    for $few, '[]';
unlike(says('local'), qr/resolved/, 'one that has counted less');

$pg->run("BEGIN; SELECT pg_advisory_xact_lock(hashtext('apikey.alert_turn'));
          UPDATE apikey.alert_state
              SET checked_at = now() - interval '2 min';
          SELECT apikey.alert_looked('null', false); COMMIT");
is($pg->value("SELECT count(*) FROM apikey.alert_state
               WHERE live AND firing
                   AND checked_at < now() - interval '1 min'"), 0,
   'without Redis nothing has become better');


# an edit makes it less, a limit goes, a request ends; nodes that have nothing
# to say are believed after a minute

for my $mode (sort keys %node) {
    is($node{$mode}->admin('PATCH', "api-keys/$key{$mode}{id}", body => {
        limits => [ { name => 'long', unit => 'requests', limit => 10_000,
                      window => '30d' },
                    { name => 'rolling', unit => 'requests', limit => 1200,
                      window => '1d', rolling => JSON::PP::true },
                    { name => 'slots', unit => 'concurrent', limit => 2 } ] })
       ->{status}, 200, "$mode: raised");
    is($node{$mode}->admin('PATCH', "owners/$mode", body => { limits => [] })
       ->{status}, 200, "$mode: none");
    $hang{$mode}->abort;
}

$t->sync(values %node);

# (not in the middle of a turn, which locks the same rows in another order)

wait_says('are resolved', sub {
    $pg->run("BEGIN;
              SELECT pg_advisory_xact_lock(hashtext('apikey.alert_turn'));
              UPDATE apikey.alert_state
              SET checked_at = now() - interval '2 min'
              WHERE subject !~ ' rolling\$'
                  AND checked_at > now() - interval '90 s';
              COMMIT") },
    all_modes(sub { [ @length, map({ "resolved long $_ below" } 45, 75, 85),
                      'resolved owner:daily 45 gone', $_[0] eq 'leased' ? () :
                      (@slots, 'resolved slots 45 below') ] }));

is($pg->value("SELECT count(*) FROM apikey.alert_state
               WHERE firing AND subject ~ ' rolling\$'"), 6,
   'what is as before is firing');

$t->done;
