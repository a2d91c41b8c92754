//! `GET /metrics`: after known invocations it tells exactly these, and all that its list promises.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use node::{
    config::Prewarm,
    metrics::list::{self, Kind, Metric},
};
use protocol::ByteSize;
use serde_json::json;

use super::{TestNode, client::Client, invoke::script};

/// An exposition, taken apart.
#[derive(Debug, Default)]
struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    unit: Option<String>,
    /// By name and labels, as written and in the order of their names.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// Reads OpenMetrics text and insists on its rules: a family's lines stand together, its metadata first, each sample's
    /// name is its family's with a suffix of its type, and the end is marked.
    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text is whole");
        let mut parsed = Self::default();
        let mut current = String::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let (what, rest) = rest.split_once(' ').expect(line);
                let (name, value) = rest.split_once(' ').expect(line);
                if name != current {
                    assert_eq!(what, "HELP", "{line}");
                    assert!(!parsed.families.contains_key(name), "{name} is there twice");
                    current = name.to_owned();
                }
                let family = parsed.families.entry(current.clone()).or_default();
                assert!(family.samples.is_empty(), "{line} comes behind samples");
                match what {
                    "HELP" => family.help = value.to_owned(),
                    "TYPE" => family.kind = value.to_owned(),
                    "UNIT" => family.unit = Some(value.to_owned()),
                    other => panic!("{other} in {line}"),
                }
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = match sample.split_once('{') {
                None => (sample, ""),
                Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            };
            let family = parsed.families.get_mut(&current).expect(line);
            let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} in {current}"));
            let suffixes: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("{other} in {line}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
                let (key, value) = label.split_once('=').expect(line);
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
                (key.to_owned(), value.to_owned())
            });
            family.samples.push((name.to_owned(), labels.collect(), value.parse().expect(line)));
        }
        parsed
    }

    fn of(node: &TestNode) -> Self {
        let answer = Client::new(node.addr, None).get("/metrics");
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type");
        assert_eq!(kind.as_deref(), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
        Self::parse(&answer.body)
    }

    /// The sample `name` with exactly these labels; 0 if there is none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.filter(|(other, of, _)| other == name && *of == labels).map(|(_, _, value)| value).sum()
    }
}

fn type_of(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    }
}

/// Every metric of the list is there with what the list says of it, and nothing else is. Those of Docker need that.
fn check_list(exposition: &Exposition) {
    for metric in list::ALL.iter().filter(|metric| !metric.name.starts_with("node_docker_")) {
        let family = exposition.families.get(metric.family()).unwrap_or_else(|| panic!("{} is not there", metric.name));
        assert_eq!(family.kind, type_of(metric), "{}", metric.name);
        assert_eq!(family.help, format!("{}.", metric.help), "{}", metric.name);
        assert_eq!(family.unit.is_some(), ["_seconds", "_bytes"].iter().any(|unit| metric.family().ends_with(unit)));
        assert!(!family.samples.is_empty(), "{} has no samples", metric.name);
        for (_, labels, _) in &family.samples {
            let mut names: Vec<&str> = labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
            let mut expected = metric.labels.to_vec();
            names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(names, expected, "{}", metric.name);
        }
    }
    let listed: Vec<&str> = list::ALL.iter().map(Metric::family).collect();
    for name in exposition.families.keys() {
        assert!(listed.contains(&name.as_str()), "{name} is in no list");
    }
}

#[test]
fn what_was_invoked_is_counted_and_all_that_is_listed_is_there() {
    let node = TestNode::start("it-metrics", |config| {
        let cell = Prewarm { kind: "nodejs:20".into(), memory: ByteSize::mib(256), count: 1 };
        config.containers.prewarm = Some(vec![cell]);
        config.containers.memory = ByteSize::mib(4096);
        config.containers.pause_grace = None;
    });
    let state = |exposition: &Exposition, state: &str| exposition.value("node_containers", &[("state", state)]);
    let until = |what: &str, holds: &dyn Fn(&Exposition) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let exposition = Exposition::of(&node);
            if holds(&exposition) {
                return exposition;
            }
            assert!(Instant::now() < deadline, "{what}: {exposition:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let fresh = until("the stem cell", &|now| state(now, "prewarmed") == 1.0);
    assert_eq!(fresh.value("node_container_memory_used_bytes", &[]), f64::from(256 << 20));
    assert_eq!(fresh.value("node_container_starts_total", &[("start", "cold")]), 0.0);

    let user = node.user("it-metrics");
    let answer = |status: u16, body: &str| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        json!({"then": {"answer": {"status": status, "body": body}}})
    };
    script(&user, "ok", json!({}));
    script(&user, "fails", answer(200, r#"{"error":"no"}"#));
    script(&user, "breaks", answer(500, r#"{"error":"no"}"#));
    let code = json!({"run": {}}).to_string();
    user.action("snake", &json!({"exec": {"kind": "python:3.11", "code": code}, "limits": {"memory": 128}}));
    // The stem cell, then the same container twice more, once for accepted work. Each waits for the one before to have ended:
    // until then its container is not free.
    let call = |name: &str, query: &str| {
        let answer = user.post(&format!("actions/{name}{query}"), &json!({}));
        user.record(&answer.header("x-openwhisk-activation-id").unwrap_or_else(|| panic!("{answer:?}")));
        until("the end", &|now| now.value("node_invocations_running", &[]) == 0.0)
    };
    call("ok", "?blocking=true");
    call("ok", "?blocking=true");
    call("ok", "");
    until("the next stem cell", &|now| state(now, "prewarmed") == 1.0);
    call("fails", "?blocking=true");
    until("the next stem cell", &|now| state(now, "prewarmed") == 1.0);
    call("breaks", "?blocking=true");
    call("snake", "?blocking=true");
    // The container of `breaks` is destroyed: cell, `ok`, `fails` and `snake` are left.
    let memory = f64::from((3 * 256 + 128) << 20);
    let now = until("the containers that stay", &|now| {
        state(now, "prewarmed") == 1.0 && now.value("node_container_memory_used_bytes", &[]) == memory
    });
    check_list(&now);

    for (name, labels, value) in [
        ("node_container_starts_total", &[("start", "prewarmed")][..], 3.0),
        ("node_container_starts_total", &[("start", "warm")], 2.0),
        ("node_container_starts_total", &[("start", "cold")], 1.0),
        ("node_container_start_failures_total", &[], 0.0),
        ("node_container_evictions_total", &[], 0.0),
        ("node_container_refusals_total", &[], 0.0),
        ("node_container_queue_seconds_count", &[], 4.0),
        ("node_container_start_seconds_count", &[], 1.0),
        ("node_containers", &[("state", "idle")], 3.0),
        ("node_containers", &[("state", "busy")], 0.0),
        ("node_containers", &[("state", "paused")], 0.0),
        ("node_containers", &[("state", "starting")], 0.0),
        ("node_container_waiting", &[], 0.0),
        ("node_container_memory_limit_bytes", &[], 4096.0 * 1024.0 * 1024.0),
        ("node_container_memory_idle_bytes", &[], f64::from((2 * 256 + 128) << 20)),
        ("node_accepted_waiting", &[], 0.0),
        ("openwhisk_action_activations_total", &[("kind", "nodejs:20")], 5.0),
        ("openwhisk_action_activations_total", &[("kind", "python:3.11")], 1.0),
        ("openwhisk_action_coldStarts_total", &[("kind", "nodejs:20")], 3.0),
        ("openwhisk_action_coldStarts_total", &[("kind", "python:3.11")], 1.0),
        ("openwhisk_action_waitTime_seconds_count", &[("kind", "nodejs:20")], 5.0),
        ("openwhisk_action_initTime_seconds_count", &[("kind", "nodejs:20")], 3.0),
        ("openwhisk_action_duration_seconds_count", &[("kind", "nodejs:20")], 5.0),
        // `{}` three times, `{"error":"no"}` twice.
        ("openwhisk_action_response_size_bytes_sum", &[("kind", "nodejs:20")], 3.0 * 2.0 + 2.0 * 14.0),
        ("openwhisk_action_response_size_bytes_sum", &[("kind", "python:3.11")], 2.0),
        ("openwhisk_action_status_total", &[("kind", "nodejs:20"), ("status", "success")], 3.0),
        ("openwhisk_action_status_total", &[("kind", "nodejs:20"), ("status", "application_error")], 1.0),
        ("openwhisk_action_status_total", &[("kind", "nodejs:20"), ("status", "action_developer_error")], 1.0),
        ("openwhisk_action_status_total", &[("kind", "nodejs:20"), ("status", "whisk_internal_error")], 0.0),
        ("openwhisk_action_status_total", &[("kind", "python:3.11"), ("status", "success")], 1.0),
        ("whisp_info", &[("version", env!("CARGO_PKG_VERSION")), ("node", "it-metrics")], 1.0),
    ] {
        assert_eq!(now.value(name, labels), value, "{name} {labels:?}");
    }
    for name in ["process_start_time_seconds", "process_open_fds", "process_threads", "raft_log_flushes_total"] {
        assert!(now.value(name, &[]) >= 1.0, "{name}");
    }
    assert!(now.value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(now.value("raft_log_flushed_entries_total", &[]) >= now.value("raft_log_flushes_total", &[]) / 2.0);
}
