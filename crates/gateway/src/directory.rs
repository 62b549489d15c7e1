//! Which feeder a tenant means. One small piece, to be replaced by the launcher's registry of tenants.
//!
//! A tenant is the name of a database whose feeder is attached or was (it may be restarting), or nothing: the
//! landlord's. I/O threads, one copy each.

use std::collections::HashMap;

/// Names a feeder's attachment; never reused in this process.
pub type FeederId = u32;

/// Where a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    At(FeederId),
    /// Its feeder is expected.
    NotYet,
    Unknown,
}

/// Names of databases and their feeders.
#[derive(Debug, Default)]
pub struct Directory {
    /// None: the feeder was attached once and is gone.
    databases: HashMap<Box<str>, Option<FeederId>>,
}

impl Directory {
    pub fn up(&mut self, name: &str, feeder: FeederId) {
        self.databases.insert(name.into(), Some(feeder));
    }

    pub fn down(&mut self, feeder: FeederId) {
        for place in self.databases.values_mut().filter(|p| **p == Some(feeder)) {
            *place = None;
        }
    }

    /// The tenant's name and where it is served.
    pub fn find(&self, tenant: Option<&str>, landlord: &str) -> Place {
        let name = tenant.unwrap_or(landlord);
        match self.databases.get(name) {
            Some(Some(feeder)) => Place::At(*feeder),
            Some(None) => Place::NotYet,
            None if name == landlord => Place::NotYet,
            None => Place::Unknown,
        }
    }
}
