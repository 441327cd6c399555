# Scopes: what covers what, alternatives, variables and what a client may not
# do with them.  The table stands in both C and SQL.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $key = $t->key(name => 'one', scopes => [qw(orders:* read mine:a:*)]);
my $star = $t->key(name => 'star', scopes => ['*']);
my $odd = $t->key(name => 'odd', scopes => [ 'or*', '*:read', 'a|b', 'x:*y',
                                             ':*', "\x{e4}:*" ]);
my $none = $t->key(name => 'none');
my $many = $t->key(name => 'many', scopes => [ map { "s$_:" . 'x' x 100 }
                                               1 .. 1000 ]);

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    map $request_method $wanted {
        GET      read|orders:read;
        POST     "write";
        DELETE   orders:delete|admin;
        PATCH    "|";
        PUT      "orders:x|";
        default  "";
    }
EOT
        apikey required;
        apikey_scope $http_x_scope;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /all/ {
            apikey_scope read orders:read mine:a:b;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /all-no/ {
            apikey_scope read orders:read mine:b;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /either/ {
            apikey_scope a|b|read c|orders:x;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /neither/ {
            apikey_scope a|b|read c|d;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /map/ {
            apikey_scope $wanted;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /braces/ {
            apikey_scope ${wanted};
            proxy_pass http://%%UPSTREAM%%;
        }

        location /workflow/ {
            apikey_scope workflow:$arg_id;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /mixed/ {
            apikey_scope workflow:$arg_id|$wanted;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /inherit/ {
            location /inherit/in/ {
                proxy_pass http://%%UPSTREAM%%;
            }
        }
EOS

$t->sync;


sub ask {
    my ($key, $scope, $uri, $method) = @_;

    return $n->request($method // 'GET', $uri // '/', key => $key->{key},
        headers => [ defined $scope ? ('X-Scope' => $scope) : () ])->{status};
}


subtest 'one against one' => sub {
    my $passed = 0;

    for my $k ($key, $star, $odd, $none) {
        for my $wanted ('orders:read', 'orders:', 'orders', 'orders:*',
                        'orders:a:b', 'Orders:read', 'ordersx:a', 'read',
                        'rea', 'reads', '*', 'mine:a:b', 'mine:a', 'mine:b',
                        'mine:*', 'mine:a:*', 'or*', 'orx', '*:read',
                        'x:read', 'x:*y', 'x:ay', ':x', ':', 'x',
                        "\xc3\xa4:b", 'read read')
        {
            utf8::decode(my $text = $wanted);

            my $want = $pg->value('SELECT coalesce(bool_or('
                . 'apikey.scope_covers(s, ' . $pg->quote($text)
                . ")), false) FROM unnest((SELECT scopes FROM apikey.key
                                           WHERE id = '$k->{id}')) s") eq 't'
                ? 200 : 403;

            $passed += $want == 200;
            is(ask($k, $wanted), $want, "$want: $wanted");
        }
    }

    is($passed, 7 + 27 + 6, 'as many as there should be');
};


subtest 'all, either' => sub {
    is(ask($key, undef, '/all/'), 200, 'all');
    is(ask($key, undef, '/all-no/'), 403, 'one of them is missing');
    is(ask($key, undef, '/either/'), 200, 'one of each');
    is(ask($key, undef, '/neither/'), 403, 'one, and none of the second');
    is(ask($star, undef, '/all/'), 200, '*');
    is(ask($none, undef, '/either/'), 403, 'none');
    is(ask($many, 's1000:' . 'x' x 100), 200, 'the last of a thousand');
    is(ask($many, 's1001:' . 'x' x 100), 403, 'one more');
};


subtest 'variables' => sub {
    is(ask($key, ''), 403, 'empty');
    is(ask($star, undef), 403, 'empty is covered by nothing, not by *');

    for my $place ('map', 'braces') {
        is(ask($key, undef, "/$place/"), 200, "$place: either");
        is(ask($key, undef, "/$place/", 'POST'), 403, "$place: not held");
        is(ask($key, undef, "/$place/", 'DELETE'), 200, "$place: the first");
        is(ask($key, undef, "/$place/", 'PUT'), 200, "$place: a bar behind");
        is(ask($star, undef, "/$place/", 'PATCH'), 403, "$place: a lone bar");
        is(ask($star, undef, "/$place/", 'OPTIONS'), 403, "$place: empty");
    }

    my $flow = $t->key(name => 'flow', scopes => [qw(workflow:7 read)]);
    my $flows = $t->key(name => 'flows', scopes => ['workflow:*']);
    $t->sync;

    is(ask($flow, undef, '/workflow/?id=7'), 200, 'a part');
    is(ask($flow, undef, '/workflow/?id=8'), 403, 'another');
    is(ask($flow, undef, '/workflow/?id='), 403, 'none');
    is(ask($flow, undef, '/workflow/?id=*'), 403, 'a star');
    is(ask($flow, undef, '/workflow/?id=8|read'), 403,
       'a client adds no alternative');
    is(ask($flow, undef, '/workflow/?id=8|workflow:7'), 403, 'nor this one');
    is(ask($flow, undef, '/workflow/?id=8 read'), 400, 'a blank is no URI');
    is(ask($flow, undef, '/workflow/?id=8%20read'), 403, 'nor encoded');
    is(ask($flow, undef, '/workflow/?id=8%7cread'), 403, 'a bar, encoded');
    is(ask($flows, undef, '/workflow/?id=8'), 200, 'any');
    is(ask($flows, undef, '/workflow/?id=8|x'), 200, 'any is any');
    is(ask($flow, undef, '/mixed/?id=8'), 200, 'or what the map says');
    is(ask($flow, undef, '/mixed/?id=8', 'POST'), 403, 'not this');
    is(ask($flow, undef, '/mixed/?id=8|read', 'POST'), 403, 'nor this');
    is(ask($flow, undef, '/mixed/?id=7', 'POST'), 200, 'its own');
};


subtest 'inheritance' => sub {
    is(ask($key, 'read', '/inherit/in/'), 200, 'held');
    is(ask($key, 'write', '/inherit/in/'), 403, 'not held');
};


subtest 'a change' => sub {
    for my $case ([ '{a}', 'a', 200 ], [ '{b}', 'a', 403 ],
                  [ '{*}', 'a', 200 ], [ '{}', 'a', 403 ],
                  [ '{a:*}', 'a:b', 200 ])
    {
        my ($scopes, $wanted, $status) = @$case;

        $pg->run("UPDATE apikey.key SET scopes = '$scopes'
                  WHERE id = '$none->{id}'");
        ok(wait_for($scopes, sub { ask($none, $wanted) == $status }),
           "$scopes: $wanted $status");
    }
};

$t->done;
