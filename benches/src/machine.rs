//! The machine under the numbers: what it is, and what it charges for making bytes durable.

use std::{
    fmt::{self, Display, Formatter},
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    time::Instant,
};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::histogram;

/// Bytes of one append: about a log entry of an accepted activation.
const APPEND: [u8; 320] = [b'x'; 320];

/// Facts that explain a number to somebody who was not there.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_mib: u64,
    pub kernel: String,
    /// Of the folder that holds the nodes' data.
    pub file_system: String,
    /// One-minute load when the run began: above about 0.5 somebody else is measured as well.
    pub load_before: f64,
    /// The program under test.
    pub whisp: Option<String>,
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine { cores, processor, memory_mib, kernel, file_system, load_before, .. } = self;
        write!(f, "{cores} cores of {processor}, {memory_mib} MiB, Linux {kernel}, data on {file_system}, ")?;
        write!(f, "load before {load_before}")
    }
}

impl Machine {
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn look(data: &Path) -> anyhow::Result<Machine> {
        let line = |file: &str, field: &str| -> anyhow::Result<String> {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            let value = text.lines().find_map(|line| line.strip_prefix(field)?.trim_start().strip_prefix(':'));
            Ok(value.unwrap_or("unknown").trim().to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal")?;
        Ok(Machine {
            cores: std::thread::available_parallelism()?.get(),
            processor: line("/proc/cpuinfo", "model name")?,
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(data)?,
            load_before: fs::read_to_string("/proc/loadavg")?
                .split(' ')
                .next()
                .and_then(|first| first.parse().ok())
                .context("/proc/loadavg does not begin with a number")?,
            whisp: None,
        })
    }
}

fn file_system(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let holds = |point: &&str| folder.starts_with(point);
    let best = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next().filter(holds)?, words.next()?))
        })
        .max_by_key(|(point, _)| point.len());
    Ok(best.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned()))
}

/// A file that grows by one synced append at a time: the floor of everything that is answered when it is durable.
pub struct Appends {
    file: File,
    /// Nanoseconds per append, of all rounds.
    pub latency: Histogram<u64>,
}

impl Appends {
    /// # Errors
    /// If there is such a file, or it cannot be made.
    pub fn open(path: &Path) -> anyhow::Result<Appends> {
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        Ok(Appends { file: file.with_context(|| format!("cannot write {}", path.display()))?, latency: histogram() })
    }

    /// Appends 320 bytes and waits for the disk, `count` times. Returns the median of this round in nanoseconds.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn round(&mut self, count: u32) -> anyhow::Result<u64> {
        let mut round = histogram();
        for _ in 0..count {
            let start = Instant::now();
            self.file.write_all(&APPEND)?;
            self.file.sync_data()?;
            let took = start.elapsed().as_nanos() as u64;
            round.saturating_record(took);
            self.latency.saturating_record(took);
        }
        Ok(round.value_at_quantile(0.5))
    }
}
