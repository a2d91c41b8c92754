use std::io::Cursor;

use flate2::{Compression, write::GzEncoder};
use zip::write::SimpleFileOptions;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn zip(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        if name.ends_with('/') {
            writer.add_directory(*name, SimpleFileOptions::default()).unwrap();
        } else if mode & S_IFMT == S_IFLNK {
            let target = std::str::from_utf8(content).unwrap();
            writer.add_symlink(*name, target, SimpleFileOptions::default()).unwrap();
        } else {
            writer.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
            writer.write_all(content).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

fn unzip(bytes: Vec<u8>, to: &Path, limits: Limits) -> Result<(), UnpackError> {
    unpack(Format::of(&bytes).expect("a zip"), Cursor::new(bytes), to, limits)
}

/// A tar.gz whose header fields are written as they are, also hostile ones.
fn targz(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, kind, target, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn files_folders_modes_and_inner_links_come_out() {
    let to = folder();
    let archive = zip(&[
        ("package.json", 0o644, b"{}"),
        ("./bin/", 0, b""),
        ("bin/run", 0o4755, b"#!/bin/sh\n"),
        ("lib/a/../b.js", 0o444, b"1"),
        ("node_modules/.bin/x", S_IFLNK, b"../../bin/run"),
    ]);
    unzip(archive, to.path(), Limits::default()).unwrap();
    assert_eq!(fs::read(to.path().join("package.json")).unwrap(), b"{}");
    assert_eq!(fs::read(to.path().join("lib/b.js")).unwrap(), b"1");
    assert_eq!(fs::metadata(to.path().join("bin/run")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(to.path().join("node_modules/.bin/x")).unwrap(), b"#!/bin/sh\n");
}

#[test]
fn tar_gz_comes_out() {
    let to = folder();
    let archive = targz(&[
        ("./", tar::EntryType::Directory, "", b""),
        ("./src/exec", tar::EntryType::Regular, "", b"x"),
        ("link", tar::EntryType::Symlink, "src/exec", b""),
        ("hard", tar::EntryType::Link, "src/exec", b""),
    ]);
    unpack(Format::of(&archive).unwrap(), Cursor::new(archive), to.path(), Limits::default()).unwrap();
    for name in ["src/exec", "link", "hard"] {
        assert_eq!(fs::read(to.path().join(name)).unwrap(), b"x", "{name}");
    }
}

#[test]
fn names_that_climb_out_are_refused() {
    let outer = folder();
    let to = outer.path().join("in");
    fs::create_dir(&to).unwrap();
    for name in ["../evil", "a/../../evil", "/evil", "a/b/../../../evil"] {
        let error = unzip(zip(&[(name, 0o644, b"x")]), &to, Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Outside(_)), "{name}: {error}");
        let archive = targz(&[(name, tar::EntryType::Regular, "", b"x")]);
        let error = unpack(Format::TarGz, Cursor::new(archive), &to, Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Outside(_)), "{name}: {error}");
    }
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    assert!(!Path::new("/evil").exists());
}

#[test]
fn links_that_leave_and_writes_through_links_are_refused() {
    let outer = folder();
    let to = outer.path().join("in");
    fs::create_dir(&to).unwrap();
    for target in ["..", "../..", "/etc/passwd", "a/../../x", ""] {
        for name in ["link", "deep/link"] {
            // That is the folder itself.
            if name == "deep/link" && target == ".." {
                continue;
            }
            let error = unzip(zip(&[(name, S_IFLNK, target.as_bytes())]), &to, Limits::default()).unwrap_err();
            assert!(matches!(error, UnpackError::Link(_)), "{name} -> {target}: {error}");
        }
    }
    let archive = zip(&[("a", S_IFLNK, b"."), ("a/b", S_IFLNK, b"../x")]);
    let error = unzip(archive, &to, Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Link(_)), "{error}");
    // A folder that is a link to the outside, then a file in it: the file wins, and the link is refused.
    let archive = zip(&[("d", S_IFLNK, b"../"), ("d/evil", 0o644, b"x")]);
    unzip(archive, &to, Limits::default()).unwrap_err();
    assert!(!outer.path().join("evil").exists());
    let archive = targz(&[("h", tar::EntryType::Link, "/etc/passwd", b"")]);
    let error = unpack(Format::TarGz, Cursor::new(archive), &to, Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Link(_)), "{error}");
}

#[test]
fn special_files_are_refused() {
    for kind in [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo] {
        let to = folder();
        let archive = targz(&[("special", kind, "", b"")]);
        let error = unpack(Format::TarGz, Cursor::new(archive), to.path(), Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Special(_)), "{error}");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
}

#[test]
fn bombs_end_at_the_limits() {
    let limits = Limits { bytes: 1 << 20, entries: 10, depth: 5 };
    let bomb = zip(&[("a", 0o644, &vec![0; 600 << 10]), ("b", 0o644, &vec![0; 600 << 10])]);
    assert!(bomb.len() < 10 << 10);
    let to = folder();
    let error = unzip(bomb, to.path(), limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch("the allowed number of bytes")), "{error}");
    let written: u64 = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(written <= limits.bytes + 1);

    let names: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), 0o644, b"".as_slice())).collect();
    let error = unzip(zip(&many), folder().path(), limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch("the allowed number of files")), "{error}");

    let error = unzip(zip(&[("1/2/3/4/5/6", 0o644, b"")]), folder().path(), limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch("the allowed depth of folders")), "{error}");
}

#[test]
fn broken_archives_are_told_so() {
    let good = zip(&[("a", 0o644, &[7; 10_000])]);
    for bytes in [good[..good.len() / 2].to_vec(), b"PK\x03\x04 nothing".to_vec()] {
        let error = unzip(bytes, folder().path(), Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Broken(_)), "{error}");
    }
    let good = targz(&[("a", tar::EntryType::Regular, "", &[7; 10_000])]);
    let half = good[..good.len() / 2].to_vec();
    let error = unpack(Format::TarGz, Cursor::new(half), folder().path(), Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Broken(_)), "{error}");
}
