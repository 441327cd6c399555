#!/usr/bin/perl

# Pages of keys: whichever plan key_page() takes, and whoever asks, the pages
# of a list are all of its keys, once, in order.  And what keys are found by
# follows every change.

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


# keys of every kind, with many of the same name, time and use

$pg->run(q{
    SELECT setseed(0.4);
    INSERT INTO apikey.owner (external) VALUES ('ada'), ('bob'), ('Céline');
    CREATE TABLE made AS
        SELECT i, apikey.uuid_v7() AS id, random() AS a, random() AS b,
            random() AS c, random() AS d
        FROM generate_series(1, 120) AS i;

    INSERT INTO apikey.key (id, owner_id, name, customer, prefix, enabled,
        expires_at, revoked_at, created_at)
    SELECT id,
        (SELECT o.id FROM apikey.owner o ORDER BY external
         LIMIT 1 OFFSET i % 4),
        (ARRAY['Main', 'main 2', '日本語 main', 'it''s \ 100%'])[1 + i % 4],
        CASE WHEN a < 0.5 THEN 'cust ' || i % 3 END, 'sk', b < 0.8,
        CASE WHEN c < 0.6 THEN now() + trunc((c - 0.3)::numeric, 1)
             * interval '90 d' END,
        CASE WHEN d < 0.2 THEN now() END,
        now() - trunc(a::numeric, 1) * interval '10 d'
    FROM made;

    INSERT INTO apikey.secret (id, key_id, digest, start, last4)
    SELECT gen_random_uuid(), id, sha256(id::text::bytea),
        'sk_' || substr(md5(i::text), 1, 4), substr(md5(i::text), 5, 4)
    FROM made;

    UPDATE apikey.key_usage SET
        requests = CASE WHEN b < 0.3 THEN 0 WHEN b < 0.5 THEN 7
            WHEN b < 0.7 THEN 1234 ELSE (b * 100000)::int END,
        last_used_at = CASE WHEN b >= 0.3
            THEN now() - trunc(b::numeric, 1) * interval '1 h'
                - trunc(d::numeric, 1) * interval '1 s' END
    FROM made WHERE id = key_id;
});

# Every list there is, by every plan, against the plain query.

my $wrong = <<'SQL';
    CREATE FUNCTION pg_temp.wanted(a_owner uuid, a_customer text, state text,
        q text, sort text) RETURNS uuid[] LANGUAGE plpgsql AS $$
    DECLARE r uuid[];
    BEGIN
        EXECUTE format('SELECT array_agg(k.id ORDER BY %%1$s %%2$s, k.id %%2$s)
            FROM apikey.key k LEFT JOIN apikey.owner o ON o.id = k.owner_id
                LEFT JOIN apikey.key_usage u ON u.key_id = k.id
            WHERE ($1 IS NULL OR k.owner_id = $1)
                AND ($2 IS NULL OR k.customer = $2)
                AND CASE WHEN $3 IS NULL THEN k.revoked_at IS NULL
                    ELSE $3 IN (apikey.key_status(k), ''all'') END
                AND ($4 IS NULL OR EXISTS (
                    SELECT FROM apikey.secret s WHERE s.key_id = k.id
                    AND strpos(lower(s.start || ''...'' || s.last4), $4) > 0)
                    OR strpos(lower(k.name), $4) > 0
                    OR strpos(lower(k.customer), $4) > 0
                    OR strpos(lower(o.external), $4) > 0)',
            CASE ltrim(sort, '-') WHEN 'usage_count' THEN 'u.requests'
                WHEN 'last_used_at'
                THEN 'coalesce(u.last_used_at, ''-infinity'')'
                WHEN 'expires_at' THEN 'coalesce(k.expires_at, ''infinity'')'
                ELSE 'k.' || ltrim(sort, '-') END,
            CASE WHEN sort ^@ '-' THEN 'DESC' ELSE 'ASC' END)
        INTO r USING a_owner, a_customer, state, q;
        RETURN coalesce(r, '{}');
    END $$;

    CREATE FUNCTION pg_temp.paged(owner uuid, customer text, state text,
        q text, sort text, few int, far int) RETURNS uuid[]
    LANGUAGE plpgsql AS $$
    DECLARE
        i uuid[];
        s text[];
        r uuid[] := '{}';
    BEGIN
        LOOP
            SELECT ids, sorts INTO i, s FROM apikey.key_page(owner, customer,
                state, q, sort, s[7], i[7], 7, few, far);
            r := r || i;
            IF coalesce(cardinality(i), 0) < 7 OR cardinality(r) > 200
            THEN
                RETURN r;
            END IF;
        END LOOP;
    END $$;

    SELECT concat_ws(' ', w, c, st, q, so, few, far)
    FROM unnest(ARRAY[NULL, %s]::uuid[]) AS w,
        unnest(ARRAY[NULL, 'cust 1']) AS c,
        unnest(ARRAY[NULL, 'active', 'disabled', 'expired', 'revoked', 'all'])
            AS st,
        unnest(ARRAY[NULL, 'm', 'main 2', '日', %s]) AS q,
        unnest(ARRAY['created_at', 'name', 'last_used_at', 'usage_count',
            'expires_at']) AS s,
        unnest(ARRAY['', '-']) AS d, LATERAL (SELECT d || s) AS x (so),
        (VALUES (20000, 6000), (0, 5), (30, 12)) AS n (few, far)
    WHERE (%s OR w IS NOT NULL)
        AND pg_temp.wanted(w, c, st, q, so)
            <> pg_temp.paged(w, c, st, q, so, few, far)
    LIMIT 5
SQL

my %id = map { $_->[0] => $_->[1] }
         $pg->rows('SELECT external, id FROM apikey.owner');

sub lists {
    my ($caller, $owner, $owners, $q, $all) = @_;

    $pg->rows("SET client_min_messages = warning; BEGIN;"
        . " SELECT set_config('apikey.caller', '$caller', true),"
        . " set_config('apikey.owner', '$owner', true) \\gset x\n"
        . sprintf($wrong, $owners, $q, $all) . ";\nCOMMIT;",
        user => 'apikey_gateway');
}

is_deeply([ lists('operator', '', "'$id{ada}'", q{'it''s \\'}, 'true') ],
          [], 'an operator\'s lists');
is_deeply([ lists('owner', $id{bob}, "'$id{bob}'", q{'%'}, 'false') ], [],
          'an owner\'s lists');

my $theirs = sub {
    my ($caller, $owner, $asks) = @_;

    return eval { $pg->value("BEGIN;"
        . " SELECT set_config('apikey.caller', '$caller', true),"
        . " set_config('apikey.owner', '$owner', true) \\gset x\n"
        . "SELECT cardinality(ids) FROM apikey.key_page($asks, NULL, NULL,"
        . " 'a', 'name', NULL, NULL, 9);", user => 'apikey_gateway') }
        // ($@ =~ /insufficient_privilege|permission/ ? 'denied' : $@);
};

is($theirs->('owner', $id{bob}, "'$id{bob}'"), 9, 'an owner asks for its own');
is($theirs->('owner', $id{bob}, "'$id{ada}'"), 'denied', 'not for another\'s');
is($theirs->('owner', $id{bob}, 'NULL'), 'denied', 'nor for all');
is($theirs->('owner', '', 'NULL'), 'denied', 'nor as nobody');
is($theirs->($_, $id{bob}, "'$id{bob}'"), 'denied', "'$_' has no lists")
    for '', 'key', 'node';
is($theirs->('operator_read', '', 'NULL'), 9, 'a reading operator has');

for my $role (qw(apikey_gateway apikey_reader)) {
    eval { $pg->run('SELECT * FROM apikey.key_item', user => $role) };
    like($@, qr/permission denied/, "$role does not read key_item");
}


# what is found follows

sub found {
    my (%query) = @_;

    my $r = $api->call('key_list', query => { limit => 100, %query });
    die $r->{body} unless $r->{status} == 200;

    return join ' ', map { $_->{id} } @{$r->{json}{data}};
}

my $k = $api->call('key_create', body => { name => 'Findling',
    customer => 'Zwölf', owner => 'Quelle' })->{json};

is(found(q => $_), $k->{id}, "found by \"$_\"")
    for 'findl', 'FINDLING', 'ing', 'zwö', 'quelle', 'sk_abcd...wxyz';
is(found(q => 'wxyz', customer => 'Zwölf'), $k->{id}, 'and by its customer');
is(found(q => 'wxyz', customer => 'Zwölf', owner => 'bob'), '',
   'all filters hold');
is(found(q => 'gzw'), '', 'not by the end of one and the begin of another');

$api->call('key_update', id => $k->{id}, body => { name => 'Renamed' });
is(found(q => 'findl') . found(q => 'renam'), $k->{id}, 'a new name');
$api->call('key_update', id => $k->{id}, body => { customer => undef });
is(found(q => 'zwö') . found(customer => 'Zwölf'), '', 'no customer');

$api->call('key_rotate', id => $k->{id}, req => { rotated => 1 });
is(found(q => 'renam', status => 'active'), $k->{id}, 'a new secret');
$api->call('key_revoke', id => $k->{id});
is(found(q => 'renam'), '', 'revoked');
is(found(q => 'renam', status => 'revoked'), $k->{id}, 'and found as such');

is($pg->value(q{SELECT count(*) FROM apikey.key_item i
        FULL JOIN apikey.key_item_now n ON n.id = i.id
    WHERE i IS DISTINCT FROM n}), 0, 'key_item is what it has to be');
is($pg->value(q{SELECT count(*) FROM apikey.key k
        LEFT JOIN apikey.key_usage u ON u.key_id = k.id
    WHERE u.owner_id IS DISTINCT FROM k.owner_id OR u.key_id IS NULL}), 0,
   'every key has its row of use');

$t->done;
