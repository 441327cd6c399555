
# Totals and budgets over three nodes, leased and direct: no unit too many,
# and none too few when all has come to rest.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for rounds);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

my $redis = $t->redis;

sub total  { return { name => 'total', unit => 'requests', limit => $_[0],
                      window => 'total' } }
sub budget { return { name => 'budget', unit => 'cost', limit => $_[0],
                      window => 'month', mode => 'strict' } }

for my $mode (qw(leased direct)) { subtest $mode => sub {
    my %key = (
        one   => $t->key(limits => [ total(1) ]),
        three => $t->key(limits => [ budget('3.00') ]),
        many  => $t->key(limits => [ total(100_000) ]),
        cents => $t->key(limits => [ budget('0.1') ]),
        small => $t->key(limits => [ { name => 'small', limit => 100,
                                       window => '1s', burst => 15 } ]),
    );

    my @n = map { $t->nginx(name => "$mode$_", workers => 2, base => {
        redis => "apikey_redis %%REDIS%% timeout=2s;"
                 . " apikey_limit_mode $mode;",
    }, http => 'keepalive_requests 1000000;',
        server => <<'EOT')->start } 1 .. 3;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_weight $arg_weight;
            apikey_reserve cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Left $apikey_remaining always;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT

    $t->sync(@n);

    # of so many at once, over all nodes: how many by status, and by mode

    my $send = sub {
        my ($count, $key, $uri) = @_;
        my %n;

        for my $r (Apikey::Http::parallel(map { { uri => $uri,
            port => $n[$_ % @n]->port, key => $key{$key}{key} } } 1 .. $count))
        {
            $n{$r->{status}}++;
            $n{$r->{headers}{'x-mode'}}++ if $r->{status} == 200;
        }

        return \%n;
    };

    my $left = sub {
        my ($key, $uri) = @_;
        return map { $_->get($uri, key => $key{$key}{key})
                         ->{headers}{'x-left'} } @n;
    };

    # what there is once

    my $n = $send->(1000, one => '/');

    is($n->{200}, 1, '1 of 1,000 at once');
    is($n->{402}, 999, 'all others have none left');

    $n = $send->(8, three => '/delay/500/set/X-Usage-Cost/1.00?cost=1.00');

    is($n->{200}, 3, 'a budget for exactly three: 3 of 8 at once');
    is($n->{402}, 5, 'no more');

    # an attack on what is too small for leases: each node looks now and then,
    # not for each token that comes, and takes what Redis then has: it asks in
    # vain only after half of the bucket has come meanwhile

    if ($mode eq 'leased') {
        my ($looks, %seen);

        # a client slower than the limit attacks nobody, and where all stood
        # still the bucket has filled: once more

        for (1 .. 20) {
            my $conn = $n[0]->conn;
            my $before = $redis->calls->{evalsha};

            %seen = (200 => 0, 429 => 0);

            $seen{$conn->request('GET', '/', key => $key{small}{key})
                      ->{status}}++ while $seen{200} < 100;

            $looks = $redis->calls->{evalsha} - $before - $seen{200};
            last if $seen{429} > 100 && $looks < 5;
        }

        cmp_ok($seen{429}, '>', $looks, 'most is refused without Redis');
        cmp_ok($looks, '<', 5, 'which is hardly asked in vain');
    }

    # much of it is leased, and the rest is used to its last unit

    my $used = 0;

    for (1 .. 4) {
        $n = $send->(300, many => '/');
        $used += $n->{200};
        $n->{leased} //= 0;
    }

    is($used, 1200, 'there is enough');
    cmp_ok($n->{leased}, $mode eq 'leased' ? '>' : '==',
           $mode eq 'leased' ? 150 : 0, 'most without Redis, or none');

    # what is out comes back when nobody wants it: then all of it fits

    my $most = 100_000 - $used - 60;

    wait_for('nothing out', sub {
        $n[0]->get("/?weight=$most", key => $key{many}{key})->{status} == 200;
    }, 20);

    $used += $most;

    wait_for('the end', sub {
        $n = $send->(30, many => '/');
        $used += $n->{200} // 0;
        return $used >= 100_000;
    }, 20);

    $n = $send->(30, many => '/');
    is($used + ($n->{200} // 0), 100_000, 'used to the last unit');

    # money in small coin

    my $count = rounds(1500, 100_000);
    my $spent = 0;

    while ($spent < $count) {
        my $some = $count - $spent > 300 ? 300 : $count - $spent;

        $n = $send->($some, cents =>
                     '/set/X-Usage-Cost/0.000001?cost=0.000001');
        $spent += $n->{200} // last;
    }

    is($spent, $count, "$count requests of 0.000001");

    wait_for('their records', sub {
        $pg->value("SELECT requests FROM apikey.key_usage
                    WHERE key_id = '$key{cents}{id}'") == $count;
    });
    is($pg->value("SELECT cost FROM apikey.key_usage
                   WHERE key_id = '$key{cents}{id}'"), $count * 1000,
       'cost exactly that');

    # refused: it looks and takes nothing

    my $rest = sprintf '%.6f', 0.1 - $count / 1_000_000;
    my @left;

    ok(wait_for('what is left', sub {
        @left = $left->(cents => '/?cost=0.1');
        return 3 == grep { $_ * 1 == $rest } @left;
    }, 20), 'and so it is left');

    $_->stop for @n;
} }

$t->done;
