-- Replication slots of ours that nobody reads, of other databases than this ($1).
SELECT s.slot_name::text AS name,
       s.datoid AS database,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8 AS lag
FROM pg_catalog.pg_replication_slots s
WHERE s.plugin = 'whagons_rte' AND NOT s.active AND s.datoid <> $1 AND s.wal_status IS DISTINCT FROM 'lost'
