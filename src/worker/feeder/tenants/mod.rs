//! Tenants: what the landlord's feeder does for all of them, and what a tenant's feeder does beside serving.
//!
//! The landlord's feeder keeps the registry ([`landlord`]), tells the gateway, and has feeders launched for tenants whose
//! clients wait ([`launch`]). A tenant's feeder has a [`Task`]; it creates the extension where it is missing and leaves when
//! nobody needs it ([`leave`]). The gateway only asks: who is a tenant, and which database it has, is looked up here.
//! Main thread of a feeder.

mod landlord;
mod launch;
mod leave;
mod slots;

pub use landlord::Landlord;
pub use leave::{end, prepare};
pub use slots::bound_slots;

use rte_core::tenants::MAX_NAME;

/// What a feeder is launched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve the landlord database, and keep the tenants.
    Landlord,
    /// Serve this tenant for as long as it has clients.
    Serve(String),
    /// Look after the database of this tenant, which nobody is connected to: the extension, the log.
    Visit(String),
}

impl Task {
    /// As start parameters of a worker; at most one byte more than a tenant's name.
    pub fn to_text(&self) -> String {
        match self {
            Self::Landlord => String::new(),
            Self::Serve(name) => format!("s{name}"),
            Self::Visit(name) => format!("v{name}"),
        }
    }

    pub fn from_text(text: &str) -> Self {
        debug_assert!(text.len() <= MAX_NAME + 1);
        match text.split_at_checked(1) {
            Some(("s", name)) => Self::Serve(name.to_owned()),
            Some(("v", name)) => Self::Visit(name.to_owned()),
            _ => Self::Landlord,
        }
    }

    /// The tenant whose database it is.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Landlord => None,
            Self::Serve(name) | Self::Visit(name) => Some(name),
        }
    }

    /// What others compare with what they would have launched.
    pub fn hash(&self) -> u64 {
        self.tenant().map_or(0, hash)
    }
}

/// FNV-1a: the same in every process, and collisions only keep a feeder that a renamed tenant has.
pub fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
