# What becomes of admitted requests in their records: status, bytes, times,
# service, endpoint, and who ended them too early.

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $key = $t->key(name => 'one', owner => 'user_1', customer => 'c1');

# a server that switches protocols and then says everything twice
my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1:0', Listen => 5,
                                   ReuseAddr => 1) or die "listen: $@\n";
my $socket_port = $listen->sockport;
my $socket_server = spawn(name => 'websocket', log => $t->dir . '/ws.log',
    code => sub {
        while (my $c = $listen->accept) {
            my $in = '';
            sysread $c, $in, 4096, length $in until $in =~ /\r\n\r\n/;
            syswrite $c, "HTTP/1.1 101 Switching Protocols\r\n"
                . "Connection: upgrade\r\nUpgrade: twice\r\n\r\n";
            while (sysread $c, $in, 4096) { syswrite $c, $in . $in }
            close $c;
        }
    });
close $listen;

my $n = $t->nginx(http => <<'EOT', server => <<"EOS")->start;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-IP;
    send_timeout 300ms;

    server {
        listen 127.0.0.1:%%PORT_named%%;
        server_name .example.com other;

        location / {
            apikey required;
            apikey_endpoint "/orders/{id}";
            proxy_pass http://%%UPSTREAM%%;
        }
    }
EOT
        apikey required;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /hang {
            proxy_read_timeout 300ms;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /unbuffered/ {
            proxy_buffering off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location ~ ^/regex/\\d+ {
            apikey_service chat-\$http_x_which;
            apikey_weight 3;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /socket {
            proxy_set_header Connection upgrade;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_pass http://127.0.0.1:$socket_port;
        }

        location /optional {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


# One record: by the columns asked for.

sub record {
    my ($id, $columns) = @_;

    my @row;

    wait_for("the record of $id", sub {
        my ($row) = $t->postgres->rows("SELECT $columns FROM"
            . " apikey.usage_event WHERE event = '$id'");
        @row = @{$row // []};
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @row;
}


sub last_id {
    my ($count) = @_;

    $t->upstream->wait_hits($count);
    return ($t->upstream->ids)[-1];
}


# ordinary ones

my $r = $n->request('POST', '/delay/50/bytes/5000', key => $key->{key},
                    body => 'x' x 3000);
my $id = $r->{headers}{'x-request-id'};

is(record($id, 'key_id, secret_id, owner, customer, method, status_code,'
          . ' outcome, verdict, mode, endpoint, weight, aborted, client'),
   "$key->{id} $key->{secret} user_1 c1 POST 200 success ok none / 1 null"
   . ' 127.0.0.0/24', 'a record');

my ($in, $out, $us, $upstream) =
    split / /, record($id, 'bytes_in, bytes_out, duration_us, upstream_us');

ok($in > 3000 && $in < 3300, 'bytes in');
ok($out > 5000 && $out < 5600, 'bytes out');
ok($us >= 50_000 && $us < 2_000_000, 'duration');
ok($upstream >= 49_000 && $upstream <= $us, 'time of the upstream')
    or diag("$upstream of $us");

$r = $n->get('/regex/77', key => $key->{key},
             headers => [ 'X-Which' => 'eu' ]);
is(record($r->{headers}{'x-request-id'}, 'service, endpoint, weight'),
   'chat-eu ^/regex/\d+ 3', 'service and weight; a regex as it is written');

$r = Apikey::Http->new(port => $n->port('named'))
     ->request('GET', '/1', key => $key->{key});
is(record($r->{headers}{'x-request-id'}, 'service, endpoint'),
   'example.com /orders/{id}', 'the first server_name, a template');

$r = $n->get('/optional');
is(record($r->{headers}{'x-request-id'}, 'key_id, owner, verdict'),
   'null null anonymous', 'an anonymous one');

for my $status (204, 304, 404, 500, 502, 504) {
    $r = $n->get("/status/$status", key => $key->{key});
    is(record($r->{headers}{'x-request-id'}, 'status_code, aborted'),
       "$status null", "the upstream says $status");
}


# ended by the upstream

for my $path ('/abort', '/unbuffered/abort') {
    my $hits = $t->upstream->hits;
    eval { $n->get($path, key => $key->{key}) };
    is(record(last_id($hits + 1), 'status_code, aborted'), '200 upstream',
       "$path: half an answer");
}

$r = $n->get('/close', key => $key->{key});
is(record($r->{headers}{'x-request-id'}, 'status_code, aborted'),
   '502 upstream', 'no answer');

$r = $n->get('/hang', key => $key->{key});
is(record($r->{headers}{'x-request-id'}, 'status_code, aborted'),
   '504 timeout', 'no answer in time');


# ended by the client

for my $path ('/delay/9000', '/stream/400/20', '/unbuffered/stream/400/20') {
    my $hits = $t->upstream->hits;
    my $c = $n->conn;

    $c->send(Apikey::Http::build('GET', $path, key => $key->{key}));
    my $id = last_id($hits + 1);

    if ($path =~ /stream/) {
        $c->need('the first chunk', sub { $c->{buffer} =~ /chunk/ },
                 time + 10);
    }

    $c->close;

    like(record($id, 'status_code, aborted'), qr/^(499|200) client$/,
         "$path: the client leaves");
}


# switched protocols

{
    my $c = $n->conn;
    $c->send(Apikey::Http::build('GET', '/socket', key => $key->{key},
        headers => [ Upgrade => 'twice', Connection => 'upgrade' ]));

    my $r = $c->response;
    is($r->{status}, 101, 'an upgrade');

    $c->send('ab');
    $c->need('both', sub { length $c->{buffer} >= 4 }, time + 10);
    is($c->{buffer}, 'abab', 'bytes go both ways');
    $c->half_close;
    $c->closed;

    like(record($r->{headers}{'x-request-id'}, 'status_code, aborted'),
         qr/^101 (null|client)$/, 'and one record');
}


# how much of an address is recorded

for (['28,57', '203.0.113.77', '203.0.113.64/28', '2001:db8:0:ffff::9',
      '2001:db8:0:ff80::/57'], ['32,0', '203.0.113.77', '203.0.113.77',
      '2001:db8::9', 'null'], ['0,128', '203.0.113.77', 'null',
      '2001:db8::9', '2001:db8::9'])
{
    my ($prefix, %want) = @$_;

    $t->postgres->run("UPDATE apikey.setting SET value = '$prefix'
                       WHERE name = 'client_prefix'");
    $n->reload;

    for my $client (sort keys %want) {
        wait_for("$client with $prefix", sub {
            my $r = $n->get('/', key => $key->{key},
                            headers => [ 'X-Real-IP' => $client ]);
            record($r->{headers}{'x-request-id'}, 'client')
                eq $want{$client};
        });
        pass("client_prefix $prefix: of $client is left $want{$client}");
    }
}

# what was recorded when it was longer is cut when it is shipped

$t->postgres->run("UPDATE apikey.setting SET value = '32,128'
                   WHERE name = 'client_prefix'");
$n->reload;

my @from = (key => $key->{key}, headers => [ 'X-Real-IP' => '203.0.113.77' ]);

wait_for('a whole address', sub { record($n->get('/', @from)
    ->{headers}{'x-request-id'}, 'client') eq '203.0.113.77' });

$t->postgres->stop('kill');
my $whole = $n->get('/', @from)->{headers}{'x-request-id'};
$n->stop('KILL');

$t->postgres->start;
$t->postgres->run("UPDATE apikey.setting SET value = '24,48'
                   WHERE name = 'client_prefix'");
$n->start;
is(record($whole, 'client'), '203.0.113.0/24',
   'an address that was recorded whole is shipped cut');

# refusals are no use

$n->get('/', key => plain_key('sk')) for 1 .. 3;
$n->get('/');

wait_for('sums of the refusals', sub {
    ($t->postgres->value("SELECT sum(refused) FROM apikey.usage_quarter"
        . " WHERE verdict IN ('invalid_key', 'missing_key')") // 0) == 4;
});

is($t->postgres->value("SELECT sum(requests) FROM apikey.usage_quarter"
   . " WHERE verdict IN ('invalid_key', 'missing_key')"), 0,
   'refusals are summed apart');

$socket_server->stop('KILL');
$t->done;
