//! Which commands may run, and when somebody is asked first (TOOL-50, TOOL-51). Pure: nothing here looks at the disk
//! but [`document`], which is how the operator's word is kept.
//!
//! [`document`] is what the operator says and what was granted for good. [`reader`] splits a command line into its
//! programs, strictly: what it does not understand is no match of any list.
//!
//! **Invariant:** a word of a rule that nobody knows is read as the strictest. **Invariant:** a grant is of exactly what
//! was approved.

pub mod document;
pub mod reader;

pub use crate::config::settings::exec::{Ask, Security};
