//! Memory of Postgres' for what is only needed for a moment.
//!
//! Leaf. Main thread only.

use pgrx::pg_sys;

/// Memory for values that are only needed for a moment, given back as a whole.
pub struct Scratch {
    context: pg_sys::MemoryContext,
    uses: u32,
}

/// Uses between two resets: a reset costs little, but not nothing.
const USES: u32 = 64;

impl Scratch {
    pub fn new() -> Self {
        // SAFETY: hangs under the top context and belongs to this struct alone.
        let context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"whagons_rte scratch".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Self { context, uses: 0 }
    }

    /// Runs `f`, none of whose allocations by Postgres outlives the next calls.
    pub fn with<R>(&mut self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives as long as this struct, and nothing in it is referred to between calls.
        unsafe {
            if self.uses == USES {
                self.uses = 0;
                pg_sys::MemoryContextReset(self.context);
            }
            self.uses += 1;
            let previous = pg_sys::MemoryContextSwitchTo(self.context);
            let result = f();
            pg_sys::MemoryContextSwitchTo(previous);
            result
        }
    }

    /// Gives the memory back now.
    pub fn reset(&mut self) {
        self.uses = 0;
        // SAFETY: nothing in it is referred to between calls.
        unsafe { pg_sys::MemoryContextReset(self.context) };
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}
