package Apikey::Upstream;

# The API behind the gateway: an HTTP/1.1 server of one process that keeps
# connections alive and writes down each request it got.  What it answers is
# chosen by the path, wherever in it:
#
#     /status/NNN       that status
#     /delay/MS         waits before it answers
#     /bytes/N          a body of N bytes
#     /stream/N/MS      N chunks, MS apart
#     /abort            closes in the middle of the body
#     /close            closes without an answer
#     /hang             never answers
#     /gate             waits until $up->let_go, which is for all that have come
#     /set/NAME/VALUE   a response header (percent-encoded, repeatable)
#     /say/N/MS         the file that the request header X-Say names, with the
#                       type in X-Say-Type, N bytes each MS (0: at once)
#     /say/N/MS/on      and then nothing, but no end
#     /echo             JSON: method, uri, headers (lower case), body
#     anything else     200 "ok"

use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw(time);

use Apikey::Process qw(spawn wait_for);

my $json = JSON::PP->new->canonical->latin1;


# new(dir =>, name =>)

sub new {
    my ($class, %opt) = @_;

    my $name = $opt{name} // 'upstream';

    my $self = bless {
        file => "$opt{dir}/$name.requests",
        log  => "$opt{dir}/$name.log",
        port => Apikey::Process::free_port(),
        name => $name,
    }, $class;

    return $self->start;
}


sub port { $_[0]{port} }


sub start {
    my ($self) = @_;

    # listens before it forks: nobody has to wait for it
    my $listen = IO::Socket::INET->new(Proto => 'tcp', ReuseAddr => 1,
        LocalAddr => "127.0.0.1:$self->{port}", Listen => 1024, Blocking => 0) or die "upstream: $@\n";

    $self->{process} = spawn(code => sub { serve($listen, $self->{file}) },
                             log => $self->{log}, name => $self->{name});
    return $self;
}


sub stop {
    my ($self, $signal) = @_;

    my $process = delete $self->{process} or return;
    $process->stop($signal // 'KILL');
}


# All requests it got, in order: { id (X-Request-Id), time, method, uri,
# headers => { lower case }, body (of webhooks) }.  A line being written is left
# for later.

sub requests {
    my ($self) = @_;

    open my $f, '<', $self->{file} or return;
    my @lines = <$f>;
    pop @lines if @lines && $lines[-1] !~ /\n\z/;

    return map { $json->decode($_) } @lines;
}


sub hits { return $_[0]->text =~ tr/\n// }
sub ids  { map { $_->{id} } $_[0]->requests }


# Waits until so many requests have come; for those that get no answer.

sub wait_hits {
    my ($self, $n, @seconds) = @_;

    wait_for("$n requests at the upstream", sub { $self->hits >= $n },
             @seconds);
}


sub forget { unlink $_[0]{file} }


# Answers all that wait at the gate, which is shut again when none does.

sub let_go {
    my ($self) = @_;

    my $gate = "$self->{file}.open";

    open my $f, '>', $gate or die "$gate: $!\n";
    close $f;
    wait_for('the gate', sub { !-e $gate });
}

sub text {
    my ($self) = @_;

    open my $f, '<', $self->{file} or return '';
    local $/;
    return <$f> // '';
}


# The server, in its own process.

sub serve {
    my ($listen, $file) = @_;

    $SIG{PIPE} = 'IGNORE';

    my %conn;     # fileno => { socket, in, out, plan => [[when, text], ...] }

    while (1) {
        my ($r, $w) = ('', '');
        my $now = time;
        my $wait = 60;
        my $open = -e "$file.open";

        vec($r, fileno $listen, 1) = 1;

        for my $c (values %conn) {
            while (@{$c->{plan}} && $c->{plan}[0][0] <= $now
                   && ($open || !$c->{plan}[0][2])) {
                my $step = shift @{$c->{plan}};
                defined $step->[1] ? ($c->{out} .= $step->[1])
                                   : ($c->{end} = 1);
            }

            if (@{$c->{plan}}) {
                my $left = $c->{plan}[0][2] ? 0.01
                                            : $c->{plan}[0][0] - $now;
                $wait = $left if $left < $wait;
            }

            vec($r, $c->{fd}, 1) = 1;
            vec($w, $c->{fd}, 1) = 1 if length $c->{out} || $c->{end};
        }

        unlink "$file.open" if $open;
        next unless select($r, $w, undef, $wait) > 0;

        if (vec $r, fileno $listen, 1) {
            while (my $socket = $listen->accept) {
                $socket->blocking(0);
                my $fd = fileno $socket;
                $conn{$fd} = { socket => $socket, fd => $fd, in => '',
                               out => '', plan => [] };
            }
        }

        for my $c (values %conn) {
            my $gone = 0;

            if (vec $r, $c->{fd}, 1) {
                my $n = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};

                if ($n) {
                    1 while take($c, $file);

                } elsif (defined $n || !$!{EAGAIN}) {
                    $gone = 1;
                }
            }

            if (!$gone && length $c->{out}) {
                my $n = syswrite $c->{socket}, $c->{out};
                $n ? substr($c->{out}, 0, $n, '')
                   : $!{EAGAIN} || ($gone = 1);
            }

            $gone = 1 if $c->{end} && !length $c->{out};

            delete $conn{$c->{fd}} if $gone;
        }
    }
}


# One request off the connection's input, if it is there.

sub take {
    my ($c, $file) = @_;

    my $end = index $c->{in}, "\r\n\r\n";
    return 0 if $end < 0;

    my ($line, @lines) = split /\r\n/, substr $c->{in}, 0, $end;
    my ($method, $uri) = split / /, $line;

    my %headers;

    for (@lines) {
        my ($name, $value) = /^([^:]+):\s*(.*)$/ or next;
        $name = lc $name;
        $headers{$name} = exists $headers{$name} ? "$headers{$name}, $value"
                                                 : $value;
    }

    my $body = '';
    my $at = $end + 4;

    if (($headers{'transfer-encoding'} // '') eq 'chunked') {
        while (1) {
            pos $c->{in} = $at;
            $c->{in} =~ /\G([0-9a-f]+)[^\r]*\r\n/gci or return 0;
            my $size = hex $1;
            $at = pos($c->{in}) + $size + 2;
            return 0 if length $c->{in} < $at;
            $body .= substr $c->{in}, $at - $size - 2, $size;
            last if $size == 0;
        }

    } elsif (my $size = $headers{'content-length'}) {
        return 0 if length $c->{in} < $at + $size;
        $body = substr $c->{in}, $at, $size;
        $at += $size;
    }

    substr $c->{in}, 0, $at, '';

    # one write a line: a killed server leaves whole lines
    open my $f, '>>', $file or die "$file: $!\n";
    syswrite $f, $json->encode({ id => $headers{'x-request-id'}, time => time,
        method => $method, uri => $uri, headers => \%headers,
        defined $headers{'webhook-id'} ? (body => $body) : () }) . "\n";
    close $f;

    answer($c, $method, $uri, \%headers, $body);
    return 1;
}


sub answer {
    my ($c, $method, $uri, $headers, $body) = @_;

    return if $uri =~ m{/hang};

    my $last = @{$c->{plan}} ? $c->{plan}[-1][0] : 0;
    my $when = $last > time ? $last : time;

    $when += $1 / 1000 if $uri =~ m{/delay/(\d+)};

    if ($uri =~ m{/close}) {
        push @{$c->{plan}}, [ $when, undef ];
        return;
    }

    my $status = $uri =~ m{/status/(\d+)} ? $1 : 200;

    my $text = $uri =~ m{/bytes/(\d+)} ? 'x' x $1
             : $uri =~ m{/echo}
               ? $json->encode({ method => $method, uri => $uri,
                                 headers => $headers, body => $body })
             : "ok\n";

    $text = '' if $status =~ /^(204|304)$/;

    my $type = $uri =~ m{/echo} ? 'application/json' : 'text/plain';
    my $head = "HTTP/1.1 $status Answer\r\nContent-Type: $type\r\n";

    $head .= "$1: " . ($2 =~ s/%(..)/chr hex $1/ger) . "\r\n"
        while $uri =~ m{/set/([\w-]+)/([^/?]*)}g;

    if ($uri =~ m{/say/(\d+)/(\d+)(/on)?}) {
        my ($piece, $ms, $on) = ($1, $2, $3);

        $head =~ s/^Content-Type: \K[^\r]*/$headers->{'x-say-type'}/m;
        say($c, $when, $head, $headers->{'x-say'}, $piece, $ms / 1000, $on);
        return;
    }

    if ($uri =~ m{/stream/(\d+)/(\d+)}) {
        my ($n, $ms) = ($1, $2);

        push @{$c->{plan}},
            [ $when, "${head}Transfer-Encoding: chunked\r\n\r\n" ],
            map({ [ $when + $_ * $ms / 1000, "6\r\nchunk\n\r\n" ] } 1 .. $n),
            [ $when + $n * $ms / 1000, "0\r\n\r\n" ];
        return;
    }

    if ($uri =~ m{/abort}) {
        push @{$c->{plan}},
            [ $when, "${head}Content-Length: 1000\r\n\r\nhalf" ],
            [ $when, undef ];
        return;
    }

    $head .= 'Content-Length: ' . length($text) . "\r\n"
        unless $status == 204 || $status == 304;

    push @{$c->{plan}},
        [ $when, "$head\r\n" . ($method eq 'HEAD' ? '' : $text),
          $uri =~ m{/gate} ? 1 : 0 ];
}


# A file as a chunked answer.

sub say {
    my ($c, $when, $head, $file, $piece, $apart, $on) = @_;

    open my $f, '<:raw', $file or die "$file: $!\n";
    my $text = do { local $/; <$f> } // '';
    my @pieces = $piece ? $text =~ /(.{1,$piece})/gs : $text;

    push @{$c->{plan}}, [ $when, "${head}Transfer-Encoding: chunked\r\n\r\n" ],
        map { [ $when + $_ * $apart,
                sprintf "%x\r\n%s\r\n", length $pieces[$_], $pieces[$_] ] }
            grep { length $pieces[$_] } 0 .. $#pieces;

    push @{$c->{plan}}, [ $c->{plan}[-1][0], "0\r\n\r\n" ] unless $on;
}


1;
