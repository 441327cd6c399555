
# The journal's disk is full while Postgres is reachable, and the other way
# round; both at once.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

plan skip_all => 'root is needed to mount a small disk' if $> != 0;

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->upstream;

my $key = $t->key(name => 'one');
my $disk = $t->dir . '/disk';

mkdir $disk or die "$disk: $!\n";
plan skip_all => 'no small disk can be mounted'
    if system('mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', $disk);

END { system('umount', '-l', $disk) if $disk && -d $disk }

my $n = $t->nginx(base => { redis => undef,
    journal => "apikey_journal $disk/journal ring=%%RING%% size=1m;" });
$n->start;
$t->sync;


sub send_some {
    return map { $n->get('/', key => $key->{key})->{headers}{'x-request-id'} }
           1 .. $_[0];
}

sub arrived {
    my $in = join ',', map { "'$_'" } @_;

    $t->wait_events(scalar(@_), "event IN ($in)");
    return scalar(() = $t->events("event IN ($in)"));
}


$t->allow(qr/in the journal .* failed, usage is shipped from memory/);

is(arrived(send_some(50)), 50, 'a full disk: shipped from memory, once');
ok($n->wait_log(qr/shipped from memory/), 'and said so');

my @ids = send_some(20);
$pg->stop('kill');
push @ids, send_some(50);

is(grep({ $_ } @ids), 70, 'neither disk nor Postgres: requests pass');
wait_for('how long they wait', sub {
    json($n->admin('GET', 'health'))->{journal}{lag_ms} > 0;
});

$pg->start;
is(arrived(@ids), 70, 'and are shipped when it returns, once');
wait_for('nothing left', sub {
    json($n->admin('GET', 'health'))->{journal}{lag_ms} == 0;
});

system('mount', '-o', 'remount,size=8m', $disk) == 0 or die;
@ids = ();

# it is tried again once a second, with what is to be written then

wait_for('the journal is written again', sub {
    push @ids, send_some(5);
    return $n->log_text =~ /is written again/;
});
push @ids, send_some(20);
is(arrived(@ids), scalar(@ids), 'a disk with room is used again, once');
ok((() = glob "$disk/journal/spool.*") > 0, 'a segment is there');

is($pg->value('SELECT count(*) - count(DISTINCT event)
               FROM apikey.usage_event'), 0, 'nothing stands twice');
is($pg->value('SELECT coalesce(sum(lost), 0) FROM apikey.usage_stream'), 0,
   'no gap');

$n->stop;
system('umount', '-l', $disk);
undef $disk;

$t->done;
