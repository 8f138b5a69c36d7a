//! Documents as others may see them: every secret replaced by [`PLACEHOLDER`].
//!
//! What is secret, rows say. Where no row reaches (open objects, plugin settings, unknown keys) the key's name decides.
//! Text that is one `${VAR}` reference names a secret and is none, so it stays and survives a round trip. A URL loses
//! the password in it wherever it stands.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value;

use super::document::Format;
use super::expand;
use super::json5;
use super::path::KeyPath;
use super::schema;
use super::schema::tree::NodeId;
use super::secret::{PLACEHOLDER, Secret};
use super::validate::{is_secret_reference, takes_members};

/// Shorter secrets are not looked for in free text: they are words, and replacing them would tell more than it hides.
pub const SCRUBBED_BYTES_MIN: usize = 8;

/// A document without its secrets, in whatever spelling it is.
pub fn value(document: &Value) -> Value {
    walk(Place::Known(schema::tree().root()), document)
}

/// What a value is, as far as rows reach.
#[derive(Clone, Copy)]
enum Place {
    Known(NodeId),
    /// Below a key that no row describes.
    Free,
}

fn walk(place: Place, value: &Value) -> Value {
    let tree = schema::tree();
    let place = match place {
        Place::Known(id) => Place::Known(tree.resolve(id)),
        Place::Free => Place::Free,
    };
    if let Place::Known(id) = place
        && tree.node(id).row.is_some_and(|row| row.secret)
    {
        return hide(value);
    }
    match value {
        Value::Object(members) => {
            let member = |(key, member): (&String, &Value)| {
                let child = match place {
                    Place::Known(id) if takes_members(&tree.kind(id)) => tree.child(id, key),
                    _ => None,
                };
                let shown = match child {
                    Some(child) => walk(Place::Known(child), member),
                    None if is_secret_name(key) => hide(member),
                    None => walk(Place::Free, member),
                };
                (key.clone(), shown)
            };
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => {
            let item = match place {
                Place::Known(id) => tree.node(id).item.map_or(Place::Free, Place::Known),
                Place::Free => Place::Free,
            };
            Value::Array(items.iter().map(|element| walk(item, element)).collect())
        }
        Value::String(text) => Value::String(without_userinfo(text).into_owned()),
        other => other.clone(),
    }
}

/// Every text and number in a secret value, keeping its shape.
fn hide(value: &Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() || expand::is_reference(text) => value.clone(),
        Value::String(_) | Value::Number(_) => Value::String(PLACEHOLDER.to_owned()),
        Value::Array(items) => Value::Array(items.iter().map(hide).collect()),
        Value::Object(_) if is_secret_reference(value) => value.clone(),
        Value::Object(members) => Value::Object(members.iter().map(|(key, v)| (key.clone(), hide(v))).collect()),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

/// Whether a key that no row describes is named like a secret.
fn is_secret_name(key: &str) -> bool {
    let name: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    // Where a secret is kept, or how one is sent, is no secret.
    let about = ["file", "path", "header", "prefix", "name", "names", "url", "ttl", "ttlms", "enabled", "allowlist"];
    if about.iter().any(|end| name.ends_with(end)) {
        return false;
    }
    let inside = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "apikey",
        "privatekey",
        "credential",
        "cookie",
        "hmackey",
        "authorization",
    ];
    name.ends_with("token")
        || name.ends_with("apikeys")
        || name == "auth"
        || inside.iter().any(|word| name.contains(word))
}

/// `https://user:pass@host/` without what stands before the `@`.
fn without_userinfo(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let authority = &rest[..rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len())];
    let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    match authority.rsplit_once('@') {
        // A short name alone is a user (`ssh://git@host`); a long one is a token.
        Some((user, host)) if is_scheme && (user.contains(':') || user.len() >= 16) && user != PLACEHOLDER => {
            Cow::Owned(format!("{scheme}://{PLACEHOLDER}@{host}{}", &rest[authority.len()..]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// The stored text without its secrets, comments included; `None` when it is not in its format, for what cannot be
/// understood cannot be redacted.
pub fn text(raw: &str, format: Format) -> Option<String> {
    let parsed = super::document::parse(raw, format).ok()?;
    let shown = value(&parsed);
    let mut cuts = Cuts::default();
    match format {
        Format::Json5 => cuts.json5(&json5::parse(raw).ok()?, &shown),
        Format::Toml => cuts.toml_table(raw.parse::<toml_edit::Document<String>>().ok()?.as_table(), &shown),
    }
    Some(cuts.apply(raw, &secrets(&parsed, &shown)))
}

/// Places in a text and what to put there.
#[derive(Default)]
struct Cuts {
    replaced: Vec<(Range<usize>, String)>,
    /// Keys and plain values: what is outside them is comments, blanks and punctuation.
    tokens: Vec<Range<usize>>,
}

impl Cuts {
    fn json5(&mut self, node: &json5::Node, shown: &Value) {
        match (&node.kind, shown) {
            (json5::NodeKind::Object(members), _) => {
                for member in members {
                    self.tokens.push(member.key_span.clone());
                    self.json5(&member.value, shown.get(&member.key).unwrap_or(&Value::Null));
                }
            }
            (json5::NodeKind::Array(items), _) => {
                for (idx, item) in items.iter().enumerate() {
                    self.json5(item, shown.get(idx).unwrap_or(&Value::Null));
                }
            }
            _ => self.plain(node.span.clone(), &node.to_value(), shown),
        }
    }

    fn toml_table(&mut self, table: &dyn toml_edit::TableLike, shown: &Value) {
        for (name, item) in table.iter() {
            if let Some(span) = table.key(name).and_then(toml_edit::Key::span) {
                self.tokens.push(span);
            }
            self.toml_item(item, shown.get(name).unwrap_or(&Value::Null));
        }
    }

    fn toml_item(&mut self, item: &toml_edit::Item, shown: &Value) {
        match item {
            toml_edit::Item::ArrayOfTables(tables) => {
                for (idx, table) in tables.iter().enumerate() {
                    self.toml_table(table, shown.get(idx).unwrap_or(&Value::Null));
                }
            }
            toml_edit::Item::Table(table) => self.toml_table(table, shown),
            toml_edit::Item::Value(value) => self.toml_value(value, shown),
            toml_edit::Item::None => {}
        }
    }

    fn toml_value(&mut self, value: &toml_edit::Value, shown: &Value) {
        match value {
            toml_edit::Value::InlineTable(table) => self.toml_table(table, shown),
            toml_edit::Value::Array(items) => {
                for (idx, item) in items.iter().enumerate() {
                    self.toml_value(item, shown.get(idx).unwrap_or(&Value::Null));
                }
            }
            plain => {
                let Some(span) = plain.span() else { return };
                let written = super::document::toml_value(plain);
                self.plain(span, &written, shown);
            }
        }
    }

    fn plain(&mut self, span: Range<usize>, written: &Value, shown: &Value) {
        if written != shown {
            self.replaced.push((span.clone(), shown.to_string()));
        }
        self.tokens.push(span);
    }

    fn apply(mut self, raw: &str, secrets: &[Secret]) -> String {
        self.replaced.sort_by_key(|(span, _)| span.start);
        self.tokens.sort_by_key(|span| span.start);
        let mut out = String::with_capacity(raw.len());
        let mut at = 0;
        let mut replaced = self.replaced.into_iter().peekable();
        for token in self.tokens {
            if token.start < at {
                continue;
            }
            out.push_str(&scrub(&raw[at..token.start], secrets));
            match replaced.next_if(|(span, _)| *span == token) {
                Some((_, text)) => out.push_str(&text),
                None => out.push_str(&raw[token.clone()]),
            }
            at = token.end;
        }
        out.push_str(&scrub(&raw[at..], secrets));
        out
    }
}

/// Every text that redaction took out of a document.
fn secrets(document: &Value, shown: &Value) -> Vec<Secret> {
    let mut found = Vec::new();
    collect(document, shown, &mut found);
    found
}

fn collect(value: &Value, shown: &Value, found: &mut Vec<Secret>) {
    match (value, shown) {
        (Value::Object(members), _) => {
            for (key, member) in members {
                collect(member, shown.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(items), _) => {
            for (idx, item) in items.iter().enumerate() {
                collect(item, shown.get(idx).unwrap_or(&Value::Null), found);
            }
        }
        (Value::String(text), shown) if shown.as_str() != Some(text) && text.len() >= SCRUBBED_BYTES_MIN => {
            found.push(Secret::new(text.as_str()));
        }
        _ => {}
    }
}

fn scrub<'a>(text: &'a str, secrets: &[Secret]) -> Cow<'a, str> {
    secrets.iter().fold(Cow::Borrowed(text), |text, secret| {
        if text.contains(secret.reveal()) { Cow::Owned(text.replace(secret.reveal(), PLACEHOLDER)) } else { text }
    })
}

/// Takes a document's secrets out of free text: log lines, reports.
#[derive(Clone, Debug, Default)]
pub struct Scrubber {
    secrets: Vec<Secret>,
}

impl Scrubber {
    /// Knows every secret of a document (variables filled in), and those given beside it.
    pub fn new(config: &Value, further: impl IntoIterator<Item = Secret>) -> Scrubber {
        let mut secrets = secrets(config, &value(config));
        secrets.extend(further.into_iter().filter(|secret| secret.reveal().len() >= SCRUBBED_BYTES_MIN));
        // Longest first, so that a secret inside another one does not cut it in half.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
        Scrubber { secrets }
    }

    /// The text without them.
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        scrub(text, &self.secrets)
    }
}

/// The value at a path as others may see it, and nothing around it.
pub fn at(document: &Value, path: &KeyPath) -> Option<Value> {
    path.get(&value(document)).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::config::path::Step;
    use crate::config::schema::{Kind, Row, all, parts};

    const CANARY: &str = "canary-0123456789";

    /// A document with a canary at a path of the table.
    fn planted(path: &'static str, row: &Row) -> Value {
        let canary = match row.kind {
            Kind::Texts { .. } => json!([CANARY]),
            _ => json!(CANARY),
        };
        parts(path).collect::<Vec<_>>().into_iter().rev().fold(canary, |inside, part| match part {
            "[]" => json!([inside]),
            "*" => json!({ "anything": inside }),
            key => json!({ key: inside }),
        })
    }

    #[test]
    fn no_secret_row_lets_a_canary_through_any_exit() {
        let mut n_planted = 0;
        for row in all().filter(|row| row.secret) {
            for path in row.aliases.iter().copied().chain([row.path]) {
                n_planted += 1;
                let document = planted(path, row);
                let pretty = serde_json::to_string_pretty(&document).unwrap();
                let toml = crate::config::rewrite::fresh(Format::Toml, &document);
                let shown = [
                    value(&document).to_string(),
                    text(&pretty, Format::Json5).unwrap(),
                    text(&toml, Format::Toml).unwrap(),
                ];
                for shown in shown {
                    assert!(!shown.contains(CANARY), "{path}: {shown}");
                    assert!(shown.contains(PLACEHOLDER), "{path}: {shown}");
                }
                assert!(!Scrubber::new(&document, []).scrub(&format!("got {CANARY}!")).contains(CANARY), "{path}");
            }
        }
        assert!(n_planted > 60, "only {n_planted} secrets in the table");
    }

    /// SEC-60 by name, so that a row that loses its mark fails here.
    #[test]
    fn the_documented_secrets_are_secret() {
        let paths = [
            "gateway.token",
            "gateway.password",
            "gateway.auth.token",
            "gateway.auth.password",
            "gateway.remote.token",
            "gateway.remote.password",
            "security.virustotal_api_key",
            "security.policy_bundle_key",
            "security.policy_bundle_keys.k",
            "security.attestation_hmac_key",
            "security.control_api_key",
            "channels.telegram.bot_token",
            "channels.telegram.botToken",
            "channels.telegram.webhookSecret",
            "channels.discord.bot_token",
            "channels.discord.token",
            "channels.slack.bot_token",
            "channels.slack.appToken",
            "channels.slack.userToken",
            "channels.slack.signingSecret",
            "channels.matrix.access_token",
            "channels.matrix.password",
            "channels.whatsapp.access_token",
            "channels.whatsapp.app_secret",
            "channels.whatsapp.webhook_verify_token",
            "channels.signal.api_token",
            "channels.email.gmail_access_token",
            "channels.email.password",
            "channels.linear.api_key",
            "channels.telegram.accounts.a.botToken",
            "automation.webhook_secret",
            "hooks.token",
            "hooks.gmail.pushToken",
            "cron.webhookToken",
            "models.providers.p.apiKey",
            "models.providers.p.headers.X-Key",
            "skills.entries.s.apiKey",
            "skills.entries.s.env.A",
            "talk.apiKey",
            "messages.tts.openai.apiKey",
            "messages.tts.elevenlabs.apiKey",
            "tools.web.search.apiKey",
            "tools.web.search.perplexity.apiKey",
            "agents.defaults.memorySearch.remote.apiKey",
            "commands.ownerDisplaySecret",
            "env.vars.A",
            "env.OPENAI_API_KEY",
        ];
        for path in paths {
            let mut document = Value::Object(Map::new());
            KeyPath::dotted(path).set(&mut document, json!(CANARY));
            assert_eq!(KeyPath::dotted(path).get(&value(&document)), Some(&json!(PLACEHOLDER)), "{path}");
        }
        let listed = json!({
            "security": { "control_api_keys": [{ "id": "a", "token": CANARY }] },
            "channels": { "external_plugins": [{ "auth_token": CANARY }] },
            "keys": { "openai_api_keys": [CANARY, CANARY] },
            "agents": { "list": [{ "memorySearch": { "remote": { "apiKey": CANARY } } }] },
        });
        let shown = value(&listed);
        assert!(!shown.to_string().contains(CANARY), "{shown}");
        assert_eq!(shown["security"]["control_api_keys"][0]["id"], "a");
    }

    #[test]
    fn names_decide_where_no_row_reaches() {
        let document = json!({ "plugins": { "entries": { "p": { "config": {
            "apiKey": "a", "nested": [{ "client_secret": "b", "maxTokens": 5, "tokenFile": "/t", "model": "m" }],
            "Authorization": "c", "url": "https://u:p@host/x", "repo": "ssh://git@host/y", "passwords": ["d"],
        } } } }, "zzUnknown": { "accessToken": 12 } });
        assert_eq!(
            value(&document),
            json!({ "plugins": { "entries": { "p": { "config": {
                "apiKey": PLACEHOLDER,
                "nested": [{ "client_secret": PLACEHOLDER, "maxTokens": 5, "tokenFile": "/t", "model": "m" }],
                "Authorization": PLACEHOLDER, "url": format!("https://{PLACEHOLDER}@host/x"), "repo": "ssh://git@host/y",
                "passwords": [PLACEHOLDER],
            } } } }, "zzUnknown": { "accessToken": PLACEHOLDER } })
        );
    }

    #[test]
    fn references_and_empty_text_stay() {
        let document = json!({ "gateway": { "auth": { "token": "${TOKEN}", "password": "" } },
            "hooks": { "token": { "source": "env", "id": "HOOK" } } });
        assert_eq!(value(&document), document);
        assert_eq!(value(&json!({ "hooks": { "token": "x${A}" } })), json!({ "hooks": { "token": PLACEHOLDER } }));
    }

    #[test]
    fn raw_text_keeps_everything_but_the_secrets() {
        let raw = "{\n  // was: my-old-token-1, now my-new-token-2\n  gateway: { token: 'my-new-token-2', port: 1 }, // my-new-token-2\n  \"hooks\": {\"token\": \"${HOOK}\",},\n}\n";
        assert_eq!(
            text(raw, Format::Json5).unwrap(),
            "{\n  // was: my-old-token-1, now __OPENCLAW_REDACTED__\n  gateway: { token: \"__OPENCLAW_REDACTED__\", port: 1 }, // __OPENCLAW_REDACTED__\n  \"hooks\": {\"token\": \"${HOOK}\",},\n}\n"
        );
        let raw = "# head s3cret-value\n[gateway]\ntoken = 's3cret-value' # tail\nport = 1\n[[channels.external_plugins]]\nauth_token = \"abc\"\n[skills]\nentries = { x = { apiKey = 'abc' } }\n";
        assert_eq!(
            text(raw, Format::Toml).unwrap(),
            "# head __OPENCLAW_REDACTED__\n[gateway]\ntoken = \"__OPENCLAW_REDACTED__\" # tail\nport = 1\n[[channels.external_plugins]]\nauth_token = \"__OPENCLAW_REDACTED__\"\n[skills]\nentries = { x = { apiKey = \"__OPENCLAW_REDACTED__\" } }\n"
        );
        let raw = "gateway.auth.token = \"\"\"\nlong\nsecret\"\"\"\nhooks = { token = 'x1' }\n[keys]\nopenai_api_keys = [\n  'k1', # first\n  'k2',\n]\n";
        let hidden = "\"__OPENCLAW_REDACTED__\"";
        assert_eq!(
            text(raw, Format::Toml).unwrap(),
            format!(
                "gateway.auth.token = {hidden}\nhooks = {{ token = {hidden} }}\n[keys]\nopenai_api_keys = [\n  {hidden}, # first\n  {hidden},\n]\n"
            )
        );
        assert_eq!(text("{ token: ", Format::Json5), None);
    }

    #[test]
    fn a_repeated_key_does_not_hide_its_first_value() {
        let shown = text("{ gateway: { token: 'first-secret', token: 'second-secret' } }", Format::Json5).unwrap();
        assert!(!shown.contains("first-secret") && !shown.contains("second-secret"), "{shown}");
    }

    #[test]
    fn a_path_shows_only_what_stands_there() {
        let document = json!({ "gateway": { "auth": { "token": "t" } } });
        assert_eq!(at(&document, &KeyPath::dotted("gateway.auth.token")), Some(json!(PLACEHOLDER)));
        assert_eq!(at(&document, &KeyPath::new(vec![Step::Key("nope".into())])), None);
    }
}
