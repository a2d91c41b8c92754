//! How RocksDB is set up: small when empty, bounded under load, nothing written that nobody reads.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    LruCacheOptions, Options as DbOptions,
};

use crate::key_spaces::{CF_DEFAULT, CF_LOG, CF_STATE};

/// Settings of a [`crate::Store`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of data, index and filter blocks kept in memory.
    pub block_cache: usize,
    /// Bytes of unflushed writes of one column family; a full buffer is written out while the next one fills.
    pub write_buffer: usize,
    /// Bytes of write-ahead log after which the oldest data in it is flushed. Also bounds the time of a restart.
    pub max_wal: u64,
    /// With less bytes free than this the disk is short: [`crate::Space`]. 0: nobody looks.
    pub min_free: u64,
    /// Faults for tests.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_cache: 16 << 20,
            write_buffer: 16 << 20,
            max_wal: 64 << 20,
            min_free: 0,
            faults: Faults::default(),
        }
    }
}

/// Ways to misbehave, for tests only.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Every flush takes this much longer: a slow disk.
    pub flush_delay: Duration,
    /// While true, no flush ends: a disk that does not answer.
    pub stalled: Arc<AtomicBool>,
    /// Flushes hand the log to the operating system but do not sync it: a power loss then loses acknowledged writes.
    pub no_sync: bool,
    /// The flush with this number (from 1) fails; those after it would succeed.
    pub fail_flush: Option<u64>,
    /// Installing a snapshot fails at this stage, as if the process had died there.
    pub die_at: Option<InstallStage>,
}

/// The stages of installing a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallStage {
    /// Some of the data is in the new generation.
    Half,
    /// All of it is, but the current generation is the old one.
    BeforeSwitch,
    /// The new generation is the current one; the old one is still there.
    AfterSwitch,
}

/// Options of the database as a whole.
pub(crate) fn database(options: &Options) -> DbOptions {
    let mut db = DbOptions::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Appends and applies go to a buffer in the process; the flusher hands them over, once for all that wait. What a
    // killed process had in the buffer was not acknowledged.
    db.set_manual_wal_flush(true);
    // A tail that was cut short is dropped, anything else is refused. `wal.rs` looks first: this mode also takes a log
    // cut short before a newer one, and a damaged length in the last block, for a torn tail.
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // The manifest names each finished file of the log with its synced size: one that is missing or short is refused.
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_total_wal_size(options.max_wal);
    db.set_db_write_buffer_size(4 * options.write_buffer);
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1 << 20);
    db.set_max_open_files(512);
    db.set_max_file_opening_threads(2);
    db.set_skip_stats_update_on_db_open(true);
    db.set_max_manifest_file_size(4 << 20);
    // RocksDB's own text log: warnings only, at most 3 files of 1 MiB.
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(1 << 20);
    db.set_keep_log_file_num(3);
    // Statistics would be written to that text log every 10 minutes.
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

/// Few shards: what is larger than a shard is not cached at all.
fn block_cache(capacity: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(capacity);
    options.set_num_shard_bits(2);
    Cache::new_lru_cache_opts(&options)
}

/// The column families with their options; see `key_spaces.rs` for what lies in them.
pub(crate) fn families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let cache = block_cache(options.block_cache);
    let family = |write_buffer: usize, bloom: bool, compression: DBCompressionType| {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        // In pieces of one block each: whole, the index of one large file outgrows the cache, and is then read and
        // unpacked anew for every look-up.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(16 << 10);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(6);
        if bloom {
            // Most look-ups before an `Accept` or a `Finish` are for keys that are not there.
            table.set_bloom_filter(10.0, false);
        }
        let mut family = DbOptions::default();
        if bloom {
            // The same in the buffer, where each would be a search of its list: 10 bits per key and more.
            family.set_memtable_whole_key_filtering(true);
            family.set_memtable_prefix_bloom_ratio(0.01);
        }
        family.set_block_based_table_factory(&table);
        family.set_write_buffer_size(write_buffer);
        family.set_max_write_buffer_number(3);
        family.set_compression_type(compression);
        family.set_level_compaction_dynamic_level_bytes(true);
        family
    };
    vec![
        ColumnFamilyDescriptor::new(CF_DEFAULT, family(1 << 20, false, DBCompressionType::None)),
        ColumnFamilyDescriptor::new(CF_LOG, family(options.write_buffer, false, DBCompressionType::None)),
        ColumnFamilyDescriptor::new(CF_STATE, family(options.write_buffer, true, DBCompressionType::Lz4)),
    ]
}
