//! The log lines of one activation, from a container's raw output to what its record holds. Pure: bytes and times in,
//! lines out.
//!
//! Lengths are counted as Docker's `json-file` driver would write the lines, because the limit is defined by them.
//!
//! Source: apache/openwhisk `DockerToActivationLogStore.scala`, `LogLine`; moby `daemon/logger/jsonfilelog`,
//! `daemon/logger/copier.go`.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memchr::{memchr, memmem};
use protocol::{ByteSize, messages};

use crate::containers::backend::{CollectedLogs, LogRequest};

/// Written by the runtime as a line of its own on both streams after each activation.
pub const SENTINEL: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";

/// Longest message; longer ones are split.
const MAX_MESSAGE: usize = 16 << 10;

/// No new line for so long: the logs are taken for complete, though a sentinel is missing.
pub const SILENCE: Duration = Duration::from_secs(2);

/// The longest wait for sentinels, however busy the streams are.
pub fn longest_wait(limit: ByteSize) -> Duration {
    Duration::from_secs(2 * limit.as_mib().max(5))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Output of a container since the last collection. Bounded: what goes beyond the capacity is looked through for
/// sentinels and forgotten.
#[derive(Debug)]
pub struct LogBuffer {
    /// Driver bytes that may be kept: the largest log limit of any action.
    capacity: u64,
    lines: VecDeque<Line>,
    /// Driver bytes of `lines`.
    kept: u64,
    /// A line was dropped for want of capacity, and all after it.
    overflowed: bool,
    /// The unfinished line of each stream, shorter than [`MAX_MESSAGE`].
    partial: [Vec<u8>; 2],
    sentinels: [bool; 2],
}

#[derive(Debug)]
struct Line {
    text: String,
    /// Bytes that the driver would have written, and one more.
    driver_bytes: u64,
}

impl LogBuffer {
    /// A buffer that keeps up to `capacity` driver bytes.
    pub fn new(capacity: ByteSize) -> Self {
        Self {
            capacity: capacity.bytes(),
            lines: VecDeque::new(),
            kept: 0,
            overflowed: false,
            partial: [Vec::new(), Vec::new()],
            sentinels: [false; 2],
        }
    }

    /// Takes `bytes` of `stream` that arrived at `now`.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], now: SystemTime) {
        let mut stamp = Stamp { now, text: None };
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_MESSAGE - partial.len();
            match memchr(b'\n', &rest[..rest.len().min(room + 1)]) {
                Some(end) if partial.is_empty() => {
                    self.message(stream, &rest[..end], true, &mut stamp);
                    rest = &rest[end + 1..];
                }
                Some(end) => {
                    partial.extend_from_slice(&rest[..end]);
                    self.message(stream, &partial, true, &mut stamp);
                    partial.clear();
                    rest = &rest[end + 1..];
                }
                None => {
                    let take = rest.len().min(room);
                    partial.extend_from_slice(&rest[..take]);
                    rest = &rest[take..];
                    if partial.len() == MAX_MESSAGE {
                        // A sentinel that follows output without a line end is not cut in two.
                        let split = MAX_MESSAGE - begun_sentinel(&partial);
                        self.message(stream, &partial[..split], false, &mut stamp);
                        partial.drain(..split);
                    }
                }
            }
        }
        self.partial[stream as usize] = partial;
    }

    /// Takes what a log driver has split into lines and stamped with `time` itself: a line, with its end, or a piece of one.
    pub fn push_entry(&mut self, stream: Stream, time: &str, message: &[u8]) {
        let (message, ended) = match message.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (message, false),
        };
        let mut stamp = Stamp { now: UNIX_EPOCH, text: Some(time.to_owned()) };
        self.message(stream, message, ended, &mut stamp);
    }

    /// True once both streams have had their sentinel since the last collection.
    pub fn is_complete(&self) -> bool {
        self.sentinels == [true; 2]
    }

    /// Ends the activation: its lines as `request` wants them, and an empty buffer.
    ///
    /// `missing`: the sentinels were waited for in vain.
    pub fn collect(&mut self, request: LogRequest, missing: bool, now: SystemTime) -> CollectedLogs {
        let mut stamp = Stamp { now, text: None };
        if !self.is_complete() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let rest = std::mem::take(&mut self.partial[stream as usize]);
                if !rest.is_empty() {
                    self.message(stream, &rest, false, &mut stamp);
                }
            }
        }
        let lines = std::mem::take(&mut self.lines);
        let overflowed = std::mem::take(&mut self.overflowed);
        self.kept = 0;
        self.sentinels = [false; 2];
        let limit = request.limit.bytes();
        if limit == 0 {
            return CollectedLogs::default();
        }

        let mut total = 0;
        let mut collected = Vec::with_capacity(lines.len());
        let mut truncated = false;
        for line in lines {
            total += line.driver_bytes;
            if total > limit {
                truncated = true;
                break;
            }
            collected.push(line.text);
        }
        truncated |= overflowed;
        if truncated {
            collected.push(format_line(Stream::Stderr, &messages::logs_truncated(limit), stamp.text()));
        } else if missing {
            collected.push(format_line(Stream::Stderr, messages::LOG_FAILURE, stamp.text()));
        }
        if request.developer_error {
            collected.push(format_line(Stream::Stderr, messages::LOG_WARNING_DEVELOPER_ERROR, stamp.text()));
        }
        CollectedLogs { lines: collected, unreliable: truncated || missing }
    }

    fn message(&mut self, stream: Stream, message: &[u8], ended: bool, stamp: &mut Stamp) {
        if memmem::find(message, SENTINEL.as_bytes()).is_some() {
            self.sentinels[stream as usize] = true;
            return;
        }
        if self.overflowed {
            return;
        }
        let driver_bytes = driver_bytes(message, ended);
        if self.kept + driver_bytes > self.capacity {
            self.overflowed = true;
            return;
        }
        self.kept += driver_bytes;
        let message = if ended { message.strip_suffix(b"\r").unwrap_or(message) } else { message };
        let text = format_line(stream, &String::from_utf8_lossy(message), stamp.text());
        self.lines.push_back(Line { text, driver_bytes });
    }
}

fn format_line(stream: Stream, message: &str, stamp: &str) -> String {
    format!("{stamp:<30} {}: {message}", stream.name())
}

/// Bytes at the end of `message` that could be the beginning of a sentinel.
fn begun_sentinel(message: &[u8]) -> usize {
    let longest = message.len().min(SENTINEL.len() - 1);
    (1..=longest).rev().find(|&length| message.ends_with(&SENTINEL.as_bytes()[..length])).unwrap_or(0)
}

/// Length of `{"log":"message\n","stream":"stdout","time":"…"}`, and one more.
fn driver_bytes(message: &[u8], ended: bool) -> u64 {
    const AROUND: usize = r#"{"log":"","stream":"stdout","time":"2019-10-01T12:00:00.123456789Z"}"#.len() + 1;
    let content: usize = message
        .utf8_chunks()
        .map(|chunk| {
            let valid: usize = chunk.valid().chars().map(escaped_length).sum();
            // Each invalid byte becomes `\ufffd`.
            valid + 6 * chunk.invalid().len()
        })
        .sum();
    (AROUND + content + if ended { 2 } else { 0 }) as u64
}

/// Bytes of one character as the driver's JSON writes it.
const fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' => 2,
        '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        other => other.len_utf8(),
    }
}

/// A time, made into text when first needed.
struct Stamp {
    now: SystemTime,
    text: Option<String>,
}

impl Stamp {
    fn text(&mut self) -> &str {
        self.text.get_or_insert_with(|| rfc3339_nanos(self.now))
    }
}

/// `2019-10-01T12:00:00.123456789Z`: always 30 characters. A time before the epoch reads as the epoch.
pub fn rfc3339_nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 1 March of year 0, in eras of 400 years: each of them has the same number of days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests;
