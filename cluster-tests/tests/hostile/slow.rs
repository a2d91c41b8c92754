//! Clients that hold their connections and hardly use them.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_tests::{
    client::{ActionOptions, Api},
    proc, wait,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::{ONE_AT_A_TIME, Stop, answers, calm, node, put_actions};

const CONNECTIONS: usize = 2000;
/// The node gives up on slow bodies after this. Whoever had to wait for their memory would wait longer.
const BODY_TIMEOUT: Duration = Duration::from_secs(8);

/// What a slow client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Says nothing.
    Silent,
    /// Sends the head of its first request byte by byte.
    SlowHead,
    /// Does so with its second, after one that was answered.
    SlowSecondHead,
    /// Declares a small body and sends a byte of it now and then.
    SlowBody,
    /// Declares a large one.
    SlowLargeBody,
    /// Asks for more than buffers take, and reads nothing.
    NoReader,
}

const HABITS: [Habit; 6] =
    [Habit::Silent, Habit::SlowHead, Habit::SlowSecondHead, Habit::SlowBody, Habit::SlowLargeBody, Habit::NoReader];

struct Slow {
    habit: Habit,
    stream: TcpStream,
    /// What it will send, bit by bit.
    rest: Vec<u8>,
    answered: Vec<u8>,
    is_closed: bool,
}

impl Slow {
    fn new(habit: Habit, address: std::net::SocketAddr, key: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("the node listens");
        let known = format!("Host: whisp\r\nAuthorization: Basic {}\r\n", STANDARD.encode(key));
        let endless = format!("GET /ping HTTP/1.1\r\n{known}X: {}", "x".repeat(1000));
        let post = |length: u64| {
            format!(
                "POST /api/v1/namespaces/_/actions/echo HTTP/1.1\r\n{known}Content-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{{"
            )
        };
        let (now, later) = match habit {
            Habit::Silent => (String::new(), String::new()),
            Habit::SlowHead => (String::new(), endless),
            Habit::SlowSecondHead => (format!("GET /ping HTTP/1.1\r\n{known}\r\n"), endless),
            Habit::SlowBody => (post(1000), " ".repeat(900)),
            Habit::SlowLargeBody => (post(1 << 20), " ".repeat(900)),
            Habit::NoReader => {
                let head = "GET /api/v1/namespaces/_/actions/large HTTP/1.1\r\nConnection: close";
                (format!("{head}\r\n{known}\r\n"), String::new())
            }
        };
        stream.write_all(now.as_bytes()).expect("the node reads");
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        Self { habit, stream, rest: later.into_bytes(), answered: Vec::new(), is_closed: false }
    }

    /// Sends a byte, and looks whether it is told anything.
    fn step(&mut self) {
        if self.is_closed || self.habit == Habit::NoReader {
            return;
        }
        if let Some(byte) = self.rest.pop()
            && let Err(error) = self.stream.write_all(&[byte])
        {
            self.is_closed = error.kind() != ErrorKind::WouldBlock;
        }
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_closed = true,
                Ok(read) => {
                    self.answered.extend_from_slice(&buffer[..read]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_closed = true,
            }
            return;
        }
    }
}

#[test]
fn two_thousand_slow_connections_do_not_stop_others() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // A login shell allows 1,024 descriptors.
    let allowed = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed }).expect("the hard limit is allowed");
    // Far from the defaults in one thing only: that nobody has to wait for a minute to see the end.
    let node = node(&format!("http.body_timeout = \"{}s\"\n", BODY_TIMEOUT.as_secs()));
    let api = node.api();
    put_actions(&api);
    let slow_key = node.create_user("slowly");
    let slow_api = Api::new(node.address(), &slow_key);
    put_actions(&slow_api);
    let large = "x".repeat(8 << 20);
    for api in [&api, &slow_api] {
        api.put_action("large", "nodejs:20", &large, ActionOptions::default());
    }
    let code = "x".repeat(1 << 18);
    let normal = |n: u64| {
        let began = Instant::now();
        assert_eq!(
            api.post("/actions/echo?blocking=true&result=true", &json!({ "n": n })).expect(200),
            json!({ "n": n })
        );
        let invoked = began.elapsed();
        // More than what needs no memory to be free.
        api.put_action("stored", "nodejs:20", &code, ActionOptions::default());
        assert_eq!(api.get("/actions/large").expect(200)["exec"]["code"].as_str().map(str::len), Some(large.len()));
        (invoked, began.elapsed())
    };
    normal(0);
    let descriptors = proc::descriptors(node.pid()).len();
    let idle = proc::resident(node.pid());

    let mut slow: Vec<Slow> =
        (0..CONNECTIONS).map(|index| Slow::new(HABITS[index % HABITS.len()], node.address(), &slow_key)).collect();
    wait::until(Duration::from_secs(10), "the node to have most of the connections", || {
        proc::descriptors(node.pid()).len() >= descriptors + CONNECTIONS / 2
    });
    let stop = Stop::default();
    thread::scope(|scope| {
        let stop_now = stop.at_the_end();
        let trickle = scope.spawn(|| {
            let is_over = |slow: &Slow| slow.is_closed || slow.habit == Habit::NoReader;
            while !stop.is_set() && !slow.iter().all(is_over) {
                slow.iter_mut().for_each(Slow::step);
                thread::sleep(Duration::from_millis(200));
            }
        });
        let began = Instant::now();
        let (mut invoked, mut all, mut peak, mut rounds) = (Duration::ZERO, Duration::ZERO, 0, 0);
        // As long as most of them hold on.
        while began.elapsed() < Duration::from_secs(5) {
            rounds += 1;
            let (one, three) = normal(rounds);
            (invoked, all) = (invoked.max(one), all.max(three));
            peak = peak.max(proc::resident(node.pid()));
        }
        eprintln!(
            "{rounds} rounds, the longest {all:?}, invocation {invoked:?}; {} MiB, {} before",
            peak >> 20,
            idle >> 20
        );
        assert!(
            invoked < BODY_TIMEOUT / 4 && all < BODY_TIMEOUT,
            "invocation: {invoked:?}, with a write and a read: {all:?}"
        );
        assert!(peak < idle + (400 << 20), "{} MiB, {} before", peak >> 20, idle >> 20);
        // And then the node leaves them, whatever they go on doing.
        let end = Instant::now() + Duration::from_secs(60);
        while !trickle.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(100));
        }
        drop(stop_now);
        trickle.join().expect("the slow clients");
        wait::eventually(Duration::from_secs(30), "slow connections to be closed", || {
            let open = proc::descriptors(node.pid()).len().saturating_sub(descriptors);
            // Files of the database, connections of those who ask as they should.
            if open < 20 { Ok(()) } else { Err(format!("{open} are open")) }
        });
    });
    // Most of them were told why.
    let timed_out = "The server timed out waiting for the request.";
    let body_too_slow = "The body of the request took too long to arrive.";
    for habit in HABITS.into_iter().filter(|habit| *habit != Habit::NoReader) {
        let of_habit: Vec<&Slow> = slow.iter().filter(|slow| slow.habit == habit).collect();
        let told = of_habit.iter().filter(|slow| {
            let answers = answers::parse(&slow.answered).expect("whole answers");
            answers.iter().for_each(|answer| answer.check().expect("the form of answers"));
            answers.last().is_some_and(|last| {
                let is_refusal = match habit {
                    Habit::SlowBody => last.status == 503 && last.body.contains(body_too_slow),
                    // Or it waited for memory behind the others of its namespace.
                    Habit::SlowLargeBody => last.status == 503,
                    _ => last.status == 408 && last.body.contains(timed_out),
                };
                is_refusal && last.is_last()
            })
        });
        let told = told.count();
        eprintln!("{habit:?}: {told} of {} were told", of_habit.len());
        assert_eq!(
            told,
            of_habit.len(),
            "{habit:?}: {:?}",
            of_habit.first().map(|slow| slow.answered.escape_ascii().to_string())
        );
    }
    normal(1);
    calm(&node);
}
