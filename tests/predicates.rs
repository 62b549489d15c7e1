//! A condition means the same live, after an interruption, in a snapshot, and in Postgres: random expressions over all
//! common types, random writes.

use std::collections::BTreeMap;

use rte_testkit::expression::{self, COLUMNS, Condition};
use rte_testkit::{Client, Cluster, Dice, Sql, State, canonical, difference_to, rounds, seed, select_list};

const ROWS: i32 = 40;
const CONDITIONS: usize = 15;
const WRITES: usize = 60;

struct Scene {
    cluster: Cluster,
    sql: Sql,
    dice: Dice,
    next: i32,
}

impl Scene {
    fn new(mut dice: Dice) -> Self {
        let cluster = Cluster::ready();
        let mut sql = cluster.sql();
        sql.run(expression::MOOD);
        sql.table("t", &expression::definition());
        sql.run(
            "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1",
        );
        let rows: Vec<String> = (1..=ROWS).map(|id| expression::row(&mut dice, id)).collect();
        sql.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        Self { cluster, sql, dice, next: ROWS + 1 }
    }

    fn write(&mut self) {
        for _ in 0..WRITES {
            let id = self.dice.i32(1..self.next);
            let statement = match self.dice.u32(..20) {
                0..=4 => {
                    self.next += 1;
                    format!("INSERT INTO t VALUES {}", expression::row(&mut self.dice, self.next))
                }
                5..=7 => format!("DELETE FROM t WHERE id = {id}"),
                8 => {
                    self.next += 1;
                    format!("UPDATE t SET id = {} WHERE id = {id}", self.next)
                }
                9..=13 => {
                    // The whole row becomes another.
                    let list: Vec<&str> = COLUMNS.iter().skip(1).map(|(name, _)| *name).collect();
                    let (list, row) = (list.join(", "), expression::row(&mut self.dice, 0));
                    format!("UPDATE t SET ({list}) = (SELECT {list} FROM (SELECT (ROW{row}::t).*) v) WHERE id = {id}")
                }
                14..=18 => {
                    let (name, _) = COLUMNS[self.dice.usize(1..COLUMNS.len())];
                    let other = self.dice.i32(1..self.next);
                    format!("UPDATE t SET {name} = (SELECT o.{name} FROM t o WHERE o.id = {other}) WHERE id = {id}")
                }
                _ => format!("BEGIN; UPDATE t SET i4 = -i4; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT -- {id}"),
            };
            self.sql.run(&statement);
        }
    }

    /// The rows that Postgres finds, or nothing where it raises an error.
    fn expected(&mut self, condition: &Condition) -> Option<Vec<String>> {
        let names: Vec<String> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let list = select_list(&mut self.sql, "t", &names);
        let arguments = if condition.arguments.is_empty() {
            String::new()
        } else {
            format!("({})", condition.arguments.join(", "))
        };
        self.sql.run("DEALLOCATE ALL");
        let prepared = self.sql.batch_execute(&format!("PREPARE q AS SELECT {list} FROM t WHERE {}", condition.text));
        prepared.ok()?;
        let found = self.sql.simple_query(&format!("EXECUTE q{arguments}")).ok()?;
        let mut rows: Vec<String> = found
            .into_iter()
            .filter_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => Some(canonical(row.get(0).unwrap_or_default()).into()),
                _ => None,
            })
            .collect();
        rows.sort_unstable();
        Some(rows)
    }

    /// Compares what a client holds with what Postgres finds; gives the subscriptions that were compared.
    fn compare(&mut self, client: &mut Client, conditions: &BTreeMap<String, Condition>) -> usize {
        let mark = self.sql.barrier();
        client.wait_barrier(mark);
        let mut compared = 0;
        for (id, condition) in conditions {
            let Some(subscription) = client.copy.subscriptions.get(id) else { continue };
            if subscription.state != State::Live {
                continue;
            }
            let Some(rows) = self.expected(condition) else { continue };
            compared += 1;
            let subscription = &client.copy.subscriptions[id];
            if let Some(difference) = difference_to(&rows, subscription) {
                panic!("{}: {condition:?}: {difference}", client.options.name);
            }
        }
        compared
    }
}

/// Subscribes to conditions and waits until each is live, or refused or ended by an error of its own.
fn subscribe(client: &mut Client, conditions: &BTreeMap<String, Condition>) {
    for (id, condition) in conditions {
        client.subscribe_where(id, "t", None, &condition.text, &condition.params);
    }
    client.wait_for("an answer to each", |c| {
        let refused = |id: &str| c.errors.iter().any(|e| e.id.as_deref() == Some(id));
        conditions.keys().all(|id| refused(id) || c.copy.subscriptions.get(id).is_some_and(|s| s.state == State::Live))
    });
    let refused: Vec<String> = client.errors.iter().filter_map(|e| e.id.clone()).collect();
    for id in refused {
        client.copy.subscriptions.remove(&id);
    }
}

#[test]
fn a_condition_means_the_same_live_and_in_a_snapshot_and_in_postgres() {
    let mut dice = Dice::with_seed(seed("predicates"));
    let mut scene = Scene::new(dice.fork());
    let mut compared = 0;
    let count = rounds(4);
    for round in 0..count {
        let conditions: BTreeMap<String, Condition> =
            (0..CONDITIONS).map(|n| (format!("p{n}"), expression::condition(&mut dice))).collect();
        let mut live = scene.cluster.client(&format!("live {round}"));
        live.subscribe_barrier();
        subscribe(&mut live, &conditions);
        scene.write();
        compared += scene.compare(&mut live, &conditions);
        let mut later = scene.cluster.client(&format!("snapshot {round}"));
        later.subscribe_barrier();
        subscribe(&mut later, &conditions);
        compared += scene.compare(&mut later, &conditions);
        live.leave();
        scene.write();
        live.come_back();
        live.carry_on("live again", |c| c.copy.all_live());
        compared += scene.compare(&mut live, &conditions);
        assert_eq!(live.copy.counts.refused_resumes, 0, "each goes on from its cursor: {:?}", live.copy.counts);
    }
    println!("{compared} comparisons in {count} rounds");
    assert!(compared >= count * CONDITIONS * 2, "{compared} comparisons");
}
