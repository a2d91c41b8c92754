//! What opening does with a directory that is not as it was left: torn ends are dropped, damage is refused by name.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::{RaftLogReader, storage::RaftLogStorage, type_config::TypeConfigExt};
use parking_lot::Mutex;
use raft_store::{GroupId, OpenError, Options, Store, TypeConfig};
use tempfile::TempDir;

use crate::support::{entry, put};

const GROUP: GroupId = GroupId::Meta;
const BLOCK: u64 = 32 << 10;

/// Appends entries of `bytes` each and waits until they are durable.
async fn append(store: &Store, indexes: std::ops::Range<u64>, bytes: usize) -> anyhow::Result<()> {
    for index in indexes {
        let (sender, receiver) = TypeConfig::oneshot();
        let entries = [entry(index, put("a", bytes))];
        store.log(GROUP).append(entries, openraft::storage::IOFlushed::signal(sender)).await?;
        receiver.await??;
    }
    Ok(())
}

async fn indexes(store: &Store) -> anyhow::Result<Vec<u64>> {
    Ok(store.log(GROUP).try_get_log_entries(..).await?.iter().map(|entry| entry.log_id.index).collect())
}

/// A store with entries `1..=synced` durable and the note of that behind them, and what lies in its log.
async fn store_with(synced: u64, bytes: usize) -> anyhow::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    append(&store, 1..synced + 1, bytes).await?;
    drop(store);
    Ok(dir)
}

/// The file of the log that has data.
fn log_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut logs: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext == "log")).collect();
    logs.sort_by_key(|path| fs::metadata(path).expect("a file").len());
    logs.pop().expect("a log")
}

/// Where the bytes `needle` of an entry's value begin, counted from the front.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the log");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("written");
}

async fn reopened(dir: &Path) -> anyhow::Result<Vec<u64>> {
    indexes(&Store::open(dir, Options::default())?).await
}

fn refused(dir: &Path) -> OpenError {
    Store::open(dir, Options::default()).err().expect("opening is refused")
}

#[tokio::test]
async fn a_log_cut_anywhere_in_its_last_record_loses_only_that() -> anyhow::Result<()> {
    let dir = store_with(5, 1000).await?;
    let log = log_file(dir.path());
    let whole = fs::metadata(&log)?.len();
    // The note about the last sync is the last record, the entry before it.
    for cut in [1, 10, 30, 100, 500, 1000] {
        let copy = copy_of(dir.path())?;
        File::options().write(true).open(log_file(copy.path()))?.set_len(whole - cut)?;
        let left = reopened(copy.path()).await?;
        assert!(left == [1, 2, 3, 4, 5] || left == [1, 2, 3, 4], "{cut} bytes took {left:?}");
        // It goes on from there.
        let store = Store::open(copy.path(), Options::default())?;
        append(&store, left.len() as u64 + 1..8, 1000).await?;
        drop(store);
        assert_eq!(reopened(copy.path()).await?, [1, 2, 3, 4, 5, 6, 7]);
    }
    Ok(())
}

/// Everything that is logged while `act` runs.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    String::from_utf8_lossy(&lines.0.lock()).into_owned()
}

#[tokio::test]
async fn a_dropped_tail_is_logged_with_file_place_and_size() -> anyhow::Result<()> {
    let dir = store_with(3, 1000).await?;
    let log = log_file(dir.path());
    let length = fs::metadata(&log)?.len();
    File::options().write(true).open(&log)?.write_all_at(&[0; 100], length)?;
    let text = logged(|| drop(Store::open(dir.path(), Options::default())));
    assert!(text.contains("WARN") && text.contains("dropped the torn tail"), "{text}");
    assert!(text.contains(&format!("file={}", log.display())), "{text}");
    assert!(text.contains(&format!("offset={length}")) && text.contains("dropped_bytes=100"), "{text}");
    let text = logged(|| drop(Store::open(dir.path(), Options::default())));
    assert!(!text.contains("torn"), "only once: {text}");
    assert_eq!(reopened(dir.path()).await?, [1, 2, 3]);
    Ok(())
}

#[tokio::test]
async fn a_torn_tail_of_many_blocks_is_dropped_whatever_reached_the_disk() -> anyhow::Result<()> {
    let dir = store_with(3, 1000).await?;
    let synced = fs::metadata(log_file(dir.path()))?.len();
    // Unsynced writes that span blocks: as if the process had died while the operating system wrote them back.
    let unsynced = copy_of(dir.path())?;
    let tail = tail_of_many_blocks(dir.path())?;
    for torn in 0..6u64 {
        let copy = copy_of(unsynced.path())?;
        let log = log_file(copy.path());
        let file = File::options().write(true).open(&log)?;
        file.write_all_at(&tail, synced)?;
        let end = synced + tail.len() as u64;
        let block = |n: u64| (synced / BLOCK + n) * BLOCK;
        match torn {
            0 => file.set_len(block(2) + 100)?,                          // cut in a middle
            1 => file.set_len(block(3))?,                                // cut at a block
            2 => file.write_all_at(&vec![0; BLOCK as usize], block(1))?, // the first whole block never came
            3 => file.write_all_at(&vec![0; BLOCK as usize], block(3))?, // one in the middle
            4 => file.write_all_at(&vec![0; (end - block(4)) as usize], block(4))?, // the length came, the end did not
            _ => file.write_all_at(&[0xaa; 4096], synced)?,              // its begin is something else
        }
        drop(file);
        assert_eq!(reopened(copy.path()).await?, [1, 2, 3], "tear {torn}");
        let store = Store::open(copy.path(), Options::default())?;
        append(&store, 4..6, 1000).await?;
        drop(store);
        assert_eq!(reopened(copy.path()).await?, [1, 2, 3, 4, 5], "tear {torn}");
    }
    Ok(())
}

/// The bytes that one more entry of seven blocks adds to the log of `dir`.
fn tail_of_many_blocks(dir: &Path) -> anyhow::Result<Vec<u8>> {
    let copy = copy_of(dir)?;
    let log = log_file(copy.path());
    let synced = fs::metadata(&log)?.len() as usize;
    // A writer of the same format, since RocksDB begins a new file at each start.
    let mut file = fs::read(&log)?;
    let last = raft_store_wal_sequence(&file);
    let mut batch = last.to_le_bytes().to_vec();
    batch.extend(1u32.to_le_bytes());
    batch.extend([0x01, 1, b'k']);
    let value = vec![5; 7 * BLOCK as usize];
    let mut length = value.len();
    while length >= 0x80 {
        batch.push((length as u8 & 0x7f) | 0x80);
        length >>= 7;
    }
    batch.push(length as u8);
    batch.extend(value);
    write_record(&mut file, &batch);
    Ok(file.split_off(synced))
}

/// The sequence number that follows the last whole record of small records.
fn raft_store_wal_sequence(file: &[u8]) -> u64 {
    let (mut at, mut next) = (0, 0);
    while at + 7 <= file.len() {
        let length = usize::from(u16::from_le_bytes([file[at + 4], file[at + 5]]));
        let data = &file[at + 7..at + 7 + length];
        assert_eq!(file[at + 6], 1, "only whole records here");
        let sequence = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
        next = sequence + u64::from(u32::from_le_bytes(data[8..12].try_into().expect("four bytes")));
        at += 7 + length;
    }
    next
}

fn write_record(file: &mut Vec<u8>, mut data: &[u8]) {
    let mut first = true;
    loop {
        let left = BLOCK as usize - file.len() % BLOCK as usize;
        if left < 7 {
            file.extend(vec![0; left]);
            continue;
        }
        let length = data.len().min(left - 7);
        let last = length == data.len();
        let kind = match (first, last) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let covered = [&[kind], &data[..length]].concat();
        let checksum = crc32c::crc32c(&covered).rotate_right(15).wrapping_add(0xa282_ead8);
        file.extend(checksum.to_le_bytes());
        file.extend((length as u16).to_le_bytes());
        file.extend(covered);
        data = &data[length..];
        first = false;
        if last {
            return;
        }
    }
}

#[tokio::test]
async fn damage_to_what_was_synced_is_refused_by_file_and_place() -> anyhow::Result<()> {
    let dir = store_with(100, 2000).await?;
    let log = log_file(dir.path());
    let length = fs::metadata(&log)?.len();
    assert!(length > 5 * BLOCK);
    for offset in [3000, BLOCK - 100, 2 * BLOCK + 5000, length - BLOCK, length - 3000] {
        let copy = copy_of(dir.path())?;
        let log = log_file(copy.path());
        flip(&log, offset);
        let error = refused(copy.path());
        let OpenError::DamagedLog { file, offset: at, .. } = &error else { panic!("{offset}: {error}") };
        assert_eq!(*file, log);
        assert!(*at <= offset && offset < at + 2 * BLOCK, "{offset} was reported as {at}");
        assert!(error.to_string().contains(&log.display().to_string()), "{error}");
        assert_eq!(fs::metadata(&log)?.len(), length, "a refused log is not changed");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_length_in_the_last_block_is_no_torn_tail() -> anyhow::Result<()> {
    // Few and small records: all in the last (and only) block, where RocksDB takes a wrong length for the end.
    let dir = store_with(8, 1000).await?;
    let log = log_file(dir.path());
    let file = fs::read(&log)?;
    // The header of the third record.
    let mut at = 0;
    for _ in 0..2 {
        at += 7 + usize::from(u16::from_le_bytes([file[at + 4], file[at + 5]]));
    }
    File::options().write(true).open(&log)?.write_all_at(&[0xff, 0x7f], at as u64 + 4)?;
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::DamagedLog { offset, .. } if *offset == at as u64), "{error}");

    // What RocksDB would have done by itself: it opens, and acknowledged entries are gone.
    let copy = copy_of(dir.path())?;
    let mut options = rocksdb::Options::default();
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    let db = rocksdb::DB::open_cf(&options, copy.path(), ["default", "log", "state"])?;
    let family = db.cf_handle("log").expect("a family");
    assert!(db.iterator_cf(family, rocksdb::IteratorMode::Start).count() < 8);
    Ok(())
}

#[tokio::test]
async fn missing_and_damaged_files_are_refused() -> anyhow::Result<()> {
    let dir = store_with(10, 100).await?;
    // Data in tables too: opening flushes the log.
    drop(Store::open(dir.path(), Options::default())?);
    let with = |extension: &str| -> Vec<PathBuf> {
        let files = fs::read_dir(dir.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.to_string_lossy().contains(extension)).collect()
    };
    let tables = with(".sst");
    assert!(!tables.is_empty());
    for victim in [&tables[0], &with("MANIFEST")[0], &with("CURRENT")[0]] {
        let copy = copy_of(dir.path())?;
        fs::remove_file(copy.path().join(victim.file_name().expect("a name")))?;
        let error = refused(copy.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "without {}: {error}", victim.display());
    }
    for victim in [&tables[0], &with("MANIFEST")[0]] {
        let copy = copy_of(dir.path())?;
        let path = copy.path().join(victim.file_name().expect("a name"));
        let length = fs::metadata(&path)?.len();
        File::options().write(true).open(&path)?.set_len(length / 2)?;
        let error = refused(copy.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "half of {}: {error}", victim.display());
    }
    Ok(())
}

#[tokio::test]
async fn damaged_tables_never_show_other_data() -> anyhow::Result<()> {
    let dir = store_with(10, 1000).await?;
    drop(Store::open(dir.path(), Options::default())?);
    let files = fs::read_dir(dir.path())?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let tables: Vec<_> = files.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "sst")).collect();
    let mut noticed = 0;
    for table in &tables {
        for offset in [20, fs::metadata(table)?.len() / 2, fs::metadata(table)?.len() - 30] {
            let copy = copy_of(dir.path())?;
            flip(&copy.path().join(table.file_name().expect("a name")), offset);
            match reopened(copy.path()).await {
                Ok(left) => assert_eq!(left, (1..11).collect::<Vec<u64>>()),
                Err(_) => noticed += 1,
            }
        }
    }
    assert!(noticed > 0);
    Ok(())
}

#[tokio::test]
async fn a_damaged_entry_is_found_when_it_is_read() -> anyhow::Result<()> {
    let dir = store_with(3, 100).await?;
    {
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), ["default", "log", "state"])?;
        let family = db.cf_handle("log").expect("a family");
        let (key, mut value) = db.iterator_cf(family, rocksdb::IteratorMode::Start).nth(1).expect("entry 2")?;
        value[40] ^= 1;
        db.put_cf(family, key, value)?;
    }
    let store = Store::open(dir.path(), Options::default())?;
    let error = store.log(GROUP).try_get_log_entries(1..4).await.expect_err("entry 2 is damaged");
    assert!(error.to_string().contains("log entry 2 of meta") && error.to_string().contains("checksum"), "{error}");
    assert_eq!(store.log(GROUP).try_get_log_entries(3..4).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_hole_in_the_log_is_an_error() -> anyhow::Result<()> {
    let dir = store_with(1, 100).await?;
    let store = Store::open(dir.path(), Options::default())?;
    append(&store, 3..4, 100).await?;
    let error = store.log(GROUP).try_get_log_entries(..).await.expect_err("entry 2 is missing");
    assert!(error.to_string().contains("log entry 2 of meta"), "{error}");
    Ok(())
}

#[tokio::test]
async fn newer_versions_and_foreign_databases_are_refused() -> anyhow::Result<()> {
    let dir = store_with(1, 100).await?;
    let open = |extra: Option<&str>| {
        let mut options = rocksdb::Options::default();
        options.create_missing_column_families(true);
        options.create_if_missing(true);
        rocksdb::DB::open_cf(&options, dir.path(), ["default", "log", "state"].into_iter().chain(extra))
    };
    // Version 2 as `data_version.rs` would write it: the codec's version byte and a u32.
    open(None)?.put(b"data-version", [1, 2, 0, 0, 0])?;
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::NewerVersion { found: 2, known: 1, .. }), "{error}");
    drop(open(Some("a-family-of-version-2"))?);
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::NewerVersion { found: 2, known: 1, .. }), "{error}");

    let foreign = tempfile::tempdir()?;
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = rocksdb::DB::open_cf(&options, foreign.path(), ["log"])?;
    db.put_cf(db.cf_handle("log").expect("a family"), b"k", b"v")?;
    drop(db);
    let error = refused(foreign.path());
    assert!(matches!(error, OpenError::NoVersion { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn one_process_at_a_time() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(store);
    Store::open(dir.path(), Options::default())?;
    Ok(())
}

/// A copy of all files, as they are.
fn copy_of(dir: &Path) -> anyhow::Result<TempDir> {
    let copy = tempfile::tempdir()?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a file")))?;
    }
    Ok(copy)
}
