package Apikey::Process;

# Processes of a test: each in a session of its own, as another user where the
# test is root, its output in a file.  Also what every server needs: a free
# port, a condition to wait for.

use strict;
use warnings;

use Exporter qw(import);
use IO::Socket::INET;
use POSIX qw(setsid WNOHANG);
use Time::HiRes qw(time sleep);

our @EXPORT_OK = qw(free_port wait_for clear_of spawn adopt account slow
                    children_of process_title runs);


my %reserved;        # port => UDP socket, held as long as the test lives
my %spawned;         # pid => pid of who spawned it


# Waits until the code is true and returns what it returned, or dies.  Under
# a sanitizer everything may take three times as long.

sub wait_for {
    my ($what, $code, $seconds) = @_;

    my $end = time + ($seconds // 10) * slow();

    while (1) {
        my $value = $code->();
        return $value if $value;

        die "waited in vain for $what\n" if time > $end;
        sleep 0.01;
    }
}


sub slow { $ENV{APIKEY_ASAN} ? 3 : 1 }


# Waits where a period of so many seconds (900: a quarter of an hour, 86400: a
# day, and with it weeks and months; of UTC) ends within so many seconds.

sub clear_of {
    my ($period, $seconds) = @_;

    my $now = time;
    my $left = $period * (1 + int($now / $period)) - $now;

    sleep $left + 0.01 if $left < $seconds;
}


# A port below the ephemeral ones.  Other tests at the same time keep off by
# the UDP port of the same number.

sub free_port {
    for (1 .. 1000) {
        my $port = 12000 + int rand 20000;

        my $udp = IO::Socket::INET->new(Proto => 'udp',
            LocalAddr => "127.0.0.1:$port") or next;

        IO::Socket::INET->new(Proto => 'tcp', Listen => 1, ReuseAddr => 1,
            LocalAddr => "127.0.0.1:$port") or next;

        $reserved{$port} = $udp;
        return $port;
    }

    die "no free port\n";
}


# The first of these users that exists; undef where the test is not root.

sub account {
    my @names = @_;

    return undef if $>;     # in a list, too

    for my $name (@names, 'nobody') {
        return $name if defined getpwnam $name;
    }

    die "no user to run servers as\n";
}


# spawn(cmd => [...] or code => sub, log => file, user =>, env => {}, dir =>)

sub spawn {
    my (%opt) = @_;

    STDOUT->flush;
    STDERR->flush;

    my $pid = fork // die "fork: $!\n";

    if ($pid) {
        $spawned{$pid} = $$;
        return bless { pid => $pid,
                       name => $opt{name} // ($opt{cmd} // ['a child'])->[0] };
    }

    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP CHLD PIPE);
    setsid();

    open STDIN, '<', '/dev/null';

    if ($opt{log}) {
        open STDOUT, '>>', $opt{log} or POSIX::_exit(111);
        open STDERR, '>&', \*STDOUT;
    }

    chdir $opt{dir} if $opt{dir};

    if ($opt{user}) {
        my ($uid, $gid) = (getpwnam $opt{user})[2, 3];
        $) = "$gid $gid";
        $( = $gid;
        POSIX::setuid($uid);
    }

    local @ENV{keys %{$opt{env} // {}}} = values %{$opt{env} // {}};

    if ($opt{code}) {
        eval { $opt{code}->(); 1 } or print STDERR $@;
        POSIX::_exit($@ ? 1 : 0);
    }

    { exec { $opt{cmd}[0] } @{$opt{cmd}} };
    print STDERR "$opt{cmd}[0]: $!\n";
    POSIX::_exit(127);
}


# What nobody has stopped ends with the test; it would hold prove's pipe.

END {
    my $status = $?;

    kill 'KILL', grep { $spawned{$_} == $$ } keys %spawned;
    $? = $status;
}


# A process that is not this one's child, as a daemon.

sub adopt {
    my ($pid, $name) = @_;

    $spawned{$pid} = $$;
    return bless { pid => $pid, name => $name, foreign => 1 };
}


sub pid { $_[0]{pid} }


sub alive {
    my ($self) = @_;

    return 0 if $self->{gone};

    if ($self->{foreign}) {
        return 1 if runs($self->{pid});
        $? = 0;

    } elsif (waitpid($self->{pid}, WNOHANG) == 0) {
        return 1;
    }

    $self->{status} = $?;
    $self->{gone} = 1;
    delete $spawned{$self->{pid}};
    return 0;
}


sub signal { kill $_[1], $_[0]{pid} }


# Signals and waits for the end; what does not end is killed, and that is an
# error.  Returns the wait status.

sub stop {
    my ($self, $signal, $seconds) = @_;

    return $self->{status} unless $self->alive;

    $self->signal($signal // 'TERM');

    eval { wait_for("end of $self->{name}", sub { !$self->alive },
                    $seconds // 20) };

    if ($@) {
        $self->signal('KILL');
        wait_for("end of $self->{name}", sub { !$self->alive });
        die "$self->{name} had to be killed\n";
    }

    return $self->{status};
}


# Not a zombie: who reaps orphans here may be slow, or nobody.

sub runs {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/stat" or return 0;
    return (<$f> // '') =~ /^\d+ \(.*\) [^ZX]/;
}


sub children_of {
    my ($parent) = @_;

    my @pids;

    for my $dir (glob '/proc/[0-9]*') {
        open my $f, '<', "$dir/stat" or next;
        my $stat = <$f> // next;
        my ($pid, $state, $ppid) = $stat =~ /^(\d+) \(.*\) (\S) (\d+)/ or next;
        push @pids, $pid if $ppid == $parent && $state ne 'Z';
    }

    return sort { $a <=> $b } @pids;
}


sub process_title {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/cmdline" or return '';
    my $title = <$f> // '';
    $title =~ tr/\0/ /;
    return $title;
}


1;
