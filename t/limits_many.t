# More and more accounts: what each of them has spent stays spent, whatever
# the tables of a node do to make room for their links.

use strict;
use warnings;

use Test::More;
use Apikey::Flood;
use Apikey::Http;
use Apikey::Test qw(wait_for);

use constant MANY => 16_500;    # tables make room twice

my $t = Apikey::Test->new;

my $pg = $t->postgres;
$t->redis;

my $sink = Apikey::Flood::sink($t);

# As many for each of them.  Nobody listens yet, so nobody is told.

sub plain { return sprintf 'many_%045d', $_[0] }

$pg->run(<<EOT);
    BEGIN;
    SET LOCAL search_path = apikey;
    SET LOCAL session_replication_role = replica;
    CREATE TEMP TABLE made ON COMMIT DROP AS
        SELECT i, gen_random_uuid() AS id
        FROM generate_series(1, @{[2 * MANY]}) i;
    INSERT INTO key (id, name, prefix, scopes)
        SELECT id, 'key ' || i, 'many', '{}' FROM made;
    INSERT INTO secret (id, key_id, digest, start, last4)
        SELECT gen_random_uuid(), id,
            sha256(convert_to('many_' || lpad(i::text, 45, '0'), 'UTF8')),
            'many_0000', right(lpad(i::text, 45, '0'), 4) FROM made;
    INSERT INTO limit_rule (key_id, position, name, unit, "limit",
            window_text, window_us, burst, rolling, token, refill, capacity,
            tick)
        SELECT id, 0, 'l', 'requests', 1, '31d', 2678400000000, 1, false,
            r.token, r.refill, r.capacity, r.tick
        FROM made, rate_form(1, 2678400000000, 1) r;
    COMMIT;
EOT

my %node = map { $_ => $t->nginx(name => $_, workers => 1, base => {
    zone => 'apikey_zone zone=apikey:32m;',
    redis => $_ eq 'local' ? 'apikey_limit_mode local;'
                           : 'apikey_redis %%REDIS%% timeout=3s;',
}, server => <<'EOT')->start }
        keepalive_requests 1000000;

        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
            proxy_set_header X-Key all;
            proxy_set_header X-Decided-At $apikey_decided_at;
            proxy_set_header X-Mode $apikey_decision_mode;
        }
EOT
    qw(local leased);

# Statuses of a request for each of these, many at once.

sub ask {
    my ($node, @ask) = @_;

    my $c = $node->conn;
    my ($text, %n) = '';

    while (my @some = splice @ask, 0, 100) {
        my $left = @some;

        $c->send(join '', map { Apikey::Http::build('GET', '/',
                                                    key => plain($_)) } @some);

        while ($left > 0) {
            sysread $c->{socket}, $text, 65536, length $text
                or die "no answer\n";

            my $end = 0;

            while ($text =~ m{HTTP/1\.1 (\d{3}) }g) {
                $n{$1}++;
                $left--;
                $end = pos $text;
            }

            substr $text, 0, $end, '';
        }
    }

    return \%n;
}


my $last = 0;

for my $mode (sort keys %node) {
    my @mine = map { ++$last } 1 .. MANY;
    my $before = $sink->admitted;

    is_deeply(ask($node{$mode}, @mine), { 204 => MANY },
              "$mode: all pass once");
    is_deeply(ask($node{$mode}, @mine[map { $_ * 3 } 0 .. $#mine / 3]),
              { 429 => MANY / 3 }, "$mode: and none of them twice");

    wait_for('the log', sub { $sink->admitted - $before >= MANY });
    is($sink->admitted - $before, MANY, "$mode: so says the upstream");
}

$t->done;
