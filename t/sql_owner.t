#!/usr/bin/perl

# What an owner may do in the admin API's functions: its own rows only, table
# by table as the gateway's role sees them, and never more than it has.

use strict;
use warnings;
use utf8;

use Test::More;
use JSON::PP ();

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);

my %limit = (name => 'l', unit => 'requests', limit => 5, window => '1s');
my $soon = $pg->value(q{SELECT apikey.time_text(now() + interval '1 day')});
my $later = $pg->value(q{SELECT apikey.time_text(now() + interval '2 days')});

sub create { return $api->call('key_create', body => { name => 'k', @_ }) }
sub wrong { return $api->is_wrong(@_) }
sub problem { return $api->is_problem(@_) }

sub owner_id {
    return $pg->value("SELECT id FROM apikey.owner WHERE external = "
                      . $pg->quote($_[0]));
}


# A key as a caller, as the module describes it.

sub caller_of {
    my ($key, $kind) = @_;

    return { kind => $kind // 'owner', key => $key->{id},
             owner => owner_id($key->{owner}), name => $key->{name},
             scopes => join(' ', @{$key->{scopes}}),
             address => '192.0.2.7' };
}


my $boss = create(name => 'boss', owner => 'ada', limits => [ \%limit ],
                  scopes => [ 'apikey:manage', 'orders:*', 'ship' ],
                  allowed_models => [ 'gpt-4o*', 'o?_%' ])->{json};
my $strong = create(name => 'strong', owner => 'ada', limits => [ \%limit ],
                    scopes => [ 'admin' ])->{json};
my $other = create(name => 'other', owner => 'bob', limits => [ \%limit ],
                   scopes => [ 'apikey:manage', '*' ])->{json};
my $loose = create(name => 'loose', scopes => [ 'apikey:manage' ])->{json};

$api->call('owner_put', id => $_, body => { limits => [ \%limit ] })
    for qw(ada bob);

my $ada = caller_of($boss);
my $bob = caller_of($other);

my $mine = $api->call('key_create', as => $ada, body => {
    name => 'mine', limits => [ \%limit ] }, once => 'a')->{json};
my $theirs = $api->call('key_create', as => $bob, body => {
    name => 'theirs', limits => [ \%limit ] }, once => 'a')->{json};

is("$mine->{owner} $theirs->{owner}", 'ada bob', 'owners make their own keys');

$pg->run("UPDATE apikey.key_usage SET requests = 1;"
         . "INSERT INTO apikey.secret_usage (secret_id, last_used_at)"
         . " SELECT id, now() FROM apikey.secret;"
         . "INSERT INTO apikey.leak (key_id, secret_id, action)"
         . " SELECT key_id, id, 'notify' FROM apikey.secret;"
         . "INSERT INTO apikey.usage_quarter (start, node, key_id, owner,"
         . " customer, service, endpoint, model, outcome, status_code,"
         . " verdict, limit_name, requests) SELECT date_trunc('day', now()),"
         . " gen_random_uuid(), k.id,"
         . " coalesce((SELECT o.external FROM apikey.owner o"
         . " WHERE o.id = k.owner_id), ''), '', '', '', '', 'success', 200,"
         . " 'ok', '', 3 FROM apikey.key k;"
         . "INSERT INTO apikey.usage_event (time, event, node, key_id, owner,"
         . " service, endpoint, method, status_code, outcome, verdict, mode,"
         . " weight, tokens_input, tokens_output, tokens_cached,"
         . " tokens_reasoning, usage_source, bytes_in, bytes_out, duration_us,"
         . " upstream_us) SELECT now(), gen_random_uuid(), gen_random_uuid(),"
         . " k.id, o.external, '', '', 'GET', 200, 'success', 'ok', 'none', 1,"
         . " 0, 0, 0, 0, 'none', 0, 0, 0, 0 FROM apikey.key k"
         . " LEFT JOIN apikey.owner o ON o.id = k.owner_id;");


# isolation, table by table, as the gateway's role

my $set = join '', "BEGIN; SELECT set_config('apikey.caller', 'owner', true),"
    . " set_config('apikey.key', '$boss->{id}', true),"
    . " set_config('apikey.owner', '$ada->{owner}', true),"
    . " set_config('apikey.actor', 'owner key $boss->{id}', true) \\gset x\n";

sub as_ada {
    my ($sql) = @_;

    return $pg->column("$set $sql; COMMIT;", user => 'apikey_gateway');
}

# requests_page() runs as the owner of the tables

sub pages {
    my ($owner) = @_;
    return as_ada("SELECT DISTINCT owner FROM apikey.requests_page("
        . "'{\"query\": {}}', NULL, NULL, NULL, NULL, 100, $owner)");
}

is_deeply([ pages('NULL') ], [], 'no page without an owner');
is_deeply([ pages("'$ada->{owner}'") ], [ 'ada' ], 'a page of its own');
is_deeply([ pages("'$bob->{owner}'") ], [], 'none of another');
eval { $pg->run("SELECT apikey.requests_page('{}', NULL, NULL, NULL, NULL, 9,"
                . " NULL)", user => 'apikey_gateway') };
like($@, qr/insufficient_privilege|42501/, 'nor of nobody');


# what of the gateway's tables is not in here holds nothing of a tenant

my %known = map { $_ => 1 } qw(plan calendar price price_list price_history model change migration node setting
                               usage_node usage_stream usage_wanted
                               usage_import usage_import_part);

is_deeply([ grep { !$known{$_} } $pg->column(q{
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'apikey'::regnamespace AND NOT c.relispartition
        AND c.relkind IN ('r', 'p', 'v', 'm')
        AND has_any_column_privilege('apikey_gateway', c.oid, 'SELECT')
    ORDER BY 1}) ],
    [ qw(alert alert_entry alert_progress alert_state audit billing_period
         credit export_schedule idempotency key key_usage leak limit_past limit_rule owner
         secret
         secret_usage usage_correction usage_quarter usage_request usage_running webhook webhook_attempt
         webhook_delivery webhook_event webhook_secret) ],
    'all tables are tried');

$pg->run(qq{SELECT apikey.put_credits(NULL, id, '{"unit": "tokens",
    "remaining": 5}') FROM apikey.owner;
    SELECT apikey.put_credits(id, NULL, '{"unit": "requests",
    "remaining": 5}') FROM apikey.key});

$pg->run(q{INSERT INTO apikey.limit_past
    SELECT id, 'x', 'requests', '', '', now() FROM apikey.owner UNION ALL
    SELECT id, 'x', 'requests', '', '', now() FROM apikey.key});

$pg->run(q{INSERT INTO apikey.webhook (owner_id, url)
    SELECT id, 'http://x.example/' FROM apikey.owner UNION ALL
    SELECT NULL, 'http://x.example/';
    SELECT apikey.webhook_secret_new(id) FROM apikey.webhook;
    SELECT apikey.event_emit('alert.firing', '{}', id)
    FROM (SELECT id FROM apikey.owner UNION ALL SELECT NULL) AS o;
    SELECT * FROM apikey.webhook_claim(gen_random_uuid(), 100);
    INSERT INTO apikey.alert (owner_id, name, kind, thresholds)
    SELECT id, 'x', 'limit', '{80}' FROM apikey.owner;
    INSERT INTO apikey.alert_state SELECT id, 'x', 80, 'key', owner_id, false,
        true, '', now(), now(), now(), '{}' FROM apikey.alert;
    INSERT INTO apikey.alert_entry (alert_id, owner_id, state, event_id, data)
    SELECT id, owner_id, 'firing', id, '{}' FROM apikey.alert;
    INSERT INTO apikey.export_schedule (owner_id, name, every, time_zone,
        format, profile, next_at)
    SELECT id, 'x', 'day', 'UTC', 'csv', 'basic', now() FROM apikey.owner
    UNION ALL SELECT NULL, 'x', 'day', 'UTC', 'csv', 'basic', now()});

my $bobs = "(SELECT '$bob->{owner}'::uuid)";
my %whose = (
    owner => 'external',
    key => "(SELECT 'ada' WHERE x.owner_id = '$ada->{owner}')",
    secret => "(SELECT 'ada' FROM apikey.key k WHERE k.id = x.key_id)",
    limit_rule => "coalesce((SELECT 'ada' FROM apikey.key k"
        . " WHERE k.id = x.key_id), (SELECT o.external FROM apikey.owner o"
        . " WHERE o.id = x.owner_id))",
    limit_past => "coalesce((SELECT 'ada' FROM apikey.key k"
        . " WHERE k.id = x.holder), (SELECT o.external FROM apikey.owner o"
        . " WHERE o.id = x.holder))",
    credit => "coalesce((SELECT 'ada' FROM apikey.key k"
        . " WHERE k.id = x.key_id), (SELECT o.external FROM apikey.owner o"
        . " WHERE o.id = x.owner_id))",
    audit => "(SELECT 'ada' WHERE x.owner_id = '$ada->{owner}')",
    idempotency => "(SELECT 'ada' WHERE x.actor = 'owner key $boss->{id}')",
    leak => "'of operators only'",
    key_usage => "(SELECT 'ada' FROM apikey.key k WHERE k.id = x.key_id)",
    secret_usage => "(SELECT 'ada' FROM apikey.secret s"
        . " WHERE s.id = x.secret_id)",
    usage_quarter => 'owner',
    usage_request => 'owner',
    (map { ($_ => '(SELECT o.external FROM apikey.owner o'
                  . ' WHERE o.id = x.owner_id)') }
     qw(webhook webhook_event alert alert_entry export_schedule)),
    alert_state => '(SELECT o.external FROM apikey.owner o, apikey.alert a'
        . ' WHERE o.id = a.owner_id AND a.id = x.alert_id)',
    (map { ($_ => "'of nodes only'") }
     qw(alert_progress billing_period usage_correction)),
    (map { ($_ => '(SELECT o.external FROM apikey.owner o, apikey.webhook w'
                  . ' WHERE o.id = w.owner_id AND w.id = x.webhook_id)') }
     qw(webhook_delivery webhook_secret)),
    webhook_attempt => '(SELECT o.external FROM apikey.owner o,'
        . ' apikey.webhook w, apikey.webhook_delivery d WHERE o.id ='
        . ' w.owner_id AND w.id = d.webhook_id AND d.id = x.delivery_id)',
);
my %rows = (owner => 1, key => 3, secret => 3, limit_rule => 4,
            limit_past => 4, credit => 4, audit => 5,
            idempotency => 1, key_usage => 3, leak => 0, secret_usage => 3,
            usage_quarter => 3, usage_request => 3, webhook => 1,
            webhook_event => 1, webhook_delivery => 1, webhook_secret => 1,
            webhook_attempt => 1, alert => 1, alert_entry => 1,
            alert_state => 1, alert_progress => 0, export_schedule => 1,
            billing_period => 0, usage_correction => 0);

for my $table (sort keys %whose) {
    is_deeply([ as_ada("SELECT coalesce($whose{$table}, 'nobody''s')"
                       . " FROM apikey.$table x") ],
              [ ('ada') x $rows{$table} ], "$table: its own rows only");
}

my $before = $pg->value(q{SELECT md5(string_agg(x, ',' ORDER BY x)) FROM (
    SELECT k::text FROM apikey.key k UNION ALL
    SELECT o::text FROM apikey.owner o UNION ALL
    SELECT l::text FROM apikey.limit_rule l UNION ALL
    SELECT s::text FROM apikey.secret s UNION ALL
    SELECT w::text FROM apikey.webhook w UNION ALL
    SELECT i::text FROM apikey.idempotency i) AS y (x)});

for my $case (
    [ key => "UPDATE apikey.key SET name = 'hacked'"
             . " WHERE owner_id IS DISTINCT FROM '$ada->{owner}'" ],
    [ owner => "UPDATE apikey.owner SET name = 'hacked'" ],
    [ secret => "UPDATE apikey.secret SET ended_at = now()"
                . " WHERE key_id IN ('$other->{id}', '$theirs->{id}',"
                . " '$loose->{id}')" ],
    [ 'limit_rule of others' => "DELETE FROM apikey.limit_rule"
                . " WHERE key_id IN ('$other->{id}', '$theirs->{id}')" ],
    [ 'limit_rule of an owner' => "DELETE FROM apikey.limit_rule"
                . " WHERE owner_id IS NOT NULL" ],
    [ 'limit_rule of a key that an operator made' =>
          "DELETE FROM apikey.limit_rule WHERE key_id = '$boss->{id}'" ],
    [ idempotency => "DELETE FROM apikey.idempotency"
                     . " WHERE actor <> 'owner key $boss->{id}'" ],
    [ webhook => "UPDATE apikey.webhook SET url = 'http://hacked/'"
                 . " WHERE owner_id IS DISTINCT FROM '$ada->{owner}'" ],
    [ usage => "UPDATE apikey.key_usage SET requests = 0;"
               . "UPDATE apikey.usage_quarter SET requests = 0" ])
{
    as_ada($case->[1]);
    is($pg->value(q{SELECT md5(string_agg(x, ',' ORDER BY x)) FROM (
        SELECT k::text FROM apikey.key k UNION ALL
        SELECT o::text FROM apikey.owner o UNION ALL
        SELECT l::text FROM apikey.limit_rule l UNION ALL
        SELECT s::text FROM apikey.secret s UNION ALL
        SELECT w::text FROM apikey.webhook w UNION ALL
        SELECT i::text FROM apikey.idempotency i) AS y (x)}), $before,
       "$case->[0]: not changed");
}

is($pg->value('SELECT sum(requests) FROM apikey.key_usage'), 6,
   'no usage was changed');

my $key = "INSERT INTO apikey.key (name, prefix, owner_id, made_by";

for my $case (
    [ 'a key of another', "$key) VALUES ('x', 'sk', $bobs, 'owner')" ],
    [ 'a key of nobody', "$key) VALUES ('x', 'sk', NULL, 'owner')" ],
    [ 'a key as an operator would',
      "$key) VALUES ('x', 'sk', '$ada->{owner}', 'operator')" ],
    [ 'a key with a plan',
      "$key, plan) VALUES ('x', 'sk', '$ada->{owner}', 'owner', 'pro')" ],
    [ 'an owner', "INSERT INTO apikey.owner (external) VALUES ('x')" ],
    [ 'a secret of another', "INSERT INTO apikey.secret (id, key_id, digest,"
      . " start, last4) VALUES (gen_random_uuid(), '$theirs->{id}',"
      . " sha256('x'), 'x', 'x')" ],
    [ 'a limit of another', "INSERT INTO apikey.limit_rule (key_id, position,"
      . " name, unit, \"limit\") VALUES ('$theirs->{id}', 9, 'x', 'requests',"
      . " 1)" ],
    [ 'a limit of its owner', "INSERT INTO apikey.limit_rule (owner_id,"
      . " position, name, unit, \"limit\") VALUES ('$ada->{owner}', 9, 'x',"
      . " 'requests', 1)" ],
    [ 'a limit of a key that an operator made', "INSERT INTO"
      . " apikey.limit_rule (key_id, position, name, unit, \"limit\") VALUES"
      . " ('$boss->{id}', 9, 'x', 'requests', 1)" ],
    [ 'an audit entry of another', "INSERT INTO apikey.audit (actor,"
      . " actor_kind, action, object_kind, object_id, owner_id) VALUES"
      . " ('x', 'owner', 'x', 'key', '$theirs->{id}', $bobs)" ],
    [ 'an operator\'s audit entry', "INSERT INTO apikey.audit (actor,"
      . " actor_kind, action, object_kind, object_id, owner_id) VALUES"
      . " ('x', 'operator', 'x', 'key', '$boss->{id}', '$ada->{owner}')" ],
    [ 'an alert of another', "INSERT INTO apikey.alert (owner_id, name, kind,"
      . " thresholds) VALUES ($bobs, 'x', 'limit', '{1}')" ],
    [ 'a webhook of another', "INSERT INTO apikey.webhook (owner_id, url)"
      . " VALUES ($bobs, 'http://x/')" ],
    [ 'a webhook of the operators', "INSERT INTO apikey.webhook (url)"
      . " VALUES ('http://x/')" ],
    [ 'an event of another', "INSERT INTO apikey.webhook_event (type,"
      . " owner_id, data) VALUES ('alert.firing', $bobs, '{}')" ],
    [ 'an answer of another', "INSERT INTO apikey.idempotency (actor, key,"
      . " digest, status, headers, body, refresh) VALUES ('operator ops',"
      . " 'x', '', 200, '', '', '')" ])
{
    eval { as_ada($case->[1]) };
    like($@, qr/row-level security/, "no way to add $case->[0]");
}

for my $case (
    [ 'gives a key away' => "owner_id = $bobs" ],
    [ 'gives it a plan' => "plan = 'pro'" ],
    [ 'makes it its own' => "made_by = 'owner'" ],
    [ 'changes its prefix' => "prefix = 'op'" ])
{
    eval { as_ada("UPDATE apikey.key SET $case->[1]"
                  . " WHERE id = '$boss->{id}'") };
    like($@, qr/row-level security|may not change/, "nobody $case->[0]");
}

is($pg->value(q{SELECT count(*) FROM apikey.key WHERE name = 'hacked'}), 0,
   'nothing came of all that');


# a foreign id is an unknown id

for my $id ($other->{id}, $theirs->{id}, $loose->{id},
            '01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60')
{
    problem($api->call($_, id => $id, as => $ada, body => {},
                       path => { sid => $other->{secrets}[0]{id} }),
            404, 'not_found', "$_ of $id")
        for qw(key_get key_update key_revoke key_rotate key_usage secret_end);
}

problem($api->call('owner_get', id => 'bob', as => $ada), 404, 'not_found',
        'another owner');
problem($api->call('usage_summary', as => $ada, query => { owner => 'bob' }),
        404, 'not_found', 'another owner\'s usage');
problem($api->call('usage_summary', as => $ada,
                   query => { key => $theirs->{id} }),
        404, 'not_found', 'another owner\'s key\'s usage');
problem($api->call($_, id => 'ada', as => $ada, body => {}), 403, 'forbidden',
        "$_ is an operator's") for qw(owner_put owner_update owner_list);

is(join(' ', sort map { $_->{name} } @{$api->call('key_list', as => $ada)
   ->{json}{data}}), 'boss mine strong', 'the list is of its own keys');
is(@{$api->call('key_list', as => $ada, query => { owner => 'bob' })
     ->{json}{data}}, 0, 'also when it asks for another\'s');


# who it is, what it used

my $r = $api->call('whoami', as => $ada);
is($r->{body}, '{"caller":"owner","operator":null,"owner":"ada","scopes":'
   . '["apikey:manage","orders:*","ship"],"key":null}', 'whoami');
is($api->call('owner_get', id => 'ada', as => $ada)->{json}{id}, 'ada',
   'it reads its own record');

$r = $api->call('usage_summary', as => $ada);
is_deeply([ @{$r->{json}}{qw(key owner)}, $r->{json}{all_time}{requests},
            $r->{json}{today}{requests} ],
          [ undef, 'ada', 3, 9 ], 'usage/summary is of all its keys');
$r = $api->call('usage_summary', as => $ada, query => { key => $mine->{id} });
is_deeply([ @{$r->{json}}{qw(key owner)}, $r->{json}{today}{requests} ],
          [ $mine->{id}, 'ada', 3 ], 'or of one that it names');
is($api->call('usage_summary', as => $ada, query => { owner => 'ada' })
   ->{json}{today}{requests}, 9, 'or of itself by name');
wrong($api->call('usage_summary', as => $ada,
                 query => { owner => 'ada', key => $mine->{id} }),
      [ 'query:owner bad_value' ], 'not of both');
is($api->call('key_usage', id => $strong->{id}, as => $ada)
   ->{json}{today}{requests}, 3, 'api-keys/{id}/usage');


# what it may write, and what not

$before = $pg->value('SELECT count(*) FROM apikey.audit');

wrong($api->call('key_create', as => $ada, body => {
    name => 'x', owner => 'ada', plan => 'pro',
    credits => { unit => 'cost', remaining => '1.00' } }),
    [ '/owner forbidden', '/plan forbidden', '/credits forbidden' ],
    'what only an operator gives');
wrong($api->call('key_create', as => $ada, body => {
    plan => 'pro', limits => 7, scopes => [ 'ship', 'admin', 8 ] }),
    [ '/name required', '/plan forbidden', '/limits bad_type',
      '/scopes/1 forbidden', '/scopes/2 bad_type' ], 'among other mistakes');
wrong($api->call('key_update', id => $strong->{id}, as => $ada, body => {
    plan => undef, credits => undef, limits => [] }),
    [ '/plan forbidden', '/credits forbidden', '/limits forbidden' ],
    'nor what an operator gave');
wrong($api->call('key_update', id => $mine->{id}, as => $ada, body => {
    prefix => 'x', owner => 'bob', made_by => 'operator',
    disabled_by_owner => $true }),
    [ '/prefix read_only', '/owner read_only', '/made_by unknown',
      '/disabled_by_owner unknown' ], 'nor what nobody changes');

$r = $api->call('key_create', as => $ada, body => {
    name => 'all', prefix => 'ada', metadata => { a => 1 }, customer => 'c',
    expires_at => $later, enabled => $false, allowed_ips => [ '::/0' ],
    scopes => [ 'orders:read', 'ship', 'orders:*', 'orders:a:*' ],
    allowed_models => [ 'gpt-4o*', 'gpt-4o-mini', 'gpt-4o*x*', 'o?_%' ],
    limits => [ \%limit ], owner => undef, plan => undef, credits => undef });
is($r->{status}, 201, 'all that is its own to say') or diag($r->{body});
my $all = $r->{json}{id};

is($api->call('key_update', id => $all, as => $ada, body => {
    name => 'b', metadata => { b => 2 }, customer => undef, enabled => $true,
    expires_at => undef, allowed_ips => undef, scopes => [],
    allowed_models => [], limits => [] })->{status}, 200, 'and to change');
is_deeply($api->call('key_update', id => $all, as => $ada, body => {
    limits => [ { %limit, name => 'mine' } ] })->{json}{limits}[0]{name},
    'mine', 'limits of a key that it made');

for my $scope ('*', 'admin', 'orders', 'orders:', 'order:*', 'shipping',
               'apikey:*')
{
    my @errors = $scope eq 'orders:' ? () : '/scopes/0 forbidden';
    $r = $api->call('key_create', as => $ada, body => { name => 'x',
                                                        scopes => [ $scope ] });

    if (@errors) {
        wrong($r, \@errors, "scope $scope");
    } else {
        is($r->{status}, 201, "scope $scope");
    }
}

for my $model ('*', 'gpt*', '*gpt-4o', 'gpt-4', 'o1_%', 'oo_%', 'o?x%',
               'o?_x', 'gpt_4o')
{
    wrong($api->call('key_create', as => $ada, body => {
        name => 'x', allowed_models => [ 'gpt-4o', $model ] }),
        [ '/allowed_models/1 forbidden' ], "model $model");
}

wrong($api->call('key_create', as => $ada, body => {
    name => 'x', allowed_models => undef }), [ '/allowed_models forbidden' ],
    'all models');
is_deeply($mine->{allowed_models}, [ 'gpt-4o*', 'o?_%' ],
          'what it does not say is what it has');
wrong($api->call('key_update', id => $mine->{id}, as => $ada, body => {
    allowed_models => undef, scopes => [ 'admin' ] }),
    [ '/allowed_models forbidden', '/scopes/0 forbidden' ],
    'nor in a change');
wrong($api->call('key_update', id => $boss->{id}, as => $ada, body => {
    allowed_models => undef, limits => [],
    scopes => [ 'apikey:manage', 'admin' ] }),
    [ '/allowed_models forbidden', '/limits forbidden',
      '/scopes/1 forbidden' ], 'nor in itself');


# a stronger key is not its to hand out, but its to narrow

problem($api->call('key_rotate', id => $strong->{id}, as => $ada), 403,
        'forbidden', 'no secret of a stronger key');
wrong($api->call('key_update', id => $strong->{id}, as => $ada, body => {
    allowed_ips => [ '::/0' ] }), [ '/allowed_ips forbidden' ],
    'nor a wider one');
wrong($api->call('key_update', id => $strong->{id}, as => $ada, body => {
    scopes => [ 'ship' ] }), [ '/scopes forbidden' ],
    'nor a scope for any model');
$r = $api->call('key_create', as => $ada, body => {
    name => 'x', scopes => [ 'ship' ] });
$api->call('key_update', id => $r->{json}{id}, body => {
    scopes => [ 'admin', 'ship' ] });
wrong($api->call('key_update', id => $r->{json}{id}, as => $ada, body => {
    allowed_models => [ 'gpt-4o-mini' ], limits => [] }),
    [ '/limits forbidden' ], 'nor other limits for it, but fewer models');
is($api->call('key_update', id => $r->{json}{id}, as => $ada, body => {
    scopes => [ 'ship' ] })->{status}, 200, 'and fewer scopes');
is($api->call('key_update', id => $r->{json}{id}, as => $ada, body => {
    limits => [] })->{status}, 200, 'and then other limits');

$r = $api->call('key_update', id => $strong->{id}, as => $ada, body => {
    name => 'weaker', expires_at => $soon, enabled => $false });
is($r->{json}{status}, 'disabled', 'it may be disabled, and end');
wrong($api->call('key_update', id => $strong->{id}, as => $ada, body => {
    enabled => $true, expires_at => $later }),
    [ '/enabled forbidden', '/expires_at forbidden' ],
    'but is not enabled or prolonged');
$r = $api->call('key_update', id => $strong->{id}, as => $ada, body => {
    enabled => $true, scopes => [ 'ship' ], allowed_models => [ 'gpt-4o' ] });
is("$r->{status} $r->{json}{status}", '200 active',
   'unless it becomes as weak at once');
is($api->call('key_rotate', id => $strong->{id}, as => $ada)->{status}, 200,
   'and then it may have a new secret');
wrong($api->call('key_update', id => $strong->{id}, as => $ada, body => {
    expires_at => undef }), [ '/expires_at forbidden' ],
    'a key that an operator made is not prolonged');

is($api->call('key_rotate', id => $boss->{id}, as => $ada,
              body => { grace => '1h' })->{status}, 200, 'it rotates itself');


# what an operator disabled stays disabled

for my $id ($mine->{id}, $strong->{id}) {
    $api->call('key_update', id => $id, body => { enabled => $false });
    wrong($api->call('key_update', id => $id, as => $ada, body => {
        enabled => $true }), [ '/enabled forbidden' ], 'by an operator');
    $api->call('key_update', id => $id, as => $ada,
               body => { enabled => $false });
    wrong($api->call('key_update', id => $id, as => $ada, body => {
        enabled => $true }), [ '/enabled forbidden' ], 'disabled twice');
    eval { as_ada("UPDATE apikey.key SET enabled = true WHERE id = '$id'") };
    like($@, qr/may not change/, 'nor in SQL');
    $api->call('key_update', id => $id, body => { enabled => $true });
    $api->call('key_update', id => $id, as => $ada,
               body => { enabled => $false });
    $api->call('key_update', id => $id, body => { name => 'renamed' });
    is($api->call('key_update', id => $id, as => $ada,
                  body => { enabled => $true })->{status}, 200,
       'by itself: it is enabled again');
}

$pg->run("BEGIN; UPDATE apikey.key SET enabled = false"
         . " WHERE id = '$mine->{id}'; COMMIT;");
wrong($api->call('key_update', id => $mine->{id}, as => $ada, body => {
    enabled => $true }), [ '/enabled forbidden' ], 'or in SQL');
$api->call('key_update', id => $mine->{id}, body => { enabled => $true });


# time

$api->call('key_update', id => $boss->{id}, body => { expires_at => $soon });

wrong($api->call('key_create', as => $ada, body => {
    name => 'x', expires_at => $_ }), [ '/expires_at forbidden' ],
    'nothing lives longer: ' . ($_ // 'null')) for $later, undef;
wrong($api->call('key_create', as => $ada, body => {
    name => 'x', expires_at => $_->[0] }), [ "/expires_at $_->[1]" ],
    "a wrong time: $_->[0]") for [ 'never', 'bad_value' ], [ 5, 'bad_type' ];
is($api->call('key_create', as => $ada, body => { name => 'x' })
   ->{json}{expires_at}, $soon, 'what it does not say is its own end');
problem($api->call('key_rotate', id => $all, as => $ada), 403, 'forbidden',
        'no secret of a key that lives longer');
wrong($api->call('key_update', id => $boss->{id}, as => $ada, body => {
    expires_at => $_ }), [ '/expires_at forbidden' ],
    'nor itself: ' . ($_ // 'null')) for $later, undef;


# ends of a grace

my $kept = $api->call('key_get', id => $boss->{id}, as => $ada)->{json};
my ($current, $grace) = map { $_->{id} } @{$kept->{secrets}};

$r = $api->call('secret_end', id => $boss->{id}, path => { sid => $current },
                as => $ada);
problem($r, 409, 'conflict', 'the current secret');
problem($api->call('secret_end', id => $boss->{id}, as => $ada,
                   path => { sid => $_ }), 404, 'not_found', "secret $_")
    for $other->{secrets}[0]{id}, 'x', $mine->{secrets}[0]{id};
problem($api->call('secret_end', id => $boss->{id}, as => $ada, match => '"1"',
                   path => { sid => $grace }), 412, 'precondition_failed',
        'with If-Match');
$r = $api->call('secret_end', id => $boss->{id}, as => $ada,
                path => { sid => $grace });
is("$r->{status}|$r->{body}|@{$r->{refresh}}", "204||key $boss->{id}",
   'a grace ends');
is($api->call('key_get', id => $boss->{id})->{json}{secrets}[1]{state},
   'ended', 'at once');
$r = $api->call('secret_end', id => $boss->{id}, as => $ada,
                path => { sid => $grace });
is("$r->{status}|@{$r->{refresh}}", '204|', 'a second time nothing happens');


# what the copy of a node says of a key is not believed, nor of its secret

my $secret = $api->call('key_get', id => $boss->{id})->{json}{secrets}[0]{id};
my $by = { %$ada, secret => $secret };

is($api->call('whoami', as => $by)->{json}{caller}, 'owner',
   'the current secret');
problem($api->call('whoami', as => { %$by, secret => $grace }), 401,
        'invalid_credential', 'one that was ended');
problem($api->call('whoami', as => { %$by, key => $mine->{id} }), 401,
        'invalid_credential', 'one of another key');
$api->call('key_rotate', id => $boss->{id}, body => { grace => '1h' });
is($api->call('whoami', as => $by)->{json}{caller}, 'owner', 'one in grace');
$pg->run("UPDATE apikey.secret SET expires_at = now() WHERE id = '$secret'");
problem($api->call('whoami', as => $by), 401, 'invalid_credential',
        'one whose grace is over');


my $plain = { %$ada, key => $mine->{id} };

is($api->call('whoami', as => $plain)->{json}{caller}, 'key',
   'a key without apikey:manage is a key');
is($api->call('whoami', as => { %$ada, kind => 'key' })->{json}{caller}, 'key',
   'and one whose scope is new, too');
is($api->call('whoami', as => caller_of($loose))->{json}{caller}, 'key',
   'and one that belongs to nobody');
$r = $api->call('key_create', as => $plain, body => { name => 'x' });
problem($r, 403, 'forbidden', 'which makes no keys');
like($r->{json}{detail}, qr/apikey:manage/, 'and is told who does');
is($api->call('whoami', as => { %$ada, owner => $bob->{owner} })
   ->{json}{owner}, 'ada', 'its owner is its own');

$api->call('key_revoke', id => $mine->{id}, as => $ada);
$r = $api->call('whoami', as => $plain);
problem($r, 401, 'invalid_credential', 'a key revoked meanwhile');
problem($api->call('whoami', as => { %$ada, key => Apikey::Api::uuid() }),
        401, 'invalid_credential', 'a key that does not exist');

$api->call('owner_update', id => 'ada', body => { enabled => $false });
problem($api->call('whoami', as => $ada), 401, 'invalid_credential',
        'a suspended owner\'s key');
$api->call('owner_update', id => 'ada', body => { enabled => $true });


# somebody whom nginx has logged in

my %person = (kind => 'owner', key => undef, owner => undef,
              external => 'ada', address => '192.0.2.8');

is($api->call('whoami', as => \%person)->{body}, '{"caller":"owner",'
   . '"operator":null,"owner":"ada","scopes":[],"key":null}', 'whoami');
is(scalar @{$api->call('key_list', as => \%person, query => {
    status => 'all', limit => 100 })->{json}{data}},
   $pg->value("SELECT count(*) FROM apikey.key WHERE owner_id ="
              . " '$ada->{owner}'"), 'sees its owner\'s keys');
problem($api->call('key_get', id => $other->{id}, as => \%person), 404,
        'not_found', 'and no other');
$r = $api->call('key_create', as => \%person, body => { name => 'by hand' });
is("$r->{status} $r->{json}{owner}", '201 ada', 'makes keys');
wrong($api->call('key_create', as => \%person, body => {
    name => 'x', scopes => [ 'ship' ] }), [ '/scopes/0 forbidden' ],
    'with no scopes, since it has none');
problem($api->call('key_rotate', id => $boss->{id}, as => \%person), 403,
        'forbidden', 'and no secret of a key that has some');
is($pg->value("SELECT actor_kind || ' ' || actor FROM apikey.audit"
              . " ORDER BY id DESC LIMIT 1"), 'owner ada', 'is in the audit');

$api->call('plan_put', id => 'pro', body => {
    scopes => [ 'orders:*' ], allowed_models => [ 'gpt-4o*' ] });
$api->call('owner_update', id => 'ada', body => { plan => 'pro' });
is_deeply($api->call('whoami', as => \%person)->{json}{scopes},
          [ 'orders:*' ], 'what it has is what its plan gives');
$r = $api->call('key_create', as => \%person, body => {
    name => 'planned', scopes => [ 'orders:read' ] });
is_deeply([ @{$r->{json}}{qw(scopes allowed_models plan)} ],
          [ [ 'orders:read' ], [ 'gpt-4o*' ], undef ], 'and that it may give');
wrong($api->call('key_create', as => \%person, body => {
    name => 'x', scopes => [ 'orders:read', 'ship' ],
    allowed_models => [ 'o1' ] }),
    [ '/scopes/1 forbidden', '/allowed_models/0 forbidden' ], 'and no more');

$api->call('plan_put', id => $_, body => {}) for qw(bobs keys);
$api->call('owner_update', id => 'bob', body => { plan => 'bobs' });
$api->call('key_update', id => $strong->{id}, body => { plan => 'keys' });

for my $as ($ada, \%person) {
    is($api->call('plan_get', id => $_, as => $as)->{json}{id}, $_,
       "it reads plan $_") for qw(pro keys);
    problem($api->call('plan_get', id => 'bobs', as => $as), 404,
            'not_found', 'and no other');
    is($api->call('key_usage', id => $strong->{id}, as => $as)
       ->{json}{plan}{id}, 'keys', 'a key\'s usage has the key\'s plan');
}

my %new = (%person, external => 'nobody yet');

is_deeply($api->call('whoami', as => \%new)->{json},
          { caller => 'owner', operator => undef, owner => 'nobody yet',
            scopes => [], key => undef },
          'an identity without an owner is told its name');
is_deeply($api->call('key_list', as => \%new)->{json}{data}, [],
          'has no keys');
problem($api->call('usage_summary', as => \%new), 404, 'not_found',
        'no usage');
$r = $api->call('key_create', as => \%new, body => { name => 'x' });
problem($r, 403, 'forbidden', 'and makes none');
like($r->{json}{detail}, qr/an operator makes it/, 'and is told why');
is(owner_id('nobody yet'), undef, 'it does not make itself');
$api->call('owner_put', id => 'nobody yet', body => {});
is($api->call('key_create', as => \%new, body => { name => 'x' })->{status},
   201, 'once an operator made it, it may');

$api->call('owner_update', id => 'nobody yet', body => { enabled => $false });
is(scalar @{$api->call('key_list', as => \%new)->{json}{data}}, 1,
   'a suspended owner still reads');
problem($api->call('key_create', as => \%new, body => { name => 'x' }), 403,
        'forbidden', 'and changes nothing');
is_deeply($api->call('key_list', as => { kind => 'owner' })->{json}{data}, [],
          'an identity without a name has nothing');

$api->call('owner_delete', id => 'nobody yet',
           query => { revoke_keys => 'true' });
is_deeply($api->call('key_list', as => \%new, query => { status => 'all' })
          ->{json}{data}, [], 'nor one whose owner was deleted');
problem($api->call('key_create', as => \%new, body => { name => 'x' }), 403,
        'forbidden', 'nor makes keys');


# whatever an owner sends, nothing of another's changes, and no 500

my $state = q{SELECT md5(string_agg(x, ',' ORDER BY x)) FROM (
    SELECT k::text FROM apikey.key k WHERE owner_id IS DISTINCT FROM
        (SELECT id FROM apikey.owner WHERE external = 'ada')
    UNION ALL SELECT o::text FROM apikey.owner o
    UNION ALL SELECT p::text FROM apikey.plan p) AS y (x)};
my $all_json = JSON::PP->new->allow_nonref;
my @values = ('null', 'true', '-1', '1.5', '""', '"ada"', '[]', '{}', '[null]',
              '["*"]', '["admin"]', '[{}]', '"2099-01-01"', '[7, "ship"]',
              '["gpt-4o*"]', qq("$boss->{id}"));
my @names = (sort(keys %$boss), 'grace', 'made_by', 'disabled_by_owner');
my @ids = ($boss->{id}, $strong->{id}, $all, $theirs->{id}, $loose->{id}, 'x');
my @odd;

srand 7;
$before = $pg->value($state);

for my $i (1 .. Apikey::Test::rounds(150, 5000)) {
    my $fn = (qw(key_create key_update key_update key_rotate secret_end
                 owner_put plan_put usage_summary))[rand 8];
    my $body = '{' . join(',', map {
        $all_json->encode($names[rand @names]) . ':' . $values[rand @values]
        } 1 .. 1 + rand 5) . '}';
    my $r = $api->call($fn, id => $ids[rand @ids], body => $body,
                       path => { sid => $current },
                       as => $i % 2 ? $ada : \%person);

    push @odd, "$fn $body: $r->{body}" if $r->{status} >= 500;
}

is("@odd", '', 'garbage');
is($pg->value($state), $before, 'and nothing of another\'s has changed');
is($pg->value(q{SELECT count(*) FROM apikey.key WHERE made_by = 'owner'
                AND owner_id = (SELECT id FROM apikey.owner
                                WHERE external = 'ada')
                AND created_at > now() - interval '1 min'
                AND ('*' = ANY (scopes) OR 'admin' = ANY (scopes))}), 0,
   'nor was anything given that it has not');


# audit

is($pg->value(qq{SELECT string_agg(DISTINCT actor_kind || ' ' || actor, ',')
    FROM apikey.audit WHERE object_id = '$all'}), "owner $boss->{id}",
   'who changed what');
is($pg->value(q{SELECT count(*) FROM apikey.audit a LEFT JOIN apikey.key k
    ON k.id = a.object_id WHERE a.object_kind = 'key'
        AND a.owner_id IS DISTINCT FROM k.owner_id}), 0,
   'every entry knows its owner');


$t->done;
