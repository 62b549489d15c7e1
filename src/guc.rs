//! The settings `rte.*`: each declared once, with unit, range and the reason for its default
//! (`docs/SETTINGS.md` is written from here).
//!
//! Leaf. Main thread only; the gateway gets a copied [`GatewayConfig`].

use pgrx::pg_sys;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use rte_protocol::bridge::{GatewayConfig, SandboxMode};
use std::ffi::{CStr, CString};
use std::time::Duration;

type Text = GucSetting<Option<CString>>;
type Int = GucSetting<i32>;
type Switch = GucSetting<bool>;

// The database whose tables a `hello` without tenant reads. `postgres` exists in every cluster.
static LANDLORD_DATABASE: Text = GucSetting::<Option<CString>>::new(Some(c"postgres"));
// Loopback until told otherwise: closed by default.
static LISTEN_ADDRESSES: Text = GucSetting::<Option<CString>>::new(Some(c"127.0.0.1"));
// 8080 and 8081 are commonly taken on developers' machines.
static PORT: Int = GucSetting::<i32>::new(8082);
// Nobody gets in without a token unless an administrator says as whom.
static ANON_ROLE: Text = GucSetting::<Option<CString>>::new(Some(c""));
// No token counts until an administrator says which keys make one, and as whom query workers connect.
static JWT_SECRET: Text = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_KEYS: Text = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_AUDIENCE: Text = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_ISSUER: Text = GucSetting::<Option<CString>>::new(Some(c""));
// What machines' clocks differ by where nobody looks after them; PostgREST's.
static JWT_LEEWAY: Int = GucSetting::<i32>::new(30);
// PostgREST's and Supabase's place of the role.
static JWT_ROLE_CLAIM: Text = GucSetting::<Option<CString>>::new(Some(c".role"));
static JWT_TENANT_CLAIM: Text = GucSetting::<Option<CString>>::new(Some(c".tenant"));
// A token that names no tenant would be good for all of them.
static REQUIRE_TENANT_CLAIM: Switch = GucSetting::<bool>::new(true);
static AUTHENTICATOR_ROLE: Text = GucSetting::<Option<CString>>::new(Some(c""));
static AUTHENTICATE_FUNCTION: Text = GucSetting::<Option<CString>>::new(Some(c""));
// A feeder that asks Postgres for rows serves nobody meanwhile.
static POLICY_TIMEOUT: Int = GucSetting::<i32>::new(1_000);
// Policies that depend on the clock take effect within a second.
static POLICY_RECHECK_INTERVAL: Int = GucSetting::<i32>::new(1_000);
// Keys that a feeder keeps of what a session sees; about 100 bytes each.
static MAX_ASKED_ROWS: Int = GucSetting::<i32>::new(50_000);
// As long as a client may keep a snapshot waiting.
static STATEMENT_TIMEOUT: Int = GucSetting::<i32>::new(30_000);
static ALLOWED_ORIGINS: Text = GucSetting::<Option<CString>>::new(Some(c""));
// Databases that may be captured at once: a few hundred tenants. Each holds about 25 kB of shared memory, all 6.4 MB.
static MAX_DATABASES: Int = GucSetting::<i32>::new(256);
// Far more than workers can take turns for; a table that was named by mistake must not fill the gateway.
static MAX_TENANTS: Int = GucSetting::<i32>::new(10_000);
// A tenant is served once it is registered: nobody wants to log in to its database first.
static AUTO_CREATE_EXTENSION: Switch = GucSetting::<bool>::new(true);
// Outlives a page's reload and a network's failure, and a tenant at night costs nothing.
static FEEDER_IDLE_TIMEOUT: Int = GucSetting::<i32>::new(60);
// Time for all clients of a tenant to be let in, to resume or read small snapshots, and to be sent what they missed.
static FEEDER_MIN_TURN: Int = GucSetting::<i32>::new(2000);
// Zero: half of the worker slots that are not the launchers', so that every feeder finds a query worker.
static MAX_FEEDERS: Int = GucSetting::<i32>::new(0);
// A client that is away over a weekend's night resumes; one that is away longer reads a snapshot.
static RETENTION: Int = GucSetting::<i32>::new(24 * 60);
// Large enough for a day of moderate load, small enough for any disk.
static MAX_LOG_SIZE: Int = GucSetting::<i32>::new(1024);
// Recent ticks, so that a reconnect storm does not read the log: some seconds of heavy load.
static HISTORY_SIZE: Int = GucSetting::<i32>::new(64 * 1024);
// Replaying more than this costs more than a snapshot.
static MAX_CATCH_UP_SIZE: Int = GucSetting::<i32>::new(256 * 1024);
// Upper bound of the pause between ticks under load: below what a person notices.
static MAX_TICK_INTERVAL: Int = GucSetting::<i32>::new(20);
// The wake at commit is a hint (COMMIT PREPARED does not send it); this backs it up.
static POLL_INTERVAL: Int = GucSetting::<i32>::new(500);
// Snapshots that are read at once in a database; each takes a background worker slot.
static QUERY_WORKERS: Int = GucSetting::<i32>::new(2);
static QUERY_WORKER_IDLE_TIMEOUT: Int = GucSetting::<i32>::new(60);
// One thread carries thousands of connections; a second keeps one busy core from delaying the rest.
static IO_THREADS: Int = GucSetting::<i32>::new(2);
static HELLO_TIMEOUT: Int = GucSetting::<i32>::new(10_000);
// A feeder is up within a second; this leaves time for a database that is created, and for a free worker slot.
static TENANT_START_TIMEOUT: Int = GucSetting::<i32>::new(10_000);
// Below the 60 s after which common proxies cut an idle connection.
static HEARTBEAT_INTERVAL: Int = GucSetting::<i32>::new(25_000);
static STALL_TIMEOUT: Int = GucSetting::<i32>::new(30_000);
static MAX_CONNECTIONS: Int = GucSetting::<i32>::new(20_000);
static MAX_CONNECTIONS_PER_ADDRESS: Int = GucSetting::<i32>::new(20_000);
static MAX_SUBSCRIPTIONS: Int = GucSetting::<i32>::new(200);
// A list of a thousand uuids fits; analysing the largest takes some tenths of a second at worst, and the feeder waits.
static MAX_WHERE_SIZE: Int = GucSetting::<i32>::new(64);
// A client sends small messages; a megabyte leaves room for writes with documents in them.
static MAX_FRAME_SIZE: Int = GucSetting::<i32>::new(1024);
static CLIENT_QUEUE_SIZE: Int = GucSetting::<i32>::new(16 * 1024);
// With ten times as many at once, so that all clients of a full server behind one proxy may come back together. One costs
// the gateway about 0.1 ms: an address may take a fifth of a core.
static MAX_HANDSHAKES_PER_SECOND: Int = GucSetting::<i32>::new(2000);
// Ten times as many at once. Clients send a few; a bulk of subscriptions or writes sends some thousands.
static MAX_MESSAGES_PER_SECOND: Int = GucSetting::<i32>::new(1000);
// People's browsers never come near, behind one office's address neither; guessing takes millions.
static MAX_FAILED_TOKENS: Int = GucSetting::<i32>::new(100);
// Empty: on loopback its own names, elsewhere any, for only the administrator knows them.
static ALLOWED_HOSTS: Text = GucSetting::<Option<CString>>::new(Some(c""));
// All that the kernel has; `required` would keep a server with an old kernel from serving.
static GATEWAY_SANDBOX: GucSetting<Sandbox> = GucSetting::<Sandbox>::new(Sandbox::On);
// 20,000 idle clients take 0.1 GB; the rest is a hundred full queues, or a row of 1 GB on its way.
static GATEWAY_MEMORY_LIMIT: Int = GucSetting::<i32>::new(2048);

/// Values of `rte.gateway_sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Sandbox {
    #[name = c"off"]
    Off,
    #[name = c"on"]
    On,
    #[name = c"required"]
    Required,
}

/// Declares every setting. Called once, when the library is loaded.
pub fn register() {
    use GucContext::Sighup;
    // Only the postmaster may declare settings of its own; a library that is loaded later has no use for them.
    // SAFETY: plain read of a flag of the postmaster's.
    let postmaster = if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        || GucContext::Postmaster
    } else {
        || Sighup
    };
    let ms = GucFlags::UNIT_MS;
    let kb = GucFlags::UNIT_KB;
    let none = GucFlags::default();

    text(
        c"rte.landlord_database",
        c"Database whose tables clients without a tenant read.",
        &LANDLORD_DATABASE,
        postmaster(),
    );
    text(c"rte.listen_addresses", c"Host names or addresses that the gateway listens on.", &LISTEN_ADDRESSES, Sighup);
    register_tokens();
    text(
        c"rte.allowed_origins",
        c"Origins that browsers may come from besides the gateway's own; * is any.",
        &ALLOWED_ORIGINS,
        Sighup,
    );

    int(c"rte.port", c"TCP port of the gateway.", &PORT, 1, 65_535, Sighup, none);
    int(
        c"rte.max_databases",
        c"Databases whose changes may be captured at once.",
        &MAX_DATABASES,
        1,
        1024,
        postmaster(),
        none,
    );
    int(
        c"rte.max_tenants",
        c"Tenants that are served; further ones are left out.",
        &MAX_TENANTS,
        0,
        1_000_000,
        Sighup,
        none,
    );
    switch(
        c"rte.auto_create_extension",
        c"Creates the extension in the databases of tenants.",
        &AUTO_CREATE_EXTENSION,
        Sighup,
    );
    int(
        c"rte.feeder_idle_timeout",
        c"Time without clients after which the feeder of a tenant ends.",
        &FEEDER_IDLE_TIMEOUT,
        1,
        86_400,
        Sighup,
        GucFlags::UNIT_S,
    );
    int(
        c"rte.feeder_min_turn",
        c"Time that the feeder of a tenant serves before it makes room for another tenant.",
        &FEEDER_MIN_TURN,
        0,
        3_600_000,
        Sighup,
        ms,
    );
    int(
        c"rte.max_feeders",
        c"Feeders of tenants at once; 0 derives it from max_worker_processes.",
        &MAX_FEEDERS,
        0,
        1024,
        Sighup,
        none,
    );
    int(
        c"rte.retention",
        c"How long the change log is kept for clients that come back.",
        &RETENTION,
        1,
        60 * 24 * 365,
        Sighup,
        GucFlags::UNIT_MIN,
    );
    int(
        c"rte.max_log_size",
        c"Size of the change log of a database, past which its oldest part is cut.",
        &MAX_LOG_SIZE,
        8,
        1 << 20,
        Sighup,
        GucFlags::UNIT_MB,
    );
    int(c"rte.history_size", c"Memory of a feeder for recent ticks.", &HISTORY_SIZE, 64, 1 << 24, Sighup, kb);
    int(
        c"rte.max_catch_up_size",
        c"Changes that a resuming client is sent at most; beyond it gets a snapshot.",
        &MAX_CATCH_UP_SIZE,
        64,
        1 << 24,
        Sighup,
        kb,
    );
    int(c"rte.max_tick_interval", c"Longest pause between ticks under load.", &MAX_TICK_INTERVAL, 0, 1000, Sighup, ms);
    int(
        c"rte.poll_interval",
        c"How often a feeder looks for changes that no commit announced.",
        &POLL_INTERVAL,
        10,
        60_000,
        Sighup,
        ms,
    );
    int(c"rte.query_workers", c"Query workers per database.", &QUERY_WORKERS, 1, 64, Sighup, none);
    int(
        c"rte.query_worker_idle_timeout",
        c"Time after which an idle query worker ends.",
        &QUERY_WORKER_IDLE_TIMEOUT,
        1,
        86_400,
        Sighup,
        GucFlags::UNIT_S,
    );
    int(c"rte.io_threads", c"Threads of the gateway that serve connections.", &IO_THREADS, 1, 64, postmaster(), none);
    int(c"rte.hello_timeout", c"Time for a connection to say hello.", &HELLO_TIMEOUT, 100, 600_000, Sighup, ms);
    int(
        c"rte.tenant_start_timeout",
        c"Time for the feeder of a tenant's database to come up while clients wait for it.",
        &TENANT_START_TIMEOUT,
        100,
        600_000,
        Sighup,
        ms,
    );
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

    // SAFETY: the prefix is a static C string; from here on misspelt rte.* settings are reported.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"rte".as_ptr()) };
}

/// Who is who. A superuser may set these per database too (`ALTER DATABASE … SET`), so that tenants have their own.
fn register_tokens() {
    use GucContext::Suset;
    let secret = GucFlags::SUPERUSER_ONLY;
    let what = c"Shared secret of tokens that are signed with HS256, HS384 or HS512.";
    GucRegistry::define_string_guc(c"rte.jwt_secret", what, c"", &JWT_SECRET, Suset, secret);
    text(c"rte.anon_role", c"Role of clients without a token; empty means that a token is needed.", &ANON_ROLE, Suset);
    text(c"rte.jwt_keys", c"File with the keys of tokens (JWKS), relative to the data directory.", &JWT_KEYS, Suset);
    text(c"rte.jwt_audience", c"What a token's claim aud must be or hold; empty is anything.", &JWT_AUDIENCE, Suset);
    text(c"rte.jwt_issuer", c"What a token's claim iss must be; empty is anything.", &JWT_ISSUER, Suset);
    int(
        c"rte.jwt_leeway",
        c"What the clocks of the tokens' issuer and of this server may differ by.",
        &JWT_LEEWAY,
        0,
        600,
        Suset,
        GucFlags::UNIT_S,
    );
    text(c"rte.jwt_role_claim", c"Place of the role in a token's claims.", &JWT_ROLE_CLAIM, Suset);
    text(c"rte.jwt_tenant_claim", c"Place of the tenant in a token's claims.", &JWT_TENANT_CLAIM, Suset);
    switch(
        c"rte.require_tenant_claim",
        c"Whether a token must name the tenant whose database it is used in.",
        &REQUIRE_TENANT_CLAIM,
        Suset,
    );
    text(
        c"rte.authenticator_role",
        c"Role that query workers connect as; tokens may name the roles that are granted to it.",
        &AUTHENTICATOR_ROLE,
        Suset,
    );
    text(
        c"rte.authenticate_function",
        c"SQL function that is asked whose a token is; empty means that tokens are JSON Web Tokens.",
        &AUTHENTICATE_FUNCTION,
        Suset,
    );
    int(
        c"rte.policy_timeout",
        c"Time that a feeder may take to ask for rows whose policies it cannot evaluate on the row alone.",
        &POLICY_TIMEOUT,
        1,
        600_000,
        Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"rte.policy_recheck_interval",
        c"How often rows are asked for again whose policies depend on the clock.",
        &POLICY_RECHECK_INTERVAL,
        10,
        86_400_000,
        Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"rte.max_asked_rows",
        c"Rows of a subscription whose policies cannot be evaluated on the row alone.",
        &MAX_ASKED_ROWS,
        1,
        100_000_000,
        Suset,
        GucFlags::default(),
    );
    int(
        c"rte.statement_timeout",
        c"Time that a query for a client may run without sending anything.",
        &STATEMENT_TIMEOUT,
        0,
        86_400_000,
        Suset,
        GucFlags::UNIT_MS,
    );
}

fn text(name: &'static CStr, what: &'static CStr, setting: &'static Text, context: GucContext) {
    GucRegistry::define_string_guc(name, what, c"", setting, context, GucFlags::default());
}

fn int(
    name: &'static CStr,
    what: &'static CStr,
    setting: &'static Int,
    min: i32,
    max: i32,
    context: GucContext,
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(name, what, c"", setting, min, max, context, flags);
}

/// A setting of Postgres as this process has it.
pub fn setting(name: &CStr) -> String {
    // SAFETY: a C string of the server's, or null where there is no such setting.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() { String::new() } else { CStr::from_ptr(value).to_string_lossy().into_owned() }
    }
}

/// The search path that this session began with.
pub fn usual_search_path() -> String {
    // SAFETY: a setting of Postgres' own; a C string.
    unsafe {
        CStr::from_ptr(pg_sys::GetConfigOptionResetString(c"search_path".as_ptr())).to_string_lossy().into_owned()
    }
}

fn switch(name: &'static CStr, what: &'static CStr, setting: &'static Switch, context: GucContext) {
    GucRegistry::define_bool_guc(name, what, c"", setting, context, GucFlags::default());
}

fn get_text(setting: &Text) -> String {
    setting.get().map(|s| s.to_string_lossy().trim().to_owned()).unwrap_or_default()
}

#[allow(clippy::cast_sign_loss, reason = "every integer setting has a positive range")]
fn get(setting: &Int) -> u64 {
    setting.get() as u64
}

fn get_list(setting: &Text) -> Vec<String> {
    get_text(setting).split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

pub fn landlord_database() -> String {
    get_text(&LANDLORD_DATABASE)
}

/// The role of sessions without a token, if there is one.
pub fn anon_role() -> Option<String> {
    Some(get_text(&ANON_ROLE)).filter(|role| !role.is_empty())
}

fn set_text(setting: &Text) -> Option<String> {
    Some(get_text(setting)).filter(|text| !text.is_empty())
}

/// The shared secret of tokens, as it was set.
pub fn jwt_secret() -> Option<Vec<u8>> {
    JWT_SECRET.get().map(CString::into_bytes).filter(|secret| !secret.is_empty())
}

/// Path of the JWKS file.
pub fn jwt_keys() -> Option<String> {
    set_text(&JWT_KEYS)
}

pub fn jwt_audience() -> Option<String> {
    set_text(&JWT_AUDIENCE)
}

pub fn jwt_issuer() -> Option<String> {
    set_text(&JWT_ISSUER)
}

pub fn jwt_leeway_s() -> u64 {
    get(&JWT_LEEWAY)
}

pub fn jwt_role_claim() -> String {
    get_text(&JWT_ROLE_CLAIM)
}

pub fn jwt_tenant_claim() -> String {
    get_text(&JWT_TENANT_CLAIM)
}

pub fn require_tenant_claim() -> bool {
    REQUIRE_TENANT_CLAIM.get()
}

/// The role that query workers connect as, if one is set.
pub fn authenticator_role() -> Option<String> {
    set_text(&AUTHENTICATOR_ROLE)
}

/// The function that is asked whose a token is, as it was set.
pub fn authenticate_function() -> Option<String> {
    set_text(&AUTHENTICATE_FUNCTION)
}

pub fn policy_timeout_ms() -> u64 {
    get(&POLICY_TIMEOUT)
}

pub fn policy_recheck_interval() -> std::time::Duration {
    std::time::Duration::from_millis(get(&POLICY_RECHECK_INTERVAL))
}

pub fn max_asked_rows() -> usize {
    get(&MAX_ASKED_ROWS) as usize
}

/// 0 is no limit.
pub fn statement_timeout_ms() -> u64 {
    get(&STATEMENT_TIMEOUT)
}

pub fn max_databases() -> usize {
    get(&MAX_DATABASES) as usize
}

pub fn max_tenants() -> usize {
    get(&MAX_TENANTS) as usize
}

pub fn auto_create_extension() -> bool {
    AUTO_CREATE_EXTENSION.get()
}

pub fn feeder_idle_timeout() -> Duration {
    Duration::from_secs(get(&FEEDER_IDLE_TIMEOUT))
}

pub fn feeder_min_turn_ms() -> u64 {
    get(&FEEDER_MIN_TURN)
}

/// Feeders of tenants at once. Our launcher and that of logical replication have a slot each; of the rest one half is for
/// feeders, the landlord's among them, the other for their query workers.
pub fn max_feeders() -> usize {
    match get(&MAX_FEEDERS) as usize {
        0 => (max_worker_processes().saturating_sub(2) / 2).saturating_sub(1).max(1),
        set => set,
    }
}

pub fn max_worker_processes() -> usize {
    // SAFETY: a plain read of a setting that does not change.
    usize::try_from(unsafe { pg_sys::max_worker_processes }).unwrap_or(0)
}

pub fn tenant_start_timeout() -> Duration {
    Duration::from_millis(get(&TENANT_START_TIMEOUT))
}

pub fn retention_us() -> i64 {
    i64::from(RETENTION.get()) * 60 * 1_000_000
}

pub fn max_log_bytes() -> u64 {
    get(&MAX_LOG_SIZE) << 20
}

pub fn history_bytes() -> usize {
    (get(&HISTORY_SIZE) << 10) as usize
}

pub fn max_catch_up_bytes() -> usize {
    (get(&MAX_CATCH_UP_SIZE) << 10) as usize
}

pub fn max_tick_interval_us() -> u64 {
    get(&MAX_TICK_INTERVAL) * 1000
}

pub fn poll_interval_ms() -> u64 {
    get(&POLL_INTERVAL)
}

pub fn heartbeat_ms() -> u64 {
    get(&HEARTBEAT_INTERVAL)
}

pub fn max_where_bytes() -> usize {
    (get(&MAX_WHERE_SIZE) << 10) as usize
}

pub fn query_workers() -> usize {
    get(&QUERY_WORKERS) as usize
}

pub fn query_worker_idle_timeout_ms() -> u64 {
    get(&QUERY_WORKER_IDLE_TIMEOUT) * 1000
}

pub fn stall_timeout_ms() -> u64 {
    get(&STALL_TIMEOUT)
}

/// Path of the bridge's socket, relative to the data directory; empty while no gateway runs.
pub fn bridge_path() -> String {
    crate::shmem::bridge_path()
}

/// `whagons_rte x.y.z`
pub const SERVER: &str = concat!("whagons_rte ", env!("CARGO_PKG_VERSION"));

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
