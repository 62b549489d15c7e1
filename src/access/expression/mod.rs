//! `where` and `params` of a subscription: a client's text becomes an analysed expression over one table, or a
//! refusal. Main thread only, in a transaction; takes no lock.
//!
//! The text is hostile. It goes through these steps, each of which allows what it knows and refuses the rest:
//!
//! 1. Postgres' grammar reads it as one expression ([`grammar`]); no SQL is put around it.
//! 2. The tree as written is walked ([`raw`]): kinds of nodes, names ([`names`], [`types`]), columns that the role may
//!    read. String literals become parameters of the condition, so the analysis runs no input function. Depth and
//!    size are bounded, counting what the analysis is going to copy.
//! 3. Postgres' analyser gives it types and operators ([`analyse`]), with nothing on the search path but `pg_catalog`.
//! 4. The analysed tree is walked ([`check`]): built-in immutable functions only, types of Postgres' own, enums and ranges of the table's
//!    columns. Parameters get their values here, by the input functions of those types ([`params`]).
//! 5. What is constant in it is evaluated, once. An error there would come up for every row, so it is a refusal; and conditions
//!    that differ only in how a constant is written become equal.
//!
//! Nothing of it runs a user's code, and no step is skipped because another one would also refuse. An error of Postgres' costs a
//! subtransaction, and is told in words that name nothing the client did not write ([`failure`]).
//!
//! **What a condition may leak.** It is evaluated after the row-level security of its table and only on rows that pass it, and it
//! reads only columns that the role may read. So it needs no leakproof functions: an error that it raises is about a
//! row that its client may see.

mod analyse;
mod check;
mod failure;
mod function;
mod grammar;
mod names;
mod params;
mod raw;
mod table;
mod types;

use super::node;
use crate::compat;
use crate::guc;
use crate::refusal::Refusal;
use failure::{Stage, guarded};
use params::Value;
use pgrx::pg_sys::{self, Node, Oid};
use rte_protocol::wire::ErrorCode;
use std::cell::Cell;
use std::ffi::{CStr, CString};
pub use table::Readable;
use table::Table;

/// The client's condition over one table: a boolean expression over `Var`s of range table entry 1, constants and
/// immutable built-in functions. Parameters are constants in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// As [`node::text`] makes it: equal conditions have equal texts.
    pub text: String,
    /// Numbers of the columns that it reads, in order.
    pub columns: Vec<i16>,
}

/// Depth of an expression as it is written. Not a setting: it bounds the stack of the walks here and in Postgres, and
/// chains of AND and OR are flat.
const MAX_DEPTH: u32 = 128;

/// Uses of functions whose time is that of the product of their inputs (`LIKE`, `||`, numeric `*`, `@>` …): with more, one
/// row could keep a feeder busy for minutes.
const MAX_COSTLY: u64 = 32;

/// Bytes of the constants that those functions are given, all together: a long pattern on a long constant would take
/// seconds by itself. Enough for an array of a few thousand numbers.
const MAX_COSTLY_BYTES: u64 = 16 << 10;

/// What is known while a text is worked on.
struct Client<'a> {
    /// The text, in the database's encoding.
    source: &'a CStr,
    table: &'a Table,
    values: &'a [Value<'a>],
    stage: &'a Cell<Stage>,
    /// Largest number of nodes.
    max_nodes: u64,
}

/// Analyses a client's condition. `readable`: the registered columns that the role may read.
///
/// # Errors
/// `UNKNOWN_COLUMN`, `INVALID_WHERE`, `INVALID_PARAMS`, or `UNKNOWN_TABLE` where the table is gone.
pub fn parse(
    relation: Oid,
    readable: &[Readable],
    text: &str,
    params: &[Option<serde_json::Value>],
) -> Result<Condition, Refusal> {
    let most = guc::max_where_bytes();
    if text.len() > most {
        return Err(Refusal::new(ErrorCode::InvalidWhere, "where is too long", "rte.max_where_size bounds it."));
    }
    let values: Vec<Value> = params.iter().map(|p| Value::of(p.as_ref())).collect();
    if text.len() + values.iter().map(Value::size).sum::<usize>() > most {
        let hint = "rte.max_where_size bounds where and params together.";
        return Err(Refusal::new(ErrorCode::InvalidParams, "params are too long", hint));
    }
    let Ok(text) = CString::new(text) else {
        return Err(Refusal::new(ErrorCode::InvalidWhere, "where has a NUL character in it", ""));
    };
    let table = Table::load(relation, readable)?;
    condition(&table, &values, most, |stage| {
        stage.set(Stage::Reading);
        // SAFETY: in a transaction; a C string.
        unsafe { compat::server_text(&text) }
    })
}

/// The condition that a column has a value, which is given as text.
///
/// # Errors
/// `INVALID_PARAMS` where the text is no value of the column's type, `UNKNOWN_TABLE` where the table is gone, and
/// `INVALID_WHERE` where the column's type cannot be compared.
pub fn equals(relation: Oid, column: i16, value: &str) -> Result<Condition, Refusal> {
    let readable = [Readable { name: "value", number: column }];
    let table = Table::load(relation, &readable)?;
    let source = c"value = $1";
    condition(&table, &[Value::Text(value)], guc::max_where_bytes(), |_| source.to_owned())
}

fn condition(
    table: &Table,
    values: &[Value],
    most: usize,
    source: impl FnOnce(&Cell<Stage>) -> CString,
) -> Result<Condition, Refusal> {
    let stage = Cell::new(Stage::Reading);
    guarded(&stage, || {
        let source = source(&stage);
        let client = Client { source: &source, table, values, stage: &stage, max_nodes: most as u64 / 4 };
        // SAFETY: in a transaction, in a memory context of its own; the trees are those of the parser.
        unsafe {
            let expression = client.analysed()?;
            Ok(Condition { text: node::text(expression), columns: node::columns(expression) })
        }
    })
}

impl Client<'_> {
    unsafe fn analysed(&self) -> Result<*mut Node, Refusal> {
        // SAFETY: the caller's promise.
        unsafe {
            let mut tree = grammar::read(self)?;
            let literals = raw::check(self, &raw mut tree)?;
            self.stage.set(Stage::Analysing);
            let mut tree = analyse::analyse(self, tree);
            check::check(self, &literals, &raw mut tree)?;
            self.stage.set(Stage::Folding);
            Ok(pg_sys::eval_const_expressions(std::ptr::null_mut(), tree))
        }
    }

    /// Refuses the text for what stands at a place of it (in bytes; negative where that is not known).
    fn refuse(&self, location: i32, message: impl Into<String>, hint: &str) -> Refusal {
        let message = message.into();
        let message = match self.position(location) {
            Some(position) => format!("{message} (position {position} of where)"),
            None => message,
        };
        Refusal::new(ErrorCode::InvalidWhere, message, hint)
    }

    /// The place as people count: characters, from one.
    fn position(&self, location: i32) -> Option<usize> {
        let before = self.source.to_bytes().get(..usize::try_from(location).ok()?)?;
        Some(String::from_utf8_lossy(before).chars().count() + 1)
    }
}
