# Callers of the admin API whom nginx has authenticated: auth_basic, client
# certificates, when they do not count, and requests that other sites cause.

use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use Test::More;
use Apikey::Test qw(json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $dir = $t->dir;


# Certificates: a CA, the server's, ada's, and one of ada's by nobody we know.

sub openssl {
    my (@args) = @_;

    system("openssl @args > $dir/openssl.log 2>&1") == 0
        or die "openssl @args: " . `cat $dir/openssl.log`;
}

my @new = ('-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2');

openssl("req -x509 @new -subj '/CN=CA' -keyout $dir/ca.key -out $dir/ca.crt");
openssl("req -x509 @new -subj '/CN=ada' -keyout $dir/rogue.key"
        . " -out $dir/rogue.crt");

for my $cert ([ 'server', '/CN=localhost' ], [ 'ada', '/O=Ltd/CN=ada' ],
              [ 'nobody', '/O=Ltd' ])
{
    my ($name, $subject) = @$cert;

    openssl("req @new -subj '$subject' -keyout $dir/$name.key"
            . " -out $dir/$name.csr");
    openssl("x509 -req -in $dir/$name.csr -CA $dir/ca.crt -CAkey $dir/ca.key"
            . " -CAcreateserial -days 2 -out $dir/$name.crt");
}


my $n = $t->nginx(http => <<"EOT");
    map \$remote_user \$operator {
        root     root;
        default  "";
    }

    map \$arg_realm \$realm {
        off      off;
        default  keys;
    }

    map \$ssl_client_s_dn \$owner {
        ~(^|,)CN=(?<cn>[^,]+)  \$cn;
        default                "";
    }

    map \$ssl_client_s_dn \$cert_operator {
        ~CN=ada  ada;
        default  "";
    }

    auth_basic_user_file $dir/users;

    server {
        listen 127.0.0.1:%%PORT_basic%%;
        listen 127.0.0.1:%%PORT_h2%% http2;

        location /id/ {
            auth_basic keys;
            apikey_admin identity=\$remote_user operator=\$operator;
        }

        location /var/ {
            auth_basic \$realm;
            apikey_admin identity=\$remote_user operator=\$operator;
        }

        location /open/ {
            apikey_admin identity=\$remote_user operator=\$operator;
        }

        location /off/ {
            auth_basic off;
            apikey_admin identity=\$remote_user operator=\$operator;
        }

        location /any/ {
            satisfy any;
            allow all;
            auth_basic keys;
            apikey_admin identity=\$remote_user operator=\$operator;
        }

        location /mapped/ {
            apikey_admin operator=\$operator;
        }

        location /upper/ {
            apikey_admin operator=\${REMOTE_USER};
        }

        location /except/ {
            auth_basic keys;
            apikey_admin operator=\$operator;

            limit_except GET {
                auth_basic off;
            }
        }

        location /set/ {
            set \$me root;
            apikey_admin operator=\$me;
        }

        location /asked/ {
            auth_request /who;
            auth_request_set \$asked \$upstream_http_x_who;
            apikey_admin identity=\$asked operator=\$asked;
        }

        location = /who {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_who%%;
        }

        location /denied/ {
            deny all;
            apikey_admin operator=\$remote_user;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_who%%;

        location / {
            add_header X-Who \$http_x_session;
            return 204;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_tls%% ssl;
        ssl_certificate $dir/server.crt;
        ssl_certificate_key $dir/server.key;
        ssl_client_certificate $dir/ca.crt;
        ssl_verify_client optional_no_ca;

        location /id/ {
            apikey_admin identity=\$owner;
        }

        location /dn/ {
            apikey_admin operator=\$ssl_client_s_dn;
        }

        location /mapped/ {
            apikey_admin operator=\$cert_operator;
        }

        location /both/ {
            auth_basic keys;
            apikey_admin operator=\$remote_user;
        }
    }
EOT

open my $users, '>', "$dir/users" or die "users: $!\n";
print $users "$_:{PLAIN}word\n" for 'root', 'bob', 'x' x 255, 'y' x 256;
close $users;

$n->start;

my $port = $n->port('basic');
my @json = ('Content-Type' => 'application/json');


# As a user of auth_basic ('' for none).

sub as {
    my ($user, $method, $path, %opt) = @_;

    my @headers = @{delete $opt{headers} // []};

    push @headers, @json if defined $opt{body};
    push @headers, Authorization => 'Basic '
                   . encode_base64("$user:word", '') if $user ne '';

    return Apikey::Http->new(port => $port)->request($method, $path, %opt,
        headers => \@headers);
}


# Over TLS, with a certificate ('' for none).

sub tls {
    my ($cert, $method, $path, @headers) = @_;

    my @args = ('-s', '-i', '-X', $method, '--cacert', "$dir/ca.crt",
                '--http1.1');

    push @args, '--cert', "$dir/$cert.crt", '--key', "$dir/$cert.key"
        if $cert;
    push @args, '-d', '{"name": "x"}', '-H', 'Content-Type: application/json'
        if $method eq 'POST';
    push @args, map { ('-H', $_) } @headers;

    open my $curl, '-|', 'curl', @args,
        'https://localhost:' . $n->port('tls') . $path or die "curl: $!\n";

    my $text = do { local $/; <$curl> };
    my ($head, $body) = split /\r\n\r\n/, $text, 2;

    return { status => $head =~ m{^HTTP/\S+ (\d+)} ? $1 : 0, body => $body,
             headers => {} };
}


sub problem {
    my ($r, $status, $code, $what) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code", $what);
}


sub operator {
    my ($r, $name, $what) = @_;

    my $me = eval { json($r) } // {};

    is(join(' ', $r->{status}, $me->{caller} // '', $me->{operator} // ''),
       "200 operator $name", $what);
}


sub owner {
    my ($r, $name, $what) = @_;

    my $me = eval { json($r) } // {};

    is(join(' ', $r->{status}, $me->{caller} // '', $me->{owner} // ''),
       "200 owner $name", $what);
}


subtest 'auth_basic' => sub {
    operator(as('root', 'GET', '/id/whoami'), 'root', 'an operator');
    owner(as('bob', 'GET', '/id/whoami'), 'bob', 'an owner');
    operator(as('root', 'GET', '/var/whoami'), 'root', 'a realm by variable');
    operator(as('', 'GET', '/set/whoami'), 'root', 'a variable of ours');

    is(as('nobody', 'GET', '/id/whoami')->{status}, 401, 'an unknown user');
    is(as('', 'GET', '/id/whoami')->{status}, 401, 'no user');
    is(as('root', 'GET', '/denied/whoami')->{status}, 403, 'deny holds');

    owner(as('x' x 255, 'GET', '/id/whoami'), 'x' x 255, '255 characters');
    problem(as('y' x 256, 'GET', '/id/whoami'), 403, 'forbidden',
            '256 characters');

    my $r = as('root', 'GET', '/id/health');
    ok(exists json($r)->{node}, 'health: all of it for an operator');
    $r = as('', 'GET', '/open/health');
    is_deeply([ sort keys %{json($r)} ], [qw(ready status)],
              'health: less for nobody');
};


subtest 'what an owner does' => sub {
    my $make = sub {
        my ($user, $body) = @_;

        return as($user, 'POST', '/id/api-keys', body => $body,
                  headers => [ 'X-Apikey-Csrf' => 1 ]);
    };

    problem($make->('bob', '{"name": "early"}'), 403, 'forbidden',
            'nothing before an operator knows it');
    is(as('root', 'PUT', '/id/owners/bob', body => '{}',
          headers => [ 'X-Apikey-Csrf' => 1 ])->{status}, 201, 'one does');

    my $k = json($make->('bob', '{"name": "mine"}'));

    is($k->{owner}, 'bob', 'its key is its own');
    is($n->get('/', key => $k->{key})->{status}, 200, 'and passes');

    is_deeply([ map { $_->{id} } @{json(as('bob', 'GET', '/id/api-keys'))
                                       ->{data}} ], [ $k->{id} ],
              'it sees its keys');
    is_deeply(json(as('x' x 255, 'GET', '/id/api-keys'))->{data}, [],
              'another owner does not');
    problem(as('x' x 255, 'GET', "/id/api-keys/$k->{id}"), 404, 'not_found',
            '... nor by id');
    is(as('root', 'GET', "/id/api-keys/$k->{id}")->{status}, 200,
       'an operator does');

    problem($make->('bob', '{"name": "x", "owner": "root"}'), 403,
            'forbidden', 'none for others');
    is(as('bob', 'GET', '/id/owners')->{status}, 403, 'no list of owners');

    my $manage = json($make->('root', '{"name": "manager", "owner": "bob",
                                        "scopes": ["apikey:manage"]}'));
    my $r = $n->admin('GET', 'whoami', as => $manage->{key});

    owner($r, 'bob', 'a key with apikey:manage is its owner, too');
    is(scalar @{json($n->admin('GET', 'api-keys', as => $manage->{key}))
                    ->{data}}, 2, '... and sees the same');
};


# Nobody has checked the name: everybody could be root.

subtest 'a name that does not count' => sub {
    for my $place ('open', 'off', 'any', 'mapped', 'upper') {
        for my $user ('root', 'bob') {
            problem(as($user, 'GET', "/$place/whoami"), 401,
                    'missing_credential', "/$place/ as $user");
        }
        problem(as('', 'GET', "/$place/whoami"), 401, 'missing_credential',
                "/$place/ as nobody");
    }

    problem(as('root', 'GET', '/var/whoami?realm=off'), 401,
            'missing_credential', 'realm off by variable');
    problem(as('root', 'POST', '/except/api-keys', body => '{"name": "x"}',
               headers => [ 'X-Apikey-Csrf' => 1 ]), 401,
            'missing_credential', 'auth_basic off in limit_except');
    operator(as('root', 'GET', '/except/whoami'), 'root', 'on outside of it');

    $n->wait_log(qr/"\$remote_user" does not count without auth_basic/);
    $n->wait_log(qr/"\$operator" does not count without auth_basic/);
};


subtest 'auth_request' => sub {
    operator(as('', 'GET', '/asked/whoami', headers => [
        'X-Session' => 'ada' ]), 'ada', 'who it says');
    problem(as('', 'GET', '/asked/whoami'), 401, 'missing_credential',
            'nobody');
    problem(as('', 'GET', '/asked/whoami', headers => [
        'X-Session' => "a\xff" ]), 403, 'forbidden', 'not UTF-8');
    problem(as('', 'GET', '/asked/whoami', headers => [
        'X-Session' => "a\tb" ]), 403, 'forbidden', 'a control character');
};


subtest 'a credential beside it' => sub {
    my $k = $t->key(name => 'own', owner => 'user_1');
    $t->sync;

    my $with = sub { return as('bob', 'GET', '/id/whoami', headers => [ @_ ]) };

    my $r = $with->('X-API-Key' => $k->{key});
    is(json($r)->{caller}, 'key', 'a key decides');
    is(json($r)->{key}{id}, $k->{id}, 'it is this one');

    operator($with->('X-API-Key' => $t->token), 'tester', 'a token, too');
    problem($with->('X-API-Key' => 'x' x 40), 401, 'invalid_credential',
            'a wrong one is not passed over');
    is(as('', 'GET', '/set/whoami', headers => [
           map { (Authorization => "Bearer $_") } $t->token, $k->{key} ])
           ->{status}, 400, 'two Bearer');

    $r = as('root', 'POST', '/id/api-keys', body => '{"name": "x"}',
            headers => [ 'X-API-Key' => $t->token ]);
    is($r->{status}, 201, 'no other site can send it: a change is made');
};


subtest 'requests that other sites cause' => sub {
    my $change = sub {
        my ($method, @headers) = @_;

        my ($path, %opt) = $method eq 'POST'
            ? ('api-keys', body => '{"name": "x"}') : ('api-keys/none');

        return as('root', $method, "/id/$path", %opt,
                  headers => [ @headers ]);
    };

    my $count = $pg->value('SELECT count(*) FROM apikey.key');

    problem($change->($_), 403, 'forbidden', "$_ alone")
        for qw(POST PUT PATCH DELETE);

    my %refused = (
        'Sec-Fetch-Site' => [ 'cross-site', 'same-site', '', 'None' ],
        'X-Apikey-Csrf' => [ '0', '', 'yes', '11' ],
        'Origin' => [ 'null', '', "https://localhost:$port",
            'http://localhost', 'http://localhost:1', "localhost:$port",
            "http://localhost:$port.example.com", "http://x.localhost:$port",
            "http://localhost:${port}0", "http://localhost:$port/" ],
    );

    for my $name (sort keys %refused) {
        problem($change->('POST', $name => $_, Host => "localhost:$port"),
                403, 'forbidden', "$name: $_") for @{$refused{$name}};
    }

    problem($change->('POST', ('X-Apikey-Csrf' => 1) x 2), 403, 'forbidden',
            'twice');

    is($pg->value('SELECT count(*) FROM apikey.key'), $count, 'none made');

    my @passed = (
        [ 'Sec-Fetch-Site' => 'same-origin' ],
        [ 'Sec-Fetch-Site' => 'none' ],
        [ 'X-Apikey-Csrf' => 1 ],
        [ Origin => "http://localhost:$port", Host => "localhost:$port" ],
        [ Origin => "http://LOCALHOST:$port", Host => "localhost:$port" ],
        [ Origin => 'http://localhost', Host => 'localhost' ],
        [ Origin => 'http://localhost:80', Host => 'localhost' ],
        [ Origin => 'http://localhost', Host => 'localhost:80' ],
    );

    is($change->('POST', @$_)->{status}, 201, "@$_") for @passed;

    is($change->('DELETE', 'X-Apikey-Csrf' => 1)->{status}, 404, 'DELETE');
    is(as('root', $_, '/id/whoami', headers => [
           'Sec-Fetch-Site' => 'cross-site' ])->{status}, 200, $_)
        for 'GET', 'HEAD';

    is($pg->value("SELECT actor FROM apikey.audit WHERE actor_kind = 'operator'
                   ORDER BY id DESC LIMIT 1"), 'root', 'the audit names it');

    my $r = $n->h2->request('POST', '/id/api-keys', body => '{"name": "x"}',
        headers => [ 'content-type' => 'application/json',
            authorization => 'Basic ' . encode_base64('root:word', ''),
            origin => 'http://localhost' ]);
    is($r->{status}, 201, 'HTTP/2 knows its origin, too');

    $r = as('', 'OPTIONS', '/open/api-keys', headers => [
        Origin => 'http://evil.example',
        'Access-Control-Request-Method' => 'POST',
        'Access-Control-Request-Headers' => 'x-apikey-csrf' ]);
    is($r->{status}, 204, 'OPTIONS');
    ok(!grep({ /^access-control/ } keys %{$r->{headers}}),
       'allows no other origin anything');

    $r = as('root', 'GET', '/id/whoami', headers => [
        'X-HTTP-Method-Override' => 'DELETE', 'X-Method' => 'DELETE' ]);
    operator($r, 'root', 'no header changes the method');
};


subtest 'client certificates' => sub {
    owner(tls('ada', 'GET', '/id/whoami'), 'ada', 'an owner');
    operator(tls('ada', 'GET', '/dn/whoami'), 'CN=ada,O=Ltd', 'an operator');
    operator(tls('ada', 'GET', '/mapped/whoami'), 'ada', '... by a map');

    for my $place ('id', 'dn', 'mapped') {
        problem(tls('', 'GET', "/$place/whoami"), 401, 'missing_credential',
                "/$place/ without");
        problem(tls('rogue', 'GET', "/$place/whoami"), 401,
                'missing_credential', "/$place/ with one of nobody's");
    }

    problem(tls('nobody', 'GET', '/id/whoami'), 401, 'missing_credential',
            'one that names nobody');
    $n->wait_log(qr/"\$\w+" does not count: the client's certificate/);

    problem(tls('ada', 'POST', '/dn/api-keys'), 403, 'forbidden', 'a change');
    is(tls('ada', 'POST', '/dn/api-keys', 'Origin: https://localhost:'
           . $n->port('tls'))->{status}, 201, '... of its own site');
    problem(tls('ada', 'POST', '/dn/api-keys', 'Origin: http://localhost:'
           . $n->port('tls')), 403, 'forbidden', '... of one without TLS');
    is(tls('', 'GET', '/dn/whoami', "X-API-Key: " . $t->token)->{status}, 200,
       'a token instead');
    operator(tls('rogue', 'GET', '/both/whoami', 'Authorization: Basic '
             . encode_base64('root:word', '')), 'root',
             'auth_basic vouches for a user whatever certificate there is');
};


$t->done;
