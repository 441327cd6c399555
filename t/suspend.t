# Requests that wait in the access phase: for a Redis that is slow, for a
# Postgres that is; and clients, connections and configurations that do not
# wait for them.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;
$t->upstream;

my $peer = $t->peer(to => $t->redis->port);
my @limits = (limits => [ { name => 'hourly', limit => 100000,
                            window => '1h' } ]);
my $key = $t->key(name => 'one', @limits);

my $n = $t->nginx(workers => 2,
    base => { redis => 'apikey_redis redis://127.0.0.1:' . $peer->port
                       . ' timeout=1m; apikey_limit_mode direct;',
              journal => 'apikey_journal %%DIR%%/journal ring=%%RING%%;' },
    http => <<'EOT', server => <<'EOS')->start;
    client_max_body_size 10m;

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /unbuffered/ {
            apikey required;
            proxy_request_buffering off;
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /unbuffered/ {
            apikey required;
            proxy_request_buffering off;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;

my $admitted = 0;


# Gauges of both workers are one.

sub waiting {
    my ($want) = @_;

    wait_for("$want waiting", sub {
        ($n->metric('apikey_waiting') // -1) == $want;
    });

    return 1;
}


# Redis answers no sooner than the test says; each a little late; at once.

sub hold { $peer->mode('hold') }
sub slow { $peer->mode('delay', $_[0]) }
sub fast { $peer->mode('pass') }


# waits, then goes on

hold();

my $c = $n->conn;

$c->send(Apikey::Http::build('GET', '/', key => $key->{key}));
ok(waiting(1), 'it waits');
is($t->upstream->hits, 0, 'and is not passed on');

fast();
is($c->response->{status}, 200, 'it goes on after Redis has answered');
ok(waiting(0), 'nobody waits');
$admitted++;

slow(0.3);
is($c->request('GET', '/', key => $key->{key})->{status}, 200,
   'again on the same connection') for 1 .. 2;
$admitted += 2;


# pipelined: answers in order

my @paths = map { "/status/$_" } 201, 404, 203;

$c = $n->conn;
$c->send(join '', map { Apikey::Http::build('GET', $_,
                                            key => $key->{key}) } @paths);
is(join(' ', map { $c->response->{status} } @paths), '201 404 203',
   'pipelined');
$admitted += 3;

$c->send(join('', map { Apikey::Http::build('GET', '/', key => $_) }
    $key->{key}, plain_key('sk'), $key->{key}), piece => 7);
is(join(' ', map { $c->response->{status} } 1 .. 3), '200 401 200',
   'pipelined, byte by byte, one refused');
$admitted += 2;


# bodies that arrive while the request waits

for my $size (0, 1, 1000, 100_000, 3_000_000) {
    for my $path ('/echo', '/unbuffered/echo') {
        for my $chunked (0, 1) {
            my $body = 'b' x $size;
            my $r = $n->request('POST', $path, key => $key->{key},
                                body => $body, chunked => $chunked);
            $admitted++;

            is($r->{status}, 200, "a body of $size to $path"
               . ($chunked ? ', chunked' : ''));
            is(length json($r)->{body}, $size, 'is whole');
        }
    }
}

my $h2 = $n->h2;

for my $path ('/echo', '/unbuffered/echo') {
    my $r = $h2->request('POST', $path, key => $key->{key},
                         body => 'h' x 60_000);
    is(length json($r)->{body}, 60_000, "HTTP/2: a body to $path");
    $admitted++;
}


# clients that leave

hold();

my $hits = $t->upstream->hits;

for my $case (
    [ 'close', sub { $_[0]->close } ],
    [ 'reset', sub { $_[0]->abort } ],
    [ 'half-close', sub { $_[0]->half_close } ],
    [ 'close behind a pipelined request', sub {
        $_[0]->send(Apikey::Http::build('GET', '/', key => $key->{key}));
        $_[0]->close } ],
    [ 'close behind a body', sub { $_[0]->send('x' x 100);
                                   $_[0]->close }, 1000 ],
) {
    my ($name, $leave, $length) = @$case;
    my $c = $n->conn;

    $c->send(Apikey::Http::build($length ? 'POST' : 'GET', '/',
        key => $key->{key},
        headers => $length ? [ 'Content-Length' => $length ] : []));

    waiting(1);
    $leave->($c);
    ok(waiting(0), "$name: noticed before Redis answers");
}

# the late answers find nobody
fast();
is($n->get('/', key => $key->{key})->{status}, 200, 'all goes on');
$admitted++;
is($t->upstream->hits, $hits + 1, 'no request of theirs went on');


# streams of one connection

hold();
$h2 = $n->h2;

my @ids = map { $h2->open('GET', "/stream/$_", key => $key->{key}) } 1 .. 6;
waiting(6);

$h2->reset($ids[0]);
$h2->reset($ids[3]);
waiting(4);

fast();
is(join(' ', map { $h2->response($ids[$_])->{status} } 1, 2, 4, 5),
   '200 200 200 200', 'HTTP/2: the others go on');
$admitted += 4;

hold();
@ids = map { $h2->open('GET', '/', key => $key->{key}) } 1 .. 3;
waiting(3);
$h2->close;
waiting(0);
pass('HTTP/2: the connection closes');
fast();


# reload and quit while requests wait

for my $round (1, 2) {
    my @c = map { $n->conn } 1 .. 20;

    hold();
    $_->send(Apikey::Http::build('GET', '/', key => $key->{key})) for @c;
    waiting(20);

    $n->reload;
    fast();

    is(scalar(grep { (eval { $_->response->{status} } // 0) == 200 } @c), 20,
       "reload $round: all are answered");
    $admitted += 20;

    $n->wait_old;
    is($n->get('/', key => $key->{key})->{status}, 200, 'and the next');
    $admitted++;
}

my @events = $t->wait_events($admitted, "verdict = 'ok'");
is(scalar @events, $admitted, 'one record for each that went on');

my %ids = map { $_ => 1 } $t->upstream->ids;
is(scalar(grep { !$ids{$_} } @events), 0, 'and it went upstream');

{
    my @c = map { $n->conn } 1 .. 20;

    hold();
    $_->send(Apikey::Http::build('GET', '/', key => $key->{key})) for @c;
    waiting(20);

    kill 'QUIT', $n->{process}->pid;
    wait_for('the quit', sub { !$n->workers });
    fast();

    is(scalar(grep { (eval { $_->response->{status} } // 0) == 200 } @c), 20,
       'quit: all are answered');
    $admitted += 20;

    $n->stop;
}

is(scalar($t->wait_events($admitted, "verdict = 'ok'")), $admitted,
   'and all recorded');


# a keyring that cannot load: known keys are asked for, one by one

my $info = $t->postgres->conninfo;
my ($port) = $info =~ /port=(\d+)/;
my $pg = $t->peer(to => $port);

$info =~ s/host=\S+/host=127.0.0.1/;
$info =~ s/port=\d+/'port=' . $pg->port/e;

$pg->mode('silent');

my $b = $t->nginx(name => 'b', wait => 0, base => {
    postgres => "apikey_postgres '$info' poll=200ms;" })->start;

my $bad = $key->{key};
substr $bad, -1, 1, substr($bad, -1) eq 'x' ? 'y' : 'x';

my $r = $b->get('/', key => $bad);
is($r->{status}, 401, 'a wrong checksum is refused without asking Postgres');

my @waits = map { $b->conn } 1 .. 3;
$_->send(Apikey::Http::build('GET', '/', key => $key->{key})) for @waits;
wait_for('three waiting',
         sub { ($b->metric('apikey_waiting') // -1) == 3 });
$waits[0]->close;
wait_for('two waiting',
         sub { ($b->metric('apikey_waiting') // -1) == 2 });

for my $i (1, 2) {
    my $r = $waits[$i]->response;
    is($r->{status}, 503, 'a silent Postgres is not a bad key');
    is(json($r)->{code}, 'unavailable', 'but unavailable');
    ok($r->{headers}{'retry-after'}, 'and says when to come back');
}

$pg->mode('pass');
wait_for('the key', sub { $b->get('/', key => $key->{key})->{status}
                          == 200 });
pass('and works again');

$t->done;
