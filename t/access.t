# The access phase: where a key may stand, the order of the checks, their
# answers, and how it gets on with nginx's own access modules.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my %limit = (name => 'hourly', limit => 1000, window => '1h');

my $key = $t->key(name => 'one', owner => 'user_1', customer => 'c 1',
    scopes => [qw(orders:* apikey:x)], limits => [\%limit],
    metadata => { team => "s\x{e9}arch", 'n' => 1.5, ok => JSON::PP::true,
                  none => undef, deep => {} });
my $plain = $t->key(name => 'two');
my $none = $t->key(name => 'no limit', limits => [
    { name => 'none', limit => 0, window => '1h' } ]);
my $all = $t->key(name => 'all', scopes => ['*']);
my $ip = $t->key(name => 'ip', allowed_ips => ['10.0.0.0/8', '2001:db8::/32']);
my $here = $t->key(name => 'here', allowed_ips => ['127.0.0.0/8']);
my $nowhere = $t->key(name => 'nowhere', allowed_ips => []);
my $off = $t->key(name => 'off', enabled => 0);
my $revoked = $t->key(name => 'revoked', revoked => 1);
my $late = $t->key(name => 'late', expires_at => '2020-01-01T00:00:00Z');
my $live = $t->key(name => 'live', prefix => 'sk_live');
my $foreign = $t->key(name => 'foreign', plain => 'nk_' . 'a%b+c/d=' x 8);
my $short = $t->key(name => 'short', plain => 'abcdefgh');
my $long = $t->key(name => 'long', plain => 'x' x 512);
my $gone = $t->key(name => 'gone', owner => 'user_gone');
my $grace = $t->key(name => 'grace');

$t->postgres->run(<<'EOT');
UPDATE apikey.owner SET enabled = false WHERE external = 'user_gone';
EOT
$t->postgres->run("UPDATE apikey.secret SET expires_at = now() - interval '1s'"
                  . " WHERE key_id = '$grace->{id}'");

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    apikey_limit_mode direct;
    log_format v '$uri $apikey_verdict $apikey_id $apikey_name $apikey_owner '
                 '$apikey_customer [$apikey_scopes] $apikey_decision_mode '
                 '$apikey_metadata_team $apikey_metadata_n $apikey_metadata_ok '
                 '$apikey_metadata_none $apikey_metadata_deep $apikey_date '
                 '$apikey_decided_at $apikey_request_id $status '
                 '$apikey_limit_name $apikey_limit $apikey_remaining '
                 '$apikey_reset $apikey_retry_after';

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        server_name h2;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        access_log %%DIR%%/access.log v;
        apikey required;
        proxy_set_header X-Forged $apikey_owner;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /off/ {
            apikey off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /many/ {
            apikey_source bearer header:X-Key query:key cookie:key;
            apikey_realm 'my "api"';
            proxy_pass http://%%UPSTREAM%%;
        }

        location /bearer/ {
            apikey_source bearer;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /live/ {
            apikey_accept sk_live nk;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /sk/ {
            apikey_accept sk;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope/ {
            apikey_scope orders:read;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scopes/ {
            apikey_scope orders:read admin|apikey:x;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope-missing/ {
            apikey_scope orders:read billing;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope-var/ {
            apikey_scope $arg_scope;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /weight/ {
            apikey_weight $arg_w;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /preflight/ {
            apikey_preflight pass;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /deny/ {
            deny all;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /any-deny/ {
            satisfy any;
            deny all;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /any-allow/ {
            satisfy any;
            allow all;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /any-optional/ {
            satisfy any;
            apikey optional;
            deny all;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /any-scope/ {
            satisfy any;
            apikey_scope billing;
            deny all;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /auth/ {
            auth_request /auth-ok;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /auth-no/ {
            auth_request /auth-403;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /auth-ok {
            internal;
            proxy_pass http://%%UPSTREAM%%/status/200;
        }

        location = /auth-403 {
            internal;
            proxy_pass http://%%UPSTREAM%%/status/403;
        }

        location /delay/ {
            auth_delay 200ms;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


sub code {
    my ($r, $status, $code, $name) = @_;

    my $j = eval { json($r) } // {};

    is("$r->{status} " . ($j->{code} // ''), "$status $code", $name)
        or diag($r->{raw});

    return $j;
}


# a key that passes

my $r = $n->get('/echo', key => $key->{key});

is($r->{status}, 200, 'a key passes');
my $id = json($r)->{headers}{'x-request-id'};
like($id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-/,
     'the upstream gets a UUIDv7');
is($r->{headers}{'x-request-id'}, $id, 'the client gets the same');
is(json($r)->{headers}{'x-forged'}, 'user_1', 'identity goes upstream');

my $line = wait_for('its log line', sub {
    open my $f, '<', $n->dir . '/access.log' or return;
    return (grep { / $id .*\n/ } <$f>)[0];
});
chomp $line;

like($line, qr/^\/echo ok $key->{id} one user_1 c 1 \[orders:\* apikey:x\] /,
     'variables of the key');
like($line, qr/ direct s(?:\xc3\xa9|\\xC3\\xA9)arch 1\.5 true - - /,
     'variables of its metadata');
like($line, qr/ \d{4}-\d\d-\d\d \d{10}\.\d{6} $id 200 hourly 1000 999 [1-4] -$/,
     'variables of the decision');


# answers

my $j = code($n->get('/'), 401, 'missing_key', 'no key');
is($j->{type}, 'urn:apikey:missing_key', 'type');
is($j->{status}, 401, 'status');
like($j->{request_id}, qr/^[0-9a-f-]{36}$/, 'request_id');

$r = $n->get('/', key => plain_key('sk'));
$j = code($r, 401, 'invalid_key', 'an unknown key');
is($r->{headers}{'content-type'}, 'application/problem+json', 'its type');
is($r->{headers}{'www-authenticate'}, 'ApiKey realm="api"', 'its challenge');
is($r->{headers}{'x-request-id'}, $j->{request_id}, 'its id');

code($n->get('/', key => ''), 401, 'missing_key', 'an empty key');
code($n->get('/', key => 'abcdefg'), 401, 'invalid_key', '7 bytes');
code($n->get('/', key => 'x' x 513), 401, 'invalid_key', '513 bytes');
is($n->get('/', key => $short->{key})->{status}, 200, '8 bytes');
is($n->get('/', key => $long->{key})->{status}, 200, '512 bytes');
code($n->get('/', key => $off->{key}), 401, 'disabled_key', 'a disabled key');
code($n->get('/', key => $gone->{key}), 401, 'disabled_key',
     'a disabled owner');
code($n->get('/', key => $revoked->{key}), 401, 'invalid_key',
     'a revoked key is invalid');
code($n->get('/', key => $late->{key}), 401, 'expired_key', 'an expired key');
code($n->get('/', key => $grace->{key}), 401, 'expired_key',
     'a secret after its grace');
code($n->get('/', key => $ip->{key}), 403, 'ip_denied', 'another address');
code($n->get('/', key => $nowhere->{key}), 403, 'ip_denied', 'no address');
is($n->get('/', key => $here->{key})->{status}, 200, 'this address');

$r = $n->get('/', key => $none->{key});
$j = code($r, 429, 'rate_limited', 'a limit of nothing');
ok(!exists $r->{headers}{'retry-after'}, 'never opens: no Retry-After');
is($j->{retry_after}, undef, 'nor in the body');
is($j->{limit_name}, 'none', 'its name');

$r = $n->request('HEAD', '/', key => plain_key('sk'));
is($r->{status}, 401, 'HEAD');
is($r->{body}, '', 'HEAD has no body');

code($n->request('GET', '/', headers => [ 'X-API-Key' => $key->{key},
                                          'x-api-key' => $key->{key} ]),
     401, 'duplicate_key', 'two equal keys');


# sources

for my $case (
    [ bearer => '/many/', [ Authorization => "Bearer $key->{key}" ] ],
    [ 'bearer in lower case', '/many/',
      [ authorization => "bearer  $key->{key}" ] ],
    [ header => '/many/', [ 'X-KEY' => $key->{key} ] ],
    [ query => "/many/?a=1&key=$key->{key}&b=2", [] ],
    [ cookie => '/many/', [ Cookie => "a=b; key=$key->{key}; c=d" ] ],
    [ 'query, encoded', '/many/?key='
      . join('', map { sprintf '%%%02x', ord } split //, $foreign->{key}),
      [] ],
    [ 'the first place wins', '/many/?key=wrong-key',
      [ 'X-Key' => $key->{key} ] ],
    [ 'an empty place is passed over', '/many/',
      [ Authorization => 'Bearer', 'X-Key' => $key->{key} ] ],
    [ 'Basic is not bearer', '/many/',
      [ Authorization => 'Basic eDp5', 'X-Key' => $key->{key} ] ],
) {
    my ($name, $uri, $headers) = @$case;
    is($n->request('GET', $uri, headers => $headers)->{status}, 200, $name);
}

code($n->get('/many/', key => $key->{key}), 401, 'missing_key',
     'not a source here');
code($n->get("/many/?key=$key->{key}&key=$plain->{key}"), 401,
     'duplicate_key', 'twice in the query');
code($n->get("/many/?key=$key->{key}&k%65y=$plain->{key}"), 401,
     'duplicate_key', 'twice in the query, once encoded');
code($n->request('GET', '/many/', headers => [
     Cookie => "key=$key->{key}; key=x" ]), 401, 'duplicate_key',
     'twice in a cookie');
code($n->request('GET', '/many/', headers => [
     Cookie => "key=$key->{key}", 'Cookie' => 'key=aaaaaaaa' ]), 401,
     'duplicate_key', 'twice in two cookies');

is($n->get('/many/')->{headers}{'www-authenticate'},
   'Bearer realm="my \"api\"", ApiKey realm="my \"api\""',
   'both challenges');
is($n->get('/bearer/')->{headers}{'www-authenticate'}, 'Bearer realm="api"',
   'one challenge');


# prefixes

is($n->get('/live/', key => $live->{key})->{status}, 200, 'accepted');
is($n->get('/live/', key => $foreign->{key})->{status}, 200,
   'accepted, not of our form');
code($n->get('/live/', key => $key->{key}), 401, 'invalid_key',
     'not accepted');
code($n->get('/sk/', key => $live->{key}), 401, 'invalid_key',
     'sk is not sk_live');
is($n->get('/sk/', key => $key->{key})->{status}, 200, 'sk is sk');


# scopes

is($n->get('/scope/', key => $key->{key})->{status}, 200, 'orders:*');
is($n->get('/scope/', key => $all->{key})->{status}, 200, '*');
is($n->get('/scopes/', key => $key->{key})->{status}, 200, 'either');
code($n->get('/scope/', key => $plain->{key}), 403, 'scope_denied', 'none');
code($n->get('/scope-missing/', key => $key->{key}), 403, 'scope_denied',
     'one of two');
is($n->get('/scope-var/?scope=orders:x', key => $key->{key})->{status}, 200,
   'a variable');
code($n->get('/scope-var/?scope=order', key => $key->{key}), 403,
     'scope_denied', 'a variable that does not fit');
code($n->get('/scope-var/', key => $all->{key}), 403, 'scope_denied',
     'an empty variable is covered by nothing');


# optional, off, preflight

is($n->get('/optional/')->{status}, 200, 'optional without a key');
is($n->get('/optional/', key => $key->{key})->{status}, 200,
   'optional with a key');
code($n->get('/optional/', key => plain_key('sk')), 401, 'invalid_key',
     'optional with a wrong key');
is($n->get('/off/')->{status}, 200, 'off');

is($n->request('OPTIONS', '/preflight/')->{status}, 200, 'a preflight');
code($n->request('OPTIONS', '/preflight/', key => plain_key('sk')), 401,
     'invalid_key', 'a preflight with a wrong key');
code($n->request('OPTIONS', '/'), 401, 'missing_key', 'checked by default');
code($n->get('/preflight/'), 401, 'missing_key', 'GET is no preflight');


# weight

my $before = $n->get('/weight/?w=0', key => $key->{key})
               ->{headers}{'x-ratelimit-remaining'};
my $after = $n->get('/weight/?w=100', key => $key->{key})
              ->{headers}{'x-ratelimit-remaining'};

ok($before - $after >= 98 && $before - $after <= 100, 'weight counts');

$r = $n->get('/weight/?w=1001', key => $key->{key});
$j = code($r, 429, 'rate_limited', 'more than the limit ever holds');
ok(!exists $r->{headers}{'retry-after'}, 'never fits: no Retry-After');

is($n->get('/weight/?w=99999999999999999999', key => $key->{key})->{status},
   429, 'weight beyond all numbers');
is($n->get('/weight/?w=0', key => $none->{key})->{status}, 200,
   'weight 0 spends nothing');
is($n->get('/weight/?w=x', key => $key->{key})->{status}, 200,
   'no number counts as 1');
$n->wait_log(qr/apikey_weight "x" is not a whole number/);


# nginx's access modules

my $calls = $t->redis->calls->{evalsha};

is($n->get('/deny/', key => $key->{key})->{status}, 403, 'deny comes first');
is($t->redis->calls->{evalsha}, $calls, 'deny asks no Redis');

is($n->get('/any-deny/', key => $key->{key})->{status}, 200,
   'satisfy any: a key is enough');
code($n->get('/any-deny/'), 401, 'missing_key', 'satisfy any: neither');
is($n->get('/any-allow/')->{status}, 200, 'satisfy any: the address');
is($n->get('/any-optional/')->{status}, 403,
   'satisfy any: no key satisfies nobody');
is($n->get('/any-optional/', key => $key->{key})->{status}, 200,
   'satisfy any: optional with a key');
code($n->get('/any-scope/', key => $key->{key}), 403, 'scope_denied',
     'satisfy any: scope');

is($n->get('/auth/', key => $key->{key})->{status}, 200, 'auth_request');
code($n->get('/auth/'), 401, 'missing_key', 'auth_request and no key');
is($n->get('/auth-no/', key => $key->{key})->{status}, 403,
   'auth_request refuses');

$r = $n->get('/delay/');
is($r->{status}, 401, 'auth_delay');
is($r->{headers}{'www-authenticate'}, 'ApiKey realm="api"',
   'auth_delay keeps the challenge');


# HTTP/2 and gRPC

my $h2 = $n->h2;

is($h2->get('/echo', key => $key->{key})->{status}, 200, 'HTTP/2');
code($h2->get('/'), 401, 'missing_key', 'HTTP/2 without a key');

for my $case ([ undef, 16 ], [ $ip->{key}, 7 ], [ $none->{key}, 8 ]) {
    my $r = $n->h2->request('POST', '/svc/M', key => $case->[0],
        headers => [ 'content-type' => 'application/grpc',
                     te => 'trailers' ], body => "\0\0\0\0\0");

    is("$r->{status} $r->{headers}{'grpc-status'} '$r->{body}'",
       "200 $case->[1] ''", "grpc-status $case->[1]");
    is($r->{headers}{'content-type'}, 'application/grpc', 'its type');
}

$h2->close;

$r = $n->request('POST', '/svc/M',
                 headers => [ 'content-type' => 'application/grpc' ]);
is("$r->{status} $r->{headers}{'grpc-status'} '$r->{body}'", "200 16 ''",
   'grpc-status over HTTP/1 comes to its end');
is($r->{headers}{'content-length'}, 0, 'and says that nothing follows');


# every verdict is counted

is($n->metric('apikey_requests_total', verdict => 'revoked_key'), 1,
   'revoked_key is counted as such');
is($n->metric('apikey_credential_failures_total', reason => 'duplicate'), 5,
   'duplicates are counted');

$t->done;
