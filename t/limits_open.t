
# What runs when Redis loses its values and did not say what it may cost: it
# had all that was left.  Nobody is let in beside it, and when it has ended it
# counts as what it was.

use strict;
use warnings;

use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $redis = $t->redis;

my $n = $t->nginx(workers => 2, server => <<'EOS')->start;
        location / {
            apikey required;
            apikey_usage headers;
            apikey_service chat;
            apikey_model $arg_model;
            apikey_reserve tokens=$arg_tokens cost=$arg_cost;
            proxy_pass http://%%UPSTREAM%%;
            proxy_read_timeout 300s;
        }
EOS

my %month = (name => 'l', unit => 'tokens', limit => 100, window => 'month');

my %key = (
    tokens => $t->key(limits => [ { %month } ]),
    owner => $t->key(owner => 'ada', owner_limits => [ { %month } ]),
    model => $t->key(limits => [ { %month, model => 'gpt-*' } ]),
    budget => $t->key(limits => [ { %month, unit => 'cost',
                                    limit => '1.00' } ]),
    service => $t->key(limits => [ { %month, unit => 'cost', limit => '1.00',
                                     service => '*a*' } ]),
    credits => $t->key(credits => { unit => 'tokens', remaining => 100 }),
    trim => $t->key(limits => [ { %month, mode => 'trim' } ]),
    any => $t->key(limits => [ { %month, unit => 'requests', limit => 3,
                                 model => 'gpt-*' } ]),
    idle => $t->key(limits => [ { %month } ]),
);
my @all = grep { !/trim|any|idle/ } sort keys %key;

$t->sync;

my $costs = sub { return "/set/X-Usage-Input-Tokens/$_[0]"
                         . sprintf '/set/X-Usage-Cost/%.2f', $_[0] / 100 };
my $one = sub { return { uri => $costs->(10) . "?tokens=10&cost=0.10"
                                . "&model=gpt-4&of=$_[0]",
                         key => $key{$_[0]}{key} } };
my $get = sub { my $r = $one->(@_);
                return $n->get($r->{uri}, key => $r->{key})->{status} };
my $hits = sub {
    my ($of) = @_;

    return scalar grep { $_->{uri} =~ /\bof=$of$/ } $up->requests;
};

my @runs;

for my $of (@all, 'trim', 'any') {
    my $args = $of eq 'any' ? 'tokens=1&cost=0' : 'model=gpt-4';
    my $c = $n->conn;

    $c->send(Apikey::Http::build('GET', '/gate' . $costs->(40)
                                 . "?$args&of=$of", key => $key{$of}{key}));
    push @runs, $c;
}

$up->wait_hits(scalar @runs);

is_deeply([ grep { $get->($_) == 200 } @all ], [], 'all that is left is taken');

$redis->command('FLUSHALL');

# until when what was used is to be known, all have said after a while

my $try = sub { return [ map { $_->{status} }
                         $n->parallel(map { $one->($_) } @all) ] };

wait_for('the end of the loss', sub {
    return 1 if grep { $_ == 200 } @{$try->()};
    return $pg->value('SELECT count(*) FROM apikey.usage_wanted
                       WHERE until < now()') == 1
           && $get->('idle') == 200;
}, 60);
is_deeply($try->(), [ map { 503 } @all ], 'nobody knows what is left');
is_deeply([ map { $hits->($_) } @all ], [ map { 1 } @all ], 'nobody passes');

wait_for('a limit that trims', sub { $get->('trim') == 200 }, 60);

my @passed;

wait_for('the end of it', sub {
    my $status = $get->('any');

    push @passed, $status if $status != 503;
    return $status == 429;
}, 60);
is_deeply(\@passed, [ 200, 200, 429 ], 'what may be any model was this one');

$up->let_go;
$_->response for @runs;

for my $of (@all) {
    wait_for("$of: the next", sub { $get->($of) == 200 }, 60);

    my @status = map { $get->($of) } 1 .. 7;
    my $no = $of eq 'credits' || $of eq 'budget' || $of eq 'service' ? 402
                                                                     : 429;

    is_deeply(\@status, [ (200) x 5, $no, $no ],
              "$of: it was what it has cost");
}

$t->done;
