# What one caller, one address may ask for: the admin API's rate, wrong
# credentials, and guesses while the keyring is not complete.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;


# A request by an address of the test's choosing.

my $realip = <<'EOT';
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-IP;
EOT

my $n = $t->nginx(workers => 2, http => $realip, server => <<'EOT')->start;
        location /slow/ {
            apikey_admin rate=2r/m;
        }

        location /also/ {
            apikey_admin rate=2r/m;
        }

        location /other/ {
            apikey_admin rate=3r/m operator=$me identity=$you;
        }

        set $me "";
        set $you "";

        if ($http_x_me) {
            set $me $http_x_me;
        }

        if ($http_x_you) {
            set $you $http_x_you;
        }

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT


sub as {
    my ($token, $uri, %opt) = @_;

    my @headers = @{$opt{headers} // []};

    push @headers, Authorization => "Bearer $token" if $token ne '';
    push @headers, 'X-Real-IP' => $opt{from} if $opt{from};

    return $n->get($uri, headers => \@headers);
}


sub problem {
    my ($r, $status, $code, $what) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code", $what);
}


sub statuses {
    my %count;
    $count{$_->{status}}++ for @_;
    return \%count;
}


subtest 'the rate of a caller' => sub {
    my $k = $t->key(name => 'one');
    my $other = $t->key(name => 'two');
    $t->sync;

    my @r = $n->parallel(map { +{ uri => '/slow/whoami',
                                  key => $k->{key} } } 1 .. 20);

    is_deeply(statuses(@r), { 200 => 2, 429 => 18 }, '2 of 20 at once');

    my ($no) = grep { $_->{status} == 429 } @r;

    problem($no, 429, 'rate_limited', 'the others');
    cmp_ok($no->{headers}{'retry-after'}, '>=', 1, 'Retry-After');
    cmp_ok($no->{headers}{'retry-after'}, '<=', 30, '... is the next token');
    is($no->{headers}{'cache-control'}, 'no-store', 'no-store');
    is($n->metric('apikey_limited_total', what => 'caller'), 18, 'counted');

    is(as($k->{key}, '/also/whoami')->{status}, 429,
       'another location of this rate');
    is(as($k->{key}, '/other/whoami')->{status}, 200, '... of another rate');
    is(as($k->{key}, '/api/v1/whoami')->{status}, 200, '... of none');
    is(as($k->{key}, '/slow/nothing')->{status}, 404, 'no path, no caller');
    is(as('', '/slow/health')->{status}, 200, 'nobody is no caller');
    is(as($other->{key}, '/slow/whoami')->{status}, 200, 'another caller');
    is($n->get('/', key => $k->{key})->{status}, 200, 'the data plane');

    my $new = json($n->admin('POST', "api-keys/$k->{id}/rotate",
                             body => { grace => '1h' }));
    is(as($new->{key}, '/slow/whoami')->{status}, 429,
       'another secret is the same caller');

    $n->reload;
    is(as($k->{key}, '/slow/whoami')->{status}, 429, 'after a reload');

    for my $who ('X-Me', 'X-You') {
        is(as('', '/other/whoami', headers => [ $who => 'ada' ])->{status},
           200, "$who $_") for 1 .. 3;
        is(as('', '/other/whoami', headers => [ $who => 'ada' ])->{status},
           429, '... and no more');
        is(as('', '/other/whoami', headers => [ $who => 'bob' ])->{status},
           200, '... another one');
    }
};


subtest 'wrong credentials of an address' => sub {
    my $k = $t->key(name => 'good');
    my $revoked = $t->key(name => 'bad', revoked => 1);
    my $from = '203.0.113.7';
    $t->sync;

    is(as('', '/api/v1/whoami', from => $from)->{status}, 401, "none $_")
        for 1 .. 3;

    my @r = $n->parallel(map { +{ uri => '/api/v1/whoami', headers => [
        Authorization => 'Bearer ' . plain_key('op'),
        'X-Real-IP' => $from ] } } 1 .. 300);
    my $count = statuses(@r);

    cmp_ok($count->{401}, '>=', 120, '120 may be wrong');
    cmp_ok($count->{429} // 0, '>=', 1, 'many may not');
    is($count->{401} + $count->{429}, 300, 'nothing else');

    my %wrong = (unknown => plain_key('sk'), revoked => $revoked->{key},
                 short => 'x', 'an operator' => plain_key('op'),
                 'a bad CRC' => substr(plain_key('sk'), 0, -1) . '!');

    # two come back a second: all at once, so that it can be few

    my @kinds = sort keys %wrong;
    @r = $n->parallel(map { +{ uri => '/api/v1/whoami', headers => [
        Authorization => "Bearer $wrong{$kinds[$_ % @kinds]}",
        'X-Real-IP' => $from ] } } 0 .. 20 * @kinds - 1);

    for my $i (0 .. $#kinds) {
        my @of = map { $r[$_ * @kinds + $i] } 0 .. 19;
        my @no = grep { $_->{status} == 429 } @of;

        cmp_ok(scalar @no, '>=', 10, "$kinds[$i]: refused");
        problem($no[0], 429, 'rate_limited', '... as all others');
        is(json($no[0])->{detail}, json((grep { $_->{status} == 429 } @r)[0])
           ->{detail}, '... word for word');
        ok(!$no[0]{headers}{'www-authenticate'}, '... asks for none');
    }

    is(as($t->token, '/api/v1/whoami', from => $from)->{status}, 200,
       'a good token from there');
    is(as($k->{key}, '/api/v1/whoami', from => $from)->{status}, 200,
       'a good key from there');
    problem(as('', '/api/v1/whoami', from => $from), 401,
            'missing_credential', 'none from there');
    problem(as('x' x 40, '/api/v1/whoami', from => '203.0.113.8'), 401,
            'invalid_credential', 'a wrong one from another address');

    @r = $n->parallel(map { +{ uri => '/', headers => [
        'X-API-Key' => plain_key('sk'), 'X-Real-IP' => $from ] } } 1 .. 20);
    is_deeply(statuses(@r), { 401 => 20 }, 'the data plane says 401');

    @r = $n->parallel(map { +{ uri => '/api/v1/whoami', headers => [
        Authorization => 'Bearer ' . plain_key('op'),
        'X-Real-IP' => sprintf '2001:db8:0:1::%x', $_ ] } } 1 .. 300);
    $count = statuses(@r);

    cmp_ok($count->{401}, '>=', 120, 'IPv6: 120');
    cmp_ok($count->{429}, '>=', 1, '... of a /64');
    problem(as('x' x 40, '/api/v1/whoami', from => '2001:db8:0:2::1'), 401,
            'invalid_credential', '... another /64');

    cmp_ok($n->metric('apikey_limited_total', what => 'failure'), '>=', 2,
           'counted');
    cmp_ok($n->metric('apikey_credential_failures_total',
                      reason => 'operator'), '>=', 400, 'each with its reason');
};


subtest 'one answer to all that is wrong' => sub {
    my $known = $t->key(name => 'known');
    my %wrong = (
        'of our form'   => plain_key('sk'),
        'of an operator' => plain_key('op'),
        'a bad CRC'     => substr($known->{key}, 0, -1) . '!',
        'foreign'       => 'nk_' . 'a' x 64,
        'short'         => 'x',
        'long'          => 'x' x 600,
        '8-bit'         => "\xff" x 40,
        'revoked'       => $t->key(revoked => 1)->{key},
        'disabled'      => $t->key(enabled => 0)->{key},
        'expired'       => $t->key(expires_at => '2001-01-01')->{key},
    );
    my %plain;

    $t->sync;

    for my $what (sort keys %wrong) {
        for my $uri ('/api/v1/whoami', '/') {
            next if $uri eq '/' && $what =~ /^(disabled|expired)$/;

            my $raw = $n->get($uri, key => $wrong{$what},
                              headers => [ 'X-Real-IP' => '203.0.113.12' ])
                        ->{raw};

            $raw =~ s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/ID/g;
            $raw =~ s/^Date: .*\r\n//m;

            $plain{$uri} //= $raw;
            is($raw, $plain{$uri}, "$uri: $what");
        }
    }
};


subtest 'guessing costs no query' => sub {
    $pg->stop;

    problem(as('x' x 40, '/api/v1/whoami', from => '203.0.113.9'), 401,
            'invalid_credential', 'a wrong one, without Postgres');
    problem(as(plain_key('sk'), '/api/v1/whoami', from => '203.0.113.9'), 401,
            'invalid_credential', 'of our form');
    is($n->get('/', key => plain_key('sk'))->{status}, 401,
       'on the data plane');
    problem(as($t->token, '/api/v1/whoami'), 503, 'unavailable',
            'a right one needs it');

    $pg->start;

    wait_for('the admin API', sub {
        as($t->token, '/api/v1/whoami')->{status} == 200;
    }, 20);

    $n->stop;
};


# A zone that holds half of the keys: each miss is a question to Postgres.

subtest 'guesses while the copy is not complete' => sub {
    my @keys = $t->keys(6000, name => 'many');
    my $from = '203.0.113.10';

    $n = $t->nginx(name => 'small', http => $realip, base => {
        zone => 'apikey_zone zone=apikey:1m;',
        mac => 'apikey_mac_secret %%DIR%%/mac;' });

    open my $mac, '>', $n->dir . '/mac' or die "mac: $!\n";
    print $mac '1 ', 'x' x 32, "\n";
    close $mac;

    $n->start(wait => 0);

    wait_for('the keys that fit', sub {
        $n->log_text =~ /zone is too small for all keys/;
    }, 20);

    my $ask = sub {
        return $n->parallel(map { +{ uri => '/', headers => [
            'X-API-Key' => $_, 'X-Real-IP' => $from ] } } @_);
    };

    # no more at once than Postgres answers in good time

    my @found;

    for my $i (0 .. 19) {
        push @found, $ask->(map { $_->{key} }
                            @keys[100 * $i .. 100 * $i + 99]);
    }

    is_deeply(statuses(@found), { 200 => 2000 },
              'keys that are found are not counted');
    @found = map { $n->parallel(map { +{ uri => '/api/v1/whoami', headers => [
                 'X-API-Key' => $_->{key}, 'X-Real-IP' => $from ] } } @$_) }
             map { [ @keys[100 * $_ .. 100 * $_ + 99] ] } 20 .. 39;

    is_deeply(statuses(@found), { 200 => 2000 }, '... by the admin API');

    @found = map { $n->parallel(map { +{ uri => '/api/v1/whoami', headers => [
                 'X-API-Key' => $_->{key}, 'X-Real-IP' => '203.0.113.14' ] } }
                 @keys[100 * $_ .. 100 * $_ + 99]) } 40 .. 59;

    is_deeply(statuses(@found), { 200 => 2000 }, '... which has none of them');
    is_deeply(statuses($ask->(map { substr(plain_key('sk'), 0, -1) . '_' }
                              1 .. 10)), { 401 => 10 }, '... a few guesses');

    my @guesses = map { plain_key('nk') } 1 .. 2000;
    my $count = statuses($ask->(@guesses));

    cmp_ok($count->{401}, '>=', 400, '500 guesses are looked up');
    cmp_ok($count->{503}, '>=', 1, 'no more are');
    is($count->{401} + $count->{503}, 2000, 'nothing else');
    is($n->metric('apikey_limited_total', what => 'lookup'), $count->{503},
       'counted');

    my @made = map { json($n->admin('POST', 'api-keys',
                         body => { name => 'signed' }))->{key} } 1 .. 30;

    # empty again, if it took long

    $ask->(map { plain_key('nk') } 1 .. 1000);

    is_deeply(statuses($ask->(@made)), { 200 => 30 },
              'what carries our MAC is no guess');
    is_deeply(statuses($ask->(map { substr($_, 0, -1)
                                    . (/a$/ ? 'b' : 'a') } @made)),
              { 401 => 30 }, 'what has it wrong is not asked for');

    # a client elsewhere brings it into the copy

    $n->get('/', key => $keys[0]{key});
    is(($ask->($keys[0]{key}))[0]{status}, 200, 'a key that is there passes');

    my @no = grep { $_->{status} == 503 } $ask->(map { plain_key('nk') }
                                                 1 .. 700);
    problem($no[0], 503, 'unavailable', 'a guess');
    ok($no[0]{headers}{'retry-after'}, 'Retry-After');

    @no = grep { $_->{status} == 429 } $n->parallel(map { +{
        uri => '/api/v1/whoami', headers => [ 'X-API-Key' => plain_key('nk'),
            'X-Real-IP' => $from ] } } 1 .. 700);
    cmp_ok(scalar @no, '>=', 1, 'the admin API asks no more, either');
    problem($no[0], 429, 'rate_limited', '... and says so');

    $from = '203.0.113.11';
    is_deeply(statuses($ask->(map { plain_key('nk') } 1 .. 10)),
              { 401 => 10 }, 'another address');
};


$t->done;
