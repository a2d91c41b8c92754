//! From a resolved action to its result.

pub mod action_actor;
