# The admin API when its stores fail, under load, and with clients that leave.

use strict;
use warnings;

use Test::More;

use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json plain_key rounds);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $n = $t->nginx(workers => 2)->start;
my $pg = $t->postgres;


sub problem {
    my ($r, $status, $code) = @_;

    my $p = eval { json($r) } // {};

    is("$r->{status} " . ($p->{code} // $r->{body}), "$status $code",
       "$status $code");
    is($r->{headers}{'content-type'}, 'application/problem+json',
       '... as a problem');
    return $p;
}


subtest '1000 at once' => sub {
    my $before = $pg->value('SELECT count(*) FROM apikey.key');
    my $wanted = 1000;

    my @r = $n->parallel(map { +{
        method => 'POST', uri => '/api/v1/api-keys',
        headers => [ Authorization => 'Bearer ' . $t->token,
                     'Content-Type' => 'application/json' ],
        body => qq({"name": "key $_", "owner": "owner ${\ ($_ % 7) }"}),
    } } 1 .. $wanted);

    my %status;
    $status{$_->{status}}++ for @r;

    is_deeply(\%status, { 201 => $wanted }, 'none fails');
    is($pg->value('SELECT count(*) FROM apikey.key') - $before, $wanted,
       'all are stored');

    my %keys = map { json($_)->{key} => 1 } @r;

    is(keys %keys, $wanted, 'all differ');

    my @some = (keys %keys)[0 .. 49];

    is(scalar(grep { $n->get('/', key => $_)->{status} == 200 } @some), 50,
       'and pass');
};


# Another client of Postgres that holds the row of a key until it is told.

sub hold {
    my ($id) = @_;

    my $lock = spawn(name => 'lock', log => $t->dir . '/lock.log', code => sub {
        $pg->run("BEGIN; SELECT FROM apikey.key WHERE id = '$id' FOR UPDATE;"
            . ' SELECT pg_sleep(60); COMMIT;');
    });

    wait_for('the lock', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep'");
    });

    return $lock;
}


sub release {
    my ($lock) = @_;

    $pg->run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE wait_event = 'PgSleep'");
    $lock->stop;
}


# A PATCH of this key on a connection of its own, sent and not answered.

sub patch {
    my ($id, $name) = @_;

    my $conn = $n->conn;

    $conn->send(Apikey::Http::build('PATCH', "/api/v1/api-keys/$id",
        headers => [ Authorization => 'Bearer ' . $t->token,
                     'Content-Type' => 'application/json' ],
        body => qq({"name": "$name"})));

    return $conn;
}


sub wait_blocked {
    wait_for('a statement that waits', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock'");
    });
}


subtest 'clients that leave' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => { name => 'locked' }));
    my $lock = hold($k->{id});
    my @conns = map { patch($k->{id}, "name $_") } 1 .. 6;

    wait_blocked();
    cmp_ok($n->metric('apikey_waiting'), '>=', 1, 'they are seen to wait');

    $conns[$_]->abort for 0, 1, 2;
    $conns[3]->close;
    $conns[4]->half_close;

    wait_for('the ones that left', sub { $n->metric('apikey_waiting') == 1 });

    release($lock);

    my $r = $conns[5]->response;

    is($r->{status}, 200, 'the one that stayed');
    is(json($r)->{name}, 'name 6', 'is made');
};


subtest 'a reload while one waits' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => { name => 'locked' }));
    my $lock = hold($k->{id});
    my $conn = patch($k->{id}, 'reloaded');

    wait_blocked();
    $n->reload;
    release($lock);

    my $r = $conn->response;

    is($r->{status}, 200, 'it is answered');
    is(json($r)->{name}, 'reloaded', 'and made');
    $n->wait_old;
};


subtest 'a lock that stays' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => { name => 'locked' }));
    my $lock = hold($k->{id});
    my $r = $n->admin('DELETE', "api-keys/$k->{id}");

    problem($r, 503, 'unavailable');
    ok($r->{headers}{'retry-after'}, 'Retry-After');

    release($lock);

    is($n->admin('DELETE', "api-keys/$k->{id}")->{status}, 204, 'once free');
};


subtest 'an older schema' => sub {
    $pg->run('ALTER FUNCTION apikey.api(text, text, text) RENAME TO gone');

    my $r = $n->admin('GET', 'api-keys');
    my $p = problem($r, 503, 'schema_outdated');

    like($p->{detail}, qr/apikeyctl schema apply/, 'says the command');
    ok($r->{headers}{'retry-after'}, 'Retry-After');

    $pg->run('ALTER FUNCTION apikey.gone(text, text, text) RENAME TO api');
    is($n->admin('GET', 'api-keys')->{status}, 200, 'applied');
};


subtest 'a lower number of the schema' => sub {
    my $version = $pg->value('SELECT apikey.schema_version()');
    my $set = sub {
        $pg->run('CREATE OR REPLACE FUNCTION apikey.schema_version()'
                 . ' RETURNS int LANGUAGE sql STABLE'
                 . " SET search_path = apikey, pg_temp RETURN $_[0]");
    };

    $set->($version - 1);

    my $node = $t->nginx(name => 'newer')->start;

    wait_for('the version to be seen', sub {
        (json($node->admin('GET', 'health'))->{schema} // 0)
            == $version - 1;
    });

    my $p = problem($node->admin('GET', 'api-keys'), 503, 'schema_outdated');
    my $k = $t->key(name => 'served');

    like($p->{detail}, qr/apikeyctl schema apply/, 'says the command');
    like("@{json($node->admin('GET', 'health'))->{warnings}}",
         qr/older than this module/, 'health warns');

    my $says = qr/\[error\].*database\ has\ schema\ @{[$version - 1]},
                  .*needs\ $version\b.*apikeyctl\ schema\ apply/x;

    like($node->log_text, $says, 'the log, too');

    $t->sync($node);
    is($node->get('/', key => $k->{key})->{status}, 200, 'it serves');

    $set->($version);
    wait_for('the admin API', sub {
        $node->admin('GET', 'api-keys')->{status} == 200;
    });

    pass('once it is applied');
    is(() = $node->log_text =~ /$says/g, 1, 'the log has said so once');
    is(() = $node->log_text =~ /database has schema $version now/g, 1,
       'and once that it is over');
    $node->stop;
};


# A function that shipping needs is not there yet: that is said once, however
# often it is tried.

subtest 'usage waits for the schema' => sub {
    my $node = $t->nginx(name => 'waits')->start;
    my $k = $t->key(name => 'waits');
    my $shipped = sub { $pg->value("SELECT requests FROM apikey.key_usage
                                    WHERE key_id = '$k->{id}'") // 0 };

    my $over = sub {
        return scalar(() = $node->log_text =~ /Postgres takes usage again/g);
    };

    $t->sync($node);
    is($node->get('/', key => $k->{key})->{status}, 200, 'a request');
    wait_for('its usage', sub { $shipped->() == 1 });

    for my $case (['usage_runs_to', 'to say which usage it has', 1],
                  ['usage_want', 'a (?:batch of usage|heartbeat)', 2])
    {
        my ($name, $what, $nodes) = @$case;
        my $says = qr/\[error\].*refused $what \(42883:.*no usage/;
        my ($sent, $was) = ($shipped->(), $over->());

        $pg->run("ALTER FUNCTION apikey.$name(uuid) RENAME TO gone");
        $node->kill_worker if $name eq 'usage_runs_to';    # read at a start
        is($node->get('/', key => $k->{key})->{status}, 200, "no $name");
        wait_for('the log', sub { $node->log_text =~ $says });

        # the other node has read at its start what is read then

        wait_for('more tries', sub {
            my %tries;

            open my $f, '<', $pg->{log} or die "$pg->{log}: $!\n";
            /\[(\d+)\] .*ERROR: +function apikey\.$name/ && $tries{$1}++
                while <$f>;
            return %tries >= $nodes && !grep { $_ < 3 } values %tries;
        });

        $pg->run("ALTER FUNCTION apikey.gone(uuid) RENAME TO $name");
        wait_for('its usage', sub { $shipped->() == $sent + 1 });

        is(() = $node->log_text =~ /$says.*apikeyctl schema apply/g, 1,
           'said once');
        wait_for('the end of it', sub { $over->() > $was });
        is($over->(), $was + 1, 'as is that it is over');
    }

    # what runs is said beside usage, which does not wait for it

    my ($sent, $was) = ($shipped->(), $over->());
    my $tries = sub {
        open my $f, '<', $pg->{log} or die "$pg->{log}: $!\n";
        return scalar grep { /denied for table usage_running/ } <$f>;
    };

    $pg->run("REVOKE DELETE ON apikey.usage_running FROM apikey_gateway;
              INSERT INTO apikey.usage_wanted (until)
              VALUES (now() + interval '1 minute')");

    for my $n (1 .. 3) {
        my $before = $tries->();

        wait_for('a try', sub {
            $tries->() > $before + 1;
        });
        is($node->get('/', key => $k->{key})->{status}, 200, 'a request');
        wait_for('its usage', sub { $shipped->() == $sent + $n });
    }

    $node->wait_log(qr/refused to hear what runs/);
    $pg->run("GRANT DELETE ON apikey.usage_running TO apikey_gateway");
    $node->wait_log(qr/Postgres hears what runs again/);
    is(() = $node->log_text =~ /refused to hear what runs \(42501:/g, 1,
       'what runs is not heard: said once');
    is($over->(), $was, 'usage has not been refused');

    $pg->run('DELETE FROM apikey.usage_wanted');
    $node->stop;
};


# The functions are there, but the schema calls itself older.

subtest 'an older version of the schema' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => { name => 'old' }));
    my $version = $pg->value('SELECT apikey.schema_version()');
    my $body = $pg->value("SELECT pg_get_functiondef(
        'apikey.schema_version()'::regprocedure)");

    my $restart = sub {
        $pg->stop('KILL');
        $pg->start;
    };

    $pg->run("DROP FUNCTION apikey.schema_version();
              CREATE FUNCTION apikey.schema_version() RETURNS int
              LANGUAGE sql RETURN " . ($version - 1) . ';
              GRANT EXECUTE ON FUNCTION apikey.schema_version()
              TO apikey_gateway;');
    $restart->();

    wait_for('the older version', sub {
        my $r = $n->admin('GET', 'api-keys');
        $r->{status} == 503 && json($r)->{code} eq 'schema_outdated';
    }, 30);

    # each worker finds it for itself

    my $r;

    wait_for('the other worker, too', sub {
        $r = $n->admin('POST', 'api-keys', body => { name => 'x' });
        return json($r)->{code} ne 'unavailable';
    }, 30);

    my $p = problem($r, 503, 'schema_outdated');

    like($p->{detail}, qr/apikeyctl schema apply/, 'says the command');
    is($n->get('/', key => $k->{key})->{status}, 200, 'keys pass');

    # 503 while what asks Postgres about them is not back yet

    ok(eval { wait_for('others do not', sub {
        $n->get('/', key => plain_key('sk'))->{status} == 401;
    }) }, 'others do not');

    my $h = json($n->admin('GET', 'health'));

    is($h->{status}, 'degraded', 'health: degraded');
    is($h->{schema}, $version - 1, 'health: the version');
    like("@{$h->{warnings}}", qr/apikeyctl schema apply/,
         'health: the command');

    $pg->run("DROP FUNCTION apikey.schema_version(); $body;
              GRANT EXECUTE ON FUNCTION apikey.schema_version()
              TO apikey_gateway;");
    $restart->();

    wait_for('the admin API', sub {
        $n->admin('GET', 'api-keys')->{status} == 200;
    }, 90);

    pass('once it is applied');
};


subtest 'a zone that is too small' => sub {
    my @keys = $t->keys(6000, name => 'many');
    my $node = $t->nginx(name => 'small', base => {
        zone => 'apikey_zone zone=apikey:1m;' });

    $node->start(wait => 0);

    wait_for('the keys that fit', sub {
        $node->log_text =~ /zone is too small for all keys/;
    }, 20);

    my @status = map { $node->admin('GET', 'whoami', as => $_->{key})
                           ->{status} } @keys[map { 100 * $_ } 0 .. 59];

    is(join(' ', grep { $_ != 200 } @status), '', 'any key is found');
    is($node->admin('GET', 'whoami', as => plain_key('sk'))->{status}, 401,
       'one that does not exist is not');
    is($node->admin('GET', 'whoami', as => $keys[0]{key} . 'x')->{status},
       401, 'a foreign one is not');

    my $made = json($node->admin('POST', 'api-keys', body => { name => 'x' }));

    is($node->admin('GET', 'whoami', as => $made->{key})->{status}, 200,
       'a new one is');
    is($node->admin('DELETE', "api-keys/$made->{id}")->{status}, 204,
       'revoked');
    is($node->admin('GET', 'whoami', as => $made->{key})->{status}, 401,
       'and refused at once');

    my $h = json($node->admin('GET', 'health'));

    is($h->{status}, 'degraded', 'health: degraded');
    like("@{$h->{warnings}}", qr/too small/, 'says why');
    $node->stop;
};


subtest 'no schema yet' => sub {
    $pg->run('CREATE DATABASE early TEMPLATE template0');

    my ($conninfo, $super) = map { s/dbname=postgres/dbname=early/r }
        $pg->conninfo, $pg->conninfo(user => 'postgres');

    my $version = $pg->value('SELECT apikey.schema_version()');
    my $node = $t->nginx(name => 'early', base => {
        postgres => qq(apikey_postgres "$conninfo" poll=200ms;) });

    $node->start(wait => 0);

    my $r = $node->admin('GET', 'api-keys');
    my $p = problem($r, 503, 'schema_outdated');

    like($p->{detail}, qr/apikeyctl schema apply/, 'says the command');
    is($node->get('/health')->{status}, 200, 'it serves');

    $pg->ctl('schema', 'apply', '--postgres', $super);

    wait_for('the admin API', sub {
        $node->admin('GET', 'api-keys')->{status} == 200;
    }, 90);

    pass('once it is applied');
    is(() = $node->log_text =~ /\[error\].*has schema 0,/g, 1, 'the log: once');
    $node->wait_log(qr/has schema @{[$version]} now/);
    $node->stop;
};


subtest 'Postgres is down' => sub {
    my $k = json($n->admin('POST', 'api-keys', body => { name => 'known' }));

    $pg->stop;

    my $r = $n->admin('GET', 'api-keys');

    problem($r, 503, 'unavailable');
    ok($r->{headers}{'retry-after'}, 'Retry-After');

    problem($n->admin('POST', 'api-keys', body => { name => 'x' }), 503,
            'unavailable');

    is($n->get('/', key => $k->{key})->{status}, 200, 'known keys pass');
    is($n->admin('GET', 'health')->{status}, 200, 'health answers');

    $pg->start;

    wait_for('the admin API', sub {
        $n->admin('GET', 'api-keys')->{status} == 200;
    }, 20);

    pass('it is back');
};


subtest 'a start without Postgres' => sub {
    my @keys;

    # a worker may not have found Postgres yet

    wait_for('keys', sub {
        my $r = $n->admin('POST', 'api-keys', body => { name => 'saved' });

        push @keys, json($r) if $r->{status} == 201;
        return @keys == 20;
    });

    $t->sync($n);
    $n->stop;
    $pg->stop;
    $n->start;

    is(join(' ', map { $n->get('/', key => $_->{key})->{status} } @keys),
       join(' ', (200) x @keys), 'every key passes');
    is($n->get('/', key => plain_key('sk'))->{status}, 401, 'no other does');

    problem($n->admin('GET', 'whoami', as => $keys[0]{key}), 503,
            'unavailable');
    problem($n->admin('POST', 'api-keys', body => { name => 'x' }), 503,
            'unavailable');
    problem($n->admin('GET', 'whoami', as => plain_key('sk')), 401,
            'invalid_credential');

    my $h = json($n->admin('GET', 'health'));

    is($h->{postgres}, 'down', 'health: Postgres is down');
    ok($h->{ready}, 'health: ready all the same');

    $pg->start;

    wait_for('the admin API', sub {
        $n->admin('GET', 'whoami', as => $keys[0]{key})->{status} == 200;
    }, 20);

    pass('it is back');
};


subtest 'Postgres restarts under load' => sub {
    my (@made, %status);

    for my $round (1 .. rounds(3, 20)) {
        for (1 .. 5) {
            my $r = $n->admin('POST', 'api-keys', body => { name => 'x' });

            $status{$r->{status}}++;
            push @made, json($r)->{id} if $r->{status} == 201;
        }

        $pg->stop('KILL');
        $pg->start;
    }

    wait_for('the admin API', sub {
        $n->admin('GET', 'whoami')->{status} == 200;
    }, 20);

    is_deeply([ grep { !/^(201|503)$/ } keys %status ], [],
              'made, or unavailable');

    my $list = join ',', map { "'$_'" } @made;

    is($pg->value("SELECT count(*) FROM apikey.key WHERE id IN ($list)"),
       scalar @made, 'what was confirmed is there');
};


$t->done;
