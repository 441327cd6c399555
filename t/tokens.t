# Tokens out of answers as they pass, and models out of requests: what the
# record says, and that no byte is changed for it.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Apikey::Http;
use Apikey::Http2;
use Apikey::Test qw(wait_for json);

my $t = Apikey::Test->new;

my $pg = $t->postgres;
my $up = $t->upstream;
my $key = $t->key(owner => 'ada');
my $held = $t->key(limits => [ { name => 'none', unit => 'requests',
    limit => 0, window => '1h', model => 'gpt-*' } ]);
my $picky = $t->key(allowed_models => [ 'gpt-4o*', 'claude-*' ]);

my $n = $t->nginx(workers => 1, http => <<'EOT', server => <<'EOS')->start;
    log_format tokens escape=json '$apikey_request_id $apikey_tokens_input'
        ' $apikey_tokens_output';
EOT
        listen 127.0.0.1:%%PORT_h2%% http2;
        access_log %%DIR%%/tokens.log tokens;
        proxy_http_version 1.1;
        apikey required;
        apikey_request openai;
        apikey_usage openai;

        proxy_set_header X-Model $apikey_request_model;
        proxy_set_header X-Max $apikey_request_max_tokens;
        proxy_set_header X-Stream $apikey_request_stream;

        location / {
            proxy_pass http://%%UPSTREAM%%;
        }

        location /unbuffered/ {
            proxy_buffering off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /disk/ {
            sendfile on;
            proxy_buffers 2 4k;
            proxy_buffer_size 4k;
            proxy_busy_buffers_size 4k;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /gzip/ {
            gzip on;
            gzip_min_length 1;
            gzip_types application/json text/event-stream;
            gzip_proxied any;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /small/ {
            apikey_request openai max=200;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /file/ {
            client_body_buffer_size 16;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /require/ {
            apikey_usage openai stream=require;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /require/dry/ {
            apikey_dry_run on;
            apikey_usage openai stream=require;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /require/optional/ {
            apikey optional;
            apikey_usage openai stream=require;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /add/ {
            apikey_usage openai stream=add;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /add/file/ {
            client_body_buffer_size 16;
            apikey_usage openai stream=add;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /anthropic/ {
            apikey_request anthropic;
            apikey_usage anthropic;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /plain/ {
            apikey_request off;
            apikey_usage off;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /optional/ {
            apikey optional;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /named/ {
            apikey_model $arg_model;
            proxy_pass http://%%UPSTREAM%%;
        }

        location /redirect/ {
            apikey_request off;
            rewrite ^/redirect/(.*) /$1;
        }
EOS

$t->sync;

my $files = 0;


sub file {
    my ($text) = @_;

    my $name = $n->dir . '/said.' . $files++;

    open my $f, '>:raw', $name or die "$name: $!\n";
    print $f $text;
    close $f or die "$name: $!\n";

    return $name;
}


sub record {
    my ($id, $columns) = @_;

    my @row;

    wait_for("the record of $id", sub {
        my ($row) = $pg->rows('SELECT ' . ($columns // 'tokens_input,'
            . ' tokens_output, tokens_cached, tokens_reasoning, usage_source')
            . " FROM apikey.usage_event WHERE event = '$id'");
        @row = @{$row // []};
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @row;
}


# POSTs JSON and gets text back; returns the answer.

sub ask {
    my ($path, $body, $type, $text, %opt) = @_;

    my $as = $opt{as} // $key;

    return $n->request('POST', $path, key => $as->{key}, body => $body,
        headers => [ 'Content-Type' => 'application/json',
                     'X-Say' => file($text), 'X-Say-Type' => $type,
                     @{$opt{headers} // []} ]);
}


# Of refusals a node keeps ten details a second: asks until there is one.

sub detail {
    my ($path, $columns, %opt) = @_;

    my ($r, @row);

    wait_for("a detail of $path", sub {
        $r = ask($path, '{"model":"gpt-4o-mini","messages":[],"stream":true}',
                 'text/event-stream', 'data: x', %opt);
        eval {
            wait_for('it', sub {
                @row = $pg->rows("SELECT $columns FROM apikey.usage_event
                    WHERE event = '$r->{headers}{'x-request-id'}'
                        AND verdict = 'invalid_request'");
                return scalar @row;
            }, 2);
        };
        return scalar @row;
    });

    return join ' ', map { $_ // 'null' } @{$row[0]};
}


my $chat = '{"id":"c","choices":[{"message":{"role":"assistant","content":'
    . '"\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":6074,'
    . '"completion_tokens":285,"total_tokens":6359,"prompt_tokens_details":'
    . '{"cached_tokens":3456},"completion_tokens_details":'
    . '{"reasoning_tokens":64}}}';

my $stream = join '', map { "data: $_\n\n" }
    map({ qq({"id":"c","choices":[{"delta":{"content":"word $_"}}],)
          . '"usage":null}' } 1 .. 30),
    '{"choices":[],"usage":{"prompt_tokens":17,"completion_tokens":30,'
    . '"total_tokens":47}}', '[DONE]';

my $claude = join '', map { "event: $_->[0]\ndata: $_->[1]\n\n" }
    [ 'message_start', '{"type":"message_start","message":{"usage":'
      . '{"input_tokens":25,"cache_read_input_tokens":10,"output_tokens":1}}}' ],
    map({ [ 'content_block_delta', '{"type":"content_block_delta","delta":'
            . '{"type":"text_delta","text":"Hello there, you"}}' ] } 1 .. 10),
    [ 'message_delta', '{"type":"message_delta","usage":{"output_tokens":15}}' ],
    [ 'message_stop', '{"type":"message_stop"}' ];

my $body = '{"model":"gpt-4o-mini","messages":[],"max_tokens":100}';
my $silent = '{"model":"gpt-4o-mini","messages":[],"stream":true}';
my $asks = '{"model":"gpt-4o-mini","messages":[],"stream":true,'
         . '"stream_options":{"include_usage":true}}';


sub passes {
    my ($path, $type, $text, $want, $name, %opt) = @_;

    my $r = ask($path, $body, $type, $text, %opt);

    is($r->{status}, 200, "$name: passes");
    ok($r->{body} eq $text, "$name: not a byte is changed");
    is(record($r->{headers}{'x-request-id'}), $want, $name);
}


subtest 'JSON' => sub {
    passes("/say/$_/0", 'application/json', $chat, '6074 285 3456 64 provider',
           "in pieces of $_ bytes") for 0, 1, 7, 100;
    passes("$_/say/9/0", 'application/json; charset=utf-8', $chat,
           '6074 285 3456 64 provider', $_) for qw(/unbuffered /disk);
    passes('/say/0/0', 'application/vnd.api+json', $chat,
           '6074 285 3456 64 provider', 'another JSON');
    passes('/say/0/0', 'text/plain', $chat, '27 100 0 0 estimate',
           'no JSON: costs its reserve');
    passes('/say/0/0', 'application/json',
           '{"usage":{"prompt_tokens":0,"completion_tokens":0}}',
           '0 0 0 0 provider', 'explicit zeros');
    passes('/say/0/0', 'application/json', '{"usage":{"prompt_tokens":-5,'
           . '"completion_tokens":2},"text":"' . 'word ' x 20 . '"}',
           int(length($body) / 4) . ' 40 0 0 estimate', 'nonsense is no usage');
    passes('/say/0/0', 'application/json', '{"usage":{"prompt_tokens":5,'
           . '"completion_tokens":2,"prompt_tokens_details":'
           . '{"cached_tokens":6}}}', '5 2 5 0 estimate', 'nor all of it');
    passes('/say/0/0', 'application/json',
           '{"usage":{"completion_tokens":2}}',
           int(length($body) / 4) . ' 2 0 0 estimate', 'no input is not 0');
    like($n->log_text, qr/apikey_usage: the usage in an answer of the /,
         'what makes no sense is logged');
    passes('/say/0/0', $_, '', int(length($body) / 4) . ' 0 0 0 estimate',
           "nothing at all as $_") for 'application/json', 'text/event-stream';
    passes('/disk/say/0/0', 'application/json',
           '{"x":"' . 'y' x 300_000 . "\",\"usage\":{\"prompt_tokens\":5}}",
           '5 0 0 0 provider', 'by way of the disk');
    passes('/plain/say/0/0', 'application/json', $chat, '0 0 0 0 none',
           'off');
    passes('/redirect/say/0/0', 'application/json', $chat,
           '6074 285 3456 64 provider', 'behind an internal redirect');
    passes('/optional/say/0/0', 'application/json', $chat,
           '6074 285 3456 64 provider', 'anonymous', as => {});
    passes('/anthropic/say/0/0', 'application/json',
           '{"usage":{"input_tokens":20,"cache_creation_input_tokens":3,'
           . '"cache_read_input_tokens":7,"output_tokens":9}}',
           '30 9 7 0 provider', 'Anthropic');

    my $r = ask('/status/204', $body, 'text/plain', '');
    is(record($r->{headers}{'x-request-id'}),
       int(length($body) / 4) . ' 0 0 0 estimate', 'no content');

    $r = ask('/status/400/say/0/0', $body, 'application/json',
                '{"error":{"message":"no"}}');
    is(record($r->{headers}{'x-request-id'}), '0 0 0 0 none', 'an error');
};


subtest 'streams' => sub {
    for my $piece (0, 1, 3, 50, 4096) {
        passes("/say/$piece/0", 'text/event-stream', $stream,
               '17 30 0 0 provider', "in pieces of $piece bytes");
        passes("/unbuffered/say/$piece/0", 'text/event-stream',
               $stream =~ s/\n/\r\n/gr, '17 30 0 0 provider',
               "CRLF in pieces of $piece bytes");
        passes("/anthropic/say/$piece/0", 'text/event-stream', $claude,
               '35 15 10 0 provider', "Anthropic in pieces of $piece bytes");
    }

    passes('/say/0/0', 'text/event-stream', $stream =~ s/\n/\r/gr,
           '17 30 0 0 provider', 'lines that end with CR');
};


subtest 'HTTP/2' => sub {
    my $file = file($stream);

    my $c = $n->h2;
    my $r = $c->request('POST', '/say/5/0', key => $key->{key},
        headers => [ 'x-say' => $file, 'x-say-type' => 'text/event-stream' ],
        body => $body);

    is($r->{status}, 200, 'it passes');
    ok($r->{body} eq $stream, 'not a byte is changed');
    is(record($r->{headers}{'x-request-id'},
              'tokens_input, tokens_output, model'), '17 30 gpt-4o-mini',
       'read in both directions');
    $c->close;
};


subtest 'compression' => sub {
    my $r = ask('/gzip/say/0/0', $body, 'application/json', $chat,
                headers => [ 'Accept-Encoding' => 'gzip, br' ]);

    is($r->{headers}{'content-encoding'}, 'gzip', 'the client gets gzip');
    is((($up->requests)[-1])->{headers}{'accept-encoding'}, 'identity',
       'the upstream is asked for none');
    is(record($r->{headers}{'x-request-id'}), '6074 285 3456 64 provider',
       'its answer is read');

    $r = ask('/say/0/0/set/Content-Encoding/br', $body, 'application/json',
             'no JSON');
    is(record($r->{headers}{'x-request-id'}), '27 100 0 0 estimate',
       'one that compresses all the same: the reserve');
    like($n->log_text, qr/apikey_usage: the upstream sends "Content-Encoding/,
         'it is logged');
};


subtest 'what is asked for' => sub {
    my $seen = sub {
        my ($path, $body, %opt) = @_;

        my $r = $n->request('POST', $path, key => $key->{key}, body => $body,
                            %opt);
        my $h = json($r)->{headers};

        return join ' ', map { $h->{$_} // '-' } qw(x-model x-max x-stream);
    };

    is($seen->('/echo', $body), 'gpt-4o-mini 100 0', 'model and max_tokens');
    is($seen->('/echo', $asks), 'gpt-4o-mini - 1', 'a stream');
    is($seen->('/file/echo', $body), 'gpt-4o-mini 100 0', 'out of a file');
    is($seen->('/echo', $body, chunked => 7), 'gpt-4o-mini 100 0', 'in chunks');
    is($seen->('/echo', '{"model":"m\u0061n\/x","max_completion_tokens":7,'
               . '"max_tokens":5}'), 'man/x 7 0', 'escapes, two maxima');
    is($seen->('/echo', 'no JSON'), '- - -', 'no JSON');
    is($seen->('/echo', '{"model":"gpt-4o"'), '- - -', 'half of it');
    is($seen->('/echo', ''), '- - -', 'nothing');
    is($seen->('/anthropic/echo', '{"model":"claude-x","max_tokens":9,'
               . '"stream":true}'), 'claude-x 9 1', 'Anthropic');
    is($seen->('/small/echo', $body), 'gpt-4o-mini 100 0', 'within max');
    is($seen->('/small/echo', '{"x":"' . 'y' x 200 . '",' . substr($body, 1)),
       '- - -', 'beyond it');
    is($seen->('/small/echo', '{"x":"' . 'y' x 200 . '",' . substr($body, 1),
               chunked => 50), '- - -', 'and in chunks');
    is($seen->('/plain/echo', $body), '- - -', 'off');

    my $long = '{"x":"' . 'y' x 900_000 . '",' . substr($body, 1);
    my $r = $n->request('POST', '/echo', key => $key->{key}, body => $long);

    is(json($r)->{headers}{'x-model'}, 'gpt-4o-mini', '900 KB');
    ok(json($r)->{body} eq $long, 'and they arrive');

    $r = $n->request('POST', '/', key => $key->{key}, body => $body);
    is(record($r->{headers}{'x-request-id'}, 'model'), 'gpt-4o-mini',
       'its record has the model');

    $r = $n->request('POST', '/named/?model=other', key => $key->{key},
                     body => $body);
    is(record($r->{headers}{'x-request-id'}, 'model'), 'other',
       'apikey_model says another one');
};


subtest 'models of a key' => sub {
    my $status = sub {
        my ($body, $path) = @_;

        my $r = $n->request('POST', $path // '/', key => $picky->{key},
                            body => $body);
        return $r->{status} == 403 ? json($r)->{code} : $r->{status};
    };

    is($status->($body), 200, 'one of them');
    is($status->('{"model":"o1"}'), 'model_denied', 'another one');
    is($status->('{"model":"gpt-4o","model":"o1"}'), 'model_denied',
       'the last one counts');
    is($status->('{}'), 'model_denied', 'none');
    is($status->('model=gpt-4o'), 'model_denied', 'no JSON');
    is($status->(''), 'model_denied', 'nothing');
    is($status->('{"x":"' . 'y' x 300 . '",' . substr($body, 1), '/small/'),
       'model_denied', 'too long to be looked into');
    is($status->('{"model":"o1"}', '/plain/'), 200, 'off: there are none');
    is($status->('{"model":"o1"}', '/redirect/'), 'model_denied',
       'behind an internal redirect');
};


subtest 'limits of a model' => sub {
    my $status = sub {
        my ($method, $path, $body) = @_;

        return $n->request($method, $path, key => $held->{key},
                           body => $body)->{status};
    };

    is($status->('POST', '/', '{"model":"o1"}'), 200, 'another model');
    is($status->('POST', '/', '{"model":"gpt-4o"}'), 429, 'that model');
    is($status->('POST', '/', '{"model":"gpt-4o"'), 429, 'half a body');
    is($status->('POST', '/small/', '{"x":"' . 'y' x 300 . '","model":"o1"}'),
       429, 'one that is too long to be looked into');
    is($status->('GET', '/', undef), 200, 'nothing asked for');
    is($status->('POST', '/plain/', '{"model":"gpt-4o"}'), 200,
       'where there are no models');
};


subtest 'who does not say what it was' => sub {
    my $said = join '', map { "data: $_\n\n" }
        map { qq({"id":"c","choices":[{"delta":{"content":"word"}}]}) } 1 .. 40;

    passes('/say/0/0', 'text/event-stream', $said,
           int(length($body) / 4) . ' 40 0 0 estimate', 'a stream is estimated');

    my $r = ask('/require/say/0/0', $silent, 'text/event-stream', $said);
    is($r->{status}, 400, 'stream=require refuses one that does not ask');
    is(json($r)->{errors}[0]{location}, '/stream_options/include_usage',
       'and says what is missing');
    is(json($r)->{request_id}, $r->{headers}{'x-request-id'},
       'with the id of the request');
    is(detail('/require/say/0/0', 'status_code, outcome, model, key_id'),
       "400 refused gpt-4o-mini $key->{id}", 'and has a record');

    $r = ask('/require/dry/say/0/0', $silent, 'text/event-stream', $said);
    is($r->{status}, 200, 'a dry run lets it pass');
    is(record($r->{headers}{'x-request-id'}, 'verdict, outcome'),
       'invalid_request success', 'and says so');
    $r = ask('/require/say/0/0', $silent, 'text/event-stream', $said,
             as => { key => undef });
    is(json($r)->{code}, 'missing_key', 'without a key that comes first');
    is(detail('/require/optional/say/0/0', 'status_code, key_id',
              as => { key => undef }), '400 null', 'an anonymous one, too');
    is(ask('/require/say/0/0', $_, 'text/event-stream', $stream)->{status},
       200, 'not others') for $asks, $body;

    for my $path ('/add/echo', '/add/file/echo') {
        my $r = $n->request('POST', $path, key => $key->{key},
                            body => $silent);
        my $got = json($r);

        is($got->{body}, '{"stream_options":{"include_usage":true},'
           . substr($silent, 1), "$path: stream=add asks");
        is($got->{headers}{'content-length'}, length $got->{body},
           "$path: of that length");

        $r = $n->request('POST', $path, key => $key->{key}, chunked => 9,
            body => $asks =~ s/true\}/false}/r);
        is(json($r)->{body}, $asks, "$path: in place of a no");

        $r = $n->request('POST', $path, key => $key->{key}, body => $asks);
        is(json($r)->{body}, $asks, "$path: nothing where it is asked for");
    }
};


subtest 'who leaves' => sub {
    for ([ '/say/200/20/on', $stream, qr/word 20/,
           qr/^13 \d\d 0 0 estimate client$/ ],
         [ '/anthropic/say/200/20/on', $claude =~ s/event: message_delta.*//sr,
           qr/(?:there.*){10}/s, qr/^35 \d\d 10 0 estimate client$/ ],
         [ '/say/0/0/on', $stream, qr/DONE/, qr/^17 30 0 0 provider client$/ ])
    {
        my ($path, $text, $until, $want) = @$_;

        my $c = $n->conn;
        my $hits = $up->hits;

        $c->send(Apikey::Http::build('POST', $path, key => $key->{key},
            body => $body, headers => [ 'X-Say' => file($text),
                                        'X-Say-Type' => 'text/event-stream' ]));
        $c->need('a part', sub { $c->{buffer} =~ $until }, time + 10);
        $c->close;

        like(record(($up->ids)[-1], 'tokens_input, tokens_output,'
                    . ' tokens_cached, tokens_reasoning, usage_source,'
                    . ' aborted'), $want, "$path: pays for what it saw");
    }
};


subtest 'in the access log' => sub {
    my $r = ask('/say/0/0', $body, 'application/json', $chat);
    my $id = $r->{headers}{'x-request-id'};

    wait_for('its line', sub {
        $n->log_text('tokens.log') =~ /^$id 6074 285$/m;
    });

    pass('as the record has it');
};

$t->done;
