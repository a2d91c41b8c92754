//! `whisp status`.

use std::fmt::Write;

use super::{CliError, Target, client, print};
use crate::admin::Status;

pub fn run(target: &Target) -> Result<(), CliError> {
    let status: Status = client::get(&target.data_dir, "/status")?;
    print(target, &render(&status), &status)
}

fn render(status: &Status) -> String {
    let mut lines = Lines(String::new());
    let dev = if status.dev { ", dev: everybody knows the guest key" } else { "" };
    let name = &status.node_name;
    lines.add("node", format!("{name} (id {}), whisp {}, process {}{dev}", status.node, status.version, status.pid));
    let drains = if status.containers.draining { ", draining: takes no new work" } else { "" };
    lines.add("up", format!("{}{drains}", duration(status.uptime_ms)));
    lines.add("API", format!("http://{}/api/v1", status.api_addr));
    let disk = &status.disk;
    lines.add("data", format!("{}, {} free", status.data_dir.display(), mib(disk.free_bytes)));
    if disk.is_short {
        let wanted = format!("{} and what is reserved for a start", mib(disk.min_free_bytes));
        let text = "the disk is almost full: nothing new is written or accepted until more than";
        lines.add("WARNING", format!("{text} {wanted} are free"));
    }
    lines.add("cluster", status.cluster_id.clone());
    if let Some(bytes) = status.resident_bytes {
        lines.add("memory", format!("{} for the node itself", mib(bytes)));
    }

    let kinds = if status.backend.kinds.is_empty() { "no kind".to_owned() } else { status.backend.kinds.join(" ") };
    lines.add("back end", format!("{}: {kinds}", status.backend.name));
    for warning in &status.backend.warnings {
        lines.add("WARNING", warning.clone());
    }

    let containers = &status.containers;
    let sum = |count: fn(&crate::containers::report::ActionReport) -> usize| -> usize {
        containers.actions.iter().map(count).sum()
    };
    lines.add(
        "containers",
        format!(
            "{} busy, {} idle, {} paused, {} starting, for {} actions; {} of {} used",
            sum(|action| action.busy),
            sum(|action| action.idle),
            sum(|action| action.paused),
            sum(|action| action.starting),
            containers.actions.len(),
            mib(containers.memory_used),
            mib(containers.memory_total),
        ),
    );
    for cells in &containers.prewarmed {
        lines.add(
            "",
            format!("{} of {} ready for {} with {} MB", cells.ready, cells.wanted, cells.kind, cells.memory_mb),
        );
    }
    lines.add("waiting", format!("{} activations for a container", sum(|action| action.waiters)));

    let mut groups = String::new();
    for group in &status.groups {
        let leader = group.leader.map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
        let lag = group.last_log.saturating_sub(group.applied);
        let lag = if lag == 0 { String::new() } else { format!(", {lag} entries behind") };
        let _ = writeln!(groups, "{}: {leader}, term {}, applied {}{lag}", group.group, group.term, group.applied);
    }
    lines.add("groups", groups);
    let sessions = status
        .sessions
        .iter()
        .map(|session| format!("{} (id {}), start {}\n", session.node_name, session.node, session.incarnation));
    lines.add("sessions", sessions.collect());
    lines.0
}

/// A label, then text whose further lines stand below its first.
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, text: String) {
        for (number, line) in text.lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(self.0, "{label:<11} {line}");
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MB", bytes >> 20)
}

fn duration(ms: u64) -> String {
    let (days, hours, minutes, seconds) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} days {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{BackendStatus, DiskStatus, SessionStatus},
        cluster::raft::GroupReport,
        containers::report::{ActionReport, PoolReport, PrewarmReport},
    };

    #[test]
    fn a_person_can_read_it() {
        let status = Status {
            version: "0.1.0".to_owned(),
            node: 1,
            node_name: "here".to_owned(),
            pid: 7,
            uptime_ms: 3_723_000,
            data_dir: "whisp-data".into(),
            disk: DiskStatus { free_bytes: 100 << 20, min_free_bytes: 256 << 20, is_short: true },
            api_addr: "127.0.0.1:3233".to_owned(),
            dev: true,
            resident_bytes: Some(50 << 20),
            backend: BackendStatus {
                name: "process".to_owned(),
                kinds: vec!["nodejs:20".to_owned(), "python:3.11".to_owned()],
                warnings: vec!["no sandbox".to_owned()],
            },
            containers: PoolReport {
                memory_total: 2 << 30,
                memory_used: 512 << 20,
                memory_idle: 256 << 20,
                run_buffer: 0,
                draining: false,
                actions: vec![ActionReport {
                    namespace: "guest".to_owned(),
                    action: "guest/hello".to_owned(),
                    revision: 5,
                    kind: "nodejs:20".to_owned(),
                    memory_mb: 256,
                    idle: 1,
                    paused: 0,
                    busy: 2,
                    starting: 0,
                    waiters: 3,
                }],
                prewarmed: vec![PrewarmReport {
                    kind: "nodejs:20".to_owned(),
                    memory_mb: 256,
                    wanted: 1,
                    ready: 1,
                    creating: 0,
                }],
            },
            cluster_id: "c".to_owned(),
            groups: vec![
                GroupReport { group: "meta".to_owned(), leader: Some(1), term: 2, last_log: 9, applied: 9 },
                GroupReport { group: "shard 0".to_owned(), leader: None, term: 2, last_log: 9, applied: 7 },
            ],
            sessions: vec![SessionStatus { node: 1, node_name: "here".to_owned(), incarnation: 4 }],
        };
        let expected = "\
node        here (id 1), whisp 0.1.0, process 7, dev: everybody knows the guest key
up          1 h 2 min
API         http://127.0.0.1:3233/api/v1
data        whisp-data, 100 MB free
WARNING     the disk is almost full: nothing new is written or accepted until more than 256 MB and what is reserved for a start are free
cluster     c
memory      50 MB for the node itself
back end    process: nodejs:20 python:3.11
WARNING     no sandbox
containers  2 busy, 1 idle, 0 paused, 0 starting, for 1 actions; 512 MB of 2048 MB used
            1 of 1 ready for nodejs:20 with 256 MB
waiting     3 activations for a container
groups      meta: leader 1, term 2, applied 9
            shard 0: no leader, term 2, applied 7, 2 entries behind
sessions    here (id 1), start 4
";
        assert_eq!(render(&status), expected);
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in [(999, "0 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 days 1 h")] {
            assert_eq!(duration(ms), text);
        }
    }
}
