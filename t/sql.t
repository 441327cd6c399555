#!/usr/bin/perl

# The admin API's functions, called as the module calls them: shapes, every
# check, rights, audit, odd values.  t/sql_list.t has lists and usage.

use strict;
use warnings;
use utf8;

use Test::More;
use JSON::PP ();

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %read = (%Apikey::Api::operator, name => 'watch', role => 'read');

sub create { return $api->call('key_create', body => { name => 'k', @_ }) }

sub counted {
    return $pg->value(q{SELECT concat_ws(' ',
        (SELECT count(*) FROM apikey.key),
        (SELECT count(*) FROM apikey.owner),
        (SELECT count(*) FROM apikey.limit_rule),
        (SELECT count(*) FROM apikey.secret),
        (SELECT count(*) FROM apikey.audit))});
}

sub wrong { return $api->is_wrong(@_) }
sub problem { return $api->is_problem(@_) }


# create: the shape and its order

my $r = $api->call('key_create', body => {
    name => 'Production server', owner => 'user_42', customer => 'c 1',
    prefix => 'sk_live', scopes => [ 'orders:read', 'workflow:*' ],
    allowed_ips => [ '203.0.113.9/24', '2001:DB8::/32', '198.51.100.7',
                     '::ffff:10.1.2.3', '::ffff:10.0.0.0/104' ],
    limits => [ { name => 'hourly', unit => 'requests', limit => 1000,
                  window => '1h' },
                { name => 'burst', unit => 'requests', limit => 50,
                  window => '1s', burst => 100, service => 'chat',
                  rolling => $false, mode => undef } ],
    plan => undef, credits => undef, allowed_models => undef,
    metadata => { team => 'search' },
    expires_at => '2099-01-01T01:00:00.123456+01:00', enabled => $true });
my $key = $r->{json};
my $id = $key->{id};

is($r->{status}, 201, 'a key is made');
is($r->{headers}{Location}, "/api/v1/api-keys/$id", 'Location');
like($r->{headers}{ETag}, qr/^"\d+"$/, 'ETag');
is($r->{prefix}, 'sk_live', 'the prefix is asked for');
like($r->{body}, qr/^\{"id":"[0-9a-f-]{36}","key":"\@SECRET\@","name":/,
     'the key\'s place is right after the id');
is(join(' ', $r->{body} =~ /[{,]"([a-z_0-9]+)":/g),
   'id key name owner customer plan prefix start last4 masked status enabled'
   . ' scopes allowed_models allowed_ips limits'
   . ' name unit limit window burst rolling model service mode' x 2
   . ' credits currency metadata team usage_count last_used_at created_at'
   . ' updated_at expires_at revoked_at secrets'
   . ' id start last4 state created_at expires_at last_used_at',
   'all members in the order of the documentation')
    or diag($r->{body});
is_deeply($key->{allowed_ips}, [ '203.0.113.0/24', '2001:db8::/32',
                                 '198.51.100.7/32', '10.1.2.3/32',
                                 '10.0.0.0/8' ], 'networks are canonical');
is_deeply($key->{limits},
          [ { name => 'hourly', unit => 'requests', limit => 1000,
              window => '1h', burst => 1000, rolling => $false,
              model => undef, service => undef, mode => undef },
            { name => 'burst', unit => 'requests', limit => 50,
              window => '1s', burst => 100, rolling => $false,
              model => undef, service => 'chat', mode => undef } ],
          'limits');
is($key->{expires_at}, '2099-01-01T00:00:00.123Z', 'a time in UTC, with ms');
is($key->{masked}, 'sk_live_abcd...wxyz', 'masked');
is($key->{status}, 'active', 'status');
is_deeply([ @$key{qw(plan credits allowed_models last_used_at revoked_at)} ],
          [ (undef) x 5 ], 'nulls');
is($key->{secrets}[0]{state}, 'current', 'one secret, current');
is("@{$r->{refresh}}", join(' ', map { "$_->[0] $_->[1]" } [ owner =>
   $pg->value(q{SELECT id FROM apikey.owner WHERE external = 'user_42'}) ],
   [ key => $id ]), 'key and new owner are to be refreshed');
is($pg->value("SELECT encode(digest, 'hex') FROM apikey.secret"),
   $api->{last_secret}{digest}, 'the digest is stored');

$r = create();
is_deeply({ map { $_ => $r->{json}{$_} } qw(owner customer scopes allowed_ips
            limits metadata expires_at enabled prefix usage_count) },
          { owner => undef, customer => undef, scopes => [],
            allowed_ips => undef, limits => [], metadata => {},
            expires_at => undef, enabled => $true, prefix => 'sk',
            usage_count => 0 }, 'only a name is needed');
is_deeply($r->{refresh}, [ "key $r->{json}{id}" ], 'without owner');
$r = create(allowed_ips => [], metadata => undef, limits => undef,
            scopes => undef, prefix => undef);
is($r->{status}, 201, 'null is the default');
is_deeply($r->{json}{allowed_ips}, [], '[] is none');


# what is wrong, all at once, and nothing is stored

my $before = counted();

wrong($api->call('key_create', body => {}), [ '/name required' ], 'no name');
wrong($api->call('key_create', body => {
    name => '', owner => "a\nb", customer => 7, plan => 'pro',
    prefix => 'Sk', scopes => [ 'a b', 'ok', '', 3 ],
    allowed_models => [ 'gpt', '' ], allowed_ips => [ '1.2.3', '::1' ],
    limits => [ { name => 'x', unit => 'requests', limit => -1,
                  window => '1 hour' } ],
    credits => {}, metadata => [], expires_at => '2001-01-01T00:00:00Z',
    enabled => 'yes', id => 'x', whatever => 1, 'a/b~c' => 1 },
    query => { x => 1, y => [ 1, 2 ] }, once => 'i' x 256),
    [ 'header:Idempotency-Key bad_length', 'query:x unknown',
      'query:y unknown', '/name bad_length', '/owner bad_value',
      '/customer bad_type', '/plan not_found', '/prefix bad_value',
      '/scopes/0 bad_value', '/scopes/2 bad_length', '/scopes/3 bad_type',
      '/allowed_models/1 bad_length', '/allowed_ips/0 bad_value',
      '/limits/0/limit out_of_range', '/limits/0/window bad_value',
      '/credits/unit required', '/credits/remaining required',
      '/metadata bad_type',
      '/expires_at out_of_range', '/enabled bad_type', '/id read_only',
      '/whatever unknown', '/a~1b~0c unknown' ], 'everything wrong');

for my $case (
    [ '{"name":null}', '/name required' ],
    [ '{"name":1}', '/name bad_type' ],
    [ '{"name":"' . 'é' x 255 . '"}', undef ],
    [ '{"name":"' . 'é' x 256 . '"}', '/name bad_length' ],
    [ '{"name":"a\u0007"}', '/name bad_value' ],
    [ '{"name":"a","name":"b"}', '/name duplicate' ],
    [ '{"name":"a","n\u0061me":"b"}', '/name duplicate' ],
    [ '{"name":"a","metadata":{"x":1,"x":1}}', '/metadata/x duplicate' ],
    [ '{"name":"a","metadata":{"x" :1, "x"' . "\n" . ':2}}',
      '/metadata/x duplicate' ],
    [ '{"name":"a","metadata":{"x\\\\":1,"x\\\\":2}}',
      '/metadata/x\\ duplicate' ],
    [ '{"name":"a","metadata":{"x":1,"y":"\u003a","x":2}}',
      '/metadata/x duplicate' ],
    [ '{"name":"a","metadata":{"\"":1,"\u0022":2}}',
      '/metadata/" duplicate' ],
    [ '{"name":"a","metadata":{"a/b":[{},{"~":{"c":1,"c":2}}]}}',
      '/metadata/a~1b/1/~0/c duplicate' ],
    [ '{"name":"a","metadata":{"a":{"b":1},"a":{"b":2}}}',
      '/metadata/a duplicate' ],
    [ '{"name":"a","name":"b","metadata":{"a":1,"a":2,"a":3}}',
      '/metadata/a duplicate', '/name duplicate' ],
    [ '{"name":"a","limits":[{"name":"x","name":"y","unit":"requests",'
      . '"limit":1,"window":"1h"}]}', '/limits/0/name duplicate' ],
    [ '{"name":"a","metadata":' . '{"a":' x 200 . '{"b":1,"b":2}'
      . '}' x 201, ' out_of_range' ],
    [ '{"name":"a","metadata":' . '{"a":' x 200 . '{"b":1}' . '}' x 201,
      undef ],
    [ '{"name":"a","metadata":{"x":"\":","y":"\\\\","z":":","":" : ",'
      . '":":["\\\\\":","\u003a"],"\u005c":{"x":1},"v":[{"x":1},{"x":2}]}}',
      undef ],
    [ '{"name":"a","prefix":""}', '/prefix bad_length' ],
    [ '{"name":"a","prefix":"' . 'x' x 17 . '"}', '/prefix bad_length' ],
    [ '{"name":"a","prefix":"' . 'x' x 16 . '"}', undef ],
    [ '{"name":"a","prefix":7}', '/prefix bad_type' ],
    [ '{"name":"a","scopes":"all"}', '/scopes bad_type' ],
    [ '{"name":"a","scopes":[' . join(',', ('"s"') x 1001) . ']}',
      '/scopes too_many' ],
    [ '{"name":"a","scopes":["' . 's' x 128 . '"]}', undef ],
    [ '{"name":"a","scopes":["' . 's' x 129 . '"]}', '/scopes/0 bad_length' ],
    [ '{"name":"a","allowed_ips":{}}', '/allowed_ips bad_type' ],
    [ '{"name":"a","allowed_ips":["1.2.3.4/33","::/129","1.2.3.4.5","010.1.1.1'
      . '","","/8","a.b",5]}', map { "/allowed_ips/$_ bad_value" } 0 .. 6 ],
    [ '{"name":"a","metadata":{"x":"' . 'y' x 8181 . '"}}', undef ],
    [ '{"name":"a","metadata":{"x":"' . 'y' x 8192 . '"}}',
      '/metadata bad_length' ],
    [ '{"name":"a","metadata":{"x":1e9000}}', '/metadata bad_length' ],
    [ '{"name":"a","metadata":{"x":["' . 'y' x 8182 . '"]}}', undef ],
    [ '{"name":"a","metadata":{"x":["' . 'y' x 8183 . '"]}}',
      '/metadata bad_length' ],
    [ '{"name":"a","metadata":{"x":[' . join(', ', (1) x 4092) . ']}}',
      undef ],
    [ '{"name":"a","metadata":{"x":[' . join(', ', (1) x 4093) . ']}}',
      '/metadata bad_length' ],
    [ '{"name":"a","metadata":{"x":"' . ', ' x 4092 . '"}}', undef ],
    [ '{"name":"a","metadata":{"x":"' . '\" ' x 2728 . '"}}', undef ],
    [ '{"name":"a","metadata":{"x":"' . '\" ' x 2729 . '"}}',
      '/metadata bad_length' ],
    [ '{"name":"a","expires_at":5}', '/expires_at bad_type' ],
    [ '{"name":"a","expires_at":"tomorrow"}', '/expires_at bad_value' ],
    [ '{"name":"a","expires_at":"infinity"}', '/expires_at bad_value' ],
    [ '{"name":"a","expires_at":"2099-02-30"}', '/expires_at bad_value' ],
    [ '{"name":"a","expires_at":"2099-02-03T04:05:06"}',
      '/expires_at bad_value' ],
    [ '{"name":"a","expires_at":"2099-02-03T04:05:06.1234567Z"}',
      '/expires_at bad_value' ],
    [ '{"name":"a","expires_at":"2099-02-03"}', undef ],
    [ '{"name":"a","enabled":null}', '/enabled bad_type' ],
    [ '{"name":"a","enabled":1}', '/enabled bad_type' ])
{
    my ($body, @errors) = @$case;
    my $r = $api->call('key_create', body => $body);
    my $name = length $body > 70 ? substr($body, 0, 60) . '...' : $body;

    if (defined $errors[0]) {
        push @errors, '/allowed_ips/7 bad_type' if $errors[0] =~ /ips.0/;
        wrong($r, \@errors, $name);
    } else {
        is($r->{status}, 201, "$name: good");
        $before = counted();
    }
}

for my $case (
    [ '' => [ ' required' ] ], [ ' ' => [ ' required' ] ],
    [ 'null' => [ ' required' ] ], [ '[]' => [ ' bad_type' ] ],
    [ '"x"' => [ ' bad_type' ] ], [ '{' => [ ' bad_value' ] ],
    [ '{"name":"a",}' => [ ' bad_value' ] ],
    [ '{"name":"a\u0000"}' => [ ' out_of_range' ] ],
    [ '{"name":"\ud800"}' => [ ' bad_value' ] ],
    [ '{"name":' . '[' x 100000 . ']' x 100000 . '}' => [ ' out_of_range' ] ],
    [ '{"name":1e400000}' => [ ' out_of_range' ] ])
{
    my ($body, $errors) = @$case;
    wrong($api->call('key_create', body => $body), $errors,
          'body ' . substr $body, 0, 30);
}

problem($api->call('key_create', body => { name => 'a' },
                   req => { query => { x => [ "a\0b" ] } }),
        400, 'invalid_request', 'NUL in a query string');


# limits

for my $case (
    [ '[]', [] ], [ '7', [ ' bad_type' ] ], [ '[7]', [ '/0 bad_type' ] ],
    [ '[{}]', [ '/0/name required', '/0/unit required', '/0/limit required',
                '/0/window required' ] ],
    [ { limit => '12' }, [ '/0/limit bad_type' ] ],
    [ '"limit":1.5', [ '/0/limit bad_value' ] ],
    [ '"limit":1e3', [] ], [ '"limit":10.0', [] ],
    [ '"limit":-1', [ '/0/limit out_of_range' ] ],
    [ '"limit":1e400', [ '/0/limit out_of_range' ] ],
    [ '"limit":1' . '0' x 30, [ '/0/limit out_of_range' ] ],
    [ '"limit":9007199254740992', [ '/0/limit out_of_range' ] ],
    [ '"limit":9007199254740991', [ '/0/limit out_of_range' ] ],
    [ '"limit":0', [] ], [ '"limit":0,"burst":0', [] ],
    [ '"limit":0,"burst":1', [ '/0/burst out_of_range' ] ],
    [ '"burst":0', [ '/0/burst out_of_range' ] ],
    [ '"burst":-1', [ '/0/burst out_of_range' ] ],
    [ '"burst":"9"', [ '/0/burst bad_type' ] ],
    [ '"burst":9007199254740991', [ '/0/burst out_of_range' ] ],
    [ '"burst":null,"rolling":null,"model":null,"service":null,"mode":null',
      [] ],
    [ '"limit":999983,"window":"31d"', [] ],
    [ '"limit":9999999967,"window":"31d"', [ '/0/limit out_of_range' ] ],
    [ '"window":"1s"', [] ], [ '"window":"1500ms"', [] ],
    [ '"window":"999ms"', [ '/0/window out_of_range' ] ],
    [ '"window":"32d"', [ '/0/window out_of_range' ] ],
    [ '"window":"999999999999d"', [ '/0/window out_of_range' ] ],
    [ '"window":"0s"', [ '/0/window out_of_range' ] ],
    [ '"window":"01h"', [ '/0/window bad_value' ] ],
    [ '"window":3600', [ '/0/window bad_type' ] ],
    [ '"window":"month"', [] ], [ '"window":"total"', [] ],
    [ '"unit":"tokens"', [] ], [ '"unit":"cost","limit":"50.00"', [] ],
    [ '"unit":"concurrent","window":null', [] ],
    [ '"unit":"bytes"', [ '/0/unit bad_value' ] ],
    [ '"unit":["requests"]', [ '/0/unit bad_type' ] ],
    [ '"rolling":true', [] ],
    [ '"model":"gpt-*"', [] ], [ '"model":""', [ '/0/model bad_length' ] ],
    [ '"mode":"strict"', [ '/0/mode bad_value' ] ],
    [ '"service":""', [ '/0/service bad_length' ] ],
    [ '"service":"a\tb"', [ '/0/service bad_value' ] ],
    [ '"name":"' . 'n' x 65 . '"', [ '/0/name bad_length' ] ],
    [ '"name":"a\tb"', [ '/0/name bad_value' ] ],
    [ '"name":"ünï"', [] ],
    [ '"used":3', [ '/0/used unknown' ] ])
{
    my ($limits, $errors) = @$case;

    if (ref $limits) {
        $limits = join ',', map { qq("$_":"$limits->{$_}") } keys %$limits;
    }

    if ($limits =~ /^"/) {
        my %given = map { $_ => 1 } $limits =~ /"(\w+)":/g;
        my %all = (name => '"n"', unit => '"requests"', limit => 10,
                   window => '"1h"');
        $limits = '[{' . join(',', $limits, map { qq("$_":$all{$_}) }
                              grep { !$given{$_} } sort keys %all) . '}]';
    }

    my $r = $api->call('owner_put', id => 'limits',
                       body => qq({"limits":$limits}));

    if (@$errors) {
        s{^(/\S*)?}{'/limits' . ($1 // '')}e for @$errors;
        wrong($r, $errors, "limits $limits");
    } else {
        like($r->{status}, qr/^20[01]$/, "limits $limits: good")
            or diag($r->{body});
    }
}

my @fifty = map { { name => "n$_", unit => 'requests', limit => 1,
                    window => '1h' } } 1 .. 51;

wrong(create(limits => \@fifty), [ '/limits too_many' ], '51 limits');
pop @fifty;
is(scalar @{create(limits => \@fifty)->{json}{limits}}, 50, '50 limits');
$fifty[7]{name} = 'n3';
wrong(create(limits => \@fifty), [ '/limits/7/name duplicate' ],
      'two of one name');


# read, change

$r = $api->call('key_get', id => $id);
is($r->{status}, 200, 'a key is read');
unlike($r->{body}, qr/"key"/, 'without a key');
my $etag = $r->{headers}{ETag};

for my $other ('01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60', 'x', "' OR 1=1",
               uc $id . 'x')
{
    for my $fn (qw(key_get key_update key_revoke key_rotate key_usage)) {
        problem($api->call($fn, id => $other, body => {}), 404, 'not_found',
                "$fn of $other");
    }
}

$r = $api->call('key_update', id => $id, body => '{}');
is("$r->{status} $r->{headers}{ETag}", "200 $etag", 'an empty change is none');
is_deeply($r->{refresh}, [], 'and refreshes nothing');

$r = $api->call('key_update', id => $id, match => $etag, body => {
    name => 'Production (EU)', expires_at => undef, customer => undef,
    metadata => { team => undef, region => 'eu' },
    limits => [ { name => 'hourly', unit => 'requests', limit => 2000,
                  window => '1h' } ] });
is($r->{status}, 200, 'a key is changed');
is_deeply([ @{$r->{json}}{qw(name expires_at customer metadata owner)} ],
          [ 'Production (EU)', undef, undef, { region => 'eu' }, 'user_42' ],
          'null clears, metadata is merged, absent keeps');
is(join(' ', map { "$_->{name} $_->{limit}" } @{$r->{json}{limits}}),
   'hourly 2000', 'limits are replaced whole');
isnt($r->{headers}{ETag}, $etag, 'another ETag');
is_deeply($r->{refresh}, [ "key $id" ], 'and is to be refreshed');
is($r->{json}{created_at}, $key->{created_at}, 'created_at stays');

problem($api->call('key_update', id => $id, match => $etag,
                   body => { name => 'x' }),
        412, 'precondition_failed', 'the old ETag');
is($api->call('key_update', id => $id, body => { name => 'x' },
              match => "W/$r->{headers}{ETag}, \"y\"")->{status}, 200,
   'one of several, weakened by gzip');
is($api->call('key_update', id => $id, match => '*', body => { name => 'y' })
   ->{status}, 200, 'If-Match: *');
wrong($api->call('key_update', id => $id, body => {
    owner => 'x', prefix => 'y', name => undef, status => 'active',
    plan => 'x' }), [ '/owner read_only', '/prefix read_only',
    '/name required', '/status read_only', '/plan not_found' ],
    'what cannot be changed');
wrong($api->call('key_update', id => $id, body => { metadata => {
    more => 'y' x 8185 } }), [ '/metadata bad_length' ],
    'metadata together over 8 KiB');

$api->call('plan_put', id => 'gold', body => {});
$r = $api->call('key_update', id => $id, body => {
    plan => 'gold', allowed_models => [ 'gpt-4o*', 'a b' ] });
is_deeply([ @{$r->{json}}{qw(plan allowed_models)} ],
          [ 'gold', [ 'gpt-4o*', 'a b' ] ], 'a plan, and models');
$r = $api->call('key_update', id => $id, body => {
    plan => undef, allowed_models => [] });
is_deeply([ @{$r->{json}}{qw(plan allowed_models)} ], [ undef, [] ],
          'no plan, no models');
$r = create(plan => 'gold', allowed_models => [ '*' ]);
is_deeply([ @{$r->{json}}{qw(plan allowed_models)} ], [ 'gold', [ '*' ] ],
          'from the start');
wrong($api->call('key_update', id => $id, body => {
    plan => 7, allowed_models => [ 'x', 7, "a\nb" ] }),
    [ '/plan bad_type', '/allowed_models/1 bad_type',
      '/allowed_models/2 bad_value' ], 'wrong ones');

$r = $api->call('key_update', id => $id, body => { enabled => $false });
is($r->{json}{status}, 'disabled', 'disabled');
$api->call('key_update', id => $id, body => { enabled => $true });


# rotate

my $one = $api->call('key_get', id => $id)->{json}{secrets}[0]{id};
my $expiry = '2099-01-01T00:00:00.000Z';

wrong($api->call('key_rotate', id => $id, body => { grace => '1 hour',
      key => 'x' }), [ '/grace bad_value', '/key unknown' ], 'a wrong grace');
wrong($api->call('key_rotate', id => $id, body => { grace => 60 }),
      [ '/grace bad_type' ], 'a grace in seconds');
wrong($api->call('key_rotate', id => $id, body => { grace => '367d' }),
      [ '/grace out_of_range' ], 'a grace of over a year');

$r = $api->call('key_rotate', id => $id, body => { grace => '1h' });
is("$r->{status} $r->{prefix}", '200 sk_live', 'rotated, with its prefix');
like($r->{body}, qr/^\{"id":"$id","key":"\@SECRET\@",/, 'a place for the key');
is(join(' ', map { $_->{state} } @{$r->{json}{secrets}}), 'current grace',
   'the old one is in its grace');
is($r->{json}{secrets}[1]{id}, $one, 'newest first');

my $left = $pg->value("SELECT extract(epoch FROM expires_at - now())"
                      . " FROM apikey.secret WHERE id = '$one'");
ok($left > 3500 && $left <= 3600, 'for an hour');

$r = $api->call('key_rotate', id => $id, body => { grace => '1m' });
is(join(' ', map { $_->{state} } @{$r->{json}{secrets}}),
   'current grace grace', 'a second rotation');
ok($pg->value("SELECT expires_at <= now() + interval '1 min'"
              . " FROM apikey.secret WHERE id = '$one'") eq 't',
   'shortens an older grace');

$r = $api->call('key_rotate', id => $id);
is(join(' ', map { $_->{state} } @{$r->{json}{secrets}}),
   'current ended ended ended', 'without grace all older ones end');

# of two at once the one that waits may have begun first

$pg->run("UPDATE apikey.secret SET created_at = now() + interval '1 min'"
         . " WHERE key_id = '$id' AND ended_at IS NULL");
$r = $api->call('key_rotate', id => $id);
is($r->{json}{secrets}[0]{id}, $api->{last_secret}{id},
   'what was made last is the current one');
is(join(' ', map { $_->{state} } @{$r->{json}{secrets}}),
   'current ended ended ended ended', 'and the other has ended');

$api->call('key_update', id => $id, body => { expires_at => $expiry });
$pg->run("UPDATE apikey.key SET expires_at = now() + interval '10 min'"
         . " WHERE id = '$id'");
$r = $api->call('key_rotate', id => $id, body => { grace => '1h' });
is($r->{json}{secrets}[1]{expires_at}, $r->{json}{expires_at},
   'a grace ends with the key');
$pg->run("UPDATE apikey.secret SET expires_at = now() + interval '9 min'"
         . " WHERE expires_at IS NOT NULL AND ended_at IS NULL");
my $soon = $pg->value("SELECT apikey.time_text(now() + interval '5 min')");
$r = $api->call('key_update', id => $id, body => { expires_at => $soon });
is($r->{json}{secrets}[1]{expires_at}, $soon, 'also when it is shortened');


# revoke

$r = $api->call('key_revoke', id => $id);
is("$r->{status}|$r->{body}", '204|', 'revoked');
is_deeply($r->{refresh}, [ "key $id" ], 'and to be refreshed');
is($api->call('key_revoke', id => $id)->{status}, 204, 'also a second time');
$r = $api->call('key_get', id => $id)->{json};
is($r->{status}, 'revoked', 'it stays readable');
like($r->{revoked_at}, qr/^20\d\d-.*\.\d{3}Z$/, 'with the time');
is($r->{start}, 'sk_live_abcd', 'and what it looked like');
ok(!grep({ $_->{state} ne 'ended' } @{$r->{secrets}}), 'all secrets ended');
problem($api->call('key_update', id => $id, body => { name => 'z' }),
        409, 'revoked', 'it cannot be changed');
problem($api->call('key_rotate', id => $id), 409, 'revoked', 'nor rotated');


# owners

$r = $api->call('owner_put', id => 'Ada / Ltd é', body => { name => 'Ada' });
is($r->{status}, 201, 'an owner is made');
is($r->{headers}{Location}, '/api/v1/owners/Ada%20%2F%20Ltd%20%C3%A9',
   'Location');
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g),
   'id name enabled plan plan_next limits credits time_zone anchor_day'
   . ' metadata created_at updated_at', 'the shape');
like("@{$r->{refresh}}", qr/^owner [0-9a-f-]{36}$/, 'to be refreshed');

$r = $api->call('owner_put', id => 'Ada / Ltd é', body => {
    enabled => $false, time_zone => 'UTC', anchor_day => 1, plan => undef });
is("$r->{status} $r->{json}{name}", '200 Ada', 'PUT keeps what is absent');
ok(!$r->{json}{enabled}, 'and changes the rest');
is($api->call('owner_update', id => 'Ada / Ltd é',
              body => { name => undef })->{json}{name}, undef, 'PATCH');
problem($api->call('owner_update', id => 'nobody', body => {}),
        404, 'not_found', 'PATCH makes none');
problem($api->call('owner_get', id => 'nobody'), 404, 'not_found', 'nor GET');
problem($api->call('owner_put', id => 'nobody', body => {}, match => $_),
        412, 'precondition_failed', "nor PUT with If-Match: $_")
    for '"1"', '"-1"', '*';
wrong($api->call('owner_put', id => 'x' x 256, body => {
    time_zone => 'Europe/Berlin', anchor_day => 15, plan => 'pro',
    credits => {}, id => 'x', name => 7 }),
    [ '/id bad_length', '/id read_only', '/plan not_found',
      '/credits/unit required', '/credits/remaining required',
      '/name bad_type' ], 'a wrong owner');
is($api->call('owner_list', query => { q => 'LTD' })->{json}{data}[0]{id},
   'Ada / Ltd é', 'found by what is in its id');


# rights

my $mine = create(owner => 'me', name => 'mine')->{json};
my $yours = create(owner => 'you', name => 'yours')->{json};
my %key = (kind => 'key', key => $mine->{id}, name => 'mine', scopes => '',
           address => '192.0.2.1', owner => $pg->value(
               q{SELECT id FROM apikey.owner WHERE external = 'me'}));

$before = counted();

for my $fn (qw(key_create key_update key_revoke key_rotate owner_put
               owner_update))
{
    problem($api->call($fn, id => $mine->{id}, as => \%read,
                       body => { name => 'x' }),
            403, 'forbidden', "$fn with role=read");
    problem($api->call($fn, id => $mine->{id}, as => \%key,
                       body => { name => 'x' }),
            403, 'forbidden', "$fn by a key");
}

problem($api->call($_, id => 'me', as => \%key), 403, 'forbidden',
        "$_ by a key") for qw(key_list owner_list owner_get);
is($api->call('key_get', id => $yours->{id}, as => \%read)->{status}, 200,
   'role=read reads');
is($api->call('key_get', id => $mine->{id}, as => \%key)->{json}{owner}, 'me',
   'a key reads itself');
problem($api->call($_, id => $yours->{id}, as => \%key), 404, 'not_found',
        "$_ of another's key") for qw(key_get key_usage);
problem($api->call('usage_summary', query => { key => $yours->{id} },
                   as => \%key), 404, 'not_found', 'nor its summary');
wrong($api->call('usage_summary', query => { owner => 'you' }, as => \%key),
      [ 'query:owner forbidden' ], 'nor its owner\'s');
problem($api->call('key_get', id => $mine->{id}, as => { kind => 'x' }),
        403, 'forbidden', 'nobody sees nothing');
problem($api->call('key_get', id => $mine->{id},
                   as => { %key, key => 'rubbish' }),
        400, 'invalid_request', 'nor a caller who is rubbish');
is(counted(), $before, 'nothing was stored');

problem($api->call($_), 503, 'schema_outdated', "there is no $_")
    for 'nothing', 'key_get(1,2); DROP TABLE x', 'Key_get', '';


# whoami

is_deeply($api->call('whoami')->{json},
          { caller => 'operator', operator => 'ops', owner => undef,
            scopes => [ '*' ], key => undef }, 'whoami of an operator');
$r = $api->call('whoami', as => \%key);
is(join(' ', @{$r->{json}}{qw(caller owner)}, $r->{json}{key}{id}),
   "key me $mine->{id}", 'whoami of a key');
like($r->{body},
     qr/^\{"caller":"key","operator":null,"owner":"me","scopes":\[\],"key":\{/,
     'in order');


# audit

my ($entry) = $pg->rows(qq{SELECT actor, actor_kind, address, action,
    object_kind, before ->> 'name', after ->> 'name', request_id IS NOT NULL
    FROM apikey.audit WHERE object_id = '$id' AND action = 'update'
    ORDER BY id LIMIT 1});
is_deeply($entry, [ 'ops', 'operator', '192.0.2.1', 'update', 'key',
                    'Production server', 'Production (EU)', 't' ],
          'who changed what, from where');
is($pg->value(qq{SELECT string_agg(action, ' ' ORDER BY id) FROM apikey.audit
                 WHERE object_id = '$id'}),
   'create update update update update update update update rotate rotate'
   . ' rotate rotate update'
   . ' rotate update revoke', 'an entry for each change');
is($pg->value(qq{SELECT count(*) FROM apikey.audit
    WHERE concat(before, after) LIKE '%$api->{last_secret}{digest}%'
        OR concat(before, after) LIKE '%SECRET%'}), 0,
   'no digest, no key in it');


# whatever comes in, the answer is never a 500 and nothing stays behind

$before = counted();
srand 42;

my @values = ('null', 'true', '0', '-1', '1e400', '1.5', '""', '"x"', '[]',
              '{}', '[null]', '[[]]', '[{}]', '{"a":{}}', '"\u0001"',
              '"2099-01-01"', '"*"', '"' . 'é' x 300 . '"', '[1e99999]');
my @names = (keys %$key, 'grace', 'time_zone', 'anchor_day', '', 'a"b');
my (%statuses, @odd);

for my $i (1 .. rounds_of_garbage()) {
    my $fn = (qw(key_create key_update key_rotate owner_put))[rand 4];
    my $body = '{' . join(',', map {
        JSON::PP->new->allow_nonref->encode($names[rand @names]) . ':'
            . $values[rand @values] } 1 .. 1 + rand 6) . '}';

    my $r = $api->once($fn, { %Apikey::Api::operator }, {
        request_id => Apikey::Api::uuid(), base => '/', path => {
            id => $fn =~ /owner/ ? "\x01" : $yours->{id} },
        query => {}, body => $body, key_prefix => 'sk', secret => undef,
        if_match => '"0"' });

    $statuses{$r->{status}}++;
    push @odd, "$fn $body: $r->{body}" if $r->{status} >= 500;
}

is("@odd", '', 'garbage: ' . join ', ', map { "$statuses{$_} x $_" }
                                        sort keys %statuses);
is(counted(), $before, 'and nothing was stored');

sub rounds_of_garbage { return Apikey::Test::rounds(150, 5000) }


# a lock that is held is "unavailable", not a wait for ever

{
    my $blocker = open my $psql, '|-', Apikey::Postgres::bindir() . '/psql',
        '-Xq', '-d', $pg->conninfo(user => 'postgres');
    die "psql: $!" unless $blocker;

    $psql->autoflush(1);
    print $psql "BEGIN; SELECT id FROM apikey.key WHERE id = '$yours->{id}'"
                . " FOR UPDATE \\gset x\n";
    Apikey::Test::wait_for('the lock', sub {
        $pg->value(q{SELECT count(*) FROM pg_locks
                     WHERE mode = 'RowShareLock'
                         AND relation = 'apikey.key'::regclass}) > 0;
    });

    problem($api->call('key_update', id => $yours->{id},
                       body => { name => 'locked' }),
            503, 'unavailable', 'a row that stays locked');
    print $psql "ROLLBACK;\n";
    close $psql;
}


$t->done;
