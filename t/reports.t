#!/usr/bin/perl

# Reports and exports go to the server that read= names, and to the other one
# while that cannot be reached.

use strict;
use warnings;

use POSIX ();
use Test::More;
use Apikey::Test qw(free_port wait_for);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $away = free_port();

sub node {
    my ($name, $read) = @_;

    return $t->nginx(name => $name, server => '', base => { postgres =>
        qq(apikey_postgres "%%PG%%" "read=$read";) })->start;
}

sub answers {
    my ($n, $name) = @_;

    is($n->admin('GET', $_)->{status}, 200, "$_ $name")
        for 'usage', 'analytics', 'requests', 'audit', 'export/usage',
            'export/conversations?format=csv';
}

my $gone = node('gone', "host=127.0.0.1 port=$away dbname=postgres"
                . ' user=apikey_gateway');

answers($gone, 'without a replica') for 1, 2;
like($gone->log_text, qr/apikey report: Postgres: cannot connect/,
     'it was tried');

my $there = node('there', '%%PG%% application_name=replica');

answers($there, 'with one');
is($pg->value("SELECT count(*) FROM pg_stat_activity
               WHERE application_name = 'replica' AND query ~ 'api\\('"), 1,
   'which answers reports');

my $standby = $t->standby;
my $apart = node('apart', $standby->conninfo(user => 'apikey_gateway'));

answers($apart, 'with one that follows');
is($standby->value(q{SELECT count(*) FROM pg_stat_activity
                     WHERE application_name ~ 'apikey report'
                         AND query ~ 'api\('}), 1, 'which answers, too');


# Between two files of a schema nothing fits together; "apikeyctl schema apply"
# holds this lock meanwhile.

my @gone = ('api_request_list(jsonb, jsonb)', 'export_columns()');
my @read = ('requests', 'export/usage');

sub is_there { return $_[0]->value("SELECT count(*) FROM (VALUES ("
    . join('), (', map { "to_regprocedure('apikey.$_')" } @gone)
    . ')) AS f (name) WHERE name IS NOT NULL') }

for my $n ($there, $apart) {
    open my $apply, '|-', $pg->bindir . '/psql', '-Xqo', '/dev/null', '-d',
        $pg->conninfo(user => 'postgres') or die "psql: $!\n";
    print $apply "SELECT pg_advisory_lock(107135432877433);\n",
        map { "ALTER FUNCTION apikey.$_ RENAME TO gone;\n" } @gone;
    $apply->flush;
    wait_for('a gap', sub { is_there($pg) + is_there($standby) == 0 });

    my @pids = map {
        my $path = $_;
        my $pid = fork // die "fork: $!\n";

        POSIX::_exit($n->admin('GET', $path)->{status} - 200) if $pid == 0;
        $pid;
    } @read;

    wait_for('who asks for the lock', sub { $pg->value(
        q{SELECT count(*) FROM pg_stat_activity
          WHERE query ~ '^SELECT pg_try_advisory'}) });
    is(waitpid(-1, POSIX::WNOHANG()), 0, 'what meets a gap waits');

    print $apply map { my ($args) = /(\(.*)/; my ($name) = /(\w+)/;
        "ALTER FUNCTION apikey.gone$args RENAME TO $name;\n" } @gone;
    close $apply or die "psql: $?\n";

    for my $i (0 .. $#read) {
        waitpid $pids[$i], 0;
        is(200 + ($? >> 8), 200, "$read[$i] is answered when it is closed");
    }

    wait_for('the standby', sub { is_there($standby) == @gone });
    answers($n, 'as before');
}

$t->done;
