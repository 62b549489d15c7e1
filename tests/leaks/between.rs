//! What was there for a moment: between two changes that come in one tick, or within a transaction. Who joins just then holds
//! what is there in the end, and nobody hears of what was nobody else's to see.

use crate::newer::Frames;
use rte_testkit::{Actor, Client, Cluster, Signal, Sql, State, kill};
use serde_json::json;

struct Scene {
    sql: Sql,
    authenticator: Sql,
    ann: Actor,
    client: Client,
    /// Keeps a worker and the shape in use.
    _other: Client,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::builder().tokens().conf("rte.query_workers", "1").ready();
        let mut sql = cluster.sql();
        sql.run(
            "CREATE ROLE member; GRANT member TO authenticator;
             CREATE TABLE team (name text, team int, PRIMARY KEY (name, team)); GRANT SELECT ON team TO PUBLIC;
             INSERT INTO team VALUES ('ann', 1), ('ann', 3)",
        );
        sql.table("t", "id int PRIMARY KEY, team int, v text");
        sql.run(
            "GRANT SELECT ON t, kit_barrier TO member; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON t USING (team IN (SELECT m.team FROM team m
                 WHERE m.name = current_setting('request.jwt.claims', true)::json ->> 'name'));
             INSERT INTO t VALUES (1, 1, 'mostly'), (2, 2, 'never'), (4, 3, 'always')",
        );
        let ann = Actor::new("member", json!({"name": "ann"}));
        let mut other = cluster.client_with("other", &ann.token());
        other.subscribe_barrier();
        other.subscribe("t", "t");
        other.wait_live();
        let mut client = cluster.client_with("ann", &ann.token());
        client.subscribe_barrier();
        client.wait_live();
        let authenticator = cluster.door().knock_as("postgres", "authenticator").expect("it");
        Self { sql, authenticator, ann, client, _other: other, cluster }
    }

    /// Joins: the snapshot is taken after `first`, and the next tick sees `first` and `second`.
    fn join_between(&mut self, first: &str, second: &str) {
        let (worker, feeder) = (self.cluster.worker("query worker"), self.cluster.worker("feeder"));
        kill(worker, Signal::STOP);
        self.client.subscribe("t", "t");
        self.client.wait_for("the subscription", |c| matches!(c.sub("t").state, State::Joining(_)));
        kill(feeder, Signal::STOP);
        self.sql.run(first);
        kill(worker, Signal::CONT);
        self.client.wait_for("rows", |c| c.sub("t").has_staged());
        self.sql.run(second);
        kill(feeder, Signal::CONT);
        let mark = self.sql.barrier();
        self.client.wait_barrier(mark);
        if let Some(difference) = self.ann.difference(&mut self.authenticator, self.client.sub("t"), "true") {
            panic!("{difference}");
        }
        assert!(self.client.errors.is_empty(), "{:?}", self.client.errors);
        self.client.unsubscribe("t");
        self.client.ping();
    }
}

#[test]
fn who_joins_between_two_changes_holds_what_is_there_after_them() {
    let mut scene = Scene::new();
    for (first, second) in [
        ("INSERT INTO t VALUES (3, 1, 'gone')", "DELETE FROM t WHERE id = 3"),
        ("UPDATE t SET team = 1 WHERE id = 2", "UPDATE t SET team = 2 WHERE id = 2"),
        ("INSERT INTO team VALUES ('ann', 2)", "DELETE FROM team WHERE team = 2"),
        ("DELETE FROM team WHERE team = 1", "INSERT INTO team VALUES ('ann', 1)"),
        ("UPDATE t SET team = 2 WHERE id = 1", "UPDATE t SET team = 1 WHERE id = 1"),
        ("CREATE POLICY q ON t USING (true)", "DROP POLICY q ON t"),
    ] {
        scene.join_between(first, second);
    }
}

#[test]
fn a_row_that_is_somebodys_within_a_transaction_alone_leaves_no_trace() {
    let mut scene = Scene::new();
    scene.sql.table("f", "id int PRIMARY KEY, owner text, wide text");
    scene.sql.run(
        "GRANT SELECT ON f TO member; ALTER TABLE f ALTER wide SET STORAGE EXTERNAL; ALTER TABLE f ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON f USING (owner = current_setting('request.jwt.claims', true)::json ->> 'name');
         INSERT INTO f VALUES (1, 'bob', repeat('no', 2000)), (2, 'ann', 'yes')",
    );
    let frames = Frames::default();
    scene.client.watch(frames.clone());
    // Its values lie out of line, so that of most changes it is not known whether it holds.
    scene.client.subscribe_where("f", "f", None, "wide LIKE $1", &[json!("yes%")]);
    scene.client.wait_live();
    let row = "(77001, 'ann', repeat('no', 2000))";
    for transaction in [
        format!("INSERT INTO f VALUES {row}; DELETE FROM f WHERE id = 77001"),
        format!("INSERT INTO f VALUES {row}; UPDATE f SET owner = 'bob' WHERE id = 77001"),
        "UPDATE f SET id = 77002, owner = 'ann' WHERE id = 1; UPDATE f SET owner = 'bob' WHERE id = 77002".to_owned(),
        "UPDATE f SET owner = 'ann', wide = wide || 'n' WHERE id = 77001; UPDATE f SET owner = 'bob' WHERE id = 77001"
            .to_owned(),
        "UPDATE f SET owner = 'ann' WHERE id = 77001; DELETE FROM f WHERE id = 77001".to_owned(),
    ] {
        scene.sql.run(&format!("BEGIN; {transaction}; COMMIT"));
        let mark = scene.sql.barrier();
        scene.client.wait_barrier(mark);
        let frames = frames.0.lock().expect("frames");
        assert!(!frames.contains("7700"), "{transaction}: {frames}");
    }
    assert_eq!(scene.client.sub("f").rows.len(), 1);
}
