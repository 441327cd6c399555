# Prices: which one holds for a request, what it makes of its tokens, when a
# change is in force, and the admin API of prices and models.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

$pg->run("INSERT INTO apikey.plan (external, name) VALUES ('pro', 'Pro')");

my $key = $t->key(owner => 'ada');
my $pro = $t->key(plan => 'pro');

my $server = <<'EOS';
        apikey required;
        apikey_service chat;
        apikey_request openai;
        apikey_usage openai;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /headers/ {
            apikey_request off;
            apikey_usage headers;
            apikey_model $arg_model;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /orders/ {
            apikey_service orders;
            apikey_request off;
            apikey_usage off;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

my $n = $t->nginx(workers => 2, server => $server)->start;
my $b = $t->nginx(name => 'b', server => $server)->start;

$t->sync;

my $file = $n->dir . '/said';


sub say_tokens {
    my ($input, $cached, $output) = @_;

    open my $f, '>', $file or die "$file: $!\n";
    print $f qq({"usage":{"prompt_tokens":$input,"completion_tokens":$output,)
        . qq("prompt_tokens_details":{"cached_tokens":$cached}}});
    close $f;
}


sub record {
    my ($r) = @_;

    my @row;

    wait_for('its record', sub {
        my ($row) = $pg->rows('SELECT cost, usage_source, price_version'
            . ' IS NOT NULL FROM apikey.usage_event'
            . " WHERE event = '$r->{headers}{'x-request-id'}'");
        @row = @{$row // []};
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @row;
}


sub ask {
    my ($model, %opt) = @_;

    return record($n->request('POST', $opt{path} // '/say/0/0',
        key => ($opt{as} // $key)->{key}, body => qq({"model":"$model"}),
        headers => [ 'X-Say' => $file, 'X-Say-Type' => 'application/json' ]));
}


sub last_version { return $pg->value('SELECT price_version
    FROM apikey.usage_event ORDER BY event DESC LIMIT 1') }


sub price {
    my ($status, $body, $name) = @_;

    my $r = $n->admin('POST', 'prices', body => $body);

    is($r->{status}, $status, $name);
    return json($r);
}


say_tokens(6074, 3456, 285);

is(ask('gpt-4o'), 'null provider f', 'without a price nobody knows the cost');

my $first = price(201, { model => 'gpt-4o', input_per_1m => '2.50',
    output_per_1m => '15', cached_per_1m => '0.25' }, 'a price is made');

is_deeply({ map { $_ => $first->{$_} } grep { !/^(id|created_at|valid_from)$/ }
            keys %$first },
          { service => undef, model => 'gpt-4o', plan => undef,
            currency => 'USD', input_per_1m => '2.50',
            output_per_1m => '15.00', cached_per_1m => '0.25',
            per_request => '0.00' }, 'it is shown');

is(ask('gpt-4o'), '11684000 provider t', 'exact to the nano-unit');
is(ask('gpt-4'), 'null provider f', 'not for another model');

is($pg->value("SELECT count(DISTINCT e.price_version) || ' ' || count(p.id)
    FROM apikey.usage_event e JOIN apikey.price p
        ON p.version = e.price_version"), '1 1', 'the record says which price');

$t->sync;

wait_for('the other node to know it', sub {
    record($b->request('POST', '/say/0/0', key => $key->{key},
        body => '{"model":"gpt-4o"}', headers => [ 'X-Say' => $file,
            'X-Say-Type' => 'application/json' ])) eq '11684000 provider t';
});

subtest 'the most specific one' => sub {
    say_tokens(1_000_000, 0, 0);

    price(201, { model => 'gpt-*', input_per_1m => '1' }, 'a pattern');
    is(ask('gpt-5'), '1000000000 provider t', 'of a model');
    is(ask('gpt-4o'), '2500000000 provider t', 'not in place of a name');

    price(201, { model => 'gpt-5*', input_per_1m => '2' }, 'a longer one');
    is(ask('gpt-5-mini'), '2000000000 provider t', 'comes first');

    price(201, { input_per_1m => '9' }, 'one of all');
    is(ask('o1'), '9000000000 provider t', 'comes last');

    price(201, { service => 'chat', model => 'o1', input_per_1m => '8' },
          'one of a service');
    is(ask('o1'), '8000000000 provider t', 'comes before');

    price(201, { plan => 'pro', input_per_1m => '0.5' }, 'one of a plan');
    is(ask('o1', as => $pro), '500000000 provider t', 'comes first of all');
    is(ask('o1'), '8000000000 provider t', 'for its keys only');
};


subtest 'versions' => sub {
    price(201, { model => 'v', input_per_1m => '1',
                 valid_from => '2026-01-01T00:00:00Z' }, 'one of long ago');
    price(201, { model => 'v', input_per_1m => '3',
                 valid_from => '2099-01-01T00:00:00Z' }, 'one of the future');
    is(ask('v'), '1000000000 provider t', 'what holds now');

    my $p = price(201, { model => 'v', input_per_1m => '2' }, 'a newer one');
    is(ask('v'), '2000000000 provider t', 'takes its place');

    my $version = last_version();

    my $r = $n->admin('PATCH', "prices/$p->{id}",
                      body => { input_per_1m => '2.000000001' });
    is($r->{status}, 200, 'changed');
    is(json($r)->{input_per_1m}, '2.000000001', 'it is shown');
    is(ask('v'), '2000000001 provider t', 'it is in force');

    my $changed = last_version();
    is($r->{headers}{etag}, qq("$changed"), 'its ETag is its version');

    $r = $n->admin('PATCH', "prices/$p->{id}", body => {
        map { $_ => undef } qw(input_per_1m output_per_1m cached_per_1m
            per_request) });
    is("$r->{status} " . (json($r)->{errors}[0]{code} // ''), '400 required',
       'nothing is no price, changed or new');

    is($n->admin('DELETE', "prices/$p->{id}")->{status}, 204, 'deleted');
    is(ask('v'), '1000000000 provider t', 'the one before holds again');
    is($n->admin('GET', "prices/$p->{id}")->{status}, 404, 'it is gone');

    is_deeply(json($n->admin('GET', "prices?version=$version"))->{data},
              [ $p ], 'what a record names can be looked up');
    is_deeply(json($n->admin('GET', "prices?version=$version&model=w"))
              ->{data}, [], 'filters hold');
    is_deeply([ map { $_->{input_per_1m} } @{json($n->admin('GET',
                  "prices?version=$changed"))->{data}} ], [ '2.000000001' ],
              'so can what took its place');
    is_deeply(json($n->admin('GET', 'prices?version=1'))->{data}, [],
              'there is none');
    is($n->admin('GET', 'prices?version=x')->{status}, 400, 'no version');
    eval { $pg->run('DELETE FROM apikey.price_history') };
    like($@, qr/price_history is never changed/, 'they stay');

    is($pg->value("SELECT count(*) FROM apikey.audit
        WHERE object_kind = 'price' AND object_id = '$p->{id}'"), 3,
       'all of it is in the audit log');
};


subtest 'where else tokens come from' => sub {
    my $r = $n->get('/headers/set/X-Usage-Input-Tokens/1000000?model=gpt-4o',
                    key => $key->{key});
    is(record($r), '2500000000 header t', 'headers');

    $r = $n->get('/headers/set/X-Usage-Input-Tokens/1000000'
                 . '/set/X-Usage-Cost/0.5?model=gpt-4o', key => $key->{key});
    is(record($r), '500000000 header f', 'an upstream that knows the cost');

    price(201, { service => 'orders', per_request => '0.001' },
          'a price a request');
    is(record($n->get('/orders/', key => $key->{key})), '1000000 none t',
       'without tokens');
    is(record($n->get('/orders/status/500', key => $key->{key})), '0 none f',
       'not of an error');
    is(ask('gpt-4o', path => '/status/500'), '0 none f', 'nor here');
};


subtest 'wrong prices' => sub {
    my @some = (per_request => '1');

    for ([ { input_per_1m => 2.5 }, '/input_per_1m', 'bad_type' ],
         [ { output_per_1m => '-1' }, '/output_per_1m', 'out_of_range' ],
         [ { cached_per_1m => 'x' }, '/cached_per_1m', 'bad_value' ],
         [ { per_request => '9000001' }, '/per_request', 'out_of_range' ],
         [ { plan => 'none', @some }, '/plan', 'not_found' ],
         [ { model => '', @some }, '/model', 'bad_length' ],
         [ { valid_from => 'soon', @some }, '/valid_from', 'bad_value' ],
         [ { prize => '1', @some }, '/prize', 'unknown' ],
         [ { currency => 'EUR', @some }, '/currency', 'read_only' ],
         [ {}, '/input_per_1m', 'required' ],
         [ { model => 'x', input_per_1m => undef }, '/input_per_1m',
           'required' ])
    {
        my ($body, $at, $code) = @$_;
        my $e = price(400, $body, "$at $code");

        is(join(' ', map { "$_->{location} $_->{code}" } @{$e->{errors}}),
           "$at $code", 'is named');
    }

    is($n->admin('POST', 'prices', body => {}, as => $key->{key})->{status},
       403, 'a key may not');
};


subtest 'lists' => sub {
    my (@seen, $cursor);

    do {
        my $r = json($n->admin('GET', 'prices?limit=3'
                               . ($cursor ? "&cursor=$cursor" : '')));
        push @seen, map { $_->{id} } @{$r->{data}};
        $cursor = $r->{next_cursor};
    } while ($cursor);

    is(scalar @seen, $pg->value('SELECT count(*) FROM apikey.price
                                 WHERE deleted_at IS NULL'), 'all of them');
    is_deeply([ sort @seen ], \@seen, 'in order, once');
    is(scalar @{json($n->admin('GET', 'prices?model=v'))->{data}}, 2,
       'of a model');
};


subtest 'models' => sub {
    my $r = $n->admin('PUT', 'models/gpt-4o', body => {
        name => 'GPT-4o', capabilities => [ 'chat', 'vision' ],
        context_length => 128000 });

    is($r->{status}, 201, 'made');
    like($r->{headers}{location}, qr{/models/gpt-4o$}, 'there');

    my $m = json($n->admin('GET', 'models', as => $key->{key}))->{data};

    is(join(' ', sort keys %{$m->[0]}),
       'capabilities context_length id name pricing', 'its members');
    is_deeply([ map { [ @$_{qw(id name capabilities context_length pricing)} ] }
                @$m ],
              [ [ 'gpt-4o', 'GPT-4o', [ 'chat', 'vision' ], 128000,
                  { currency => 'USD', input_per_1m => '2.50',
                    output_per_1m => '15.00', cached_per_1m => '0.25',
                    per_request => '0.00' } ] ], 'a key sees it');
    is(json($n->admin('GET', 'models/gpt-4o', as => $pro->{key}))
           ->{pricing}{input_per_1m}, '0.50', 'with what it costs on its plan');

    is($n->admin('PATCH', 'models/gpt-4o', body => { context_length => undef })
           ->{status}, 200, 'changed');
    is(json($n->admin('GET', 'models/gpt-4o'))->{context_length}, undef,
       'cleared');
    is($n->admin('PUT', 'models/x', body => { context_length => 1.5 })
           ->{status}, 400, 'half a token');
    is($n->admin('DELETE', 'models/gpt-4o')->{status}, 204, 'deleted');
    is($n->admin('GET', 'models/gpt-4o')->{status}, 404, 'gone');
};


subtest 'a restart without Postgres' => sub {
    say_tokens(1_000_000, 0, 0);
    $n->stop;
    $pg->stop;
    $n->start(wait => 0);

    my $r;

    wait_for('a known key', sub {
        $r = $n->request('POST', '/say/0/0', key => $key->{key},
            body => '{"model":"gpt-4o"}', headers => [ 'X-Say' => $file,
                'X-Say-Type' => 'application/json' ]);
        return $r->{status} == 200;
    });

    $pg->start;
    is(record($r), '2500000000 provider t', 'the saved copy has the prices');
};

$t->allow(qr/Postgres|journal|keyring/i);
$t->done;
