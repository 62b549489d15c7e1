//! Keys that tokens are verified with, each bound to its algorithms when it is read. Pure.

use super::jwks;
use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use std::fmt;

/// Shortest shared secret, bytes: the length of the shortest hash (RFC 7518, 3.2).
pub const MIN_SECRET: usize = 32;
/// Fewer different bytes than this are no secret, however long.
const MIN_DIFFERENT: usize = 8;
/// Secrets of tutorials and of other products' examples: everybody has them.
const PUBLISHED: &[&str] = &[
    "reallyreallyreallyreallyverysafe",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-and-long-postgres-password",
    "a-string-secret-at-least-256-bits-long",
    "your-256-bit-secret-your-256-bit-secret",
];

/// Why a secret or a document of keys cannot be used. Names neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the shared secret has {0} bytes; at least {MIN_SECRET} random bytes are needed, 64 for all of HS256, HS384 and HS512"
    )]
    Short(usize),
    #[error("the shared secret is a repetition of a few characters; at least {MIN_SECRET} random bytes are needed")]
    Trivial,
    #[error("the shared secret is one of a published example; at least {MIN_SECRET} random bytes are needed")]
    Published,
    #[error("the shared secret looks like a PEM or JWK key; keys belong into a JWKS file")]
    NotASecret,
    #[error("the document of keys is not a JSON object with an array \"keys\"")]
    Document,
    #[error("the document of keys has more than {max} keys", max = jwks::MAX_KEYS)]
    TooMany,
    #[error("the document has no key that can verify a token: {0}")]
    NoneUsable(String),
}

/// All keys of a database.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
}

/// A key and the algorithms that it serves.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) material: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Keys {
    /// No keys: every token is refused.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A shared secret of HS256, and of HS384 and HS512 where it is as long as their hash.
    ///
    /// # Errors
    /// [`KeyError`] for one that could be guessed, or that is another kind of key.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let text = secret.trim_ascii_start();
        if text.starts_with(b"-----BEGIN")
            || (text.starts_with(b"{") && serde_json::from_slice::<serde_json::Value>(text).is_ok())
        {
            return Err(KeyError::NotASecret);
        }
        check_secret(secret)?;
        let material = DecodingKey::from_secret(secret);
        Ok(Self { keys: vec![Key { id: None, algorithms: hmac_algorithms(secret.len()), material }] })
    }

    /// The keys of a JWKS document (RFC 7517), and why some of its keys are not used, one line each.
    ///
    /// # Errors
    /// [`KeyError`] where it is not one, or has no key that can be used.
    pub fn from_jwks(document: &[u8]) -> Result<(Self, Vec<String>), KeyError> {
        let (keys, unused) = jwks::read(document)?;
        Ok((Self { keys }, unused))
    }

    /// These and the others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.keys.extend(others.keys.iter().cloned());
        self
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed: those with the token's id, and where none has it, or it names none, those
    /// without one; a token that names none may be of any key.
    pub(super) fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let named = id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id);
        self.keys.iter().filter(move |key| {
            let right = if named { key.id.as_deref() == id } else { id.is_none() || key.id.is_none() };
            right && key.algorithms.contains(&algorithm)
        })
    }
}

impl Key {
    /// Whether the key can be used at all, tried once when it is read.
    pub(super) fn is_sound(&self) -> bool {
        self.algorithms.iter().all(|algorithm| self.verifier(*algorithm).is_some())
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &Vec<u8>) -> bool {
        self.algorithms.contains(&algorithm)
            && self.verifier(algorithm).is_some_and(|v| v.verify(message, signature).is_ok())
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<Box<dyn JwtVerifier>> {
        (DEFAULT_PROVIDER.verifier_factory)(&algorithm, &self.material).ok()
    }
}

/// The algorithms that a secret of this length is long enough for.
pub(super) fn hmac_algorithms(len: usize) -> Vec<Algorithm> {
    [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)]
        .into_iter()
        .filter(|(_, min)| len >= *min)
        .map(|(algorithm, _)| algorithm)
        .collect()
}

/// Refuses what can be guessed.
pub(super) fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < MIN_SECRET {
        return Err(KeyError::Short(secret.len()));
    }
    let mut seen = [false; 256];
    secret.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    let different = seen.iter().filter(|seen| **seen).count();
    let repeats = (1..=secret.len() / 2).any(|period| secret[period..] == secret[..secret.len() - period]);
    let steps = secret.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count();
    if different < MIN_DIFFERENT || repeats || steps * 2 > secret.len() {
        return Err(KeyError::Trivial);
    }
    if PUBLISHED.iter().any(|known| known.as_bytes() == secret) {
        return Err(KeyError::Published);
    }
    Ok(())
}
