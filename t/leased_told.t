
# What a refusal says where little is known, or other than a moment ago: a
# period that ends on another day, an account that nobody has asked for yet,
# a quota that Redis has lost, one that refuses nothing.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $redis = $t->redis;

$t->upstream;

my $n = $t->nginx(name => 'n', base => {
    redis => "apikey_redis %%REDIS%% timeout=2s;",
}, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_service $arg_service;
            apikey_usage headers;
            apikey_reserve cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Left $apikey_remaining always;
        }
EOT

sub limit { return { name => $_[0], unit => 'requests', limit => $_[1],
                     window => $_[2], @_[3 .. $#_] } }

my $get = sub { $n->get($_[1] // '/', key => $_[0]{key}) };

# an owner's month ends on another day: what is used stays used

$n->admin('PUT', 'owners/ada', body => { time_zone => 'UTC',
    limits => [ limit('q', 5, 'month') ] });

my $month = $t->key(owner => 'ada');
my $two = $t->key(limits => [ limit('a', 1, 'day'),
                              limit('c', 9, 'day', service => 'chat') ]);
my $watched = $t->key(limits => [ { name => 'w', unit => 'cost',
    limit => '5.00', window => 'month', mode => 'observe' } ]);

my $lost = $t->key(limits => [ limit('l', 9, 'month') ]);

$t->sync($n);

$get->($lost) for 1 .. 3;
$get->($month) for 1 .. 6;

$n->admin('PATCH', 'owners/ada', body => { anchor_day => 15 });
$t->sync($n);

my $r = $get->($month);

is($r->{status}, 429, 'a month that ends on another day');
is($r->{headers}{'x-ratelimit-remaining'}, 0, 'has nothing left');
cmp_ok(abs($r->{headers}{'retry-after'}
           - $r->{headers}{'x-ratelimit-reset'}), '<=', 1, 'until its end');

# an account that comes with this request, when another one refuses it

$get->($two) for 1 .. 2;
$r = $get->($two, '/?service=chat');

is($r->{status}, 429, 'one account refuses');
like($r->{headers}{ratelimit} // '', qr/"a";r=0/, 'and is shown');

# a quota that refuses nothing is counted from its first request on

is($get->($watched, '/set/X-Usage-Cost/0.70?cost=0.70')->{headers}{'x-left'},
   '4.30', 'what is only watched');
is($get->($watched, '/set/X-Usage-Cost/0.70?cost=0.70')->{headers}{'x-left'},
   '3.60', 'and goes on');

# lost: unknown until all that was leased is void

wait_for('records', sub {
    ($pg->value("SELECT sum(requests) FROM apikey.key_usage
                WHERE key_id = '$lost->{id}'") || 0) >= 3 });
$redis->command('FLUSHALL');

$r = $get->($lost);
is($r->{status}, 503, 'what Redis has lost is not known for a while');
cmp_ok($r->{headers}{'retry-after'}, '>', 1, 'for longer than a second');
cmp_ok($r->{headers}{'retry-after'}, '<=', 10, 'and two lease times at most');
is($get->($watched, '/set/X-Usage-Cost/0.70?cost=0.70')->{status}, 200,
   'what is only watched refuses nobody');

$n->stop;

$t->done;
