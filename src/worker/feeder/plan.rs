//! What a subscription reads: its columns, its condition, and how its rows are told from others, for the session as it is
//! now.
//!
//! Decides by asking Postgres, and refuses what cannot be decided. Two plans with equal keys read the same. Main thread only,
//! in a tick's transaction.

use super::Feeder;
use super::registry::{Refusal, Selection};
use super::shapes::{Key, WhichRows};
use crate::access::expression::{self, Readable};
use crate::access::filter::Filter;
use crate::access::identity::Identity;
use crate::access::read::Reading;
use crate::access::{self, Path};
use crate::attempt::{self, attempt};
use pgrx::pg_sys::Oid;
use rte_core::held;
use rte_protocol::bridge::SessionId;
use rte_protocol::wire::{ErrorCode, Subscription};
use std::rc::Rc;

/// Answers that are remembered while nothing changes that they depend on: a crowd that comes back asks the same.
const REMEMBERED: usize = 10_000;

/// Who asks for which rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    identity: Rc<Identity>,
    tenant: Option<String>,
    table: Oid,
    condition: Option<String>,
    params: Option<String>,
}

/// Which rows those are.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The condition on the tenant's column, and the client's own, as `node::text` makes them.
    tenant: Option<String>,
    condition: Option<String>,
    rows: WhichRows,
    /// Whether the answer of Postgres may change by itself.
    always: bool,
}

pub struct Plan {
    pub selection: Selection,
    pub key: Key,
    pub reading: Reading,
    pub identity: Rc<Identity>,
    /// Whether the answer of Postgres may change by itself.
    pub always: bool,
    /// Names what is read, for cursors; none where a cursor cannot go on.
    pub digest: Option<u64>,
}

impl Feeder {
    /// The plan of a subscription that a client asks for.
    pub(super) fn plan(&mut self, session: SessionId, wanted: &Subscription) -> Result<Plan, Refusal> {
        let role = self.role_of(session)?;
        let table = self.registry.find(&wanted.table, role)?;
        self.plan_of(session, table, wanted)
    }

    /// The plan of a subscription to a table that is known, whatever its name is now.
    pub(super) fn plan_of(&mut self, session: SessionId, table: Oid, wanted: &Subscription) -> Result<Plan, Refusal> {
        let role = self.role_of(session)?;
        let selection = self.registry.select(table, role, wanted.columns.as_deref())?;
        let Some(s) = self.sessions.get(&session) else { return Err(gone()) };
        let question = Question {
            identity: s.identity.clone(),
            tenant: s.who.tenant.clone(),
            table,
            condition: wanted.predicate.clone(),
            params: wanted.params.as_ref().filter(|params| !params.is_empty()).map(|params| format!("{params:?}")),
        };
        let judged = match self.registry.judged.get(&question) {
            Some(judged) => judged.clone(),
            None => {
                let judged = Rc::new(self.judge_rows(&question, &selection, wanted)?);
                if self.registry.judged.len() >= REMEMBERED {
                    self.registry.judged.clear();
                }
                self.registry.judged.insert(question.clone(), judged.clone());
                judged
            }
        };
        let Judged { tenant, condition, rows, always } = (*judged).clone();
        let key = Key { table, columns: selection.numbers.clone(), rows };
        let reading = Reading { relation: table.to_u32(), columns: key.columns.clone(), tenant, condition };
        let digest = digest(&wanted.id, &key);
        Ok(Plan { selection, key, reading, identity: question.identity, always, digest })
    }

    /// Which rows a session may see of a table, and wants to.
    fn judge_rows(&self, question: &Question, selection: &Selection, wanted: &Subscription) -> Result<Judged, Refusal> {
        let Question { identity, table, .. } = question;
        let tenant = tenant_condition(question, selection)?;
        let condition = match &wanted.predicate {
            None if question.params.is_some() => {
                return Err(Refusal::new(ErrorCode::InvalidParams, "params without where", ""));
            }
            None => None,
            Some(text) => {
                let columns = self.registry.readable_columns(*table, identity.role());
                let readable: Vec<Readable<'_>> =
                    columns.iter().map(|(name, number)| Readable { name, number: *number }).collect();
                let params: Vec<_> = wanted.params.iter().flatten().map(|value| Some(value.clone())).collect();
                Some(expression::parse(*table, &readable, text, &params)?.text)
            }
        };
        let path = access::path(identity, *table, selection.kind, tenant.as_deref(), condition.as_deref());
        let path = path.map_err(|error| {
            attempt::log("could not evaluate the policies of a table", &error);
            policy_failed()
        })?;
        let (rows, always) = match path {
            Path::Folded(predicate) => (WhichRows::Predicate(predicate), false),
            Path::Asked { always, .. } => {
                let (identity, tenant, condition) = (identity.clone(), tenant.clone(), condition.clone());
                (WhichRows::Asked { identity, tenant, condition }, always)
            }
        };
        Ok(Judged { tenant, condition, rows, always })
    }

    fn role_of(&self, session: SessionId) -> Result<Oid, Refusal> {
        self.sessions.get(&session).map(|s| s.who.role).ok_or_else(gone)
    }
}

impl Plan {
    /// Prepares the predicate, with the rights of the session.
    pub fn filter(&self) -> Result<Option<Filter>, Refusal> {
        let WhichRows::Predicate(predicate) = &self.key.rows else { return Ok(None) };
        if predicate.is_empty() {
            return Ok(None);
        }
        attempt(|| {
            let acting = self.identity.act();
            // SAFETY: the predicate was made for this table.
            let filter = unsafe { Filter::new(predicate, self.selection.definition.desc) };
            acting.end();
            filter
        })
        .map(Some)
        .map_err(|error| {
            attempt::log("could not prepare the policies of a table", &error);
            policy_failed()
        })
    }
}

/// The condition on the tenant's column: rows of others do not exist for the session.
fn tenant_condition(question: &Question, selection: &Selection) -> Result<Option<String>, Refusal> {
    let Some(column) = selection.tenant_column else { return Ok(None) };
    let Some(tenant) = &question.tenant else {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "the table is divided by tenants, and the session has none",
            "The token must name its tenant.",
        ));
    };
    match expression::equals(selection.table, column, tenant) {
        Ok(condition) => Ok(Some(condition.text)),
        Err(_) => Err(Refusal::new(ErrorCode::Forbidden, "the session's tenant is not one of the table's", "")),
    }
}

fn digest(id: &str, key: &Key) -> Option<u64> {
    let WhichRows::Predicate(predicate) = &key.rows else { return None };
    if predicate.reads_roles {
        return None;
    }
    // The gateway numbers the subscriptions of a connection: `number:id`.
    let id = id.split_once(':').map_or(id, |(_number, id)| id);
    let columns: Vec<u8> = key.columns.iter().flat_map(|n| n.to_be_bytes()).collect();
    Some(held::digest(&[
        id.as_bytes(),
        &key.table.to_u32().to_be_bytes(),
        &columns,
        predicate.access.as_bytes(),
        predicate.condition.as_bytes(),
        &predicate.role.to_be_bytes(),
    ]))
}

fn gone() -> Refusal {
    Refusal::new(ErrorCode::Internal, "the session is gone", "")
}

fn policy_failed() -> Refusal {
    Refusal::new(
        ErrorCode::PolicyFailed,
        "the row-level security of the table cannot be evaluated for this session",
        "The server's log says why.",
    )
}
