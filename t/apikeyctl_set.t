# apikeyctl set: what is set per installation, in a real Postgres.

use strict;
use warnings;

use Test::More;

use Apikey::Ctl;
use Apikey::Test;

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);
my $pg = $t->postgres;
my @pg = ('--postgres', $pg->conninfo(user => 'postgres'));

my ($rc, $out, $err);


sub value { ($ctl->run(['set', $_[0], @pg]))[1] }


# Names are those of the contract's section 6.

my @names = qw(currency raw_days client_prefix audit_days leak_keys
               leak_action webhook_allow export_dir leak_expire close_days);

($rc, $out, $err) = $ctl->run(['set', @pg]);
is($rc, 0, 'all settings') or diag $err;
is_deeply([ map { (split)[0] } split /\n/, $out ], \@names, 'are listed');
like($out, qr/^currency +USD +ISO 4217/m, 'with value and meaning');

my %standard = (currency => 'USD', raw_days => 7, client_prefix => '24,48',
                audit_days => 0, leak_action => 'notify',
                leak_expire => '24h');
is(value($_), ($standard{$_} // '') . "\n", "$_ where nothing is set")
    for @names;


# Values that are taken, and those that are not.

my %good = (
    currency      => [ 'EUR', 'JPY' ],
    raw_days      => [ '0', '30', '9999' ],
    client_prefix => [ '0,0', '32,128', '16,56', '8,100' ],
    audit_days    => [ '0', '365' ],
    leak_keys     => [ '' ],
    leak_expire   => [ '1h', '30d', '0s' ],
    leak_action   => [ 'disable', 'expire', 'notify' ],
    webhook_allow => [ '10.0.0.0/8', '10.1.0.0/16 fd00::/8,192.168.1.7', '' ],
    export_dir    => [ '/var/lib/apikey/export', '' ],
    close_days    => [ '0', '5', '999', '' ],
);

my %bad = (
    currency      => [ 'eur', 'EURO', '', 'E1R' ],
    raw_days      => [ '-1', '1.5', '', '7 days', '10000', '07' ],
    client_prefix => [ '33,48', '24,129', '24', '24, 48', ',', '-1,48' ],
    audit_days    => [ 'ever', '100000' ],
    leak_expire   => [ 'soon', '', '400d' ],
    leak_action   => [ 'delete', '' ],
    webhook_allow => [ 'example.com', '10.0.0.0/33', '10.0.0.0/8;::/0' ],
    export_dir    => [ 'export' ],
    close_days    => [ '-1', '1000', 'soon' ],
    no_such       => [ '1' ],
);

for my $name (@names) {
    for my $value (@{$good{$name}}) {
        ($rc, undef, $err) = $ctl->run(['set', $name, $value, @pg]);
        is($rc, 0, "$name \"$value\"") or diag $err;
        is(value($name), "$value\n", 'is set');
    }
}

for my $name (sort keys %bad) {
    $ctl->wrong(['set', $name, $_, @pg], qr/^apikeyctl: set: $name: ./,
                "$name \"$_\"") for @{$bad{$name}};
}

is(value('currency'), "JPY\n", 'a refused value changes nothing');
is($pg->value('SELECT apikey.currency()', user => 'apikey_gateway'), 'JPY',
   'the admin API sees what is set');

eval { $pg->run("UPDATE apikey.setting SET value = 'x' WHERE name ="
                . " 'raw_days'") };
like($@, qr/raw_days: a number of days/, 'nor does SQL take it');


# The currency is fixed once money is stored.

my $fixed = sub {
    my ($what) = @_;

    ($rc, undef, $err) = $ctl->run(['set', 'currency', 'EUR', @pg]);
    is($rc, 2, "the currency with $what");
    like($err, qr/currency: amounts in JPY are stored already/, 'is fixed');
    is(value('currency'), "JPY\n", 'and stays');

    eval { $pg->run("DELETE FROM apikey.setting WHERE name = 'currency'") };
    like($@, qr/stored already/, 'nor can it be taken away');

    ($rc) = $ctl->run(['set', 'currency', 'JPY', @pg]);
    is($rc, 0, 'the same again is none');
};

my $key = '00000000-0000-7000-8000-000000000001';

$pg->run("INSERT INTO apikey.key (id, name, prefix) VALUES ('$key', 'x', 'sk');"
         . "INSERT INTO apikey.limit_rule (key_id, position, name, unit,"
         . " \"limit\", window_text) VALUES ('$key', 0, 'b', 'cost', 5,"
         . " 'month')");
$fixed->('a budget');
$pg->run('DELETE FROM apikey.limit_rule');
($rc) = $ctl->run(['set', 'currency', 'CHF', @pg]);
is($rc, 0, 'without any it can be changed');
$ctl->run(['set', 'currency', 'JPY', @pg]);

$pg->run("INSERT INTO apikey.plan (external, name, monthly_price)"
         . " VALUES ('pro', 'Pro', 49000000000)");
$fixed->('a plan that has a price');
$pg->run('DELETE FROM apikey.plan');

$pg->run("SELECT apikey.put_credits('$key', NULL,"
         . q[ '{"unit": "cost", "remaining": "5.00"}')]);
$fixed->('credits of money');
$pg->run('DELETE FROM apikey.credit');

$pg->run("INSERT INTO apikey.alert (name, kind, thresholds)"
         . " VALUES ('x', 'spend', '{5}')");
$fixed->('an alert at an amount');
$pg->run("DELETE FROM apikey.alert WHERE name = 'x'");

$pg->run("UPDATE apikey.key_usage SET cost = 1 WHERE key_id = '$key'");
$fixed->('usage that cost something');

($rc, undef, $err) = $ctl->run(['schema', 'apply', @pg]);
$pg->run('UPDATE apikey.migration SET digest = NULL');
($rc, undef, $err) = $ctl->run(['schema', 'apply', @pg]);
is($rc, 0, 'the schema runs again all the same') or diag $err;
is(value('currency'), "JPY\n", 'and keeps what is set');


# Who may not.

($rc, undef, $err) = $ctl->run(['set', 'raw_days', '1', '--postgres',
                                $pg->conninfo(user => 'apikey_gateway')]);
is($rc, 3, 'nginx\'s role');
like($err, qr/permission denied.*member of apikey_owner/s,
     'sets nothing, and is told who does');

$ctl->wrong(['set', 'no_such', @pg], qr/no_such: there is no such setting/,
            'a name that does not exist');
$ctl->wrong(['set', 'a', 'b', 'c'], qr/"c" is too much/, 'three words');

$t->done;
