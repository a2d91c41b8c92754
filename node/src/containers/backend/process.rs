//! Containers as processes of this machine: an interpreter with our launcher, or a compiled executable behind
//! `whisp launch-exec`, each in a sandbox. The contract is the stock one, over a socket that the launcher inherits: there is no
//! path or port that a neighbour could reach.
//!
//! | file | what |
//! | --- | --- |
//! | `process/container.rs` | one container |
//! | `process/door.rs` | how it is reached |
//! | `process/output.rs` | its two pipes |
//! | `process/zygotes.rs` | warmed interpreters, one per version of Python |
//! | `interpreters.rs` | what this machine can run |

mod container;
mod door;
mod output;
mod zygotes;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use protocol::ByteSize;

use self::{
    container::ProcessContainer,
    door::{Door, Doors},
    output::Output,
    zygotes::Zygotes,
};
use super::{
    Backend, Container, ContainerSpec, CreateError,
    interpreters::{self, Interpreter, Language},
    sandbox::{Payload, ReadOnlyPath, SandboxConfig, SandboxError, SandboxHost, SandboxSpec},
};
use crate::runtime::zygote::PYTHON_OPTIONS;

/// How processes become containers on this node.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    pub sandbox: SandboxConfig,
    /// The node's own folder for launchers, inside its data directory.
    pub state_dir: PathBuf,
    /// The `whisp` binary, for what runs inside containers.
    pub program: PathBuf,
    /// Where interpreters are looked for, in the form of `PATH`.
    pub search_path: OsString,
    /// The folder of pyenv, if it is in use.
    pub pyenv_root: Option<PathBuf>,
    /// The largest log limit of any action: more is never kept.
    pub log_capacity: ByteSize,
    /// Let several activations run at once in one container, where its launcher can do that: that of Node.js.
    pub overlap: bool,
    /// Start the zygote of the default Python with the node; others start when they are first needed.
    pub warm_zygote: bool,
}

impl ProcessConfig {
    /// The defaults of a node whose data directory contains `state_dir`, in this process's environment.
    ///
    /// # Errors
    /// If the path of the running binary is not known.
    pub fn from_environment(sandbox: SandboxConfig, state_dir: PathBuf) -> io::Result<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(home?.join(".pyenv")));
        Ok(Self {
            sandbox,
            state_dir,
            program: std::env::current_exe()?,
            search_path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            pyenv_root: pyenv.filter(|root| root.is_dir()),
            log_capacity: ByteSize::mib(10),
            overlap: false,
            warm_zygote: true,
        })
    }
}

/// Why the back end does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot write `{path}`: {source}")]
    Files { path: PathBuf, source: io::Error },
}

/// The back end.
pub struct ProcessBackend {
    host: Arc<SandboxHost>,
    interpreters: BTreeMap<String, Interpreter>,
    /// Paths as they are seen inside.
    launchers: Launchers,
    zygotes: Arc<Zygotes>,
    log_capacity: ByteSize,
    /// `None`: one activation at a time.
    doors: Option<Doors>,
}

/// What is started inside containers.
#[derive(Debug, Clone)]
struct Launchers {
    node: PathBuf,
    python: PathBuf,
    /// Runs outside of containers, beside `python`.
    zygote: PathBuf,
    program: PathBuf,
}

/// Kinds of OpenWhisk's manifest whose actions can be executables.
const COMPILED_KINDS: [&str; 4] = ["go:1.20", "rust:1.34", "swift:5.3", "swift:5.7"];

/// What upstream's manifest has as the default.
const UPSTREAM_PYTHON: &str = "python:3.10";

/// The only image that needs no image: a process per activation.
const SKELETON_IMAGE: &str = "openwhisk/dockerskeleton";

/// Seen inside containers; the interpreter's own folder comes first.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ProcessBackend {
    /// Finds interpreters, lays out launchers, and sets up the sandbox.
    ///
    /// # Errors
    /// If a layer of the sandbox is missing, or a file cannot be written.
    pub async fn start(mut config: ProcessConfig) -> Result<Self, StartError> {
        let (path, pyenv) = (config.search_path.clone(), config.pyenv_root.clone());
        let interpreters = tokio::task::spawn_blocking(move || interpreters::find(&path, pyenv.as_deref()))
            .await
            .map_err(|error| StartError::Files { path: config.state_dir.clone(), source: io::Error::other(error) })?;
        let launchers = write_launchers(&config.state_dir, &config.program)?;
        config.sandbox.read_only.extend(visible_files(&launchers, &interpreters));
        let log_capacity = config.log_capacity;
        let doors = config.overlap.then(|| Doors::open(&config.state_dir)).transpose();
        let doors = doors.map_err(|source| StartError::Files { path: config.state_dir.clone(), source })?;
        let host = SandboxHost::start(config.sandbox).await?;
        let inside = Launchers {
            node: host.visible(&launchers.node),
            python: host.visible(&launchers.python),
            zygote: launchers.zygote.clone(),
            program: host.visible(&launchers.program),
        };
        let zygotes = Arc::new(Zygotes::new(launchers.zygote, inside.program.clone()));
        if let Some(python) = default_python(&interpreters).filter(|_| config.warm_zygote) {
            zygotes.warm(python.clone());
        }
        Ok(Self { host, interpreters, launchers: inside, zygotes, log_capacity, doors })
    }

    /// The sandboxes: where containers find the API, and where the node must listen for them.
    pub fn sandboxes(&self) -> &SandboxHost {
        &self.host
    }

    /// What runs `spec`: program and arguments, or a zygote's interpreter.
    fn command(&self, spec: &ContainerSpec) -> Result<Start<'_>, CreateError> {
        let exec = |mode: &str| {
            let program = text(&self.launchers.program)?;
            Ok(Start::Spawn(vec![program, "launch-exec".to_owned(), mode.to_owned()]))
        };
        if spec.kind == "blackbox" {
            let image = spec.image.as_deref().unwrap_or_default();
            return if is_skeleton(image) {
                exec("skeleton")
            } else {
                Err(CreateError::Developer(format!(
                    "The image '{image}' needs Docker, which this node does not use. Without it, only \
                     '{SKELETON_IMAGE}' can run."
                )))
            };
        }
        if let Some(interpreter) = self.interpreters.get(&spec.kind) {
            return match interpreter.language {
                Language::Python => Ok(Start::Fork(interpreter)),
                Language::Node => {
                    let paths = [&interpreter.program, &self.launchers.node, &self.launchers.program];
                    let mut argv = paths.into_iter().map(|path| text(path)).collect::<Result<Vec<_>, _>>()?;
                    argv.extend(self.doors.is_some().then(|| "listen".to_owned()));
                    Ok(Start::Spawn(argv))
                }
            };
        }
        if COMPILED_KINDS.contains(&spec.kind.as_str()) {
            return exec("loop");
        }
        Err(CreateError::Developer(format!("The kind '{}' cannot run on this node.", spec.kind)))
    }

    async fn try_create(&self, spec: &ContainerSpec) -> Result<Box<dyn Container>, Failure> {
        let start = self.command(spec)?;
        let sandbox_spec = SandboxSpec {
            name: spec.name.clone(),
            memory: spec.memory,
            // In proportion to the memory, as OpenWhisk has it: 256 MB have the weight of a plain process.
            cpu_shares: Some((spec.memory.as_mib() * 4).clamp(2, 262_144) as u32),
        };
        let mut sandbox = self.host.create(sandbox_spec).await.map_err(platform)?;
        let (door, theirs) = match &self.doors {
            Some(doors) if self.overlaps(&spec.kind) => doors.listener(),
            _ => Door::pair(),
        }
        .map_err(platform)?;
        let (output, writers) = Output::new(self.log_capacity).map_err(platform)?;
        let stdin: OwnedFd = std::fs::File::open("/dev/null").map_err(platform)?.into();
        let payload = |argv| Payload {
            argv,
            env: self.environment(spec),
            stdin,
            stdout: writers.stdout,
            stderr: writers.stderr,
            connection: theirs,
        };
        let is_python = matches!(start, Start::Fork(_));
        let started = match start {
            Start::Spawn(argv) => sandbox.spawn(payload(argv)).await.map_err(|error| platform(error).into()),
            Start::Fork(python) => match self.zygotes.get(python).await {
                Ok(zygote) => zygotes::fork(zygote, &mut sandbox, payload(Vec::new())).await,
                // A zygote is a shortcut, not a condition.
                Err(error) => {
                    tracing::warn!(kind = spec.kind, %error, "no zygote; the interpreter starts anew");
                    let mut argv = vec![text(&python.program)?];
                    argv.extend(PYTHON_OPTIONS.map(str::to_owned));
                    argv.extend([text(&self.launchers.python)?, text(&self.launchers.program)?]);
                    sandbox.spawn(payload(argv)).await.map_err(|error| platform(error).into())
                }
            },
        };
        if let Err(failure) = started {
            sandbox.destroy().await;
            return Err(failure);
        }
        Ok(Box::new(ProcessContainer::new(spec.name.clone(), sandbox, door, output, is_python)))
    }

    fn environment(&self, spec: &ContainerSpec) -> Vec<(String, String)> {
        let interpreter = self.interpreters.get(&spec.kind);
        let own = interpreter.and_then(|found| found.program.parent()?.to_str());
        let path = match own {
            Some(own) if !SEARCH_PATH.split(':').any(|folder| folder == own) => format!("{own}:{SEARCH_PATH}"),
            _ => SEARCH_PATH.to_owned(),
        };
        let mut env = vec![("PATH".to_owned(), path), ("LANG".to_owned(), "C.UTF-8".to_owned())];
        if let Some(node) = interpreter.filter(|found| found.language == Language::Node)
            && let Some(global) = node.prefix.join("lib/node_modules").to_str()
        {
            // Packages that the operator installed for all actions, as the stock images bring some.
            env.push(("NODE_PATH".to_owned(), global.to_owned()));
        }
        env.extend(spec.env.iter().cloned());
        env
    }
}

/// Why an attempt to make a container failed.
enum Failure {
    Final(CreateError),
    /// Nothing of the container's ran, and the zygote is no more.
    ZygoteBroke(io::Error),
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        Self::Final(error)
    }
}

fn platform(error: impl std::fmt::Display) -> CreateError {
    CreateError::Platform(error.to_string())
}

enum Start<'a> {
    Spawn(Vec<String>),
    Fork(&'a Interpreter),
}

#[async_trait]
impl Backend for ProcessBackend {
    fn name(&self) -> &'static str {
        "process"
    }

    fn kinds(&self) -> Vec<String> {
        let compiled = COMPILED_KINDS.map(str::to_owned);
        self.interpreters.keys().cloned().chain(compiled).chain(["blackbox".to_owned()]).collect()
    }

    fn executables_only(&self) -> Vec<String> {
        COMPILED_KINDS.map(str::to_owned).to_vec()
    }

    fn overlaps(&self, kind: &str) -> bool {
        let is_node = |interpreter: &Interpreter| interpreter.language == Language::Node;
        self.doors.is_some() && self.interpreters.get(kind).is_some_and(is_node)
    }

    fn gateway(&self) -> Option<std::net::IpAddr> {
        self.host.gateway().map(|address| address.ip())
    }

    fn warnings(&self) -> Vec<String> {
        self.host.warnings()
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Box<dyn Container>, CreateError> {
        match self.try_create(&spec).await {
            // The broken zygote is gone; the next attempt starts another or does without.
            Err(Failure::ZygoteBroke(_)) => self.try_create(&spec).await,
            other => other,
        }
        .map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::ZygoteBroke(error) => platform(error),
        })
    }

    async fn shutdown(&self) {
        self.zygotes.stop().await;
        self.host.shutdown().await;
    }
}

/// The Python that `python:default` stands for: upstream's default where it is installed, else the newest.
fn default_python(interpreters: &BTreeMap<String, Interpreter>) -> Option<&Interpreter> {
    let minor = |python: &&Interpreter| python.kind.rsplit('.').next().and_then(|minor| minor.parse::<u32>().ok());
    interpreters.get(UPSTREAM_PYTHON).or_else(|| {
        interpreters.values().filter(|interpreter| interpreter.language == Language::Python).max_by_key(minor)
    })
}

/// True for the skeleton's image, whatever registry and tag it is asked from.
fn is_skeleton(image: &str) -> bool {
    let last = image.rfind('/').unwrap_or(0);
    let name = match image[last..].find([':', '@']) {
        Some(tag) => &image[..last + tag],
        None => image,
    };
    name == SKELETON_IMAGE || name.strip_suffix(SKELETON_IMAGE).is_some_and(|registry| registry.ends_with('/'))
}

fn text(path: &Path) -> Result<String, CreateError> {
    let text = path.to_str().ok_or_else(|| CreateError::Platform(format!("{path:?} is not UTF-8")))?;
    Ok(text.to_owned())
}

/// Writes the launchers below `state_dir`, so that a new binary always brings its own.
fn write_launchers(state_dir: &Path, program: &Path) -> Result<Launchers, StartError> {
    let folder = state_dir.join("launchers");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Files { path, source }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(failed(&folder))?;
    let folder = folder.canonicalize().map_err(failed(&folder))?;
    let write = |name: &str, content: &str| -> Result<PathBuf, StartError> {
        let path = folder.join(name);
        // Whole or not at all: another container may be starting from it.
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, content).and_then(|()| std::fs::rename(&new, &path)).map_err(failed(&path))?;
        Ok(path)
    };
    Ok(Launchers {
        node: write("launcher.js", include_str!("../../../launchers/launcher.js"))?,
        python: write("launcher.py", include_str!("../../../launchers/launcher.py"))?,
        zygote: write("zygote.py", include_str!("../../../launchers/zygote.py"))?,
        program: program.canonicalize().map_err(failed(program))?,
    })
}

/// What containers must see beside the system itself.
fn visible_files(launchers: &Launchers, interpreters: &BTreeMap<String, Interpreter>) -> Vec<ReadOnlyPath> {
    let at = |host: &Path, inside: &str| ReadOnlyPath { host: host.to_owned(), inside: PathBuf::from(inside) };
    let mut files = vec![
        at(&launchers.node, "/whisp/launcher.js"),
        at(&launchers.python, "/whisp/launcher.py"),
        at(&launchers.program, "/whisp/whisp"),
    ];
    for interpreter in interpreters.values().filter(|interpreter| !interpreter.prefix.starts_with("/usr")) {
        let path = ReadOnlyPath::same(&interpreter.prefix);
        if !files.contains(&path) {
            files.push(path);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_is_recognized_by_its_name() {
        for image in [
            "openwhisk/dockerskeleton",
            "openwhisk/dockerskeleton:nightly",
            "docker.io/openwhisk/dockerskeleton:1.0",
            "localhost:5000/openwhisk/dockerskeleton@sha256:00",
        ] {
            assert!(is_skeleton(image), "{image}");
        }
        for image in ["", "dockerskeleton", "xopenwhisk/dockerskeleton", "openwhisk/dockerskeleton2", "a/b:c"] {
            assert!(!is_skeleton(image), "{image}");
        }
    }
}
