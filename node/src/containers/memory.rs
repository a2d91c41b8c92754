//! The node's memory for containers, counted in bytes of their limits, and the queue of those that wait for it.
//!
//! Two sums are kept, and neither ever exceeds the limit:
//! - **committed**: every container that is meant to live: idle, paused, leased, prewarmed, starting, and starts that
//!   were decided but not begun. Admission looks at this one. An evicted container leaves it at once, so that several
//!   evictions and the starts they make room for overlap.
//! - **occupied**: what is really there: from the beginning of a creation until the destruction has ended. A decided
//!   start begins only when this one has room too.

use std::collections::BTreeMap;

/// Bytes of memory limits: see the module.
#[derive(Debug, Clone)]
pub struct Memory {
    limit: u64,
    committed: u64,
    occupied: u64,
    /// Part of `committed` that idle and paused containers hold, so that a hopeless eviction is not even tried.
    evictable: u64,
}

impl Memory {
    pub fn new(limit: u64) -> Self {
        Self { limit, committed: 0, occupied: 0, evictable: 0 }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn committed(&self) -> u64 {
        self.committed
    }

    pub fn occupied(&self) -> u64 {
        self.occupied
    }

    pub fn evictable(&self) -> u64 {
        self.evictable
    }

    /// Whether one more container of `bytes` may be decided.
    pub fn fits(&self, bytes: u64) -> bool {
        self.committed + bytes <= self.limit
    }

    /// Whether one would fit after evicting every idle container.
    pub fn fits_by_evicting(&self, bytes: u64) -> bool {
        self.committed - self.evictable + bytes <= self.limit
    }

    /// Whether a decided container may be created now.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.occupied + bytes <= self.limit
    }

    /// A container of `bytes` was decided.
    pub fn commit(&mut self, bytes: u64) {
        self.committed += bytes;
    }

    /// A decided container will not be, or a living one is being destroyed.
    pub fn uncommit(&mut self, bytes: u64) {
        self.committed -= bytes;
    }

    /// Its creation begins.
    pub fn occupy(&mut self, bytes: u64) {
        self.occupied += bytes;
    }

    /// Its destruction ended, or its creation failed.
    pub fn vacate(&mut self, bytes: u64) {
        self.occupied -= bytes;
    }

    /// A container became idle.
    pub fn idle(&mut self, bytes: u64) {
        self.evictable += bytes;
    }

    /// An idle container was taken, or is being paused, evicted or removed.
    pub fn not_idle(&mut self, bytes: u64) {
        self.evictable -= bytes;
    }
}

/// Order of arrival of those who wait, over all actions of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Who waits for memory, first come first served over all actions. Nothing overtakes: a large need at the head blocks
/// the small ones behind it, else it would starve.
///
/// Source: apache/openwhisk `ContainerPool.runBuffer`.
#[derive(Debug)]
pub struct RunBuffer<A> {
    tickets: BTreeMap<Ticket, A>,
    bound: usize,
}

impl<A: Copy> RunBuffer<A> {
    /// `bound`: how many may wait.
    pub fn new(bound: usize) -> Self {
        Self { tickets: BTreeMap::new(), bound }
    }

    pub fn head(&self) -> Option<(Ticket, A)> {
        self.tickets.first_key_value().map(|(ticket, action)| (*ticket, *action))
    }

    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// More wait than may.
    pub fn is_over_full(&self) -> bool {
        self.tickets.len() > self.bound
    }

    /// Queues a ticket in its order: one that was served in vain comes back to its old place.
    pub fn insert(&mut self, ticket: Ticket, action: A) {
        self.tickets.insert(ticket, action);
    }

    pub fn remove(&mut self, ticket: Ticket) {
        self.tickets.remove(&ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_container_makes_way_before_it_is_gone() {
        let mut memory = Memory::new(100);
        memory.commit(100);
        memory.occupy(100);
        memory.idle(60);
        assert!(!memory.fits(60) && memory.fits_by_evicting(60) && !memory.fits_by_evicting(61));
        memory.not_idle(60);
        memory.uncommit(60);
        assert!(memory.fits(60), "it may be decided at once");
        assert!(!memory.has_room(60), "but begins when the old one is destroyed");
        memory.vacate(60);
        assert!(memory.has_room(60));
    }

    #[test]
    fn a_ticket_that_comes_back_keeps_its_place() {
        let mut buffer = RunBuffer::new(2);
        buffer.insert(Ticket(1), 'a');
        buffer.insert(Ticket(2), 'b');
        buffer.remove(Ticket(1));
        assert_eq!(buffer.head(), Some((Ticket(2), 'b')));
        buffer.insert(Ticket(1), 'a');
        assert_eq!(buffer.head(), Some((Ticket(1), 'a')));
        assert!(!buffer.is_over_full());
        buffer.insert(Ticket(3), 'c');
        assert!(buffer.is_over_full());
    }
}
