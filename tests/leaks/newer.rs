//! Changes of access that commit while a tick is under way: what the tick tells is as its snapshot has it, rows and rights
//! alike.
//!
//! A policy that waits for a lock of the test's holds the tick between its snapshot and its other questions.

use rte_testkit::{Actor, Client, Cluster, Sql, Watch, wait_until};
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Tables of which some are asked about after the change: in which order a tick asks is by chance.
const TABLES: usize = 6;

/// Keeps what came.
#[derive(Clone, Default)]
pub struct Frames(pub Arc<Mutex<String>>);

impl Watch for Frames {
    fn frame(&mut self, text: &str) {
        self.0.lock().expect("frames").push_str(text);
    }
}

struct Scene {
    sql: Sql,
    /// Holds the lock that the policy of `slow` waits for.
    gate: Sql,
    authenticator: Sql,
    actor: Actor,
    client: Client,
    frames: Frames,
    cluster: Cluster,
}

impl Scene {
    /// `policy`: of the tables `t0`, `t1`, …
    fn new(policy: &str) -> Self {
        let cluster = Cluster::builder().tokens().conf("rte.policy_timeout", "1min").ready();
        let mut sql = cluster.sql();
        sql.run(
            "CREATE ROLE member; CREATE ROLE vip; GRANT member TO authenticator;
             CREATE TABLE team (name text PRIMARY KEY); GRANT SELECT ON team TO PUBLIC;
             CREATE FUNCTION wait() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared(7);
                 RETURN true; END $$;
             CREATE FUNCTION wait_in_worker() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 IF (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) LIKE '%query worker' THEN
                     PERFORM pg_advisory_xact_lock_shared(7);
                     -- Locks a table that was not, which is when Postgres hears of changes.
                     PERFORM FROM team;
                 END IF;
                 RETURN true; END $$",
        );
        let mut table = |name: &str, policy: &str| {
            sql.table(name, "id int PRIMARY KEY, v text");
            sql.run(&format!(
                "GRANT SELECT ON {name}, kit_barrier TO member; ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; {}",
                policy.replace("$t", name)
            ));
        };
        table("slow", "CREATE POLICY p ON $t USING (wait())");
        (0..TABLES).for_each(|n| table(&format!("t{n}"), policy));
        let actor = Actor::new("member", json!({"name": "ann"}));
        let mut client = cluster.client_with("ann", &actor.token());
        let frames = Frames::default();
        client.watch(frames.clone());
        client.subscribe_barrier();
        client.subscribe("slow", "slow");
        (0..TABLES).for_each(|n| client.subscribe(&format!("t{n}"), &format!("t{n}")));
        client.wait_live();
        let (gate, authenticator) = (cluster.sql(), cluster.door().knock_as("postgres", "authenticator").expect("it"));
        Self { sql, gate, authenticator, actor, client, frames, cluster }
    }

    /// A tick that sees `before` is held between its snapshot and its other questions until `change` has committed; then
    /// everybody catches up.
    fn race(&mut self, before: &str, change: &str) {
        self.close_gate();
        self.sql.run(&format!("BEGIN; INSERT INTO slow SELECT coalesce(max(id), 0) + 1 FROM slow; {before}; COMMIT"));
        self.change_behind_gate(change);
        self.catch_up();
    }

    fn close_gate(&mut self) {
        self.gate.run("SELECT pg_advisory_lock(7)");
    }

    /// Once somebody waits at the gate.
    fn change_behind_gate(&mut self, change: &str) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
        wait_until("somebody waits at the gate", || (self.gate.number(waiting) > 0).then_some(()));
        self.sql.run(&format!("BEGIN; {change}; COMMIT"));
        self.gate.run("SELECT pg_advisory_unlock(7)");
    }

    /// Everybody holds what Postgres shows.
    fn catch_up(&mut self) {
        let mark = self.sql.barrier();
        self.client.carry_on("the barrier", |c| c.at_barrier(mark));
        for s in self.client.copy.subscriptions.values().filter(|s| s.id.starts_with('t')) {
            if let Some(difference) = self.actor.difference(&mut self.authenticator, s, "true") {
                panic!("{difference}");
            }
        }
    }

    /// `statement` for each table.
    fn each(statement: &str) -> String {
        (0..TABLES).map(|n| statement.replace("$t", &format!("t{n}"))).collect::<Vec<_>>().join("; ")
    }

    #[track_caller]
    fn assert_unheard(&self, word: &str) {
        let frames = self.frames.0.lock().expect("frames");
        if let Some(at) = frames.find(word) {
            let around: String = frames.chars().skip(at.saturating_sub(200)).take(400).collect();
            panic!("{word:?} was heard: …{around}…\n{}", self.cluster.dir().display());
        }
    }
}

#[test]
fn rows_of_before_a_change_of_access_are_not_shown_by_it() {
    let mut scene = Scene::new(
        "CREATE POLICY p ON $t USING (v IN (SELECT name FROM team)); CREATE POLICY q ON $t TO vip USING (true)",
    );
    for round in 0..4 {
        let insert = Scene::each(&format!("INSERT INTO $t VALUES ({round}, 'secret')"));
        // Who may see the rows from here on has never been entitled to what they were.
        let change = format!("{}; GRANT vip TO member", Scene::each("UPDATE $t SET v = 'public'"));
        scene.race(&insert, &change);
        scene.assert_unheard("secret");
        scene.sql.run("REVOKE vip FROM member");
    }
}

#[test]
fn a_snapshot_shows_nothing_by_rights_that_are_newer() {
    let mut scene = Scene::new(
        "CREATE POLICY p ON $t USING (CASE WHEN wait_in_worker() THEN pg_has_role(current_user, 'vip', 'member') END)",
    );
    for round in 0..4 {
        scene.sql.run(&Scene::each(&format!("INSERT INTO $t VALUES ({round}, 'secret')")));
        scene.client.unsubscribe("t0");
        scene.client.ping();
        scene.close_gate();
        scene.client.subscribe("t0", "t0");
        scene.change_behind_gate(&format!("{}; GRANT vip TO member", Scene::each("UPDATE $t SET v = 'public'")));
        scene.catch_up();
        scene.assert_unheard("secret");
        scene.sql.run("REVOKE vip FROM member");
        scene.catch_up();
    }
}
