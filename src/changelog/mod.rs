//! The change log: rows of committed transactions, and of those that may still commit.
//!
//! `rte.change_log_0` … are heaps without an index, appended to by capture ([`append`]), read by a
//! feeder ([`reader`]), cut by whole segments ([`segments`]). Invariant: a row is appended in the very
//! transaction whose change it is, so both commit or neither. Main thread only.

pub mod reader;
pub mod segments;

use crate::shmem;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CString;

/// What a row of the log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
    /// A partition was truncated: what it held left the root.
    TruncatePart,
    /// The relation was redefined, registered anew or dropped; from here on older rows cannot be continued.
    Redefined,
    /// Grants changed.
    Access,
    /// A table that policies read was changed.
    Read,
    /// Changes were not captured: cursors from before cannot go on.
    Gap,
    /// More rows of a table were changed than are kept: its copies cannot be continued.
    Bulk,
}

impl Op {
    pub const fn code(self) -> u8 {
        match self {
            Self::Insert => b'I',
            Self::Update => b'U',
            Self::Delete => b'D',
            Self::Truncate => b'T',
            Self::TruncatePart => b'P',
            Self::Redefined => b'S',
            Self::Access => b'A',
            Self::Read => b'R',
            Self::Gap => b'G',
            Self::Bulk => b'B',
        }
    }

    /// Whether it changes rows, rather than what is known of their table.
    pub const fn is_of_rows(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete | Self::Truncate | Self::TruncatePart)
    }

    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            b'I' => Self::Insert,
            b'U' => Self::Update,
            b'D' => Self::Delete,
            b'T' => Self::Truncate,
            b'P' => Self::TruncatePart,
            b'S' => Self::Redefined,
            b'A' => Self::Access,
            b'R' => Self::Read,
            b'G' => Self::Gap,
            b'B' => Self::Bulk,
            _ => return None,
        })
    }
}

/// Columns of a segment, in the order of `sql/whagons_rte--*.sql`.
pub mod column {
    pub const XID: usize = 0;
    pub const LSN: usize = 1;
    pub const AT: usize = 2;
    pub const FINGERPRINT: usize = 3;
    pub const CID: usize = 4;
    pub const SEQ: usize = 5;
    pub const RELATION: usize = 6;
    pub const ROLE: usize = 7;
    pub const OP: usize = 8;
    pub const NEW_ROW: usize = 9;
    pub const OLD_ROW: usize = 10;
    pub const MASK: usize = 11;
    pub const COUNT: usize = 12;
}

/// A value of a row's variable length: a varlena in memory of our own, so that it need not be copied again.
pub struct Bytea(Vec<u32>);

impl Bytea {
    pub fn new(bytes: &[u8]) -> Self {
        let len = pg_sys::VARHDRSZ + bytes.len();
        let words = len.div_ceil(size_of::<u32>());
        let mut memory = Vec::<u32>::with_capacity(words);
        // SAFETY: the memory holds `words` words, aligned for a varlena's header; header, bytes and, first, the zero
        // that ends the last word initialise all of it.
        unsafe {
            *memory.as_mut_ptr().add(words - 1) = 0;
            pgrx::set_varsize_4b(memory.as_mut_ptr().cast(), len as i32);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_mut_ptr().add(1).cast::<u8>(), bytes.len());
            memory.set_len(words);
        }
        Self(memory)
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.0.len() * size_of::<u32>()
    }

    fn datum(&self) -> Datum {
        Datum::from(self.0.as_ptr())
    }
}

/// A row to be appended. Rows are tuple images as `capture::record` makes them.
pub struct Row<'a> {
    pub xid: u64,
    pub lsn: u64,
    pub at: i64,
    pub fingerprint: i64,
    pub cid: u32,
    pub seq: u32,
    pub relation: Oid,
    pub role: Oid,
    pub op: Op,
    pub new_row: Option<&'a Bytea>,
    pub old_row: Option<&'a Bytea>,
    pub mask: Option<&'a Bytea>,
}

/// Oid of the schema `rte`, or invalid while the extension is not there.
pub fn schema_oid() -> Oid {
    // SAFETY: a catalog look-up with a static C string.
    unsafe { pg_sys::get_namespace_oid(c"rte".as_ptr(), true) }
}

/// Oid of a relation in the schema `rte`.
pub fn relation_oid(name: &str) -> Option<Oid> {
    let schema = schema_oid();
    let name = CString::new(name).ok()?;
    if schema == Oid::INVALID {
        return None;
    }
    // SAFETY: a catalog look-up with a valid C string.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (oid != Oid::INVALID).then_some(oid)
}

/// Reads all rows of a small table of the schema `rte` as committed now: values and nulls of its columns. Needs no
/// privilege, because it is not SQL. In a transaction.
pub fn for_each_row(name: &str, mut f: impl FnMut(&[Datum], &[bool])) {
    let Some(oid) = relation_oid(name) else { return };
    // SAFETY: an ordinary catalog-style scan; the arrays have the descriptor's length.
    unsafe {
        let rel = pg_sys::table_open(oid, pg_sys::AccessShareLock as i32);
        let columns = (*(*rel).rd_att).natts as usize;
        let (mut values, mut nulls) = (vec![Datum::from(0); columns], vec![false; columns]);
        let scan = pg_sys::systable_beginscan(rel, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, (*rel).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            f(&values, &nulls);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(rel, pg_sys::AccessShareLock as i32);
    }
}

/// Oid of a segment.
pub fn segment_oid(segment: usize) -> Option<Oid> {
    debug_assert!(segment < shmem::SEGMENTS);
    relation_oid(&format!("change_log_{segment}"))
}

/// Appends a row to an open segment; returns the block that it went to. What it allocates goes with the memory
/// context, which a trigger has for each row.
///
/// # Safety
/// `relation` is a segment, opened with `RowExclusiveLock`, in a transaction with an id.
pub unsafe fn append(relation: pg_sys::Relation, row: &Row<'_>) -> u32 {
    let mut values = [Datum::from(0); column::COUNT];
    values[column::XID] = Datum::from(row.xid);
    values[column::LSN] = Datum::from(row.lsn);
    values[column::AT] = Datum::from(row.at);
    values[column::FINGERPRINT] = Datum::from(row.fingerprint);
    values[column::CID] = Datum::from(row.cid as i32);
    values[column::SEQ] = Datum::from(row.seq as i32);
    values[column::RELATION] = Datum::from(row.relation);
    values[column::ROLE] = Datum::from(row.role);
    values[column::OP] = Datum::from(row.op.code() as i8);
    let mut nulls = [false; column::COUNT];
    for (column, value) in [(column::NEW_ROW, row.new_row), (column::OLD_ROW, row.old_row), (column::MASK, row.mask)] {
        values[column] = value.map_or(Datum::from(0), Bytea::datum);
        nulls[column] = value.is_none();
    }

    // SAFETY: the descriptor has COUNT attributes of the types above (sql/whagons_rte--*.sql). SKIP_FSM keeps a
    // backend on its own page or the last one; NO_LOGICAL keeps the log out of logical decoding.
    unsafe {
        let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        let options = pg_sys::HEAP_INSERT_SKIP_FSM | pg_sys::HEAP_INSERT_NO_LOGICAL;
        pg_sys::heap_insert(relation, tuple, pg_sys::GetCurrentCommandId(true), options as i32, std::ptr::null_mut());
        let block = (*tuple).t_self.ip_blkid;
        u32::from(block.bi_hi) << 16 | u32::from(block.bi_lo)
    }
}
