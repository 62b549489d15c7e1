//! Reads tenants from their sources. Waits for no lock. Main thread, in a transaction.

use crate::changelog::relation_oid;
use crate::guc;
use pgrx::pg_sys::{self, Oid};
use pgrx::spi::{self, Spi};
use rte_core::tenants::{self, Entry, Settled};

/// What is wrong with the watched table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Its name, where one is watched.
    pub table: Option<String>,
    /// Why its tenants are not served.
    pub unreadable: Option<String>,
    /// Why its changes are not noticed.
    pub unfollowed: Option<String>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    pub settled: Vec<Settled>,
    pub watched: Watched,
    /// There are more than `rte.max_tenants`.
    pub too_many: bool,
    /// Transactions of this database that are prepared, and may commit without a word.
    pub prepared: bool,
}

/// Takes the lock that reading needs, if it is free.
fn lock(oid: Oid) -> bool {
    // SAFETY: in a transaction, which keeps the lock.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessShareLock as i32) }
}

/// Reads all sources; nothing where one is locked.
///
/// # Errors
/// What SPI says; errors of Postgres are raised.
pub fn read() -> spi::Result<Option<Read>> {
    if !["registered_tenant", "watched_tenants"].iter().filter_map(|n| relation_oid(n)).all(lock) {
        return Ok(None);
    }
    let table = Spi::connect(|client| -> spi::Result<_> {
        let mut found = client.select(
            "SELECT w.relation::pg_catalog.oid AS oid, w.relation::pg_catalog.text AS name FROM rte.watched_tenants w",
            Some(1),
            &[],
        )?;
        let Some(row) = found.next() else { return Ok(None) };
        Ok(row["oid"].value::<Oid>()?.zip(row["name"].value::<String>()?))
    })?;
    if table.as_ref().is_some_and(|(oid, _)| !lock(*oid)) {
        return Ok(None);
    }
    let (unreadable, unfollowed) =
        Spi::get_two::<String, String>("SELECT unreadable, unfollowed FROM rte._watch_problem()")?;
    let prepared = Spi::get_one::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database())",
    )?;
    let mut entries = entries("SELECT * FROM rte._tenant_entries($1)")?;
    let too_many = entries.len() > guc::max_tenants();
    entries.truncate(guc::max_tenants());
    Ok(Some(Read {
        settled: tenants::settle(entries, &guc::landlord_database()),
        watched: Watched { table: table.map(|(_, name)| name), unreadable, unfollowed },
        too_many,
        prepared: prepared.unwrap_or(false),
    }))
}

/// The tenants that were registered by name, for when the watched table cannot be read.
///
/// # Errors
/// As [`read`].
pub fn read_registered() -> spi::Result<Vec<Settled>> {
    let entries = entries(
        "SELECT t.name, t.domain, t.database::pg_catalog.text AS database, 'registered'::pg_catalog.text AS source
         FROM rte.registered_tenant t ORDER BY t.name LIMIT $1",
    )?;
    Ok(tenants::settle(entries, &guc::landlord_database()))
}

/// All entries and what is wrong with them, for `rte.tenants`.
///
/// # Errors
/// As [`read`].
pub fn settled() -> spi::Result<Vec<Settled>> {
    Ok(tenants::settle(entries("SELECT * FROM rte._tenant_entries($1)")?, &guc::landlord_database()))
}

fn entries(query: &str) -> spi::Result<Vec<Entry>> {
    let most = i32::try_from(guc::max_tenants()).unwrap_or(i32::MAX).saturating_add(1);
    Spi::connect(|client| {
        let mut entries = Vec::new();
        for row in client.select(query, None, &[most.into()])? {
            entries.push(Entry {
                name: row["name"].value()?,
                domain: row["domain"].value()?,
                database: row["database"].value()?,
                source: row["source"].value()?.unwrap_or_default(),
            });
        }
        Ok(entries)
    })
}
