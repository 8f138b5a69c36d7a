#![doc = include_str!("../ARCHITECTURE.md")]

pub mod protocol;
pub mod runtime;

pub mod config;
pub mod store;

pub mod agent;
pub mod defender;
pub mod tools;

pub mod intake;
pub mod sessions;

pub mod gateway;

pub mod net;

pub mod cli;

pub mod ui;
