//! The smallest HTTP/1.1 client that keeps its connection: one request in flight, bodies of a stated length.
//!
//! It costs the same for every system it calls, so it cancels out of differences.

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// One kept-alive connection.
pub struct Client {
    stream: Box<dyn Duplex>,
    inbox: Vec<u8>,
}

/// A complete answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Client {
    /// # Errors
    /// If nobody listens at `address`.
    pub async fn open(address: &Address) -> io::Result<Client> {
        let stream: Box<dyn Duplex> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok(Client { stream, inbox: Vec::with_capacity(16 * 1024) })
    }

    /// Sends `request`, as [`request`] writes it, and reads the whole answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is not HTTP/1.1 with a `Content-Length`. The client cannot be used again.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.inbox.clear();
        self.stream.write_all(request).await?;
        loop {
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            let Some(head) = parse_head(&self.inbox)? else { continue };
            while self.inbox.len() < head.bytes + head.content_length {
                if self.stream.read_buf(&mut self.inbox).await? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed within an answer"));
                }
            }
            return Ok(Answer { status: head.status, body: &self.inbox[head.bytes..head.bytes + head.content_length] });
        }
    }
}

struct Head {
    status: u16,
    bytes: usize,
    content_length: usize,
}

/// `None`: not complete yet.
fn parse_head(inbox: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(inbox).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.ok_or_else(|| invalid("no status"))?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let content_length = match length {
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| invalid("content-length is not a number"))?,
        None if status == 204 => 0,
        None => return Err(invalid("no content-length")),
    };
    Ok(Some(Head { status, bytes, content_length }))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an answer that is understood here: {why}"))
}

/// The bytes of a request with a JSON body. `authorization`: the header's whole value.
#[must_use]
pub fn request(method: &str, path: &str, authorization: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    if let Some(value) = authorization {
        out.push_str(&format!("Authorization: {value}\r\n"));
    }
    out.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(answer: &'static [&'static [u8]]) -> io::Result<(u16, Vec<u8>)> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let server = tokio::spawn(async move {
            let mut request = [0; 256];
            let _ = theirs.read(&mut request).await?;
            for part in answer {
                theirs.write_all(part).await?;
                tokio::task::yield_now().await;
            }
            io::Result::Ok(())
        });
        let mut client = Client { stream: Box::new(ours), inbox: Vec::new() };
        let result = client.call(b"GET / HTTP/1.1\r\n\r\n").await.map(|answer| (answer.status, answer.body.to_vec()));
        server.await.map_err(io::Error::other)??;
        result
    }

    #[tokio::test]
    async fn answers_arrive_whole_however_they_are_cut() -> io::Result<()> {
        let parts: &[&[u8]] = &[b"HTTP/1.1 20", b"2 Accepted\r\nContent-Le", b"ngth: 5\r\n\r\nhe", b"llo"];
        assert_eq!(exchange(parts).await?, (202, b"hello".to_vec()));
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_or_unmeasured_answer_is_an_error() {
        let cut: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"];
        assert_eq!(exchange(cut).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let chunked: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"];
        assert_eq!(exchange(chunked).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
