//! Clients, as whom they act, and whether what they hear was meant for them.
//!
//! A frame may hold what its client was entitled to in some state from that of its last commit up to now. For a subscription
//! that joins, its snapshot and what happened meanwhile may be older than other subscriptions' commits: they are from the
//! state on in which it was answered.

use crate::realm::Realm;
use rte_testkit::witness::Entitled;
use rte_testkit::{Actor, Client, Copy, Row, State, Step, Watch, patience};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Everybody whom clients of a realm act as. Who has a tenant of its own has its token.
pub fn actors(realm: &Realm) -> Vec<Actor> {
    let actor = |role: &str, name: &str, tenant: &str, tenants: &[&str]| {
        let own = |tenant: &str| realm.tenant.filter(|_| tenant == "a").unwrap_or(tenant).to_owned();
        let tenants: Vec<String> = tenants.iter().map(|tenant| own(tenant)).collect();
        let tenant = realm.tenant.unwrap_or(tenant);
        let sub = format!("{:032x}", md5(name));
        Actor::new(role, json!({"name": name, "sub": sub, "tenant": tenant, "tenants": tenants}))
    };
    vec![
        actor("member", "ann", "a", &["a"]),
        actor("member", "eve", "b", &["b", "c"]),
        actor("manager", "bob", "b", &["b"]),
        actor("auditor", "dan", "c", &["a", "c"]),
        actor("service", "carl", "a", &[]),
        actor("member", "ann", "c", &["a", "c"]),
        Actor { claims: json!({"role": "web_anon"}) },
    ]
}

/// As Postgres' `md5(…)::uuid` has it.
fn md5(name: &str) -> u128 {
    match name {
        "ann" => 0x7e0d_7f8a_5d96_c24f_fcc8_40f3_1bce_72b2,
        "bob" => 0x9f9d_51bc_70ef_21ca_5c14_f307_980a_29d8,
        "dan" => 0x9180_b4da_3f0c_7e80_975f_ad68_5f7f_134e,
        "eve" => 0xfa6a_91ef_9baa_242d_e0b3_54a2_12e8_cf82,
        _ => 0x0bad_0bad_0bad_0bad_0bad_0bad_0bad_0bad,
    }
}

/// What a subscription asks for, in words for the server and for Postgres.
#[derive(Clone)]
pub struct Wish {
    pub table: &'static str,
    pub columns: Option<&'static [&'static str]>,
    /// With parameters, and with literals in their places.
    pub condition: Option<(&'static str, Vec<Value>, &'static str)>,
}

impl Wish {
    /// The condition as Postgres is asked, besides the limit of the tenant's column.
    pub fn literal(&self) -> &'static str {
        self.condition.as_ref().map_or("true", |(_, _, literal)| literal)
    }
}

/// Frames that are kept for messages.
const LATELY: usize = 20_000;

/// Keeps the frames that came, and the highest mark that was committed.
#[derive(Clone, Default)]
struct Ear {
    frames: Arc<Mutex<Vec<String>>>,
    mark: Arc<Mutex<(i32, i32)>>,
}

impl Watch for Ear {
    fn frame(&mut self, text: &str) {
        self.frames.lock().expect("frames").push(text.to_owned());
    }

    fn row(&mut self, subscription: &str, _old: Option<&Row>, new: Option<&Row>) {
        if let Some(mark) = new.filter(|_| subscription == "kit_barrier").and_then(|row| row[0].parse().ok()) {
            let mut marks = self.mark.lock().expect("marks");
            marks.1 = marks.1.max(mark);
        }
    }

    fn commit(&mut self, _copy: &Copy) -> Result<(), String> {
        let mut marks = self.mark.lock().expect("marks");
        marks.0 = marks.1;
        Ok(())
    }
}

pub struct Person {
    /// Place among the actors.
    pub actor: usize,
    /// Whom it acted as before, as long as it is not known that the fresh token counts.
    before: Option<(usize, String)>,
    pub client: Client,
    pub wishes: BTreeMap<String, Wish>,
    ear: Ear,
    /// The state at the last commit.
    at: i32,
    /// The states in which subscriptions were answered that are not live.
    joining: HashMap<String, i32>,
    /// Tokens that were looked at.
    pub heard: u64,
    probes: u32,
    /// The last frames, for messages.
    pub lately: VecDeque<String>,
    pub away: bool,
    /// Whether it has come from another realm, with what it held there.
    pub is_strange: bool,
}

impl Person {
    pub fn new(port: u16, name: &str, realm: &Realm, actor: usize, actors: &[Actor], state: i32) -> Self {
        let mut client = Client::new(port, name);
        let ear = Ear::default();
        client.watch(ear.clone());
        client.options.token = token(&actors[actor]);
        client.options.tenant = realm.tenant.map(str::to_owned);
        client.copy.ask("kit_barrier", "kit_barrier", None);
        let (wishes, joining) = (BTreeMap::new(), HashMap::new());
        let mut person = Self {
            actor,
            before: None,
            client,
            wishes,
            ear,
            at: state,
            joining,
            heard: 0,
            probes: 0,
            lately: VecDeque::new(),
            away: false,
            is_strange: false,
        };
        // It may be faster than the news of its tenant.
        person.client.come_back();
        person.client.errors.clear();
        person
    }

    /// Asks for a subscription; one of the same id is gone.
    pub fn subscribe(&mut self, id: &str, wish: Wish) {
        let (table, columns) = (wish.table, wish.columns);
        match (&wish.condition, columns) {
            (Some((text, params, _)), _) => self.client.subscribe_where(id, table, columns, text, params),
            (None, Some(columns)) => self.client.subscribe_columns(id, table, columns),
            (None, None) => self.client.subscribe(id, table),
        }
        self.wishes.insert(id.to_owned(), wish);
    }

    pub fn leave(&mut self) {
        self.client.leave();
        self.away = true;
    }

    /// Comes back with the cursor, as somebody else perhaps.
    pub fn come_back(&mut self, actor: usize, actors: &[Actor], entitled: &[Entitled]) {
        self.actor = actor;
        self.before = None;
        self.away = false;
        self.client.options.token = token(&actors[actor]);
        self.joining.clear();
        self.client.come_back();
        self.listen(entitled);
    }

    /// Goes to another realm, with cursor and subscriptions of this one, which are worth nothing there.
    pub fn move_to(&mut self, realm: &Realm, actor: usize, actors: &[Actor], entitled: &[Entitled], state: i32) {
        self.leave();
        let (shown, before) = (!self.client.copy.disconnected().is_empty(), self.client.copy.counts.clone());
        self.client.options.tenant = realm.tenant.map(str::to_owned);
        (self.at, self.is_strange) = (state, true);
        *self.ear.mark.lock().expect("marks") = (0, 0);
        self.come_back(actor, actors, entitled);
        if shown {
            let refused = |failure: &rte_testkit::Failure| failure.code == "INVALID_CURSOR";
            self.hear_until(entitled, |client, _| client.errors.iter().any(refused));
        }
        assert_eq!(self.client.copy.counts.resumed, before.resumed, "{} goes on elsewhere", self.client.options.name);
    }

    /// Shows a token of another realm on the open connection, which ends it.
    pub fn show_foreign_token(&mut self, token: &str, entitled: &[Entitled]) {
        self.client.send(&json!({"type": "auth", "token": token}));
        let step = self.hear_until(entitled, |_, step| matches!(step, Step::Closed(_)));
        let Step::Closed(closed) = step else { unreachable!() };
        assert_eq!(closed.code, Some(4403), "{}: {closed:?}", self.client.options.name);
        assert_eq!(rte_testkit::witness::tokens(&closed.reason).count(), 0, "{closed:?}");
        self.leave();
    }

    /// Shows the token of somebody else on the open connection.
    pub fn renew(&mut self, actor: usize, actors: &[Actor]) {
        let Some(fresh) = token(&actors[actor]) else { return };
        if self.client.options.token.is_none() || self.before.is_some() {
            return;
        }
        self.probes += 1;
        let probe = format!("probe {}", self.probes);
        self.before = Some((self.actor, probe.clone()));
        self.actor = actor;
        self.client.renew(&fresh);
        // Messages are taken in order: once this is answered, the token counts.
        self.client.subscribe(&probe, "kit_barrier");
    }

    /// Takes what has come.
    #[track_caller]
    pub fn drain(&mut self, entitled: &[Entitled]) {
        for _ in 0..2000 {
            let step = self.client.step(Duration::from_millis(1));
            self.listen(entitled);
            match step {
                Step::Frame(_) => {}
                Step::Quiet => return,
                Step::Closed(closed) => {
                    let why = &closed.reason;
                    assert!(entitled[self.actor].leaked(why, self.at).is_empty(), "{why}");
                    self.joining.clear();
                    self.before = None;
                    self.client.come_back();
                    self.listen(entitled);
                }
            }
        }
    }

    /// Takes frames, each judged, until one is what is waited for.
    #[track_caller]
    fn hear_until(&mut self, entitled: &[Entitled], mut is_it: impl FnMut(&Client, &Step) -> bool) -> Step {
        let end = Instant::now() + patience();
        loop {
            let step = self.client.step(Duration::from_millis(20));
            self.listen(entitled);
            if is_it(&self.client, &step) {
                return step;
            }
            let name = &self.client.options.name;
            assert!(!matches!(step, Step::Closed(_)), "{name}: {step:?}");
            assert!(Instant::now() < end, "{name}: waited in vain");
        }
    }

    /// Judges the frames that came: one, or those until a welcome.
    #[track_caller]
    fn listen(&mut self, entitled: &[Entitled]) {
        let frames = std::mem::take(&mut *self.ear.frames.lock().expect("frames"));
        for frame in frames {
            if self.lately.len() == LATELY {
                self.lately.pop_front();
            }
            self.lately.push_back(frame.clone());
            self.heard += rte_testkit::witness::tokens(&frame).count() as u64;
            let first = self.joining.values().copied().fold(self.at, i32::min);
            let mut leaked = entitled[self.actor].leaked(&frame, first);
            if let Some((before, _)) = &self.before {
                leaked.retain(|token| !entitled[*before].leaked(&token.to_string(), first).is_empty());
            }
            if let Some(token) = leaked.first() {
                let at = frame.find(&token.to_string()).unwrap_or_default();
                let around: String = frame.chars().skip(at.saturating_sub(300)).take(700).collect();
                let all: Vec<_> = entitled.iter().map(|e| e.spans(*token)).collect();
                let shapes = self.client.copy.subscriptions.values().map(|s| (&s.id, &s.shape, s.state));
                println!("others: {all:?}; {:?}", shapes.collect::<Vec<_>>());
                panic!(
                    "{} (actor {}, at {}, from {first}) heard {leaked:?}, entitled {:?}:\n…{around}…\nin a frame that begins {}\n{:?}",
                    self.client.options.name,
                    self.actor,
                    self.at,
                    entitled[self.actor].spans(*token),
                    frame.chars().take(200).collect::<String>(),
                    self.wishes.iter().map(|(id, w)| (id, w.table, w.literal())).collect::<Vec<_>>(),
                );
            }
            self.follow(&frame);
        }
    }

    fn follow(&mut self, frame: &str) {
        let head: Value = serde_json::from_str(frame).expect("a message");
        let (kind, id) = (head["type"].as_str().unwrap_or_default(), head["id"].as_str().map(str::to_owned));
        match (kind, id) {
            ("subscribed", Some(id)) => {
                if self.before.as_ref().is_some_and(|(_, probe)| *probe == id) {
                    self.before = None;
                    self.client.unsubscribe(&id);
                }
                if head["resumed"] != json!(true) {
                    self.joining.insert(id, self.at);
                }
            }
            ("unsubscribed", Some(id)) => {
                self.joining.remove(&id);
            }
            ("error", Some(id)) if self.before.as_ref().is_some_and(|(_, probe)| *probe == id) => self.before = None,
            ("commit", _) => {
                self.at = self.at.max(self.ear.mark.lock().expect("marks").0);
                let copy = &self.client.copy;
                self.joining.retain(|id, _| copy.subscriptions.get(id).is_some_and(|s| s.state != State::Live));
            }
            _ => {}
        }
    }

    /// What ended, to be asked for again.
    pub fn ended(&self) -> Vec<(String, Wish)> {
        let ended = self.client.copy.subscriptions.values().filter(|s| s.state == State::Ended);
        ended.filter_map(|s| Some((s.id.clone(), self.wishes.get(&s.id)?.clone()))).collect()
    }

    /// Whether everything that is asked for is answered, and the mark has come.
    pub fn rests_at(&self, mark: i32) -> bool {
        let rest = |s: &rte_testkit::Subscription| matches!(s.state, State::Live | State::Ended);
        self.client.copy.subscriptions.values().all(rest)
            && self.client.copy.subscriptions.get("kit_barrier").is_some_and(|s| s.row(&[&mark.to_string()]).is_some())
    }
}

fn token(actor: &Actor) -> Option<String> {
    (actor.role() != "web_anon").then(|| actor.token())
}
