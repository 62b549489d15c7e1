-- Before the task that is named, else to the end of the column. Between two neighbours there is always room.
WITH place AS (
    SELECT t.id, b.position AS before,
           (SELECT max(p.position) FROM tasks p
            WHERE p.board_id = t.board_id AND p.state = :'state' AND p.id <> t.id AND (b.id IS NULL OR p.position < b.position)) AS after
    FROM tasks t LEFT JOIN tasks b ON b.id = NULLIF(:'before', '')::int AND b.board_id = t.board_id AND b.state = :'state'
    WHERE t.id = :'task'::int)
UPDATE tasks t
SET state = :'state', changed_by = me(), changed_at = now(),
    position = CASE WHEN p.before IS NULL THEN coalesce(p.after, 0) + 1 WHEN p.after IS NULL THEN p.before - 1 ELSE (p.before + p.after) / 2 END
FROM place p WHERE t.id = p.id
RETURNING t.id;
