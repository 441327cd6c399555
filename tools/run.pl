#!/usr/bin/perl
#
# The servers of "make run": Postgres, Redis, a demo API and nginx with the
# module, in .run/, in the foreground until Ctrl-C.  Their data stays for the
# next time.  Called by tools/run, which has built everything.
#
# All of them run as one user without rights (as root: www-data) and talk over
# sockets in a directory that nobody else may enter; only nginx and the demo
# API listen on loopback ports.

use strict;
use warnings;

use Cwd ();
use Digest::SHA qw(sha1_hex);
use Fcntl qw(:flock);
use File::Path qw(make_path);
use FindBin ();
use Time::HiRes qw(time);

use lib "$FindBin::Bin/../t/lib";

use Apikey::Http qw(json json_encode);
use Apikey::Postgres;
use Apikey::Process qw(spawn wait_for account);

my $top = Cwd::abs_path("$FindBin::Bin/..");
my $build = $ENV{APIKEY_BUILD} || "$top/build";
my $run = $ENV{APIKEY_RUN} || "$top/.run";      # env, pid, data
my $user = account('www-data');
my $nginx = find_nginx();

my ($dir, $sockets);                 # data and logs; sockets
my %server;                          # name => process
my $broken = 0;                      # make break
my ($step, $started) = (2, time);    # the first two are tools/run's


$| = 1;

unless (eval { main($ARGV[0] // 'start'); 1 }) {
    print STDERR $@;
    exit 1;
}


sub main {
    my ($what) = @_;

    return stores($what) if $what eq 'break' || $what eq 'mend';

    my $lock = place();

    local $SIG{INT} = local $SIG{TERM} = local $SIG{HUP}
        = sub { die "interrupted\n" };

    my $ok = eval { start(); watch(); 1 };
    my $why = $@;

    $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);

    print STDERR $why unless $ok || $why eq "interrupted\n";
    stop();
    exit($why eq "interrupted\n" ? 0 : 1);
}


# make break, make mend: a signal to the running one, and its answer.

sub stores {
    my ($what) = @_;

    open my $f, '<', "$run/pid" or die "Nothing to $what: start it with "
                                       . "\"make run\" in another shell.\n";
    chomp(my $pid = <$f> // '');

    open my $lock, '>>', "$run/lock" or die "$run/lock: $!\n";
    die "Nothing to $what: start it with \"make run\" in another shell.\n"
        if !$pid || flock $lock, LOCK_EX | LOCK_NB;

    my $want = $what eq 'break' ? 'down' : 'up';

    kill $what eq 'break' ? 'USR1' : 'USR2', $pid or die "signal: $!\n";

    wait_for("the stores to be $want", sub {
        open my $f, '<', "$run/stores" or return 0;
        return (<$f> // '') eq "$want\n";
    }, 30);

    print $what eq 'break'
        ? "Postgres and Redis are stopped.  Known keys still pass, unknown"
          . " ones are\nrefused, usage is kept: try the curl lines, then"
          . " \"make mend\".\n"
        : "Postgres and Redis run again; the usage of the meantime is on its"
          . " way.\n";
}


# Where data can stand: in .run/, or, where the servers' user cannot get there
# (a clone in /root), in /var/tmp, with a link to it.

sub place {
    make_path($run);

    open my $lock, '>>', "$run/lock" or die "$run/lock: $!\n";
    flock $lock, LOCK_EX | LOCK_NB
        or die "It runs already, see .run/env; Ctrl-C there ends it.\n";

    $dir = "$run/data";

    unless (-d $dir) {
        mkdir $dir or die "$dir: $!\n";

        unless (reaches($dir)) {
            rmdir $dir;
            my $other = '/var/tmp/apikey-run-' . substr sha1_hex($run), 0, 8;

            mkdir $other, 0755 or $!{EEXIST} or die "$other: $!\n";
            symlink $other, $dir or die "$dir: $!\n";
        }
    }

    $dir = Cwd::abs_path($dir);

    my @stat = lstat $dir;
    die "$dir does not belong to us: remove it.\n"
        unless -d _ && ($stat[4] == $> || $stat[4] == uid());

    chown uid(), gid(), $dir;
    chmod 0700, $dir;

    # the path of a socket may be 107 bytes long
    $sockets = length $dir < 80 ? "$dir/sockets"
             : '/tmp/apikey-run-' . substr sha1_hex($run), 0, 8;

    own($_) for $sockets, "$dir/temp", "$dir/api_temp", "$dir/journal",
                "$dir/ring", "$dir/redis", "$dir/pg";

    write_file("$run/pid", "$$\n");
    return $lock;
}


sub uid { $user ? (getpwnam $user)[2] : $> }
sub gid { $user ? (getpwnam $user)[3] : (split / /, $))[0] }


sub own {
    my ($path) = @_;

    mkdir $path, 0700 or $!{EEXIST} or die "$path: $!\n";
    my @stat = lstat $path;
    die "$path does not belong to us: remove it.\n"
        unless -d _ && ($stat[4] == $> || $stat[4] == uid());
    chown uid(), gid(), $path;
    chmod 0700, $path;
}


# Whether the servers' user can get into a directory.

sub reaches {
    my ($path) = @_;

    return 1 unless $user;
    return spawn(code => sub { chdir $path or die "no\n" }, user => $user,
                 log => '/dev/null')->stop(0) == 0;
}


sub start {
    step('Postgres runs', "$dir/pg.log",
         'Free disk space, or remove .run/ to start from nothing.',
         \&start_postgres);
    step('Redis runs', "$dir/redis.log",
         'Remove .run/data/redis/ to start with empty limits.', \&start_redis);
    step('the schema is applied', "$dir/schema.log",
         'Remove .run/ to start from nothing.', \&apply_schema);
    step('an operator token is made', "$dir/schema.log",
         'Remove .run/ to start from nothing.', \&make_token);
    step('the demo API runs', "$dir/api.log",
         'Is another nginx of another version in the way?  See NGINX in make '
         . 'help.', \&start_api);
    step('nginx runs with the module', "$dir/nginx.log",
         'If the module is "not binary compatible": make clean, then again.',
         \&start_nginx);
    step('keys are made', "$dir/nginx.log",
         'Remove .run/ to start from nothing.', \&make_keys);

    write_file("$run/stores", "up\n");
    show();
}


sub step {
    my ($title, $log, $advice, $code) = @_;

    my $begin = time;
    $step++;

    unless (eval { $code->(); 1 }) {
        my $why = $@;
        die $why if $why eq "interrupted\n";

        printf "%2d  %s: FAILED\n", $step, $title;
        print STDERR last_lines($log), "$why$advice\n";
        die "\n";
    }

    printf "%2d  %-52s%6.1f s\n", $step, $title, time - $begin;
}


sub last_lines {
    my ($log) = @_;

    open my $f, '<', $log or return '';
    my @lines = <$f>;
    splice @lines, 0, @lines - 20 if @lines > 20;
    return "the last lines of $log:\n", map { "    $_" } @lines;
}


sub write_file {
    my ($file, $text, $mode) = @_;

    unlink $file;
    umask(($mode // 0644) ^ 0777);
    open my $f, '>', $file or die "$file: $!\n";
    umask 0022;
    print $f $text;
    close $f;
}


sub read_file {
    my ($file) = @_;

    open my $f, '<', $file or return '';
    local $/;
    return <$f> // '';
}


sub launch {
    my ($name, @cmd) = @_;

    $server{$name} = spawn(cmd => \@cmd, name => $name, dir => $dir,
        log => "$dir/$name.log", user => $name =~ /nginx|api/ ? undef : $user);
}


sub ready {
    my ($name, $code) = @_;

    wait_for($name, sub {
        die "$name has ended.\n" unless $server{$name}->alive;
        return eval { $code->() };
    }, 60);
}


sub start_postgres {
    my $bin = Apikey::Postgres::bindir();
    my $data = "$dir/pg/data";

    unless (-e "$data/PG_VERSION") {
        spawn(cmd => [ "$bin/initdb", '-D', $data, '-U', 'postgres', '-E',
                       'UTF8', '--no-locale', '--auth-local=trust',
                       '--auth-host=reject', '--no-instructions' ],
              user => $user, log => "$dir/pg.log", dir => $dir,
              name => 'initdb')->stop(0, 60)
            and die "initdb failed.\n";
    }

    my $version = read_file("$data/PG_VERSION");
    chomp $version;

    launch('pg', "$bin/postgres", '-D', $data, '-k', $sockets, '-h', '',
           '-c', 'max_connections=40');

    ready('pg', sub {
        system("$bin/pg_isready -q -h '$sockets' -U postgres") == 0;
    });
}


sub start_redis {
    my $socket = "$sockets/redis.sock";

    launch('redis', 'redis-server', '--port', '0', '--unixsocket', $socket,
           '--unixsocketperm', '700', '--dir', "$dir/redis", '--save', '',
           '--appendonly', 'yes', '--daemonize', 'no');

    ready('redis', sub {
        my $s = IO::Socket::UNIX->new(Peer => $socket) or return 0;
        print $s "PING\r\n";
        return (<$s> // '') =~ /^\+PONG/;
    });
}


sub conninfo { "host=$sockets dbname=postgres user=$_[0]" }


sub ctl {
    my (@args) = @_;

    my $pid = open(my $out, '-|') // die "fork: $!\n";

    if ($pid == 0) {
        open STDERR, '>>', "$dir/schema.log";
        { exec "$build/apikeyctl", @args };
        POSIX::_exit(127);
    }

    my @lines = <$out>;
    close $out or die "apikeyctl $args[0] $args[1] failed.\n";
    chomp @lines;
    return @lines;
}


sub apply_schema {
    ctl('schema', 'apply', '--dir', "$top/schema", '--postgres',
        conninfo('postgres'));
}


my ($key, $token, $id);

sub make_token {
    my $env = read_file("$run/env");
    ($token) = $env =~ /TOKEN=(\S+)/;
    ($key) = $env =~ /KEY=(\S+)/;
    ($id) = $env =~ /ID=(\S+)/;

    return if $token && -s "$dir/tokens";

    my ($line, $new) = ctl('token', 'new', 'demo');

    write_file("$dir/tokens", "$line\n", 0600);
    $token = $new;
}


# The first free port from this one on.

sub port_from {
    my ($port) = @_;

    for ($port .. $port + 100) {
        return $_ if IO::Socket::INET->new(LocalAddr => "127.0.0.1:$_",
            Proto => 'tcp', Listen => 1, ReuseAddr => 1);
    }

    die "No port from $port on is free.\n";
}


my ($port, $api_port);

sub write_conf {
    my ($from, $to) = @_;

    my %value = (
        MODULE   => "$build/ngx_http_apikey_module.so",
        DIR      => $dir,
        SOCKETS  => $sockets,
        USER     => $user ? "user $user;" : '',
        POSTGRES => conninfo('apikey_gateway'),
        PORT     => $port,
        API_PORT => $api_port,
    );

    write_file($to, read_file("$top/examples/$from")
                    =~ s/%%([A-Z_]+)%%/$value{$1} \/\/ ''/ger);
}


sub find_nginx {
    for my $name ($ENV{NGINX} || 'nginx') {
        return $name if $name =~ m{/};

        for my $path (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin') {
            return "$path/$name" if -x "$path/$name";
        }
    }

    die "no nginx here\n";
}


sub start_api {
    $api_port = port_from(8081);
    write_conf('demo-api.conf', "$dir/api.conf");
    launch('api', $nginx, '-p', "$dir/", '-c', "$dir/api.conf",
           '-e', "$dir/api.log");
    ready('api', sub {
        Apikey::Http->new(port => $api_port)->request('GET', '/')->{status}
            == 200;
    });
}


sub start_nginx {
    $port = port_from(8080);
    write_conf('demo.conf', "$dir/nginx.conf");
    launch('nginx', $nginx, '-p', "$dir/", '-c', "$dir/nginx.conf",
           '-e', "$dir/nginx.log");
    ready('nginx', sub {
        Apikey::Http->new(port => $port)->request('GET', '/health?ready')
            ->{status} == 200;
    });
}


sub admin {
    my ($method, $path, $body) = @_;

    my $r = Apikey::Http->new(port => $port)->request($method,
        "/api/v1/$path", headers => [
            'Authorization' => "Bearer $token",
            defined $body ? ('Content-Type' => 'application/json') : (),
        ], defined $body ? (body => json_encode($body)) : ());

    die "$method $path: $r->{status} $r->{body}\n"
        unless $r->{status} =~ /^2/ || $r->{status} == 404;

    return $r;
}


# The keys of the last time, where they are still good.

sub make_keys {
    my $who = $key && Apikey::Http->new(port => $port)->request('GET',
        '/api/v1/whoami', key => $key);

    unless ($who && $who->{status} == 200) {
        $key = json(admin('POST', 'api-keys', {
            name => 'first', owner => 'you', scopes => [ '*' ],
            limits => [ { name => 'demo', unit => 'requests', limit => 5,
                          window => '10s' } ],
        }))->{key};
    }

    my $spare = $id && json(admin('GET', "api-keys/$id"));

    unless ($spare && ($spare->{status} // '') eq 'active') {
        $id = json(admin('POST', 'api-keys', {
            name => 'spare', owner => 'you' }))->{id};
    }

    write_file("$run/env", "export KEY=$key TOKEN=$token ID=$id\n", 0600);
}


sub show {
    my $url = "http://127.0.0.1:$port";
    my $took = sprintf '%.1f', time - $started;

    print <<EOT;

ready in $took s: gateway $url, demo API behind it on port $api_port
Postgres: psql "@{[conninfo('postgres')]}"
Redis:    redis-cli -s $sockets/redis.sock
logs:     $dir/*.log

export KEY=$key TOKEN=$token ID=$id

# 200, with RateLimit headers
curl -i $url/hello -H "X-API-Key: \$KEY"

# 401
curl -i $url/hello

# 200 200 200 ... 429 429: 5 in 10 seconds
for i in 1 2 3 4 5 6 7 8; do curl -s -o /dev/null -w '%{http_code} ' $url/hello -H "X-API-Key: \$KEY"; done; echo

# 201: a new key, shown this once
curl -i $url/api/v1/api-keys -H "Authorization: Bearer \$TOKEN" -H 'Content-Type: application/json' -d '{"name": "second", "owner": "user_42", "limits": [{"name": "hourly", "unit": "requests", "limit": 1000, "window": "1h"}]}'

# 200: all keys
curl -i $url/api/v1/api-keys -H "Authorization: Bearer \$TOKEN"

# 200: the spare key with a limit
curl -i -X PATCH $url/api/v1/api-keys/\$ID -H "Authorization: Bearer \$TOKEN" -H 'Content-Type: application/json' -d '{"limits": [{"name": "slow", "unit": "requests", "limit": 1, "window": "1m"}]}'

# 204: the spare key is revoked
curl -i -X DELETE $url/api/v1/api-keys/\$ID -H "Authorization: Bearer \$TOKEN"

# 200: what the first key has used
curl -i $url/api/v1/usage/summary -H "X-API-Key: \$KEY"

"make break" in another shell stops Postgres and Redis, "make mend" starts
them.  The variables stand in .run/env, too (. .run/env).  Ctrl-C ends all and
keeps the data.
EOT
}


# The foreground: break and mend by signal, and a word when a server dies.

sub watch {
    local $SIG{USR1} = sub { $broken = 1 };
    local $SIG{USR2} = sub { $broken = 0 };

    my $down = 0;

    while (1) {
        select undef, undef, undef, 0.2;

        if ($broken && !$down) {
            $down = 1;
            $_->stop('INT', 30) for grep { $_ } delete @server{qw(pg redis)};
            write_file("$run/stores", "down\n");
            print "Postgres and Redis are stopped (make break)\n";
        }

        if (!$broken && $down) {
            start_postgres();
            start_redis();
            $down = 0;
            write_file("$run/stores", "up\n");
            print "Postgres and Redis run again (make mend)\n";
        }

        for my $name (sort keys %server) {
            next if $server{$name}->alive;
            print STDERR last_lines("$dir/$name.log");
            die "$name has ended by itself; everything else ends, too.\n";
        }
    }
}


# nginx first, so that its journal still reaches Postgres.

sub stop {
    my $begin = time;

    for my $name (qw(nginx api redis pg)) {
        my $process = delete $server{$name} or next;
        my $signal = $name eq 'pg'    ? 'INT'
                   : $name eq 'redis' ? 'TERM' : 'QUIT';

        eval { $process->stop($signal, 30); 1 } or print STDERR $@;
    }

    unlink "$run/pid", "$run/stores";
    printf "\nstopped in %.1f s; the data stays in .run/\n", time - $begin;
}
