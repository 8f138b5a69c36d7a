//! A conversation as it is put before a model: what was said, what it costs, and how it is made to fit.
//!
//! A tool call and its results are one [`Item`], so nothing that shortens a conversation can part them.

use std::collections::HashMap;

use super::talk::{Message, Part, Said, ToolCall, ToolResult};

/// Bytes of text that count as one token. Prose and code of most languages have between three and five; what is asked
/// of a model is a limit that its provider checks, so a wrong guess costs a second attempt and nothing else.
pub const BYTES_PER_TOKEN: u64 = 4;
/// Tokens a message costs beside its text.
const MESSAGE_TOKENS: u64 = 4;
/// Tokens a picture counts as, whatever its size: what the large providers charge for about a megapixel.
const IMAGE_TOKENS: u64 = 1600;
/// Characters that are left of a tool's result in the newest step when nothing else helps.
const RESULT_CHARS_LEFT: usize = 2000;
/// What stands where a tool's result was.
const CLEARED: &str = "[this result was left out to save room; call the tool again if it is needed]";
/// What a tool is taken to have answered when it never did.
const INTERRUPTED: &str = "interrupted: no result was recorded for this call, and it may or may not have been done";

/// Something that was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// By a person, or by us in a person's place.
    User(User),
    /// By the model, with what its tools answered.
    Step(Step),
}

/// What a person said.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// Its number in the transcript; `None`: it has none.
    pub seq: Option<u64>,
    /// What was said.
    pub parts: Vec<Part>,
    /// Whether it stands for what was said before ([`super::compaction`]).
    pub is_summary: bool,
}

/// What a model said, and what came of its calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its number in the transcript; `None`: it has none yet.
    pub seq: Option<u64>,
    /// What it said.
    pub said: Vec<Said>,
    /// One for each call in `said`, in the same order.
    pub results: Vec<ToolResult>,
    /// Whose it is, when it is one of a run's: `RUNID:step:N`.
    pub key: Option<String>,
}

impl Step {
    /// The calls in it.
    pub fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.said.iter().filter_map(|said| match said {
            Said::Call(call) => Some(call),
            _ => None,
        })
    }
}

impl Item {
    /// Its number in the transcript.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Item::User(user) => user.seq,
            Item::Step(step) => step.seq,
        }
    }

    /// What it costs, about.
    pub fn tokens(&self) -> u64 {
        match self {
            Item::User(user) => MESSAGE_TOKENS + parts_tokens(&user.parts),
            Item::Step(step) => {
                let said: u64 = step.said.iter().map(said_tokens).sum();
                let results: u64 = step.results.iter().map(result_tokens).sum();
                MESSAGE_TOKENS + said + results
            }
        }
    }
}

/// Tokens of a text, about.
pub fn text_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
}

fn parts_tokens(parts: &[Part]) -> u64 {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text_tokens(text),
            Part::Image { .. } => IMAGE_TOKENS,
        })
        .sum()
}

fn said_tokens(said: &Said) -> u64 {
    match said {
        Said::Text(text) => text_tokens(text),
        Said::Thinking { text, signature } => text_tokens(text) + signature.as_deref().map_or(0, text_tokens),
        Said::Call(call) => MESSAGE_TOKENS + text_tokens(&call.name) + text_tokens(&call.arguments.to_string()),
    }
}

fn result_tokens(result: &ToolResult) -> u64 {
    MESSAGE_TOKENS + parts_tokens(&result.content)
}

/// A message of a transcript, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A person's.
    User(User),
    /// A model's; results come later.
    Model(Step),
    /// A tool's answer.
    Result(ToolResult),
}

/// A conversation: items in order, and which calls never got a result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Oldest first.
    pub items: Vec<Item>,
    /// Places in `items` of steps with calls that were never answered, and the calls' ids.
    pub unanswered: Vec<(usize, Vec<String>)>,
}

impl Conversation {
    /// Puts every result beside its call. Results without a call are dropped; calls without a result get one that says
    /// so. What a person said between the two comes after them.
    pub fn of(told: impl IntoIterator<Item = Told>) -> Conversation {
        let mut items: Vec<Item> = Vec::new();
        // Calls that wait for their result: the newest step with a call of this id. Ids are unique as a rule; where a
        // provider counts them from zero in each answer, the newest is meant.
        let mut open: HashMap<String, usize> = HashMap::new();
        let mut answers: HashMap<(usize, String), ToolResult> = HashMap::new();
        for told in told {
            match told {
                Told::User(user) => items.push(Item::User(user)),
                Told::Model(step) => {
                    for call in step.calls() {
                        open.insert(call.id.clone(), items.len());
                    }
                    items.push(Item::Step(step));
                }
                Told::Result(result) => {
                    if let Some(step) = open.remove(&result.call_id) {
                        answers.insert((step, result.call_id.clone()), result);
                    }
                }
            }
        }
        let mut unanswered = Vec::new();
        for (place, item) in items.iter_mut().enumerate() {
            let Item::Step(step) = item else { continue };
            let mut missing = Vec::new();
            let calls: Vec<(String, String)> = step.calls().map(|call| (call.id.clone(), call.name.clone())).collect();
            for (id, name) in calls {
                let answer = answers.remove(&(place, id.clone())).unwrap_or_else(|| {
                    missing.push(id.clone());
                    interrupted(id, name)
                });
                step.results.push(answer);
            }
            if !missing.is_empty() {
                unanswered.push((place, missing));
            }
        }
        Conversation { items, unanswered }
    }

    /// What it costs, about.
    pub fn tokens(&self) -> u64 {
        self.items.iter().map(Item::tokens).sum()
    }

    /// Where the newest of what a person said stands.
    pub fn newest_user(&self) -> Option<usize> {
        self.items.iter().rposition(|item| matches!(item, Item::User(user) if !user.is_summary))
    }

    /// As messages: begins with a person's, and every call is followed by its result.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        let first = self.items.iter().position(|item| matches!(item, Item::User(_))).unwrap_or(self.items.len());
        for item in &self.items[first..] {
            match item {
                Item::User(user) => messages.push(Message::User(user.parts.clone())),
                Item::Step(step) => {
                    messages.push(Message::Assistant(step.said.clone()));
                    messages.extend(step.results.iter().cloned().map(Message::Tool));
                }
            }
        }
        messages
    }

    /// Makes it cost at most `budget`: leaves out old tool results first, then old turns, then what came before the
    /// newest step of this turn. What the newest user said is never touched. Says whether it fits now.
    pub fn fit(&mut self, budget: u64) -> bool {
        let Some(newest) = self.newest_user() else { return self.tokens() <= budget };
        self.clear_old_results(budget);
        if self.tokens() <= budget {
            return true;
        }
        let newest = self.drop_turns_before(newest, budget);
        if self.tokens() <= budget {
            return true;
        }
        let newest_step = self.items.len().saturating_sub(1).max(newest);
        self.clear_results(newest..newest_step, budget);
        // Steps of this turn, oldest first; the newest stays, so that the model sees what it has just asked for.
        while self.tokens() > budget && self.items.len() > newest + 2 {
            self.items.remove(newest + 1);
        }
        if self.tokens() > budget
            && let Some(Item::Step(step)) = self.items.last_mut()
        {
            for result in &mut step.results {
                shorten(result);
            }
        }
        self.tokens() <= budget
    }

    /// Characters of text in tool results of old turns, which [`Conversation::clear_old_results`] can leave out.
    pub fn old_result_chars(&self) -> u64 {
        let old = self.newest_user().map_or(&[][..], |newest| &self.items[..newest]);
        let results = old.iter().filter_map(|item| match item {
            Item::Step(step) => Some(&step.results),
            Item::User(_) => None,
        });
        let texts = results.flatten().flat_map(|result| &result.content).filter_map(as_text);
        texts.map(|text| text.chars().count() as u64).sum()
    }

    /// Leaves out tool results of old turns, oldest first, as long as it costs more than `budget`.
    pub fn clear_old_results(&mut self, budget: u64) {
        if let Some(newest) = self.newest_user() {
            self.clear_results(0..newest, budget);
        }
    }

    /// Leaves out the results of these items, oldest first, as long as it costs more than `budget`.
    fn clear_results(&mut self, range: std::ops::Range<usize>, budget: u64) {
        let mut tokens = self.tokens();
        for place in range {
            let Some(Item::Step(step)) = self.items.get_mut(place) else { continue };
            for result in &mut step.results {
                if tokens <= budget {
                    return;
                }
                let before = result_tokens(result);
                let cleared = ToolResult { content: vec![Part::Text(CLEARED.to_owned())], ..result.clone() };
                let after = result_tokens(&cleared);
                if after < before {
                    *result = cleared;
                    tokens -= before - after;
                }
            }
        }
    }

    /// Drops whole turns before the item at `newest`, oldest first and a summary last, as long as it costs more than
    /// `budget`. Returns where that item stands now.
    fn drop_turns_before(&mut self, newest: usize, budget: u64) -> usize {
        let mut newest = newest;
        let is_summary = |item: &Item| matches!(item, Item::User(user) if user.is_summary);
        while newest > 0 && self.tokens() > budget {
            let first = usize::from(is_summary(&self.items[0]));
            if first == newest {
                self.items.remove(0);
                newest -= 1;
                continue;
            }
            let is_user = |item: &Item| matches!(item, Item::User(_));
            let next =
                self.items[first + 1..=newest].iter().position(is_user).map_or(newest, |found| first + 1 + found);
            self.items.drain(first..next);
            newest -= next - first;
        }
        newest
    }
}

fn interrupted(call_id: String, name: String) -> ToolResult {
    ToolResult { call_id, name, content: vec![Part::Text(INTERRUPTED.to_owned())], is_error: true }
}

/// Cuts a result to [`RESULT_CHARS_LEFT`] characters and leaves its pictures out.
fn shorten(result: &mut ToolResult) {
    let text: String = result.content.iter().filter_map(as_text).collect::<Vec<_>>().join("\n");
    let text = match text.char_indices().nth(RESULT_CHARS_LEFT) {
        Some((end, _)) => format!("{}\n[the rest was left out to save room]", &text[..end]),
        None => text,
    };
    let short = ToolResult { content: vec![Part::Text(text)], ..result.clone() };
    if result_tokens(&short) < result_tokens(result) {
        *result = short;
    }
}

fn as_text(part: &Part) -> Option<&str> {
    match part {
        Part::Text(text) => Some(text),
        Part::Image { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn user(text: &str) -> Told {
        Told::User(User { seq: None, parts: vec![Part::Text(text.to_owned())], is_summary: false })
    }

    fn model(ids: &[&str]) -> Told {
        let call = |id: &&str| {
            Said::Call(ToolCall { id: (*id).to_owned(), name: "t".to_owned(), arguments: json!({ "x": 1 }) })
        };
        let mut said = vec![Said::Text("I look".to_owned())];
        said.extend(ids.iter().map(call));
        Told::Model(Step { seq: None, said, results: Vec::new(), key: None })
    }

    fn result(id: &str, text: &str) -> Told {
        Told::Result(ToolResult {
            call_id: id.to_owned(),
            name: "t".to_owned(),
            content: vec![Part::Text(text.to_owned())],
            is_error: false,
        })
    }

    /// A conversation in short: `u:text`, `a`, `call id`, `=id:text`, `!id` for an error.
    fn short(conversation: &Conversation) -> Vec<String> {
        let text = |parts: &[Part]| parts.iter().filter_map(as_text).collect::<String>();
        let line = |message: &Message| match message {
            Message::User(parts) => format!("u:{}", text(parts)),
            Message::Assistant(said) => {
                let calls: Vec<&str> = said
                    .iter()
                    .filter_map(|said| if let Said::Call(call) = said { Some(&*call.id) } else { None })
                    .collect();
                format!("a:{}", calls.join(","))
            }
            Message::Tool(result) if result.is_error => format!("!{}", result.call_id),
            Message::Tool(result) => format!("={}:{}", result.call_id, text(&result.content)),
        };
        conversation.messages().iter().map(line).collect()
    }

    #[test]
    fn results_stand_beside_their_calls() {
        let conversation = Conversation::of([
            user("hi"),
            model(&["1", "2"]),
            result("2", "two"),
            user("steered"),
            result("1", "one"),
            result("none", "lost"),
            model(&["3"]),
            user("next"),
        ]);
        assert_eq!(short(&conversation), ["u:hi", "a:1,2", "=1:one", "=2:two", "u:steered", "a:3", "!3", "u:next"]);
        assert_eq!(conversation.unanswered, [(3, vec!["3".to_owned()])]);
    }

    #[test]
    fn a_call_id_that_is_used_again_means_the_newest() {
        let conversation = Conversation::of([
            user("hi"),
            model(&["0"]),
            result("0", "a"),
            model(&["0"]),
            result("0", "b"),
            model(&["0"]),
        ]);
        assert_eq!(short(&conversation), ["u:hi", "a:0", "=0:a", "a:0", "=0:b", "a:0", "!0"]);
    }

    #[test]
    fn what_a_model_said_before_anybody_spoke_is_left_out() {
        let conversation = Conversation::of([model(&["1"]), result("1", "one"), user("hi")]);
        assert_eq!(short(&conversation), ["u:hi"]);
    }

    #[test]
    fn old_results_go_first_then_old_turns() {
        let long = "x".repeat(4000);
        let whole = Conversation::of([
            user("first"),
            model(&["1"]),
            result("1", &long),
            user("second"),
            model(&["2"]),
            result("2", &long),
            user("now"),
            model(&["3"]),
            result("3", "short"),
        ]);
        let fitted = |budget| {
            let mut conversation = whole.clone();
            assert!(conversation.fit(budget), "{budget}");
            assert!(conversation.tokens() <= budget);
            short(&conversation)
        };
        assert_eq!(fitted(whole.tokens()), short(&whole));
        let cleared = fitted(whole.tokens() - 1);
        assert_eq!(cleared[2], format!("=1:{CLEARED}"));
        assert_eq!(cleared[5], format!("=2:{long}"), "only as much as is needed");
        let mut bare = whole.clone();
        bare.clear_old_results(0);
        let dropped = fitted(bare.tokens() - 1);
        assert_eq!(dropped[0], "u:second");
        assert_eq!(fitted(40), ["u:now", "a:3", "=3:short"]);
        let mut hopeless = whole.clone();
        assert!(!hopeless.fit(3));
        assert_eq!(short(&hopeless)[0], "u:now", "and nobody forgets what was asked");
    }

    #[test]
    fn a_summary_is_dropped_last() {
        let summary = Told::User(User { seq: None, parts: vec![Part::Text("summary".to_owned())], is_summary: true });
        let whole = Conversation::of([summary, user(&"old ".repeat(50)), model(&[]), user("now")]);
        let fitted = |budget| {
            let mut conversation = whole.clone();
            assert!(conversation.fit(budget));
            short(&conversation)
        };
        assert_eq!(fitted(20), ["u:summary", "u:now"]);
        assert_eq!(fitted(6), ["u:now"]);
    }

    #[test]
    fn within_a_turn_the_newest_step_stays() {
        let long = "x".repeat(20_000);
        let mut conversation = Conversation::of([
            user("do it"),
            model(&["1"]),
            result("1", &long),
            model(&["2"]),
            result("2", &long),
            model(&["3"]),
            result("3", &long),
        ]);
        assert!(conversation.fit(600));
        let lines = short(&conversation);
        assert_eq!(&lines[..2], ["u:do it", "a:3"]);
        assert!(lines[2].starts_with("=3:xxx") && lines[2].len() < 2100, "{}", lines[2].len());
    }

    /// What may stand in a transcript, in any order.
    fn told() -> impl Strategy<Value = Told> {
        let id = prop_oneof![Just("1"), Just("2"), Just("3")];
        prop_oneof![
            (0..3000_usize).prop_map(|n| user(&"u".repeat(n))),
            proptest::collection::vec(id.clone(), 0..3).prop_map(|mut ids| {
                ids.sort_unstable();
                ids.dedup();
                model(&ids)
            }),
            (id, 0..9000_usize).prop_map(|(id, n)| result(id, &"r".repeat(n))),
        ]
    }

    proptest! {
        #[test]
        fn fitting_keeps_the_newest_user_and_pairs_calls_with_results(
            told in proptest::collection::vec(told(), 0..30),
            budget in 0..12_000_u64,
        ) {
            let mut conversation = Conversation::of(told);
            let newest = conversation.newest_user().map(|place| conversation.items[place].clone());
            let before = conversation.tokens();
            let fits = conversation.fit(budget);
            prop_assert_eq!(fits, conversation.tokens() <= budget);
            prop_assert!(conversation.tokens() <= before, "fitting never makes it longer");
            if let Some(newest) = newest {
                prop_assert_eq!(conversation.newest_user().map(|place| &conversation.items[place]), Some(&newest));
                let messages = conversation.messages();
                prop_assert!(matches!(messages.first(), Some(Message::User(_))));
            }
            let messages = conversation.messages();
            let mut expected: Vec<String> = Vec::new();
            for message in &messages {
                match message {
                    Message::Tool(result) => {
                        prop_assert_eq!(Some(&result.call_id), expected.first());
                        expected.remove(0);
                    }
                    other => {
                        prop_assert!(expected.is_empty(), "a call without its result");
                        if let Message::Assistant(said) = other {
                            expected = said.iter().filter_map(|said| match said {
                                Said::Call(call) => Some(call.id.clone()),
                                _ => None,
                            }).collect();
                        }
                    }
                }
            }
            prop_assert!(expected.is_empty());
        }
    }
}
