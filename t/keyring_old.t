# What is old does not come back, or is found out: answers that were on their
# way, secrets rotated out, databases restored, schemas of another age.

use strict;
use warnings;

use Test::More;
use Apikey::Postgres;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json rounds plain_key);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;
$t->allow(qr/Postgres/);

my $slow = { redis => undef,
             postgres => 'apikey_postgres "%%PG%%" poll=1h;' };
my $fast = { redis => undef };


sub status {
    my ($node, $key) = @_;

    return $node->get('/', key => $key)->{status};
}

sub wait_status {
    my ($node, $key, $status) = @_;

    return wait_for("$status", sub { status($node, $key) == $status }, 30);
}

# Changes the text of a function.

sub edit {
    my ($function, $from, $to) = @_;

    $_ = $pg->quote($_) for $from, $to;
    $pg->run("DO \$do\$ BEGIN EXECUTE replace(pg_get_functiondef(
        'apikey.$function'::regprocedure), $from, $to); END \$do\$");
}

# A transaction that holds a lock until it is let go.

sub hold {
    $pg->run('CREATE TABLE IF NOT EXISTS gate (); TRUNCATE gate');

    my $held = spawn(name => 'held', log => $t->dir . '/held.log', code => sub {
        $pg->run("BEGIN; SELECT pg_advisory_xact_lock(7); DO \$do\$ BEGIN
            WHILE NOT EXISTS (SELECT FROM gate) LOOP
                PERFORM pg_sleep(0.02);
            END LOOP; END \$do\$; COMMIT");
    });

    wait_for('the lock', sub {
        $pg->value("SELECT count(*) FROM pg_locks
                    WHERE locktype = 'advisory' AND granted");
    });

    return $held;
}

sub let_go {
    my ($held) = @_;

    $pg->run('INSERT INTO gate DEFAULT VALUES');
    wait_for('its commit', sub { !$held->alive });
}


# A look-up has read the old row, and its answer comes after the new one was
# told; the zone has room for neither, or the answer would lose by its version.

subtest 'a look-up in flight' => sub {
    my @keys = sort { $a->{id} cmp $b->{id} } $t->keys(12000);
    my $n = $t->nginx(name => 'small', base => { %$slow,
        zone => 'apikey_zone zone=apikey:1m;' })->start(wait => 0);

    wait_for('a warning', sub { $n->wait_log(qr/too small for all keys/) },
             30);

    edit('keyring_find(bytea)', "BEGIN\n",
         "BEGIN PERFORM pg_advisory_lock_shared(7);
          PERFORM pg_advisory_unlock_shared(7);\n");

    my $told = $keys[0];
    my $judged = 0;

    for my $try (1 .. 20) {
        my $k = pop @keys;               # ids that rise: this one is not held
        my $held = hold();
        my $c = $n->conn;

        $c->send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: $k->{key}\r\n\r\n");

        # on a machine with other things to do it may have given up already

        my $waits = eval { wait_for('its look-up', sub {
            $pg->value("SELECT count(*) FROM pg_stat_activity
                        WHERE application_name = 'apikey lookup'
                            AND wait_event = 'advisory'");
        }, 2) };

        # what was told first has been heard when the second has

        $pg->run("UPDATE apikey.key SET revoked_at = now()
                  WHERE id = '$k->{id}'");
        my $want = $try % 2 ? 401 : 200;
        $pg->run('UPDATE apikey.key SET enabled = '
                 . ($want == 200 ? 'true' : 'false')
                 . " WHERE id = '$told->{id}'");
        wait_status($n, $told->{key}, $want);

        let_go($held);

        my $status = $c->response->{status};

        # nor is one judged that has waited for too long
        next if !$waits || $status == 503;

        $judged++;
        is($status, 401, 'the request itself');
        is(status($n, $k->{key}), 401, 'and those after it');
        last if $judged == rounds(3, 10);
    }

    cmp_ok($judged, '>', 0, 'was tried');

    edit('keyring_find(bytea)', "BEGIN PERFORM pg_advisory_lock_shared(7);
          PERFORM pg_advisory_unlock_shared(7);\n", "BEGIN\n");
    $n->stop;
    $pg->run('TRUNCATE apikey.key CASCADE');
};


my $a = $t->nginx(name => 'a', workers => 2, base => $slow)->start;
my $b = $t->nginx(name => 'b', workers => 2, base => $slow)->start;


subtest 'a rotated-out secret' => sub {
    for my $round (1 .. rounds(5, 50)) {
        my $k = json($a->admin('POST', 'api-keys', body => { name => 'r' }));
        wait_status($b, $k->{key}, 200);

        my $r = json($a->admin('POST', "api-keys/$k->{id}/rotate", body => {
            grace => '1h' }));

        is(status($a, $_), 200, 'both pass during the grace')
            for $k->{key}, $r->{key};
        wait_status($b, $r->{key}, 200);
        is(status($b, $k->{key}), 200, 'on both nodes');

        my $end = $round % 2 ? 'rotate' : 'end';
        my $new = $r->{key};

        if ($end eq 'rotate') {
            $new = json($b->admin('POST', "api-keys/$k->{id}/rotate",
                                  body => {}))->{key};
            is(status($b, $_), 401, 'rotated out') for $k->{key}, $r->{key};

        } else {
            my ($old) = grep { $_->{state} eq 'grace' } @{$r->{secrets}};

            is($b->admin('DELETE', "api-keys/$k->{id}/secrets/$old->{id}")
                 ->{status}, 204, 'the grace is ended');
            is(status($b, $k->{key}), 401, 'refused at once');
        }

        is(status($b, $new), 200, 'the last one passes');
        wait_status($a, $k->{key}, 401);
        wait_status($a, $new, 200);
    }
};


# The connection that listens is cut in the transaction that changes a key: the
# notice goes nowhere, and there is no poll for an hour.

subtest 'the listener is cut off' => sub {
    my $k = $t->key(name => 'cut');
    my $cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name = 'apikey keyring'";

    wait_status($_, $k->{key}, 200) for $a, $b;

    for my $round (1 .. rounds(3, 30)) {
        for my $to ('false', 'true') {
            my $n = $pg->value("BEGIN; UPDATE apikey.key SET enabled = $to
                WHERE id = '$k->{id}'; $cut; COMMIT");

            cmp_ok($n, '>', 0, 'cut');

            ok(wait_status($_, $k->{key}, $to eq 'true' ? 200 : 401),
               $_->name . " hears of $to") for $a, $b;
        }
    }
};


subtest 'a dump is restored into the same database' => sub {
    my $n = $t->nginx(name => 'n', base => $fast)->start;

    my $old = $t->key(name => 'old');
    my $gone = $t->key(name => 'gone', enabled => 0);
    my $dump = $pg->{dir} . '/dump';
    my @to = ('-d', $pg->conninfo(user => 'postgres'));

    wait_status($n, $old->{key}, 200);

    is(system(Apikey::Postgres::bindir() . '/pg_dump', '-Fc', '-n', 'apikey',
              '-f', $dump, @to), 0, 'dumped');

    my $new = $t->key(name => 'new');
    $pg->run("UPDATE apikey.key SET revoked_at = now()
              WHERE id = '$old->{id}';
              UPDATE apikey.key SET enabled = true WHERE id = '$gone->{id}'");

    wait_status($n, $new->{key}, 200);
    wait_status($n, $old->{key}, 401);
    wait_status($n, $gone->{key}, 200);

    # all tables are locked while nodes use them: a deadlock ends one of both

    ok(wait_for('the restoring', sub {
        system(Apikey::Postgres::bindir() . '/pg_restore', '--clean',
               '--single-transaction', @to, $dump) == 0;
    }, 60), 'restored');

    ok(wait_status($n, $new->{key}, 401), 'what was made since is gone');
    ok(wait_status($n, $old->{key}, 200), 'what was revoked since is back');
    ok(wait_status($n, $gone->{key}, 401), 'what was enabled since is not');
    ok($n->wait_log(qr/\[warn\].*Postgres is not the one it was/), 'warned');

    my $next = $t->key(name => 'next');

    ok(wait_status($n, $next->{key}, 200), 'and it goes on');
    $n->stop;
};


# A schema that is older or newer by a column: rows are read all the same.

subtest 'rows of other schemas' => sub {
    my $was = $pg->value("SELECT pg_get_functiondef('apikey.keyring_rows(
        uuid[], uuid[], text, uuid, int)'::regprocedure)");
    my ($columns) = $was =~ /RETURNS TABLE\((.*)\)\n/ or die $was;

    my $n = $t->nginx(name => 'other', base => $fast);
    my $rows = 'apikey.keyring_rows(uuid[], uuid[], text, uuid, int)';

    $pg->run("ALTER FUNCTION $rows RENAME TO rows_now");

    for my $case ([ 'oldest', qr/^(models|terms|calendar)$/, '' ],
                  [ 'older', qr/^(terms|calendar)$/, '' ],
                  [ 'newer', qr/^$/, ", 'x'::text AS more" ])
    {
        my ($name, $without, $more) = @$case;

        my @names = grep { $_ !~ $without }
                    map { (split)[0] } split /, /, $columns;

        $pg->run("CREATE TYPE apikey.other AS ("
            . join(', ', map { my ($c) = split; $c =~ $without ? () : $_ }
                         split /, /, $columns)
            . ($more ? ', more text' : '') . ");
            CREATE FUNCTION apikey.keyring_rows(keys uuid[], owners uuid[],
                page text, after uuid, n int) RETURNS SETOF apikey.other
            LANGUAGE sql STABLE SECURITY DEFINER AS \$\$
                SELECT " . join(', ', @names) . "$more
                FROM apikey.rows_now(\$1, \$2, \$3, \$4, \$5) \$\$;
            GRANT EXECUTE ON FUNCTION $rows TO apikey_gateway");

        my $k = $t->key(name => $name, scopes => ['a'],
                        allowed_ips => ['127.0.0.0/8'], limits => [
            { name => 'hourly', limit => 9, window => '1h' } ]);

        # until Postgres is reached, the copy of the last start decides

        $n->start;
        ok(wait_status($n, $k->{key}, 200), "$name: loaded");

        my $made = $t->key(name => $name);
        ok(wait_status($n, $made->{key}, 200), "$name: made");
        $pg->run("UPDATE apikey.key SET revoked_at = now()
                  WHERE id = '$k->{id}'");
        ok(wait_status($n, $k->{key}, 401), "$name: revoked");

        $n->stop;
        $pg->run("DROP FUNCTION $rows; DROP TYPE apikey.other");
    }

    $pg->run('ALTER FUNCTION apikey.rows_now(uuid[], uuid[], text, uuid, int)
              RENAME TO keyring_rows');
};

$t->done;
