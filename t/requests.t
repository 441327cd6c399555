#!/usr/bin/perl

# GET requests and requests/{request_id}: what nginx recorded of requests that
# went through it, member by member, and who may see it.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my %key = (
    ada => $t->key(name => 'ada', owner => 'ada', scopes => [
        'apikey:manage', '*' ]),
    two => $t->key(name => 'two', owner => 'ada', limits => [
        { name => 'two', limit => 2, window => '1h' } ]),
    bob => $t->key(name => 'bob', owner => 'bob',
                   scopes => [ 'apikey:manage' ]),
);
my $n = $t->nginx(base => { redis => undef }, server => <<'EOT')->start;
    apikey_session $http_x_session;

    location /v1/ {
        apikey required;
        apikey_service chat;
        apikey_endpoint /v1/item;
        apikey_model $arg_model;
        proxy_pass http://%%UPSTREAM%%;
    }

    location / {
        apikey required;
        apikey_service files;
        proxy_pass http://%%UPSTREAM%%;
    }
EOT
my $base = '/api/v1/requests';
my (%id, @order);

$t->sync;

sub ask {
    my ($name, $method, $path, @headers) = @_;

    my $r = $n->request($method, $path, headers => [
        'X-API-Key' => $key{$name}{key}, @headers ]);
    push @order, $r->{headers}{'x-request-id'};
    select undef, undef, undef, 0.002;   # ids of one ms are in no order
    return $r->{headers}{'x-request-id'};
}

sub problem {
    my ($r, $status, $code, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("$r->{status} " . json($r)->{code}, "$status $code", $name);
}

sub listed {
    my ($query, %opt) = @_;
    my ($cursor, @ids);

    for (1 .. 50) {
        my $r = $n->admin('GET', 'requests?' . join('&', $query || (),
                          $cursor ? "cursor=$cursor" : ()), %opt);
        is($r->{status}, 200, "requests?$query") or diag($r->{body});

        my $page = json($r);
        push @ids, map { $_->{request_id} } @{$page->{data}};
        return \@ids unless $page->{has_more};
        $cursor = $page->{next_cursor};
    }

    die 'it does not end';
}

sub one { return json($n->admin('GET', "requests/$_[0]")) }


my $before = $pg->value(q{SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC',
    'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')});

$id{ok} = ask(ada => GET => '/v1/7?model=gpt-4o', 'X-Session' => 'WHERE');
$id{post} = ask(ada => POST => '/x', 'Content-Length' => 0);
$id{missing} = ask(ada => GET => '/status/503');
ask(two => GET => '/') for 1, 2;
$id{refused} = ask(two => GET => '/');
$id{bob} = ask(bob => GET => '/v1/8?model=gpt-4o-mini');

{
    my $r = $n->request('GET', '/', headers => [ 'X-API-Key' => 'sk_none' x 3 ]);
    $id{unknown} = $r->{headers}{'x-request-id'};
    push @order, $id{unknown};
}

$t->wait_events(scalar @order);


# one

my $r = $n->admin('GET', "requests/$id{ok}");
is($r->{status}, 200, 'a request') or diag($r->{body});
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g), join(' ',
   qw(request_id time node key secret owner client method service endpoint
      model session status_code verdict limit_name limit remaining retry_after
      decision_mode requests tokens cost currency duration_ms usage_source
      aborted)), 'all members, in order');

my $e = json($r);
my ($time, $duration) = delete @$e{qw(time duration_ms)};
is_deeply($e, { request_id => $id{ok}, node => 'node', key => $key{ada}{id},
    secret => $key{ada}{secret}, owner => 'ada', client => '127.0.0.0',
    method => 'GET', service => 'chat', endpoint => '/v1/item',
    model => 'gpt-4o', session => 'WHERE', status_code => 200, verdict => 'ok',
    limit_name => undef, limit => undef, remaining => undef,
    retry_after => undef, decision_mode => 'none', requests => 1,
    tokens => 0, cost => '0.00', currency => 'USD', usage_source => 'none',
    aborted => undef }, 'what it was');
like($time, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when');
cmp_ok($duration, '<', 60000, 'how long');

$e = one($id{refused});
is_deeply({ map { $_ => $e->{$_} } qw(status_code verdict limit_name limit
            remaining requests cost key decision_mode aborted) },
          { status_code => 429, verdict => 'rate_limited',
            limit_name => 'two', limit => 2, remaining => 0, requests => 0,
            cost => '0.00', key => $key{two}{id}, decision_mode => 'local',
            aborted => undef }, 'why it was refused');
cmp_ok($e->{retry_after}, '>', 0, 'and for how long');
cmp_ok($e->{retry_after}, '<=', 1800, 'as its answer said');

$e = one($id{unknown});
is_deeply([ @$e{qw(key owner verdict status_code)} ],
          [ undef, undef, 'invalid_key', 401 ], 'an unknown key');
is_deeply([ @{one($id{post})}{qw(method service)} ], [ 'POST', 'files' ],
          'another location');

$pg->run("UPDATE apikey.usage_event SET verdict = 'budget_exceeded',
          \"limit\" = 50000000000, remaining = 8300000000, cost = NULL
          WHERE event = '$id{bob}'");
is_deeply([ @{one($id{bob})}{qw(limit remaining cost)} ],
          [ '50.00', '8.30', undef ], 'a budget is money');
$pg->run("UPDATE apikey.usage_event SET verdict = 'ok', \"limit\" = NULL,
          remaining = NULL, cost = 0 WHERE event = '$id{bob}'");

problem($n->admin('GET', "requests/$_"), 404, 'not_found', "requests/$_")
    for 'x', '01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60';
problem($n->admin('GET', "requests/$id{ok}?x=1"), 400, 'invalid_request',
        'no parameters');


# many

is_deeply(listed(''), [ reverse @order ], 'newest first');
is_deeply(listed('sort=time&limit=3'), \@order, 'oldest first, in pages');
is_deeply(listed('limit=1'), [ reverse @order ], 'one a page');
is_deeply(listed('owner=ada&session=WHERE'), [ $id{ok} ],
          'a word of SQL is a value');

my %of;
for my $x (map { one($_) } reverse @order) {
    push @{$of{$_}{$x->{$_} // ''}}, $x->{request_id}
        for qw(key owner verdict service endpoint model method session
               status_code limit_name node);
}

for my $name (sort keys %of) {
    is_deeply(listed("$name=$_"), $of{$name}{$_}, "$name=$_")
        for grep { $_ ne '' } sort keys %{$of{$name}};
}

is_deeply(listed("key=$key{two}{id}&limit=2&sort=time"),
          [ reverse @{$of{key}{$key{two}{id}}} ], 'of a key, in pages');
is_deeply(listed('owner=ada&limit=2'), $of{owner}{ada},
          'of an owner, in pages');
is_deeply(listed('model=gpt-4o*'), [ @id{qw(bob ok)} ], 'a pattern');
is_deeply(listed('outcome=refused'), [ @id{qw(unknown refused)} ], 'refused');
is_deeply(listed('outcome=error'), [ $id{missing} ], 'errors');
is_deeply(listed("from=$before"), [ reverse @order ], 'from');
is_deeply(listed("to=$before"), [], 'to');
is_deeply(listed('from=' . one($id{refused})->{time} . '&sort=time')->[0],
          $id{refused}, 'from is included');
is_deeply(listed('owner=ada&verdict=rate_limited'), [ $id{refused} ],
          'filters hold at once');


# who sees what

is_deeply(listed('', as => $key{ada}{key}), $of{owner}{ada},
          'an owner sees its own');
is_deeply(listed('limit=2', as => $key{ada}{key}), $of{owner}{ada},
          'in pages');
is_deeply(listed("key=$key{two}{id}", as => $key{ada}{key}),
          $of{key}{$key{two}{id}}, 'of one of its keys');
is_deeply(listed('', as => $t->{read_token}), [ reverse @order ],
          'who only reads sees all');
is($n->admin('GET', "requests/$id{refused}", as => $key{ada}{key})->{status},
   200, 'its own refusal');
problem($n->admin('GET', $_, as => $key{bob}{key}), 404, 'not_found',
        "$_ is not another one's")
    for "requests/$id{ok}", "requests/$id{unknown}",
        "requests?key=$key{two}{id}", 'requests?owner=ada';
problem($n->admin('GET', $_, as => $key{two}{key}), 403, 'forbidden',
        "$_ is nothing for a plain key")
    for 'requests', "requests/$id{refused}";


# wrong parameters

my $wrong = json($n->admin('GET', 'requests?from=x&to=y&tz=z&sort=name'
    . '&limit=0&colour=1&verdict=x&outcome=y&status_code=z'));
is_deeply([ sort map { "$_->{location} $_->{code}" } @{$wrong->{errors}} ],
          [ map { "query:$_" } 'colour unknown', 'from bad_value',
            'limit out_of_range', 'outcome bad_value', 'sort bad_value',
            'status_code bad_type', 'to bad_value', 'tz bad_value',
            'verdict bad_value' ], 'errors');
for my $path ('requests', 'audit') {
    my $r = $n->admin('GET', "$path?from=2026-11-02&to=2026-11-01");
    is($r->{status} . ' ' . json($r)->{errors}[0]{location}, '400 query:to',
       "$path: a range that ends before it begins");
}

problem($n->admin('GET', 'requests?sort=time&cursor='
                  . json($n->admin('GET', 'requests?limit=1'))->{next_cursor}),
        400, 'invalid_request', 'a cursor of another order');


$t->done;
