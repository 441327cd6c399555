# The lease protocol, simulated: nodes that crash, stop and drift, messages
# lost and overtaken, a Redis that fails over, edits, calendars, slots; over
# the limiter's own C.  Judged by exact buckets and by counting: docs/leases.md.

use strict;
use warnings;

use Apikey::Test qw(rounds);
use Test::More;

my $build = $ENV{APIKEY_BUILD} || 'build';
my $asan = $ENV{APIKEY_ASAN} ? 10 : 1;


sub run {
    my (@args) = @_;

    my ($plan, $checks) = (0, 0);

    open my $out, '-|', "$build/sim", @args or do {
        fail("$build/sim: $! (make build)");
        return;
    };

    while (my $line = <$out>) {
        if ($line =~ /^(not )?ok \d+ - (.*)/) {
            ok(!$1, $2);
            $checks++;

        } elsif ($line =~ /^1\.\.(\d+)$/) {
            $plan = $1;

        } else {
            note($line =~ s/^# //r);
        }
    }

    close $out;

    is($?, 0, 'it ends well');
    is($plan, $checks, 'all checks were made');
}


# runs of each family, requests of a run, processes

subtest 'excess 0' => sub {
    run('check', rounds(1000, 4000) / $asan, rounds(1000, 8000), 2);
};

subtest 'each rule is needed' => sub {
    run('ablations', rounds(400, 2000), 3000, 2);
} unless $ENV{APIKEY_ASAN};

done_testing;
