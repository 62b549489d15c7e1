INSERT INTO tasks (board_id, team, title, state, position, assignee, changed_by)
SELECT b.id, b.team, :'title', :'state', (SELECT coalesce(min(position), 0) FROM tasks WHERE board_id = b.id) - 1, NULLIF(:'assignee', ''), me()
FROM boards b WHERE b.id = :'board'::int
RETURNING id;
