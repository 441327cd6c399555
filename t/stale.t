# apikey_max_stale: a node that cannot say that its keys are as Postgres has
# them refuses, and stops refusing by itself.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;
$t->allow(qr/Postgres/);

my $key = $t->key(name => 'one');
my $gone = $t->key(name => 'gone');
my $unknown = { key => plain_key('sk') };

my $server = <<'EOT';
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /status/ {
            apikey required;
            apikey_status unavailable=599;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

# without max_stale this one would hear of nothing but by notices
my $n = $t->nginx(server => $server, http => 'apikey_max_stale 3s;',
    base => { redis => undef,
              postgres => 'apikey_postgres "%%PG%%" poll=1h;' })->start;

my $never = $t->nginx(name => 'never', base => { redis => undef })->start;

$t->sync;


sub status { my ($n, $uri, $k) = @_;
             return $n->get($uri, key => $k->{key})->{status} }

sub health {
    my ($n) = @_;

    return json($n->admin('GET', 'health'));
}


subtest 'well' => sub {
    my $end = time + 5;
    my %seen;

    $seen{status($n, '/', $key)}++ while time < $end;
    is(join(' ', keys %seen), '200', 'never stale while Postgres is there');
    is(status($n, '/', $unknown), 401, 'an unknown key is unknown');
    is($n->get('/health?ready')->{status}, 200, 'ready');
};


subtest 'Postgres is away' => sub {
    $pg->stop;

    ok(wait_for('503', sub { status($n, '/', $key) == 503 }), 'refused');

    my $r = $n->get('/', key => $key->{key});
    my $j = json($r);

    is("$j->{code} $j->{status}", 'unavailable 503', 'its body');
    is($r->{headers}{'retry-after'}, 1, 'Retry-After');

    is(status($n, '/', $unknown), 503, 'nor can an unknown key be told');
    is(status($n, '/', { key => 'short' }), 401, 'what is no key is none');
    is(status($n, '/', {}), 401, 'no key is no key');
    is(status($n, '/optional/', {}), 200, 'nobody passes');
    is(status($n, '/optional/', $key), 503, 'a key does not');
    is(status($n, '/status/', $key), 599, 'with the status that is wanted');

    is($n->get('/health')->{status}, 200, 'nginx lives');
    is($n->get('/health?ready')->{status}, 503, 'and is not ready');

    $j = health($n);
    is($j->{status} . ' ' . ($j->{ready} ? 1 : 0), 'unavailable 0', 'health');
    ok((grep { /older than apikey_max_stale/ } @{$j->{warnings}}), 'says why');

    is(status($never, '/', $key), 200, 'off by default');
    is($never->get('/health?ready')->{status}, 200, 'and ready');

    ok($n->metric('apikey_requests_total', verdict => 'unavailable') >= 4,
       'counted');
    ok($n->wait_log(qr/\[error\].* older than "apikey_max_stale"/), 'logged');
};


subtest 'a saved copy is as old as it was' => sub {
    $n->stop;
    $n->start(wait => 0);
    is(status($n, '/', $key), 503, 'refused');
    is($n->get('/health?ready')->{status}, 503, 'not ready');
    $n->stop;

    $pg->start;
    $pg->run("UPDATE apikey.key SET enabled = false WHERE id = '$gone->{id}'");
    $n->start(wait => 0);

    my %seen;

    ok(wait_for('a known key', sub {
        $seen{status($n, '/', $gone)}++;
        return status($n, '/', $key) == 200;
    }, 30), 'passes again');

    is(status($n, '/', $gone), 401, 'what changed meanwhile is known');
    is($seen{200}, undef, 'and never judged by the old');
    is($n->get('/health?ready')->{status}, 200, 'ready');
};


subtest 'Postgres is back' => sub {
    $pg->stop;
    ok(wait_for('503', sub { status($n, '/', $key) == 503 }), 'refused');
    $pg->start;
    ok(wait_for('200', sub { status($n, '/', $key) == 200 }, 30),
       'passes again, by itself');
    is($n->get('/health?ready')->{status}, 200, 'ready');
};


subtest 'no copy and no Postgres' => sub {
    my $m = $t->nginx(name => 'empty', server => $server,
        http => 'apikey_max_stale 1h;', base => { redis => undef });

    $pg->stop;
    $m->start(wait => 0);
    is(status($m, '/', $key), 503, 'nobody can tell');
    $pg->start;
    ok(wait_for('200', sub { status($m, '/', $key) == 200 }, 30), 'loaded');
    $m->stop;
};


subtest 'a zone that is too small' => sub {
    my @keys = $t->keys(12000);

    my $m = $t->nginx(name => 'small', server => $server,
        http => 'apikey_max_stale 3s;', base => { redis => undef,
        zone => 'apikey_zone zone=apikey:1m;' })->start(wait => 0);

    wait_for('a warning', sub { $m->wait_log(qr/too small for all keys/) },
             30);

    my $end = time + 5;
    my %seen;

    $seen{status($m, '/', $keys[rand @keys])}++ while time < $end;
    is(join(' ', keys %seen), '200', 'what it holds does not grow old');

    $pg->stop;
    ok(wait_for('503', sub { status($m, '/', $keys[0]) == 503 }), 'refused');
    $pg->start;
    ok(wait_for('200', sub { status($m, '/', $keys[0]) == 200 }, 30),
       'and back');
    $m->stop;
};

$t->done;
