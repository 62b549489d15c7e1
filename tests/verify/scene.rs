//! Two tables, writers, and clients that see the rows in each of the ways in which rows are chosen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rte_testkit::{Ask, Client, Cluster, Dice, Failure, Sql, Verdict};
use rte_testkit::{patience, token_of, wait_until};
use serde_json::json;

pub const ROWS: i32 = 2000;

/// Sessions that change rows of `t` and `team_member` until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(cluster: &Cluster, count: u64, seed: u64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count).map(|n| {
            let (stop, done, door) = (stop.clone(), done.clone(), cluster.door());
            let mut dice = Dice::with_seed(seed + n);
            std::thread::spawn(move || {
                let Ok(mut sql) = door.knock("postgres") else { return };
                while !stop.load(Ordering::Relaxed) {
                    if !write(&mut sql, &mut dice) {
                        // The server was restarted under it.
                        match wait_until("a session", || door.knock("postgres").ok().map(Some)) {
                            Some(new) => sql = new,
                            None => return,
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, done, threads }
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|t| t.join().expect("a writer"));
    }
}

/// One transaction; `false` where the session is lost.
fn write(sql: &mut Sql, dice: &mut Dice) -> bool {
    let (id, other) = (dice.i32(1..=ROWS), dice.i32(1..=ROWS));
    let who = ["ann", "bob", "eve"][dice.usize(..3)];
    let statement = match dice.u32(..12) {
        0..=4 => format!("UPDATE t SET n = n + 1, note = 'n{other}' WHERE id = {id}"),
        5 => format!("UPDATE t SET owner = '{who}', team = {} WHERE id IN ({id}, {other})", other % 5),
        6 => format!("DELETE FROM t WHERE id = {id}"),
        7 | 8 => format!("INSERT INTO t VALUES {} ON CONFLICT (id) DO UPDATE SET n = 0", row(id)),
        9 => format!(
            "BEGIN; UPDATE t SET n = n - 1 WHERE id = {}; UPDATE t SET n = n + 1 WHERE id = {}; COMMIT",
            id.min(other),
            id.max(other)
        ),
        10 => format!("UPDATE t SET j = '{{\"b\": {id}.50, \"a\": [{other}e3], \"b\": 1e400}}' WHERE id = {id}"),
        _ => format!(
            "INSERT INTO team_member VALUES ('{who}', {0}) ON CONFLICT DO NOTHING;
             DELETE FROM team_member WHERE name = '{who}' AND team = {1}",
            id % 5,
            other % 5
        ),
    };
    sql.try_run(&statement).is_ok()
}

fn row(id: i32) -> String {
    let who = ["ann", "bob", "eve"][id as usize % 3];
    format!("({id}, '{who}', {}, {id}, 'note {id}', '{{\"n\": {id}}}', now())", id % 5)
}

/// `t` for everybody, `own` and `team` of the same rows by policies: the first folds, the second has to be asked.
pub fn scene(builder: rte_testkit::Builder) -> (Cluster, Sql) {
    let cluster = builder.tokens().ready();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE TABLE t (id int PRIMARY KEY, owner text, team int, n bigint, note text, j json, at timestamptz);
         CREATE TABLE team_member (name text, team int, PRIMARY KEY (name, team));
         CREATE ROLE member; CREATE ROLE mate; GRANT member, mate TO authenticator;
         GRANT SELECT ON t, team_member TO member, mate; GRANT SELECT ON kit_barrier TO PUBLIC",
    );
    let rows: Vec<String> = (1..=ROWS).map(row).collect();
    sql.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
    sql.run(
        "INSERT INTO team_member VALUES ('ann', 1), ('ann', 2), ('bob', 3);
         ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY everybody ON t TO web_anon USING (true);
         CREATE POLICY own ON t TO member
             USING (owner = (current_setting('request.jwt.claims', true)::json ->> 'name'));
         CREATE POLICY mates ON t TO mate USING (EXISTS (SELECT FROM team_member m
             WHERE m.team = t.team AND m.name = (current_setting('request.jwt.claims', true)::json ->> 'name')))",
    );
    ["t", "team_member"].iter().for_each(|t| sql.register(t));
    (cluster, sql)
}

/// Asks until the server is ready to; tells how often it was not.
pub fn verify(client: &mut Client, id: &str, ask: &Ask) -> (Verdict, u32) {
    let end = Instant::now() + patience();
    let mut refused = 0;
    loop {
        match client.verify(id, ask) {
            Ok(verdict) => return (verdict, refused),
            Err(Failure { code, .. }) if code == "NOT_READY" && Instant::now() < end => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
}

pub fn parts(parts: u32) -> Ask {
    Ask { parts, ..Ask::default() }
}

/// Subscribes in each of the ways in which rows are chosen.
pub fn crowd(cluster: &Cluster) -> Vec<Client> {
    let mut clients = vec![
        cluster.client("whole"),
        cluster.client("where"),
        cluster.client("columns"),
        cluster.client_with("own", &token_of(&json!({"role": "member", "name": "ann"}))),
        cluster.client_with("asked", &token_of(&json!({"role": "mate", "name": "bob"}))),
    ];
    clients[0].subscribe("s", "t");
    clients[1].subscribe_where("s", "t", None, "owner = $1 AND n % 2 = 0", &[json!("bob")]);
    clients[2].subscribe_columns("s", "t", &["note", "n"]);
    clients[3].subscribe("s", "t");
    clients[4].subscribe("s", "t");
    clients.iter_mut().for_each(Client::wait_live);
    clients
}
