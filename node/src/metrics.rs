//! `GET /metrics`: one registry, to which each module adds what it measures; here is what concerns the whole process. What
//! there is, and what it is called, is in [`list`].

pub mod list;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use raft_store::Store;

use self::list::Metric;
use crate::{containers::Pools, invoke::Invoker};

/// Media type of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry with the metrics of the process. Modules register theirs before the node serves.
pub fn registry(node_name: &str, started_ms: u64) -> Registry {
    let mut registry = Registry::default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node", node_name.to_owned())];
    list::INFO.register(&mut registry, Info::new(labels));
    registry.register_collector(Box::new(Process { started_ms }));
    registry
}

/// Adds the metrics of the store.
pub fn register_store(registry: &mut Registry, store: Store) {
    registry.register_collector(Box::new(Stored(store)));
}

/// Adds what is under way at the moment of each look.
pub fn register_work(registry: &mut Registry, pools: Pools, invoker: Invoker) {
    registry.register_collector(Box::new(Work { pools, invoker }));
}

/// The text that Prometheus reads.
///
/// # Errors
/// Never, unless a collector is broken.
pub fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

/// Memory of this process in bytes; `None` if `/proc` cannot be read.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[derive(Debug)]
struct Process {
    started_ms: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        gauge(encoder, &list::START_TIME, self.started_ms as f64 / 1e3)?;
        // What the kernel does not tell is left out rather than shown as 0.
        if let Some(bytes) = resident_bytes() {
            gauge(encoder, &list::RESIDENT, bytes as f64)?;
        }
        if let Some(seconds) = cpu_seconds() {
            ConstCounter::new(seconds).encode(list::CPU.encode(encoder)?)?;
        }
        if let Some(count) = entries("/proc/self/fd") {
            gauge(encoder, &list::OPEN_FDS, count as f64)?;
        }
        if let Some(count) = entries("/proc/self/task") {
            gauge(encoder, &list::THREADS, count as f64)?;
        }
        Ok(())
    }
}

struct Stored(Store);

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stored")
    }
}

impl Collector for Stored {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let stats = self.0.flush_stats();
        for (metric, value) in [(list::FLUSHES, stats.flushes), (list::FLUSHED, stats.entries)] {
            ConstCounter::new(value).encode(metric.encode(&mut encoder)?)?;
        }
        let space = self.0.space();
        gauge(&mut encoder, &list::DISK_FREE, space.free_bytes() as f64)?;
        gauge(&mut encoder, &list::DISK_SHORT, f64::from(u8::from(space.was_short())))
    }
}

struct Work {
    pools: Pools,
    invoker: Invoker,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

impl Collector for Work {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let report = self.pools.report();
        let mut states = [("starting", 0), ("busy", 0), ("idle", 0), ("paused", 0), ("prewarmed", 0)];
        for action in &report.actions {
            let counts = [action.starting, action.busy, action.idle, action.paused];
            states.iter_mut().zip(counts).for_each(|((_, sum), count)| *sum += count);
        }
        for cell in &report.prewarmed {
            states[0].1 += cell.creating;
            states[4].1 += cell.ready;
        }
        let mut containers = list::CONTAINERS.encode(encoder)?;
        for (state, count) in states {
            ConstGauge::new(count as i64).encode(containers.encode_family(&[("state", state)])?)?;
        }
        gauge(encoder, &list::WAITING, report.run_buffer as f64)?;
        gauge(encoder, &list::MEMORY_LIMIT, report.memory_total as f64)?;
        gauge(encoder, &list::MEMORY_USED, report.memory_used as f64)?;
        gauge(encoder, &list::MEMORY_IDLE, report.memory_idle as f64)?;
        gauge(encoder, &list::RUNNING, self.invoker.running() as f64)?;
        gauge(encoder, &list::ACCEPTED_WAITING, self.invoker.queued() as f64)
    }
}

fn gauge(encoder: &mut DescriptorEncoder, metric: &Metric, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(metric.encode(encoder)?)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn entries(dir: &str) -> Option<usize> {
    Some(std::fs::read_dir(dir).ok()?.count())
}
