//! The registered tables as they are defined now, and what a role may read of them.
//!
//! Postgres decides: privileges are asked of its own functions. A definition holds a copy of the descriptor,
//! so that a tick takes no lock on a table and cannot wait for a schema change in progress. Main
//! thread only, in a transaction.

use super::plan::{Judged, Question};
use crate::capture;
use crate::compat;
pub use crate::refusal::Refusal;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_protocol::wire::{Column, ErrorCode, TableInfo};
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::rc::Rc;

/// A registered table.
pub struct Table {
    pub oid: Oid,
    schema: String,
    name: String,
    /// Names that a client may use for it.
    aliases: Vec<String>,
    schema_oid: Oid,
    /// Published columns.
    columns: Vec<TableColumn>,
    pub key: Vec<i16>,
    captured: bool,
    /// `relkind`.
    kind: u8,
    /// The column that says whose tenant's a row is.
    tenant_column: Option<i16>,
    definition: Option<Rc<Definition>>,
}

struct TableColumn {
    number: i16,
    name: String,
    type_name: String,
    nullable: bool,
}

/// What is needed to read images of a table's rows.
pub struct Definition {
    pub fingerprint: i64,
    pub desc: pg_sys::TupleDesc,
    context: pg_sys::MemoryContext,
}

impl Drop for Definition {
    fn drop(&mut self) {
        // SAFETY: made in `Definition::load`, and used by nothing else.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// What a subscription reads, resolved.
pub struct Selection {
    pub table: Oid,
    /// `relkind`.
    pub kind: u8,
    /// The column that says whose tenant's a row is.
    pub tenant_column: Option<i16>,
    pub table_name: String,
    pub key: Vec<i16>,
    pub key_names: Vec<String>,
    /// Attribute numbers, in the order of `columns`.
    pub numbers: Vec<i16>,
    pub columns: Vec<Column>,
    pub definition: Rc<Definition>,
}

#[derive(Default)]
pub struct Registry {
    tables: HashMap<Oid, Table>,
    stale: bool,
    /// Tables with a change that cannot be encoded; until they are redefined or the feeder starts anew.
    excluded: Vec<Oid>,
    /// Tables that policies read and whose changes are marked in the log.
    policy_tables: HashSet<Oid>,
    /// What was found out of who may see which rows; holds as long as the definitions do.
    pub judged: HashMap<Question, Rc<Judged>>,
}

impl Registry {
    pub fn new() -> Self {
        Self { stale: true, ..Self::default() }
    }

    /// Makes the next look read the catalogs.
    pub fn invalidate(&mut self) {
        self.stale = true;
        self.judged.clear();
    }

    /// Serves a table no more.
    pub fn exclude(&mut self, table: Oid) {
        self.excluded.push(table);
    }

    /// Serves a table again that was redefined.
    pub fn readmit(&mut self, table: Oid) {
        self.excluded.retain(|t| *t != table);
    }

    /// Serves all tables again: nobody was there to see whether they were redefined.
    pub fn readmit_all(&mut self) {
        self.excluded.clear();
    }

    /// Reads the registrations, if something about them has changed.
    pub fn refresh(&mut self) -> Result<(), pgrx::spi::Error> {
        if self.stale {
            self.tables = load()?;
            self.policy_tables = load_policy_tables()?;
            self.stale = false;
        }
        Ok(())
    }

    /// The tables that a role may read at least one column of.
    pub fn readable(&self, role: Oid) -> Vec<TableInfo> {
        let mut tables: Vec<TableInfo> = self
            .tables
            .values()
            .filter(|t| t.captured)
            .filter(|t| {
                let granted = t.granted(role);
                t.key.iter().all(|k| granted.iter().any(|c| c.number == *k))
            })
            .map(|t| TableInfo { name: format!("{}.{}", t.schema, t.name), key: t.names(&t.key) })
            .collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }

    /// The oid of the table that a client names.
    pub fn find(&self, name: &str, role: Oid) -> Result<Oid, Refusal> {
        let mut found: Vec<&Table> = self
            .tables
            .values()
            .filter(|t| t.aliases.iter().any(|a| a == name))
            .filter(|t| !t.granted(role).is_empty())
            .collect();
        if found.len() > 1 && found.iter().any(|t| t.schema == "public") {
            found.retain(|t| t.schema == "public");
        }
        match found.as_slice() {
            [table] => Ok(table.oid),
            [] => Err(unknown_table()),
            _ => {
                Err(Refusal::new(ErrorCode::UnknownTable, "the table's name is ambiguous", "Write it as schema.table."))
            }
        }
    }

    /// Names and numbers of the columns that a role may read.
    pub fn readable_columns(&self, oid: Oid, role: Oid) -> Vec<(String, i16)> {
        let Some(table) = self.tables.get(&oid) else { return Vec::new() };
        table.granted(role).into_iter().map(|c| (c.name.clone(), c.number)).collect()
    }

    /// Whether every change of a table comes through the log.
    pub fn follows(&self, oid: Oid) -> bool {
        self.policy_tables.contains(&oid) || self.tables.get(&oid).is_some_and(|t| t.captured)
    }

    /// What a role gets of a table; `wanted`: the columns that it asks for.
    pub fn select(&mut self, oid: Oid, role: Oid, wanted: Option<&[String]>) -> Result<Selection, Refusal> {
        let table = self.tables.get_mut(&oid).ok_or_else(unknown_table)?;
        let granted = table.granted(role);
        if granted.is_empty() {
            return Err(unknown_table());
        }
        if self.excluded.contains(&oid) {
            return Err(Refusal::new(
                ErrorCode::Internal,
                "a change of the table cannot be encoded",
                "The server's log says why; registering the table again is another try.",
            ));
        }
        if !table.captured {
            return Err(Refusal::new(
                ErrorCode::CaptureDisabled,
                "the changes of the table are not captured",
                "Register the table again with rte.register_table(), unless the log says that its slot was lost: then wait.",
            ));
        }
        if let Some(name) = wanted.unwrap_or_default().iter().find(|n| !granted.iter().any(|c| c.name == **n)) {
            let name: String = name.chars().take(64).collect();
            return Err(Refusal::new(ErrorCode::UnknownColumn, format!("no such column: {name}"), ""));
        }
        if table.key.iter().any(|k| !granted.iter().any(|c| c.number == *k)) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "the role may not read the key of the table",
                "Grant SELECT on the key columns.",
            ));
        }
        let chosen = granted
            .into_iter()
            .filter(|c| wanted.is_none_or(|w| w.contains(&c.name)) || table.key.contains(&c.number))
            .collect::<Vec<_>>();
        let numbers = chosen.iter().map(|c| c.number).collect();
        let columns = chosen
            .iter()
            .map(|c| Column { name: c.name.clone(), type_name: c.type_name.clone(), nullable: c.nullable })
            .collect();
        let (key, key_names) = (table.key.clone(), table.names(&table.key));
        let table_name = format!("{}.{}", table.schema, table.name);
        let definition = match &table.definition {
            Some(definition) => definition.clone(),
            None => {
                let definition = Rc::new(Definition::load(oid).ok_or_else(unknown_table)?);
                table.definition = Some(definition.clone());
                definition
            }
        };
        let (kind, tenant_column) = (table.kind, table.tenant_column);
        Ok(Selection { table: oid, kind, tenant_column, table_name, key, key_names, numbers, columns, definition })
    }
}

impl Selection {
    /// Places of the columns of these names, in the order of `columns`.
    ///
    /// # Errors
    /// One of them is not selected.
    pub fn places_of(&self, names: &[String]) -> Result<Vec<usize>, Refusal> {
        places(names, |name| self.columns.iter().position(|c| c.name == name))
    }
}

/// Places by name, in order and each once.
pub(super) fn places(names: &[String], place: impl Fn(&str) -> Option<usize>) -> Result<Vec<usize>, Refusal> {
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        let shown = || name.chars().take(64).collect::<String>();
        let unknown = || Refusal::new(ErrorCode::UnknownColumn, format!("no such column: {}", shown()), "");
        places.push(place(name).ok_or_else(unknown)?);
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

fn unknown_table() -> Refusal {
    Refusal::new(
        ErrorCode::UnknownTable,
        "no such table, or it is not registered, or the role may not read it",
        "Register it with rte.register_table() and grant SELECT on it to the role.",
    )
}

impl Table {
    fn names(&self, numbers: &[i16]) -> Vec<String> {
        let name = |n: &i16| self.columns.iter().find(|c| c.number == *n).map(|c| c.name.clone());
        numbers.iter().filter_map(name).collect()
    }

    /// The published columns that a role may read.
    fn granted(&self, role: Oid) -> Vec<&TableColumn> {
        let select = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        let ok = pg_sys::AclResult::ACLCHECK_OK;
        // SAFETY: catalog look-ups; a table that is gone is answered with "no".
        unsafe {
            if !compat::schema_usage(self.schema_oid, role) {
                return Vec::new();
            }
            if pg_sys::pg_class_aclcheck_ext(self.oid, role, select, &mut false) == ok {
                return self.columns.iter().collect();
            }
            self.columns
                .iter()
                .filter(|c| pg_sys::pg_attribute_aclcheck_ext(self.oid, c.number, role, select, &mut false) == ok)
                .collect()
        }
    }
}

impl Definition {
    /// Copies the descriptor as the catalogs have it now; nothing where the table is gone.
    ///
    /// Without a lock, so that a schema change in progress (which is not visible yet) holds up nobody: once it has
    /// committed its marker comes, and until then images made under it have another fingerprint.
    fn load(oid: Oid) -> Option<Self> {
        // SAFETY: a reference of the relation cache, given back here.
        unsafe {
            let rel = crate::unlocked::refer(oid);
            if rel.is_null() {
                return None;
            }
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"whagons_rte table".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            let previous = pg_sys::MemoryContextSwitchTo(context);
            let desc = pg_sys::CreateTupleDescCopyConstr((*rel).rd_att);
            pg_sys::MemoryContextSwitchTo(previous);
            pg_sys::RelationClose(rel);
            Some(Self { fingerprint: capture::fingerprint(desc), desc, context })
        }
    }
}

fn load_policy_tables() -> Result<HashSet<Oid>, pgrx::spi::Error> {
    Spi::connect(|client| {
        let rows =
            client.select("SELECT relation::oid AS relation FROM rte.policy_tables WHERE followed", None, &[])?;
        rows.filter_map(|row| row["relation"].value::<Oid>().transpose()).collect()
    })
}

const TABLES: &str = include_str!("registry.sql");

fn load() -> Result<HashMap<Oid, Table>, pgrx::spi::Error> {
    let mut tables: HashMap<Oid, Table> = HashMap::new();
    Spi::connect(|client| {
        for row in client.select(TABLES, None, &[])? {
            let Some(oid) = row["oid"].value::<Oid>()? else { continue };
            let text = |name: &str| row[name].value::<String>().map(Option::unwrap_or_default);
            let (schema, name) = (text("schema_name")?, text("table_name")?);
            let number = row["number"].value::<i16>()?.unwrap_or_default();
            let column = TableColumn {
                number,
                name: text("column_name")?,
                type_name: short_type_name(&text("type_name")?, &text("base_name")?),
                nullable: row["nullable"].value::<bool>()?.unwrap_or(true),
            };
            let schema_oid = row["schema_oid"].value::<Oid>()?.unwrap_or(Oid::INVALID);
            let captured = row["captured"].value::<bool>()?.unwrap_or(false);
            let kind = row["kind"].value::<i8>()?.unwrap_or_default() as u8;
            let tenant_column = row["tenant_column"].value::<i16>()?;
            let key_place = row["key_place"].value::<i16>()?;
            let table = tables.entry(oid).or_insert_with(|| Table {
                oid,
                aliases: aliases(&schema, &name),
                schema,
                name,
                schema_oid,
                columns: Vec::new(),
                key: Vec::new(),
                captured,
                kind,
                tenant_column,
                definition: None,
            });
            if let Some(place) = key_place {
                let place = place as usize - 1;
                table.key.resize(table.key.len().max(place + 1), 0);
                table.key[place] = number;
            }
            table.columns.push(column);
        }
        Ok(tables)
    })
}

/// `int8` rather than `bigint`: the catalog's name for types of `pg_catalog`, and what `format_type` says for others.
fn short_type_name(full: &str, base: &str) -> String {
    if base.is_empty() { full.to_owned() } else { base.to_owned() }
}

fn aliases(schema: &str, name: &str) -> Vec<String> {
    let (quoted_schema, quoted) = (quoted(schema), quoted(name));
    let mut aliases =
        vec![name.to_owned(), format!("{schema}.{name}"), quoted.clone(), format!("{quoted_schema}.{quoted}")];
    aliases.dedup();
    aliases
}

fn quoted(name: &str) -> String {
    let Ok(name) = CString::new(name) else { return String::new() };
    // SAFETY: a valid C string; the result lives at least as long as the current memory context.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())).to_string_lossy().into_owned() }
}
