//! `[containers]`: what runs actions, and how many.

use std::{path::PathBuf, time::Duration};

use protocol::ByteSize;
use serde::Deserialize;

use super::{
    ConfigError, HumanDuration, HumanSize,
    docker::{self, Docker},
    http::cores,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Containers {
    /// Default `process`.
    pub backend: BackendChoice,
    /// Lets actions run where a layer of the sandbox is missing. They may then read what the node reads. Default off.
    pub unsafe_no_sandbox: bool,
    /// Sum of the memory limits of all containers, warm, prewarmed and running. Default `2GB`.
    pub memory: ByteSize,
    /// Invocations that wait for a container on this node; more are refused with 503. Default 1,000.
    pub run_buffer: usize,
    /// Containers that start at once. Default: twice the number of cores.
    pub creations: usize,
    /// A container that idles this long is paused; 0: never. Default 10 s.
    pub pause_grace: Option<Duration>,
    /// A container that idles this long is removed. Default 10 min.
    pub idle_timeout: Duration,
    /// A file in the format of OpenWhisk's `runtimes.json`: the only kinds that may be used, as far as this machine has
    /// them. Default: OpenWhisk's own list, and whatever else this machine has.
    pub runtimes_manifest: Option<PathBuf>,
    /// Containers kept ready without code. Default: the stem cells of `runtimes_manifest`, or without one
    /// [`Containers::default_prewarm`].
    pub prewarm: Option<Vec<Prewarm>>,
    /// How often the number of stem cells that are `reactive` in `runtimes_manifest` follows the cold starts, and those whose
    /// `ttl` is over are removed. Default 10 min.
    pub prewarm_interval: Duration,
    /// What the Docker back end needs to know.
    pub docker: Docker,
}

impl Containers {
    /// One of 256 MB for `nodejs:default` and `python:default` each, as long as half of the memory is left. A new Python
    /// is forked from a warm process, but entering its control groups takes the kernel 10 ms and more.
    pub fn default_prewarm(&self) -> Vec<Prewarm> {
        let cell = |kind: &str| Prewarm { kind: kind.to_owned(), memory: ByteSize::mib(256), count: 1 };
        let cells = (self.memory.as_mib() / 2 / 256) as usize;
        ["nodejs:default", "python:default"].into_iter().take(cells).map(cell).collect()
    }
}

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// Docker where an engine answers when the node starts, else processes.
    Auto,
    /// OpenWhisk's runtime images, and any other, in a Docker engine on this machine.
    Docker,
    /// Sandboxed processes of this machine's interpreters, and compiled programs.
    #[default]
    Process,
    /// No containers at all: answers are made up. For tests and benchmarks of the node itself.
    Simulated,
}

/// Containers kept ready for one kind. A kind that this machine lacks is skipped with a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prewarm {
    /// Such as `nodejs:20` or `nodejs:default`.
    pub kind: String,
    /// Only actions with exactly this memory limit use them. Default 256 MB.
    pub memory: ByteSize,
    /// Default 1.
    pub count: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub backend: Option<BackendChoice>,
    pub unsafe_no_sandbox: Option<bool>,
    pub memory: Option<HumanSize>,
    run_buffer: Option<usize>,
    creations: Option<usize>,
    pause_grace: Option<HumanDuration>,
    idle_timeout: Option<HumanDuration>,
    runtimes_manifest: Option<PathBuf>,
    prewarm: Option<Vec<WrittenPrewarm>>,
    prewarm_interval: Option<HumanDuration>,
    docker: docker::Written,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPrewarm {
    kind: String,
    memory: Option<HumanSize>,
    count: Option<usize>,
}

impl Written {
    pub fn checked(self) -> Result<Containers, ConfigError> {
        let memory = self.memory.map_or(ByteSize::mib(2048), ByteSize::from);
        let prewarm = match self.prewarm {
            None => None,
            Some(written) => Some(written.into_iter().map(WrittenPrewarm::checked).collect::<Result<Vec<_>, _>>()?),
        };
        let containers = Containers {
            backend: self.backend.unwrap_or_default(),
            unsafe_no_sandbox: self.unsafe_no_sandbox.unwrap_or(false),
            memory,
            run_buffer: self.run_buffer.unwrap_or(1_000),
            creations: self.creations.unwrap_or_else(|| 2 * cores()),
            pause_grace: self.pause_grace.map_or(Some(Duration::from_secs(10)), |HumanDuration(grace)| {
                Some(grace).filter(|grace| !grace.is_zero())
            }),
            idle_timeout: self.idle_timeout.map_or(Duration::from_secs(600), Duration::from),
            runtimes_manifest: self.runtimes_manifest,
            prewarm,
            prewarm_interval: self.prewarm_interval.map_or(Duration::from_secs(600), Duration::from),
            docker: self.docker.checked()?,
        };
        if containers.creations == 0 {
            return Err(ConfigError::invalid("containers.creations", "must be at least 1"));
        }
        if containers.prewarm_interval.is_zero() {
            return Err(ConfigError::invalid("containers.prewarm_interval", "must be positive"));
        }
        let cells = containers.prewarm.iter().flatten();
        let prewarmed: u128 = cells.map(|cells| u128::from(cells.memory.bytes()) * cells.count as u128).sum();
        if prewarmed > u128::from(containers.memory.bytes()) {
            return Err(ConfigError::invalid("containers.prewarm", "needs more than containers.memory"));
        }
        Ok(containers)
    }
}

impl WrittenPrewarm {
    fn checked(self) -> Result<Prewarm, ConfigError> {
        let memory = self.memory.map_or(ByteSize::mib(256), ByteSize::from);
        if memory.as_mib() == 0 {
            return Err(ConfigError::invalid("containers.prewarm", "memory must be at least 1 MB"));
        }
        if !self.kind.contains(':') {
            return Err(ConfigError::invalid("containers.prewarm", "kind must be such as nodejs:20 or nodejs:default"));
        }
        Ok(Prewarm { kind: self.kind, memory, count: self.count.unwrap_or(1) })
    }
}
