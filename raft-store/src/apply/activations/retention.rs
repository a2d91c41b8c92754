//! Dropping old records.

use protocol::command::ShardReply;

use crate::{apply::State, key_spaces::day_prefix};

/// Deletes everything of the days before `day`. Unfinished work lies outside the days and stays.
pub fn drop_before(state: &mut impl State, day: u32) -> ShardReply {
    state.delete_range(day_prefix(0), day_prefix(day));
    ShardReply::DroppedBefore
}
