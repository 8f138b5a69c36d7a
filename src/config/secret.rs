//! A secret that cannot be printed by accident.

use std::fmt;
use std::sync::Arc;

/// What stands in for a secret wherever a document leaves the process; a client that sends it back means the stored
/// secret. Upstream's own word.
pub const PLACEHOLDER: &str = "__OPENCLAW_REDACTED__";

/// A secret. `Debug` shows that there is one, `Display` does not exist, and the value is asked for by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Arc<str>>) -> Secret {
        Secret(value.into())
    }

    /// The value itself: to compare it, to sign with it, to send it to whom it is for. Never to log it.
    ///
    /// `==` on two secrets is for comparing two documents; a peer's attempt is compared in constant time by the caller.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret is to be had from, for those that are fetched when they are needed: one that cannot be had then takes
/// its user out of service, not the whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It stands in the document.
    Written(Secret),
    /// An environment variable.
    Variable(String),
    /// A place that one of `secrets.providers` knows, or a file of its own.
    Referred {
        /// `file` or `exec`; what else is written is refused when it is fetched.
        source: String,
        /// The name under `secrets.providers`.
        provider: Option<String>,
        /// What to ask for there.
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        let shown = format!("{:?} {:#?}", Secret::new("hunter2"), Some(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(Secret::new("a").reveal(), "a");
    }
}
