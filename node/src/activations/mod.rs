//! Activation records: their logs, how they are stored and how they are found again.

pub mod logs;
