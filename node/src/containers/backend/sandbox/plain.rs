//! Containers without a sandbox (`--unsafe-no-sandbox`): a process group, a folder, and control groups where they can be had.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    cgroup::Cgroup,
    host::Shared,
    shell::{ended_within, pidfd_of, reap},
    spec::{Payload, SandboxError, SandboxSpec},
    watch::descendants,
};

/// One container.
#[derive(Debug)]
pub(super) struct Plain {
    cgroup: Cgroup,
    folder: PathBuf,
    memory: u64,
    process: Option<(i32, OwnedFd)>,
}

impl Plain {
    /// Makes its folder and groups. Blocks.
    pub(super) fn make(shared: &Shared, spec: &SandboxSpec) -> Result<Self, SandboxError> {
        let folder = folders(&shared.config.state_dir).join(&spec.name);
        fs::create_dir_all(folder.join("tmp")).map_err(SandboxError::step("make the container's folder"))?;
        let made = shared.cgroups.create(&spec.name).and_then(|cgroup| {
            cgroup.limit(spec.memory.bytes(), spec.cpu_shares).inspect_err(|_| cgroup.remove())?;
            Ok(cgroup)
        });
        match made {
            Ok(cgroup) => Ok(Self { cgroup, folder, memory: spec.memory.bytes(), process: None }),
            Err(error) => {
                remove_folder(&folder);
                Err(SandboxError::step("make the control groups")(error))
            }
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(super) fn process(&self) -> Option<(i32, &OwnedFd)> {
        self.process.as_ref().map(|(pid, pidfd)| (*pid, pidfd))
    }

    pub(super) fn spawn(&mut self, payload: Payload, folder: &str) -> Result<(), SandboxError> {
        let Payload { argv, env, stdin, stdout, stderr, connection } = payload;
        let [program, arguments @ ..] = argv.as_slice() else {
            return Err(SandboxError::step("take a program")(io::ErrorKind::InvalidInput.into()));
        };
        let doors = self.cgroup.doors().map_err(SandboxError::step("open the control groups"))?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(env).current_dir(folder).process_group(0);
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        // SAFETY: only system calls that are allowed between fork and exec, on descriptors that the closure owns.
        unsafe {
            command.pre_exec(move || {
                // Before the program, so that none of its children can be missed.
                for door in &doors {
                    if libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                let made = if connection.as_raw_fd() == 3 {
                    libc::fcntl(3, libc::F_SETFD, 0)
                } else {
                    libc::dup2(connection.as_raw_fd(), 3)
                };
                if made < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.spawn().map_err(SandboxError::step(format!("execute `{program}`")))?;
        let pid = child.id() as i32;
        // Our child is not reaped before `remove`, so its number is its own until then.
        let pidfd = pidfd_of(pid).map_err(SandboxError::step("watch the payload"))?;
        self.process = Some((pid, pidfd));
        Ok(())
    }

    pub(super) fn joined(&mut self, pid: i32) -> Result<(), SandboxError> {
        self.process = Some((pid, pidfd_of(pid).map_err(SandboxError::step("watch the joined process"))?));
        Ok(())
    }

    fn kill(&self) {
        if let Some((pid, pidfd)) = &self.process {
            let tree = if ended_within(pidfd, Duration::ZERO) { Vec::new() } else { descendants(*pid) };
            let group = -pid;
            for target in tree.into_iter().chain([group]) {
                // SAFETY: a call without pointers. The list is fresh, and the group has the number of a process not reaped yet.
                unsafe { libc::kill(target, libc::SIGKILL) };
            }
        }
        self.cgroup.kill();
    }

    /// Kills what is left and removes everything. Blocks.
    pub(super) fn remove(self) {
        self.kill();
        if let Some((pid, pidfd)) = &self.process {
            if !ended_within(pidfd, Duration::from_secs(10)) {
                tracing::warn!(pid, "a killed container does not end");
            }
            reap(pidfd);
        }
        self.cgroup.remove();
        remove_folder(&self.folder);
    }

    /// Removes the folders of containers that a crashed node left.
    pub(super) fn remove_leftovers(state_dir: &Path) {
        remove_folder(&folders(state_dir));
    }
}

fn folders(state_dir: &Path) -> PathBuf {
    state_dir.join("plain")
}

fn remove_folder(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "a container's folder cannot be removed");
    }
}
