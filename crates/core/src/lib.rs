//! The decisions of whagons_rte, without Postgres, sockets, clock or random source.
//!
//! What needs a time or an id gets it as an argument, so that a seeded test replays any interleaving.
//! Pure, any thread.

pub mod auth;
pub mod cursor;
pub mod gathered;
pub mod held;
pub mod integrity;
pub mod router;
pub mod session;
pub mod snapshot;
pub mod tenants;

pub use cursor::{Cursor, CursorError};
pub use held::{Held, HeldError};
pub use snapshot::{Snapshot, Xid};
