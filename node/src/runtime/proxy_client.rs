//! One connection to one container's action proxy, by hand: a request goes out, its answer comes back, and the caller
//! learns exactly how far it got. Whether work may be done again elsewhere depends on nothing else.
//!
//! Whichever worker holds the container's lease can call, without a thread hop: see [`super::socket`].
//!
//! Source: apache/openwhisk `ApacheBlockingContainerClient.scala`, `docs/actions-new.md`.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use protocol::ByteSize;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::{
    io::{Interest, Ready},
    time::Instant,
};

use super::{
    busy_poll::UnderWay,
    http1::{ChunkedDecoder, Framing, Head, MAX_HEAD, parse_head},
    socket::{READ_SIZE, Registered, Socket, expect_silence, is_readable, read_some},
};
use crate::containers::backend::Connection;

/// Calls `/init` and `/run` of one container, one at a time.
#[derive(Debug)]
pub struct ProxyConnection {
    socket: Socket,
    /// Bytes of the answer that is being read, beyond what its body took.
    buffer: Vec<u8>,
    /// Bytes of the previous answer's body that were left in the socket because it was too long.
    unread: u64,
    /// How long the last answer to `/run` took, if it came.
    last_run: Option<Duration>,
    /// False while a call is under way and after one that left the connection in an unknown state.
    usable: bool,
}

/// What to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Init,
    Run,
}

impl Endpoint {
    const fn request_line(self) -> &'static str {
        match self {
            Self::Init => "POST /init HTTP/1.1",
            Self::Run => "POST /run HTTP/1.1",
        }
    }
}

/// How long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    /// The longest body that is a result; exactly this is allowed.
    pub limit: ByteSize,
    /// How much of a longer one is read.
    pub truncation: ByteSize,
}

impl Default for AnswerLimits {
    /// The defaults of the system's limits.
    fn default() -> Self {
        Self { limit: ByteSize::mib(1), truncation: ByteSize::mib(1) }
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct CallOutcome {
    pub observed: Observed,
    /// From the request to the last byte of the answer, or to the failure.
    pub elapsed: Duration,
}

#[derive(Debug)]
pub enum Observed {
    /// The connection was already gone: the container got nothing, so another one may do the work.
    NotSent(io::Error),
    /// The container got the request, or a part of it, and gave no usable answer.
    Lost(io::Error),
    /// No complete answer within the time allowed.
    TimedOut,
    Answer(Answer),
}

/// A complete HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: AnswerBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerBody {
    Whole(Vec<u8>),
    /// Longer than `limit`: its length, and the first bytes.
    TooLong {
        length: u64,
        limit: ByteSize,
        prefix: Vec<u8>,
    },
}

impl ProxyConnection {
    /// Takes over a fresh `connection`.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub fn new(connection: Connection) -> io::Result<Self> {
        Ok(Self { socket: Socket::new(connection)?, buffer: Vec::new(), unread: 0, last_run: None, usable: true })
    }

    /// True if another call may be made; otherwise the container must be connected anew or destroyed.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Posts `body`, which is JSON, and reads the answer within `timeout`.
    ///
    /// Dropping the future leaves the connection unusable: the answer could come at any time.
    pub async fn call(
        &mut self,
        endpoint: Endpoint,
        body: &[u8],
        timeout: Duration,
        limits: AnswerLimits,
    ) -> CallOutcome {
        let began = Instant::now();
        let last = self.last_run.take();
        let was_usable = std::mem::replace(&mut self.usable, false);
        let mut progress = Progress::default();
        let observed = if was_usable {
            match tokio::time::timeout(timeout, self.exchange(endpoint, body, limits, last, &mut progress)).await {
                Ok(Ok(answer)) => Observed::Answer(answer),
                Ok(Err(error)) if progress.sent == 0 => Observed::NotSent(error),
                Ok(Err(error)) => Observed::Lost(error),
                Err(_) if progress.sent == 0 => {
                    Observed::NotSent(io::Error::new(io::ErrorKind::TimedOut, "the container took no bytes"))
                }
                Err(_) => Observed::TimedOut,
            }
        } else {
            Observed::NotSent(io::Error::new(io::ErrorKind::NotConnected, "the connection was given up"))
        };
        self.usable = progress.clean;
        let elapsed = began.elapsed();
        if endpoint == Endpoint::Run && matches!(observed, Observed::Answer(_)) {
            self.last_run = Some(elapsed);
        }
        CallOutcome { observed, elapsed }
    }

    async fn exchange(
        &mut self,
        endpoint: Endpoint,
        body: &[u8],
        limits: AnswerLimits,
        last: Option<Duration>,
        progress: &mut Progress,
    ) -> io::Result<Answer> {
        let call = UnderWay::begin();
        let Self { socket, buffer, unread, .. } = self;
        if *unread > 0 {
            discard(socket.reader()?, unread).await?;
        }
        // Whether it was closed, or speaks without being asked, is known before anything is sent.
        expect_silence(socket)?;

        let head = format!(
            "{}\r\nHost: action\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
            endpoint.request_line(),
            body.len()
        );
        let mut request = Request { head: head.as_bytes(), body };
        let mut answered_early = false;
        let for_both;
        let registered = if request.send(socket.as_fd(), progress)? {
            socket.reader()?
        } else {
            for_both = socket.reader_and_writer()?;
            answered_early = request.send_rest(&for_both, progress).await?;
            &for_both
        };

        buffer.clear();
        call.look(registered, last).await;
        let head = read_head(registered, buffer).await?;
        buffer.drain(..head.size);
        let body = match head.framing {
            Framing::Length(length) => read_sized(registered, buffer, length, limits, unread).await?,
            Framing::Chunked => read_chunked(registered, buffer, limits).await?,
            Framing::Absent => return Err(broken("an answer without a body")),
        };
        // What follows an answer unasked would be taken for the next one's.
        progress.clean = head.keep_alive && !answered_early && buffer.is_empty();
        Ok(Answer { status: head.status, body })
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// Bytes of the request that the kernel took.
    sent: usize,
    /// The whole exchange ended as HTTP wants it.
    clean: bool,
}

/// What is left to send.
struct Request<'a> {
    head: &'a [u8],
    body: &'a [u8],
}

impl Request<'_> {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// Sends what the socket takes now; true once all is sent.
    fn send(&mut self, socket: BorrowedFd<'_>, progress: &mut Progress) -> io::Result<bool> {
        while !self.is_empty() {
            let parts = [IoSlice::new(self.head), IoSlice::new(self.body)];
            let no_control = &mut SendAncillaryBuffer::default();
            match rustix::net::sendmsg(socket, &parts, no_control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    progress.sent += sent;
                    let of_head = sent.min(self.head.len());
                    self.head = &self.head[of_head..];
                    self.body = &self.body[sent - of_head..];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Sends what is left as the socket takes it. True: the proxy answered before it had read all, as it may when it refuses
    /// a long request; then its answer counts and the rest does not.
    async fn send_rest(&mut self, to: &Registered, progress: &mut Progress) -> io::Result<bool> {
        while !self.is_empty() {
            let mut ready = to.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.ready().is_readable() {
                if is_readable(to)? {
                    return Ok(true);
                }
                ready.clear_ready_matching(Ready::READABLE);
            }
            if ready.ready().is_writable() && !self.send(to.as_fd(), progress)? {
                ready.clear_ready_matching(Ready::WRITABLE);
            }
        }
        Ok(false)
    }
}

/// Room for the first read of an answer: small results fit whole.
const FIRST_READ: usize = 4 << 10;

async fn read_head(from: &Registered, buffer: &mut Vec<u8>) -> io::Result<Head> {
    loop {
        if !buffer.is_empty()
            && let Some(head) = parse_head(buffer)?
        {
            if (100..200).contains(&head.status) && head.status != 101 {
                buffer.drain(..head.size);
                continue;
            }
            return Ok(head);
        }
        let room = if buffer.is_empty() { FIRST_READ } else { MAX_HEAD.saturating_sub(buffer.len()).max(1) };
        read_some(from, buffer, room).await?;
    }
}

/// Reads a body of `length` bytes. Of one beyond the limit only the prefix is read; `unread` tells what remains.
async fn read_sized(
    from: &Registered,
    buffer: &mut Vec<u8>,
    length: u64,
    limits: AnswerLimits,
    unread: &mut u64,
) -> io::Result<AnswerBody> {
    let too_long = length > limits.limit.bytes();
    let wanted = if too_long { length.min(limits.truncation.bytes()) } else { length };
    let wanted = usize::try_from(wanted).map_err(|_| broken("a body longer than memory"))?;
    let at_hand = wanted.min(buffer.len());
    let mut body = Vec::with_capacity(wanted.min(1 << 20));
    body.extend(buffer.drain(..at_hand));
    while body.len() < wanted {
        let room = wanted - body.len();
        read_some(from, &mut body, room).await?;
    }
    if !too_long {
        return Ok(AnswerBody::Whole(body));
    }
    let left = length - wanted as u64;
    let beyond = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.drain(..beyond);
    *unread = left - beyond as u64;
    Ok(AnswerBody::TooLong { length, limit: limits.limit, prefix: body })
}

/// Reads a chunked body to its end, keeping no more than may be shown of it. Its length is known only then.
async fn read_chunked(from: &Registered, buffer: &mut Vec<u8>, limits: AnswerLimits) -> io::Result<AnswerBody> {
    let most = usize::try_from(limits.limit.max(limits.truncation).bytes()).unwrap_or(usize::MAX);
    let mut decoder = ChunkedDecoder::default();
    let mut body = Vec::new();
    let mut length = 0u64;
    loop {
        let used = decoder.decode(buffer, |bytes| {
            length += bytes.len() as u64;
            body.extend_from_slice(&bytes[..bytes.len().min(most - body.len())]);
        })?;
        buffer.drain(..used);
        if decoder.is_done() {
            break;
        }
        read_some(from, buffer, READ_SIZE).await?;
    }
    if length <= limits.limit.bytes() {
        return Ok(AnswerBody::Whole(body));
    }
    body.truncate(usize::try_from(limits.truncation.bytes()).unwrap_or(usize::MAX));
    Ok(AnswerBody::TooLong { length, limit: limits.limit, prefix: body })
}

/// Reads and forgets `unread` bytes.
async fn discard(from: &Registered, unread: &mut u64) -> io::Result<()> {
    let mut scrap = Vec::new();
    while *unread > 0 {
        scrap.clear();
        read_some(from, &mut scrap, usize::try_from(*unread).unwrap_or(usize::MAX).min(READ_SIZE)).await?;
        *unread -= scrap.len() as u64;
    }
    Ok(())
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests;
