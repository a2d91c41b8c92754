//! Processes as `/proc` shows them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use rustix::process::WaitOptions;

/// One process, told from later ones with the same number by its start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Clock ticks since the machine started.
    pub started: u64,
    /// `comm`: the first 15 bytes of the program's name.
    pub name: String,
    zombie: bool,
}

impl Process {
    /// Reads `/proc/PID/stat`. `None`: there is no such process.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain blanks and parentheses; the last one ends it.
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            name,
            zombie: matches!(*fields.first()?, "Z" | "X"),
        })
    }

    /// Is it the same process still, and does it run?
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started && !now.zombie)
    }

    /// The arguments, joined by blanks.
    pub fn command_line(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }
}

/// All processes of this machine that run.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .filter(|process| !process.zombie)
        .collect()
}

/// The processes below `pid`, without itself.
pub fn descendants(pid: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![pid];
    let mut seen = HashSet::from([pid]);
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if seen.insert(child.pid) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// Resident memory of one process, bytes; 0 if it is gone.
pub fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// Ends the wait of sandboxes for their dead: a process that a killed node had put into a container becomes a child of
/// this process (see `become_subreaper`), and until somebody asks how it ended, the container's own init cannot end.
pub fn reap_adopted() {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let own = std::process::id().cast_signed();
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let Some(process) = Process::read(pid) else { continue };
        if process.zombie && process.parent == own && is_in_container(pid) {
            // If it fails, another thread was faster.
            let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }
}

/// Does `pid` have a second number, in a process namespace of its own? Children that tests themselves start do not.
fn is_in_container(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_ascii_whitespace().count() > 1)
}

/// What the descriptors of `pid` refer to, such as `socket:[123]` or `/dev/null`.
pub fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

/// Threads of `pid`.
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Namespaces of `kind` (`net`, `mnt`, `pid`, `ipc`, …) that the processes below `pid` are in.
pub fn namespaces_below(pid: i32, kind: &str) -> usize {
    let link = |process: &Process| fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).ok();
    descendants(pid).iter().filter_map(link).collect::<HashSet<_>>().len()
}

/// Mount points that this thread sees.
pub fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect()
}

/// The name that all control groups of the node `pid` have in common, `whisp-…`, told by its running processes.
pub fn cgroup_label(pid: i32) -> Option<String> {
    descendants(pid).iter().find_map(|process| {
        let table = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).ok()?;
        table.split(['/', '\n']).find(|part| part.starts_with("whisp-")).map(str::to_owned)
    })
}

/// Control groups whose path contains `label`, in all hierarchies, whether or not a process is in them.
pub fn cgroups(label: &str) -> Vec<String> {
    let (names, _) = files(Path::new("/sys/fs/cgroup"));
    names.into_iter().filter(|name| name.contains(label) && Path::new(name).is_dir()).collect()
}

/// Files and folders below `folder`, and the bytes of the files.
pub fn files(folder: &Path) -> (Vec<String>, u64) {
    let (mut names, mut bytes) = (Vec::new(), 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            names.push(entry.path().display().to_string());
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    (names, bytes)
}
