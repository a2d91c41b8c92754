//! The socket to a container's action proxy, for whichever worker holds the container's lease.
//!
//! It belongs to no tokio runtime: a call registers it with the runtime it runs on. There it stays registered until another
//! runtime wants it, so that a worker who calls the same container again asks the kernel for nothing.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
};

use rustix::net::RecvFlags;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Handle, Id},
};

use crate::containers::backend::Connection;

/// A connection that a runtime tells the readiness of.
pub(super) type Registered = AsyncFd<Arc<Connection>>;

#[derive(Debug)]
pub(super) struct Socket {
    connection: Arc<Connection>,
    /// For reading, and with whom.
    registered: Option<(Id, Registered)>,
}

impl Socket {
    /// Takes over a fresh `connection`.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn new(connection: Connection) -> io::Result<Self> {
        match &connection {
            Connection::Unix(stream) => stream.set_nonblocking(true)?,
            Connection::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
            }
        }
        Ok(Self { connection: Arc::new(connection), registered: None })
    }

    /// Registered for reading with the runtime of this call.
    pub fn reader(&mut self) -> io::Result<&Registered> {
        let runtime = Handle::current().id();
        let registered = match self.registered.take().filter(|(with, _)| *with == runtime) {
            Some(registered) => registered,
            None => (runtime, self.register(Interest::READABLE)?),
        };
        Ok(&self.registered.insert(registered).1)
    }

    /// Registered for reading and writing, until it is dropped. A socket that is hardly ever full should not wake anybody
    /// each time it can be written.
    pub fn reader_and_writer(&mut self) -> io::Result<Registered> {
        self.registered = None;
        self.register(Interest::READABLE | Interest::WRITABLE)
    }

    fn register(&self, interest: Interest) -> io::Result<Registered> {
        let connection = Arc::clone(&self.connection);
        // SAFETY: a connection never changes its descriptor, which is open for as long as the connection lives.
        Ok(unsafe { AsyncFd::register_with_interest(connection, interest) }?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Connection::Unix(stream) => stream.as_fd(),
            Connection::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Appends at least one and at most `room` bytes to `to`. Never beyond `room`: what follows must stay in the socket, where
/// the next call looks for it.
pub(super) async fn read_some(from: &Registered, to: &mut Vec<u8>, room: usize) -> io::Result<()> {
    loop {
        let mut ready = from.readable().await?;
        let length = to.len();
        let room = room.min(READ_SIZE);
        to.resize(length + room, 0);
        let read = rustix::net::recv(from, &mut to[length..], RecvFlags::DONTWAIT).map(|(_, read)| read);
        to.truncate(length + read.unwrap_or(0));
        match read {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the container closed the connection")),
            Ok(read) => {
                // That was all there was, so that the next call need not look in vain.
                if read < room {
                    ready.clear_ready();
                }
                return Ok(());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Room made for one read.
pub(super) const READ_SIZE: usize = 64 << 10;

/// Nothing to read and not closed.
pub(super) fn expect_silence(socket: &impl AsFd) -> io::Result<()> {
    let mut byte = [0u8; 1];
    match rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        Ok((_, 0)) => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the container closed the connection")),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the container spoke without being asked")),
        Err(error) => Err(error.into()),
    }
}

/// Something to read, or the end.
pub(super) fn is_readable(socket: &impl AsFd) -> io::Result<bool> {
    let mut byte = [0u8; 1];
    match rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    fn socket() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Socket::new(Connection::Unix(ours)).expect("a socket"), theirs)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    /// Reads once, after `theirs` has written.
    async fn heard(socket: &mut Socket, theirs: &mut UnixStream) -> Vec<u8> {
        let reader = socket.reader().expect("registered");
        let mut bytes = Vec::new();
        {
            let mut reading = std::pin::pin!(read_some(reader, &mut bytes, 100));
            assert!(futures_util::poll!(&mut reading).is_pending(), "nothing was written yet");
            theirs.write_all(b"hello").expect("written");
            reading.await.expect("read");
        }
        bytes
    }

    #[test]
    fn one_socket_serves_one_runtime_after_another_again_and_again() {
        let (mut socket, mut theirs) = socket();
        let runtimes = [runtime(), runtime()];
        for runtime in [0, 0, 1, 1, 0] {
            assert_eq!(runtimes[runtime].block_on(heard(&mut socket, &mut theirs)), b"hello");
        }
        drop(runtimes);
        assert_eq!(runtime().block_on(heard(&mut socket, &mut theirs)), b"hello", "and those of before are gone");
    }

    #[test]
    fn the_end_of_a_connection_is_heard_also_behind_its_last_bytes() {
        let (mut socket, mut theirs) = socket();
        runtime().block_on(async {
            theirs.write_all(b"bye").expect("written");
            drop(theirs);
            let mut bytes = Vec::new();
            let reader = socket.reader().expect("registered");
            read_some(reader, &mut bytes, 100).await.expect("the last bytes");
            let end = read_some(reader, &mut bytes, 100).await.expect_err("the end");
            assert_eq!((bytes.as_slice(), end.kind()), (b"bye".as_slice(), io::ErrorKind::UnexpectedEof));
        });
    }
}
