//! Every metric of a node: what registers, exposes or documents one takes it from here. `METRICS.md` is this list for people.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::{self, Registry, Unit},
};

/// One metric, with the name that its samples begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As in the text: `_total` at the end of counters, `_info` of information, the unit before that.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// One sentence, without its full stop.
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All of them, in the order of their documentation.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

// The names of `openwhisk_action_…` are those of OpenWhisk's own exporter (`PrometheusRecorder.scala`), as far as they go: it
// labels each with namespace, initiator and action, which is without bound; here it is the kind.
metrics! {
    INFO: Info "whisp_info" ["version", "node"] "The node and its version";
    START_TIME: Gauge "process_start_time_seconds" [] "When the process started, seconds since the epoch";
    RESIDENT: Gauge "process_resident_memory_bytes" [] "Memory of the process, containers excluded";
    CPU: Counter "process_cpu_seconds_total" [] "Processor time that the process used, containers excluded";
    OPEN_FDS: Gauge "process_open_fds" [] "Open descriptors of the process";
    THREADS: Gauge "process_threads" [] "Threads of the process";
    FLUSHES: Counter "raft_log_flushes_total" [] "Syncs of the write-ahead log";
    FLUSHED: Counter "raft_log_flushed_entries_total" [] "Log entries that they made durable";
    DISK_FREE: Gauge "node_disk_free_bytes" [] "Room on the disk of the data directory";
    DISK_SHORT: Gauge "node_disk_short" [] "1 while that is too little for anything new to be written or accepted";
    RECORDS_DROPPED: Counter "node_records_dropped_total" []
        "Records of answered calls that were not written for want of room on the disk";
    STARTS: Counter "node_container_starts_total" ["start"]
        "Activations that got a container, which was started for them (cold), had no code yet (prewarmed) or had it (warm)";
    START_FAILURES: Counter "node_container_start_failures_total" [] "Containers that could not be created";
    EVICTIONS: Counter "node_container_evictions_total" [] "Idle containers destroyed to make room";
    REFUSALS: Counter "node_container_refusals_total" [] "Activations that got no container, creation failures aside";
    QUEUE: Histogram "node_container_queue_seconds" [] "Wait of activations that found no idle container";
    START: Histogram "node_container_start_seconds" [] "Creation of one container, its initialization excluded";
    CONTAINERS: Gauge "node_containers" ["state"]
        "Containers that are starting, busy, idle, paused, or prewarmed without code";
    WAITING: Gauge "node_container_waiting" [] "Activations that wait for memory";
    MEMORY_LIMIT: Gauge "node_container_memory_limit_bytes" [] "What the memory limits of all containers may come to";
    MEMORY_USED: Gauge "node_container_memory_used_bytes" [] "Memory limits of all containers that exist";
    MEMORY_IDLE: Gauge "node_container_memory_idle_bytes" [] "The part of it that idle and paused containers hold";
    DOCKER_CALL: Histogram "node_docker_call_seconds" ["call"]
        "Calls to the Docker engine: create, start, inspect, pause, unpause, remove, list, logs, pull, network and version";
    DOCKER_FAILURES: Counter "node_docker_call_failures_total" ["call"] "Those of them that it refused, or did not answer in time";
    RUNNING: Gauge "node_invocations_running" [] "Invocations under way, those whose logs or record are awaited included";
    ACCEPTED_WAITING: Gauge "node_accepted_waiting" [] "Accepted activations that this node has not begun to place";
    ACTIVATIONS: Counter "openwhisk_action_activations_total" ["kind"] "Activations that ended";
    COLD_STARTS: Counter "openwhisk_action_coldStarts_total" ["kind"] "Those of them that initialized a container";
    WAIT_TIME: Histogram "openwhisk_action_waitTime_seconds" ["kind"] "From the request's arrival to the start of the action";
    INIT_TIME: Histogram "openwhisk_action_initTime_seconds" ["kind"] "Initialization, of those that had one";
    DURATION: Histogram "openwhisk_action_duration_seconds" ["kind"] "Run of the action, its initialization included";
    RESPONSE_SIZE: Histogram "openwhisk_action_response_size_bytes" ["kind"] "What the action answered";
    STATUS: Counter "openwhisk_action_status_total" ["kind", "status"]
        "Outcomes: success, application_error, action_developer_error or whisk_internal_error";
}

impl Metric {
    /// Adds `metric` under this name.
    pub fn register(&self, registry: &mut Registry, metric: impl registry::Metric) {
        match self.unit() {
            Some(unit) => registry.register_with_unit(self.stem(), self.help, unit.clone(), metric),
            None => registry.register(self.stem(), self.help, metric),
        }
    }

    /// Begins its samples in a collector.
    ///
    /// # Errors
    /// The encoder's.
    pub fn encode<'e>(&self, encoder: &'e mut DescriptorEncoder<'_>) -> Result<MetricEncoder<'e>, fmt::Error> {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        // With its full stop, as what is registered has it.
        encoder.encode_descriptor(self.stem(), &format!("{}.", self.help), self.unit(), kind)
    }

    /// The name without its suffix and its unit, which the encoder adds.
    fn stem(&self) -> &'static str {
        let family = self.family();
        self.unit_suffix().and_then(|suffix| family.strip_suffix(suffix)).unwrap_or(family)
    }

    /// The name in `# HELP` and `# TYPE`.
    pub fn family(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }

    fn unit_suffix(&self) -> Option<&'static str> {
        ["_seconds", "_bytes"].into_iter().find(|suffix| self.family().ends_with(suffix))
    }

    fn unit(&self) -> Option<&'static Unit> {
        static SECONDS: Unit = Unit::Seconds;
        static BYTES: Unit = Unit::Bytes;
        match self.unit_suffix() {
            Some("_seconds") => Some(&SECONDS),
            Some("_bytes") => Some(&BYTES),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../METRICS.md");

    #[test]
    fn names_follow_their_kind() {
        for metric in ALL {
            let Metric { name, kind, help, .. } = metric;
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(*kind == Kind::Info, name.ends_with("_info"), "{name}");
            assert!(help.len() > 8 && !help.ends_with('.'), "{name}: {help:?}");
            assert_eq!(ALL.iter().filter(|other| other.family() == metric.family()).count(), 1, "{name}");
        }
    }

    #[test]
    fn the_document_holds_this_list_and_nothing_else() {
        let row = |metric: &Metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let unit = metric.unit().map_or(String::new(), |unit| unit.as_str().to_owned());
            let kind = format!("{:?}", metric.kind).to_lowercase();
            format!("| `{}` | {kind} | {unit} | {} | {} |\n", metric.name, labels.join(", "), metric.help)
        };
        let table: String = ALL.iter().map(row).collect();
        let rows: String =
            DOCUMENT.lines().filter(|line| line.starts_with("| `")).map(|line| format!("{line}\n")).collect();
        assert_eq!(rows, table, "METRICS.md should have\n{table}");
    }
}
