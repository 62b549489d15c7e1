//! From a `hello` to the feeder of its tenant: who is let through, who waits for whom and how long, and who goes when the
//! tenants change.
//!
//! While somebody waits for a tenant whose database has no feeder, the landlord's feeder is told, at once and about every
//! second. A tenant's clients are closed when it goes, is renamed or moves to another database.

use super::messages::close_code;
use super::{Hub, sweep_interval};
use crate::connection::{Conn, ConnState};
use crate::directory::{FeederId, Place};
use crate::event::{ToBridge, Unavailable};
use rte_protocol::bridge::Tenant;
use rte_protocol::wire::{CloseCode, ErrorCode};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two requests for the same database.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Hub {
    /// A `hello` that asks for this tenant. Where its feeder is not there yet, it waits.
    pub(super) fn resolve(&mut self, conn: &Rc<Conn>, state: &mut ConnState, tenant: Option<String>) {
        state.since = self.now;
        state.wanted = tenant.map(Into::into);
        if let Some(feeder) = self.place(conn, state) {
            self.attach(conn, state, feeder);
        }
    }

    /// Looks for the feeder of a session that waits for one.
    fn place(&mut self, conn: &Rc<Conn>, state: &mut ConnState) -> Option<FeederId> {
        match self.directory.find(state.wanted.as_deref()) {
            Place::At(home, feeder) => {
                if let Some(tenant) = home.tenant() {
                    self.asked.remove(tenant);
                }
                state.home = Some(home);
                // A hello can be large, and anybody may say one.
                self.held_back |= self.is_full(feeder);
                return (!self.is_full(feeder)).then_some(feeder);
            }
            Place::NoFeeder(home) => {
                let tenant = home.tenant().cloned();
                if let Some(tenant) = tenant {
                    if state.home.is_none() {
                        // Its time to wait for the database begins when it is known which one it is.
                        state.since = self.now;
                    }
                    self.need(&tenant);
                }
                state.home = Some(home);
            }
            Place::NotTold => state.home = None,
            Place::Unknown => self.unknown_tenant(conn, state),
        }
        None
    }

    /// Asks for the feeder of a tenant's database, unless it was just asked for.
    fn need(&mut self, tenant: &Rc<str>) {
        if !self.asked.get(tenant).is_some_and(|at| self.was_just(*at)) {
            self.asked.insert(tenant.clone(), self.now);
            self.tell(ToBridge::NeedDatabase { tenant: (**tenant).into() });
        }
    }

    fn attach(&mut self, conn: &Rc<Conn>, state: &mut ConnState, feeder: FeederId) {
        state.feeder = Some(feeder);
        state.wanted = None;
        let tenant = state.home.as_ref().and_then(|home| home.tenant().cloned()).unwrap_or_default();
        let mut actions = self.take_actions();
        state.session.attach(&tenant, &mut actions);
        self.carry_out(conn, state, actions);
    }

    fn unknown_tenant(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        let hint = Some("a tenant is asked for by its name or its domain");
        self.refuse(conn, state, CloseCode::NoSuchTenant, ErrorCode::UnknownTenant, "no such tenant", hint);
    }

    /// Feeders have come, or tenants have changed: who waits may go on.
    pub(super) fn place_waiting(&mut self) {
        self.each(|hub, conn, state| {
            if state.closing.is_none()
                && state.session.is_resolving()
                && let Some(feeder) = hub.place(conn, state)
            {
                hub.attach(conn, state, feeder);
                hub.catch_up_input(conn, state);
            }
        });
    }

    /// These are all tenants now.
    pub(super) fn tenants(&mut self, tenants: &[Tenant]) {
        self.directory.tell(tenants);
        // It may be another feeder of the landlord's, which was not asked for anything yet.
        self.asked.clear();
        self.each(|hub, conn, state| {
            let gone = state.home.as_ref().is_some_and(|home| !hub.directory.stands(home));
            if gone && state.closing.is_none() && !state.session.is_resolving() {
                hub.unknown_tenant(conn, state);
            }
        });
        self.place_waiting();
    }

    /// The landlord says why a tenant can not be served; who waits for it is refused.
    pub(super) fn tenant_unavailable(&mut self, why: &Unavailable) {
        self.asked.remove(why.tenant.as_str());
        let close = close_code(why.close);
        self.each(|hub, conn, state| {
            let tenant = state.home.as_ref().and_then(|home| home.tenant());
            if tenant.is_some_and(|t| **t == *why.tenant) && state.closing.is_none() && state.session.is_resolving() {
                hub.refuse(conn, state, close, why.code, &why.message, why.hint.as_deref());
            }
        });
    }

    /// A session that waits for its feeder, looked at by the sweep.
    pub(super) fn look_at_waiting(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        let waited = self.now.duration_since(state.since);
        let (close, hint) = (CloseCode::TryAgainLater, Some("try again later"));
        let tenant = state.home.as_ref().and_then(|home| home.tenant().cloned());
        let Some(tenant) = tenant else {
            if waited > Duration::from_millis(self.config.hello_timeout_ms) {
                let message = "the database's workers are not running";
                self.refuse(conn, state, close, ErrorCode::NotReady, message, hint);
            }
            return;
        };
        if waited > Duration::from_millis(self.config.tenant_wait_ms) {
            let message = "the tenant's database is not ready";
            self.refuse(conn, state, close, ErrorCode::TenantNotReady, message, hint);
        } else {
            self.need(&tenant);
        }
    }

    /// Too short a time ago to ask again. Sweeps come at intervals, so that it is about a second between two of them.
    fn was_just(&self, asked: Instant) -> bool {
        self.now.duration_since(asked) + sweep_interval(&self.config) / 2 < ASK_AGAIN
    }

    /// After a sweep: what nobody has asked for again, nobody waits for.
    pub(super) fn forget_asked(&mut self) {
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|_, at| self.was_just(*at));
        self.asked = asked;
    }
}
