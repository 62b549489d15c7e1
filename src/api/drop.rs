//! `DROP EXTENSION`: what the extension changed of tables besides what is dropped with it is put back before.

use crate::{compat, sql_function};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

sql_function!(pg_finfo_rte_on_drop_extension, rte_on_drop_extension, on_drop_extension);

/// The event trigger at the start of `DROP EXTENSION`; which one is dropped, only C is told.
///
/// # Safety
/// `fcinfo` is valid.
unsafe fn on_drop_extension(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: Postgres hands an EventTriggerData where the context's tag says so.
    let ours = unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            pgrx::error!("rte._on_drop_extension() is an event trigger function");
        }
        names_us((*context.cast::<pg_sys::EventTriggerData>()).parsetree)
    };
    if ours {
        Spi::run("SELECT rte._before_drop()").unwrap_or_else(|e| pgrx::error!("{e}"));
    }
    Datum::from(0)
}

/// # Safety
/// `statement` is a node.
unsafe fn names_us(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: a node's tag tells its type; the names of extensions are String nodes.
    unsafe {
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_DropStmt {
            return false;
        }
        let statement = &*statement.cast::<pg_sys::DropStmt>();
        statement.removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            && (0..compat::list_length(statement.objects)).any(|n| {
                let name = pg_sys::list_nth(statement.objects, n).cast::<pg_sys::String>();
                std::ffi::CStr::from_ptr((*name).sval) == c"whagons_rte"
            })
    }
}
