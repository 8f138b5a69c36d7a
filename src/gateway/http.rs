//! HTTP requests and responses as plain data.

use std::net::SocketAddr;

/// A complete request.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Header names in lower case, in order; values that are not UTF-8 are left out.
    pub headers: Vec<(String, String)>,
    /// The decoded body.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// The first header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split(['?', '#']).next().unwrap_or("/")
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

impl crate::intake::hooks::Post for HttpRequest {
    fn path(&self) -> &str {
        HttpRequest::path(self)
    }

    fn header(&self, name: &str) -> Option<&str> {
        HttpRequest::header(self, name)
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The first header `name` (lower case) of a list.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// An answer. The shell adds `Content-Length`, `Connection` and `Date`, and leaves the body out for `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Header names and values; names as they are written.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}
