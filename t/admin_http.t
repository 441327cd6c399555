# The admin API as HTTP: credentials, methods, bodies, paths, connections, and
# the locations that may hold it.

use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $n = $t->nginx(http => <<'EOT')->start;
    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        client_body_buffer_size 1k;

        location / {
            apikey_admin;
        }

        location /file/ {
            client_body_in_file_only clean;
            apikey_admin;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_other%%;
        client_body_buffer_size 1k;

        location /plain {
            apikey_admin;
        }

        location = /exact/whoami {
            apikey_admin;
        }

        location /small/ {
            client_max_body_size 1k;
            apikey_admin;
        }

        location /large/ {
            client_max_body_size 64m;
            apikey_admin;
        }

        location /read/ {
            apikey_admin;

            limit_except GET {
                deny all;
            }
        }

        location /allow/ {
            allow 192.0.2.1;
            deny all;
            apikey_admin;
        }

        location /either/ {
            satisfy any;
            allow 127.0.0.1;
            deny all;
            auth_basic "admin";
            auth_basic_user_file %%DIR%%/users;
            apikey_admin;
        }

        location /write/ {
            apikey_admin;

            limit_except GET {
                allow all;
            }
        }

        location /basic/ {
            auth_basic "admin";
            auth_basic_user_file %%DIR%%/users;
            apikey_admin;
        }

        location /inner/ {
            rewrite ^/inner/(.*) /plain/$1 last;
        }

        location /sub/ {
            auth_request /plain/whoami;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /file/ {
            client_body_in_file_only clean;
            apikey_admin;
        }

        location /mirrored/ {
            mirror /copy;
            apikey_admin;
        }

        location /unmirrored/ {
            mirror /copy;
            mirror_request_body off;
            apikey_admin;
        }

        location = /copy {
            internal;
            return 204;
        }

        location /if/ {
            apikey_admin;

            if ($arg_stop) {
                return 418;
            }

            if ($arg_days) {
                add_header X-If yes;
            }
        }
    }
EOT

open my $users, '>', $n->dir . '/users';
print $users "me:{PLAIN}word\n";
close $users;

my @json = ('Content-Type' => 'application/json');
my $token = $t->token;
my $other = $n->port('other');


sub problem {
    my ($r, $status, $code, $what) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code",
       $what // "$status $code");
    is($r->{headers}{'content-type'}, 'application/problem+json',
       '... as a problem');
    is($r->{headers}{'cache-control'}, 'no-store', '... no-store');
}


# "location code" of every wrong field.

sub wrong {
    return join ', ', map { "$_->{location} $_->{code}" }
                      @{(eval { json($_[0]) } // {})->{errors} // []};
}


sub keys_stored {
    return $t->postgres->value('SELECT count(*) FROM apikey.key');
}


# A request to the second server, as the operator.

sub other {
    my ($method, $uri, %opt) = @_;

    my $headers = delete $opt{headers} // [];

    return Apikey::Http->new(port => $other)->request($method, $uri,
        headers => [ Authorization => "Bearer $token", @$headers ], %opt);
}


sub raw {
    my ($method, $path, @headers) = @_;

    return $n->request($method, "/api/v1/$path", headers => [ @headers ]);
}


subtest 'credentials' => sub {
    my $k = $t->key(name => 'one', owner => 'user_1');
    my $limited = $t->key(limits => [{ name => 'none', limit => 0,
                                       window => '1h' }]);
    my %bad = (
        disabled => $t->key(enabled => 0),
        expired  => $t->key(expires_at => '2001-01-01'),
        revoked  => $t->key(revoked => 1),
        unknown  => { key => plain_key('sk') },
        'bad CRC' => { key => substr($k->{key}, 0, -1) . '!' },
        short    => { key => 'abc' },
        long     => { key => 'x' x 600 },
        'very long' => { key => 'x' x 7000 },
        '8-bit'  => { key => "\xff\x80" x 20 },
    );
    my $away = $t->key(allowed_ips => ['192.0.2.0/24']);

    $t->sync;

    my $r = raw('GET', 'whoami');

    problem($r, 401, 'missing_credential');
    is($r->{headers}{'www-authenticate'},
       'Bearer realm="api", ApiKey realm="api"', 'WWW-Authenticate');

    is(raw('GET', 'whoami', Authorization => "Bearer $token")->{status}, 200,
       'a token as Bearer');
    is(raw('GET', 'whoami', Authorization => "bearer   $token")->{status},
       200, 'the scheme in any case');
    is(raw('GET', 'whoami', Authorization => "Bearer $k->{key}")->{status},
       200, 'a key as Bearer');
    is(raw('GET', 'whoami', 'X-API-Key' => $k->{key})->{status}, 200,
       'a key as X-API-Key');
    is(raw('GET', 'whoami', 'x-api-key' => $limited->{key})->{status}, 200,
       'a key whose limit is spent');

    problem(raw('GET', 'whoami', Authorization => "Bearer $token",
                'X-API-Key' => $k->{key}), 400, 'invalid_request', 'both');
    problem(raw('GET', 'whoami', 'X-API-Key' => $k->{key},
                'X-API-Key' => $k->{key}), 400, 'invalid_request', 'twice');
    problem(raw('GET', 'whoami', 'X-API-Key' => ''), 401,
            'missing_credential', 'empty');
    is(raw('GET', 'whoami', 'X-API-Key' => $k->{key}, 'X-API-Key' => '')
           ->{status}, 200, 'an empty one beside a key');
    problem(raw('GET', 'whoami', Authorization => 'Bearer '), 401,
            'missing_credential', 'empty Bearer');
    problem(raw('GET', 'whoami', Authorization => "Basic abcd"), 401,
            'missing_credential', 'another scheme');

    for my $what (sort keys %bad) {
        problem(raw('GET', 'whoami', 'X-API-Key' => $bad{$what}{key}), 401,
                'invalid_credential', $what);
    }

    is(raw('GET', 'whoami', (map { ("X-$_" => 'y') } 1 .. 200),
           'X-API-Key' => $k->{key})->{status}, 200, '200 headers');
    problem(raw('GET', 'whoami', 'X-API-Key' => $away->{key}), 403,
            'forbidden', 'a key of another address');
    problem(raw('GET', 'whoami', Authorization => 'Bearer ' . plain_key('op')),
            401, 'invalid_credential', 'an unknown token');

    # a change that no node has heard of yet

    $t->postgres->run("BEGIN; SET LOCAL session_replication_role = replica;
        UPDATE apikey.key SET enabled = false WHERE id = '$limited->{id}';
        COMMIT;");

    $r = raw('GET', 'whoami', 'X-API-Key' => $limited->{key});
    problem($r, 401, 'invalid_credential', 'disabled a moment ago');
    is($r->{headers}{'www-authenticate'},
       'Bearer realm="api", ApiKey realm="api"', 'WWW-Authenticate');

    cmp_ok($n->metric('apikey_credential_failures_total',
                      reason => 'operator'), '>=', 2, 'counted');

    my $basic = 'Basic ' . encode_base64('me:word', '');
    my $conn = Apikey::Http->new(port => $other);

    $r = $conn->request('GET', '/basic/whoami', headers => [
        Authorization => $basic, 'X-API-Key' => $k->{key} ]);
    is($r->{status}, 200, 'behind auth_basic');

    $n->write_tokens;
    unlike($n->log_text, qr/\Q$k->{key}\E|\Q$token\E/, 'nothing in the log');
};


subtest 'methods' => sub {
    my $k = $t->key;

    for my $case ([ 'PUT', 'api-keys', 'GET, HEAD, POST, OPTIONS' ],
                  [ 'POST', "api-keys/$k->{id}",
                    'GET, HEAD, PUT, PATCH, DELETE, OPTIONS' ],
                  [ 'DELETE', 'whoami', 'GET, HEAD, OPTIONS' ],
                  [ 'GET', "api-keys/$k->{id}/rotate", 'POST, OPTIONS' ],
                  [ 'BREW', 'usage/summary', 'GET, HEAD, OPTIONS' ])
    {
        my ($method, $path, $allow) = @$case;
        my $r = $n->admin($method, $path);

        problem($r, 405, 'method_not_allowed', "$method $path");
        is($r->{headers}{allow}, $allow, 'Allow');

        $r = raw('OPTIONS', $path);
        is($r->{status}, 204, "OPTIONS $path");
        is($r->{headers}{allow}, $allow, 'Allow');
        is($r->{headers}{'cache-control'}, 'no-store', 'no-store');
    }

    for my $path ('', 'nothing', 'api-keys/', "api-keys/$k->{id}/",
                  'api-keys/a/b', 'x/' x 20, 'API-KEYS')
    {
        problem($n->admin('GET', $path), 404, 'not_found', "/$path");
    }

    problem($n->admin('POST', "api-keys/$k->{id}/credits",
                      body => { add => '1.00' }),
            409, 'conflict', 'there are no credits');

    my $get = $n->admin('GET', "api-keys/$k->{id}");
    my $head = $n->admin('HEAD', "api-keys/$k->{id}");

    is($head->{status}, 200, 'HEAD');
    is($head->{body}, '', 'has no body');
    is($head->{headers}{$_}, $get->{headers}{$_}, "HEAD: $_")
        for qw(content-length content-type etag cache-control);
    is($n->admin('HEAD', 'api-keys/none')->{status}, 404, 'HEAD: 404');
    is(raw('HEAD', 'whoami')->{status}, 401, 'HEAD: 401');
};


subtest 'bodies' => sub {
    my $before = keys_stored();
    my $big = '{"name": "' . 'x' x (5 * 1024 * 1024) . '"}';

    my $post = sub {
        my ($body, %opt) = @_;
        my $type = $opt{type} // 'application/json';
        return $n->admin('POST', 'api-keys', body => $body,
            headers => [ ($type ? ('Content-Type' => $type) : ()),
                         @{$opt{headers} // []} ],
            chunked => $opt{chunked});
    };

    problem($post->($big), 413, 'too_large', '5 MB');
    problem($post->($big, chunked => 1), 413, 'too_large', '5 MB, chunked');
    problem($post->($big, headers => [ Expect => '100-continue' ]), 413,
            'too_large', '5 MB, Expect: 100-continue');

    problem($post->('{"name": "x"}', type => $_), 415,
            'unsupported_media_type', $_ || 'no type')
        for 'text/plain', 'application/x-www-form-urlencoded',
            'application/jsonx', '';
    problem($post->('{"name": "x"}', headers => [ 'Content-Encoding'
                                                  => 'gzip' ]),
            415, 'unsupported_media_type', 'compressed');

    my %broken = (
        'no JSON'       => '{"name": ',
        'a NUL byte'    => "{\"name\": \"a\0b\"}",
        'a NUL escape'  => '{"name": "a\u0000b"}',
        'a surrogate'   => '{"name": "\ud800"}',
        'not UTF-8'     => "{\"name\": \"\xff\xfe\"}",
        'overlong'      => "{\"name\": \"\xc0\x80\"}",
        'cut UTF-8'     => "{\"name\": \"\xe2\x82\"}",
        'an array'      => '[1, 2]',
        'a string'      => '"x"',
        'null'          => 'null',
        'nothing'       => '',
        'blanks'        => "  \n",
        'a name twice'  => '{"name": "a", "name": "b"}',
        'deep nesting'  => '{"metadata": ' . '[' x 100000,
        'a great number' => '{"name": "x", "metadata": {"a": 1e400000}}',
        'name 1e400'    => '{"name": 1e400}',
        'more behind'   => '{"name": "x"} {}',
        'a comment'     => '{"name": "x"} // no',
        'NaN'           => '{"name": "x", "metadata": {"a": NaN}}',
        'name too long' => '{"name": "' . 'x' x 256 . '"}',
        'great metadata' => '{"name": "x", "metadata": {"a": "'
                            . 'x' x 9000 . '"}}',
    );

    my %inside = (
        'a name twice'   => qr{^/name duplicate\z},
        'a great number' => qr{^ out_of_range\z},
        'name 1e400'     => qr{^/name bad_type\z},
        'name too long'  => qr{^/name bad_length\z},
        'great metadata' => qr{^/metadata bad_length\z},
    );

    for my $what (sort keys %broken) {
        my $r = $post->($broken{$what});

        problem($r, 400, 'invalid_request', $what);
        like(wrong($r), $inside{$what} // qr/^ (bad_\w+|required|out_of_range)\z/,
             '... and where');
    }

    is(keys_stored(), $before, 'nothing stored');
    is(wrong($n->request('GET', '/api/v1/whoami', body => '{}',
        headers => [ Authorization => "Bearer $token" ])), ' unknown',
       'where there is no body');

    my $r = $post->('{"name": "@SECRET@", "owner": "@SECRET@"}');
    is($r->{status}, 201, 'a name like the placeholder');
    is(json($r)->{name}, '@SECRET@', 'stays as it is');
    like(json($r)->{key}, qr/^sk_/, 'and the key is in its place');

    $r = $post->(qq({"name": "\\ud83d\\ude00 \xc3\xa9"}));
    is($r->{status}, 201, 'UTF-8 and escapes');
    is(json($r)->{name}, "\x{1f600} \x{e9}", 'as sent');

    is($post->('{"name": "x"}', type => $_)->{status}, 201, $_)
        for 'application/json; charset=utf-8', 'Application/JSON;charset=x',
            'application/json ; q=1';
    is($post->('{"name": "x"}', chunked => 1)->{status}, 201, 'chunked');
    is($post->('{"name": "x"}', headers => [ Expect => '100-continue' ])
           ->{status}, 201, 'Expect: 100-continue');

    my $large = '{"name": "x"' . ' ' x 1040000 . '}';
    is($post->($large)->{status}, 201, 'just below 1 MiB');
    is($post->($large, chunked => 1)->{status}, 201, '... chunked');

    my $conn = $n->conn;
    my $request = Apikey::Http::build('POST', '/api/v1/api-keys',
        headers => [ Authorization => "Bearer $token", @json ],
        body => '{"name": "slow"}');
    $conn->send($request, piece => 1);
    is($conn->response->{status}, 201, 'byte by byte');

    problem($n->admin('GET', 'whoami', body => '{}', headers => [ @json ]),
            400, 'invalid_request', 'GET with a body');
    problem($n->admin('DELETE', 'api-keys/x', body => '{}',
                      headers => [ @json ]),
            400, 'invalid_request', 'DELETE with a body');

    $r = other('POST', '/small/api-keys', headers => [ @json ],
               body => '{"name": "' . 'x' x 2000 . '"}');
    problem($r, 413, 'too_large', 'client_max_body_size 1k');
    $r = other('POST', '/small/api-keys', headers => [ @json ], chunked => 1,
               body => '{"name": "' . 'x' x 2000 . '"}');
    problem($r, 413, 'too_large', '... chunked');
    problem(other('POST', '/large/api-keys', headers => [ @json ],
                  body => $big), 413, 'too_large', 'client_max_body_size 64m');

    my $stop = $n->conn;
    $stop->send("POST /api/v1/api-keys HTTP/1.1\r\nHost: x\r\n"
        . "Authorization: Bearer $token\r\nContent-Length: 100\r\n"
        . "Content-Type: application/json\r\n\r\n{\"name\"");
    $stop->abort;
    is($n->admin('GET', 'whoami')->{status}, 200, 'a client that stops');
};


subtest 'paths and queries' => sub {
    my $k = $t->key(name => 'in path', owner => 'a/b');

    $n->admin('PUT', 'owners/x%2Fy', body => {});

    is($n->admin('GET', $_)->{status}, 200, $_)
        for 'owners/x%2Fy', 'owners/%78%2fy', '%6fwners/x%2Fy', "api-keys//$k->{id}", "a/../api-keys/$k->{id}",
            "api-keys/\U$k->{id}";
    is($n->admin('GET', 'owners/x/y')->{status}, 404, 'owners/x/y');
    is($n->request('GET', '/%61pi/v1/owners/x%2Fy',
                   headers => [ Authorization => "Bearer $token" ])
           ->{status}, 200, 'an encoded location');

    problem($n->admin('GET', 'owners/%FF'), 400, 'invalid_request',
            'a path that is not UTF-8');
    is($n->admin('GET', 'owners/a%00b')->{status}, 400, 'NUL in a path');
    problem($n->admin('GET', 'api-keys?q=%00'), 400, 'invalid_request',
            'NUL in a query');

    my $r = $n->admin('GET', 'api-keys?q=%FF');
    problem($r, 400, 'invalid_request', 'a query that is not UTF-8');
    is(json($r)->{errors}[0]{location}, 'query:q', 'its location');

    $r = $n->admin('GET', 'api-keys?%22%5C=1&limit=1&limit=2');
    is_deeply([ sort map { "$_->{location} $_->{code}" }
                @{json($r)->{errors}} ],
              [ 'query:"\\ unknown', 'query:limit duplicate' ],
              'unknown and duplicate members');

    problem($n->admin('GET', 'api-keys?' . join('&', map { "a$_=1" }
                                                1 .. 200)),
            400, 'invalid_request', '200 members');
    is(wrong($n->admin('GET', 'api-keys?' . join('&', map { "a$_=1" }
                                                      1 .. 200))),
       'query: too_many', 'which says where');
    is(wrong($n->admin('GET', "$_?b&a=1")), 'query:b unknown, query:a unknown',
       "$_ takes no query") for 'health', 'openapi.json';
    is($n->admin('GET', 'api-keys?&&limit=1&')->{status}, 200,
       'empty members are none');
    is(@{json($n->admin('GET', 'api-keys?q=in+path'))->{data}}, 1, '+');
    is(@{json($n->admin('GET', 'api-keys?q=in%20path'))->{data}}, 1, '%20');
};


subtest 'headers' => sub {
    for my $name ('Content-Type', 'If-Match', 'Idempotency-Key') {
        my @value = ($name eq 'Content-Type') ? 'application/json' : 'a';
        my @type = ($name eq 'Content-Type') ? () : @json;

        my $r = $n->admin('POST', 'api-keys', body => '{"name": "x"}',
                          headers => [ @type, ($name => $value[0]) x 2 ]);

        is($r->{status}, 400, "$name twice");

        # nginx sees to the others itself, depending on its version

        if ($name eq 'Idempotency-Key') {
            problem($r, 400, 'invalid_request');
            is_deeply([ map { "$_->{location} $_->{code}" }
                        @{json($r)->{errors}} ],
                      [ "header:$name duplicate" ], '... is named');
        }

        $r = $n->admin('POST', 'api-keys', body => '{"name": "x"}',
                       headers => [ @type, $name => "a\xff" ]);
        problem($r, 400, 'invalid_request', "$name that is not UTF-8");
    }
};


subtest 'locations' => sub {
    is(other('GET', '/plain/whoami')->{status}, 200, 'without a slash');
    is(other('GET', '/plain')->{status}, 404, 'the location itself');
    is(other('GET', '/plainwhoami')->{status}, 404, 'another path');
    is(other('GET', '/exact/whoami')->{status}, 200, 'an exact location');
    is(other('GET', '/inner/whoami')->{status}, 200, 'after a rewrite');

    my $r = other('PUT', '/plain/owners/a%20b', body => '{}',
                  headers => [ @json ]);
    is($r->{headers}{location}, '/plain/owners/a%20b', 'its Location');

    is(other('GET', '/read/whoami')->{status}, 200, 'limit_except: GET');
    is(other('POST', '/read/api-keys', body => '{"name": "x"}',
             headers => [ @json ])->{status}, 403, 'limit_except: POST');
    is(other('POST', '/write/api-keys', body => '{"name": "x"}',
             headers => [ @json ])->{status}, 201, 'limit_except: allowed');
    is(other('GET', '/allow/whoami')->{status}, 403, 'deny');
    is(other('GET', '/either/whoami')->{status}, 200, 'satisfy any: by address');
    is(Apikey::Http->new(port => $other)->request('GET', '/either/whoami')
           ->{status}, 401, 'satisfy any lets nobody in without a credential');
    is(other('GET', '/basic/whoami')->{status}, 401,
       'a token does not satisfy auth_basic');
    is(other('GET', '/sub/whoami')->{status}, 403, 'no subrequests');
    is(other('GET', '/if/whoami')->{status}, 200, 'with an if');
    is(other('GET', '/if/whoami?stop=1')->{status}, 418, 'in the if');

    my $k = $t->key;
    is(other('GET', "/if/usage/summary?key=$k->{id}&days=3")->{status}, 200,
       'an if that is true');
};


# A body holds keys: it is never in a file, whoever would put it there.

subtest 'no body on the disk' => sub {
    my %body = (
        'api-keys'        => [ '{"name": "%s"}', 201 ],
        'api-keys/import' => [ '[{"name": "%s", "hash": "' . 'a1' x 32
                               . '"}]', 200 ],
    );

    for my $path (sort keys %body) {
        my ($form, $status) = @{$body{$path}};

        for my $size (4, 200) {
            my $body = sprintf($form, 'n' x $size) . ' ' x (20 * $size);

            is(other('POST', "/$_/$path", headers => [ @json ],
                     body => $body)->{status}, $status, "$_, $path, $size")
                for 'file', 'unmirrored';

            my $r = $n->h2->request('POST', "/file/$path", body => $body,
                headers => [ authorization => "Bearer $token",
                             'content-type' => 'application/json' ]);
            is($r->{status}, $status, "file, $path, $size, HTTP/2");
        }

        my $r = other('POST', "/mirrored/$path", headers => [ @json ],
                      body => sprintf($form, 'n') . ' ' x 4000);
        problem($r, 500, 'internal', "mirrored: $path");
    }

    ok($n->wait_log(qr/another module has written the body to a file/),
       'it is said why');
};


subtest 'connections' => sub {
    my @headers = (headers => [ Authorization => "Bearer $token" ]);
    my $conn = $n->conn;

    is($conn->request('GET', '/api/v1/whoami', @headers)->{status}, 200,
       "keep-alive $_") for 1 .. 3;
    is($conn->request('POST', '/api/v1/api-keys', body => '{"name": "x"}',
        headers => [ Authorization => "Bearer $token", @json ])->{status},
        201, 'a body');
    is($conn->request('POST', '/api/v1/api-keys', body => '{"name": "x"}')
           ->{status}, 401, 'a body that is not read');
    is($conn->request('GET', '/api/v1/whoami', @headers)->{status}, 200,
       'still alive');

    my $one = Apikey::Http::build('POST', '/api/v1/api-keys',
        headers => [ Authorization => "Bearer $token", @json ],
        body => '{"name": "piped"}');
    my $two = Apikey::Http::build('GET', '/api/v1/whoami', @headers);

    $conn->send($one . $two . $one . $two);
    is(join(' ', map { $conn->response->{status} } 1 .. 4),
       '201 200 201 200', 'pipelined');

    my $h2 = $n->h2;

    @headers = (headers => [ authorization => "Bearer $token" ]);

    my $r = $h2->request('GET', '/whoami', @headers);
    is($r->{status}, 200, 'HTTP/2');
    is(json($r)->{operator}, 'tester', '... body');

    $r = $h2->request('POST', '/api-keys', body => '{"name": "x"}',
        headers => [ authorization => "Bearer $token",
                     'content-type' => 'application/json' ]);
    is($r->{status}, 201, '... POST');
    like(json($r)->{key}, qr/^sk_/, '... with a key');

    my $id = $h2->open('POST', '/api-keys', end => 0,
        headers => [ authorization => "Bearer $token",
                     'content-type' => 'application/json' ]);
    $h2->data($id, '{"name": ');
    $h2->data($id, '"' . 'x' x 200 . '"}', end => 1);
    is($h2->response($id)->{status}, 201, '... in pieces, without a length');

    my @ids = map { $h2->open('GET', '/whoami', @headers) } 1 .. 20;
    $h2->reset($ids[$_]) for 3, 7;
    is(join(' ', map { $h2->response($_)->{status} } @ids[0 .. 2, 8 .. 19]),
       join(' ', (200) x 15), '... many streams, some reset');
};


subtest 'nginx -t' => sub {
    my %wrong = (
        'location ~ ^/api/ { apikey_admin; }' => qr/regular expression/,
        'location @api { apikey_admin; }'     => qr/location with a prefix/,
        'location /a/ { apikey_admin; apikey_admin; }' => qr/duplicate/,
        'location /a/ { apikey_admin; apikey_metrics; }'
            => qr/apikey_metrics.*cannot share a location/,
        'location /a/ { apikey_admin; apikey required; }'
            => qr/"apikey" must be off/,
        'location /a/ { apikey required; apikey_health; }'
            => qr/"apikey" must be off/,
        'location /a/ { apikey_metrics on; }'
            => qr/invalid number of arguments in "apikey_metrics"/,
        'apikey_admin;' => qr/"apikey_admin" directive is not allowed here/,
    );

    $t->allow(qr/\[emerg\].*"apikey/);

    for my $server (sort keys %wrong) {
        my ($ok, $says) = $t->nginx(name => 'wrong', server => $server)->check;

        ok(!$ok, $server);
        like($says, $wrong{$server}, 'says why');
    }

    my ($ok, $says) = $t->nginx(name => 'right', server => <<'EOT')->check;
        apikey required;
        location /a/ { apikey_admin; apikey off; }
        location /b/ { apikey_metrics; }
        location /c { apikey_health; }
EOT
    ok($ok, 'apikey_admin below apikey required') or diag($says);
};


$t->done;
