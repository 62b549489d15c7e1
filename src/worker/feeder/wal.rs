//! Capture from the WAL in the feeder: an open slot, and what has been decoded of it. Main thread of its own process.
#![allow(dead_code, reason = "the interface of the decoder, which is being built")]

use super::Feeder;

/// Why a slot cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("there is no such slot")]
    Missing,
    #[error("the slot is not one of ours: {0}")]
    Foreign(String),
    #[error("the server has removed what the slot needs")]
    Invalidated,
    #[error("the WAL cannot be decoded: {0}")]
    Unreadable(String),
    /// Not lost: to be tried again in a moment.
    #[error("another process reads the slot")]
    Busy,
}

/// An open slot, with all that was decoded and is not in the change log yet.
pub struct Wal {
    name: String,
}

impl Wal {
    /// Acquires the slot for this process and begins to decode where the log ends. Outside a transaction.
    pub fn open(_name: &str) -> Result<Self, Lost> {
        Err(Lost::Missing)
    }

    /// Whether everything that was decoded is in the log, and the log on its way to disk.
    pub fn is_settled(&self) -> bool {
        true
    }

    /// Bytes of WAL that the server keeps for the slot.
    pub fn lag(&self) -> u64 {
        0
    }

    /// Gives the slot up, and drops it where it is to be dropped. Outside a transaction.
    pub fn close(self, _drop: bool) {}
}

impl Feeder {
    /// Brings everything that was decoded into the log, so that [`Wal::is_settled`] holds. Outside a transaction.
    pub(super) fn settle_wal(&mut self) {}
}
