# Memory of requests: pools of nginx that are small, as they are, and large;
# more requests at once than blocks are kept for; ends of all kinds.  What each
# was is in its answer, at the upstream, and in Postgres.

use strict;
use warnings;

use Test::More;
use Apikey::Test;
use Apikey::Http;

my $t = Apikey::Test->new;
$t->postgres;

my $up = $t->upstream;
my $key = $t->key(limits => [ { name => 'all', limit => 100000,
                                window => '1h' } ]);

my $sent = 0;

for my $size (qw(512 4k 32k)) {
    my $at_once = $size eq '4k' ? 600 : 120;      # blocks are kept for 512
    my $n = $t->nginx(name => "pool$size", base => { redis => undef },
        main => 'worker_rlimit_nofile 8192;', http => <<EOT,
    request_pool_size $size;
    limit_conn_zone \$http_x_api_key zone=conns:1m;
EOT
        server => <<'EOT')->start;
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
    my %seen;

    my $crowd = sub {
        my (@conns) = @_;
        my $before = $up->hits;

        $_->send(Apikey::Http::build('GET', '/gate', key => $key->{key}))
            for @conns;
        $up->wait_hits($before + @conns);
    };

    my $answers = sub {
        my ($name, @conns) = @_;
        my $upstream = { map { $_ => 1 } $up->ids };
        my @r = map { $_->response } @conns;

        is(scalar(grep { $_->{status} == 200 } @r), @conns, "$size: $name");

        $seen{$_->{headers}{'x-request-id'}}++ for @r;
        is(scalar(grep { $upstream->{$_->{headers}{'x-request-id'}} } @r),
           @r, '... with the ids that the upstream saw');
    };

    my @conns = map { $n->conn(timeout => 60) } 1 .. $at_once;

    for my $time ('many at once', 'and once more') {
        $crowd->(@conns);
        $up->let_go;
        $answers->($time, @conns);
    }

    # some go away, and others come into what they leave

    $crowd->(@conns);
    $_->abort for splice @conns, 0, 100;
    push @conns, my @new = map { $n->conn(timeout => 60) } 1 .. 100;
    $crowd->(@new);
    $up->let_go;
    $answers->('in place of those that went', @conns);

    # pipelined, through other locations, with headers that fill pools

    my $long = 'x' x 3000;
    my $c = $conns[0];
    my @other = map { $_ % 2 ? '/status/404' : '/status/418' } 1 .. 20;

    $c->send(join '', map { Apikey::Http::build('GET', $_, key => $key->{key},
        headers => [ 'X-Long' => "$long$_" ]) } @other);

    my @r = map { $c->response } @other;

    is_deeply([ map { "$_->{status} $_->{body}" } @r ],
              [ map { '200 ' . (/404/ ? "ok\n" : "inside\n") } @other ],
              "$size: through other locations");
    like($_->{headers}{ratelimit}, qr/^"all";r=\d+;t=\d+$/, 'with its limit')
        for @r[0, 1];

    $seen{$_->{headers}{'x-request-id'}}++ for @r;
    is(scalar(grep { $_ != 1 } values %seen), 0, 'no id came twice');

    $_->close for @conns;

    $sent += keys(%seen) + 100;                     # and those that went
    is(scalar($t->wait_events($sent)), $sent, 'each once in Postgres');

    $n->stop;
}

$t->done;
