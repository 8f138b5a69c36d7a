use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::agent::turn::tests::Bench;
use crate::protocol::version::Protocol;
use crate::sessions::patch::{self, Ground as PatchGround};
use crate::sessions::row::Context;
use crate::store::sessions::SessionRow;
use crate::tools::session_status::Facts;

/// A message in short: `-` for words, `name` or `name=argument` for commands, then `| text`.
fn short(message: &str) -> String {
    let list = |given: &[Given]| {
        let one = |given: &Given| match &given.argument {
            Some(argument) => format!("{}={argument}", given.command.name),
            None => given.command.name.to_owned(),
        };
        given.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match parse(message) {
        Parsed::Words => "-".to_owned(),
        Parsed::Commands(given) => list(&given),
        Parsed::Mixed { given, text } => format!("{} | {text}", list(&given)),
    }
}

#[test]
fn names_are_unique_and_every_row_says_what_it_is() {
    let mut names = BTreeSet::new();
    for command in COMMANDS {
        for name in std::iter::once(&command.name).chain(command.aliases) {
            assert!(names.insert(*name), "{name} stands twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase()), "{name}");
            assert_eq!(find(&name.to_uppercase()).map(|found| found.name), Some(command.name));
        }
        assert!(command.description.ends_with('.'), "{}", command.name);
        assert!(["session", "options", "status", "management"].contains(&command.category), "{}", command.name);
        let wire = command.wire();
        assert_eq!(wire["acceptsArgs"], command.argument.is_some());
        assert_eq!(wire["textAliases"][0], format!("/{}", command.name));
    }
    assert_eq!(find("nothing").map(|found| found.name), None);
}

#[test]
fn a_message_that_is_a_command_is_one() {
    for (message, expected) in [
        ("/status", "status"),
        ("  /Status\n", "status"),
        ("/status:", "status"),
        ("/status@claw_bot", "status"),
        ("/id", "whoami"),
        ("/stop", "stop"),
        ("/abort", "stop"),
        ("/think", "think"),
        ("/think high", "think=high"),
        ("/think: high", "think=high"),
        ("/think : high", "think=high"),
        ("/think:high", "think=high"),
        ("/t@bot: high", "think=high"),
        ("/think nonsense", "think=nonsense"),
        ("/model openai/gpt-5.2", "model=openai/gpt-5.2"),
        ("/model small", "model=small"),
        ("/new", "new"),
        ("/new tell me\nmore", "new=tell me\nmore"),
        ("/compact keep the numbers", "compact=keep the numbers"),
        ("/queue collect", "queue=collect"),
        ("/think high /model a/b", "think=high model=a/b"),
    ] {
        assert_eq!(short(message), expected, "{message:?}");
    }
}

#[test]
fn words_stay_words() {
    for message in [
        "hello",
        "/",
        "//status",
        "/nothing",
        "/statuses",
        "/etc/hosts is a file",
        "a/status",
        "/stop it please",
        "/think about it",
        "look at /model",
        "say /new",
        "`/status` is a command",
        "```\n/status\n```",
        "use /model small",
    ] {
        assert_eq!(short(message), "-", "{message:?}");
    }
    assert_eq!(short(&format!("/new {}", "x".repeat(COMMAND_BYTES_MAX))), "-");
}

#[test]
fn commands_among_words_are_taken_out() {
    for (message, expected) in [
        ("/think high what is this?", "think=high | what is this?"),
        ("what /think:low is this?", "think=low | what is this?"),
        ("what is this /model a/b", "model=a/b | what is this"),
        ("/status and hello", "status | and hello"),
        ("hello /help", "help | hello"),
        ("/queue collect one\ntwo", "queue=collect | one\ntwo"),
        ("/help `/status`", "help | `/status`"),
    ] {
        assert_eq!(short(message), expected, "{message:?}");
    }
    let many = "/help ".repeat(INLINE_MAX + 1) + "x";
    let Parsed::Mixed { given, text } = parse(&many) else { panic!() };
    assert_eq!((given.len(), &*text), (INLINE_MAX, "/help x"));
}

proptest! {
    #[test]
    fn any_text_is_read_and_nothing_is_made_up(message in "[ /a-z:@`\n]{0,60}") {
        if let Parsed::Mixed { text, .. } = parse(&message) {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).count();
            prop_assert!(letters(&text) <= letters(&message));
        }
    }
}

struct World {
    bench: Bench,
    session: SessionRow,
}

impl World {
    fn new(kind: &str) -> World {
        World { bench: Bench::new("hi"), session: SessionRow::new("agent:main:main", "main", "s", kind, 1) }
    }

    fn effect(&self, message: &str) -> Effect {
        let context = Context::of(&self.bench.input.config);
        let models = [("stub".to_owned(), vec!["plain".to_owned(), "deep".to_owned()])];
        let facts = Facts { thinking: "low".to_owned(), ..Facts::default() };
        let ground = Ground {
            session: &self.session,
            facts: &facts,
            context: &context,
            models: &models,
            sender: Some("Ann"),
            scopes: &[Scope::Write],
        };
        let Parsed::Commands(given) = parse(message) else { panic!("{message}") };
        given[0].command.effect(&ground, given[0].argument.as_deref())
    }

    /// What a session's field is after a command.
    #[track_caller]
    fn patched(&mut self, message: &str) -> Option<Value> {
        let Effect::Patch { fields, said } = self.effect(message) else { panic!("{message}: no patch") };
        assert!(!said.is_empty());
        let (name, _) = fields.iter().next().unwrap();
        let config = &self.bench.input.config;
        let context = Context::of(config);
        let ground = PatchGround { protocol: Protocol::V4, context: &context, now_ms: 1 };
        let mut issues = crate::protocol::params::Issues::new(Protocol::V4);
        let changes = patch::read(&fields, "", &mut issues);
        assert!(issues.is_empty() && changes.len() == fields.len(), "{message}: {fields:?}");
        patch::apply(&ground, &mut self.session, &changes).unwrap();
        let name = if name == "model" { "modelOverride" } else { name };
        self.session.entry.get(name).cloned()
    }

    fn says(&self, message: &str) -> String {
        match self.effect(message) {
            Effect::Text(text) => text,
            other => panic!("{message}: {other:?}"),
        }
    }
}

#[test]
fn settings_become_patches_that_a_session_takes() {
    let mut world = World::new("group");
    for (message, expected) in [
        ("/model stub/deep", json!("deep")),
        ("/model default", Value::Null),
        ("/model stub/deep", json!("deep")),
        ("/think max", json!("high")),
        ("/think default", Value::Null),
        ("/verbose full", json!("full")),
        ("/reasoning stream", json!("stream")),
        ("/usage tokens", json!("tokens")),
        ("/queue Collect", json!("collect")),
        ("/queue steer-backlog", json!("steer-backlog")),
        ("/queue default", Value::Null),
        ("/activation always", json!("always")),
        ("/send off", json!("deny")),
        ("/send on", json!("allow")),
        ("/send inherit", Value::Null),
    ] {
        assert_eq!(world.patched(message).unwrap_or_default(), expected, "{message}");
    }
}

#[test]
fn what_only_shows_needs_to_read_and_what_changes_needs_what_its_method_needs() {
    for (name, argument, expected) in [
        ("status", None, Read),
        ("model", None, Read),
        ("model", Some("a/b"), Write),
        ("think", Some("high"), Write),
        ("verbose", None, Read),
        ("verbose", Some("on"), Admin),
        ("new", None, Admin),
        ("reset", Some("x"), Admin),
        ("stop", None, Write),
        ("compact", None, Admin),
        ("send", Some("off"), Admin),
    ] {
        assert_eq!(find(name).unwrap().needs(argument), expected, "{name} {argument:?}");
    }
    // As heavy as the field it changes (protocol 4; protocol 3's clients hold `operator.admin` when they patch).
    let world = World::new("group");
    for message in
        ["/model a/b", "/think high", "/verbose on", "/reasoning on", "/usage full", "/queue steer", "/send on"]
    {
        let Effect::Patch { fields, .. } = world.effect(message) else { panic!("{message}") };
        let Parsed::Commands(given) = parse(message) else { panic!() };
        let needs = given[0].command.needs(given[0].argument.as_deref());
        assert_eq!(needs == Admin, patch::is_heavy(&fields), "{message}");
    }
}

#[test]
fn the_others_come_to_what_they_say() {
    let world = World::new("direct");
    let reset = |reason, then: Option<&str>, said: &str| Effect::Reset {
        reason,
        then: then.map(str::to_owned),
        said: said.to_owned(),
    };
    assert_eq!(world.effect("/new"), reset("new", None, "\u{2705} New session started."));
    assert_eq!(world.effect("/reset hi"), reset("reset", Some("hi"), "\u{2705} Session reset."));
    assert_eq!(world.effect("/cancel"), Effect::Abort);
    assert_eq!(world.effect("/compact"), Effect::Compact { instructions: None });
    assert!(world.says("/commands").lines().count() == COMMANDS.len());
    assert!(world.says("/help").contains("/new [message] - "));
    assert!(world.says("/status").contains("openclaw-rs"));
    assert!(world.says("/whoami").contains("You: Ann") && world.says("/whoami").contains("operator.write"));
    assert!(world.says("/context").contains("read, write, edit"));
    assert_eq!(world.says("/models stub"), "stub/plain\nstub/deep");
    assert!(world.says("/models").starts_with("stub: 2 models"));
    assert!(world.says("/models other").contains("No provider is called other"));
    assert!(world.says("/think").contains("Thinking: low. Levels: off"));
    assert!(world.says("/think nonsense").contains("is no level"));
    assert!(world.says("/verbose loud").contains("is not known"));
    assert!(world.says("/activation always").contains("no group"));
    assert!(world.says("/usage").starts_with("Tokens: 0 in"));
}
