//! What is said of a command, to models and as values: upstream's words, where programs read them.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::Output;
use super::super::processes::{Background, Ended, Exit};

/// Characters of a command's output that a model is given at once.
pub const OUTPUT_CHARS_MAX: usize = 8192;
/// Of those, what stands around the output.
const AROUND_CHARS: usize = 640;
/// Of the rest, the share of the beginning, in percent: what went wrong is said last.
const HEAD_PERCENT: usize = 25;
/// Characters of output in the notice of an end.
const NOTICE_CHARS: usize = 180;

/// What nothing is called.
pub const NOTHING: &str = "(no output)";
/// What to do with one that goes on.
pub const FOLLOW_UP: &str = "Use process (list/poll/log/write/send-keys/submit/paste/kill/clear/remove) for follow-up.";
/// What is said of one that was made to end before its own.
const HALF_DONE: &str = "It was ended, and what it did until then stays done: look at that before you run it again.";

/// The output as far as a model is given it: its beginning and its end.
pub fn bounded(text: &str) -> String {
    let max = OUTPUT_CHARS_MAX - AROUND_CHARS;
    let n_chars = text.chars().count();
    if n_chars <= max {
        return text.to_owned();
    }
    let head = max * HEAD_PERCENT / 100;
    let cut = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let (start, end) = (cut(head), cut(n_chars - (max - head)));
    format!("{}\n[{} characters left out]\n{}", &text[..start], n_chars - max, &text[end..])
}

/// How it ended, in a word or two.
pub fn label(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("code {code}"),
        Exit::Signal(signal) => format!("signal {}", name(signal)),
        Exit::TimedOut => "signal SIGTERM, overall-timeout".to_owned(),
        Exit::Cancelled => "signal SIGTERM".to_owned(),
    }
}

/// A signal's name.
pub fn name(signal: i32) -> String {
    let named = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
    ];
    named
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(|| signal.to_string(), |(_, name)| (*name).to_owned())
}

/// How it ended, as values.
pub fn exit_values(exit: Exit) -> Value {
    match exit {
        Exit::Code(code) => json!({ "exitCode": code, "exitReason": "exit" }),
        Exit::Signal(signal) => json!({ "exitCode": null, "exitSignal": name(signal), "exitReason": "signal" }),
        Exit::TimedOut => json!({ "exitCode": null, "exitReason": "overall-timeout", "timedOut": true }),
        Exit::Cancelled => json!({ "exitCode": null, "exitReason": "manual-cancel" }),
    }
}

/// Whether it is said to have been completed: it ended by itself, and there was such a program.
pub fn is_completed(exit: Exit) -> bool {
    matches!(exit, Exit::Code(code) if code != 126 && code != 127)
}

/// Why it is not.
fn reason(exit: Exit, time_max: Option<Duration>) -> String {
    match exit {
        Exit::Code(127) => "Command not found".to_owned(),
        Exit::Code(_) => "Command not executable (permission denied)".to_owned(),
        Exit::TimedOut => {
            let seconds = time_max.map(|time| format!(" after {} seconds", time.as_secs_f64())).unwrap_or_default();
            format!(
                "Command timed out{seconds}. {HALF_DONE}\n\nIf it is to go on for longer, start it with background=true or \
                 a longer timeoutSeconds."
            )
        }
        Exit::Signal(signal) => format!("Command aborted by signal {}", name(signal)),
        Exit::Cancelled => "Command aborted before exit code was captured".to_owned(),
    }
}

/// What is said of one that has ended while it was waited for.
pub fn ended(ended: &Ended, time_max: Option<Duration>, cwd: &str, warning: Option<&str>) -> Output {
    let lost = if ended.is_cut { "[earlier output was dropped]\n" } else { "" };
    let output = bounded(ended.output.trim());
    let is_completed = is_completed(ended.exit);
    let shown = match ended.exit {
        exit if !is_completed && output.is_empty() => reason(exit, time_max),
        exit if !is_completed => format!("{output}\n\n{}", reason(exit, time_max)),
        Exit::Code(0) if output.is_empty() => NOTHING.to_owned(),
        Exit::Code(0) => output.clone(),
        exit => {
            let output = if output.is_empty() { NOTHING } else { &output };
            format!("{output}\n\n(Command exited with {})", label(exit))
        }
    };
    let warning = warning.map(|warning| format!("{warning}\n\n")).unwrap_or_default();
    let mut details = json!({ "status": if is_completed { "completed" } else { "failed" } });
    set(&mut details, exit_values(ended.exit));
    let aggregated = if is_completed { &shown } else { &output };
    set(
        &mut details,
        json!({
            "durationMs": u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            "aggregated": if matches!(ended.exit, Exit::Code(0)) { &output } else { aggregated },
            "cwd": cwd,
        }),
    );
    if !warning.is_empty() {
        set(&mut details, json!({ "warnings": [warning.trim()] }));
    }
    Output { text: format!("{lost}{warning}{shown}"), details: Some(details), ..Output::default() }
}

/// What is said of one that goes on.
pub fn running(background: Background, tail: &str, cwd: &str) -> Output {
    let Background { id, pid, started_ms, .. } = &background;
    let text = format!("Command still running (session {id}, pid {pid}). {FOLLOW_UP}");
    let details = json!({
        "status": "running", "sessionId": id.to_string(), "pid": pid, "startedAt": started_ms, "cwd": cwd, "tail": tail,
    });
    Output { text, details: Some(details), background: Some(background), ..Output::default() }
}

/// That one in the background has ended, without a word of its own.
pub fn head(background: &Background, exit: Exit) -> String {
    let status = if is_completed(exit) { "completed" } else { "failed" };
    format!("Exec {status} ({}, {})", background.id, label(exit))
}

/// The notice of an end in the background; `None`: nobody is to be told.
pub fn notice(background: &Background, exit: Exit, output: &str) -> Option<String> {
    if !background.notify.on_exit || exit == Exit::Cancelled {
        return None;
    }
    let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
    if exit == Exit::Code(0) && output.is_empty() && !background.notify.on_empty_success {
        return None;
    }
    let head = head(background, exit);
    // The end of it: what went wrong is said last.
    let n_chars = output.chars().count();
    let tail: String = output.chars().skip(n_chars.saturating_sub(NOTICE_CHARS)).collect();
    let more = if n_chars > NOTICE_CHARS { "…" } else { "" };
    Some(if output.is_empty() { head } else { format!("{head} :: {more}{tail}") })
}

/// The notice of one that a restart of the gateway ended.
pub fn lost_notice(background: &Background) -> Option<String> {
    background.notify.on_exit.then(|| {
        format!(
            "Exec failed ({}, unknown exit code) :: the gateway was restarted, and it ended with it; how far it came is not \
             known, and it was not run again",
            background.id
        )
    })
}

fn set(target: &mut Value, more: Value) {
    if let (Some(target), Value::Object(more)) = (target.as_object_mut(), more) {
        target.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::processes::{Id, Notify};
    use super::*;

    fn end(exit: Exit, output: &str) -> Output {
        let end = Ended {
            exit,
            duration: Duration::from_millis(7),
            output: output.to_owned(),
            is_cut: false,
            background: None,
        };
        ended(&end, Some(Duration::from_secs(3)), "/w", None)
    }

    #[test]
    fn an_end_is_told_in_the_words_that_clients_know() {
        let said = end(Exit::Code(0), "hello\n");
        assert_eq!(said.text, "hello");
        let details = said.details.unwrap();
        let expected = json!({
            "status": "completed", "exitCode": 0, "exitReason": "exit", "durationMs": 7, "aggregated": "hello", "cwd": "/w",
        });
        assert_eq!(details, expected);
        assert_eq!(end(Exit::Code(0), "").text, "(no output)");
        let said = end(Exit::Code(3), "");
        assert_eq!(said.text, "(no output)\n\n(Command exited with code 3)");
        assert_eq!(said.details.unwrap()["aggregated"], said.text);
        let said = end(Exit::Code(127), "sh: 1: nix: not found");
        assert_eq!(said.text, "sh: 1: nix: not found\n\nCommand not found");
        assert_eq!(said.details.unwrap()["status"], "failed");
        assert_eq!(end(Exit::Signal(9), "").text, "Command aborted by signal SIGKILL");
        assert!(end(Exit::TimedOut, "half").text.starts_with("half\n\nCommand timed out after 3 seconds."));
    }

    #[test]
    fn a_model_is_given_the_beginning_and_the_end_of_long_output() {
        let max = OUTPUT_CHARS_MAX - AROUND_CHARS;
        assert_eq!(bounded(&"é".repeat(max)), "é".repeat(max), "the limit itself");
        let said = end(Exit::TimedOut, &format!("begin {} end", "é".repeat(max)));
        assert!(said.text.chars().count() <= OUTPUT_CHARS_MAX, "{}", said.text.chars().count());
        assert!(said.text.starts_with("begin ") && said.text.contains("[10 characters left out]"));
        assert!(said.text.contains("é end\n\nCommand timed out"));
    }

    #[test]
    fn a_notice_is_given_of_what_somebody_wants_to_know() {
        let notify = Notify { on_exit: true, on_empty_success: false };
        let id = Id::parse("0000abcd").unwrap();
        let background = Background { id, pid: 7, session: None, command: "make".to_owned(), started_ms: 0, notify };
        let told = |exit, output| notice(&background, exit, output);
        assert_eq!(told(Exit::Code(0), " all\n well ").unwrap(), "Exec completed (0000abcd, code 0) :: all well");
        assert_eq!(told(Exit::Code(2), "").unwrap(), "Exec completed (0000abcd, code 2)");
        assert_eq!(told(Exit::Signal(9), "").unwrap(), "Exec failed (0000abcd, signal SIGKILL)");
        assert_eq!(told(Exit::Code(0), "\n"), None, "it went well and had nothing to say");
        assert_eq!(told(Exit::Cancelled, "x"), None, "whoever ended it knows");
        let long = told(Exit::Code(0), &"y".repeat(500)).unwrap();
        assert_eq!(long.chars().filter(|c| *c == 'y').count(), NOTICE_CHARS);
        let silent = Background { notify: Notify::default(), ..background.clone() };
        assert_eq!((notice(&silent, Exit::Code(1), "x"), lost_notice(&silent)), (None, None));
        let eager = Background { notify: Notify { on_empty_success: true, ..notify }, ..background };
        assert!(notice(&eager, Exit::Code(0), "").is_some());
    }
}
