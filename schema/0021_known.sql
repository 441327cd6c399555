--
-- What nodes ask when they have lost their count of a quota, a total or
-- credits: how much of it was used, by the usage that has been shipped.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- What runs is recorded when it ends.  So a node that is wanted to says once
-- what runs at that moment, each as if its worker died just then; what it ships
-- from then on takes away its row in the same transaction.  So what is in and
-- what runs is together, at any time, all that was admitted before runs_at:
-- which is moved there when all that had ended by then is in, too.  What was
-- said before counts until then.

CREATE TABLE IF NOT EXISTS usage_running (
    node     uuid         NOT NULL,
    at       timestamptz  NOT NULL,
    event    uuid         NOT NULL,
    time     timestamptz  NOT NULL,
    key_id   uuid         NOT NULL,
    owner    text         NOT NULL,
    service  text         NOT NULL,
    model    text,
    units    numeric      NOT NULL,
    tokens   numeric,
    cost     numeric,
    PRIMARY KEY (node, event, at)
);

ALTER TABLE usage_running ALTER COLUMN model DROP NOT NULL,
    ALTER COLUMN tokens DROP NOT NULL;

CREATE INDEX IF NOT EXISTS usage_running_key ON usage_running (key_id);
CREATE INDEX IF NOT EXISTS usage_running_owner ON usage_running (owner);

COMMENT ON TABLE usage_running IS
    'Requests that ran when Redis had lost what is used, until they are'
    ' recorded';
COMMENT ON COLUMN usage_running.at IS
    'They ran then; it counts if it is the node''s runs_at';
COMMENT ON COLUMN usage_running.event IS 'Their request_id';
COMMENT ON COLUMN usage_running.model IS 'Null: it may be any';
COMMENT ON COLUMN usage_running.tokens IS
    'Reserved; null: all that was left, nobody knows how many';
COMMENT ON COLUMN usage_running.cost IS
    'Reserved, in nano-units; null: all that was left';


CREATE TABLE IF NOT EXISTS usage_wanted (
    one    boolean      PRIMARY KEY DEFAULT true CHECK (one),
    until  timestamptz  NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE usage_wanted IS
    'Until when somebody has to know what was admitted: one row';
COMMENT ON COLUMN usage_wanted.until IS
    'Nodes say what runs that they admitted before, once it is over';


ALTER TABLE usage_running ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS node_all ON usage_running;

CREATE POLICY node_all ON usage_running TO apikey_gateway
    USING ((SELECT caller()) = 'node');


CREATE OR REPLACE FUNCTION usage_want(a_node uuid)
RETURNS bigint
LANGUAGE sql
SET search_path = apikey, pg_temp
AS $$
    UPDATE usage_node SET runs_at = coalesce(runs_at, '-infinity'),
        asked_at = seen_at
    WHERE node = a_node
        AND (runs_at IS NULL OR asked_at
             NOT BETWEEN seen_at - interval '5 seconds' AND seen_at);

    SELECT coalesce((SELECT micros(w.until) FROM usage_wanted w), 0)
$$;

COMMENT ON FUNCTION usage_want(uuid) IS
    'What runs is wanted until then; the node can say it, and is waited for';


CREATE OR REPLACE FUNCTION usage_runs_to(a_node uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    RETURN (SELECT coalesce(max(micros(r.time)), 0) FROM usage_running r
            WHERE r.node = a_node);
END
$$;

COMMENT ON FUNCTION usage_runs_to(uuid) IS
    'When the last one was admitted that this node is said to run';


-- A node that has gone back to an older module ships and does not ask; one that
-- hangs does neither.

CREATE OR REPLACE FUNCTION usage_sayers()
RETURNS TABLE (node uuid, runs_at timestamptz)
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT u.node, u.runs_at FROM usage_node u
    WHERE u.runs_at IS NOT NULL
        AND u.asked_at > u.seen_at - interval '10 seconds'
        AND greatest(u.seen_at, (SELECT n.seen_at FROM node n
                                 WHERE n.id = u.node))
            > now() - interval '10 seconds';
END;

COMMENT ON FUNCTION usage_sayers() IS
    'Nodes alive that say what runs when it is wanted, and what they said it'
    ' of';


-- A clock that is far ahead would have all wait for it.
--
-- What a node had said before, it takes away itself when it says it anew; what
-- ran on one that does not say it any more, nobody else does.  That node may be
-- back just now and be taking it away in another order: nobody waits for it.

CREATE OR REPLACE FUNCTION usage_ask(us bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  timestamptz := least(usage_time(us), now() + interval '1 minute');
BEGIN
    IF us > 0 AND NOT EXISTS (SELECT FROM usage_wanted w
                              WHERE w.until >= wanted)
    THEN
        INSERT INTO usage_wanted AS w (until) VALUES (wanted)
        ON CONFLICT (one) DO UPDATE
            SET until = greatest(w.until, excluded.until);

        DELETE FROM usage_running r
        USING (SELECT o.node, o.event, o.at FROM usage_running o
               WHERE o.at < now() - interval '1 day'
                   AND NOT EXISTS (SELECT FROM usage_sayers() s
                                   WHERE s.node = o.node)
               FOR UPDATE SKIP LOCKED) AS left_over
        WHERE (r.node, r.event, r.at)
            = (left_over.node, left_over.event, left_over.at);
    END IF;
END
$$;

COMMENT ON FUNCTION usage_ask(bigint) IS
    'Nodes are to say what runs that they admitted before that microsecond';


CREATE OR REPLACE FUNCTION usage_told(us bigint)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN us = 0
    OR (usage_as_of() > usage_time(us)
        AND NOT EXISTS (
            SELECT FROM usage_sayers() s
            WHERE s.runs_at <= usage_time(us)));

COMMENT ON FUNCTION usage_told(bigint) IS
    'All that any node alive admitted before is in, or is said to run';


CREATE OR REPLACE FUNCTION quota_running(a_holder uuid, a_level text,
    a_unit text, a_service text, a_model text, a_since bigint)
RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    mine     text := (SELECT o.external FROM owner o WHERE o.id = a_holder);
    used     numeric;
    unknown  bigint;
BEGIN
    SELECT coalesce(sum(CASE a_unit WHEN 'requests' THEN r.units
            WHEN 'tokens' THEN r.tokens ELSE r.cost END), 0),
        count(*) FILTER (WHERE r.cost IS NULL)
    INTO used, unknown
    FROM usage_running r JOIN usage_node n
            ON n.node = r.node AND n.runs_at = r.at
    WHERE (a_level = 'key' AND r.key_id = a_holder
            OR a_level = 'owner' AND r.owner = mine)
        AND r.time >= usage_time(a_since)
        AND (coalesce(a_service, '') = ''
            OR pattern_covers(a_service, r.service))
        AND (coalesce(a_model, '') = '' OR r.model IS NULL
            OR pattern_covers(a_model, r.model));

    IF a_unit = 'cost' AND unknown > 0 THEN
        used := greatest(used, coalesce(budget_left(a_holder, a_level), 0));
    END IF;

    RETURN used;
END
$$;

COMMENT ON FUNCTION quota_running(uuid, text, text, text, text, bigint) IS
    'What a holder has reserved of a unit (cost: nano-units) in a scope since'
    ' that microsecond, by what is said to run';


-- Who has reserved all that was left of a strict limit runs alone until it has
-- ended: what it takes in the end is known then, and not worth a period before.
-- Of a node that is not waited for nobody will know.

CREATE OR REPLACE FUNCTION quota_open(a_holder uuid, a_level text,
    a_unit text, a_service text, a_model text, a_since bigint)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN a_unit IN ('tokens', 'cost') AND EXISTS (
    SELECT FROM usage_running r JOIN usage_sayers() s
            ON s.node = r.node AND s.runs_at = r.at
    WHERE (a_level = 'key' AND r.key_id = a_holder
            OR a_level = 'owner' AND r.owner = (
                SELECT o.external FROM owner o WHERE o.id = a_holder))
        AND r.time >= usage_time(a_since)
        AND CASE a_unit WHEN 'tokens' THEN r.tokens ELSE r.cost END IS NULL
        AND (coalesce(a_service, '') = ''
            OR pattern_covers(a_service, r.service))
        AND (coalesce(a_model, '') = '' OR r.model IS NULL
            OR pattern_covers(a_model, r.model)));

COMMENT ON FUNCTION quota_open(uuid, text, text, text, text, bigint) IS
    'Something runs, on a node alive, that counts there since that microsecond'
    ' and may take as much as there is';


-- All of what a node had recorded before it began to count anew must be in,
-- or nothing is said: it asks again.  So must what all nodes had until after,
-- if there is one, or be said to run: Redis has lost its count, and what came
-- later is new.  until: an after that lies ahead, for nodes to be ready.  Who
-- asks is alive, however long nothing of it has come in.
--
-- What is in and what runs are read by one statement: what ends meanwhile is in
-- the one or in the other.

CREATE OR REPLACE FUNCTION limits_known(req text)
RETURNS TABLE (used numeric)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    r      json := req::json;
    after  bigint := coalesce((r ->> 'after')::bigint, 0);
BEGIN
    PERFORM set_config('apikey.caller', 'node', true),
        usage_ask(greatest((r ->> 'until')::bigint, after));

    IF NOT EXISTS (SELECT FROM usage_node n
                   WHERE n.node = (r ->> 'node')::uuid
                       AND n.as_of > usage_time(greatest(
                           (r ->> 'born')::bigint, after)))
    THEN
        RETURN;
    END IF;

    RETURN QUERY
    SELECT CASE WHEN after > 0
            AND (l ->> 'strict')::boolean IS DISTINCT FROM false
            AND quota_open((l ->> 'holder')::uuid, l ->> 'level',
                l ->> 'unit', l ->> 'service', l ->> 'model',
                (l ->> 'since')::bigint)
        THEN NULL ELSE CASE l ->> 'kind'
        WHEN 'credits' THEN (SELECT c.used::numeric FROM credit c
            WHERE c.key_id = (l ->> 'holder')::uuid
                OR c.owner_id = (l ->> 'holder')::uuid)
        ELSE (SELECT q.used FROM quota_used((l ->> 'holder')::uuid,
                l ->> 'level', l ->> 'unit', l ->> 'service', l ->> 'model',
                (l ->> 'since')::bigint) AS q) END
        + CASE WHEN after > 0 THEN quota_running((l ->> 'holder')::uuid,
                l ->> 'level', l ->> 'unit', l ->> 'service', l ->> 'model',
                (l ->> 'since')::bigint) ELSE 0 END END
    FROM json_array_elements(r -> 'limits') WITH ORDINALITY AS x (l, n)
    WHERE usage_told(after)
    ORDER BY x.n;
END
$$;

COMMENT ON FUNCTION limits_known(text) IS
    'What is used of each of {"node", "born", "after", "until", "limits":'
    ' [{"holder", "level", "kind", "unit", "service", "model", "since",'
    ' "strict"}]}, in their order; null: what runs may take all of a strict'
    ' limit, or there are no such credits; no rows: this node has not shipped'
    ' all until born, or some node has neither shipped all until after nor said'
    ' what of it runs';

GRANT SELECT, INSERT, DELETE, UPDATE (at) ON usage_running TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE ON usage_wanted TO apikey_gateway;
GRANT EXECUTE ON FUNCTION limits_known(text), usage_want(uuid),
    usage_runs_to(uuid), usage_sayers(), usage_ask(bigint),
    usage_told(bigint),
    quota_running(uuid, text, text, text, text, bigint),
    quota_open(uuid, text, text, text, text, bigint) TO apikey_gateway;
