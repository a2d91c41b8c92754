//! One container's sandbox, as the process back end holds it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::Engine;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
};

use super::{
    control::Order,
    host::Shared,
    plain::Plain,
    seccomp,
    shell::{Door, Shell},
    spec::{Join, JoinSteps, NOFILE_LIMIT, PIDS_LIMIT, Payload, SandboxError, SandboxSpec, WORK_DIR},
    watch::{self, Watched},
};

/// A container's sandbox. Dropping it kills everything inside at once and removes it in the background.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    /// `None` only while it is being dropped.
    kind: Option<Kind>,
    watched: Option<Arc<Watched>>,
    memory: u64,
    work_dir: PathBuf,
    used: bool,
    joined: bool,
}

#[derive(Debug)]
enum Kind {
    Shell(Shell),
    Plain(Plain),
}

impl Sandbox {
    pub(super) fn adopting(shared: Arc<Shared>, shell: Shell, spec: &SandboxSpec) -> Self {
        Self {
            shared,
            kind: Some(Kind::Shell(shell)),
            watched: None,
            memory: spec.memory.bytes(),
            work_dir: PathBuf::from(WORK_DIR),
            used: false,
            joined: false,
        }
    }

    pub(super) fn plain(shared: Arc<Shared>, plain: Plain) -> Self {
        let (memory, work_dir) = (plain.memory(), plain.folder().to_owned());
        Self { shared, kind: Some(Kind::Plain(plain)), watched: None, memory, work_dir, used: false, joined: false }
    }

    /// Blocks. Called once, before anybody else has the sandbox.
    pub(super) fn adopt(mut self, spec: &SandboxSpec) -> Result<Self, SandboxError> {
        let scratch_bytes = self.shared.scratch_bytes(spec);
        if let Some(Kind::Shell(shell)) = &mut self.kind {
            shell.adopt(spec, scratch_bytes)?;
            let scratch = shell.inside().scratch.take();
            if !self.shared.cgroups.limits_memory()
                && let (Some(scratch), Some(processes)) = (scratch, &shell.inside().processes)
            {
                let failed = || SandboxError::step("watch the memory");
                let processes = processes.try_clone().map_err(failed())?;
                let (root, pidfd) = (shell.pid, shell.pidfd.try_clone().map_err(failed())?);
                self.watch(root, pidfd, Some((scratch, processes)));
            }
        }
        Ok(self)
    }

    fn watch(&mut self, root: i32, pidfd: OwnedFd, inside: Option<(OwnedFd, OwnedFd)>) {
        let watched = Arc::new(Watched { root, pidfd, inside, limit: self.memory, killed: AtomicBool::new(false) });
        self.shared.watch.add(&watched);
        self.watched = Some(watched);
    }

    /// The container's own folder as its processes see it: writable, empty at first, their working directory.
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// Starts the payload; returns when its program runs. A sandbox takes one payload or one join.
    ///
    /// # Errors
    /// If it cannot be executed: then the sandbox is of no more use.
    pub async fn spawn(&mut self, mut payload: Payload) -> Result<(), SandboxError> {
        self.take_use()?;
        let folder = self.work_dir.to_string_lossy().into_owned();
        for (name, value) in self.variables() {
            if !payload.env.iter().any(|(other, _)| *other == name) {
                payload.env.push((name, value));
            }
        }
        match self.kind.as_mut() {
            Some(Kind::Shell(shell)) => {
                let orders = shell.orders();
                let order =
                    Order::Exec { argv: payload.argv, env: payload.env, nproc: PIDS_LIMIT, nofile: NOFILE_LIMIT };
                let fds = [payload.stdin, payload.stdout, payload.stderr, payload.connection];
                let give = move || orders.send(&order, &fds.each_ref().map(|fd| fd.as_fd()));
                spawn_blocking(give)
                    .await
                    .map_err(|error| SandboxError::step("start the payload")(io::Error::other(error)))??;
                shell.inside().door = None;
                shell.inside().processes = None;
                Ok(())
            }
            Some(Kind::Plain(plain)) => {
                plain.spawn(payload, &folder)?;
                self.watch_plain()
            }
            None => Err(SandboxError::Gone),
        }
    }

    /// What a process forked by a zygote needs to enter. A sandbox takes one payload or one join.
    ///
    /// # Errors
    /// If process 1 is dead.
    pub async fn join(&mut self) -> Result<Join, SandboxError> {
        self.take_use()?;
        let env = self.variables();
        let mut join = Join {
            steps: JoinSteps {
                cgroups: Vec::new(),
                namespaces: Vec::new(),
                work_dir: self.work_dir.clone(),
                nofile: NOFILE_LIMIT,
                nproc: None,
                user: None,
                drop_privileges: false,
                ruleset: None,
                seccomp: None,
                env,
            },
            fds: Vec::new(),
        };
        let failed = || SandboxError::step("prepare a join");
        let number = |join: &mut Join, fd: OwnedFd| {
            join.fds.push(fd);
            join.fds.len() - 1
        };
        match self.kind.as_mut() {
            Some(Kind::Shell(shell)) => {
                for door in shell.cgroup.doors().map_err(failed())? {
                    let index = number(&mut join, door);
                    join.steps.cgroups.push(index);
                }
                let Some(Door { ruleset, namespaces }) = shell.inside().door.take() else {
                    return Err(SandboxError::InUse);
                };
                for namespace in namespaces {
                    let index = number(&mut join, namespace);
                    join.steps.namespaces.push(index);
                }
                join.steps.ruleset = Some(number(&mut join, ruleset));
                join.steps.seccomp = Some(base64::engine::general_purpose::STANDARD.encode(seccomp::program_bytes()));
                join.steps.nproc = Some(PIDS_LIMIT);
                join.steps.user = self.shared.as_root.then_some(shell.user());
                join.steps.drop_privileges = true;
                let orders = shell.orders();
                let give = move || orders.send(&Order::AwaitJoin, &[]);
                spawn_blocking(give).await.map_err(|error| failed()(io::Error::other(error)))??;
            }
            Some(Kind::Plain(plain)) => {
                for door in plain.cgroup().doors().map_err(failed())? {
                    let index = number(&mut join, door);
                    join.steps.cgroups.push(index);
                }
            }
            None => return Err(SandboxError::Gone),
        }
        Ok(join)
    }

    /// Tells that a child has joined and its process id, which without a sandbox is all that says what belongs to the container; there it
    /// leads a process group of its own.
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn joined(&mut self, pid: i32) -> Result<(), SandboxError> {
        self.joined = true;
        if let Some(Kind::Plain(plain)) = self.kind.as_mut() {
            plain.joined(pid)?;
            self.watch_plain()?;
        }
        Ok(())
    }

    /// Waits until the container's first process has ended, by itself or killed. Cancel safe. Needs a tokio runtime.
    ///
    /// In a sandbox that is process 1, which ends with the payload that it spawned. A process that joined is no child of it: its end shows on
    /// its connection, and process 1 stays.
    pub async fn exited(&self) {
        let Some(pidfd) = self.pidfd().and_then(|fd| fd.try_clone().ok()) else {
            // Without a sandbox there is no process before the payload.
            return std::future::pending().await;
        };
        // SAFETY: `OwnedFd` keeps its descriptor, and the same one, until it is dropped.
        match unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) } {
            // An error of the reactor would be repeated for ever; saying "ended" makes the owner look.
            Ok(fd) => drop(fd.readable().await),
            Err(error) => tracing::error!(%error, "the end of a container cannot be awaited"),
        }
    }

    /// Whether the container has processes that can do its work: that which was spawned or, once one has joined, any.
    pub fn is_alive(&self) -> bool {
        if let Some(Kind::Shell(shell)) = &self.kind
            && self.joined
            && shell.processes().is_some_and(|count| count < 2)
        {
            // Only process 1 is left.
            return false;
        }
        self.pidfd().is_some_and(|pidfd| !super::shell::ended_within(pidfd, std::time::Duration::ZERO))
    }

    /// Stops all its processes where they are.
    ///
    /// # Errors
    /// If they do not stop within 2 s.
    pub async fn freeze(&self) -> io::Result<()> {
        self.set_frozen(true).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// If they do not within 2 s.
    pub async fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false).await
    }

    /// Whether some process inside has been killed for want of memory so far. Does not wait.
    pub fn killed_for_memory(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.killed.load(Ordering::Acquire))
            || self.cgroup().is_some_and(super::cgroup::Cgroup::killed_for_memory)
    }

    /// Kills everything inside and waits until it is removed.
    pub async fn destroy(mut self) {
        let Some(kind) = self.kind.take() else { return };
        self.watched = None;
        let shared = Arc::clone(&self.shared);
        if let Err(error) = discard(&shared, kind).await {
            tracing::error!(%error, "removing a container panicked");
        }
    }

    /// Closes the node's side and removes nothing, as the death of the node does. For tests of what that leaves.
    #[doc(hidden)]
    pub fn abandon(mut self) {
        if let Some(Kind::Shell(shell)) = self.kind.take() {
            shell.abandon();
        }
    }

    fn take_use(&mut self) -> Result<(), SandboxError> {
        if std::mem::replace(&mut self.used, true) { Err(SandboxError::InUse) } else { Ok(()) }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let folder = self.work_dir.to_string_lossy().into_owned();
        let temporary = match &self.kind {
            Some(Kind::Plain(plain)) => plain.temporary().to_string_lossy().into_owned(),
            _ => "/tmp".to_owned(),
        };
        [("HOME", folder.clone()), ("PWD", folder), ("TMPDIR", temporary)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    fn watch_plain(&mut self) -> Result<(), SandboxError> {
        let Some(Kind::Plain(plain)) = &self.kind else { return Ok(()) };
        let (false, Some((pid, pidfd))) = (self.shared.cgroups.limits_memory(), plain.process()) else { return Ok(()) };
        let pidfd = pidfd.try_clone().map_err(SandboxError::step("watch the memory"))?;
        self.watch(pid, pidfd, None);
        Ok(())
    }

    fn pidfd(&self) -> Option<&OwnedFd> {
        match self.kind.as_ref()? {
            Kind::Shell(shell) => Some(&shell.pidfd),
            Kind::Plain(plain) => plain.process().map(|(_, pidfd)| pidfd),
        }
    }

    fn cgroup(&self) -> Option<&super::cgroup::Cgroup> {
        match self.kind.as_ref()? {
            Kind::Shell(shell) => Some(&shell.cgroup),
            Kind::Plain(plain) => Some(plain.cgroup()),
        }
    }

    async fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        let blocking: Box<dyn FnOnce() -> io::Result<()> + Send> = match (self.cgroup(), self.kind.as_ref()) {
            (Some(cgroup), _) if cgroup.can_freeze() => {
                let cgroup = cgroup.clone();
                Box::new(move || cgroup.freeze(frozen))
            }
            (_, Some(Kind::Shell(shell))) => {
                let orders = shell.orders();
                Box::new(move || orders.send(&Order::Stop(frozen), &[]).map_err(io::Error::other))
            }
            (_, Some(Kind::Plain(plain))) => match plain.process() {
                Some((root, _)) => Box::new(move || stop_tree(root, frozen)),
                None => return Ok(()),
            },
            (_, None) => return Ok(()),
        };
        spawn_blocking(blocking).await.map_err(io::Error::other)?
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(kind) = self.kind.take() {
            discard(&self.shared, kind);
        }
    }
}

/// Kills and removes in the background.
fn discard(shared: &Arc<Shared>, kind: Kind) -> tokio::task::JoinHandle<()> {
    match kind {
        Kind::Shell(shell) => shared.discard(shell),
        Kind::Plain(plain) => shared.removals.spawn_blocking_on(move || plain.remove(), &shared.runtime),
    }
}

/// Stops or continues a tree by signals: until no new process appears, since they fork while we look.
fn stop_tree(root: i32, stop: bool) -> io::Result<()> {
    let signal = if stop { libc::SIGSTOP } else { libc::SIGCONT };
    let mut known = 0;
    for _ in 0..100 {
        let tree = watch::descendants(root);
        for pid in &tree {
            // SAFETY: a call without pointers. The list is fresh, and a process of the tree is ours to stop.
            unsafe { libc::kill(*pid, signal) };
        }
        if tree.len() == known {
            return Ok(());
        }
        known = tree.len();
    }
    Err(io::ErrorKind::TimedOut.into())
}
