# One client request, however many locations it goes through: one decision,
# one charge, one record; address and scope in each of them.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my $key = $t->key(name => 'one', scopes => ['a'], limits => [
    { name => 'monthly', limit => 1000, window => '31d' } ]);
my $none = $t->key(name => 'none', limits => [
    { name => 'none', limit => 0, window => '1h' } ]);

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    apikey_limit_mode direct;
    log_format v '$uri $apikey_verdict $status $apikey_request_id';
    log_subrequest on;
EOT
        access_log %%DIR%%/access.log v;
        root %%DIR%%;
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /index/ {
            index page.html;
        }

        location /named/ {
            error_page 418 = @named;
            return 418;
        }

        location /try/ {
            try_files /nowhere @named;
        }

        location @named {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /accel/ {
            proxy_pass http://%%UPSTREAM%%/set/X-Accel-Redirect/%2fscope%2f;
        }

        location /accel-ok/ {
            proxy_pass http://%%UPSTREAM%%/set/X-Accel-Redirect/%2fecho;
        }

        location /scope/ {
            apikey_scope b;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /body/ {
            apikey_request openai;
            client_max_body_size 16;
            error_page 413 = /scope/;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /body-ok/ {
            apikey_request openai;
            client_max_body_size 16;
            error_page 413 = /hides/;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /hides/ {
            apikey_source header:X-API-Key header:X-Other;
            apikey_request openai;
            apikey_usage openai;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /upstream-404/ {
            error_page 404 = /echo;
            proxy_intercept_errors on;
            proxy_pass http://%%UPSTREAM%%/status/404;
        }

        location /page-off/ {
            error_page 401 403 429 503 /off.html;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /off.html {
            apikey off;
        }

        location /page-on/ {
            error_page 401 403 429 /on.html;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /on.html {
        }

        location /page-named/ {
            error_page 401 429 @page;
            proxy_pass http://%%UPSTREAM%%;
        }

        location @page {
            apikey off;
            add_header X-Page named always;
            return 200 "page\n";
        }

        location /page-200/ {
            error_page 401 =200 /off.html;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /anonymous/ {
            apikey optional;
            try_files /nowhere /needed/;
        }

        location /needed/ {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /anonymous-source/ {
            apikey optional;
            try_files /nowhere /other-source/?key=$arg_key;
        }

        location /other-source/ {
            apikey_source query:key;
            proxy_pass http://%%UPSTREAM%%/echo;
        }

        location /anonymous-ok/ {
            apikey optional;
            try_files /nowhere @optional;
        }

        location @optional {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /mirror/ {
            mirror /mirrored;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /mirrored {
            internal;
            proxy_pass http://%%UPSTREAM%%/mirrored;
        }

        location /ssi/ {
            ssi on;
        }

        location /part/ {
            proxy_pass http://%%UPSTREAM%%/set/X-Id/$apikey_id;
        }
EOS

for my $page ([ 'index/page.html', "index\n" ], [ 'off.html', "off\n" ],
              [ 'on.html', "on\n" ],
              [ 'ssi/page.html', "a<!--#include virtual=\"/part/1\" -->"
                . "<!--#include virtual=\"/part/2\" -->\n" ])
{
    my ($name, $text) = @$page;
    my ($dir) = $name =~ m{^(.*)/};

    mkdir $n->dir . "/$dir" if $dir;
    chmod 0755, $n->dir, $dir ? $n->dir . "/$dir" : ();
    open my $f, '>', $n->dir . "/$name" or die "$name: $!\n";
    print $f $text;
    close $f;
    chmod 0644, $n->dir . "/$name";
}

$t->sync;

my $spent = 0;
my $admitted = 0;


# Admitted, and one request is spent.

sub once {
    my ($uri, $name, %opt) = @_;

    my $r = $n->get($uri, key => $key->{key}, %opt);

    is($r->{status}, 200, "$name: passes") or diag($r->{raw});

    $spent++;
    $admitted++;

    is($t->redis->calls->{evalsha} // 0, $spent, "$name: one decision");
    is(1000 - $r->{headers}{'x-ratelimit-remaining'}, $spent,
       "$name: one charge") unless $opt{loose};

    return $r;
}


# what the SCRIPT LOAD of the start may have run is not counted
$t->redis->reset_calls;

once('/', 'no redirect');
is(once('/index/', 'index')->{body}, "index\n", 'index: its page');
once('/try/', 'try_files to a named location');
once('/accel-ok/', 'X-Accel-Redirect');
once('/upstream-404/', "error_page for the upstream's 404");
is(once('/mirror/', 'mirror')->{body}, "ok\n", 'mirror');
is(once('/ssi/page.html', 'SSI')->{body}, "aok\nok\n\n", 'SSI: its parts');

is((grep { $_->{uri} eq '/set/X-Id/' . $key->{id} } $t->upstream->requests),
   2, 'a subrequest knows who is calling');

# return answers before the access phase, then the named location asks
is($n->get('/named/', key => $key->{key})->{status}, 200, 'after return');
$spent++;
$admitted++;


# scope in every location

my $r = $n->get('/accel/', key => $key->{key});

is($r->{status}, 403, 'X-Accel-Redirect into a scope that is not held');
is(json($r)->{code}, 'scope_denied', 'says so');
$spent++;

# the upstream has seen it, so it is a record like any other
$admitted++;
my $accel = $r->{headers}{'x-request-id'};


# a body that cannot be read leads elsewhere before there is a decision

my %long = (body => 'x' x 64, chunked => 1, method => 'POST');

$r = $n->get('/body/', key => $key->{key}, %long);
is($r->{status}, 403, 'a body that is too long, into a scope not held');
is(json($r)->{code}, 'scope_denied', 'says so');

$r = $n->get('/body-ok/', key => $key->{key}, %long,
             headers => [ 'X-Other' => 'secret' ]);
is($r->{status}, 200, 'and where it may: passes');
is(1000 - $r->{headers}{'x-ratelimit-remaining'}, ++$spent, 'is charged');
$admitted++;

my ($hides) = grep { $_->{uri} eq '/hides/' } $t->upstream->requests;
ok(!exists $hides->{headers}{'x-other'}, "that location's keys are hidden");


# error_page of our own refusals

for my $case (
    [ 'page-off', undef, 401, "off\n" ],
    [ 'page-off', $none->{key}, 429, "off\n" ],
    [ 'page-on', $none->{key}, 429, "on\n" ],
    [ 'page-named', undef, 401, "page\n" ],
    [ 'page-named', $none->{key}, 429, "page\n" ],
) {
    my ($where, $who, $status, $body) = @$case;

    my $r = $n->get("/$where/", key => $who);
    my $what = $who ? 429 : 401;

    $spent++ if $who;

    is("$r->{status} $r->{body}", "$status $body",
       "$where: the error_page of a $what");
    is($t->redis->calls->{evalsha}, $spent, "$where: decided once");

    ok($r->{headers}{'www-authenticate'}, "$where: the challenge stays")
        unless $who;
}

$r = $n->get('/page-on/');
is($r->{status}, 401, 'a 401 stays refused in its target');
is(json($r)->{code}, 'missing_key', 'with our own answer');

$r = $n->get('/page-200/');
is("$r->{status} $r->{body}", "200 off\n", 'error_page 401 =200');


# from anonymous on

$r = $n->get('/anonymous/');
is($r->{status}, 401, 'anonymous, then a location that needs a key');

$r = $n->get('/anonymous-ok/');
is($r->{status}, 200, 'anonymous, then optional again');
$admitted++;

$r = $n->get("/anonymous-source/?key=$key->{key}");
is($r->{status}, 200, 'anonymous, then a location that finds one');
$admitted++;
$spent++;
is($t->redis->calls->{evalsha}, $spent, 'and charges it');


# the records

my $ours = "verdict IN ('ok', 'anonymous')";
my @events = $t->wait_events($admitted, $ours);
is(scalar @events, $admitted, 'one record for each admitted request');

is($t->postgres->value('SELECT count(*) FROM apikey.usage_event'
   . " WHERE verdict = 'anonymous'"), 1, 'one of them anonymous');

is($t->postgres->value('SELECT outcome || status_code'
   . " FROM apikey.usage_event WHERE event = '$accel'"), 'error403',
   'refused after an upstream has seen it: a record, no refusal');

my %seen;
my @lines = do { open my $f, '<', $n->dir . '/access.log'; <$f> };

$seen{(split)[3]}++ for @lines;
is((grep { !$seen{$_} } @events), 0, 'all ids stand in the access log');

$t->done;
