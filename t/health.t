# apikey_health, and the admin API's GET health.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my $n = $t->nginx->start;
my @members = qw(status ready node version schema keyring redis postgres
                 journal warnings);


sub health { return json($n->admin('GET', 'health', @_)) }


subtest 'all is well' => sub {
    my $r = $n->get('/health');

    is($r->{status}, 200, 'alive');
    is($r->{headers}{'cache-control'}, 'no-store', 'no-store');
    is($n->get("/health?$_")->{status}, 200, $_) for qw(ready a=1&ready=1);
    is($n->request('HEAD', '/health')->{status}, 200, 'HEAD');
    is($n->request('POST', '/health')->{status}, 405, 'POST');

    my $k = $t->key;
    $t->sync;

    wait_for('the first beats', sub { health()->{status} eq 'ok' }, 10);

    my $h = health();

    is_deeply([ sort keys %$h ], [ sort @members ], 'members');
    is($h->{status}, 'ok', 'status');
    ok($h->{ready}, 'ready');
    is($h->{node}, 'node', 'node');
    like($h->{version}, qr/^\d+\.\d+\.\d+\z/, 'version');
    is($h->{schema}, $t->postgres->value('SELECT apikey.schema_version()'),
       'schema');
    is_deeply([ sort keys %{$h->{keyring}} ], [ qw(age_ms complete keys) ],
              'keyring');
    is($h->{keyring}{keys}, 1, 'keys');
    cmp_ok($h->{keyring}{age_ms}, '<', 10000, 'age_ms');
    is($h->{redis}, 'up', 'redis');
    is($h->{postgres}, 'up', 'postgres');
    is_deeply([ sort keys %{$h->{journal}} ], [ qw(bytes lag_ms) ],
              'journal');
    is_deeply($h->{warnings}, [], 'no warnings');

    for my $as ('', $k->{key}) {
        my $few = health(as => $as);

        is_deeply([ sort keys %$few ], [ qw(ready status) ],
                  ($as ? 'a key' : 'nobody') . ' learns little');
    }

    is($n->admin('GET', 'health', as => $t->{read_token})->{status}, 200,
       'role=read');
    is($n->admin('GET', 'health', as => 'op_wrong_token')->{status}, 401,
       'a wrong credential is wrong');
    is($n->admin('GET', 'health?x=1')->{status}, 400, 'no query');
};


subtest 'Redis is down' => sub {
    $t->redis->stop;
    wait_for('degraded', sub { health()->{redis} eq 'down' });

    my $h = health();

    is($h->{status}, 'degraded', 'degraded');
    like("@{$h->{warnings}}", qr/Redis is down/, 'says why');
    is($n->get('/health?ready')->{status}, 200, 'still ready');

    $t->redis->start;
    wait_for('ok', sub { health()->{status} eq 'ok' });
    pass('ok again');
};


subtest 'Postgres is down' => sub {
    $t->postgres->stop;
    wait_for('degraded', sub { health()->{postgres} eq 'down' });

    my $h = health();

    is($h->{status}, 'degraded', 'degraded');
    ok($h->{ready}, 'still ready');
    like("@{$h->{warnings}}", qr/Postgres is down/, 'says why');

    my $new = $t->nginx(name => 'new')->start(wait => 0);

    is($new->get('/health')->{status}, 200, 'a new node is alive');
    is($new->get('/health?ready')->{status}, 503, 'but not ready');

    $h = json($new->admin('GET', 'health'));

    is($h->{status}, 'unavailable', 'unavailable');
    ok(!$h->{ready}, 'not ready');
    is($h->{keyring}{age_ms}, undef, 'age_ms null');
    like("@{$h->{warnings}}", qr/keyring is not complete/, 'says why');

    $t->postgres->start;
    $new->wait_ready;
    wait_for('ok', sub { health()->{status} eq 'ok' }, 20);
    pass('ok again');
};


subtest 'two nodes without Redis' => sub {
    my @base = (base => { redis => undef });
    my $one = $t->nginx(name => 'one', @base)->start;
    my $h;

    wait_for('the other nodes', sub {
        $h = json($one->admin('GET', 'health'));
        return "@{$h->{warnings}}" =~ /without apikey_redis/;
    }, 10);

    is($h->{status}, 'degraded', 'degraded');
    is($h->{redis}, undef, 'redis null');
    cmp_ok($one->metric('apikey_nodes'), '>=', 2, 'a metric, too');
};


$t->done;
