# Models and sessions: what a key's list of models allows, where there is a
# model at all, and how both get into variables and records.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->redis;
$t->upstream;

my $any = $t->key(name => 'any', owner => 'user_1', customer => 'c 1',
    plan => 'pro', metadata => { team => 'search' });
my $none = $t->key(name => 'none', allowed_models => []);
my $some = $t->key(name => 'some', scopes => ['chat'],
    allowed_models => [ 'gpt-4o*', 'claude-*-haiku', 'o1', "\x{e4}*" ],
    limits => [{ name => 'h', limit => 1000, window => '1h' }]);
my $all = $t->key(name => 'all', allowed_models => ['*']);
my $odd = $t->key(name => 'odd', allowed_models => [ 'a%b', 'a_b', 'a\\b',
    'a.b', 'a b', '' ]);
my $long = $t->key(name => 'long', scopes => [ map { "s$_" . 'x' x 120 }
                                               1 .. 1000 ],
    allowed_models => [ map { "m$_-" . 'y' x 120 . '*' } 1 .. 1000 ]);

$pg->run(<<'EOT');
UPDATE apikey.owner SET plan = 'starter' WHERE external = 'user_1';
EOT

my $owned = $t->key(name => 'owned', owner => 'user_1');

my $n = $t->nginx(http => <<'EOT', server => <<'EOS')->start;
    log_format v '$request_id $apikey_request_id [$apikey_plan] '
                 '[$apikey_customer] [$apikey_owner] [$apikey_metadata_team] '
                 '[$apikey_metadata_nothing] [$apikey_verdict]';
EOT
        access_log %%DIR%%/access.log v;
        apikey required;
        apikey_model $http_x_model;
        apikey_session $http_x_session;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /fixed/ {
            apikey_model o1;
            apikey_session "s-$arg_s";
            proxy_pass http://%%UPSTREAM%%;
        }

        location /nothing/ {
            apikey_model "";
            apikey_session "";
            proxy_pass http://%%UPSTREAM%%;
        }

        location /scope/ {
            apikey_scope chat;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /redirect/ {
            apikey_model "";
            try_files /nowhere /fixed/;
        }

        location /redirect-no/ {
            apikey_model o1;
            error_page 418 = @gpt5;
            return 418;
        }

        location /limit/ {
            apikey_weight 100000;
            proxy_pass http://%%UPSTREAM%%;
        }

        location @gpt5 {
            apikey_model gpt-5;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


sub ask {
    my ($key, $model, $uri, @headers) = @_;

    return $n->request('GET', $uri // '/', key => $key->{key}, headers => [
        defined $model ? ('X-Model' => $model) : (), @headers ]);
}

sub denied {
    my ($r, $code, $name) = @_;

    my $j = eval { json($r) } // {};

    is("$r->{status} " . ($j->{code} // ''), "403 $code", $name)
        or diag($r->{raw});
    return $j;
}

sub row {
    my ($r, $columns) = @_;

    my $id = $r->{headers}{'x-request-id'};
    my $row;

    wait_for("the record of $id", sub {
        ($row) = $pg->rows("SELECT $columns FROM apikey.usage_event"
                           . " WHERE event = '$id'");
        return $row;
    });

    return join ' ', map { $_ // 'null' } @$row;
}


# The rule is written down twice, in C and in SQL.

my @cases;

for my $key ($none, $some, $all, $odd) {
    my ($list) = $pg->column("SELECT array_to_json(allowed_models)
                              FROM apikey.key WHERE id = '$key->{id}'");

    for my $model ('gpt-4o', 'gpt-4o-mini', 'gpt-4', 'GPT-4o', 'xgpt-4o',
                   'claude-3-haiku', 'claude--haiku', 'claude-haiku',
                   'claude-3-haiku-x', 'o1', 'o1-mini', 'o', 'a%b', 'axb',
                   'a_b', 'a\\b', 'a.b', 'a b', 'gpt-*', '*', 'b',
                   "\xc3\xa4", "\xc3\xa4b", "\xc3", 'gpt-4o' . 'x' x 249,
                   ' ')
    {
        my $text = $model;
        next unless utf8::decode($text);    # not for SQL

        my $want = $pg->value('SELECT coalesce(bool_or('
            . 'apikey.pattern_covers(p, ' . $pg->quote($text) . ")), false)
            FROM unnest((SELECT allowed_models FROM apikey.key
                         WHERE id = '$key->{id}')) p") eq 't';

        # nginx takes the blanks off a header's value
        $want = 0 if $text eq ' ';

        push @cases, [ $key, $model, $want ? 200 : 403, "$text in $list" ];
    }
}

is(grep({ $_->[2] == 200 } @cases), 8 + 24 + 5, 'as many as there should be');

for my $case (@cases) {
    my ($key, $model, $status, $name) = @$case;

    utf8::encode($name);
    is(ask($key, $model)->{status}, $status, "$status: $name");
}


subtest 'answers' => sub {
    my $j = denied(ask($some, 'gpt-4'), 'model_denied', 'not in the list');

    is($j->{title}, 'Model not allowed', 'title');
    is($j->{type}, 'urn:apikey:model_denied', 'type');

    denied(ask($some, undef), 'model_denied', 'no model, a list');
    denied(ask($some, ''), 'model_denied', 'an empty one');
    denied(ask($all, undef), 'model_denied', 'nobody knows which');
    denied(ask($all, 'x' x 256), 'model_denied', 'too long a name');
    is(ask($all, 'x' x 255)->{status}, 200, 'a long one');
    is(ask($all, "\xff\xfe")->{status}, 200, 'no UTF-8');
    is(ask($any, undef)->{status}, 200, 'no list');
    is(ask($any, 'x' x 3000)->{status}, 200, 'no list, a very long name');
    denied(ask($none, 'o1'), 'model_denied', 'a list of none');

    my $r = $n->request('HEAD', '/', key => $none->{key});
    is("$r->{status} '$r->{body}'", "403 ''", 'HEAD');

    denied(ask($long, 'm1000-' . 'y' x 119), 'model_denied', 'long lists');
    is(ask($long, 'm1000-' . 'y' x 121)->{status}, 200, 'its last entry');
    denied(ask($long, 'm1-' . 'y' x 121, '/scope/'), 'scope_denied',
           'no scope of a thousand');
};


subtest 'where' => sub {
    is(ask($some, undef, '/fixed/')->{status}, 200, 'a model of the place');
    denied(ask($odd, 'a.b', '/fixed/'), 'model_denied', 'and not the header');
    is(ask($none, undef, '/nothing/')->{status}, 200, 'none at all');

    denied(ask($odd, 'o1', '/scope/'), 'scope_denied', 'scope comes first');
    denied(ask($some, 'gpt-4', '/limit/'), 'model_denied',
           'limits come last');

    is(ask($some, undef, '/redirect/')->{status}, 200, 'on from a place');
    denied(ask($odd, undef, '/redirect/'), 'model_denied',
           'in each that is entered');

    my $left = ask($some, 'o1')->{headers}{'x-ratelimit-remaining'};
    ask($some, 'gpt-4') for 1 .. 5;
    cmp_ok(ask($some, 'o1')->{headers}{'x-ratelimit-remaining'}, '>=',
           $left - 1, 'a refusal spends nothing');

    is($n->request('GET', '/optional/', headers => [ 'X-Model' => 'm' ])
         ->{status}, 200, 'nobody has no list');
};


subtest 'a change' => sub {
    is(ask($any, 'm1')->{status}, 200, 'any');

    for my $case ([ "'{m1,m2}'", 'm1', 200 ], [ "'{m2}'", 'm1', 403 ],
                  [ "'{}'", 'm2', 403 ], [ 'NULL', 'm2', 200 ])
    {
        my ($list, $model, $status) = @$case;

        $pg->run("UPDATE apikey.key SET allowed_models = $list
                  WHERE id = '$any->{id}'");
        ok(wait_for("$list", sub { ask($any, $model)->{status} == $status }),
           "$list");
    }
};


subtest 'by the API' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => {
        name => 'api', allowed_models => [ 'a*', 'b' ] }));

    is(ask($k, 'ab')->{status}, 200, 'allowed at once');
    denied(ask($k, 'ba'), 'model_denied', 'not this one');

    for my $case ([ [ 'ba' ], 200 ], [ [], 403 ], [ undef, 200 ]) {
        my $r = $n->admin('PATCH', "api-keys/$k->{id}", body => {
            allowed_models => $case->[0] });

        is($r->{status}, 200, 'changed') or diag $r->{body};
        is(ask($k, 'ba')->{status}, $case->[1], "at once: $case->[1]");
    }
};


subtest 'records' => sub {
    my $r = ask($some, 'gpt-4o-mini', '/', 'X-Session' => 'talk 7');

    is(row($r, 'model, session, verdict'), 'gpt-4o-mini talk 7 ok',
       'model and session');

    $r = ask($any, undef);
    is(row($r, 'model, session'), 'null null', 'neither');

    $r = ask($some, undef, '/fixed/?s=1');
    is(row($r, 'model, session'), 'o1 s-1', 'of the place');

    $r = ask($any, 'm' x 300, '/', 'X-Session' => 's' x 254 . "\xc3\xa4");
    is(row($r, 'model, session'), 'm' x 255 . ' ' . 's' x 254,
       'cut behind 255 bytes, at a character');

    $r = ask($any, "m\xff", '/', 'X-Session' => "s\xfe\t'\"\\");
    is(row($r, 'model, session'), "m? s?\t'\"\\", 'any bytes');

    # ten refusals a second are kept

    wait_for('a refusal', sub {
        ask($some, 'gpt-5', '/', 'X-Session' => 'talk 8');
        row(ask($some, 'o1'), 'verdict');
        return $pg->value("SELECT count(*) FROM apikey.usage_event
                           WHERE session = 'talk 8'");
    });
    is(join(' ', @{($pg->rows("SELECT DISTINCT model, verdict, outcome,
                        status_code FROM apikey.usage_event
                        WHERE session = 'talk 8'"))[0]}),
       'gpt-5 model_denied refused 403', 'a refusal');

    $r = $n->request('GET', '/optional/', headers => [ 'X-Model' => 'm9',
                                                       'X-Session' => 's9' ]);
    is(row($r, 'model, session, verdict, key_id'), 'm9 s9 anonymous null',
       'nobody');

    wait_for('sums', sub {
        $pg->value("SELECT sum(requests) FROM apikey.usage_hourly
                    WHERE model = 'gpt-4o-mini'
                        AND key = '$some->{id}'") >= 2;
    });
    cmp_ok($pg->value("SELECT sum(refused) FROM apikey.usage_hourly
                       WHERE verdict = 'model_denied'"), '>', 10,
           'refusals are sums');
};


subtest 'sessions of many' => sub {
    my @r = $n->parallel(map { { uri => '/fixed/?s=' . $_, key => $any->{key} } }
                         1 .. 200);

    is(grep({ $_->{status} == 200 } @r), 200, 'all pass');
    $t->wait_events(200, "session LIKE 's-%' AND key_id = '$any->{id}'");
    is($pg->value("SELECT count(DISTINCT session) FROM apikey.usage_event
                   WHERE session LIKE 's-%' AND key_id = '$any->{id}'"),
       200, 'each its own');
};


subtest 'variables' => sub {
    my %line;

    for my $case ([ any => $any ], [ owned => $owned ], [ none => $none ]) {
        my $id = ask($case->[1], 'm')->{headers}{'x-request-id'};

        $line{$case->[0]} = wait_for('its line', sub {
            open my $f, '<', $n->dir . '/access.log' or return;
            return (map { / $id (.*)/ ? $1 : () } <$f>)[0];
        });
    }

    is($line{any}, '[pro] [c 1] [user_1] [search] [-] [ok]', 'of a key');
    is($line{owned}, '[starter] [-] [user_1] [-] [-] [ok]',
       'the owner\'s plan where the key has none');
    is($line{none}, '[-] [-] [-] [-] [-] [model_denied]', 'nothing');
};


subtest 'from the saved copy' => sub {
    $n->stop;
    $n->start;

    is(ask($some, 'gpt-4o')->{status}, 200, 'allowed');
    denied(ask($some, 'gpt-5'), 'model_denied', 'not allowed');
    denied(ask($none, 'gpt-5'), 'model_denied', 'none');
    is(ask($any, 'gpt-5')->{status}, 200, 'any');
};

$t->done;
