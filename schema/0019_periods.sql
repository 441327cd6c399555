--
-- Closed billing periods and corrections of usage.  What a closed period sums
-- up to stays: usage that comes late is booked when it comes, and what was
-- wrong is set right by a row that says the difference.  Neither is ever
-- changed or taken away.
--
-- usage_apply() (0020) knows what is late; 0025_corrections.sql closes
-- periods, makes corrections and puts them into the sums.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS billing_period (
    owner             text         NOT NULL,
    start             timestamptz  NOT NULL,
    "end"             timestamptz  NOT NULL CHECK (start < "end"),
    closed_at         timestamptz  NOT NULL DEFAULT clock_timestamp(),
    actor             text         NOT NULL,
    requests          bigint       NOT NULL,
    refused           bigint       NOT NULL,
    errors            bigint       NOT NULL,
    tokens_input      bigint       NOT NULL,
    tokens_output     bigint       NOT NULL,
    tokens_cached     bigint       NOT NULL,
    tokens_reasoning  bigint       NOT NULL,
    cost              numeric      NOT NULL,
    unpriced          bigint       NOT NULL,
    PRIMARY KEY (owner, "end")
);

CREATE INDEX IF NOT EXISTS billing_period_end ON billing_period ("end");

COMMENT ON TABLE billing_period IS
    'Billing periods that are closed, and what they came to; dashboards read'
    ' billing_periods';
COMMENT ON COLUMN billing_period.owner IS
    'The user''s own id, as in usage_quarter; empty: usage of nobody';
COMMENT ON COLUMN billing_period."end" IS
    'What an owner used before the last one is closed, whatever its start';
COMMENT ON COLUMN billing_period.closed_at IS
    'By the clock, while nobody could ship: later transactions are behind it';
COMMENT ON COLUMN billing_period.cost IS 'Nano-units of the currency';


CREATE TABLE IF NOT EXISTS usage_correction (
    id                uuid         PRIMARY KEY DEFAULT uuid_v7(),
    made_at           timestamptz  NOT NULL DEFAULT now(),
    kind              text         NOT NULL
                                   CHECK (kind IN ('late', 'correction')),
    at                timestamptz  NOT NULL,
    service_at        timestamptz  NOT NULL,
    request_id        uuid,
    node              uuid,
    key_id            uuid         NOT NULL,
    owner             text         NOT NULL,
    customer          text         NOT NULL,
    service           text         NOT NULL,
    endpoint          text         NOT NULL,
    model             text         NOT NULL,
    outcome           text         NOT NULL,
    status_code       int          NOT NULL,
    verdict           text         NOT NULL,
    limit_name        text         NOT NULL,
    requests          bigint       NOT NULL,
    refused           bigint       NOT NULL,
    errors            bigint       NOT NULL,
    tokens_input      bigint       NOT NULL,
    tokens_output     bigint       NOT NULL,
    tokens_cached     bigint       NOT NULL,
    tokens_reasoning  bigint       NOT NULL,
    cost              numeric      NOT NULL,
    unpriced          bigint       NOT NULL,
    bytes_in          bigint       NOT NULL,
    bytes_out         bigint       NOT NULL,
    duration_us       numeric      NOT NULL,
    units             numeric      NOT NULL,
    reason            text,
    actor             text
);

CREATE INDEX IF NOT EXISTS usage_correction_at ON usage_correction (at, id);
CREATE INDEX IF NOT EXISTS usage_correction_of
    ON usage_correction (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS usage_correction_late
    ON usage_correction (service_at) WHERE kind = 'late';
CREATE INDEX IF NOT EXISTS usage_correction_late_key
    ON usage_correction (key_id, service_at) WHERE kind = 'late';
CREATE INDEX IF NOT EXISTS usage_correction_late_owner
    ON usage_correction (owner, service_at) WHERE kind = 'late';
CREATE INDEX IF NOT EXISTS usage_correction_owner
    ON usage_correction (owner, service_at);

COMMENT ON TABLE usage_correction IS
    'What is added to the sums of usage afterwards; dashboards read'
    ' usage_corrections';
COMMENT ON COLUMN usage_correction.kind IS
    'late: came after its period was closed; correction: somebody''s';
COMMENT ON COLUMN usage_correction.at IS
    'When it counts, in a period that is open';
COMMENT ON COLUMN usage_correction.service_at IS
    'When the service was used; late: the quarter of an hour';
COMMENT ON COLUMN usage_correction.node IS 'Which counted it; null: nobody';
COMMENT ON COLUMN usage_correction.key_id IS 'As in usage_quarter';
COMMENT ON COLUMN usage_correction.requests IS
    'As all numbers here the difference: below 0 where it was too much';
COMMENT ON COLUMN usage_correction.cost IS 'Nano-units of the currency';


CREATE OR REPLACE FUNCTION never_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is never changed: make a correction', TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

COMMENT ON FUNCTION never_changed() IS
    'Trigger: refuses to change or delete what was closed or corrected';

CREATE OR REPLACE TRIGGER never_changed
    BEFORE UPDATE OR DELETE ON billing_period
    FOR EACH ROW EXECUTE FUNCTION never_changed();
CREATE OR REPLACE TRIGGER never_changed
    BEFORE UPDATE OR DELETE ON usage_correction
    FOR EACH ROW EXECUTE FUNCTION never_changed();

COMMENT ON TRIGGER never_changed ON billing_period IS 'Rows stay as they are';
COMMENT ON TRIGGER never_changed ON usage_correction IS
    'Rows stay as they are';


-- Who ships holds a share of this lock from before it looks until it commits,
-- who closes all of it: so that nothing is still on its way into a period
-- whose sum was made.

CREATE OR REPLACE FUNCTION billing_lock()
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN 7310034283826791282;

COMMENT ON FUNCTION billing_lock() IS
    'Advisory lock of who ships (shared) and of who closes periods';


CREATE OR REPLACE FUNCTION correction_node()
RETURNS uuid
LANGUAGE sql IMMUTABLE
RETURN '00000000-0000-8000-8000-636f72726563'::uuid;

COMMENT ON FUNCTION correction_node() IS
    'The node under which corrections stand in the sums';


-- Null where none is, which costs one look into an index.

CREATE OR REPLACE FUNCTION usage_late(a_start bigint[], a_owner text[])
RETURNS boolean[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    first  bigint := (SELECT min(s) FROM unnest(a_start) AS s);
    late   boolean[];
BEGIN
    IF first IS NULL OR NOT EXISTS (SELECT FROM billing_period p
        WHERE p."end" > timestamptz '1970-01-01 00:00:00+00'
            + first * interval '1 microsecond')
    THEN
        RETURN NULL;
    END IF;

    late := ARRAY(SELECT coalesce(p."end" > timestamptz
                '1970-01-01 00:00:00+00' + r.start
                * interval '1 microsecond', false)
        FROM unnest(a_start, a_owner) WITH ORDINALITY AS r (start, owner, n)
            LEFT JOIN LATERAL (SELECT b."end" FROM billing_period b
                WHERE b.owner = r.owner ORDER BY b."end" DESC LIMIT 1) AS p
                ON true
        ORDER BY r.n);

    -- an event's ingested_at is when its transaction began: it has to tell
    -- what was late, so the batch is sent once more

    IF true = ANY (late) AND EXISTS (SELECT FROM billing_period p
        WHERE p.owner = ANY (a_owner) AND p.closed_at >= now())
    THEN
        RAISE EXCEPTION 'a billing period was closed just now'
            USING ERRCODE = 'serialization_failure';
    END IF;

    RETURN CASE WHEN true = ANY (late) THEN late END;
END
$$;

COMMENT ON FUNCTION usage_late(bigint[], text[]) IS
    'Which of these quarters of an hour (microseconds) of these owners are in'
    ' a closed period; null: none';


ALTER TABLE billing_period ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_correction ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS node_all ON billing_period;
DROP POLICY IF EXISTS node_all ON usage_correction;

CREATE POLICY node_all ON billing_period TO apikey_gateway
    USING ((SELECT caller()) = 'node');
CREATE POLICY node_all ON usage_correction TO apikey_gateway
    USING ((SELECT caller()) = 'node');

GRANT SELECT ON billing_period TO apikey_gateway;
GRANT SELECT, INSERT ON usage_correction TO apikey_gateway;
GRANT EXECUTE ON FUNCTION never_changed(), billing_lock(), correction_node(),
    usage_late(bigint[], text[]) TO apikey_gateway;
