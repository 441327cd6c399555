# make run: the lines it prints work when pasted, break and mend do what they
# say, and the next run finds the data of this one.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Temp qw(tempdir);
use Test::More;

use Apikey::Process qw(spawn wait_for children_of);

plan skip_all => 'the sanitizers want nginx started their way'
    if $ENV{APIKEY_ASAN};

my $dir = tempdir('apikey-run-XXXXXX', TMPDIR => 1, CLEANUP => 1);

chmod 0755, $dir;

$ENV{APIKEY_BUILD} = abs_path($ENV{APIKEY_BUILD} || 'build');
$ENV{APIKEY_RUN} = "$dir/run";
$ENV{NGINX} = $ENV{APIKEY_NGINX} || 'nginx';

my $runner;


sub read_file {
    my ($file) = @_;

    open my $f, '<', $file or return '';
    local $/;
    return <$f> // '';
}


sub run {
    my $log = "$dir/output";

    unlink $log;
    $runner = spawn(cmd => [ 'perl', 'tools/run.pl', 'start' ], log => $log);

    wait_for('make run', sub {
        die 'it ended: ' . read_file($log) unless $runner->alive;
        return read_file($log) =~ /Ctrl-C ends all/;
    }, 60);

    return read_file($log);
}


sub shell {
    my ($line) = @_;

    open my $f, '>', "$dir/line" or die "$dir/line: $!\n";
    print $f ". $dir/run/env\n$line\n";
    close $f;
    return scalar `bash $dir/line 2>/dev/null`;
}


END { $runner->stop('INT') if $runner }


my $said = run();

like($said, qr/^ 3  Postgres runs +\d+\.\d s$/m, 'steps are numbered and timed');

my ($env) = $said =~ /^(export .*)$/m;
is(read_file("$dir/run/env"), "$env\n", 'the variables stand in env, too');
is((stat "$dir/run/env")[2] & 0777, 0600, 'where only we can read them');

my @lines = $said =~ /^# (\d{3}.*)\n((?:curl|for) .*)$/mg;
is(@lines / 2, 8, 'eight lines to paste');

while (my ($expect, $line) = splice @lines, 0, 2) {
    my $got = shell($line);

    if ($line =~ /^for/) {
        like($got, qr/^200 200.*429 429\s*$/, $expect);

    } else {
        my ($status) = $expect =~ /^(\d+)/;
        like($got, qr{^HTTP/1.1 $status }, "answers $expect");
        like($got, qr/^RateLimit: /mi, 'with limits')
            if $expect =~ /RateLimit/;
    }
}


# both stores down: known keys pass, unknown ones do not

my ($url) = $said =~ /gateway (\S+),/;
my $status = "curl -s -o /dev/null -w '%{http_code}' $url/hello -H";

is(system("perl tools/run.pl break > $dir/break.log 2>&1"), 0, 'break');
is(scalar(my @left = children_of($runner->pid)), 2, 'only nginx and the API are left');

wait_for('a request to pass with the stores down', sub {
    shell("$status \"X-API-Key: \$KEY\"") eq '200';
}, 30);
pass('a known key passes with both stores down');
is(shell("$status 'X-API-Key: sk_unknown'"), '401', 'an unknown one does not');

is(system("perl tools/run.pl mend > $dir/mend.log 2>&1"), 0, 'mend');

wait_for('the admin API', sub {
    shell("curl -s $url/api/v1/whoami -H \"X-API-Key: \$KEY\"") =~ /"caller"/;
}, 30);
pass('the admin API answers again');


# a database as releases left it that kept no digests of the schema's files

my ($psql) = $said =~ /^Postgres: (psql ".*")$/m;
my $older = "$psql -qAtX -v ON_ERROR_STOP=1 -c";

is(system("$older 'ALTER TABLE apikey.migration DROP COLUMN digest;"
          . " DELETE FROM apikey.migration WHERE version > 30'"), 0,
   'the database is made an older one');


# its end, and the next one

my @children = children_of($runner->pid);
cmp_ok(scalar @children, '>=', 4, 'four servers run');

is($runner->stop('INT'), 0, 'Ctrl-C ends it in order');
is(scalar(grep { kill 0, $_ } @children), 0, 'with all its servers');

isnt(system("perl tools/run.pl break > $dir/break.log 2>&1"), 0,
     'nothing to break now');
like(read_file("$dir/break.log"), qr/start it with "make run"/, 'as it says');

$said = run();
my ($same) = $env =~ /^(export KEY=\S+ TOKEN=\S+)/;
like($said, qr/^\Q$same\E/m, 'the next run has the same key and token');

is(`$older 'SELECT count(*) FROM apikey.migration WHERE digest IS NULL'`,
   "0\n", 'with a schema that is up to date');

is($runner->stop('INT'), 0, 'and ends in order');
undef $runner;

done_testing();
