//! Failed logins, limited per source address.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

/// Addresses watched at once; beyond that no further failure is answered in detail.
const MAX_ADDRESSES: usize = 4096;
/// Counters of one address that its credentials' uuids are spread over, in each of [`ROWS`].
const BUCKETS: usize = 64;
/// A uuid has a counter in each row, and what all of them have come to is the most it can have failed (a count-min
/// sketch): one that never failed shares both counters with one that did once in 4096 times.
const ROWS: usize = 2;

/// Counts failures per wall-clock minute, in bounded memory (4096 addresses of 512 bytes).
///
/// Guessing the key of one uuid is cut off after the bound, even if the next guess is right; so is trying many uuids,
/// as every further failure gets the same refusal. A caller behind the same address whose own credentials did not fail
/// is let in all the same.
pub(super) struct FailedLogins {
    /// Per minute; 0: no bound.
    bound: u32,
    hasher: RandomState,
    table: Mutex<HashMap<IpAddr, Failures>>,
    /// Addresses in `table`, so that nobody takes the lock while nobody fails.
    watched: AtomicUsize,
}

struct Failures {
    minute: u64,
    all: u32,
    by_uuid: Box<[[u32; BUCKETS]; ROWS]>,
}

impl FailedLogins {
    pub fn new(bound: u32) -> Self {
        Self { bound, hasher: RandomState::new(), table: Mutex::default(), watched: AtomicUsize::new(0) }
    }

    /// True if `uuid` failed too often from `source` within this minute: the key must not even be looked at.
    pub fn refuses(&self, source: IpAddr, uuid: &str, now_ms: u64) -> bool {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let table = self.table.lock();
        let failures = table.get(&network(source)).filter(|failures| failures.minute == minute(now_ms));
        failures.is_some_and(|failures| {
            self.buckets(uuid).zip(&*failures.by_uuid).all(|(bucket, row)| row[bucket] >= self.bound)
        })
    }

    /// Counts a failure. True if there were too many already, and the caller is told only that.
    pub fn failed(&self, source: IpAddr, uuid: &str, now_ms: u64) -> bool {
        if self.bound == 0 {
            return false;
        }
        let (source, minute) = (network(source), minute(now_ms));
        let mut table = self.table.lock();
        if table.len() >= MAX_ADDRESSES && !table.contains_key(&source) {
            table.retain(|_, failures| failures.minute == minute);
        }
        let full = table.len() >= MAX_ADDRESSES && !table.contains_key(&source);
        let refused = full || {
            let new = || Failures { minute, all: 0, by_uuid: Box::new([[0; BUCKETS]; ROWS]) };
            let failures = table.entry(source).or_insert_with(new);
            if failures.minute != minute {
                *failures = new();
            }
            failures.all = failures.all.saturating_add(1);
            for (bucket, row) in self.buckets(uuid).zip(&mut *failures.by_uuid) {
                row[bucket] = row[bucket].saturating_add(1);
            }
            failures.all > self.bound
        };
        self.watched.store(table.len(), Ordering::Relaxed);
        refused
    }

    /// One in each row.
    fn buckets(&self, uuid: &str) -> impl Iterator<Item = usize> + use<> {
        let hash = self.hasher.hash_one(uuid);
        (0..ROWS as u32).map(move |row| ((hash >> (32 * row)) % BUCKETS as u64) as usize)
    }
}

fn minute(now_ms: u64) -> u64 {
    now_ms / 60_000
}

/// A caller with IPv6 has a whole /64 to send from.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn guessing_one_key_is_cut_off_until_the_minute_ends() {
        let logins = FailedLogins::new(3);
        for _ in 0..3 {
            assert!(!logins.refuses(HERE, "victim", 0));
            assert!(!logins.failed(HERE, "victim", 0));
        }
        assert!(logins.refuses(HERE, "victim", 59_999));
        assert!(!logins.refuses(HERE, "victim", 60_000));
        assert!(!logins.failed(HERE, "victim", 60_000));
    }

    #[test]
    fn trying_many_uuids_is_cut_off_and_hurts_no_other() {
        let logins = FailedLogins::new(10);
        let refused = (0..20).filter(|n| logins.failed(HERE, &n.to_string(), 0)).count();
        assert_eq!(refused, 10);
        assert!(!logins.refuses(HERE, "innocent", 0));
        assert!(!logins.failed("192.0.2.1".parse().unwrap(), "0", 0), "another address is another matter");
    }

    #[test]
    fn a_uuid_that_fails_shuts_out_hardly_any_other() {
        let logins = FailedLogins::new(3);
        (0..3).for_each(|_| assert!(!logins.failed(HERE, "culprit", 0)));
        assert!(logins.refuses(HERE, "culprit", 0));
        // One row alone would refuse 156 of them.
        let refused = (0..10_000).filter(|n| logins.refuses(HERE, &format!("innocent {n}"), 0)).count();
        assert!(refused < 30, "{refused}");
    }

    #[test]
    fn a_network_counts_as_one_source() {
        let logins = FailedLogins::new(1);
        let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        assert!(!logins.failed(one, "u", 0));
        assert!(logins.refuses(two, "u", 0));
        assert!(!logins.refuses("2001:db8:0:1::1".parse().unwrap(), "u", 0));
        // The same caller through a dual-stack listener.
        assert!(!logins.failed("192.0.2.1".parse().unwrap(), "u", 0));
        assert!(logins.refuses("::ffff:192.0.2.1".parse().unwrap(), "u", 0));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_old_minutes() {
        let logins = FailedLogins::new(1);
        let address = |n: usize| IpAddr::from(std::net::Ipv4Addr::from_bits(n as u32));
        for n in 0..MAX_ADDRESSES {
            assert!(!logins.failed(address(n), "u", 0));
        }
        assert!(logins.failed(address(MAX_ADDRESSES), "u", 0), "a full table answers nothing in detail");
        assert_eq!(logins.table.lock().len(), MAX_ADDRESSES);
        assert!(!logins.failed(address(MAX_ADDRESSES), "u", 60_000));
        assert_eq!(logins.table.lock().len(), 1);
    }

    #[test]
    fn no_bound_is_possible() {
        let logins = FailedLogins::new(0);
        assert!((0..1000).all(|_| !logins.failed(HERE, "u", 0) && !logins.refuses(HERE, "u", 0)));
    }
}
