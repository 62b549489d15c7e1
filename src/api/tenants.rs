//! Tenants as SQL sees them.

use crate::shmem::{self, Extension, Kind};
use crate::{guc, tenants};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::sync::atomic::Ordering;

#[pg_extern(sql = false)]
fn rte_tenant_problem(name: Option<&str>, domain: Option<&str>, database: Option<&str>) -> Option<String> {
    let landlord = guc::landlord_database();
    rte_core::tenants::problem(name.unwrap_or_default(), domain, database.unwrap_or_default(), &landlord)
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the view")]
fn rte_tenants() -> TableIterator<
    'static,
    (
        name!(name, String),
        name!(domain, Option<String>),
        name!(database, String),
        name!(source, String),
        name!(problem, Option<String>),
    ),
> {
    let settled = tenants::registry::settled().unwrap_or_else(|e| pgrx::error!("could not read the tenants: {e}"));
    TableIterator::new(
        settled.into_iter().map(|s| (s.tenant.name, s.tenant.domain, s.tenant.database, s.source, s.problem)),
    )
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the view")]
fn rte_databases() -> TableIterator<
    'static,
    (
        name!(database, Oid),
        name!(feeder, Option<i32>),
        name!(connections, i32),
        name!(waiting, bool),
        name!(extension, String),
    ),
> {
    if !shmem::available() {
        return TableIterator::empty();
    }
    TableIterator::new(shmem::all_databases().map(|d| {
        let oid = Oid::from(d.oid.load(Ordering::Relaxed));
        let sessions = shmem::workers().find(|w| w.is(Kind::Feeder) && w.database() == oid);
        let sessions = sessions.map_or(0, |w| w.sessions.load(Ordering::Relaxed) as i32);
        let extension = match d.extension() {
            Extension::Unknown => "unknown",
            Extension::There => "there",
            Extension::Missing | Extension::Dropped => "missing",
        };
        (oid, d.feeder_pid(), sessions, d.waiting.load(Ordering::Relaxed), extension.to_owned())
    }))
}
