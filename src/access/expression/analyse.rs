//! Postgres' analyser, with hooks in place of a range table: a name that the raw walk let through becomes a `Var` of entry 1, a
//! parameter gets the type that it is used as. So the table is never opened, and there is nothing else in scope.
//! Main thread only, in a transaction, in `failure::guarded`.

use super::raw::texts;
use super::{Client, Table};
use crate::access::node::make;
use pgrx::pg_sys::{self, Node, NodeTag, Oid, Param, ParseState};
use pgrx::prelude::*;
use std::ffi::c_int;

/// The analysed expression, boolean, with its collations.
///
/// # Safety
/// `tree` was let through by the raw walk.
pub(super) unsafe fn analyse(client: &Client, tree: *mut Node) -> *mut Node {
    // SAFETY: the state lives while the analyser works, and the table longer.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = client.source.as_ptr();
        (*state).p_ref_hook_state = std::ptr::from_ref(client.table).cast_mut().cast();
        (*state).p_pre_columnref_hook = Some(column);
        (*state).p_paramref_hook = Some(param);
        (*state).p_coerce_param_hook = Some(coerce_param);
        let tree = pg_sys::transformExpr(state, tree, pg_sys::ParseExprKind::EXPR_KIND_WHERE);
        let tree = pg_sys::coerce_to_boolean(state, tree, c"WHERE".as_ptr());
        pg_sys::assign_expr_collations(state, tree);
        pg_sys::free_parsestate(state);
        tree
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn column(state: *mut ParseState, reference: *mut pg_sys::ColumnRef) -> *mut Node {
    // SAFETY: the table of `analyse`; a ColumnRef's fields are strings, or it would not have been let through.
    unsafe {
        let table = &*(*state).p_ref_hook_state.cast::<Table>();
        let Some(column) = texts((*reference).fields).and_then(|names| table.column(&names)) else {
            return std::ptr::null_mut();
        };
        let var = pg_sys::makeVar(1, column.number, column.type_oid, column.typmod, column.collation, 0);
        (*var).location = (*reference).location;
        var.cast()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn param(_state: *mut ParseState, reference: *mut pg_sys::ParamRef) -> *mut Node {
    // SAFETY: a new node.
    unsafe {
        let param = make::<Param>(NodeTag::T_Param);
        (*param).paramkind = pg_sys::ParamKind::PARAM_EXTERN;
        (*param).paramid = (*reference).number;
        (*param).paramtype = pg_sys::UNKNOWNOID;
        (*param).paramtypmod = -1;
        (*param).location = (*reference).location;
        param.cast()
    }
}

/// Gives one use of a parameter its type. Another use may have another: each is bound by itself.
#[pg_guard]
unsafe extern "C-unwind" fn coerce_param(
    _state: *mut ParseState,
    param: *mut Param,
    target: Oid,
    _typmod: i32,
    location: c_int,
) -> *mut Node {
    // SAFETY: a parameter that the hook above made.
    unsafe {
        if (*param).paramtype != pg_sys::UNKNOWNOID {
            return std::ptr::null_mut();
        }
        (*param).paramtype = target;
        (*param).paramcollid = pg_sys::get_typcollation(target);
        if (*param).location < 0 {
            (*param).location = location;
        }
        param.cast()
    }
}
