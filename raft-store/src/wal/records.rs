//! Records of the log: write batches, put together from fragments.
//!
//! Source: facebook/rocksdb `db/write_batch.cc` for the form of a batch.

use protocol::codec;

use super::physical::{BLOCK, HEADER, Kind, Physical, read};
use crate::flusher::SYNCED_KEY;

/// The first place that cannot be read as it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    /// Index of the file.
    pub file: usize,
    /// Where the record begins that is not whole.
    pub offset: usize,
    /// Where in it the trouble is.
    pub at: usize,
    /// The sequence number that belongs here.
    pub sequence: u64,
    pub cause: &'static str,
}

/// Finds the first bad place in the files of a log.
pub fn first_bad(files: &[Vec<u8>]) -> Option<Bad> {
    // 0 if unknown: then whatever was synced was synced behind it.
    let mut sequence = 0;
    for (file, bytes) in files.iter().enumerate() {
        let bad = |offset, at, sequence, cause| Some(Bad { file, offset, at, sequence, cause });
        let mut at = 0;
        let mut record: Option<(usize, Vec<u8>)> = None;
        // Batches follow each other within a file; between files others may have been deleted.
        let mut expected = None;
        loop {
            match (read(bytes, at), &mut record) {
                (Physical::End, None) => break,
                (Physical::End, Some((offset, _))) => return bad(*offset, at, sequence, "it ends inside a record"),
                (Physical::Bad(cause), open) => {
                    let offset = open.as_ref().map_or(at, |(offset, _)| *offset);
                    return bad(offset, at, sequence, cause);
                }
                (Physical::Padding { next }, _) => at = next,
                (Physical::Fragment { kind: Kind::Other, next, .. }, None) => at = next,
                (Physical::Fragment { kind: Kind::Full, data, next }, None) => {
                    match follow(data, expected) {
                        Ok(after) => (sequence, expected) = (after, Some(after)),
                        Err(cause) => return bad(at, at, sequence, cause),
                    }
                    at = next;
                }
                (Physical::Fragment { kind: Kind::First, data, next }, open @ None) => {
                    *open = Some((at, data.to_vec()));
                    at = next;
                }
                (Physical::Fragment { kind: Kind::Middle, data, next }, Some((_, whole))) => {
                    whole.extend_from_slice(data);
                    at = next;
                }
                (Physical::Fragment { kind: Kind::Last, data, next }, Some((offset, whole))) => {
                    whole.extend_from_slice(data);
                    match follow(whole, expected) {
                        Ok(after) => (sequence, expected) = (after, Some(after)),
                        Err(cause) => return bad(*offset, at, sequence, cause),
                    }
                    record = None;
                    at = next;
                }
                (Physical::Fragment { .. }, open) => {
                    let offset = open.as_ref().map_or(at, |(offset, _)| *offset);
                    return bad(offset, at, sequence, "fragments of records are mixed up");
                }
            }
        }
    }
    None
}

/// The highest sequence number that something readable behind `bad` says was synced.
pub fn synced_claims_behind(files: &[Vec<u8>], bad: &Bad) -> Option<u64> {
    let here = claims_from(&files[bad.file], bad.at + 1);
    let newer = files[bad.file + 1..].iter().map(|bytes| claims_from(bytes, 0));
    newer.fold(here, Option::max)
}

/// Claims in whatever records can be found from `from` on, without trust in what lies between. In the block of `from` every
/// byte may be the begin of a fragment, since the length that led there may be wrong; later blocks begin with one.
fn claims_from(bytes: &[u8], from: usize) -> Option<u64> {
    let mut highest = None;
    let mut at = from;
    let mut record: Option<Vec<u8>> = None;
    while at < bytes.len() {
        match read(bytes, at) {
            Physical::Fragment { kind, data, next } => {
                match kind {
                    Kind::Full => highest = highest.max(claim(data)),
                    Kind::First => record = Some(data.to_vec()),
                    Kind::Middle | Kind::Last => {
                        if let Some(whole) = &mut record {
                            whole.extend_from_slice(data);
                        }
                        if kind == Kind::Last
                            && let Some(whole) = record.take()
                        {
                            highest = highest.max(claim(&whole));
                        }
                    }
                    Kind::Other => {}
                }
                at = next;
            }
            Physical::Padding { next } => at = next,
            Physical::Bad(_) => {
                record = None;
                let next_block = (at / BLOCK + 1) * BLOCK;
                at += 1;
                if at / BLOCK != from / BLOCK || next_block - at < HEADER {
                    at = next_block;
                }
            }
            Physical::End => break,
        }
    }
    highest
}

/// The sequence number after a batch that should begin at `expected`.
fn follow(batch: &[u8], expected: Option<u64>) -> Result<u64, &'static str> {
    let (Some(sequence), Some(count)) = (batch.first_chunk::<8>(), batch.get(8..12)) else {
        return Err("a record is no batch of writes");
    };
    let sequence = u64::from_le_bytes(*sequence);
    let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
    if expected.is_some_and(|expected| sequence > expected) {
        return Err("records before it are missing");
    }
    Ok(sequence + u64::from(count))
}

/// What a batch says about how far the log was synced.
fn claim(batch: &[u8]) -> Option<u64> {
    let mut ops = Ops(batch.get(12..)?);
    let mut highest = None;
    while let Some((key, value)) = ops.next_put() {
        if key == Some(SYNCED_KEY) {
            highest = highest.max(codec::decode::<u64>(value).ok());
        }
    }
    highest
}

/// Walks the writes of a batch.
struct Ops<'a>(&'a [u8]);

impl<'a> Ops<'a> {
    /// The next write: its key if it is a put into the `default` family, and its value. `None` at the end, or at a kind of
    /// write that we do not use.
    fn next_put(&mut self) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        self.0 = rest;
        match tag {
            // Put; deletions have only a key; log data is one text.
            0x01 => Some((Some(self.text()?), self.text()?)),
            0x00 | 0x03 | 0x07 => self.text().map(|_| (None, &[] as &[u8])),
            0x02 | 0x0f => self.skip(2),
            // The same with a column family before.
            0x04 | 0x08 => self.number().and_then(|_| self.skip(1)),
            0x05 | 0x06 | 0x0e => self.number().and_then(|_| self.skip(2)),
            0x0d => self.skip(0),
            _ => None,
        }
    }

    fn skip(&mut self, texts: usize) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        for _ in 0..texts {
            self.text()?;
        }
        Some((None, &[]))
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0u32;
        for shift in (0..).step_by(7).take(5) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).ok();
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}
