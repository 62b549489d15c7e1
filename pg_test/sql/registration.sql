-- What rte.register_table takes, what it refuses, and with which words.
CREATE TABLE orders (id int PRIMARY KEY, item text, note text);
SELECT rte.register_table('orders');
SELECT table_name, key_columns, columns, captured FROM rte.tables WHERE table_name = 'orders';
-- Again, with fewer columns: the key comes along.
SELECT rte.register_table('orders', columns => '{note}');
SELECT columns FROM rte.tables WHERE table_name = 'orders';
ALTER TABLE orders RENAME COLUMN note TO remark;
SELECT columns FROM rte.tables WHERE table_name = 'orders';
SELECT rte.unregister_table('orders');
SELECT count(*) FROM rte.tables WHERE table_name = 'orders';
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass;

-- Refusals.
SELECT rte.unregister_table('orders');
\echo :LAST_ERROR_SQLSTATE
SELECT rte.register_table('nothing');
\echo :LAST_ERROR_SQLSTATE
SELECT rte.register_table('orders', columns => ARRAY['item', 'missing', 'also "missing"']);
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE no_key (a int);
SELECT rte.register_table('no_key');
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE later_key (a int PRIMARY KEY DEFERRABLE);
SELECT rte.register_table('later_key');
\echo :LAST_ERROR_SQLSTATE
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
SELECT rte.register_table('unlogged');
\echo :LAST_ERROR_SQLSTATE
CREATE VIEW view AS SELECT 1 AS a;
SELECT rte.register_table('view');
\echo :LAST_ERROR_SQLSTATE
SELECT rte.register_table('pg_class');
\echo :LAST_ERROR_SQLSTATE
SELECT rte.register_table('rte.registered_table');
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT rte.register_table('part');
\echo :LAST_ERROR_SQLSTATE

-- A replica identity serves as the key; partitions are registered with their root.
CREATE UNIQUE INDEX no_key_a ON no_key (a);
ALTER TABLE no_key ALTER a SET NOT NULL, REPLICA IDENTITY USING INDEX no_key_a;
SELECT rte.register_table('no_key');
SELECT rte.register_table('parts');
CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
SELECT relation, key_columns, columns, captured FROM rte.tables WHERE table_name <> 'kit_barrier' ORDER BY 1;
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger
WHERE tgname LIKE '!rte%' AND tgrelid::regclass::text LIKE 'part%' ORDER BY 1, 2;

-- A trigger that somebody disabled shows, and registering again heals it.
ALTER TABLE no_key DISABLE TRIGGER ALL;
SELECT captured FROM rte.tables WHERE table_name = 'no_key';
SELECT rte.register_table('no_key');
SELECT captured FROM rte.tables WHERE table_name = 'no_key';

-- A registration does not outlive its table, nor its transaction.
BEGIN;
SELECT rte.register_table('orders');
ROLLBACK;
SELECT count(*) FROM rte.tables WHERE table_name = 'orders';
DROP TABLE no_key, parts;
SELECT count(*) FROM rte.tables WHERE table_name <> 'kit_barrier';
