# POST leaks: reports in the form of GitHub's secret scanning, signed with a
# key of the test's own; what becomes of the keys in them.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);
use Test::More;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->upstream;

my $n = $t->nginx->start;
my $dir = $t->dir;


sub make_key {
    my ($name) = @_;

    system("openssl ecparam -name prime256v1 -genkey -noout -out $dir/$name"
           . " 2> /dev/null && openssl ec -in $dir/$name -pubout"
           . " -out $dir/$name.pub 2> /dev/null") and die "openssl: $?\n";
}

sub content {
    open my $f, '<:raw', $_[0] or die "$_[0]: $!\n";
    local $/;
    return <$f>;
}

sub sign {
    my ($name, $body) = @_;

    open my $f, '>:raw', "$dir/report" or die $!;
    print $f $body;
    close $f;
    return encode_base64(scalar `openssl dgst -sha256 -sign $dir/$name $dir/report`, '');
}

sub report {
    my ($body, %opt) = @_;

    $body = Apikey::Http::json_encode($body) if ref $body;

    return $n->request('POST', '/api/v1/leaks', body => $body, headers => [
        'Content-Type' => 'application/json',
        'Github-Public-Key-Identifier' => $opt{id} // 'first',
        'Github-Public-Key-Signature' =>
            $opt{signature} // sign($opt{by} // 'first', $body),
        @{$opt{headers} // []} ]);
}

sub leak {
    my ($token, %more) = @_;

    return { token => $token, type => 'acme_key', source => 'content',
             url => 'https://github.com/o/r/blob/1/f', %more };
}

sub publish {
    open my $f, '>', "$dir/keys.json" or die $!;
    print $f Apikey::Http::json_encode({ public_keys => [ map {
        { key_identifier => $_, key => content("$dir/$_.pub"),
          is_current => JSON::PP::true } } @_ ] });
    close $f;

    $pg->ctl('set', 'leak_keys', "$dir/keys.json");
}

sub action { $pg->run("INSERT INTO apikey.setting VALUES ('leak_action', '$_[0]')
    ON CONFLICT (name) DO UPDATE SET value = excluded.value") }

sub labels { return join ' ', map { $_->{label} } @{json($_[0])} }
sub uses { my ($key, $status, $what) = @_;
           is($n->get('/', key => $key)->{status}, $status, $what) }
sub object { return json($n->admin('GET', "api-keys/$_[0]{id}")) }
sub logged { return join ' ', $pg->column("SELECT action FROM apikey.leak_log
    WHERE key = '$_[0]{id}' ORDER BY time, id", user => 'apikey_reader') }

sub create {
    my (%body) = @_;

    return json($n->admin('POST', 'api-keys', body =>
                          { name => 'leaky', %body }));
}


make_key($_) for qw(first second);

my $one = create(owner => 'ada');


subtest 'no signature, no report' => sub {
    my $body = Apikey::Http::json_encode([ leak($one->{key}) ]);

    # nobody's answers are kept: the next list must be the one of then

    my @once = (headers => [ 'Idempotency-Key' => 'of nobody' ]);

    my $r = report($body, @once);
    is($r->{status}, 401, 'no public key is set');
    like(json($r)->{detail}, qr/leak_keys/, 'which the answer says');
    publish('first');

    wait_for('the public key is known', sub {
        report($body, @once)->{status} == 200 });

    is(report($body, by => 'second')->{status}, 401, 'another signature');
    is(report($body, id => 'second', by => 'second')->{status}, 401,
       'another key');
    is(report($body, signature => sign('first', "$body "))->{status}, 401,
       'of another text');
    is(report($body, signature => 'no base64!')->{status}, 401, 'no base64');
    is($n->request('POST', '/api/v1/leaks', body => $body, headers =>
       [ 'Content-Type' => 'application/json' ])->{status}, 401, 'none');
    is($n->request('POST', '/api/v1/leaks', headers =>
       [ 'Github-Public-Key-Identifier' => 'first',
         'Github-Public-Key-Signature' => 'eA==' ])->{status}, 401,
       'no body');
    is($n->admin('GET', 'leaks')->{status}, 405, 'GET');

    uses($one->{key}, 200, 'nothing has happened to the key');

    publish('first', 'second');
    wait_for('a new public key is known', sub {
        report($body, id => 'second', by => 'second')->{status} == 200 });
    publish('second');
    wait_for('one taken back is not', sub {
        report($body)->{status} == 401 });
    publish('first');
    wait_for('it is there again', sub { report($body)->{status} == 200 });
};


# Nobody has signed them: others must not wait for Postgres behind a flood.

subtest 'many reports while Postgres is slow' => sub {
    my $fresh = $t->nginx(name => 'fresh', workers => 1)->start;
    my @report = ('POST', '/api/v1/leaks', body => '[]', headers => [
        'Content-Type' => 'application/json',
        'Github-Public-Key-Identifier' => 'first',
        'Github-Public-Key-Signature' => 'eA==' ]);

    $pg->run('CREATE TABLE gate ()');

    my $held = spawn(name => 'held', log => "$dir/held.log", code => sub {
        $pg->run('BEGIN; LOCK TABLE apikey.setting; DO $$ BEGIN
            WHILE NOT EXISTS (SELECT FROM gate) LOOP
                PERFORM pg_sleep(0.05);
            END LOOP; END $$; COMMIT');
    });

    wait_for('the settings are locked', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep'") });

    my @first = map { $fresh->conn } 1 .. 4;
    $_->send(Apikey::Http::build(@report)) for @first;
    wait_for('four wait', sub { $fresh->metric('apikey_waiting') == 4 });

    is($fresh->request(@report)->{status}, 503, "no more do: $_") for 1 .. 3;

    (shift @first)->abort;
    wait_for('one has gone', sub { $fresh->metric('apikey_waiting') == 3 });
    push @first, $fresh->conn;
    $first[-1]->send(Apikey::Http::build(@report));
    wait_for('another waits', sub { $fresh->metric('apikey_waiting') == 4 });

    $pg->run('INSERT INTO gate DEFAULT VALUES');
    is($_->response->{status}, 401, 'the answer for who has waited')
        for @first;
    is($fresh->request(@report)->{status}, 401, 'and for all after');
    wait_for('nothing is locked', sub { !$held->alive });
    $fresh->stop;
};


subtest 'notify' => sub {
    my $before = $pg->value('SELECT count(*) FROM apikey.leak');
    my $r = report([ leak($one->{key}), leak('sk_nobody_knows_me'),
                     leak($one->{key}, type => 'other', url => undef), 5,
                     { type => 'x' } ]);

    is($r->{status}, 200, 'status');
    is_deeply(json($r), [
        { token_hash => sha256_hex($one->{key}), token_type => 'acme_key',
          label => 'true_positive' },
        { token_hash => sha256_hex('sk_nobody_knows_me'),
          token_type => 'acme_key', label => 'false_positive' },
        { token_hash => sha256_hex($one->{key}), token_type => 'other',
          label => 'true_positive' },
        { token_hash => undef, token_type => '', label => 'false_positive' },
        { token_hash => undef, token_type => 'x',
          label => 'false_positive' } ], 'the answer');

    uses($one->{key}, 200, 'the key goes on');

    is($pg->value('SELECT count(*) FROM apikey.leak') - $before, 2,
       'two are kept');
    is($pg->value("SELECT concat_ws('|', key_name, owner, start, last4, type,
        url, source, action) FROM apikey.leak_log
        WHERE type = 'acme_key' ORDER BY time DESC LIMIT 1"),
       "leaky|ada|$one->{start}|$one->{last4}|acme_key|"
       . 'https://github.com/o/r/blob/1/f|content|notify', 'as reported');

    is(report($_)->{status}, 400, "$_ is none") for '{}', '5', '[';
    is(report([ (leak('x')) x 1001 ])->{status}, 400, 'too many');
};


subtest 'disable' => sub {
    action('disable');

    my $key = create(owner => 'ada');

    is(labels(report([ leak($key->{key}) ])), 'true_positive', 'reported');
    uses($key->{key}, 401, 'the key is off when it is answered');
    is(object($key)->{status}, 'disabled', 'and shows so');

    is($pg->value("SELECT concat_ws('|', actor, action, before ->> 'enabled',
        after ->> 'enabled') FROM apikey.audit
        WHERE object_id = '$key->{id}' ORDER BY at DESC LIMIT 1"),
       'leaks|leak|true|false', 'the audit entry');

    report([ leak($key->{key}) ]);
    is(logged($key), 'disable none', 'a second report finds nothing to do');

    # the secret that has leaked was replaced already

    $key = create();
    my $new = json($n->admin('POST', "api-keys/$key->{id}/rotate",
                             body => { grace => '1h' }));

    report([ leak($key->{key}) ]);
    uses($key->{key}, 401, 'a secret in its grace is ended');
    uses($new->{key}, 200, 'the current one works');
    is(labels(report([ leak($key->{key}) ])), 'true_positive',
       'it was a key all the same');
    is(logged($key), 'disable none', 'and is none now');
};


subtest 'expire' => sub {
    action('expire');

    my $key = create();
    my $soon = create(expires_at => '2999-01-01T00:00:00Z');

    report([ leak($key->{key}), leak($soon->{key}) ]);
    uses($key->{key}, 200, 'it still works');

    my $ends = "SELECT count(*) FROM apikey.key WHERE id IN ('$key->{id}',
        '$soon->{id}') AND expires_at - now() BETWEEN ";
    is($pg->value("$ends '23 hours 50 minutes' AND '24 hours'"), 2,
       'for a day');

    $pg->run("INSERT INTO apikey.setting VALUES ('leak_expire', '0s')");
    report([ leak($key->{key}) ]);
    uses($key->{key}, 401, 'or as long as leak_expire says');
};


subtest 'a key known by its last segment' => sub {
    action('disable');

    my $r = $n->admin('POST', 'api-keys/import', body => [
        { name => 'segment', alg => 'sha256-last-segment',
          hash => sha256_hex('very_secret' =~ s/.*_//r x 3) } ]);
    my $plain = 'seam_test_' . 'secret' x 3;

    is(json($r)->{created}, 1, 'imported') or diag $r->{raw};
    uses($plain, 200, 'it works');
    is(labels(report([ leak($plain) ])), 'true_positive', 'it is known');
    uses($plain, 401, 'and off');
};


subtest 'without an audit entry nothing is done' => sub {
    my $key = create();

    $pg->run("ALTER TABLE apikey.audit ADD CONSTRAINT no_leak
              CHECK (action <> 'leak') NOT VALID");
    isnt(report([ leak($key->{key}) ])->{status}, 200, 'it fails');
    uses($key->{key}, 200, 'the key is as it was');
    is(logged($key), '', 'and nothing is kept');
    $pg->run('ALTER TABLE apikey.audit DROP CONSTRAINT no_leak');
};


my $log = content($pg->{log}) . content("$dir/node/error.log");
ok(index($log, $one->{key}) < 0, 'no token is in a log');

$t->allow(qr/apikey\.api/);
$t->done;
