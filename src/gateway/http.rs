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

    /// A value of the query, as it was meant; `None` also for one that is no text.
    pub fn query_value(&self, name: &str) -> Option<String> {
        let pairs = self.query()?.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
        decoded(&value.replace('+', " "))
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

/// The percent signs of a path, or of a part of a query, resolved; `None` for what is no text then.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_was_meant() {
        assert_eq!(decoded("openclaw%2Fmain").as_deref(), Some("openclaw/main"));
        assert_eq!(decoded("openclaw/main").as_deref(), Some("openclaw/main"));
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_value_of_the_query_is_read_as_it_was_meant() {
        let request = |target: &str| HttpRequest {
            peer: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
            method: "GET".to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let asked = request("/a?source=media%3A%2F%2Finbound%2Fa+b.png&meta=1&bad=%zz");
        assert_eq!(asked.query_value("source").as_deref(), Some("media://inbound/a b.png"));
        assert_eq!((asked.query_value("meta").as_deref(), asked.query_value("bad")), (Some("1"), None));
        assert_eq!((asked.query_value("none"), request("/a").query_value("a")), (None, None));
    }
}
