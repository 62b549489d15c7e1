//! Keeps what the present knows of tables apart from what the past knew.
//!
//! Decoding looks at the catalogs as they were, through the very caches that the rest of the process looks at them as they
//! are with. Postgres heals in one direction: where decoding passes the commit of a schema change, it drops what that
//! change touched, and each tick decodes past every commit that its snapshot sees. What is left to do here:
//!
//! - An entry of the *present* must not be used on WAL from before a change (the wrong descriptor reads past tuples).
//!   So what was invalidated since the last decoding, and what was looked at without a lock (`unlocked`), is dropped before the
//!   next ([`enter`]), and built anew as it was.
//! - An entry of the *past* must not outlive a change that was heard of while decoding, for its commit may lie behind what was
//!   decoded. Where anything was heard then, everything is dropped after it ([`leave`]).
//! - What decoding drops is no news: those who listen for changes of access heard of each when it was made, or will
//!   ([`is_no_news`]).
//!
//! Main thread of a feeder only.

use super::image;
use crate::unlocked;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

/// Relations that are told apart.
const MANY: usize = 256;

thread_local! {
    /// Relations that were invalidated; an invalid one stands for all.
    static NOTED: RefCell<HashSet<Oid>> = RefCell::default();
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    /// While this process decodes: how many messages of others it had heard.
    static HEARD: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Whether an invalidation is decoding's own. One that came from another process while it decodes is news, and so is
/// what follows it: rather once too often.
pub fn is_no_news() -> bool {
    HEARD.get().is_some_and(|messages| heard() == messages)
}

/// Begins to listen; what was known before is not trusted.
pub fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: a function of the right type that lives as long as the process.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache), Datum::from(0)) };
    }
    note(Oid::INVALID);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_relcache(_arg: Datum, relation: Oid) {
    note(relation);
    image::forget(relation);
}

fn note(relation: Oid) {
    NOTED.with_borrow_mut(|noted| {
        noted.insert(if noted.len() < MANY { relation } else { Oid::INVALID });
    });
}

fn heard() -> u64 {
    // SAFETY: a plain read of a counter of this process.
    unsafe { (&raw const pg_sys::SharedInvalidMessageCounter).read() }
}

/// Before decoding: drops what the present may know that the past did not.
///
/// # Safety
/// In a transaction.
pub unsafe fn enter() {
    HEARD.set(Some(heard()));
    let mut noted = NOTED.take();
    noted.extend(unlocked::take());
    // SAFETY: the caller's promise.
    unsafe {
        if noted.contains(&Oid::INVALID) {
            pg_sys::InvalidateSystemCaches();
            // Which has told everybody of everything, and us that we did it.
            NOTED.take();
            image::forget(Oid::INVALID);
        } else {
            for relation in noted {
                pg_sys::RelationCacheInvalidateEntry(relation);
                image::forget(relation);
            }
        }
    }
}

/// After decoding: drops what the past knew that the present may not.
///
/// # Safety
/// In a transaction.
pub unsafe fn leave() {
    if !is_no_news() {
        // Those were listened to.
        HEARD.set(Some(heard()));
        // What was noted while decoding is dropped once more before the next.
        let noted = NOTED.take();
        // SAFETY: the caller's promise.
        unsafe { pg_sys::InvalidateSystemCaches() };
        NOTED.set(noted);
    }
    HEARD.set(None);
}
