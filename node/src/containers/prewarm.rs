//! Stem cells: containers started before anyone needs them, without code. Kept at a fixed number per kind and memory,
//! refilled beside the request path, counted in the node's memory, and never evicted to make room.
//!
//! Source: apache/openwhisk `ContainerPool.adjustPrewarmedContainer`, `ContainerPoolTests`.

use std::collections::VecDeque;

use protocol::ByteSize;

use super::{Need, need::container_name, pool_state::Held};
use crate::config;

/// How many containers of one kind and memory are kept ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StemCell {
    /// A resolved kind, such as `nodejs:20`; never `blackbox`.
    pub kind: String,
    /// Only an action with exactly this limit can use it.
    pub memory: ByteSize,
    pub count: usize,
}

impl StemCell {
    /// Those that the configuration asks for. `resolve`: the kind that runs here for one as written
    /// (`nodejs:default`); what it does not know is left out with a warning.
    pub fn configured(prewarm: &[config::Prewarm], resolve: impl Fn(&str) -> Option<String>) -> Vec<Self> {
        let cell = |cell: &config::Prewarm| match resolve(&cell.kind) {
            Some(kind) => Some(Self { kind, memory: cell.memory, count: cell.count }),
            None => {
                tracing::warn!(kind = cell.kind, "kind not available here, none of it is prewarmed");
                None
            }
        };
        prewarm.iter().filter_map(cell).collect()
    }

    pub(super) fn container_name(&self, node: u64, counter: u64) -> String {
        container_name(node, counter, "prewarm", &self.kind)
    }
}

/// Index of a configured stem cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellId(pub usize);

/// All stem cells of a node.
#[derive(Debug)]
pub struct Cells<C> {
    cells: Vec<Cell<C>>,
}

#[derive(Debug)]
struct Cell<C> {
    config: StemCell,
    /// Oldest first: that one is taken next.
    ready: VecDeque<Held<C>>,
    creating: usize,
    /// The last creation failed; nothing is created until [`Cells::retry`].
    resting: bool,
    /// It was reported that one does not fit; not reported again before one did.
    short: bool,
}

impl<C> Cells<C> {
    pub fn new(config: Vec<StemCell>) -> Self {
        let cell = |config| Cell { config, ready: VecDeque::new(), creating: 0, resting: false, short: false };
        Self { cells: config.into_iter().map(cell).collect() }
    }

    /// One that fits `need` exactly.
    pub fn take(&mut self, need: &Need) -> Option<Held<C>> {
        self.cells.iter_mut().filter(|cell| cell.matches(need)).find_map(|cell| cell.ready.pop_front())
    }

    /// Bytes that those which exist or are being created keep from any need but one that uses a cell itself.
    pub fn bytes_withheld_from(&self, need: &Need) -> u64 {
        let total: u64 = self.cells.iter().map(|cell| cell.config.memory.bytes() * cell.existing() as u64).sum();
        let usable = self.cells.iter().any(|cell| cell.matches(need) && cell.existing() > 0);
        if usable { total - need.memory.bytes() } else { total }
    }

    /// Those below their number: which, and the bytes of one.
    pub fn wanted(&self) -> impl Iterator<Item = (CellId, u64)> {
        let below = |cell: &Cell<C>| !cell.resting && cell.existing() < cell.config.count;
        let indexed = self.cells.iter().enumerate();
        indexed.filter(move |(_, cell)| below(cell)).map(|(at, cell)| (CellId(at), cell.config.memory.bytes()))
    }

    /// Creation of one begins.
    pub fn creating(&mut self, id: CellId) -> &StemCell {
        let cell = &mut self.cells[id.0];
        cell.creating += 1;
        cell.short = false;
        &cell.config
    }

    /// One does not fit. Returns which it is if that is news.
    pub fn is_short(&mut self, id: CellId) -> Option<StemCell> {
        let cell = &mut self.cells[id.0];
        let known = std::mem::replace(&mut cell.short, true);
        (!known).then(|| cell.config.clone())
    }

    pub fn created(&mut self, id: CellId, held: Held<C>) {
        let cell = &mut self.cells[id.0];
        cell.creating -= 1;
        cell.ready.push_back(held);
    }

    /// Creation failed: none is created until [`Cells::retry`]. Returns the bytes of it.
    pub fn failed(&mut self, id: CellId) -> u64 {
        let cell = &mut self.cells[id.0];
        cell.creating -= 1;
        cell.resting = true;
        cell.config.memory.bytes()
    }

    pub fn retry(&mut self, id: CellId) {
        self.cells[id.0].resting = false;
    }

    /// One that was created when it is no longer wanted.
    pub fn discard(&mut self, id: CellId) {
        self.cells[id.0].creating -= 1;
    }

    /// All that are ready, to be destroyed.
    pub fn take_all(&mut self) -> Vec<Held<C>> {
        self.cells.iter_mut().flat_map(|cell| cell.ready.drain(..)).collect()
    }

    /// Kind and memory, wanted, ready and being created.
    pub fn counts(&self) -> impl Iterator<Item = (&StemCell, usize, usize)> {
        self.cells.iter().map(|cell| (&cell.config, cell.ready.len(), cell.creating))
    }
}

impl<C> Cell<C> {
    fn existing(&self) -> usize {
        self.ready.len() + self.creating
    }

    fn matches(&self, need: &Need) -> bool {
        need.image.is_none() && self.config.kind == need.kind && self.config.memory == need.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_kinds_are_resolved_and_unknown_ones_left_out() {
        let written = |kind: &str| config::Prewarm { kind: kind.into(), memory: ByteSize::mib(256), count: 2 };
        let known = |kind: &str| (kind == "nodejs:default").then(|| "nodejs:20".to_owned());
        let cells = StemCell::configured(&[written("nodejs:default"), written("cobol:60")], known);
        assert_eq!(cells, [StemCell { kind: "nodejs:20".into(), memory: ByteSize::mib(256), count: 2 }]);
    }
}
