package Apikey::Postgres;

# A Postgres of the test's own, on a unix socket and a loopback port, trusting
# everybody.  initdb and the schema are done once a day for each state of
# schema/ and copied from then on.  fsync is off: a killed Postgres loses
# nothing by that, only a power cut would.

use strict;
use warnings;

use Digest::SHA;
use Fcntl qw(:flock);
use File::Path qw(make_path remove_tree);

use Apikey::Process qw(free_port wait_for spawn account);

my $bindir;
my $quote = "\x1f";


sub bindir {
    return $bindir if $bindir;

    for my $dir (map { $_->[0] } sort { $b->[1] <=> $a->[1] }
                 map { [ $_, m{/(\d+)/bin$} ] }
                 glob '/usr/lib/postgresql/*/bin')
    {
        return $bindir = $dir if -x "$dir/postgres";
    }

    chomp(my $dir = `pg_config --bindir 2>/dev/null` // '');
    return $bindir = $dir if -x "$dir/postgres";

    die "no Postgres server here: make deps\n";
}


# new(dir => of the test, build => where apikeyctl is, schema => 0: none,
# conf => [ 'name=value', ... ])

sub new {
    my ($class, %opt) = @_;

    my $self = bless {
        dir  => "$opt{dir}/pg",
        build => $opt{build},
        conf => $opt{conf} // [],
        port => free_port(),
        user => account('postgres'),
        log  => "$opt{dir}/postgres.log",
    }, $class;

    my $data = "$self->{dir}/data";

    make_path($self->{dir});
    $self->own($self->{dir});

    if ($opt{schema} // 1) {
        my ($template, $lock) = $self->template;
        system('cp', '-a', '--reflink=auto', $template, $data) == 0
            or die "cannot copy $template\n";

    } else {
        $self->initdb($data);
    }

    return $self->start;
}


sub own {
    my ($self, $path) = @_;

    return unless $self->{user};

    my ($uid, $gid) = (getpwnam $self->{user})[2, 3];
    chown $uid, $gid, $path or die "chown $path: $!\n";
}


sub initdb {
    my ($self, $data) = @_;

    spawn(cmd => [ bindir() . '/initdb', '-D', $data, '-U', 'postgres',
                   '-E', 'UTF8', '--no-locale', '--auth=trust', '--no-sync',
                   '--wal-segsize=1', '--no-instructions' ],
          user => $self->{user}, log => $self->{log}, dir => $self->{dir},
          name => 'initdb')
        ->stop(0, 60) and die "initdb failed, see $self->{log}\n";
}


# Another one, which follows this one.

sub standby {
    my ($self) = @_;

    my $copy = bless { %$self, dir => "$self->{dir}-standby",
                       log => "$self->{log}-standby", port => free_port() },
               ref $self;

    make_path($copy->{dir});
    $copy->own($copy->{dir});

    spawn(cmd => [ bindir() . '/pg_basebackup', '-D', "$copy->{dir}/data",
                   '-h', $self->{dir}, '-p', $self->{port}, '-U', 'postgres',
                   '-R', '--checkpoint=fast', '--no-sync' ],
          user => $self->{user}, log => $copy->{log}, dir => $copy->{dir},
          name => 'pg_basebackup')
        ->stop(0, 60) and die "pg_basebackup failed, see $copy->{log}\n";

    return $copy->start;
}


# The directory to copy, named after what it was made from and the day, from
# which on it has partitions and calendars, and a lock that keeps it from being
# replaced meanwhile.

sub template {
    my ($self) = @_;

    my $sha = Digest::SHA->new(256);
    $sha->add(bindir());

    for my $file (sort glob 'schema/*.sql') {
        $sha->add($file)->addfile($file);
    }

    my $store = "$self->{build}/t";
    my $name = "$store/pg-" . int(time / 86400) . '-'
               . substr $sha->hexdigest, 0, 16;

    make_path($store);

    open my $lock, '>', "$store/lock" or die "$store/lock: $!\n";
    flock $lock, LOCK_SH;
    return ($name, $lock) if -d $name;

    flock $lock, LOCK_EX;
    return ($name, $lock) if -d $name;

    remove_tree($_) for glob "$store/pg-*";

    my $data = "$self->{dir}/data";
    $self->initdb($data);
    $self->start;
    $self->ctl('schema', 'apply');
    $self->stop;

    system('cp', '-a', $data, "$name.new") == 0
        or die "cannot keep $data\n";
    rename "$name.new", $name or die "$name: $!\n";
    remove_tree($data);

    return ($name, $lock);
}


sub start {
    my ($self) = @_;

    my $data = "$self->{dir}/data";

    # a killed Postgres leaves this behind; its pid may be another's by now
    unlink "$data/postmaster.pid";

    $self->{process} = spawn(
        cmd => [ bindir() . '/postgres', '-D', $data, '-k', $self->{dir},
                 '-h', '127.0.0.1', '-p', $self->{port}, '-F',
                 map { ('-c', $_) } 'full_page_writes=off',
                     'max_connections=200', 'shared_buffers=16MB',
                     'log_line_prefix=%m [%p] %a ', 'autovacuum=off',
                     'max_parallel_workers=0', @{$self->{conf}} ],
        user => $self->{user}, log => $self->{log}, dir => $self->{dir},
        name => 'postgres');

    $self->wait_ready;
    return $self;
}


sub wait_ready {
    my ($self) = @_;

    wait_for('Postgres', sub {
        die "Postgres ended, see $self->{log}\n"
            unless $self->{process}->alive;
        return eval { ($self->value('SELECT 1') // 0) eq 1 };
    }, 30);
}


# 'fast' (INT), 'immediate' (QUIT: as a crash, but orderly), 'kill' (-9)

sub stop {
    my ($self, $how) = @_;

    my $process = delete $self->{process} or return;

    $how //= 'fast';

    if ($how eq 'kill') {
        my $data = "$self->{dir}/data";

        # its shared memory is free only when all have ended, and one may be
        # born while the others are being looked for
        wait_for('end of Postgres', sub {
            my @pids = grep { (readlink("/proc/$_/cwd") // '') eq $data }
                       map { m{(\d+)$} } glob '/proc/[0-9]*';

            kill 'KILL', @pids;
            return !@pids && !$process->alive;
        });
        return;
    }

    $process->stop($how eq 'immediate' ? 'QUIT' : 'INT', 30);
}


sub alive { $_[0]{process} && $_[0]{process}->alive }


# Conninfo over the unix socket; tcp => 1 over loopback.

sub conninfo {
    my ($self, %opt) = @_;

    my $host = $opt{tcp} ? '127.0.0.1' : $self->{dir};
    my $user = $opt{user} // 'apikey_gateway';

    return "host=$host port=$self->{port} dbname=postgres user=$user";
}


sub ctl {
    my ($self, @args) = @_;

    my $conninfo = $self->conninfo(user => 'postgres');

    # libpq reads the same names from the environment
    local $ENV{PGHOST} = $self->{dir};
    local $ENV{PGPORT} = $self->{port};
    local $ENV{PGUSER} = 'postgres';
    local $ENV{PGDATABASE} = 'postgres';

    open my $f, '-|', "$self->{build}/apikeyctl", @args
        or die "$self->{build}/apikeyctl: $!\n";
    my $out = do { local $/; <$f> } // '';
    close $f or die "apikeyctl @args failed: $out\n";

    return $out;
}


# All rows, each an array; NULL is undef.  user => role, default the superuser

sub rows {
    my ($self, $sql, %opt) = @_;

    my @cmd = (bindir() . '/psql', '-XqAt', '-v', 'ON_ERROR_STOP=1',
               '-P', 'null=\N', '-F', $quote, '-R', "\x1e",
               '-d', $self->conninfo(user => $opt{user} // 'postgres'),
               '-f', '-');

    my $err = "$self->{dir}/psql.$$.err";
    my $in = "$self->{dir}/psql.$$.sql";

    open my $f, '>:utf8', $in or die "$in: $!\n";
    print $f $sql;
    close $f;

    my $pid = open(my $out, '-|') // die "fork: $!\n";

    if ($pid == 0) {
        open STDIN, '<', $in;
        open STDERR, '>', $err;
        { exec { $cmd[0] } @cmd };
        POSIX::_exit(127);
    }

    my $text = do { local $/; <$out> } // '';

    unless (close $out) {
        open my $f, '<', $err;
        my $why = join '', <$f>;
        unlink $in, $err;
        die "psql: $why";
    }

    unlink $in, $err;

    return () if $text eq '';

    chomp $text;
    $text =~ s/\x1e\z//;

    return map { [ map { $_ eq '\N' ? undef : $_ } split /$quote/, $_, -1 ] }
           split /\x1e/, $text, -1;
}


sub value {
    my ($self, $sql, %opt) = @_;

    my ($row) = $self->rows($sql, %opt);
    return $row ? $row->[0] : undef;
}


# The first column of all rows.

sub column {
    my ($self, $sql, %opt) = @_;

    return map { $_->[0] } $self->rows($sql, %opt);
}


sub run { my ($self, $sql, %opt) = @_; $self->rows($sql, %opt); return }


# Holds what the SQL locks, until what it returns is called.

sub locked {
    my ($self, $sql) = @_;

    open my $one, '|-', bindir() . '/psql', '-Xqo', '/dev/null', '-v',
        'ON_ERROR_STOP=1', '-d', $self->conninfo(user => 'postgres')
        or die "psql: $!\n";
    print $one "BEGIN; $sql;\n";
    $one->flush;

    wait_for('a lock', sub { $self->value(
        q{SELECT count(*) FROM pg_stat_activity
          WHERE state = 'idle in transaction'}) });

    return sub {
        print $one "COMMIT;\n";
        close $one or die "psql: $?\n";
    };
}


# The same; runs work() in a child until that waits for it, then check(), and
# lets it go on.  True: check() did not die, and the child is well.

sub while_locked {
    my ($self, $sql, $work, $check) = @_;

    my $go = $self->locked($sql);
    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        my $well = eval { $work->() };
        POSIX::_exit($well ? 0 : 1);
    }

    my $well = eval {
        wait_for('who waits for it', sub { $self->value(
            q{SELECT count(*) FROM pg_stat_activity
              WHERE cardinality(pg_blocking_pids(pid)) > 0}) });
        $check->();
        1;
    };

    warn $@ unless $well;
    $go->();
    waitpid $pid, 0;

    return $well && $? == 0;
}


# A Perl value as SQL text: undef is NULL, an array is a text[].

sub quote {
    my ($self, $value) = @_;

    return 'NULL' unless defined $value;

    if (ref $value eq 'ARRAY') {
        return 'ARRAY[' . join(',', map { $self->quote($_) } @$value)
               . ']::text[]';
    }

    $value =~ s/'/''/g;
    return "'$value'";
}


1;
