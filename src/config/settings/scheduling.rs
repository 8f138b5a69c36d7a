//! How many runs go on at once, and what a message does that arrives while its session is busy: `messages.queue.*`,
//! `runtime.worker_concurrency`, `runtime.max_queue`, `runtime.session_queue_mode`, `runtime.group_activation_mode`, and
//! the lanes' `maxConcurrent` (SES-11 to SES-17).

use std::collections::BTreeMap;

use super::reader::Reader;

/// Runs and what waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// Runs at once in all.
    pub workers: usize,
    /// Messages that wait over all sessions; at least 16.
    pub pending_max: usize,
    /// Runs at once that answer people.
    pub main_max: usize,
    /// Runs at once that other runs started.
    pub subagents_max: usize,
    /// Runs at once that the clock started.
    pub cron_max: usize,
    pub queue: Queue,
    /// When a message in a group is answered, unless its session says otherwise.
    pub group_activation: Activation,
}

/// What a message does that arrives while its session is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It waits its turn.
    Followup,
    /// It reaches the model at the next tool boundary, in place of one that still waits to; else it waits its turn.
    Steer,
    /// It reaches the model at the next tool boundary and has its turn all the same.
    SteerBacklog,
    /// It is answered together with those that wait beside it.
    Collect,
    /// It stops what runs and takes its place.
    Interrupt,
}

/// Which message gives way when too many wait for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest.
    Old,
    /// The one that comes.
    New,
    /// The oldest, and the next turn is told what it said, in a line.
    Summarize,
}

/// When a message in a group is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// When it speaks to the agent.
    Mention,
    /// Always.
    Always,
}

/// What holds for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: Mode,
    pub overflow: Overflow,
    /// Messages that may wait for its session, at least 1.
    pub cap: usize,
    /// Quiet time in milliseconds before messages that are to be collected are taken up; at most [`DEBOUNCE_MS_MAX`].
    pub debounce_ms: i64,
}

/// What a session, or a message itself, wants of its queue; what is `None` it leaves to whoever is asked next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub mode: Option<Mode>,
    pub overflow: Option<Overflow>,
    pub cap: Option<usize>,
    pub debounce_ms: Option<i64>,
}

/// Longest quiet time that is waited for, in milliseconds; longer ones take effect as this.
pub const DEBOUNCE_MS_MAX: i64 = 5 * 60 * 1000;

/// `messages.queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// For whom neither session nor channel says otherwise.
    default: Policy,
    /// By channel, in lower case.
    mode_by_channel: BTreeMap<String, Mode>,
    /// By channel, in lower case; milliseconds.
    debounce_ms_by_channel: BTreeMap<String, i64>,
}

impl Scheduling {
    /// `root` is the document.
    pub(super) fn read(root: &Reader<'_>) -> Scheduling {
        let runtime = root.at("runtime");
        let floor = runtime.text_or_default("session_queue_mode");
        let defaults = root.at("agents.defaults");
        Scheduling {
            workers: runtime.usize("worker_concurrency"),
            pending_max: runtime.usize("max_queue"),
            main_max: defaults.usize("maxConcurrent"),
            subagents_max: defaults.at("subagents").usize("maxConcurrent"),
            cron_max: root.at("cron").usize("maxConcurrentRuns"),
            queue: Queue::read(&root.at("messages.queue"), Mode::parse(&floor).unwrap_or(Mode::Followup)),
            group_activation: Activation::parse(&runtime.text_or_default("group_activation_mode"))
                .unwrap_or(Activation::Mention),
        }
    }
}

impl Queue {
    fn read(queue: &Reader<'_>, floor: Mode) -> Queue {
        let of_mode = |value: &serde_json::Value| value.as_str().and_then(Mode::parse);
        let modes = queue.values("byChannel").into_iter();
        let debounces = queue.values("debounceMsByChannel").into_iter();
        Queue {
            default: Policy {
                mode: queue.text("mode").and_then(|word| Mode::parse(&word)).unwrap_or(floor),
                overflow: Overflow::parse(&queue.text_or_default("drop")).unwrap_or(Overflow::Summarize),
                cap: queue.usize("cap"),
                debounce_ms: queue.int("debounceMs"),
            },
            mode_by_channel: modes.filter_map(|(name, mode)| Some((name.to_lowercase(), of_mode(&mode)?))).collect(),
            debounce_ms_by_channel: debounces
                .filter_map(|(name, ms)| Some((name.to_lowercase(), ms.as_i64()?)))
                .collect(),
        }
    }

    /// What holds for a message from `channel`: its session's wishes, else its channel's settings, else everybody's.
    pub fn policy(&self, channel: Option<&str>, wishes: &Wishes) -> Policy {
        let channel = channel.map(|name| name.trim().to_lowercase()).unwrap_or_default();
        let default = &self.default;
        let debounce_ms = wishes.debounce_ms.or_else(|| self.debounce_ms_by_channel.get(&channel).copied());
        Policy {
            mode: wishes.mode.or_else(|| self.mode_by_channel.get(&channel).copied()).unwrap_or(default.mode),
            overflow: wishes.overflow.unwrap_or(default.overflow),
            cap: wishes.cap.unwrap_or(default.cap).max(1),
            debounce_ms: debounce_ms.unwrap_or(default.debounce_ms).clamp(0, DEBOUNCE_MS_MAX),
        }
    }
}

impl Wishes {
    /// These, and those of `other` where these say nothing.
    pub fn or(self, other: Wishes) -> Wishes {
        Wishes {
            mode: self.mode.or(other.mode),
            overflow: self.overflow.or(other.overflow),
            cap: self.cap.or(other.cap),
            debounce_ms: self.debounce_ms.or(other.debounce_ms),
        }
    }
}

impl Mode {
    /// The mode that a word of either protocol's releases means (SES-12).
    pub fn parse(word: &str) -> Option<Mode> {
        Some(match word.trim().to_lowercase().as_str() {
            "followup" | "followups" | "follow-ups" => Mode::Followup,
            "steer" | "steering" | "queue" | "queued" => Mode::Steer,
            "steer-backlog" | "steer+backlog" | "steer_backlog" => Mode::SteerBacklog,
            "collect" | "coalesce" => Mode::Collect,
            "interrupt" | "interrupts" | "abort" => Mode::Interrupt,
            _ => return None,
        })
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Followup => "followup",
            Mode::Steer => "steer",
            Mode::SteerBacklog => "steer-backlog",
            Mode::Collect => "collect",
            Mode::Interrupt => "interrupt",
        }
    }
}

impl Overflow {
    /// The meaning of a word.
    pub fn parse(word: &str) -> Option<Overflow> {
        Some(match word.trim().to_lowercase().as_str() {
            "old" | "oldest" => Overflow::Old,
            "new" | "newest" => Overflow::New,
            "summarize" | "summary" => Overflow::Summarize,
            _ => return None,
        })
    }
}

impl Activation {
    /// The meaning of a word.
    pub fn parse(word: &str) -> Option<Activation> {
        Some(match word.trim().to_lowercase().as_str() {
            "mention" => Activation::Mention,
            "always" => Activation::Always,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Policy = Policy { mode: Mode::Followup, overflow: Overflow::Summarize, cap: 20, debounce_ms: 1000 };

    #[test]
    fn the_session_speaks_before_the_channel_and_the_channel_before_all() {
        let queue = Queue {
            default: FLOOR,
            mode_by_channel: BTreeMap::from([("slack".to_owned(), Mode::Collect)]),
            debounce_ms_by_channel: BTreeMap::from([("slack".to_owned(), 50)]),
        };
        let none = Wishes::default();
        let session = Wishes { mode: Some(Mode::Interrupt), cap: Some(25), ..none };
        let message = Wishes { mode: Some(Mode::Steer), debounce_ms: Some(i64::MAX), ..none };
        assert_eq!(queue.policy(None, &none), FLOOR);
        assert_eq!(queue.policy(Some("discord"), &none), FLOOR);
        let slack = Policy { mode: Mode::Collect, debounce_ms: 50, ..FLOOR };
        assert_eq!(queue.policy(Some(" Slack "), &none), slack);
        assert_eq!(queue.policy(Some("slack"), &session), Policy { mode: Mode::Interrupt, cap: 25, ..slack });
        let both = Policy { mode: Mode::Steer, cap: 25, debounce_ms: DEBOUNCE_MS_MAX, ..FLOOR };
        assert_eq!(queue.policy(Some("slack"), &message.or(session)), both);
        assert_eq!(queue.policy(None, &Wishes { cap: Some(0), debounce_ms: Some(-5), ..none }).cap, 1);
        assert_eq!(queue.policy(None, &Wishes { debounce_ms: Some(-5), ..none }).debounce_ms, 0);
    }

    #[test]
    fn words_of_all_releases_are_understood() {
        for (word, mode) in [
            ("queue", Mode::Steer),
            (" Steer ", Mode::Steer),
            ("steer+backlog", Mode::SteerBacklog),
            ("steer-backlog", Mode::SteerBacklog),
            ("followup", Mode::Followup),
            ("coalesce", Mode::Collect),
            ("abort", Mode::Interrupt),
        ] {
            assert_eq!(Mode::parse(word), Some(mode), "{word}");
            assert_eq!(Mode::parse(mode.as_str()), Some(mode), "{word}");
        }
        assert_eq!(Mode::parse("later"), None);
        assert_eq!(Overflow::parse("Oldest"), Some(Overflow::Old));
        assert_eq!(Overflow::parse("none"), None);
        assert_eq!(Activation::parse("always"), Some(Activation::Always));
        assert_eq!(Activation::parse("never"), None);
    }
}
