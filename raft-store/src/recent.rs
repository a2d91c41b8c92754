//! The entries that were just appended, until they are applied. Applying takes them from here rather than reading back,
//! and decoding, what was encoded a moment before; whatever is not here is read from the log.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::types::Entry;

/// Encoded bytes kept of one group. A group that falls further behind reads its log.
const MOST_BYTES: usize = 4 << 20;

/// Entries without gaps, the newest at the back.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    /// Keeps entries that were appended, each with its encoded size.
    pub fn appended(&self, entries: impl IntoIterator<Item = (Entry, usize)>) {
        let mut kept = self.0.lock();
        for (entry, bytes) in entries {
            let next = kept.entries.back().is_none_or(|(last, _)| last.log_id.index + 1 == entry.log_id.index);
            if !next || kept.bytes + bytes > MOST_BYTES {
                *kept = Kept::default();
            }
            kept.bytes += bytes;
            kept.entries.push_back((entry, bytes));
        }
    }

    /// Takes out the entries from `start` up to `end`, and forgets those before; none if that at `start` is not here.
    pub fn take(&self, start: u64, end: u64) -> Vec<Entry> {
        let mut kept = self.0.lock();
        while kept.entries.front().is_some_and(|(entry, _)| entry.log_id.index < start) {
            kept.pop();
        }
        let mut taken = Vec::new();
        while taken.len() as u64 + start < end
            && kept.entries.front().is_some_and(|(entry, _)| entry.log_id.index == start + taken.len() as u64)
        {
            taken.extend(kept.pop());
        }
        taken
    }

    /// Forgets all: what was appended may be replaced.
    pub fn clear(&self) {
        *self.0.lock() = Kept::default();
    }
}

impl Kept {
    fn pop(&mut self) -> Option<Entry> {
        let (entry, bytes) = self.entries.pop_front()?;
        self.bytes -= bytes;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use openraft::{entry::RaftEntry, vote::RaftLeaderId};

    use super::*;
    use crate::types::{LeaderId, LogId};

    fn entry(index: u64) -> (Entry, usize) {
        (Entry::new_blank(LogId::new(LeaderId::new(1, 1).to_committed(), index)), 1 << 20)
    }

    fn indexes(taken: &[Entry]) -> Vec<u64> {
        taken.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn what_is_taken_is_asked_for_without_gaps_and_gone() {
        let recent = Recent::default();
        recent.appended((5..9).map(entry));
        assert_eq!(indexes(&recent.take(4, 9)), [0; 0], "the first is not here");
        assert_eq!(indexes(&recent.take(6, 8)), [6, 7]);
        assert_eq!(indexes(&recent.take(6, 8)), [0; 0]);
        assert_eq!(indexes(&recent.take(8, 20)), [8]);
    }

    #[test]
    fn what_does_not_follow_or_fit_begins_anew() {
        let recent = Recent::default();
        recent.appended([entry(1), entry(2), entry(7)]);
        assert_eq!(indexes(&recent.take(1, 9)), [0; 0]);
        recent.appended([entry(7)]);
        assert_eq!(indexes(&recent.take(7, 9)), [7]);
        recent.appended((10..20).map(entry));
        assert_eq!(indexes(&recent.take(10, 20)), [0; 0], "4 MiB of ten");
        recent.appended([entry(20)]);
        recent.clear();
        assert_eq!(indexes(&recent.take(20, 21)), [0; 0]);
    }
}
