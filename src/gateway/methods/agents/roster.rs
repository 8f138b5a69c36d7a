//! Making, changing and removing agents: edits of the configuration like any other, and what belongs to them on disk.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::config;
use super::files::{self, not_found};
use crate::config::document::Document;
use crate::config::edit::Planned;
use crate::gateway::Fact;
use crate::gateway::runs::close::close_sessions;
use crate::gateway::table::StoreCx;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Issues, NonEmpty, Params, Patch};
use crate::protocol::session_key::{DEFAULT_AGENT, SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::runtime::{beneath, random};
use crate::store::StoreError;
use crate::store::sessions::{SESSION_LIST_ROWS_MAX, SessionFilter, TranscriptFate};

/// Agents of one gateway; making one more is refused.
pub const AGENTS_MAX: usize = 256;
/// Longest name of an agent, in characters.
pub const NAME_CHARS_MAX: usize = 256;
/// A path of no more parts, the root among them, is never moved: `/`, `/etc`, `/srv`.
const SYSTEM_PATH_PARTS: usize = 2;
/// Folder of the state directory that takes what belonged to removed agents. Nothing deletes it but a person.
pub const TRASH_FOLDER: &str = "trash";

/// An agent to make. Protocol 3 asks for a workspace and knows no model.
pub struct CreateParams {
    name: NonEmpty,
    workspace: Option<NonEmpty>,
    model: Option<NonEmpty>,
    emoji: Option<String>,
    avatar: Option<String>,
}

crate::params! {
    /// As protocol 3 writes it.
    pub struct CreateParams3 {
        name: NonEmpty = "name",
        workspace: NonEmpty = "workspace",
        emoji: Option<String> = "emoji",
        avatar: Option<String> = "avatar",
    }
}

crate::params! {
    /// As protocol 4 writes it.
    pub struct CreateParams4 {
        name: NonEmpty = "name",
        workspace: Option<NonEmpty> = "workspace",
        model: Option<NonEmpty> = "model",
        emoji: Option<String> = "emoji",
        avatar: Option<String> = "avatar",
    }
}

impl Params for CreateParams {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        Some(match issues.protocol() {
            Protocol::V3 => {
                let CreateParams3 { name, workspace, emoji, avatar } = Params::read_fields(object, path, issues)?;
                CreateParams { name, workspace: Some(workspace), model: None, emoji, avatar }
            }
            Protocol::V4 => {
                let CreateParams4 { name, workspace, model, emoji, avatar } =
                    Params::read_fields(object, path, issues)?;
                CreateParams { name, workspace, model, emoji, avatar }
            }
        })
    }
}

pub(super) fn create(cx: StoreCx<'_>, params: CreateParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let protocol = cx.call.protocol();
    let name = one_line(&params.name.0);
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(RpcError::invalid(format!("agent name is longer than {NAME_CHARS_MAX} characters")).into());
    }
    let id = new_id(&name, protocol)?;
    let stored = config::stored(&cx)?;
    let roster = Roster::of(&stored, protocol);
    if roster.find(&id).is_some() || id == DEFAULT_AGENT && roster.is_empty() {
        return Err(RpcError::invalid(format!("agent \"{id}\" already exists")).into());
    }
    if roster.len() >= AGENTS_MAX {
        return Err(RpcError::invalid(format!("there are {AGENTS_MAX} agents already")).into());
    }
    let defaults = &cx.snapshot.config.settings.agents.defaults;
    let workspace = match params.workspace.as_ref().map(|workspace| workspace.0.trim()) {
        Some(workspace) if !workspace.is_empty() => workspace_path(workspace)?,
        _ => defaults.workspace.join(&id).display().to_string(),
    };
    let mut agent = json!({ "name": name, "workspace": workspace, "identity": identity(Some(&name), &params.emoji, &params.avatar) });
    let model = params.model.map(|model| model.0.trim().to_owned()).filter(|model| !model.is_empty());
    if let Some(model) = &model {
        agent["model"] = json!(model);
    }
    let planned = write(&cx, &stored, &roster.with(&id, agent))?;
    let made = planned.settings.agents.get(&id).map(|agent| agent.workspace.clone());
    let workspace = made.ok_or_else(|| RpcError::unavailable("the configuration does not hold the new agent"))?;
    files::make(&workspace)?;
    let mut answer = json!({ "ok": true, "agentId": id, "name": name, "workspace": workspace });
    if let Some(model) = model {
        answer["model"] = json!(model);
    }
    Ok((answer, vec![config::taken_over(&cx, planned)]))
}

/// The id of an agent called `name`.
fn new_id(name: &str, protocol: Protocol) -> Result<String, RpcError> {
    let id = agent_id(name);
    if protocol == Protocol::V3 && id == DEFAULT_AGENT {
        return Err(RpcError::invalid(format!("\"{DEFAULT_AGENT}\" is reserved")));
    }
    // An id of nothing but dashes would become the default agent's.
    if !name.chars().any(|c| c.is_ascii_alphanumeric()) {
        return Err(RpcError::invalid(format!(
            "Agent name \"{name}\" has no valid id characters. Use at least one letter a-z or digit."
        )));
    }
    Ok(id)
}

/// A workspace as it may be written: a path that means the same wherever the daemon was started.
fn workspace_path(text: &str) -> Result<String, RpcError> {
    let is_rooted = text.starts_with('/') || text == "~" || text.starts_with("~/");
    if !is_rooted || text.chars().any(char::is_control) {
        return Err(RpcError::invalid("workspace must be an absolute path, or begin with ~/"));
    }
    Ok(text.to_owned())
}

fn one_line(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is said of how an agent presents itself; empty text says nothing.
fn identity(name: Option<&str>, emoji: &Option<String>, avatar: &Option<String>) -> Value {
    let mut out = Map::new();
    let said = [("name", name), ("emoji", emoji.as_deref()), ("avatar", avatar.as_deref())];
    for (field, text) in said {
        let text = text.map(one_line).filter(|text| !text.is_empty());
        if let Some(text) = text {
            out.insert(field.to_owned(), json!(text));
        }
    }
    Value::Object(out)
}

crate::params! {
    /// Which agent, and what changes of it. What is left out stays.
    pub struct UpdateParams {
        agent_id: NonEmpty = "agentId",
        name: Option<NonEmpty> = "name",
        workspace: Option<NonEmpty> = "workspace",
        model: Patch<NonEmpty> = "model",
        avatar: Option<String> = "avatar",
        @v4 {
            agent_runtime: Option<NonEmpty> = "agentRuntime",
            emoji: Option<String> = "emoji",
        }
    }
}

pub(super) fn update(cx: StoreCx<'_>, params: UpdateParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let id = agent_id(&params.agent_id.0);
    let stored = config::stored(&cx)?;
    let roster = Roster::of(&stored, cx.call.protocol());
    // The one agent of a configuration without any is listed too, so it can be changed.
    let is_implied = roster.is_empty() && id == DEFAULT_AGENT;
    let before = match roster.find(&id) {
        Some(agent) => agent.clone(),
        None if is_implied => json!({}),
        None => return Err(not_found(&params.agent_id.0).into()),
    };
    if params.agent_runtime.is_some() {
        return Err(RpcError::invalid("agentRuntime cannot be chosen: this gateway has one").into());
    }
    let mut change = Map::new();
    let name = params.name.map(|name| one_line(&name.0)).filter(|name| !name.is_empty());
    if let Some(name) = &name {
        if name.chars().count() > NAME_CHARS_MAX {
            return Err(RpcError::invalid(format!("agent name is longer than {NAME_CHARS_MAX} characters")).into());
        }
        change.insert("name".to_owned(), json!(name));
    }
    if let Some(workspace) = &params.workspace {
        change.insert("workspace".to_owned(), json!(workspace_path(workspace.0.trim())?));
    }
    match params.model {
        Patch::Keep => {}
        Patch::Clear => {
            change.insert("model".to_owned(), Value::Null);
        }
        Patch::Set(model) if before["model"].is_object() => {
            // Its fallbacks stay.
            change.insert("model".to_owned(), json!({ "primary": model.0.trim() }));
        }
        Patch::Set(model) => {
            change.insert("model".to_owned(), json!(model.0.trim()));
        }
    }
    let identity = identity(name.as_deref(), &params.emoji, &params.avatar);
    if identity.as_object().is_some_and(|fields| !fields.is_empty()) {
        change.insert("identity".to_owned(), identity);
    }
    let answer = json!({ "ok": true, "agentId": id });
    if change.is_empty() {
        return Ok((answer, Vec::new()));
    }
    let planned = write(&cx, &stored, &roster.with(&id, Value::Object(change)))?;
    if params.workspace.is_some()
        && let Some(agent) = planned.settings.agents.get(&id)
    {
        files::make(&agent.workspace)?;
    }
    Ok((answer, vec![config::taken_over(&cx, planned)]))
}

crate::params! {
    /// Which agent goes, and whether what belongs to it goes too.
    pub struct DeleteParams {
        agent_id: NonEmpty = "agentId",
        delete_files: Option<bool> = "deleteFiles",
    }
}

pub(super) fn delete(cx: StoreCx<'_>, params: DeleteParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let protocol = cx.call.protocol();
    let id = agent_id(&params.agent_id.0);
    if protocol == Protocol::V3 && id == DEFAULT_AGENT {
        return Err(RpcError::invalid(format!("\"{DEFAULT_AGENT}\" cannot be deleted")).into());
    }
    let stored = config::stored(&cx)?;
    let roster = Roster::of(&stored, protocol);
    if roster.find(&id).is_none() {
        return Err(not_found(&params.agent_id.0).into());
    }
    let workspace = cx.snapshot.config.settings.agents.get(&id).map(|agent| agent.workspace.clone());
    let (change, n_bindings) = without_bindings(&stored, roster.without(&id), &id);
    let has_files = params.delete_files.unwrap_or(true);
    let mut facts = if has_files { delete_sessions(&cx, &id)? } else { Vec::new() };
    let planned = write(&cx, &stored, &change)?;
    let mut answer = json!({ "ok": true, "agentId": id, "removedBindings": n_bindings });
    let fate = workspace.filter(|_| has_files).map(|workspace| {
        let state_dir = &cx.snapshot.config.state_dir;
        let fate =
            keep_out_of_the_way(&workspace, &planned, state_dir).and_then(|()| put_away(&workspace, state_dir, &id));
        (workspace, fate)
    });
    if protocol == Protocol::V4 {
        answer["removed"] = json!([]);
        answer["failed"] = json!([]);
        match fate {
            Some((path, Ok(method))) => answer["removed"] = json!([{ "path": path, "method": method }]),
            Some((path, Err(reason))) => answer["failed"] = json!([{ "path": path, "reason": reason }]),
            None => {}
        }
    }
    facts.push(config::taken_over(&cx, planned));
    Ok((answer, facts))
}

/// Archives every session of an agent.
fn delete_sessions(cx: &StoreCx<'_>, id: &str) -> Result<Vec<Fact>, StoreError> {
    let filter = SessionFilter { agent_id: Some(id.to_owned()), ..SessionFilter::default() };
    let mut facts = Vec::new();
    loop {
        let page = cx.db.session_list(&filter, 0, SESSION_LIST_ROWS_MAX)?;
        if page.sessions.is_empty() {
            return Ok(facts);
        }
        let gone: BTreeSet<&str> = page.sessions.iter().map(|session| session.key.as_str()).collect();
        close_sessions(cx.db, |key| gone.contains(key.as_str()), cx.ordered_by, cx.call.now_ms)?;
        for session in page.sessions {
            cx.db.session_delete(&session.key, TranscriptFate::Archive, cx.call.now_ms)?;
            facts.push(Fact::SessionGone { key: SessionKey::stored(session.key), session_id: session.session_id });
        }
    }
}

/// Why a workspace must stay where it is.
fn keep_out_of_the_way(workspace: &Path, planned: &Planned, state_dir: &Path) -> Result<(), String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = real(workspace);
    if is_of_the_system(&own) {
        return Err("it is a folder of the system".to_owned());
    }
    for agent in &planned.settings.agents.list {
        let other = real(&agent.workspace);
        // Inside another's is where a workspace lies that nobody chose; around another's, it is that one's too.
        if other.starts_with(&own) {
            return Err(format!("agent \"{}\" works there too", agent.id));
        }
    }
    let config_dir = planned.document.path.parent().unwrap_or(Path::new("/"));
    for ours in [real(state_dir), real(config_dir)] {
        if ours.starts_with(&own) {
            return Err("the gateway's own files lie there".to_owned());
        }
    }
    Ok(())
}

fn is_of_the_system(path: &Path) -> bool {
    path.components().count() <= SYSTEM_PATH_PARTS
}

/// Moves a workspace into the trash: `trash`, or `missing` when there was none.
fn put_away(workspace: &Path, state_dir: &Path, id: &str) -> Result<&'static str, String> {
    let name = format!("{id}-{}", random::uuid());
    match beneath::move_into(workspace, &state_dir.join(TRASH_FOLDER), &name) {
        Ok(true) => Ok("trash"),
        Ok(false) => Ok("missing"),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            Err("it lies on another file system than the state directory".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Where a document lists its agents.
enum Roster {
    /// `agents.list`: protocol 3's way.
    List(Vec<Value>),
    /// `agents.entries`: protocol 4's way.
    Entries(Map<String, Value>),
}

/// A change of the document, and the lists in it that are replaced instead of merged.
struct Change {
    patch: Value,
    replaced: Vec<String>,
}

impl Roster {
    /// As `stored` writes it; as the caller's protocol would when it has no agents yet.
    fn of(stored: &Document, protocol: Protocol) -> Roster {
        let list = stored.written.pointer("/agents/list").and_then(Value::as_array).filter(|list| !list.is_empty());
        let entries = stored.written.pointer("/agents/entries").and_then(Value::as_object);
        match (list, entries.filter(|entries| !entries.is_empty())) {
            (Some(list), _) => Roster::List(list.clone()),
            (None, Some(entries)) => Roster::Entries(entries.clone()),
            (None, None) if protocol == Protocol::V3 => Roster::List(Vec::new()),
            (None, None) => Roster::Entries(Map::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Roster::List(agents) => agents.len(),
            Roster::Entries(agents) => agents.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, id: &str) -> Option<&Value> {
        let is_it = |written: Option<&str>| written.is_some_and(|written| agent_id(written) == id);
        match self {
            Roster::List(agents) => agents.iter().find(|agent| is_it(agent["id"].as_str())),
            Roster::Entries(agents) => agents.iter().find(|(key, _)| is_it(Some(key))).map(|(_, agent)| agent),
        }
    }

    /// The patch that makes or changes an agent. The agent that is there without being written is written down first,
    /// or it would be gone.
    fn with(&self, id: &str, change: Value) -> Change {
        let is_first = self.is_empty() && id != DEFAULT_AGENT;
        let patch = match self {
            Roster::List(agents) => {
                let known = agents.iter().find_map(|agent| agent["id"].as_str().filter(|known| agent_id(known) == id));
                let mut change = change;
                change["id"] = json!(known.unwrap_or(id));
                let mut list = if is_first { vec![json!({ "id": DEFAULT_AGENT })] } else { Vec::new() };
                list.push(change);
                json!({ "agents": { "list": list } })
            }
            Roster::Entries(agents) => {
                let known = agents.keys().find(|known| agent_id(known) == id).map_or(id, String::as_str);
                let mut entries = Map::new();
                if is_first {
                    entries.insert(DEFAULT_AGENT.to_owned(), json!({}));
                }
                entries.insert(known.to_owned(), change);
                json!({ "agents": { "entries": entries } })
            }
        };
        Change { patch, replaced: Vec::new() }
    }

    /// The patch that removes an agent.
    fn without(&self, id: &str) -> Change {
        match self {
            Roster::List(agents) => {
                let rest = agents.iter().filter(|agent| agent["id"].as_str().map(agent_id).as_deref() != Some(id));
                let patch = json!({ "agents": { "list": rest.collect::<Vec<_>>() } });
                Change { patch, replaced: vec!["agents.list".to_owned()] }
            }
            Roster::Entries(agents) => {
                let gone = agents.keys().filter(|key| agent_id(key) == id);
                let gone: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
                Change { patch: json!({ "agents": { "entries": gone } }), replaced: Vec::new() }
            }
        }
    }
}

/// Takes the rules that lead to an agent out with it; how many there were.
fn without_bindings(stored: &Document, mut change: Change, id: &str) -> (Change, usize) {
    let bindings = stored.written.get("bindings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let leads_to_it = |binding: &&Value| binding["agentId"].as_str().map(agent_id).as_deref() == Some(id);
    let n_gone = bindings.iter().filter(leads_to_it).count();
    if n_gone > 0 {
        change.patch["bindings"] = bindings.iter().filter(|binding| !leads_to_it(binding)).cloned().collect();
        change.replaced.push("bindings".to_owned());
    }
    (change, n_gone)
}

fn write(cx: &StoreCx<'_>, stored: &Document, change: &Change) -> Result<Planned, StoreError> {
    config::patch_stored(cx, stored, &change.patch, &change.replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_system_is_nobodys_workspace_to_move() {
        for path in ["/", "/etc", "/srv/"] {
            assert!(is_of_the_system(Path::new(path)), "{path}");
        }
        for path in ["/home/ann", "/srv/agents/bea"] {
            assert!(!is_of_the_system(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn an_identity_says_what_it_is_told_on_one_line_and_nothing_of_what_is_empty() {
        let emoji = Some(" \n".to_owned());
        let avatar = Some("a\u{7}\n- Name: Eve".to_owned());
        assert_eq!(identity(Some("Ann"), &emoji, &avatar), json!({ "name": "Ann", "avatar": "a - Name: Eve" }));
        assert_eq!(identity(None, &None, &None), json!({}));
    }

    #[test]
    fn the_agent_that_is_not_written_is_written_down_before_another() {
        let first = Roster::Entries(Map::new()).with("ops", json!({ "name": "Ops" }));
        assert_eq!(first.patch, json!({ "agents": { "entries": { "main": {}, "ops": { "name": "Ops" } } } }));
        let first = Roster::List(Vec::new()).with("ops", json!({}));
        assert_eq!(first.patch, json!({ "agents": { "list": [{ "id": "main" }, { "id": "ops" }] } }));
        let own = Roster::List(Vec::new()).with("main", json!({ "name": "M" }));
        assert_eq!(own.patch, json!({ "agents": { "list": [{ "name": "M", "id": "main" }] } }));
    }

    #[test]
    fn an_agent_is_changed_and_removed_under_the_id_it_was_written_with() {
        let list = Roster::List(vec![json!({ "id": "Ops" }), json!({ "id": "main" })]);
        assert!(list.find("ops").is_some());
        assert_eq!(list.with("ops", json!({})).patch, json!({ "agents": { "list": [{ "id": "Ops" }] } }));
        let gone = list.without("ops");
        assert_eq!(gone.patch, json!({ "agents": { "list": [{ "id": "main" }] } }));
        assert_eq!(gone.replaced, ["agents.list"]);
        let entries = Roster::Entries([("Ops".to_owned(), json!({}))].into_iter().collect());
        assert_eq!(entries.without("ops").patch, json!({ "agents": { "entries": { "Ops": null } } }));
    }
}
