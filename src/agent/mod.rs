//! Agents: what a run is, and how a model comes to answer.
//!
//! A *run* is one answer to what was said in a session. It happens on a thread of its own (`run-N`), reads the
//! session's transcript, asks a model, calls tools and asks again, until the model has nothing more to do. What it has
//! done is written to the transcript step by step before it goes on, so a run is a function of its transcript: one that
//! was killed is run again and continues from what is written.
//!
//! Read in this order: [`talk`] (what passes between an agent and a model), [`run`] (a run's input, its way of speaking
//! to the rest of the program, and its end), [`turn`] (the loop), and then what the loop stands on: [`setting`],
//! [`context`], [`history`], [`conversation`], [`calls`], [`compaction`], [`silence`]; [`models`] (what may be asked),
//! [`ask`](mod@ask) (asking one model after the other until one answers), [`providers`] (how each is spoken to).
//! [`commands`] is apart: what a person says to the program.
//!
//! **Invariant:** nothing here knows of connections or clients; a run tells what happens through [`run::Host`].
//! **Invariant:** one run has one end.

pub mod talk;

pub mod run;
pub mod secrets;

pub mod calls;
pub mod compaction;
pub mod context;
pub mod conversation;
pub mod history;
pub mod setting;
pub mod silence;
pub mod turn;
pub mod weight;

pub mod ask;
pub mod cooldown;
pub mod invoke;
pub mod memory;
pub mod models;
pub mod profiles;
pub mod providers;
pub mod quota;

pub mod commands;
