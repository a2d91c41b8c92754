//! Warm blocking invocations: the client waits for the result of a no-op whose container is ready.

use std::time::Duration;

use super::{Bench, clients};
use crate::{
    floor::{Interpreter, Runtime, direct_call},
    http::Address,
    load::{Target, closed_loop},
    process,
    report::{Budget, Rounds, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

const CLIENTS: [u32; 3] = [1, 8, 32];
/// Unmeasured calls before each cell: connections, caches, and containers that were paused since their last turn.
const SETTLE: Duration = Duration::from_millis(150);
const MEASURE: Duration = Duration::from_millis(600);
/// Half seconds.
const MAX_WARM_UP: u32 = 10;

struct System {
    name: String,
    target: Target,
    /// Index of the system it is compared with.
    floor: Option<usize>,
    /// Whether the design's budgets speak of it.
    budgeted: Option<Runtime>,
    /// The node, if it is one.
    pid: Option<u32>,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let interpreters = bench.interpreters()?;
    let bare = [interpreters[0].serve()?, interpreters[1].serve()?];
    let nodes = [
        bench.start("warm-process", Setup::new(Backend::Process)).await?,
        bench.start("warm-simulated", Setup::new(Backend::Simulated)).await?,
    ];

    let mut systems = Vec::new();
    for (interpreter, bare) in interpreters.iter().zip(&bare) {
        let floor = systems.len();
        let direct = |socket: &str, address: &Address| System {
            name: format!("bare {} {}, {socket}", interpreter.runtime.name(), interpreter.version),
            target: Target::fixed(address.clone(), direct_call(), 200),
            floor: None,
            budgeted: None,
            pid: None,
        };
        systems.push(direct("unix socket", &bare.unix));
        systems.push(direct("loopback TCP", &bare.tcp));
        if let Some(node) = &nodes[0] {
            systems.push(invocation(node, Backend::Process, interpreter, floor).await?);
        }
    }
    if let Some(node) = &nodes[1] {
        systems.push(invocation(node, Backend::Simulated, &interpreters[0], 0).await?);
    }
    for system in &systems {
        warm_up(system).await?;
    }

    let mut cells =
        CLIENTS.map(|count| systems.iter().map(|system| Rounds::new(&system.name, clients(count))).collect::<Vec<_>>());
    let rounds = bench.rounds(5, 2);
    for _ in 0..rounds {
        for (count, cells) in CLIENTS.into_iter().zip(&mut cells) {
            for (system, cell) in systems.iter().zip(cells) {
                let before = system.cpu()?;
                let sample = closed_loop(&system.target, count, SETTLE, bench.time(MEASURE)).await?;
                match (before, system.cpu()?) {
                    (Some(before), Some(after)) => cell.add_with_cpu(sample, after.saturating_sub(before)),
                    _ => cell.add(sample),
                }
            }
        }
    }
    for node in nodes.into_iter().flatten() {
        node.stop()?;
    }

    let mut rows = Vec::new();
    for cells in &cells {
        let plain: Vec<Row> = cells.iter().map(|cell| cell.row(None)).collect();
        let beside = |(row, system): (&Row, &System)| row.clone().over(system.floor.map(|at| &plain[at]));
        rows.extend(plain.iter().zip(&systems).map(beside));
    }
    Ok(Section {
        name: "warm",
        title: format!("blocking invocations of a warm no-op, medians of {rounds} rounds"),
        budgets: budgets(&systems, &rows),
        rows,
        facts: Vec::new(),
        warnings: cells.iter().flatten().filter_map(Rounds::warning).collect(),
    })
}

impl System {
    fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.pid.map(process::cpu_time).transpose()
    }
}

/// Calls with all clients until no container was started for a while, so that no cell pays for one.
async fn warm_up(system: &System) -> anyhow::Result<()> {
    let children = || system.pid.map_or(Ok(Vec::new()), process::descendants);
    let mut before = Vec::new();
    for _ in 0..MAX_WARM_UP {
        closed_loop(&system.target, CLIENTS[2], Duration::ZERO, Duration::from_millis(500)).await?;
        let now = children()?;
        if now == before || now.is_empty() {
            break;
        }
        before = now;
    }
    Ok(())
}

async fn invocation(node: &Whisp, backend: Backend, interpreter: &Interpreter, floor: usize) -> anyhow::Result<System> {
    let runtime = interpreter.runtime;
    let (name, budgeted) = match backend {
        Backend::Process | Backend::Docker => (format!("whisp {}", runtime.name()), Some(runtime)),
        Backend::Simulated => ("whisp without a runtime".to_owned(), None),
    };
    node.put_noop(runtime.name(), runtime, &interpreter.kind()).await?;
    let target = Target::fixed(node.address(), node.blocking_invoke(runtime.name()), 200);
    Ok(System { name, target, floor: Some(floor), budgeted, pid: Some(node.pid()) })
}

fn budgets(systems: &[System], rows: &[Row]) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for system in systems {
        let Some(runtime) = system.budgeted.map(Runtime::name) else { continue };
        let own: Vec<&Row> = rows.iter().filter(|row| row.system == system.name).collect();
        if let Some(over) = own[0].over_floor.as_ref() {
            budgets.push(Budget::at_most(format!("{runtime}, 1 client, added p50"), over.added_p50_us, 80.0, "us"));
            budgets.push(Budget::at_most(format!("{runtime}, 1 client, added p99"), over.added_p99_us, 500.0, "us"));
        }
        let best = own.iter().map(|row| row.per_second).fold(0.0, f64::max);
        budgets.push(Budget::at_least(format!("{runtime}, throughput"), best, 20_000.0, "calls/s"));
    }
    budgets
}
