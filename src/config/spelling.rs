//! One spelling for every key: a document as written becomes the document as the rows spell it.
//!
//! `snake_case` and `camelCase` are one key at every level, and some keys have other names or other homes
//! (`gateway.token` is `gateway.auth.token`). Keys that the user chose are never touched, nor is anything below a key
//! that no row names. Two spellings of one key that say different things are an error naming both.

use serde_json::{Map, Value};

use super::Issue;
use super::path::{KeyPath, Step};
use super::schema;
use super::schema::Kind;
use super::schema::tree::NodeId;
use super::validate::takes_members;

/// The canonical document and what stood in its way.
#[derive(Debug)]
pub struct Canonical {
    /// With every known key in its own spelling and place.
    pub value: Value,
    /// Conflicts between spellings.
    pub issues: Vec<Issue>,
}

/// A value on its way to the place an alias stands for.
struct Move {
    to: KeyPath,
    from: KeyPath,
    value: Value,
}

struct Speller {
    issues: Vec<Issue>,
    moves: Vec<Move>,
}

/// Spells a document. What is no object comes back as it is.
pub fn canonical(document: &Value) -> Canonical {
    let mut speller = Speller { issues: Vec::new(), moves: Vec::new() };
    let root = KeyPath::root();
    let mut value = speller.respell(schema::tree().root(), document, &root, &root);
    while !speller.moves.is_empty() {
        for item in std::mem::take(&mut speller.moves) {
            speller.put(&mut value, item);
        }
    }
    Canonical { value, issues: speller.issues }
}

impl Speller {
    /// `written` is where the value stands in the file, `place` where it belongs.
    fn respell(&mut self, id: NodeId, value: &Value, written: &KeyPath, place: &KeyPath) -> Value {
        let tree = schema::tree();
        match value {
            Value::Object(members) if takes_members(&tree.kind(id)) => {
                let mut out = Map::with_capacity(members.len());
                let mut came_from: Vec<(String, KeyPath)> = Vec::with_capacity(members.len());
                for (key, member) in members {
                    let member_written = written.key(key);
                    let Some(child) = tree.child(id, key) else {
                        out.insert(key.clone(), member.clone());
                        continue;
                    };
                    let node = tree.node(child);
                    if let Some(alias) = &node.alias {
                        let to = destination(place, alias.up, &alias.down);
                        let value = self.respell(alias.target, member, &member_written, &to);
                        self.moves.push(Move { to, from: member_written, value });
                        continue;
                    }
                    let name = if node.key == "*" { key.as_str() } else { node.key };
                    let had_members = member.as_object().is_some_and(|members| !members.is_empty());
                    let member = self.respell(child, member, &member_written, &place.key(name));
                    let all_moved = had_members && member.as_object().is_some_and(Map::is_empty);
                    if all_moved && !tree.is_canonical(child) {
                        continue;
                    }
                    let earlier = came_from.iter().find(|(seen, _)| seen == name).map(|(_, from)| from.clone());
                    match (out.get(name), earlier) {
                        (Some(existing), Some(from)) if *existing != member => self.conflict(&from, &member_written),
                        _ => {
                            out.insert(name.to_owned(), member);
                            came_from.push((name.to_owned(), member_written));
                        }
                    }
                }
                Value::Object(out)
            }
            Value::Array(items) => match tree.node(id).item {
                Some(item) if tree.kind(id) == Kind::List => {
                    let spell = |(idx, element)| self.respell(item, element, &written.index(idx), &place.index(idx));
                    Value::Array(items.iter().enumerate().map(spell).collect())
                }
                _ => value.clone(),
            },
            other => other.clone(),
        }
    }

    /// Lays a moved value where it belongs, beside what is there.
    fn put(&mut self, document: &mut Value, item: Move) {
        match (item.to.get(document), item.value) {
            (None, value) => item.to.set(document, value),
            (Some(existing), value) if *existing == value => {}
            (Some(Value::Object(_)), Value::Object(members)) => {
                for (key, value) in members {
                    self.moves.push(Move { to: item.to.key(&key), from: item.from.key(&key), value });
                }
            }
            (Some(_), _) => self.conflict(&item.to, &item.from),
        }
    }

    fn conflict(&mut self, one: &KeyPath, other: &KeyPath) {
        let message = format!("{one} and {other} are the same key and say different things");
        self.issues.push(Issue::new(one.to_string(), message));
    }
}

/// Where the alias at `parent` plus one key leads: `up` levels above that key, then `down`.
fn destination(parent: &KeyPath, up: usize, down: &[&'static str]) -> KeyPath {
    let n_kept = (parent.steps().len() + 1).saturating_sub(up);
    let kept = parent.steps()[..n_kept].iter().cloned();
    KeyPath::new(kept.chain(down.iter().map(|key| Step::Key((*key).to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(written: Value, expected: Value) {
        let spelled = canonical(&written);
        assert_eq!(spelled.issues, []);
        assert_eq!(spelled.value, expected);
    }

    #[track_caller]
    fn conflict(written: Value, one: &str, other: &str) {
        let issues: Vec<String> = canonical(&written).issues.iter().map(|issue| issue.message.clone()).collect();
        assert_eq!(issues, [format!("{one} and {other} are the same key and say different things")]);
    }

    #[test]
    fn both_spellings_at_every_level() {
        check(
            json!({ "gateway": { "control_ui": { "allowed_origins": ["x"] }, "server": { "httpBind": "a:1" } } }),
            json!({ "gateway": { "controlUi": { "allowedOrigins": ["x"] }, "server": { "http_bind": "a:1" } } }),
        );
        check(
            json!({ "models": { "providers": { "my_own": { "base_url": "u", "models": [{ "context_window": 1 }] } } } }),
            json!({ "models": { "providers": { "my_own": { "baseUrl": "u", "models": [{ "contextWindow": 1 }] } } } }),
        );
    }

    #[test]
    fn keys_of_the_user_and_unknown_ones_stay() {
        check(
            json!({ "skills": { "entries": { "a_b": { "env": { "MY_VAR": "1", "other_var": "2" } } } }, "zz_top": { "a_b": 1 } }),
            json!({ "skills": { "entries": { "a_b": { "env": { "MY_VAR": "1", "other_var": "2" } } } }, "zz_top": { "a_b": 1 } }),
        );
    }

    #[test]
    fn aliases_move_to_their_home() {
        check(json!({ "gateway": { "token": "t" } }), json!({ "gateway": { "auth": { "token": "t" } } }));
        check(json!({ "runtime": { "bind_mode": "lan" } }), json!({ "runtime": {}, "gateway": { "bind": "lan" } }));
        check(
            json!({ "gateway": { "models": { "providers": { "p": { "url": "u" } } } } }),
            json!({ "gateway": {}, "models": { "providers": { "p": { "baseUrl": "u" } } } }),
        );
        check(
            json!({ "agent": { "model": { "primary": "a/b" }, "self_healing": { "max_attempts": 2 } } }),
            json!({
                "agents": { "defaults": { "model": { "primary": "a/b" } } },
                "runtime": { "selfHealing": { "maxAttempts": 2 } },
            }),
        );
        check(
            json!({ "channels": { "discord": { "dm": { "policy": "open", "allow_from": ["*"] }, "bot_token": "t" } } }),
            json!({ "channels": { "discord": { "dm": {}, "dmPolicy": "open", "allowFrom": ["*"], "token": "t" } } }),
        );
        check(
            json!({ "channels": { "slack": { "accounts": { "a": { "dm": { "policy": "open" } } } } } }),
            json!({ "channels": { "slack": { "accounts": { "a": { "dm": {}, "dmPolicy": "open" } } } } }),
        );
    }

    #[test]
    fn two_spellings_may_agree_but_not_differ() {
        check(
            json!({ "gateway": { "token": "t", "auth": { "token": "t" } } }),
            json!({ "gateway": { "auth": { "token": "t" } } }),
        );
        check(json!({ "gateway": { "controlUi": {}, "control_ui": {} } }), json!({ "gateway": { "controlUi": {} } }));
        conflict(
            json!({ "gateway": { "token": "t", "auth": { "token": "u" } } }),
            "gateway.auth.token",
            "gateway.token",
        );
        conflict(
            json!({ "gateway": { "server": { "http_bind": "a:1", "httpBind": "b:1" } } }),
            "gateway.server.http_bind",
            "gateway.server.httpBind",
        );
        conflict(
            json!({ "models": { "providers": { "p": { "baseUrl": "u" } } }, "gateway": { "models": { "providers": { "p": { "url": "v" } } } } }),
            "models.providers.p.baseUrl",
            "gateway.models.providers.p.url",
        );
    }
}
