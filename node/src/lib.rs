//! The Whisp node: HTTP API, invocation, containers, cluster membership, administration.
//!
//! Start reading at `ARCHITECTURE.md`.

pub mod activations;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod containers;
pub mod entities;
pub mod invoke;
pub mod runtime;
