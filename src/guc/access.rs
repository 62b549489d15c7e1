//! Who is who and who may see what: tokens, roles, policies.
//!
//! A superuser may set these per database too (`ALTER DATABASE … SET`), so that tenants have their own.
//! Main thread only.

use super::declare::{Int, Switch, Text, get, get_text, int, set_text, switch, text};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;

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

pub(super) fn register() {
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

/// The role of sessions without a token, if there is one.
pub fn anon_role() -> Option<String> {
    Some(get_text(&ANON_ROLE)).filter(|role| !role.is_empty())
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
