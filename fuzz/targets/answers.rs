//! What a launcher, or a user's program in its place, answers: every byte sequence is an answer, a refusal or a loss,
//! and what becomes of it is a record that can be stored and shown.

#![no_main]

use std::{cell::OnceCell, os::unix::net::UnixStream, time::Duration};

use libfuzzer_sys::fuzz_target;
use node::{
    containers::backend::{Connection, Loss},
    runtime::{
        AnswerBody, AnswerLimits, Endpoint, InitVerdict, Observed, ProxyConnection, RunVerdict, classify_init,
        classify_run,
    },
};
use protocol::{ActivationStatus, ByteSize, activation::Response, command::LONGEST_RESULT};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Small, so that short inputs exceed them.
const LIMITS: AnswerLimits = AnswerLimits { limit: ByteSize(512), truncation: ByteSize(64) };
/// No answer comes later than that: all bytes are there, and the connection is closed behind them.
const TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    static RUNTIME: OnceCell<tokio::runtime::Runtime> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    // More would not fit into the socket before it is read.
    let Some((choice, bytes)) = input.split_first().filter(|(_, bytes)| bytes.len() <= 64 << 10) else { return };
    RUNTIME.with(|runtime| {
        let runtime = runtime
            .get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
        runtime.block_on(answer(bytes, choice & 1 == 1));
    });
});

async fn answer(bytes: &[u8], ask_again: bool) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut proxy = ProxyConnection::new(Connection::Unix(ours)).expect("a connection");
    theirs.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut theirs = tokio::net::UnixStream::from_std(theirs).expect("a socket of this runtime");
    let launcher = async {
        // Who speaks before he is asked is not asked.
        let asked = theirs.read_u8().await;
        if asked.is_ok() {
            // The reader may have seen enough.
            let _ = theirs.write_all(bytes).await;
        }
        let _ = theirs.shutdown().await;
        theirs
    };
    let endpoint = if ask_again { Endpoint::Run } else { Endpoint::Init };
    let call = proxy.call(endpoint, b"{\"value\":{}}", TIMEOUT, LIMITS);
    let (outcome, theirs) = tokio::join!(call, launcher);
    drop(theirs);
    assert!(!matches!(outcome.observed, Observed::TimedOut | Observed::NotSent(_)), "{outcome:?}");
    if let Observed::Answer(answer) = &outcome.observed {
        match &answer.body {
            AnswerBody::Whole(body) => assert!(body.len() as u64 <= LIMITS.limit.bytes()),
            AnswerBody::TooLong { length, prefix, .. } => {
                assert!(*length > LIMITS.limit.bytes() && prefix.len() as u64 <= LIMITS.truncation.bytes());
            }
        }
    }
    for loss in [Loss::OutOfMemory, Loss::CommandExited, Loss::NodeStopped, Loss::Unexplained] {
        if let InitVerdict::Failed { response, .. } = classify_init(&outcome, TIMEOUT, loss) {
            check(&response);
            assert_ne!(response.status, ActivationStatus::Success);
        }
        if let RunVerdict::Finished { response, keep_container, .. } = classify_run(&outcome, TIMEOUT, loss) {
            check(&response);
            assert!(keep_container || response.status != ActivationStatus::Success);
        }
    }
    if ask_again && proxy.is_usable() {
        // Closed by now, which is known before anything is sent.
        let again = proxy.call(Endpoint::Run, b"{}", TIMEOUT, LIMITS).await;
        assert!(!matches!(again.observed, Observed::Answer(_) | Observed::TimedOut), "{again:?}");
    }
}

/// A result is JSON, an object or an array, and fits into a record.
fn check(response: &Response) {
    let Some(result) = &response.result else { return };
    assert!(result.as_str().len() <= LONGEST_RESULT.max(2 * LIMITS.limit.bytes() as usize), "{response:?}");
    let value: &RawValue = serde_json::from_str(result.as_str()).expect("a result is JSON");
    assert!(value.get().starts_with(['{', '[']), "{response:?}");
}
