
# Webhooks: what a receiver gets and can verify, who may be called at all, what
# happens when nobody answers, and when a node dies while it is sending.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_base64);
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use Test::More;

use Apikey::Certs;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $there = $t->upstream(name => 'there');

my ($ca) = Apikey::Certs->new($t->dir)->ca('ours');
my ($cert, $cert_key) = Apikey::Certs->new($t->dir)
                        ->cert('ours', 'there', 'IP:127.0.0.1');

my $owner = $t->key(owner => 'ada', scopes => ['apikey:manage']);
my $other = $t->key(owner => 'eve', scopes => ['apikey:manage']);

my $tls = <<"EOT";
    server {
        listen 127.0.0.1:%%PORT_tls%% ssl;
        ssl_certificate      $cert;
        ssl_certificate_key  $cert_key;
        return 200;
    }
EOT

my $n = $t->nginx(workers => 2, http => $tls)->start;
$t->sync;


sub api {
    my ($method, $path, $body, $status, %opt) = @_;

    my $r = $n->admin($method, $path, body => $body, %opt);

    is($r->{status}, $status, "$method " . $path =~ s/[0-9a-f-]{36}/ID/gr)
        or diag($r->{body});
    return $r->{status} == 204 ? {} : json($r);
}


sub hook {
    my ($path, %opt) = @_;

    return api('POST', 'webhooks', {
        url => 'http://127.0.0.1:' . $there->port . $path, %opt }, 201);
}


# A delivery once it is no longer under way.

sub delivery {
    my ($hook, $event, $state) = @_;

    my $d;

    wait_for("the delivery to be $state", sub {
        ($d) = @{json($n->admin('GET', "webhooks/$hook->{id}/deliveries?"
                                       . "event=$event"))->{data}};
        return $d && $d->{state} eq $state && @{$d->{attempts}}
               && defined $d->{attempts}[-1]{duration_ms};
    }, 40);

    return $d;
}


# As the operator's webhooks get it.

sub emit {
    my ($type, $data) = @_;

    return $pg->value("SELECT apikey.event_emit('$type', '"
                      . JSON::PP::encode_json($data // {}) . "')");
}


sub got { my ($event) = @_; return grep {
    ($_->{headers}{'webhook-id'} // '') eq $event } $there->requests }


# By the specification's words, with nothing of ours.

sub signatures {
    my ($request, @secrets) = @_;

    my $h = $request->{headers};
    my $text = "$h->{'webhook-id'}.$h->{'webhook-timestamp'}.$request->{body}";

    return join ' ', map {
        my $mac = hmac_sha256_base64($text, decode_base64(s/^whsec_//r));
        'v1,' . $mac . '=' x (-length($mac) % 4);
    } @secrets;
}


my $hook = hook('/in', description => 'ours', events => ['alert.*']);

like($hook->{secret}, qr{^whsec_[A-Za-z0-9+/]{43}=$}, 'a secret is shown');
is(length decode_base64($hook->{secret} =~ s/^whsec_//r), 32, 'of 32 bytes');

my $object = api('GET', "webhooks/$hook->{id}", undef, 200);
my %shown = %$hook;
delete $shown{secret};
is_deeply($object, \%shown, 'and never again');

is_deeply([ @$object{qw(owner description enabled failures)},
            $object->{events}, map { $_->{state} } @{$object->{secrets}} ],
          [ undef, 'ours', JSON::PP::true, 0, ['alert.*'], 'current' ],
          'the object');

unlike($pg->value("SELECT string_agg(a::text, ' ') FROM apikey.audit a"),
       qr/whsec_/, 'not in the audit');

subtest 'what is no webhook' => sub {
    my $r = api('POST', 'webhooks', { url => 'ftp://x/', events => ['no.such'],
        owner => 'nobody', secret => 'x', enabled => 'yes' }, 400);

    is(join(' ', sort map { "$_->{location}=$_->{code}" } @{$r->{errors}}),
       '/enabled=bad_type /events/0=bad_value /owner=not_found'
       . ' /secret=read_only /url=bad_value', 'all that is wrong');

    for my $url ('http://a:b@127.0.0.1/', 'http://x/#y', "http://x/\x{e9}",
                 'http://x:99999/', 'https://[::1]:65536', 'http://x:0',
                 'http://x:1:2/', 'http://:80/', 'http://x:y/', 'http://[::1/')
    {
        $r = api('POST', 'webhooks', { url => $url }, 400);
        is($r->{errors}[0]{location}, '/url', 'the url');
    }

    api('POST', 'webhooks', {}, 400);
    api('PATCH', "webhooks/$hook->{id}", { url => undef }, 400);
    api('PATCH', "webhooks/$hook->{id}", { owner => 'ada' }, 400);
    api('GET', 'webhooks/' . 'f' x 8 . '-ffff-7fff-bfff-ffffffffffff', undef,
        404);
};


subtest 'private addresses' => sub {
    my $port = $there->port;

    my @sent = map {
        my $at = hook('/in', url => "http://$_:$port/in");

        [ $_, $at, api('POST', "webhooks/$at->{id}/test", undef, 202) ];
    } '127.0.0.1', '[::1]', '[::ffff:127.0.0.1]', 'localhost', '2130706433',
      '0x7f.1', '0.0.0.0', '169.254.169.254';

    for (@sent) {
        my ($host, $at, $sent) = @$_;
        my $d = delivery($at, $sent->{event}, 'failed');

        is(scalar @{$d->{attempts}}, 1, 'a test is sent once');
        like($d->{attempts}[0]{error}, qr/private address/, "$host: refused");
        is($d->{attempts}[0]{status_code}, undef, 'without an answer');
        api('DELETE', "webhooks/$at->{id}", undef, 204);
    }

    is($there->hits, 0, 'nobody was connected to');

    $pg->run("INSERT INTO apikey.setting VALUES ('webhook_allow',
              'fd00::/8, 127.0.0.0/8')");
    api('PATCH', "webhooks/$hook->{id}", { url => "http://127.0.0.1:$port/in" },
        200);
};


subtest 'a delivery' => sub {
    my $sent = api('POST', "webhooks/$hook->{id}/test", undef, 202);
    is($sent->{type}, 'webhook.test', 'a test');
    is($sent->{state}, 'pending', 'on its way');

    my $d = delivery($hook, $sent->{event}, 'delivered');
    my ($got, @more) = got($sent->{event});

    is(@more, 0, 'once');
    is($got->{method}, 'POST', 'a POST');
    is($got->{uri}, '/in', 'where it belongs');
    is($got->{headers}{'content-type'}, 'application/json', 'of JSON');
    is($got->{headers}{'webhook-signature'},
       signatures($got, $hook->{secret}), 'its signature verifies');
    cmp_ok(abs($got->{headers}{'webhook-timestamp'} - $got->{time}), '<', 60,
           'its time is now');

    my $body = JSON::PP::decode_json($got->{body});
    is_deeply([ sort keys %$body ], [ qw(data timestamp type) ], 'the body');
    is_deeply($body->{data}, { webhook => $hook->{id} }, 'its data');
    like($body->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/,
         'its time');

    is($d->{attempts}[0]{status_code}, 200, 'the log says the status');
    is($d->{attempts}[0]{node}, 'node', 'and the node');
    is_deeply($d->{data}, $body->{data}, 'and what was sent');
    is($d->{next_attempt_at}, undef, 'no next attempt');

    isnt(api('GET', "webhooks/$hook->{id}", undef, 200)->{delivered_at},
         undef, 'the webhook says when');
};


subtest 'secrets are rotated' => sub {
    my $new = api('POST', "webhooks/$hook->{id}/rotate", { grace => '1h' },
                  200);

    isnt($new->{secret}, $hook->{secret}, 'another one');
    is(join(' ', map { $_->{state} } @{$new->{secrets}}), 'current grace',
       'both hold');

    my $e = emit('alert.firing', { n => "\x{fc}" });
    delivery($hook, $e, 'delivered');
    my ($got) = got($e);

    is($got->{headers}{'webhook-signature'},
       signatures($got, $new->{secret}, $hook->{secret}), 'both sign');

    my $last = api('POST', "webhooks/$hook->{id}/rotate", { grace => '0s' },
                   200);
    is(scalar @{$last->{secrets}}, 1, 'one is left');

    $e = emit('alert.firing', { n => 2 });
    delivery($hook, $e, 'delivered');
    ($got) = got($e);
    is($got->{headers}{'webhook-signature'},
       signatures($got, $last->{secret}), 'and signs alone');

    my $once = api('POST', "webhooks/$hook->{id}/rotate", undef, 200,
                   headers => [ 'Idempotency-Key' => 'a' ]);
    my $again = api('POST', "webhooks/$hook->{id}/rotate", undef, 200,
                    headers => [ 'Idempotency-Key' => 'a' ]);
    is($again->{secret}, undef, 'a repeated answer shows none');
    is_deeply($again->{secrets}, $once->{secrets}, 'and makes none');

    api('POST', "webhooks/$hook->{id}/rotate", { grace => 'long' }, 400);
};


subtest 'who wants what' => sub {
    my $all = hook('/all');
    my $export = hook('/export', events => ['export.completed']);

    my $e = emit('export.completed', { file => 'x' });
    delivery($_, $e, 'delivered') for $all, $export;
    is(join(' ', sort map { $_->{uri} } got($e)), '/all /export', 'by types');

    is(@{api('GET', "webhooks/$hook->{id}/deliveries?event=$e", undef, 200)
         ->{data}}, 0, 'not who wants others');

    api('PATCH', "webhooks/$all->{id}", { enabled => JSON::PP::false }, 200);
    api('POST', "webhooks/$all->{id}/test", undef, 409);
    api('DELETE', "webhooks/$export->{id}", undef, 204);
    api('GET', "webhooks/$export->{id}", undef, 404);

    $e = emit('export.completed', {});
    is($pg->value("SELECT count(*) FROM apikey.webhook_delivery
                   WHERE event_id = '$e'"), 0,
       'nor who is disabled or deleted');
};


subtest 'owners' => sub {
    my @ada = (as => $owner->{key});
    my @eve = (as => $other->{key});

    my $mine = api('POST', 'webhooks', { url => 'http://127.0.0.1:'
        . $there->port . '/ada' }, 201, @ada);
    is($mine->{owner}, 'ada', 'has one of its own');

    is(join(' ', map { $_->{id} } @{api('GET', 'webhooks', undef, 200, @ada)
            ->{data}}), $mine->{id}, 'and sees no other');
    is(@{api('GET', 'webhooks', undef, 200, @eve)->{data}}, 0,
       'nobody else does');

    for my $path ("webhooks/$mine->{id}", "webhooks/$mine->{id}/deliveries") {
        api('GET', $path, undef, 404, @eve);
    }

    api('POST', "webhooks/$mine->{id}/$_", undef, 404, @eve)
        for qw(test rotate);
    api('DELETE', "webhooks/$mine->{id}", undef, 404, @eve);
    api('POST', 'webhooks', { url => 'http://x/', owner => 'eve' }, 403, @ada);
    api('GET', "webhooks/$hook->{id}", undef, 404, @ada);

    my $e = $pg->value("SELECT apikey.event_emit('alert.firing', '{}',
        (SELECT id FROM apikey.owner WHERE external = 'ada'))");
    delivery($mine, $e, 'delivered');
    is(join(' ', map { $_->{uri} } got($e)), '/ada', 'gets what is its own');

    my $sent = api('POST', "webhooks/$mine->{id}/test", undef, 202, @ada);
    delivery($mine, $sent->{event}, 'delivered');

    is($pg->value("SELECT count(*) FROM apikey.audit_log
                   WHERE object = 'webhook' AND owner = 'ada'"), 1,
       'its audit says so');

    is(@{api('GET', 'webhooks?owner=ada', undef, 200)->{data}}, 1,
       'an operator sees it');
};


sub moved { api('PATCH', "webhooks/$hook->{id}",
                { url => 'http://127.0.0.1:' . $there->port . $_[0] }, 200) }

subtest 'answers that are none' => sub {
    moved('/status/302/set/Location/http%3A%2F%2F127.0.0.1%3A' . $there->port
          . '%2Felsewhere');
    my $sent = api('POST', "webhooks/$hook->{id}/test", undef, 202);
    my $d = delivery($hook, $sent->{event}, 'failed');
    is($d->{attempts}[0]{status_code}, 302, 'a redirect');
    is(scalar(grep { $_->{uri} =~ /elsewhere$/ && $_->{uri} !~ /status/ }
              $there->requests), 0, 'is not followed');

    moved('/bytes/2000000');
    $sent = api('POST', "webhooks/$hook->{id}/test", undef, 202);
    delivery($hook, $sent->{event}, 'delivered');
    pass('a long body is not read to its end');

    api('PATCH', "webhooks/$hook->{id}",
        { url => 'https://127.0.0.1:' . $n->port('tls') . '/' }, 200);
    $sent = api('POST', "webhooks/$hook->{id}/test", undef, 202);
    $d = delivery($hook, $sent->{event}, 'failed');
    like($d->{attempts}[0]{error}, qr/certificate/i,
         'a certificate that nobody knows');

    moved('/status/410');
    $pg->run("BEGIN;
        SELECT apikey.event_emit('alert.firing', '{}');
        UPDATE apikey.webhook_delivery
        SET next_at = now() + interval '1 day'
        WHERE webhook_id = '$hook->{id}' AND state = 'pending';
        COMMIT");
    my $waits = $pg->value("SELECT event_id FROM apikey.webhook_delivery
        WHERE webhook_id = '$hook->{id}' AND state = 'pending'");
    my $e = emit('alert.firing');
    $d = delivery($hook, $e, 'failed');
    is($d->{attempts}[0]{error}, 'the answer was 410', 'gone');
    ($d) = @{api('GET', "webhooks/$hook->{id}/deliveries?event=$waits", undef,
                 200)->{data}};
    is($d->{state}, 'failed', 'what waited for it is given up');
    is($d->{next_attempt_at}, undef, 'and not tried');
    is(api('GET', "webhooks/$hook->{id}", undef, 200)->{enabled},
       JSON::PP::false, 'disables it');

    api('PATCH', "webhooks/$hook->{id}", { enabled => JSON::PP::true }, 200);
};


# A failed attempt is tried again by the clock; here time passes by SQL.

sub later {
    $pg->run("UPDATE apikey.webhook_delivery SET next_at = now()
              WHERE state = 'pending';
              UPDATE apikey.webhook SET not_before = NULL,
                  claimed_until = now() WHERE claimed_until IS NOT NULL
                  OR not_before IS NOT NULL");
}

subtest 'a receiver that is down' => sub {
    moved('/in');
    $there->stop;

    my $e = emit('alert.firing', { down => 1 });
    my $d;

    wait_for('an attempt', sub {
        ($d) = @{json($n->admin('GET', "webhooks/$hook->{id}/deliveries?"
                                       . "event=$e"))->{data}};
        return $d->{attempts}[0] && defined $d->{attempts}[0]{duration_ms};
    });

    is($d->{state}, 'pending', 'is waited for');
    like($d->{attempts}[0]{error}, qr/connect/i, 'the log says why');
    is($pg->value("SELECT next_at > a.ended_at
                       AND next_at < a.ended_at + interval '6 s'
                   FROM apikey.webhook_delivery d JOIN apikey.webhook_attempt a
                       ON a.delivery_id = d.id WHERE d.id = '$d->{id}'"), 't',
       'it is tried again in five seconds');
    is(api('GET', "webhooks/$hook->{id}", undef, 200)->{failures}, 1,
       'the webhook says that it failed');

    $there->start;
    later();

    $d = delivery($hook, $e, 'delivered');
    is(scalar @{$d->{attempts}}, 2, 'the second attempt arrives');

    my ($got) = got($e);
    is($got->{headers}{'webhook-id'}, $e, 'under the same id');
    is(api('GET', "webhooks/$hook->{id}", undef, 200)->{failures}, 0,
       'all is forgotten');

    my @next = $pg->column("SELECT extract(epoch FROM
        apikey.webhook_backoff(n))::int FROM generate_series(1, 10) AS n");
    is(scalar(grep { defined } @next), 9, 'ten attempts at most');
};


subtest 'one that hangs holds up no other' => sub {
    moved('/hang');
    my $well = hook('/well');

    my $e = emit('alert.firing', { n => 3 });
    delivery($well, $e, 'delivered');
    is(json($n->admin('GET', "webhooks/$hook->{id}/deliveries?event=$e"))
       ->{data}[0]{state}, 'pending', 'it is still waited for');

    api('DELETE', "webhooks/$well->{id}", undef, 204);
};


subtest 'nodes' => sub {
    my $b = $t->nginx(name => 'b', workers => 2)->start;

    $pg->run("UPDATE apikey.webhook_delivery SET state = 'failed'
              WHERE state = 'pending'");
    moved('/in');
    later();

    $pg->run("SELECT apikey.event_emit('alert.firing',
        jsonb_build_object('many', n)) FROM generate_series(1, 40) AS n");

    wait_for('all of them', sub {
        $pg->value("SELECT count(*) FROM apikey.webhook_delivery
                    WHERE state = 'pending'") == 0;
    });

    my %seen;
    $seen{$_->{headers}{'webhook-id'}}++
        for grep { ($_->{body} // '') =~ /"many"/ } $there->requests;
    is(scalar keys %seen, 40, 'two nodes deliver all');
    is(scalar(grep { $_ > 1 } values %seen), 0, 'and each once');

    # the node that has begun dies

    moved('/hang');
    my $e = emit('alert.firing', { dies => 1 });
    wait_for('it to be sent', sub { scalar got($e) });

    my $name = $pg->value("SELECT n.name FROM apikey.webhook_attempt a
        JOIN apikey.webhook_delivery d ON d.id = a.delivery_id
        JOIN apikey.node n ON n.id = a.node WHERE d.event_id = '$e'");
    ($name eq 'b' ? $b : $n)->stop('KILL');

    $n = $b if $name ne 'b';
    moved('/in');
    later();

    my $d = delivery($hook, $e, 'delivered');
    is(scalar @{$d->{attempts}}, 2, 'the other one takes over');
    isnt($d->{attempts}[1]{node}, $name, 'it is the other one');
    is(scalar(grep { $_->{headers}{'webhook-signature'}
                     ne signatures($_, map { $_->[0] } $pg->rows(
                         "SELECT secret FROM apikey.webhook_secret
                          WHERE webhook_id = '$hook->{id}'
                              AND (expires_at > now() OR expires_at IS NULL)
                          ORDER BY created_at DESC")) } got($e)), 0,
       'both are signed under one id');
};


subtest 'a worker that quits' => sub {
    moved('/delay/1500');

    my $e = emit('alert.firing', { quits => 1 });
    wait_for('it to be sent', sub { scalar got($e) });

    $n->stop;
    is($pg->value("SELECT state FROM apikey.webhook_delivery
                   WHERE event_id = '$e'"), 'delivered',
       'waits for what it is sending');
};


subtest 'receivers that hang hold up nothing but themselves' => sub {
    $n = $t->nginx(name => 'c')->start;

    hook('/hang') for 1 .. 8;

    my $e = emit('alert.firing', { all => 1 });
    wait_for('all to be sent', sub { got($e) >= 8 });

    my $id = $n->get('/', key => $owner->{key})->{headers}{'x-request-id'};

    wait_for('its record', sub { grep { $_ eq $id } $t->events });
    cmp_ok($pg->value("SELECT count(*) FROM apikey.webhook_delivery
                       WHERE event_id = '$e' AND state = 'pending'"),
           '>=', 8, 'usage does not wait for them');

    $n->stop('TERM');
};

$t->done;
