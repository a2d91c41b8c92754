//! Tests of the store from outside: one file per promise.

mod suite;
mod support;
