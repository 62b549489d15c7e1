-- How registered tables are captured now, and whether the WAL has their changes.
SELECT t.relation::oid AS relation,
       t.capture,
       (SELECT bool_and(m.relpersistence = 'p') FROM pg_catalog.pg_class m WHERE m.oid IN (SELECT rte._members(t.relation))) AS logged
FROM rte.registered_table t
JOIN pg_catalog.pg_class c ON c.oid = t.relation
ORDER BY 1
