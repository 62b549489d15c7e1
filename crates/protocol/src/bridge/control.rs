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
    /// A line for the server's log.
    Log { level: LogLevel, message: String },
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
    /// Origins that browsers may come from; empty: same origin only; `*`: any.
    pub allowed_origins: Vec<String>,
}
