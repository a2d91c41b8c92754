//! Reads records. Every query is of one namespace, so it touches one shard.

use std::ops::ControlFlow;

use protocol::{Activation, ActivationId, EntityName};
use raft_store::{ActivationQuery, StoreError};

use crate::cluster::raft::Groups;

/// Reads the records of all namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Activations(Groups);

impl Activations {
    pub fn new(groups: Groups) -> Self {
        Self(groups)
    }

    /// The record of `id`, with all its logs; `None` if there is none, or not yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn get(&self, namespace: &EntityName, id: ActivationId) -> Result<Option<Activation>, StoreError> {
        let reader = self.0.store().shard(self.0.shard_of(namespace));
        let namespace = namespace.clone();
        blocking(move || reader.activation(&namespace, &id)).await
    }

    /// Records that `query` matches, without their logs and results: newest start first, without the first `skip`, at
    /// most `limit`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn summaries(
        &self,
        namespace: &EntityName,
        query: ActivationQuery,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<Activation>, StoreError> {
        let reader = self.0.store().shard(self.0.shard_of(namespace));
        let namespace = namespace.clone();
        blocking(move || {
            let mut found = Vec::new();
            if limit == 0 {
                return Ok(found);
            }
            reader.visit_summaries(&namespace, &query, skip, &mut |activation| {
                found.push(activation);
                if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok(found)
        })
        .await
    }

    /// How many records `query` matches.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn count(&self, namespace: &EntityName, query: ActivationQuery) -> Result<u64, StoreError> {
        let reader = self.0.store().shard(self.0.shard_of(namespace));
        let namespace = namespace.clone();
        blocking(move || reader.count(&namespace, &query)).await
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(outcome) => outcome,
        // Only a panic ends a blocking task early: pass it on rather than inventing an error.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
