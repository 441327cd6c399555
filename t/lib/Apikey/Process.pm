package Apikey::Process;

# Processes of a test: each in a session of its own, as another user where the
# test is root, its output in a file.  Also what every server needs: a free
# port, a condition to wait for.

use strict;
use warnings;

use Exporter qw(import);
use File::Path qw(remove_tree);
use IO::Socket::INET;
use List::Util qw(max sum0);
use POSIX qw(setsid WNOHANG);
use Time::HiRes qw(clock_gettime time sleep);

our @EXPORT_OK = qw(free_port wait_for clear_of spawn adopt account slow
                    children_of cpu_of process_title runs users_of watch);


my %reserved;        # port => UDP socket, held as long as the test lives
my %spawned;         # pid => pid of who spawned it
my $watchdog;        # a pipe to it, which only the test holds
my $watched = 0;     # the test's pid


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
        report("+$pid");
        return bless { pid => $pid,
                       name => $opt{name} // ($opt{cmd} // ['a child'])->[0] };
    }

    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP CHLD PIPE);
    undef $watchdog;
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
    report('.') if $watched == $$;
    $? = $status;
}


# A process that is not this one's child, as a daemon.

sub adopt {
    my ($pid, $name) = @_;

    $spawned{$pid} = $$;
    report("+$pid");
    return bless { pid => $pid, name => $name, foreign => 1 };
}


# A test that is killed ends nothing.  Who watches sees its pipe close without a
# last word, kills what has been spawned and lives, and what uses these
# directories, and removes them.

sub watch {
    my (@dirs) = @_;

    start_watchdog() unless $watchdog;
    report(":$_") for @dirs;
}


sub report {
    my ($line) = @_;

    local $SIG{PIPE} = 'IGNORE';
    syswrite $watchdog, "$line\n" if $watchdog;
}


# Nobody's child, so that a test may wait for its own.

sub start_watchdog {
    pipe my $read, $watchdog or die "pipe: $!\n";

    $watched = $$;

    my $pid = fork // die "fork: $!\n";

    if ($pid) {
        waitpid $pid, 0;
        return;
    }

    setsid();
    POSIX::_exit(0) if fork;

    $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);
    undef $watchdog;
    open $_, '+<', '/dev/null' for \*STDIN, \*STDOUT, \*STDERR;

    my (%leads, @dirs);

    while (<$read>) {
        my ($what, $of) = /^(.)(.*)$/;

        POSIX::_exit(0) if $what eq '.';

        if ($what eq '+') {
            $leads{$of} = 1;

        } elsif ($what eq '-') {
            delete $leads{$of};

        } else {
            push @dirs, $of;
        }
    }

    # again for what these have started meanwhile

    for (1 .. 3) {
        kill 'KILL', members(keys %leads), map { /^(\d+)/ }
                                           map { users_of($_) } @dirs;
        sleep 0.05 if @dirs;
    }

    remove_tree(@dirs) unless $ENV{APIKEY_TEST_KEEP};
    POSIX::_exit(0);
}


# Of the sessions of these.

sub members {
    my %leads = map { $_ => 1 } @_;

    return grep { $leads{(stat_of($_))[3] // ''} } map { m{(\d+)} }
           glob '/proc/[0-9]*';
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
    report("-$self->{pid}");
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

    return ((stat_of($pid))[0] // 'X') !~ /[ZX]/;
}


# State, parent, group, session.

sub stat_of {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/stat" or return;
    return (<$f> // '') =~ /^\d+ \(.*\) (\S) (\d+) (\d+) (\d+)/;
}


sub children_of {
    my ($parent) = @_;

    my @pids;

    for my $pid (map { m{(\d+)} } glob '/proc/[0-9]*') {
        my ($state, $ppid) = stat_of($pid) or next;
        push @pids, $pid if $ppid == $parent && $state ne 'Z';
    }

    return sort { $a <=> $b } @pids;
}


# "PID TITLE" of each with this directory in its command line, or in it.

sub users_of {
    my ($dir) = @_;

    my @users;

    for my $pid (map { m{(\d+)} } glob '/proc/[0-9]*') {
        next if $pid == $$;

        my $title = process_title($pid);
        my $cwd = readlink("/proc/$pid/cwd") // '';

        push @users, "$pid $title" if index("$title $cwd", $dir) >= 0;
    }

    return @users;
}


# Seconds of CPU of whole processes, with all their threads, also those that
# have ended: the kernel's clock of each, see clock_getcpuclockid(3).

sub cpu_of {
    my (@pids) = @_;

    return sum0(map {
        max(0, clock_gettime(unpack 'l', pack 'l', ~$_ << 3 | 2))
    } @pids);
}


sub process_title {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/cmdline" or return '';
    my $title = <$f> // '';
    $title =~ tr/\0/ /;
    return $title;
}


1;
