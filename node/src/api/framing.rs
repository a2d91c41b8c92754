//! Where a request ends: its bytes are followed, as they come, through head and body. Nothing is kept and nothing is
//! decided here but that a head is too long; what a request says is the framework's to read.

use memchr::memchr_iter;
use protocol::ErrorCode;

use super::MAX_URI;
use crate::runtime::http1::ChunkedDecoder;

/// Longest head of a request: its line and all its headers.
pub const MAX_HEAD: usize = 32 << 10;
/// Longest request line that can name a URI which is not too long.
const MAX_FIRST_LINE: usize = "OPTIONS ".len() + MAX_URI + " HTTP/1.1\r".len();

/// One request as far as it has come.
#[derive(Debug, Default)]
pub struct Request {
    stage: Stage,
    /// Bytes of the head.
    head: usize,
    /// Length of the request line, without its line feed; 0 before it has begun.
    first_line: usize,
    has_first_line: bool,
    /// The line that has not come to its end.
    line: Vec<u8>,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    Sized(u64),
    Chunked(ChunkedDecoder),
    Whole,
    /// It contradicts itself, and will be refused.
    Unknown,
}

impl Request {
    /// Takes what has come; returns how many bytes of it belong to this request.
    ///
    /// # Errors
    /// The head is longer than it may be.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, ErrorCode> {
        let of_head = if matches!(self.stage, Stage::Head) { self.take_head(bytes)? } else { 0 };
        Ok(of_head + self.take_body(&bytes[of_head..]))
    }

    /// True if all of it has come.
    pub fn is_whole(&self) -> bool {
        matches!(self.stage, Stage::Whole)
    }

    /// True before the end of its head.
    pub fn is_in_head(&self) -> bool {
        matches!(self.stage, Stage::Head)
    }

    /// True once anything of it has come.
    pub fn has_begun(&self) -> bool {
        self.head > 0
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, ErrorCode> {
        let mut begin = 0;
        for end in memchr_iter(b'\n', bytes) {
            let is_last = if self.line.is_empty() {
                self.end_line(&bytes[begin..end])
            } else {
                self.line.extend_from_slice(&bytes[begin..end]);
                let line = std::mem::take(&mut self.line);
                self.end_line(&line)
            };
            begin = end + 1;
            if is_last {
                break;
            }
        }
        if self.is_in_head() {
            self.line.extend_from_slice(&bytes[begin..]);
            begin = bytes.len();
        }
        if !self.has_first_line {
            self.first_line = self.line.len();
        }
        self.head += begin;
        match self.head > MAX_HEAD {
            false => Ok(begin),
            true if self.first_line > MAX_FIRST_LINE => Err(ErrorCode::UriTooLong),
            true => Err(ErrorCode::HeadTooLarge),
        }
    }

    /// Returns whether it was the empty one that ends the head.
    fn end_line(&mut self, line: &[u8]) -> bool {
        let is_empty = matches!(line, [] | [b'\r']);
        if !self.has_first_line {
            // Empty lines before it do not count.
            self.has_first_line = !is_empty;
            self.first_line = line.len();
            return false;
        }
        if let Some(value) = value_of(line, b"content-length") {
            let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.length = number.filter(|_| self.length.is_none());
            if self.length.is_none() {
                self.stage = Stage::Unknown;
            }
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !self.is_chunked {
                self.stage = Stage::Unknown;
            }
        }
        if !is_empty {
            return false;
        }
        self.stage = match (&self.stage, self.length, self.is_chunked) {
            (Stage::Unknown, ..) | (_, Some(_), true) => Stage::Unknown,
            (_, None | Some(0), false) => Stage::Whole,
            (_, Some(length), false) => Stage::Sized(length),
            (_, None, true) => Stage::Chunked(ChunkedDecoder::default()),
        };
        true
    }

    fn take_body(&mut self, bytes: &[u8]) -> usize {
        let (taken, is_whole) = match &mut self.stage {
            Stage::Head | Stage::Whole => return 0,
            Stage::Unknown => return bytes.len(),
            Stage::Sized(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Stage::Chunked(decoder) => match decoder.decode(bytes, |_| {}) {
                Ok(taken) => (taken, decoder.is_done()),
                Err(_) => {
                    self.stage = Stage::Unknown;
                    return bytes.len();
                }
            },
        };
        if is_whole {
            self.stage = Stage::Whole;
        }
        taken
    }
}

/// The value of the header `name`, if `line` is that.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    if !found.eq_ignore_ascii_case(name) {
        return None;
    }
    Some(rest.strip_prefix(b":")?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces; returns how many belong to the first request.
    fn first(bytes: &[u8], step: usize) -> (Request, Result<usize, ErrorCode>) {
        let (mut request, mut taken) = (Request::default(), 0);
        for piece in bytes.chunks(step) {
            match request.take(piece) {
                Ok(of_piece) => taken += of_piece,
                Err(error) => return (request, Err(error)),
            }
            if request.is_whole() {
                break;
            }
        }
        (request, Ok(taken))
    }

    #[test]
    fn the_end_of_a_request_is_found_however_it_comes() {
        let next = "GET / HTTP/1.1\r\nHost: b\r\n\r\n";
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\nGET / HTTP/1.1\nHost: a\nX:\n\n",
            "POST / HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\n\r\n\r\nx",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\nX-Content-Length: 7\r\nContent-Lengthy: 8\r\n\r\n",
        ] {
            let both = [request, next].concat();
            for step in 1..both.len() {
                let (found, taken) = first(both.as_bytes(), step);
                assert!(found.is_whole() && !found.is_in_head(), "{step} of {request:?}");
                assert_eq!(taken, Ok(request.len()), "{step} of {request:?}");
            }
        }
        for unfinished in ["GET / HTTP/1.1\r\nHost: a\r\nx\r\n", "\r\n\r\n\n", "GET / HTTP/1.1\r\n\r"] {
            let (found, taken) = first(unfinished.as_bytes(), 3);
            assert!(found.is_in_head() && taken == Ok(unfinished.len()), "{unfinished:?}");
        }
        for contradiction in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            let both = [contradiction, next].concat();
            let (found, taken) = first(both.as_bytes(), 7);
            assert!(!found.is_whole() && taken == Ok(both.len()), "{contradiction:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_told() {
        let headers = |length: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
        };
        for step in [1, 1000, 1 << 20] {
            assert_eq!(first(&headers(MAX_HEAD), step).1, Ok(MAX_HEAD));
            assert_eq!(first(&headers(MAX_HEAD + 1), step).1, Err(ErrorCode::HeadTooLarge));
            assert_eq!(first(&[b'x'; MAX_HEAD + 1], step).1, Err(ErrorCode::UriTooLong));
            assert_eq!(first(&[b'\n'; MAX_HEAD + 1], step).1, Err(ErrorCode::HeadTooLarge));
        }
        // Bodies are not measured here.
        let mut large = b"PUT / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".to_vec();
        large.resize(large.len() + 100_000, b'x');
        assert_eq!(first(&large, 1 << 20).1, Ok(large.len()));
    }
}
