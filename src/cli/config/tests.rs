use std::fs;

use tempfile::TempDir;

use super::*;
use crate::cli::capture;

/// A machine with one configuration file.
struct Machine {
    home: TempDir,
    name: &'static str,
}

impl Machine {
    fn new(name: &'static str, text: &str) -> Machine {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join(name), text).unwrap();
        Machine { home, name }
    }

    fn args(&self, path: Option<&str>, value: Option<&str>) -> Args {
        let mut args = Args::default();
        args.place.config = Some(self.home.path().join(self.name));
        args.place.state_dir = Some(self.home.path().to_owned());
        args.config.path = path.map(str::to_owned);
        args.config.value = value.map(str::to_owned);
        args
    }

    fn text(&self) -> String {
        fs::read_to_string(self.home.path().join(self.name)).unwrap()
    }

    fn run(&self, run: super::super::flags::Run, json: bool, args: &Args) -> Result<String, String> {
        let mut ended = Ok(Outcome::Done);
        let text = capture(json, |out| {
            ended = run(args, out);
            Ok(())
        });
        ended.map(|_| text).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn set(&self, path: &str, value: &str) -> String {
        self.run(set, false, &self.args(Some(path), Some(value))).unwrap();
        self.text()
    }

    fn get(&self, path: &str) -> Result<String, String> {
        self.run(get, false, &self.args(Some(path), None)).map(|text| text.trim_end().to_owned())
    }
}

#[test]
fn reads_what_is_written_else_the_default_and_never_a_secret() {
    let text = "{ gateway: { port: 1234, auth: { token: 'canary-0123456789' } }, agents: { list: [ { id: 'a' } ] } }";
    let machine = Machine::new("openclaw.json", text);
    assert_eq!(machine.get("gateway.port"), Ok("1234".to_owned()));
    assert_eq!(machine.get("gateway.bind"), Ok("loopback".to_owned()));
    assert_eq!(machine.get("agents.list[0].id"), Ok("a".to_owned()));
    assert_eq!(machine.get("gateway.auth.token"), Ok("__OPENCLAW_REDACTED__".to_owned()));
    let all = machine.run(get, false, &machine.args(None, None)).unwrap();
    assert!(all.contains("1234") && !all.contains("canary"), "{all}");
    assert_eq!(machine.run(get, true, &machine.args(Some("gateway.bind"), None)).unwrap(), "\"loopback\"\n");
    let missing = machine.get("gateway.prot").unwrap_err();
    assert_eq!(missing, "gateway.prot is not set, and no key has this name");
    assert_eq!(
        machine.get("gateway.customBindHost").unwrap_err(),
        "gateway.customBindHost is not set and has no default"
    );
}

#[test]
fn both_spellings_and_aliases_reach_one_value() {
    let machine =
        Machine::new("openclaw.json", "{ security: { block_threshold: 70 }, gateway: { token: 'canary-0123456789' } }");
    assert_eq!(machine.get("security.blockThreshold"), Ok("70".to_owned()));
    assert_eq!(machine.get("security.block_threshold"), Ok("70".to_owned()));
    assert_eq!(machine.get("gateway.auth.token"), Ok("__OPENCLAW_REDACTED__".to_owned()));
}

#[test]
fn a_change_leaves_the_rest_of_the_file_alone() {
    let machine =
        Machine::new("openclaw.json", "{\n  // where to listen\n  gateway: { port: 1, bind: 'lan' }, // both\n}\n");
    let text = machine.set("gateway.port", "19000");
    assert!(text.contains("// where to listen") && text.contains("// both"), "{text}");
    assert_eq!(machine.get("gateway.port"), Ok("19000".to_owned()));
    assert_eq!(machine.get("gateway.bind"), Ok("lan".to_owned()));

    let machine = Machine::new("openclaw-rs.toml", "# mine\n[gateway]\nport = 1 # low\n");
    let text = machine.set("gateway.port", "2");
    assert!(text.contains("# mine") && text.contains("# low") && text.contains("port = 2"), "{text}");
}

#[test]
fn text_is_taken_as_it_is_where_text_is_meant() {
    let machine = Machine::new("openclaw.json", "{}");
    machine.set("gateway.bind", "lan");
    machine.set("gateway.auth.token", "1234567890123456");
    machine.set("ui.assistant.name", "true");
    let text = machine.text();
    assert!(text.contains("\"1234567890123456\"") && text.contains("\"true\"") && text.contains("lan"), "{text}");
}

#[test]
fn a_value_is_replaced_not_merged() {
    let list = "{ gateway: { controlUi: { allowedOrigins: ['https://a', 'https://b'] } },
                  security: { tool_policies: { exec: 'block', bash: 'review' } } }";
    let machine = Machine::new("openclaw.json", list);
    machine.set("gateway.controlUi.allowedOrigins", "['https://c']");
    machine.set("security.tool_policies", "{ exec: 'allow' }");
    assert_eq!(machine.get("gateway.controlUi.allowedOrigins[0]"), Ok("https://c".to_owned()));
    assert!(machine.get("gateway.controlUi.allowedOrigins[1]").is_err());
    assert_eq!(machine.get("security.tool_policies.exec"), Ok("allow".to_owned()));
    assert!(machine.get("security.tool_policies.bash").is_err());
    machine.set("gateway.controlUi.allowedOrigins[0]", "https://d");
    assert_eq!(machine.get("gateway.controlUi.allowedOrigins[0]"), Ok("https://d".to_owned()));
}

#[test]
fn what_cannot_be_used_is_not_written() {
    let machine = Machine::new("openclaw.json", "{ gateway: { port: 1 } }");
    for (path, value) in
        [("gateway.port", "70000"), ("gateway.prot", "1"), ("gateway.port.x", "1"), ("gateway.bind", "custom")]
    {
        let refused = machine.run(set, false, &machine.args(Some(path), Some(value))).unwrap_err();
        assert!(refused.contains("was not changed"), "{path}: {refused}");
        assert_eq!(machine.text(), "{ gateway: { port: 1 } }", "{path}");
    }
    assert!(machine.run(patch, false, &machine.args(None, Some("[]"))).is_err());
    for path in ["", ".a", "a..b", "a[", "a[x]", "[0]"] {
        assert!(key_path(path).is_err(), "{path}");
    }
}

#[test]
fn a_change_may_mend_a_document_that_breaks_a_rule() {
    let machine = Machine::new("openclaw.json", "{ gateway: { port: 'x' } }");
    machine.set("gateway.port", "5");
    assert_eq!(machine.get("gateway.port"), Ok("5".to_owned()));
}

#[test]
fn unset_brings_the_default_back_and_says_when_there_is_nothing() {
    let machine = Machine::new("openclaw.json", "{ gateway: { port: 1, bind: 'lan' } }");
    machine.run(unset, false, &machine.args(Some("gateway.port"), None)).unwrap();
    assert_eq!(machine.get("gateway.port"), Ok("18789".to_owned()));
    assert_eq!(machine.get("gateway.bind"), Ok("lan".to_owned()));
    assert!(machine.run(unset, false, &machine.args(Some("gateway.port"), None)).is_err());
}

#[test]
fn several_changes_are_one_step() {
    let machine = Machine::new("openclaw.json", "{ gateway: { port: 1, bind: 'lan' } }");
    let args = machine.args(None, Some("{gateway: {port: 2, bind: null}}"));
    let answer = machine.run(patch, true, &args).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["changes"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(
        (machine.get("gateway.port"), machine.get("gateway.bind")),
        (Ok("2".to_owned()), Ok("loopback".to_owned()))
    );
    let again = machine.run(set, false, &machine.args(Some("gateway.port"), Some("2"))).unwrap();
    assert!(again.contains("says so already"), "{again}");
}

#[test]
fn validate_names_every_problem_and_strict_counts_unknown_keys() {
    let machine = Machine::new("openclaw.json", "{ gateway: { port: 'x', bind: 'moon', prot: 1 } }");
    let mut args = machine.args(None, None);
    let text = machine.run(validate, false, &args).unwrap();
    assert!(text.contains("gateway.port") && text.contains("gateway.bind"), "{text}");
    assert!(text.contains("2 problems") && text.contains("warning"), "{text}");
    args.config.strict = true;
    assert!(machine.run(validate, false, &args).unwrap().contains("3 problems"));
    let mut ended = None;
    capture(true, |out| {
        ended = validate(&args, out).ok();
        Ok(())
    });
    assert_eq!(ended, Some(Outcome::BadNews(Exit::Config)));

    let broken = Machine::new("openclaw.json", "{ gateway: {\n port: , } }");
    let refused = broken.run(validate, false, &broken.args(None, None)).unwrap_err();
    assert!(refused.contains("openclaw.json:2:"), "{refused}");
}
