//! The control page: what a browser gets from the gateway's port.
//!
//! Two sites can be served. Without `gateway.controlUi.root` it is our own page (`page/`, compiled in, see
//! [`embedded`]), which speaks the same WebSocket protocol as every other client. With it, it is a directory that holds
//! upstream's built Control UI ([`directory`]), for which the gateway also answers the requests that build makes beside
//! the socket ([`bootstrap`]).
//!
//! Use: parse the configuration into a [`Site`] once per configuration, sort a request with [`Site::route`], and answer a
//! page with [`Site::serve`]. A site with a root reads files in `serve`: run it on a query worker, never on the loop. The
//! embedded page is answered from memory, and [`Site::reads_files`] says which of the two it is.
//!
//! Rules for serving a built page follow section 10 of the client notes (`clients.md`), the routes part 17 of the wire
//! contract.
//!
//! **Invariant:** nothing served here is secret: pages and their assets are the same for everybody, and the one answer
//! that describes the gateway to strangers ([`bootstrap::open_config`]) has four keys. No path reaches outside the root.

pub mod bootstrap;
pub mod content;
pub mod directory;
pub mod embedded;
pub mod headers;
pub mod index;
pub mod path;
pub mod route;

pub use path::BasePath;
pub use route::Route;

use std::borrow::Cow;
use std::path::PathBuf;

use thiserror::Error;

/// Why a site cannot be set up from the configuration.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UiError {
    /// `gateway.controlUi.basePath` is not usable.
    #[error(
        "base path {given:?} may only hold letters, digits and `-._~/`, and no part that is empty or starts with a dot"
    )]
    BasePath {
        /// As configured.
        given: String,
    },
}

/// What is served and where: made anew when the configuration changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `gateway.controlUi.root`: the directory with upstream's build; `None` serves our own page.
    pub root: Option<PathBuf>,
    /// `gateway.controlUi.basePath`.
    pub base: BasePath,
}

/// What the answer to a request depends on. Header names and values as the client sent them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The method; pages answer `GET` and `HEAD` (whose body the HTTP layer leaves out).
    pub method: &'a str,
    /// The path as sent, still percent-encoded, without the query.
    pub path: &'a str,
    /// The query without its question mark; kept over the redirect to the base path and otherwise unread.
    pub query: Option<&'a str>,
    /// `Accept`.
    pub accept: Option<&'a str>,
    /// `Accept-Encoding`.
    pub accept_encoding: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
}

/// An answer. The HTTP layer adds `Content-Length`, `Connection` and `Date`, and leaves the body out for `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header names as they are written, and their values.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

impl Response {
    /// The first header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

impl Site {
    /// Whether [`Site::serve`] reads files and therefore must run on a worker.
    pub fn reads_files(&self) -> bool {
        self.root.is_some()
    }

    /// Answers a [`Route::Page`].
    pub fn serve(&self, request: &Request<'_>) -> Response {
        if !matches!(request.method, "GET" | "HEAD") {
            return headers::method_not_allowed();
        }
        let Some(inside) = self.base.strip(request.path) else {
            return headers::not_found(request.path);
        };
        if inside.is_empty() {
            return headers::redirect(&self.base, request.query);
        }
        match &self.root {
            Some(root) => directory::serve(root, &self.base, inside, request),
            None => embedded::serve(inside, request),
        }
    }
}

#[cfg(test)]
mod tests;
