//! Many clients in one thread that reads as cheaply as can be, so that the load generator takes little from
//! the cores that it shares with what it measures.
//!
//! It knows a change when it sees one, by its bytes, and never parses JSON. Connecting, too, happens in that thread, many at
//! a time, from several addresses of loopback: one has 28,000 ports.

mod member;
mod reader;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use rte_testkit::within;

pub use member::Speech;

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Marks; a frame's oldest gives the delay of all that are in it.
    Marks,
    /// Marks, and the time when each has come.
    Arrivals,
    /// Changes of `rte.v1`.
    Changes,
    /// Frames, of a server that sends one per change.
    Frames,
}

/// Whom a crowd speaks to, and how.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub port: u16,
    /// `{n}` is unlike for each connection.
    pub path: String,
    pub protocol: Option<String>,
    pub speech: Speech,
}

impl Endpoint {
    /// A gateway.
    pub fn ours(port: u16) -> Self {
        Self { port, path: "/ws".into(), protocol: Some("rte.v1".into()), speech: Speech::Rte }
    }
}

/// What the clients say when they are connected.
#[derive(Debug, Clone)]
pub enum Hello {
    Nothing,
    Same(String),
    Each(Vec<String>),
}

impl Hello {
    /// To subscribe to a table of ours.
    pub fn table(table: &str) -> Self {
        Self::Same(format!(r#"{{"type":"hello","subscriptions":[{{"id":"1","table":"{table}"}}]}}"#))
    }

    fn of(&self, n: usize) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Same(text) => Some(text),
            Self::Each(texts) => texts.get(n).map(String::as_str),
        }
    }
}

/// How many come, and what they do.
#[derive(Debug, Clone)]
pub struct Party {
    pub size: u64,
    pub count: Count,
    pub hello: Hello,
    /// Those that are closed come back; with `true` with their cursors.
    pub come_back: Option<bool>,
    /// How long they may take until they are live.
    pub patience: Duration,
}

impl Party {
    pub fn new(size: u64, count: Count, hello: Hello) -> Self {
        // A crowd of ten thousand takes a while.
        let patience = Duration::from_secs(30 + size / 100);
        Self { size, count, hello, come_back: None, patience }
    }
}

/// Microseconds, up to ten minutes.
pub type Delays = Histogram<u64>;

/// An empty histogram of delays.
pub fn no_delays() -> Delays {
    let mut delays = Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds that make sense");
    delays.auto(false);
    delays
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    live: AtomicU64,
    count: AtomicU64,
    bytes: AtomicU64,
    closed: AtomicU64,
    copies: AtomicU64,
    /// Marks and when they came.
    arrivals: Mutex<Vec<(u64, u64)>>,
    delays: Mutex<Delays>,
    /// The first error that a server answered with.
    refusal: Mutex<Option<String>>,
}

/// Connected clients and the thread that reads them.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pub size: u64,
}

impl Crowd {
    /// Connects clients and waits until they are live.
    ///
    /// # Errors
    /// They do not become so.
    pub fn join(endpoint: &Endpoint, party: Party) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            live: AtomicU64::new(0),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            arrivals: Mutex::default(),
            delays: Mutex::new(no_delays()),
            refusal: Mutex::default(),
        });
        let (size, patience) = (party.size, party.patience);
        let reader = reader::Reader::new(endpoint.clone(), party, Arc::clone(&shared)).map_err(|e| e.to_string())?;
        let thread = std::thread::spawn(move || reader.run());
        let crowd = Self { shared, thread: Some(thread), size };
        let done = within(patience, || (crowd.closed() > 0 || crowd.live() == size).then_some(()));
        match (done, crowd.closed()) {
            (Some(()), 0) => Ok(crowd),
            _ => Err(format!(
                "{} of {size} clients are live, {} were closed{}",
                crowd.live(),
                crowd.closed(),
                lock(&crowd.shared.refusal).as_ref().map(|r| format!(": {r}")).unwrap_or_default()
            )),
        }
    }

    /// Clients that have their snapshots now.
    pub fn live(&self) -> u64 {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// Changes that have come, over all clients.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Connections that the server has ended.
    pub fn closed(&self) -> u64 {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Tables that were read anew in place of their changes.
    pub fn copies(&self) -> u64 {
        self.shared.copies.load(Ordering::SeqCst)
    }

    /// Waits until this many changes have come in all, and tells whether they have.
    pub fn wait_count(&self, goal: u64, patience: Duration) -> bool {
        within(patience, || (self.count() >= goal || self.closed() > 0).then_some(())).is_some() && self.count() >= goal
    }

    /// Waits until no more changes come, and tells whether it has come to that.
    pub fn wait_quiet(&self, patience: Duration) -> bool {
        let mut seen = u64::MAX;
        within(patience, || {
            let last = std::mem::replace(&mut seen, self.count());
            std::thread::sleep(Duration::from_millis(300));
            (last == seen && self.count() == seen).then_some(())
        })
        .is_some()
    }

    /// The marks and when each came, since the last call.
    pub fn take_arrivals(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut lock(&self.shared.arrivals))
    }

    /// The delays since the last call, from when a row was sent to the server, one for each change.
    pub fn take_delays(&self) -> Delays {
        std::mem::replace(&mut lock(&self.shared.delays), no_delays())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
