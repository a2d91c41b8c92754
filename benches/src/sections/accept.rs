//! Accepted (non-blocking) invocations: a 202 promises that the work survives, so the floor is a synced append.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Bench, clients};
use crate::{
    floor::Runtime,
    load::{Sample, Target, closed_loop, open_loop},
    machine::Appends,
    report::{Budget, Fact, Rounds, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

const CLIENTS: [u32; 3] = [1, 16, 128];
const SETTLE: Duration = Duration::from_millis(100);
const MEASURE: Duration = Duration::from_millis(900);
const OPEN_RATE: u32 = 5_000;
const OPEN_CONNECTIONS: u32 = 128;
const OPEN_MEASURE: Duration = Duration::from_secs(3);
/// Accepted work that is not recorded by then counts as lost.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// A count of records that stands still for so long has arrived.
const STILL: Duration = Duration::from_millis(300);
const ACTION: &str = "noop";

/// A node, its cells (closed loops, then the open one) and what it did behind the 202s.
struct System {
    node: Whisp,
    backend: Backend,
    target: Target,
    cells: Vec<Rounds>,
    /// Records that the namespace had when the last cell was done.
    recorded: u64,
    drained_per_second: Vec<f64>,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut appends = Appends::open(&bench.folder.join("accept-appends"))?;
    let mut systems = Vec::new();
    for backend in [Backend::Simulated, Backend::Process] {
        if let Some(node) = bench.start(&format!("accept-{}", backend.name()), Setup::new(backend)).await? {
            systems.push(System::prepare(node, backend).await?);
        }
    }
    let rounds = bench.rounds(3, 1);
    for _ in 0..rounds {
        for cell in 0..=CLIENTS.len() {
            appends.round(if bench.quick { 100 } else { 300 })?;
            for system in &mut systems {
                system.turn(bench, cell).await?;
            }
        }
    }
    let floor = Row::of_timings("append 320 bytes, fdatasync", "1 writer", &appends.latency);
    let mut section = Section {
        name: "accept",
        title: format!("non-blocking invocations answered with 202, medians of {rounds} rounds"),
        rows: vec![floor.clone()],
        facts: Vec::new(),
        budgets: Vec::new(),
        warnings: Vec::new(),
    };
    for system in systems {
        system.conclude(&floor, &mut section)?;
    }
    Ok(section)
}

impl System {
    async fn prepare(node: Whisp, backend: Backend) -> anyhow::Result<System> {
        node.put_noop(ACTION, Runtime::Nodejs, "nodejs:default").await?;
        let target = Target::fixed(node.address(), node.accepted_invoke(ACTION), 202);
        let name = match backend {
            Backend::Process | Backend::Docker => "whisp, run by nodejs",
            Backend::Simulated => "whisp, run by nobody",
        };
        let loads = CLIENTS.map(clients).into_iter().chain([format!("open {OPEN_RATE}/s")]);
        let cells = loads.map(|load| Rounds::new(name, load)).collect();
        let mut system = System { node, backend, target, cells, recorded: 0, drained_per_second: Vec::new() };
        let warm_up = closed_loop(&system.target, 8, Duration::ZERO, Duration::from_millis(500)).await?;
        system.drain(&warm_up).await?;
        system.drained_per_second.clear();
        Ok(system)
    }

    /// One cell, and then until all it accepted has its record, so that the next cell finds the node at rest.
    async fn turn(&mut self, bench: &Bench, cell: usize) -> anyhow::Result<()> {
        let sample = match CLIENTS.get(cell) {
            Some(count) => closed_loop(&self.target, *count, SETTLE, bench.time(MEASURE)).await?,
            None => open_loop(&self.target, OPEN_RATE, OPEN_CONNECTIONS, SETTLE, bench.time(OPEN_MEASURE)).await?,
        };
        self.drain(&sample).await?;
        self.cells[cell].add(sample);
        Ok(())
    }

    /// Waits until the records are complete and notes how fast work was finished meanwhile.
    ///
    /// Calls while the cell settled were accepted as well but not counted, so completeness is a count that stands still
    /// at no less than what was counted.
    async fn drain(&mut self, sample: &Sample) -> anyhow::Result<()> {
        let start = Instant::now();
        let expected = self.recorded + sample.latency.len();
        let at_start = self.node.recorded().await?;
        let (mut recorded, mut changed) = (at_start, start);
        while recorded < expected || changed.elapsed() < STILL {
            if start.elapsed() > DRAIN_LIMIT {
                let missing = expected.saturating_sub(recorded);
                anyhow::bail!("at least {missing} accepted activations have no record after {DRAIN_LIMIT:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.node.recorded().await?;
            if now > recorded {
                (recorded, changed) = (now, Instant::now());
            }
        }
        let finished = recorded - at_start;
        // A short tail says nothing about the pace.
        if finished > 500 {
            self.drained_per_second.push(finished as f64 / (changed - start).as_secs_f64());
        }
        self.recorded = recorded;
        Ok(())
    }

    fn conclude(self, floor: &Row, section: &mut Section) -> anyhow::Result<()> {
        section.rows.extend(self.cells.iter().map(|cell| cell.row(Some(floor))));
        section.warnings.extend(self.cells.iter().filter_map(Rounds::warning));
        let name = if self.backend == Backend::Process { "run by nodejs" } else { "run by nobody" };
        if !self.drained_per_second.is_empty() {
            let mean = self.drained_per_second.iter().sum::<f64>() / self.drained_per_second.len() as f64;
            let what = format!("{name}: accepted work finished while nobody calls");
            section.facts.push(Fact { what, value: mean, unit: "activations/s" });
        }
        let open = self.cells.last().context("the open loop is the last cell")?.row(None);
        // The design states them for three nodes on one machine; one node must meet them all the same.
        let limit = if floor.p50_us <= 200.0 { 2_000.0 } else { 2.0 * floor.p50_us + 1_500.0 };
        let offered = f64::from(OPEN_RATE) * 0.99;
        section.budgets.push(Budget::at_least(format!("{name}, open loop rate"), open.per_second, offered, "/s"));
        section.budgets.push(Budget::at_most(format!("{name}, open loop p50"), open.p50_us / 1e3, limit / 1e3, "ms"));
        self.node.stop()
    }
}
