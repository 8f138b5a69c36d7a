//! What no route takes: the page.

use super::Gateway;
use super::http::{HttpRequest, HttpResponse};
use super::routes::text;
use crate::protocol::ConnId;
use crate::runtime::clock::Now;

impl Gateway {
    /// Answers a request for the page or one of its parts.
    pub(super) fn page(&mut self, _now: Now, _conn: ConnId, _request: &HttpRequest) -> Option<HttpResponse> {
        Some(text(404, "Not Found"))
    }
}
