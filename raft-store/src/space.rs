//! Room on the disk: how much there is, and whether anything new may be promised.
//!
//! A database that meets a full disk in the middle of a write does not know any more what it has written, and that ends
//! the node. So nothing new is promised long before: with less than `min_free` left the disk is *short*, and whoever would
//! make a promise refuses (see the callers of [`Space::is_short`]). What was promised earlier goes on in the room that is
//! left; soon nothing is written at all. Others may fill the disk to its last byte all the same. For then a file holds a
//! reserve, which is given up when they do, and taken again once there is room: a node that is started on a full disk needs
//! it to read its log. What is given up is for that and for what was promised, and for nothing new.

use std::{
    convert::Infallible,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::sync::watch;

/// Between two looks of nobody in particular. Who makes promises looks at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of the reserve: what is in a write-ahead log, which a start writes out, and half as much again.
const RESERVE: u64 = 96 << 20;
/// The file that holds them.
const RESERVE_FILE: &str = "reserve";

/// The room on the disk under the data.
#[derive(Debug)]
pub struct Space {
    disk: Arc<Disk>,
    /// Dropped to end the thread.
    running: Option<mpsc::Sender<Infallible>>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    /// 0: it is never short.
    min_free: u64,
    /// The reserve while it is there.
    reserve: u64,
    free: AtomicU64,
    /// The part of `free` that is for the reserve, which was given up.
    owed: AtomicU64,
    short: watch::Sender<bool>,
}

/// What of the reserve is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserve {
    Held,
    Given,
    /// Room cannot be reserved on this kind of disk.
    Impossible,
}

impl Space {
    /// Watches the disk under `dir`; gives up the reserve that is there if less than it is left. `min_free`: bytes; 0: nobody
    /// watches, and nothing is ever short.
    ///
    /// # Errors
    /// If there is no thread for it, or the disk cannot be asked.
    pub(crate) fn watch(dir: &Path, min_free: u64) -> io::Result<Self> {
        let disk = Arc::new(Disk::new(dir, min_free, RESERVE));
        if min_free == 0 {
            return Ok(Self { disk, running: None, watcher: None });
        }
        let mut reserve = disk.found();
        disk.look()?;
        if disk.free.load(Ordering::Relaxed) < disk.reserve {
            reserve = disk.give(reserve);
        }
        disk.look()?;
        let (running, ends) = mpsc::channel();
        let watcher = thread::Builder::new().name("disk-watch".to_owned()).spawn({
            let disk = Arc::clone(&disk);
            move || {
                while ends.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    if disk.look().is_ok() {
                        reserve = disk.keep(reserve);
                    }
                }
            }
        })?;
        Ok(Self { disk, running: Some(running), watcher: Some(watcher) })
    }

    /// True if there is too little room for any new promise. Looks at the disk: a microsecond.
    pub fn is_short(&self) -> bool {
        // One that cannot be asked now is what it was.
        self.disk.min_free > 0 && self.disk.look().unwrap_or_else(|_| self.was_short())
    }

    /// The same as of the latest look, a moment ago.
    pub fn was_short(&self) -> bool {
        *self.disk.short.borrow()
    }

    /// Waits until the disk is not short.
    pub async fn room(&self) {
        if self.was_short() {
            // The sender is here, so that it does not end in vain.
            let _ = self.disk.short.subscribe().wait_for(|short| !short).await;
        }
    }

    /// Bytes that may still be written.
    pub fn free_bytes(&self) -> u64 {
        // What was seen last is shown for a disk that cannot be asked now.
        let _ = self.disk.look();
        self.disk.free.load(Ordering::Relaxed)
    }

    /// Bytes without which the disk is short; 0: it never is.
    pub fn min_free_bytes(&self) -> u64 {
        self.disk.min_free
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.running = None;
        if let Some(watcher) = self.watcher.take()
            && watcher.join().is_err()
        {
            tracing::error!("the thread that watches the disk panicked");
        }
    }
}

impl Disk {
    fn new(dir: &Path, min_free: u64, reserve: u64) -> Self {
        let (free, owed, short) = (AtomicU64::new(0), AtomicU64::new(0), watch::Sender::new(false));
        Self { dir: dir.to_owned(), min_free, reserve, free, owed, short }
    }

    /// Returns whether it is short.
    fn look(&self) -> io::Result<bool> {
        let stat = statvfs(&self.dir)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.free.store(free, Ordering::Relaxed);
        self.short.send_if_modified(|short| {
            let needed = if *short { self.enough() } else { self.min_free };
            let is_short = free.saturating_sub(self.owed.load(Ordering::Relaxed)) < needed;
            let changed = *short != is_short;
            *short = is_short;
            if changed && is_short {
                tracing::warn!(
                    free_bytes = free,
                    needed,
                    "the disk is almost full: no writes and no 202s until there is room"
                );
            } else if changed {
                tracing::info!(free_bytes = free, "there is room on the disk again: writes go on");
            }
            changed
        });
        Ok(*self.short.borrow())
    }

    /// A little more to begin again than to stop, so that it does not go to and fro.
    fn enough(&self) -> u64 {
        self.min_free + self.min_free / 8
    }

    fn reserve_file(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    /// What an earlier process left. A part of a reserve is none.
    fn found(&self) -> Reserve {
        match fs::metadata(self.reserve_file()) {
            Ok(found) if found.len() == self.reserve => Reserve::Held,
            Ok(_) => self.give(Reserve::Held),
            Err(_) => self.now(Reserve::Given),
        }
    }

    /// Gives up or takes the reserve, as there is room.
    fn keep(&self, reserve: Reserve) -> Reserve {
        let free = self.free.load(Ordering::Relaxed);
        match reserve {
            Reserve::Held if free < self.reserve.min(self.min_free) / 2 => self.give(reserve),
            Reserve::Given if free >= self.reserve + self.enough() => self.take(),
            _ => reserve,
        }
    }

    fn give(&self, reserve: Reserve) -> Reserve {
        if reserve != Reserve::Held {
            return reserve;
        }
        match fs::remove_file(self.reserve_file()) {
            Ok(()) => {
                tracing::info!("the reserve of disk space is given up");
                self.now(Reserve::Given)
            }
            Err(error) => {
                tracing::error!(%error, "the reserve of disk space cannot be given up");
                self.now(Reserve::Impossible)
            }
        }
    }

    fn take(&self) -> Reserve {
        let path = self.reserve_file();
        let taken = File::create(&path).and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), 0, self.reserve)?));
        let Err(error) = taken else { return self.now(Reserve::Held) };
        // Whatever it is of use for, a part of it is not.
        let _ = fs::remove_file(&path);
        if error.kind() == io::ErrorKind::StorageFull {
            return Reserve::Given;
        }
        tracing::warn!(%error, "no disk space can be reserved here: a node that is started on a full disk may not start");
        self.now(Reserve::Impossible)
    }

    fn now(&self, reserve: Reserve) -> Reserve {
        let owed = if reserve == Reserve::Given { self.reserve } else { 0 };
        self.owed.store(owed, Ordering::Relaxed);
        reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_taken_where_there_is_room_and_given_up_where_there_is_none() {
        const MIN: u64 = 1 << 20;
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(dir.path(), MIN, 2 * MIN);
        let with = |free, reserve| {
            disk.free.store(free, Ordering::Relaxed);
            let reserve = disk.keep(reserve);
            assert_eq!(disk.reserve_file().exists(), reserve == Reserve::Held);
            assert_eq!(disk.owed.load(Ordering::Relaxed), if reserve == Reserve::Held { 0 } else { 2 * MIN });
            reserve
        };
        assert_eq!(disk.found(), Reserve::Given);
        assert_eq!(with(3 * MIN, Reserve::Given), Reserve::Given, "it would make the disk short");
        assert_eq!(with(4 * MIN, Reserve::Given), Reserve::Held);
        assert_eq!(fs::metadata(disk.reserve_file()).expect("a file").len(), 2 * MIN);
        assert_eq!(with(MIN / 2, Reserve::Held), Reserve::Held, "what was promised still has room");
        assert_eq!(disk.found(), Reserve::Held, "by a later process");
        assert_eq!(with(MIN / 2 - 1, Reserve::Held), Reserve::Given);
        fs::write(disk.reserve_file(), b"a part").expect("a file");
        assert_eq!(disk.found(), Reserve::Given);
        assert!(!disk.reserve_file().exists());
    }

    #[test]
    fn room_that_was_reserved_is_for_nothing_new() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::new(dir.path(), 1, u64::MAX / 2);
        assert!(!disk.look().expect("a disk"), "there is more than a byte");
        disk.now(Reserve::Given);
        assert!(disk.look().expect("a disk"), "but not beyond what is owed");
        disk.now(Reserve::Impossible);
        assert!(!disk.look().expect("a disk"));
    }

    #[tokio::test]
    async fn a_disk_with_less_than_was_asked_for_is_short_and_one_of_which_nothing_is_asked_never() {
        let dir = tempfile::tempdir().expect("a folder");
        let space = Space::watch(dir.path(), 0).expect("a disk");
        assert!(!space.is_short() && space.free_bytes() > 0);
        space.room().await;
        let space = Space::watch(dir.path(), u64::MAX / 4).expect("a disk");
        assert!(space.is_short() && space.was_short());
    }

    #[tokio::test]
    async fn who_waits_for_room_goes_on_when_there_is_some() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(Disk::new(dir.path(), 1, 0));
        disk.short.send_replace(true);
        let space = Space { disk: Arc::clone(&disk), running: None, watcher: None };
        let mut waiting = std::pin::pin!(space.room());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(!disk.look().expect("a disk"), "there is more than a byte");
        waiting.await;
    }
}
