//! What is gathered of transactions, bounded in memory whatever one of them did.
//!
//! Past the bound the table with most of it is given up: what is known of its rows is dropped, and what comes of it later is not
//! wanted any more; which transactions changed it is remembered. Other tables go on. Pure.

use crate::snapshot::Xid;
use std::collections::{HashMap, HashSet};

/// Transactions of tables that were given up which are told apart; past as many, they are not.
const TOLD_APART: usize = 10_000;

/// A change, as far as it matters here.
pub trait Change {
    fn transaction(&self) -> Xid;
    /// Names its table.
    fn table(&self) -> u32;
    /// Whether it is about rows; what is about the table itself is always kept.
    fn is_of_rows(&self) -> bool;
    /// Bytes of memory.
    fn size(&self) -> usize;
}

/// Changes that are being gathered.
#[derive(Debug)]
pub struct Gathered<C> {
    /// Bytes that may be kept.
    limit: usize,
    changes: Vec<C>,
    bytes: usize,
    /// Bytes that are kept of each table's rows.
    tables: HashMap<u32, usize>,
    /// Tables that were given up, and the transactions that changed them.
    given_up: HashMap<u32, HashSet<Xid>>,
    /// Transactions of all changes; the first `settled` are sorted, and each once.
    transactions: Vec<Xid>,
    settled: usize,
    /// The table and transaction that were last noted to be given up: most rows of a large transaction follow each other.
    last: Option<(u32, Xid)>,
}

/// What was gathered.
#[derive(Debug)]
pub struct Kept<C> {
    /// In the order in which they came.
    pub changes: Vec<C>,
    /// Tables that were given up, each with a transaction that changed it.
    pub given_up: Vec<(u32, Xid)>,
    /// There were too many such transactions to tell them apart: of each table one is named, or two where there were more.
    pub coarse: bool,
}

impl<C: Change> Gathered<C> {
    /// `limit`: bytes that may be kept.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            changes: Vec::new(),
            bytes: 0,
            tables: HashMap::new(),
            given_up: HashMap::new(),
            transactions: Vec::new(),
            settled: 0,
            last: None,
        }
    }

    /// Whether a change is to be added. Where it is not, it counts as seen and need not be read.
    pub fn wants(&mut self, transaction: Xid, table: u32, is_of_rows: bool) -> bool {
        self.note(transaction);
        if !is_of_rows || self.given_up.is_empty() {
            return true;
        }
        if self.last == Some((table, transaction)) {
            return false;
        }
        let Some(transactions) = self.given_up.get_mut(&table) else { return true };
        transactions.insert(transaction);
        self.last = Some((table, transaction));
        false
    }

    /// Adds a change that is wanted.
    pub fn add(&mut self, change: C) {
        let size = change.size();
        self.bytes += size;
        if change.is_of_rows() {
            *self.tables.entry(change.table()).or_default() += size;
        }
        self.changes.push(change);
        while self.bytes > self.limit && self.give_up_the_largest() {}
    }

    /// All transactions whose changes came, kept or not; each once.
    pub fn transactions(&mut self) -> &[Xid] {
        self.settle();
        &self.transactions
    }

    #[must_use]
    pub fn finish(self) -> Kept<C> {
        let coarse = self.given_up.values().map(HashSet::len).sum::<usize>() > TOLD_APART;
        let told = if coarse { 2 } else { usize::MAX };
        let each = |(table, transactions): (u32, HashSet<Xid>)| {
            transactions.into_iter().take(told).map(move |transaction| (table, transaction))
        };
        Kept { changes: self.changes, given_up: self.given_up.into_iter().flat_map(each).collect(), coarse }
    }

    fn note(&mut self, transaction: Xid) {
        if self.transactions.last() == Some(&transaction) {
            return;
        }
        self.transactions.push(transaction);
        // Rows of transactions may lie among each other.
        if self.transactions.len() > 1024 + 2 * self.settled {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.transactions.sort_unstable();
        self.transactions.dedup();
        self.settled = self.transactions.len();
    }

    fn give_up_the_largest(&mut self) -> bool {
        let largest = self.tables.iter().max_by_key(|(_, bytes)| **bytes).map(|(table, _)| *table);
        let Some(table) = largest else { return false };
        let transactions = self.given_up.entry(table).or_default();
        self.changes.retain(|change| {
            let gone = change.table() == table && change.is_of_rows();
            if gone {
                transactions.insert(change.transaction());
            }
            !gone
        });
        self.bytes -= self.tables.remove(&table).unwrap_or_default();
        // What held very many is not held on to.
        self.changes.shrink_to(self.changes.len() * 2);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Row(Xid, u32, usize, bool);

    impl Change for Row {
        fn transaction(&self) -> Xid {
            self.0
        }

        fn table(&self) -> u32 {
            self.1
        }

        fn is_of_rows(&self) -> bool {
            self.3
        }

        fn size(&self) -> usize {
            self.2
        }
    }

    fn gather(gathered: &mut Gathered<Row>, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            if gathered.wants(row.0, row.1, row.3) {
                gathered.add(row);
            }
            assert!(gathered.bytes <= gathered.limit);
        }
    }

    #[test]
    fn the_table_with_most_is_given_up_and_others_are_kept() {
        let mut gathered = Gathered::new(100_000);
        gather(&mut gathered, (0..50).map(|_| Row(7, 1, 100, true)));
        gather(&mut gathered, (0..1000).map(|n| Row(8 + n % 2, 2, 1000, true)));
        gather(
            &mut gathered,
            [Row(9, 2, 10, false), Row(10, 3, 10, true), Row(11, 2, 10, true), Row(12, 2, 10, false)],
        );
        assert_eq!(gathered.transactions(), [7, 8, 9, 10, 11, 12]);
        let mut kept = gathered.finish();
        assert!(!kept.coarse);
        kept.given_up.sort_unstable();
        assert_eq!(kept.given_up, [(2, 8), (2, 9), (2, 11)]);
        assert!(kept.changes[..50].iter().all(|row| *row == Row(7, 1, 100, true)));
        let rest = [Row(9, 2, 10, false), Row(10, 3, 10, true), Row(12, 2, 10, false)];
        assert_eq!(kept.changes[50..], rest, "what is about a table itself is kept, in its order");
    }

    #[test]
    fn memory_stays_below_the_bound_with_many_tables_and_with_one_row_that_is_larger() {
        let mut gathered = Gathered::new(100_000);
        gather(&mut gathered, (0..10_000).map(|n| Row(n, u32::try_from(n % 20).expect("small"), 1000, true)));
        gather(&mut gathered, [Row(1, 99, 1_000_000, true)]);
        assert!(gathered.finish().given_up.contains(&(99, 1)));
    }

    #[test]
    fn a_table_that_is_given_up_by_each_of_very_many_transactions_takes_no_more_than_their_numbers() {
        let mut gathered = Gathered::new(1000);
        gather(&mut gathered, (0..50_000).map(|n| Row(n, 1, 100, true)));
        assert_eq!(gathered.transactions().len(), 50_000);
        let kept = gathered.finish();
        assert!(kept.coarse);
        assert_eq!(kept.given_up.len(), 2, "that they were several can be told");
        assert!(kept.changes.is_empty());
    }
}
