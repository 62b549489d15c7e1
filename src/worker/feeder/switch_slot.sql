-- The slot of a name ($1), where there is one, and how many more the server has room for.
SELECT current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS free,
       s.plugin = 'whagons_rte' AND s.wal_status IS DISTINCT FROM 'lost' AND s.database = current_database() AS usable,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8 AS lag
FROM (VALUES (1)) AS one
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1
