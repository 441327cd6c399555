
# Faults at random, under load: kill -9 of a worker, of all of nginx, of Postgres,
# of Redis; a worker or Postgres stopped for a while; connections cut; reloads,
# another binary, the journal's disk full (where a small one can be mounted).
# Then the upstream's own log of ids and of what each request has cost against
# what is in Postgres.  make test runs this twice, so 200 faults; more by
# APIKEY_SOAK.

use strict;
use warnings;

use Test::More;
use List::Util qw(sum);
use Time::HiRes qw(sleep);

use Apikey::Process qw(children_of);
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $redis = $t->redis;
my $up = $t->upstream;

my @keys = $t->keys(3, limits => [{ name => 'wide', limit => 1000000,
                                    window => '1h' }]);
my $few = $t->key(limits => [{ name => 'few', limit => 5,
                               window => '1h' }]);

my $disk = $t->dir . '/disk';
mkdir $disk or die "$disk: $!\n";
my $small = $> == 0
    && !system('mount', '-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', $disk);

END { system('umount', '-l', $disk) if $small }

my $n = $t->nginx(workers => 2, daemon => 1, server => <<'EOT',
        location / {
            apikey required;
            apikey_usage headers;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT
    base => { redis => 'apikey_redis %%REDIS%% timeout=200ms;',
              journal => "apikey_journal $disk/journal ring=%%RING%%"
                  . ' drain=1s;' })->start;
$t->sync;

my $seed = $ENV{APIKEY_SEED} // time;
srand $seed;
note "APIKEY_SEED=$seed";

my %fault = (
    worker => sub { $n->kill_worker(($n->workers)[rand 2]) },

    nginx => sub {
        $n->stop('KILL');
        $n->start(wait => 0);
    },

    postgres => sub {
        $pg->stop(rand() < 0.5 ? 'immediate' : 'kill');
        sleep rand 0.5;
        $pg->start;
    },

    redis => sub {
        $redis->stop('kill');
        sleep rand 0.3;
        $redis->start;
    },

    reload => sub { $n->reload },

    upgrade => sub {
        $n->upgrade;
        sleep rand 0.2;
        $n->quit_old;
    },

    disk => sub {
        open my $f, '>', "$disk/full" or die "$disk/full: $!\n";
        1 while syswrite $f, "\0" x 65536;

        # it has room in its segment until it needs another

        $n->stop('KILL');
        $n->start(wait => 0);
        sleep rand 0.5;
        unlink "$disk/full";
    },

    stopped => sub {
        my @pids = rand() < 0.5 ? ($n->workers)[rand 2]
                                : children_of($pg->{process}->pid);

        kill 'STOP', @pids;
        sleep rand 0.5;
        kill 'CONT', @pids;
    },

    cut => sub {
        $pg->run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE application_name LIKE 'apikey%'");
    },
);

my @faults = ('worker', 'nginx', 'postgres', 'redis', 'reload', 'stopped',
              'cut', 'upgrade', $small ? 'disk' : ());
my $rounds = rounds(100, 10000);

# each key's requests have a cost of their own

my @costs = map { "0.00000000$_" } 3, 5, 7;
my @loads = ((map { $n->load(key => $keys[$_]{key}, clients => 2,
                             uri => "/set/X-Usage-Cost/$costs[$_]") } 0 .. 2),
             $n->load(key => $few->{key}, clients => 2));

for my $round (1 .. $rounds) {

    # each one at least twice, then at random

    my $what = $round <= 2 * @faults ? $faults[($round - 1) % @faults]
                                     : $faults[rand @faults];

    sleep 0.05 + rand 0.2;
    note "round $round: $what";
    $fault{$what}->();
}

sleep 0.3;

my @results = map { $_->stop } @loads;
my @admitted = grep { $_->{status} == 200 } @results;

cmp_ok(@admitted, '>', 10 * $rounds, 'there was a load');

# everything that can end has ended: a worker that goes leaves nothing open

$n->stop;
$n->start;

wait_for('all usage in Postgres', sub {
    return 0 unless $n->metric('apikey_journal_bytes') == 0;

    my $as_of = $pg->value('SELECT apikey.usage_as_of() > now()
                            - interval \'2 s\'');
    return $as_of eq 't';
}, 30);

my %have;
$have{$_->[0]} = { status_code => $_->[1], outcome => $_->[2],
                   aborted => $_->[3], cost => $_->[4] }
    for $pg->rows('SELECT event, status_code, outcome,
                   coalesce(aborted, \'\'), cost FROM apikey.usage_event');
my %went = map { $_->{id} => $_->{uri} =~ /Cost.0[.]0*(\d)/ ? $1 : 0 }
           $up->requests;

is($pg->value('SELECT count(*) - count(DISTINCT event)
               FROM apikey.usage_event'), 0, 'no id stands twice');

my @missing = grep { !$have{$_} } keys %went;
is(scalar(@missing), 0, 'every id at the upstream is in Postgres')
    or diag(map { "$_\n" } @missing[0 .. ($#missing > 5 ? 5 : $#missing)]);

my @odd = grep {
    my $e = $have{$_};
    !exists $went{$_} && $e->{outcome} ne 'refused'
        && $e->{aborted} ne 'worker_lost'
        && $e->{status_code} !~ /^(499|50[0234])$/
} keys %have;
is(scalar(@odd), 0, 'every id only in Postgres never left')
    or diag(map { "$_ $have{$_}{status_code} $have{$_}{aborted}\n" } @odd);

my @refused = grep {
    $_->{status} == 429 && $have{$_->{id}}
        && $have{$_->{id}}{outcome} ne 'refused'
} @results;
is(scalar(@refused), 0, 'no id of a refused request');

my @lost = grep { $_->{id} ne '' && !$have{$_->{id}} } @admitted;
is(scalar(@lost), 0, 'every id that a client saw is in Postgres');

my @priced = grep {
    $have{$_} && $have{$_}{status_code} == 200 && $have{$_}{aborted} eq ''
} keys %went;
is(scalar(grep { ($have{$_}{cost} // 0) != $went{$_} } @priced), 0,
   scalar(@priced) . ' requests cost what the upstream said');
is($pg->value('SELECT sum(cost) FROM apikey.usage_quarter'),
   sum(map { $_->{cost} // 0 } values %have), 'so do the roll-ups');
is($pg->value('SELECT sum(requests) FROM apikey.usage_quarter'),
   scalar(grep { $_->{outcome} ne 'refused' } values %have),
   'the roll-ups say the same');
is($pg->value('SELECT sum(requests) FROM apikey.key_usage'),
   scalar(grep { $_->{outcome} ne 'refused' } values %have),
   'and so do the keys');
is($pg->value('SELECT sum(lost) FROM apikey.usage_stream'), 0,
   'no stream has a gap');
is($pg->value('SELECT count(*) FROM apikey.usage_quarantine'), 0,
   'nothing was refused by Postgres');

note 'the largest batch had '
    . $pg->value('SELECT max(last - first + 1) FROM apikey.usage_batch')
    . ' events';
note scalar(() = $n->log_text =~ /shipped from memory/g)
    . ' times the disk was full';
note scalar(@admitted) . ' admitted, ' . scalar(keys %went)
    . ' at the upstream, ' . scalar(keys %have) . ' in Postgres, '
    . scalar(grep { $_->{aborted} eq 'worker_lost' } values %have) . ' lost';

$n->stop;
system('umount', '-l', $disk) if $small;
$small = 0;

$t->allow(qr/exited on signal 9/);
$t->allow(qr/in the journal .* failed, usage is shipped from memory/);
$t->done;
