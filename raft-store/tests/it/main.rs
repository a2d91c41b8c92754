//! Tests of the store from outside: one file per promise.

mod cluster;
mod crash;
mod damage;
mod network;
mod suite;
mod support;
