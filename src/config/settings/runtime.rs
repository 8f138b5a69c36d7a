//! `runtime.*`, `store.*`, `logging.*`.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::reader::Reader;

/// Workers, queues and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Blocks become reviews.
    pub audit_only: bool,
    /// Name of the event that carries a decision.
    pub decision_event: String,
    /// Deadline of one judgement.
    pub eval_timeout: Duration,
    /// Interval of resident-memory samples.
    pub memory_sample: Duration,
    /// Break-glass: listen beyond loopback without authentication.
    pub allow_public_bind_without_auth: bool,
}

impl Runtime {
    pub(super) fn read(runtime: &Reader<'_>) -> Runtime {
        Runtime {
            audit_only: runtime.flag("audit_only"),
            decision_event: runtime.text_or_default("decision_event"),
            eval_timeout: runtime.ms("eval_timeout_ms"),
            memory_sample: runtime.secs("memory_sample_secs"),
            allow_public_bind_without_auth: runtime.flag("allow_public_bind_without_auth"),
        }
    }
}

/// The database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Page cache of each connection, in KiB; `None`: the store's own sizes.
    pub cache_kib: Option<u32>,
    /// How long a statement waits for another process.
    pub busy_timeout: Duration,
}

impl Store {
    pub(super) fn read(store: &Reader<'_>) -> Store {
        Store {
            cache_kib: store.int_if_set("cache_kib").and_then(|kib| u32::try_from(kib).ok()),
            busy_timeout: store.ms("busy_timeout_ms"),
        }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    pub level: LevelFilter,
    /// How much reaches the terminal; never more than `level`.
    pub console_level: LevelFilter,
    /// `None`: the one in the state directory.
    pub file: Option<PathBuf>,
}

impl Logging {
    pub(super) fn read(logging: &Reader<'_>) -> Logging {
        let level = level(&logging.text_or_default("level"));
        Logging {
            level,
            console_level: logging.text("consoleLevel").map_or(level, |word| self::level(&word)).min(level),
            file: logging.path("file"),
        }
    }
}

/// Upstream's words; `fatal` has no level of its own here.
fn level(word: &str) -> LevelFilter {
    match word {
        "silent" => LevelFilter::Off,
        "fatal" | "error" => LevelFilter::Error,
        "warn" => LevelFilter::Warn,
        "debug" => LevelFilter::Debug,
        "trace" => LevelFilter::Trace,
        _ => LevelFilter::Info,
    }
}
