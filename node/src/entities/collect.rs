//! Removes code that no action names any more.

use std::{collections::HashSet, ops::ControlFlow, time::Duration};

use protocol::entity::Entity;

use super::{Entities, EntityError};
use crate::clock;

/// Time between two looks. Code stays for a day, so one more hour does not matter.
const PERIOD: Duration = Duration::from_secs(3600);

/// Looks at start and then once an hour, for as long as the node runs.
pub async fn run(entities: Entities) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        match entities.collect_code().await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "code files that no action names were removed"),
            Err(error) => tracing::warn!(%error, "code that no action names could not be removed; trying again later"),
        }
    }
}

impl Entities {
    /// Removes code files that no action has named for 24 hours, and answers how many. Idempotent; may take long.
    ///
    /// # Errors
    /// If entities or files cannot be read; then no file is removed that an action might name.
    pub async fn collect_code(&self) -> Result<u64, EntityError> {
        self.reading(|entities| {
            let mut referenced = HashSet::new();
            let mut failed = Ok(());
            entities.0.meta.visit_entities(&mut |name, stored| {
                match super::decode(&name, &stored.value) {
                    Ok(Entity::Action(action)) => referenced.extend(action.exec.code().map(|code| code.sha256)),
                    Ok(Entity::Package(_)) => {}
                    Err(error) => failed = Err(error),
                }
                if failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed?;
            Ok(entities.0.blobs.collect(&referenced, clock::now())?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, sync::Arc};

    use protocol::{
        EntityName, FullyQualifiedName, NodeId, ShardId,
        entity::{ExecBody, action::ActionContent, exec::CodeBody},
        limits::SystemLimits,
    };
    use raft_store::{MetaChange, Observer, Options, ShardChange, Store, Timers};

    use super::*;
    use crate::{
        cluster::raft::{GroupTimers, Groups},
        entities::{
            EntityCaches,
            actions::PutAction,
            code::{Blobs, UNREFERENCED_FOR},
            encryption::Keyring,
            kinds::Kinds,
            manifest::Manifest,
        },
    };

    struct Caches(Arc<EntityCaches>);

    impl Observer for Caches {
        fn meta_applied(&self, changes: &[MetaChange]) {
            self.0.meta_applied(changes);
        }

        fn shard_applied(&self, _: ShardId, _: &[ShardChange]) {}
    }

    async fn entities(dir: &Path) -> (Entities, Groups) {
        let store = Store::open(&dir.join("store"), Options::default()).expect("a fresh store");
        let caches = Arc::new(EntityCaches::default());
        let timers = GroupTimers { meta: Timers::META, shards: Timers::SHARD };
        let groups = Groups::start(NodeId(1), store, 1, timers, Arc::new(Caches(Arc::clone(&caches)))).await;
        let groups = groups.expect("the groups start");
        let kinds = Kinds::new(&Manifest::upstream(), &["nodejs:20".to_owned()]);
        let blobs = Blobs::open(dir.join("blobs")).expect("a folder for code");
        (Entities::new(groups.clone(), caches, kinds, SystemLimits::default(), blobs, Keyring::default()), groups)
    }

    async fn put(entities: &Entities, name: &str, code: &str) {
        let code = CodeBody { bytes: code.into(), binary: false, sent: code.len() as u64 };
        let exec = ExecBody::Managed { kind: "nodejs:20".into(), main: None, code };
        let content = ActionContent { exec: Some(exec), ..ActionContent::default() };
        let put = PutAction { overwrite: true, content, settings: Default::default() };
        let name = FullyQualifiedName::parse(&format!("guest/{name}")).expect("a name");
        entities.put_action(name, put).await.expect("it is written");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn code_goes_a_day_after_the_last_action_that_names_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (entities, groups) = entities(dir.path()).await;
        let [shared, replaced] = ["a", "b"].map(|text| text.repeat(100 << 10));
        put(&entities, "one", &shared).await;
        put(&entities, "two", &shared).await;
        put(&entities, "three", &replaced).await;
        put(&entities, "three", "short").await;
        put(&entities, "one", "short").await;
        let files = || std::fs::read_dir(dir.path().join("blobs")).expect("the folder").flatten().collect::<Vec<_>>();
        assert_eq!(files().len(), 2);
        assert_eq!(entities.collect_code().await.expect("it can be read"), 0, "their day is not over");
        for file in files() {
            let file = File::options().write(true).open(file.path()).expect("a file");
            file.set_modified(clock::now() - 2 * UNREFERENCED_FOR).expect("its time is set");
        }
        assert_eq!(entities.collect_code().await.expect("it can be read"), 1);
        assert_eq!(entities.collect_code().await.expect("it can be read"), 0);

        let guest = EntityName::new("guest").expect("a name");
        let two = FullyQualifiedName::parse("guest/two").expect("a name");
        let kept = entities.resolve(&guest, &two).await.expect("it is there");
        let code = entities.code(&kept).await.expect("it can be read");
        assert_eq!(code.expect("it has code"), shared.as_bytes(), "another action names it still");
        groups.shutdown().await;
    }
}
