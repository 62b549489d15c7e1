//! What is known of the table that a condition is about: the columns that may be named in it. Copied from the relation
//! cache without a lock on the table. Main thread only, in a transaction.

use super::types;
use crate::compat;
use crate::refusal::Refusal;
use pgrx::pg_sys::{self, Oid};
use rte_protocol::wire::ErrorCode;
use std::cell::RefCell;

/// A column that the role may read and that is registered.
#[derive(Debug, Clone, Copy)]
pub struct Readable<'a> {
    pub name: &'a str,
    pub number: i16,
}

pub(super) struct Table {
    schema: String,
    name: String,
    columns: Vec<Column>,
    /// Enums and ranges of the readable columns: the types besides Postgres' own that a cast may name.
    pub(super) own_types: Vec<OwnType>,
    /// Types that were met, and whether a condition may work with them: a condition has few types and many values.
    met: RefCell<Vec<(Oid, bool)>>,
}

pub(super) struct Column {
    pub(super) name: String,
    pub(super) number: i16,
    pub(super) type_oid: Oid,
    pub(super) typmod: i32,
    pub(super) collation: Oid,
}

pub(super) struct OwnType {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) oid: Oid,
}

impl Table {
    pub(super) fn load(relation: Oid, readable: &[Readable]) -> Result<Self, Refusal> {
        // SAFETY: a reference of the relation cache, given back here; what is kept is copied.
        let table = unsafe {
            let rel = crate::unlocked::refer(relation);
            if rel.is_null() {
                return Err(Refusal::new(ErrorCode::UnknownTable, "no such table", ""));
            }
            let desc = (*rel).rd_att;
            let columns = readable.iter().filter_map(|r| column(desc, r)).collect();
            let name = compat::name(&(*(*rel).rd_rel).relname);
            let schema = compat::schema_name((*(*rel).rd_rel).relnamespace);
            pg_sys::RelationClose(rel);
            Self { schema, name, columns, own_types: Vec::new(), met: RefCell::default() }
        };
        Ok(table.with_own_types())
    }

    fn with_own_types(mut self) -> Self {
        let mut oids: Vec<Oid> = self.columns.iter().map(|c| types::innermost(c.type_oid)).collect();
        oids.retain(|oid| !types::is_built_in(*oid) && types::allowed(*oid));
        oids.sort_unstable_by_key(|oid| oid.to_u32());
        oids.dedup();
        self.own_types = oids
            .into_iter()
            .filter_map(|oid| {
                // SAFETY: in a transaction.
                let (schema, name) = unsafe { compat::type_name(oid) }?;
                Some(OwnType { schema, name, oid })
            })
            .collect();
        self
    }

    /// Whether a condition may work with values of the type.
    pub(super) fn allows(&self, type_oid: Oid) -> bool {
        let mut met = self.met.borrow_mut();
        if let Some((_, allowed)) = met.iter().find(|(oid, _)| *oid == type_oid) {
            return *allowed;
        }
        let allowed = types::allowed(type_oid);
        met.push((type_oid, allowed));
        allowed
    }

    /// The column that a client names: `column`, `table.column` or `schema.table.column`.
    pub(super) fn column(&self, names: &[&str]) -> Option<&Column> {
        let (name, qualifiers) = names.split_last()?;
        let fits = match qualifiers {
            [] => true,
            [table] => *table == self.name,
            [schema, table] => *schema == self.schema && *table == self.name,
            _ => false,
        };
        self.columns.iter().find(|c| fits && c.name == *name)
    }
}

/// # Safety
/// The descriptor of an open relation.
unsafe fn column(desc: pg_sys::TupleDesc, readable: &Readable) -> Option<Column> {
    // SAFETY: in bounds.
    let attribute = unsafe {
        let place = usize::try_from(readable.number).ok()?.checked_sub(1)?;
        if place >= usize::try_from((*desc).natts).ok()? {
            return None;
        }
        compat::attribute(desc, place)
    };
    // A virtual generated column has no value in a row's image.
    if attribute.attisdropped || attribute.attgenerated as u8 == b'v' {
        return None;
    }
    Some(Column {
        name: readable.name.to_owned(),
        number: readable.number,
        type_oid: attribute.atttypid,
        typmod: attribute.atttypmod,
        collation: attribute.attcollation,
    })
}
