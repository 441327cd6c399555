#!/usr/bin/perl

# tools/generate: what it says it made is what roll-ups, raw events, sums of
# keys and credits, views and the admin API have, and it keeps away from other
# usage.

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Apikey::Api;
use Apikey::Postgres;
use Apikey::Test;

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $api = Apikey::Api->new($pg);

$ENV{PATH} = Apikey::Postgres::bindir() . ":$ENV{PATH}";

# generate(OPTIONS): its exit code and all it says

sub generate {
    my (@opt) = @_;

    open my $f, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', $^X,
        'tools/generate', '--postgres',
        $pg->conninfo(user => 'apikey_gateway'), @opt or die "sh: $!\n";
    my $out = do { local $/; <$f> };
    close $f;
    return ($? >> 8, $out);
}

# what one says, by day: requests refused errors tokens cost

sub made {
    my ($out) = @_;

    return { map { /^(\d{4}-\d\d-\d\d|total)\s+(.*?)\s*$/
                   ? ($1 => join ' ', split /\s+/, $2) : () }
             split /\n/, $out };
}

sub total {
    my ($from, $more) = @_;

    return $pg->value("SELECT concat_ws(' ', sum(requests), sum(refused),
        sum(errors), sum(tokens), sum(cost)) FROM apikey.$from " . ($more // ''),
        user => $from =~ /^usage_(?:hour|dai|month)ly/ ? 'apikey_reader'
                                                       : 'postgres');
}


my @small = (qw(--days 9 --requests 600 --seed 7));
my ($code, $out) = generate(@small);

is($code, 0, 'it runs') or diag($out);

my $made = made($out);
my $total = delete $made->{total};

cmp_ok(scalar keys %$made, '>=', 9, 'each day has its line');
is_deeply({ map { $_->[0] => $_->[1] } $pg->rows(q{
        SELECT to_char(start AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
            concat_ws(' ', sum(requests), sum(refused), sum(errors),
                sum(tokens), sum(cost))
        FROM apikey.usage_daily GROUP BY 1}, user => 'apikey_reader') },
    $made, 'usage_daily has what it says');
is(total("usage_$_"), $total, "usage_$_ in all") for qw(hourly daily monthly);

my ($requests, $refused, $errors, $tokens, $cost) = split / /, $total;

is($pg->value('SELECT concat_ws($$ $$, sum(requests), sum(errors), sum(tokens),
    (sum(cost) / 1000000000)::numeric(38, 9)) FROM apikey.key_usage'),
   "$requests $errors $tokens $cost", 'the sums of keys');

my $page = $api->call('usage', query => { bucket => 'total',
    from => (sort keys %$made)[0] . 'T00:00:00Z' });
is(join(' ', @{$page->{json}{total}}{qw(requests refused errors tokens)}),
   "$requests $refused $errors $tokens", 'GET usage');
is($page->{json}{total}{cost} + 0, $cost + 0, 'and its money');

is($pg->value(q{SELECT concat_ws(' ', count(*) FILTER (WHERE outcome
        <> 'refused'), sum(tokens_input + tokens_output), sum(cost))
    FROM apikey.usage_event}),
   $pg->value(q{SELECT concat_ws(' ', sum(requests), sum(tokens_input
        + tokens_output), sum(cost)) FROM apikey.usage_quarter
    WHERE start >= (SELECT date_trunc('day', min(time), 'UTC')
                    FROM apikey.usage_event)}),
   'raw events of the days they are kept');
is($pg->value(q{SELECT min(time) BETWEEN now() - interval '8 d 1 h'
        AND now() - interval '6 d' FROM apikey.usage_event}), 't',
   'and of no others');
is($pg->value('SELECT count(DISTINCT event) = count(*)
               FROM apikey.usage_event'), 't', 'each with an id of its own');
is($pg->value(q{SELECT sum(c.used - c.base) = (SELECT sum(q.cost)
        FROM apikey.usage_quarter q WHERE q.owner = 'sample_umbrella')
    FROM apikey.credit c}), 't', 'its use is taken from credits');
is($pg->value('SELECT sum(last - first + 1) = (SELECT sum(requests + refused)
        FROM apikey.usage_quarter) AND sum(lost) = 0 FROM apikey.usage_batch'),
   't', 'the marks count the events');
is($pg->value('SELECT count(*) FROM apikey.key_summary
               WHERE usage_count > 0 AND last_used_at < created_at',
              user => 'apikey_reader'), 0, 'no key is used before it was made');
is($pg->value(q{SELECT concat_ws(' ', count(DISTINCT owner) > 3,
        count(DISTINCT model) > 3, count(DISTINCT service) > 3,
        count(DISTINCT outcome), count(DISTINCT node), sum(unpriced) > 0)
    FROM apikey.usage_hourly}, user => 'apikey_reader'), 't t t 4 2 t',
   'there is something to see');


# again

($code, $out) = generate(@small);
isnt($code, 0, 'not where there is usage');
like($out, qr/there is usage in this database/, 'as it says');
is(total('usage_daily'), $total, 'and nothing is added');

($code, $out) = generate(qw(--days 1 --requests 50 --anyway));
is($code, 0, '--anyway') or diag($out);
is_deeply([ split / /, total('usage_daily') ],
          [ map { my ($a, $b) = ((split / /, $total)[$_],
                                 (split / /, made($out)->{total})[$_]);
                  $_ == 4 ? sprintf('%.9f', $a + $b) : $a + $b } 0 .. 4 ],
          'adds');
is($pg->value('SELECT count(*) FROM apikey.key'), 13, 'to the same keys');


# one seed, one month

{
    my $until = $pg->value(q{SELECT to_char((now() - interval '40 d')
        AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"10:00:00"Z"')});
    my ($last) = $until =~ /^(.{10})/;
    my @same = map {
        $pg->run('TRUNCATE apikey.usage_quarter, apikey.usage_event,
            apikey.usage_stream, apikey.usage_batch');
        my (undef, $said) = generate(qw(--days 3 --requests 200
            --until), $until, '--seed', $_);
        $said;
    } 3, 3, 4;

    is_deeply([ (sort keys %{made($same[0])})[-2, -1] ], [ $last, 'total' ],
              'the days asked for');
    is($same[1], $same[0], 'a seed gives the same');
    isnt($same[2], $same[0], 'another one gives others');
    is($pg->value('SELECT count(*) FROM apikey.usage_event'), 0,
       'no raw events where they would be gone');
}

for my $wrong ([ '--days', 0 ], [ '--until', 'now' ],
               [ '--until', '2100-01-01T00:00:00Z', '--anyway' ], [ 'x' ])
{
    ($code) = generate(@$wrong);
    isnt($code, 0, "@$wrong");
}

$t->done;
