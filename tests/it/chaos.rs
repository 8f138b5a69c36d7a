//! The gateway is killed with SIGKILL at random points of its turns, again and again, on one state directory.
//!
//! Whatever the point: what was acknowledged is said to the model and ends once, no reply is in a transcript twice, and
//! no session is stuck. The short form is part of every test run; `scripts/chaos.sh` is the long one.
//!
//! - `CHAOS_KILLS`: how often it is killed.
//! - `CHAOS_SEED`: what is done is the same for the same seed; at which instruction a kill comes is the machine's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};

use crate::harness::client::{Outcome, Pending};
use crate::harness::provider::{Provider, Request, Turn};
use crate::harness::{Client, Server};

/// Kills when nothing else is said.
const KILLS: usize = 25;
/// Kills of one state directory; then everything is looked at, and another one is begun.
const KILLS_PER_HOUSE: usize = 100;
/// Kills in succession, at most; then everything that was acknowledged is waited for. A run that is killed once more than
/// that is given up by design ([`openclaw_rs::gateway::runs::ATTEMPTS_MAX`]).
const KILLS_IN_SUCCESSION_MAX: usize = 2;
/// One house in so many is killed in succession without a limit, so that runs are given up too.
const MERCILESS_EVERY: usize = 4;
/// Sessions that messages go to. The last but one collects what waits, the last steers.
const SESSIONS: usize = 6;
/// Most new messages between two kills.
const BURST_MAX: usize = 4;
/// Longest wait for the point at which it is to be killed.
const POINT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the end of what was acknowledged, in milliseconds.
const END_WAIT_MS: u64 = 15_000;

/// A message, whoever quotes it.
static SAID: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"m-(\d{5})-end").expect("a literal pattern compiles"));
/// Its answer.
static ANSWERED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"answer-(\d{5})\.").expect("a literal pattern compiles"));

/// Where in a turn it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// While messages are on their way in.
    Inbound,
    /// Right after one was acknowledged.
    Acknowledged,
    /// While several wait for one session.
    Queue,
    /// While the model answers.
    Model,
    /// Around the call of a tool.
    Tool,
    /// Around the end of a turn.
    Reply,
}

const POINTS: [Point; 6] = [Point::Inbound, Point::Acknowledged, Point::Queue, Point::Model, Point::Tool, Point::Reply];

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    fn pause(&mut self, micros_max: usize) {
        std::thread::sleep(Duration::from_micros(self.below(micros_max) as u64));
    }
}

/// What the model was told, and what was wrong with it.
#[derive(Default)]
struct Notes {
    said: BTreeSet<usize>,
    problems: Vec<String>,
    /// Answers so far, to vary how fast they come.
    n_answers: usize,
}

/// The model was asked something.
struct Asked {
    /// A tool was called before.
    is_after_tool: bool,
}

fn numbers(pattern: &Regex, text: &str) -> Vec<usize> {
    let number = |found: regex::Captures<'_>| found[1].parse().expect("five digits are a number");
    pattern.captures_iter(text).map(number).collect()
}

/// Answers every message that it is told and that nobody has answered; calls a tool first, where one is asked for.
fn answer(request: &Request, notes: &mut Notes) -> (Turn, Asked) {
    let mut open = BTreeSet::new();
    let mut newest = String::new();
    for message in request.messages() {
        let text = message["content"].to_string();
        match message["role"].as_str() {
            Some("user") => {
                open.extend(numbers(&SAID, &text));
                newest = text;
            }
            Some("assistant") => {
                for number in numbers(&ANSWERED, &text) {
                    open.remove(&number);
                }
            }
            _ => {}
        }
    }
    if open.is_empty() {
        notes.problems.push(format!("the model was asked although all is answered; newest: {newest}"));
    }
    notes.said.extend(&open);
    notes.n_answers += 1;
    let is_after_tool = request.messages().last().is_some_and(|message| message["role"] == "tool");
    let turn = if newest.contains("[tool]") && !is_after_tool {
        Turn::call("read", json!({ "path": "AGENTS.md" }))
    } else {
        let answers: Vec<String> = open.iter().map(|number| format!("answer-{number:05}.")).collect();
        Turn::text(&format!("{} and a few more words", answers.join(" ")))
    };
    let delay = Duration::from_millis(notes.n_answers as u64 % 4);
    (turn.delay(delay), Asked { is_after_tool })
}

/// Counts of the whole test.
#[derive(Debug, Default)]
struct Tally {
    kills: BTreeMap<Point, usize>,
    /// Kills whose point did not come.
    missed: usize,
    acknowledged: usize,
    sent_again: usize,
    replied: usize,
    given_up: usize,
    superseded: usize,
}

/// How a message ended, as `agent.wait` says it.
#[derive(Debug, Clone, PartialEq)]
struct Verdict {
    status: String,
    error: String,
    ended_at: i64,
}

impl Verdict {
    fn is_given_up(&self) -> bool {
        self.error.contains("it is not tried again")
    }
}

/// One state directory and what is known of it.
struct House<'a> {
    server: Server,
    provider: Provider,
    notes: Arc<Mutex<Notes>>,
    asked: Receiver<Asked>,
    dice: &'a mut Dice,
    tally: &'a mut Tally,
    /// All messages, by number; the session each went to.
    sessions: Vec<usize>,
    /// Sent, and not acknowledged yet.
    in_doubt: BTreeSet<usize>,
    kept: BTreeSet<usize>,
    ended: BTreeMap<usize, Verdict>,
    tools: BTreeSet<usize>,
}

fn session(n: usize) -> String {
    format!("agent:main:chaos-{n}")
}

fn run_id(number: usize) -> String {
    format!("chaos-{number:05}")
}

impl House<'_> {
    fn open<'a>(dice: &'a mut Dice, tally: &'a mut Tally) -> House<'a> {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (tx, asked) = channel();
        let noting = Arc::clone(&notes);
        let provider = Provider::start_with(move |request| {
            let (turn, asked) = answer(request, &mut noting.lock().expect("nothing panics while it holds the notes"));
            // Nobody may be listening any more.
            let _ = tx.send(asked);
            turn
        });
        let quick = json!({ "messages": { "queue": { "debounceMs": 5 } } });
        let server = Server::with().config(&provider.config()).config(&quick).start();
        House {
            server,
            provider,
            notes,
            asked,
            dice,
            tally,
            sessions: Vec::new(),
            in_doubt: BTreeSet::new(),
            kept: BTreeSet::new(),
            ended: BTreeMap::new(),
            tools: BTreeSet::new(),
        }
    }

    /// Sends a message, for the first time or again.
    fn send(&mut self, client: &Client, number: usize) -> (usize, Pending) {
        let n = self.sessions[number];
        let tool = if self.tools.contains(&number) { " [tool]" } else { "" };
        let mut params = json!({
            "sessionKey": session(n), "message": format!("m-{number:05}-end{tool}"), "idempotencyKey": run_id(number),
        });
        match SESSIONS - n {
            1 => params["queueMode"] = json!("steer"),
            2 => params["queueMode"] = json!("collect"),
            _ => {}
        }
        (number, client.start("chat.send", Some(params)))
    }

    /// Thinks of new messages; their numbers rise, also within each session.
    fn new_messages(&mut self, point: Point) -> Vec<usize> {
        let one_session = (point == Point::Queue).then(|| self.dice.below(SESSIONS - 2));
        let count = if point == Point::Queue { BURST_MAX } else { 1 + self.dice.below(BURST_MAX) };
        let first = self.sessions.len();
        for number in first..first + count {
            let n = one_session.unwrap_or_else(|| self.dice.below(SESSIONS));
            self.sessions.push(n);
            if point == Point::Tool || self.dice.below(3) == 0 {
                self.tools.insert(number);
            }
        }
        (first..first + count).collect()
    }

    /// One life of the gateway, from a client's first word to the kill.
    fn live(&mut self, point: Point) {
        self.provider.forget_requests();
        while self.asked.try_recv().is_ok() {}
        let client = self.server.operator("ann");
        let from = client.mark();
        // First what is in doubt, so that a session's messages keep their order.
        let again: Vec<usize> = self.in_doubt.iter().copied().collect();
        self.tally.sent_again += again.len();
        let new = self.new_messages(point);
        self.in_doubt.extend(&new);
        let mut pending: Vec<(usize, Pending)> = Vec::new();
        for number in again.into_iter().chain(new) {
            pending.push(self.send(&client, number));
        }
        let has_come = match point {
            Point::Inbound => true,
            Point::Acknowledged => {
                let which = self.dice.below(pending.len());
                let (number, sent) = pending.remove(which);
                self.acknowledged(number, &client.wait(sent).outcome)
            }
            Point::Queue => {
                let all = std::mem::take(&mut pending);
                all.into_iter()
                    .fold(true, |all, (number, sent)| self.acknowledged(number, &client.wait(sent).outcome) && all)
            }
            Point::Model => self.wait_until_asked(false),
            Point::Tool => self.wait_until_asked(true),
            Point::Reply => {
                let what = ["delta", "final"][self.dice.below(2)];
                let is_it = |event: &Value| event["state"] == what;
                let deadline = Instant::now() + POINT_WAIT_MAX;
                self.server
                    .inbox
                    .wait(from, deadline, |arrival| arrival.event("chat").filter(|e| is_it(e)).map(drop))
                    .is_some()
            }
        };
        self.tally.missed += usize::from(!has_come);
        *self.tally.kills.entry(point).or_default() += 1;
        self.dice.pause(match point {
            Point::Inbound => 1_500,
            Point::Acknowledged | Point::Queue => 3_000,
            Point::Model | Point::Tool => 25_000,
            Point::Reply => 8_000,
        });
        self.server.kill_and_restart();
        for (number, sent) in pending {
            self.acknowledged(number, &client.wait(sent).outcome);
        }
    }

    fn wait_until_asked(&mut self, after_tool: bool) -> bool {
        let deadline = Instant::now() + POINT_WAIT_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.asked.recv_timeout(left) {
                Ok(asked) if asked.is_after_tool == after_tool => return true,
                // A call of a tool is asked for at this moment: as good a point as its answer.
                Ok(_) if after_tool && self.dice.below(4) == 0 => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Notes whether a message was acknowledged.
    fn acknowledged(&mut self, number: usize, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Answer(frame) => {
                // Well, or as badly as it ended the first time it was sent.
                assert_eq!(frame["payload"]["runId"], run_id(number), "{frame}");
                self.in_doubt.remove(&number);
                self.kept.insert(number);
                true
            }
            Outcome::Closed(..) => false,
            Outcome::Nothing => panic!("message {number} was neither answered nor was the connection closed"),
        }
    }

    /// Lets everything come to its end. A second look at an end finds the same one.
    fn rest(&mut self, client: &Client) {
        let again: Vec<usize> = self.in_doubt.iter().copied().collect();
        let pending: Vec<_> = again.into_iter().map(|number| self.send(client, number)).collect();
        for (number, sent) in pending {
            let outcome = client.wait(sent).outcome;
            assert!(self.acknowledged(number, &outcome), "message {number} in peace: {outcome:?}");
        }
        let kept: Vec<usize> = self.kept.iter().copied().collect();
        for some in kept.chunks(100) {
            let ask = |number: &usize| {
                let params = json!({ "runId": run_id(*number), "timeoutMs": END_WAIT_MS });
                (*number, client.start("agent.wait", Some(params)))
            };
            let waits: Vec<(usize, Pending)> = some.iter().map(ask).collect();
            for (number, wait) in waits {
                let end = client.wait(wait).expect_ok();
                let text = |name: &str| end[name].as_str().unwrap_or_default().to_owned();
                let (status, error) = (text("status"), text("error"));
                assert_ne!(
                    status, "timeout",
                    "message {number} of {} has no end: a lane is stuck",
                    self.sessions[number]
                );
                let verdict = Verdict { status, error, ended_at: end["endedAt"].as_i64().unwrap_or_default() };
                let first = self.ended.entry(number).or_insert_with(|| verdict.clone());
                assert_eq!(*first, verdict, "message {number} ended twice");
            }
        }
    }

    /// Looks at everything.
    fn look(&mut self) {
        let client = self.server.operator("ann");
        self.rest(&client);
        // No lane is stuck: each session answers one more.
        let first = self.sessions.len();
        self.sessions.extend(0..SESSIONS);
        self.in_doubt.extend(first..first + SESSIONS);
        self.rest(&client);
        for number in first..first + SESSIONS {
            assert_eq!(self.ended[&number].status, "ok", "the last message {number}: {:?}", self.ended[&number]);
        }
        let mut answers: BTreeMap<usize, usize> = BTreeMap::new();
        let mut entered: BTreeMap<usize, usize> = BTreeMap::new();
        for n in 0..SESSIONS {
            let mut last = None;
            let (mut n_calls, mut n_results) = (0, 0);
            for message in history(&client, &session(n)) {
                let text = message["content"].to_string();
                match message["role"].as_str() {
                    Some("user") => {
                        for number in numbers(&SAID, &text) {
                            *entered.entry(number).or_default() += 1;
                            assert!(last < Some(number), "session {n}: message {number} stands after {last:?}");
                            last = Some(number);
                        }
                    }
                    Some("assistant") => {
                        n_calls += text.matches("\"toolCall\"").count();
                        for number in numbers(&ANSWERED, &text) {
                            *answers.entry(number).or_default() += 1;
                        }
                    }
                    Some("toolResult") => n_results += 1,
                    _ => {}
                }
            }
            // A run that is given up may have died with a call under way, each time.
            let is_given_up = |number: &usize| self.sessions[*number] == n && self.ended[number].is_given_up();
            let n_given_up = self.kept.iter().filter(|number| is_given_up(number)).count();
            let lost = n_results..=n_results + n_given_up;
            assert!(
                lost.contains(&n_calls),
                "session {n}: {n_calls} calls, {n_results} results, {n_given_up} given up"
            );
        }
        let notes = self.notes.lock().expect("nothing panics while it holds the notes");
        assert!(notes.problems.is_empty(), "{:#?}", notes.problems);
        for number in &self.kept {
            let verdict = &self.ended[number];
            let (n_entered, n_answers) = (entered.get(number).copied(), answers.get(number).copied().unwrap_or(0));
            assert!(n_answers <= 1, "message {number} has {n_answers} replies");
            match verdict.status.as_str() {
                "ok" => {
                    assert!(notes.said.contains(number), "message {number} was never said to the model");
                    assert_eq!((n_entered, n_answers), (Some(1), 1), "message {number}: {verdict:?}");
                    self.tally.replied += 1;
                }
                _ if verdict.is_given_up() => self.tally.given_up += 1,
                _ if verdict.error == "superseded" => self.tally.superseded += 1,
                _ => panic!("message {number} ended with {verdict:?}"),
            }
        }
        self.tally.acknowledged += self.kept.len();
    }
}

/// All messages of a session.
fn history(client: &Client, key: &str) -> Vec<Value> {
    let history = client.call("chat.history", json!({ "sessionKey": key, "limit": 1000 })).expect_ok();
    let messages = history["messages"].as_array().expect("a history has messages").clone();
    assert!(messages.len() < 1000, "{key} has more messages than are looked at");
    messages
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn kill_9_at_random_points_of_a_turn_loses_nothing_says_nothing_twice_and_blocks_nobody() {
    let seed = setting("CHAOS_SEED").unwrap_or(20_261_120);
    let kills =
        setting("CHAOS_KILLS").map_or(KILLS, |kills| usize::try_from(kills).expect("fewer than there is memory"));
    let began = Instant::now();
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    println!("chaos: seed {seed}, {kills} kills");
    let mut killed = 0;
    for number in 0.. {
        let of_house = (kills - killed).min(KILLS_PER_HOUSE);
        let is_merciless = number % MERCILESS_EVERY == MERCILESS_EVERY - 1;
        let given_up = tally.given_up;
        let mut house = House::open(&mut dice, &mut tally);
        let mut in_succession = 0;
        for kill in 0..of_house {
            // Each point in turn, from another one in each house.
            house.live(POINTS[(kill + number) % POINTS.len()]);
            in_succession += 1;
            let is_enough = !is_merciless && in_succession >= KILLS_IN_SUCCESSION_MAX;
            if is_enough || house.dice.below(KILLS_IN_SUCCESSION_MAX) == 0 {
                let client = house.server.operator("ann");
                house.rest(&client);
                in_succession = 0;
            }
        }
        house.look();
        drop(house);
        assert!(is_merciless || tally.given_up == given_up, "a run was given up too early: {tally:?}");
        killed += of_house;
        println!("chaos: seed {seed}, {killed} kills after {} s: {tally:?}", began.elapsed().as_secs());
        if killed == kills {
            break;
        }
    }
    assert!(tally.missed * 10 <= kills, "the point did not come too often: {tally:?}");
}
