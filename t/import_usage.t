#!/usr/bin/perl

# POST import/usage: what was exported here becomes usage there, once, in every
# format and however the body is cut.

use strict;
use warnings;

use POSIX ();
use Test::More;
use Apikey::Test qw(json json_encode);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

my $n = $t->nginx(server => '')->start;

my %type = (json => 'application/json', ndjson => 'application/x-ndjson',
            csv => 'text/csv');
my $key = $t->key(name => 'ada', owner => 'ada');

$t->sync;

sub import_usage {
    my ($format, $body, $query, %opt) = @_;

    $body = json_encode($body) if ref $body;

    return $n->request('POST', '/api/v1/import/usage' . ($query // ''),
        body => $body, headers => [
            Authorization => 'Bearer ' . ($opt{as} // $t->token),
            'Content-Type' => $type{$format} ], %opt);
}

sub counts {
    my ($r, $want, $name) = @_;
    my $said = eval { json($r) } // {};

    is(join(' ', $r->{status}, map { $said->{$_} // '-' } qw(total created
            unchanged failed)), $want, $name) or diag($r->{body});
    return $said;
}

sub export {
    my ($query) = @_;

    my $r = $n->admin('GET', "export/usage?$query");
    is($r->{status}, 200, "export/usage?$query") or diag($r->{body});
    return $r->{body} =~ s/("exportDate":")[^"]*/$1/r;
}

sub forget {
    $pg->run('TRUNCATE apikey.usage_event, apikey.usage_quarter,
        apikey.usage_import, apikey.usage_import_part, apikey.key_usage,
        apikey.usage_node');
}

sub day { return POSIX::strftime('%Y-%m-%d', gmtime(time - 86400 * $_[0])) }


# rows of requests, of every kind

my ($today, $old) = (day(1), day(400));
my @rows = map { {
    date => "${today}T10:0$_:07Z", endpoint => ('/api/chat', '=1+2',
        "a\"b,c", "'\@x")[$_ % 4], requests => 1, tokens => 150 + $_,
    cost => $_ == 2 ? undef : "0.00$_", model => $_ % 2 ? 'gpt' : undef,
    status => $_ % 3 ? 'success' : 'error',
    request_id => "018c0000-0000-7000-8000-00000000000$_",
    key => $_ == 5 ? undef : $key->{id}, owner => $_ == 5 ? undef : 'ada',
    customer => '-c', service => 'chat', method => 'POST',
    status_code => $_ % 3 ? 200 : 502, verdict => 'ok', limit_name => undef,
    tokens_input => 100, tokens_output => 50 + $_, tokens_cached => 5,
    tokens_reasoning => $_, usage_source => 'provider', price_version => 7,
    bytes_in => 10, bytes_out => 20, duration_ms => 30 + $_,
    session => "\@s", node => 'edge-1',
} } 1 .. 5;
push @rows, { %{$rows[0]}, date => "${today}T10:06:00Z", requests => 0,
    status_code => 429, status => 'error', verdict => 'rate_limited',
    limit_name => 'hourly', tokens => 0, tokens_input => 0, cost => '0.00',
    tokens_output => 0, tokens_cached => 0, tokens_reasoning => 0,
    request_id => '018c0000-0000-7000-8000-000000000006' };

counts(import_usage('json', \@rows, '?dry_run=true'), '200 6 6 0 0',
       'a dry run');
is($pg->value('SELECT count(*) FROM apikey.usage_quarter'), 0, 'does nothing');

my $answer = counts(import_usage('json', \@rows), '200 6 6 0 0', 'an array');
is_deeply([ @$answer{qw(dry_run results)} ], [ JSON::PP::false, [] ], 'no failures');
counts(import_usage('json', \@rows), '200 6 0 6 0', 'again');

my $range = "startDate=$today&endDate=$today";
my %file = map { $_ => export("$range&format=$_&profile=full") } keys %type;
my %sums = map { $_ => export("$range&granularity=$_&profile=full"
                              . '&format=csv') } 'day', '15m';

is_deeply([ map { $_->{row} = undef; delete $_->{row}; $_ }
            @{JSON::PP->new->utf8->decode($file{json})->{data}} ],
          [ @rows ], 'what is exported is what was imported');
is($pg->value("SELECT usage_count FROM apikey.key_summary
               WHERE id = '$key->{id}'"), 4, 'the key has used it');
is($pg->value("SELECT errors || ' ' || refused || ' ' || cost
               FROM apikey.key_usage WHERE key_id = '$key->{id}'"),
   '1 1 8000000', 'in all counts');
is(json($n->admin('GET', "usage?from=$today&bucket=total"))->{total}{tokens},
   765, 'reports show it');
is_deeply([ map { $pg->value("SELECT trim_scale(used) FROM apikey.quota_used(
                '$key->{id}', 'key', '$_', NULL, NULL, 0)") }
            qw(requests tokens cost) ], [ 0, 0, 0 ], 'no limit was paid');

# each format, into an empty database, cut anywhere

for my $format (sort keys %type) {
    for my $piece (100000, 7) {
        my $body = $file{$format};

        forget();
        counts(import_usage($format, $body, '', chunked => 1),
               '200 6 6 0 0', "$format") if $piece != 7;
        next if $piece != 7;

        my $c = $n->conn;
        $c->send(Apikey::Http::build('POST', '/api/v1/import/usage',
            body => $body, headers => [ Authorization => 'Bearer ' . $t->token,
            'Content-Type' => $type{$format} ]), piece => 7);
        counts($c->response, '200 6 6 0 0', "$format in pieces");
    }

    counts(import_usage($_, $file{$_}), '200 6 0 6 0',
           "$_ behind $format is the same") for sort keys %type;
    is(export("$range&format=$format&profile=full"), $file{$format},
       "$format: exported again it is the same");
    is(export("$range&granularity=$_&profile=full&format=csv"), $sums{$_},
       "and its sums by $_") for sort keys %sums;
}

# what this gateway has counted itself is not counted again, whether its events
# are still kept or not

sub counted_here {
    $pg->run("UPDATE apikey.usage_event SET node = md5('n')::uuid;
              UPDATE apikey.usage_quarter SET node = md5('n')::uuid;
              UPDATE apikey.usage_node SET node = md5('n')::uuid
              WHERE name = 'edge-1';
              TRUNCATE apikey.usage_import, apikey.usage_import_part");
}

counted_here();
counts(import_usage('csv', $file{csv}), '200 6 0 6 0', 'requests known here');
my $n_sums = () = $sums{'15m'} =~ /,edge-1$/mg;
counts(import_usage('csv', $sums{'15m'}), "200 $n_sums 0 $n_sums 0",
       'sums known here');
$pg->run("UPDATE apikey.usage_quarter SET start = start - interval '399 days';
          TRUNCATE apikey.usage_event");
counts(import_usage('csv', $file{csv} =~ s/\Q$today\E/$old/gr),
       '200 6 0 6 0', 'and long ago');
counts(import_usage('csv', $file{csv} =~ s/,edge-1$/,edge-2/mgr
                                      =~ s/\Q$today\E/$old/gr),
       '200 6 6 0 0', 'another node\'s are not');
is($pg->value('SELECT count(*) FROM apikey.usage_event'), 0,
   'what is that old is sums only');


# rows that are of no one request

forget();

my $basic = "date,endpoint,requests,tokens,cost,model,status\n"
    . "${old}T10:00:00Z,/api/chat,1,150,0.001,gpt,success\n" x 3
    . "${old}T10:00:00Z,/api/chat,7,0,,,error\n";

counts(import_usage('csv', $basic), '200 4 4 0 0', 'basic');
counts(import_usage('csv', $basic), '200 4 0 4 0', 'again');
counts(import_usage('csv', "$basic${old}T10:00:00Z,/api/chat,1,150,0.001,gpt,"
                    . "success\n"), '200 5 1 4 0', 'with one more the same');
is(export("startDate=$old&endDate=$old&format=csv"),
   "date,endpoint,requests,tokens,cost,model,status\n"
   . "${old}T10:00:00Z,/api/chat,7,0,,,error\n"
   . "${old}T10:00:00Z,/api/chat,4,600,0.004,gpt,success\n", 'summed');
counts(import_usage('csv', $basic, "?key=$key->{id}&owner=ada"),
       '200 4 4 0 0', 'for a key');
is($pg->value("SELECT usage_count FROM apikey.key_summary
               WHERE id = '$key->{id}'"), 10, 'which has used it');

# more than a batch

my $many = join '', map { json_encode({ date => "${old}T11:00:00Z",
    endpoint => '/' . $_ % 3, requests => 1 }) . "\n" } 1 .. 1203;
counts(import_usage('ndjson', $many), '200 1203 1203 0 0', 'in batches');
counts(import_usage('ndjson', $many), '200 1203 0 1203 0', 'once');


# what is wrong

$answer = counts(import_usage('ndjson', join "\n", map { ref ? json_encode($_) : $_ }
    { date => "${old}T12:00:00Z" },
    { endpoint => '/' },
    { date => 'x', requests => -1, tokens => 1.5, cost => 1, status => 'ok',
      request_id => 7, key => [], colour => 'red', verdict => 'A b' },
    { date => '2999-01-01' }, '{', '[]', "{\"date\":\"$old\",\"owner\":\"\\u0000\"}"),
    '200 7 1 0 6', 'each row for itself');
is_deeply([ map { my $f = $_; map { "$f->{row} $_->{location} $_->{code}" }
            sort { $a->{location} cmp $b->{location} } @{$f->{errors}} }
            @{$answer->{results}} ],
          [ '2 /date required', '3 /colour unknown', '3 /cost bad_type',
            '3 /date bad_value', '3 /key bad_type', '3 /request_id bad_value',
            '3 /requests bad_value', '3 /status bad_value',
            '3 /tokens bad_value', '3 /verdict bad_value',
            '4 /date out_of_range', '5  bad_value', '6  bad_type',
            '7  bad_value' ], 'and why');

# what does not fit together

my $stranger = $t->key(name => 'bob', owner => 'bob');
my $none = $t->key(name => 'none');
my $one = '018c0000-0000-7000-8000-0000000000f';

forget();
$answer = counts(import_usage('json', [ map { { date => "${old}T12:00:00Z",
    %$_ } }
    { key => $key->{id}, owner => 'bob' },
    { key => $none->{id}, owner => 'ada' },
    { tokens => 10, tokens_input => 4, tokens_output => 5 },
    { tokens => 10, tokens_output => 11 },
    { tokens => 10, tokens_cached => 11 },
    { tokens_input => 1, tokens_output => 2, tokens_reasoning => 3 },
    { requests => 0, verdict => 'ok', request_id => "${one}1" },
    { requests => 2, request_id => "${one}2" },
    { verdict => 'rate_limiter' },
    { customer => 'c' x 256 },
    { date => "${old}T25:00:00Z" },
    ]), '200 11 0 0 11', 'rows that contradict themselves');
is_deeply([ map { my $f = $_; map { "$f->{row} $_->{location} $_->{code}" }
            @{$f->{errors}} } @{$answer->{results}} ],
          [ '1 /owner bad_value', '2 /owner bad_value', '3 /tokens bad_value',
            '4 /tokens bad_value', '5 /tokens_cached bad_value',
            '6 /tokens_reasoning bad_value', '7 /verdict bad_value',
            '8 /requests bad_value', '9 /verdict bad_value',
            '10 /customer bad_length', '11 /date bad_value' ], 'say so');
is($pg->value('SELECT count(*) FROM apikey.usage_quarter'), 0,
   'and count nothing');

counts(import_usage('json', [ map { { date => "${old}T12:00:00Z", %$_ } }
    { key => $key->{id} }, { key => $stranger->{id}, owner => 'bob' },
    { key => $none->{id} }, { key => "${one}3", owner => 'gone' },
    { tokens => 10, tokens_input => 4 }, { tokens => 10, tokens_output => 4 },
    { requests => 1, verdict => 'rate_limited', request_id => "${one}4" } ]),
    '200 7 7 0 0', 'rows that do');
is($pg->value("SELECT string_agg(DISTINCT owner, ',' ORDER BY owner)
               FROM apikey.usage_quarter"), ',ada,bob,gone',
   'a key brings its owner');
is($pg->value('SELECT sum(tokens_input) || \' \' || sum(tokens_output)
               FROM apikey.usage_quarter'), '10 10',
   'one kind of tokens is what the other leaves');
counts(import_usage('json', [ map { { date => "${old}T12:00:00Z", %$_ } }
    { key => $stranger->{id} } ], "?owner=ada"), '200 1 0 0 1',
    'nor does the query say another one');
counts(import_usage('json', [ ({ date => "${old}T13:00:00Z",
    request_id => "${one}5" }) x 3, ({ date => "${old}T13:00:00Z" }) x 3 ]),
    '200 6 4 2 0', 'a request is one, others are as many as there are');


# an owner's, of no key

my $alone = '{"date":"%s","owner":"ada","endpoint":"/alone",'
    . '"request_id":"018c0000-0000-7000-8000-0000000000aa","cost":"0.07"}';
counts(import_usage('ndjson', sprintf $alone, "${today}T10:00:00Z"),
       '200 1 1 0 0', 'of an owner alone');
like(export("$range&owner=ada&granularity=event&format=csv"),
     qr{^${today}T10:00:00Z,/alone,1,0,0\.07,,success$}m,
     'it is among its requests');
is(json($n->admin('GET', 'requests?owner=ada&endpoint=/alone'))
       ->{data}[0]{request_id}, '018c0000-0000-7000-8000-0000000000aa',
   'and in their list');

# a sum is the same in every format

forget();

my %sum = (date => "${old}T14:00:00Z", endpoint => '/s', requests => 3,
           tokens => 30, cost => '0.30', status => 'success');

counts(import_usage('json', [ \%sum ]), '200 1 1 0 0', 'a sum');
counts(import_usage('csv', join(',', sort keys %sum) . "\n"
                    . join(',', map { $sum{$_} } sort keys %sum) . "\n"),
       '200 1 0 1 0', 'as CSV');
counts(import_usage('json', [ { %sum, cost => '0.3', model => undef } ]),
       '200 1 0 1 0', 'written otherwise');


# corrections, of requests and of none, more and less

sub correct {
    my ($sql) = @_;

    $pg->run("SET search_path = apikey, pg_temp; SELECT $sql");
}

sub corrected {
    return $pg->value("SELECT count(*) || ' ' || sum(requests) || ' '
        || sum(tokens_input + tokens_output) || ' ' || sum(cost)
        FROM apikey.usage_correction");
}

sub sums {
    return $pg->value("SELECT sum(requests) || ' ' || sum(errors) || ' '
        || sum(tokens_input) || ' ' || sum(tokens_output) || ' '
        || sum(tokens_cached) || ' ' || sum(cost)
        FROM apikey.usage_quarter") . ' ' . $pg->value("SELECT requests
        || ' ' || errors || ' ' || tokens || ' ' || cost
        FROM apikey.key_usage WHERE key_id = '$key->{id}'");
}

forget();
import_usage('json', \@rows);
counted_here();

my $id = '018c0000-0000-7000-8000-00000000000';

correct("usage_correct('${id}1', '{\"cost\": \"0.0005\", \"tokens_output\":
         \"1\", \"tokens_reasoning\": \"0\"}', 'wrong')");
correct("usage_correct('${id}1', '{\"cost\": \"2\"}', 'wrong again')");
correct("usage_correct('${id}3', '{\"void\": \"true\"}', 'failed')");
correct("usage_adjust('{\"key\": \"$key->{id}\", \"date\": \"$today\",
         \"cost\": \"-0.25\", \"tokens_input\": \"-7\"}', 'goodwill')")
    for 1 .. 2;
correct("usage_adjust('{\"owner\": \"ada\", \"date\": \"${today}T09:00:00Z\",
         \"requests\": \"2\", \"customer\": \"=c\"}', 'forgotten')");

%file = map { $_ => export("$range&format=$_&profile=full") } keys %type;
%sums = map { $_ => export("$range&granularity=$_&profile=full&format=csv") }
    'day', '15m';

my $few = export("$range&format=csv");
my ($sums, $said) = (sums(), corrected());

for my $format (sort keys %type) {
    counts(import_usage($format, $file{$format}), '200 12 0 12 0',
           "corrections are known where they were made: $format");
}

counts(import_usage('csv', $sums{'15m'}),
       sprintf('200 %d 0 %1$d 0', $sums{'15m'} =~ tr/\n// - 1),
       'so are their sums');
is(corrected(), $said, 'nothing changes');

for my $format (sort keys %type) {
    forget();
    $pg->run('TRUNCATE apikey.usage_correction');

    counts(import_usage($format, $file{$format}), '200 12 12 0 0',
           "corrections in $format");
    is(sums(), $sums, 'they count as they did');
    is(corrected(), $said, 'and stand where they did');
    is(export("$range&format=$format&profile=full"), $file{$format},
       'exported again they are the same');
    counts(import_usage($_, $file{$_}), '200 12 0 12 0', "$_ again")
        for sort keys %type;
    is(sums(), $sums, 'once');
}

is($pg->value("SELECT string_agg(DISTINCT kind || ' ' || reason || ' ' || node,
               ',') FROM apikey.usage_corrections", user => 'apikey_reader'),
   'correction imported correction', 'they say where they come from');

for my $by (sort keys %sums) {
    forget();
    $pg->run('TRUNCATE apikey.usage_correction');

    my $n = $sums{$by} =~ tr/\n// - 1;
    my $n_refused = () = $sums{$by} =~ /,rate_limited,/g;

    counts(import_usage('csv', $sums{$by}),
           "200 $n @{[ $n - $n_refused ]} $n_refused 0", "sums by $by");
    is(sums(), $sums, 'all of them');
    counts(import_usage('csv', $sums{$by}), "200 $n 0 $n 0", 'again');
}

forget();
$pg->run('TRUNCATE apikey.usage_correction');
counts(import_usage('csv', $few), '200 11 11 0 0', 'of seven columns');
is($pg->value('SELECT sum(requests) || \' \' || sum(tokens_input
               + tokens_output) || \' \' || sum(cost)
               FROM apikey.usage_quarter'),
   do { my ($r, undef, $in, $out, undef, $cost) = (split ' ', $sums);
        join ' ', $r, $in + $out, $cost }, 'all of it');

# what is below nothing and no correction

$answer = counts(import_usage('json', [ map { { date => "${old}T12:00:00Z",
    %$_ } }
    { requests => -1, request_id => "${one}6" },
    { cost => '-1', node => 'edge-1' },
    { tokens_input => -1, node => 'correction', method => 'GET' },
    { bytes_in => -1, node => 'correction' }, { cost => '--1' },
    { tokens => -10, tokens_input => -4 }, { requests => 0 },
    ]), '200 7 1 0 6', 'what is no correction');
is_deeply([ map { my $f = $_; map { "$f->{row} $_->{location} $_->{code}" }
            @{$f->{errors}} } @{$answer->{results}} ],
          [ '1 /requests bad_value', '2 /cost bad_value',
            '3 /tokens_input bad_value', '4 /bytes_in bad_value',
            '5 /cost bad_value', '7 /verdict bad_value' ], 'is refused');


for my $body ('{"data":[]}', '{"success":true,"a":{"data":[1]},"data":[ ]} ',
              '[]')
{
    counts(import_usage('json', $body), '200 0 0 0 0', "body $body");
}

for my $body ('{}', '{"data":1}', '{"data":[]', '{"data":[],"x":1}',
              '{"data":[{}', '{"data":[]}x', '{"x":["data"]}', '1', '{"data"[]}',
              '{"data":[{"date":"x"}]')
{
    is(import_usage('json', $body)->{status}, 400, "body $body");
}

is(import_usage('csv', $basic, '', as => $t->{read_token})->{status}, 403,
   'role=read may not');
is(import_usage('csv', $basic, '', as => $key->{key})->{status}, 403,
   'nor a key');
is(import_usage('csv', $basic, '?owner=none')->{status}, 404,
   'an unknown owner');
is(import_usage('csv', $basic, '?colour=1')->{status}, 400, 'a parameter');

$t->done;
