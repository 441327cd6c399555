
# Limits in Redis, one script a request: exact over workers and nodes.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $redis = $t->redis(password => 'se cret/:@', unix => 1);

my $server = <<'EOT';
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
            add_header X-Limit-Name $apikey_limit_name always;
        }
EOT

sub node {
    my ($name, $url, %opt) = @_;

    open my $f, '>', $t->dir . '/password' or die $!;
    print $f "se cret/:@\n";
    close $f;

    return $t->nginx(name => $name, server => $server, base => {
        redis => "apikey_limit_mode direct;\n"
                 . "apikey_redis $url timeout=2s prefix=$opt{prefix}"
                 . ' password_file=' . $t->dir . '/password;' },
        workers => $opt{workers} // 2)->start;
}

my $a = node('a', 'redis://127.0.0.1:' . $redis->port . '/3',
             prefix => 'gate');
my $b = node('b', 'redis://127.0.0.1:' . $redis->port . '/3',
             prefix => 'gate');
my $c = node('c', 'unix:' . $redis->socket, prefix => 'other', workers => 1);

sub hour { return { name => $_[0], limit => $_[1], window => '1h' } }

my $exact = $t->key(name => 'exact', limits => [
    { name => 'monthly', limit => 150, window => '31d' } ]);
my $both  = $t->key(name => 'both', owner => 'ada',
    limits => [ hour('hourly', 40), hour('small', 7) ],
    owner_limits => [ hour('all', 12) ]);
my $twin  = $t->key(name => 'twin', owner => 'ada');
my $edit  = $t->key(name => 'edit', limits => [ hour('hourly', 10) ]);
my $none  = $t->key(name => 'none', limits => [ hour('hourly', 0) ]);
my $sock  = $t->key(name => 'sock', limits => [ hour('hourly', 3) ]);
my $spoil = $t->key(name => 'spoil', limits => [ hour('hourly', 3) ]);
my $flush = $t->key(name => 'flush', limits => [ hour('hourly', 60) ]);

$t->sync;

sub count {
    my (@replies) = @_;
    my %n;

    $n{$_->{status}}++ for @replies;
    return \%n;
}

sub many {
    my ($n, $key, @nodes) = @_;

    return Apikey::Http::parallel(map {
        { port => $nodes[$_ % @nodes]->port, uri => '/', key => $key->{key} }
    } 1 .. $n);
}

# the same one seen by everybody, and none more than the limit

my $hits = $t->upstream->hits;
my @replies = many(400, $exact, $a, $b);

is_deeply(count(@replies), { 200 => 150, 429 => 250 }, '150 of 400 pass');
is($t->upstream->hits - $hits, 150, 'so many reach the upstream');
is_deeply([ grep { $_->{headers}{'x-mode'} ne 'direct' } @replies ], [],
          'each decided in Redis');
is($a->get('/', key => $exact->{key})->{headers}{'x-ratelimit-remaining'}, 0,
   'nothing is left');

# several limits: all or none, a refusal spends nothing anywhere

is_deeply(count(many(30, $both, $a, $b)), { 200 => 7, 429 => 23 },
          'the smallest of three limits');
is($a->get('/', key => $both->{key})->{headers}{'x-limit-name'}, 'small',
   'it is named');
is_deeply(count(many(30, $twin, $a, $b)), { 200 => 5, 429 => 25 },
          'what the owner has left is left after 24 refusals');
is($a->get('/', key => $twin->{key})->{headers}{'x-limit-name'}, 'owner:all',
   "the owner's limit is named");

# weights

my $r = $a->get('/?weight=3', key => $edit->{key});
is($r->{headers}{'x-ratelimit-remaining'}, 7, 'a weight of three');
$r = $b->get('/?weight=0', key => $edit->{key});
is($r->{headers}{'x-ratelimit-remaining'}, 7, 'a weight of none');
$r = $b->get('/?weight=11', key => $edit->{key});
is($r->{status}, 429, 'a weight over the burst');
ok(!exists $r->{headers}{'retry-after'}, 'never opens');
$r = $b->get('/?weight=8', key => $edit->{key});
is($r->{status}, 429, 'a weight over the rest');
cmp_ok($r->{headers}{'retry-after'}, '>', 300, 'opens when one more is there');
cmp_ok($r->{headers}{'retry-after'}, '<=', 360, 'and not later');

$r = $a->get('/', key => $none->{key});
is($r->{status}, 429, 'a limit of none');
ok(!exists $r->{headers}{'retry-after'}, 'a limit of none never opens');

# edits never refill, a raised limit counts at once

sub limit {
    my (@limits) = @_;

    my $r = $a->admin('PATCH', "api-keys/$edit->{id}",
        body => { limits => [ map { { unit => 'requests', %$_ } } @limits ] });
    is($r->{status}, 200, 'the limit is edited') or diag($r->{body});
    $t->sync;
}

sub remaining {
    my ($node) = @_;

    return $node->get('/?weight=0', key => $edit->{key})
        ->{headers}{'x-ratelimit-remaining'};
}

limit(hour('hourly', 20));
is(remaining($b), 17, 'raised: three stay used');
limit(hour('hourly', 4));
is(remaining($b), 1, 'lowered: three stay used');
limit(hour('other', 50));
is(remaining($b), 50, 'another limit');
limit(hour('hourly', 10));
is(remaining($b), 7, 'taken away and back: three stay used');

# over a socket, with another prefix, in another database

is_deeply(count(many(8, $sock, $c)), { 200 => 3, 429 => 5 }, 'unix socket');

my @keys = @{$redis->command('KEYS', '*')};
is_deeply([ grep { !/^other:/ } @keys ], [], 'database 0 has its prefix only');
$redis->command('SELECT', 3);
@keys = @{$redis->command('KEYS', '*')};
ok(@keys >= 4 && !grep({ !/^gate:\{[0-9a-f-]{36}\}:[ko]:[0-9a-f-]{36}:r:0{16}$/
                         && !/^gate:(probe|since)$/ } @keys),
   'database 3 has the others') or diag(join "\n", @keys);

# scripts lost: nobody notices

$redis->command('SCRIPT', 'FLUSH');
is_deeply(count(many(100, $flush, $a, $b)), { 200 => 60, 429 => 40 },
          'the script was flushed');

# a value that is none of ours: starts empty, is written anew

$a->get('/', key => $spoil->{key});
my ($key) = grep { /:k:$spoil->{id}:/ } @{$redis->command('KEYS', '*')};

for my $bad ([ 'SET', $key, 'rubbish' ], [ 'SET', $key, '' ],
             [ 'SET', $key, "apikey\1\0" . "\xff" x 48 ],
             [ 'LPUSH', $key, 1 ])
{
    $redis->command('DEL', $key);
    $redis->command(@$bad);

    $r = $a->get('/', key => $spoil->{key});
    is("$r->{status} $r->{headers}{'x-mode'}", '429 direct',
       "$bad->[0] of rubbish: no tokens");
    is($redis->command('TYPE', $key), 'string', 'it is mended');
    cmp_ok($redis->command('PTTL', $key), '>', 3500000, 'and will be full');
}

$redis->command('DEL', $key);
is_deeply(count(many(5, $spoil, $a)), { 200 => 3, 429 => 2 },
          'an absent value is full');

# a denial writes nothing

my $dump = $redis->command('DUMP', $key);
many(5, $spoil, $a);
is($redis->command('DUMP', $key), $dump, 'a refusal writes nothing');

# a reload keeps what was spent and waits for the new connection

$a->reload;
is_deeply(count(many(5, $exact, $a)), { 429 => 5 }, 'after a reload');
is($a->get('/', key => $flush->{key})->{headers}{'x-mode'}, 'direct',
   'the first request of a worker is decided in Redis');

$t->done;
