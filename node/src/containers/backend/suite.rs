//! The contract of a container, as tests that every back end and every runtime passes. Included by `tests/backends`,
//! which brings the real binary that process containers need.
//!
//! A [`Subject`] is a back end, a kind, and the kind's own words for a few [`Program`]s.
//!
//! Source: apache/openwhisk `tests/.../actionContainers/BasicActionRunnerTests.scala`.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use node::{
    containers::backend::{
        Backend, CONNECT_RETRY, CollectedLogs, Container, ContainerSpec, LogRequest, Loss, has_ended,
    },
    runtime::{
        AnswerLimits, CallOutcome, Endpoint, InitVerdict, Observed, ProxyConnection, RunVerdict, classify_init,
        classify_run,
    },
};
use protocol::{ActivationStatus, ByteSize, activation::Response};
use serde_json::{Value, json};

/// What an action does. Arguments are objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Writes `hello stdout` and `hello stderr`, answers its arguments.
    Echo,
    /// Answers `{"text": <the string "x", `n` times>}`.
    Repeat,
    /// Answers a number.
    Scalar,
    /// Answers `{"error": "planned"}`.
    ApplicationError,
    /// Ends its process, if `exit` is among the arguments; else as `Echo`.
    Exit,
    /// Never answers, if `hang` is among the arguments; else as `Echo`.
    Hang,
    /// Never comes to an end of `/init`.
    HangInInit,
    /// Ends its process during `/init`.
    ExitInInit,
    /// Takes memory until it gets no more.
    ExhaustMemory,
    /// Writes `lines` lines of 100 bytes, then answers `{}`.
    Flood,
    /// Answers, by name, the variables in `names` of its environment; absent ones are `null`.
    Environment,
}

/// What is tested.
pub struct Subject<'a> {
    pub backend: &'a dyn Backend,
    pub kind: &'a str,
    pub image: Option<&'a str>,
    /// Memory of its containers: enough for everything but `ExhaustMemory`.
    pub memory: ByteSize,
    /// The code of a program and whether it is base64; `None` where this runtime cannot do it.
    pub code: &'a (dyn Fn(Program) -> Option<(String, bool)> + Sync),
    /// The back end watches over memory.
    pub limits_memory: bool,
    /// The text when a program ends its process in `/run`; in `/init`.
    pub exited: &'a str,
    pub exited_in_init: &'a str,
}

pub const ABNORMAL_RUN: &str = "The action did not produce a valid response and exited unexpectedly.";
pub const ABNORMAL_INIT: &str = "The action did not initialize and exited unexpectedly.";
const LONG: Duration = Duration::from_secs(60);

/// A container under test, with its connection.
pub struct Running {
    pub container: Box<dyn Container>,
    pub proxy: ProxyConnection,
}

/// What one `/run` came to.
#[derive(Debug)]
pub struct Finished {
    pub response: Response,
    pub timed_out: bool,
    pub keep_container: bool,
    pub logs: CollectedLogs,
    pub elapsed: Duration,
}

impl Finished {
    /// The result as JSON.
    pub fn result(&self) -> Value {
        serde_json::from_str(self.response.result.as_ref().expect("a result").as_str()).expect("a result is JSON")
    }

    /// Log lines without their times.
    pub fn lines(&self) -> Vec<&str> {
        self.logs.lines.iter().map(|line| line[30..].trim_start()).collect()
    }
}

static CONTAINERS: AtomicUsize = AtomicUsize::new(0);

impl Running {
    /// A container of `subject` without code.
    pub async fn start(subject: &Subject<'_>) -> Self {
        let spec = ContainerSpec {
            name: format!("wsktest_{}_{}", std::process::id(), CONTAINERS.fetch_add(1, Ordering::Relaxed)),
            kind: subject.kind.to_owned(),
            image: subject.image.map(str::to_owned),
            memory: subject.memory,
            env: vec![("__OW_API_HOST".to_owned(), "http://10.0.0.1:3233".to_owned())],
        };
        Self::connect(subject.backend.create(spec).await.expect("a container")).await
    }

    /// Connects to a new container as the invoker does: it may not listen yet.
    pub async fn connect(mut container: Box<dyn Container>) -> Self {
        let until = Instant::now() + LONG;
        loop {
            match container.connect().await {
                Ok(connection) => {
                    let proxy = ProxyConnection::new(connection).expect("a non-blocking socket");
                    return Self { container, proxy };
                }
                Err(error) => assert!(Instant::now() < until && !has_ended(&error), "{error}"),
            }
            tokio::time::sleep(CONNECT_RETRY).await;
        }
    }

    /// A container that has `program`.
    pub async fn with(subject: &Subject<'_>, program: Program) -> Option<Self> {
        let code = (subject.code)(program)?;
        let mut running = Self::start(subject).await;
        let verdict = running.init(&code, LONG).await;
        assert_eq!(verdict, InitVerdict::Initialized, "{program:?}");
        Some(running)
    }

    pub async fn init(&mut self, code: &(String, bool), timeout: Duration) -> InitVerdict {
        let env = json!({"GREETING": "hé", "EMPTY": "", "__OW_ACTION_NAME": "/guest/test"});
        self.init_value(json!({"name": "test", "main": "main", "code": code.0, "binary": code.1, "env": env}), timeout)
            .await
    }

    pub async fn init_value(&mut self, value: Value, timeout: Duration) -> InitVerdict {
        let body = json!({ "value": value }).to_string();
        let outcome = self.call(Endpoint::Init, body.as_bytes(), timeout, AnswerLimits::default()).await;
        let loss = self.loss(Endpoint::Init, &outcome).await;
        classify_init(&outcome, timeout, loss)
    }

    async fn loss(&mut self, during: Endpoint, outcome: &CallOutcome) -> Loss {
        match outcome.observed {
            Observed::Lost(_) => self.container.why_lost(during).await,
            _ => Loss::Unexplained,
        }
    }

    /// Calls the proxy as the invoker does, with the logs flowing.
    pub async fn call(&mut self, to: Endpoint, body: &[u8], timeout: Duration, limits: AnswerLimits) -> CallOutcome {
        tokio::select! {
            never = self.container.drain_logs() => match never {},
            outcome = self.proxy.call(to, body, timeout, limits) => outcome,
        }
    }

    pub async fn run(&mut self, arguments: Value) -> Finished {
        self.run_with(arguments, LONG, AnswerLimits::default(), ByteSize::mib(10)).await
    }

    pub async fn run_with(
        &mut self,
        arguments: Value,
        timeout: Duration,
        limits: AnswerLimits,
        logs: ByteSize,
    ) -> Finished {
        let body = json!({
            "value": arguments, "namespace": "guest", "action_name": "/guest/test", "action_version": "0.0.1",
            "activation_id": "0123456789abcdef0123456789abcdef", "transaction_id": "tid", "deadline": "1700000000000",
            "api_key": "uuid:key",
        });
        let outcome = self.call(Endpoint::Run, body.to_string().as_bytes(), timeout, limits).await;
        let loss = self.loss(Endpoint::Run, &outcome).await;
        let verdict = classify_run(&outcome, timeout, loss);
        let RunVerdict::Finished { response, timed_out, keep_container } = verdict else {
            panic!("rescheduled: {outcome:?}")
        };
        let developer_error = response.status == ActivationStatus::DeveloperError;
        let request = LogRequest { limit: logs, wait_for_sentinels: !developer_error, developer_error };
        let logs = self.container.collect_logs(request).await;
        Finished { response, timed_out, keep_container, logs, elapsed: outcome.elapsed }
    }

    /// What a failed `/init` left in the logs, without times.
    pub async fn failed_logs(&mut self) -> Vec<String> {
        let request = LogRequest { limit: ByteSize::mib(10), wait_for_sentinels: false, developer_error: true };
        let logs = self.container.collect_logs(request).await;
        logs.lines.iter().map(|line| line[30..].trim_start().to_owned()).collect()
    }

    pub async fn destroy(self) {
        drop(self.proxy);
        self.container.destroy().await;
    }
}

fn error(text: &str) -> Value {
    json!({ "error": text })
}

/// All tests, one after the other.
pub async fn run_all(subject: &Subject<'_>) {
    macro_rules! each {
        ($($test:ident),* $(,)?) => {$(
            let began = Instant::now();
            $test(subject).await;
            println!("{} {}: {} in {:?}", subject.backend.name(), subject.kind, stringify!($test), began.elapsed());
        )*};
    }
    each!(
        echoes_what_it_gets,
        takes_and_gives_almost_a_mebibyte,
        is_initialized_once,
        refuses_to_run_before_init,
        needs_code,
        has_its_environment_before_and_during_a_run,
        keeps_the_logs_of_runs_apart,
        tells_application_errors_and_stays_usable,
        refuses_scalars,
        survives_a_result_that_is_too_long,
        times_out_in_init,
        times_out_in_run,
        tells_an_exit_in_init,
        tells_an_exit_in_run,
        tells_exhausted_memory,
        cuts_a_flood_of_logs,
        is_frozen_while_paused,
        ends_when_dropped,
    );
}

async fn echoes_what_it_gets(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Echo).await else { return };
    for arguments in [
        json!({}),
        json!({"a": "text", "b": -1.5, "c": [1, {"d": null}], "e": true}),
        json!({"unicode": "é ☃ 𝄞 \u{0000} \\ \" \n", "∆": {"ключ": "значение"}}),
        json!({"large": 9007199254740991_i64}),
    ] {
        let finished = running.run(arguments.clone()).await;
        assert_eq!(finished.response.status, ActivationStatus::Success, "{finished:?}");
        assert_eq!(finished.result(), arguments);
        assert!(finished.keep_container && !finished.logs.unreliable);
    }
    running.destroy().await;
}

async fn takes_and_gives_almost_a_mebibyte(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Echo).await else { return };
    let text = "a".repeat(1_048_561);
    let finished = running.run(json!({ "p": text })).await;
    assert_eq!(finished.response.status, ActivationStatus::Success);
    assert!(finished.result() == json!({ "p": text }));
    running.destroy().await;
}

async fn is_initialized_once(subject: &Subject<'_>) {
    let Some(code) = (subject.code)(Program::Echo) else { return };
    let mut running = Running::start(subject).await;
    assert_eq!(running.init(&code, LONG).await, InitVerdict::Initialized);
    let text = "Cannot initialize the action more than once.";
    match running.init(&code, LONG).await {
        InitVerdict::Failed { response, timed_out: false } => {
            assert_eq!(response.status, ActivationStatus::DeveloperError);
            assert_eq!(response.result.expect("a result").read::<Value>().expect("JSON"), error(text));
        }
        other => panic!("{other:?}"),
    }
    // The refusal is in the logs, without sentinels: those of the run that follows are complete.
    let finished = running.run(json!({})).await;
    assert!(finished.lines().iter().any(|line| line.contains(text)), "{finished:?}");
    assert!(!finished.logs.unreliable);
    let again = running.run(json!({})).await;
    assert_eq!(again.lines().len(), 2, "{again:?}");
    running.destroy().await;
}

async fn refuses_to_run_before_init(subject: &Subject<'_>) {
    let mut running = Running::start(subject).await;
    let outcome = running.call(Endpoint::Run, br#"{"value":{}}"#, LONG, AnswerLimits::default()).await;
    match classify_run(&outcome, LONG, Loss::Unexplained) {
        RunVerdict::Finished { response, .. } => assert_eq!(response.status, ActivationStatus::DeveloperError),
        RunVerdict::Reschedule => panic!("{outcome:?}"),
    }
    running.destroy().await;
}

async fn needs_code(subject: &Subject<'_>) {
    if subject.image.is_some() {
        return; // it has a stub
    }
    let mut running = Running::start(subject).await;
    match running.init(&(String::new(), false), LONG).await {
        InitVerdict::Failed { response, .. } => {
            let result: Value = response.result.expect("a result").read().expect("JSON");
            assert_eq!(result, error("Missing main/no code to execute."));
        }
        other => panic!("{other:?}"),
    }
    running.destroy().await;
}

async fn has_its_environment_before_and_during_a_run(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Environment).await else { return };
    let names = [
        "GREETING",
        "EMPTY",
        "__OW_API_HOST",
        "__OW_API_KEY",
        "__OW_NAMESPACE",
        "__OW_ACTION_NAME",
        "__OW_ACTION_VERSION",
        "__OW_ACTIVATION_ID",
        "__OW_TRANSACTION_ID",
        "__OW_DEADLINE",
    ];
    let finished = running.run(json!({ "names": names })).await;
    assert_eq!(
        finished.result(),
        json!({
            "GREETING": "hé", "EMPTY": "", "__OW_API_HOST": "http://10.0.0.1:3233", "__OW_API_KEY": "uuid:key",
            "__OW_NAMESPACE": "guest", "__OW_ACTION_NAME": "/guest/test", "__OW_ACTION_VERSION": "0.0.1",
            "__OW_ACTIVATION_ID": "0123456789abcdef0123456789abcdef", "__OW_TRANSACTION_ID": "tid",
            "__OW_DEADLINE": "1700000000000",
        })
    );
    // Nothing of the node's own environment.
    let foreign =
        json!({"names": ["HOME_OF_NODE", "CARGO_TARGET_DIR", "CARGO_MANIFEST_DIR", "WHISP_DATA_DIR", "SSH_AUTH_SOCK"]});
    let finished = running.run(foreign).await;
    assert!(finished.result().as_object().expect("an object").values().all(Value::is_null), "{finished:?}");
    running.destroy().await;
}

async fn keeps_the_logs_of_runs_apart(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Echo).await else { return };
    for _ in 0..3 {
        let finished = running.run(json!({})).await;
        let mut lines = finished.lines();
        lines.sort_unstable();
        assert_eq!(lines, ["stderr: hello stderr", "stdout: hello stdout"]);
        assert!(!finished.logs.unreliable);
    }
    let finished = running.run_with(json!({}), LONG, AnswerLimits::default(), ByteSize(0)).await;
    assert_eq!(finished.logs, CollectedLogs::default());
    assert_eq!(running.run(json!({})).await.lines().len(), 2);
    running.destroy().await;
}

async fn tells_application_errors_and_stays_usable(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::ApplicationError).await else { return };
    for _ in 0..2 {
        let finished = running.run(json!({})).await;
        assert_eq!(finished.response.status, ActivationStatus::ApplicationError, "{finished:?}");
        assert_eq!(finished.result(), error("planned"));
        assert!(finished.keep_container);
    }
    running.destroy().await;
}

async fn refuses_scalars(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Scalar).await else { return };
    let finished = running.run(json!({})).await;
    assert_eq!(finished.response.status, ActivationStatus::DeveloperError, "{finished:?}");
    let text = finished.result()["error"].as_str().expect("a text").to_owned();
    let allowed = ["The action did not return a dictionary or array.", "The action did not return a dictionary."];
    assert!(allowed.contains(&text.as_str()), "{text}");
    assert!(!finished.keep_container);
    let last = finished.lines().last().expect("a warning").to_string();
    assert_eq!(last, "stderr: The action did not initialize or run as expected. Log data might be missing.");
    running.destroy().await;
}

async fn survives_a_result_that_is_too_long(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Repeat).await else { return };
    let limits = AnswerLimits { limit: ByteSize(1000), truncation: ByteSize(20) };
    for n in [2_000, 3_000_000] {
        let finished = running.run_with(json!({ "n": n }), LONG, limits, ByteSize::mib(10)).await;
        assert_eq!(finished.response.status, ActivationStatus::ApplicationError, "{finished:?}");
        let text = finished.result()["error"].as_str().expect("a text").to_owned();
        assert!(text.starts_with("The action produced a response that exceeded the allowed length: "), "{text}");
        assert!(text.contains(" > 1000 bytes. The truncated response was: {\"text\":"), "{text}");
        assert!(finished.keep_container && running.proxy.is_usable());
    }
    let finished = running.run(json!({"n": 3})).await;
    assert_eq!(finished.result(), json!({"text": "xxx"}));
    running.destroy().await;
}

async fn times_out_in_init(subject: &Subject<'_>) {
    let Some(code) = (subject.code)(Program::HangInInit) else { return };
    let mut running = Running::start(subject).await;
    match running.init(&code, Duration::from_secs(1)).await {
        InitVerdict::Failed { response, timed_out: true } => {
            let text = "The action exceeded its time limits of 1000 milliseconds during initialization.";
            assert_eq!(response.result.expect("a result").read::<Value>().expect("JSON"), error(text));
        }
        other => panic!("{other:?}"),
    }
    running.destroy().await;
}

async fn times_out_in_run(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Hang).await else { return };
    let timeout = Duration::from_millis(300);
    let finished = running.run_with(json!({"hang": true}), timeout, AnswerLimits::default(), ByteSize::mib(10)).await;
    assert_eq!(finished.result(), error("The action exceeded its time limits of 300 milliseconds."));
    assert!(finished.timed_out && !finished.keep_container && finished.elapsed >= timeout);
    assert!(finished.lines().last().expect("a warning").contains("did not initialize or run as expected"));
    running.destroy().await;
}

async fn tells_an_exit_in_init(subject: &Subject<'_>) {
    let Some(code) = (subject.code)(Program::ExitInInit) else { return };
    let mut running = Running::start(subject).await;
    match running.init(&code, LONG).await {
        InitVerdict::Failed { response, timed_out: false } => {
            let result: Value = response.result.expect("a result").read().expect("JSON");
            assert_eq!(result, error(subject.exited_in_init));
        }
        other => panic!("{other:?}"),
    }
    running.destroy().await;
}

async fn tells_an_exit_in_run(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Exit).await else { return };
    let finished = running.run(json!({"exit": true})).await;
    assert_eq!(finished.response.status, ActivationStatus::DeveloperError, "{finished:?}");
    assert_eq!(finished.result(), error(subject.exited));
    assert!(!finished.keep_container);
    running.destroy().await;
}

async fn tells_exhausted_memory(subject: &Subject<'_>) {
    if !subject.limits_memory {
        return;
    }
    let Some(mut running) = Running::with(subject, Program::ExhaustMemory).await else { return };
    let finished = running.run(json!({})).await;
    assert_eq!(finished.response.status, ActivationStatus::DeveloperError, "{finished:?}");
    let text = finished.result()["error"].as_str().expect("a text").to_owned();
    // Behind `launch-exec` the kernel may take the action alone, and its proxy lives to tell.
    let allowed = ["The action exhausted its memory and was aborted.", subject.exited];
    assert!(allowed.contains(&text.as_str()), "{text}");
    running.destroy().await;
}

async fn cuts_a_flood_of_logs(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Flood).await else { return };
    let finished = running.run_with(json!({"lines": 30_000}), LONG, AnswerLimits::default(), ByteSize::mib(1)).await;
    assert_eq!(finished.response.status, ActivationStatus::Success, "{finished:?}");
    assert!(finished.logs.unreliable);
    let lines = finished.lines();
    let text = "stderr: Logs were truncated because the total bytes size exceeds the limit of 1048576 bytes.";
    assert_eq!(*lines.last().expect("a warning"), text);
    // 100 bytes and a line end are 171 of the driver's.
    assert_eq!(lines.len() - 1, (1 << 20) / 171);
    let bytes: usize = lines.iter().map(|line| line.len()).sum();
    assert!(bytes < 1 << 20);
    running.destroy().await;

    let Some(mut running) = Running::with(subject, Program::Flood).await else { return };
    let finished = running.run(json!({"lines": 10_000})).await;
    assert_eq!(finished.lines().len(), 10_000);
    assert!(!finished.logs.unreliable);
    running.destroy().await;
}

async fn is_frozen_while_paused(subject: &Subject<'_>) {
    let Some(mut running) = Running::with(subject, Program::Echo).await else { return };
    for n in 0..2 {
        running.container.pause().await.expect("paused");
        running.container.resume().await.expect("resumed");
        let finished = running.run(json!({ "n": n })).await;
        assert_eq!(finished.result(), json!({ "n": n }));
    }
    running.container.pause().await.expect("paused");
    let timeout = Duration::from_millis(200);
    let finished = running.run_with(json!({}), timeout, AnswerLimits::default(), ByteSize::mib(1)).await;
    assert!(finished.timed_out, "{finished:?}");
    // Without thawing it first.
    running.destroy().await;
}

async fn ends_when_dropped(subject: &Subject<'_>) {
    let Some(running) = Running::with(subject, Program::Echo).await else { return };
    let Running { container, mut proxy } = running;
    drop(container);
    // It is killed at once, but dies when the kernel gets to it.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let outcome = proxy.call(Endpoint::Run, br#"{"value":{}}"#, LONG, AnswerLimits::default()).await;
        if matches!(outcome.observed, Observed::NotSent(_) | Observed::Lost(_)) {
            return;
        }
        assert!(Instant::now() < until, "{outcome:?}");
    }
}
