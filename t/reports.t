#!/usr/bin/perl

# Reports and exports go to the server that read= names, and to the other one
# while that cannot be reached.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(free_port);

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

$t->done;
