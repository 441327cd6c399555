# POST api-keys/verify with an Idempotency-Key: one charge, however often, over
# however many nodes, and whoever dies or leaves meanwhile.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg    = $t->postgres;
my $redis = $t->redis;
my $up    = $t->upstream;

my $server = <<'EOS';
        location / { apikey required; proxy_pass http://%%UPSTREAM%%; }
        location /fast/ { apikey_admin rate=100000r/s; }
        location /older/ { apikey_admin rate=100000r/s compat; }
EOS

# a frozen Redis is waited for

sub node {
    my ($name) = @_;

    return $t->nginx(name => $name, server => $server, workers => 2,
        base => { redis => "apikey_redis %%REDIS%% timeout=20s;\n"
                           . "apikey_limit_mode direct;" })->start;
}

my $n = node('node');
my $m = node('other');

my $limit = 1000;
my $nkeys = 0;


# Each test has a key of its own, all whose charges are its own.

sub fresh {
    my (%opt) = @_;

    my $key = $t->key(name => 'key ' . ++$nkeys, owner => 'ada', limits => [
        { name => 'monthly', limit => $limit, window => '31d' } ], %opt);

    $t->sync;
    return $key;
}

my $manager = $t->key(name => 'manager', owner => 'ada',
    scopes => ['apikey:manage']);
$t->sync;


sub headers {
    my ($once, $as) = @_;

    return [ Authorization => 'Bearer ' . ($as // $t->token),
             'Content-Type' => 'application/json',
             defined $once ? ('Idempotency-Key' => $once) : () ];
}

sub text { return ref $_[0] ? Apikey::Http::json_encode($_[0]) : $_[0] }

sub verify {
    my ($body, $once, %opt) = @_;

    return ($opt{node} // $n)->request('POST',
        ($opt{at} // '/fast') . '/api-keys/verify', body => text($body),
        headers => headers($once, $opt{as}));
}

sub begin {
    my ($body, $once, %opt) = @_;

    my $conn = ($opt{node} // $n)->conn;

    $conn->send(Apikey::Http::build('POST', '/fast/api-keys/verify',
        body => text($body), headers => headers($once)));
    return $conn;
}


# What Redis says is used.

sub used {
    my ($key, $node) = @_;

    my $r = verify({ key => $key->{key}, weight => 0 }, undef,
                   node => $node);

    return $limit - json($r)->{limits}[0]{remaining};
}

# What was written down as charged.

sub recorded {
    return $pg->value("SELECT coalesce(sum(weight), 0)
                       FROM apikey.usage_event
                       WHERE key_id = '$_[0]{id}' AND verdict = 'ok'");
}

sub charged {
    my ($key, $n, $what) = @_;

    is(used($key), $n, $what);
    wait_for('so much is recorded', sub { recorded($key) == $n });
}

sub replayed { return $_[0]{headers}{'idempotent-replayed'} // '' }

sub is_problem {
    my ($r, $status, $code) = @_;

    is("$r->{status} " . (json($r)->{code} // ''), "$status $code",
       "$status $code") or diag($r->{body});
    is($r->{headers}{'content-type'}, 'application/problem+json',
       '... as a problem');
    return json($r);
}

sub claimed {
    return $pg->value("SELECT count(*) FROM apikey.idempotency
                       WHERE key = '$_[0]' AND claim IS NOT NULL");
}


subtest 'the same again' => sub {
    my $key = fresh();
    my %body = (key => $key->{key}, weight => 3, service => 'batch');

    my $first = verify(\%body, 'same');

    is($first->{status}, 200, 'status');
    ok(json($first)->{valid}, 'valid');
    is(replayed($first), '', 'for the first time');
    is(json($first)->{limits}[0]{remaining}, 997, 'it is charged');

    for my $node ($n, $m) {
        my $again = verify(\%body, 'same', node => $node);

        is($again->{status}, 200, 'again');
        is(replayed($again), 'true', 'says so');
        is($again->{body}, $first->{body}, 'the same answer');
        is($again->{headers}{$_}, $first->{headers}{$_}, $_)
            for qw(content-type cache-control);
    }

    my $again = verify(" {\"service\":\"batch\", \"weight\" : 3,
        \"model\":null, \"key\":\"$key->{key}\"}", 'same');
    is(replayed($again), 'true', 'JSON is compared by value');

    is(verify(\%body, 'same', at => '/older')->{body}, $first->{body},
       'where older clients are served, too');

    charged($key, 3, 'charged once');

    verify(\%body, 'another');
    verify(\%body);
    charged($key, 9, 'others are others');

    $pg->run("UPDATE apikey.idempotency
              SET at = now() - interval '24 hours 1 s' WHERE key = 'same'");
    is(replayed(verify(\%body, 'same')), '', 'a day later it is new');
    charged($key, 12, 'and charged');
};


subtest 'another request' => sub {
    my ($key, $other) = (fresh(), fresh());

    verify({ key => $key->{key} }, 'mine');

    for my $body ({ key => $other->{key} }, { key => 'x' }, { key => 'y' },
                  map { { key => $key->{key}, %$_ } }
                  { weight => 2 }, { scopes => ['a'] }, { model => 'm' },
                  { service => 's' })
    {
        is_problem(verify($body, 'mine'), 422, 'idempotency_mismatch');
    }

    is_problem($n->request('POST', '/fast/api-keys',
        body => '{"name":"one"}', headers => headers('mine')), 422,
        'idempotency_mismatch');

    is($n->request('POST', '/fast/api-keys', body => '{"name":"one"}',
                   headers => headers('made'))->{status}, 201, 'a create');
    is_problem(verify({ key => $key->{key} }, 'made'), 422,
               'idempotency_mismatch');

    is(json(verify({ key => $key->{key} }, 'mine', as => $manager->{key}))
           ->{limits}[0]{remaining}, 998, 'another caller has its own');
    charged($key, 2, 'nothing else is charged');
    charged($other, 0, 'to nobody');
};


subtest 'the header itself' => sub {
    my $key = fresh();

    for my $wrong ('', 'x' x 256) {
        my $p = is_problem(verify({ key => $key->{key} }, $wrong), 400,
                           'invalid_request');

        is_deeply([ map { "$_->{location} $_->{code}" } @{$p->{errors}} ],
                  [ 'header:Idempotency-Key bad_length' ], 'is named');
    }

    is(verify({ key => $key->{key} }, "\xc3\xa9" x 255)->{status}, 200,
       '255 characters');
    charged($key, 1, 'one charge');
};


subtest 'what charged nothing frees its key' => sub {
    my $key = fresh(enabled => 0);

    for (1, 2) {
        my $r = verify({ key => $key->{key} }, 'off');

        is(json($r)->{code}, 'disabled_key', 'refused');
        is(replayed($r), '', 'which is decided each time');
    }

    is($n->admin('PATCH', "api-keys/$key->{id}", body => { enabled => \1 })
           ->{status}, 200, 'enabled');
    is(json(verify({ key => $key->{key} }, 'off'))->{code}, 'ok',
       'the same request is admitted now');
    is(replayed(verify({ key => $key->{key} }, 'off')), 'true',
       'and that is kept');
    charged($key, 1, 'one charge');

    is(json(verify({ key => 'sk_unknown_unknown' }, 'who', node => $_))
           ->{code}, 'not_found', 'unknown') for $n, $m;
    is_problem(verify({}, 'wrong'), 400, 'invalid_request');
    is($pg->value("SELECT count(*) FROM apikey.idempotency
                   WHERE key IN ('who', 'wrong')"), 0, 'nothing is left');
};


subtest 'many at once over two nodes' => sub {
    my $key = fresh();
    my (%status, %body, @wait);

    for my $round (1 .. 5) {
        my @r = Apikey::Http::parallel(map { +{
            port => ($_ % 2 ? $n : $m)->port, method => 'POST',
            uri => '/fast/api-keys/verify',
            body => text({ key => $key->{key}, weight => 7 }),
            headers => headers("race $round") } } 1 .. 30);

        for my $r (@r) {
            $status{$r->{status}}++;
            $body{$r->{body}}++ if $r->{status} == 200;
            push @wait, $r->{headers}{'retry-after'} if $r->{status} == 409;
        }

        is(replayed(verify({ key => $key->{key}, weight => 7 },
                           "race $round", node => $m)), 'true',
           'and once more');
    }

    is(($status{200} // 0) + ($status{409} // 0), 150,
       'answered, or told to come again') or diag(explain(\%status));
    is(keys %body, 5, 'one answer for each');
    is(scalar(grep { $_ ne '1' } @wait), 0, 'in a second');
    charged($key, 35, 'one charge for each');
};


subtest 'a call in flight, and one whose node died' => sub {
    my $key = fresh();
    my %body = (key => $key->{key});

    $redis->freeze;
    my $conn = begin(\%body, 'flight');
    wait_for('the claim', sub { claimed('flight') });

    my $r = verify(\%body, 'flight', node => $m);

    is_problem($r, 409, 'conflict');
    is($r->{headers}{'retry-after'}, 1, 'Retry-After');
    is_problem(verify({ %body, weight => 2 }, 'flight'), 422,
               'idempotency_mismatch');

    $redis->thaw;
    $r = $conn->response;
    is($r->{status}, 200, 'the first is answered');
    is(verify(\%body, 'flight', node => $m)->{body}, $r->{body},
       'and so are others');
    charged($key, 1, 'one charge');

    my $dying = node('dying');

    $t->sync;
    $redis->freeze;
    $conn = begin(\%body, 'death', node => $dying);
    wait_for('the claim', sub { claimed('death') });
    $dying->kill_worker($_) for $dying->workers;
    $redis->thaw;
    $dying->stop;

    my $once = used($key, $m);

    is(verify(\%body, 'death', node => $m)->{headers}{'retry-after'}, 1,
       'it might still be answered');

    $pg->run("UPDATE apikey.idempotency SET at = at - interval '10 s'
              WHERE key = 'death'");
    $r = verify(\%body, 'death', node => $m);
    is($r->{status}, 409, 'nobody knows what it did');
    cmp_ok($r->{headers}{'retry-after'}, '<=', 20, 'for so long');
    cmp_ok($r->{headers}{'retry-after'}, '>', 1, 'and not sooner');

    $pg->run("UPDATE apikey.idempotency SET at = at - interval '20 s'
              WHERE key = 'death'");
    $r = verify(\%body, 'death', node => $m);
    is("$r->{status} " . replayed($r), '200 ', 'then it is decided anew');
    is(used($key, $m), $once + 1, 'and charged');
};


subtest 'a claim that is over makes room' => sub {
    my $key = fresh();

    verify({ key => $key->{key} }, 'room');
    $pg->run("UPDATE apikey.idempotency SET at = now() - interval '31 s',
              claim = gen_random_uuid(), status = 0 WHERE key = 'room'");

    my $r = $n->request('POST', '/fast/api-keys', body => '{"name":"two"}',
                        headers => headers('room'));
    is($r->{status}, 201, 'for a create');
    $r = $n->request('POST', '/fast/api-keys', body => '{"name":"two"}',
                     headers => headers('room'));
    is("$r->{status} " . replayed($r), '200 true', 'which is kept');
};


subtest 'a client that leaves' => sub {
    my $key = fresh();

    for my $how (qw(abort close half_close)) {
        $redis->freeze;
        my $conn = begin({ key => $key->{key} }, $how);
        wait_for('the claim', sub { claimed($how) });
        $conn->$how;
        $redis->thaw;

        wait_for('the answer is kept', sub {
            $pg->value("SELECT status FROM apikey.idempotency
                        WHERE key = '$how'") == 200;
        });
        is(replayed(verify({ key => $key->{key} }, $how)), 'true',
           "$how: it is told when it asks again");
    }

    charged($key, 3, 'one charge each');
};


subtest 'Postgres is away' => sub {
    my $key = fresh();
    my %body = (key => $key->{key});

    # between the claim and the answer

    $redis->freeze;
    my $conn = begin(\%body, 'between');
    wait_for('the claim', sub { claimed('between') });
    $pg->stop;
    $redis->thaw;

    my $r = $conn->response;
    is("$r->{status} " . json($r)->{code}, '200 ok',
       'what is charged is told');
    is(used($key), 1, 'once');

    $r = verify(\%body, 'away');
    is_problem($r, 503, 'unavailable');
    like($r->{headers}{'retry-after'}, qr/^\d+\z/, 'Retry-After');
    is(used($key), 1, 'nothing is charged');
    is(json(verify(\%body))->{code}, 'ok', 'without the header all is well');

    $pg->start;

    wait_for('Postgres is found again', sub {
        verify(\%body, 'away')->{status} == 200;
    });

    # by each worker for itself

    wait_for('the other worker finds it, too', sub {
        $r = verify(\%body, 'between');
        return $r->{status} != 503;
    });
    is($r->{status}, 409, 'the answer that could not be kept is not known');

    my $kept;

    wait_for('the other node finds it, too', sub {
        $kept = verify(\%body, 'away', node => $m);
        return $kept->{status} == 200;
    });
    is(replayed($kept), 'true', 'and kept');
    charged($key, 3, 'three charges: one without the header');
};


subtest 'the key is nowhere' => sub {
    my $key = fresh();

    verify({ key => $key->{key} }, 'plain');
    verify({ key => $key->{key}, weight => 5 }, 'plain');

    is($pg->value("SELECT count(*) FROM apikey.idempotency i
                   WHERE i::text LIKE '%$key->{key}%'"), 0,
       'not in the table');

    for my $file (glob($t->dir . '/*/error.log'), $pg->{log}) {
        open my $f, '<', $file or next;
        my $text = do { local $/; <$f> };
        ok($text !~ /\Q$key->{key}/, "not in $file");
    }
};


$t->allow(qr/apikey_redis/, qr/apikey_postgres/, qr/got no answer/,
          qr/the answer of a verify .* could not be kept/,
          qr/exited on signal 9/);
$t->done;
