"""Options of the RocksDB store, and what they become in rocksdict's terms. Opens nothing.

What is fixed below was measured: 2 M rows of 256 B in page cache, 4,096 random ids a list get, RocksDB 9.8.4.
What each choice brought stands beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Literal

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    ReadOptions,
    WriteBufferManager,
)

FORMAT_VERSION: Final = 6
"""Of table files. RocksDB reads it from 8.6 on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RocksOptions:
    """Sizes are bytes.

    Behaviour:
    compression     of blocks. Float rows hardly compress, so none; "lz4" or "zstd" may pay for tables of many zeros.
    merge           whether files are merged in the background. Not in a copy that is only looked at.
    open_timeout_s  seconds for opening after a crash. Some damage makes RocksDB spin for ever: this ends it.
    wal_limit       largest write-ahead log over all versions. Raising it makes flushes rarer and a start after a crash
                    slower.

    Performance:
    block_cache     memory for blocks read from disk; 0 leaves caching to the system's page cache. A cache that holds
                    all that is read brings x1.4, one that does not costs a sixth of the rate.
    write_buffer    memory for rows written and not yet in files, over all versions.
    block_bytes     size of a block, which is read whole for one row. Raising it makes reads slower, and the index,
                    which is kept in memory, smaller: about 20 bytes a block.
    filter_bits     bloom filter bits a row, kept in memory. Without it, an absent id costs as much as a read.
    sst_bytes       size of the files of a bulk load. The interpreter stands still for some milliseconds a file at the
                    commit.
    threads         threads that read; 0 takes two for each core, at most 16, since a disk answers many at once.
    """

    compression: Literal["none", "lz4", "zstd"] = "none"
    merge: bool = True
    open_timeout_s: float = 60.0
    wal_limit: int = 512 << 20
    block_cache: int = 0
    write_buffer: int = 128 << 20
    block_bytes: int = 1024
    filter_bits: int = 10
    sst_bytes: int = 256 << 20
    threads: int = 0

    @property
    def read_threads(self) -> int:
        """Threads that read: `threads`, or what suits this machine."""
        return self.threads or min(16, 2 * (os.cpu_count() or 1))


class Engine:
    """rocksdict's options for one database, with the cache and the write-buffer limit that all its versions share."""

    def __init__(self, options: RocksOptions, paranoid: bool = True) -> None:
        """`paranoid` refuses a database that is damaged anywhere."""
        # An estimated entry charge of 0 lets the clock cache grow its own table; it scales over threads, LRU does not.
        self.cache: Any = Cache.new_hyper_clock_cache(options.block_cache, 0) if options.block_cache else None
        # Never stall in the manager: rocksdict would hold the GIL meanwhile, and every thread of the process wait.
        self.buffers: Any = WriteBufferManager(options.write_buffer, False)
        self.family: Any = _family_options(options, self.cache)
        self.database: Any = _database_options(options, self.cache, self.buffers)
        self.database.set_paranoid_checks(paranoid)


def _database_options(options: RocksOptions, cache: Any, buffers: Any) -> Any:
    """Options of the database as a whole, and of its default column family, which holds meta values."""
    made = _family_options(options, cache)
    made.create_if_missing(True)
    # A torn tail is what a crash leaves; damage before it is refused, where the default would drop what follows it.
    made.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    made.set_max_total_wal_size(options.wal_limit)
    made.set_write_buffer_manager(buffers)
    made.set_max_background_jobs(2)
    # The files of a dropped version are removed by a background thread, not by whoever lets go of it last.
    made.set_avoid_unnecessary_blocking_io(True)
    made.set_bytes_per_sync(1 << 20)
    made.set_max_log_file_size(16 << 20)
    made.set_keep_log_file_num(4)
    made.set_stats_dump_period_sec(0)
    return made


def _family_options(options: RocksOptions, cache: Any) -> Any:
    made = Options(raw_mode=True)
    made.set_compression_type(getattr(DBCompressionType, options.compression)())
    made.set_disable_auto_compactions(not options.merge)
    made.set_write_buffer_size(min(64 << 20, max(256 << 10, options.write_buffer // 4)))
    blocks = BlockBasedOptions()
    blocks.set_format_version(FORMAT_VERSION)
    blocks.set_block_size(options.block_bytes)
    if options.filter_bits:
        blocks.set_bloom_filter(options.filter_bits, False)
    # Index and filters stay outside the cache: inside, a read costs a third more.
    if cache is None:
        blocks.disable_cache()
    else:
        blocks.set_block_cache(cache)
    made.set_block_based_table_factory(blocks)
    return made


def scan_options() -> Any:
    """Options for reading rows in order: far ahead, and past the cache, which random reads use better."""
    made: Any = ReadOptions()
    made.fill_cache(False)
    made.set_readahead_size(2 << 20)
    return made
