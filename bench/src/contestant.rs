//! Those who deliver changes to clients: we in both ways of capture, and the peers, each with a server of its own.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use rte_testkit::Cluster;
use serde_json::json;

use crate::crowd::{Endpoint, Hello, Speech};
use crate::peer::{Peer, notify_on};
use crate::process::cpu_seconds;
use crate::results::Found;
use crate::rig::{self, Capture, Needs};
use crate::say;

/// How contestants are called in the report, by their names in scenarios and results.
const LABELS: [(&str, &str); 23] = [
    ("trigger", "whagons_rte, trigger"),
    ("wal", "whagons_rte, WAL"),
    ("trigger, one client", "whagons_rte, trigger, one client"),
    ("wal, one client", "whagons_rte, WAL, one client"),
    ("trigger, folded policy", "whagons_rte, a policy that folds"),
    ("trigger, a shape each", "whagons_rte, a shape for each client"),
    ("wal, folded policy", "whagons_rte, WAL, a policy that folds"),
    ("wal, a shape each", "whagons_rte, WAL, a shape for each client"),
    ("trigger, with cursors", "whagons_rte, trigger, with cursors"),
    ("trigger, without", "whagons_rte, trigger, from nothing"),
    ("wal, with cursors", "whagons_rte, WAL, with cursors"),
    ("wal, without", "whagons_rte, WAL, from nothing"),
    ("node", "NOTIFY + Node ws"),
    ("rust", "NOTIFY + tokio-tungstenite"),
    ("sockjs", "wal2json + SockJS"),
    ("zero", "zero-cache"),
    ("bare", "bare"),
    ("notify", "NOTIFY trigger + Node ws"),
    ("log-trigger", "plpgsql log trigger"),
    ("wal2json", "wal2json slot, read"),
    ("epoll", "epoll loop"),
    ("copy", "COPY TO STDOUT"),
    ("copy-json", "COPY (row_to_json)"),
];

pub fn label(name: &str) -> &str {
    LABELS.iter().find(|(known, _)| *known == name).map_or(name, |(_, label)| label)
}

/// Ready to deliver the changes of some tables.
pub struct Contestant {
    pub name: String,
    capture: Option<Capture>,
    /// Ends before its server does.
    peer: Option<Peer>,
    pub cluster: Cluster,
}

impl Contestant {
    /// Starts a server and what delivers from it. `prepare` makes the tables; the first is the one that peers follow.
    ///
    /// # Errors
    /// Why this one cannot take part.
    pub fn start(name: &str, needs: Needs, prepare: impl Fn(&Cluster), tables: &[&str]) -> Result<Self, String> {
        say(&format!("starting {}", label(name)));
        let capture = match name {
            "trigger" => Some(Capture::Trigger),
            "wal" => Some(Capture::Wal),
            _ => None,
        };
        let address = own_address();
        let cluster = match (capture, name) {
            (Some(capture), _) => rig::ours(capture, needs)?,
            (None, "sockjs") => rig::with_wal2json()?,
            (None, "zero") => rig::plain(&[("wal_level", "logical"), ("listen_addresses", &address)]),
            (None, _) => rig::plain(&[]),
        };
        prepare(&cluster);
        let first = tables.first().copied().unwrap_or("feed");
        let peer = match capture {
            Some(capture) => {
                for table in tables {
                    rig::register(&cluster, capture, table)?;
                }
                None
            }
            None if name == "sockjs" => Some(Peer::sockjs(&cluster, first)?),
            None if name == "zero" => Some(Peer::zero(&cluster, &address, first)?),
            None => {
                notify_on(&mut cluster.sql(), first);
                Some(match name {
                    "node" => Peer::node(&cluster)?,
                    "rust" => Peer::rust(&cluster)?,
                    _ => return Err(format!("there is no contestant {name:?}")),
                })
            }
        };
        Ok(Self { name: name.into(), capture, peer, cluster })
    }

    /// Starts all that can take part, and notes why others cannot.
    pub fn start_all(
        found: &mut Found,
        names: &[String],
        needs: Needs,
        prepare: impl Fn(&Cluster),
        tables: &[&str],
    ) -> Vec<Self> {
        let start = |name: &String| match Self::start(name, needs, &prepare, tables) {
            Ok(contestant) => Some(contestant),
            Err(why) => {
                found.note(format!("{} did not take part: {why}", label(name)));
                None
            }
        };
        names.iter().filter_map(start).collect()
    }

    pub fn is_ours(&self) -> bool {
        self.capture.is_some()
    }

    /// The same, but for those of whom so many clients are known to be too many.
    pub fn can_have(&self, most: &BTreeMap<String, u64>, clients: u64) -> bool {
        most.get(&self.name).is_none_or(|most| clients <= *most)
    }

    /// Whether several changes of a row may come as one, so that it cannot be told when all have come.
    pub fn merges(&self) -> bool {
        self.name == "zero"
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> Endpoint {
        let of = |port, path: &str, speech| Endpoint { port, path: path.into(), protocol: None, speech };
        match (&self.peer, self.name.as_str()) {
            (None, _) => Endpoint::ours(self.cluster.rte_port),
            (Some(peer), "sockjs") => of(peer.port, "/changes/000/bench/websocket", Speech::SockJs),
            (Some(peer), "zero") => zero(peer.port),
            (Some(peer), _) => of(peer.port, "/", Speech::Frames),
        }
    }

    /// What a client says to have the changes of a table; peers send them unasked.
    pub fn hello(&self, table: &str) -> Hello {
        if self.is_ours() { Hello::table(table) } else { Hello::Nothing }
    }

    /// The processes that deliver, with the sessions that tell them of changes.
    pub fn processes(&self) -> Vec<i32> {
        let Some(peer) = &self.peer else {
            return vec![self.cluster.worker("gateway"), self.cluster.worker("feeder")];
        };
        // Our own sessions are called `test`.
        let sessions = "SELECT pid FROM pg_stat_activity
                        WHERE backend_type IN ('client backend', 'walsender') AND application_name <> 'test'";
        let mut all = peer.processes();
        all.extend(self.cluster.sql().texts(sessions).iter().filter_map(|pid| pid.parse::<i32>().ok()));
        all
    }

    /// The process that clients are connected to.
    pub fn server(&self) -> i32 {
        self.peer.as_ref().map_or_else(|| self.cluster.worker("gateway"), Peer::server)
    }

    /// Seconds of processor time of those who deliver.
    pub fn cpu_seconds(&self) -> f64 {
        self.processes().into_iter().map(cpu_seconds).sum()
    }
}

/// An address of loopback that no other server listens on.
fn own_address() -> String {
    let pid = std::process::id();
    format!("127.9.{}.{}", pid >> 8 & 255, 1 + pid % 254)
}

/// How a client of Zero asks: each is a browser of its own, with one query.
fn zero(port: u16) -> Endpoint {
    let schema = json!({"tables": {"feed": {
        "columns": {"body": {"type": "string"}, "id": {"type": "number"}}, "primaryKey": ["id"]
    }}});
    let query = json!({"op": "put", "hash": "all", "name": "all", "args": [], "ttl": 60_000});
    let init = json!({"initConnectionMessage":
        ["initConnection", {"desiredQueriesPatch": [query], "clientSchema": schema}]});
    let protocol = BASE64_STANDARD.encode(init.to_string());
    let protocol = protocol.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let path = "/sync/v51/connect?clientID=c{n}&clientGroupID=g{n}&userID=u{n}&baseCookie=&ts=1&lmid=0&wsid=w{n}";
    Endpoint { port, path: path.into(), protocol: Some(protocol), speech: Speech::Zero }
}
