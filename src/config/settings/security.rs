//! `security.*`: what the defender is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::reader::Reader;

/// Longest time something is kept: a century, so that times in milliseconds stay far from their limits.
const DAYS_MAX: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);

/// The defender's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// Score from which a decision is `review`, 0 to 100; below `block_threshold`.
    pub review_threshold: u8,
    /// Score from which a decision is `block`, 0 to 100.
    pub block_threshold: u8,
    /// Regular expressions, case-insensitive; each compiles.
    pub prompt_injection_patterns: Vec<String>,
    /// Regular expressions, case-insensitive; each compiles.
    pub blocked_command_patterns: Vec<String>,
    /// Commands that begin so are known; a trailing space matters.
    pub allowed_command_prefixes: Vec<String>,
    /// Least action by tool.
    pub tool_policies: BTreeMap<String, ToolPolicy>,
    /// Added to the score by tool.
    pub tool_risk_bonus: BTreeMap<String, u8>,
    /// Added to the score by channel.
    pub channel_risk_bonus: BTreeMap<String, u8>,
    pub quarantine_dir: PathBuf,
    /// How long a blocked message stays there.
    pub quarantine_age_max: Duration,
    /// Bytes of all of them together.
    pub quarantine_bytes_max: u64,
    /// How long the audit trail is kept.
    pub audit_kept: Duration,
}

/// The least that happens to a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolPolicy {
    Allow,
    Review,
    Block,
}

impl Security {
    pub(super) fn read(security: &Reader<'_>, state_dir: &Path) -> Security {
        Security {
            review_threshold: security.int("review_threshold") as u8,
            block_threshold: security.int("block_threshold") as u8,
            prompt_injection_patterns: security.texts("prompt_injection_patterns"),
            blocked_command_patterns: security.texts("blocked_command_patterns"),
            allowed_command_prefixes: security.texts("allowed_command_prefixes"),
            tool_policies: security
                .values("tool_policies")
                .into_iter()
                .map(|(tool, word)| (tool, policy(&word)))
                .collect(),
            tool_risk_bonus: bonuses(security, "tool_risk_bonus"),
            channel_risk_bonus: bonuses(security, "channel_risk_bonus"),
            quarantine_dir: security.path("quarantine_dir").unwrap_or_else(|| state_dir.join("quarantine")),
            quarantine_age_max: days(security.int("quarantine_retention.max_age_days")),
            quarantine_bytes_max: u64::try_from(security.int("quarantine_retention.max_bytes")).unwrap_or(0),
            audit_kept: days(security.int("audit.retention_days")),
        }
    }
}

/// No number of days is too large to reckon with.
fn days(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0).saturating_mul(24 * 60 * 60)).min(DAYS_MAX)
}

fn policy(word: &Value) -> ToolPolicy {
    match word.as_str() {
        Some("allow") => ToolPolicy::Allow,
        Some("review") => ToolPolicy::Review,
        // Validation lets no other word through; were there one, the strictest reading would be the safe one.
        _ => ToolPolicy::Block,
    }
}

fn bonuses(security: &Reader<'_>, path: &str) -> BTreeMap<String, u8> {
    let bonus = |value: Value| value.as_f64().unwrap_or_default().clamp(0.0, 255.0) as u8;
    security.values(path).into_iter().map(|(name, value)| (name, bonus(value))).collect()
}
