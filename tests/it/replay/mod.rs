//! Replays the recordings of two released gateways (`fixtures/recordings`) and holds us to what we already match.
//!
//! `cargo test replay` plays the recordings on a gateway of ours, one for each protocol, judges the families of [`HELD`] (the
//! others are played for what they leave behind: a folder makes sense only as a whole, in its order), and fails below the
//! committed floor (`fixtures/recordings/floor.json`), whose numbers only rise. Recorded successes are counted apart
//! from refusals: a gateway that refuses everything would match many steps. Differences that are meant are listed with
//! their reason (`fixtures/recordings/explained.json`) and counted apart, never as matches.
//!
//! Environment, for people: `REPLAY=cron,chat` or `REPLAY=all` judges other families, `REPLAY_VERBOSE=1` prints what differs
//! (`REPLAY_VERBOSE=all` also of methods that are not built),
//! `REPLAY_RAISE=1` raises the floor to what was reached. With `REPLAY_URL`, `REPLAY_TOKEN` and `REPLAY_PROTOCOL`
//! the ignored test `plays_against_another_gateway` plays against a gateway that is already running (a released one, to
//! calibrate this replayer; `REPLAY_HIDE` names its state directory, `REPLAY_WORKSPACE` its workspace); with `REPLAY_HOLD`
//! that is one of ours, and is held to the floor.

mod explained;
mod judge;
mod model;
mod normal;
mod recording;
mod report;
mod runner;
mod shape;
mod variables;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::sync::Mutex;
use std::time::Duration;

use openclaw_rs::runtime::random;
use serde_json::json;

use self::explained::Explained;
use self::judge::judge;
use self::normal::Normal;
use self::report::{Floor, Judged, Report};
use self::runner::{Part, Patience, Response, Runner, Target};
use crate::harness::{Proto, Server};

/// Families that must hold their floor in every run of the tests.
const HELD: [&str; 10] =
    ["connect", "device", "config", "system", "scopes", "agents", "models-tools", "chat", "agent", "sessions"];

/// Our own gateway answers at once or not at all.
const OUR_PATIENCE: Patience =
    Patience { step: Duration::from_secs(6), hurried: Duration::from_millis(500), start: Duration::from_secs(10) };
/// A released gateway starts slowly and may answer slowly on a busy machine.
const THEIR_PATIENCE: Patience =
    Patience { step: Duration::from_secs(20), hurried: Duration::from_millis(2500), start: Duration::from_secs(90) };

/// Only one replay writes the floor at a time.
static FLOOR: Mutex<()> = Mutex::new(());

#[test]
fn protocol_3_recordings_hold_the_floor() {
    play_against_ours(Proto::V3);
}

#[test]
fn protocol_4_recordings_hold_the_floor() {
    play_against_ours(Proto::V4);
}

#[test]
#[ignore = "needs a gateway at REPLAY_URL"]
fn plays_against_another_gateway() {
    let want = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let proto = if want("REPLAY_PROTOCOL") == "3" { Proto::V3 } else { Proto::V4 };
    let holds = env::var_os("REPLAY_HOLD").is_some();
    let address = want("REPLAY_URL").trim_start_matches("ws://").trim_end_matches('/').parse();
    let target = Target {
        address: address.expect("REPLAY_URL is ws://ADDRESS:PORT"),
        token: want("REPLAY_TOKEN"),
        proto,
        patience: if holds { OUR_PATIENCE } else { THEIR_PATIENCE },
    };
    let hidden: Vec<String> = env::var("REPLAY_HIDE").unwrap_or_default().split(',').map(str::to_owned).collect();
    let workspace = env::var("REPLAY_WORKSPACE").unwrap_or_default();
    let explained = Explained::load();
    let report = play(target, &hidden, &workspace, families().unwrap_or(Families::All), &explained);
    println!("{}\n{}\n{}", report.table(), report.needed_table(), report.mismatches(true, !holds));
    assert!(!report.judged.is_empty(), "nothing was played");
    if holds {
        let standing = Floor::load().standing(&report);
        assert!(standing.below.is_empty(), "below the floor:\n{}", standing.below.join("\n"));
    }
}

/// Which families are played.
enum Families {
    All,
    Named(Vec<String>),
}

fn families() -> Option<Families> {
    match env::var("REPLAY").ok()?.as_str() {
        "all" => Some(Families::All),
        names => Some(Families::Named(names.split(',').map(str::to_owned).collect())),
    }
}

#[track_caller]
fn play_against_ours(proto: Proto) {
    let workspace = tempfile::TempDir::new().expect("a temporary directory can be made");
    let folder = workspace.path().join("workspace");
    std::fs::create_dir(&folder).expect("a temporary directory can be filled");
    let folder = folder.to_string_lossy().into_owned();
    let model = model::start();
    let server = Server::with().config(&recorded_configuration(proto, &folder, &model.url())).start();
    let hidden = [server.state_dir().to_string_lossy().into_owned()];
    let target = Target { address: server.address(), token: Server::TOKEN.to_owned(), proto, patience: OUR_PATIENCE };
    let wanted = families().unwrap_or_else(|| Families::Named(HELD.map(str::to_owned).to_vec()));
    let explained = Explained::load();
    let report = play(target, &hidden, &folder, wanted, &explained);
    println!("{}\n{}", report.table(), report.needed_table());
    if let Ok(how) = env::var("REPLAY_VERBOSE") {
        println!("{}", report.mismatches(true, how == "all"));
    }
    let _held = FLOOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut floor = Floor::load();
    let standing = floor.standing(&report);
    if env::var_os("REPLAY_RAISE").is_some() {
        floor.raise(&report);
    } else if !standing.above.is_empty() {
        println!("raise the floor (REPLAY_RAISE=1 cargo test replay):\n{}", standing.above.join("\n"));
    }
    assert!(
        standing.below.is_empty(),
        "below the floor:\n{}\n{}",
        standing.below.join("\n"),
        report.mismatches(true, false)
    );
    let idle = explained.idle(&report, &HELD);
    assert!(idle.is_empty(), "explained, and not different any more: take them off the list\n{}", idle.join("\n"));
}

/// The configuration with which the released gateways were recorded, but for the port and token that the harness sets.
fn recorded_configuration(proto: Proto, workspace: &str, model: &str) -> serde_json::Value {
    let mut config = json!({
        "gateway": { "mode": "local", "bind": "loopback" },
        "update": { "checkOnStart": false },
        "agents": { "defaults": {
            "workspace": workspace, "model": { "primary": "stub/test-model" }, "skipBootstrap": true,
        } },
        "models": { "mode": "merge", "providers": { "stub": {
            "baseUrl": format!("{model}/v1"), "apiKey": model::KEY, "api": "openai-completions",
            "models": [{
                "id": "test-model", "name": "Test Model", "reasoning": false, "input": ["text"],
                "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
                "contextWindow": 128000, "maxTokens": 8192,
            }],
        } } },
        "tools": { "exec": { "host": "gateway", "security": "full", "ask": "off" } },
        // A recorded gateway has nobody who reviews a command for being unknown.
        "security": { "tool_risk_bonus": { "exec": 0, "process": 0 }, "channel_risk_bonus": { "webchat": 0 } },
    });
    if proto == Proto::V4 {
        config["agents"]["entries"] = json!({ "main": {} });
    }
    config
}

fn play(target: Target, hidden: &[String], workspace: &str, wanted: Families, explained: &Explained) -> Report {
    let run = format!("r{}", &random::hex(&random::bytes::<4>())[1..]);
    let normal = Normal::new(&run, &target.token, hidden);
    let proto = target.proto;
    let mut runner = Runner::new(target.clone());
    for (name, value) in [("TOKEN", target.token.as_str()), ("RUN", &run), ("WS", workspace)] {
        runner.variables.set(name, value);
    }
    runner.variables.set("BIG", "b".repeat(100_000));
    runner.variables.set("PROTO", proto.number());
    let hello = runner.greet().unwrap_or_else(|refusal| panic!("{refusal}"));
    let mut seen = Methods::listed(&hello);
    let mut report = Report { proto, judged: Vec::new(), skipped: BTreeMap::new(), unbuilt: HashSet::new() };
    for scenario in &recording::scenarios(proto) {
        let judged = match &wanted {
            Families::All => true,
            Families::Named(names) => names.contains(&scenario.family),
        };
        let observed = runner.play(scenario, if judged { Part::Judged } else { Part::Context });
        for (step, observed) in scenario.steps.iter().zip(&observed) {
            if let Some(method) = &step.method {
                seen.note(method, &observed.response);
            }
            if !judged || (step.expect.is_none() && step.expect_events.is_empty()) {
                continue;
            }
            if step.unstable || step.net {
                *report.skipped.entry(scenario.family.clone()).or_default() += 1;
                continue;
            }
            let verdict = judge(step, observed, &normal);
            let is_meant = |found| explained.all(proto, &scenario.family, step, found);
            let (hard, soft) = (is_meant(&verdict.hard), is_meant(&verdict.soft));
            report.judged.push(Judged::new(&scenario.family, step, verdict, hard, soft));
        }
    }
    report.unbuilt = seen.unbuilt();
    report
}

/// Which methods the gateway has: those it lists, and those it answered in some way that an unknown one is not.
struct Methods(HashMap<String, bool>);

impl Methods {
    fn listed(hello: &serde_json::Value) -> Methods {
        let names = hello["features"]["methods"].as_array().expect("a hello lists its methods");
        Methods(names.iter().filter_map(|name| Some((name.as_str()?.to_owned(), true))).collect())
    }

    fn note(&mut self, method: &str, response: &Response) {
        let refusal = match response {
            Response::Answer { frame, .. } => frame["error"]["message"].as_str().unwrap_or(""),
            _ => return,
        };
        let says_nothing = ["unknown method:", "missing scope:", "unauthorized role:"];
        let answered = !says_nothing.iter().any(|text| refusal.starts_with(text));
        *self.0.entry(method.to_owned()).or_insert(false) |= answered;
    }

    fn unbuilt(self) -> HashSet<String> {
        self.0.into_iter().filter(|(_, built)| !built).map(|(name, _)| name).collect()
    }
}
