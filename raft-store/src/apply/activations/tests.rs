//! What a shard promises, on a state in memory.

use proptest::prelude::*;
use protocol::{
    Activation, ActivationId, ActivationStatus, EntityName, RawJson, SessionId,
    activation::Response,
    command::{Accept, Finish, ShardOp, ShardReply},
    entity::{Parameter, Parameters, SemVer},
    ids::NodeId,
};

use super::{Batch, ShardChange, apply};
use crate::{
    apply::{self as common, MapState},
    key_spaces::{Backlog, ByStart, Holders, KeySpace, RecordValue, Records, UnfinishedSpace, Work},
};

const NOW: u64 = 1_795_262_400_000;
const HOUR: u64 = 3_600_000;

fn session(node: u64, incarnation: u64) -> SessionId {
    SessionId { node: NodeId(node), incarnation }
}

fn id_at(ms: u64, n: u64) -> ActivationId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    ActivationId::from_bytes(bytes)
}

fn id(n: u64) -> ActivationId {
    id_at(NOW, n)
}

fn namespace() -> EntityName {
    EntityName::new("ns").unwrap()
}

fn record(id: ActivationId) -> Activation {
    Activation {
        namespace: namespace(),
        name: EntityName::new("act").unwrap(),
        version: SemVer::FIRST,
        subject: "s".to_owned(),
        activation_id: id,
        cause: None,
        start_ms: NOW,
        end_ms: Some(NOW + 1),
        duration_ms: Some(1),
        response: Response { status: ActivationStatus::Success, result: None, size: None },
        logs: vec![],
        annotations: Parameters::default(),
        publish: false,
        filter_name: "act".into(),
    }
}

fn accept(id: ActivationId, owner: SessionId, started: bool, backlog_limit: u32) -> ShardOp {
    ShardOp::Accept(std::sync::Arc::new(Accept {
        owner,
        work: vec![1, 2],
        if_lost: record(id),
        started,
        backlog_limit,
    }))
}

fn finish(id: ActivationId, session: SessionId, store: bool) -> ShardOp {
    ShardOp::Finish(std::sync::Arc::new(Finish { session, record: record(id).into(), log_parts: 0, store }))
}

fn start(id: ActivationId, session: SessionId, attempt: u32) -> ShardOp {
    ShardOp::Start { id, session, attempt }
}

fn fence(session: SessionId) -> ShardOp {
    ShardOp::Fence { session, node_name: "node one".to_owned() }
}

fn assign(id: ActivationId, session: SessionId, attempt: u32) -> ShardOp {
    ShardOp::Assign { id, session, attempt }
}

#[derive(Default)]
struct Shard {
    state: MapState,
    batch: Batch,
}

impl Shard {
    fn at(&mut self, now_ms: u64, op: &ShardOp) -> ShardReply {
        self.batch.changes.clear();
        apply(&mut self.state, now_ms, op, &mut self.batch).unwrap()
    }

    fn run(&mut self, op: &ShardOp) -> ShardReply {
        self.at(NOW, op)
    }

    fn record(&self, id: ActivationId) -> Option<RecordValue> {
        common::get::<Records>(&self.state, &(id.day(), id)).unwrap()
    }

    fn backlog(&self) -> u32 {
        common::get::<Backlog>(&self.state, &namespace()).unwrap().unwrap_or(0)
    }

    fn unfinished(&self, id: ActivationId) -> Option<crate::key_spaces::UnfinishedValue> {
        common::get::<UnfinishedSpace>(&self.state, &id).unwrap()
    }
}

#[test]
fn an_id_is_accepted_once_in_its_hour_and_within_the_backlog() {
    let mut shard = Shard::default();
    let owner = session(1, 1);
    for (ms, expected) in [
        (NOW - HOUR, ShardReply::Accepted),
        (NOW + HOUR, ShardReply::Accepted),
        (NOW - HOUR - 1, ShardReply::IdOutOfRange),
        (NOW + HOUR + 1, ShardReply::IdOutOfRange),
    ] {
        assert_eq!(shard.run(&accept(id_at(ms, 0), owner, false, 10)), expected);
    }
    let work = common::get::<Work>(&shard.state, &id_at(NOW + HOUR, 0)).unwrap();
    assert_eq!(work.unwrap().work, [1, 2]);
    assert_eq!(shard.run(&accept(id_at(NOW - HOUR, 0), owner, false, 10)), ShardReply::Duplicate);
    assert_eq!(shard.run(&accept(id(1), owner, false, 2)), ShardReply::BacklogFull { count: 2 });
    assert_eq!(shard.run(&accept(id(1), owner, false, 3)), ShardReply::Accepted);
    assert_eq!(shard.run(&finish(id(1), owner, true)), ShardReply::Finished);
    // Finished work makes room, and its id stays taken, recorded or not.
    assert_eq!(shard.run(&accept(id(1), owner, false, 3)), ShardReply::Duplicate);
    assert_eq!(shard.run(&accept(id(2), owner, false, 3)), ShardReply::Accepted);
    assert_eq!(shard.run(&finish(id(2), owner, false)), ShardReply::Finished);
    assert_eq!(shard.run(&accept(id(2), owner, false, 3)), ShardReply::Duplicate);
    assert_eq!(shard.record(id(2)), None);
}

#[test]
fn one_session_starts_an_attempt_and_asking_again_is_granted() {
    let mut shard = Shard::default();
    let (owner, peer) = (session(1, 1), session(2, 1));
    assert_eq!(shard.run(&start(id(1), owner, 0)), ShardReply::NotGranted);
    shard.run(&accept(id(1), owner, false, 10));
    assert_eq!(shard.run(&start(id(1), peer, 1)), ShardReply::NotGranted);
    assert_eq!(shard.run(&start(id(1), peer, 0)), ShardReply::Granted);
    assert_eq!(shard.run(&start(id(1), peer, 0)), ShardReply::Granted);
    assert_eq!(shard.run(&start(id(1), owner, 0)), ShardReply::NotGranted);
    shard.run(&finish(id(1), peer, true));
    assert_eq!(shard.run(&start(id(1), peer, 0)), ShardReply::NotGranted);
}

#[test]
fn the_first_record_wins() {
    let mut shard = Shard::default();
    assert_eq!(shard.run(&finish(id(1), session(1, 1), true)), ShardReply::Finished);
    let first = shard.record(id(1));
    assert_eq!(shard.run(&finish(id(1), session(2, 1), true)), ShardReply::Dropped);
    assert_eq!(shard.record(id(1)), first);
    assert_eq!(shard.run(&finish(id(2), session(1, 1), false)), ShardReply::Finished);
    assert_eq!(shard.run(&finish(id(2), session(1, 1), true)), ShardReply::Dropped);
    assert_eq!(shard.record(id(2)), None);
}

#[test]
fn lists_find_records_without_their_logs_and_results() {
    let record = Activation {
        cause: Some(id(2)),
        response: Response { status: ActivationStatus::DeveloperError, result: Some(RawJson::null()), size: Some(4) },
        logs: vec!["a line".to_owned()],
        annotations: [Parameter::new("path", RawJson::string("ns/act"))].into_iter().collect(),
        publish: true,
        ..record(id(1))
    };
    let mut shard = Shard::default();
    let finish = Finish { session: session(1, 1), record: record.clone().into(), log_parts: 0, store: true };
    assert_eq!(shard.run(&ShardOp::Finish(finish.into())), ShardReply::Finished);
    let key = (id(1).day(), namespace(), record.start_ms, id(1));
    let listed = common::get::<ByStart>(&shard.state, &key).unwrap();
    let response = Response { result: None, ..record.response.clone() };
    assert_eq!(listed, Some(Activation { response, logs: vec![], ..record }));
}

#[test]
fn a_fence_takes_back_what_waits_and_finishes_what_runs_as_lost() {
    let mut shard = Shard::default();
    let (dead, peer) = (session(1, 3), session(2, 1));
    shard.run(&accept(id(1), dead, false, 10)); // waits
    shard.run(&accept(id(2), dead, false, 10)); // runs on the dead node
    shard.run(&start(id(2), dead, 0));
    shard.run(&accept(id(3), dead, false, 10)); // runs on a peer
    shard.run(&start(id(3), peer, 0));
    shard.run(&accept(id(4), peer, false, 10)); // the peer's, runs on the dead node
    shard.run(&start(id(4), dead, 0));
    shard.run(&accept(id(5), session(1, 2), true, 10)); // of an older incarnation, ran from the start
    shard.run(&accept(id(6), session(1, 4), false, 10)); // of a newer one

    assert_eq!(shard.at(NOW + 50, &fence(dead)), ShardReply::Fenced { taken_back: 1, lost: 3 });
    let mut changes = std::mem::take(&mut shard.batch.changes);
    changes.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(
        changes,
        [
            ShardChange::Finished(id(2)),
            ShardChange::Finished(id(4)),
            ShardChange::Finished(id(5)),
            ShardChange::TakenBack(id(1)),
        ]
    );
    let waiting = shard.unfinished(id(1)).unwrap();
    assert_eq!((waiting.owner, waiting.attempt, waiting.started), (None, 1, None));
    for lost in [2, 4, 5] {
        let record = shard.record(id(lost)).unwrap().record;
        assert_eq!(record.response.status, ActivationStatus::WhiskError);
        assert!(record.response.result.as_ref().unwrap().as_str().contains("node one"), "{record:?}");
        assert_eq!((record.end_ms, record.duration_ms), (Some(NOW + 50), Some(50)));
        assert_eq!(shard.unfinished(id(lost)), None);
    }
    assert_eq!(shard.unfinished(id(3)).unwrap().started, Some(peer));
    assert_eq!(shard.unfinished(id(6)).unwrap().owner, Some(session(1, 4)));
    assert_eq!(shard.backlog(), 3);
    assert_eq!(shard.run(&fence(dead)), ShardReply::Fenced { taken_back: 0, lost: 0 });
    assert_eq!(shard.run(&fence(session(1, 1))), ShardReply::Fenced { taken_back: 0, lost: 0 });
}

#[test]
fn a_fenced_session_and_older_ones_may_do_nothing() {
    let mut shard = Shard::default();
    shard.run(&accept(id(1), session(2, 1), false, 10));
    shard.run(&fence(session(1, 5)));
    let before = shard.state.clone();
    for dead in [session(1, 5), session(1, 4), session(1, 0)] {
        let lines = vec!["x".to_owned()];
        for op in [
            accept(id(9), dead, false, 10),
            start(id(1), dead, 0),
            finish(id(1), dead, true),
            assign(id(1), dead, 0),
            ShardOp::LogPart { session: dead, namespace: namespace(), id: id(1), part: 0, lines },
        ] {
            assert_eq!(shard.run(&op), ShardReply::SessionFenced, "{op:?}");
        }
    }
    assert_eq!(shard.state, before);
    assert_eq!(shard.run(&start(id(1), session(1, 6), 0)), ShardReply::Granted);
}

#[test]
fn work_taken_back_runs_again_only_under_its_new_owner_and_attempt() {
    let mut shard = Shard::default();
    let (dead, next) = (session(1, 1), session(2, 1));
    shard.run(&accept(id(1), dead, false, 10));
    assert_eq!(shard.run(&assign(id(1), next, 0)), ShardReply::NotAssigned);
    shard.run(&fence(dead));
    // A peer that the dead owner had asked comes late.
    assert_eq!(shard.run(&start(id(1), next, 0)), ShardReply::NotGranted);
    assert_eq!(shard.run(&start(id(1), next, 1)), ShardReply::NotGranted);
    assert_eq!(shard.run(&assign(id(1), next, 0)), ShardReply::NotAssigned);
    assert_eq!(shard.run(&assign(id(1), next, 1)), ShardReply::Assigned);
    assert_eq!(shard.run(&assign(id(1), next, 1)), ShardReply::Assigned);
    assert_eq!(shard.run(&assign(id(1), session(3, 1), 1)), ShardReply::NotAssigned);
    assert_eq!(shard.run(&start(id(1), next, 1)), ShardReply::Granted);
    assert_eq!(shard.run(&assign(id(1), next, 1)), ShardReply::NotAssigned);
}

#[test]
fn retention_drops_whole_days_and_leaves_unfinished_work() {
    let mut shard = Shard::default();
    let day = 86_400_000;
    let (old, new) = (id_at(NOW - day, 1), id_at(NOW, 1));
    let waiting = id_at(NOW - day, 2);
    shard.at(NOW - day, &accept(waiting, session(1, 1), false, 10));
    shard.at(NOW - day, &finish(old, session(1, 1), true));
    shard.run(&finish(new, session(1, 1), true));
    assert_eq!(shard.run(&ShardOp::DropBefore { day: new.day() }), ShardReply::DroppedBefore);
    assert_eq!(shard.record(old), None);
    assert!(shard.record(new).is_some());
    assert!(shard.unfinished(waiting).is_some());
}

/// Any op on few ids, sessions and attempts, so that they meet.
fn any_op() -> impl Strategy<Value = ShardOp> {
    let ids = (0u64..6).prop_map(id);
    let sessions = (1u64..4, 0u64..4).prop_map(|(node, incarnation)| session(node, incarnation));
    let pair = (ids, sessions);
    prop_oneof![
        4 => (pair.clone(), any::<bool>()).prop_map(|((id, s), started)| accept(id, s, started, 4)),
        4 => (pair.clone(), 0u32..3).prop_map(|((id, s), attempt)| start(id, s, attempt)),
        2 => (pair.clone(), any::<bool>()).prop_map(|((id, s), store)| finish(id, s, store)),
        1 => pair.clone().prop_map(|(_, s)| fence(s)),
        3 => (pair, 0u32..3).prop_map(|((id, s), attempt)| assign(id, s, attempt)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Promises P2 and P3 over any history: an accepted activation is either unfinished or ended, it never has two records,
    /// no attempt is granted to two sessions, and nothing fenced is granted.
    #[test]
    fn any_history_ends_each_activation_once_and_starts_each_attempt_once(ops in prop::collection::vec(any_op(), 1..120)) {
        let mut shard = Shard::default();
        let mut granted = std::collections::HashMap::new();
        let mut accepted = std::collections::HashSet::new();
        let mut ended = std::collections::HashSet::new();
        let mut fenced = std::collections::HashMap::new();
        for op in &ops {
            let reply = shard.run(op);
            match (op, &reply) {
                (ShardOp::Accept(accept), ShardReply::Accepted) => {
                    let id = accept.if_lost.activation_id;
                    prop_assert!(accepted.insert(id) && !ended.contains(&id));
                    if accept.started {
                        granted.insert((id, 0), accept.owner);
                    }
                }
                (ShardOp::Start { id, session, attempt }, ShardReply::Granted) => {
                    let first = *granted.entry((*id, *attempt)).or_insert(*session);
                    prop_assert_eq!(first, *session);
                    prop_assert!(fenced.get(&session.node).is_none_or(|highest| *highest < session.incarnation));
                    prop_assert!(accepted.contains(id) && !ended.contains(id));
                }
                (ShardOp::Fence { session, .. }, ShardReply::Fenced { .. }) => {
                    let highest = fenced.entry(session.node).or_insert(session.incarnation);
                    *highest = (*highest).max(session.incarnation);
                }
                _ => {}
            }
            for change in &shard.batch.changes {
                if let ShardChange::Finished(id) = change {
                    prop_assert!(ended.insert(*id), "{} ended twice", id);
                }
            }
            // A granted attempt is never given up for another one: work that started once is not started again.
            for (id, attempt) in granted.keys() {
                if let Some(unfinished) = shard.unfinished(*id) {
                    prop_assert_eq!(unfinished.attempt, *attempt);
                }
            }
        }
        let unfinished: Vec<_> = accepted.iter().filter(|id| shard.unfinished(**id).is_some()).collect();
        for id in &accepted {
            prop_assert_ne!(shard.unfinished(*id).is_some(), ended.contains(id), "{} is lost or in two places", id);
        }
        prop_assert_eq!(shard.backlog() as usize, unfinished.len());
        let holders = shard.state.0.keys().filter(|key| key[0] == Holders::NUMBER).count();
        let held = unfinished.iter().filter(|id| shard.unfinished(***id).unwrap().holder().is_some()).count();
        prop_assert_eq!(holders, held);
    }
}
