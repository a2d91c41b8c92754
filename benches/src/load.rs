//! Load: clients that call as fast as they are answered (closed loop) or at a fixed rate (open loop).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::{io::unix::AsyncFd, sync::Notify, task::JoinSet, time::timeout};

use crate::http::{Address, Client};

/// A call that takes longer failed.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A system that fails so often is not measured.
const MAX_FAILURES: u64 = 1_000;

/// Writes what a client (by number) sends as its nth request.
pub type Requests = dyn Fn(u32, u64, &mut Vec<u8>);

/// What clients call.
#[derive(Clone)]
pub struct Target {
    pub address: Address,
    pub request: Rc<Requests>,
    /// The status of a good answer.
    pub expect: u16,
}

impl Target {
    /// Every call is `request`.
    #[must_use]
    pub fn fixed(address: Address, request: Vec<u8>, expect: u16) -> Target {
        Target { address, request: Rc::new(move |_, _, out| out.extend_from_slice(&request)), expect }
    }
}

/// What one loop saw.
pub struct Sample {
    /// Nanoseconds of good calls.
    pub latency: Histogram<u64>,
    pub elapsed: Duration,
    /// All calls that were answered, those before and after the measured time included.
    pub answered: u64,
    pub failures: u64,
    pub first_failure: Option<String>,
}

impl Sample {
    fn new() -> Sample {
        Sample { latency: histogram(), elapsed: Duration::ZERO, answered: 0, failures: 0, first_failure: None }
    }

    /// Good calls per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn fail(&mut self, why: String) -> anyhow::Result<()> {
        self.failures += 1;
        self.first_failure.get_or_insert(why);
        if self.failures < MAX_FAILURES {
            return Ok(());
        }
        bail!("{MAX_FAILURES} calls failed, the first: {}", self.first_failure.as_deref().unwrap_or_default())
    }
}

/// Nanoseconds up to a minute, three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are in range")
}

/// `clients` call one after another for `warm_up` without being measured, then for `duration`.
///
/// # Errors
/// If no connection can be made, or 1,000 calls failed.
pub async fn closed_loop(
    target: &Target,
    clients: u32,
    warm_up: Duration,
    duration: Duration,
) -> anyhow::Result<Sample> {
    let measured_from = Instant::now() + warm_up;
    let until = measured_from + duration;
    let sample = Rc::new(RefCell::new(Sample::new()));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (target, sample) = (target.clone(), sample.clone());
        tasks.spawn_local(async move {
            let mut caller = Caller::open(&target).await?;
            for turn in 0.. {
                let start = Instant::now();
                if start >= until {
                    break;
                }
                let outcome = caller.call(client, turn).await;
                let end = Instant::now();
                let mut sample = sample.borrow_mut();
                sample.answered += 1;
                match outcome {
                    // A call that the end cut in two would make the loop look longer than it is.
                    Ok(()) if start >= measured_from && end <= until => {
                        sample.latency.saturating_record((end - start).as_nanos() as u64);
                    }
                    Ok(()) => {}
                    Err(why) => sample.fail(why)?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client ended early")??;
    }
    let mut sample = sample.replace(Sample::new());
    sample.elapsed = duration;
    Ok(sample)
}

/// One client calls for `duration`, and then until its last call is answered: that one counts too, so there is at least
/// one however long it takes.
///
/// # Errors
/// If no connection can be made, no call is answered well, or 1,000 calls failed.
pub async fn one_client(target: &Target, duration: Duration) -> anyhow::Result<Sample> {
    let mut caller = Caller::open(target).await?;
    let mut sample = Sample::new();
    let started = Instant::now();
    for turn in 0.. {
        let start = Instant::now();
        let outcome = caller.call(0, turn).await;
        sample.answered += 1;
        match outcome {
            Ok(()) => sample.latency.saturating_record(start.elapsed().as_nanos() as u64),
            Err(why) => sample.fail(why)?,
        }
        sample.elapsed = started.elapsed();
        if sample.elapsed >= duration {
            break;
        }
    }
    if sample.latency.is_empty() {
        bail!("no call was answered well, the first: {}", sample.first_failure.unwrap_or_default());
    }
    Ok(sample)
}

/// Calls `rate` times per second on `connections`, whether or not earlier calls were answered.
///
/// Latency counts from the moment a call was due, so waiting for a free connection counts as well.
///
/// # Errors
/// If no connection can be made, or 1,000 calls failed.
pub async fn open_loop(
    target: &Target,
    rate: u32,
    connections: u32,
    warm_up: Duration,
    duration: Duration,
) -> anyhow::Result<Sample> {
    let started = Instant::now();
    let (measured_from, until) = (started + warm_up, started + warm_up + duration);
    let due = Rc::new(Due::default());
    let sample = Rc::new(RefCell::new(Sample::new()));
    let mut tasks = JoinSet::new();
    for client in 0..connections {
        let (target, sample, due) = (target.clone(), sample.clone(), due.clone());
        tasks.spawn_local(async move {
            let mut caller = Caller::open(&target).await?;
            for turn in 0.. {
                let Some(start) = due.next().await else { break };
                let outcome = caller.call(client, turn).await;
                let took = start.elapsed();
                let mut sample = sample.borrow_mut();
                sample.answered += 1;
                match outcome {
                    Ok(()) if start >= measured_from => sample.latency.saturating_record(took.as_nanos() as u64),
                    Ok(()) => {}
                    Err(why) => sample.fail(why)?,
                }
            }
            anyhow::Ok(())
        });
    }
    let offered = offer(&due, rate, started, until).await;
    due.close();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client ended early")??;
    }
    offered?;
    let mut sample = sample.replace(Sample::new());
    // Answers after the last call was due count as time: a backlog must not look like throughput.
    sample.elapsed = measured_from.elapsed().max(duration);
    Ok(sample)
}

/// Makes calls due at their times. A timer of the kernel, because tokio's are rounded to milliseconds.
async fn offer(due: &Due, rate: u32, started: Instant, until: Instant) -> anyhow::Result<()> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).context("no timer")?;
    let period = Timespec { tv_sec: 0, tv_nsec: i64::from(1_000_000_000 / rate.max(2)) };
    let every = Itimerspec { it_interval: period, it_value: period };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every).context("the timer does not start")?;
    // SAFETY: an owned descriptor stays open and the same for as long as `timer` lives.
    let timer = unsafe { AsyncFd::register(timer) }?;
    for offered in 0.. {
        let at = started + Duration::from_secs(1) * offered / rate;
        if at >= until {
            break;
        }
        while Instant::now() < at {
            let mut ready = timer.readable().await?;
            let _ = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0u8; 8])?));
        }
        due.push(at);
    }
    Ok(())
}

/// Calls that are due and not begun, oldest first.
#[derive(Default)]
struct Due {
    waiting: RefCell<VecDeque<Instant>>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Due {
    fn push(&self, at: Instant) {
        self.waiting.borrow_mut().push_back(at);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.closed.set(true);
        self.changed.notify_waiters();
    }

    /// `None`: closed, and every call was begun.
    async fn next(&self) -> Option<Instant> {
        loop {
            // Registered before looking, so that a close in between is not missed; one thread, so that a push is not.
            let changed = self.changed.notified();
            if let Some(at) = self.waiting.borrow_mut().pop_front() {
                return Some(at);
            }
            if self.closed.get() {
                return None;
            }
            changed.await;
        }
    }
}

/// A client with its connection, which it opens again after a failure.
struct Caller {
    target: Target,
    client: Option<Client>,
    request: Vec<u8>,
}

impl Caller {
    async fn open(target: &Target) -> anyhow::Result<Caller> {
        let client = Client::open(&target.address).await.with_context(|| format!("nobody at {:?}", target.address))?;
        Ok(Caller { target: target.clone(), client: Some(client), request: Vec::new() })
    }

    async fn call(&mut self, client: u32, turn: u64) -> Result<(), String> {
        self.request.clear();
        (self.target.request)(client, turn, &mut self.request);
        let mut connection = match self.client.take() {
            Some(connection) => connection,
            None => {
                // Failures must not become a loop that takes the machine away from what is measured.
                tokio::time::sleep(Duration::from_millis(10)).await;
                Client::open(&self.target.address).await.map_err(|error| error.to_string())?
            }
        };
        let answer = timeout(CALL_LIMIT, connection.call(&self.request)).await;
        let answer = answer.map_err(|_| format!("no answer within {CALL_LIMIT:?}"))?.map_err(|e| e.to_string())?;
        if answer.status != self.target.expect {
            let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
            let status = answer.status;
            self.client = Some(connection);
            return Err(format!("{status} {text}"));
        }
        self.client = Some(connection);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        task::LocalSet,
    };

    use super::*;

    /// Answers every read with `status` after `delay`.
    fn serve(path: &std::path::Path, status: u16, delay: Duration) -> std::io::Result<()> {
        let listener = UnixListener::bind(path)?;
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut inbox = [0; 1024];
                    while stream.read(&mut inbox).await.is_ok_and(|read| read > 0) {
                        tokio::time::sleep(delay).await;
                        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Ok(())
    }

    fn with_server<F: Future<Output = anyhow::Result<()>>>(
        status: u16,
        delay: Duration,
        body: impl FnOnce(Target) -> F,
    ) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            serve(&path, status, delay)?;
            body(Target::fixed(Address::Unix(path.clone()), crate::http::request("POST", "/", None, b"{}"), 200)).await
        })
    }

    #[test]
    fn an_open_loop_charges_the_wait_for_a_connection() -> anyhow::Result<()> {
        // One connection that answers after 10 ms can carry 100 of 200 calls per second: half of a second's worth waits.
        with_server(200, Duration::from_millis(10), |target| async move {
            let sample = open_loop(&target, 200, 1, Duration::ZERO, Duration::from_millis(500)).await?;
            assert_eq!(sample.latency.len(), 100);
            assert!(sample.latency.max() > 300_000_000, "{}", sample.latency.max());
            assert!(sample.rate() < 120.0, "{}", sample.rate());
            Ok(())
        })
    }

    #[test]
    fn a_closed_loop_counts_only_good_answers() -> anyhow::Result<()> {
        with_server(200, Duration::ZERO, |target| async move {
            let sample = closed_loop(&target, 2, Duration::ZERO, Duration::from_millis(100)).await?;
            assert!(sample.latency.len() > 50 && sample.failures == 0);
            Ok(())
        })?;
        with_server(200, Duration::from_millis(50), |target| async move {
            let sample = one_client(&target, Duration::from_millis(10)).await?;
            assert!(sample.latency.len() == 1 && sample.elapsed >= Duration::from_millis(50));
            Ok(())
        })?;
        with_server(503, Duration::from_millis(20), |target| async move {
            let sample = closed_loop(&target, 2, Duration::ZERO, Duration::from_millis(100)).await?;
            assert_eq!(sample.latency.len(), 0);
            assert!(sample.failures > 0);
            assert_eq!(sample.first_failure.as_deref(), Some("503 {}"));
            Ok(())
        })
    }
}
