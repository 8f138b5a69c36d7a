//! What waits for one session: in which order, who gives way to whom, and what is answered together.

use std::collections::VecDeque;

use super::lease::Active;
use super::{Item, Merge, RunLane, SUMMARY_LINES_MAX, TURN_ITEMS_MAX, Why};
use crate::config::settings::scheduling::{Mode, Overflow};

/// How many quiet times collected messages wait at most, when more and more of them come.
pub(super) const QUIET_TIMES_MAX: i64 = 4;

/// A session that is busy or waited for.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) slot: Slot,
    /// Oldest first ([`rank`]).
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) left_out: LeftOut,
    /// Where it stands among the sessions.
    pub(super) place: Place,
    /// Its quiet time is over; more messages do not begin another before its turn.
    pub(super) has_waited: bool,
}

/// What goes on in it.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Idle,
    /// A message is being written down and begins then.
    Reserved(RunLane),
    Active(Active),
}

impl Slot {
    /// The lane in which a place is taken.
    pub(super) fn lane(&self) -> Option<RunLane> {
        match self {
            Slot::Idle => None,
            Slot::Reserved(lane) => Some(*lane),
            Slot::Active(active) => Some(active.lane),
        }
    }
}

/// Where a session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// It is busy, or nothing waits.
    #[default]
    Nowhere,
    /// In line for its lane.
    Ready(RunLane),
    /// Waiting for silence.
    Held { until_ms: i64 },
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) item: Item,
    since_ms: i64,
    /// Whether something went on when it came. Only then more can be expected to follow it, and it is worth waiting.
    came_while_busy: bool,
}

/// What was said and gave way.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    n_messages: usize,
    lines: VecDeque<String>,
}

/// Who gives way to a new message: places in `waiting`, and why.
pub(super) type GivingWay = Vec<(usize, Why)>;

impl Session {
    pub(super) fn in_slot(slot: Slot) -> Session {
        Session { slot, ..Session::default() }
    }

    pub(super) fn active(&self) -> Option<&Active> {
        match &self.slot {
            Slot::Active(active) => Some(active),
            Slot::Idle | Slot::Reserved(_) => None,
        }
    }

    /// Ends the run that goes on, if it is this one.
    pub(super) fn end_active(&mut self, run_id: &str) -> Option<Active> {
        if self.active().is_none_or(|active| active.run_id != run_id) {
            return None;
        }
        match std::mem::take(&mut self.slot) {
            Slot::Active(active) => Some(active),
            Slot::Idle | Slot::Reserved(_) => None,
        }
    }

    /// Who gives way to `item`; `None` when there is no room for it.
    ///
    /// A message that had begun before a restart gives way to nothing but an interruption: its sender saw it begin.
    pub(super) fn who_gives_way(&self, item: &Item) -> Option<GivingWay> {
        let is_busy = !matches!(self.slot, Slot::Idle);
        let mut giving_way: GivingWay = Vec::new();
        // Places of those that stay and may give way for want of room.
        let mut staying = Vec::new();
        for (idx, other) in self.waiting.iter().enumerate() {
            let other = &other.item;
            match item.policy.mode {
                Mode::Interrupt => giving_way.push((idx, Why::Interrupted)),
                _ if other.begun.is_some() => {}
                Mode::Steer if is_busy && other.policy.mode == Mode::Steer => giving_way.push((idx, Why::Superseded)),
                _ => staying.push(idx),
            }
        }
        let n_over = (staying.len() + 1).saturating_sub(item.policy.cap.max(1));
        if n_over > 0 {
            let why = match item.policy.overflow {
                Overflow::New => return None,
                Overflow::Old => Why::SessionFull,
                Overflow::Summarize => Why::Summarized,
            };
            giving_way.extend(staying.into_iter().take(n_over).map(|idx| (idx, why)));
            giving_way.sort_unstable_by_key(|(idx, _)| *idx);
        }
        Some(giving_way)
    }

    /// Takes those out, by reason, oldest first.
    pub(super) fn give_way(&mut self, giving_way: GivingWay) -> Vec<(Why, Vec<Item>)> {
        let mut gone: Vec<(Why, Vec<Item>)> = Vec::new();
        // From the back, so that places stay what they are.
        for (idx, why) in giving_way.into_iter().rev() {
            let Some(Waiting { item, .. }) = self.waiting.remove(idx) else { continue };
            match gone.iter_mut().find(|(other, _)| *other == why) {
                Some((_, items)) => items.push(item),
                None => gone.push((why, vec![item])),
            }
        }
        for (why, items) in &mut gone {
            items.reverse();
            if *why == Why::Summarized {
                items.iter().for_each(|item| self.left_out.add(&item.line));
            }
        }
        gone
    }

    /// Lets a message wait in its order; says how many wait before it.
    pub(super) fn push(&mut self, item: Item, now_ms: i64) -> usize {
        let came_while_busy =
            !matches!(self.slot, Slot::Idle) || self.waiting.iter().any(|other| other.came_while_busy);
        let idx = self.waiting.iter().rposition(|other| rank(&other.item) < rank(&item)).map_or(0, |idx| idx + 1);
        self.waiting.insert(idx, Waiting { item, since_ms: now_ms, came_while_busy });
        idx
    }

    /// Where it should stand.
    pub(super) fn belongs(&self) -> Place {
        let Some(first) = self.waiting.front() else { return Place::Nowhere };
        if !matches!(self.slot, Slot::Idle) {
            return Place::Nowhere;
        }
        match self.quiet_until_ms() {
            Some(until_ms) if !self.has_waited => Place::Held { until_ms },
            _ => Place::Ready(first.item.lane),
        }
    }

    /// When the messages that are to be collected have been quiet for long enough. Nobody else waits for silence: it
    /// would only make the answer late.
    fn quiet_until_ms(&self) -> Option<i64> {
        let first = self.waiting.front()?;
        let is_collected = first.item.policy.mode == Mode::Collect && first.item.begun.is_none();
        if !is_collected || !first.came_while_busy || first.item.merge == Merge::Alone {
            return None;
        }
        let last = self.waiting.iter().max_by_key(|waiting| waiting.since_ms)?;
        let quiet_ms = last.item.policy.debounce_ms;
        let at_latest_ms = first.since_ms.saturating_add(first.item.policy.debounce_ms.saturating_mul(QUIET_TIMES_MAX));
        Some(last.since_ms.saturating_add(quiet_ms).min(at_latest_ms))
    }

    /// Takes out the messages of the next turn, the run it goes by, and what the model is to know of those that gave way.
    pub(super) fn take_turn(&mut self) -> (Vec<Item>, String, Option<String>) {
        self.has_waited = false;
        let mut items: Vec<Item> = Vec::new();
        while let Some(next) = self.waiting.front() {
            if items.len() >= TURN_ITEMS_MAX || items.first().is_some_and(|first| !go_together(first, &next.item)) {
                break;
            }
            items.extend(self.waiting.pop_front().map(|waiting| waiting.item));
        }
        let namer = items.iter().find(|item| item.begun == Some(item.id)).or(items.last());
        let run_id = namer.expect("only a session for which something waits has a turn").run_id.clone();
        let is_continued = items.first().is_some_and(|first| first.begun.is_some());
        let summary = if is_continued { None } else { self.left_out.take() };
        (items, run_id, summary)
    }

    /// Whether there is nothing to remember of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.slot, Slot::Idle) && self.waiting.is_empty()
    }

    /// Ids of all that waits and runs.
    pub(super) fn run_ids(&self) -> impl Iterator<Item = &String> {
        let waiting = self.waiting.iter().map(|waiting| &waiting.item.run_id);
        waiting.chain(self.active().into_iter().flat_map(|active| &active.answers))
    }

    /// Nothing was there before now.
    pub(super) fn clock_ran_back(&mut self, now_ms: i64) {
        for waiting in &mut self.waiting {
            waiting.since_ms = waiting.since_ms.min(now_ms);
        }
        if let Slot::Active(active) = &mut self.slot {
            active.clock_ran_back(now_ms);
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(!self.is_over(), "no session is kept for nothing");
        assert_eq!(self.place, self.belongs(), "it stands where it belongs");
        assert!(self.waiting.iter().map(|waiting| rank(&waiting.item)).is_sorted(), "messages wait in their order");
        assert!(self.left_out.lines.len() <= SUMMARY_LINES_MAX, "what is told of those that gave way is bounded");
        if let Some(active) = self.active() {
            assert!(active.answers.contains(&active.run_id), "a run answers its own message");
        }
    }
}

/// What messages of a session are ordered by: their numbers, except that those which a run took while it went on stand
/// where it stands.
fn rank(item: &Item) -> (i64, i64) {
    (item.begun.unwrap_or(item.id), item.id)
}

/// Whether `next` is answered in the turn that begins with `first`.
fn go_together(first: &Item, next: &Item) -> bool {
    if first.begun.is_some() || next.begun.is_some() {
        return first.begun == next.begun;
    }
    let are_collected = first.policy.mode == Mode::Collect && next.policy.mode == Mode::Collect;
    are_collected && first.lane == next.lane && first.merge != Merge::Alone && first.merge == next.merge
}

impl LeftOut {
    fn add(&mut self, line: &str) {
        self.n_messages += 1;
        self.lines.push_back(line.to_owned());
        if self.lines.len() > SUMMARY_LINES_MAX {
            self.lines.pop_front();
        }
    }

    fn take(&mut self) -> Option<String> {
        let LeftOut { n_messages, lines } = std::mem::take(self);
        if n_messages == 0 {
            return None;
        }
        let mut text = match n_messages {
            1 => "[1 message was left out because too many were waiting]".to_owned(),
            _ => format!("[{n_messages} messages were left out because too many were waiting]"),
        };
        for line in lines.iter().filter(|line| !line.is_empty()) {
            text.push_str("\n- ");
            text.push_str(line);
        }
        Some(text)
    }
}
