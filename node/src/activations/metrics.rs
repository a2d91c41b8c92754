//! What became of activations, by the kind of their actions.
//!
//! Names are OpenWhisk's; see [`list`].

use std::collections::HashMap;

use parking_lot::RwLock;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use protocol::{Activation, ActivationStatus};

use crate::metrics::list;

type Times = Family<[(&'static str, String); 1], Histogram, fn() -> Histogram>;

/// Counters and times of activations that ended on this node.
#[derive(Debug)]
pub struct ActivationMetrics {
    activations: Family<[(&'static str, String); 1], Counter>,
    cold_starts: Family<[(&'static str, String); 1], Counter>,
    status: Family<[(&'static str, String); 2], Counter>,
    wait: Times,
    init: Times,
    duration: Times,
    size: Times,
    /// One look-up for all of them.
    kinds: RwLock<HashMap<String, OfKind>>,
}

#[derive(Debug)]
struct OfKind {
    activations: Counter,
    cold_starts: Counter,
    status: [Counter; 4],
    wait: Histogram,
    init: Histogram,
    duration: Histogram,
    size: Histogram,
}

const STATUSES: [ActivationStatus; 4] = [
    ActivationStatus::Success,
    ActivationStatus::ApplicationError,
    ActivationStatus::DeveloperError,
    ActivationStatus::WhiskError,
];

/// 1 ms to 262 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 10))
}

/// 64 B to 1 MiB.
fn bytes() -> Histogram {
    Histogram::new(exponential_buckets(64.0, 4.0, 8))
}

impl ActivationMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            activations: Family::default(),
            cold_starts: Family::default(),
            status: Family::default(),
            wait: Family::new_with_constructor(seconds),
            init: Family::new_with_constructor(seconds),
            duration: Family::new_with_constructor(seconds),
            size: Family::new_with_constructor(bytes),
            kinds: RwLock::default(),
        };
        list::ACTIVATIONS.register(registry, metrics.activations.clone());
        list::COLD_STARTS.register(registry, metrics.cold_starts.clone());
        list::WAIT_TIME.register(registry, metrics.wait.clone());
        list::INIT_TIME.register(registry, metrics.init.clone());
        list::DURATION.register(registry, metrics.duration.clone());
        list::RESPONSE_SIZE.register(registry, metrics.size.clone());
        list::STATUS.register(registry, metrics.status.clone());
        metrics
    }

    /// An activation ended as `record` says, whether or not that is stored.
    pub fn ended(&self, record: &Activation) {
        let kind = record.annotations.get("kind").map_or("unknown", |kind| kind.as_str().trim_matches('"'));
        if let Some(of_kind) = self.kinds.read().get(kind) {
            return of_kind.ended(record);
        }
        self.kinds.write().entry(kind.to_owned()).or_insert_with(|| self.of_kind(kind)).ended(record);
    }

    fn of_kind(&self, kind: &str) -> OfKind {
        let label = [("kind", kind.to_owned())];
        let status = |status: ActivationStatus| {
            let name = status.as_str().replace(' ', "_");
            self.status.get_or_create_owned(&[("kind", kind.to_owned()), ("status", name)])
        };
        OfKind {
            activations: self.activations.get_or_create_owned(&label),
            cold_starts: self.cold_starts.get_or_create_owned(&label),
            status: STATUSES.map(status),
            wait: self.wait.get_or_create_owned(&label),
            init: self.init.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
            size: self.size.get_or_create_owned(&label),
        }
    }
}

impl OfKind {
    fn ended(&self, record: &Activation) {
        let seconds = |name: &str| {
            let ms: u64 = record.annotations.get(name)?.as_str().parse().ok()?;
            Some(ms as f64 / 1e3)
        };
        self.activations.inc();
        if let Some(at) = STATUSES.iter().position(|status| *status == record.response.status) {
            self.status[at].inc();
        }
        if let Some(wait) = seconds("waitTime") {
            self.wait.observe(wait);
        }
        if let Some(init) = seconds("initTime") {
            self.cold_starts.inc();
            self.init.observe(init);
        }
        self.duration.observe(record.duration_ms.unwrap_or(0) as f64 / 1e3);
        if let Some(size) = record.response.size {
            self.size.observe(size as f64);
        }
    }
}
