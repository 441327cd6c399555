# Rolling limits: never more in any window of that length, in each mode, over
# two nodes where levels are shared; by what the upstream has seen, judged by a
# log of every request.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use Apikey::Http;
use Apikey::Judge qw(excess decided);
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;

my $up = $t->upstream;

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_weight $arg_weight;
            apikey_usage headers;
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_set_header X-Decided-At $apikey_decided_at;
            proxy_set_header X-Mode $apikey_decision_mode;
            add_header X-Left $apikey_remaining always;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT


sub rolling {
    my ($unit, $limit, $window, %more) = @_;

    return { name => 'l', unit => $unit, limit => $limit, window => $window,
             rolling => \1, %more };
}


for my $mode (qw(local direct leased)) { subtest $mode => sub {
    my @n = map { $t->nginx(name => "$mode-$_", workers => 2,
        server => $server, base => { redis => $mode eq 'local' ? undef
            : "apikey_redis %%REDIS%% timeout=2s;\n"
              . "    apikey_limit_mode $mode;" })->start }
        $mode eq 'local' ? 1 : (1, 2);

    my $create = sub {
        my ($name, @limits) = @_;

        my $r = $n[0]->admin('POST', 'api-keys',
            body => { name => $name, limits => \@limits });

        is($r->{status}, 201, "$name: created") or diag($r->{body});
        return json($r);
    };

    my $edit = sub {
        my ($key, @limits) = @_;

        my $r = $n[0]->admin('PATCH', "api-keys/$key->{id}",
                             body => { limits => \@limits });

        is($r->{status}, 200, 'edited') or diag($r->{body});
        $t->sync(@n);
    };

    my $get = sub { $n[$_[2] // 0]->get($_[1] // '/', key => $_[0]{key}) };

    my $all = sub {
        my ($of, $uri, $key) = @_;

        return Apikey::Http::parallel(map { { uri => $uri,
            port => $n[$_ % @n]->port, key => $key->{key} } } 1 .. $of);
    };

    # So many of them pass, by the upstream's own count; the others are refused.

    my $passes = sub {
        my ($want, $of, $uri, $key, $name) = @_;

        my %codes;

        $up->forget;
        $codes{$_->{status} == 200 ? 'ok' : json($_)->{code}}++
            for $all->($of, $uri, $key);

        local $Test::Builder::Level = $Test::Builder::Level + 1;

        is_deeply(\%codes, { $want ? (ok => $want) : (),
                             $of > $want ? (rate_limited => $of - $want)
                                         : () }, $name);
        is($up->hits, $want, '... as the upstream has it');
    };

    my %key = map { my ($name, @limits) = @$_;
                    $name => $create->($name, @limits) } (
        [ hour => rolling(requests => 40, '1h') ],
        [ weight => rolling(requests => 1000, '1d') ],
        [ none => rolling(requests => 0, '1h') ],
        [ few => rolling(requests => 20, '1s') ],
        [ many => rolling(requests => 150, '1s') ],
        [ tokens => rolling(tokens => 1000, '1h') ],
        [ both => rolling(requests => 30, '1s'),
                  { name => 'b', unit => 'requests', limit => 60,
                    window => '1s' } ]);

    $t->sync(@n);

    subtest 'one window' => sub {
        $passes->(40, 60, '/', $key{hour}, '40 in an hour');

        my $r = $get->($key{hour});
        is($r->{status}, 429, 'and no more');
        is($r->{headers}{'ratelimit-policy'}, '"l";q=40;w=3600', 'its policy');
        like($r->{headers}{ratelimit}, qr/^"l";r=0;t=3(600|5\d\d)$/, 'its rest');
        like($r->{headers}{'retry-after'}, qr/^3(600|5\d\d)$/, 'until then');
        like(json($r)->{detail}, qr/^Limit "l" allows 40 requests in any 1h\. /,
             'said');

        $passes->(10, 12, '/?weight=100', $key{weight}, 'weights');
        $passes->(0, 2, '/?weight=1', $key{weight}, 'and nothing is left');
        is($get->($key{weight}, '/?weight=0')->{status}, 200, 'but for 0');

        $r = $get->($key{weight}, '/?weight=1001');
        is("$r->{status} " . ($r->{headers}{'retry-after'} // '-'), '429 -',
           'more than there ever is');

        $r = $get->($key{none});
        is("$r->{status} " . ($r->{headers}{'retry-after'} // '-'), '429 -',
           'a limit of 0 never opens');
    };

    subtest 'edits' => sub {
        my $key = $key{hour};

        $edit->($key, rolling(requests => 50, '1h'));
        $passes->(10, 12, '/', $key, 'raised: counts at once');

        $edit->($key, rolling(requests => 45, '2h'));
        $passes->(0, 2, '/', $key, 'lowered, and longer');

        my $used = 50;

        # of leases some may be left on the other node

        if ($mode ne 'leased') {
            $edit->($key, { name => 'l', unit => 'requests', limit => 60,
                            window => '31d' });
            $passes->(10, 12, '/', $key, 'a bucket: what is used stays used');
            $used = 60;
        }

        $edit->($key, rolling(requests => $used + 3, '1d'));
        $passes->(3, 5, '/', $key, 'rolls again');

        $edit->($key, { name => 'l', unit => 'requests', limit => $used + 5,
                        window => 'total' });

        # of a total Postgres is asked, which may know less than Redis does
        is(scalar(grep { $_->{status} == 200 } $all->(6, '/', $key)), 2,
           'a total') if $mode eq 'local';

        $n[0]->reload;
        $edit->($key, rolling(requests => $used + 3, '1d'));
        is($get->($key)->{status}, 429, 'and rolls after a reload');
    };

    # what was reserved comes back, or more is owed, in the same window only

    subtest 'settled' => sub {
        my $key = $key{tokens};
        my $use = sub {
            my ($reserve, $used) = @_;
            return $get->($key, "/set/X-Usage-Input-Tokens/$used"
                                . "?tokens=$reserve&cost=0")->{status};
        };

        my $left = sub {
            my ($want, $name) = @_;

            my $r;

            wait_for($name, sub {
                $r = $get->($key, '/?tokens=0&cost=0');
                ($r->{headers}{'x-left'} // '') eq $want;
            }, 20);

            is($r->{headers}{'x-left'}, $want, $name);
        };

        is($use->(1000, 100), 200, 'a reserve of all there is');
        $left->(900, 'most of it comes back');
        is($use->(901, 1), 429, 'no more than that');
        is($use->(900, 950), 200, 'but that');
        $left->(0, 'an answer that cost more');
        is($use->(1, 1), 429, 'is owed');

        $edit->($key, rolling(tokens => 1100, '1h'));
        $left->(50, 'all of it');
    };

    # some windows long; who is refused comes again when he was told

    subtest 'many windows' => sub {
        my ($r, %seen, %passed);
        my $until = time + 1.3;

        $up->forget;

        # on a slow machine a window may be too short to be met

        while (time < $until || (time < $until + 8
                                 && grep { !$seen{$_} } qw(few many both)))
        {
            for my $name (qw(few many both)) {
                $_->{status} == 200 ? $passed{$name}++ : $seen{$name}++
                    for $all->($name eq 'many' ? 60 : 10, "/?k=$name",
                               $key{$name});
            }
        }

        cmp_ok($passed{few}, '>=', 20, 'a window is used');
        cmp_ok($passed{many}, '>=', 150, '... by many');

        wait_for('refused', sub {
            ($r) = grep { $_->{status} == 429 } $all->(30, '/?k=few',
                                                       $key{few});
        });

        is($r->{headers}{'retry-after'}, 1, 'Retry-After is in the window');
        select undef, undef, undef, 1;
        is($get->($key{few}, '/?k=few')->{status}, 200, '... and true');

        my @requests = $up->requests;

        for my $case ([ few => 20, '1s' ], [ many => 150, '1s' ],
                      [ both => 30, '1s' ])
        {
            my ($name, $limit, $window) = @$case;

            my @excess = excess(requests => \@requests, rolling => 1,
                limit => $limit, window => $window,
                match => sub { $_[0]{uri} =~ /k=$name/ });

            ok(!@excess, "$name: never more than $limit in $window")
                or diag(map { "$_->{headers}{'x-decided-at'} $_->{level}\n" }
                        @excess);
        }

        my %modes = map { $_->{headers}{'x-mode'} => 1 } @requests;
        is_deeply([ keys %modes ], [ $mode eq 'local' ? 'local' : 'direct' ],
                  'leases pay none of it');
    };

    $_->stop for @n;
} }

$t->done;
