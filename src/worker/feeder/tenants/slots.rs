//! The landlord's watch over the replication slots of databases whose feeders do not run: what they hold back of the WAL stays
//! within `rte.max_slot_lag`, whoever is connected.
//!
//! A slot that holds back half of it is looked after by a visit, as a log that is full; one past it is dropped, as is one of a database
//! that is nobody's. What that loses, the database's next feeder finds out.

use super::super::{Feeder, switch};
use super::landlord::Landlord;
use crate::guc;
use crate::worker::process;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between looks, and between those at a slot that begins to hold back much.
pub const LOOK: Duration = Duration::from_secs(2);
const LOOK_AT_LAG: Duration = Duration::from_millis(250);
/// A database is nobody's for as long before its slot is dropped: its tenant may be registered anew.
const STRANGE: Duration = Duration::from_secs(60);

/// What the landlord knows of slots.
pub struct Slots {
    pub at: Instant,
    /// Since when databases with a slot have been nobody's.
    strange: HashMap<Oid, Instant>,
}

impl Slots {
    pub fn new(now: Instant) -> Self {
        Self { at: now, strange: HashMap::new() }
    }
}

/// A slot that nobody reads.
struct Idle {
    name: String,
    database: Oid,
    lag: u64,
}

fn idle_slots(own: Oid) -> Result<Vec<Idle>, pgrx::spi::Error> {
    Spi::connect(|client| {
        let mut slots = Vec::new();
        for row in client.select(include_str!("slots.sql"), None, &[DatumWithOid::from(own)])? {
            let (name, database) = (row["name"].value::<String>()?, row["database"].value::<Oid>()?);
            let (Some(name), Some(database)) = (name, database) else { continue };
            slots.push(Idle { name, database, lag: row["lag"].value::<i64>()?.unwrap_or(0).unsigned_abs() });
        }
        Ok(slots)
    })
}

impl Feeder {
    /// Looks at the slots of other databases now and then.
    pub(super) fn watch_slots(&mut self, landlord: &mut Landlord, now: Instant) {
        if now < landlord.slots.at {
            return;
        }
        landlord.slots.at = now + LOOK;
        let slots = process::transaction(|_| idle_slots(self.database))
            .unwrap_or_else(|e| pgrx::error!("could not read the replication slots: {e}"));
        let most = guc::max_slot_lag_bytes();
        landlord.known.values_mut().for_each(|known| known.lags = false);
        landlord.slots.strange.retain(|database, _| slots.iter().any(|slot| slot.database == *database));
        for slot in slots {
            if slot.lag > most / 8 {
                landlord.slots.at = now + LOOK_AT_LAG;
            }
            if slot.lag > most {
                let why = format!("it holds back {} MB of WAL, more than rte.max_slot_lag", slot.lag >> 20);
                drop_idle(&slot, &why);
                continue;
            }
            if let Some(known) = landlord.known.values_mut().find(|known| known.database == Some(slot.database)) {
                landlord.slots.strange.remove(&slot.database);
                known.lags = slot.lag > most / 2;
                if known.lags {
                    landlord.launches.next = now;
                }
            } else if landlord.read {
                let since = *landlord.slots.strange.entry(slot.database).or_insert(now);
                if slot.lag > most / 2 || now >= since + STRANGE {
                    drop_idle(&slot, "its database is no tenant's");
                }
            }
        }
    }
}

/// The same where there is no registry to ask, and nobody to send.
pub fn bound_slots(own: Oid) {
    let slots = process::transaction(|_| idle_slots(own))
        .unwrap_or_else(|e| pgrx::error!("could not read the replication slots: {e}"));
    for slot in slots.iter().filter(|slot| slot.lag > guc::max_slot_lag_bytes()) {
        drop_idle(slot, "it holds back more of the WAL than rte.max_slot_lag");
    }
}

fn drop_idle(slot: &Idle, why: &str) {
    match switch::drop_slot(&slot.name) {
        Ok(()) => pgrx::warning!("replication slot \"{}\" was dropped: {why}; clients resynchronise", slot.name),
        // Somebody reads it just now.
        Err(why) => pgrx::log!("replication slot \"{}\" could not be dropped: {why}", slot.name),
    }
}
