//! How the node reaches the launcher in a container: descriptor 3 is either the other end of the one connection there is, or
//! a socket that listens, so that several activations can be there at once.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The folder of the sockets that listen, which only the node can enter.
#[derive(Debug)]
pub(super) struct Doors {
    folder: OwnedFd,
    next: AtomicU64,
}

/// The node's side.
#[derive(Debug)]
pub(super) enum Door {
    Pair(UnixStream),
    Listener {
        path: PathBuf,
        /// The first connection there. Nothing is asked on it; that it ends tells the launcher that the node is no more.
        #[allow(dead_code, reason = "held for its end")]
        lifeline: UnixStream,
    },
}

impl Doors {
    /// Empties or makes the folder in `state_dir`.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("doors");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder: fs::File::open(&folder)?.into(), next: AtomicU64::new(0) })
    }

    /// A door whose launcher listens, and the launcher's descriptor.
    ///
    /// # Errors
    /// If there are no descriptors, or the folder cannot be written.
    pub fn listener(&self) -> io::Result<(Door, OwnedFd)> {
        // Through the descriptor: a socket's path has 107 bytes at most.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/proc/self/fd/{}/{number}", self.folder.as_raw_fd()));
        let listener = UnixListener::bind(&path)?;
        let connected = connect(&path);
        match connected {
            Ok(lifeline) => Ok((Door::Listener { path, lifeline }, listener.into())),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }
}

impl Door {
    /// One with a single connection, and the launcher's descriptor.
    ///
    /// # Errors
    /// If there are no descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self::Pair(ours), theirs.into()))
    }

    /// A connection: of a pair a copy of the one there is, which does not end it when it is closed, and survives pauses.
    ///
    /// # Errors
    /// `NotConnected` if nobody listens any more.
    pub fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Pair(connection) => connection.try_clone(),
            Self::Listener { path, .. } => connect(path).map_err(|error| match error.kind() {
                // The launcher has listened from its start.
                io::ErrorKind::ConnectionRefused => io::Error::new(io::ErrorKind::NotConnected, error),
                _ => error,
            }),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Listener { path, .. } = self {
            remove(path);
        }
    }
}

/// Never waits: a launcher that does not take connections any more has its queue full.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, "the socket of a container cannot be removed");
    }
}
