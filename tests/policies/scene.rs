//! One table `t` under policies, a table `other` that no test touches, and people who hold both.
//!
//! After every step each copy equals what Postgres shows to its owner, and nothing was heard that he was not entitled to
//! between the step before and this one.

use rte_testkit::witness::{Entitled, FIRST_TOKEN};
use rte_testkit::{Actor, Client, Cluster, Sql, State, Watch};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Keeps every frame.
struct Ear(Arc<Mutex<Vec<String>>>);

impl Watch for Ear {
    fn frame(&mut self, text: &str) {
        self.0.lock().expect("frames").push(text.to_owned());
    }
}

pub struct Person {
    pub actor: Actor,
    pub client: Client,
    frames: Arc<Mutex<Vec<String>>>,
    pub entitled: Entitled,
    /// Subscriptions and reasons of the resyncs since the last [`Scene::resyncs`].
    resyncs: Vec<(String, String)>,
}

pub struct Scene {
    pub cluster: Cluster,
    pub sql: Sql,
    /// A session of the authenticator.
    eye: Sql,
    pub people: Vec<Person>,
    state: i32,
    /// The state that everybody was last seen at.
    looked: i32,
    /// What the tenant's column lets through of `t`.
    pub limit: Option<&'static str>,
}

/// The claims of somebody.
pub fn claims(name: &str) -> Value {
    let (tenant, tenants, teams) = match name {
        "ann" => ("a", json!(["a"]), json!([1, 2])),
        "bob" => ("b", json!(["b", "c"]), json!([3])),
        _ => ("c", json!([]), json!([])),
    };
    json!({"name": name, "sub": uuid(name), "tenant": tenant, "app_metadata": {"tenants": tenants, "teams": teams}})
}

fn uuid(name: &str) -> &str {
    match name {
        "ann" => "00000000-0000-4000-8000-00000000000a",
        "bob" => "00000000-0000-4000-8000-00000000000b",
        _ => "00000000-0000-4000-8000-00000000000c",
    }
}

/// The name in the claims, as policies read it.
pub const NAME: &str = "(current_setting('request.jwt.claims', true)::json ->> 'name')";

impl Scene {
    /// Roles, functions, tables. `policies`: statements on `t`, for which row-level security is enabled.
    pub fn new(policies: &str) -> Self {
        let cluster = Cluster::builder().tokens().ready();
        let mut sql = cluster.sql();
        sql.run(
            "CREATE ROLE member; CREATE ROLE manager; CREATE ROLE auditor; CREATE ROLE service BYPASSRLS; CREATE ROLE vip;
             GRANT member, manager, auditor, service TO authenticator;
             ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM web_anon;
             GRANT SELECT ON kit_barrier TO PUBLIC;
             CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
             CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
                 $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
             CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
                 $$ SELECT nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$",
        );
        sql.run(&format!("CREATE SEQUENCE token AS bigint START {FIRST_TOKEN}"));
        sql.run(&format!(
            "CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('token'), owner text NOT NULL, tenant text, team int,
                             open bool NOT NULL DEFAULT false, until timestamptz, owner_id uuid, note text, big text, v bigint);
             CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 NEW.v := nextval('token');
                 NEW.owner_id := CASE NEW.owner WHEN 'ann' THEN '{}' WHEN 'bob' THEN '{}' END::uuid;
                 RETURN NEW; END $$;
             CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stamp();
             CREATE TABLE other (id bigint PRIMARY KEY DEFAULT nextval('token'), owner text);
             CREATE TABLE team_member (name text, team int, PRIMARY KEY (name, team));
             INSERT INTO team_member VALUES ('ann', 1), ('ann', 2), ('bob', 3);
             GRANT SELECT ON t, other, team_member TO member, manager, auditor, service;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE other ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON other USING (owner = {NAME});
             INSERT INTO other (owner) VALUES ('ann'), ('bob'), ('eve')",
            uuid("ann"),
            uuid("bob")
        ));
        sql.run(policies);
        ["t", "other"].iter().for_each(|t| sql.register(t));
        let eye = cluster.door().knock_as("postgres", "authenticator").expect("a session of the authenticator");
        let mut scene = Self { cluster, sql, eye, people: Vec::new(), state: 0, looked: 0, limit: None };
        scene.write("INSERT INTO t (owner, tenant, team, open, until, big)
             SELECT CASE i % 2 WHEN 0 THEN 'ann' ELSE 'bob' END, chr(97 + i % 3), 1 + i % 3, i % 4 = 0,
                    now() + CASE i % 2 WHEN 0 THEN interval '1 hour' ELSE interval '-1 hour' END,
                    CASE WHEN i % 3 = 0 THEN nextval('token') || (SELECT string_agg(md5(i * 1000 + n || ''), '') FROM generate_series(1, 200) n) END
             FROM generate_series(1, 24) i");
        scene
    }

    /// Somebody connects and holds `t` and `other`.
    pub fn enter(&mut self, role: &str, name: &str) -> usize {
        let actor = Actor::new(role, claims(name));
        let mut client = Client::new(self.cluster.rte_port, name);
        let frames = Arc::default();
        client.watch(Ear(Arc::clone(&frames)));
        client.options.token = Some(actor.token());
        client.join();
        client.subscribe_barrier();
        ["t", "other"].iter().for_each(|t| client.subscribe(t, t));
        self.people.push(Person { actor, client, frames, entitled: Entitled::default(), resyncs: Vec::new() });
        self.look();
        self.people.len() - 1
    }

    /// Statements, then [`Scene::look`].
    #[track_caller]
    pub fn run(&mut self, statements: &str) {
        self.write(statements);
        self.look();
    }

    /// Statements, without waiting for anybody to hear of them.
    #[track_caller]
    pub fn write(&mut self, statements: &str) {
        self.sql.run(statements);
        let state = self.sql.barrier();
        for person in &mut self.people {
            for table in ["t", "other"] {
                for text in person.visible(&mut self.sql, &mut self.eye, table, self.limit) {
                    person.entitled.note(&text, state, self.state);
                }
            }
        }
        self.state = state;
    }

    /// Waits until everybody has heard of everything, and compares.
    #[track_caller]
    pub fn look(&mut self) {
        // What time does to the rows is noted, too.
        self.write("");
        for person in &mut self.people {
            let key = self.state.to_string();
            person.client.wait_for("the barrier", |c| {
                let rest = |s: &rte_testkit::Subscription| matches!(s.state, State::Live | State::Ended);
                c.copy.subscriptions.values().all(rest) && c.sub("kit_barrier").row(&[&key]).is_some()
            });
            for s in person.client.copy.subscriptions.values().filter(|s| s.state == State::Live) {
                let limit = match s.id.as_str() {
                    "t" => self.limit.unwrap_or("true"),
                    "long" => "length(big) > 100",
                    _ => "true",
                };
                if let Some(difference) = person.actor.difference(&mut self.eye, s, limit) {
                    panic!("{}: {difference}", person.client.options.name);
                }
            }
            person.listen(self.looked);
        }
        self.looked = self.state;
    }

    /// Subscriptions and reasons of somebody's resyncs since he was asked last.
    pub fn resyncs(&mut self, person: usize) -> Vec<(String, String)> {
        std::mem::take(&mut self.people[person].resyncs)
    }

    /// How the rows of `t` are told from others for somebody, and the predicate.
    pub fn explain(&mut self, person: usize) -> (String, String) {
        let actor = &self.people[person].actor;
        let call = format!(
            "FROM rte.explain_access('t', '{}', '{}')",
            actor.role(),
            actor.claims.to_string().replace('\'', "''")
        );
        (self.sql.text(&format!("SELECT path {call}")), self.sql.text(&format!("SELECT predicate {call}")))
    }

    /// How many rows somebody holds of `t`.
    pub fn count(&self, person: usize) -> usize {
        self.people[person].client.sub("t").rows.len()
    }
}

impl Person {
    /// Every value that Postgres shows to the person, row by row.
    fn visible(&self, sql: &mut Sql, eye: &mut Sql, table: &str, limit: Option<&str>) -> Vec<String> {
        let columns = sql.texts(&format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
             AND has_schema_privilege('{role}', 'public', 'USAGE')
             AND has_column_privilege('{role}', attrelid, attnum, 'SELECT')",
            role = self.actor.role()
        ));
        if columns.is_empty() {
            return Vec::new();
        }
        let limit = limit.filter(|_| table == "t").unwrap_or("true");
        self.actor.sees(eye, table, &columns, limit).expect("columns that are granted")
    }

    /// Checks what was heard since the state `first`.
    #[track_caller]
    fn listen(&mut self, first: i32) {
        for frame in std::mem::take(&mut *self.frames.lock().expect("frames")) {
            let leaked = self.entitled.leaked(&frame, first);
            let head: String = frame.chars().take(600).collect();
            assert!(leaked.is_empty(), "{} heard {leaked:?}: {head}", self.client.options.name);
            if frame.contains(r#""type":"resync""#) {
                let frame: Value = serde_json::from_str(&frame).expect("JSON");
                let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
                self.resyncs.push((text("id"), text("reason")));
            }
        }
    }
}
