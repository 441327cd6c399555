package Apikey::Load;

# Traffic in the background: processes that send one request after the other
# until they are told to stop, over whatever happens to the servers.
#
#     my $load = $node->load(key => $key, uri => '/x', clients => 4);
#     $load->wait_results(100);
#     $load->stop;
#     for my $r ($load->results) { $r->{status}, $r->{id}, $r->{error},
#                                  $r->{key} }
#
# Options: clients (default 2), pause => seconds between two requests of one
# (0.002), close => 1 (a connection a request), keys => [...] (one after the
# other, again and again), what Apikey::Http::build takes.  nodes => [...]
# spreads over several.  A request
# that got no whole answer has status 0 and an error: "connect: ..." was never
# sent, everything else may have been taken.

use strict;
use warnings;

use Time::HiRes qw(sleep time);

use Apikey::Http;
use Apikey::Process qw(spawn wait_for);


my $count = 0;

sub Apikey::Nginx::load {
    my ($node, %opt) = @_;

    my $load = Apikey::Load->new(dir => $node->{test}{dir}, nodes => [$node],
                                 %opt);

    push @{$node->{test}{loads}}, $load;
    return $load;
}


sub new {
    my ($class, %opt) = @_;

    my $name = 'load' . ++$count;
    my $clients = delete $opt{clients} // 2;
    my $dir = delete $opt{dir};
    my @ports = map { $_->port } @{delete $opt{nodes}};

    my $self = bless { files => [], processes => [] }, $class;

    for my $i (1 .. $clients) {
        my $file = "$dir/$name.$i";
        my $port = $ports[$i % @ports];

        push @{$self->{files}}, $file;
        push @{$self->{processes}},
            spawn(code => sub { run($file, $port, %opt) }, name => $name,
                  log => "$dir/$name.log");
    }

    return $self;
}


sub run {
    my ($file, $port, %opt) = @_;

    my $method = delete $opt{method} // 'GET';
    my $uri = delete $opt{uri} // '/';
    my $pause = delete $opt{pause} // 0.002;
    my $keys = delete $opt{keys};
    my $n = 0;

    my $stop = 0;
    local $SIG{TERM} = sub { $stop = 1 };

    open my $f, '>', $file or die "$file: $!\n";
    my $conn;

    until ($stop) {
        my $start = time;

        $conn = undef if $opt{close};
        $conn //= eval { Apikey::Http->new(port => $port, timeout => 20) };

        if (!$conn) {
            syswrite $f, join("\t", 0, '', $start, 0, 'connect: ' . line($@))
                         . "\n";
            sleep 0.02;
            next;
        }

        $opt{key} = $keys->[$n++ % @$keys] if $keys;

        my $used = $conn->{used}++;
        my $r = eval { $conn->request($method, $uri, %opt) };
        my $why = $r ? '' : line($@);

        # nginx may close a kept connection just when it is used again
        my $retry = !$r && $used && $why =~ /closed after 0 bytes/;

        syswrite $f, join("\t", $r ? $r->{status} : 0,
            $r ? $r->{headers}{'x-request-id'} // '' : '', $start,
            time - $start, $retry ? 'kept: ' . $why : $why, $opt{key} // '')
            . "\n";

        $conn = undef
            if !$r || ($r->{headers}{connection} // '') eq 'close';

        sleep $pause if $pause;
    }
}

sub line { my ($text) = @_; $text =~ s/\s+/ /g; return $text }


# { status, id, start, seconds, error, key }

sub results {
    my ($self) = @_;

    my @results;

    for my $file (@{$self->{files}}) {
        open my $f, '<', $file or next;

        while (my $line = <$f>) {
            chomp $line or last;
            my %r;
            @r{qw(status id start seconds error key)} = split /\t/, $line, -1;
            push @results, \%r;
        }
    }

    return @results;
}


sub wait_results {
    my ($self, $n) = @_;

    wait_for("$n results", sub { $self->results >= $n }, 30);
}


# How many more passed than a bucket lets through that was full at the start:
# burst + rate (a second) for as long as it took, by the clients' own clocks.
# 0 or below: none.

sub excess {
    my ($self, $burst, $rate) = @_;

    my @passed = grep { $_->{status} == 200 } $self->results;
    return 0 unless @passed;

    my ($first, $last) = (9e99, 0);

    for my $r (@passed) {
        my $end = $r->{start} + $r->{seconds};

        $first = $r->{start} if $r->{start} < $first;
        $last = $end if $end > $last;
    }

    return @passed - int($burst + $rate * ($last - $first) + 1);
}


# Lets each client finish its request.

sub stop {
    my ($self) = @_;

    my @processes = splice @{$self->{processes}};
    $_->signal('TERM') for @processes;
    $_->stop('TERM', 30) for @processes;
    return $self->results;
}


1;
