//! The admin socket: both ends.

use std::{
    fs::{File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Name of the socket in the data directory.
pub const SOCKET: &str = "admin.sock";
const UNFINISHED: &str = "admin.sock.new";

/// Listens on the socket of `data_dir`, replacing what a killed process left there. It gets its name only when nobody
/// but its owner can open it.
pub(super) fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(data_dir)?;
    let unfinished = short(&dir).join(UNFINISHED);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    std::fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
    std::fs::rename(&unfinished, short(&dir).join(SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the socket of a node that stops, as nobody would answer there.
///
/// # Errors
/// If it cannot be removed; that it is gone is none.
pub(super) fn remove(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(data_dir.join(SOCKET)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Connects to the node that owns `data_dir`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused`: no node runs there.
pub fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let dir = File::open(data_dir)?;
    UnixStream::connect(short(&dir).join(SOCKET))
}

/// Another path to `dir`: that of a socket must have less than 108 bytes.
fn short(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}", dir.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn only_the_owner_can_open_it_however_long_the_path() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d".repeat(200));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);

        drop(listen(&dir).unwrap());
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "left behind");

        let listener = listen(&dir).unwrap();
        assert_eq!(dir.join(SOCKET).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = connect(&dir).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        assert!(!dir.join(UNFINISHED).exists());
    }
}
