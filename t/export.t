#!/usr/bin/perl

# GET export/usage: rows to the letter in three formats, out of raw events and
# roll-ups; the same bytes each time; streamed to clients that are slow, leave,
# or lose their Postgres.

use strict;
use warnings;
use utf8;

use Compress::Raw::Zlib ();
use Encode ();
use Socket qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my %key = (
    ada => $t->key(name => 'ada', owner => 'ada',
                   scopes => [ 'apikey:manage' ]),
    two => $t->key(name => 'two', owner => 'ada'),
    bob => $t->key(name => 'bob', owner => 'bob',
                   scopes => [ 'apikey:manage' ]),
);
my $edge = '11111111-1111-1111-1111-111111111111';
my $none = '00000000-0000-0000-0000-000000000000';

# kept, however old

$pg->run("INSERT INTO apikey.setting VALUES ('raw_days', '9999')
          ON CONFLICT (name) DO UPDATE SET value = excluded.value;
          INSERT INTO apikey.usage_node
          VALUES ('$edge', 'edge-1', now(), now() - interval '1 day')");

my $n = $t->nginx(http => <<'EOT')->start;
    server {
        listen 127.0.0.1:%%PORT_slow%% sndbuf=16k;
        location /short/ { send_timeout 300ms; apikey_admin; }
        location /api/v1/ { apikey_admin rate=1000000r/s; }
    }
    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        gzip on;
        gzip_types *;
        location /api/v1/ { apikey_admin rate=1000000r/s; }
    }
EOT

$t->sync;


# Events as a node ships them, and the roll-ups of those.

my $last = 0;

sub event {
    my (%e) = @_;

    $last++;
    %e = (time => '2026-03-01T10:00:00Z', key => $key{ada}{id},
          owner => 'ada', service => 'chat', endpoint => '/api/chat',
          method => 'POST', status_code => 200, outcome => 'success',
          verdict => 'ok', model => 'gpt-4o-mini', tokens_input => 100,
          tokens_output => 50, cost => 1000000, bytes_in => 10,
          bytes_out => 20, duration_us => 1499,
          id => sprintf('018c0000-0000-7000-8000-%012x', $last), %e);
    return \%e;
}

sub ship {
    my (@events) = @_;

    my @cols = qw(customer session service endpoint method status_code outcome
                  verdict limit_name model tokens_input tokens_output
                  tokens_cached tokens_reasoning usage_source cost
                  price_version bytes_in bytes_out duration_us);
    my @rows = map {
        my $e = $_;
        '(' . join(', ', map { $pg->quote($_) } $e->{time}, $e->{id}, $edge,
                   @$e{qw(key owner)}, 'none', 0,
                   map { $e->{$_} // ($_ =~ /^tokens/ ? 0
                         : $_ eq 'usage_source' ? 'none' : undef) } @cols)
        . ')';
    } @events;

    $pg->run('INSERT INTO apikey.usage_event (time, event, node, key_id,'
        . ' owner, mode, upstream_us, ' . join(', ', @cols) . ') VALUES '
        . join(', ', @rows));
    roll_up('event IN (' . join(', ', map { "'$_->{id}'" } @events) . ')');
}

sub roll_up {
    my ($which) = @_;

    $pg->run("INSERT INTO apikey.usage_quarter SELECT
        date_bin('15 minutes', time, '1970-01-01Z'), node,
        coalesce(key_id, '$none'), coalesce(owner, ''),
        coalesce(customer, ''), service, endpoint, coalesce(model, ''),
        outcome, status_code, verdict, coalesce(limit_name, ''),
        count(*) FILTER (WHERE outcome <> 'refused'),
        count(*) FILTER (WHERE outcome = 'refused'),
        count(*) FILTER (WHERE outcome <> 'refused' AND status_code >= 400),
        sum(tokens_input), sum(tokens_output), sum(tokens_cached),
        sum(tokens_reasoning), coalesce(sum(cost), 0),
        count(*) FILTER (WHERE cost IS NULL), sum(bytes_in), sum(bytes_out),
        sum(duration_us), count(*)
        FROM apikey.usage_event WHERE $which
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12");
}

sub export {
    my ($query, %opt) = @_;

    return $n->admin('GET', "export/usage?$query", %opt);
}

sub text {
    my $r = export(@_);

    is($r->{status}, 200, "export/usage?$_[0]") or diag($r->{body});
    return $r->{body};
}

sub wrong {
    my ($query, @errors) = @_;

    my $r = export($query);
    is("$r->{status} " . join(' ', sort map { "$_->{location} $_->{code}" }
                              @{json($r)->{errors} // []}),
       join(' ', 400, sort @errors), "wrong: $query");
}


# one request

ship(event());

my $day = 'startDate=2026-03-01&endDate=2026-03-01';
my $r = export($day);

is($r->{status}, 200, 'an export') or diag($r->{body});
is($r->{headers}{'content-type'}, 'application/json', 'its type');
is($r->{headers}{'content-disposition'},
   'attachment; filename="usage-2026-03-01-2026-03-01.json"', 'its name');
is($r->{headers}{'cache-control'}, 'no-store', 'not to be stored');
like($r->{body}, qr/^\{"success":true,"exportDate":"\d{4}-\d\d-\d\dT\d\d:\d\d
    :\d\dZ","format":"json","recordCount":1,"data":\[\n
    \{"date":"2026-03-01T10:00:00Z","endpoint":"\/api\/chat","requests":1,
    "tokens":150,"cost":"0\.001","model":"gpt-4o-mini",
    "status":"success"\}\n\]\}\n\z/x, 'JSON');
is_deeply(json($r)->{data}, [ { date => '2026-03-01T10:00:00Z',
    endpoint => '/api/chat', requests => 1, tokens => 150, cost => '0.001',
    model => 'gpt-4o-mini', status => 'success' } ], 'its rows');

$r = export("$day&format=csv");
is("$r->{headers}{'content-type'} $r->{headers}{'content-disposition'}",
   'text/csv; charset=utf-8 attachment;'
   . ' filename="usage-2026-03-01-2026-03-01.csv"', 'CSV: type and name');
is($r->{body}, "date,endpoint,requests,tokens,cost,model,status\n"
   . "2026-03-01T10:00:00Z,/api/chat,1,150,0.001,gpt-4o-mini,success\n",
   'CSV');

$r = export("$day&format=ndjson");
is($r->{headers}{'content-type'}, 'application/x-ndjson', 'NDJSON: type');
is($r->{body}, '{"date":"2026-03-01T10:00:00Z","endpoint":"/api/chat",'
   . '"requests":1,"tokens":150,"cost":"0.001","model":"gpt-4o-mini",'
   . qq("status":"success"}\n), 'NDJSON');

like(text("$day&format=csv&profile=full"), qr/^date,endpoint,requests,tokens
    ,cost,model,status,request_id,key,owner,customer,service,method,status_code
    ,verdict,limit_name,tokens_input,tokens_output,tokens_cached
    ,tokens_reasoning,usage_source,price_version,bytes_in,bytes_out
    ,duration_ms,session,node\n2026-03-01T10:00:00Z,\/api\/chat,1,150,0\.001
    ,gpt-4o-mini,success,018c0000-0000-7000-8000-000000000001,$key{ada}{id}
    ,ada,,chat,POST,200,ok,,100,50,0,0,none,,10,20,1,,edge-1\n\z/x,
     'CSV, full');

is(text('startDate=2026-02-01&endDate=2026-02-02&format=csv'),
   "date,endpoint,requests,tokens,cost,model,status\n", 'none: CSV');
like(text('startDate=2026-02-01&endDate=2026-02-02'),
     qr/"recordCount":0,"data":\[\]\}\n\z/, 'none: JSON');
is(text('startDate=2026-02-01&endDate=2026-02-02&format=ndjson'), '',
   'none: NDJSON');


# what is in a row

ship(event(time => '2026-03-02T00:00:00Z', cost => undef, model => undef,
           status_code => 500, outcome => 'error', endpoint => '=1+2'),
     event(time => '2026-03-02T00:00:00.9Z', endpoint => "+a\"b,c\nd",
           outcome => 'aborted', status_code => 499, model => "'-x",
           cost => 12345678901),
     event(time => '2026-03-02T00:00:01Z', outcome => 'refused',
           status_code => 429, verdict => 'rate_limited',
           limit_name => 'hourly', endpoint => '@x', cost => 0,
           tokens_input => 0, tokens_output => 0),
     event(time => '2026-03-02T23:59:59.999Z', key => undef, owner => undef,
           verdict => 'anonymous', endpoint => "/\x{e4}", session => "\ts",
           customer => '-c', cost => 0, usage_source => 'provider',
           price_version => 7, tokens_cached => 3, tokens_reasoning => 4,
           duration_us => 1500));

my $second = 'startDate=2026-03-02&endDate=2026-03-02';

is(text("$second&format=csv"), Encode::encode_utf8(
    "date,endpoint,requests,tokens,cost,model,status\n"
    . "2026-03-02T00:00:00Z,'=1+2,1,150,,,error\n"
    . qq(2026-03-02T00:00:00Z,"'+a""b,c\nd",1,150,12.345678901,''-x,error\n)
    . "2026-03-02T23:59:59Z,/\x{e4},1,150,0.00,gpt-4o-mini,success\n"),
   'CSV: no formulas, quotes where they are needed');
is_deeply([ map { [ @$_{qw(endpoint cost model status)} ] }
            @{json(export($second))->{data}} ],
          [ [ '=1+2', undef, undef, 'error' ],
            [ "+a\"b,c\nd", '12.345678901', "'-x", 'error' ],
            [ "/\x{e4}", '0.00', 'gpt-4o-mini', 'success' ] ],
          'JSON: as it is');
is_deeply([ map { [ @$_{qw(requests endpoint verdict limit_name status_code
                           key customer session usage_source price_version
                           tokens_cached tokens_reasoning duration_ms)} ] }
            @{json(export("$second&profile=full"))->{data}} ],
          [ [ 1, '=1+2', 'ok', undef, 500, $key{ada}{id}, undef, undef,
              'none', undef, 0, 0, 1 ],
            [ 1, "+a\"b,c\nd", 'ok', undef, 499, $key{ada}{id}, undef, undef,
              'none', undef, 0, 0, 1 ],
            [ 0, '@x', 'rate_limited', 'hourly', 429, $key{ada}{id}, undef,
              undef, 'none', undef, 0, 0, 1 ],
            [ 1, "/\x{e4}", 'anonymous', undef, 200, undef, '-c', "\ts",
              'provider', 7, 3, 4, 2 ] ], 'full: refused ones, too');
like(text("$second&profile=full&format=csv"), qr/,'-c,chat,.*,'\ts,edge-1\n/,
     'full CSV: no formulas');


# ranges, filters

sub count { return json(export($_[0], @_[1 .. $#_]))->{recordCount} }

is(count('from=2026-03-01&to=2026-03-02'), 1, 'from is in, to is not');
is(count('from=2026-03-01&to=2026-03-02T00:00:01Z'), 3, 'to a second');
is(count('startDate=2026-03-02T00:00:00.5Z&endDate=2026-03-03'), 2,
   'from an instant');
is(count('startDate=2026-03-02&endDate=2026-03-02&tz=Asia/Kathmandu'), 2,
   'a day in Kathmandu ends earlier');
is(export("$second&tz=Asia/Kathmandu")->{headers}{'content-disposition'},
   'attachment; filename="usage-2026-03-02-2026-03-02.json"', 'by its name');
ship(map { event(time => "2025-11-02T$_:30:00Z") } '03', '04', '05');
is(count('startDate=2025-11-01&endDate=2025-11-01&tz=America/Havana'), 1,
   'a day ends with the first of two midnights');
is(count('startDate=2025-11-02&endDate=2025-11-02&tz=America/Havana'), 2,
   'as the next one begins');
is(count("$second&outcome=error"), 1, 'outcome');
is(count("$second&endpoint=/*"), 1, 'a pattern');
is(count("$second&granularity=event&method=GET"), 0, 'method');
is(count("$second&granularity=event&session=%09s"), 1, 'session');
is(count("$second&verdict=rate_limited"), 0, 'refused ones are not in basic');
is(count("$second&verdict=rate_limited&profile=full"), 1, 'but in full');

wrong('format=pdf', 'query:format bad_value');
wrong('profile=all&granularity=week&tz=x&colour=1&limit=5',
      'query:profile bad_value', 'query:granularity bad_value',
      'query:tz bad_value', 'query:colour unknown', 'query:limit unknown');
wrong('startDate=x&from=2026-01-01', 'query:startDate duplicate');
wrong('startDate=x', 'query:startDate bad_value');
wrong('startDate=2026-03-02&endDate=2026-03-01', 'query:endDate out_of_range');
wrong('from=2026-03-02&to=2026-03-02', 'query:to out_of_range');
wrong('session=s', 'query:session bad_value');
wrong('granularity=hour&startDate=2000-01-01&endDate=2026-01-01',
      'query:granularity out_of_range');
is(export('key=x')->{status}, 404, 'an unknown key');


# who

ship(event(time => '2026-03-02T12:00:00Z', key => $key{two}{id}),
     event(time => '2026-03-02T13:00:00Z', key => $key{bob}{id},
           owner => 'bob'));

sub owners {
    my ($query, $as) = @_;
    my $r = export("$second&profile=full&$query", as => $as);
    my %seen;

    return $r->{status} unless $r->{status} == 200;
    $seen{($_->{key} // '') eq $key{two}{id} ? 'two' : $_->{owner} // '-'}++
        for @{json($r)->{data}};
    return join ' ', map { "$_ $seen{$_}" } sort keys %seen;
}

for my $by ('', 'granularity=day', 'granularity=event') {
    my $ada = $by eq 'granularity=day' ? 'ada 3' : 'ada 3';

    is(owners($by, $t->token), "- 1 $ada bob 1 two 1", "an operator: $by");
    is(owners($by, $t->{read_token}), "- 1 $ada bob 1 two 1", 'one that reads');
    is(owners("$by&owner=ada", $t->token), "$ada two 1", 'asks for an owner');
    is(owners("$by&key=$key{two}{id}", $t->token), 'two 1', 'or a key');
    is(owners($by, $key{ada}{key}), "$ada two 1", 'an owner');
    is(owners($by, $key{two}{key}), 'two 1', 'a key');
    is(owners("$by&key=$key{bob}{id}", $key{ada}{key}), 404, 'another\'s');
    is(owners("$by&key=$key{ada}{id}", $key{two}{key}), 404, 'another key');
}

is(export($day, as => '')->{status}, 401, 'nobody');


# roll-ups where events are not kept

ship(map { event(time => sprintf('2026-03-%02dT%02d:%02d:00Z', 10 + $_ % 4,
                                 $_ % 24, $_ * 7 % 60),
                 endpoint => '/' . $_ % 3, cost => $_ * 1000,
                 $_ % 5 ? () : (cost => undef)) } 0 .. 199);

my $range = 'startDate=2026-03-10&endDate=2026-03-13';
my %sum;

sub summed {
    my ($query) = @_;
    my %s = (requests => 0, tokens => 0, cost => 0);

    for my $row (@{json(export($query))->{data}}) {
        $s{$_} += $row->{$_} // 0 for qw(requests tokens);
        $s{cost} += sprintf '%.0f', ($row->{cost} // 0) * 1e9;
    }

    return \%s;
}

my $all = summed($range);
is($all->{requests}, 200, 'all rows are events');
is(count($range), 200, 'one each');

for my $by ('event', '15m', 'hour', 'day', 'month') {
    is_deeply(summed("$range&granularity=$by"), $all, "the same sums by $by");
}

is(count("$range&granularity=day"), 12, 'a day and endpoint a row');
is(count("$range&granularity=month"), 3, 'a month');

my @rows = @{json(export("$range&granularity=hour&profile=full"))->{data}};
is_deeply([ grep { defined } map { @$_{qw(request_id method session
    usage_source price_version)} } @rows ], [], 'sums are of no one request');
is(join(' ', map { $_->{date} } @rows),
   join(' ', sort map { $_->{date} } @rows), 'in order');

# a day of Kathmandu is its raw events

for my $zone ('Asia/Kathmandu', 'UTC', 'Australia/Lord_Howe') {
    for my $date ('2026-03-10', '2026-03-11') {
        my $q = "startDate=$date&endDate=$date&tz=$zone";
        my $events = summed("$q&granularity=event");

        cmp_ok($events->{requests}, '>', 0, "$date in $zone has events");
        is_deeply(summed("$q&granularity=day"), $events,
                  'and is the sum of them');
        is(json($n->admin('GET', "usage?from=$date&to="
               . ($date =~ s/(\d+)$/$1 + 1/er) . "&bucket=total&tz=$zone"))
               ->{total}{requests}, $events->{requests}, 'as in reports');
    }
}

$pg->run("DELETE FROM apikey.usage_event
          WHERE time >= '2026-03-10' AND time < '2026-03-11'
          OR time = (SELECT max(time) FROM apikey.usage_event
                     WHERE time < '2026-03-12')");

is_deeply(summed($range), $all, 'the same sums without two days of events');

@rows = @{json(export($range . '&profile=full'))->{data}};
is_deeply([ sort map { substr $_->{date}, 0, 10 }
            grep { !defined $_->{request_id} } @rows ],
          [ map { substr $_->{date}, 0, 10 }
            @{json(export('startDate=2026-03-10&endDate=2026-03-11'
                   . '&granularity=15m&profile=full'))->{data}} ],
          'those days are quarters of an hour');
is(scalar(grep { defined $_->{request_id} } @rows), 100,
   'the others are events');
is(count($range), scalar(@rows), 'recordCount counts both');
is_deeply(summed("$range&granularity=event"), summed('startDate=2026-03-11'
    . '&endDate=2026-03-13&granularity=event'), 'event: what is kept');


# the same bytes each time

for my $query ("$range&format=csv", "$range&profile=full&format=csv",
               "$range&granularity=15m&profile=full&format=ndjson",
               "$range&owner=ada&format=csv", $range)
{
    is(text($query) =~ s/"exportDate":"[^"]*"//r,
       text($query) =~ s/"exportDate":"[^"]*"//r, 'twice the same');
}


# conversations

ship(map({ event(time => "2026-03-20T10:00:0$_.5Z", session => 's 1',
                 key => $key{$_ % 2 ? 'ada' : 'two'}{id}, cost => $_ * 1000000,
                 model => $_ < 2 ? '=m' : 'gpt', duration_us => 1500000,
                 tokens_cached => 1, tokens_reasoning => 2) } 0 .. 3),
     event(time => '2026-03-20T11:00:00Z', session => 's 1', cost => undef,
           outcome => 'error', status_code => 502, model => undef),
     event(time => '2026-03-20T11:00:01Z', session => 's 1', cost => 0,
           outcome => 'refused', status_code => 429, tokens_input => 0,
           tokens_output => 0),
     event(time => '2026-03-20T09:00:00Z', session => 's 1', owner => 'bob',
           key => $key{bob}{id}, customer => 'c', duration_us => 0),
     event(time => '2026-03-20T12:00:00Z'));

sub talks {
    my ($query, %opt) = @_;
    my $r = $n->admin('GET', 'export/conversations?startDate=2026-03-20'
                      . "&endDate=2026-03-20&$query", %opt);

    is($r->{status}, 200, "export/conversations?$query") or diag($r->{body});
    return $r;
}

$r = talks('');
is($r->{headers}{'content-disposition'},
   'attachment; filename="conversations-2026-03-20-2026-03-20.json"', 'name');

my $bobs = { session => 's 1', owner => 'bob', customers => [ 'c' ],
    keys => [ $key{bob}{id} ], start => '2026-03-20T09:00:00Z',
    end => '2026-03-20T09:00:00Z', requests => 1, refused => 0, errors => 0,
    tokens => 150, tokens_input => 100, tokens_output => 50,
    tokens_cached => 0, tokens_reasoning => 0, cost => '0.001', unpriced => 0,
    bytes_in => 10, bytes_out => 20, duration_ms => 0,
    services => [ 'chat' ], endpoints => [ '/api/chat' ],
    models => [ 'gpt-4o-mini' ] };

is_deeply(json($r)->{data}, [ $bobs, { session => 's 1', owner => 'ada',
    customers => [], keys => [ sort map { $key{$_}{id} } 'ada', 'two' ],
    start => '2026-03-20T10:00:00Z', end => '2026-03-20T11:00:01Z',
    requests => 5, refused => 1, errors => 1, tokens => 750,
    tokens_input => 500, tokens_output => 250, tokens_cached => 4,
    tokens_reasoning => 8, cost => '0.006', unpriced => 1, bytes_in => 60,
    bytes_out => 120, duration_ms => 6003, services => [ 'chat' ],
    endpoints => [ '/api/chat' ], models => [ '=m', 'gpt', 'gpt-4o-mini' ] } ],
          'sessions of owners');
is(json($r)->{recordCount}, 2, 'as many as it says');

my @lines = split /\n/, talks('format=csv')->{body};
is($lines[0], 'session,owner,customers,keys,start,end,requests,refused,errors'
   . ',tokens,tokens_input,tokens_output,tokens_cached,tokens_reasoning,cost'
   . ',unpriced,bytes_in,bytes_out,duration_ms,services,endpoints,models',
   'CSV: its columns');
is($lines[2], 's 1,ada,,' . join(' ', sort map { $key{$_}{id} } 'ada', 'two')
   . ',2026-03-20T10:00:00Z,2026-03-20T11:00:01Z,5,1,1,750,500,250,4,8,0.006,'
   . "1,60,120,6003,chat,/api/chat,'=m gpt gpt-4o-mini", 'lists split by blanks');
is_deeply(JSON::PP->new->decode(talks('format=ndjson&customer=c')->{body}),
          $bobs, 'NDJSON, by a filter');
is_deeply(json(talks('', as => $key{bob}{key}))->{data}, [ $bobs ],
          'an owner sees its own');
is(json(talks('session=s%201&owner=ada'))->{recordCount}, 1, 'one');
is(json(talks('session=none'))->{recordCount}, 0, 'none');
is($n->admin('GET', 'export/conversations', as => $key{two}{key})->{status},
   403, 'a key has none');


# many

$pg->run("INSERT INTO apikey.usage_event (time, event, node, key_id, owner,
    service, endpoint, method, status_code, outcome, verdict, mode, model,
    cost, bytes_in, bytes_out, duration_us, upstream_us)
    SELECT '2026-04-01T00:00:00Z'::timestamptz + i * interval '1 s',
        ('018d0000-' || to_char(i / 10000, 'FM0000') || '-7000-8000-'
            || to_char(i, 'FM000000000000'))::uuid, '$edge', '$key{bob}{id}',
        'bob', 'chat', '/' || repeat('x', 200), 'GET', 200, 'success', 'ok',
        'none', repeat('y', 200), i, 0, 0, 0, 0
    FROM generate_series(1, 6000) AS i");
roll_up("time >= '2026-04-01'");

my $many = 'startDate=2026-04-01&endDate=2026-04-01&profile=full';

sub in_order {
    my ($text, $name) = @_;
    my @ids = $text =~ /"cost":"0\.(\d{9})"/g;    # round ones are shorter

    is(() = $text =~ /^\{/mg, 6000, "$name: each");
    is(join(' ', @ids), join(' ', sort @ids), "$name: in order");
}

in_order(text("$many&format=ndjson"), 'NDJSON');
is(json(export($many))->{recordCount}, 6000, 'JSON');
is(scalar @{json(export($many))->{data}}, 6000, 'as many');
is(() = text("$many&format=csv&key=$key{bob}{id}") =~ /\n/g, 6001, 'CSV');

$r = $n->admin('HEAD', "export/usage?$many");
is("$r->{status} $r->{headers}{'content-type'}", '200 application/json',
   'HEAD');

my @auth = (Authorization => 'Bearer ' . $t->token);
my $uri = "/api/v1/export/usage?$many&format=ndjson";

{
    my $c = $n->conn;
    $c->send("GET $uri HTTP/1.0\r\n$auth[0]: $auth[1]\r\n\r\n");
    in_order($c->rest =~ s/^.*?\r\n\r\n//sr, 'HTTP/1.0');
}

for my $what ('usage', 'conversations') {
    my $c = $n->conn;
    $c->send(Apikey::Http::build('GET', "/api/v1/export/$what",
                                 headers => \@auth, close => 1));
    my ($size, $text) = $c->rest =~ /\r\n\r\n([0-9a-f]+)\r\n(.*)/s;

    like(substr($text, 0, hex $size), qr/^\{"success":true,"exportDate":"[^"]+"
         ,"format":"json",\z/x, "$what: sent before the rows are counted");
}

for my $gzip (0, 1) {
    my $h2 = Apikey::Http2->new(port => $n->port('h2'));
    my $r = $h2->request('GET', $uri, headers => [ lc $auth[0], $auth[1],
        $gzip ? ('accept-encoding' => 'gzip') : () ]);
    my $text = $r->{body};

    if ($gzip) {
        my $z = Compress::Raw::Zlib::Inflate->new(
            -WindowBits => Compress::Raw::Zlib::WANT_GZIP());
        my $in = $text;
        $z->inflate($in, $text);
    }

    in_order($text, $gzip ? 'HTTP/2, gzip' : 'HTTP/2');
}


# clients that do not read: each has a session of Postgres while it runs, and
# there are four

sub sessions {
    return $pg->value("SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = 'apikey export'");
}

sub begin {
    my ($base) = @_;
    my $c = Apikey::Http->new(port => $n->port('slow'));

    setsockopt $c->{socket}, SOL_SOCKET, SO_RCVBUF, 16384;
    $c->send(Apikey::Http::build('GET', $uri =~ s{/api/v1/}{$base}r,
                                 headers => \@auth));
    $c->fill(time + 15);
    return $c;
}

my @slow = map { begin('/api/v1/') } 1 .. 4;

wait_for('four exports', sub { sessions() == 4 });
is($slow[0]->{buffer} =~ m{^HTTP/1.1 200}, 1, 'they have begun');
is_deeply([ $pg->column("SELECT DISTINCT l.relation::regclass || ' ' || l.mode
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE a.application_name = 'apikey export'
                AND l.relation IS NOT NULL
                AND l.mode <> 'AccessShareLock'") ], [],
          'they lock nothing: nobody who writes waits for them');
$r = export($day);
is("$r->{status} " . json($r)->{code}, '503 unavailable', 'a fifth is refused');
is($n->admin('GET', 'usage')->{status}, 200, 'reports are not held up');
is($n->admin('GET', 'api-keys')->{status}, 200, 'nor other calls');

in_order($slow[0]->response->{body}, 'a slow one');
wait_for('its session to end', sub { sessions() == 3 });
$slow[1]->abort;
$slow[2]->close;
wait_for('those of clients that left to end', sub { sessions() == 1 });

# Postgres goes in the middle of it

$pg->stop('immediate');
ok(!eval { $slow[3]->response(timeout => 5) }, 'cut off');
like($@, qr/closed/, 'and closed, without its end');
like($n->log_text, qr/an export was cut off/, 'the log says so');
$pg->start;
wait_for('Postgres', sub { export($day)->{status} == 200 });
$t->sync;

# one that reads nothing for longer than send_timeout

{
    my $c = begin('/short/');
    wait_for('the end of it', sub { sessions() == 0 });
    ok(!eval { $c->response(timeout => 5) }, 'is cut off, too');
}

$n->reload;
is(export($day)->{status}, 200, 'after a reload');

$t->done;
