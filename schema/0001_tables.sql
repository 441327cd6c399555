--
-- The control plane's tables: settings, owners, keys, secrets, limits, audit,
-- and the three roles.
--
-- Rules for every file: it runs in one transaction and opens with SET LOCAL
-- ROLE apikey_owner, so that every object belongs to that role.  It runs again
-- whenever it or a file before it has changed, on a database in use, and keeps
-- the data: a function is edited where it stands (in one file only), a column
-- is added with ALTER TABLE ... ADD COLUMN IF NOT EXISTS behind its table, its
-- default in a statement of its own (functions use the row's type).
-- EXECUTE is not given to PUBLIC (see the default privileges below): each
-- function is granted by name.
--
-- Tenant tables carry row-level security for apikey_gateway on transaction-local
-- settings, apikey.caller, apikey.key, apikey.owner, apikey.identity and
-- apikey.actor; not set means no rows.  The owner of the tables is not bound by it, so views for
-- apikey_reader and SECURITY DEFINER functions see everything.
--

SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['apikey_owner', 'apikey_gateway', 'apikey_reader']
    LOOP
        CONTINUE WHEN to_regrole(r) IS NOT NULL;

        BEGIN
            EXECUTE format('CREATE ROLE %I %s', r,
                CASE r WHEN 'apikey_owner' THEN 'NOLOGIN' ELSE 'LOGIN' END);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;            -- another database made it meanwhile
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role % does not exist and % may not make it',
                    r, current_user
                    USING ERRCODE = '42501',
                    HINT = 'Create apikey_owner NOLOGIN, apikey_gateway LOGIN'
                        ' and apikey_reader LOGIN, or give CREATEROLE.';
        END;
    END LOOP;

    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles
            WHERE rolname = current_user)
        AND current_user <> 'apikey_owner'
    THEN
        BEGIN
            EXECUTE format('GRANT apikey_owner TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;                -- SET ROLE below says whether it matters
        END;
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS apikey AUTHORIZATION apikey_owner;

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;

COMMENT ON SCHEMA apikey IS
    'API keys, limits and usage of ngx_http_apikey_module';

REVOKE ALL ON SCHEMA apikey FROM PUBLIC;
GRANT USAGE ON SCHEMA apikey TO apikey_gateway, apikey_reader;

ALTER DEFAULT PRIVILEGES FOR ROLE apikey_owner
    REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;


CREATE TABLE IF NOT EXISTS migration (
    version     int          PRIMARY KEY,
    name        text         NOT NULL,
    applied_at  timestamptz  NOT NULL DEFAULT now()
);

ALTER TABLE migration ADD COLUMN IF NOT EXISTS digest text;

COMMENT ON TABLE migration IS
    'Files applied to this database; written by apikeyctl schema apply';
COMMENT ON COLUMN migration.applied_at IS 'When it was last run';
COMMENT ON COLUMN migration.digest IS
    'SHA-256 of the text that was run; null: it is to be run again';

GRANT SELECT ON migration TO apikey_gateway;


-- Who asks: what the policies read.  An empty setting is the same as none.

CREATE OR REPLACE FUNCTION caller()
RETURNS text
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.caller', true), '');

CREATE OR REPLACE FUNCTION caller_key()
RETURNS uuid
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.key', true), '')::uuid;

CREATE OR REPLACE FUNCTION caller_owner()
RETURNS uuid
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.owner', true), '')::uuid;

CREATE OR REPLACE FUNCTION caller_identity()
RETURNS text
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.identity', true), '');

CREATE OR REPLACE FUNCTION caller_actor()
RETURNS text
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.actor', true), '');

COMMENT ON FUNCTION caller() IS
    'apikey.caller of this transaction: operator, operator_read, owner, key,'
    ' node; null when not set';
COMMENT ON FUNCTION caller_key() IS
    'apikey.key of this transaction: the key that calls';
COMMENT ON FUNCTION caller_owner() IS
    'apikey.owner of this transaction: the UUID of an owner''s row';
COMMENT ON FUNCTION caller_identity() IS
    'apikey.identity of this transaction: the owner''s own id, as nginx knows'
    ' who was logged in';
COMMENT ON FUNCTION caller_actor() IS
    'apikey.actor of this transaction: who asks, in one text, to tell callers'
    ' apart';

GRANT EXECUTE ON FUNCTION caller(), caller_key(), caller_owner(),
    caller_identity(), caller_actor() TO apikey_gateway;


-- Time-ordered ids (RFC 9562, version 7).

CREATE OR REPLACE FUNCTION uuid_v7()
RETURNS uuid
LANGUAGE sql VOLATILE
RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp())
        * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;

COMMENT ON FUNCTION uuid_v7() IS 'A new UUID of version 7';

GRANT EXECUTE ON FUNCTION uuid_v7() TO apikey_gateway;


CREATE TABLE IF NOT EXISTS setting (
    name   text  PRIMARY KEY,
    value  text  NOT NULL
);

COMMENT ON TABLE setting IS
    'What is set per installation; written by apikeyctl set';

INSERT INTO setting (name, value)
VALUES ('currency', 'USD'), ('raw_days', '7'), ('client_prefix', '24,48')
ON CONFLICT DO NOTHING;

GRANT SELECT ON setting TO apikey_gateway;


-- Every change of a key or owner, its secrets or its limits takes a number.

CREATE SEQUENCE IF NOT EXISTS version;

COMMENT ON SEQUENCE version IS 'Source of owner.version and key.version';

GRANT USAGE ON SEQUENCE version TO apikey_gateway;


CREATE TABLE IF NOT EXISTS owner (
    id          uuid         PRIMARY KEY DEFAULT uuid_v7(),
    external    text         NOT NULL UNIQUE
                             CHECK (char_length(external) BETWEEN 1 AND 255),
    name        text         CHECK (char_length(name) BETWEEN 1 AND 255),
    enabled     boolean      NOT NULL DEFAULT true,
    plan        text,
    time_zone   text         NOT NULL DEFAULT 'UTC',
    anchor_day  int          NOT NULL DEFAULT 1
                             CHECK (anchor_day BETWEEN 1 AND 31),
    metadata    jsonb        NOT NULL DEFAULT '{}'
                             CHECK (jsonb_typeof(metadata) = 'object'),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    version     bigint       NOT NULL DEFAULT nextval('apikey.version')
);

ALTER TABLE owner
    ADD COLUMN IF NOT EXISTS plan_next text,
    ADD COLUMN IF NOT EXISTS plan_next_at timestamptz,
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz;

COMMENT ON TABLE owner IS
    'Who holds keys: a customer of the API, known by the user''s own id';
COMMENT ON COLUMN owner.external IS 'The user''s own id: "owner" in the API';
COMMENT ON COLUMN owner.enabled IS 'false refuses all keys of this owner';
COMMENT ON COLUMN owner.anchor_day IS
    'Day of the month at which billing periods begin';
COMMENT ON COLUMN owner.version IS
    'Number of the last change of the row or its limits; the ETag';
COMMENT ON COLUMN owner.plan IS 'plan.external';
COMMENT ON COLUMN owner.plan_next IS 'Becomes its plan at plan_next_at';
COMMENT ON COLUMN owner.deleted_at IS
    'Deleted in the API; the row stays for its usage, its use of limits and'
    ' its revoked keys, and is taken up again when the name is made again';

CREATE INDEX IF NOT EXISTS owner_created ON owner (created_at, id);
CREATE INDEX IF NOT EXISTS owner_plan ON owner (plan) WHERE plan IS NOT NULL;
CREATE INDEX IF NOT EXISTS owner_plan_next ON owner (plan_next_at)
    WHERE plan_next_at IS NOT NULL;


CREATE TABLE IF NOT EXISTS key (
    id              uuid         PRIMARY KEY DEFAULT uuid_v7(),
    owner_id        uuid         REFERENCES owner,
    name            text         NOT NULL
                                 CHECK (char_length(name) BETWEEN 1 AND 255),
    customer        text         CHECK (char_length(customer)
                                        BETWEEN 1 AND 255),
    plan            text,
    prefix          text         NOT NULL,
    scopes          text[]       NOT NULL DEFAULT '{}',
    allowed_models  text[],
    allowed_ips     text[],
    metadata        jsonb        NOT NULL DEFAULT '{}'
                                 CHECK (jsonb_typeof(metadata) = 'object'),
    enabled         boolean      NOT NULL DEFAULT true,
    expires_at      timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    updated_at      timestamptz  NOT NULL DEFAULT now(),
    version         bigint       NOT NULL DEFAULT nextval('apikey.version')
);

ALTER TABLE key
    ADD COLUMN IF NOT EXISTS made_by text
        CHECK (made_by IN ('operator', 'owner')),
    ADD COLUMN IF NOT EXISTS disabled_by_owner boolean;
ALTER TABLE key
    ALTER COLUMN made_by SET DEFAULT 'operator',
    ALTER COLUMN disabled_by_owner SET DEFAULT false;

COMMENT ON TABLE key IS
    'Keys, without their secrets; never deleted, only revoked';
COMMENT ON COLUMN key.owner_id IS 'Fixed when the key is made';
COMMENT ON COLUMN key.customer IS
    'The user''s own id of whom the key is given to; only shown and summed by';
COMMENT ON COLUMN key.prefix IS 'What secrets of this key begin with';
COMMENT ON COLUMN key.scopes IS 'Scopes held; {*} all';
COMMENT ON COLUMN key.allowed_models IS 'Model patterns; null any, {} none';
COMMENT ON COLUMN key.allowed_ips IS
    'Networks in canonical CIDR text; null any, {} none';
COMMENT ON COLUMN key.revoked_at IS 'Set once; a revoked key never changes';
COMMENT ON COLUMN key.made_by IS
    'operator (null, too), or its owner, who then may set its limits';
COMMENT ON COLUMN key.disabled_by_owner IS
    'Its owner disabled it and may enable it again; what others disable, only'
    ' an operator enables';
COMMENT ON COLUMN key.version IS
    'Number of the last change of the row, its secrets or limits; the ETag';

CREATE INDEX IF NOT EXISTS key_created ON key (created_at, id);
CREATE INDEX IF NOT EXISTS key_name ON key (name, id);
CREATE INDEX IF NOT EXISTS key_owner ON key (owner_id, created_at, id);
CREATE INDEX IF NOT EXISTS key_expires
    ON key (coalesce(expires_at, 'infinity'), id);


CREATE INDEX IF NOT EXISTS key_plan ON key (plan) WHERE plan IS NOT NULL;


CREATE TABLE IF NOT EXISTS plan (
    id              uuid         PRIMARY KEY DEFAULT uuid_v7(),
    external        text         NOT NULL UNIQUE
                                 CHECK (external ~ '^[a-z0-9_-]{1,64}$'),
    name            text         NOT NULL
                                 CHECK (char_length(name) BETWEEN 1 AND 255),
    scopes          text[]       NOT NULL DEFAULT '{}',
    allowed_models  text[],
    monthly_price   bigint       CHECK (monthly_price >= 0),
    upgrade_url     text,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    updated_at      timestamptz  NOT NULL DEFAULT now(),
    version         bigint       NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE plan IS
    'Templates of limits; an owner''s and a key''s column plan name one, not'
    ' by a foreign key: what is revoked or deleted may name one that is gone';
COMMENT ON COLUMN plan.external IS 'The user''s own id: "plan" in the API';
COMMENT ON COLUMN plan.scopes IS 'For keys made without scopes';
COMMENT ON COLUMN plan.allowed_models IS 'For keys made without any said';
COMMENT ON COLUMN plan.monthly_price IS
    'Nano-units of the currency; only shown';
COMMENT ON COLUMN plan.upgrade_url IS 'Where to go for a larger plan';
COMMENT ON COLUMN plan.version IS
    'Number of the last change of the row or its limits; the ETag';


CREATE TABLE IF NOT EXISTS secret (
    id          uuid         PRIMARY KEY,
    key_id      uuid         NOT NULL REFERENCES key,
    digest      bytea        NOT NULL UNIQUE
                             CHECK (octet_length(digest) = 32),
    start       text         NOT NULL,
    last4       text         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    ended_at    timestamptz
);

COMMENT ON TABLE secret IS
    'Secrets of keys: one is current, older ones are in their grace or ended';
COMMENT ON COLUMN secret.digest IS
    'SHA-256 of the exact bytes; apikey_gateway writes but cannot read it';
COMMENT ON COLUMN secret.start IS
    'The prefix and four characters, for people; null: not known (imported)';
COMMENT ON COLUMN secret.last4 IS 'The last four characters, for people';
COMMENT ON COLUMN secret.expires_at IS
    'End of its grace after a rotation; null while it is current';
COMMENT ON COLUMN secret.ended_at IS
    'Ended at once, by rotation or revocation';

ALTER TABLE secret ALTER COLUMN start DROP NOT NULL,
    ALTER COLUMN last4 DROP NOT NULL;

CREATE INDEX IF NOT EXISTS secret_key ON secret (key_id, created_at);


CREATE TABLE IF NOT EXISTS limit_rule (
    id           uuid     PRIMARY KEY DEFAULT uuid_v7(),
    key_id       uuid     REFERENCES key,
    owner_id     uuid     REFERENCES owner,
    position     int      NOT NULL,
    name         text     NOT NULL CHECK (char_length(name) BETWEEN 1 AND 64),
    unit         text     NOT NULL CHECK (unit IN
                          ('requests', 'tokens', 'cost', 'concurrent')),
    "limit"      bigint   NOT NULL CHECK ("limit" >= 0),
    window_text  text,
    window_us    bigint   CHECK (window_us > 0),
    burst        bigint   CHECK (burst >= 0),
    rolling      boolean,
    model        text,
    service      text,
    mode         text     CHECK (mode IN ('strict', 'trim', 'observe')),
    token        bigint   CHECK (token >= 1),
    refill       bigint   CHECK (refill >= 0),
    capacity     bigint   CHECK (capacity BETWEEN 0 AND 9007199254740991),
    tick         bigint   CHECK (tick IN (1, 1000, 1000000)),
    UNIQUE (key_id, name),
    UNIQUE (owner_id, name)
);

ALTER TABLE limit_rule
    ADD COLUMN IF NOT EXISTS plan_id uuid REFERENCES plan,
    DROP CONSTRAINT IF EXISTS limit_rule_check;

DO $$
BEGIN
    ALTER TABLE limit_rule ADD CONSTRAINT limit_rule_holder
        CHECK (num_nonnulls(key_id, owner_id, plan_id) = 1);
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$$;

CREATE UNIQUE INDEX IF NOT EXISTS limit_rule_plan
    ON limit_rule (plan_id, name) WHERE plan_id IS NOT NULL;

ALTER TABLE limit_rule ADD COLUMN IF NOT EXISTS made timestamptz;
ALTER TABLE limit_rule ALTER COLUMN made SET DEFAULT now();

COMMENT ON TABLE limit_rule IS
    'Limits of keys, owners and plans; known by holder and name';
COMMENT ON COLUMN limit_rule.key_id IS 'The holder is this key, or';
COMMENT ON COLUMN limit_rule.owner_id IS 'the holder is this owner, or';
COMMENT ON COLUMN limit_rule.plan_id IS
    'a template: every owner and key with this plan holds it';
COMMENT ON COLUMN limit_rule.position IS 'Order in the JSON array, from 0';
COMMENT ON COLUMN limit_rule."limit" IS
    'How much a window, in units (cost: nano-units of the currency)';
COMMENT ON COLUMN limit_rule.window_text IS
    'As given: 1h, day, month, total; null for concurrent';
COMMENT ON COLUMN limit_rule.window_us IS
    'A length in microseconds; null for calendar windows, total, concurrent';
COMMENT ON COLUMN limit_rule.burst IS 'Held at most; lengths only';
COMMENT ON COLUMN limit_rule.token IS
    'Exact form of a length (src/base/rate.h): units in one token';
COMMENT ON COLUMN limit_rule.refill IS 'Units refilled in one tick; 0 never';
COMMENT ON COLUMN limit_rule.capacity IS 'Units held at most: burst x token';
COMMENT ON COLUMN limit_rule.tick IS 'Length of a tick in microseconds';
COMMENT ON COLUMN limit_rule.made IS
    'Since when this holder has a limit of this name, unit and scope, or'
    ' longer; null: since ever.  What was used before is none of its use';


CREATE TABLE IF NOT EXISTS limit_past (
    holder   uuid         NOT NULL,
    name     text         NOT NULL,
    unit     text         NOT NULL,
    service  text         NOT NULL,
    model    text         NOT NULL,
    made     timestamptz,
    PRIMARY KEY (holder, name, unit, service, model)
);

COMMENT ON TABLE limit_past IS
    'Limits that were taken away, or of a plan that was left: one that is made'
    ' again, or a plan''s of the same name, is as old as it was';
COMMENT ON COLUMN limit_past.holder IS 'Id of a key, an owner or a plan';
COMMENT ON COLUMN limit_past.service IS 'Empty: any';
COMMENT ON COLUMN limit_past.model IS 'Empty: any';
COMMENT ON COLUMN limit_past.made IS 'As in limit_rule; null: since ever';


CREATE TABLE IF NOT EXISTS credit (
    id          uuid         PRIMARY KEY DEFAULT uuid_v7(),
    key_id      uuid         UNIQUE REFERENCES key,
    owner_id    uuid         UNIQUE REFERENCES owner,
    unit        text         NOT NULL
                             CHECK (unit IN ('requests', 'tokens', 'cost')),
    total       bigint       NOT NULL
                             CHECK (total BETWEEN 0 AND 9007199254740991),
    used        bigint       NOT NULL CHECK (used >= 0),
    base        bigint       NOT NULL CHECK (base >= 0),
    refill      bigint       CHECK (refill BETWEEN 1 AND base),
    every       text         CHECK (every IN ('day', 'week', 'month')),
    refill_at   timestamptz,
    made        timestamptz  NOT NULL DEFAULT now(),
    place       uuid         REFERENCES owner,
    CHECK (num_nonnulls(key_id, owner_id) = 1),
    CHECK (num_nonnulls(refill, every, refill_at) IN (0, 3))
);

ALTER TABLE credit
    ADD COLUMN IF NOT EXISTS filled bigint,
    ADD COLUMN IF NOT EXISTS filled_at timestamptz;

UPDATE credit SET filled = greatest(total - used, 0), filled_at = now()
WHERE filled IS NULL;

COMMENT ON TABLE credit IS
    'Credits of keys and owners: what may be used in all, added to by hand';
COMMENT ON COLUMN credit.total IS
    'base and all that was ever granted, in units (cost: nano-units)';
COMMENT ON COLUMN credit.used IS
    'base and what shipped usage has taken, less what refills gave back:'
    ' total - used is left.  Nodes count on their own and read it where they'
    ' have lost their count';
COMMENT ON COLUMN credit.base IS
    'Where used begins: as far up as any refill, which takes it down';
COMMENT ON COLUMN credit.refill IS
    'As much is left at least when a period begins';
COMMENT ON COLUMN credit.every IS
    'The period, in the owner''s time zone and from its anchor day';
COMMENT ON COLUMN credit.refill_at IS 'When the next period begins';
COMMENT ON COLUMN credit.filled IS
    'What was left when they were last set, added to or filled up, of which'
    ' alerts tell percent';
COMMENT ON COLUMN credit.filled_at IS 'When that was';
COMMENT ON COLUMN credit.place IS
    'The owner whose time zone it goes by; null: UTC, from the first';

CREATE INDEX IF NOT EXISTS credit_place ON credit (place);
CREATE INDEX IF NOT EXISTS credit_refill ON credit (refill_at)
    WHERE refill_at IS NOT NULL;


CREATE TABLE IF NOT EXISTS calendar (
    id          uuid         PRIMARY KEY,
    zone        text         NOT NULL,
    anchor_day  int          NOT NULL,
    unit        text         NOT NULL CHECK (unit IN ('day', 'week', 'month')),
    bounds      bigint[]     NOT NULL,
    checked_at  timestamptz  NOT NULL DEFAULT now(),
    version     bigint       NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE calendar IS
    'When periods begin, in UTC: nodes know no time zones';
COMMENT ON COLUMN calendar.id IS 'Made of what it is: calendar_id()';
COMMENT ON COLUMN calendar.anchor_day IS
    'Day of the month at which months begin; 1 for days and weeks';
COMMENT ON COLUMN calendar.bounds IS
    'Microseconds since 1970, rising, from the last period on for two years';
COMMENT ON COLUMN calendar.checked_at IS
    'When bounds were last held against the time zone data';

GRANT SELECT, INSERT, UPDATE ON calendar TO apikey_gateway;


CREATE TABLE IF NOT EXISTS price (
    id             uuid         PRIMARY KEY DEFAULT uuid_v7(),
    service        text         CHECK (char_length(service) BETWEEN 1 AND 255),
    model          text         CHECK (char_length(model) BETWEEN 1 AND 255),
    plan           text         CHECK (plan ~ '^[a-z0-9_-]{1,64}$'),
    valid_from     timestamptz  NOT NULL DEFAULT now(),
    input_per_1m   bigint       CHECK (input_per_1m >= 0),
    output_per_1m  bigint       CHECK (output_per_1m >= 0),
    cached_per_1m  bigint       CHECK (cached_per_1m >= 0),
    per_request    bigint       NOT NULL DEFAULT 0 CHECK (per_request >= 0),
    created_at     timestamptz  NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    version        bigint       NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE price IS
    'What tokens and requests cost, from some time on, in nano-units';
COMMENT ON COLUMN price.service IS 'A pattern; null: any service';
COMMENT ON COLUMN price.model IS 'A pattern; null: any model, and none';
COMMENT ON COLUMN price.plan IS 'Of the key; null: any, and none';
COMMENT ON COLUMN price.valid_from IS
    'Until a later one of the same service, model and plan';
COMMENT ON COLUMN price.input_per_1m IS
    'For a million tokens; null: unknown, as for output';
COMMENT ON COLUMN price.cached_per_1m IS 'null: as other input';
COMMENT ON COLUMN price.version IS
    'Of its last change; usage records say it as price_version';

CREATE INDEX IF NOT EXISTS price_version ON price (version);

GRANT SELECT, INSERT, UPDATE ON price TO apikey_gateway;


CREATE TABLE IF NOT EXISTS price_list (
    id       uuid    PRIMARY KEY
                     CHECK (id = '00000000-0000-8000-8000-707269636573'),
    version  bigint  NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE price_list IS
    'One row that changes with any price: nodes load all prices as one';

GRANT SELECT, INSERT, UPDATE ON price_list TO apikey_gateway;


CREATE TABLE IF NOT EXISTS model (
    id              uuid         PRIMARY KEY DEFAULT uuid_v7(),
    external        text         NOT NULL UNIQUE
                                 CHECK (char_length(external)
                                        BETWEEN 1 AND 255),
    name            text         NOT NULL
                                 CHECK (char_length(name) BETWEEN 1 AND 255),
    capabilities    text[]       NOT NULL DEFAULT '{}',
    context_length  bigint       CHECK (context_length >= 0),
    created_at      timestamptz  NOT NULL DEFAULT now(),
    updated_at      timestamptz  NOT NULL DEFAULT now(),
    version         bigint       NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE model IS
    'Models that are offered, for people and clients to read';
COMMENT ON COLUMN model.external IS 'Its name in requests: "id" in the API';
COMMENT ON COLUMN model.capabilities IS 'Such as chat and vision';
COMMENT ON COLUMN model.context_length IS 'In tokens';

GRANT SELECT, INSERT, UPDATE, DELETE ON model TO apikey_gateway;


CREATE TABLE IF NOT EXISTS audit (
    id           uuid         PRIMARY KEY DEFAULT uuid_v7(),
    at           timestamptz  NOT NULL DEFAULT clock_timestamp(),
    actor        text         NOT NULL,
    actor_kind   text         NOT NULL,
    address      text,
    action       text         NOT NULL,
    object_kind  text         NOT NULL,
    object_id    uuid         NOT NULL,
    before       jsonb,
    after        jsonb,
    request_id   uuid
);

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = 'apikey.audit'::regclass
                       AND attname = 'owner_id' AND NOT attisdropped)
    THEN
        ALTER TABLE audit ADD COLUMN owner_id uuid;

        UPDATE audit a SET owner_id = CASE a.object_kind
            WHEN 'owner' THEN a.object_id
            ELSE (SELECT k.owner_id FROM key k WHERE k.id = a.object_id) END
        WHERE a.object_kind IN ('owner', 'key');
    END IF;
END
$$;

COMMENT ON TABLE audit IS
    'One row for every change, in its transaction: no entry, no change';
COMMENT ON COLUMN audit.actor IS
    'Name of the operator, id of the key, or the owner''s own id';
COMMENT ON COLUMN audit.actor_kind IS
    'operator, owner or key; node: what was due, as a plan_next';
COMMENT ON COLUMN audit.address IS 'Client address of the admin request';
COMMENT ON COLUMN audit.action IS
    'create, update, revoke, rotate, end_secret, delete, correct';
COMMENT ON COLUMN audit.object_kind IS
    'key, owner, plan, price, model, alert, webhook or usage';
COMMENT ON COLUMN audit.before IS
    'The object as the API shows it before the change; holds no secret';
COMMENT ON COLUMN audit.after IS 'The same after the change';
COMMENT ON COLUMN audit.owner_id IS
    'Who owns the object, and so may see the entry; null: only operators';

CREATE INDEX IF NOT EXISTS audit_at ON audit (at, id);
CREATE INDEX IF NOT EXISTS audit_object ON audit (object_kind, object_id, id);
CREATE INDEX IF NOT EXISTS audit_owner ON audit (owner_id, at, id);


CREATE TABLE IF NOT EXISTS idempotency (
    actor    text         NOT NULL,
    key      text         NOT NULL,
    digest   bytea        NOT NULL,
    status   int          NOT NULL,
    headers  text         NOT NULL,
    body     text         NOT NULL,
    refresh  text         NOT NULL,
    at       timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, key)
);

ALTER TABLE idempotency ADD COLUMN IF NOT EXISTS claim uuid;

COMMENT ON TABLE idempotency IS
    'Answers to POST with an Idempotency-Key, for 24 hours';
COMMENT ON COLUMN idempotency.actor IS 'Who asked: apikey.actor';
COMMENT ON COLUMN idempotency.key IS 'The Idempotency-Key as sent';
COMMENT ON COLUMN idempotency.digest IS
    'SHA-256 of function, path, query and body: the same key with another'
    ' request is a mistake';
COMMENT ON COLUMN idempotency.body IS
    'The answer, with null where a new key''s plaintext stood';
COMMENT ON COLUMN idempotency.refresh IS
    'What a node that repeats the answer must know first';
COMMENT ON COLUMN idempotency.claim IS
    'The request_id of the verify that is yet to give the answer (status 0)';

CREATE INDEX IF NOT EXISTS idempotency_at ON idempotency (at);


-- Row-level security for the gateway.  A plain key sees itself and, to know
-- its limits, its owner.  An owner sees and writes its own keys, and limits
-- of those it made.  Operators see all, and one with role=read only reads.

ALTER TABLE owner ENABLE ROW LEVEL SECURITY;
ALTER TABLE key ENABLE ROW LEVEL SECURITY;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE limit_rule ENABLE ROW LEVEL SECURITY;
ALTER TABLE limit_past ENABLE ROW LEVEL SECURITY;
ALTER TABLE credit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS operator_all ON owner;
DROP POLICY IF EXISTS operator_all ON key;
DROP POLICY IF EXISTS operator_all ON secret;
DROP POLICY IF EXISTS operator_all ON limit_rule;
DROP POLICY IF EXISTS operator_all ON credit;
DROP POLICY IF EXISTS operator_add ON audit;
DROP POLICY IF EXISTS operator_see ON owner;
DROP POLICY IF EXISTS operator_see ON key;
DROP POLICY IF EXISTS operator_see ON secret;
DROP POLICY IF EXISTS operator_see ON limit_rule;
DROP POLICY IF EXISTS operator_see ON limit_past;
DROP POLICY IF EXISTS operator_see ON credit;
DROP POLICY IF EXISTS operator_see ON audit;
DROP POLICY IF EXISTS key_see ON owner;
DROP POLICY IF EXISTS key_see ON key;
DROP POLICY IF EXISTS key_see ON secret;
DROP POLICY IF EXISTS key_see ON limit_rule;
DROP POLICY IF EXISTS key_see ON limit_past;
DROP POLICY IF EXISTS key_see ON credit;
DROP POLICY IF EXISTS owner_see ON owner;
DROP POLICY IF EXISTS owner_see ON key;
DROP POLICY IF EXISTS owner_add ON key;
DROP POLICY IF EXISTS owner_change ON key;
DROP POLICY IF EXISTS owner_all ON secret;
DROP POLICY IF EXISTS owner_see ON limit_rule;
DROP POLICY IF EXISTS owner_see ON limit_past;
DROP POLICY IF EXISTS owner_see ON credit;
DROP POLICY IF EXISTS node_all ON credit;
DROP POLICY IF EXISTS owner_all ON limit_rule;
DROP POLICY IF EXISTS owner_see ON audit;
DROP POLICY IF EXISTS owner_add ON audit;
DROP POLICY IF EXISTS own_all ON idempotency;
DROP POLICY IF EXISTS node_drop ON idempotency;

CREATE POLICY operator_all ON owner TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_all ON key TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_all ON secret TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_all ON limit_rule TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_all ON credit TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_add ON audit FOR INSERT TO apikey_gateway
    WITH CHECK ((SELECT caller()) = 'operator');

CREATE POLICY operator_see ON owner FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY operator_see ON key FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY operator_see ON secret FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY operator_see ON limit_rule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY operator_see ON limit_past FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('operator', 'operator_read', 'node'));
CREATE POLICY operator_see ON credit FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY operator_see ON audit FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('operator', 'operator_read'));

CREATE POLICY key_see ON owner FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key' AND id = (SELECT caller_owner()));
CREATE POLICY key_see ON key FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key' AND id = (SELECT caller_key()));
CREATE POLICY key_see ON secret FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key' AND key_id = (SELECT caller_key()));
CREATE POLICY key_see ON limit_rule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key'
        AND (key_id = (SELECT caller_key())
             OR owner_id = (SELECT caller_owner())));
CREATE POLICY key_see ON limit_past FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key'
        AND holder IN ((SELECT caller_key()), (SELECT caller_owner())));

CREATE POLICY key_see ON credit FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'key'
        AND (key_id = (SELECT caller_key())
             OR owner_id = (SELECT caller_owner())));

-- caller_identity() is how enter() finds the owner of who is logged in

CREATE POLICY owner_see ON owner FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (id = (SELECT caller_owner())
             OR external = (SELECT caller_identity())));
CREATE POLICY owner_see ON key FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND owner_id = (SELECT caller_owner()));
CREATE POLICY owner_add ON key FOR INSERT TO apikey_gateway
    WITH CHECK ((SELECT caller()) = 'owner'
        AND owner_id = (SELECT caller_owner())
        AND made_by = 'owner' AND plan IS NULL);
CREATE POLICY owner_change ON key FOR UPDATE TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND owner_id = (SELECT caller_owner()));
-- not EXISTS nor IN, for which the planner may hash all keys of the owner

CREATE POLICY owner_all ON secret TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (SELECT k.owner_id FROM key k WHERE k.id = key_id)
            = (SELECT caller_owner()));
CREATE POLICY owner_see ON limit_rule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (owner_id = (SELECT caller_owner())
             OR (SELECT k.owner_id FROM key k WHERE k.id = key_id)
                = (SELECT caller_owner())));
CREATE POLICY owner_see ON limit_past FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (holder = (SELECT caller_owner())
             OR (SELECT k.owner_id FROM key k WHERE k.id = holder)
                = (SELECT caller_owner())));
CREATE POLICY owner_see ON credit FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (owner_id = (SELECT caller_owner())
             OR (SELECT k.owner_id FROM key k WHERE k.id = key_id)
                = (SELECT caller_owner())));
CREATE POLICY node_all ON credit TO apikey_gateway
    USING ((SELECT caller()) = 'node');
CREATE POLICY owner_all ON limit_rule TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (SELECT k.owner_id FROM key k
             WHERE k.id = key_id AND k.made_by = 'owner')
            = (SELECT caller_owner()));
CREATE POLICY owner_see ON audit FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND owner_id = (SELECT caller_owner()));
CREATE POLICY owner_add ON audit FOR INSERT TO apikey_gateway
    WITH CHECK ((SELECT caller()) = 'owner' AND actor_kind = 'owner'
        AND owner_id = (SELECT caller_owner()));

CREATE POLICY own_all ON idempotency TO apikey_gateway
    USING (actor = (SELECT caller_actor()));
CREATE POLICY node_drop ON idempotency TO apikey_gateway
    USING ((SELECT caller()) = 'node' AND at <= now() - interval '24 hours');

GRANT SELECT, INSERT, UPDATE ON owner, key TO apikey_gateway;
GRANT SELECT (id, key_id, start, last4, created_at, expires_at, ended_at)
    ON secret TO apikey_gateway;
GRANT INSERT ON secret TO apikey_gateway;
GRANT UPDATE (expires_at, ended_at) ON secret TO apikey_gateway;
GRANT SELECT, INSERT, DELETE ON limit_rule TO apikey_gateway;
GRANT SELECT ON limit_past TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON credit TO apikey_gateway;
GRANT SELECT, INSERT ON audit TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO apikey_gateway;


-- What an owner may never change of its keys: policies see one version of a
-- row only.

CREATE OR REPLACE FUNCTION key_guard()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF (NEW.id, NEW.owner_id, NEW.plan, NEW.prefix, NEW.made_by,
            NEW.created_at)
        IS DISTINCT FROM (OLD.id, OLD.owner_id, OLD.plan, OLD.prefix,
            OLD.made_by, OLD.created_at)
        OR (NOT OLD.enabled AND OLD.disabled_by_owner IS NOT TRUE
            AND (NEW.enabled OR NEW.disabled_by_owner))
    THEN
        RAISE EXCEPTION 'an owner may not change this of key %', OLD.id
            USING ERRCODE = '42501';
    END IF;

    RETURN NEW;
END
$$;

COMMENT ON FUNCTION key_guard() IS
    'Trigger: refuses an owner what only an operator may change of a key';

GRANT EXECUTE ON FUNCTION key_guard() TO apikey_gateway;

CREATE OR REPLACE TRIGGER guard
    BEFORE UPDATE OF id, owner_id, plan, prefix, made_by, created_at, enabled,
        disabled_by_owner ON key
    FOR EACH ROW WHEN (current_setting('apikey.caller', true) = 'owner')
    EXECUTE FUNCTION key_guard();

COMMENT ON TRIGGER guard ON key IS 'What an owner may never change';
