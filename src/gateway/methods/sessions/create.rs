//! Making a session before anything is said in it.

use serde_json::{Map, Value};

use super::change::touched;
use super::{Keyed, audit, groups, session_key, whole_key};
use crate::gateway::inbound::Waiter;
use crate::gateway::methods::chat::{Words, run_id};
use crate::gateway::runs::commands;
use crate::gateway::table::{Call, StoreCx};
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Snapshot, Work};
use crate::intake::Message;
use crate::intake::expected::Expected;
use crate::intake::uploads::Uploads;
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::{Json, error_shape};
use crate::protocol::json::json;
use crate::protocol::params::{Any, Count, Issues, NonEmpty, Param, Params, Text};
use crate::protocol::session_key::{SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::runtime::random;
use crate::sessions::patch::{self as rules, Change};
use crate::sessions::{branches, list, row, transcript};
use crate::store::StoreError;
use crate::store::idempotency::Begun;
use crate::store::sessions::SessionRow;

/// Fields that a new session may begin with; the rules are those of a patch.
const FIRST: [&str; 9] = [
    "label",
    "category",
    "model",
    "agentRuntime",
    "contextWindow",
    "thinkingLevel",
    "fastMode",
    "permissionMode",
    "toolOverrides",
];

crate::params! {
    /// Which session, and where it belongs.
    pub struct Place {
        key: Option<NonEmpty> = "key",
        agent_id: Option<NonEmpty> = "agentId",
        idempotency_key: Option<NonEmpty> = "idempotencyKey",
        display_name: Option<Text<1, 500>> = "displayName",
        title_source: Option<Text<0, 1000>> = "titleSource",
        parent_session_key: Option<NonEmpty> = "parentSessionKey",
        spawn_depth: Option<Count> = "spawnDepth",
        // What concerns hooks and runs that do not exist in this build changes nothing.
        emit_command_hooks: Option<bool> = "emitCommandHooks",
        succeeds_parent: Option<bool> = "succeedsParent",
        // What is said in it at once; `task` is an older name of it.
        timeout_ms: Option<Count> = "timeoutMs",
        task: Option<String> = "task",
        message: Option<String> = "message",
        mentions: Option<Vec<Any>> = "mentions",
        attachments: Option<Vec<Any>> = "attachments",
        // It goes on from what was said in its parent.
        fork: Option<bool> = "fork",
        fork_from: Option<ForkFrom> = "forkFrom",
        // What a session cannot be in this build is refused by name, rather than made as something else.
        incognito: Option<bool> = "incognito",
        visibility: Option<String> = "visibility",
        catalog_id: Option<NonEmpty> = "catalogId",
        project_id: Option<NonEmpty> = "projectId",
        project_git_url: Option<NonEmpty> = "projectGitUrl",
        repository: Option<Any> = "repository",
        worktree: Option<bool> = "worktree",
        worktree_source: Option<String> = "worktreeSource",
        worktree_base_ref: Option<NonEmpty> = "worktreeBaseRef",
        worktree_name: Option<NonEmpty> = "worktreeName",
        exec_node: Option<NonEmpty> = "execNode",
        cwd: Option<NonEmpty> = "cwd",
    }
}

/// Up to where a session goes on from its parent: `last-completed`, its newest whole answer, also while it has a run.
#[derive(Debug, Clone, Copy)]
pub struct ForkFrom;

impl Param for ForkFrom {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        super::read_constant(&["last-completed"], value, path, issues).map(|_| ForkFrom)
    }
}

impl Place {
    /// What it goes on from; `None`: it begins with nothing.
    fn forks(&self, snapshot: &Snapshot) -> Result<Option<SessionKey>, RpcError> {
        match (self.fork == Some(true), &self.parent_session_key) {
            (true, Some(_)) if self.succeeds_parent == Some(true) => {
                Err(RpcError::invalid("succeedsParent conflicts with fork: a fork runs in parallel to its parent"))
            }
            (true, Some(parent)) => session_key(&parent.0, None, &snapshot.keys).map(Some),
            (true, None) => Err(RpcError::invalid("fork requires parentSessionKey")),
            (false, _) if self.fork_from.is_some() => Err(RpcError::invalid("forkFrom requires fork=true")),
            (false, _) => Ok(None),
        }
    }

    /// The first thing asked for that this build cannot do.
    fn unbuilt(&self) -> Option<&'static str> {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
        let is = |flag: Option<bool>| flag == Some(true);
        let asked = [
            ("incognito", is(self.incognito)),
            ("visibility", self.visibility.as_ref().is_some_and(|visibility| visibility != "shared")),
            ("catalogId", self.catalog_id.is_some()),
            ("projectId", self.project_id.is_some()),
            ("projectGitUrl", self.project_git_url.is_some()),
            ("repository", self.repository.is_some()),
            ("worktree", is(self.worktree)),
            ("worktreeSource", said(&self.worktree_source)),
            ("worktreeBaseRef", self.worktree_base_ref.is_some()),
            ("worktreeName", self.worktree_name.is_some()),
            ("execNode", self.exec_node.is_some()),
            ("cwd", self.cwd.is_some()),
        ];
        asked.iter().find(|(_, asked)| *asked).map(|(name, _)| *name)
    }

    /// What is said in it at once; `None`: nothing.
    fn first_words(&mut self) -> Option<Words> {
        let is_said = |text: &String| !text.trim().is_empty();
        let text = self.message.take().filter(is_said).or_else(|| self.task.take().filter(is_said));
        let attachments = self.attachments.take().filter(|list| !list.is_empty());
        if text.is_none() && attachments.is_none() {
            return None;
        }
        // The same call again says the same message again.
        let run_id = self.idempotency_key.as_ref().map_or_else(random::uuid, |key| format!("{}:first", key.0));
        Some(Words {
            text: text.unwrap_or_default(),
            run_id,
            thinking: None,
            timeout_ms: self.timeout_ms,
            attachments,
            queue_mode: None,
            channel: None,
            to: None,
            account_id: None,
            thread_id: None,
            expected: Expected { is_there: true, ..Expected::default() },
        })
    }
}

/// A new session and what it begins with.
#[derive(Debug, Clone)]
pub struct CreateParams {
    place: Place,
    first: Vec<Change>,
}

impl Params for CreateParams {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let protocol = issues.protocol();
        let is_first = |name: &str| rules::find(name, protocol).is_some_and(|field| FIRST.contains(&field.name));
        let part = |wanted: bool| -> Map<String, Value> {
            let members = object.iter().filter(|(name, _)| is_first(name) == wanted);
            members.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let place = Place::read_fields(&part(false), path, issues);
        let first = rules::read(&part(true), path, issues);
        Some(CreateParams { place: place?, first })
    }
}

/// Makes a session, or answers with the one that is there. What is said in it at once goes the way of every message as
/// soon as the session is on disk, and the answer tells what became of it.
pub(super) fn create(gateway: &mut Gateway, call: &Call, params: Keyed<CreateParams>) -> Result<(), RpcError> {
    let (snapshot, call) = (gateway.snapshot(), call.clone());
    let plan = Plan::new(&snapshot, &call, params)?;
    if let Some(parent) = &plan.forks
        && plan.place.fork_from.is_none()
        && !gateway.is_session_idle(parent)
    {
        return Err(RpcError::unavailable(format!("Parent session {parent} is still active; try again in a moment.")));
    }
    let (conn, id) = (call.conn(), call.id.clone());
    let origin = match plan.words {
        Some(_) => Origin::Creation { conn, id },
        None => Origin::Request { conn, id, method: call.method },
    };
    let work = Work::Store(Box::new(move |db| {
        let cx = StoreCx { db, snapshot, call: call.clone(), ordered_by: None };
        let (answer, mut facts) = plan.write(&cx)?;
        let Some((mut message, uploads)) = plan.words else {
            return Ok(Done { answer: Some(Json::of(&answer)?), facts });
        };
        // A call that came before made it under another key.
        if let Some(made) = answer["key"].as_str() {
            message.session = SessionKey::stored(made.to_owned());
        }
        facts.push(Fact::FirstWords(Box::new(FirstWords { call, answer, message, uploads })));
        Ok(Done { answer: None, facts })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

/// What is to be made.
pub(super) struct Plan {
    key: SessionKey,
    place: Place,
    first: Vec<Change>,
    /// The session it goes on from.
    forks: Option<SessionKey>,
    /// What is said in it at once.
    words: Option<(Message, Uploads)>,
}

impl Plan {
    /// What cannot be made or said is refused before anything is written.
    pub(super) fn new(snapshot: &Snapshot, call: &Call, params: Keyed<CreateParams>) -> Result<Plan, RpcError> {
        let CreateParams { mut place, first } = params.0;
        if let Some(name) = place.unbuilt() {
            return Err(RpcError::unavailable(format!("sessions.create cannot take {name} in this build")));
        }
        let agents = &snapshot.config.settings.agents;
        if let Some(agent) = &place.agent_id
            && agents.get(&agent_id(&agent.0)).is_none()
        {
            return Err(RpcError::invalid(format!("Unknown agent id \"{}\"", agent.0)));
        }
        let key = place_key(snapshot, &place)?;
        let forks = place.forks(snapshot)?;
        if let Some(key) = &place.idempotency_key {
            run_id(key.0.clone())?;
        }
        let words = place.first_words().map(|words| words.message(call, key.clone())).transpose()?;
        Ok(Plan { key, place, first, forks, words })
    }

    /// The session, made now or before, and what that changed.
    pub(super) fn write(&self, cx: &StoreCx<'_>) -> Result<(Value, Vec<Fact>), StoreError> {
        let Plan { key, place, first, forks, .. } = self;
        let idempotency_key = place.idempotency_key.as_ref().map(|key| format!("sessions.create:{}", key.0));
        if let Some(idempotency_key) = &idempotency_key
            && let Begun::Existing(before) = cx.db.idempotency_begin(idempotency_key, cx.call.now_ms)?
        {
            // The work and its record are one transaction, so a record without an answer was one too large to keep.
            let made = before.response.and_then(|response| serde_json::from_str(&response).ok());
            return made
                .map(|made| (made, Vec::new()))
                .ok_or_else(|| RpcError::invalid("the session was created before; its record is gone").into());
        }
        let known = cx.db.session(key.as_str())?;
        let is_new = known.is_none();
        let session = match known {
            Some(_) if forks.is_some() => {
                return Err(RpcError::invalid(format!("session {key} is there already: a fork is a new one")).into());
            }
            Some(session) => session,
            None => make(cx, key, place, first, forks.as_ref())?,
        };
        let answer = answer(cx, &session);
        if let Some(idempotency_key) = &idempotency_key {
            cx.db.idempotency_finish(idempotency_key, Ok(&answer.to_string()), cx.call.now_ms)?;
        }
        let mut facts = Vec::new();
        if is_new {
            facts.push(touched(cx, key, &session, "create", true)?);
            facts.extend(groups::register(cx, &session)?);
        }
        Ok((answer, facts))
    }
}

/// What is said in a session that was made for it.
pub struct FirstWords {
    /// Who made it.
    call: Call,
    /// The answer, but for what became of the message.
    answer: Value,
    message: Message,
    uploads: Uploads,
}

impl std::fmt::Debug for FirstWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstWords").field("message", &self.message).finish_non_exhaustive()
    }
}

impl Gateway {
    /// The session is on disk: the message follows.
    pub(in crate::gateway) fn say_first(&mut self, first: FirstWords) {
        let FirstWords { call, answer, mut message, uploads } = first;
        let orders = commands::take(&mut message, &call);
        let waiter = Waiter::First { conn: call.conn(), id: call.id.clone(), made: answer.clone() };
        if let Err(error) = self.receive(message, uploads, orders, waiter) {
            self.tell_first(call.conn(), &call.id, answer, Err(error));
        }
    }

    /// Answers with the session that was made, and what became of its first message: its run, or why it has none.
    pub(in crate::gateway) fn tell_first(
        &mut self,
        conn: ConnId,
        id: &str,
        mut made: Value,
        outcome: Result<Value, RpcError>,
    ) {
        match outcome {
            Ok(run) => {
                made["runStarted"] = json!(run["status"] == "started");
                row::set_all(&mut made, run);
            }
            Err(error) => made["runError"] = error_shape(&error, Protocol::V4),
        }
        self.answer_request(conn, id, Json::of(&made));
    }
}

/// The key asked for, or one of its own under the agent.
fn place_key(snapshot: &Snapshot, place: &Place) -> Result<SessionKey, RpcError> {
    match &place.key {
        Some(key) => whole_key(key, place.agent_id.as_ref(), &snapshot.keys),
        None => session_key(&format!("dashboard:{}", random::uuid()), place.agent_id.as_ref(), &snapshot.keys),
    }
}

fn make(
    cx: &StoreCx<'_>,
    key: &SessionKey,
    place: &Place,
    first: &[Change],
    forks: Option<&SessionKey>,
) -> Result<SessionRow, StoreError> {
    let now_ms = cx.call.now_ms;
    let mut session = transcript::fresh(key, now_ms);
    let context = cx.snapshot.session_rows();
    let ground = rules::Ground { protocol: cx.call.protocol(), context: &context, now_ms };
    session.entry.insert("modelOverrideSource".to_owned(), json!("default"));
    let source = match forks {
        Some(parent) => {
            let source = cx.db.session(parent.as_str())?;
            Some(source.ok_or_else(|| RpcError::invalid(format!("unknown parent session: {parent}")))?)
        }
        None => None,
    };
    if let Some(source) = &source {
        branches::carry_over(source, &mut session);
        let of = json!({ "sessionKey": source.key, "sessionId": source.session_id });
        session.entry.insert("forkSource".to_owned(), of);
    }
    rules::apply(&ground, &mut session, first)?;
    let parent = match &place.parent_session_key {
        Some(parent) => session_key(&parent.0, None, &cx.snapshot.keys)?,
        None => cx.snapshot.keys.main_of(&session.agent_id),
    };
    session.entry.insert("parentSessionKey".to_owned(), json!(parent.as_str()));
    session.entry.insert("spawnDepth".to_owned(), json!(place.spawn_depth.map_or(0, |depth| depth.0)));
    if let Some(agent) = cx.snapshot.config.settings.agents.get(&session.agent_id) {
        session.entry.insert("sessionRoot".to_owned(), json!(agent.workspace.to_string_lossy()));
    }
    let name = place.display_name.as_ref().map(|name| name.0.trim().to_owned());
    let topic = place.title_source.as_ref().and_then(|topic| list::title_of(&topic.0));
    if let Some(name) = name.filter(|name| !name.is_empty()).or(topic) {
        session.entry.insert("displayName".to_owned(), json!(name));
    }
    let Some(source) = source else {
        cx.db.session_put(&session)?;
        audit(cx, key, None)?;
        return Ok(session);
    };
    let leaf = match place.fork_from {
        Some(ForkFrom) => branches::last_completed(cx.db, &source.session_id)?,
        None => cx.db.transcript_leaf(&source.session_id)?,
    };
    cx.db.transcript_fork(&source.session_id, leaf, &session, now_ms)?;
    audit(cx, key, Some(json!({ "from": source.key })))?;
    Ok(cx.db.session(key.as_str())?.unwrap_or(session))
}

fn answer(cx: &StoreCx<'_>, session: &SessionRow) -> Value {
    let model = cx.snapshot.session_rows().model_of(session);
    json!({
        "ok": true,
        "key": session.key,
        "sessionId": session.session_id,
        "entry": row::entry(session),
        "runStarted": false,
        "resolved": { "modelProvider": model.provider, "model": model.model },
    })
}
