#!/usr/bin/perl

# The views for dashboards: that they are there, with the columns that they
# are promised to have, say what they are, and read a range of time without
# the rest.

use strict;
use warnings;

use Test::More;

use JSON::PP ();

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;

my $usage = 'start owner customer key service endpoint model outcome'
    . ' status_code verdict limit_name node requests refused errors tokens'
    . ' tokens_input tokens_output tokens_cached tokens_reasoning cost'
    . ' unpriced bytes_in bytes_out duration_ms';
my @views = qw(key_summary usage_hourly usage_daily usage_monthly
               limit_status alert_log audit_log);

is_deeply([ $pg->rows(q{
    SELECT c.relname, obj_description(c.oid, 'pg_class') <> ''
    FROM pg_class c WHERE c.relnamespace = 'apikey'::regnamespace
        AND c.relkind = 'v' AND c.relname = ANY ('} . "{@{[join ',', @views]}}"
    . q{') ORDER BY 1}) ],
    [ map { [ $_, 't' ] } sort @views ], 'each says what it is');

for my $view (@views) {
    ok(eval { $pg->run("SELECT * FROM apikey.$view",
                       user => 'apikey_reader'); 1 }, "the reader reads $view")
        or diag($@);
    cmp_ok($pg->value("SELECT count(*) FROM pg_attribute a
        WHERE a.attrelid = 'apikey.$view'::regclass
            AND col_description(a.attrelid, a.attnum) <> ''"), '>=', 3,
        'with what its columns hold');
}

is($pg->value("SELECT string_agg(a.attname, ' ' ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped
        AND a.attrelid = 'apikey.usage_$_'::regclass"), $usage,
   "columns of usage_$_") for qw(hourly daily monthly);


# the key object, flat

my $api = Apikey::Api->new($pg);

for my $unit ('requests', 'cost') {
    my $some = $unit eq 'cost' ? '12.50' : 12;
    my $key = $api->call('key_create', body => {
        name => $unit, owner => 'ada', customer => 'c',
        limits => [ { name => 'l', unit => $unit, limit => $some,
                      window => 'day' } ],
        credits => { unit => $unit, remaining => $some,
                     refill => { amount => $some, every => 'month' } },
        metadata => { a => 1 } })->{json};
    my $row = JSON::PP->new->decode($pg->value("SELECT row_to_json(s)
        FROM apikey.key_summary s WHERE id = '$key->{id}'",
        user => 'apikey_reader'));

    delete $key->{key};
    is_deeply([ sort keys %$row ], [ sort keys %$key ],
              'key_summary has the members of the key object');
    is_deeply([ @$row{qw(limits credits owner usage_count masked)} ],
              [ @$key{qw(limits credits owner usage_count masked)} ],
              "and what they hold, of $unit");
}


# four months, in the order in which they came; the tests' Postgres has no
# autovacuum, which would look after the index

$pg->run(q{
    INSERT INTO apikey.usage_quarter (start, node, key_id, owner, customer,
        service, endpoint, model, outcome, status_code, verdict, limit_name,
        requests, cost)
    SELECT timestamptz '2026-01-01 00:00:00+00' + q * interval '15 min',
        '11111111-1111-1111-1111-111111111111',
        md5(k::text)::uuid, 'o', '', 'chat', '/v1/chat', 'm', 'success', 200,
        'ok', '', q % 7 + k, 1000000000
    FROM generate_series(0, 120 * 96 - 1) AS q, generate_series(1, 5) AS k
    ORDER BY q;
    SELECT brin_summarize_new_values('apikey.usage_quarter_starts') \gset x
    ANALYZE apikey.usage_quarter;});

my %range = (hourly => [ 'hour', '2026-03-08 05:00+00',
                         '2026-03-08 09:00+00' ],
             daily => [ 'day', '2026-03-08 00:00+00', '2026-03-11 00:00+00' ],
             monthly => [ 'month', '2026-02-01 00:00+00',
                          '2026-03-01 00:00+00' ]);

for my $view (sort keys %range) {
    my ($unit, $from, $to) = @{$range{$view}};

    for my $zone ('UTC', 'Asia/Kathmandu', 'America/Los_Angeles') {
        my $set = "SET TimeZone = '$zone';";

        is_deeply([ $pg->rows("$set SELECT extract(epoch FROM start)::bigint,
                        sum(requests), sum(cost) FROM apikey.usage_$view
                    WHERE start >= '$from' AND start < '$to'
                    GROUP BY 1 ORDER BY 1", user => 'apikey_reader') ],
                  [ $pg->rows("SELECT extract(epoch FROM date_trunc('$unit',
                        start, 'UTC'))::bigint, sum(requests),
                        (sum(cost) / 1000000000)::numeric(38, 9)
                    FROM apikey.usage_quarter
                    WHERE start >= '$from' AND start < '$to'
                    GROUP BY 1 ORDER BY 1") ],
                  "usage_$view, whatever the session's time zone: $zone");
    }

    like(join("\n", $pg->column("EXPLAIN SELECT start, sum(requests)
         FROM apikey.usage_$view WHERE start >= '$from' AND start < '$to'
         GROUP BY 1")), qr/Index Scan on usage_quarter_starts/,
         'a range is looked up');
}

is($pg->value('SELECT sum(requests) FROM apikey.usage_monthly'),
   $pg->value('SELECT sum(requests) FROM apikey.usage_quarter'),
   'months have all of it');

is_deeply([ $pg->column(q{
    SELECT c.relname || '.' || a.attname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind = 'v' AND a.attnum > 0
        AND has_table_privilege('apikey_reader', c.oid, 'SELECT')
        AND c.relnamespace = 'apikey'::regnamespace
        AND col_description(c.oid, a.attnum) IS NULL}) ], [],
    'each column says what it holds');

$t->done;
