//! What a change costs where a policy cannot be evaluated on the row alone, and Postgres is asked for each of some identities.

use std::time::Duration;

use rte_testkit::{Cluster, token_of, unix_now, within};
use serde::Deserialize;
use serde_json::json;

use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Hello, Party};
use crate::load::{Load, ms};
use crate::process::cpu_seconds;
use crate::results::{Case, Found};
use crate::rig::{self, Needs};
use crate::say;

const ROWS: u64 = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    identities: Vec<u64>,
    /// Changes a second.
    rate: f64,
    seconds: f64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let needs = Needs { tokens: true, ..Needs::default() };
    for contestant in Contestant::start_all(found, &sizes.contestants, needs, prepare, &["asked"]) {
        for _ in 0..sizes.rounds {
            for &identities in &sizes.identities {
                let name = if identities == 1 { "1 identity".into() } else { format!("{identities} identities") };
                let case = Case::new(name, identities as f64);
                if let Err(why) = step(&contestant, identities, &case, sizes, found) {
                    found.note(format!("{}, {}: {why}", label(&contestant.name), case.name));
                }
            }
        }
    }
    Ok(())
}

/// A table whose rows those may see who are members of their tenants; everybody is.
fn prepare(cluster: &Cluster) {
    cluster.sql().run(&format!(
        "CREATE ROLE member;
         GRANT member TO authenticator;
         CREATE TABLE membership (uid text, tenant_id int, PRIMARY KEY (uid, tenant_id));
         INSERT INTO membership SELECT 'u' || n, 1 FROM generate_series(0, 999) n;
         CREATE TABLE asked (id int PRIMARY KEY, tenant_id int NOT NULL, body text NOT NULL) WITH (fillfactor = 50);
         INSERT INTO asked SELECT i, 1, '{}' FROM generate_series(1, {ROWS}) i;
         GRANT SELECT ON membership, asked TO member;
         ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON asked USING (tenant_id IN (SELECT m.tenant_id FROM membership m
             WHERE m.uid = current_setting('request.jwt.claims')::json ->> 'sub'))",
        rig::body(0)
    ));
}

fn step(contestant: &Contestant, identities: u64, case: &Case, sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let hello = |n: u64| {
        let claims = json!({"role": "member", "tenant": 1, "sub": format!("u{n}"), "exp": unix_now() + 3600});
        json!({"type": "hello", "token": token_of(&claims), "subscriptions": [{"id": "1", "table": "asked"}]})
            .to_string()
    };
    let hello = Hello::Each((0..identities).map(hello).collect());
    let crowd = Crowd::join(&contestant.endpoint(), Party::new(identities, Count::Marks, hello))?;
    let feeder = contestant.cluster.worker("feeder");
    crowd.take_delays();
    let (before, cpu) = (crowd.count(), cpu_seconds(feeder));
    let written = Load::rows("asked", ROWS, 1, 2, sizes.rate).run(&contestant.cluster, sizes.seconds);
    // Asked rows come as they are at the end of a tick, so several changes of a row may come as one: it is over when no
    // more come.
    let mut seen = before;
    let over = within(Duration::from_secs(20), || {
        let last = std::mem::replace(&mut seen, crowd.count());
        std::thread::sleep(Duration::from_millis(200));
        (last > before && crowd.count() == last).then_some(())
    });
    over.ok_or("the changes do not come to an end")?;
    let cost = (cpu_seconds(feeder) - cpu) * 1e6 / written.changes as f64;
    let delays = crowd.take_delays();
    let mut record = |metric, value| found.record(&contestant.name, case, metric, value);
    record("feeder", cost);
    record("p50", ms(&delays, 0.5));
    record("p99", ms(&delays, 0.99));
    say(&format!("asked: {}, {}: {cost:.0} µs a change", case.name, contestant.name));
    Ok(())
}
