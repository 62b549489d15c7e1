//! The gateway: owns the socket port, moves bytes between clients and the Postgres workers, knows no rows.
//!
//! [`run`] is the whole process. Threads: one accepts, one talks to the workers ([`bridge`]), some own connections
//! ([`io_thread`]), one writes log lines, and the caller's listens to the launcher. It touches neither Postgres nor
//! shared memory. Invariant: it ends when the launcher does, and never goes on without one of its threads.

mod acceptor;
mod bridge;
mod connection;
mod control;
mod directory;
mod event;
mod flow;
mod http;
mod hub;
mod io_thread;
mod limits;
mod metrics;
mod queue;
mod upgrade;
mod websocket;

use control::Log;
use event::{IoThreads, ToIo};
use hub::Shared;
use metrics::Metrics;
use parking_lot::RwLock;
use rte_protocol::bridge::{GatewayConfig, ToGateway, ToLauncher};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Ended as it was told.
pub const EXIT_OK: i32 = 0;
/// A socket could not be opened; worth another try later.
pub const EXIT_SOCKET: i32 = 71;
/// A thread ended that must not.
pub const EXIT_THREAD: i32 = 70;

/// Time for threads to say good-bye to clients.
const GOODBYE: Duration = Duration::from_millis(300);

/// Runs the gateway until the launcher tells it to end or is gone; answers the process' exit code. The caller has
/// SIGPIPE ignored, as Rust's own start-up does, and the data directory as the current one.
#[must_use]
pub fn run(control: UnixStream, config: GatewayConfig) -> i32 {
    let Ok((log, log_thread)) = control.try_clone().and_then(Log::start) else { return EXIT_SOCKET };
    let code = match Gateway::start(&control, config, &log) {
        Ok(gateway) => gateway.serve(control, &log),
        Err(e) => {
            log.warning(format!("gateway could not start: {e}; check rte.port and rte.listen_addresses"));
            EXIT_SOCKET
        }
    };
    // Lines that wait are written; a launcher that is gone makes that fail at once.
    drop(log);
    join(log_thread, Instant::now() + GOODBYE);
    code
}

/// The running threads.
struct Gateway {
    config: Arc<RwLock<Arc<GatewayConfig>>>,
    io: IoThreads,
    io_threads: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    stops: Vec<Arc<Notify>>,
    broken: Arc<AtomicBool>,
    socket_file: PathBuf,
}

impl Gateway {
    fn start(control: &UnixStream, config: GatewayConfig, log: &Log) -> io::Result<Self> {
        let listeners = acceptor::bind(&config, log)?;
        let addresses = listeners.iter().map(|l| l.local_addr().map(|a| a.to_string())).collect::<io::Result<_>>()?;
        let socket_file = PathBuf::from(&config.bridge_path);
        let bridge_listener = bind_bridge(&socket_file)?;
        let metrics = Arc::new(Metrics::new());
        let broken = Arc::new(AtomicBool::new(false));
        let watch = Watch { broken: broken.clone(), log: log.clone(), control: Arc::new(control.try_clone()?) };

        let threads = config.io_threads.max(1);
        let config = Arc::new(config);
        let (to_bridge, inbox) = mpsc::unbounded_channel();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::unbounded_channel::<ToIo>()).unzip();
        let io = IoThreads(senders.into());
        let mut io_threads = Vec::new();
        for (number, events) in (0_u64..).zip(receivers) {
            let shared = Shared {
                metrics: metrics.clone(),
                log: log.clone(),
                bridge: to_bridge.clone(),
                thread: (number, u64::from(threads)),
            };
            let config = config.clone();
            io_threads.push(watch.spawn("rte io", move || io_thread::run(config, shared, events))?);
        }
        drop(to_bridge);

        let stops = vec![Arc::new(Notify::new()), Arc::new(Notify::new())];
        let start = bridge::Start {
            listener: bridge_listener,
            path: socket_file.clone(),
            io: io.clone(),
            log: log.clone(),
            metrics: metrics.clone(),
            landlord: config.landlord_database.clone(),
            inbox,
            stop: stops[0].clone(),
        };
        let bridge = watch.spawn("rte bridge", move || bridge::run(start))?;
        let config = Arc::new(RwLock::new(config));
        let start = acceptor::Start {
            listeners,
            config: config.clone(),
            gate: limits::Gate::new(metrics),
            io: io.clone(),
            log: log.clone(),
            stop: stops[1].clone(),
        };
        let acceptor = watch.spawn("rte acceptor", move || acceptor::run(start))?;
        log.send(ToLauncher::Listening { addresses });
        Ok(Self { config, io, io_threads, others: vec![bridge, acceptor], stops, broken, socket_file })
    }

    /// Listens to the launcher, then ends.
    fn serve(self, mut control: UnixStream, log: &Log) -> i32 {
        // The launcher's end without a word means that it is gone: clients may come back to the next one.
        let mut restart = true;
        while let Some(order) = control::next_order(&mut control) {
            match order {
                ToGateway::Reload { config } => {
                    let config = Arc::new(*config);
                    *self.config.write() = config.clone();
                    self.io.all(|| ToIo::Config(config.clone()));
                }
                ToGateway::Shutdown { restart: asked } => {
                    restart = asked;
                    break;
                }
            }
        }
        let broken = self.broken.load(Ordering::Acquire);
        self.stops[1].notify_one();
        self.io.all(|| ToIo::Shutdown { restart });
        let deadline = Instant::now() + GOODBYE;
        for thread in self.io_threads {
            join(thread, deadline);
        }
        self.stops[0].notify_one();
        for thread in self.others {
            join(thread, deadline + Duration::from_millis(50));
        }
        if let Err(e) = std::fs::remove_file(&self.socket_file) {
            log.warning(format!("could not remove the bridge's socket file: {e}"));
        }
        if broken { EXIT_THREAD } else { EXIT_OK }
    }
}

/// Opens the bridge's socket. The launcher runs one gateway at a time, so a file that is there is a dead one's.
fn bind_bridge(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sees to it that the process does not go on without one of its threads.
struct Watch {
    broken: Arc<AtomicBool>,
    log: Log,
    control: Arc<UnixStream>,
}

impl Watch {
    fn spawn(&self, name: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<()>> {
        let (broken, log, control) = (self.broken.clone(), self.log.clone(), self.control.clone());
        let name = name.to_owned();
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let fault = match std::panic::catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => return,
                Ok(Err(e)) => e.to_string(),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
                }
            };
            log.warning(format!("gateway thread \"{name}\" ended: {fault}"));
            broken.store(true, Ordering::Release);
            // Wakes the main thread, which listens to the launcher and nobody else.
            let _ = control.shutdown(std::net::Shutdown::Read);
        })
    }
}

/// Joins a thread, or leaves it behind at the deadline: the process ends anyway.
fn join(thread: JoinHandle<()>, deadline: Instant) {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = thread.join();
}
