
# Redis that is slow, lies, falls silent, is gone: no request waits longer
# than the deadline, none waits twice, each policy decides as it says.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $redis = $t->redis;
my $peer  = $t->peer(to => $redis->port);

sub node {
    my ($name, $url, $more) = @_;

    return $t->nginx(name => $name, server => <<'EOT', base => {
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        redis => "apikey_redis $url; $more" })->start;
}

my $direct = 'redis://127.0.0.1:' . $redis->port;
my $local = node('local', $direct, 'apikey_redis_down local nodes=2;');
my $deny  = node('deny',  $direct, 'apikey_redis_down deny;');
my $allow = node('allow', $direct, 'apikey_redis_down allow;');
my $fake  = node('fake', 'redis://127.0.0.1:' . $peer->port . ' timeout=100ms',
                 'apikey_redis_down deny;');
my $slow  = node('slow', 'redis://127.0.0.1:' . $peer->port . ' timeout=5s',
                 'apikey_redis_down deny;');

sub hour { return { name => 'hourly', limit => $_[0], window => '1h' } }

my $seen  = $t->key(limits => [ hour(20) ]);
my $fresh = $t->key(limits => [ hour(20) ]);
my $one   = $t->key(limits => [ hour(1) ]);
my $big   = $t->key(limits => [ hour(100000) ]);
my $free  = $t->key;

$t->sync;

sub ask {
    my ($node, $key) = @_;

    my $start = time;
    my $r = $node->get('/', key => $key->{key});
    return ("$r->{status} $r->{headers}{'x-mode'}", time - $start, $r);
}

sub answers {
    my ($n, $node, $key) = @_;
    my %n;

    $n{(ask($node, $key))[0]}++ for 1 .. $n;
    return \%n;
}

sub wait_direct {
    my ($node) = @_;

    my $start = time;
    wait_for('direct', sub { (ask($node, $big))[0] eq '200 direct' });
    return time - $start;
}

wait_direct($_) for $local, $deny, $allow, $fake, $slow;

# 20 an hour, 8 spent: what is left counts, shared by two nodes

is_deeply(answers(8, $local, $seen), { '200 direct' => 8 }, 'Redis is up');

$redis->stop('kill');

my ($slowest, $answer) = (0);

for (1 .. 3) {
    ($answer, my $seconds) = ask($deny, $big);
    $slowest = $seconds if $seconds > $slowest;
}

is($answer, '503 down_deny', 'deny');
cmp_ok($slowest, '<', 0.05, 'a refused connection makes nobody wait');
is_deeply(answers(5, $allow, $one), { '200 down_allow' => 5 }, 'allow');
is_deeply(answers(10, $local, $seen),
          { '200 down_local' => 6, '429 down_local' => 4 },
          'local: half of what was left');
is_deeply(answers(15, $local, $fresh),
          { '200 down_local' => 10, '429 down_local' => 5 },
          'local: never seen, half of the burst');
is_deeply(answers(2, $local, $one), { '429 down_local' => 2 },
          'local: a share below one');
is((ask($deny, $free))[0], '200 none', 'no limit needs no Redis');

my $r = (ask($local, $one))[2];
ok(!exists $r->{headers}{'x-ratelimit-remaining'}, 'nothing is invented');
is($r->{headers}{'retry-after'}, 1, 'less than a share: when Redis is back');

$r = (ask($local, $seen))[2];
like($r->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'a spent share opens again');
is_deeply([ @{json($r)}{qw(code retry_after)} ],
          [ 'rate_limited', $r->{headers}{'retry-after'} ], 'and its body');

$r = (ask($deny, $one))[2];
ok($r->{headers}{'retry-after'}, 'unavailable says when to try again');
is(json($r)->{code}, 'unavailable', 'and is never shown as a bad key');

wait_for('redis_up 0', sub { $deny->metric('apikey_redis_up') == 0 });

$redis->start;
cmp_ok(wait_direct($_), '<', 1.5, $_->name . ' is back in a second')
    for $local, $deny, $allow;
is($deny->metric('apikey_redis_up'), 1, 'redis_up 1');

# a store that comes and goes gives no new share each time

is_deeply(answers(1, $local, $seen), { '200 direct' => 1 },
          'Redis has forgotten, and is asked');
$redis->stop('kill');
is_deeply(answers(3, $local, $seen), { '429 down_local' => 3 },
          'what was spent alone still counts');
$redis->start;
wait_direct($_) for $local, $deny, $allow;

# a server that hangs: a few wait, once, then nobody does

wait_direct($deny);
$redis->freeze;

my @seconds = map { (ask($deny, $big))[1] } 1 .. 10;

is(scalar(grep { $_ > 0.04 } @seconds[4 .. 9]), 0, 'the breaker opens');
cmp_ok((sort { $a <=> $b } @seconds)[-1], '<', 0.25, 'none waits twice');
$redis->thaw;
cmp_ok(wait_direct($deny), '<', 1.5, 'back in a second');

# a peer that misbehaves: bounded, refused, and recovers

for my $case (
    [ 'delay', 0.4 ], [ 'trickle', 0.05 ], [ 'silent' ], [ 'half' ], [ 'cut' ],
    map({ [ 'junk', $_ ] } "HTTP/1.1 400 Bad Request\r\n", "*100000000\r\n",
        "\$500000000\r\nx", "+OK\r\n" x 9, ":1\r\n", "\$-1\r\n",
        "\$16\r\n0123456789abcdef\r\n", "-OOM command not allowed\r\n",
        "-READONLY replica\r\n", "-LOADING\r\n", "-NOSCRIPT gone\r\n",
        "\$90000\r\n" . 'x' x 90000, "\0" x 1000))
{
    my ($mode, $value) = @$case;

    wait_direct($fake);
    $peer->mode($mode, $value);

    my $name = $mode . (defined $value ? ' ' . substr($value, 0, 12) : '');
    $name =~ s/\s+/ /g;
    $name =~ s/\0/0/g;

    $slowest = 0;

    for (1 .. 4) {
        ($answer, my $seconds) = ask($fake, $big);
        $slowest = $seconds if $seconds > $slowest;
    }

    is($answer, '503 down_deny', "$name: refused");
    cmp_ok($slowest, '<', 0.35, "$name: bounded");

    $peer->mode('pass');
    cmp_ok(wait_direct($fake), '<', 2, "$name: back");
}

# requests that wait: clients leave, the configuration is reloaded

wait_direct($slow);
$peer->mode('delay', 0.3);

my @conns = map { $slow->conn } 1 .. 20;
my $before = $redis->calls->{evalsha};

$_->send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: $big->{key}\r\n\r\n")
    for @conns;

wait_for('all of them in Redis', sub {
    $redis->calls->{evalsha} >= $before + 20 });

$_->abort for @conns[0 .. 9];
$slow->reload;

my %n;
$n{$_->response->{status}}++ for @conns[10 .. 19];
is_deeply(\%n, { 200 => 10 }, 'requests that wait are answered over a reload');

$peer->mode('pass');
wait_direct($slow);

# one deadline for both waits, for the connection and then for TAKE: this
# peer lets a worker in late, two thirds of it gone, and then says nothing

my $open = "$t->{dir}/open";
my $door = $t->peer(redis => sub {
    my ($state, $command) = @_;

    return undef if $command ne 'PING';
    wait_for('the door', sub { -e $open }, 30);
    return "+PONG\r\n";
});
my $late = node('late', 'redis://127.0.0.1:' . $door->port . ' timeout=3s',
                'apikey_redis_down deny;');

my $conn = $late->conn;
my $start = time;

$conn->send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: $big->{key}\r\n\r\n");
wait_for('it waits', sub { $late->metric('apikey_waiting') == 1 });
wait_for('two seconds', sub { time - $start >= 2 });
open my $opened, '>', $open or die "$open: $!\n";
wait_for('TAKE', sub { grep { $_->[0] eq 'EVALSHA' } $door->commands });

is($conn->response->{status}, 503, 'let in, and then not answered');
cmp_ok(time - $start, '<', 4.5, 'no longer than the deadline, not 2 + 3 s');

$t->done;
