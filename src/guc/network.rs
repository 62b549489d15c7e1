//! The gateway: where it listens, whom it lets in, what a client may cost. Copied to it by `gateway_config`.
//! Main thread only.

use super::declare::{Int, Text, get, int, postmaster, text};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;

// Loopback until told otherwise: closed by default.
pub(super) static LISTEN_ADDRESSES: Text = GucSetting::<Option<CString>>::new(Some(c"127.0.0.1"));
// 8080 and 8081 are commonly taken on developers' machines.
pub(super) static PORT: Int = GucSetting::<i32>::new(8082);
pub(super) static ALLOWED_ORIGINS: Text = GucSetting::<Option<CString>>::new(Some(c""));
// One thread carries thousands of connections; a second keeps one busy core from delaying the rest.
pub(super) static IO_THREADS: Int = GucSetting::<i32>::new(2);
pub(super) static HELLO_TIMEOUT: Int = GucSetting::<i32>::new(10_000);
// Below the 60 s after which common proxies cut an idle connection.
pub(super) static HEARTBEAT_INTERVAL: Int = GucSetting::<i32>::new(25_000);
pub(super) static STALL_TIMEOUT: Int = GucSetting::<i32>::new(30_000);
pub(super) static MAX_CONNECTIONS: Int = GucSetting::<i32>::new(20_000);
pub(super) static MAX_CONNECTIONS_PER_ADDRESS: Int = GucSetting::<i32>::new(20_000);
pub(super) static MAX_SUBSCRIPTIONS: Int = GucSetting::<i32>::new(200);
// A list of a thousand uuids fits; analysing the largest takes some tenths of a second at worst, and the feeder waits.
static MAX_WHERE_SIZE: Int = GucSetting::<i32>::new(64);
// A client sends small messages; a megabyte leaves room for writes with documents in them.
pub(super) static MAX_FRAME_SIZE: Int = GucSetting::<i32>::new(1024);
pub(super) static CLIENT_QUEUE_SIZE: Int = GucSetting::<i32>::new(16 * 1024);
// The fastest makes a third of a large message at 330 MB/s of one core; the others win little and cost much more.
pub(super) static COMPRESSION_LEVEL: Int = GucSetting::<i32>::new(1);
// What fits a packet arrives no sooner for being smaller.
pub(super) static COMPRESSION_MIN_SIZE: Int = GucSetting::<i32>::new(1);
// With ten times as many at once, so that all clients of a full server behind one proxy may come back together. One costs
// the gateway about 0.1 ms: an address may take a fifth of a core.
pub(super) static MAX_HANDSHAKES_PER_SECOND: Int = GucSetting::<i32>::new(2000);
// Ten times as many at once. Clients send a few; a bulk of subscriptions or writes sends some thousands.
pub(super) static MAX_MESSAGES_PER_SECOND: Int = GucSetting::<i32>::new(1000);
// People's browsers never come near, behind one office's address neither; guessing takes millions.
pub(super) static MAX_FAILED_TOKENS: Int = GucSetting::<i32>::new(100);
// Empty: on loopback its own names, elsewhere any, for only the administrator knows them.
pub(super) static ALLOWED_HOSTS: Text = GucSetting::<Option<CString>>::new(Some(c""));
// All that the kernel has; `required` would keep a server with an old kernel from serving.
pub(super) static GATEWAY_SANDBOX: GucSetting<Sandbox> = GucSetting::<Sandbox>::new(Sandbox::On);
// 20,000 idle clients take 0.1 GB; the rest is a hundred full queues, or a row of 1 GB on its way.
pub(super) static GATEWAY_MEMORY_LIMIT: Int = GucSetting::<i32>::new(2048);

/// Values of `rte.gateway_sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(super) enum Sandbox {
    #[name = c"off"]
    Off,
    #[name = c"on"]
    On,
    #[name = c"required"]
    Required,
}

pub(super) fn register() {
    use GucContext::Sighup;
    let ms = GucFlags::UNIT_MS;
    let kb = GucFlags::UNIT_KB;
    let none = GucFlags::default();

    text(c"rte.listen_addresses", c"Host names or addresses that the gateway listens on.", &LISTEN_ADDRESSES, Sighup);
    text(
        c"rte.allowed_origins",
        c"Origins that browsers may come from besides the gateway's own; * is any.",
        &ALLOWED_ORIGINS,
        Sighup,
    );
    int(c"rte.port", c"TCP port of the gateway.", &PORT, 1, 65_535, Sighup, none);
    int(c"rte.io_threads", c"Threads of the gateway that serve connections.", &IO_THREADS, 1, 64, postmaster(), none);
    int(c"rte.hello_timeout", c"Time for a connection to say hello.", &HELLO_TIMEOUT, 100, 600_000, Sighup, ms);
    int(
        c"rte.heartbeat_interval",
        c"Time between heartbeats; a client that misses two is closed.",
        &HEARTBEAT_INTERVAL,
        100,
        600_000,
        Sighup,
        ms,
    );
    int(
        c"rte.stall_timeout",
        c"Time without progress after which the reader of a snapshot is closed.",
        &STALL_TIMEOUT,
        100,
        600_000,
        Sighup,
        ms,
    );
    int(c"rte.max_connections", c"Connections of clients.", &MAX_CONNECTIONS, 1, 1_000_000, Sighup, none);
    int(
        c"rte.max_connections_per_address",
        c"Connections from one address.",
        &MAX_CONNECTIONS_PER_ADDRESS,
        1,
        1_000_000,
        Sighup,
        none,
    );
    int(c"rte.max_subscriptions", c"Subscriptions of a connection.", &MAX_SUBSCRIPTIONS, 1, 100_000, Sighup, none);
    int(
        c"rte.max_where_size",
        c"Largest condition of a subscription, with its parameters.",
        &MAX_WHERE_SIZE,
        1,
        1024,
        Sighup,
        kb,
    );
    int(c"rte.max_frame_size", c"Largest frame that a client may send.", &MAX_FRAME_SIZE, 1, 1 << 20, Sighup, kb);
    int(
        c"rte.client_queue_size",
        c"Bytes that may wait for a client before it is closed as too slow.",
        &CLIENT_QUEUE_SIZE,
        64,
        1 << 21,
        Sighup,
        kb,
    );
    int(
        c"rte.compression_level",
        c"Compression of messages to WebSockets that agree to it, 1 (fast) to 9 (small); 0 is none.",
        &COMPRESSION_LEVEL,
        0,
        9,
        Sighup,
        none,
    );
    int(
        c"rte.compression_min_size",
        c"Size from which messages are compressed.",
        &COMPRESSION_MIN_SIZE,
        0,
        1 << 20,
        Sighup,
        kb,
    );
    int(
        c"rte.max_handshakes_per_second",
        c"Connections of one address in a second, ten times as many at once; 0 is any number.",
        &MAX_HANDSHAKES_PER_SECOND,
        0,
        1_000_000,
        Sighup,
        none,
    );
    int(
        c"rte.max_messages_per_second",
        c"Messages of a connection in a second, ten times as many at once; 0 is any number.",
        &MAX_MESSAGES_PER_SECOND,
        0,
        1_000_000,
        Sighup,
        none,
    );
    int(
        c"rte.max_failed_tokens",
        c"Wrong tokens of one address in a minute; 0 is any number.",
        &MAX_FAILED_TOKENS,
        0,
        1_000_000,
        Sighup,
        none,
    );
    text(
        c"rte.allowed_hosts",
        c"Host names that requests may name; * is any. Empty means loopback's own on loopback, any elsewhere.",
        &ALLOWED_HOSTS,
        Sighup,
    );
    GucRegistry::define_enum_guc(
        c"rte.gateway_sandbox",
        c"Whether the gateway gives up what it does not need, and whether it serves where it cannot.",
        c"",
        &GATEWAY_SANDBOX,
        Sighup,
        none,
    );
    int(
        c"rte.gateway_memory_limit",
        c"Memory of the gateway, past which it is started anew.",
        &GATEWAY_MEMORY_LIMIT,
        64,
        1 << 20,
        Sighup,
        GucFlags::UNIT_MB,
    );
}

pub fn heartbeat_ms() -> u64 {
    get(&HEARTBEAT_INTERVAL)
}

pub fn stall_timeout_ms() -> u64 {
    get(&STALL_TIMEOUT)
}

pub fn max_where_bytes() -> usize {
    (get(&MAX_WHERE_SIZE) << 10) as usize
}
