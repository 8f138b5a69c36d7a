//! How hard a model is asked to think: the levels, what people call them, and which a model takes.

use crate::config::settings::models::Model;

/// Every level, weakest first.
pub const LEVELS: [&str; 6] = ["off", "minimal", "low", "medium", "high", XHIGH];

/// The level that only some models take.
pub const XHIGH: &str = "xhigh";

/// Models that take [`XHIGH`], as `provider/model`; the list of the reference gateways.
pub const XHIGH_MODELS: [&str; 7] = [
    "openai/gpt-5.2",
    "openai-codex/gpt-5.3-codex",
    "openai-codex/gpt-5.3-codex-spark",
    "openai-codex/gpt-5.2-codex",
    "openai-codex/gpt-5.1-codex",
    "github-copilot/gpt-5.2-codex",
    "github-copilot/gpt-5.2",
];

/// What people call the levels besides their names (SES-41).
const ALIASES: &[(&str, &[&str])] = &[
    ("minimal", &["min", "think"]),
    ("low", &["on", "enable", "enabled", "thinkhard", "think-hard", "think_hard"]),
    ("medium", &["mid", "med", "thinkharder", "think-harder", "harder"]),
    ("high", &["max", "highest", "ultra", "ultrathink", "thinkhardest"]),
];

/// The level a person means.
pub fn parse(text: &str) -> Option<&'static str> {
    let text = text.trim().to_lowercase();
    let bare: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).collect();
    if bare == XHIGH || bare == "extrahigh" {
        return Some(XHIGH);
    }
    LEVELS
        .into_iter()
        .find(|level| *level == text)
        .or_else(|| ALIASES.iter().find(|(_, also)| also.contains(&text.as_str())).map(|(level, _)| *level))
}

/// The levels a model takes, weakest first. `known`: what the configuration says of it; a model it does not describe
/// is given the benefit of the doubt.
pub fn levels(provider: Option<&str>, model: Option<&str>, known: Option<&Model>) -> &'static [&'static str] {
    if known.is_some_and(|model| !model.reasoning) {
        return &LEVELS[..1];
    }
    if takes_xhigh(provider, model) { &LEVELS } else { &LEVELS[..LEVELS.len() - 1] }
}

/// Whether a model takes [`XHIGH`].
pub fn takes_xhigh(provider: Option<&str>, model: Option<&str>) -> bool {
    XHIGH_MODELS.iter().any(|name| name.split_once('/').is_some_and(|(p, m)| Some(p) == provider && Some(m) == model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], level: Option<&str>) {
        for word in words {
            assert_eq!(parse(word), level, "{word}");
        }
    }

    #[test]
    fn every_spelling_of_a_level_is_read() {
        for level in LEVELS {
            check(&[level, &level.to_uppercase(), &format!(" {level} ")], Some(level));
        }
        check(&["on", "enable", "enabled", "thinkhard", "think-hard", "think_hard"], Some("low"));
        check(&["min", "think"], Some("minimal"));
        check(&["mid", "med", "thinkharder", "think-harder", "harder"], Some("medium"));
        check(&["max", "highest", "ultra", "ultrathink", "thinkhardest"], Some("high"));
        check(&["x-high", "x_high", "x high", "extra-high", "extra high", "ExtraHigh"], Some("xhigh"));
        check(&["", "bogus", "o f f", "hi gh"], None);
    }

    #[test]
    fn a_model_takes_the_levels_it_can_think_at() {
        let model = |reasoning| Model { id: "m".to_owned(), name: "m".to_owned(), reasoning, ..Model::default() };
        assert_eq!(levels(Some("p"), Some("m"), Some(&model(false))), ["off"]);
        assert_eq!(levels(Some("p"), Some("m"), Some(&model(true))).last(), Some(&"high"));
        assert_eq!(levels(Some("p"), Some("m"), None).last(), Some(&"high"));
        assert_eq!(levels(Some("openai"), Some("gpt-5.2"), None).last(), Some(&"xhigh"));
    }
}
