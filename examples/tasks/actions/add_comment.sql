INSERT INTO comments (task_id, team, author, body)
SELECT t.id, t.team, me(), :'body' FROM tasks t WHERE t.id = :'task'::int
RETURNING id;
