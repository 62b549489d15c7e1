//! What the process gives up once its sockets are open: rights that it never needs again, and that whoever broke into it
//! would want.
//!
//! It runs as the user of the server, so without this it could read the data directory, connect to the server as its
//! owner and start programs. Two steps, because threads inherit the one and share the other: [`confine`] before the
//! first thread is started, [`Confined::seal`] after the last one, before the first client is served. Each layer
//! alone refuses the worst; what the kernel does not have is reported, never passed over. Main thread.

#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
use other as system;

use rte_protocol::bridge::{GatewayConfig, SandboxMode, SandboxReport};
use std::net::SocketAddr;

/// A process whose file system and limits are cut, but whose system calls are not.
#[derive(Debug)]
pub struct Confined {
    mode: SandboxMode,
    report: SandboxReport,
}

/// Gives up the file system, new privileges, and memory beyond the limit. Before any thread is started.
pub fn confine(config: &GatewayConfig) -> Confined {
    let mut report = SandboxReport::default();
    if config.memory_limit_bytes > 0 {
        match system::limit_memory(config.memory_limit_bytes) {
            Ok(()) => report.memory_bytes = Some(config.memory_limit_bytes),
            Err(e) => report.missing.push(format!("a limit of memory ({e})")),
        }
    }
    if config.sandbox != SandboxMode::Off {
        system::confine(&mut report);
    }
    Confined { mode: config.sandbox, report }
}

impl Confined {
    /// Gives up all system calls but those that serving takes, in every thread, then tries what must not work; none
    /// where nothing was to be given up. `own` is an address that this process listens on.
    pub fn seal(mut self, config: &GatewayConfig, own: Option<SocketAddr>) -> Option<SandboxReport> {
        if self.mode == SandboxMode::Off {
            return None;
        }
        system::seal(&mut self.report);
        self.report.attempts = system::attempts(&config.postgres_socket, own);
        Some(self.report)
    }
}
