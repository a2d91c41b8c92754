//! Containers that are tasks in this process: for tests of scheduling and for benchmarks. They keep the whole contract
//! (one connection, `/init` once, sentinels, crashes, memory), cost microseconds, and obey tokio's paused time.
//!
//! What an action does is said by its code: the JSON of a [`Script`], or anything else for "answer the arguments". One
//! activation can be told apart by an argument `simulate` that holds a [`Step`].

use std::{
    collections::VecDeque,
    convert::Infallible,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use protocol::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinHandle,
};

use super::{Backend, CollectedLogs, Connection, Container, ContainerSpec, CreateError, LogRequest, Loss};
use crate::{
    activations::logs::{LogBuffer, SENTINEL, SILENCE, Stream},
    clock,
    runtime::Endpoint,
};

/// What every simulated container has in common.
#[derive(Debug, Clone)]
pub struct SimulatedConfig {
    pub kinds: Vec<String>,
    /// From `create` to the container.
    pub start: Duration,
    /// Time of `/init` where a script says nothing.
    pub init: Duration,
    /// Time of `/run` where a script says nothing.
    pub run: Duration,
}

impl Default for SimulatedConfig {
    /// All kinds of OpenWhisk's manifest, and no time for anything.
    fn default() -> Self {
        let kinds = ["nodejs:18", "nodejs:20", "python:3.10", "python:3.11", "go:1.20", "rust:1.34", "blackbox"];
        Self {
            kinds: kinds.map(str::to_owned).to_vec(),
            start: Duration::ZERO,
            init: Duration::ZERO,
            run: Duration::ZERO,
        }
    }
}

/// What an action does, as JSON in its code.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    pub init: Step,
    pub run: Step,
}

/// One `/init` or `/run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// Instead of the configured time.
    pub after_ms: Option<u64>,
    /// It goes on until this file is there, too.
    pub until: Option<PathBuf>,
    /// Lines to write.
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    pub then: Then,
}

/// How a step ends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// 200 with the arguments; `{"ok":true}` at init.
    #[default]
    Echo,
    Answer {
        status: u16,
        body: serde_json::Value,
    },
    /// These bytes, whatever they are, then the end of the connection.
    Raw(String),
    /// Nothing, for ever.
    Hang,
    Exit,
    OutOfMemory,
}

/// The back end. Cheap to clone; clones share their counters.
#[derive(Debug, Clone, Default)]
pub struct SimulatedBackend {
    config: SimulatedConfig,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    failures: Mutex<VecDeque<CreateError>>,
    created: AtomicUsize,
    alive: AtomicUsize,
    runs: AtomicUsize,
    panics: AtomicBool,
}

impl SimulatedBackend {
    pub fn new(config: SimulatedConfig) -> Self {
        Self { config, shared: Arc::default() }
    }

    /// The next `create` fails with `error`; calls queue up.
    pub fn fail_next_create(&self, error: CreateError) {
        self.shared.failures.lock().push_back(error);
    }

    /// The next use of a new container panics, as an error in a back end would.
    pub fn panic_once(&self) {
        self.shared.panics.store(true, Ordering::SeqCst);
    }

    /// Containers ever started.
    pub fn created(&self) -> usize {
        self.shared.created.load(Ordering::SeqCst)
    }

    /// Containers not yet destroyed.
    pub fn alive(&self) -> usize {
        self.shared.alive.load(Ordering::SeqCst)
    }

    /// Activations that a container began to run.
    pub fn runs(&self) -> usize {
        self.shared.runs.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Backend for SimulatedBackend {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn kinds(&self) -> Vec<String> {
        self.config.kinds.clone()
    }

    fn warnings(&self) -> Vec<String> {
        vec!["containers are simulated: no code of any action runs".to_owned()]
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Box<dyn Container>, CreateError> {
        take(self.config.start).await;
        if let Some(error) = self.shared.failures.lock().pop_front() {
            return Err(error);
        }
        let container = SimulatedContainer::start(spec.name, &self.config, self.shared.clone())
            .map_err(|error| CreateError::Platform(format!("cannot make a socket pair: {error}")))?;
        Ok(Box::new(container))
    }

    async fn shutdown(&self) {}
}

/// A container; dropping it ends its task.
struct SimulatedContainer {
    name: String,
    connection: UnixStream,
    process: JoinHandle<()>,
    state: Arc<ProcessState>,
    paused: watch::Sender<bool>,
    backend: Arc<Shared>,
}

struct ProcessState {
    logs: Mutex<LogBuffer>,
    out_of_memory: AtomicBool,
}

impl SimulatedContainer {
    fn start(name: String, config: &SimulatedConfig, backend: Arc<Shared>) -> std::io::Result<Self> {
        let (connection, other_end) = UnixStream::pair()?;
        other_end.set_nonblocking(true)?;
        let other_end = tokio::net::UnixStream::from_std(other_end)?;
        let logs = Mutex::new(LogBuffer::new(ByteSize::mib(10)));
        let state = Arc::new(ProcessState { logs, out_of_memory: AtomicBool::new(false) });
        let (paused, is_paused) = watch::channel(false);
        let process = Process {
            connection: other_end,
            buffer: Vec::new(),
            init: config.init,
            run: config.run,
            script: None,
            state: state.clone(),
            paused: is_paused,
            backend: backend.clone(),
        };
        let process = tokio::spawn(process.serve());
        backend.created.fetch_add(1, Ordering::SeqCst);
        backend.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Self { name, connection, process, state, paused, backend })
    }
}

impl Drop for SimulatedContainer {
    fn drop(&mut self) {
        self.process.abort();
        self.backend.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Container for SimulatedContainer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&mut self) -> std::io::Result<Connection> {
        assert!(!self.backend.panics.swap(false, Ordering::SeqCst), "asked to panic");
        self.connection.try_clone().map(Connection::Unix)
    }

    async fn drain_logs(&mut self) -> Infallible {
        std::future::pending().await
    }

    async fn collect_logs(&mut self, request: LogRequest) -> CollectedLogs {
        // The script writes before it answers: what is not there now never comes, but a real back end waits for it.
        let missing = request.wait_for_sentinels && request.limit.bytes() > 0 && !self.state.logs.lock().is_complete();
        if missing {
            tokio::time::sleep(SILENCE).await;
        }
        self.state.logs.lock().collect(request, missing, clock::now())
    }

    async fn why_lost(&mut self, _: Endpoint) -> Loss {
        if self.state.out_of_memory.load(Ordering::SeqCst) { Loss::OutOfMemory } else { Loss::Unexplained }
    }

    async fn pause(&mut self) -> std::io::Result<()> {
        self.paused.send_replace(true);
        Ok(())
    }

    async fn resume(&mut self) -> std::io::Result<()> {
        self.paused.send_replace(false);
        Ok(())
    }

    async fn destroy(self: Box<Self>) {}
}

/// The other end: what would be a process.
struct Process {
    connection: tokio::net::UnixStream,
    buffer: Vec<u8>,
    init: Duration,
    run: Duration,
    /// Set by `/init`.
    script: Option<Script>,
    state: Arc<ProcessState>,
    paused: watch::Receiver<bool>,
    backend: Arc<Shared>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct InitValue {
    code: Option<String>,
}

#[derive(Deserialize)]
struct RunValue {
    simulate: Option<Step>,
}

impl Process {
    /// Serves until the node closes the connection or the script ends the process.
    async fn serve(mut self) {
        while let Ok(Some((path, body))) = self.read_request().await {
            // A frozen process does not get to run; an error means that the container is gone.
            if self.paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            let goes_on = match path.as_str() {
                "/init" => self.initialize(&body).await,
                "/run" => self.run(&body).await,
                _ => self.answer(500, r#"{"error":"Bad request."}"#).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn initialize(&mut self, body: &[u8]) -> bool {
        if self.script.is_some() {
            let text = "Cannot initialize the action more than once.";
            self.write(Stream::Stderr, &format!("Internal system error: {text}"));
            return self.answer(403, &format!(r#"{{"error":"{text}"}}"#)).await;
        }
        let code = serde_json::from_slice::<Body>(body)
            .and_then(|body| serde_json::from_str::<InitValue>(body.value.get()))
            .map(|value| value.code.unwrap_or_default());
        let Ok(code) = code else { return self.answer(500, r#"{"error":"Bad request."}"#).await };
        if code.is_empty() {
            return self.answer(403, r#"{"error":"Missing main/no code to execute."}"#).await;
        }
        let script: Script = serde_json::from_str(&code).unwrap_or_default();
        let step = script.init.clone();
        let failing = matches!(&step.then, Then::Answer { status, .. } if *status != 200);
        self.script = Some(script);
        self.step(step, self.init, r#"{"ok":true}"#, failing).await
    }

    async fn run(&mut self, body: &[u8]) -> bool {
        let Some(script) = &self.script else {
            return self.answer(403, r#"{"error":"System not initialized."}"#).await;
        };
        let Ok(body) = serde_json::from_slice::<Body>(body) else {
            return self.answer(500, r#"{"error":"Bad request."}"#).await;
        };
        self.backend.runs.fetch_add(1, Ordering::SeqCst);
        let own = serde_json::from_str::<RunValue>(body.value.get()).ok().and_then(|value| value.simulate);
        let step = own.unwrap_or_else(|| script.run.clone());
        self.step(step, self.run, body.value.get(), true).await
    }

    /// Does `step`; true if the process lives on.
    async fn step(&mut self, step: Step, time: Duration, echo: &str, sentinels: bool) -> bool {
        for line in &step.stdout {
            self.write(Stream::Stdout, line);
        }
        for line in &step.stderr {
            self.write(Stream::Stderr, line);
        }
        take(step.after_ms.map_or(time, Duration::from_millis)).await;
        while step.until.as_ref().is_some_and(|file| !file.exists()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The same goes for a process that was frozen while it ran.
        if self.paused.wait_for(|paused| !paused).await.is_err() {
            return false;
        }
        if sentinels && matches!(step.then, Then::Echo | Then::Answer { .. } | Then::Raw(_)) {
            self.write(Stream::Stdout, SENTINEL);
            self.write(Stream::Stderr, SENTINEL);
        }
        match step.then {
            Then::Echo => self.answer(200, echo).await,
            Then::Answer { status, body } => self.answer(status, &body.to_string()).await,
            Then::Raw(bytes) => {
                // Whether it arrives matters as little as what it is.
                let _ = self.connection.write_all(bytes.as_bytes()).await;
                false
            }
            Then::Hang => std::future::pending().await,
            Then::Exit => false,
            Then::OutOfMemory => {
                self.state.out_of_memory.store(true, Ordering::SeqCst);
                false
            }
        }
    }

    fn write(&self, stream: Stream, line: &str) {
        self.state.logs.lock().push(stream, format!("{line}\n").as_bytes(), clock::now());
    }

    async fn answer(&mut self, status: u16, body: &str) -> bool {
        let head = format!("HTTP/1.1 {status} Simulated\r\nContent-Length: {}\r\n\r\n", body.len());
        self.connection.write_all(head.as_bytes()).await.is_ok()
            && self.connection.write_all(body.as_bytes()).await.is_ok()
    }

    /// Path and body of the next request; `None` at the end of the connection.
    async fn read_request(&mut self) -> std::io::Result<Option<(String, Vec<u8>)>> {
        loop {
            if let Some((path, start, length)) = parse_request(&self.buffer)? {
                while self.buffer.len() < start + length {
                    if self.connection.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                }
                let body = self.buffer[start..start + length].to_vec();
                self.buffer.drain(..start + length);
                return Ok(Some((path, body)));
            }
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Path, start of the body and its length, once the head is complete.
fn parse_request(bytes: &[u8]) -> std::io::Result<Option<(String, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let status = request.parse(bytes).map_err(std::io::Error::other)?;
    let httparse::Status::Complete(start) = status else { return Ok(None) };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| std::io::Error::other("a request without Content-Length"))?;
    Ok(Some((request.path.unwrap_or_default().to_owned(), start, length)))
}

/// Sleeps for `time`. No time is none: the timer alone would round it up to a millisecond.
async fn take(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{AnswerLimits, Observed, ProxyConnection};

    #[tokio::test(start_paused = true)]
    async fn simulated_time_passes_without_waiting() {
        let config =
            SimulatedConfig { start: Duration::from_secs(5), run: Duration::from_secs(50), ..Default::default() };
        let backend = SimulatedBackend::new(config);
        let began = (tokio::time::Instant::now(), std::time::Instant::now());
        let spec = ContainerSpec {
            name: "wsk0_1_guest_hello".into(),
            kind: "nodejs:20".into(),
            image: None,
            memory: ByteSize::mib(256),
            env: Vec::new(),
        };
        let mut container = backend.create(spec).await.unwrap();
        let mut proxy = ProxyConnection::new(container.connect().await.unwrap()).unwrap();
        let init =
            proxy.call(Endpoint::Init, br#"{"value":{"code":"x"}}"#, Duration::MAX, AnswerLimits::default()).await;
        assert!(matches!(init.observed, Observed::Answer(_)), "{init:?}");
        let run = proxy.call(Endpoint::Run, br#"{"value":{"a":1}}"#, Duration::MAX, AnswerLimits::default()).await;
        assert!(matches!(run.observed, Observed::Answer(_)), "{run:?}");
        assert_eq!(run.elapsed.as_secs(), 50);
        assert!(began.0.elapsed() >= Duration::from_secs(55) && began.1.elapsed() < Duration::from_secs(5));
        assert_eq!((backend.created(), backend.alive()), (1, 1));
        container.destroy().await;
        assert_eq!((backend.created(), backend.alive()), (1, 0));
    }
}
