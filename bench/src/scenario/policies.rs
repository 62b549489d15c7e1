//! What row-level security costs: the highest rate of deliveries without a policy, with one that folds, and with a
//! condition for each client.

use rte_testkit::{Cluster, token_of, unix_now};
use serde::Deserialize;
use serde_json::json;

use super::turns;
use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Hello, Party};
use crate::load::Load;
use crate::ramp::{Ramp, Search};
use crate::results::{Case, Found};
use crate::rig::{self, Needs};

const ROWS: u64 = 4000;
const WRITERS: u64 = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: u64,
    start: f64,
    step: f64,
    rounds: usize,
}

/// How clients ask, and what is written.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plain,
    Folded,
    /// A condition `tenant_id = n` for each client; each commit changes a row of every tenant.
    Shapes,
}

const WAYS: [(Way, &str); 3] = [(Way::Plain, ""), (Way::Folded, ", folded policy"), (Way::Shapes, ", a shape each")];

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let needs = Needs { tokens: true, ..Needs::default() };
    let tables = ["plain", "folded", "shaped"];
    let tenants = sizes.clients;
    let contestants = Contestant::start_all(found, &sizes.contestants, needs, |c| prepare(c, tenants), &tables);
    let case = Case::clients(sizes.clients);
    for contestant in &contestants {
        let mut starts = [sizes.start; WAYS.len()];
        for round in 0..sizes.rounds {
            for turn in turns(round, WAYS.len()) {
                rig::settle(&contestant.cluster, &tables);
                let (way, suffix) = WAYS[turn];
                let name = format!("{}{suffix}", contestant.name);
                let (load, deliveries_per_change) = match way {
                    Way::Plain => (Load::rows("plain", ROWS, 1, WRITERS, 1.0), sizes.clients),
                    Way::Folded => (Load::rows("folded", ROWS, 1, WRITERS, 1.0), sizes.clients),
                    Way::Shapes => (Load::all_of_a_writer("shaped", tenants, WRITERS, 1.0), 1),
                };
                let mut ramp = Ramp {
                    contestant,
                    endpoint: contestant.endpoint(),
                    party: Party::new(sizes.clients, Count::Marks, hello(way, sizes.clients)),
                    deliveries_per_change,
                    crowd: None,
                };
                match ramp.highest(&load, Search { start: starts[turn], step: sizes.step }) {
                    Ok(highest) => {
                        starts[turn] = highest.per_second / 1.5;
                        found.record(&name, &case, "per_s", highest.per_second);
                        found.record(&name, &case, "p99", highest.p99_ms);
                        found.record(&name, &case, "cpu", highest.cpu_per_million);
                        if highest.by_writers {
                            found.note(format!("{}: the writers could not write faster", label(&name)));
                        }
                    }
                    Err(why) => found.note(format!("{}: {why}", label(&name))),
                }
            }
        }
    }
    Ok(())
}

/// Three tables alike: without a policy, with one that folds, and one with a row of each tenant for each writer.
fn prepare(cluster: &Cluster, tenants: u64) {
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE member; GRANT member TO authenticator");
    let body = rig::body(0);
    for table in ["plain", "folded"] {
        sql.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, tenant_id int NOT NULL, body text NOT NULL) WITH (fillfactor = 50);
             INSERT INTO {table} SELECT i, 1, '{body}' FROM generate_series(1, {ROWS}) i;
             GRANT SELECT ON {table} TO member"
        ));
    }
    sql.run(&format!(
        "ALTER TABLE folded ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON folded USING (tenant_id = (current_setting('request.jwt.claims')::json ->> 'tenant')::int);
         CREATE TABLE shaped (id int PRIMARY KEY, tenant_id int NOT NULL, writer int NOT NULL, body text NOT NULL)
             WITH (fillfactor = 50);
         INSERT INTO shaped SELECT w * {tenants} + t, t, w, '{body}'
             FROM generate_series(0, {WRITERS} - 1) w, generate_series(1, {tenants}) t;
         CREATE INDEX ON shaped (writer);
         GRANT SELECT ON shaped TO member"
    ));
}

fn hello(way: Way, clients: u64) -> Hello {
    let of = |n: u64| {
        let claims = json!({"role": "member", "tenant": 1, "sub": format!("u{n}"), "exp": unix_now() + 3600});
        let subscription = match way {
            Way::Plain => json!({"id": "1", "table": "plain"}),
            Way::Folded => json!({"id": "1", "table": "folded"}),
            Way::Shapes => json!({"id": "1", "table": "shaped", "where": "tenant_id = $1", "params": [n + 1]}),
        };
        json!({"type": "hello", "token": token_of(&claims), "subscriptions": [subscription]}).to_string()
    };
    Hello::Each((0..clients).map(of).collect())
}
