//! What an invocation, a start and a write cost on this machine, each beside what the machine itself charges for it.
//!
//! - [`sections`]: one file per question: warm calls, starts, Docker, accepted activations, entity writes, memory, history
//! - [`floor`]: bare interpreters that answer the same call without a platform (`floors/bare.{js,py}`)
//! - [`docker`]: a container that is made and called without a platform
//! - [`whisp`]: the nodes under test, real processes of the release binary
//! - [`load`], [`http`]: closed and open loops of clients on kept-alive connections
//! - [`machine`], [`process`]: facts about the machine, its fsync, and processes that end with us
//! - [`report`]: tables with ratios and budgets, and the same as JSON
//!
//! `README.md` says how to read the numbers. Everything runs on one thread of the program, so that a second core is
//! left to what is measured; systems that are compared take turns within each round, floor first.

pub mod docker;
pub mod floor;
pub mod http;
pub mod load;
pub mod machine;
pub mod process;
pub mod report;
pub mod sections;
pub mod whisp;
