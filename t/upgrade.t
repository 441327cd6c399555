
# An upgrade of nginx's binary: two masters with a zone each on one journal.
# No request is dropped, no record lost or doubled, limits in Redis stay exact,
# and both of them hear of a revocation.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);
use Apikey::Process qw(children_of runs);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;

my ($one, $two) = $t->keys(2, owner => 'user_1');
my $wide = $t->key(limits => [{ name => 'wide', limit => 1000000,
                                window => '1h' }]);
my $few = $t->key(limits => [{ name => 'few', limit => 150,
                               window => '1d' }]);

# (a worker that is stopped by the test must not be the only one woken)

my $n = $t->nginx(workers => 2, daemon => 1, events => 'accept_mutex on;',
    base => { redis => 'apikey_redis %%REDIS%% timeout=2s;' })->start;
$t->sync;


sub status { return $n->get('/', key => $_[0]{key})->{status} }

sub revoke {
    $pg->run("UPDATE apikey.key SET revoked_at = now() WHERE id = '$_[0]{id}'");
}


subtest 'two masters side by side' => sub {
    is(status($one), 200, 'a key');

    my @old = $n->workers;
    my $old = $n->upgrade;
    my @new = $n->workers;

    ok(runs($old->pid) && $n->pid != $old->pid, 'two masters');
    $t->sync;

    for my $case ([ $one, 'the new', @old ], [ $two, 'the old', @new ]) {
        my ($key, $who, @others) = @$case;

        # what stops is not asked

        kill 'STOP', @others;
        is(status($key), 200, "$who workers know a key");
        revoke($key);
        eval { wait_for('401', sub { status($key) == 401 }) };
        is(status($key), 401, "$who workers hear of its end");
        kill 'CONT', @others;
    }

    $n->quit_old;
    is(status($wide), 200, 'the new master is alone');
};


sub more { my ($load) = @_; $load->wait_results($load->results + 100) }

my $load = $n->load(key => $wide->{key}, clients => 2);
my $short = $n->load(key => $wide->{key}, clients => 1, close => 1);
my $limited = $n->load(key => $few->{key}, clients => 2, pause => 0.005);

more($short);
$n->upgrade;
more($short);
$n->quit_old;
more($short);

is($n->workers, 2, 'an upgrade under load');

# back to the old binary, as nginx's manual has it

my $old = $n->upgrade;
my @workers = grep { $_ != $n->pid } children_of($old->pid);

more($short);
$old->signal('WINCH');
wait_for('end of the old workers', sub { !grep { runs($_) } @workers }, 30);
more($short);

my $new = $n->{process};

$old->signal('HUP');
wait_for('workers of the old binary', sub {
    (grep { $_ != $new->pid } children_of($old->pid)) == 2;
});
$new->stop('QUIT', 60);
$n->{process} = $old;
wait_for('the pid file', sub { $n->pid_file == $old->pid });
more($short);

is($n->workers, 2, 'and back');

my @results = map { $_->stop } $load, $short;
my @limited = $limited->stop;

$n->stop;

my @bad = grep { $_->{status} != 200 && $_->{error} !~ /^kept: / } @results;
is(scalar(@bad), 0, 'no request is dropped')
    or diag(map { "$_->{status} $_->{error}\n" } @bad);

my %status;
$status{$_->{status}}++ for grep { $_->{error} !~ /^kept: / } @limited;

is($status{200}, 150, 'as many pass as the limit says');
is_deeply([ grep { !/^(200|429)$/ } keys %status ], [], 'and no error');
cmp_ok($status{429}, '>', 0, 'others are refused');

my @ids = $up->ids;

$t->wait_events(scalar(@ids), "outcome <> 'refused'");
is_deeply([ sort $t->events("outcome <> 'refused'") ], [ sort @ids ],
          'what went upstream is in Postgres, once');
is($pg->value('SELECT sum(requests) FROM apikey.usage_quarter'), @ids,
   'and in the roll-ups');
is($pg->value('SELECT sum(lost) FROM apikey.usage_stream'), 0, 'no gap');

note scalar(@ids) . ' requests';

$t->done;
