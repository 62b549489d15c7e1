//! What a subscription's condition does to its copy: rows enter, leave and stay, also where a change does not hold all that
//! the condition reads; and an error of a condition tells nothing.

use rte_testkit::{Actor, Client, Cluster, Sql, State};
use serde_json::json;

/// A table with values that lie out of line, and a client of each condition.
fn toasted(conditions: &[&str]) -> (Cluster, Sql, Client) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, n int, big text, other text");
    sql.run("ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL");
    sql.run(
        "INSERT INTO t SELECT i, i, repeat(chr(96 + i), 20000 * i), repeat('o', 50000) FROM generate_series(1, 6) i",
    );
    let mut client = cluster.client("c");
    client.subscribe_barrier();
    for condition in conditions {
        client.subscribe_where(condition, "t", None, condition, &[]);
    }
    client.wait_live();
    (cluster, sql, client)
}

fn check(sql: &mut Sql, client: &mut Client) {
    let mark = sql.barrier();
    client.wait_barrier(mark);
    let subscriptions = client.copy.subscriptions.values().filter(|s| s.condition.is_some());
    for subscription in subscriptions {
        let condition = &subscription.condition.as_ref().expect("a condition").0;
        let held: Vec<String> = {
            let at = |name: &str| subscription.columns.iter().position(|c| c.name == name).expect("a column");
            let (id, n, big, other) = (at("id"), at("n"), at("big"), at("other"));
            let mut rows: Vec<String> = subscription
                .rows
                .values()
                .map(|row| format!("{} {} {} {}", row[id], row[n], row[big].len(), row[other].len()))
                .collect();
            rows.sort();
            rows
        };
        // In JSON a text has two quotes.
        let expected = sql.texts(&format!(
            "SELECT x FROM (SELECT concat_ws(' ', id, coalesce(n::text, 'null'), length(big) + 2, length(other) + 2) AS x FROM t WHERE {condition}) q
             ORDER BY x COLLATE \"C\""
        ));
        assert_eq!(held, expected, "{condition}");
    }
}

#[test]
fn values_out_of_line_that_did_not_change_decide_all_the_same() {
    let (_cluster, mut sql, mut client) = toasted(&["length(big) > 50000", "n > 3", "left(big, 1) < 'd'", "n % 2 = 0"]);
    check(&mut sql, &mut client);
    for statement in [
        // The condition's value did not change, and is not in the change.
        "UPDATE t SET n = n + 10",
        // A row enters whose long values did not change.
        "UPDATE t SET n = -n WHERE id <= 3",
        "UPDATE t SET n = 100 WHERE id = 1",
        // The value changes, and others that are out of line do not.
        "UPDATE t SET big = repeat('z', 60000) WHERE id = 2",
        "UPDATE t SET big = 'short' WHERE id = 5; UPDATE t SET n = n WHERE id = 5; UPDATE t SET n = 4 WHERE id = 5",
        "BEGIN; UPDATE t SET n = 7 WHERE id = 6; UPDATE t SET n = 8 WHERE id = 6; UPDATE t SET other = 'x' WHERE id = 6; COMMIT",
        "UPDATE t SET id = id + 100 WHERE id IN (1, 6)",
        "BEGIN; UPDATE t SET n = 5 WHERE id = 4; DELETE FROM t WHERE id = 4; COMMIT",
        "DELETE FROM t WHERE id = 3",
        "INSERT INTO t SELECT 4, 4, big, other FROM t WHERE id = 101",
        "UPDATE t SET n = NULL WHERE id = 4",
        "TRUNCATE t",
    ] {
        sql.run(statement);
        check(&mut sql, &mut client);
    }
    client.assert_clean();
}

#[test]
fn who_was_away_gets_rows_whose_values_out_of_line_are_in_no_change() {
    let (_cluster, mut sql, mut client) = toasted(&["length(big) > 50000", "n > 3"]);
    client.leave();
    sql.run("UPDATE t SET n = n + 10 WHERE id < 4; UPDATE t SET n = 0 WHERE id = 6; DELETE FROM t WHERE id = 5");
    client.come_back();
    client.carry_on("live again", |c| c.copy.all_live());
    check(&mut sql, &mut client);
    assert_eq!(client.copy.counts.refused_resumes, 0, "{:?}", client.copy.counts);
}

/// Division by zero on a row that one may see ends the subscription; on one that one may not see, it does not happen.
#[test]
fn an_error_of_a_condition_tells_nothing_of_rows_that_are_not_ones_own() {
    let cluster = Cluster::builder().tokens().ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE member; GRANT member TO authenticator; GRANT SELECT ON kit_barrier TO member");
    sql.table("t", "id int PRIMARY KEY, owner text, n int");
    sql.run(
        "GRANT SELECT ON t TO member; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON t USING (owner = current_setting('request.jwt.claims')::json ->> 'sub');
         INSERT INTO t VALUES (1, 'ann', 1), (2, 'bob', 5)",
    );
    sql.table("part", "id int PRIMARY KEY, tenant text, n int");
    sql.run(
        "SELECT rte.register_table('part', tenant_column => 'tenant'); GRANT SELECT ON part TO member;
         INSERT INTO part VALUES (1, 'x', 1), (2, 'y', 5)",
    );
    let ann = Actor::new("member", json!({"sub": "ann", "tenant": "x"}));
    let mut client = cluster.client_with("ann", &ann.token());
    client.subscribe_barrier();
    client.subscribe_where("own", "t", None, "10 / (n - 5) < 100", &[]);
    client.subscribe_where("part", "part", None, "10 / (n - $1) < 100", &[json!(5)]);
    client.wait_live();
    sql.run("INSERT INTO t VALUES (3, 'bob', 5); UPDATE t SET n = 6 WHERE id = 2; UPDATE t SET n = 5 WHERE id = 2; DELETE FROM t WHERE id = 3");
    sql.run(
        "INSERT INTO part VALUES (3, 'y', 5); UPDATE part SET n = 6 WHERE id = 2; UPDATE part SET n = 5 WHERE id = 2",
    );
    let mark = sql.barrier();
    client.wait_barrier(mark);
    client.assert_clean();
    assert_eq!((client.sub("own").rows.len(), client.sub("part").rows.len()), (1, 1));
    // Her own row.
    sql.run("UPDATE t SET n = 5 WHERE id = 1");
    let failed = client.wait_error("WHERE_FAILED");
    assert_eq!(failed.id.as_deref(), Some("own"));
    assert!(!failed.message.contains("zero") && !failed.message.contains('5'), "{failed:?}");
    client.wait_for("its end", |c| c.sub("own").state == State::Ended);
    client.copy.subscriptions.remove("own");
    sql.run("INSERT INTO part VALUES (4, 'x', 1)");
    let mark = sql.barrier();
    client.wait_barrier(mark);
    assert_eq!(client.sub("part").rows.len(), 2, "the other goes on");
    // In a snapshot likewise.
    let mut later = cluster.client_with("ann, later", &ann.token());
    later.subscribe_where("own", "t", None, "10 / (n - 5) < 100", &[]);
    let failed = later.wait_error("WHERE_FAILED");
    assert_eq!(failed.id.as_deref(), Some("own"));
    let errors = cluster.log().lines().filter(|l| l.contains("division by zero")).count();
    assert_eq!(errors, 0, "an error about data is logged by its code");
}

/// Its policies have to be asked, and somebody holds the table locked: the snapshot waits for that, and nobody else does.
#[test]
fn a_table_that_has_to_be_asked_for_is_asked_when_its_lock_is_gone() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, n int");
    sql.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (n > (SELECT count(*) FROM kit_barrier) * 0)");
    sql.run("INSERT INTO t VALUES (1, 1), (2, -1)");
    let feeder = cluster.worker("feeder");
    let mut holder = cluster.sql();
    holder.run("BEGIN; LOCK TABLE t");
    let mut client = cluster.client("c");
    client.subscribe_barrier();
    client.wait_live();
    client.subscribe("t", "t");
    // What answers it is sent after the first attempt at the table.
    client.wait_for("the subscription's answer", |c| matches!(c.sub("t").state, State::Joining(_)));
    let mark = sql.barrier();
    client.wait_for("the others to go on", |c| c.sub("kit_barrier").row(&[&mark.to_string()]).is_some());
    assert_ne!(client.sub("t").state, State::Live);
    holder.run("COMMIT");
    client.wait_live();
    sql.run("INSERT INTO t VALUES (3, 3), (4, -4)");
    let mark = sql.barrier();
    client.wait_barrier(mark);
    assert_eq!(client.sub("t").rows.len(), 2);
    assert_eq!(cluster.worker("feeder"), feeder, "the feeder has lived through it");
}
