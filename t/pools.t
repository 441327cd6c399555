# Memory of requests: pools of nginx that are small, as they are, and large;
# more requests at once than blocks are kept for; ends of all kinds.  Each says
# who it is, and that is in its answer, at the upstream, and in Postgres.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(json);
use Apikey::Http;

my $t = Apikey::Test->new;
my $pg = $t->postgres;

my $up = $t->upstream;
my $key = $t->key(limits => [ { name => 'all', limit => 100000,
                                window => '1h' } ]);
my $n;
my $count = 0;
my (%all, %of);             # ids that were seen; of a connection: who it is

# Each connection asks, and waits at the upstream.

sub ask {
    my (@conns) = @_;

    for my $c (@conns) {
        $of{$c} = 'n' . ++$count;
        $c->send(Apikey::Http::build('GET', '/gate/echo', key => $key->{key},
                                     headers => [ 'X-Who' => $of{$c} ]));
    }
}

# Each gets the answer to its own request, by the upstream's echo of it.

sub answers {
    my ($name, @conns) = @_;

    my @wrong = grep {
        my $r = $_->response;
        my $echo = eval { json($r)->{headers} } // {};

        $all{$r->{headers}{'x-request-id'}}++;

        $r->{status} != 200 || $echo->{'x-who'} ne $of{$_}
            || $echo->{'x-request-id'} ne $r->{headers}{'x-request-id'};
    } @conns;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is(scalar @wrong, 0, $name);
}

for my $size (qw(4k 512 32k)) {
    my $crowd = $size eq '4k' ? 600 : 120;        # blocks are kept for 512

    $n = $t->nginx(name => "pool$size", base => { redis => undef },
        main => $crowd > 512 ? 'worker_rlimit_nofile 2048;' : '',
        http => <<EOT, server => <<'EOT')->start;
    request_pool_size $size;
    limit_conn_zone \$http_x_api_key zone=conns:1m;
EOT
        location / {
            apikey required;
            limit_conn conns 2000;
            proxy_pass http://%%UPSTREAM%%;
            proxy_intercept_errors on;
            error_page 404 = /other;
            error_page 418 = /inside;
        }
        location = /other {
            internal;
            limit_conn conns 2000;
            proxy_set_header X-Long $http_x_long;
            proxy_pass http://%%UPSTREAM%%;
        }
        location = /inside {
            internal;
            return 200 "inside\n";
        }
EOT
    $t->sync($n);
    $up->forget;

    my @conns = map { $n->conn(timeout => 60) } 1 .. $crowd;

    for my $time (1, 2) {
        ask(@conns);
        $up->wait_hits($time * $crowd, 60);
        $up->let_go;
        answers("$size: $crowd at once, $time", @conns);
    }

    # some go away, and others come into what they leave

    my $gone = $pg->value('SELECT count(*) FROM apikey.usage_event
                          WHERE aborted IS NOT NULL');

    ask(@conns);
    $up->wait_hits(3 * $crowd, 60);
    $_->abort for splice @conns, 0, 100;
    $t->wait_events($gone + 100, 'aborted IS NOT NULL');

    push @conns, my @new = map { $n->conn(timeout => 60) } 1 .. 100;

    ask(@new);
    $up->wait_hits(3 * $crowd + 100, 60);
    $up->let_go;
    answers("$size: in place of those that went", @conns);

    # pipelined, through other locations, with headers that fill pools

    my $c = $conns[0];
    my $long = 'x' x 3000;
    my @other = map { $_ % 2 ? '/status/404' : '/status/418' } 1 .. 20;

    $c->send(join '', map { Apikey::Http::build('GET', $_, key => $key->{key},
        headers => [ 'X-Long' => "$long$_" ]) } @other);

    my @r = map { $c->response } @other;

    is_deeply([ map { "$_->{status} $_->{body}" } @r ],
              [ map { '200 ' . (/404/ ? "ok\n" : "inside\n") } @other ],
              "$size: through other locations");
    is(scalar(grep { $_->{headers}{ratelimit} =~ /^"all";r=\d+;t=\d+$/ } @r),
       20, 'each with its limit');

    $all{$_->{headers}{'x-request-id'}}++ for @r;
    is(scalar(grep { $_ != 1 } values %all), 0, 'no id came twice');

    # those that went, and what two locations sent, too

    $all{$_} //= 1 for $up->ids;

    is_deeply([ $t->wait_events(scalar keys %all) ], [ sort keys %all ],
              'each once in Postgres');

    $_->close for @conns;
    $n->stop;
}

$t->done;
