# apikeyctl doctor: what it says of a sound installation, and of one fault
# after another, each in a real server, file or configuration.

use strict;
use warnings;

use POSIX ();
use Test::More;

use Apikey::Ctl;
use Apikey::Certs;
use Apikey::Test;

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);
my $pg = $t->postgres;
my $redis = $t->redis(aof => 1);

my ($rc, $out, $err);


sub doctor {
    my (@args) = @_;

    ($rc, $out, $err) = $ctl->run(['doctor', @args]);
    return;
}


# "level  what: text" of this check

sub finds {
    my ($level, $what, $like, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @lines = $out =~ /^(\w+ +\Q$what\E: .*)$/mg;

    ok(scalar(grep { /^$level +\Q$what\E: .*$like/ } @lines),
       "$level: $name") or diag $out;
}


# Postgres: the harness runs it without fsync.

subtest 'Postgres' => sub {
    my $conninfo = $pg->conninfo;

    doctor('--postgres', $conninfo);
    is($rc, 1, 'something failed');
    finds('ok', 'Postgres', qr/version 1\d\.\d+ as apikey_gateway/, 'version');
    finds('ok', 'roles', qr/all three exist/, 'roles');
    finds('ok', 'rights', qr/apikey_gateway's and no more/, 'rights');
    finds('ok', 'schema', qr/version \d+$/, 'schema');
    finds('fail', 'durability', qr/fsync and full_page_writes off/, 'fsync');
    finds('ok', 'clock of Postgres', qr/within 0\.\d+ s/, 'clock');

    doctor('--postgres', $pg->conninfo(user => 'postgres'));
    finds('warn', 'rights', qr/postgres is a superuser, .*apikey_gateway/,
          'a superuser');

    doctor('--postgres', $pg->conninfo(user => 'apikey_reader'));
    finds('fail', 'rights', qr/apikey_reader is not apikey_gateway/,
          'another role');

    $pg->run("UPDATE apikey.migration SET digest = 'x' WHERE version = 5");
    doctor('--postgres', $conninfo);
    finds('fail', 'schema', qr/1 files are new .*apikeyctl schema apply/,
          'a changed file');

    $pg->run('CREATE OR REPLACE FUNCTION apikey.schema_version() RETURNS int'
             . ' LANGUAGE sql STABLE SET search_path = apikey, pg_temp'
             . ' RETURN 1');
    doctor('--postgres', $conninfo);
    finds('fail', 'schema', qr/version is 1, and \d+ is needed: .*apply/,
          'an older schema');

    $pg->run('CREATE DATABASE bare TEMPLATE template0');
    doctor('--postgres', $conninfo =~ s/dbname=postgres/dbname=bare/r);
    finds('fail', 'schema', qr/it is not there: .*schema apply/, 'no schema');

    doctor('--postgres', "host=$t->{dir} password=very-secret");
    is($rc, 1, 'no Postgres');
    finds('fail', 'Postgres', qr/No such file/, 'it is said');
    unlike($out . $err, qr/very-secret/, 'without the password');
};


subtest 'Redis' => sub {
    my $url = $redis->url;

    doctor('--redis', $url);
    is($rc, 0, 'all is well') or diag $out;
    finds('ok', 'Redis', qr/Redis \d+\.\d/, 'version');
    finds('ok', 'memory of Redis', qr/is noeviction/, 'policy');
    finds('ok', 'durability of Redis', qr/appendonly is on/, 'appendonly');
    finds('ok', 'clock of Redis', qr/within 0\.\d+ s/, 'clock');

    $redis->command(qw(CONFIG SET appendonly no));
    $redis->command(qw(CONFIG SET maxmemory-policy allkeys-lru));
    doctor('--redis', "$url/1");
    is($rc, 0, 'warnings are no failure');
    finds('warn', 'durability of Redis', qr/set appendonly yes/,
          'no append-only file');
    finds('warn', 'memory of Redis', qr/allkeys-lru: .*set noeviction/,
          'a policy without a limit');

    $redis->command(qw(CONFIG SET maxmemory 10000000));
    $redis->command('SET', "filler:$_", 'x' x 100000) for 1 .. 150;
    doctor('--redis', $url);
    is($rc, 1, 'with a limit it is');
    finds('fail', 'memory of Redis', qr/allkeys-lru: .*set noeviction/,
          'it throws limits away');
    finds('warn', 'memory of Redis', qr/\d+ values were evicted/, 'it has');

    $redis->command(qw(CONFIG SET maxmemory-policy noeviction));
    $redis->command(qw(CONFIG SET maxmemory 0));
    $redis->command('FLUSHALL');
    $redis->command(qw(REPLICAOF 127.0.0.1 1));
    doctor('--redis', $url);
    finds('fail', 'role of Redis', qr/it is a replica/, 'a replica');
    $redis->command(qw(REPLICAOF NO ONE));

    doctor('--redis', 'redis://127.0.0.1:1');
    finds('fail', 'Redis', qr/Connection refused/, 'nobody there');
    doctor('--redis', 'memcached://x');
    finds('fail', 'Redis', qr/is the form of its URL/, 'no URL');
    doctor('--redis', 'unix:' . "$t->{dir}/none?db=1");
    finds('fail', 'Redis', qr/No such file/, 'no socket');

    # several, Sentinels, a Cluster, TLS: the words of apikey_redis

    my $replica = $t->redis(name => 'replica',
        args => [ '--replicaof', '127.0.0.1', $redis->port ]);
    Apikey::Test::wait_for('a replica', sub {
        $redis->command('INFO', 'replication') =~ /connected_slaves:1/ });

    doctor('--redis', $replica->url . " $url timeout=1s");
    is($rc, 0, 'two URLs') or diag $out;
    finds('ok', 'Redis at 127.0.0.1:' . $replica->port, qr/it is a replica/,
          'a replica is no harm');
    finds('ok', 'Redis at 127.0.0.1:' . $redis->port, qr/Redis \d/,
          'next to a primary');
    finds('warn', 'replicas of Redis at 127.0.0.1:' . $redis->port,
          qr/set min-replicas-to-write 1/, 'which could be cut off');
    doctor('--redis', $replica->url . ' redis://127.0.0.1:1');
    finds('fail', 'Redis', qr/0 of 2 URLs take writes/, 'no primary');

    my $certs = Apikey::Certs->new($t->dir);
    my $ca = $certs->ca('ours');
    my @cert = $certs->cert('ours', 'redis', 'IP:127.0.0.1');
    my $group = $t->sentinels(name => 'main', n => 1, quorum => 1,
                              redis => { tls => [ $ca, @cert ] });
    my $at = '127.0.0.1:' . ($group->sentinel_list)[0]->tls_port;
    my $tls = "rediss://$at sentinel=";

    doctor('--redis', "${tls}main ca=$ca");
    is($rc, 0, 'Sentinels and TLS') or diag $out;
    finds('ok', "Sentinel at $at", qr/"main" is at 127/,
          'where the master is');
    finds('ok', 'Redis', qr/Redis \d/, 'and how it does');
    doctor('--redis', "${tls}other ca=$ca");
    finds('fail', 'Sentinels', qr/none says where "other" is/,
          'a name nobody knows');
    doctor('--redis', "${tls}main");
    finds('warn', "Sentinel at $at",
          qr/its certificate is not trusted/, 'another authority');

    my $cluster = $t->cluster(name => 'c', n => 3);
    my ($node) = $cluster->nodes;

    doctor('--redis', $node->url . ' cluster');
    is($rc, 0, 'a Cluster') or diag $out;
    finds('ok', 'Cluster', qr/16384 of 16384 slots/, 'all its slots');
    is(() = $out =~ /^ok    Redis at 127.0.0.1:\d+: Redis \d/mg, 3,
       'each primary');
    my $gone = ($cluster->nodes)[2];
    $gone->stop('kill');
    doctor('--redis', $node->url . ' cluster');
    finds('fail', 'Redis at 127.0.0.1:' . $gone->port, qr/Connection refused/,
          'one is gone');

    my $closed = $t->redis(name => 'closed', password => 'p@ss word');
    my $file = "$t->{dir}/redis.password";

    doctor('--redis', $closed->url);
    finds('fail', 'Redis', qr/NOAUTH/, 'no password');
    doctor('--redis', $closed->url =~ s{//}{//:p%40ss%20word@}r);
    finds('ok', 'Redis', qr/Redis \d/, 'one in the URL');

    Apikey::Ctl::write_file($file, "p\@ss word\n");
    chmod 0600, $file;
    doctor('--redis', $closed->url, '--password-file', $file);
    finds('ok', 'Redis', qr/Redis \d/, 'one in a file');
    finds('ok', 'password of Redis', qr/its owner's alone/, 'its mode');
    unlike($out, qr/p\@ss/, 'is not shown');
};


subtest 'the journal' => sub {
    my $dir = "$t->{dir}/journal";

    doctor('--journal', $dir);
    is($rc, 0, 'a directory that is not there yet');
    finds('warn', 'journal', qr/No such file.*nginx makes it/, 'is no fault');

    mkdir $dir, 0700;
    doctor('--journal', $dir);
    is($rc, 0, 'a directory') or diag $out;
    finds('(?:ok|warn)', 'disk of the journal', qr/\d+ MB are free/, 'room');

    chmod 0755, $dir;
    doctor('--journal', $dir);
    finds('warn', 'journal', qr/open to others \(755\).*chmod 700/, 'its mode');

    doctor('--journal', "$0");
    is($rc, 1, 'a file');
    finds('fail', 'journal', qr/is no directory/, 'is none');

    SKIP: {
        skip 'no /dev/shm', 1 unless -d '/dev/shm';
        doctor('--journal', '/dev/shm');
        finds('fail', 'disk of the journal', qr/it is memory/, 'a tmpfs');
    }
};


subtest 'a configuration' => sub {
    plan skip_all => 'the sanitizers want nginx started their way'
        if $ENV{APIKEY_ASAN};

    $t->upstream;

    my $tokens = "$t->{dir}/tokens";
    my $macs = "$t->{dir}/macs";
    my $hash = 'a' x 64;
    my $node = $t->nginx(http => "apikey_mac_secret $macs; # a; comment\n",
        base => { token => "apikey_admin_token '$tokens';",
                  journal => 'apikey_journal "%%DIR%%/journal"'
                             . ' ring=%%RING%% size=1m;' });
    my @conf = ('--nginx', $t->{nginx}, '--conf', $node->dir . '/nginx.conf');

    Apikey::Ctl::write_file($tokens, "$hash one\n");
    Apikey::Ctl::write_file($macs, '1 ' . 'x' x 32 . "\n");
    chmod 0600, $tokens, $macs;
    $pg->ctl('schema', 'apply');

    doctor(@conf);
    finds('ok', 'configuration', qr/accepts it/, 'nginx takes it');
    finds('ok', 'Postgres', qr/as apikey_gateway/, 'its Postgres');
    finds('ok', 'schema', qr/version/, 'its schema');
    finds('ok', 'Redis', qr/Redis \d/, 'its Redis');
    finds('ok', 'disk of the journal', qr/MB are free/, 'its journal');
    finds('(?:ok|warn)', 'ring', qr/\Q$node->{ring}\E/, 'its ring');
    finds('ok', $_, qr/its owner's alone/, $_)
        for "operators' tokens", 'MAC secrets';

    chmod 0644, $tokens, $macs;
    doctor(@conf);
    finds('warn', $_, qr/open to others \(644\).*chmod 600/, "$_: mode")
        for "operators' tokens", 'MAC secrets';

    my $soon = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time + 86400));
    Apikey::Ctl::write_file($tokens, "$hash one until=$soon\n"
                            . 'b' x 64 . " two\n");
    Apikey::Ctl::write_file($macs, '1 ' . 'x' x 32
                            . " until=2020-01-01T00:00:00Z\n");
    doctor(@conf);
    finds('warn', "operators' tokens", qr/1 of 2 end within two weeks/,
          'a token that ends soon');
    finds('warn', 'MAC secrets', qr/none of 1 is good/, 'secrets that ended');

    doctor(@conf, '--redis', 'redis://127.0.0.1:1');
    finds('fail', 'Redis', qr/Connection refused/,
          'what is given goes before what is configured');

    Apikey::Ctl::write_file($tokens, "nonsense\n");
    doctor(@conf);
    is($rc, 1, 'a configuration that nginx refuses');
    finds('fail', 'configuration', qr/tokens", line 1: write SHA256HEX/,
          'nginx\'s own words');

    doctor('--nginx', "$t->{dir}/none");
    is($rc, 1, 'no nginx');
    finds('fail', 'configuration', qr/cannot run .*none: No such file/,
          'is said');

    # it may hold passwords, and a temporary file is on a disk

    my ($where) = map { "$_/where" } $ctl->files('where', where =>
        "#!/bin/sh\nreadlink /proc/\$\$/fd/1 >&2\nexit 1\n");
    chmod 0755, $where;
    doctor('--nginx', $where);
    finds('fail', 'configuration', qr{/memfd:}, 'it is read from memory');
};


$ctl->wrong(['doctor', 'x'], qr/"x" is too much/, 'an operand');
$ctl->wrong(['doctor', '--to', 'x'], qr/no option "--to"/, 'an option');

$t->done;
