//! Who may stay: sessions are looked at again when roles, their memberships or settings have changed.
//!
//! Such a change leaves no marker in the log by itself; Postgres' invalidations tell of it, and the feeder makes the marker, for
//! those who are away. Main thread only.

use super::Feeder;
use super::login::{NotLetIn, anonymous_is_over, role_has_changed};
use crate::access::role::{self, RoleError};
use crate::access::token;
use crate::guc;
use crate::wal::caches;
use crate::worker::process;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when roles, their memberships or the settings have changed, which leaves no marker in the log; and at first.
static ROLES_CHANGED: AtomicBool = AtomicBool::new(true);

impl Feeder {
    /// Looks again at who may stay, and at what they may read, where roles or settings have changed.
    pub(super) fn recheck_roles(&mut self) {
        if !ROLES_CHANGED.swap(false, Ordering::Relaxed) {
            return;
        }
        self.registry.invalidate();
        self.authenticator = role::authenticator();
        if let Err(why) = &self.authenticator {
            pgrx::warning!("whagons_rte lets nobody in: {why}");
        }
        self.roles_unnoted = roles_are_others();
        if self.sessions.is_empty() {
            return;
        }
        let anonymous = guc::anon_role();
        let mut known: HashMap<(String, bool), Result<Oid, RoleError>> = HashMap::new();
        let mut gone = Vec::new();
        for (session, s) in &self.sessions {
            let who = &s.who;
            if who.anonymous && anonymous.as_deref() != Some(who.name.as_str()) {
                gone.push((*session, anonymous_is_over(anonymous.is_some())));
                continue;
            }
            let now = known
                .entry((who.name.clone(), who.anonymous))
                .or_insert_with(|| role::resolve(&who.name, who.anonymous));
            match now {
                Ok(role) if *role == who.role => {}
                Ok(_) => gone.push((*session, role_has_changed())),
                Err(why) => gone.push((*session, NotLetIn::of_role(why, who.anonymous))),
            }
        }
        for why in known.values().filter_map(|r| r.as_ref().err()) {
            pgrx::warning!("whagons_rte closes sessions: {why}");
        }
        for (session, why) in gone {
            self.turn_away(session, why);
        }
        self.refresh_registry();
        self.recheck_everything();
    }

    /// Tells the log that roles have changed, so that cursors from before do not go on as if nothing had. Outside a
    /// transaction.
    pub(super) fn note_roles(&mut self) {
        if std::mem::take(&mut self.roles_unnoted) {
            process::transaction(|_| {
                if let Err(e) = Spi::run("SELECT rte._note_roles()") {
                    pgrx::error!("could not note the roles: {e}");
                }
            });
        }
    }
}

/// Whether roles or memberships differ from those that the log was last told of.
fn roles_are_others() -> bool {
    let query = "SELECT NOT EXISTS (SELECT FROM rte.role_digest d WHERE d.digest = rte._role_digest())";
    match Spi::get_one::<bool>(query) {
        Ok(others) => others.unwrap_or(true),
        Err(e) => pgrx::error!("could not look at the roles: {e}"),
    }
}

/// Makes changes of roles known to [`Feeder::recheck_roles`]. Once per process.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, DATABASEOID};
    for cache in [AUTHMEMROLEMEM, AUTHOID, DATABASEOID] {
        // SAFETY: the function has the right type and lives as long as the process.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_role_change), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_role_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    if !caches::is_no_news() {
        ROLES_CHANGED.store(true, Ordering::Relaxed);
    }
}

/// Settings were read again. Outside a transaction.
pub fn settings_changed() {
    crate::worker::process::apply_database_settings();
    token::reload();
    ROLES_CHANGED.store(true, Ordering::Relaxed);
}
