//! The loop guard: notices a run that goes in circles, or has gone far enough.
//!
//! It remembers what was called lately and what that answered, by digest, and speaks before the next call: nothing, a
//! warning that the model is told beside the answer, or a refusal. The detectors are upstream's: the same call again and
//! again, polling without progress, two calls in turn, a tool that is not there, and above them a breaker that ends the
//! run. Progress is an answer that is new; who gets new answers may go on.
//!
//! **Invariant:** what it keeps is bounded by [`LoopDetection::history_max`], whatever is called with whatever
//! arguments.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::config::settings::tools::LoopDetection;

/// Calls of one run that may be refused; after that the run ends.
pub const REFUSALS_MAX: u32 = 8;

/// What noticed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detector {
    /// The same call, with the same answer where it is refused.
    GenericRepeat,
    /// The same look at a process that does not change.
    KnownPoll,
    /// Two calls in turn.
    PingPong,
    /// A tool that is not there.
    UnknownTool,
    /// The same call and answer so often that the run ends.
    Breaker,
    /// As many calls as a run may make.
    CallLimit,
}

impl Detector {
    /// Its word, upstream's where it has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Detector::GenericRepeat => "generic_repeat",
            Detector::KnownPoll => "known_poll_no_progress",
            Detector::PingPong => "ping_pong",
            Detector::UnknownTool => "unknown_tool_repeat",
            Detector::Breaker => "global_circuit_breaker",
            Detector::CallLimit => "call_limit",
        }
    }
}

/// What was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// By whom.
    pub detector: Detector,
    /// How many calls it is about.
    pub count: usize,
    /// In words for the model.
    pub text: String,
}

/// What is to become of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It may be made.
    Fine,
    /// It may be made, and the model is told.
    Warned(Notice),
    /// It is not made.
    Refused(Notice),
}

/// A call that was made, or refused.
#[derive(Debug)]
struct Made {
    /// Digest of the tool's name,
    tool: u64,
    /// and of its arguments as well.
    call: u64,
    /// Digest of the answer; `None`: it was refused.
    answer: Option<u64>,
    is_unknown: bool,
}

/// One run's guard.
#[derive(Debug)]
pub struct Guard {
    settings: LoopDetection,
    calls_max: u32,
    n_calls: u32,
    n_refused: u32,
    has_tripped: bool,
    /// The newest last.
    history: VecDeque<Made>,
}

impl Guard {
    /// Of a run that has called nothing.
    pub fn new(settings: LoopDetection, calls_max: u32) -> Guard {
        Guard { settings, calls_max, n_calls: 0, n_refused: 0, has_tripped: false, history: VecDeque::new() }
    }

    /// Calls that were made.
    pub fn n_calls(&self) -> u32 {
        self.n_calls
    }

    /// Whether the run is to end: it does not stop calling what it may not.
    pub fn is_hopeless(&self) -> bool {
        self.has_tripped || self.n_refused >= REFUSALS_MAX
    }

    /// What is to become of a call that is about to be made.
    pub fn check(&mut self, tool: &str, arguments: &Value) -> Standing {
        let standing = self.look(tool, arguments);
        if let Standing::Refused(notice) = &standing {
            self.n_refused += 1;
            self.has_tripped |= notice.detector == Detector::Breaker;
            log::warn!("agent: a call is refused tool={tool:?} by={} calls={}", notice.detector.as_str(), notice.count);
            self.remember(Made { tool: digest(tool), call: call(tool, arguments), answer: None, is_unknown: false });
        }
        standing
    }

    /// A call was made, now or before a restart; `is_unknown`: there is no such tool.
    pub fn note(&mut self, tool: &str, arguments: &Value, answer: &str, is_unknown: bool) {
        self.n_calls = self.n_calls.saturating_add(1);
        let answer = Some(digest(answer));
        self.remember(Made { tool: digest(tool), call: call(tool, arguments), answer, is_unknown });
    }

    fn remember(&mut self, made: Made) {
        self.history.push_back(made);
        while self.history.len() > self.settings.history_max {
            self.history.pop_front();
        }
    }

    fn look(&self, tool: &str, arguments: &Value) -> Standing {
        let refused = |detector, count, text| Standing::Refused(Notice { detector, count, text });
        let warned = |detector, count, text| Standing::Warned(Notice { detector, count, text });
        if self.n_calls >= self.calls_max {
            let max = self.calls_max;
            let text = format!("not done: {max} tools were called, which is the limit. Answer with what you have.");
            return refused(Detector::CallLimit, max as usize, text);
        }
        let settings = &self.settings;
        if !settings.is_on {
            return Standing::Fine;
        }
        let (warning, critical) = (settings.warning, settings.critical);
        let wanted = call(tool, arguments);
        let again = self.same_answers(wanted);
        if again >= settings.breaker {
            let text = format!("not done: {tool} had the same answer {again} times. This run ends here.");
            return refused(Detector::Breaker, again, text);
        }
        let unknown = self.unknown_calls(digest(tool));
        if unknown >= warning {
            let text = format!("not done: there is no tool {tool}, and it was called {unknown} times. Go without it.");
            return refused(Detector::UnknownTool, unknown, text);
        }
        let is_poll = is_poll(tool, arguments);
        if is_poll && settings.known_poll {
            if again >= critical {
                let text = format!(
                    "not done: this look at {tool} had the same answer {again} times. Stop looking: go on with something \
                     else, or say that it does not get on."
                );
                return refused(Detector::KnownPoll, again, text);
            }
            if again >= warning {
                let text =
                    format!("[{tool} had the same answer {again} times: wait longer between looks, or give it up]");
                return warned(Detector::KnownPoll, again, text);
            }
        }
        if settings.ping_pong {
            let Turns { count, is_stuck } = self.turns(wanted);
            if count >= critical && is_stuck {
                let text = format!(
                    "not done: {count} calls went back and forth between two, and neither had a new answer. Do something \
                     else, or answer."
                );
                return refused(Detector::PingPong, count, text);
            }
            if count >= warning {
                let text = format!("[{count} calls went back and forth between two: do something else, or answer]");
                return warned(Detector::PingPong, count, text);
            }
        }
        if settings.generic_repeat && !is_poll {
            if again >= critical {
                let text = format!(
                    "not done: this very call had the same answer {again} times. Do something else, or answer."
                );
                return refused(Detector::GenericRepeat, again, text);
            }
            let count = self.history.iter().filter(|made| made.call == wanted).count();
            if count >= warning {
                let text = format!(
                    "[this very call was made {count} times: if it does not get you further, do something else or answer]"
                );
                return warned(Detector::GenericRepeat, count, text);
            }
        }
        Standing::Fine
    }

    /// How often a call had the same answer, up to now; one that was refused meanwhile had it too. What else was called
    /// in between says nothing.
    fn same_answers(&self, wanted: u64) -> usize {
        let mut latest = None;
        let of_call = self.history.iter().rev().filter(|made| made.call == wanted);
        of_call
            .take_while(|made| match (made.answer, latest) {
                (None, _) => true,
                (Some(answer), None) => {
                    latest = Some(answer);
                    true
                }
                (Some(answer), Some(latest)) => answer == latest,
            })
            .count()
    }

    /// How often a tool that is not there was called last, whatever its arguments.
    fn unknown_calls(&self, tool: u64) -> usize {
        let of_tool = self.history.iter().rev().take_while(|made| made.tool == tool);
        of_tool.take_while(|made| made.is_unknown || made.answer.is_none()).filter(|made| made.is_unknown).count()
    }

    /// Whether the newest calls, and this one, alternate between two.
    fn turns(&self, wanted: u64) -> Turns {
        let none = Turns { count: 0, is_stuck: false };
        let mut newest = self.history.iter().rev();
        let Some(last) = newest.next() else { return none };
        let Some(other) = newest.next().filter(|other| other.call == wanted && other.call != last.call) else {
            return none;
        };
        let mut answers = [None, None];
        let (mut count, mut is_stuck) = (0, true);
        for (idx, made) in self.history.iter().rev().enumerate() {
            if made.call != [last.call, other.call][idx % 2] {
                break;
            }
            count += 1;
            match (made.answer, &mut answers[idx % 2]) {
                (None, _) => {}
                (Some(answer), seen @ None) => *seen = Some(answer),
                (Some(answer), Some(seen)) => is_stuck &= answer == *seen,
            }
        }
        Turns { count: count + 1, is_stuck }
    }
}

/// Calls that alternate between two.
struct Turns {
    /// How many, with the one that is wanted.
    count: usize,
    /// Whether neither has a new answer.
    is_stuck: bool,
}

/// Whether a call only looks at what goes on.
fn is_poll(tool: &str, arguments: &Value) -> bool {
    tool == "process" && matches!(arguments["action"].as_str(), Some("poll" | "log"))
}

fn call(tool: &str, arguments: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    tool.hash(&mut hasher);
    // Members are in order of their names, so the same arguments are the same text.
    arguments.to_string().hash(&mut hasher);
    hasher.finish()
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::settings::Settings;

    fn settings(config: Value) -> LoopDetection {
        Settings::of_document(&config).unwrap().tools.loops
    }

    fn guard() -> Guard {
        Guard::new(settings(json!({})), 1000)
    }

    fn path(n: usize) -> Value {
        json!({ "path": n })
    }

    /// Makes a call unless it is refused.
    fn make(guard: &mut Guard, tool: &str, arguments: &Value, answer: &str) -> Standing {
        let standing = guard.check(tool, arguments);
        if !matches!(standing, Standing::Refused(_)) {
            guard.note(tool, arguments, answer, false);
        }
        standing
    }

    #[track_caller]
    fn is(standing: &Standing, level: &str, detector: Detector, count: usize) {
        let (found, notice) = match standing {
            Standing::Fine => panic!("nothing was noticed"),
            Standing::Warned(notice) => ("warning", notice),
            Standing::Refused(notice) => ("critical", notice),
        };
        assert_eq!((found, notice.detector, notice.count), (level, detector, count), "{notice:?}");
    }

    #[test]
    fn the_same_call_is_warned_of_then_refused_then_ends_the_run() {
        let mut guard = guard();
        for _ in 0..10 {
            assert_eq!(make(&mut guard, "read", &path(1), "same"), Standing::Fine);
        }
        for count in 10..20 {
            is(&make(&mut guard, "read", &path(1), "same"), "warning", Detector::GenericRepeat, count);
        }
        for count in 20..20 + REFUSALS_MAX as usize {
            assert!(!guard.is_hopeless());
            is(&make(&mut guard, "read", &path(1), "same"), "critical", Detector::GenericRepeat, count);
        }
        assert!(guard.is_hopeless() && guard.n_calls() == 20);
        assert_eq!(guard.check("read", &path(2)), Standing::Fine, "what is new may still be asked");
    }

    #[test]
    fn a_new_answer_is_progress_and_other_calls_are_not() {
        let mut guard = guard();
        for _ in 0..19 {
            make(&mut guard, "read", &path(1), "same");
        }
        for n in 0..5 {
            make(&mut guard, "read", &path(100 + n), "other");
        }
        is(&make(&mut guard, "read", &path(1), "another"), "warning", Detector::GenericRepeat, 19);
        for _ in 0..10 {
            assert!(!matches!(make(&mut guard, "read", &path(1), "another"), Standing::Refused(_)));
        }
    }

    #[test]
    fn the_breaker_ends_the_run_whatever_else_is_switched_off() {
        let off = json!({ "genericRepeat": false, "knownPollNoProgress": false, "pingPong": false });
        let config = json!({ "tools": { "loopDetection": { "detectors": off } } });
        let mut guard = Guard::new(settings(config), 1000);
        for _ in 0..30 {
            assert_eq!(make(&mut guard, "read", &path(1), "same"), Standing::Fine);
        }
        is(&make(&mut guard, "read", &path(1), "same"), "critical", Detector::Breaker, 30);
        assert!(guard.is_hopeless());
    }

    #[test]
    fn polling_without_progress_has_a_detector_of_its_own() {
        let mut guard = guard();
        let poll = json!({ "action": "poll", "sessionId": "a" });
        for _ in 0..10 {
            assert_eq!(make(&mut guard, "process", &poll, "running"), Standing::Fine);
        }
        is(&make(&mut guard, "process", &poll, "running"), "warning", Detector::KnownPoll, 10);
        assert_eq!(
            make(&mut guard, "process", &poll, "line 1"),
            Standing::Warned(Notice {
                detector: Detector::KnownPoll,
                count: 11,
                text: "[process had the same answer 11 times: wait longer between looks, or give it up]".to_owned(),
            })
        );
        assert_eq!(make(&mut guard, "process", &poll, "line 2"), Standing::Fine, "it got on");
        for _ in 0..19 {
            make(&mut guard, "process", &poll, "line 2");
        }
        is(&make(&mut guard, "process", &poll, "line 2"), "critical", Detector::KnownPoll, 20);
    }

    #[test]
    fn two_calls_in_turn_are_a_circle_when_neither_has_news() {
        let mut guard = guard();
        for n in 0..19 {
            let standing = make(&mut guard, "read", &path(n % 2), &format!("answer {}", n % 2));
            if n >= 9 {
                is(&standing, "warning", Detector::PingPong, n + 1);
            }
        }
        is(&make(&mut guard, "read", &path(1), "answer 1"), "critical", Detector::PingPong, 20);
        let mut guard = self::guard();
        for n in 0..40 {
            let standing = make(&mut guard, "read", &path(n % 2), &format!("answer {n}"));
            assert!(!matches!(standing, Standing::Refused(_)), "{standing:?}");
        }
    }

    #[test]
    fn a_tool_that_is_not_there_is_soon_given_up() {
        let mut guard = guard();
        for n in 0..10 {
            assert_eq!(guard.check("nothing", &path(n)), Standing::Fine);
            guard.note("nothing", &path(n), "Tool nothing not found", true);
        }
        is(&guard.check("nothing", &path(11)), "critical", Detector::UnknownTool, 10);
        assert_eq!(guard.check("read", &path(1)), Standing::Fine);
    }

    #[test]
    fn no_more_is_called_than_a_run_may() {
        let mut guard = Guard::new(settings(json!({ "tools": { "loopDetection": { "enabled": false } } })), 100);
        for _ in 0..100 {
            assert_eq!(make(&mut guard, "read", &path(1), "same"), Standing::Fine, "it is switched off");
        }
        is(&guard.check("read", &path(2)), "critical", Detector::CallLimit, 100);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let config = json!({ "tools": { "loopDetection": { "historySize": 1_000_000 } } });
        let settings = settings(config);
        assert_eq!(settings.history_max, crate::config::settings::tools::LOOP_HISTORY_MAX);
        let mut guard = Guard::new(settings, u32::MAX);
        for n in 0..2000 {
            make(&mut guard, "read", &path(n), "x");
        }
        assert_eq!(guard.history.len(), settings.history_max);
    }

    #[test]
    fn the_stricter_of_two_settings_wins_and_contradictions_are_refused() {
        let strict = json!({ "warning_threshold": 2, "critical_threshold": 3, "enabled": false });
        let loose = json!({ "warningThreshold": 15, "criticalThreshold": 25, "enabled": true });
        let both = json!({ "tools": { "loopDetection": loose }, "security": { "tool_runtime_policy": { "loop_detection": strict } } });
        let merged = settings(both);
        assert_eq!((merged.is_on, merged.warning, merged.critical, merged.breaker), (true, 2, 3, 30));
        let wrong = json!({ "tools": { "loopDetection": { "warningThreshold": 20 } } });
        let issues = Settings::of_document(&wrong).unwrap_err();
        assert_eq!(issues[0].path, "tools.loopDetection.warningThreshold");
        assert!(issues[0].message.contains("must be below criticalThreshold (20)"), "{issues:?}");
        let history = json!({ "tools": { "loopDetection": { "historySize": 1 } } });
        assert!(settings_hold(history), "the breaker can still be reached");
    }

    fn settings_hold(config: Value) -> bool {
        let settings = settings(config);
        settings.history_max >= settings.breaker
    }
}
