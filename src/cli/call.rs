//! `gateway call`: one method of a running gateway.

use serde_json::Value;

use super::args::Args;
use super::client::{Answer, Client};
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::term::Out;
use super::{CliError, Outcome, gateway};
use crate::config::json5;
use crate::gateway::table::{self, Need};
use crate::protocol::scope::Scope;
use crate::protocol::version::Protocol;

/// The row of `gateway call`.
pub static COMMAND: Command = Command {
    name: "call",
    about: "Call a method of a running gateway",
    doc: "Prints the answer as JSON. Asks the gateway for no more than the method needs.",
    words: &[Word {
        name: "METHOD",
        count: Count::One,
        choices: &[],
        help: "the method, such as health or sessions.list",
        set: |args, given| {
            args.call.method = Some(given.text()?);
            Ok(())
        },
    }],
    flags: &[CALL_FLAGS, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs gateway call health", what: "the whole health snapshot" },
        Example {
            line: "openclaw-rs gateway call sessions.list --params '{\"limit\": 5}'",
            what: "the five sessions used last",
        },
    ],
    children: &[],
    run: Some(run),
};

const CALL_FLAGS: &[Flag] = &[
    Flag {
        long: "params",
        value: Some("JSON"),
        help: "the method's parameters, an object",
        doc: "JSON5: keys need no quotes.",
        set: |args, given| {
            args.call.params = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "expect-final",
        help: "wait for the end of a run, not for its acceptance",
        doc: "Methods that start long work answer twice: first that it was accepted, then with its result.",
        set: |args, _| {
            args.call.expect_final = true;
            Ok(())
        },
        ..FLAG
    },
];

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let method = args.call.method.as_deref().unwrap_or("");
    let params = match &args.call.params {
        None => Value::Null,
        Some(text) => read_params(text)?,
    };
    let answer = if args.call.expect_final { Answer::Final } else { Answer::First };
    let mut client = Client::connect(&gateway::target(args)?, &scopes_for(method, &params))?;
    let payload = client.request(method, params, answer)?;
    out.json(&payload)?;
    client.close();
    Ok(Outcome::Done)
}

fn read_params(text: &str) -> Result<Value, CliError> {
    match json5::value(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(CliError::BadRequest {
            what: "--params must be an object".to_owned(),
            hint: "write it as --params '{\"key\": \"value\"}'",
        }),
        Err(error) => Err(CliError::BadRequest {
            what: format!("--params cannot be read: {error}"),
            hint: "write it as --params '{\"key\": \"value\"}', in single quotes",
        }),
    }
}

/// What to ask for when nobody knows what a method needs: what upstream's own command line asks for.
const BROAD: &[Scope] =
    &[Scope::Admin, Scope::Read, Scope::Write, Scope::Approvals, Scope::Questions, Scope::Pairing, Scope::TalkSecrets];

/// The scopes to ask for to call `method` with `params`: what the table says, as a gateway of protocol 4 reads it.
fn scopes_for(method: &str, params: &Value) -> Vec<Scope> {
    let Some(row) = table::find(method) else { return BROAD.to_vec() };
    match row.need(Protocol::V4) {
        // Upstream's gateway gives an operator without any scope nothing but `health`.
        Need::Anyone | Need::Operator => vec![Scope::Read],
        Need::Scope(scope) | Need::Either(scope, _) => vec![scope],
        Need::ByParams(decide) => {
            let text = (!params.is_null()).then(|| params.to_string());
            vec![decide(text.as_deref()).0]
        }
        // An operator cannot call it whatever the scope; the gateway says so better than we could.
        Need::Node => vec![Scope::Read],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_an_object() {
        assert_eq!(read_params("{limit: 5}").unwrap(), serde_json::json!({"limit": 5}));
        for text in ["5", "[]", "{", "null"] {
            assert!(read_params(text).is_err(), "{text}");
        }
    }

    #[test]
    fn asks_for_no_more_than_a_method_needs() {
        let scopes = |method: &str, params: Value| scopes_for(method, &params);
        assert_eq!(scopes("health", Value::Null), [Scope::Read]);
        assert_eq!(scopes("system-presence", Value::Null), [Scope::Read]);
        assert_eq!(scopes("device.pair.list", Value::Null), [Scope::Pairing]);
        assert_eq!(scopes("chat.send", Value::Null), [Scope::Write]);
        assert_eq!(scopes("a.plugins.method", Value::Null), BROAD);
        for method in table::sorted() {
            assert!(!scopes(method.name, Value::Null).is_empty(), "{}", method.name);
        }
    }
}
