--
-- The last file: what it says is true once every file before it is applied.
--
-- The number is raised by one, together with APIKEY_SCHEMA in
-- src/base/version.h, when a release changes anything in these files that the
-- module relies on; a module that finds a lower one says that the schema is
-- outdated.  Numbers up to 36 were those of files.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION schema_version()
RETURNS int
LANGUAGE sql STABLE
RETURN 112;

COMMENT ON FUNCTION schema_version() IS
    'What this schema can do, as a number that only grows';

GRANT EXECUTE ON FUNCTION schema_version() TO apikey_gateway, apikey_reader;
