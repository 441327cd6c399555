# POST api-keys/verify: the data plane's decision for code that is not behind
# this nginx.  It charges the same buckets, leaves the same records, counts the
# same refusals, and the key it is asked about is nowhere afterwards.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg    = $t->postgres;
my $redis = $t->redis;
my $up    = $t->upstream;

my $server = <<'EOT';
        location / { apikey required; proxy_pass http://%%UPSTREAM%%; }
        location /fast/ { apikey_admin rate=100000r/s; }
EOT

sub node {
    my ($name, %opt) = @_;

    return $t->nginx(name => $name, server => $server, workers => 2,
                     %opt)->start;
}

# Redis may be slow here; that it is gone is known at once

my $redis_conf = 'apikey_redis %%REDIS%% timeout=5s';
my $n = node('node', base => { redis => "$redis_conf;" });
my $m = node('other', base => {
    redis => "$redis_conf;\n    apikey_redis_down deny;\n"
             . "    apikey_limit_mode direct;" });

sub hour { return { name => $_[0], limit => $_[1], window => '1h' } }

my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z/;

my $key = $t->key(name => 'one', owner => 'ada', customer => 'c1',
    scopes => ['orders:read', 'x:*'], limits => [ hour('hourly', 10) ],
    owner_limits => [ { name => 'all', limit => 1000, window => '31d' } ]);
my $free = $t->key(name => 'free');
my $manager = $t->key(name => 'manager', owner => 'ada',
    scopes => ['apikey:manage']);
my $stranger = $t->key(name => 'stranger', owner => 'bob',
    scopes => ['apikey:manage']);
my $off = $t->key(name => 'off', enabled => 0);
my $over = $t->key(name => 'over');
my $home = $t->key(name => 'home', allowed_ips => ['192.0.2.0/24']);

$pg->run("UPDATE apikey.key SET expires_at = now() - interval '1 hour'
          WHERE id = '$over->{id}'");
$t->sync;


# Asked over the location with a rate that no test reaches.

sub verify {
    my ($body, %opt) = @_;

    my $node = delete $opt{node} // $n;
    my $as = delete $opt{as} // $t->token;

    return $node->request('POST', '/fast/api-keys/verify',
        body => ref $body ? Apikey::Http::json_encode($body) : $body,
        headers => [ Authorization => "Bearer $as",
                     'Content-Type' => 'application/json',
                     @{delete $opt{headers} // []} ], %opt);
}

sub answer {
    my ($r) = @_;

    is($r->{status}, 200, 'status') or diag($r->{raw});
    return json($r);
}

sub used {
    return $pg->value("SELECT requests FROM apikey.key_usage
                       WHERE key_id = '$_[0]{id}'") // 0;
}


subtest 'a valid key' => sub {
    my $r = verify({ key => $key->{key}, scopes => ['orders:read'],
                     model => undef, weight => 3, service => 'batch' });
    my $a = answer($r);

    is_deeply([ sort keys %$a ], [ sort qw(valid code id owner request_id
              retry_after limits) ], 'its members');
    ok($a->{valid}, 'valid');
    is($a->{code}, 'ok', 'code');
    is($a->{id}, $key->{id}, 'id');
    is($a->{owner}, 'ada', 'owner');
    like($a->{request_id}, $uuid, 'request_id');
    is($r->{headers}{'x-request-id'}, $a->{request_id}, 'X-Request-Id');
    is($a->{retry_after}, undef, 'retry_after');
    is_deeply($a->{limits}, [
        { name => 'hourly', level => 'key', unit => 'requests', limit => 10,
          remaining => 7, reset => 1080 },
        { name => 'all', level => 'owner', unit => 'requests',
          limit => 1000, remaining => 997, reset => 8036 } ], 'limits');

    is($n->get('/', key => $key->{key})->{headers}{'x-ratelimit-remaining'},
       6, 'a request takes from the same bucket');

    ok($t->wait_events(1, "event = '$a->{request_id}'"), 'it is recorded');

    like($pg->value("SELECT concat_ws('|', key_id, secret_id, owner, customer,
        service, endpoint, method, status_code, outcome, verdict, mode,
        weight) FROM apikey.usage_event WHERE event = '$a->{request_id}'"),
        qr{^$key->{id}\|$key->{secret}\|ada\|c1\|batch\|verify\|POST\|200
           \|success\|ok\|direct\|3$}x, 'as a request');
};


subtest 'weight 0 only looks' => sub {
    my @a = map { answer(verify({ key => $key->{key}, weight => 0 })) }
            1 .. 3;

    is($_->{limits}[0]{remaining}, 6, 'nothing is spent') for @a;
    ok($_->{valid}, 'valid') for @a;

    is($n->get('/', key => $key->{key})->{headers}{'x-ratelimit-remaining'},
       5, 'nothing was');

    wait_for('the request after them', sub { used($key) == 3 });
    is($t->events("event IN ('" . join("','", map { $_->{request_id} } @a)
                  . "')") + 0, 0, 'no record');
};


subtest 'refusals' => sub {
    my $a = answer(verify({ key => $key->{key}, weight => 6 }));

    ok(!$a->{valid}, 'not valid');
    is($a->{code}, 'rate_limited', 'rate_limited');
    is($a->{id}, $key->{id}, 'id');
    cmp_ok($a->{retry_after}, '>', 300, 'retry_after');
    is($a->{limits}[0]{remaining}, 5, 'nothing is spent');
    is($a->{limits}[1]{remaining}, 995, 'nowhere');

    $a = answer(verify({ key => $key->{key}, weight => 11 }));
    is($a->{retry_after}, undef, 'one that never opens');

    my %code = (disabled_key => $off, expired_key => $over);

    for my $code (sort keys %code) {
        $a = answer(verify({ key => $code{$code}{key} }));
        is($a->{code}, $code, $code);
        ok(!$a->{valid}, 'not valid');
        is($a->{id}, $code{$code}{id}, 'id');
    }

    $a = answer(verify({ key => $key->{key}, scopes => ['x:y', 'orders:'] }));
    is($a->{code}, 'scope_denied', 'one scope of two');
    $a = answer(verify({ key => $key->{key}, weight => 0,
                         scopes => ['no|x:y', 'orders:read'] }));
    is($a->{code}, 'ok', 'either of two');
    $a = answer(verify({ key => $home->{key} }));
    is($a->{code}, 'ok', 'the address is not judged');

    wait_for('the refusals are counted', sub {
        ($pg->value("SELECT sum(refused) FROM apikey.usage_hourly
                     WHERE key = '$key->{id}'") // 0)
            == 3;
    });
    is($pg->value("SELECT sum(refused) FROM apikey.usage_hourly
                   WHERE limit_name = 'hourly' AND verdict = 'rate_limited'"),
       2, 'by their limit');
    is(used($key), 3, 'and are no use');

    is($n->admin('DELETE', "api-keys/$home->{id}")->{status}, 204, 'revoked');
    $a = answer(verify({ key => $home->{key} }));
    is($a->{code}, 'revoked_key', 'revoked_key');
};


subtest 'who may' => sub {
    my $nothing = { valid => JSON::PP::false, code => 'not_found' };
    my $mine = { key => $key->{key}, weight => 0 };

    is(answer(verify($mine, as => $manager->{key}))->{id}, $key->{id},
       'the owner');
    is_deeply(answer(verify($mine, as => $stranger->{key})), $nothing,
              'not another owner');
    is_deeply(answer(verify({ key => $free->{key}, weight => 0 },
                            as => $manager->{key})), $nothing,
              'not for a key without owner');

    for my $other ('sk_unknown_unknown', 'short', 'x' x 600, "sk_a\0bcdefg",
                   Apikey::Test::plain_key('sk'))
    {
        is_deeply(answer(verify({ key => $other })), $nothing, 'unknown');
    }

    is_deeply(answer(verify({ key => $key->{key} }, as => $stranger->{key})),
              $nothing, 'a stranger charges nothing');
    is(answer(verify($mine))->{limits}[0]{remaining}, 5, 'nothing');

    my $r = verify($mine, as => $key->{key});
    is("$r->{status} " . json($r)->{code}, '403 forbidden', 'a plain key');
    $r = verify($mine, as => $t->{read_token});
    is("$r->{status} " . json($r)->{code}, '403 forbidden', 'role=read');
    is(verify($mine, as => 'op_nobody_nobody')->{status}, 401, 'nobody');
};


subtest 'what is wrong' => sub {
    my $r = verify({ scopes => ['a', 7, undef], model => 5, weight => -1,
                     service => '', 'a/b' => 1 }, headers =>
                   [ 'Idempotency-Key' => 'x' x 256 ]);

    is($r->{status}, 400, 'status');
    is(json($r)->{code}, 'invalid_request', 'code');
    is_deeply([ sort map { "$_->{location} $_->{code}" }
                @{json($r)->{errors}} ],
              [ sort '/key required', '/scopes/1 bad_type',
                '/scopes/2 bad_type', '/model bad_type',
                '/weight out_of_range', '/service bad_length',
                '/a~1b unknown', 'header:Idempotency-Key bad_length' ],
              'each is named') or diag($r->{body});
    is(json($r)->{detail}, '8 members are wrong.', 'how many');

    my %one = ('' => ' required', '[]' => ' bad_type', '5' => ' bad_type',
        '{"key":5}' => '/key bad_type', '{"key":null}' => '/key bad_type',
        '{' => ' bad_type',
        '{"key":"abcdefgh","key":"abcdefgh"}' => ' duplicate',
        '{"key":"abcdefgh","weight":1.5}' => '/weight bad_value',
        '{"key":"abcdefgh","weight":"1"}' => '/weight bad_type',
        '{"key":"abcdefgh","weight":9007199254740992}' =>
            '/weight out_of_range');

    for my $body (sort keys %one) {
        my $r = verify($body);

        is_deeply([ $r->{status}, map { "$_->{location} $_->{code}" }
                    @{json($r)->{errors}} ], [ 400, $one{$body} ],
                  "body $body");
    }

    is(verify('{"key":"abcdefgh"}', headers =>
              [ 'Content-Encoding' => 'gzip' ])->{status}, 415, 'gzip');
};


subtest 'exact over nodes and workers' => sub {
    my $many = $t->key(name => 'many', limits => [ hour('hourly', 40) ]);
    $t->sync;

    my $body = Apikey::Http::json_encode({ key => $many->{key} });
    my @r = Apikey::Http::parallel(map { $_ % 3
        ? { port => ($_ % 2 ? $n : $m)->port, method => 'POST',
            uri => '/fast/api-keys/verify', body => $body,
            headers => [ Authorization => 'Bearer ' . $t->token,
                         'Content-Type' => 'application/json' ] }
        : { port => ($_ % 2 ? $n : $m)->port, uri => '/',
            key => $many->{key} } } 1 .. 120);

    my $valid = grep { $_->{body} =~ /"valid":true/ } @r;
    my $passed = grep { $_->{headers}{'x-ratelimit-limit'}
                        && $_->{status} == 200 } @r;

    is($valid + $passed, 40, 'requests and verifies share one limit');
    wait_for('so many are recorded', sub { used($many) == 40 });
};


subtest 'Redis is down' => sub {
    $redis->stop('KILL');

    my ($a, $b) = map { answer(verify({ key => $key->{key} }, node => $_)) }
                  $n, $m;

    wait_for('the breaker opens', sub {
        answer(verify({ key => $key->{key} }, node => $m))->{code}
            eq 'unavailable';
    });

    $b = answer(verify({ key => $key->{key} }, node => $m));
    is($b->{code}, 'unavailable', 'deny');
    ok(!$b->{valid}, 'not valid');
    is($b->{retry_after}, 1, 'retry_after');
    is($b->{limits}[0]{remaining}, undef, 'nothing is invented');

    ok($a->{code} =~ /^(ok|rate_limited)$/, 'local');
    is(answer(verify({ key => $free->{key} }, node => $m))->{code}, 'ok',
       'a key without limits needs no Redis');

    $redis->start;
};


subtest 'the key is nowhere' => sub {
    my $plain = 'verify_me_' . 'q7Zt' x 8;

    verify({ key => $plain });
    verify("{\"key\":\"$plain\"");
    verify("{\"key\":[\"$plain\"]}");

    for my $file (glob($t->dir . '/*/error.log'),
                     $pg->{log}) {
        open my $f, '<', $file or next;
        my $text = do { local $/; <$f> };
        ok($text !~ /\Q$plain/, "not in $file");
    }
};


is($up->hits, $pg->value("SELECT count(*) FROM apikey.usage_event
                          WHERE endpoint = '/' AND outcome = 'success'"),
   'no verify went to the upstream');

$t->allow(qr/apikey_redis:/);
$t->done;
