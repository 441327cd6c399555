# apikeyctl journal, quarantine and top: what lies in a journal against the
# upstream's own log of ids, while nginx runs and when it is gone; damage is
# found; what Postgres refused is replayed once.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(wait_for);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $up = $t->upstream;
my $ctl = Apikey::Ctl->new($t);
my $key = $t->key(owner => 'ada', customer => 'c-1');

my $n = $t->nginx(base => { redis => undef }, server => <<'EOT')->start;
        location / {
            apikey required;
            apikey_service $arg_s;
            apikey_session $http_x_session;
            apikey_usage headers;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

my $dir = "$n->{dir}/journal";
my @where = ($dir, '--ring', $n->{ring});
my @postgres = ('--postgres', $pg->conninfo(user => 'postgres'));

$t->sync;


sub ctl { return $ctl->run([ @_ ]) }

sub rows { return map { JSON::PP::decode_json($_) } split /\n/, $_[0] }

sub some {
    my ($n_, $path) = @_;

    return map { $n->get($path // '/', key => $key->{key}, headers =>
                         [ 'X-Session' => 's-1' ])
                     ->{headers}{'x-request-id'} } 1 .. $n_;
}

sub counted {
    return $pg->value("SELECT coalesce(sum(requests), 0) || ' '
        || coalesce(sum(cost), 0) FROM apikey.key_usage
        WHERE key_id = '$key->{id}'");
}


subtest 'a journal that runs' => sub {
    my @ids = some(5);

    $t->wait_events(5);
    $pg->stop;
    push @ids, some(40, '/set/X-Usage-Cost/0.25?s=chat'), some(1, '/status/502');
    wait_for('the spool', sub {
        ($n->metric('apikey_journal_bytes') // 0) > 0;
    });

    my ($rc, $out, $err) = ctl('journal', 'show', @where);
    is($rc, 0, 'show') or diag($err);
    like($out, qr/^node [0-9a-f-]{36}$/m, 'the node');
    like($out, qr/^spool\.0{15}\d: 20\S+Z, \d+ of \d+ bytes, \d+ frames/m,
         'its segment');
    like($out, qr/^stream \d epoch \d+: .*used by \d+/m, 'its stream');

    wait_for('all records', sub {
        ($rc, $out, $err) = ctl('journal', 'export', @where);
        return 46 == grep { $_->{requests} } rows($out);
    });
    is_deeply([ sort map { $_->{request_id} } rows($out) ], [ sort @ids ],
              'export has what the upstream saw, once');

    my ($row) = grep { $_->{service} eq 'chat' } rows($out);
    my %want = (key => $key->{id}, owner => 'ada', customer => 'c-1',
        cost => '0.25', cost_nano => 250000000, session => 's-1',
        status_code => 200, status => 'success', verdict => 'ok',
        usage_source => 'header', method => 'GET', requests => 1,
        endpoint => '/', secret => $key->{secret}, client => '127.0.0.0',
        outcome => 'success', kind => 'event', aborted => undef,
        node => 'node', limit => undef, remaining => undef,
        retry_after => undef);
    is_deeply({ map { $_ => $row->{$_} } keys %want }, \%want, 'whole');

    ($rc, $out) = ctl('journal', 'export', @where, '--format', 'usage');
    is(join(',', $out =~ /\G[{,]"(\w+)":(?:"[^"]*"|[^,}]*)/g),
       'date,endpoint,requests,tokens,cost,model,status,request_id,key,owner,'
       . 'customer,service,method,status_code,verdict,limit_name,tokens_input,'
       . 'tokens_output,tokens_cached,tokens_reasoning,usage_source,'
       . 'price_version,bytes_in,bytes_out,duration_ms,session,node',
       'usage: the columns of an export');
    is_deeply([ grep { $_->{node} ne 'node' } rows($out) ], [],
              'with the name of the node');

    is((ctl('journal', 'verify', @where))[0], 0, 'verify: sound');

    ($rc, $out, $err) = ctl('journal', 'show', @where, @postgres);
    is($rc, 3, 'without the Postgres that was asked for');

    $pg->start;
    $t->wait_events(46);
    ($rc, $out) = ctl('journal', 'export', @where, @postgres);
    is($out, '', 'with Postgres: nothing is left');
    ($rc, $out) = ctl('journal', 'show', @where, @postgres);
    like($out, qr/ postgres 46 left 0$/m, 'as show says');
};


subtest 'what is damaged' => sub {
    $pg->stop;

    for (1 .. 4) {                   # a frame each, or more
        my $bytes = $n->metric('apikey_journal_bytes');

        some(8);
        wait_for('a frame', sub {
            $n->metric('apikey_journal_bytes') > $bytes;
        });
    }

    $n->stop('KILL');
    $pg->start;

    my ($rc, $out) = ctl('journal', 'verify', @where, @postgres);
    is($rc, 0, 'a kill damages nothing') or diag($out);

    my ($file) = reverse sort glob "$dir/spool.*";
    my ($name) = $file =~ m{([^/]+)$};
    open my $f, '+<:raw', $file or die "$file: $!\n";
    my $whole = do { local $/; <$f> };
    my @frames;
    push @frames, $-[0] while $whole =~ /AKF[12]/g;
    cmp_ok(scalar @frames, '>', 2, 'frames');

    my ($used) = (ctl('journal', 'show', @where))[1]
                 =~ /\Q$name\E: \S+ (\d+)/;

    my $put = sub {
        seek $f, 0, 0;
        print $f $_[0];
        $f->flush;
        truncate $f, length $_[0];
        return ctl('journal', 'verify', @where);
    };

    my $bits = $whole;
    substr $bits, $frames[0] + 60, 1,
        chr(4 ^ ord substr $bits, $frames[0] + 60, 1);
    ($rc, $out) = $put->($bits);
    is($rc, 1, 'a bit that flipped');
    like($out, qr/^fail  \Q$name\E: \d+ bytes and 0 frames are damaged$/m,
         'is found');

    my $hole = $whole;
    substr $hole, $frames[1], $frames[2] - $frames[1], '';
    ($rc, $out) = $put->($hole);
    is($rc, 1, 'a frame that is not there');
    like($out, qr/^fail  stream \d epoch \d+: events \d+ to \d+ are missing$/m,
         'shows as a gap');

    ($rc, $out) = $put->(substr($whole, 0, $used)
                         . substr $whole, $frames[0], 50);
    is($rc, 0, 'a frame that was cut off is no damage') or diag($out);
    like($out, qr/^warn  \Q$name\E: .* no frame$/m, 'but is said');

    my $other = $whole;
    substr $other, 20, 1, chr(1 ^ ord substr $other, 20, 1);
    ($rc, $out) = $put->($other);
    is($rc, 1, 'a header that is not ours');
    like($out, qr/^fail  \Q$name\E: of another node or version/m, 'is said');
    $put->($whole);

    $n->start;
    $t->wait_events(78);
    is($pg->value('SELECT sum(lost) FROM apikey.usage_stream'), 0,
       'and the whole one is shipped');
};


subtest 'quarantine' => sub {
    $pg->run('ALTER TABLE apikey.usage_event ADD CONSTRAINT odd
              CHECK (service <> \'odd\') NOT VALID');
    $pg->run('ALTER TABLE apikey.usage_quarter ADD CONSTRAINT odd
              CHECK (service <> \'odd\') NOT VALID');

    my $before = counted();
    my @ids = some(3, '/set/X-Usage-Cost/1.5?s=odd');
    my ($rc, $out, $err);

    wait_for('quarantine', sub {
        $pg->value('SELECT count(*) FROM apikey.usage_quarantine') == 3;
    });
    is(counted(), $before, 'what is refused is not counted');

    ($rc, $out) = ctl('quarantine', 'show', @postgres);
    is($rc, 0, 'show');
    my @numbers = $out =~ /^(\d+)  20\S+Z  SQLSTATE 23514  node node stream \d+ event \d+: new row for relation "usage_\w+" violates/mg;
    is(scalar @numbers, 3, 'all of them');

    ($rc, $out) = ctl('quarantine', 'show', $numbers[1], @postgres);
    my ($row) = rows($out);
    ok((grep { $row->{request_id} eq $_ } @ids), 'one of them');
    is("$row->{service} $row->{cost}", 'odd 1.50', 'as it was');

    ($rc, $out, $err) = ctl('quarantine', 'replay', 'all', @postgres);
    is($rc, 1, 'replay: still refused');
    is(counted(), $before, 'nothing of it stays');

    $pg->run('ALTER TABLE apikey.usage_event DROP CONSTRAINT odd');
    $pg->run('ALTER TABLE apikey.usage_quarter DROP CONSTRAINT odd');

    my $seen = "SELECT as_of >= now() - interval '10 s' FROM apikey.usage_node
                WHERE name = 'node'";
    ($rc, $out, $err) = ctl('quarantine', 'replay', $numbers[0], @postgres);
    is($rc, 0, 'one is replayed') or diag($err);
    is((ctl('quarantine', 'replay', $numbers[0], @postgres))[0], 3,
       'and not again');
    ok($pg->while_locked('SELECT 1 FROM apikey.key_usage FOR UPDATE',
        sub { (ctl('quarantine', 'replay', $numbers[1], @postgres))[0] == 0 },
        sub { $pg->run('SELECT 1 FROM apikey.usage_node FOR UPDATE NOWAIT') }),
       'one that waits for a key stops no node');
    is((ctl('quarantine', 'replay', 'all', @postgres))[0], 0, 'and all');
    is($pg->value($seen), 't', 'the node is no older for it');

    my ($requests, $cost) = split / /, $before;
    is(counted(), ($requests + 3) . ' ' . ($cost + 4500000000), 'counted');
    is(scalar @{[ $t->events('event IN (' . join(',', map { "'$_'" } @ids)
                             . ") AND session = 's-1' AND client ="
                             . " '127.0.0.0/24' AND cost = 1500000000") ]}, 3,
       'their events stand there');
    is($pg->value("SELECT sum(requests) || ' ' || sum(cost) FROM
                   apikey.usage_quarter WHERE service = 'odd'"),
       '3 4500000000', 'and in the sums');
    is((ctl('quarantine', 'show', @postgres))[1], '', 'nothing is left');
};


subtest 'top' => sub {
    my ($rc, $out, $err) = ctl('top', @postgres);

    is($rc, 0, 'top') or diag($err);
    like($out, qr/^as of 20\S+Z, \d+ requests in this hour/, 'as of');
    like($out, qr/ tokens +cost +unpriced  key$/m, 'its columns');
    like($out, qr/^ +\d+ +0 +\d+ +0 +14\.50 +37  \Q$key->{id}\E$/m, 'the key');
    like((ctl('top', 'service', @postgres))[1], qr/^ +3 .*  odd$/m,
         'by service');
    $ctl->wrong([ 'top', 'colour' ], qr/none of key, owner/, 'by nothing');
};

$ctl->wrong([ 'journal', 'export', $dir, '--format', 'xml' ],
            qr/--format is full or usage/, 'an unknown format');
$ctl->wrong([ 'quarantine', 'show', 'x' ], qr/is no NUMBER/, 'no number');
is((ctl('journal', 'show', $t->dir))[0], 3, 'a directory without a journal');

$t->allow(qr/Postgres refused a usage record/);
$t->done;
