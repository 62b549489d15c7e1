//! How often something may happen: token buckets, each a single instant, and a bounded table of them by address. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Addresses in one generation of a [`Table`].
const ADDRESSES: usize = 8192;

/// So many in a time, and so many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// The time in which one comes back.
    each: Duration,
    /// The time in which all come back.
    all: Duration,
}

impl Rate {
    /// `count` in each second, and as many at once as come in ten seconds; none where the count is 0, which is no bound.
    pub fn per_second(count: u32) -> Option<Self> {
        let each = Duration::from_secs(1).checked_div(count)?;
        Some(Self { each, all: Duration::from_secs(10) })
    }

    /// `count` in each minute, all of them at once too.
    pub fn per_minute(count: u32) -> Option<Self> {
        let all = Duration::from_secs(60);
        Some(Self { each: all.checked_div(count)?, all })
    }
}

/// How much of a rate is used up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    /// When it will be as if nothing had happened.
    full: Option<Instant>,
}

impl Bucket {
    fn full_at(self, now: Instant) -> Instant {
        self.full.map_or(now, |full| full.max(now))
    }

    /// Whether one more would be too many.
    pub fn is_empty(self, rate: Rate, now: Instant) -> bool {
        self.full_at(now) + rate.each > now + rate.all
    }

    /// Takes one, where there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let room = !self.is_empty(rate, now);
        if room {
            self.full = Some(self.full_at(now) + rate.each);
        }
        room
    }
}

/// Buckets by address, bounded: those that were not looked for while as many others were are forgotten.
#[derive(Debug, Default)]
pub struct Table {
    recent: HashMap<IpAddr, Bucket>,
    before: HashMap<IpAddr, Bucket>,
}

impl Table {
    /// The bucket as it is. Makes none.
    pub fn get(&self, address: IpAddr) -> Bucket {
        self.recent.get(&address).or_else(|| self.before.get(&address)).copied().unwrap_or_default()
    }

    pub fn take(&mut self, address: IpAddr, rate: Rate, now: Instant) -> bool {
        let mut bucket = self.get(address);
        let taken = bucket.take(rate, now);
        if self.recent.len() >= ADDRESSES && !self.recent.contains_key(&address) {
            self.before = std::mem::take(&mut self.recent);
        }
        self.recent.insert(address, bucket);
        taken
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, for one host has all of it.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::per_second(100).expect("a rate");
        let now = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!((0..2000).filter(|_| bucket.take(rate, now)).count(), 1000);
        let later = now + Duration::from_millis(505);
        assert_eq!((0..2000).filter(|_| bucket.take(rate, later)).count(), 50);
        let long_after = later + Duration::from_secs(3600);
        assert_eq!((0..2000).filter(|_| bucket.take(rate, long_after)).count(), 1000);
        assert!(Rate::per_second(0).is_none());
        let rate = Rate::per_minute(3).expect("a rate");
        let mut bucket = Bucket::default();
        assert_eq!((0..9).filter(|_| bucket.take(rate, now)).count(), 3);
        assert!(bucket.is_empty(rate, now + Duration::from_secs(19)));
        assert!(!bucket.is_empty(rate, now + Duration::from_secs(21)));
    }

    #[test]
    fn a_table_stays_bounded_and_remembers_who_comes_again() {
        let rate = Rate::per_minute(2).expect("a rate");
        let now = Instant::now();
        let mut table = Table::default();
        let nuisance = IpAddr::from([203, 0, 113, 9]);
        assert!(table.take(nuisance, rate, now) && table.take(nuisance, rate, now));
        for n in 0..100_000_u32 {
            table.take(Ipv4Addr::from(n).into(), rate, now);
            if n % 5000 == 0 {
                assert!(!table.take(nuisance, rate, now), "after {n} others");
            }
        }
        assert!(table.recent.len() + table.before.len() <= 2 * ADDRESSES);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let parse = |text: &str| counted(text.parse().expect("address"));
        assert_eq!(parse("2001:db8:1:2:3:4:5:6"), parse("2001:db8:1:2:ffff::1"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
        assert_ne!(parse("192.0.2.1"), parse("192.0.2.2"));
    }
}
