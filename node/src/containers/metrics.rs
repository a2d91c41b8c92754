//! Metrics of the pools, but for what can be counted when it is asked for (`crate::metrics`).

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::StartKind;
use crate::metrics::list;

/// Counters and times of the pools of one node; cheap to clone.
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
}

impl PoolMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let starts = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let of = |start: &'static str| starts.get_or_create_owned(&[("start", start)]);
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
        };
        list::STARTS.register(registry, starts);
        list::START_FAILURES.register(registry, metrics.start_failures.clone());
        list::EVICTIONS.register(registry, metrics.evictions.clone());
        list::REFUSALS.register(registry, metrics.refusals.clone());
        list::QUEUE.register(registry, metrics.queue.clone());
        list::START.register(registry, metrics.start.clone());
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
}
