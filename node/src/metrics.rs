//! `GET /metrics`: one registry, to which each module adds what it measures; here is what concerns the whole process.
//!
//! | name | what |
//! | --- | --- |
//! | `whisp_info{version,node}` | 1 |
//! | `process_start_time_seconds` | when the process started, seconds since the epoch |
//! | `process_resident_memory_bytes` | memory of the process, containers excluded |
//! | `process_cpu_seconds_total` | processor time it used |
//! | `process_open_fds` | its open descriptors |
//! | `process_threads` | its threads |
//! | `raft_log_flushes_total` | syncs of the write-ahead log |
//! | `raft_log_flushed_entries_total` | log entries that they made durable |
//! | `node_container_…` | see [`crate::containers::metrics`] |

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};
use raft_store::Store;

/// Media type of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry with the metrics of the process. Modules register theirs before the node serves.
pub fn registry(node_name: &str, started_ms: u64) -> Registry {
    let mut registry = Registry::default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node", node_name.to_owned())];
    registry.register("whisp", "The node and its version", Info::new(labels));
    registry.register_collector(Box::new(Process { started_ms }));
    registry
}

/// Adds the metrics of the store.
pub fn register_store(registry: &mut Registry, store: Store) {
    registry.register_collector(Box::new(Flushes(store)));
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
        gauge(
            encoder,
            "process_start_time",
            "When the process started",
            Some(Unit::Seconds),
            self.started_ms as f64 / 1e3,
        )?;
        // What the kernel does not tell is left out rather than shown as 0.
        if let Some(bytes) = resident_bytes() {
            gauge(encoder, "process_resident_memory", "Memory of the process", Some(Unit::Bytes), bytes as f64)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let name = "process_cpu";
            counter.encode(encoder.encode_descriptor(
                name,
                "Processor time used",
                Some(&Unit::Seconds),
                prometheus_client::metrics::MetricType::Counter,
            )?)?;
        }
        if let Some(count) = entries("/proc/self/fd") {
            gauge(encoder, "process_open_fds", "Open descriptors", None, count as f64)?;
        }
        if let Some(count) = entries("/proc/self/task") {
            gauge(encoder, "process_threads", "Threads", None, count as f64)?;
        }
        Ok(())
    }
}

struct Flushes(Store);

impl fmt::Debug for Flushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flushes")
    }
}

impl Collector for Flushes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let stats = self.0.flush_stats();
        let mut counter = |name: &str, help: &str, value: u64| {
            let kind = prometheus_client::metrics::MetricType::Counter;
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        counter("raft_log_flushes", "Syncs of the write-ahead log", stats.flushes)?;
        counter("raft_log_flushed_entries", "Log entries made durable", stats.entries)
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Gauge;
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::metrics::PoolMetrics;

    /// The tables in the documentation are the list of all metrics: this holds them to it.
    #[test]
    fn every_metric_has_help_and_stands_in_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = registry("here", 1_500);
        register_store(&mut registry, Store::open(dir.path(), raft_store::Options::default()).unwrap());
        PoolMetrics::register(&mut registry);
        let text = render(&registry).unwrap();
        let lists = [include_str!("metrics.rs"), include_str!("containers/metrics.rs")].concat();
        let mut seen = 0;
        for line in text.lines() {
            let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let listed = match kind {
                "counter" => format!("`{name}_total"),
                "info" => format!("`{name}_info"),
                _ => format!("`{name}"),
            };
            assert!(lists.contains(&listed), "{listed} stands in no list");
            let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
            assert!(help.is_some_and(|help| help.len() > 4), "{name} has no help");
            seen += 1;
        }
        assert_eq!(seen, 16, "{text}");
        assert!(text.contains("process_start_time_seconds 1.5\n"), "{text}");
        assert!(text.contains("whisp_info{version="), "{text}");
        let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(memory.parse::<f64>().unwrap() > 1e6);
    }
}
