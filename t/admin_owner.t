# The admin API as an owner sees it, over HTTP: its keys from create to
# revoke, a POST that has its effect once, and many creates at once.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(json json_encode);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(workers => 2)->start;


sub create {
    my ($as, %body) = @_;

    my $r = $n->admin('POST', 'api-keys', body => { name => 'a key', %body },
                      $as ? (as => $as) : ());

    is($r->{status}, 201, 'created') or diag($r->{raw});
    return json($r);
}


sub is_problem {
    my ($r, $status, $code, $errors) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code",
       "$status $code");
    is_deeply([ map { "$_->{location} $_->{code}" } @{$p->{errors} // []} ],
              $errors, "$code: errors") if $errors;
}


sub passes {
    my ($key, $status, $what) = @_;

    is($n->get('/', key => $key)->{status}, $status, $what);
}


# Many POSTs at once: [ path, body, more headers ], ...

sub post {
    return $n->parallel(map { +{
        method => 'POST', uri => "/api/v1/$_->[0]",
        body => json_encode($_->[1]), headers => [
            Authorization => "Bearer $t->{token}",
            'Content-Type' => 'application/json', @{$_->[2] // []} ],
    } } @_);
}


my $boss = create('', name => 'boss', owner => 'ada',
                  scopes => [ 'apikey:manage', 'orders:*' ]);
my $other = create('', name => 'other', owner => 'bob', scopes => [ '*' ]);
my $ada = $boss->{key};


subtest 'the life of a key in its owner\'s hands' => sub {
    is_deeply(json($n->admin('GET', 'whoami', as => $ada)),
              { caller => 'owner', operator => undef, owner => 'ada',
                scopes => [ 'apikey:manage', 'orders:*' ], key => undef },
              'whoami');

    my $k = create($ada, name => 'mine', scopes => [ 'orders:read' ],
                   prefix => 'ada', limits => [
                   { name => 'l', unit => 'requests', limit => 2,
                     window => '1h' } ]);
    my $path = "api-keys/$k->{id}";

    is("$k->{owner} $k->{prefix}", 'ada ada', 'it belongs to its owner');
    passes($k->{key}, 200, 'and works at once');

    is($n->admin('PATCH', $path, as => $ada, body => { limits => [],
                 customer => 'c1', metadata => { a => 1 } })->{status}, 200,
       'it is changed');
    passes($k->{key}, 200, 'its limit is gone') for 1 .. 3;

    $n->admin('PATCH', $path, as => $ada, body => { enabled => \0 });
    passes($k->{key}, 401, 'disabled');
    $n->admin('PATCH', $path, as => $ada, body => { enabled => \1 });
    passes($k->{key}, 200, 'enabled');

    my $new = json($n->admin('POST', "$path/rotate", as => $ada,
                             body => { grace => '1h' }));
    passes($k->{key}, 200, 'in its grace');

    my $secrets = "$path/secrets/";
    is_problem($n->admin('DELETE', $secrets . $new->{secrets}[0]{id},
                         as => $ada), 409, 'conflict');
    is($n->admin('DELETE', $secrets . $new->{secrets}[1]{id}, as => $ada)
       ->{status}, 204, 'the grace ends') for 1, 2;
    passes($k->{key}, 401, 'at once');
    passes($new->{key}, 200, 'the new secret stays');
    is($n->admin('GET', $secrets . $new->{secrets}[0]{id}, as => $ada)
       ->{headers}{allow}, 'DELETE, OPTIONS', 'no other method');

    is(json($n->admin('GET', "$path/usage", as => $ada))->{owner}, 'ada',
       'usage');
    is(json($n->admin('GET', 'usage/summary', as => $ada))->{key}, undef,
       'usage of all');
    is(@{json($n->admin('GET', 'api-keys?status=all', as => $ada))->{data}},
       2, 'list');
    is($n->admin('GET', 'owners/ada', as => $ada)->{status}, 200,
       'its own record');

    is($n->admin('DELETE', $path, as => $ada)->{status}, 204, 'revoked');
    passes($new->{key}, 401, 'at once');
};


subtest 'no more than it has' => sub {
    is_problem($n->admin($_->[0], "api-keys/$other->{id}$_->[1]", as => $ada,
                         $_->[2] ? (body => $_->[2]) : ()),
               404, 'not_found')
        for [ 'GET', '' ], [ 'PATCH', '', {} ], [ 'DELETE', '' ],
            [ 'POST', '/rotate', {} ], [ 'GET', '/usage' ],
            [ 'DELETE', "/secrets/$other->{secrets}[0]{id}" ];
    is_problem($n->admin('GET', 'owners/bob', as => $ada), 404, 'not_found');

    is_problem($n->admin('POST', 'api-keys', as => $ada, body => {
        name => 'x', owner => 'ada', plan => 'pro', scopes => [ '*' ] }),
        403, 'forbidden', [ '/owner forbidden', '/plan forbidden',
                            '/scopes/0 forbidden' ]);
    is_problem($n->admin('PATCH', "api-keys/$boss->{id}", as => $ada, body => {
        limits => [], scopes => [ 'apikey:manage', 'bills' ] }),
        403, 'forbidden', [ '/limits forbidden', '/scopes/1 forbidden' ]);

    my $strong = create('', owner => 'ada', scopes => [ 'bills' ]);

    is_problem($n->admin('POST', "api-keys/$strong->{id}/rotate", as => $ada),
               403, 'forbidden');
    is_problem($n->admin('GET', 'owners', as => $ada), 403, 'forbidden');
    is_problem($n->admin('PUT', 'owners/ada', as => $ada, body => {}), 403,
               'forbidden');
};


subtest 'a key without apikey:manage' => sub {
    my $k = create('', owner => 'ada', scopes => [ 'orders:read' ], limits => [
        { name => 'none', unit => 'requests', limit => 0, window => '1h' } ]);
    my $path = "api-keys/$k->{id}";

    passes($k->{key}, 429, 'over its limit');
    is($n->admin('GET', $_, as => $k->{key})->{status}, 200, $_)
        for 'whoami', 'usage/summary', $path, "$path/usage";
    is_problem($n->admin('GET', $_, as => $k->{key}), 403, 'forbidden')
        for 'api-keys', 'owners', 'owners/ada';
    is_problem($n->admin('GET', "api-keys/$_", as => $k->{key}), 404,
               'not_found') for $boss->{id}, $other->{id};
    is_problem($n->admin($_->[0], $_->[1], as => $k->{key},
                         $_->[2] ? (body => $_->[2]) : ()), 403, 'forbidden')
        for [ 'POST', 'api-keys', { name => 'x' } ], [ 'PATCH', $path, {} ],
            [ 'DELETE', $path ], [ 'POST', "$path/rotate", {} ],
            [ 'DELETE', "$path/secrets/$k->{secrets}[0]{id}" ];
};


subtest 'limit 0 with a burst' => sub {
    my %none = (name => 'none', unit => 'requests', limit => 0,
                window => '1h', burst => 5);

    is_problem($n->admin('POST', 'api-keys', body => {
        name => 'x', limits => [ \%none ] }), 400, 'invalid_request',
        [ '/limits/0/burst out_of_range' ]);

    my $k = create('', limits => [ { %none, burst => 0 } ]);
    passes($k->{key}, 429, 'a burst of 0 is fine, and none');

    $pg->run(qq{UPDATE apikey.limit_rule SET burst = 5, capacity = 5
                WHERE key_id = '$k->{id}'});
    $t->sync;
    passes($k->{key}, 429, 'nor is one let in that was written by hand');
};


subtest 'Idempotency-Key' => sub {
    my $send = sub {
        my ($key, $body, %opt) = @_;

        return $n->admin('POST', $opt{path} // 'api-keys', body => $body,
                         headers => [ 'Idempotency-Key' => $key ]);
    };
    my $body = { name => 'once', owner => 'once' };
    my $r = $send->('k1', $body);
    my $k = json($r);

    is($r->{status}, 201, 'made');
    is($r->{headers}{'idempotent-replayed'}, undef, 'for the first time');
    passes($k->{key}, 200, 'it works');

    my $again = $send->('k1', $body);

    is("$again->{status} $again->{headers}{'idempotent-replayed'}",
       '200 true', 'again');
    is($again->{headers}{location}, $r->{headers}{location}, 'Location');
    delete $k->{key};
    is_deeply({ %{json($again)}, key => undef }, { %$k, key => undef },
              'the same object');
    ok(exists json($again)->{key}, 'with "key": null');

    is_problem($send->('k1', { name => 'twice' }), 422,
               'idempotency_mismatch');
    is_problem($send->('x' x 256, $body), 400, 'invalid_request',
               [ 'header:Idempotency-Key bad_length' ]);

    my @r = post(map { [ 'api-keys', { name => '@SECRET@', owner => 'race' },
                         [ 'Idempotency-Key' => 'race' ] ] } 1 .. 20);

    is(join(' ', sort map { $_->{status} } @r),
       join(' ', (200) x 19, 201), 'twenty at once: one makes it');
    is(keys %{{ map { json($_)->{id} => 1 } @r }}, 1, 'all are told of it');
    is(grep({ defined json($_)->{key} } @r), 1, 'one is given the key');
    is(grep({ json($_)->{name} eq '@SECRET@' } @r), 20,
       'and no name is taken for its place');
    is($pg->value(q{SELECT count(*) FROM apikey.key
                    WHERE name = '@SECRET@'}), 1, 'one key');

    my $id = $k->{id};
    @r = map { $send->('r1', {}, path => "api-keys/$id/rotate") } 1, 2;
    is($r[0]{status} . $r[1]{status}, '200200', 'rotate');
    passes(json($r[0])->{key}, 200, 'rotated once');
    is(json($r[1])->{key}, undef, 'told twice');
    is(scalar @{json($n->admin('GET', "api-keys/$id"))->{secrets}}, 2,
       'one new secret');

    my ($plain) = $r[0]{body} =~ /"key":"([^"]+)"/;
    is($pg->value("SELECT count(*) FROM apikey.idempotency i"
                  . " WHERE strpos(i::text, " . $pg->quote($plain) . ") > 0"),
       0, 'the key is not kept');

    is_problem($n->admin('POST', 'api-keys', body => $body, as => $ada,
                         headers => [ 'Idempotency-Key' => 'k1' ]), 403,
               'forbidden', [ '/owner forbidden' ]);
};


subtest 'If-Match' => sub {
    my $path = 'api-keys/' . create('', name => 'match')->{id};
    my $etag = $n->admin('GET', $path)->{headers}{etag};

    my $try = sub {
        return $n->admin('PATCH', $path, body => {},
                         headers => [ map { ('If-Match' => $_) } @_ ])
            ->{status};
    };

    is($try->($etag), 200, 'the ETag');
    is($try->("\"x\", W/$etag"), 200, 'in a list, weak');
    is($try->('*'), 200, '*');
    is($try->('"x"'), 412, 'another');
    is($try->(''), 412, 'an empty one');
    is($n->admin('DELETE', $path, headers => [ 'If-Match' => '"x"' ])
       ->{status}, 412, 'DELETE');
};


subtest 'a thousand at once' => sub {
    my @r = post(map { [ 'api-keys', { name => "many $_",
                         owner => 'many ' . int(($_ - 1) / 2) } ] }
                 1 .. 1000);

    is(grep({ $_->{status} == 201 } @r), 1000, 'none fails')
        or diag((grep { $_->{status} != 201 } @r)[0]{raw});

    my @made = map { json($_) } @r;

    is(keys %{{ map { $_->{id} => 1 } @made }}, 1000, 'ids are distinct');
    is(keys %{{ map { $_->{key} => 1 } @made }}, 1000, 'keys are distinct');
    is($pg->value(q{SELECT count(*) FROM apikey.owner
                    WHERE external LIKE 'many %'}), 500,
       'two creates of one new owner share it');
    is($pg->value(q{SELECT count(*) FROM apikey.audit a
                    JOIN apikey.owner o ON o.id = a.object_id
                    WHERE o.external LIKE 'many %' AND a.action = 'create'}),
       500, 'and it is made once');

    my %seen;

    $seen{$_->{status} || $_->{error}}++
        for $n->parallel(map { { key => $_->{key} } } @made);
    is_deeply(\%seen, { 200 => 1000 }, 'all of them work')
        or diag(explain(\%seen));
};


$t->done;
