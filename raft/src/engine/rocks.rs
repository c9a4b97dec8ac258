//! The engine on RocksDB: one database, one column family per table, one write-ahead log.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBAccess, DBCompressionType,
    DBRawIteratorWithThreadMode, DBRecoveryMode, DBWithThreadMode, FlushOptions, LogLevel, Options,
    ReadOptions, SingleThreaded, SnapshotWithThreadMode, WriteOptions,
};

use super::synced::SyncedMark;
use super::{Engine, EngineError, KeyRange, KeyValue, Read, Rows, Table, Write, WriteBatch};

type Db = DBWithThreadMode<SingleThreaded>;

/// RocksDB with this crate's tables.
pub(crate) struct RocksEngine {
    db: Db,
    synced: SyncedMark,
}

impl RocksEngine {
    /// Opens the database in `path`, creating it and its tables where they are missing.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let tables = Table::ALL
            .map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table, &cache)));
        let db = Db::open_cf_descriptors(&database_options(), path, tables)
            .map_err(|error| EngineError::new("open the database", error))?;
        let synced = SyncedMark::open(path)?;
        synced.check(db.latest_sequence_number())?;
        Ok(Self { db, synced })
    }

    fn table(&self, table: Table) -> &ColumnFamily {
        self.db
            .cf_handle(table.name())
            .expect("every table is opened with the database")
    }
}

impl Read for RocksEngine {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self
            .db
            .get_cf_opt(self.table(table), key, &ReadOptions::default());
        Ok(value
            .map_err(|error| EngineError::new("read a row", error))?
            .map(Bytes::from))
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        let options = read_options(&range);
        rows(
            self.db.raw_iterator_cf_opt(self.table(table), options),
            &range,
        )
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        let options = read_options(&range);
        last(self.db.raw_iterator_cf_opt(self.table(table), options))
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut native = rocksdb::WriteBatch::default();
        for write in batch.into_writes() {
            match write {
                Write::Put(table, key, value) => native.put_cf(self.table(table), key, value),
                Write::Delete(table, key) => native.delete_cf(self.table(table), key),
                Write::DeleteRange(table, lower, upper) => {
                    native.delete_range_cf(self.table(table), lower, upper);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.db
            .write_opt(native, &options)
            .map_err(|error| EngineError::new("write", error))
    }

    fn sync(&self) -> Result<(), EngineError> {
        let written = self.db.latest_sequence_number();
        self.db
            .flush_wal(true)
            .map_err(|error| EngineError::new("sync", error))?;
        self.synced.note(written)
    }

    fn view(&self) -> Box<dyn Read + '_> {
        Box::new(RocksView {
            engine: self,
            snapshot: self.db.snapshot(),
        })
    }

    fn close(&self) -> Result<(), EngineError> {
        self.sync()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        for table in Table::ALL {
            self.db
                .flush_cf_opt(self.table(table), &options)
                .map_err(|error| EngineError::new("flush a table", error))?;
        }
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}

/// A RocksDB snapshot.
struct RocksView<'a> {
    engine: &'a RocksEngine,
    snapshot: SnapshotWithThreadMode<'a, Db>,
}

impl Read for RocksView<'_> {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get_cf(self.engine.table(table), key);
        Ok(value
            .map_err(|error| EngineError::new("read a row", error))?
            .map(Bytes::from))
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        let mut options = read_options(&range);
        // A dump reads every row once: it would push the working set out of the cache.
        options.fill_cache(false);
        rows(
            self.snapshot
                .raw_iterator_cf_opt(self.engine.table(table), options),
            &range,
        )
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        let options = read_options(&range);
        last(
            self.snapshot
                .raw_iterator_cf_opt(self.engine.table(table), options),
        )
    }
}

fn read_options(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.lower.clone());
    if let Some(upper) = &range.upper {
        options.set_iterate_upper_bound(upper.clone());
    }
    options
}

fn rows<'a, D: DBAccess>(
    mut native: DBRawIteratorWithThreadMode<'a, D>,
    range: &KeyRange,
) -> Rows<'a> {
    native.seek(&range.lower);
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        match current(&native) {
            Ok(Some(row)) => {
                native.next();
                Some(Ok(row))
            }
            Ok(None) => {
                ended = true;
                None
            }
            Err(error) => {
                ended = true;
                Some(Err(error))
            }
        }
    }))
}

fn last<D: DBAccess>(
    mut native: DBRawIteratorWithThreadMode<'_, D>,
) -> Result<Option<KeyValue>, EngineError> {
    native.seek_to_last();
    current(&native)
}

fn current<D: DBAccess>(
    native: &DBRawIteratorWithThreadMode<'_, D>,
) -> Result<Option<KeyValue>, EngineError> {
    if let Some((key, value)) = native.item() {
        return Ok(Some((
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(value),
        )));
    }
    native
        .status()
        .map_err(|error| EngineError::new("iterate", error))?;
    Ok(None)
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_manual_wal_flush(false);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(MAX_WAL_BYTES);
    options.set_db_write_buffer_size(ALL_WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_bytes_per_sync(1 << 20);
    options.set_wal_bytes_per_sync(0);
    options.set_keep_log_file_num(5);
    options.set_log_level(LogLevel::Warn);
    options
}

fn table_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::Lz4);
    match table {
        // Read in order or by keys that exist: a filter would only cost memory.
        Table::RaftLog => options.set_write_buffer_size(LOG_WRITE_BUFFER_BYTES),
        Table::Meta | Table::State | Table::Dedup | Table::StateMeta | Table::Cluster => {
            options.set_write_buffer_size(WRITE_BUFFER_BYTES);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
            blocks.set_bloom_filter(10.0, false);
            blocks.set_whole_key_filtering(true);
        }
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Shared by all tables: the decoded state is in memory, so that RocksDB serves few reads.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// Small tables would otherwise pin old write-ahead logs and make the next start slow.
const MAX_WAL_BYTES: u64 = 128 << 20;
const ALL_WRITE_BUFFERS_BYTES: usize = 64 << 20;
const WRITE_BUFFER_BYTES: usize = 8 << 20;
const LOG_WRITE_BUFFER_BYTES: usize = 16 << 20;
