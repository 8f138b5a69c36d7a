//! `devices`: who may connect, and with which tokens.

use serde::Deserialize;
use serde_json::Value;

use super::args::Args;
use super::client::{Client, ClientError};
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS, TALK};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::health::age;
use super::table::Table;
use super::term::{Out, Style};
use super::{CliError, Outcome, gateway};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::runtime::clock;

/// The row of `devices`.
pub static COMMAND: Command = Command {
    name: "devices",
    about: "Approve, look at and revoke paired devices",
    doc: "",
    words: &[],
    flags: &[HELP],
    examples: &[Example { line: "openclaw-rs devices list", what: "who waits and who is paired" }],
    children: &[&LIST, &APPROVE, &REJECT, &REMOVE, &REVOKE, &ROTATE],
    run: None,
};

static LIST: Command = Command {
    name: "list",
    about: "List devices that wait for approval and devices that are paired",
    doc: "Never shows a token. With --json the gateway's answer is passed on whole.",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs devices list --json", what: "for a script" }],
    children: &[],
    run: Some(list),
};

static APPROVE: Command = Command {
    name: "approve",
    about: "Approve a waiting device",
    doc: "Grants the role and scopes that the request asks for; `devices list` shows them.",
    words: &[REQUEST],
    flags: TALK,
    examples: &[Example {
        line: "openclaw-rs devices approve 5f0e6f1c-9d0b-4c43-9e53-3b1c7b0d9a11",
        what: "let it in",
    }],
    children: &[],
    run: Some(approve),
};

static REJECT: Command = Command {
    name: "reject",
    about: "Turn a waiting device away",
    doc: "",
    words: &[REQUEST],
    flags: TALK,
    examples: &[Example {
        line: "openclaw-rs devices reject 5f0e6f1c-9d0b-4c43-9e53-3b1c7b0d9a11",
        what: "keep it out",
    }],
    children: &[],
    run: Some(reject),
};

static REMOVE: Command = Command {
    name: "remove",
    about: "Forget a paired device and all its tokens",
    doc: "Its connections are closed. It can ask to be paired again.",
    words: &[DEVICE],
    flags: TALK,
    examples: &[Example {
        line: "openclaw-rs devices remove 65b60673d6ed884b...",
        what: "by the id of `devices list`",
    }],
    children: &[],
    run: Some(remove),
};

static REVOKE: Command = Command {
    name: "revoke",
    about: "Revoke a device's token for a role",
    doc: "Its connections in that role are closed.",
    words: &[DEVICE],
    flags: &[ROLE, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs devices revoke 65b60673d6ed884b... --role node", what: "its node token" }],
    children: &[],
    run: Some(revoke),
};

static ROTATE: Command = Command {
    name: "rotate",
    about: "Replace a device's token for a role",
    doc: "Its connections in that role are closed. The new token reaches the device itself when it connects again; a \
          gateway that hands it to the caller shows it here.",
    words: &[DEVICE],
    flags: &[ROLE, SCOPES, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs devices rotate 65b60673d6ed884b...", what: "its operator token" }],
    children: &[],
    run: Some(rotate),
};

const REQUEST: Word = Word {
    name: "REQUEST",
    count: Count::One,
    choices: &[],
    help: "the request's id, as `devices list` shows it",
    set: |args, given| {
        args.devices.id = Some(given.text()?);
        Ok(())
    },
};

const DEVICE: Word = Word {
    name: "DEVICE",
    count: Count::One,
    choices: &[],
    help: "the device's id, or a beginning of it that only one paired device has",
    set: |args, given| {
        args.devices.id = Some(given.text()?);
        Ok(())
    },
};

const ROLE: &[Flag] = &[Flag {
    long: "role",
    value: Some("ROLE"),
    choices: &["operator", "node"],
    help: "the role the token is for; operator without it",
    set: |args, given| {
        args.devices.role = Some(given.text()?);
        Ok(())
    },
    ..FLAG
}];

const SCOPES: &[Flag] = &[Flag {
    long: "scope",
    value: Some("SCOPE"),
    help: "a scope of the new token; may be repeated; the old one's without it",
    set: |args, given| {
        args.devices.scopes.push(given.text()?);
        Ok(())
    },
    ..FLAG
}];

/// Looking, refusing and forgetting.
const PAIRING: &[Scope] = &[Scope::Pairing];
/// Granting: a gateway lets nobody hand out more than they hold, and other roles than operator need admin.
const GRANTING: &[Scope] = &[Scope::Pairing, Scope::Admin];
/// Shortest beginning of a device id that is looked up, in characters; a shorter one is a slip.
const ID_CHARS_MIN: usize = 4;
/// Length of a whole device id, in characters.
const ID_CHARS: usize = 64;
/// Characters of a device id in the table.
const ID_CHARS_SHOWN: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Devices {
    pending: Vec<Pending>,
    paired: Vec<Paired>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pending {
    request_id: String,
    device_id: String,
    display_name: Option<String>,
    client_id: Option<String>,
    platform: Option<String>,
    role: Option<String>,
    scopes: Vec<String>,
    remote_ip: Option<String>,
    ts: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Paired {
    device_id: String,
    display_name: Option<String>,
    client_id: Option<String>,
    platform: Option<String>,
    last_seen_at_ms: Option<i64>,
    connected: Option<bool>,
    tokens: Vec<Token>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Token {
    role: String,
    scopes: Vec<String>,
    revoked_at_ms: Option<i64>,
}

const LIST_METHOD: &str = "device.pair.list";

fn list(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, PAIRING)?;
    let answer = client.call(LIST_METHOD, json!({}))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let devices =
        Devices::deserialize(&answer).map_err(|source| ClientError::BadAnswer { method: LIST_METHOD, source })?;
    print(&devices, clock::wall_ms(), out)?;
    Ok(Outcome::Done)
}

fn print(devices: &Devices, now_ms: i64, out: &mut Out) -> std::io::Result<()> {
    if devices.pending.is_empty() && devices.paired.is_empty() {
        return out.line("No device is paired and none waits.");
    }
    if !devices.pending.is_empty() {
        let mut table = Table::new(&["WAITING REQUEST", "DEVICE", "NAME", "ROLE", "SCOPES", "FROM", "ASKED"]);
        for pending in &devices.pending {
            table.row(vec![
                pending.request_id.as_str().into(),
                short(&pending.device_id).into(),
                name(&pending.display_name, &pending.client_id, &pending.platform).into(),
                pending.role.as_deref().unwrap_or("operator").into(),
                scopes(&pending.scopes).into(),
                pending.remote_ip.as_deref().unwrap_or("").into(),
                age(pending.ts, now_ms),
            ]);
        }
        table.print(out)?;
        if !devices.paired.is_empty() {
            out.line("")?;
        }
    }
    if !devices.paired.is_empty() {
        let mut table = Table::new(&["PAIRED DEVICE", "NAME", "TOKENS", "CONNECTED", "SEEN"]);
        for paired in &devices.paired {
            let tokens: Vec<String> = paired.tokens.iter().map(token).collect();
            table.row(vec![
                short(&paired.device_id).into(),
                name(&paired.display_name, &paired.client_id, &paired.platform).into(),
                tokens.join("; ").into(),
                paired.connected.map_or("", |connected| if connected { "yes" } else { "no" }).into(),
                age(paired.last_seen_at_ms, now_ms),
            ]);
        }
        table.print(out)?;
    }
    Ok(())
}

fn short(id: &str) -> String {
    id.chars().take(ID_CHARS_SHOWN).collect()
}

fn name(display: &Option<String>, client: &Option<String>, platform: &Option<String>) -> String {
    let named = display.as_deref().or(client.as_deref()).unwrap_or("");
    match platform {
        Some(platform) => format!("{named} ({platform})"),
        None => named.to_owned(),
    }
}

fn token(token: &Token) -> String {
    if token.revoked_at_ms.is_some() {
        return format!("{} revoked", token.role);
    }
    format!("{}: {}", token.role, scopes(&token.scopes))
}

/// `admin,read`: the common beginning says nothing.
fn scopes(scopes: &[String]) -> String {
    let short: Vec<&str> =
        scopes.iter().map(|scope| scope.strip_prefix("operator.").unwrap_or(scope.as_str())).collect();
    if short.is_empty() { "none".to_owned() } else { short.join(",") }
}

fn approve(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change(args, out, GRANTING, "device.pair.approve", "approved", |_| Ok(json!({"requestId": args.devices.id})))
}

fn reject(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change(args, out, PAIRING, "device.pair.reject", "rejected", |_| Ok(json!({"requestId": args.devices.id})))
}

fn remove(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change(args, out, PAIRING, "device.pair.remove", "removed", |client| {
        Ok(json!({"deviceId": whole_id(args, client)?}))
    })
}

fn revoke(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change(args, out, GRANTING, "device.token.revoke", "revoked", |client| {
        Ok(json!({"deviceId": whole_id(args, client)?, "role": role(args)}))
    })
}

fn rotate(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    change(args, out, GRANTING, "device.token.rotate", "rotated", |client| {
        let mut params = json!({"deviceId": whole_id(args, client)?, "role": role(args)});
        if !args.devices.scopes.is_empty() {
            params["scopes"] = json!(args.devices.scopes);
        }
        Ok(params)
    })
}

fn role(args: &Args) -> &str {
    args.devices.role.as_deref().unwrap_or("operator")
}

fn change(
    args: &Args,
    out: &mut Out,
    scopes: &[Scope],
    method: &str,
    done: &str,
    params: impl FnOnce(&mut Client) -> Result<Value, CliError>,
) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, scopes)?;
    let params = params(&mut client)?;
    let answer = client.call(method, params)?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let device = answer.get("deviceId").or_else(|| answer.pointer("/device/deviceId")).and_then(Value::as_str);
    let line = format!("{} {}", out.styled(Style::Good, done), out.styled(Style::Plain, device.unwrap_or("")));
    out.styled_line(line.trim_end())?;
    if let Some(token) = answer.get("token").and_then(Value::as_str) {
        out.line(&format!("new token: {token}"))?;
    }
    Ok(Outcome::Done)
}

/// The id that `DEVICE` is the beginning of.
fn whole_id(args: &Args, client: &mut Client) -> Result<String, CliError> {
    let start = args.devices.id.as_deref().unwrap_or("");
    if start.chars().count() >= ID_CHARS {
        return Ok(start.to_owned());
    }
    let devices: Devices = client.ask(LIST_METHOD, json!({}))?;
    pick(start, devices.paired.iter().map(|paired| paired.device_id.as_str()))
}

fn pick<'a>(start: &str, ids: impl Iterator<Item = &'a str>) -> Result<String, CliError> {
    let long_enough = start.chars().count() >= ID_CHARS_MIN;
    let mut found = ids.filter(|id| *id == start || long_enough && id.starts_with(start));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (Some(_), Some(_)) => Err(CliError::BadRequest {
            what: format!("more than one paired device starts with {start}"),
            hint: "write more of the id; `openclaw-rs devices list --json` shows all of it",
        }),
        (None, _) => Err(CliError::BadRequest {
            what: format!("no paired device starts with {start}"),
            hint: "`openclaw-rs devices list` shows them",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn lists_who_waits_before_who_is_in() {
        let answer = json!({
            "pending": [{"requestId": "r-1", "deviceId": "ab".repeat(32), "clientId": "node-host", "platform": "linux",
                         "role": "node", "scopes": [], "ts": 1000, "silent": false}],
            "paired": [{"deviceId": "cd".repeat(32), "displayName": "Phone", "connected": true, "lastSeenAtMs": 1000,
                        "tokens": [{"role": "operator", "scopes": ["operator.read", "x"]},
                                   {"role": "node", "scopes": [], "revokedAtMs": 5}]}]
        });
        let devices = Devices::deserialize(&answer).unwrap();
        assert_eq!(
            capture(false, |out| print(&devices, 6_000, out)),
            "WAITING REQUEST  DEVICE            NAME               ROLE  SCOPES  FROM  ASKED\n\
             r-1              abababababababab  node-host (linux)  node  none          5s ago\n\
             \n\
             PAIRED DEVICE     NAME   TOKENS                          CONNECTED  SEEN\n\
             cdcdcdcdcdcdcdcd  Phone  operator: read,x; node revoked  yes        5s ago\n"
        );
    }

    #[test]
    fn a_beginning_must_name_one_device() {
        let ids = ["aaaa1", "aaaa2", "bbbb1", "bb"];
        let found = |start| pick(start, ids.into_iter()).map_err(|error| error.to_string());
        assert_eq!(found("aaaa2"), Ok("aaaa2".to_owned()));
        assert_eq!(found("bbbb"), Ok("bbbb1".to_owned()));
        assert_eq!(found("aaaa"), Err("more than one paired device starts with aaaa".to_owned()));
        assert_eq!(found("aaa"), Err("no paired device starts with aaa".to_owned()));
        assert_eq!(found("bb"), Ok("bb".to_owned()));
        assert_eq!(found(""), Err("no paired device starts with ".to_owned()));
    }
}
