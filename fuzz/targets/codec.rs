//! Stored values and frames: arbitrary bytes are read or refused, and what is read is written as it was.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use protocol::{
    Activation, codec,
    command::{AcceptedWork, AuthKeyEntry, Command, Reply},
    entity::Entity,
    identity::{NamespaceLimits, Subject},
};
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 8 {
        0 => there_and_back::<Command>(bytes),
        1 => there_and_back::<Reply>(bytes),
        2 => there_and_back::<Activation>(bytes),
        3 => there_and_back::<Entity>(bytes),
        4 => there_and_back::<AcceptedWork>(bytes),
        5 => there_and_back::<Subject>(bytes),
        6 => there_and_back::<AuthKeyEntry>(bytes),
        _ => there_and_back::<NamespaceLimits>(bytes),
    }
});

/// One value has one encoding: two would be two answers to whether replicas hold the same.
fn there_and_back<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        assert_eq!(codec::encode(&value), bytes, "{value:?}");
        assert_eq!(codec::encoded_len(&value), bytes.len() as u64, "{value:?}");
    }
}
