# apikeyctl scan-rules and secret new, against keys that are really made: with
# and without a MAC, by the gateway and by apikeyctl.

use strict;
use warnings;

use Test::More;

use Apikey::Ctl;
use Apikey::Test qw(json plain_key);

my $t = Apikey::Test->new;
my $ctl = Apikey::Ctl->new($t);
my @prefixes = qw(sk rdr acme_live a 0123456789abcdef _x_);

my ($rc, $out, $err);


# A line for apikey_mac_secret.

my %secret;

for my $kid ('', '2', 'Z', 'a') {
    ($rc, $out, $err) = $ctl->run(['secret', 'new', $kid ? $kid : ()]);
    is($rc, 0, "secret new $kid");
    like($out, qr/\A@{[$kid || 1]} [0-9a-f]{64}\n\z/, 'one line');
    $secret{$out}++;
    unlike($err, qr/[0-9a-f]{64}/, 'the secret is on stdout alone');
}

is(keys %secret, 4, 'never the same');

$ctl->wrong(['secret', 'new', $_], qr/KID is one of/, "KID \"$_\"")
    for '0', '12', '', '-', ' ', '#';


# What scanners are told.

($rc, $out, $err) = $ctl->run(['scan-rules', '--format', 'regex', @prefixes]);
is($rc, 0, 'regex') or diag $err;

my %regex;
@regex{@prefixes} = map { qr/$_/ } split /\n/, $out;
is(scalar(split /\n/, $out), scalar @prefixes, 'one for each prefix');

($rc, $out) = $ctl->run(['scan-rules', '--format=gitleaks', @prefixes]);
is($rc, 0, 'gitleaks');

my @rules = split /^\[\[rules\]\]\n/m, $out;
shift @rules;
is(@rules, @prefixes, 'a rule for each prefix');

for my $i (0 .. $#rules) {
    my %rule = $rules[$i] =~ /^(\w+) = (.*)$/mg;

    is($rule{id}, "\"apikey-$prefixes[$i]\"", "rule $rule{id}");
    is($rule{regex}, "'''" . $regex{$prefixes[$i]} =~ s/^\(\?\^\w*:|\)$//gr
       . "'''", 'its regex is the same');
    is($rule{keywords}, "[\"$prefixes[$i]_\"]", 'its keyword');
    is(join(' ', sort keys %rule), 'description entropy id keywords regex',
       'and nothing else');
}

($rc, $out) = $ctl->run(['scan-rules', '--format', 'github', 'sk']);
is($rc, 0, 'github');
my ($sample) = $out =~ /^Sample, never issued: (\S+)$/m;
like($sample, $regex{sk}, 'the sample is found');
like($out, qr/^Regular expression: \\bsk_\[0-9A-Za-z\]\{45\}\\b$/m, 'regex');
like($out, qr{POST https://\S+/leaks}, 'where reports go');

($rc, $out) = $ctl->run(['scan-rules', 'sk', 'rdr']);
is($rc, 0, 'all of them');
like($out, qr/\A# .*\n\n\\bsk_.*\n\\brdr_.*\n\n# .*\n\n\[\[rules\]\]/, 'in order');

$ctl->wrong(['scan-rules'], qr/PREFIX is missing/, 'no prefix');
$ctl->wrong(['scan-rules', $_], qr/a prefix is 1 to 16/, "prefix \"$_\"")
    for 'SK', '', 'a' x 17, 'a-b';
$ctl->wrong(['scan-rules', 'sk', '--format', 'x'], qr/--format is regex/,
            'an unknown format');


# Keys of the gateway, first without a MAC, then with the secrets from above.

$t->postgres;
$t->upstream;

my @made = (map({ [ $_, plain_key($_) ] } @prefixes));

for my $mac (0, 1) {
    my $file = "$t->{dir}/mac";

    Apikey::Ctl::write_file($file, join '', sort keys %secret);
    chmod 0644, $file;

    my $node = $t->nginx(name => "mac$mac",
                         http => $mac ? "apikey_mac_secret $file;" : '')
        ->start;

    for my $prefix (@prefixes) {
        my $k = json($node->admin('POST', 'api-keys', body => {
            name => 'x', prefix => $prefix }));

        is($node->get('/', key => $k->{key})->{status}, 200,
           "a key with prefix $prefix, " . ($mac ? 'MAC' : 'no MAC'));
        push @made, [ $prefix, $k->{key} ];
    }

    $node->stop;
}

for my $made (@made) {
    my ($prefix, $key) = @$made;

    for my $text ($key, "key=$key;", "\"$key\"", "X-API-Key: $key\r\n",
                  "https://example.com/?k=$key&a=1")
    {
        my ($found) = $text =~ /($regex{$prefix})/;
        is($found, $key, "found: $prefix");
    }

    unlike($_, $regex{$prefix}, 'not a key: ' . $_)
        for substr($key, 0, -1), "${key}x", "x$key", $key =~ s/.$/-/r;

    for my $other (grep { $_ ne $prefix } @prefixes) {
        unlike($key, $regex{$other}, "not one of $other");
    }
}

$t->done;
