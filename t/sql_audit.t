#!/usr/bin/perl

# The audit: what stands in it, who reads which of it, how long it is kept; and
# that no change stays whose entry cannot be written.

use strict;
use warnings;
use utf8;

use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my %owner = (kind => 'owner', external => 'ada', address => '192.0.2.7');

sub audit {
    my ($query, %opt) = @_;

    my $r = $api->call('audit_list', query => $query, %opt);
    die $r->{body} if $r->{status} != 200;

    return @{$r->{json}{data}};
}

sub actions { join ' ', map { $_->{action} } audit(@_) }


# what stands in it

my $k = $api->call('key_create', body => { name => 'one', owner => 'ada' });
my $id = $k->{json}{id};
my $other = $api->call('key_create', body => { name => 'two', owner => 'bob' })
    ->{json}{id};
my $r = $api->call('key_update', id => $id, body => { name => 'First' });
$api->call('key_rotate', id => $id, body => { grace => '1h' });
$api->call('key_create', as => \%owner, body => { name => 'own' });
$api->call('key_revoke', id => $id);
$api->call('key_get', id => $id);
$api->call('key_update', id => $id, body => { name => 'refused' });
$api->call('plan_put', id => 'pro', body => { name => 'Pro' });

is(actions({ sort => 'time' }), 'create create create create update rotate'
   . ' create revoke create', 'every change, and nothing else');

my ($entry) = audit({ key => $id, action => 'update' });

is(join(' ', sort keys %$entry), 'action actor actor_kind address after before'
   . ' id key object object_id owner request_id time', 'the members');
is_deeply([ @$entry{qw(actor actor_kind address action object object_id key
                       owner request_id)} ],
          [ 'ops', 'operator', '192.0.2.1', 'update', 'key', $id, $id, 'ada',
            $r->{request_id} ], 'who, from where, what, in which request');
like($entry->{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when');
is("$entry->{before}{name} $entry->{after}{name}", 'one First',
   'the object before and after');

is_deeply([ map { [ @$_{qw(object object_id key owner)} ] }
            audit({ object => 'owner', owner => 'ada' }),
            audit({ object => 'plan' }) ],
          [ [ 'owner', 'ada', undef, 'ada' ], [ 'plan', 'pro', undef, undef ]
          ], 'owners and plans by the names that the API gives them');
is_deeply([ map { [ @$_{qw(actor actor_kind address owner)} ] }
            audit({ actor => 'ada' }) ],
          [ [ 'ada', 'owner', '192.0.2.7', 'ada' ] ], 'what an owner did');

my $all = $api->call('audit_list', query => { limit => 100 })->{body};
unlike($all, qr/\b[0-9a-f]{64}\b|\\\\x|digest/, 'and no digest');


# filters, order, pages

is(actions({ key => $id, sort => '-time' }), 'revoke rotate update create',
   'of a key, newest first');
is(actions({ key => $other }), 'create', 'of another one');
is(actions({ owner => 'bob' }), 'create create', 'of an owner');
is(actions({ owner => 'nobody' }) . actions({ key => 'x' }), '',
   'of what is not there');
is(actions({ from => $entry->{time}, to => '2100-01-01', key => $id }),
   'revoke rotate update', 'from a time on');
is(actions({ to => $entry->{time}, key => $id }), 'create', 'before it');

for my $sort ('time', '-time') {
    my @want = map { $_->{id} } audit({ sort => $sort, limit => 100 });
    my (@got, $cursor);

    do {
        my $p = $api->call('audit_list', query => { sort => $sort, limit => 2,
            $cursor ? (cursor => $cursor) : () })->{json};
        push @got, map { $_->{id} } @{$p->{data}};
        $cursor = $p->{next_cursor};
    } while ($cursor && @got < 100);

    is_deeply(\@got, \@want, "pages by $sort");
}

$api->is_wrong($api->call('audit_list', query => { from => 'soon', to => '1',
        sort => 'actor', limit => 0, who => 1, cursor => 'x' }),
    [ 'query:from bad_value', 'query:to bad_value', 'query:sort bad_value',
      'query:limit out_of_range', 'query:who unknown',
      'query:cursor bad_value' ], 'a wrong query');


# who reads it

is(actions({}, as => \%owner), 'revoke create rotate update create create',
   'an owner reads what became of its own');
is(actions({ owner => 'bob' }, as => \%owner), '', 'and nobody else\'s');
is(actions({ key => $other }, as => \%owner), '', 'whatever it asks for');
is(actions({ owner => 'bob' }, as => { %Apikey::Api::operator,
                                       role => 'read' }),
   'create create', 'a reading operator reads all');
$api->is_problem($api->call('audit_list', as => { kind => 'key',
        key => $other }), 403, 'forbidden', 'a key reads none');

is($pg->value(q{SELECT string_agg(concat_ws('/', action, object, object_id,
            owner, before ->> 'name', after ->> 'name'), ' ' ORDER BY time)
        FROM apikey.audit_log WHERE object <> 'owner'
            AND (key IS NULL OR key <> '} . $id . q{')},
            user => 'apikey_reader')
   =~ s/[0-9a-f-]{36}/ID/gr,
   'create/key/ID/bob/two create/key/ID/ada/own create/plan/pro/Pro',
   'the view says the same');


# no entry, no change

$api->call('owner_update', id => 'bob', body => { plan => 'pro' });
$api->call('plan_put', id => 'basic', body => { name => 'Basic' });

sub state_of {
    return $pg->value(q{SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
        SELECT k::text FROM apikey.key k
        UNION ALL SELECT o::text FROM apikey.owner o
        UNION ALL SELECT s::text FROM apikey.secret s
        UNION ALL SELECT p::text FROM apikey.plan p
        UNION ALL SELECT l::text FROM apikey.limit_rule l
        UNION ALL SELECT i::text FROM apikey.key_item i
        UNION ALL SELECT c::text FROM apikey.change c) AS y (x)});
}

my @changes = (
    [ key_create => body => { name => 'x' } ],
    [ key_create => body => { name => 'x', owner => 'new' } ],
    [ key_update => id => $other, body => { name => 'x' } ],
    [ key_rotate => id => $other, body => {} ],
    [ key_revoke => id => $other ],
    [ owner_put => id => 'carol', body => {} ],
    [ plan_delete => id => 'basic' ],
    [ owner_update => id => 'bob', body => { enabled => JSON::PP::false } ],
    [ owners_update => query => { plan => 'pro' }, body => { plan => undef } ],
    [ owner_delete => id => 'bob', query => { revoke_keys => 'true' } ],
    [ plan_put => id => 'free', body => { name => 'x' } ],
    [ plan_update => id => 'pro', body => { name => 'x' } ],
);

my %failing = (
    'may not be written' => [
        'REVOKE INSERT ON apikey.audit FROM apikey_gateway',
        'GRANT INSERT ON apikey.audit TO apikey_gateway' ],
    'fails' => [ q{
        CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE disk_full; END';
        CREATE TRIGGER broken BEFORE INSERT ON apikey.audit
            FOR EACH ROW EXECUTE FUNCTION broken()},
        'DROP FUNCTION broken() CASCADE' ],
    'breaks a rule' => [
        'ALTER TABLE apikey.audit ADD CHECK (actor IS NULL) NOT VALID',
        'ALTER TABLE apikey.audit DROP CONSTRAINT audit_actor_check' ],
);

for my $how (sort keys %failing) {
    my ($break, $mend) = @{$failing{$how}};
    my $before = state_of();

    $pg->run($break);

    for my $change (@changes) {
        my ($fn, @args) = @$change;
        my $r = $api->call($fn, @args);

        $api->is_problem($r, 503, 'unavailable', "an entry that $how: $fn");
        is_deeply($r->{refresh}, [], '... tells no node');
    }

    is(state_of(), $before, '... nothing was changed');
    $pg->run($mend);
}

is($api->call('key_update', id => $other, body => { name => 'x' })->{status},
   200, 'and then it goes on');


# how long it is kept

sub entries { $pg->value('SELECT count(*) FROM apikey.audit') }

my $had = entries();
my $beat = sub { $pg->run(q{SELECT apikey.node_seen(gen_random_uuid(), 'n',
                            '1')}, user => 'apikey_gateway') };

$pg->run(q{UPDATE apikey.audit SET at = at - interval '400 days'
           WHERE action = 'rotate'});
$beat->();
is(entries(), $had, 'for ever');

$pg->run(q{INSERT INTO apikey.setting VALUES ('audit_days', '399')
           ON CONFLICT (name) DO UPDATE SET value = excluded.value});
$beat->();
is(entries(), $had - 1, 'or as long as audit_days says');
is(actions({ action => 'rotate' }), '', 'the oldest goes');

$pg->run(q{INSERT INTO apikey.audit (at, actor, actor_kind, action,
               object_kind, object_id)
           SELECT now() - interval '500 days', 'x', 'operator', 'x', 'key',
               gen_random_uuid() FROM generate_series(1, 12000)});
$beat->();
is(entries(), $had - 1 + 2000, 'some at a time');
$beat->();
is(entries(), $had - 1, 'until all are gone');

$t->done;
