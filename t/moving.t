# Moving in, from end to end: the commands of docs/moving run as they stand
# there, over exports in t/data, and then the old keys work at our gateway.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Copy qw(copy);
use File::Path qw(make_path);
use JSON::PP qw(decode_json encode_json);
use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(json);

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);
my $data = abs_path('t/data');

$t->postgres;
$t->upstream;

my $node = $t->nginx(http => 'map $host $litellm_key { default master; }',
                     server => <<'EOT')->start;
        location / {
            apikey         required;
            apikey_source  header:apikey query:apikey header:x-api-key bearer;
            proxy_pass     http://%%UPSTREAM%%;
        }

        location /v1/ {
            apikey            required;
            apikey_source     bearer header:x-api-key header:api-key;
            proxy_set_header  Authorization "Bearer $litellm_key";
            proxy_pass        http://%%UPSTREAM%%;
        }

        location /limited/ {
            apikey_admin rate=1r/s;
        }
EOT

my $admin = 'http://127.0.0.1:' . $node->port . '/api/v1/';
my ($rc, $out, $err);


# The commands of a page, in a directory with these exports.

sub page {
    my ($name, %files) = @_;

    my $dir = "$t->{dir}/$name";

    make_path($dir);

    while (my ($to, $from) = each %files) {
        Apikey::Ctl::write_file("$dir/$to", join '', map {
            Apikey::Ctl::slurp("$data/$_") } ref $from ? @$from : $from);
    }

    Apikey::Ctl::write_file("$dir/operator.token", "$t->{token}\n");

    my @lines = Apikey::Ctl::slurp("docs/moving/$name.md")
        =~ /^(apikeyctl import .*)$/mg;

    is(scalar @lines, 3, 'three commands');

    return map {
        my $line = $_;
        local $ENV{PATH} = "$t->{build}:$ENV{PATH}";
        local $ENV{ADMIN} = $admin;

        Apikey::Ctl::write_file("$dir/line", "cd $dir && $line\n");
        my $said = `sh $dir/line 2>&1`;
        { rc => $? >> 8, said => $said,
          rows => Apikey::Ctl::slurp("$dir/rows.ndjson"), line => $line };
    } @lines, $lines[2];
}


# rows: how many; then what the last two lines of the page said.

sub moved {
    my ($n, $rows, $dry, $real, $again) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is(scalar(split /\n/, $rows->{rows}), $n, "$n rows are shown");
    unlike($rows->{rows}, qr/"key":/, 'none with its plaintext');
    like($dry->{said}, qr/^dry run: $n created, 0 unchanged, 0 failed$/m,
         'a dry run');
    like($real->{said}, qr/^$n created, 0 unchanged, 0 failed$/m, 'moved');
    like($again->{said}, qr/^0 created, $n unchanged, 0 failed$/m,
         'again changes nothing');
}


sub status {
    my ($key, %opt) = @_;

    return $node->request('GET', $opt{uri} // '/',
        headers => [ $opt{header} // 'x-api-key' => $key ])->{status};
}


subtest 'kong' => sub {
    my @did = page('kong', 'kong.json' => 'kong-deck.json');

    moved(5, @did);

    is(status('acmeacmeacmeacmeacmeacmeacme0001', header => 'apikey'), 200,
       'the old key in the old header');
    is($node->get('/?apikey=acmeacmeacmeacmeacmeacmeacme0001')->{status}, 200,
       'and in the query');
    is(status('acmeacmeacmeacmeacmeacmeacme0002', header => 'apikey'), 401,
       'no other');

    my @shared = map { status("sharedsharedsharedsharedshare00$_") }
                 1, 2, 1, 2;
    is("@shared", '200 200 200 429', 'keys share what the consumer had');

    my $owner = json($node->admin('GET', 'owners/shared'));
    is($owner->{limits}[0]{limit}, 3, 'it is the owner\'s limit');

    my @each = map { status('eacheacheacheacheacheacheach0001') } 1 .. 8;
    is("@each", '200 ' x 7 . '429', 'by credential: 7');
    is(status('eacheacheacheacheacheacheach0002'), 200, 'each');
};


subtest 'kong: the Admin API' => sub {
    ($rc, $out, $err) = $ctl->run(['import', '--from', 'kong', '--to', $admin,
        (map { "$data/kong-$_.json" } qw(plugins acls key-auths consumers)) ],
        env => { APIKEY_TOKEN => $t->{token} });
    is($out, "2 created, 0 unchanged, 0 failed\n", 'moved') or diag $err;

    my @nine = map { status('nk_ninenineninenineninenineninenine') } 1 .. 5;
    is("@nine", '200 200 200 200 429', 'four a minute');
    is(status('bobbobbobbobbobbobbobbobbobbob01'), 200, 'without a limit');
};


subtest 'unkey' => sub {
    my @did = page('unkey', 'keys.ndjson' => 'unkey-keys.ndjson',
                   'list.json' => 'unkey-list.json');

    moved(4, @did);

    is(status('Bearer prod_3ZR2wVnQmXkTfYbLsHdGpA', header => 'Authorization'),
       200, 'a key by its hash in base64');
    is(status('rec_9dKcQ2xTfLbVnMwZpRsYhG'), 200, 'one that was listed');
    is(status('listlistlistlistlistlist'), 200, 'table and list');
    is(status('seam_4tx_9h2bPDhZtzmLxVpTnWq3cR'), 401, 'a disabled one');

    my $list = json($node->admin('GET', 'api-keys?q=Seam&status=all'));
    my $id = $list->{data}[0]{id};
    $node->admin('PATCH', "api-keys/$id", body => { enabled => \1 });
    is(status('seam_4tx_9h2bPDhZtzmLxVpTnWq3cR'), 200,
       'by the hash of its last segment, once it is enabled');

    is_deeply([ @{json($node->admin('GET', "api-keys/$id"))->{credits}}{
                qw(unit refill)} ],
              [ 'requests', { amount => 80, every => 'month' } ],
              'it has its credits');

    is(json($node->admin('GET', 'owners/org_7'))->{limits}[0]{limit}, 6,
       'the identity\'s limit is the owner\'s');
    is(status('oldoldoldoldoldoldoldoldold'), 401, 'an expired one is not');
};


subtest 'litellm' => sub {
    my @did = page('litellm', 'keys.ndjson' => [ 'litellm-keys.ndjson',
                                                 'litellm-list.json' ]);

    moved(4, @did);

    my $r = $node->request('GET', '/v1/models', headers => [
        Authorization => 'Bearer sk-litellmlitellmlitel02' ]);
    is($r->{status}, 200, 'the old key as a bearer');
    is(status('sk-litellmlitellmlitel05', uri => '/v1/x'), 200,
       'in x-api-key');
    is(status('sk-litellmlitellmlitel03'), 401, 'a blocked one is not');
    is(status('sk-litellmlitellmlitel04'), 401, 'nor an expired one');

    my $list = json($node->admin('GET', 'api-keys?q=sk-...el02'));
    is_deeply([ map { join ' ', @{$_}{qw(name unit limit)},
                $_->{window} // '-' } @{$list->{data}[0]{limits}} ],
              [ 'tpm tokens 1000 1m', 'parallel concurrent 3 -',
                'budget cost 25.50 month' ], 'its limits and its budget');

    my @rpm = map { status('sk-litellmlitellmlitel01') } 1 .. 6;
    is("@rpm", '200 200 200 200 200 429', 'rpm');

    my ($seen) = grep { $_->{uri} eq '/v1/models' } $t->{upstream}->requests;
    is($seen->{headers}{authorization}, 'Bearer master',
       'LiteLLM behind it sees its own key');
};


subtest 'aws' => sub {
    my @did = page('aws', 'keys.json' => 'aws-keys.json',
                   'plans.json' => 'aws-plans.json',
                   'plan-keys.json' => 'aws-plan-keys.json');

    moved(3, @did);

    is(status('hIqXhkwmJ93nDQ5iAWSone0000000001abcdefgh'), 200, 'the old key');
    is(status('hIqXhkwmJ93nDQ5iAWStwo0000000002abcdefgh'), 401,
       'a disabled one is not');

    my $list = json($node->admin('GET', 'api-keys?q=Partner&status=all'));
    my %limit = map { $_->{name} => $_->{limits}[0] } @{$list->{data}};

    is_deeply([ @{$limit{'Partner one'}}{qw(limit window burst)} ],
              [ 10, '1s', 20 ], 'its throttle');
    is_deeply([ map { @{$_->{limits}[1]}{qw(limit window)} }
                grep { $_->{name} eq 'Partner one' } @{$list->{data}} ],
              [ 5000, 'month' ], 'its quota');
    is_deeply([ @{$limit{'Partner two'}}{qw(limit window burst)} ],
              [ 5, '10s', 3 ], 'half a request a second');

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'aws', '--to', $admin,
        "$data/aws.csv" ], env => { APIKEY_TOKEN => $t->{token} });
    is($out, "3 created, 0 unchanged, 0 failed\n", 'its CSV') or diag $err;
    is(status('apikey1234abcdefghij0123456789'), 200, 'a key of it');
};


subtest 'csv' => sub {
    my @did = page('csv', 'keys.csv' => 'own.csv');

    moved(3, @did);

    is(status('csvcsvcsvcsvcsvcsvcsvcsv0001'), 200, 'plaintext');
    is(status('nk_csvcsvcsvcsvcsvcsvcsvcsv0002'), 200, 'a hash');
    is(json($node->admin('GET', 'whoami',
                         as => 'csvcsvcsvcsvcsvcsvcsvcsv0001'))->{owner},
       'user_1', 'its owner');

    my ($example) = Apikey::Ctl::slurp('docs/moving/csv.md')
        =~ /^```csv\n(.*?)^```/ms;
    my $file = "$t->{dir}/example.csv";

    Apikey::Ctl::write_file($file, $example);
    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to', $admin,
        $file ], env => { APIKEY_TOKEN => $t->{token} });
    is($rc, 0, 'the example of the page') or diag $err;
    is(status('nk_5f0c2f6e9b1d4a7c8e3f0a1b2c3d4e5f'), 200, 'its key');
};


subtest 'a caller that is limited' => sub {
    my $dump = encode_json({ consumers => [ map { my $n = $_; {
        username => "limited$n", keyauth_credentials => [ map {
            { key => "limitedlimitedlimited$n$_" } } 1 .. 2 ],
        plugins => [ { name => 'rate-limiting', config => { hour => 9 } } ],
    } } 1 .. 2 ] });

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'kong', '--to',
        $admin =~ s{/api/v1/}{/limited}r, '-'], in => $dump,
        env => { APIKEY_TOKEN => $t->{token} });
    is($out, "4 created, 0 unchanged, 0 failed\n", 'waits') or diag $err;
    cmp_ok($node->metric('apikey_limited_total', what => 'caller'), '>', 0,
           'as it is told');
    is(json($node->admin('GET', "owners/limited$_"))->{limits}[0]{limit}, 9,
       "the limits of owner $_ are there") for 1, 2;
};


subtest 'what the gateway refuses' => sub {
    my $rows = "name,key,expires_at,scopes\n"
        . "good,123456789012345678901234,,\n"
        . "past,123456789012345678901235,2001-01-01,\n"
        . "wrong,123456789012345678901236,soon,a b\n";
    my %env = (env => { APIKEY_TOKEN => $t->{token} });

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to', $admin,
                                   '-'], in => $rows, %env);
    is($rc, 1, 'some rows');
    is($out, "1 created, 0 unchanged, 2 failed\n", 'the others are moved');
    like($err, qr{^failed: "past": /expires_at: this time is over$}m,
         'each is named');
    like($err, qr{^failed: "wrong": /expires_at: write a time}m,
         'with what is wrong');

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to', $admin,
        '-'], in => $rows, env => { APIKEY_TOKEN => 'op_wrong' });
    is($rc, 3, 'a wrong token');
    like($err, qr/the gateway answers 401/, 'is said');
    is($out, '', 'and nothing is summed up');
    unlike($err, qr/op_wrong/, 'and not shown');

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to', $admin,
        '-'], in => $rows);
    is($rc, 3, 'no token');
    like($err, qr/--token-file FILE, or APIKEY_TOKEN/, 'is said');

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to',
        'http://127.0.0.1:1/', '-'], in => $rows, %env);
    is($rc, 3, 'nobody there');
    like($err, qr/127\.0\.0\.1:1.*(?:connect|Connect)/, 'is said');
    is($out, '', 'and nothing is summed up');

    for my $case ([ csv => "name,key\n", 3, qr/the files hold no key$/m ],
                  [ kong => '{"consumers":[]}', 3, qr/the files hold no key$/m ],
                  [ csv => "name,key\nx,short\n", 1,
                    qr/every key was left out$/m ])
    {
        my ($from, $in, $code, $like) = @$case;

        for my $to ([], [ '--to', $admin ]) {
            ($rc, $out, $err) = $ctl->run(['import', '--from', $from, @$to,
                                           '-'], in => $in, %env);
            is("$rc $out", "$code ", "$from: nothing to import");
            like($err, $like, 'is said');
        }
    }

    ($rc, $out, $err) = $ctl->run(['import', '--from', 'csv', '--to',
        'gateway', '-'], in => $rows, %env);
    is($rc, 3, 'no URL');
    like($err, qr/--to is the URL of the location/, 'is said');

    $node->admin('PUT', 'owners/kept', body => { limits => [
        { name => 'mine', unit => 'requests', limit => 1, window => '1s' } ] });
    my $kong = decode_json(Apikey::Ctl::slurp("$data/kong-deck.json"));
    $kong->{consumers} = [ grep { $_->{username} eq 'shared' }
                           @{$kong->{consumers}} ];
    $kong->{consumers}[0]{custom_id} = 'kept';
    ($rc, $out, $err) = $ctl->run(['import', '--from', 'kong', '--to', $admin,
        '--dry-run', '-'], in => encode_json($kong), %env);
    like($err, qr/^"kept": this owner has limits already, which stay/m,
         'limits of an owner are never replaced');
    is(json($node->admin('GET', 'owners/kept'))->{limits}[0]{name}, 'mine',
       'and stay');
};


$t->done;
