//! The key that authenticates cursors and jobs: a row of `rte.server_key`, so that standbys have it too
//! and dumps do not. Main thread, in a transaction.

/// The key of this database; empty while the extension is not there.
pub fn server_key() -> Vec<u8> {
    if crate::changelog::relation_oid("server_key").is_none() {
        return Vec::new();
    }
    pgrx::Spi::get_one::<Vec<u8>>("SELECT key FROM rte.server_key LIMIT 1").ok().flatten().unwrap_or_default()
}
