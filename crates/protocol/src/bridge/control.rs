//! Between the launcher and the gateway, over a socket pair that is made before the fork: same frames.
//! When it closes, the other side is gone; a gateway then ends.

use serde::{Deserialize, Serialize};

/// Launcher → gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToGateway {
    /// The settings were read again.
    Reload { config: Box<GatewayConfig> },
    /// Close every client with 1012 (`restart`) or 1001, then end.
    Shutdown { restart: bool },
}

/// Gateway → launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToLauncher {
    /// Sockets are open.
    Listening { addresses: Vec<String> },
    /// What the gateway has given up; said once, before `Listening`, where it was told to give up anything.
    Sandboxed { report: SandboxReport },
    /// A line for the server's log.
    Log { level: LogLevel, message: String },
}

/// What a gateway is told to give up before it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    Off,
    /// What the kernel has.
    On,
    /// All of it, or the gateway does not serve.
    Required,
}

/// What a gateway has given up, as it found by trying.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReport {
    pub no_new_privs: bool,
    /// The most memory that it can have.
    pub memory_bytes: Option<u64>,
    /// The version of Landlock that refuses the file system, and the network from version 4 on.
    pub landlock_abi: Option<u32>,
    /// System calls are filtered.
    pub filtered: bool,
    /// What could not be had, and why.
    pub missing: Vec<String>,
    pub attempts: Vec<Attempt>,
}

impl SandboxReport {
    /// Whether everything could be had and nothing that was tried went through.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.attempts.iter().all(|a| a.refused)
    }
}

/// Something that a gateway tried after it had given up the right to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `open a file`
    pub what: String,
    /// The kernel's error; none where it went through.
    pub errno: Option<i32>,
    /// Whether the error says that it is not allowed.
    pub refused: bool,
}

/// Severity of a line for the server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Debug,
    Log,
    Warning,
}

/// What the gateway is told of the settings `rte.*`; durations in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayConfig {
    /// `whagons_rte x.y.z`
    pub server: String,
    /// Host names or addresses, from `rte.listen_addresses`; `*` is every address.
    pub listen_addresses: Vec<String>,
    pub port: u16,
    /// Path of the Unix socket of the bridge, relative to the data directory.
    pub bridge_path: String,
    /// The database that a `hello` without tenant means.
    pub landlord_database: String,
    pub io_threads: u32,
    pub hello_timeout_ms: u64,
    /// Time for the feeder of a tenant's database to come up while clients of the tenant wait.
    pub tenant_wait_ms: u64,
    pub heartbeat_ms: u64,
    /// Time for a snapshot's client to take the next part before it counts as too slow.
    pub stall_timeout_ms: u64,
    pub max_connections: u32,
    pub max_connections_per_address: u32,
    pub max_subscriptions: u32,
    pub max_frame_bytes: u64,
    pub client_queue_bytes: u64,
    /// Of messages to WebSockets that agree to it: 1 (fast) to 9 (small); 0: none is compressed.
    pub compression_level: u32,
    /// Messages below it are not compressed.
    pub compression_min_bytes: u32,
    /// Connections of an address in a second, about; 0: any number. So in the next two.
    pub max_handshakes_per_second: u32,
    /// Messages of a connection in a second, about.
    pub max_messages_per_second: u32,
    /// Tokens from an address that turned out wrong, in a minute.
    pub max_failed_tokens: u32,
    /// Names that a request's `Host` may have; empty: any, but on loopback only loopback's own.
    pub allowed_hosts: Vec<String>,
    pub sandbox: SandboxMode,
    /// The most memory of the gateway; 0: unbounded.
    pub memory_limit_bytes: u64,
    /// Path of a Unix socket of the server's own, to which the sandbox must refuse connections; may be empty.
    pub postgres_socket: String,
    /// Origins that browsers may come from; empty: same origin only; `*`: any.
    pub allowed_origins: Vec<String>,
}
