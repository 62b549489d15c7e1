//! Folds the conditions of policies over a session's identity: what depends on nothing but who asks becomes a constant.
//!
//! Decides which conditions can be evaluated on a row alone. A folded condition is exact: it is what Postgres would
//! compute for any row, for as long as the identity and the definitions stay as they are. Whatever cannot be shown to be so
//! (another table, the clock, a function that nobody can look into) is not folded. Main thread only, in a transaction,
//! acting as the identity.

use super::node::{self, Step, each, is, make};
use super::subselect::{inline_in, value_of};
use super::volatility;
use pgrx::pg_sys::{self, List, Node, NodeTag, Oid, Query};

/// Why a condition cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfoldable {
    /// It reads other rows.
    SubSelect,
    /// It depends on the clock.
    Time(String),
    /// A function whose result may depend on more than its arguments.
    Function(String),
    /// A system column or the row as a whole.
    Column,
    /// A kind of expression that is not looked into.
    Expression,
}

impl std::fmt::Display for Unfoldable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SubSelect => f.write_str("a sub-select reads other rows"),
            Self::Time(what) => write!(f, "{what} depends on the clock"),
            Self::Function(name) => write!(f, "function {name} is not immutable"),
            Self::Column => f.write_str("a system column or a whole row is read"),
            Self::Expression => f.write_str("a kind of expression that is not looked into"),
        }
    }
}

/// Conditions that can be evaluated on a row alone.
pub struct Folded {
    /// Expressions that must all hold, in the order in which they came.
    pub conditions: *mut List,
    /// Whether they still depend on which roles are members of which.
    pub reads_roles: bool,
    /// Whether functions are called that are not built in, so that another role may not be allowed to.
    pub calls_users_functions: bool,
}

/// Folds conditions that must all hold. The result is in the current memory context. Raises the errors that the
/// conditions raise.
///
/// # Safety
/// Expressions over the range table's first entry.
pub unsafe fn fold(conditions: *mut List) -> Result<Folded, Unfoldable> {
    let mut folded = Folded { conditions: std::ptr::null_mut(), reads_roles: false, calls_users_functions: false };
    // SAFETY: the caller's promise.
    unsafe {
        for condition in each(conditions) {
            let inlined = inline(condition)?;
            look(inlined, &mut folded)?;
            let constant = pg_sys::estimate_expression_value(planner(), inlined);
            // Once more: of what was folded away nothing needs to be known.
            (folded.reads_roles, folded.calls_users_functions) = (false, false);
            for part in each(pg_sys::make_ands_implicit(pg_sys::canonicalize_qual(constant.cast(), false))) {
                folded.conditions = pg_sys::lappend(folded.conditions, part.cast());
            }
        }
        let all: Vec<*mut Node> = each(folded.conditions).collect();
        for condition in all {
            look(condition, &mut folded)?;
        }
    }
    Ok(folded)
}

/// Whether what conditions say of a row may change although no row of any table does: by the clock, or by a function that
/// nobody can look into. Of functions in SQL their bodies are looked at.
///
/// # Safety
/// Expressions over the range table's first entry.
pub unsafe fn is_restless(conditions: *mut List) -> bool {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn walker(node: *mut Node, context: *mut std::ffi::c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: nodes are read as what their tags say.
        unsafe {
            if is(node, NodeTag::T_Query) {
                let query = node::copy(node).cast::<Query>();
                inline_in(query);
                return pg_sys::query_tree_walker(query, Some(walker), context, 0);
            }
            let restless = is(node, NodeTag::T_SQLValueFunction) && clock(node).is_some()
                || is(node, NodeTag::T_NextValueExpr)
                || node::any_function(node, |function| {
                    matches!(volatility::of(function), volatility::Of::Time(_) | volatility::Of::Unknown(_))
                });
            restless || pg_sys::expression_tree_walker(node, Some(walker), context)
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        each(conditions).any(|condition| {
            walker(pg_sys::eval_const_expressions(std::ptr::null_mut(), condition), std::ptr::null_mut())
        })
    }
}

/// A planner's state with nothing in it, as `estimate_expression_value` wants one.
unsafe fn planner() -> *mut pg_sys::PlannerInfo {
    // SAFETY: nodes of these tags.
    unsafe {
        let root = make::<pg_sys::PlannerInfo>(NodeTag::T_PlannerInfo);
        (*root).glob = make::<pg_sys::PlannerGlobal>(NodeTag::T_PlannerGlobal);
        root
    }
}

/// Replaces SQL functions by their bodies and sub-selects that read nothing by their values, until nothing is left to
/// replace.
unsafe fn inline(condition: *mut Node) -> Result<*mut Node, Unfoldable> {
    const ROUNDS: usize = 16;
    let mut now = condition;
    for _ in 0..ROUNDS {
        let mut failed = None;
        // SAFETY: expressions as the caller has them. Without a planner's state nothing that is only stable is evaluated.
        let next = unsafe {
            let without = node::replace(now, &mut |node| {
                if !is(node, NodeTag::T_SubLink) {
                    return None;
                }
                match value_of(node.cast()) {
                    Ok(value) => Some(value),
                    Err(why) => {
                        failed = Some(why);
                        Some(node)
                    }
                }
            });
            pg_sys::eval_const_expressions(std::ptr::null_mut(), without)
        };
        if let Some(why) = failed {
            return Err(why);
        }
        // SAFETY: both are trees.
        if unsafe { pg_sys::equal(now.cast(), next.cast()) } {
            return Ok(next);
        }
        now = next;
    }
    Err(Unfoldable::Expression)
}

/// Looks at every node of an expression.
unsafe fn look(condition: *mut Node, found: &mut Folded) -> Result<(), Unfoldable> {
    let mut failed = None;
    // SAFETY: an analysed expression.
    unsafe {
        node::walk(condition, &mut |node| {
            failed = unfoldable(node).or_else(|| functions(node, found));
            if failed.is_some() { Step::Stop } else { Step::Down }
        });
    }
    failed.map_or(Ok(()), Err)
}

/// Why the node itself, without its functions and children, cannot be evaluated on a row alone.
unsafe fn unfoldable(node: *mut Node) -> Option<Unfoldable> {
    // SAFETY: nodes are read as what their tags say.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                (var.varlevelsup != 0 || var.varno as i64 != 1 || var.varattno <= 0).then_some(Unfoldable::Column)
            }
            NodeTag::T_SubLink | NodeTag::T_SubPlan | NodeTag::T_AlternativeSubPlan => Some(Unfoldable::SubSelect),
            NodeTag::T_SQLValueFunction => clock(node),
            NodeTag::T_CoerceViaIO => {
                let to = (*node.cast::<pg_sys::CoerceViaIO>()).resulttype;
                reads_the_clock_as_text(to).then(|| Unfoldable::Time("a cast of text to a date or time".to_owned()))
            }
            NodeTag::T_Const
            | NodeTag::T_List
            | NodeTag::T_FuncExpr
            | NodeTag::T_NamedArgExpr
            | NodeTag::T_OpExpr
            | NodeTag::T_DistinctExpr
            | NodeTag::T_NullIfExpr
            | NodeTag::T_ScalarArrayOpExpr
            | NodeTag::T_BoolExpr
            | NodeTag::T_SubscriptingRef
            | NodeTag::T_FieldSelect
            | NodeTag::T_RelabelType
            | NodeTag::T_ArrayCoerceExpr
            | NodeTag::T_CollateExpr
            | NodeTag::T_CaseExpr
            | NodeTag::T_CaseWhen
            | NodeTag::T_CaseTestExpr
            | NodeTag::T_ArrayExpr
            | NodeTag::T_RowExpr
            | NodeTag::T_RowCompareExpr
            | NodeTag::T_CoalesceExpr
            | NodeTag::T_MinMaxExpr
            | NodeTag::T_NullTest
            | NodeTag::T_BooleanTest => None,
            _ => Some(Unfoldable::Expression),
        }
    }
}

pub(super) unsafe fn clock(node: *mut Node) -> Option<Unfoldable> {
    use pg_sys::SQLValueFunctionOp as Of;
    // SAFETY: the caller's promise.
    let of = unsafe { (*node.cast::<pg_sys::SQLValueFunction>()).op };
    let identity = [
        Of::SVFOP_CURRENT_ROLE,
        Of::SVFOP_CURRENT_USER,
        Of::SVFOP_USER,
        Of::SVFOP_SESSION_USER,
        Of::SVFOP_CURRENT_CATALOG,
        Of::SVFOP_CURRENT_SCHEMA,
    ];
    (!identity.contains(&of)).then(|| Unfoldable::Time("the current date or time".to_owned()))
}

/// Types whose input understands words such as `now` and `today`.
fn reads_the_clock_as_text(type_oid: Oid) -> bool {
    // SAFETY: catalog look-ups.
    let base = unsafe {
        let element = pg_sys::get_base_element_type(type_oid);
        if element == Oid::INVALID { pg_sys::getBaseType(type_oid) } else { element }
    };
    matches!(
        base,
        pg_sys::DATEOID | pg_sys::TIMEOID | pg_sys::TIMETZOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID
    )
}

/// Why the functions of a node cannot be called on a row alone.
pub(super) unsafe fn functions(node: *mut Node, found: &mut Folded) -> Option<Unfoldable> {
    use volatility::Of;
    let mut failed = None;
    // SAFETY: a node of an analysed expression.
    unsafe {
        node::any_function(node, |function| {
            match volatility::of(function) {
                Of::Arguments { built_in } => found.calls_users_functions |= !built_in,
                Of::Roles => found.reads_roles = true,
                Of::Time(name) => failed = Some(Unfoldable::Time(name)),
                Of::Unknown(name) => failed = Some(Unfoldable::Function(name)),
            }
            failed.is_some()
        });
    }
    failed
}
