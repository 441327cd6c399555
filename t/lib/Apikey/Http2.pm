package Apikey::Http2;

# HTTP/2 without TLS, frame by frame.
#
#     my $h2 = $node->h2;                     # to %%PORT_h2%%
#     my $r = $h2->get('/', key => $key);     # as Apikey::Http's answers
#
#     my @ids = map { $h2->open('GET', '/', key => $key) } 1 .. 10;
#     $h2->reset($ids[0]);
#     my $r = $h2->response($ids[1]);
#
# open() only sends; options: key, headers => [ name => value ], body, end => 0
# (then data($id, $bytes, end => 1)).  A stream that was reset has
# $r->{reset} with its error code and status 0.  window => N given to new():
# the initial window of streams; window($id, N) opens one further.  With
# auto => 0 nothing is acknowledged by itself.

use strict;
use warnings;

use IO::Socket::INET;
use Time::HiRes qw(time);

use Apikey::Process qw(slow);


sub Apikey::Nginx::h2 {
    my ($node, %opt) = @_;

    return Apikey::Http2->new(port => $node->port('h2'), %opt);
}


use constant {
    DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6,
    GOAWAY => 7, WINDOW_UPDATE => 8, CONTINUATION => 9,
};


sub new {
    my ($class, %opt) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
        PeerPort => $opt{port}, Timeout => 10)
        or die "connect to $opt{port}: $@\n";

    my $self = bless {
        socket => $socket, buffer => '', next => 1, streams => {},
        table => [], auto => $opt{auto} // 1,
        timeout => ($opt{timeout} // 15) * slow(),
    }, $class;

    my $settings = defined $opt{window} ? pack('nN', 4, $opt{window}) : '';

    $self->raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    $self->frame(SETTINGS, 0, 0, $settings);
    $self->frame(WINDOW_UPDATE, 0, 0, pack 'N', 1 << 28) if $self->{auto};

    return $self;
}


sub raw {
    my ($self, $bytes) = @_;

    local $SIG{PIPE} = 'IGNORE';

    while (length $bytes) {
        my $n = syswrite($self->{socket}, $bytes) // return 0;
        substr $bytes, 0, $n, '';
    }

    return 1;
}


sub frame {
    my ($self, $type, $flags, $id, $payload) = @_;

    $self->raw(pack('CnCCN', length($payload) >> 16, length($payload) & 0xffff,
                    $type, $flags, $id) . $payload);
}


sub reset  { my ($self, $id, $code) = @_;
             $self->frame(RST_STREAM, 0, $id, pack 'N', $code // 8) }
sub window { my ($self, $id, $n) = @_;
             $self->frame(WINDOW_UPDATE, 0, $id, pack 'N', $n) }
sub close  { CORE::close $_[0]{socket} }


# Sends a request and returns its stream's number.

sub open {
    my ($self, $method, $path, %opt) = @_;

    my $id = $self->{next};
    $self->{next} += 2;

    my @fields = (':method' => $method, ':scheme' => 'http', ':path' => $path,
                  ':authority' => $opt{host} // 'localhost');

    push @fields, 'x-api-key' => $opt{key} if defined $opt{key};
    push @fields, @{$opt{headers} // []};

    my $block = '';

    while (my ($name, $value) = splice @fields, 0, 2) {
        $block .= "\0" . literal($name) . literal($value);
    }

    my $end = $opt{end} // !defined $opt{body};

    $self->{streams}{$id} = { headers => {}, body => '', status => 0 };
    $self->frame(HEADERS, 4 | ($end ? 1 : 0), $id, $block);
    $self->data($id, $opt{body}, end => 1) if defined $opt{body};

    return $id;
}


sub literal {
    my ($text) = @_;

    my $length = length $text;
    return chr($length) . $text if $length < 127;

    my $prefix = chr 127;
    $length -= 127;

    while ($length > 127) {
        $prefix .= chr(128 | $length & 127);
        $length >>= 7;
    }

    return $prefix . chr($length) . $text;
}


sub data {
    my ($self, $id, $bytes, %opt) = @_;

    my @parts = $bytes eq '' ? '' : $bytes =~ /.{1,16384}/sg;

    while (defined(my $part = shift @parts)) {
        $self->frame(DATA, $opt{end} && !@parts ? 1 : 0, $id, $part);
    }
}


sub get { my ($self, $path, %opt) = @_;
          return $self->request('GET', $path, %opt) }

sub request {
    my ($self, $method, $path, %opt) = @_;

    return $self->response($self->open($method, $path, %opt));
}


# Reads frames until this stream is over (headers => 1: has its headers).

sub response {
    my ($self, $id, %opt) = @_;

    my $until = time + ($opt{timeout} // $self->{timeout});
    my $stream = $self->{streams}{$id};

    until ($stream->{end} || defined $stream->{reset}
           || ($opt{headers} && $stream->{status}))
    {
        die "GOAWAY $self->{goaway}\n"
            if defined $self->{goaway} && $self->{goaway} < $id;
        $self->read_frame($until) or die "no response on stream $id\n";
    }

    return $stream;
}


# Reads whatever comes until the peer closes; true when it did in time.

sub closed {
    my ($self, $seconds) = @_;

    my $until = time + ($seconds // 5);
    1 while $self->read_frame($until);
    return $self->{eof} ? 1 : 0;
}


sub fill {
    my ($self, $n, $until) = @_;

    while (length $self->{buffer} < $n) {
        my $bits = '';
        vec($bits, fileno $self->{socket}, 1) = 1;

        my $left = $until - time;
        return 0 if $left <= 0 || !select $bits, undef, undef, $left;

        my $got = sysread $self->{socket}, $self->{buffer}, 65536,
                          length $self->{buffer};

        unless ($got) {
            $self->{eof} = 1;
            return 0;
        }
    }

    return 1;
}


sub read_frame {
    my ($self, $until) = @_;

    $self->fill(9, $until) or return 0;
    my ($hi, $lo, $type, $flags, $id) = unpack 'CnCCN', $self->{buffer};
    my $length = $hi << 16 | $lo;

    $self->fill(9 + $length, $until) or return 0;
    my $payload = substr $self->{buffer}, 9, $length;
    substr $self->{buffer}, 0, 9 + $length, '';

    my $stream = $self->{streams}{$id};

    if ($type == HEADERS || $type == CONTINUATION) {
        $self->{block} .= $payload;

        if ($flags & 4) {
            $self->decode(delete $self->{block}, $stream);
        }
    }

    if ($type == DATA) {
        $stream->{body} .= $payload if $stream;
        $self->window($id, $length) if $self->{auto} && $length;
    }

    if (($type == DATA || $type == HEADERS) && $flags & 1) {
        $stream->{end} = 1 if $stream;
    }

    if ($type == RST_STREAM && $stream) {
        $stream->{reset} = unpack 'N', $payload;
    }

    $self->frame(SETTINGS, 1, 0, '') if $type == SETTINGS && !($flags & 1);
    $self->frame(PING, 1, 0, $payload) if $type == PING && !($flags & 1);
    $self->{goaway} = unpack 'N', $payload if $type == GOAWAY;

    return 1;
}


# HPACK

my @static = map { [ split / /, $_, 2 ] } split /\|/,
    ':authority |:method GET|:method POST|:path /|:path /index.html|'
    . ':scheme http|:scheme https|:status 200|:status 204|:status 206|'
    . ':status 304|:status 400|:status 404|:status 500|accept-charset |'
    . 'accept-encoding gzip, deflate|accept-language |accept-ranges |accept |'
    . 'access-control-allow-origin |age |allow |authorization |cache-control |'
    . 'content-disposition |content-encoding |content-language |'
    . 'content-length |content-location |content-range |content-type |cookie |'
    . 'date |etag |expect |expires |from |host |if-match |if-modified-since |'
    . 'if-none-match |if-range |if-unmodified-since |last-modified |link |'
    . 'location |max-forwards |proxy-authenticate |proxy-authorization |'
    . 'range |referer |refresh |retry-after |server |set-cookie |'
    . 'strict-transport-security |transfer-encoding |user-agent |vary |via |'
    . 'www-authenticate ';


sub decode {
    my ($self, $block, $stream) = @_;

    my $at = 0;

    while ($at < length $block) {
        my $first = ord substr $block, $at, 1;

        if ($first & 128) {
            $self->field($stream, @{$self->entry(integer(\$block, \$at, 7))});
            next;
        }

        if (($first & 224) == 32) {
            integer(\$block, \$at, 5);            # the table's size
            next;
        }

        my $index = integer(\$block, \$at, $first & 64 ? 6 : 4);
        my $name = $index ? $self->entry($index)->[0] : text(\$block, \$at);
        my $value = text(\$block, \$at);

        unshift @{$self->{table}}, [ $name, $value ] if $first & 64;
        $self->field($stream, $name, $value);
    }
}


sub field {
    my ($self, $stream, $name, $value) = @_;

    return unless $stream;

    if ($name eq ':status') {
        $stream->{status} = $value;
        return;
    }

    my $headers = $stream->{headers};

    $headers->{$name} = exists $headers->{$name} ? "$headers->{$name}, $value"
                                                 : $value;
}


sub entry {
    my ($self, $index) = @_;

    return ($index <= @static ? $static[$index - 1]
                              : $self->{table}[$index - @static - 1])
        // die "HPACK: no entry $index\n";
}


sub integer {
    my ($block, $at, $bits) = @_;

    my $max = (1 << $bits) - 1;
    my $n = ord(substr $$block, $$at++, 1) & $max;

    return $n if $n < $max;

    for (my $shift = 0; ; $shift += 7) {
        my $byte = ord substr $$block, $$at++, 1;
        $n += ($byte & 127) << $shift;
        return $n unless $byte & 128;
    }
}


sub text {
    my ($block, $at) = @_;

    my $packed = ord(substr $$block, $$at, 1) & 128;
    my $length = integer($block, $at, 7);
    my $bytes = substr $$block, $$at, $length;

    $$at += $length;
    return $packed ? unpack_huffman($bytes) : $bytes;
}


# The code of RFC 7541 is canonical: these lengths of its symbols, 0 to 256,
# say all of it.

my @lengths = map { ($_->[0]) x ($_->[1] // 1) } map { [ split /x/ ] } qw(
    13 23 28x7 24 30 28x2 30 28x8 30 28x9 6 10x2 12 13 6 8 11 10x2 8 11 8
    6x3 5x3 6x7 7 8 15 6 12 10 13 6 7x22 8 7 8 13 19 13 14 6 15 5 6 5 6 5
    6x3 5 7x2 6x3 5 6 7 6 5x2 6 7x5 15 11 14 13 28 20 22 20x2 22x3 23 22
    23x5 24 23 24x2 22 23 24 23x4 21 22 23 22 23x2 24 22 21 20 22x2 23x2 21
    23 22x2 24 21 22 23x2 21x2 22 21 23 22 23x2 20 22x3 23 22x2 23 26x2 20
    19 22 23 22 25 26x3 27x2 26 24 25 19 21 26 27x2 26 27 24 21x2 26x2 28
    27x3 20 24 20 21 22 21x2 23 22x2 25x2 24x2 26 23 26 27 26x2 27x5 28
    27x5 26 30
);

my %code;

{
    my ($code, $last) = (0, 0);

    for my $symbol (sort { $lengths[$a] <=> $lengths[$b] || $a <=> $b }
                    0 .. 256)
    {
        my $length = $lengths[$symbol];
        $code <<= $length - $last;
        $last = $length;
        $code{sprintf "%0${length}b", $code++} = chr($symbol & 255);
    }
}


sub unpack_huffman {
    my ($bytes) = @_;

    my ($text, $bits) = ('', '');

    for my $bit (split //, unpack 'B*', $bytes) {
        $bits .= $bit;

        if (exists $code{$bits}) {
            $text .= $code{$bits};
            $bits = '';
        }
    }

    die "HPACK: bad padding\n" if $bits =~ /0/ || length $bits > 7;
    return $text;
}


1;
