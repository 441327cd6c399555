package Apikey::Test;

=head1 NAME

Apikey::Test - real servers for a test, and one place that ends them all

=head1 SYNOPSIS

    use strict;
    use warnings;

    use Test::More;
    use Apikey::Test qw(wait_for json rounds);

    my $t = Apikey::Test->new;

    $t->postgres;                       # schema applied; optional
    $t->redis;                          # optional
    $t->upstream;                       # optional

    my $key = $t->key(name => 'one', owner => 'user_1', scopes => ['a:read'],
        limits => [{ name => 'hourly', limit => 10, window => '1h' }]);

    my $a = $t->nginx(workers => 2)->start;        # a node
    my $b = $t->nginx(name => 'b')->start;         # another one

    $t->sync;                   # all nodes know what stands in Postgres

    my $r = $a->get('/', key => $key->{key});
    is($r->{status}, 200, 'a key passes');

    $t->done;                           # final checks, done_testing

Run with C<prove -It/lib t/x.t> from the top of the tree after C<make build>.

=head1 NODES

C<< $t->nginx(OPTIONS) >> makes a node; C<< ->start >> starts it and waits
until it answers and its keyring is complete (C<< start(wait => 0) >>: only
until it listens).  Without options its configuration is

    apikey_zone, apikey_postgres, apikey_redis (when $t->redis was called),
    apikey_journal, apikey_node, apikey_admin_token
    server {
        location /api/v1/ { apikey_admin rate=1000000r/s; }
        location = /metrics { apikey_metrics; }
        location = /health { apikey_health; }
        location / { apikey required; proxy_pass http://%%UPSTREAM%%; }
    }

=over

=item name, workers

of the node (default C<node>, 1)

=item server

the server's text instead of C<location />

=item http, events, main

text put into that block besides

=item base

other lines for the base, by name (zone postgres redis journal node token),
undef for none:
C<< base => { redis => 'apikey_redis %%REDIS%% timeout=1s;' } >>

=item conf

a whole configuration; it wants C<%%GLOBALS%%> on top and C<%%GLOBALS_HTTP%%>
in http{}

=item leaks

1: under a sanitizer its report tells what leaked, too

=item daemon

1: in the background, as an upgrade of the binary needs it

=item wait

0: start() does not wait for the keyring

=back

Replaced in every text: C<%%PORT%%> the node's port, C<%%PORT_x%%> another one
named x (C<< $node->port('x') >>), C<%%DIR%%>, C<%%RING%%>, C<%%NAME%%>,
C<%%PG%%> (conninfo of the first Postgres), C<%%REDIS%%>, C<%%UPSTREAM%%>.

C<< ($ok, $says) = $node->check >> is C<nginx -t>, without starting it.
C<< $node->set(server => ...) >> writes a new configuration, C<< ->reload >>
puts it in force.  C<< ->stop >>, C<< ->stop('KILL') >> (all of it at once),
C<< ->kill_worker >>, C<< ->workers >>, C<< ->wait_old >>,
C<< ->wait_log(qr//) >>,
C<< ->upgrade >> and C<< ->quit_old >>,
C<< ->metric(NAME, label => value) >>, C<< ->complaints >>: see Apikey::Nginx.

Requests: C<< $node->get(URI, key => ...) >>, C<< $node->request(METHOD, URI,
OPTIONS) >>,
C<< $node->admin(METHOD, 'api-keys', body => {...}, as => TOKEN) >>,
C<< $node->parallel({ uri =>, key => }, ...) >>; C<< $node->conn >> is a
connection of L<Apikey::Http> (pieces, pipelining, abort, half-close),
C<< $node->h2 >> one of L<Apikey::Http2> on port C<%%PORT_h2%%> (a
C<listen ... http2> that the test writes).  C<< $node->load(key => ...) >> is
traffic in the background, see L<Apikey::Load>.

=head1 OTHER SERVERS

C<< $t->postgres >>: L<Apikey::Postgres> (value, rows, run, quote, ctl, stop,
start, conninfo).  C<< $t->redis(password =>, unix => 1, aof => 1) >>:
L<Apikey::Redis>; C<< $t->sentinels >>, C<< $t->cluster >>:
L<Apikey::RedisGroup>.  C<< $t->upstream >>: L<Apikey::Upstream>.
C<< $t->peer(...) >>: L<Apikey::Peer>, a server that lies, or stands in front of
a real one and delays, trickles, cuts.
Each of the first four is made once; another one by C<< name => >>.

=head1 KEYS

C<< $t->key(OPTIONS) >> writes a key with SQL and returns { id, secret, key
(the plaintext), owner }.  Options: the members of the admin API's create
(name, owner, customer, plan, prefix, scopes, allowed_models, allowed_ips,
metadata, enabled, expires_at, limits), C<plain> for a plaintext of your own,
C<owner_limits>.  C<< $t->keys(N, OPTIONS) >> makes N at once, fast.  Nobody
waits: call C<< $t->sync >> when all are written.

=head1 FUNCTIONS

C<wait_for(WHAT, CODE, SECONDS)> dies when CODE does not become true; never
sleep and hope.  C<rounds(SHORT, LONG)>: LONG under C<make soak>.
C<clear_of(900, 5)> waits where a quarter of an hour ends within 5 s; C<new>
does where a day does within 90.  C<free_port>, C<json($r)>,
C<plain_key(PREFIX)>, C<crc32c(BYTES)>.

=head1 THE END

C<< $t->done >> stops all and checks: requests waiting 0, every node ends in
order, no [alert], [emerg], [crit] and no sanitizer report in any log, no
process left.  C<< $t->allow(qr/.../) >> names lines of the error log that this
test provokes.  When a test dies everything is stopped all the same.

Environment: APIKEY_BUILD (default build), APIKEY_NGINX, APIKEY_MODULE (the
file to load; empty: it is linked into nginx), APIKEY_ASAN=1 (the build is a
sanitized one), APIKEY_SOAK=1, APIKEY_TEST_KEEP=1 (leaves the directory and
says where).

=cut

use strict;
use warnings;

use Compress::Raw::Zlib ();
use Cwd ();
use Digest::SHA ();
use Exporter qw(import);
use File::Path qw(remove_tree make_path);
use File::Temp ();
use JSON::PP ();
use POSIX ();
use Test::More ();
use Time::HiRes qw(time);

use Apikey::Http qw(json json_encode);
use Apikey::Http2;
use Apikey::Load;
use Apikey::Nginx;
use Apikey::Peer;
use Apikey::Postgres;
use Apikey::Process qw(wait_for free_port clear_of users_of watch);
use Apikey::Redis;
use Apikey::RedisGroup;
use Apikey::Upstream;

our @EXPORT_OK = qw(wait_for free_port clear_of json json_encode rounds
                    plain_key crc32c);


my %living;              # tests of this process that are not done


sub new {
    my ($class, %opt) = @_;

    my $build = $ENV{APIKEY_BUILD} || 'build';
    my $nginx = $ENV{APIKEY_NGINX} || 'nginx';

    # no quota is refilled, and no report has another day, in a test's midst
    clear_of(86400, 90);

    my $dir = File::Temp::tempdir('apikey-XXXXXX', TMPDIR => 1);

    chmod 0755, $dir;

    $build = Cwd::abs_path($build) // die "no $build: make build\n";

    if ($nginx !~ m{/}) {
        ($nginx) = grep { -x } map { "$_/$nginx" }
                   split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
        die "no nginx here: make deps\n" unless $nginx;
    }

    my $self = bless {
        dir        => $dir,
        build      => $build,
        module     => $ENV{APIKEY_MODULE}
                      // "$build/ngx_http_apikey_module.so",
        nginx      => $nginx,
        nodes      => [],
        servers    => [],
        allow      => $opt{allow} // [],
        token      => plain_key('op'),
        read_token => plain_key('op'),
        owner      => $$,
    }, $class;

    # in memory, as in production
    $self->{shm} = -d '/dev/shm' ? '/dev/shm/' . (split m{/}, $dir)[-1]
                                 : "$dir/shm";
    make_path($self->{shm});
    chmod 0755, $self->{shm};

    $living{$dir} = $self;
    watch(@$self{qw(dir shm)});

    for my $name (qw(INT TERM HUP)) {
        $SIG{$name} = sub { die "ended by SIG$name\n" };
    }

    return $self;
}


sub dir    { $_[0]{dir} }
sub token  { $_[0]{token} }
sub allow  { my ($self, @lines) = @_; push @{$self->{allow}}, @lines }
sub rounds { $ENV{APIKEY_SOAK} ? $_[1] : $_[0] }


# Servers: the first of each kind is kept under its kind's name.

sub server {
    my ($self, $kind, $class, %opt) = @_;

    return $self->{$kind} if $self->{$kind} && !$opt{name};

    my $server = $class->new(dir => $self->{dir}, build => $self->{build},
                             %opt);

    push @{$self->{servers}}, $server;
    $self->{$kind} //= $server;
    return $server;
}

sub postgres { my ($self, %opt) = @_;
               return $self->server('pg', 'Apikey::Postgres', %opt) }
sub standby  { my ($self) = @_;
               push @{$self->{servers}}, my $copy = $self->{pg}->standby;
               return $copy }
sub redis    { my ($self, %opt) = @_;
               return $self->server('redis', 'Apikey::Redis', %opt) }
sub sentinels { my ($self, %opt) = @_;
                return $self->server('sentinels', 'Apikey::RedisGroup',
                                     kind => 'sentinels', %opt) }
sub cluster  { my ($self, %opt) = @_;
               return $self->server('cluster', 'Apikey::RedisGroup',
                                    kind => 'cluster', %opt) }
sub upstream { my ($self, %opt) = @_;
               return $self->server('upstream', 'Apikey::Upstream', %opt) }

sub peer {
    my ($self, %opt) = @_;

    $opt{name} //= 'peer' . @{$self->{servers}};
    return $self->server('peer', 'Apikey::Peer', %opt);
}


sub nginx {
    my ($self, %opt) = @_;

    $opt{name} //= 'node';

    my $node = Apikey::Nginx->new(test => $self, %opt);

    push @{$self->{nodes}}, $node;
    return $node;
}


# As the module's files have it.

sub crc32c {
    my ($crc) = 0xffffffff;

    for my $byte (unpack 'C*', $_[0]) {
        $crc ^= $byte;
        $crc = $crc & 1 ? $crc >> 1 ^ 0x82f63b78 : $crc >> 1 for 1 .. 8;
    }

    return $crc ^ 0xffffffff;
}


# A key of our form: 190 random bits, kid 0, and its CRC.

sub plain_key {
    my ($prefix) = @_;

    my @digits = (0 .. 9, 'A' .. 'Z', 'a' .. 'z');

    open my $f, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";
    read $f, my $random, 38;

    my $text = ($prefix // 'sk') . '_';
    my @random = map { $digits[$_ % 62] } unpack 'C*', $random;

    $text .= join '', @random[0 .. 31], '0', @random[32 .. 37];

    my $crc = Compress::Raw::Zlib::crc32($text);
    my $tail = '';

    for (1 .. 6) {
        $tail = $digits[$crc % 62] . $tail;
        $crc = int $crc / 62;
    }

    return $text . $tail;
}


sub key { my ($self, %opt) = @_; return ($self->keys(1, %opt))[0] }


# N keys in one transaction; all with the same options.

sub keys {
    my ($self, $n, %opt) = @_;

    my $pg = $self->{pg};
    my $q = sub { $pg->quote($_[0]) };

    my @keys;
    my $sql = "BEGIN; SET LOCAL search_path = apikey;\n";
    my $owner = 'NULL';

    if (defined $opt{owner}) {
        $sql .= 'INSERT INTO owner (external) VALUES (' . $q->($opt{owner})
                . ") ON CONFLICT DO NOTHING;\n";
        $owner = '(SELECT id FROM owner WHERE external = '
                 . $q->($opt{owner}) . ')';
        $sql .= $self->limit_sql('owner_id', $owner, @{$opt{owner_limits}})
            if $opt{owner_limits};
        $sql .= "SELECT put_credits(NULL, $owner, "
                . $q->(json_encode($opt{owner_credits})) . ");\n"
            if $opt{owner_credits};
    }

    for my $i (1 .. $n) {
        my $prefix = $opt{prefix} // 'sk';
        my $plain = $opt{plain} // plain_key($prefix);
        my ($id, $secret) = (uuid(), uuid());

        my $expires = $opt{expires_at} ? $q->($opt{expires_at}) : 'NULL';
        my $ips = $q->($opt{allowed_ips});
        my $models = $q->($opt{allowed_models});
        my $meta = $q->(json_encode($opt{metadata} // {}));
        my $enabled = $opt{enabled} // 1 ? 'true' : 'false';
        my $revoked = $opt{revoked} ? 'now()' : 'NULL';
        my $name = $q->($n > 1 ? ($opt{name} // 'key') . " $i"
                               : $opt{name} // 'key');

        $sql .= 'INSERT INTO key (id, owner_id, name, customer, prefix,'
            . ' plan, scopes, allowed_models, allowed_ips, metadata, enabled,'
            . ' expires_at, revoked_at) VALUES ('
            . join(', ', "'$id'", $owner, $name, $q->($opt{customer}),
                   $q->($prefix), $q->($opt{plan}), $q->($opt{scopes} // []),
                   $models, $ips, $meta, $enabled, $expires, $revoked)
            . ");\n"
            . 'INSERT INTO secret (id, key_id, digest, start, last4) VALUES ('
            . join(', ', "'$secret'", "'$id'",
                   "'\\x" . Digest::SHA::sha256_hex($plain) . "'",
                   $q->(substr $plain, 0, length($prefix) + 5),
                   $q->(substr $plain, -4))
            . ");\n";

        $sql .= $self->limit_sql('key_id', "'$id'", @{$opt{limits} // []});
        $sql .= "SELECT put_credits('$id', NULL, "
                . $q->(json_encode($opt{credits})) . ");\n" if $opt{credits};

        push @keys, { id => $id, secret => $secret, key => $plain,
                      owner => $opt{owner} };
    }

    $pg->run("${sql}COMMIT;\n");
    return @keys;
}


sub limit_sql {
    my ($self, $holder, $id, @limits) = @_;

    my $q = sub { $self->{pg}->quote($_[0]) };
    my $position = 0;
    my $sql = '';

    # many plain ones are made fast, and all others as the API makes them

    if (grep { ($_->{unit} // 'requests') ne 'requests' || $_->{rolling}
               || defined $_->{model} || $_->{window} !~ /^\d/ } @limits)
    {
        return 'SELECT put_limits('
            . ($holder eq 'key_id' ? "$id, NULL" : "NULL, $id") . ', '
            . $q->(json_encode([ map { { unit => 'requests', %$_ } }
                                 @limits ])) . ");\n";
    }

    for my $l (@limits) {
        my $burst = $l->{burst} // $l->{limit};

        $sql .= "INSERT INTO limit_rule ($holder, position, name, unit,"
            . ' "limit", window_text, window_us, burst, rolling, service,'
            . ' token, refill, capacity, tick) SELECT '
            . join(', ', $id, $position++, $q->($l->{name}), "'requests'",
                   $l->{limit}, $q->($l->{window}), 'w', $burst, 'false',
                   $q->($l->{service}), 'r.token', 'r.refill', 'r.capacity',
                   'r.tick')
            . ' FROM (SELECT read_duration(' . $q->($l->{window})
            . ")::bigint AS w) d, rate_form($l->{limit}, w, $burst) r\n"
            . " ON CONFLICT DO NOTHING;\n";
    }

    return $sql;
}


sub uuid {
    open my $f, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";
    read $f, my $random, 10;

    my $ms = int time * 1000;
    my $hex = sprintf('%012x', $ms) . unpack 'H*', $random;

    substr $hex, 12, 1, '7';
    substr $hex, 16, 1, sprintf '%x', 8 | hex(substr $hex, 16, 1) & 3;

    return join '-', unpack 'a8 a4 a4 a4 a12', $hex;
}


# Until each running node's copy is as new as Postgres was at the call.

sub sync {
    my ($self, @nodes) = @_;

    my $asked = time;

    @nodes = grep { $_->alive } @{$self->{nodes}} unless @nodes;

    for my $node (@nodes) {
        wait_for("keyring of $node->{name}",
                 sub { $node->keyring_since($asked) });
    }
}


# Usage rows in Postgres: column values of raw events, or how many.

sub events {
    my ($self, $where) = @_;

    return $self->{pg}->column('SELECT event FROM apikey.usage_event WHERE '
                               . ($where // 'true') . ' ORDER BY 1');
}


# Waits until so many events are in Postgres; returns their ids.

sub wait_events {
    my ($self, $n, $where) = @_;

    wait_for("$n events in Postgres", sub {
        my $have = eval { $self->{pg}->value(
            'SELECT count(*) FROM apikey.usage_event WHERE '
            . ($where // 'true')) };
        return defined $have && $have >= $n;
    }, 20);

    return $self->events($where);
}


sub done {
    my ($self) = @_;

    my $tb = Test::More->builder;

    for my $node (grep { $_->alive } @{$self->{nodes}}) {
        next if $node->complaints(@{$self->{allow}});    # told below

        my $waiting = eval {
            wait_for('no waiting request', sub {
                ($node->metric('apikey_waiting') // 0) == 0;
            });
        };
        $tb->ok($waiting, "$node->{name}: no request waits at the end");
    }

    my @failed = $self->end;
    $tb->ok(!@failed, 'all servers ended in order') or $tb->diag(@failed);

    my @complaints = map {
        my $node = $_;
        map { "$node->{name}: $_\n" } $node->complaints(@{$self->{allow}});
    } @{$self->{nodes}};

    splice @complaints, 30;
    $tb->ok(!@complaints, 'no complaint in the logs')
        or $tb->diag(@complaints);

    my @left = users_of($self->{dir});
    $tb->ok(!@left, 'no process left') or $tb->diag(map { "$_\n" } @left);
    kill 'KILL', map { /^(\d+)/ } @left;

    $self->report unless $tb->is_passing;

    $tb->done_testing;
    $self->remove;
}


# What the nodes said last, when something has failed.

sub report {
    my ($self) = @_;

    for my $node (@{$self->{nodes}}) {
        Test::More::diag("--- last lines of $node->{name}\n", $node->tail(15));
    }
}


# Stops everything, clients first; returns what went wrong.

sub end {
    my ($self) = @_;

    my @failed;

    for my $server (@{$self->{loads} // []}, @{$self->{nodes}},
                    reverse @{$self->{servers}})
    {
        eval { $server->stop; 1 } or push @failed, $@;
    }

    return @failed;
}


sub remove {
    my ($self) = @_;

    delete $living{$self->{dir}};
    remove_tree($self->{shm});

    if ($ENV{APIKEY_TEST_KEEP}) {
        Test::More::diag("kept $self->{dir}");
        return;
    }

    chdir '/' if index(Cwd::cwd(), $self->{dir}) == 0;
    remove_tree($self->{dir});
}


# A test that died: nothing may stay behind.

END {
    my $status = $?;

    for my $self (values %living) {
        next if $self->{owner} != $$;

        $self->report;
        $self->end;
        kill 'KILL', map { /^(\d+)/ } users_of($self->{dir});
        $self->remove;
    }

    $? = $status;
}


1;
