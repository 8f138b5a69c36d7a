use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use super::super::processes::{self, Ended};
use super::*;
use crate::config::load::{self, LoadInputs, Loaded};
use crate::runtime::random;
use crate::runtime::stop::{Stop, Why};
use crate::tools::session_status::Facts;
use crate::tools::{self, Hands};

struct Bench {
    temp: tempfile::TempDir,
    config: Loaded,
    rules: crate::defender::rules::Rules,
    stop: Stop,
    facts: Facts,
    hands: Lent,
    ended: Receiver<Ended>,
}

#[derive(Debug)]
struct Lent {
    processes: Processes,
    told: RefCell<Vec<Progress>>,
}

impl Hands for Lent {
    fn processes(&self) -> Option<Processes> {
        Some(self.processes.clone())
    }

    fn tell(&self, progress: Progress) {
        self.told.borrow_mut().push(progress);
    }
}

impl Bench {
    fn new(config: &Value) -> Bench {
        let temp = tempfile::TempDir::new().unwrap();
        fs::create_dir(temp.path().join("w")).unwrap();
        let path = temp.path().join("openclaw.json");
        fs::write(&path, config.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.state_dir = Some(temp.path().to_owned());
        inputs.flag_config = Some(path);
        let (tell, ended) = unbounded();
        let processes = Processes::new(format!("exec-{}", random::uuid()), move |end| tell.send(end).unwrap());
        Bench {
            config: load::load(&inputs).unwrap(),
            rules: crate::defender::rules::Rules::compile(&Default::default()).unwrap(),
            stop: Stop::default(),
            facts: Facts { key: "agent:main:main".to_owned(), agent: "main".to_owned(), ..Facts::default() },
            hands: Lent { processes, told: RefCell::default() },
            ended,
            temp,
        }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("w")
    }

    fn with<T>(&self, then: impl FnOnce(&Scene<'_>) -> T) -> T {
        let (config, rules, stop, hands) = (&self.config, &self.rules, &self.stop, &self.hands);
        then(&Scene { workspace: &self.root(), session: &self.facts, config, rules, stop, hands })
    }

    fn bind(&self, arguments: &Value) -> Result<Command, ToolError> {
        let mut prepared = TOOL.prepare(arguments)?;
        self.with(|scene| prepared.bind(scene)).map(|command| command.expect("it runs a command"))
    }

    fn call(&self, tool: &Tool, arguments: &Value) -> Result<Output, ToolError> {
        let mut prepared = tool.prepare(arguments)?;
        self.with(|scene| {
            prepared.bind(scene)?;
            prepared.run(scene)
        })
    }

    #[track_caller]
    fn run(&self, arguments: Value) -> Output {
        self.call(&TOOL, &arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"))
    }

    #[track_caller]
    fn refuses(&self, arguments: Value, words: &str) {
        let error = self.call(&TOOL, &arguments).expect_err("it is refused").to_string();
        assert!(error.contains(words), "{words:?} not in {error:?}");
    }

    fn process(&self, arguments: Value) -> Output {
        self.call(&tools::process::TOOL, &arguments).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        assert!(self.hands.processes.stop());
    }
}

#[test]
fn a_command_is_run_where_and_as_it_says() {
    let bench = Bench::new(&json!({}));
    fs::create_dir(bench.root().join("sub")).unwrap();
    let said = bench.run(json!({ "command": "pwd; echo $NAME", "workdir": "sub", "env": { "NAME": "ann" } }));
    let dir = bench.root().canonicalize().unwrap().join("sub");
    assert_eq!(said.text, format!("{}\nann", dir.display()));
    let details = said.details.unwrap();
    assert_eq!(
        (&details["status"], &details["exitCode"], &details["cwd"]),
        (&json!("completed"), &json!(0), &json!(dir))
    );
    let said = bench.run(json!({ "command": ["printf", "%s|", "a b", "$HOME", "*", ";id"] }));
    assert_eq!(said.text, "a b|$HOME|*|;id|", "a list of words meets no shell");
    let said = bench.run(json!({ "command": "exit 3" }));
    assert_eq!(said.text, "(no output)\n\n(Command exited with code 3)");
    let said = bench.run(json!({ "command": "cat" }));
    assert_eq!(said.text, "(no output)", "it finds the end at once");
}

#[test]
fn a_call_says_something_that_can_be_run() {
    let bench = Bench::new(&json!({}));
    for (arguments, words) in [
        (json!({}), "command"),
        (json!({ "command": "  " }), "says nothing"),
        (json!({ "command": [] }), "says nothing"),
        (json!({ "command": ["ls", 3] }), "a line or a list of words"),
        (json!({ "command": { "a": 1 } }), "a line or a list of words"),
        (json!({ "command": "a\0b" }), "no command can hold"),
        (json!({ "command": "x".repeat(COMMAND_CHARS_MAX + 1) }), "characters"),
        (json!({ "command": vec!["x"; WORDS_MAX + 1] }), "words"),
        (json!({ "command": "id", "workdir": ".." }), "outside of the workspace"),
        (json!({ "command": "id", "cwd": "/etc" }), "outside of the workspace"),
        (json!({ "command": "id", "workdir": "  " }), "names no directory"),
        (json!({ "command": "id", "env": { "LD_PRELOAD": "x.so" } }), "Security Violation"),
        (json!({ "command": "id", "env": { "A": 1 } }), "must be string"),
        (json!({ "command": "id", "host": "moon" }), "host moon"),
        (json!({ "command": "id", "approved": true }), "approved"),
        (json!({ "command": ["no-such-program"] }), "Command not found: no-such-program"),
    ] {
        bench.refuses(arguments, words);
    }
    assert!(TOOL.prepare(&json!({ "command": "x".repeat(COMMAND_CHARS_MAX) })).is_ok(), "the limit itself");
}

#[test]
fn nothing_of_the_gateways_own_environment_reaches_it() {
    let bench = Bench::new(&json!({}));
    let said = bench.run(json!({ "command": "env" }));
    let names: Vec<&str> = said.text.lines().map(|line| line.split('=').next().unwrap()).collect();
    let known = |name: &str| {
        let known = [
            "HOME",
            "USER",
            "LOGNAME",
            "LANG",
            "LANGUAGE",
            "TZ",
            "TMPDIR",
            "COLORTERM",
            "NO_COLOR",
            "TERM",
            "PATH",
            "PWD",
            "OLDPWD",
            "SHELL",
            "SHLVL",
            "_",
            "OPENCLAW_SHELL",
            processes::sweep::MARK,
        ];
        known.contains(&name) || name.starts_with("LC_")
    };
    assert!(names.iter().all(|name| known(name)), "{names:?}");
}

#[test]
fn what_is_judged_is_the_line_with_the_variables_it_is_given() {
    let judged = |arguments: Value| {
        let prepared = TOOL.prepare(&arguments).unwrap();
        tools::tests::scene(Path::new("/"), &Facts::default(), |scene| prepared.parts(scene).command.unwrap())
    };
    assert_eq!(judged(json!({ "command": ["rm", "-rf", "a b"] })), "rm -rf 'a b'");
    assert_eq!(judged(json!({ "command": "sh -c \"$X\"", "env": { "X": "rm -rf /" } })), "X='rm -rf /' sh -c \"$X\"");
    let bench = Bench::new(&json!({}));
    for arguments in [
        json!({ "command": ["rm", "-rf", "/"] }),
        json!({ "command": "$X", "env": { "X": "rm -rf /" } }),
        json!({ "command": ["env", "-S", "rm -rf /"] }),
        json!({ "command": ["sh", "-c", "r''m -rf /"] }),
    ] {
        let prepared = TOOL.prepare(&arguments).unwrap();
        let decision = bench.rules.evaluate(&bench.with(|scene| prepared.parts(scene)), || false);
        assert_ne!(decision.action, crate::defender::decision::Action::Allow, "{arguments}");
    }
}

#[test]
fn what_was_bound_is_what_runs_or_nothing_is() {
    let bench = Bench::new(&json!({}));
    let script = bench.root().join("x.sh");
    fs::write(&script, "echo one").unwrap();
    let arguments = json!({ "command": "sh x.sh" });
    let mut prepared = TOOL.prepare(&arguments).unwrap();
    bench.with(|scene| prepared.bind(scene)).unwrap();
    fs::write(&script, "echo two").unwrap();
    let error = bench.with(|scene| prepared.run(scene)).unwrap_err();
    assert!(error.to_string().contains("x.sh changed after the command was read"), "{error}");
    assert_eq!(bench.run(arguments).text, "two");
    let unbound = TOOL.prepare(&json!({ "command": "echo hi" })).unwrap();
    assert!(bench.with(|scene| unbound.run(scene)).is_err(), "what was not bound is not run");
}

#[test]
fn the_digest_stands_for_words_place_environment_and_files() {
    let bench = Bench::new(&json!({}));
    fs::write(bench.root().join("x.sh"), "echo one").unwrap();
    let digest = |arguments: Value| bench.bind(&arguments).unwrap().digest;
    let first = digest(json!({ "command": "sh x.sh" }));
    assert_eq!((first.len(), &first), (64, &digest(json!({ "command": "sh x.sh" }))));
    assert_ne!(first, digest(json!({ "command": "sh x.sh", "env": { "A": "1" } })));
    assert_ne!(first, digest(json!({ "command": "sh x.sh ", })));
    assert_ne!(first, digest(json!({ "command": ["sh", "x.sh"] })));
    fs::write(bench.root().join("x.sh"), "echo two").unwrap();
    assert_ne!(first, digest(json!({ "command": "sh x.sh" })));
}

#[test]
fn a_call_can_only_be_stricter_than_what_is_configured() {
    let facts = |config: Value, arguments: Value| {
        let bench = Bench::new(&config);
        bench.bind(&arguments).map(|command| (command.host, command.security, command.ask)).map_err(|e| e.to_string())
    };
    let id = |more: Value| {
        let mut arguments = json!({ "command": "id" });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    let plain = facts(json!({}), id(json!({}))).unwrap();
    assert_eq!(plain, (Host::Sandbox, Security::Full, Ask::OnMiss));
    let wanted = id(json!({ "security": "deny", "ask": "always" }));
    assert_eq!(facts(json!({}), wanted).unwrap(), (Host::Sandbox, Security::Deny, Ask::Always));
    let strict = json!({ "tools": { "exec": { "host": "gateway", "security": "allowlist", "ask": "always" } } });
    let wanted = id(json!({ "security": "full", "ask": "off" }));
    assert_eq!(facts(strict, wanted).unwrap(), (Host::Gateway, Security::Allowlist, Ask::Always));
    let gateway = json!({ "tools": { "exec": { "host": "gateway" } } });
    assert_eq!(facts(gateway, id(json!({}))).unwrap().1, Security::Allowlist);
    let auto = json!({ "tools": { "exec": { "host": "auto" } } });
    assert_eq!(facts(auto, id(json!({ "host": "gateway" }))).unwrap().0, Host::Gateway);
    let error = facts(json!({}), id(json!({ "host": "gateway" }))).unwrap_err();
    assert!(error.starts_with("exec host not allowed (requested gateway; configured host is sandbox;"), "{error}");
    assert!(facts(json!({}), id(json!({ "elevated": true }))).unwrap_err().contains("allow_elevated"));
    let elevated = json!({ "tools": { "shell_policy": { "allow_elevated": true } } });
    assert_eq!(facts(elevated, id(json!({ "elevated": true }))).unwrap().0, Host::Gateway);
    assert!(facts(json!({}), id(json!({ "host": "node" }))).is_err());
}

#[test]
fn one_that_takes_long_goes_on_in_the_background() {
    let bench = Bench::new(&json!({}));
    let said = bench.run(json!({ "command": "echo begun; read x", "background": true }));
    let details = said.details.unwrap();
    let id = details["sessionId"].as_str().unwrap().to_owned();
    assert_eq!(details["status"], "running");
    assert!(
        said.text.starts_with(&format!("Command still running (session {id}, pid {}). Use process", details["pid"]))
    );
    assert_eq!(said.background.unwrap().session.as_deref(), Some("agent:main:main"));
    let polled = bench.process(json!({ "action": "poll", "sessionId": id, "timeout": 5_000 }));
    assert_eq!(polled.text, "begun\n\nProcess still running.");
    let written = bench.process(json!({ "action": "submit", "sessionId": id }));
    assert!(written.text.starts_with("Submitted session"), "{}", written.text);
    assert_eq!(bench.ended.recv().unwrap().exit, processes::Exit::Code(0));
    let log = bench.process(json!({ "action": "log", "sessionId": id }));
    assert_eq!(log.text, "begun\n\nProcess exited with code 0.");

    let said = bench.run(json!({ "command": "sleep 88", "yieldMs": 20 }));
    let id = said.details.unwrap()["sessionId"].clone();
    assert_eq!(bench.process(json!({ "action": "kill", "sessionId": id })).details.unwrap()["status"], "completed");
    assert_eq!(bench.ended.recv().unwrap().exit, processes::Exit::Cancelled);
    assert_eq!(bench.process(json!({ "action": "clear", "sessionId": id })).details.unwrap()["status"], "completed");
    let unknown = bench.process(json!({ "action": "poll", "sessionId": id }));
    assert_eq!(unknown.details.unwrap()["error"], "process_not_found");
    let unknown = bench.process(json!({ "action": "poll", "sessionId": "nonsense" }));
    assert_eq!(unknown.text, "No session found for nonsense");
}

#[test]
fn another_agent_does_not_see_it() {
    let mut bench = Bench::new(&json!({}));
    let id = bench.run(json!({ "command": "sleep 87", "background": true })).details.unwrap()["sessionId"].clone();
    bench.facts.agent = "another".to_owned();
    for action in ["poll", "log", "kill", "remove", "submit", "clear"] {
        let said = bench.process(json!({ "action": action, "sessionId": id }));
        assert_eq!(said.details.unwrap()["error"], "process_not_found", "{action}");
    }
    assert_eq!(bench.process(json!({ "action": "list" })).text, "No running or recent sessions.");
}

#[test]
fn no_more_go_on_than_are_configured() {
    let bench = Bench::new(&json!({ "tools": { "shell_policy": { "max_background_processes": 1 } } }));
    bench.run(json!({ "command": "sleep 86", "background": true }));
    bench.refuses(json!({ "command": "sleep 86", "background": true }), "1 commands run in the background already");
    let waited = bench.run(json!({ "command": "sleep 0.2; echo done", "yieldMs": 10 }));
    assert!(waited.text.starts_with("Warning: 1 commands run") && waited.text.ends_with("done"), "{}", waited.text);
    assert!(waited.details.unwrap()["warnings"][0].as_str().unwrap().starts_with("Warning: 1"));
}

#[test]
fn one_that_takes_too_long_is_ended_and_that_is_said() {
    let bench = Bench::new(&json!({}));
    let said = bench.run(json!({ "command": "echo half; sleep 85", "timeoutMs": 100 }));
    assert!(said.text.starts_with("half\n\nCommand timed out after 0.1 seconds. It was ended,"), "{}", said.text);
    let details = said.details.unwrap();
    assert_eq!((&details["status"], &details["timedOut"]), (&json!("failed"), &json!(true)));
}

#[test]
fn a_run_that_is_stopped_ends_its_command() {
    let bench = Bench::new(&json!({}));
    bench.stop.stop(Why::Rpc);
    bench.refuses(json!({ "command": "sleep 84" }), "its run was stopped");
}

#[test]
fn what_it_writes_is_shown_while_it_runs() {
    let bench = Bench::new(&json!({}));
    bench.run(json!({ "command": "echo one; sleep 0.3; echo two" }));
    let told = bench.hands.told.borrow();
    assert_eq!(told[0].text, "one\n");
    assert_eq!((&told[0].details["status"], &told[0].details["tail"]), (&json!("running"), &json!("one\n")));
}

#[test]
fn a_terminal_is_given_to_who_asks_for_one() {
    let bench = Bench::new(&json!({}));
    let said = bench.run(json!({ "command": "test -t 0 && test -t 1 && echo yes $TERM", "pty": true }));
    assert_eq!(said.text, "yes xterm-256color");
    let said = bench.run(json!({ "command": "test -t 1 || echo no $TERM" }));
    assert_eq!(said.text, "no dumb");
}
