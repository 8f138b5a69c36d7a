//! `runtime.*`, `store.*`, `logging.*`.

use std::path::{Path, PathBuf};
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
    /// Run workers and defender permits.
    pub worker_concurrency: usize,
    /// Pending items over all sessions.
    pub max_queue: usize,
    /// Deadline of one judgement.
    pub eval_timeout: Duration,
    /// How long an answered key is remembered.
    pub idempotency_ttl: Duration,
    /// Most answered keys remembered.
    pub idempotency_max_entries: usize,
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
            worker_concurrency: runtime.usize("worker_concurrency"),
            max_queue: runtime.usize("max_queue"),
            eval_timeout: runtime.ms("eval_timeout_ms"),
            idempotency_ttl: runtime.secs("idempotency_ttl_secs"),
            idempotency_max_entries: runtime.usize("idempotency_max_entries"),
            memory_sample: runtime.secs("memory_sample_secs"),
            allow_public_bind_without_auth: runtime.flag("allow_public_bind_without_auth"),
        }
    }
}

/// The database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub path: PathBuf,
    /// Page cache of each connection, in KiB.
    pub cache_kib: u32,
    pub busy_timeout: Duration,
}

impl Store {
    pub(super) fn read(store: &Reader<'_>, state_dir: &Path) -> Store {
        Store {
            path: store.path("path").unwrap_or_else(|| state_dir.join("openclaw-rs.db")),
            cache_kib: u32::try_from(store.int("cache_kib")).unwrap_or(u32::MAX),
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
    /// Whether what looks like a secret is replaced in tool output.
    pub redact_tools: bool,
    /// What looks like one; `None`: the built-in set.
    pub redact_patterns: Option<Vec<String>>,
}

impl Logging {
    pub(super) fn read(logging: &Reader<'_>) -> Logging {
        let level = level(&logging.text_or_default("level"));
        Logging {
            level,
            console_level: logging.text("consoleLevel").map_or(level, |word| self::level(&word)).min(level),
            file: logging.path("file"),
            redact_tools: logging.text_or_default("redactSensitive") == "tools",
            redact_patterns: logging.texts_if_set("redactPatterns"),
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
