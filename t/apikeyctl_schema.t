# apikeyctl schema: new and changed files, a database from before, one that is
# newer, files that fail, two at once, and all of it on a database in use.

use strict;
use warnings;

use File::Basename qw(basename);
use File::Path qw(make_path);
use POSIX ();
use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);
my $pg = $t->postgres(schema => 0);
my $conninfo = $pg->conninfo(user => 'postgres');

my @files = map { basename $_ } sort glob 'schema/[0-9]*.sql';
my ($rc, $out, $err);


sub lines { join '', map { "$_\n" } @_ }


# A database of its own, for files that are not ours.

sub database {
    my ($name) = @_;

    $pg->run("CREATE DATABASE $name TEMPLATE template0");
    return $conninfo =~ s/dbname=postgres/dbname=$name/r;
}


# What our first file does for the tool.

my %base = ('0001_base.sql' => <<'SQL');
CREATE SCHEMA IF NOT EXISTS apikey;
CREATE TABLE IF NOT EXISTS apikey.migration (version int PRIMARY KEY,
    name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(),
    digest text);
SQL


subtest 'the whole schema, from an empty database' => sub {
    ($rc, $out) = $ctl->run(['schema', 'status', '--postgres', $conninfo]);
    is($rc, 1, 'status: pending');
    is($out, lines(map { "pending $_" } @files), 'all files are');

    ($rc, $out, $err) = $ctl->run(['schema', 'apply',
                                   "--postgres=$conninfo"]);
    is($rc, 0, 'apply') or diag $err;
    is($out, lines(map { "applied $_" } @files), 'says one line a file');
    is($err, '', 'and nothing else');

    ($rc, $out) = $ctl->run(['schema', 'apply', '--postgres', $conninfo]);
    is($rc, 0, 'apply again');
    is($out, "nothing to apply\n", 'does nothing');

    ($rc, $out) = $ctl->run(['schema', 'status'],
                            env => { APIKEY_POSTGRES => $conninfo });
    is($rc, 0, 'status: all applied, address from APIKEY_POSTGRES');
    is($out, lines(map { "applied $_" } @files), 'all files are');

    ($rc) = $ctl->run(['schema', 'status'],
                      env => { PGHOST => $pg->{dir}, PGPORT => $pg->{port},
                               PGUSER => 'postgres',
                               PGDATABASE => 'postgres' });
    is($rc, 0, 'address from PGHOST and its kin');

    is_deeply([ $pg->column(q{SELECT to_char(version, 'FM0000') || '_' || name
                              || '.sql' FROM apikey.migration
                              ORDER BY version}) ],
              \@files, 'what was applied is recorded');
    is($pg->value(q{SELECT count(*) FROM apikey.migration
                    WHERE digest ~ '^[0-9a-f]{64}$'}), scalar @files,
       'each with its digest');
};


subtest 'a database from before files could change' => sub {
    $pg->run(q{
        ALTER TABLE apikey.migration DROP COLUMN digest;
        DELETE FROM apikey.migration WHERE version = 9999;
        CREATE OR REPLACE FUNCTION apikey.schema_version() RETURNS int
            LANGUAGE sql STABLE SET search_path = apikey, pg_temp
            RETURN (SELECT coalesce(max(m.version), 0)
                    FROM apikey.migration m)});
    $pg->run(q{INSERT INTO apikey.owner (external) VALUES ('before')});

    my @old = grep { $_ ne $files[-1] } @files;

    ($rc, $out) = $ctl->run(['schema', 'status', '--postgres', $conninfo]);
    is($rc, 1, 'status');
    is($out, lines((map { "changed $_" } @old), "pending $files[-1]"),
       'what was run is not known');

    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres',
                                   $conninfo]);
    is($rc, 0, 'apply') or diag $err;
    is($out, lines(map { "applied $_" } @files), 'runs all, once');
    is($pg->value(q{SELECT count(*) FROM apikey.owner}), 1, 'data is kept');

    ($rc, $out) = $ctl->run(['schema', 'apply', '--postgres', $conninfo]);
    is($out, "nothing to apply\n", 'not twice');

    $pg->run(q{DELETE FROM apikey.owner});
};


subtest 'a changed file' => sub {
    my $db = database('changing');
    my @args = ('--postgres', $db, '--dir');
    my $dir = $ctl->files('changing', %base,
        '0002_a.sql' => "CREATE TABLE IF NOT EXISTS apikey.a (a int);\n"
                        . "INSERT INTO apikey.a VALUES (2);\n",
        '0003_b.sql' => "INSERT INTO apikey.a VALUES (3);\n",
        '0005_c.sql' => "INSERT INTO apikey.a VALUES (5);\n");
    my $ran = "SELECT string_agg(a::text, '' ORDER BY ctid) FROM apikey.a";

    my $value = sub {
        $pg->value("\\c changing postgres\n$_[0]");
    };

    ($rc, $out, $err) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($rc, 0, 'all') or diag $err;

    $ctl->files('changing', '0003_b.sql' =>
                "INSERT INTO apikey.a VALUES (4);\n");
    ($rc, $out) = $ctl->run([ qw(schema status), @args, $dir ]);
    is($rc, 1, 'status: something to do');
    is($out, lines('applied 0001_base.sql', 'applied 0002_a.sql',
                   'changed 0003_b.sql', 'applied 0005_c.sql'), 'says what');

    ($rc, $out) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($out, lines('applied 0003_b.sql', 'applied 0005_c.sql'),
       'it and those behind it run again');
    is($value->($ran), '235' . '45', 'in order');

    $ctl->files('changing', '0004_new.sql' => "SELECT 1;\n");
    ($rc, $out) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($out, lines('applied 0004_new.sql', 'applied 0005_c.sql'),
       'so do those behind a new one');

    # cut off behind the first of three
    $ctl->files('changing', '0003_b.sql' => "SELECT 3;\n",
                '0004_new.sql' => "SELECT wrong;\n");
    ($rc, $out) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($rc, 3, 'a run that fails');
    is($out, "applied 0003_b.sql\n", 'after the first');

    $ctl->files('changing', '0004_new.sql' => "SELECT 1;\n");
    ($rc, $out) = $ctl->run([ qw(schema status), @args, $dir ]);
    like($out, qr/^changed 0005_c\.sql$/m, 'what was not reached is open');
    ($rc, $out) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($out, lines('applied 0004_new.sql', 'applied 0005_c.sql'),
       'goes on where it was, though these files are as they were');

    unlink "$dir/0004_new.sql";
    ($rc, $out, $err) = $ctl->run([ qw(schema apply), @args, $dir ]);
    is($rc, 3, 'a database that has more than the directory');
    like($err, qr/database has 0004_new, which is not in .*newer version/,
         'is newer: refused');
    ($rc, $out, $err) = $ctl->run([ qw(schema status), @args, $dir ]);
    like($err, qr/0004_new, which is not in/, 'status says it, too');
    like($out, qr/^applied 0005_c\.sql$/m, 'and lists the rest');
};


subtest 'a newer database with the same files' => sub {
    my $function = 'FUNCTION apikey.schema_version() RETURNS int'
        . ' LANGUAGE sql STABLE SET search_path = apikey, pg_temp RETURN';
    my $version = $pg->value('SELECT apikey.schema_version()');

    $pg->run("CREATE OR REPLACE $function $version + 1;"
             . "UPDATE apikey.migration SET digest = 'other'");

    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres',
                                   $conninfo]);
    is($rc, 3, 'is not taken back');
    like($err, qr/has schema @{[$version + 1]}, this apikeyctl knows $version/,
         'is said');
    is($out, '', 'nothing is run');

    $pg->run("CREATE OR REPLACE $function $version");
    ($rc) = $ctl->run(['schema', 'apply', '--postgres', $conninfo]);
    is($rc, 0, 'an equal one is');
};


subtest 'a database in use' => sub {
    $t->upstream;
    my $node = $t->nginx->start;
    my $key = json($node->admin('POST', 'api-keys', body => {
        name => 'kept', owner => 'somebody', metadata => { a => 1 },
        limits => [{ name => 'l', unit => 'requests', limit => 1000000,
                     window => '1h' }] }));

    # a file that differs, so that all run again
    my $dir = $ctl->files('live');
    system("cp schema/*.sql $dir") == 0 or die;
    my $first = "$dir/$files[0]";

    # one that makes another one fit no more until a third has run

    my ($before) = grep { /_views/ } @files;
    open my $gap, '>>', "$dir/$before" or die "$before: $!\n";
    print $gap "\nDROP FUNCTION api_request_list(jsonb, jsonb);\n";
    close $gap;

    # and one from which on no usage can be counted until the last has run

    open $gap, '>>', "$dir/$before" or die "$before: $!\n";
    print $gap "\nALTER TABLE usage_quarter ADD CONSTRAINT gap"
        . " CHECK (requests < 0) NOT VALID;\n";
    close $gap;

    open $gap, '>>', "$dir/$files[-1]" or die "$files[-1]: $!\n";
    print $gap "\nALTER TABLE apikey.usage_quarter DROP CONSTRAINT gap;\n";
    close $gap;

    my @read = map { "$_?limit=1" } qw(requests requests audit analytics usage);
    my @pids;
    my $flag = "$t->{dir}/stop";

    for my $work (sub { $node->admin('POST', 'api-keys', body => {
                            name => 'x', owner => "o$_[0]" })->{status} },
                  sub { $node->admin('PATCH', "api-keys/$key->{id}", body => {
                            metadata => { b => $_[0] } })->{status} },
                  sub { $node->get('/', key => $key->{key})->{status} },
                  sub { $node->admin('GET', $read[$_[0] % @read])->{status} })
    {
        my $pid = fork // die "fork: $!\n";

        if ($pid == 0) {
            my %seen;
            my $n = 0;

            $seen{eval { $work->($n++) } // $@}++ until -e $flag;
            Apikey::Ctl::write_file("$t->{dir}/seen.$$",
                                    join ' ', map { "$_=$seen{$_}" }
                                    sort keys %seen);
            POSIX::_exit(0);
        }

        push @pids, $pid;
    }

    for my $round (1 .. 5) {
        open my $f, '>>', $first or die "$first: $!\n";
        print $f "\n-- round $round\n";
        close $f;

        ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres',
                                       $conninfo, '--dir', $dir]);
        is($rc, 0, "round $round") or diag $err;
        is($out, lines(map { "applied $_" } @files), 'runs all again');
    }

    Apikey::Ctl::write_file($flag, '');
    waitpid $_, 0 for @pids;

    like(Apikey::Ctl::slurp("$t->{dir}/seen.$pids[0]"), qr/^201=\d+$/,
         'every create succeeded');
    like(Apikey::Ctl::slurp("$t->{dir}/seen.$pids[1]"), qr/^200=\d+$/,
         'every change');
    like(Apikey::Ctl::slurp("$t->{dir}/seen.$pids[2]"), qr/^200=\d+$/,
         'and every request');
    like(Apikey::Ctl::slurp("$t->{dir}/seen.$pids[3]"), qr/^200=\d+$/,
         'every reading waits for the files that fit together');

    my $made = $pg->value(q{SELECT count(*) FROM apikey.key
                            WHERE name = 'x'});
    like(Apikey::Ctl::slurp("$t->{dir}/seen.$pids[0]"), qr/=$made$/,
         'what was made is there');
    is($pg->value(q{SELECT name || ' ' || owner || ' ' || (limits -> 0
                           ->> 'limit') FROM apikey.key_summary
                    WHERE name = 'kept'}), 'kept somebody 1000000',
       'what was there is there');

    $node->stop;
    is($pg->value(q{SELECT sum(requests) FROM apikey.usage_quarter}),
       Apikey::Ctl::slurp("$t->{dir}/seen.$pids[2]") =~ s/^200=//r,
       'and every request is counted');
    is($pg->value('SELECT count(*) FROM apikey.usage_quarantine'), 0,
       'none of them was held to be wrong');
};


subtest 'a lock that somebody holds' => sub {
    my $go = "$t->{dir}/locked";
    my $dir = $ctl->files('locked', %base,
        '0002_wait.sql' => "CREATE TABLE IF NOT EXISTS apikey.busy (a int);\n"
                           . "LOCK apikey.busy;\n");
    my $db = database('locked');

    $pg->run("\\c locked postgres\n$base{'0001_base.sql'}"
             . 'CREATE TABLE apikey.busy (a int)');

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        $pg->run("\\c locked postgres\nBEGIN; LOCK apikey.busy;\n"
                 . "\\! touch $go\nSELECT pg_sleep(3); COMMIT;");
        POSIX::_exit(0);
    }

    wait_for('the lock', sub { -e $go });
    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres', $db,
                                   '--dir', $dir]);
    waitpid $pid, 0;
    is($rc, 0, 'is waited for') or diag $err;
    is($out, lines('applied 0001_base.sql', 'applied 0002_wait.sql'), 'done');
};


subtest 'a file that fails' => sub {
    my $db = database('broken');
    my $dir = $ctl->files('broken', %base,
        '0011_good.sql'  => "CREATE TABLE apikey.good (a int);\n",
        '0012_wrong.sql' => "-- \xc3\xa4\xc3\xb6\xc3\xbc \xf0\x9f\x94\x91\n"
                            . "CREATE TABLE apikey.wrong (a int);\n"
                            . "\n"
                            . "SELECT a, b FROM apikey.wrong;\n",
        '0013_late.sql'  => "CREATE TABLE apikey.late (a int);\n",
        'README'         => "no migration\n",
        '1_short.sql'    => "no migration\n");

    my @apply = ('schema', 'apply', '--postgres', $db, '--dir', $dir);
    my $wrong = sub { $ctl->files('broken', '0012_wrong.sql' => $_[0]) };

    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'a file that fails');
    is($out, lines('applied 0001_base.sql', 'applied 0011_good.sql'),
       'those before it are applied');
    like($err, qr/^apikeyctl: 0012_wrong\.sql:4: column "b" does not exist$/m,
         'its name, line and message are said');

    is($pg->value(qq{\\c broken postgres
                     SELECT to_regclass('apikey.wrong') IS NULL}), 't',
       'what it did is rolled back');
    is($pg->value("\\c broken postgres\n"
                  . 'SELECT max(version) FROM apikey.migration'), 11,
       'and not recorded');

    ($rc, $out) = $ctl->run(['schema', 'status', '--postgres', $db,
                             '--dir', $dir]);
    is($rc, 1, 'status: pending');
    is($out, lines('applied 0001_base.sql', 'applied 0011_good.sql',
                   'pending 0012_wrong.sql', 'pending 0013_late.sql'),
       'from the one that fails on');

    $wrong->("CREATE TABLE apikey.wrong (a int CHECK (a > 0));\n"
             . "INSERT INTO apikey.wrong VALUES (0);\n");
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'a statement that fails while it runs');
    like($err, qr/0012_wrong\.sql: statement 2: new row .* violates check/,
         'its number is said');
    like($err, qr/^apikeyctl: detail: Failing row contains/m,
         'and the detail');

    $wrong->("SELECT 1; COMMIT;\n");
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'a file that commits');
    like($err, qr/ends the transaction it runs in/, 'is refused');

    $wrong->("COPY apikey.good FROM STDIN;\n");
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'a file that copies');
    like($err, qr/COPY is not for migrations/, 'is refused');

    $wrong->("SELECT 1;\n");
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 0, 'mended, it goes on') or diag $err;
    is($out, lines('applied 0012_wrong.sql', 'applied 0013_late.sql'),
       'where it was');

    $ctl->files('broken', '0013_other.sql' => "SELECT 1;\n");
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'two files of one number');
    like($err, qr/0013_late\.sql and 0013_other\.sql have the same number/,
         'are refused');

    $ctl->files('broken', '0013_other.sql' => '');
    unlink "$dir/0013_late.sql";
    ($rc, $out, $err) = $ctl->run(\@apply);
    is($rc, 3, 'an empty file');
    like($err, qr/cannot read ".*0013_other\.sql": it is empty/, 'is said');
};


subtest 'two at once' => sub {
    my $db = database('parallel');
    my $dir = $ctl->files('parallel', %base,
        '0101_one.sql' => "CREATE TABLE apikey.one (a int);\n",
        '0102_two.sql' => "CREATE TABLE apikey.two (a int);\n");

    my @pids = map {
        my $n = $_;
        my $pid = fork // die "fork: $!\n";

        if ($pid == 0) {
            my ($rc) = $ctl->run(['schema', 'apply', '--postgres', $db,
                                  '--dir', $dir], out => "$t->{dir}/ctl.$n");
            POSIX::_exit($rc);
        }

        $pid;
    } 1 .. 4;

    my $failed = 0;
    for my $pid (@pids) { waitpid $pid, 0; $failed++ if $? }

    is($failed, 0, 'four at once all end well');
    is_deeply([ sort map { split /\n/, Apikey::Ctl::slurp("$t->{dir}/ctl.$_") }
                1 .. 4 ],
              [ 'applied 0001_base.sql', 'applied 0101_one.sql',
                'applied 0102_two.sql', ('nothing to apply') x 3 ],
              'each file is applied once');

    ($rc, $out) = $ctl->run(['schema', 'status', '--postgres', $db],
                            env => { APIKEY_SCHEMA => $dir });
    is($out, lines('applied 0001_base.sql', 'applied 0101_one.sql',
                   'applied 0102_two.sql'), 'APIKEY_SCHEMA');
};


subtest 'what cannot be reached' => sub {
    ($rc, $out, $err) = $ctl->run(['schema', 'status', '--postgres', $conninfo,
                                   '--dir', "$t->{dir}/none"]);
    is($rc, 3, 'a directory that is not there');
    like($err, qr{cannot read directory ".*/none": No such file}, 'is said');

    make_path("$t->{dir}/empty");
    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres', $conninfo,
                                   '--dir', "$t->{dir}/empty"]);
    is($rc, 3, 'a directory without migrations');
    like($err, qr/no migrations NNNN_NAME\.sql in/, 'is said');

    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres',
                                   "host=$t->{dir}/empty"
                                   . ' password=very-secret']);
    is($rc, 3, 'no Postgres');
    like($err, qr/^apikeyctl: cannot connect to Postgres: .*No such file/m,
         'is said');
    unlike($err, qr/very-secret/, 'without the password');

    ($rc, $out, $err) = $ctl->run(['schema', 'apply', '--postgres',
                                   'host=x junk']);
    is($rc, 3, 'no connection string');
    like($err, qr/cannot connect to Postgres: missing "=" after "junk"/,
         'is said');

    ($rc, $out, $err) = $ctl->run(['schema', 'status', '--postgres',
                                   $pg->conninfo(user => 'apikey_reader')]);
    is($rc, 3, 'a role that may not look');
    like($err, qr/permission denied for table migration/, 'is told');
};


$t->done;
