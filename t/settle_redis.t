
# Reserve before, settle after, where levels stand in Redis: the same as
# t/settle.t over leases and over TAKE, and over two nodes.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for json rounds);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;

sub budget { return { name => 'budget', unit => 'cost', limit => $_[0],
                      window => 'month', mode => $_[1] // 'strict' } }

sub limited { return $t->key(limits => [ @_ ]) }

sub price  { "/set/X-Usage-Cost/$_[0]" }
sub tokens { "/set/X-Usage-Input-Tokens/$_[0]" }


for my $mode ('direct', 'leased') { subtest $mode => sub {
    my $exact = limited(budget('1.00'));
    my $three = limited(budget('3.00'));
    my $whole = limited(budget('2.00'));
    my $trim = limited(budget('0.50', 'trim'));
    my $observe = limited(budget('0.50', 'observe'));
    my $tpm = limited({ name => 'tpm', unit => 'tokens', limit => 1000,
                        window => '31d', mode => 'strict' });
    my $both = $t->key(owner => "ada $mode", limits => [ budget('2.00') ],
        owner_limits => [ budget('1.00') ]);

    my @n = map { $t->nginx(name => "$mode$_", workers => 2, base => {
        redis => "apikey_redis %%REDIS%% timeout=2s;"
                 . " apikey_limit_mode $mode;",
    }, server => <<'EOS')->start } 1, 2;
        apikey required;
        apikey_usage headers;
        add_header X-Left $apikey_remaining always;
        add_header X-Mode $apikey_decision_mode always;

        location / {
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /timeout/ {
            apikey_reserve cost=0.5;
            proxy_read_timeout 300ms;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

    $t->sync;

    my $get = sub { $n[$_[2] // 0]->get($_[1], key => $_[0]{key}) };

    # A request of just that much passes, and one of a little more does not.

    my $left = sub {
        my ($key, $want, $name, $node) = @_;

        my $r;

        wait_for($name, sub {
            $r = $get->($key, '/close?cost=' . ($want + 0.005), $node);
            return $r->{status} == 402
                && $get->($key, "/close?cost=$want", $node)->{status} == 502;
        }, 20);
        pass($name);
    };

    # What came before gives back after its answer, perhaps in another worker.

    my $soon = sub {
        my ($key, $uri, $status, $name) = @_;

        ok(eval { wait_for($name, sub {
            $get->($key, $uri)->{status} == $status;
        }, 20) }, $name);
    };

    is($get->($exact, price('0.1') . '?cost=0.4')->{status}, 200, 'it fits');
    $left->($exact, 0.9, 'what it has cost is spent');
    wait_for('what came back, at another node', sub {
        $get->($exact, price('0.6') . '?cost=0.4', 1)->{status} == 200;
    }, 20);
    $left->($exact, 0.3, 'and it has cost more', 1);
    $left->($exact, 0.3, 'as the first one finds, too');
    is(json($get->($exact, '/?cost=0.4'))->{code}, 'budget_exceeded',
       'the budget');

    my @r = map { $_->parallel(map { { uri => '/delay/700' . price('1.00')
        . '?cost=1.00', key => $three->{key} } } 1 .. 8) } $n[0];
    my %n;

    $n{$_->{status}}++ for @r;
    is_deeply(\%n, { 200 => 3, 402 => 5 }, 'a budget for exactly three');
    is($get->($three, '/?cost=0.1', 1)->{status}, 402, 'at the other, too');

    is_deeply($n[0]->crowd(5, 1, 'budget_exceeded', price('0.25'),
                           key => $whole->{key}),
              { 200 => 1, 402 => 4 }, 'an unknown reserve: one at once');
    $left->($whole, 1.75, 'then the rest comes back');

    # Others are refused beside it: this node tells them when it ends, and not
    # when it looks next, for which it has no time here.

    my $alone = limited(budget('4.00'));

    $t->sync;

    is($get->($alone, price('1.00'))->{status}, 200, 'all that is left');
    is($n[0]->get('/', key => $observe->{key})->{status}, 200,
       'behind its end');

    my @stopped = $n[0]->workers;
    kill 'STOP', @stopped;

    ok(eval { wait_for('the rest', sub {
        $get->($alone, price('2.00') . '?cost=2.00', 1)->{status} == 200;
    }, 20) }, 'the other node has it at once');
    kill 'CONT', @stopped;
    $soon->($whole, '/status/500', 500, 'an error');
    $left->($whole, 1.75, 'has cost nothing');
    $soon->($whole, price('x'), 200, 'an answer without a cost');
    is($get->($whole, '/?cost=0.01')->{status}, 402, 'has cost all');

    is($get->($trim, price('0.4') . '?cost=9')->{status}, 200, 'trim: a rest');
    $soon->($trim, '/close?cost=9', 502, 'what came back');
    $soon->($trim, price('0.4') . '?cost=9', 200, 'still some');
    is($get->($trim, '/?cost=0.01')->{status}, 402, 'nothing is left');

    is($get->($observe, price('0.4') . '?cost=9')->{status}, 200, 'observe')
        for 1 .. 3;
    is($get->($observe, '/')->{status}, 200, 'nobody is refused');

    is($get->($tpm, tokens(30) . '?tokens=500')->{status}, 200, 'tokens fit');
    is($get->($tpm, '/close?tokens=971')->{status}, 429, 'too many');
    $soon->($tpm, tokens(800) . '?tokens=970', 200, 'so many');
    is($get->($tpm, '/?tokens=171')->{status}, 429, 'too many');

    is($get->($both, price('0.3') . '?cost=0.5')->{status}, 200, 'two levels');
    is($get->($both, '/?cost=0.8')->{status}, 402, 'money of the owner');
    wait_for('a refusal to have spent nothing', sub {
        $get->($both, price('0.7') . '?cost=0.7')->{status} == 200;
    }, 20);

    # Redis loses all; Postgres knows

    $t->redis->command('FLUSHALL');

    # ... when what nodes may have held is gone

    for my $node (1, 0) {
        my $status;

        wait_for('an answer', sub {
            $status = $get->($three, '/?cost=0.1', $node)->{status};
            return $status != 503;
        }, 30);
        is($status, 402, 'nothing is granted anew');
    }

    # every end; a key made since has lost nothing

    my $fault = limited(budget('90.00'),
        { name => 'hourly', limit => 100000, window => '1h' });

    $t->sync(@n);

    my $rounds = rounds(200, 1000);
    my @kinds = (
        sub { $get->($fault, price('0.013') . '?cost=0.5', $_[0]) },
        sub { $get->($fault, '/close?cost=0.5', $_[0]) },
        sub { $get->($fault, '/status/503' . price('0.007') . '?cost=0.5',
                     $_[0]) },
        sub { eval { $get->($fault, '/abort' . price('0.011') . '?cost=0.5',
                            $_[0]) } },
        sub { $get->($fault, price('0.9') . '?cost=0.5', $_[0]) },
        sub {
            my $c = $n[$_[0]]->conn;
            $c->send(Apikey::Http::build('GET', '/stream/9/50'
                . price('0.003') . '?cost=0.5', key => $fault->{key}));
            $c->need('a chunk', sub { $c->{buffer} =~ /chunk/ }, time + 10);
            $c->close;
        },
    );

    $up->forget;
    srand($ENV{APIKEY_SEED} // 42);

    for my $round (1 .. $rounds) {
        $kinds[rand @kinds]->($round % 2);
        $n[$round % 2]->reload if $round % 25 == 0;
    }

    $get->($fault, '/timeout/hang');

    my $count = $up->hits;
    my $log = 0;

    $log += int($_->{uri} =~ m{X-Usage-Cost/([\d.]+)} ? $1 * 1000 + 0.5 : 0)
        for $up->requests;

    wait_for('their records', sub {
        $pg->value("SELECT requests FROM apikey.key_usage
                    WHERE key_id = '$fault->{id}'") == $count;
    });
    is($pg->value("SELECT cost FROM apikey.key_usage
                   WHERE key_id = '$fault->{id}'"), $log * 1_000_000,
       'Postgres and the upstream agree');
    $left->($fault, 90 - $log / 1000, 'and so does the budget', $_) for 0, 1;

    # killed

    my $killed = limited(budget('100.00'));

    $t->sync;

    for (1 .. 3) {
        my $hits = $up->hits;
        my $c = $n[0]->conn;
        $c->send(Apikey::Http::build('GET', '/hang?cost=0.5',
                                     key => $killed->{key}));
        $up->wait_hits($hits + 1);
        $n[0]->kill_worker($_) for $n[0]->workers;
    }

    $left->($killed, 98.5, 'a killed worker\'s request costs its reserve');
    $_->stop for @n;
} }


$t->allow(qr/exited on signal 9/);
$t->done;
