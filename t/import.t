# POST api-keys/import: keys that others made, in three forms, by hash or in
# plaintext; each row succeeds or fails alone, and a repeat changes nothing.

use strict;
use warnings;

use Digest::SHA qw(sha256 sha256_hex);
use MIME::Base64 qw(encode_base64 encode_base64url);
use Test::More;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json rounds);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

my $server = <<'EOT';
        location / { apikey required; proxy_pass http://%%UPSTREAM%%; }
        location /small/ { client_max_body_size 1k; apikey_admin; }
EOT

my $n = $t->nginx(workers => 2, server => $server)->start;
my $m = $t->nginx(name => 'other', server => $server)->start;

my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z/;

my %type = (json => 'application/json', lines => 'application/x-ndjson',
            csv => 'text/csv');


sub import_keys {
    my ($type, $body, %opt) = @_;

    $body = Apikey::Http::json_encode($body) if ref $body;

    my $as = $opt{as} // $t->token;
    my $c = Apikey::Http->new(port => $n->port, timeout => 300);

    return $c->request('POST', '/api/v1/api-keys/import'
        . ($opt{query} // ''), body => $body, headers => [
            $as eq '' ? () : (Authorization => "Bearer $as"),
            'Content-Type' => $type{$type} // $type,
            @{$opt{headers} // []} ]);
}

sub rows { return import_keys('json', @_) }

sub results {
    my ($r, $want, $what) = @_;

    is($r->{status}, 200, "$what: status") or diag($r->{raw});

    my $a = eval { json($r) } // {};

    is_deeply([ map { "$_->{row} $_->{result}" . join '', map {
                      " $_->{location} $_->{code}" } @{$_->{errors}} }
                @{$a->{results}} ], $want, $what) or diag($r->{body});
    return $a;
}

sub uses {
    my ($key, $status, $what, $node) = @_;

    is(($node // $n)->get('/', key => $key)->{status}, $status, $what);
}

sub count { return $pg->value("SELECT count(*) FROM apikey.$_[0]") }


# Old keys of every kind.

my %old = (
    hex       => 'sk-' . 'Ab3' x 10,
    base64    => 'unkey_' . 'xY9' x 8,
    url       => 'nk_' . sha256_hex('nk'),
    plain     => 'aws' . 'Q7' x 17,
    segment   => 'seam_test_' . 'L0ng' x 6,
    odd       => 'not+ours/at:all=%20~',
    short     => 'a1234567',
);


subtest 'hashes in every form' => sub {
    my $r = rows([
        { name => 'hex', hash => uc sha256_hex($old{hex}),
          alg => 'sha256', start => 'sk-Ab', last4 => 'bAb3' },
        { name => 'base64', hash => encode_base64(sha256($old{base64}), '') },
        { name => 'url', hash => encode_base64url(sha256($old{url})) },
        { name => 'plain', key => $old{plain}, owner => 'imp_1' },
        { name => 'segment', alg => 'sha256-last-segment',
          hash => sha256_hex('L0ng' x 6) },
        { name => 'odd', key => $old{odd} },
        { name => 'short', key => $old{short} },
    ]);
    my $a = results($r, [ map { "$_ created" } 1 .. 7 ], 'each is created');

    is_deeply([ sort keys %$a ], [ sort qw(dry_run total created unchanged
              failed results) ], 'members');
    is("$a->{dry_run} $a->{total} $a->{created} $a->{unchanged} $a->{failed}",
       '0 7 7 0 0', 'counts');
    like($_->{id}, $uuid, 'id') for @{$a->{results}};

    # in force when it answers, on this node; soon on the other

    uses($old{$_}, 200, "$_ works") for sort keys %old;
    uses('L0ng' x 6, 401, 'the last segment alone does not');
    uses('x_' . 'L0ng' x 6, 200, 'with another prefix it does');
    $t->sync;
    uses($old{$_}, 200, "$_ works on the other node", $m)
        for sort keys %old;

    my %k = map { $_->{name} => $_ } @{json($n->admin('GET',
        'api-keys?limit=100'))->{data}};

    is("$k{hex}{start} $k{hex}{last4} $k{hex}{masked}",
       'sk-Ab bAb3 sk-Ab...bAb3', 'hints that were given');
    is("$k{plain}{masked}", 'awsQ...7Q7' =~ s/7Q7/Q7Q7/r, 'hints of a key');
    is($k{base64}{masked}, 'imported', 'none');
    is($k{base64}{start}, undef, 'no start');
    is($k{short}{masked}, 'imported', 'a short key shows nothing of itself');
    is($k{plain}{owner}, 'imp_1', 'the owner was made');
    is($k{plain}{prefix}, 'sk', 'prefix of its next secrets');

    is($pg->value("SELECT count(*) FROM apikey.audit
                   WHERE action = 'create' AND object_kind = 'key'"), 7,
       'an audit entry each');
};


subtest 'all members' => sub {
    my $row = {
        name => 'all', owner => 'imp_2', customer => 'c', prefix => 'nk',
        scopes => ['a:read', 'b:*'], allowed_ips => ['127.0.0.0/8'],
        allowed_models => ['gpt-*'], metadata => { team => 'x' },
        limits => [{ name => 'hourly', unit => 'requests', limit => 100,
                     window => '1h' }],
        expires_at => '2099-01-01T00:00:00Z', enabled => \1,
        hash => sha256_hex('all_of_it'), alg => 'sha256',
        created_at => '2020-02-03T04:05:06.789Z', usage_count => 41,
        last_used_at => '2021-01-01T00:00:00Z',
    };
    my $a = results(rows([ $row ]), [ '1 created' ], 'created');
    my $k = json($n->admin('GET', "api-keys/$a->{results}[0]{id}"));

    is($k->{$_}, $row->{$_}, $_) for qw(name owner customer prefix
                                        created_at usage_count);
    is($k->{last_used_at}, '2021-01-01T00:00:00.000Z', 'last_used_at');
    is($k->{secrets}[0]{created_at}, $row->{created_at}, 'of its secret');
    is($k->{limits}[0]{burst}, 100, 'limits');

    uses('all_of_it', 200, 'it works');
    wait_for('a use counts on top', sub {
        $pg->value("SELECT requests FROM apikey.key_usage
                    WHERE key_id = '$k->{id}'") == 42;
    });

    my $before = count('audit');

    results(rows([ $row ]), [ '1 unchanged' ], 'the same again');

    my $paid = { name => 'paid', hash => sha256_hex('paid'), limits => [
        { name => 'b', unit => 'cost', limit => '50', window => 'month' },
        { name => 'r', unit => 'requests', limit => 5, window => '60s' } ] };

    $before += 1;
    results(rows([ $paid ]), [ '1 created' ], 'a budget');
    results(rows([ $paid ]), [ '1 unchanged' ],
            'again, as it was written and not as it is shown');
    $paid->{limits}[0]{limit} = '50.01';
    results(rows([ $paid ]), [ '1 failed /limits duplicate' ], 'another');
    is(count('audit'), $before, 'changes nothing');

    is($n->admin('PATCH', "api-keys/$k->{id}",
                 body => { name => 'renamed' })->{status}, 200, 'renamed');
    results(rows([ { name => 'renamed', hash => $row->{hash} } ]),
            [ '1 unchanged' ], 'what a row does not say is not compared');
    results(rows([ { %$row, scopes => ['a:read'], limits => [],
                     metadata => { team => 'y' } } ]),
            [ '1 failed /name duplicate /scopes duplicate /limits duplicate'
              . ' /metadata duplicate' ], 'what differs is named');
    is(json($n->admin('GET', "api-keys/$k->{id}"))->{name}, 'renamed',
       'and not changed');

    $pg->run("UPDATE apikey.key SET expires_at = '2022-01-01'
              WHERE id = '$k->{id}'");
    results(rows([ { %$row, name => 'renamed',
                     expires_at => '2022-01-01T00:00:00Z' } ]),
            [ '1 unchanged' ], 'an end that has come');

    $pg->run("INSERT INTO apikey.secret (id, key_id, digest, start, last4,
            created_at, ended_at)
        SELECT gen_random_uuid(), '$k->{id}', sha256(i::text::bytea), 'x', 'x',
            now() - interval '1 day', now() - i * interval '1 hour'
        FROM generate_series(1, 250) AS i");
    results(rows([ { name => 'renamed', hash => sha256_hex(250) } ]),
            [ '1 failed /hash duplicate' ], 'the oldest of many secrets');

    is($n->admin('DELETE', "api-keys/$k->{id}")->{status}, 204, 'revoked');
    results(rows([ { name => 'renamed', hash => $row->{hash} } ]),
            [ '1 failed /hash duplicate' ], 'a revoked key');
};


subtest 'rows that are wrong fail alone' => sub {
    my $r = rows([
        { name => 'good', key => 'good_good' },
        { hash => 'ab', alg => 'md5', nonsense => 1, enabled => 'x' },
        { name => 'x', hash => 'x' x 64 },
        { name => 'x', hash => 5 },
        { name => 'x' },
        { name => 'x', key => 'seven77' },
        { name => 'x', key => 'k' x 513 },
        { name => 'x', key => 5 },
        { name => 'x', key => 'abcdefgh', hash => sha256_hex('x') },
        { name => 'x', key => 'abcdefgh', alg => 'sha256' },
        { name => 'x', key => 'abcdefgh', usage_count => -1,
          created_at => '2999-01-01', last_used_at => 'x' },
        5,
        { name => "a\0b", key => 'abcdefgh' },
        { name => 'again', key => 'good_good' },
        { name => 'good', key => 'good_good' },
        { name => 'x', plan => 'nowhere', key => 'abcdefgh' },
        { name => 'last', key => 'last_one' },
    ]);

    my $a = results($r, [
        '1 created',
        '2 failed /hash bad_length /alg bad_value /nonsense unknown'
            . ' /name required /enabled bad_type',
        '3 failed /hash bad_value', '4 failed /hash bad_type',
        '5 failed /hash required', '6 failed /key bad_length',
        '7 failed /key bad_length', '8 failed /key bad_type',
        '9 failed /hash duplicate', '10 failed /alg bad_value',
        '11 failed /created_at out_of_range /usage_count out_of_range'
            . ' /last_used_at bad_value',
        '12 failed  bad_type', '13 failed  out_of_range',
        '14 failed /name duplicate', '15 unchanged',
        '16 failed /plan not_found', '17 created' ], 'each says why');

    is($a->{results}[1]{id}, undef, 'id null');
    uses('good_good', 200, 'the first');
    uses('last_one', 200, 'the last');

    results(rows('[' . join(',', map { qq({"name":"x","key":"$_"}) }
                      'lost\\u0000lost', 'lost\\ud800lost', "lost\xef\xbf\xbdlost",
                      'lost\\ud83d\\ude00lost') . ']'),
            [ '1 failed /key bad_value', '2 failed /key bad_value',
              '3 failed /key bad_value', '4 created' ],
            'a key that is not what it was');
    uses("lost\xef\xbf\xbdlost", 401, '... is none');
    uses("lost\xf0\x9f\x98\x80lost", 200, '... any other is one');
    uses('abcdefgh', 401, 'none of those between');
};


subtest 'NDJSON and CSV' => sub {
    results(import_keys('lines', qq({"name":"l1","key":"line_number_1"}\r\n\n)
            . qq({"name":\n{"name":"l3","key":"line_number_3"})),
            [ '1 created', '2 failed  bad_value', '3 created' ], 'lines');
    uses('line_number_3', 200, 'it works');

    my $csv = "\xef\xbb\xbf" . join "\r\n",
        'Name,key,scopes,enabled,usage_count,metadata,limits,owner,hash',
        '"c,1",csv_number_1,a:read b:*,true,7,"{""a"":""b""}",'
            . '"[{""name"":""h"",""unit"":""requests"",""limit"":5,'
            . '""window"":""1h""}]",csv_owner,',
        '"c""2",csv_number_2,,false,,,,,',
        'c3,csv_number_3,,yes,,,,,', 'c4,"csv_number_4', 'x",,,,,,,',
        'c5,csv_number_5', '"c6"x,csv_number_6,,,,,,,',
        "c7,,,,,,,," . sha256_hex('csv_number_7'), '';

    my $a = results(import_keys('text/csv; charset=utf-8', $csv,
                                query => ''),
        [ '1 created', '2 created', '3 failed /enabled bad_type',
          '4 created', '5 failed  bad_value', '6 failed  bad_value',
          '7 created' ], 'CSV');

    my $k = json($n->admin('GET', "api-keys/$a->{results}[0]{id}"));

    is($k->{name}, 'c,1', 'a quoted field');
    is_deeply($k->{scopes}, ['a:read', 'b:*'], 'a list split at blanks');
    is($k->{usage_count}, 7, 'a number');
    is_deeply($k->{metadata}, { a => 'b' }, 'JSON');
    is($k->{limits}[0]{limit}, 5, 'limits');
    is($k->{owner}, 'csv_owner', 'owner');
    uses('csv_number_1', 200, 'it works');
    uses('csv_number_2', 401, 'a disabled one');
    uses('csv_number_7', 200, 'by hash');

    # each byte of these becomes six in the batch

    results(import_keys('lines', join "\n", map {
                qq({"name":"del $_","metadata":{"a":") . "\x7f" x 6000
                . qq("},"key":"del_number_$_"}) } 1 .. 12),
            [ map { "$_ created" } 1 .. 12 ], 'control characters of JSON');

    is(import_keys('csv', '')->{status}, 200, 'nothing at all');
    results(import_keys('csv', "name,key\n"), [], 'a header');
    results(import_keys('json', '[]'), [], 'an empty array');
};


subtest 'dry run' => sub {
    my @counts = map { count($_) } qw(key secret owner audit change);

    my $r = rows([ { name => 'd', key => 'dry_dry_dry', owner => 'dry' },
                   { name => 'd', key => 'dry_dry_dry', owner => 'dry' },
                   { name => 'x', key => 'dry_dry_dry' },
                   { name => 'hex', hash => sha256_hex($old{hex}) },
                   { key => 'x' } ], query => '?dry_run=true');
    my $a = results($r, [ '1 created', '2 unchanged',
        '3 failed /name duplicate', '4 unchanged',
        '5 failed /key bad_length' ], 'what would be');

    ok($a->{dry_run}, 'dry_run');
    like($a->{results}[0]{id}, $uuid, 'the same shape as in earnest');
    is($n->admin('GET', "api-keys/$a->{results}[0]{id}")->{status}, 404,
       'but nothing has that id');
    is_deeply([ map { count($_) } qw(key secret owner audit change) ],
              \@counts, 'nothing has changed');
    uses('dry_dry_dry', 401, 'it does not work');

    $r = rows([], query => '?dry_run=yes&x=1');
    is($r->{status}, 400, 'a wrong query');
    is_deeply([ map { "$_->{location} $_->{code}" } @{json($r)->{errors}} ],
              [ 'query:x unknown', 'query:dry_run bad_value' ], 'is told');
};


subtest 'who may, and what is refused' => sub {
    my $manager = $t->key(name => 'm', owner => 'imp_1',
                          scopes => ['apikey:manage']);
    $t->sync;

    for my $as ($manager->{key}, $t->{read_token}) {
        my $r = rows([ { name => 'x', key => 'forbidden_1' } ], as => $as);
        is("$r->{status} " . json($r)->{code}, '403 forbidden', 'forbidden');
    }

    uses('forbidden_1', 401, 'nothing is made');

    is(rows([], as => '')->{status}, 401, 'nobody');
    is(import_keys('text/plain', 'x')->{status}, 415, 'a type');
    is(import_keys('json', '[]',
       headers => [ 'Content-Encoding' => 'gzip' ])->{status}, 415, 'gzip');

    for my $wrong (
        [ json => '{"name":"a"}', '/0 bad_value' ],
        [ json => '[{"name":"s1","key":"syntax_1"},{"name":]', '/1 bad_value' ],
        [ json => '[{"name":"s1","key":"syntax_1"}', '/1 bad_value' ],
        [ csv => "name,key\na,\"b", '/0 bad_value' ],
        [ csv => "name,name\na,b", '/0 bad_value' ])
    {
        my ($type, $body, $error) = @$wrong;
        my $r = import_keys($type, $body);

        is("$r->{status} " . json($r)->{code}, '400 invalid_request', $body);
        is_deeply([ map { "$_->{location} $_->{code}" }
                    @{json($r)->{errors}} ], [ $error ], 'and where');
        like(json($r)->{detail}, qr/Nothing was imported/, 'nothing is made');
    }

    uses('syntax_1', 401, 'not even the row before');

    my $long = import_keys('csv', 'name,' . 'x' x (512 * 1024) . "\na,b\n");
    is($long->{status}, 400, 'a header line that never ends');
    is_deeply([ map { "$_->{location} $_->{code}" }
                @{json($long)->{errors}} ], [ '/0 bad_length' ], 'and where');

    my $r = $n->request('POST', '/small/api-keys/import',
        body => '[' . ' ' x 2000 . ']', headers => [
            Authorization => 'Bearer ' . $t->token,
            'Content-Type' => 'application/json' ]);
    is($r->{status}, 413, 'over client_max_body_size');

    my $pieces = $n->conn;
    $pieces->send("POST /small/api-keys/import HTTP/1.1\r\nHost: x\r\n"
        . 'Authorization: Bearer ' . $t->token . "\r\n"
        . "Content-Type: application/json\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n");
    $pieces->send(sprintf "%x\r\n%s\r\n", length $_, $_)
        for '[', (' ' x 100) x 20, ']';
    $pieces->send("0\r\n\r\n");
    is($pieces->response->{status}, 413, '... which nothing has announced');
    $pieces->close;

    $r = $n->request('POST', '/api/v1/api-keys/import', headers => [
        Authorization => 'Bearer ' . $t->token,
        'Content-Type' => 'application/json',
        'Content-Length' => 64 * 1024 * 1024 + 1 ]);
    is($r->{status}, 413, 'over 64 MiB');

    my $c = $n->conn;
    $c->send("POST /api/v1/api-keys/import HTTP/1.1\r\nHost: x\r\n"
        . 'Authorization: Bearer ' . $t->token . "\r\n"
        . "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\nno");
    $r = $c->response;
    is($r->{status}, 400, 'wrong before all of it is there');
    is($r->{headers}{connection}, 'close', 'and the rest is not waited for');
    $c->close;
};


subtest 'ten thousand rows, in pieces' => sub {
    my $of = rounds(20, 1);         # so many rows a key
    my $keys = 10_000 / $of;
    my @body = map { $_ % $of ? '0' : Apikey::Http::json_encode({
        name => "bulk $_", owner => 'bulk_' . $_ % 300,
        hash => sha256_hex("bulk_key_$_"), usage_count => $_ % 3 }) }
        1 .. 10_000;
    my $r = import_keys('json', '[' . join(",\n", @body) . ']');
    my $a = json($r);

    is("$a->{total} $a->{created} $a->{failed}",
       "10000 $keys " . (10_000 - $keys), 'created');
    is_deeply([ map { $_->{row} } @{$a->{results}} ], [ 1 .. 10_000 ],
              'a result each, in order');
    uses("bulk_key_$_", 200, "key $_") for $of, 5_000, 10_000;

    $r = import_keys('json', '[' . join(',', ('0') x 10_001) . ']');
    is($r->{status}, 400, 'one more');
    is_deeply([ map { "$_->{location} $_->{code}" } @{json($r)->{errors}} ],
              [ '/10000 too_many' ], 'is too many');
    like(json($r)->{detail}, qr/ 10000 rows before were/,
         'and says what was done');

    # arriving byte by byte, chunked

    my $c = $n->conn;
    $c->send("POST /api/v1/api-keys/import HTTP/1.1\r\nHost: x\r\n"
        . 'Authorization: Bearer ' . $t->token . "\r\n"
        . "Content-Type: application/x-ndjson\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n");
    $c->send(sprintf "%x\r\n%s\r\n", length $_, $_)
        for unpack '(a7)*', join "\n", grep { length > 1 } @body;
    $c->send("0\r\n\r\n");

    $a = json($c->response);
    is("$a->{total} $a->{unchanged}", "$keys $keys", 'chunks');
};


subtest 'Idempotency-Key' => sub {
    my @rows = map { { name => "once $_", key => "once_once_$_" } } 1 .. 120;
    my @once = (headers => [ 'Idempotency-Key' => 'import one' ]);

    my $first = rows(\@rows, @once);
    my $again = rows(\@rows, @once);

    is(json($first)->{created}, 120, 'created');
    is_deeply(json($again), json($first), 'the same answer again');
    is($again->{headers}{'idempotent-replayed'}, 'true', 'and says so');
    ok(!$first->{headers}{'idempotent-replayed'}, 'the first does not');
    is(json(rows(\@rows))->{unchanged}, 120, 'without it: unchanged');

    $rows[119]{name} = 'another';
    my $r = rows(\@rows, @once);
    is("$r->{status} " . json($r)->{code}, '422 idempotency_mismatch',
       'another body, however late it differs');

    $rows[119]{name} = 'once 120';
    is(rows([ @rows[0 .. $_ - 1] ], @once)->{status}, 422, "only $_ rows")
        for 100, 110;
    is(rows([ @rows, { name => 'more', key => 'once_once_121' } ], @once)
       ->{status}, 422, 'a row more');
    is(json(rows(\@rows, @once))->{created}, 120, 'the first answer stays');

    $rows[0]{name} = 'another';
    is(rows(\@rows, @once)->{status}, 422, 'or early');

    @rows = @rows[1 .. 100];
    @once = (headers => [ 'Idempotency-Key' => 'import all of a batch' ]);
    is(json(rows(\@rows, @once))->{unchanged}, 100, 'whole batches');
    is(rows([ @rows, { name => 'more', key => 'once_once_122' } ], @once)
       ->{status}, 422, 'and a row more');
    is($n->get('/', key => 'once_once_122')->{status}, 401,
       'which is not imported');
};


subtest 'parallel imports of the same keys' => sub {
    my @rows = map { { name => "par $_", owner => 'par_' . $_ % 5,
                       hash => sha256_hex("par_key_$_") } } 1 .. 200;
    my $body = Apikey::Http::json_encode(\@rows);
    my @r = Apikey::Http::parallel(map {
        { port => ($_ % 2 ? $n : $m)->port, method => 'POST', timeout => 120,
          uri => '/api/v1/api-keys/import', body => $body, headers => [
              Authorization => 'Bearer ' . $t->token,
              'Content-Type' => 'application/json' ] } } 1 .. 4);

    is_deeply([ map { $_->{status} } @r ], [ (200) x 4 ], 'all succeed');

    my ($created, $unchanged) = (0, 0);
    for my $a (map { json($_) } @r) {
        $created += $a->{created};
        $unchanged += $a->{unchanged};
    }

    is("$created $unchanged", '200 600', 'each key is made once');
};


subtest 'a node that is still loading asks Postgres' => sub {
    results(rows([ { name => 'owner', owner => 'imp_1',
                     alg => 'sha256-last-segment', scopes => ['apikey:manage'],
                     hash => sha256_hex('w0rd' x 6) } ]),
            [ '1 created' ], 'a key of an owner');

    $pg->run('CREATE TABLE gate ()');

    my $held = spawn(name => 'held', log => $t->dir . '/held.log', code => sub {
        $pg->run('BEGIN; LOCK TABLE apikey.change IN ACCESS EXCLUSIVE MODE;
            DO $do$ BEGIN WHILE NOT EXISTS (SELECT FROM gate) LOOP
                PERFORM pg_sleep(0.05); END LOOP; END $do$; COMMIT');
    });

    wait_for('the lock', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep'") });

    my $l = $t->nginx(name => 'loading', server => $server)
              ->start(wait => 0);
    my $manager = 'any_prefix_' . 'w0rd' x 6;
    my $verify = sub {
        return json($l->admin('POST', 'api-keys/verify', as => $_[1],
            body => { key => $_[0], weight => 0 }))->{code};
    };

    uses($old{hex}, 200, 'a key', $l);
    uses($old{segment}, 200, 'one known by its last segment', $l);
    uses('L0ng' x 6, 401, 'not that part alone', $l);
    uses('nobody_knows_me', 401, 'nor an unknown one', $l);
    is($verify->($old{base64}), 'ok', 'verify');
    is($verify->($old{url}), 'ok', 'of another');
    is($verify->('nobody_knows_this'), 'not_found', 'and of none');
    is($verify->($old{plain}, $manager), 'ok', 'by an owner so known');
    is($l->get('/health?ready')->{status}, 503, 'it is still loading');

    $pg->run('INSERT INTO gate DEFAULT VALUES');
    wait_for('its commit', sub { !$held->alive });
    $l->wait_ready;
    uses($old{segment}, 200, 'loaded', $l);
    $l->stop;
};


subtest 'a client that leaves, a Postgres that dies' => sub {
    my $c = $n->conn;
    $c->send("POST /api/v1/api-keys/import HTTP/1.1\r\nHost: x\r\n"
        . 'Authorization: Bearer ' . $t->token . "\r\n"
        . "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        . '[' . join ',', map { qq({"name":"gone $_","key":"gone_gone_$_"}) }
                          1 .. 120);
    wait_for('the first batches', sub {
        count("key WHERE name LIKE 'gone %'") >= 100 });
    $c->abort;
    wait_for('nobody waits', sub {
        $n->metric('apikey_waiting') == 0 });
    is(count("key WHERE name LIKE 'gone %'"), 100, 'whole batches stay');

    $pg->stop('kill');
    my $r = rows([ { name => 'down', key => 'down_down' } ]);
    is("$r->{status} " . json($r)->{code}, '503 unavailable', 'unavailable');
    uses($old{plain}, 200, 'keys go on');
    $pg->start;
    wait_for('Postgres is back', sub {
        rows([ { name => 'down', key => 'down_down' } ])->{status} == 200 });
    uses('down_down', 200, 'and the import works');
};


subtest 'a plaintext is nowhere' => sub {
    my @plain = ($old{plain}, $old{short}, 'csv_number_1', 'line_number_3');
    my $dump = $pg->value("SELECT string_agg(r::text, ' ') FROM
        (SELECT (SELECT string_agg(k::text, ' ') FROM apikey.key k),
                (SELECT string_agg(s::text, ' ') FROM apikey.secret s),
                (SELECT string_agg(a::text, ' ') FROM apikey.audit a),
                (SELECT string_agg(i::text, ' ') FROM apikey.idempotency i))
        AS r");

    for my $file (glob($t->dir . '/*/error.log'), $pg->{log}) {
        open my $f, '<', $file or next;
        $dump .= do { local $/; <$f> };
    }

    ok(index($dump, $_) < 0, $_) for @plain;
};


$t->allow(qr/apikey/);
$t->done;
