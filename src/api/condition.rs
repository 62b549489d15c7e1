//! What becomes of a condition, for administrators and tests.

use crate::access::{expression, node};
use crate::compat;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::ffi::CStr;

/// The condition over all columns of a table as Postgres would write it; raises an error where it is refused.
#[pg_extern(sql = false)]
fn rte_check_where(relation: Oid, condition: &str, params: pgrx::JsonB) -> String {
    let params: Vec<_> = match params.0 {
        serde_json::Value::Array(values) => values.into_iter().map(Some).collect(),
        _ => {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "params must be a JSON array");
        }
    };
    // SAFETY: the relation is opened and closed here.
    let (name, columns) = unsafe {
        let rel = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let desc = (*rel).rd_att;
        let columns: Vec<(String, i16)> = (0..(*desc).natts as usize)
            .map(|i| compat::attribute(desc, i))
            .filter(|a| !a.attisdropped)
            .map(|a| (compat::name(&a.attname), a.attnum))
            .collect();
        let name = (*(*rel).rd_rel).relname;
        pg_sys::relation_close(rel, pg_sys::AccessShareLock as i32);
        (name, columns)
    };
    let readable: Vec<_> =
        columns.iter().map(|(name, number)| expression::Readable { name, number: *number }).collect();
    match expression::parse(relation, &readable, condition, &params) {
        // SAFETY: an expression over this table.
        Ok(condition) => unsafe {
            let context = pg_sys::deparse_context_for(name.data.as_ptr(), relation);
            let text = pg_sys::deparse_expression(node::parse(&condition.text), context, false, false);
            CStr::from_ptr(text).to_string_lossy().into_owned()
        },
        Err(refusal) => {
            let message = format!("{}: {}", refusal.code.as_str(), refusal.message);
            let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
            let mut report = pg_sys::panic::ErrorReport::new(code, message, "rte_check_where");
            if let Some(hint) = refusal.hint {
                report = report.set_hint(hint);
            }
            report.report(PgLogLevel::ERROR);
            unreachable!()
        }
    }
}
