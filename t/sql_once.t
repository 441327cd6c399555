#!/usr/bin/perl

# Idempotency-Key and If-Match as the admin API's functions take them.

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

my %body = (body => { name => 'one', owner => 'me' });

sub problem { return $api->is_problem(@_) }
sub keys_made { return $pg->value('SELECT count(*) FROM apikey.key') }


# create

my $first = $api->call('key_create', %body, once => 'a');
is($first->{status}, 201, 'made');
ok(!$first->{headers}{'Idempotent-Replayed'}, 'for the first time');

my $again = $api->call('key_create', %body, once => 'a');
is("$again->{status} $again->{headers}{'Idempotent-Replayed'}", '200 true',
   'the same again: the answer again');
is($again->{body}, $first->{body} =~ s/"\@SECRET\@"/null/r,
   'the same object, without the key');
is_deeply([ @{$again->{headers}}{qw(Location ETag)} ],
          [ @{$first->{headers}}{qw(Location ETag)} ], 'its headers');
is_deeply($again->{refresh}, $first->{refresh},
          'and what the answering node must know');
is(keys_made(), 1, 'one key');
is($pg->value('SELECT count(*) FROM apikey.audit'), 2, 'one entry for it');

is($api->call('key_create', once => 'a',
              body => '{ "owner":"me", "name" : "one"}')->{json}{id},
   $first->{json}{id}, 'JSON is compared by value');

problem($api->call('key_create', once => 'a', body => { name => 'two' }), 422,
        'idempotency_mismatch', 'another body');
problem($api->call('key_create', %body, once => 'a', query => { x => 1 }),
        422, 'idempotency_mismatch', 'another query');
problem($api->call('key_rotate', once => 'a', id => $first->{json}{id},
                   body => { name => 'one', owner => 'me' }), 422,
        'idempotency_mismatch', 'another path');
isnt($api->call('key_create', %body, once => 'A')->{json}{id},
     $first->{json}{id}, 'another key: another request');

my %other = (%Apikey::Api::operator, name => 'other');
isnt($api->call('key_create', %body, once => 'a', as => \%other)->{json}{id},
     $first->{json}{id}, 'of another caller, too');
problem($api->call('key_create', %body, once => 'a',
                   as => { %Apikey::Api::operator, role => 'read' }),
        403, 'forbidden', 'and who may not, gets no answer of who might');

my $id = $first->{json}{id};
my $new = $api->call('key_rotate', id => $id, once => 'r');
is($api->call('key_rotate', id => $id, once => 'r')->{body},
   $new->{body} =~ s/"\@SECRET\@"/null/r, 'rotate');
is($pg->value("SELECT count(*) FROM apikey.secret WHERE key_id = '$id'"), 2,
   'one new secret');
is($api->call('key_rotate', id => $id, once => 'match', match =>
   $api->call('key_get', id => $id)->{headers}{ETag})->{status}, 200,
   'with If-Match');
is($api->call('key_rotate', id => $id, once => 'match', match => '"1"')
   ->{status}, 200, 'it is asked again before If-Match is');

problem($api->call('key_create', once => 'bad', body => {}), 400,
        'invalid_request', 'what failed');
is($api->call('key_create', once => 'bad', %body)->{status}, 201,
   'had no effect, and the key is free');

$api->is_wrong($api->call('key_create', once => $_, %body),
               [ 'header:Idempotency-Key bad_length' ],
               'length ' . length $_) for '', 'x' x 256;
is($api->call('key_create', once => 'x' x 255, %body)->{status}, 201,
   'length 255');
$api->call('key_update', id => $id, once => 'a', req => { method => 'PATCH' },
           body => { name => $_ }) for qw(p q);
is($api->call('key_get', id => $id)->{json}{name}, 'q',
   'only POST has such keys');

is($pg->value("SELECT count(*) FROM apikey.idempotency WHERE body LIKE"
              . " '%SECRET%'"), 0, 'no place of a key is kept');


# two at once: one waits for the other

{
    my $blocker = open my $psql, '|-', Apikey::Postgres::bindir() . '/psql',
        '-Xq', '-d', $pg->conninfo(user => 'postgres');
    die "psql: $!" unless $blocker;

    my $made = keys_made();
    my @pids;

    $psql->autoflush(1);
    print $psql "BEGIN; LOCK TABLE apikey.audit;\n";
    Apikey::Test::wait_for('the lock', sub {
        $pg->value(q{SELECT count(*) FROM pg_locks WHERE granted
                     AND mode = 'AccessExclusiveLock'
                     AND relation = 'apikey.audit'::regclass}) > 0;
    });

    pipe my $out, my $in or die $!;

    for (1 .. 2) {
        my $pid = fork // die $!;

        if ($pid == 0) {
            my $r = $api->call('key_create', %body, once => 'race');
            syswrite $in, "$r->{status} $r->{json}{id}\n";
            require POSIX;
            POSIX::_exit(0);
        }

        push @pids, $pid;
    }

    close $in;
    Apikey::Test::wait_for('both', sub {
        $pg->value(q{SELECT count(*) FROM pg_locks
                     WHERE NOT granted AND locktype IN ('advisory',
                         'relation')}) == 2;
    });
    is($pg->value(q{SELECT string_agg(locktype, ' ' ORDER BY locktype)
                    FROM pg_locks WHERE NOT granted}), 'advisory relation',
       'the second waits for the first');
    print $psql "COMMIT;\n";
    close $psql;

    my @lines = sort <$out>;
    waitpid $_, 0 for @pids;

    is(keys_made(), $made + 1, 'one key');
    is(join(' ', map { (split)[0] } @lines), '200 201', 'one made it');
    is((split ' ', $lines[0])[1], (split ' ', $lines[1])[1],
       'both are told the same');
}


# two DELETEs of a key at once: it is revoked once

{
    my $key = $api->call('key_create', body => { name => 'twice' })->{json};

    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xq', '-d',
        $pg->conninfo(user => 'postgres') or die "psql: $!";
    $psql->autoflush(1);
    print $psql "BEGIN; SELECT FROM apikey.key WHERE id = '$key->{id}'"
        . " FOR UPDATE;\n";
    Apikey::Test::wait_for('the lock', sub {
        $pg->value(q{SELECT count(*) FROM pg_locks WHERE granted
                     AND mode = 'RowShareLock'
                     AND relation = 'apikey.key'::regclass}) > 0;
    });

    # however long it takes until both wait

    $pg->run("ALTER FUNCTION apikey.api SET lock_timeout = '60s'");

    my @pids = map {
        my $pid = fork // die $!;

        if ($pid == 0) {
            $api->call('key_revoke', id => $key->{id});
            require POSIX;
            POSIX::_exit(0);
        }

        $pid;
    } 1 .. 2;

    Apikey::Test::wait_for('both', sub {
        $pg->value(q{SELECT count(*) FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock'
                         AND query LIKE '%key_revoke%'}) == 2;
    });
    print $psql "COMMIT;\n";
    close $psql;
    waitpid $_, 0 for @pids;
    $pg->run("ALTER FUNCTION apikey.api SET lock_timeout = '3s'");

    is($pg->value("SELECT count(*) FROM apikey.audit WHERE action = 'revoke'
                   AND object_id = '$key->{id}'"), 1,
       'a key that two delete at once is revoked once');
}


# a day later

$pg->run(q{UPDATE apikey.idempotency SET at = now() - interval '24 hours 1 s'
           WHERE key = 'a'});
isnt($api->call('key_create', %body, once => 'a')->{json}{id},
     $first->{json}{id}, 'a day later it is a new request');
is($api->call('key_create', %body, once => 'a')->{status}, 200,
   'which is kept in its turn');

my $left = $pg->value(q{SELECT count(*) FROM apikey.idempotency
                        WHERE at > now() - interval '24 hours'});
is($pg->value(q{SELECT apikey.node_seen(gen_random_uuid(), 'n', '1')},
              user => 'apikey_gateway'), 1, 'a heartbeat');
is($pg->value(q{SELECT count(*) FROM apikey.idempotency}), $left,
   'removes what is over, whoever it was of');


# If-Match: lists, weak ones, *

my ($etag) = $api->call('key_get', id => $id)->{headers}{ETag} =~ /"(\d+)"/;

for my $case (
    [ qq("$etag") => 1 ], [ qq(W/"$etag") => 1 ], [ '*' => 1 ],
    [ ' * ' => 1 ], [ qq("x", "$etag") => 1 ], [ qq("x","$etag","y") => 1 ],
    [ qq("a,b" , W/"$etag") => 1 ], [ '"x"' => 0 ], [ $etag => 0 ],
    [ '' => 0 ], [ qq("x$etag") => 0 ], [ qq("$etag) => 0 ],
    [ '"x, *"' => 0 ], [ qq("x" "$etag" junk) => 0 ],
    [ qq("," $etag ",") => 0 ])
{
    my ($match, $good) = @$case;
    my $r = $api->call('key_update', id => $id, body => {}, match => $match);

    is($r->{status}, $good ? 200 : 412, "If-Match: $match");
}

my $owner = $api->call('owner_get', id => 'me')->{headers}{ETag};

is($api->call('owner_update', id => 'me', body => {}, match => "\"z\", $owner")
   ->{status}, 200, 'an owner, too');
problem($api->call($_, id => 'me', body => {}, match => '"z"'), 412,
        'precondition_failed', $_) for qw(owner_update owner_put);
problem($api->call($_, id => $id, match => '"z"'), 412,
        'precondition_failed', $_) for qw(key_revoke key_rotate);


$t->done;
