//! What makes a node a member: its Raft groups and its session.
//!
//! A cluster of one node runs all groups as their only voter. Gossip, peers and placement join this module when several
//! nodes do.

pub mod proposer;
pub mod raft;
pub mod raft_network;
pub mod session;
