//! Sub-selects that read nothing: their values in their place.
//!
//! Decides which sub-selects come to the same for every row; they are evaluated once, here. One that reads a table or a column
//! of the row is refused: its condition is not folded ([`super::fold`]). Main thread only, in a transaction, acting as the
//! identity.

use super::execute;
use super::fold::{Folded, Unfoldable, clock, functions};
use super::node::{self, each, is, make};
use crate::compat;
use pgrx::pg_sys::{self, Datum, List, Node, NodeTag, Query, SubLink};

/// What a sub-select comes to that depends on no row: `(select auth.uid())`, `ARRAY(SELECT …)`, `x IN (SELECT …)`.
pub(super) unsafe fn value_of(sublink: *mut SubLink) -> Result<*mut Node, Unfoldable> {
    use pg_sys::SubLinkType as Kind;
    // SAFETY: a sub-select that was analysed; copies are changed.
    unsafe {
        let sublink = node::copy(sublink.cast()).cast::<SubLink>();
        if !is((*sublink).subselect, NodeTag::T_Query) {
            return Err(Unfoldable::SubSelect);
        }
        let query = (*sublink).subselect.cast::<Query>();
        inline_in(query);
        reads_nothing(query)?;
        match (*sublink).subLinkType {
            Kind::EXPR_SUBLINK => match lone_expression(query) {
                Some(expression) => Ok(expression),
                None => Ok(evaluate(sublink)),
            },
            Kind::ARRAY_SUBLINK => Ok(evaluate(sublink)),
            Kind::ANY_SUBLINK => any_of(sublink),
            _ => Err(Unfoldable::SubSelect),
        }
    }
}

/// Replaces SQL functions by their bodies in the places of a sub-select where they usually are.
pub(super) unsafe fn inline_in(query: *mut Query) {
    // SAFETY: the parts of an analysed query.
    unsafe {
        let eval = |node: *mut Node| pg_sys::eval_const_expressions(std::ptr::null_mut(), node);
        for target in each((*query).targetList) {
            let target = target.cast::<pg_sys::TargetEntry>();
            (*target).expr = eval((*target).expr.cast()).cast();
        }
        for entry in each((*query).rtable) {
            let entry = entry.cast::<pg_sys::RangeTblEntry>();
            for function in each((*entry).functions) {
                let function = function.cast::<pg_sys::RangeTblFunction>();
                (*function).funcexpr = eval((*function).funcexpr);
            }
        }
        if !(*query).jointree.is_null() {
            (*(*query).jointree).quals = eval((*(*query).jointree).quals);
        }
    }
}

/// The one expression of a sub-select without FROM, which gives exactly one row.
unsafe fn lone_expression(query: *mut Query) -> Option<*mut Node> {
    // SAFETY: the parts of an analysed query.
    unsafe {
        let q = &*query;
        let empty = |list: *mut List| compat::list_length(list) == 0;
        let bare = empty(q.rtable)
            && (q.jointree.is_null() || empty((*q.jointree).fromlist) && (*q.jointree).quals.is_null())
            && !q.hasAggs
            && !q.hasWindowFuncs
            && !q.hasTargetSRFs
            && !q.hasSubLinks
            && empty(q.groupingSets)
            && empty(q.groupClause)
            && q.havingQual.is_null()
            && q.limitCount.is_null()
            && q.limitOffset.is_null()
            && q.setOperations.is_null()
            && compat::list_length(q.targetList) == 1;
        if !bare {
            return None;
        }
        let target = pg_sys::list_nth(q.targetList, 0).cast::<pg_sys::TargetEntry>();
        Some((*target).expr.cast())
    }
}

/// Refuses a sub-select that reads a table or a column from outside, or calls what depends on more than its arguments.
unsafe fn reads_nothing(query: *mut Query) -> Result<(), Unfoldable> {
    struct State {
        depth: u32,
        failed: Option<Unfoldable>,
    }
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn walker(node: *mut Node, context: *mut std::ffi::c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: the state that is handed over below; nodes are read as what their tags say.
        unsafe {
            let state = &mut *context.cast::<State>();
            if is(node, NodeTag::T_Query) {
                let query = node.cast::<Query>();
                let other = |entry: *mut Node| {
                    use pg_sys::RTEKind as K;
                    let kind = (*entry.cast::<pg_sys::RangeTblEntry>()).rtekind;
                    ![K::RTE_FUNCTION, K::RTE_SUBQUERY, K::RTE_VALUES, K::RTE_JOIN, K::RTE_RESULT].contains(&kind)
                };
                if (*query).commandType != pg_sys::CmdType::CMD_SELECT
                    || compat::list_length((*query).cteList) > 0
                    || each((*query).rtable).any(other)
                {
                    state.failed = Some(Unfoldable::SubSelect);
                    return true;
                }
                state.depth += 1;
                let stop = pg_sys::query_tree_walker(query, Some(walker), context, 0);
                state.depth -= 1;
                return stop;
            }
            if is(node, NodeTag::T_Var) {
                if (*node.cast::<pg_sys::Var>()).varlevelsup >= state.depth {
                    state.failed = Some(Unfoldable::SubSelect);
                }
            } else if is(node, NodeTag::T_SQLValueFunction) {
                state.failed = clock(node);
            } else if is(node, NodeTag::T_NextValueExpr) {
                state.failed = Some(Unfoldable::Expression);
            } else {
                let mut found =
                    Folded { conditions: std::ptr::null_mut(), reads_roles: false, calls_users_functions: false };
                state.failed = functions(node, &mut found);
                // Evaluated here and now, so what it read must not change.
                if state.failed.is_none() && found.reads_roles {
                    state.failed = Some(Unfoldable::SubSelect);
                }
            }
            state.failed.is_some() || pg_sys::expression_tree_walker(node, Some(walker), context)
        }
    }
    let mut state = State { depth: 0, failed: None };
    // SAFETY: an analysed query; the state outlives the walk.
    unsafe { walker(query.cast(), (&raw mut state).cast()) };
    state.failed.map_or(Ok(()), Err)
}

/// `x = ANY (SELECT …)` with the values of the sub-select as an array.
unsafe fn any_of(sublink: *mut SubLink) -> Result<*mut Node, Unfoldable> {
    // SAFETY: parts of a sub-select as the parser makes it: a test of one column against the sub-select's value.
    unsafe {
        let test = (*sublink).testexpr;
        if !is(test, NodeTag::T_OpExpr) {
            return Err(Unfoldable::SubSelect);
        }
        let operator = test.cast::<pg_sys::OpExpr>();
        if compat::list_length((*operator).args) != 2 {
            return Err(Unfoldable::SubSelect);
        }
        let (left, right) = (pg_sys::list_nth((*operator).args, 0).cast(), pg_sys::list_nth((*operator).args, 1));
        // Where the sub-select's value is cast first, its array would have another type.
        if !is(right.cast(), NodeTag::T_Param) {
            return Err(Unfoldable::SubSelect);
        }
        (*sublink).subLinkType = pg_sys::SubLinkType::ARRAY_SUBLINK;
        (*sublink).testexpr = std::ptr::null_mut();
        (*sublink).operName = std::ptr::null_mut();
        let array = evaluate(sublink);
        let any = make::<pg_sys::ScalarArrayOpExpr>(NodeTag::T_ScalarArrayOpExpr);
        (*any).opno = (*operator).opno;
        (*any).opfuncid = (*operator).opfuncid;
        (*any).useOr = true;
        (*any).inputcollid = (*operator).inputcollid;
        (*any).args = pg_sys::lappend(pg_sys::lappend(std::ptr::null_mut(), left), array.cast());
        (*any).location = -1;
        Ok(any.cast())
    }
}

/// Evaluates a sub-select, once.
unsafe fn evaluate(sublink: *mut SubLink) -> *mut Node {
    // SAFETY: a query whose one column is the sub-select; its value is copied into the current context.
    unsafe {
        let node = sublink.cast::<Node>();
        let (oid, typmod, collation) = (pg_sys::exprType(node), pg_sys::exprTypmod(node), pg_sys::exprCollation(node));
        let (mut len, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(oid, &raw mut len, &raw mut by_value);
        let query = make::<Query>(NodeTag::T_Query);
        (*query).commandType = pg_sys::CmdType::CMD_SELECT;
        (*query).canSetTag = true;
        (*query).hasSubLinks = true;
        (*query).jointree = pg_sys::makeFromExpr(std::ptr::null_mut(), std::ptr::null_mut());
        let target = pg_sys::makeTargetEntry(node.cast(), 1, std::ptr::null_mut(), false);
        (*query).targetList = pg_sys::lappend(std::ptr::null_mut(), target.cast());
        let context = pg_sys::CurrentMemoryContext;
        let (mut value, mut null) = (Datum::from(0), true);
        execute::for_each_row(query, c"policy", std::ptr::null_mut(), &mut |values, nulls| {
            null = nulls[0];
            if !null {
                let previous = pg_sys::MemoryContextSwitchTo(context);
                value = compat::datumCopy(values[0], by_value, i32::from(len));
                pg_sys::MemoryContextSwitchTo(previous);
            }
            true
        });
        pg_sys::makeConst(oid, typmod, collation, i32::from(len), value, null, by_value).cast()
    }
}
