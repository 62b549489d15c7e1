//! Back-pressure from where bytes are used to where they are read: a reader takes a [`Credit`] for what it hands on
//! and waits while too much is out; the credit comes back when it is dropped, in whichever thread that happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// How much one reader may have handed on.
#[derive(Debug)]
pub struct Flow {
    limit: usize,
    out: AtomicUsize,
    below: Notify,
}

/// A share of a [`Flow`].
#[derive(Debug)]
pub struct Credit {
    flow: Arc<Flow>,
    bytes: usize,
}

impl Flow {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, out: AtomicUsize::new(0), below: Notify::new() })
    }

    /// May go over the limit: a single frame can be larger than it.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Credit {
        self.out.fetch_add(bytes, Ordering::AcqRel);
        Credit { flow: self.clone(), bytes }
    }

    /// Whether less than the limit is out.
    pub fn is_free(&self) -> bool {
        self.out.load(Ordering::Acquire) < self.limit
    }

    /// Waits until less than the limit is out.
    pub async fn ready(&self) {
        while self.out.load(Ordering::Acquire) >= self.limit {
            // A drop in between leaves a permit behind, so no wake-up is lost.
            self.below.notified().await;
        }
    }
}

impl Credit {
    /// Whether it is a share of this flow.
    pub fn is_of(&self, flow: &Arc<Flow>) -> bool {
        Arc::ptr_eq(&self.flow, flow)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        let before = self.flow.out.fetch_sub(self.bytes, Ordering::AcqRel);
        if before >= self.flow.limit && before - self.bytes < self.flow.limit {
            self.flow.below.notify_one();
        }
    }
}
