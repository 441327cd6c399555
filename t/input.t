# Bad input: a clear 4xx, nothing stored, no worker exits.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $key = $t->key(name => 'one', limits => [
    { name => 'hourly', limit => 100000, window => '1h' } ]);
my $k = $key->{key};

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    large_client_header_buffers 16 64k;
    apikey_source header:X-API-Key bearer query:key cookie:key;

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;

my ($worker) = $n->workers;


sub says {
    my ($r, $status, $code, $name) = @_;

    my $j = eval { json($r) } // {};

    is("$r->{status} " . ($j->{code} // ''), "$status $code", $name)
        or diag($r->{raw});
}


# lengths

for my $length (1, 7, 513, 10_000, 60_000) {
    says($n->get('/', key => 'x' x $length), 401, 'invalid_key',
         "a key of $length bytes");
    says($n->get('/?key=' . 'x' x $length), 401, 'invalid_key',
         "$length bytes in the query");
    says($n->request('GET', '/', headers => [ Authorization => 'Bearer '
         . 'x' x $length ]), 401, 'invalid_key', "$length bytes as bearer");
    says($n->request('GET', '/', headers => [ Cookie => 'key='
         . 'x' x $length ]), 401, 'invalid_key', "$length bytes in a cookie");
}

says($n->get('/?key=' . '%78' x 10_000), 401, 'invalid_key',
     '10,000 bytes encoded');


# bytes

my $all = join '', map { chr } 0x21 .. 0x7e, 0x80 .. 0xff;

says($n->get('/', key => $all), 401, 'invalid_key', 'all bytes but controls');
says($n->get('/', key => "\xff" x 100), 401, 'invalid_key', '8-bit bytes');
says($n->get('/', key => "\xf0\x9f\x94\x91" x 8), 401, 'invalid_key',
     'emoji');
says($n->get('/?key=' . '%00' x 40), 401, 'invalid_key',
     'NUL bytes, encoded');
says($n->get('/?key=' . '%zz' x 40), 401, 'invalid_key', 'broken encoding');
says($n->get("/?key=$k%00"), 401, 'invalid_key', 'a key and a NUL');
says($n->get("/?key=$k%"), 401, 'invalid_key', 'a key and half an escape');
says($n->get("/?key=%20$k"), 401, 'invalid_key', 'a blank and a key');

for my $bytes ("a\0bcdefghijkl", "$k\0") {
    my $c = $n->conn;

    $c->send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: $bytes\r\n\r\n");
    is($c->response->{status}, 400, 'a NUL in a header');
}

is($n->get('/', key => "  $k  ")->{status}, 200, 'blanks around a header');


# odd places

for my $query ('?', '?&', '?&&&', '?=', '?=x', '?key', '?key=', '?&key=&',
               '?key=&key=', '?KEY=' . $k, '?ke=' . $k, '?keyy=' . $k,
               '?%6bey', '?%', '?k%', '?#key=x', '?' . '&' x 5000)
{
    my $name = length $query > 40 ? '5000 times &' : $query;
    $name =~ s/$k/K/;

    says($n->get("/$query"), 401, 'missing_key', "the query $name");
    is($n->get("/optional/$query")->{status}, 200, 'is harmless');
}

says($n->get("/?key=$k=x"), 401, 'invalid_key', 'another = is of the value');
is($n->get("/?key=$k#key=x")->{status}, 200, 'a fragment is not');

for my $cookie ('', ';', ';;;', '=', '=;=', 'key', 'key=', 'key;', ' key = ',
                'Key=' . $k, ';' x 5000)
{
    my $name = length $cookie > 40 ? 'long' : $cookie;
    $name =~ s/$k/K/;

    says($n->request('GET', '/', headers => [ Cookie => $cookie ]), 401,
         'missing_key', "the cookie $name");
    is($n->request('GET', '/optional/', headers => [ Cookie => $cookie ])
         ->{status}, 200, 'is harmless');
}

is($n->request('GET', '/', headers => [ Cookie => " key = $k ;" ])->{status},
   200, 'blanks in a cookie');

for my $auth ('', 'Bearer', 'Bearer ', 'bearer    ', 'Bearerx', "Basic $k",
              $k)
{
    my $name = $auth =~ s/$k/K/r;

    says($n->request('GET', '/', headers => [ Authorization => $auth ]), 401,
         'missing_key', "Authorization: $name");
}

says($n->request('GET', '/', headers => [ Authorization => "Bearer\t$k" ]),
     401, 'missing_key', 'a tab is no blank');


# many

for my $i (200, 900) {
    is($n->request('GET', '/', key => $k, headers => [
        map { ("H$_", 'v') } 1 .. $i ])->{status}, 200, "$i headers");
    says($n->request('GET', '/', headers => [
        map { ('X-API-Key', $k) } 1 .. $i ]), 401, 'duplicate_key',
        "$i keys");
    says($n->request('GET', '/', headers => [
        map { ('Cookie', "key=$k") } 1 .. $i ]), 401, 'duplicate_key',
        "$i cookies");
    is($n->request('GET', '/', key => $k, headers => [
        map { ('X-Request-Id', $_) } 1 .. $i ])->{status}, 200,
        "$i request ids");
}

says($n->get('/?' . join('&', map { "key=$k" } 1 .. 500)), 401,
     'duplicate_key', '500 arguments');


# methods and protocols

is($n->request('TRACE', '/', key => $k)->{status}, 405, 'TRACE');
says($n->request('PURGE', '/'), 401, 'missing_key', 'an unknown method');
is($n->request('PURGE', '/', key => $k)->{status}, 200, 'with a key');

my $c = $n->conn;
$c->send("GET /\r\n");
like($c->rest(5), qr/401|missing_key/, 'HTTP/0.9');

$c = $n->conn;
$c->send("GET / HTTP/1.0\r\nX-API-Key: $k\r\n\r\n");
is($c->response->{status}, 200, 'HTTP/1.0');

$c = $n->conn;
$c->send("GET http://localhost/?key=$k&a=1 HTTP/1.1\r\nHost: a\r\n\r\n");
is($c->response->{status}, 200, 'an absolute URI');

$c = $n->conn;
$c->send("nonsense\r\n\r\n");
is($c->response->{status}, 400, 'no request at all');

my $h2 = $n->h2;

says($h2->get('/', key => 'x' x 5000), 401, 'invalid_key', 'HTTP/2: long');
says($h2->get('/', key => "\xff" x 50), 401, 'invalid_key', 'HTTP/2: 8-bit');
is($h2->get('/', key => $k)->{status}, 200, 'HTTP/2 goes on');
$h2->close;


# big bodies of refused requests

for my $chunked (0, 1) {
    $c = $n->conn;
    $c->send(Apikey::Http::build('POST', '/', body => 'x' x 900_000,
                                 chunked => $chunked));
    says($c->response, 401, 'missing_key', 'a body that nobody reads');
    says($c->request('GET', '/'), 401, 'missing_key',
         'and the connection goes on');
}


# nothing happened

is(join(',', $n->workers), $worker, 'the worker is the same');
is($t->postgres->value('SELECT count(*) FROM apikey.key'), 1,
   'nothing is stored');

$t->done;
