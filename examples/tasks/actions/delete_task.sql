DELETE FROM tasks WHERE id = :'task'::int
RETURNING id;
