//! How many sockets there may be, in all and per address, and how often an address may come and may be wrong. Any thread.
//!
//! A socket counts from `accept`; a connection from its upgrade. Sockets have some room above the bound of connections, so that health
//! checks and refusals can be answered.

use crate::metrics::Metrics;
use crate::rate::{Rate, Table, counted};
use parking_lot::Mutex;
use rte_protocol::bridge::GatewayConfig;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

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
    /// In all, and of the addresses that have any.
    counts: Mutex<(Count, HashMap<IpAddr, Count>)>,
    /// How often addresses came.
    handshakes: Mutex<Table>,
    /// How often their tokens were wrong.
    failures: Mutex<Table>,
    /// How often they named connections that are not there. Counted apart: after a restart of the gateway whole offices do, and
    /// are to be let in all the same.
    guesses: Mutex<Table>,
    metrics: Arc<Metrics>,
}

/// Why one more is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The process has as many as it may.
    Full,
    /// The address has.
    AddressFull,
    /// The address comes too often.
    TooOften,
}

/// A socket's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    address: IpAddr,
    upgraded: bool,
    /// It has its socket: a connection whose client polls has none of its own.
    socket: bool,
    /// It came to a listener on loopback.
    local: bool,
    /// Its address comes too often: to be told so, and no more.
    too_often: bool,
}

impl Gate {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            handshakes: Mutex::default(),
            failures: Mutex::default(),
            guesses: Mutex::default(),
            metrics,
        })
    }

    /// A place for a socket that was accepted, by a listener on loopback (`local`) or elsewhere.
    pub fn socket(self: &Arc<Self>, address: IpAddr, local: bool, config: &GatewayConfig) -> Result<Permit, Refusal> {
        let address = counted(address);
        let too_often = Rate::per_second(config.max_handshakes_per_second)
            .is_some_and(|rate| !self.handshakes.lock().take(address, rate, Instant::now()));
        let mut counts = self.counts.lock();
        let of_address = counts.1.get(&address).copied().unwrap_or_default();
        let refusal = if counts.0.sockets >= config.max_connections.saturating_add(ROOM) {
            Some(Refusal::Full)
        } else if of_address.sockets >= config.max_connections_per_address.saturating_add(ROOM) {
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
        Ok(Permit { gate: self.clone(), address, upgraded: false, socket: true, local, too_often })
    }
}

impl Permit {
    /// Whether it came to a listener on loopback.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether the address comes slowly enough to be listened to.
    pub fn check_pace(&self) -> Result<(), Refusal> {
        if self.too_often {
            self.gate.metrics.figures.rate_limited_total.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::TooOften);
        }
        Ok(())
    }

    /// The socket becomes a connection.
    pub fn upgrade(&mut self, config: &GatewayConfig) -> Result<(), Refusal> {
        let mut counts = self.gate.counts.lock();
        let of_address = counts.1.get(&self.address).copied().unwrap_or_default();
        let refusal = if counts.0.connections >= config.max_connections {
            Some(Refusal::Full)
        } else if of_address.connections >= config.max_connections_per_address {
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

    /// The socket is another's matter, or gone; the connection goes on.
    pub fn leave_socket(&mut self) {
        if std::mem::take(&mut self.socket) {
            let mut counts = self.gate.counts.lock();
            counts.0.sockets -= 1;
            if let Some(count) = counts.1.get_mut(&self.address) {
                count.sockets -= 1;
            }
        }
    }

    /// The address has named a connection that is not there. Answers whether it may be told so: past the bound of wrong tokens
    /// it is told that it asks too often.
    pub fn named_in_vain(&self, config: &GatewayConfig) -> bool {
        self.gate.metrics.figures.failed_ids_total.fetch_add(1, Ordering::Relaxed);
        Rate::per_minute(config.max_failed_tokens)
            .is_none_or(|rate| self.gate.guesses.lock().take(self.address, rate, Instant::now()))
    }

    /// Whether the address may offer another token.
    pub fn may_offer_token(&self, config: &GatewayConfig) -> bool {
        Rate::per_minute(config.max_failed_tokens)
            .is_none_or(|rate| !self.gate.failures.lock().get(self.address).is_empty(rate, Instant::now()))
    }

    /// A token that came from the address was wrong.
    pub fn token_failed(&self, config: &GatewayConfig) {
        self.gate.metrics.figures.failed_tokens_total.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = Rate::per_minute(config.max_failed_tokens) {
            self.gate.failures.lock().take(self.address, rate, Instant::now());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock();
        let (upgraded, socket) = (u32::from(self.upgraded), u32::from(self.socket));
        counts.0.sockets -= socket;
        counts.0.connections -= upgraded;
        if let Some(count) = counts.1.get_mut(&self.address) {
            count.sockets -= socket;
            count.connections -= upgraded;
            if count.sockets == 0 && count.connections == 0 {
                counts.1.remove(&self.address);
            }
        }
        if self.upgraded {
            self.gate.metrics.figures.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
