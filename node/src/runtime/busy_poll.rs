//! Looking for an answer for a moment before sleeping for it.
//!
//! An idle processor takes tens of microseconds to wake up (in a virtual machine, that is), as long as a short function
//! takes in all. A call that is the only one of this process therefore keeps its processor awake, if the container's last
//! answer came soon. As soon as there is another call, that is a better use of the processor.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use super::socket::Registered;

/// How long to look, and how soon the last answer must have come for it to be worth while.
const PATIENCE: Duration = Duration::from_micros(200);

/// Calls of containers by this process.
static OF_THIS_PROCESS: Calls = Calls(AtomicUsize::new(0));

/// The container needs a processor of its own meanwhile.
static PROCESSORS_SUFFICE: LazyLock<bool> = LazyLock::new(|| available_parallelism().is_ok_and(|all| all.get() > 1));

/// How many are under way.
#[derive(Debug)]
struct Calls(AtomicUsize);

/// A call of a container that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(&'static Calls);

impl UnderWay {
    pub fn begin() -> Self {
        Self::among(&OF_THIS_PROCESS)
    }

    fn among(calls: &'static Calls) -> Self {
        calls.0.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }

    /// Looks for something to read, for as long as that is worth while. `last`: how long the last answer took.
    pub async fn look(&self, from: &Registered, last: Option<Duration>) {
        if last.is_some_and(|last| last <= PATIENCE) && *PROCESSORS_SUFFICE {
            self.look_for(from, PATIENCE).await;
        }
    }

    /// Until there is something to read, there is another call, or `patience` is over. Other tasks run in between.
    async fn look_for(&self, from: &Registered, patience: Duration) {
        let began = Instant::now();
        while self.0.0.load(Ordering::Relaxed) == 1 && began.elapsed() < patience {
            if futures_util::poll!(std::pin::pin!(from.readable())).is_ready() {
                return;
            }
            // The container may have been put behind this thread, in the queue of the same processor.
            rustix::thread::sched_yield();
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;
    use crate::{containers::backend::Connection, runtime::socket::Socket};

    const FOR_EVER: Duration = Duration::from_secs(3600);

    fn socket() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Socket::new(Connection::Unix(ours)).expect("a socket"), theirs)
    }

    fn calls() -> &'static Calls {
        Box::leak(Box::new(Calls(AtomicUsize::new(0))))
    }

    async fn ends(looking: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_secs(10), looking).await.is_ok()
    }

    #[tokio::test]
    async fn a_look_ends_with_an_answer_that_a_task_beside_it_brings() {
        let (mut socket, mut theirs) = socket();
        let call = UnderWay::among(calls());
        tokio::spawn(async move {
            theirs.write_all(b"hello").expect("written");
            theirs // open until here
        });
        assert!(ends(call.look_for(socket.reader().expect("registered"), FOR_EVER)).await);
    }

    #[tokio::test]
    async fn a_look_ends_with_another_call() {
        let (mut socket, _theirs) = socket();
        let calls = calls();
        let call = UnderWay::among(calls);
        let reader = socket.reader().expect("registered");
        let another = tokio::spawn(async { UnderWay::among(calls) });
        assert!(ends(call.look_for(reader, FOR_EVER)).await);
        drop(another.await.expect("the other call"));
        let alone = tokio::time::timeout(Duration::from_millis(20), call.look_for(reader, FOR_EVER)).await;
        assert!(alone.is_err(), "alone again, it looks on");
    }

    #[tokio::test]
    async fn a_look_ends_when_patience_is_over() {
        let (mut socket, _theirs) = socket();
        let call = UnderWay::among(calls());
        assert!(ends(call.look_for(socket.reader().expect("registered"), Duration::from_millis(5))).await);
    }
}
