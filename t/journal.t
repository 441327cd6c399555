
# A journal that is full while Postgres is away, with full=refuse and
# full=drop, and a disk that fails to sync.

use strict;
use warnings;

use Test::More;
use Apikey::Ctl;
use Apikey::Http;
use Apikey::Process qw(runs spawn);
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $ctl = Apikey::Ctl->new($t);
my $key = $t->key;

# large records, of which a ring holds few; no upstream, to be quick

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_endpoint $arg_a;
            apikey_service $arg_b;
            empty_gif;
        }
EOT

my $long = 'x' x 200;
my $number = 0;
my $conn;


sub uri { $number++; return "/?a=$number$long&b=$long$long" }

sub one { return $_[0]->get(uri(), key => $key->{key}) }


# Many requests at once; how many answers of each status.

sub many {
    my ($n, $count) = @_;

    my %status;

    $conn //= $n->conn;
    $conn->send(join '', map {
        Apikey::Http::build('GET', uri(), key => $key->{key});
    } 1 .. $count);

    $status{$conn->response->{status}}++ for 1 .. $count;
    return \%status;
}


sub events {
    return $pg->value('SELECT count(*) FROM apikey.usage_event e
                       JOIN apikey.usage_node n USING (node)
                       WHERE n.name = ' . $pg->quote($_[0]->name)
                      . " AND outcome <> 'refused'");
}


sub full {
    my ($name) = @_;

    my $n = $t->nginx(name => $name, server => $server,
        main => 'worker_rlimit_nofile 1024;',
        http => 'keepalive_requests 100000;',
        base => { redis => undef, journal => 'apikey_journal %%DIR%%/journal'
                  . " ring=%%RING%% size=1m full=$name drain=1s;" });

    $n->start;
    $t->sync($n);
    undef $conn;

    is_deeply(many($n, 10), { 200 => 10 }, "full=$name: requests");
    wait_for('their records', sub { events($n) == 10 });

    $pg->stop;
    return $n;
}


subtest 'full=refuse' => sub {
    my $n = full('refuse');
    my ($passed, $refused, $full, $seen) = (10, 0, 0, {});

    # a burst is refused, too, until the disk has taken what came before

    until ($full && !$seen->{200}) {
        $full = $n->log_text =~ /the journal .* is full/;
        $seen = many($n, 100);
        $passed += $seen->{200} // 0;
        $refused += $seen->{503} // 0;
        die "never full\n" if $passed > 50000;
    }

    is($seen->{503}, 100, "refused after $passed");

    my $r = one($n);

    is($r->{status}, 503, 'still refused');
    is(json($r)->{code}, 'unavailable', 'as unavailable');
    is($n->get('/', key => 'nonsense')->{status}, 401, 'no key: as ever');

    $pg->start;

    wait_for('room', sub {
        my $ok = one($n)->{status} == 200;
        $ok ? $passed++ : $refused++;
        return $ok;
    });

    is_deeply(many($n, 50), { 200 => 50 }, 'all passes again');
    $passed += 50;

    wait_for('all records', sub { events($n) >= $passed }, 20);
    is(events($n), $passed, 'each request that passed is recorded, once');

    # refusals are sums, which may find no room either

    my $dropped = $n->metric('apikey_dropped_total');

    is($pg->value('SELECT sum(refused) FROM apikey.usage_quarter')
       + $dropped, $refused + 2, 'each refusal counted, or counted as lost');
    $n->stop;
};


subtest 'full=drop' => sub {
    my $n = full('drop');
    my $passed = 10;
    my $dropped = 0;

    until ($dropped) {
        $passed += many($n, 100)->{200};
        $dropped = $n->metric('apikey_dropped_total');
        die "never full\n" if $passed > 50000;
    }

    cmp_ok($dropped, '>', 0, "dropped after $passed, not refused");
    $pg->start;

    wait_for('what was kept', sub {
        $dropped = $n->metric('apikey_dropped_total');
        return events($n) >= $passed - $dropped;
    }, 20);
    is(events($n), $passed - $dropped, 'what was dropped is counted');

    $passed += many($n, 20)->{200};
    wait_for('new records', sub { events($n) == $passed - $dropped });
    is($n->metric('apikey_dropped_total'), $dropped, 'it has an end');
    $n->stop;
};


subtest 'no thread can be made' => sub {
    my $n = $t->nginx(name => 'eagain', server => $server,
                      base => { redis => undef })->start;
    $t->sync($n);
    undef $conn;

    $number = 0;

    my ($worker) = $n->workers;
    open my $status, '<', "/proc/$worker/status" or die "status: $!\n";
    my %id = map { /^([UG]id):\s+(\d+)/ ? ($1 => $2) : () } <$status>;

    my @as = $> == 0 ? ('setpriv', '--reuid', $id{Uid}, '--regid', $id{Gid},
                        '--clear-groups') : ();
    my $limit = sub {
        return system(@as, 'prlimit', '--pid', $worker, "--nproc=$_[0]:");
    };

    plan skip_all => 'no limit of processes holds here'
        if !$id{Uid} || $limit->(0) != 0;

    $t->allow(qr/pthread_create\(\) failed/);
    $t->allow(qr/no thread for the journal .*, usage is shipped from memory/);

    is_deeply(many($n, 30), { 200 => 30 }, 'requests');
    wait_for('their records', sub { events($n) == 30 });
    is(() = $n->log_text =~ /shipped from memory/g, 1, 'logged once');

    $limit->(1000);
    wait_for('the disk again', sub {
        many($n, 1);
        return $n->log_text =~ /is written again/;
    });

    my $up = $number;
    wait_for('all of them', sub { events($n) == $up });
    is(events($n), $up, 'each once');
    $n->stop;
};


# A tracer makes every sync of the spool fail.

subtest 'a disk that fails to sync' => sub {
    my $n = $t->nginx(name => 'eio', server => $server, base => {
        redis => undef, journal => 'apikey_journal %%DIR%%/journal'
                                   . ' ring=%%RING%% size=1m;' })->start;
    $t->sync($n);
    undef $conn;

    $number = 0;

    my ($worker) = $n->workers;
    my $trace = $t->dir . '/strace';
    my $strace = eval {
        spawn(cmd => [ 'strace', '-f', '-qq', '-o', $trace, '-e',
                       'trace=fdatasync', '-e',
                       'inject=fdatasync:error=EIO', '-p', $worker ],
              name => 'strace', log => "$trace.log");
    };

    my $traced = eval {
        wait_for('the tracer', sub {
            die "no strace\n" unless $strace->alive;
            return 0 == grep {
                open my $f, '<', "$_/status";
                !grep { /^TracerPid:\s+[1-9]/ } $f ? <$f> : ();
            } glob "/proc/$worker/task/*";
        });
    };

    plan skip_all => 'strace may not trace here' unless $traced;

    $t->allow(qr/fdatasync\(\) in the journal .* failed, usage is shipped/);
    $pg->stop;

    is_deeply(many($n, 30), { 200 => 30 }, 'requests');
    ok($n->wait_log(qr/fdatasync\(\) in the journal .*Input.output error/),
       'logged');

    # tried again once a second; a file that failed takes no room

    wait_for('the next tries', sub {
        open my $f, '<', $trace or return 0;
        return 3 <= grep { /INJECTED/ } <$f>;
    });
    cmp_ok((() = glob "$n->{dir}/journal/spool.*"), '<=', 1, 'one file');

    $pg->start;
    wait_for('their records', sub { events($n) == 30 });

    $strace->stop('TERM');
    wait_for('the disk again', sub {
        many($n, 1);
        return $n->log_text =~ /is written again/;
    });

    my $before = $number;

    $pg->stop;
    many($n, 40);

    # nothing is left in the ring that is not on the disk

    wait_for('the spool', sub {
        my (undef, $said) = $ctl->run([ 'journal', 'show',
            "$n->{dir}/journal", '--ring', $n->{ring} ]);
        my ($tail, $head) = $said =~ / ring (\d+)-(\d+)/ or return 0;

        return $head >= $before + 40 && $tail > $head;
    });

    $n->stop('KILL');
    unlink glob "$n->{ring}/*";             # as a power cut does
    $pg->start;
    $n->start;

    wait_for('what was on disk', sub { events($n) >= $before + 40 });
    is(events($n), $before + 40, 'what was synced outlives a power cut');
};


is($pg->value('SELECT count(*) - count(DISTINCT event)
               FROM apikey.usage_event'), 0, 'nothing stands twice');
is($pg->value('SELECT coalesce(sum(lost), 0) FROM apikey.usage_stream'), 0,
   'no gap');

$t->allow(qr/the journal .* is full/, qr/records are dropped: no room/);
$t->done;
