package Apikey::Judge;

# What was admitted, judged by what the upstream has seen: an exact bucket of
# its own over the instants of decision, which nginx sends upstream as
#
#     proxy_set_header X-Decided-At $apikey_decided_at;
#
#     my @excess = excess(requests => [ $t->upstream->requests ],
#                         limit => 100, window => '1s', burst => 200,
#                         match => sub { $_[0]{headers}{'x-key'} eq $id });
#
# The requests, in the order of their decisions, that a bucket which was full
# before the first of them had no token for.  Integers only: a token is
# "window" units, a microsecond refills "limit" of them.  With "rolling": those
# that were one too many in the window that ends with them.  at_once() is for
# slots.

use strict;
use warnings;
use integer;

use Exporter qw(import);

our @EXPORT_OK = qw(excess over decided at_once);


my %unit = (s => 1_000_000, m => 60_000_000, h => 3_600_000_000,
            d => 86_400_000_000);


# Microseconds; undef where nothing was decided.

sub decided {
    my ($request) = @_;

    my ($s, $us) = ($request->{headers}{'x-decided-at'} // '')
        =~ /^(\d+)\.(\d{6})$/ or return undef;

    return $s * 1_000_000 + $us;
}


sub excess {
    my (%opt) = @_;

    my $match = $opt{match} // sub { 1 };

    my @list = sort { $a->[0] <=> $b->[0] }
        map { [ decided($_) // die("no X-Decided-At\n"), $_ ] }
        grep { $match->($_) } @{$opt{requests}};

    my @cost = $opt{cost} ? map { $opt{cost}->($_->[1]) } @list : ();

    return map { { %{$list[$_->[0]][1]}, level => $_->[1] } }
           over([ map { $_->[0] } @list ], %opt, costs => \@cost);
}


# The same of bare instants, in order: [ place in the list, level ] of each
# that was too many.  costs => [...] of each, or all cost one.

sub over {
    my ($at, %opt) = @_;

    my ($n, $unit) = $opt{window} =~ /^(\d+)([smhd])$/
        or die "window $opt{window}\n";

    return $opt{rolling} ? rolling($at, $n * $unit{$unit}, %opt)
                         : bucket($at, $n * $unit{$unit}, %opt);
}


sub bucket {
    my ($at, $window, %opt) = @_;

    my $capacity = ($opt{burst} // $opt{limit}) * $window;
    my $level = $capacity;
    my @excess;

    for my $i (0 .. $#$at) {
        my $span = $i ? $at->[$i] - $at->[$i - 1] : 0;

        # a product beyond 2^63 is full anyway
        $level = $span > ($capacity - $level) / $opt{limit}
                 ? $capacity : $level + $span * $opt{limit};

        $level -= ($opt{costs}[$i] // 1) * $window;
        push @excess, [ $i, $level ] if $level < 0;
    }

    return @excess;
}


# The most of these [ from, to ] that ran at once; who ends where another one
# begins has ended.

sub at_once {
    my ($n, $most) = (0, 0);

    for my $step (sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] }
                  map { [ $_->[0], 1 ], [ $_->[1], -1 ] }
                  grep { $_->[0] < $_->[1] } @_)
    {
        $n += $step->[1];
        $most = $n if $n > $most;
    }

    return $most;
}


sub rolling {
    my ($at, $window, %opt) = @_;

    my ($sum, $first, @excess) = (0, 0);

    for my $i (0 .. $#$at) {
        $sum += $opt{costs}[$i] // 1;
        $sum -= $opt{costs}[$first++] // 1
            while $at->[$first] + $window <= $at->[$i];

        push @excess, [ $i, $opt{limit} - $sum ] if $sum > $opt{limit};
    }

    return @excess;
}


1;
