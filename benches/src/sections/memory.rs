//! What a node costs when it does nothing: memory when empty and with many actions stored, and processor time.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;

use super::Bench;
use crate::{
    floor::Runtime,
    load::{Target, closed_loop},
    process::{self, Memory},
    report::{Budget, Fact, Section},
    whisp::{Backend, Setup, Whisp},
};

/// After the start or a burst of writes, before the node counts as idle.
const REST: Duration = Duration::from_secs(2);
const WRITERS: u32 = 64;
/// Storing takes no longer than this; what is stored by then is reported.
const STORE_LIMIT: Duration = Duration::from_secs(60);
const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section {
        name: "memory",
        title: "the whisp process at rest, its containers apart".to_owned(),
        rows: Vec::new(),
        facts: Vec::new(),
        budgets: Vec::new(),
        warnings: Vec::new(),
    };
    let Some(node) = bench.start("memory", Setup::new(Backend::Process)).await? else { return Ok(section) };
    tokio::time::sleep(REST).await;
    let empty = process::memory(node.pid())?;
    note(&mut section, "empty", empty);
    section.budgets.push(Budget::at_most("empty", empty.resident_bytes as f64 / MIB, 60.0, "MB"));
    let idle = Duration::from_secs(if bench.quick { 4 } else { 10 });
    idle_cpu(&node, idle, "empty", &mut section).await?;

    let stored = store(&node, bench.stored).await?;
    note(&mut section, &format!("right after {stored} actions were stored"), process::memory(node.pid())?);
    tokio::time::sleep(REST).await;
    let full = process::memory(node.pid())?;
    note(&mut section, &format!("with {stored} actions stored"), full);
    let grown = full.resident_bytes.saturating_sub(empty.resident_bytes) as f64 / f64::from(stored.max(1));
    section.facts.push(Fact { what: "growth per stored action".to_owned(), value: grown, unit: "bytes" });
    if stored >= 100_000 {
        let resident = full.resident_bytes as f64 / MIB;
        section.budgets.push(Budget::at_most(format!("{stored} actions stored"), resident, 150.0, "MB"));
    } else {
        section.warnings.push(format!("the budget of 150 MB speaks of 100,000 stored actions, not {stored}"));
    }
    if !bench.quick {
        idle_cpu(&node, idle, "with actions stored", &mut section).await?;
    }
    node.stop()?;
    Ok(section)
}

fn note(section: &mut Section, when: &str, memory: Memory) {
    let mut fact = |what: &str, bytes: u64| {
        section.facts.push(Fact { what: format!("{when}, {what}"), value: bytes as f64 / MIB, unit: "MB" });
    };
    fact("resident", memory.resident_bytes);
    fact("heap and stacks", memory.anonymous_bytes);
}

/// Processor time of the node, and of its stem cells and zygotes, while nobody calls.
async fn idle_cpu(node: &Whisp, time: Duration, when: &str, section: &mut Section) -> anyhow::Result<()> {
    let children = process::descendants(node.pid())?;
    let children_before = sum_cpu(&children);
    let threads_before = process::cpu_time_by_thread(node.pid())?;
    let before = process::cpu_time(node.pid())?;
    let start = Instant::now();
    tokio::time::sleep(time).await;
    let elapsed = start.elapsed().as_secs_f64();
    let threads = process::cpu_time_by_thread(node.pid())?;
    let percent = |used: Duration| 100.0 * used.as_secs_f64() / elapsed;
    let used = percent(process::cpu_time(node.pid())?.saturating_sub(before));
    let children_used = percent(sum_cpu(&children).saturating_sub(children_before));
    let mut fact = |who: &str, value| {
        section.facts.push(Fact { what: format!("idle, {when}, {who}"), value, unit: "% of a core" });
    };
    fact("the node", used);
    fact(&format!("its {} children", children.len()), children_used);
    section.budgets.push(Budget::at_most(format!("idle, {when}"), used, 1.0, "% of a core"));
    if used > 1.0 {
        let busiest = busiest_threads(&threads_before, &threads, elapsed);
        section.warnings.push(format!("busy while idle, by thread name: {busiest}"));
    }
    Ok(())
}

/// A child may end meanwhile: the node replaces stem cells.
fn sum_cpu(children: &[u32]) -> Duration {
    children.iter().filter_map(|pid| process::cpu_time(*pid).ok()).sum()
}

fn busiest_threads(before: &[(String, Duration)], after: &[(String, Duration)], elapsed: f64) -> String {
    let total = |threads: &[(String, Duration)], name: &str| -> Duration {
        threads.iter().filter(|(of, _)| of == name).map(|(_, time)| *time).sum()
    };
    let mut names: Vec<&str> = after.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut used: Vec<(&str, Duration)> =
        names.iter().map(|name| (*name, total(after, name).saturating_sub(total(before, name)))).collect();
    used.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let shown = used.iter().take(4).map(|(name, time)| format!("{name} {:.2} %", 100.0 * time.as_secs_f64() / elapsed));
    shown.collect::<Vec<_>>().join(", ")
}

/// Stores at least `count` different actions, as fast as the node takes them. Returns how many it took in time.
async fn store(node: &Whisp, count: u32) -> anyhow::Result<u32> {
    let body = json!({ "exec": { "kind": "nodejs:default", "code": Runtime::Nodejs.noop() } }).to_string();
    let template = node.request("PUT", "/actions/stored000000?overwrite=true", body.as_bytes());
    let at = template.windows(12).position(|window| window == b"stored000000").context("the path is in the request")?;
    let next = Rc::new(Cell::new(0u32));
    let numbers = next.clone();
    let request = move |_client: u32, _turn: u64, out: &mut Vec<u8>| {
        out.extend_from_slice(&template);
        // A few more than asked for, until the loop below looks at the count.
        let number = numbers.replace(numbers.get() + 1);
        out[at + 6..at + 12].copy_from_slice(format!("{number:06}").as_bytes());
    };
    let target = Target { address: node.address(), request: Rc::new(request), expect: 200 };
    let until = Instant::now() + STORE_LIMIT;
    while next.get() < count && Instant::now() < until {
        let sample = closed_loop(&target, WRITERS, Duration::ZERO, Duration::from_millis(250)).await?;
        // The numbers above would be about actions that are not there.
        anyhow::ensure!(sample.failures == 0, "a PUT failed: {}", sample.first_failure.unwrap_or_default());
    }
    Ok(next.get())
}
