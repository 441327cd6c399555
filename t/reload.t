# What survives a reload, another size of the zone, a wrong configuration;
# nginx without a master, and with helper processes.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json plain_key rounds);

my $t = Apikey::Test->new;

$t->postgres;
$t->upstream;

my $key = $t->key(name => 'one', limits => [
    { name => 'daily', limit => 6, window => '1d' } ]);
my $free = $t->key(name => 'free');

my %base = (postgres => 'apikey_postgres "%%PG%%" poll=200ms;');

my $n = $t->nginx(workers => 2, http => <<'EOT', server => <<'EOS')->start;
    proxy_cache_path %%DIR%%/cache keys_zone=cache:1m;
EOT
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /cached/ {
            apikey required;
            proxy_cache cache;
            proxy_cache_valid 200 1m;
            proxy_cache_key $uri;
            proxy_cache_lock on;
            proxy_pass http://%%UPSTREAM%%;
        }
EOS

$t->sync;


# What must not grow with every reload; kB where nothing else is said.

sub sizes {
    $n->wait_old;

    my %size = map {
        my $pid = $_;
        open my $f, '<', "/proc/$pid/status" or die "$pid: $!\n";
        $pid => { map { /^((?:Vm|Rss)\w+):\s+(\d+)/ } <$f> };
    } $n->pid, $n->workers;

    my ($worker) = sort { $a <=> $b } map { $size{$_}{RssAnon} } $n->workers;
    my @rings = glob "$n->{ring}/*/ring.*";

    return { fds => scalar(() = glob '/proc/' . $n->pid . '/fd/*'),
             size => $size{$n->pid}{VmSize}, worker => $worker,
             rings => scalar @rings };
}


sub status { $n->get($_[1] // '/', key => $_[0]{key})->{status} }


# helpers of the cache run beside the workers

is($n->get('/cached/', key => $free->{key})->{status}, 200, 'into the cache');

my $r = $n->get('/cached/', key => $free->{key});
my $hits = $t->upstream->hits;

is($r->{status}, 200, 'out of the cache');
is($hits, 1, 'one request upstream');
isnt($r->{headers}{'x-request-id'}, ($t->upstream->ids)[0],
     'but an id of its own');
is($n->get('/cached/')->{status}, 401, 'the cache is behind the key');


# keys and levels

is(join(' ', map { status($key) } 1 .. 4), '200 200 200 200', 'four of six');

$t->postgres->stop;

for my $round (1, 2) {
    $n->reload;
    is(status($key), 200, "reload $round without Postgres: a key and a level");
}

is(status($key), 429, 'the six are used up');
is($n->get('/', key => plain_key('sk'))->{status}, 401,
   'an unknown key is refused');


# a wrong configuration leaves the old one at work

$n->set(base => { zone => 'apikey_zone zone=apikey:x;' });
kill 'HUP', $n->{process}->pid;
$n->wait_log(qr/\[emerg\].*"apikey_zone": invalid size/);
is(status($free), 200, 'a wrong configuration changes nothing');

$n->set(base => { token => 'apikey_admin_token %%DIR%%/none;' });
kill 'HUP', $n->{process}->pid;
$n->wait_log(qr/\[emerg\].*"apikey_admin_token": open/);
is(status($free), 200, 'nor does a missing file');


# another size: a new zone, filled from the saved copy

wait_for('the saved copy', sub { -s $n->dir . '/journal/keyring' });
$n->set(base => { zone => 'apikey_zone zone=apikey:16m;' });
$n->reload;

is(status($free), 200, 'another size without Postgres: the key is known');
is($n->get('/', key => plain_key('sk'))->{status}, 401,
   'and the copy is whole');

$t->postgres->start;


# under load

my $load = $n->load(key => $free->{key}, clients => 3);

$load->wait_results(50);

my @sizes;

for my $round (1 .. rounds(15, 300)) {
    $n->reload;
    $load->wait_results(scalar($load->results) + 20);
    push @sizes, sizes() if $round == 5;
}

push @sizes, sizes();
$load->stop;

cmp_ok($sizes[1]{fds}, '<=', $sizes[0]{fds} + 2, 'descriptors of the master');
cmp_ok($sizes[1]{size}, '<=', $sizes[0]{size} + 1024, 'and its memory');

# (a sanitizer's own memory says nothing)

cmp_ok($sizes[1]{worker}, '<=',
       $sizes[0]{worker} + ($ENV{APIKEY_ASAN} ? 16384 : 1024),
       'and that of a new worker');
cmp_ok($sizes[1]{rings}, '<=', $sizes[0]{rings} + 4,
       'rings: as many as workers lived at once');

my @bad = grep { $_->{status} != 200 && ($_->{error} // '') !~ /^kept: / }
          $load->results;
is(scalar @bad, 0, 'no request is dropped')
    or diag(map { "$_->{status} " . ($_->{error} // '') . "\n" } @bad);

my @ids = map { $_->{id} } grep { $_->{status} == 200 } $load->results;

wait_for('all records', sub {
    my %have = map { $_ => 1 } $t->events;
    return !grep { !$have{$_} } @ids;
}, 20);
pass('and every one is recorded');


# requests without end keep the old workers, among them the shipper

my @long = map { $n->conn } 1 .. 12;
my $sent = $t->upstream->hits;

$_->send(Apikey::Http::build('GET', '/hang', key => $free->{key}))
    for @long;
wait_for('the long ones upstream',
         sub { $t->upstream->hits == $sent + @long });

$n->reload;

my @after = map { $n->get('/', key => $free->{key})
                    ->{headers}{'x-request-id'} } 1 .. 5;

wait_for('the records of the new workers', sub {
    my %have = map { $_ => 1 } $t->events;
    return !grep { !$have{$_} } @after;
}, 10);
pass('old workers that stay do not keep usage from Postgres');

my @workers = $n->workers(all => 1);
cmp_ok(scalar @workers, '>', 2, 'and they still run');

$_->close for @long;
$n->stop;


# no master

my $single = $t->nginx(name => 'single', main => 'master_process off;');
$single->{workers} = 0;
$single->start;

is($single->get('/', key => $free->{key})->{status}, 200, 'master_process off');
is($single->get('/')->{status}, 401, 'and refuses');

my $id = $single->get('/', key => $free->{key})->{headers}{'x-request-id'};

wait_for('its record', sub { grep { $_ eq $id } $t->events });
pass('and records');

$single->stop;


# a service by its name

$ENV{PGSERVICEFILE} = $t->dir . '/services';

open my $services, '>', $ENV{PGSERVICEFILE} or die "services: $!\n";
print $services "[here]\n", $t->postgres->conninfo =~ s/ /\n/gr, "\n";
close $services;

my $served = $t->nginx(name => 'served', main => 'env PGSERVICEFILE;',
    base => { postgres => 'apikey_postgres "service=here sslmode=disable"'
                          . ' poll=200ms;' })->start;

is($served->get('/', key => $free->{key})->{status}, 200,
   'Postgres as a service');
$served->reload;
$id = $served->get('/', key => $free->{key})->{headers}{'x-request-id'};
wait_for('its record', sub { grep { $_ eq $id } $t->events });
pass('and after a reload');
$served->stop;


# a reload that is refused leaves nothing open, nor does a zone that was

$t->redis;

sub tallies {
    grep { (readlink($_) // '') =~ m{/tally\.} }
        glob '/proc/' . $_[0]->pid . '/fd/*';
}

my $plain = '';
my $m = $t->nginx(name => 'more', base => { redis => $plain })->start;

is(scalar(tallies($m)), 0, 'without Redis nothing is owed to it');

$m->set(base => {}, http => 'server { listen unix:%%DIR%%/none/socket; }');
kill 'HUP', $m->{process}->pid;
$m->wait_log(qr{\[emerg\].*bind\(\) to unix:.*/none/socket failed});
wait_for('nothing open after a reload to Redis that is refused',
         sub { !tallies($m) });
pass('a reload to Redis that is refused leaves no file open');

$m->set(http => '');
$m->reload;
is(scalar(tallies($m)), 1, 'one that is not has its file');

$m->set(base => { zone => 'apikey_zone zone=apikey:16m;' });
$m->reload;
$m->wait_old;
is(scalar(tallies($m)), 1, 'and so has another zone, which gives up the old');


$t->allow(qr/"apikey_zone": invalid size/, qr{/none/socket failed},
          qr/"apikey_admin_token": open/, qr{/none" failed});
$t->done;
