//! Which messages in groups are answered (SES-17 to SES-19).
//!
//! In a group people speak to each other, and an agent that is only spoken of stays silent. A message is left out only
//! when its channel can tell who is spoken to and says that the agent is not: where nothing can be told, the agent
//! answers. Commands of those who may give them are heard in any case.

use serde_json::{Map, Value};

use crate::config::settings::Settings;
use crate::config::settings::scheduling::Activation;
use crate::protocol::session_key::SessionKey;

/// Commands that are heard without a mention, whatever else the caller knows (SES-19).
const ALWAYS_HEARD: &[&str] = &["abort", "cancel", "help", "new", "reset", "stop"];
/// Words of a channel for a conversation of more than two.
const GROUP_WORDS: &[&str] = &["group", "channel", "room"];
/// Fields that say whether the agent was mentioned.
const MENTIONED: &[&str] = &["wasMentioned", "WasMentioned", "mentioned", "isMentioned", "requireMentionSatisfied"];
/// Fields that say that mentions can be told, though not of whom.
const CAN_TELL: &[&str] = &["hasAnyMention", "anyMention"];
/// Fields that name the kind of conversation.
const CHAT_TYPE: &[&str] = &["chatType", "chat", "roomType"];

/// What a channel can tell of who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// The agent is.
    Agent,
    /// Somebody else is, or nobody.
    NotAgent,
    /// It cannot tell.
    Unknown,
}

/// Whether a message is answered, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Answer(Why),
    /// It stays without an answer, and may be context for the next one.
    LeaveOut,
}

/// Why a message is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is said to the agent alone.
    Direct,
    /// The group is always answered.
    Always,
    /// It is a command of someone who may give it.
    Command,
    /// It speaks to the agent.
    Mentioned,
    /// Nobody can tell to whom it speaks.
    CannotTell,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// The session it is for.
    pub session: &'a SessionKey,
    /// What the channel says besides: kind of chat, mentions.
    pub facts: &'a Map<String, Value>,
    /// What it says.
    pub text: &'a str,
    /// Whether its sender may give commands.
    pub is_authorized: bool,
}

impl Heard<'_> {
    /// Whether it is answered. `is_command` knows the slash commands by name, in lower case and without slash.
    pub fn judge(&self, activation: Activation, is_command: impl Fn(&str) -> bool) -> Verdict {
        if !self.is_in_group() {
            return Verdict::Answer(Why::Direct);
        }
        if activation == Activation::Always {
            return Verdict::Answer(Why::Always);
        }
        if self.is_authorized
            && command_only(self.text).is_some_and(|name| ALWAYS_HEARD.contains(&&*name) || is_command(&name))
        {
            return Verdict::Answer(Why::Command);
        }
        match mention(self.facts) {
            Mention::Agent => Verdict::Answer(Why::Mentioned),
            Mention::Unknown => Verdict::Answer(Why::CannotTell),
            Mention::NotAgent => Verdict::LeaveOut,
        }
    }

    /// Whether more than two are in the conversation, by its key or by what the channel says.
    pub fn is_in_group(&self) -> bool {
        let is_group_word =
            |value: &Value| value.as_str().is_some_and(|word| GROUP_WORDS.contains(&&*word.trim().to_lowercase()));
        self.session.kind() == "group" || CHAT_TYPE.iter().filter_map(|name| self.facts.get(*name)).any(is_group_word)
    }
}

/// What a session's own setting (`groupActivation` of its entry), its group's, and the gateway's come to.
pub fn effective(session_entry: &Map<String, Value>, group: Option<Activation>, settings: &Settings) -> Activation {
    let own = session_entry.get("groupActivation").and_then(Value::as_str).and_then(Activation::parse);
    own.or(group).unwrap_or(settings.scheduling.group_activation)
}

/// Longest word of a channel that is kept.
const FACT_BYTES_MAX: usize = 64;

/// What a channel's event says of the conversation and of who is spoken to; everything else in it is left out.
pub fn facts_in(event: &Value) -> Map<String, Value> {
    let is_plain = |value: &&Value| match value {
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(word) => word.len() <= FACT_BYTES_MAX,
        _ => false,
    };
    let names = MENTIONED.iter().chain(CAN_TELL).chain(CHAT_TYPE);
    let fact = |name: &&str| Some(((*name).to_owned(), event.get(*name).filter(is_plain)?.clone()));
    names.filter_map(fact).collect()
}

/// The kind of conversation, in the channel's word.
pub fn chat_type(facts: &Map<String, Value>) -> Option<&str> {
    CHAT_TYPE.iter().find_map(|name| facts.get(*name)?.as_str())
}

/// What the channel can tell of who is spoken to.
pub fn mention(facts: &Map<String, Value>) -> Mention {
    let of = |names: &'static [&str]| names.iter().filter_map(|name| truth(facts.get(*name)?));
    if of(MENTIONED).any(|is_mentioned| is_mentioned) {
        return Mention::Agent;
    }
    let can_tell = of(MENTIONED).next().is_some() || of(CAN_TELL).next().is_some();
    if can_tell { Mention::NotAgent } else { Mention::Unknown }
}

/// `true`, `false`, and how channels spell them; `None` for what says neither.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(is_true) => Some(*is_true),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        Value::String(word) => match word.trim().to_lowercase().as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The command that a text is and nothing else, in lower case without its slash: `/new`, `/stop:`, `/new@bot`.
fn command_only(text: &str) -> Option<String> {
    let name = text.trim().strip_prefix('/')?;
    let name = name.strip_suffix(':').unwrap_or(name);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    is_name.then(|| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::document::EnvHidden;
    use crate::config::load::{self, LoadInputs};
    use Activation::{Always, Mention as OnMention};
    use Verdict::{Answer, LeaveOut};

    const GROUP: &str = "agent:main:telegram:group:-100";
    const DIRECT: &str = "agent:main:main";

    #[track_caller]
    fn check(session: &str, activation: Activation, facts: Value, text: &str, is_authorized: bool, expected: Verdict) {
        let session = SessionKey::stored(session.to_owned());
        let heard = Heard { session: &session, facts: facts.as_object().unwrap(), text, is_authorized };
        let verdict = heard.judge(activation, |name| name == "model");
        assert_eq!(verdict, expected, "{session} {activation:?} {facts} {text:?} {is_authorized}");
    }

    #[test]
    fn a_direct_message_is_always_answered() {
        check(DIRECT, OnMention, json!({ "wasMentioned": false }), "hi", false, Answer(Why::Direct));
        check(DIRECT, OnMention, json!({ "chatType": "direct" }), "hi", false, Answer(Why::Direct));
    }

    #[test]
    fn a_group_is_known_by_its_key_or_by_its_channel() {
        let not_mentioned = |name: &str, word: &str| json!({ "mentioned": false, name: word });
        check(GROUP, OnMention, json!({ "mentioned": false }), "hi", true, LeaveOut);
        check("agent:main:slack:channel:c1:thread:7", OnMention, json!({ "mentioned": false }), "hi", true, LeaveOut);
        for (name, word) in [("chatType", "group"), ("chat", "Channel"), ("roomType", " room ")] {
            check(DIRECT, OnMention, not_mentioned(name, word), "hi", true, LeaveOut);
        }
        check(DIRECT, OnMention, not_mentioned("chatType", "grouping"), "hi", true, Answer(Why::Direct));
    }

    #[test]
    fn a_group_is_answered_always_or_on_mention() {
        check(GROUP, Always, json!({ "wasMentioned": false }), "hi", false, Answer(Why::Always));
        for name in MENTIONED {
            check(GROUP, OnMention, json!({ *name: true }), "hi", false, Answer(Why::Mentioned));
            check(GROUP, OnMention, json!({ *name: false }), "hi", false, LeaveOut);
        }
        let one_says_so = json!({ "wasMentioned": false, "isMentioned": "yes" });
        check(GROUP, OnMention, one_says_so, "hi", false, Answer(Why::Mentioned));
    }

    #[test]
    fn where_nothing_can_be_told_the_agent_answers() {
        check(GROUP, OnMention, json!({}), "hi", false, Answer(Why::CannotTell));
        check(GROUP, OnMention, json!({ "wasMentioned": null }), "hi", false, Answer(Why::CannotTell));
        for name in CAN_TELL {
            // Somebody is mentioned, or nobody; the agent is not said to be.
            check(GROUP, OnMention, json!({ *name: true }), "hi", false, LeaveOut);
            check(GROUP, OnMention, json!({ *name: false }), "hi", false, LeaveOut);
        }
    }

    #[test]
    fn commands_of_those_who_may_are_heard_and_no_others() {
        let silent = || json!({ "wasMentioned": false });
        for text in ["/new", " /RESET ", "/stop:", "/help@our_bot", "/abort", "/cancel", "/model"] {
            check(GROUP, OnMention, silent(), text, true, Answer(Why::Command));
            check(GROUP, OnMention, silent(), text, false, LeaveOut);
        }
        for text in ["/new plan for today", "new", "see /new", "/", "/unknown", "/new/x", "//new"] {
            check(GROUP, OnMention, silent(), text, true, LeaveOut);
        }
    }

    #[test]
    fn the_session_speaks_before_its_group_and_the_group_before_all() {
        let settings = |mode: &str| {
            let mut inputs = LoadInputs::of_process();
            inputs.env = EnvHidden([("OPENCLAW_RS_GROUP_ACTIVATION".to_owned(), mode.to_owned())].into());
            let dir = tempfile::tempdir().unwrap();
            (inputs.state_dir, inputs.cwd) = (Some(dir.path().to_owned()), dir.path().to_owned());
            load::load(&inputs).unwrap().settings
        };
        let (on_mention, always) = (settings("mention"), settings("always"));
        let entry = |value: Value| json!({ "groupActivation": value }).as_object().cloned().unwrap();
        assert_eq!(effective(&Map::new(), None, &on_mention), OnMention);
        assert_eq!(effective(&Map::new(), Some(Always), &on_mention), Always);
        assert_eq!(effective(&entry(json!("mention")), Some(Always), &always), OnMention);
        assert_eq!(effective(&entry(json!("sometimes")), None, &always), Always);
    }
}
