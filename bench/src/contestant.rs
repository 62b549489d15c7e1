//! Those who deliver changes to clients: we in both ways of capture, and the peers, each with a server of its own.

use rte_testkit::Cluster;

use crate::crowd::{Endpoint, Hello, Speech};
use crate::peer::{Peer, notify_on};
use crate::process::cpu_seconds;
use crate::results::Found;
use crate::rig::{self, Capture, Needs};
use crate::say;

/// How contestants are called in the report, by their names in scenarios and results.
const LABELS: [(&str, &str); 22] = [
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
        let cluster = match (capture, name) {
            (Some(capture), _) => rig::ours(capture, needs)?,
            (None, "sockjs") => rig::with_wal2json()?,
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

    /// Where clients connect to.
    pub fn endpoint(&self) -> Endpoint {
        match &self.peer {
            None => Endpoint { port: self.cluster.rte_port, path: "/ws".into(), speech: Speech::Rte },
            Some(peer) if self.name == "sockjs" => {
                Endpoint { port: peer.port, path: "/changes/000/bench/websocket".into(), speech: Speech::SockJs }
            }
            Some(peer) => Endpoint { port: peer.port, path: "/".into(), speech: Speech::Frames },
        }
    }

    /// What a client says to have the changes of a table; peers send them unasked.
    pub fn hello(&self, table: &str) -> Hello {
        if self.is_ours() { Hello::table(table) } else { Hello::Nothing }
    }

    /// The processes that deliver.
    pub fn processes(&self) -> Vec<i32> {
        match &self.peer {
            Some(peer) => peer.processes(),
            None => vec![self.cluster.worker("gateway"), self.cluster.worker("feeder")],
        }
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
