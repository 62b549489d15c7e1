//! The world of a realm: writers, people, and what everybody was entitled to in every state.
//!
//! States are made one by one, each by one transaction that also sets a mark. Transactions overlap all the same, and several
//! states are made before anybody looks at them: each is looked at later, in a transaction that began right after it.
//! Catalogs are as they are now for all of those, so access changes alone, between them.

use crate::meddle;
use crate::people::{Person, Wish, actors};
use crate::realm::Realm;
use crate::tables::{self, Table};
use crate::writer::Writer;
use rte_testkit::witness::Entitled;
use rte_testkit::{Actor, Dice, Door, Sql, State, patience};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Instant;

/// States between two looks, at most.
const BURST: usize = 4;

/// A state, the time before it, and a transaction that sees it.
struct Seen {
    state: i32,
    since: String,
    eye: Sql,
}

pub struct World {
    pub realm: &'static Realm,
    pub people: Vec<Person>,
    pub actors: Vec<Actor>,
    door: Door,
    tables: Vec<Table>,
    sql: Sql,
    /// A session of the authenticator.
    authenticator: Sql,
    eyes: Vec<Sql>,
    writers: Vec<Writer>,
    /// Of each actor.
    pub entitled: Vec<Entitled>,
    /// Of each actor and table, the columns that it may read.
    granted: Vec<Vec<Vec<String>>>,
    pub state: i32,
    dice: Dice,
    ids: u32,
    pub changes: u32,
    pub states: u32,
}

impl World {
    /// A world in a database that has the extension.
    pub fn new(realm: &'static Realm, door: &Door, mut dice: Dice) -> Self {
        let mut sql = realm.sql(door);
        let tables = tables::all(realm);
        tables::create(&mut sql, realm, &tables);
        sql.run(&format!("SET lock_timeout = '500ms'; SELECT setseed({})", dice.f64()));
        let actors = actors(realm);
        let mut world = Self {
            people: Vec::new(),
            entitled: actors.iter().map(|_| Entitled::default()).collect(),
            granted: Vec::new(),
            eyes: (0..BURST).map(|_| realm.sql(door)).collect(),
            writers: (0..4).map(|_| Writer::new(realm.sql(door), realm, dice.f64())).collect(),
            authenticator: door.knock_as(realm.database(), "authenticator").expect("the authenticator"),
            door: door.clone(),
            state: 0,
            ids: 0,
            changes: 0,
            states: 0,
            realm,
            actors,
            tables,
            sql,
            dice,
        };
        world.access_has_changed();
        world
    }

    /// Somebody comes, who asks for this and that.
    pub fn welcome(&mut self, port: u16, name: &str) {
        let actor = self.people.len() % self.actors.len();
        let mut person = Person::new(port, name, self.realm, actor, &self.actors, self.state);
        for _ in 0..self.dice.usize(5..12) {
            let (id, wish) = self.wish();
            person.subscribe(&id, wish);
        }
        self.people.push(person);
    }

    /// Roles, which all databases have in common, may have changed.
    pub fn access_has_changed(&mut self) {
        self.look_at_grants();
        self.note_now();
    }

    /// A subscription that anybody may try.
    fn wish(&mut self) -> (String, Wish) {
        let dice = &mut self.dice;
        let table = self.tables[dice.usize(..self.tables.len())].name;
        let columns =
            [None, None, Some(&["note", "team"][..]), Some(&["v", "big", "owner"]), Some(&["wide", "tenant"])];
        let condition = match dice.u32(..16) {
            0 => Some(("team = $1", vec![json!(2)], "team = 2")),
            1 => Some(("owner = $1 OR open", vec![json!("ann")], "owner = 'ann' OR open")),
            2 => Some(("length(big) > $1", vec![json!(100)], "length(big) > 100")),
            3 => Some(("tenant IN ('a', 'b')", vec![], "tenant IN ('a', 'b')")),
            4 => Some(("wide LIKE $1", vec![json!("pub%")], "wide LIKE 'pub%'")),
            5 => Some(("id % 2 = 0 AND note IS NULL", vec![], "id % 2 = 0 AND note IS NULL")),
            _ => None,
        };
        // Whoever moves keeps his.
        self.ids += 1;
        let id = format!("s{}{}", &self.realm.database()[..1], self.ids);
        (id, Wish { table, columns: columns[dice.usize(..columns.len())], condition })
    }

    /// Some states, some changes of access, some coming and going. Tells whether roles have changed.
    pub fn burst(&mut self) -> bool {
        let mut seen = Vec::new();
        for _ in 0..self.dice.usize(1..=BURST) {
            for _ in 0..self.dice.usize(1..7) {
                let writer = self.dice.usize(..self.writers.len());
                self.writers[writer].step(&self.tables, &mut self.dice);
            }
            let writer = self.dice.usize(..self.writers.len());
            if self.dice.u32(..6) == 0 {
                self.writers[writer].roll_back();
            } else {
                seen.extend(self.commit(writer));
            }
        }
        self.note(seen);
        let roles = self.dice.u32(..4) == 0 && self.meddle() == Some(meddle::Of::Roles);
        for person in 0..self.people.len() {
            self.stir(person);
        }
        roles
    }

    /// Ends a writer's transaction, and begins one that sees what it made.
    fn commit(&mut self, writer: usize) -> Option<Seen> {
        let since = self.sql.text("SELECT clock_timestamp() - interval '1 second'");
        let state = self.writers[writer].commit()?;
        Some(self.seen(state, since))
    }

    fn seen(&mut self, state: i32, since: String) -> Seen {
        let mut eye = self.eyes.pop().unwrap_or_else(|| self.realm.sql(&self.door));
        eye.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT FROM kit_barrier LIMIT 1");
        Seen { state, since, eye }
    }

    /// Notes what everybody was entitled to in some states.
    fn note(&mut self, seen: Vec<Seen>) {
        for Seen { state, since, mut eye } in seen {
            for (n, actor) in self.actors.iter().enumerate() {
                let (mut query, mut text) = (String::new(), String::new());
                let assume = actor.assume();
                let _ = write!(query, "SET LOCAL SESSION AUTHORIZATION authenticator; {assume}");
                let mut timed = String::new();
                for (table, columns) in self.tables.iter().zip(&self.granted[n]).filter(|(_, c)| !c.is_empty()) {
                    let values: Vec<String> = columns.iter().map(|c| format!("left({c}::text, 40)")).collect();
                    let select = format!("SELECT concat_ws(' ', {}) FROM {}", values.join(", "), table.name);
                    let _ = write!(query, "; {select} WHERE {}", limit(self.realm, table));
                    if table.is_timed() {
                        // Its rows go when their time is over, whichever state it is.
                        timed = format!("; {select} WHERE until > '{since}'");
                    }
                    let _ = write!(text, " {} {}", table.name, columns.join(" "));
                }
                let _ = write!(query, "; SET LOCAL SESSION AUTHORIZATION DEFAULT{timed}");
                for row in eye.texts(&query) {
                    let _ = write!(text, " {row}");
                }
                self.entitled[n].note(&text, state, self.state);
            }
            eye.run("ROLLBACK");
            self.eyes.push(eye);
            self.state = state;
            self.states += 1;
        }
    }

    /// A state of its own.
    fn note_now(&mut self) {
        let since = self.sql.text("SELECT clock_timestamp() - interval '1 second'");
        let state = self.sql.barrier();
        let seen = self.seen(state, since);
        self.note(vec![seen]);
    }

    fn look_at_grants(&mut self) {
        let columns = |sql: &mut Sql, role: &str, table: &str| {
            sql.texts(&format!(
                "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
                 AND has_column_privilege('{role}', attrelid, attnum, 'SELECT') ORDER BY attnum"
            ))
        };
        let of_actor =
            |actor: &Actor| self.tables.iter().map(|t| columns(&mut self.sql, actor.role(), t.name)).collect();
        self.granted = self.actors.iter().map(of_actor).collect();
    }

    /// Access changes, together with some writes perhaps. Tells what it concerned.
    fn meddle(&mut self) -> Option<meddle::Of> {
        let place = self.dice.usize(..self.tables.len());
        let (change, of) = meddle::change(self.realm, &self.tables[place], &mut self.dice);
        // What rows were before is nothing that the change entitles to.
        let rewrites = self.dice.u32(..3) == 0;
        if rewrites || of == meddle::Of::Table {
            let seen = (0..self.writers.len()).filter_map(|writer| self.commit(writer)).collect();
            self.note(seen);
        }
        let mut write = || match self.dice.u32(..2) {
            0 => String::new(),
            _ => tables::insert(self.realm, self.tables[self.dice.usize(..self.tables.len())].name, 2),
        };
        let (mut before, after) = (write(), write());
        if rewrites {
            let set = ["team = team", "id = nextval('token')"][self.dice.usize(..2)];
            before = format!("UPDATE {} SET {set}", self.tables[place].name);
        }
        let since = self.sql.text("SELECT clock_timestamp() - interval '1 second'");
        let all = format!("BEGIN; {before}; {change}; {after}; INSERT INTO kit_barrier DEFAULT VALUES; COMMIT");
        if let Err(e) = self.sql.batch_execute(&all) {
            let code = e.code().map(|c| c.code().to_owned()).unwrap_or_default();
            // Circles of roles and locks are refused.
            assert!(["0LP01", "55P03", "40P01"].contains(&code.as_str()), "{change}: {e:?}");
            self.sql.run("ROLLBACK");
            return None;
        }
        self.changes += 1;
        let state = self.sql.number("SELECT max(id) FROM kit_barrier") as i32;
        self.look_at_grants();
        let seen = self.seen(state, since);
        self.note(vec![seen]);
        Some(of)
    }

    /// One person's part: listening, leaving, coming back, fresh tokens, other subscriptions.
    fn stir(&mut self, person: usize) {
        let (roll, actor) = (self.dice.u32(..100), self.dice.usize(..self.actors.len()));
        let (id, wish) = self.wish();
        let person = &mut self.people[person];
        if person.away {
            let actor = if roll < 20 { actor } else { person.actor };
            if roll < 50 {
                person.come_back(actor, &self.actors, &self.entitled);
            }
            return;
        }
        match roll {
            0..=4 => {
                person.leave();
                return;
            }
            5..=8 => person.renew(actor, &self.actors),
            9..=12 => person.subscribe(&id, wish),
            13..=15 => {
                let live = |s: &&rte_testkit::Subscription| s.state == State::Live && s.id.starts_with('s');
                let id = person.client.copy.subscriptions.values().find(live).map(|s| s.id.clone());
                id.iter().for_each(|id| person.client.unsubscribe(id));
            }
            16..=40 => return,
            _ => {}
        }
        person.drain(&self.entitled);
    }

    /// Everything rests; every copy equals what Postgres shows to whom it belongs to.
    pub fn barrier(&mut self) {
        let seen = (0..self.writers.len()).filter_map(|writer| self.commit(writer)).collect();
        self.note(seen);
        // No row's time is over while copies are compared.
        self.sql.run("UPDATE timed SET until = now() + interval '1 hour' WHERE until BETWEEN now() - interval '5 seconds' AND now() + interval '1 minute'");
        self.note_now();
        for person in 0..self.people.len() {
            let name = self.people[person].client.options.name.clone();
            if self.people[person].away {
                let actor = self.people[person].actor;
                self.people[person].come_back(actor, &self.actors, &self.entitled);
            }
            self.settle(person);
            // What had to end, and may be asked for again.
            for (id, wish) in self.people[person].ended() {
                self.people[person].subscribe(&id, wish);
            }
            self.settle(person);
            self.compare(person, &name);
        }
    }

    #[track_caller]
    fn settle(&mut self, person: usize) {
        let end = Instant::now() + patience();
        let person = &mut self.people[person];
        while !person.rests_at(self.state) {
            person.drain(&self.entitled);
            let states: Vec<_> =
                person.client.copy.subscriptions.values().map(|s| (&s.id, &s.table, s.state)).collect();
            assert!(Instant::now() < end, "{}: no barrier; {states:?}", person.client.options.name);
            std::thread::yield_now();
        }
        person.drain(&self.entitled);
    }

    fn compare(&mut self, person: usize, name: &str) {
        let person = &mut self.people[person];
        let actor = &self.actors[person.actor];
        for failure in std::mem::take(&mut person.client.errors) {
            // The last where the server ended what the client was about to end.
            let expected = ["UNKNOWN_TABLE", "UNKNOWN_COLUMN", "FORBIDDEN", "INVALID_WHERE", "UNKNOWN_SUBSCRIPTION"];
            let strange = failure.code == "INVALID_CURSOR" && person.is_strange;
            assert!(strange || expected.contains(&failure.code.as_str()), "{name}: {failure:?}");
        }
        person.is_strange = false;
        for s in person.client.copy.subscriptions.values() {
            let Some(wish) = person.wishes.get(&s.id) else { continue };
            let Some(place) = self.tables.iter().position(|t| t.name == wish.table) else {
                // A name of another realm.
                assert_eq!(s.state, State::Ended, "{name}: {}", s.table);
                continue;
            };
            let (table, granted) = (&self.tables[place], &self.granted[person.actor][place]);
            let condition = format!("({}) AND ({})", limit(self.realm, table), wish.literal());
            if s.state == State::Ended {
                let mut columns: Vec<String> =
                    wish.columns.map_or_else(|| granted.clone(), |c| c.iter().map(|c| (*c).to_owned()).collect());
                columns.extend(key(table).iter().map(|c| (*c).to_owned()));
                let may = actor.sees(&mut self.authenticator, table.name, &columns, &condition);
                let homeless = self.realm.tenant.is_none() && table.by_tenant && actor.claims["tenant"].is_null();
                assert!(may.is_err() || homeless, "{name}: {} of {} ended, as {:?}", s.id, s.table, actor.claims);
                continue;
            }
            let asked = |c: &str| wish.columns.is_none_or(|w| w.contains(&c));
            let columns: Vec<&str> = s.columns.iter().map(|c| c.name.as_str()).filter(|c| asked(c)).collect();
            let expected: Vec<&str> = granted.iter().map(String::as_str).filter(|c| asked(c)).collect();
            assert_eq!(columns, expected, "{name}: columns of {}", s.table);
            if let Some(difference) = actor.difference(&mut self.authenticator, s, &condition) {
                let tokens: Vec<u64> = rte_testkit::witness::tokens(&difference).collect();
                let about = |f: &&String| {
                    f.contains(&format!("\"id\":\"{}\"", s.id))
                        || rte_testkit::witness::tokens(f).any(|token| tokens.contains(&token))
                };
                let frames: Vec<&String> = person.lately.iter().filter(about).collect();
                panic!("{name} as {:?}, where {condition}, {}: {difference}\n{frames:#?}", actor.claims, s.table);
            }
        }
    }

    /// The idiom of Supabase folds.
    pub fn assert_folds(&mut self) {
        let claims = "{\"sub\": \"7e0d7f8a-5d96-c24f-fcc8-40f31bce72b2\"}";
        let path = self.sql.text(&format!("SELECT path FROM rte.explain_access('supabase', 'member', '{claims}')"));
        // Where row-level security is off for the moment, every row is.
        assert!(path == "folded" || path == "every row", "{path}");
    }
}

/// What the tenant's column lets through, as SQL.
fn limit(realm: &Realm, table: &Table) -> String {
    match realm.tenant {
        _ if !table.by_tenant => "true".to_owned(),
        None => "tenant = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'tenant'".to_owned(),
        Some(tenant) => format!("tenant = '{tenant}'"),
    }
}

fn key(table: &Table) -> &'static [&'static str] {
    if table.shape == tables::Shape::Plain { &["id"] } else { &["part", "id"] }
}
