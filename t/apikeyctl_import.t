# apikeyctl import, up to the rows it prints: what it makes of the exports in
# t/data, and what it says of what it does not move.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP qw(decode_json);
use Test::More;

use Apikey::Ctl;
use Apikey::Test;

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);


# Exit code, rows by name (a list where several have one), lines of stderr.

sub import_rows {
    my ($from, @files) = @_;

    my ($rc, $out, $err) = $ctl->run(['import', '--from', $from,
                                      map { "t/data/$_" } @files]);
    my %rows;

    push @{$rows{$_->{name}}}, $_ for map { decode_json($_) } split /\n/, $out;

    return ($rc, \%rows, [ split /\n/, $err ]);
}


sub said {
    my ($said, $like, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(scalar(grep { /$like/ } @$said), $name) or diag(map { "$_\n" } @$said);
}


sub limit {
    my ($name, $limit, $window, @burst) = @_;

    return { name => $name, unit => 'requests', limit => $limit,
             window => $window, @burst ? (burst => $burst[0]) : () };
}


subtest 'kong: a dump of decK' => sub {
    my ($rc, $rows, $said) = import_rows('kong', 'kong-deck.json');
    my ($acme) = @{$rows->{acme}};

    is($rc, 1, 'one key was left out');
    is_deeply($acme, {
        name => 'acme', owner => 'cust_1', alg => 'sha256',
        hash => sha256_hex('acmeacmeacmeacmeacmeacmeacme0001'),
        start => 'acme', last4 => '0001', scopes => [ qw(orders invoices) ],
        metadata => { tags => [ 'prod' ] },
        limits => [ limit('second', 5, '1s'), limit('minute', 100, '1m'),
                    limit('day', 5000, 'day') ],
    }, 'a consumer with one key, a day is one of the calendar');
    said($said, qr/^"acme": its plugin request-size-limiting is not moved/,
         'another plugin');

    is_deeply([ map { $_->{limits} } @{$rows->{shared}} ], [ [], [] ],
              'keys that share a limit do not get it each');
    said($said, qr/^the keys of owner "shared" share .*"limit":3,"window":"1h"/,
         'it is said whose it is');
    said($said, qr/^"shared": its limit for one route or service is left out/,
         'a limit for one route');
    is_deeply([ map { $_->{limits} } @{$rows->{each}} ],
              [ ([ limit('minute', 7, '1m') ]) x 2 ],
              'by credential: each has it');
    said($said, qr/^left out: "tiny": a key has 8 to 512 bytes, this one 5/,
         'no key of ours');
    said($said, qr/^"rate-limiting": a plugin of no consumer/,
         'a limit of everybody');
    said($said, qr/^5 keys, 1 left out, 3 warnings$/, 'summed up');
};


subtest 'kong: pages of the Admin API' => sub {
    my ($rc, $rows, $said) = import_rows('kong', map { "kong-$_.json" }
        qw(plugins key-auths acls consumers));
    my ($bob) = @{$rows->{bob}};
    my ($nine) = @{$rows->{cust_9}};

    is_deeply($bob, {
        name => 'bob', owner => 'bob', alg => 'sha256', limits => [],
        hash => sha256_hex('bobbobbobbobbobbobbobbobbobbob01'),
        start => 'bobb', last4 => 'ob01', scopes => [ 'admins' ],
        created_at => '2023-01-01T00:00:00.000Z',
    }, 'in any order; a plugin that is off limits nothing');
    is($nine->{prefix}, 'nk', 'a prefix that can be ours');
    is_deeply($nine->{limits}, [ limit('minute', 4, '1m') ], 'its limit');
    like($nine->{expires_at}, qr/^2\d{3}-.*Z$/, 'ttl: seconds from now on');
    is($rc, 1, 'not all were moved');
    said($said, qr/^left out: "77777777-.*its consumer is in none of the files/,
         'a key of nobody');
};


subtest 'unkey' => sub {
    my ($rc, $rows, $said) = import_rows('unkey', 'unkey-keys.ndjson',
                                         'unkey-list.json');
    my ($row) = @{$rows->{Production}};

    is($rc, 1, 'some were left out');
    is_deeply($row, {
        name => 'Production', owner => 'user_1', alg => 'sha256',
        hash => 'qm5Ljb5Yo/h31IEc8fh1kxmq63XDc+SFsIvjC/cqWMs=',
        start => 'prod_3ZR2', prefix => 'prod', metadata => { plan => 'pro' },
        scopes => [ qw(documents.read documents.write) ],
        created_at => '2024-01-01T00:00:00.000Z',
        limits => [ limit('burst', 10, '1s'), limit('hourly', 100, '1h') ],
    }, 'a row of the table');
    said($said, qr/^"Production": its limit "heavy" is left out: it holds only/,
         'a limit that is asked for by name');
    said($said, qr/^left out: "key_2cGKbMxRyIzhCxo1IdjzC1": it expired at 2001/,
         'expired');
    said($said, qr/^left out: "Gone": it was deleted/, 'deleted');

    ($row) = @{$rows->{Seam}};
    is($row->{alg}, 'sha256-last-segment', 'moved into Unkey before');
    is($row->{enabled}, JSON::PP::false, 'disabled');
    is($row->{expires_at}, '2099-01-01T00:00:00.000Z', 'expiry');
    is_deeply($row->{limits}, [ limit('default', 20, '10s') ],
              'the one limit of older keys');
    is_deeply($row->{credits}, { unit => 'requests', remaining => 50,
        refill => { amount => 80, every => 'month' } }, 'credits');
    said($said, qr/^"Seam": its credits are refilled on day 15: here it is/,
         'their day');

    ($row) = @{$rows->{Listed}};
    ok($row->{hash}, 'table and list make one key');
    is_deeply($row->{scopes}, [ 'a.b' ], 'permissions of the list');
    is($row->{owner}, 'org_7', 'identity of the list');
    is_deeply($row->{credits}, { unit => 'requests', remaining => 100,
        refill => { amount => 100, every => 'month' } }, 'credits of the list');
    said($said, qr/^"Listed": its roles are not moved/, 'roles');
    said($said, qr/^the keys of owner "org_7" share .*"limit":6,"window":"1m"/,
         'limits of an identity are the owner\'s');

    is($rows->{Recoverable}[0]{hash}, sha256_hex('rec_9dKcQ2xTfLbVnMwZpRsYhG'),
       'plaintext is hashed here');
    ok(!exists $rows->{Recoverable}[0]{key}, 'and not sent');
    said($said, qr/^left out: "Hash unknown": there is neither/, 'no hash');
    said($said, qr/^4 keys, 3 left out, 3 warnings$/, 'summed up');
};


subtest 'litellm' => sub {
    my ($rc, $rows, $said) = import_rows('litellm', map { "litellm-$_" }
        qw(keys.ndjson list.json models.ndjson));

    is($rc, 1, 'some were left out');
    is_deeply($rows->{prod}[0], {
        name => 'prod', owner => 'team_a', customer => 'ada', alg => 'sha256',
        hash => sha256_hex('sk-litellmlitellmlitel01'), start => 'sk-',
        last4 => 'el01', metadata => { service_account_id => 'x' },
        created_at => '2026-01-01T10:00:00.123Z',
        limits => [ limit('rpm', 5, '1m') ],
    }, 'a row of the table');

    my $two = $rows->{'sk-...el02'}[0];
    is($two->{owner}, 'bob', 'without a team the user owns it');
    is_deeply($two->{limits}, [
        { %{limit('tpm', 1000, '1m')}, unit => 'tokens' },
        { name => 'parallel', unit => 'concurrent', limit => 3 },
        { %{limit('budget', '25.50', 'month')}, unit => 'cost' } ],
        'tokens, slots and a budget');

    is($rows->{blocked}[0]{enabled}, JSON::PP::false, 'blocked');
    said($said, qr/^"blocked": its $_ /, $_)
        for 'aliases', 'allowed_routes', 'limits by model';
    said($said, qr/^left out: "over": it expired at 2025-01-01T00:00:00/,
         'expired');
    said($said, qr/^left out: "sk-\.\.\.el11": a login of LiteLLM's dashboard/,
         'a login');
    is($rows->{listed}[0]{expires_at}, '2099-01-01T00:00:00.000Z',
       'a page of /key/list');
    said($said, qr/^left out: "[0-9a-f]{64}": a hash alone/, 'a hash alone');

    is_deeply($rows->{some}[0]{allowed_models}, [ 'gpt-4o*', 'openai/*' ],
              'models');
    ok(!exists $rows->{all}[0]{allowed_models}, 'all models: any');
    is_deeply($rows->{none}[0]{allowed_models}, [], 'no model: none');
    is_deeply($rows->{team}[0]{allowed_models}, [],
              'those of the team: none rather than any');
    said($said, qr/^"team": all-team-models is not moved/, 'is said');
};


subtest 'aws: what its CLI prints' => sub {
    my ($rc, $rows, $said) = import_rows('aws', map { "aws-$_.json" }
        qw(plan-keys keys plans));

    is($rc, 1, 'one has no value');
    is_deeply($rows->{'Partner one'}[0], {
        name => 'Partner one', customer => 'cust-1', alg => 'sha256',
        hash => sha256_hex('hIqXhkwmJ93nDQ5iAWSone0000000001abcdefgh'),
        start => 'hIqX', last4 => 'efgh',
        metadata => { description => 'first partner',
                      tags => { team => 'edge' } },
        created_at => '2023-03-01T11:00:00.000Z',
        limits => [ limit('throttle', 10, '1s', 20),
                    limit('quota', 5000, 'month') ],
    }, 'a key and its plan, a quota of the calendar');
    said($said, qr/^"Partner one": its limits for single methods/, 'methods');

    my $two = $rows->{'Partner two'}[0];
    is($two->{enabled}, JSON::PP::false, 'disabled');
    is($two->{created_at}, '2023-03-01T11:00:00.000Z', 'seconds as a number');
    is_deeply($two->{limits}, [ limit('throttle', 5, '10s', 3) ],
              'half a request a second');
    ok($rows->{z3fq5b3qmk}, 'a key without a name');
    said($said, qr/^"z3fq5b3qmk": its 2 usage plans are left out/,
         'several plans');
    said($said, qr/^left out: "No value": .*--include-values/, 'no value');
};


subtest 'aws: its CSV' => sub {
    my ($rc, $rows, $said) = import_rows('aws', 'aws.csv', 'aws-plans.json');

    is($rc, 0, 'all are moved');
    is($rows->{MyFirstApiKey}[0]{hash},
       sha256_hex('apikey1234abcdefghij0123456789'), 'a key');
    is_deeply($rows->{MyFirstApiKey}[0]{metadata},
              { description => 'An imported key' }, 'its description');
    is($rows->{MySecondApiKey}[0]{enabled}, JSON::PP::false, 'FALSE');
    is_deeply($rows->{MySecondApiKey}[0]{limits},
              [ limit('throttle', 5, '10s', 3) ], 'its plan');
    said($said, qr/^"MyFirstApiKey": its 2 usage plans/, 'two plans');
    said($said, qr/^"MyThirdApiKey": its usage plan nosuch is in none/,
         'a plan that is not there');
};


subtest 'csv' => sub {
    my ($rc, $rows, $said) = import_rows('csv', 'own.csv');

    is($rc, 1, 'one has no key');
    is_deeply($rows->{plain}[0], {
        name => 'plain', owner => 'user_1', alg => 'sha256',
        hash => sha256_hex('csvcsvcsvcsvcsvcsvcsvcsv0001'),
        start => 'csvc', last4 => '0001',
        scopes => [ qw(orders:read orders:write) ],
        allowed_ips => [ '10.0.0.0/8', '127.0.0.0/8' ],
        limits => [ limit('l', 9, '1h') ], metadata => { team => 'a' },
        expires_at => '2099-01-01T00:00:00Z', enabled => JSON::PP::true,
    }, 'every column');
    is($rows->{hex}[0]{hash}, sha256_hex('nk_csvcsvcsvcsvcsvcsvcsvcsv0002'),
       'a hash stays');
    is($rows->{last}[0]{alg}, 'sha256-last-segment', 'of the last segment');
    said($said, qr/^left out: "nothing": it has neither a hash nor a key/,
         'no key');

    my $dir = $ctl->files('nameless', 'a.csv' => "name,key\nx,csvcsvcsvcsv1\n"
                          . ",csvcsvcsvcsv2\n");
    my @ran = $ctl->run(['import', '--from', 'csv', "$dir/a.csv"]);
    like($ran[2], qr/^left out: "row 2": it has no name/m, 'which has no name');
};


subtest 'files that cannot be read' => sub {
    my $dir = $ctl->files('files',
        'broken.json' => "{\"keys\": [\n{\"token\": }\n]}",
        'second.json' => "{}\n{}\n{\"a\": \n",
        'columns.csv' => "name,colour\nx,y\n",
        'fields.csv'  => "name,key\nx,y,z\n",
        'quote.csv'   => "name,key\n\"x\"y,z\n",
        'twice.csv'   => "name,Name\nx,y\n",
        'latin.csv'   => "name,key\nM\xfcller,123456789012345678\n",
        'bytes.csv'   => "name,key\nx,12345678901234567\xff\n",
        'empty'       => '',
        'bom.csv'     => "\xef\xbb\xbfname,key\r\nx,123456789012345678\r\n");

    for my $case ([ litellm => 'broken.json', qr/broken\.json:2: ./ ],
                  [ litellm => 'second.json', qr/second\.json:4: ./ ],
                  [ csv => 'columns.csv', qr/there is no column "colour"/ ],
                  [ csv => 'fields.csv', qr/record 2: .*more fields/ ],
                  [ csv => 'quote.csv', qr/quote/ ],
                  [ csv => 'twice.csv', qr/names a column twice/ ],
                  [ csv => 'latin.csv', qr/record 2: this is not UTF-8/ ],
                  [ csv => 'bytes.csv', qr/record 2: this is not UTF-8/ ],
                  [ csv => 'empty', qr/neither JSON nor CSV/ ],
                  [ csv => 'none', qr/cannot open ".*none": No such file/ ])
    {
        my ($from, $file, $like) = @$case;
        my ($rc, $out, $err) = $ctl->run(['import', '--from', $from,
                                          "$dir/$file"]);

        is($rc, 3, $file);
        is($out, '', "$file: no rows");
        like($err, $like, "$file: is said");
    }

    my ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv',
                                      "$dir/bom.csv"]);
    is($rc, 0, 'a BOM and CRLF') or diag $err;
    like($out, qr/^\{"name":"x","hash":/, 'are read over');

    ($rc, $out) = $ctl->run(['import', '--from', 'csv', '-'],
                            in => "name,key\nin,123456789012345678\n");
    is($rc, 0, 'stdin');
    like($out, qr/^\{"name":"in"/, 'is read');

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '-'],
                                  in => "name,key\nshort,123456789\n");
    like($err, qr/^"short": a key of 9 characters can be guessed/,
         'a key that can be guessed is said');

    ($rc, $out) = $ctl->run(['import', '--from', 'aws', '-'],
                            in => "name,key\n\"" . "\xc3\xa4" x 300
                                  . "\",123456789012345678\n");
    is(length decode_json($out)->{name}, 255, 'a name is cut between letters');
};


subtest 'exports that were made to do harm' => sub {
    my $run = sub {
        my ($from, $in) = @_;

        return $ctl->run(['import', '--from', $from, '-'], in => $in);
    };

    my $kong = sub {
        my ($name, $ttl) = @_;

        return $run->('kong', qq({"consumers":[{"username":"$name",)
            . qq("keyauth_credentials":[{"key":"kongkongkongkongkong",)
            . qq("ttl":$ttl}]}]}));
    };

    for my $ttl ('9223372036854775807', '-9223372036854775807') {
        my ($rc, $out, $err) = $kong->('c', $ttl);
        is("$rc $out", '1 ', "ttl $ttl");
        like($err, qr/^left out: "c": its expiry is no time$/m, '... is said');
    }

    my ($rc, $out, $err) = $kong->('\u001b]0;x\u0007\u009b31m\u00e4', -1);
    like($err, qr/^left out: "\?\]0;x\?\?\?31m\xc3\xa4": /m,
         'no name commands the terminal');

    my $plain = 'sk-notahashbutakeyofsomebody';

    for my $in (qq({"token":"$plain"}), qq({"keys":["$plain"]})) {
        ($rc, $out, $err) = $run->('litellm', $in);
        like($err, qr/^left out: "\?": /m, 'what is no hash is left out');
        unlike($err, qr/notahash/, '... and not shown');
    }

    ($rc, $out) = $run->('csv', "name,key\nx,abcdefghij_klmnopqrst\n");
    is_deeply(decode_json($out), { name => 'x', alg => 'sha256',
        hash => sha256_hex('abcdefghij_klmnopqrst'), start => 'abcd',
        last4 => 'qrst' }, 'half of a key is no prefix');

    ($rc, $out, $err) = $run->('aws', '{"items":[{"id":"p","name":"p",'
        . '"throttle":{"rateLimit":5,"burstLimit":1e300}}]}'
        . '{"items":[{"id":"k","name":"k","value":"awsawsawsawsawsawsaws"}]}'
        . '{"usagePlanId":"p","items":[{"id":"k"}]}');
    like($err, qr/^"k": limit "throttle", 5 in 1000 ms, is left out/m,
         'a burst that is no number of requests');
};


# Arguments.

$ctl->wrong(['import', 'x'], qr/--from kong\|unkey/, 'no --from');
$ctl->wrong(['import', '--from', 'kong'], qr/FILE is missing/, 'no file');
$ctl->wrong(['import', '--from', 'tyk', 'x'], qr/--from is kong, unkey/,
            'an unknown product');
$ctl->wrong(['import', '--from', 'csv', '--dry-run', 'x'],
            qr/are for --to URL/, 'a dry run of printing');

$t->done;
