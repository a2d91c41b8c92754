//! A hand-driven peer on the other end of a socket pair.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread::JoinHandle,
};

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn small() -> AnswerLimits {
    AnswerLimits { limit: ByteSize(10), truncation: ByteSize(4) }
}

fn pair() -> (ProxyConnection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(LONG)).unwrap();
    theirs.set_write_timeout(Some(LONG)).unwrap();
    (ProxyConnection::new(Connection::Unix(ours)).unwrap(), theirs)
}

/// Reads one request and returns its head and body.
fn read_request(from: &mut UnixStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    from.read_exact(&mut body).unwrap();
    (head, body)
}

/// Answers each request with the next of `answers`, then returns its end.
fn peer(mut theirs: UnixStream, answers: Vec<Vec<u8>>) -> JoinHandle<UnixStream> {
    std::thread::spawn(move || {
        for answer in answers {
            read_request(&mut theirs);
            theirs.write_all(&answer).unwrap();
        }
        theirs
    })
}

fn sized(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn whole(outcome: CallOutcome) -> (u16, String) {
    match outcome.observed {
        Observed::Answer(Answer { status, body: AnswerBody::Whole(body) }) => {
            (status, String::from_utf8(body).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

fn cut(outcome: CallOutcome) -> (u64, String) {
    match outcome.observed {
        Observed::Answer(Answer { body: AnswerBody::TooLong { length, prefix, .. }, .. }) => {
            (length, String::from_utf8(prefix).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_what_the_contract_says() {
    let (mut proxy, mut theirs) = pair();
    let peer = std::thread::spawn(move || {
        let request = read_request(&mut theirs);
        theirs.write_all(&sized(200, "{\"ok\":true}")).unwrap();
        (request, theirs)
    });
    let outcome = proxy.call(Endpoint::Init, b"{\"value\":{}}", LONG, AnswerLimits::default()).await;
    assert_eq!(whole(outcome), (200, "{\"ok\":true}".into()));
    assert!(proxy.is_usable());
    let ((head, body), _theirs) = peer.join().unwrap();
    assert_eq!(
        head,
        "POST /init HTTP/1.1\r\nHost: action\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         Content-Length: 12\r\n\r\n"
    );
    assert_eq!(body, b"{\"value\":{}}");
}

#[tokio::test]
async fn many_calls_on_one_connection_from_several_runtimes() {
    let (mut proxy, theirs) = pair();
    let answers = (0..40).map(|n| sized(200, &format!("{{\"n\":{n}}}"))).collect();
    let peer = peer(theirs, answers);
    for n in 0..20 {
        let outcome = proxy.call(Endpoint::Run, b"{}", LONG, AnswerLimits::default()).await;
        assert_eq!(whole(outcome).1, format!("{{\"n\":{n}}}"));
    }
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            for n in 20..40 {
                let outcome = proxy.call(Endpoint::Run, b"{}", LONG, AnswerLimits::default()).await;
                assert_eq!(whole(outcome).1, format!("{{\"n\":{n}}}"));
            }
        });
    });
    other.join().unwrap();
    peer.join().unwrap();
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_whole_and_longer_ones_are_cut_and_skipped() {
    let (mut proxy, theirs) = pair();
    let long = "x".repeat(300_000);
    let peer =
        peer(theirs, vec![sized(200, "0123456789"), sized(502, "0123456789a"), sized(200, &long), sized(200, "{}")]);
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(whole(outcome), (200, "0123456789".into()));
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(cut(outcome), (11, "0123".into()));
    assert!(proxy.is_usable());
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(cut(outcome), (300_000, "xxxx".into()));
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(whole(outcome), (200, "{}".into()));
    peer.join().unwrap();
}

#[tokio::test]
async fn a_preview_may_be_longer_than_the_limit_but_not_than_the_body() {
    let (mut proxy, theirs) = pair();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n".to_vec();
    let peer = peer(theirs, vec![sized(200, "abcde"), chunked]);
    let limits = AnswerLimits { limit: ByteSize(2), truncation: ByteSize(100) };
    for _ in 0..2 {
        assert_eq!(cut(proxy.call(Endpoint::Run, b"{}", LONG, limits).await), (5, "abcde".into()));
        assert!(proxy.is_usable());
    }
    peer.join().unwrap();
}

#[tokio::test]
async fn chunked_bodies_are_accepted_and_counted_to_their_end() {
    let (mut proxy, theirs) = pair();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let short = [head, b"3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n"].concat();
    let mut long = head.to_vec();
    for _ in 0..100 {
        long.extend_from_slice(format!("3e8\r\n{}\r\n", "y".repeat(1000)).as_bytes());
    }
    long.extend_from_slice(b"0\r\n\r\n");
    let peer = peer(theirs, vec![short, long]);
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(whole(outcome), (200, "{\"a\":1}".into()));
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert_eq!(cut(outcome), (100_000, "yyyy".into()));
    assert!(proxy.is_usable());
    peer.join().unwrap();
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let (mut proxy, theirs) = pair();
    let peer = peer(theirs, vec![[b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), sized(200, "{}")].concat()]);
    assert_eq!(whole(proxy.call(Endpoint::Run, b"{}", LONG, small()).await), (200, "{}".into()));
    peer.join().unwrap();
}

#[tokio::test]
async fn answers_without_a_length_are_no_answers() {
    for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "nonsense\r\n\r\n"] {
        let (mut proxy, theirs) = pair();
        let peer = peer(theirs, vec![answer.as_bytes().to_vec()]);
        let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
        assert!(matches!(outcome.observed, Observed::Lost(_)), "{answer}: {outcome:?}");
        assert!(!proxy.is_usable());
        peer.join().unwrap();
    }
}

#[tokio::test]
async fn a_closed_connection_is_noticed_before_anything_is_sent() {
    let (mut proxy, theirs) = pair();
    drop(theirs);
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert!(matches!(outcome.observed, Observed::NotSent(_)), "{outcome:?}");
    assert!(!proxy.is_usable());
    let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
    assert!(matches!(outcome.observed, Observed::NotSent(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_is_lost() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}"] {
        let (mut proxy, theirs) = pair();
        let peer = peer(theirs, vec![answer.as_bytes().to_vec()]);
        let closing = std::thread::spawn(move || drop(peer.join().unwrap()));
        let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
        assert!(matches!(outcome.observed, Observed::Lost(_)), "{answer}: {outcome:?}");
        closing.join().unwrap();
    }
}

#[tokio::test]
async fn silence_and_slowness_time_out() {
    let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}".to_vec();
    for answer in [Vec::new(), partial] {
        let (mut proxy, theirs) = pair();
        let peer = peer(theirs, vec![answer]);
        let timeout = Duration::from_millis(50);
        let outcome = proxy.call(Endpoint::Run, b"{}", timeout, small()).await;
        assert!(matches!(outcome.observed, Observed::TimedOut), "{outcome:?}");
        assert!(outcome.elapsed >= timeout);
        assert!(!proxy.is_usable());
        peer.join().unwrap();
    }
}

#[tokio::test]
async fn unasked_bytes_never_become_the_next_answer() {
    // Behind the answer, in the same bytes or later.
    for pause in [false, true] {
        let (mut proxy, mut theirs) = pair();
        let forger = std::thread::spawn(move || {
            read_request(&mut theirs);
            theirs.write_all(&sized(200, "{}")).unwrap();
            if pause {
                return (theirs, true);
            }
            theirs.write_all(&sized(200, "{\"forged\":1}")).unwrap();
            (theirs, false)
        });
        whole(proxy.call(Endpoint::Run, b"{}", LONG, small()).await);
        let (mut theirs, forge_now) = forger.join().unwrap();
        if forge_now {
            theirs.write_all(&sized(200, "{\"forged\":1}")).unwrap();
        }
        let outcome = proxy.call(Endpoint::Run, b"{}", LONG, small()).await;
        assert!(matches!(outcome.observed, Observed::NotSent(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_request_larger_than_any_buffer_arrives_whole() {
    let (mut proxy, mut theirs) = pair();
    let body: Vec<u8> = (0..20_000_000u32).map(|n| n as u8).collect();
    let expected = body.clone();
    let peer = std::thread::spawn(move || {
        let (_, received) = read_request(&mut theirs);
        theirs.write_all(&sized(200, "{}")).unwrap();
        (received, theirs)
    });
    assert_eq!(whole(proxy.call(Endpoint::Init, &body, LONG, small()).await), (200, "{}".into()));
    let (received, _theirs) = peer.join().unwrap();
    assert!(received == expected);
}

#[tokio::test]
async fn an_early_refusal_of_a_large_request_is_its_answer() {
    let (mut proxy, mut theirs) = pair();
    let body = vec![b'x'; 20_000_000];
    let peer = std::thread::spawn(move || {
        let mut some = [0; 1000];
        theirs.read_exact(&mut some).unwrap();
        theirs.write_all(&sized(403, "{\"e\":1}")).unwrap();
        theirs
    });
    assert_eq!(whole(proxy.call(Endpoint::Init, &body, LONG, small()).await), (403, "{\"e\":1}".into()));
    assert!(!proxy.is_usable());
    peer.join().unwrap();
}

#[tokio::test]
async fn a_dropped_call_ends_the_connection() {
    let (mut proxy, _theirs) = pair();
    tokio::select! {
        _ = proxy.call(Endpoint::Run, b"{}", LONG, small()) => panic!("nobody answers"),
        () = tokio::time::sleep(Duration::from_millis(20)) => {}
    }
    assert!(!proxy.is_usable());
}

#[tokio::test]
async fn tcp_works_as_well() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let mut proxy = ProxyConnection::new(Connection::Tcp(ours)).unwrap();
    let peer = std::thread::spawn(move || {
        let mut request = [0; 4096];
        let read = theirs.read(&mut request).unwrap();
        assert!(request[..read].starts_with(b"POST /run HTTP/1.1\r\n"));
        theirs
            .write_all(&[b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}".as_slice()].concat())
            .unwrap();
    });
    assert_eq!(whole(proxy.call(Endpoint::Run, b"{}", LONG, small()).await), (200, "{}".into()));
    assert!(!proxy.is_usable());
    peer.join().unwrap();
}
