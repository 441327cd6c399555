
# A request that wants much where leases are out: what this node holds itself
# is no reason to refuse it, what others hold is one for some seconds, and no
# token is lost when a limit becomes another one.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

$t->postgres;
$t->redis;

my $up = $t->upstream;

my ($a, $b) = map { $t->nginx(name => $_, workers => 2, base => {
    redis => "apikey_redis %%REDIS%% timeout=2s;",
}, server => <<'EOT')->start } qw(a b);
        location / {
            apikey required;
            apikey_weight $arg_weight;
            proxy_pass http://%%UPSTREAM%%;
            add_header X-Mode $apikey_decision_mode always;
        }
EOT

sub hourly { return { name => 'l', limit => $_[0], window => '1h' } }

my %key = (
    own    => $t->key(limits => [ hourly(100_000) ]),
    others => $t->key(limits => [ hourly(100_000) ]),
    slow   => $t->key(limits => [ hourly(100) ]),
    edited => $t->key(limits => [ hourly(100) ]),
);

$t->sync($a, $b);

my $get = sub {
    my ($node, $key, $uri) = @_;
    return $node->get($uri // '/', key => $key{$key}{key});
};

# its own

is((map { $get->($a, 'own') } 1 .. 60)[-1]{headers}{'x-mode'}, 'leased',
   'a node holds tokens');
is($get->($a, own => '/?weight=99930')->{status}, 200,
   'and gives them back where TAKE would miss them');

# the others'

$get->($a, 'others') for 1 .. 60;

my $r = $get->($b, others => '/?weight=99930');
is($r->{status}, 429, 'what another node holds is missed');
cmp_ok($r->{headers}{'retry-after'}, '<=', 8, 'for some seconds');
ok(wait_for('its return', sub {
       $get->($b, others => '/?weight=99930')->{status} == 200 }, 20),
   'then it is back');

# of little that refills slowly nobody holds any

$get->($a, 'slow') for 1 .. 10;

is($get->($b, slow => '/?weight=85')->{status}, 200,
   '85 of the 90 that are left, at another node');
is($get->($a, slow => '/?weight=10')->{status}, 429, 'and no more than those');

# a bucket becomes a month

my $hits = sub {
    my ($count) = @_;

    $up->forget;
    Apikey::Http::parallel(map { { uri => '/', key => $key{edited}{key},
        port => ($a, $b)[$_ % 2]->port } } 1 .. $count);

    return $up->hits;
};

is($hits->(60), 60, '60 of 100 an hour');

$r = $a->admin('PATCH', "api-keys/$key{edited}{id}", body => { limits => [
    { name => 'l', unit => 'requests', limit => 100,
      window => 'month' } ] });
is($r->{status}, 200, 'it is 100 a month now');
$t->sync($a, $b);

my $used = 60;

ok(wait_for('all of it', sub {
       $used += $hits->(20);
       return $used >= 100;
   }, 20), 'the other 40 are there');
$used += $hits->(40);
is($used, 100, 'and no more');

$_->stop for $a, $b;

$t->done;
