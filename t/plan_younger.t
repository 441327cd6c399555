# Who moves to a plan that is younger than what was used takes that along, also
# where it has to be asked for in Postgres: a limit is known by its holder and
# its name.

use strict;
use warnings;

use Test::More;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

$t->postgres;

my $up = $t->upstream;
my $node = $t->nginx(name => 'n', server => <<'EOT')->start;
        location / {
            apikey required;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

sub admin {
    my ($method, $path, $body) = @_;

    my $r = $node->admin($method, $path, body => $body);
    like($r->{status}, qr/^20/, "$method $path") or diag($r->{body});
    return json($r);
}

sub make_plan {
    my ($name, $limit, $limits) = @_;

    return admin(PUT => "plans/$name", { limits => $limits // [
        { name => 'monthly', unit => 'requests', limit => $limit,
          window => 'month' } ] });
}

my @month = ({ name => 'monthly', unit => 'requests', limit => 10,
               window => 'month' });

make_plan(free => 10);
make_plan(none => 0, []);

my %key;

for my $who (qw(owner key own through new)) {
    admin(PUT => "owners/$who", {
        $who =~ /^(owner|through)$/ ? (plan => 'free') : (),
        $who eq 'own' ? (limits => \@month) : () });
    $key{$who} = admin(POST => 'api-keys', { name => $who, owner => $who,
        $who eq 'key' ? (plan => 'free') : () });
}

sub passed {
    my ($who, $n) = @_;

    return scalar grep {
        $node->get('/', key => $key{$who}{key})->{status} == 200 } 1 .. $n;
}

is(passed($_, 8), 8, "$_: eight of ten") for sort keys %key;
$t->wait_events(8 * keys %key);

# the moves, to a plan that was made after all that was used

make_plan(pro => 12);

admin(PATCH => 'owners/owner', { plan => 'pro' });
admin(PATCH => "api-keys/$key{key}{id}", { plan => 'pro' });
admin(PATCH => 'owners/own', { plan => 'pro', limits => [] });
admin(PATCH => 'owners/through', { plan => 'none' });
admin(PATCH => 'owners/through', { plan => 'pro' });
admin(PATCH => 'owners/new', { plan => 'pro' });

# a start has lost the counts

$node->stop;
$node->start;

is(passed($_, 14), 4, "$_: twelve in all") for qw(owner key own through);
is(passed('new', 14), 12, 'new: what was used before there was a limit');

$t->done;
