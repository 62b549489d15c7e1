//! Tokens for tests, signed with keys that are published (`keys.json`) and so good for nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The shared secret of clusters with tokens.
pub const SECRET: &str = "kit-8Fq2Lw7Zr1Xc9Vb4Nm6Hj3Gd5Sa0Tp-kit-2Rk9Yw4Ue7Io1Pz6Cx8Vb3Nm5";

/// What a token is signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKey {
    Secret(String),
    Rsa,
    P256,
    P384,
    Ed,
}

impl TokenKey {
    fn name(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Rsa => "rsa",
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed => "ed",
        }
    }

    fn private(&self) -> EncodingKey {
        let der = || {
            let text = fixture(self.name())["private"].as_str().unwrap_or_default().to_owned();
            URL_SAFE_NO_PAD.decode(text).expect("keys.json holds base64url")
        };
        match self {
            Self::Secret(secret) => EncodingKey::from_secret(secret.as_bytes()),
            Self::Rsa => EncodingKey::from_rsa_der(&der()),
            Self::P256 | Self::P384 => EncodingKey::from_ec_der(&der()),
            Self::Ed => EncodingKey::from_ed_der(&der()),
        }
    }

    /// The algorithm that it signs with where none is named.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(_) => Algorithm::HS256,
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Ed => Algorithm::EdDSA,
        }
    }

    /// Its public part for a JWKS document, under this key id; of a secret, the secret.
    #[must_use]
    pub fn jwk(&self, id: &str) -> Value {
        let mut jwk = match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)}),
            _ => fixture(self.name())["jwk"].clone(),
        };
        jwk["kid"] = id.into();
        jwk
    }

    /// A token with these claims; the header says algorithm and, where given, key id.
    ///
    /// # Panics
    /// When the claims cannot be signed.
    #[must_use]
    pub fn sign(&self, id: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm()});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        self.sign_with_header(&header, claims)
    }

    /// A token with any header, signed with the key's own algorithm whatever the header says.
    ///
    /// # Panics
    /// When the claims cannot be signed.
    #[must_use]
    pub fn sign_with_header(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.private(), self.algorithm());
        format!("{message}.{}", signature.expect("a signature"))
    }
}

/// A token of the kit's secret for a role, good for an hour.
#[must_use]
pub fn token(role: &str) -> String {
    token_of(&json!({"role": role, "exp": unix_now() + 3600}))
}

/// A token of the kit's secret with these claims.
#[must_use]
pub fn token_of(claims: &Value) -> String {
    TokenKey::Secret(SECRET.into()).sign(None, claims)
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn fixture(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../keys.json")).expect("keys.json is JSON");
    all[name].clone()
}
