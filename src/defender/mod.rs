//! The defender: judges every message, command, URL and file before it acts (DEF-01 and on).
//!
//! [`rules::Rules`] are compiled from plain settings ([`rules::RuleInputs`]), shared by all workers and replaced as a
//! whole on reload. [`rules::Rules::evaluate`] turns a [`request::ActionRequest`] into a [`decision::Decision`]; [`paths`] knows which files are run
//! or obeyed. What
//! surrounds that is plain data, owned by whoever decides what to evaluate when: the end of what each session said
//! before ([`recent`]). [`quarantine`] keeps blocked actions on disk, [`event`] is what subscribers are told,
//! [`defend`] judges a stream of lines for the command line.
//!
//! Text is judged as its reader would take it: invisible characters and look-alike letters are undone in all text,
//! and quoting, wrappers and nesting in commands. Both the original and that form meet the patterns, so a configured
//! pattern is never weaker than it reads.
//!
//! **Invariants:** evaluation is pure (no IO, no clock, no shared mutable state) and linear in the length of the
//! text; it never panics and never fails: what could not be judged is a review, not a silent allow. Reasons, tags,
//! events and `Debug` never quote judged text. Quarantine files are masked.

pub mod decision;
pub mod paths;
pub mod request;
pub mod rules;

mod fold;
mod leaks;
mod patterns;
mod shell;

pub mod recent;

pub mod event;
pub mod quarantine;

pub mod defend;
