
# Limits in shared memory: exact within one nginx, the same arithmetic.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $a = $t->nginx(workers => 2, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT

sub hour { return { name => $_[0], limit => $_[1], window => '1h' } }

my $exact = $t->key(limits => [
    { name => 'monthly', limit => 150, window => '31d' } ]);
my $both  = $t->key(owner => 'ada', owner_limits => [ hour('all', 12) ],
                    limits => [ hour('hourly', 40), hour('small', 7) ]);
my $twin  = $t->key(owner => 'ada');
my $edit  = $t->key(limits => [ hour('hourly', 10) ]);
my $fast  = $t->key(limits => [
    { name => 'fast', limit => 1, window => '3s', burst => 2 } ]);

$t->sync;

sub many {
    my ($n, $key) = @_;
    my %n;

    $n{$_->{status}}++
        for $a->parallel(map { { uri => '/', key => $key->{key} } } 1 .. $n);
    return \%n;
}

is_deeply(many(400, $exact), { 200 => 150, 429 => 250 },
          '150 of 400 pass over two workers');
is($t->upstream->hits, 150, 'so many reach the upstream');
is($a->get('/', key => $exact->{key})->{headers}{'x-mode'}, 'local',
   'decided in shared memory');

is_deeply(many(30, $both), { 200 => 7, 429 => 23 },
          'the smallest of three limits');
is_deeply(many(30, $twin), { 200 => 5, 429 => 25 },
          'a refusal has spent nothing of the owner');

sub remaining {
    return $a->get('/?weight=0', key => $edit->{key})
        ->{headers}{'x-ratelimit-remaining'};
}

is($a->get('/?weight=3', key => $edit->{key})->{status}, 200, 'weight three');
is(remaining(), 7, 'three are spent');

for my $try ([ 20, 17 ], [ 4, 1 ], [ 10, 7 ]) {
    my ($limit, $left) = @$try;

    my $r = $a->admin('PATCH', "api-keys/$edit->{id}", body => {
        limits => [ { unit => 'requests', %{hour('hourly', $limit)} } ] });
    is($r->{status}, 200, "now $limit") or diag($r->{body});
    is(remaining(), $left, "$left are left");
}

# it refills

is_deeply(many(3, $fast), { 200 => 2, 429 => 1 }, 'a burst of two');

my $r = $a->get('/', key => $fast->{key});
like($r->{headers}{'retry-after'}, qr/^[123]$/, 'the next one comes soon');
wait_for('a token', sub {
    $a->get('/', key => $fast->{key})->{status} == 200 });

# What a request costs in the end is charged, though its bucket was full again
# meanwhile and all the room was wanted.

subtest 'a full table' => sub {
    my $n = $t->nginx(name => 'small', base => {
        zone => 'apikey_zone zone=apikey:1m;' }, server => <<'EOS')->start;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_reserve tokens=1 cost=0;
            proxy_pass http://%%UPSTREAM%%;
            proxy_read_timeout 300s;
        }
EOS
    my %l = (name => 'l', limit => 3600, window => '1h');
    my $late = $t->key(limits => [ { %l, unit => 'tokens' } ]);
    my @many = $t->keys(1500, limits => [ { %l, window => '1s' } ]);

    $t->sync;

    my $c = $n->conn;
    my $before = $t->upstream->hits;

    $c->send(Apikey::Http::build('GET', '/gate/set/X-Usage-Input-Tokens/7200',
                                 key => $late->{key}));
    $t->upstream->wait_hits($before + 1);

    wait_for('a full bucket', sub {
        my $r = $n->admin('GET', "limits?key=$late->{id}");
        return json($r)->{data}[0]{used} == 0;
    });

    is(scalar(grep { $_->{status} == 200 }
              $n->parallel(map { { uri => '/', key => $_->{key} } } @many)),
       1500, 'many others');

    $t->upstream->let_go;
    is($c->response->{status}, 200, 'it ends');

    my $r = wait_for('what it has cost', sub {
        my $r = $n->get('/', key => $late->{key});
        return $r->{status} == 429 && $r;
    });
    cmp_ok($r->{headers}{'retry-after'}, '>', 3500, 'it has cost all of it');
};

# shared memory outlives a reload and a worker

$a->reload;
is_deeply(many(5, $exact), { 429 => 5 }, 'after a reload');
$t->allow(qr/exited on signal 9/);
$a->kill_worker;
is_deeply(many(5, $exact), { 429 => 5 }, 'after the death of a worker');

$t->done;
