#!/usr/bin/perl

# Older clients: what apikey_admin compat accepts and answers besides, member
# by member, and that the same paths without it know nothing of it.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json json_encode);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(workers => 2, server => <<'EOT')->start;
        location /old/ {
            apikey_admin compat;
        }

        location / {
            apikey required;
            apikey_scope workflow:$arg_workflow;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my @more = qw(active is_active rate_limit cost_limit workflow_id user_id
              customer_id);
my $second = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\z/;


sub old {
    my ($method, $path, $body, %opt) = @_;

    my $token = delete $opt{as} // $t->token;
    my @headers = $token eq '' ? () : (Authorization => "Bearer $token");

    push @headers, 'Content-Type' => 'application/json' if defined $body;

    return $n->request($method, "/old/$path", headers => \@headers,
        defined $body ? (body => ref $body ? json_encode($body) : $body) : (),
        %opt);
}


sub create {
    my ($r) = old(POST => 'api-keys', { name => 'a key', @_ });

    is($r->{status}, 201, 'created') or diag($r->{body});
    return json($r);
}


sub change {
    my ($key, %body) = @_;

    my $r = old(PATCH => "api-keys/$key->{id}", \%body);

    is($r->{status}, 200, 'changed') or diag($r->{body});
    return json($r);
}


sub older_members {
    my ($key) = @_;

    return { map { $_ => $key->{$_} } @more };
}


sub limits {
    my ($key) = @_;

    return join ', ', map { "$_->{name} $_->{limit}/$_->{window}" }
                      @{$key->{limits}};
}


sub wrong {
    my ($r, $errors, $name) = @_;

    my $p = json($r);
    is($r->{status}, grep({ !/forbidden/ } @$errors) ? 400 : 403, $name);
    is($r->{headers}{'content-type'}, 'application/problem+json',
       "$name: our own shape outside keys/");
    is_deeply([ sort map { "$_->{location} $_->{code}" } @{$p->{errors}} ],
              [ sort @$errors ], "$name: @$errors") or diag($r->{body});
}


subtest 'accepted members' => sub {
    my $k = create(user_id => 'ada', customer_id => 'c 1', active => $true,
                   rate_limit => 3, workflow_id => 'w1');

    is_deeply(older_members($k),
              { active => $true, is_active => $true, rate_limit => 3,
                cost_limit => undef, workflow_id => 'w1', user_id => 'ada',
                customer_id => 'c 1' }, 'answered as sent');
    is_deeply([ @{$k}{qw(owner customer enabled scopes)} ],
              [ 'ada', 'c 1', $true, [ 'workflow:w1' ] ], 'and as ours');
    is_deeply($k->{limits}, [ { name => 'rate_limit', unit => 'requests',
        limit => 3, window => '1h', burst => 3, rolling => $false,
        model => undef, service => undef, mode => undef } ],
        'rate_limit is a limit of requests an hour');
    like($k->{key}, qr/^sk_\w{45}$/, 'with its key');

    my @names = old(GET => "api-keys/$k->{id}")->{body}
        =~ /"(\w+)":/g;
    is_deeply([ @names[-7 .. -1] ], \@more, 'behind the members of today');

    is($n->get('/?workflow=w1', key => $k->{key})->{status}, 200, 'passes');
    is($n->get('/?workflow=w2', key => $k->{key})->{status}, 403,
       'for its workflow only');
    $n->get('/?workflow=w1', key => $k->{key}) for 1, 2;
    is($n->get('/?workflow=w1', key => $k->{key})->{status}, 429,
       'three an hour');

    $k = create();
    is_deeply($k->{scopes}, [ 'workflow:*' ], 'without a workflow all');
    is_deeply(older_members($k),
              { active => $true, is_active => $true, rate_limit => undef,
                cost_limit => undef, workflow_id => undef, user_id => undef,
                customer_id => undef }, 'nulls');
    is($n->get('/?workflow=w2', key => $k->{key})->{status}, 200, 'any');

    is_deeply(create(workflow_id => undef)->{scopes}, [ 'workflow:*' ],
              'null is without');
    is_deeply(create(scopes => [ 'a:b' ])->{scopes}, [ 'a:b' ],
              'but scopes without a word of it stay as they are');
    is_deeply(create(scopes => [ 'a:b' ], workflow_id => 'w')->{scopes},
              [ 'a:b', 'workflow:w' ], 'and with it have it');
    is_deeply(create(scopes => undef, workflow_id => 'w')->{scopes},
              [ 'workflow:w' ], 'scopes of null');

    $k = create(is_active => $false, rate_limit => undef);
    is_deeply([ @{$k}{qw(enabled active is_active status)} ],
              [ $false, $false, $false, 'disabled' ], 'is_active');
    is($k->{rate_limit}, undef, 'rate_limit null is none');
    is(create(active => $false, enabled => $false)->{enabled}, $false,
       'two words for one thing');

    $k = create(rate_limit => 5, limits => [ { name => 'x',
        unit => 'requests', limit => 9, window => '1s' } ]);
    is(limits($k), 'x 9/1s, rate_limit 5/1h', 'beside limits');
};


subtest 'changes' => sub {
    my $k = create(scopes => [ 'a:b', 'workflow:x', 'workflow:y' ],
                   limits => [ { name => 'x', unit => 'requests', limit => 9,
                                 window => '1s', burst => 12 } ]);

    is($k->{workflow_id}, undef, 'several workflows are not one');
    is(limits(change($k, rate_limit => 7)), 'x 9/1s, rate_limit 7/1h',
       'rate_limit leaves other limits');
    is(json(old(GET => "api-keys/$k->{id}"))->{limits}[0]{burst}, 12,
       'as they were');
    is(limits(change($k, rate_limit => 8)), 'x 9/1s, rate_limit 8/1h',
       'is changed');
    is(limits(change($k, limits => [], rate_limit => 8)), 'rate_limit 8/1h',
       'limits are replaced whole');
    is(limits(change($k, name => 'y')), 'rate_limit 8/1h', 'absent keeps');
    is(limits(change($k, rate_limit => undef)), '', 'null clears');
    is(limits(change($k, limits => undef, rate_limit => 1)), 'rate_limit 1/1h',
       'limits of null');

    for my $cost (50, '50.00', 12.5) {
        my $money = sprintf '%.2f', $cost;

        is(limits(change($k, cost_limit => $cost)),
           "rate_limit 1/1h, cost_limit $money/month", "cost_limit $cost");
        is(json(old(GET => "api-keys/$k->{id}"))->{cost_limit}, $money,
           'is told as money');
    }

    is(limits(change($k, cost_limit => undef)), 'rate_limit 1/1h',
       'null clears that alone');

    $k = change($k, workflow_id => 'z');
    is_deeply([ @{$k}{qw(workflow_id scopes)} ],
              [ 'z', [ 'a:b', 'workflow:z' ] ], 'workflow_id replaces them');
    is_deeply(change($k, name => 'z')->{scopes}, [ 'a:b', 'workflow:z' ],
              'absent keeps');
    is_deeply(change($k, workflow_id => undef)->{scopes},
              [ 'a:b', 'workflow:*' ], 'null is all');
    is_deeply(change($k, scopes => [])->{scopes}, [], 'scopes are ours');

    $k = change($k, active => $false, customer_id => 'c');
    is_deeply([ @{$k}{qw(enabled active customer customer_id)} ],
              [ $false, $false, 'c', 'c' ], 'active and customer_id');
    is(change($k, customer_id => undef)->{customer}, undef, 'null clears');

    my $r = old(PUT => "api-keys/$k->{id}", { active => $true });
    is_deeply(json($r)->{active}, $true, 'PUT, too');
    like($r->{headers}{etag}, qr/^"\d+"$/, 'with an ETag');
    is(old(PATCH => "api-keys/$k->{id}", { active => $false },
           headers => [ Authorization => 'Bearer ' . $t->token,
                        'Content-Type' => 'application/json',
                        'If-Match' => '"1"' ])->{status}, 412, 'If-Match');
    is(old(PATCH => 'api-keys/none', { active => $true })->{status}, 404,
       'no such key');
};


subtest 'answered elsewhere' => sub {
    my $k = create(user_id => 'lister', rate_limit => 4);

    my $list = json(old(GET => 'api-keys?owner=lister'));
    is_deeply([ sort keys %$list ], [ qw(data has_more next_cursor) ],
              'a list is a list');
    is_deeply(older_members($list->{data}[0]), older_members($k),
              'with the older members of each');
    is_deeply(json(old(GET => 'api-keys?owner=nobody'))->{data}, [],
              'or none');

    my $r = old(POST => "api-keys/$k->{id}/rotate", {});
    is_deeply(older_members(json($r)), older_members($k), 'rotate');
    like(json($r)->{key}, qr/^sk_\w{45}$/, 'with the new key');

    my @headers = (Authorization => 'Bearer ' . $t->token,
                   'Content-Type' => 'application/json',
                   'Idempotency-Key' => 'once');
    my @twice = map { json(old(POST => 'api-keys',
        { name => 'once', rate_limit => 2 }, headers => \@headers)) } 1, 2;
    is($twice[1]{id}, $twice[0]{id}, 'Idempotency-Key');
    is_deeply(older_members($twice[1]), older_members($twice[0]),
              'the same answer');

    is(old(DELETE => "api-keys/$k->{id}")->{status}, 204, 'DELETE');
};


subtest 'what is wrong, by the name that was written' => sub {
    wrong(old(POST => 'api-keys', { active => 'yes', rate_limit => 1.5,
              workflow_id => 'a b', user_id => 7, customer_id => '' }),
          [ '/name required', '/active bad_type', '/rate_limit bad_value',
            '/workflow_id bad_value', '/user_id bad_type',
            '/customer_id bad_length' ], 'all of it');
    wrong(old(POST => 'api-keys', { name => 'k', rate_limit => '100',
              workflow_id => 'x' x 120 }),
          [ '/rate_limit bad_type', '/workflow_id bad_length' ], 'types');
    wrong(old(POST => 'api-keys', { name => 'k', workflow_id => 5 }),
          [ '/workflow_id bad_type' ], 'a number for a workflow');
    wrong(old(POST => 'api-keys', { name => 'k', active => $true,
              is_active => $false, user_id => 'a', owner => 'b' }),
          [ '/is_active duplicate', '/user_id duplicate' ], 'two answers');
    wrong(old(POST => 'api-keys', { name => 'k', rate_limit => 5, limits => [
              { name => 'rate_limit', unit => 'requests', limit => 1,
                window => '1h' } ] }),
          [ '/rate_limit duplicate' ], 'a limit of that name');
    wrong(old(POST => 'api-keys', { name => 'k', limits => 5,
              rate_limit => 5, scopes => 'x', workflow_id => 'w' }),
          [ '/limits bad_type', '/scopes bad_type' ], 'ours are wrong');

    for my $case ([ -1, 'out_of_range' ], [ '5,00', 'bad_value' ],
                  [ [], 'bad_type' ], [ 9000001, 'out_of_range' ],
                  [ '0.0000000001', 'bad_value' ])
    {
        my ($cost, $code) = @$case;

        wrong(old(POST => 'api-keys', { name => 'k', cost_limit => $cost }),
              [ "/cost_limit $code" ], "cost_limit $cost");
    }

    my $k = create();

    wrong(old(PATCH => "api-keys/$k->{id}", { user_id => 'x' }),
          [ '/user_id read_only' ], 'an owner stays');

    my $boss = create(user_id => 'boss', scopes => [ 'apikey:manage' ]);
    my $his = old(POST => 'api-keys', { name => 'his' }, as => $boss->{key});

    is($his->{status}, 201, 'an owner without workflows');
    is_deeply(json($his)->{scopes}, [], 'gives none');
    is(json($his)->{user_id}, 'boss', 'and owns it');
    wrong(old(POST => 'api-keys', { name => 'k', workflow_id => 'w',
              user_id => 'other' }, as => $boss->{key}),
          [ '/user_id forbidden', '/workflow_id forbidden' ],
          'an owner gives what it has');

    is(old(POST => 'api-keys', '[]')->{status}, 400, 'no object');
    is(old(POST => 'api-keys', '{')->{status}, 400, 'no JSON');
};


subtest 'keys/getApiKeys' => sub {
    my %who = (email => 'ada@example.com', password => 'correct horse');
    my $one = create(user_id => 'shop', name => 'one', prefix => 'rdr',
                     scopes => [ 'apikey:manage' ]);
    my $two = create(user_id => 'shop', name => 'two', is_active => $false);
    my $gone = create(user_id => 'shop', name => 'gone');
    my $other = create(user_id => 'else', name => 'other');

    old(DELETE => "api-keys/$gone->{id}");

    my $r = old(POST => 'keys/getApiKeys', \%who, as => $one->{key});
    is($r->{status}, 200, 'status') or diag($r->{body});
    is($r->{headers}{'content-type'}, 'application/json', 'content type');
    is(join(' ', $r->{body} =~ /"(\w+)":/g),
       join(' ', qw(success data apiKeys),
            (qw(id key name createdAt updatedAt lastUsedAt usageCount
                isActive)) x 2), 'all members in order');

    my $body = json($r);
    is_deeply($body->{success}, $true, 'success');

    my @keys = @{$body->{data}{apiKeys}};
    is_deeply([ map { $_->{name} } @keys ], [ 'two', 'one' ],
              'the keys of who calls, newest first, none revoked');
    is($keys[1]{id}, $one->{id}, 'id');
    is($keys[1]{key}, $one->{masked}, 'key is masked');
    like($keys[1]{key}, qr/^rdr_\w{4}\.\.\.\w{4}$/, 'rdr_4mZq...x7Qp');
    like($keys[1]{$_}, $second, "$_ in whole seconds")
        for qw(createdAt updatedAt lastUsedAt);
    is($keys[1]{lastUsedAt}, $keys[1]{createdAt},
       'lastUsedAt of an unused key is its createdAt');
    is($keys[1]{usageCount}, 0, 'usageCount');
    is_deeply([ map { $_->{isActive} } @keys ], [ $false, $true ], 'isActive');

    is($n->get('/?workflow=w', key => create(user_id => 'used')->{key})
       ->{status}, 200, 'one is used');
    wait_for('its use in Postgres', sub {
        my ($k) = grep { $_->{usageCount} } @{json(old(
            POST => 'keys/getApiKeys', \%who))->{data}{apiKeys}};
        return $k && $k->{usageCount} == 1 && $k->{lastUsedAt} =~ $second;
    });

    my $all = json(old(POST => 'keys/getApiKeys', \%who));
    ok(@{$all->{data}{apiKeys}} > 10, 'an operator sees all');
    is_deeply([ map { $_->{id} } @{json(old(POST => 'keys/getApiKeys', \%who,
        as => $t->{read_token}))->{data}{apiKeys}} ],
        [ map { $_->{id} } @{$all->{data}{apiKeys}} ],
        'one who only reads, too');
    is_deeply([ map { $_->{name} } @{json(old(POST => 'keys/getApiKeys',
        \%who, as => $other->{key}))->{data}{apiKeys}} ], [ 'other' ],
        'a key sees itself');

    $r = old(POST => 'keys/getApiKeys', { %who, apiKeyId => $two->{id} },
             as => $one->{key});
    is_deeply([ map { $_->{name} } @{json($r)->{data}{apiKeys}} ], [ 'two' ],
              'apiKeyId asks for one');
    is(old(POST => 'keys/getApiKeys', undef, as => $one->{key})->{status}, 200,
       'nothing need be said');

    is(json($n->admin('POST', 'api-keys/import', body => [ { name => 'moved',
        owner => 'moved', hash => 'ab' x 32 } ]))->{created}, 1, 'imported');
    my ($moved) = grep { $_->{name} eq 'moved' } @{json(old(
        POST => 'keys/getApiKeys', {}))->{data}{apiKeys}};
    is($moved->{key}, 'imported', 'one of which only the hash is known');

    my $limited = create(user_id => 'broke', limits => [ { name => 'none',
        unit => 'requests', limit => 0, window => '1h' } ]);
    is(old(POST => 'keys/getApiKeys', {}, as => $limited->{key})->{status},
       200, 'over its limit, too');
};


sub older_problem {
    my ($r, $status, $code, $like) = @_;

    my $p = eval { json($r) };

    is($r->{status}, $status, "$status $code") or diag($r->{body});
    is($r->{headers}{'content-type'}, 'application/json', 'content type');
    is_deeply([ sort keys %$p ], [ qw(error success) ], 'the older shape');
    is_deeply($p->{success}, $false, 'no success');
    is_deeply([ sort keys %{$p->{error}} ], [ qw(code message) ], 'error');
    is($p->{error}{code}, $code, 'code');
    like($p->{error}{message}, $like // qr/\w/, 'message');
    return $r;
}


subtest 'problems below keys/' => sub {
    my $one = create(user_id => 'shop');
    my $other = create(user_id => 'else');
    my $path = 'keys/getApiKeys';

    older_problem(old(POST => $path, { apiKeyId => $other->{id} },
                      as => $one->{key}), 404, 'not_found');
    older_problem(old(POST => $path, { apiKeyId => 'x' }), 404, 'not_found');
    older_problem(old(POST => $path, { apiKeyId => 7, name => 'x' }),
                  400, 'invalid_request',
                  qr{^/name: .*; /apiKeyId: .*text});
    older_problem(old(POST => $path, '{'), 400, 'invalid_request', qr/JSON/);
    older_problem(old(POST => $path, '[1]'), 400, 'invalid_request');
    older_problem(old(POST => "$path?x=1", {}), 400, 'invalid_request',
                  qr/query:x/);
    older_problem(old(POST => "$path?x=%ff", {}), 400, 'invalid_request');
    older_problem(old(POST => 'keys/other', {}), 404, 'not_found');

    my $r = older_problem(old(GET => $path), 405, 'method_not_allowed');
    is($r->{headers}{allow}, 'POST, OPTIONS', 'Allow');
    $r = older_problem(old(POST => $path, {}, as => ''), 401,
                       'missing_credential');
    ok($r->{headers}{'www-authenticate'}, 'WWW-Authenticate');
    older_problem(old(POST => $path, {}, as => 'sk_wrong'), 401,
                  'invalid_credential');
    older_problem(old(POST => $path, undef, body => 'x=y', headers => [
        Authorization => 'Bearer ' . $t->token,
        'Content-Type' => 'application/x-www-form-urlencoded' ]),
        415, 'unsupported_media_type');
    older_problem(old(POST => $path, '{"password":"' . 'x' x 1100000 . '"}'),
                  413, 'too_large');
    is(old(OPTIONS => $path)->{status}, 204, 'OPTIONS');
};


subtest 'without compat' => sub {
    my $r = $n->admin('POST', 'keys/getApiKeys', body => {});

    is("$r->{status} $r->{headers}{'content-type'}",
       '404 application/problem+json', 'there is no such path');

    $r = $n->admin('POST', 'api-keys', body => { name => 'k',
        map { $_ => 'x' } @more });
    is_deeply([ sort map { "$_->{location} $_->{code}" }
                @{json($r)->{errors}} ], [ sort map { "/$_ unknown" } @more ],
              'nor such members');

    my $k = json($n->admin('POST', 'api-keys', body => { name => 'k' }));
    is_deeply($k->{scopes}, [], 'no workflows');
    ok(!grep({ exists $k->{$_} } @more), 'nothing older is answered');
};


subtest 'e-mail and password go nowhere' => sub {
    $pg->run("ALTER SYSTEM SET log_statement = 'all'");
    $pg->run('SELECT pg_reload_conf()');
    wait_for('the log to be talkative', sub {
        $pg->value('SHOW log_statement') eq 'all' });

    my $secret = 'correct horse battery staple';
    my $seen = sub {
        my ($what) = @_;

        open my $f, '<', $pg->{log} or die "$pg->{log}: $!";
        return index(do { local $/; <$f> }, $what) >= 0;
    };

    for my $body (qq({"email":"ada\@example.com","password":"$secret",)
                  . '"apiKeyId":"marker-1"}',
                  qq({"p\\u0061ssword":["$secret"],"apiKeyId":"marker-2"}),
                  qq({"apiKeyId":"marker-3","password":"$secret"),
                  qq(["$secret"]), qq("$secret"))
    {
        old(POST => 'keys/getApiKeys', $body, as => $t->token);
    }

    wait_for('the request in the log', sub { $seen->('marker-2') });
    ok($seen->('marker-1'), 'Postgres logs what it is asked');
    ok(!$seen->($secret), 'no password is in it');
    ok(!$seen->('ada@example.com'), 'and no address');
    is($pg->value(q{SELECT count(*) FROM apikey.audit
        WHERE to_jsonb(audit)::text LIKE '%horse%'}), 0, 'nor in the audit');
};

$t->done;
