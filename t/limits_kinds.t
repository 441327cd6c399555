# Every kind of limit in local mode: how much passes is counted at the upstream,
# when it opens again is computed here, by the C library's clock.

use strict;
use warnings;

use POSIX qw(mktime strftime);
use Test::More;
use Time::HiRes qw(time);
use Apikey::Test qw(wait_for clear_of json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(workers => 2, base => { redis => undef },
                  server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_model $arg_model;
            apikey_service $arg_service;
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            add_header X-Limit "$apikey_limit_name|$apikey_limit|$apikey_remaining" always;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

# So many of them pass, by the upstream's own count; the others are refused
# with this verdict.

sub passes {
    my ($want, $of, $uri, $key, $verdict, $name) = @_;

    my $before = $t->upstream->hits;
    my %codes;

    $codes{$_->{status} == 200 ? 'ok' : json($_)->{code}}++
        for $n->parallel(map { { uri => $uri, key => $key->{key} } } 1 .. $of);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is_deeply(\%codes, { $want ? (ok => $want) : (),
                         $of > $want ? ($verdict => $of - $want) : () },
              $name);
    is($t->upstream->hits - $before, $want, '... as the upstream has it');
}

# The calendar day, Monday or month that begins after now in a time zone.

sub boundary {
    my ($zone, $unit, $anchor) = @_;

    local $ENV{TZ} = $zone;
    POSIX::tzset();

    my @now = localtime;
    my ($day, $month, $year, $wday) = @now[3, 4, 5, 6];
    my $end;

    if ($unit eq 'month') {
        for my $i (0 .. 2) {
            my (undef, undef, undef, $last) =
                localtime mktime(0, 0, 12, 0, $month + $i + 1, $year);
            $end = mktime(0, 0, 0, $anchor < $last ? $anchor : $last,
                          $month + $i, $year, 0, 0, -1);
            last if $end > time;
        }

    } else {
        my $days = $unit eq 'day' ? 1 : (8 - ($wday || 7)) % 7 || 7;
        $end = mktime(0, 0, 0, $day + $days, $month, $year, 0, 0, -1);
    }

    delete local $ENV{TZ};
    POSIX::tzset();
    return $end;
}

# One that is refused until then; its answer.

sub refused_until {
    my ($end, $key, $name) = @_;

    my $most = $end - time;
    my $r = $n->get('/', key => $key->{key});
    my $least = $end - time;
    my $says = $r->{headers}{'retry-after'} // 'nothing';

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok($says =~ /^\d/ && $says >= $least && $says < $most + 1, $name)
        or diag("$says of $least to $most s");
    return $r;
}

sub owner {
    my ($name, $zone, $anchor) = @_;

    $pg->run("INSERT INTO apikey.owner (external, time_zone, anchor_day)
              VALUES ('$name', '$zone', $anchor)");
}


# calendars

subtest 'calendar windows' => sub {
    # nowhere a day ends meanwhile

    clear_of(3600, 10);

    owner('ny', 'America/New_York', 31);
    owner('apia', 'Pacific/Apia', 12);

    my %keys = (
        'UTC 1' => $t->key(limits => [
            { name => 'month', limit => 5, window => 'month' } ]),
        'America/New_York 31' => $t->key(owner => 'ny', limits => [
            { name => 'month', limit => 5, window => 'month' } ]),
        'Pacific/Apia 12' => $t->key(owner => 'apia', owner_limits => [
            { name => 'month', limit => 5, window => 'month' } ]),
    );

    my %units = map { $_ => $t->key(owner => 'ny', limits => [
        { name => $_, limit => 3, window => $_ } ]) } qw(day week);

    $t->sync;

    for my $place (sort keys %keys) {
        my ($zone, $anchor) = split / /, $place;
        my $end = boundary($zone, 'month', $anchor);

        passes(5, 12, '/', $keys{$place}, 'quota_exceeded', $place);

        my $r = refused_until($end, $keys{$place}, 'until its month ends');

        is($r->{status}, 429, 'refused');
        like($r->{headers}{'ratelimit-policy'},
             qr/^"(owner:)?month";q=5;w=(2[34]|25|26)\d{5}$/, 'its policy');
        like($r->{headers}{ratelimit}, qr/;r=0;t=\d+$/, 'its rest');
        like(json($r)->{detail}, qr/allows 5 requests per month\. Try/,
             'its detail');
    }

    for my $unit (sort keys %units) {
        my $end = boundary('America/New_York', $unit);

        passes(3, 8, '/', $units{$unit}, 'quota_exceeded', $unit);

        refused_until($end, $units{$unit}, "until the $unit ends");
    }
};


# New time zone data says that the period ends in a moment, and the node has
# seen it: all of it is used, and it ends soon or has ended.

sub ends_soon {
    my ($zone, $unit, $key) = @_;

    my $end = int(time * 1000000) + 3000000;

    $pg->run("UPDATE apikey.calendar SET bounds =
              ARRAY(SELECT $end + d * 30 * 86400000000
                    FROM generate_series(-1, 9) AS d)
              WHERE zone = '$zone' AND unit = '$unit'");

    wait_for('its new end', sub {
        my $r = $n->get('/?weight=99&tokens=0', key => $key->{key});
        my ($left, $in) = $r->{headers}{ratelimit} =~ /r=(\d+);t=(\d+)/;

        return $in <= 3 || $left > 0;
    });
}


subtest 'a period ends' => sub {
    owner('soon', 'Europe/Lisbon', 1);

    my $key = $t->key(owner => 'soon', limits => [
        { name => 'daily', limit => 4, window => 'day' },
        { name => 'budget', unit => 'tokens', limit => 1000,
          window => 'day' } ]);

    $t->sync;
    passes(4, 9, '/?tokens=10', $key, 'quota_exceeded', 'all of the day');

    ends_soon('Europe/Lisbon', 'day', $key);

    wait_for('the next period', sub {
        $n->get('/?weight=0&tokens=0', key => $key->{key})
            ->{headers}{'x-ratelimit-remaining'} == 4;
    }, 10);

    passes(4, 9, '/?tokens=10', $key, 'quota_exceeded', 'all of the next day');
    cmp_ok($n->get('/?tokens=0', key => $key->{key})->{headers}{'retry-after'},
           '>', 86400, 'and the end of that is far');
};


subtest 'a total' => sub {
    my $key = $t->key(limits => [ { name => 'all', limit => 7,
                                    window => 'total' } ]);

    my $none = $t->key(limits => [ { name => 'none', limit => 0,
                                     window => 'total' } ]);

    $t->sync;

    my $r = $n->get('/?weight=0', key => $key->{key});
    is($r->{headers}{ratelimit}, '"all";r=7', 'nothing used: no reset');
    $r = $n->get('/', key => $none->{key});
    is($r->{headers}{ratelimit}, '"none";r=0', 'nor of one without any');
    is(json($r)->{reset}, undef, 'where it says null');

    passes(7, 20, '/', $key, 'credits_exhausted', 'seven in all');

    $r = $n->get('/', key => $key->{key});

    is($r->{status}, 402, 'payment required');
    is($r->{headers}{'retry-after'}, undef, 'it never opens');
    is($r->{headers}{'ratelimit-policy'}, '"all";q=7', 'no window');
    is($r->{headers}{ratelimit}, '"all";r=0', 'no reset');
    is($r->{headers}{'x-ratelimit-reset'}, undef, 'none there either');
    is(json($r)->{detail}, 'Limit "all" allows 7 requests in all.', 'detail');
    is(json($r)->{reset}, undef, 'null');
};


subtest 'credits' => sub {
    my $key = $t->key(owner => 'rich', credits => {
        unit => 'requests', remaining => 5 },
        owner_credits => { unit => 'cost', remaining => '1.00' });
    my $fill = $t->key(credits => { unit => 'requests', remaining => 2,
        refill => { amount => 6, every => 'month' } });

    $t->sync;

    passes(2, 9, '/?cost=0.50', $key, 'credits_exhausted', 'both must cover');
    passes(3, 9, '/?cost=0', $key, 'credits_exhausted', 'what is left');

    my $r = $n->get('/?cost=0', key => $key->{key});

    is("$r->{status} " . json($r)->{limit_name}, '402 credits', 'its name');
    is(json($r)->{detail}, 'The credits of the key are used up.', 'in words');
    is($r->{headers}{'retry-after'}, undef, 'they do not come back');

    $pg->run("UPDATE apikey.credit SET total = total + 4
              WHERE key_id = '$key->{id}'");
    $t->sync;
    passes(4, 9, '/?cost=0', $key, 'credits_exhausted', 'four are added');

    passes(2, 9, '/', $fill, 'credits_exhausted', 'two to begin with');

    refused_until(boundary('UTC', 'month', 1), $fill,
                  'until they are filled up');

    ends_soon('UTC', 'month', $fill);

    wait_for('the refill', sub {
        $n->get('/?weight=0', key => $fill->{key})
            ->{headers}{'x-ratelimit-remaining'} == 6;
    }, 10);
    passes(6, 9, '/', $fill, 'credits_exhausted', 'filled up');
};


subtest 'tokens and money, before they are settled' => sub {
    my %m = map { $_ => $t->key(limits => [
        { name => 'budget', unit => 'cost', limit => '50.00',
          window => 'month', mode => $_ } ]) } qw(strict trim observe);
    my $tpm = $t->key(limits => [ { name => 'tpm', unit => 'tokens',
                                    limit => 1000, window => '1h' } ]);
    my $odd = $t->key(limits => [ { name => 'b', unit => 'cost',
                                    limit => '0.000000003',
                                    window => '31d' } ]);

    $t->sync;

    passes(3, 8, '/?cost=15.5', $m{strict}, 'budget_exceeded', 'strict');
    passes(1, 3, '/?cost=3.5', $m{strict}, 'budget_exceeded',
           'all that is left');
    passes(4, 8, '/?cost=15.5', $m{trim}, 'budget_exceeded', 'trim');
    passes(8, 8, '/?cost=15.5', $m{observe}, '', 'observe');

    my $r = $n->get('/?cost=1', key => $m{strict}{key});
    my $p = json($r);

    is($r->{status}, 402, 'payment required');
    is($r->{headers}{'ratelimit-policy'}, undef, 'no limit of requests');
    is_deeply([ @$p{qw(code limit_name unit limit used remaining currency)} ],
              [ qw(budget_exceeded budget cost 50.00 50.00 0.00 USD) ],
              'money is text');
    is($r->{headers}{'x-limit'}, 'budget|50.00|0.00', 'in variables, too');
    like($p->{detail}, qr/allows 50.00 per month\. Try again in/, 'in words');

    passes(4, 9, '/?tokens=250', $tpm, 'rate_limited', 'tokens');
    is($n->get('/?tokens=1001', key => $tpm->{key})->{headers}{'retry-after'},
       undef, 'more than it ever holds');
    passes(3, 7, '/?cost=0.000000001', $odd, 'budget_exceeded', 'nano-units');
};


subtest 'models and services' => sub {
    my $key = $t->key(limits => [
        { name => 'gpt', limit => 4, window => '1h', model => 'gpt-*' },
        { name => 'big', limit => 2, window => 'day', model => 'gpt-9' },
        { name => 'chat', limit => 3, window => '1h', service => 'chat',
          model => 'gpt-*' },
        { name => 'all', limit => 12, window => 'total' } ]);

    $t->sync;

    passes(2, 5, '/?model=gpt-9', $key, 'quota_exceeded', 'one model');
    passes(2, 5, '/?model=gpt-4&service=chat', $key, 'rate_limited',
           'all models of a pattern');
    is(json($n->get('/?model=gpt-4&service=chat', key => $key->{key}))
           ->{limit_name}, 'gpt', 'its name');
    passes(8, 9, '/?model=claude', $key, 'credits_exhausted',
           'other models have what is left in all');
    passes(0, 2, '/', $key, 'credits_exhausted', 'and no model');
};


subtest 'at once' => sub {
    my $key = $t->key(limits => [
        { name => 'jobs', unit => 'concurrent', limit => 2 },
        { name => 'few', unit => 'concurrent', limit => 3 } ]);
    my $none = $t->key(limits => [
        { name => 'jobs', unit => 'concurrent', limit => 0 } ]);

    $t->sync;

    my @busy = map { $n->conn } 1 .. 2;
    my $before = $t->upstream->hits;

    $_->send("GET /hang HTTP/1.1\r\nHost: a\r\nX-API-Key: $key->{key}\r\n\r\n")
        for @busy;

    wait_for('two at work', sub { $t->upstream->hits - $before == 2 });

    my $r = $n->get('/', key => $key->{key});

    is("$r->{status} " . json($r)->{code}, '429 rate_limited', 'no third one');
    is(json($r)->{limit_name}, 'jobs', 'its name');
    is($r->{headers}{'retry-after'}, 1, 'may well open soon');
    is($n->get('/', key => $none->{key})->{headers}{'retry-after'}, undef,
       'none never opens');

    $_->close for @busy;
};


subtest 'odd ones' => sub {
    my %k = map { $_->[0] => $t->key(limits => [ $_->[1] ]) } (
        [ none    => { name => 'n', limit => 0, window => 'month' } ],
        [ nothing => { name => 'n', limit => 0, window => 'total' } ],
        [ free    => { name => 'n', unit => 'cost', limit => '0.00',
                       window => 'day' } ],
        [ prime   => { name => 'n', limit => 7919, window => '31d' } ],
        [ large   => { name => 'n', limit => 9007199254740991,
                       window => 'total' } ]);

    $t->sync;

    passes(0, 3, '/', $k{none}, 'quota_exceeded', 'none a month');
    passes(0, 3, '/', $k{nothing}, 'credits_exhausted', 'none in all');
    passes(0, 3, '/?cost=0.000000001', $k{free}, 'budget_exceeded',
           'no money');
    passes(2, 2, '/?weight=0', $k{none}, '', 'that costs nothing passes');

    for my $name (qw(none nothing)) {
        is($n->get('/', key => $k{$name}{key})->{headers}{'retry-after'},
           undef, "$name: never opens");
    }

    my $r = $n->get('/?weight=7919', key => $k{prime}{key});
    is("$r->{status} $r->{headers}{'x-ratelimit-remaining'}", '200 0',
       'a prime in 31 days');
    $r = $n->get('/?weight=9007199254740990', key => $k{large}{key});
    is("$r->{status} $r->{headers}{'x-ratelimit-remaining'}", '200 0',
       'but for one all of 2^53 - 1');
};


# What is used stays used, whatever becomes of the limit.

subtest 'edits' => sub {
    my $key = $t->key(limits => [ { name => 'l', limit => 10,
                                    window => '1h' } ]);

    $t->sync;
    passes(4, 4, '/', $key, '', 'four of ten');

    my $left = sub {
        $pg->run("SELECT apikey.put_limits('$key->{id}', NULL, '[{"
            . '"name": "l", "unit": "requests", ' . $_[0] . "}]')");
        $t->sync;
        return $n->get('/?weight=0', key => $key->{key})
            ->{headers}{'x-ratelimit-remaining'};
    };

    is($left->('"limit": 12, "window": "month"'), 8, 'a month of twelve');
    is($left->('"limit": 6, "window": "day"'), 2, 'a day of six');
    is($left->('"limit": 3, "window": "total"'), 0, 'three in all');
    is($left->('"limit": 20, "window": "week"'), 16, 'a week of twenty');
    is($left->('"limit": 40, "window": "31d"'), 36, '31 days of forty');
};


subtest 'counts outlive what may die' => sub {
    my $key = $t->key(limits => [ { name => 'm', limit => 6,
                                    window => 'month' } ]);

    $t->sync;
    passes(6, 9, '/', $key, 'quota_exceeded', 'six');

    $n->reload;
    passes(0, 3, '/', $key, 'quota_exceeded', 'after a reload');

    $t->allow(qr/exited on signal 9/);
    $n->kill_worker;
    passes(0, 3, '/', $key, 'quota_exceeded', 'after the death of a worker');

    my $more = $t->key(limits => [ { name => 'm', limit => 9,
                                     window => 'month' },
                                   { name => 'all', unit => 'tokens',
                                     limit => 50, window => 'total' } ],
                       credits => { unit => 'requests', remaining => 30 });

    $t->sync;
    passes(5, 5, '/?tokens=1', $more, '', 'five of nine');

    # all of nginx: Postgres knows

    $n->stop('KILL');
    $n->start;

    # it waits for what was recorded, but not for long; and the saved copy of
    # the keys may be older than this one

    my $r = wait_for('what Postgres knows', sub {
        my $r = $n->get('/?weight=0&tokens=0', key => $more->{key});
        return $r->{status} == 200 && $r;
    }, 20);

    is($r->{headers}{'x-ratelimit-remaining'}, 4, 'four are left');
    passes(0, 3, '/', $key, 'quota_exceeded', 'and none of six');
    passes(4, 9, '/?tokens=1', $more, 'quota_exceeded', 'four and no more');
};

$t->done;
