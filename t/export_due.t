#!/usr/bin/perl

# Scheduled exports: what is written where, once over all nodes, whole or not
# at all, whoever dies meanwhile; and who is told.  A turn is due when its
# next_at is over: it is set here, and whatever was yesterday stands in it.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use Test::More;

use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $dir = $t->dir . '/out';

mkdir $dir or die "$dir: $!\n";
chmod 0777, $dir;

my $ada = $t->key(owner => 'ada', scopes => ['apikey:manage']);
my $bob = $t->key(owner => 'bob', scopes => ['apikey:manage']);

# Raw events stay; the day is that of the start, also after midnight.

$pg->run("INSERT INTO apikey.setting VALUES ('raw_days', '9999')
          ON CONFLICT (name) DO UPDATE SET value = excluded.value");

my $today = $pg->value("SELECT date_trunc('day', now(), 'UTC')");
my $from = $pg->value("SELECT to_char(timestamptz '$today'
    AT TIME ZONE 'UTC' - interval '1 day', 'YYYY-MM-DD')");

$pg->run("INSERT INTO apikey.usage_event (time, event, node, key_id, owner,
        mode, upstream_us, method, service, endpoint, status_code, outcome,
        verdict,
        model, tokens_input, tokens_output, tokens_cached, tokens_reasoning,
        usage_source, cost, bytes_in, bytes_out, duration_us)
    SELECT timestamptz '$today' - i * interval '30 s',
        lpad(to_hex(i), 32, '0')::uuid, gen_random_uuid(),
        CASE WHEN i % 2 = 0 THEN '$ada->{id}' ELSE '$bob->{id}' END::uuid,
        CASE WHEN i % 2 = 0 THEN 'ada' ELSE 'bob' END, 'none', 0, 'POST', 'chat',
        '/api/chat', 200, 'success', 'ok', 'gpt-4o-mini', i, 50, 0, 0, 'none',
        1000000, 10, 20, 1499
    FROM generate_series(1, 2500) AS i;
    INSERT INTO apikey.usage_quarter SELECT
        date_bin('15 minutes', time, '1970-01-01Z'), node, key_id, owner, '',
        service, endpoint, model, outcome, status_code, verdict, '', count(*),
        0, 0, sum(tokens_input), sum(tokens_output), 0, 0, sum(cost), 0,
        sum(bytes_in), sum(bytes_out), sum(duration_us), count(*)
    FROM apikey.usage_event
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12");

my $one = $t->nginx(name => 'a', workers => 2)->start;
my $two = $t->nginx(name => 'b')->start;

$t->sync;


sub api {
    my ($method, $path, $body, $status, %opt) = @_;

    my $r = $two->admin($method, $path, body => $body, %opt);

    is($r->{status}, $status, "$method " . $path =~ s/[0-9a-f-]{36}/ID/gr)
        or diag($r->{body});
    return $r->{status} == 204 ? {} : json($r);
}

sub schedule {
    my ($every, %opt) = @_;

    my %as = (as => delete $opt{as});
    return api('POST', 'export/schedules',
               { name => $every, every => $every, %opt }, 201,
               $as{as} ? %as : ());
}

sub due {
    my ($s, $at) = @_;

    $at //= "timestamptz '$today'";
    $pg->run("UPDATE apikey.export_schedule SET next_at = $at, retry_at = NULL
              WHERE id = '$s->{id}'");
}

sub told {
    my ($s) = @_;

    return map { JSON::PP::decode_json($_) } $pg->column(
        "SELECT json_build_object('type', type, 'data', data, 'owner',
             (SELECT external FROM apikey.owner o WHERE o.id = owner_id))
         FROM apikey.webhook_event WHERE data ->> 'schedule' = '$s->{id}'
         ORDER BY at, id");
}

sub wait_told {
    my ($s, $n) = @_;

    wait_for("$s->{name}: $n events", sub { told($s) >= $n }, 40);
    return (told($s))[-1];
}

sub text {
    my ($file) = @_;

    open my $f, '<:raw', "$dir/$file" or return "no $file";
    return do { local $/; <$f> };
}

sub files {
    opendir my $d, $dir or die "$dir: $!\n";
    return sort grep { !/^\.\.?$/ } readdir $d;
}

sub export {
    my ($query, %opt) = @_;

    return $two->admin('GET', "export/usage?$query", %opt)->{body};
}

sub claim {
    my ($s) = @_;

    return $pg->value("SELECT claim FROM apikey.export_schedule
                       WHERE id = '$s->{id}' AND claimed_until > now()");
}


# no directory, no export

api('POST', 'export/schedules', { name => 'x', every => 'day' }, 409);
$pg->run("INSERT INTO apikey.setting VALUES ('export_dir', '$dir')");

for my $case ([ { name => 'x' }, '/every required' ],
              [ { name => 'x', every => 'hour' }, '/every bad_value' ],
              [ { every => 'day' }, '/name required' ],
              [ { name => 'x', every => 'day', format => 'xml' },
                '/format bad_value' ],
              [ { name => 'x', every => 'day', time_zone => 'Mars' },
                '/time_zone bad_value' ],
              [ { name => 'x', every => 'day', owner => 'nobody' },
                '/owner not_found' ])
{
    my $r = api('POST', 'export/schedules', $case->[0], 400);
    is(join(' ', map { "$_->{location} $_->{code}" } @{$r->{errors}}),
       $case->[1], $case->[1]);
}

my %s = (
    csv    => schedule('day', name => 'csv', format => 'csv'),
    json   => schedule('day', name => 'json', profile => 'full'),
    ndjson => schedule('day', name => 'ndjson', format => 'ndjson'),
    ada    => schedule('day', name => 'ada', format => 'csv',
                       as => $ada->{key}),
);

is_deeply([ @{$s{csv}}{qw(owner every time_zone format profile file error)} ],
          [ undef, 'day', 'UTC', 'csv', 'basic', undef, undef ], 'the object');
is($s{ada}{owner}, 'ada', 'an owner has its own');
api('GET', "export/schedules/$s{csv}{id}", undef, 404, as => $ada->{key});
is(@{api('GET', 'export/schedules', undef, 200, as => $ada->{key})->{data}}, 1,
   'and sees no other');
api('PATCH', "export/schedules/$s{ada}{id}", { owner => 'bob' }, 400,
    as => $ada->{key});
is_deeply([ files() ], [], 'nothing is due yet');


# yesterday

due($_) for values %s;

my %told = map { $_ => wait_told($s{$_}, 1) } sort keys %s;

for my $name (sort keys %s) {
    my $d = $told{$name}{data};
    my $form = $s{$name}{format};
    my $file = "usage-$from-$from-$s{$name}{id}.$form";

    is($told{$name}{type}, 'export.completed', "$name: told")
        or diag(explain $d);
    is($d->{file}, $file, 'of the file');
    is("$d->{from} $d->{format} $d->{profile}", "${from}T00:00:00.000Z "
       . "$s{$name}{format} $s{$name}{profile}", 'and what it is of');
    is($d->{bytes}, length text($file), 'its size');
    is($d->{sha256}, sha256_hex(text($file)), 'its sum');
    is($d->{rows}, $name eq 'ada' ? 1250 : 2500, 'its rows');
    is(sprintf('%o', (stat "$dir/$file")[2] & 07777), '600', 'for nobody else');

    my $want = export("format=$form&profile=$s{$name}{profile}&startDate=$from"
                      . "&endDate=$from",
                      $name eq 'ada' ? (as => $ada->{key}) : ());

    is(text($file) =~ s/"exportDate":"[^"]*"//r,
       $want =~ s/"exportDate":"[^"]*"//r, 'as GET export/usage has it');
}

is($told{ada}{owner}, 'ada', 'an owner is told of its own');
is($told{csv}{owner}, undef, 'operators of theirs');
is_deeply([ files() ], [ sort map { $_->{data}{file} } values %told ],
          'and there is nothing else');

my $object = api('GET', "export/schedules/$s{csv}{id}", undef, 200);

is($object->{file}, $told{csv}{data}{file}, 'the object knows it, too');
is($pg->value("SELECT next_at = timestamptz '$today' + interval '1 day 15 min'
               FROM apikey.export_schedule WHERE id = '$s{csv}{id}'"), 't',
   'the next one is planned');


# many at once, two nodes

{
    my @many = map { schedule('day', name => "n$_", format => 'csv') } 1 .. 8;
    my $ids = join ',', map { "'$_->{id}'" } @many;

    $pg->run("UPDATE apikey.export_schedule SET next_at = '$today'
              WHERE id IN ($ids)");
    wait_told($_, 1) for @many;
    is(join(' ', map { scalar(my @e = told($_)) } @many),
       join(' ', (1) x 8), 'each is written once');
    api('DELETE', "export/schedules/$_->{id}", undef, 204) for @many;
}


# the same again: JSON says when it was due, not when it was written

{
    my $before = text($told{json}{data}{file});

    unlink "$dir/$told{json}{data}{file}";
    due($s{json});
    is(wait_told($s{json}, 2)->{data}{sha256}, sha256_hex($before),
       'another attempt writes the same');
}


# what a living node has not shipped is waited for

{
    my $late = '11111111-1111-1111-1111-111111111111';

    $pg->run("INSERT INTO apikey.usage_node VALUES ('$late', 'late',
                  timestamptz '$today' - interval '2 days', now())");
    due($s{ndjson}, "now() - interval '5 hours'");
    is($pg->value('SELECT count(*) FROM apikey.schedule_claim('
                  . 'gen_random_uuid())', user => 'apikey_gateway'), 0,
       'a node that is behind is waited for');
    due($s{ndjson}, "now() + interval '1 day'");
    $pg->run("DELETE FROM apikey.usage_node WHERE node = '$late'");
}


# a node that quits leaves its turn, one that dies loses it

my $file = $told{csv}{data}{file};
my $csv = text($file);

unlink "$dir/$file";
$two->stop;

{
    my $go = $pg->locked('LOCK TABLE apikey.usage_event');

    due($s{csv});
    wait_for('a claim', sub { claim($s{csv}) }, 20);
    wait_for('its file', sub { grep { /^\.\Q$file\E/ } files() });

    my $first = claim($s{csv});

    $one->reload;
    wait_for('another claim, and its file alone', sub {
        my $now = claim($s{csv}) // '';
        return $now ne '' && $now ne $first
               && "@{[ grep { /^\./ } files() ]}" eq ".$file.$now";
    }, 40);
    ok(!-e "$dir/$file", 'nothing stands under its name before it is whole');

    $first = claim($s{csv});
    $one->stop('KILL');

    is_deeply([ grep { /^\./ } files() ], [ ".$file.$first" ],
              'what a node leaves behind that dies');
    $pg->run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE application_name LIKE 'apikey %'");

    $two->start;
    $go->();
    is($pg->value('SELECT count(*) FROM apikey.schedule_claim('
                  . 'gen_random_uuid())', user => 'apikey_gateway'), 0,
       'while its claim lasts nobody takes over');

    $pg->run("UPDATE apikey.export_schedule SET claimed_until = now()
              WHERE id = '$s{csv}{id}'");
    wait_told($s{csv}, 2);
    is(text($file), $csv, 'then another one writes the same');
    is_deeply([ grep { /^\./ } files() ], [], 'and tidies up');
}


# what cannot be written is told, and tried again

{
    $pg->run("UPDATE apikey.setting SET value = '$dir/none'
              WHERE name = 'export_dir'");
    due($s{ndjson});

    my $e = wait_told($s{ndjson}, 2);

    is($e->{type}, 'export.failed', 'a directory that is not there');
    like($e->{data}{error}, qr/^export_dir cannot be opened \(2: /, 'why');
    is($e->{data}{attempts}, 1, 'the first attempt');
    ok($e->{data}{next_attempt_at}, 'not the last one');
    is(api('GET', "export/schedules/$s{ndjson}{id}", undef, 200)->{failures},
       1, 'the object says so');

    mkdir "$dir/none" or die "$dir/none: $!\n";
    chmod 0777, "$dir/none";
    due($s{ndjson});
    is(wait_told($s{ndjson}, 3)->{type}, 'export.completed', 'then it is');
    is_deeply([ map { s{.*/}{}r } glob("$dir/none/*") ],
              [ $told{ndjson}{data}{file} ], 'where it belongs');
    is(api('GET', "export/schedules/$s{ndjson}{id}", undef, 200)->{error},
       undef, 'and the error is gone');

    # five more, and it is given up

    $pg->run("UPDATE apikey.setting SET value = '$dir/gone'
              WHERE name = 'export_dir';
              UPDATE apikey.export_schedule SET failures = 5
              WHERE id = '$s{ndjson}{id}'");
    due($s{ndjson});
    is(wait_told($s{ndjson}, 4)->{data}{next_attempt_at}, undef,
       'the sixth was the last');
    is($pg->value("SELECT next_at > '$today' FROM apikey.export_schedule
                   WHERE id = '$s{ndjson}{id}'"), 't', 'on to the next day');
}


# ranges, wherever

for my $case (
    [ 'day', 'Asia/Kathmandu', '2026-03-01 18:30Z',
      '2026-02-28 18:15Z 2026-03-01 18:15Z usage-2026-03-01-2026-03-01-' ],
    [ 'week', 'Europe/Berlin', '2026-03-29 22:15Z',
      '2026-03-22 23:00Z 2026-03-29 22:00Z usage-2026-03-23-2026-03-29-' ],
    [ 'month', 'America/New_York', '2026-03-05 00:00Z',
      '2026-02-01 05:00Z 2026-03-01 05:00Z usage-2026-02-01-2026-02-28-' ],

    # midnight comes twice

    [ 'day', 'Atlantic/Azores', '2026-10-25 00:15Z',
      '2026-10-24 00:00Z 2026-10-25 00:00Z usage-2026-10-24-2026-10-24-' ],
    [ 'month', 'America/Havana', '2026-12-01 05:15Z',
      '2026-11-01 04:00Z 2026-12-01 05:00Z usage-2026-11-01-2026-11-30-' ])
{
    my ($every, $zone, $at, $want) = @$case;

    is($pg->value("SELECT to_char(r.\"from\" AT TIME ZONE 'UTC',
            'YYYY-MM-DD HH24:MIZ ') || to_char(r.\"to\" AT TIME ZONE 'UTC',
            'YYYY-MM-DD HH24:MIZ ') || left(r.file, 28)
        FROM apikey.schedule_range(jsonb_populate_record(
            NULL::apikey.export_schedule, jsonb_build_object('every', '$every',
            'time_zone', '$zone', 'next_at', '$at', 'id', gen_random_uuid(),
            'format', 'csv'))) AS r"), $want, "$every of $zone");
}

is($pg->value("SELECT apikey.schedule_next('week', 'Europe/Berlin',
    '2026-03-23 12:00Z') = '2026-03-29 22:15Z'"), 't', 'and when');
is($pg->value("SELECT apikey.schedule_next('day', 'Atlantic/Azores',
    '2026-10-24 00:15Z') = '2026-10-25 00:15Z'"), 't', 'behind the first');
is($pg->value("SELECT apikey.schedule_next('day', 'Atlantic/Azores',
    '2026-10-25 00:15Z') = '2026-10-26 01:15Z'"), 't', 'and not the second');

$t->done;
