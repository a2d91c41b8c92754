//! Stem cells: containers started before anyone needs them, without code. Kept per kind and memory, refilled beside the
//! request path, counted in the node's memory, and never evicted to make room.
//!
//! Their number is fixed, or follows the cold starts of their kind and memory ([`Reactive`]): as many as there were per
//! interval, over `threshold`, times `increment`, within bounds. Those beyond that stay until their time is over.
//!
//! Source: apache/openwhisk `ContainerPool.adjustPrewarmedContainer`, `ContainerPoolTests`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use protocol::ByteSize;

use super::{Need, need::container_name, pool_state::Held};
use crate::{
    config,
    entities::{
        kinds::Kinds,
        manifest::{Manifest, Reactive},
    },
};

/// Those that are removed in one go because nobody took them in their time.
///
/// Source: apache/openwhisk `application.conf`, `prewarm-expiration-limit`.
const EXPIRED_AT_ONCE: usize = 100;

/// Wait after one could not be created; doubles with each failure up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// How many containers of one kind and memory are kept ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StemCell {
    /// A resolved kind, such as `nodejs:20`; never `blackbox`.
    pub kind: String,
    /// Only an action with exactly this limit can use it.
    pub memory: ByteSize,
    /// At first; later too, unless `reactive`.
    pub count: usize,
    pub reactive: Option<Reactive>,
}

impl StemCell {
    /// Those that the configuration asks for, else those of the operator's own manifest, else the default. Kinds that
    /// cannot be used here are left out with a warning.
    pub fn configured(config: &config::Containers, manifest: &Manifest, kinds: &Kinds) -> Vec<Self> {
        let fixed = |config::Prewarm { kind, memory, count }| Self { kind, memory, count, reactive: None };
        let mut cells: Vec<Self> = match &config.prewarm {
            Some(prewarm) => prewarm.iter().cloned().map(fixed).collect(),
            None if manifest.is_own => of_manifest(manifest).collect(),
            None => config.default_prewarm().into_iter().map(fixed).collect(),
        };
        let usable = |kind: &str| kinds.resolve(kind).filter(|kind| !kinds.is_deprecated(kind));
        cells.retain_mut(|cell| match usable(&cell.kind) {
            Some(kind) => {
                cell.kind = kind;
                true
            }
            None => {
                tracing::warn!(kind = cell.kind, "kind not available here, none of it is prewarmed");
                false
            }
        });
        cells
    }

    pub(super) fn container_name(&self, node: u64, counter: u64) -> String {
        container_name(node, counter, "prewarm", &self.kind)
    }
}

fn of_manifest(manifest: &Manifest) -> impl Iterator<Item = StemCell> {
    manifest.stem_cells().map(|(kind, cells)| StemCell {
        kind: kind.to_owned(),
        memory: cells.memory,
        count: cells.initial_count,
        reactive: cells.reactive.clone(),
    })
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
    /// With the time since which each waits. Oldest first: that one is taken next.
    ready: VecDeque<(Held<C>, Instant)>,
    creating: usize,
    /// How many there are to be.
    wanted: usize,
    /// Containers created for want of one of these since the last [`Cells::adjust`].
    cold_starts: usize,
    /// The last creation failed.
    trouble: Option<Trouble>,
    /// It was reported that one does not fit; not reported again before one did.
    short: bool,
}

/// Creations that fail.
#[derive(Debug)]
struct Trouble {
    /// In a row.
    failures: u32,
    reason: String,
    /// Nothing is created until [`Cells::retry`].
    resting: bool,
}

/// What is to be done about a creation that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// Bytes of the one that will not be.
    pub bytes: u64,
    /// [`Cells::retry`] is to be called after this; `None`: it is under way.
    pub retry: Option<Duration>,
    /// It failed for this reason for the first time.
    pub is_news: bool,
}

impl<C> Cells<C> {
    pub fn new(config: Vec<StemCell>) -> Self {
        let cell = |config: StemCell| Cell {
            wanted: config.count,
            config,
            ready: VecDeque::new(),
            creating: 0,
            cold_starts: 0,
            trouble: None,
            short: false,
        };
        Self { cells: config.into_iter().map(cell).collect() }
    }

    /// One that fits `need` exactly.
    pub fn take(&mut self, need: &Need) -> Option<Held<C>> {
        let (held, _) =
            self.cells.iter_mut().filter(|cell| cell.matches(need)).find_map(|cell| cell.ready.pop_front())?;
        Some(held)
    }

    /// A container is being created for `need`, which found none of these.
    pub fn cold_start(&mut self, need: &Need) {
        self.cells.iter_mut().filter(|cell| cell.matches(need)).for_each(|cell| cell.cold_starts += 1);
    }

    /// Makes the numbers follow the cold starts since the last call. Returns those that nobody took in their time, at most
    /// [`EXPIRED_AT_ONCE`], the oldest first; they are replaced as far as they are wanted.
    pub fn adjust(&mut self, now: Instant) -> Vec<Held<C>> {
        let mut expired = Vec::new();
        while expired.len() < EXPIRED_AT_ONCE {
            let due = self.cells.iter_mut().filter_map(|cell| Some((cell.expires().filter(|at| *at <= now)?, cell)));
            let Some((_, oldest)) = due.min_by_key(|(at, _)| *at) else { break };
            expired.extend(oldest.ready.pop_front().map(|(held, _)| held));
        }
        for cell in &mut self.cells {
            let cold_starts = std::mem::take(&mut cell.cold_starts);
            if let Some(reactive) = &cell.config.reactive {
                let asked_for = (cold_starts / reactive.threshold).saturating_mul(reactive.increment);
                // One in excess goes when its time is over, not before, and is replaced if it is taken.
                cell.wanted = asked_for.clamp(reactive.min_count, reactive.max_count).max(cell.existing());
            }
        }
        expired
    }

    /// Whether [`Cells::adjust`] ever does anything.
    pub fn are_reactive(&self) -> bool {
        self.cells.iter().any(|cell| cell.config.reactive.is_some())
    }

    /// Bytes that those which exist or are being created keep for long from any need but one that uses a cell itself.
    pub fn bytes_withheld_from(&self, need: &Need) -> u64 {
        let total: u64 = self.cells.iter().map(|cell| cell.config.memory.bytes() * cell.lasting() as u64).sum();
        let usable = self.cells.iter().any(|cell| cell.matches(need) && cell.lasting() > 0);
        if usable { total - need.memory.bytes() } else { total }
    }

    /// Those below their number: which, and the bytes of one.
    pub fn wanted(&self) -> impl Iterator<Item = (CellId, u64)> {
        let below = |cell: &Cell<C>| !cell.is_resting() && cell.existing() < cell.wanted;
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

    pub fn created(&mut self, id: CellId, held: Held<C>, now: Instant) {
        let cell = &mut self.cells[id.0];
        cell.creating -= 1;
        cell.trouble = None;
        cell.ready.push_back((held, now));
    }

    /// Creation failed: none is created until [`Cells::retry`]. Of those that follow the cold starts no more than the least
    /// number are tried again.
    pub fn failed(&mut self, id: CellId, reason: String) -> Failed {
        let cell = &mut self.cells[id.0];
        cell.creating -= 1;
        if let Some(reactive) = &cell.config.reactive {
            cell.wanted = cell.wanted.min(cell.existing().max(reactive.min_count));
        }
        let before = cell.trouble.take();
        let is_news = before.as_ref().is_none_or(|before| before.reason != reason);
        // Of several that fail together one counts.
        let was_resting = before.as_ref().is_some_and(|before| before.resting);
        let failures = before.map_or(0, |before| before.failures) + u32::from(!was_resting);
        let pause = RETRY.0 * 2_u32.saturating_pow(failures - 1);
        cell.trouble = Some(Trouble { failures, reason, resting: true });
        Failed { bytes: cell.config.memory.bytes(), retry: (!was_resting).then_some(pause.min(RETRY.1)), is_news }
    }

    pub fn retry(&mut self, id: CellId) {
        if let Some(trouble) = &mut self.cells[id.0].trouble {
            trouble.resting = false;
        }
    }

    /// One that was created when it is no longer wanted.
    pub fn discard(&mut self, id: CellId) {
        self.cells[id.0].creating -= 1;
    }

    /// All that are ready, to be destroyed.
    pub fn take_all(&mut self) -> Vec<Held<C>> {
        self.cells.iter_mut().flat_map(|cell| cell.ready.drain(..)).map(|(held, _)| held).collect()
    }

    /// Kind and memory, wanted, ready and being created.
    pub fn counts(&self) -> impl Iterator<Item = (&StemCell, usize, usize, usize)> {
        self.cells.iter().map(|cell| (&cell.config, cell.wanted, cell.ready.len(), cell.creating))
    }
}

impl<C> Cell<C> {
    fn existing(&self) -> usize {
        self.ready.len() + self.creating
    }

    /// Those that will still be there when it has been quiet for long.
    fn lasting(&self) -> usize {
        let least = self.config.reactive.as_ref().map_or(usize::MAX, |reactive| reactive.min_count);
        self.existing().min(least)
    }

    /// When the time of the oldest is over.
    fn expires(&self) -> Option<Instant> {
        let (_, since) = self.ready.front()?;
        Some(*since + self.config.reactive.as_ref()?.ttl)
    }

    fn is_resting(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.resting)
    }

    fn matches(&self, need: &Need) -> bool {
        need.image.is_none() && self.config.kind == need.kind && self.config.memory == need.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(written: &str, manifest: Option<&str>) -> Vec<StemCell> {
        let config = config::tests::parse(written).unwrap().containers;
        let manifest = match manifest {
            None => Manifest::upstream(),
            Some(json) => Manifest { is_own: true, ..Manifest::parse(json).unwrap() },
        };
        let kinds = Kinds::new(&manifest, &["nodejs:20".to_owned(), "python:3.11".to_owned()]);
        StemCell::configured(&config, &manifest, &kinds)
    }

    fn cell(kind: &str, mib: u64, count: usize) -> StemCell {
        StemCell { kind: kind.to_owned(), memory: ByteSize::mib(mib), count, reactive: None }
    }

    #[test]
    fn what_is_prewarmed() {
        let two = r#"{"runtimes":{"nodejs":[{"kind":"nodejs:20","image":{"name":"i"},"stemCells":[
            {"initialCount":2,"memory":"256 MB","reactive":{"minCount":1,"maxCount":4,"ttl":"2 minutes","threshold":1,
             "increment":1}},{"initialCount":1,"memory":"512 MB"}]}],
            "ruby":[{"kind":"ruby:2.5","image":{"name":"i"},"stemCells":[{"initialCount":1,"memory":"256 MB"}]}]}}"#;
        let default = [cell("nodejs:20", 256, 1), cell("python:3.11", 256, 1)];
        assert_eq!(configured("", None), default);
        assert_eq!(configured("[containers]\nmemory = \"512MB\"", None), default[..1], "half is for actions");
        let ttl = Duration::from_secs(120);
        let follow = Some(Reactive { min_count: 1, max_count: 4, ttl, threshold: 1, increment: 1 });
        let following = StemCell { reactive: follow, ..cell("nodejs:20", 256, 2) };
        assert_eq!(configured("", Some(two)), [following, cell("nodejs:20", 512, 1)]);
        let written =
            "[[containers.prewarm]]\nkind = \"nodejs:default\"\ncount = 3\n[[containers.prewarm]]\nkind = \"cobol:60\"";
        for manifest in [None, Some(two)] {
            assert_eq!(configured(written, manifest), [cell("nodejs:20", 256, 3)], "what is not here is left out");
        }
        assert_eq!(configured("[containers]\nprewarm = []", Some(two)), []);
    }
}
