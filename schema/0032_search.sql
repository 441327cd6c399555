--
-- Finding keys among a million: what people search them by, their order by
-- use, and key_page(), the ids of one page of a list.
--
-- Under row-level security the gateway can use no index through an operator
-- that is not leakproof, and those of full text are not.  So key_page() runs
-- as the owner of the tables, asks caller() itself, and gives ids and sort
-- values only; the objects are read under the policies.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS key_item (
    id          uuid         PRIMARY KEY,
    owner_id    uuid,
    customer    text,
    name        text         NOT NULL,
    created_at  timestamptz  NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    enabled     boolean      NOT NULL,
    text        text         NOT NULL
) WITH (fillfactor = 90);

COMMENT ON TABLE key_item IS
    'What lists filter and sort keys by, and what they are found by; written'
    ' by triggers, read by key_page()';
COMMENT ON COLUMN key_item.text IS
    'Lines in lower case: name, customer, owner, masked secrets';

ALTER TABLE key_item ENABLE ROW LEVEL SECURITY;


-- The three characters that begin at each place, fewer at the end of a line:
-- a text that holds q holds q's, and one or two characters are the beginning
-- of some.  pg_trgm is another's to install, knows no two characters and, in
-- the locale C, no letter beyond ASCII.

CREATE OR REPLACE FUNCTION text_grams(lines text)
RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN array_to_tsvector(ARRAY(SELECT substr(line, i, 3)
        FROM string_to_table(lines, E'\n') AS line,
            generate_series(1, char_length(line)) AS i));
END
$$;

COMMENT ON FUNCTION text_grams(text) IS
    'All pieces of three characters, as the index of key_text has them';


CREATE OR REPLACE FUNCTION search_grams(q text)
RETURNS tsquery
LANGUAGE sql IMMUTABLE
RETURN (SELECT string_agg('''' || replace(replace(substr(q, i, 3),
            '\', '\\'), '''', '''''') || ''''
            || CASE WHEN char_length(q) < 3 THEN ':*' ELSE '' END, ' & ')
    FROM generate_series(1, least(greatest(char_length(q) - 2, 1), 30)) AS i)
    ::tsquery;

COMMENT ON FUNCTION search_grams(text) IS
    'What the pieces of a text must hold if the text holds q';


CREATE OR REPLACE VIEW key_item_now AS
SELECT k.id, k.owner_id, k.customer, k.name, k.created_at, k.expires_at,
    k.revoked_at, k.enabled,
    lower(concat_ws(E'\n', k.name, k.customer, o.external,
        (SELECT string_agg(concat(s.start, '...', s.last4), E'\n')
            FROM (SELECT * FROM secret x WHERE x.key_id = k.id
                  ORDER BY x.created_at DESC LIMIT 200) AS s))) AS text
FROM key k LEFT JOIN owner o ON o.id = k.owner_id;

COMMENT ON VIEW key_item_now IS 'key_item as it has to be';

REVOKE ALL ON key_item, key_item_now FROM PUBLIC, apikey_gateway,
    apikey_reader;


-- A row of key_item comes with the first secret, so that a new key is written
-- into the index of its text once.

CREATE OR REPLACE FUNCTION secret_item()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO key_item AS i
    SELECT n.* FROM key_item_now n WHERE n.id IN (SELECT key_id FROM fresh)
    ON CONFLICT (id) DO UPDATE SET text = excluded.text
    WHERE i.text <> excluded.text;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION secret_item() IS
    'Trigger: a key is found by its new secret';


CREATE OR REPLACE FUNCTION key_item()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
BEGIN
    UPDATE key_item i SET customer = n.customer, name = n.name,
        created_at = n.created_at, expires_at = n.expires_at, revoked_at = n.revoked_at,
        enabled = n.enabled, text = n.text
    FROM key_item_now n WHERE n.id = NEW.id AND i.id = NEW.id;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION key_item() IS
    'Trigger: lists know what a key has become';


CREATE OR REPLACE FUNCTION key_unused()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO key_usage (key_id, owner_id) SELECT id, owner_id FROM fresh
    ON CONFLICT DO NOTHING;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION key_unused() IS
    'Trigger: every key has its row of key_usage, so that lists can be sorted'
    ' by use';


CREATE OR REPLACE TRIGGER item
    AFTER INSERT ON secret REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION secret_item();

CREATE OR REPLACE TRIGGER item
    AFTER UPDATE OF name, customer, created_at, expires_at, revoked_at, enabled
    ON key
    FOR EACH ROW WHEN ((OLD.name, OLD.customer, OLD.created_at, OLD.expires_at,
            OLD.revoked_at, OLD.enabled)
        IS DISTINCT FROM (NEW.name, NEW.customer, NEW.created_at,
            NEW.expires_at, NEW.revoked_at, NEW.enabled))
    EXECUTE FUNCTION key_item();

CREATE OR REPLACE TRIGGER unused
    AFTER INSERT ON key REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION key_unused();

COMMENT ON TRIGGER item ON secret IS 'Writes key_item';
COMMENT ON TRIGGER item ON key IS 'Writes key_item';
COMMENT ON TRIGGER unused ON key IS 'Writes key_usage';


-- What stands already.

INSERT INTO key_usage AS u (key_id, owner_id)
SELECT k.id, k.owner_id
FROM key k LEFT JOIN key_usage x ON x.key_id = k.id
WHERE x.key_id IS NULL OR x.owner_id IS DISTINCT FROM k.owner_id
ON CONFLICT (key_id) DO UPDATE SET owner_id = excluded.owner_id;

INSERT INTO key_item
SELECT n.* FROM key_item_now n
WHERE NOT EXISTS (SELECT FROM key_item i WHERE i.id = n.id);


CREATE INDEX IF NOT EXISTS key_item_text
    ON key_item USING gin (text_grams(text))
    WITH (gin_pending_list_limit = 1024);

CREATE INDEX IF NOT EXISTS key_owner_name ON key (owner_id, name, id);
CREATE INDEX IF NOT EXISTS key_owner_expires
    ON key (owner_id, coalesce(expires_at, 'infinity'), id);
CREATE INDEX IF NOT EXISTS key_customer ON key (customer)
    WHERE customer IS NOT NULL;

-- the states: key_where() in 0009_key_list.sql has their conditions

CREATE INDEX IF NOT EXISTS key_kept ON key (created_at, id)
    WHERE revoked_at IS NULL;
CREATE INDEX IF NOT EXISTS key_revoked ON key (revoked_at)
    WHERE revoked_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS key_disabled ON key (id)
    WHERE revoked_at IS NULL AND NOT enabled;
CREATE INDEX IF NOT EXISTS key_enabled
    ON key (coalesce(expires_at, 'infinity'), id)
    WHERE revoked_at IS NULL AND enabled;

-- last_slot and size change seldom while a key is in use, so that almost every
-- update of key_usage is a HOT one, which touches no index.

CREATE INDEX IF NOT EXISTS key_usage_never ON key_usage (key_id)
    WHERE last_slot IS NULL;
CREATE INDEX IF NOT EXISTS key_usage_last ON key_usage (last_slot)
    WHERE last_slot IS NOT NULL;
CREATE INDEX IF NOT EXISTS key_usage_size ON key_usage (size, key_id);
CREATE INDEX IF NOT EXISTS key_usage_owner_never
    ON key_usage (owner_id, key_id)
    WHERE last_slot IS NULL AND owner_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS key_usage_owner_last
    ON key_usage (owner_id, last_slot)
    WHERE last_slot IS NOT NULL AND owner_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS key_usage_owner_size
    ON key_usage (owner_id, size, key_id) WHERE owner_id IS NOT NULL;


-- What a list is sorted by, as legs one after the other, ascending: rows of
-- key k or of key_usage u, those with this condition, in the order of these
-- columns.  A leg of use is read in the order of its index by (slot, time) or
-- (size, number); "coarse" bounds it in the index behind a cursor.

CREATE OR REPLACE FUNCTION key_legs(sort text, OUT leg int, OUT source text,
    OUT value text, OUT kind text, OUT cond text, OUT cols text[],
    OUT coarse text, OUT holds text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT l.leg, l.source, l.value, l.kind, l.cond, l.cols::text[], l.coarse,
        l.holds
    FROM (VALUES
        ('created_at', 1, 'key k', 'k.created_at', 'timestamptz', 'true',
            '{k.created_at, k.id}', NULL, 'true'),
        ('name', 1, 'key k', 'k.name', 'text', 'true',
            '{k.name, k.id}', NULL, 'true'),
        ('expires_at', 1, 'key k', 'coalesce(k.expires_at, ''infinity'')',
            'timestamptz', 'true',
            '{"coalesce(k.expires_at, ''infinity'')", k.id}', NULL, 'true'),
        ('last_used_at', 1, 'key_usage u',
            'coalesce(u.last_used_at, ''-infinity'')', 'timestamptz',
            'u.last_slot IS NULL', '{u.key_id}', NULL,
            '$4::timestamptz = ''-infinity'''),
        ('last_used_at', 2, 'key_usage u',
            'coalesce(u.last_used_at, ''-infinity'')', 'timestamptz',
            'u.last_slot IS NOT NULL',
            '{u.last_slot, u.last_used_at, u.key_id}',
            'usage_slot($4::timestamptz)',
            '$4::timestamptz <> ''-infinity'''),
        ('usage_count', 1, 'key_usage u', 'u.requests', 'bigint',
            'u.size < 100', '{u.size, u.key_id}', NULL, '$4::bigint < 100'),
        ('usage_count', 2, 'key_usage u', 'u.requests', 'bigint',
            'u.size >= 100', '{u.size, u.requests, u.key_id}',
            'usage_size($4::bigint)', '$4::bigint >= 100'))
        AS l (sort, leg, source, value, kind, cond, cols, coarse, holds)
    WHERE l.sort = ltrim(key_legs.sort, '-')
    ORDER BY CASE WHEN key_legs.sort ^@ '-' THEN -l.leg ELSE l.leg END;
END;

COMMENT ON FUNCTION key_legs(text) IS
    'How a list of keys is read in the order of "sort"; no rows: unknown';


-- One page, out of plans of which each is exact:
--
--   collect   all keys of a customer, when those are few; filter and sort
--   walk      the first rows in the order of the list (an owner's, when there
--             is one), taking those that pass the filters: good for filters
--             that many rows pass
--   collect   when no page was found in so many rows: all keys of the status
--             if those are few, or all that are found by q, or of the owner
--
-- few and far say how many that is.  In their SQL $1 is the owner, $2 the customer, $3 q, $4 and $5 the sort
-- value and id behind which the page begins, $6 its size.

CREATE OR REPLACE FUNCTION key_filters(owner uuid, customer text, state text,
    q text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN concat_ws(' AND ', key_where(state),
    CASE WHEN owner IS NOT NULL THEN 'k.owner_id = $1' END,
    CASE WHEN customer IS NOT NULL THEN 'k.customer = $2' END, q);

COMMENT ON FUNCTION key_filters(uuid, text, text, text) IS
    'SQL condition of a list for a row of k; q: that of the text';


CREATE OR REPLACE FUNCTION key_collect(candidates text, filters text,
    sort text, after boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT format($q$
        WITH k AS MATERIALIZED (
            SELECT k.id, k.name, k.created_at, k.expires_at
            FROM %1$s AND %2$s)
        SELECT array_agg(id), array_agg(v) FROM (
            SELECT k.id, (%3$s)::text AS v
            FROM k %4$s
            WHERE %5$s
            ORDER BY %3$s %6$s, k.id %6$s LIMIT $6) AS page
        $q$, candidates, filters, l.value,
        CASE WHEN l.source ^@ 'key_usage'
            THEN 'JOIN key_usage u ON u.key_id = k.id' ELSE '' END,
        CASE WHEN after THEN format('(%s, k.id) %s ($4::%s, $5)', l.value,
            CASE WHEN sort ^@ '-' THEN '<' ELSE '>' END, l.kind)
            ELSE 'true' END,
        CASE WHEN sort ^@ '-' THEN 'DESC' ELSE 'ASC' END)
    FROM key_legs(sort) AS l LIMIT 1);

COMMENT ON FUNCTION key_collect(text, text, text, boolean) IS
    'SQL of one page out of all of the candidates';


CREATE OR REPLACE FUNCTION key_holds(source text, q text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN q IS NULL THEN NULL
    WHEN source ^@ 'key k' THEN '(SELECT strpos(t.text, $3) > 0'
        ' FROM key_item t WHERE t.id = k.id)'
    ELSE 'strpos(k.text, $3) > 0' END;

COMMENT ON FUNCTION key_holds(text, text) IS
    'SQL condition: the text of a row of this source holds q';


CREATE OR REPLACE FUNCTION key_behind(cols text[], coarse text, kind text,
    dir text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT CASE WHEN coarse IS NULL THEN ''
            ELSE format('%s %s= %s AND ', cols[1], op, coarse) END
        || format('(%s) %s (%s)',
            array_to_string(CASE WHEN coarse IS NULL THEN cols
                ELSE cols[2:] END, ', '), op,
            CASE WHEN cardinality(cols) = 1 THEN '$5'
                ELSE format('$4::%s, $5', kind) END)
    FROM (SELECT CASE dir WHEN 'DESC' THEN '<' ELSE '>' END AS op) x);

COMMENT ON FUNCTION key_behind(text[], text, text, text) IS
    'SQL condition of rows of a leg behind the cursor';


CREATE OR REPLACE FUNCTION key_more(source text, n int)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format('SELECT count(*) > %s FROM (SELECT FROM %s LIMIT %s) x', n,
    source, n + 1);

COMMENT ON FUNCTION key_more(text, int) IS
    'SQL of whether a source has more rows than n';


-- The order of the inner rows is kept: LATERAL with OFFSET is a nested loop.

CREATE OR REPLACE FUNCTION key_walk(source text, conds text, cols text[],
    value text, dir text, filters text, q boolean, far int)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format($q$
    SELECT array_agg(id), array_agg(v) FROM (
        SELECT k.id, (%s)::text AS v
        FROM (SELECT * FROM %s ORDER BY %s LIMIT %s) %s
        WHERE %s LIMIT $6) AS page
    $q$, value, conds,
    (SELECT string_agg(c || ' ' || dir, ', ' ORDER BY n)
        FROM unnest(cols) WITH ORDINALITY AS x (c, n)), far,
    CASE WHEN source ^@ 'key k' THEN 'k'
        ELSE 'u, LATERAL (SELECT * FROM key_item k WHERE k.id = u.key_id'
            ' OFFSET 0) k' END,
    concat_ws(' AND ', filters, CASE WHEN q THEN key_holds(source, '') END));

COMMENT ON FUNCTION key_walk(text, text, text[], text, text, text, boolean,
    int) IS 'SQL of one page out of the first rows of a leg';


CREATE OR REPLACE FUNCTION key_page(owner uuid, customer text, state text,
    q text, sort text, after_value text, after_id uuid, size int,
    few int DEFAULT 20000, far int DEFAULT 6000,
    OUT ids uuid[], OUT sorts text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET enable_seqscan = off
SET jit = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '64MB'
AS $$
DECLARE
    dir     text := CASE WHEN sort ^@ '-' THEN 'DESC' ELSE 'ASC' END;
    begun   boolean := after_id IS NULL;
    source  text;
    conds   text;
    more    boolean;
    l       record;
    i       uuid[];
    s       text[];
BEGIN
    IF NOT coalesce(caller() IN ('operator', 'operator_read')
        OR caller() = 'owner' AND owner = caller_owner(), false)
    THEN
        RAISE insufficient_privilege;
    END IF;

    IF customer IS NOT NULL THEN
        source := 'key k WHERE k.customer = $2';
        EXECUTE key_more(source, few) INTO more USING owner, customer;

        IF more THEN
            source := NULL;
        END IF;
    END IF;

    IF source IS NULL THEN
        FOR l IN SELECT * FROM key_legs(sort) LOOP
            conds := l.source || ' WHERE ' || l.cond;

            IF NOT begun THEN
                EXECUTE 'SELECT ' || replace(l.holds, '$4', '$1')
                INTO begun USING after_value;

                CONTINUE WHEN NOT begun;
                conds := conds || ' AND ' || key_behind(l.cols, l.coarse,
                    l.kind, dir);
            END IF;

            IF owner IS NOT NULL THEN
                conds := conds || format(' AND %s.owner_id = $1',
                    right(l.source, 1));
            ELSIF sort ~ 'created_at$' AND state IS NULL
                OR sort ~ 'expires_at$' AND state IN ('active', 'expired')
            THEN
                conds := conds || ' AND ' || key_where(state);
            END IF;

            EXECUTE key_walk(l.source, conds, l.cols, l.value, dir,
                key_filters(NULL, customer, state, NULL), q IS NOT NULL, far)
            INTO i, s USING owner, customer, q, after_value, after_id,
                size - coalesce(cardinality(ids), 0);

            ids := ids || i;
            sorts := sorts || s;

            IF cardinality(ids) >= size THEN
                RETURN;
            END IF;

            EXECUTE key_more(conds, far) INTO more
            USING owner, customer, q, after_value, after_id;

            EXIT WHEN more;
        END LOOP;

        IF NOT coalesce(more, false) THEN
            RETURN;
        END IF;

        source := 'key k WHERE ' || key_where(state);

        IF q IS NOT NULL OR customer IS NOT NULL OR owner IS NOT NULL THEN
            EXECUTE key_more(source, few) INTO more;

            IF more THEN
                source := CASE
                    WHEN q IS NOT NULL THEN 'key_item k WHERE'
                        ' text_grams(k.text) @@ search_grams($3)'
                    WHEN customer IS NOT NULL
                        THEN 'key k WHERE k.customer = $2'
                    ELSE 'key k WHERE k.owner_id = $1' END;
            END IF;
        END IF;
    END IF;

    EXECUTE key_collect(source, key_filters(owner, customer, state,
            key_holds(source, q)), sort, after_id IS NOT NULL)
    INTO ids, sorts USING owner, customer, q, after_value, after_id, size;
END
$$;

COMMENT ON FUNCTION key_page(uuid, text, text, text, text, text, uuid, int,
    int, int) IS
    'Ids and sort values of a page of keys that the caller of this transaction'
    ' may see; an owner names itself';

GRANT EXECUTE ON FUNCTION
    key_page(uuid, text, text, text, text, text, uuid, int, int, int)
    TO apikey_gateway;
