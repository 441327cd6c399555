# 100,000 generated requests against the admin API: no 500, no worker exit,
# no leak, no plaintext in any log or table.
#
# APIKEY_SEED repeats a run, APIKEY_GENERATED says how many; what was found is
# shown with its bytes.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Socket qw(SOL_SOCKET SO_LINGER SHUT_WR);
use Test::More;
use Time::HiRes qw(time);
use Apikey::Generate;
use Apikey::Test qw(wait_for json rounds plain_key);

my $seed = $ENV{APIKEY_SEED} || time * 1000 % 1000000007;
my $total = $ENV{APIKEY_GENERATED} || rounds(100_000, 2_000_000);

my $t = Apikey::Test->new;
my $pg = $t->postgres;

$t->upstream;

my $n = $t->nginx(workers => 2, leaks => 1, base => { redis => undef,
    zone => 'apikey_zone zone=apikey:32m;' }, http => <<'EOT')->start;
    keepalive_requests 1000000000;
    keepalive_time 10h;

    server {
        listen 127.0.0.1:%%PORT_admin%%;
        location /api/v1/ {
            apikey_admin rate=1000000r/s compat;
        }
    }
EOT

# nginx closes first
$SIG{PIPE} = 'IGNORE';

# as explained below
$t->allow(qr/LeakSanitizer: detected|SUMMARY: \w+: \d+ byte\S* leaked/);

my $json = JSON::PP->new->utf8;
my $g = Apikey::Generate->new(seed => $seed, token => $t->token,
                              other => $t->{read_token},
                              password => 'Pass' . plain_key('word'));

diag("APIKEY_SEED=$seed") if $ENV{APIKEY_SEED};
note("APIKEY_SEED=$seed");


my ($made, $answers, $cut) = (0, 0, 0);
my (@again, @found, %status, %plain);

sub found {
    my ($what, $request) = @_;

    $request //= { kind => 'nothing asked', bytes => '' };

    push @found, "$what: $request->{kind}: "
                 . (substr($request->{bytes}, 0, 3000)
                    =~ s/([^ -~\n])/sprintf '\\x%02x', ord $1/ger);
}


# Clients come from everywhere: wrong credentials are limited by address.

sub connection {
    my $from = join '.', 127, map { 1 + int rand 250 } 1 .. 3;

    my $socket = IO::Socket::INET->new(LocalAddr => $from,
        PeerAddr => '127.0.0.1', PeerPort => $n->port('admin'))
        or die "connect: $@\n";

    $socket->blocking(0);
    return { socket => $socket, in => '', out => '', queue => [] };
}


# The next requests of a connection, as one write.

sub fill {
    my ($c) = @_;

    while (@{$c->{queue}} < 40 && (@again || $made < $total)) {
        my $r = @again ? shift @again : ($made++, $g->request)[1];

        # what is cut would cut those before it

        if ($r->{cut} && @{$c->{queue}}) {
            unshift @again, $r;
            last;
        }

        push @{$c->{queue}}, $r;
        $c->{out} .= $r->{bytes};
        $c->{cut} = $r->{cut};
        last if $r->{last};
    }
}


sub flush_out {
    my ($c) = @_;

    while (length $c->{out}) {
        my $done = syswrite $c->{socket}, $c->{out} or last;

        substr $c->{out}, 0, $done, '';
    }

    shutdown $c->{socket}, SHUT_WR if $c->{cut} && !length $c->{out};
}


sub check {
    my ($r, $status, $head, $body) = @_;

    $answers++;
    $status{"$r->{kind} $status"}++;

    return found("$status $body", $r) if $status >= 500 && $status != 501
                                         && $status != 505;

    if ($r->{kind} =~ /shape|json|text/ && $status >= 400
        && $status != 414
        && $head !~ m{^Content-Type: application/problem\+json}m
        && $body !~ /^\{"success":false,"error":\{"code":"/)    # below keys/
    {
        found("no problem: $status", $r);
    }

    if (length $body && $answers % 25 == 0 && $head =~ m{^Content-Type: \S+json}m
        && !eval { $json->decode($body) })
    {
        found("not JSON: $body", $r);
    }

    if ($status =~ /^20[01]$/ && $body =~ /^\{"id":"([^"]+)","key":"([^"]+)"/) {
        my ($id, $key) = ($1, $2);

        $g->id($id);
        $g->key($key);
        $plain{$key} = 1;

        found("told twice: $body", $r) if $body =~ /\Q$key\E.*\Q$key\E/s;
    }
}


# All answers that have come; false when the connection is of no use any more.

sub answers {
    my ($c) = @_;

    while ($c->{in} =~ m{\A(HTTP/1\.1 (\d\d\d) .*?\r\n\r\n)}s) {
        my ($head, $status) = ($1, $2);
        my $r = $c->{queue}[0] // $c->{answered};
        my ($length) = $head =~ /^Content-Length: (\d+)/mi;

        $length = 0 if !defined $length || $r->{head};
        return 1 if length($c->{in}) < length($head) + $length;

        my $body = substr $c->{in}, length $head, $length;
        substr $c->{in}, 0, length($head) + $length, '';
        next if $status == 100;

        $c->{answered} = shift @{$c->{queue}} // $r;
        check($r, $status, $head, $body);

        return 0 if !$c->{cut} && $head =~ /^Connection: close/mi;
    }

    return $c->{cut} || @{$c->{queue}} || !$c->{answered}{last};
}


sub ended {
    my ($c) = @_;

    my @left = @{$c->{queue}};

    if ($c->{cut}) {
        $cut += @left;

    } else {
        found('no answer', shift @left)
            if @left && !($c->{answered} && $c->{closing});
        unshift @again, @left;
    }
}


sub drop {
    my ($select, $conn, $c) = @_;

    $select->remove($c->{socket});
    delete $conn->{$c->{socket}};
    close $c->{socket};
}


sub run {
    my $select = IO::Select->new;
    my %conn;

    while ($made < $total || @again || %conn) {

        while (keys %conn < 12 && (@again || $made < $total)) {
            my $c = connection();
            $conn{$c->{socket}} = $c;
            $select->add($c->{socket});
        }

        for my $c (values %conn) {
            fill($c) if !@{$c->{queue}} && !$c->{cut};
            flush_out($c) if length $c->{out} || $c->{cut};

            # nothing is left for it
            drop($select, \%conn, $c) if !@{$c->{queue}} && !$c->{cut};
        }

        last if !%conn;

        my $full = IO::Select->new(map { length $_->{out} ? $_->{socket} : () }
                                   values %conn);
        my ($ready) = IO::Select::select($select, $full, undef, 60);

        if (!$ready) {
            found('no answer for a minute', $_->{queue}[0]) for values %conn;
            drop($select, \%conn, $_) for values %conn;
            last;
        }

        for my $socket (@$ready) {
            my $c = $conn{$socket};
            my $got = sysread $socket, $c->{in}, 262144, length $c->{in};

            next if !defined $got && $!{EAGAIN};
            next if $got && answers($c);

            $c->{closing} = $got;
            ended($c);
            drop($select, \%conn, $c);
        }
    }
}


# The workers' own memory, in kB.

sub own {
    my $sum = 0;

    for my $pid ($n->workers) {
        open my $f, '<', "/proc/$pid/status" or die "$pid: $!\n";
        $sum += $_ for map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$f>;
    }

    return $sum;
}


my @workers = $n->workers;
my $start = time;

# what workers take once and keep

my $all = $total;
$total = int $all / 5;
run();

my $before = own();
my $first = $made;

$total = $all;
run();

my $grown = own() - $before;

note(sprintf '%d requests in %.1f s, %d answers, %d cut off; %d kB more',
     $made, time - $start, $answers, $cut, $grown);
note(join "\n", map { "$_: $status{$_}" } sort keys %status);

is($made, $all, "$all requests");
is(@found, 0, 'no 500, no answer missing, no answer that is none')
    or diag("APIKEY_SEED=$seed", map { "\n$_" } splice @found, 0, 10);
is_deeply([ $n->workers ], \@workers, 'no worker exits');

is($n->admin('GET', 'whoami')->{status}, 200, 'it still answers');

wait_for('no waiting request', sub { $n->metric('apikey_waiting') == 0 });
$n->stop;

# A sanitizer keeps what was freed, but knows at the end what nobody can free
# any more.  Some things that live as long as the process are among it, because
# nginx has unloaded the module by then; what leaks by request is more.

if ($ENV{APIKEY_ASAN}) {
    my @leaked = $n->log_text('reports/*') =~ /leaked in (\d+) allocation/g;

    is(grep({ $_ > 50 } @leaked), 0, "no leak (@leaked allocations)");

} else {
    cmp_ok($grown, '<', 4096 + ($all - $first) / 100, 'no leak');
}


# Plaintext

sub slurp {
    my ($file) = @_;

    open my $f, '<', $file or return '';
    local $/;
    return <$f> // '';
}

my $dump = Apikey::Postgres::bindir() . '/pg_dump -a -d \''
           . $pg->conninfo(user => 'postgres') . '\'';

my %text = (dump => scalar `$dump`,
            map { $_ => slurp($_) } glob($n->dir . '/*.log'),
                                    glob($t->dir . '/*.log'));

cmp_ok(scalar(keys %plain), '>', $all / 1000, 'keys were made');
like($text{dump}, qr/\b\Q@{[substr $_, 0, length($_) - 41]}\E\b/,
     'and are in the dump, by their first characters') for (keys %plain)[0];

for my $name (sort keys %text) {
    my @told = grep { $plain{$_} } $text{$name} =~ /(\w{40,})/g;

    is(@told, 0, "no key in $name") or diag(splice @told, 0, 3);
    is(index($text{$name}, $t->token), -1, '... no token');
    is(index($text{$name}, $g->{password}), -1, '... no password');
}

my %warned;
$warned{$_}++ for map { /WARNING:\s+(apikey\.api .*)/ ? $1 : () }
                  map { split /\n/ } $text{$t->dir . '/postgres.log'} // '';
note("errors no function foresaw:\n",
     map { "    $warned{$_} $_\n" } sort keys %warned) if %warned;

$t->done;
