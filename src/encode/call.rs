//! Calls into Postgres that turn a value into text: output functions, casts to json, detoasting.

use super::settings;
use core::ffi::CStr;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// A function that is looked up once and called per value, with a context for what it caches.
struct Function {
    info: pg_sys::FmgrInfo,
    context: pg_sys::MemoryContext,
}

impl Function {
    fn new(oid: pg_sys::Oid) -> Self {
        // SAFETY: the context belongs to this struct alone and is deleted when it is dropped. It hangs under
        // the top context, so that neither a transaction's end nor an error deletes it before.
        let context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"rte value encoder".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            )
        };
        let mut function = Self { info: pg_sys::FmgrInfo::default(), context };
        // SAFETY: fills the struct or raises an error. Nothing in Postgres keeps its address between calls.
        unsafe { pg_sys::fmgr_info_cxt(oid, &mut function.info, context) };
        function
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and nothing else refers to it.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Types whose text is the name of an object, with its schema where the search path does not show it.
const NAMING: &[pg_sys::Oid] = &[
    pg_sys::REGCLASSOID,
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGTYPEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGCOLLATIONOID,
];

/// The output function of a type.
pub(super) struct OutputFunction {
    function: Function,
    /// Whether the text depends on the search path: names of objects.
    names_objects: bool,
}

impl OutputFunction {
    pub(super) fn of_type(oid: pg_sys::Oid) -> Self {
        let mut function = pg_sys::InvalidOid;
        let mut is_varlena = false;
        // SAFETY: a catalog look-up that fills both places or raises an error.
        unsafe { pg_sys::getTypeOutputInfo(oid, &mut function, &mut is_varlena) };
        Self { function: Function::new(function), names_objects: NAMING.contains(&oid) }
    }

    /// The value's text, in the current memory context.
    ///
    /// # Safety
    /// `datum` is a value of the type and not null. The text lives until the context is reset.
    pub(super) unsafe fn text<'a>(&mut self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: output functions return a C string.
        let mut text =
            || unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(&mut self.function.info, datum)).to_bytes() };
        if self.names_objects { settings::with_pinned_path(text) } else { text() }
    }
}

/// A cast to json that `to_json` would use.
pub(super) struct CastFunction {
    function: Function,
    /// Owner of a function in a language other than C: the feeder is a superuser, and lends that to nobody's code.
    run_as: Option<pg_sys::Oid>,
}

impl CastFunction {
    /// The cast of a type that is not built in, if it has one.
    pub(super) fn to_json(oid: pg_sys::Oid) -> Option<Self> {
        let mut function = pg_sys::InvalidOid;
        // SAFETY: a catalog look-up that fills the place.
        let path = unsafe {
            pg_sys::find_coercion_pathway(
                pg_sys::JSONOID,
                oid,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                &mut function,
            )
        };
        if path != pg_sys::CoercionPathType::COERCION_PATH_FUNC || function == pg_sys::InvalidOid {
            return None;
        }
        Some(Self { function: Function::new(function), run_as: owner_of_interpreted(function) })
    }

    /// The value as a datum of type json.
    ///
    /// # Safety
    /// `datum` is a value of the cast's source type and not null.
    pub(super) unsafe fn json(&mut self, datum: pg_sys::Datum) -> pg_sys::Datum {
        // SAFETY: the caller's promise; the call raises an error where the function returns NULL.
        unsafe {
            let _lent = self.run_as.filter(|_| pg_sys::superuser()).map(Lent::to);
            pg_sys::FunctionCall1Coll(&mut self.function.info, pg_sys::InvalidOid, datum)
        }
    }
}

/// `INTERNALlanguageId` and `ClanguageId`: only superusers write functions in them.
const NATIVE_LANGUAGES: [u32; 2] = [12, 13];

/// The owner of a function that is written in a language whose code runs with the caller's rights.
fn owner_of_interpreted(function: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up; the tuple is read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, function.into());
        if tuple.is_null() {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, "function of a cast to json does not exist");
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let (language, owner) = ((*form).prolang, (*form).proowner);
        pg_sys::ReleaseSysCache(tuple);
        (!NATIVE_LANGUAGES.contains(&language.to_u32())).then_some(owner)
    }
}

/// Another user's identity, given back at the end of the scope.
struct Lent {
    user: pg_sys::Oid,
    context: core::ffi::c_int,
}

impl Lent {
    fn to(owner: pg_sys::Oid) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        let restricted = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
        // SAFETY: inside a transaction, whose abort would give the identity back too.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner, context | restricted);
        }
        Self { user, context }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: sets what `to` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// The bytes of a variable-length value, detoasted where they are stored elsewhere or compressed.
///
/// # Safety
/// `datum` is a variable-length value and not null. The bytes live as long as the value, or, where a copy
/// was needed, until the current memory context is reset.
pub(super) unsafe fn varlena<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise; a short header needs no copy, its bytes are read where they are.
    unsafe {
        let plain = pgrx::varatt_is_4b_u(value) || (pgrx::varatt_is_1b(value) && !pgrx::varatt_is_1b_e(value));
        let value = if plain { value } else { pg_sys::detoast_attr(value) };
        pgrx::varlena_to_byte_slice(value)
    }
}

/// The value with a full header and aligned, as C structs that start with one want it.
///
/// # Safety
/// As for [`varlena`].
pub(super) unsafe fn detoasted<T>(datum: pg_sys::Datum) -> *mut T {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise.
    unsafe { if pgrx::varatt_is_4b_u(value) { value } else { pg_sys::detoast_attr(value) }.cast() }
}
