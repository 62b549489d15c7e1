-- Registered tables, a row per published column.
SELECT t.relation::oid AS oid,
       t.schema_name::text,
       t.table_name::text,
       n.oid AS schema_oid,
       t.captured AND t.key_columns IS NOT NULL
           -- A table without its tenant's column is nobody's.
           AND (t.tenant_column IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                                   WHERE a.attrelid = c.oid AND a.attname = t.tenant_column AND a.attnum > 0))
           AS captured,
       c.relkind AS kind,
       (SELECT a.attnum FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname = t.tenant_column AND a.attnum > 0) AS tenant_column,
       a.attnum AS number,
       a.attname::text AS column_name,
       format_type(a.atttypid, NULL) AS type_name,
       -- Types of pg_catalog by their short names, arrays as element[].
       CASE WHEN coalesce(e.typnamespace, y.typnamespace) = 'pg_catalog'::regnamespace
            THEN coalesce(e.typname || '[]', y.typname::text) END AS base_name,
       NOT a.attnotnull AS nullable,
       array_position(t.key_columns, a.attname)::int2 AS key_place
FROM rte.tables t
JOIN pg_catalog.pg_class c ON c.oid = t.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (t.columns) AND a.attnum > 0
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type e ON e.oid = y.typelem AND y.typcategory = 'A'
ORDER BY c.oid, a.attnum
