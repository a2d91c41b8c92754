//! The two pipes of a container's output and what they brought since the last collection.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use protocol::ByteSize;
use rustix::{
    fs::OFlags,
    pipe::{PipeFlags, pipe_with},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use crate::{
    activations::logs::{LogBuffer, SILENCE, Stream, longest_wait},
    clock,
    containers::backend::{CollectedLogs, LogRequest},
};

/// A pipe holds 64 KiB. An activation that writes less and ends sooner than this never needs anyone to read beside it.
const PATIENCE: Duration = Duration::from_millis(1);

/// Bytes taken from one pipe at a time, so that a flood in one cannot starve the other.
const TURN: usize = 256 << 10;

/// Reading ends of stdout and stderr, and the lines that came out.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Pipe,
    stderr: Pipe,
    logs: LogBuffer,
}

#[derive(Debug)]
struct Pipe {
    stream: Stream,
    fd: OwnedFd,
    /// All writers are gone.
    ended: bool,
}

/// Ends for a container to write to.
pub(super) struct Writers {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Output {
    /// Makes both pipes. `capacity`: driver bytes kept, the largest log limit of any action.
    pub fn new(capacity: ByteSize) -> io::Result<(Self, Writers)> {
        let pipe = |stream| -> io::Result<(Pipe, OwnedFd)> {
            let (fd, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            // Only this end: the container's own writes wait while the pipe is full, as programs expect it.
            rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
            Ok((Pipe { stream, fd, ended: false }, writer))
        };
        let (stdout, stdout_writer) = pipe(Stream::Stdout)?;
        let (stderr, stderr_writer) = pipe(Stream::Stderr)?;
        let output = Self { stdout, stderr, logs: LogBuffer::new(capacity) };
        Ok((output, Writers { stdout: stdout_writer, stderr: stderr_writer }))
    }

    /// Reads whatever comes, for ever. Cancel safe: bytes go from pipe to buffer in one step.
    pub async fn drain(&mut self) -> Infallible {
        tokio::time::sleep(PATIENCE).await;
        loop {
            if self.readable().await.is_err() {
                // No reactor or no descriptors: what the pipes hold is still there for the collection.
                std::future::pending::<Infallible>().await;
            }
            self.read_available();
        }
    }

    /// Reads whatever comes and forgets it, for ever. Cancel safe.
    pub async fn discard(&mut self) -> Infallible {
        let nothing = LogRequest { limit: ByteSize(0), wait_for_sentinels: false, developer_error: false };
        loop {
            self.read_available();
            self.logs.collect(nothing, false, clock::now());
            if self.readable().await.is_err() {
                // As in `drain`; a container whose output nobody takes stands still when its pipes are full.
                std::future::pending::<Infallible>().await;
            }
        }
    }

    /// Ends the activation: everything that is there, and as long as `request` wants it, what is still missing.
    pub async fn collect(&mut self, request: LogRequest) -> CollectedLogs {
        self.read_available();
        let mut missing = false;
        if request.wait_for_sentinels && request.limit.bytes() > 0 {
            let latest = Instant::now() + longest_wait(request.limit);
            while !self.logs.is_complete() && !missing {
                let until = latest.min(Instant::now() + SILENCE);
                // Without writers there is nothing to wait for; an error ends the wait like silence does.
                missing = self.ended() || !matches!(tokio::time::timeout_at(until, self.readable()).await, Ok(Ok(())));
                self.read_available();
            }
            missing = !self.logs.is_complete();
        }
        self.logs.collect(request, missing, clock::now())
    }

    /// Adds a line of the platform's behind all that was written.
    pub fn add(&mut self, stream: Stream, line: &str) {
        self.read_available();
        self.logs.push(stream, format!("{line}\n").as_bytes(), clock::now());
    }

    fn ended(&self) -> bool {
        self.stdout.ended && self.stderr.ended
    }

    /// Waits until a pipe has bytes or ends; for ever once both have ended.
    async fn readable(&self) -> io::Result<()> {
        let (stdout, stderr) = (self.stdout.registered()?, self.stderr.registered()?);
        tokio::select! {
            ready = readable(stdout.as_ref()) => ready,
            ready = readable(stderr.as_ref()) => ready,
        }
    }

    fn read_available(&mut self) {
        for pipe in [&mut self.stdout, &mut self.stderr] {
            pipe.read_available(&mut self.logs);
        }
    }
}

impl Pipe {
    fn registered(&self) -> io::Result<Option<AsyncFd<BorrowedFd<'_>>>> {
        if self.ended {
            return Ok(None);
        }
        // SAFETY: a `BorrowedFd` is open, and stays the same, for as long as it can be used.
        Ok(Some(unsafe { AsyncFd::register_with_interest(self.fd.as_fd(), Interest::READABLE) }?))
    }

    fn read_available(&mut self, logs: &mut LogBuffer) {
        let mut buffer = [0; 16 << 10];
        let mut taken = 0;
        while !self.ended && taken < TURN {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    logs.push(self.stream, &buffer[..read], clock::now());
                    taken += read;
                    // A pipe gives all it has, so this was all.
                    if read < buffer.len() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // No other error is possible on a pipe of our own; it would be the end of it.
                Err(_) => self.ended = true,
            }
        }
    }
}

async fn readable(pipe: Option<&AsyncFd<BorrowedFd<'_>>>) -> io::Result<()> {
    match pipe {
        Some(pipe) => pipe.readable().await.map(drop),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::activations::logs::SENTINEL;

    fn output() -> (Output, std::fs::File, std::fs::File) {
        let (output, writers) = Output::new(ByteSize::mib(10)).unwrap();
        (output, writers.stdout.into(), writers.stderr.into())
    }

    fn request() -> LogRequest {
        LogRequest { limit: ByteSize::mib(10), wait_for_sentinels: true, developer_error: false }
    }

    fn end(stream: &mut std::fs::File) {
        writeln!(stream, "{SENTINEL}").unwrap();
    }

    #[tokio::test]
    async fn lines_that_are_in_the_pipes_need_no_waiting() {
        let (mut output, mut stdout, mut stderr) = output();
        writeln!(stdout, "hello").unwrap();
        writeln!(stderr, "oops").unwrap();
        end(&mut stdout);
        end(&mut stderr);
        let logs = output.collect(request()).await;
        assert_eq!(logs.lines.len(), 2);
        assert!(logs.lines[0].ends_with("stdout: hello") && logs.lines[1].ends_with("stderr: oops"), "{logs:?}");
        assert!(!logs.unreliable);
    }

    #[tokio::test]
    async fn more_than_the_pipes_hold_flows_while_someone_drains() {
        let (mut output, mut stdout, mut stderr) = output();
        let writer = std::thread::spawn(move || {
            for n in 0..20_000 {
                writeln!(stdout, "line {n}").unwrap();
            }
            end(&mut stdout);
            end(&mut stderr);
            (stdout, stderr)
        });
        let written = tokio::task::spawn_blocking(move || writer.join().unwrap());
        let _streams = tokio::select! {
            never = output.drain() => match never {},
            written = written => written.unwrap(),
        };
        let logs = output.collect(request()).await;
        assert_eq!(logs.lines.len(), 20_000);
        assert!(logs.lines[19_999].ends_with("stdout: line 19999"));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_sentinels_are_waited_for_and_told() {
        let (mut output, mut stdout, _stderr) = output();
        end(&mut stdout);
        let began = Instant::now();
        let logs = output.collect(request()).await;
        assert_eq!(began.elapsed().as_secs(), SILENCE.as_secs());
        assert!(logs.unreliable);
        assert!(logs.lines[0].contains("There was an issue while collecting your logs."), "{logs:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_where_nobody_can_write() {
        let (mut output, stdout, stderr) = output();
        drop((stdout, stderr));
        let began = Instant::now();
        assert!(output.collect(request()).await.unreliable);
        let failed = LogRequest { wait_for_sentinels: false, developer_error: true, ..request() };
        assert_eq!(output.collect(failed).await.lines.len(), 1);
        assert!(began.elapsed() < Duration::from_millis(100));
    }
}
