--
-- Credits: what a key or an owner may use in all, added to by hand, and filled
-- up when a period begins.  Nodes count them as they count limits, under a
-- total that only rises; here is what was granted, and the use that has been
-- shipped.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- What a refill has given since it was due, without waiting for
-- credits_due().

CREATE OR REPLACE FUNCTION credits_json(holder_key uuid, holder_owner uuid)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c credit;
BEGIN
    IF holder_key IS NOT NULL THEN
        SELECT * INTO c FROM credit x WHERE x.key_id = holder_key;
    ELSE
        SELECT * INTO c FROM credit x WHERE x.owner_id = holder_owner;
    END IF;

    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    RETURN (SELECT row_to_json(x) FROM (SELECT c.unit,
            amount_json(greatest(c.total - c.used,
                CASE WHEN c.refill_at <= now() THEN c.refill ELSE 0 END),
                c.unit) AS remaining,
            CASE WHEN c.refill IS NOT NULL THEN (SELECT row_to_json(y)
                FROM (SELECT amount_json(c.refill, c.unit) AS amount,
                          c.every) AS y) END AS refill) AS x);
END
$$;

COMMENT ON FUNCTION credits_json(uuid, uuid) IS
    'A key''s or an owner''s credits, as in the API';


CREATE OR REPLACE FUNCTION credit_next(place uuid, every text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    SELECT * INTO o FROM owner x WHERE x.id = place;

    RETURN calendar_next(coalesce(o.time_zone, 'UTC'),
        coalesce(o.anchor_day, 1), every, now());
END
$$;

COMMENT ON FUNCTION credit_next(uuid, text) IS
    'When the next refill is due by the time zone of this owner';


-- What is left is said anew; what is used stays used.  Another unit is
-- another count.

CREATE OR REPLACE FUNCTION put_credits(holder_key uuid, holder_owner uuid,
    credits jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    place_  uuid;
    amount  bigint := read_amount(credits ->> 'remaining', credits ->> 'unit');
    fill    bigint := read_amount(credits #>> '{refill,amount}',
                                  credits ->> 'unit');
    every_  text := credits #>> '{refill,every}';
BEGIN
    IF coalesce(credits, 'null') = 'null' THEN
        DELETE FROM credit c
        WHERE c.key_id = holder_key OR c.owner_id = holder_owner;
        RETURN;
    END IF;

    place_ := coalesce(holder_owner, (SELECT k.owner_id FROM key k
                                      WHERE k.id = holder_key));

    DELETE FROM credit c
    WHERE (c.key_id = holder_key OR c.owner_id = holder_owner)
        AND c.unit <> credits ->> 'unit';

    UPDATE credit c SET total = amount + c.used, refill = fill,
        every = every_, refill_at = credit_next(place_, every_)
    WHERE c.key_id = holder_key OR c.owner_id = holder_owner;

    IF NOT FOUND THEN
        INSERT INTO credit (key_id, owner_id, unit, total, used, base, refill,
            every, refill_at, place)
        VALUES (holder_key, holder_owner, credits ->> 'unit',
            amount + credit_base(), credit_base(), credit_base(), fill,
            every_, credit_next(place_, every_), place_);
    END IF;
END
$$;

COMMENT ON FUNCTION put_credits(uuid, uuid, jsonb) IS
    'Gives a key or an owner these credits, checked before; null: none';


-- Its key or owner changes with what nodes know of it.

CREATE OR REPLACE FUNCTION credit_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c credit := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    IF c.key_id IS NOT NULL THEN
        PERFORM touch('key', ARRAY[c.key_id]);
    ELSE
        PERFORM touch('owner', ARRAY[c.owner_id]);
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION credit_changed() IS
    'Trigger: credits changed, so their key or owner did';

CREATE OR REPLACE TRIGGER keyring_changed
    AFTER INSERT OR DELETE OR UPDATE OF unit, total, base, refill, every, made
    ON credit
    FOR EACH ROW EXECUTE FUNCTION credit_changed();

COMMENT ON TRIGGER keyring_changed ON credit IS
    'Its key or owner changes with it';


-- A refill that gives nothing fills nothing.

CREATE OR REPLACE FUNCTION credit_filled()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.total <> OLD.total OR NEW.used < OLD.used THEN
        NEW.filled := greatest(NEW.total - NEW.used, 0);
        NEW.filled_at := now();
    END IF;

    RETURN NEW;
END
$$;

COMMENT ON FUNCTION credit_filled() IS
    'Trigger: notes what was left when credits were given';

CREATE OR REPLACE TRIGGER credit_filled
    BEFORE INSERT OR UPDATE OF total, refill_at ON credit
    FOR EACH ROW EXECUTE FUNCTION credit_filled();

COMMENT ON TRIGGER credit_filled ON credit IS
    'What percent of credits are of';

-- what was made between 0001 and here

UPDATE credit SET filled = greatest(total - used, 0), filled_at = now()
    WHERE filled IS NULL;


-- What refills have given back.  Nodes do the same by their own count when
-- the period begins; here it is done with any poll or call after.  Those that
-- fail, as where their time zone is gone, are tried again in an hour: behind
-- all others.

CREATE OR REPLACE FUNCTION credits_due()
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c credit;
BEGIN
    FOR c IN SELECT * FROM credit
        WHERE refill_at <= now()
        ORDER BY refill_at LIMIT 250 FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            UPDATE credit SET used = least(used, total - refill),
                refill_at = credit_next(place, every)
            WHERE id = c.id;

        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'apikey.credits_due %: SQLSTATE %', c.id, SQLSTATE;

            UPDATE credit SET refill_at = now() + interval '1 hour'
            WHERE id = c.id;
        END;
    END LOOP;
END
$$;

COMMENT ON FUNCTION credits_due() IS
    'Fills up to 250 credits whose period has begun';


-- The ledger, for usage_apply(): one call a batch, sorted, so that nodes lock
-- in one order.  What was refused, or would have been, has paid nothing.

CREATE OR REPLACE FUNCTION credits_used(keys uuid[], owners text[],
    verdicts text[], units numeric[], tokens_input bigint[],
    tokens_output bigint[], costs numeric[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM credit) THEN
        RETURN;
    END IF;

    WITH r AS (
        SELECT r.key, r.owner, sum(r.units) AS units,
            sum(r.input + r.output) AS tokens, sum(r.cost) AS cost
        FROM unnest(keys, owners, verdicts, units, tokens_input,
                tokens_output, costs)
            AS r (key, owner, verdict, units, input, output, cost)
        WHERE r.verdict = 'ok'
        GROUP BY r.key, r.owner),
    c AS (
        SELECT c.id, CASE c.unit WHEN 'requests' THEN x.units
            WHEN 'tokens' THEN x.tokens ELSE x.cost END AS n
        FROM (SELECT y.id, sum(y.units) AS units, sum(y.tokens) AS tokens,
                  sum(y.cost) AS cost
              FROM (SELECT k.id, r.units, r.tokens, r.cost
                    FROM r JOIN credit k ON k.key_id = r.key
                    UNION ALL
                    SELECT k.id, r.units, r.tokens, r.cost
                    FROM r JOIN owner o ON o.external = r.owner
                        JOIN credit k ON k.owner_id = o.id) AS y
              GROUP BY y.id) AS x
            JOIN credit c ON c.id = x.id
        ORDER BY c.id FOR UPDATE OF c)
    UPDATE credit SET used = least(used + c.n, 9007199254740991)
    FROM c WHERE credit.id = c.id AND c.n > 0;
END
$$;

COMMENT ON FUNCTION credits_used(uuid[], text[], text[], numeric[], bigint[],
    bigint[], numeric[]) IS
    'Takes the usage of a batch from the credits of its keys and owners';


-- POST api-keys/{id}/credits, owners/{id}/credits

CREATE OR REPLACE FUNCTION check_credit_change(req jsonb, c credit)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN check_members(req -> 'body', '', ARRAY['add', 'set', 'note'], '{}')
    || check_text(req #> '{body,note}', '/note', 255, NULL)
    || CASE num_nonnulls(nullif(req #> '{body,add}', 'null'),
            nullif(req #> '{body,set}', 'null'))
        WHEN 0 THEN wrong('/add', 'required', 'write add or set')
        WHEN 2 THEN wrong('/set', 'bad_value', 'write add or set, not both')
        ELSE check_credit(req #> '{body,add}', '/add', c.unit, NULL)
            || check_credit(req #> '{body,set}', '/set', c.unit, NULL) END
    || CASE
        WHEN coalesce(req #> '{body,add}', 'null') <> 'null'
            AND req ->> 'idempotency_key' IS NULL
            THEN wrong('header:Idempotency-Key', 'required',
                'add what is sent twice only once')
        ELSE jsonb '[]' END;

COMMENT ON FUNCTION check_credit_change(jsonb, credit) IS
    'The body of a change of these credits, and that add has an'
    ' Idempotency-Key';


CREATE OR REPLACE FUNCTION change_credits(req jsonb, holder_key uuid,
    holder_owner uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c    credit;
    b    jsonb := req -> 'body';
    sum  numeric;
BEGIN
    SELECT * INTO c FROM credit x
    WHERE x.key_id = holder_key OR x.owner_id = holder_owner FOR UPDATE;

    IF NOT FOUND THEN
        PERFORM fail(409, 'conflict', 'There are no credits: set them, with'
            ' their unit, as the member "credits" first.');
    END IF;

    PERFORM fail_if(check_request(req) || check_credit_change(req, c));

    sum := CASE WHEN coalesce(b -> 'set', 'null') <> 'null'
        THEN c.used + read_amount(b ->> 'set', c.unit)::numeric
        ELSE c.total + read_amount(b ->> 'add', c.unit)::numeric END;

    IF sum > 9007199254740991 THEN
        PERFORM fail_if(wrong(CASE WHEN b ? 'add' THEN '/add' ELSE '/set' END,
            'out_of_range', 'more was granted in all than can be counted'));
    END IF;

    UPDATE credit SET total = sum WHERE id = c.id;
END
$$;

COMMENT ON FUNCTION change_credits(jsonb, uuid, uuid) IS
    'Adds to a holder''s credits, or sets what is left';


CREATE OR REPLACE FUNCTION credits_answer(holder_key uuid, holder_owner uuid)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT row_to_json(x)::text FROM (SELECT
    credits_json(holder_key, holder_owner) AS credits,
    currency() AS currency) AS x);

COMMENT ON FUNCTION credits_answer(uuid, uuid) IS
    'What POST credits answers';


-- The note goes into the audit with the object.

CREATE OR REPLACE FUNCTION with_note(object json, note text)
RETURNS json
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE WHEN note IS NULL THEN object ELSE (left(object::text, -1)
    || ',"note":' || to_json(note) || '}')::json END;

COMMENT ON FUNCTION with_note(json, text) IS
    'An object for the audit with what was said of the change';


CREATE OR REPLACE FUNCTION api_key_credits(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k       key;
    before  json;
BEGIN
    PERFORM allow('operator');
    k := lock_key(req);
    PERFORM check_body(req);
    PERFORM check_revoked(k);

    before := key_json(k);
    PERFORM change_credits(req, k.id, NULL);

    SELECT * INTO k FROM key WHERE id = k.id;
    PERFORM write_audit(who, req, 'credits', 'key', k.id, before,
        with_note(key_json(k), req #>> '{body,note}'));

    status := 200;
    headers := etag_line(k.version);
    body := credits_answer(k.id, NULL);
    refresh := 'key ' || k.id || E'\n';
END
$$;

COMMENT ON FUNCTION api_key_credits(jsonb, jsonb) IS
    'POST api-keys/{id}/credits';


CREATE OR REPLACE FUNCTION api_owner_credits(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o       owner;
    before  json;
BEGIN
    PERFORM allow('operator');
    o := find_owner(req);
    SELECT * INTO o FROM owner WHERE id = o.id FOR UPDATE;
    PERFORM check_match(req, o.version);
    PERFORM check_body(req);

    before := owner_json(o);
    PERFORM change_credits(req, NULL, o.id);

    SELECT * INTO o FROM owner WHERE id = o.id;
    PERFORM write_audit(who, req, 'credits', 'owner', o.id, before,
        with_note(owner_json(o), req #>> '{body,note}'));

    status := 200;
    headers := etag_line(o.version);
    body := credits_answer(NULL, o.id);
    refresh := 'owner ' || o.id || E'\n';
END
$$;

COMMENT ON FUNCTION api_owner_credits(jsonb, jsonb) IS
    'POST owners/{id}/credits';

GRANT EXECUTE ON FUNCTION credits_json(uuid, uuid), credit_next(uuid, text),
    put_credits(uuid, uuid, jsonb), credit_changed(), credit_filled(),
    credits_due(),
    check_credit_change(jsonb, credit), change_credits(jsonb, uuid, uuid),
    credits_answer(uuid, uuid), with_note(json, text),
    api_key_credits(jsonb, jsonb), api_owner_credits(jsonb, jsonb),
    credits_used(uuid[], text[], text[], numeric[], bigint[], bigint[],
        numeric[])
    TO apikey_gateway;


-- what refused credits and limits until every mode counted them

DROP FUNCTION IF EXISTS credit_gate(jsonb, text);
DROP FUNCTION IF EXISTS limit_gate(jsonb, text);
DROP FUNCTION IF EXISTS check_absent(jsonb, text, jsonb, text);
