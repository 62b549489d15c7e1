-- What happens in a shop, for pgbench: one thing at a time, slow enough to follow with the eye.
\set what random(1, 10)
\if :what <= 4
-- An order is handed over to the other clerk. One loses sight of it, the other gains it, the manager sees a change.
UPDATE orders SET handled_by = CASE handled_by WHEN 'carl' THEN 'dora' WHEN 'dora' THEN 'carl' WHEN 'cleo' THEN 'dirk' ELSE 'cleo' END
WHERE id = (SELECT id FROM orders WHERE state <> 'sent' ORDER BY random() LIMIT 1);
\elif :what <= 7
UPDATE orders SET state = CASE state WHEN 'new' THEN 'packed' ELSE 'sent' END
WHERE id = (SELECT id FROM orders WHERE state <> 'sent' ORDER BY random() LIMIT 1);
\elif :what = 8
UPDATE orders SET price = round(price * (0.95 + random()::numeric * 0.1), 2)
WHERE id = (SELECT id FROM orders WHERE state = 'new' ORDER BY random() LIMIT 1);
\else
-- The oldest order that was sent is done, and a new one comes in.
BEGIN;
DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE state = 'sent');
INSERT INTO orders (item, handled_by, price, cost)
SELECT s.items[1 + floor(random() * cardinality(s.items))], s.clerks[1 + floor(random() * 2)], p.price, round(p.price * 0.48, 2)
FROM (VALUES ('acme', '{Anvil,Bird seed,Catapult,Giant magnet,Rocket skates,Spring shoes,Trampoline,Tunnel paint}'::text[], '{carl,dora}'::text[]),
             ('globex', '{Bread knife,Coffee mill,Desk lamp,Fruit bowl,Hammock,Teapot,Wall clock,Watering can}', '{cleo,dirk}')) AS s(shop, items, clerks),
     (SELECT round((9 + random() * 240)::numeric, 1) AS price) AS p
WHERE s.shop = current_database() AND (SELECT count(*) FROM orders) < 7;
END;
\endif
