//! Tests of the store from outside: one file per promise.

mod cluster;
mod crash;
mod damage;
mod limits;
mod network;
mod reads;
mod replicas;
mod snapshots;
mod suite;
mod support;
