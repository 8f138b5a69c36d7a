//! The document of exec approvals, version 1 (TOOL-50, TOOL-52): what the operator says of commands, and what was
//! granted for good.
//!
//! It is one value in the store, so that a decision and the entry it makes are one transaction. As long as nobody has
//! written it here, upstream's `exec-approvals.json` in the state directory is read in its place, as it is, and never
//! changed. A word that nobody knows means the strictest: a typing mistake opens nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Ask, Security};
use crate::runtime::digest::sha256_hex;
use crate::runtime::random;
use crate::store::StoreError;
use crate::store::db::{Db, Queries};

/// Where the document lies in the store.
pub const META_KEY: &str = "exec.approvals";
/// Upstream's file in the state directory.
pub const FILE: &str = "exec-approvals.json";
/// Where a companion app would listen, in the state directory; shown to clients, opened by nobody here.
const SOCKET: &str = "exec-approvals.sock";
/// Largest document, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
/// Agents with rules of their own.
pub const AGENTS_MAX: usize = 256;
/// Entries of one agent; the one used longest ago makes room for a new grant.
pub const ENTRIES_MAX: usize = 512;
/// The agent whose rules hold for all.
const EVERYBODY: &str = "*";
/// How entries made by a grant say what they are bound to.
const BOUND: &str = "sha256:";

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    #[serde(default)]
    socket: Socket,
    #[serde(default)]
    defaults: Rules,
    #[serde(default)]
    agents: BTreeMap<String, Agent>,
}

/// Where a companion app listens, and its token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Socket {
    path: Option<String>,
    token: Option<String>,
}

/// What is said of commands; what is not said, the next one above says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rules {
    security: Option<Security>,
    ask: Option<Ask>,
    ask_fallback: Option<Security>,
    auto_allow_skills: Option<bool>,
}

/// The rules of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Agent {
    rules: Rules,
    entries: Vec<Entry>,
}

/// A program that may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Entry {
    /// Names it.
    pub id: String,
    /// A glob on the resolved path.
    pub pattern: String,
    /// Whether a person's `allow-always` made it.
    pub is_granted: bool,
    /// What must hold of its arguments: an expression, or what a grant is bound to.
    pub arg_pattern: Option<String>,
    /// When it let something run last.
    pub last_used_ms: Option<i64>,
    /// What that was.
    pub last_used_command: Option<String>,
    /// What the program was then.
    pub last_resolved_path: Option<String>,
    /// How often it did.
    pub n_used: u64,
    /// When it was made, if it was made by a grant.
    pub created_ms: Option<i64>,
    /// Where what was granted runs.
    pub cwd: Option<String>,
}

impl Entry {
    /// Whether it is a grant of exactly this.
    pub fn is_bound_to(&self, digest: &str) -> bool {
        self.is_granted && self.arg_pattern.as_deref().and_then(|bound| bound.strip_prefix(BOUND)) == Some(digest)
    }
}

/// What holds for an agent, with nothing left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Which commands run.
    pub security: Security,
    /// When somebody is asked.
    pub ask: Ask,
    /// What holds when nobody can be asked.
    pub ask_fallback: Security,
    /// Whether programs of skills may run.
    pub auto_allow_skills: bool,
}

/// A grant, with whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted<'d> {
    /// The agent.
    pub agent: &'d str,
    /// The entry.
    pub entry: &'d Entry,
}

/// What a grant is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewGrant<'a> {
    /// The approval it comes from, which names it.
    pub id: &'a str,
    /// Whose list it goes to.
    pub agent: &'a str,
    /// What runs.
    pub path: &'a str,
    /// Digest of what was approved.
    pub digest: &'a str,
    /// As it was written.
    pub command: &'a str,
    /// Where it runs.
    pub cwd: Option<&'a str>,
}

impl Document {
    /// What is in force: what was written here, else upstream's file, else an empty document.
    ///
    /// # Errors
    /// The store's.
    pub fn load(db: &Queries, state_dir: &Path) -> Result<Document, StoreError> {
        Document::in_force(db.meta(META_KEY)?, state_dir)
    }

    fn in_force(kept: Option<String>, state_dir: &Path) -> Result<Document, StoreError> {
        if let Some(text) = kept {
            return serde_json::from_str(&text)
                .map_err(|error| StoreError::BadRow { what: META_KEY.to_owned(), detail: error.to_string() });
        }
        match std::fs::read(state_dir.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Document::default()),
            Ok(bytes) if bytes.len() <= DOCUMENT_BYTES_MAX => Ok(Document::of_file(&bytes)),
            _ => {
                log::warn!("{FILE} cannot be read: no command runs until it is put right");
                Ok(Document::closed())
            }
        }
    }

    /// Upstream's file. What cannot be read lets nothing run.
    fn of_file(bytes: &[u8]) -> Document {
        let value: Result<Value, _> = serde_json::from_slice(bytes);
        match value {
            Ok(value) if value["version"] == 1 => Document::read(&value),
            _ => {
                log::warn!("{FILE} is not a document of version 1: no command runs until it is put right");
                Document::closed()
            }
        }
    }

    /// Lets nothing run.
    fn closed() -> Document {
        let defaults = Rules { security: Some(Security::Deny), ask: Some(Ask::Off), ..Rules::default() };
        Document { defaults, ..Document::default() }
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and the store's.
    pub fn save(&self, db: &Db<'_>, now_ms: i64) -> Result<(), StoreError> {
        let text = self.text();
        if text.len() > DOCUMENT_BYTES_MAX {
            let (size_bytes, size_bytes_max) = (text.len(), DOCUMENT_BYTES_MAX);
            return Err(StoreError::TooLarge { what: "exec approvals", size_bytes, size_bytes_max });
        }
        db.meta_put(META_KEY, &text, now_ms)
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and maps with text keys always serialise")
    }

    /// Changes with what the operator can change, and not with what entries count.
    pub fn hash(&self) -> String {
        let mut plain = self.clone();
        for entry in plain.agents.values_mut().flat_map(|agent| &mut agent.entries) {
            entry.n_used = 0;
            (entry.last_used_ms, entry.last_used_command, entry.last_resolved_path) = (None, None, None);
        }
        sha256_hex(plain.text().as_bytes())
    }

    /// Reads a document as clients and files have it. What is not known of it is left out; an unknown word of a rule is
    /// read as the strictest.
    pub fn read(value: &Value) -> Document {
        let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let mut agents: BTreeMap<String, Agent> = BTreeMap::new();
        for (name, value) in value["agents"].as_object().into_iter().flatten().take(AGENTS_MAX) {
            // An older spelling of the first agent.
            let name = if name == "default" { "main" } else { name };
            let agent = agents.entry(name.to_owned()).or_default();
            let rules = Rules::read(value);
            agent.rules = match name {
                "main" => agent.rules.clone().or(rules),
                _ => rules,
            };
            agent.entries.extend(value["allowlist"].as_array().into_iter().flatten().filter_map(Entry::read));
            agent.entries.truncate(ENTRIES_MAX);
        }
        let socket = Socket { path: text(&value["socket"]["path"]), token: text(&value["socket"]["token"]) };
        Document { socket, defaults: Rules::read(&value["defaults"]), agents }
    }

    /// The same as a client is shown it: without the token, and without what only counts here.
    pub fn shown(&self, state_dir: &Path) -> Value {
        let path = self.socket.path.clone().unwrap_or_else(|| state_dir.join(SOCKET).display().to_string());
        let agents: Map<String, Value> =
            self.agents.iter().map(|(name, agent)| (name.clone(), agent.shown())).collect();
        json!({ "version": 1, "socket": { "path": path }, "defaults": self.defaults.shown(), "agents": agents })
    }

    /// A client's document in place of this one: it keeps the token, and what entries have counted.
    pub fn replaced_by(&self, value: &Value) -> Document {
        let mut new = Document::read(value);
        new.socket.token = new.socket.token.or_else(|| self.socket.token.clone());
        new.socket.path = new.socket.path.or_else(|| self.socket.path.clone());
        for (name, agent) in &mut new.agents {
            for entry in &mut agent.entries {
                let before =
                    self.agents.get(name).and_then(|agent| agent.entries.iter().find(|old| old.id == entry.id));
                if let Some(before) = before {
                    (entry.n_used, entry.created_ms) = (before.n_used, before.created_ms);
                    entry.cwd.clone_from(&before.cwd);
                }
            }
        }
        new
    }

    /// What holds where an agent has no rules of its own.
    pub fn resolved_defaults(&self) -> Resolved {
        self.defaults.resolved()
    }

    /// What holds for an agent.
    pub fn resolved(&self, agent: &str) -> Resolved {
        let own = self.agents.get(agent).map(|agent| agent.rules.clone()).unwrap_or_default();
        let all = self.agents.get(EVERYBODY).map(|agent| agent.rules.clone()).unwrap_or_default();
        own.or(all).or(self.defaults.clone()).resolved()
    }

    /// What an agent may run: its own entries, and everybody's.
    pub fn entries(&self, agent: &str) -> impl Iterator<Item = &Entry> {
        [EVERYBODY, agent].into_iter().filter_map(|name| self.agents.get(name)).flat_map(|agent| &agent.entries)
    }

    /// Adds what a person granted for good; granted again, it stays as it is.
    pub fn grant(&mut self, grant: &NewGrant<'_>, now_ms: i64) {
        let entries = &mut self.agents.entry(grant.agent.to_owned()).or_default().entries;
        if entries.iter().any(|entry| entry.is_bound_to(grant.digest)) {
            return;
        }
        if entries.len() >= ENTRIES_MAX
            && let Some(oldest) =
                (0..entries.len()).filter(|idx| entries[*idx].is_granted).min_by_key(|idx| entries[*idx].last_used_ms)
        {
            entries.remove(oldest);
        }
        if entries.len() < ENTRIES_MAX {
            entries.push(Entry {
                id: grant.id.to_owned(),
                pattern: grant.path.to_owned(),
                is_granted: true,
                arg_pattern: Some(format!("{BOUND}{}", grant.digest)),
                last_used_ms: Some(now_ms),
                last_used_command: Some(grant.command.to_owned()),
                last_resolved_path: Some(grant.path.to_owned()),
                n_used: 0,
                created_ms: Some(now_ms),
                cwd: grant.cwd.map(str::to_owned),
            });
        }
    }

    /// Notes that these entries let a command run.
    pub fn used(&mut self, agent: &str, ids: &[String], command: &str, path: &str, now_ms: i64) {
        for name in [EVERYBODY, agent] {
            let entries = self.agents.get_mut(name).map(|agent| &mut agent.entries);
            for entry in entries.into_iter().flatten().filter(|entry| ids.contains(&entry.id)) {
                entry.n_used += 1;
                entry.last_used_ms = Some(now_ms);
                entry.last_used_command = Some(command.to_owned());
                entry.last_resolved_path = Some(path.to_owned());
            }
        }
    }

    /// What was granted for good, the newest first.
    pub fn grants(&self) -> Vec<Granted<'_>> {
        let all =
            self.agents.iter().flat_map(|(agent, own)| own.entries.iter().map(move |entry| Granted { agent, entry }));
        let mut grants: Vec<Granted<'_>> = all.filter(|grant| grant.entry.is_granted).collect();
        grants.sort_by_key(|grant| std::cmp::Reverse(grant.entry.created_ms));
        grants
    }

    /// Takes a grant back; `false`: there is none of this name.
    pub fn revoke(&mut self, id: &str) -> bool {
        let n_before = self.grants().len();
        for agent in self.agents.values_mut() {
            agent.entries.retain(|entry| !entry.is_granted || entry.id != id);
        }
        self.grants().len() < n_before
    }
}

impl Rules {
    fn read(value: &Value) -> Rules {
        // Fields of other types are refused before this, or are in a file that somebody wrote by hand.
        let word =
            |name: &str| value.get(name).filter(|value| !value.is_null()).map(|value| value.as_str().unwrap_or(""));
        Rules {
            security: word("security").map(Security::or_strictest),
            ask: word("ask").map(Ask::or_strictest),
            ask_fallback: word("askFallback").map(Security::or_strictest),
            auto_allow_skills: value["autoAllowSkills"].as_bool(),
        }
    }

    fn or(self, above: Rules) -> Rules {
        Rules {
            security: self.security.or(above.security),
            ask: self.ask.or(above.ask),
            ask_fallback: self.ask_fallback.or(above.ask_fallback),
            auto_allow_skills: self.auto_allow_skills.or(above.auto_allow_skills),
        }
    }

    /// What nobody says is left to the configuration: the stricter of both holds.
    fn resolved(&self) -> Resolved {
        Resolved {
            security: self.security.unwrap_or(Security::Full),
            ask: self.ask.unwrap_or(Ask::Off),
            ask_fallback: self.ask_fallback.unwrap_or(Security::Deny),
            auto_allow_skills: self.auto_allow_skills.unwrap_or(false),
        }
    }

    fn shown(&self) -> Value {
        let mut out = json!({});
        for (name, word) in [
            ("security", self.security.map(Security::as_str)),
            ("ask", self.ask.map(Ask::as_str)),
            ("askFallback", self.ask_fallback.map(Security::as_str)),
        ] {
            if let Some(word) = word {
                out[name] = json!(word);
            }
        }
        if let Some(flag) = self.auto_allow_skills {
            out["autoAllowSkills"] = json!(flag);
        }
        out
    }
}

impl Resolved {
    /// As clients are shown it.
    pub fn shown(&self) -> Value {
        json!({
            "security": self.security.as_str(),
            "ask": self.ask.as_str(),
            "askFallback": self.ask_fallback.as_str(),
            "autoAllowSkills": self.auto_allow_skills,
        })
    }
}

impl Agent {
    fn shown(&self) -> Value {
        let mut out = self.rules.shown();
        if !self.entries.is_empty() {
            out["allowlist"] = self.entries.iter().map(Entry::shown).collect();
        }
        out
    }
}

impl Entry {
    /// An entry as clients and files have it: an object, or in old files the pattern alone.
    fn read(value: &Value) -> Option<Entry> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let pattern = value.as_str().or_else(|| value["pattern"].as_str())?.trim();
        if pattern.is_empty() {
            return None;
        }
        Some(Entry {
            id: text("id").filter(|id| !id.is_empty()).unwrap_or_else(random::uuid),
            pattern: pattern.to_owned(),
            is_granted: value["source"] == "allow-always",
            arg_pattern: text("argPattern"),
            last_used_ms: value["lastUsedAt"].as_f64().map(|ms| ms as i64),
            last_used_command: text("lastUsedCommand"),
            last_resolved_path: text("lastResolvedPath"),
            ..Entry::default()
        })
    }

    fn shown(&self) -> Value {
        let mut out = json!({ "pattern": self.pattern, "id": self.id });
        if self.is_granted {
            out["source"] = json!("allow-always");
        }
        for (name, text) in [
            ("argPattern", &self.arg_pattern),
            ("lastUsedCommand", &self.last_used_command),
            ("lastResolvedPath", &self.last_resolved_path),
        ] {
            if let Some(text) = text {
                out[name] = json!(text);
            }
        }
        if let Some(at_ms) = self.last_used_ms {
            out["lastUsedAt"] = json!(at_ms);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_file_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = json!({
            "version": 1,
            "socket": { "path": "/run/x.sock", "token": "hush" },
            "defaults": { "security": "allowlist", "ask": "on-miss", "askFallback": "deny", "autoAllowSkills": false },
            "agents": {
                "default": { "allowlist": ["/bin/ls"] },
                "main": { "security": "full", "allowlist": [{ "pattern": "/usr/bin/*", "id": "x", "lastUsedAt": 7 }] },
                "*": { "ask": "always" },
            },
        });
        std::fs::write(dir.path().join(FILE), file.to_string()).unwrap();
        let document = Document::in_force(None, dir.path()).unwrap();
        let main = document.resolved("main");
        assert_eq!((main.security, main.ask), (Security::Full, Ask::Always));
        assert_eq!(document.resolved("other").security, Security::Allowlist);
        let patterns: Vec<&str> = document.entries("main").map(|entry| entry.pattern.as_str()).collect();
        assert_eq!(patterns, ["/bin/ls", "/usr/bin/*"]);
        let shown = document.shown(dir.path());
        assert!(!shown.to_string().contains("hush"), "{shown}");
        assert_eq!(shown["socket"]["path"], "/run/x.sock");
        assert!(document.replaced_by(&shown).text().contains("hush"), "a set keeps the token");
    }

    #[test]
    fn what_cannot_be_understood_opens_nothing() {
        for text in ["not json", "{}", r#"{"version":2}"#] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let document = Document::in_force(None, dir.path()).unwrap();
            assert_eq!(document.resolved("main").security, Security::Deny, "{text}");
        }
        let odd =
            Document::read(&json!({ "agents": { "main": { "security": "al low", "ask": 7, "askFallback": "?" } } }));
        let Resolved { security, ask, ask_fallback, .. } = odd.resolved("main");
        assert_eq!((security, ask, ask_fallback), (Security::Deny, Ask::Always, Security::Deny));
    }

    #[test]
    fn a_grant_is_bound_counted_and_taken_back() {
        let mut document = Document::default();
        let grant =
            NewGrant { id: "g", agent: "main", path: "/bin/ls", digest: "d1", command: "ls -l", cwd: Some("/tmp") };
        document.grant(&grant, 5);
        document.grant(&NewGrant { id: "again", ..grant }, 6);
        let hash = document.hash();
        document.used("main", &["g".to_owned()], "ls -l", "/bin/ls", 9);
        assert_eq!(document.hash(), hash, "use is no change that a client must read again");
        let [ref granted] = document.grants()[..] else { panic!("one grant") };
        assert_eq!((granted.entry.n_used, granted.entry.last_used_ms), (1, Some(9)));
        assert!(granted.entry.is_bound_to("d1") && !granted.entry.is_bound_to("d2"));
        let mut back = document.replaced_by(&document.shown(Path::new("/")));
        assert_eq!(back, document_with_socket(&document), "shown and set again, nothing is lost");
        assert!(!back.revoke("other") && back.revoke("g") && back.grants().is_empty());
    }

    fn document_with_socket(document: &Document) -> Document {
        let mut with = document.clone();
        with.socket.path = Some("/exec-approvals.sock".to_owned());
        with
    }

    #[test]
    fn entries_are_bounded_and_a_new_grant_finds_room() {
        let mut document = Document::default();
        for n in 0..=ENTRIES_MAX {
            let (id, digest) = (format!("g{n}"), format!("d{n}"));
            let grant = NewGrant { id: &id, agent: "main", path: "/bin/ls", digest: &digest, command: "ls", cwd: None };
            document.grant(&grant, n as i64);
        }
        assert_eq!(document.entries("main").count(), ENTRIES_MAX);
        assert!(document.entries("main").all(|entry| entry.id != "g0"), "the one used longest ago");
        let many: Map<String, Value> = (0..AGENTS_MAX + 5).map(|n| (n.to_string(), json!({}))).collect();
        assert_eq!(Document::read(&json!({ "agents": many })).agents.len(), AGENTS_MAX);
    }
}
