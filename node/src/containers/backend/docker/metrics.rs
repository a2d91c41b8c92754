//! Metrics of the calls to the engine.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::engine::Call;
use crate::metrics::list;

type Labels = [(&'static str, &'static str); 1];

/// What calls to the Docker engine take, and how many have no result; cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerMetrics {
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    failures: Family<Labels, Counter>,
}

impl Default for DockerMetrics {
    fn default() -> Self {
        // 1 ms to 1048 s: pulls take long.
        let seconds = || Histogram::new(exponential_buckets(0.001, 4.0, 11));
        Self { seconds: Family::new_with_constructor(seconds), failures: Family::default() }
    }
}

impl DockerMetrics {
    /// Registers both.
    ///
    /// Source: apache/openwhisk `LoggingMarkers.INVOKER_DOCKER_CMD`.
    pub fn register(&self, registry: &mut Registry) {
        list::DOCKER_CALL.register(registry, self.seconds.clone());
        list::DOCKER_FAILURES.register(registry, self.failures.clone());
    }

    pub(super) fn called(&self, call: Call, took: Duration, failed: bool) {
        let labels = [("call", call.name())];
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        if failed {
            self.failures.get_or_create(&labels).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_their_names() {
        let (mut registry, metrics) = (Registry::default(), DockerMetrics::default());
        metrics.register(&mut registry);
        metrics.called(Call::Create, Duration::from_millis(2), true);
        metrics.called(Call::MakeNetwork, Duration::from_millis(2), false);
        let text = crate::metrics::render(&registry).unwrap();
        for line in [
            "node_docker_call_seconds_count{call=\"create\"} 1",
            "node_docker_call_seconds_count{call=\"network\"} 1",
            "node_docker_call_failures_total{call=\"create\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
