UPDATE tasks SET title = :'title', assignee = NULLIF(:'assignee', ''), changed_by = me(), changed_at = now()
WHERE id = :'task'::int
RETURNING id;
