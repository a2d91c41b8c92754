//! What the readers show of applied state.

use std::{ops::ControlFlow, sync::Arc};

use protocol::{
    Activation, ActivationId, Revision, ShardId,
    command::{Finish, MetaCommand, MetaKey, MetaOp, MetaTxn, ShardOp},
    entity::Collection,
    ids::NodeId,
};
use raft_store::{ActivationQuery, GroupId, MetaChange, Observer, Options, ShardChange, Store, Stored};

use crate::support::{NOW, SHARD, accept, apply, finish, fqn, id, meta, name, put, record, session, shard};

const HOUR: u64 = 3_600_000;
const DAY: i64 = 86_400_000;

fn finish_with(record: Activation, log_parts: u32) -> ShardOp {
    ShardOp::Finish(Arc::new(Finish { session: session(1, 1), record: record.into(), log_parts, store: true }))
}

/// A record of `id` that started at `start_ms`, under a name.
fn named(id: ActivationId, start_ms: u64, filter_name: &str) -> Activation {
    Activation { filter_name: filter_name.into(), ..record("ns", id, start_ms) }
}

#[tokio::test]
async fn lists_merge_days_by_start_and_counts_agree() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let mut machine = store.state_machine(SHARD, Arc::new(()));
    // Ids over four days; some started days after their id was made, some in the same millisecond.
    let mut all = Vec::new();
    for n in 0..200u64 {
        let made = id(-(n as i64 % 4) * DAY + (n as i64) * 100_000, n);
        let waited = if n % 5 == 0 { 2 * DAY as u64 } else { n % 7 * 1_000_000 };
        let filter = if n % 3 == 0 { "p/act" } else { "act" };
        all.push(named(made, (made.unix_ms() + waited) / 1000 * 1000, filter));
    }
    let other = Activation { namespace: name("other"), ..named(id(5, 9999), NOW, "act") };
    let ops = all.iter().chain([&other]).map(|record| finish_with(record.clone(), 0)).collect();
    apply(&mut machine, 1, vec![shard(ops)]).await;

    let reader = store.shard(ShardId(0));
    let ns = name("ns");
    let times = [
        None,
        Some(NOW - DAY as u64),
        Some(NOW),
        Some(NOW + HOUR),
        Some(NOW + HOUR + 1_234_000),
        Some(NOW + 2 * DAY as u64),
    ];
    for filter in [None, Some("act"), Some("p/act"), Some("none")] {
        for since_ms in times {
            for upto_ms in times {
                let query = ActivationQuery { name: filter.map(str::to_owned), since_ms, upto_ms };
                let mut expected: Vec<&Activation> = all
                    .iter()
                    .filter(|record| filter.is_none_or(|filter| *record.filter_name == *filter))
                    .filter(|record| since_ms.is_none_or(|since| since <= record.start_ms))
                    .filter(|record| upto_ms.is_none_or(|upto| record.start_ms <= upto))
                    .collect();
                expected.sort_by_key(|record| (u64::MAX - record.start_ms, record.activation_id));
                let mut whole = Vec::new();
                reader.visit(&ns, &query, &mut |record| {
                    whole.push(record);
                    ControlFlow::Continue(())
                })?;
                assert_eq!(whole.iter().collect::<Vec<_>>(), expected, "{query:?}");
                for skip in [0, 7, expected.len()] {
                    let mut summaries = Vec::new();
                    reader.visit_summaries(&ns, &query, skip, &mut |summary| {
                        assert!(summary.logs.is_empty());
                        summaries.push(summary.activation_id);
                        ControlFlow::Continue(())
                    })?;
                    let expected = expected.iter().skip(skip).map(|record| record.activation_id);
                    assert_eq!(summaries, expected.collect::<Vec<_>>(), "{query:?} without {skip}");
                }
                assert_eq!(reader.count(&ns, &query)?, expected.len() as u64, "{query:?}");
            }
        }
    }
    // A visit stops when it is told to.
    let mut seen = 0;
    reader.visit(&ns, &ActivationQuery::default(), &mut |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(seen, 3);
    // Retention takes days by id.
    let day = id(0, 0).day();
    apply(&mut machine, 2, vec![shard(vec![ShardOp::DropBefore { day: day - 1 }])]).await;
    let left = all.iter().filter(|record| record.activation_id.day() >= day - 1).count() as u64;
    assert_eq!(reader.count(&ns, &ActivationQuery::default())?, left);
    assert!(left < 200);
    assert_eq!(reader.activation(&ns, &other.activation_id)?, None, "of another namespace");
    assert_eq!(reader.activation(&name("other"), &other.activation_id)?, Some(other));
    Ok(())
}

#[tokio::test]
async fn long_logs_come_back_in_one_piece_of_the_session_that_finished() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let mut machine = store.state_machine(SHARD, Arc::new(()));
    let of = |node, part, line: &str| ShardOp::LogPart {
        session: session(node, 1),
        namespace: name("ns"),
        id: id(0, 1),
        part,
        lines: vec![line.to_owned()],
    };
    let ops = vec![
        of(1, 0, "replaced"),
        of(2, 0, "of another that lost"),
        of(1, 1, "second"),
        of(1, 0, "first"),
        finish_with(record("ns", id(0, 1), NOW), 2),
    ];
    apply(&mut machine, 1, vec![shard(ops)]).await;
    let stored = store.shard(ShardId(0)).activation(&name("ns"), &id(0, 1))?.expect("a record");
    assert_eq!(stored.logs, ["first", "second", "a line"]);
    Ok(())
}

#[tokio::test]
async fn unfinished_work_is_shown_with_its_payload_and_who_has_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let mut machine = store.state_machine(SHARD, Arc::new(()));
    let (one, two) = (session(1, 1), session(2, 1));
    let ops = vec![
        accept("ns", id(0, 1), one),
        accept("ns", id(0, 2), two),
        accept("ns", id(0, 3), two),
        ShardOp::Start { id: id(0, 3), session: two, attempt: 0 },
        ShardOp::Fence { session: one, node_name: "one".to_owned() },
    ];
    apply(&mut machine, 1, vec![shard(ops)]).await;
    let reader = store.shard(ShardId(0));
    let mut seen = Vec::new();
    reader.unfinished(&mut |work| {
        assert_eq!(work.work, vec![7; 100]);
        seen.push((work.id, work.owner, work.attempt, work.started));
        ControlFlow::Continue(())
    })?;
    let expected = [(id(0, 1), None, 1, None), (id(0, 2), Some(two), 0, None), (id(0, 3), Some(two), 0, Some(two))];
    assert_eq!(seen, expected);
    let mut unowned = Vec::new();
    reader.unowned(&mut |id, attempt| {
        unowned.push((id, attempt));
        ControlFlow::Continue(())
    })?;
    assert_eq!(unowned, [(id(0, 1), 1)]);
    assert_eq!((reader.backlog(&name("ns"))?, reader.applied()), (3, 1));
    assert_eq!(reader.unfinished_one(&id(0, 2))?.map(|work| work.id), Some(id(0, 2)));
    assert_eq!(reader.unfinished_one(&id(0, 4))?, None);
    Ok(())
}

#[tokio::test]
async fn meta_shows_values_lists_counts_and_sessions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let mut machine = store.state_machine(GroupId::Meta, Arc::new(()));
    let raw = |key| MetaOp::Put { key, value: b"v".to_vec(), list: None };
    let ops = ["b", "a"].map(|n| raw(MetaKey::Subject(n.to_owned()))).into_iter();
    let ops = ops.chain([raw(MetaKey::AuthKey("u".to_owned())), raw(MetaKey::Setting("s".to_owned()))]).collect();
    let open = |node| MetaCommand::OpenSession { node: NodeId(node), node_name: format!("n{node}") };
    let commands = vec![
        put("x", 3),
        meta(None, MetaCommand::Write(MetaTxn { conditions: vec![], ops })),
        meta(None, open(1)),
        meta(None, open(2)),
        meta(None, MetaCommand::ExpireSession { session: session(1, 1) }),
    ];
    apply(&mut machine, 1, commands).await;
    let reader = store.meta();
    assert_eq!(reader.applied(), 5);
    let key = MetaKey::Entity(fqn("ns", None, "x"));
    let stored = Stored { revision: Revision(1), value: vec![1; 3] };
    assert_eq!(reader.get(&key)?, Some(stored.clone()));
    assert_eq!(reader.get(&MetaKey::Code(fqn("ns", None, "x")))?, None);
    let mut listed = Vec::new();
    reader.visit_list(&name("ns"), Collection::Actions, None, &mut |name, stored| {
        listed.push((name, stored));
        ControlFlow::Continue(())
    })?;
    assert_eq!(listed, [(fqn("ns", None, "x"), stored)]);
    assert_eq!(reader.count(&name("ns"), Collection::Actions, None)?, 1);
    assert_eq!(reader.count(&name("ns"), Collection::Packages, None)?, 0);
    let mut subjects = Vec::new();
    reader.visit_subjects(&mut |name, _| {
        subjects.push(name);
        ControlFlow::Continue(())
    })?;
    assert_eq!(subjects, ["a", "b"]);
    let mut keys = 0;
    reader.visit_auth_keys(&mut |uuid, _| {
        assert_eq!(uuid, "u");
        keys += 1;
        ControlFlow::Continue(())
    })?;
    assert_eq!(keys, 1);
    let sessions: Vec<_> = reader.sessions()?.into_iter().map(|open| (open.session, open.node_name)).collect();
    assert_eq!(sessions, [(session(2, 1), "n2".to_owned())]);
    Ok(())
}

/// Looks at the store when it is told of changes.
struct Looks(parking_lot::Mutex<Vec<String>>, Store);

impl Observer for Looks {
    fn meta_applied(&self, changes: &[MetaChange]) {
        for change in changes {
            let MetaChange::Put { key, revision, value } = change else { panic!("{change:?}") };
            // Written already, so a cache that reads now is right.
            let stored = self.1.meta().get(key).expect("readable").expect("there");
            assert_eq!((stored.revision, stored.value.as_slice()), (*revision, &value[..]));
            self.0.lock().push(format!("{key:?} at {} before {}", revision.0, self.1.meta().applied()));
        }
    }

    fn shard_applied(&self, shard: ShardId, changes: &[ShardChange]) {
        self.0.lock().push(format!("{shard} {changes:?}"));
    }
}

#[tokio::test]
async fn observers_hear_after_the_write_and_before_the_index_moves() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let looks = Arc::new(Looks(parking_lot::Mutex::default(), store.clone()));
    apply(&mut store.state_machine(GroupId::Meta, looks.clone()), 1, vec![put("x", 1)]).await;
    let ops = vec![accept("ns", id(0, 1), session(1, 1)), finish("ns", id(0, 1), session(1, 1))];
    apply(&mut store.state_machine(SHARD, looks.clone()), 1, vec![shard(ops)]).await;
    let heard = std::mem::take(&mut *looks.0.lock());
    let expected = ["Entity(ns/x) at 1 before 0".to_owned(), format!("0 [Finished({})]", id(0, 1))];
    assert_eq!(heard, expected);
    assert_eq!(store.meta().applied(), 1);
    Ok(())
}
