-- The second view of `make run`: two shops, each a tenant with a database of its own, and in each a manager and a clerk,
-- who see different rows and columns of its orders. This makes a shop's database. It doubles as an example of
-- how access is given: by roles, grants and policies as Postgres has them. Live changes are held to the same rules as
-- queries, and nothing is repeated for them anywhere else.

CREATE TABLE orders (
    id         int           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item       text          NOT NULL,
    handled_by text          NOT NULL,
    state      text          NOT NULL DEFAULT 'new',
    price      numeric(8, 2) NOT NULL,
    cost       numeric(8, 2) NOT NULL
);

-- Columns: a clerk has no business with what an item cost. To see the grant at work, give the column away while the page
-- is open: GRANT SELECT (cost) ON orders TO clerk.
GRANT SELECT ON orders TO manager;
GRANT SELECT (id, item, handled_by, state, price) ON orders TO clerk;

-- Rows: with row-level security enabled, who is named by no policy sees none.
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;

CREATE POLICY managers_see_every_order ON orders FOR SELECT TO manager
    USING (true);

-- `request.jwt.claims` holds what the visitor's token says, and `sub` is who that is. When an order is handed over, the
-- row leaves one clerk's copy and comes into the other's in the same commit.
CREATE POLICY clerks_see_what_they_handle ON orders FOR SELECT TO clerk
    USING (handled_by = (SELECT current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));

CREATE EXTENSION whagons_rte;
SELECT rte.register_table('orders');

-- What a role sees of it, and what finding that out costs:
--   SELECT * FROM rte.explain_access('orders', 'clerk', '{"sub": "carl"}');

INSERT INTO orders (item, handled_by, state, price, cost)
SELECT o.item, o.handled_by, o.state, o.price, round(o.price * 0.48, 2)
FROM (VALUES
    ('acme',   'Anvil',         'carl', 'new',    180.00),
    ('acme',   'Rocket skates', 'dora', 'packed', 249.90),
    ('acme',   'Bird seed',     'carl', 'new',     12.50),
    ('acme',   'Giant magnet',  'dora', 'new',     89.00),
    ('acme',   'Tunnel paint',  'carl', 'sent',    24.00),
    ('acme',   'Spring shoes',  'dora', 'packed',  45.90),
    ('acme',   'Trampoline',    'carl', 'new',    139.00),
    ('globex', 'Desk lamp',     'cleo', 'packed',  49.00),
    ('globex', 'Teapot',        'dirk', 'new',     35.00),
    ('globex', 'Wall clock',    'cleo', 'new',     27.50),
    ('globex', 'Hammock',       'dirk', 'sent',    64.00),
    ('globex', 'Coffee mill',   'cleo', 'new',     58.00),
    ('globex', 'Fruit bowl',    'dirk', 'packed',  72.00),
    ('globex', 'Bread knife',   'cleo', 'new',     19.90)) AS o(shop, item, handled_by, state, price)
WHERE o.shop = current_database();
