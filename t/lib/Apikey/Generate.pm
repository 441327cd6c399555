package Apikey::Generate;

# Requests to the admin API that nobody would write by hand, out of a seed.
#
#     my $g = Apikey::Generate->new(seed => 1, token => $token,
#                 other => another token, password => a text to look for);
#     my $r = $g->request;
#     $r->{bytes}         as they are sent
#     $r->{head}          the answer has no body
#     $r->{last}          what may end its connection: nothing behind it
#     $r->{cut}           no more will come: it may get no answer
#     $r->{kind}          who made it
#     $g->id($uuid), $g->key($plain)      what answers gave, to be used again
#
# Of shape: valid requests with some members, parameters or headers made odd.
# Of bytes: valid ones with bytes flipped, cut, doubled; most of these end in
# nginx or the module and never reach SQL, so that they are many.

use strict;
use warnings;

use Apikey::Http;


# JSON values that are wrong, odd, or right where they are not expected.

my @odd = (
    qw(null true false 0 -0 -1 1 2 7 100 1.5 1.0 1e2 1E400 -1e400 1e-400
       0.000000001 9007199254740991 9007199254740992 9223372036854775807
       9223372036854775808 -9223372036854775809 18446744073709551616),
    '1' . '0' x 30, '9' x 400, '0.' . '3' x 400,
    '[]', '{}', '[[]]', '[{}]', '[null]', '{"":null}', '{"a":1,"a":2}',
    '["a","a"]', '[1,"2",null,true,{},[]]', '["*"]', '["a:*","*:a"]',
    '[' x 60 . ']' x 60, '[' x 7000 . ']' x 7000,
    '{"a":' x 50 . '1' . '}' x 50, '{"a":' x 7000 . '1' . '}' x 7000,
    '[' . join(',', (0) x 1001) . ']',
    '[' . join(',', map { qq("s$_") } 1 .. 1001) . ']',
    '[' . join(',', map { qq("10.0.0.$_") } 0 .. 255) . ']',
    '{' . join(',', map { qq("m$_":$_) } 1 .. 400) . '}',
    map({ qq("$_") }
        '', ' ', '  x  ', '0', '1', '-1', '1.00', '50.00', '9000000.000000001',
        '9000001', '1e5', '.5', '1.', '٣', '1,000', 'NaN', 'Infinity',
        '\u0000', 'a\u0000b', '\u0001', '\u001f', '\u007f', '\u0085', '\u2028',
        '\ud800', '\udc00', '\ud800\ud800', '\udc00\ud800', '\ud83d\ude00',
        '\ufffe', '\uFEFF', '😀', 'é', 'e\u0301', '‮x', '\u202e', '\n', '\t\r',
        '\\\\', '\"', '\/', '%00', '%s%n', '$1', '@SECRET@', '@SECRET@' x 9,
        "'; DROP TABLE apikey.key; --", '$$', '{}', '[]', 'null', 'true',
        'x' x 64, 'x' x 65, 'x' x 128, 'x' x 255, 'x' x 256, 'x' x 9000,
        'é' x 255, 'é' x 256, '😀' x 255, 'x y', '*', '**', '*x', 'x*', 'x:*',
        'apikey:manage', 'a|b', '*:*',
        '2026-02-30T00:00:00Z', '2026-13-01', '2099-01-01', '0000-01-01',
        '0001-01-01T00:00:00Z', '1969-12-31T23:59:59Z', '1970-01-01T00:00:00Z',
        '9999-12-31T23:59:59.999999Z', '10000-01-01T00:00:00Z',
        '294276-12-31T23:59:59Z', '294277-01-01T00:00:00Z',
        '4714-11-24 BC', 'infinity', '-infinity', 'now', 'today', 'epoch',
        'allballs', '2099-01-01T00:00:00+15:59', '2099-01-01T00:00:00+16:00',
        '2099-01-01T00:00:00-99:99', '2099-01-01T24:00:00Z',
        '2099-01-01T00:00:60Z', '2099-01-01t00:00:00z', '2099-01-01 00:00:00',
        '2099-01-01T00:00:00.1234567890123Z', '2099-06-01T00:00:00 Mars/X',
        '0s', '1ms', '250ms', '1s', '1h', '31d', '32d', '366d', '367d', '-1h',
        '1 h', '1H', '1h30m', '1.5h', 'P1D', '0.0001ms', '1us', '9' x 20 . 'd',
        '99999999999999999999999999d', 'day', 'week', 'month', 'year', 'total',
        '0.0.0.0/0', '::/0', '1.2.3.4/33', '1.2.3', '1.2.3.4.5', '::1/129',
        '::ffff:1.2.3.4/96', 'fe80::1%eth0', '10.0.0.1/-1', '1.2.3.4/08',
        '01.2.3.4', '1.2.3.4/255.0.0.0', ':::', '1::2::3', '::ffff:300.1.1.1',
        'requests', 'tokens', 'cost', 'concurrent', 'strict', 'sha256',
        'sha256-last-segment', 'ab' x 32, 'AB' x 32, 'ab' x 31, 'zz' x 32,
        'YWJj' x 11, '+/' x 22, 'Europe/Berlin', 'UTC', 'Mars/Olympus', '+25',
        'sk', 'sk_live', 'SK', 'a' x 16, 'a' x 17, '_', 'é_',
        '01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60', 'eyJ2IjoxfQ', 'e30', '=='));

# Members of the bodies with values that are right.

my @limits = (
    '[{"name":"hourly","unit":"requests","limit":1000,"window":"1h"}]',
    '[{"name":"b","unit":"requests","limit":50,"window":"1s","burst":100},'
        . '{"name":"m","unit":"requests","limit":7,"window":"31d"}]', '[]');

my %limit = (name => [ '"hourly"', '"b"' ], unit => [ '"requests"' ],
    limit => [ 1000, 0, 7919 ], window => [ '"1h"', '"1s"', '"31d"' ],
    burst => [ 'null', 5000 ], rolling => [ 'false', 'null' ],
    model => [ 'null' ], service => [ 'null', '"chat"' ], mode => [ 'null' ]);

my %key = (name => [ '"one"', '"Production server"', '"é"' ],
    owner => [ '"gen_1"', '"gen_2"', 'null', '"gen/3 %"' ],
    customer => [ 'null', '"c"' ], plan => [ 'null', '"gen"' ],
    prefix => [ '"sk_live"', 'null' ],
    scopes => [ '["orders:read","workflow:*"]', '[]', '["*"]',
                '["apikey:manage"]' ],
    allowed_models => [ 'null', '["gpt-*"]', '[]' ],
    allowed_ips => [ 'null', '["203.0.113.0/24","2001:db8::/32"]', '[]' ],
    limits => \@limits, credits => [ 'null' ],
    metadata => [ '{"team":"search"}', '{}', 'null' ],
    expires_at => [ 'null', '"2099-01-01T00:00:00Z"' ],
    enabled => [ 'true', 'false' ]);

my %owner = (name => [ '"Ada"', 'null' ], enabled => [ 'true', 'false' ],
    plan => [ 'null', '"gen"' ], plan_next => [ 'null', '"gen"' ],
    limits => \@limits, credits => [ 'null' ],
    time_zone => [ '"UTC"', '"Europe/Berlin"' ], anchor_day => [ 1, 31 ],
    metadata => [ '{"a":null}', '{}' ]);

my %plan = (name => [ '"Pro"' ], limits => \@limits,
    scopes => [ '["orders:*"]', '[]' ], allowed_models => [ 'null', '[]' ],
    monthly_price => [ '"49.00"', 'null' ],
    upgrade_url => [ '"https://example.com/u"', 'null' ]);

my %import = (%key, hash => [ '"' . 'ab' x 32 . '"' ],
    alg => [ '"sha256"', '"sha256-last-segment"' ], start => [ '"sk_abcd"' ],
    last4 => [ '"wxyz"' ], usage_count => [ 0, 42 ],
    created_at => [ '"2020-01-01T00:00:00Z"' ],
    last_used_at => [ '"2024-01-01T00:00:00Z"', 'null' ]);

my %verify = (key => [ '"KEY"' ], scopes => [ '["orders:read"]' ],
    model => [ 'null', '"gpt-4o"' ], weight => [ 0, 1 ],
    service => [ '"batch"', 'null' ]);

my %compat = (%key, active => [ 'true' ], is_active => [ 'false' ],
    rate_limit => [ 100 ], cost_limit => [ 5, '"5.00"' ],
    workflow_id => [ '"w"' ], user_id => [ '"gen_1"' ],
    customer_id => [ '"c"' ]);

my %login = (email => [ '"a@b.c"' ], password => [ '"PASSWORD"' ],
    apiKeyId => [ '"ID"' ]);

my %list = (owner => [ 'gen_1' ], status => [ qw(active all revoked) ],
    q => [ 'prod', 'sk_' ], sort => [ qw(-created_at name -last_used_at) ],
    limit => [ 1, 2, 100 ], cursor => [ 'e30' ], plan => [ 'gen' ],
    customer => [ 'c' ]);

# method, path, members of the body, parameters.  A path that is not there
# (any more, or yet) is a request like others.

my @routes = (
    ([ 'POST', 'api-keys', \%key, {} ]) x 4,
    [ 'POST', 'api-keys', \%compat, {} ],
    ([ 'GET', 'api-keys', undef, \%list ]) x 3,
    ([ 'GET', 'api-keys/ID', undef, {} ]) x 2,
    ([ 'PATCH', 'api-keys/ID', \%key, {} ]) x 4,
    [ 'PUT', 'api-keys/ID', \%key, {} ],
    [ 'DELETE', 'api-keys/ID', undef, {} ],
    [ 'POST', 'api-keys/ID/rotate', { grace => [ '"1h"', '"0s"' ] }, {} ],
    [ 'DELETE', 'api-keys/ID/secrets/ID', undef, {} ],
    [ 'GET', 'api-keys/ID/usage', undef, { days => [ 1, 30, 400 ] } ],
    [ 'POST', 'api-keys/verify', \%verify, {} ],
    [ 'POST', 'api-keys/import', \%import, { dry_run => [ 'true' ] } ],
    [ 'GET', 'owners', undef, { q => [ 'gen' ], limit => [ 2 ],
                                cursor => [ 'e30' ] } ],
    [ 'GET', 'owners/OWNER', undef, {} ],
    ([ 'PUT', 'owners/OWNER', \%owner, {} ]) x 2,
    ([ 'PATCH', 'owners/OWNER', \%owner, {} ]) x 2,
    [ 'PATCH', 'owners', \%owner, { plan => [ 'gen' ],
                                    dry_run => [ 'true' ] } ],
    [ 'DELETE', 'owners/OWNER', undef, { revoke_keys => [ 'true' ] } ],
    [ 'GET', 'plans', undef, { limit => [ 2 ], cursor => [ 'e30' ] } ],
    [ 'GET', 'plans/gen', undef, {} ],
    [ 'PUT', 'plans/gen', \%plan, {} ],
    [ 'PATCH', 'plans/gen', \%plan, {} ],
    [ 'DELETE', 'plans/gen2', undef, {} ],
    [ 'GET', 'whoami', undef, {} ],
    [ 'GET', 'usage/summary', undef, { key => [ 'ID' ], owner => [ 'gen_1' ],
                                       days => [ 3 ] } ],
    ([ 'GET', 'audit', undef, { key => [ 'ID' ], owner => [ 'gen_1' ],
        from => [ '2026-01-01' ], to => [ '2099-01-01' ], actor => [ 'x' ],
        action => [ 'create' ], limit => [ 2 ], cursor => [ 'e30' ] } ]) x 2,
    [ 'GET', 'health', undef, {} ],
    [ 'POST', 'leaks', { token => [ '"KEY"' ], type => [ '"x"' ],
        url => [ '"https://example.com"' ], source => [ '"content"' ] }, {} ],
    [ 'POST', 'keys/getApiKeys', \%login, {} ],
    [ 'POST', 'keys/usageAnalytics', \%login, {} ]);

my @methods = qw(GET HEAD POST PUT PATCH DELETE OPTIONS TRACE MKCOL get X);
my @words = (qw(api-keys owners plans audit whoami usage summary rotate import
                verify secrets health leaks keys . .. ... %2e%2e %2F %00 %ff
                %C3%A9 %c0%80 + %25 %zz % ; ~ & = ?), '#');

my @all = map { chr } 0 .. 255;
my @high = @all[128 .. 255];
my @plain = @all[33 .. 126, 128 .. 255];
my @ascii = @all[33 .. 126];
my @json = (@all[32 .. 126, 9, 10],
            ('{', '}', '[', ']', '"', ':', ',', '\\') x 4);
my @chunk = (@all, ("\r\n", 'ffffffffffffffff', '-1', ';x=y', '0') x 8);
my @head = (@all, ("\r\n", "\0", 'HTTP/9.9', "\r\nHost: a",
                   "\r\nTransfer-Encoding: chunked") x 8);
my @odd_path = grep { !/%00/ } map { percent(s/^"|"$//gr) } @odd;

my @bodies = grep { $_->[2] } @routes;


sub new {
    my ($class, %opt) = @_;

    srand $opt{seed};

    return bless {
        base => '/api/v1/',
        ids => [ '01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60' ],
        keys => [ 'sk_' . 'x' x 45 ],
        %opt,
    }, $class;
}


sub one  { return $_[rand @_] }
sub luck { return rand($_[0]) < 1 }

# A random one is replaced: the pools stay small, and alive.

sub id  { keep($_[0]{ids}, $_[1]) }
sub key { keep($_[0]{keys}, $_[1]) }

sub keep {
    my ($pool, $value) = @_;

    $pool->[@$pool < 200 ? @$pool : 1 + rand $#$pool] = $value;
}


sub request {
    my ($self) = @_;

    my $dice = rand 100;

    return $dice < 22 ? $self->shape
         : $dice < 27 ? $self->json_bytes
         : $dice < 50 ? $self->text_bytes
         : $dice < 70 ? $self->path_bytes
         : $dice < 90 ? $self->header_bytes
         :              $self->http_bytes;
}


# A request whose parts are right, but for as many as "wrong" of them.

sub parts {
    my ($self, $wrong, $routes) = @_;

    my ($method, $path, $members, $query) = @{one(@{$routes // \@routes})};

    my $id = luck(12) ? one(@odd_path) : one(@{$self->{ids}});
    my $owner = luck(4) ? one(@odd_path)
                        : one('gen_1', 'gen_2', 'gen%2F3%20%25', 'none');

    $path =~ s/ID/$id/g;
    $path =~ s/OWNER/$owner/;

    my @headers = $self->credential;
    my $body;

    if ($members) {
        $body = $self->body($members, $wrong);
        $body = rows($body) if $path =~ /import|leaks/ && !luck(5);

        my $type = $path =~ /import/ && luck(3)
                   ? one('text/csv', 'application/x-ndjson')
                   : 'application/json';

        push @headers, "Content-Type: $type" unless luck(200);
    }

    my @query = map {
        my $name = $_;
        my $value = $wrong && luck(2) ? percent(one(@odd) =~ s/^"|"$//gr)
                                      : one(@{$query->{$name}});
        $value =~ s/ID/$id/;
        "$name=$value";
    } grep { luck(2) } sort keys %$query;

    push @query, one('x=1', 'limit=1&limit=2', '=', '&&', 'q=%ff', 'q=%00',
                     'cursor=' . 'A' x rand 300, 'limit', 'sort=-', "q=%u1")
        if $wrong && luck(6);

    push @headers, 'If-Match: ' . one('"1"', '*', 'W/"1"', '""', '"',
                                      '"99999999999999999999"', '"1", "2"')
        if luck(15);
    push @headers, 'Idempotency-Key: ' . one('a', 'x' x 255, 'x' x 256, '"',
                                             'k' . int rand 50, "\xc3\xa9")
        if luck(10);

    return { method => $method, path => $path, headers => \@headers,
             query => join('&', @query), body => $body };
}


sub credential {
    my ($self) = @_;

    my $dice = rand 100;

    return $dice < 88 ? "Authorization: Bearer $self->{token}"
         : $dice < 98 ? 'X-API-Key: ' . one(@{$self->{keys}})
         : $dice < 99 ? () : 'X-API-Key: x';
}


sub body {
    my ($self, $members, $wrong) = @_;

    return one(@odd) if $wrong && luck(40);

    my @names = grep { $_ eq 'name' || luck(3) } sort keys %$members;
    my %value = map { $_ => one(@{$members->{$_}}) } @names;

    $value{limits} = limits($wrong) if $value{limits} && luck(2);

    if ($wrong) {
        for (1 .. one(0, 1, 1, 1, 2, 5)) {
            $value{luck(4) ? one(sort keys %$members) : one(@names)}
                = one(@odd) if @names;
        }

        $value{one('unknown', 'id', 'é', '', '@SECRET@', '\u0000')} = one(@odd)
            if luck(15);
    }

    my @texts = map { qq("$_":$value{$_}) } sort keys %value;

    push @texts, one(@texts) if $wrong && @texts && luck(25);

    my $text = '{' . join(luck(20) ? " ,\n\t" : ',', @texts) . '}';
    my $key = one(@{$self->{keys}});
    my $id = one(@{$self->{ids}});

    $text =~ s/"KEY"/"$key"/g;
    $text =~ s/"ID"/"$id"/g;
    $text =~ s/PASSWORD/$self->{password}/g;
    return $text;
}


sub limits {
    my ($wrong) = @_;

    return '[' . join(',', map {
        my %value = map { $_ => one(@{$limit{$_}}) }
                    grep { /name|unit|limit|window/ || luck(4) }
                    sort keys %limit;

        $value{name} = qq("l$_") if luck(2);
        $value{one(sort keys %limit)} = one(@odd) if $wrong && luck(2);

        '{' . join(',', map { qq("$_":$value{$_}) } sort keys %value) . '}'
    } 1 .. one(1, 1, 2, 3, 50, 51)) . ']';
}


sub rows {
    my ($body) = @_;

    my $n = one(1, 2, 5);

    return luck(3) ? join("\n", ($body) x $n) . "\n"
         : luck(3) ? "name,owner,hash,scopes\n" . "a,b,\"" . 'cd' x 32
                     . "\",x y\n" x $n . one('', '"', '"a""b",,,,,,', ',')
         : '[' . join(',', ($body) x $n) . ']';
}


# As every byte may stand in a query or path.

sub percent {
    my ($text) = @_;

    utf8::encode($text) if utf8::is_utf8($text);
    $text = substr $text, 0, 300;
    return $text =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ger;
}


sub text {
    my ($parts, %add) = @_;

    my $uri = $parts->{uri} // "/api/v1/$parts->{path}";

    $uri .= "?$parts->{query}" if length $parts->{query};

    my $body = $parts->{body};
    my @headers = ('Host: localhost', @{$parts->{headers}});

    if (defined $body && $parts->{chunked}) {
        push @headers, 'Transfer-Encoding: chunked';
        $body = Apikey::Generate::chunked($body);

    } elsif (defined $body) {
        push @headers, 'Content-Length: ' . length $body;
    }

    return { bytes => join("\r\n", "$parts->{method} $uri HTTP/1.1", @headers,
                           '', $body // ''),
             head => $parts->{method} eq 'HEAD', %add };
}


sub chunked {
    my ($body) = @_;

    my $size = one(1, 7, 100, 4096) + length($body) / 50;

    return join('', map { sprintf "%x\r\n%s\r\n", length, $_ }
                    unpack "(a$size)*", $body) . "0\r\n\r\n";
}


sub shape {
    my ($self) = @_;

    my $parts = $self->parts(!luck(3));

    $parts->{method} = 'HEAD' if $parts->{method} eq 'GET' && luck(20);
    $parts->{chunked} = 1 if luck(8);

    return text($parts, kind => 'shape');
}


# Bytes of a JSON body that stay ASCII or UTF-8: SQL has to read them.

sub json_bytes {
    my ($self) = @_;

    my $parts = $self->parts(0, \@bodies);

    $parts->{body} = mutate($parts->{body}, \@json);

    return text($parts, kind => 'json bytes');
}


# Bytes that are no text, or of no type that is taken: C refuses them.

sub text_bytes {
    my ($self) = @_;

    my $parts = $self->parts(0, \@bodies);

    if (luck(3)) {
        $parts->{headers} = [ grep { !/^Content-Type/ } @{$parts->{headers}} ];
        push @{$parts->{headers}}, 'Content-Type: '
            . one('text/plain', 'application/jsonx', 'x', 'application/',
                  'multipart/form-data; boundary=x', "a\xff", '');
    }

    $parts->{body} = mutate($parts->{body}, \@all) . one(@high);
    $parts->{chunked} = luck(3);

    return text($parts, kind => 'text bytes');
}


# Paths of which few lead anywhere.

sub path_bytes {
    my ($self) = @_;

    my $parts = { headers => [ $self->credential ] };
    my @segments = map { luck(3) ? one(@{$self->{ids}}) : one(@words) }
                   1 .. one(1 .. 6, 40);

    $parts->{uri} = '/api/v1/' . join one('/', '/', '//', '%2F'), @segments;
    $parts->{uri} = mutate($parts->{uri}, \@plain) if luck(2);
    $parts->{uri} =~ s{^(?!/api/v1/)}{/api/v1/};
    $parts->{uri} =~ s/#/%23/g;
    $parts->{uri} =~ tr/\0-\x20\x7f//d;
    $parts->{method} = one(@methods[0 .. 6]);
    $parts->{query} = join '', map { one(@plain) } 1 .. 20 if luck(3);

    # what nginx takes for another location is the upstream's
    $parts->{uri} =~ s/\.\./%2e/g;

    return text($parts, kind => 'path bytes', maybe($parts->{uri}));
}

# nginx itself refuses what is no URI, and closes.

sub maybe { return $_[0] =~ /%(?![0-9A-Fa-f]{2})|%00|%2e/i ? (last => 1) : () }


# Credentials and other headers that are none.

sub header_bytes {
    my ($self) = @_;

    my $parts = $self->parts(0);
    my $odd = join '', map { one(@plain) } 1 .. one(0, 1, 7, 8, 8, 51, 51);

    $odd x= one(1, 10, 70) if luck(20);

    $parts->{headers} = [
        one("Authorization: Bearer $odd", "X-API-Key: $odd",
            "Authorization: $odd", "X-API-Key: sk_$odd", "X-API-Key:",
            'Authorization: Bearer ' . mutate($self->{token}, \@ascii) . 'x',
            'X-API-Key: ' . one(@{$self->{keys}}) . 'x',
            "X-API-Key: $odd\r\nX-API-Key: $odd",
            "Authorization: Bearer $odd\r\nX-API-Key: $odd",
            "authorization: basic $odd"),
        luck(2) ? () : one("If-Match: $odd", "Accept: $odd", "Expect: $odd",
            "Sec-Fetch-Site: $odd", "Origin: $odd", "Cookie: $odd",
            "Idempotency-Key: $odd", "X-Forwarded-For: $odd",
            "Content-Encoding: $odd", 'A: ' . 'b' x 7000),
        defined $parts->{body} ? 'Content-Type: application/json' : () ];

    return text($parts, kind => 'header bytes');
}


# What is no HTTP; nothing can stand behind it.

sub http_bytes {
    my ($self) = @_;

    # nginx logs what is no header: only what its log may tell

    local @{$self}{qw(token password keys)} = ($self->{other}, 'x', [ 'x' ]);

    my $parts = $self->parts(0);
    my $way = int rand 7;

    $parts->{chunked} = 1 if $way < 3;
    $parts->{method} = one(@methods) if $way == 3;

    my $r = text($parts, kind => 'http bytes', last => 1, cut => 1);
    my $end = 4 + index $r->{bytes}, "\r\n\r\n";

    if ($way < 2) {
        substr $r->{bytes}, $end, length($r->{bytes}) - $end,
            mutate(substr($r->{bytes}, $end), \@chunk);

    } elsif ($way == 4) {
        $r->{bytes} =~ s/Content-Length: (\d+)/'Content-Length: ' . one($1 + 5,
            $1 >> 1, '-1', '1e3', 2 ** 21, '9' x 20, '', "$1, $1")/e;

    } else {
        substr $r->{bytes}, 0, $end, mutate(substr($r->{bytes}, 0, $end),
                                            \@head);
    }

    return $r;
}


# Some bytes are replaced, inserted, doubled, swapped or cut off.

sub mutate {
    my ($text, $bytes) = @_;

    utf8::encode($text) if utf8::is_utf8($text);

    for (1 .. one(1, 1, 2, 3, 8)) {
        my $length = length $text or return $text;
        my ($at, $way) = (int rand $length, int rand 6);
        my $n = 1 + int rand one(1, 4, 40);

        if    ($way == 0) { substr $text, $at, 1, one(@$bytes) }
        elsif ($way == 1) { substr $text, $at, 0, join '',
                            map { one(@$bytes) } 1 .. $n }
        elsif ($way == 2) { substr $text, $at, $n, '' }
        elsif ($way == 3) { substr $text, $at, 0, substr $text, rand $length,
                                                         $n }
        elsif ($way == 4) { $text = substr $text, 0, $at if luck(4) }
        else              { substr $text, $at, 1,
                            chr(ord(substr $text, $at, 1) ^ 1 << rand 7) }
    }

    return $text;
}


1;
