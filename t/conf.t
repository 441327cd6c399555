# What nginx -t accepts and refuses: every directive's arguments, contexts,
# duplicates, and what is missing.

use strict;
use warnings;

use Test::More;
use Apikey::Test;

my $t = Apikey::Test->new;
my $n = $t->nginx(name => 'conf', wait => 0, conf => '%%GLOBALS%%');
my $dir = $n->dir;


sub file {
    my ($name, $text) = @_;

    open my $f, '>', "$dir/$name" or die "$name: $!\n";
    print $f $text;
    close $f;

    return "$dir/$name";
}


# The smallest that works; undef leaves one of the three out.

my %base = (
    zone     => 'apikey_zone zone=apikey:1m;',
    postgres => 'apikey_postgres "host=/nowhere dbname=x";',
    journal  => 'apikey_journal %%DIR%%/journal ring=%%RING%%;',
);


sub conf {
    my ($http, $location, $server, %without) = @_;

    my $base = join "\n", map { $without{$_} ? () : $base{$_} } sort keys %base;

    return <<EOT;
%%GLOBALS%%
events { }
http {
    %%GLOBALS_HTTP%%
    $base
    $http
    server {
        listen 127.0.0.1:%%PORT%%;
        $server
        location / { $location }
    }
}
EOT
}


sub check {
    my (@what) = @_;

    $n->set(conf => conf(map({ $_ // '' } @what[0 .. 2]),
                         @what[3 .. $#what]));
    return $n->check;
}


sub good {
    my ($name, @what) = @_;

    my ($ok, $says) = check(@what);
    ok($ok, "accepts $name") or diag($says);
}


# Refused, with a message that names the directive and matches.

sub bad {
    my ($says, @what) = @_;

    my ($ok, $text) = check(@what);
    my ($line) = $text =~ /\[emerg\] (.*)/;

    my $name = join ' ', grep { defined && !ref && length } @what[0 .. 2];
    $name =~ s/\s+/ /g;
    $name =~ s/%%//g;

    ok(!$ok && defined $line && $line =~ $says, "refuses $name")
        or diag($ok ? 'accepted' : $text);
}


sub http { my ($says, $text) = @_; bad($says, $text, 'apikey required;') }
sub loc  { my ($says, $text) = @_; bad($says, '', $text) }


# what works

good('the smallest', '', 'apikey required;');
good('nothing used', '', '', '', zone => 1, postgres => 1, journal => 1);
good('off without a zone', 'apikey off;', '', '', zone => 1, postgres => 1,
     journal => 1);
good('all of http', join("\n",
    'apikey_redis unix:/nowhere/s?db=3 timeout=1s prefix=p password_file='
    . file('password', "secret\n") . ';',
    'apikey_redis_down local nodes=3;',
    'apikey_limit_mode direct;', 'apikey_max_stale 1m;',
    'apikey_node edge-1;',
    'apikey_key_prefix sk_live;',
    'apikey_mac_secret ' . file('mac',
        "# comment\n1 0123456789abcdef0123456789abcdef\n") . ';',
    'apikey_admin_token ' . file('tokens',
        '0' x 64 . " ops role=read\n") . ';'),
    'apikey required;');
good('all of a location', '', join("\n",
    'apikey optional;',
    'apikey_source header:X-Key bearer query:key cookie:key;',
    'apikey_accept sk sk_live;', 'apikey_hide off;',
    'apikey_realm "the \"API\"";', 'apikey_scope a:read|b:read $arg_scope;',
    'apikey_service $host;', 'apikey_endpoint /x;', 'apikey_weight $arg_w;',
    'apikey_model $arg_m;', 'apikey_session s-$arg_s;',
    'apikey_status missing_key=404 scope_denied=599 unavailable=400;',
    'apikey_limit_headers off;', 'apikey_preflight pass;',
    'apikey_reserve tokens=$arg_max cost=0.25;', 'apikey_usage headers;',
    'apikey_dry_run on;'));
good("apikey_reserve $_", '', "apikey_reserve $_;")
    for 'cost=0', 'tokens=9007199254740991', 'cost=9007199.254740991',
        'cost=1e-06', 'cost=$arg_a$arg_b tokens=$arg_c';
good('an inner apikey_reserve', 'apikey_reserve tokens=1; apikey_usage off;',
     'apikey_reserve cost=1; apikey_usage headers; apikey_dry_run off;',
     'apikey_dry_run on;');
good("apikey_usage $_", '', "apikey_request openai max=64k; apikey_usage $_;")
    for 'openai', 'openai stream=estimate', 'openai stream=require',
        'openai stream=add', 'anthropic', 'anthropic stream=estimate';
good('an inner apikey_usage', 'apikey_request openai;',
     'apikey_request anthropic max=1; apikey_usage anthropic;',
     'apikey_usage openai stream=add;');
good('the same in http and server',
    'apikey required; apikey_source bearer; apikey_hide on;', '',
    'apikey off; apikey_source query:key; apikey_hide off;');
good('Redis by name and number',
    'apikey_redis redis://user:p%40ss@127.0.0.1:6390/2;',
    'apikey required;');
good('IPv6 Redis', 'apikey_redis redis://[::1]:6390;', 'apikey required;');
good('several Redis', 'apikey_redis redis://u:p@127.0.0.1/1 '
    . 'redis://[::1]:6390 unix:/s;', 'apikey required;');
good('a Cluster', 'apikey_redis redis://127.0.0.1 redis://127.0.0.2 cluster;',
     'apikey required;');
good('Sentinels', 'apikey_redis redis://127.0.0.1/1 redis://127.0.0.2 '
    . 'timeout=1s sentinel=mymaster;', 'apikey required;');
good('TLS', 'apikey_redis rediss://127.0.0.1;', 'apikey required;');
good('TLS that trusts everybody',
     'apikey_redis rediss://u:p@127.0.0.1 verify=off;', 'apikey required;');
good('all of apikey_admin', '', join(' ', 'apikey_admin rate=100r/m compat',
    'identity=$remote_user operator=${SSL_client_s_dn};'));
good('admin, metrics, health', '', 'apikey_admin;',
    'location = /m { apikey_metrics; } location = /h { apikey_health; }');


# what is missing

for my $missing (sort keys %base) {
    bad(qr/"apikey_$missing" is missing in http: "apikey required" in \S+ needs/,
        '', 'apikey required;', '', $missing => 1);
}

bad(qr/"apikey_zone" is missing .* "apikey optional"/, '',
    'apikey optional;', '', zone => 1);
bad(qr/"apikey_journal" is missing .* "apikey_admin"/, '',
    'apikey_admin;', '', journal => 1);


# zone

for my $wrong ('zone=apikey', 'zone=:1m', 'size=1m', 'apikey:1m',
               'zone=apikey:1x', 'zone=apikey:', 'zone=apikey:8k')
{
    bad(qr/"apikey_zone": .*"/, "apikey_zone $wrong;", 'apikey required;', '',
        zone => 1);
}

bad(qr/number of arguments in "apikey_zone"/,
    'apikey_zone zone=apikey:1m x;', 'apikey required;', '', zone => 1);
http(qr/"apikey_zone" directive is duplicate/,
     'apikey_zone zone=other:1m;');


# postgres, journal

for my $wrong ('""', '"host"', '"nosuchoption=1"', '"dbname=x" poll=',
               '"dbname=x" poll=x', '"dbname=x" poll=0', '"dbname=x" fast',
               '"dbname=x" read="host"', '"dbname=x" poll=1s poll=2s')
{
    bad(qr/"apikey_postgres": /, "apikey_postgres $wrong;",
        'apikey required;', '', postgres => 1);
}

http(qr/"apikey_postgres" directive is duplicate/,
     'apikey_postgres "dbname=x";');

{
    my ($ok, $text) = check('apikey_postgres "host password=geheim";',
                            'apikey required;', '', postgres => 1);
    ok(!$ok && $text !~ /geheim/, 'a password is not repeated');
}

for my $wrong ('""', 'j ring=', 'j size=1x', 'j size=1k', 'j sync=0',
               'j sync=x', 'j drain=x', 'j full=maybe', 'j what', 'j size=',
               'j ring=/a ring=/b', 'j sync=1s sync=2s')
{
    bad(qr/"apikey_journal": /, "apikey_journal $wrong;",
        'apikey required;', '', journal => 1);
}

bad(qr/"apikey_journal" directive has a duplicate "full"/,
    'apikey_journal j full=drop full=drop;', 'apikey required;', '',
    journal => 1);
http(qr/"apikey_journal" directive is duplicate/, 'apikey_journal j;');


# redis

for my $wrong ('127.0.0.1', 'http://127.0.0.1', 'redis://127.0.0.1:99999',
               'redis://127.0.0.1 timeout=x', 'redis://127.0.0.1 timeout=0',
               'redis://127.0.0.1 prefix=', 'redis://127.0.0.1 "prefix={a}"',
               'redis://127.0.0.1 clusters', 'redis://127.0.0.1 sentinel=',
               'redis://127.0.0.1 sentinel', 'cluster redis://127.0.0.1',
               'rediss://127.0.0.1 ca=nowhere', 'rediss://127.0.0.1 cert=x',
               'rediss://127.0.0.1 cert_key=x',
               'rediss://127.0.0.1 verify=maybe',
               'redis://127.0.0.1 password_file=nowhere', 'redis://')
{
    http(qr/"apikey_redis": /, "apikey_redis $wrong;");
}

my $pem = file('no.pem', "none\n");

for my $wrong (
    [ 'is duplicate', 'redis://a; apikey_redis redis://b' ],
    [ 'has a duplicate "timeout"', 'redis://127.0.0.1 timeout=1s timeout=1s' ],
    [ 'has a duplicate "prefix"', 'redis://127.0.0.1 prefix=a prefix=a' ],
    [ 'has a duplicate "verify"', 'rediss://127.0.0.1 verify=on verify=on' ],
    [ 'takes one of "cluster" and "sentinel", once',
      'redis://127.0.0.1 cluster cluster' ],
    [ 'takes one of "cluster" and "sentinel", once',
      'redis://127.0.0.1 cluster sentinel=m' ],
    [ 'takes one of "cluster" and "sentinel", once',
      'redis://127.0.0.1 sentinel=m sentinel=m' ],
    [ 'has a "unix:" URL', 'unix:/s cluster' ],
    [ 'has a "unix:" URL', 'unix:/s sentinel=m' ],
    [ 'has a database, which a cluster', 'redis://127.0.0.1/1 cluster' ],
    [ 'has URLs of different databases',
      'redis://127.0.0.1/1 redis://127.0.0.2/2' ],
    [ 'has URLs of different users',
      'redis://a:x@127.0.0.1 redis://b:x@127.0.0.2' ],
    [ 'has URLs of different users',
      'redis://a:x@127.0.0.1 redis://a:y@127.0.0.2' ],
    [ 'has URLs with TLS and without',
      'redis://127.0.0.1 rediss://127.0.0.2' ],
    [ 'has a user, but no password', 'redis://a@127.0.0.1' ],
    [ 'has an empty password', 'redis://a:@127.0.0.1' ],
    [ 'takes "ca", "cert"', "redis://127.0.0.1 ca=$pem" ],
    [ 'takes "ca", "cert"', "redis://127.0.0.1 cert=$pem cert_key=$pem" ],
    [ 'takes "ca", "cert"', 'unix:/s verify=off' ],
    [ 'needs both of "cert"', "rediss://127.0.0.1 cert=$pem" ],
    [ 'needs both of "cert"', "rediss://127.0.0.1 cert_key=$pem" ],
    [ 'has a "ca" that "verify=off"', "rediss://127.0.0.1 ca=$pem verify=off" ])
{
    http(qr/"apikey_redis" directive \Q$wrong->[0]/,
         "apikey_redis $wrong->[1];");
}

http(qr/"apikey_redis": duplicate "ca"/,
     "apikey_redis rediss://127.0.0.1 ca=$pem ca=$pem;");
http(qr/no\.pem.* in "apikey_redis"/, "apikey_redis rediss://127.0.0.1 ca=$pem;");
http(qr/no\.pem.* in "apikey_redis"/,
     "apikey_redis rediss://127.0.0.1 cert=$pem cert_key=$pem;");
http(qr/"apikey_redis" directive has an invalid database/,
     'apikey_redis redis://127.0.0.1/x;');
http(qr/"apikey_redis" directive has an invalid URL/,
     'apikey_redis unix:/s?x=1;');
http(qr/"apikey_redis" directive has two passwords/,
     "apikey_redis redis://:x\@127.0.0.1 password_file=$dir/password;");
http(qr/"apikey_redis": no password in/,
     'apikey_redis redis://127.0.0.1 password_file=' . file('empty', "\n")
     . ';');
http(qr/"apikey_redis" directive is duplicate/,
     'apikey_redis redis://127.0.0.1; apikey_redis redis://127.0.0.1;');
http(qr/number of arguments in "apikey_redis"/, 'apikey_redis;');

{
    my ($ok, $text) = check('apikey_redis redis://:geheim@127.0.0.1:x;',
                            'apikey required;');
    ok(!$ok && $text !~ /geheim/, "Redis' password is not repeated");
}

for my $wrong ('maybe', 'local nodes=0', 'local nodes=x', 'deny nodes=2',
               'local x')
{
    http(qr/"apikey_redis_down": /, "apikey_redis_down $wrong;");
}

http(qr/"apikey_redis_down" directive is duplicate/,
     'apikey_redis_down deny; apikey_redis_down deny;');

http(qr/"apikey_limit_mode": leased, direct or local is needed, not "redis"/,
     'apikey_limit_mode redis;');
http(qr/"apikey_limit_mode leased" needs "apikey_redis"/,
     'apikey_limit_mode leased;');
http(qr/"apikey_limit_mode": /, 'apikey_limit_mode x;');
http(qr/"apikey_limit_mode direct" needs "apikey_redis"/,
     'apikey_limit_mode direct;');
http(qr/"apikey_limit_mode" directive is duplicate/,
     'apikey_limit_mode local; apikey_limit_mode local;');


for my $wrong ('0', 'x', '""', 'on', '-1s', '1z') {
    http(qr/"apikey_max_stale": invalid time/, "apikey_max_stale $wrong;");
}

http(qr/"apikey_max_stale": at least 100ms are needed, not "99ms"/,
     'apikey_max_stale 99ms;');
good('a short apikey_max_stale', 'apikey_max_stale 100ms;',
     'apikey required;');
http(qr/"apikey_max_stale" directive is duplicate/,
     'apikey_max_stale off; apikey_max_stale 1s;');
http(qr/number of arguments in "apikey_max_stale"/, 'apikey_max_stale 1s 2s;');


# names and files

http(qr/"apikey_node": /, 'apikey_node "";');
http(qr/"apikey_node": /, 'apikey_node "' . 'x' x 256 . '";');
http(qr/"apikey_node": control character/, "apikey_node \"a\tb\";");
http(qr/"apikey_node" directive is duplicate/,
     'apikey_node a; apikey_node b;');

for my $wrong ('SK', 'sk-live', '""', 'x' x 17) {
    http(qr/"apikey_key_prefix": /, "apikey_key_prefix $wrong;");
}

http(qr/"apikey_key_prefix" directive is duplicate/,
     'apikey_key_prefix a; apikey_key_prefix b;');

http(qr/"apikey_mac_secret": open\(\) .* failed/, 'apikey_mac_secret no;');
http(qr/"apikey_mac_secret": .* is not a file/, "apikey_mac_secret $dir;");
http(qr/"apikey_mac_secret": no secret in/,
     "apikey_mac_secret $dir/empty;");
http(qr/"apikey_mac_secret": .*, line 2: /, 'apikey_mac_secret '
     . file('mac2', "1 0123456789abcdef0123456789abcdef\n0 x\n") . ';');
http(qr/"apikey_mac_secret" directive is duplicate/,
     "apikey_mac_secret $dir/mac; apikey_mac_secret $dir/mac;");

http(qr/"apikey_admin_token": open\(\) .* failed/, 'apikey_admin_token no;');
http(qr/"apikey_admin_token": .*, line 1: /, 'apikey_admin_token '
     . file('tokens2', "short ops\n") . ';');
http(qr/"apikey_admin_token" directive is duplicate/,
     "apikey_admin_token $dir/tokens; apikey_admin_token $dir/tokens;");


# locations

for my $wrong ('on', 'yes', '""') {
    loc(qr/"apikey": off, required or optional is needed/, "apikey $wrong;");
}

loc(qr/"apikey" directive is duplicate/, 'apikey off; apikey off;');
loc(qr/number of arguments in "apikey"/, 'apikey;');

for my $wrong ('X-Key', 'header', 'header:', 'query:', 'cookie:',
               '"header:X Key"', '"cookie:a;b"', 'header:Host',
               'header:cookie', 'header:Content-Length', 'basic',
               'header:X-Key header:x-key', 'bearer bearer',
               'query:k query:k', 'header:X-Request-Id')
{
    loc(qr/"apikey_source": /, "apikey_source $wrong;");
}

loc(qr/"apikey_source" directive is duplicate/,
    'apikey_source bearer; apikey_source bearer;');

loc(qr/"apikey_accept": /, "apikey_accept $_;") for 'SK', 'a-b', '""', 'x' x 17;
loc(qr/"apikey_accept": duplicate prefix "a"/, 'apikey_accept a b a;');
loc(qr/"apikey_accept" directive is duplicate/,
    'apikey_accept a; apikey_accept b;');

loc(qr/in "apikey_hide" directive, it must be "on" or "off"/,
    'apikey_hide x;');
loc(qr/in "apikey_limit_headers" directive, it must be "on"/,
    'apikey_limit_headers x;');

loc(qr/"apikey_realm": /, 'apikey_realm "";');
loc(qr/"apikey_realm": control character/, "apikey_realm \"a\nb\";");
loc(qr/"apikey_realm" directive is duplicate/,
    'apikey_realm a; apikey_realm b;');

loc(qr/"apikey_scope": invalid scope/, "apikey_scope $_;")
    for '""', '"a b"', "\"a\tb\"", '|a', 'a|', 'a||b', '|', 'a|$arg_x|';
loc(qr/"apikey_scope" directive is duplicate/,
    'apikey_scope a; apikey_scope b;');
loc(qr/unknown "nosuch" variable/, 'apikey_scope $nosuch;');

loc(qr/"apikey_status": write VERDICT=CODE, not "\Q$_\E"/, "apikey_status $_;")
    for 'x', '403', 'missing_key:403', 'missing_key';
loc(qr/"apikey_status": no verdict to refuse with: "\Q$_\E"/,
    "apikey_status $_;")
    for 'ok=403', 'anonymous=403', 'nosuch=403', '=403', 'Missing_key=403',
        'missing=403';
loc(qr/"apikey_status": a status from 400 to 599 is needed, not "\Q$_\E"/,
    "apikey_status $_;")
    for map { "missing_key=$_" } '', 'x', '200', '302', '399', '600', '-1',
        '4030', '99999999999999999999';
loc(qr/"apikey_status": a revoked key is invalid_key/,
    'apikey_status revoked_key=410;');
loc(qr/"apikey_status": duplicate verdict "missing_key=403"/,
    'apikey_status missing_key=403 missing_key=403;');
loc(qr/"apikey_status" directive is duplicate/,
    'apikey_status missing_key=403; apikey_status invalid_key=403;');
loc(qr/number of arguments in "apikey_status"/, 'apikey_status;');

for my $name (qw(service endpoint model session)) {
    loc(qr/number of arguments in "apikey_$name"/, "apikey_$name;");
    loc(qr/number of arguments in "apikey_$name"/, "apikey_$name a b;");
    loc(qr/"apikey_$name" directive is duplicate/,
        "apikey_$name a; apikey_$name b;");
}

loc(qr/"apikey_weight": a whole number/, "apikey_weight $_;")
    for '-1', '1.5', 'x', '9007199254740992';
loc(qr/"apikey_weight" directive is duplicate/,
    'apikey_weight 1; apikey_weight 2;');

loc(qr/"apikey_reserve": a whole number is needed, not "tokens=\Q$_\E"/,
    "apikey_reserve tokens=$_;")
    for '', '-1', '1.5', 'x', '9007199254740992', '1e3';
loc(qr/"apikey_reserve": an amount is needed, not "cost=\Q$_\E"/,
    "apikey_reserve cost=$_;")
    for '', '-1', '1,5', 'x', '9007199.254740992', '.5', '1e30', 'USD1';
loc(qr/"apikey_reserve": unknown parameter "\Q$_\E"/, "apikey_reserve $_;")
    for 'x', '100', 'token=1', 'tokens', 'Cost=1', 'requests=1';
loc(qr/"apikey_reserve": duplicate parameter "\Q$_\E"/,
    "apikey_reserve $_ $_;") for 'tokens=1', 'cost=$arg_x';
loc(qr/unknown "nosuch" variable/, 'apikey_reserve cost=$nosuch;');
loc(qr/number of arguments in "apikey_reserve"/, 'apikey_reserve;');
loc(qr/number of arguments in "apikey_reserve"/,
    'apikey_reserve tokens=1 cost=1 x;');
loc(qr/"apikey_reserve" directive is duplicate/,
    'apikey_reserve tokens=1; apikey_reserve cost=1;');

loc(qr/"apikey_usage": off, openai, anthropic or headers is needed, not "$_"/,
    "apikey_usage $_;") for 'on', 'OpenAI', 'Headers', 'open';
loc(qr/"apikey_usage": unknown parameter "stream=add"/,
    'apikey_usage headers stream=add;');
loc(qr/"apikey_usage": unknown parameter "stream=add"/,
    'apikey_usage off stream=add;');
loc(qr/"apikey_usage": unknown parameter "streams=add"/,
    'apikey_usage openai streams=add;');
loc(qr/"apikey_usage": estimate, require or add is needed, not "$_"/,
    "apikey_usage openai stream=$_;") for 'on', 'Add';
loc(qr/"apikey_usage": only openai has "stream=$_"/,
    "apikey_usage anthropic stream=$_;") for 'require', 'add';
loc(qr/"apikey_usage" with "stream=$_" needs "apikey_request openai"/,
    "apikey_usage openai stream=$_;") for 'require', 'add';
loc(qr/"apikey_usage" with "stream=add" needs "apikey_request openai"/,
    'apikey_request anthropic; apikey_usage openai stream=add;');
loc(qr/number of arguments in "apikey_usage"/, 'apikey_usage;');
loc(qr/"apikey_usage" directive is duplicate/,
    'apikey_usage off; apikey_usage headers;');

loc(qr/"apikey_request": off, openai or anthropic is needed, not "$_"/,
    "apikey_request $_;") for 'on', 'headers', 'OpenAI';
loc(qr/"apikey_request": unknown parameter "\Q$_\E"/,
    "apikey_request openai $_;") for 'min=1m', 'max', '1m';
loc(qr/"apikey_request": unknown parameter "max=1m"/,
    'apikey_request off max=1m;');
loc(qr/"apikey_request": a size is needed, not "$_"/,
    "apikey_request openai max=$_;") for '0', '-1', 'x', '';
loc(qr/number of arguments in "apikey_request"/, 'apikey_request;');
loc(qr/"apikey_request" directive is duplicate/,
    'apikey_request off; apikey_request openai;');

loc(qr/in "apikey_dry_run" directive, it must be "on" or "off"/,
    'apikey_dry_run x;');
loc(qr/"apikey_dry_run" directive is duplicate/,
    'apikey_dry_run on; apikey_dry_run on;');

loc(qr/"apikey_preflight": pass or check is needed, not "x"/,
    'apikey_preflight x;');
loc(qr/"apikey_preflight" directive is duplicate/,
    'apikey_preflight pass; apikey_preflight pass;');


# our own content

for my $name (qw(admin metrics health)) {
    loc(qr/number of arguments in "apikey_$name"/, "apikey_$name x;")
        unless $name eq 'admin';
    loc(qr/"apikey_$name" directive is duplicate/,
        "apikey_$name; apikey_$name;");
    bad(qr/"apikey_$name" directive is not allowed here/, "apikey_$name;");
}

loc(qr/"apikey_admin": unknown parameter "$_"/, "apikey_admin $_;")
    for 'x', 'Compat', 'compat=on', 'identity', 'rate', 'burst=5';
loc(qr/"apikey_admin": unknown parameter "role=read"/,
    'apikey_admin compat role=read;');
loc(qr/"apikey_admin": duplicate parameter "\Q$_\E"/, "apikey_admin $_ $_;")
    for 'compat', 'rate=1r/s', 'identity=$remote_user',
        'operator=$remote_user';
loc(qr/"apikey_admin": one variable is needed, and no more, in "\Q$_\E"/,
    "apikey_admin $_;")
    for 'identity=', 'identity=ada', 'identity=$', 'operator=a$remote_user',
        'operator=$remote_user-x', 'identity=$remote_user$host',
        'operator=${}', 'operator=${remote_user';
loc(qr/"apikey_admin": any client can write this variable: "\Q$_\E"/,
    "apikey_admin $_;")
    for map({ ("identity=$_", "operator=$_") } '$http_x_user', '$arg_user',
            '$cookie_user'),
        'identity=${http_x}', 'identity=$HTTP_X_User', 'operator=$args',
        'operator=$host', 'operator=$request_uri', 'identity=$content_type';
loc(qr/unknown "nosuch" variable/, 'apikey_admin identity=$nosuch;');
loc(qr{"apikey_admin": write 1r/m to 1000000r/s, not "rate=\Q$_\E"},
    "apikey_admin rate=$_;")
    for '', '0r/s', '-1r/s', '20', '20r', 'r/s', '20r/h',
        '1.5r/s', '1000001r/s', '99999999999999999999r/s', '20R/S';
good("apikey_admin $_", '', "apikey_admin $_;")
    for 'rate=1r/s', 'rate=1000000r/m', 'identity=$ssl_client_fingerprint',
        'identity=$https';
loc(qr/"apikey" must be off/, 'apikey_admin; apikey required;');
loc(qr/"apikey_health" directive/, 'apikey_metrics; apikey_health;');


# contexts

for my $line ('apikey_zone zone=a:1m', 'apikey_postgres x', 'apikey_journal x',
              'apikey_redis redis://127.0.0.1', 'apikey_redis_down deny',
              'apikey_limit_mode local', 'apikey_node x',
              'apikey_key_prefix x', 'apikey_mac_secret x',
              'apikey_admin_token x', 'apikey_max_stale 1s')
{
    my ($name) = $line =~ /(\w+)/;
    loc(qr/"$name" directive is not allowed here/, "$line;");
    bad(qr/"$name" directive is not allowed here/, '', '', "$line;");
}


# what other issues bring

for my $line ('apikey_anonymous on', 'apikey_cors on')
{
    my ($name) = $line =~ /(\w+)/;
    loc(qr/unknown directive "$name"/, "$line;");
}

loc(qr/unknown "apikey_$_" variable/, "add_header X \$apikey_$_;")
    for qw(nosuch);

good("\$apikey_$_", '', "add_header X \$apikey_$_;")
    for qw(id name owner customer plan scopes verdict limit_name limit
           remaining reset retry_after request_id decision_mode decided_at
           request_model request_max_tokens request_stream
           tokens_input tokens_output cost date metadata_anything);

$t->allow(qr/./);                # nginx -t has said it all
$t->done;
