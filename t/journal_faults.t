# What can become of a journal's directory: damaged, parts deleted, copied,
# moved to another node, its clock wrong, its Postgres an older one.  nginx
# always starts, and Postgres has each request that the upstream saw once, or
# says how many are lost.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(wait_for crc32c);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $up = $t->upstream;
my $ctl = Apikey::Ctl->new($t);
my $key = $t->key;
my %lost;                            # ids that a test destroyed


sub node {
    my ($name, %opt) = @_;

    return $t->nginx(name => $name, base => { redis => undef }, %opt);
}

sub some {
    my ($n, $count) = @_;

    my $conn = $n->conn;
    return map { $conn->request('GET', '/', key => $key->{key})
                     ->{headers}{'x-request-id'} } 1 .. $count;
}


# Requests whose records are in frames of their own; Postgres is away.

sub frames {
    my ($n, $count) = @_;

    for (1 .. $count) {
        my $have = written($n);

        some($n, 5);
        wait_for('a frame', sub { written($n) == $have + 5 });
    }
}

# Ids in the journal's files.

sub written {
    my ($n) = @_;

    my (undef, $out) = $ctl->run([ 'journal', 'export', journal($n) ]);

    return map { $_->{request_id} } grep { $_->{requests} }
           map { JSON::PP::decode_json($_) } split /\n/, $out;
}


# Each id that the upstream saw, but for what is lost, once.

sub all_in {
    my ($name) = @_;

    my @want = sort grep { !$lost{$_} } $up->ids;
    my @have;

    wait_for("$name: all of it in Postgres", sub {
        @have = eval { $t->events("outcome <> 'refused'") } or return 0;
        return @have >= @want;
    }, 20);
    is_deeply(\@have, \@want, "$name: each request, once") or do {
        my (%have, %want);
        $have{$_}++ for @have;
        @want{@want} = (1) x @want;
        diag(scalar(grep { !$want{$_} } @have) . ' too many, '
             . scalar(grep { !$have{$_} } @want) . ' missing, '
             . scalar(grep { $_ > 1 } values %have) . ' twice');
    };
    is($pg->value('SELECT sum(requests) FROM apikey.usage_quarter'),
       scalar @want, 'and so the sums');
}

sub said_lost {
    return $pg->value('SELECT coalesce(sum(lost), 0)
                       FROM apikey.usage_stream');
}

sub journal { return "$_[0]->{dir}/journal" }

sub segments { return sort glob journal($_[0]) . '/spool.*' }


# All of nginx and what is in memory are gone, as after a power cut.

sub power_cut {
    my ($n) = @_;

    $n->stop('KILL');
    system('rm', '-rf', glob "$n->{ring}/*");
}

sub change {
    my ($file, $code) = @_;

    open my $f, '+<:raw', $file or die "$file: $!\n";
    local $_ = do { local $/; <$f> };
    $code->();
    seek $f, 0, 0;
    print $f $_;
    truncate $f, length;
    close $f or die "$file: $!\n";
}

sub slurp {
    open my $f, '<', $_[0] or die "$_[0]: $!\n";
    return scalar <$f>;
}

# Ids that are not in the journal any more.

sub destroyed {
    my ($n) = @_;

    my %there = map { $_ => 1 } written($n);
    my %in = map { $_ => 1 } $t->events("outcome <> 'refused'");
    my @gone = grep { !$there{$_} && !$in{$_} && !$lost{$_} } $up->ids;

    @lost{@gone} = (1) x @gone;
    return scalar @gone;
}


my $n = node('one')->start;
$t->sync;

# saved when it goes in order; what is killed later starts with it

$n->stop;
ok(-s journal($n) . '/keyring', 'keys are known without Postgres');
$n->start;


subtest 'a torn tail' => sub {
    some($n, 10);
    all_in('before');
    $pg->stop;
    frames($n, 3);
    power_cut($n);

    my ($file) = reverse segments($n);

    change($file, sub {
        my @at;
        push @at, $-[0] while /AKF[12]/g;
        substr $_, $at[-1] + 55, length, '';
    });
    $pg->start;
    cmp_ok(destroyed($n), '>', 0, 'a frame is cut off');
    $n->start;
    some($n, 5);
    all_in('a torn tail');
};


subtest 'bits that flip' => sub {
    my $before = said_lost();

    $pg->stop;
    frames($n, 4);
    power_cut($n);

    my ($file) = reverse segments($n);

    change($file, sub {
        my @at;
        push @at, $-[0] while /AKF[12]/g;
        substr $_, $at[-2] + 64, 1, chr(16 ^ ord substr $_, $at[-2] + 64, 1);
    });
    $pg->start;

    my $gone = destroyed($n);

    cmp_ok($gone, '>', 0, 'a frame is damaged');
    $n->start;
    all_in('flipped bits');
    is(said_lost() - $before, $gone, 'and the others say how many are lost');
};


subtest 'a deleted segment' => sub {
    $pg->stop;
    frames($n, 2);
    my ($file) = reverse segments($n);
    $n->stop('KILL');
    $n->start(wait => 0);
    frames($n, 2);                       # a new holder's segment
    power_cut($n);
    cmp_ok($file, 'lt', (reverse segments($n))[0], 'two segments');
    unlink $file;

    $pg->start;
    destroyed($n);
    $n->start;
    some($n, 5);
    all_in('a deleted segment');
};


# An older binary finds what it cannot read, and has in its ring what follows.

sub layout {
    my ($file, $layout) = @_;
    my $was;

    change($file, sub {
        $was = unpack 'L<', substr $_, 8, 4;
        substr($_, 8, 8) = pack 'L<2', $layout, 0;
        substr($_, 12, 4) = pack 'L<', crc32c(substr $_, 0, 64);
    });

    return $was;
}

subtest 'segments of a later version' => sub {
    my $before = said_lost();

    $pg->stop;
    frames($n, 3);
    $n->stop('KILL');
    my %was = map { $_ => layout($_, 99) } segments($n);

    $n->start(wait => 0);
    frames($n, 2);
    $pg->start;

    # unless all of it is in the ring still

    my @want = grep { !$lost{$_} } $up->ids;

    wait_for('word of it', sub {
        my @have = eval { $t->events("outcome <> 'refused'") };
        return $n->log_text =~ /segments of a later version/
            || @have >= @want;
    }, 20);
    is(said_lost(), $before, 'nothing was given up');

    $n->stop('KILL');
    layout($_, $was{$_}) for grep { -e } keys %was;
    $n->start;
    some($n, 5);
    all_in('segments of a later version');
    is(said_lost(), $before, 'nothing is lost');
};


subtest 'another number of workers' => sub {
    my $before = said_lost();

    $pg->stop;
    some($n, 20);

    for my $workers (4, 1, 3) {
        $n->stop('KILL');
        $n->set(workers => $workers);
        $n->start(wait => 0);
        some($n, 20);
    }

    $pg->start;
    all_in('4, 1, 3 workers');
    is(said_lost(), $before, 'nothing is lost');
};


# The copy has the node's id and what it had not shipped: two shippers at
# once, with the same records.

subtest 'a cloned directory' => sub {
    my $before = said_lost();

    $pg->stop;
    frames($n, 3);
    $n->stop('KILL');

    my $b = node('two');
    system('cp', '-a', glob(journal($n) . '/*'), journal($b) . '/') == 0
        or die 'cannot copy';
    $b->start(wait => 0);
    $n->start(wait => 0);
    some($_, 10) for $n, $b;
    $pg->start;
    some($_, 10) for $n, $b, $n, $b;
    all_in('two with one journal');
    is(said_lost(), $before, 'nothing is lost');
    $b->stop;
};


# So has the copy of a directory whose ring is copied, too, as with a volume
# that holds both: what it counts now is its own.

subtest 'a cloned directory with its ring' => sub {
    my $before = said_lost();

    $pg->stop;
    frames($n, 2);
    some($n, 5);                         # in memory only
    $n->stop('KILL');

    my $b = node('ring');
    system('cp', '-a', glob(journal($n) . '/*'), journal($b) . '/') == 0
        && system('cp', '-a', glob("$n->{ring}/*"), "$b->{ring}/") == 0
        or die 'cannot copy';
    $b->start(wait => 0);
    $n->start(wait => 0);
    some($_, 10) for $n, $b;
    $pg->start;
    some($_, 10) for $n, $b, $n, $b;
    all_in('two with one journal and ring');
    wait_for('files of its own', sub {
        $b->log_text('error.log') =~ /usage ring \d+ was a copy/;
    });
    is(said_lost(), $before, 'nothing is lost');

    $b->stop;
    $b->start;
    some($_, 5) for $b, $n;
    all_in('and after a restart');
    is(said_lost(), $before, 'nothing is lost');
    wait_for('nothing to be left', sub {
        $b->metric('apikey_journal_bytes') == 0;
    });
    $b->stop;
};


subtest 'a directory that another node adopts' => sub {
    my $before = said_lost();

    $pg->stop;
    frames($n, 2);
    some($n, 3);
    power_cut($n);

    my $c = node('three');
    rmdir journal($c);
    rename journal($n), journal($c) or die 'cannot move';
    $pg->start;
    $c->start;
    some($c, 5);
    destroyed($c);                       # what was in memory only
    all_in('adopted');
    is($pg->value(q{SELECT count(*) FROM apikey.usage_node
                    WHERE name = 'three'}), 1, 'under the new name');
    is(said_lost(), $before, 'nothing of the spool is lost');
    $n = $c;
};


subtest 'an older Postgres is restored' => sub {
    $pg->stop;
    system('cp', '-a', "$pg->{dir}/data", "$pg->{dir}/backup") == 0
        or die 'cannot copy';
    $pg->start;
    some($n, 40);
    all_in('before it');
    $pg->stop;
    system('rm', '-rf', "$pg->{dir}/data");
    rename "$pg->{dir}/backup", "$pg->{dir}/data" or die 'cannot restore';
    $pg->start;
    some($n, 5);
    all_in('restored');
};


subtest 'a clock that steps' => sub {
    my ($lib) = glob '/usr/lib/*/faketime/libfaketimeMT.so.1';

    plan skip_all => 'no libfaketime, or one sanitizer is enough'
        if !$lib || $ENV{APIKEY_ASAN};

    my $before = said_lost();

    for my $step ('+3h', '-5h', '+0') {
        local @ENV{qw(LD_PRELOAD FAKETIME FAKETIME_DONT_FAKE_MONOTONIC)}
            = ($lib, $step, 1);

        $n->stop('KILL');
        delete @ENV{qw(LD_PRELOAD FAKETIME)} if $step eq '+0';
        $n->start(wait => 0);
        some($n, 10);
    }

    all_in('3 hours ahead, 5 behind');
    is(said_lost(), $before, 'nothing is lost');
};


subtest 'a node file that is damaged' => sub {
    $pg->stop;
    frames($n, 2);
    power_cut($n);
    $pg->start;
    destroyed($n);

    my $id;
    change(journal($n) . '/node', sub { $id = substr $_, 0, 36;
                                        $_ = "\0" x length });
    $n->start;
    some($n, 5);
    all_in('without its id');
    is($pg->value('SELECT count(DISTINCT node) FROM apikey.usage_stream'), 1,
       'which is the same');
    like(slurp(journal($n) . '/node'), qr/^$id$/, 'and is kept again');
};


$t->allow(qr/exited on signal 9/, qr/holds no UUID/,
          qr/records were lost on a damaged disk/);
$t->done;
