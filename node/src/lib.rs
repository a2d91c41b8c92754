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
