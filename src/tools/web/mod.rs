//! Tools that look at the web: [`fetch`] gets a page, [`search`] asks a search service.
//!
//! [`readable`] makes text of a page, [`external`] marks what strangers wrote, so that a model knows where it begins
//! and ends.
//!
//! **Invariant:** what strangers wrote reaches a model only between marks that they cannot write themselves.

pub mod external;
pub mod fetch;
pub mod readable;
pub mod search;
