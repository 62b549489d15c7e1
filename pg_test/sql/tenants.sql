-- Registering tenants, and what is refused.
SELECT rte.register_tenant('acme');
SELECT rte.register_tenant('blue', 'Blue.example', 'customer_17');
SELECT name, domain, database, source FROM rte.tenants ORDER BY 1;
SELECT rte.register_tenant('acme');
SELECT rte.register_tenant('ACME', NULL, 'other');
SELECT rte.register_tenant('x', 'blue.EXAMPLE');
SELECT rte.register_tenant('blue.example');
SELECT rte.register_tenant('x', NULL, 'acme');
SELECT rte.register_tenant('');
SELECT rte.register_tenant(NULL);
SELECT rte.register_tenant(' x');
SELECT rte.register_tenant(repeat('x', 101), NULL, 'x');
SELECT rte.register_tenant('x', 'no host');
SELECT rte.register_tenant('postgres', NULL, 'x');
SELECT rte.register_tenant('x', NULL, 'postgres');
SELECT rte.register_tenant('template1');
-- Changed in one transaction.
BEGIN;
SELECT rte.unregister_tenant('blue');
SELECT rte.register_tenant('blue', 'b.example', 'customer_17');
COMMIT;
SELECT name, domain, database, source FROM rte.tenants ORDER BY 1;
SELECT rte.unregister_tenant('nobody');
SELECT rte.unregister_tenant('acme');

-- Watching a table.
CREATE TABLE firms (id int PRIMARY KEY, slug text, host varchar(100), db name, size int, changed timestamptz);
CREATE VIEW firms_view AS SELECT * FROM firms;
CREATE TEMP TABLE firms_temp (name text);
SELECT rte.watch_tenants('firms');
SELECT rte.watch_tenants('firms', 'slug');
SELECT rte.watch_tenants('firms', 'slug', 'host');
SELECT rte.watch_tenants('firms', 'slug', 'size', 'db');
SELECT rte.watch_tenants('firms', NULL);
SELECT rte.watch_tenants('firms_view', 'slug', 'host', 'db');
SELECT rte.watch_tenants('firms_temp', 'name', NULL, NULL);
SELECT rte.watch_tenants('pg_database', 'datname', NULL, NULL);
SELECT rte.watch_tenants('rte.registered_tenant');
SELECT rte.unwatch_tenants();
SELECT rte.watch_tenants('firms', 'slug', 'host', 'db');
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'firms'::regclass ORDER BY 1;
INSERT INTO firms VALUES (1, 'one', 'one.example', 'd1'), (2, 'two', '', NULL), (3, 'three', 'ONE.example', 'd3'), (4, 'blue', NULL, 'd4'), (5, NULL, NULL, NULL);
SELECT name, domain, database, source, state FROM rte.tenants ORDER BY source COLLATE "C", name COLLATE "C";
-- Again: replaces.
CREATE TABLE others (name text, domain text, database text);
SELECT rte.watch_tenants('others');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'firms'::regclass;
SELECT name, source FROM rte.tenants ORDER BY 1;
INSERT INTO others VALUES ('three');
SELECT name, source FROM rte.tenants ORDER BY 1;
-- A column that is gone closes the source.
ALTER TABLE others RENAME name TO title;
SELECT name, source FROM rte.tenants ORDER BY 1;
SELECT * FROM rte._watch_problem();
ALTER TABLE others RENAME title TO name;
ALTER TABLE others DISABLE TRIGGER rte_follow_tenants;
SELECT * FROM rte._watch_problem();
DROP TABLE others;
SELECT name, source FROM rte.tenants ORDER BY 1;
SELECT rte.unwatch_tenants();
SELECT rte.reload_tenants();

-- Only in the landlord database.
CREATE DATABASE elsewhere;
\c elsewhere
CREATE EXTENSION whagons_rte;
SELECT rte.register_tenant('x');
CREATE TABLE others (name text, domain text, database text);
SELECT rte.watch_tenants('others');
SELECT rte.reload_tenants();
\c postgres

-- Only for those who may.
CREATE ROLE stranger;
GRANT USAGE ON SCHEMA rte TO stranger;
SET ROLE stranger;
SELECT rte.register_tenant('x');
SELECT rte.watch_tenants('firms');
SELECT * FROM rte.tenants;
SELECT * FROM rte.registered_tenant;
RESET ROLE;
GRANT pg_monitor TO stranger;
SET ROLE stranger;
SELECT name, domain, database FROM rte.tenants;
