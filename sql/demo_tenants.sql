-- Run in the landlord's database, where tenants are known. Whoever says `"tenant": "acme"` is served from that
-- tenant's database alone. A token is good for the tenant that its claim `tenant` names, and for no other.
SELECT rte.register_tenant('acme');
SELECT rte.register_tenant('globex');

-- The way to the second view: the first page makes links of the rows of a table demo.links, where it may read one.
-- The address holds a token for each visitor, which is right for a throw-away server and for nothing else.
CREATE SCHEMA demo;
CREATE TABLE demo.links (title text PRIMARY KEY, address text NOT NULL);
INSERT INTO demo.links VALUES (:'title', :'address');
GRANT USAGE ON SCHEMA demo TO web_anon;
GRANT SELECT ON demo.links TO web_anon;
SELECT rte.register_table('demo.links');
