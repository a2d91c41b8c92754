//! Images that break the contract, as users' own images do: what becomes of an activation on them.

use std::time::Duration;

use node::{
    containers::backend::{LogRequest, Loss, has_ended},
    runtime::{Endpoint, InitVerdict},
};
use protocol::{ActivationStatus, ByteSize};
use serde_json::{Value, json};

use super::{Fixture, error, lines};
use crate::{
    images::{Engine, Image},
    suite::{ABNORMAL_INIT, ABNORMAL_RUN, Finished, Running},
};

const LONG: Duration = Duration::from_secs(60);
const WARNING: &str = "stderr: The action did not initialize or run as expected. Log data might be missing.";

/// A container of an image that is a user's own and does `behave`, without code as such images are.
async fn start(fixture: &Fixture, image: &Image) -> Running {
    Running::connect(fixture.create("blackbox", Some(&image.name)).await.expect("a container")).await
}

async fn init(running: &mut Running) -> InitVerdict {
    running.init_value(json!({"name": "test", "main": "main", "binary": false, "env": {}}), LONG).await
}

/// Initializes and runs it once.
async fn run(fixture: &Fixture, image: &Image) -> (Running, Finished) {
    let mut running = start(fixture, image).await;
    assert_eq!(init(&mut running).await, InitVerdict::Initialized);
    let finished = running.run(json!({"a": 1})).await;
    (running, finished)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_keeps_the_contract_needs_no_sentinels() {
    let Some(engine) = Engine::find("an_image_that_keeps_the_contract_needs_no_sentinels") else { return };
    let good = Image::nodejs(engine);
    let image = good.behaving(engine, "writes_no_sentinel");
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    let (mut running, finished) = run(&fixture, &image).await;
    assert_eq!(finished.result(), json!({"a": 1}));
    // The engine may be late with a line, which goes to the next activation then; none is lost, invented or doubled.
    let (mut finished, mut runs, mut outs, mut errs) = (finished, 1, 0, 0);
    loop {
        assert!(!finished.logs.unreliable);
        assert!(finished.logs.lines.iter().all(|line| line.as_bytes()[29] == b'Z'), "{finished:?}");
        for line in finished.lines() {
            match line {
                "stdout: stdout of the image" => outs += 1,
                "stderr: stderr of the image" => errs += 1,
                other => panic!("{other}"),
            }
        }
        assert!(outs <= runs && errs <= runs, "{outs} and {errs} lines of {runs} activations");
        if runs >= 3 && outs == runs && errs == runs {
            break;
        }
        assert!(runs < 30, "{outs} and {errs} lines of {runs} activations");
        finished = running.run(json!({})).await;
        runs += 1;
    }
    running.destroy().await;

    // Of a runtime image they are expected: without them nobody knows whose the next lines are.
    let mut running = Running::connect(fixture.create("nodejs:20", None).await.expect("a container")).await;
    assert_eq!(init(&mut running).await, InitVerdict::Initialized);
    let finished = running.run(json!({})).await;
    assert_eq!(finished.response.status, ActivationStatus::Success);
    assert!(finished.logs.unreliable);
    let last = *finished.lines().last().expect("lines");
    assert_eq!(last, "stderr: There was an issue while collecting your logs. Data might be missing.");
    running.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_listens_is_waited_for() {
    let Some(engine) = Engine::find("one_that_never_listens_is_waited_for") else { return };
    let good = Image::nodejs(engine);
    let image = good.behaving(engine, "never_listens");
    let fixture = Fixture::start(engine, &[]).await;
    let mut container = fixture.create("blackbox", Some(&image.name)).await.expect("a container");
    for _ in 0..3 {
        let error = container.connect().await.expect_err("nobody listens");
        assert!(!has_ended(&error), "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    container.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_at_once_is_not_waited_for() {
    let Some(engine) = Engine::find("one_that_ends_at_once_is_not_waited_for") else { return };
    let good = Image::nodejs(engine);
    let image = good.behaving(engine, "exits_at_once");
    let fixture = Fixture::start(engine, &[]).await;
    let mut container = fixture.create("blackbox", Some(&image.name)).await.expect("a container");
    let end = async {
        loop {
            let error = container.connect().await.expect_err("nobody listens");
            if has_ended(&error) {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), end).await.expect("the container ends");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionAborted, "by its own doing");
    assert_eq!(container.why_lost(Endpoint::Init).await, Loss::Unexplained);
    let request = LogRequest { limit: ByteSize::mib(10), wait_for_sentinels: false, developer_error: true };
    assert_eq!(lines(&container.collect_logs(request).await.lines), [WARNING]);
    container.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_ends_of_init_and_run() {
    let Some(engine) = Engine::find("broken_ends_of_init_and_run") else { return };
    let good = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[]).await;
    for behave in ["answers_garbage", "exits_in_init"] {
        let image = good.behaving(engine, behave);
        let mut running = start(&fixture, &image).await;
        match init(&mut running).await {
            InitVerdict::Failed { response, timed_out: false } => {
                assert_eq!(response.status, ActivationStatus::DeveloperError, "{behave}");
                assert_eq!(response.result.expect("a result").read::<Value>().expect("JSON"), error(ABNORMAL_INIT));
            }
            other => panic!("{behave}: {other:?}"),
        }
        assert_eq!(running.failed_logs().await, [WARNING], "{behave}");
        running.destroy().await;
    }
    // What it wrote before its end is all there.
    let image = good.behaving(engine, "exits_after_last_words");
    let (running, finished) = run(&fixture, &image).await;
    assert_eq!(finished.result(), error(ABNORMAL_RUN));
    assert_eq!((finished.lines().len(), finished.lines().last()), (501, Some(&WARNING)));
    running.destroy().await;
    let memory = "The action exhausted its memory and was aborted.";
    for (behave, text) in [("exits_in_run", ABNORMAL_RUN), ("answers_204", ABNORMAL_RUN), ("eats_memory", memory)] {
        let image = good.behaving(engine, behave);
        let (running, finished) = run(&fixture, &image).await;
        assert_eq!(finished.response.status, ActivationStatus::DeveloperError, "{behave}: {finished:?}");
        assert_eq!(finished.result(), error(text), "{behave}");
        assert!(!finished.keep_container, "{behave}");
        assert_eq!(finished.lines().last(), Some(&WARNING), "{behave}");
        running.destroy().await;
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_ends_of_a_run() {
    let Some(engine) = Engine::find("unusual_ends_of_a_run") else { return };
    let good = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[]).await;
    let image = good.behaving(engine, "answers_in_chunks");
    let (mut running, finished) = run(&fixture, &image).await;
    assert_eq!(finished.result(), json!({"a": 1}));
    assert_eq!(running.run(json!({"b": 2})).await.result(), json!({"b": 2}));
    running.destroy().await;

    let image = good.behaving(engine, "answers_at_the_limit");
    let (running, finished) = run(&fixture, &image).await;
    assert_eq!((finished.response.status, finished.response.size), (ActivationStatus::Success, Some(1 << 20)));
    running.destroy().await;

    let image = good.behaving(engine, "answers_too_much");
    let (mut running, finished) = run(&fixture, &image).await;
    assert_eq!(finished.response.status, ActivationStatus::ApplicationError);
    let text = finished.result()["error"].as_str().expect("a text").to_owned();
    let begin = "The action produced a response that exceeded the allowed length: 1048577 > 1048576 bytes. \
                 The truncated response was: {\"text\":\"xxx";
    assert!(text.starts_with(begin) && finished.keep_container, "{text:.200}");
    assert_eq!(running.run(json!({})).await.response.status, ActivationStatus::ApplicationError, "it is used again");
    running.destroy().await;

    let image = good.behaving(engine, "floods_logs");
    let (running, finished) = run(&fixture, &image).await;
    assert_eq!(finished.response.status, ActivationStatus::Success);
    // Without a line that ends them, those are its logs which the engine has read by then.
    assert!((1..=30_000).contains(&finished.lines().len()) && !finished.logs.unreliable);
    assert!(finished.lines().iter().all(|line| line.starts_with("stdout: flood ")));
    running.destroy().await;
    fixture.stop().await;
}
