//! Archives of actions: whatever they hold, nothing is made outside of their folder, no more than is allowed inside it,
//! and nothing but files, folders and links that stay there.

#![no_main]

use std::{
    fs,
    io::{Cursor, Write},
    os::unix::fs::FileTypeExt,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use node::runtime::archive::{Format, Limits, unpack};
use zip::{CompressionMethod, write::SimpleFileOptions};

/// Small, so that short inputs exceed them.
const LIMITS: Limits = Limits { bytes: 4 << 10, entries: 12, depth: 6 };

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// Bytes as they are.
    Raw(bool, &'a [u8]),
    /// A zip or tar.gz that is whole, of hostile entries.
    Zip(Vec<Entry<'a>>),
    Tar(Vec<Entry<'a>>),
    /// The same with a byte changed: place, new value.
    Damaged(bool, Vec<Entry<'a>>, u16, u8),
}

#[derive(Debug, Arbitrary)]
struct Entry<'a> {
    name: Vec<Part>,
    kind: Kind,
    mode: u16,
    target: Vec<Part>,
    content: &'a [u8],
    /// Kilobytes of zeros behind the content: a bomb.
    zeros: u8,
}

#[derive(Debug, Arbitrary)]
enum Part {
    Up,
    Here,
    Root,
    A,
    B,
    Long,
    Raw([u8; 2]),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    File,
    Folder,
    Link,
    HardLink,
    Device,
    Pipe,
    Other(u8),
}

fuzz_target!(|input: Input| {
    let (format, bytes) = match input {
        Input::Raw(true, bytes) => (Format::Zip, bytes.to_vec()),
        Input::Raw(false, bytes) => (Format::TarGz, gzip(bytes)),
        Input::Zip(entries) => (Format::Zip, zip(&entries)),
        Input::Tar(entries) => (Format::TarGz, gzip(&tar(&entries))),
        Input::Damaged(true, entries, place, value) => (Format::Zip, damaged(zip(&entries), place, value)),
        Input::Damaged(false, entries, place, value) => (Format::TarGz, gzip(&damaged(tar(&entries), place, value))),
    };
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().join("in");
    fs::create_dir(&folder).expect("a folder");
    // Refused or not, the same holds.
    let _ = unpack(format, Cursor::new(bytes), &folder, LIMITS);
    let beside: Vec<_> = fs::read_dir(outer.path()).expect("a folder").flatten().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    let mut bytes = 0;
    look(&folder.canonicalize().expect("a folder"), &folder, &mut bytes);
    // One entry may be cut off where the limit is seen.
    assert!(bytes <= LIMITS.bytes + 1, "{bytes} bytes");
});

fn look(root: &Path, folder: &Path, bytes: &mut u64) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a type");
        assert!(!kind.is_char_device() && !kind.is_block_device() && !kind.is_fifo() && !kind.is_socket(), "{entry:?}");
        if kind.is_symlink() {
            // Dangling links lead nowhere.
            if let Ok(target) = entry.path().canonicalize() {
                assert!(target.starts_with(root), "{entry:?} leads to {target:?}");
            }
        } else if kind.is_dir() {
            look(root, &entry.path(), bytes);
        } else {
            *bytes += entry.metadata().expect("a file").len();
        }
    }
}

fn path(parts: &[Part]) -> Vec<u8> {
    let mut path = Vec::new();
    for (index, part) in parts.iter().take(20).enumerate() {
        if index > 0 {
            path.push(b'/');
        }
        match part {
            Part::Up => path.extend(b".."),
            Part::Here => path.push(b'.'),
            Part::Root => path.push(b'/'),
            Part::A => path.push(b'a'),
            Part::B => path.push(b'b'),
            Part::Long => path.extend([b'x'; 300]),
            Part::Raw(bytes) => path.extend(bytes),
        }
    }
    path
}

fn content(entry: &Entry<'_>) -> Vec<u8> {
    let mut content = entry.content.to_vec();
    content.resize(content.len() + (usize::from(entry.zeros % 16) << 10), 0);
    content
}

fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries.iter().take(16) {
        let name = String::from_utf8_lossy(&path(&entry.name)).into_owned();
        let options = SimpleFileOptions::default()
            .unix_permissions(u32::from(entry.mode))
            .compression_method(CompressionMethod::Deflated);
        // What the writer refuses, such as a name that is there already, is left out.
        match entry.kind {
            Kind::Folder => drop(writer.add_directory(name, options)),
            Kind::Link => {
                let target = String::from_utf8_lossy(&path(&entry.target)).into_owned();
                drop(writer.add_symlink(name, target, options));
            }
            _ => {
                if writer.start_file(name, options).is_ok() {
                    writer.write_all(&content(entry)).expect("memory takes all");
                }
            }
        }
    }
    let mut bytes = writer.finish().expect("memory takes all").into_inner();
    // The writer makes no devices: the file type in the central directory is set afterwards.
    for (index, entry) in entries.iter().take(16).enumerate() {
        let kind = match entry.kind {
            Kind::Device => 0o020_000_u16,
            Kind::Pipe => 0o010_000,
            Kind::Other(kind) => u16::from(kind) << 8,
            _ => continue,
        };
        let record = bytes.windows(4).enumerate().filter(|(_, window)| *window == b"PK\x01\x02").nth(index);
        if let Some((at, _)) = record
            && let Some(mode) = bytes.get_mut(at + 40..at + 42)
        {
            mode.copy_from_slice(&(kind | entry.mode & 0o777).to_le_bytes());
        }
    }
    bytes
}

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries.iter().take(16) {
        let mut header = tar::Header::new_gnu();
        let set = |field: &mut [u8], bytes: &[u8]| {
            let length = bytes.len().min(field.len());
            field[..length].copy_from_slice(&bytes[..length]);
        };
        set(&mut header.as_old_mut().name, &path(&entry.name));
        set(&mut header.as_old_mut().linkname, &path(&entry.target));
        let content = content(entry);
        header.set_entry_type(match entry.kind {
            Kind::File => tar::EntryType::Regular,
            Kind::Folder => tar::EntryType::Directory,
            Kind::Link => tar::EntryType::Symlink,
            Kind::HardLink => tar::EntryType::Link,
            Kind::Device => tar::EntryType::Char,
            Kind::Pipe => tar::EntryType::Fifo,
            Kind::Other(byte) => tar::EntryType::new(byte),
        });
        header.set_mode(u32::from(entry.mode));
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).expect("memory takes all");
    }
    builder.into_inner().expect("memory takes all")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn damaged(mut bytes: Vec<u8>, place: u16, value: u8) -> Vec<u8> {
    if !bytes.is_empty() {
        let place = usize::from(place) % bytes.len();
        bytes[place] = value;
    }
    bytes
}
