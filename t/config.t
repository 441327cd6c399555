
# nginx's build script of the module says what is missing, in a sentence.

use strict;
use warnings;

use Cwd;
use File::Temp;
use Test::More;

my $top = getcwd();
my $src = $ENV{NGINX_SRC} // '/usr/share/nginx/src';
my $dir = File::Temp->newdir;

mkdir "$dir/objs";
symlink "$src/auto", "$dir/auto";

# what nginx's configure has set when it comes to add-ons

my %set = (
    ngx_addon_dir => $top, ngx_module_link => 'DYNAMIC', USE_THREADS => 'YES',
    OPENSSL => 'NONE', CC => 'cc', NGX_OBJS => 'objs',
    NGX_AUTOTEST => 'objs/autotest', NGX_AUTOCONF_ERR => 'objs/autoconf.err',
);


# (exit status, what it says)

sub config {
    my %env = (%set, @_);

    my $pid = open(my $out, '-|') // die "fork: $!\n";

    if ($pid == 0) {
        chdir $dir;
        @ENV{keys %env} = values %env;
        open STDERR, '>&', \*STDOUT;
        exec 'sh', '-c', '. "$ngx_addon_dir/config"' or die "sh: $!\n";
    }

    my $text = do { local $/; <$out> } // '';
    close $out;
    return ($? >> 8, $text);
}


my ($status, $text) = config(USE_THREADS => 'NO');

is($status, 1, 'without --with-threads it ends');
like($text, qr/error: ngx_http_apikey_module .*configure nginx --with-threads/s,
     'and says so');

SKIP: {
    skip 'no sources of nginx', 2 unless -f "$dir/auto/feature";

    ($status, $text) = config(LIBPQ_INC => "$dir", LIBPQ_LIB => "$dir");

    is($status, 1, 'without libpq it ends');
    like($text, qr/error: .* needs libpq .*libpq-dev.* set LIBPQ_INC/s,
         'and says what to install');
}

done_testing;
