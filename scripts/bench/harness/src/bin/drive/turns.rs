//! Whole turns: from `chat.send` to the final event, with a model that answers at once.
//!
//! One client drives a number of sessions, each with one turn under way. A session is left after [`TURNS_PER_SESSION`]
//! turns for a new one, so that no conversation grows until its length is what is measured.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::client::{Client, Purpose, read_text};
use crate::model::{self, Model};
use crate::process::{Memory, Process, TOKEN, Target};
use crate::samples::Samples;
use crate::{Result, SETTLE, progress};

/// Turns in a session: 10,000 of them make 500 sessions.
const TURNS_PER_SESSION: u64 = 20;
/// Sessions that have a turn under way at the same time, one measure each.
pub const SESSIONS: [usize; 3] = [1, 8, 64];
/// Sessions of the memory measures.
const SESSIONS_MEMORY: usize = 8;
/// Turns before the first measure: whatever a gateway builds at its first turn is built by then.
const WARM_UP_TURNS: u64 = 20;
/// Runs that stream at once while memory is read.
pub const STREAMS: usize = 8;
/// When memory is read while they stream, after they began.
const STREAM_LOOKS: [Duration; 3] =
    [Duration::from_millis(1500), Duration::from_millis(500), Duration::from_millis(500)];
/// A measure ends after this time, however few turns it has.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Extent {
    /// Turns for each number of sessions.
    pub n_turns: u64,
    /// Turns whose first word is waited for.
    pub n_first: u64,
    /// Turns before memory is read the last time; a quarter of them before it is read the first time.
    pub n_memory: u64,
}

/// Everything measured of a target's turns.
pub struct Turns {
    /// One for each of [`SESSIONS`].
    pub loads: Vec<TurnLoad>,
    /// From `chat.send` to the first frame with a word of the answer, in ms; the model says it at once.
    pub first_word_ms: Samples,
    pub idle: Memory,
    pub streaming: Memory,
    pub early: Memory,
    pub late: Memory,
    /// Turns before `early` and before `late`, in the memory measure.
    pub n_early: u64,
    pub n_late: u64,
}

impl Turns {
    pub fn load(&self, n_sessions: usize) -> Option<&TurnLoad> {
        self.loads.iter().find(|load| load.n_sessions == n_sessions)
    }

    /// Own memory of the streaming runs above idle, in MiB.
    pub fn streaming_mib(&self) -> f64 {
        self.streaming.anonymous_kib.saturating_sub(self.idle.anonymous_kib) as f64 / 1024.0
    }

    /// Own memory that the later three quarters of the turns added, in MiB.
    pub fn growth_mib(&self) -> f64 {
        self.late.anonymous_kib.saturating_sub(self.early.anonymous_kib) as f64 / 1024.0
    }
}

/// Turns with a number of sessions at once.
pub struct TurnLoad {
    pub n_sessions: usize,
    /// From `chat.send` to the final event, in ms.
    pub ms: Samples,
    pub per_s: f64,
    /// Processor time of the gateway for each turn, in ms.
    pub cpu_ms: f64,
}

/// Measures a target's turns; `None` when it has no `chat.send`.
pub fn measure(target: &Target, state: &Path, extent: Extent) -> Result<Option<Turns>> {
    let model = Model::start()?;
    let (process, client, took) = target.start(state, Some(model.port))?;
    if !client.has("chat.send") {
        return Ok(None);
    }
    drop(client);
    std::thread::sleep(SETTLE.max(took));
    let idle = process.memory()?;
    let client = Client::connect(process.port, TOKEN, &["operator.read", "operator.write"], Purpose::Measure)?;
    let mut driver = Driver { client, n_turns: 0, n_sessions: 0, under_way: HashMap::new() };

    progress(&target.name, "answers that stream");
    let streaming = driver.stream(&process)?;
    driver.run(1, WARM_UP_TURNS, "")?;
    let mut loads = Vec::new();
    for n_sessions in SESSIONS {
        progress(&target.name, &format!("turns in {n_sessions} sessions"));
        let (cpu_before, began) = (process.cpu()?, Instant::now());
        let ran = driver.run(n_sessions, extent.n_turns, "")?;
        let per_s = ran.final_ms.len() as f64 / began.elapsed().as_secs_f64();
        let cpu_ms = (process.cpu()? - cpu_before).as_secs_f64() * 1000.0 / ran.final_ms.len() as f64;
        loads.push(TurnLoad { n_sessions, ms: Samples::new(ran.final_ms), per_s, cpu_ms });
    }
    progress(&target.name, "first words");
    let first = driver.run(1, extent.n_first, model::PAUSE)?;
    if first.first_ms.len() != first.final_ms.len() {
        return Err("an answer was shown at its end only".into());
    }
    progress(&target.name, "memory after many turns");
    let n_early = driver.run(SESSIONS_MEMORY, extent.n_memory / 4, "")?.final_ms.len() as u64;
    std::thread::sleep(SETTLE);
    let early = process.memory()?;
    let n_more = driver.run(SESSIONS_MEMORY, extent.n_memory - extent.n_memory / 4, "")?.final_ms.len() as u64;
    std::thread::sleep(SETTLE);
    let late = process.memory()?;

    // A gateway that makes up its answers is quick too.
    if model.n_answers() < driver.n_turns {
        return Err(
            format!("{} turns ended, but the model was asked {} times", driver.n_turns, model.n_answers()).into()
        );
    }
    drop(driver);
    process.stop()?;
    let first_word_ms = Samples::new(first.first_ms);
    Ok(Some(Turns { loads, first_word_ms, idle, streaming, early, late, n_early, n_late: n_early + n_more }))
}

/// A client that keeps turns under way.
struct Driver {
    client: Client,
    /// Turns begun.
    n_turns: u64,
    /// Sessions used so far.
    n_sessions: u64,
    under_way: HashMap<String, UnderWay>,
}

struct UnderWay {
    lane: usize,
    sent: Instant,
    is_shown: bool,
}

/// What turns took, in ms from their `chat.send`.
#[derive(Default)]
struct Ran {
    first_ms: Vec<f64>,
    final_ms: Vec<f64>,
}

/// The session that a lane is at.
struct Lane {
    key: String,
    n_turns: u64,
}

impl Driver {
    /// Keeps one turn under way in each of so many sessions until `n_turns` have ended, or [`TIME_MAX`] is over.
    fn run(&mut self, n_lanes: usize, n_turns: u64, mark: &str) -> Result<Ran> {
        let mut ran = Ran::default();
        let mut lanes: Vec<Lane> = (0..n_lanes).map(|_| self.lane()).collect();
        let began = Instant::now();
        let mut n_left = n_turns;
        for (lane, state) in lanes.iter_mut().enumerate().take(usize::try_from(n_turns)?) {
            self.send(lane, state, mark)?;
            n_left -= 1;
        }
        while !self.under_way.is_empty() {
            let Some(lane) = self.take(&mut ran)? else { continue };
            if n_left == 0 || began.elapsed() > TIME_MAX {
                continue;
            }
            n_left -= 1;
            if lanes[lane].n_turns == TURNS_PER_SESSION {
                lanes[lane] = self.lane();
            }
            self.send(lane, &mut lanes[lane], mark)?;
        }
        Ok(ran)
    }

    /// Has runs stream at once and reads memory meanwhile; the largest counts.
    fn stream(&mut self, process: &Process) -> Result<Memory> {
        for lane in 0..STREAMS {
            let mut state = self.lane();
            self.send(lane, &mut state, model::SLOWLY)?;
        }
        let mut most = Memory::default();
        for rest in STREAM_LOOKS {
            std::thread::sleep(rest);
            let memory = process.memory()?;
            if memory.anonymous_kib > most.anonymous_kib {
                most = memory;
            }
        }
        let mut ran = Ran::default();
        while !self.under_way.is_empty() {
            self.take(&mut ran)?;
        }
        Ok(most)
    }

    fn lane(&mut self) -> Lane {
        self.n_sessions += 1;
        Lane { key: format!("agent:main:bench-turn-{:05}", self.n_sessions), n_turns: 0 }
    }

    fn send(&mut self, lane: usize, state: &mut Lane, mark: &str) -> Result<()> {
        self.n_turns += 1;
        state.n_turns += 1;
        let run_id = format!("bench-{:09}", self.n_turns);
        let params = json!({
            "sessionKey": state.key, "idempotencyKey": run_id,
            "message": format!("Turn {} of this conversation, please answer. {mark}", state.n_turns).trim_end(),
        });
        let (text, _) = self.client.request("chat.send", Some(&params));
        self.under_way.insert(run_id, UnderWay { lane, sent: Instant::now(), is_shown: false });
        Ok(self.client.socket.send(Message::Text(text))?)
    }

    /// Takes one frame; the lane whose turn it ended.
    fn take(&mut self, ran: &mut Ran) -> Result<Option<usize>> {
        let frame = read_text(&mut self.client.socket)?;
        let now = Instant::now();
        if frame.starts_with(r#"{"type":"res""#) && frame.contains(r#""ok":false"#) {
            return Err(format!("chat.send was refused: {frame}").into());
        }
        // Only frames about an answer are worth a closer look.
        if !frame.contains(r#""event":"chat""#) && !frame.contains(model::FIRST_WORD) {
            return Ok(None);
        }
        let event: Value = serde_json::from_str(&frame)?;
        let Some(run_id) = event["payload"]["runId"].as_str() else { return Ok(None) };
        let Some(turn) = self.under_way.get_mut(run_id) else { return Ok(None) };
        let took_ms = (now - turn.sent).as_secs_f64() * 1000.0;
        let state = (event["event"] == "chat").then(|| event["payload"]["state"].as_str()).flatten();
        match state {
            Some("final") if frame.contains(model::FIRST_WORD) => {
                ran.final_ms.push(took_ms);
                Ok(self.under_way.remove(run_id).map(|turn| turn.lane))
            }
            Some("final" | "error" | "aborted") => Err(format!("a turn ended without its answer: {frame}").into()),
            _ => {
                if !turn.is_shown && frame.contains(model::FIRST_WORD) {
                    turn.is_shown = true;
                    ran.first_ms.push(took_ms);
                }
                Ok(None)
            }
        }
    }
}
