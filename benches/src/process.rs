//! Child processes that end with this program, and what the kernel says about them.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal};

/// A child that is killed when this value goes, and asked to end when this program dies.
pub struct Owned {
    child: Child,
}

impl Owned {
    /// Starts `command`. `on_death`: the signal the child gets if this program is killed. Call it on the main thread:
    /// the kernel sends that signal when the starting *thread* ends.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(command: &mut Command, on_death: Signal) -> io::Result<Owned> {
        // SAFETY: between fork and exec only this one system call is made; it neither allocates nor locks.
        unsafe {
            command.pre_exec(move || Ok(rustix::process::set_parent_process_death_signal(Some(on_death))?));
        }
        Ok(Owned { child: command.spawn()? })
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended by itself.
    ///
    /// # Errors
    /// If the kernel does not know the child.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends SIGTERM, waits up to `grace`, then kills. Returns whether it ended by itself.
    pub fn end(&mut self, grace: Duration) -> bool {
        let until = Instant::now() + grace;
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, Signal::TERM); // it may have ended already
        }
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    /// Ends it without asking, as if the machine's operator had pulled a plug.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // fails only if it has ended
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Memory {
    /// Everything that is in memory, shared libraries and file pages included (`VmRSS`).
    pub resident_bytes: u64,
    /// What only this process has: heap and stacks (`RssAnon`).
    pub anonymous_bytes: u64,
}

/// # Errors
/// If the process has ended.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let bytes = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).with_context(|| format!("/proc/{pid}/status has no {field}"))
    };
    Ok(Memory { resident_bytes: bytes("VmRSS")?, anonymous_bytes: bytes("RssAnon")? })
}

/// Processor time that the process has used, threads that ended included, without its children. In steps of 10 ms.
///
/// # Errors
/// If the process has ended.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The name may hold spaces and brackets; after the last bracket comes the third field.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: Option<u64> = fields.skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks.context("/proc/PID/stat has no times")? as f64 / per_second as f64))
}

/// Name and processor time of each thread that lives.
///
/// # Errors
/// If the process has ended.
pub fn cpu_time_by_thread(pid: u32) -> anyhow::Result<Vec<(String, Duration)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let path = entry?.path();
        // A thread may end while we look.
        if let (Ok(name), Ok(time)) = (fs::read_to_string(path.join("comm")), scheduled(&path)) {
            threads.push((name.trim().to_owned(), time));
        }
    }
    Ok(threads)
}

/// From the scheduler, in nanoseconds.
fn scheduled(folder: &Path) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(folder.join("schedstat"))?;
    let nanoseconds =
        text.split(' ').next().and_then(|first| first.parse().ok()).context("schedstat is not a number")?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// All descendants of a process.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn descendants(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (child, parent)));
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_seen_and_ends_with_its_owner() -> anyhow::Result<()> {
        let child = Owned::spawn(Command::new("sleep").arg("60"), Signal::KILL)?;
        let pid = child.id();
        assert!(descendants(std::process::id())?.contains(&pid));
        assert!(memory(std::process::id())?.resident_bytes > 1_000_000);
        assert!(!cpu_time_by_thread(std::process::id())?.is_empty());
        let busy_until = Instant::now() + Duration::from_millis(60);
        let before = cpu_time(std::process::id())?;
        while Instant::now() < busy_until || cpu_time(std::process::id())? == before {}
        drop(child);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        Ok(())
    }
}
