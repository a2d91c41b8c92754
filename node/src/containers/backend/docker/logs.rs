//! A container's output as the engine keeps it, from where the previous activation's ended.
//!
//! The engine's `json-file` driver splits, stamps and orders lines; one stream of them is followed for as long as the
//! container lives, so that no line is read twice or lost between two activations.

use std::{convert::Infallible, pin::pin, time::Duration};

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures_util::StreamExt;
use protocol::ByteSize;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::engine::{Engine, EngineError, limit};
use crate::{
    activations::logs::{LogBuffer, SILENCE, Stream, longest_wait},
    clock,
    containers::backend::{CollectedLogs, LogRequest},
};

/// The engine keeps what nobody reads. Only an activation that takes longer than this could fill the files it keeps.
const PATIENCE: Duration = Duration::from_secs(1);

/// Entries of at most 16 KiB that are on their way.
const AHEAD: usize = 64;

/// The log of one container.
#[derive(Debug)]
pub(super) struct Logs {
    engine: Engine,
    container: String,
    /// From the first entry on; followed since somebody first asked.
    entries: Option<mpsc::Receiver<Entry>>,
    last: Option<Entry>,
    buffer: LogBuffer,
}

/// Where the lines of an activation end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At the lines by which the runtime says so.
    Sentinels,
    /// Where the engine is now: there will be no such lines.
    Now,
    /// With the life of the container, which is over.
    OfContainer,
}

/// What the driver writes as one line of its file: a line of output, or 16 KiB of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    stream: Stream,
    /// As the engine writes it, with nanoseconds: always 30 characters.
    time: String,
    /// With its line end, if it has one.
    message: Bytes,
}

impl Logs {
    pub fn new(engine: Engine, container: String, capacity: ByteSize) -> Self {
        Self { engine, container, entries: None, last: None, buffer: LogBuffer::new(capacity) }
    }

    /// Reads whatever comes, for ever. Cancel safe: an entry goes from the channel to the buffer in one step.
    pub async fn drain(&mut self) -> Infallible {
        time::sleep(PATIENCE).await;
        while let Some(entry) = self.next().await {
            self.take(entry);
        }
        std::future::pending().await
    }

    /// Ends the activation, whose lines are all those up to `end`.
    pub async fn collect(&mut self, request: LogRequest, end: End) -> CollectedLogs {
        if request.limit.bytes() == 0 && self.entries.is_none() {
            return CollectedLogs::default(); // nobody will ever ask: the limit is the same for all activations here
        }
        let latest = Instant::now() + longest_wait(request.limit);
        let complete = match end {
            End::Sentinels => self.read_to_sentinels(latest).await,
            End::OfContainer => self.read_to_end(latest).await,
            End::Now => self.read_all(latest).await,
        };
        self.buffer.collect(request, !complete, clock::now())
    }

    async fn read_to_sentinels(&mut self, latest: Instant) -> bool {
        while !self.buffer.is_complete() {
            let Ok(Some(entry)) = self.next_until(latest).await else { return false };
            self.take(entry);
        }
        true
    }

    async fn read_to_end(&mut self, latest: Instant) -> bool {
        loop {
            match self.next_until(latest).await {
                Ok(Some(entry)) => self.take(entry),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Reads what the engine has now. What it has not yet read itself is nobody's, or the next activation's.
    async fn read_all(&mut self, latest: Instant) -> bool {
        let Ok(newest) = self.newest().await else { return false };
        while newest.is_some() && self.last != newest {
            let Ok(Some(entry)) = self.next_until(latest).await else { return false };
            self.take(entry);
        }
        // Pieces of one long line have one time, and may be alike.
        while let Some(entry) = self.entries.as_mut().and_then(|entries| entries.try_recv().ok()) {
            self.take(entry);
        }
        true
    }

    /// The newest entry that there is.
    async fn newest(&self) -> Result<Option<Entry>, EngineError> {
        let container = self.container.clone();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).tail("1").build();
        let read = self.engine.call("read logs", limit::INSPECT, |docker| async move {
            let mut newest = None;
            let mut entries = pin!(docker.logs(&container, Some(options)));
            while let Some(entry) = entries.next().await {
                newest = Entry::parse(entry?);
            }
            Ok(newest)
        });
        read.await
    }

    /// As [`Logs::next`], unless none comes for too long.
    async fn next_until(&mut self, latest: Instant) -> Result<Option<Entry>, time::error::Elapsed> {
        time::timeout_at(latest.min(Instant::now() + SILENCE), self.next()).await
    }

    /// The next entry; `None` when there will be no more.
    async fn next(&mut self) -> Option<Entry> {
        let (engine, container) = (&self.engine, &self.container);
        self.entries.get_or_insert_with(|| follow(engine, container.clone())).recv().await
    }

    fn take(&mut self, entry: Entry) {
        self.buffer.push_entry(entry.stream, &entry.time, &entry.message);
        self.last = Some(entry);
    }
}

/// All entries of `container` from the first one on, as they are written.
fn follow(engine: &Engine, container: String) -> mpsc::Receiver<Entry> {
    let (sender, entries) = mpsc::channel(AHEAD);
    let client = engine.clone();
    engine.runtime().spawn(async move {
        let docker = match client.client().await {
            Ok(docker) => docker,
            Err(error) => return tracing::warn!(container, %error, "logs cannot be followed"),
        };
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true).build();
        let mut outputs = pin!(docker.logs(&container, Some(options)));
        loop {
            let output = tokio::select! {
                output = outputs.next() => output,
                // Nobody listens any more.
                () = sender.closed() => return,
            };
            let entry = match output {
                Some(Ok(output)) => Entry::parse(output),
                Some(Err(error)) => return tracing::debug!(container, %error, "logs end"),
                None => return,
            };
            let Some(entry) = entry else {
                return tracing::warn!(container, "the engine sent logs in a form that is not known");
            };
            if sender.send(entry).await.is_err() {
                return;
            }
        }
    });
    entries
}

impl Entry {
    fn parse(output: LogOutput) -> Option<Self> {
        let (stream, line) = match output {
            LogOutput::StdOut { message } => (Stream::Stdout, message),
            LogOutput::StdErr { message } => (Stream::Stderr, message),
            LogOutput::StdIn { .. } | LogOutput::Console { .. } => return None,
        };
        let end = memchr::memchr(b' ', &line)?;
        let time = std::str::from_utf8(&line[..end]).ok()?.to_owned();
        Some(Self { stream, time, message: line.slice(end + 1..) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_apart() {
        let message = Bytes::from_static(b"2019-10-01T12:00:00.123456789Z hello world\n");
        let entry = Entry::parse(LogOutput::StdErr { message }).unwrap();
        assert_eq!((entry.stream, entry.time.as_str()), (Stream::Stderr, "2019-10-01T12:00:00.123456789Z"));
        assert_eq!(entry.message, "hello world\n");
        assert_eq!(Entry::parse(LogOutput::Console { message: Bytes::from_static(b"a b") }), None);
        assert_eq!(Entry::parse(LogOutput::StdOut { message: Bytes::from_static(b"nothing") }), None);
    }
}
