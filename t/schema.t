#!/usr/bin/perl

# Migrations, roles, row-level security and the views: what stands before any
# function of the admin API is called.

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);
my @files = map { m{(\d{4}_\w+)\.sql$} ? $1 : () } sort glob 'schema/*.sql';

sub denied {
    my ($user, $sql, $name) = @_;

    eval { $pg->run($sql, user => $user) };
    like($@, qr/permission denied/, $name);
}

sub migrate {
    my ($user, $db) = @_;

    for my $file (@files) {
        open my $f, '<', "schema/$file.sql" or die "$file: $!";
        my $sql = join '', <$f>;

        eval { $pg->run("\\c $db $user\n"
                        . "BEGIN;\n$sql\nCOMMIT;") };
        return "$file: $@" if $@;
    }

    return '';
}


# migrations

{
    open my $f, '<', 'src/base/version.h' or die "version.h: $!";
    my ($known) = join('', <$f>) =~ /^#define APIKEY_SCHEMA\s+(\d+)/m;

    is($pg->value('SELECT apikey.schema_version()',
                  user => 'apikey_gateway'), $known,
       'the schema\'s version is the one the module knows');
}

is(migrate('postgres', 'postgres'), '', 'every migration may run again');

$pg->run("CREATE ROLE plain LOGIN CREATEROLE;\nCREATE DATABASE second;\n"
         . "GRANT CREATE ON DATABASE second TO plain;\n"
         . "GRANT apikey_owner TO plain WITH ADMIN OPTION;");
is(migrate('plain', 'second'), '', 'and runs without a superuser');
is(migrate('plain', 'second'), '', 'twice');

is_deeply([ $pg->column(q{
    SELECT c.relname || ' is of ' || c.relowner::regrole FROM pg_class c
    WHERE c.relnamespace = 'apikey'::regnamespace
        AND c.relowner <> 'apikey_owner'::regrole
    UNION ALL
    SELECT p.oid::regprocedure || ' is of ' || p.proowner::regrole
    FROM pg_proc p WHERE p.pronamespace = 'apikey'::regnamespace
        AND p.proowner <> 'apikey_owner'::regrole}) ],
    [], 'everything belongs to apikey_owner');

is_deeply([ $pg->column(q{
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = 'apikey'::regnamespace
        AND obj_description(p.oid, 'pg_proc') IS NULL
    UNION ALL
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = 'apikey'::regnamespace
        AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND obj_description(c.oid, 'pg_class') IS NULL}) ],
    [], 'everything says what it is for');

is_deeply([ $pg->column(q{
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = 'apikey'::regnamespace
        AND has_function_privilege('public', p.oid, 'EXECUTE')}) ],
    [], 'no function is everybody\'s');

is_deeply([ sort $pg->column(q{
    SELECT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'apikey'::regnamespace AND p.prosecdef}) ],
    [ qw(audit_drop conversations_open export_open import_find key_item key_page key_unused keyring_find keyring_rows
         limit_again limit_left periods_due plan_left requests_page secret_item usage_keep) ],
    'only what reads digests, lists, how old limits are, and what drops old'
    . ' rows and closes periods run as the owner');

is_deeply([ $pg->column(q{
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = 'apikey'::regnamespace AND p.prosecdef
        AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)}) ],
    [], 'and with a search_path of its own');


# rights

my $one = $api->call('key_create', body => { name => 'one', owner => 'first',
    limits => [ { name => 'l', unit => 'requests', limit => 5,
                  window => '1s' } ] })->{json};
my $two = $api->call('key_create', body => { name => 'two', owner => 'second',
    limits => [ { name => 'l', unit => 'requests', limit => 5,
                  window => '1s' } ] })->{json};
$api->call('owner_put', id => 'first', body => { limits => [
    { name => 'o', unit => 'requests', limit => 9, window => '1s' } ] });

denied('apikey_gateway', 'SELECT digest FROM apikey.secret',
       'the gateway reads no digest');
denied('apikey_gateway', 'SELECT * FROM apikey.secret', 'nor with *');
denied('apikey_gateway', 'UPDATE apikey.secret SET digest = digest',
       'nor changes one');
denied('apikey_gateway', 'DELETE FROM apikey.key', 'nor deletes a key');
denied('apikey_gateway', 'DELETE FROM apikey.audit', 'nor an audit entry');
denied('apikey_gateway', 'UPDATE apikey.audit SET actor = $$x$$',
       'nor changes one');
denied('apikey_gateway', 'SELECT * FROM apikey.key_summary',
       'nor reads a view that shows everybody');
denied('apikey_gateway', 'CREATE TABLE apikey.x ()', 'nor makes tables');

for my $table (qw(owner key secret limit_rule audit usage_quarter key_usage)) {
    denied('apikey_reader', "SELECT * FROM apikey.$table",
           "the reader does not read $table");
}

denied('apikey_reader', q{SELECT * FROM apikey.keyring_rows('{}', '{}', 'key',
       NULL, 1)}, 'nor digests');
denied('apikey_reader', q{SELECT apikey.api('whoami', '{}', '{}')},
       'nor calls the admin API');

is($pg->value(q{SELECT string_agg(name, ' ' ORDER BY name)
                FROM apikey.key_summary}, user => 'apikey_reader'), 'one two',
   'the reader sees all keys in key_summary');


# row-level security

my %tables = (owner => 'external', key => 'name', secret => 'start',
              limit_rule => 'name', audit => 'action',
              key_usage => 'key_id::text', usage_quarter => 'owner',
              secret_usage => 'secret_id::text');

$pg->run("INSERT INTO apikey.secret_usage (secret_id, last_used_at)"
         . " SELECT id, now() FROM apikey.secret;");
$pg->run("INSERT INTO apikey.usage_quarter (start, node, key_id, owner,"
         . " customer, service, endpoint, model, outcome, status_code,"
         . " verdict, limit_name) SELECT now(), gen_random_uuid(), k.id,"
         . " o.external, '', '', '', '', '', 200, 'ok', ''"
         . " FROM apikey.key k JOIN apikey.owner o ON o.id = k.owner_id;");

sub seen {
    my ($caller, $key, $owner) = @_;
    my %seen;

    for my $table (sort keys %tables) {
        my @rows = $pg->column(
            "BEGIN; SELECT set_config('apikey.caller', '$caller', true),"
            . " set_config('apikey.key', '$key', true),"
            . " set_config('apikey.owner', '$owner', true) \\gset x\n"
            . "SELECT $tables{$table} FROM apikey.$table;\nCOMMIT;",
            user => 'apikey_gateway');
        $seen{$table} = @rows;
    }

    return \%seen;
}

my %none = map { $_ => 0 } keys %tables;
my $first = $pg->value(
    q{SELECT id FROM apikey.owner WHERE external = 'first'});

is_deeply(seen('', '', ''), \%none, 'not set means no rows');
is_deeply(seen('nobody', $one->{id}, $first), \%none,
          'an unknown caller sees none');
is_deeply(seen('key', '', ''), \%none, 'nor a key that is not named');
is_deeply(seen('key', $one->{id}, $first),
          { %none, owner => 1, key => 1, secret => 1, limit_rule => 2,
            key_usage => 1, usage_quarter => 1, secret_usage => 1 },
          'a key sees itself and its owner\'s limits');
is_deeply(seen('key', $two->{id}, ''),
          { %none, key => 1, secret => 1, limit_rule => 1, key_usage => 1,
            usage_quarter => 1, secret_usage => 1 },
          'and no owner that is not its');
is_deeply({ %{seen('operator_read', '', '')}, audit => 0 },
          { owner => 2, key => 2, secret => 2, limit_rule => 3, audit => 0,
            key_usage => 2, usage_quarter => 2, secret_usage => 2 },
          'an operator sees all');

for my $caller ('', 'key', 'operator_read', 'node') {
    my $set = "SELECT set_config('apikey.caller', '$caller', true),"
        . " set_config('apikey.key', '$one->{id}', true) \\gset x\n";

    $pg->run("BEGIN; $set UPDATE apikey.key SET name = 'hacked';"
             . " UPDATE apikey.owner SET name = 'hacked';"
             . " DELETE FROM apikey.limit_rule; COMMIT;",
             user => 'apikey_gateway');
    is($pg->value(q{SELECT (SELECT count(*) FROM apikey.key
                            WHERE name = 'hacked')
                    + (SELECT count(*) FROM apikey.owner
                       WHERE name = 'hacked')
                    + 3 - (SELECT count(*) FROM apikey.limit_rule)}), 0,
       "caller '$caller' changes nothing");

    eval { $pg->run("BEGIN; $set INSERT INTO apikey.key (name, prefix)"
                    . " VALUES ('x', 'sk'); COMMIT;",
                    user => 'apikey_gateway') };
    like($@, qr/row-level security/, "caller '$caller' makes no key");

    eval { $pg->run("BEGIN; $set INSERT INTO apikey.audit (actor, actor_kind,"
                    . " action, object_kind, object_id) VALUES ('x', 'x', 'x',"
                    . " 'key', '$one->{id}'); COMMIT;",
                    user => 'apikey_gateway') };
    like($@, qr/row-level security/, "caller '$caller' forges no audit");
}

is($pg->value('SELECT count(*) FROM apikey.key', user => 'apikey_gateway'), 0,
   'after the API was called, nothing of its caller is left');


# the exact form of rates: the vectors of the C core, read out of its test

my %unit = (SECOND => 1000000, HOUR => 3600000000, DAY => 86400000000,
            MAX => 9007199254740991);
my $vectors = 0;

open my $c, '<', 't/unit/rate.c' or die "t/unit/rate.c: $!";
my $source = join '', <$c>;

while ($source =~ m/\{ \s* "([^"]+)", \s* ([^{}]+?), \s*
                    \{ \s* ([^}]+?) \s* \} \s* \}/xg)
{
    my ($name, $in, $out) = ($1, $2, $3);

    next if $in =~ /UINT64_MAX/;         # more than a bigint holds

    s/(SECOND|HOUR|DAY|MAX)/$unit{$1}/g for $in, $out;
    s/(\d+)/$1::bigint/g for $in;
    $out =~ s/\s+//g;

    is($pg->value("SELECT coalesce(r.token, 0) || ',' || coalesce(r.refill, 0)"
                  . " || ',' || coalesce(r.capacity, 0)"
                  . " || ',' || coalesce(r.tick, 0)"
                  . " FROM apikey.rate_form($in) r"), $out, "rate: $name");
    $vectors++;
}

cmp_ok($vectors, '>=', 15, 'the vectors were found');

is($pg->value(q{SELECT string_agg(apikey.money_text(x), ' ') FROM unnest(
    ARRAY[0, 1, 10000000, 131204118000, 1000000000, 131204118000000000001]
    ::numeric[]) x}),
   '0.00 0.000000001 0.01 131.204118 1.00 131204118000.000000001',
   'money has two to nine decimals and loses none');

is($pg->value(q{SELECT count(DISTINCT u) || ' ' || bool_and(
        u::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab]')
    FROM (SELECT apikey.uuid_v7() AS u FROM generate_series(1, 1000)) x}),
   '1000 true', 'ids are UUIDs of version 7');

$t->done;
