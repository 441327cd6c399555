# Redis comes back while a request waits for Postgres: it waits for one of them.

use strict;
use warnings;

use Test::More;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $way = $t->peer(to => $t->redis->{port});
my $between = $t->peer(to => $pg->{port});
$t->allow(qr/apikey_redis:/);

my $info = $pg->conninfo(tcp => 1) =~ s/port=\d+/"port=" . $between->port/er;

my $node = $t->nginx(
    base => {
        postgres => qq{apikey_postgres "$info";},
        redis => 'apikey_redis redis://127.0.0.1:' . $way->port . ';',
    },
    server => <<'EOT')->start;
        add_header X-Mode $apikey_decision_mode always;

        location / {
            apikey required;
            apikey_reserve tokens=1 cost=0;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my %key;

sub key {
    my ($name, $window, @more) = @_;

    $key{$name} = $t->key(limits => [ { name => 'l', limit => 100000,
                                        window => $window, @more } ]);
    $t->sync;
}

sub mode {
    my ($key) = @_;

    my $r = $node->get('/', key => $key{$key}{key});

    return $r->{status} . ' ' . ($r->{headers}{'x-mode'} // '');
}

# a quota that is older than Redis' data is unknown there for a while

key('probe', '1h');
wait_for('Redis is in use', sub { mode('probe') =~ /^200 (direct|leased)$/ });

key('unseen', 'month');
key('watched', 'month', unit => 'tokens', mode => 'observe');

$way->mode('cut');
wait_for('Redis is away', sub { mode('probe') eq '200 down_local' });

# its question is on the way, and has no answer

$between->mode('hold');

my $file = $t->dir . '/mode';

my $asks = spawn(name => 'asks', log => $t->dir . '/asks.log', code => sub {
    open my $out, '>', $file or die "$file: $!\n";
    print $out mode('unseen');
    close $out;
});

wait_for('it waits', sub { $node->metric('apikey_waiting') == 1 });

$way->mode('pass');
wait_for('Redis is back', sub { mode('probe') =~ /^200 (direct|leased)$/ });

like(mode('watched'), qr/^200 (direct|leased)$/,
     'what only observes passes while Postgres hangs');
unlike($node->log_text, qr/apikey quota: Postgres: timed out/,
       '... and not only because its question has failed');

$between->mode('pass');
wait_for('its answer', sub { !$asks->alive });

open my $in, '<', $file or die "$file: $!\n";
is(readline $in, '200 down_local', 'who has waited for Postgres decides alone');
wait_for('who comes later asks Redis',
         sub { mode('unseen') =~ /^200 (direct|leased)$/ }, 60);
is($up->hits(uri => '/') > 0, 1, 'requests pass');

$t->done;
