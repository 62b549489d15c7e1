//! The shapes that somebody subscribes to, and which of them a change may concern. Main thread only.

use super::rows::Rows;
use super::shape::{Kind, Shape};
use crate::access::filter::{self, Predicate};
use crate::access::identity::Identity;
use crate::changelog::Op;
use pgrx::pg_sys::Oid;
use rte_core::router::Router;
use rte_protocol::bridge::{JobId, ShapeId};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// What makes two subscriptions read the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub table: Oid,
    /// Attribute numbers.
    pub columns: Vec<i16>,
    pub rows: WhichRows,
}

/// Which rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WhichRows {
    /// Those that a predicate holds for; an empty one holds for all.
    Predicate(Predicate),
    /// Those that Postgres shows to an identity.
    Asked { identity: Rc<Identity>, tenant: Option<String>, condition: Option<String> },
}

struct OfTable {
    ids: Vec<ShapeId>,
    router: Router<ShapeId>,
}

#[derive(Default)]
pub struct Shapes {
    all: HashMap<ShapeId, Shape>,
    by_key: HashMap<Key, ShapeId>,
    keys: HashMap<ShapeId, Key>,
    by_table: HashMap<Oid, OfTable>,
    last: ShapeId,
    /// Shapes with a predicate of their own.
    filtered: usize,
    /// Shapes that Postgres is asked for.
    asked: HashSet<ShapeId>,
}

impl Shapes {
    /// The shape of a key, where somebody has it; counts one more user.
    pub fn share(&mut self, key: &Key) -> Option<ShapeId> {
        let id = *self.by_key.get(key)?;
        self.all.get_mut(&id)?.users += 1;
        Some(id)
    }

    /// Adds a shape that nobody has yet, with one user.
    pub fn insert(&mut self, key: &Key, make: impl FnOnce(ShapeId) -> Shape) -> ShapeId {
        self.last += 1;
        let id = self.last;
        let mut shape = make(id);
        shape.users = 1;
        let of_table =
            self.by_table.entry(key.table).or_insert_with(|| OfTable { ids: Vec::new(), router: Router::default() });
        of_table.ids.push(id);
        match &shape.kind {
            Kind::Whole => {}
            Kind::Filtered(_) => self.filtered += 1,
            Kind::Asked(_) => {
                self.asked.insert(id);
            }
        }
        of_table.router.insert(id, index(&shape));
        self.all.insert(id, shape);
        self.by_key.insert(key.clone(), id);
        self.keys.insert(id, key.clone());
        id
    }

    /// One user less; a shape without users is forgotten.
    pub fn release(&mut self, id: ShapeId) {
        let Some(shape) = self.all.get_mut(&id) else { return };
        shape.users = shape.users.saturating_sub(1);
        if shape.users == 0 {
            self.forget(id);
        }
    }

    /// Makes sure that no later subscription joins a shape.
    pub fn retire(&mut self, id: ShapeId) {
        self.forget(id);
    }

    fn forget(&mut self, id: ShapeId) {
        let Some(shape) = self.all.remove(&id) else { return };
        self.filtered -= usize::from(matches!(shape.kind, Kind::Filtered(_)));
        self.asked.remove(&id);
        if let Some(key) = self.keys.remove(&id)
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
        if let Some(of_table) = self.by_table.get_mut(&shape.table) {
            of_table.ids.retain(|other| *other != id);
            of_table.router.remove(id, index(&shape));
            if of_table.ids.is_empty() {
                self.by_table.remove(&shape.table);
            }
        }
    }

    pub fn get(&mut self, id: ShapeId) -> Option<&mut Shape> {
        self.all.get_mut(&id)
    }

    /// What a shape is.
    pub fn key(&self, id: ShapeId) -> Option<&Key> {
        self.keys.get(&id)
    }

    /// Takes a shape out to be worked with; [`Shapes::put_back`] follows.
    pub fn take(&mut self, id: ShapeId) -> Option<Shape> {
        self.all.remove(&id)
    }

    pub fn put_back(&mut self, shape: Shape) {
        self.all.insert(shape.id, shape);
    }

    pub fn of_table(&self, table: Oid) -> &[ShapeId] {
        self.by_table.get(&table).map_or(&[], |t| t.ids.as_slice())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Shape> {
        self.all.values_mut()
    }

    /// The shapes that a change may concern, each once.
    pub fn concerned(&self, rows: &Rows<'_>, found: &mut Vec<ShapeId>) {
        found.clear();
        let Some(of_table) = self.by_table.get(&rows.change.relation) else { return };
        if !matches!(rows.change.op, Op::Insert | Op::Update | Op::Delete) {
            found.extend_from_slice(&of_table.ids);
            return;
        }
        found.extend_from_slice(of_table.router.any());
        let before = found.len();
        for column in of_table.router.columns() {
            if rows.lacks(column) {
                found.extend(of_table.router.all_wanting(column));
                continue;
            }
            let new = matches!(rows.change.op, Op::Insert | Op::Update).then(|| rows.new_row().get(column)).flatten();
            let old = match rows.change.op {
                Op::Delete => rows.old_value(column),
                Op::Update if rows.mask.changed(column) => rows.old_value(column),
                _ => None,
            };
            for datum in [new, old].into_iter().flatten() {
                // SAFETY: a value of the column, which is of a type that has values.
                let value = unsafe { filter::value_of(rows.type_of(column), datum) };
                if let Some(value) = value {
                    found.extend_from_slice(of_table.router.wanting(column, &value));
                }
            }
        }
        if found.len() > before + 1 {
            found[before..].sort_unstable();
            found.dedup();
        }
    }

    /// Whether encoding may raise an error that is one shape's own.
    pub fn may_fail(&self) -> bool {
        self.filtered > 0
    }

    /// Whether it matters to some shape who may see what of a table.
    pub fn depend_on(&self, table: Oid) -> bool {
        let reads = |shape: &Shape| matches!(&shape.kind, Kind::Asked(asked) if asked.reads.contains(&table));
        self.by_table.contains_key(&table) || self.asked.iter().filter_map(|id| self.all.get(id)).any(reads)
    }

    /// The shapes whose predicates may ask for memberships of roles, or call functions of users.
    pub fn bound_to_roles(&self) -> impl Iterator<Item = ShapeId> {
        let bound = |key: &Key| matches!(&key.rows, WhichRows::Predicate(predicate) if predicate.role != 0);
        self.keys.iter().filter(move |(_, key)| bound(key)).map(|(id, _)| *id)
    }

    /// The snapshot of a job was taken.
    pub fn joined(&mut self, job: JobId) {
        for id in &self.asked {
            if let Some(shape) = self.all.get_mut(id) {
                shape.joins.retain(|join| join.job != job);
            }
        }
    }

    /// The shapes that Postgres is asked for.
    pub fn asked(&self) -> Vec<ShapeId> {
        self.asked.iter().copied().collect()
    }

    /// Whether some shape may change without a change in the log.
    pub fn are_restless(&self) -> bool {
        let restless = |shape: &Shape| matches!(&shape.kind, Kind::Asked(asked) if asked.is_restless());
        self.asked.iter().filter_map(|id| self.all.get(id)).any(restless)
    }

    /// The definition that shapes of a table were made with.
    pub fn definition(&self, table: Oid) -> Option<Rc<super::registry::Definition>> {
        let id = self.by_table.get(&table)?.ids.first()?;
        self.all.get(id).map(|shape| shape.definition.clone())
    }

    pub fn clear(&mut self) {
        let last = self.last;
        *self = Self { last, ..Self::default() };
    }
}

fn index(shape: &Shape) -> Option<&(i16, Vec<rte_core::router::Value>)> {
    match &shape.kind {
        Kind::Filtered(filter) => filter.index.as_ref(),
        Kind::Whole | Kind::Asked(_) => None,
    }
}
