//! A warmed Python: started once, with the launcher and common modules loaded, and forked for each container. A fork
//! costs a millisecond where an interpreter's start costs tens.
//!
//! The forked process enters its container's sandbox by itself, before any code of the user's runs, with the steps that
//! the sandbox describes; the zygote holds no secret and no other container's descriptors. What all its children share,
//! as on any fork server, is the seed of their string hashes and the layout of their memory.
//!
//! The other side is `launchers/zygote.py`.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Most descriptors that one order carries.
const MAX_FDS: usize = 32;

/// A zygote answers within this or is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running zygote; dropping it ends it, and leaves its children alone.
#[derive(Debug)]
pub struct Zygote {
    control: OwnedFd,
    child: Child,
}

/// What a new container's process gets.
#[derive(Debug)]
pub struct Order<'a, Steps> {
    /// Its whole environment, apart from what the steps add.
    pub env: &'a [(String, String)],
    /// How it enters its sandbox, and the descriptors that the steps refer to.
    pub steps: &'a Steps,
    pub step_fds: &'a [BorrowedFd<'a>],
    /// Descriptors 0 to 3.
    pub stdio: [BorrowedFd<'a>; 4],
}

#[derive(Serialize)]
struct OrderMessage<'a, Steps> {
    env: std::collections::BTreeMap<&'a str, &'a str>,
    join: &'a Steps,
}

#[derive(Deserialize)]
struct Answer {
    pid: Option<i32>,
    error: Option<String>,
}

impl Zygote {
    /// Starts `python` on `program`, our `zygote.py`, and waits until it is warm: blocking, tens to hundreds of milliseconds.
    /// `unpacker`: the program that the launcher unpacks archives with, as seen from inside containers.
    ///
    /// # Errors
    /// If the interpreter does not start or does not get warm.
    pub fn start(python: &Path, program: &Path, unpacker: &Path) -> io::Result<Self> {
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&control, timeout, Some(PATIENCE))?;
        }
        let mut command = Command::new(python);
        command.args(PYTHON_OPTIONS).arg(program).arg(unpacker);
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let theirs_fd = theirs.as_raw_fd();
        // SAFETY: `dup2`, `fcntl`, `setsid` and `close_range` are async-signal-safe. A copy has no close-on-exec flag.
        unsafe {
            command.pre_exec(move || {
                let done = if theirs_fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(theirs_fd, 3) };
                if done < 0 || libc::setsid() < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        let zygote = Self { control, child };
        zygote.receive()?;
        Ok(zygote)
    }

    /// Process id of the zygote itself.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Forks a process for `order`: blocking, about a millisecond. Returns the process id of the first process that was
    /// forked; it is the container's where there is no sandbox, and gone already where there is one.
    ///
    /// # Errors
    /// If a step failed; nothing of the user's has run. After a failure to talk to the zygote it must be started anew.
    pub fn fork<Steps: Serialize>(&mut self, order: &Order<'_, Steps>) -> Result<i32, ForkError> {
        let env = order.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let message = serde_json::to_vec(&OrderMessage { env, join: order.steps }).map_err(io::Error::from)?;
        let fds: Vec<_> = order.stdio.iter().chain(order.step_fds).copied().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one order").into());
        }
        let sent =
            rustix::net::sendmsg(self.control.as_fd(), &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from)?;
        let answer = self.receive()?;
        match (answer.pid, answer.error) {
            (Some(pid), _) => Ok(pid),
            (None, error) => Err(ForkError::Step(error.unwrap_or_default())),
        }
    }

    fn receive(&self) -> io::Result<Answer> {
        let mut buffer = vec![0; 64 << 10];
        let (_, read) = rustix::net::recv(&self.control, &mut buffer[..], RecvFlags::empty())?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zygote ended"));
        }
        Ok(serde_json::from_slice(&buffer[..read.min(buffer.len())])?)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            warn!(pid = self.child.id(), %error, "cannot end a zygote");
        }
    }
}

/// Why no process was forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The zygote itself is broken.
    #[error("the zygote does not answer: {0}")]
    Zygote(#[from] io::Error),
    /// The forked process could not enter its container.
    #[error("the forked process failed: {0}")]
    Step(String),
}

/// Isolated from the environment and the user's own packages, without byte code files, UTF-8 throughout.
pub const PYTHON_OPTIONS: [&str; 4] = ["-I", "-B", "-X", "utf8"];
