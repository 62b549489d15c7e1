//! A token from its text to its claims: form, header, signature, then time, audience and issuer, then role and
//! tenant. Nothing of the payload is looked at before the signature has verified. Pure.

use super::jwks::algorithm;
use super::key::Keys;
use super::path::ClaimPath;
use super::{AuthError, strict};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Longest token that is looked at, bytes: HTTP servers take no longer headers either.
pub const MAX_TOKEN: usize = 16 * 1024;

/// What a token must be besides genuine, and where its claims lie.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Must be, or be one of, the token's `aud`; none: any, or none.
    pub audience: Option<String>,
    /// Must be the token's `iss`; none: any, or none.
    pub issuer: Option<String>,
    /// Seconds that the clocks of issuer and server may differ by.
    pub leeway_s: u64,
    pub role_claim: ClaimPath,
    pub tenant_claim: ClaimPath,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub role: Option<String>,
    pub tenant: Option<String>,
    /// Seconds since the Unix epoch at which the token stops counting, leeway included; none: never.
    pub expires_at: Option<u64>,
    /// The payload as it was signed: a JSON object, no member of which is named twice.
    pub json: String,
}

impl Claims {
    /// The payload with this role as its claim `role`, which is where policies look for it (as with PostgREST),
    /// wherever the token had it, and if it had none. Other claims stay as they were signed.
    #[must_use]
    pub fn json_with_role(&self, role: &str) -> String {
        let Ok(members) = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(&self.json) else {
            return self.json.clone();
        };
        let Ok(quoted) = serde_json::to_string(role) else { return self.json.clone() };
        if members.get("role").and_then(|r| serde_json::from_str::<String>(r.get()).ok()).as_deref() == Some(role) {
            return self.json.clone();
        }
        let mut out = format!("{{\"role\":{quoted}");
        for (name, value) in members.iter().filter(|(name, _)| *name != "role") {
            out.push(',');
            out.push_str(&serde_json::to_string(name).unwrap_or_default());
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
        out
    }
}

/// Verifies a token and reads its claims. `now`: seconds since the Unix epoch.
///
/// # Errors
/// [`AuthError`]: the first thing that is wrong with it.
pub fn verify(token: &str, keys: &Keys, rules: &Rules, now: u64) -> Result<Claims, AuthError> {
    if token.len() > MAX_TOKEN {
        return Err(AuthError::TooLong);
    }
    let json = String::from_utf8(genuine(token, keys)?).map_err(|_| AuthError::Malformed)?;
    let claims = strict::object(json.as_bytes()).ok_or(AuthError::Malformed)?;
    let expires_at = in_time(&claims, rules.leeway_s, now)?;
    for_us(&claims, rules)?;
    let role = match rules.role_claim.find(&claims) {
        None => None,
        Some(Value::String(role)) if !role.is_empty() => Some(role.clone()),
        Some(_) => return Err(AuthError::RoleClaim),
    };
    Ok(Claims { role, tenant: tenant(&claims, rules)?, expires_at, json })
}

/// Reads claims that somebody else vouches for: of their times, by the same clock and so without leeway, and their
/// tenant. Who is let in as what role is not read from them.
///
/// # Errors
/// [`AuthError`]: the first thing that is wrong with them.
pub fn vouched(json: String, rules: &Rules, now: u64) -> Result<Claims, AuthError> {
    let claims = strict::object(json.as_bytes()).ok_or(AuthError::Malformed)?;
    let expires_at = in_time(&claims, 0, now)?;
    Ok(Claims { role: None, tenant: tenant(&claims, rules)?, expires_at, json })
}

fn tenant(claims: &Map<String, Value>, rules: &Rules) -> Result<Option<String>, AuthError> {
    match rules.tenant_claim.find(claims) {
        None => Ok(None),
        Some(Value::String(tenant)) if !tenant.is_empty() => Ok(Some(tenant.clone())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(_) => Err(AuthError::TenantClaim),
    }
}

/// The payload of a token that one of the keys signed.
fn genuine(token: &str, keys: &Keys) -> Result<Vec<u8>, AuthError> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(AuthError::Malformed);
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed);
    let head = strict::object(&decode(header)?).ok_or(AuthError::Malformed)?;
    let payload_bytes = decode(payload)?;
    let signature = decode(signature)?;
    if head.contains_key("crit") {
        return Err(AuthError::Critical);
    }
    let id = match head.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(_) => return Err(AuthError::Malformed),
    };
    let named = head.get("alg").and_then(Value::as_str).ok_or(AuthError::Malformed)?;
    let algorithm = algorithm(named).ok_or(AuthError::Algorithm)?;
    let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
    let mut known = false;
    for key in keys.candidates(id, algorithm) {
        known = true;
        if key.verifies(algorithm, message, &signature) {
            return Ok(payload_bytes);
        }
    }
    Err(if known { AuthError::Signature } else { AuthError::UnknownKey })
}

/// When the token stops counting, if it counts now.
fn in_time(claims: &Map<String, Value>, leeway: u64, now: u64) -> Result<Option<u64>, AuthError> {
    let expires_at = date(claims, "exp")?.map(|exp| exp.saturating_add(leeway));
    if expires_at.is_some_and(|at| now >= at) {
        return Err(AuthError::Expired);
    }
    let latest = now.saturating_add(leeway);
    if date(claims, "nbf")?.is_some_and(|nbf| nbf > latest) {
        return Err(AuthError::NotYetValid);
    }
    if date(claims, "iat")?.is_some_and(|iat| iat > latest) {
        return Err(AuthError::IssuedLater);
    }
    Ok(expires_at)
}

/// A NumericDate (RFC 7519, 2), its fraction cut; dates before the epoch are the epoch.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, AuthError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(n)) => {
            // A float saturates: no date is later than the last one.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            let seconds = n.as_u64().or_else(|| n.as_f64().map(|f| f as u64));
            seconds.map(Some).ok_or(AuthError::Malformed)
        }
        Some(_) => Err(AuthError::Malformed),
    }
}

fn for_us(claims: &Map<String, Value>, rules: &Rules) -> Result<(), AuthError> {
    if let Some(wanted) = &rules.audience {
        let listed = match claims.get("aud") {
            Some(Value::String(aud)) => aud == wanted,
            Some(Value::Array(all)) => all.iter().any(|aud| aud == wanted.as_str()),
            _ => false,
        };
        if !listed {
            return Err(AuthError::Audience);
        }
    }
    match &rules.issuer {
        Some(wanted) if claims.get("iss").and_then(Value::as_str) != Some(wanted) => Err(AuthError::Issuer),
        _ => Ok(()),
    }
}
