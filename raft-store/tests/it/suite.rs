//! openraft's own tests of log stores and state machines.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use protocol::ShardId;
use raft_store::{GroupId, LogStore, Options, StateMachine, Store, TypeConfig};
use tempfile::TempDir;

struct Builder(GroupId);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), Options::default()).expect("a new store");
        Ok((dir, store.log(self.0), store.state_machine(self.0, Arc::new(()))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meta_passes_the_suite() {
    Suite::test_all(Builder(GroupId::Meta)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_passes_the_suite() {
    Suite::test_all(Builder(GroupId::Shard(ShardId(3)))).await.unwrap();
}
