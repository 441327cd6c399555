# apikeyctl: operator tokens, wrong arguments.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use Test::More;

use Apikey::Ctl;
use Apikey::Test;

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);

my ($rc, $out, $err);


# Tokens.

for my $option ('', 'admin', 'read') {
    ($rc, $out, $err) = $ctl->run(['token', 'new', 'ci-1',
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

    ($rc, undef, $err) = $ctl->run(['token', 'new', 'x'], out => '/dev/full');
    is($rc, 3, 'a token that could not be shown');
    like($err, qr/cannot write the token/, 'is said');
}

$ctl->wrong(['token', 'new', 'a', '--role', 'root'],
      qr/role=admin or role=read/, 'an unknown role');
$ctl->wrong(['token', 'new', 'a b'], qr/token new: /, 'a name with a blank');
$ctl->wrong(['token', 'new', "a\nb"], qr/token new: /, 'a name with a line break');
$ctl->wrong(['token', 'new', '#a'], qr/token new: /, 'a name that is a comment');
$ctl->wrong(['token', 'new', 'role=read'], qr/NAME is/, 'a name like an option');
$ctl->wrong(['token', 'new', ''], qr/token new: /, 'an empty name');
$ctl->wrong(['token', 'new', 'x' x 65], qr/NAME is/, 'a name too long');
$ctl->wrong(['token', 'new', 'x' x 65536], qr/too long/, 'a name much too long');
$ctl->wrong(['token', 'new'], qr/NAME is missing/, 'no name');


# Wrong arguments.

$ctl->wrong([], qr/no command/, 'nothing');
$ctl->wrong(['schema'], qr/"schema" is not a command/, 'half a command');
$ctl->wrong(['schema', 'drop'], qr/"schema drop" is not a command/, 'no command');
$ctl->wrong(['schema', 'apply', 'now'], qr/"now" is too much/, 'an operand');
$ctl->wrong(['schema', 'apply', '--force'], qr/no option "--force"/, 'an option');
$ctl->wrong(['schema', 'apply', '--role', 'read'], qr/no option "--role"/,
      "another command's option");
$ctl->wrong(['schema', 'apply', '--dir'], qr/"--dir" wants a value/, 'no value');
$ctl->wrong(['schema', 'apply', '--dir', 'a', '--dir', 'b'],
      qr/"--dir" is given twice/, 'an option twice');

for my $help (['help'], ['--help'], ['help', 'import'],
              ['import', '--help'], ['token', 'new', '--help'])
{
    ($rc, $out) = $ctl->run($help);
    is($rc, 0, "@$help");
    like($out, qr/apikeyctl schema apply/, 'names the commands');
}

{
    open my $f, '<', 'README.md' or die "README.md: $!\n";
    my $readme = do { local $/; <$f> };
    my %said;

    $said{$1} = 1 while $out =~ /^apikeyctl ([a-z]\S*(?: [a-z]+)?)/mg;
    delete $said{help};

    cmp_ok(scalar keys %said, '>', 6, 'the commands are found');

    for my $command (sort keys %said) {
        ok($readme =~ /^\| .*`\Q$command\E\b/m, "README has $command");
    }
}

($rc, $out) = $ctl->run(['--version']);
is($rc, 0, 'version');
like($out, qr/^apikeyctl \d+\.\d+\.\d+$/, 'is a version');

$t->done;
