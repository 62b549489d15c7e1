//! The key that authenticates cursors and jobs: a row of `rte.server_key`, so that standbys have it too
//! and dumps do not. Main thread, in a transaction.

use pgrx::FromDatum as _;

/// The key of this database; empty while the extension is not there. Read below SQL, because a query worker's own role
/// may not.
pub fn server_key() -> Vec<u8> {
    let mut key = Vec::new();
    crate::changelog::for_each_row("server_key", |values, nulls| {
        // SAFETY: the table's one column is a bytea.
        if let (true, Some(found)) = (key.is_empty(), unsafe { Vec::<u8>::from_datum(values[0], nulls[0]) }) {
            key = found;
        }
    });
    key
}
