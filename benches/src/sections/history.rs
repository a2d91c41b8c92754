//! A long history: what it costs to get, list and count activation records when very many are stored.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Bench;
use crate::{
    floor::Runtime,
    http,
    load::{Sample, Target, closed_loop, one_client, open_loop},
    process,
    report::{Budget, Fact, Rounds, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

/// The names that records have: most the first, one in [`RARE`] the last, the others the rest.
const ACTIONS: [&str; 6] = ["often", "other1", "other2", "other3", "other4", "rare"];
const RARE: u64 = 500;
const WRITERS: u32 = 32;
/// Storing may be so much slower than it is, and then the section fails rather than last for ever.
const SLOWEST_PER_SECOND: u64 = 1_000;
/// Accepted or answered work that is not recorded by then counts as lost.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// What is written out and merged behind the last record is not measured with the queries, unless it takes longer.
const REST: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_millis(50);
const INFLOW: u32 = 2_000;
const INFLOW_CONNECTIONS: u32 = 16;
/// Times of the history that queries are about.
const MOMENTS: u64 = 1_000;
/// Records that are got, from each of the moments.
const PER_MOMENT: usize = 10;
/// Prime, so that turns go through all moments and neighbours in turn are far apart in time.
const STRIDE: u64 = 379;
const BUDGET_RECORDS: u64 = 10_000_000;
const MIB: f64 = 1024.0 * 1024.0;

/// What a good answer holds.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Record,
    /// So many records.
    List(usize),
    /// A number of records of at least this.
    Count(u64),
}

/// A question to the history.
struct Query {
    name: &'static str,
    target: Target,
    holds: Holds,
    budget: Option<Promise>,
}

/// What the design promises an answer to within 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Get,
    List,
    Filter,
}

impl Promise {
    const ALL: [(Promise, &str); 3] =
        [(Promise::Get, "get"), (Promise::List, "slowest list"), (Promise::Filter, "slowest list of a name")];
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section {
        name: "history",
        title: format!("records of a namespace with {} and more, one client", bench.records),
        rows: Vec::new(),
        facts: Vec::new(),
        budgets: Vec::new(),
        warnings: Vec::new(),
    };
    let Some(mut node) = bench.start("history", Setup::new(Backend::Simulated)).await? else { return Ok(section) };
    for action in ACTIONS {
        node.put_noop(action, Runtime::Nodejs, "nodejs:default").await?;
    }
    let first = node.call(&node.request("POST", "/actions/often?blocking=true", b"{}")).await?;
    let (stored, took) = store(&node, bench.records).await?;
    let newest = node.call(&node.request("GET", "/activations?limit=1", b"")).await?;
    let history = History { stored, since_ms: start_of(&first)?, upto_ms: start_of(&newest[0])? };
    let mut fact = |what: &str, value: f64, unit| section.facts.push(Fact { what: what.to_owned(), value, unit });
    fact("records stored by blocking invocations", stored as f64, "records");
    fact("their pace", stored as f64 / took.as_secs_f64(), "records/s");
    tokio::time::sleep(REST).await;
    fact("the node's folder on the disk", node.disk_bytes()? as f64 / stored as f64, "bytes per record");

    let queries = history.queries(&node).await?;
    for query in &queries {
        query.check(&node).await?;
    }
    let floor = Target::fixed(node.address(), http::request("GET", "/ping", None, b""), 200);
    let inflow = Target { address: node.address(), request: activations(&node), expect: 202 };
    let mut floor_cell = Rounds::new("whisp, GET /ping", "at rest");
    let loads = [("at rest", None), ("2,000/s new", Some(&inflow))];
    let mut cells =
        loads.map(|(load, _)| queries.iter().map(|query| Rounds::new(query.name, load)).collect::<Vec<_>>());
    let rounds = bench.rounds(3, 1);
    let time = bench.time(MEASURE);
    for _ in 0..rounds {
        floor_cell.add(one_client(&floor, time).await?);
        for ((_, inflow), cells) in loads.iter().zip(&mut cells) {
            for (query, cell) in queries.iter().zip(cells) {
                let before = process::cpu_time(node.pid())?;
                let sample = beside(*inflow, one_client(&query.target, time), time).await?;
                match inflow {
                    None => cell.add_with_cpu(sample, process::cpu_time(node.pid())?.saturating_sub(before)),
                    // New activations use more of it than the query.
                    Some(_) => cell.add(sample),
                }
            }
        }
    }

    let floor = floor_cell.row(None);
    section.rows.push(floor.clone());
    for cells in &cells {
        let rows: Vec<Row> = cells.iter().map(|cell| cell.row(Some(&floor))).collect();
        for (promise, what) in Promise::ALL {
            let promised = rows.iter().zip(&queries).filter(|(_, query)| query.budget == Some(promise));
            let slowest = promised.map(|(row, _)| row.p99_us).fold(0.0, f64::max);
            let what = format!("{what}, {}, p99", rows[0].load);
            section.budgets.push(Budget::at_most(what, slowest / 1e3, 10.0, "ms"));
        }
        section.rows.extend(rows);
        section.warnings.extend(cells.iter().filter_map(Rounds::warning));
    }
    if stored < BUDGET_RECORDS {
        section.warnings.push(format!("the budgets speak of {BUDGET_RECORDS} records, not {stored}"));
    }
    conclude(&mut node, stored, &mut section).await?;
    node.stop()?;
    Ok(section)
}

/// What the node costs with its history, and how long it takes to be there again when it was killed.
async fn conclude(node: &mut Whisp, stored: u64, section: &mut Section) -> anyhow::Result<()> {
    let mut fact = |what: &str, value: f64, unit| section.facts.push(Fact { what: what.to_owned(), value, unit });
    let memory = process::memory(node.pid())?;
    fact("at the end, resident", memory.resident_bytes as f64 / MIB, "MB");
    fact("at the end, heap and stacks", memory.anonymous_bytes as f64 / MIB, "MB");
    let before = node.recorded().await?;
    fact("from its start to ready after kill -9", node.kill_and_restart().await?.as_secs_f64(), "s");
    let after = node.recorded().await?;
    ensure!(after >= before && before >= stored, "of {before} records {after} were there after kill -9");
    Ok(())
}

/// Runs `measured` while new activations come in, if any are to.
async fn beside(
    inflow: Option<&Target>,
    measured: impl Future<Output = anyhow::Result<Sample>>,
    time: Duration,
) -> anyhow::Result<Sample> {
    let Some(inflow) = inflow else { return measured.await };
    let later = async {
        tokio::time::sleep(SETTLE).await;
        measured.await
    };
    let written = open_loop(inflow, INFLOW, INFLOW_CONNECTIONS, SETTLE, time);
    let (written, sample) = tokio::try_join!(written, later)?;
    ensure!(written.failures == 0, "a new activation failed: {}", written.first_failure.unwrap_or_default());
    Ok(sample)
}

/// Stores at least `count` records, as fast as the node runs activations. Returns how many there are, and the time.
async fn store(node: &Whisp, count: u64) -> anyhow::Result<(u64, Duration)> {
    let requests = ACTIONS.map(|action| node.blocking_invoke(action));
    let next = Rc::new(Cell::new(0));
    let request = move |_client: u32, _turn: u64, out: &mut Vec<u8>| out.extend_from_slice(pick(&requests, &next));
    let target = Target { address: node.address(), request: Rc::new(request), expect: 200 };
    let start = Instant::now();
    let limit = DRAIN_LIMIT + Duration::from_secs(count / SLOWEST_PER_SECOND);
    let mut answered = 0;
    while answered < count {
        ensure!(start.elapsed() < limit, "only {answered} of {count} records were stored within {limit:?}");
        let sample = closed_loop(&target, WRITERS, Duration::ZERO, Duration::from_millis(250)).await?;
        ensure!(sample.failures == 0, "an invocation failed: {}", sample.first_failure.unwrap_or_default());
        answered += sample.answered;
    }
    let took = start.elapsed();
    let until = Instant::now() + DRAIN_LIMIT;
    loop {
        // Records follow the answers.
        let recorded = node.recorded().await?;
        if recorded >= answered {
            return Ok((recorded, took));
        }
        ensure!(Instant::now() < until, "{} activations have no record", answered - recorded);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the inflow sends: activations of the same names, answered with 202.
fn activations(node: &Whisp) -> Rc<crate::load::Requests> {
    let requests = ACTIONS.map(|action| node.accepted_invoke(action));
    let next = Rc::new(Cell::new(0));
    Rc::new(move |_client, _turn, out: &mut Vec<u8>| out.extend_from_slice(pick(&requests, &next)))
}

/// The request of the next activation, by its number.
fn pick<'r>(requests: &'r [Vec<u8>; ACTIONS.len()], next: &Cell<u64>) -> &'r [u8] {
    let number = next.replace(next.get() + 1);
    let last = ACTIONS.len() - 1;
    &requests[match number {
        number if number % RARE == 0 => last,
        number if number % 2 == 0 => 0,
        number => 1 + (number / 2) as usize % (last - 1),
    }]
}

/// What is stored, and when it began.
struct History {
    stored: u64,
    since_ms: u64,
    upto_ms: u64,
}

impl History {
    /// The time at `part` of [`MOMENTS`].
    fn moment(&self, part: u64) -> u64 {
        self.since_ms + (self.upto_ms - self.since_ms) * part / MOMENTS
    }

    /// The moments in the order in which turns take them, the first quarter left out, so that lists find enough before.
    fn moments(&self) -> Vec<u64> {
        let moments = (0..MOMENTS).map(|turn| turn * STRIDE % MOMENTS).filter(|part| *part >= MOMENTS / 4);
        moments.map(|part| self.moment(part)).collect()
    }

    async fn queries(&self, node: &Whisp) -> anyhow::Result<Vec<Query>> {
        let fixed = |path: &str| vec![node.request("GET", path, b"")];
        let middle = format!("since={}&upto={}", self.moment(MOMENTS / 4), self.moment(MOMENTS / 2));
        let (mut spans, mut spans_of_name) = (Vec::new(), Vec::new());
        for upto in self.moments() {
            let span = format!("since={}&upto={upto}", self.since_ms);
            spans.push(node.request("GET", &format!("/activations?{span}"), b""));
            spans_of_name.push(node.request("GET", &format!("/activations?name=often&{span}"), b""));
        }
        let ids = self.ids(node).await?;
        let gets = ids.iter().map(|id| node.request("GET", &format!("/activations/{id}"), b""));
        let query = |name, budget, holds, requests: Vec<Vec<u8>>| {
            let request = move |_client: u32, turn: u64, out: &mut Vec<u8>| {
                out.extend_from_slice(&requests[turn as usize % requests.len()]);
            };
            let target = Target { address: node.address(), request: Rc::new(request), expect: 200 };
            Query { name, target, holds, budget }
        };
        let (get, list, filter) = (Some(Promise::Get), Some(Promise::List), Some(Promise::Filter));
        let (all, often, cut) = (Holds::Count(self.stored), Holds::Count(self.stored / 3), Holds::Count(1));
        let thirty = Holds::List(30);
        Ok(vec![
            query("get one, old or new", get, Holds::Record, gets.collect()),
            query("list 30", list, thirty, fixed("/activations")),
            query("list 200", list, Holds::List(200), fixed("/activations?limit=200")),
            query("list 30, skip 1,000", list, thirty, fixed("/activations?skip=1000")),
            query("list 30, since, upto", list, thirty, spans),
            query("list 30, frequent name", filter, thirty, fixed("/activations?name=often")),
            query("list 30, rare name", filter, thirty, fixed("/activations?name=rare")),
            query("list 30, name, since, upto", filter, thirty, spans_of_name),
            query("list 30, skip 10,000", None, thirty, fixed("/activations?skip=10000")),
            query("count", None, all, fixed("/activations?count=true")),
            query("count, frequent name", None, often, fixed("/activations?count=true&name=often")),
            query("count, since, upto", None, cut, fixed(&format!("/activations?count=true&{middle}"))),
        ])
    }

    /// Ids from all over the history, neighbours far apart.
    async fn ids(&self, node: &Whisp) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        for upto in self.moments() {
            let path = format!("/activations?limit={PER_MOMENT}&upto={upto}");
            let listed = node.call(&node.request("GET", &path, b"")).await?;
            let listed = listed.as_array().context("a list is an array")?;
            let id = |record: &Value| Some(record["activationId"].as_str()?.to_owned());
            ids.extend(listed.iter().filter_map(id));
        }
        ensure!(ids.len() == PER_MOMENT * self.moments().len(), "only {} ids were found", ids.len());
        // One of each moment, then the next of each.
        let by_turn = |turn: usize| ids.iter().skip(turn).step_by(PER_MOMENT).cloned();
        Ok((0..PER_MOMENT).flat_map(by_turn).collect())
    }
}

impl Query {
    /// A fast answer that lacks what was asked for would be no finding.
    async fn check(&self, node: &Whisp) -> anyhow::Result<()> {
        let mut request = Vec::new();
        (self.target.request)(0, 0, &mut request);
        let answer = node.call(&request).await?;
        let good = match self.holds {
            Holds::Record => answer["response"]["success"] == true,
            Holds::List(length) => answer.as_array().is_some_and(|records| records.len() == length),
            Holds::Count(at_least) => answer["activations"].as_u64().is_some_and(|count| count >= at_least),
        };
        let shown: String = answer.to_string().chars().take(200).collect();
        ensure!(good, "{} is to be answered with {:?}, not {shown}", self.name, self.holds);
        Ok(())
    }
}

fn start_of(record: &Value) -> anyhow::Result<u64> {
    record["start"].as_u64().with_context(|| format!("no start in {record}"))
}
