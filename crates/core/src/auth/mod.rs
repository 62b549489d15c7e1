//! Tokens: whether a JSON Web Token is genuine, whether it counts now and here, and what it says.
//!
//! Decides on signature, time, audience and issuer, and reads the claims. Leaves to others what keys there are, what time
//! it is, and what a role may do. Invariant: a key is used with the algorithms that were fixed when it was read, never
//! with one that a token asks for; so no public key ever serves as a shared secret, and `none` is no algorithm. The
//! cryptography is `jsonwebtoken`'s over the RustCrypto crates: they build in seconds without a C compiler and put
//! no foreign code into Postgres' processes, and their known timing weakness concerns RSA's private keys, of which
//! there are none here. Everything around the signature is ours, because the library's own check of a token reads the
//! clock. Pure.

mod jwks;
mod key;
mod path;
mod strict;
#[cfg(test)]
mod tests;
mod token;

pub use jwks::MAX_KEYS;
pub use key::{KeyError, Keys, MIN_SECRET};
pub use path::{ClaimPath, PathError};
pub use token::{Claims, MAX_TOKEN, Rules, verify, vouched};

/// Why a token is not accepted: for the server's log, of which no secret and no claim is part. Clients are told
/// [`AuthError::for_client`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("it is longer than {MAX_TOKEN} bytes")]
    TooLong,
    #[error("it is not a JSON Web Token")]
    Malformed,
    #[error("its header names an algorithm that is not supported")]
    Algorithm,
    #[error("its header has extensions (crit), which are not supported")]
    Critical,
    #[error("no key of its id (kid) and algorithm is known")]
    UnknownKey,
    #[error("its signature does not verify")]
    Signature,
    #[error("it has expired (exp)")]
    Expired,
    #[error("it is not valid yet (nbf)")]
    NotYetValid,
    #[error("it was issued in the future (iat)")]
    IssuedLater,
    #[error("it is for another audience (aud)")]
    Audience,
    #[error("it is from another issuer (iss)")]
    Issuer,
    #[error("its role claim is not a text")]
    RoleClaim,
    #[error("its tenant claim is neither a text nor an integer")]
    TenantClaim,
}

impl AuthError {
    /// What a client is told: nothing that helps to forge a better one.
    #[must_use]
    pub const fn for_client(self) -> &'static str {
        match self {
            Self::Expired => "the token has expired",
            _ => "the token is not accepted",
        }
    }
}
