#!/usr/bin/perl

# Owners and plans as the admin API's functions give them: CRUD, many at once,
# what is due, who may see what, and what a plan does to those who have it.
# t/plans_live.t has what requests see of it.

use strict;
use warnings;
use utf8;

use IO::Handle;
use JSON::PP ();
use POSIX ();
use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Test qw(wait_for);

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %read = (%Apikey::Api::operator, name => 'watch', role => 'read');

sub wrong { return $api->is_wrong(@_) }
sub problem { return $api->is_problem(@_) }

sub hour { return { name => $_[0], unit => 'requests', limit => $_[1],
                    window => '1h' } }

sub owner {
    my ($id, %body) = @_;

    my $r = $api->call('owner_put', id => $id, body => \%body);
    like($r->{status}, qr/^20[01]$/, "owner $id") or diag($r->{body});
    return $r->{json};
}

sub template {
    my ($id, %body) = @_;

    my $r = $api->call('plan_put', id => $id, body => \%body);
    like($r->{status}, qr/^20[01]$/, "plan $id") or diag($r->{body});
    return $r;
}

# What a node reads: "name limit" of each limit that is held, in order.

sub held {
    my ($kind, $id) = @_;

    return join ', ', map { join ' ', (split /\t/)[0, 2] }
        split /\n/, $pg->value("SELECT limits FROM apikey.keyring_$kind"
            . ' WHERE id = ' . $pg->quote($id)) // '';
}

sub uuid_of {
    return $pg->value('SELECT id FROM apikey.owner WHERE external = '
                      . $pg->quote($_[0]));
}


# plans: the shape

my $r = template('pro', name => 'Pro', limits => [ hour('monthly', 1000000) ],
             scopes => [ 'orders:*' ], monthly_price => '49.00',
             upgrade_url => 'https://example.com/upgrade');
is($r->{status}, 201, 'a plan is made');
is($r->{headers}{Location}, '/api/v1/plans/pro', 'Location');
like($r->{headers}{ETag}, qr/^"\d+"$/, 'ETag');
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g),
   'id name limits name unit limit window burst rolling model service mode'
   . ' scopes allowed_models monthly_price currency upgrade_url owners'
   . ' created_at updated_at', 'all members in order') or diag($r->{body});
is_deeply({ map { $_ => $r->{json}{$_} } qw(id name scopes allowed_models
            monthly_price currency upgrade_url owners) },
          { id => 'pro', name => 'Pro', scopes => [ 'orders:*' ],
            allowed_models => undef, monthly_price => '49.00',
            currency => 'USD', owners => 0,
            upgrade_url => 'https://example.com/upgrade' }, 'as written');

my $etag = $r->{headers}{ETag};
$r = $api->call('plan_get', id => 'pro');
is("$r->{status} $r->{headers}{ETag}", "200 $etag", 'it is read');
$r = $api->call('plan_update', id => 'pro', body => {});
is("$r->{status} $r->{headers}{ETag}", "200 $etag", 'an empty change is none');
$r = $api->call('plan_update', id => 'pro', match => $etag,
                body => { name => undef, monthly_price => '0.000000001' });
is_deeply([ @{$r->{json}}{qw(name monthly_price)} ], [ 'pro', '0.000000001' ],
          'without a name it is called by its id');
is(scalar @{$r->{json}{limits}}, 1, 'what is absent is kept');
isnt($r->{headers}{ETag}, $etag, 'another ETag');
problem($api->call('plan_update', id => 'pro', match => $etag,
                   body => { name => 'x' }),
        412, 'precondition_failed', 'the old ETag');
problem($api->call('plan_put', id => 'new', match => '"1"', body => {}),
        412, 'precondition_failed', 'PUT with If-Match makes none');
$r = $api->call('plan_put', id => 'pro', body => {
    name => 'Pro', monthly_price => '49', limits => undef,
    allowed_models => [], upgrade_url => undef, scopes => undef });
is_deeply([ $r->{status}, @{$r->{json}}{qw(name monthly_price limits scopes
            allowed_models upgrade_url)} ],
          [ 200, 'Pro', '49.00', [], [], [], undef ],
          'PUT changes, null clears, [] is none');
template('free');
is_deeply($api->call('plan_get', id => 'free')->{json}{monthly_price}, undef,
          'a plan needs nothing');


# what is wrong

wrong($api->call('plan_put', id => 'No such', body => {
    id => 'x', name => 7, limits => [ { name => 'x' } ], scopes => [ 'a b' ],
    allowed_models => 'gpt', monthly_price => 49, currency => 'EUR',
    upgrade_url => 'example.com', owners => 1, price => '1' },
    query => { x => 1 }),
    [ '/id bad_value', '/id read_only', '/name bad_type',
      '/limits/0/unit required', '/limits/0/limit required',
      '/limits/0/window required', '/scopes/0 bad_value',
      '/allowed_models bad_type', '/monthly_price bad_type',
      '/currency read_only', '/upgrade_url bad_value', '/owners read_only',
      '/price unknown', 'query:x unknown' ], 'everything wrong');

for my $case ([ '-1', 'out_of_range' ], [ '9000000.01', 'out_of_range' ],
              [ '9' x 60, 'bad_value' ], [ '1e3', 'bad_value' ],
              [ '1.0000000001', 'bad_value' ], [ '', 'bad_value' ],
              [ '01', 'bad_value' ], [ '1,50', 'bad_value' ])
{
    wrong($api->call('plan_update', id => 'free',
                     body => { monthly_price => $case->[0] }),
          [ "/monthly_price $case->[1]" ], "monthly_price '$case->[0]'");
}

for my $url ('ftp://example.com', 'https://', 'javascript:alert(1)',
             "https://example.com/a b", 'https:///x')
{
    wrong($api->call('plan_update', id => 'free',
                     body => { upgrade_url => $url }),
          [ '/upgrade_url bad_value' ], $url);
}

for my $id ('a' x 65, 'Pro', 'a b', "a'b", '') {
    wrong($api->call('plan_put', id => $id, body => {}), [ '/id bad_value' ],
          "plan '$id'");
}

problem($api->call($_, id => 'none', body => {}), 404, 'not_found',
        "$_ of none") for qw(plan_get plan_update plan_delete);


# lists of plans

template("list-$_", name => "Name " . (9 - $_)) for 1 .. 5;

sub listed {
    my ($fn, %query) = @_;
    my ($cursor, @all);

    for (1 .. 20) {
        my $r = $api->call($fn, query => {
            %query, $cursor ? (cursor => $cursor) : () });
        die $r->{body} if $r->{status} != 200;

        push @all, map { $_->{id} } @{$r->{json}{data}};
        return "@all" unless $r->{json}{has_more};
        $cursor = $r->{json}{next_cursor};
    }

    return 'it does not end';
}

for my $size (1, 2, 100) {
    is(listed('plan_list', limit => $size),
       'free list-1 list-2 list-3 list-4 list-5 pro', "plans, $size a page");
    is(listed('plan_list', limit => $size, sort => 'name', q => 'LIST'),
       'list-5 list-4 list-3 list-2 list-1', "by name, $size a page");
    is(listed('plan_list', limit => $size, sort => '-created_at',
              q => 'name '), 'list-5 list-4 list-3 list-2 list-1',
       "newest first, $size a page");
}

wrong($api->call('plan_list', query => { sort => 'price', limit => 0,
                                         cursor => 'x', plan => 1 }),
      [ 'query:sort bad_value', 'query:limit out_of_range',
        'query:cursor bad_value', 'query:plan unknown' ], 'a wrong list');


# owners: the fields that a plan needs

owner('ada', plan => 'pro', time_zone => 'Europe/Berlin', anchor_day => 31);
$r = $api->call('owner_get', id => 'ada')->{json};
is_deeply([ @{$r}{qw(plan plan_next time_zone anchor_day)} ],
          [ 'pro', undef, 'Europe/Berlin', 31 ], 'an owner with a plan');
is($api->call('plan_get', id => 'pro')->{json}{owners}, 1, 'it counts');

for my $case ([ time_zone => 'europe/berlin', 'bad_value' ],
              [ time_zone => 'CET-1', 'bad_value' ],
              [ time_zone => 'posix/Europe/Berlin', 'bad_value' ],
              [ time_zone => '+02:00', 'bad_value' ],
              [ time_zone => '', 'bad_value' ], [ time_zone => 1, 'bad_type' ],
              [ anchor_day => 0, 'out_of_range' ],
              [ anchor_day => 32, 'out_of_range' ],
              [ anchor_day => 1.5, 'bad_value' ],
              [ anchor_day => 'x', 'bad_type' ],
              [ plan => 'none', 'not_found' ], [ plan => 7, 'bad_type' ],
              [ plan_next => 'none', 'not_found' ],
              [ plan_next => "pro'", 'not_found' ])
{
    my ($name, $value, $code) = @$case;
    wrong($api->call('owner_update', id => 'ada', body => { $name => $value }),
          [ "/$name $code" ], "$name $value");
}

like($api->call('owner_update', id => 'ada', body => {
        time_zone => 'europe/berlin' })->{body}, qr{write Europe/Berlin},
     'how it is written is said');
$r = owner('ada', time_zone => undef, anchor_day => undef);
is_deeply([ @{$r}{qw(time_zone anchor_day plan)} ], [ 'UTC', 1, 'pro' ],
          'null is the default, absent keeps');


# billing periods

for my $case (
    [ 'UTC', 1, '2026-11-21 10:00Z', '2026-11-01T00:00:00.000Z',
      '2026-12-01T00:00:00.000Z' ],
    [ 'Europe/Berlin', 1, '2026-10-31 23:30Z', '2026-10-31T23:00:00.000Z',
      '2026-11-30T23:00:00.000Z' ],
    [ 'Europe/Berlin', 1, '2026-10-31 22:30Z', '2026-09-30T22:00:00.000Z',
      '2026-10-31T23:00:00.000Z' ],
    [ 'UTC', 31, '2027-02-28 00:00Z', '2027-02-28T00:00:00.000Z',
      '2027-03-31T00:00:00.000Z' ],
    [ 'UTC', 31, '2027-02-27 23:59Z', '2027-01-31T00:00:00.000Z',
      '2027-02-28T00:00:00.000Z' ],
    [ 'UTC', 30, '2028-02-29 12:00Z', '2028-02-29T00:00:00.000Z',
      '2028-03-30T00:00:00.000Z' ],
    [ 'UTC', 15, '2026-01-14 23:59Z', '2025-12-15T00:00:00.000Z',
      '2026-01-15T00:00:00.000Z' ],
    [ 'Asia/Kathmandu', 15, '2026-01-14 18:15Z', '2026-01-14T18:15:00.000Z',
      '2026-02-14T18:15:00.000Z' ],
    [ 'Asia/Beirut', 31, '2024-03-30 22:30Z', '2024-03-30T22:00:00.000Z',
      '2024-04-29T21:00:00.000Z' ])
{
    my ($zone, $anchor, $at, $start, $end) = @$case;
    is_deeply([ $pg->rows("SELECT apikey.time_text(p.start),"
                . " apikey.time_text(p.\"end\")"
                . " FROM apikey.period('$zone', $anchor, '$at') p") ],
              [ [ $start, $end ] ], "$at in $zone from day $anchor");
}


# what is held: the plan's limits, and its own instead where a name is the same

my $ada = uuid_of('ada');
$r = $api->call('plan_update', id => 'pro', body => {
    limits => [ hour('hourly', 100), hour('all', 50) ] });
is_deeply($r->{refresh}, [ "owner $ada" ], 'who has the plan is refreshed');
is(held(owner => $ada), 'hourly 100, all 50', 'an owner holds its plan\'s');
owner('ada', limits => [ hour('own', 1), hour('all', 7) ]);
is(held(owner => $ada), 'own 1, all 7, hourly 100',
   'its own replaces one of the same name');
is_deeply([ map { $_->{name} }
            @{$api->call('owner_get', id => 'ada')->{json}{limits}} ],
          [ 'own', 'all' ], 'its object shows its own only');

my $key = $api->call('key_create', body => { name => 'k', owner => 'ada' })
    ->{json}{id};
is(held(key => $key), '', 'a plan of the owner is not the key\'s');
$pg->run("UPDATE apikey.key SET plan = 'free' WHERE id = '$key'");
$r = $api->call('plan_update', id => 'free',
                body => { limits => [ hour('hourly', 3) ] });
is_deeply($r->{refresh}, [ "key $key" ], 'nor the other way round');
is(held(key => $key), 'hourly 3', 'a key holds its plan\'s');

sub changes {
    my ($code) = @_;

    my $last = $pg->value('SELECT max(seq) FROM apikey.change') // 0;
    $code->();
    return [ sort $pg->column("SELECT DISTINCT kind || ' ' || id"
                              . " FROM apikey.change WHERE seq > $last") ];
}

is_deeply(changes(sub { template('free', name => 'Free') }), [],
          'a name of a plan changes nobody');
is_deeply(changes(sub { template('free', limits => [ hour('hourly', 4) ]) }),
          [ "key $key" ], 'its limits change who has it');
is_deeply(changes(sub { $pg->run("UPDATE apikey.limit_rule SET model = NULL"
          . " WHERE plan_id IS NOT NULL AND name = 'all'") }),
          [ "owner $ada" ], 'also when it is done in SQL');

my ($before) = $pg->column("SELECT version FROM apikey.owner"
                           . " WHERE id = '$ada'");
template('pro', limits => []);
is(held(owner => $ada), 'own 1, all 7', 'taken from the plan');
cmp_ok($pg->value("SELECT version FROM apikey.owner WHERE id = '$ada'"), '>',
       $before, 'a new version');


# a holder that is made while its plan is edited, and while it is deleted

sub meanwhile {
    my ($name, $fn, %call) = @_;

    my $req = { body => JSON::PP::encode_json({ name => $name,
                plan => 'race' }), query => {}, path => {}, base => '/',
                key_prefix => 'sk', secret => { id => Apikey::Api::uuid(),
                digest => unpack('H*', $name) . '0' x (64 - 2 * length $name),
                start => 'sk_race', last4 => 'race' } };

    open my $one, '|-', $pg->bindir . '/psql', '-Xqo', '/dev/null', '-d',
        $pg->conninfo or die "psql: $!\n";
    $one->autoflush;
    print $one 'BEGIN; SELECT apikey.api(', join(', ', map { $pg->quote($_) }
        'key_create', JSON::PP::encode_json(\%Apikey::Api::operator),
        JSON::PP::encode_json($req)), ");\n";

    wait_for('a key that is not committed', sub { $pg->value(
        q{SELECT count(*) FROM pg_stat_activity
          WHERE state = 'idle in transaction'}) });

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        my $r = eval { $api->call($fn, id => 'race', %call) };
        POSIX::_exit($r ? $r->{status} - 200 : 255);
    }

    my $ended;
    wait_for('the other to wait or to end', sub {
        $ended = waitpid($pid, POSIX::WNOHANG()) == $pid;
        return $ended || $pg->value(q{SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock'});
    });

    print $one "COMMIT;\n";
    close $one or die "psql: $?\n";
    waitpid $pid, 0 unless $ended;

    return 200 + ($? >> 8);
}

template('race', limits => [ hour('hourly', 1) ]);

is(meanwhile('edited', 'plan_update', body => { limits => [] }), 200,
   'the plan is edited');
is($pg->value(q{SELECT count(*) FROM apikey.change c
    JOIN apikey.key k ON k.id = c.id WHERE k.name = 'edited'}), 2,
   'and the key that was made meanwhile changes with it');
$pg->run(q{UPDATE apikey.key SET revoked_at = now() WHERE name = 'edited'});
is(meanwhile('deleted', 'plan_delete'), 409,
   'a plan is not deleted under a key that is being made');


# All lock plans, then owners, then keys, each by their ids.  Whoever waits for
# one of them holds none that comes behind it.

template('order', limits => [ hour('hourly', 1) ]);
owner('order');

my @held = sort map { $api->call('key_create', body => {
    name => "order $_", plan => 'order' })->{json}{id} } 1, 2;
my $holder = $pg->value(q{SELECT id FROM apikey.owner
                          WHERE external = 'order'});

# the first of them stands behind the other

$pg->run("UPDATE apikey.key SET plan = NULL WHERE id = '$held[0]';"
         . " UPDATE apikey.key SET plan = 'order' WHERE id = '$held[0]'");

sub waits_without {
    my ($row, $other, $fn, %call) = @_;

    ok($pg->while_locked("SELECT 1 FROM apikey.$row FOR UPDATE",
        sub { $api->call($fn, %call)->{status} == 200 },
        sub { $pg->run("SELECT 1 FROM apikey.$other FOR UPDATE NOWAIT") }),
       "$fn: while it waits for $row, $other is free");
}

my %plan = (body => { plan => 'order' });
my $plan = "plan WHERE external = 'order'";

waits_without($plan, "key WHERE id = '$held[1]'", 'key_update',
              id => $held[1], %plan);
waits_without($plan, "key WHERE id = '$held[1]'", 'key_update',
              id => $held[1], req => { compat => $true }, %plan);
waits_without($plan, "owner WHERE id = '$holder'", $_, id => 'order', %plan)
    for qw(owner_update owner_put);
waits_without("key WHERE id = '$held[0]'", "key WHERE id = '$held[1]'",
              'plan_update', id => 'order', body => { limits => [] });


# what a new key gets of a plan

template('wide', scopes => [ 'orders:*', 'items:read' ],
         allowed_models => [ 'gpt-*' ]);
owner('wide', plan => 'wide');

my %manager = (kind => 'owner', external => 'wide', name => 'wide',
               address => '192.0.2.1');

sub given {
    my ($as, %body) = @_;

    my $r = $api->call('key_create', body => { name => 'k', %body },
                       $as ? (as => $as) : ());
    return $r->{json} unless $r->{status} == 201;
    return [ map { join ' ', @{$r->{json}{$_} // [ 'any' ]} }
             qw(scopes allowed_models) ];
}

is_deeply(given(undef, owner => 'wide'), [ 'orders:* items:read', 'gpt-*' ],
          'of its owner\'s plan');
is_deeply(given(undef, plan => 'wide'), [ 'orders:* items:read', 'gpt-*' ],
          'of its own');
is_deeply(given(undef, owner => 'wide', plan => 'free'), [ '', 'any' ],
          'of its own rather');
is_deeply(given(undef, owner => 'wide', scopes => [], allowed_models => undef),
          [ '', 'any' ], 'what is said counts');
is_deeply(given(undef, owner => 'nobody yet'), [ '', 'any' ],
          'without a plan nothing');
is_deeply(given(\%manager), [ 'orders:* items:read', 'gpt-*' ],
          'an owner who is logged in has what its plan gives');
is(given(\%manager, scopes => [ 'all:read' ])->{code}, 'forbidden',
   'and gives no more');
is_deeply(given(\%manager, scopes => [ 'orders:read' ],
                allowed_models => [ 'gpt-4' ]), [ 'orders:read', 'gpt-4' ],
          'but less');

my $boss = $api->call('key_create', body => { name => 'k', owner => 'wide',
    scopes => [ 'apikey:manage', 'items:*' ],
    allowed_models => [ 'gpt-4*' ] })->{json};
my %boss = (kind => 'owner', key => $boss->{id}, name => 'k',
            address => '192.0.2.1', owner => uuid_of('wide'));

is_deeply(given(\%boss), [ 'items:read', 'gpt-4*' ],
          'a key hands on what it has');
is($api->call('plan_get', id => 'wide', as => \%boss)->{json}{id}, 'wide',
   'an owner reads its plan');
problem($api->call('plan_get', id => 'pro', as => \%boss), 404, 'not_found',
        'and no other');
is($api->call('owner_get', id => 'wide', as => \%boss)->{json}{plan}, 'wide',
   'and its record');
problem($api->call($_, id => 'wide', as => \%boss, body => {},
                   query => { plan => 'wide' }), 403, 'forbidden',
        "$_ by an owner")
    for qw(plan_put plan_update plan_delete plan_list owner_put owner_update
           owner_delete owners_update owner_list);


# usage at a glance

$r = $api->call('usage_summary', query => { owner => 'ada' })->{json};
is_deeply($r->{plan}, { id => 'pro', name => 'Pro', monthly_price => '49.00',
          upgrade_url => undef }, 'an owner\'s plan');
like($api->call('key_usage', id => $key)->{body},
     qr/"plan":\{"id":"free","name":"Free","monthly_price":null,"upgrade_url"/,
     'a key\'s, in order');
is($api->call('key_usage', id => $key, as => { kind => 'key', key => $key,
              name => 'k', owner => $ada })->{json}{plan}{id}, 'free',
   'as the key sees it');

my $today = $pg->value("SELECT extract(day FROM now() AT TIME ZONE 'UTC')");
owner('ada', anchor_day => 0 + $today, time_zone => 'UTC');
$r = $api->call('usage_summary', query => { owner => 'ada' })->{json};
is($r->{period}{start}, $pg->value(
   "SELECT apikey.time_text(date_trunc('day', now(), 'UTC'))"),
   'the period begins on the anchor day');
owner('ada', anchor_day => 1);


# a plan in use is not deleted

problem($r = $api->call('plan_delete', id => 'pro'), 409, 'conflict',
        'a plan that an owner has');
is($r->{json}{detail}, 'It is the plan of 1 owner.', 'which is said');
problem($r = $api->call('plan_delete', id => 'free'), 409, 'conflict',
        'a plan that a key has');
is($r->{json}{detail}, 'It is the plan of 2 keys.', 'which is said');
owner('bob', plan_next => 'list-1');
problem($api->call('plan_delete', id => 'list-1'), 409, 'conflict',
        'a plan that an owner will have');
owner('bob', plan_next => undef);
problem($api->call('plan_delete', id => 'list-1', match => '"1"'),
        412, 'precondition_failed', 'not with another ETag');
is($api->call('plan_delete', id => 'list-1')->{status}, 204, 'deleted');
problem($api->call('plan_get', id => 'list-1'), 404, 'not_found', 'gone');
problem($api->call('plan_delete', id => 'list-1'), 404, 'not_found',
        'also a second time');
is(template('list-1')->{status}, 201, 'and may be made again');


# plan_next

$r = owner('bob', plan => 'free', plan_next => 'pro', anchor_day => 15,
           time_zone => 'Asia/Tokyo');
is_deeply([ @{$r}{qw(plan plan_next)} ], [ 'free', 'pro' ], 'a plan to come');
is($pg->value(q{SELECT plan_next_at = (apikey.period('Asia/Tokyo', 15,
                now()))."end" FROM apikey.owner WHERE external = 'bob'}), 't',
   'when the next period begins');
owner('bob', anchor_day => 7);
is($pg->value(q{SELECT plan_next_at = (apikey.period('Asia/Tokyo', 7,
                now()))."end" FROM apikey.owner WHERE external = 'bob'}), 't',
   'which follows the anchor day');
owner('bob', name => 'Bob');
is($api->call('owner_get', id => 'bob')->{json}{plan}, 'free', 'not before');

sub due {
    $pg->run("UPDATE apikey.owner SET plan_next_at = now() - interval '1 s'"
             . " WHERE external = '$_[0]'");
}

due('bob');
$r = $api->call('owner_get', id => 'bob')->{json};
is_deeply([ @{$r}{qw(plan plan_next)} ], [ 'pro', undef ],
          'whoever reads finds it in force');
is_deeply([ $pg->rows(q{SELECT actor, actor_kind, action,
        before ->> 'plan', after ->> 'plan', after ->> 'plan_next'
        FROM apikey.audit ORDER BY at DESC, id DESC LIMIT 1}) ],
          [ [ 'plan_next', 'node', 'update', 'free', 'pro', undef ] ],
          'with an audit entry');

owner('bob', plan_next => 'free');
due('bob');
$pg->run("SELECT apikey.keyring_changes('', 0, NULL)",
         user => 'apikey_gateway');
is($pg->value(q{SELECT plan FROM apikey.owner WHERE external = 'bob'}), 'free',
   'a node\'s poll puts it in force');

owner('bob', plan_next => 'pro');
due('bob');
owner('bob', plan => 'list-1');
is($api->call('owner_get', id => 'bob')->{json}{plan}, 'list-1',
   'what is said after it is due counts');


# deleting owners

owner('gone', plan => 'pro', name => 'Gone', limits => [ hour('x', 1) ],
      enabled => $false, metadata => { a => 1 });
my @keys = map { $api->call('key_create', body => {
    name => "k$_", owner => 'gone' })->{json}{id} } 1, 2;

problem($api->call('owner_delete', id => 'gone'), 409, 'conflict',
        'an owner with keys');
wrong($api->call('owner_delete', id => 'gone', query => {
    revoke_keys => 'yes', x => 1 }),
    [ 'query:revoke_keys bad_value', 'query:x unknown' ], 'a wrong query');
problem($api->call('owner_delete', id => 'gone', match => '"1"',
                   query => { revoke_keys => 'true' }),
        412, 'precondition_failed', 'another ETag');
problem($api->call('owner_delete', id => 'nobody'), 404, 'not_found',
        'nobody');

my $gone = uuid_of('gone');

$pg->run(qq{INSERT INTO apikey.webhook (owner_id, url)
        VALUES ('$gone', 'http://x.example/');
    SELECT apikey.webhook_secret_new(id) FROM apikey.webhook;
    INSERT INTO apikey.alert (owner_id, name, kind, thresholds)
        VALUES ('$gone', 'x', 'limit', '{80}');
    INSERT INTO apikey.export_schedule (owner_id, name, every, time_zone,
            format, profile, next_at)
        VALUES ('$gone', 'x', 'day', 'UTC', 'csv', 'basic', now())});

$r = $api->call('owner_delete', id => 'gone',
                query => { revoke_keys => 'true' });
is("$r->{status}|$r->{body}", '204|', 'deleted with its keys')
    or diag($r->{body});
is_deeply([ sort @{$r->{refresh}} ],
          [ sort "owner $gone", map { "key $_" } @keys ], 'all refreshed');
is($api->call('key_get', id => $keys[0])->{json}{status}, 'revoked',
   'its keys are revoked');
is($api->call('key_get', id => $keys[0])->{json}{owner}, 'gone',
   'and still say whose they were');
is_deeply([ sort $pg->column("SELECT action || ' ' || object_kind FROM"
            . " apikey.audit ORDER BY at DESC, id DESC LIMIT 6") ],
          [ 'delete alert', 'delete owner', 'delete schedule',
            'delete webhook', 'revoke key', 'revoke key' ], 'in the audit');
is_deeply([ map { scalar @{$api->call($_, query => { owner => 'gone' })
                           ->{json}{data}} }
            qw(webhook_list alert_list schedule_list) ], [ 0, 0, 0 ],
          'nothing of whoever has the name next goes to the old one');
is($pg->value(q{SELECT enabled FROM apikey.keyring_owner
                WHERE name = 'gone'}), 'f', 'a node refuses it');
problem($api->call($_, id => 'gone', body => {}), 404, 'not_found',
        "$_ finds it no more") for qw(owner_get owner_update);
unlike(listed('owner_list'), qr/gone/, 'nor does a list');
problem($api->call('usage_summary', query => { owner => 'gone' }),
        404, 'not_found', 'nor usage/summary');
is($api->call('owner_delete', id => 'gone')->{status}, 204,
   'also a second time');

$r = $api->call('owner_put', id => 'gone', body => {});
is($r->{status}, 201, 'it may be made again');
is_deeply({ map { $_ => $r->{json}{$_} } qw(name enabled plan limits
            metadata) }, { name => undef, enabled => $true, plan => undef,
            limits => [], metadata => {} }, 'as a new one');
is(uuid_of('gone'), $gone, 'what it has used of limits stays used');
is($api->call('key_get', id => $keys[0])->{json}{status}, 'revoked',
   'its old keys stay revoked');
is($api->call('owner_delete', id => 'gone')->{status}, 204,
   'without keys it is deleted at once');
$r = $api->call('key_create', body => { name => 'k', owner => 'gone' });
is("$r->{status} " . grep({ $_ eq "owner $gone" } @{$r->{refresh}}), '201 1',
   'a new key makes it, too');
is($api->call('owner_get', id => 'gone')->{json}{enabled}, $true, 'enabled');


# lists of owners

owner("list $_", plan => $_ % 2 ? 'list-2' : undef, name => 'L' . (9 - $_),
      enabled => $_ == 3 ? $false : $true) for 1 .. 5;

for my $size (1, 2, 100) {
    is(listed('owner_list', limit => $size, q => 'list', sort => 'name'),
       'list 5 list 4 list 3 list 2 list 1', "by name, $size a page");
    is(listed('owner_list', limit => $size, q => 'LIST', sort => '-id'),
       'list 5 list 4 list 3 list 2 list 1', "by id, $size a page");
    is(listed('owner_list', limit => $size, q => 'list'),
       'list 5 list 4 list 3 list 2 list 1', "newest first, $size a page");
}

is(listed('owner_list', plan => 'list-2', sort => 'id'),
   'list 1 list 3 list 5', 'by plan');
is(listed('owner_list', plan => '', q => 'list ', sort => 'id'),
   'list 2 list 4', 'without a plan');
is(listed('owner_list', enabled => 'false'), 'list 3', 'disabled');
is(listed('owner_list', q => "' OR true --"), '', 'q is no SQL');
is(listed('owner_list', plan => "' OR true --"), '', 'nor is plan');
wrong($api->call('owner_list', query => { enabled => 'x', sort => 'plan' }),
      [ 'query:enabled bad_value', 'query:sort bad_value' ], 'a wrong list');


# many at once

sub many {
    my ($query, $body, @more) = @_;
    return $api->call('owners_update', query => $query, body => $body, @more);
}

is_deeply(many({ plan => 'list-2', dry_run => 'true' }, { plan => 'pro' })
          ->{json}, { matched => 3, changed => 0, dry_run => $true },
          'a dry run');
is($api->call('plan_get', id => 'list-2')->{json}{owners}, 3,
   'changes nothing');

my $audit = $pg->value('SELECT count(*) FROM apikey.audit');
$r = many({ plan => 'list-2' }, { plan => 'pro', metadata => { x => 1 } });
is_deeply($r->{json}, { matched => 3, changed => 3, dry_run => $false },
          'in earnest');
is(join(' ', $r->{body} =~ /"(\w+)":/g), 'matched changed dry_run',
   'in order');
is(scalar @{$r->{refresh}}, 3, 'all refreshed');
is($pg->value('SELECT count(*) FROM apikey.audit') - $audit, 3,
   'an audit entry each');
is(listed('owner_list', plan => 'pro', q => 'list', sort => 'id'),
   'list 1 list 3 list 5', 'they have it');
is_deeply(many({ plan => 'pro', q => 'list' }, { plan => 'pro' })->{json},
          { matched => 3, changed => 0, dry_run => $false },
          'what is so already is not changed');
is_deeply(many({ plan => '', q => 'list' }, { plan => 'free' })->{json},
          { matched => 2, changed => 2, dry_run => $false },
          'those without a plan');
is(held(owner => uuid_of('list 2')), 'hourly 4', 'hold its limits');
is_deeply(many({ plan => 'nobody-has-it' }, { plan => 'pro' })->{json},
          { matched => 0, changed => 0, dry_run => $false }, 'nobody');
wrong(many({}, { plan => 'pro' }), [ 'query:plan required' ],
      'not all of them by mistake');
wrong(many($_, { plan => 'pro' }), [ 'query:plan required' ],
      'nor by a filter without a value')
    for { q => '' }, { enabled => '' }, { q => '', enabled => '' };
wrong(many({ plan => 'pro', dry_run => 'maybe', limit => 3 },
           { name => 'x', limits => [], plan => 'none',
                                                 id => 'y' },
           match => '"1"'),
      [ 'query:dry_run bad_value', 'query:limit unknown', '/name read_only',
        '/limits read_only', '/plan not_found', '/id read_only',
        'header:If-Match not_supported' ], 'everything wrong');
wrong(many({ plan => 'pro', q => 'x', enabled => 'true', dry_run => 'true',
             x => 1 }, undef), [ 'query:x unknown', ' required' ],
      'without a body only that, and what there is not');
owner('list 1', metadata => { big => 'y' x 8000 });
wrong(many({ q => 'list' }, { metadata => { more => 'y' x 300 } }),
      [ '/metadata bad_length' ], 'metadata together over 8 KiB');


# rights

for my $fn (qw(owner_put owner_update owner_delete owners_update plan_put
               plan_update plan_delete))
{
    problem($api->call($fn, id => 'pro', as => \%read, body => {},
                       query => { plan => 'x' }),
            403, 'forbidden', "$fn with role=read");
}

is($api->call($_, id => 'pro', as => \%read)->{status}, 200,
   "$_ with role=read") for qw(plan_get plan_list owner_list);

sub seen {
    my ($caller, $key, $owner, $sql) = @_;

    return join ' ', $pg->column(
        "BEGIN; SELECT set_config('apikey.caller', '$caller', true),"
        . " set_config('apikey.key', '$key', true),"
        . " set_config('apikey.owner', '$owner', true) \\gset x\n"
        . "$sql;\nCOMMIT;", user => 'apikey_gateway');
}

my $plans = 'SELECT external FROM apikey.plan ORDER BY 1';
my $rules = 'SELECT name FROM apikey.limit_rule WHERE plan_id IS NOT NULL';

is(seen('', $key, $ada, $plans), '', 'nobody sees no plan');
is(seen('key', $key, '', $plans), 'free', 'a key sees its plan');
is(seen('key', $key, '', $rules), 'hourly', 'and its limits');
is(seen('owner', '', $ada, $plans), 'free pro',
   'an owner sees its plan and those of its keys');
is(seen('operator_read', '', '', 'SELECT count(*) > 5 FROM apikey.plan'), 't',
   'an operator all');

for my $caller ('', 'key', 'owner', 'operator_read', 'node') {
    my $count = $pg->value('SELECT sum(version) FROM apikey.plan');

    seen($caller, $key, $ada, "UPDATE apikey.plan SET name = 'x'"
         . ($caller eq 'node' ? " WHERE false" : ''));
    seen($caller, $key, $ada, 'DELETE FROM apikey.plan');
    is($pg->value('SELECT sum(version) FROM apikey.plan'), $count,
       "caller '$caller' changes no plan");
    eval { seen($caller, $key, $ada, "INSERT INTO apikey.plan (external, name)"
                . " VALUES ('x', 'x')") };
    like($@, qr/row-level security/, "caller '$caller' makes none");
}

eval { seen('node', '', '', "UPDATE apikey.plan SET name = 'x'") };
like($@, qr/row-level security/, 'a node only shares the lock');
is(seen('node', '', '', "UPDATE apikey.owner SET enabled = false"
        . ' RETURNING external'), '', 'a node changes only what is due');

$t->done;
