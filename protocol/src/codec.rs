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
    encode_behind(0, value)
}

/// The versioned bytes of `value` behind `room` zero bytes, for what the caller writes there.
pub fn encode_behind<T: Serialize + ?Sized>(room: usize, value: &T) -> Vec<u8> {
    // Sized first: growing while writing copies a long value as often as it doubles.
    let mut bytes = Vec::with_capacity(room + encoded_len(value) as usize);
    bytes.resize(room, 0);
    bytes.push(VERSION);
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

/// Bytes of `value`'s encoding, without making it.
pub fn encoded_len<T: Serialize + ?Sized>(value: &T) -> u64 {
    // As in `encode`: sizes of our own types in memory cannot fail.
    1 + bincode::serialized_size(value).expect("sizing our own types")
}

/// For byte fields: `#[serde(with = "codec::bytes")]` copies them in one piece. The encoding is the same as without.
pub mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl<'de> de::Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}
