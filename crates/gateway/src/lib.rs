//! The gateway: owns the socket port, moves bytes between clients and the Postgres workers, knows no rows.
//!
//! [`run`] is the whole process. Threads: one accepts, some own connections ([`io_thread`]), the first of which talks to the
//! workers too ([`bridge`]), one writes log lines, and the caller's listens to the launcher. It touches neither Postgres nor
//! shared memory. Invariant: it ends when the launcher does, and never goes on without one of its threads.

mod acceptor;
mod bridge;
mod connection;
mod control;
mod databases;
mod deflate;
mod directory;
mod event;
mod flow;
mod frame;
mod http;
mod hub;
mod io_thread;
mod lag;
mod limits;
mod memory;
mod metrics;
mod page;
mod queue;
mod rate;
mod requests;
mod sandbox;
mod upgrade;
mod websocket;
mod welcome;
mod wire;

use control::Log;
use event::{IoThreads, ToIo};
use hub::Shared;
use memory::Memory;
use metrics::Metrics;
use parking_lot::RwLock;
use rte_protocol::bridge::{GatewayConfig, SandboxMode, ToGateway, ToLauncher};
use sandbox::Confined;
use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
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
/// `rte.gateway_sandbox` is `required`, and the kernel does not have all of it.
pub const EXIT_SANDBOX: i32 = 77;

/// Time for threads to say good-bye to clients.
const GOODBYE: Duration = Duration::from_millis(300);

/// Runs the gateway until the launcher tells it to end or is gone; answers the process' exit code. The caller has
/// SIGPIPE and SIGXFSZ ignored, the first as Rust's own start-up does, and the data directory as the current one. With a
/// sandbox the whole process is in it from then on, and the bridge's socket file is the launcher's to remove.
#[must_use]
pub fn run(control: UnixStream, config: GatewayConfig) -> i32 {
    let (log, lines) = Log::new();
    // What needs files, names or new sockets comes first, then threads, which inherit what was given up.
    let sockets = Sockets::open(&config, &log);
    let confined = sandbox::confine(&config);
    let Ok(log_thread) = control.try_clone().and_then(|control| lines.write_to(control)) else { return EXIT_SOCKET };
    let code = match sockets.and_then(|sockets| Gateway::start(&control, config, sockets, confined, &log)) {
        Ok(Some(gateway)) => gateway.serve(control),
        Ok(None) => EXIT_SANDBOX,
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

thread_local! {
    static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic hook for processes whose standard error nobody reads: the place of the panic goes to the server's log, with
/// its message.
pub fn note_panic(info: &PanicHookInfo<'_>) {
    PANICKED_AT.set(info.location().map(ToString::to_string));
}

/// What is open before rights are given up.
struct Sockets {
    listeners: Vec<TcpListener>,
    bridge: UnixListener,
    /// The owner of the bridge's socket file: this process' user.
    uid: u32,
    memory: Option<Memory>,
}

impl Sockets {
    fn open(config: &GatewayConfig, log: &Log) -> io::Result<Self> {
        let listeners = acceptor::bind(config, log)?;
        let path = Path::new(&config.bridge_path);
        let bridge = bind_bridge(path)?;
        let uid = std::fs::metadata(path)?.uid();
        Ok(Self { listeners, bridge, uid, memory: Memory::open() })
    }
}

/// The running threads.
struct Gateway {
    config: Arc<RwLock<Arc<GatewayConfig>>>,
    io: IoThreads,
    io_threads: Vec<JoinHandle<()>>,
    acceptor: JoinHandle<()>,
    stop: Arc<Notify>,
    broken: Arc<AtomicBool>,
}

impl Gateway {
    /// Starts the threads and gives up the rest; none where more was to be given up than the kernel has.
    fn start(
        control: &UnixStream,
        config: GatewayConfig,
        sockets: Sockets,
        confined: Confined,
        log: &Log,
    ) -> io::Result<Option<Self>> {
        let Sockets { listeners, bridge, uid, memory } = sockets;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let metrics = Arc::new(Metrics::new(memory));
        let broken = Arc::new(AtomicBool::new(false));
        let watch = Watch { broken: broken.clone(), log: log.clone(), control: Arc::new(control.try_clone()?) };

        let threads = config.io_threads.max(1);
        let config = Arc::new(config);
        let (to_bridge, inbox) = mpsc::unbounded_channel();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::unbounded_channel::<ToIo>()).unzip();
        let io = IoThreads(senders.into());
        let mut bridge = Some(bridge::Start {
            listener: bridge,
            uid,
            io: io.clone(),
            log: log.clone(),
            metrics: metrics.clone(),
            landlord: config.landlord_database.clone(),
            inbox,
        });
        let mut io_threads = Vec::new();
        for (number, events) in (0_u64..).zip(receivers) {
            let shared = Shared {
                metrics: metrics.clone(),
                log: log.clone(),
                bridge: to_bridge.clone(),
                io: io.clone(),
                thread: (number, u64::from(threads)),
            };
            let (config, bridge) = (config.clone(), bridge.take());
            io_threads.push(watch.spawn("rte io", move || io_thread::run(config, shared, events, bridge))?);
        }
        drop(to_bridge);

        let stop = Arc::new(Notify::new());
        let settings = config.clone();
        let config = Arc::new(RwLock::new(config));
        let (go, wait) = std::sync::mpsc::channel();
        let start = acceptor::Start {
            listeners,
            config: config.clone(),
            gate: limits::Gate::new(metrics),
            io: io.clone(),
            log: log.clone(),
            stop: stop.clone(),
            go: wait,
        };
        let acceptor = watch.spawn("rte acceptor", move || acceptor::run(start))?;
        if let Some(report) = confined.seal(&settings, addresses.first().copied()) {
            let whole = report.is_whole();
            log.send(ToLauncher::Sandboxed { report });
            if settings.sandbox == SandboxMode::Required && !whole {
                return Ok(None);
            }
        }
        log.send(ToLauncher::Listening { addresses: addresses.iter().map(ToString::to_string).collect() });
        let _ = go.send(());
        Ok(Some(Self { config, io, io_threads, acceptor, stop, broken }))
    }

    /// Listens to the launcher, then ends.
    fn serve(self, mut control: UnixStream) -> i32 {
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
        self.stop.notify_one();
        self.io.all(|| ToIo::Shutdown { restart });
        let deadline = Instant::now() + GOODBYE;
        for thread in self.io_threads {
            join(thread, deadline);
        }
        join(self.acceptor, deadline + Duration::from_millis(50));
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
            let at = PANICKED_AT.take().map(|at| format!(" at {at}")).unwrap_or_default();
            log.warning(format!("gateway thread \"{name}\" ended{at}: {fault}"));
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
