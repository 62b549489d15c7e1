-- What the simulated people do on the boards, for pgbench: one thing at a time, slow enough to follow with the eye.
\set what random(1, 20)
\if :what <= 9
-- Somebody takes a task one column on, to its top. What is done begins anew, now and then.
UPDATE tasks t
SET state = CASE t.state WHEN 'todo' THEN 'doing' WHEN 'doing' THEN 'review' WHEN 'review' THEN 'done' ELSE 'todo' END,
    position = (SELECT min(position) FROM tasks) - 1,
    changed_by = p.who, changed_at = now()
FROM (SELECT t.id, (SELECT u.id FROM users u WHERE u.simulated AND t.team = ANY (u.teams) ORDER BY random() LIMIT 1) AS who
      FROM tasks t JOIN boards b ON b.id = t.board_id
      WHERE NOT b.archived AND (t.state <> 'done' OR random() < 0.7) ORDER BY random() LIMIT 1) AS p
WHERE t.id = p.id;
\elif :what <= 14
-- Somebody says something. Of each task's talk the last eight stay.
BEGIN;
WITH said AS (
    INSERT INTO comments (task_id, team, author, body)
    SELECT t.id, t.team, (SELECT u.id FROM users u WHERE u.simulated AND t.team = ANY (u.teams) ORDER BY random() LIMIT 1),
           (ARRAY['On it.', 'Done on my side.', 'Who can help with this?', 'I will be late with it.', 'Agreed.', 'See the notes of Monday.',
                  'Half of it is there.', 'Could we make this smaller?'])[1 + floor(random() * 8)::int]
    FROM tasks t JOIN boards b ON b.id = t.board_id WHERE NOT b.archived AND t.state <> 'done' ORDER BY random() LIMIT 1
    RETURNING task_id)
DELETE FROM comments WHERE id IN (SELECT c.id FROM comments c JOIN said USING (task_id) ORDER BY c.id DESC OFFSET 7);
END;
\elif :what <= 18
-- A task changes hands.
UPDATE tasks t SET assignee = p.new, changed_by = p.who, changed_at = now()
FROM (SELECT t.id, (SELECT u.id FROM users u WHERE t.team = ANY (u.teams) AND u.id IS DISTINCT FROM t.assignee ORDER BY random() LIMIT 1) AS new,
             (SELECT u.id FROM users u WHERE u.simulated AND t.team = ANY (u.teams) ORDER BY random() LIMIT 1) AS who
      FROM tasks t JOIN boards b ON b.id = t.board_id WHERE NOT b.archived AND t.state <> 'done' ORDER BY random() LIMIT 1) AS p
WHERE t.id = p.id;
\else
-- A new task; of a board's done ones the last six stay, and others go to the archive.
BEGIN;
INSERT INTO tasks (board_id, team, title, position, changed_by)
SELECT b.id, b.team, verb || ' ' || thing, (SELECT min(position) FROM tasks) - 1,
       (SELECT u.id FROM users u WHERE u.simulated AND b.team = ANY (u.teams) ORDER BY random() LIMIT 1)
FROM boards b,
     unnest('{Ask about,Prepare,Tidy up,Decide on,Try out,Pay for}'::text[]) AS verb,
     unnest('{the guest list,the new scanner,a second supplier,the summer party,the invoices,the backup plan,the coffee machine}'::text[]) AS thing
WHERE NOT b.archived AND (SELECT count(*) FROM tasks t WHERE t.board_id = b.id) < 22
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.board_id = b.id AND t.title LIKE '%' || thing)
ORDER BY random() LIMIT 1;
UPDATE tasks t SET board_id = d.archive, changed_at = now()
FROM (SELECT t.id, a.id AS archive, row_number() OVER (PARTITION BY t.board_id ORDER BY t.changed_at DESC) AS place
      FROM tasks t JOIN boards b ON b.id = t.board_id AND NOT b.archived JOIN boards a ON a.archived AND a.team = b.team
      WHERE t.state = 'done') AS d
WHERE t.id = d.id AND d.place > 6;
END;
\endif
