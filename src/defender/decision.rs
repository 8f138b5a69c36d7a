//! What was decided about one action, and how the parts of a decision add up.

/// What may happen to an action; ordered from mild to strict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It goes on.
    #[default]
    Allow,
    /// It waits for a person where one can be asked.
    Review,
    /// It is not carried out, is quarantined, and the caller is told.
    Block,
}

impl Action {
    /// The word used on the wire and in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Review => "review",
            Action::Block => "block",
        }
    }

    /// Reads the word used on the wire and in configuration.
    pub fn parse(word: &str) -> Option<Action> {
        [Action::Allow, Action::Review, Action::Block].into_iter().find(|action| action.as_str() == word)
    }
}

/// `source` of every decision made here (GW-64).
pub const SOURCE: &str = "openclaw-rs";
/// Highest risk score that is shown.
pub const SCORE_MAX: u8 = 100;
/// Most reasons in one decision; of further ones only the number is kept.
pub const REASONS_MAX: usize = 32;
/// Risk of an action that could not be judged in time (DEF-05).
const TIMEOUT_SCORE: u8 = 60;
/// Risk of an action that could not be judged at all (DEF-06).
const RUNTIME_ERROR_SCORE: u8 = 50;

/// Names that decisions are tagged with; counted by metrics, so never renamed.
pub mod tag {
    pub const PROMPT_INJECTION: &str = "prompt_injection";
    pub const PROMPT_EXFILTRATION: &str = "prompt_exfiltration";
    pub const APPROVAL_BYPASS: &str = "approval_bypass";
    pub const OVERSIZED_PAYLOAD: &str = "oversized_payload";
    pub const SAFETY_LAYER_REVIEW: &str = "safety_layer_review";
    pub const SAFETY_LAYER_BLOCK: &str = "safety_layer_block";
    pub const BLOCKED_COMMAND_PATTERN: &str = "blocked_command_pattern";
    pub const PRIVILEGE_ESCALATION: &str = "privilege_escalation";
    pub const REMOTE_PIPE_EXEC: &str = "remote_pipe_exec";
    pub const NOT_IN_ALLOWLIST: &str = "not_in_allowlist";
    /// Substitutions or nested shells deeper than the reader follows; ours, not the reference's.
    pub const COMMAND_UNREADABLE: &str = "command_unreadable";
    pub const TOOL_POLICY: &str = "tool_policy";
    pub const TOOL_RISK_BONUS: &str = "tool_risk_bonus";
    pub const CHANNEL_RISK_BONUS: &str = "channel_risk_bonus";
    pub const LEAK_DETECTION: &str = "leak_detection";
    /// A user name with a password in a URL; ours, not the reference's.
    pub const URL_CREDENTIALS: &str = "url_credentials";
    /// A file that is run or believed is changed ([`super::super::paths`]); ours, not the reference's.
    pub const PROTECTED_PATH: &str = "protected_path";
    pub const AUDIT_ONLY: &str = "audit_only";
    pub const TIMEOUT: &str = "timeout";
    pub const RUNTIME_ERROR: &str = "runtime_error";
    pub const IDEMPOTENCY_HIT: &str = "idempotency_hit";
}

/// The verdict on one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub action: Action,
    /// 0 to [`SCORE_MAX`].
    pub risk_score: u8,
    /// Sentences for people, in the order of evaluation (DEF-02). They name rules and never quote the judged text.
    pub reasons: Vec<String>,
    /// Names for programs, in the same order, each once.
    pub tags: Vec<&'static str>,
    /// Who decided: [`SOURCE`].
    pub source: &'static str,
}

impl Decision {
    /// That of words which the program itself made of nothing that anybody said.
    pub fn allowed() -> Decision {
        Decision { action: Action::Allow, risk_score: 0, reasons: Vec::new(), tags: Vec::new(), source: SOURCE }
    }

    /// The answer when the deadline passed first (DEF-05).
    pub fn timeout() -> Decision {
        Decision::unjudged(TIMEOUT_SCORE, tag::TIMEOUT, "timeout")
    }

    /// The answer when the evaluation queue has no room (DEF-06).
    pub fn queue_full() -> Decision {
        Decision::unjudged(RUNTIME_ERROR_SCORE, tag::RUNTIME_ERROR, "queue_full")
    }

    /// The answer when the evaluation failed (DEF-06).
    pub fn failed() -> Decision {
        Decision::unjudged(RUNTIME_ERROR_SCORE, tag::RUNTIME_ERROR, "evaluation failed")
    }

    /// The same decision as a repeated request gets it (DEF-75).
    #[must_use]
    pub fn repeated(mut self) -> Decision {
        self.tags.push(tag::IDEMPOTENCY_HIT);
        self.reasons.push(tag::IDEMPOTENCY_HIT.to_owned());
        self
    }

    /// Whether it says that nothing could be judged, for want of time or room, and nothing of the action itself.
    pub fn is_unjudged(&self) -> bool {
        self.tags.iter().any(|tag| matches!(*tag, tag::TIMEOUT | tag::RUNTIME_ERROR))
    }

    fn unjudged(risk_score: u8, tag: &'static str, reason: &str) -> Decision {
        Decision {
            action: Action::Review,
            risk_score,
            reasons: vec![reason.to_owned()],
            tags: vec![tag],
            source: SOURCE,
        }
    }
}

/// Score limits between the three actions (DEF-03).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thresholds {
    pub(super) review: u8,
    pub(super) block: u8,
}

/// A decision in the making: stages add to it in the order of DEF-02.
#[derive(Debug, Default)]
pub(super) struct Tally {
    score: u8,
    minimum: Action,
    reasons: Vec<String>,
    reasons_left_out: usize,
    tags: Vec<&'static str>,
}

impl Tally {
    /// A rule spoke: `points` more, at least `minimum`.
    pub(super) fn add(&mut self, points: u8, minimum: Action, tag: &'static str, reason: impl Into<String>) {
        self.score = self.score.saturating_add(points);
        self.minimum = self.minimum.max(minimum);
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(reason.into());
        } else {
            self.reasons_left_out += 1;
        }
    }

    /// Classifies (DEF-03), and softens a block where only auditing is wanted (DEF-04).
    pub(super) fn decide(mut self, thresholds: Thresholds, audit_only: bool) -> Decision {
        let by_score = match self.score {
            score if score >= thresholds.block => Action::Block,
            score if score >= thresholds.review => Action::Review,
            _ => Action::Allow,
        };
        let mut action = by_score.max(self.minimum);
        if self.reasons_left_out > 0 {
            self.reasons.push(format!("and {} more", self.reasons_left_out));
        }
        if audit_only && action == Action::Block {
            action = Action::Review;
            self.tags.push(tag::AUDIT_ONLY);
            let kind = if by_score == Action::Block { "score" } else { "policy" };
            self.reasons.push(format!("audit only: a block by {kind} became a review"));
        }
        Decision {
            action,
            risk_score: self.score.min(SCORE_MAX),
            reasons: self.reasons,
            tags: self.tags,
            source: SOURCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: Thresholds = Thresholds { review: 35, block: 65 };

    fn decide(points: &[u8], minimum: Action, audit_only: bool) -> Decision {
        let mut tally = Tally::default();
        for &p in points {
            tally.add(p, minimum, tag::PROMPT_INJECTION, "because");
        }
        tally.decide(SHIPPED, audit_only)
    }

    #[test]
    fn scores_at_the_limits_classify_upward() {
        let action = |points| decide(&[points], Action::Allow, false).action;
        assert_eq!([34, 35, 64, 65].map(action), [Action::Allow, Action::Review, Action::Review, Action::Block]);
    }

    #[test]
    fn adding_saturates_and_the_shown_score_stops_at_100() {
        let decision = decide(&[200, 200], Action::Allow, false);
        assert_eq!((decision.risk_score, decision.action), (100, Action::Block));
        assert_eq!(decision.tags, [tag::PROMPT_INJECTION]);
    }

    #[test]
    fn a_minimum_raises_and_never_lowers() {
        assert_eq!(decide(&[1], Action::Block, false).action, Action::Block);
        assert_eq!(decide(&[90], Action::Review, false).action, Action::Block);
    }

    #[test]
    fn audit_only_turns_blocks_into_reviews_and_says_which_kind() {
        let by_score = decide(&[80], Action::Allow, true);
        assert_eq!((by_score.action, by_score.risk_score), (Action::Review, 80));
        assert_eq!(by_score.tags.last(), Some(&tag::AUDIT_ONLY));
        assert!(by_score.reasons.last().unwrap().contains("by score"));
        assert!(decide(&[5], Action::Block, true).reasons.last().unwrap().contains("by policy"));
        assert_eq!(decide(&[40], Action::Allow, true).tags, [tag::PROMPT_INJECTION]);
    }

    #[test]
    fn reasons_are_bounded_and_the_rest_is_counted() {
        let decision = decide(&[1; REASONS_MAX + 3], Action::Allow, false);
        assert_eq!(decision.reasons.len(), REASONS_MAX + 1);
        assert_eq!(decision.reasons.last().unwrap(), "and 3 more");
    }

    #[test]
    fn what_could_not_be_judged_is_reviewed() {
        for (decision, score, tag) in [
            (Decision::timeout(), 60, tag::TIMEOUT),
            (Decision::queue_full(), 50, tag::RUNTIME_ERROR),
            (Decision::failed(), 50, tag::RUNTIME_ERROR),
        ] {
            assert_eq!((decision.action, decision.risk_score), (Action::Review, score));
            assert_eq!(decision.tags, [tag]);
        }
        assert_eq!(Decision::queue_full().reasons, ["queue_full"]);
    }

    #[test]
    fn actions_are_ordered_and_named() {
        assert!(Action::Allow < Action::Review);
        assert!(Action::Review < Action::Block);
        assert_eq!(Action::parse("review"), Some(Action::Review));
        assert_eq!(Action::parse("Review"), None);
    }
}
