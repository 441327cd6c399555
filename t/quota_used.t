
# What Postgres knows of the use of quotas and budgets, for nodes that have
# lost it: by holder, unit, service, model and time.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for clear_of);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

my @key = $t->keys(2, owner => 'ada');
my $lone = $t->key;
my $large = $t->key;
my $ada = $pg->value("SELECT id FROM apikey.owner WHERE external = 'ada'");

my $n = $t->nginx(server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_service $arg_service;
            apikey_model $arg_model;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /dry/ {
            apikey required;
            apikey_dry_run on;
            apikey_scope nobody:has;
            apikey_usage headers;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

$t->sync;


sub now { $pg->value('SELECT extract(epoch FROM clock_timestamp()) * 1000000')
          =~ s/\..*//r }


sub used {
    my (%of) = @_;

    my ($row) = $pg->rows("BEGIN; SELECT set_config('apikey.caller', 'node',"
        . " true) \\gset x\nSELECT used, as_of FROM apikey.quota_used("
        . join(', ', map({ $pg->quote($_) } $of{holder} // $key[0]{id},
                         $of{level} // 'key', $of{unit} // 'requests',
                         $of{service}, $of{model}), $of{since} // 0)
        . ");\nCOMMIT;", user => 'apikey_gateway');

    return wantarray ? @$row : $row->[0] + 0;
}


sub send_one {
    my ($key, $cost, %arg) = @_;

    my $query = join '&', map { "$_=$arg{$_}" } sort keys %arg;

    return $n->get("/set/X-Usage-Cost/$cost/set/X-Usage-Input-Tokens/10"
                   . "/set/X-Usage-Output-Tokens/5?$query",
                   key => $key->{key});
}


# what is asked since its end has to be in the same quarter

clear_of(900, 10);

my $start = now();

send_one($key[0], '0.25', service => 'chat', model => 'gpt-4', weight => 3);
send_one($key[0], '0.5', service => 'chat', model => 'gpt-4o', weight => 0);
send_one($key[1], '1', service => 'draw', model => 'dall-e');
send_one($lone, '8', service => 'chat');
$n->get('/dry/set/X-Usage-Cost/100', key => $key[0]{key});
$n->get('/', key => 'sk_nobody_knows_it');

my $end = now();

wait_for('all of it', sub { (used())[1] > $end });

is(used(), 3, 'request units of a key are its weights');
is(used(unit => 'tokens'), 30, 'tokens');
is(used(unit => 'cost'), 750_000_000, 'nano-units; no dry run');
is(used(holder => $ada, level => 'owner'), 4, 'of an owner');
is(used(holder => $ada, level => 'owner', unit => 'cost'), 1_750_000_000,
   'the cost of both keys');
is(used(holder => $lone->{id}, unit => 'cost'), 8_000_000_000,
   'of a key without owner');
is(used(holder => $ada, level => 'key'), 0, 'an owner is no key');

is(used(holder => $ada, level => 'owner', unit => 'cost', service => 'chat'),
   750_000_000, 'of a service');
is(used(holder => $ada, level => 'owner', unit => 'cost', service => '*a*',
        model => 'gpt-*'), 750_000_000, 'of patterns');
is(used(unit => 'cost', model => 'gpt-4'), 250_000_000, 'of a model');
is(used(unit => 'cost', model => 'gpt-4', service => 'draw'), 0, 'of neither');

is(used(since => $start, unit => 'cost'), 750_000_000, 'since it began');
is(used(since => $end, unit => 'cost'), 0,
   'what came before in the same quarter of an hour is not counted');
is(used(since => $end + 3_600_000_000), 0, 'nor what is to come');

is($pg->value("BEGIN; SELECT used FROM apikey.quota_used('$key[0]{id}',
               'key', 'cost', NULL, NULL, 0); COMMIT;",
              user => 'apikey_gateway'), 0, 'nobody but a node is told');


# what nodes ask for: all of theirs is in, or that of all of them

sub known {
    my (%of) = @_;

    my ($node) = $pg->value("SELECT node FROM apikey.usage_node
                             WHERE as_of > to_timestamp(0) LIMIT 1");

    return join ' ', map { $_ // '' } $pg->column(($of{first} // '')
        . 'SELECT used FROM apikey.limits_known('
        . $pg->quote(Apikey::Test::json_encode({ node => $node,
            born => $of{born} // 0, after => $of{after},
            limits => [ { holder => $key[0]{id}, level => 'key', kind => '',
                          unit => $of{unit} // 'requests', service => '',
                          model => $of{model} // '', since => 0,
                          exists $of{strict} ? (strict => $of{strict}) : ()
                          } ] })) . ')', user => 'apikey_gateway');
}

my $later = now() + 3_600_000_000;

is(known(), 3, 'of all that is in');
is(known(born => $end, after => $end), '', 'until it is said what ran then');
wait_for('what runs', sub { known(after => $end) ne '' });
is(known(born => $end, after => $end), 3, 'at that time');
is(known(born => $later), '', 'nothing before the node has told all');
is(known(after => $later), '', 'nor before all nodes have');

# What runs counts where all of it has to be known, and when it has ended, too.

my $c = $n->conn;

$c->send(Apikey::Http::build('GET', '/gate?weight=2', key => $key[0]{key}));
wait_for('it to run', sub { grep { $_->{uri} =~ m{^/gate} } $up->requests });

my $ran = now();

wait_for('what runs', sub { known(after => $ran) ne '' });
is(known(after => $ran), 5, 'with what runs');
is(known(), 3, 'where nothing was lost it is counted by itself');

$up->let_go;
$c->response;
wait_for('its end', sub { used() == 5 });
is(known(after => $ran), 5, 'what has ended counts once');
is($pg->value('SELECT count(*) FROM apikey.usage_running'), 0,
   'and runs no more');


# A node that goes back to an older module ships, and does not ask any more
# whether anybody wants to know what runs.  One that hangs does neither.

{
    my $back = $pg->value(q{SELECT md5('back')::uuid});
    my $beat = "SELECT apikey.usage_heartbeat('$back', 'back', $later)";
    my $want = "SELECT apikey.usage_want('$back')";
    my $told = sub { known(after => $_[0]) ne '' };
    my $at = now();

    my $says = sub {
        my $real = "SELECT min(runs_at) FROM apikey.usage_node
                    WHERE node <> '$back'";

        known(after => $at);
        wait_for('the other one',
            sub { $pg->value("SELECT ($real) > apikey.usage_time($at)
                              AND apikey.usage_as_of()
                                  > apikey.usage_time($at)") eq 't' });
    };

    $pg->run($beat, user => 'apikey_gateway');
    $says->();
    ok($told->($at), 'a node that never asked is not waited for');

    $pg->run($want, user => 'apikey_gateway');
    ok(!$told->($at), 'one that asks is');

    $pg->run("INSERT INTO apikey.node VALUES ('$back', 'back', '0');
              UPDATE apikey.usage_node SET seen_at = now() - interval '1 min'
              WHERE node = '$back'; $want");
    ok(!$told->($at), 'also when it hangs');

    $pg->run($beat, user => 'apikey_gateway');
    ok($told->($at), 'and no more when it ships and does not ask');

    $pg->run($want, user => 'apikey_gateway');
    ok(!$told->($at), 'until it asks again');

    # what runs there and may take all that is left has to end first

    my $open = sub { known(after => $at, unit => 'tokens', @_) };

    $pg->run("UPDATE apikey.usage_node SET runs_at = now()
              WHERE node = '$back';
              INSERT INTO apikey.usage_running
              SELECT '$back', n.runs_at, gen_random_uuid(), now(),
                  '$key[0]{id}', 'ada', '', NULL, 1, NULL, 0
              FROM apikey.usage_node n WHERE n.node = '$back'");

    is($open->(), '', 'it may take all tokens');
    is($open->(strict => \1, model => 'gpt-4'), '', '... of any model');
    is($open->(strict => \0), 30, '... but where it could take none');
    is(known(after => $at, unit => 'cost'), 750_000_000, '... at no cost');
    is(known(after => $at, model => 'gpt-4o'), 1, '... of any model');

    $pg->run("$beat; UPDATE apikey.usage_node
              SET asked_at = seen_at - interval '11 s' WHERE node = '$back'",
             user => 'apikey_gateway');
    is($open->(), 30, 'of a node that is away nobody will know');

    $pg->run("DELETE FROM apikey.usage_running;
              UPDATE apikey.usage_node SET runs_at = '-infinity'
              WHERE node = '$back'; $want");

    # what ran on it is over after a day, where it does not say so itself

    $pg->run("INSERT INTO apikey.usage_running
              SELECT n::uuid, now() - interval '25 h', gen_random_uuid(),
                  now() - interval '25 h', '$lone->{id}', '', '', '', 1, 1, 1
              FROM unnest(ARRAY['$back', md5('gone')]) AS n");

    my $kept = 'SELECT string_agg(node::text, \' \') FROM apikey.usage_running';

    # it may be back, and be taking that away itself: nobody waits for it

    open my $psql, '|-', Apikey::Postgres::bindir() . '/psql', '-Xqo',
        '/dev/null', $pg->conninfo(user => 'postgres') or die "psql: $!\n";
    $psql->autoflush;
    print $psql "BEGIN; DELETE FROM apikey.usage_running
                 WHERE node = md5('gone')::uuid;\n";
    wait_for('who takes it away', sub { $pg->value("SELECT count(*)
        FROM pg_stat_activity WHERE state = 'idle in transaction'
        AND query LIKE 'DELETE%'") });
    is(eval { known(after => $later, first => 'SET lock_timeout = 1;') }, '',
       'a node that is back does not hold up who asks');
    print $psql "ROLLBACK;\n";
    close $psql or die "psql: $?\n";

    known(after => $later);
    is($pg->value($kept), $back, 'what ran on a node that is away is over');

    $pg->run("DELETE FROM apikey.usage_running;
              DELETE FROM apikey.node WHERE id = '$back';
              DELETE FROM apikey.usage_node WHERE node = '$back'");
}

# A node that has shipped nothing yet, for all it has admitted still runs: what
# its worker leaves that dies is taken off what is said to run, too.

{
    my $young = $t->nginx(name => 'young', server => <<'EOT')->start;
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT
    my $key = $t->key;
    my @c = map { $young->conn } 1 .. 3;
    my $hits = $up->hits;

    $t->sync;
    $_->send(Apikey::Http::build('GET', '/gate', key => $key->{key})) for @c;
    $up->wait_hits($hits + @c);

    my $from = "FROM apikey.usage_running WHERE key_id = '$key->{id}'";

    known(after => now());
    wait_for('it to say so', sub { $pg->value("SELECT count(*) $from") == 3 });

    $pg->run("CREATE TABLE twice (runs int);
        CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql
            SECURITY DEFINER AS \$\$ BEGIN
                INSERT INTO twice SELECT count(*) $from;
                RETURN NULL;
            END \$\$;
        CREATE CONSTRAINT TRIGGER twice AFTER INSERT ON apikey.usage_stream
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            EXECUTE FUNCTION twice()");

    $young->kill_worker;
    wait_for('the first batch',
             sub { $pg->value('SELECT count(*) FROM twice') });
    is($pg->value('SELECT sum(runs) FROM twice'), 0,
       'a first batch takes away what is said to run');

    $young->stop;
    $pg->run("DROP TRIGGER twice ON apikey.usage_stream;
              DROP FUNCTION twice; DROP TABLE twice;
              DELETE FROM apikey.node WHERE name = 'young';
              DELETE FROM apikey.usage_node WHERE name = 'young'");
}

$pg->run("DELETE FROM apikey.usage_event");
is(used(since => $end, unit => 'cost'), 750_000_000,
   'without raw events all of the quarter counts');


# A node that is alive and whose shipping hangs is waited for, however long it
# hangs: who has Redis lose a quota then must not be told that all is known.

my $as_of;

ok($pg->while_locked('LOCK TABLE apikey.usage_quarter IN EXCLUSIVE MODE',
    sub { $n->get('/', key => $lone->{key})->{status} == 200 },
    sub {
        $pg->run("UPDATE apikey.usage_node
                  SET seen_at = now() - interval '1 min'");
        $as_of = $pg->value('SELECT now() - apikey.usage_as_of()
                                    > interval \'0\'');
    }), 'a batch hangs');
is($as_of, 't', 'what is known ends before it');

wait_for('it to be shipped', sub { used(holder => $lone->{id}) == 2 });


# Sums beyond 64 bits, in one batch.

$pg->stop;

{
    my $one = Apikey::Http::build('GET', '/set/X-Usage-Cost/9007199.25'
        . '?weight=9007199254740991', key => $large->{key});

    for (1 .. 11) {
        my $c = $n->conn;
        $c->send($one x 100);
        $c->response for 1 .. 100;
    }
}

$pg->start;
wait_for('1100 of the largest', sub {
    ($pg->value("SELECT requests FROM apikey.key_usage
                 WHERE key_id = '$large->{id}'") // 0) == 1100;
});

is($pg->value("SELECT cost FROM apikey.key_usage
               WHERE key_id = '$large->{id}'"), '9907919175000000000',
   'the sum of their costs');
is($pg->value("SELECT sum(units) FROM apikey.usage_quarter
               WHERE key_id = '$large->{id}'"), '9907919180215090100',
   'and of their units');
is($pg->value('SELECT count(*) FROM apikey.usage_quarantine'), 0,
   'none is refused');


# A node of an older version says nothing of units.

$pg->run("BEGIN; SET LOCAL ROLE apikey_gateway;
    SELECT set_config('apikey.caller', 'node', true);
    SELECT apikey.usage_apply(gen_random_uuid(), 'old', 1000000,
        '{1}', '{1}', '{0}', '{1}', '{2}', '{900000000}', '{$lone->{id}}',
        '{\"\"}', '{\"\"}', '{old}', '{\"\"}', '{\"\"}', '{success}', '{200}',
        '{ok}', '{\"\"}', '{2}', '{0}', '{0}', '{0}', '{0}', '{0}', '{0}',
        '{5}', '{0}', '{0}', '{0}', '{0}', '{900000000}', '{}', '{}');
    COMMIT;");

is(used(holder => $lone->{id}, service => 'old'), 2, 'each request is one');

$t->done;
