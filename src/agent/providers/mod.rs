//! How a model is asked: one file for each wire format, one for the way there, one for what goes wrong.
//!
//! A *format* is pure: it makes a request's body from a [`Prompt`](super::talk::Prompt), and reads what comes back,
//! event by event, into pieces and at last an [`Answer`](super::talk::Answer). It holds no socket and no secret.
//! [`http`] carries the request and takes the answer apart into events with [`sse`](crate::runtime::outbound::sse); [`trouble`] makes a
//! [`Failure`](super::talk::Failure) of whatever else happens. [`table`] says where the known providers are and what is
//! odd about them, [`catalog`] which models they have.
//!
//! Read in this order: [`table`], [`catalog`], [`format`](mod@format) (what the formats have in common), [`openai_chat`] (the one
//! that most providers speak), [`http`], [`trouble`].
//!
//! **Invariant:** nothing of a provider's answer is trusted: what is read from it is bounded, and text of its errors is
//! cut and cleaned before anyone sees it. **Invariant:** a redirect is not followed, because the request carries a key.

pub mod anthropic;
pub mod catalog;
pub mod format;
pub mod google;
pub mod http;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
pub mod table;
pub mod trouble;
