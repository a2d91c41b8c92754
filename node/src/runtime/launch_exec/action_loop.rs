//! A process that serves all activations: a line in, a line out.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use protocol::messages;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};
use serde::Deserialize;

/// How long a process that does not acknowledge its start is watched.
const START_WATCH: Duration = Duration::from_millis(5);

pub(super) struct ActionLoop {
    child: Child,
    input: ChildStdin,
    output: std::fs::File,
    /// Becomes readable when the process ends.
    exit: OwnedFd,
    /// Read, but behind the line that was asked for.
    read_ahead: Vec<u8>,
}

#[derive(Deserialize)]
struct Acknowledgement {
    ok: bool,
}

impl ActionLoop {
    /// Starts `program` with `variables` and those of this process that begin with `__OW_`; nothing else, not even a
    /// `PATH`, as OpenWhisk's proxy does it.
    pub fn start(program: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start action: {error}");
        let (output, answers) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let wait_for_ack = std::env::var("OW_WAIT_FOR_ACK").is_ok_and(|value| !value.is_empty());

        let mut command = Command::new(format!("./{program}"));
        command.env_clear().stdin(Stdio::piped());
        command.envs(std::env::vars().filter(|(name, _)| name.starts_with("__OW_")));
        if wait_for_ack {
            command.env("__OW_WAIT_FOR_ACK", "1");
        }
        command.envs(variables);
        let answers_fd = answers.as_raw_fd();
        // SAFETY: `dup2` and `fcntl` are async-signal-safe. A copy has no close-on-exec flag; should the pipe itself be
        // descriptor 3, its flag is cleared instead.
        unsafe {
            command.pre_exec(move || {
                let done = if answers_fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(answers_fd, 3) };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let mut child = command.spawn().map_err(failed)?;
        drop(answers);
        let pid = rustix::process::Pid::from_child(&child);
        let exit = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| failed(error.into()))?;
        let input = child.stdin.take().ok_or("the action has no stdin")?;
        set_nonblocking(&input).and_then(|()| set_nonblocking(&output)).map_err(failed)?;
        let mut action = Self { child, input, output: output.into(), exit, read_ahead: Vec::new() };
        if wait_for_ack {
            let line = action.read_line().map_err(|_| messages::COMMAND_EXITED_INITIALIZING.to_owned())?;
            let acknowledged = serde_json::from_slice::<Acknowledgement>(&line).map_err(|error| error.to_string())?;
            if !acknowledged.ok {
                return Err("The action did not initialize properly.".to_owned());
            }
        } else if action.exits_within(START_WATCH) {
            return Err(messages::COMMAND_EXITED.to_owned());
        }
        Ok(action)
    }

    pub fn has_exited(&self) -> bool {
        self.exits_within(Duration::ZERO)
    }

    /// Hands `request` over as one line; returns the line that comes back, with its end.
    pub fn interact(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        // Line ends can only stand between JSON's tokens.
        let mut line: Vec<u8> = request.iter().copied().filter(|byte| *byte != b'\n').collect();
        line.push(b'\n');
        let mut sent = 0;
        while sent < line.len() {
            match self.input.write(&line[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // A process that answers without reading all its input would wait for us as we for it.
                    self.read_available()?;
                    wait(&[(self.input.as_fd(), PollFlags::OUT), (self.output.as_fd(), PollFlags::IN)], None)?;
                }
                // It may have answered before it closed its input.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error),
            }
        }
        self.read_line()
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read_ahead[looked..]) {
                let rest = self.read_ahead.split_off(looked + end + 1);
                return Ok(std::mem::replace(&mut self.read_ahead, rest));
            }
            looked = self.read_ahead.len();
            let exited = wait(&[(self.exit.as_fd(), PollFlags::IN), (self.output.as_fd(), PollFlags::IN)], None)?;
            let closed = !self.read_available()?;
            if self.read_ahead.len() == looked && (closed || exited[0]) {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "no answer from the action"));
            }
        }
    }

    /// Reads what is there; false at the end of the pipe.
    fn read_available(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.output.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => self.read_ahead.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn exits_within(&self, time: Duration) -> bool {
        wait(&[(self.exit.as_fd(), PollFlags::IN)], Some(time)).is_ok_and(|ready| ready[0])
    }
}

impl Drop for ActionLoop {
    fn drop(&mut self) {
        // Both only fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of `events` is there, or `time` is over; which of them are.
fn wait(events: &[(rustix::fd::BorrowedFd<'_>, PollFlags)], time: Option<Duration>) -> io::Result<Vec<bool>> {
    let until = time.map(|time| Instant::now() + time);
    loop {
        let mut fds: Vec<_> = events.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(vec![false; events.len()]),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}
