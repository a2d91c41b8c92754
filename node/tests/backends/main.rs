//! The container contract on every back end and runtime, and what is particular to each.

mod docker;
mod executables;
mod nodejs;
mod packages;
mod python;
mod simulated;
mod support;
mod unprivileged;

#[path = "../images/mod.rs"]
mod images;
#[path = "../../src/containers/backend/suite.rs"]
mod suite;
