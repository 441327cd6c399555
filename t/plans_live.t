#!/usr/bin/perl

# Plans as requests see them: a change of plan is in force at once, reaches
# every holder, and refills nothing, with limits in Redis and in this nginx.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->upstream;

my $redis = $t->redis;
my %direct = (base => { redis => 'apikey_redis redis://127.0.0.1:'
                        . $redis->port . ' timeout=2s;' });

my $a = $t->nginx(name => 'a', workers => 2, %direct)->start;
my $b = $t->nginx(name => 'b', %direct)->start;
my $local = $t->nginx(name => 'local', workers => 2,
                      base => { redis => undef })->start;
my $ops;


sub hour { return { name => $_[0], unit => 'requests', limit => $_[1],
                    window => '1h' } }

sub ask {
    my ($method, $path, $body) = @_;

    my $r = $ops->admin($method, $path, $body ? (body => $body) : ());
    like($r->{status}, qr/^20/, "$method $path") or diag($r->{body});
    return $r->{status} == 204 ? undef : json($r);
}

sub many {
    my ($node, $n, $key) = @_;
    my $hits = $t->upstream->hits;
    my %n = (200 => 0, 429 => 0);

    $n{$_->{status}}++
        for $node->parallel(map { { uri => '/', key => $key } } 1 .. $n);
    is($t->upstream->hits - $hits, $n{200}, 'what passes reaches the upstream');
    return \%n;
}

sub refuses {
    my ($node, $key, $status, $what) = @_;

    is($node->get('/', key => $key)->{status}, $status, $what);
}


# the owner's plan: shared by its keys, changed under load of its name

for my $case ([ direct => $a ], [ local => $local ]) {
    my ($mode, $node) = @$case;

    $ops = $node;

    ask(PUT => "plans/$mode-free", { limits => [ hour('hourly', 10),
                                                 hour('small', 6) ] });
    ask(PUT => "plans/$mode-pro", { limits => [ hour('hourly', 25) ] });
    ask(PUT => "owners/$mode", { plan => "$mode-free" });

    my ($one, $two) = map { ask(POST => 'api-keys',
        { name => "key $_", owner => $mode })->{key} } 1, 2;

    is_deeply(many($node, 4, $one), { 200 => 4, 429 => 0 },
              "$mode: the first key");
    is_deeply(many($node, 4, $two), { 200 => 2, 429 => 2 },
              "$mode: shares with the second");

    ask(PATCH => "owners/$mode", { plan => "$mode-pro" });
    is_deeply(many($node, 40, $one), { 200 => 19, 429 => 21 },
              "$mode: a larger plan counts at once, 6 of it are used");

    ask(PATCH => "owners/$mode", { plan => "$mode-free" });
    is_deeply(many($node, 5, $one), { 200 => 0, 429 => 5 },
              "$mode: back to the small one");
    ask(PATCH => "owners/$mode", { plan => "$mode-pro" });
    is_deeply(many($node, 5, $one), { 200 => 0, 429 => 5 },
              "$mode: to and fro refills nothing");

    ask(PATCH => "owners/$mode", { limits => [ hour('hourly', 28) ] });
    is_deeply(many($node, 5, $one), { 200 => 3, 429 => 2 },
              "$mode: its own limit of the name replaces the plan's");
    ask(PATCH => "owners/$mode", { limits => [], plan => undef });
    is_deeply(many($node, 5, $two), { 200 => 5, 429 => 0 },
              "$mode: without a plan");
    ask(PATCH => "owners/$mode", { plan => "$mode-pro" });
    is_deeply(many($node, 5, $two), { 200 => 0, 429 => 5 },
              "$mode: what was used is used");
}


# a key's plan, edited: every node, every holder

$ops = $a;
ask(PUT => 'plans/key', { limits => [ hour('hourly', 3) ] });

my @keys = $t->keys(1200, name => 'holder');

$pg->run("UPDATE apikey.key SET plan = 'key' WHERE name LIKE 'holder%'");
$t->sync;

my ($first, $last) = map { $_->{key} } @keys[0, -1];

for my $key ($first, $last) {
    is_deeply(many($b, 5, $key), { 200 => 3, 429 => 2 }, 'a limit of the plan');
}

ask(PATCH => 'plans/key', { limits => [ hour('hourly', 5) ] });

# answered, so in force on a: for each of more holders than go at once

for my $key (map { $_->{key} } @keys[1, 499, 500, 999, 1000, -2]) {
    is_deeply(many($a, 7, $key), { 200 => 5, 429 => 2 },
              'in force with the answer');
}

for my $key ($first, $last) {
    wait_for('the plan on the other node', sub {
        ($b->get('/', key => $key)->{headers}{'x-ratelimit-limit'} // 0) == 5;
    });
    many($b, 5, $key);
    refuses($b, $key, 429, 'five in all');
}

is_deeply([ $pg->column(q{SELECT count(*) FROM apikey.change
    WHERE kind = 'key' GROUP BY id HAVING count(*) > 3}) ],
    [], 'each is told once for each change');


# many owners at once

for my $i (1 .. 3) {
    ask(PUT => "owners/crowd-$i", { plan => 'direct-free' });
}

my @crowd = map { ask(POST => 'api-keys',
    { name => 'k', owner => "crowd-$_" })->{key} } 1 .. 3;

is_deeply(ask(PATCH => 'owners?plan=direct-free&q=crowd&dry_run=true',
              { plan => 'direct-pro' }),
          { matched => 3, changed => 0, dry_run => JSON::PP::true },
          'first a dry run');
is_deeply(many($a, 8, $crowd[0]), { 200 => 6, 429 => 2 }, 'nothing changed');
is_deeply(ask(PATCH => 'owners?plan=direct-free&q=crowd',
              { plan => 'direct-pro' }),
          { matched => 3, changed => 3, dry_run => JSON::PP::false },
          'then in earnest');
is_deeply(many($a, 30, $crowd[0]), { 200 => 19, 429 => 11 }, 'the larger plan');
is_deeply(many($a, 30, $crowd[2]), { 200 => 25, 429 => 5 }, 'for each');

ask(PATCH => 'owners?q=crowd', { enabled => JSON::PP::false });
refuses($a, $_, 401, 'a suspended customer') for @crowd;


# a plan_next: no job, no request but the nodes' own poll

ask(PUT => 'owners/later', { plan => 'direct-pro', plan_next => 'direct-free' });

my $later = ask(POST => 'api-keys', { name => 'k', owner => 'later' })->{key};

is_deeply(many($a, 12, $later), { 200 => 12, 429 => 0 }, 'before it is due');
$pg->run("UPDATE apikey.owner SET plan_next_at = now()"
         . " WHERE external = 'later'");

for my $node ($a, $b, $local) {
    wait_for("the next plan on $node->{name}", sub {
        ($node->get('/', key => $later)->{headers}{'x-ratelimit-limit'} // 0)
            <= 10;
    });
}

refuses($a, $later, 429, 'twelve were used');


# a deleted owner comes back with what it has used

my $r = $a->admin('DELETE', 'owners/later');
is($r->{status}, 409, 'it has a key');
ask(DELETE => 'owners/later?revoke_keys=true');
refuses($a, $later, 401, 'its key is refused at once');

wait_for('the other node', sub {
    $b->get('/', key => $later)->{status} == 401 });

my $again = ask(POST => 'api-keys', { name => 'k', owner => 'later' })->{key};

refuses($a, $again, 200, 'a new owner of that name has no limits');
ask(PATCH => 'owners/later', { plan => 'direct-free' });
refuses($a, $again, 429, 'but under a plan what was used is used');
refuses($a, $later, 401, 'the old key stays refused');

$t->done;
