#!/usr/bin/perl

# GET analytics and, for older clients, POST keys/usageAnalytics, behind the
# gateway: what requests through it add up to.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json json_encode);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(base => { redis => undef }, server => <<'EOT')->start;
    location /old/ {
        apikey_admin compat;
    }

    location / {
        apikey required;
        proxy_pass http://%%UPSTREAM%%;
    }
EOT

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %use = (ada => 3, bob => 7, off => 2, new => 0, gone => 5);
my (%id, %key);

sub problem {
    my ($r, $status, $code, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $body = json($r);
    is("$r->{status} " . ($body->{code} // $body->{error}{code}),
       "$status $code", $name);
}

sub analytics {
    my ($query, %opt) = @_;
    my $r = $n->admin('GET', 'analytics' . ($query && "?$query"), %opt);

    is($r->{status}, 200, "analytics?$query") or diag($r->{body});
    return json($r);
}

sub older {
    my ($body, %opt) = @_;

    return $n->request('POST', '/old/keys/usageAnalytics', headers => [
            Authorization => 'Bearer ' . ($opt{as} // $t->token),
            'Content-Type' => 'application/json' ],
        body => json_encode($body));
}


is_deeply([ @{analytics('')}{qw(total_keys active_keys inactive_keys
            total_usage average_usage_per_key most_used_key least_used_key
            data has_more next_cursor)} ],
          [ 0, 0, 0, 0, 0, undef, undef, [], $false, undef ], 'no keys');
is_deeply(json(older({}))->{data}, {
    totalApiKeys => 0, totalUsage => 0, activeApiKeys => 0,
    inactiveApiKeys => 0, mostUsedApiKey => undef, leastUsedApiKey => undef,
    averageUsagePerKey => 0, apiKeyDetails => [] }, 'none of older clients');

for my $name (qw(ada bob off new gone)) {
    my $k = json($n->admin('POST', 'api-keys', body => {
        name => $name, owner => $name eq 'bob' ? 'bob' : 'ada',
        scopes => $name =~ /^(ada|new)$/ ? [ 'apikey:manage' ] : [] }));
    ($id{$name}, $key{$name}) = @$k{qw(id key)};
}

for my $name (sort keys %use) {
    $n->get('/', key => $key{$name})->{status} == 200 or die $name
        for 1 .. $use{$name};
}

my $all = 3 + 7 + 2 + 5;
wait_for('all of it', sub {
    ($pg->value('SELECT sum(requests) FROM apikey.key_usage') // 0) == $all;
});

$n->admin('PATCH', "api-keys/$id{off}", body => { enabled => $false });
$n->admin('DELETE', "api-keys/$id{gone}");

my $r = $n->admin('GET', 'analytics');
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g), join(' ',
   qw(total_keys active_keys inactive_keys total_usage average_usage_per_key
      as_of), (map { ($_, qw(id name usage_count last_used_at)) }
               qw(most_used_key least_used_key)),
   'data', (qw(id name usage_count last_used_at status enabled created_at))
           x 4, qw(has_more next_cursor)), 'all members, in order');

my $a = json($r);
is_deeply([ @$a{qw(total_keys active_keys inactive_keys total_usage)} ],
          [ 4, 3, 1, 12 ], 'revoked keys count nowhere');
like($r->{body}, qr/"average_usage_per_key":3\.0,/, 'one decimal');
is_deeply([ map { @{$a->{"${_}_used_key"}}{qw(id name usage_count)} }
            qw(most least) ],
          [ $id{bob}, 'bob', 7, $id{new}, 'new', 0 ], 'most and least used');
is($a->{least_used_key}{last_used_at}, undef, 'never');
is_deeply([ map { $_->{name} } @{$a->{data}} ], [ qw(bob ada off new) ],
          'most used first');
is_deeply([ map { @{$a->{data}[2]}{$_} } qw(id usage_count status enabled) ],
          [ $id{off}, 2, 'disabled', $false ], 'a row');
is($a->{data}[0]{last_used_at}, json($n->admin('GET', "api-keys/$id{bob}"))
   ->{last_used_at}, 'last_used_at');
is(analytics('status=all')->{total_usage}, 17,
   'the use of revoked keys with status=all');
is(analytics('status=all')->{total_keys}, 4, 'and no more of them');

is_deeply([ map { $_->{name} } @{analytics('sort=name')->{data}} ],
          [ qw(ada bob new off) ], 'sort');
my $first = analytics('limit=3');
is($first->{has_more}, $true, 'pages');
is_deeply([ map { $_->{name} }
            @{analytics("limit=3&cursor=$first->{next_cursor}")->{data}} ],
          [ 'new' ], 'the next one');

$a = analytics('owner=ada');
is_deeply([ @$a{qw(total_keys total_usage average_usage_per_key)},
            $a->{most_used_key}{name} ], [ 3, 5, 1.7, 'ada' ], 'of an owner');
$a = analytics("key=$id{off}");
is_deeply([ @$a{qw(total_keys active_keys inactive_keys total_usage)},
            map { $_->{name} } $a->{most_used_key}, @{$a->{data}} ],
          [ 1, 0, 1, 2, 'off', 'off' ], 'of one key');
is_deeply([ @{analytics("key=$id{gone}&status=all")}
            {qw(total_keys total_usage data)} ], [ 0, 5, [] ],
          'of a revoked one');

# ties go to the older key

$pg->run("UPDATE apikey.key_usage SET requests = 3 WHERE key_id = '$id{new}'");
$a = analytics('owner=ada');
is("$a->{most_used_key}{name} $a->{least_used_key}{name}", 'ada off', 'ties');
$pg->run("UPDATE apikey.key_usage SET requests = 2 WHERE key_id = '$id{new}'");
is(analytics('owner=ada')->{least_used_key}{name}, 'off', 'ties of the least');
$pg->run("UPDATE apikey.key_usage SET requests = 0 WHERE key_id = '$id{new}'");


# who sees what

is_deeply([ map { $_->{name} } @{analytics('', as => $key{ada})->{data}} ],
          [ qw(ada off new) ], 'an owner sees its own');
is(analytics('', as => $key{ada})->{total_usage}, 5, 'and their sum');
problem($n->admin('GET', "analytics?key=$id{bob}", as => $key{ada}), 404,
        'not_found', 'not another one\'s');
problem($n->admin('GET', 'analytics?owner=bob', as => $key{ada}), 404,
        'not_found', 'nor another one');
problem($n->admin('GET', 'analytics', as => $key{bob}), 403, 'forbidden',
        'a plain key has none');
is(analytics('', as => $t->{read_token})->{total_keys}, 4, 'who only reads');

$r = json($n->admin('GET', 'analytics?sort=size&limit=0&status=gone&x=1'));
is_deeply([ sort map { "$_->{location} $_->{code}" } @{$r->{errors}} ],
          [ 'query:limit out_of_range', 'query:sort bad_value',
            'query:status bad_value', 'query:x unknown' ], 'errors');


# older clients

$r = older({ email => 'a@b', password => 'x' });
is($r->{status}, 200, 'keys/usageAnalytics') or diag($r->{body});
is(join(' ', $r->{body} =~ /[{,]"([A-Za-z]+)":/g), join(' ',
   qw(success data totalApiKeys totalUsage activeApiKeys inactiveApiKeys),
   (map { ($_, qw(id name usageCount lastUsedAt)) }
    qw(mostUsedApiKey leastUsedApiKey)),
   qw(averageUsagePerKey apiKeyDetails),
   (qw(id name usageCount lastUsedAt isActive createdAt)) x 4),
   'all members, in order');
like($r->{body}, qr/"averageUsagePerKey":3\.0,/, 'the average');

my $d = json($r)->{data};
is_deeply([ @$d{qw(totalApiKeys totalUsage activeApiKeys inactiveApiKeys)} ],
          [ 4, 12, 3, 1 ], 'the same numbers');
is_deeply([ map { "$_->{name} $_->{usageCount}" } $d->{mostUsedApiKey},
            $d->{leastUsedApiKey}, @{$d->{apiKeyDetails}} ],
          [ 'bob 7', 'new 0', 'new 0', 'off 2', 'bob 7', 'ada 3' ],
          'newest first');
is($d->{leastUsedApiKey}{lastUsedAt}, $d->{apiKeyDetails}[0]{createdAt},
   'lastUsedAt of an unused key is its createdAt');
like($d->{mostUsedApiKey}{lastUsedAt},
     qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'in whole seconds');
is_deeply([ map { $_->{isActive} } @{$d->{apiKeyDetails}} ],
          [ $true, $false, $true, $true ], 'isActive');

is_deeply([ map { $_->{name} } @{json(older({}, as => $key{ada}))
            ->{data}{apiKeyDetails}} ], [ qw(new off ada) ], 'an owner\'s');
is_deeply([ map { $_->{name} } @{json(older({}, as => $key{bob}))
            ->{data}{apiKeyDetails}} ], [ 'bob' ], 'a key\'s');
is(json(older({ apiKeyId => $id{off} }))->{data}{totalUsage}, 2, 'one key');
problem(older({ apiKeyId => $id{$_->[0]} }, as => $key{$_->[1]}), 404,
        'not_found', "$_->[0] of $_->[1]")
    for [ 'bob', 'ada' ], [ 'ada', 'bob' ], [ 'gone', 'ada' ];
problem(older({ colour => 1 }), 400, 'invalid_request', 'a wrong body');
is($n->request('POST', '/api/v1/keys/usageAnalytics', headers => [
       Authorization => 'Bearer ' . $t->token ], body => '{}')->{status}, 404,
   'only with compat');


$t->done;
