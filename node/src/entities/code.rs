//! Action code that is too large for the log: files named by their SHA-256, under `blobs` in the data directory.
//!
//! A file is there in full or not at all: it is written under another name, fsynced and renamed, and the directory is
//! fsynced, *before* the action that names it is proposed. Nobody deletes a file with its action, as another may name
//! the same; [`Blobs::collect`] removes what no action has named for 24 hours. Each upload renews those.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// How long a file stays that no action names.
pub const UNREFERENCED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Names of files that are not complete begin so.
const UNFINISHED: &str = "new-";

/// The hash that names code.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Why code cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} does not hold what its name says", .0.display())]
    Corrupted(PathBuf),
}

/// The code files of this node. Cheap to clone; all methods may wait for the disk.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Held while a file is renewed or looked at for removal, so that an upload never relies on a file that is being
    /// removed.
    renewing: Mutex<()>,
}

impl Blobs {
    /// Files under `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(dir: PathBuf) -> Result<Self, BlobError> {
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self(Arc::new(Inner { dir, renewing: Mutex::new(()) })))
    }

    /// Stores `bytes`, durably, and answers their hash.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn store(&self, bytes: &[u8]) -> Result<[u8; 32], BlobError> {
        let hash = sha256(bytes);
        if self.renew(&hash)? {
            return Ok(hash);
        }
        let unfinished = self.0.dir.join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
        let written = (|| {
            let mut file = File::create_new(&unfinished).map_err(failed("create", &unfinished))?;
            file.write_all(bytes).map_err(failed("write", &unfinished))?;
            file.sync_all().map_err(failed("sync", &unfinished))?;
            let path = self.path(&hash);
            fs::rename(&unfinished, &path).map_err(failed("rename to", &path))?;
            sync_dir(&self.0.dir)
        })();
        if written.is_err() {
            // Whatever went wrong before, the rest of a file that may fill the disk should not stay for a day.
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|()| hash)
    }

    /// The bytes named `hash`.
    ///
    /// # Errors
    /// If they are not there, or are others.
    pub fn read(&self, hash: &[u8; 32]) -> Result<Vec<u8>, BlobError> {
        let path = self.path(hash);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        if sha256(&bytes) == *hash { Ok(bytes) } else { Err(BlobError::Corrupted(path)) }
    }

    /// Removes files that are not in `referenced` and were last stored more than [`UNREFERENCED_FOR`] before `now`, and
    /// answers how many. Idempotent. `referenced`: all that actions name, read after this node applied every write it
    /// answered.
    ///
    /// # Errors
    /// If the directory cannot be read. A file that cannot be removed is logged and left for the next time.
    pub fn collect(&self, referenced: &HashSet<[u8; 32]>, now: SystemTime) -> Result<u64, BlobError> {
        let dir = &self.0.dir;
        let mut removed = 0;
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let entry = entry.map_err(failed("list", dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match hash_of(name) {
                Some(hash) if referenced.contains(&hash) => continue,
                Some(_) => {}
                None if name.starts_with(UNFINISHED) => {}
                // Not ours.
                None => continue,
            }
            let _renewing = self.0.renewing.lock();
            let age = entry.metadata().and_then(|file| file.modified()).map(|time| now.duration_since(time));
            match age {
                Ok(Ok(age)) if age > UNREFERENCED_FOR => match fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(file = name, %error, "an unreferenced code file cannot be removed"),
                },
                // Younger, or from the future: its day is not over.
                Ok(_) => {}
                Err(error) => tracing::warn!(file = name, %error, "a code file cannot be looked at"),
            }
        }
        Ok(removed)
    }

    /// Starts the 24 hours of the file anew. False if it is not there, or is damaged.
    fn renew(&self, hash: &[u8; 32]) -> Result<bool, BlobError> {
        let path = self.path(hash);
        let _renewing = self.0.renewing.lock();
        let mut file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match file.read(&mut chunk).map_err(failed("read", &path))? {
                0 => break,
                n => hasher.update(&chunk[..n]),
            }
        }
        if <[u8; 32]>::from(hasher.finalize()) != *hash {
            return Ok(false);
        }
        file.set_modified(crate::clock::now()).map_err(failed("renew", &path))?;
        // The time must last as long as the promise, and the file may be there only since a rename that nobody synced.
        file.sync_all().map_err(failed("sync", &path))?;
        sync_dir(&self.0.dir)?;
        Ok(true)
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.0.dir.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

fn hash_of(name: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut hash = [0; 32];
    (name.len() == 64).then_some(())?;
    for (byte, pair) in hash.iter_mut().zip(name.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// A name is durable once its directory is.
fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError + use<> {
    let path = path.to_owned();
    move |source| BlobError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    fn age(blobs: &Blobs, hash: &[u8; 32], by: Duration) {
        let file = File::options().write(true).open(blobs.path(hash)).unwrap();
        file.set_modified(crate::clock::now() - by).unwrap();
    }

    const LONG: Duration = Duration::from_secs(25 * 3600);

    #[test]
    fn stored_code_reads_back_and_leaves_nothing_else() {
        let (_dir, blobs) = blobs();
        let hash = blobs.store(b"code").unwrap();
        assert_eq!(blobs.store(b"code").unwrap(), hash);
        assert_eq!(blobs.read(&hash).unwrap(), b"code");
        assert_eq!(fs::read_dir(&blobs.0.dir).unwrap().count(), 1);
        assert!(matches!(blobs.read(&[0; 32]), Err(BlobError::Io { .. })));
    }

    #[test]
    fn damage_is_noticed_and_repaired_by_an_upload() {
        let (_dir, blobs) = blobs();
        let hash = blobs.store(b"code").unwrap();
        fs::write(blobs.path(&hash), b"c0de").unwrap();
        assert!(matches!(blobs.read(&hash), Err(BlobError::Corrupted(_))));
        blobs.store(b"code").unwrap();
        assert_eq!(blobs.read(&hash).unwrap(), b"code");
    }

    #[test]
    fn only_what_nobody_has_named_for_a_day_is_collected() {
        let (_dir, blobs) = blobs();
        let [named, young, old, renewed] = ["named", "young", "old", "renewed"].map(|code| {
            let hash = blobs.store(code.as_bytes()).unwrap();
            if code != "young" {
                age(&blobs, &hash, LONG);
            }
            hash
        });
        blobs.store(b"renewed").unwrap();
        let torn = blobs.0.dir.join("new-torn");
        File::create(&torn).unwrap().set_modified(crate::clock::now() - LONG).unwrap();
        let foreign = blobs.0.dir.join("README");
        File::create(&foreign).unwrap().set_modified(crate::clock::now() - LONG).unwrap();

        let referenced = HashSet::from([named]);
        assert_eq!(blobs.collect(&referenced, crate::clock::now()).unwrap(), 2, "the old one and the torn one");
        assert_eq!(blobs.collect(&referenced, crate::clock::now()).unwrap(), 0);
        assert!([named, young, renewed].iter().all(|hash| blobs.read(hash).is_ok()));
        assert!(blobs.read(&old).is_err() && !torn.exists() && foreign.exists());
    }
}
