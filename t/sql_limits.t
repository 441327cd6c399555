# Limits of every kind and credits in Postgres: what is refused by which field,
# what is stored and shown, what an edit keeps; and calendars, held against the
# C library's.

use strict;
use warnings;

use POSIX qw(mktime);
use Test::More;
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

sub wrong { $api->is_wrong(@_) }
sub problem { $api->is_problem(@_) }


# one limit, with these members besides or instead

sub limit {
    my ($members) = @_;

    my %given = map { $_ => 1 } $members =~ /"(\w+)":/g;
    my %all = (name => '"n"', unit => '"requests"', limit => 10,
               window => '"month"');

    return '{' . join(',', $members || (), map { qq("$_":$all{$_}) }
                      grep { !$given{$_} } sort keys %all) . '}';
}

my $money = '"unit":"cost","limit":"50.00"';

for my $case (
    [ '', [] ],
    [ '"window":"day"', [] ], [ '"window":"week"', [] ],
    [ '"window":"total"', [] ], [ '"window":"year"', [ 'window bad_value' ] ],
    [ '"window":"Month"', [ 'window bad_value' ] ],
    [ '"window":null', [ 'window required' ] ],
    [ '"limit":0', [] ], [ '"limit":9007199254740991', [] ],
    [ '"limit":9007199254740992', [ 'limit out_of_range' ] ],
    [ '"limit":-1', [ 'limit out_of_range' ] ],
    [ '"limit":0.5', [ 'limit bad_value' ] ],
    [ '"limit":1' . '0' x 30, [ 'limit out_of_range' ] ],
    [ '"burst":5', [ 'burst bad_value' ] ],
    [ '"rolling":true', [ 'rolling bad_value' ] ],
    [ '"rolling":false', [] ],
    [ '"rolling":"yes"', [ 'rolling bad_type' ] ],
    [ '"window":"1h","rolling":true', [] ],
    [ '"window":"1h","rolling":true,"burst":10', [ 'burst bad_value' ] ],
    [ '"window":"31d","limit":9999999967,"rolling":true', [] ],
    [ '"mode":"strict"', [ 'mode bad_value' ] ],
    [ '"unit":"tokens"', [] ], [ '"unit":"tokens","mode":"trim"', [] ],
    [ '"unit":"tokens","mode":"observe","window":"1m"', [] ],
    [ '"unit":"tokens","mode":"lax"', [ 'mode bad_value' ] ],
    [ '"unit":"tokens","mode":1', [ 'mode bad_type' ] ],
    [ '"unit":"tokens","limit":"10"', [ 'limit bad_type' ] ],
    [ $money, [] ], [ "$money,\"mode\":\"trim\"", [] ],
    [ "$money,\"window\":\"1h\"", [] ],
    [ "$money,\"window\":\"1h\",\"burst\":\"75.00\"", [] ],
    [ "$money,\"window\":\"1h\",\"burst\":75", [ 'burst bad_type' ] ],
    [ '"unit":"cost","limit":50', [ 'limit bad_type' ] ],
    [ '"unit":"cost","limit":null', [ 'limit required' ] ],
    [ '"unit":"cost","limit":"50,00"', [ 'limit bad_value' ] ],
    [ '"unit":"cost","limit":"-0.01"', [ 'limit out_of_range' ] ],
    [ '"unit":"cost","limit":"9000000.00"', [] ],
    [ '"unit":"cost","limit":"9000000.000000001"',
      [ 'limit out_of_range' ] ],
    [ '"unit":"cost","limit":"0.0000000001"', [ 'limit bad_value' ] ],
    [ '"unit":"cost","limit":"0.000000001","window":"1s"', [] ],
    [ '"unit":"cost","limit":"8999999.999999937","window":"31d"',
      [ 'limit out_of_range' ] ],
    [ '"unit":"concurrent","window":null', [] ],
    [ '"unit":"concurrent"', [ 'window bad_value' ] ],
    [ '"unit":"concurrent","window":null,"limit":0', [] ],
    [ '"unit":"concurrent","window":null,"burst":2', [ 'burst bad_value' ] ],
    [ '"unit":"concurrent","window":null,"mode":"trim"',
      [ 'mode bad_value' ] ],
    [ '"unit":"bytes"', [ 'unit bad_value' ] ],
    [ '"model":"gpt-*","service":"chat"', [] ],
    [ '"model":7', [ 'model bad_type' ] ],
    [ '"name":null', [ 'name required' ] ],
    [ '"limit":-1,"window":"1y","rolling":1,"mode":"x"',
      [ 'limit out_of_range', 'window bad_value', 'rolling bad_type',
        'mode bad_value' ] ])
{
    my ($members, $errors) = @$case;

    my $r = $api->call('owner_put', id => 'limits',
                       body => '{"limits":[' . limit($members) . ']}');

    if (@$errors) {
        wrong($r, [ map { "/limits/0/$_" } @$errors ], "limit $members");
    } else {
        like($r->{status}, qr/^20[01]$/, "limit $members: good")
            or diag($r->{body});
    }
}

wrong($api->call('owner_put', id => 'limits', body => '{"limits":['
    . limit('') . ',' . limit('"window":"day"') . ']}'),
    [ '/limits/1/name duplicate' ], 'two of one name');


# what is shown is what was meant

my @limits = (
    { name => 'hourly', unit => 'requests', limit => 1000, window => '1h',
      rolling => JSON::PP::true },
    { name => 'burst', unit => 'cost', limit => '0.5', window => '1m' },
    { name => 'monthly', unit => 'requests', limit => 5, window => 'month' },
    { name => 'tpm', unit => 'tokens', limit => 7, window => '1m',
      model => 'gpt-*' },
    { name => 'jobs', unit => 'concurrent', limit => 8 },
    { name => 'budget', unit => 'cost', limit => '50.00', window => 'total',
      mode => 'trim' });

my $r = $api->call('key_create', body => { name => 'all', owner => 'ada',
                                           limits => \@limits });
my $id = $r->{json}{id};
my %none = map { $_ => undef } qw(window burst rolling model service mode);

is_deeply($r->{json}{limits}, [
    { %none, %{$limits[0]} },
    { %none, %{$limits[1]}, limit => '0.50', burst => '0.50',
      rolling => JSON::PP::false, mode => 'strict' },
    { %none, %{$limits[2]} },
    { %none, %{$limits[3]}, burst => 7, rolling => JSON::PP::false,
      mode => 'strict' },
    { %none, %{$limits[4]} },
    { %none, %{$limits[5]} } ], 'limits as they are shown');
is($pg->value("SELECT limits::text FROM apikey.key_summary
               WHERE id = '$id'"),
   $pg->value("SELECT apikey.limits_json('$id', NULL)::text"),
   'and in the view');
is_deeply([ $pg->column("SELECT kind FROM apikey.limits_held('$id', NULL, NULL)
                         ORDER BY position") ],
          [ qw(rolling bucket calendar bucket concurrent total) ],
          'their kinds');

# an edit keeps since when; another unit or scope is another limit

sub made {
    return { map { @$_ } $pg->rows("SELECT name, made FROM apikey.limit_rule
                                    WHERE key_id = '$id'") };
}

my $made = made();

$limits[2]{window} = 'day';
$limits[2]{limit} = 9;
$limits[3]{model} = 'gpt-5';
$limits[5] = { name => 'budget', unit => 'tokens', limit => 9,
               window => 'total' };
$api->call('key_update', id => $id, body => { limits => \@limits });

my $now = made();
is($now->{$_}, $made->{$_}, "$_ is as old as before")
    for qw(hourly burst monthly jobs);
isnt($now->{$_}, $made->{$_}, "$_ is a new one") for qw(tpm budget);

is($api->call('key_update', id => $id, body => { limits => [ $limits[1] ] })
       ->{status}, 200, 'some are taken away');


$api->call('key_update', id => $id, body => { limits => \@limits });
$now = made();
is($now->{$_}, $made->{$_}, "$_ is made again, and as old as before")
    for qw(hourly monthly jobs);
$api->call('key_update', id => $id, body => { limits => [ $limits[1] ] });


# plans are templates of all of it

$api->call('plan_put', id => 'pro', body => { limits => \@limits });
$api->call('owner_put', id => 'ada', body => { plan => 'pro', limits => [
    { name => 'jobs', unit => 'concurrent', limit => 2 } ] });
is_deeply([ $pg->column(q{SELECT h.name || ' ' || h."limit" FROM apikey.owner o,
    LATERAL apikey.limits_held(NULL, o.id, o.plan) AS h
    WHERE o.external = 'ada' ORDER BY h.inherited, h.position}) ],
    [ 'jobs 2', 'hourly 1000', 'burst 500000000', 'monthly 9', 'tpm 7',
      'budget 9' ], 'a plan, but for what the owner has itself');

sub since {
    return $pg->value(q{SELECT h.made FROM apikey.owner o,
        LATERAL apikey.limits_held(NULL, o.id, o.plan) AS h
        WHERE o.external = 'eva' AND h.name = 'monthly'});
}

$api->call('owner_put', id => 'eva', body => { plan => 'pro' });

my $since = since();

for my $step ([ owner_update => 'one of its own in its place',
                body => { limits => [ { %{$limits[2]}, limit => 50 } ] } ],
              [ owner_update => 'that of the plan again',
                body => { limits => [] } ],
              [ owner_update => 'its own again, without a plan',
                body => { plan => undef, limits => [ $limits[2] ] } ],
              [ owner_put => 'back with one of its own',
                body => { limits => [ { %{$limits[2]}, limit => 60 } ] } ]) {
    my ($fn, $what, @how) = @$step;

    is($api->call('owner_delete', id => 'eva')->{status}, 204, 'deleted')
        if $fn eq 'owner_put';
    $api->call($fn, id => 'eva', @how);
    is(since(), $since, "a month's limit is as old as before: $what");
}


# credits

for my $case (
    [ 'null', [] ], [ '7', [ ' bad_type' ] ],
    [ '{}', [ '/unit required', '/remaining required' ] ],
    [ '{"unit":"cost","remaining":5}', [ '/remaining bad_type' ] ],
    [ '{"unit":"requests","remaining":"5"}', [ '/remaining bad_type' ] ],
    [ '{"unit":"concurrent","remaining":5}', [ '/unit bad_value' ] ],
    [ '{"unit":"requests","remaining":-5}', [ '/remaining out_of_range' ] ],
    [ '{"unit":"requests","remaining":2251799813685249}',
      [ '/remaining out_of_range' ] ],
    [ '{"unit":"cost","remaining":"2300000.00"}',
      [ '/remaining out_of_range' ] ],
    [ '{"unit":"requests","remaining":5,"refill":3}',
      [ '/refill bad_type' ] ],
    [ '{"unit":"requests","remaining":5,"refill":{}}',
      [ '/refill/amount required', '/refill/every required' ] ],
    [ '{"unit":"cost","remaining":"5.00","refill":{"amount":"0.000",'
      . '"every":"day"}}', [ '/refill/amount out_of_range' ] ],
    [ '{"unit":"requests","remaining":5,"refill":{"amount":0,'
      . '"every":"year"}}',
      [ '/refill/amount out_of_range', '/refill/every bad_value' ] ],
    [ '{"unit":"requests","remaining":5,"more":1}', [ '/more unknown' ] ])
{
    my ($credits, $errors) = @$case;

    $r = $api->call('owner_put', id => 'rich',
                    body => qq({"credits":$credits}));

    if (@$errors) {
        wrong($r, [ map { "/credits$_" } @$errors ], "credits $credits");
    } else {
        like($r->{status}, qr/^20[01]$/, "credits $credits: good");
    }
}

my $credits = { unit => 'cost', remaining => '10.00',
                refill => { amount => '12.50', every => 'month' } };

$r = $api->call('owner_put', id => 'rich', body => {
    credits => $credits, time_zone => 'Asia/Tokyo', anchor_day => 5 });
is_deeply($r->{json}{credits}, $credits, 'credits are shown');

$r = $api->call('owner_credits', id => 'rich', body => { add => '25.00' });
wrong($r, [ 'header:Idempotency-Key required' ], 'add, but how often?');

for my $try (1, 2) {
    $r = $api->call('owner_credits', id => 'rich', once => 'one',
                    body => { add => '25.00', note => 'invoice 881' });
    is_deeply($r->{json}, { credits => { %$credits, remaining => '35.00' },
                            currency => 'USD' }, "added once, try $try");
}

is($pg->value(q{SELECT after ->> 'note' FROM apikey.audit
                WHERE action = 'credits'}), 'invoice 881', 'the audit has it');
wrong($api->call('owner_credits', id => 'rich', once => 'two', body => {}),
      [ '/add required' ], 'neither');
wrong($api->call('owner_credits', id => 'rich', once => 'three',
                 body => { add => '1.00', set => '1.00' }),
      [ '/set bad_value' ], 'both');
wrong($api->call('owner_credits', id => 'rich', once => 'four',
                 body => { add => 1, more => 1 }),
      [ '/add bad_type', '/more unknown' ], 'a number');
problem($api->call('key_credits', id => $id, once => 'five',
                   body => { add => 1 }), 409, 'conflict', 'there are none');
problem($api->call('owner_credits', id => 'nobody', body => { set => 1 }), 404,
        'not_found', 'no such owner');
problem($api->call('owner_credits', id => 'rich', body => { set => '1.00' },
                   as => { %Apikey::Api::operator, role => 'read' }), 403,
        'forbidden', 'who only reads');

# what was used stays used

my $rich = $pg->value("SELECT id FROM apikey.owner WHERE external = 'rich'");

$pg->run(qq{BEGIN; SET LOCAL apikey.caller = 'node';
    SELECT apikey.credits_used(ARRAY[gen_random_uuid(), gen_random_uuid()],
        '{rich,rich}', '{ok,rate_limited}', '{1,1}', '{1,1}', '{1,1}',
        '{3000000000,9000000000}'); COMMIT});

sub remaining {
    return $api->call('owner_get', id => 'rich')->{json}{credits}{remaining};
}

is(remaining(), '32.00', 'what is admitted is paid');
$api->call('owner_credits', id => 'rich', once => 'six',
           body => { add => '1.00' });
is(remaining(), '33.00', 'added to what is left');
$api->call('owner_credits', id => 'rich', body => { set => '2.00' });
is(remaining(), '2.00', 'set to what is left');

my $version = $pg->value("SELECT version FROM apikey.owner
                          WHERE external = 'rich'");

$pg->run("UPDATE apikey.credit SET refill_at = now() - interval '1 second'
          WHERE owner_id = '$rich'");
is(remaining(), '12.50', 'filled up');
is(remaining(), '12.50', 'once');
is($pg->value("SELECT version FROM apikey.owner WHERE external = 'rich'"),
   $version, 'nodes do it themselves');
ok($pg->value("SELECT refill_at = (apikey.period('Asia/Tokyo', 5, now()))
               .\"end\" FROM apikey.credit WHERE owner_id = '$rich'"),
   'and again when the next month begins there');
$api->call('owner_update', id => 'rich', body => { time_zone => 'UTC' });
ok($pg->value("SELECT refill_at = (apikey.period('UTC', 5, now())).\"end\"
               FROM apikey.credit WHERE owner_id = '$rich'"),
   'or here, when it moves');

$r = $api->call('owner_update', id => 'rich', body => { credits => undef });
is($r->{json}{credits}, undef, 'taken away');


# calendars: the boundaries of two years, by another time zone library

sub boundaries {
    my ($zone, $unit, $anchor, $first, $last) = @_;

    local $ENV{TZ} = $zone;
    POSIX::tzset();

    my ($day, $month, $year, $wday) = (localtime $first)[3, 4, 5, 6];
    my (%ends, $end);

    for my $i (-40 .. 900) {
        my @at;

        if ($unit eq 'month') {
            my (undef, undef, undef, $length) =
                localtime mktime(0, 0, 12, 0, $month + $i + 1, $year);
            @at = ($anchor < $length ? $anchor : $length, $month + $i, $year);

        } else {
            my $step = $unit eq 'day' ? 1 : 7;
            my $back = $unit eq 'day' ? 0 : ($wday || 7) - 1;
            @at = ($day - $back + $i * $step, $month, $year);
        }

        # the first moment of that day, also where it has no midnight: from
        # its noon down

        my $noon = mktime(0, 0, 12, @at, 0, 0, -1);
        my @noon = localtime $noon;
        my ($low, $high) = ($noon - 15 * 3600, $noon);

        while ($high - $low > 1) {
            my $middle = int(($low + $high) / 2);
            my @then = localtime $middle;

            if ($then[3] == $noon[3]) { $high = $middle }
            else                      { $low = $middle }
        }

        $ends{$high} = 1 if $high >= $first && $high <= $last;
    }

    delete local $ENV{TZ};
    POSIX::tzset();

    return [ sort { $a <=> $b } keys %ends ];
}

my $at = '2026-02-20 12:34:56+00';

for my $zone (qw(UTC Europe/Berlin America/New_York America/Havana
                 Asia/Beirut Australia/Lord_Howe Pacific/Apia
                 Asia/Kathmandu))
{
    for my $case ([ 'day', 1 ], [ 'week', 1 ], map { [ 'month', $_ ] }
                  1, 28, 29, 30, 31)
    {
        my ($unit, $anchor) = @$case;

        my @have = map { $_ / 1000000 } $pg->column(
            "SELECT unnest(apikey.calendar_bounds('$zone', $anchor, '$unit',
                '$at'))");
        my $want = boundaries($zone, $unit, $anchor, $have[0], $have[-1]);

        is_deeply(\@have, $want, "$zone, $unit from $anchor: "
                                 . scalar(@have) . ' boundaries');
    }
}

my ($days, $hours) = @{($pg->rows(
    "SELECT count(DISTINCT d), string_agg(DISTINCT (d / 3600000000)::text, ' ')
     FROM (SELECT b - lag(b) OVER (ORDER BY b) AS d FROM unnest(
         apikey.calendar_bounds('Europe/Berlin', 1, 'day', '$at')) AS b) AS x
     WHERE d IS NOT NULL"))[0]};

is($hours, '23 24 25', 'days of 23, 24 and 25 hours');
is($pg->value("SELECT string_agg(DISTINCT (d / 86400000000)::text, ' ')
     FROM (SELECT b - lag(b) OVER (ORDER BY b) AS d FROM unnest(
         apikey.calendar_bounds('UTC', 31, 'month', '$at')) AS b) AS x
     WHERE d IS NOT NULL"), '28 29 30 31', 'months of 28 to 31 days');

# made with the first owner, looked after by heartbeats

$api->call('owner_put', id => 'far', body => {
    time_zone => 'Asia/Kathmandu', anchor_day => 15 });
is($pg->value("SELECT string_agg(unit || ' ' || anchor_day, ', ' ORDER BY unit)
               FROM apikey.calendar WHERE zone = 'Asia/Kathmandu'"),
   'day 1, month 15, week 1', 'its calendars are there');

sub versions {
    return join ' ', $pg->column("SELECT version FROM apikey.calendar
                                  ORDER BY id");
}

my $versions = versions();
my $beat = "SELECT apikey.node_seen(gen_random_uuid(), 'n', 'v')";
my $age = "UPDATE apikey.calendar SET checked_at = now() - interval '2 hours'";

$pg->run("$age; $beat");
is(versions(), $versions, 'nothing new');
is($pg->value("SELECT count(*) FROM apikey.calendar
               WHERE checked_at < now() - interval '1 hour'"), 0, 'but seen');

$pg->run("UPDATE apikey.calendar SET bounds = bounds[:300]
          WHERE zone = 'UTC' AND unit = 'day'; $age; $beat");
isnt(versions(), $versions, 'one that runs out is made longer');
is($pg->value("SELECT cardinality(bounds) FROM apikey.calendar
               WHERE zone = 'UTC' AND unit = 'day'"), 801, 'for two years');

$pg->run("UPDATE apikey.calendar SET bounds[5] = bounds[5] + 3600000000
          WHERE zone = 'Asia/Kathmandu' AND unit = 'week'; $age; $beat");
is($pg->value("SELECT bounds = apikey.calendar_bounds(zone, 1, unit, now())
               FROM apikey.calendar
               WHERE zone = 'Asia/Kathmandu' AND unit = 'week'"), 't',
   'as is one that the time zone data has changed');


# a time zone that Postgres has no more, as of an update of tzdata, stops
# nothing but what goes by it

sub credits_of {
    my ($name) = @_;

    $api->call('owner_put', id => $name, body => { credits => {
        unit => 'requests', remaining => 5,
        refill => { amount => 10, every => 'day' } } });
    return $pg->value("SELECT c.id FROM apikey.credit c
        JOIN apikey.owner o ON o.id = c.owner_id
        WHERE o.external = '$name'");
}

my ($lost, $kept) = map { credits_of($_) } qw(lost kept);

$api->call('plan_put', id => 'later', body => {});
$api->call('owner_update', id => $_, body => { plan_next => 'later' })
    for qw(lost kept);
$pg->run(q{SET session_replication_role = replica;
    UPDATE apikey.owner SET time_zone = 'Gone/Zone' WHERE external = 'lost';
    INSERT INTO apikey.calendar (id, zone, anchor_day, unit, bounds, version)
    SELECT gen_random_uuid(), 'Gone/' || i, 1, 'day', '{0}', 1
    FROM generate_series(1, 30) AS i});
$pg->run("$age; UPDATE apikey.calendar SET checked_at = checked_at
              - interval '1 day' WHERE zone LIKE 'Gone/%'; $beat; $beat; $beat");
is($pg->value("SELECT count(*) FROM apikey.calendar
               WHERE checked_at < now() - interval '1 hour'"), 0,
   'calendars behind those of a zone that is no more are looked at');

$pg->run("SET session_replication_role = replica;
          UPDATE apikey.credit SET refill_at = now() - CASE id
              WHEN '$lost' THEN interval '2 s' ELSE interval '1 s' END
          WHERE id IN ('$lost', '$kept');
          UPDATE apikey.owner SET plan_next_at = now() - CASE external
              WHEN 'lost' THEN interval '2 s' ELSE interval '1 s' END
          WHERE external IN ('lost', 'kept');
          RESET session_replication_role;
          SELECT apikey.plans_due()");
is($pg->value("SELECT total - used FROM apikey.credit WHERE id = '$kept'"),
   10, 'credits behind those of such an owner are filled');
is($pg->value("SELECT plan FROM apikey.owner WHERE external = 'kept'"),
   'later', 'and plans are given');
is($pg->value("SELECT total - used || ' ' || (refill_at > now())
               FROM apikey.credit WHERE id = '$lost'"), '5 true',
   'its own are tried again later');

$t->done;
