# RateLimit-Policy, RateLimit, X-RateLimit-*, Retry-After and X-Request-Id.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $two = $t->key(name => 'two', owner => 'user_1',
    limits => [ { name => 'burst', limit => 10, window => '1s', burst => 20 },
                { name => 'hourly', limit => 100, window => '1h' } ],
    owner_limits => [ { name => 'daily', limit => 50, window => '1d' } ]);
my $free = $t->key(name => 'free');
my $odd = $t->key(name => 'odd', limits => [
    { name => "a \"b\" \\ \x{20ac}", limit => 3, window => '90s' } ]);
my $tie = $t->key(name => 'tie', limits => [
    { name => 'short', limit => 4, window => '1h' },
    { name => 'long', limit => 4, window => '2h' } ]);
my $service = $t->key(name => 'service', limits => [
    { name => 'chat', limit => 2, window => '1h', service => 'chat*' },
    { name => 'rest', limit => 7, window => '1h' } ]);
my $last = $t->key(name => 'last', limits => [
    { name => 'a', limit => 1, window => '1m' },
    { name => 'b', limit => 1, window => '1h' } ]);
my $large = $t->key(name => 'large', limits => [
    { name => 'ever', limit => 9007199254740991, window => 'total' } ]);

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    server {
        listen 127.0.0.1:%%PORT_named%%;
        server_name chat.example.com other;

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

        location /quiet/ {
            apikey required;
            apikey_limit_headers off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /chat/ {
            apikey required;
            apikey_service chat-eu;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /off/ {
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


# the draft's two fields and those of the tightest

my $r = $n->get('/', key => $two->{key});
my $h = $r->{headers};

is($h->{'ratelimit-policy'},
   '"burst";q=10;w=1, "hourly";q=100;w=3600, "owner:daily";q=50;w=86400',
   'RateLimit-Policy');
is($h->{ratelimit},
   '"burst";r=19;t=1, "hourly";r=99;t=36, "owner:daily";r=49;t=1728',
   'RateLimit: r may pass q where burst does');
is($h->{'x-ratelimit-limit'}, 50, 'the tightest: limit');
is($h->{'x-ratelimit-remaining'}, 49, 'the tightest: remaining');
is($h->{'x-ratelimit-reset'}, 1728, 'the tightest: reset');
ok(!exists $h->{'retry-after'}, 'no Retry-After when admitted');

$h = $n->get('/', key => $odd->{key})->{headers};
is($h->{'ratelimit-policy'}, '"a \"b\" \\\\ %E2%82%AC";q=3;w=90',
   'a name as a structured string');

$h = $n->get('/', key => $tie->{key})->{headers};
is($h->{ratelimit}, '"short";r=3;t=900, "long";r=3;t=1800', 'two equal');
is($h->{'x-ratelimit-reset'}, 1800, 'a tie goes to the longer window');

$h = $n->get('/', key => $large->{key})->{headers};
is($h->{'ratelimit-policy'}, '"ever";q=999999999999999',
   'as large as an integer of structured fields can be');
is($h->{ratelimit}, '"ever";r=999999999999999', 'and what remains of it');
is($h->{'x-ratelimit-limit'}, 9007199254740991, 'X-RateLimit-Limit is exact');
cmp_ok($h->{'x-ratelimit-remaining'}, '>', 999999999999999, 'and the rest');
ok(!exists $h->{'x-ratelimit-reset'}, 'what never begins anew has no reset');

$h = $n->get('/', key => $free->{key})->{headers};
ok(!grep({ /ratelimit/ } keys %$h), 'nothing without limits');

$h = $n->get('/quiet/', key => $two->{key})->{headers};
ok(!grep({ /ratelimit/ } keys %$h), 'apikey_limit_headers off');
ok($h->{'x-request-id'}, 'but the request has its id');

$h = $n->get('/optional/')->{headers};
ok(!grep({ /ratelimit/ } keys %$h), 'nothing without a key');


# services

$h = $n->get('/', key => $service->{key})->{headers};
is($h->{'ratelimit-policy'}, '"rest";q=7;w=3600', 'another service');

$h = $n->get('/chat/', key => $service->{key})->{headers};
is($h->{'ratelimit-policy'}, '"chat";q=2;w=3600, "rest";q=7;w=3600',
   'this service');

$h = Apikey::Http->new(port => $n->port('named'))
     ->request('GET', '/', key => $service->{key})->{headers};
like($h->{ratelimit}, qr/^"chat";r=0;/, 'the first server_name by default');

$r = $n->get('/chat/', key => $service->{key});
is($r->{status}, 429, 'used up');
is(json($r)->{limit_name}, 'chat', 'by its name');
is($n->get('/', key => $service->{key})->{status}, 200,
   'the other services go on');


# refusals

is($n->get('/', key => $last->{key})->{status}, 200, 'the last one');

$r = $n->get('/', key => $last->{key});
my $j = json($r);

is($r->{status}, 429, 'refused');
is($j->{limit_name}, 'b', 'the one that opens last is named');
is($j->{unit}, 'requests', 'unit');
is($j->{limit}, 1, 'limit');
is($j->{remaining}, 0, 'remaining');
is($r->{headers}{'retry-after'}, $j->{retry_after}, 'Retry-After');
ok($j->{retry_after} > 3590 && $j->{retry_after} <= 3600, 'rounded up');
is($j->{title}, 'Rate limit reached', 'title');
is($j->{detail}, "Limit \"b\" allows 1 request per 1h. Try again in "
   . "$j->{retry_after} seconds.", 'detail');
like($r->{headers}{ratelimit}, qr/^"a";r=0;t=\d+, "b";r=0;t=\d+$/,
     'headers on a refusal');

my $before = $n->get('/', key => $two->{key})->{headers}{ratelimit};
like($before, qr/"owner:daily";r=4[0-9]/, 'an owner is charged');

for (1 .. 50) {
    last if ($r = $n->get('/', key => $two->{key}))->{status} == 429
            && json($r)->{limit_name} ne 'burst';
    wait_for('the short bucket', sub {
        $r = $n->get('/', key => $two->{key});
        $r->{status} == 200 || json($r)->{limit_name} ne 'burst';
    });
}

is(json($r)->{limit_name}, 'owner:daily', "an owner's limit is called so");


# what the upstream says under these names

my $set = join '', map { "/set/$_/upstream" }
    qw(RateLimit RateLimit-Policy X-RateLimit-Limit X-RateLimit-Remaining
       X-RateLimit-Reset X-Request-Id x-ratelimit-limit);

$h = $n->get($set, key => $tie->{key})->{headers};
like(join(',', map { $h->{$_} } qw(ratelimit x-ratelimit-limit
          x-ratelimit-remaining)),
     qr/^"short";r=2;t=\d+, "long";r=2;t=\d+,4,2$/, 'is replaced');
like($h->{'x-request-id'}, qr/^[0-9a-f-]{36}$/, 'X-Request-Id, too');

$h = $n->get($set, key => $free->{key})->{headers};
is($h->{'x-ratelimit-remaining'}, 'upstream', 'is left without limits');
like($h->{'x-request-id'}, qr/^[0-9a-f-]{36}$/, 'but X-Request-Id');

$h = $n->get("/off$set")->{headers};
is($h->{'x-request-id'}, 'upstream', 'is left where we are off');


# a client's X-Request-Id

$r = $n->request('GET', '/echo', key => $free->{key},
    headers => [ 'X-Request-Id' => 'mine', 'a' => 'b',
                 'x-request-id' => 'again' ]);
is(json($r)->{headers}{'x-request-id'}, $r->{headers}{'x-request-id'},
   'is replaced');
is(json($r)->{headers}{a}, 'b', 'and nothing else');

$t->done;
