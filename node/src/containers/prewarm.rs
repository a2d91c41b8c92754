//! Stem cells: containers started before anyone needs them, without code. Kept at a fixed number per kind and memory,
//! refilled beside the request path, counted in the node's memory, and never evicted to make room.
//!
//! Source: apache/openwhisk `ContainerPool.adjustPrewarmedContainer`, `ContainerPoolTests`.

use std::collections::VecDeque;

use protocol::ByteSize;

use super::{Need, need::container_name, pool_state::Held};
use crate::{
    config,
    entities::{kinds::Kinds, manifest::Manifest},
};

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
    /// Those that the configuration asks for, else those of the operator's own manifest, else the default. Kinds that
    /// cannot be used here are left out with a warning.
    pub fn configured(config: &config::Containers, manifest: &Manifest, kinds: &Kinds) -> Vec<Self> {
        let wanted = match &config.prewarm {
            Some(prewarm) => prewarm.clone(),
            None if manifest.is_own => of_manifest(manifest),
            None => config.default_prewarm(),
        };
        let usable = |kind: &str| kinds.resolve(kind).filter(|kind| !kinds.is_deprecated(kind));
        let cell = |cell: config::Prewarm| match usable(&cell.kind) {
            Some(kind) => Some(Self { kind, memory: cell.memory, count: cell.count }),
            None => {
                tracing::warn!(kind = cell.kind, "kind not available here, none of it is prewarmed");
                None
            }
        };
        wanted.into_iter().filter_map(cell).collect()
    }

    pub(super) fn container_name(&self, node: u64, counter: u64) -> String {
        container_name(node, counter, "prewarm", &self.kind)
    }
}

fn of_manifest(manifest: &Manifest) -> Vec<config::Prewarm> {
    let cells = manifest.stem_cells().map(|(kind, cells)| {
        if cells.reactive.is_some() {
            tracing::warn!(kind, "the number of stem cells stays at initialCount; `reactive` is not followed");
        }
        config::Prewarm { kind: kind.to_owned(), memory: cells.memory, count: cells.initial_count }
    });
    cells.collect()
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

    fn cells(written: &str, manifest: Option<&str>) -> Vec<(String, u64, usize)> {
        let config = config::tests::parse(written).unwrap().containers;
        let manifest = match manifest {
            None => Manifest::upstream(),
            Some(json) => Manifest { is_own: true, ..Manifest::parse(json).unwrap() },
        };
        let kinds = Kinds::new(&manifest, &["nodejs:20".to_owned(), "python:3.11".to_owned()]);
        let cells = StemCell::configured(&config, &manifest, &kinds);
        cells.into_iter().map(|cell| (cell.kind, cell.memory.as_mib(), cell.count)).collect()
    }

    fn cell(kind: &str, mib: u64, count: usize) -> (String, u64, usize) {
        (kind.to_owned(), mib, count)
    }

    #[test]
    fn what_is_prewarmed() {
        let two = r#"{"runtimes":{"nodejs":[{"kind":"nodejs:20","image":{"name":"i"},"stemCells":[
            {"initialCount":2,"memory":"256 MB","reactive":{"minCount":1,"maxCount":4,"ttl":"2 minutes","threshold":1,
             "increment":1}},{"initialCount":1,"memory":"512 MB"}]}],
            "ruby":[{"kind":"ruby:2.5","image":{"name":"i"},"stemCells":[{"initialCount":1,"memory":"256 MB"}]}]}}"#;
        let default = [cell("nodejs:20", 256, 1), cell("python:3.11", 256, 1)];
        assert_eq!(cells("", None), default);
        assert_eq!(cells("[containers]\nmemory = \"512MB\"", None), default[..1], "half is for actions");
        assert_eq!(cells("", Some(two)), [cell("nodejs:20", 256, 2), cell("nodejs:20", 512, 1)]);
        let written =
            "[[containers.prewarm]]\nkind = \"nodejs:default\"\ncount = 3\n[[containers.prewarm]]\nkind = \"cobol:60\"";
        for manifest in [None, Some(two)] {
            assert_eq!(cells(written, manifest), [cell("nodejs:20", 256, 3)], "what is not here is left out");
        }
        assert_eq!(cells("[containers]\nprewarm = []", Some(two)), []);
    }
}
