# The keyring: a copy equal to Postgres, quickly, and without it.

use strict;
use warnings;

use File::Copy ();
use Test::More;
use Time::HiRes qw(time);
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json rounds plain_key crc32c);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

# Postgres is stopped again and again
$t->allow(qr/Postgres/);


sub status {
    my ($node, $key) = @_;

    return $node->get('/', key => $key)->{status};
}

sub wait_status {
    my ($node, $key, $status) = @_;

    return wait_for("$status", sub { status($node, $key) == $status });
}

sub copy_file { my ($node) = @_; return $node->dir . '/journal/keyring' }

# A copy with a limit of 5 an hour that claims to be longer than its record,
# and with checksums that are right.

sub long_limit {
    my ($f) = @_;

    my $all = do { local $/; <$f> };
    my $head = 224;              # ngx_http_apikey_copy_t, 8 bytes of CRCs last
    my $limit = pack 'Q<Q<', 5, 3_600_000_000;

    $all =~ s/\Q$limit\E.{80}\K../\xf8\xff/gs or die "no limit in the copy\n";

    substr($all, $head - 8, 4) = pack 'V', crc32c(substr $all, $head);
    substr($all, $head - 4, 4) = pack 'V', crc32c(substr $all, 0, $head - 4);

    seek $f, 0, 0;
    print $f $all;
}

# A change, until it is in force.

sub in_force {
    my ($node, $key, $status, $sql) = @_;

    $pg->run($sql);
    return wait_status($node, $key, $status);
}

# A transaction that does this and commits when it is let go.

sub hold {
    my ($sql) = @_;

    $pg->run('CREATE TABLE IF NOT EXISTS gate (); TRUNCATE gate');

    my $held = spawn(name => 'held', log => $t->dir . '/held.log', code => sub {
        $pg->run("BEGIN; $sql; DO \$do\$ BEGIN
            WHILE NOT EXISTS (SELECT FROM gate) LOOP
                PERFORM pg_sleep(0.05);
            END LOOP; END \$do\$; COMMIT");
    });

    wait_for('the held one', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep'");
    });

    return $held;
}

sub let_go {
    my ($held) = @_;

    $pg->run('INSERT INTO gate DEFAULT VALUES');
    wait_for('its commit', sub { !$held->alive });
    is($held->{status}, 0, 'committed');
}

sub notices {
    my ($to) = @_;

    my ($from, $new) = $to ? ('elsewhere', 'apikey') : ('apikey', 'elsewhere');

    $pg->run("DO \$do\$ BEGIN EXECUTE replace(pg_get_functiondef(
        'apikey.row_changed'::regproc), 'pg_notify(''$from''',
        'pg_notify(''$new'''); END \$do\$");
}


# what gets to a node that does not poll was brought by a notice
my $slow = { redis => undef,
             postgres => 'apikey_postgres "%%PG%%" poll=1h;' };
my $fast = { redis => undef };

my $a = $t->nginx(name => 'a', workers => 2, base => $slow)->start;

subtest 'notices' => sub {
    my $k = $t->key(name => 'one', owner => 'acme');

    ok(wait_status($a, $k->{key}, 200), 'a new key');

    for (1 .. rounds(5, 50)) {
        ok(in_force($a, $k->{key}, 401, "UPDATE apikey.key
            SET enabled = false WHERE id = '$k->{id}'"), 'disabled');
        ok(in_force($a, $k->{key}, 200, "UPDATE apikey.key
            SET enabled = true WHERE id = '$k->{id}'"), 'enabled');
    }

    ok(in_force($a, $k->{key}, 401, "UPDATE apikey.owner
        SET enabled = false WHERE external = 'acme'"), 'its owner');
    ok(in_force($a, $k->{key}, 200, "UPDATE apikey.owner
        SET enabled = true WHERE external = 'acme'"), 'and back');

    my $other = plain_key('sk');

    ok(in_force($a, $other, 200, "INSERT INTO apikey.secret
        (id, key_id, digest, start, last4) VALUES (gen_random_uuid(),
        '$k->{id}', sha256('$other'), 'sk_aaaa', 'zzzz')"),
        'a second secret');
    ok(in_force($a, $k->{key}, 401, "UPDATE apikey.secret
        SET ended_at = now() WHERE id = '$k->{secret}'"),
        'the first one ended');
    is(status($a, $other), 200, 'the second lives');

    ok(in_force($a, $other, 401, "UPDATE apikey.key
        SET revoked_at = now() WHERE id = '$k->{id}'"), 'revoked');
};


subtest 'many at once' => sub {
    my @keys = $t->keys(3000);
    my $start = time;

    ok(wait_status($a, $_->{key}, 200), 'key') for @keys[0, 1500, 2999];
    note sprintf '3000 keys in force %.2f s after their commit', time - $start;
};


# Its indexes are made larger then, for some 2,000 keys first and for any number
# from 16,000 on: no key is ever missing meanwhile.

sub more_key { return sprintf 'more_%045d', $_[0] }

sub more_keys {
    my ($from, $to) = @_;

    $pg->run(<<EOT);
    BEGIN;
    SET LOCAL search_path = apikey;
    CREATE TEMP TABLE made ON COMMIT DROP AS
        SELECT i, gen_random_uuid() AS id FROM generate_series($from, $to) i;
    INSERT INTO key (id, name, prefix, scopes)
        SELECT id, 'key ' || i, 'more', '{}' FROM made;
    INSERT INTO secret (id, key_id, digest, start, last4)
        SELECT gen_random_uuid(), id,
            sha256(convert_to('more_' || lpad(i::text, 45, '0'), 'UTF8')),
            'more_000', right(lpad(i::text, 45, '0'), 4) FROM made;
    COMMIT;
EOT
}

subtest 'as there are more and more' => sub {
    my $n = $t->nginx(name => 'more', workers => 2, base => $fast)->start;
    my $have = 0;
    my %other;

    for my $all (10, 1500, 4500, 10000, 20000) {
        more_keys($have, $all - 1);

        wait_for('the last one', sub {
            my $s = $have ? status($n, more_key(int rand $have)) : 200;

            $other{$s}++ if $s != 200;
            return status($n, more_key($all - 1)) == 200;
        }, 60);

        $have = $all;
    }

    is_deeply(\%other, {}, 'those that were there pass all the time');

    my %status;
    $status{status($n, more_key($_ * 9))}++ for 0 .. int(($have - 1) / 9);
    is_deeply([ keys %status ], [ 200 ], 'all pass');

    for my $i (0, 1499, 4499, 9999, 19999) {
        in_force($n, more_key($i), 401, "UPDATE apikey.key
            SET enabled = false WHERE name = 'key $i' AND prefix = 'more'");
        pass('one is disabled');
    }

    $n->stop;
};


subtest 'without notices' => sub {
    my $n = $t->nginx(name => 'n', base => $fast)->start;
    my $k = $t->key;

    wait_status($n, $k->{key}, 200);
    notices(0);

    for (1 .. 3) {
        ok(in_force($n, $k->{key}, 401, "UPDATE apikey.key
            SET enabled = false WHERE id = '$k->{id}'"), 'disabled');
        ok(in_force($n, $k->{key}, 200, "UPDATE apikey.key
            SET enabled = true WHERE id = '$k->{id}'"), 'enabled');
    }

    # a transaction that writes first and commits last is not missed

    my $late = $t->key;
    wait_status($n, $late->{key}, 200);

    my $held = hold("UPDATE apikey.key SET enabled = false
                     WHERE id = '$late->{id}'");

    for (1 .. 3) {
        in_force($n, $k->{key}, 401, "UPDATE apikey.key SET enabled = false
                                      WHERE id = '$k->{id}'");
        in_force($n, $k->{key}, 200, "UPDATE apikey.key SET enabled = true
                                      WHERE id = '$k->{id}'");
    }

    is(status($n, $late->{key}), 200, 'not committed');
    let_go($held);
    ok(wait_status($n, $late->{key}, 401), 'the late commit');

    notices(1);
    $n->stop;
};


subtest 'the node that answered' => sub {
    for my $round (1 .. rounds(10, 200)) {
        my $r = $a->admin('POST', 'api-keys', body => { name => 'x' });
        my $k = json($r);
        my $key = $k->{secret} // $k->{key};

        is($r->{status}, 201, 'made') or diag $r->{body};
        is(status($a, $key), 200, 'passes at once');
        is($a->admin('DELETE', "api-keys/$k->{id}")->{status}, 204, 'deleted');
        is(status($a, $key), 401, 'refused at once');
    }
};


subtest 'another node' => sub {
    my $b = $t->nginx(name => 'b', base => $slow)->start;
    my $k = json($a->admin('POST', 'api-keys', body => { name => 'x' }));
    my $key = $k->{secret} // $k->{key};

    ok(wait_status($b, $key, 200), 'made');
    $a->admin('DELETE', "api-keys/$k->{id}");
    ok(wait_status($b, $key, 401), 'revoked');

    wait_for('two nodes', sub { $b->metric('apikey_nodes') >= 2 });
    wait_for('a warning', sub { $b->wait_log(qr/each node keeps limits/) });
    $b->stop;
};


subtest 'the elected worker dies, or goes' => sub {
    my $k = $t->key;
    wait_status($a, $k->{key}, 200);

    $a->kill_worker($_) for $a->workers;
    my $killed = time;

    wait_for('another one', sub { $a->keyring_since($killed) });
    ok(in_force($a, $k->{key}, 401, "UPDATE apikey.key SET enabled = false
        WHERE id = '$k->{id}'"), 'after kill -9');

    $a->reload;
    ok(in_force($a, $k->{key}, 200, "UPDATE apikey.key SET enabled = true
        WHERE id = '$k->{id}'"), 'after a reload');
    ok(in_force($a, $k->{key}, 401, "UPDATE apikey.key SET enabled = false
        WHERE id = '$k->{id}'"), 'and as before');
    $a->wait_old;
};


subtest 'Postgres is down' => sub {
    my $k = $t->key(name => 'saved', owner => 'acme', metadata => { a => 1 },
                    limits => [{ name => 'l', limit => 5, window => '1h' }]);
    my $gone = $t->key(revoked => 1);

    wait_status($a, $k->{key}, 200);
    $pg->stop;

    is(status($a, $k->{key}), 200, 'a known key');
    is(status($a, plain_key('sk')), 401, 'an unknown one');
    is(status($a, $gone->{key}), 401, 'a revoked one');

    $a->stop;
    ok(-s copy_file($a), 'a saved copy');
    is((stat _)[2] & 07777, 0600, 'for the owner alone');

    $a->start;
    is(status($a, $k->{key}), 200, 'known to the copy');
    is(status($a, plain_key('sk')), 401, 'unknown to the copy');
    is(status($a, $gone->{key}), 401, 'revoked');
    $a->stop;

    # what changed meanwhile

    $pg->start;
    $pg->run("UPDATE apikey.key SET enabled = false WHERE id = '$k->{id}'");
    my $new = $t->key;
    my $before = time;

    $a->start;
    wait_status($a, $k->{key}, 401);
    wait_status($a, $new->{key}, 200);
    wait_for('current', sub { $a->keyring_since($before) });
    $a->stop;

    # a copy that is not sound

    my $file = copy_file($a);
    my $size = -s $file;

    $pg->stop;

    for my $case ([ 'a bit', sub { seek $_[0], $size / 2, 0;
                                   print { $_[0] } "\x55\xaa" } ],
                  [ 'the head', sub { print { $_[0] } "xxxx" } ],
                  [ 'cut', sub { truncate $_[0], $size - 16 } ],
                  [ 'a limit that ends elsewhere', \&long_limit ],
                  [ 'empty', sub { truncate $_[0], 0 } ])
    {
        File::Copy::copy($file, "$file.good");
        open my $f, '+<:raw', $file or die;
        $case->[1]->($f);
        close $f;

        $a->start(wait => 0);
        is(status($a, $new->{key}), 503, "$case->[0]: nobody can tell");
        ok($a->wait_log(qr/saved keyring .* is not used/), 'logged');
        $a->stop;

        rename "$file.good", $file or die;
    }

    $a->start;
    is(status($a, $new->{key}), 200, 'the sound one again');
    my $back = time;
    $pg->start;
    wait_for('current', sub { $a->keyring_since($back) }, 30);
};


subtest 'while loading' => sub {
    my $k = $t->key;
    my $held = hold('LOCK TABLE apikey.change IN ACCESS EXCLUSIVE MODE');
    my $n = $t->nginx(name => 'loading', base => $fast)->start(wait => 0);

    is($n->get('/health?ready')->{status}, 503, 'loading');

    my @r = $n->parallel(map { { uri => '/', key => $k->{key} } } 1 .. 20);
    is(scalar(grep { $_->{status} == 200 } @r), 20, 'found in Postgres');

    my $unknown = plain_key('sk');
    @r = $n->parallel(map { { uri => '/', key => $unknown } } 1 .. 20);
    is(scalar(grep { $_->{status} == 401 } @r), 20, 'not there');
    is(status($n, $unknown), 401, 'remembered');
    is($n->get('/health?ready')->{status}, 503, 'still loading');

    let_go($held);
    $n->wait_ready;
    is(status($n, $k->{key}), 200, 'complete');
    $n->stop;
};


subtest 'an older Postgres is restored' => sub {
    my $old = $t->key;
    my $data = $pg->{dir} . '/data';

    $pg->stop;
    system('cp', '-a', $data, "$data.old") == 0 or die;
    $pg->start;

    my $new = $t->key;
    wait_for('new', sub { status($a, $new->{key}) == 200 }, 30);
    $pg->run("UPDATE apikey.key SET enabled = false WHERE id = '$old->{id}'");
    wait_status($a, $old->{key}, 401);

    $pg->stop;
    system('rm', '-rf', $data) == 0 or die;
    rename "$data.old", $data or die;
    $pg->start;

    # the same numbers are taken again, by others

    my $next = $t->key;

    wait_for('loaded again', sub { status($a, $next->{key}) == 200 }, 30);
    wait_for('gone', sub { status($a, $new->{key}) == 401 }, 30);
    is(status($a, $old->{key}), 200, 'as it was');
    ok($a->wait_log(qr/not the one it was/), 'logged');
};


subtest 'a zone that is too small' => sub {
    my @keys = $t->keys(12000);
    my $n = $t->nginx(name => 'small', base => { redis => undef,
        zone => 'apikey_zone zone=apikey:1m;' })->start(wait => 0);

    ok(wait_for('a warning', sub {
        $n->wait_log(qr/too small for all keys/) }, 30), 'logged');
    is($n->get('/health?ready')->{status}, 503, 'not ready');

    for (1 .. 300) {
        my $k = $keys[rand @keys];
        my $s = status($n, $k->{key});
        next if $s == 200;
        fail("a key: $s");
        last;
    }

    is(status($n, plain_key('sk')), 401, 'an unknown key');

    for my $k (@keys[0, 6000, 11999]) {
        is(status($n, $k->{key}), 200, 'passes');
        in_force($n, $k->{key}, 401, "UPDATE apikey.key SET enabled = false
                                      WHERE id = '$k->{id}'");
        pass('disabled');
    }

    $n->stop;
};

$a->stop;
$t->done;
