# The admin API as the operator sees it: the shapes of api-examples.md member
# by member, and what happens to a key over its life.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $n = $t->nginx(workers => 2)->start;

my $uuid = qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z/;
my $time = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/;

my @members = qw(id name owner customer plan prefix start last4 masked status
    enabled scopes allowed_models allowed_ips limits credits currency metadata
    usage_count last_used_at created_at updated_at expires_at revoked_at
    secrets);
my @limit = qw(name unit limit window burst rolling model service mode);


sub create {
    my (%body) = @_;

    my $r = $n->admin('POST', 'api-keys', body => { name => 'a key', %body });

    is($r->{status}, 201, 'created') or diag($r->{raw});
    return json($r);
}


sub uses {
    my ($key, $status, $what) = @_;

    is($n->get('/', key => $key)->{status}, $status, $what);
}


# The order in which the members of the first object stand.

sub order {
    my ($r) = @_;

    my $text = $r->{body};
    my $depth = 0;
    my @names;

    while ($text =~ /\G(?: ("(?:[^"\\]|\\.)*")(\s*:)? | ([{\[]) | ([}\]])
                       | [^"{}\[\]] )/gsx)
    {
        push @names, $1 if defined $2 && $depth == 1;
        $depth++ if $3;
        $depth-- if $4;
    }

    return [ map { s/"//gr } @names ];
}


# Wrong fields as "location code"; dies when a problem lacks a member.

sub wrong {
    my ($r) = @_;

    return [ sort map { "$_->{location} $_->{code}" } @{json($r)->{errors}} ];
}


sub problem {
    my ($r, $status, $code) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code",
       "$status $code");
    is($r->{headers}{'content-type'}, 'application/problem+json',
       "$code: content type");
    is($p->{type}, "urn:apikey:$code", "$code: type");
    is($p->{status}, $status, "$code: status");
    ok(length($p->{title} // '') && length($p->{detail} // ''),
       "$code: title and detail");
    like($p->{request_id}, $uuid, "$code: request id");
    is($r->{headers}{'x-request-id'}, $p->{request_id},
       "$code: X-Request-Id");
    is($r->{headers}{'cache-control'}, 'no-store', "$code: no-store");
}


subtest 'create: every member' => sub {
    my $r = $n->admin('POST', 'api-keys', body => {
        name => 'Production server', owner => 'user_42', customer => undef,
        plan => undef, prefix => 'sk_live',
        scopes => ['orders:read', 'workflow:*'], allowed_models => undef,
        allowed_ips => ['127.0.0.0/8', '2001:db8::/32'],
        limits => [{ name => 'hourly', unit => 'requests', limit => 1000,
                     window => '1h' }],
        credits => undef, metadata => { team => 'search' },
        expires_at => '2099-01-01T02:00:00+02:00', enabled => \1,
    });

    is($r->{status}, 201, 'status');

    my $k = json($r);

    is_deeply(order($r), [ 'id', 'key', @members[1 .. $#members] ],
              'all members, in order');
    like($k->{id}, $uuid, 'id');
    like($k->{key}, qr/^sk_live_[0-9A-Za-z]{45}\z/, 'key');
    is($r->{headers}{location}, "/api/v1/api-keys/$k->{id}", 'Location');
    is($r->{headers}{'cache-control'}, 'no-store', 'no-store');
    is($r->{headers}{'content-type'}, 'application/json', 'content type');
    like($r->{headers}{etag}, qr/^"[^"]+"\z/, 'ETag');
    like($r->{headers}{'x-request-id'}, $uuid, 'X-Request-Id');

    is($k->{start}, substr($k->{key}, 0, 12), 'start');
    is($k->{last4}, substr($k->{key}, -4), 'last4');
    is($k->{masked}, "$k->{start}...$k->{last4}", 'masked');
    is($k->{status}, 'active', 'status');
    is($k->{owner}, 'user_42', 'owner');
    is($k->{currency}, 'USD', 'currency');
    is($k->{usage_count}, 0, 'usage_count');
    is($k->{expires_at}, '2099-01-01T00:00:00.000Z', 'expires_at in UTC');
    like($k->{created_at}, $time, 'created_at');
    is($k->{updated_at}, $k->{created_at}, 'updated_at');
    is($k->{$_}, undef, "$_ is null")
        for qw(customer plan allowed_models credits last_used_at revoked_at);
    is_deeply($k->{scopes}, ['orders:read', 'workflow:*'], 'scopes');
    is_deeply($k->{allowed_ips}, ['127.0.0.0/8', '2001:db8::/32'], 'ips');
    is_deeply($k->{metadata}, { team => 'search' }, 'metadata');
    is_deeply([ sort keys %{$k->{limits}[0]} ], [ sort @limit ],
              'members of a limit');
    is_deeply($k->{limits}, [{ name => 'hourly', unit => 'requests',
        limit => 1000, window => '1h', burst => 1000,
        rolling => JSON::PP::false, model => undef, service => undef,
        mode => undef }], 'limits');
    is_deeply([ sort keys %{$k->{secrets}[0]} ],
              [ sort qw(id start last4 state created_at expires_at
                        last_used_at) ], 'members of a secret');
    is($k->{secrets}[0]{state}, 'current', 'state');

    my $get = $n->admin('GET', "api-keys/$k->{id}");

    is($get->{status}, 200, 'GET');
    is($get->{headers}{etag}, $r->{headers}{etag}, 'the same ETag');
    is_deeply(order($get), \@members, 'GET: all but key');
    delete $k->{key};
    is_deeply(json($get), $k, 'GET: the same object');

    my $small = json($n->admin('POST', 'api-keys', body => { name => 'x' }));

    is($small->{prefix}, 'sk', 'default prefix');
    is_deeply([ @$small{qw(scopes limits)} ], [ [], [] ], 'default lists');
    is($small->{allowed_ips}, undef, 'default allowed_ips');
    ok($small->{enabled}, 'default enabled');
};


subtest 'all wrong fields at once' => sub {
    my $r = $n->admin('POST', 'api-keys', body => {
        owner => "a\tb", prefix => 'SK', scopes => ['a b', 7],
        allowed_ips => ['300.1.1.1'], metadata => [], enabled => 'yes',
        expires_at => '2001-01-01', nonsense => 1, usage_count => 3,
        limits => [{ name => 'a', unit => 'requests', limit => -1,
                     window => '1 hour' },
                   { name => 'a', unit => 'apples', limit => 1.5,
                     window => '1h', more => 1 }],
    });

    problem($r, 400, 'invalid_request');
    is_deeply(wrong($r), [ sort
        '/name required', '/owner bad_value', '/prefix bad_value',
        '/scopes/0 bad_value', '/scopes/1 bad_type',
        '/allowed_ips/0 bad_value', '/metadata bad_type',
        '/enabled bad_type', '/expires_at out_of_range', '/nonsense unknown',
        '/usage_count read_only', '/limits/0/limit out_of_range',
        '/limits/0/window bad_value', '/limits/1/name duplicate',
        '/limits/1/unit bad_value', '/limits/1/limit bad_value',
        '/limits/1/more unknown' ], 'each is named') or diag($r->{body});

    my ($window) = grep { $_->{location} eq '/limits/0/window' }
                   @{json($r)->{errors}};

    is($window->{message}, '"1 hour": write 1h', 'and says what to write');
    is($t->postgres->value("SELECT count(*) FROM apikey.owner
                            WHERE external LIKE 'a%'"), 0, 'nothing stored');
};


subtest 'odd limits' => sub {
    my %one = (name => 'l', unit => 'requests', window => '1s');

    for my $case ([ -1, 'out_of_range' ], [ 0.5, 'bad_value' ],
                  [ '1', 'bad_type' ])
    {
        my ($limit, $code) = @$case;
        my $r = $n->admin('POST', 'api-keys', body => {
            name => 'x', limits => [{ %one, limit => $limit }] });

        is_deeply(wrong($r), [ "/limits/0/limit $code" ], "limit $limit");
    }

    for my $limit ('1e30', '1e400', '99999999999999999999') {
        my $r = $n->admin('POST', 'api-keys',
            headers => [ 'Content-Type' => 'application/json' ],
            body => '{"name": "x", "limits": [{"name": "l", "unit": "requests",'
                    . qq( "limit": $limit, "window": "1s"}]}));

        is($r->{status}, 400, "limit $limit is refused") or diag($r->{raw});
    }

    for my $limit (0, 1, 7919) {
        create(limits => [{ %one, limit => $limit },
                          { %one, name => 'm', limit => $limit,
                            window => '31d' }]);
    }
};


subtest 'create, use, change, revoke' => sub {
    my $k = create(prefix => 'acme_live');
    my $path = "api-keys/$k->{id}";

    uses($k->{key}, 200, 'in force when the answer arrives');

    my $r = $n->admin('PATCH', $path, body => { enabled => \0 });

    is($r->{status}, 200, 'disabled');
    is(json($r)->{status}, 'disabled', 'its status says so');
    uses($k->{key}, 401, 'refused at once');

    $r = $n->admin('PUT', $path, body => { enabled => \1, name => 'renamed',
        metadata => { a => 1, b => 2 }, customer => 'c1' });
    is(json($r)->{name}, 'renamed', 'PUT is PATCH');
    uses($k->{key}, 200, 'passes again');

    $r = $n->admin('PATCH', $path, body => { metadata => { a => undef,
                                                           c => 3 } });
    is_deeply(json($r)->{metadata}, { b => 2, c => 3 }, 'metadata is merged');
    is(json($r)->{customer}, 'c1', 'absent keeps');

    my $etag = $r->{headers}{etag};

    $r = $n->admin('PATCH', $path, body => { customer => undef },
                   headers => [ 'If-Match' => $etag ]);
    is($r->{status}, 200, 'If-Match with the ETag');
    is(json($r)->{customer}, undef, 'null clears');
    isnt($r->{headers}{etag}, $etag, 'another ETag');

    problem($n->admin('PATCH', $path, body => { name => 'lost' },
                      headers => [ 'If-Match' => $etag ]),
            412, 'precondition_failed');

    problem($n->admin('PATCH', $path, body => { owner => 'o' }),
            400, 'invalid_request');

    is($n->admin('PATCH', $path, body => { limits => [{ name => 'two',
        unit => 'requests', limit => 2, window => '1h' }] })->{status}, 200,
       'limits are replaced');

    my @status = map { $n->get('/', key => $k->{key})->{status} } 1 .. 3;

    is("@status", '200 200 429', 'and in force at once');

    $r = $n->admin('DELETE', $path);
    is($r->{status}, 204, 'DELETE');
    is($r->{body}, '', 'without a body');
    uses($k->{key}, 401, 'refused at once');
    is($n->admin('DELETE', $path)->{status}, 204, 'also the second time');

    $r = $n->admin('GET', $path);
    is(json($r)->{status}, 'revoked', 'still readable');
    like(json($r)->{revoked_at}, $time, 'revoked_at');
    problem($n->admin('PATCH', $path, body => { name => 'x' }), 409,
            'revoked');
    problem($n->admin('POST', "$path/rotate", body => {}), 409, 'revoked');
    problem($n->admin('GET', 'api-keys/01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60'),
            404, 'not_found');
    problem($n->admin('GET', 'api-keys/none'), 404, 'not_found');
};


subtest 'rotate' => sub {
    my $k = create();
    my $r = $n->admin('POST', "api-keys/$k->{id}/rotate",
                      body => { grace => '1h' });

    is($r->{status}, 200, 'rotated');
    is($r->{headers}{'cache-control'}, 'no-store', 'no-store');

    my $new = json($r);

    is($new->{id}, $k->{id}, 'the same id');
    isnt($new->{key}, $k->{key}, 'another key');
    is(join(' ', map { $_->{state} } @{$new->{secrets}}), 'current grace',
       'states');
    like($new->{secrets}[1]{expires_at}, $time, 'end of the grace');
    is($new->{last4}, substr($new->{key}, -4), 'last4 of the new one');
    uses($new->{key}, 200, 'the new key');
    uses($k->{key}, 200, 'the old key in its grace');

    $r = $n->admin('POST', "api-keys/$k->{id}/rotate");
    is($r->{status}, 200, 'without a body: grace 0s');

    my $last = json($r);

    is(join(' ', map { $_->{state} } @{$last->{secrets}}),
       'current ended ended', 'every older secret ends');
    uses($last->{key}, 200, 'the newest key');
    uses($new->{key}, 401, 'the one before');
    uses($k->{key}, 401, 'the first one');

    problem($n->admin('POST', "api-keys/$k->{id}/rotate",
                      body => { grace => 'soon' }), 400, 'invalid_request');
};


subtest 'list' => sub {
    my @ids = map { create(owner => 'lister', name => "list $_")->{id} }
              1 .. 5;

    my $list = sub {
        my $r = $n->admin('GET', "api-keys?$_[0]");
        is($r->{status}, 200, $_[0]) or diag($r->{raw});
        return json($r);
    };

    my $page = $list->('owner=lister&limit=2');

    is_deeply([ sort keys %$page ], [ qw(data has_more next_cursor) ],
              'members');
    is_deeply([ sort keys %{$page->{data}[0]} ], [ sort @members ],
              'key objects without key');

    my @seen = map { $_->{id} } @{$page->{data}};

    while ($page->{has_more}) {
        $page = $list->("owner=lister&limit=2&cursor=$page->{next_cursor}");
        push @seen, map { $_->{id} } @{$page->{data}};
    }

    is($page->{next_cursor}, undef, 'the last page has no cursor');
    is_deeply(\@seen, [ reverse @ids ], 'newest first, each once');

    is_deeply([ map { $_->{name} }
                @{$list->('owner=lister&sort=name')->{data}} ],
              [ map { "list $_" } 1 .. 5 ], 'sort');
    is(@{$list->('q=LIST+3')->{data}}, 1, 'q');

    $n->admin('DELETE', "api-keys/$ids[0]");
    is(@{$list->('owner=lister')->{data}}, 4, 'without revoked keys');
    is(@{$list->('owner=lister&status=all')->{data}}, 5, 'status=all');
    is(@{$list->('owner=lister&status=revoked')->{data}}, 1,
       'status=revoked');

    my $r = $n->admin('GET', 'api-keys?limit=0&sort=colour&nonsense=1');

    is_deeply(wrong($r), [ 'query:limit out_of_range',
        'query:nonsense unknown', 'query:sort bad_value' ], 'wrong queries');

    my $cursor = $list->('owner=lister&limit=1')->{next_cursor};

    is_deeply(wrong($n->admin('GET', "api-keys?owner=x&cursor=$cursor")),
              [ 'query:cursor bad_value' ], 'a cursor of other filters');
};


subtest 'owners' => sub {
    my @owner = qw(id name enabled plan plan_next limits credits time_zone
                   anchor_day metadata created_at updated_at);

    my $r = $n->admin('PUT', 'owners/user_7', body => { name => 'Ada Ltd',
        limits => [{ name => 'two', unit => 'requests', limit => 2,
                     window => '1h' }] });

    is($r->{status}, 201, 'made');
    is($r->{headers}{location}, '/api/v1/owners/user_7', 'Location');
    is_deeply(order($r), \@owner, 'all members');

    my $o = json($r);

    is($o->{time_zone}, 'UTC', 'time_zone');
    is($o->{anchor_day}, 1, 'anchor_day');
    is($o->{$_}, undef, "$_ is null") for qw(plan plan_next credits);

    $r = $n->admin('GET', 'owners/user_7');
    is_deeply(json($r), $o, 'GET');
    is($n->admin('PUT', 'owners/user_7', body => {})->{status}, 200,
       'changed, not made');

    my @keys = map { create(owner => 'user_7')->{key} } 1, 2;
    my @status = map { $n->get('/', key => $_)->{status} } @keys, $keys[0];

    is("@status", '200 200 429', 'its keys share its limits');

    $r = $n->admin('PATCH', 'owners/user_7', body => { enabled => \0 });
    is($r->{status}, 200, 'disabled');
    uses($keys[1], 401, 'its keys are refused at once');

    for my $id ('a/b', "\x{fc}ser \x{1f600}", 'https://id.example/u?1#2',
                '100%', '+1 23')
    {
        utf8::encode(my $bytes = $id);
        (my $path = $bytes) =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;

        $r = $n->admin('PUT', "owners/$path", body => {});
        is($r->{status}, 201, "owner $path") or diag($r->{raw});
        is(json($r)->{id}, $id, 'id');
        is($r->{headers}{location}, "/api/v1/owners/$path", 'Location');
        is($n->admin('GET', "owners/$path")->{status}, 200, 'GET');
    }

    problem($n->admin('GET', 'owners/nobody'), 404, 'not_found');
    problem($n->admin('PUT', 'owners/' . 'x' x 256, body => {}), 400,
            'invalid_request');
    problem($n->admin('PUT', 'owners/a%09b', body => {}), 400,
            'invalid_request');

    $r = $n->admin('GET', 'owners?limit=2');
    is($r->{status}, 200, 'list');
    is(@{json($r)->{data}}, 2, 'a page');
    ok(json($r)->{has_more}, 'and more');
};


subtest 'whoami' => sub {
    my $k = create(owner => 'user_42', scopes => ['orders:read']);
    my $r = $n->admin('GET', 'whoami');

    is_deeply(order($r), [ qw(caller operator owner scopes key) ],
              'members');
    is_deeply(json($r), { caller => 'operator', operator => 'tester',
                          owner => undef, scopes => ['*'], key => undef },
              'an operator');

    $r = json($n->admin('GET', 'whoami', as => $k->{key}));
    is($r->{caller}, 'key', 'a key');
    is($r->{operator}, undef, 'no operator');
    is($r->{owner}, 'user_42', 'its owner');
    is_deeply($r->{scopes}, ['orders:read'], 'its scopes');
    is_deeply([ sort keys %{$r->{key}} ], [ sort @members ],
              'its key object');
    is($r->{key}{id}, $k->{id}, 'itself');
};


subtest 'a key is on its own' => sub {
    my $mine = create(owner => 'user_42');
    my $other = create(owner => 'user_42');
    my @as = (as => $mine->{key});

    is($n->admin('GET', "api-keys/$mine->{id}", @as)->{status}, 200,
       'reads itself');
    problem($n->admin('GET', "api-keys/$other->{id}", @as), 404, 'not_found');
    problem($n->admin('GET', "api-keys/$other->{id}/usage", @as), 404,
            'not_found');
    problem($n->admin('GET', "usage/summary?key=$other->{id}", @as), 404,
            'not_found');
    problem($n->admin('GET', 'api-keys', @as), 403, 'forbidden');
    problem($n->admin('GET', 'owners/user_42', @as), 403, 'forbidden');
    problem($n->admin('POST', 'api-keys', @as, body => { name => 'x' }), 403,
            'forbidden');
    problem($n->admin('PATCH', "api-keys/$mine->{id}", @as,
                      body => { limits => [] }), 403, 'forbidden');
    problem($n->admin('DELETE', "api-keys/$mine->{id}", @as), 403,
            'forbidden');
    problem($n->admin('POST', "api-keys/$mine->{id}/rotate", @as), 403,
            'forbidden');

    my $read = $t->{read_token};

    is($n->admin('GET', 'api-keys', as => $read)->{status}, 200,
       'role=read reads');
    problem($n->admin('POST', 'api-keys', as => $read,
                      body => { name => 'x' }), 403, 'forbidden');
};


subtest 'usage within a second' => sub {
    my $k = create(owner => 'user_u');

    $n->get('/', key => $k->{key}) for 1 .. 5;
    $n->get('/status/404', key => $k->{key});

    my $object;

    wait_for('usage_count', sub {
        $object = json($n->admin('GET', "api-keys/$k->{id}"));
        return $object->{usage_count} >= 6;
    }, 5);

    is($object->{usage_count}, 6, 'usage_count');
    like($object->{last_used_at}, $time, 'last_used_at');
    like($object->{secrets}[0]{last_used_at}, $time, 'of the secret, too');

    my $r = $n->admin('GET', "api-keys/$k->{id}/usage");

    is_deeply(order($r), [ qw(key owner currency time_zone as_of last_used_at
        all_time today period limits plan daily services) ], 'members');

    my $u = json($r);

    is($u->{key}, $k->{id}, 'key');
    is($u->{owner}, 'user_u', 'owner');
    is_deeply($u->{all_time}, { requests => 6, refused => 0, errors => 1,
                                tokens => 0, cost => '0.00' }, 'all_time');
    is_deeply($u->{today}, $u->{all_time}, 'today');
    is($u->{period}{requests}, 6, 'period');
    is($u->{daily}[0]{requests}, 6, 'daily');
    is($u->{services}[0]{requests}, 6, 'services');
    like($u->{as_of}, $time, 'as_of');

    delete @$u{qw(as_of)};

    for my $path ("usage/summary?key=$k->{id}") {
        my $same = json($n->admin('GET', $path));
        delete @$same{qw(as_of)};
        is_deeply($same, $u, $path);
    }

    my $own = json($n->admin('GET', 'usage/summary', as => $k->{key}));

    is($own->{key}, $k->{id}, 'usage/summary of a key is its own');
    is(json($n->admin('GET', 'usage/summary?owner=user_u'))
           ->{all_time}{requests}, 6, 'of an owner');
    problem($n->admin('GET', 'usage/summary'), 400, 'invalid_request');
};


subtest 'audit and plaintext' => sub {
    my $k = create(name => 'audited', owner => 'new owner');

    $n->admin('PATCH', "api-keys/$k->{id}", body => { name => 'again' });
    $n->admin('DELETE', "api-keys/$k->{id}");

    is_deeply([ $t->postgres->column("SELECT action FROM apikey.audit
                   WHERE object_id = '$k->{id}' ORDER BY at, id") ],
              [ qw(create update revoke) ], 'an entry for each change');
    is($t->postgres->value("SELECT DISTINCT actor FROM apikey.audit
                            WHERE object_id = '$k->{id}'"), 'tester', 'actor');

    my $pg = $t->postgres;
    my @tables = $pg->column("SELECT format('apikey.%I', tablename)
                              FROM pg_tables WHERE schemaname = 'apikey'");

    cmp_ok(scalar @tables, '>', 20, 'tables');

    my @found = $pg->column(join ' UNION ALL ', map {
        "SELECT '$_' FROM $_ AS x WHERE strpos(x::text, '$k->{key}') > 0
            OR strpos(x::text, '${\ $t->token }') > 0"
    } @tables);
    is("@found", '', 'no table holds a key or a token');
    unlike($n->log_text, qr/\Q$k->{key}\E/, 'no log holds a key');
    unlike($n->log_text, qr/\Q${\ $t->token }\E/, 'no log holds a token');
};


$t->done;
