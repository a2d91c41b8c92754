//! The state on disk plus the writes of the entries being applied, until one batch writes them all.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use super::{ReadState, State, Visit};
use crate::error::StoreError;

/// Ranges of keys, and values by key; `None` = deleted.
pub type Writes = (Vec<(Vec<u8>, Vec<u8>)>, BTreeMap<Vec<u8>, Option<Vec<u8>>>);

/// `base` with writes on top.
pub struct Overlay<R> {
    base: R,
    /// Newest value per written key; `None` = deleted.
    newest: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Ranges of the base that are deleted; what was written there since is in `newest`.
    dropped: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: ReadState> Overlay<R> {
    pub fn new(base: R) -> Self {
        Self { base, newest: BTreeMap::new(), dropped: Vec::new() }
    }

    /// What to do to the base: delete these ranges first, then write the newest values.
    pub fn into_writes(self) -> Writes {
        (self.dropped, self.newest)
    }

    fn is_dropped(&self, key: &[u8]) -> bool {
        self.dropped.iter().any(|(from, to)| from.as_slice() <= key && key < to.as_slice())
    }
}

impl<R: ReadState> ReadState for Overlay<R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.newest.get(key) {
            Some(value) => Ok(value.clone()),
            None if self.is_dropped(key) => Ok(None),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut ours = self.newest.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut stopped = false;
        self.base.scan(from, to, &mut |key, value| {
            // What we wrote before this key of the base comes first.
            while let Some((our_key, our_value)) = ours.next_if(|(our_key, _)| our_key.as_slice() < key) {
                if let Some(our_value) = our_value
                    && visit(our_key, our_value)?.is_break()
                {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = match ours.next_if(|(our_key, _)| our_key.as_slice() == key) {
                Some((_, Some(our_value))) => visit(key, our_value)?,
                Some((_, None)) => ControlFlow::Continue(()),
                None if self.is_dropped(key) => ControlFlow::Continue(()),
                None => visit(key, value)?,
            };
            stopped = flow.is_break();
            Ok(flow)
        })?;
        if !stopped {
            for (key, value) in ours {
                if let Some(value) = value
                    && visit(key, value)?.is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl<R: ReadState> State for Overlay<R> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.newest.insert(key, Some(value));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.newest.insert(key, None);
    }

    fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        if from >= to {
            return;
        }
        self.newest.retain(|key, _| *key < from || *key >= to);
        self.dropped.push((from, to));
    }
}
