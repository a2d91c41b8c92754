//! Metrics of the pools.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{StartKind, memory::Memory};

/// Counters and gauges of the pools of one node; cheap to clone.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    cold: Counter,
    prewarmed: Counter,
    warm: Counter,
    pub(super) start_failures: Counter,
    pub(super) evictions: Counter,
    pub(super) refusals: Counter,
    queue: Histogram,
    start: Histogram,
    memory_used: Gauge,
    memory_idle: Gauge,
}

impl PoolMetrics {
    /// Registers all of them:
    ///
    /// | name | what |
    /// | --- | --- |
    /// | `node_container_starts_total{start}` | activations that got a container: `cold`, `prewarmed`, `warm` |
    /// | `node_container_start_failures_total` | containers that could not be created |
    /// | `node_container_evictions_total` | idle containers destroyed to make room |
    /// | `node_container_refusals_total` | activations that got no container, creation failures aside |
    /// | `node_container_queue_seconds` | wait of activations that found no idle container |
    /// | `node_container_start_seconds` | creation of one container, `/init` excluded |
    /// | `node_container_memory_used_bytes` | limits of all containers that exist |
    /// | `node_container_memory_idle_bytes` | the part of it that idle ones hold |
    pub fn register(registry: &mut Registry) -> Self {
        let starts = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        let of = |start: &'static str| starts.get_or_create(&vec![("start", start)]).clone();
        // 0.1 ms to 105 s.
        let seconds = || Histogram::new(exponential_buckets(0.0001, 4.0, 11));
        let metrics = Self {
            cold: of("cold"),
            prewarmed: of("prewarmed"),
            warm: of("warm"),
            start_failures: Counter::default(),
            evictions: Counter::default(),
            refusals: Counter::default(),
            queue: seconds(),
            start: seconds(),
            memory_used: Gauge::default(),
            memory_idle: Gauge::default(),
        };
        registry.register("node_container_starts", "Activations that got a container", starts.clone());
        let failures = metrics.start_failures.clone();
        registry.register("node_container_start_failures", "Containers that could not be created", failures);
        let evictions = metrics.evictions.clone();
        registry.register("node_container_evictions", "Idle containers destroyed to make room", evictions);
        registry.register("node_container_refusals", "Activations without a container", metrics.refusals.clone());
        let queue = metrics.queue.clone();
        registry.register_with_unit("node_container_queue", "Wait for a container", Unit::Seconds, queue);
        let start = metrics.start.clone();
        registry.register_with_unit("node_container_start", "Creation of a container", Unit::Seconds, start);
        let used = metrics.memory_used.clone();
        registry.register_with_unit("node_container_memory_used", "Limits of all containers", Unit::Bytes, used);
        let idle = metrics.memory_idle.clone();
        registry.register_with_unit("node_container_memory_idle", "Limits of idle containers", Unit::Bytes, idle);
        metrics
    }

    pub(super) fn handed_out(&self, start: StartKind) {
        match start {
            StartKind::Cold => self.cold.inc(),
            StartKind::Prewarmed => self.prewarmed.inc(),
            StartKind::Warm => self.warm.inc(),
        };
    }

    pub(super) fn queued_for(&self, time: Duration) {
        self.queue.observe(time.as_secs_f64());
    }

    pub(super) fn started_in(&self, time: Duration) {
        self.start.observe(time.as_secs_f64());
    }

    pub(super) fn set_memory(&self, memory: &Memory) {
        self.memory_used.set(memory.occupied() as i64);
        self.memory_idle.set(memory.evictable() as i64);
    }
}
