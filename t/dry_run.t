
# apikey_dry_run: everything is decided, recorded, counted and said, and nobody
# is refused.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for plain_key);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

sub hour { return { name => 'hourly', limit => $_[0], window => '1h' } }

my $key = $t->key(name => 'one', owner => 'ada', limits => [ hour(3) ]);
my $bare = $t->key(scopes => ['a'], allowed_ips => ['192.0.2.0/24']);
my $off = $t->key(enabled => 0);
my $old = $t->key(expires_at => '2020-01-01');

my $n = $t->nginx(base => { redis => undef }, server => <<'EOS')->start;
        apikey_usage headers;

        location / {
            apikey required;
            apikey_dry_run on;
            apikey_weight $arg_weight;
            add_header X-Verdict
                "$apikey_verdict $apikey_limit_name $apikey_retry_after" always;
            proxy_set_header X-Id $apikey_id;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope/ {
            apikey required;
            apikey_dry_run on;
            apikey_scope b;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /any/ {
            satisfy any;
            deny all;
            apikey required;
            apikey_dry_run on;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /to-real/ {
            apikey required;
            apikey_dry_run on;
            proxy_intercept_errors on;
            error_page 404 = /real/;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /to-dry/ {
            apikey required;
            apikey_dry_run on;
            proxy_intercept_errors on;
            error_page 404 = /scope/;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /real/ {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


sub record {
    my ($r, $columns) = @_;

    my $id = $r->{headers}{'x-request-id'};
    my @row;

    wait_for("the record of $id", sub {
        my ($row) = $pg->rows("SELECT $columns FROM apikey.usage_event"
            . " WHERE event = '$id'");
        @row = @{$row // []};
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @row;
}


sub passes {
    my ($path, $plain, $verdict, $want) = @_;

    my $hits = $up->hits;
    my $r = $n->get($path, key => $plain);

    is($r->{status}, 200, "$verdict passes");
    is($up->hits, $hits + 1, "$verdict goes upstream");
    is(record($r, 'verdict, coalesce(key_id::text, \'none\'), outcome,'
              . ' status_code, aborted'),
       "$verdict $want success 200 null", "its record says $verdict");
    is($n->metric('apikey_requests_total', verdict => $verdict), 1,
       'the metric counts it');
    return $r;
}


subtest 'keys' => sub {
    passes('/', undef, 'missing_key', 'none');
    my $r = passes('/', plain_key('sk'), 'invalid_key', 'none');
    is($r->{headers}{'x-verdict'}, 'invalid_key', 'the variable, too');
    passes('/', $off->{key}, 'disabled_key', $off->{id});
    passes('/', $old->{key}, 'expired_key', $old->{id});
    passes('/', $bare->{key}, 'ip_denied', $bare->{id});
    passes('/scope/', $key->{key}, 'scope_denied', $key->{id});

    is($n->metric('apikey_credential_failures_total', reason => 'unknown'),
       1, 'the reasons are counted');
    like($n->log_text, qr/apikey_dry_run: would be refused: expired_key/,
         'the log says so');
};


subtest 'limits' => sub {
    my @r = map { $n->get('/', key => $key->{key}) } 1 .. 5;

    is_deeply([ map { $_->{status} } @r ], [ (200) x 5 ], 'all pass');
    is_deeply([ map { $_->{headers}{'x-ratelimit-remaining'} } @r ],
              [ 2, 1, 0, 0, 0 ], 'the headers as ever');
    like($r[4]{headers}{'x-verdict'}, qr/^rate_limited hourly \d+$/,
         'which limit, how long');
    ok(!exists $r[4]{headers}{'retry-after'}, 'but no Retry-After');
    is(record($r[0], 'verdict, limit_name'), 'ok null', 'admitted');
    is(record($r[4], 'verdict, limit_name, "limit", remaining,'
              . ' retry_after > 0'),
       'rate_limited hourly 3 0 t', 'would have been refused');
    is($n->metric('apikey_requests_total', verdict => 'rate_limited'), 2,
       'so many would have been');

    wait_for('the sums', sub {
        $pg->value("SELECT requests || ' ' || refused FROM apikey.key_usage
                    WHERE key_id = '$key->{id}'") eq '6 0';
    });
    is($pg->value("SELECT sum(requests) FROM apikey.usage_daily
                   WHERE verdict = 'rate_limited' AND limit_name = 'hourly'"),
       2, 'they count as requests, told apart');

    my $r = $n->get('/set/X-Usage-Cost/0.5', key => $key->{key});
    is(record($r, 'verdict, cost'), 'rate_limited 500000000',
       'what it has cost is known');
};


subtest 'other locations' => sub {
    is($n->get('/real/', key => $key->{key})->{status}, 429,
       'elsewhere it is refused');
    is($n->get('/real/')->{status}, 401, 'and without a key');
    is($n->get('/any/')->{status}, 403, 'a missing key satisfies nobody');
    is($n->get('/any/', key => $key->{key})->{status}, 200,
       'a key without room does');

    my $r = $n->get('/to-real/status/404', key => plain_key('sk'));
    is($r->{status}, 401, 'an internal redirect into a real one');
    is(record($r, 'verdict, outcome'), 'invalid_key error',
       'was at an upstream, has a record');

    $r = $n->get('/to-dry/status/404', key => $key->{key});
    is($r->{status}, 200, 'into another dry one');
    is(record($r, 'verdict'), 'rate_limited', 'the first reason stays');
};


subtest 'nobody to ask' => sub {
    my $m = $t->nginx(name => 'empty', wait => 0, base => {
        redis => undef,
        postgres => 'apikey_postgres "host=/nowhere dbname=x";',
    }, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_dry_run on;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Verdict $apikey_verdict always;
        }
EOT
    my $r = $m->get('/', key => $key->{key});

    is($r->{status}, 200, 'passes');
    is($r->{headers}{'x-verdict'}, 'unavailable', 'would not have');
};


$t->allow(qr/nowhere/);
$t->done;
