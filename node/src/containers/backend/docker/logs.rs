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

use super::engine::{Call, Engine, EngineError};
use crate::{
    activations::logs::{LogBuffer, SILENCE, Stream, longest_wait},
    clock,
    containers::backend::{CollectedLogs, LogRequest},
};

/// The engine keeps what nobody reads. Only an activation that takes longer than this could fill the files it keeps.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where no line says that it was the last, one that the engine itself has not read yet may still come. So long a silence is taken
/// for the end: a short one where the container waits for its next activation, else a longer one.
const SETTLED: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// Entries of at most 16 KiB that are on their way.
const AHEAD: usize = 64;

/// The log of one container.
#[derive(Debug)]
pub(super) struct Logs {
    engine: Engine,
    container: String,
    /// From the first entry on; followed since somebody first asked.
    entries: Option<mpsc::Receiver<Result<Entry, Broken>>>,
    last: Option<Entry>,
    is_broken: bool,
    buffer: LogBuffer,
}

/// Where the lines of an activation end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At the lines by which the runtime says so.
    Sentinels,
    /// About where the engine is now: there will be no such lines.
    Now,
    /// With the life of the container, which is over.
    OfContainer,
}

/// The engine told no more although there may be more.
#[derive(Debug)]
struct Broken;

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
        Self { engine, container, entries: None, last: None, is_broken: false, buffer: LogBuffer::new(capacity) }
    }

    /// Reads whatever comes, for ever. Cancel safe: an entry goes from the channel to the buffer in one step.
    pub async fn drain(&mut self) -> Infallible {
        time::sleep(PATIENCE).await;
        while let Some(Ok(entry)) = self.next().await {
            self.take(entry);
        }
        std::future::pending().await
    }

    /// Ends the activation, whose lines are all those up to `end`.
    pub async fn collect(&mut self, request: LogRequest, end: End) -> CollectedLogs {
        if request.limit.bytes() == 0 && self.entries.is_none() {
            return CollectedLogs::default(); // nobody will ever ask: the limit is the same for all activations here
        }
        let longest = longest_wait(request.limit);
        let complete = match end {
            End::Sentinels => self.read_to_sentinels(longest).await,
            // Here the end is certain to come: only the engine can be slow, and its silence says nothing.
            End::OfContainer => time::timeout(longest, self.read_to_end()).await.is_ok_and(|whole| whole),
            End::Now => {
                let settled = if request.developer_error { SETTLED.1 } else { SETTLED.0 };
                match self.newest().await {
                    Ok(newest) => time::timeout(longest, self.read_to(newest, settled)).await.is_ok_and(|whole| whole),
                    Err(_) => false,
                }
            }
        };
        self.buffer.collect(request, !complete, clock::now())
    }

    /// Ends early after too long a silence: what is missing may never come.
    async fn read_to_sentinels(&mut self, longest: Duration) -> bool {
        let latest = Instant::now() + longest;
        while !self.buffer.is_complete() {
            let soon = latest.min(Instant::now() + SILENCE);
            let Ok(Some(Ok(entry))) = time::timeout_at(soon, self.next()).await else { return false };
            self.take(entry);
        }
        true
    }

    async fn read_to_end(&mut self) -> bool {
        while let Some(next) = self.next().await {
            let Ok(entry) = next else { return false };
            self.take(entry);
        }
        true
    }

    /// Reads up to the entry `newest`, and on until none came for so long as `settled`.
    async fn read_to(&mut self, newest: Option<Entry>, settled: Duration) -> bool {
        while newest.is_some() && self.last != newest {
            let Some(Ok(entry)) = self.next().await else { return false };
            self.take(entry);
        }
        while let Ok(Some(next)) = time::timeout(settled, self.next()).await {
            let Ok(entry) = next else { return false };
            self.take(entry);
        }
        true
    }

    /// The newest entry that there is.
    async fn newest(&self) -> Result<Option<Entry>, EngineError> {
        let container = self.container.clone();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).tail("1").build();
        let read = self.engine.call(Call::Logs, |docker| async move {
            let mut newest = None;
            let mut entries = pin!(docker.logs(&container, Some(options)));
            while let Some(entry) = entries.next().await {
                newest = Entry::parse(entry?);
            }
            Ok(newest)
        });
        read.await
    }

    /// The next entry; `None` when there will be no more. Cancel safe.
    async fn next(&mut self) -> Option<Result<Entry, Broken>> {
        if self.is_broken {
            return Some(Err(Broken));
        }
        let (engine, container) = (&self.engine, &self.container);
        let next = self.entries.get_or_insert_with(|| follow(engine, container.clone())).recv().await;
        self.is_broken = matches!(next, Some(Err(Broken)));
        next
    }

    fn take(&mut self, entry: Entry) {
        self.buffer.push_entry(entry.stream, &entry.time, &entry.message);
        self.last = Some(entry);
    }
}

/// All entries of `container` from the first one on, as they are written.
fn follow(engine: &Engine, container: String) -> mpsc::Receiver<Result<Entry, Broken>> {
    let (sender, entries) = mpsc::channel(AHEAD);
    let client = engine.clone();
    engine.runtime().spawn(async move {
        let reason = tokio::select! {
            reason = forward(&client, &container, &sender) => reason,
            // Nobody listens any more.
            () = sender.closed() => None,
        };
        if let Some(reason) = reason {
            tracing::debug!(container, reason, "logs break off");
            // Whoever left needs no reason.
            drop(sender.send(Err(Broken)).await);
        }
    });
    entries
}

/// Sends entries to the last. Returns why there is none after those that were sent; `None`: the container's log ends there.
async fn forward(engine: &Engine, container: &str, to: &mpsc::Sender<Result<Entry, Broken>>) -> Option<String> {
    let docker = match engine.client().await {
        Ok(docker) => docker,
        Err(error) => return Some(error.to_string()),
    };
    let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true).build();
    let mut outputs = pin!(docker.logs(container, Some(options)));
    while let Some(output) = outputs.next().await {
        match output.map(Entry::parse) {
            Ok(Some(entry)) => to.send(Ok(entry)).await.ok()?,
            Ok(None) => return Some("the engine sent them in a form that is not known".to_owned()),
            Err(error) => return Some(error.to_string()),
        }
    }
    None
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
