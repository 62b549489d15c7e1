//! The client's text, read by Postgres' grammar as one expression: no SQL is put around it, and none may be in it around an
//! expression. Leaves what is in the expression to [`super::raw`]. Main thread only, in a transaction, in `failure::guarded`.

use super::Client;
use crate::access::node::is;
use crate::compat;
use crate::refusal::Refusal;
use pgrx::pg_sys::{self, Node, NodeTag};

const ONE_EXPRESSION: &str = "where must be one expression";

/// Reads the text as one expression.
///
/// # Safety
/// In a transaction, in a memory context that may be reset.
pub(super) unsafe fn read(client: &Client) -> Result<*mut Node, Refusal> {
    let refuse = || client.refuse(-1, ONE_EXPRESSION, "It has no SELECT, FROM, WHERE, AS or ORDER BY around it.");
    // SAFETY: the grammar gives a list of one RawStmt with a SelectStmt in it; everything is looked at by its tag.
    unsafe {
        let list = pg_sys::raw_parser(client.source.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        if compat::list_length(list) != 1 {
            return Err(refuse());
        }
        let statement = pg_sys::list_nth(list, 0).cast::<pg_sys::RawStmt>();
        if !is(statement.cast(), NodeTag::T_RawStmt) || !is((*statement).stmt, NodeTag::T_SelectStmt) {
            return Err(refuse());
        }
        let select = &*(*statement).stmt.cast::<pg_sys::SelectStmt>();
        let lists = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.valuesLists,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes: [*mut Node; 8] = [
            select.intoClause.cast(),
            select.whereClause,
            select.havingClause,
            select.limitOffset,
            select.limitCount,
            select.withClause.cast(),
            select.larg.cast(),
            select.rarg.cast(),
        ];
        let plain = lists.iter().all(|list| list.is_null())
            && nodes.iter().all(|node| node.is_null())
            && select.op == pg_sys::SetOperation::SETOP_NONE
            && !select.all
            && !select.groupDistinct;
        if !plain || compat::list_length(select.targetList) != 1 {
            return Err(refuse());
        }
        let target = &*pg_sys::list_nth(select.targetList, 0).cast::<pg_sys::ResTarget>();
        if target.type_ != NodeTag::T_ResTarget || !target.name.is_null() || !target.indirection.is_null() {
            return Err(refuse());
        }
        Ok(target.val)
    }
}
