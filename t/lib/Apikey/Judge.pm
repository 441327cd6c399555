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
# that were one too many in the window that ends with them.

use strict;
use warnings;
use integer;

use Exporter qw(import);

our @EXPORT_OK = qw(excess decided);


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

    my ($n, $unit) = $opt{window} =~ /^(\d+)([smhd])$/
        or die "window $opt{window}\n";
    my $window = $n * $unit{$unit};

    my $match = $opt{match} // sub { 1 };
    my $cost = $opt{cost} // sub { 1 };

    my @list = sort { $a->[0] <=> $b->[0] }
        map { [ decided($_) // die("no X-Decided-At\n"), $_ ] }
        grep { $match->($_) } @{$opt{requests}};

    return rolling($opt{limit}, $window, $cost, @list) if $opt{rolling};

    my $capacity = ($opt{burst} // $opt{limit}) * $window;
    my $level = $capacity;
    my ($at, @excess);

    for my $item (@list) {
        my ($now, $request) = @$item;

        if (defined $at) {
            my $span = $now - $at;

            # a product beyond 2^63 is full anyway
            $level = $span > ($capacity - $level) / $opt{limit}
                     ? $capacity : $level + $span * $opt{limit};
        }

        $at = $now;
        $level -= $cost->($request) * $window;

        push @excess, { %$request, level => $level } if $level < 0;
    }

    return @excess;
}


sub rolling {
    my ($limit, $window, $cost, @list) = @_;

    my ($sum, $first, @excess) = (0, 0);

    for my $item (@list) {
        $sum += $cost->($item->[1]);
        $sum -= $cost->($list[$first++][1])
            while $list[$first][0] + $window <= $item->[0];

        push @excess, { %{$item->[1]}, level => $limit - $sum }
            if $sum > $limit;
    }

    return @excess;
}


1;
