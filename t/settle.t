
# Reserve before, settle after: budgets and token limits are exact through
# every end of a request, in shared memory.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for json rounds);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

sub budget { return { name => 'budget', unit => 'cost', limit => $_[0],
                      window => 'month', mode => $_[1] // 'strict' } }

sub limited { return $t->key(limits => [ @_ ]) }

my $exact = limited(budget('1.00'));
my $three = limited(budget('3.00'));
my $whole = limited(budget('2.00'));
my $trim = limited(budget('0.50', 'trim'));
my $observe = limited(budget('0.50', 'observe'));
my $tpm = limited({ name => 'tpm', unit => 'tokens', limit => 1000,
                    window => 'day', mode => 'strict' });
my $jobs = limited({ name => 'jobs', unit => 'concurrent', limit => 2 });
my $both = $t->key(owner => 'ada', limits => [ budget('2.00') ],
    owner_limits => [ budget('1.00'), { name => 'day', unit => 'tokens',
                      limit => 500, window => 'day', mode => 'strict' } ]);
my $fault = limited(budget('90.00'));
my $hour = limited({ name => 'hourly', unit => 'requests', limit => 5,
                     window => '1h' }, budget('5.00'));

my $n = $t->nginx(workers => 2, server => <<'EOS')->start;
        apikey required;
        apikey_usage headers;
        add_header X-Left $apikey_remaining always;
        add_header X-Cost $apikey_cost always;

        location / {
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /timeout/ {
            apikey_reserve cost=0.5;
            proxy_read_timeout 300ms;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /look {
            apikey_usage off;
            apikey_weight 0;
            empty_gif;
        }

        location /scoped/ {
            apikey_reserve cost=0.25;
            rewrite ^/scoped/ /forbidden/ last;
        }

        location /admitted/ {
            apikey_reserve cost=0.25;
            error_page 418 = /forbidden/;
            set $teapot $arg_teapot;
            if ($teapot) {
                return 418;
            }
            proxy_pass http://%%UPSTREAM%%;
        }

        location /forbidden/ {
            apikey_scope nobody:has;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


sub price  { "/set/X-Usage-Cost/$_[0]" }
sub tokens { "/set/X-Usage-Input-Tokens/$_[0]" }

sub left {
    my ($key, $want, $name) = @_;

    my $left;

    wait_for($name, sub {
        $left = $n->get('/look', key => $key->{key})->{headers}{'x-left'};
        return ($left // '') eq $want;
    }, 20);
    is($left, $want, $name);
}

sub get { return $n->get($_[1], key => $_[0]{key}) }


subtest 'strict' => sub {
    is(get($exact, price('0.1') . '?cost=0.4')->{status}, 200, 'it fits');
    left($exact, '0.90', 'what it has cost is spent');
    is(get($exact, price('0.6') . '?cost=0.4')->{status}, 200, 'it fits');
    left($exact, '0.30', 'and it has cost more');

    my $r = get($exact, price('0.1') . '?cost=0.300000001');
    is($r->{status}, 402, 'a nano-unit too much');
    is(json($r)->{code}, 'budget_exceeded', 'the budget');
    left($exact, '0.30', 'a refusal spends nothing');

    is(get($exact, price('0.3') . '?cost=0.3')->{status}, 200, 'the rest');
    left($exact, '0.00', 'all is spent');
    is(get($exact, '/?cost=0.000000001')->{status}, 402, 'nothing is left');
    is(get($exact, '/?cost=0')->{status}, 200, 'what is free passes');
};


subtest 'three of eight' => sub {
    my @r = $n->parallel(map { { uri => '/delay/700' . price('1.00')
        . '?cost=1.00', key => $three->{key} } } 1 .. 8);
    my %n;

    $n{$_->{status}}++ for @r;
    is_deeply(\%n, { 200 => 3, 402 => 5 }, 'a budget for exactly three');
    left($three, '0.00', 'all is spent');
};


subtest 'an unknown reserve' => sub {
    is_deeply($n->crowd(5, 1, 'budget_exceeded', price('0.25'),
                        key => $whole->{key}),
              { 200 => 1, 402 => 4 }, 'one at a time');
    left($whole, '1.75', 'then the rest comes back');

    is(get($whole, '/status/500')->{status}, 500, 'an error');
    left($whole, '1.75', 'has cost nothing');
    is(get($whole, price('x'))->{status}, 200, 'an answer without a cost');
    left($whole, '0.00', 'has cost nobody knows what');
    is(get($whole, '/')->{status}, 402, 'nothing is left');
};


subtest 'trim' => sub {
    is(get($trim, price('0.4') . '?cost=9')->{status}, 200, 'some is left');
    left($trim, '0.10', 'which the reserve did not fit in');
    is(get($trim, price('0.4') . '?cost=9')->{status}, 200, 'still some');
    left($trim, '0.00', 'more than all of it is spent');
    is(get($trim, '/?cost=0.01')->{status}, 402, 'nothing is left');
    is(get($trim, '/')->{status}, 402, 'for what is not known, too');
};


subtest 'observe' => sub {
    is(get($observe, price('0.4') . '?cost=9')->{status}, 200, 'once')
        for 1 .. 3;
    left($observe, '0.00', 'all of it is spent');
    is(get($observe, '/')->{status}, 200, 'nobody is refused');
};


subtest 'tokens' => sub {
    is(get($tpm, tokens(30) . '?tokens=500')->{status}, 200, 'it fits');
    is(get($tpm, tokens(10) . '?tokens=971')->{status}, 429, 'too many');
    is(get($tpm, tokens(800) . '?tokens=970')->{status}, 200, 'just so many');
    is(get($tpm, '/?tokens=171')->{status}, 429, 'too many');
    is(get($tpm, '/?tokens=170')->{status}, 200, 'the rest');
    is(get($tpm, '/?tokens=1')->{status}, 429, 'nothing is left');
};


subtest 'key and owner' => sub {
    is(get($both, price('0.3') . tokens(100) . '?cost=0.5&tokens=400')
       ->{status}, 200, 'all three fit');
    is(get($both, '/?cost=0.5&tokens=401')->{status}, 429,
       'tokens of the owner');
    is(get($both, '/?cost=0.8&tokens=1')->{status}, 402, 'money of the owner');
    is(get($both, price('0.7') . tokens(400) . '?cost=0.7&tokens=400')
       ->{status}, 200, 'refusals have spent nothing');
    is(get($both, '/?cost=0.01&tokens=0')->{status}, 402, 'all is spent');
};


subtest 'concurrent' => sub {
    is_deeply($n->crowd(6, 2, 'rate_limited', '', key => $jobs->{key}),
              { 200 => 2, 429 => 4 }, 'two at once');
    is(get($jobs, '/')->{status}, 200, 'their slots are free');

    # slots of dead workers come back; of clients that leave, too

    for my $round (1, 2) {
        my $hits = $up->hits;
        my @c = map { $n->conn } 1, 2;
        $_->send(Apikey::Http::build('GET', '/hang',
                                     key => $jobs->{key})) for @c;
        $up->wait_hits($hits + 2);
        is(get($jobs, '/')->{status}, 429, 'both slots are taken');

        if ($round == 1) {
            $_->close for @c;

        } else {
            $n->kill_worker($_) for $n->workers;    # not one of the new ones
        }

        wait_for('both are free', sub {
            my @r = $n->parallel(map { { uri => '/delay/200',
                key => $jobs->{key} } } 1 .. 3);
            return 2 == grep { $_->{status} == 200 } @r;
        });
        pass($round == 1 ? 'clients leave' : 'workers die');
    }
};


subtest 'refused after all' => sub {
    is(get($hour, '/scoped/?cost=1')->{status}, 403, 'in another location');
    is(get($hour, '/admitted/?teapot=1')->{status}, 403, 'once more');
    my $r = get($hour, price('0.5') . '?cost=1');
    is($r->{status}, 200, 'a request');
    is($r->{headers}{'x-ratelimit-remaining'}, 4,
       'the others have spent no request');
    left($hour, '4', 'four requests are the tightest');
};


# Every end: what Postgres has, what the upstream says it has cost, and what
# is spent of the budget are one number.

subtest 'ends of all kinds' => sub {
    my $rounds = rounds(200, 2000);
    my @kinds = (
        sub { get($fault, price('0.013') . '?cost=0.5') },
        sub { get($fault, '/close' . '?cost=0.5') },
        sub { get($fault, '/status/500' . '?cost=0.5') },
        sub { get($fault, '/status/503' . price('0.007') . '?cost=0.5') },
        sub { eval { get($fault, '/abort' . price('0.011') . '?cost=0.5') } },
        sub { get($fault, price('0.9') . '?cost=0.5') },
        sub {
            my $c = $n->conn;
            $c->send(Apikey::Http::build('GET', '/stream/9/50'
                . price('0.003') . '?cost=0.5', key => $fault->{key}));
            $c->need('a chunk', sub { $c->{buffer} =~ /chunk/ }, time + 10);
            $c->close;
        },
        sub {
            my $hits = $up->hits;
            my $c = $n->conn;
            $c->send(Apikey::Http::build('GET', '/hang?cost=0.5',
                                         key => $fault->{key}));
            $up->wait_hits($hits + 1);
            $c->close;
        },
    );

    $up->forget;
    srand($ENV{APIKEY_SEED} // 42);

    for my $round (1 .. $rounds) {
        $kinds[rand @kinds]->();
        $n->reload if $round % 50 == 0;
    }

    get($fault, '/timeout/hang') for 1 .. 3;

    my $count = $up->hits;
    my $log = 0;

    $log += int($_->{uri} =~ m{X-Usage-Cost/([\d.]+)} ? $1 * 1000 + 0.5 : 0)
        for $up->requests;

    cmp_ok($count, '>=', $rounds, 'all went upstream');
    wait_for('their records', sub {
        $pg->value("SELECT requests FROM apikey.key_usage
                    WHERE key_id = '$fault->{id}'") == $count;
    });

    is($pg->value("SELECT cost FROM apikey.key_usage
                   WHERE key_id = '$fault->{id}'"), $log * 1_000_000,
       'Postgres and the upstream agree');
    is($pg->value("SELECT unpriced FROM apikey.usage_daily
                   WHERE key = '$fault->{id}' ORDER BY 1 DESC LIMIT 1"), 0,
       'nothing is unknown');
    left($fault, sprintf('%.3f', 90 - $log / 1000) =~ s/(\.\d\d)0$/$1/r,
         'and so does the budget');
};


subtest 'killed workers' => sub {
    my $key = limited(budget('100.00'));

    $t->sync;

    for (1 .. 5) {
        my $hits = $up->hits;
        my $c = $n->conn;
        $c->send(Apikey::Http::build('GET', '/hang?cost=0.5',
                                     key => $key->{key}));
        $up->wait_hits($hits + 1);
        $n->kill_worker($_) for $n->workers;
    }

    left($key, '97.50', 'each costs its reserve');
    wait_for('their records', sub {
        ($pg->value("SELECT cost FROM apikey.key_usage
                     WHERE key_id = '$key->{id}'") // 0) == 2_500_000_000;
    });
    pass('in Postgres, too');
};


$t->allow(qr/exited on signal 9/);
$t->done;
