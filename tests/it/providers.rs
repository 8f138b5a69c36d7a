//! Asking models: every wire format, and everything that can go wrong on the way. Asked through the library's own door,
//! against the double that speaks the formats by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_rs::agent::ask::{AskEvent, Asked, Asking, ask};
use openclaw_rs::agent::cooldown::Cooldowns;
use openclaw_rs::agent::models::{ModelRef, Models, Pinning};
use openclaw_rs::agent::talk::{
    AttemptOutcome, Failure, FailureKind, Message, Part, Piece, Prompt, StopReason, Thinking, ToolResult, ToolSpec,
    Usage,
};
use openclaw_rs::config::document::EnvHidden;
use openclaw_rs::config::environment::Overrides;
use openclaw_rs::config::load::{self, LoadInputs};
use openclaw_rs::runtime::stop::{Stop, Why};
use openclaw_rs::runtime::threads;
use serde_json::{Value, json};

use crate::harness::provider::{Format, KEY, Provider, Turn};

/// Longest that any failure may take to end in another model's answer, or in a clear error.
const FAILOVER_MAX: Duration = Duration::from_secs(10);
/// The wall clock of these tests.
const NOW_MS: i64 = 1_800_000_000_000;

/// A configuration in force, and what is known of its profiles.
struct House {
    models: Models,
    cooldowns: Cooldowns,
    _dir: tempfile::TempDir,
}

impl House {
    fn new(config: &Value) -> House {
        House::with_env(config, &[])
    }

    fn with_env(config: &Value, env: &[(&str, &str)]) -> House {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let env: std::collections::BTreeMap<String, String> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let inputs = LoadInputs {
            flag_config: Some(file),
            state_dir: Some(dir.path().to_owned()),
            cwd: dir.path().to_owned(),
            env: EnvHidden(env.clone()),
            overrides: Overrides::default(),
        };
        let loaded = load::load(&inputs).unwrap();
        let models = Models::new(&loaded, &|name| env.get(name).cloned());
        House { models, cooldowns: Cooldowns::default(), _dir: dir }
    }

    fn chain(&self) -> Vec<ModelRef> {
        self.models.chain("main", None, Pinning::Prefer)
    }

    fn ask(&mut self, prompt: &Prompt) -> Story {
        self.ask_until(prompt, &Stop::default())
    }

    fn ask_until(&mut self, prompt: &Prompt, stop: &Stop) -> Story {
        let chain = self.chain();
        let mut told = Vec::new();
        let mut tell = |event: AskEvent<'_>| {
            told.push(match event {
                AskEvent::Model(model) => format!("model {model}"),
                AskEvent::Piece(Piece::Text(text)) => format!("+{text}"),
                AskEvent::Piece(Piece::Thinking(text)) => format!("~{text}"),
                AskEvent::Restart => "restart".to_owned(),
                AskEvent::Fallback { to, .. } => format!("fallback {to}"),
            });
        };
        let asking =
            Asking { stop, now_ms: &|| NOW_MS, tell: &mut tell, pinned_profile: None, preferred_profile: None };
        let began = Instant::now();
        let asked = ask(&self.models, &mut self.cooldowns, &chain, prompt, asking);
        Story { asked, told, took: began.elapsed() }
    }
}

/// What came of asking, and what was told of it.
struct Story {
    asked: Asked,
    told: Vec<String>,
    took: Duration,
}

impl Story {
    #[track_caller]
    fn text(&self) -> String {
        self.asked.result.as_ref().unwrap().answer.text()
    }

    #[track_caller]
    fn failure(&self) -> &Failure {
        self.asked.result.as_ref().unwrap_err()
    }

    /// What the pieces amount to, after all restarts.
    fn shown(&self) -> String {
        let after = self.told.iter().rposition(|event| event == "restart").map_or(0, |at| at + 1);
        self.told[after..].iter().filter_map(|event| event.strip_prefix('+')).collect()
    }

    /// The attempts in short: `model outcome`.
    fn attempts(&self) -> Vec<String> {
        let outcome = |outcome: &AttemptOutcome| match outcome {
            AttemptOutcome::Ok => "ok".to_owned(),
            AttemptOutcome::Skipped(why) => format!("skipped {why}"),
            AttemptOutcome::Error(failure) => failure.kind.as_str().to_owned(),
        };
        let attempts = self.asked.attempts.iter();
        attempts.map(|attempt| format!("{} {}", attempt.provider, outcome(&attempt.outcome))).collect()
    }
}

fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.to_owned())])
}

fn prompt(text: &str) -> Prompt {
    Prompt { system: "You are terse.".to_owned(), messages: vec![user(text)], ..Prompt::default() }
}

/// Two doubles: the second stands in for the first.
fn pair(first: &Provider, second: &Provider) -> Value {
    let mut config = first.config();
    config["models"]["providers"]["spare"] = second.entry(Format::Chat);
    config["agents"]["defaults"]["model"]["fallbacks"] = json!(["spare/echo"]);
    config
}

#[test]
fn streams_in_any_pieces_read_the_same() {
    let turn = || Turn::text("Grüße aus der Höhle 🦀 und zurück").thinking("erst denken").usage(7, 5, 3);
    let shapes: [fn(Turn) -> Turn; 5] = [
        |turn| turn,
        |turn| turn.pieces_of(1),
        |turn| turn.pieces_of(7).crlf(),
        |turn| turn.comments().crlf().pieces_of(3),
        Turn::unstreamed,
    ];
    for format in Format::ALL {
        let provider = Provider::start();
        let mut house = House::new(&provider.config_for(format));
        for (number, shape) in shapes.iter().enumerate() {
            provider.then(shape(turn()));
            let story = house.ask(&prompt("hello"));
            assert_eq!(story.text(), "Grüße aus der Höhle 🦀 und zurück", "{format:?} {number}");
            assert_eq!(story.shown(), story.text(), "{format:?} {number}");
            let thought: String = story.told.iter().filter_map(|event| event.strip_prefix('~')).collect();
            assert_eq!(thought, "erst denken", "{format:?} {number}");
            let answered = story.asked.result.unwrap();
            assert_eq!(
                answered.answer.usage,
                Usage { input: 7, output: 5, cache_read: 3, cache_write: 0 },
                "{format:?}"
            );
            assert_eq!((answered.api, answered.answer.stop), (format.api(), StopReason::Stop));
            assert_eq!(answered.profile.as_deref(), Some("double:default"));
            assert!(answered.answer.response_id.is_some(), "{format:?}");
        }
        let connections: Vec<usize> = provider.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0; 5], "{format:?}: one connection is enough");
    }
}

#[test]
fn a_turn_with_tools_goes_there_and_back() {
    for format in Format::ALL {
        let provider = Provider::start();
        let call = Turn::call("read", json!({ "path": "höhle.txt" })).and_call("list", json!({}));
        provider.then(call.thinking("I should look").usage(10, 4, 0)).then(Turn::text("It is dark."));
        let mut house = House::new(&provider.config_for(format));
        let mut asked = prompt("what is in there?");
        asked.thinking = Thinking::Low;
        let parameters = json!({ "type": "object", "properties": { "path": { "type": "string" } } });
        let tool = |name: &str| ToolSpec { name: name.into(), description: "d".into(), parameters: parameters.clone() };
        asked.tools = vec![tool("read"), tool("list")];
        let answer = house.ask(&asked).asked.result.unwrap().answer;
        assert_eq!(answer.stop, StopReason::ToolUse, "{format:?}");
        let calls: Vec<_> = answer.calls().cloned().collect();
        assert_eq!(calls.len(), 2, "{format:?}");
        assert_eq!((calls[0].name.as_str(), &calls[0].arguments), ("read", &json!({ "path": "höhle.txt" })));
        assert_eq!((calls[1].name.as_str(), &calls[1].arguments), ("list", &json!({})));
        assert_ne!(calls[0].id, calls[1].id);

        asked.messages.push(Message::Assistant(answer.said));
        for (call, text) in calls.iter().zip(["dark", "nothing"]) {
            asked.messages.push(Message::Tool(ToolResult {
                call_id: call.id.clone(),
                name: call.name.clone(),
                content: vec![Part::Text(text.into()), Part::Image { mime: "image/png".into(), base64: "aGk=".into() }],
                is_error: false,
            }));
        }
        assert_eq!(house.ask(&asked).text(), "It is dark.", "{format:?}");
        let sent = provider.requests()[1].body.to_string();
        for part in ["h\u{f6}hle.txt", "dark", "nothing", "aGk=", "You are terse."] {
            assert!(sent.contains(part), "{format:?}: {part} is not in {sent}");
        }
    }
}

/// A way to fail, what kind of failure it is, and how often the first provider is asked.
type Row = (&'static str, fn() -> Turn, FailureKind);

const MATRIX: &[Row] = &[
    ("429", || Turn::status(429).header("retry-after", "30"), FailureKind::RateLimit),
    (
        "401",
        || Turn::status(401).json(&json!({ "error": { "message": "bad key sk-123456789012345678901" } })),
        FailureKind::Auth,
    ),
    ("403", || Turn::status(403), FailureKind::Auth),
    ("402", || Turn::status(402), FailureKind::Billing),
    (
        "no quota",
        || Turn::status(429).json(&json!({ "error": { "code": "insufficient_quota" } })),
        FailureKind::Billing,
    ),
    ("500", || Turn::status(500), FailureKind::Unavailable),
    ("503", || Turn::status(503).json(&json!({ "error": "down" })), FailureKind::Unavailable),
    ("529", || Turn::status(529), FailureKind::Unavailable),
    ("404", || Turn::status(404), FailureKind::NotFound),
    ("400", || Turn::status(400), FailureKind::Format),
    ("redirect", || Turn::status(307).header("location", "http://127.0.0.1:9/"), FailureKind::Format),
    ("hang up", Turn::hang_up, FailureKind::Unavailable),
    ("silent from the start", || Turn::text("late").first_after(Duration::from_secs(60)), FailureKind::Timeout),
    ("stall in the stream", || Turn::text("one two three").stall_after(2), FailureKind::Timeout),
    ("cut in the stream", || Turn::text("one two three").cut_after(3), FailureKind::Unavailable),
    ("cut before the first event", || Turn::text("one").cut_after(0), FailureKind::Unavailable),
    (
        "error in the stream",
        || Turn::text("one two").error_after(2, json!({ "message": "Overloaded", "type": "overloaded_error" })),
        FailureKind::Unavailable,
    ),
    ("no JSON in the stream", || Turn::raw("text/event-stream", b"data: {nope\n\n"), FailureKind::Format),
    ("no JSON", || Turn::raw("application/json", b"{nope"), FailureKind::Format),
    ("a page", || Turn::raw("text/html", b"<html>welcome</html>"), FailureKind::Format),
    ("nothing", || Turn::raw("text/event-stream", b""), FailureKind::Unavailable),
];

#[test]
fn every_failure_ends_in_the_next_models_answer_or_a_clear_error() {
    for (name, turn, kind) in MATRIX {
        let (first, second) = (Provider::start(), Provider::start());
        let mut config = pair(&first, &second);
        config["models"]["providers"]["double"]["timeoutMs"] = json!(1000);
        first.then(turn());
        second.then(Turn::text("I am the spare"));
        let story = House::new(&config).ask(&prompt("hello"));
        assert_eq!((story.text().as_str(), story.shown().as_str()), ("I am the spare", "I am the spare"), "{name}");
        assert_eq!(story.attempts(), [format!("double {}", kind.as_str()), "spare ok".to_owned()], "{name}");
        assert!(story.took < FAILOVER_MAX, "{name} took {:?}", story.took);
        let has_shown =
            story.told.iter().take_while(|event| !event.starts_with("fallback")).any(|event| event.starts_with('+'));
        assert_eq!(story.told.iter().any(|event| event == "restart"), has_shown, "{name}: {:?}", story.told);

        // The same without anyone to stand in.
        let alone = Provider::start();
        let mut config = alone.config();
        config["models"]["providers"]["double"]["timeoutMs"] = json!(1000);
        alone.then(turn());
        let story = House::new(&config).ask(&prompt("hello"));
        let failure = story.failure();
        assert_eq!(failure.kind, *kind, "{name}: {failure:?}");
        assert!(
            failure.message.starts_with("double/echo: ") && failure.message.len() > 20,
            "{name}: {}",
            failure.message
        );
        assert!(!failure.message.contains("sk-1") && !failure.message.contains(KEY), "{name}: {}", failure.message);
        assert!(story.took < FAILOVER_MAX, "{name} took {:?}", story.took);
    }
}

#[test]
fn whom_nobody_can_reach_is_passed_over() {
    let spare = Provider::start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        (format!("http://{nobody}/v1"), "refused"),
        // Reserved for documentation: nothing answers there, or nothing leads there.
        ("http://192.0.2.1:9/v1".to_owned(), "cannot be reached"),
        ("http://no-such-host.invalid/v1".to_owned(), "cannot be reached"),
        // It speaks no TLS.
        (spare.url().replace("http:", "https:"), "double/echo: "),
    ];
    for (url, words) in cases {
        let mut config = pair(&spare, &spare);
        config["models"]["providers"]["double"]["baseUrl"] = json!(url);
        spare.may_be_asked_wrongly();
        let story = House::new(&config).ask(&prompt("hello"));
        assert_eq!(story.text(), "ok", "{url}");
        assert!(story.took < FAILOVER_MAX, "{url} took {:?}", story.took);
        let AttemptOutcome::Error(failure) = &story.asked.attempts[0].outcome else { panic!("{url} answered") };
        assert_eq!(failure.kind, FailureKind::Unavailable, "{failure:?}");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

#[test]
fn tls_is_spoken_with_whom_the_roots_know_and_nobody_else() {
    let provider = Provider::start_tls();
    let root = Provider::root();
    let mut house = House::with_env(&provider.config(), &[("SSL_CERT_FILE", root.to_str().unwrap())]);
    for _ in 0..2 {
        assert_eq!(house.ask(&prompt("hello")).text(), "ok");
    }
    let mut stranger = House::new(&provider.config());
    let story = stranger.ask(&prompt("hello"));
    let failure = story.failure();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("TLS failed") && failure.message.contains("UnknownIssuer"), "{}", failure.message);
    assert_eq!(provider.requests().len(), 2, "nothing was sent to whom nobody knows");
}

#[test]
fn a_stopped_run_lets_go_of_its_provider_at_once() {
    let turns: [fn() -> Turn; 4] = [
        || Turn::text("never").hold_after(0),
        || Turn::text("one two three").hold_after(2),
        || Turn::text("one two three").stall_after(2),
        || Turn::status(429).header("retry-after", "2"),
    ];
    for (number, turn) in turns.iter().enumerate() {
        let provider = Arc::new(Provider::start());
        provider.then(turn());
        let mut house = House::new(&provider.config());
        let stop = Stop::default();
        let (stopper, asked) = (stop.clone(), Arc::clone(&provider));
        let waiting = threads::spawn("stopper", threads::STACK_BYTES, move || {
            if number < 2 {
                asked.wait_until_held();
            } else {
                asked.wait_for_requests(1);
            }
            stopper.stop(Why::Rpc);
            Instant::now()
        });
        let story = house.ask_until(&prompt("hello"), &stop);
        let ended = Instant::now();
        let stopped = waiting.unwrap().join().unwrap();
        assert_eq!(story.failure().kind, FailureKind::Stopped, "{number}");
        assert!(ended.saturating_duration_since(stopped) < Duration::from_millis(500), "{number}");
        let next = house.ask_until(&prompt("hello"), &stop);
        assert_eq!((next.failure().kind, provider.requests().len()), (FailureKind::Stopped, 1), "{number}");
        provider.release();
    }
}

#[test]
fn slow_is_not_silent() {
    let provider = Provider::start();
    let mut config = provider.config();
    config["models"]["providers"]["double"]["timeoutMs"] = json!(1000);
    provider.then(Turn::text("one two three").delay(Duration::from_millis(250)).cut_by_limit());
    let story = House::new(&config).ask(&prompt("hello"));
    assert_eq!((story.text().as_str(), provider.turns_left()), ("one two three", 0));
    assert!(story.took > Duration::from_secs(1), "{:?}", story.took);
    assert_eq!(story.asked.result.unwrap().answer.stop, StopReason::Length);
}

#[test]
fn keys_are_used_in_turn_before_the_next_model_is_asked() {
    let provider = Provider::start();
    provider.takes_keys(&["good-key"]).may_be_asked_wrongly();
    let mut config = provider.config();
    config["keys"] = json!({ "double_api_keys": ["bad-key", "good-key"] });
    config["models"]["providers"]["double"].as_object_mut().unwrap().remove("apiKey");
    let mut house = House::new(&config);
    let story = house.ask(&prompt("hello"));
    assert_eq!(story.attempts(), ["double auth", "double ok"]);
    assert_eq!(story.asked.result.unwrap().profile.as_deref(), Some("double:key-2"));
    // The bad one rests.
    let story = house.ask(&prompt("hello"));
    assert_eq!(story.attempts(), ["double ok"]);
    assert!(house.cooldowns.rest("double:key-1", NOW_MS).is_some());
}

#[test]
fn a_short_wait_is_waited_and_a_long_one_is_not() {
    let (first, second) = (Provider::start(), Provider::start());
    let mut house = House::new(&pair(&first, &second));
    first.then(Turn::status(429).header("retry-after", "1"));
    let story = house.ask(&prompt("hello"));
    assert_eq!(story.attempts(), ["double rate_limit", "double ok"]);
    assert!(story.took >= Duration::from_secs(1), "{:?}", story.took);
    first.then(Turn::status(429).header("retry-after", "30"));
    assert_eq!(house.ask(&prompt("hello")).attempts(), ["double rate_limit", "spare ok"]);
    let rest = house.cooldowns.rest("double:default", NOW_MS).unwrap();
    assert_eq!(rest.until_ms() - NOW_MS, 30_000, "as long as it asked for");
    assert_eq!(house.ask(&prompt("hello")).attempts(), ["double skipped profile_cooldown", "spare ok"]);
}

#[test]
fn when_everyone_rests_the_first_to_wake_is_asked_all_the_same() {
    let provider = Provider::start();
    let mut house = House::new(&provider.config());
    provider.then(Turn::status(500));
    assert_eq!(house.ask(&prompt("hello")).failure().kind, FailureKind::Unavailable);
    let story = house.ask(&prompt("hello"));
    assert_eq!((story.text().as_str(), story.attempts().len()), ("ok", 2));
    assert_eq!(story.attempts(), ["double skipped profile_cooldown", "double ok"]);
    assert_eq!(house.cooldowns.rest("double:default", NOW_MS), None, "it answered");
}

#[test]
fn a_prompt_that_is_too_long_is_nobody_elses_to_answer() {
    let (first, second) = (Provider::start(), Provider::start());
    let error =
        json!({ "message": "This model's maximum context length is 8 tokens", "code": "context_length_exceeded" });
    first.then(Turn::status(400).json(&json!({ "error": error })));
    let mut house = House::new(&pair(&first, &second));
    assert_eq!(house.ask(&prompt("hello")).failure().kind, FailureKind::ContextLength);
    assert!(second.requests().is_empty());
    assert_eq!(house.cooldowns, Cooldowns::default(), "nobody rests for it");
}

#[test]
fn strictly_pinned_is_strictly_kept() {
    let (first, second) = (Provider::start(), Provider::start());
    first.then(Turn::status(500));
    let house = House::new(&pair(&first, &second));
    let chain = house.models.chain("main", None, Pinning::Strict);
    let mut cooldowns = Cooldowns::default();
    let stop = Stop::default();
    let asking =
        Asking { stop: &stop, now_ms: &|| NOW_MS, tell: &mut |_| {}, pinned_profile: None, preferred_profile: None };
    let asked = ask(&house.models, &mut cooldowns, &chain, &prompt("hello"), asking);
    assert_eq!(asked.result.unwrap_err().kind, FailureKind::Unavailable);
    assert!(second.requests().is_empty());
}

#[test]
fn a_connection_that_its_provider_closed_costs_no_answer() {
    let provider = Provider::start();
    let mut house = House::new(&provider.config());
    assert_eq!(house.ask(&prompt("one")).text(), "ok");
    // Closed by the provider after it was left open: noticed only when it is used.
    provider.drop_connections();
    let story = house.ask(&prompt("two"));
    assert_eq!((story.text().as_str(), story.attempts().len()), ("ok", 1));
}

#[test]
fn a_kept_connection_that_ends_under_a_request_is_taken_for_old_once() {
    let provider = Provider::start();
    let mut house = House::new(&provider.config());
    assert_eq!(house.ask(&prompt("one")).text(), "ok");
    provider.then(Turn::hang_up());
    let story = house.ask(&prompt("two"));
    assert_eq!((story.text().as_str(), story.attempts().len()), ("ok", 1));
    let connections: Vec<usize> = provider.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    // On a new connection it is the provider's failure.
    provider.drop_connections();
    provider.then(Turn::hang_up());
    assert_eq!(house.ask(&prompt("three")).failure().kind, FailureKind::Unavailable);
}

#[test]
fn secrets_and_headers_reach_the_provider_as_configured() {
    let provider = Provider::start();
    let mut config = provider.config();
    let entry = &mut config["models"]["providers"]["double"];
    entry["apiKey"] = json!("env:DOUBLE_TEST_KEY");
    entry["headers"] = json!({ "X-Team": "env:DOUBLE_TEAM", "x-plain": "p" });
    entry["requestDefaults"] = json!({ "service_tier": "flex", "model": "never" });
    config["agents"]["defaults"]["models"] = json!({ "double/echo": { "params": { "temperature": 0.25 } } });
    let mut house = House::with_env(&config, &[("DOUBLE_TEST_KEY", KEY), ("DOUBLE_TEAM", "crabs")]);
    assert_eq!(house.ask(&prompt("hello")).text(), "ok");
    let request = &provider.requests()[0];
    assert_eq!((request.header("x-team"), request.header("x-plain")), (Some("crabs"), Some("p")));
    assert_eq!(request.header("authorization").unwrap(), format!("Bearer {KEY}"));
    assert_eq!((&request.body["service_tier"], &request.body["model"]), (&json!("flex"), &json!("echo")));
    assert_eq!(request.body["temperature"], 0.25);

    let missing = House::new(&config);
    let availability = missing.models.availability("double");
    assert!(availability.problem.unwrap().contains("DOUBLE_TEAM"));
}
