//! Extraction of action archives, for every runtime: `whisp unpack zip|tar.gz FOLDER`, run inside the sandbox by the
//! launchers, so that even a mistake here gives an archive no more than the action's own rights.
//!
//! Refused, with nothing of the entry written: names that are absolute or climb out, links that leave the folder,
//! devices and other special files, and archives that unpack to more than [`Limits`]. Links are made when all files
//! are there, so nothing is ever written through one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use flate2::read::MultiGzDecoder;

/// What one archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: u64,
    pub entries: u64,
    /// Folders below one another.
    pub depth: usize,
}

impl Default for Limits {
    /// Well above any real action; the container's memory limit counts the files as well.
    fn default() -> Self {
        Self { bytes: 1 << 30, entries: 100_000, depth: 100 }
    }
}

/// Formats that OpenWhisk's runtimes accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Zip,
    TarGz,
}

impl Format {
    /// The format that `bytes` begin like.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"PK\x03\x04") {
            Some(Self::Zip)
        } else if bytes.starts_with(b"\x1f\x8b\x08") {
            Some(Self::TarGz)
        } else {
            None
        }
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("archive entry `{0}` is outside of the action's folder")]
    Outside(String),
    #[error("archive entry `{0}` is a link that leaves the action's folder")]
    Link(String),
    #[error("archive entry `{0}` is a special file")]
    Special(String),
    #[error("the archive unpacks to more than {0}")]
    TooMuch(&'static str),
    #[error("the archive is broken: {0}")]
    Broken(String),
    #[error("cannot write `{path}`: {source}")]
    Write { path: String, source: io::Error },
}

/// `whisp unpack FORMAT FOLDER`: the archive comes on stdin, the reason of a failure goes to stderr.
pub fn main(arguments: &[String]) -> ExitCode {
    let (format, folder) = match arguments {
        [format, folder] if format == "zip" => (Format::Zip, folder),
        [format, folder] if format == "tar.gz" => (Format::TarGz, folder),
        _ => {
            eprintln!("usage: whisp unpack zip|tar.gz FOLDER < ARCHIVE");
            return ExitCode::from(2);
        }
    };
    let mut archive = Vec::new();
    let done = io::stdin()
        .lock()
        .read_to_end(&mut archive)
        .map_err(|error| UnpackError::Broken(error.to_string()))
        .and_then(|_| unpack(format, io::Cursor::new(archive), Path::new(folder), Limits::default()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Unpacks `archive` into `folder`, which exists and is nobody else's.
///
/// # Errors
/// [`UnpackError`]; what was unpacked before remains.
pub fn unpack(format: Format, archive: impl Read + Seek, folder: &Path, limits: Limits) -> Result<(), UnpackError> {
    let mut target = Target { folder, limits, bytes: 0, entries: 0, links: Vec::new() };
    match format {
        Format::Zip => target.unpack_zip(archive)?,
        Format::TarGz => target.unpack_tar(archive)?,
    }
    target.make_links()
}

struct Target<'a> {
    folder: &'a Path,
    limits: Limits,
    bytes: u64,
    entries: u64,
    /// Where, and what it says.
    links: Vec<(PathBuf, PathBuf)>,
}

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

impl Target<'_> {
    fn unpack_zip(&mut self, archive: impl Read + Seek) -> Result<(), UnpackError> {
        let broken = |error: zip::result::ZipError| UnpackError::Broken(error.to_string());
        let mut zip = zip::ZipArchive::new(archive).map_err(broken)?;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(broken)?;
            let name = entry.name().map_err(broken)?.into_owned();
            let path = self.admit(&name)?;
            let mode = entry.unix_mode().unwrap_or(0);
            match mode & S_IFMT {
                _ if entry.is_dir() => self.make_folder(&path)?,
                // Archives made elsewhere have no file type.
                0 | S_IFREG => self.write(&path, mode, &mut entry)?,
                S_IFDIR => self.make_folder(&path)?,
                S_IFLNK => {
                    let mut target = String::new();
                    let read = entry.by_ref().take(4096).read_to_string(&mut target);
                    read.map_err(|error| UnpackError::Broken(error.to_string()))?;
                    self.links.push((path, PathBuf::from(target)));
                }
                _ => return Err(UnpackError::Special(name)),
            }
        }
        Ok(())
    }

    fn unpack_tar(&mut self, archive: impl Read) -> Result<(), UnpackError> {
        let broken = |error: io::Error| UnpackError::Broken(error.to_string());
        let mut tar = tar::Archive::new(MultiGzDecoder::new(archive));
        for entry in tar.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let kind = entry.header().entry_type();
            if kind.is_pax_global_extensions() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = self.admit(&name)?;
            let mode = entry.header().mode().unwrap_or(0);
            if kind.is_dir() {
                self.make_folder(&path)?;
            } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
                self.write(&path, mode, &mut entry)?;
            } else if kind.is_symlink() {
                let target = entry.link_name().map_err(broken)?;
                let target = target.ok_or_else(|| UnpackError::Broken(format!("link `{name}` has no target")))?;
                self.links.push((path, target.into_owned()));
            } else if kind.is_hard_link() {
                let target = entry.link_name().map_err(broken)?;
                let target = target.ok_or_else(|| UnpackError::Broken(format!("link `{name}` has no target")))?;
                let original = inside(&target).ok_or_else(|| UnpackError::Link(name.clone()))?;
                self.make_parents(&path)?;
                let made = fs::hard_link(self.folder.join(original), self.folder.join(&path));
                made.map_err(|source| UnpackError::Write { path: name, source })?;
            } else {
                return Err(UnpackError::Special(name));
            }
        }
        Ok(())
    }

    /// The path of entry `name` below the folder; counts it.
    fn admit(&mut self, name: &str) -> Result<PathBuf, UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooMuch("the allowed number of files"));
        }
        let path = inside(Path::new(name)).ok_or_else(|| UnpackError::Outside(name.to_owned()))?;
        if path.components().count() > self.limits.depth {
            return Err(UnpackError::TooMuch("the allowed depth of folders"));
        }
        Ok(path)
    }

    fn make_folder(&self, path: &Path) -> Result<(), UnpackError> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(self.folder.join(path));
        made.map_err(|source| UnpackError::Write { path: path.display().to_string(), source })
    }

    fn make_parents(&self, path: &Path) -> Result<(), UnpackError> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.make_folder(parent),
            _ => Ok(()),
        }
    }

    fn write(&mut self, path: &Path, mode: u32, content: &mut dyn Read) -> Result<(), UnpackError> {
        let failed = |source: io::Error| UnpackError::Write { path: path.display().to_string(), source };
        self.make_parents(path)?;
        let full = self.folder.join(path);
        // Owner may always read and write; set-id and sticky bits have no business here.
        let mode = if mode & 0o777 == 0 { 0o644 } else { mode & 0o777 | 0o600 };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&full)
            .map_err(failed)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        // The sizes that an archive declares are not believed.
        let room = self.limits.bytes - self.bytes;
        self.bytes += copy(&mut content.take(room + 1), &mut file, path)?;
        if self.bytes > self.limits.bytes {
            return Err(UnpackError::TooMuch("the allowed number of bytes"));
        }
        Ok(())
    }

    fn make_links(&self) -> Result<(), UnpackError> {
        for (path, target) in &self.links {
            let name = || path.display().to_string();
            let parent = path.parent().unwrap_or(Path::new(""));
            if !stays_inside(parent, target) || !self.is_real_folder(parent) {
                return Err(UnpackError::Link(name()));
            }
            self.make_parents(path)?;
            symlink(target, self.folder.join(path)).map_err(|source| UnpackError::Write { path: name(), source })?;
        }
        Ok(())
    }

    /// No part of `path` is a link; it may be missing.
    fn is_real_folder(&self, path: &Path) -> bool {
        path.ancestors().all(|part| !self.folder.join(part).is_symlink() || part.as_os_str().is_empty())
    }
}

/// A link in the folder `parent` that says `target` leads nowhere outside. It may climb at its beginning only: behind
/// another link, `..` would mean something else than it seems to.
fn stays_inside(parent: &Path, target: &Path) -> bool {
    let mut climbs = target.components().skip_while(|part| *part == Component::ParentDir);
    !target.as_os_str().is_empty()
        && climbs.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && inside(&parent.join(target)).is_some()
}

/// Copies all of `content`; tells a broken archive from a full disk.
fn copy(content: &mut dyn Read, file: &mut File, path: &Path) -> Result<u64, UnpackError> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackError::Broken(format!("`{}`: {error}", path.display()))),
        };
        file.write_all(&buffer[..read])
            .map_err(|source| UnpackError::Write { path: path.display().to_string(), source })?;
        total += read as u64;
    }
}

/// `path` without `.` and `..`, if it is relative and stays below where it begins.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests;
