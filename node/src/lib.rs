//! The Whisp node: HTTP API, invocation, containers, cluster membership, administration.
//!
//! Start reading at `ARCHITECTURE.md`.

pub mod activations;
pub mod admin;
pub mod api;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod containers;
pub mod entities;
pub mod invoke;
pub mod metrics;
pub mod node;
pub mod runtime;
pub mod telemetry;

/// A node allocates a few dozen small things per invocation on one thread and frees half of them on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
