package Apikey::Flood;

# Traffic that costs the machine little: one process, many connections, a
# request for each key pipelined on each of them, again and again; answers are
# counted, not kept.  And where it goes: an nginx without the module that writes
# down, of each request, when and how it was decided.
#
#     my $sink = Apikey::Flood::sink($t, 'X-Name value');   # is %%UPSTREAM%% from now on
#     my $flood = Apikey::Flood->new(test => $t, nodes => \@nodes,
#         keys => { name => $plain }, uris => { name => '/?x' },
#         clients => 32, pause => 0.01);
#     $flood->counts          { name => { 200 => n, ... } }; 0: no answer
#     $flood->stop
#     Apikey::Flood::paced(nodes => \@nodes, key => $plain, seconds => 10,
#         rate => sub { $at }, most => 900)
#                             [ microseconds, status ] of each: arrivals at
#                             random, at that rate, at most that one, whatever
#                             becomes of them, each at a node by chance
#     $sink->admitted         how many, of all keys
#     $sink->at('name', ...)  microseconds, sorted
#     $sink->modes            { leased => n, ... }
#
# A node sends to the sink X-Decided-At, X-Key (a name without spaces) and
# X-Mode.

use strict;
use warnings;

use Time::HiRes qw(time sleep);

use Apikey::Http;
use Apikey::Nginx;
use Apikey::Process qw(spawn wait_for);


my $count = 0;


sub sink {
    my ($t, $header) = @_;

    $header = $header ? "add_header $header;" : '';

    local $t->{module};

    my $node = Apikey::Nginx->new(test => $t, name => 'sink', conf => <<"EOT");
%%GLOBALS%%
worker_processes 1;
events { worker_connections 1024; }

http {
    %%GLOBALS_HTTP%%
    log_format sink '\$http_x_decided_at \$http_x_key \$http_x_mode';
    keepalive_requests 1000000000;
    keepalive_timeout 1h;

    server {
        listen 127.0.0.1:%%PORT%% backlog=1024;
        access_log %%DIR%%/sink.log sink;
        $header
        return 204;
    }
}
EOT
    $node->start(wait => 0);
    push @{$t->{servers}}, $node;
    $t->{upstream} = $node;

    return bless { file => "$node->{dir}/sink.log", at => {},
                   modes => {}, admitted => 0 }, 'Apikey::Flood::Sink';
}


sub new {
    my ($class, %opt) = @_;

    my $t = delete $opt{test};
    my $name = 'flood' . ++$count;
    my $file = "$t->{dir}/$name";

    my $self = bless { file => $file, process => spawn(
        code => sub { run($file, %opt) }, name => $name, log => "$file.log")
    }, $class;

    push @{$t->{loads}}, $self;
    return $self;
}


sub run {
    my ($file, %opt) = @_;

    my $stop = 0;
    local $SIG{TERM} = sub { $stop = 1 };
    local $SIG{PIPE} = 'IGNORE';

    my @names = sort keys %{$opt{keys}};
    my %text = map {
        $_ => Apikey::Http::build('GET', ($opt{uris} // {})->{$_} // '/',
                                  key => $opt{keys}{$_})
    } @names;

    # no key is always the first of its connection

    my @conns = map {
        my @order = @names[map { $_ % @names } $_ .. $_ + $#names];
        { port => $opt{nodes}[$_ % @{$opt{nodes}}]->port, order => \@order,
          text => join('', @text{@order}), when => 0, in => '' }
    } 0 .. ($opt{clients} // 32) - 1;

    my %n;
    my $told = 0;

    until ($stop && !grep { $_->{socket} } @conns) {
        my ($now, $r) = (time, '');
        my $next = $now + 0.1;

        for my $c (@conns) {
            start($c) if !$c->{socket} && !$stop && $c->{when} <= $now;

            if ($c->{socket} && $now > $c->{until}) {
                lost($c, \%n);
            }

            vec($r, fileno $c->{socket}, 1) = 1 if $c->{socket};
            $next = $c->{when} if !$c->{socket} && $c->{when} < $next;
        }

        my $wait = $next > $now ? $next - $now : 0;

        if (select($r, undef, undef, $wait) > 0) {
            for my $c (@conns) {
                next unless $c->{socket} && vec $r, fileno $c->{socket}, 1;

                if (!sysread $c->{socket}, $c->{in}, 65536, length $c->{in}) {
                    lost($c, \%n);

                } elsif (answers($c, \%n)) {
                    $c->{idle} = delete $c->{socket};
                    $c->{when} = time + ($opt{pause} // 0);
                }
            }
        }

        if (time > $told + 0.1) {
            report($file, \%n);
            $told = time;
        }
    }

    report($file, \%n);
}


# A round of requests on a connection that is made, or made anew.

sub start {
    my ($c) = @_;

    my $socket = delete $c->{idle}
        // IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                 PeerPort => $c->{port}, Timeout => 10);

    $c->{left} = [ @{$c->{order}} ];
    $c->{until} = time + 20;

    if (!$socket || !syswrite $socket, $c->{text}) {
        $c->{when} = time + 0.05;
        return;
    }

    $c->{socket} = $socket;
}


# Nobody knows what became of the rest.

sub lost {
    my ($c, $n) = @_;

    $n->{$_}{0}++ for @{$c->{left}};
    delete $c->{socket};
    $c->{in} = '';
    $c->{when} = time + 0.02;
}


# True when all are there.

sub answers {
    my ($c, $n) = @_;

    my $at = 0;

    while ((my $end = index $c->{in}, "\r\n\r\n", $at) >= 0) {
        my $head = substr $c->{in}, $at, $end - $at;
        my ($status) = $head =~ m{^HTTP/1\.1 (\d{3})};
        my $body = $head =~ /^Content-Length: (\d+)/mi ? $1 : 0;

        last if length $c->{in} < $end + 4 + $body;

        $at = $end + 4 + $body;
        $n->{shift @{$c->{left}}}{$status}++;
    }

    substr $c->{in}, 0, $at, '';
    return !@{$c->{left}};
}


sub report {
    my ($file, $n) = @_;

    open my $f, '>', "$file.new" or die "$file: $!\n";

    for my $name (keys %$n) {
        print $f "$name $_ $n->{$name}{$_}\n" for keys %{$n->{$name}};
    }

    close $f;
    rename "$file.new", $file;
}


sub counts {
    my ($self) = @_;

    open my $f, '<', $self->{file} or return {};

    my %n;

    while (<$f>) {
        my ($name, $status, $n) = split;
        $n{$name}{$status} = $n;
    }

    return \%n;
}


# How many of these statuses there were, of all keys.

sub count {
    my ($self, @statuses) = @_;

    my $n = $self->counts;
    my $sum = 0;

    for my $of (values %$n) {
        $sum += $of->{$_} // 0 for @statuses;
    }

    return $sum;
}


sub stop {
    my ($self) = @_;

    my $process = delete $self->{process} or return;
    $process->stop('TERM', 30);
}


sub paced {
    my (%opt) = @_;

    local $SIG{PIPE} = 'IGNORE';

    my $text = Apikey::Http::build('GET', $opt{uri} // '/', key => $opt{key});
    my @nodes = map { { port => $_->port, idle => [] } } @{$opt{nodes}};
    my $start = time;
    my $end = $start + $opt{seconds};
    my $next = $start;
    my (%busy, @done);

    while ($next < $end || %busy) {
        my ($now, $r) = (time, '');

        while ($next <= $now && $next < $end) {
            if (rand() < $opt{rate}->($next - $start) / $opt{most}) {
                my $c = ask($nodes[rand @nodes], $text);
                $busy{fileno $c->{socket}} = $c if $c->{socket};
                push @done, $c->{result};
            }

            $next -= log(1 - rand) / $opt{most};
        }

        vec($r, $_, 1) = 1 for keys %busy;

        my $wait = $next < $end ? $next - time : 0.1;
        next unless select($r, undef, undef, $wait > 0 ? $wait : 0) > 0;

        for my $fd (grep { vec $r, $_, 1 } keys %busy) {
            my $c = $busy{$fd};
            my $n = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};

            if (!$n) {
                delete $busy{$fd};

            } elsif (answers($c, \my %n)) {
                $c->{result}[1] = (keys %{$n{''}})[0];
                push @{$c->{node}{idle}}, delete $busy{$fd};
            }
        }
    }

    return @done;
}


sub ask {
    my ($node, $text) = @_;

    my $c = shift @{$node->{idle}} // {
        node => $node, in => '',
        socket => IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                        PeerPort => $node->{port})
    };

    $c->{left} = [ '' ];
    $c->{result} = [ int(time * 1e6), 0 ];
    syswrite $c->{socket}, $text if $c->{socket};
    return $c;
}


package Apikey::Flood::Sink;

# What has been written since the last look.

sub look {
    my ($self) = @_;

    $self->{f} //= do {
        open my $f, '<', $self->{file} or return;
        $f;
    };

    seek $self->{f}, 0, 1;

    while (my $line = readline $self->{f}) {
        $line = (delete($self->{part}) // '') . $line;

        if ($line !~ /\n\z/) {
            $self->{part} = $line;
            last;
        }

        # what was cut off in its head has no name; it was not passed on
        my ($s, $us, $name, $mode) = $line =~ /^(\d+)\.(\d{6}) (\S+) (\S+)$/
            or next;

        $self->{at}{$name} .= pack 'q', $s * 1_000_000 + $us;
        $self->{modes}{$mode}++;
        $self->{admitted}++;
    }
}


sub admitted { my ($self) = @_; $self->look; return $self->{admitted} }
sub modes    { my ($self) = @_; $self->look; return $self->{modes} }

sub at {
    my ($self, @names) = @_;

    $self->look;
    return sort { $a <=> $b }
           map { unpack 'q*', $self->{at}{$_} // '' } @names;
}


1;
