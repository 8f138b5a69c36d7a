//! `mcp.servers`: tools of other programs.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use crate::config::secret::Secret;

/// Tools of other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mcp {
    /// In the order of their names.
    pub servers: Vec<Server>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is started.
    Program(Program),
    /// It is spoken to over HTTP.
    Address { url: String, headers: Vec<(String, Secret)> },
}

/// A program that is a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub command: String,
    pub args: Vec<String>,
    pub env: Vec<(String, Secret)>,
    pub cwd: Option<PathBuf>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub enabled: bool,
    pub place: Place,
    /// How long it may take to begin a conversation, and to list its tools.
    pub connect_timeout: Duration,
    /// How long a call may take.
    pub request_timeout: Duration,
    /// Its tools that are offered, `*` for any letters; `None`: all.
    pub include: Option<Vec<String>>,
    /// Its tools that are not.
    pub exclude: Vec<String>,
}

impl Mcp {
    pub(super) fn read(mcp: &Reader<'_>) -> Mcp {
        Mcp {
            servers: mcp
                .entries("servers")
                .into_iter()
                .filter_map(|(name, server)| Server::read(name, &server))
                .collect(),
        }
    }
}

impl Server {
    fn read(name: String, server: &Reader<'_>) -> Option<Server> {
        let secrets = |path: &str| {
            let secret = |(name, value): (String, serde_json::Value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (name, Secret::new(text))
            };
            server.values(path).into_iter().map(secret).collect()
        };
        let place = match (server.text("command"), server.text("url")) {
            (Some(_), Some(_)) => {
                server.issue("url", "a server has a command or an address, not both".to_owned());
                return None;
            }
            (Some(command), None) => Place::Program(Program {
                command,
                args: server.texts("args"),
                env: secrets("env"),
                cwd: server.path("cwd"),
            }),
            (None, Some(url)) => Place::Address { url, headers: secrets("headers") },
            (None, None) => {
                server.issue("command", "a server needs a command or an address (url)".to_owned());
                return None;
            }
        };
        Some(Server {
            name,
            enabled: server.flag("enabled"),
            place,
            connect_timeout: server.ms("connectionTimeoutMs"),
            request_timeout: server.ms("requestTimeoutMs"),
            include: server.texts_if_set("toolFilter.include"),
            exclude: server.texts("toolFilter.exclude"),
        })
    }
}
