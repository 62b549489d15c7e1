//! The gateway as a child of the launcher: forked, cut off from shared memory, and gone with its parent.
//!
//! Invariant: between `fork` and `rte_gateway::run` the child gives up everything of Postgres, and it ends only
//! through `_exit`, so that no exit handler of Postgres runs in it. A crash of the child is a crash of a process
//! that the postmaster does not know.

use super::control::{Control, Said};
use super::forget::forget_secrets;
use crate::shmem::{self, Kind, State};
use crate::worker::socket;
use crate::{compat, guc};
use pgrx::pg_sys::{self, Oid};
use rte_protocol::bridge::{GatewayConfig, ToGateway};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where sockets are made: backups leave this directory's contents out.
const DIRECTORY: &str = "pg_stat_tmp";
const PREFIX: &str = "rte_gateway.";
/// Time that a gateway gets to say goodbye to its clients.
const GOODBYE: Duration = Duration::from_secs(2);

static INCARNATION: AtomicU32 = AtomicU32::new(0);

pub struct Gateway {
    pid: libc::pid_t,
    control: Control,
    config: GatewayConfig,
    pub started_at: Instant,
}

/// Removes sockets that a server left behind which was killed.
pub fn remove_stale_sockets() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl Gateway {
    pub fn fork() -> io::Result<Self> {
        let path =
            format!("{DIRECTORY}/{PREFIX}{}.{}", std::process::id(), INCARNATION.fetch_add(1, Ordering::Relaxed));
        let config = guc::gateway_config(path);
        let (ours, theirs) = socket::pair()?;
        let control = Control::new(ours)?;
        // SAFETY: the launcher has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(control);
                // SAFETY: in the child, once.
                unsafe { become_gateway(theirs, config) }
            }
            pid => {
                drop(theirs);
                shmem::set_bridge_path(&config.bridge_path);
                if let Some(worker) = shmem::enter_worker(Kind::Gateway, pid, Oid::INVALID) {
                    worker.state.store(State::Running as i32, Ordering::Relaxed);
                }
                Ok(Self { pid, control, config, started_at: Instant::now() })
            }
        }
    }

    pub fn fd(&self) -> RawFd {
        self.control.fd()
    }

    pub fn listen(&mut self) -> Said {
        self.control.listen()
    }

    /// Tells the gateway of new settings; what it listens on and what it has given up change only with a new one.
    pub fn reload(&mut self) {
        let config = guc::gateway_config(self.config.bridge_path.clone());
        let fixed = |c: &GatewayConfig| (c.port, c.listen_addresses.clone(), c.sandbox, c.memory_limit_bytes);
        if fixed(&config) != fixed(&self.config) {
            self.control.send(&ToGateway::Shutdown { restart: true });
        } else if config != self.config {
            self.control.send(&ToGateway::Reload { config: Box::new(config.clone()) });
        }
        self.config = config;
    }

    /// Takes note of a gateway that has ended, or ends one that only closed its side.
    pub fn reap(self) {
        let mut status = 0;
        let mut until = Instant::now() + Duration::from_millis(100);
        // SAFETY: waits for and signals a child of ours that was not reaped yet.
        unsafe {
            while libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) == 0 {
                if Instant::now() >= until {
                    libc::kill(self.pid, libc::SIGKILL);
                    until = Instant::now() + GOODBYE;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        shmem::leave_worker(self.pid);
        shmem::set_bridge_path("");
        let _ = std::fs::remove_file(&self.config.bridge_path);
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            // An allocation that fails ends in `abort`.
            let hint = if signal == libc::SIGABRT { "; check rte.gateway_memory_limit" } else { "" };
            pgrx::warning!("whagons_rte gateway (pid {}) was ended by signal {signal}{hint}", self.pid);
        } else if libc::WEXITSTATUS(status) == rte_gateway::EXIT_SANDBOX {
            pgrx::warning!(
                "whagons_rte gateway does not serve: rte.gateway_sandbox is \"required\", and not all of it can be had"
            );
        } else if libc::WEXITSTATUS(status) != 0 {
            pgrx::warning!("whagons_rte gateway (pid {}) ended with code {}", self.pid, libc::WEXITSTATUS(status));
        }
    }

    /// Lets the gateway say goodbye to its clients, and waits until it has ended.
    pub fn stop(mut self) {
        self.control.send(&ToGateway::Shutdown { restart: false });
        let until = Instant::now() + GOODBYE;
        while self.control.listen() == Said::Nothing && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.reap();
    }
}

/// The launcher removes the socket: this process cannot any more.
extern "C" fn on_terminate(_signal: libc::c_int) {
    // SAFETY: allowed in a signal handler.
    unsafe { libc::_exit(0) }
}

/// # Safety
/// Right after `fork`, in the child.
unsafe fn become_gateway(control: UnixStream, config: GatewayConfig) -> ! {
    // SAFETY: the process has one thread, and none of what it gives up here is used after.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        // The postmaster signals process groups; this process listens to its launcher only.
        libc::setsid();
        pg_sys::on_exit_reset();
        pg_sys::dsm_detach_all();
        compat::PGSharedMemoryDetach();
        pg_sys::MyProc = std::ptr::null_mut();
        forget_secrets();
        close_all_but(control.as_raw_fd());
        silence();

        libc::signal(libc::SIGTERM, on_terminate as *const () as libc::sighandler_t);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        // A write past the limit of files fails, and ends nothing.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        #[cfg(target_os = "linux")]
        {
            let parent = pg_sys::MyProcPid;
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            // A parent that died before this line sends nothing.
            if libc::getppid() != parent {
                libc::_exit(0);
            }
            libc::prctl(libc::PR_SET_NAME, c"rte_gateway".as_ptr());
            let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        }
        compat::set_process_title(c"gateway");
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());

        std::panic::set_hook(Box::new(rte_gateway::note_panic));
        let code = std::panic::catch_unwind(|| rte_gateway::run(control, config)).unwrap_or(101);
        libc::_exit(code)
    }
}

/// Points the standard descriptors nowhere. The inherited ones lead to the server's log, where whoever broke into the gateway
/// could write lines in the name of others; what the gateway has to say it tells the launcher.
fn silence() {
    // SAFETY: plain calls on descriptors; without /dev/null they are closed.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..=2 {
            if null < 0 {
                libc::close(standard);
            } else {
                libc::dup2(null, standard);
            }
        }
        if null > 2 {
            libc::close(null);
        }
    }
}

/// Closes what was inherited: files of the data directory, the latch's descriptors, the postmaster's pipe.
fn close_all_but(keep: RawFd) {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .map(|fds| fds.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_else(|_| (3..1024).collect());
    for fd in open.into_iter().filter(|fd| *fd > 2 && *fd != keep) {
        // SAFETY: nothing in this process uses them any more; the directory's own is closed already.
        unsafe { libc::close(fd) };
    }
}
