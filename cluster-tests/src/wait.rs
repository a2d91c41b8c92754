//! Waiting for something to come true.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` returns a value, and returns it.
///
/// # Panics
/// With `what` and the last reason that `look` gave, if there is none `within` that time.
pub fn eventually<T, R: std::fmt::Display>(within: Duration, what: &str, mut look: impl FnMut() -> Result<T, R>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(reason) if Instant::now() > deadline => panic!("waited {within:?} for {what}: {reason}"),
            Err(_) => sleep(PAUSE),
        }
    }
}

/// The same for what is only true or false.
///
/// # Panics
/// With `what`, if it is not true `within` that time.
pub fn until(within: Duration, what: &str, mut look: impl FnMut() -> bool) {
    eventually(within, what, || if look() { Ok(()) } else { Err("it is still not so") });
}
