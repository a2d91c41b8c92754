//! A bounded cache of what was read from a store that changes meanwhile.
//!
//! The store's writer calls [`ReadCache::invalidate`] after a write can be read and before it is answered. A reader takes
//! a [`Ticket`] *before* it reads and hands it over with the result, which is kept only if nothing that it was made of
//! was invalidated since. So whoever looks after a write was answered never finds what was there before it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;

/// Invalidations that are remembered to judge reads that are under way. A read that takes longer is not kept.
const REMEMBERED: usize = 1024;

/// Values by key, each made of stored documents that have keys of the same type.
#[derive(Debug)]
pub(super) struct ReadCache<K, V> {
    state: RwLock<State<K, V>>,
    /// Sum of the weights that is kept, in bytes.
    capacity: usize,
}

#[derive(Debug)]
struct State<K, V> {
    entries: HashMap<K, Entry<K, V>>,
    /// Which entries were made of a document.
    dependents: HashMap<K, Vec<K>>,
    /// Keys in the order in which eviction looks at them; may name keys that are gone.
    order: VecDeque<K>,
    weight: usize,
    /// Counts invalidations.
    epoch: u64,
    /// Tickets older than this are worth nothing.
    floor: u64,
    /// The last invalidations; the newest has number `epoch`.
    recent: VecDeque<K>,
}

#[derive(Debug)]
struct Entry<K, V> {
    value: V,
    made_of: Vec<K>,
    weight: usize,
    /// Used since eviction last looked.
    used: AtomicBool,
}

/// When a read began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

impl<K: Hash + Eq + Clone, V: Clone> ReadCache<K, V> {
    pub fn new(capacity: usize) -> Self {
        let state = State {
            entries: HashMap::new(),
            dependents: HashMap::new(),
            order: VecDeque::new(),
            weight: 0,
            epoch: 0,
            floor: 0,
            recent: VecDeque::new(),
        };
        Self { state: RwLock::new(state), capacity }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let state = self.state.read();
        let entry = state.entries.get(key)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.value.clone())
    }

    /// To be taken before reading what will be inserted.
    pub fn begin(&self) -> Ticket {
        Ticket(self.state.read().epoch)
    }

    /// Keeps `value`, made of the documents `made_of` as they were after `ticket` was taken, unless one of them has
    /// changed since. `weight`: its bytes, roughly.
    pub fn insert(&self, ticket: Ticket, key: K, value: V, made_of: Vec<K>, weight: usize) {
        let mut state = self.state.write();
        if weight > self.capacity || !state.still_holds(ticket, &made_of) {
            return;
        }
        state.remove(&key);
        for document in &made_of {
            state.dependents.entry(document.clone()).or_default().push(key.clone());
        }
        state.weight += weight;
        state.order.push_back(key.clone());
        state.entries.insert(key, Entry { value, made_of, weight, used: AtomicBool::new(false) });
        state.evict(self.capacity);
    }

    /// The document `key` has changed.
    pub fn invalidate(&self, key: &K) {
        let mut state = self.state.write();
        state.epoch += 1;
        state.recent.push_back(key.clone());
        if state.recent.len() > REMEMBERED {
            state.recent.pop_front();
        }
        for dependent in state.dependents.remove(key).unwrap_or_default() {
            state.remove(&dependent);
        }
    }

    /// Everything may have changed.
    pub fn clear(&self) {
        let mut state = self.state.write();
        state.epoch += 1;
        state.floor = state.epoch;
        state.entries.clear();
        state.dependents.clear();
        state.order.clear();
        state.recent.clear();
        state.weight = 0;
    }
}

impl<K: Hash + Eq + Clone, V> State<K, V> {
    fn still_holds(&self, Ticket(begun): Ticket, made_of: &[K]) -> bool {
        let since = self.epoch - begun;
        if begun < self.floor || since > self.recent.len() as u64 {
            return false;
        }
        // At most `REMEMBERED`, so it fits.
        let mut later = self.recent.iter().rev().take(since as usize);
        !later.any(|changed| made_of.contains(changed))
    }

    fn remove(&mut self, key: &K) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.weight -= entry.weight;
        for document in &entry.made_of {
            if let Some(dependents) = self.dependents.get_mut(document) {
                dependents.retain(|dependent| dependent != key);
                if dependents.is_empty() {
                    self.dependents.remove(document);
                }
            }
        }
    }

    /// Second chance: what was used since the last look stays for another round.
    fn evict(&mut self, capacity: usize) {
        while self.weight > capacity {
            let Some(key) = self.order.pop_front() else { return };
            match self.entries.get(&key) {
                None => {}
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => self.order.push_back(key),
                Some(_) => self.remove(&key),
            }
        }
        // Keys that were invalidated and came back are in the queue twice; keep it in proportion.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let mut seen = std::collections::HashSet::new();
            let entries = &self.entries;
            self.order.retain(|key| entries.contains_key(key) && seen.insert(key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering::SeqCst},
        },
        thread,
    };

    use super::*;

    #[test]
    fn a_read_that_a_write_overtook_is_not_kept() {
        let cache = ReadCache::new(100);
        let ticket = cache.begin();
        cache.invalidate(&"package");
        cache.insert(ticket, "action", 1, vec!["action", "package"], 1);
        assert_eq!(cache.get(&"action"), None);
        // Another document's change does not matter.
        let ticket = cache.begin();
        cache.invalidate(&"other");
        cache.insert(ticket, "action", 1, vec!["action", "package"], 1);
        assert_eq!(cache.get(&"action"), Some(1));
        cache.invalidate(&"package");
        assert_eq!(cache.get(&"action"), None);
    }

    #[test]
    fn a_read_that_takes_too_long_to_judge_is_not_kept() {
        let cache = ReadCache::new(100);
        let ticket = cache.begin();
        (0..=REMEMBERED).for_each(|other| cache.invalidate(&other));
        cache.insert(ticket, usize::MAX, 1, vec![usize::MAX], 1);
        assert_eq!(cache.get(&usize::MAX), None);
        let ticket = cache.begin();
        cache.clear();
        cache.insert(ticket, usize::MAX, 1, vec![usize::MAX], 1);
        assert_eq!(cache.get(&usize::MAX), None);
    }

    #[test]
    fn weight_is_bounded_and_what_is_used_stays() {
        let cache = ReadCache::new(10);
        for key in 0..100 {
            let ticket = cache.begin();
            cache.insert(ticket, key, key, vec![key], 1);
            assert_eq!(cache.get(&0), Some(0), "0 is used all the time; inserted {key}");
        }
        let state = cache.state.read();
        assert!(state.weight <= 10 && state.entries.len() <= 10);
        assert_eq!(state.dependents.len(), state.entries.len());
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let cache = ReadCache::new(1000);
        for round in 0..1000 {
            let ticket = cache.begin();
            cache.insert(ticket, round % 3, round, vec![round % 3, 7], 1);
            cache.invalidate(&(round % 5));
        }
        cache.invalidate(&7);
        let state = cache.state.read();
        assert!(state.entries.is_empty() && state.dependents.is_empty() && state.weight == 0);
        assert!(state.order.len() <= 66);
    }

    /// Readers and a writer race; nobody ever sees an older value than the last one answered before he asked.
    #[test]
    fn no_look_after_a_write_finds_what_was_before_it() {
        let cache = Arc::new(ReadCache::new(1000));
        let stored = Arc::new(AtomicU64::new(0));
        let answered = Arc::new(AtomicU64::new(0));
        const WRITES: u64 = 20_000;
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (cache, stored, answered) = (Arc::clone(&cache), Arc::clone(&stored), Arc::clone(&answered));
                thread::spawn(move || {
                    let mut hits = 0_u64;
                    loop {
                        let at_least = answered.load(SeqCst);
                        let found = match cache.get(&"key") {
                            Some(value) => {
                                hits += 1;
                                value
                            }
                            None => {
                                let ticket = cache.begin();
                                let value = stored.load(SeqCst);
                                thread::yield_now();
                                cache.insert(ticket, "key", value, vec!["key"], 1);
                                value
                            }
                        };
                        assert!(found >= at_least, "found {found} after {at_least} was answered");
                        if at_least == WRITES {
                            return hits;
                        }
                    }
                })
            })
            .collect();
        for value in 1..=WRITES {
            stored.store(value, SeqCst);
            cache.invalidate(&"key");
            answered.store(value, SeqCst);
        }
        let hits: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(hits > 0, "the cache was never of use");
    }
}
