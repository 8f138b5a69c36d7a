//! The connections that are open, and what each may do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::event::Upgrade;
use crate::protocol::ConnId;
use crate::protocol::connect::{ClientId, ClientMode};
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;

/// How a connection proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing was asked (`gateway.auth.mode: "none"`).
    None,
    /// The shared token.
    Token,
    /// The shared password.
    Password,
    /// A device's own token.
    DeviceToken,
    /// The token in a setup code.
    SetupCode,
    /// Headers of a trusted proxy.
    TrustedProxy,
}

impl Admission {
    /// `auth.method` of protocol 4's hello.
    pub fn as_str(self) -> &'static str {
        match self {
            Admission::None => "none",
            Admission::Token => "token",
            Admission::Password => "password",
            Admission::DeviceToken => "device-token",
            Admission::SetupCode => "bootstrap-token",
            Admission::TrustedProxy => "trusted-proxy",
        }
    }

    /// Whether it rests on the secret that all share.
    pub fn is_shared(self) -> bool {
        matches!(self, Admission::Token | Admission::Password)
    }
}

/// What a connection is and may do: fixed when it was admitted, shared with the jobs it starts.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its connection; HTTP requests and the control port have one of their own for their life.
    pub conn: ConnId,
    /// The protocol agreed on.
    pub protocol: Protocol,
    /// What it acts as.
    pub role: Role,
    /// What it may call: decided here, never by its wish.
    pub scopes: Scopes,
    /// The program.
    pub client_id: ClientId,
    /// What it is doing.
    pub mode: ClientMode,
    /// Its device, when it proved one.
    pub device_id: Option<String>,
    /// How it was admitted.
    pub admission: Admission,
    /// Where it comes from, as the limits count it.
    pub address: IpAddr,
    /// What to call it in records: device, else display name, else program.
    pub name: String,
    /// What to call it to other people: display name, else program.
    pub label: String,
    /// Capabilities it declared that have an effect here.
    pub caps: Caps,
}

/// Declared capabilities with an effect on this side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Wants `session.*`, `chat` and `agent` events only of sessions it subscribed to.
    pub session_scoped_events: bool,
    /// Is shown the tools of runs it started.
    pub tool_events: bool,
    /// Shows approvals of every kind to a person.
    pub approvals: bool,
    /// Shows approvals of commands.
    pub exec_approvals: bool,
    /// Shows approvals that plugins ask for.
    pub plugin_approvals: bool,
}

impl Caller {
    /// Whether it may see paths and other parts kept from ordinary readers.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Operator && self.scopes.satisfies(crate::protocol::scope::Scope::Admin, self.protocol)
    }

    /// The program it speaks through, as messages keep it.
    pub fn client(&self) -> crate::intake::Client {
        crate::intake::Client {
            id: self.client_id.as_str().to_owned(),
            mode: self.mode.as_str().to_owned(),
            is_owner: self.is_admin(),
        }
    }

    /// Who acted, for the audit trail.
    pub fn actor(&self) -> String {
        match &self.device_id {
            Some(device) => format!("device:{device}"),
            None => format!("{}:{}", self.admission.as_str(), self.client_id.as_str()),
        }
    }
}

/// Where a connection stands.
#[derive(Debug)]
pub enum Phase {
    /// The challenge was sent; `connect` must come.
    Challenged {
        /// What the client must sign.
        nonce: String,
    },
    /// `connect` was accepted and its device is being recorded; nothing else is read meanwhile.
    Recording(Box<super::handshake::Admitted>),
    /// Admitted.
    Ready(Ready),
    /// Refused or removed: a close frame is on its way and nothing it still sends counts.
    Leaving,
}

/// An admitted connection's own state.
#[derive(Debug)]
pub struct Ready {
    /// What it may do.
    pub caller: Arc<Caller>,
    /// When it was admitted.
    pub connected_at_ms: i64,
    /// Number of the last event sent to it.
    pub seq: u64,
    /// What it asked to hear.
    pub subscriptions: Subscriptions,
    /// Calls refused for its role; too many close it.
    pub n_role_refusals: u32,
    /// Key of its presence entry, if it has one.
    pub presence_key: Option<String>,
}

/// What a connection of protocol 4 asked to hear.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// `sessions.subscribe`: changes of all sessions.
    pub sessions: bool,
    /// `sessions.messages.subscribe`: messages of these sessions. Bounded by [`SUBSCRIBED_SESSIONS_MAX`].
    pub messages: Vec<crate::protocol::session_key::SessionKey>,
    /// Of them, those whose approvals are told of as well (`includeApprovals`).
    pub approvals: Vec<crate::protocol::session_key::SessionKey>,
    /// `sessions.viewers.set`: the sessions that somebody looks at there, sorted. At most [`WATCHED_SESSIONS_MAX`].
    pub watched: Vec<crate::protocol::session_key::SessionKey>,
}

/// Sessions one connection may look at, as the contract says.
pub const WATCHED_SESSIONS_MAX: usize = 32;
/// Sessions one connection may follow; one more is refused. A page shows a handful at a time.
pub const SUBSCRIBED_SESSIONS_MAX: usize = 64;

/// One open WebSocket.
#[derive(Debug)]
pub struct Client {
    /// The upgrade's head, needed until the handshake is decided.
    pub upgrade: Box<Upgrade>,
    /// Where it stands.
    pub phase: Phase,
}

/// Every open WebSocket.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: BTreeMap<ConnId, Client>,
}

impl Clients {
    /// Takes a new one in.
    pub fn insert(&mut self, id: ConnId, client: Client) {
        self.by_id.insert(id, client);
    }

    /// Lets one go.
    pub fn remove(&mut self, id: ConnId) -> Option<Client> {
        self.by_id.remove(&id)
    }

    /// One of them.
    pub fn get(&self, id: ConnId) -> Option<&Client> {
        self.by_id.get(&id)
    }

    /// One of them, to change.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Client> {
        self.by_id.get_mut(&id)
    }

    /// An admitted one.
    pub fn ready_mut(&mut self, id: ConnId) -> Option<&mut Ready> {
        match self.by_id.get_mut(&id)?.phase {
            Phase::Ready(ref mut ready) => Some(ready),
            _ => None,
        }
    }

    /// An admitted one.
    pub fn ready(&self, id: ConnId) -> Option<&Ready> {
        match self.by_id.get(&id)?.phase {
            Phase::Ready(ref ready) => Some(ready),
            _ => None,
        }
    }

    /// All admitted ones, in the order they came.
    pub fn all_ready(&self) -> impl Iterator<Item = (ConnId, &Ready)> {
        self.by_id.iter().filter_map(|(id, client)| match &client.phase {
            Phase::Ready(ready) => Some((*id, ready)),
            _ => None,
        })
    }

    /// All admitted ones, to change.
    pub fn all_ready_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut Ready)> {
        self.by_id.iter_mut().filter_map(|(id, client)| match &mut client.phase {
            Phase::Ready(ready) => Some((*id, ready)),
            _ => None,
        })
    }

    /// Whether a device is connected.
    pub fn has_device(&self, device_id: &str) -> bool {
        self.all_ready().any(|(_, ready)| ready.caller.device_id.as_deref() == Some(device_id))
    }

    /// Every one's id.
    pub fn ids(&self) -> Vec<ConnId> {
        self.by_id.keys().copied().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
