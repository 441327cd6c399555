#!/usr/bin/perl

# GET usage against a count of the same events made here: by any bucket, zone,
# grouping and filter, page by page, for operators, owners and keys.  Events
# come in by usage_apply(), as nodes send them; time zones are the C library's.

use strict;
use warnings;
use utf8;

use JSON::PP ();
use POSIX ();
use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $none = '00000000-0000-0000-0000-000000000000';

my @numbers = qw(requests refused errors tokens tokens_input tokens_output
                 tokens_cached tokens_reasoning cost unpriced bytes_in
                 bytes_out duration_ms);
my @dimensions = qw(service endpoint model key owner customer outcome
                    status_code verdict limit_name node);

sub wrong { return $api->is_wrong(@_) }
sub problem { return $api->is_problem(@_) }

sub owner {
    my ($id, %body) = @_;

    $api->call('owner_put', id => $id, body => \%body)->{status} == 201
        or die "owner $id";
    return $pg->value("SELECT id FROM apikey.owner WHERE external = '$id'");
}

sub key {
    return $api->call('key_create', body => { name => 'k', @_ })->{json}{id};
}


# events

my %row = (ada => owner('ada', time_zone => 'Europe/Berlin',
                        anchor_day => 15),
           bo => owner('bo', time_zone => 'Asia/Kathmandu'));
my @keys = ([ key(owner => 'ada', customer => 'c_1'), 'ada', 'c_1' ],
            [ key(owner => 'ada'), 'ada', '' ],
            [ key(owner => 'bo'), 'bo', '' ],
            [ key(), '', '' ], [ $none, '', '' ]);
my @nodes = ([ '11111111-1111-1111-1111-111111111111', 'edge-1' ],
             [ '22222222-2222-2222-2222-222222222222', 'edge-2' ]);
my @events;

srand 7;

# days at which clocks are put forward and back in Berlin, on Lord Howe by half
# an hour, in Havana and on the Azores at midnight

for my $day ('2026-03-28', '2026-03-29', '2026-03-30', '2026-04-04',
             '2026-04-05', '2026-10-03', '2026-10-24', '2026-10-25',
             '2026-10-26', '2026-10-31', '2026-11-01', '2026-11-02')
{
    my ($y, $m, $d) = split /-/, $day;
    local $ENV{TZ} = 'UTC';
    POSIX::tzset();
    my $midnight = POSIX::mktime(0, 0, 0, $d, $m - 1, $y - 1900);

    for (1 .. 120) {
        my $key = $keys[rand @keys];
        my ($outcome, $status, $verdict, $limit)
            = @{([ 'success', 200, 'ok', '' ], [ 'success', 201, 'ok', '' ],
                 [ 'error', 502, 'ok', '' ], [ 'aborted', 499, 'ok', '' ],
                 [ 'refused', 429, 'rate_limited', 'hourly' ])[rand 5]};
        my $in = $outcome ne 'refused';
        my @tokens = $in ? map { int rand 1000 } 1 .. 4 : (0) x 4;
        my $price = $in && rand() < 0.9;

        push @events, {
            time => $midnight + int(rand 86400),
            key => $key->[0], owner => $key->[1], customer => $key->[2],
            service => ('chat', 'images')[rand 2],
            endpoint => ('/v1/a', '/v1/b/c', '/x_y')[rand 3],
            model => ('', 'gpt-4o', 'gpt-4o-mini', 'gpt_4o')[rand 4],
            outcome => $outcome, status_code => $status, verdict => $verdict,
            limit_name => $limit, node => $nodes[rand 2][1],
            requests => $in ? 1 : 0, refused => $in ? 0 : 1,
            errors => $in && $status >= 400 ? 1 : 0,
            tokens_input => $tokens[0], tokens_output => $tokens[1],
            tokens_cached => $tokens[2], tokens_reasoning => $tokens[3],
            tokens => $tokens[0] + $tokens[1],
            cost => $price ? int rand 5_000_000_000 : 0,
            unpriced => $in && !$price ? 1 : 0,
            bytes_in => int rand 5000, bytes_out => int rand 50000,
            duration => int rand 3_000_000,
        };
    }
}

for my $node (@nodes) {
    my %sum;
    my @sum = qw(requests refused errors tokens_input tokens_output
                 tokens_cached tokens_reasoning cost unpriced bytes_in
                 bytes_out duration);
    my @of = qw(key owner customer service endpoint model outcome status_code
                verdict limit_name);

    for my $e (grep { $_->{node} eq $node->[1] } @events) {
        my $id = join "\t", $e->{time} - $e->{time} % 900, @$e{@of};
        $sum{$id}{$_} += $e->{$_} for @sum;
    }

    my @ids = sort keys %sum;
    my @rows = map { [ split /\t/, $_, -1 ] } @ids;
    my $list = sub { return "ARRAY[" . join(',', @_) . "]" };
    my $col = sub { my ($n) = @_; return $list->(map { $pg->quote($_->[$n]) }
                                                 @rows) };
    my $num = sub { my ($n) = @_; return $list->(map { $sum{$_}{$n} } @ids) };

    $pg->run("SELECT set_config('apikey.caller', 'node', true);
        SELECT apikey.usage_apply('$node->[0]', '$node->[1]',
        extract(epoch FROM now() + interval '1 h')::bigint * 1000000,
        ARRAY[0], ARRAY[1::bigint], ARRAY[0::bigint], ARRAY[1::bigint],
        ARRAY[9999::bigint], "
        . join(', ', $list->(map { $_->[0] . '000000' } @rows) . '::bigint[]',
               $col->(1) . '::uuid[]', map({ $col->($_) . '::text[]' } 2 .. 7),
               $col->(8) . '::int[]', map({ $col->($_) . '::text[]' } 9, 10),
               map({ $num->($_) . ($_ eq 'cost' ? '::numeric[]'
                                                : '::bigint[]') } @sum),
               $num->('requests') . '::bigint[]', 'ARRAY[]::uuid[]',
               'ARRAY[]::bigint[]') . ')');
}


# what the report should be

sub bucket {
    my ($bucket, $at) = @_;

    # an hour begins with its minute 0, or where a clock jumps into it

    if ($bucket eq 'hour') {
        $at -= $at % 900;
        $at -= 900 while (localtime $at)[1] != 0
                         && (localtime $at)[2] == (localtime $at - 900)[2];
        return $at;
    }

    my ($d, $m, $y, $w) = (localtime $at)[3 .. 6];

    return POSIX::strftime('%Y-%m-%d', 0, 0, 12,
        $bucket eq 'month' ? 1 : $bucket eq 'week' ? $d - ($w + 6) % 7 : $d,
        $m, $y);
}

sub zoned {
    my ($zone, $code) = @_;

    local $ENV{TZ} = $zone;
    POSIX::tzset();
    my @r = $code->();
    delete $ENV{TZ};
    POSIX::tzset();
    return wantarray ? @r : $r[0];
}

sub instant {
    my ($y, $m, $d, $h, $i, $s) = $_[0] =~ /\d+/g;
    return zoned(UTC => sub { POSIX::mktime($s, $i, $h, $d, $m - 1,
                                            $y - 1900) });
}

sub money {
    my $m = JSON::PP->new->allow_bignum->decode("[$_[0]]")->[0];
    my $text = sprintf '%d.%09d', int($m / 1_000_000_000),
                                  $m % 1_000_000_000;
    return $text =~ s/(\.\d\d\d*?)0*$/$1/r;
}

sub summed {
    my %s = map { $_ => 0 } @numbers, 'duration';

    for my $e (@_) {
        $s{$_} += $e->{$_} // 0 for @numbers, 'duration';
    }

    $s{cost} = money($s{cost});
    $s{duration_ms} = int((delete($s{duration}) + 500) / 1000);
    return \%s;
}

sub expected {
    my ($bucket, $zone, $groups, $keep) = @_;
    my @kept = grep { $keep->($_) } @events;
    my %by;

    zoned($zone => sub {
        for my $e (@kept) {
            push @{$by{join "\t", $bucket eq 'total' ? ''
                : bucket($bucket, $e->{time}), @$e{@$groups}}}, $e;
        }
    });

    return (summed(@kept), { map { $_ => summed(@{$by{$_}}) } keys %by });
}

sub report {
    my ($size, %opt) = @_;
    my ($query, $as) = @opt{qw(query as)};
    my ($cursor, $first, @rows);

    for (1 .. 2000) {
        my $r = $api->call('usage', $as ? (as => $as) : (), query => {
            %$query, limit => $size, $cursor ? (cursor => $cursor) : () });

        if ($r->{status} != 200) {
            diag($r->{body});
            return ($r->{json}, []);
        }

        $first //= $r->{json};
        push @rows, @{$r->{json}{data}};
        return ($first, \@rows) unless $r->{json}{has_more};
        $cursor = $r->{json}{next_cursor};
    }

    die 'it does not end';
}

sub same {
    my ($name, $bucket, $zone, $groups, $keep, %opt) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $size = $opt{size} // 100;
    my ($total, $want) = expected($bucket, $zone, $groups, $keep);
    my ($r, $rows) = report($size, as => $opt{as}, query => {
        from => '2026-03-01', to => '2026-12-01', bucket => $bucket,
        tz => $zone, @$groups ? (group_by => join ',', @$groups) : (),
        %{$opt{query} // {}} });
    my %have;

    zoned($zone => sub {
        for my $row (@$rows) {
            my $at = instant($row->{start});
            my $id = join "\t", $bucket eq 'total' ? '' : $bucket eq 'hour'
                ? $at : bucket($bucket, $at),
                map { $_ // '' } @$row{@$groups};
            fail("$name: $id twice") if $have{$id};
            $have{$id} = { map { $_ => $row->{$_} } @numbers };
        }
    });

    my %want = map { s/\Q$none\E//r => $want->{$_} } keys %$want;

    is_deeply($r->{total}, $total, "$name: total");
    is_deeply(\%have, \%want, "$name: rows");
    return ($r, $rows);
}


# every bucket in every zone

for my $zone ('UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'America/New_York',
              'Australia/Lord_Howe', 'Pacific/Apia')
{
    same("$_ in $zone", $_, $zone, [], sub { 1 })
        for qw(hour day week month total);
}

# a midnight that comes twice: a day begins with the first, as calendars do,
# and is what the range of its own says

for my $case ([ 'America/Havana', '2026-11-01T04:00:00Z' ],
              [ 'Atlantic/Azores', '2026-10-25T00:00:00Z' ]) {
    my ($zone, $first) = @$case;
    my ($r, $days) = report(100, query => { from => '2026-10-20',
        to => '2026-11-10', tz => $zone });
    my $sum = 0;

    for my $d (@$days) {
        my $day = zoned($zone, sub { POSIX::strftime('%Y-%m-%d',
            localtime instant($d->{start})) });
        my $next = zoned($zone, sub { POSIX::strftime('%Y-%m-%d',
            localtime(instant($d->{start}) + 36 * 3600)) });

        $sum += $d->{requests};
        is_deeply((report(1, query => { from => $day, to => $next,
            tz => $zone, bucket => 'total' }))[0]{total}{requests},
            $d->{requests}, "$zone: $day is its range");
    }

    is($sum, $r->{total}{requests}, "$zone: days add up");
    is(scalar(grep { instant($_->{start}) == instant($first) } @$days), 1,
       "$zone: the longer day begins with its first midnight");
}


# groupings and filters

same("by $_", 'month', 'UTC', [ $_ ], sub { 1 }) for @dimensions;
same('by two', 'day', 'Asia/Kathmandu', [ 'model', 'service' ], sub { 1 },
     size => 7);
same('by all', 'total', 'UTC', \@dimensions, sub { 1 });

for my $case (
    [ service => 'chat', sub { $_[0]{service} eq 'chat' } ],
    [ service => 'ch*', sub { $_[0]{service} eq 'chat' } ],
    [ endpoint => '/v1/*', sub { $_[0]{endpoint} =~ m{^/v1/} } ],
    [ endpoint => '/x_y', sub { $_[0]{endpoint} eq '/x_y' } ],
    [ model => 'gpt-4o', sub { $_[0]{model} eq 'gpt-4o' } ],
    [ model => 'gpt-4o*', sub { $_[0]{model} =~ /^gpt-4o/ } ],
    [ model => 'gpt_4*', sub { $_[0]{model} =~ /^gpt_4/ } ],
    [ key => $keys[0][0], sub { $_[0]{key} eq $keys[0][0] } ],
    [ owner => 'ada', sub { $_[0]{owner} eq 'ada' } ],
    [ customer => 'c_1', sub { $_[0]{customer} eq 'c_1' } ],
    [ customer => 'c*', sub { 0 } ],
    [ outcome => 'error', sub { $_[0]{outcome} eq 'error' } ],
    [ status_code => 502, sub { $_[0]{status_code} == 502 } ],
    [ verdict => 'rate_limited', sub { $_[0]{verdict} eq 'rate_limited' } ],
    [ limit_name => 'hourly', sub { $_[0]{limit_name} eq 'hourly' } ],
    [ node => 'edge-2', sub { $_[0]{node} eq 'edge-2' } ],
    [ node => q{'; DROP}, sub { 0 } ],
) {
    same("$case->[0]=$case->[1]", 'month', 'UTC', [], $case->[2],
         query => { $case->[0] => $case->[1] });
}

same('all at once', 'day', 'UTC', [ 'key' ], sub {
    $_[0]{model} =~ /^gpt/ && $_[0]{outcome} ne 'refused'
        && $_[0]{owner} eq 'ada' && $_[0]{verdict} eq 'ok'
        && $_[0]{status_code} == 200 },
    query => { model => 'gpt*', verdict => 'ok', owner => 'ada',
               status_code => 200 });


# the views of dashboards, at once against all events

for my $case ([ hourly => 'hour' ], [ daily => 'day' ],
              [ monthly => 'month' ])
{
    my ($view, $bucket) = @$case;
    my @dims = qw(owner customer key service endpoint model outcome
                  status_code verdict limit_name node);
    my ($total, $want) = expected($bucket, 'UTC', \@dims, sub { 1 });
    my %have = map { $_->[0] => [ @$_[1 .. $#$_] ] } $pg->rows(
        "SELECT concat_ws(E'\\t', " . ($bucket eq 'hour'
            ? 'extract(epoch FROM start)::bigint'
            : q{to_char(start AT TIME ZONE 'UTC', 'YYYY-MM-DD')})
        . join('', map { ", coalesce($_\::text, '"
                         . ($_ eq 'key' ? $none : '') . "')" } @dims)
        . '), ' . join(', ', map { $_ eq 'cost'
            ? 'apikey.money_text(cost * 1000000000)' : $_ } @numbers)
        . " FROM apikey.usage_$view", user => 'apikey_reader');

    is_deeply(\%have, { map { $_ => [ @{$want->{$_}}{@numbers} ] }
                        keys %$want }, "usage_$view");
    is($pg->value("SELECT string_agg(attname, ' ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = 'apikey.usage_$view'::regclass"),
       "start @dims @numbers", "columns of usage_$view");
}


# order and pages

for my $sort ('start', '-start', map { ($_, "-$_") } @numbers) {
    my ($name) = $sort =~ /(\w+)/;
    my %q = (query => { from => '2026-03-01', to => '2026-12-01',
                        group_by => 'key,model', sort => $sort,
                        bucket => 'month' });
    my (undef, $rows) = report(17, %q);
    my (undef, $all) = report(100, %q);
    my @v = map { $_->{$name} } @$rows;
    my @sorted = $name eq 'start' ? sort @v : sort { $a <=> $b } @v;

    is_deeply($rows, $all, "$sort: pages of any size");
    is_deeply(\@v, [ $sort =~ /^-/ ? reverse @sorted : @sorted ],
              "$sort: in order");
}


# fill

for my $groups ([], [ 'service' ], [ 'service', 'key' ]) {
    my (undef, $rows) = report(100, query => { from => '2026-10-20',
        to => '2026-11-05', tz => 'Europe/Berlin', fill => 'true',
        group_by => join ',', @$groups });
    my %seen;

    push @{$seen{join "\t", map { $_ // '' } @$_{@$groups}}}, $_
        for @$rows;

    is_deeply([ map { scalar @$_ } values %seen ], [ (16) x keys %seen ],
              "fill: every day of @$groups");
    is_deeply((grep { $_->{start} eq '2026-10-19T22:00:00.000Z' } @$rows)[0],
              { start => '2026-10-19T22:00:00.000Z',
                (map { $_ => (grep { $_->{start} lt '2026-10-20' } @$rows)[0]
                              {$_} } @$groups),
                %{summed()} }, 'an empty one');
}

my (undef, $hours) = report(100, query => { from => '2026-10-25',
    to => '2026-10-26', tz => 'Europe/Berlin', fill => 'true',
    bucket => 'hour' });
is(scalar @$hours, 25, 'a day of 25 hours');
is((report(100, query => { from => '2000-01-01', to => '2000-01-03',
    fill => 'true' }))[1][1]{requests}, 0, 'fill where nothing is');


# shape

my $r = $api->call('usage', query => { from => '2026-10-25', group_by =>
    'service,model', to => '2026-10-26T00:00:00+01:00', owner => 'ada' });
is($r->{status}, 200, 'a report') or diag($r->{body});
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g) =~ s/( start.*?) start.*
   ( has_more)/$1$2/rx,
   join(' ', qw(from to bucket time_zone group_by currency as_of total),
        @numbers, qw(data start service model), @numbers,
        qw(has_more next_cursor)), 'all members, in order');
is_deeply([ @{$r->{json}}{qw(from to bucket time_zone group_by currency)} ],
          [ '2026-10-24T22:00:00.000Z', '2026-10-25T23:00:00.000Z', 'day',
            'Europe/Berlin', [ 'service', 'model' ], 'USD' ],
          'dates in the zone of the owner');
like($r->{json}{as_of}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/,
     'as_of');
ok((grep { exists $_->{model} && !defined $_->{model} }
    @{$r->{json}{data}}), 'no model is null');

$r = $api->call('usage', query => { from => '2026-10-25T10:07:30.5Z',
                                    to => '2026-10-25T10:15:00.000001Z' });
is("$r->{json}{from} $r->{json}{to}",
   '2026-10-25T10:00:00.000Z 2026-10-25T10:30:00.000Z',
   'a range is widened to quarters of an hour, and says so');


# this billing period

{
    my ($from, $to) = map { $api->call('usage', query => { owner => 'ada' })
                            ->{json}{$_} } qw(from to);
    my ($day, $now) = zoned('Europe/Berlin', sub {
        return (POSIX::strftime('%d %H:%M', localtime instant($from)), time) });

    is($day, '15 00:00', 'the 15th in Berlin');
    cmp_ok(instant($from), '<=', $now, 'before now');
    cmp_ok(instant($to), '>', $now, 'ends later');
    is_deeply($api->call('usage_summary', query => { owner => 'ada' })
              ->{json}{period}{start}, $from, 'as in the summary');

    $r = $api->call('usage', query => { owner => 'ada', to => '2026-10-15' });
    is($r->{json}{from}, '2026-09-14T22:00:00.000Z',
       'only "to": the period that ends there');
}


# who sees what

my %ada = (kind => 'owner', external => 'ada', name => 'ada',
           address => '192.0.2.1');
my %key = (kind => 'key', key => $keys[1][0], owner => $row{ada}, name => 'k',
           external => 'ada', scopes => '', address => '192.0.2.1');
my %read = (%Apikey::Api::operator, role => 'read');

same('an owner', 'day', 'UTC', [ 'key' ], sub { $_[0]{owner} eq 'ada' },
     as => \%ada);
same('an owner of a key of it', 'day', 'UTC', [], sub {
    $_[0]{key} eq $keys[0][0] }, as => \%ada,
    query => { key => $keys[0][0] });
same('a key', 'day', 'UTC', [ 'owner' ], sub { $_[0]{key} eq $keys[1][0] },
     as => \%key);
same('a reading operator', 'day', 'UTC', [ 'owner' ], sub { 1 },
     as => \%read);

is($api->call('usage', as => \%key)->{json}{time_zone}, 'Europe/Berlin',
   'a key has the zone of its owner');
problem($api->call('usage', as => \%ada, query => { key => $keys[2][0] }), 404,
        'not_found', 'a key of another owner');
problem($api->call('usage', as => \%ada, query => { owner => 'bo' }), 404,
        'not_found', 'another owner');
problem($api->call('usage', as => \%key, query => { key => $keys[0][0] }), 404,
        'not_found', 'another key of the owner');
problem($api->call('usage', query => $_), 404, 'not_found', 'nobody')
    for { key => 'x' }, { owner => 'x' },
        { key => '01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60' };
wrong($api->call('usage', as => \%key, query => { owner => 'ada' }),
      [ 'query:owner forbidden' ], 'a key names no owner');
is($api->call('usage', as => { %ada, external => 'new' })->{json}{total}
   {requests}, 0, 'an identity without keys has no usage');

$api->call('owner_delete', id => 'bo', query => { revoke_keys => 'true' });
is((report(1, query => { from => '2026-01-01', to => '2027-01-01',
                         owner => 'bo' }))[0]{total}{requests},
   summed(grep { $_->{owner} eq 'bo' } @events)->{requests},
   'usage outlives its owner');


# a usage page that begins on such a day has all of it; the last of these days
# was less than 400 days ago

my ($twice, $begin, $days) = split / /, $pg->value("
    SELECT to_char(d, 'YYYY-MM-DD ') || extract(epoch FROM b)::bigint || ' '
        || (now() AT TIME ZONE 'America/Havana')::date - d::date + 1
    FROM generate_series(date_trunc('day', now() AT TIME ZONE
                'America/Havana'), now() AT TIME ZONE 'UTC' - interval
                '399 days', interval '-1 day') AS d,
        LATERAL (SELECT apikey.day_start(d, 'America/Havana') AS b) AS x
    WHERE b < d AT TIME ZONE 'America/Havana' LIMIT 1");
my $cy = owner('cy', time_zone => 'America/Havana');
my $of = key(owner => 'cy');

$pg->run("INSERT INTO apikey.usage_quarter (start, node, key_id, owner,
    customer, service, endpoint, model, outcome, status_code, verdict,
    limit_name, requests) SELECT to_timestamp($begin + x), '$nodes[0][0]',
    '$of', 'cy', '', 'chat', '/', '', 'success', 200, 'ok', '', 1
    FROM unnest(ARRAY[-900, 0, 2700, 3600, 7200]) AS x");

my $page = $api->call('usage_summary', query => { owner => 'cy',
    days => $days })->{json};
is_deeply([ map { $_->{requests} } grep { $_->{date} eq $twice }
            @{$page->{daily}} ], [ 4 ], 'a usage page: both midnights');


# wrong parameters

wrong($api->call('usage', query => {
    from => 'yesterday', to => '2026-13-01', bucket => 'year',
    group_by => 'service,service,colour', tz => 'Mars/Base', sort => 'colour',
    fill => 'yes', limit => 0, status_code => '4xx', verdict => 'no',
    outcome => 'good', colour => 1, model => [ 'a', 'b' ] }),
    [ 'query:from bad_value', 'query:to bad_value', 'query:bucket bad_value',
      'query:group_by duplicate', 'query:group_by bad_value',
      'query:tz bad_value', 'query:sort bad_value', 'query:fill bad_value',
      'query:limit out_of_range', 'query:status_code bad_type',
      'query:verdict bad_value', 'query:outcome bad_value',
      'query:colour unknown', 'query:model duplicate' ], 'everything wrong');
wrong($api->call('usage', query => { from => '2026-11-02', to => $_ }),
      [ 'query:to out_of_range' ], "to $_") for '2026-11-02', '2026-11-01';
wrong($api->call('usage', query => { from => '2999-01-01' }),
      [ 'query:from out_of_range' ], 'behind this period');
wrong($api->call('usage', query => { from => '1000-01-01', bucket => 'hour' }),
      [ 'query:bucket out_of_range' ], 'too many hours');
wrong($api->call('usage', query => { tz => 'europe/berlin' }),
      [ 'query:tz bad_value' ], 'a zone of another spelling');
wrong($api->call('usage', query => { cursor => 'x' }),
      [ 'query:cursor bad_value' ], 'a cursor');


$t->done;
