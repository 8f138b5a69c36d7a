//! A core with a store, for the tests of methods: one admitted caller, no sockets, jobs run where they start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clients::{Admission, Caller, Caps};
use super::effect::RunWork;
use super::pairing::TokenKey;
use super::{Boot, Done, Effect, Event, Fact, Gateway, Job, Origin, Report, Setup, Snapshot, Work, records};
use crate::agent::run::{Outcome, RunEnd};
use crate::agent::talk::{Bill, Failure, FailureKind, Usage};
use crate::config::load::{self, LoadInputs};
use crate::defender::rules::Rules;
use crate::intake::judge;
use crate::protocol::ConnId;
use crate::protocol::connect::{ClientId, ClientMode};
use crate::protocol::error::RpcError;
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::store::dir::StateDir;
use crate::store::open::{Database, OnDamage};
use crate::store::reader::LazyReader;

pub(super) struct Stage {
    pub(super) core: Gateway,
    pub(super) now: Now,
    pub(super) database: Database,
    /// Answers and refusals that found nobody, oldest first: who asked is no connection.
    pub(super) answers: Vec<Result<Value, RpcError>>,
    dir: tempfile::TempDir,
}

impl Stage {
    /// With `config` as its document.
    #[track_caller]
    pub(super) fn new(config: &Value) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.flag_config = Some(file);
        inputs.state_dir = Some(dir.path().to_owned());
        inputs.cwd = dir.path().to_owned();
        inputs.overrides.token = Some(crate::config::secret::Secret::new("stage-token"));
        Stage::with(dir, inputs)
    }

    /// The same, with variables in its environment.
    #[track_caller]
    pub(super) fn with_env(config: &Value, env: &[(&str, &str)]) -> Stage {
        let Stage { dir, core, .. } = Stage::new(&serde_json::json!({}));
        std::fs::write(dir.path().join("openclaw.json"), config.to_string()).unwrap();
        let mut inputs = (*core.load_inputs).clone();
        inputs.env.0 = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Stage::with(dir, inputs)
    }

    /// The same, with files beside its document.
    #[track_caller]
    pub(super) fn with_files(config: &Value, more: &[(&str, &str)]) -> Stage {
        let Stage { dir, core, .. } = Stage::new(&serde_json::json!({}));
        std::fs::write(dir.path().join("openclaw.json"), config.to_string()).unwrap();
        for (name, text) in more {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let inputs = (*core.load_inputs).clone();
        Stage::with(dir, inputs)
    }

    #[track_caller]
    fn with(dir: tempfile::TempDir, inputs: LoadInputs) -> Stage {
        let now = Now { wall_ms: 1_800_000_000_000, ..Now::read() };
        let state = StateDir::open(dir.path()).unwrap();
        let database = Database::open(&state, now.wall_ms, OnDamage::Fail).unwrap().database;
        let loaded = load::load(&inputs).unwrap();
        let rules = Rules::compile(&judge::rule_inputs(&loaded.settings)).unwrap();
        let boot = Boot {
            id: "boot".to_owned(),
            at: now,
            host: "stage".to_owned(),
            platform: "linux".to_owned(),
            state_dir: dir.path().display().to_string(),
            log_file: dir.path().join("gateway.log").display().to_string(),
            port: 1,
        };
        let setup = Setup {
            boot,
            config: Arc::new(loaded),
            load_inputs: inputs,
            rules: Arc::new(rules),
            token_key: TokenKey::new(&[1; 32]),
            kept: records::load(&database, now.wall_ms).unwrap(),
        };
        Stage { core: Gateway::new(setup, now), now, database, answers: Vec::new(), dir }
    }

    /// Where its state and its document lie.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The workspace of an agent.
    pub(super) fn workspace(&self, agent: &str) -> PathBuf {
        self.core.config.settings.agents.get(agent).unwrap().workspace.clone()
    }

    /// What workers are given.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.core.snapshot()
    }

    /// Lets time pass, and what is due happen.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now = Now { mono: self.now.mono + time, wall_ms: self.now.wall_ms + time.as_millis() as i64 };
        self.core.handle(self.now, Event::Timer);
        self.run();
    }

    /// When the core wants to be woken.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.core.deadline()
    }

    fn caller(protocol: Protocol) -> Arc<Caller> {
        Arc::new(Caller {
            conn: ConnId(1),
            protocol,
            role: Role::Operator,
            scopes: Scopes::from_names(["operator.admin"]),
            client_id: ClientId::Cli,
            mode: ClientMode::Cli,
            device_id: None,
            admission: Admission::Token,
            address: [127, 0, 0, 1].into(),
            name: "stage".to_owned(),
            label: "stage".to_owned(),
            caps: Caps::default(),
        })
    }

    /// Calls a method and leaves its job, if it starts one, where it is. `None`: the answer comes later.
    pub(super) fn begin(&mut self, protocol: Protocol, name: &str, params: &Value) -> Result<Option<Value>, RpcError> {
        let raw = params.to_string();
        let answer = self.core.call(self.now, &Stage::caller(protocol), "1", name, Some(&raw))?;
        Ok(answer.map(|json| serde_json::from_slice(&json.0).unwrap()))
    }

    /// Calls a method and does all that follows.
    pub(super) fn call(&mut self, protocol: Protocol, name: &str, params: &Value) -> Result<Value, RpcError> {
        if let Some(answer) = self.begin(protocol, name, params)? {
            self.run();
            return Ok(answer);
        }
        self.answers.clear();
        self.run();
        self.answers.remove(0)
    }

    #[track_caller]
    pub(super) fn ok(&mut self, protocol: Protocol, name: &str, params: &Value) -> Value {
        self.call(protocol, name, params).unwrap_or_else(|error| panic!("{name}: {}", error.message))
    }

    #[track_caller]
    pub(super) fn refused(&mut self, protocol: Protocol, name: &str, params: &Value, why: &str) {
        let error = self.call(protocol, name, params).unwrap_err();
        assert_eq!(error.message, why);
    }

    /// Runs jobs until none is left.
    pub(super) fn run(&mut self) {
        while let Some(effect) = self.core.next_effect() {
            self.carry_out(effect);
        }
    }

    /// Runs the job of an effect, if it starts one, and reports it.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        let Effect::Start(Job { origin, work }) = effect else { return };
        let outcome = match work {
            Work::Query(work) => work(&mut LazyReader::new(self.database.path())),
            Work::Store(work) => self.database.write(|db| work(db)).map_err(RpcError::from),
            Work::Defend(work) => Ok(work(Instant::now())),
            // No model can be asked on this stage: a run ends as soon as it begins.
            Work::Run(run) => Ok(Done { answer: None, facts: vec![Fact::RunEnded(Box::new(no_model(*run)))] }),
        };
        if matches!(origin, Origin::Request { .. }) {
            self.answers.push(match &outcome {
                Ok(Done { answer, .. }) => {
                    Ok(answer.as_ref().map_or(Value::Null, |json| serde_json::from_slice(&json.0).unwrap()))
                }
                Err(error) => Err(error.clone()),
            });
        }
        self.core.handle(self.now, Event::Report(Box::new(Report { origin, outcome })));
    }
}

fn no_model(run: RunWork) -> RunEnd {
    let failure = Failure {
        kind: FailureKind::NoModel,
        message: "no model is configured".to_owned(),
        status: None,
        retry_after_ms: None,
    };
    RunEnd {
        judged: None,
        compacted: None,
        outcome: Outcome::Failed(failure),
        usage: Usage::default(),
        bill: Bill::default(),
        unrecorded: Usage::default(),
        attempts: Vec::new(),
        tool_calls: 0,
        steps: 0,
        load: None,
        began_ms: 0,
        ended_ms: 0,
        cooldowns: run.input.cooldowns,
    }
}
