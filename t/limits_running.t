
# What runs when Redis loses its values: Postgres has it only when it has
# ended, and it was admitted all the same.  No quota and no budget lets more
# in for that, whatever ends when.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $redis = $t->redis;

sub limit { return { name => $_[0], unit => 'requests', limit => $_[1],
                     window => $_[0] } }

sub budget { return { name => 'budget', unit => 'cost', limit => $_[0],
                      window => 'month' } }


for my $mode ('direct', 'leased') { subtest $mode => sub {
    my @n = map { $t->nginx(name => "$mode$_", workers => 2, base => {
        redis => "apikey_redis %%REDIS%% timeout=2s;"
                 . " apikey_limit_mode $mode;",
    }, server => <<'EOS')->start } 1, 2;
        apikey required;
        apikey_usage headers;

        location / {
            apikey_reserve cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
            proxy_read_timeout 300s;
        }
EOS

    my %key = (
        month => $t->key(limits => [ limit('month', 30) ]),
        total => $t->key(limits => [ limit('total', 30) ]),
        owner => $t->key(owner => "ada $mode",
                         owner_limits => [ limit('month', 30) ]),
        credits => $t->key(credits => { unit => 'requests',
                                        remaining => 30 }),
        cost => $t->key(limits => [ budget('2.00') ]),
        ends => $t->key(limits => [ limit('month', 30) ]),
    );
    my @keys = ('ends', grep { $_ ne 'ends' } sort keys %key);
    my $other = $t->key;

    $t->sync(@n);

    my $uri = sub { "/set/X-Usage-Cost/0.01?cost=0.10&of=$mode-$_[0]" };
    my $get = sub { $n[$_[1] // 0]->get($uri->($_[0]),
                                        key => $key{$_[0]}{key}) };
    my $hits = sub {
        my ($of) = @_;

        return scalar grep { $_->{uri} =~ /\bof=$mode-$of$/ } $up->requests;
    };

    # so many run, on both nodes, in all their workers: to the end of it all,
    # or some longer than the others

    my %running;

    my $run = sub {
        my ($of, $n) = @_;
        my $before = $up->hits;

        for my $i (1 .. $n) {
            my $c = $n[$i % 2]->conn;

            my $at = $of eq 'ends' ? '/delay/' . 1400 * $i : '/gate';

            $c->send(Apikey::Http::build('GET', $at . $uri->($of),
                                         key => $key{$of}{key}));
            push @{$running{$of}}, $c;
        }

        $up->wait_hits($before + $n);
    };

    for my $of (reverse @keys) {
        $get->($of, $_ % 2) for 1 .. 4;
        $run->($of, 10);
    }

    # emptied; or started again without its data

    if ($mode eq 'direct') {
        $redis->command('FLUSHALL');

    } else {
        $redis->stop('kill');
        $redis->start;
    }

    # a worker that dies meanwhile tells of its requests itself

    $n[1]->kill_worker(($n[1]->workers)[0]);

    # all that is left, until nobody is let in any more; others go on, so that
    # there is always something to be shipped

    for my $of (@keys) {
        my $refused = 0;

        wait_for("the end of $of", sub {
            $n[$_]->get('/', key => $other->{key}) for 0, 1;

            my $status = $get->($of, $refused % 2)->{status};

            $refused = $status == 429 || $status == 402 ? $refused + 1 : 0
                if $status != 503;
            return $refused >= 4;
        }, 60);

        if ($of ne 'cost') {
            cmp_ok($hits->($of), '<=', 30, "$of: what runs counts");
            cmp_ok($hits->($of), '>=', $mode eq 'direct' ? 30 : 24,
                   "$of: and once");
        }
    }

    cmp_ok($hits->('cost') * 0.01 + 0.09 * 10, '<=', 2.00, 'cost: what runs');

    $up->let_go;
    eval { $_->response } for map { @$_ } values %running;

    $_->stop for @n;
} }


$t->allow(qr/exited on signal 9/);
$t->allow(qr/apikey_redis:/);
$t->done;
