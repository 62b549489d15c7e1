//! How many sockets there may be, in all and per address. Any thread.
//!
//! A socket counts from `accept`; a connection from its upgrade. Sockets have some room above the bound of connections, so that health
//! checks and refusals can be answered.

use crate::metrics::Metrics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Sockets above the bound of connections.
const ROOM: u32 = 64;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    sockets: u32,
    connections: u32,
}

/// The counts.
#[derive(Debug)]
pub struct Gate {
    counts: Mutex<(Count, HashMap<IpAddr, Count>)>,
    metrics: Arc<Metrics>,
}

/// Why one more is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The process has as many as it may.
    Full,
    /// The address has.
    AddressFull,
}

/// A socket's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    address: IpAddr,
    upgraded: bool,
}

impl Gate {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), metrics })
    }

    /// A place for a socket that was accepted.
    pub fn socket(self: &Arc<Self>, address: IpAddr, max: u32, max_per_address: u32) -> Result<Permit, Refusal> {
        let mut counts = self.counts.lock();
        let refusal = if counts.0.sockets >= max.saturating_add(ROOM) {
            Some(Refusal::Full)
        } else if counts.1.get(&address).is_some_and(|c| c.sockets >= max_per_address.saturating_add(ROOM)) {
            Some(Refusal::AddressFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.metrics.figures.refused_total.fetch_add(1, Ordering::Relaxed);
            return Err(refusal);
        }
        counts.0.sockets += 1;
        counts.1.entry(address).or_default().sockets += 1;
        Ok(Permit { gate: self.clone(), address, upgraded: false })
    }
}

impl Permit {
    /// The socket becomes a connection.
    pub fn upgrade(&mut self, max: u32, max_per_address: u32) -> Result<(), Refusal> {
        let mut counts = self.gate.counts.lock();
        let of_address = counts.1.get(&self.address).copied().unwrap_or_default();
        let refusal = if counts.0.connections >= max {
            Some(Refusal::Full)
        } else if of_address.connections >= max_per_address {
            Some(Refusal::AddressFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.gate.metrics.figures.refused_total.fetch_add(1, Ordering::Relaxed);
            return Err(refusal);
        }
        counts.0.connections += 1;
        counts.1.entry(self.address).or_default().connections += 1;
        self.upgraded = true;
        self.gate.metrics.figures.connections.fetch_add(1, Ordering::Relaxed);
        self.gate.metrics.figures.connections_total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock();
        let upgraded = u32::from(self.upgraded);
        counts.0.sockets -= 1;
        counts.0.connections -= upgraded;
        if let Some(count) = counts.1.get_mut(&self.address) {
            count.sockets -= 1;
            count.connections -= upgraded;
            if count.sockets == 0 {
                counts.1.remove(&self.address);
            }
        }
        if self.upgraded {
            self.gate.metrics.figures.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
