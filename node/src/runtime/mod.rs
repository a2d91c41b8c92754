//! Talking to what runs inside a container: the action-proxy contract over one connection, and what its answers mean.
//!
//! [`proxy_client`] exchanges bytes and tells exactly how far it got; [`outcome`] is the pure table from there to an
//! activation's response; [`http1`] is the framing of answers.

pub mod http1;
pub mod outcome;
pub mod proxy_client;

pub use outcome::{InitVerdict, RunVerdict, classify_init, classify_run};
pub use proxy_client::{Answer, AnswerBody, AnswerLimits, CallOutcome, Endpoint, Observed, ProxyConnection};
