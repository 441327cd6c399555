
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
            add_header X-At $msec always;
        }
EOT
        redis => "apikey_redis $url; apikey_limit_mode direct; $more" })
        ->start;
}

my $direct = 'redis://127.0.0.1:' . $redis->port;

# of what it admits each counts, however slow Redis is

my $local = node('local', "$direct timeout=5s",
                 'apikey_redis_down local nodes=2;');
my $deny  = node('deny',  $direct, 'apikey_redis_down deny;');

# who waits for this deadline gets no answer before the client gives up
my $patient = node('patient', "$direct timeout=2m",
                   'apikey_redis_down deny;');
my $allow = node('allow', $direct, 'apikey_redis_down allow;');
my $fake  = node('fake', 'redis://127.0.0.1:' . $peer->port . ' timeout=100ms',
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

    my $r = $node->get('/', key => $key->{key});
    return ("$r->{status} $r->{headers}{'x-mode'}", $r);
}

sub answers {
    my ($n, $node, $key) = @_;
    my %n;

    $n{(ask($node, $key))[0]}++ for 1 .. $n;
    return \%n;
}

sub wait_direct {
    my ($node) = @_;

    return wait_for($node->name . ' direct',
                    sub { (ask($node, $big))[0] eq '200 direct' });
}

wait_direct($_) for $local, $deny, $patient, $allow, $fake;

# 20 an hour, 8 spent: what is left counts, shared by two nodes

is_deeply(answers(8, $local, $seen), { '200 direct' => 8 }, 'Redis is up');

$redis->stop('kill');

is_deeply(answers(3, $deny, $big), { '503 down_deny' => 3 }, 'deny');
is_deeply(answers(5, $patient, $big), { '503 down_deny' => 5 },
          'a refused connection makes nobody wait');
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

my $r = (ask($local, $one))[1];
ok(!exists $r->{headers}{'x-ratelimit-remaining'}, 'nothing is invented');
is($r->{headers}{'retry-after'}, 1, 'less than a share: when Redis is back');

$r = (ask($local, $seen))[1];
like($r->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'a spent share opens again');
is_deeply([ @{json($r)}{qw(code retry_after)} ],
          [ 'rate_limited', $r->{headers}{'retry-after'} ], 'and its body');

$r = (ask($deny, $one))[1];
ok($r->{headers}{'retry-after'}, 'unavailable says when to try again');
is(json($r)->{code}, 'unavailable', 'and is never shown as a bad key');

wait_for('redis_up 0', sub { $deny->metric('apikey_redis_up') == 0 });

$redis->start;
ok(wait_direct($_), $_->name . ' is back')
    for $local, $deny, $patient, $allow;
is($deny->metric('apikey_redis_up'), 1, 'redis_up 1');

# a store that comes and goes gives no new share each time

is_deeply(answers(1, $local, $seen), { '200 direct' => 1 },
          'Redis has forgotten, and is asked');
$redis->stop('kill');
is_deeply(answers(3, $local, $seen), { '429 down_local' => 3 },
          'what was spent alone still counts');
$redis->start;
wait_direct($_) for $local, $deny, $allow;

# a server that hangs

$redis->freeze;
is_deeply(answers(10, $deny, $big), { '503 down_deny' => 10 }, 'frozen');
$redis->thaw;
ok(wait_direct($deny), 'thawed');

# one that takes connections and does nothing: a few wait, once, then nobody
# does; who waits is who has asked it

my $idle = $t->peer(redis => sub {
    my ($state, @command) = @_;

    return $command[0] =~ /^(PING|SCRIPT)$/ ? "+OK\r\n"
           : Apikey::Peer::identity(@command) || undef;
});
my $wait = node('wait', 'redis://127.0.0.1:' . $idle->port . ' timeout=100ms',
                'apikey_redis_down deny;');

sub got {
    my ($name) = @_;

    return scalar grep { $_->[0] =~ $name } $idle->commands;
}

wait_for('the connection', sub { got(qr/^SCRIPT/) });

my ($asks, $more) = (0, 0);

wait_for('the breaker', sub {
    is((ask($wait, $big))[0], '503 down_deny', 'refused');
    $more++ if got(qr/^EVALSHA/) > ++$asks;
    return $wait->metric('apikey_redis_up') == 0;
});

my $takes = got(qr/^EVALSHA/);

is($more, 0, 'none asks twice');
ok($takes >= 1 && $takes <= 3, "no more than three ask: $takes");
is_deeply(answers(50, $wait, $big), { '503 down_deny' => 50 },
          'the breaker is open');
is(got(qr/^EVALSHA/), $takes, 'nobody asks, nobody waits');

# a peer that misbehaves: bounded, refused, and recovers

for my $case (
    [ 'delay', 2 ], [ 'trickle', 0.05 ], [ 'silent' ], [ 'half' ], [ 'cut' ],
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

    # what never comes is answered all the same, what comes late is not used
    is_deeply(answers(4, $fake, $big), { '503 down_deny' => 4 },
              "$name: refused");

    $peer->mode('pass');
    ok(wait_direct($fake), "$name: back");
}

# requests that wait: clients leave, the configuration is reloaded; a node with
# such a deadline would be long to forget what the peer did above

my $slow = node('slow', 'redis://127.0.0.1:' . $peer->port . ' timeout=1m',
                'apikey_redis_down deny;');

wait_direct($slow);
$peer->mode('hold');

my @conns = map { $slow->conn } 1 .. 20;
my $before = $redis->calls->{evalsha};

$_->send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: $big->{key}\r\n\r\n")
    for @conns;

wait_for('all of them in Redis', sub {
    $redis->calls->{evalsha} >= $before + 20 });

$_->abort for @conns[0 .. 9];
$slow->reload;
$peer->mode('pass');

my %n;
$n{$_->response->{status}}++ for @conns[10 .. 19];
is_deeply(\%n, { 200 => 10 }, 'requests that wait are answered over a reload');

wait_direct($slow);

# one deadline for both waits, for the connection and then for TAKE: this
# peer lets a worker in late and then says nothing; who came two seconds
# sooner is answered so much sooner, where a deadline of TAKE's own would let
# all of them go at once

my $open = "$t->{dir}/open";
my $door = $t->peer(redis => sub {
    my ($state, @command) = @_;

    my $identity = Apikey::Peer::identity(@command);

    return $identity if $identity;
    return undef if $command[0] ne 'PING';
    wait_for('the door', sub { -e $open }, 30);
    return "+PONG\r\n";
});
my $late = node('late', 'redis://127.0.0.1:' . $door->port . ' timeout=6s',
                'apikey_redis_down deny;');

my @late = map { $late->conn } 1, 2;
my $start;

for my $i (0, 1) {
    $late[$i]->send(Apikey::Http::build('GET', '/', key => $big->{key}));
    wait_for('it waits', sub { $late->metric('apikey_waiting') == $i + 1 });
    $start //= time;
    wait_for('two seconds', sub { $i || time - $start >= 2 });
}

open my $opened, '>', $open or die "$open: $!\n";
wait_for('TAKE', sub {
    2 == grep { $_->[0] eq 'EVALSHA' } $door->commands });

my @r = map { $_->response } @late;

is_deeply([ map { $_->{status} } @r ], [ 503, 503 ],
          'let in, and then not answered');
ok($r[1]{headers}{'x-at'} - $r[0]{headers}{'x-at'} > 0.5,
   'each by its own deadline');

$t->done;
