//! A predicate that is evaluated on rows one by one, by Postgres' executor.
//!
//! It has two parts. *Access* (policies and the tenant's column) comes first and decides alone whether the other may be
//! asked at all, so that an error of the client's own condition tells nothing about a row that it may not see.
//! Main thread only, in a transaction.

use super::node;
use pgrx::pg_sys::{self, Datum, List, NodeTag, Oid};
use rte_core::router::Value;
use std::ffi::c_void;

/// What is known of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    In,
    Out,
    /// The session may see the row, but the client's condition reads a value that the change does not hold.
    Unknown,
}

/// A predicate as text, to be compared, hashed and sent; expressions over the range table's first entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Predicate {
    /// Lists of expressions that must all hold, as `node::text` makes it; empty: no restriction.
    pub access: String,
    pub condition: String,
    /// Role to evaluate as, where that matters; zero where it does not.
    pub role: u32,
    /// Whether it asks for memberships of roles, of whose changes the log tells nothing.
    pub reads_roles: bool,
}

impl Predicate {
    pub fn is_empty(&self) -> bool {
        self.access.is_empty() && self.condition.is_empty()
    }
}

pub struct Filter {
    memory: pg_sys::MemoryContext,
    estate: *mut pg_sys::EState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    access: Part,
    condition: Part,
    role: Oid,
    /// The column by whose value the shape is found, and the values that it may have.
    pub index: Option<(i16, Vec<Value>)>,
}

struct Part {
    state: *mut pg_sys::ExprState,
    columns: Vec<i16>,
}

impl Filter {
    /// Prepares a predicate for rows of `desc`. The caller acts as the identity that it was made for, because the right
    /// to call its functions is checked here.
    ///
    /// # Safety
    /// The predicate was made for the table of `desc`.
    pub unsafe fn new(predicate: &Predicate, desc: pg_sys::TupleDesc) -> Self {
        // SAFETY: everything is made in a context that belongs to the filter.
        unsafe {
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"whagons_rte filter".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let previous = pg_sys::MemoryContextSwitchTo(memory);
            let estate = pg_sys::CreateExecutorState();
            let context = pg_sys::CreateExprContext(estate);
            let slot =
                pg_sys::MakeSingleTupleTableSlot(pg_sys::CreateTupleDescCopy(desc), &raw const pg_sys::TTSOpsVirtual);
            (*context).ecxt_scantuple = slot;
            let (access, first) = part(&predicate.access, estate);
            let (condition, second) = part(&predicate.condition, estate);
            let index = index_of(first).or_else(|| index_of(second));
            pg_sys::MemoryContextSwitchTo(previous);
            Self { memory, estate, context, slot, access, condition, role: Oid::from(predicate.role), index }
        }
    }

    /// Whether a row is in the shape. `missing` tells which columns' values the change does not hold.
    ///
    /// # Safety
    /// A row of the descriptor that the filter was made for; `missing` columns are null in it.
    pub unsafe fn verdict(&mut self, values: &[Datum], nulls: &[bool], missing: &dyn Fn(i16) -> bool) -> Verdict {
        // SAFETY: the caller's promise; the slot is cleared before the row goes.
        unsafe {
            let slot = self.slot;
            let count = values.len();
            std::ptr::copy_nonoverlapping(values.as_ptr(), (*slot).tts_values, count);
            std::ptr::copy_nonoverlapping(nulls.as_ptr(), (*slot).tts_isnull, count);
            pg_sys::ExecStoreVirtualTuple(slot);
            let (mut user, mut security) = (Oid::INVALID, 0);
            pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut security);
            if self.role != Oid::INVALID {
                let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
                pg_sys::SetUserIdAndSecContext(self.role, security | restricted as i32);
            }
            let verdict = if !self.access.holds(self.context) {
                Verdict::Out
            } else if self.condition.columns.iter().any(|c| missing(*c)) {
                Verdict::Unknown
            } else if self.condition.holds(self.context) {
                Verdict::In
            } else {
                Verdict::Out
            };
            if self.role != Oid::INVALID {
                pg_sys::SetUserIdAndSecContext(user, security);
            }
            ((*(*slot).tts_ops).clear.unwrap_unchecked())(slot);
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            verdict
        }
    }

    /// Whether access depends on a column whose value the change does not hold; then nothing can be said of the row.
    pub fn is_blind(&self, missing: &dyn Fn(i16) -> bool) -> bool {
        self.access.columns.iter().any(|c| missing(*c))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and used by nothing else. Contexts below it go with it.
        unsafe {
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::MemoryContextDelete(self.memory);
        }
    }
}

/// # Safety
/// The text is of a list of expressions, or empty; the current memory context is the filter's.
unsafe fn part(text: &str, estate: *mut pg_sys::EState) -> (Part, *mut List) {
    if text.is_empty() {
        return (Part { state: std::ptr::null_mut(), columns: Vec::new() }, std::ptr::null_mut());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let list = node::parse(text).cast::<List>();
        let columns = node::columns(list.cast());
        let state = pg_sys::ExecPrepareQual(list, estate);
        (Part { state, columns }, list)
    }
}

impl Part {
    /// # Safety
    /// The context has a row.
    unsafe fn holds(&self, context: *mut pg_sys::ExprContext) -> bool {
        if self.state.is_null() {
            return true;
        }
        // SAFETY: as `ExecQual` does it: a qual's result is never null. Called through the bindings, which turn an error into
        // a panic: the function that the state points to would jump over our frames.
        unsafe {
            let previous = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let mut null = false;
            let result = pg_sys::ExecEvalExpr(self.state, context, &raw mut null);
            pg_sys::MemoryContextSwitchTo(previous);
            result.value() != 0
        }
    }
}

/// The first condition of the form `column = constant`, `column IN (…)` or `column = ANY(array)`.
unsafe fn index_of(conditions: *mut List) -> Option<(i16, Vec<Value>)> {
    // SAFETY: a list of analysed expressions.
    unsafe { node::each(conditions).find_map(|node| equality(node)) }
}

unsafe fn equality(node: *mut pg_sys::Node) -> Option<(i16, Vec<Value>)> {
    // SAFETY: nodes are read as what their tags say; lists of two.
    unsafe {
        let (operator, collation, args, any) = match (*node).type_ {
            NodeTag::T_OpExpr => {
                let op = &*node.cast::<pg_sys::OpExpr>();
                (op.opno, op.inputcollid, op.args, false)
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let op = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                if !op.useOr {
                    return None;
                }
                (op.opno, op.inputcollid, op.args, true)
            }
            _ => return None,
        };
        if crate::compat::list_length(args) != 2 || !is_equality(operator, collation) {
            return None;
        }
        let (first, second) = (pg_sys::list_nth(args, 0).cast(), pg_sys::list_nth(args, 1).cast());
        let (column, constant) = match (column_of(first), column_of(second)) {
            (Some(column), None) => (column, second),
            (None, Some(column)) if !any => (column, first),
            _ => return None,
        };
        if !node::is(constant, NodeTag::T_Const) {
            return None;
        }
        let constant = &*constant.cast::<pg_sys::Const>();
        if constant.constisnull {
            return Some((column, Vec::new()));
        }
        if any {
            return Some((column, elements(constant)?));
        }
        Some((column, vec![value_of(constant.consttype, constant.constvalue)?]))
    }
}

/// Equality of Postgres' own, under which equal values have equal [`Value`]s.
unsafe fn is_equality(operator: Oid, collation: Oid) -> bool {
    if operator.to_u32() >= pg_sys::FirstNormalObjectId {
        return false;
    }
    // SAFETY: catalog look-ups.
    unsafe {
        let name = pg_sys::get_opname(operator);
        !name.is_null()
            && std::ffi::CStr::from_ptr(name) == c"="
            && (collation == Oid::INVALID || pg_sys::get_collation_isdeterministic(collation))
    }
}

/// The number of a column of a type that has [`Value`]s.
unsafe fn column_of(mut node: *mut pg_sys::Node) -> Option<i16> {
    // SAFETY: nodes are read as what their tags say.
    unsafe {
        while node::is(node, NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        if !node::is(node, NodeTag::T_Var) {
            return None;
        }
        let var = &*node.cast::<pg_sys::Var>();
        has_values(var.vartype).then_some(var.varattno)
    }
}

fn has_values(type_oid: Oid) -> bool {
    matches!(
        type_oid,
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::UUIDOID
    )
}

/// A value to hash by, the same for equal values.
///
/// # Safety
/// `datum` is a value of the type and not null.
pub unsafe fn value_of(type_oid: Oid, datum: Datum) -> Option<Value> {
    // SAFETY: the caller's promise.
    unsafe {
        Some(match type_oid {
            pg_sys::INT2OID => Value::Int(i64::from(datum.value() as i16)),
            pg_sys::INT4OID => Value::Int(i64::from(datum.value() as i32)),
            pg_sys::INT8OID => Value::Int(datum.value() as i64),
            pg_sys::UUIDOID => Value::Bytes((*datum.cast_mut_ptr::<[u8; 16]>()).into()),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
                let plain = pg_sys::pg_detoast_datum_packed(stored);
                let value = Value::Bytes(pgrx::varlena_to_byte_slice(plain).into());
                if plain != stored {
                    pg_sys::pfree(plain.cast::<c_void>());
                }
                value
            }
            _ => return None,
        })
    }
}

/// The values of a constant array; NULLs among them equal nothing.
unsafe fn elements(constant: &pg_sys::Const) -> Option<Vec<Value>> {
    // SAFETY: a constant of an array type, whose elements are read as their type says.
    unsafe {
        let element = pg_sys::get_element_type(constant.consttype);
        if !has_values(element) {
            return None;
        }
        let (mut len, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element, &raw mut len, &raw mut by_value, &raw mut align);
        let array = pg_sys::pg_detoast_datum(constant.constvalue.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            i32::from(len),
            by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        (0..count as usize).filter(|i| !*nulls.add(*i)).map(|i| value_of(element, *values.add(i))).collect()
    }
}
