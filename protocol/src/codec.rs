//! The one place that turns values into bytes and back: a version byte, then bincode 1.3 (fixed-width little-endian
//! integers, `u64` lengths, `u32` enum tags).
//!
//! The format is positional, so a struct that changes gets a new version of its own type, and enums only grow at the
//! end. Frozen byte fixtures hold us to it.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// Version of the encoding itself; the first byte of every stored value and frame.
pub const VERSION: u8 = 1;

/// Why bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("no bytes to decode")]
    Empty,
    #[error("encoding version {0} is not known to this build, which knows {VERSION}")]
    Version(u8),
    #[error("malformed bytes: {0}")]
    Malformed(#[source] bincode::Error),
}

/// The versioned bytes of `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // Writing to a Vec cannot fail, and our types have no maps with unknown length or failing `Serialize`.
    bincode::serialize_into(&mut bytes, value).expect("encoding our own types into memory");
    bytes
}

/// Reads what [`encode`] wrote. Trailing bytes are an error, and no length is trusted beyond the input's own.
///
/// # Errors
/// [`DecodeError`] for unknown versions and anything but exactly one value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes {
        [] => Err(DecodeError::Empty),
        [VERSION, rest @ ..] => bincode::DefaultOptions::new()
            .with_fixint_encoding()
            .with_limit(rest.len() as u64)
            .reject_trailing_bytes()
            .deserialize(rest)
            .map_err(DecodeError::Malformed),
        [version, ..] => Err(DecodeError::Version(*version)),
    }
}
