//! The memory limit where there is no control group for it: the whole tree is measured, and killed when it has too much.
//!
//! Coarser than the kernel's: a burst between two looks goes unseen. It is what an unprivileged user can have everywhere.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, openat};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// One tree under watch, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its root: process 1 of the sandbox, or the payload itself.
    pub(super) root: i32,
    pub(super) pidfd: OwnedFd,
    /// Of a sandbox: its files in memory, and a `/proc` with all its processes. (One that joined is no descendant of process 1.)
    pub(super) inside: Option<(OwnedFd, OwnedFd)>,
    pub(super) limit: u64,
    pub(super) killed: AtomicBool,
}

/// Looks at all trees in turn.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Vec<Weak<Watched>>>);

impl Watch {
    pub(super) fn add(&self, tree: &Arc<Watched>) {
        self.0.lock().push(Arc::downgrade(tree));
    }

    /// Runs until it is aborted.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let trees: Vec<_> = {
                let mut trees = self.0.lock();
                trees.retain(|tree| tree.strong_count() > 0);
                trees.iter().filter_map(Weak::upgrade).collect()
            };
            if trees.is_empty() {
                continue;
            }
            // Reading /proc of many processes takes long enough to be kept off the workers. A panic there would be ours: go on.
            let _ = tokio::task::spawn_blocking(move || trees.iter().for_each(|tree| look(tree))).await;
        }
    }
}

fn look(tree: &Watched) {
    let (used, processes) = match &tree.inside {
        Some((scratch, processes)) => (stored(scratch) + all_resident(processes), Vec::new()),
        None => {
            let processes = descendants(tree.root);
            let statm = |pid: &i32| resident(&fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default());
            (processes.iter().map(statm).sum(), processes)
        }
    };
    if used <= tree.limit {
        return;
    }
    tree.killed.store(true, Ordering::Release);
    // Process 1 takes everything along; without one, every process has to be hit.
    let _ = rustix::process::pidfd_send_signal(tree.pidfd.as_fd(), rustix::process::Signal::KILL);
    for pid in processes {
        // SAFETY: a call without pointers. The list is fresh, and a process of the tree is ours to kill.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Bytes of all processes that a `/proc` shows.
fn all_resident(proc: &OwnedFd) -> u64 {
    let statm = |pid: &u32| {
        let file = openat(proc, format!("{pid}/statm"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        io::read_to_string(fs::File::from(file)).ok()
    };
    processes(proc).iter().filter_map(statm).map(|text| resident(&text)).sum()
}

/// All processes that a `/proc` shows, zombies included, in its own numbers.
pub(super) fn processes(proc: &OwnedFd) -> Vec<u32> {
    // Opened anew inside: the position in a folder belongs to the descriptor.
    let Ok(entries) = rustix::fs::Dir::read_from(proc) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect()
}

/// A process and all that descend from it and have not been orphaned.
pub(super) fn descendants(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        next += 1;
    }
    found
}

/// Bytes of a process's own memory, from its `statm`: resident, without files and shared mappings.
fn resident(statm: &str) -> u64 {
    let mut pages = statm.split_whitespace().skip(1).map(|word| word.parse::<u64>().unwrap_or(0));
    let (all, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    all.saturating_sub(shared) * rustix::param::page_size() as u64
}

/// Bytes of files in a file system in memory.
fn stored(folder: &OwnedFd) -> u64 {
    rustix::fs::fstatvfs(folder).map_or(0, |stat| stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize)
}
