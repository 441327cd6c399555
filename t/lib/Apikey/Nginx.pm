package Apikey::Nginx;

# One nginx with the module: a node.  See Apikey::Test for the configuration
# it gets and the names that are replaced in it.

use strict;
use warnings;

use File::Path qw(make_path);
use Time::HiRes qw(time);

use Apikey::Http;
use Apikey::Process qw(free_port wait_for spawn adopt account children_of
                       process_title runs slow);


# new(test => Apikey::Test, name =>, and what Apikey::Test::nginx says)

sub new {
    my ($class, %opt) = @_;

    my $test = $opt{test};
    my $name = $opt{name};

    my $self = bless {
        %opt,
        dir    => "$test->{dir}/$name",
        ring   => "$test->{shm}/$name",
        user   => account('www-data'),
        ports  => { '' => free_port() },
    }, $class;

    make_path($self->{dir}, $self->{ring});
    chmod 0755, $self->{dir}, $self->{ring};

    # where workers write, also the sanitizers
    make_path("$self->{dir}/reports");
    chmod 01777, "$self->{dir}/reports";

    if ($self->{user}) {
        my ($uid, $gid) = (getpwnam $self->{user})[2, 3];
        make_path("$self->{dir}/journal");
        chown $uid, $gid, "$self->{dir}/journal", $self->{ring};
        chmod 0700, "$self->{dir}/journal", $self->{ring};
    }

    $self->write_tokens;
    $self->write_conf;
    return $self;
}


sub port { my ($self, $name) = @_; return $self->{ports}{$name // ''} }
sub name { $_[0]{name} }
sub dir  { $_[0]{dir} }
sub error_log { "$_[0]{dir}/error.log" }


sub write_tokens {
    my ($self) = @_;

    open my $f, '>', "$self->{dir}/tokens" or die "tokens: $!\n";
    print $f "# made by the test\n",
        Digest::SHA::sha256_hex($self->{test}{token}), " tester\n",
        Digest::SHA::sha256_hex($self->{test}{read_token}),
        " reader role=read\n";
    close $f;
}


# Writes nginx.conf from the options, again after set() changed some.

sub write_conf {
    my ($self) = @_;

    open my $f, '>', "$self->{dir}/nginx.conf" or die "nginx.conf: $!\n";
    print $f $self->expand($self->{conf} // $self->default_conf);
    close $f;
}


sub set { my ($self, %opt) = @_; %$self = (%$self, %opt); $self->write_conf }


sub default_conf {
    my ($self) = @_;

    my $test = $self->{test};

    my %base = (
        zone     => 'apikey_zone zone=apikey:8m;',
        postgres => 'apikey_postgres "%%PG%%" poll=200ms;',
        redis    => 'apikey_redis %%REDIS%%;',
        journal  => 'apikey_journal %%DIR%%/journal ring=%%RING%% drain=1s;',
        node     => 'apikey_node %%NAME%%;',
        token    => 'apikey_admin_token %%DIR%%/tokens;',
        %{$self->{base} // {}},
    );

    delete $base{redis}
        unless $test->{redis} || ($self->{base} // {})->{redis};

    my $base = join "\n    ", grep { $_ } map { $base{$_} } sort keys %base;

    my $server = $self->{server} // <<'EOT';
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT
    my $http = $self->{http} // '';
    my $main = $self->{main} // '';
    my $workers = $self->{workers} // 1;

    # a test's crowd comes at once, and each of it has a connection upstream

    my $events = $self->{events} // 'worker_connections 4096;';

    return <<EOT;
%%GLOBALS%%
worker_processes $workers;
$main

events {
    $events
}

http {
    %%GLOBALS_HTTP%%

    $base

    proxy_http_version 1.1;
    proxy_set_header Connection "";

$http

    server {
        listen 127.0.0.1:%%PORT%%;

        location /api/v1/ {
            apikey_admin rate=1000000r/s;
        }

        location = /metrics {
            apikey_metrics;
        }

        location = /health {
            apikey_health;
        }

$server
    }
}
EOT
}


sub expand {
    my ($self, $text) = @_;

    my $test = $self->{test};

    my $user = $self->{user} ? "user $self->{user};\n" : '';
    my $daemon = $self->{daemon} ? 'on' : 'off';
    my $load = $test->{module} ? "load_module $test->{module};\n" : '';

    # a new binary gets only what is named
    my $env = join '', map { "env $_;\n" } sort keys %{$self->env};

    my %value = (
        GLOBALS  => "${load}${user}${env}daemon $daemon;\n"
                    . "pid %%DIR%%/nginx.pid;\n"
                    . "error_log %%DIR%%/error.log info;\n",
        GLOBALS_HTTP => join("\n    ", 'access_log off;',
            map({ "${_}_temp_path %%DIR%%/$_;" }
                qw(client_body proxy fastcgi uwsgi scgi))),
    );

    $text =~ s/%%(GLOBALS|GLOBALS_HTTP)%%/$value{$1}/g;

    %value = (
        DIR  => $self->{dir},
        RING => $self->{ring},
        NAME => $self->{name},
    );

    $value{PG} = $test->{pg}->conninfo if $test->{pg};
    $value{REDIS} = $test->{redis}->url if $test->{redis};
    $value{UPSTREAM} = '127.0.0.1:' . $test->{upstream}->port
        if $test->{upstream};

    my $ports = $self->{ports};

    $text =~ s/%%PORT(?:_(\w+))?%%/$ports->{$1 \/\/ ''} \/\/= free_port()/ge;
    $text =~ s/%%(\w+)%%/$value{$1} \/\/ die "%%$1%%: nothing for it\n"/ge;

    return $text;
}


sub env {
    my ($self) = @_;

    my %env = (TZ => 'UTC');

    if ($ENV{APIKEY_ASAN}) {
        my $log = "log_path=$self->{dir}/reports/sanitizer";

        chomp(my $lib = `\${CC:-cc} -print-file-name=libasan.so`);

        my $leaks = $self->{leaks} ? 1 : 0;
        my $abort = 1 - $leaks;

        $env{LD_PRELOAD} = $lib;

        # nginx and the module both define ngx_modules, by design; nginx
        # leaves what lives as long as the process to the system
        $env{ASAN_OPTIONS} = "$log:detect_odr_violation=0"
                             . ":detect_leaks=$leaks"
                             . ":abort_on_error=$abort:disable_coredump=1";
        $env{UBSAN_OPTIONS} = "$log:print_stacktrace=1";
    }

    return \%env;
}


sub command {
    my ($self, @args) = @_;

    return ($self->{test}{nginx}, '-p', "$self->{dir}/", '-c', 'nginx.conf',
            '-e', "$self->{dir}/error.log", @args);
}


# nginx -t: ("" or not, what it says)

sub check {
    my ($self) = @_;

    my $out = "$self->{dir}/check.log";
    unlink $out;

    my $status = spawn(cmd => [ $self->command('-t') ], env => $self->env,
                       log => $out, name => 'nginx -t')->stop(0, 30);

    open my $f, '<', $out;
    my $text = do { local $/; <$f> } // '';

    return ($status == 0, $text);
}


# start(wait => 0: do not wait until it answers and its keyring is complete)

sub start {
    my ($self, %opt) = @_;

    $self->{process} = spawn(cmd => [ $self->command ], env => $self->env,
        log => "$self->{dir}/stderr.log", name => $self->{name});

    if ($self->{daemon}) {
        wait_for("nginx $self->{name} behind",
                 sub { !$self->{process}->alive }, 30);
        die "nginx $self->{name} does not start:\n" . $self->tail
            if $self->{process}{status};
        $self->{process} = adopt($self->pid_file, $self->{name});
    }

    wait_for("nginx $self->{name}", sub {
        die "nginx $self->{name} ended:\n" . $self->tail
            unless $self->{process}->alive;
        die "a worker of $self->{name} dies at its start\n"
            if $self->log_text =~ /exited on signal (?!9)/;
        return -e "$self->{dir}/nginx.pid"
            && IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                     PeerPort => $self->port)
            && $self->workers >= ($self->{workers} // 1);
    }, 30);

    $self->wait_ready if $opt{wait} // $self->{wait} // 1;

    return $self;
}


# The keyring is complete, as the node's own health says.

sub wait_ready {
    my ($self) = @_;

    wait_for("keyring of $self->{name}", sub {
        my $r = eval { $self->get('/health?ready') } or return 0;

        return $r->{status} == 200;
    }, 20);
}


sub alive { $_[0]{process} && $_[0]{process}->alive }
sub pid   { $_[0]{process}->pid }


# Worker pids; all => 1: those that are shutting down, too.

sub workers {
    my ($self, %opt) = @_;

    return grep {
        my $title = process_title($_);
        $title =~ /worker process/
            && ($opt{all} || $title !~ /shutting down/);
    } children_of($self->pid);
}


# HUP; returns when only workers of the new configuration take requests.
# Those of the old one may still serve theirs.

sub reload {
    my ($self) = @_;

    my %old = map { $_ => 1 } $self->workers(all => 1);
    my $want = $self->{workers} // 1;

    $self->{process}->signal('HUP');

    wait_for("reload of $self->{name}", sub {
        my @now = $self->workers;
        return @now == $want && !grep { $old{$_} } @now;
    }, 20);
}


# Until no worker of an older configuration is left.

sub wait_old {
    my ($self) = @_;

    wait_for("old workers of $self->{name}", sub {
        $self->workers(all => 1) == $self->workers;
    }, 30);
}


sub pid_file {
    my ($self) = @_;

    open my $f, '<', "$self->{dir}/nginx.pid" or return 0;
    return (<$f> // '') =~ /^(\d+)$/ ? $1 : 0;
}


# USR2: another master with workers of its own beside this one, which it
# returns; daemon => 1 is needed.  ->quit_old ends the old one.

sub upgrade {
    my ($self) = @_;

    my $old = $self->{old} = $self->{process};

    $old->signal('USR2');

    wait_for("another master of $self->{name}", sub {
        my $pid = $self->pid_file;
        return $pid && $pid != $old->pid && runs($pid)
            && ($self->{process} = adopt($pid, $self->{name}))
            && $self->workers == ($self->{workers} // 1);
    }, 30);

    return $old;
}


sub quit_old {
    my ($self) = @_;

    (delete $self->{old})->stop('QUIT', 60 * slow());
}


# QUIT (default), TERM, or KILL: master, workers and helpers at once.

sub stop {
    my ($self, $signal) = @_;

    my $process = delete $self->{process} or return;

    $signal //= 'QUIT';

    if ($signal eq 'KILL') {
        my @pids = ($process->pid, children_of($process->pid));
        kill 'STOP', $process->pid;
        kill 'KILL', @pids, children_of($process->pid);

        # one whose first thread is a zombie may have others that still run

        wait_for("end of $self->{name}", sub {
            !$process->alive && !grep {
                runs($_) || (() = glob "/proc/$_/task/*") > 1
            } @pids;
        });
        unlink "$self->{dir}/nginx.pid";
        return;
    }

    return $process->stop($signal, 30 * slow());
}


# kill -9 of one worker, by pid or the first; returns when another runs.

sub kill_worker {
    my ($self, $pid) = @_;

    my @old = $self->workers;
    $pid //= $old[0];

    $self->{killed}{$pid} = 1;
    kill 'KILL', $pid;

    wait_for('a new worker', sub {
        my @now = $self->workers;
        return @now >= @old && !grep { $_ == $pid } @now;
    });

    return $pid;
}


# Requests to this node, see Apikey::Http.

sub url     { my ($self, $path) = @_;
              return "http://127.0.0.1:" . $self->port . ($path // '/') }
sub conn    { my ($self, %opt) = @_;
              return Apikey::Http->new(port => $self->port, %opt) }
sub request { my ($self, @args) = @_; return $self->conn->request(@args) }
sub get     { my ($self, $path, %opt) = @_;
              return $self->request('GET', $path, %opt) }

sub parallel {
    my ($self, @requests) = @_;

    return Apikey::Http::parallel(map { +{ port => $self->port, %$_ } }
                                  @requests);
}


# So many requests at once, of which all but so many are refused while those
# run; how many there were of each status.

sub crowd {
    my ($self, $n, $pass, $verdict, $path, %opt) = @_;

    my $refused = sub {
        return $self->metric('apikey_requests_total', verdict => $verdict);
    };
    my $before = $refused->();
    my $upstream = $self->{test}{upstream};
    my $hits = $upstream->hits;
    my @conns = map { $self->conn } 1 .. $n;
    my %status;

    $_->send(Apikey::Http::build('GET', "/gate$path", %opt)) for @conns;
    wait_for('all others are refused', sub {
        return $refused->() >= $before + $n - $pass;
    });
    $upstream->wait_hits($hits + $pass);
    $upstream->let_go;
    $status{$_->response->{status}}++ for @conns;
    return \%status;
}


# The admin API as the operator, or as => key or token; body => Perl data.

sub admin {
    my ($self, $method, $path, %opt) = @_;

    my $token = delete $opt{as} // $self->{test}{token};
    my @headers = @{delete $opt{headers} // []};

    unshift @headers, Authorization => "Bearer $token" if $token ne '';

    if (ref $opt{body}) {
        $opt{body} = Apikey::Http::json_encode($opt{body});
        push @headers, 'Content-Type' => 'application/json';
    }

    return $self->request($method, "/api/v1/$path", %opt,
                          headers => \@headers);
}


# One number of /metrics: metric('apikey_requests_total', verdict => 'ok')

sub metric {
    my ($self, $name, %label) = @_;

    my $label = join ',', map { qq($_="$label{$_}") } sort keys %label;
    $name .= "{$label}" if $label ne '';

    my $text = $self->get('/metrics')->{body};

    return $text =~ /^\Q$name\E (\S+)/m ? $1 + 0 : undef;
}


# Whether its copy of the keys is as new as Postgres was then.  The age is
# counted from before it was asked for: the answer may be long on its way.

sub keyring_since {
    my ($self, $then) = @_;

    my $now = time;
    my $age = eval { $self->metric('apikey_keyring_age_seconds') };

    return defined $age && $now - $age > $then;
}


sub log_text {
    my ($self, @names) = @_;

    @names = ('error.log', 'stderr.log', 'reports/*') unless @names;

    my $text = '';

    for my $file (map { glob "$self->{dir}/$_" } @names) {
        open my $f, '<', $file or next;
        local $/;
        $text .= <$f> // '';
    }

    return $text;
}


# The last lines of the log, and the beginning of a sanitizer's report.

sub tail {
    my ($self, $n) = @_;

    my @lines = split /^/, $self->log_text('error.log', 'stderr.log');
    my $from = @lines > ($n // 20) ? @lines - ($n // 20) : 0;

    my @report = split /^/, $self->log_text('reports/*');
    splice @report, 40;

    return join '', @lines[$from .. $#lines], @report;
}


sub wait_log {
    my ($self, $what) = @_;

    wait_for("$what in the log", sub { $self->log_text =~ $what });
}


# What must not be there at the end; allow: patterns of lines that may.

sub complaints {
    my ($self, @allow) = @_;

    my @found;

    for my $line (split /\n/, $self->log_text) {
        next unless $line =~ /\[(alert|emerg|crit)\]|runtime\ error:
                              |AddressSanitizer|LeakSanitizer|UndefinedBehav
                              |ERROR:.*Sanitizer/x;

        # the test's own doing
        next if $line =~ /process (\d+) exited on signal 9|locked by (\d+)/
                && $self->{killed}{$1 // $2};
        next if grep { $line =~ $_ } @allow;

        # nginx's own sources, where all of it was built so
        next if $line =~ m{^src/\S+: runtime error};

        push @found, $line;
    }

    return @found;
}


1;
