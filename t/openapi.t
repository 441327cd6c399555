# openapi.json says what the admin API is: it is an OpenAPI 3.1 document, has
# every route of admin_routes.c, and every answer here is one that it knows,
# member by member.  And what all routes have in common: HEAD, OPTIONS, 405
# with Allow, no-store.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(json json_encode plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

# limits are looked at where they are counted

my $n = $t->nginx(http => <<'EOT')->start;
    apikey_limit_mode local;

    server {
        listen 127.0.0.1:%%PORT_other%%;

        location /deep/er-"1"/ {
            apikey_admin;
        }

        location / {
            apikey_admin;
        }

        location /old/ {
            apikey_admin compat;
        }
    }
EOT

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $conn = $n->conn;
my @answers;


# ask(METHOD, PATH of the document, parameters, OPTIONS)

sub ask {
    my ($method, $path, $with, %opt) = @_;

    my %with = %{$with // {}};
    my $uri = $path =~ s/\{(\w+)\}/delete $with{$1} \/\/ die "$path: $1"/ger;
    my $query = join '&', map { "$_=$with{$_}" } sort keys %with;
    my $type = $opt{type} // 'application/json';
    my $body = ref $opt{body} ? json_encode($opt{body}) : $opt{body};
    my $token = $opt{as} // $t->token;

    my $at = $opt{at} // '/api/v1';
    my $c = $opt{at} ? Apikey::Http->new(port => $n->port('other')) : $conn;

    my $r = $c->request($method, $at . $uri . ($query && "?$query"),
        headers => [
            $token ne '' ? (Authorization => "Bearer $token") : (),
            defined $body ? ('Content-Type' => $type) : (),
            @{$opt{headers} // []},
        ], defined $body ? (body => $body) : ());

    push @answers, {
        method => $method, path => $path, status => $r->{status},
        type => $r->{headers}{'content-type'}, headers => $r->{headers},
        body => $r->{body}, sent => $body, sent_type => $type,
        query => [ sort keys %with ],
    };

    return $r;
}

sub status_is {
    my ($status, @ask) = @_;

    my $r = ask(@ask);
    is($r->{status}, $status, "$ask[0] $ask[1]: $status") or diag($r->{body});
    return $r;
}


# the document

my $r = ask('GET', '/openapi.json', {}, as => '');
my $document = json($r);

is($r->{status}, 200, 'anybody reads it');
is_deeply($document->{servers}, [ { url => '/api/v1' } ], 'its server');
is_deeply([ map { json(Apikey::Http->new(port => $n->port('other'))
                       ->request('GET', $_))->{servers}[0]{url} }
            '/openapi.json', '/deep/er-"1"/openapi.json' ],
          [ '/', '/deep/er-%221%22' ], 'in any location');

{
    open my $f, '<', 'docs/openapi.json' or die "docs/openapi.json: $!\n";
    my $source = do { local $/; <$f> };
    my ($version) = do { open my $v, '<', 'src/base/version.h'; local $/;
                         <$v> =~ /APIKEY_VERSION\s+"([^"]+)"/ };

    is($document->{info}{version}, $version, 'the version of the module');
    $source =~ s/\@BASE\@/\/api\/v1/;
    $source =~ s/\@VERSION\@/$version/;
    is_deeply($document, JSON::PP->new->decode($source), 'is the file');
}


# its routes are ours

my %documented;

for my $path (keys %{$document->{paths}}) {
    $documented{uc($_) . " $path"} = 1
        for grep { $_ ne 'parameters' } keys %{$document->{paths}{$path}};
}

{
    my %route;

    open my $f, '<', 'src/http/admin_routes.c' or die "admin_routes.c: $!\n";
    my $source = do { local $/; <$f> };
    my ($table) = $source =~ /admin_routes\[\] = \{(.*?)^\};/ms;

    $route{"$1 /$2"} = 1
        while $table =~ /NGX_HTTP_(\w+),\s*(?:ngx_string\()?"([^"]+)"/g;

    cmp_ok(scalar keys %route, '>', 20, 'the routes are found');
    is_deeply([ grep { !$documented{$_} } sort keys %route ], [],
              'every route is in it');
    is_deeply([ grep { !$route{$_} } sort keys %documented ], [],
              'and no other');
}


# answers

my @limits = ({ name => 'hourly', unit => 'requests', limit => 1000,
                window => '1h' });

status_is(201, 'PUT', '/plans/{id}', { id => 'pro' }, body => {
    name => 'Pro', limits => \@limits, scopes => [ 'orders:*' ],
    allowed_models => undef, monthly_price => '49.00',
    upgrade_url => 'https://example.com/upgrade' });
status_is(200, 'PUT', '/plans/{id}', { id => 'pro' }, body => {});
status_is(200, 'PATCH', '/plans/{id}', { id => 'pro' },
          body => { name => 'Pro!' });
status_is(200, 'GET', '/plans/{id}', { id => 'pro' });
status_is(200, 'GET', '/plans', { q => 'pr', sort => '-name', limit => 1 });
status_is(400, 'PUT', '/plans/{id}', { id => 'pro' },
          body => { monthly_price => 1, colour => 1 });
status_is(404, 'GET', '/plans/{id}', { id => 'none' });

my $price = json(status_is(201, 'POST', '/prices', {}, body => {
    model => 'gpt-4o*', plan => 'pro', input_per_1m => '2.50',
    output_per_1m => '15', cached_per_1m => undef,
    valid_from => '2026-01-01T00:00:00Z' }))->{id};

for my $time (1, 2) {
    status_is($time == 1 ? 201 : 200, 'POST', '/prices', {},
              headers => [ 'Idempotency-Key' => 'a-price' ],
              body => { service => 'orders', per_request => '0.001' });
}

status_is(200, 'GET', '/prices', { model => 'gpt-4o*', limit => 1 });
status_is(200, 'GET', '/prices/{id}', { id => $price });
status_is(200, 'PATCH', '/prices/{id}', { id => $price },
          body => { cached_per_1m => '0.25' });
status_is(200, 'PUT', '/prices/{id}', { id => $price }, body => {});
status_is(400, 'POST', '/prices', {}, body => { input_per_1m => 1 });
status_is(404, 'GET', '/prices/{id}', { id => 'none' });

status_is(201, 'PUT', '/models/{id}', { id => 'gpt-4o' }, body => {
    name => 'GPT-4o', capabilities => [ 'chat' ], context_length => 128000 });
status_is(200, 'PUT', '/models/{id}', { id => 'gpt-4o' }, body => {});
status_is(200, 'PATCH', '/models/{id}', { id => 'gpt-4o' },
          body => { context_length => undef });
status_is(200, 'GET', '/models/{id}', { id => 'gpt-4o' });
status_is(200, 'GET', '/models', { limit => 1 });
status_is(400, 'PUT', '/models/{id}', { id => 'x' },
          body => { capabilities => 'chat' });
status_is(404, 'GET', '/models/{id}', { id => 'none' });
status_is(204, 'DELETE', '/models/{id}', { id => 'gpt-4o' });
status_is(204, 'DELETE', '/prices/{id}', { id => $price });

status_is(201, 'PUT', '/owners/{id}', { id => 'user_42' }, body => {
    name => 'Ada', enabled => $true, plan => 'pro', plan_next => 'pro',
    limits => \@limits, credits => undef, time_zone => 'Europe/Berlin',
    anchor_day => 31, metadata => { a => [ 1 ] } });
status_is(200, 'PUT', '/owners/{id}', { id => 'user_42' }, body => {});
status_is(200, 'PATCH', '/owners/{id}', { id => 'user_42' },
          body => { name => undef });
status_is(200, 'GET', '/owners/{id}', { id => 'user_42' });
status_is(200, 'GET', '/owners', { plan => 'pro', enabled => 'true' });
status_is(200, 'PATCH', '/owners', { plan => 'pro', dry_run => 'true' },
          body => { plan => 'pro' });
status_is(400, 'PATCH', '/owners/{id}', { id => 'user_42' },
          body => { limits => 1 });
status_is(404, 'GET', '/owners/{id}', { id => 'none' });
status_is(409, 'POST', '/owners/{id}/credits', { id => 'user_42' },
          body => { set => 1 });
status_is(200, 'PATCH', '/owners/{id}', { id => 'user_42' }, body => {
    credits => { unit => 'cost', remaining => '5.00',
                 refill => { amount => '5.00', every => 'month' } } });
status_is(400, 'POST', '/owners/{id}/credits', { id => 'user_42' },
          body => { set => 1 });
status_is(200, 'POST', '/owners/{id}/credits', { id => 'user_42' },
          body => { add => '1.00', note => 'invoice 881' },
          headers => [ 'Idempotency-Key' => 'credits' ]);

my $key = json(status_is(201, 'POST', '/api-keys', {}, body => {
    name => 'Production', owner => 'user_42', customer => 'c', plan => 'pro',
    prefix => 'sk_live', scopes => [ 'orders:read', 'apikey:manage' ],
    allowed_models => [ 'gpt-4o*' ], allowed_ips => [ '127.0.0.0/8' ],
    limits => \@limits, credits => undef, metadata => { team => 'x' },
    expires_at => '2100-01-01', enabled => $true },
    headers => [ 'Idempotency-Key' => 'one' ]));
my ($id, $secret) = ($key->{id}, $key->{secrets}[0]{id});

status_is(422, 'POST', '/api-keys', {}, body => { name => 'Other' },
          headers => [ 'Idempotency-Key' => 'one' ]);
status_is(201, 'POST', '/api-keys', {}, body => { name => 'plain' },
          headers => [ 'Idempotency-Key' => 'two' ]);
$r = status_is(200, 'POST', '/api-keys', {}, body => { name => 'plain' },
               headers => [ 'Idempotency-Key' => 'two' ]);
is("$r->{headers}{'idempotent-replayed'} " . (json($r)->{key} // 'null'),
   'true null', 'a request repeated');
my $plain = json($r)->{id};

$t->sync;

status_is(400, 'POST', '/api-keys', {}, body => '{');
status_is(400, 'POST', '/api-keys', {}, body => { limits => [ {} ] });
status_is(415, 'POST', '/api-keys', {}, body => 'x', type => 'text/plain');
status_is(413, 'POST', '/api-keys', {}, body => ' ' x 1048577);
$conn = $n->conn;
status_is(401, 'GET', '/api-keys', {}, as => '');
status_is(401, 'GET', '/api-keys', {}, as => plain_key('op'));
status_is(403, 'POST', '/api-keys', {}, body => { name => 'x' },
          as => $t->{read_token});
status_is(200, 'GET', '/api-keys', { owner => 'user_42', customer => 'c',
    status => 'active', q => 'pro', sort => '-last_used_at', limit => 2 });
status_is(200, 'GET', '/api-keys', { limit => 1 });
status_is(200, 'GET', '/api-keys', {}, as => $key->{key});
status_is(200, 'GET', '/api-keys/{id}', { id => $id });
status_is(404, 'GET', '/api-keys/{id}', { id => 'x' });
status_is(200, $_, '/api-keys/{id}', { id => $id }, body => {
    name => 'New', metadata => { team => undef }, allowed_ips => undef })
    for 'PATCH', 'PUT';
status_is(412, 'PATCH', '/api-keys/{id}', { id => $id }, body => {},
          headers => [ 'If-Match' => '"0"' ]);
status_is(200, 'GET', '/limits', { key => $id, min_percent => 0 });
status_is(200, 'GET', '/limits', { limit => 1 });
status_is(400, 'GET', '/limits', { min_percent => 'x' });
status_is(200, 'GET', '/api-keys/{id}/usage', { id => $id, days => 2 });
status_is(409, 'POST', '/api-keys/{id}/credits', { id => $id },
          body => { set => 1 });
status_is(200, 'PATCH', '/api-keys/{id}', { id => $id }, body => {
    credits => { unit => 'requests', remaining => 7 } });
status_is(200, 'POST', '/api-keys/{id}/credits', { id => $id },
          body => { set => 9 });
status_is(200, 'PATCH', '/api-keys/{id}', { id => $id },
          body => { credits => undef });
status_is(200, 'PATCH', '/owners/{id}', { id => 'user_42' },
          body => { credits => undef });
status_is(200, 'POST', '/api-keys/verify', {}, body => {
    key => $key->{key}, scopes => [ 'orders:read' ], model => 'gpt-4o',
    weight => 1, service => 'batch' });
status_is(200, 'POST', '/api-keys/verify', {},
          body => { key => plain_key('sk') });
status_is(200, 'POST', '/api-keys/verify', {},
          body => { key => $key->{key}, scopes => [ 'admin' ] });
status_is(400, 'POST', '/api-keys/verify', {}, body => {});
status_is(200, 'POST', '/api-keys/verify', {},
          body => { key => $key->{key} },
          headers => [ 'Idempotency-Key' => 'charged' ]) for 1, 2;
status_is(422, 'POST', '/api-keys/verify', {}, body => { key => 'another' },
          headers => [ 'Idempotency-Key' => 'charged' ]);
status_is(200, 'POST', '/api-keys/{id}/rotate', { id => $id },
          body => { grace => '1h' });
status_is(204, 'DELETE', '/api-keys/{id}/secrets/{sid}',
          { id => $id, sid => $secret });
status_is(409, 'DELETE', '/api-keys/{id}/secrets/{sid}', { id => $id,
    sid => json(ask('GET', '/api-keys/{id}', { id => $id }))
           ->{secrets}[0]{id} });
status_is(404, 'DELETE', '/api-keys/{id}/secrets/{sid}',
          { id => $id, sid => 'x' });

my %row = (name => 'old', owner => 'user_7', hash => 'ab' x 32,
           alg => 'sha256', start => 'nk_', created_at => '2020-01-01',
           usage_count => 7, last_used_at => '2026-01-01T00:00:00+01:00');

status_is(200, 'POST', '/api-keys/import', { dry_run => 'true' },
          body => [ \%row ]);
status_is(200, 'POST', '/api-keys/import', {}, body => [ \%row ]);
status_is(200, 'POST', '/api-keys/import', {}, type => 'text/csv',
          body => "name,key\nfrom csv,nk_0123456789\n,short\n");
status_is(200, 'POST', '/api-keys/import', {}, body => json_encode(\%row),
          type => 'application/x-ndjson');
status_is(415, 'POST', '/api-keys/import', {}, body => 'x', type => 'x/y');

my %used = (date => '2026-01-01', endpoint => '/', requests => 2,
            key => $id, cost => '0.001');

status_is(200, 'POST', '/import/usage', { dry_run => 'true' },
          body => [ \%used, { colour => 1 } ]);
status_is(200, 'POST', '/import/usage', { owner => 'user_42' },
          type => 'text/csv', body => "date,requests\n2026-01-01,1\n");
status_is(200, 'POST', '/import/usage', { key => $id },
          type => 'application/x-ndjson', body => json_encode(\%used));
status_is(415, 'POST', '/import/usage', {}, body => 'x', type => 'x/y');
status_is(400, 'POST', '/import/usage', {}, body => {});

# a report of GitHub's, signed with a key of our own

{
    my $pem = $t->dir . '/github';

    system("openssl ecparam -name prime256v1 -genkey -noout -out $pem"
           . " && openssl ec -in $pem -pubout -out $pem.pub 2> /dev/null")
        and die "openssl: $?\n";

    open my $f, '<', "$pem.pub" or die "$pem.pub: $!\n";
    my $public = do { local $/; <$f> };

    $t->postgres->run('INSERT INTO apikey.setting VALUES (\'leak_keys\', '
        . $t->postgres->quote(json_encode({ public_keys => [
            { key_identifier => 'one', key => $public } ] })) . ')');

    my $body = json_encode([ { token => plain_key('sk'), type => 'x' } ]);

    open $f, '>', "$pem.body" or die "$pem.body: $!\n";
    print $f $body;
    close $f;

    my $signature = qx(openssl dgst -sha256 -sign $pem $pem.body | base64 -w0);

    status_is(200, 'POST', '/leaks', {}, as => '', body => $body, headers => [
        'Github-Public-Key-Identifier' => 'one',
        'Github-Public-Key-Signature' => $signature ]);
    status_is(401, 'POST', '/leaks', {}, as => '', body => $body);
}
$conn = $n->conn;

my @old = (at => '/old');

$r = status_is(201, 'POST', '/api-keys', {}, @old, body => {
    name => 'old', active => $true, user_id => 'user_8', rate_limit => 5,
    workflow_id => 'w', customer_id => 'c' });
status_is(200, 'PATCH', '/api-keys/{id}', { id => json($r)->{id} }, @old,
          body => { is_active => $false });
status_is(200, 'GET', '/api-keys', {}, @old);
status_is(200, 'POST', '/keys/getApiKeys', {}, @old,
          body => { email => 'a@b', password => 'x' });
status_is(404, 'POST', '/keys/getApiKeys', {}, @old,
          body => { apiKeyId => 'x' });
status_is(401, 'POST', '/keys/getApiKeys', {}, @old, as => '', body => {});

status_is(200, 'POST', '/keys/usageAnalytics', {}, @old,
          body => { email => 'a@b', password => 'x' });
status_is(404, 'POST', '/keys/usageAnalytics', {}, @old,
          body => { apiKeyId => 'x' });

status_is(200, 'GET', '/whoami', {});
my $own = json(ask('POST', '/api-keys/{id}/rotate', { id => $plain }))->{key};
$t->sync;
status_is(200, 'GET', '/whoami', {}, as => $own);
status_is(200, 'GET', '/usage/summary', {}, as => $own);
status_is(200, 'GET', '/usage/summary', { owner => 'user_42' });
status_is(404, 'GET', '/usage/summary', { key => 'x' });
status_is(200, 'GET', '/usage', {}, as => $own);
status_is(200, 'GET', '/usage', { owner => 'user_42', fill => 'true',
    from => '2026-11-01', to => '2026-12-01', bucket => 'week', limit => 2,
    tz => 'Asia/Kathmandu', sort => '-cost' });
status_is(200, 'GET', '/usage', { from => '2020-01-01', bucket => 'total',
    group_by => 'service,endpoint,model,key,owner,customer,outcome,'
                . 'status_code,verdict,limit_name,node' });
status_is(400, 'GET', '/usage', { bucket => 'year', colour => 1 });
status_is(404, 'GET', '/usage', { key => 'x' });
status_is(200, 'GET', '/analytics', { sort => 'name', limit => 1 });
status_is(200, 'GET', '/analytics', { key => $id, status => 'all' });
status_is(200, 'GET', '/analytics', { owner => 'user_42' });
status_is(403, 'GET', '/analytics', {}, as => $own);

# webhooks

{
    my %url = (url => 'https://hooks.example/in');

    for my $time (1, 2) {
        $r = status_is($time == 1 ? 201 : 200, 'POST', '/webhooks', {},
            headers => [ 'Idempotency-Key' => 'a-webhook' ], body => {
                %url, description => 'x', events => [ 'alert.*' ],
                owner => 'user_42', enabled => $true });
    }

    my $hook = json($r)->{id};

    status_is(400, 'POST', '/webhooks', {}, body => { url => 'x' });
    status_is(200, 'GET', '/webhooks', { owner => 'user_42', limit => 1 });
    status_is(200, 'GET', '/webhooks/{id}', { id => $hook });
    status_is(404, 'GET', '/webhooks/{id}', { id => 'x' });
    status_is(200, $_, '/webhooks/{id}', { id => $hook },
              body => { events => undef, description => undef })
        for 'PATCH', 'PUT';
    status_is(200, 'POST', '/webhooks/{id}/rotate', { id => $hook },
              body => { grace => '1h' });
    status_is(202, 'POST', '/webhooks/{id}/test', { id => $hook });
    status_is(200, 'GET', '/webhooks/{id}/deliveries', { id => $hook,
                                                         limit => 1 });
    status_is(400, 'GET', '/webhooks/{id}/deliveries', { id => $hook,
                                                         state => 'x' });
    status_is(200, 'PATCH', '/webhooks/{id}', { id => $hook },
              body => { enabled => $false });
    status_is(409, 'POST', '/webhooks/{id}/test', { id => $hook });
    status_is(204, 'DELETE', '/webhooks/{id}', { id => $hook });
}

# alerts

{
    for my $time (1, 2) {
        $r = status_is($time == 1 ? 201 : 200, 'POST', '/alerts', {},
            headers => [ 'Idempotency-Key' => 'an-alert' ], body => {
                name => 'x', kind => 'limit', thresholds => [ 80, 99.5 ],
                match => { key => $id, limit_name => '*' }, enabled => $true,
                owner => 'user_42' });
    }

    my $alert = json($r)->{id};

    status_is(201, 'POST', '/alerts', {}, body => { name => 'x',
        kind => 'spend', thresholds => [ '50.00' ], per => 'all',
        window => 'day' });
    status_is(400, 'POST', '/alerts', {}, body => { name => 1 });
    status_is(200, 'GET', '/alerts', { owner => 'user_42', limit => 1 });
    status_is(200, 'GET', '/alerts', {});
    status_is(200, 'GET', '/alerts/{id}', { id => $alert });
    status_is(404, 'GET', '/alerts/{id}', { id => 'x' });
    status_is(200, $_, '/alerts/{id}', { id => $alert },
              body => { match => undef, thresholds => [ 100 ] })
        for 'PATCH', 'PUT';
    status_is(204, 'DELETE', '/alerts/{id}', { id => $alert });
}

# scheduled exports

{
    status_is(409, 'POST', '/export/schedules', {},
              body => { name => 'x', every => 'day' });
    $t->postgres->run("INSERT INTO apikey.setting VALUES ('export_dir', '/')");

    for my $time (1, 2) {
        $r = status_is($time == 1 ? 201 : 200, 'POST', '/export/schedules',
            {}, headers => [ 'Idempotency-Key' => 'a-schedule' ], body => {
                name => 'x', every => 'week', format => 'csv',
                profile => 'full', time_zone => 'Asia/Kathmandu',
                enabled => $true, owner => 'user_42' });
    }

    my $schedule = json($r)->{id};

    status_is(201, 'POST', '/export/schedules', {},
              body => { name => 'x', every => 'month' });
    status_is(400, 'POST', '/export/schedules', {}, body => { name => 1 });
    status_is(200, 'GET', '/export/schedules',
              { owner => 'user_42', limit => 1 });
    status_is(200, 'GET', '/export/schedules', {});
    status_is(200, 'GET', '/export/schedules/{id}', { id => $schedule });
    status_is(404, 'GET', '/export/schedules/{id}', { id => 'x' });
    status_is(200, $_, '/export/schedules/{id}', { id => $schedule },
              body => { format => undef, every => 'day' })
        for 'PATCH', 'PUT';
    status_is(204, 'DELETE', '/export/schedules/{id}', { id => $schedule });
}

# what came of a request to the gateway

{
    my $r = $n->get('/', key => $own);
    my $request = $r->{headers}{'x-request-id'};

    $t->wait_events(1, "event = '$request'");
    status_is(200, 'GET', '/requests/{id}', { id => $request });
    status_is(200, 'GET', '/requests', { key => $plain, limit => 1 });
    status_is(200, 'GET', '/requests', { from => '2020-01-01', tz => 'UTC',
        sort => 'time', outcome => 'success', service => '*' });
    status_is(404, 'GET', '/requests/{id}', { id => 'x' });
    status_is(400, 'GET', '/requests', { verdict => 'x' });
    status_is(403, 'GET', '/requests', {}, as => $own);
    is(json(status_is(200, 'GET', '/usage', { key => $plain, group_by =>
        'service,endpoint,model,key,owner,customer,outcome,'
        . 'status_code,verdict,limit_name,node' }))->{total}{requests}, 1,
       'and in reports');
}

for my $query ({ format => 'json', profile => 'full' },
               { format => 'csv', granularity => 'event' },
               { format => 'ndjson', granularity => '15m', key => $plain },
               { startDate => '2026-11-01', endDate => '2026-11-30' })
{
    status_is(200, 'GET', '/export/usage', $query);
}

for my $query ({ format => 'json' }, { format => 'csv', session => 's' },
               { format => 'ndjson', from => '2026-01-01', model => '*' })
{
    status_is(200, 'GET', '/export/conversations', $query);
}

status_is(400, 'GET', '/export/conversations', { profile => 'full' });
status_is(403, 'GET', '/export/conversations', {}, as => $own);
status_is(404, 'GET', '/export/conversations', { owner => 'x' });
status_is(200, 'GET', '/export/usage', {}, as => $own);
status_is(400, 'GET', '/export/usage', { format => 'pdf' });
status_is(404, 'GET', '/export/usage', { key => 'x' });
status_is(403, 'GET', '/audit', {}, as => $own);
status_is(200, 'GET', '/audit', { limit => 100 });
status_is(200, 'GET', '/audit', { key => $id, from => '2020-01-01',
    to => '2100-01-01T00:00:00Z', sort => 'time', limit => 1, object => 'key',
    owner => 'user_42', actor => 'x', action => 'x' });
status_is(200, 'GET', '/health', {});
status_is(200, 'GET', '/health', {}, as => '');

status_is(204, 'DELETE', '/api-keys/{id}', { id => $plain });
status_is(409, 'PATCH', '/api-keys/{id}', { id => $plain }, body => {});
status_is(200, 'GET', '/api-keys', { status => 'all' });
status_is(409, 'DELETE', '/owners/{id}', { id => 'user_42' });
status_is(204, 'DELETE', '/owners/{id}', { id => 'user_42',
                                           revoke_keys => 'true' });
status_is(204, 'DELETE', '/plans/{id}', { id => 'pro' });


# what all have in common

sub plain_path { $_[0] =~ s/\{\w+\}/x/gr }

for my $path (sort keys %{$document->{paths}}) {
    my $item = $document->{paths}{$path};
    my $at = $path =~ m{^/keys/} ? '/old' : '/api/v1';
    my $conn = Apikey::Http->new(port => $n->port($at eq '/old' ? 'other'
                                                                : ()));
    my @methods = grep { $item->{lc $_} } qw(GET POST PUT PATCH DELETE);
    my $allow = join ', ', map({ $_ eq 'GET' ? 'GET, HEAD' : $_ } @methods),
                'OPTIONS';

    for my $method (qw(OPTIONS GET POST PUT PATCH DELETE MKCOL FOO)) {
        next if $item->{lc $method};

        $r = $conn->request($method, $at . plain_path($path),
            headers => [ Authorization => 'Bearer ' . $t->token ]);
        is(join(' ', map { $_ // '' } $r->{status},
                @{$r->{headers}}{qw(allow cache-control)}),
           ($method eq 'OPTIONS' ? 204 : 405) . " $allow no-store",
           "$method $path");
        is(eval { json($r)->{code} // json($r)->{error}{code} },
           'method_not_allowed', '... as a problem') if $method ne 'OPTIONS';
    }

    if ($item->{get}) {
        my %with = map { $_ => 'x' } $path =~ /\{(\w+)\}/g;
        my ($get, $head) = map { ask($_, $path, { %with }) } qw(GET HEAD);

        $get->{headers}{'content-length'} = $head->{headers}{'content-length'}
            = 0 if $path eq '/health';
        my @length = map { $_->{headers}{'content-length'} // 'streamed' }
                         $head, $get;
        is("$head->{status} $length[0] $head->{body}",
           "$get->{status} $length[1] ", "HEAD $path is GET without its body");
    }
}

is_deeply([ map { "$_->{method} $_->{path}" }
            grep { ($_->{headers}{'cache-control'} // '') ne 'no-store' }
            @answers ], [], 'nothing is to be stored');


# Postgres away

$t->postgres->stop;
status_is(503, 'GET', '/api-keys', {});
status_is(503, 'POST', '/api-keys', {}, body => { name => 'x' });
status_is(200, 'GET', '/openapi.json', {}, as => '');
$t->postgres->start;


# all of them against the document

my ($file, $log) = map { $t->dir . "/$_" } qw(openapi.json answers);
my $meta = (`tools/openapi-schema 2> /dev/null` // '') =~ s/\n//r;

for ([ $file, $document ], [ $log, @answers ]) {
    my ($name, @lines) = @$_;

    open my $f, '>:raw', $name or die "$name: $!\n";
    print $f map { JSON::PP->new->utf8->canonical->encode($_) . "\n" } @lines;
    close $f;
}

my @says = qx(python3 t/lib/openapi.py '$file' '$meta' '$log' 2>&1);

is($?, 0, 'it was checked') or diag(@says);
ok(!(grep { /^wrong/ } @says), 'all answers are as it says')
    or diag(grep { /^wrong/ } @says);

SKIP: {
    skip 'the schema of OpenAPI is not here: tools/openapi-schema', 1
        unless $meta;
    ok((grep { $_ eq "validated\n" } @says), 'it is an OpenAPI document');
}

my %seen = map { /^seen: (\S+ \S+) 2/ ? ($1 => 1) : () } @says;

is_deeply([ grep { !$seen{$_} } sort keys %documented ], [],
          'every operation was asked');

$t->done;
