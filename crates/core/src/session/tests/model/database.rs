//! A database with row locks, whose transactions end in any order.

use crate::snapshot::{Snapshot, Xid};
use std::collections::{BTreeMap, HashMap};

pub type Row = [u64; 2];
pub type Copy = BTreeMap<u64, Row>;

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    Put(u64, Row),
    Set(u64, usize, u64),
    Delete(u64),
}

pub fn apply(copy: &mut Copy, op: &Op) {
    match op {
        Op::Put(key, row) => {
            copy.insert(*key, *row);
        }
        Op::Set(key, column, value) => {
            if let Some(row) = copy.get_mut(key) {
                row[*column] = *value;
            }
        }
        Op::Delete(key) => {
            copy.remove(key);
        }
    }
}

/// Two tables; shape `n` is table `n % 2`.
#[derive(Default)]
pub struct Database {
    pub next_xid: Xid,
    pub open: Vec<(Xid, Vec<(usize, Op)>)>,
    /// In order of commit.
    pub committed: Vec<(Xid, Vec<(usize, Op)>)>,
    pub locks: HashMap<(usize, u64), Xid>,
}

impl Database {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.next_xid, self.open.iter().map(|(xid, _)| *xid).collect())
    }

    pub fn at(&self, snapshot: &Snapshot, table: usize) -> Copy {
        let mut copy = Copy::new();
        let seen = self.committed.iter().filter(|(xid, _)| snapshot.sees(*xid));
        for (_, op) in seen.flat_map(|(_, ops)| ops).filter(|(t, _)| *t == table) {
            apply(&mut copy, op);
        }
        copy
    }

    /// What the later snapshot sees and the earlier one did not.
    pub fn between(&self, earlier: &Snapshot, later: &Snapshot, table: usize) -> Vec<Op> {
        let new = self.committed.iter().filter(|(xid, _)| later.sees(*xid) && !earlier.sees(*xid));
        new.flat_map(|(_, ops)| ops).filter(|(t, _)| *t == table).map(|(_, op)| op.clone()).collect()
    }

    pub fn step(&mut self, random: &mut Random) {
        if self.open.is_empty() || (self.open.len() < 4 && random.chance(30)) {
            self.open.push((self.next_xid, vec![]));
            self.next_xid += 1;
        }
        let at = random.below(self.open.len() as u64) as usize;
        if random.chance(35) {
            let (xid, ops) = self.open.remove(at);
            self.locks.retain(|_, holder| *holder != xid);
            if random.chance(85) {
                self.committed.push((xid, ops));
            }
            return;
        }
        let (table, key) = (random.below(2) as usize, random.below(6));
        let xid = self.open[at].0;
        if *self.locks.entry((table, key)).or_insert(xid) != xid {
            return;
        }
        let mut now = self.at(&Snapshot::new(self.next_xid, vec![]), table);
        self.open[at].1.iter().filter(|(t, _)| *t == table).for_each(|(_, op)| apply(&mut now, op));
        let value = random.below(1_000_000);
        let op = match now.get(&key) {
            None => Op::Put(key, [value, 0]),
            Some(_) if random.chance(30) => Op::Delete(key),
            Some(_) => Op::Set(key, random.below(2) as usize, value),
        };
        self.open[at].1.push((table, op));
    }
}
