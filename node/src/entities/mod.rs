//! Logic of the entities: what may be written, how names resolve, how parameters merge.

pub mod resolved;
