//! Sessions: what they are called, what they hold, how they are shown.
//!
//! [`transcript`] adds messages and [`history`] reads them back as clients see them; [`row`] shows a session, [`list`],
//! [`resolve`], [`search`] and [`preview`] find sessions and show parts of them; [`patch`] says what of a session may be changed and
//! to what. [`branches`] shows where a conversation goes several ways, [`touched`] which files it is about, [`media`] what
//! comes with a message beside its words, [`usage`] what was spent. [`activation`] says which messages in groups are
//! answered, and [`scheduler`] when.
//!
//! **Invariant:** a session's transcript is only ever added to, compacted or archived; nothing here deletes what was
//! said.

pub mod activation;
pub mod branches;
pub mod history;
pub mod list;
pub mod media;
pub mod participants;
pub mod patch;
pub mod preview;
pub mod resolve;
pub mod row;
pub mod scheduler;
pub mod search;
pub mod thinking;
pub mod touched;
pub mod transcript;
pub mod usage;
