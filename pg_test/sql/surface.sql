-- Everything has a comment.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'rte'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL ORDER BY 1;
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'rte'::regnamespace AND relkind IN ('r', 'v', 'p', 'S') AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1;

-- The views and functions that users rely on.
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'rte'::regnamespace AND c.relkind = 'v' GROUP BY 1 ORDER BY 1;
SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
FROM pg_proc p WHERE p.pronamespace = 'rte'::regnamespace AND p.proname NOT LIKE '\_%' ORDER BY 1;
SELECT name, setting, unit, context, short_desc FROM pg_settings
WHERE name LIKE 'rte.%' AND name NOT IN ('rte.port', 'rte.anon_role') ORDER BY 1;

-- A misspelt setting is an error, not silence.
SET rte.retenion = '1d';

-- The extension goes and comes without a trace.
CREATE TABLE t (id int PRIMARY KEY);
SELECT rte.register_table('t');
INSERT INTO t VALUES (1);
DROP EXTENSION whagons_rte;
SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal;
SELECT count(*) FROM pg_event_trigger;
INSERT INTO t VALUES (2);
CREATE EXTENSION whagons_rte;
SELECT count(*) FROM rte.tables;
SELECT rte.register_table('t');
INSERT INTO t VALUES (3);
SELECT operation, key FROM rte.sync_log WHERE relation = 't'::regclass AND operation = 'insert';
