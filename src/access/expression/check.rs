//! The condition as it was analysed: what the names have turned out to mean. Allows kinds of nodes, types, and
//! functions that are Postgres' own and depend on nothing but their arguments; gives parameters their values. Main thread only, in a
//! transaction, in `failure::guarded`.

use super::failure::{NO_COLLATION, Stage};
use super::function::Function;
use super::raw::Literal;
use super::{Client, MAX_COSTLY, MAX_COSTLY_BYTES, names, params, types};
use crate::access::node::{each, is};
use crate::compat;
use crate::refusal::Refusal;
use pgrx::pg_sys::{self, Const, List, Node, NodeTag, Oid, OpExpr, Param};
use rte_protocol::wire::ErrorCode;
use std::ffi::CStr;

/// Walks the tree and puts constants in the place of parameters.
///
/// # Safety
/// `tree` is an analysed expression that nothing else refers to.
pub(super) unsafe fn check(client: &Client, literals: &[Literal], tree: *mut *mut Node) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    unsafe { Check { client, literals, costly: 0, costly_bytes: 0, seen: Seen::default() }.node(tree) }
}

struct Check<'a> {
    client: &'a Client<'a>,
    literals: &'a [Literal],
    /// Uses of costly functions.
    costly: u64,
    /// Bytes of the constants below them.
    costly_bytes: u64,
    seen: Seen,
}

/// What was met so far, to tell what a node has below it.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Bytes of constants.
    bytes: u64,
    /// Casts that make numbers of text or JSON.
    numbers: u64,
}

type Verdict = Result<(), Refusal>;

impl Check<'_> {
    /// # Safety
    /// `slot` holds null or an analysed node, as for all functions here.
    unsafe fn node(&mut self, slot: *mut *mut Node) -> Verdict {
        // SAFETY: nodes are read as what their tags say. The depth is a small multiple of that of the raw tree, which is
        // bounded.
        unsafe {
            let node = *slot;
            if node.is_null() {
                return Ok(());
            }
            pg_sys::check_stack_depth();
            match (*node).type_ {
                NodeTag::T_Param => return self.param(slot),
                NodeTag::T_Const => return self.constant(slot),
                NodeTag::T_List => return self.list(node.cast()),
                NodeTag::T_CaseWhen => {
                    let when = node.cast::<pg_sys::CaseWhen>();
                    self.node((&raw mut (*when).expr).cast())?;
                    return self.node((&raw mut (*when).result).cast());
                }
                _ => {}
            }
            self.below(node)?;
            if !self.client.table.allows(pg_sys::exprType(node)) {
                return Err(self.refuse(node, "a value is of a type that where may not use", ""));
            }
            Ok(())
        }
    }

    unsafe fn below(&mut self, node: *mut Node) -> Verdict {
        // SAFETY: as for `node`.
        unsafe {
            match (*node).type_ {
                NodeTag::T_Var | NodeTag::T_CaseTestExpr => Ok(()),
                NodeTag::T_BoolExpr => self.list((*node.cast::<pg_sys::BoolExpr>()).args),
                NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                    let op = node.cast::<OpExpr>();
                    let before = self.seen;
                    self.list((*op).args)?;
                    self.function(pg_sys::get_opcode((*op).opno), 1, before, node).map(drop)
                }
                NodeTag::T_ScalarArrayOpExpr => {
                    let op = node.cast::<pg_sys::ScalarArrayOpExpr>();
                    let before = self.seen;
                    self.list((*op).args)?;
                    let times = elements(pg_sys::list_nth((*op).args, 1).cast());
                    self.function(pg_sys::get_opcode((*op).opno), times, before, node).map(drop)
                }
                NodeTag::T_RowCompareExpr => {
                    let row = node.cast::<pg_sys::RowCompareExpr>();
                    for i in 0..compat::list_length((*row).opnos) {
                        self.function(pg_sys::get_opcode(pg_sys::list_nth_oid((*row).opnos, i)), 1, self.seen, node)?;
                    }
                    self.list((*row).largs)?;
                    self.list((*row).rargs)
                }
                NodeTag::T_FuncExpr => self.call(node.cast()),
                NodeTag::T_RelabelType => self.node((&raw mut (*node.cast::<pg_sys::RelabelType>()).arg).cast()),
                NodeTag::T_CoerceViaIO => self.cast_as_text(node.cast()),
                NodeTag::T_ArrayCoerceExpr => {
                    let cast = node.cast::<pg_sys::ArrayCoerceExpr>();
                    self.node((&raw mut (*cast).arg).cast())?;
                    self.node((&raw mut (*cast).elemexpr).cast())
                }
                NodeTag::T_CollateExpr => {
                    let collate = node.cast::<pg_sys::CollateExpr>();
                    if !types::is_built_in((*collate).collOid) {
                        // At the place where the analyser says that there is none.
                        return Err(self.client.refuse((*collate).location, NO_COLLATION, ""));
                    }
                    self.node((&raw mut (*collate).arg).cast())
                }
                NodeTag::T_NullTest => self.node((&raw mut (*node.cast::<pg_sys::NullTest>()).arg).cast()),
                NodeTag::T_BooleanTest => self.node((&raw mut (*node.cast::<pg_sys::BooleanTest>()).arg).cast()),
                NodeTag::T_CaseExpr => {
                    let case = node.cast::<pg_sys::CaseExpr>();
                    self.node((&raw mut (*case).arg).cast())?;
                    self.list((*case).args)?;
                    self.node((&raw mut (*case).defresult).cast())
                }
                NodeTag::T_CoalesceExpr => self.list((*node.cast::<pg_sys::CoalesceExpr>()).args),
                NodeTag::T_MinMaxExpr => self.list((*node.cast::<pg_sys::MinMaxExpr>()).args),
                NodeTag::T_ArrayExpr => self.list((*node.cast::<pg_sys::ArrayExpr>()).elements),
                NodeTag::T_SubscriptingRef => self.subscript(node.cast()),
                _ => Err(self.refuse(node, "this expression may not be used in where", "")),
            }
        }
    }

    unsafe fn list(&mut self, list: *mut List) -> Verdict {
        // SAFETY: a list of nodes; each element is the slot of one.
        unsafe {
            for i in 0..compat::list_length(list) {
                self.node((&raw mut (*(*list).elements.add(i as usize)).ptr_value).cast())?;
            }
        }
        Ok(())
    }

    unsafe fn param(&mut self, slot: *mut *mut Node) -> Verdict {
        // SAFETY: the raw walk let through numbers of parameters and of literals only.
        unsafe {
            let param = &*(*slot).cast::<Param>();
            let place = usize::try_from(param.paramid).unwrap_or(0).saturating_sub(1);
            let (type_oid, collation) = if param.paramtype == pg_sys::UNKNOWNOID {
                (pg_sys::TEXTOID, pg_sys::DEFAULT_COLLATION_OID)
            } else {
                (param.paramtype, param.paramcollid)
            };
            if let Some(value) = self.client.values.get(place) {
                self.client.stage.set(Stage::Param(place + 1));
                *slot = value.bind(type_oid, collation).map_err(|why| {
                    Refusal::new(ErrorCode::InvalidParams, format!("parameter ${} {why}", place + 1), "")
                })?;
            } else {
                let literal = &self.literals[place - self.client.values.len()];
                let text = CStr::from_ptr(literal.text).to_owned();
                self.client.stage.set(Stage::Literal(self.client.position(literal.location).unwrap_or(0)));
                *slot = params::constant(Some(text), type_oid, collation)
                    .map_err(|why| self.client.refuse(literal.location, format!("the literal {why}"), ""))?;
            }
            self.client.stage.set(Stage::Analysing);
            self.seen.bytes += size((*slot).cast());
            Ok(())
        }
    }

    unsafe fn constant(&mut self, slot: *mut *mut Node) -> Verdict {
        // SAFETY: a Const.
        unsafe {
            let constant = (*slot).cast::<Const>();
            if (*constant).consttype == pg_sys::UNKNOWNOID && (*constant).constisnull {
                let text = params::constant(None, pg_sys::TEXTOID, pg_sys::DEFAULT_COLLATION_OID);
                *slot = text.map_err(|why| self.client.refuse((*constant).location, format!("NULL {why}"), ""))?;
                return Ok(());
            }
            if !self.client.table.allows((*constant).consttype) {
                return Err(self.refuse(*slot, "a value is of a type that where may not use", ""));
            }
            self.seen.bytes += size(constant);
            Ok(())
        }
    }

    unsafe fn call(&mut self, call: *mut pg_sys::FuncExpr) -> Verdict {
        // SAFETY: the parts of a FuncExpr.
        unsafe {
            let node = call.cast::<Node>();
            let before = self.seen;
            self.list((*call).args)?;
            if (*call).funcretset || (*call).funcvariadic {
                return Err(self.refuse(node, "this function may not be used in where", ""));
            }
            let function =
                self.function((*call).funcid, u64::from(compat::list_length((*call).args) > 1), before, node)?;
            match function.name.as_str() {
                "numeric" => {
                    let of_json = pg_sys::exprType(pg_sys::list_nth((*call).args, 0).cast()) == pg_sys::JSONBOID;
                    self.seen.numbers += u64::from(of_json);
                    Ok(())
                }
                "timezone" => self.zone(pg_sys::list_nth((*call).args, 0).cast()),
                // With an empty escape it doubles backslashes, and nested ones would grow without bound.
                "like_escape" if !each((*call).args).all(|arg| is(arg, NodeTag::T_Const)) => {
                    Err(self.refuse(node, "a pattern with ESCAPE must be constant", ""))
                }
                _ => Ok(()),
            }
        }
    }

    unsafe fn zone(&self, zone: *mut Node) -> Verdict {
        // SAFETY: an argument of timezone: text, or an interval.
        unsafe {
            if pg_sys::exprType(zone) != pg_sys::TEXTOID {
                return Ok(());
            }
            let constant = zone.cast::<Const>();
            let plain = is(zone, NodeTag::T_Const) && !(*constant).constisnull && {
                let text = pg_sys::text_to_cstring((*constant).constvalue.cast_mut_ptr());
                names::is_zone_name(&CStr::from_ptr(text).to_string_lossy())
            };
            if plain {
                Ok(())
            } else {
                Err(self.refuse(zone, "a time zone must be a constant name, as in 'Europe/Berlin'", ""))
            }
        }
    }

    /// A cast through text. Those of `bytea` double their value, and nested ones would grow without bound.
    unsafe fn cast_as_text(&mut self, cast: *mut pg_sys::CoerceViaIO) -> Verdict {
        // SAFETY: the parts of a CoerceViaIO.
        unsafe {
            self.node((&raw mut (*cast).arg).cast())?;
            let node = cast.cast::<Node>();
            let (from, to) = (pg_sys::exprType((*cast).arg.cast()), (*cast).resulttype);
            if !self.client.table.allows(from)
                || !self.client.table.allows(to)
                || [from, to].contains(&pg_sys::BYTEAOID)
            {
                return Err(self.refuse(node, "this cast may not be used in where", ""));
            }
            if matches!(to, pg_sys::NUMERICOID | pg_sys::JSONOID | pg_sys::JSONBOID) {
                self.seen.numbers += 1;
            }
            let (mut output, mut input, mut parameter, mut varlena) = (Oid::INVALID, Oid::INVALID, Oid::INVALID, false);
            pg_sys::getTypeOutputInfo(from, &raw mut output, &raw mut varlena);
            pg_sys::getTypeInputInfo(to, &raw mut input, &raw mut parameter);
            for function in [output, input] {
                if !types::is_built_in(function)
                    || pg_sys::func_volatile(function) as u8 != pg_sys::PROVOLATILE_IMMUTABLE
                {
                    let hint = "What a constant or a parameter is meant to be can be cast: '…'::date, $1::int4[].";
                    return Err(self.refuse(node, "this cast depends on settings", hint));
                }
            }
            Ok(())
        }
    }

    unsafe fn subscript(&mut self, subscript: *mut pg_sys::SubscriptingRef) -> Verdict {
        // SAFETY: the parts of a SubscriptingRef.
        unsafe {
            let node = subscript.cast::<Node>();
            let container = pg_sys::getBaseType((*subscript).refcontainertype);
            let plain = container == pg_sys::JSONBOID || pg_sys::get_element_type(container) != Oid::INVALID;
            if !plain || !self.client.table.allows(container) || !(*subscript).refassgnexpr.is_null() {
                return Err(self.refuse(node, "this subscript may not be used in where", ""));
            }
            self.list((*subscript).refupperindexpr)?;
            self.list((*subscript).reflowerindexpr)?;
            self.node((&raw mut (*subscript).refexpr).cast())
        }
    }

    /// Allows a function that `node` calls so many times for a row; `before`: what was met before its arguments.
    unsafe fn function(&mut self, oid: Oid, times: u64, before: Seen, node: *mut Node) -> Result<Function, Refusal> {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(function) = Function::load(oid).filter(|f| f.plain && types::is_built_in(oid)) else {
                return Err(self.refuse(node, "a function that is not Postgres' own may not be used in where", ""));
            };
            let name = &function.name;
            if name == "substring" && (function.is_sql || function.source == "textregexsubstr") {
                let hint = "substring(text from 1 for 3) can be used.";
                return Err(self.refuse(node, "substring with a pattern may not be used in where", hint));
            }
            let constant = function.volatility == pg_sys::PROVOLATILE_IMMUTABLE
                || function.volatility == pg_sys::PROVOLATILE_STABLE
                    && (names::ONLY_TIME_ZONE.contains(&function.source.as_str()) || name == "interval_pl_timestamptz");
            if !constant {
                let hint = "Its result depends on settings or on the clock. A cast of one side may help.";
                return Err(self.refuse(node, format!("function {name} may not be used in where"), hint));
            }
            if names::LONG_NUMBERS.contains(&name.as_str()) && self.seen.numbers > before.numbers {
                let message = "numerics that come out of text or JSON may not be multiplied or divided in where";
                return Err(self.refuse(node, message, "As float8 they may be: (data->>'price')::float8."));
            }
            if names::COSTLY.contains(&name.as_str()) {
                self.costly = self.costly.saturating_add(times);
                if self.costly > MAX_COSTLY {
                    let message = "where has too many costly operations: LIKE, ||, @>, && and products of numerics";
                    return Err(self.refuse(node, message, "At most 32 can be used; each pattern of an array counts."));
                }
                if times > 0 {
                    self.costly_bytes += self.seen.bytes - before.bytes;
                }
                if self.costly_bytes > MAX_COSTLY_BYTES {
                    let message = "constants that LIKE, ||, @>, && or another costly operation is given are too long";
                    return Err(self.refuse(node, message, ""));
                }
            }
            Ok(function)
        }
    }

    unsafe fn refuse(&self, node: *mut Node, message: impl Into<String>, hint: &str) -> Refusal {
        // SAFETY: an analysed node; those without a place have -1.
        self.client.refuse(unsafe { pg_sys::exprLocation(node) }, message, hint)
    }
}

/// Bytes of a constant, about.
unsafe fn size(constant: *mut Const) -> u64 {
    // SAFETY: a value of variable length begins with its header.
    unsafe {
        let plain = (*constant).constisnull || (*constant).constlen != -1;
        if plain { 8 } else { pgrx::varsize_any((*constant).constvalue.cast_mut_ptr()) as u64 }
    }
}

/// How many elements an array has at most; beyond any bound where that is not known.
unsafe fn elements(array: *mut Node) -> u64 {
    // SAFETY: nodes are read as what their tags say; a constant of an array type is an array.
    unsafe {
        if is(array, NodeTag::T_ArrayExpr) {
            return compat::list_length((*array.cast::<pg_sys::ArrayExpr>()).elements).unsigned_abs().into();
        }
        let constant = array.cast::<Const>();
        if !is(array, NodeTag::T_Const) {
            return u64::MAX;
        }
        if (*constant).constisnull {
            return 0;
        }
        let array = pg_sys::pg_detoast_datum((*constant).constvalue.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let dimensions = array.add(1).cast::<i32>();
        pg_sys::ArrayGetNItems((*array).ndim, dimensions).unsigned_abs().into()
    }
}
