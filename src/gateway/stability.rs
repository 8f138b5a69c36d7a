//! What happened in the gateway's parts lately, one line each, without a word of what was said: the ring behind
//! `diagnostics.stability`.
//!
//! Records are for finding out why something is slow, refused or large. They live in memory only; the counters that
//! outlive a ring are in `runtime::metrics`.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::{Gateway, Lane};
use crate::runtime::host::{self, ProcessMemory};
use crate::store;

/// Records kept; the oldest go first. About 200 bytes of memory each.
pub const RECORDS_MAX: usize = 1000;

/// What is recorded. Kinds of parts that are not built (models, processes, deliveries) are named as well, so that a
/// count of zero says that none happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Once with each new health snapshot: what is under way.
    #[serde(rename = "diagnostic.heartbeat")]
    Heartbeat,
    /// Memory was sampled.
    #[serde(rename = "diagnostic.memory.sample")]
    MemorySample,
    /// A command ended.
    #[serde(rename = "exec.process.completed")]
    ProcessCompleted,
    /// A job was refused because its lane was full.
    #[serde(rename = "job.shed")]
    JobShed,
    /// A message could not be delivered.
    #[serde(rename = "message.delivery.error")]
    DeliveryError,
    /// A message began to be delivered.
    #[serde(rename = "message.delivery.started")]
    DeliveryStarted,
    /// The defender was done with a message.
    #[serde(rename = "message.dispatch.completed")]
    DispatchCompleted,
    /// A message went to the defender.
    #[serde(rename = "message.dispatch.started")]
    DispatchStarted,
    /// A message is on disk, or was refused.
    #[serde(rename = "message.processed")]
    MessageProcessed,
    /// A message waits to be judged.
    #[serde(rename = "message.queued")]
    MessageQueued,
    /// A message came in.
    #[serde(rename = "message.received")]
    MessageReceived,
    /// A model answered.
    #[serde(rename = "model.call.completed")]
    ModelCompleted,
    /// A model did not.
    #[serde(rename = "model.call.error")]
    ModelError,
    /// A model was asked.
    #[serde(rename = "model.call.started")]
    ModelStarted,
    /// The job of a message was taken from its lane.
    #[serde(rename = "queue.lane.dequeue")]
    Dequeued,
    /// The job of a message was given to a lane.
    #[serde(rename = "queue.lane.enqueue")]
    Enqueued,
    /// How far a run is.
    #[serde(rename = "run.execution_phase")]
    RunPhase,
    /// A session went from one state to another.
    #[serde(rename = "session.state")]
    SessionState,
    /// Something was said in a session.
    #[serde(rename = "session.turn.created")]
    TurnCreated,
}

/// Every kind.
pub const KINDS: [Kind; 19] = [
    Kind::Heartbeat,
    Kind::MemorySample,
    Kind::ProcessCompleted,
    Kind::JobShed,
    Kind::DeliveryError,
    Kind::DeliveryStarted,
    Kind::DispatchCompleted,
    Kind::DispatchStarted,
    Kind::MessageProcessed,
    Kind::MessageQueued,
    Kind::MessageReceived,
    Kind::ModelCompleted,
    Kind::ModelError,
    Kind::ModelStarted,
    Kind::Dequeued,
    Kind::Enqueued,
    Kind::RunPhase,
    Kind::SessionState,
    Kind::TurnCreated,
];

/// What the process held in memory, in the contract's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Resident.
    pub rss_bytes: u64,
    /// Mapped for data.
    pub heap_total_bytes: u64,
    /// Resident and nobody else's.
    pub heap_used_bytes: u64,
    /// Outside of the heap: the threads share one allocator, so there is none to tell apart.
    pub external_bytes: u64,
    /// As `external_bytes`.
    pub array_buffers_bytes: u64,
    /// Parts with a heap of their own.
    pub worker_count: usize,
    /// Those whose heap was measured.
    pub worker_heap_sampled_count: usize,
    /// The sum of `heap_total`.
    pub worker_heap_total_bytes: u64,
    /// The sum of `heap_used`.
    pub worker_heap_used_bytes: u64,
    /// Each of them.
    pub worker_heaps: Vec<Heap>,
}

/// The heap of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heap {
    /// Which part; the contract calls it a script.
    pub script: &'static str,
    /// In use.
    pub heap_used: u64,
    /// The most that was ever in use.
    pub heap_total: u64,
}

impl Memory {
    /// As it is now. Reads files, so never on the loop.
    pub fn sample() -> Memory {
        let (heap_used, heap_total) = store::memory::heap_bytes();
        // The store's is the only part whose allocations are counted apart; all else shares one heap.
        let store = Heap { script: "store", heap_used, heap_total };
        Memory::of(&host::process_memory().unwrap_or_default(), vec![store])
    }

    /// Of the process and its parts.
    fn of(process: &ProcessMemory, heaps: Vec<Heap>) -> Memory {
        Memory {
            rss_bytes: process.resident_bytes,
            heap_total_bytes: process.data_bytes,
            heap_used_bytes: process.private_bytes,
            external_bytes: 0,
            array_buffers_bytes: 0,
            worker_count: heaps.len(),
            worker_heap_sampled_count: heaps.len(),
            worker_heap_total_bytes: heaps.iter().map(|heap| heap.heap_total).sum(),
            worker_heap_used_bytes: heaps.iter().map(|heap| heap.heap_used).sum(),
            worker_heaps: heaps,
        }
    }
}

/// What else a record says. Absent fields are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The channel of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The door of a message, or a lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How far a run is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// Who offers the model of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Messages on their way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<usize>,
    /// Jobs in a lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<usize>,
    /// Under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<usize>,
    /// Waiting to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// Waiting for a lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<usize>,
    /// What was held in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counted from 1, over all that happened.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub ts: i64,
    /// What.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What else.
    #[serde(flatten)]
    pub details: Details,
}

/// The newest [`RECORDS_MAX`] records.
#[derive(Debug, Default)]
pub struct Stability {
    entries: VecDeque<Entry>,
    last_seq: u64,
}

impl Stability {
    /// Adds a record.
    pub fn record(&mut self, now_ms: i64, kind: Kind, details: Details) {
        self.last_seq += 1;
        if self.entries.len() == RECORDS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { seq: self.last_seq, ts: now_ms, kind, details });
    }

    /// How many records were pushed out.
    pub fn dropped(&self) -> u64 {
        self.last_seq - self.entries.len() as u64
    }

    /// The records after `since_seq`, all or of one kind by its name, oldest first.
    pub fn select(&self, since_seq: u64, kind: Option<&str>) -> Vec<&Entry> {
        let named = |entry: &&Entry| kind.is_none_or(|kind| name(entry.kind) == kind);
        self.entries.iter().filter(|entry| entry.seq > since_seq).filter(named).collect()
    }
}

/// The name of a kind on the wire.
pub fn name(kind: Kind) -> String {
    // A kind is a unit variant with a name of its own, which serde writes as a JSON string.
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// How many records of each kind; kinds without one count 0.
pub fn by_kind(entries: &[&Entry]) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = KINDS.into_iter().map(|kind| (name(kind), 0)).collect();
    for entry in entries {
        *counts.entry(name(entry.kind)).or_default() += 1;
    }
    counts
}

impl Gateway {
    /// Records what happens in this turn.
    pub(super) fn note(&mut self, kind: Kind, details: Details) {
        self.stability.record(self.now.wall_ms, kind, details);
    }

    /// A lane would not take a job.
    pub(super) fn note_shed(&mut self, lane: Lane) {
        self.note(Kind::JobShed, Details { source: Some(lane.as_str().to_owned()), ..Details::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_record_leaves_at_the_bound_and_is_counted() {
        let mut stability = Stability::default();
        for n in 0..RECORDS_MAX as i64 + 2 {
            stability.record(n, Kind::MessageReceived, Details::default());
        }
        let all = stability.select(0, None);
        assert_eq!((all.len(), stability.dropped()), (RECORDS_MAX, 2));
        assert_eq!((all[0].seq, all[RECORDS_MAX - 1].seq), (3, RECORDS_MAX as u64 + 2));
        assert_eq!(stability.select(1000, None).len(), 2);
    }

    #[test]
    fn kinds_have_names_of_their_own_and_those_that_never_happened_count_nothing() {
        let mut stability = Stability::default();
        stability.record(1, Kind::JobShed, Details::default());
        let counts = by_kind(&stability.select(0, None));
        assert_eq!(counts.len(), KINDS.len(), "no two kinds share a name: {counts:?}");
        assert_eq!((counts["job.shed"], counts["model.call.started"]), (1, 0));
        assert_eq!(stability.select(0, Some("job.shed")).len(), 1);
        assert!(stability.select(0, Some("message.received")).is_empty());
    }

    #[test]
    fn a_record_writes_only_what_it_knows() {
        let mut stability = Stability::default();
        stability.record(7, Kind::MessageQueued, Details { queue_depth: Some(3), ..Details::default() });
        let written = serde_json::to_value(stability.select(0, None)[0]).unwrap();
        assert_eq!(written, serde_json::json!({ "seq": 1, "ts": 7, "type": "message.queued", "queueDepth": 3 }));
    }
}
