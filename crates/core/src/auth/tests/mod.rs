//! Tokens of every kind, and of every kind that is not to be accepted.

mod forged;
mod keys;
mod said;

use super::{AuthError, ClaimPath, Claims, Keys, Rules, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const SECRET: &[u8] = b"0Wv4-zP7qLx9cR2mKd8tYb5nHs3gJf6aEu1iOo0Wv4-zP7qLx9cR2mKd8tYb5nHs";

/// The published keys that tests sign with.
pub(super) fn fixture(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../../../../testkit/keys.json")).expect("keys.json");
    all[name].clone()
}

pub(super) fn jwk(name: &str) -> Value {
    fixture(name)["jwk"].clone()
}

/// A document of these keys.
pub(super) fn jwks(keys: &[Value]) -> Keys {
    let document = json!({ "keys": keys }).to_string();
    Keys::from_jwks(document.as_bytes()).expect("keys").0
}

pub(super) fn secret() -> Keys {
    Keys::from_secret(SECRET).expect("a strong secret")
}

pub(super) fn private(name: &str) -> EncodingKey {
    let der = URL_SAFE_NO_PAD.decode(fixture(name)["private"].as_str().expect("private")).expect("base64");
    match name {
        "rsa" | "short" => EncodingKey::from_rsa_der(&der),
        "ed" => EncodingKey::from_ed_der(&der),
        _ => EncodingKey::from_ec_der(&der),
    }
}

pub(super) fn rules() -> Rules {
    Rules {
        audience: None,
        issuer: None,
        leeway_s: 30,
        role_claim: ClaimPath::parse(".role").expect("path"),
        tenant_claim: ClaimPath::parse(".tenant").expect("path"),
    }
}

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs any header and payload, whatever they say.
pub(super) fn sign_texts(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).expect("signature");
    format!("{message}.{signature}")
}

pub(super) fn sign(claims: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    sign_texts(&json!({"typ": "JWT", "alg": algorithm}).to_string(), &claims.to_string(), key, algorithm)
}

pub(super) fn sign_secret(claims: &Value) -> String {
    sign(claims, &EncodingKey::from_secret(SECRET), Algorithm::HS256)
}

/// What a token with these claims, signed with the secret, comes to.
pub(super) fn said(claims: &Value, rules: &Rules) -> Result<Claims, AuthError> {
    verify(&sign_secret(claims), &secret(), rules, NOW)
}
