# Sentinels and nodes of a Cluster that lie, talk nonsense, or fall silent:
# bounded, refused, named in the log, and no reason to wait twice.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;
$t->allow(qr/apikey_redis:/);

my $redis = $t->redis;

sub node {
    my ($name, $words) = @_;

    return $t->nginx(name => $name, server => <<'EOT', base => {
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT
        redis => "apikey_redis $words timeout=200ms;"
                 . ' apikey_limit_mode direct; apikey_redis_down deny;'
    })->start;
}

my $key = $t->key(limits => [ { name => 'hourly', limit => 100000,
                                window => '1h' } ]);

sub bulk { join '', map { '$' . length($_) . "\r\n$_\r\n" } @_ }

# What they say is a file: the peer reads it each time.

my $says = "$t->{dir}/says";

sub say_now {
    my ($text) = @_;

    open my $f, '>:raw', "$says.new" or die "$says: $!\n";
    print $f $text;
    close $f;
    rename "$says.new", $says;
}

sub said {
    open my $f, '<:raw', $says or die "$says: $!\n";
    local $/;
    return <$f> // '';
}

sub ask {
    my ($node) = @_;

    my $r = $node->get('/', key => $key->{key});
    return "$r->{status} $r->{headers}{'x-mode'}";
}

sub works {
    my ($what, $node) = @_;

    ok(eval { wait_for($what, sub { ask($node) eq '200 direct' }, 20) },
       "$what: in use") or diag($node->tail(10));
}

# refused by each, and then by what is right in use again

sub lies {
    my ($node, $right, %lies) = @_;

    for my $what (sort keys %lies) {
        my ($lie, $why) = @{$lies{$what}};

        say_now($lie);
        $redis->command(qw(CLIENT KILL TYPE normal SKIPME yes));
        ok(eval { wait_for($what, sub {
            ask($node) eq '503 down_deny' }, 20) }, "$what: refused");
        ok(eval { wait_for($why, sub { $node->log_text =~ $why }, 20) },
           "$what: the log says why") or diag($node->tail(10));

        say_now($right);
        works($what, $node);
    }
}

# a Sentinel

my $sentinel = $t->peer(redis => sub {
    my ($state, @command) = @_;

    return "+PONG\r\n" if $command[0] eq 'PING';
    return said() || undef;
});

my $right = "*2\r\n" . bulk('127.0.0.1', $redis->port);
my $dead = Apikey::Process::free_port();

say_now($right);

my $s = node('s', 'redis://127.0.0.1:' . $sentinel->port . ' sentinel=main');

$t->sync;
works('a Sentinel', $s);

lies($s, $right,
    'nobody is there' => [ "*2\r\n" . bulk('127.0.0.1', $dead),
                           qr/no connection to 127\.0\.0\.1:$dead: / ],
    'null'            => [ "*-1\r\n", qr/does not know the master main/ ],
    'nulls'           => [ "*2\r\n\$-1\r\n\$-1\r\n",
                           qr/does not know the master main/ ],
    'nothing'         => [ "*0\r\n", qr/does not know the master main/ ],
    'three'           => [ "*3\r\n" . bulk('127.0.0.1', $redis->port, 'x'),
                           qr/does not know the master main/ ],
    'far too many'    => [ "*100000000\r\n", qr/does not speak RESP/ ],
    'arrays in one'   => [ "*2\r\n" . "*9\r\n" x 9,
                           qr/does not know the master main/ ],
    'an endless head' => [ '*' . '1' x 100, qr/does not speak RESP/ ],
    'a long name'     => [ "*2\r\n" . bulk('a' x 300, $redis->port),
                           qr/does not know the master main/ ],
    'a wrong name'    => [ "*2\r\n" . bulk('nowhere.invalid', $redis->port),
                           qr/nobody says where it is/ ],
    'no port'         => [ "*2\r\n" . bulk('127.0.0.1', '0'),
                           qr/says no address, but 127/ ],
    'a large port'    => [ "*2\r\n" . bulk('127.0.0.1', '65536'),
                           qr/says no address, but 127/ ],
    'no number'       => [ "*2\r\n" . bulk('127.0.0.1', 'x'),
                           qr/says no address, but 127/ ],
    'an error'        => [ "-NOPERM no\r\n",
                           qr/does not say where the master is: NOPERM no/ ],
    'another type'    => [ ":1\r\n", qr/does not know the master main/ ],
    'silence'         => [ '', qr/it does not answer|nobody says/ ]);

# a node of a Cluster that shows the others; its map is the lie

my $map = $t->peer(redis => sub {
    my ($state, @command) = @_;

    return "+PONG\r\n" if $command[0] eq 'PING';
    return said() || undef;
});

sub nodes {
    return bulk(join '', map { "$_\n" } @_);
}

my $me = 'a' x 40;
my $all = nodes("$me 127.0.0.1:" . $redis->port
                . '@1 master - 0 0 1 connected 0-16383');

say_now($all);

my $c = node('c', 'redis://127.0.0.1:' . $map->port . ' cluster');

$t->sync($c);
works('a Cluster of one', $c);

# the map is read every ten seconds, and when a link is lost

lies($c, $all,
    'nobody is there' => [
        nodes("$me 127.0.0.1:$dead\@1 master - 0 0 1 connected 0-16383"),
        qr/no connection to 127\.0\.0\.1:$dead: / ]);

# what is no map changes none

for my $lie (nodes('rubbish'), nodes(''), nodes("$me :0\@0 master"),
             nodes("$me 127.0.0.1:1\@1 master,fail - 0 0 1 x 0-16383"),
             nodes("$me 127.0.0.1:1\@1 slave - 0 0 1 x 0-16383"),
             nodes("$me 127.0.0.1:1\@1 master - 0 0 1 x 5-4 16384 x-"),
             '$90000' . "\r\n" . 'x ' x 45000 . "\r\n", "\$5000000\r\n",
             "*1\r\n:1\r\n", "-NOPERM no\r\n", "+OK\r\n", '')
{
    say_now($lie);
    $redis->command(qw(CLIENT KILL TYPE normal SKIPME yes));

    my $n = grep { $_->[0] eq 'CLUSTER' } $map->commands;

    wait_for('the map is asked for', sub {
        $n < grep { $_->[0] eq 'CLUSTER' } $map->commands }, 30);
    works('what is no map', $c);
    say_now($all);
}

# MOVED and ASK that lead nowhere

my $nowhere = $t->peer(redis => sub {
    my ($state, @command) = @_;

    my $identity = Apikey::Peer::identity(@command);

    return $identity if $identity;
    return "+OK\r\n" if $command[0] =~ /^(PING|SCRIPT|ASKING)$/;
    return bulk("$me :$state->{port}\@1 myself,master - 0 0 1 connected"
                . " 0-16383\n") if $command[0] eq 'CLUSTER';
    return said() || undef;
});

my $m = node('m', 'redis://127.0.0.1:' . $nowhere->port . ' cluster');

$t->sync($m);

for my $lie ("MOVED 1 127.0.0.1:$dead", "ASK 1 127.0.0.1:$dead",
             'MOVED 1 nowhere.invalid:1', 'MOVED', 'MOVED 99999 h:1',
             'ASK 1 :', 'TRYAGAIN', 'CLUSTERDOWN Hash slot not served',
             'MOVED 1 :' . $nowhere->port, 'ASK 1 :' . $nowhere->port)
{
    say_now("-$lie\r\n");
    my $n = grep { $_->[0] eq 'EVALSHA' } $nowhere->commands;

    is(ask($m), '503 down_deny', $lie);
    my $more = grep { $_->[0] eq 'EVALSHA' } $nowhere->commands;
    cmp_ok($more - $n, '<=', 30, "$lie: and not for ever");
    wait_for('it is there', sub { $m->metric('apikey_waiting') == 0 });
}

$t->done;
