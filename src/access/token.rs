//! Whose a token is, by the database's settings: keys, audience, issuer, places of the claims.
//!
//! The decisions are [`rte_core::auth`]'s. The keys are kept for the process, and read again by [`reload`] where
//! settings or the file may have changed. Main thread only; needs no transaction.

use crate::guc;
use rte_core::auth::{self, AuthError, ClaimPath, Keys, Rules};
use std::cell::RefCell;
use std::io::Read as _;

/// Largest document of keys, bytes.
const MAX_DOCUMENT: u64 = 1 << 20;

/// As whom a session acts, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub role: String,
    /// The claims as a JSON object, with the role as `role`.
    pub claims: String,
    pub tenant: Option<String>,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<u64>,
    /// The role is `rte.anon_role`, because the token names none.
    pub anonymous: bool,
}

/// Why a token is not accepted, in the server's log's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("{0}")]
    Token(#[from] AuthError),
    #[error("it names no role, and rte.anon_role is not set")]
    NoRole,
    #[error("there are no keys to verify it with: set rte.jwt_secret or rte.jwt_keys")]
    NoKeys,
    #[error("a setting of rte.jwt_* is wrong, as a warning said when it was read")]
    Settings,
}

impl TokenError {
    /// What the client is told.
    pub const fn for_client(self) -> &'static str {
        match self {
            Self::Token(error) => error.for_client(),
            Self::NoRole | Self::NoKeys | Self::Settings => "the token is not accepted",
        }
    }
}

/// What tokens are verified with.
struct Verifier {
    /// None where the places of the claims are wrong.
    rules: Option<Rules>,
    /// Of the file, which outlive a broken one.
    file: Keys,
    /// All.
    keys: Keys,
}

thread_local! {
    static VERIFIER: RefCell<Option<Verifier>> = const { RefCell::new(None) };
}

/// Whether a SQL function says whose a token is. Where one is set it alone decides, and nothing is verified as a JSON Web
/// Token: with two ways in, the weaker one would count.
pub fn hook() -> Option<String> {
    guc::authenticate_function()
}

/// Verifies a token. `now`: seconds since the Unix epoch.
pub fn verify(token: &str, now: u64) -> Result<Login, TokenError> {
    VERIFIER.with_borrow_mut(|cached| {
        let verifier = cached.get_or_insert_with(|| Verifier::read(Keys::none()));
        let rules = verifier.rules.as_ref().ok_or(TokenError::Settings)?;
        if verifier.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let claims = auth::verify(token, &verifier.keys, rules, now)?;
        let (role, anonymous) = match claims.role.clone() {
            Some(role) => (role, false),
            None => (guc::anon_role().ok_or(TokenError::NoRole)?, true),
        };
        let json = claims.json_with_role(&role);
        Ok(Login { role, claims: json, tenant: claims.tenant, expires_at: claims.expires_at, anonymous })
    })
}

/// The log-in that the SQL hook's answer means. Its claims count as those of a token do: `exp`, `nbf`, `iat` and the
/// tenant's place, without leeway, since there is one clock.
pub fn of_hook(role: String, claims: String, now: u64) -> Result<Login, TokenError> {
    VERIFIER.with_borrow_mut(|cached| {
        let verifier = cached.get_or_insert_with(|| Verifier::read(Keys::none()));
        let rules = verifier.rules.as_ref().ok_or(TokenError::Settings)?;
        let claims = auth::vouched(claims, rules, now)?;
        let json = claims.json_with_role(&role);
        Ok(Login { role, claims: json, tenant: claims.tenant, expires_at: claims.expires_at, anonymous: false })
    })
}

/// Reads settings and keys again, and says in the log what is wrong with them. A broken file leaves the keys that were
/// read from it before.
pub fn reload() {
    VERIFIER.with_borrow_mut(|cached| {
        let before = cached.take().map_or_else(Keys::none, |verifier| verifier.file);
        *cached = Some(Verifier::read(before));
    });
}

/// Claims of sessions without a token, as PostgREST makes them.
pub fn anonymous_claims(role: &str) -> String {
    serde_json::json!({ "role": role }).to_string()
}

impl Verifier {
    fn read(before: Keys) -> Self {
        let file = match guc::jwt_keys() {
            None => Keys::none(),
            Some(path) => read_file(&path).unwrap_or_else(|why| {
                let kept = if before.is_empty() { "no key of it counts" } else { "the keys read before still count" };
                pgrx::warning!("whagons_rte: file \"{path}\" of rte.jwt_keys: {why}; {kept}");
                before
            }),
        };
        let secret = guc::jwt_secret().map_or_else(Keys::none, |secret| {
            Keys::from_secret(&secret).unwrap_or_else(|why| {
                pgrx::warning!("whagons_rte: rte.jwt_secret is refused: {why}");
                Keys::none()
            })
        });
        Self { rules: rules(), keys: secret.and(&file), file }
    }
}

fn rules() -> Option<Rules> {
    let place = |name: &str, text: String| {
        ClaimPath::parse(&text).map_err(|why| pgrx::warning!("whagons_rte: {name} is no place of a claim: {why}")).ok()
    };
    let role_claim = place("rte.jwt_role_claim", guc::jwt_role_claim());
    let tenant_claim = place("rte.jwt_tenant_claim", guc::jwt_tenant_claim());
    Some(Rules {
        audience: guc::jwt_audience(),
        issuer: guc::jwt_issuer(),
        leeway_s: guc::jwt_leeway_s(),
        role_claim: role_claim?,
        tenant_claim: tenant_claim?,
    })
}

/// Workers live in the data directory, so a relative path is relative to it.
fn read_file(path: &str) -> Result<Keys, String> {
    let mut document = Vec::new();
    // Opening a pipe would wait for whoever writes into it.
    if !std::fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut document).map_err(|e| e.to_string())?;
    if document.len() as u64 > MAX_DOCUMENT {
        return Err(format!("it is larger than {MAX_DOCUMENT} bytes"));
    }
    let (keys, unused) = Keys::from_jwks(&document).map_err(|e| e.to_string())?;
    for line in unused {
        pgrx::log!("whagons_rte: file \"{path}\" of rte.jwt_keys: not used: {line}");
    }
    Ok(keys)
}
