# The plain core: the programs of t/unit as subtests, line by line.  A program
# that makes one long check prints no TAP; its exit status is the answer.

use strict;
use warnings;

use File::Basename qw(basename);
use Test::More;

my $build = $ENV{APIKEY_BUILD} || 'build';


sub run {
    my ($unit) = @_;

    my ($plan, $checks, $failed, @said) = (0, 0, 0);

    open my $out, '-|', "$build/unit/$unit" or do {
        fail("$build/unit/$unit: $! (make build)");
        return;
    };

    while (my $line = <$out>) {
        if ($line =~ /^(not )?ok \d+ - (.*)/) {
            ok(!$1, "$unit: $2") or $failed = 1;
            $checks++;

        } elsif ($line =~ /^1\.\.(\d+)$/) {
            $plan = $1;

        } else {
            push @said, $line =~ s/^# //r;
        }
    }

    close $out;

    is($?, 0, 'it ends well') or $failed = 1;
    is($plan, $checks, 'all checks were made') or $failed = 1;

    diag(@said) if $failed;
}


my @units = map { basename($_, '.c') } sort glob 't/unit/*.c';

cmp_ok(scalar @units, '>', 0, 'there are tests');

for my $unit (@units) {
    subtest $unit => sub { run($unit) };
}

done_testing;
