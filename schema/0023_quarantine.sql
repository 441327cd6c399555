--
-- Quarantine: events that Postgres refused, looked at and replayed by
-- apikeyctl, which reads their records.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION client_network(client inet)
RETURNS inet
LANGUAGE sql STABLE
RETURN (SELECT CASE WHEN s.bits > 0
        THEN network(set_masklen(client, s.bits))::inet END
    FROM (SELECT split_part(coalesce((SELECT x.value FROM setting x
              WHERE x.name = 'client_prefix'), '24,48'), ',',
          CASE family(client) WHEN 4 THEN 1 ELSE 2 END)::int AS bits) AS s);

COMMENT ON FUNCTION client_network(inet) IS
    'What the setting client_prefix leaves of an address';


-- As the node would have sent it: usage_apply() knows the rules, and a batch
-- without streams moves no mark.  To replay is no sign of life of a node that
-- may be gone, so it has no heartbeat.

CREATE OR REPLACE FUNCTION usage_replay(a_id bigint, e jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    none     uuid := '00000000-0000-0000-0000-000000000000';
    q        usage_quarantine;
    us       bigint := (e ->> 'time_us')::bigint;
    used     boolean := e ->> 'kind' = 'event';
    counted  boolean := e ->> 'kind' <> 'detail';
    limited  boolean := e ->> 'limit_name' IS NOT NULL;
BEGIN
    DELETE FROM usage_quarantine WHERE id = a_id RETURNING * INTO q;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such event' USING ERRCODE = 'no_data_found';
    END IF;

    PERFORM set_config('apikey.caller', 'node', true);
    PERFORM usage_apply(q.node, NULL, NULL,
        '{}', '{}', '{}', '{}', '{}',
        ARRAY[us - us % 900000000], ARRAY[coalesce(e ->> 'key', none::text)
        ::uuid], ARRAY[coalesce(e ->> 'owner', '')], ARRAY[coalesce(
        e ->> 'customer', '')], ARRAY[e ->> 'service'], ARRAY[e ->> 'endpoint'],
        ARRAY[coalesce(e ->> 'model', '')], ARRAY[e ->> 'outcome'],
        ARRAY[(e ->> 'status_code')::int], ARRAY[e ->> 'verdict'],
        ARRAY[coalesce(e ->> 'limit_name', '')], ARRAY[used::int::bigint],
        ARRAY[(e ->> 'refused')::bigint],
        ARRAY[(used AND (e ->> 'status_code')::int >= 400)::int::bigint],
        ARRAY[(e ->> 'tokens_input')::bigint],
        ARRAY[(e ->> 'tokens_output')::bigint],
        ARRAY[(e ->> 'tokens_cached')::bigint],
        ARRAY[(e ->> 'tokens_reasoning')::bigint],
        ARRAY[coalesce((e ->> 'cost_nano')::numeric, 0)],
        ARRAY[(used AND e ->> 'cost_nano' IS NULL)::int::bigint],
        ARRAY[(e ->> 'bytes_in')::bigint], ARRAY[(e ->> 'bytes_out')::bigint],
        ARRAY[(e ->> 'duration_us')::bigint],
        ARRAY[CASE WHEN used THEN us ELSE 0 END],
        CASE WHEN used AND e ->> 'secret' IS NOT NULL
            THEN ARRAY[(e ->> 'secret')::uuid] ELSE '{}' END,
        CASE WHEN used AND e ->> 'secret' IS NOT NULL
            THEN ARRAY[us] ELSE '{}' END,
        ARRAY[CASE WHEN used THEN (e ->> 'weight')::numeric ELSE 0 END])
    WHERE counted;

    INSERT INTO usage_event (time, event, node, key_id, secret_id, owner,
        customer, client, session, service, endpoint, method, status_code,
        outcome, verdict, mode, limit_name, "limit", remaining, retry_after,
        model, weight, tokens_input, tokens_output, tokens_cached,
        tokens_reasoning, usage_source, cost, price_version, bytes_in,
        bytes_out, duration_us, upstream_us, aborted)
    SELECT usage_time(us), x.request_id, q.node, x.key, x.secret, x.owner,
        x.customer, client_network(x.client), x.session, x.service, x.endpoint,
        x.method,
        x.status_code, x.outcome, x.verdict, x.decision_mode, x.limit_name,
        CASE WHEN limited THEN x."limit" END,
        CASE WHEN limited THEN x.remaining END,
        CASE WHEN limited THEN x.retry_after END, x.model, x.weight,
        x.tokens_input, x.tokens_output, x.tokens_cached, x.tokens_reasoning,
        x.usage_source, x.cost_nano, x.price_version, x.bytes_in, x.bytes_out,
        x.duration_us, x.upstream_us, x.aborted
    FROM jsonb_to_record(e) AS x (request_id uuid, key uuid, secret uuid,
        owner text, customer text, client inet, session text, service text,
        endpoint text, method text, status_code int, outcome text,
        verdict text, decision_mode text, limit_name text, "limit" bigint,
        remaining bigint, retry_after int, model text, weight bigint,
        tokens_input bigint, tokens_output bigint, tokens_cached bigint,
        tokens_reasoning bigint, usage_source text, cost_nano bigint,
        price_version bigint, bytes_in bigint, bytes_out bigint,
        duration_us bigint, upstream_us bigint, aborted text)
    WHERE e ->> 'kind' <> 'sum';
END
$$;

COMMENT ON FUNCTION usage_replay(bigint, jsonb) IS
    'Applies a quarantined event, given as apikeyctl reads its record, and'
    ' takes it out of quarantine';
