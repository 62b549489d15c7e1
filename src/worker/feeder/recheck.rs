//! What changes for sessions that are in: another definition of a table, other rights, another identity.
//!
//! Decides whose copies are replaced and whose subscriptions end; what comes to the same goes on undisturbed. In a tick's
//! transaction. Main thread only.

use super::Feeder;
use super::registry::Refusal;
use super::session::Subscribed;
use super::shape::Kind;
use crate::access::identity::Identity;
use pgrx::pg_sys::Oid;
use rte_protocol::bridge::{SessionId, ShapeId};
use rte_protocol::wire::Subscription;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

impl Feeder {
    /// Replaces the copies of all subscriptions of a table, or ends them where they can not be.
    pub(super) fn resynchronise(&mut self, table: Oid, reason: &str) {
        self.resynchronise_where(reason, |subscribed| subscribed.table == table);
    }

    /// Replaces the copies of all subscriptions of a shape, or ends them where they can not be.
    pub(super) fn resynchronise_shape(&mut self, shape: ShapeId, reason: &str) {
        self.resynchronise_where(reason, |subscribed| subscribed.shape == shape);
    }

    fn resynchronise_where(&mut self, reason: &str, which: impl Fn(&Subscribed) -> bool) {
        let mut affected: HashMap<SessionId, Vec<(Oid, Rc<Subscription>)>> = HashMap::new();
        let mut shapes: HashSet<ShapeId> = HashSet::new();
        for (session, s) in &self.sessions {
            let own: Vec<&Subscribed> = s.subscriptions.values().filter(|d| which(d)).collect();
            shapes.extend(own.iter().map(|d| d.shape));
            if !own.is_empty() {
                affected.insert(*session, own.iter().map(|d| (d.table, d.wanted.clone())).collect());
            }
        }
        // Nobody who subscribes from here on joins what is replaced.
        shapes.into_iter().for_each(|shape| self.shapes.retire(shape));
        for (session, subscriptions) in affected {
            let mut ids = Vec::new();
            for (table, wanted) in subscriptions {
                match self.plan_of(session, table, &wanted) {
                    Ok(plan) => {
                        if self.replace(session, wanted.clone(), &plan, reason) {
                            ids.push(wanted.id.clone());
                        }
                    }
                    Err(Refusal { code, message, hint }) => self.end(session, &wanted.id, code, message, hint),
                }
            }
            self.order_snapshot(session, &ids);
        }
    }

    /// Ends all subscriptions of a shape.
    pub(super) fn end_shape(&mut self, shape: ShapeId, why: &Refusal) {
        let mut affected = Vec::new();
        for (session, s) in &self.sessions {
            affected
                .extend(s.subscriptions.iter().filter(|(_, d)| d.shape == shape).map(|(id, _)| (*session, id.clone())));
        }
        self.shapes.retire(shape);
        for (session, id) in affected {
            self.end(session, &id, why.code, why.message.clone(), why.hint.clone());
        }
    }

    /// A session acts as somebody else, or with other claims, than before.
    pub(super) fn identity_changed(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get(&session) else { return };
        let identity = self.identity(&s.who);
        if let Some(s) = self.sessions.get_mut(&session) {
            s.identity = identity;
        }
        self.refresh_registry();
        self.recheck(|other, _| other == session);
    }

    /// Looks again at what sessions may read of some tables: access to them has changed. What it did not change for goes
    /// on undisturbed.
    pub(super) fn recheck_access(&mut self, tables: &HashSet<Oid>) {
        self.recheck(|_, subscribed| tables.contains(&subscribed.table));
        // What is asked may be answered otherwise, without a change of the question.
        for shape in self.shapes.iter_mut() {
            shape.uncertain |= tables.contains(&shape.table);
        }
    }

    /// Looks again at everything: memberships of roles have changed.
    pub(super) fn recheck_everything(&mut self) {
        for s in self.sessions.values_mut() {
            let session_user = self.authenticator.as_ref().ok().copied().flatten().map_or(0, |oid| oid.to_u32());
            if s.identity.session_user != session_user {
                s.identity = Rc::new(Identity { session_user, ..(*s.identity).clone() });
            }
        }
        self.recheck(|_, _| true);
        for shape in self.shapes.iter_mut() {
            shape.uncertain |= matches!(shape.kind, Kind::Asked(_));
        }
        let bound: Vec<ShapeId> = self.shapes.bound_to_roles().collect();
        bound.into_iter().for_each(|shape| self.resynchronise_shape(shape, "access_changed"));
    }

    fn recheck(&mut self, which: impl Fn(SessionId, &Subscribed) -> bool) {
        let mut all = Vec::new();
        for (session, s) in &self.sessions {
            let own = s.subscriptions.values().filter(|d| which(*session, d));
            all.extend(own.map(|d| (*session, d.shape, d.is_early, d.table, d.wanted.clone())));
        }
        let mut anew: HashMap<SessionId, Vec<String>> = HashMap::new();
        for (session, shape, is_early, table, wanted) in all {
            match self.plan_of(session, table, &wanted) {
                Ok(plan) if !is_early && self.shapes.key(shape) == Some(&plan.key) => {}
                Ok(plan) => {
                    if self.replace(session, wanted.clone(), &plan, "access_changed") {
                        anew.entry(session).or_default().push(wanted.id.clone());
                    }
                }
                Err(Refusal { code, message, hint }) => self.end(session, &wanted.id, code, message, hint),
            }
        }
        for (session, ids) in anew {
            self.order_snapshot(session, &ids);
        }
    }
}
