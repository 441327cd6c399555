package Apikey::Peer;

# A server that misbehaves on demand.
#
# In front of a real one:
#
#     my $peer = $t->peer(to => $redis->port);      # or to => '/path/socket'
#     apikey_redis redis://127.0.0.1:<$peer->port>
#     $peer->mode('pass')           as it comes (the start)
#     $peer->mode('delay', 0.2)     each piece of an answer so much later
#     $peer->mode('hold')           answers are kept until another mode
#     $peer->mode('trickle', 0.001) answers byte by byte, so far apart
#     $peer->mode('silent')         takes everything, says nothing
#     $peer->mode('cut')            closes all, and every new one at once
#     $peer->mode('half')           half of the next answer, then closes
#     $peer->mode('junk', "bytes")  this instead of the next answers
#
# Alone, as a Redis that says what the test wants:
#
#     my $peer = $t->peer(redis => sub { my ($state, @command) = @_; ... });
#
# The code runs in the peer's process, once a command, and returns the bytes
# of the reply (undef: none); $state is a hash that lives as long as the
# connection, $state->{mode} what mode() said last, $state->{port} its port.  The modes work here, too.
#
# A node asks each Redis who it is, by EVAL of a script that begins with
# "local s"; identity(@command) answers that, or nothing if it is none.
#
# refuse() closes the port until accept(); commands() are those received.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

use Apikey::Process qw(free_port spawn wait_for);


sub new {
    my ($class, %opt) = @_;

    my $base = "$opt{dir}/$opt{name}";

    my $self = bless {
        %opt,
        port     => free_port(),
        control  => "$base.mode",
        commands => "$base.commands",
        log      => "$base.log",
    }, $class;

    $self->mode('pass');
    return $self->accept;
}


sub port { $_[0]{port} }


sub accept {
    my ($self) = @_;

    my $listen = IO::Socket::INET->new(Proto => 'tcp', ReuseAddr => 1,
        LocalAddr => "127.0.0.1:$self->{port}", Listen => 256)
        or die "peer: $@\n";

    $self->{process} = spawn(code => sub { serve($self, $listen) },
                             log => $self->{log}, name => $self->{name});
    return $self;
}


sub refuse { $_[0]->stop }


sub stop {
    my ($self) = @_;

    my $process = delete $self->{process} or return;
    $process->stop('KILL');
}


# In force for whatever the peer does after the call returned.

sub mode {
    my ($self, $mode, $value) = @_;

    my $number = ++$self->{number};

    open my $f, '>:raw', "$self->{control}.new"
        or die "$self->{control}: $!\n";
    print $f join("\0", $number, $mode, $value // '');
    close $f;
    rename "$self->{control}.new", $self->{control};

    return unless $self->{process};

    # the peer writes the number back when it has read it
    wait_for("mode $mode", sub {
        open my $f, '<', "$self->{control}.seen" or return 0;
        return (<$f> // 0) >= $number;
    });
}


sub commands {
    my ($self) = @_;

    open my $f, '<:raw', $self->{commands} or return;
    return map { chomp; [ split /\0/, $_, -1 ] } <$f>;
}


sub identity {
    my (@command) = @_;

    return '' unless $command[0] eq 'EVAL' && $command[1] =~ /^local s = /;

    my $text = 'master ' . 'f' x 40 . ' -1 0 M1';
    return '$' . length($text) . "\r\n$text\r\n";
}


# The peer's own process.

sub serve {
    my ($self, $listen) = @_;

    $SIG{PIPE} = 'IGNORE';

    my ($number, $mode, $value) = (0, 'pass', '');
    my %pair;         # fileno of either end => { a (client), b (server), ... }

    $listen->blocking(0);

    while (1) {
        if (open my $f, '<:raw', $self->{control}) {
            local $/;
            my ($n, $m, $v) = split /\0/, <$f> // '', 3;

            if ($n && $n != $number) {
                ($number, $mode, $value) = ($n, $m, $v);

                if ($mode eq 'cut') {
                    %pair = ();
                }

                open my $seen, '>', "$self->{control}.seen";
                print $seen $number;
            }
        }

        my ($r, $now) = ('', time);

        vec($r, fileno $listen, 1) = 1;

        my %all = map { ("$_" => $_) } values %pair;

        for my $p (values %all) {
            vec($r, fileno $p->{a}, 1) = 1;
            vec($r, fileno $p->{b}, 1) = 1 if $p->{b};
        }

        # a mode is looked for every few milliseconds
        select $r, undef, undef, 0.002;

        if (vec $r, fileno $listen, 1) {
            while (my $a = $listen->accept) {
                next if $mode eq 'cut';
                add(\%pair, $a, $self) or close $a;
            }
        }

        for my $p (values %all) {
            my $gone = 0;

            if (vec $r, fileno $p->{a}, 1) {
                my $n = sysread $p->{a}, my $data, 65536;
                $n ? from_client($self, $p, $data, $mode, $value)
                   : ($gone = 1);
            }

            if (!$gone && $p->{b} && vec $r, fileno $p->{b}, 1) {
                my $n = sysread $p->{b}, my $data, 65536;
                $n ? answer($p, $data, $mode, $value) : ($gone = 1);
            }

            $gone ||= deliver($p, $mode);

            if ($gone) {
                delete $pair{fileno $p->{a}};
                close $p->{a};
                close $p->{b} if $p->{b};
            }
        }
    }
}


sub add {
    my ($pair, $a, $self) = @_;

    my $p = { a => $a, out => [], state => { port => $self->{port} },
              in => '' };

    if (defined $self->{to}) {
        $p->{b} = $self->{to} =~ m{/}
            ? IO::Socket::UNIX->new(Peer => $self->{to})
            : IO::Socket::INET->new(PeerAddr => "127.0.0.1:$self->{to}");
        return 0 unless $p->{b};
    }

    $pair->{fileno $a} = $p;
    return 1;
}


sub from_client {
    my ($self, $p, $data, $mode, $value) = @_;

    return if $mode eq 'silent';

    if ($p->{b}) {
        syswrite $p->{b}, $data;
        return;
    }

    $p->{in} .= $data;
    $p->{state}{mode} = $mode;

    while (my @command = command(\$p->{in})) {
        open my $f, '>>:raw', $self->{commands};
        print $f join("\0", map { s/\n/ /gr } @command), "\n";
        close $f;

        my $reply = $self->{redis}->($p->{state}, @command);
        answer($p, $reply, $mode, $value) if defined $reply;
    }
}


# One command off the buffer, if it is whole.

sub command {
    my ($in) = @_;

    $$in =~ /\A\*(\d+)\r\n/ or return;
    my ($n, $at, @words) = ($1, $+[0]);

    for (1 .. $n) {
        pos($$in) = $at;
        $$in =~ /\G\$(\d+)\r\n/g or return;
        $at = pos($$in) + $1 + 2;
        return if length $$in < $at;
        push @words, substr $$in, $at - $1 - 2, $1;
    }

    substr $$in, 0, $at, '';
    return @words;
}


# Puts an answer into the plan of what goes out when.

sub answer {
    my ($p, $data, $mode, $value) = @_;

    return if $mode eq 'silent';

    my $out = $p->{out};
    my $now = time;

    if ($mode eq 'delay') {
        push @$out, [ $now + $value, $data ];

    } elsif ($mode eq 'trickle') {
        my $at = @$out ? $out->[-1][0] : $now;
        $at = $now if $at < $now;
        push @$out, map { [ $at += $value, $_ ] } split //, $data;

    } elsif ($mode eq 'half') {
        push @$out, [ $now, substr $data, 0, length($data) / 2 ],
                    [ $now, undef ];

    } elsif ($mode eq 'junk') {
        push @$out, [ $now, $value ];

    } else {
        push @$out, [ $now, $data ];
    }
}


# True: the connection is to be closed.

sub deliver {
    my ($p, $mode) = @_;

    return 0 if $mode eq 'silent' || $mode eq 'hold';

    while (@{$p->{out}} && $p->{out}[0][0] <= time) {
        my $step = shift @{$p->{out}};
        return 1 unless defined $step->[1];
        syswrite $p->{a}, $step->[1];
    }

    return 0;
}


1;
