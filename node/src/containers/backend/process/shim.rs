//! Plain processes, until the sandbox is in: the same interface, and no isolation at all.
#![allow(missing_docs, dead_code)]
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::ByteSize;
use serde::Serialize;

#[derive(Debug, Clone)]
pub struct SandboxConfig {
    pub state_dir: PathBuf,
    pub read_only: Vec<ReadOnlyPath>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnlyPath {
    pub host: PathBuf,
    pub inside: PathBuf,
}

impl ReadOnlyPath {
    pub fn same(path: impl Into<PathBuf>) -> Self {
        let host = path.into();
        Self { inside: host.clone(), host }
    }
}

pub struct SandboxSpec {
    pub name: String,
    pub memory: ByteSize,
    pub cpu_shares: Option<u32>,
}

pub struct Payload {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub connection: OwnedFd,
}

pub struct Join {
    pub steps: JoinSteps,
    pub fds: Vec<OwnedFd>,
}

impl Join {
    pub fn borrowed_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

#[derive(Serialize)]
pub struct JoinSteps {
    cgroups: Vec<usize>,
    namespaces: Vec<usize>,
    work_dir: PathBuf,
    nofile: u32,
    nproc: Option<u32>,
    user: Option<()>,
    drop_privileges: bool,
    ruleset: Option<usize>,
    seccomp: Option<String>,
    env: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SandboxError(#[from] io::Error);

#[derive(Clone)]
pub struct SandboxHost(Arc<SandboxConfig>);

impl SandboxHost {
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        std::fs::create_dir_all(&config.state_dir)?;
        Ok(Self(Arc::new(config)))
    }
    pub fn visible(&self, host: &Path) -> PathBuf {
        host.to_owned()
    }
    pub fn warnings(&self) -> Vec<String> {
        vec!["no sandbox".into()]
    }
    pub async fn create(&self, spec: SandboxSpec) -> Result<Sandbox, SandboxError> {
        let folder = self.0.state_dir.join(&spec.name);
        std::fs::create_dir_all(&folder)?;
        Ok(Sandbox { folder, child: None, group: None })
    }
    pub async fn shutdown(&self) {}
}

pub struct Sandbox {
    folder: PathBuf,
    child: Option<Child>,
    group: Option<i32>,
}

impl Sandbox {
    pub async fn spawn(&mut self, payload: Payload) -> Result<(), SandboxError> {
        let mut command = Command::new(&payload.argv[0]);
        command.args(&payload.argv[1..]).env_clear().envs(payload.env).current_dir(&self.folder).process_group(0);
        command.env("HOME", &self.folder).stdin(payload.stdin).stdout(payload.stdout).stderr(payload.stderr);
        let fd = payload.connection.as_raw_fd();
        unsafe {
            command.pre_exec(move || {
                let done = if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.spawn()?;
        self.group = Some(child.id() as i32);
        self.child = Some(child);
        Ok(())
    }
    pub async fn join(&mut self) -> Result<Join, SandboxError> {
        let steps = JoinSteps {
            cgroups: vec![],
            namespaces: vec![],
            work_dir: self.folder.clone(),
            nofile: 1024,
            nproc: None,
            user: None,
            drop_privileges: false,
            ruleset: None,
            seccomp: None,
            env: vec![],
        };
        Ok(Join { steps, fds: vec![] })
    }
    pub async fn joined(&mut self, pid: i32) -> Result<(), SandboxError> {
        self.group = Some(pid);
        Ok(())
    }
    fn signal(&self, signal: i32) -> io::Result<()> {
        if let Some(group) = self.group {
            unsafe { libc::kill(-group, signal) };
        }
        Ok(())
    }
    pub fn freeze(&mut self) -> io::Result<()> {
        self.signal(libc::SIGSTOP)
    }
    pub fn thaw(&mut self) -> io::Result<()> {
        self.signal(libc::SIGCONT)
    }
    pub async fn killed_for_memory(&mut self) -> bool {
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
    pub async fn destroy(self) {}
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.signal(libc::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
