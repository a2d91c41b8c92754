//! The container's end of the connection: requests in, answers out, blocking.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::io::{FdFlags, fcntl_setfd};

const MAX_HEAD: usize = 64 << 10;

pub(super) struct Server {
    stream: UnixStream,
    /// Bytes that follow the last request.
    buffer: Vec<u8>,
}

pub(super) struct Request {
    pub path: String,
    pub body: Vec<u8>,
}

impl Server {
    /// Takes over descriptor 3; the action never inherits it.
    pub fn inherited() -> io::Result<Self> {
        // SAFETY: whoever starts this program hands over descriptor 3, and nothing else here takes it.
        let connection = unsafe { OwnedFd::from_raw_fd(3) };
        fcntl_setfd(&connection, FdFlags::CLOEXEC)?;
        Ok(Self { stream: UnixStream::from(connection), buffer: Vec::new() })
    }

    /// The next request; `None` once the node has closed the connection.
    pub fn next(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some((path, start, length)) = parse(&self.buffer)? {
                let end = start + length;
                while self.buffer.len() < end {
                    if self.read(end - self.buffer.len())? == 0 {
                        return Ok(None);
                    }
                }
                let mut body = self.buffer.split_off(start);
                self.buffer = body.split_off(length);
                return Ok(Some(Request { path, body }));
            }
            if self.read(4 << 10)? == 0 {
                return Ok(None);
            }
        }
    }

    pub fn answer(&mut self, status: u16, body: &[u8]) -> io::Result<()> {
        let mut answer =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        answer.extend_from_slice(body);
        self.stream.write_all(&answer)
    }

    fn read(&mut self, room: usize) -> io::Result<usize> {
        let length = self.buffer.len();
        self.buffer.resize(length + room.min(1 << 20), 0);
        let read = loop {
            match self.stream.read(&mut self.buffer[length..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        read
    }
}

/// Path, start of the body and its length, once the head is complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(String, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let start = match request.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
        httparse::Status::Partial => return Err(io::Error::other("the head of a request is too long")),
    };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("a request without Content-Length"))?;
    Ok(Some((request.path.unwrap_or_default().to_owned(), start, length)))
}
