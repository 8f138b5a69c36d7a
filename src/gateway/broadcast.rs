//! Events: who may see which, and how they are numbered.
//!
//! An event's payload is written once. Numbers count the events of one connection, on both protocols: protocol 3's own
//! gateway counts its broadcasts for everybody, but its clients show every hole as a lost event.

use std::sync::Arc;

use super::clients::Ready;
use super::{Effect, Gateway};
use crate::protocol::ConnId;
use crate::protocol::frame::{Body, FrameClass, Json, OutFrame, StateVersion, Tail, event_body};
use crate::protocol::scope::{Role, Scope};
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;

/// Who may see an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody who is admitted, nodes included.
    Open,
    /// Operators with this scope.
    Scope(Scope),
    /// Whoever it is addressed to, and nobody else.
    Addressed,
}

/// One kind of event.
#[derive(Debug)]
pub struct EventKind {
    /// Its name on the wire; `runtime.decision_event` renames the decision event.
    pub name: &'static str,
    /// Whether protocol 3 knows it.
    pub in_v3: bool,
    /// Who may see it on protocol 3.
    pub audience3: Audience,
    /// Who may see it on protocol 4.
    pub audience4: Audience,
    /// What to do when a client does not keep up.
    pub class: FrameClass,
}

macro_rules! events {
    ( $( $(#[$meta:meta])* $id:ident = $name:literal, $in_v3:literal, $a3:expr, $a4:expr, $class:ident; )* ) => {
        $( $(#[$meta])* pub static $id: EventKind = EventKind {
            name: $name, in_v3: $in_v3, audience3: $a3, audience4: $a4, class: FrameClass::$class,
        }; )*
        /// Every event this gateway sends, in the order of the contract.
        pub static EVENTS: &[&EventKind] = &[ $( &$id ),* ];
    };
}

use Audience::{Addressed, Open};
const READ: Audience = Audience::Scope(Scope::Read);
const PAIRING: Audience = Audience::Scope(Scope::Pairing);
const APPROVALS: Audience = Audience::Scope(Scope::Approvals);

events! {
    /// The nonce, before anything else.
    CHALLENGE = "connect.challenge", true, Addressed, Addressed, Event;
    /// What goes on in a run.
    AGENT = "agent", true, READ, READ, Event;
    /// A run's answer as a person reads it.
    CHAT = "chat", true, READ, READ, Event;
    /// Who is here.
    PRESENCE = "presence", true, READ, READ, DropIfSlow;
    /// The gateway lives.
    TICK = "tick", true, Open, Open, DropIfSlow;
    /// The gateway goes.
    SHUTDOWN = "shutdown", true, Open, Open, Event;
    /// A new health snapshot.
    HEALTH = "health", true, READ, Open, Event;
    /// A heartbeat ran, or was skipped.
    HEARTBEAT = "heartbeat", true, Open, Open, DropIfSlow;
    /// A device asks to be paired.
    DEVICE_PAIR_REQUESTED = "device.pair.requested", true, PAIRING, PAIRING, DropIfSlow;
    /// And was answered.
    DEVICE_PAIR_RESOLVED = "device.pair.resolved", true, PAIRING, PAIRING, DropIfSlow;
    /// A paired device got another name.
    DEVICE_PAIR_CHANGED = "device.pair.changed", false, PAIRING, PAIRING, DropIfSlow;
    /// Words that wake a listening client.
    VOICEWAKE_CHANGED = "voicewake.changed", true, Addressed, Addressed, DropIfSlow;
    /// What the defender decided.
    DECISION = "security.decision", true, READ, READ, DropIfSlow;
    /// The configuration was replaced.
    CONFIG_CHANGED = "config.changed", false, READ, READ, DropIfSlow;
    /// What can be chosen beside a conversation may have changed.
    CHAT_METADATA_CHANGED = "chat.metadata.changed", false, READ, READ, DropIfSlow;
    /// A session came, changed or went.
    SESSIONS_CHANGED = "sessions.changed", false, READ, READ, DropIfSlow;
    /// A run of a session uses a tool.
    SESSION_TOOL = "session.tool", false, READ, READ, DropIfSlow;
    /// A message was added to a session.
    SESSION_MESSAGE = "session.message", false, READ, READ, Event;
    /// Somebody writes in a session that others look at, or no longer does.
    SESSION_TYPING = "session.typing", false, READ, READ, DropIfSlow;
    /// A session is being summarised for a caller, or was.
    SESSION_OPERATION = "session.operation", false, READ, READ, Event;
    /// The model catalogue a client asked for when it connected.
    MODELS_SNAPSHOT = "models.snapshot", false, Addressed, Addressed, Event;
    /// A setup code did its work.
    SETUP_COMPLETED = "device.pair.setup.completed", false, PAIRING, PAIRING, DropIfSlow;
    /// A setup code was used, and nobody knows whether the device got its tokens.
    SETUP_UNCERTAIN = "device.pair.setup.deliveryUncertain", false, PAIRING, PAIRING, DropIfSlow;
    /// A command waits for a person.
    EXEC_APPROVAL_REQUESTED = "exec.approval.requested", true, APPROVALS, APPROVALS, DropIfSlow;
    /// And was answered.
    EXEC_APPROVAL_RESOLVED = "exec.approval.resolved", true, APPROVALS, APPROVALS, DropIfSlow;
    /// Something a plugin wants to do waits for a person.
    PLUGIN_APPROVAL_REQUESTED = "plugin.approval.requested", false, APPROVALS, APPROVALS, DropIfSlow;
    /// And was answered.
    PLUGIN_APPROVAL_RESOLVED = "plugin.approval.resolved", false, APPROVALS, APPROVALS, DropIfSlow;
    /// An approval of a session that is followed with its approvals.
    SESSION_APPROVAL = "session.approval", false, APPROVALS, APPROVALS, DropIfSlow;
}

impl EventKind {
    fn may_reach(&self, ready: &Ready) -> bool {
        let caller = &ready.caller;
        let audience = match caller.protocol {
            Protocol::V3 if !self.in_v3 => return false,
            Protocol::V3 => self.audience3,
            Protocol::V4 => self.audience4,
        };
        match audience {
            Audience::Open => true,
            Audience::Scope(scope) => caller.role == Role::Operator && caller.scopes.satisfies(scope, caller.protocol),
            Audience::Addressed => false,
        }
    }
}

/// Which of those who may see an event it is for.
#[derive(Clone, Copy, Debug)]
pub enum For<'a> {
    /// All of them.
    All,
    /// All of one protocol.
    On(Protocol),
    /// All but one.
    AllBut(ConnId),
    /// Those who follow changes of all sessions.
    SessionList,
    /// Those who follow the messages of this session, or of all.
    SessionMessages(&'a SessionKey),
    /// Those who follow the messages of this session, or of all, and are not this person.
    SessionMessagesBut(&'a SessionKey, &'a str),
    /// Those who see a session's runs: everybody, except who asked to see only what it follows.
    SessionRuns(&'a SessionKey),
    /// The same, on one protocol.
    SessionRunsOn(&'a SessionKey, Protocol),
    /// Those of another choice who speak one protocol.
    Those(&'a For<'a>, Protocol),
    /// This one.
    One(ConnId),
    /// These.
    These(&'a [ConnId]),
    /// Those who follow changes of all sessions, but for this one.
    SessionListBut(Option<ConnId>),
}

impl For<'_> {
    fn includes(self, conn: ConnId, ready: &Ready) -> bool {
        let subscriptions = &ready.subscriptions;
        match self {
            For::All => true,
            For::On(protocol) => ready.caller.protocol == protocol,
            For::AllBut(one) => conn != one,
            For::One(one) => conn == one,
            For::These(these) => these.contains(&conn),
            For::SessionListBut(one) => subscriptions.sessions && one != Some(conn),
            For::SessionList => subscriptions.sessions,
            For::SessionMessages(key) => subscriptions.sessions || subscriptions.messages.contains(key),
            For::SessionMessagesBut(key, actor) => {
                (subscriptions.sessions || subscriptions.messages.contains(key)) && ready.caller.actor() != actor
            }
            For::Those(_, protocol) if ready.caller.protocol != protocol => false,
            For::Those(choice, _) => choice.includes(conn, ready),
            For::SessionRunsOn(_, protocol) if ready.caller.protocol != protocol => false,
            For::SessionRuns(key) | For::SessionRunsOn(key, _) => {
                !ready.caller.caps.session_scoped_events
                    || subscriptions.sessions
                    || subscriptions.messages.contains(key)
            }
        }
    }
}

impl Gateway {
    /// Sends an event to everybody it is for and who may see it.
    pub(super) fn broadcast(&mut self, kind: &EventKind, to: For<'_>, payload: &Json) {
        self.broadcast_versioned(kind, to, payload, None);
    }

    /// The same, with the versions of the snapshots it belongs to.
    pub(super) fn broadcast_versioned(
        &mut self,
        kind: &EventKind,
        to: For<'_>,
        payload: &Json,
        state_version: Option<StateVersion>,
    ) {
        let mut shared: Option<Arc<[u8]>> = None;
        let name = self.event_name(kind);
        let effects = &mut self.effects;
        for (conn, ready) in self.clients.all_ready_mut() {
            if !to.includes(conn, ready) || !kind.may_reach(ready) {
                continue;
            }
            ready.seq += 1;
            let body = shared.get_or_insert_with(|| event_body(&name, Some(payload), state_version).into());
            let tail = Tail::Seq(ready.seq);
            let frame = OutFrame { body: Body::Shared(Arc::clone(body)), tail, class: kind.class };
            effects.push_back(Effect::Send(conn, frame));
        }
    }

    /// Whether anybody would be sent this event; what nobody hears need not be written.
    pub(super) fn is_heard(&self, kind: &EventKind, to: For<'_>) -> bool {
        self.clients.all_ready().any(|(conn, ready)| to.includes(conn, ready) && kind.may_reach(ready))
    }

    /// Sends an event to one connection, without a number: what is addressed is nobody else's gap.
    pub(super) fn send_event(&mut self, conn: ConnId, kind: &EventKind, payload: &Json) {
        let name = self.event_name(kind);
        let body = event_body(&name, Some(payload), None);
        let frame = OutFrame { body: Body::Own(body), tail: Tail::Unnumbered, class: kind.class };
        self.effects.push_back(Effect::Send(conn, frame));
    }

    /// Sends a frame that is written already.
    pub(super) fn send_frame(&mut self, conn: ConnId, frame: OutFrame) {
        self.effects.push_back(Effect::Send(conn, frame));
    }

    fn event_name(&self, kind: &EventKind) -> String {
        if std::ptr::eq(kind, &DECISION) {
            return self.config.settings.runtime.decision_event.clone();
        }
        kind.name.to_owned()
    }

    /// The names of the events `protocol`'s clients may see.
    pub(super) fn event_names(&self, protocol: Protocol) -> Vec<String> {
        EVENTS.iter().filter(|kind| protocol == Protocol::V4 || kind.in_v3).map(|kind| self.event_name(kind)).collect()
    }
}
