//! Capture from the WAL: Postgres' logical decoding, in the feeder's own process.
//!
//! [`plugin`] is the output plugin, in this very library; [`decoder`] reads the WAL and drives it; [`image`] makes of decoded
//! tuples what capture by trigger makes of its own; [`caches`] keeps what the present knows apart from what the past knew;
//! [`position`] says how far there is to read, and up to where the change log holds everything. Decides which changes
//! there were, not who gets them. Main thread of a feeder only.
//!
//! **Who captures a change.** The triggers of a table are its mode: enabled, they capture; there and disabled, the WAL is
//! read. A transaction that has written a table holds a lock on it until its end which `ALTER TABLE … TRIGGER` waits for,
//! so each transaction is captured, in each table, wholly by one or wholly by the other. Decoding sees the catalogs as they
//! were at the change, the state of the trigger among them: it tells, for each change, which of the two it was.
//!
//! **Each change once.** Postgres decodes every transaction that commits at or after the position that decoding begins with,
//! as a whole, in the order of their commits. A tick takes those that its snapshot sees and the last one did not
//! (`worker::feeder::wal`); what it reads reaches past every commit that its snapshot sees. What a feeder delivered is
//! appended to the change log, in order, in one transaction with the position up to which that is done: so a feeder that
//! starts begins exactly behind what the log holds. The slot is told of a position only once that transaction is on disk.
//!
//! **Whatever dies.** Before the append: the position is the old one, all is decoded again, delivered by nobody (the
//! new feeder's first snapshot sees it) and appended. After the append and before the slot hears of it: the position is
//! newer than the slot's, and wins. While a slot is made: it does not exist, and no table has been switched to it. A
//! crash that loses the append loses rows and position alike. Asynchronous commits: their WAL is flushed before it is
//! read, and nothing is read that is not flushed, so nothing is told that a crash takes back. Prepared transactions are decoded
//! when they commit, by whichever feeder is there then: until that the slot holds the WAL that they began in.

pub mod caches;
mod decoder;
mod image;
mod plugin;
pub mod position;

pub use decoder::{Decoder, Lost};
pub use plugin::{Transaction, allow_here};

use pgrx::pg_sys::Oid;

/// Name of the output plugin, which is this library.
pub const PLUGIN: &str = "whagons_rte";

/// Name of the slot of a database.
pub fn slot_name(database: Oid) -> String {
    format!("whagons_rte_{}", database.to_u32())
}
