//! Reads of a shard: records, lists that merge all days, counts that do not scan, unfinished work.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use protocol::{Activation, ActivationId, EntityName, SessionId, ShardId};
use rocksdb::DBRawIterator;

use crate::{
    apply::{
        self,
        activations::{HOUR_MS, hour_of},
        scan_prefix,
    },
    error::StoreError,
    key_spaces::{
        Backlog, ByName, ByStart, CountByHour, CountByName, DAYS, DaySpace, KeySpace, LogParts, RecordValue, Records,
        UnfinishedSpace, UnfinishedValue, Work, day_prefix,
    },
    keys::{KeyReader, KeyWriter},
    store::{Group, Inner},
    types::GroupId,
    view::{Frozen, View},
};

/// Which activations of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActivationQuery {
    /// Only those whose [`Activation::filter_name`] is this.
    pub name: Option<String>,
    /// Only those that started at this time (milliseconds since the epoch) or later.
    pub since_ms: Option<u64>,
    /// Only those that started at this time or earlier.
    pub upto_ms: Option<u64>,
}

/// Accepted work that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub id: ActivationId,
    pub namespace: EntityName,
    /// Who places it; `None` after its owner was fenced.
    pub owner: Option<SessionId>,
    pub attempt: u32,
    /// Who runs it.
    pub started: Option<SessionId>,
    /// The bytes of [`protocol::command::AcceptedWork`].
    pub work: Vec<u8>,
}

/// Reads a shard as applied on this node. Cheap to clone.
#[derive(Clone)]
pub struct ShardReader {
    inner: Arc<Inner>,
    shard: ShardId,
    group: Arc<Group>,
}

type StateView<'a> = View<Frozen<'a>>;

impl ShardReader {
    pub(crate) fn new(inner: Arc<Inner>, shard: ShardId) -> Self {
        let group = inner.group(GroupId::Shard(shard));
        Self { inner, shard, group }
    }

    /// Index of the last applied entry whose changes were observed.
    pub fn applied(&self) -> u64 {
        self.group.applied.load(Ordering::Acquire)
    }

    /// The whole record of an activation, its log in one piece.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read; so for all methods here.
    pub fn activation(&self, namespace: &EntityName, id: &ActivationId) -> Result<Option<Activation>, StoreError> {
        let record = whole(&self.frozen(), id)?;
        Ok(record.filter(|record| record.namespace == *namespace))
    }

    /// Visits whole records, the newest start first.
    pub fn visit(
        &self,
        namespace: &EntityName,
        query: &ActivationQuery,
        visit: &mut dyn FnMut(Activation) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let view = self.frozen();
        merge_days(&view, namespace, query, |cursor, place| {
            let record = whole(&view, &place.id)?.ok_or_else(|| indexed_only(cursor.day, &place.id))?;
            Ok(visit(record))
        })
    }

    /// Visits records without logs and results, the newest start first, without the first `skip`: of those only the index
    /// is read.
    pub fn visit_summaries(
        &self,
        namespace: &EntityName,
        query: &ActivationQuery,
        mut skip: usize,
        visit: &mut dyn FnMut(Activation) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        merge_days(&self.frozen(), namespace, query, |cursor, place| {
            if skip > 0 {
                skip -= 1;
                return Ok(ControlFlow::Continue(()));
            }
            Ok(visit(cursor.summary(namespace, place)?))
        })
    }

    /// How many [`ShardReader::visit`] would visit. Adds up counts per hour; only the first and the last hour of a range
    /// that does not begin or end with one are counted record by record.
    pub fn count(&self, namespace: &EntityName, query: &ActivationQuery) -> Result<u64, StoreError> {
        let view = self.frozen();
        let (since, upto) = (query.since_ms.unwrap_or(0), query.upto_ms.unwrap_or(u64::MAX));
        let mut count = 0;
        for day in days(&view)? {
            let prefix = hours_prefix(day, namespace, query.name.as_deref());
            scan_prefix(&view, &prefix, &mut |key, value| {
                let (hour, in_hour) = match query.name {
                    None => (apply::key::<CountByHour>(key)?.2, apply::value::<CountByHour>(value)?),
                    Some(_) => (apply::key::<CountByName>(key)?.3, apply::value::<CountByName>(value)?),
                };
                let first = u64::from(hour) * HOUR_MS;
                let last = if hour == hour_of(u64::MAX) { u64::MAX } else { first + (HOUR_MS - 1) };
                if since <= first && last <= upto {
                    count += in_hour;
                } else if first <= upto && since <= last {
                    let part = first.max(since)..=last.min(upto);
                    let mut cursor = Cursor::new(&view, day, namespace, query.name.as_deref(), *part.end());
                    while cursor.place(*part.start())?.is_some() {
                        count += 1;
                        cursor.iterator.next();
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(count)
    }

    /// Visits all unfinished work in the order of acceptance.
    pub fn unfinished(&self, visit: &mut dyn FnMut(Unfinished) -> ControlFlow<()>) -> Result<(), StoreError> {
        let view = self.frozen();
        scan_prefix(&view, &[UnfinishedSpace::NUMBER], &mut |key, value| {
            let id = apply::key::<UnfinishedSpace>(key)?;
            Ok(visit(with_work(&view, id, apply::value::<UnfinishedSpace>(value)?)?))
        })
    }

    /// Visits unfinished work that nobody owns: its id and attempt, which `Assign` needs. Reads no payloads.
    pub fn unowned(&self, visit: &mut dyn FnMut(ActivationId, u32) -> ControlFlow<()>) -> Result<(), StoreError> {
        scan_prefix(&self.frozen(), &[UnfinishedSpace::NUMBER], &mut |key, value| {
            let unfinished = apply::value::<UnfinishedSpace>(value)?;
            if unfinished.holder().is_some() {
                return Ok(ControlFlow::Continue(()));
            }
            Ok(visit(apply::key::<UnfinishedSpace>(key)?, unfinished.attempt))
        })
    }

    /// One piece of unfinished work.
    pub fn unfinished_one(&self, id: &ActivationId) -> Result<Option<Unfinished>, StoreError> {
        let view = self.frozen();
        apply::get::<UnfinishedSpace>(&view, id)?.map(|unfinished| with_work(&view, *id, unfinished)).transpose()
    }

    /// How many unfinished activations a namespace has.
    pub fn backlog(&self, namespace: &EntityName) -> Result<u32, StoreError> {
        Ok(apply::get::<Backlog>(&self.frozen(), namespace)?.unwrap_or(0))
    }

    fn frozen(&self) -> StateView<'_> {
        self.inner.frozen(GroupId::Shard(self.shard), &self.group)
    }
}

fn with_work(view: &StateView<'_>, id: ActivationId, unfinished: UnfinishedValue) -> Result<Unfinished, StoreError> {
    let work = apply::get::<Work>(view, &id)?.ok_or_else(|| StoreError::Unreadable {
        what: format!("accepted activation {id}"),
        cause: "its payload is missing".to_owned(),
    })?;
    let UnfinishedValue { namespace, owner, attempt, started } = unfinished;
    Ok(Unfinished { id, namespace, owner, attempt, started, work: work.work })
}

/// A record with all lines of its log.
fn whole(view: &StateView<'_>, id: &ActivationId) -> Result<Option<Activation>, StoreError> {
    let Some(value) = apply::get::<Records>(view, &(id.day(), *id))? else { return Ok(None) };
    let RecordValue { record, log_parts, session } = value;
    let mut record = Arc::unwrap_or_clone(record);
    if let Some(session) = session
        && log_parts > 0
    {
        let mut lines = Vec::new();
        for part in 0..log_parts {
            let part = apply::get::<LogParts>(view, &(id.day(), *id, session, part))?;
            lines.extend(part.ok_or_else(|| StoreError::Unreadable {
                what: format!("the log of activation {id}"),
                cause: "a part is missing".to_owned(),
            })?);
        }
        lines.append(&mut record.logs);
        record.logs = lines;
    }
    Ok(Some(record))
}

fn indexed_only(day: u32, id: &ActivationId) -> StoreError {
    StoreError::Unreadable {
        what: format!("the record of activation {id} of day {day}"),
        cause: "it is listed but not there".to_owned(),
    }
}

/// The days that have records, in order. One seek each.
fn days(view: &StateView<'_>) -> Result<Vec<u32>, StoreError> {
    let mut days = Vec::new();
    let mut iterator = view.range(&[DAYS], &[DAYS + 1]);
    while let Some(key) = iterator.key() {
        let mut reader = KeyReader::new(view.tail(key));
        let Some(day) = reader.u8().and_then(|_| reader.u32()) else {
            return Err(StoreError::Unreadable { what: "a key of a day".to_owned(), cause: "too short".to_owned() });
        };
        days.push(day);
        iterator.seek(view.full_key(&apply::after_prefix(&day_prefix(day))));
    }
    iterator.status()?;
    Ok(days)
}

/// Place in the order of lists: start, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    start_ms: u64,
    /// Within one millisecond ids go upwards in the index, so downwards when the newest start is the greatest place.
    id_reversed: Reverse<ActivationId>,
    id: ActivationId,
}

/// Visits a namespace's records of all days, the newest start first. Days overlap, because the day is that of the id and
/// work may wait: so all days are merged, each a sorted index.
fn merge_days(
    view: &StateView<'_>,
    namespace: &EntityName,
    query: &ActivationQuery,
    mut visit: impl FnMut(&Cursor<'_>, Place) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    let (since, upto) = (query.since_ms.unwrap_or(0), query.upto_ms.unwrap_or(u64::MAX));
    let mut cursors = Vec::new();
    let mut heads = BinaryHeap::new();
    for day in days(view)? {
        let cursor = Cursor::new(view, day, namespace, query.name.as_deref(), upto);
        if let Some(place) = cursor.place(since)? {
            heads.push((place, cursors.len()));
            cursors.push(cursor);
        }
    }
    while let Some((place, index)) = heads.pop() {
        let cursor = &mut cursors[index];
        if visit(cursor, place)?.is_break() {
            return Ok(());
        }
        cursor.iterator.next();
        if let Some(place) = cursor.place(since)? {
            heads.push((place, index));
        }
    }
    Ok(())
}

/// Walks one day's index of a namespace, or of a name in it, from `upto` back in time.
struct Cursor<'v> {
    view: &'v StateView<'v>,
    day: u32,
    iterator: DBRawIterator<'v>,
    by_name: bool,
}

impl<'v> Cursor<'v> {
    fn new(view: &'v StateView<'v>, day: u32, namespace: &EntityName, name: Option<&str>, upto: u64) -> Self {
        let prefix = |sub| {
            let mut out = KeyWriter::new(DAYS);
            out.u32(day).u8(sub).text(namespace.as_str());
            if let Some(name) = name {
                out.text(name);
            }
            out
        };
        let sub = if name.is_some() { ByName::SUB } else { ByStart::SUB };
        let to = apply::after_prefix(&prefix(sub).finish());
        let mut from = prefix(sub);
        from.newest_first(upto);
        let iterator = view.range(&from.finish(), &to);
        Self { view, day, iterator, by_name: name.is_some() }
    }

    /// Where it is, if that is not before `since`.
    fn place(&self, since: u64) -> Result<Option<Place>, StoreError> {
        let Some(key) = self.iterator.key() else {
            self.iterator.status()?;
            return Ok(None);
        };
        let key = self.view.tail(key);
        let (start_ms, id) = if self.by_name {
            let (_, _, _, start_ms, id) = apply::key::<ByName>(key)?;
            (start_ms, id)
        } else {
            let (_, _, start_ms, id) = apply::key::<ByStart>(key)?;
            (start_ms, id)
        };
        Ok((start_ms >= since).then_some(Place { start_ms, id_reversed: Reverse(id), id }))
    }

    /// The summary of the record at `place`, where this cursor is. The index by start has it; that of names has not.
    fn summary(&self, namespace: &EntityName, place: Place) -> Result<Activation, StoreError> {
        let summary = if self.by_name {
            apply::get::<ByStart>(self.view, &(self.day, namespace.clone(), place.start_ms, place.id))?
        } else {
            self.iterator.value().map(apply::value::<ByStart>).transpose()?
        };
        summary.ok_or_else(|| indexed_only(self.day, &place.id))
    }
}

/// Prefix of a day's counts of a namespace, or of a name in it.
fn hours_prefix(day: u32, namespace: &EntityName, name: Option<&str>) -> Vec<u8> {
    let mut out = KeyWriter::new(DAYS);
    out.u32(day).u8(if name.is_some() { CountByName::SUB } else { CountByHour::SUB }).text(namespace.as_str());
    if let Some(name) = name {
        out.text(name);
    }
    out.finish()
}
