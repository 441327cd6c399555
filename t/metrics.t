# apikey_metrics: the names and types of the contract, and that the numbers
# are true.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my $n = $t->nginx(
    base => { redis => 'apikey_redis %%REDIS%% timeout=2s;'
                       . 'apikey_limit_mode direct;' })->start;
my $k = $t->key(name => 'unmistakable', owner => 'somebody',
    limits => [{ name => 'three', limit => 3, window => '1h' }]);

$t->sync;

my @status = map { $n->get('/', key => $k->{key})->{status} } 1 .. 5;

is("@status", '200 200 200 429 429', 'requests to count');
is($n->get('/')->{status}, 401, 'one without a key');
is($n->get('/', key => plain_key('sk'))->{status}, 401, 'one unknown');

my %type = (
    apikey_requests_total            => 'counter',
    apikey_decisions_total           => 'counter',
    apikey_credential_failures_total => 'counter',
    apikey_limited_total             => 'counter',
    apikey_dropped_total             => 'counter',
    apikey_redis_seconds             => 'histogram',
    apikey_postgres_seconds          => 'histogram',
    apikey_redis_up                  => 'gauge',
    apikey_keyring_keys              => 'gauge',
    apikey_keyring_age_seconds       => 'gauge',
    apikey_journal_bytes             => 'gauge',
    apikey_journal_lag_seconds       => 'gauge',
    apikey_shm_free_bytes            => 'gauge',
    apikey_nodes                     => 'gauge',
    apikey_waiting                   => 'gauge',
    apikey_decisions_waited_total    => 'counter',
    apikey_lease_calls_total         => 'counter',
    apikey_budget_drift              => 'gauge',
);

my $r = $n->get('/metrics');
my $text = $r->{body};

is($r->{status}, 200, 'status');
is($r->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8',
   'content type');
is($r->{headers}{'cache-control'}, 'no-store', 'no-store');
is_deeply({ $text =~ /^# TYPE (\S+) (\S+)$/mg }, \%type, 'names and types');
is_deeply([ sort $text =~ /^# HELP (\S+) \S.*$/mg ], [ sort keys %type ],
          'HELP');

my $family = '';
my (%seen, @bad);

for my $line (split /\n/, $text) {
    if ($line =~ /^# (HELP|TYPE) (\S+)/) {
        push @bad, $line if $seen{"$1 $2"}++;
        $family = $2;

    } elsif ($line !~ /^\Q$family\E(_bucket|_sum|_count)?(\{\w+="[^"]+"\})?
                       [ ](\d+(\.\d+)?|\+Inf)$/x
             || $seen{$line =~ s/ \S+$//r}++)
    {
        push @bad, $line;
    }
}

is_deeply(\@bad, [], 'every line has its form and stands once');
like($text, qr/\n\z/, 'the last line ends');
unlike($text, qr/unmistakable|somebody|\Q$k->{id}\E|sk_/, 'no key labels');

is($n->metric('apikey_requests_total', verdict => 'ok'), 3, 'ok');
is($n->metric('apikey_requests_total', verdict => 'rate_limited'), 2,
   'rate_limited');
is($n->metric('apikey_requests_total', verdict => 'missing_key'), 1,
   'missing_key');
is($n->metric('apikey_requests_total', verdict => 'invalid_key'), 1,
   'invalid_key');
is($n->metric('apikey_requests_total', verdict => $_), 0, $_)
    for qw(anonymous revoked_key expired_key budget_exceeded unavailable);
is($n->metric('apikey_decisions_total', mode => 'direct'), 5, 'direct');
is($n->metric('apikey_credential_failures_total', reason => 'missing'), 1,
   'missing');
is($n->metric('apikey_credential_failures_total', reason => 'unknown'), 1,
   'unknown');
is($n->metric('apikey_keyring_keys'), 1, 'keyring_keys');
is($n->metric('apikey_nodes'), 1, 'nodes');
is($n->metric('apikey_redis_up'), 1, 'redis_up');
is($n->metric('apikey_dropped_total'), 0, 'dropped_total');
cmp_ok($n->metric('apikey_keyring_age_seconds'), '<', 10, 'keyring_age');
cmp_ok($n->metric('apikey_shm_free_bytes'), '>', 1024 * 1024, 'shm_free');
cmp_ok($n->metric('apikey_redis_seconds_count'), '>=', 5, 'redis_seconds');
cmp_ok($n->metric('apikey_postgres_seconds_count'), '>=', 1,
       'postgres_seconds');

my @buckets = $text =~ /^apikey_redis_seconds_bucket\{le="[\d.]+"\} (\d+)$/mg;

is(@buckets, 12, 'buckets');
is_deeply(\@buckets, [ sort { $a <=> $b } @buckets ], 'they are cumulative');

$n->get('/metrics') for 1 .. 3;
is($n->metric('apikey_requests_total', verdict => 'ok'), 3,
   'metrics count no requests');

is($n->request('HEAD', '/metrics')->{body}, '', 'HEAD');

$r = $n->request('POST', '/metrics', body => 'x');
is($r->{status}, 405, 'POST');
is($r->{headers}{allow}, 'GET, HEAD', 'Allow');

$t->redis->stop;
wait_for('redis_up 0', sub { $n->metric('apikey_redis_up') == 0 });
$t->redis->start;
wait_for('redis_up 1', sub { $n->metric('apikey_redis_up') == 1 });
pass('redis_up follows Redis');

my $local = $t->nginx(name => 'local', workers => 3,
                      base => { redis => undef })->start;

unlike($local->get('/metrics')->{body}, qr/^apikey_redis_up \d/m,
       'no value without apikey_redis');

# each worker has counters of its own; what those that are gone have counted
# is not forgotten, nor counted twice by who comes in their place

my $free = $t->key(name => 'free');

$t->sync;

my $before = $t->{upstream}->hits;

for my $then ('of all workers', 'with one killed', 'with all killed',
              'after a reload')
{
    $local->kill_worker if $then eq 'with one killed';
    $local->kill_worker($_)
        for $then eq 'with all killed' ? $local->workers : ();
    $local->reload if $then eq 'after a reload';

    my @got = $local->parallel(map {
        +{ key => $free->{key} }
    } 1 .. 60);

    is(scalar(grep { $_->{status} == 200 } @got), 60, "60 pass, $then");

    # an answer is there before it is counted

    my $want = $t->{upstream}->hits - $before;
    my $sum = sub { $local->metric("apikey_$_[0]_total", @_[1, 2]) };

    wait_for("$want requests", sub {
        return $sum->('requests', verdict => 'ok') >= $want;
    });
    is($sum->('requests', verdict => 'ok'), $want, "requests, $then");
    is($sum->('decisions', mode => 'none'), $want, "decisions, $then");
}

$t->done;
