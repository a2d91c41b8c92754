//! Containers: pools of warm ones, decisions about starting and evicting, and the back ends that run them.

pub mod backend;
