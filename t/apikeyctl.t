# apikeyctl against a real Postgres: migrations, tokens, wrong arguments.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use File::Basename qw(basename);
use File::Path qw(make_path);
use POSIX ();
use Test::More;

use Apikey::Test;

delete @ENV{grep { /^(APIKEY_(POSTGRES|SCHEMA)|PG[A-Z]+)$/ } keys %ENV};

my $t = Apikey::Test->new;
my $pg = $t->postgres(schema => 0);
my $conninfo = $pg->conninfo(user => 'postgres');

my @files = map { basename $_ } sort glob 'schema/[0-9]*.sql';


# Exit code, stdout, stderr; env => {} besides.

sub ctl {
    my ($args, %opt) = @_;

    local %ENV = (%ENV, %{$opt{env} // {}});
    my ($out, $err) = ("$t->{dir}/ctl.out", "$t->{dir}/ctl.err");

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDOUT, '>', $opt{out} // $out;
        open STDERR, '>', $err;
        { exec "$t->{build}/apikeyctl", @$args };
        POSIX::_exit(127);
    }

    waitpid $pid, 0;

    return ($? & 127 ? "signal $?" : $? >> 8, slurp($out), slurp($err));
}


sub slurp {
    my ($name) = @_;

    open my $f, '<', $name or return '';
    return do { local $/; <$f> } // '';
}


sub migrations {
    my ($name, %files) = @_;

    my $dir = "$t->{dir}/$name";
    make_path($dir);

    for my $file (keys %files) {
        open my $f, '>', "$dir/$file" or die "$dir/$file: $!\n";
        print $f $files{$file};
        close $f;
    }

    return $dir;
}


sub wrong {
    my ($args, $like, $name) = @_;

    my ($rc, $out, $err) = ctl($args);

    is($rc, 2, $name);
    is($out, '', "$name: nothing on stdout");
    like($err, $like, "$name: is said");
}


# The whole schema, from an empty database.

my ($rc, $out, $err) = ctl(['schema', 'status', '--postgres', $conninfo]);
is($rc, 1, 'status of an empty database: pending');
is($out, join('', map { "pending $_\n" } @files), 'all files are');

($rc, $out, $err) = ctl(['schema', 'apply', "--postgres=$conninfo"]);
is($rc, 0, 'apply') or diag $err;
is($out, join('', map { "applied $_\n" } @files), 'says one line a file');
is($err, '', 'and nothing else');

($rc, $out) = ctl(['schema', 'apply', '--postgres', $conninfo]);
is($rc, 0, 'apply again');
is($out, "nothing to apply\n", 'does nothing');

($rc, $out) = ctl(['schema', 'status'],
                  env => { APIKEY_POSTGRES => $conninfo });
is($rc, 0, 'status: all applied, address from APIKEY_POSTGRES');
is($out, join('', map { "applied $_\n" } @files), 'all files are');

($rc) = ctl(['schema', 'status'],
            env => { PGHOST => $pg->{dir}, PGPORT => $pg->{port},
                     PGUSER => 'postgres', PGDATABASE => 'postgres' });
is($rc, 0, 'address from PGHOST and its kin');

is_deeply([ $pg->column('SELECT to_char(version, \'FM0000\') || \'_\' || name'
                        . ' || \'.sql\' FROM apikey.migration'
                        . ' ORDER BY version') ],
          \@files, 'what was applied is recorded');


# Running every file once more changes nothing and does not fail.

$pg->run('TRUNCATE apikey.migration');
($rc, $out, $err) = ctl(['schema', 'apply', '--postgres', $conninfo]);
is($rc, 0, 'every file may run again') or diag $err;


# A file that fails.

my $dir = migrations('broken',
    '9001_good.sql'  => "CREATE TABLE apikey.good (a int);\n",
    '9002_wrong.sql' => "-- \xc3\xa4\xc3\xb6\xc3\xbc \xf0\x9f\x94\x91\n"
                        . "CREATE TABLE apikey.wrong (a int);\n"
                        . "\n"
                        . "SELECT a, b FROM apikey.wrong;\n",
    '9003_late.sql'  => "CREATE TABLE apikey.late (a int);\n",
    'README'         => "no migration\n",
    '1_short.sql'    => "no migration\n");

my @broken = ('schema', 'apply', '--postgres', $conninfo, '--dir', $dir);

($rc, $out, $err) = ctl(\@broken);
is($rc, 3, 'a file that fails');
is($out, "applied 9001_good.sql\n", 'those before it are applied');
like($err, qr/^apikeyctl: 9002_wrong\.sql:4: column "b" does not exist$/m,
     'its name, line and message are said');
like($err, qr/database has 0001_tables, which is not in/,
     'a database newer than the directory is noticed');

is($pg->value(q{SELECT to_regclass('apikey.wrong') IS NULL}), 't',
   'what it did is rolled back');
is($pg->value('SELECT max(version) FROM apikey.migration'), 9001,
   'and not recorded');

($rc, $out) = ctl(['schema', 'status', '--postgres', $conninfo,
                   '--dir', $dir]);
is($rc, 1, 'status: pending');
is($out, "applied 9001_good.sql\npending 9002_wrong.sql\n"
         . "pending 9003_late.sql\n", 'from the one that fails on');

migrations('broken', '9002_wrong.sql' =>
           "CREATE TABLE apikey.wrong (a int CHECK (a > 0));\n"
           . "INSERT INTO apikey.wrong VALUES (0);\n");
($rc, $out, $err) = ctl(\@broken);
is($rc, 3, 'a statement that fails while it runs');
like($err, qr/9002_wrong\.sql: statement 2: new row .* violates check/,
     'its number is said');
like($err, qr/^apikeyctl: detail: Failing row contains/m, 'and the detail');

migrations('broken', '9002_wrong.sql' => "SELECT 1; COMMIT;\n");
($rc, $out, $err) = ctl(\@broken);
is($rc, 3, 'a file that commits');
like($err, qr/ends the transaction it runs in/, 'is refused');

migrations('broken', '9002_wrong.sql' => "COPY apikey.good FROM STDIN;\n");
($rc, $out, $err) = ctl(\@broken);
is($rc, 3, 'a file that copies');
like($err, qr/COPY is not for migrations/, 'is refused');

migrations('broken', '9002_wrong.sql' => "SELECT 1;\n");
($rc, $out, $err) = ctl(\@broken);
is($rc, 0, 'mended, it goes on') or diag $err;
is($out, "applied 9002_wrong.sql\napplied 9003_late.sql\n", 'where it was');

migrations('broken', '9003_other.sql' => "SELECT 1;\n");
($rc, $out, $err) = ctl(\@broken);
is($rc, 3, 'two files of one number');
like($err, qr/9003_late\.sql and 9003_other\.sql have the same number/,
     'are refused');


# Two at once.

$dir = migrations('parallel',
    '9101_one.sql' => "CREATE TABLE apikey.one (a int);\n",
    '9102_two.sql' => "CREATE TABLE apikey.two (a int);\n");

my @pids = map {
    my $n = $_;
    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        my ($rc) = ctl(['schema', 'apply', '--postgres', $conninfo, '--dir',
                        $dir], out => "$t->{dir}/ctl.$n");
        POSIX::_exit($rc);
    }

    $pid;
} 1 .. 4;

my $failed = 0;
for my $pid (@pids) { waitpid $pid, 0; $failed++ if $? }

is($failed, 0, 'four at once all end well');
is_deeply([ sort map { split /\n/, slurp("$t->{dir}/ctl.$_") } 1 .. 4 ],
          [ 'applied 9101_one.sql', 'applied 9102_two.sql',
            ('nothing to apply') x 3 ], 'each file is applied once');


# Where migrations are looked for, and Postgres.

($rc, $out) = ctl(['schema', 'status', '--postgres', $conninfo],
                  env => { APIKEY_SCHEMA => $dir });
is($out, "applied 9101_one.sql\napplied 9102_two.sql\n", 'APIKEY_SCHEMA');

($rc, $out, $err) = ctl(['schema', 'status', '--postgres', $conninfo,
                         '--dir', "$dir/none"]);
is($rc, 3, 'a directory that is not there');
like($err, qr{cannot read directory ".*/none": No such file}, 'is said');

make_path("$t->{dir}/empty");
($rc, $out, $err) = ctl(['schema', 'apply', '--postgres', $conninfo,
                         '--dir', "$t->{dir}/empty"]);
is($rc, 3, 'a directory without migrations');
like($err, qr/no migrations NNNN_NAME\.sql in/, 'is said');

($rc, $out, $err) = ctl(['schema', 'apply', '--postgres',
                         "host=$t->{dir}/empty password=very-secret"]);
is($rc, 3, 'no Postgres');
like($err, qr/^apikeyctl: cannot connect to Postgres: .*No such file/m,
     'is said');
unlike($err, qr/very-secret/, 'without the password');

($rc, $out, $err) = ctl(['schema', 'apply', '--postgres', 'host=x junk']);
is($rc, 3, 'no connection string');
like($err, qr/cannot connect to Postgres: missing "=" after "junk"/,
     'is said');

($rc, $out, $err) = ctl(['schema', 'status', '--postgres',
                         $pg->conninfo(user => 'apikey_reader')]);
is($rc, 3, 'a role that may not look');
like($err, qr/permission denied for table migration/, 'is told');


# Tokens.

for my $option ('', 'admin', 'read') {
    ($rc, $out, $err) = ctl(['token', 'new', 'ci-1',
                             $option ? ('--role', $option) : ()]);

    my ($line, $token) = split /\n/, $out;
    my $role = $option || 'admin';

    is($rc, 0, "a token, role $role");
    like($token, qr/^op_[0-9A-Za-z]{45}$/, 'has our form');
    is($line, sha256_hex($token) . " ci-1 role=$role", 'its line');
    unlike($err, qr/\Q$token/, 'the token is on stdout alone');
}

SKIP: {
    skip 'no /dev/full', 2 unless -c '/dev/full';

    ($rc, undef, $err) = ctl(['token', 'new', 'x'], out => '/dev/full');
    is($rc, 3, 'a token that could not be shown');
    like($err, qr/cannot write the token/, 'is said');
}

wrong(['token', 'new', 'a', '--role', 'root'],
      qr/role=admin or role=read/, 'an unknown role');
wrong(['token', 'new', 'a b'], qr/token new: /, 'a name with a blank');
wrong(['token', 'new', "a\nb"], qr/token new: /, 'a name with a line break');
wrong(['token', 'new', '#a'], qr/token new: /, 'a name that is a comment');
wrong(['token', 'new', 'role=read'], qr/NAME is/, 'a name like an option');
wrong(['token', 'new', ''], qr/token new: /, 'an empty name');
wrong(['token', 'new', 'x' x 65], qr/NAME is/, 'a name too long');
wrong(['token', 'new', 'x' x 65536], qr/too long/, 'a name much too long');
wrong(['token', 'new'], qr/NAME is missing/, 'no name');


# Wrong arguments.

wrong([], qr/no command/, 'nothing');
wrong(['schema'], qr/"schema" is not a command/, 'half a command');
wrong(['schema', 'drop'], qr/"schema drop" is not a command/, 'no command');
wrong(['schema', 'apply', 'now'], qr/"now" is too much/, 'an operand');
wrong(['schema', 'apply', '--force'], qr/no option "--force"/, 'an option');
wrong(['schema', 'apply', '--role', 'read'], qr/no option "--role"/,
      "another command's option");
wrong(['schema', 'apply', '--dir'], qr/"--dir" wants a value/, 'no value');
wrong(['schema', 'apply', '--dir', 'a', '--dir', 'b'],
      qr/"--dir" is given twice/, 'an option twice');

($rc, $out) = ctl(['--help']);
is($rc, 0, 'help');
like($out, qr/apikeyctl schema apply/, 'names the commands');

($rc, $out) = ctl(['--version']);
is($rc, 0, 'version');
like($out, qr/^apikeyctl \d+\.\d+\.\d+$/, 'is a version');

$t->done;
