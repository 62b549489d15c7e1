-- whagons_rte 0.1.0: the SQL surface. Functions whose names begin with an underscore are not for users.
\echo Use "CREATE EXTENSION whagons_rte" to load this file. \quit

CREATE SCHEMA rte;
COMMENT ON SCHEMA rte IS 'whagons_rte: live local copies of tables in browsers';

-- ---------------------------------------------------------------------------------------------------
-- Registrations
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE rte.registered_table (
    relation      regclass    PRIMARY KEY,
    columns       name[],
    -- Says whose tenant's a row is; NULL: rows belong to nobody in particular.
    tenant_column name,
    -- Partitions whose triggers are made. Dumped, because a restore makes the triggers too, and not twice.
    partitions    regclass[]  NOT NULL DEFAULT '{}',
    registered_at timestamptz NOT NULL DEFAULT now(),
    -- t: by triggers; w: from the WAL, its triggers are disabled; d: by triggers again, but the log may not yet hold all
    -- that was captured from the WAL before.
    capture       "char"      NOT NULL DEFAULT 't' CHECK (capture IN ('t', 'w', 'd'))
);
COMMENT ON TABLE rte.registered_table IS 'Tables whose changes are captured; columns NULL means all. Dumped and restored.';
SELECT pg_catalog.pg_extension_config_dump('rte.registered_table', '');

-- Replica identities that capture from the WAL has replaced by FULL, to be restored. Dumped, because FULL is too.
CREATE TABLE rte.replaced_identity (
    relation regclass PRIMARY KEY,
    identity "char"   NOT NULL
);
COMMENT ON TABLE rte.replaced_identity IS 'Replica identities that tables have while they are not captured from the WAL. Dumped and restored.';
SELECT pg_catalog.pg_extension_config_dump('rte.replaced_identity', '');

-- The names that the numbers of registered columns had when we last looked: tells a renamed column from a
-- dropped one. Not dumped: numbers differ after a restore.
CREATE TABLE rte.registered_column (
    relation  oid     NOT NULL,
    number    int2    NOT NULL,
    name      name    NOT NULL,
    is_tenant boolean NOT NULL DEFAULT false,
    PRIMARY KEY (relation, number, is_tenant)
);
COMMENT ON TABLE rte.registered_column IS 'Numbers of the columns that registrations name';

-- The grants that registered tables had when we last looked: tells whose grants a GRANT has changed. Not dumped.
CREATE TABLE rte.registered_grants (
    relation oid  PRIMARY KEY,
    grants   text NOT NULL
);
COMMENT ON TABLE rte.registered_grants IS 'Grants on registered tables and their columns, as text to compare';

-- Memberships of roles when we last looked. Changes of roles fire no event trigger and so leave no marker: the feeder
-- compares, and makes one. Not dumped.
CREATE TABLE rte.role_digest (
    digest text NOT NULL
);
COMMENT ON TABLE rte.role_digest IS 'Digest of the roles that sessions may have, and of their memberships';

-- Tables that policies of registered tables read: a change in one makes those policies worth asking again.
CREATE TABLE rte.policy_table (
    relation  regclass PRIMARY KEY,
    -- Asked for by somebody, not found in a policy.
    requested boolean  NOT NULL
);
COMMENT ON TABLE rte.policy_table IS 'Tables that policies of registered tables read; dumped and restored';
SELECT pg_catalog.pg_extension_config_dump('rte.policy_table', '');

-- ---------------------------------------------------------------------------------------------------
-- The change log. Columns are known by number to src/changelog: keep them in step.
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE rte.change_log (
    xid         xid8        NOT NULL,
    lsn         pg_lsn      NOT NULL,
    at          timestamptz NOT NULL,
    fingerprint int8        NOT NULL,
    cid         int4        NOT NULL,
    seq         int4        NOT NULL,
    relation    oid         NOT NULL,
    role        oid         NOT NULL,
    op          "char"      NOT NULL,
    new_row     bytea,
    old_row     bytea,
    mask        bytea
);
COMMENT ON TABLE rte.change_log IS 'Captured changes as row images; read rte.sync_log instead';
-- Values that are compressed in the row are stored as they are; a second compression costs writers and gains nothing.
ALTER TABLE rte.change_log ALTER new_row SET STORAGE EXTERNAL, ALTER old_row SET STORAGE EXTERNAL;

-- Segments are cut whole, never row by row: nothing for vacuum to do.
CREATE TABLE rte.change_log_0 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_1 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_2 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_3 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_4 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_5 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_6 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE rte.change_log_7 () INHERITS (rte.change_log) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
DO $$
BEGIN
    FOR n IN 0..7 LOOP
        EXECUTE format('COMMENT ON TABLE rte.change_log_%s IS %L', n, 'A segment of rte.change_log');
    END LOOP;
END $$;

CREATE TABLE rte.log_segment (
    segment    int4        PRIMARY KEY,
    generation int8        NOT NULL,
    opened_at  timestamptz NOT NULL,
    horizon    text
);
COMMENT ON TABLE rte.log_segment IS 'Order in which segments of the change log are used, and what a cursor must have seen to go on';
INSERT INTO rte.log_segment SELECT n, 8 - n, now(), NULL FROM generate_series(0, 7) n;

CREATE TABLE rte.server_start (
    start    int8        NOT NULL,
    boundary xid8        NOT NULL,
    lsn      pg_lsn      NOT NULL,
    at       timestamptz NOT NULL
);
COMMENT ON TABLE rte.server_start IS 'Starts of the server, each with the oldest transaction that could write after it';

-- At most one row; its slot is another's in a copy of a database that was made from a template.
CREATE TABLE rte.wal_position (
    slot     name   NOT NULL,
    position pg_lsn NOT NULL
);
COMMENT ON TABLE rte.wal_position IS 'WAL position up to which everything that is captured from the WAL is in the change log';

CREATE TABLE rte.server_key (
    key bytea NOT NULL
);
COMMENT ON TABLE rte.server_key IS 'Authenticates cursors; never dumped, so that cursors end with the database that made them';

-- ---------------------------------------------------------------------------------------------------
-- Tenants: databases beside this one, which is the landlord's. Columns are known to src/worker/feeder/tenants.
-- ---------------------------------------------------------------------------------------------------

CREATE TABLE rte.registered_tenant (
    name          text        PRIMARY KEY,
    domain        text,
    database      name        NOT NULL UNIQUE,
    registered_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX registered_tenant_domain ON rte.registered_tenant (lower(domain));
COMMENT ON TABLE rte.registered_tenant IS 'Tenants by rte.register_tenant(). Dumped and restored.';
SELECT pg_catalog.pg_extension_config_dump('rte.registered_tenant', '');

-- At most one row. The trigger on the table is dumped with the table.
CREATE TABLE rte.watched_tenants (
    only_one        boolean  PRIMARY KEY DEFAULT true CHECK (only_one),
    relation        regclass NOT NULL,
    name_column     name     NOT NULL,
    domain_column   name,
    database_column name
);
COMMENT ON TABLE rte.watched_tenants IS 'The table that rte.watch_tenants() follows. Dumped and restored.';
SELECT pg_catalog.pg_extension_config_dump('rte.watched_tenants', '');

REVOKE ALL ON ALL TABLES IN SCHEMA rte FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------------
-- Functions of the library
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte.capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rte_capture';
COMMENT ON FUNCTION rte.capture() IS 'Trigger: appends the change to the change log';

CREATE FUNCTION rte.policy_table_changed() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rte_policy_table_changed';
COMMENT ON FUNCTION rte.policy_table_changed() IS 'Trigger: marks in the change log that a table which policies read was changed';

CREATE FUNCTION rte._mark(relation oid, operation "char") RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rte_mark';
COMMENT ON FUNCTION rte._mark(oid, "char") IS 'Appends a marker (S: redefined, A: grants) to the change log';

CREATE FUNCTION rte._preloaded() RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rte_preloaded';
COMMENT ON FUNCTION rte._preloaded() IS 'Whether the library was loaded at the start of the server';

CREATE FUNCTION rte._wake() RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rte_wake';
COMMENT ON FUNCTION rte._wake() IS 'Wakes the workers of this database when the transaction commits';

CREATE FUNCTION rte._switching() RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rte_switching';
COMMENT ON FUNCTION rte._switching() IS 'Whether this process is switching how a table is captured, which changes nothing for clients';

CREATE FUNCTION rte._random_key() RETURNS bytea LANGUAGE c AS 'MODULE_PATHNAME', 'rte_random_key';
COMMENT ON FUNCTION rte._random_key() IS '32 bytes of the strong random source';

CREATE FUNCTION rte._workers(OUT pid int4, OUT kind text, OUT database oid, OUT state text, OUT started_at timestamptz)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'rte_workers_wrapper';
COMMENT ON FUNCTION rte._workers() IS 'Processes of whagons_rte; see rte.workers';

CREATE FUNCTION rte._report() RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'rte_report_wrapper';
COMMENT ON FUNCTION rte._report() IS 'Connections of this database as the gateway knows them, JSON';

CREATE FUNCTION rte._change_key(relation oid, fingerprint int8, new_row bytea, old_row bytea) RETURNS text
LANGUAGE c AS 'MODULE_PATHNAME', 'rte_change_key_wrapper';
COMMENT ON FUNCTION rte._change_key(oid, int8, bytea, bytea) IS 'Key of a captured row as a JSON object; NULL where the table has changed since';

CREATE FUNCTION rte._check_where(relation oid, condition text, params jsonb DEFAULT '[]') RETURNS text
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rte_check_where_wrapper';
COMMENT ON FUNCTION rte._check_where(oid, text, jsonb) IS 'What becomes of the where and params of a subscription, as an expression; an error where they are refused';

CREATE FUNCTION rte._explain_access(relation oid, role text, claims text, tenant_column int2,
                                    OUT path text, OUT predicate text, OUT index_column text, OUT reason text)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'rte_explain_access_wrapper';
COMMENT ON FUNCTION rte._explain_access(oid, text, text, int2) IS 'See rte.explain_access';

CREATE FUNCTION rte._is_landlord() RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rte_is_landlord';
COMMENT ON FUNCTION rte._is_landlord() IS 'Whether this database is rte.landlord_database';

CREATE FUNCTION rte._note_tenants() RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rte_note_tenants';
COMMENT ON FUNCTION rte._note_tenants() IS 'Has the tenants read again when the transaction commits';

CREATE FUNCTION rte.follow_tenants() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rte_follow_tenants';
COMMENT ON FUNCTION rte.follow_tenants() IS 'Trigger of the table that rte.watch_tenants() follows';

CREATE FUNCTION rte._tenant_problem(name text, domain text, database text) RETURNS text
LANGUAGE c AS 'MODULE_PATHNAME', 'rte_tenant_problem_wrapper';
COMMENT ON FUNCTION rte._tenant_problem(text, text, text) IS 'Why this cannot be a tenant; NULL where it can';

CREATE FUNCTION rte._tenants(OUT name text, OUT domain text, OUT database text, OUT source text, OUT problem text)
RETURNS SETOF record LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rte_tenants_wrapper';
COMMENT ON FUNCTION rte._tenants() IS 'Tenants of all sources, and why one of them is not served';

CREATE FUNCTION rte._databases(OUT database oid, OUT feeder int4, OUT connections int4, OUT waiting boolean, OUT extension text)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'rte_databases_wrapper';
COMMENT ON FUNCTION rte._databases() IS 'What shared memory knows of databases; see rte.tenants';

INSERT INTO rte.server_key VALUES (rte._random_key());

-- ---------------------------------------------------------------------------------------------------
-- Keys, columns, triggers
-- ---------------------------------------------------------------------------------------------------

-- The index by which clients know rows: the primary key, or else the replica identity's, never a deferrable one.
CREATE FUNCTION rte._key_index(relation oid) RETURNS oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.indexrelid FROM pg_index i
    WHERE i.indrelid = relation AND i.indisvalid AND i.indimmediate AND (i.indisprimary OR i.indisreplident)
    ORDER BY i.indisprimary DESC LIMIT 1
$$;
COMMENT ON FUNCTION rte._key_index(oid) IS 'Index of the key by which clients know the rows of a table';

CREATE FUNCTION rte._key_columns(relation oid) RETURNS name[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(a.attname ORDER BY k.place)
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE i.indexrelid = rte._key_index(relation) AND k.place <= i.indnkeyatts
$$;
COMMENT ON FUNCTION rte._key_columns(oid) IS 'Names of the key columns of a table';

-- Columns that clients may see: those that are registered, and always the key. Virtual generated columns are not
-- in the row that a trigger sees and cannot be followed.
CREATE FUNCTION rte._published_columns(relation oid, columns name[]) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(a.attname ORDER BY a.attnum)
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
      AND (columns IS NULL OR a.attname = ANY (columns) OR a.attname = ANY (rte._key_columns(relation)))
$$;
COMMENT ON FUNCTION rte._published_columns(oid, name[]) IS 'Names of the columns of a table that clients may see';

CREATE FUNCTION rte._create_trigger(target oid, name name, events text, level text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = target AND t.tgname = _create_trigger.name) THEN
        EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH %s EXECUTE FUNCTION rte.capture()',
                       name, events, target::regclass, level);
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION whagons_rte', name, target::regclass);
    END IF;
    -- Replicated writes count too.
    IF EXISTS (SELECT FROM pg_trigger t
               WHERE t.tgrelid = target AND t.tgname = _create_trigger.name AND t.tgenabled <> 'A') THEN
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target::regclass, name);
    END IF;
END $$;
COMMENT ON FUNCTION rte._create_trigger(oid, name, text, text) IS 'Creates a capture trigger where it is missing, and enables it';

-- Row triggers reach partitions by themselves, statement triggers do not: a TRUNCATE of a partition would be missed.
CREATE FUNCTION rte._create_partition_triggers(target oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known regclass[] := (SELECT t.partitions FROM rte.registered_table t WHERE t.relation = target);
    now   regclass[] := (SELECT coalesce(array_agg(t.relid ORDER BY t.relid), '{}')
                         FROM pg_partition_tree(target) t WHERE t.relid <> target);
    part  regclass;
BEGIN
    FOREACH part IN ARRAY now LOOP
        IF part <> ALL (known) THEN
            PERFORM rte._create_trigger(part, '!rte_capture_truncate', 'TRUNCATE', 'STATEMENT');
        END IF;
    END LOOP;
    IF now <> known THEN
        UPDATE rte.registered_table t SET partitions = now WHERE t.relation = target;
    END IF;
END $$;
COMMENT ON FUNCTION rte._create_partition_triggers(oid) IS 'Creates the capture triggers of partitions that are new';

CREATE FUNCTION rte._drop_triggers(relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part oid;
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', '!rte_capture', relation::regclass);
    FOR part IN SELECT t.relid FROM pg_partition_tree(relation) t
                UNION SELECT relation
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', '!rte_capture_truncate', part::regclass);
    END LOOP;
END $$;
COMMENT ON FUNCTION rte._drop_triggers(oid) IS 'Drops the capture triggers of a table and its partitions';

-- The tables whose triggers and replica identities are those of a registered table: itself, and its partitions.
CREATE FUNCTION rte._members(relation oid) RETURNS SETOF oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.relid::oid FROM pg_partition_tree(relation) t UNION SELECT relation
$$;
COMMENT ON FUNCTION rte._members(oid) IS 'A table and its partitions';

CREATE FUNCTION rte._slot_name() RETURNS name LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ('whagons_rte_' || d.oid)::name FROM pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION rte._slot_name() IS 'The replication slot of this database';

CREATE FUNCTION rte._slot_is_live() RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_replication_slots s
                   WHERE s.slot_name = rte._slot_name() AND s.plugin = 'whagons_rte' AND s.wal_status IS DISTINCT FROM 'lost')
$$;
COMMENT ON FUNCTION rte._slot_is_live() IS 'Whether changes can be read from the WAL';

-- Whether every change of the table is captured, on partitions too, and no crash empties it: its triggers are there and always
-- enabled, or the WAL has whole rows and is read.
CREATE FUNCTION rte._captured(relation oid, capture "char") RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN capture = 'w' THEN
        rte._slot_is_live() AND bool_and(EXISTS (
            SELECT FROM pg_class c
            WHERE c.oid = m AND c.relpersistence = 'p' AND (c.relkind = 'p' OR c.relreplident = 'f')))
    ELSE
        bool_and(EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = m AND t.tgname = '!rte_capture' AND t.tgenabled = 'A')
             AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = m AND t.tgname = '!rte_capture_truncate' AND t.tgenabled = 'A')
             AND EXISTS (SELECT FROM pg_class c WHERE c.oid = m AND c.relpersistence = 'p'))
    END
    FROM rte._members(relation) AS m
$$;
COMMENT ON FUNCTION rte._captured(oid, "char") IS 'Whether all changes of a table are captured, by triggers or from the WAL';

-- ---------------------------------------------------------------------------------------------------
-- Triggers or WAL: the state of the triggers is the mode, so a transaction that writes a table is captured wholly by one of the
-- two; it holds off whoever would change them.
-- ---------------------------------------------------------------------------------------------------

-- The replica identity is set in the catalog, because ALTER TABLE would lock out readers for what only writers heed, forget the
-- index that it was, and say so to whoever listens.
CREATE FUNCTION rte._replace_identities(target oid) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- What a user has set meanwhile is what it shall be later.
    INSERT INTO rte.replaced_identity AS r
    SELECT c.oid, c.relreplident FROM rte._members(target) AS m JOIN pg_class c ON c.oid = m
    WHERE c.relkind = 'r' AND c.relreplident <> 'f'
    ON CONFLICT (relation) DO UPDATE SET identity = EXCLUDED.identity;
    -- An index that is no longer marked: somebody has set FULL.
    DELETE FROM rte.replaced_identity r
    WHERE r.identity = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.relation AND i.indisreplident);
    UPDATE pg_class c SET relreplident = 'f' FROM rte._members(target) AS m
    WHERE c.oid = m AND c.relkind = 'r' AND c.relreplident <> 'f';
$$;
COMMENT ON FUNCTION rte._replace_identities(oid) IS 'Has the WAL hold whole old rows of a table and its partitions';

CREATE FUNCTION rte._restore_identities() RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM rte.replaced_identity r
        WHERE NOT EXISTS (SELECT FROM rte.registered_table t
                          WHERE t.capture = 'w' AND t.relation = coalesce(pg_partition_root(r.relation), r.relation))
        RETURNING r.relation, r.identity
    )
    UPDATE pg_class c SET relreplident = g.identity FROM gone g WHERE c.oid = g.relation AND c.relreplident = 'f';
$$;
COMMENT ON FUNCTION rte._restore_identities() IS 'Gives tables that are not captured from the WAL the replica identity that they had';

CREATE FUNCTION rte._disable_triggers(target oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT g.tgrelid::regclass AS relation, g.tgname AS name
             FROM rte._members(target) AS m JOIN pg_trigger g ON g.tgrelid = m
             WHERE g.tgname IN ('!rte_capture', '!rte_capture_truncate') AND g.tgenabled <> 'D'
    LOOP
        EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', t.relation, t.name);
    END LOOP;
END $$;
COMMENT ON FUNCTION rte._disable_triggers(oid) IS 'Disables the capture triggers of a table and its partitions';

CREATE FUNCTION rte._enable_triggers(target oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rte._create_trigger(target, '!rte_capture', 'INSERT OR UPDATE OR DELETE', 'ROW');
    PERFORM rte._create_trigger(m, '!rte_capture_truncate', 'TRUNCATE', 'STATEMENT') FROM rte._members(target) AS m;
    -- Where partitions got theirs from the root.
    PERFORM rte._create_trigger(g.tgrelid, g.tgname, '', '')
    FROM rte._members(target) AS m JOIN pg_trigger g ON g.tgrelid = m
    WHERE g.tgname = '!rte_capture' AND g.tgenabled <> 'A';
END $$;
COMMENT ON FUNCTION rte._enable_triggers(oid) IS 'Enables the capture triggers of a table and its partitions, and makes those that are missing';

-- Whether a transaction that will not end at once has the table: to queue for it would hold up writers behind us.
CREATE FUNCTION rte._is_held(target oid) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks l
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND l.relation IN (SELECT rte._members(target))
          AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
          -- A prepared transaction is nobody's.
          AND (a.pid IS NULL OR a.xact_start < clock_timestamp() - interval '100 milliseconds'))
$$;
COMMENT ON FUNCTION rte._is_held(oid) IS 'Whether a long transaction has written a table';

-- Called by the feeder, which bounds the wait for the lock. `lost`: changes may be missing, clients have to read the table anew.
-- False: it cannot be now.
CREATE FUNCTION rte._switch_table(target oid, mode "char", lost boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now "char";
BEGIN
    IF rte._is_held(target) THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE',
                   (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END FROM pg_class c WHERE c.oid = target) || target::regclass);
    SELECT t.capture INTO now FROM rte.registered_table t WHERE t.relation = target FOR UPDATE;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    IF mode = 'w' THEN
        PERFORM rte._disable_triggers(target);
        PERFORM rte._replace_identities(target);
        UPDATE rte.registered_table t SET capture = 'w' WHERE t.relation = target;
        RETURN true;
    END IF;
    IF now <> 'w' THEN
        RETURN true;
    END IF;
    IF lost AND (SELECT count(*) FROM pg_trigger g
                 WHERE g.tgrelid = target AND g.tgname IN ('!rte_capture', '!rte_capture_truncate')) < 2 THEN
        -- A dump is being restored, and will make them.
        RETURN false;
    END IF;
    PERFORM rte._enable_triggers(target);
    UPDATE rte.registered_table t SET capture = CASE WHEN lost THEN 't' ELSE 'd' END WHERE t.relation = target;
    PERFORM rte._restore_identities();
    IF lost THEN
        PERFORM rte._mark(target, 'S');
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION rte._switch_table(oid, "char", boolean) IS 'Has a table captured by triggers (d) or from the WAL (w)';

-- All that was captured from the WAL of tables that were switched to triggers is in the log, or never will be.
CREATE FUNCTION rte._settle_tables(lost boolean) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM rte.wal_position WHERE lost OR NOT EXISTS (SELECT FROM rte.registered_table t WHERE t.capture = 'w');
    WITH settled AS (
        UPDATE rte.registered_table t SET capture = 't' WHERE t.capture = 'd' RETURNING t.relation
    )
    SELECT rte._mark(s.relation, 'S') FROM settled s WHERE lost;
$$;
COMMENT ON FUNCTION rte._settle_tables(boolean) IS 'Ends the time in which changes of tables that were switched to triggers come from the WAL';

CREATE FUNCTION rte._note_columns(target oid) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM rte.registered_column c WHERE c.relation = target;
    INSERT INTO rte.registered_column
    SELECT t.relation, a.attnum, a.attname, false
    FROM rte.registered_table t
    JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = ANY (t.columns) AND a.attnum > 0
    WHERE t.relation = target
    UNION ALL
    SELECT t.relation, a.attnum, a.attname, true
    FROM rte.registered_table t
    JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = t.tenant_column AND a.attnum > 0
    WHERE t.relation = target;
$$;
COMMENT ON FUNCTION rte._note_columns(oid) IS 'Remembers the numbers of the registered columns of a table';

-- Marks the tables whose grants differ from what they were.
CREATE FUNCTION rte._note_grants(mark boolean) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH found AS (
        SELECT t.relation::oid AS relation,
               concat_ws('|', c.relacl::text,
                         (SELECT string_agg(a.attnum || ':' || a.attacl::text, '|' ORDER BY a.attnum)
                          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)) AS grants
        FROM rte.registered_table t JOIN pg_class c ON c.oid = t.relation
    ), changed AS (
        INSERT INTO rte.registered_grants AS g SELECT f.relation, f.grants FROM found f
        ON CONFLICT (relation) DO UPDATE SET grants = EXCLUDED.grants WHERE g.grants <> EXCLUDED.grants
        RETURNING g.relation
    )
    SELECT rte._mark(c.relation, 'A') FROM changed c WHERE mark;
$$;
COMMENT ON FUNCTION rte._note_grants(boolean) IS 'Remembers the grants of registered tables, and marks those whose changed';

-- ---------------------------------------------------------------------------------------------------
-- Roles
-- ---------------------------------------------------------------------------------------------------

-- Of the roles that sessions may act as, and those that these are members of.
CREATE FUNCTION rte._role_digest() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE role(oid) AS (
        SELECT r.oid FROM pg_roles r
        WHERE r.rolname IN (current_setting('rte.authenticator_role', true), current_setting('rte.anon_role', true))
        UNION
        SELECT m.roleid FROM role JOIN pg_auth_members m ON m.member = role.oid
    )
    SELECT md5(concat_ws('|',
        (SELECT string_agg(concat_ws(',', r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolinherit), '|' ORDER BY r.oid)
         FROM role JOIN pg_roles r USING (oid)),
        (SELECT string_agg((to_jsonb(m) - 'oid')::text, '|' ORDER BY m.roleid, m.member, m.grantor)
         FROM role JOIN pg_auth_members m ON m.member = role.oid)))
$$;
COMMENT ON FUNCTION rte._role_digest() IS 'Digest of the roles that sessions may have, and of their memberships';

CREATE FUNCTION rte._note_roles() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now text := rte._role_digest();
BEGIN
    IF EXISTS (SELECT FROM rte.role_digest d WHERE d.digest = now) THEN
        RETURN;
    END IF;
    DELETE FROM rte.role_digest;
    INSERT INTO rte.role_digest VALUES (now);
    PERFORM rte._mark(t.relation, 'A') FROM rte.registered_table t;
END $$;
COMMENT ON FUNCTION rte._note_roles() IS 'Remembers the roles that sessions may have, and marks that access may have changed where they are others';

-- ---------------------------------------------------------------------------------------------------
-- Tables that policies read
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte._watch_policy_table(target oid, requested boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event record;
BEGIN
    INSERT INTO rte.policy_table AS p VALUES (target, requested)
    ON CONFLICT (relation) DO UPDATE SET requested = p.requested OR EXCLUDED.requested;
    FOR event IN SELECT * FROM (VALUES ('!rte_policy', 'INSERT OR UPDATE OR DELETE', 'ROW'),
                                       ('!rte_policy_truncate', 'TRUNCATE', 'STATEMENT')) AS e(name, events, level)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = target AND t.tgname = event.name) THEN
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH %s EXECUTE FUNCTION rte.policy_table_changed()',
                           event.name, event.events, target::regclass, event.level);
            EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION whagons_rte', event.name, target::regclass);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target::regclass, event.name);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION rte._watch_policy_table(oid, boolean) IS 'Creates the triggers of a table that policies read';

CREATE FUNCTION rte._unwatch_policy_table(target oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rte.policy_table p WHERE p.relation = target;
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', '!rte_policy', target::regclass);
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', '!rte_policy_truncate', target::regclass);
END $$;
COMMENT ON FUNCTION rte._unwatch_policy_table(oid) IS 'Drops the triggers of a table that policies read no more';

-- What the policies of registered tables name. What functions in them read is not known here: their tables can be
-- watched by request, and the feeder notices those that are not.
CREATE FUNCTION rte._read_by_policies() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT coalesce(pg_partition_root(d.refobjid::regclass)::oid, d.refobjid)
    FROM rte.registered_table t
    JOIN pg_policy p ON p.polrelid = t.relation
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.refobjid
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace <> 'pg_catalog'::regnamespace AND d.refobjid <> p.polrelid
      AND NOT EXISTS (SELECT FROM rte.registered_table o WHERE o.relation = d.refobjid)
$$;
COMMENT ON FUNCTION rte._read_by_policies() IS 'Tables that policies of registered tables name and that are not registered themselves';

CREATE FUNCTION rte._note_policies() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rte._watch_policy_table(r, false) FROM rte._read_by_policies() AS r
    WHERE r NOT IN (SELECT p.relation FROM rte.policy_table p);
    PERFORM rte._unwatch_policy_table(p.relation) FROM rte.policy_table p
    WHERE NOT p.requested AND p.relation::oid NOT IN (SELECT rte._read_by_policies());
END $$;
COMMENT ON FUNCTION rte._note_policies() IS 'Watches the tables that policies read now, and no others';

CREATE FUNCTION rte.watch_policy_table(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind "char" := (SELECT c.relkind FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'no table was given' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'cannot watch "%": not a table', relation
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch the tables that a view reads.';
    END IF;
    PERFORM rte._watch_policy_table(relation, true);
    PERFORM rte._mark(t.relation, 'A') FROM rte.registered_table t;
END $$;
COMMENT ON FUNCTION rte.watch_policy_table(regclass) IS 'Follows the changes of a table that functions in policies read';

CREATE FUNCTION rte.unwatch_policy_table(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE rte.policy_table p SET requested = false WHERE p.relation = unwatch_policy_table.relation AND p.requested;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table "%" is not watched by request', relation
            USING ERRCODE = 'undefined_object', HINT = 'rte.policy_tables lists the watched tables.';
    END IF;
    PERFORM rte._note_policies();
    PERFORM rte._mark(t.relation, 'A') FROM rte.registered_table t;
END $$;
COMMENT ON FUNCTION rte.unwatch_policy_table(regclass) IS 'Ends what rte.watch_policy_table() began';

-- ---------------------------------------------------------------------------------------------------
-- Registration
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte.register_table(relation regclass, columns name[] DEFAULT NULL, tenant_column name DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class  pg_class;
    bad    text;
    hidden text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'no table was given' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT * INTO class FROM pg_class c WHERE c.oid = relation;
    IF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'cannot register "%": not a table', class.relname
            USING ERRCODE = 'wrong_object_type', HINT = 'Register the tables that a view reads.';
    END IF;
    IF class.relnamespace IN ('pg_catalog'::regnamespace, 'rte'::regnamespace) THEN
        RAISE EXCEPTION 'cannot register "%": a system table', class.relname USING ERRCODE = 'wrong_object_type';
    END IF;
    IF class.relpersistence <> 'p' THEN
        RAISE EXCEPTION 'cannot register "%": a table that is not permanent', class.relname
            USING ERRCODE = 'wrong_object_type',
                  DETAIL = 'A crash empties unlogged tables, and temporary ones end with their session, without a change that could be captured.',
                  HINT = 'Use ALTER TABLE ... SET LOGGED.';
    END IF;
    IF class.relispartition THEN
        RAISE EXCEPTION 'cannot register "%": a partition', class.relname
            USING ERRCODE = 'wrong_object_type', HINT = 'Register the partitioned table at its root.';
    END IF;
    SELECT string_agg(p.relid::text, ', ') INTO bad
    FROM (SELECT t.relid FROM pg_partition_tree(relation) t UNION SELECT relation) p
    JOIN pg_class c ON c.oid = p.relid
    LEFT JOIN pg_am m ON m.oid = c.relam
    WHERE c.relkind NOT IN ('r', 'p') OR c.relkind = 'r' AND m.amname <> 'heap';
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register "%": % is not an ordinary table', class.relname, bad
            USING ERRCODE = 'wrong_object_type', DETAIL = 'Foreign tables and other table access methods than heap are not captured.';
    END IF;
    IF rte._key_index(relation) IS NULL THEN
        IF EXISTS (SELECT FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary) THEN
            RAISE EXCEPTION 'cannot register "%": its primary key is deferrable', class.relname
                USING ERRCODE = 'invalid_table_definition', HINT = 'Make the primary key NOT DEFERRABLE.';
        END IF;
        RAISE EXCEPTION 'cannot register "%": it has no primary key', class.relname
            USING ERRCODE = 'invalid_table_definition',
                  DETAIL = 'Clients know rows by their key.',
                  HINT = 'Add a primary key, or name a unique index with ALTER TABLE ... REPLICA IDENTITY USING INDEX.';
    END IF;
    SELECT string_agg(format('"%s"', c.name), ', ') INTO bad
    FROM unnest(columns) AS c(name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register "%": no such column: %', class.relname, bad USING ERRCODE = 'undefined_column';
    END IF;
    IF tenant_column IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_attribute a
                       WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'cannot register "%": no such column: "%"', class.relname, tenant_column
                USING ERRCODE = 'undefined_column';
        END IF;
        IF EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attgenerated = 'v') THEN
            RAISE EXCEPTION 'cannot register "%": the tenant''s column "%" is virtual', class.relname, tenant_column
                USING ERRCODE = 'feature_not_supported', HINT = 'Make it STORED.';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_attribute a
                       WHERE a.attrelid = relation AND a.attname = tenant_column
                         AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype,
                                            'varchar'::regtype, 'uuid'::regtype)) THEN
            RAISE EXCEPTION 'cannot register "%": the tenant''s column "%" is of a type that tokens cannot name',
                            class.relname, tenant_column
                USING ERRCODE = 'datatype_mismatch', HINT = 'Use an integer, text, varchar or uuid.';
        END IF;
    END IF;
    SELECT string_agg(format('"%s"', a.attname), ', ') INTO hidden
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND a.attgenerated = 'v' AND (columns IS NULL OR a.attname = ANY (columns));
    IF hidden IS NOT NULL AND columns IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register "%": virtual generated columns cannot be followed: %', class.relname, hidden
            USING ERRCODE = 'feature_not_supported', HINT = 'Make them STORED, or leave them out.';
    ELSIF hidden IS NOT NULL THEN
        RAISE NOTICE 'virtual generated columns of "%" are left out: %', class.relname, hidden
            USING HINT = 'Make them STORED to have them in copies.';
    END IF;

    -- Names begin with '!' so that capture fires before other triggers of the same event.
    PERFORM rte._create_trigger(relation, '!rte_capture', 'INSERT OR UPDATE OR DELETE', 'ROW');
    PERFORM rte._create_trigger(relation, '!rte_capture_truncate', 'TRUNCATE', 'STATEMENT');
    INSERT INTO rte.registered_table (relation, columns, tenant_column)
    VALUES (register_table.relation, register_table.columns, register_table.tenant_column)
    ON CONFLICT ON CONSTRAINT registered_table_pkey
    DO UPDATE SET columns = EXCLUDED.columns, tenant_column = EXCLUDED.tenant_column, partitions = '{}',
                  -- By triggers, for now.
                  capture = CASE registered_table.capture WHEN 't' THEN 't' ELSE 'd' END;
    PERFORM rte._create_partition_triggers(relation);
    PERFORM rte._enable_triggers(relation);
    PERFORM rte._restore_identities();
    PERFORM rte._note_columns(relation);
    PERFORM rte._note_grants(false);
    PERFORM rte._note_policies();
    PERFORM rte._mark(relation, 'S');
    IF NOT rte._preloaded() THEN
        RAISE WARNING 'whagons_rte is not in shared_preload_libraries'
            USING DETAIL = 'The table is registered, but no worker serves it.',
                  HINT = 'Add whagons_rte to shared_preload_libraries and restart the server.';
    END IF;
END $$;
COMMENT ON FUNCTION rte.register_table(regclass, name[], name) IS
    'Makes a table available to clients: all its columns, or those given and the key; with a tenant''s column only the rows of a session''s own tenant';

CREATE FUNCTION rte.unregister_table(relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rte.registered_table t WHERE t.relation = unregister_table.relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table "%" is not registered', relation
            USING ERRCODE = 'undefined_object', HINT = 'rte.tables lists the registered tables.';
    END IF;
    DELETE FROM rte.registered_column c WHERE c.relation = unregister_table.relation;
    DELETE FROM rte.registered_grants g WHERE g.relation = unregister_table.relation;
    PERFORM rte._drop_triggers(relation);
    PERFORM rte._restore_identities();
    PERFORM rte._note_policies();
    PERFORM rte._mark(relation, 'S');
END $$;
COMMENT ON FUNCTION rte.unregister_table(regclass) IS 'Takes a table away from clients and stops its capture';

CREATE FUNCTION rte.explain_access(relation regclass, role name, claims jsonb DEFAULT '{}',
                                   OUT path text, OUT predicate text, OUT index_column text, OUT reason text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.path, e.predicate, e.index_column, e.reason
    FROM rte._explain_access(relation, role::text, claims::text,
                             (SELECT a.attnum FROM rte.registered_table t
                              JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = t.tenant_column
                              WHERE t.relation = explain_access.relation)) AS e
$$;
COMMENT ON FUNCTION rte.explain_access(regclass, name, jsonb) IS
    'How the rows of a table are told from others for a role with these claims: on the row alone (folded), or by asking (asked) and why';

-- ---------------------------------------------------------------------------------------------------
-- Tenants
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte._check_landlord(what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT rte._is_landlord() THEN
        RAISE EXCEPTION 'cannot %: this is not the landlord database', what
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('rte.landlord_database is "%s", and tenants are read from it only.',
                                  current_setting('rte.landlord_database', true)),
                  HINT = 'Connect to that database.';
    END IF;
END $$;
COMMENT ON FUNCTION rte._check_landlord(text) IS 'Raises an error outside the landlord database';

CREATE FUNCTION rte.register_tenant(name text, domain text DEFAULT NULL, database name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    host    text := nullif(domain, '');
    target  text := coalesce(database::text, name);
    problem text;
    other   text;
BEGIN
    PERFORM rte._check_landlord('register a tenant');
    problem := rte._tenant_problem(name, host, target);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register tenant "%": %', coalesce(name, ''), problem
            USING ERRCODE = CASE WHEN problem LIKE '%reserved%' THEN 'reserved_name' ELSE 'invalid_parameter_value' END;
    END IF;
    -- One at a time, so that names and domains cannot pass each other.
    LOCK TABLE rte.registered_tenant IN SHARE ROW EXCLUSIVE MODE;
    SELECT t.name INTO other FROM rte.registered_tenant t
    WHERE lower(register_tenant.name) IN (lower(t.name), lower(t.domain)) OR lower(host) IN (lower(t.name), lower(t.domain));
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register tenant "%": its name or domain is taken by tenant "%"', name, other
            USING ERRCODE = 'duplicate_object',
                  HINT = 'To change a tenant, call rte.unregister_tenant() and rte.register_tenant() in one transaction.';
    END IF;
    SELECT t.name INTO other FROM rte.registered_tenant t WHERE t.database = target::name;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'cannot register tenant "%": database "%" is that of tenant "%"', name, target, other
            USING ERRCODE = 'duplicate_object', HINT = 'Each tenant has a database of its own.';
    END IF;
    INSERT INTO rte.registered_tenant VALUES (name, host, target::name);
    PERFORM rte._note_tenants();
    IF NOT rte._preloaded() THEN
        RAISE WARNING 'whagons_rte is not in shared_preload_libraries'
            USING DETAIL = 'The tenant is registered, but no worker serves it.',
                  HINT = 'Add whagons_rte to shared_preload_libraries and restart the server.';
    END IF;
END $$;
COMMENT ON FUNCTION rte.register_tenant(text, text, name) IS 'Has clients of a tenant served from its own database, which may come later; its name is the tenant''s unless given';

CREATE FUNCTION rte.unregister_tenant(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rte.registered_tenant t WHERE t.name = unregister_tenant.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant "%" is not registered', name
            USING ERRCODE = 'undefined_object',
                  HINT = 'rte.tenants lists tenants; those of a watched table are removed by deleting their rows.';
    END IF;
    PERFORM rte._note_tenants();
END $$;
COMMENT ON FUNCTION rte.unregister_tenant(text) IS 'Takes a tenant away: its connections are closed, its database stays as it is';

CREATE FUNCTION rte._check_tenant_column(relation regclass, column_name name, what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
BEGIN
    SELECT format_type(a.atttypid, a.atttypmod) AS type, y.typcategory AS category, a.attgenerated AS generated INTO col
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'cannot watch "%": it has no column "%" for the %', relation, column_name, what
            USING ERRCODE = 'undefined_column',
                  HINT = format('Name the column: %1$s_column => ''...''%2$s.', what,
                                CASE WHEN what <> 'name' THEN format(', or %s_column => NULL where there is none', what) END);
    END IF;
    IF col.category <> 'S' OR col.generated = 'v' THEN
        RAISE EXCEPTION 'cannot watch "%": column "%" is %, not text', relation, column_name,
                        CASE col.generated WHEN 'v' THEN 'virtual' ELSE 'of type ' || col.type END
            USING ERRCODE = 'datatype_mismatch';
    END IF;
END $$;
COMMENT ON FUNCTION rte._check_tenant_column(regclass, name, text) IS 'Raises an error where a column cannot tell a tenant''s name, domain or database';

CREATE FUNCTION rte._drop_tenant_triggers(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS rte_follow_tenants ON %s', relation);
    EXECUTE format('DROP TRIGGER IF EXISTS rte_follow_tenants_truncate ON %s', relation);
END $$;
COMMENT ON FUNCTION rte._drop_tenant_triggers(regclass) IS 'Drops the triggers of a watched table';

CREATE FUNCTION rte.watch_tenants(relation regclass, name_column name DEFAULT 'name', domain_column name DEFAULT 'domain',
                                  database_column name DEFAULT 'database') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class pg_class;
    old   regclass;
BEGIN
    PERFORM rte._check_landlord('watch a table of tenants');
    IF relation IS NULL OR name_column IS NULL THEN
        RAISE EXCEPTION 'a table and its column of names are needed' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT * INTO class FROM pg_class c WHERE c.oid = relation;
    IF class.relkind NOT IN ('r', 'p') OR class.relispartition THEN
        RAISE EXCEPTION 'cannot watch "%": not a table', relation
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch the table that a view reads, or a partitioned table at its root.';
    END IF;
    IF class.relnamespace IN ('pg_catalog'::regnamespace, 'rte'::regnamespace) OR class.relpersistence <> 'p' THEN
        RAISE EXCEPTION 'cannot watch "%": not a permanent table of users', relation USING ERRCODE = 'wrong_object_type';
    END IF;
    PERFORM rte._check_tenant_column(relation, name_column, 'name');
    IF domain_column IS NOT NULL THEN
        PERFORM rte._check_tenant_column(relation, domain_column, 'domain');
    END IF;
    IF database_column IS NOT NULL THEN
        PERFORM rte._check_tenant_column(relation, database_column, 'database');
    END IF;

    LOCK TABLE rte.watched_tenants IN SHARE ROW EXCLUSIVE MODE;
    SELECT w.relation INTO old FROM rte.watched_tenants w;
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = old) THEN
        PERFORM rte._drop_tenant_triggers(old);
    END IF;
    DELETE FROM rte.watched_tenants;
    INSERT INTO rte.watched_tenants (relation, name_column, domain_column, database_column)
    VALUES (relation, name_column, domain_column, database_column);
    -- Row triggers, because replicated writes and writes to partitions fire no others; ALWAYS, for replicated ones.
    EXECUTE format('CREATE TRIGGER rte_follow_tenants AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION rte.follow_tenants()', relation);
    EXECUTE format('CREATE TRIGGER rte_follow_tenants_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION rte.follow_tenants()', relation);
    EXECUTE format('ALTER TRIGGER rte_follow_tenants ON %s DEPENDS ON EXTENSION whagons_rte', relation);
    EXECUTE format('ALTER TRIGGER rte_follow_tenants_truncate ON %s DEPENDS ON EXTENSION whagons_rte', relation);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER rte_follow_tenants, ENABLE ALWAYS TRIGGER rte_follow_tenants_truncate', relation);
    PERFORM rte._note_tenants();
END $$;
COMMENT ON FUNCTION rte.watch_tenants(regclass, name, name, name) IS 'Follows a table of tenants: a row is a tenant from its commit on';

CREATE FUNCTION rte.unwatch_tenants() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old regclass;
BEGIN
    DELETE FROM rte.watched_tenants w RETURNING w.relation INTO old;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no table of tenants is watched' USING ERRCODE = 'undefined_object';
    END IF;
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = old) THEN
        PERFORM rte._drop_tenant_triggers(old);
    END IF;
    PERFORM rte._note_tenants();
END $$;
COMMENT ON FUNCTION rte.unwatch_tenants() IS 'Ends rte.watch_tenants(): the tenants of the table are no longer served';

CREATE FUNCTION rte.reload_tenants() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rte._check_landlord('reload tenants');
    PERFORM rte._note_tenants();
END $$;
COMMENT ON FUNCTION rte.reload_tenants() IS 'Reads the tenants again and tries at once what was put off, such as a database that was not there';

-- Why the watched table cannot be read as its tenants, or else what is wrong with following it.
CREATE FUNCTION rte._watch_problem(OUT unreadable text, OUT unfollowed text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w rte.watched_tenants;
BEGIN
    SELECT * INTO w FROM rte.watched_tenants;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = w.relation) THEN
        unreadable := 'it was dropped';
        RETURN;
    END IF;
    SELECT string_agg(format('it has no column "%s" any more', n.name), ', ') INTO unreadable
    FROM unnest(ARRAY[w.name_column, w.domain_column, w.database_column]) AS n(name)
    WHERE n.name IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = w.relation AND a.attname = n.name AND a.attnum > 0 AND NOT a.attisdropped AND y.typcategory = 'S');
    IF (SELECT count(*) FROM pg_trigger t
        WHERE t.tgrelid = w.relation AND t.tgenabled = 'A' AND t.tgname IN ('rte_follow_tenants', 'rte_follow_tenants_truncate')) < 2
    THEN
        unfollowed := 'its triggers are missing or disabled';
    END IF;
END $$;
COMMENT ON FUNCTION rte._watch_problem() IS 'What is wrong with the table that rte.watch_tenants() follows';

-- Every source's rows, registered ones first: of two that claim the same, the first is served. `most` bounds them.
CREATE FUNCTION rte._tenant_entries(most int4, OUT name text, OUT domain text, OUT database text, OUT source text)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w rte.watched_tenants;
BEGIN
    RETURN QUERY SELECT t.name, t.domain, t.database::text, 'registered'
                 FROM rte.registered_tenant t ORDER BY t.name LIMIT most;
    SELECT * INTO w FROM rte.watched_tenants;
    IF NOT FOUND OR (SELECT p.unreadable IS NOT NULL FROM rte._watch_problem() p) THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format('SELECT %1$I::text, %2$s, %3$s, %4$L FROM %5$s ORDER BY %1$I::text COLLATE "C" LIMIT $1',
        w.name_column,
        coalesce(quote_ident(w.domain_column), 'NULL') || '::text',
        coalesce(quote_ident(w.database_column), 'NULL') || '::text',
        w.relation::text, w.relation) USING most;
END $$;
COMMENT ON FUNCTION rte._tenant_entries(int4) IS 'Tenants as their sources have them';

-- ---------------------------------------------------------------------------------------------------
-- Definitions that change: markers in the log, in the transaction that changes them
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte._mark_tables_with_policies() RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT rte._mark(t.relation, 'A')
    FROM rte.registered_table t JOIN pg_class c ON c.oid = t.relation
    WHERE c.relrowsecurity
$$;
COMMENT ON FUNCTION rte._mark_tables_with_policies() IS 'Marks that access to tables with row-level security may have changed';

CREATE FUNCTION rte._on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target oid;
BEGIN
    IF rte._switching() THEN
        RETURN;
    END IF;
    IF tg_tag IN ('GRANT', 'REVOKE') THEN
        IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c WHERE c.object_type = 'SCHEMA') THEN
            PERFORM rte._mark(t.relation, 'A') FROM rte.registered_table t;
        ELSIF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c WHERE c.object_type = 'TABLE') THEN
            PERFORM rte._note_grants(true);
        END IF;
        RETURN;
    END IF;
    IF tg_tag IN ('CREATE POLICY', 'ALTER POLICY') THEN
        PERFORM rte._note_policies();
        PERFORM rte._mark(t.relation, 'A')
        FROM pg_event_trigger_ddl_commands() c
        JOIN pg_policy p ON p.oid = c.objid
        JOIN rte.registered_table t ON t.relation = p.polrelid
        WHERE c.classid = 'pg_policy'::regclass;
        RETURN;
    END IF;
    -- Policies may call it, or read it.
    IF tg_tag IN ('CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE VIEW', 'ALTER VIEW') THEN
        PERFORM rte._mark_tables_with_policies();
        RETURN;
    END IF;
    IF tg_tag = 'DROP OWNED' THEN
        PERFORM rte._note_grants(true);
        RETURN;
    END IF;
    IF tg_tag IN ('ALTER TYPE', 'ALTER DOMAIN', 'ALTER SCHEMA') THEN
        PERFORM rte._mark(t.relation, 'S') FROM rte.registered_table t;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c JOIN rte.watched_tenants w ON w.relation = c.objid::regclass
               WHERE c.classid = 'pg_class'::regclass) THEN
        PERFORM rte._note_tenants();
    END IF;
    FOR target IN
        SELECT DISTINCT t.relation::oid
        FROM pg_event_trigger_ddl_commands() c
        CROSS JOIN LATERAL (SELECT c.objid UNION SELECT pg_partition_root(c.objid::regclass)::oid) AS a(oid)
        JOIN rte.registered_table t ON t.relation = a.oid
        WHERE c.classid = 'pg_class'::regclass
    LOOP
        PERFORM rte._create_partition_triggers(target);
        IF EXISTS (SELECT FROM rte.registered_table t WHERE t.relation = target AND t.capture = 'w') THEN
            -- In the transaction that enabled a trigger or changed the replica identity, so that no row is written with either.
            PERFORM rte._disable_triggers(target);
            PERFORM rte._replace_identities(target);
        END IF;
        -- ENABLE TRIGGER ALL leaves out replicated writes; what somebody disabled stays so until the table is
        -- registered again.
        PERFORM rte._create_trigger(t.tgrelid, t.tgname, '', '')
        FROM pg_trigger t
        WHERE t.tgrelid IN (SELECT rte._members(target))
          AND t.tgname IN ('!rte_capture', '!rte_capture_truncate') AND t.tgenabled NOT IN ('A', 'D');
        -- A registration follows a column that was renamed.
        UPDATE rte.registered_table t
        SET columns = (SELECT array_agg(a.attname ORDER BY a.attnum)
                       FROM rte.registered_column c
                       JOIN pg_attribute a ON a.attrelid = c.relation AND a.attnum = c.number AND NOT a.attisdropped
                       WHERE c.relation = target AND NOT c.is_tenant)
        WHERE t.relation = target AND t.columns IS NOT NULL
          AND EXISTS (SELECT FROM rte.registered_column c WHERE c.relation = target AND NOT c.is_tenant);
        -- One that is dropped keeps its name here: without it, no row is anybody's.
        UPDATE rte.registered_table t SET tenant_column = a.attname
        FROM rte.registered_column c
        JOIN pg_attribute a ON a.attrelid = c.relation AND a.attnum = c.number AND NOT a.attisdropped
        WHERE t.relation = target AND c.relation = target AND c.is_tenant AND t.tenant_column <> a.attname;
        PERFORM rte._note_columns(target);
        -- A new partition is empty: nothing that clients hold changes.
        IF tg_tag <> 'CREATE TABLE' THEN
            PERFORM rte._mark(target, 'S');
        END IF;
    END LOOP;
    -- Of partitions that were detached.
    IF tg_tag = 'ALTER TABLE' THEN
        PERFORM rte._restore_identities();
    END IF;
END $$;
COMMENT ON FUNCTION rte._on_ddl() IS 'Event trigger: marks registered tables that were redefined';

CREATE FUNCTION rte._on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target oid;
BEGIN
    FOR target IN
        SELECT t.relation FROM pg_event_trigger_dropped_objects() d
        JOIN rte.registered_table t ON t.relation = d.objid::regclass
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        DELETE FROM rte.registered_table t WHERE t.relation = target;
        DELETE FROM rte.registered_column c WHERE c.relation = target;
        DELETE FROM rte.registered_grants g WHERE g.relation = target;
        PERFORM rte._mark(target, 'S');
    END LOOP;
    DELETE FROM rte.replaced_identity r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation);
    -- A table that policies read; the policies go with it, or refuse.
    DELETE FROM rte.policy_table p
    WHERE p.relation::oid IN (SELECT d.objid FROM pg_event_trigger_dropped_objects() d
                              WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0);
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE d.object_type IN ('policy', 'function', 'view')) THEN
        PERFORM rte._note_policies();
        -- Also where the last policy is gone: without one, nobody sees a row.
        PERFORM rte._mark_tables_with_policies();
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d JOIN rte.watched_tenants w ON w.relation = d.objid::regclass
               WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0) THEN
        DELETE FROM rte.watched_tenants;
        PERFORM rte._note_tenants();
        RAISE WARNING 'the table that rte.watch_tenants() follows was dropped: its tenants are no longer served';
    ELSIF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE d.object_type = 'trigger')
          AND EXISTS (SELECT FROM rte.watched_tenants) THEN
        -- It may be one of its triggers.
        PERFORM rte._note_tenants();
    END IF;
    -- A capture trigger or a partition that is gone: whose root it was is not told, so all partitioned or uncaptured tables.
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
               WHERE d.object_type IN ('trigger', 'table', 'type', 'policy', 'schema', 'index', 'table constraint')
                 AND NOT d.is_temporary) THEN
        PERFORM rte._mark(t.relation, 'S')
        FROM rte.registered_table t
        JOIN pg_class c ON c.oid = t.relation
        WHERE NOT rte._captured(t.relation, t.capture) OR rte._key_index(t.relation) IS NULL
           OR c.relkind = 'p' AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE d.object_type = 'table');
    END IF;
END $$;
COMMENT ON FUNCTION rte._on_drop() IS 'Event trigger: ends registrations of dropped tables';

CREATE FUNCTION rte._before_drop() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target oid;
BEGIN
    -- All that will be locked, at once or not at all: writers and the feeder have some of it and want more, in an order of their own.
    FOR attempt IN 1..250 LOOP
        BEGIN
            FOR target IN
                SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'rte'::regnamespace AND c.relkind = 'r'
                UNION
                SELECT m FROM (SELECT t.relation FROM rte.registered_table t UNION SELECT p.relation FROM rte.policy_table p) AS t
                CROSS JOIN LATERAL rte._members(t.relation) AS m JOIN pg_class c ON c.oid = m
            LOOP
                EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE NOWAIT', target::regclass);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.02);
        END;
    END LOOP;
    UPDATE rte.registered_table t SET capture = 'd' WHERE t.capture = 'w';
    PERFORM rte._restore_identities();
END $$;
COMMENT ON FUNCTION rte._before_drop() IS 'Leaves tables as they were before, because the extension is about to be dropped';

CREATE FUNCTION rte._on_drop_extension() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rte_on_drop_extension';
COMMENT ON FUNCTION rte._on_drop_extension() IS 'Event trigger: calls rte._before_drop() where it is this extension that is dropped';

-- ---------------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------------

CREATE VIEW rte.tables AS
SELECT t.relation,
       n.nspname AS schema_name,
       c.relname AS table_name,
       rte._key_columns(t.relation) AS key_columns,
       rte._published_columns(t.relation, t.columns) AS columns,
       t.tenant_column,
       rte._captured(t.relation, t.capture) AS captured,
       CASE t.capture WHEN 'w' THEN 'wal' ELSE 'trigger' END AS capture,
       t.registered_at
FROM rte.registered_table t
JOIN pg_catalog.pg_class c ON c.oid = t.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
COMMENT ON VIEW rte.tables IS 'Registered tables';

CREATE VIEW rte.policy_tables AS
SELECT p.relation,
       p.requested,
       (SELECT count(*) = 2 FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = p.relation AND t.tgname IN ('!rte_policy', '!rte_policy_truncate') AND t.tgenabled = 'A') AS followed
FROM rte.policy_table p
JOIN pg_catalog.pg_class c ON c.oid = p.relation;
COMMENT ON VIEW rte.policy_tables IS 'Tables that policies of registered tables read, and whether their changes are followed';

CREATE VIEW rte.workers AS
SELECT w.pid, w.kind, d.datname AS database, w.state, w.started_at
FROM rte._workers() w LEFT JOIN pg_catalog.pg_database d ON d.oid = w.database;
COMMENT ON VIEW rte.workers IS 'Processes of whagons_rte in this server';

CREATE VIEW rte.slots AS
SELECT s.slot_name,
       s.database,
       s.active_pid AS feeder,
       s.wal_status,
       pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                                       ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::int8 AS lag_bytes,
       s.confirmed_flush_lsn AS position
FROM pg_catalog.pg_replication_slots s
WHERE s.plugin = 'whagons_rte';
COMMENT ON VIEW rte.slots IS 'Replication slots of whagons_rte in this server, and how much WAL each holds back';

CREATE VIEW rte.tenants AS
SELECT t.name,
       t.domain,
       t.database,
       t.source,
       CASE WHEN t.problem IS NOT NULL THEN t.problem
            WHEN d.oid IS NULL THEN 'database missing'
            WHEN NOT d.datallowconn THEN 'database takes no connections'
            WHEN d.datistemplate THEN 'database is a template'
            WHEN s.extension = 'there' AND s.feeder IS NOT NULL THEN 'serving'
            WHEN s.feeder IS NOT NULL THEN 'starting'
            WHEN s.extension = 'missing' THEN 'extension missing'
            WHEN s.waiting THEN 'waiting for a worker'
            WHEN s.extension = 'there' THEN 'ready'
            ELSE 'not looked at yet' END AS state,
       s.feeder,
       coalesce(s.connections, 0) AS connections
FROM rte._tenants() t
LEFT JOIN pg_catalog.pg_database d ON d.datname = t.database
LEFT JOIN rte._databases() s ON s.database = d.oid;
COMMENT ON VIEW rte.tenants IS 'Tenants with a database of their own, and how each is doing';

CREATE VIEW rte.connections AS
SELECT (c ->> 'session')::uuid AS session,
       c ->> 'tenant' AS tenant,
       c ->> 'role' AS role,
       c ->> 'address' AS address,
       c ->> 'transport' AS transport,
       c ->> 'client_id' AS client_id,
       c ->> 'client_name' AS client_name,
       to_timestamp((c ->> 'connected_at_us')::float8 / 1e6) AS connected_at,
       jsonb_array_length(c -> 'subscriptions') AS subscriptions,
       (c ->> 'queued_bytes')::int8 AS queued_bytes,
       (c ->> 'sent_bytes')::int8 AS sent_bytes,
       (c ->> 'sent_commits')::int8 AS sent_commits,
       c ->> 'sent_cursor' AS sent_cursor,
       c ->> 'acked_cursor' AS acked_cursor
FROM jsonb_array_elements(rte._report()::jsonb -> 'connections') AS c;
COMMENT ON VIEW rte.connections IS 'Open connections of clients of this database';

CREATE VIEW rte.subscriptions AS
SELECT (c ->> 'session')::uuid AS session,
       s ->> 'id' AS id,
       s ->> 'table' AS table_name,
       s ->> 'shape' AS shape,
       s ->> 'state' AS state
FROM jsonb_array_elements(rte._report()::jsonb -> 'connections') AS c
CROSS JOIN LATERAL jsonb_array_elements(c -> 'subscriptions') AS s;
COMMENT ON VIEW rte.subscriptions IS 'Subscriptions of the open connections of this database';

CREATE VIEW rte.sync_log AS
SELECT l.xid,
       l.relation::regclass AS relation,
       CASE l.op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' WHEN 'D' THEN 'delete' WHEN 'T' THEN 'truncate'
                 WHEN 'P' THEN 'truncate partition' WHEN 'S' THEN 'redefine' WHEN 'A' THEN 'grant'
                 WHEN 'R' THEN 'policy table' WHEN 'B' THEN 'bulk' ELSE 'gap' END AS operation,
       rte._change_key(l.relation, l.fingerprint, l.new_row, l.old_row)::jsonb AS key,
       l.at,
       -- The WAL does not tell who it was.
       CASE WHEN l.role <> 0 THEN pg_catalog.pg_get_userbyid(l.role) END AS role,
       l.lsn,
       l.cid AS command,
       l.seq
FROM rte.change_log l;
COMMENT ON VIEW rte.sync_log IS 'The change log in readable form; at is the start of the transaction';

-- ---------------------------------------------------------------------------------------------------
-- Types for TypeScript
-- ---------------------------------------------------------------------------------------------------

CREATE FUNCTION rte._typescript_name(name text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN name ~ '^[A-Za-z_$][A-Za-z0-9_$]*$' THEN name ELSE to_jsonb(name)::text END
$$;
COMMENT ON FUNCTION rte._typescript_name(text) IS 'A name as a property of a TypeScript interface';

CREATE FUNCTION rte._typescript_comment(comment text, indent text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN comment IS NULL THEN ''
        WHEN comment !~ E'[\r\n]' THEN format(E'%s/** %s */\n', indent, replace(comment, '*/', '*\/'))
        ELSE format(E'%1$s/**\n%1$s * %2$s\n%1$s */\n', indent,
                    regexp_replace(replace(comment, '*/', '*\/'), E'\r\n?|\n', E'\n' || indent || ' * ', 'g'))
    END
$$;
COMMENT ON FUNCTION rte._typescript_comment(text, text) IS 'A comment as JSDoc; nothing where there is none';

-- `kept`: by the client, which converts the types of pg_catalog and arrays of them; what lies in domains and composites
-- stays as the wire has it. `in_key`: of a key column, in which IndexedDB takes neither BigInt nor NaN.
CREATE FUNCTION rte._typescript_type(type oid, int8 text, dates boolean, kept boolean, in_key boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    t pg_type;
BEGIN
    SELECT y.* INTO t FROM pg_type y WHERE y.oid = type;
    IF t.typcategory = 'A' AND t.typelem <> 0 THEN
        RETURN format('(%s | null)[]', rte._typescript_type(t.typelem, int8, dates, kept, in_key));
    ELSIF t.typtype = 'd' THEN
        RETURN rte._typescript_type(t.typbasetype, int8, dates, false, in_key);
    ELSIF t.typtype = 'e' THEN
        RETURN coalesce((SELECT string_agg(to_jsonb(e.enumlabel::text)::text, ' | ' ORDER BY e.enumsortorder)
                         FROM pg_enum e WHERE e.enumtypid = type), 'never');
    ELSIF type >= 16384 AND EXISTS (SELECT FROM pg_cast c WHERE c.castsource = type AND c.casttarget = 'json'::regtype) THEN
        RETURN 'unknown';
    ELSIF t.typtype = 'c' THEN
        RETURN format('{ %s }', (
            SELECT string_agg(format('%s: %s | null', rte._typescript_name(a.attname::text),
                                     rte._typescript_type(a.atttypid, int8, dates, false, in_key)), '; ' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped));
    ELSIF t.typnamespace <> 'pg_catalog'::regnamespace THEN
        RETURN 'string';
    END IF;
    RETURN CASE
        WHEN t.typname = 'bool' THEN 'boolean'
        WHEN t.typname IN ('int2', 'int4') THEN 'number'
        WHEN t.typname = 'int8' AND kept THEN CASE WHEN in_key AND int8 = 'bigint' THEN 'number' ELSE int8 END
        WHEN t.typname IN ('float4', 'float8') AND kept AND NOT in_key THEN 'number'
        WHEN t.typname IN ('float4', 'float8') THEN 'number | "NaN" | "Infinity" | "-Infinity"'
        WHEN t.typname IN ('json', 'jsonb') THEN 'unknown'
        WHEN t.typname = 'bytea' AND kept THEN 'Uint8Array'
        -- Infinite ones, and those before Christ, are no Date.
        WHEN t.typname IN ('timestamp', 'timestamptz') AND kept AND dates AND NOT in_key THEN 'Date | string'
        ELSE 'string'
    END;
END
$$;
COMMENT ON FUNCTION rte._typescript_type(oid, text, boolean, boolean, boolean) IS
    'The TypeScript type of values as the browser client keeps them';

CREATE FUNCTION rte.typescript_types(int8 text DEFAULT 'number', dates boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    result text;
BEGIN
    IF int8 IS NULL OR int8 NOT IN ('number', 'bigint', 'string') THEN
        RAISE EXCEPTION 'int8 must be number, bigint or string' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    WITH readable AS (
        SELECT t.relation::oid AS relation, t.schema_name::text AS schema_name, t.table_name::text AS table_name,
               t.columns, t.key_columns
        FROM rte.tables t
        WHERE t.key_columns IS NOT NULL AND has_schema_privilege(t.schema_name::text, 'USAGE')
          AND has_any_column_privilege(t.relation::oid, 'SELECT')
    ), named AS (
        SELECT r.*,
               -- As clients name it: without the schema where that is clear.
               CASE WHEN r.schema_name = 'public' OR count(*) OVER (PARTITION BY r.table_name) = 1
                    THEN r.table_name ELSE r.schema_name || '.' || r.table_name END AS property,
               coalesce((SELECT string_agg(upper(left(w.word, 1)) || substr(w.word, 2), '' ORDER BY w.place)
                         FROM regexp_split_to_table(r.table_name, '[^A-Za-z0-9]+') WITH ORDINALITY AS w(word, place)), '') AS pascal
        FROM readable r
    ), unique_names AS (
        SELECT n.*, p.pascal || CASE WHEN p.pascal IN ('Tables', 'Date', 'Uint8Array') THEN 'Row' ELSE '' END
                    || CASE WHEN row_number() OVER same = 1 THEN '' ELSE '_' || row_number() OVER same END AS interface
        FROM named n
        -- A name that is none, or begins with a digit, is no identifier.
        CROSS JOIN LATERAL (SELECT CASE WHEN n.pascal ~ '^[A-Za-z]' THEN n.pascal ELSE 'Table' || n.pascal END) AS p(pascal)
        WINDOW same AS (PARTITION BY p.pascal ORDER BY n.schema_name <> 'public', n.schema_name COLLATE "C",
                                                       n.table_name COLLATE "C")
    ), interfaces AS (
        SELECT u.*, rte._typescript_comment(obj_description(u.relation, 'pg_class'), '')
               || format(E'export interface %s {\n%s}\n', u.interface, (
                   SELECT string_agg(rte._typescript_comment(col_description(u.relation, a.attnum), '  ')
                                     || format(E'  %s: %s%s;\n', rte._typescript_name(a.attname::text), y.type,
                                               CASE WHEN a.attnotnull OR y.type = 'unknown' THEN '' ELSE ' | null' END),
                                     '' ORDER BY a.attnum)
                   FROM pg_attribute a
                   CROSS JOIN LATERAL (SELECT rte._typescript_type(a.atttypid, int8, dates, true,
                                                                   a.attname = ANY (u.key_columns))) AS y(type)
                   WHERE a.attrelid = u.relation AND a.attname = ANY (u.columns) AND a.attnum > 0
                     AND has_column_privilege(u.relation, a.attnum, 'SELECT'))) AS code
        FROM unique_names u
    )
    SELECT E'// Written by rte.typescript_types(): rows of the registered tables, as the browser client keeps them.\n\n'
           || coalesce(string_agg(i.code || E'\n', '' ORDER BY i.schema_name COLLATE "C", i.table_name COLLATE "C"), '')
           || E'/** Rows by the names of their tables. */\nexport interface Tables {\n'
           || coalesce(string_agg(format(E'  %s: %s;\n', rte._typescript_name(i.property), i.interface), ''
                                  ORDER BY i.schema_name COLLATE "C", i.table_name COLLATE "C"), '')
           || E'}\n'
    INTO result FROM interfaces i;
    RETURN result;
END
$$;
COMMENT ON FUNCTION rte.typescript_types(text, boolean) IS
    'TypeScript interfaces for the registered tables that the caller may read, as the browser client keeps their rows';

-- ---------------------------------------------------------------------------------------------------
-- Privileges: nobody, unless an administrator says so. The trigger function does nothing on tables that are
-- not registered, and whoever creates a partition needs it.
-- ---------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rte FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA rte FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rte.capture(), rte.policy_table_changed() TO PUBLIC;
GRANT USAGE ON SCHEMA rte TO pg_monitor;
GRANT SELECT ON rte.tables, rte.policy_tables, rte.workers, rte.slots, rte.connections, rte.subscriptions, rte.sync_log TO pg_monitor;

GRANT EXECUTE ON FUNCTION rte.capture() TO PUBLIC;
GRANT EXECUTE ON FUNCTION rte.follow_tenants() TO PUBLIC;
GRANT USAGE ON SCHEMA rte TO pg_monitor;
GRANT SELECT ON rte.tables, rte.tenants, rte.workers, rte.connections, rte.subscriptions, rte.sync_log TO pg_monitor;
-- Functions in a view are checked as the reader, not as the view's owner.
GRANT EXECUTE ON FUNCTION rte._workers(), rte._tenants(), rte._databases(), rte._report(), rte._change_key(oid, int8, bytea, bytea),
    rte._key_index(oid), rte._key_columns(oid), rte._published_columns(oid, name[]), rte._members(oid), rte._slot_name(), rte._slot_is_live(), rte._captured(oid, "char"),
    rte._typescript_name(text), rte._typescript_comment(text, text),
    rte._typescript_type(oid, text, boolean, boolean, boolean), rte.typescript_types(text, boolean) TO pg_monitor;

-- Last, or they would fire for what stands above.
CREATE EVENT TRIGGER rte_on_ddl ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER SCHEMA', 'GRANT', 'REVOKE', 'DROP OWNED',
                 'CREATE POLICY', 'ALTER POLICY', 'CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE VIEW', 'ALTER VIEW')
    EXECUTE FUNCTION rte._on_ddl();
CREATE EVENT TRIGGER rte_on_drop ON sql_drop EXECUTE FUNCTION rte._on_drop();
CREATE EVENT TRIGGER rte_on_drop_extension ON ddl_command_start WHEN TAG IN ('DROP EXTENSION')
    EXECUTE FUNCTION rte._on_drop_extension();
ALTER EVENT TRIGGER rte_on_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER rte_on_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER rte_on_drop_extension ENABLE ALWAYS;

DO $$
BEGIN
    IF rte._preloaded() THEN
        PERFORM rte._wake();
    ELSE
        RAISE WARNING 'whagons_rte is not in shared_preload_libraries'
            USING DETAIL = 'Tables can be registered, but no worker serves them.',
                  HINT = 'Add whagons_rte to shared_preload_libraries and restart the server.';
    END IF;
END $$;
