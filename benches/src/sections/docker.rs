//! Docker: first invocations against making, starting and booting a container by hand; warm ones against direct calls of such a
//! container. The image has OpenWhisk's contract and is made here, from this machine's Node.js.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::{Bench, clients};
use crate::{
    docker::{Engine, Image, RawContainer, SOCKET, containers, engine_version, network},
    floor::{Runtime, direct_call},
    http::Client,
    load::{Target, closed_loop, histogram},
    report::{Budget, Rounds, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

const KIND: &str = "nodejs:20";
const CLIENTS: [u32; 2] = [1, 8];
const SETTLE: Duration = Duration::from_millis(150);
const MEASURE: Duration = Duration::from_millis(600);
/// Half seconds.
const MAX_WARM_UP: u32 = 20;
/// Until the engine has nothing left to do of an earlier invocation.
const REST_LIMIT: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_millis(200);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let Some(version) = engine_version() else {
        let title = format!("skipped: no Docker engine answers at {SOCKET}");
        return Ok(Section { name: "docker", title, rows: vec![], facts: vec![], budgets: vec![], warnings: vec![] });
    };
    let image = Image::nodejs(Engine);
    let (name, tag) = image.name.rsplit_once(':').unwrap_or((&image.name, "latest"));
    let runtime = json!({"kind": KIND, "default": true, "image": {"name": name, "tag": tag}});
    let manifest = bench.folder.join("docker-runtimes.json");
    std::fs::write(&manifest, json!({"runtimes": {"nodejs": [runtime]}}).to_string())?;
    let setup = |prewarm: Vec<String>, more: &str| Setup {
        prewarm: Some(prewarm),
        containers: format!("runtimes_manifest = {manifest:?}\n{more}"),
        ..Setup::new(Backend::Docker)
    };
    let (mut rows, mut budgets) = (Vec::new(), Vec::new());
    first(bench, &image, &setup, &mut rows, &mut budgets).await?;
    let warnings = warm(bench, &image, setup(Vec::new(), ""), &mut rows, &mut budgets).await?;
    Ok(Section {
        name: "docker",
        title: format!("a no-op in an image with OpenWhisk's contract, Docker {version}"),
        rows,
        facts: Vec::new(),
        budgets,
        warnings,
    })
}

/// First invocations, one at a time: by hand, cold, and of a stem cell.
async fn first(
    bench: &Bench,
    image: &Image,
    setup: &impl Fn(Vec<String>, &str) -> Setup,
    rows: &mut Vec<Row>,
    budgets: &mut Vec<Budget>,
) -> anyhow::Result<()> {
    // Whatever an invocation leaves is gone before the next one.
    let gone = "pause_grace = \"0s\"\nidle_timeout = \"200ms\"\n";
    let mut nodes = Vec::new();
    for (how, cells) in [("cold", Vec::new()), ("prewarmed", vec![KIND.to_owned()])] {
        let count = cells.len();
        if let Some(node) = bench.start(&format!("docker-{how}"), setup(cells, gone)).await? {
            first_invocation(&node, "unmeasured", count).await?;
            nodes.push((node, how, count, histogram()));
        }
    }
    // By hand it is on the same network: one that is not Docker's default costs more.
    let network = match nodes.first() {
        Some((node, ..)) => network(&node.containers_label()?)?,
        None => "bridge".to_owned(),
    };
    let mut floor = histogram();
    for round in 0..bench.rounds(15, 4) {
        for (node, _, cells, _) in &nodes {
            at_rest(node, *cells).await?;
        }
        floor.saturating_record(RawContainer::start(image, &network).await?.took.as_nanos() as u64);
        for (node, _, cells, starts) in &mut nodes {
            let took = first_invocation(node, &format!("first{round}"), *cells).await?;
            starts.saturating_record(took.as_nanos() as u64);
        }
    }
    let floor = Row::of_timings("docker create, start, boot, /init, /run", "one start", &floor);
    rows.push(floor.clone());
    for (node, how, _, starts) in nodes {
        let row = Row::of_timings(format!("whisp docker, {how}"), "one start", &starts);
        budgets.push(match how {
            "prewarmed" => Budget::at_most("docker prewarmed, p50", row.p50_us / 1e3, 40.0, "ms"),
            _ => Budget::at_most("docker cold, p50", row.p50_us / floor.p50_us, 1.15, "x of doing it by hand"),
        });
        rows.push(row.over(Some(&floor)));
        node.stop()?;
    }
    Ok(())
}

/// Stores a new action, waits until the engine is at rest, and times its first invocation from request to result.
async fn first_invocation(node: &Whisp, name: &str, cells: usize) -> anyhow::Result<Duration> {
    node.put_noop(name, Runtime::Nodejs, KIND).await?;
    let mut client = Client::open(&node.address()).await?;
    let request = node.blocking_invoke(name);
    at_rest(node, cells).await?;
    let start = Instant::now();
    let answer = client.call(&request).await?;
    let took = start.elapsed();
    ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(answer.body));
    node.delete(name).await?;
    Ok(took)
}

/// Waits until the node has nothing but so many stem cells, which are frozen.
async fn at_rest(node: &Whisp, cells: usize) -> anyhow::Result<()> {
    let until = Instant::now() + REST_LIMIT;
    let label = node.containers_label()?;
    loop {
        let found = containers(&label)?;
        if found.len() == cells && found.iter().all(|container| container["State"] == "paused") {
            tokio::time::sleep(REST).await;
            return Ok(());
        }
        ensure!(Instant::now() < until, "a node does not come to rest: {} containers", found.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Warm invocations beside direct calls of one container with the same image. Returns what makes the numbers less.
async fn warm(
    bench: &Bench,
    image: &Image,
    setup: Setup,
    rows: &mut Vec<Row>,
    budgets: &mut Vec<Budget>,
) -> anyhow::Result<Vec<String>> {
    let direct = RawContainer::start(image, "bridge").await?;
    let mut systems = vec![("direct calls of a container", Target::fixed(direct.address.clone(), direct_call(), 200))];
    let node = bench.start("docker-warm", setup).await?;
    if let Some(node) = &node {
        node.put_noop("noop", Runtime::Nodejs, KIND).await?;
        let target = Target::fixed(node.address(), node.blocking_invoke("noop"), 200);
        warm_up(node, &target).await?;
        systems.push(("whisp docker, warm", target));
    }
    let mut cells =
        CLIENTS.map(|count| systems.iter().map(|(name, _)| Rounds::new(*name, clients(count))).collect::<Vec<_>>());
    for _ in 0..bench.rounds(5, 2) {
        for (count, cells) in CLIENTS.into_iter().zip(&mut cells) {
            for ((_, target), cell) in systems.iter().zip(cells) {
                cell.add(closed_loop(target, count, SETTLE, bench.time(MEASURE)).await?);
            }
        }
    }
    let (mut best_direct, mut best_warm) = (0.0_f64, 0.0_f64);
    for cells in &cells {
        let floor = cells[0].row(None);
        best_direct = best_direct.max(floor.per_second);
        rows.push(floor.clone());
        for cell in &cells[1..] {
            let row = cell.row(Some(&floor));
            best_warm = best_warm.max(row.per_second);
            rows.push(row);
        }
    }
    if let Some(node) = node {
        let ratio = best_warm / best_direct;
        budgets.push(Budget::at_least("docker warm, throughput", ratio, 0.8, "x of direct calls"));
        node.stop()?;
    }
    Ok(cells.iter().flatten().filter_map(Rounds::warning).collect())
}

/// Calls with all clients until no container was started for a while.
async fn warm_up(node: &Whisp, target: &Target) -> anyhow::Result<()> {
    let (label, mut before) = (node.containers_label()?, 0);
    for _ in 0..MAX_WARM_UP {
        closed_loop(target, CLIENTS[1], Duration::ZERO, Duration::from_millis(500)).await?;
        let now = containers(&label)?.len();
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}
