//! What is under way: requests whose jobs have not reported, messages that are being accepted.
//!
//! `status`, `gateway.restart.preflight` and `gateway.suspend.*` say the same of it, because they read it here.

use std::collections::BTreeMap;

use serde_json::Value;

use super::effect::Origin;
use super::table::{self, Run};
use crate::protocol::json::json;

/// Requests whose jobs have not reported, by method. Bounded by what the lanes take.
#[derive(Debug, Default)]
pub struct Active {
    by_method: BTreeMap<&'static str, usize>,
}

/// How much is under way at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that wait for a job.
    pub requests: usize,
    /// Those of them that change sessions.
    pub session_writes: usize,
    /// Messages judged or written down, and not yet acknowledged.
    pub messages: usize,
}

impl Active {
    /// A job starts.
    pub fn started(&mut self, origin: &Origin) {
        if let Some(method) = method(origin) {
            *self.by_method.entry(method).or_default() += 1;
        }
    }

    /// A job reported, or its lane would not take it.
    pub fn ended(&mut self, origin: &Origin) {
        let Some(method) = method(origin) else { return };
        if let Some(n) = self.by_method.get_mut(method) {
            *n -= 1;
            if *n == 0 {
                self.by_method.remove(method);
            }
        }
    }

    /// What is under way, with `messages` being accepted.
    pub fn counts(&self, messages: usize) -> Counts {
        let writes_sessions = |name: &str| {
            name.starts_with("sessions.") && table::find(name).is_some_and(|method| matches!(method.run, Run::Store(_)))
        };
        Counts {
            requests: self.by_method.values().sum(),
            session_writes: self.by_method.iter().filter(|(name, _)| writes_sessions(name)).map(|(_, n)| n).sum(),
            messages,
        }
    }
}

/// The method that a job is for.
fn method(origin: &Origin) -> Option<&'static str> {
    match origin {
        Origin::Request { method, .. } => Some(method),
        Origin::Invocation(_) => Some("tools.invoke"),
        _ => None,
    }
}

impl Counts {
    /// All of it.
    pub fn total(self) -> usize {
        self.requests + self.messages
    }

    /// Why a restart or a suspension should wait, in the contract's kinds.
    pub fn blockers(self) -> Vec<Value> {
        let blocker = |kind: &str, n: usize, what: &str| {
            let is = if n == 1 { "is" } else { "are" };
            (n > 0).then(|| json!({ "kind": kind, "count": n, "message": format!("{n} {what} {is} under way") }))
        };
        [blocker("queue", self.messages, "inbound messages"), blocker("root-request", self.requests, "requests")]
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ConnId;

    #[test]
    fn what_started_is_counted_until_it_ended() {
        let request = |method| Origin::Request { conn: ConnId(1), id: "1".to_owned(), method };
        let mut active = Active::default();
        for origin in [request("status"), request("status"), request("sessions.patch"), Origin::Message(7)] {
            active.started(&origin);
        }
        let counts = active.counts(2);
        assert_eq!(counts, Counts { requests: 3, session_writes: 1, messages: 2 });
        assert_eq!(counts.total(), 5);
        assert_eq!(counts.blockers()[0]["kind"], "queue");
        assert_eq!(
            counts.blockers()[1],
            json!({ "kind": "root-request", "count": 3, "message": "3 requests are under way" })
        );

        for origin in [request("status"), request("status"), request("sessions.patch"), request("sessions.patch")] {
            active.ended(&origin);
        }
        assert_eq!(active.counts(0), Counts::default());
        assert!(active.counts(0).blockers().is_empty());
    }
}
