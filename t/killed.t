
# A test that is killed leaves no server behind, and no directory.

use strict;
use warnings;

use Test::More;

use Apikey::Process qw(children_of runs spawn users_of wait_for);
use Apikey::Test;

my $t = Apikey::Test->new;
my $said = $t->dir . '/said';

my $killed = spawn(name => 'a test', log => $t->dir . '/log',
    cmd => [ $^X, '-It/lib', '-MApikey::Test', '-e', <<'EOT', $said ]);

    my $t = Apikey::Test->new;

    $t->postgres;
    $t->redis;
    $t->upstream;
    $t->nginx->start->load(key => $t->key->{key});
    $t->nginx(name => 'b', daemon => 1)->start;

    open my $f, '>', "$ARGV[0].new" or die "$ARGV[0]: $!\n";
    print $f "$t->{dir}\n$t->{shm}\n";
    close $f;
    rename "$ARGV[0].new", $ARGV[0];
    sleep;
EOT

wait_for('all its servers', sub {
    die "it has ended\n" unless $killed->alive;
    return -e $said;
}, 60);

open my $f, '<', $said or die "$said: $!\n";
chomp(my ($dir, $shm) = <$f>);

sub all_below { return map { ($_, all_below($_)) } children_of($_[0]) }

my %theirs = map { $_ => 1 } all_below($killed->pid),
             map { /^(\d+)/ } users_of($dir);

cmp_ok(keys %theirs, '>', 10, 'many processes');
ok(-d $dir && -d $shm, 'and two directories');

$killed->stop('KILL');

ok(eval { wait_for('their end', sub { !grep { runs($_) } keys %theirs }) },
   'they end when it is killed')
    or diag(map { "$_ " . Apikey::Process::process_title($_) . "\n" }
            grep { runs($_) } keys %theirs);
ok(eval { wait_for('no directory', sub { !-e $dir && !-e $shm }) },
   'what they wrote is gone');

$t->done;
