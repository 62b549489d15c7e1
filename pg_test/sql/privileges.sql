-- Nothing of the schema is anybody's, but for what monitoring may read.
SELECT p.oid::regprocedure FROM pg_proc p, LATERAL aclexplode(p.proacl) a
WHERE p.pronamespace = 'rte'::regnamespace AND a.grantee = 0 ORDER BY 1;
SELECT c.oid::regclass, a.privilege_type FROM pg_class c, LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'rte'::regnamespace AND a.grantee = 0 ORDER BY 1, 2;
SELECT a.privilege_type FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a WHERE nspname = 'rte' AND a.grantee = 0;
-- A function without an access list is everybody's.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'rte'::regnamespace AND p.proacl IS NULL ORDER BY 1;
-- Functions that act as their owner have a safe path.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'rte'::regnamespace AND p.prosecdef
  AND NOT coalesce(array_to_string(p.proconfig, ','), '') ~ '^search_path=pg_catalog, pg_temp$' ORDER BY 1;

CREATE ROLE stranger;
CREATE ROLE watcher;
GRANT pg_monitor TO watcher;
CREATE TABLE t (id int PRIMARY KEY, v int);
GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON t TO stranger;
SELECT rte.register_table('t');

SET ROLE stranger;
SELECT rte.register_table('t');
SELECT rte.unregister_table('t');
SELECT * FROM rte.tables;
SELECT * FROM rte.change_log;
SELECT * FROM rte.server_key;
-- Its writes are captured all the same.
INSERT INTO t VALUES (1, 1), (2, 2);
UPDATE t SET v = 3 WHERE id = 1;
DELETE FROM t WHERE id = 2;
TRUNCATE t;
RESET ROLE;

SET ROLE watcher;
SELECT relation, operation, key, role FROM rte.sync_log WHERE relation = 't'::regclass AND role = 'stranger' ORDER BY xid::text::bigint, command, seq;
SELECT count(*) FROM rte.tables;
SELECT count(*) FROM rte.connections;
SELECT count(*) FROM rte.subscriptions;
SELECT DISTINCT kind FROM rte.workers WHERE kind <> 'query worker' ORDER BY 1;
SELECT * FROM rte.server_key;
SELECT rte.register_table('t');
RESET ROLE;

-- The trigger function does nothing for a table that is not registered.
CREATE TABLE free (id int PRIMARY KEY);
GRANT ALL ON free TO stranger;
ALTER TABLE free OWNER TO stranger;
SET ROLE stranger;
CREATE TRIGGER sneak AFTER INSERT ON free FOR EACH ROW EXECUTE FUNCTION rte.capture();
INSERT INTO free VALUES (1);
RESET ROLE;
SELECT count(*) FROM rte.sync_log WHERE relation = 'free'::regclass;
