use super::*;
use crate::cli::args::Special;
use crate::cli::commands::ROOT;
use crate::cli::help::walk;

fn read(line: &str) -> Result<Parsed, String> {
    let words = line.split_whitespace().map(OsString::from);
    parse(&ROOT, words).map_err(|error| format!("{error}; {}", error.hint()))
}

#[track_caller]
fn args(line: &str) -> Box<Args> {
    match read(line) {
        Ok(Parsed::Run(_, args)) => args,
        Ok(_) => panic!("{line} does not run"),
        Err(error) => panic!("{line}: {error}"),
    }
}

#[track_caller]
fn refused(line: &str, expected: &str) {
    match read(line) {
        Ok(_) => panic!("{line} is understood"),
        Err(error) => assert_eq!(error, expected, "{line}"),
    }
}

#[test]
fn reads_what_the_manual_shows() {
    for found in walk(&ROOT) {
        for example in found.command.examples {
            let line = example.line.split(['|', '>']).next().unwrap();
            let words = line.split_whitespace().skip(1).map(|word| OsString::from(word.trim_matches('\'')));
            // A JSON value in quotes is one word to a shell; here its pieces only have to stay away from the flags.
            if line.contains('{') {
                continue;
            }
            let parsed = parse(&ROOT, words);
            assert!(parsed.is_ok(), "{}: {}", example.line, parsed.err().unwrap());
        }
    }
}

#[test]
fn flags_stand_anywhere_and_in_every_spelling() {
    let args = args("--state-dir=/s gateway --json call -- --health");
    assert_eq!(args.place.state_dir.as_deref(), Some(std::path::Path::new("/s")));
    assert!(args.json);
    assert_eq!(args.call.method.as_deref(), Some("--health"));
}

#[test]
fn a_flag_may_stand_before_the_command_it_belongs_to() {
    assert_eq!(args("--gateway-url ws://h --gateway-token t health").connect.url.as_deref(), Some("ws://h"));
    assert_eq!(args("-p 0").run.port, Some(0));
    refused("--port 1 health", "option `--port` does not belong to this command; `openclaw-rs health --help` says how");
    refused("--url ws://h", "option `--url` does not belong to this command; `openclaw-rs --help` says how");
}

#[test]
fn help_and_version_end_the_reading() {
    let cases = [
        ("--help --nonsense", "openclaw-rs", Special::HelpLong),
        ("gateway call -h", "openclaw-rs gateway call", Special::HelpShort),
        ("sessions --limit 3 --help", "openclaw-rs sessions", Special::HelpLong),
    ];
    for (line, path, special) in cases {
        match read(line) {
            Ok(Parsed::Help(found, asked)) => assert_eq!((found.path.as_str(), asked), (path, special)),
            _ => panic!("{line} is no request for help"),
        }
    }
    assert!(matches!(read("-V"), Ok(Parsed::Version)));
    assert!(matches!(read("--version"), Ok(Parsed::Version)));
}

#[test]
fn a_mistyped_name_is_answered_with_the_nearest() {
    refused("gatewya", "unknown command `gatewya`; did you mean `gateway`? `openclaw-rs --help` lists what there is");
    refused(
        "gateway run --prot 3",
        "unknown option `--prot`; did you mean `--port`? `openclaw-rs gateway run --help` lists what there is",
    );
    refused("zzz", "unknown command `zzz`; `openclaw-rs --help` says how");
    refused("health -z", "unknown option `-z`; `openclaw-rs health --help` says how");
}

#[test]
fn says_what_is_missing_or_too_much() {
    refused(
        "devices",
        "a command is missing: list, approve, reject, remove, revoke, rotate; `openclaw-rs devices --help` says how",
    );
    refused("gateway call", "METHOD is missing; `openclaw-rs gateway call --help` says how");
    refused("gateway call a b", "one word too many: `b`; `openclaw-rs gateway call --help` says how");
    refused("health --json=yes", "option `--json` takes no value; `openclaw-rs health --help` says how");
    refused("health --timeout", "option `--timeout` needs a value: TIME; `openclaw-rs health --help` says how");
    refused(
        "gateway run --port 70000",
        "option `--port` must be a whole number from 0 to 65535; `openclaw-rs gateway run --help` says how",
    );
    refused("completions csh", "SHELL must be one of: bash, zsh, fish; `openclaw-rs completions --help` says how");
}

#[test]
fn a_refused_secret_is_not_repeated() {
    let Err(error) = parse(&ROOT, [OsString::from("health"), OsString::from("--token=")]) else {
        panic!("an empty token is understood")
    };
    assert_eq!(error.to_string(), "option `--token` must not be empty");
}

#[test]
fn one_name_means_one_thing_in_the_whole_tree() {
    let all: Vec<&Flag> = walk(&ROOT).iter().flat_map(|found| found.command.flags().collect::<Vec<_>>()).collect();
    assert!(all.len() > 50);
    for flag in &all {
        for other in all.iter().filter(|other| other.long == flag.long) {
            assert_eq!((other.value, other.short), (flag.value, flag.short), "--{}", flag.long);
        }
        let names = flag.long.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names && !flag.help.is_empty() && !flag.help.ends_with('.'), "--{}", flag.long);
        let choices_need_a_value = flag.choices.is_empty() || flag.value.is_some();
        assert!(choices_need_a_value, "--{}", flag.long);
    }
    for found in walk(&ROOT) {
        let mut seen = Vec::new();
        for flag in found.command.flags() {
            for name in flag.aliases.iter().chain([&flag.long]) {
                assert!(!seen.contains(name), "--{name} twice in {}", found.path);
                seen.push(name);
            }
        }
    }
}
