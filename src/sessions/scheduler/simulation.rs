//! The scheduler under a seeded simulation of its owner: messages of all modes for a thousand sessions, a store that
//! writes later or fails, runs that end in any order, twice, late or never, clients that take back what waits, clocks
//! that jump, limits that change, and crashes after which only the inbox is left.
//!
//! What must hold, whatever happens: a session has one run at a time; its messages have their turns in the order in
//! which they were accepted; none is begun twice in one life, and none after its end; nobody has two turns while another
//! stands in the same line, and no lane starves; in the end everything that was accepted was answered, dropped with a
//! reason, or taken back, once. A failure prints the seed. `SCHEDULER_SEED` repeats one, `SCHEDULER_STEPS` goes on for
//! longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::rings::FOREGROUND_TURNS_MAX;
use super::*;
use crate::runtime::random::Dice;

/// Sessions that are spoken to. Every other message goes to one of the first few, so that queues fill up.
const SESSIONS: usize = 1_000;
const BUSY_SESSIONS: usize = 12;
/// Steps of one run, unless the environment says otherwise.
const STEPS: usize = 120_000;
/// Steps after which the whole state is looked at.
const SWEEP_STEPS: usize = 500;

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Answered,
    GivenUp,
    Dropped(&'static str),
    TakenBack,
}

/// A row of the inbox: all that a crash leaves.
struct Row {
    item: Item,
    turn: Option<i64>,
    fate: Option<Fate>,
    /// The life in which its run was begun last.
    begun_in: Option<usize>,
}

/// What the store is to write, in order.
enum Write {
    /// A message. Whether its place is reserved.
    Accept(Item, bool),
    /// A run begins.
    Begin(Turn, i64),
    /// A run is given up.
    GiveUp(i64),
}

/// A run on its thread.
struct Thread {
    run_id: String,
    turn_id: i64,
    is_started: bool,
    is_told_to_stop: bool,
    /// It shows no life and does not stop.
    hangs: bool,
    /// Messages it was offered and did not take, by number.
    offered: Vec<i64>,
    /// What it told the loop, and the loop did not hear yet.
    told: VecDeque<Told>,
    is_over: bool,
}

enum Told {
    Alive,
    Took(i64),
    Ended,
}

#[derive(Default)]
struct Tally {
    accepted: usize,
    turns: usize,
    merged: usize,
    crashes: usize,
    second_ends: usize,
    given_up: usize,
    steered: usize,
    line_max: usize,
    fates: BTreeMap<Fate, usize>,
}

struct World {
    dice: Dice,
    now_ms: i64,
    limits: Limits,
    scheduler: Scheduler,
    inbox: BTreeMap<i64, Row>,
    /// Rows by their turn: the index of the inbox.
    turns: BTreeMap<i64, BTreeSet<i64>>,
    /// Open rows of each session that the scheduler was told of.
    open: BTreeMap<SessionKey, BTreeSet<i64>>,
    writes: VecDeque<Write>,
    /// What the store wrote, and the loop did not hear yet.
    written: VecDeque<(i64, bool)>,
    threads: Vec<Thread>,
    /// Sessions in which a run goes on or is reserved, as the world sees it.
    live: BTreeMap<SessionKey, Option<String>>,
    next_id: i64,
    next_run: usize,
    life: usize,
    /// For fairness: when each session was first seen in line, and had its last turn from it, in turns of all.
    in_line_since: BTreeMap<SessionKey, usize>,
    last_turn: BTreeMap<(RunLane, SessionKey), usize>,
    foreground_in_a_row: usize,
    /// Of a thousand steps, so many are messages that come.
    arrivals: usize,
    tally: Tally,
}

fn session(number: usize) -> SessionKey {
    SessionKey::stored(format!("agent:main:s{number}"))
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let limits = some_limits(&mut dice);
        World {
            dice,
            now_ms: 0,
            scheduler: Scheduler::new(limits.clone()),
            limits,
            inbox: BTreeMap::new(),
            turns: BTreeMap::new(),
            open: BTreeMap::new(),
            writes: VecDeque::new(),
            written: VecDeque::new(),
            threads: Vec::new(),
            live: BTreeMap::new(),
            next_id: 1,
            next_run: 1,
            life: 1,
            in_line_since: BTreeMap::new(),
            last_turn: BTreeMap::new(),
            foreground_in_a_row: 0,
            arrivals: 0,
            tally: Tally::default(),
        }
    }

    /// Somebody says something, and perhaps something more.
    fn say(&mut self) {
        let dice = &mut self.dice;
        let number = if dice.roll(2) == 0 { dice.roll(BUSY_SESSIONS) } else { dice.roll(SESSIONS) };
        for _ in 0..self.dice.pick(&[1, 1, 1, 2, 4]) {
            self.say_in(number);
        }
    }

    fn say_in(&mut self, number: usize) {
        let dice = &mut self.dice;
        use Mode::{Collect, Followup, Interrupt, Steer, SteerBacklog};
        // A session has its mode, and now and then somebody wants it otherwise.
        let mode = match [Followup, Collect, Steer, Collect, SteerBacklog, Interrupt].get(number % 6) {
            Some(mode) if dice.roll(4) > 0 => *mode,
            _ => dice.pick(&[Followup, Collect, Steer, SteerBacklog, Interrupt]),
        };
        use RunLane::{Cron, Main, Nested, Subagent};
        let lane = dice.pick(&[Main, Main, Main, Main, Main, Main, Subagent, Subagent, Nested, Cron]);
        let merge = match dice.roll(8) {
            0 => Merge::Alone,
            1 => Merge::Route("telegram".to_owned()),
            _ => Merge::Route("webchat".to_owned()),
        };
        let item = Item {
            id: 0,
            run_id: format!("r{}", self.next_run),
            session: session(number),
            lane,
            policy: Policy {
                mode,
                overflow: dice.pick(&[Overflow::Old, Overflow::New, Overflow::Summarize]),
                cap: dice.pick(&[1, 2, 5, 20]),
                debounce_ms: dice.pick(&[0, 100, 1000]),
            },
            merge,
            line: "words".to_owned(),
            begun: None,
            at_ms: self.now_ms,
        };
        self.next_run += 1;
        let is_reserved = self.scheduler.reserve(&item.session, lane);
        if is_reserved {
            let before = self.live.insert(item.session.clone(), None);
            assert_eq!(before, None, "a place was reserved in a busy session");
            assert!(self.open.get(&item.session).is_none_or(BTreeSet::is_empty), "it overtakes who waits");
        }
        self.writes.push_back(Write::Accept(item, is_reserved));
    }

    /// The store writes the next thing it was given.
    fn write(&mut self) {
        match self.writes.pop_front() {
            None => {}
            Some(Write::Accept(item, is_reserved)) => self.write_message(item, is_reserved),
            Some(Write::Begin(turn, turn_id)) => {
                for item in &turn.items {
                    let row = self.inbox.get_mut(&item.id).expect("accepted");
                    assert_eq!(row.fate, None, "{} is begun after its end", turn.run_id);
                    assert_ne!(row.begun_in, Some(self.life), "{} is begun twice", turn.run_id);
                    (row.turn, row.begun_in) = (Some(turn_id), Some(self.life));
                    self.turns.entry(turn_id).or_default().insert(item.id);
                }
                let thread = self.threads.iter_mut().find(|thread| thread.run_id == turn.run_id);
                thread.expect("a turn has its thread").is_started = true;
            }
            Some(Write::GiveUp(turn_id)) => _ = self.close_turn(turn_id, Fate::GivenUp),
        }
    }

    fn write_message(&mut self, item: Item, is_reserved: bool) {
        // The disk is full, or the message was blocked.
        if self.dice.roll(12) == 0 {
            if is_reserved {
                self.live.remove(&item.session);
                self.scheduler.release(&item.session);
            }
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let turn = is_reserved.then_some(id);
        let begun_in = is_reserved.then_some(self.life);
        self.inbox.insert(id, Row { item: Item { id, ..item }, turn, fate: None, begun_in });
        if is_reserved {
            self.turns.entry(id).or_default().insert(id);
        }
        self.written.push_back((id, is_reserved));
        self.tally.accepted += 1;
    }

    /// The loop hears of the next message that was written.
    fn hear_of_written(&mut self) {
        let Some((id, is_reserved)) = self.written.pop_front() else { return };
        let item = self.inbox[&id].item.clone();
        self.open.entry(item.session.clone()).or_default().insert(id);
        if is_reserved {
            let turn = self.scheduler.begin(item, self.now_ms).expect("its place is reserved");
            self.live.insert(turn.session.clone(), Some(turn.run_id.clone()));
            self.check_room();
            self.start(&turn, id, true);
            return;
        }
        let key = item.session.clone();
        let (n_before, has_room) = (self.scheduler.counts().waiting, self.limits.pending_max.max(PENDING_MIN));
        let effects = self.scheduler.add(item, self.now_ms);
        let mut has_place = false;
        for effect in effects {
            match effect {
                Added::Dropped { which, why } => {
                    assert!(!which.is_empty(), "a drop drops somebody");
                    if why == Why::Capacity {
                        assert!(n_before >= has_room, "there was room in all");
                    }
                    has_place |= which.iter().any(|gone| gone.id == id);
                    for gone in which {
                        assert_eq!(gone.session, key, "nobody of another session gives way");
                        self.closes(gone.id, Fate::Dropped(why.as_str()));
                    }
                    self.in_line_since.remove(&key);
                }
                Added::Interrupts { run_id } => self.tell_to_stop(&run_id),
                Added::Steers { run_id } => {
                    assert_eq!(self.live.get(&key), Some(&Some(run_id.clone())), "it steers what goes on");
                    let thread = self.threads.iter_mut().find(|thread| thread.run_id == run_id && !thread.is_over);
                    if let Some(thread) = thread {
                        thread.offered.push(id);
                    }
                }
                Added::Queued { ahead } => {
                    has_place = true;
                    let run_id = &self.inbox[&id].item.run_id;
                    assert_eq!(self.scheduler.position(run_id), Some(ahead));
                }
                Added::Known => panic!("{id} was not known"),
            }
        }
        assert!(has_place, "a message waits or is dropped");
    }

    /// A message gave way or was taken back, unless its run had taken it just before: then it ends with the run.
    fn closes(&mut self, id: i64, fate: Fate) {
        for thread in &mut self.threads {
            thread.offered.retain(|offered| *offered != id);
        }
        let row = self.inbox.get_mut(&id).expect("accepted");
        if row.begun_in == Some(self.life) {
            return;
        }
        assert_eq!(row.fate, None, "a message ends once");
        row.fate = Some(fate);
        *self.tally.fates.entry(fate).or_default() += 1;
        self.forget_open(id);
    }

    fn forget_open(&mut self, id: i64) {
        let key = &self.inbox[&id].item.session;
        if let Some(open) = self.open.get_mut(key) {
            open.remove(&id);
        }
    }

    /// Closes the rows of a turn that are open.
    fn close_turn(&mut self, turn_id: i64, fate: Fate) -> usize {
        let open = |id: &i64| self.inbox[id].fate.is_none();
        let ids: Vec<i64> = self.turns.get(&turn_id).into_iter().flatten().copied().filter(open).collect();
        for id in &ids {
            self.inbox.get_mut(id).expect("found").fate = Some(fate);
            *self.tally.fates.entry(fate).or_default() += 1;
            self.forget_open(*id);
        }
        ids.len()
    }

    fn start(&mut self, turn: &Turn, turn_id: i64, is_started: bool) {
        self.threads.push(Thread {
            run_id: turn.run_id.clone(),
            turn_id,
            is_started,
            is_told_to_stop: false,
            hangs: self.dice.roll(300) == 0,
            offered: Vec::new(),
            told: VecDeque::new(),
            is_over: false,
        });
    }

    fn tell_to_stop(&mut self, run_id: &str) {
        if let Some(thread) = self.threads.iter_mut().find(|thread| thread.run_id == run_id) {
            thread.is_told_to_stop = true;
        }
    }

    fn check_room(&self) {
        assert!(self.live.len() >= self.scheduler.counts().busy, "each place is somebody's");
    }

    /// Starts whatever can start.
    fn pump(&mut self) {
        // While no place is free there are no turns, and since when somebody stands in line is counted in turns.
        if self.scheduler.counts().busy >= self.limits.workers {
            return;
        }
        for lane in RunLane::ALL {
            let line = self.scheduler.rings.in_line(lane);
            self.tally.line_max = self.tally.line_max.max(line.len());
            for key in line {
                self.in_line_since.entry(key.clone()).or_insert(self.tally.turns);
            }
        }
        loop {
            let busy = self.busy();
            let is_open = |lane: RunLane| {
                busy[lane.idx()] < self.limits.lanes[lane.idx()] && !self.scheduler.rings.in_line(lane).is_empty()
            };
            let background_is_open = is_open(RunLane::Subagent) || is_open(RunLane::Cron);
            let Some(turn) = self.scheduler.next(self.now_ms) else { break };
            assert!(busy.iter().sum::<usize>() < self.limits.workers, "no more runs than workers");
            assert!(busy[turn.lane.idx()] < self.limits.lanes[turn.lane.idx()], "no more runs than their lane has");
            self.check_turn(&turn);
            self.check_fairness(&turn, background_is_open);
            let turn_id = turn.items.iter().find(|item| item.run_id == turn.run_id).expect("one of its own").id;
            self.start(&turn, turn_id, false);
            self.writes.push_back(Write::Begin(turn, turn_id));
        }
    }

    fn busy(&self) -> [usize; 4] {
        let mut busy = [0; 4];
        for session in self.scheduler.sessions.values() {
            if let Some(lane) = session.slot.lane() {
                busy[lane.idx()] += 1;
            }
        }
        busy
    }

    fn check_turn(&mut self, turn: &Turn) {
        let before = self.live.insert(turn.session.clone(), Some(turn.run_id.clone()));
        assert_eq!(before, None, "two runs in {}", turn.session);
        let open = &self.open[&turn.session];
        let ids: Vec<i64> = turn.items.iter().map(|item| item.id).collect();
        assert!(ids.is_sorted(), "oldest first: {ids:?}");
        assert_eq!(open.first(), ids.first(), "{} overtakes in {}: {open:?}", turn.run_id, turn.session);
        let first = &turn.items[0];
        match first.begun {
            Some(turn_id) => {
                let again = open.iter().copied().filter(|id| self.inbox[id].turn == Some(turn_id));
                assert_eq!(again.collect::<Vec<_>>(), ids, "what had begun begins again as it was");
            }
            None => {
                assert_eq!(open.iter().copied().take(ids.len()).collect::<Vec<_>>(), ids, "a turn leaves nobody out");
                let alike = |item: &Item| item.policy.mode == Mode::Collect && item.merge == first.merge;
                let are_alike = first.merge != Merge::Alone && turn.items.iter().all(alike);
                assert!(ids.len() == 1 || are_alike, "only what is to be collected is");
            }
        }
        self.tally.turns += 1;
        self.tally.merged += turn.items.len() - 1;
    }

    /// Nobody has two turns from a line in which somebody stood all the time.
    fn check_fairness(&mut self, turn: &Turn, background_is_open: bool) {
        let n_turns = self.tally.turns;
        self.in_line_since.remove(&turn.session);
        let before = self.last_turn.insert((turn.lane, turn.session.clone()), n_turns);
        let front = self.scheduler.rings.in_line(turn.lane).front();
        if let (Some(before), Some(front)) = (before, front)
            && let Some(since) = self.in_line_since.get(front)
        {
            assert!(*since >= before, "{} had two turns while {front} stood in line", turn.session);
        }
        let is_foreground = matches!(turn.lane, RunLane::Nested | RunLane::Main);
        self.foreground_in_a_row = if is_foreground && background_is_open { self.foreground_in_a_row + 1 } else { 0 };
        assert!(self.foreground_in_a_row <= FOREGROUND_TURNS_MAX, "the background starves");
    }

    /// A run does something.
    fn work(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let idx = self.dice.roll(self.threads.len());
        let (what, wakes) = (self.dice.roll(10), self.dice.roll(400) == 0);
        let thread = &mut self.threads[idx];
        if !thread.is_started || thread.is_over || thread.hangs && !wakes {
            return;
        }
        let takes = !thread.is_told_to_stop && !thread.offered.is_empty();
        match what {
            0..=2 if takes => {
                let id = thread.offered.remove(0);
                let turn_id = thread.turn_id;
                let row = self.inbox.get_mut(&id).expect("accepted");
                if row.item.policy.mode == Mode::Steer {
                    // What was taken is on disk before anything is said of it.
                    assert_eq!((row.fate, row.begun_in == Some(self.life)), (None, false), "{id} is taken in its turn");
                    (row.turn, row.begun_in) = (Some(turn_id), Some(self.life));
                    self.turns.entry(turn_id).or_default().insert(id);
                }
                thread.told.push_back(Told::Took(id));
                self.tally.steered += 1;
            }
            0..=5 if !thread.is_told_to_stop => thread.told.push_back(Told::Alive),
            _ => {
                thread.is_over = true;
                thread.told.push_back(Told::Ended);
                if self.dice.roll(10) == 0 {
                    thread.told.push_back(Told::Ended);
                }
                let turn_id = thread.turn_id;
                self.close_turn(turn_id, Fate::Answered);
            }
        }
    }

    /// The loop hears what one of the runs told.
    fn hear(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let idx = self.dice.roll(self.threads.len());
        let thread = &mut self.threads[idx];
        let run_id = thread.run_id.clone();
        match thread.told.pop_front() {
            None => {}
            Some(Told::Alive) => self.scheduler.renew(&run_id, self.now_ms),
            Some(Told::Took(id)) => self.took(id),
            Some(Told::Ended) => self.end(&run_id),
        }
        self.threads.retain(|thread| !thread.is_over || !thread.told.is_empty());
    }

    fn took(&mut self, id: i64) {
        let item = &self.inbox[&id].item;
        let taken = self.scheduler.steered(&item.run_id);
        assert!(taken.is_none() || item.policy.mode == Mode::Steer, "what has a turn of its own waits on");
        if taken.is_some() {
            self.in_line_since.remove(&item.session);
        }
    }

    fn end(&mut self, run_id: &str) {
        let was_live = self.live.iter().find(|(_, live)| live.as_deref() == Some(run_id)).map(|(key, _)| key.clone());
        assert_eq!(self.scheduler.ended(run_id), was_live, "a run ends once");
        match was_live {
            Some(key) => _ = self.live.remove(&key),
            None => self.tally.second_ends += 1,
        }
    }

    fn watch(&mut self) {
        let before: BTreeSet<String> =
            self.threads.iter().filter(|t| t.is_told_to_stop).map(|t| t.run_id.clone()).collect();
        for run_id in self.scheduler.overdue(self.now_ms) {
            assert!(!before.contains(&run_id), "{run_id} is being stopped already");
            self.tell_to_stop(&run_id);
        }
        for run_id in self.scheduler.given_up(self.now_ms) {
            // What it took is known at once; it takes no more.
            if let Some(thread) = self.threads.iter_mut().find(|thread| thread.run_id == run_id) {
                thread.offered.clear();
                let turn_id = thread.turn_id;
                let told: Vec<Told> = thread.told.drain(..).collect();
                for told in told {
                    if let Told::Took(id) = told {
                        self.took(id);
                    }
                }
                self.writes.push_back(Write::GiveUp(turn_id));
            }
            let key = self.scheduler.session_of(&run_id).expect("it is active").clone();
            let answers = self.scheduler.sessions[&key].active().expect("it is active").answers.clone();
            self.end(&run_id);
            let ids = self.open[&key].iter().filter(|id| answers.contains(&self.inbox[id].item.run_id));
            for id in ids.copied().collect::<Vec<_>>() {
                self.forget_open(id);
            }
            self.tally.given_up += 1;
        }
    }

    fn take_back(&mut self) {
        let number = self.dice.roll(BUSY_SESSIONS);
        let key = session(number);
        match self.dice.roll(3) {
            0 => {
                let ids: Vec<i64> = self.scheduler.cancel_session(&key).iter().map(|item| item.id).collect();
                ids.into_iter().for_each(|id| self.closes(id, Fate::TakenBack));
                self.in_line_since.remove(&key);
                assert_eq!(self.scheduler.waiting(&key).count(), 0);
            }
            1 => {
                let newest = self.scheduler.waiting(&key).last().map(|item| item.run_id.clone());
                if let Some(item) = newest.and_then(|run_id| self.scheduler.cancel(&run_id)) {
                    assert_eq!(self.scheduler.cancel(&item.run_id), None);
                    self.closes(item.id, Fate::TakenBack);
                    self.in_line_since.remove(&key);
                }
            }
            _ => {
                if let Some(run_id) = self.scheduler.active_run(&key).map(str::to_owned) {
                    self.scheduler.stopping(&run_id, self.now_ms);
                    self.tell_to_stop(&run_id);
                }
            }
        }
    }

    /// The process dies: what was not written is gone. The next one begins with the inbox.
    fn crash(&mut self) {
        self.life += 1;
        self.tally.crashes += 1;
        self.writes.clear();
        self.written.clear();
        self.threads.clear();
        self.live.clear();
        self.open.clear();
        self.in_line_since.clear();
        self.last_turn.clear();
        self.foreground_in_a_row = 0;
        self.scheduler = Scheduler::new(self.limits.clone());
        for (id, row) in self.inbox.iter().filter(|(_, row)| row.fate.is_none()) {
            self.open.entry(row.item.session.clone()).or_default().insert(*id);
            self.scheduler.restore(Item { begun: row.turn, ..row.item.clone() }, self.now_ms);
        }
    }

    fn step(&mut self) {
        if self.dice.roll(2_000) == 0 {
            self.arrivals = self.dice.pick(&[5, 15, 30, 200]);
        }
        if self.dice.roll(1_000) < self.arrivals {
            self.say();
        }
        match self.dice.roll(1_000) {
            0..=249 => self.write(),
            250..=449 => self.hear_of_written(),
            450..=699 => self.work(),
            700..=919 => self.hear(),
            920..=949 => self.now_ms += self.dice.roll(5_000) as i64,
            950..=957 => self.take_back(),
            958 => self.now_ms += self.dice.roll(150_000) as i64,
            959 => self.now_ms -= self.dice.roll(5_000) as i64,
            960 if self.dice.roll(4) == 0 => {
                self.limits = some_limits(&mut self.dice);
                self.scheduler.set_limits(self.limits.clone());
            }
            961 if self.dice.roll(4) == 0 => self.crash(),
            _ => self.watch(),
        }
        self.pump();
    }

    fn look_at_the_whole(&self) {
        self.scheduler.check_invariants();
        for (key, open) in &self.open {
            let waiting: BTreeSet<i64> = self.scheduler.waiting(key).map(|item| item.id).collect();
            // A run may have taken one and ended, and nobody heard of it yet.
            let mut closed = waiting.difference(open);
            assert!(closed.all(|id| self.inbox[id].begun_in == Some(self.life)), "who waits in {key} is open");
            let is_quiet = !self.live.contains_key(key);
            assert!(!is_quiet || waiting == *open, "what is open in quiet {key} waits: {waiting:?} {open:?}");
        }
    }

    /// Nothing more comes. Whatever waits must have its end, in a bounded time.
    fn settle(&mut self) {
        for _ in 0..400_000 {
            let is_done = self.writes.is_empty() && self.written.is_empty() && self.threads.iter().all(|t| t.hangs);
            if is_done && self.scheduler.counts() == Counts::default() {
                break;
            }
            match self.dice.roll(8) {
                0 | 1 => self.write(),
                2 | 3 => self.hear_of_written(),
                4 | 5 => self.work(),
                6 => self.hear(),
                _ => {
                    // The loop sleeps until its next deadline, and no longer.
                    let deadline_ms = self.scheduler.deadline_ms().unwrap_or(self.now_ms);
                    self.now_ms = self.now_ms.max(deadline_ms.min(self.now_ms + 2_000));
                    self.watch();
                }
            }
            self.pump();
        }
        assert_eq!(self.scheduler.counts(), Counts::default(), "a lane is stuck: {:?}", self.live);
        self.look_at_the_whole();
        let forgotten: Vec<i64> = self.inbox.iter().filter(|(_, row)| row.fate.is_none()).map(|(id, _)| *id).collect();
        assert!(forgotten.is_empty(), "accepted and never dealt with: {forgotten:?}");
        assert_eq!(self.tally.fates.values().sum::<usize>(), self.tally.accepted, "each has one end");
    }
}

fn some_limits(dice: &mut Dice) -> Limits {
    Limits {
        workers: dice.pick(&[1, 4, 8, 32]),
        lanes: [dice.pick(&[1, NESTED_RUNS_MAX]), dice.pick(&[1, 4, 16]), dice.pick(&[1, 8]), dice.pick(&[1, 2])],
        pending_max: dice.pick(&[1, 16, 64, 256]),
        lease: LEASE,
        run_time_max: Duration::from_secs(600),
    }
}

#[test]
fn whatever_happens_each_message_has_one_end_and_no_lane_is_stuck() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SCHEDULER_SEED");
    let seeds = seed.map_or_else(|| (1..=3).map(|n| n * 104_729).collect(), |seed| vec![seed]);
    let n_steps = number("SCHEDULER_STEPS").map_or(STEPS, |steps| steps as usize);
    let mut all_fates = BTreeSet::new();
    for seed in seeds {
        eprintln!("scheduler seed {seed}");
        let mut world = World::new(seed);
        for n in 0..n_steps {
            world.step();
            if n % SWEEP_STEPS == 0 {
                world.look_at_the_whole();
            }
        }
        world.settle();
        let Tally { accepted, turns, merged, crashes, second_ends, given_up, steered, line_max, fates } = world.tally;
        eprintln!(
            "{accepted} accepted, {turns} turns from the line, {merged} merged, {steered} steered, {crashes} crashes, \
             {second_ends} second ends, {given_up} given up, longest line {line_max}: {fates:?}"
        );
        assert!(accepted > n_steps / 20 && turns > n_steps / 100, "much went on");
        assert!(merged > 0 && steered > 0 && crashes > 0 && second_ends > 0 && given_up > 0 && line_max > 16);
        all_fates.extend(fates.into_keys());
    }
    let whys = [Why::Superseded, Why::Interrupted, Why::SessionFull, Why::Summarized, Why::Capacity];
    let dropped = whys.into_iter().map(|why| Fate::Dropped(why.as_str()));
    let expected: BTreeSet<Fate> = dropped.chain([Fate::Answered, Fate::TakenBack, Fate::GivenUp]).collect();
    assert!(seed.is_some() || all_fates == expected, "every kind of end came up: {all_fates:?}");
}
