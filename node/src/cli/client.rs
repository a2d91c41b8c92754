//! Asks the node over its admin socket: one request per connection.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, anyhow};
use serde::{Serialize, de::DeserializeOwned};

use super::CliError;
use crate::admin::{self, Refusal};

/// Writes answer within 2 s or are refused; the rest is for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A longer answer is not the node's.
const MAX_ANSWER: u64 = 256 << 20;

/// `GET path`.
pub fn get<T: DeserializeOwned>(data_dir: &Path, path: &str) -> Result<T, CliError> {
    call(data_dir, &format!("GET {path} HTTP/1.1\r\n"), b"")
}

/// `POST path` with `body` as JSON.
pub fn post<T: DeserializeOwned>(data_dir: &Path, path: &str, body: &impl Serialize) -> Result<T, CliError> {
    let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.into()))?;
    let head = format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    call(data_dir, &head, &body)
}

fn call<T: DeserializeOwned>(data_dir: &Path, head: &str, body: &[u8]) -> Result<T, CliError> {
    let mut socket = admin::connect(data_dir).map_err(|error| unreachable(data_dir, error.kind(), &error))?;
    let answer = (|| {
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        write!(socket, "{head}Host: whisp\r\nConnection: close\r\n\r\n")?;
        socket.write_all(body)?;
        let mut answer = Vec::new();
        socket.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    })()
    .map_err(|error| CliError::NoNode(format!("the node on {} did not answer: {error}", data_dir.display())))?;

    let (status, body) = parse(&answer).map_err(CliError::Failed)?;
    if status == 200 {
        return serde_json::from_slice(&body)
            .context("the node's answer cannot be read: does it run the same version?")
            .map_err(CliError::Failed);
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => Err(CliError::Refused(refusal.error)),
        Err(_) => Err(CliError::Failed(anyhow!("the node answers with status {status}: is it of the same version?"))),
    }
}

fn unreachable(data_dir: &Path, kind: ErrorKind, error: &std::io::Error) -> CliError {
    let dir = data_dir.display();
    CliError::NoNode(match kind {
        _ if !data_dir.is_dir() => format!("{dir} is no data directory of a node: --data-dir names another"),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no node runs on {dir}: start it by `whisp start --data-dir {dir}`, or name another by --data-dir")
        }
        ErrorKind::PermissionDenied => {
            let owner =
                data_dir.metadata().map_or_else(|_| "another user".to_owned(), |it| format!("uid {}", it.uid()));
            format!("the node on {dir} belongs to {owner}, who alone may administer it")
        }
        _ => format!("the node on {dir} cannot be asked: {error}"),
    })
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(answer).context("the node's answer is no HTTP")? else {
        return Err(anyhow!("the node's answer is cut off: its log may say why"));
    };
    let header = |name: &str| head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let body = &answer[length..];
    // The server sends what it knows the length of, and our bodies are all of that kind.
    let expected: usize = header("content-length")
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .context("the node's answer has no length")?;
    if body.len() != expected {
        return Err(anyhow!("the node's answer is cut off: {} of {expected} bytes", body.len()));
    }
    Ok((head.code.unwrap_or(0), body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let (status, body) = parse(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!((status, body.as_slice()), (400, b"{}".as_slice()));
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            assert!(parse(answer).is_err(), "{}", String::from_utf8_lossy(answer));
        }
    }
}
