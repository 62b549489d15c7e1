//! Snapshots as Postgres has them, in 64-bit transaction ids: which transactions had ended.
//!
//! A snapshot *sees* a transaction if it had ended when the snapshot was taken (whether it committed is
//! decided elsewhere). Snapshots are partly ordered by containment: of two taken one after the other in
//! one server, the later contains the earlier. Invariant: `xip` is sorted, without doubles, and within
//! `xmin..xmax`.

use std::fmt;
use std::str::FromStr;

/// A full transaction id (`xid8`): epoch in the upper half.
pub type Xid = u64;

/// The set of transactions that had ended at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    xip: Vec<Xid>,
}

/// The text is not a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot of the form xmin:xmax:xip,…")]
pub struct ParseSnapshotError;

impl Snapshot {
    /// A snapshot that sees everything below `xmax` but `xip`. Ids at or above `xmax` are dropped from `xip`.
    #[must_use]
    pub fn new(xmax: Xid, mut xip: Vec<Xid>) -> Self {
        xip.retain(|x| *x < xmax);
        xip.sort_unstable();
        xip.dedup();
        Self { xmin: xip.first().copied().unwrap_or(xmax), xmax, xip }
    }

    /// Oldest transaction that is not seen.
    #[must_use]
    pub const fn xmin(&self) -> Xid {
        self.xmin
    }

    /// Everything at or above was not seen.
    #[must_use]
    pub const fn xmax(&self) -> Xid {
        self.xmax
    }

    /// Transactions below `xmax` that were in progress.
    #[must_use]
    pub fn in_progress(&self) -> &[Xid] {
        &self.xip
    }

    /// Whether the transaction had ended.
    #[must_use]
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// Whether this snapshot sees everything that `other` sees.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let above = other.xip.len() - other.xip.partition_point(|x| *x < self.xmax);
        other.xmax.saturating_sub(self.xmax) == above as u64
            && self.xip.iter().take_while(|x| **x < other.xmax).all(|x| other.xip.binary_search(x).is_ok())
    }

    /// The part of this snapshot below `boundary`: what lies at or above counts as not seen.
    #[must_use]
    pub fn clamped(&self, boundary: Xid) -> Self {
        if boundary >= self.xmax {
            return self.clone();
        }
        Self::new(boundary, self.xip.clone())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.xip.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(ParseSnapshotError);
        };
        let number = |s: &str| s.parse::<Xid>().map_err(|_| ParseSnapshotError);
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let xip = match xip {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
        };
        let ordered = xip.windows(2).all(|w| w[0] < w[1]);
        let within = xip.first().is_none_or(|x| *x >= xmin) && xip.last().is_none_or(|x| *x < xmax);
        if xmin > xmax || !ordered || !within {
            return Err(ParseSnapshotError);
        }
        // Postgres' xmin may lie below the first id in progress that is listed; ours is exact.
        Ok(Self::new(xmax, xip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Snapshot {
        text.parse().expect("snapshot")
    }

    #[test]
    fn sees_what_had_ended() {
        let s = s("10:20:10,15");
        assert!(s.sees(9) && s.sees(11) && s.sees(19));
        assert!(!s.sees(10) && !s.sees(15) && !s.sees(20) && !s.sees(u64::MAX));
    }

    #[test]
    fn a_late_commit_of_an_old_transaction_breaks_containment_one_way() {
        let (earlier, later) = (s("10:20:10,15"), s("15:30:15,25"));
        assert!(later.contains(&earlier));
        assert!(!earlier.contains(&later));
        assert!(!s("12:30:12").contains(&earlier), "12 had ended in the earlier one");
        assert!(earlier.contains(&earlier));
    }

    #[test]
    fn containment_is_the_subset_of_what_is_seen() {
        let all: Vec<Snapshot> = (0..6_u64)
            .flat_map(|xmax| (0..1_u32 << xmax).map(move |bits| (xmax, bits)))
            .map(|(xmax, bits)| Snapshot::new(xmax, (0..xmax).filter(|i| bits >> i & 1 == 1).collect()))
            .collect();
        for a in &all {
            for b in &all {
                let subset = (0..8).all(|x| !b.sees(x) || a.sees(x));
                assert_eq!(a.contains(b), subset, "{a} contains {b}");
            }
        }
    }

    #[test]
    fn clamping_forgets_what_lies_above() {
        let s = s("10:20:10,15");
        assert_eq!(s.clamped(12).to_string(), "10:12:10");
        assert_eq!(s.clamped(99), s);
        assert!(!s.clamped(12).sees(13));
    }

    #[test]
    fn text_reads_back_and_nonsense_is_refused() {
        for text in ["10:20:10,15", "7:7:"] {
            assert_eq!(s(text).to_string(), text);
        }
        for text in ["", "1:2", "5:3:", "1:5:7", "1:5:3,2", "1:5:2,2", "a:b:c", "1:2::"] {
            assert_eq!(text.parse::<Snapshot>(), Err(ParseSnapshotError), "{text}");
        }
    }
}
