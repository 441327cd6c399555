# apikey_status: other statuses for verdicts, wherever one is answered.

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;
$t->allow(qr/Postgres/);

my $key = $t->key(name => 'one');
my $off = $t->key(name => 'off', enabled => 0);
my $late = $t->key(name => 'late', expires_at => '2020-01-01T00:00:00Z');
my $revoked = $t->key(name => 'revoked', revoked => 1);
my $ip = $t->key(name => 'ip', allowed_ips => ['10.0.0.0/8']);
my $model = $t->key(name => 'model', allowed_models => []);
my $limit = $t->key(name => 'limit', limits => [
    { name => 'one', limit => 1, window => '1h' } ]);
my $none = $t->key(name => 'none', limits => [
    { name => 'none', limit => 0, window => '1h' } ]);
my $left = $t->key(name => 'left', limits => [
    { name => 'one', limit => 1, window => '1h' } ]);
my $unknown = { key => plain_key('sk') };

my $n = $t->nginx(base => { redis => undef }, http => <<'EOT',
    log_format v '$uri $status $apikey_verdict';

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /as/ {
            apikey_status invalid_key=403 missing_key=429 ip_denied=401
                          disabled_key=503 expired_key=418;
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
    server => <<'EOS')->start;
        access_log %%DIR%%/access.log v;
        root %%DIR%%;
        apikey required;
        apikey_model $arg_model;
        apikey_status missing_key=403 invalid_key=404 disabled_key=410
                      expired_key=402 scope_denied=404 ip_denied=401
                      model_denied=422 duplicate_key=400 rate_limited=503;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope/ {
            apikey_scope x;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /other/ {
            apikey_status scope_denied=451;
            apikey_scope x;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /both/ {
            apikey_source bearer header:X-API-Key;
            apikey_status scope_denied=401 rate_limited=401;
            apikey_scope x|y;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /limit/ {
            apikey_status rate_limited=401;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /close/ {
            apikey_status missing_key=444;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /high/ {
            apikey_status missing_key=599 invalid_key=499 disabled_key=497;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /page/ {
            error_page 404 403 503 /page.html;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /page-off/ {
            error_page 404 403 503 /off.html;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /page.html {
        }

        location = /off.html {
            apikey off;
        }

        location /any/ {
            satisfy any;
            deny all;
            apikey_status missing_key=404;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

for my $page ('page', 'off') {
    open my $f, '>', $n->dir . "/$page.html" or die;
    print $f "$page\n";
}

$t->sync;


sub is_answer {
    my ($r, $status, $code, $name) = @_;

    my $j = eval { json($r) } // {};

    is("$r->{status} " . ($j->{status} // '') . ' ' . ($j->{code} // ''),
       "$status $status $code", $name) or diag($r->{raw});

    return $r->{headers};
}

sub ask { my ($uri, $key) = @_; return $n->get($uri, key => $key->{key}) }


subtest 'each verdict' => sub {
    my $h = is_answer(ask('/', {}), 403, 'missing_key', 'no key');
    ok(!exists $h->{'www-authenticate'}, 'a challenge belongs to 401');

    is_answer(ask('/', $unknown), 404, 'invalid_key', 'an unknown key');
    is_answer(ask('/', $revoked), 404, 'invalid_key', 'a revoked key');
    is_answer(ask('/', { key => 'short' }), 404, 'invalid_key', 'too short');
    is_answer(ask('/', $off), 410, 'disabled_key', 'disabled');
    is_answer(ask('/', $late), 402, 'expired_key', 'expired');
    is_answer(ask('/scope/', $key), 404, 'scope_denied', 'scope');
    is_answer(ask('/?model=x', $model), 422, 'model_denied', 'model');
    is_answer($n->request('GET', '/', headers => [
        'X-API-Key' => $key->{key}, 'X-API-Key' => $key->{key} ]),
        400, 'duplicate_key', 'twice');

    $h = is_answer(ask('/', $ip), 401, 'ip_denied', 'address');
    is($h->{'www-authenticate'}, 'ApiKey realm="api"', '401 has a challenge');

    is(ask('/', $limit)->{status}, 200, 'the first');
    $h = is_answer(ask('/', $limit), 503, 'rate_limited', 'a limit');
    like($h->{'retry-after'}, qr/^3\d\d\d$/, 'Retry-After stays');

    $h = is_answer(ask('/', $none), 503, 'rate_limited', 'never opens');
    ok(!exists $h->{'retry-after'}, 'no Retry-After');

    is(ask('/', $key)->{status}, 200, 'a good key');
};


subtest 'inheritance' => sub {
    is_answer(ask('/other/', $key), 451, 'scope_denied', 'its own');
    is_answer(ask('/other/', {}), 401, 'missing_key', 'the outer is gone');
    is_answer(ask('/other/', $revoked), 401, 'invalid_key', 'as ever');
};


subtest 'challenges' => sub {
    my $h = is_answer(ask('/both/', $key), 401, 'scope_denied', 'scope');

    is($h->{'www-authenticate'}, 'Bearer realm="api", ApiKey realm="api"',
       'both challenges');

    is(ask('/limit/', $left)->{status}, 200, 'the first');
    $h = is_answer(ask('/limit/', $left), 401, 'rate_limited', 'a limit');
    is($h->{'www-authenticate'}, 'ApiKey realm="api"', 'challenge');
    like($h->{'retry-after'}, qr/^\d+$/, 'and Retry-After');
};


subtest 'odd ones' => sub {
    is_answer(ask('/high/', {}), 599, 'missing_key', 'status 599');
    is_answer(ask('/high/', $unknown), 499, 'invalid_key', 'status 499');
    is_answer(ask('/high/', $off), 497, 'disabled_key', 'status 497');

    my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                  PeerPort => $n->port) or die;
    print $c "GET /close/ HTTP/1.1\r\nHost: a\r\n\r\n";
    my $got = do { local $/; <$c> } // '';
    is($got, '', '444 closes the connection');

    my $r = $n->request('HEAD', '/', key => undef);
    is("$r->{status} '$r->{body}'", "403 ''", 'HEAD');
};


subtest 'error_page' => sub {
    is_answer(ask('/page/', {}), 403, 'missing_key',
              'refused in its target, too');
    is_answer(ask('/page/', $unknown), 404, 'invalid_key', 'so is this');

    my $r = ask('/page-off/', $unknown);
    is("$r->{status} $r->{body}", "404 off\n", 'the target says off');

    $r = ask('/page/', $none);
    is("$r->{status} $r->{body}", "503 page\n",
       'a limit is not decided twice');
};


subtest 'satisfy any' => sub {
    is(ask('/any/', $key)->{status}, 200, 'a key');
    is_answer(ask('/any/', {}), 404, 'missing_key', 'neither');
};


subtest 'gRPC' => sub {
    for my $case ([ '/', undef, 16 ], [ '/', $unknown->{key}, 16 ],
                  [ '/as/', $unknown->{key}, 7 ], [ '/as/', undef, 8 ],
                  [ '/as/', $ip->{key}, 16 ], [ '/as/', $off->{key}, 14 ],
                  [ '/as/', $late->{key}, 16 ])
    {
        my ($uri, $key, $code) = @$case;

        my $r = $n->h2->request('POST', $uri, key => $key, headers => [
            'content-type' => 'application/grpc' ], body => "\0\0\0\0\0");

        is("$r->{status} $r->{headers}{'grpc-status'}", "200 $code",
           "$uri: grpc-status $code");
    }

    my $r = $n->h2->get('/as/', key => $unknown->{key});
    is_answer($r, 403, 'invalid_key', 'HTTP/2');
};


subtest 'log and records' => sub {
    my $log = wait_for('the log', sub {
        open my $f, '<', $n->dir . '/access.log' or return;
        local $/;
        my $text = <$f>;
        return $text =~ m{^/any/ 404}m && $text;
    });

    like($log, qr{^/ 404 revoked_key$}m, 'the verdict is as ever');
    like($log, qr{^/close/ 444 missing_key$}m, 'status 444');

    wait_for('a record', sub {
        ask('/scope/', $key);
        $pg->value("SELECT count(*) FROM apikey.usage_event
                    WHERE verdict = 'scope_denied' AND status_code = 404
                        AND outcome = 'refused'");
    });
    pass('the record has the status that the client saw');

    is($n->metric('apikey_requests_total', verdict => 'duplicate_key'), 1,
       'metrics count verdicts');
};

$t->done;
