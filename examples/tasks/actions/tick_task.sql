UPDATE tasks
SET state = CASE WHEN :'done'::boolean THEN 'done' ELSE 'todo' END, changed_by = me(), changed_at = now(),
    position = (SELECT min(t.position) FROM tasks t WHERE t.board_id = tasks.board_id) - 1
WHERE id = :'task'::int
RETURNING id;
