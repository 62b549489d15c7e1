-- What `make run` does to a database that `pgbench -i` has filled. It doubles as an example: this is all
-- that it takes to make tables live.

-- pgbench's history has no key, and what a client holds a copy of must have one.
ALTER TABLE pgbench_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;

-- Visitors without a token are this role (rte.anon_role) and see what it may read.
CREATE ROLE web_anon NOLOGIN;
GRANT SELECT ON pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history TO web_anon;

-- Visitors with a token are the role that it names. The workers connect as the authenticator (rte.authenticator_role),
-- who may do nothing but become one of the roles that are granted to it, as with PostgREST; web_anon is among them.
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE manager NOLOGIN;
CREATE ROLE clerk NOLOGIN;
CREATE ROLE member NOLOGIN;
GRANT web_anon, manager, clerk, member TO authenticator;

CREATE EXTENSION whagons_rte;
SELECT rte.register_table('pgbench_accounts');
SELECT rte.register_table('pgbench_branches');
SELECT rte.register_table('pgbench_tellers');
SELECT rte.register_table('pgbench_history');
