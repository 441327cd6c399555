# Every kind of limit, set by the admin API, in each mode: what passes is
# counted by the upstream's own log, over two nodes where levels are shared.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_model $arg_model;
            apikey_usage headers;
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_set_header X-Decided-At $apikey_decided_at;
            add_header X-Limit "$apikey_limit_name|$apikey_limit|$apikey_remaining" always;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT


sub tokens { "/set/X-Usage-Input-Tokens/$_[0]?tokens=$_[0]&cost=0" }
sub money  { "/set/X-Usage-Cost/$_[0]?cost=$_[0]&tokens=0" }

sub limit {
    my ($unit, $limit, $window, %more) = @_;

    return { name => 'l', unit => $unit, limit => $limit,
             $window ? (window => $window) : (), %more };
}


for my $mode (qw(local direct leased)) { subtest $mode => sub {
    my @n = map { $t->nginx(name => "$mode-$_", workers => 2,
        server => $server, base => { redis => $mode eq 'local' ? undef
            : "apikey_redis %%REDIS%% timeout=2s;\n"
              . "    apikey_limit_mode $mode;" })->start }
        $mode eq 'local' ? 1 : (1, 2);

    my $done = sub {
        my ($want, $r, $name) = @_;

        is($r->{status}, $want, $name) or diag($r->{body});
        return json($r);
    };

    # in force on the first node at once, on the other one after a sync

    my $create = sub {
        my ($name, %body) = @_;

        return $done->(201, $n[0]->admin('POST', 'api-keys',
            body => { name => $name, %body }), "$name: created");
    };

    my $edit = sub {
        my ($path, %body) = @_;

        return $done->(200, $n[0]->admin('PATCH', $path, body => \%body),
                       'edited');
    };

    my $get = sub { $n[$_[2] // 0]->get($_[1], key => $_[0]{key}) };

    # So many of them pass, by the upstream's own count; the others are refused
    # with this verdict.

    my $passes = sub {
        my ($want, $of, $uri, $key, $verdict, $name, @nodes) = @_;

        my %codes;

        @nodes = @n unless @nodes;
        $up->forget;

        $codes{$_->{status} == 200 ? 'ok' : json($_)->{code}}++
            for Apikey::Http::parallel(map { { uri => $uri,
                port => $nodes[$_ % @nodes]->port,
                key => $key->{key} } } 1 .. $of);

        local $Test::Builder::Level = $Test::Builder::Level + 1;

        is_deeply(\%codes, { $want ? (ok => $want) : (),
                             $of > $want ? ($verdict => $of - $want) : () },
                  $name);
        is($up->hits, $want, '... as the upstream has it');
    };

    my %key = map { my ($name, @limits) = @$_;
                    $name => $create->($name, limits => \@limits) } (
        (map { [ $_, limit(requests => 20, $_) ] }
            qw(day week month total)),
        [ tpm => limit(tokens => 2000, '31d') ],
        [ tpd => limit(tokens => 2000, 'day') ],
        [ budget => limit(cost => '0.000002', 'month') ],
        (map { [ $_ => limit(cost => '1.00', 'month', mode => $_) ] }
            qw(trim observe)),
        [ model => limit(requests => 20, 'day', model => 'gpt-*'),
                   limit(requests => 30, 'total', name => 'all') ],
        [ jobs => limit(concurrent => 3) ],
        [ odd => limit(cost => '0.00', 'total', model => 'none'),
                 limit(tokens => 7919, '31d', name => 'prime'),
                 limit(requests => 9007199254740991, 'total',
                       name => 'large') ],
        [ rolls => limit(requests => 20, '1h', rolling => JSON::PP::true) ],
        [ small => limit(requests => 15, '31d') ],
        [ second => limit(requests => 40, '1s', burst => 100) ]);

    my $rich = $create->('rich', owner => "rich $mode",
        credits => { unit => 'requests', remaining => 20 });

    $edit->("owners/rich%20$mode",
            credits => { unit => 'cost', remaining => '5.00' });

    $done->(201, $n[0]->admin('PUT', "plans/$mode", body => { limits => [
        limit(requests => 26, 'month', name => 'q') ] }), 'a plan');
    $done->(201, $n[0]->admin('PUT', "owners/shared-$mode",
        body => { plan => $mode }), 'an owner of it');

    my @twins = map { $create->("twin $_", owner => "shared-$mode") } 1, 2;

    $t->sync(@n);

    # calendars

    for my $window (qw(day week month)) {
        $passes->(20, 32, '/', $key{$window}, 'quota_exceeded',
                  "20 a $window");

        my $r = $get->($key{$window}, '/');
        like($r->{headers}{'ratelimit-policy'}, qr/^"l";q=20;w=\d+$/,
             'its policy');
        like($r->{headers}{ratelimit}, qr/^"l";r=0;t=\d+$/, 'and its rest');
        cmp_ok($r->{headers}{'retry-after'}, '>', 0, 'until it ends');
    }

    $passes->(20, 32, '/', $key{rolls}, 'rate_limited', '20 in any hour');

    # totals; what is used stays used, whatever the limit becomes

    my $all = $key{total};

    $passes->(20, 32, '/', $all, 'credits_exhausted', '20 in all');

    my $r = $get->($all, '/');
    is("$r->{status} " . ($r->{headers}{'retry-after'} // 'never'),
       '402 never', 'it never opens');

    for my $case ([ 26, 'total', 6 ], [ 10, 'total', 0 ], [ 24, 'total', 0 ],
                  [ 28, 'month', 2 ], [ 31, 'total', 3 ])
    {
        my ($limit, $window, $more) = @$case;

        $edit->("api-keys/$all->{id}",
                limits => [ limit(requests => $limit, $window) ]);
        $passes->($more, 9, '/', $all, $window eq 'total'
                  ? 'credits_exhausted' : 'quota_exceeded',
                  "$limit, $window: $more more", $n[0]);
    }

    # a length of time, of which nothing refills here

    my $small = $key{small};

    $passes->(9, 9, '/', $small, '', '9 of 15');

    for my $case ([ 12, 3 ], [ 15, 3 ], [ 0, 0 ], [ 14, 0 ], [ 16, 1 ]) {
        my ($limit, $more) = @$case;

        $edit->("api-keys/$small->{id}", limits => $limit
                ? [ limit(requests => $limit, '31d') ] : []);
        $passes->($limit ? ($more, 9) : (2, 2), '/', $small, 'rate_limited',
                  $limit ? "$limit: $more more" : 'none', $n[0]);
    }

    # tokens and money

    $passes->(3, 8, tokens(600), $key{tpm}, 'rate_limited', 'tokens');
    $passes->(20, 30, tokens(100), $key{tpd}, 'quota_exceeded',
              'tokens a day');
    $passes->(20, 30, money('0.0000001'), $key{budget}, 'budget_exceeded',
              'money a month');

    $r = $get->($key{budget}, '/?cost=0.0000001');
    is_deeply([ @{json($r)}{qw(limit_name limit used remaining currency)} ],
              [ qw(l 0.000002 0.000002 0.00 USD) ], 'in words')
        or diag($r->{body});
    is($r->{headers}{'x-limit'}, 'l|0.000002|0.00', 'and variables');

    is($get->($key{trim}, money('0.75'), $_ % @n)->{status}, 200, 'trim')
        for 1, 2;
    $passes->(0, 3, money('0.75'), $key{trim}, 'budget_exceeded',
              'nothing is left');
    $passes->(9, 9, money('0.75'), $key{observe}, '', 'observe');

    # models, plans, owners

    $passes->(20, 25, '/?model=gpt-4', $key{model}, 'quota_exceeded',
              'a model');
    $passes->(10, 15, '/?model=claude', $key{model}, 'credits_exhausted',
              'what the others have left');

    $passes->(16, 16, '/', $twins[0], '', '16 of 26');
    $passes->(10, 20, '/', $twins[1], 'quota_exceeded', 'the rest');
    is(json($get->($twins[0], '/'))->{limit_name}, 'owner:q', 'its name');
    $edit->("plans/$mode", limits => [ limit(requests => 30, 'month',
                                             name => 'q') ]);
    $passes->(4, 20, '/', $twins[0], 'quota_exceeded', 'the plan gives more',
              $n[0]);

    # credits

    $passes->(5, 9, money('1.00'), $rich, 'credits_exhausted',
              'both must cover');
    $passes->(15, 20, money('0.00'), $rich, 'credits_exhausted',
              'what the key has left');

    is(json($get->($rich, money('0.00')))->{detail},
       'The credits of the key are used up.', 'in words');

    my $credits = sub { json($_[0])->{credits}{remaining} };

    wait_for('its usage', sub {
        $credits->($n[0]->admin('GET', "api-keys/$rich->{id}")) == 0 });

    is($credits->($n[0]->admin('POST', "api-keys/$rich->{id}/credits",
           body => { add => 7 },
           headers => [ 'Idempotency-Key' => "add $mode" ])), 7,
       'seven are added, once') for 1, 2;

    $passes->(7, 12, money('0.00'), $rich, 'credits_exhausted', 'seven more',
              $n[0]);

    # in flight

    my @busy;

    $up->forget;

    for my $i (1 .. 3) {
        push @busy, $n[0]->conn;
        $busy[-1]->send(Apikey::Http::build('GET', '/hang',
                                            key => $key{jobs}{key}));
        $up->wait_hits($i);
    }

    $r = $get->($key{jobs}, '/');
    is("$r->{status} " . json($r)->{code}, '429 rate_limited', 'no fourth');
    $edit->("api-keys/$key{jobs}{id}", limits => [ limit(concurrent => 4) ]);
    wait_for('one more', sub { $get->($key{jobs}, '/')->{status} == 200 }, 20);
    $_->abort for @busy;
    wait_for('free ones', sub { $get->($key{jobs}, '/')->{status} == 200 },
             20);
    pass('a slot is free when its request ends');

    # none, a prime, the largest

    my $odd = $key{odd};

    $passes->(0, 2, money('0.000000001') . '&model=none', $odd,
              'budget_exceeded', 'no money at all');
    is($get->($odd, money('0') . '&model=none')->{status}, 200,
       'what is free passes');
    is($get->($odd, tokens(7920))->{status}, 429, 'one more than there are');
    is($get->($odd, tokens(7919))->{status}, 200, 'all of a prime');

    for my $case ([ 9007199254740985, 200 ], [ 3, 200 ], [ 1, 402 ]) {
        my ($weight, $status) = @$case;

        is($get->($odd, "/?weight=$weight&tokens=0&cost=0")->{status},
           $status, "$weight of 2^53 - 1");
    }

    # what leases are taken from: raised, it counts at once, and nothing comes
    # back

    my $fast = $key{second};

    $up->forget;

    my @first = Apikey::Http::parallel(map { { uri => '/', port => $_->port,
        key => $fast->{key} } } map { ($n[0], $n[-1]) } 1 .. 100);

    $edit->("api-keys/$fast->{id}", limits => [
        limit(requests => 40, '1s', burst => 1000) ]);
    is($get->($fast, '/')->{status}, 200, 'raised: at once');
    $t->sync(@n);
    is($get->($fast, '/', -1)->{status}, 200, 'there, too');

    my @second = Apikey::Http::parallel(map { { uri => '/', port => $_->port,
        key => $fast->{key} } } map { ($n[0], $n[-1]) } 1 .. 650);

    my @at = sort { $a <=> $b } map { $_->{headers}{'x-decided-at'} }
             $up->requests;

    cmp_ok(scalar @at, '<=', 1000 + 40 * ($at[-1] - $at[0]),
           'no more than the new burst and what refills');
    cmp_ok(scalar(grep { $_->{status} == 200 } @second), '>=', 200,
           'much of what it gives more');

    $_->stop for @n;
} }


# what is wrong is refused, and the field is named

my $n = $t->nginx->start;

for my $case (
    [ { limit => -1 }, 'limit out_of_range' ],
    [ { limit => 0.5 }, 'limit bad_value' ],
    [ { limit => '10' }, 'limit bad_type' ],
    [ { limit => JSON::PP::true }, 'limit bad_type' ],
    [ { limit => undef }, 'limit required' ],
    [ { unit => 'bytes' }, 'unit bad_value' ],
    [ { unit => undef }, 'unit required' ],
    [ { unit => 'cost', limit => 5 }, 'limit bad_type' ],
    [ { unit => 'cost', limit => '-0.01' }, 'limit out_of_range' ],
    [ { unit => 'cost', limit => '9000000.000000001' },
      'limit out_of_range' ],
    [ { unit => 'cost', limit => '0.0000000001' }, 'limit bad_value' ],
    [ { window => '0s' }, 'window out_of_range' ],
    [ { window => '32d' }, 'window out_of_range' ],
    [ { window => '1 hour' }, 'window bad_value' ],
    [ { window => 'year' }, 'window bad_value' ],
    [ { limit => 9999999967, window => '31d' }, 'limit out_of_range' ],
    [ { burst => 9007199254740991 }, 'burst out_of_range' ],
    [ { limit => 0, burst => 1 }, 'burst out_of_range' ],
    [ { window => 'month', burst => 5 }, 'burst bad_value' ],
    [ { unit => 'concurrent' }, 'window bad_value' ],
    [ { mode => 'strict' }, 'mode bad_value' ],
    [ { unit => 'tokens', mode => 'lax' }, 'mode bad_value' ],
    [ { used => 1 }, 'used unknown' ])
{
    my ($members, $error) = @$case;

    my $r = $n->admin('POST', 'api-keys', body => { name => 'x',
        limits => [ { %{limit(requests => 10, '1h')}, %$members } ] });
    my $p = json($r);

    is_deeply([ $r->{status}, $p->{code}, map { "$_->{location} $_->{code}" }
                @{$p->{errors}} ],
              [ 400, 'invalid_request', "/limits/0/$error" ], $error);
}

for my $limit ('1' . '0' x 30, '1e30', '-1e30') {
    my $r = $n->admin('POST', 'api-keys',
        headers => [ 'Content-Type' => 'application/json' ],
        body => qq({"name": "x", "limits": [{"name": "l", "unit": "requests",
                   "limit": $limit, "window": "total"}]}));

    is("$r->{status} " . (json($r)->{errors}[0]{location} // ''),
       '400 /limits/0/limit', "10^30 as $limit");
}

my $r = $n->admin('POST', 'api-keys', body => { name => 'x', limits => [
    limit(requests => 1, '1h'), limit(cost => '9000000.00', 'month'),
    limit(tokens => 1, 'total') ] });

is_deeply([ map { "$_->{location} $_->{code}" } @{json($r)->{errors}} ],
          [ '/limits/1/name duplicate', '/limits/2/name duplicate' ],
          'names that are taken');
is($pg->value("SELECT count(*) FROM apikey.key WHERE name = 'x'"), 0,
   'nothing of it is stored');

$t->done;
