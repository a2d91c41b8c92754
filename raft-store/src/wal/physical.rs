//! The blocks and fragments of RocksDB's log format.
//!
//! A file is a sequence of blocks of 32 KiB, a block of fragments: masked CRC-32C of type and data (u32), length (u16),
//! type (u8), data; little endian. Fewer than 7 bytes left in a block are zeros. Nothing crosses a block.
//!
//! Source: facebook/rocksdb `db/log_format.h`, `db/log_reader.cc`, `util/crc32c.h`.

pub const BLOCK: usize = 32 << 10;
pub const HEADER: usize = 7;

/// What a fragment is of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Full,
    First,
    Middle,
    Last,
    /// About the file, not a record.
    Other,
}

/// What lies at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Physical<'a> {
    Fragment {
        kind: Kind,
        data: &'a [u8],
        next: usize,
    },
    /// The rest of the block is padding.
    Padding {
        next: usize,
    },
    /// The file ends here, with nothing half written.
    End,
    Bad(&'static str),
}

/// Reads what begins at `at`.
pub fn read(file: &[u8], at: usize) -> Physical<'_> {
    let block_end = (at / BLOCK + 1) * BLOCK;
    if at >= file.len() {
        return Physical::End;
    }
    if block_end - at < HEADER {
        let padding = &file[at..block_end.min(file.len())];
        if padding.iter().any(|byte| *byte != 0) {
            return Physical::Bad("the end of a block is not padding");
        }
        return Physical::Padding { next: block_end };
    }
    let Some(header) = file.get(at..at + HEADER) else { return Physical::Bad("it is cut short in a header") };
    let checksum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let number = header[6];
    if header == [0; HEADER] {
        return Physical::Bad("zeros where a record should be");
    }
    let next = at + HEADER + length;
    if next > block_end {
        return Physical::Bad("a record is longer than its block");
    }
    // The checksum covers the type and the data.
    let Some(covered) = file.get(at + HEADER - 1..next) else { return Physical::Bad("it is cut short in a record") };
    if mask(crc32c::crc32c(covered)) != checksum {
        return Physical::Bad("checksum mismatch");
    }
    let kind = match number {
        1 => Kind::Full,
        2 => Kind::First,
        3 => Kind::Middle,
        4 => Kind::Last,
        // Compression, timestamp sizes, the predecessor's name, and all that readers may skip.
        9 | 10 | 128.. => Kind::Other,
        _ => return Physical::Bad("a record of unknown type"),
    };
    Physical::Fragment { kind, data: &covered[1..], next }
}

/// Stored checksums are masked, because a checksum of data with checksums in it is a poor one.
pub fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}
