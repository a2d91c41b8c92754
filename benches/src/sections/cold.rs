//! First invocations: how long a user waits when no container has the action's code yet.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Bench;
use crate::{
    floor::{Interpreter, Runtime},
    http::Client,
    load::histogram,
    report::{Budget, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

/// Enough for a stem cell to be made anew (50 ms on an idle machine) and for the previous container to be gone.
const REST: Duration = Duration::from_millis(300);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let interpreters = bench.interpreters()?;
    let kinds = interpreters.iter().map(Interpreter::kind).collect();
    let cold = Setup { prewarm: Some(Vec::new()), ..Setup::new(Backend::Process) };
    let prewarmed = Setup { prewarm: Some(kinds), ..Setup::new(Backend::Process) };
    let nodes: Vec<(Whisp, &str)> = [
        bench.start("cold", cold).await?.map(|node| (node, "cold")),
        bench.start("prewarmed", prewarmed).await?.map(|node| (node, "prewarmed")),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (node, _) in &nodes {
        for interpreter in &interpreters {
            // The first of all warms the process that Python's containers are forked from.
            first_invocation(node, "unmeasured", interpreter).await?;
        }
    }
    let rounds = bench.rounds(30, 5);
    let mut floors = [histogram(), histogram()];
    let mut starts = [[histogram(), histogram()], [histogram(), histogram()]];
    for round in 0..rounds {
        for (at, interpreter) in interpreters.iter().enumerate() {
            tokio::time::sleep(REST).await;
            record(&mut floors[at], interpreter.time_start().await?);
            for ((node, _), starts) in nodes.iter().zip(&mut starts) {
                let name = format!("first{round}{}", interpreter.runtime.name());
                record(&mut starts[at], first_invocation(node, &name, interpreter).await?);
            }
        }
    }
    let (mut rows, mut budgets) = (Vec::new(), Vec::new());
    for (at, interpreter) in interpreters.iter().enumerate() {
        let runtime = interpreter.runtime;
        let name = format!("bare {} {}, spawn to answer", runtime.name(), interpreter.version);
        let floor = Row::of_timings(name, "one start", &floors[at]);
        rows.push(floor.clone());
        for ((_, how), starts) in nodes.iter().zip(&starts) {
            let row = Row::of_timings(format!("whisp {}, {how}", runtime.name()), "one start", &starts[at]);
            budgets.push(budget(runtime, how, row.p50_us, floor.p50_us));
            rows.push(row.over(Some(&floor)));
        }
    }
    for (node, _) in nodes {
        node.stop()?;
    }
    Ok(Section {
        name: "cold",
        title: format!("first invocations of new actions, {rounds} each, one at a time"),
        rows,
        facts: Vec::new(),
        budgets,
        warnings: Vec::new(),
    })
}

/// Stores a new action, waits until the node is at rest, and times its first invocation from request to result.
async fn first_invocation(node: &Whisp, name: &str, interpreter: &Interpreter) -> anyhow::Result<Duration> {
    node.put_noop(name, interpreter.runtime, &interpreter.kind()).await?;
    let mut client = Client::open(&node.address()).await?;
    let request = node.blocking_invoke(name);
    tokio::time::sleep(REST).await;
    let start = Instant::now();
    let answer = client.call(&request).await?;
    let took = start.elapsed();
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(answer.body));
    node.delete(name).await?;
    Ok(took)
}

fn budget(runtime: Runtime, how: &str, p50_us: f64, floor_us: f64) -> Budget {
    let what = format!("{} {how}, p50", runtime.name());
    match (runtime, how) {
        (Runtime::Python, "prewarmed") => Budget::at_most(what, p50_us / 1e3, 5.0, "ms"),
        (Runtime::Nodejs, "prewarmed") => Budget::at_most(what, p50_us / 1e3, 10.0, "ms"),
        _ => Budget::at_most(what, p50_us / floor_us, 1.15, "x of the bare start"),
    }
}

fn record(into: &mut Histogram<u64>, took: Duration) {
    into.saturating_record(took.as_nanos() as u64);
}
