
# What requests cost: read out of the upstream's headers and hidden from the
# client, kept exactly, whatever becomes of the request.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $key = $t->key(owner => 'ada');
my $sum = $t->key;

my $n = $t->nginx(workers => 1, http => <<'EOT', server => <<'EOS')->start;
    log_format metered escape=json '$apikey_request_id'
        ' $apikey_tokens_input $apikey_tokens_output $apikey_cost';
    proxy_cache_path %%DIR%%/cache keys_zone=cache:1m;

    server {
        listen 127.0.0.1:%%PORT_cheap%%;
        keepalive_requests 1000000;
        access_log off;
        add_header X-Usage-Input-Tokens 1;
        add_header X-Usage-Cost 0.000001;
        location / { return 200 ok; }
    }

    upstream cheap {
        server 127.0.0.1:%%PORT_cheap%%;
        keepalive 8;
        keepalive_requests 1000000;
    }
EOT
        keepalive_requests 1000000;
        access_log %%DIR%%/metered.log metered;
        apikey required;
        apikey_usage headers;

        location / {
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Logged "$apikey_tokens_input $apikey_cost" always;
        }

        location /reserved/ {
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /timeout/ {
            apikey_reserve cost=0.5;
            proxy_read_timeout 300ms;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /fixed/ {
            apikey_usage off;
            apikey_reserve cost=0.002;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /off/ {
            apikey_usage off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /hidden/ {
            proxy_hide_header X-Usage-Cost;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /cached/ {
            proxy_cache cache;
            proxy_cache_valid 200 1m;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /intercepted/ {
            proxy_intercept_errors on;
            error_page 500 = /page;
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /page {
            apikey_usage off;
            return 500 sorry;
        }

        location /accel/ {
            proxy_pass http://%%UPSTREAM%%;
        }

        location = /file {
            internal;
            apikey off;
            empty_gif;
        }

        location = /optional {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%/set/X-Usage-Cost/0.5;
        }

        location = /cheap {
            access_log off;
            proxy_pass http://cheap;
        }
EOS

$t->sync;


# One record; "null" where nobody knows.

sub record {
    my ($id, $columns) = @_;

    my @row;

    wait_for("the record of $id", sub {
        my ($row) = $pg->rows('SELECT ' . ($columns // 'tokens_input,'
            . ' tokens_output, cost, usage_source')
            . " FROM apikey.usage_event WHERE event = '$id'");
        @row = @{$row // []};
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @row;
}


sub cost {
    my ($path, $want, $name, $status) = @_;

    my $r = $n->get($path, key => $key->{key});

    is($r->{status}, $status // 200, "$name: passes");
    is(record($r->{headers}{'x-request-id'}), $want, $name);
    is(join(' ', grep { /usage/i } keys %{$r->{headers}}), '',
       "$name: the client sees nothing of it");
    return $r;
}


sub set { join '', map { "/set/X-Usage-$_->[0]/$_->[1]" } @_ }

sub tokens { set([ 'Input-Tokens', $_[0] ], [ 'Output-Tokens', $_[1] ]) }
sub price  { set([ 'Cost', $_[0] ]) }


subtest 'what the upstream says' => sub {
    my $r = cost(tokens(1200, 34) . price('0.0123'),
                 '1200 34 12300000 header', 'all three');
    is($r->{headers}{'x-logged'}, '1200 0.0123', 'in variables');

    cost(price('0.000000001'), '0 0 1 header', 'a nano-unit');
    cost(price('1e-06'), '0 0 1000 header', 'an exponent');
    cost(price('0.0000000005'), '0 0 1 header', 'half of one is rounded up');
    cost(price('0.00000000049'), '0 0 0 header', 'less is not');
    cost(price('9007199.254740991'), '0 0 9007199254740991 header',
         'as much as can be');
    cost(price(0) . tokens(0, 0), '0 0 0 header', 'explicit zeros');
    cost(set([ 'Input-Tokens', 7 ]) . price(1), '7 0 1000000000 header',
         'input alone');
    cost(tokens(3, 4), '3 4 null header', 'tokens, but no price');
    cost('/status/404' . price('0.5'), '0 0 500000000 header',
         'an error that costs', 404);
    cost('/hidden/' . price('0.25'), '0 0 250000000 header',
         'what proxy_hide_header takes out');
    cost("/set/x-usage-COST/0.125", '0 0 125000000 header', 'in any case');
    cost('/cached/' . price('0.25'), '0 0 250000000 header', 'into a cache');
    cost('/cached/' . price('0.25'), '0 0 250000000 header', 'out of it');
    cost('/intercepted/status/500' . price('0.75'), '0 0 750000000 header',
         'an error page in place of it', 500);
    cost('/accel/set/X-Accel-Redirect/%2Ffile' . price('0.3'),
         '0 0 300000000 header', 'a file in place of it');

    $r = $n->get('/optional');
    is(record($r->{headers}{'x-request-id'}, 'key_id, cost'),
       'null 500000000', 'anonymous use');

    $r = $n->get('/off' . price(1), key => $key->{key});
    is($r->{headers}{'x-usage-cost'}, 1, 'off: nothing is hidden');
    is(record($r->{headers}{'x-request-id'}), '0 0 0 none',
       'off: and nothing counted');
};


subtest 'what it says is no number' => sub {
    for my $wrong ('abc', '-1', '1%2C5', '1e30', '9007199.254740992', '.5',
                   'NaN', '0x1', '')
    {
        my $name = $wrong =~ s/%2C/,/r;

        cost(price($wrong), '0 0 null none', "cost $name");
        cost("/reserved" . price($wrong) . '?cost=0.5&tokens=9',
             '0 9 500000000 estimate', "cost $name has cost its reserve");
    }

    cost(price('0.5') . price('0.5'), '0 0 null none', 'two of them');
    cost(tokens('1.5', 2), '0 0 null none', 'a fraction of a token');
    cost(tokens('x', 2) . price(1), '0 0 1000000000 header',
         'one of two numbers: the other means nothing');
    cost(tokens(1, '4503599627370496') . price(1), '0 0 1000000000 header',
         'more tokens than can be counted');
    like($n->log_text, qr/apikey_usage: the upstream says "X-Usage-/,
         'it is logged');
};


subtest 'what it does not say' => sub {
    cost('/', '0 0 null none', 'an answer');
    cost('/reserved/?cost=0.5&tokens=70', '0 70 500000000 estimate',
         'has cost its reserve');
    cost('/reserved/?cost=0.5', '0 0 500000000 estimate', 'half a reserve');
    cost('/reserved/?cost=x&tokens=-1', '0 0 null none', 'no reserve');
    cost('/reserved' . tokens(1, 2) . '?cost=0.5&tokens=9',
         '1 2 500000000 estimate', 'what is not said is estimated');
    cost('/reserved' . tokens(1, 2) . price('0.1') . '?cost=0.5&tokens=9',
         '1 2 100000000 header', 'what is said is not');
    cost("/status/$_", '0 0 0 none', "status $_ is free", $_)
        for 400, 429, 500, 503;
    cost('/reserved/close?cost=0.5', '0 0 0 none', 'no answer', 502);
    cost('/timeout/hang', '0 0 0 none', 'none in time', 504);
    cost('/fixed/', '0 0 2000000 estimate', 'a fixed price');
    cost('/fixed/status/404', '0 0 0 none', 'not for an error', 404);
    like($n->log_text, qr/apikey_reserve: cost="x" is not an amount/,
         'a wrong reserve is logged');
};


subtest 'in the access log' => sub {
    my @r = map { $n->get($_, key => $key->{key}) }
        tokens(5, 6) . price('1.50'), '/', '/fixed/', '/off/',
        '/status/500';

    my @want = ('5 6 1.50', '  ', '0 0 0.002', '0 0 0.00', '0 0 0.00');
    my %line;

    wait_for('its lines', sub {
        %line = map { /^(\S+) (.*)/ ? ($1, $2) : () }
                split /\n/, $n->log_text('metered.log');
        return !grep { !exists $line{$_->{headers}{'x-request-id'}} } @r;
    });

    is_deeply([ map { $line{$_->{headers}{'x-request-id'}} } @r ], \@want,
              'as the records have it');
};


subtest 'who ends it' => sub {
    for my $path ('/stream/50/20', '/reserved/stream/50/20') {
        my $hits = $up->hits;
        my $c = $n->conn;

        $c->send(Apikey::Http::build('GET', $path . price('0.4') . '?cost=9',
                                     key => $key->{key}));
        $c->need('the first chunk', sub { $c->{buffer} =~ /chunk/ },
                 time + 10);
        $c->close;
        is(record(($up->ids)[-1], 'cost, usage_source, aborted'),
           '400000000 header client', "$path: a client that leaves");
    }

    my $hits = $up->hits;
    eval { $n->get('/abort' . price('0.2'), key => $key->{key}) };
    $up->wait_hits($hits + 1);
    is(record(($up->ids)[-1], 'cost, usage_source, aborted'),
       '200000000 header upstream', 'half an answer');

    for ([ '/reserved/hang?cost=0.7&tokens=12', '0 12 700000000 estimate' ],
         [ '/fixed/hang', '0 0 2000000 estimate' ],
         [ '/hang', '0 0 null none' ], [ '/off/hang', '0 0 0 none' ])
    {
        my ($path, $want) = @$_;

        $hits = $up->hits;
        my $c = $n->conn;
        $c->send(Apikey::Http::build('GET', $path, key => $key->{key}));
        $up->wait_hits($hits + 1);
        $n->kill_worker;
        is(record(($up->ids)[-1], 'tokens_input, tokens_output, cost,'
                  . ' usage_source, aborted'), "$want worker_lost",
           "$path: a killed worker");
    }
};


# The client pipelines; nobody has to look at each answer.

subtest '100,000 of 0.000001 are 0.1' => sub {
    my $one = Apikey::Http::build('GET', '/cheap', key => $sum->{key});
    my $c = $n->conn;
    my $passed = 0;

    for (1 .. 500) {
        $c->send($one x 200);

        my $got = 0;
        my $in = '';

        while ($got < 200) {
            sysread $c->{socket}, $in, 65536, length $in or die "closed\n";
            $got = () = $in =~ m{HTTP/1\.1 200 }g;
        }

        $passed += $got;
    }

    is($passed, 100_000, 'all pass');

    wait_for('all of them', sub {
        ($pg->value("SELECT requests FROM apikey.key_usage
                     WHERE key_id = '$sum->{id}'") // 0) == 100_000;
    }, 60);

    is($pg->value("SELECT cost || ' ' || tokens FROM apikey.key_usage
                   WHERE key_id = '$sum->{id}'"), '100000000 100000',
       'the sum of the key');
    is($pg->value("SELECT cost || ' ' || unpriced FROM apikey.usage_daily
                   WHERE key = '$sum->{id}'"), '0.100000000 0', 'of the day');
    is($pg->value("SELECT sum(cost) FROM apikey.usage_event
                   WHERE key_id = '$sum->{id}'"), '100000000',
       'of the events');
};


is($pg->value("SELECT sum(cost)::bigint FROM apikey.key_usage"),
   $pg->value('SELECT sum(cost)::bigint FROM apikey.usage_event
               WHERE key_id IS NOT NULL'),
   'the keys and their events say the same');

$t->allow(qr/exited on signal 9/);
$t->done;
