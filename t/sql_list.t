#!/usr/bin/perl

# Lists with their pages, and usage at a glance, as the admin API's functions
# give them.

use strict;
use warnings;
use utf8;

use Test::More;
use JSON::PP ();

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);

sub create { return $api->call('key_create', body => { name => 'k', @_ }) }
sub wrong { return $api->is_wrong(@_) }
sub problem { return $api->is_problem(@_) }

my $mine = create(owner => 'me', name => 'mine')->{json};
my $yours = create(owner => 'you', name => 'yours')->{json};
my $id = $yours->{id};
my %key = (kind => 'key', key => $mine->{id}, name => 'mine', scopes => '',
           address => '192.0.2.1', owner => $pg->value(
               q{SELECT id FROM apikey.owner WHERE external = 'me'}));


# lists

$pg->run(q{UPDATE apikey.key SET revoked_at = now() WHERE revoked_at IS NULL});

my @ids = map { create(name => "list $_", owner => 'lister',
                       customer => $_ % 2 ? 'Odd_%' : undef)->{json}{id} }
          1 .. 7;
$pg->run("UPDATE apikey.key_usage u SET requests = n, last_used_at = at"
         . " FROM (VALUES ('$ids[2]'::uuid, 9, now()),"
         . " ('$ids[5]', 3, now() - interval '1 h')) AS x (id, n, at)"
         . " WHERE key_id = id");
$pg->run("UPDATE apikey.key SET created_at = '2026-01-01'"
         . " WHERE id IN ('$ids[3]', '$ids[4]')");
$api->call('key_update', id => $ids[0], body => { enabled => $false });
$pg->run("UPDATE apikey.key SET expires_at = now() - interval '1 s'"
         . " WHERE id = '$ids[1]'");

sub listed {
    my (%query) = @_;
    my ($cursor, @all);

    for (1 .. 20) {
        my $r = $api->call('key_list', query => {
            %query, $cursor ? (cursor => $cursor) : () });
        die $r->{body} if $r->{status} != 200;

        push @all, map { $_->{id} } @{$r->{json}{data}};
        return \@all unless $r->{json}{has_more};
        $cursor = $r->{json}{next_cursor};
    }

    return [ 'it does not end' ];
}

sub these { return [ map { $ids[$_ - 1] } @_ ] }

my @same = sort @ids[3, 4];

for my $size (1, 2, 3, 100) {
    is_deeply(listed(limit => $size, sort => 'name'), \@ids,
              "by name, $size a page");
    is_deeply(listed(limit => $size), [ reverse(@ids[0, 1, 2, 5, 6])
              , reverse @same ], "newest first, $size a page");
    is_deeply(listed(limit => $size, sort => '-usage_count')->[0], $ids[2],
              "by use, $size a page");
    is_deeply([ sort @{listed(limit => $size, sort => 'last_used_at')} ],
              [ sort @ids ], "by last use, $size a page");
    is_deeply(listed(limit => $size, sort => 'expires_at')->[0], $ids[1],
              "by expiry, $size a page");
}

is_deeply(listed(sort => 'name', status => 'disabled'), these(1), 'disabled');
is_deeply(listed(sort => 'name', status => 'expired'), these(2), 'expired');
is_deeply(listed(sort => 'name', status => 'active'), these(3 .. 7), 'active');
is_deeply(listed(sort => 'name', owner => 'lister'), \@ids, 'by owner');
is_deeply(listed(owner => 'nobody'), [], 'by an owner who is none');
is_deeply(listed(sort => 'name', q => 'LIST 3'), these(3), 'q in the name');
is_deeply(listed(sort => 'name', q => 'odd_%'), these(1, 3, 5, 7),
          'q in the customer, and % is a character');
is_deeply(listed(sort => 'name', q => 'abcd...wx'), \@ids, 'q in masked');
is_deeply(listed(q => 'nothing like it'), [], 'q in nothing');
is(scalar @{listed(status => 'all', limit => 100)}, 9,
       'revoked ones only when asked for');
ok((grep { $_ eq $id } @{listed(status => 'revoked', limit => 100)}),
   'by status=revoked');

my $page = $api->call('key_list', query => { sort => 'name', limit => 2 });
my $cursor = $page->{json}{next_cursor};
like($cursor, qr/^[A-Za-z0-9_-]+$/, 'a cursor needs no encoding');
create(name => 'list 0');
$api->call('key_revoke', id => $ids[1]);
$page = $api->call('key_list', query => { sort => 'name', limit => 2,
                                          cursor => $cursor });
is_deeply([ map { $_->{id} } @{$page->{json}{data}} ], these(3, 4),
          'a page is stable while keys come and go');

for my $bad ($cursor . 'x', 'rubbish', '%%%', 'eyJ2IjoxfQ', 'é') {
    wrong($api->call('key_list', query => { sort => 'name', cursor => $bad }),
          [ 'query:cursor bad_value' ], "cursor $bad");
}

wrong($api->call('key_list', query => { sort => 'name', q => 'x',
                                        cursor => $cursor }),
      [ 'query:cursor bad_value' ], 'a cursor of other filters');
wrong($api->call('key_list', query => {
    status => 'gone', sort => 'digest', limit => 0, foo => 1, q => [ 1, 2 ] }),
    [ 'query:status bad_value', 'query:sort bad_value',
      'query:limit out_of_range', 'query:foo unknown', 'query:q duplicate' ],
    'a wrong list');
wrong($api->call('key_list', query => { limit => $_->[0] }),
      [ "query:limit $_->[1]" ], "limit=$_->[0]")
    for [ 101, 'out_of_range' ], [ -1, 'out_of_range' ], [ 'x', 'bad_type' ],
        [ '9' x 40, 'out_of_range' ];

is_deeply([ map { scalar @{$_->{json}{data}}, $_->{json}{has_more} }
            $api->call('owner_list', query => { limit => 2 }) ], [ 2, $true ],
          'owners have pages, too');
my $first = $api->call('owner_list', query => { limit => 2 })->{json};
my $next = $api->call('owner_list', query => {
    limit => 100, cursor => $first->{next_cursor} })->{json};
is(scalar(@{$next->{data}}) + 2,
   $pg->value('SELECT count(*) FROM apikey.owner'), 'all of them');

for my $list (qw(key_list plan_list audit_list)) {
    wrong($api->call($list, query => { cursor => $first->{next_cursor} }),
          [ 'query:cursor bad_value' ], "a cursor of owners is none of $list");
}


# usage at a glance

$pg->run(qq{
    UPDATE apikey.key_usage SET requests = 18234, refused = 12, errors = 40,
        tokens = 9120334, cost = 131204118000, last_used_at = now()
    WHERE key_id = '$mine->{id}';
    INSERT INTO apikey.usage_quarter (start, node, key_id, owner, customer,
        service, endpoint, model, outcome, status_code, verdict, limit_name,
        requests, refused, errors, tokens_input, tokens_output, cost,
        duration_us)
    SELECT now() - d.days * interval '1 day', gen_random_uuid(),
        '$mine->{id}', 'me', '', d.service, '', '', 'success', 200, 'ok', '',
        d.n, 1, 2, 10, 5, 2770000000, 1500
    FROM (VALUES (0, 'chat', 7), (0, '', 1), (29, 'old', 3), (40, 'old', 3))
        AS d (days, service, n);});

$pg->run("UPDATE apikey.key SET revoked_at = NULL WHERE id = '$mine->{id}'");

my $r = $api->call('usage_summary', as => \%key);
is($r->{status}, 200, 'a key reads its summary') or diag($r->{body});
is(join(' ', $r->{body} =~ /[{,]"([a-z_]+)":/g) =~ s/ date.*//r,
   'key owner currency time_zone as_of last_used_at'
   . ' all_time requests refused errors tokens cost'
   . ' today requests refused errors tokens cost'
   . ' period start end requests refused errors tokens cost'
   . ' limits plan daily', 'in order');
is_deeply($r->{json}{all_time}, { requests => 18234, refused => 12,
          errors => 40, tokens => 9120334, cost => '131.204118' }, 'all time');
is_deeply($r->{json}{today}, { requests => 8, refused => 2, errors => 4,
          tokens => 30, cost => '5.54' }, 'today');
is_deeply([ map { $_->{requests} } @{$r->{json}{daily}} ], [ 3, 8 ],
          'thirty days');
is($r->{json}{daily}[1]{duration_ms}, 3, 'with the time taken');
is_deeply([ map { $_->{service} } grep { $_->{service} // '' ne 'old' }
            @{$r->{json}{services}} ]->[0], 'chat', 'by service');
is_deeply([ @{$r->{json}}{qw(limits plan time_zone currency owner key)} ],
          [ [], undef, 'UTC', 'USD', 'me', $mine->{id} ], 'the rest');
like($r->{json}{period}{start}, qr/-01T00:00:00\.000Z$/, 'a month');

is_deeply($api->call('key_usage', id => $mine->{id})->{json}{today},
          $r->{json}{today}, 'an operator sees the same');
$r = $api->call('usage_summary', query => { owner => 'me', days => 400 });
is_deeply([ map { $_->{requests} } @{$r->{json}{daily}} ], [ 3, 3, 8 ],
          'of an owner, in 400 days');
is("$r->{json}{all_time}{requests} " . ($r->{json}{key} // 'null'),
   '18234 null', 'all of its keys');
wrong($api->call('usage_summary'), [ 'query:key required' ],
      'an operator names one');
wrong($api->call('usage_summary', query => { key => 1, owner => 2 }),
      [ 'query:owner bad_value' ], 'and not two');
wrong($api->call('usage_summary', query => { owner => 'me', days => $_->[0] }),
      [ "query:days $_->[1]" ], "days=$_->[0]")
    for [ 0, 'out_of_range' ], [ 401, 'out_of_range' ], [ 'x', 'bad_type' ],
        [ '9' x 50, 'out_of_range' ];
problem($api->call('usage_summary', query => { owner => 'nobody' }),
        404, 'not_found', 'nobody has no usage');
$r = $api->call('usage_summary', query => { key => $yours->{id} });
is_deeply([ @{$r->{json}{all_time}}{qw(requests cost)},
            $r->{json}{last_used_at} ], [ 0, '0.00', undef ],
          'a key that was never used');
is_deeply([ $api->call('key_get', id => $mine->{id})->{json}{usage_count},
            $pg->value("SELECT usage_count FROM apikey.key_summary"
                       . " WHERE id = '$mine->{id}'") ], [ 18234, 18234 ],
          'usage_count in the key and in the view');


$t->done;
