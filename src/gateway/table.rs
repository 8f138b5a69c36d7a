//! The table of methods: one row each, in the file of its family, with scope, lane and handler side by side.
//!
//! The dispatcher, `features.methods`, the authorisation matrix, the reference page and the metrics labels are derived
//! from it.

use std::sync::Arc;

use super::clients::Caller;
use super::{Done, Gateway, Snapshot};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::scope::Scope;
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::reader::LazyReader;

/// What a caller must be to call a method.
#[derive(Clone, Copy)]
pub enum Need {
    /// Admitted, in any role.
    Anyone,
    /// A node.
    Node,
    /// An operator, of whatever scopes.
    Operator,
    /// An operator with this scope.
    Scope(Scope),
    /// An operator with the first scope; protocol 4 also takes the second, narrower one. Refusals name the first.
    Either(Scope, Scope),
    /// As the one before, with the scopes that the parameters call for.
    ByParams(fn(Option<&str>) -> (Scope, Scope)),
}

/// Shorthands for the table's columns.
pub mod need {
    use super::{Need, Scope};

    /// `operator.admin`.
    pub const ADMIN: Need = Need::Scope(Scope::Admin);
    /// `operator.read`.
    pub const READ: Need = Need::Scope(Scope::Read);
    /// `operator.write`.
    pub const WRITE: Need = Need::Scope(Scope::Write);
    /// `operator.approvals`.
    pub const APPROVALS: Need = Need::Scope(Scope::Approvals);
    /// An operator of whatever scopes.
    pub const OPERATOR: Need = Need::Operator;
    /// `operator.pairing`.
    pub const PAIRING: Need = Need::Scope(Scope::Pairing);
    /// `operator.read`, or `operator.sessions.read` on protocol 4.
    pub const SESSIONS_READ: Need = Need::Either(Scope::Read, Scope::SessionsRead);
    /// `operator.write`, or `operator.sessions.write` on protocol 4.
    pub const SESSIONS_WRITE: Need = Need::Either(Scope::Write, Scope::SessionsWrite);
}

/// Which protocols' `features.methods` name a method. Both may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Both.
    Both,
    /// Protocol 3 only.
    V3,
    /// Protocol 4 only.
    V4,
    /// Neither: it can be called, and upstream does not list it either.
    Never,
}

/// A request being answered: who asked, and how the answer finds its way.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// The request's id.
    pub id: String,
    /// The method's name in the table.
    pub method: &'static str,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

impl Call {
    /// The connection to answer.
    pub fn conn(&self) -> ConnId {
        self.caller.conn
    }

    /// The protocol to answer in.
    pub fn protocol(&self) -> Protocol {
        self.caller.protocol
    }
}

/// What a handler on the loop made of a call.
pub enum Answer {
    /// The result.
    Now(Json),
    /// The handler started something that will answer.
    Later,
}

/// What a handler on a query worker may touch.
pub struct QueryCx<'a> {
    /// The store, read-only.
    pub store: &'a mut LazyReader,
    /// Live state as of when the call came.
    pub snapshot: Snapshot,
    /// The call.
    pub call: Call,
}

/// What a handler on the store thread may touch.
pub struct StoreCx<'a> {
    /// The open transaction; an error takes back what the handler wrote.
    pub db: &'a Db<'a>,
    /// Live state as of when the call came.
    pub snapshot: Snapshot,
    /// The call.
    pub call: Call,
    /// The inbox row of the message that gave it as a command. It goes on when what is open in its session ends.
    pub ordered_by: Option<i64>,
}

/// Where a method runs, and therefore what it may touch.
#[derive(Clone, Copy)]
pub enum Run {
    /// On the loop, with the whole gateway. Only for answers that need no IO and a bounded time.
    Loop(fn(&mut Gateway, &Call, Option<&str>) -> Result<Answer, RpcError>),
    /// On a query worker.
    Query(fn(QueryCx<'_>, Option<&str>) -> Result<Done, RpcError>),
    /// On the store thread, inside a transaction; answered once it is durable.
    Store(fn(StoreCx<'_>, Option<&str>) -> Result<Done, StoreError>),
}

impl Run {
    /// The lane's name, for the reference page.
    pub fn lane(self) -> &'static str {
        match self {
            Run::Loop(_) => "loop",
            Run::Query(_) => "query",
            Run::Store(_) => "store",
        }
    }
}

/// One method.
pub struct Method {
    /// Its name on the wire.
    pub name: &'static str,
    /// Who is told of it.
    pub listed: Listed,
    /// What protocol 3 asks of a caller.
    pub need3: Need,
    /// What protocol 4 asks of a caller.
    pub need4: Need,
    /// Where and what runs.
    pub run: Run,
}

impl Method {
    /// What `protocol` asks of a caller.
    pub fn need(&self, protocol: Protocol) -> Need {
        match protocol {
            Protocol::V3 => self.need3,
            Protocol::V4 => self.need4,
        }
    }

    /// Whether `protocol`'s clients are told of it.
    pub fn is_listed(&self, protocol: Protocol) -> bool {
        match self.listed {
            Listed::Both => true,
            Listed::V3 => protocol == Protocol::V3,
            Listed::V4 => protocol == Protocol::V4,
            Listed::Never => false,
        }
    }
}

/// Writes a family's rows: `"name", Listed, need on 3, need on 4, Lane handler;`.
///
/// The handler is a plain function from typed parameters to a result that can be written as JSON; decoding and encoding
/// happen here and nowhere else. Lanes: `Loop`, `Query`, `Store`; `QueryFacts` is `Query` with facts to report; `Raw` is `Loop` with a result already written, `Flow`
/// is `Loop` with an answer that comes later.
#[macro_export]
macro_rules! methods {
    ( $( $name:literal, $listed:ident, $need3:expr, $need4:expr, $lane:ident $handler:path; )* ) => {
        /// This family's rows.
        pub static METHODS: &[$crate::gateway::table::Method] = &[
            $( $crate::gateway::table::Method {
                name: $name,
                listed: $crate::gateway::table::Listed::$listed,
                need3: $need3,
                need4: $need4,
                run: $crate::methods!(@run $lane $name $handler),
            }, )*
        ];
    };
    (@run Loop $name:literal $handler:path) => {
        $crate::gateway::table::Run::Loop(|gateway, call, raw| {
            let params = $crate::protocol::params::decode($name, raw, call.protocol())?;
            let result = $handler(gateway, call, params)?;
            $crate::protocol::frame::Json::of(&result).map($crate::gateway::table::Answer::Now)
        })
    };
    (@run Raw $name:literal $handler:path) => {
        $crate::gateway::table::Run::Loop(|gateway, call, raw| {
            let params = $crate::protocol::params::decode($name, raw, call.protocol())?;
            $handler(gateway, call, params).map($crate::gateway::table::Answer::Now)
        })
    };
    (@run Flow $name:literal $handler:path) => {
        $crate::gateway::table::Run::Loop(|gateway, call, raw| {
            let params = $crate::protocol::params::decode($name, raw, call.protocol())?;
            $handler(gateway, call, params).map(|()| $crate::gateway::table::Answer::Later)
        })
    };
    (@run Query $name:literal $handler:path) => {
        $crate::gateway::table::Run::Query(|cx, raw| {
            let params = $crate::protocol::params::decode($name, raw, cx.call.protocol())?;
            let answer = $crate::protocol::frame::Json::of(&$handler(cx, params)?)?;
            Ok($crate::gateway::Done { answer: Some(answer), facts: Vec::new() })
        })
    };
    (@run QueryFacts $name:literal $handler:path) => {
        $crate::gateway::table::Run::Query(|cx, raw| {
            let params = $crate::protocol::params::decode($name, raw, cx.call.protocol())?;
            let (result, facts) = $handler(cx, params)?;
            let answer = $crate::protocol::frame::Json::of(&result)?;
            Ok($crate::gateway::Done { answer: Some(answer), facts })
        })
    };
    (@run Store $name:literal $handler:path) => {
        $crate::gateway::table::Run::Store(|cx, raw| {
            let params = $crate::protocol::params::decode($name, raw, cx.call.protocol())?;
            let (result, facts) = $handler(cx, params)?;
            let answer = $crate::protocol::frame::Json::of(&result)?;
            Ok($crate::gateway::Done { answer: Some(answer), facts })
        })
    };
}

/// Finds a method by name.
pub fn find(name: &str) -> Option<&'static Method> {
    let table = sorted();
    table.binary_search_by_key(&name, |method| method.name).ok().map(|idx| table[idx])
}

/// Every method, sorted by name.
pub fn sorted() -> &'static [&'static Method] {
    static TABLE: std::sync::OnceLock<Vec<&'static Method>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        let mut all: Vec<&Method> = super::methods::FAMILIES.iter().flat_map(|family| family.iter()).collect();
        all.sort_by_key(|method| method.name);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let table = sorted();
        assert!(table.len() > 30, "the table was looked at: {} rows", table.len());
        for pair in table.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} stands twice", pair[1].name);
        }
        for method in table {
            let ok = method.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
            assert!(ok, "{}", method.name);
            assert!(find(method.name).is_some());
        }
        assert!(find("no.such").is_none());
    }
}
