# No plaintext key upstream, in a log, in a table or in Redis, whatever place
# it stood in and whatever became of the request.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my @limits = (limits => [ { name => 'hourly', limit => 1000,
                            window => '1h' } ]);
my $key = $t->key(name => 'one', @limits);
my $foreign = $t->key(name => 'foreign', plain => 'fk-%41b/c=d+e:' x 3,
                      @limits);
my $denied = $t->key(name => 'denied', allowed_ips => []);
my $unknown = plain_key('sk');

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    log_format all '$request | $request_uri | $uri | $args | $arg_key | '
                   '$http_x_api_key | $http_authorization | $http_cookie | '
                   '$cookie_key | $http_x_key | $apikey_verdict';

    apikey_source header:X-API-Key bearer query:key cookie:key;

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        access_log %%DIR%%/access.log all;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        access_log %%DIR%%/access.log all;
        error_log %%DIR%%/error.log info;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /uri/ {
            apikey required;
            proxy_pass http://%%UPSTREAM%%/;
        }

        location /args/ {
            apikey required;
            proxy_pass http://%%UPSTREAM%%/echo?$args;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /show/ {
            apikey required;
            apikey_hide off;
            access_log off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /empty/ {
            apikey required;
            error_page 404 = @file;
            root %%DIR%%/nowhere;
        }

        location @file {
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


sub encoded { join '', map { sprintf '%%%02X', ord } split //, $_[0] }


# what goes upstream

sub sent {
    my ($uri, $headers, $expect, $name) = @_;

    my $r = $n->request('GET', $uri, headers => $headers);
    my $e = eval { json($r) };

    unless ($e) {
        fail($name);
        diag($r->{raw});
        return;
    }

    my %h = %{$e->{headers}};
    delete @h{qw(host x-request-id)};

    my $text = join ' ', $e->{uri}, map { "$_=$h{$_}" } sort keys %h;
    is($text, $expect, $name);
}

my $k = $key->{key};

sent('/echo', [ 'X-API-Key' => $k ], '/echo', 'header');
sent('/echo', [ A => 1, 'x-api-key' => $k, B => 2 ], '/echo a=1 b=2',
     'header among others');
sent('/echo', [ Authorization => "Bearer $k" ], '/echo', 'bearer');
sent('/echo', [ Authorization => 'Basic eDp5', 'X-API-Key' => $k ],
     '/echo authorization=Basic eDp5', 'Basic stays');
sent("/echo?key=$k", [], '/echo', 'query, alone');
sent("/echo?a=1&key=$k&b=2", [], '/echo?a=1&b=2', 'query, in the middle');
sent("/echo?a=1&key=$k", [], '/echo?a=1', 'query, last');
sent("/echo?key=$k&b=%20", [], '/echo?b=%20', 'query, first');
sent('/echo?a&key=' . encoded($k), [], '/echo?a', 'query, encoded');
sent('/echo?k%65y=' . $k, [], '/echo', "query, the name encoded");
sent("/echo?keys=1&xkey=2&key=$k", [], '/echo?keys=1&xkey=2',
     'query, names alike');
sent("/uri/echo?a=1&key=$k", [], '/echo?a=1', 'query, proxy_pass with a URI');
sent("/args/?key=$k&b=2", [], '/echo?b=2', 'query, $args');
sent('/echo', [ Cookie => "key=$k" ], '/echo', 'cookie, alone');
sent('/echo', [ Cookie => "a=1; key=$k; b=2" ], '/echo cookie=a=1; b=2',
     'cookie, in the middle');
sent('/echo', [ Cookie => "key=$k; b=2" ], '/echo cookie=b=2',
     'cookie, first');
sent('/echo', [ Cookie => "a=1; key=$k" ], '/echo cookie=a=1',
     'cookie, last');
sent('/echo', [ Cookie => "a=1; akey=2; key=$k" ],
     '/echo cookie=a=1; akey=2', 'cookie, names alike');
sent("/echo?key=$unknown", [ 'X-API-Key' => $k, Cookie => "key=$unknown",
     Authorization => "Bearer $unknown" ], '/echo',
     'all places, the first decides');
sent("/optional/echo", [ 'X-API-Key' => '' ], '/optional/echo',
     'an empty header goes, too');
sent("/optional/echo?key=&a=1", [], '/optional/echo?a=1',
     'an empty argument goes, too');
sent("/empty/echo?key=$k", [], '/empty/echo', 'after an internal redirect');
sent("/show/echo?key=$k", [], "/show/echo?key=$k", 'apikey_hide off');

# many headers: the parts of nginx's list
for my $at (0, 18, 19, 20, 21, 38, 39, 40, 41, 59) {
    my @headers = map { ("H$_", $_) } 1 .. 60;
    splice @headers, $at * 2, 0, 'X-API-Key' => $k;

    my %h = %{json($n->request('GET', '/echo', headers => \@headers))
              ->{headers}};

    is(join(' ', map { $h{"h$_"} // 'none' } 1 .. 60), join(' ', 1 .. 60),
       "header $at of 60: all others go on");
    ok(!exists $h{'x-api-key'}, 'but the key');
}

# several of them: refused, and nothing of nginx's is broken by it
is($n->request('GET', '/echo', headers => [
     map { ("H$_", $_, 'X-API-Key', $k) } 1 .. 60 ])->{status}, 401,
   'a hundred headers');
is($n->request('GET', '/optional/echo', headers => [
     map { ('X-API-Key', '') } 1 .. 90 ])->{status}, 200, 'only our headers');

my $h2 = $n->h2;

for my $case ([ "/echo?key=$k&a=1", [], '/echo?a=1' ],
              [ '/echo', [ 'x-api-key' => $k ], '/echo' ],
              [ '/echo', [ cookie => 'a=1', cookie => "key=$k" ],
                '/echo a=1' ],
              [ '/echo', [ cookie => "key=$k" ], '/echo' ])
{
    my ($uri, $headers, $expect) = @$case;
    my $e = json($h2->get($uri, headers => $headers));

    is(join(' ', $e->{uri}, $e->{headers}{cookie} // ()), $expect,
       "HTTP/2: $uri @{[ map { lc } @$headers ? $headers->[0] : () ]}");
    ok(!exists $e->{headers}{'x-api-key'}, 'no header');
}


# refused, unknown, broken: the logs see them, too

for my $who ($k, $foreign->{key}, $denied->{key}, $unknown) {
    my $e = encoded($who);

    $n->get('/none', key => $who);
    $n->get("/query?key=$e");
    $n->get("/query?key=$e&key=$e");
    $n->get("/optional/?key=$e");
    $n->request('GET', '/bearer', headers => [
        Authorization => "Bearer $who" ]);
    $n->request('GET', '/cookie', headers => [ Cookie => "key=$who" ]);
    $n->request('GET', '/twice', headers => [ 'X-API-Key' => $who,
                                              'X-API-Key' => $who ]);
    $h2->get("/h2?key=$e");
    $n->get("/close?key=$e");                 # an upstream error is logged
}

$n->wait_log(qr/upstream prematurely closed/);
$t->wait_events(20);


# the dump

my $files = '';

for my $file (grep { -f } glob($n->dir . '/*'), glob($n->dir . '/journal/*'),
                          glob("$n->{ring}/*"))
{
    next if $file =~ /nginx\.conf|tokens/;

    open my $f, '<:raw', $file or next;
    local $/;
    $files .= "$file\n" . <$f>;
}

my $sql = $t->postgres;
my $tables = join "\n", map { map { join ' ', map { $_ // '' } @$_ }
                                  $sql->rows("SELECT * FROM apikey.$_") }
    $sql->column("SELECT quote_ident(relname) FROM pg_class WHERE relkind"
                 . " IN ('r', 'v') AND relnamespace = 'apikey'::regnamespace");

like($files, qr/\*{45}/, 'the access log has stars');

my %text = (logs => $files, tables => $tables, Redis => $t->redis->dump,
            'upstream requests' =>
                join "\n", grep { !m{/show/} } split /\n/, $t->upstream->text);

for my $where (sort keys %text) {
    cmp_ok(length $text{$where}, '>', 100, "$where: something is there");

    for my $who ($k, $foreign->{key}, $denied->{key}, $unknown) {
        my $tail = substr $who, -12;

        is(index($text{$where}, $tail), -1, "$where: no plaintext");
        is(index($text{$where}, encoded($tail)), -1, "$where: nor encoded");
    }
}

$h2->close;
$t->done;
