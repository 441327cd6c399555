# Names of servers that come to mean another one, or that nobody knows at the
# start: nginx follows, without a reload.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

# nginx sees an /etc/hosts of its own

if ($> != 0 || system('unshare -m true 2> /dev/null') != 0) {
    plan(skip_all => 'only root may have an /etc/hosts of its own');
}

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $a = $t->redis(name => 'a');
my $b = $t->redis(name => 'b', host => '127.0.0.2', port => $a->port);

my $hosts = "$t->{dir}/hosts";
my $nginx = $t->{nginx};

sub hosts {
    my ($text) = @_;

    # the same file: it is mounted
    open my $f, '+>', $hosts or die "$hosts: $!\n";
    print $f "127.0.0.1 localhost\n$text";
    close $f;
    chmod 0644, $hosts;
}

open my $f, '>', "$t->{dir}/nginx" or die "nginx: $!\n";
print $f <<EOT;
#!/bin/sh
exec unshare -m sh -c 'mount --bind $hosts /etc/hosts && exec $nginx "\$@"' \\
    nginx "\$@"
EOT
close $f;
chmod 0755, "$t->{dir}/nginx";

$t->{nginx} = "$t->{dir}/nginx";

my $key = $t->key(limits => [ { name => 'hourly', limit => 100000,
                                window => '1h' } ]);

sub node {
    my ($name, $host) = @_;

    return $t->nginx(name => $name, server => <<'EOT',
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        base => { redis => "apikey_redis redis://$host:" . $a->port . ";\n"
                           . '    apikey_limit_mode direct;'
                           . ' apikey_redis_down deny;' })->start;
}

hosts("127.0.0.1 redis.test\n");

my $moves = node('moves', 'redis.test');
my $later = node('later', 'later.test');

$t->sync;

sub mode {
    my ($node) = @_;

    return $node->get('/', key => $key->{key})->{headers}{'x-mode'};
}

sub works {
    my ($what, $node) = @_;

    ok(eval { wait_for($what, sub { mode($node) eq 'direct' }, 20) }, $what)
        or diag($node->tail(10));
}

works('a name', $moves);
is(mode($later), 'down_deny', 'a name nobody knows');
ok(!$b->calls->{evalsha}, 'the other server is not asked');

# a primary that becomes a replica under its name, which another one takes over

hosts("127.0.0.2 redis.test\n127.0.0.2 later.test\n");
$a->command('REPLICAOF', '127.0.0.2', $a->port);

works('the name means another server', $moves);
ok($b->calls->{evalsha}, 'which is asked');
works('the name is known', $later);

$t->done;
