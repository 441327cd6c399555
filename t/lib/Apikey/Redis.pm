package Apikey::Redis;

# A redis-server of the test's own, without persistence unless asked for, and
# a small client to look into it.  See Apikey::RedisGroup for Sentinels and
# Clusters.

use strict;
use warnings;

use File::Path qw(make_path);
use IO::Socket::INET;
use IO::Socket::UNIX;

use Apikey::Process qw(free_port wait_for spawn);


# new(dir => of the test, name =>, password =>, unix => 1, aof => 1,
#     tls => [ca, cert, key], clients => 1, users => [...], args => [...])
# aof: every acknowledged write survives kill -9
# tls: files; port() stays without it, tls_port() has it, and asks clients for
#      certificates when told so
# users: lines of ACLs, as "user NAME on >PASSWORD ~* +@all"
# args: more of redis-server's; config: a file that it may rewrite
# sentinel: it is one
# host, port: where it listens (127.0.0.1, one that is free)
# login: "user password" of our own client

sub new {
    my ($class, %opt) = @_;

    my $name = $opt{name} // 'redis';

    my $self = bless {
        dir  => "$opt{dir}/$name",
        port => $opt{port} // free_port(),
        host => $opt{host} // '127.0.0.1',
        log  => "$opt{dir}/$name.log",
        %opt{qw(password unix aof tls clients users args config sentinel
                login)},
    }, $class;

    $self->{tls_port} = free_port() if $self->{tls};

    make_path($self->{dir});
    $self->write_config if $self->{config};
    return $self->start;
}


sub write_config {
    my ($self) = @_;

    open my $f, '>', "$self->{dir}/redis.conf" or die "redis.conf: $!\n";
    print $f $self->{config};
    close $f;
}


sub start {
    my ($self) = @_;

    my @args = $self->{config} ? ("$self->{dir}/redis.conf") : ();

    push @args, '--bind', $self->{host}, '--port', $self->{port},
                '--dir', $self->{dir}, '--daemonize', 'no';
    push @args, $self->{sentinel} ? '--sentinel' : ('--save', '');

    push @args, '--requirepass', $self->{password} if $self->{password};
    push @args, '--unixsocket', $self->socket, '--unixsocketperm', '777'
        if $self->{unix};
    push @args, '--appendonly', 'yes', '--appendfsync', 'always'
        if $self->{aof};

    my ($ca, $cert, $key) = @{$self->{tls} // []};

    push @args, '--tls-port', $self->{tls_port}, '--tls-ca-cert-file', $ca,
        '--tls-cert-file', $cert, '--tls-key-file', $key,
        '--tls-auth-clients', $self->{clients} ? 'yes' : 'no'
        if $self->{tls};
    push @args, map { ('--user', split ' ', s/^user //r) }
                @{$self->{users} // []};
    push @args, @{$self->{args} // []};

    $self->{process} = spawn(cmd => [ 'redis-server', @args ],
                             log => $self->{log}, name => 'redis-server');

    wait_for('Redis', sub {
        die "redis-server ended, see $self->{log}\n"
            unless $self->{process}->alive;
        return eval { $self->command('PING') eq 'PONG' };
    });

    return $self;
}


# 'kill' is -9

sub stop {
    my ($self, $how) = @_;

    delete $self->{client};
    my $process = delete $self->{process} or return;
    $self->{frozen} = 0;
    $process->stop(($how // '') eq 'kill' ? 'KILL' : 'TERM');
}


sub alive  { $_[0]{process} && $_[0]{process}->alive }
sub awake  { !$_[0]{frozen} && $_[0]->alive }
sub socket { "$_[0]{dir}/redis.sock" }
sub port   { $_[0]{port} }
sub tls_port { $_[0]{tls_port} }


# Stopped as by a debugger: takes connections and says nothing.

sub freeze { $_[0]{frozen} = 1; $_[0]{process}->signal('STOP') }
sub thaw   { $_[0]{frozen} = 0; $_[0]{process}->signal('CONT') }


# As apikey_redis wants it, without password.

sub url {
    my ($self) = @_;

    return $self->{unix} ? 'unix:' . $self->socket
                         : "redis://$self->{host}:$self->{port}";
}


sub command {
    my ($self, @args) = @_;

    unless ($self->{client}) {
        my $client = IO::Socket::INET->new(
            PeerAddr => "$self->{host}:$self->{port}", Timeout => 5)
            or die "redis: $@\n";

        $self->{client} = $client;
        $self->command('AUTH', $self->{password}) if $self->{password};
        $self->command('AUTH', split ' ', $self->{login}) if $self->{login};
    }

    my $client = $self->{client};

    print $client '*', scalar @args, "\r\n",
          map { ('$', length, "\r\n", $_, "\r\n") } @args;
    $client->flush;

    # from one that hangs nothing comes for ever
    my $reply = eval {
        vec(my $r = '', fileno $client, 1) = 1;
        select($r, undef, undef, 20) or die "no answer\n";
        read_reply($client);
    };

    if ($@) {
        delete $self->{client} unless $@ =~ /^redis: [A-Z]/;
        die $@;
    }

    return $reply;
}


sub read_reply {
    my ($client) = @_;

    local $/ = "\r\n";
    my $line = <$client> // die "redis: connection closed\n";
    chomp $line;

    my ($type, $rest) = $line =~ /^(.)(.*)/s or die "redis: bad reply\n";

    return $rest if $type eq '+' || $type eq ':';
    die "redis: $rest\n" if $type eq '-';

    return undef if $rest == -1;

    if ($type eq '$') {
        read $client, my $text, $rest + 2;
        return substr $text, 0, $rest;
    }

    return [ map { read_reply($client) } 1 .. $rest ] if $type eq '*';

    die "redis: bad reply $line\n";
}


# How often each command ran: { evalsha => 12, ... }

sub calls {
    my ($self) = @_;

    my %calls = $self->command('INFO', 'commandstats')
        =~ /^cmdstat_([^:]+):calls=(\d+)/mg;
    return \%calls;
}


sub reset_calls { $_[0]->command('CONFIG', 'RESETSTAT') }


# Everything it holds as one text, to look for what must not be there.

sub dump {
    my ($self) = @_;

    my $text = '';

    for my $key (@{$self->command('KEYS', '*')}) {
        my $type = $self->command('TYPE', $key);
        $text .= "$key\n";
        $text .= $self->command('GET', $key) . "\n" if $type eq 'string';
        $text .= join("\n", @{$self->command('HGETALL', $key)}) . "\n"
            if $type eq 'hash';
    }

    return $text;
}


1;
