# What the tree promises about itself: which room may include which, line and
# file lengths, braces around nginx's macros, the module's symbols, and that
# README knows every directive and variable.

use strict;
use warnings;

use File::Find;
use Test::More;

my $build = $ENV{APIKEY_BUILD} || 'build';

my %below = (
    base    => [],
    wire    => [qw(base)],
    keyring => [qw(base wire)],
    limit   => [qw(base wire)],
    usage   => [qw(base wire)],
    http    => [qw(base wire keyring limit usage)],
);

# compiled and tested without nginx
my $plain = qr{^(?:src/base/(?!compat\.h)
                |src/limit/(?:account|bucket|gauge|lease\.|lease_tally)|src/usage/(?:record|spool)(?:\.|_file)
                |src/usage/(?:extract|pack|unpack)
                |cli/|t/unit/|t/sim/|t/fuzz/)}x;

my @files;

find({ no_chdir => 1, wanted => sub {
    push @files, $_ if /\.[ch]$/;
} }, grep { -e } qw(src cli t));

@files = sort @files, 'ngx_http_apikey_module.c';

my (%text, %quoted, %system, @wrong);

for my $file (@files) {
    open my $f, '<', $file or die "$file: $!\n";
    $text{$file} = do { local $/; <$f> };
    $quoted{$file} = [ $text{$file} =~ /^\s*#\s*include\s*"([^"]+)"/mg ];
    $system{$file} = [ $text{$file} =~ /^\s*#\s*include\s*<([^>]+)>/mg ];
}


sub wrong_is {
    my ($what) = @_;

    ok(!@wrong, $what) or diag(map { "$_\n" } @wrong);
    @wrong = ();
}


# arrows

for my $file (grep { m{^src/} } @files) {
    my ($room) = $file =~ m{^src/(\w+)/};

    for my $name (@{$quoted{$file}}) {
        my ($to) = $name =~ m{^(\w+)/};

        if (!defined $to) {
            push @wrong, "$file: \"$name\" is named without its room";

        } elsif ($to ne $room && !grep { $_ eq $to } @{$below{$room}}) {
            push @wrong, "$file: $room may not include $name";

        } elsif (!$text{"src/$name"}) {
            push @wrong, "$file: there is no src/$name";
        }
    }

    push @wrong, "$file: only http knows ngx_http.h"
        if $room ne 'http' && grep { /^ngx_http/ } @{$system{$file}};

    push @wrong, "$file: only wire knows hiredis"
        if $room !~ /^(wire|limit)$/ && grep { /hiredis/ } @{$system{$file}};
}

wrong_is('rooms include downwards only');

for my $file (grep { $_ =~ $plain } @files) {
    push @wrong, "$file: includes nginx"
        if grep { /^ngx_/ } @{$system{$file}};

    (my $code = $text{$file}) =~ s{/\*.*?\*/}{}sg;
    push @wrong, "$file: $1" if $code =~ /\b(ngx_\w+)/
                                && $file !~ m{^t/|^cli/};
}

wrong_is('the plain core knows no nginx');

for my $file (grep { m{^src/.*\.c$} && $text{$_} =~ /\bngx_\w+\(/ } @files) {
    my ($first) = $text{$file} =~ /^#include (\S+)/m;

    push @wrong, "$file: $first before <ngx_config.h>, which says what the"
                 . ' system shows' if $first =~ m{^<(?!ngx_config)|^"base/};
}

wrong_is('nginx comes first where it is known');


# form

for my $file (@files) {
    my @lines = split /\n/, $text{$file};

    for my $i (0 .. $#lines) {
        push @wrong, "$file:" . ($i + 1) . ': over 79 columns'
            if length $lines[$i] > 79;
        push @wrong, "$file:" . ($i + 1) . ': tab or blank at the end'
            if $lines[$i] =~ /\t|\s$/;

        # a macro of several statements after an if without braces
        push @wrong, "$file:" . ($i + 1) . ': if without brace'
            if $i && $lines[$i] =~ /^\s+ngx_(?:log_(?:error|debug)\w*
                |memcpy|cpymem|memzero|str_set|str_null|queue_\w+
                |add_timer|del_timer|post_event|delete_posted_event
                |spinlock|unlock|table_elt_\w+)\(/x
               && $lines[$i - 1] =~ /^\s*(?:if|for|while)\b.*\)$/;
    }

    push @wrong, "$file: " . @lines . ' lines' if @lines > 600;
    push @wrong, "$file: does not say what it is for"
        unless $text{$file} =~ m{\A\s*/\*\s*\n( \* .*\n)+};
}

wrong_is('lines and files are short, braces stand');


# functions, as nginx writes them: the name at the start of a line, the body
# between braces there

for my $file (grep { /\.c$/ && !m{^t/} } @files) {
    my ($name, $start);
    my @lines = split /\n/, $text{$file};

    for my $i (0 .. $#lines) {
        $name = $1 if $lines[$i] =~ /^(\w+)\(/;
        $start = $i if $lines[$i] eq '{';

        if ($lines[$i] eq '}' && defined $start) {
            push @wrong, "$file: $name() has " . ($i - $start - 1) . ' lines'
                if $i - $start - 1 > 60;
            undef $start;
        }
    }
}

wrong_is('functions fit on a screen');


# config lists every source and header, and no other

{
    open my $f, '<', 'config' or die "config: $!\n";
    my $config = do { local $/; <$f> };
    my %listed = map { $_ => 1 } $config =~ m{^    (\S+\.[ch])$}mg;

    push @wrong, map { "$_ is not in config" }
        grep { m{^(src/|ngx_)} && !$listed{$_} } @files;
    push @wrong, map { "config: there is no $_" }
        grep { !$text{$_} } sort keys %listed;
}

wrong_is('config lists what there is');


# a file of the schema runs again when it changes: a function that stood in two
# would go back to what the first one says

{
    my %where;

    for my $file (sort glob 'schema/*.sql') {
        open my $f, '<', $file or die "$file: $!\n";

        while (<$f>) {
            next unless /^\s*CREATE\s+(?:OR\s+REPLACE\s+)?
                         (FUNCTION|PROCEDURE|VIEW)\s+(?:apikey\.)?(\w+)/xi;
            $where{lc "$1 $2"}{$file} = 1;
        }
    }

    cmp_ok(scalar keys %where, '>', 100, 'the functions are found');
    push @wrong, map { "$_ is in " . join ' and ', sort keys %{$where{$_}} }
                 grep { keys %{$where{$_}} > 1 } sort keys %where;
}

wrong_is('functions and views are defined in one file');


# symbols

{
    my $module = $ENV{APIKEY_MODULE} || "$build/ngx_http_apikey_module.so";

    my @names = map { (split)[-1] }
                grep { / [A-TV-Z] / } `nm -D --defined-only '$module'`;

    is_deeply([ sort @names ],
              [ qw(ngx_module_names ngx_module_order ngx_modules) ],
              'the module shows nginx three symbols, and nobody any other');
}


# README

{
    open my $f, '<', 'README.md' or die "README.md: $!\n";
    my $readme = do { local $/; <$f> };
    my (%directive, %variable);

    for my $file (grep { m{^(src/http/|ngx_)} } @files) {
        $directive{$1} = 1
            while $text{$file} =~ /\{ ngx_string\("(apikey\w*)"\),\s*NGX_/g;
        $variable{$1} = 1
            while $text{$file} =~ /\{ ngx_string\("(apikey_\w+)"\), NULL,/g;
    }

    cmp_ok(scalar keys %directive, '>', 10, 'the directives are found');
    cmp_ok(scalar keys %variable, '>', 10, 'the variables are found');

    push @wrong, map { "directive $_" } grep { $readme !~ /^#+ `?$_`?$/m }
                 sort keys %directive;
    push @wrong, map { "variable \$$_" } grep { $readme !~ /\$$_/ }
                 sort keys %variable;
}

wrong_is('README has a heading for each directive, and all variables');

done_testing();
