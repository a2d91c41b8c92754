//! The node's memory for containers, counted in bytes of their limits, and the queue of those that wait for it.
//!
//! Two sums are kept, and neither ever exceeds the limit:
//! - **committed**: every container that is meant to live: idle, paused, leased, prewarmed, starting, and starts that
//!   were decided but not begun. Admission looks at this one. An evicted container leaves it at once, so that several
//!   evictions and the starts they make room for overlap.
//! - **occupied**: what is really there: from the beginning of a creation until the destruction has ended. A decided
//!   start begins only when this one has room too.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

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

/// A line is long once its first has waited for so long.
const LONG: Duration = Duration::from_secs(1);

/// Who waits for memory, first come first served over all actions. Nothing overtakes: a large need at the head blocks
/// the small ones behind it, else it would starve.
///
/// That holds while waiting is short. Under more load than the node can take, the line is always full, and whoever is
/// served first come first served has waited for all of it, also long after the load is over. So in a long line every
/// other place belongs to the newest: who comes now is served soon, and who came first is served in order, if later.
///
/// Source: apache/openwhisk `ContainerPool.runBuffer`; "Fail at Scale" (ACM Queue 13/8, 2015), adaptive LIFO.
#[derive(Debug)]
pub struct RunBuffer<A> {
    /// And since when they wait.
    tickets: BTreeMap<Ticket, (A, Instant)>,
    bound: usize,
    /// The line was long when the newest came.
    is_long: bool,
    /// In a long line.
    newest_is_next: bool,
}

impl<A: Copy> RunBuffer<A> {
    /// `bound`: how many may wait.
    pub fn new(bound: usize) -> Self {
        Self { tickets: BTreeMap::new(), bound, is_long: false, newest_is_next: true }
    }

    /// Who is served next.
    pub fn head(&self) -> Option<(Ticket, A)> {
        let newest = self.is_long && self.newest_is_next;
        let next = if newest { self.tickets.last_key_value() } else { self.tickets.first_key_value() };
        next.map(|(ticket, (action, _))| (*ticket, *action))
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

    /// Queues the newest ticket.
    pub fn push(&mut self, ticket: Ticket, action: A, now: Instant) {
        self.put_back(ticket, action, now);
        let oldest = self.tickets.first_key_value().map(|(_, (_, since))| *since);
        self.is_long = oldest.is_some_and(|since| now.duration_since(since) >= LONG);
    }

    /// One that was served in vain comes back to its old place.
    pub fn put_back(&mut self, ticket: Ticket, action: A, since: Instant) {
        self.tickets.insert(ticket, (action, since));
    }

    /// The head has what it waited for.
    pub fn serve(&mut self, ticket: Ticket) {
        self.remove(ticket);
        self.newest_is_next = !self.newest_is_next;
    }

    /// Who has `ticket` does not wait any more. False: nobody here had it.
    pub fn remove(&mut self, ticket: Ticket) -> bool {
        self.tickets.remove(&ticket).is_some()
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
        let (mut buffer, now) = (RunBuffer::new(2), Instant::now());
        buffer.push(Ticket(1), 'a', now);
        buffer.push(Ticket(2), 'b', now);
        buffer.serve(Ticket(1));
        assert_eq!(buffer.head(), Some((Ticket(2), 'b')));
        buffer.put_back(Ticket(1), 'a', now);
        assert_eq!(buffer.head(), Some((Ticket(1), 'a')));
        assert!(!buffer.is_over_full());
        buffer.push(Ticket(3), 'c', now);
        assert!(buffer.is_over_full());
    }

    #[test]
    fn every_other_place_in_a_long_line_belongs_to_the_newest() {
        let (mut buffer, start) = (RunBuffer::new(10), Instant::now());
        (1..=3).for_each(|n| buffer.push(Ticket(n), (), start));
        let serve = |buffer: &mut RunBuffer<()>| {
            let (Ticket(n), ()) = buffer.head().expect("somebody waits");
            buffer.serve(Ticket(n));
            n
        };
        assert_eq!(serve(&mut buffer), 1, "in order");
        buffer.push(Ticket(4), (), start + LONG / 2);
        assert_eq!(serve(&mut buffer), 2, "in order");
        (5..=8).for_each(|n| buffer.push(Ticket(n), (), start + LONG));
        assert_eq!([(); 4].map(|()| serve(&mut buffer)), [8, 3, 7, 4]);
        // Who came when the line was short waits no more: those that are left were there for half a second.
        buffer.push(Ticket(9), (), start + LONG + LONG / 2);
        assert_eq!([(); 3].map(|()| serve(&mut buffer)), [5, 6, 9]);
    }
}
