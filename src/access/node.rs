//! Postgres' expression trees: small steps that every module here takes. Main thread only.

pub use crate::compat::make;

use crate::compat;
use pgrx::pg_sys::{self, Node, NodeTag};

/// Whether a node is of a kind; a null one is of none.
///
/// # Safety
/// `node` is null or a node.
pub unsafe fn is(node: *const Node, tag: NodeTag) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !node.is_null() && (*node).type_ == tag }
}

/// The elements of a list of nodes.
///
/// # Safety
/// `list` is null or a list of pointers, and stays as it is.
pub unsafe fn each(list: *mut pg_sys::List) -> impl Iterator<Item = *mut Node> {
    // SAFETY: the caller's promise.
    let count = unsafe { compat::list_length(list) };
    // SAFETY: in bounds.
    (0..count).map(move |i| unsafe { pg_sys::list_nth(list, i).cast::<Node>() })
}

/// # Safety
/// `node` is a node.
pub unsafe fn copy(node: *const Node) -> *mut Node {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}

/// Calls `f` with the functions of one node; tells whether it was true of one.
///
/// # Safety
/// `node` is a node of an analysed expression.
pub unsafe fn any_function(node: *mut Node, mut f: impl FnMut(pg_sys::Oid) -> bool) -> bool {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn checker(function: pg_sys::Oid, context: *mut std::ffi::c_void) -> bool {
        // SAFETY: the pointer that is handed over below, while the call lasts.
        unsafe { (*context.cast::<&mut dyn FnMut(pg_sys::Oid) -> bool>())(function) }
    }
    let mut f: &mut dyn FnMut(pg_sys::Oid) -> bool = &mut f;
    // SAFETY: the caller's promise.
    unsafe { pg_sys::check_functions_in_node(node, Some(checker), (&raw mut f).cast()) }
}

/// Calls `f` with each node of an expression, itself first, until it says to
/// stop. Sub-queries are not gone into.
///
/// # Safety
/// `node` is null or an analysed expression.
pub unsafe fn walk(node: *mut Node, f: &mut dyn FnMut(*mut Node) -> Step) -> bool {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn walker(node: *mut Node, context: *mut std::ffi::c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: the pointer that is handed over below, while the call lasts.
        unsafe {
            match (*context.cast::<&mut dyn FnMut(*mut Node) -> Step>())(node) {
                Step::Down => pg_sys::expression_tree_walker(node, Some(walker), context),
                Step::Stop => true,
            }
        }
    }
    let mut f: &mut dyn FnMut(*mut Node) -> Step = f;
    // SAFETY: the caller's promise.
    unsafe { walker(node, (&raw mut f).cast()) }
}

/// What a walk does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Down,
    Stop,
}

/// A copy of an expression in which `f` has replaced what it gives a node for.
///
/// # Safety
/// `node` is null or an analysed expression; what `f` gives is one too.
pub unsafe fn replace(node: *mut Node, f: &mut dyn FnMut(*mut Node) -> Option<*mut Node>) -> *mut Node {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn mutator(node: *mut Node, context: *mut std::ffi::c_void) -> *mut Node {
        if node.is_null() {
            return node;
        }
        // SAFETY: the pointer that is handed over below, while the call lasts.
        unsafe {
            match (*context.cast::<&mut dyn FnMut(*mut Node) -> Option<*mut Node>>())(node) {
                Some(other) => other,
                None => compat::expression_tree_mutator(node, mutator, context),
            }
        }
    }
    let mut f: &mut dyn FnMut(*mut Node) -> Option<*mut Node> = f;
    // SAFETY: the caller's promise.
    unsafe { mutator(node, (&raw mut f).cast()) }
}

/// The text of a tree: equal trees have equal texts, wherever they were written.
///
/// # Safety
/// `node` is a node.
pub unsafe fn text(node: *const Node) -> String {
    const PLACE: &str = " :location ";
    // SAFETY: gives a C string of the current memory context.
    let text = unsafe { std::ffi::CStr::from_ptr(pg_sys::nodeToString(node.cast())).to_string_lossy() };
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find(PLACE) {
        let (before, after) = rest.split_at(at + PLACE.len());
        out.push_str(before);
        out.push_str("-1");
        rest = after.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
    }
    out.push_str(rest);
    out
}

/// The tree of a text that [`text`] made.
///
/// # Safety
/// The text was made by [`text`], in this database.
pub unsafe fn parse(text: &str) -> *mut Node {
    let Ok(text) = std::ffi::CString::new(text) else { pgrx::error!("a stored expression has a NUL in it") };
    // SAFETY: the caller's promise.
    unsafe { pg_sys::stringToNode(text.as_ptr()).cast() }
}

/// Numbers of the columns that an expression over one table reads.
///
/// # Safety
/// `node` is null or an expression over the range table's first entry, without sub-queries.
pub unsafe fn columns(node: *mut Node) -> Vec<i16> {
    let mut columns = Vec::new();
    // SAFETY: the caller's promise.
    unsafe {
        walk(node, &mut |node| {
            if is(node, NodeTag::T_Var) {
                columns.push((*node.cast::<pg_sys::Var>()).varattno);
            }
            Step::Down
        });
    }
    columns.sort_unstable();
    columns.dedup();
    columns
}
