//! What of a session may be changed and to what: one row a field.
//!
//! `null` clears a field, an absent one keeps what it was (SES-40). A row says which protocols have the field, what JSON
//! it may be, whether `null` may stand in it, and how it is applied; decoding, the scope a caller needs and the tests
//! are derived from the rows. Nothing here touches the store: [`apply`] changes a [`SessionRow`] in memory, and what it
//! refuses leaves it to the caller to write nothing.

mod fields;
mod shape;

pub use fields::{FIELDS, LABEL};
pub use shape::Shape;

use serde_json::{Map, Value};

use super::row::Context;
use crate::protocol::error::RpcError;
use crate::protocol::params::{self, Issues};
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::store::sessions::SessionRow;

/// Which protocols have a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Both.
    Both,
    /// Protocol 3 only.
    V3,
    /// Protocol 4 only.
    V4,
}

impl On {
    fn has(self, protocol: Protocol) -> bool {
        match self {
            On::Both => true,
            On::V3 => protocol == Protocol::V3,
            On::V4 => protocol == Protocol::V4,
        }
    }
}

/// How much a caller of protocol 4 must be allowed to change a field. Protocol 3 asks for `operator.admin` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// `operator.write` is enough.
    Light,
    /// `operator.admin`.
    Heavy,
}

/// Whether `null` may stand in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Null {
    /// It clears.
    Clears,
    /// It is refused.
    Refused,
}

/// One patchable field.
pub struct Field {
    /// Its name on the wire.
    pub name: &'static str,
    /// Who knows it.
    pub on: On,
    /// Who may change it.
    pub weight: Weight,
    /// Whether it can be cleared by `null`.
    pub null: Null,
    /// What JSON it may be.
    pub shape: Shape,
    /// Applies a value, or `None` for `null`.
    pub(super) set: fn(&Ground<'_>, &mut SessionRow, &'static str, Option<Value>) -> Result<(), RpcError>,
}

/// One field and what it becomes; `None` clears it.
#[derive(Clone)]
pub struct Change {
    field: &'static Field,
    to: Option<Value>,
}

impl Change {
    /// Which field.
    pub fn name(&self) -> &'static str {
        self.field.name
    }

    /// What it becomes; `None` clears it.
    pub fn to(&self) -> Option<&Value> {
        self.to.as_ref()
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Change").field(&self.field.name).finish()
    }
}

/// What the rules look at besides the session.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Whose rules apply where the two differ.
    pub protocol: Protocol,
    /// Models and agents.
    pub context: &'a Context<'a>,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

/// Whether a field is still as a caller saw it; `null` was seen where none is set. Numbers count by value, and a set of
/// overrides that overrides nothing is none.
pub fn is_as_seen(seen: &Value, now: Option<&Value>) -> bool {
    let now = now.unwrap_or(&Value::Null);
    let is_nothing = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    let is_number = seen.is_number() && now.is_number() && seen.as_f64() == now.as_f64();
    seen == now || is_number || is_nothing(seen) && is_nothing(now)
}

/// The field of this name that `protocol` has; `name` in camelCase or snake_case.
pub fn find(name: &str, protocol: Protocol) -> Option<&'static Field> {
    let camel = if name.contains('_') { params::camel(name) } else { name.to_owned() };
    FIELDS.iter().find(|field| field.name == camel && field.on.has(protocol))
}

/// Reads the changes among an object's members, in the order of the table; other members are the caller's.
pub fn read(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Vec<Change> {
    let protocol = issues.protocol();
    let mut changes = Vec::new();
    for field in FIELDS.iter().filter(|field| field.on.has(protocol)) {
        let Some(value) = params::find(object, field.name) else { continue };
        if field.shape.admits(value, field.null, &format!("{path}/{}", field.name), issues) {
            changes.push(Change { field, to: (!value.is_null()).then(|| value.clone()) });
        }
    }
    changes
}

/// Whether a change needs `operator.admin` on protocol 4, going by the raw members of a patch.
pub fn is_heavy(object: &Map<String, Value>) -> bool {
    object.iter().any(|(name, value)| match find(name, Protocol::V4) {
        Some(field) if field.name == "permissionMode" => value == "full",
        Some(field) => field.weight == Weight::Heavy,
        None => true,
    })
}

/// Applies every change, in the order of the table.
///
/// # Errors
/// What the first change that cannot be made says; the session is then half changed and must not be written.
pub fn apply(ground: &Ground<'_>, session: &mut SessionRow, changes: &[Change]) -> Result<(), RpcError> {
    let sets = |name: &str| changes.iter().any(|change| change.field.name == name && change.to.is_some());
    if sets("agentRuntime") && !sets("model") {
        return Err(RpcError::invalid("agentRuntime requires an explicit canonical provider/model selection"));
    }
    for change in changes {
        (change.field.set)(ground, session, change.field.name, change.to.clone())?;
    }
    if ground.protocol == Protocol::V4 && changes.iter().any(|change| change.field.name == "model") {
        fields::fit_thinking_level(ground, session);
    }
    Ok(())
}

fn is_subagent(session: &SessionRow) -> bool {
    super::row::is_subagent(&SessionKey::stored(session.key.clone()))
}

#[cfg(test)]
mod tests;
