
# Closed billing periods and corrections: what a period was closed with stays,
# in reports, views and exports; what comes late and what was wrong is booked
# in one that is open, and limits do not take it for new use.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $ctl = Apikey::Ctl->new($t);

$t->upstream;

my $key = $t->key(owner => 'ada', name => 'ada', limits => [
    { name => 'all', limit => 1000, window => 'total' },
    { name => 'monthly', limit => 1000, window => 'month' } ]);
my $late = $t->key(owner => 'late');

$pg->run("UPDATE apikey.owner SET time_zone = 'Europe/Berlin'
          WHERE external = 'ada';
          UPDATE apikey.limit_rule SET made = now() - interval '400 days';
          INSERT INTO apikey.setting VALUES ('raw_days', '9999')
          ON CONFLICT (name) DO UPDATE SET value = excluded.value");

my $n = $t->nginx(base => { redis => undef }, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_service chat;
            apikey_usage headers;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

$t->sync;

my ($first, $from, $to) = @{($pg->rows("SELECT (apikey.period(
        'Europe/Berlin', 1, p.start - interval '1 us')).start, p.start, p.end
    FROM apikey.period('Europe/Berlin', 1, now()) AS p"))[0]};
my $edge = '11111111-1111-1111-1111-111111111111';
my $last = 0;


# As a node ships it: one request of ada's.

sub ship {
    my ($at, $cost, %opt) = @_;

    $last++;

    my $id = sprintf '018c0000-0000-7000-8000-%012x', $last;
    my @row = ("apikey.micros($at) - apikey.micros($at) % 900000000",
        "'$key->{id}'::uuid", (map { "'$_'::text" } 'ada', '', 'chat', '/x',
        'gpt-4', 'success'), 200, "'ok'::text", "''::text", '1::bigint',
        '0::bigint', '0::bigint', '100::bigint', '50::bigint', '0::bigint',
        '0::bigint', ($cost // 0) . '::numeric', (defined $cost ? 0 : 1)
        . '::bigint', '10::bigint', '20::bigint', '1500::bigint',
        "apikey.micros($at)");

    $pg->run("BEGIN; SELECT set_config('apikey.caller', 'node', true) \\gset x
        " . ($opt{before} // '') . "
        SELECT apikey.usage_apply('$edge', 'edge-1',
            apikey.micros(now()), ARRAY[0],
            ARRAY[1::bigint], ARRAY[@{[ $last - 1 ]}::bigint],
            ARRAY[$last\::bigint], ARRAY[$last\::bigint], "
        . join(', ', map { "ARRAY[$_]" } @row)
        . ", '{}', '{}', ARRAY[1::numeric]) \\gset y
        INSERT INTO apikey.usage_event (time, event, node, key_id, owner,
            service, endpoint, model, method, status_code, outcome, verdict,
            mode, weight, tokens_input, tokens_output, usage_source, cost,
            bytes_in, bytes_out, duration_us, upstream_us)
        VALUES ($at, '$id', '$edge', '$key->{id}', 'ada', 'chat', '/x',
            'gpt-4', 'POST', 200, 'success', 'ok', 'none', 1, 100, 50,
            'provider', @{[ $cost // 'NULL' ]}, 10, 20, 1500, 0);
        COMMIT", user => $opt{before} ? 'postgres' : 'apikey_gateway');

    return $id;
}

sub utc { return $pg->value('SELECT apikey.time_text(' . $_[0] . ')') }

my %range = (closed => "owner=ada&from=" . utc("'$first'") . "&to="
                 . utc("'$from'"),
             open => "owner=ada&from=" . utc("'$from'") . "&to="
                 . utc("'$to'"));

sub total {
    my ($range, $more) = @_;

    my $sum = json($n->admin('GET', "usage?bucket=total&$range{$range}"
                             . ($more // '')))->{total};

    return join ' ', @$sum{qw(requests tokens cost unpriced)};
}

sub export {
    my ($range, $more) = @_;

    my $r = $n->admin('GET', "export/usage?$range{$range}&" . $more);

    is($r->{status}, 200, "export $range $more");
    return $r->{body};
}

sub rows { return map { JSON::PP::decode_json($_) } split /\n/, $_[0] }

# what the rows of an export come to

sub sums {
    my ($range, $more) = @_;
    my ($requests, $tokens, $cost) = (0, 0, 0);

    for my $row (rows(export($range, "format=ndjson&$more"))) {
        $requests += $row->{requests};
        $tokens += $row->{tokens};
        $cost += $row->{cost} // 0;
    }

    return "$requests $tokens $cost";
}

sub used {
    my ($of) = @_;

    return join ', ', map { join ' ', @$_ } $pg->rows("SELECT name,
        trim_scale(used) FROM apikey.limit_status WHERE owner = 'ada'
        ORDER BY name", user => 'apikey_reader');
}

sub known {
    my ($since) = @_;

    return $pg->value("BEGIN; SELECT set_config('apikey.caller', 'node', true)
        \\gset x\nSELECT trim_scale(used) FROM apikey.quota_used(
        '$key->{id}', 'key', 'cost', NULL, NULL, apikey.micros('$since'));
        COMMIT", user => 'apikey_gateway');
}

sub ctl {
    return $ctl->run([ @_, '--postgres', $pg->conninfo(user => 'postgres') ]);
}

sub fails {
    my ($like, $name, @args) = @_;

    my ($rc, $out, $err) = ctl(@args);
    is($rc, 2, "$name: refused");
    like($err, $like, $name);
}


my $old = ship("'$from'::timestamptz - interval '5 days'", 1_000_000_000);
ship("'$from'::timestamptz - interval '5 days'", 500_000_000);
ship("'$from'::timestamptz - interval '1 us'", undef);

my $new = ship("'$from'::timestamptz", 250_000_000);
my @formats = ('format=csv&profile=full', 'format=ndjson',
               'format=csv&granularity=15m', 'format=csv&granularity=day',
               'format=csv&granularity=event');
my %was = map { ($_ => export('closed', $_)) } @formats;

is(total('closed'), '3 450 1.50 1', 'the last period');
is(total('open'), '1 150 0.25 0', 'this one');


subtest 'closing' => sub {
    fails(qr/"soon": write a time/, 'no time', qw(period close soon));
    fails(qr/is still to come/, 'the future', qw(period close 2999-01-01));
    fails(qr/there is no owner "x"/, 'nobody', qw(period close 2020-01-01 x));

    my ($rc, $out, $err) = ctl('period', 'close', utc("'$first'"), 'ada');
    is("$rc $out", "0 closed 0 periods\n", 'nothing was used before');

    $pg->run("UPDATE apikey.usage_node SET as_of = now() - interval '1 h',
        seen_at = now() + interval '1 h' WHERE node = '$edge'");
    ($rc, $out, $err) = ctl('period', 'close');
    is("$rc $out", '3 ', 'not while a node is behind');
    like($err, qr/a node has shipped only what it recorded before 20/,
         'it says so');

    $pg->run("UPDATE apikey.usage_node SET seen_at = 'epoch'
              WHERE node = '$edge'");
    ($rc, $out, $err) = ctl('period', 'close');
    is("$rc $out$err", "0 closed 3 periods\n", 'of each owner, and of nobody');

    ($rc, $out) = ctl('period', 'close');
    is("$rc $out", "0 closed 0 periods\n", 'once');

    ($rc, $out) = ctl('period', 'show', 'ada');
    like($out, qr/^\S+  \S+  ada  requests 3  cost 1\.5  unpriced 1  corrections 0  cost 0$/,
         'it is shown');

    is($pg->value("SELECT b.start = '$first' AND b.end = '$from'
        FROM apikey.billing_periods b WHERE owner = 'ada'",
        user => 'apikey_reader'), 't', 'in the owner\'s zone');

    for my $sql ("UPDATE apikey.billing_period SET cost = 0",
                 "DELETE FROM apikey.billing_period WHERE owner = 'ada'")
    {
        eval { $pg->run($sql) };
        like($@, qr/billing_period is never changed/, $sql);
    }
};


subtest 'what comes late' => sub {
    ship("'$from'::timestamptz - interval '5 days'", 2_000_000_000);
    ship("'$from'::timestamptz - interval '1 us'", 4_000_000_000);

    is(total('closed'), '3 450 1.50 1', 'the closed period stays');
    is(total('open'), '3 450 6.25 0', 'it is in the open one');
    is(total('open', '&node=correction'), '2 300 6.00 0', 'as corrections');
    is(export('closed', $_), $was{$_}, "the same bytes: $_") for @formats;

    is(sums('open', $_), '3 450 6.25', "the rows add up: $_")
        for qw(profile=basic profile=full granularity=event granularity=hour);
    is_deeply([ map { join ' ', $_->{node}, $_->{request_id} // 'null' }
                rows(export('open', 'format=ndjson&profile=full')) ],
              [ ('correction null') x 2, "edge-1 $new" ],
              'beside the requests');
    is(json($n->admin('GET', "export/usage?$range{open}"))->{recordCount}, 3,
       'they are counted');
    is(export('open', "format=ndjson&granularity=event&$_=none"), '',
       "corrections have no $_") for qw(session method);

    is_deeply([ map { join ' ', @$_ } $pg->rows("SELECT kind, node,
        service_at < '$from', at > '$from', trim_scale(cost)
        FROM apikey.usage_corrections ORDER BY service_at",
        user => 'apikey_reader') ],
        [ 'late edge-1 t t 2', 'late edge-1 t t 4' ], 'each has its row');
    is_deeply([ $pg->rows("SELECT requests, trim_scale(cost), corrections,
        trim_scale(corrections_cost) FROM apikey.billing_periods
        WHERE owner = 'ada'", user => 'apikey_reader') ],
        [ [ 3, '1.5', 2, 6 ] ], 'the period tells of them');

    is(used(), 'all 6, monthly 1', 'limits count when it was used');
    is(known($from), 250_000_000, 'as a node is told');
    is(known($first), 7_750_000_000, 'from before');
    is($pg->value("SELECT requests || ' ' || cost FROM apikey.key_usage
        WHERE key_id = '$key->{id}'"), '6 7750000000', 'the key has it all');
    is($n->admin('GET', 'requests/018c0000-0000-7000-8000-000000000006')
       ->{status}, 200, 'so have requests');
};


subtest 'corrections of requests' => sub {
    my @because = ('--reason', 'ticket 7');

    fails(qr/say the reason/, 'no reason', 'correct', $new, 'cost=1');
    fails(qr/"cost" must be an amount/, 'no amount', 'correct', $new,
          'cost=-1', @because);
    fails(qr/"owner" cannot be corrected/, 'an owner', 'correct', $new,
          'owner=bob', @because);
    fails(qr/"x": there is no such name/, 'a name', 'correct', $new, 'x=1',
          @because);
    fails(qr/no admitted request "$edge"/, 'unknown', 'correct', $edge,
          'cost=1', @because);
    fails(qr/"cost" is no NAME=VALUE/, 'no value', 'correct', $new, 'cost',
          @because);
    fails(qr/cached tokens are a part of input/, 'too many cached', 'correct',
          $new, 'tokens_cached=101', @because);
    fails(qr/say what is to be corrected/, 'nothing', 'correct', $new);

    my ($rc, $out, $err) = ctl('correct', $new, 'cost=0.20',
                               'tokens_output=40', @because);
    is($rc, 0, 'corrected') or diag($err);
    like($out, qr/^[0-9a-f-]{36}  counts at \S+  requests 0  tokens -10  cost -0\.05$/,
         'it says the difference');
    is(total('open'), '3 440 6.20 0', 'it is in the sums');
    is($pg->value("SELECT cost || ' ' || tokens_output FROM apikey.usage_event
        WHERE event = '$new'"), '250000000 50', 'the record stays');
    is($pg->value("SELECT start = '$from' FROM apikey.usage_daily WHERE
        node = 'correction' AND cost < 0 AND start = '$from'::timestamptz
        AT TIME ZONE 'UTC' AT TIME ZONE 'UTC'") // 'other', $pg->value(
        "SELECT CASE WHEN date_trunc('day', '$from'::timestamptz, 'UTC')
        = '$from' THEN 't' ELSE 'other' END"), 'at the time of the request');

    ctl('correct', $new, 'cost=0.30', @because);
    is(total('open'), '3 440 6.30 0', 'once more, from what it is by now');
    fails(qr/this is what it says already/, 'twice', 'correct', $new,
          'cost=0.3', @because);

    ctl('correct', $new, 'void', @because);
    is(total('open'), '2 300 6.00 0', 'void');

    ctl('correct', $old, 'cost=0', @because);
    is(total('closed'), '3 450 1.50 1', 'one of a closed period');
    is(total('open'), '2 300 5.00 0', 'is booked now');
    is(export('closed', $_), $was{$_}, "the same bytes: $_") for @formats;
    is(sums('open', 'profile=full'), '2 300 5', 'the rows add up');
    is(scalar(grep { ($_->{request_id} // '') eq $old
                     && $_->{cost} eq '-1.00' }
              rows(export('open', 'format=ndjson&profile=full'))), 1,
       'a row says which');

    my ($unpriced) = $pg->column("SELECT event FROM apikey.usage_event
        WHERE cost IS NULL");
    ctl('correct', $unpriced, 'cost=0.75', @because);
    is(total('open'), '2 300 5.75 -1', 'a price that is known by now');

    is(known($from), 250_000_000, 'limits have paid what they have paid');
    is(used(), 'all 6, monthly 1', 'all of them');

    my $entries = json($n->admin('GET',
                                 'audit?action=correct&sort=time'))->{data};
    is(join(' ', scalar @$entries, $entries->[0]{object},
            $entries->[0]{object_id} =~ s/^.*-//r,
            $entries->[0]{after}{cost}, $entries->[0]{after}{reason}),
       "5 usage @{[ $pg->value(qq{SELECT split_part(id::text, '-', 5)
           FROM apikey.usage_correction WHERE kind = 'correction'
           ORDER BY made_at LIMIT 1}) ]} -0.05 ticket 7", 'the audit has them');

    for my $sql ('UPDATE apikey.usage_correction SET cost = 0',
                 'DELETE FROM apikey.usage_correction')
    {
        eval { $pg->run($sql) };
        like($@, qr/usage_correction is never changed/, $sql);
    }
};


subtest 'corrections of no request' => sub {
    my @because = ('--reason', 'goodwill');
    my $date = 'date=' . utc("'$from'::timestamptz - interval '2 days'");

    fails(qr/give date= and either/, 'whose', 'correct', '-', $date, 'cost=1',
          @because);
    fails(qr/there is no owner "x"/, 'nobody', 'correct', '-', $date,
          'owner=x', 'cost=1', @because);
    fails(qr/there is no key/, 'no key', 'correct', '-', $date, "key=$edge",
          'cost=1', @because);
    fails(qr/is still to come/, 'the future', 'correct', '-',
          'date=2999-01-01', 'owner=ada', 'cost=1', @because);
    fails(qr/say what is to be added/, 'nothing', 'correct', '-', $date,
          'owner=ada', 'cost=0', @because);

    my ($rc, $out, $err) = ctl('correct', '-', $date, "key=$key->{id}",
                               'cost=-0.50', 'tokens_input=-7', @because);
    is($rc, 0, 'of a key') or diag($err);
    ctl('correct', '-', $date, 'owner=ada', 'cost=0.000000001', @because);

    is(total('open'), '2 293 5.250000001 -1', 'both count');
    is($pg->value("SELECT requests || ' ' || cost FROM apikey.key_usage
        WHERE key_id = '$key->{id}'"), '5 6750000000', 'one in its key');
};


subtest 'what is imported' => sub {
    my @rows = map { { date => utc("'$from'::timestamptz - interval '$_'"),
        owner => 'ada', cost => '0.50', endpoint => '/old' } }
        '5 days', '-1 hour';
    my $r = $n->admin('POST', 'import/usage', body => \@rows);

    is(json($r)->{created}, 2, 'two rows') or diag($r->{body});
    is(total('closed'), '3 450 1.50 1', 'the closed period stays');
    is(total('open', '&endpoint=/old'), '2 0 1.00 0', 'both are booked');
    is(total('open', '&endpoint=/old&node=correction'), '1 0 0.50 0',
       'one as a correction');
};


# a node that is shipping while the period is closed: its events are refused
# once, sent again, and late

subtest 'between two clocks' => sub {
    my $bound = "date_trunc('day', now()) + interval '2 days'";
    my $close = "INSERT INTO apikey.billing_period VALUES ('late',
        now() - interval '30 days', $bound, clock_timestamp(), 'test', 0, 0,
        0, 0, 0, 0, 0, 0, 0)";

    eval { ship("'$from'::timestamptz - interval '5 days'", 1,
                before => "INSERT INTO apikey.billing_period VALUES ('ada',
                    '$from', '$to', clock_timestamp(), 'test', 0, 0, 0, 0, 0,
                    0, 0, 0, 0);") };
    like($@, qr/a billing period was closed just now/,
         'a batch that began before is sent again');

    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xqo',
        '/dev/null', '-d', $pg->conninfo(user => 'postgres')
        or die "psql: $!\n";
    $psql->autoflush(1);
    print $psql "BEGIN;
        SELECT pg_advisory_xact_lock(apikey.billing_lock());\n";

    my $waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND classid = (apikey.billing_lock() >> 32)::oid AND ";

    wait_for('the lock', sub { $pg->value("$waits granted
        AND mode = 'ExclusiveLock'") });

    my $r = $n->get('/set/X-Usage-Cost/3', key => $late->{key});
    is($r->{status}, 200, 'a request');
    wait_for('its batch', sub { $pg->value("$waits NOT granted") });

    print $psql "$close; COMMIT;\n";
    close $psql;

    wait_for('its record', sub { $pg->value("SELECT count(*)
        FROM apikey.usage_event WHERE owner = 'late'") });

    is($pg->value("SELECT string_agg(node || ' ' || requests || ' '
        || trim_scale(cost), ', ') FROM apikey.usage_monthly
        WHERE owner = 'late'"), 'correction 1 3', 'it came late, and once');

    my @rows = rows($n->admin('GET', 'export/usage?owner=late&format=ndjson'
                              . '&granularity=event&profile=full')->{body});
    is(join(' ', map { "$_->{node} $_->{cost}" } @rows), 'correction 3.00',
       'one row');
    is(json($n->admin('GET', 'requests/'
                      . $r->{headers}{'x-request-id'}))->{cost}, '3.00',
       'and its record');
};

# the heartbeat does it: a node has one when it starts

subtest 'by itself' => sub {
    my $heart = sub {
        $n->stop;

        my $was = $pg->value('SELECT max(seen_at) FROM apikey.node');

        $n->start;
        wait_for('a heartbeat', sub { $pg->value("SELECT max(seen_at) > '$was'
            FROM apikey.node") eq 't' });
    };
    my $closed = sub { return $pg->value("SELECT count(*) FILTER (WHERE
        b.end <= now() - interval '40 days') || ' ' || count(*) FILTER (WHERE
        b.end > now() - interval '40 days') FROM apikey.billing_period b
        WHERE b.owner IN ('idle', 'gone')") };

    $t->key(owner => 'idle');
    $pg->run("UPDATE apikey.usage_node SET seen_at = 'epoch';
        INSERT INTO apikey.usage_quarter SELECT p.start, '$edge', '$edge',
            'gone', '', '', '', '', 'success', 200, 'ok', '', 1, 0, 0, 0, 0, 0,
            0, 7, 0, 0, 0, 0, 1
        FROM apikey.period('UTC', 1, now() - interval '100 days') AS p");

    $heart->();
    is($closed->(), '0 0', 'not without the setting');

    my ($rc, $out, $err) = ctl('set', 'close_days', 40);
    is($rc, 0, 'set') or diag($err);
    $heart->();
    like($closed->(), qr/^[234] 0$/, 'with it what has ended by then');
    is($pg->value("SELECT sum(requests) || ' ' || sum(cost)
        FROM apikey.billing_period WHERE owner = 'gone'"), '1 7',
       'of owners that never were, too');

    my $were = $closed->();
    $pg->run("DELETE FROM apikey.billing_turn");
    is($pg->value("SELECT apikey.periods_due()", user => 'apikey_gateway'), 0,
       'once');

    $pg->run("UPDATE apikey.billing_turn SET until = until - interval '1 day'");
    is($pg->value("SELECT apikey.periods_due('0 s')",
                  user => 'apikey_gateway'), 0, 'a call has its time');
    is($pg->value('SELECT after IS NULL AND NOT done FROM apikey.billing_turn'),
       't', 'the next one goes on');
    is($pg->value("SELECT apikey.periods_due('1 h')",
                  user => 'apikey_gateway'), 0, 'through all owners');
    is($pg->value('SELECT done FROM apikey.billing_turn'), 't',
       'and is through');
    is($closed->(), $were, 'nothing is closed twice');
    ctl('set', 'close_days', '');
};

$t->allow(qr/Postgres refused a batch of usage \(40001\)/);
$t->done;
