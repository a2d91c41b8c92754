//! Between a socket and the framework: bounds that it does not have, and words where it has none.
//!
//! The framework bounds the time of a connection's first head only and lets a head grow to 128 KiB, waits for ever for a
//! client that takes nothing of its answer, and refuses what is no HTTP with an empty body. Where requests come before
//! earlier ones were answered, it frames answers by what the latest request said. Here every head has its time and its
//! size, a client that stalls is left, every refusal is worded as the API's are, and a request comes after the answer to
//! the one before.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::Bytes,
};
use memchr::memmem;
use protocol::ErrorCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{body::Body, error::ApiError, framing::Request};

/// A client that was refused gets this long to close, so that a reset does not take the answer from it.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To send a whole head.
    pub head: Duration,
    /// To take any more of an answer.
    pub answer: Duration,
}

/// The requests of one connection, told by those who answer them.
#[derive(Debug, Default)]
pub struct Requests {
    begun: Cell<u64>,
    open: Cell<u32>,
    /// What comes now is the rest of a body that nobody reads.
    closing: Cell<bool>,
    /// Of the connection, if it waits for an answer before it reads on.
    waiting: RefCell<Option<Waker>>,
}

impl Requests {
    pub fn begin(self: &Rc<Self>) -> OpenRequest {
        self.begun.set(self.begun.get() + 1);
        self.open.set(self.open.get() + 1);
        OpenRequest(Rc::clone(self))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct OpenRequest(Rc<Requests>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if let Some(waiting) = self.0.waiting.take() {
            waiting.wake();
        }
    }
}

/// The body of an answer, and the request that is open until it was sent. The request's own body goes no earlier
/// either: of one that is dropped unread, the framework reads on for as long as the client cares to send.
pub struct Answer {
    pub body: BoxBody,
    pub request_body: Body,
    pub request: Option<OpenRequest>,
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().body.as_pin_mut().poll_next(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let (true, Some(OpenRequest(requests))) = (self.request_body.is_unread(), &self.request) {
            requests.closing.set(true);
        }
    }
}

/// A connection.
pub struct Guarded {
    stream: TcpStream,
    patience: Patience,
    requests: Rc<Requests>,
    /// How many had begun when `request` was nothing yet.
    seen: u64,
    /// The one that comes, or is being answered.
    request: Request,
    /// What came behind it.
    next: Bytes,
    /// The end of the head's time; made when one has to be waited for.
    late: Option<Pin<Box<Sleep>>>,
    /// The same for a client that takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    farewell: Option<Farewell>,
}

impl Guarded {
    pub fn new(stream: TcpStream, patience: Patience) -> Self {
        Self {
            stream,
            patience,
            requests: Rc::default(),
            seen: 0,
            request: Request::default(),
            next: Bytes::new(),
            late: None,
            stalled: None,
            farewell: None,
        }
    }

    pub fn requests(&self) -> Rc<Requests> {
        Rc::clone(&self.requests)
    }

    /// True once the time is over that a head may take. Between two requests there is none to wait for.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.request.is_in_head() || self.seen > 0 && !self.request.has_begun() {
            return false;
        }
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(self.patience.head)));
        late.as_mut().poll(cx).is_ready()
    }

    /// Reads what has come, be it that of an earlier read which went too far.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.next.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let fits = self.next.len().min(buffer.remaining());
        buffer.put_slice(&self.next.split_to(fits));
        Poll::Ready(Ok(()))
    }

    /// The request is whole and not answered. What comes meanwhile is kept back, and that the client is gone is told.
    fn read_ahead(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.requests.waiting.replace(Some(cx.waker().clone()));
        if !self.next.is_empty() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let come = &buffer.filled()[before..];
        if come.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.next = Bytes::copy_from_slice(come);
        buffer.set_filled(before);
        Poll::Pending
    }

    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.patience.answer)));
                ready!(stalled.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
            }
            done => {
                self.stalled = None;
                done
            }
        }
    }

    fn part_with(&mut self, code: ErrorCode) {
        self.farewell.get_or_insert_with(|| Farewell {
            answer: ApiError::default_of(code).alone(),
            sent: 0,
            end: None,
        });
    }

    /// Ready when there is none, or no more of it.
    fn say_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.farewell.as_mut().map_or(Poll::Ready(()), |farewell| farewell.poll(&mut self.stream, cx))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.farewell.is_some() {
            // The end of what the framework is given; it then closes, which is when the refusal is sent.
            return Poll::Ready(Ok(()));
        }
        if this.requests.closing.get() {
            return this.read(cx, buffer);
        }
        let begun = this.requests.begun.get();
        if this.seen != begun && this.requests.open.get() == 0 {
            (this.seen, this.request, this.late) = (begun, Request::default(), None);
        }
        if this.request.is_whole() {
            return this.read_ahead(cx, buffer);
        }
        let before = buffer.filled().len();
        let refused = match this.read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let come = &buffer.filled()[before..];
                match this.request.take(come) {
                    Ok(taken) => {
                        if taken < come.len() {
                            let behind = Bytes::copy_from_slice(&come[taken..]);
                            this.next =
                                if this.next.is_empty() { behind } else { [behind, this.next.clone()].concat().into() };
                            buffer.set_filled(before + taken);
                        }
                        return Poll::Ready(Ok(()));
                    }
                    Err(code) => code,
                }
            }
            Poll::Pending if this.is_late(cx) => ErrorCode::RequestTimeout,
            other => return other,
        };
        buffer.set_filled(before);
        this.part_with(refused);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match wordless_refusal(bytes) {
            None => this.write(cx, bytes),
            Some((0, code)) => {
                this.part_with(code);
                ready!(this.say_farewell(cx));
                Poll::Ready(Ok(bytes.len()))
            }
            // What stands before it goes first.
            Some((at, _)) => this.write(cx, &bytes[..at]),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.say_farewell(cx));
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// Where in `bytes`, which the framework writes, an answer begins that is a refusal without a body: its own, since ours
/// have one. It is always the last.
fn wordless_refusal(bytes: &[u8]) -> Option<(usize, ErrorCode)> {
    const START: &[u8] = b"HTTP/1.";
    const STATUS: std::ops::Range<usize> = START.len() + 2..START.len() + 5;
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let at = memmem::rfind(bytes, START)?;
    let head = &bytes[at..];
    memmem::find(head, b"content-length: 0\r\n")?;
    match head.get(STATUS)? {
        b"400" => Some((at, ErrorCode::BadRequest)),
        b"408" => Some((at, ErrorCode::RequestTimeout)),
        b"431" => Some((at, ErrorCode::HeadTooLarge)),
        b"500" => Some((at, ErrorCode::Internal)),
        _ => None,
    }
}

/// The end of a connection: the refusal is sent, then what still comes is read and forgotten, for a while.
struct Farewell {
    answer: Vec<u8>,
    sent: usize,
    end: Option<Pin<Box<Sleep>>>,
}

impl Farewell {
    /// Ready when the connection can be dropped. Nobody is left to be told of errors.
    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while self.sent < self.answer.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.answer[self.sent..])) {
                Ok(sent @ 1..) => self.sent += sent,
                _ => return Poll::Ready(()),
            }
        }
        let _ = ready!(Pin::new(&mut *stream).poll_shutdown(cx));
        let mut scrap = [0; 4 << 10];
        loop {
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frameworks_own_refusals_are_known() {
        let own = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: today\r\n\r\n";
        assert_eq!(wordless_refusal(own), Some((0, ErrorCode::BadRequest)));
        let older = b"HTTP/1.0 431 X\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(wordless_refusal(older), Some((0, ErrorCode::HeadTooLarge)));
        let ours = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(wordless_refusal(ours), None);
        assert_eq!(wordless_refusal(&[&ours[..], own].concat()), Some((ours.len(), ErrorCode::BadRequest)));
        for other in [
            &b"HTTP/1.1 100 Continue\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
            b"0\r\n\r\n",
            b"",
        ] {
            assert_eq!(wordless_refusal(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
