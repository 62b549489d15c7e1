//! The condition as it is written, walked by kinds of nodes and names before anything is looked up. Decides what may be said;
//! leaves types to the analyser and to [`super::check`]. Main thread only, in a transaction, in `failure::guarded`.
//!
//! Nodes are counted as often as the analyser is going to copy them: `BETWEEN` and `IN` repeat their left side, and nested
//! ones would grow without bound.

use super::{Client, MAX_DEPTH, names, types};
use crate::access::node::{each, is, make};
use crate::compat;
use crate::refusal::Refusal;
use pgrx::pg_sys::{self, A_Expr, A_Expr_Kind, List, Node, NodeTag, Oid};
use rte_protocol::wire::ErrorCode;
use std::ffi::CStr;

/// A string literal, which stands in the tree as a parameter.
pub(super) struct Literal {
    pub(super) text: *mut std::ffi::c_char,
    pub(super) location: i32,
}

/// Longest `char(n)` and `bit(n)` of a cast: it pads, so a short value could be made long.
const MAX_PADDED: i32 = 1024;

/// Walks the tree; string literals in it become parameters, types get their oids.
///
/// # Safety
/// `tree` came from [`super::grammar::read`].
pub(super) unsafe fn check(client: &Client, tree: *mut *mut Node) -> Result<Vec<Literal>, Refusal> {
    let mut walk = Walk { client, literals: Vec::new(), used: vec![false; client.values.len()] };
    // SAFETY: the caller's promise.
    unsafe { walk.node(tree, 0)? };
    match walk.used.iter().position(|used| !used) {
        None => Ok(walk.literals),
        Some(unused) => {
            let message = format!("parameter ${} is not used in where", unused + 1);
            Err(Refusal::new(ErrorCode::InvalidParams, message, "params has one value for each of $1, $2 … in where."))
        }
    }
}

/// The strings of a list that has nothing else in it.
///
/// # Safety
/// `list` is null or a list of nodes; the texts live as long as they.
pub(super) unsafe fn texts<'a>(list: *mut List) -> Option<Vec<&'a str>> {
    // SAFETY: the caller's promise; each is looked at by its tag.
    unsafe {
        each(list)
            .map(|node| {
                if !is(node, NodeTag::T_String) {
                    return None;
                }
                CStr::from_ptr((*node.cast::<pg_sys::String>()).sval).to_str().ok()
            })
            .collect()
    }
}

struct Walk<'a> {
    client: &'a Client<'a>,
    literals: Vec<Literal>,
    /// Which of the client's parameters were met.
    used: Vec<bool>,
}

/// What a walk gives: how many nodes the analyser is going to make of what was walked.
type Size = Result<u64, Refusal>;

impl Walk<'_> {
    /// # Safety
    /// `slot` holds null or a node of the grammar's, as for all functions here.
    unsafe fn node(&mut self, slot: *mut *mut Node, depth: u32) -> Size {
        // SAFETY: nodes are read as what their tags say.
        unsafe {
            let node = *slot;
            if node.is_null() {
                return Ok(0);
            }
            if depth > MAX_DEPTH {
                return Err(self.client.refuse(-1, "where is nested too deeply", ""));
            }
            let depth = depth + 1;
            let below = match (*node).type_ {
                NodeTag::T_A_Const => self.constant(slot)?,
                NodeTag::T_ColumnRef => self.column(&*node.cast())?,
                NodeTag::T_ParamRef => self.param(&*node.cast())?,
                NodeTag::T_A_Expr => self.operation(node.cast(), depth)?,
                NodeTag::T_FuncCall => self.call(&*node.cast(), depth)?,
                NodeTag::T_TypeCast => self.cast(node.cast(), depth)?,
                NodeTag::T_BoolExpr => self.list((*node.cast::<pg_sys::BoolExpr>()).args, depth)?,
                NodeTag::T_NullTest => self.node((&raw mut (*node.cast::<pg_sys::NullTest>()).arg).cast(), depth)?,
                NodeTag::T_BooleanTest => {
                    self.node((&raw mut (*node.cast::<pg_sys::BooleanTest>()).arg).cast(), depth)?
                }
                NodeTag::T_CaseExpr => {
                    let case = node.cast::<pg_sys::CaseExpr>();
                    self.node((&raw mut (*case).arg).cast(), depth)?
                        + self.list((*case).args, depth)?
                        + self.node((&raw mut (*case).defresult).cast(), depth)?
                }
                NodeTag::T_CaseWhen => {
                    let when = node.cast::<pg_sys::CaseWhen>();
                    self.node((&raw mut (*when).expr).cast(), depth)?
                        + self.node((&raw mut (*when).result).cast(), depth)?
                }
                NodeTag::T_CoalesceExpr => self.list((*node.cast::<pg_sys::CoalesceExpr>()).args, depth)?,
                NodeTag::T_MinMaxExpr => self.list((*node.cast::<pg_sys::MinMaxExpr>()).args, depth)?,
                NodeTag::T_A_ArrayExpr => self.list((*node.cast::<pg_sys::A_ArrayExpr>()).elements, depth)?,
                NodeTag::T_RowExpr => self.list((*node.cast::<pg_sys::RowExpr>()).args, depth)?,
                NodeTag::T_List => self.list(node.cast(), depth)?,
                NodeTag::T_A_Indirection => self.subscript(node.cast(), depth)?,
                NodeTag::T_A_Indices => {
                    let indices = node.cast::<pg_sys::A_Indices>();
                    self.node(&raw mut (*indices).lidx, depth)? + self.node(&raw mut (*indices).uidx, depth)?
                }
                NodeTag::T_CollateClause => self.collate(node.cast(), depth)?,
                tag => return Err(self.kind(node, tag)),
            };
            self.bounded(below + 1)
        }
    }

    fn bounded(&self, size: u64) -> Size {
        if size > self.client.max_nodes {
            let hint = "Long lists are better given as an array: column = ANY ($1).";
            return Err(self.client.refuse(-1, "where is too large", hint));
        }
        Ok(size)
    }

    unsafe fn list(&mut self, list: *mut List, depth: u32) -> Size {
        let mut size = 0;
        // SAFETY: a list of nodes; each element is the slot of one.
        unsafe {
            for i in 0..compat::list_length(list) {
                size += self.node((&raw mut (*(*list).elements.add(i as usize)).ptr_value).cast(), depth)?;
                self.bounded(size)?;
            }
        }
        Ok(size)
    }

    unsafe fn constant(&mut self, slot: *mut *mut Node) -> Size {
        // SAFETY: a value is read as what its tag says.
        unsafe {
            let constant = &*(*slot).cast::<pg_sys::A_Const>();
            if constant.isnull {
                return Ok(0);
            }
            match constant.val.node.type_ {
                NodeTag::T_String => {
                    let literal = Literal { text: constant.val.sval.sval, location: constant.location };
                    let reference = make::<pg_sys::ParamRef>(NodeTag::T_ParamRef);
                    (*reference).location = constant.location;
                    self.literals.push(literal);
                    (*reference).number =
                        i32::try_from(self.client.values.len() + self.literals.len()).unwrap_or(i32::MAX);
                    *slot = reference.cast();
                }
                NodeTag::T_Float => {
                    if !names::has_modest_numbers(&CStr::from_ptr(constant.val.fval.fval).to_string_lossy()) {
                        return Err(self.client.refuse(constant.location, "the number has too many digits", ""));
                    }
                }
                NodeTag::T_Integer | NodeTag::T_Boolean | NodeTag::T_BitString => {}
                tag => return Err(self.kind(*slot, tag)),
            }
            Ok(0)
        }
    }

    unsafe fn column(&mut self, reference: &pg_sys::ColumnRef) -> Size {
        // SAFETY: a list of nodes.
        let names = unsafe { texts(reference.fields) };
        let Some(column) = names.as_ref().and_then(|names| self.client.table.column(names)) else {
            let name: String = names.map_or_else(|| "*".to_owned(), |n| n.join(".")).chars().take(64).collect();
            let message = match self.client.position(reference.location) {
                Some(position) => format!("no such column: {name} (position {position} of where)"),
                None => format!("no such column: {name}"),
            };
            return Err(Refusal::new(ErrorCode::UnknownColumn, message, ""));
        };
        if !self.client.table.allows(column.type_oid) {
            let message = format!("column {} has a type that where cannot work with", column.name);
            let hint = "Postgres' own data types, enums, ranges and arrays of them can be used.";
            return Err(self.client.refuse(reference.location, message, hint));
        }
        Ok(0)
    }

    fn param(&mut self, reference: &pg_sys::ParamRef) -> Size {
        let place = usize::try_from(reference.number).ok().and_then(|n| n.checked_sub(1));
        match place.and_then(|place| self.used.get_mut(place)) {
            Some(used) => {
                *used = true;
                Ok(0)
            }
            None => {
                let message = format!("where uses ${}, and params has {}", reference.number, self.used.len());
                Err(Refusal::new(
                    ErrorCode::InvalidParams,
                    message,
                    "params has one value for each of $1, $2 … in where.",
                ))
            }
        }
    }

    unsafe fn operation(&mut self, operation: *mut A_Expr, depth: u32) -> Size {
        // SAFETY: the parts of an A_Expr.
        unsafe {
            let location = (*operation).location;
            let named = match (*operation).kind {
                A_Expr_Kind::AEXPR_OP
                | A_Expr_Kind::AEXPR_OP_ANY
                | A_Expr_Kind::AEXPR_OP_ALL
                | A_Expr_Kind::AEXPR_DISTINCT
                | A_Expr_Kind::AEXPR_NOT_DISTINCT
                | A_Expr_Kind::AEXPR_NULLIF
                | A_Expr_Kind::AEXPR_IN
                | A_Expr_Kind::AEXPR_LIKE
                | A_Expr_Kind::AEXPR_ILIKE => true,
                A_Expr_Kind::AEXPR_BETWEEN
                | A_Expr_Kind::AEXPR_NOT_BETWEEN
                | A_Expr_Kind::AEXPR_BETWEEN_SYM
                | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => false,
                _ => return Err(self.client.refuse(location, "this expression may not be used in where", PATTERNS)),
            };
            if named {
                self.operator((*operation).name, location)?;
            }
            let left = self.node(&raw mut (*operation).lexpr, depth)?;
            let right = self.node(&raw mut (*operation).rexpr, depth)?;
            let (lefts, rights) = match (*operation).kind {
                A_Expr_Kind::AEXPR_IN => {
                    let right = (*operation).rexpr;
                    if !is(right, NodeTag::T_List) {
                        return Err(self.client.refuse(location, "this expression may not be used in where", ""));
                    }
                    (compat::list_length(right.cast()).unsigned_abs().into(), 1)
                }
                A_Expr_Kind::AEXPR_BETWEEN | A_Expr_Kind::AEXPR_NOT_BETWEEN => (2, 1),
                A_Expr_Kind::AEXPR_BETWEEN_SYM | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => (4, 2),
                _ => (1, 1),
            };
            self.bounded(left.saturating_mul(lefts).saturating_add(right * rights))
        }
    }

    unsafe fn operator(&self, name: *mut List, location: i32) -> Result<(), Refusal> {
        // SAFETY: a list of nodes.
        let names = unsafe { texts(name) }.unwrap_or_default();
        match names.as_slice() {
            [name] | ["pg_catalog", name] if names::OPERATORS.contains(name) => Ok(()),
            [.., name] => {
                Err(self.client.refuse(location, format!("operator {name} may not be used in where"), PATTERNS))
            }
            [] => Err(self.client.refuse(location, "this operator may not be used in where", "")),
        }
    }

    unsafe fn call(&mut self, call: &pg_sys::FuncCall, depth: u32) -> Size {
        // SAFETY: the parts of a FuncCall.
        unsafe {
            let names = texts(call.funcname).unwrap_or_default();
            let name = match names.as_slice() {
                [name] | ["pg_catalog", name] if names::FUNCTIONS.contains(name) => name,
                names => {
                    let name: String = names.join(".").chars().take(64).collect();
                    let changes = names.last().is_some_and(|name| names::NOT_CONSTANT.contains(name));
                    let hint = if changes { PASS_IT } else { FUNCTIONS };
                    let message = format!("function {name} may not be used in where");
                    return Err(self.client.refuse(call.location, message, hint));
                }
            };
            let plain = call.agg_order.is_null()
                && call.agg_filter.is_null()
                && call.over.is_null()
                && !call.agg_within_group
                && !call.agg_star
                && !call.agg_distinct
                && !call.func_variadic;
            if !plain {
                return Err(self.client.refuse(call.location, format!("{name} is called as an aggregate"), ""));
            }
            self.list(call.args, depth)
        }
    }

    unsafe fn cast(&mut self, cast: *mut pg_sys::TypeCast, depth: u32) -> Size {
        // SAFETY: the parts of a TypeCast.
        unsafe {
            let name = (*cast).typeName;
            let type_oid = self.type_name(name)?;
            let argument = &raw mut (*cast).arg;
            // `interval '1' year`: the fields are part of how the literal is read. The input function of intervals reads no
            // clock and no names.
            let literal = is(*argument, NodeTag::T_A_Const)
                && is(&raw const (*(*argument).cast::<pg_sys::A_Const>()).val.node, NodeTag::T_String);
            if literal && type_oid == pg_sys::INTERVALOID && !(*name).typmods.is_null() {
                return Ok(1);
            }
            self.node(argument, depth)
        }
    }

    /// Puts the type's oid in the place of its name, so that nothing is looked up by what the client wrote.
    unsafe fn type_name(&self, name: *mut pg_sys::TypeName) -> Result<Oid, Refusal> {
        // SAFETY: the parts of a TypeName.
        unsafe {
            let location = (*name).location;
            let names = texts((*name).names).unwrap_or_default();
            let found = match names.as_slice() {
                [name] => types::named(None, name, self.client.table),
                [schema, name] => types::named(Some(schema), name, self.client.table),
                _ => None,
            };
            let Some(found) = found.filter(|_| !(*name).setof && !(*name).pct_type) else {
                let said: String = names.join(".").chars().take(64).collect();
                let hint = "Postgres' own data types and the enums and ranges of the table's columns can be used.";
                return Err(self.client.refuse(location, format!("type {said} may not be used in where"), hint));
            };
            let pads = matches!(found, pg_sys::BPCHAROID | pg_sys::BITOID);
            for modifier in each((*name).typmods) {
                let constant = modifier.cast::<pg_sys::A_Const>();
                let small = is(modifier, NodeTag::T_A_Const)
                    && (*constant).val.node.type_ == NodeTag::T_Integer
                    && (!pads || (*constant).val.ival.ival <= MAX_PADDED);
                if !small {
                    return Err(self.client.refuse(location, "the type's length may not be used in where", ""));
                }
            }
            let oid = if (*name).arrayBounds.is_null() { found } else { pg_sys::get_array_type(found) };
            (*name).names = std::ptr::null_mut();
            (*name).arrayBounds = std::ptr::null_mut();
            (*name).typeOid = oid;
            Ok(oid)
        }
    }

    unsafe fn subscript(&mut self, subscript: *mut pg_sys::A_Indirection, depth: u32) -> Size {
        // SAFETY: the parts of an A_Indirection.
        unsafe {
            if let Some(other) = each((*subscript).indirection).find(|node| !is(*node, NodeTag::T_A_Indices)) {
                return Err(self.kind(other, (*other).type_));
            }
            Ok(self.node(&raw mut (*subscript).arg, depth)? + self.list((*subscript).indirection, depth)?)
        }
    }

    unsafe fn collate(&mut self, clause: *mut pg_sys::CollateClause, depth: u32) -> Size {
        // SAFETY: the parts of a CollateClause.
        unsafe {
            match texts((*clause).collname).as_deref() {
                Some([_] | ["pg_catalog", _]) => self.node(&raw mut (*clause).arg, depth),
                _ => Err(self.client.refuse((*clause).location, super::failure::NO_COLLATION, "")),
            }
        }
    }

    /// Refuses a kind of node.
    unsafe fn kind(&self, node: *mut Node, tag: NodeTag) -> Refusal {
        let (message, hint) = match tag {
            NodeTag::T_SubLink => ("a sub-select may not be used in where", ""),
            NodeTag::T_SQLValueFunction => ("the clock and the user may not be asked in where", PASS_IT),
            NodeTag::T_NamedArgExpr => ("named arguments may not be used in where", ""),
            _ => ("this expression may not be used in where", ""),
        };
        // SAFETY: a node of the grammar's; those without a place have -1.
        let location = if tag == NodeTag::T_String { -1 } else { unsafe { pg_sys::exprLocation(node) } };
        self.client.refuse(location, message, hint)
    }
}

const PASS_IT: &str = "Pass it as a parameter: a shape must not change by itself.";
const PATTERNS: &str = "For patterns there are LIKE, ILIKE and starts_with.";
const FUNCTIONS: &str = "It does not exist, or it is not among the functions that docs/PROTOCOL.md lists.";
