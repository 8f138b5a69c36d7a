//! The rules in force, and the evaluation of one action against them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::decision::{Action, Decision, SCORE_MAX, Tally, Thresholds, tag};
use super::fold::{fold, fold_command, fold_prose_into};
use super::leaks::{self, AWS_SECRET_ASSIGNMENT, DEFAULT_LEAK_PATTERNS, PEM_BLOCK, PEM_PRIVATE_KEY};
use super::paths::{Standing, standing};
use super::patterns::{Case, Origin, PATTERNS_MAX, PatternSet, View};
use super::request::ActionRequest;
use super::shell;

/// `security.prompt_injection_patterns` unless configured (DEF-10), and what the input safety layer looks for (DEF-12).
pub const DEFAULT_PROMPT_PATTERNS: &[&str] = &[
    r"ignore\s+all\s+previous\s+instructions",
    r"reveal\s+the\s+system\s+prompt",
    r"override\s+developer\s+instructions",
    r"disable\s+safety",
];

/// `security.blocked_command_patterns` unless configured (DEF-15).
pub const DEFAULT_COMMAND_PATTERNS: &[&str] =
    &[r"\brm\s+-rf\s+/", r"\bmkfs\b", r"\bdd\s+if=", r"\bcurl\s+[^|]*\|\s*sh\b", r"\bwget\s+[^|]*\|\s*sh\b"];

/// `security.allowed_command_prefixes` unless configured (DEF-17).
pub const DEFAULT_COMMAND_PREFIXES: &[&str] = &["git ", "ls", "rg "];

/// A prompt of more characters is oversized (DEF-11).
pub const PROMPT_CHARS_MAX: usize = 32_000;
/// Most bytes of a pattern that a reason quotes.
const REASON_PATTERN_BYTES_MAX: usize = 120;

/// The settings that decide, as plain values. `Default` is the reference's defaults (configuration reference, section
/// 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInputs {
    /// `security.review_threshold`: scores from here on are reviewed. 0 to 100, below `block_threshold`.
    pub review_threshold: u8,
    /// `security.block_threshold`: scores from here on are blocked. 0 to 100.
    pub block_threshold: u8,
    pub prompt_injection_patterns: Vec<String>,
    pub blocked_command_patterns: Vec<String>,
    pub allowed_command_prefixes: Vec<String>,
    /// Least action for a tool.
    pub tool_policies: BTreeMap<String, Action>,
    pub tool_risk_bonus: BTreeMap<String, u8>,
    pub channel_risk_bonus: BTreeMap<String, u8>,
    /// `tool_runtime_policy.safety.enabled`.
    pub safety_enabled: bool,
    pub leak_patterns: Vec<String>,
    pub leak_action: Action,
    /// What a credential is replaced by; not empty.
    pub redaction_token: String,
    /// `runtime.audit_only`: blocks become reviews.
    pub audit_only: bool,
}

impl Default for RuleInputs {
    fn default() -> RuleInputs {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let bonus = |items: &[(&str, u8)]| items.iter().map(|&(name, points)| (name.to_owned(), points)).collect();
        RuleInputs {
            review_threshold: 35,
            block_threshold: 65,
            prompt_injection_patterns: list(DEFAULT_PROMPT_PATTERNS),
            blocked_command_patterns: list(DEFAULT_COMMAND_PATTERNS),
            allowed_command_prefixes: list(DEFAULT_COMMAND_PREFIXES),
            tool_policies: BTreeMap::new(),
            tool_risk_bonus: bonus(&[
                ("exec", 20),
                ("bash", 20),
                ("process", 10),
                ("apply_patch", 12),
                ("browser", 8),
                ("gateway", 20),
                ("nodes", 20),
            ]),
            channel_risk_bonus: bonus(&[
                ("discord", 10),
                ("slack", 8),
                ("telegram", 6),
                ("whatsapp", 6),
                ("webchat", 8),
            ]),
            safety_enabled: true,
            leak_patterns: list(DEFAULT_LEAK_PATTERNS),
            leak_action: Action::Review,
            redaction_token: "[REDACTED_SECRET]".to_owned(),
            audit_only: false,
        }
    }
}

/// Why settings cannot be rules.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// A configured expression does not compile, or is too big.
    #[error("{key}[{index}] is not a usable pattern: {reason}: {pattern}")]
    Pattern { key: &'static str, index: usize, pattern: String, reason: String },
    /// A list is longer than the limit.
    #[error("{key} has {count} entries, more than {max}")]
    TooMany { key: &'static str, count: usize, max: usize },
    /// An empty entry would match everything.
    #[error("{key}[{index}] is empty")]
    EmptyEntry { key: &'static str, index: usize },
    #[error("security.review_threshold ({review}) is not below security.block_threshold ({block})")]
    ThresholdOrder { review: u8, block: u8 },
    #[error("security.block_threshold ({block}) is more than {SCORE_MAX}")]
    ThresholdRange { block: u8 },
    #[error("security.tool_runtime_policy.credentials.redaction_token is empty")]
    EmptyRedactionToken,
}

/// The compiled rules: immutable, shared by all workers (`Arc<Rules>`), replaced as a whole on reload.
#[derive(Debug)]
pub struct Rules {
    thresholds: Thresholds,
    audit_only: bool,
    safety_enabled: bool,
    prompt: PromptRules,
    command: CommandRules,
    leak: LeakRules,
    tool_policies: BTreeMap<String, Action>,
    tool_risk_bonus: BTreeMap<String, u8>,
    channel_risk_bonus: BTreeMap<String, u8>,
}

/// Expressions by what they mean; the numbers index `set`.
#[derive(Debug)]
struct PromptRules {
    set: PatternSet,
    injection: Vec<usize>,
    exfiltration: Vec<usize>,
    approval_bypass: Vec<usize>,
    safety: SafetyRules,
}

#[derive(Debug)]
struct CommandRules {
    set: PatternSet,
    blocked: Vec<usize>,
    sudo: usize,
    fetchers: Vec<usize>,
    safety: SafetyRules,
    allowed_prefixes: Vec<String>,
}

/// The input safety layer (DEF-12), inside the set of the stage it belongs to.
#[derive(Debug)]
struct SafetyRules {
    review: Vec<usize>,
    block: Vec<usize>,
}

#[derive(Debug)]
struct LeakRules {
    /// Configured expressions, and ours for private keys and AWS secrets, which are masked whatever is configured.
    set: PatternSet,
    configured: Vec<usize>,
    safety_block: Vec<usize>,
    action: Action,
    redaction_token: String,
}

impl Rules {
    /// Makes rules of settings. Configured expressions are compiled here, built-in ones when first needed.
    ///
    /// # Errors
    /// The first setting that cannot be used, by its key.
    pub fn compile(inputs: &RuleInputs) -> Result<Rules, RuleError> {
        let (review, block) = (inputs.review_threshold, inputs.block_threshold);
        if review >= block {
            return Err(RuleError::ThresholdOrder { review, block });
        }
        if block > SCORE_MAX {
            return Err(RuleError::ThresholdRange { block });
        }
        if inputs.redaction_token.is_empty() {
            return Err(RuleError::EmptyRedactionToken);
        }
        let lower = |name: &String| name.trim().to_ascii_lowercase();
        Ok(Rules {
            thresholds: Thresholds { review, block },
            audit_only: inputs.audit_only,
            safety_enabled: inputs.safety_enabled,
            prompt: PromptRules::compile(inputs)?,
            command: CommandRules::compile(inputs)?,
            leak: LeakRules::compile(inputs)?,
            tool_policies: inputs.tool_policies.iter().map(|(name, &action)| (lower(name), action)).collect(),
            tool_risk_bonus: inputs.tool_risk_bonus.iter().map(|(name, &points)| (lower(name), points)).collect(),
            channel_risk_bonus: inputs.channel_risk_bonus.iter().map(|(name, &points)| (lower(name), points)).collect(),
        })
    }

    /// Judges one action; pure, and linear in the length of its texts. `expired` says whether the deadline has passed
    /// and is asked between stages. A block that is certain by then stands; anything else becomes
    /// [`Decision::timeout`].
    pub fn evaluate(&self, request: &ActionRequest, expired: impl Fn() -> bool) -> Decision {
        type Stage = fn(&Rules, &ActionRequest, &mut Tally);
        // The order of DEF-02.
        const STAGES: [Stage; 7] = [
            Rules::judge_prompt,
            Rules::judge_command,
            Rules::judge_tool,
            Rules::judge_channel,
            Rules::judge_secret,
            Rules::judge_url,
            Rules::judge_file,
        ];
        let mut tally = Tally::default();
        for stage in STAGES {
            if expired() {
                let so_far = tally.decide(self.thresholds, self.audit_only);
                return if so_far.action == Action::Block { so_far } else { Decision::timeout() };
            }
            stage(self, request, &mut tally);
        }
        tally.decide(self.thresholds, self.audit_only)
    }

    /// `text` with every credential in it replaced by the redaction token, and how many were replaced (DEF-57).
    pub fn scrub<'t>(&self, text: &'t str) -> (Cow<'t, str>, usize) {
        let spans = self.leak.set.spans(text);
        if spans.is_empty() {
            return (Cow::Borrowed(text), 0);
        }
        let (text, n_replaced) = leaks::replace(text, spans, &self.leak.redaction_token);
        (Cow::Owned(text), n_replaced)
    }

    fn judge_prompt(&self, request: &ActionRequest, tally: &mut Tally) {
        let Some(prompt) = &request.prompt else { return };
        let rules = &self.prompt;
        let (text, counts_after) = match &request.preceding {
            None => (fold(prompt), 0),
            Some(preceding) => {
                let mut joined = String::with_capacity(preceding.len() + 1 + prompt.len());
                fold_prose_into(preceding, &mut joined);
                fold_prose_into(" ", &mut joined);
                let counts_after = joined.len();
                fold_prose_into(prompt, &mut joined);
                (Cow::Owned(joined), counts_after)
            }
        };
        // The text as it was sent is looked at too: an expression may ask for what folding takes away.
        let views = [View { counts_after, ..View::of(&text) }, View::original(prompt)];
        let n_views = if matches!(text, Cow::Borrowed(_)) { 1 } else { 2 };
        let found = rules.set.matches(&views[..n_views]);
        for index in in_order(&rules.injection, &found) {
            let reason = format!("prompt matches injection pattern {}", short(rules.set.source(index)));
            tally.add(18, Action::Allow, tag::PROMPT_INJECTION, reason);
        }
        if any(&rules.exfiltration, &found) {
            tally.add(
                14,
                Action::Allow,
                tag::PROMPT_EXFILTRATION,
                "prompt speaks of the system prompt or its instructions",
            );
        }
        if any(&rules.approval_bypass, &found) {
            tally.add(14, Action::Allow, tag::APPROVAL_BYPASS, "prompt asks to go on without approval");
        }
        if prompt.len() > PROMPT_CHARS_MAX && prompt.chars().nth(PROMPT_CHARS_MAX).is_some() {
            tally.add(
                8,
                Action::Allow,
                tag::OVERSIZED_PAYLOAD,
                format!("prompt has more than {PROMPT_CHARS_MAX} characters"),
            );
        }
        self.judge_safety("prompt", &rules.set, &rules.safety, &found, tally);
    }

    fn judge_command(&self, request: &ActionRequest, tally: &mut Tally) {
        let Some(command) = &request.command else { return };
        let rules = &self.command;
        let folded = fold_command(command);
        let reading = shell::read(&folded);
        let views = [View::of(&reading.canonical), View::of(&folded), View::original(command)];
        let n_views = if matches!(folded, Cow::Borrowed(_)) { 2 } else { 3 };
        let found = rules.set.matches(&views[..n_views]);
        for index in in_order(&rules.blocked, &found) {
            let reason = format!("command matches blocked pattern {}", short(rules.set.source(index)));
            tally.add(80, Action::Allow, tag::BLOCKED_COMMAND_PATTERN, reason);
        }
        if reading.elevated || found.contains(&rules.sudo) {
            tally.add(18, Action::Allow, tag::PRIVILEGE_ESCALATION, "command runs with raised privileges");
        }
        if reading.pipes && any(&rules.fetchers, &found) {
            tally.add(22, Action::Allow, tag::REMOTE_PIPE_EXEC, "command pipes a download");
        }
        let allowed = |segment: &str| {
            let starts_with =
                |prefix: &String| segment.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
            rules.allowed_prefixes.iter().any(starts_with)
        };
        let mut segments = reading.segments.iter().map(|range| folded[range.clone()].trim());
        if segments.any(|segment| !segment.is_empty() && !segment.starts_with('#') && !allowed(segment)) {
            tally.add(20, Action::Allow, tag::NOT_IN_ALLOWLIST, "command or a part of it is not on the allow list");
        }
        if reading.unreadable {
            tally.add(35, Action::Review, tag::COMMAND_UNREADABLE, "command is nested deeper than it is read");
        }
        self.judge_safety("command", &rules.set, &rules.safety, &found, tally);
    }

    fn judge_safety(&self, part: &str, set: &PatternSet, safety: &SafetyRules, found: &[usize], tally: &mut Tally) {
        if !self.safety_enabled {
            return;
        }
        for index in in_order(&safety.review, found) {
            let reason = format!("safety layer: {part} matches {}", short(set.source(index)));
            tally.add(15, Action::Review, tag::SAFETY_LAYER_REVIEW, reason);
        }
        for _ in in_order(&safety.block, found) {
            tally.add(
                40,
                Action::Block,
                tag::SAFETY_LAYER_BLOCK,
                format!("safety layer: {part} holds a private key or secret"),
            );
        }
    }

    fn judge_tool(&self, request: &ActionRequest, tally: &mut Tally) {
        let Some(tool) = &request.tool else { return };
        let tool = tool.trim().to_ascii_lowercase();
        if let Some(&points) = self.tool_risk_bonus.get(&tool) {
            tally.add(points, Action::Allow, tag::TOOL_RISK_BONUS, format!("risk of tool {tool}"));
        }
        if let Some(&action) = self.tool_policies.get(&tool) {
            tally.add(0, action, tag::TOOL_POLICY, format!("policy of tool {tool}: at least {}", action.as_str()));
        }
    }

    fn judge_channel(&self, request: &ActionRequest, tally: &mut Tally) {
        let Some(channel) = &request.channel else { return };
        let channel = channel.trim().to_ascii_lowercase();
        if let Some(&points) = self.channel_risk_bonus.get(&channel) {
            tally.add(points, Action::Allow, tag::CHANNEL_RISK_BONUS, format!("risk of channel {channel}"));
        }
    }

    fn judge_secret(&self, request: &ActionRequest, tally: &mut Tally) {
        if let Some(text) = &request.secret {
            self.judge_leaks("text", text, tally);
        }
    }

    fn judge_url(&self, request: &ActionRequest, tally: &mut Tally) {
        let Some(url) = &request.url else { return };
        if has_password(url) {
            tally.add(30, Action::Review, tag::URL_CREDENTIALS, "url carries a user name and a password");
        } else {
            self.judge_leaks("url", url, tally);
        }
    }

    fn judge_file(&self, request: &ActionRequest, tally: &mut Tally) {
        if let Some(file) = &request.file {
            self.judge_leaks("file", file, tally);
        }
        if request.writes.iter().any(|path| standing(path) == Standing::Trusted) {
            let reason = "changes a file that other programs run or believe, or a skill";
            tally.add(35, Action::Review, tag::PROTECTED_PATH, reason);
        }
    }

    fn judge_leaks(&self, part: &str, text: &str, tally: &mut Tally) {
        let rules = &self.leak;
        let found = rules.set.matches(&[View::of(text)]);
        for index in in_order(&rules.configured, &found) {
            let real = |(start, end): (usize, usize)| !leaks::is_placeholder(&text[start..end]);
            // Only for our own expressions: what an operator asks for may well look like this.
            if rules.set.is_built_in(index) && !rules.set.spans_of(index, text).any(real) {
                continue;
            }
            tally.add(30, rules.action, tag::LEAK_DETECTION, format!("{part} holds what looks like a credential"));
        }
        if self.safety_enabled && any(&rules.safety_block, &found) {
            tally.add(
                40,
                Action::Block,
                tag::SAFETY_LAYER_BLOCK,
                format!("safety layer: {part} holds a private key or secret"),
            );
        }
    }
}

impl PromptRules {
    fn compile(inputs: &RuleInputs) -> Result<PromptRules, RuleError> {
        let mut set = PatternSet::default();
        Ok(PromptRules {
            injection: push_configured(
                &mut set,
                "security.prompt_injection_patterns",
                &inputs.prompt_injection_patterns,
                Case::Ignored,
                DEFAULT_PROMPT_PATTERNS,
            )?,
            exfiltration: push_ours(&mut set, &["system prompt", "developer instructions"]),
            approval_bypass: push_ours(&mut set, &["without asking", "do not ask for approval"]),
            safety: SafetyRules::push(&mut set),
            set,
        })
    }
}

impl CommandRules {
    fn compile(inputs: &RuleInputs) -> Result<CommandRules, RuleError> {
        let prefixes = &inputs.allowed_command_prefixes;
        let key = "security.allowed_command_prefixes";
        if let Some(index) = prefixes.iter().position(String::is_empty) {
            return Err(RuleError::EmptyEntry { key, index });
        }
        if prefixes.len() > PATTERNS_MAX {
            return Err(RuleError::TooMany { key, count: prefixes.len(), max: PATTERNS_MAX });
        }
        let mut set = PatternSet::default();
        Ok(CommandRules {
            blocked: push_configured(
                &mut set,
                "security.blocked_command_patterns",
                &inputs.blocked_command_patterns,
                Case::Ignored,
                DEFAULT_COMMAND_PATTERNS,
            )?,
            sudo: push_ours(&mut set, &[r"\bsudo\s"])[0],
            fetchers: push_ours(&mut set, &["curl", "wget"]),
            safety: SafetyRules::push(&mut set),
            set,
            allowed_prefixes: prefixes.clone(),
        })
    }
}

impl SafetyRules {
    fn push(set: &mut PatternSet) -> SafetyRules {
        SafetyRules {
            review: push_ours(set, DEFAULT_PROMPT_PATTERNS),
            block: push_ours(set, &[PEM_PRIVATE_KEY, AWS_SECRET_ASSIGNMENT]),
        }
    }
}

impl LeakRules {
    fn compile(inputs: &RuleInputs) -> Result<LeakRules, RuleError> {
        let mut set = PatternSet::default();
        let key = "security.tool_runtime_policy.credentials.leak_patterns";
        Ok(LeakRules {
            configured: push_configured(&mut set, key, &inputs.leak_patterns, Case::Exact, DEFAULT_LEAK_PATTERNS)?,
            safety_block: [PEM_BLOCK, AWS_SECRET_ASSIGNMENT]
                .map(|source| push_our(&mut set, source, Case::Exact))
                .into(),
            set,
            action: inputs.leak_action,
            redaction_token: inputs.redaction_token.clone(),
        })
    }
}

fn push_configured(
    set: &mut PatternSet,
    key: &'static str,
    patterns: &[String],
    case: Case,
    built_in: &[&str],
) -> Result<Vec<usize>, RuleError> {
    if patterns.len() > PATTERNS_MAX {
        return Err(RuleError::TooMany { key, count: patterns.len(), max: PATTERNS_MAX });
    }
    let push = |(index, pattern): (usize, &String)| {
        if pattern.is_empty() {
            return Err(RuleError::EmptyEntry { key, index });
        }
        let origin = if built_in.contains(&pattern.as_str()) { Origin::BuiltIn } else { Origin::Configured };
        set.push(pattern, case, origin).map_err(|reason| RuleError::Pattern {
            key,
            index,
            pattern: short(pattern).into_owned(),
            reason,
        })
    };
    patterns.iter().enumerate().map(push).collect()
}

fn push_ours(set: &mut PatternSet, sources: &[&str]) -> Vec<usize> {
    sources.iter().map(|source| push_our(set, source, Case::Ignored)).collect()
}

fn push_our(set: &mut PatternSet, source: &str, case: Case) -> usize {
    set.push(source, case, Origin::BuiltIn).expect("our own patterns are short and are not compiled here")
}

fn in_order<'a>(rules: &'a [usize], found: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    rules.iter().copied().filter(|index| found.contains(index))
}

fn any(rules: &[usize], found: &[usize]) -> bool {
    in_order(rules, found).next().is_some()
}

/// `pattern`, cut to what a reason may quote.
fn short(pattern: &str) -> Cow<'_, str> {
    if pattern.len() <= REASON_PATTERN_BYTES_MAX {
        return Cow::Borrowed(pattern);
    }
    Cow::Owned(format!("{}…", &pattern[..pattern.floor_char_boundary(REASON_PATTERN_BYTES_MAX)]))
}

/// `scheme://user:password@host`
fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((user_info, _)) = authority.rsplit_once('@') else { return false };
    user_info.split_once(':').is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests;
