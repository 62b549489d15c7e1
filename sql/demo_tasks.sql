-- What examples/tasks is made of: boards with tasks, and comments on them, in each of the two tenants' databases. The browser
-- reads by live tables and the app's backend writes, both as the role `member` with the claims of the visitor's token; so
-- what follows is all that decides who sees and who may do what.

CREATE TABLE users (
    id        text     PRIMARY KEY,
    name      text     NOT NULL,
    hue       smallint NOT NULL,                      -- the colour of the person's badge
    teams     text[]   NOT NULL DEFAULT '{everyone}',
    simulated boolean  NOT NULL DEFAULT false         -- acts in demo_tasks_load.sql, and does not log in
);

CREATE TABLE boards (
    id       int     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title    text    NOT NULL,
    team     text    NOT NULL DEFAULT 'everyone',
    archived boolean NOT NULL DEFAULT false,
    UNIQUE (id, team)
);

-- A task has its board's team, and a comment its task's: the foreign keys see to it. So each row says by itself who may see
-- it, which is what makes a policy cheap to follow live. Hand a board to another team and all that hangs on it comes along,
-- in one commit, into and out of the copies in every browser.
CREATE TABLE tasks (
    id         int              GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    board_id   int              NOT NULL,
    team       text             NOT NULL,
    title      text             NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    state      text             NOT NULL DEFAULT 'todo' CHECK (state IN ('todo', 'doing', 'review', 'done')),
    position   double precision NOT NULL DEFAULT 0,   -- within its column, ascending
    assignee   text             REFERENCES users,
    changed_by text             NOT NULL REFERENCES users,
    changed_at timestamptz      NOT NULL DEFAULT now(),
    UNIQUE (id, team),
    FOREIGN KEY (board_id, team) REFERENCES boards (id, team) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON tasks (board_id, state, position);

CREATE TABLE comments (
    id         int         GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id    int         NOT NULL,
    team       text        NOT NULL,
    author     text        NOT NULL REFERENCES users,
    body       text        NOT NULL CHECK (length(body) BETWEEN 1 AND 2000),
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (task_id, team) REFERENCES tasks (id, team) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON comments (task_id);

-- Columns: which teams somebody is in is nobody else's business.
GRANT SELECT (id, name, hue, simulated) ON users TO member;
GRANT SELECT ON boards, tasks, comments TO member;
GRANT INSERT (board_id, team, title, state, position, assignee, changed_by), DELETE,
      UPDATE (title, state, position, assignee, changed_by, changed_at) ON tasks TO member;
GRANT INSERT (task_id, team, author, body) ON comments TO member;

-- Rows. `request.jwt.claims` holds what the visitor's token says: `sub` is who that is, `teams` where they belong.
ALTER TABLE boards ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
    RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub';

CREATE POLICY members_see_their_teams_boards ON boards FOR SELECT TO member
    USING (team = ANY (ARRAY(SELECT jsonb_array_elements_text(current_setting('request.jwt.claims', true)::jsonb -> 'teams'))));

CREATE POLICY members_work_on_their_teams_tasks ON tasks FOR ALL TO member
    USING (team = ANY (ARRAY(SELECT jsonb_array_elements_text(current_setting('request.jwt.claims', true)::jsonb -> 'teams'))))
    WITH CHECK (changed_by = (SELECT me())
                AND team = ANY (ARRAY(SELECT jsonb_array_elements_text(current_setting('request.jwt.claims', true)::jsonb -> 'teams'))));

CREATE POLICY members_read_their_teams_comments ON comments FOR SELECT TO member
    USING (team = ANY (ARRAY(SELECT jsonb_array_elements_text(current_setting('request.jwt.claims', true)::jsonb -> 'teams'))));

CREATE POLICY members_sign_their_comments ON comments FOR INSERT TO member
    WITH CHECK (author = (SELECT me())
                AND team = ANY (ARRAY(SELECT jsonb_array_elements_text(current_setting('request.jwt.claims', true)::jsonb -> 'teams'))));

-- The backend asks who may log in and what their tokens say. It connects as the authenticator, who may do nothing else here
-- but become a member.
CREATE FUNCTION logins() RETURNS TABLE (id text, name text, hue smallint, claims jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT u.id, u.name, u.hue, jsonb_build_object('sub', u.id, 'role', 'member', 'tenant', current_database(), 'teams', u.teams)
    FROM users u WHERE NOT u.simulated ORDER BY u.id
$$;
REVOKE ALL ON FUNCTION logins FROM PUBLIC;
GRANT EXECUTE ON FUNCTION logins TO authenticator;

CREATE EXTENSION IF NOT EXISTS whagons_rte;
SELECT rte.register_table('users', columns => '{id,name,hue,simulated}');
SELECT rte.register_table('boards');
SELECT rte.register_table('tasks');
SELECT rte.register_table('comments');

-- Two companies.
INSERT INTO users (id, name, hue, teams, simulated)
SELECT u.id, u.name, u.hue, u.teams::text[], u.simulated
FROM (VALUES
    ('acme',   'alice', 'Alice Moreau', 172, '{everyone,leads}', false),
    ('acme',   'bob',   'Bob Tanaka',   262, '{everyone}',       false),
    ('acme',   'carla', 'Carla Nunes',   28, '{everyone}',       false),
    ('acme',   'dana',  'Dana Olsen',   330, '{everyone}',       true),
    ('acme',   'emil',  'Emil Bauer',   212, '{everyone,leads}', true),
    ('globex', 'gwen',  'Gwen Adeyemi', 300, '{everyone,leads}', false),
    ('globex', 'hugo',  'Hugo Lindt',   140, '{everyone}',       false),
    ('globex', 'iris',  'Iris Cohen',   225, '{everyone}',       true),
    ('globex', 'jonas', 'Jonas Weber',   40, '{everyone,leads}', true)) AS u(company, id, name, hue, teams, simulated)
WHERE u.company = current_database();

INSERT INTO boards (title, team, archived)
SELECT b.title, b.team, b.archived
FROM (VALUES
    ('acme',   'Website launch', 'everyone', false),
    ('acme',   'Office move',    'everyone', false),
    ('acme',   'Hiring',         'leads',    false),
    ('acme',   'Archive',        'everyone', true),
    ('globex', 'Spring catalogue', 'everyone', false),
    ('globex', 'Warehouse',        'everyone', false),
    ('globex', 'Budget',           'leads',    false),
    ('globex', 'Archive',          'everyone', true)) AS b(company, title, team, archived)
WHERE b.company = current_database();

-- Tasks of each board, dealt out to people and columns by their number.
INSERT INTO tasks (board_id, team, title, state, position, assignee, changed_by, changed_at)
SELECT b.id, b.team, t.title, (ARRAY['todo', 'doing', 'todo', 'review', 'done', 'todo', 'doing'])[1 + (t.at % 7)::int], t.at,
       CASE WHEN t.at % 5 <> 4 THEN p.people[1 + (t.at % cardinality(p.people))::int] END, p.people[1], now() - t.at * interval '37 minutes'
FROM boards b
CROSS JOIN LATERAL (SELECT array_agg(u.id ORDER BY u.id) AS people FROM users u WHERE b.team = ANY (u.teams)) AS p
CROSS JOIN LATERAL unnest(CASE b.title
    WHEN 'Website launch' THEN ARRAY['Write the launch announcement', 'Fix the checkout on small screens', 'Compress the hero images',
        'Translate the pricing page', 'Review the cookie text with legal', 'Set up redirects from the old shop', 'Load test the search',
        'Draw the empty states', 'Record the product tour', 'Check contrast in dark mode', 'Agree on the rollback plan', 'Brief the support team',
        'Move the blog', 'Measure first paint on a slow phone']
    WHEN 'Office move' THEN ARRAY['Measure the new meeting rooms', 'Order desks for the second floor', 'Cancel the old internet line',
        'Label the moving boxes', 'Find a home for the plants', 'Test the door badges', 'Invite the neighbours', 'Update the address everywhere',
        'Plan the first lunch', 'Hang the whiteboards']
    WHEN 'Hiring' THEN ARRAY['Agree on salary bands', 'Write the job posting for platform', 'Call references', 'Plan the onsite day', 'Answer open applications']
    WHEN 'Spring catalogue' THEN ARRAY['Photograph the garden chairs', 'Choose the cover', 'Proofread the index', 'Ask for paper samples', 'Price the lamps',
        'Lay out pages 12 to 19', 'Write about the teapots', 'Get the recycling logo right', 'Send the proofs to the printer', 'Book the studio']
    WHEN 'Warehouse' THEN ARRAY['Count the wall clocks', 'Repair the loading dock light', 'Train on the new scanner', 'Move hammocks to aisle four',
        'Throw out broken pallets', 'Check the fire doors', 'Label the cold shelf']
    WHEN 'Budget' THEN ARRAY['Forecast the second quarter', 'Talk to the bank', 'Review travel costs', 'Close the books of March']
    ELSE ARRAY[]::text[] END) WITH ORDINALITY AS t(title, at);

-- What was done before: enough that the first copy takes a moment to see, and the next visit none.
INSERT INTO tasks (board_id, team, title, state, position, assignee, changed_by, changed_at)
SELECT b.id, b.team,
       (ARRAY['Order', 'Review', 'Repair', 'Plan', 'Measure', 'Rewrite', 'Check', 'Move'])[1 + n % 8] || ' the ' ||
       (ARRAY['invoices', 'lamps', 'newsletter', 'front door', 'price list', 'backup', 'parking spots', 'handbook', 'printer', 'roof'])[1 + n % 10] ||
       ', week ' || 1 + n % 52,
       'done', n, p.people[1 + n / 7 % cardinality(p.people)], p.people[1 + n / 3 % cardinality(p.people)], now() - n * interval '3 hours'
FROM boards b, (SELECT array_agg(id ORDER BY id) AS people FROM users) AS p, generate_series(1, 5000) AS n
WHERE b.archived;

INSERT INTO comments (task_id, team, author, body, created_at)
SELECT t.id, t.team, p.people[1 + ((t.id + n) % cardinality(p.people))],
       (ARRAY['On it.', 'Can somebody have a second look?', 'Waiting for an answer from outside.', 'Looks good to me.', 'This took longer than I thought.',
              'Moved to next week, sorry.', 'I have put the numbers into the shared folder.'])[1 + (t.id * 3 + n) % 7],
       now() - (t.id % 40 + 3 - n) * interval '29 minutes'
FROM tasks t JOIN boards b ON b.id = t.board_id AND NOT b.archived
CROSS JOIN LATERAL (SELECT array_agg(u.id ORDER BY u.id) AS people FROM users u WHERE t.team = ANY (u.teams)) AS p
CROSS JOIN LATERAL generate_series(1, t.id % 4) AS n;
