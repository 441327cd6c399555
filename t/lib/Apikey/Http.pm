package Apikey::Http;

# HTTP/1 over a bare socket: whatever bytes a test wants to send, in whatever
# pieces.
#
#     my $c = Apikey::Http->new(port => 8080);
#     my $r = $c->request('GET', '/', key => $key, headers => [ A => 'b' ]);
#     $r->{status}, $r->{reason}, $r->{body}, $r->{raw}
#     $r->{headers}{'retry-after'}       several of a name: joined by ", "
#     json($r)                           the body decoded
#
# The connection is kept alive; request() may be called again.

use strict;
use warnings;

use Exporter qw(import);
use IO::Socket::INET;
use JSON::PP ();
use Socket qw(SOL_SOCKET SO_LINGER SHUT_WR IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

use Apikey::Process qw(slow);

our @EXPORT_OK = qw(json json_encode parallel);


my $json = JSON::PP->new->canonical->allow_nonref;

sub json_encode { $json->encode($_[0]) }


sub json {
    my ($r) = @_;

    my $data = eval { JSON::PP->new->utf8->decode($r->{body}) };
    die "no JSON ($r->{status}): $r->{body}\n" if $@;
    return $data;
}


# new(port =>, timeout => seconds)

sub new {
    my ($class, %opt) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => $opt{host} // '127.0.0.1',
        PeerPort => $opt{port}, Timeout => 10)
        or die "connect to $opt{port}: $@\n";

    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    binmode $socket;

    return bless { socket => $socket, buffer => '',
                   timeout => ($opt{timeout} // 15) * slow() }, $class;
}


# The bytes of a request.  key: as X-API-Key; body: with its Content-Length,
# or chunked => 1; headers: [ name => value, ... ], Host and what else is
# needed are added unless given.

sub build {
    my ($method, $uri, %opt) = @_;

    my @headers = @{$opt{headers} // []};
    my %have = map { lc $headers[2 * $_] => 1 } 0 .. @headers / 2 - 1;

    unshift @headers, Host => $opt{host} // 'localhost' unless $have{host};
    push @headers, 'X-API-Key' => $opt{key} if defined $opt{key};
    push @headers, Connection => 'close' if $opt{close};

    my $body = $opt{body} // '';
    utf8::encode($body) if utf8::is_utf8($body);

    if ($opt{chunked}) {
        push @headers, 'Transfer-Encoding' => 'chunked';
        $body = join('', map { sprintf("%x\r\n%s\r\n", length, $_) }
                         $body =~ /.{1,1000}/sg) . "0\r\n\r\n";

    } elsif (defined $opt{body} && !$have{'content-length'}) {
        push @headers, 'Content-Length' => length $body;
    }

    my $text = "$method $uri HTTP/1.1\r\n";

    while (my ($name, $value) = splice @headers, 0, 2) {
        $text .= "$name: $value\r\n";
    }

    return "$text\r\n$body";
}


sub request {
    my ($self, $method, $uri, %opt) = @_;

    $self->send(build($method, $uri, %opt));
    return $self->response(head => $method eq 'HEAD');
}


# Sends bytes as they are; piece => N: N bytes a write (with TCP_NODELAY each
# is a packet of its own).

sub send {
    my ($self, $bytes, %opt) = @_;

    my $piece = $opt{piece} || length($bytes) || 1;
    local $SIG{PIPE} = 'IGNORE';

    for (my $at = 0; $at < length $bytes; $at += $piece) {
        my $part = substr $bytes, $at, $piece;

        while (length $part) {
            my $n = syswrite $self->{socket}, $part;

            unless (defined $n) {
                next if $!{EINTR};
                $self->{broken} = "$!";
                return 0;                   # an answer may be there already
            }
            substr $part, 0, $n, '';
        }
    }

    return 1;
}


# Reads more; false at the end of the stream or after the time.

sub fill {
    my ($self, $until) = @_;

    my $bits = '';
    vec($bits, fileno $self->{socket}, 1) = 1;

    my ($ready, $n);

    # a signal that is only noted interrupts nothing

    do {
        my $left = $until - time;
        return 0 if $left <= 0;
        $ready = select my $r = $bits, undef, undef, $left;
    } while ($ready < 0 && $!{EINTR});

    return 0 unless $ready > 0;

    do {
        $n = sysread $self->{socket}, $self->{buffer}, 65536,
                     length $self->{buffer};
    } while (!defined $n && $!{EINTR});

    $self->{closed} = 1 unless $n;
    return $n;
}


sub need {
    my ($self, $what, $code, $until) = @_;

    until ($code->()) {
        $self->fill($until) or die "no $what: "
            . ($self->{closed} ? 'closed' : 'timeout') . " after "
            . length($self->{buffer}) . " bytes\n";
    }
}


# The next response; dies when it is not complete in time.
# head => 1: without a body, whatever its headers say

sub response {
    my ($self, %opt) = @_;

    my $until = time + ($opt{timeout} // $self->{timeout});
    my $end;

    $self->need('response', sub {
        ($end = index $self->{buffer}, "\r\n\r\n") >= 0;
    }, $until);

    my $head = substr $self->{buffer}, 0, $end + 4, '';
    my ($status, $reason) = $head =~ m{^HTTP/1\.[01] (\d{3}) ?([^\r]*)\r\n}
        or die "no status line: $head\n";

    my %headers;

    for my $line (split /\r\n/, $head =~ s/^.*?\r\n//r) {
        my ($name, $value) = $line =~ /^([^:]+):\s*(.*?)\s*$/ or next;
        $name = lc $name;
        $headers{$name} = exists $headers{$name} ? "$headers{$name}, $value"
                                                 : $value;
    }

    return $self->response(%opt) if $status == 100;

    my $r = { status => $status, reason => $reason, headers => \%headers,
              head => $head, body => '' };

    unless ($opt{head} || $status =~ /^(1..|204|304)$/) {
        $r->{body} = $self->body(\%headers, $until);
    }

    $r->{raw} = $head . $r->{body};
    return $r;
}


sub body {
    my ($self, $headers, $until) = @_;

    if (($headers->{'transfer-encoding'} // '') eq 'chunked') {
        my $body = '';

        while (1) {
            $self->need('chunk', sub {
                $self->{buffer} =~ /^[0-9a-f]+.*?\r\n/i;
            }, $until);
            $self->{buffer} =~ s/^([0-9a-f]+).*?\r\n//i;

            my $size = hex $1;
            $self->need('chunk', sub { length $self->{buffer} >= $size + 2 },
                        $until);
            $body .= substr $self->{buffer}, 0, $size;
            substr $self->{buffer}, 0, $size + 2, '';
            return $body if $size == 0;
        }
    }

    if (defined(my $size = $headers->{'content-length'})) {
        $self->need('body', sub { length $self->{buffer} >= $size }, $until);
        return substr $self->{buffer}, 0, $size, '';
    }

    1 while $self->fill($until);
    return delete($self->{buffer}) . ($self->{buffer} = '');
}


# Everything until the peer closes, or the time is over.

sub rest {
    my ($self, $seconds) = @_;

    my $until = time + ($seconds // $self->{timeout});
    1 while !$self->{closed} && $self->fill($until);
    my $text = $self->{buffer};
    $self->{buffer} = '';
    return $text;
}


# True when the peer has closed (or reset) within the time.

sub closed {
    my ($self, $seconds) = @_;

    my $until = time + ($seconds // 5);
    1 while !$self->{closed} && $self->fill($until);
    return $self->{closed} ? 1 : 0;
}


sub half_close { shutdown $_[0]{socket}, SHUT_WR }
sub close      { CORE::close $_[0]{socket} }


# A reset instead of an orderly end.

sub abort {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    CORE::close $self->{socket};
}


# parallel({ port =>, method =>, uri =>, what build() takes }, ...): all are
# sent before the first answer is read, each on a connection of its own.  A
# request without an answer gets { status => 0, error => why }.

sub parallel {
    my (@requests) = @_;

    my @all;

    # so many at once that no limit of open files is near
    while (my @some = splice @requests, 0, 400) {
        my @conns = map { Apikey::Http->new(%$_{'port'}) } @some;

        for my $i (0 .. $#some) {
            my %opt = (method => 'GET', uri => '/', %{$some[$i]});
            $conns[$i]->send(build(delete @opt{qw(method uri)}, %opt));
        }

        push @all, map {
            my $conn = $_;
            eval { $conn->response } // { status => 0, error => $@,
                                          headers => {}, body => '' };
        } @conns;
    }

    return @all;
}


1;
