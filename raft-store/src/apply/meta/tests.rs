//! What `meta` promises, on a state in memory.

use std::ops::ControlFlow;

use protocol::{
    EntityName, EntityPath, FullyQualifiedName, Revision, SessionId,
    command::{Condition, ListEntry, MetaCommand, MetaKey, MetaOp, MetaReply, MetaTxn, Origin, REPLY_WINDOW},
    entity::Collection,
    ids::NodeId,
};

use super::{MetaChange, apply};
use crate::{
    apply::{self as common, MapState, ReadState, scan_prefix},
    key_spaces::{CountKey, Counts, HighestSequence, KeySpace, Replies, Values, list_prefix},
};

fn name(text: &str) -> EntityName {
    EntityName::new(text).unwrap()
}

fn fqn(package: Option<&str>, entity: &str) -> FullyQualifiedName {
    FullyQualifiedName::new(EntityPath { namespace: name("ns"), package: package.map(name) }, name(entity))
}

fn key(package: Option<&str>, entity: &str) -> MetaKey {
    MetaKey::Entity(fqn(package, entity))
}

fn put(key: MetaKey, value: &[u8], updated_ms: u64) -> MetaOp {
    let list = Some(ListEntry { collection: Collection::Actions, updated_ms });
    MetaOp::Put { key, value: value.to_vec(), list }
}

fn write(conditions: Vec<Condition>, ops: Vec<MetaOp>) -> MetaCommand {
    MetaCommand::Write(MetaTxn { conditions, ops })
}

/// A state with its log.
#[derive(Default)]
struct Meta {
    state: MapState,
    index: u64,
    changes: Vec<MetaChange>,
}

impl Meta {
    fn run(&mut self, origin: Option<Origin>, command: &MetaCommand) -> MetaReply {
        self.index += 1;
        self.changes.clear();
        apply(&mut self.state, self.index, origin, command, &mut self.changes).unwrap()
    }

    fn write(&mut self, conditions: Vec<Condition>, ops: Vec<MetaOp>) -> MetaReply {
        self.run(None, &write(conditions, ops))
    }

    fn open(&mut self, node: u64) -> MetaReply {
        self.run(None, &MetaCommand::OpenSession { node: NodeId(node), node_name: format!("n{node}") })
    }

    fn listed(&self, package: Option<&str>) -> Vec<String> {
        let mut names = Vec::new();
        let package = package.map(name);
        scan_prefix(&self.state, &list_prefix(&name("ns"), Collection::Actions, package.as_ref()), &mut |key, _| {
            names.push(match package {
                None => FullyQualifiedName::from(common::key::<crate::key_spaces::List>(key)?).to_string(),
                Some(_) => FullyQualifiedName::from(common::key::<crate::key_spaces::PackageList>(key)?).to_string(),
            });
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        names
    }

    fn count(&self, package: Option<&str>) -> u64 {
        let key = CountKey { namespace: name("ns"), collection: Collection::Actions, package: package.map(name) };
        common::get::<Counts>(&self.state, &key).unwrap().unwrap_or(0)
    }
}

#[test]
fn all_conditions_hold_or_nothing_is_done() {
    let mut meta = Meta::default();
    let a = key(None, "a");
    assert_eq!(
        meta.write(vec![Condition::Absent(a.clone())], vec![put(a.clone(), b"1", 10)]),
        MetaReply::Written { revision: Revision(1) }
    );
    let before = meta.state.clone();
    let failing = [
        vec![Condition::Absent(a.clone())],
        vec![Condition::Exists(a.clone()), Condition::Exists(key(None, "b"))],
        vec![Condition::Exists(a.clone()), Condition::At(a.clone(), Revision(9))],
        vec![Condition::Exists(a.clone()), Condition::At(key(None, "b"), Revision(0))],
    ];
    for conditions in failing {
        let index = conditions.len() as u32 - 1;
        assert_eq!(
            meta.write(conditions, vec![put(a.clone(), b"2", 11), put(key(None, "c"), b"", 1)]),
            MetaReply::ConditionFailed { index }
        );
        assert_eq!(meta.state, before);
        assert!(meta.changes.is_empty());
    }
    let index = meta.index + 1;
    assert_eq!(
        meta.write(vec![Condition::At(a.clone(), Revision(1))], vec![put(a.clone(), b"2", 11)]),
        MetaReply::Written { revision: Revision(index) }
    );
    let stored = common::get::<Values>(&meta.state, &a).unwrap().unwrap();
    assert_eq!((stored.revision, stored.value.as_slice()), (Revision(index), &b"2"[..]));
}

#[test]
fn lists_have_each_entity_once_newest_first_and_counts_follow() {
    let mut meta = Meta::default();
    meta.write(
        vec![],
        vec![
            put(key(None, "old"), b"", 1),
            put(key(Some("p"), "mid"), b"", 2),
            put(key(None, "new"), b"", 3),
            // The same name elsewhere is another entity.
            put(key(Some("q"), "old"), b"", 4),
        ],
    );
    assert_eq!(meta.listed(None), ["ns/q/old", "ns/new", "ns/p/mid", "ns/old"]);
    assert_eq!(meta.listed(Some("p")), ["ns/p/mid"]);
    assert_eq!((meta.count(None), meta.count(Some("p")), meta.count(Some("q"))), (4, 1, 1));

    meta.write(vec![], vec![put(key(None, "old"), b"2", 9)]);
    assert_eq!(meta.listed(None), ["ns/old", "ns/q/old", "ns/new", "ns/p/mid"]);
    assert_eq!(meta.count(None), 4);

    meta.write(vec![], vec![MetaOp::Delete(key(None, "old")), MetaOp::Delete(key(None, "never there"))]);
    assert_eq!(meta.changes, [MetaChange::Deleted(key(None, "old"))]);
    assert_eq!(meta.listed(None), ["ns/q/old", "ns/new", "ns/p/mid"]);
    assert_eq!(meta.count(None), 3);

    meta.write(vec![], ["new"].map(|n| MetaOp::Delete(key(None, n))).to_vec());
    meta.write(vec![], vec![MetaOp::Delete(key(Some("p"), "mid")), MetaOp::Delete(key(Some("q"), "old"))]);
    assert!(meta.state.0.is_empty(), "nothing is left behind: {:?}", meta.state);
}

#[test]
fn a_packages_contents_go_with_their_code_and_no_others() {
    let mut meta = Meta::default();
    let code = |package, entity| MetaKey::Code(fqn(package, entity));
    let ops = vec![
        put(key(Some("p"), "a"), b"", 1),
        MetaOp::Put { key: code(Some("p"), "a"), value: b"code".to_vec(), list: None },
        put(key(Some("pp"), "a"), b"", 2),
        put(key(None, "p"), b"the package itself", 3),
    ];
    meta.write(vec![], ops);
    let package = fqn(None, "p");
    assert_eq!(
        meta.write(vec![Condition::PackageEmpty(package.clone())], vec![]),
        MetaReply::ConditionFailed { index: 0 }
    );
    meta.write(vec![], vec![MetaOp::DeletePackageContents(package.clone())]);
    assert_eq!(meta.changes, [MetaChange::Deleted(key(Some("p"), "a")), MetaChange::Deleted(code(Some("p"), "a"))]);
    assert_eq!(meta.listed(None), ["ns/p", "ns/pp/a"]);
    assert!(matches!(meta.write(vec![Condition::PackageEmpty(package)], vec![]), MetaReply::Written { .. }));
}

#[test]
fn incarnations_only_grow_and_opening_closes_the_older() {
    let mut meta = Meta::default();
    let session = |node, incarnation| SessionId { node: NodeId(node), incarnation };
    assert_eq!(meta.open(1), MetaReply::SessionOpened { session: session(1, 1), closed: None });
    assert_eq!(meta.open(2), MetaReply::SessionOpened { session: session(2, 1), closed: None });
    assert_eq!(meta.open(1), MetaReply::SessionOpened { session: session(1, 2), closed: Some(session(1, 1)) });
    assert_eq!(meta.changes, [MetaChange::SessionExpired(session(1, 1)), MetaChange::SessionOpened(session(1, 2))]);
    let expire = |session| MetaCommand::ExpireSession { session };
    assert_eq!(meta.run(None, &expire(session(1, 1))), MetaReply::SessionExpired(false));
    assert_eq!(meta.run(None, &expire(session(1, 2))), MetaReply::SessionExpired(true));
    assert_eq!(meta.run(None, &expire(session(1, 2))), MetaReply::SessionExpired(false));
    assert_eq!(meta.open(1), MetaReply::SessionOpened { session: session(1, 3), closed: None });
}

#[test]
fn a_repeated_proposal_gets_the_first_reply_and_does_nothing() {
    let mut meta = Meta::default();
    meta.open(1);
    let origin = |sequence| Some(Origin { session: SessionId { node: NodeId(1), incarnation: 1 }, sequence });
    let create = write(vec![Condition::Absent(key(None, "a"))], vec![put(key(None, "a"), b"1", 1)]);
    let first = meta.run(origin(1), &create);
    assert_eq!(first, MetaReply::Written { revision: Revision(2) });
    let before = meta.state.clone();
    assert_eq!(meta.run(origin(1), &create), first);
    assert_eq!(meta.state, before);
    assert!(meta.changes.is_empty());
    // Another sequence is another proposal.
    assert_eq!(meta.run(origin(2), &create), MetaReply::ConditionFailed { index: 0 });
    // Late, but within the window: it is done.
    let highest = REPLY_WINDOW + 100;
    assert!(matches!(meta.run(origin(highest), &write(vec![], vec![])), MetaReply::Written { .. }));
    assert!(matches!(meta.run(origin(101), &write(vec![], vec![])), MetaReply::Written { .. }));
    assert_eq!(meta.run(origin(100), &write(vec![], vec![])), MetaReply::SequenceForgotten);
}

#[test]
fn replies_are_bounded_and_go_with_the_session() {
    let mut meta = Meta::default();
    meta.open(1);
    let session = SessionId { node: NodeId(1), incarnation: 1 };
    let replies = |meta: &Meta| meta.state.0.keys().filter(|key| key[0] == Replies::NUMBER).count() as u64;
    for sequence in 0..3 * REPLY_WINDOW {
        meta.run(Some(Origin { session, sequence }), &write(vec![], vec![]));
        // Counting looks at all of them, so not each time.
        assert!(sequence % 97 != 0 || replies(&meta) <= REPLY_WINDOW + 256);
    }
    assert!(replies(&meta) >= REPLY_WINDOW);
    // It ends itself: that reply is not kept either.
    let last = Some(Origin { session, sequence: 3 * REPLY_WINDOW });
    assert_eq!(meta.run(last, &MetaCommand::ExpireSession { session }), MetaReply::SessionExpired(true));
    assert_eq!(replies(&meta), 0);
    assert_eq!(meta.state.get(&HighestSequence::key(&session)).unwrap(), None);
    let late = meta.run(Some(Origin { session, sequence: 1 }), &write(vec![], vec![put(key(None, "a"), b"", 1)]));
    assert_eq!(late, MetaReply::SessionClosed);
    assert!(meta.listed(None).is_empty());
}
