
# Alerts: what fires, once for each threshold and window, what is resolved, and
# who hears of it.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $there = $t->upstream(name => 'there');

$pg->run("INSERT INTO apikey.setting VALUES ('webhook_allow', '127.0.0.1')");

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_usage headers;
            apikey_model $arg_model;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my $n = $t->nginx(workers => 2, server => $server)->start;
my $b = $t->nginx(name => 'b', server => $server)->start;


sub api {
    my ($method, $path, $body, $status, %opt) = @_;

    my $r = $n->admin($method, $path, body => $body, %opt);

    is($r->{status}, $status, "$method " . $path =~ s/[0-9a-f-]{36}/ID/gr)
        or diag($r->{body});
    return $r->{status} == 204 ? {} : json($r);
}


# What a receiver was told of a rule.

sub told {
    my ($alert, $path) = @_;

    return map { JSON::PP::decode_json($_->{body})->{data} }
           grep { ($_->{body} // '') =~ /"alert":\s*"$alert->{id}"/
                  && $_->{uri} eq ($path // '/ops') } $there->requests;
}

sub says {
    my ($alert, $path) = @_;

    return join ', ', sort map { "$_->{state} " . ($_->{threshold} // '-') }
                           told($alert, $path);
}

# What any node does every few seconds; they do it meanwhile, too.

sub turn {
    my $at = $pg->value('SELECT clock_timestamp()');

    wait_for('a turn', sub {
        $pg->run("UPDATE apikey.alert_progress
                  SET turned_at = turned_at - interval '3 s'
                  WHERE turned_at < '$at'");
        $pg->run('SELECT apikey.alert_turn(false)', user => 'apikey_gateway');
        return $pg->value("SELECT turned_at > '$at'
                           FROM apikey.alert_progress") eq 't';
    });
}

sub wait_says {
    my ($alert, $want, $name, $path) = @_;

    eval {
        wait_for($name, sub {
            turn();
            return says($alert, $path) eq $want;
        }, 60);
    };
    is(says($alert, $path), $want, $name);
}


# All that was told is delivered.

sub quiet {
    turn();
    wait_for('all deliveries', sub {
        $pg->value("SELECT count(*) FROM apikey.webhook_delivery
                    WHERE state = 'pending'") == 0;
    });
}

sub used { my ($key, $n) = @_; wait_for("$n requests", sub {
    ($pg->value("SELECT requests FROM apikey.key_usage
                 WHERE key_id = '$key->{id}'") // 0) == $n }) }


my $url = 'http://127.0.0.1:' . $there->port;
my $key = $t->key(owner => 'ada', name => 'one', limits => [
    { name => 'monthly', limit => 100_000, window => 'month' } ]);
my $manage = $t->key(owner => 'ada', scopes => ['apikey:manage']);
my $other = $t->key(owner => 'eve', scopes => ['apikey:manage'], limits => [
    { name => 'daily', limit => 2, window => 'day' } ]);
$t->sync;

api('POST', 'webhooks', { url => "$url/ops" }, 201);
api('POST', 'webhooks', { url => "$url/ada" }, 201, as => $manage->{key});

my %default = map { $_->{kind} => $_ } @{api('GET', 'alerts', undef, 200)
                                         ->{data}};
is(join(' ', sort keys %default), 'journal_backlog unknown_price',
   'two are there from the start');


subtest 'what is no alert' => sub {
    my $bad = sub {
        my ($want, $body, %opt) = @_;

        my $r = api('POST', 'alerts', $body, 400, %opt);
        is(join(' ', sort map { "$_->{location}=$_->{code}" }
                              @{$r->{errors}}), $want, 'what is wrong');
    };

    $bad->('/kind=required /name=required', {});
    $bad->('/kind=bad_value /name=bad_type /owner=not_found',
           { name => 1, kind => 'x', owner => 'nobody' });
    $bad->('/enabled=bad_type /kind=bad_value /match/key=not_found'
           . ' /match/x=unknown /name=required /per=bad_value'
           . ' /thresholds=bad_length /window=bad_type',
           { kind => 'x', enabled => 1, per => 'x', window => 1,
             thresholds => [], match => { key => 'x', x => 1 } });
    $bad->('/match/limit_name=bad_value /name=required /owner=not_found'
           . ' /per=bad_value /thresholds/0=bad_value /window=bad_value',
           { kind => 'expiry', owner => 'nobody', per => 'key',
             window => 'day', thresholds => [ 1 ],
             match => { limit_name => 'x' } });
    $bad->('/per=bad_value /thresholds=required',
           { name => 'x', kind => 'limit', per => 'all' });
    $bad->('/thresholds/1=bad_value /thresholds/2=duplicate',
           { name => 'x', kind => 'limit', thresholds => [ 80, '95', 80 ] });
    $bad->('/match/limit_name=bad_value /thresholds/0=bad_value',
           { name => 'x', kind => 'spend', thresholds => [ 50 ],
             match => { limit_name => 'x' } });
    $bad->('/match/key=bad_value /thresholds/0=bad_value',
           { name => 'x', kind => 'spend', thresholds => [ '0.00' ],
             per => 'owner', match => { key => $key->{id} } });
    $bad->('/match/key=not_found /match/x=unknown',
           { name => 'x', kind => 'expiry', thresholds => [ '7d' ],
             match => { key => 'x', x => 1 } });
    $bad->('/thresholds=bad_value',
           { name => 'x', kind => 'unknown_price', thresholds => [ 1 ] });

    my @ada = (as => $manage->{key});

    api('POST', 'alerts', { name => 'x', kind => 'unknown_price' }, 403, @ada);
    api('POST', 'alerts', { name => 'x', kind => 'limit', thresholds => [ 1 ],
                            match => { owner => 'eve' } }, 403, @ada);
    $bad->('/match/key=not_found', { name => 'x', kind => 'limit',
        thresholds => [ 1 ], match => { key => $other->{id} } }, @ada);
    api('GET', "alerts/$default{unknown_price}{id}", undef, 404, @ada);
};


my $limit = api('POST', 'alerts', { name => 'Limits', kind => 'limit',
    thresholds => [ 95, 80, 85 ], match => { owner => 'ada' } }, 201);

is_deeply($limit->{thresholds}, [ 80, 85, 95 ], 'thresholds are sorted');

my $mine = api('POST', 'alerts', { name => 'Mine', kind => 'limit',
    thresholds => [ 85 ] }, 201, as => $manage->{key});
is($mine->{owner}, 'ada', 'an owner has alerts of its own');

my $spend = api('POST', 'alerts', { name => 'Money', kind => 'spend',
    per => 'owner', window => 'month', thresholds => [ '1.00', '5.00' ] },
    201);

subtest 'from 70 to 90 percent' => sub {
    $n->get('/?weight=70000', key => $key->{key});
    used($key, 1);
    quiet();
    is(says($limit), '', 'nothing at 70');

    $n->get('/?weight=20000', key => $key->{key});

    wait_says($limit, 'firing 80, firing 85', '80 and 85 at 90');
    wait_says($mine, 'firing 85', 'its owner, too', '/ada');

    my ($told) = grep { $_->{threshold} == 85 } told($limit);
    is_deeply({ map { $_ => $told->{$_} } qw(alert name kind key owner
                limit_name level unit window limit used remaining percent) },
              { alert => $limit->{id}, name => 'Limits', kind => 'limit',
                key => $key->{id}, owner => 'ada', limit_name => 'monthly',
                level => 'key', unit => 'requests', window => 'month',
                limit => 100_000, used => 90_000, remaining => 10_000,
                percent => 90 },
              'what it says');

    $_->get('/', key => $key->{key}) for ($n, $b) x 500;
    used($key, 1002);
    quiet();
    is(says($limit), 'firing 80, firing 85', 'nothing on the next 1,000');
    is(says($mine, '/ada'), 'firing 85', 'nowhere');
    is(says($limit, '/ada'), '', 'an owner hears of its own rules only');
    is(api('GET', "alerts/$limit->{id}", undef, 200)->{firing}, 2,
       'the rule says what is firing');

    api('PATCH', "api-keys/$key->{id}", { limits => [
        { name => 'monthly', unit => 'requests', limit => 200_000,
          window => 'month' } ] }, 200);
    wait_says($limit, 'firing 80, firing 85, resolved 80, resolved 85',
              'a raised limit resolves them');

    my ($resolved) = grep { $_->{state} eq 'resolved' } told($limit);
    is($resolved->{reason}, 'below', 'it says why');

    is($pg->value("SELECT count(*) FROM apikey.alert_log
                   WHERE alert = '$limit->{id}'"), 4, 'the log has all');
};


subtest 'credits' => sub {
    my $rule = api('POST', 'alerts', { name => 'Credits', kind => 'limit',
        thresholds => [ 50, 90 ], match => { limit_name => 'credits' } }, 201);
    my $owned = api('POST', 'alerts', { name => 'Its', kind => 'limit',
        thresholds => [ 50 ], match => { limit_name => 'owner:credits' } },
        201);
    my $k = $t->key(owner => 'cred', credits => { unit => 'requests',
        remaining => 1000, refill => { amount => 100, every => 'month' } });

    api('PATCH', 'owners/cred', { credits => { unit => 'requests',
        remaining => 4000 } }, 200);
    $t->sync;

    is($n->get('/?weight=490', key => $k->{key})->{status}, 200, '49 percent');
    used($k, 1);
    quiet();
    is(says($rule), '', 'nothing yet');

    is($n->get('/?weight=430', key => $k->{key})->{status}, 200, '92 percent');
    wait_says($rule, 'firing 50, firing 90', 'of what was given');

    my ($told) = grep { $_->{threshold} == 90 } told($rule);
    is_deeply({ map { $_ => $told->{$_} } qw(key owner limit_name level unit
                window limit used remaining percent) },
              { key => $k->{id}, owner => 'cred', limit_name => 'credits',
                level => 'key', unit => 'requests', window => undef,
                limit => 1000, used => 920, remaining => 80, percent => 92 },
              'what it says');
    like($told->{resets_at}, qr/^20\d\d-\d\d-01T/, 'when they are refilled');

    api('POST', "api-keys/$k->{id}/credits", { add => 10 }, 200,
        headers => [ 'Idempotency-Key' => 'more' ]);
    wait_says($rule, 'firing 50, firing 90, resolved 50, resolved 90',
              'more is given, of which nothing is used');

    $pg->run("UPDATE apikey.credit SET refill_at = now()
              WHERE key_id = '$k->{id}'; SELECT apikey.plans_due()");
    is($pg->value("SELECT filled || ' ' || total - used FROM apikey.credit
                   WHERE key_id = '$k->{id}'"), '100 100',
       'a refill is given');
    is($n->get('/?weight=60', key => $k->{key})->{status}, 200, '60 of 100');
    wait_says($rule, 'firing 50, firing 50, firing 90, resolved 50,'
              . ' resolved 90', 'fires again');
    is(says($owned), '', 'its owner has used less');
};


subtest 'money' => sub {
    $n->get('/set/X-Usage-Cost/2.5', key => $key->{key});
    wait_says($spend, 'firing 1.00', 'what an owner has spent');

    my ($told) = told($spend);
    is("$told->{owner} $told->{cost} $told->{currency} $told->{window}",
       'ada 2.50 USD month', 'what it says');

    $n->get('/set/X-Usage-Cost/0.5', key => $key->{key});
    quiet();
    is(says($spend), 'firing 1.00', 'once in its window');
};


subtest 'what all have spent' => sub {
    my $rule = api('POST', 'alerts', { name => 'All', kind => 'spend',
        per => 'all', window => 'total', thresholds => [ '0.50', '90.00' ] },
        201);

    wait_says($rule, 'firing 0.50', 'fires');

    # as if to sum it up took long; nobody is one of all

    $pg->run("UPDATE apikey.alert_progress SET spent_at = now(),
                  spent_took = '1 h';
              INSERT INTO apikey.usage_quarter (start, node, key_id, owner,
                  customer, service, endpoint, model, outcome, status_code,
                  verdict, limit_name, requests, cost)
              SELECT start, node, '00000000-0000-0000-0000-000000000000', '',
                  '', service, endpoint, model, outcome, status_code,
                  'anonymous', '', 1, 90000000000
              FROM apikey.usage_quarter WHERE cost > 0 LIMIT 1;
              UPDATE apikey.alert_state SET checked_at = now() - interval '1 m'
              WHERE alert_id = '$rule->{id}'");
    quiet();
    is(says($rule), 'firing 0.50', 'goes on until it is summed up again');

    $pg->run("UPDATE apikey.alert_progress SET spent_took = '0'");
    wait_says($rule, 'firing 0.50, firing 90.00', 'when its turn comes');
    api('DELETE', "alerts/$rule->{id}", undef, 204);
};


subtest 'expiry' => sub {
    my $rule = api('POST', 'alerts', { name => 'Ends', kind => 'expiry',
        thresholds => [ '7d', '30d' ] }, 201);

    my $k = $t->key(name => 'ends', owner => 'ada');
    my $short = $t->key(name => 'short');

    $pg->run("UPDATE apikey.key SET expires_at = now() + interval '3 days',
                  created_at = now() - interval '1 year'
              WHERE id = '$k->{id}';
              UPDATE apikey.key SET expires_at = now() + interval '2 days'
              WHERE id = '$short->{id}'");

    wait_says($rule, 'firing 30d, firing 7d', 'both ahead of time');
    is((told($rule))[0]{key_name}, 'ends', 'of the key that ends');

    $pg->run("UPDATE apikey.key SET expires_at = NULL
              WHERE id = '$k->{id}';
              UPDATE apikey.alert_state SET checked_at = now() - interval '1 m'
              WHERE alert_id = '$rule->{id}'");
    wait_says($rule, 'firing 30d, firing 7d, resolved 30d, resolved 7d',
              'one that does not end any more');
};


subtest 'an unknown price' => sub {
    my $rule = $default{unknown_price};

    api('POST', 'prices', { model => 'gpt-4', input_per_1m => '1' }, 201);

    for my $model ('gpt-4', 'o9') {
        $n->get("/set/X-Usage-Input-Tokens/10/set/X-Usage-Output-Tokens/0?"
                . "model=$model", key => $key->{key});
    }

    wait_for('it to fire for the model without a price', sub {
        turn();
        return grep { ($_->{model} // '') eq 'o9' } told($rule);
    });
    is(scalar(grep { ($_->{model} // '') eq 'gpt-4' } told($rule)), 0,
       'not for the other one');
    is_deeply([ map { @{$_}{qw(models priced)} }
                grep { ($_->{model} // '') eq 'o9' } told($rule) ],
              [ 1, JSON::PP::false ], 'which has none');

    $n->get("/set/X-Usage-Input-Tokens/garbage?model=gpt-4",
            key => $key->{key});
    wait_for('it to fire for usage that nobody knows', sub {
        turn();
        return grep { ($_->{model} // '') eq 'gpt-4' } told($rule);
    });
    is_deeply([ map { $_->{priced} } grep { ($_->{model} // '') eq 'gpt-4' }
                told($rule) ], [ JSON::PP::true ], 'of a model with a price');

    # clients may name whatever they like, and what is imported never ran here

    $pg->run("INSERT INTO apikey.usage_node VALUES (md5('i')::uuid, 'i',
                  'epoch', 'epoch');
        INSERT INTO apikey.usage_quarter SELECT q.start, CASE WHEN i = 0
                THEN md5('i')::uuid ELSE q.node END, q.key_id, q.owner,
            q.customer, q.service, q.endpoint, 'any' || i, 'success', 200,
            'ok', '', 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1
        FROM (SELECT * FROM apikey.usage_quarter WHERE unpriced > 0
              ORDER BY start DESC LIMIT 1) AS q, generate_series(0, 150) AS i");
    wait_for('the others together', sub {
        turn();
        return 101 == grep { $_->{models} } told($rule);
    });

    my @one = grep { $_->{models} == 1 } told($rule);
    my ($rest) = grep { $_->{models} > 1 } told($rule);
    my $any = grep { ($_->{model} // '') =~ /^any/ } @one;

    is(scalar(@one), 100, 'a hundred one by one');
    is(join(' ', map { $_ // 'null' } @{$rest}{qw(service model models
                                                  requests priced)}),
       sprintf('null null %d %1$d null', 150 - $any), 'the others together');
    is(scalar(grep { ($_->{model} // '') eq 'any0' } @one), 0,
       'none for what was imported');

    api('DELETE', "alerts/$rule->{id}", undef, 204);
    api('GET', "alerts/$rule->{id}", undef, 404);
};


subtest 'a journal that is behind' => sub {
    my $rule = $default{journal_backlog};

    api('PATCH', "alerts/$rule->{id}", { thresholds => [ '1h' ] }, 200);
    $pg->run("INSERT INTO apikey.usage_node (node, name, as_of, seen_at)
              VALUES (gen_random_uuid(), 'far', now() - interval '2 h',
                      now() + interval '1 h')");

    wait_says($rule, 'firing 1h', 'fires');
    is((told($rule))[0]{node}, 'far', 'for the node');

    $pg->run("UPDATE apikey.usage_node SET as_of = now() WHERE name = 'far'");
    wait_says($rule, 'firing 1h, resolved 1h', 'and is resolved');
};


subtest 'owners' => sub {
    my @ada = (as => $manage->{key});
    my @eve = (as => $other->{key});

    is(join(' ', map { $_->{name} } @{api('GET', 'alerts', undef, 200, @ada)
                                      ->{data}}), 'Mine', 'sees its own');
    is(@{api('GET', 'alerts', undef, 200, @eve)->{data}}, 0, 'only');
    api('GET', "alerts/$mine->{id}", undef, 404, @eve);
    api('PATCH', "alerts/$mine->{id}", {}, 404, @eve);
    api('DELETE', "alerts/$mine->{id}", undef, 404, @eve);

    is(says($mine, '/ops'), '', 'operators do not hear of it');

    api('PATCH', "alerts/$mine->{id}", { enabled => JSON::PP::false }, 200,
        @ada);
    is(api('GET', "alerts/$mine->{id}", undef, 200)->{firing}, 0,
       'disabled, nothing is firing');
    api('DELETE', "alerts/$mine->{id}", undef, 204, @ada);
};

is($pg->value("SELECT count(*) FROM (SELECT 1 FROM apikey.alert_entry
               GROUP BY alert_id, data ->> 'key', data ->> 'model',
                   data ->> 'models', state,
                   data ->> 'threshold', data ->> 'limit'
               HAVING count(*) > 1) AS x"), 0,
   'two nodes have told nothing twice');

$t->done;
