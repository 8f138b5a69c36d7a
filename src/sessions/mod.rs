//! Sessions: what they are called, what they hold, how they are shown.
//!
//! [`transcript`] adds messages and reads them back as clients see them, [`row`] shows a session, [`patch`] says what of
//! it may be changed and to what. **Invariant:** a session's transcript is only ever added to, compacted or archived;
//! nothing here deletes what was said.

pub mod history;
pub mod row;
pub mod transcript;
