//! Capture by trigger: writes each change of a registered table into the change log, in the writer's own
//! transaction.
//!
//! Decides what of a change must be kept; leaves to the feeder who gets it. Invariant: a writer never waits
//! for a feeder, and never fails because one is missing. Runs on the main thread of any backend.

pub mod record;
pub mod relation;
mod transaction;

pub use record::{Image, Mask};
pub use relation::{Key, fingerprint, key_of};
pub use transaction::{append_decoded, mark, oldest_running, record_start, register_callbacks};

use crate::changelog::Op;
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;

thread_local! {
    /// Whether this process is switching how a table is captured.
    static SWITCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, whose changes of definitions are none to clients: event triggers leave no marker.
pub fn switching<R>(f: impl FnOnce() -> R) -> R {
    struct Switching;
    impl Drop for Switching {
        fn drop(&mut self) {
            SWITCHING.set(false);
        }
    }
    SWITCHING.set(true);
    let _switching = Switching;
    f()
}

/// Whether [`switching`] runs.
pub fn is_switching() -> bool {
    SWITCHING.get()
}

/// Makes a function callable from SQL as `LANGUAGE c`, without pgrx's SQL generation: the SQL is
/// written by hand in `sql/`.
#[macro_export]
macro_rules! sql_function {
    ($finfo:ident, $name:ident, $body:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            static INFO: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &INFO
        }

        #[doc(hidden)]
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            let body = $body;
            // SAFETY: Postgres calls it with a valid call info.
            unsafe { body(fcinfo) }
        }
    };
}

sql_function!(pg_finfo_rte_capture, rte_capture, capture);
sql_function!(pg_finfo_rte_policy_table_changed, rte_policy_table_changed, policy_table_changed);

const EVENT_MASK: u32 = 3;
const EVENT_INSERT: u32 = 0;
const EVENT_DELETE: u32 = 1;
const EVENT_UPDATE: u32 = 2;

/// The trigger function, for rows and for TRUNCATE.
///
/// # Safety
/// `fcinfo` is valid.
unsafe fn capture(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: Postgres hands a TriggerData where the context's tag says so, and its tuples live as long as the call.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::error!("rte.capture() is a trigger function");
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        let rel = data.tg_relation;
        let clone = (*data.tg_trigger).tgisclone;
        if data.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0 {
            truncated(rel);
            return Datum::from(0);
        }
        relation::with(rel, clone, |info| match data.tg_event & EVENT_MASK {
            _ if !info.registered => {}
            EVENT_INSERT => {
                let cid = pg_sys::HeapTupleHeaderGetCmin((*data.tg_trigtuple).t_data);
                let new = record::whole(info, data.tg_trigtuple);
                transaction::append(info.root, info.fingerprint, Op::Insert, cid, Some(&new), None, None);
            }
            EVENT_UPDATE => {
                let cid = pg_sys::HeapTupleHeaderGetCmin((*data.tg_newtuple).t_data);
                if let Some(update) = record::update(info, data.tg_trigtuple, data.tg_newtuple) {
                    transaction::append(
                        info.root,
                        info.fingerprint,
                        Op::Update,
                        cid,
                        Some(&update.new),
                        Some(&update.old),
                        Some(&update.mask),
                    );
                }
            }
            EVENT_DELETE => {
                let cid = pg_sys::HeapTupleHeaderGetCmax((*data.tg_trigtuple).t_data);
                let (old, mask) = record::deleted(info, data.tg_trigtuple);
                transaction::append(info.root, info.fingerprint, Op::Delete, cid, None, Some(&old), Some(&mask));
            }
            _ => {}
        });
        Datum::from(0)
    }
}

/// The trigger function of tables that policies read: what a change is does not matter.
///
/// # Safety
/// `fcinfo` is valid.
unsafe fn policy_table_changed(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: Postgres hands a TriggerData where the context's tag says so.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::error!("rte.policy_table_changed() is a trigger function");
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        transaction::mark_read(relation::root_of(data.tg_relation));
    }
    Datum::from(0)
}

/// # Safety
/// `rel` is open.
unsafe fn truncated(rel: pg_sys::Relation) {
    // SAFETY: the caller's promise.
    unsafe {
        let oid = (*rel).rd_id;
        let root = relation::root_of(rel);
        if !relation::is_registered(root) {
            return;
        }
        let op = if root == oid { Op::Truncate } else { Op::TruncatePart };
        let cid = pg_sys::GetCurrentCommandId(true);
        transaction::append(root, 0, op, cid, None, None, None);
    }
}
