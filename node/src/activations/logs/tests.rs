use super::*;

const NOW: &str = "2019-10-01T12:00:00.123456789Z";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_569_931_200, 123_456_789)
}

fn buffer() -> LogBuffer {
    LogBuffer::new(ByteSize::mib(10))
}

fn request(limit: u64) -> LogRequest {
    LogRequest { limit: ByteSize(limit), wait_for_sentinels: true, developer_error: false }
}

fn end(buffer: &mut LogBuffer) {
    for stream in [Stream::Stdout, Stream::Stderr] {
        buffer.push(stream, format!("{SENTINEL}\n").as_bytes(), now());
    }
}

/// Lines without their time.
fn texts(logs: &CollectedLogs) -> Vec<&str> {
    logs.lines
        .iter()
        .map(|line| line.strip_prefix(NOW).expect("every line begins with the time").trim_start())
        .collect()
}

#[test]
fn lines_are_formatted_in_the_order_of_arrival() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, "hello\nhé".as_bytes(), now());
    buffer.push(Stream::Stderr, b"oops\r\n\n", now());
    buffer.push(Stream::Stdout, b"llo\n", now());
    assert!(!buffer.is_complete());
    end(&mut buffer);
    assert!(buffer.is_complete());
    let logs = buffer.collect(request(1 << 20), false, now());
    assert_eq!(logs.lines[0], "2019-10-01T12:00:00.123456789Z stdout: hello");
    assert_eq!(texts(&logs), ["stdout: hello", "stderr: oops", "stderr: ", "stdout: héllo"]);
    assert!(!logs.unreliable);
    assert!(!buffer.is_complete());
}

#[test]
fn output_glued_to_a_sentinel_is_lost_with_it() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, format!("kept\nlost{SENTINEL}\n").as_bytes(), now());
    buffer.push(Stream::Stderr, format!("{SENTINEL}\n").as_bytes(), now());
    assert!(buffer.is_complete());
    assert_eq!(texts(&buffer.collect(request(1000), false, now())), ["stdout: kept"]);
}

#[test]
fn a_sentinel_is_found_wherever_long_output_is_split() {
    for length in MAX_MESSAGE - 40..MAX_MESSAGE + 4 {
        let mut buffer = buffer();
        let line = format!("{}{SENTINEL}\n", "y".repeat(length));
        for piece in line.as_bytes().chunks(1000) {
            buffer.push(Stream::Stdout, piece, now());
        }
        buffer.push(Stream::Stderr, format!("{SENTINEL}\n").as_bytes(), now());
        assert!(buffer.is_complete(), "{length}");
        let logs = buffer.collect(request(1 << 20), false, now());
        assert!(logs.lines.iter().all(|line| !line.contains("XXX")), "{length}");
    }
}

#[test]
fn long_lines_are_split_at_16_kib() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, &vec![b'a'; 2 * MAX_MESSAGE + 5], now());
    buffer.push(Stream::Stdout, b"\n", now());
    let full = "a".repeat(MAX_MESSAGE);
    buffer.push(Stream::Stdout, full.as_bytes(), now());
    buffer.push(Stream::Stdout, b"\nnext\n", now());
    end(&mut buffer);
    let logs = buffer.collect(request(1 << 20), false, now());
    let lengths: Vec<_> = texts(&logs).iter().map(|text| text.len() - "stdout: ".len()).collect();
    assert_eq!(lengths, [MAX_MESSAGE, MAX_MESSAGE, 5, MAX_MESSAGE, 0, 4]);
}

#[test]
fn the_limit_counts_driver_lines_and_drops_the_line_that_crosses_it() {
    // {"log":"hello\n","stream":"stdout","time":"2019-10-01T12:00:00.123456789Z"} is 75 bytes long.
    let exact = 2 * (75 + 1);
    for (limit, truncated) in [(exact, false), (exact - 1, true), (76, true)] {
        let mut buffer = buffer();
        buffer.push(Stream::Stdout, b"hello\nworld\n", now());
        end(&mut buffer);
        let logs = buffer.collect(request(limit), false, now());
        let warning =
            format!("stderr: Logs were truncated because the total bytes size exceeds the limit of {limit} bytes.");
        let expected =
            if truncated { vec!["stdout: hello", warning.as_str()] } else { vec!["stdout: hello", "stdout: world"] };
        assert_eq!(texts(&logs), expected, "{limit}");
        assert_eq!(logs.unreliable, truncated);
    }
}

#[test]
fn driver_lengths_are_those_of_its_json() {
    let cases: [(&[u8], usize); 6] = [
        (b"abc", 3),
        (b"\"\\\r", 6),
        (b"\t\x01<>&", 30),
        ("é€𝄞".as_bytes(), 9),
        ("\u{2028}".as_bytes(), 6),
        (b"\xff\xfe", 12),
    ];
    let empty = driver_bytes(b"", false);
    assert_eq!(empty, 69);
    for (message, content) in cases {
        assert_eq!(driver_bytes(message, false) - empty, content as u64, "{message:?}");
        assert_eq!(driver_bytes(message, true) - empty, content as u64 + 2, "{message:?}");
    }
}

#[test]
fn a_flood_is_bounded_and_its_sentinels_are_still_seen() {
    let mut buffer = LogBuffer::new(ByteSize::kib(64));
    for _ in 0..10_000 {
        buffer.push(Stream::Stdout, b"twenty bytes of text\n", now());
    }
    assert!(buffer.kept <= 64 << 10);
    end(&mut buffer);
    assert!(buffer.is_complete());
    let logs = buffer.collect(request(1 << 20), false, now());
    assert!(logs.unreliable);
    assert!(logs.lines.last().is_some_and(|line| line.contains("exceeds the limit of 1048576 bytes.")));
    assert!(buffer.lines.is_empty() && !buffer.overflowed);
}

#[test]
fn what_is_missing_or_failed_is_said_last() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, b"begun", now());
    let failed = LogRequest { developer_error: true, ..request(1 << 20) };
    let logs = buffer.collect(failed, true, now());
    assert_eq!(
        texts(&logs),
        [
            "stdout: begun",
            "stderr: There was an issue while collecting your logs. Data might be missing.",
            "stderr: The action did not initialize or run as expected. Log data might be missing.",
        ]
    );
    assert!(logs.unreliable);

    buffer.push(Stream::Stdout, b"1\n2\n", now());
    let logs = buffer.collect(LogRequest { limit: ByteSize(80), ..failed }, true, now());
    assert_eq!(texts(&logs).len(), 3);
    assert!(texts(&logs)[1].starts_with("stderr: Logs were truncated"));
    assert!(texts(&logs)[2].starts_with("stderr: The action did not initialize or run as expected."));
}

#[test]
fn a_limit_of_zero_collects_nothing_and_forgets_everything() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, b"1\n2", now());
    let failed = LogRequest { developer_error: true, ..request(0) };
    assert_eq!(buffer.collect(failed, true, now()), CollectedLogs::default());
    end(&mut buffer);
    assert_eq!(buffer.collect(request(1000), false, now()), CollectedLogs::default());
}

#[test]
fn the_next_activation_starts_after_this_ones_lines() {
    let mut buffer = buffer();
    buffer.push(Stream::Stdout, b"first\n", now());
    end(&mut buffer);
    buffer.push(Stream::Stdout, b"left", now());
    assert_eq!(texts(&buffer.collect(request(1000), false, now())), ["stdout: first"]);
    buffer.push(Stream::Stdout, b" over\n", now());
    end(&mut buffer);
    assert_eq!(texts(&buffer.collect(request(1000), false, now())), ["stdout: left over"]);
}

#[test]
fn times_are_dates() {
    let at = |seconds: u64| rfc3339_nanos(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000000Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
    assert_eq!(at(1_709_251_200), "2024-03-01T00:00:00.000000000Z");
    assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00.000000000Z");
    assert_eq!(rfc3339_nanos(now()), NOW);
}

#[test]
fn what_a_driver_has_split_and_stamped_keeps_its_times() {
    let mut buffer = buffer();
    let time = "2020-02-02T02:02:02.000000002Z";
    buffer.push_entry(Stream::Stderr, time, b"oops\r\n");
    buffer.push_entry(Stream::Stdout, NOW, &[b'x'; MAX_MESSAGE]);
    buffer.push_entry(Stream::Stdout, NOW, b"rest\n");
    buffer.push_entry(Stream::Stdout, NOW, format!("lost {SENTINEL}\n").as_bytes());
    assert!(!buffer.is_complete());
    buffer.push_entry(Stream::Stderr, NOW, format!("{SENTINEL}\n").as_bytes());
    assert!(buffer.is_complete());
    let logs = buffer.collect(request(1 << 20), false, now());
    let long = "x".repeat(MAX_MESSAGE);
    assert_eq!(
        logs.lines,
        [format!("{time} stderr: oops"), format!("{NOW} stdout: {long}"), format!("{NOW} stdout: rest")]
    );
    assert!(!logs.unreliable);
}
