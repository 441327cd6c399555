# A Postgres that takes longer for a batch than the next one takes to come:
# what was written meanwhile is shipped behind it, from memory or, where that
# is full, from the disk; each request once.

use strict;
use warnings;

use Test::More;
use Apikey::Ctl;
use Apikey::Http;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $ctl = Apikey::Ctl->new($t);
my $key = $t->key;

my $long = 'x' x 200;
my $number = 0;

# large records, of which memory holds some 1,200; no upstream, to be quick

my $n = $t->nginx(http => 'keepalive_requests 100000;', server => <<'EOT',
        location / {
            apikey required;
            apikey_endpoint $arg_a;
            apikey_service $arg_b;
            empty_gif;
        }
EOT
    base => { redis => undef, journal =>
              'apikey_journal %%DIR%%/journal ring=%%RING%%;' })->start;

$t->sync($n);


# Ids of requests that were answered.

sub many {
    my ($count) = @_;

    my $conn = $n->conn;
    my @ids;

    while ($count > 0) {
        my $some = $count < 100 ? $count : 100;

        $conn->send(join '', map {
            $number++;
            Apikey::Http::build('GET', "/?a=$number$long&b=$long$long",
                                key => $key->{key});
        } 1 .. $some);

        for (1 .. $some) {
            my $r = $conn->response;
            push @ids, $r->{headers}{'x-request-id'} if $r->{status} == 200;
        }

        $count -= $some;
    }

    return @ids;
}


# No raw event comes in until what it returns is called.

sub hold {
    return $pg->locked('LOCK TABLE apikey.usage_event IN EXCLUSIVE MODE');
}


sub waits {
    wait_for('a batch that waits', sub {
        $pg->value("SELECT count(*) FROM pg_locks WHERE NOT granted
            AND relation = 'apikey.usage_event'::regclass") > 0;
    });
}


# All that was recorded is on the disk.

sub written {
    wait_for('it is written', sub {
        my (undef, $said) = $ctl->run([ 'journal', 'show', "$n->{dir}/journal",
                                        '--ring', $n->{ring} ]);
        my ($tail, $head) = $said =~ / ring (\d+)-(\d+)/ or return 0;

        return $tail > $head;
    });
}


sub once {
    my ($what, @ids) = @_;

    my %want = map { $_ => 1 } @ids;
    my $have = "SELECT count(*) FROM apikey.usage_event
                WHERE verdict = 'ok'";

    wait_for('all of them', sub { $pg->value($have) >= $number });

    my @have = split /\n/, $pg->value("SELECT string_agg(event::text, E'\n')
        FROM apikey.usage_event WHERE verdict = 'ok'");

    is(scalar @have, $number, "$what: as many as there were");
    delete @want{@have};
    is(scalar keys %want, 0, "$what: and those");
}


subtest 'some batches behind one' => sub {
    my $go = hold();
    my @ids = many(10);

    waits();

    for (1 .. 5) {
        push @ids, many(30);
        written();
    }

    is($pg->value("SELECT count(*) FROM apikey.usage_event
                   WHERE verdict = 'ok'"), 0, 'none is there yet');

    $go->();
    once('all', @ids);

    push @ids, many(200);
    once('and what comes then', @ids);
};


subtest 'more than memory holds' => sub {
    my $go = hold();
    my @ids = many(10);

    waits();

    for (1 .. 20) {                      # the rings have less room
        push @ids, many(500);
        written();
    }

    $go->();

    once('all', @ids);
};


subtest 'the worker dies meanwhile' => sub {
    my $go = hold();
    my @ids = many(10);

    waits();
    push @ids, many(300);
    written();
    push @ids, many(300);

    my ($worker) = $n->workers;

    $n->kill_worker($worker);
    wait_for('another', sub { grep { $_ != $worker } $n->workers });
    push @ids, many(300);
    $go->();

    once('all', @ids);
};


subtest 'Postgres dies with it' => sub {
    my $go = hold();
    my @ids = many(10);

    waits();
    push @ids, many(300);
    written();
    $pg->stop('KILL');
    push @ids, many(300);
    $pg->start;

    once('all', @ids);
};


is($pg->value('SELECT count(*) - count(DISTINCT event)
               FROM apikey.usage_event'), 0, 'nothing stands twice');
is($pg->value('SELECT coalesce(sum(lost), 0) FROM apikey.usage_stream'), 0,
   'no gap');

$t->allow(qr/apikey_postgres|Postgres/, qr/exited on signal 9/);
$t->done;
