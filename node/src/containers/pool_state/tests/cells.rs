use super::*;
use crate::entities::manifest::Reactive;

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn fixed(count: usize) -> StemCell {
    StemCell { kind: "nodejs:20".into(), memory: ByteSize::mib(256), count, reactive: None }
}

/// Two at first, then one to four for two minutes each: two more for every second cold start.
fn following() -> StemCell {
    let reactive = Reactive { min_count: 1, max_count: 4, ttl: 2 * MINUTE, threshold: 2, increment: 2 };
    StemCell { reactive: Some(reactive), ..fixed(2) }
}

/// A node with its first cells ready.
fn node_with(cell: StemCell, memory_mb: u64) -> Node {
    let mut node = Node::new(PoolState::new(Limits { creations: 200, ..limits(memory_mb) }, vec![cell]));
    node.cells_created();
    node.log();
    node
}

impl Node {
    /// Ends the creation of cells.
    fn cells_created(&mut self) {
        for (cell, id, bytes) in std::mem::take(&mut self.cells) {
            let effects = self.state.cell_created(cell, id, bytes, "cell", self.now);
            self.did(effects);
        }
    }

    fn cell_failed(&mut self, reason: &str) -> CellId {
        let (cell, ..) = self.cells.remove(0);
        let effects = self.state.cell_failed(cell, reason.to_owned());
        self.did(effects);
        cell
    }

    fn retry(&mut self, cell: CellId) {
        let effects = self.state.retry_cell(cell);
        self.did(effects);
    }

    fn adjust(&mut self, after: Duration) {
        self.now += after;
        let effects = self.state.adjust_cells(self.now);
        self.did(effects);
        self.end_destructions();
    }

    /// So many cold starts for `need`, each of which ends well.
    fn cold_starts(&mut self, need: &Need, count: usize) {
        for _ in 0..count {
            self.acquire(need);
            self.started();
        }
        self.log();
    }

    /// Wanted, ready, being created.
    fn counts(&self) -> (usize, usize, usize) {
        let report = self.state.report();
        (report.prewarmed[0].wanted, report.prewarmed[0].ready, report.prewarmed[0].creating)
    }
}

#[test]
fn a_stem_cell_must_match_kind_and_memory_exactly_and_is_replaced() {
    let mut node = Node::new(PoolState::new(limits(1000), vec![fixed(1)]));
    node.cells_created();
    node.log();
    let mut python = need("python", 256);
    python.kind = "python:3.11".into();
    let mut blackbox = need("blackbox", 256);
    blackbox.image = Some("me/mine".into());
    for other in [need("small", 128), python, blackbox] {
        node.acquire(&other);
    }
    node.log();
    node.acquire(&need("match", 256));
    assert_eq!(node.log(), ["4 gets 0 Prewarmed"]);
    for _ in 0..3 {
        node.started();
    }
    // 128 + 256 + 256 + 256 MB are in use when the last start has begun.
    assert_eq!(node.log().iter().filter(|did| *did == "no room for a cell of nodejs:20").count(), 1);
    node.give_back(1);
    node.give_back(2);
    assert_eq!(node.log(), [""; 0], "it is reported once");
}

#[test]
fn stem_cells_that_fail_are_tried_again_less_and_less_often() {
    let mut node = Node::new(PoolState::new(limits(512), vec![fixed(2)]));
    let cell = node.cell_failed("no image");
    node.cell_failed("no image");
    assert_eq!(node.log(), ["create cell 0", "create cell 1", "try a cell again after 10s no image"], "once for both");
    assert_eq!((node.state.memory().committed(), node.state.memory().occupied()), (0, 0));
    for seconds in [20, 40, 80, 160, 320, 600, 600] {
        node.retry(cell);
        assert_eq!(node.log().len(), 2, "two are created");
        node.cell_failed("no image");
        node.cell_failed("no image");
        assert_eq!(node.log(), [format!("try a cell again after {seconds}s as known")]);
    }
    node.retry(cell);
    node.log();
    node.cell_failed("no space");
    assert_eq!(node.log(), ["try a cell again after 600s no space"], "another reason is told");
    // One that comes to be ends it.
    node.cells_created();
    let (_, id, _) = node.cells.first().copied().expect("the other one is created at once");
    assert_eq!(node.log(), [format!("create cell {}", id.0)]);
    node.cell_failed("no space");
    assert_eq!(node.log(), ["try a cell again after 10s no space"]);
    node.retry(cell);
    node.cells_created();
    assert_eq!(node.counts(), (2, 2, 0));
}

#[test]
fn a_fixed_number_of_stem_cells_stays_whatever_happens() {
    let mut node = node_with(fixed(1), 4096);
    let a = need("a", 256);
    node.acquire(&a);
    node.cold_starts(&a, 3);
    node.cells_created();
    node.adjust(60 * MINUTE);
    assert_eq!((node.log(), node.counts()), (Vec::new(), (1, 1, 0)));
}

#[test]
fn the_number_of_stem_cells_follows_the_cold_starts() {
    let a = need("a", 256);
    for (cold_starts, wanted) in [(2, 2), (3, 2), (4, 4), (5, 4), (99, 4)] {
        let mut node = node_with(following(), 1 << 20);
        assert_eq!(node.counts(), (2, 2, 0), "initialCount");
        // Those that are there are used up first; their replacements are not ready in time.
        node.acquire(&a);
        node.acquire(&a);
        node.cold_starts(&a, cold_starts);
        assert_eq!(node.counts(), (2, 0, 2), "nothing is added between two looks");
        node.adjust(MINUTE);
        assert_eq!(node.counts(), (wanted, 0, wanted), "{cold_starts} cold starts");
        node.cells_created();
        // Without more of them the least number is wanted, and the others go when their time is over.
        node.adjust(MINUTE);
        assert_eq!(node.counts(), (wanted, wanted, 0), "not before");
        node.adjust(MINUTE);
        assert_eq!(node.counts(), (1, 0, 1), "all were of one age; the least number is made anew");
    }
}

#[test]
fn only_cold_starts_that_a_stem_cell_would_have_spared_count() {
    let mut node = node_with(StemCell { count: 1, ..following() }, 1 << 20);
    let mut python = need("python", 256);
    python.kind = "python:3.11".into();
    let mut blackbox = need("blackbox", 256);
    blackbox.image = Some("me/mine".into());
    for other in [need("small", 128), python, blackbox] {
        node.cold_starts(&other, 8);
    }
    node.adjust(MINUTE);
    assert_eq!(node.counts(), (1, 1, 0));
    // One that is taken is none, and is replaced at once.
    node.acquire(&need("a", 256));
    assert_eq!(node.counts(), (1, 0, 1));
    node.cells_created();
    node.adjust(MINUTE);
    assert_eq!(node.counts(), (1, 1, 0));
}

#[test]
fn a_stem_cell_in_excess_is_replaced_if_it_is_taken() {
    let mut node = node_with(following(), 1 << 20);
    node.adjust(MINUTE);
    node.acquire(&need("a", 256));
    assert_eq!(node.log(), ["1 gets 0 Prewarmed", "create cell 2"], "the oldest is taken");
    node.cells_created();
    node.adjust(MINUTE);
    assert_eq!(node.log(), ["destroy 1"], "its time is over; that of the new one is not");
    assert_eq!(node.counts(), (1, 1, 0));
    node.adjust(MINUTE);
    assert_eq!(node.log(), ["destroy 2", "create cell 3"], "the last one is renewed");
}

#[test]
fn a_failed_stem_cell_is_one_less_until_the_next_look() {
    let a = need("a", 256);
    let mut node = node_with(following(), 1 << 20);
    node.acquire(&a);
    node.acquire(&a);
    node.cold_starts(&a, 4);
    node.adjust(MINUTE);
    assert_eq!(node.counts(), (4, 0, 4));
    let cell = node.cell_failed("no image");
    node.cells_created();
    node.retry(cell);
    assert_eq!(node.counts(), (3, 3, 0), "more than the least number are there");
    assert_eq!(node.cells.len(), 0);
}

#[test]
fn many_stem_cells_go_a_hundred_at_a_time() {
    let reactive = Reactive { min_count: 0, max_count: 150, ttl: MINUTE, threshold: 1, increment: 1 };
    let cell = StemCell { count: 150, reactive: Some(reactive), ..fixed(0) };
    let mut node = node_with(cell, 1 << 20);
    node.adjust(MINUTE);
    assert_eq!(node.log().len(), 100);
    assert_eq!(node.counts(), (50, 50, 0));
    node.adjust(MINUTE);
    assert_eq!(node.counts(), (0, 0, 0));
}

#[test]
fn what_fits_beside_the_lasting_stem_cells_waits_for_the_others_to_go() {
    let mut node = node_with(following(), 600);
    node.acquire(&need("large", 400));
    assert_eq!(node.log(), ["1 refused TooLarge { needed: ByteSize(419430400), largest: ByteSize(360710144) }"]);
    node.acquire(&need("large", 340));
    assert_eq!(node.log(), [""; 0], "one cell stays, the other does not");
    node.adjust(2 * MINUTE);
    assert_eq!(node.log(), ["destroy 0", "destroy 1", "start 2 for large", "create cell 3"], "in this order");
}

#[test]
fn a_closed_pool_does_not_adjust_its_stem_cells() {
    let mut node = node_with(following(), 4096);
    let effects = node.state.close();
    node.did(effects);
    node.log();
    node.adjust(2 * MINUTE);
    assert_eq!(node.log(), [""; 0]);
}
