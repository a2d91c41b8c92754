//! Framing of HTTP/1.1 answers: the head through `httparse`, and chunked bodies. No I/O.

use std::io;

/// Longest head that is accepted.
pub const MAX_HEAD: usize = 64 << 10;

/// What the head of an answer says about what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub framing: Framing,
    /// False when the server closes the connection after this answer.
    pub keep_alive: bool,
    /// Bytes of the head itself.
    pub size: usize,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Neither: by OpenWhisk's contract that is no answer, also for 204.
    Absent,
}

/// Reads the head at the start of `bytes`; `None` while it is incomplete. Interim answers (1xx) are not skipped here.
///
/// # Errors
/// If this is not HTTP, is longer than [`MAX_HEAD`], or contradicts itself about its length.
pub fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(invalid("the head of the answer is too long")),
        Err(error) => return Err(invalid(error)),
    };
    // Both are there after a complete parse.
    let status = response.code.unwrap_or_default();
    let mut keep_alive = response.version == Some(1);
    let mut length: Option<u64> = None;
    let mut chunked = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = header.value.trim_ascii();
            // `parse` alone would let a sign through.
            let value = text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()?.parse().ok());
            let Some(Some(value)) = value else { return Err(invalid("Content-Length is no number")) };
            if length.is_some_and(|other| other != value) {
                return Err(invalid("two different Content-Lengths"));
            }
            length = Some(value);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(invalid("unknown Transfer-Encoding"));
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            if header.value.trim_ascii().eq_ignore_ascii_case(b"close") {
                keep_alive = false;
            } else if header.value.trim_ascii().eq_ignore_ascii_case(b"keep-alive") {
                keep_alive = true;
            }
        }
    }
    let framing = match (status, chunked, length) {
        // These never have a body, whatever their headers say.
        (204 | 304, ..) => Framing::Absent,
        (_, true, None) => Framing::Chunked,
        (_, true, Some(_)) => return Err(invalid("both Content-Length and Transfer-Encoding")),
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => Framing::Absent,
    };
    Ok(Some(Head { status, framing, keep_alive, size }))
}

/// Decodes a chunked body piece by piece.
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: ChunkState,
    /// The line that is being read: a chunk size or a trailer.
    line: Vec<u8>,
    /// Bytes left in the current chunk.
    left: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

/// Longest chunk-size or trailer line.
const MAX_LINE: usize = 4 << 10;

impl ChunkedDecoder {
    /// Takes `input`, hands decoded bytes to `sink`, returns how many bytes it used: all, unless the body ended.
    ///
    /// # Errors
    /// If the encoding is broken.
    pub fn decode(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut used = 0;
        while used < input.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let rest = &input[used..];
                let take = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                sink(&rest[..take]);
                used += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = ChunkState::DataEnd;
                }
                continue;
            }
            let byte = input[used];
            used += 1;
            if byte != b'\n' {
                if self.line.len() == MAX_LINE {
                    return Err(invalid("a line of the chunked encoding is too long"));
                }
                self.line.push(byte);
                continue;
            }
            self.end_line()?;
            self.line.clear();
        }
        Ok(used)
    }

    /// True after the last chunk and its trailers.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        self.state = match self.state {
            ChunkState::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                let text = std::str::from_utf8(digits).map_err(invalid)?;
                if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(invalid("a chunk size is no number"));
                }
                self.left = u64::from_str_radix(text, 16).map_err(invalid)?;
                if self.left == 0 { ChunkState::Trailer } else { ChunkState::Data }
            }
            ChunkState::DataEnd if line.is_empty() => ChunkState::Size,
            ChunkState::DataEnd => return Err(invalid("a chunk is longer than its size")),
            ChunkState::Trailer if line.is_empty() => ChunkState::Done,
            other => other,
        };
        Ok(())
    }
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> io::Result<Option<Head>> {
        parse_head(text.as_bytes())
    }

    #[test]
    fn framing_follows_status_and_headers() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 200, Framing::Length(12), true),
            ("HTTP/1.1 200 OK\r\ncontent-length:0\r\nConnection: close\r\n\r\n", 200, Framing::Length(0), false),
            ("HTTP/1.0 502 Bad\r\nContent-Length: 1\r\n\r\n", 502, Framing::Length(1), false),
            ("HTTP/1.0 502 Bad\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n", 502, Framing::Length(1), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 200, Framing::Length(3), true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, Framing::Absent, true),
            ("HTTP/1.1 200 OK\r\n\r\n", 200, Framing::Absent, true),
        ];
        for (text, status, framing, keep_alive) in cases {
            let head = head(text).unwrap().unwrap();
            assert_eq!((head.status, head.framing, head.keep_alive), (status, framing, keep_alive), "{text}");
            assert_eq!(head.size, text.len());
        }
    }

    #[test]
    fn incomplete_heads_wait_and_broken_ones_fail() {
        for text in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Le"] {
            assert_eq!(head(text).unwrap(), None, "{text}");
        }
        let broken = [
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ];
        for text in broken {
            assert!(head(text).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD));
        assert!(head(&endless).is_err());
    }

    #[test]
    fn chunks_decode_at_every_split() {
        let encoded = b"4\r\n{\"a\"\r\n3;x=y\r\n:1}\r\n0\r\nTrailer: z\r\n\r\nNEXT";
        for split in 0..encoded.len() {
            let mut decoder = ChunkedDecoder::default();
            let mut body = Vec::new();
            let mut used = decoder.decode(&encoded[..split], |bytes| body.extend_from_slice(bytes)).unwrap();
            used += decoder.decode(&encoded[used..], |bytes| body.extend_from_slice(bytes)).unwrap();
            assert!(decoder.is_done());
            assert_eq!((body.as_slice(), used), (b"{\"a\":1}".as_slice(), encoded.len() - 4));
        }
    }

    #[test]
    fn broken_chunks_fail() {
        for encoded in ["x\r\n", "-1\r\n", "1\r\nab\r\n", "ffffffffffffffffff\r\n", "\r\n"] {
            let mut decoder = ChunkedDecoder::default();
            assert!(decoder.decode(encoded.as_bytes(), |_| {}).is_err(), "{encoded}");
        }
    }
}
