# Changes on two nodes under load: what was revoked or edited is judged by its
# new state, at once where it was answered, and no request in flight brings
# the old one back.  Each change is written, logged and told once.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time sleep);
use Apikey::Http;
use Apikey::Process qw(spawn);
use Apikey::Test qw(wait_for json json_encode);

my $t = Apikey::Test->new;
my $pg = $t->postgres;
my $up = $t->upstream;

# Postgres is stopped at the end
$t->allow(qr/Postgres/);

my $server = <<'EOT';
        location / {
            apikey required;
            proxy_set_header X-Key $apikey_id;
            proxy_pass http://%%UPSTREAM%%;
        }
EOT

# a short poll: the change log is being read all the time
my %base = (redis => undef, postgres => 'apikey_postgres "%%PG%%" poll=20ms;');

my ($a, $b) = map {
    $t->nginx(name => $_, workers => 2, server => $server, base => \%base)
      ->start
} 'a', 'b';

my @hourly = ({ name => 'hourly', unit => 'requests', limit => 1000000,
                window => '1h' });


# A request of the admin API, for parallel().

sub call {
    my ($node, $method, $path, $body) = @_;

    return { port => $node->port, method => $method, uri => "/api/v1/$path",
             headers => [ Authorization => 'Bearer ' . $t->token,
                          $body ? ('Content-Type' => 'application/json')
                                : () ],
             $body ? (body => json_encode($body)) : () };
}

sub create {
    my ($node, %body) = @_;

    return json($node->admin('POST', 'api-keys',
                             body => { name => 'k', %body }));
}


# What a transaction wrote: "table inserted updated", and the notices.

sub written {
    my ($sql) = @_;

    my $text = $pg->value("LISTEN apikey; BEGIN; DO \$do\$ BEGIN $sql END
        \$do\$; SELECT string_agg(concat_ws(' ', relname, n_tup_ins,
            n_tup_upd), ', ' ORDER BY relname)
        FROM pg_stat_xact_user_tables
        WHERE schemaname = 'apikey' AND relname IN ('key', 'owner', 'change')
            AND n_tup_ins + n_tup_upd > 0; COMMIT") // '';

    my $notices = () = $text =~ /Asynchronous notification/g;

    return ($text =~ s/\n.*//sr) . ", $notices told";
}

sub api {
    my ($fn, %req) = @_;

    my $req = json_encode({ request_id => Apikey::Test::uuid(), query => {},
        base => '/', key_prefix => 'sk', content_type => 'application/json',
        %req, body => json_encode($req{body}) });

    return "PERFORM * FROM apikey.api('$fn', '"
           . json_encode({ kind => 'operator', name => 'x', role => 'admin' })
           . "', '$req');";
}


subtest 'a change is written once' => sub {
    my %secret = (id => Apikey::Test::uuid(), digest => 'ab' x 32,
                  start => 'sk_aaaa', last4 => 'zzzz');
    my @limits = map { { %{$hourly[0]}, name => "l$_" } } 1 .. 3;

    is(written(api('key_create', secret => \%secret, body => {
            name => 'once', owner => 'new', limits => \@limits })),
       'change 2 0, key 1 0, owner 1 0, 2 told', 'a key with three limits');

    my $id = $pg->value("SELECT id FROM apikey.key WHERE name = 'once'");

    is(written(api('key_update', path => { id => $id }, body => {
            enabled => JSON::PP::false, limits => [ @limits[0, 1] ] })),
       'change 1 0, key 0 1, 1 told', 'an edit of the key and its limits');

    is(written("UPDATE apikey.secret SET last4 = 'yyyy' WHERE key_id = '$id';
                UPDATE apikey.limit_rule SET burst = burst + 1
                WHERE key_id = '$id';
                DELETE FROM apikey.limit_rule WHERE key_id = '$id';"),
       'change 1 0, key 0 1, 1 told', 'what belongs to it, alone');

    is(written("BEGIN
                    UPDATE apikey.key SET name = 'no' WHERE id = '$id';
                    RAISE 'undone';
                EXCEPTION WHEN raise_exception THEN
                    UPDATE apikey.key SET name = 'yes' WHERE id = '$id';
                END;"),
       'change 2 0, key 0 2, 1 told', 'again after what was undone');

    is($pg->value("SELECT count(*) FROM apikey.change WHERE id = '$id'"), 4,
       'a line for each');

    is(written("UPDATE apikey.secret SET last4 = '' WHERE false;"), ', 0 told',
       'nothing');
};


subtest 'versions rise' => sub {
    my $k = create($a);
    my $version = "SELECT version FROM apikey.key WHERE id = '$k->{id}'";
    my $before = $pg->value($version);

    # takes its number first and writes this row last

    my $late = spawn(name => 'late', log => $t->dir . '/late.log', code => sub {
        $pg->run("BEGIN; INSERT INTO apikey.owner (external) VALUES ('first');
            DO \$do\$ BEGIN
                WHILE (SELECT enabled FROM apikey.key WHERE id = '$k->{id}')
                LOOP
                    PERFORM pg_sleep(0.05);
                END LOOP; END \$do\$;
            UPDATE apikey.key SET name = 'late' WHERE id = '$k->{id}';
            COMMIT");
    });

    wait_for('its number', sub {
        $pg->value("SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep'");
    });

    my $between = $pg->value("UPDATE apikey.key SET enabled = false
        WHERE id = '$k->{id}' RETURNING version");

    wait_for('the late one', sub { !$late->alive });
    is($late->{status}, 0, 'committed');

    my ($row) = $pg->rows("SELECT version, name, (SELECT max(version)
        FROM apikey.change WHERE id = '$k->{id}') FROM apikey.key
        WHERE id = '$k->{id}'");

    cmp_ok($between, '>', $before, 'a change');
    cmp_ok($row->[0], '>', $between, 'and one that began before it');
    is($row->[1], 'late', 'is written');
    is($row->[2], $row->[0], 'is what the log says');
};


subtest 'thousands in one statement' => sub {
    my @keys = $t->keys(3000, name => 'many', limits => \@hourly);
    my $single = create($a);

    is(written("UPDATE apikey.limit_rule l SET burst = burst + 1 FROM
                apikey.key k WHERE k.id = l.key_id AND k.name LIKE 'many %';
                UPDATE apikey.key SET enabled = false
                WHERE name LIKE 'many %';"),
       'change 3000 0, key 0 6000, 3000 told', 'told once each');

    is($a->admin('DELETE', "api-keys/$single->{id}")->{status}, 204,
       'a single one');
    is($a->get('/', key => $single->{key})->{status}, 401, 'is not delayed');

    $t->sync;

    for my $node ($a, $b) {
        is($node->get('/', key => $_->{key})->{status}, 401, $node->name)
            for @keys[0, 700, 1500, 2999], $single;
    }
};


subtest 'parallel creates' => sub {
    my @nodes = ($a, $b);

    my @r = Apikey::Http::parallel(map {
        call($nodes[$_ % 2], 'POST', 'api-keys', {
            name => "parallel $_", owner => 'shared ' . int($_ / 10),
            limits => \@hourly })
    } 0 .. 999);

    my %status;
    $status{$_->{status}}++ for @r;
    is_deeply(\%status, { 201 => 1000 }, 'none fails');

    my (%id, %key, %owner);
    for my $k (map { json($_) } @r) {
        $id{$k->{id}}++;
        $key{$k->{key}}++;
        $owner{$k->{owner}}++;
    }

    is(keys %id, 1000, 'all ids are distinct');
    is(keys %key, 1000, 'all keys are');
    is(grep({ $_ == 10 } values %owner), 100, 'owners hold ten each');
    is($pg->value("SELECT count(*) FROM apikey.owner
                   WHERE external LIKE 'shared %'"), 100, 'and exist once');
    is($pg->value("SELECT count(*) FROM apikey.audit WHERE object_kind =
                   'owner' AND after ->> 'id' LIKE 'shared %'"), 100,
       'made once, says the audit');
};


# Clients that ask with all of these keys, all the time, on both nodes; what
# they saw is told by lines "node key sent done status".

sub traffic {
    my (@keys) = @_;

    my $dir = $t->dir;
    my @files = map { "$dir/seen.$_" } 0 .. 3;

    my @clients = map {
        my ($file, $node) = ($files[$_], $_ % 2 ? $b : $a);

        spawn(name => "client $_", log => "$dir/clients.log", code => sub {
            my $stop = 0;
            local $SIG{TERM} = sub { $stop = 1 };

            srand $$;
            open my $f, '>', $file or die "$file: $!\n";
            $f->autoflush;
            my $conn = $node->conn;

            until ($stop) {
                my $k = $keys[rand @keys];
                my $sent = sprintf '%.6f', time;
                my $r = $conn->request('GET', '/', key => $k->{key},
                                       headers => [ 'X-Sent' => $sent ]);

                printf $f "%s %s %s %.6f %d\n", $node->name, $k->{id}, $sent,
                       time, $r->{status};
                $conn = $node->conn
                    if ($r->{headers}{connection} // '') eq 'close';
                sleep 0.003;
            }
            close $f;
        });
    } 0 .. $#files;

    wait_for('traffic', sub { @files == grep { -s $_ } @files });

    return sub {
        my @size = map { -s } @files;

        wait_for('requests after all that', sub {
            !grep { -s $files[$_] < $size[$_] + 500 } 0 .. $#files;
        });

        $_->signal('TERM') for @clients;
        is($_->stop('TERM'), 0, 'a client ends') for @clients;

        return map {
            open my $f, '<', $_ or die "$_: $!\n";
            map { my %r; @r{qw(node id sent done status)} = split; \%r } <$f>;
        } @files;
    };
}


subtest 'under load' => sub {
    my @ways = (
        [ 'DELETE', '' ],
        [ 'PATCH', '', { enabled => JSON::PP::false } ],
        [ 'POST', '/rotate', {} ],
        [ 'PATCH', '', { allowed_ips => [] } ],
        [ 'PATCH', '', { limits => [ { %{$hourly[0]}, limit => 0 } ] } ]);

    my @keys = map { create($a, limits => \@hourly) } 1 .. 200;
    $t->sync;

    $up->forget;
    my $stop = traffic(@keys);
    my (%answered, $failed);
    $failed = 0;

    for my $i (0 .. $#keys) {
        my ($method, $path, @body) = @{$ways[$i % @ways]};
        my $r = $a->admin($method, "api-keys/$keys[$i]{id}$path",
                          map { (body => $_) } @body);

        $answered{$keys[$i]{id}} = time;
        $failed++ if $r->{status} !~ /^20[04]$/;
    }

    is($failed, 0, 'all answered');

    $t->sync;
    my $end = time;
    my @seen = $stop->();

    is(grep({ $_->{status} !~ /^(200|401|403|429)$/ } @seen), 0,
       scalar(@seen) . ' requests, all judged');

    # by what reached the upstream, and the clients' own clock

    my @late = grep { $_->{headers}{'x-sent'} > $end } $up->requests;
    is(@late, 0, 'nothing passes in the end');

    my @passed = grep { $_->{status} == 200 } @seen;

    is(grep({ $_->{node} eq 'a' && $_->{sent} > $answered{$_->{id}} } @passed),
       0, 'nor after the answer, where it was given');
    is($up->requests, @passed, 'the upstream saw what the clients did');

    my %refused;

    for my $s (grep { $_->{status} != 200 } @seen) {
        my $name = "$s->{node} $s->{id}";

        $refused{$name} = $s->{done}
            if !$refused{$name} || $s->{done} < $refused{$name};
    }

    is(grep({ ($refused{"$_->{node} $_->{id}"} // $_->{sent}) < $_->{sent} }
            @passed), 0, 'who was refused once is refused ever after');
};


# The plaintext of every secret ever made, by its id.

my %plain;

# What Postgres says of each: the status of a request with it.

sub expected {
    return map { @$_ } $pg->rows("SELECT s.id, CASE
            WHEN k.revoked_at IS NOT NULL OR s.ended_at IS NOT NULL
                OR NOT k.enabled OR o.enabled IS FALSE
                OR k.expires_at <= now() OR s.expires_at <= now() THEN 401
            WHEN k.allowed_ips = '{}' THEN 403
            WHEN EXISTS (SELECT FROM apikey.limit_rule l
                WHERE (l.key_id = k.id OR l.owner_id = o.id)
                    AND l.\"limit\" = 0) THEN 429
            ELSE 200 END
        FROM apikey.secret s JOIN apikey.key k ON k.id = s.key_id
            LEFT JOIN apikey.owner o ON o.id = k.owner_id");
}

sub judged {
    my ($node) = @_;

    my @ids = sort keys %plain;
    my %expected = expected();

    my @r = $node->parallel(map { { uri => '/', key => $plain{$_} } } @ids);
    my @wrong = grep { $r[$_]{status} != $expected{$ids[$_]} } 0 .. $#ids;
    my %status;

    $status{$_->{status}}++ for @r;

    is(@wrong, 0, $node->name . ' judges ' . @ids . ' secrets as Postgres')
        or diag(map { "$ids[$_]: $r[$_]{status}, not $expected{$ids[$_]}\n" }
                @wrong[0 .. ($#wrong > 9 ? 9 : $#wrong)]);
    is(join(' ', sort keys %status), '200 401 403 429', 'of every kind');
}


subtest 'a thousand mixed changes' => sub {
    my @keys = map { create($a, owner => 'mixed ' . $_ % 7,
                            limits => \@hourly) } 1 .. 60;

    my @body = (
        { enabled => JSON::PP::false }, { enabled => JSON::PP::true },
        { limits => [ { %{$hourly[0]}, limit => 0 } ] },
        { limits => \@hourly }, { limits => [] },
        { allowed_ips => [] }, { allowed_ips => undef },
        { expires_at => '2099-01-01T00:00:00Z' }, { expires_at => undef });

    $plain{$_->{secrets}[0]{id}} = $_->{key} for @keys;
    $t->sync;

    my $stop = traffic(@keys);
    my %status;

    for my $round (1 .. 20) {
        my @r = Apikey::Http::parallel(map {
            my $node = rand 2 < 1 ? $a : $b;
            my $way = rand 20;
            my $path = 'api-keys/' . $keys[rand @keys]{id};

            $way < 3 ? call($node, 'POST', "$path/rotate",
                            { grace => rand 2 < 1 ? '0s' : '1h' })
          : $way < 4 ? call($node, 'DELETE', $path)
          : $way < 7 ? call($node, 'POST', 'api-keys',
                            { name => 'new', owner => 'mixed ' . int rand 9 })
          : $way < 8 ? call($node, 'PATCH', 'owners/mixed%20' . int rand 7,
                            { enabled => $body[rand 2]{enabled} })
          : call($node, 'PATCH', $path, $body[rand @body])
        } 1 .. 50);

        for my $r (@r) {
            $status{$r->{status}}++;

            my $k = $r->{status} =~ /^20[01]$/ ? json($r) : {};
            $plain{$k->{secrets}[0]{id}} = $k->{key} if $k->{key};
        }
    }

    $stop->();

    is(join(' ', grep { !/^(200|201|204|409)$/ } keys %status), '',
       'all answered') or diag explain \%status;

    # all that the owners' switches hide; and chance may leave out a kind

    $pg->run('UPDATE apikey.owner SET enabled = true');

    for my $body ({}, @body[0, 2, 5]) {
        my $k = create($a);
        $plain{$k->{secrets}[0]{id}} = $k->{key};

        is($b->admin('PATCH', "api-keys/$k->{id}", body => $body)->{status},
           200, 'one more') if %$body;
    }

    $t->sync;
    judged($_) for $a, $b;
};


subtest 'started with Postgres down' => sub {
    my %expected = expected();

    $a->stop;
    $pg->stop;
    $a->start;

    my @ids = sort keys %plain;
    my @r = $a->parallel(map { { uri => '/', key => $plain{$_} } } @ids);

    is(grep({ $r[$_]{status} != $expected{$ids[$_]} } 0 .. $#ids), 0,
       'every key it had is judged as before');
    $pg->start;
};

$t->done;
