--
-- What nodes ask when they have lost their count of a quota, a total or
-- credits: how much of it was used, by the usage that has been shipped.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- All of what a node had recorded before it began to count anew must be in,
-- or nothing is said: it asks again.  So must what all nodes had until after,
-- if there is one: Redis has lost its count, and what came later is new.  Who
-- asks is alive, however long nothing of it has come in.

CREATE OR REPLACE FUNCTION limits_known(req text)
RETURNS TABLE (used numeric)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    r json := req::json;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    IF NOT EXISTS (SELECT FROM usage_node n
                   WHERE n.node = (r ->> 'node')::uuid
                       AND n.as_of > usage_time(greatest(
                           (r ->> 'born')::bigint, (r ->> 'after')::bigint)))
        OR usage_as_of() <= usage_time(coalesce((r ->> 'after')::bigint, 0))
    THEN
        RETURN;
    END IF;

    RETURN QUERY
    SELECT CASE l ->> 'kind'
        WHEN 'credits' THEN (SELECT c.used::numeric FROM credit c
            WHERE c.key_id = (l ->> 'holder')::uuid
                OR c.owner_id = (l ->> 'holder')::uuid)
        ELSE (SELECT q.used FROM quota_used((l ->> 'holder')::uuid,
                l ->> 'level', l ->> 'unit', l ->> 'service', l ->> 'model',
                (l ->> 'since')::bigint) AS q) END
    FROM json_array_elements(r -> 'limits') WITH ORDINALITY AS x (l, n)
    ORDER BY x.n;
END
$$;

COMMENT ON FUNCTION limits_known(text) IS
    'What is used of each of {"node", "born", "after", "limits": [{"holder",'
    ' "level", "kind", "unit", "service", "model", "since"}]}, in their order;'
    ' no rows: this node has not shipped all until born, or some node not all'
    ' until after';

GRANT EXECUTE ON FUNCTION limits_known(text) TO apikey_gateway;
