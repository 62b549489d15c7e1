//! What `make run` shows, with the very files that it runs: the shops side by side, and the application with its backend.

use rte_testkit::{Actor, Client, Cluster, SECRET, Sql, difference, get, request, token_of, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command};

/// A shop's table and policies, a tenant of the cluster.
fn shop() -> (Cluster, Sql) {
    let cluster = Cluster::builder().tokens().conf("max_worker_processes", "16").ready();
    let mut landlord = cluster.sql();
    landlord.run("CREATE ROLE manager; CREATE ROLE clerk; GRANT manager, clerk TO authenticator");
    landlord.run("CREATE DATABASE acme");
    run(&cluster, "acme", &[], include_str!("../sql/demo_shop.sql"));
    let given = ["-v", "title=Side by side", "-v", "address=/compare"];
    run(&cluster, "postgres", &given, include_str!("../sql/demo_tenants.sql"));
    let sql = cluster.sql_in("acme");
    (cluster, sql)
}

#[track_caller]
fn run(cluster: &Cluster, database: &str, options: &[&str], script: &str) {
    let done = cluster.psql(database, &[&["-v", "ON_ERROR_STOP=1"], options].concat(), script);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Somebody with a token of the shop's, who holds the orders.
fn visitor(cluster: &Cluster, role: &str, sub: &str) -> Client {
    let mut client = Client::new(cluster.rte_port, sub);
    client.options.tenant = Some("acme".into());
    client.options.token = Some(token_of(&json!({"role": role, "sub": sub, "tenant": "acme"})));
    client.come_back();
    client.errors.clear();
    client.subscribe("orders", "orders");
    client.carry_on("the orders", |c| c.copy.all_live());
    client
}

/// Waits until the visitor holds exactly what the role reads in Postgres.
#[track_caller]
fn sees_what_the_role_reads(sql: &mut Sql, client: &mut Client, role: &str) {
    sql.run(&format!("SET ROLE {role}; SET request.jwt.claims = '{{\"sub\": \"{}\"}}'", client.options.name));
    client.carry_on("what the role reads", |c| difference(sql, c.sub("orders")).is_none());
    sql.run("RESET ROLE");
}

fn columns(client: &Client) -> Vec<&str> {
    client.sub("orders").columns.iter().map(|c| &*c.name).collect()
}

#[test]
fn the_demos_visitors_see_what_its_policies_say_and_nothing_else() {
    let (cluster, mut sql) = shop();
    let mut alice = visitor(&cluster, "manager", "alice");
    let (mut carl, mut dora) = (visitor(&cluster, "clerk", "carl"), visitor(&cluster, "clerk", "dora"));
    assert_eq!(columns(&alice), ["id", "item", "handled_by", "state", "price", "cost"]);
    assert_eq!(columns(&carl), ["id", "item", "handled_by", "state", "price"]);
    let count = |client: &Client| client.sub("orders").rows.len();
    assert_eq!((count(&alice), count(&carl), count(&dora)), (7, 4, 3));
    // What the demo's load does, and what its text invites to.
    let load = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/demo_shop_load.sql");
    let mut pgbench = cluster.tool("pgbench");
    pgbench.args(["-n", "-c", "2", "-t", "60", "-f", "-", "acme"]).stdin(File::open(load).expect("the load"));
    let done = pgbench.output().expect("pgbench");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    sees_what_the_role_reads(&mut sql, &mut alice, "manager");
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
    sees_what_the_role_reads(&mut sql, &mut dora, "clerk");
    sql.run("UPDATE orders SET handled_by = 'carl'");
    dora.carry_on("nothing left", |c| c.sub("orders").rows.is_empty());
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
    assert_eq!(count(&carl), count(&alice));
    sql.run("GRANT SELECT (cost) ON orders TO clerk");
    carl.carry_on("the cost", |c| c.copy.all_live() && columns(c).last() == Some(&"cost"));
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
}

/// The tasks of a company, a tenant of the cluster, and the backend of the application.
struct Office {
    cluster: Cluster,
    sql: Sql,
    /// A session of the authenticator.
    eye: Sql,
    backend: Child,
    port: u16,
}

impl Office {
    fn open() -> Self {
        let cluster = Cluster::builder().tokens().conf("max_worker_processes", "16").ready();
        let mut landlord = cluster.sql();
        landlord.run("CREATE ROLE member; GRANT member TO authenticator");
        landlord.run("CREATE DATABASE acme");
        run(&cluster, "acme", &[], include_str!("../sql/demo_tasks.sql"));
        landlord.run("SELECT rte.register_tenant('acme')");
        let sql = cluster.sql_in("acme");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let eye = cluster.door().knock_as("acme", "authenticator").expect("the authenticator");
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tasks/server.py"));
        command.args(["--tenant", "acme", "--gateway", "http://127.0.0.1:1", "--port", &port.to_string()]);
        command.arg("--psql").arg(cluster.tool("psql").get_program()).arg("--host").arg(cluster.dir());
        let backend = command.env("RTE_JWT_SECRET", SECRET).env("PYTHONDONTWRITEBYTECODE", "1").spawn();
        let office = Self { cluster, sql, eye, backend: backend.expect("python3"), port };
        wait_until("the backend", || get(port, "/api/companies").filter(|r| r.status == 200));
        office
    }

    fn post(&self, path: &str, headers: &str, body: &Value) -> (u16, Value) {
        let (port, body) = (self.port, body.to_string());
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        let response = request(port, &text).expect("an answer");
        (response.status, serde_json::from_str(&response.body).expect("JSON"))
    }

    fn log_in(&self, user: &str) -> String {
        let (status, answer) = self.post("/api/login", "", &json!({"tenant": "acme", "user": user}));
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// What the page does with a form: status and answer.
    fn act(&self, token: &str, action: &str, values: &Value) -> (u16, Value) {
        self.post(&format!("/api/{action}"), &format!("Authorization: Bearer {token}\r\n"), values)
    }

    /// Somebody with the backend's token, who holds all four tables.
    fn member(&self, user: &str) -> Client {
        let mut client = Client::new(self.cluster.rte_port, user);
        client.options.tenant = Some("acme".into());
        client.options.token = Some(self.log_in(user));
        client.come_back();
        client.errors.clear();
        for table in TABLES {
            client.subscribe(table, table);
        }
        client.carry_on("the tables", |c| c.copy.all_live());
        client
    }

    /// Asserts that at a commit after all that was written, the member holds exactly what Postgres shows to somebody of
    /// these teams.
    #[track_caller]
    fn holds_what_is_shown(&mut self, client: &mut Client, teams: &[&str]) {
        let mark = self.sql.text("UPDATE users SET hue = hue + 1 WHERE id = 'emil' RETURNING hue");
        client.carry_on("the last commit", |c| {
            let users = c.sub("users");
            let at = |name: &str| users.columns.iter().position(|c| &*c.name == name).expect("a column");
            users.rows.values().any(|row| &*row[at("id")] == "\"emil\"" && *row[at("hue")] == *mark)
        });
        let actor = Actor::new("member", json!({"sub": client.options.name, "teams": teams}));
        for table in TABLES {
            assert_eq!(actor.difference(&mut self.eye, client.sub(table), "true"), None, "{table}");
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = self.backend.kill();
        let _ = self.backend.wait();
    }
}

const TABLES: [&str; 4] = ["users", "boards", "tasks", "comments"];
const EVERYBODY: &[&str] = &["everyone"];
const LEADS: &[&str] = &["everyone", "leads"];

fn rows(client: &Client, table: &str) -> usize {
    client.sub(table).rows.len()
}

#[test]
fn members_hold_what_their_teams_may_see_and_a_board_goes_with_all_that_hangs_on_it() {
    let mut office = Office::open();
    let (mut alice, mut bob) = (office.member("alice"), office.member("bob"));
    let names: Vec<&str> = bob.sub("users").columns.iter().map(|c| &*c.name).collect();
    assert_eq!(names, ["id", "name", "hue", "simulated"], "teams are withheld");
    assert_eq!((rows(&alice, "boards"), rows(&bob, "boards")), (4, 3));
    assert!(rows(&alice, "comments") > rows(&bob, "comments"), "a comment goes with its task");
    let load = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/demo_tasks_load.sql");
    let mut pgbench = office.cluster.tool("pgbench");
    pgbench.args(["-n", "-c", "2", "-t", "150", "-f", "-", "acme"]).stdin(File::open(load).expect("the load"));
    let done = pgbench.output().expect("pgbench");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    office.holds_what_is_shown(&mut alice, LEADS);
    office.holds_what_is_shown(&mut bob, EVERYBODY);
    // What the demo's text invites to.
    let of_board = |client: &Client, id: i64| {
        let at = client.sub("tasks").columns.iter().position(|c| c.name == "board_id").expect("the column");
        client.sub("tasks").rows.values().filter(|row| *row[at] == *id.to_string()).count()
    };
    let board = office.sql.number("SELECT id FROM boards WHERE title = 'Office move'");
    assert!(of_board(&bob, board) > 0);
    office.sql.run("UPDATE boards SET team = 'leads' WHERE title = 'Office move'");
    bob.carry_on("the board to go", |c| rows(c, "boards") == 2);
    assert_eq!(of_board(&bob, board), 0, "the tasks went in the same commit");
    office.holds_what_is_shown(&mut bob, EVERYBODY);
    office.holds_what_is_shown(&mut alice, LEADS);
    assert!(of_board(&alice, board) > 0);
}

#[test]
fn what_the_backend_writes_comes_to_everybody_and_is_held_to_the_policies_of_who_wrote() {
    let mut office = Office::open();
    let mut alice = office.member("alice");
    let bob = office.log_in("bob");
    // Text that would be something else if it ever became SQL or a command of psql's.
    let text = "it's \"done\"; DROP TABLE tasks; -- :'task' \\! true\nand more";
    let said = json!({"task": "1", "body": text});
    let (status, answer) = office.act(&bob, "add_comment", &said);
    assert_eq!(status, 200, "{answer}");
    let comment = format!("SELECT author || ': ' || body FROM comments WHERE id = {}", answer["id"]);
    assert_eq!(office.sql.text(&comment), format!("bob: {text}"));
    for (action, values) in [
        ("add_task", json!({"board": "1", "title": text, "state": "todo", "assignee": ""})),
        ("edit_task", json!({"task": "2", "title": "Another title", "assignee": "carla"})),
        ("tick_task", json!({"task": "3", "done": "true"})),
        ("delete_task", json!({"task": "4"})),
    ] {
        let (status, answer) = office.act(&bob, action, &values);
        assert_eq!(status, 200, "{action}: {answer}");
    }
    // Between two, before the first, and to the end.
    office.sql.run("UPDATE tasks SET state = 'todo', position = id WHERE id IN (5, 6, 7); DELETE FROM tasks WHERE board_id = 1 AND id > 8");
    for (task, before) in [("8", "6"), ("7", "5"), ("5", "")] {
        let moved = json!({"task": task, "state": "todo", "before": before});
        assert_eq!(office.act(&bob, "move_task", &moved).0, 200);
    }
    let order =
        "SELECT string_agg(id::text, ' ' ORDER BY position) FROM tasks WHERE id BETWEEN 5 AND 8 AND state = 'todo'";
    assert_eq!(office.sql.text(order), "7 8 6 5");
    assert_eq!(office.sql.text("SELECT DISTINCT changed_by FROM tasks WHERE id IN (2, 3, 5, 7, 8)"), "bob");
    office.holds_what_is_shown(&mut alice, LEADS);

    // The leads' board is not Bob's: for him it is not there.
    let hiring = office.sql.text("SELECT id FROM boards WHERE team = 'leads'");
    let task = office.sql.text("SELECT min(id) FROM tasks WHERE team = 'leads'");
    let before = office.sql.text("SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM tasks t WHERE team = 'leads'");
    for (action, values) in [
        ("add_task", json!({"board": hiring, "title": "x", "state": "todo", "assignee": ""})),
        ("edit_task", json!({"task": task, "title": "x", "assignee": ""})),
        ("move_task", json!({"task": task, "state": "done", "before": ""})),
        ("tick_task", json!({"task": task, "done": "true"})),
        ("delete_task", json!({"task": task})),
        ("add_comment", json!({"task": task, "body": "x"})),
    ] {
        assert_eq!(office.act(&bob, action, &values).0, 404, "{action}");
    }
    assert_eq!(
        office.sql.text("SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM tasks t WHERE team = 'leads'"),
        before
    );
    // Nor does a member sign as another, whoever the backend would take him for.
    let bobs = Actor::new("member", json!({"sub": "bob", "teams": EVERYBODY})).assume();
    for statement in [
        "INSERT INTO comments (task_id, team, author, body) VALUES (1, 'everyone', 'alice', 'x')",
        "UPDATE tasks SET title = 'x', changed_by = 'alice' WHERE id = 1",
        "UPDATE tasks SET team = 'leads' WHERE id = 1",
        "DELETE FROM comments",
    ] {
        assert_eq!(office.eye.fails(&format!("BEGIN; {bobs}; {statement}")).0, "42501", "{statement}");
        office.eye.run("ROLLBACK");
    }
}

#[test]
fn the_backend_lets_nobody_in_who_is_not_a_member_and_no_page_of_another_origin() {
    let office = Office::open();
    let bob = office.log_in("bob");
    let values = json!({"task": "1"});
    let forged = token_of(&json!({"sub": "alice", "role": "postgres", "tenant": "acme", "exp": 1}));
    for token in ["", "x.y.z", &format!("{bob}x"), &forged] {
        assert_eq!(office.act(token, "delete_task", &values).0, 401, "{token}");
    }
    for user in ["dana", "nobody", ""] {
        assert_eq!(office.post("/api/login", "", &json!({"tenant": "acme", "user": user})).0, 403, "{user}");
    }
    assert_eq!(office.post("/api/login", "", &json!({"tenant": "postgres", "user": "bob"})).0, 403);
    let login = json!({"tenant": "acme", "user": "bob"});
    assert_eq!(office.post("/api/login", "Origin: http://stranger.example\r\n", &login).0, 403);
    assert_eq!(office.post("/api/run", "", &login).0, 404);
    for values in [json!({}), json!({"task": "1; DROP"}), json!({"task": 1}), json!({"task": null}), json!([])] {
        assert_eq!(office.act(&bob, "delete_task", &values).0, 400, "{values}");
    }
    let port = office.port;
    let asked = |path: &str, host: &str| {
        request(port, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect("an answer").status
    };
    let here = format!("127.0.0.1:{port}");
    assert_eq!(asked("/", &here), 200);
    assert_eq!(asked("/", "stranger.example"), 421);
    for path in ["/server.py", "/../server.py", "/actions/add_task.sql", "//etc/passwd"] {
        assert_eq!(asked(path, &here), 404, "{path}");
    }
}
