//! What the gateway is told: a copy, for it reads no setting itself. Main thread only.

use super::SERVER;
use super::declare::{get, get_list};
use super::network::{
    ALLOWED_HOSTS, ALLOWED_ORIGINS, CLIENT_QUEUE_SIZE, COMPRESSION_LEVEL, COMPRESSION_MIN_SIZE, GATEWAY_MEMORY_LIMIT,
    GATEWAY_SANDBOX, HEARTBEAT_INTERVAL, HELLO_TIMEOUT, IO_THREADS, LISTEN_ADDRESSES, MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS, MAX_FAILED_TOKENS, MAX_FRAME_SIZE, MAX_HANDSHAKES_PER_SECOND, MAX_MESSAGES_PER_SECOND,
    MAX_SUBSCRIPTIONS, PORT, STALL_TIMEOUT, Sandbox,
};
use super::tenants::{TENANT_START_TIMEOUT, landlord_database};
use pgrx::pg_sys;
use rte_protocol::bridge::{GatewayConfig, SandboxMode};
use std::ffi::CStr;

/// What the gateway needs to know, copied.
#[allow(clippy::cast_possible_truncation, reason = "ranges of the settings")]
pub fn gateway_config(bridge_path: String) -> GatewayConfig {
    GatewayConfig {
        server: SERVER.to_owned(),
        listen_addresses: get_list(&LISTEN_ADDRESSES),
        port: get(&PORT) as u16,
        bridge_path,
        landlord_database: landlord_database(),
        io_threads: get(&IO_THREADS) as u32,
        hello_timeout_ms: get(&HELLO_TIMEOUT),
        tenant_wait_ms: get(&TENANT_START_TIMEOUT),
        heartbeat_ms: get(&HEARTBEAT_INTERVAL),
        stall_timeout_ms: get(&STALL_TIMEOUT),
        max_connections: get(&MAX_CONNECTIONS) as u32,
        max_connections_per_address: get(&MAX_CONNECTIONS_PER_ADDRESS) as u32,
        max_subscriptions: get(&MAX_SUBSCRIPTIONS) as u32,
        max_frame_bytes: get(&MAX_FRAME_SIZE) << 10,
        client_queue_bytes: get(&CLIENT_QUEUE_SIZE) << 10,
        compression_level: get(&COMPRESSION_LEVEL) as u32,
        compression_min_bytes: (get(&COMPRESSION_MIN_SIZE) << 10) as u32,
        allowed_origins: get_list(&ALLOWED_ORIGINS),
        max_handshakes_per_second: get(&MAX_HANDSHAKES_PER_SECOND) as u32,
        max_messages_per_second: get(&MAX_MESSAGES_PER_SECOND) as u32,
        max_failed_tokens: get(&MAX_FAILED_TOKENS) as u32,
        allowed_hosts: get_list(&ALLOWED_HOSTS),
        sandbox: match GATEWAY_SANDBOX.get() {
            Sandbox::Off => SandboxMode::Off,
            Sandbox::On => SandboxMode::On,
            Sandbox::Required => SandboxMode::Required,
        },
        memory_limit_bytes: get(&GATEWAY_MEMORY_LIMIT) << 20,
        postgres_socket: postgres_socket(),
    }
}

/// Path of the first Unix socket of the server's own; empty where it has none.
fn postgres_socket() -> String {
    // SAFETY: settings of the server's, which do not change while it runs; null before they are read.
    let (directories, port) = unsafe { (pg_sys::Unix_socket_directories, pg_sys::PostPortNumber) };
    if directories.is_null() {
        return String::new();
    }
    // SAFETY: not null, hence a C string.
    let directories = unsafe { CStr::from_ptr(directories) }.to_string_lossy();
    let first = directories.split(',').next().unwrap_or_default().trim().trim_matches('"');
    if first.is_empty() { String::new() } else { format!("{first}/.s.PGSQL.{port}") }
}
