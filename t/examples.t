# examples/ai-api.conf as it stands but for its paths and ports, with answers
# as OpenAI gives them, and examples/test-api-usage-tracking.sh.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Apikey::Http;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $up = $t->upstream;

$t->redis;


sub slurp {
    my ($name) = @_;

    open my $f, '<', $name or die "$name: $!\n";
    local $/;
    return <$f>;
}


# Each of these stands in it once.

my $conf = slurp('examples/ai-api.conf');

for my $change (
    [ 'load_module modules/ngx_http_apikey_module.so;', '%%GLOBALS%%' ],
    [ "http {\n", "http {\n%%GLOBALS_HTTP%%\n" ],
    [ 'host=/run/postgresql dbname=apikey user=apikey_gateway', '%%PG%%' ],
    [ 'redis://127.0.0.1:6379;', '%%REDIS%%;' ],
    [ '/var/lib/nginx/apikey;', '%%DIR%%/journal ring=%%RING%% drain=1s;' ],
    [ '/etc/nginx/apikey.tokens;', '%%DIR%%/tokens;' ],
    [ '127.0.0.1:8080;', '%%UPSTREAM%%;' ],
    [ 'listen       80;', 'listen 127.0.0.1:%%PORT%%;' ],
    [ '/var/log/nginx/apikey/', '%%DIR%%/reports/' ])
{
    my ($from, $to) = @$change;

    is(scalar(() = $conf =~ /\Q$from\E/g), 1, "$from stands there once");
    $conf =~ s/\Q$from\E/$to/;
}

my ($format) = slurp('README.md') =~ /^(log_format apikey .*?;)$/ms;
is($format =~ s/^ +//mgr, ($conf =~ /(log_format apikey .*?;)$/ms)[0]
   =~ s/^ +//mgr, 'its log_format is README\'s');

my $n = $t->nginx(name => 'ai', conf => $conf);

# nginx looks for its root before it opens a log whose name has a variable

mkdir $n->dir . '/html' or die "html: $!\n";
$n->start;


# the prices, and a key

my $price = $n->admin('POST', 'prices', body => { model => 'gpt-5.4*',
    input_per_1m => '2.50', output_per_1m => '15.00',
    cached_per_1m => '0.25' });

is($price->{status}, 201, 'the price that it shows is made');
is($n->admin('PUT', 'models/gpt-5.4', body => { name => 'GPT-5.4' })
   ->{status}, 201, 'models/NAME is the admin API\'s');

my $made = $t->key(owner => 'ada', allowed_models => [ 'gpt-5.4' ],
    limits => [ { name => 'budget', unit => 'cost', limit => '5.00',
                  window => 'month' } ]);
my $key = $made->{key};

$t->sync;


# answers

my $usage = '"usage":{"prompt_tokens":6074,"completion_tokens":285,'
    . '"total_tokens":6359,"prompt_tokens_details":{"cached_tokens":3456,'
    . '"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":64,'
    . '"audio_tokens":0,"accepted_prediction_tokens":0,'
    . '"rejected_prediction_tokens":0}}';
my $id = '"id":"chatcmpl-CzX","created":1795000000,"model":"gpt-5.4-2026"';
my $whole = qq({$id,"object":"chat.completion","choices":[{"index":0,)
    . '"message":{"role":"assistant","content":"\"usage\": {\"prompt_tokens\"'
    . ': 1} is no usage","refusal":null,"annotations":[]},"logprobs":null,'
    . qq("finish_reason":"stop"}],$usage,"service_tier":"default"}\n);
my $chunk = qq({$id,"object":"chat.completion.chunk");
my $stream = join '', map { "data: $_\n\n" }
    (map { qq($chunk,"choices":[{"index":0,"delta":{"content":"word $_ "},)
           . '"finish_reason":null}],"usage":null}' } 1 .. 50),
    qq($chunk,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],)
    . '"usage":null}', qq($chunk,"choices":[],$usage}), '[DONE]';


sub generate {
    my ($model, $says, $type, $body, $piece) = @_;

    my $file = $n->dir . '/says';
    open my $f, '>:raw', $file or die "$file: $!\n";
    print $f $says;
    close $f;

    return $n->request('POST', "/api/v1/models/$model/generate?/say/$piece/0",
        key => $key, body => JSON::PP::encode_json($body), headers => [
            'Content-Type' => 'application/json', 'X-Say' => $file,
            'X-Say-Type' => $type, 'X-Conversation-Id' => 'c-1' ]);
}


sub record {
    my ($r) = @_;

    my $said;

    wait_for('its record', sub {
        $said = $n->admin('GET', "requests/$r->{headers}{'x-request-id'}");
        return $said->{status} == 200;
    });

    return json($said);
}


# 2618 x 2.50 + 3456 x 0.25 + 285 x 15, by a million: 0.011684

my %want = (model => 'gpt-5.4', service => 'models', owner => 'ada',
    endpoint => '/api/v1/models/{model}/generate', session => 'c-1',
    tokens => 6359, cost => '0.011684', usage_source => 'provider');

for ([ 'JSON', $whole, 'application/json', {}, 0 ],
     [ 'JSON in pieces', $whole, 'application/json', {}, 7 ],
     [ 'SSE', $stream, 'text/event-stream', { stream => JSON::PP::true }, 0 ],
     [ 'SSE in pieces', $stream, 'text/event-stream',
       { stream => JSON::PP::true }, 13 ])
{
    my ($name, $says, $type, $more, $piece) = @$_;
    my $r = generate('gpt-5.4', $says, $type, { model => 'gpt-9',
        max_tokens => 1000, messages => [ { role => 'user', content => 'x' } ],
        %$more }, $piece);

    is($r->{status}, 200, "$name: passes");
    is($r->{body}, $says, 'as it came');

    my $record = record($r);
    is_deeply({ map { $_ => $record->{$_} } keys %want }, \%want,
              'what it used, to the nano-unit');
}

is($pg->value("SELECT string_agg(DISTINCT cost::text, ' ')
               FROM apikey.usage_event"), '11684000', 'all four the same');
is($pg->value('SELECT cost FROM apikey.usage_daily'), '0.046736000',
   'and their sum');
is(($up->requests)[-1]{uri}, '/api/v1/models/gpt-5.4/generate?/say/13/0',
   'the upstream sees the path');

my $sum = json($n->admin('GET', "api-keys/$made->{id}/usage"));
is($sum->{all_time}{cost}, '0.046736', 'the usage page says it');

is(generate('gpt-9', $whole, 'application/json', { model => 'gpt-5.4' }, 0)
   ->{status}, 403, 'the path decides which model it is');
is($n->request('POST', '/api/v1/models/gpt-5.4/generate', body => '{}')
   ->{status}, 401, 'no key');
is($n->get('/api/v1/models/gpt-5.4', key => $key)->{status}, 200,
   'a key reads about models');


# one line a request

my ($log) = glob $n->dir . '/reports/*.jsonl';
my @lines;

wait_for('the log', sub {
    @lines = grep { $_->{uri} =~ /generate$/ }
             map { JSON::PP::decode_json($_) } split /\n/, slurp($log);
    return @lines == 6;
});
is_deeply([ map { $_->{cost} } @lines ], [ ('0.011684') x 4, '', '' ],
          'each line is JSON, with its cost');
is_deeply([ map { $_->{verdict} } @lines[3 .. 5] ],
          [ qw(ok model_denied missing_key) ], 'and its verdict');


# the script

{
    my $url = 'http://127.0.0.1:' . $n->port;
    local %ENV = (%ENV, TOKEN => $t->token, API => "$url/api/v1",
                  URL => "$url/api/v1/models/gpt-5.4/generate",
                  DATA => '{"model": "gpt-5.4"}', REQUESTS => 3);
    my $said = `examples/test-api-usage-tracking.sh 2>&1`;

    is($?, 0, 'test-api-usage-tracking.sh') or diag($said);
    like($said, qr/^   usage_count 3, last_used_at 20/m, 'shows the count');
    like($said, qr/^\s+"total_usage": 3,$/m, 'analytics');
    like($said, qr/^7\. By hand$/m, 'what to do by hand');
    like($said, qr/^All 3 requests were counted\.$/m, 'and that all is well');

    my ($used) = $said =~ m{WHERE key = '([0-9a-f-]{36})'};
    is($pg->value("SELECT sum(requests) FROM apikey.usage_hourly
                   WHERE key = '$used'"), 3, 'the query that it prints');
    is($pg->value("SELECT revoked_at IS NULL FROM apikey.key
                   WHERE id = '$used'"), 'f', 'its key is revoked');

    local $ENV{TOKEN} = 'nobody';
    $said = `examples/test-api-usage-tracking.sh 2>&1`;
    is($? >> 8, 1, 'a wrong token');
    like($said, qr/invalid_credential/, 'is said');
}

$t->done;
