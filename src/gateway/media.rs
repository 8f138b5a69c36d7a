//! Pictures and files of messages, for pages: protocol 4's asks here for what `chat.history` names.
//!
//! A browser cannot send a header with the address of a picture. So a page first asks about it (`meta=1`), with its
//! credential, and is given a ticket that opens this one for a while. Tickets are signed, not kept.

use ring::hmac;
use serde_json::Value;

use super::Gateway;
use super::http::{HttpRequest, HttpResponse};
use super::routes::{error_json, json_response, text};
use crate::protocol::ConnId;
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::random;
use crate::sessions::media;
use crate::store::media::{MediaDir, is_id};

/// Where pages ask, below the base path.
pub(super) const PATH: &str = "/__openclaw__/assistant-media";
/// How long a ticket opens what it is for, in milliseconds.
pub const TICKET_TTL_MS: i64 = 5 * 60 * 1000;
/// Bytes of a file that say what it is.
const HEAD_BYTES: u64 = 64 * 1024;
/// Largest file that is given out: none is kept that is larger.
const FILE_BYTES_MAX: u64 = crate::intake::uploads::FILE_BYTES_MAX_V4 as u64;

impl Gateway {
    /// Answers a page that asks for a file of a message, or about it.
    pub(super) fn media(&mut self, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Some(text(405, "Method Not Allowed"));
        }
        let wants_meta = request.query_value("meta").as_deref() == Some("1");
        let source = request.query_value("source").unwrap_or_default();
        let ticket = request.query_value("mediaTicket");
        let id = source.strip_prefix(media::URL_PREFIX).filter(|id| is_id(id)).map(str::to_owned);
        let is_open = match (&id, &ticket) {
            (Some(id), Some(ticket)) if !wants_meta => self.is_ticket(ticket, id, now.wall_ms),
            _ => false,
        };
        if !is_open {
            match self.http_caller(now, conn, request) {
                Ok(caller) if caller.scopes.satisfies(Scope::Read, Protocol::V4) => {}
                Ok(_) => return Some(error_json(403, "forbidden", "missing scope: operator.read")),
                Err(refusal) => return Some(refusal),
            }
        }
        // What lies elsewhere is not ours to give out.
        let Some(id) = id else { return Some(text(404, "Not Found")) };
        let dir = MediaDir::of(&self.config.state_dir);
        let ticket = wants_meta.then(|| self.ticket(&id, now.wall_ms));
        self.read_page(conn, move || match ticket {
            Some(ticket) => json_response(200, &about(&dir, &id, &ticket)),
            None => bytes(&dir, &id),
        });
        None
    }

    fn ticket(&self, id: &str, now_ms: i64) -> Value {
        let until = now_ms.saturating_add(TICKET_TTL_MS);
        let expires = jiff::Timestamp::from_millisecond(until).map(|at| at.to_string()).unwrap_or_default();
        json!({ "mediaTicket": format!("v1.{until}.{}", self.seal(id, until)), "mediaTicketExpiresAt": expires })
    }

    fn is_ticket(&self, ticket: &str, id: &str, now_ms: i64) -> bool {
        let Some((until, seal)) = ticket.strip_prefix("v1.").and_then(|rest| rest.split_once('.')) else {
            return false;
        };
        let Ok(until) = until.parse::<i64>() else { return false };
        until > now_ms
            && until <= now_ms.saturating_add(TICKET_TTL_MS)
            && self.comparer.same(seal, &self.seal(id, until))
    }

    /// The key is of this process: its tickets end with it.
    fn seal(&self, id: &str, until: i64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.canvas_token.as_bytes());
        random::hex(hmac::sign(&key, format!("media\n{id}\n{until}").as_bytes()).as_ref())
    }
}

fn about(dir: &MediaDir, id: &str, ticket: &Value) -> Value {
    let (Ok(head), Ok(size)) = (dir.read(id, HEAD_BYTES), dir.size(id)) else {
        return json!({ "available": false, "code": "file-not-found", "reason": "File not found" });
    };
    let mut about = json!({ "available": true, "mimeType": media::sniff(&head, Some(id)), "sizeBytes": size });
    if let (Value::Object(into), Value::Object(more)) = (&mut about, ticket) {
        into.extend(more.clone());
    }
    about
}

fn bytes(dir: &MediaDir, id: &str) -> HttpResponse {
    let Ok(body) = dir.read(id, FILE_BYTES_MAX) else { return text(404, "Not Found") };
    let mime = media::sniff(&body, Some(id));
    // Only what a browser shows as a picture is shown; everything else was made by anybody and is to be kept.
    let shown = matches!(mime, "image/png" | "image/jpeg" | "image/gif" | "image/webp");
    let how = if shown { "inline" } else { "attachment" };
    let headers = [
        ("Content-Type", mime.to_owned()),
        ("Content-Disposition", format!("{how}; filename=\"{id}\"")),
        ("Content-Security-Policy", "default-src 'none'; sandbox".to_owned()),
        ("Cache-Control", "no-cache".to_owned()),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    HttpResponse { status: 200, headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;

    #[test]
    fn a_ticket_opens_one_file_for_a_while() {
        let stage = Stage::new(&json!({}));
        let core = &stage.core;
        let ticket = core.ticket("a.png", 1000)["mediaTicket"].as_str().unwrap().to_owned();
        assert!(core.is_ticket(&ticket, "a.png", 1000 + TICKET_TTL_MS - 1));
        assert!(!core.is_ticket(&ticket, "a.png", 1000 + TICKET_TTL_MS), "its time is over");
        assert!(!core.is_ticket(&ticket, "b.png", 1000), "it is another's");
        let later = ticket.replace(&(1000 + TICKET_TTL_MS).to_string(), &(2000 + TICKET_TTL_MS).to_string());
        assert!(!core.is_ticket(&later, "a.png", 2000), "its time was changed");
        for broken in ["", "v1", "v1.", "v1.x.y", "v2.1.a"] {
            assert!(!core.is_ticket(broken, "a.png", 1000), "{broken}");
        }
        assert!(!Stage::new(&json!({})).core.is_ticket(&ticket, "a.png", 1000), "another process made it");
    }
}
