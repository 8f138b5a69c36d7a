//! The way to a provider and back: one request, and its answer as it comes.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::Connector as _;

use super::format::{Flow, Reader};
use super::trouble::{self, failure};
use crate::agent::talk::{Failure, FailureKind, Piece};
use crate::runtime::outbound::address::Reach;
use crate::runtime::outbound::socket::{self, Dial, NoResolver, Tls, Trouble, Waited};
use crate::runtime::outbound::sse;
use crate::runtime::stop::Stop;

/// Longest from asking to the end of the answer, however steadily it comes.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// Largest answer that comes whole, in bytes; a larger one is refused.
pub const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What is read of an error's body, in bytes; the rest is left.
pub const ERROR_BYTES_MAX: u64 = 64 * 1024;
/// Connections kept for the next request, of all providers and of one. A step of a run that calls tools follows the
/// last one soon, and a handshake costs it some hundred milliseconds.
const KEPT_MAX: usize = 4;
const KEPT_PER_PROVIDER_MAX: usize = 2;
/// How long one is kept, looked at when the next request is made; providers close theirs after a minute or more.
const KEPT_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the end of a stream is waited for after its last event; without it the connection is not kept.
const TAIL_TIME: Duration = Duration::from_millis(20);
/// Size of a connection's buffers and of one read, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Carries requests. Shared by all runs.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Post<'a> {
    /// Where to.
    pub url: &'a str,
    /// Beside the usual ones; some are secret.
    pub headers: &'a [(String, String)],
    /// JSON.
    pub body: &'a [u8],
    /// How long the provider may be silent.
    pub idle: Duration,
    /// Ends it.
    pub stop: &'a Stop,
    /// The wall clock in milliseconds, for dates in answers.
    pub now_ms: i64,
}

/// A question that is not for a model: JSON is fetched.
#[derive(Clone, Copy)]
pub struct Get<'a> {
    /// Where from.
    pub url: &'a str,
    /// Beside the usual ones; some are secret.
    pub headers: &'a [(String, String)],
    /// How long it may take in all.
    pub time_max: Duration,
    /// Ends it.
    pub stop: &'a Stop,
    /// The wall clock in milliseconds, for dates in answers.
    pub now_ms: i64,
}

/// The bundled roots, or those of a PEM file.
///
/// # Errors
/// Words that say what is wrong with the text.
pub fn read_roots(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    });
    let roots: Vec<_> = items.collect::<Result<_, _>>()?;
    if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(roots) }
}

impl Client {
    /// With the bundled roots, or with `roots` instead of them.
    pub fn new(roots: Option<Vec<Certificate<'static>>>) -> Client {
        let roots = roots.map_or(RootCerts::WebPki, |roots| RootCerts::new_with_certs(&roots));
        let config = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            // A redirect would carry the key to who knows whom.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Not the environment's: a proxy sees prompts, so it must be configured.
            .proxy(None)
            .user_agent(concat!("openclaw-rs/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(KEPT_MAX)
            .max_idle_connections_per_host(KEPT_PER_PROVIDER_MAX)
            .max_idle_age(KEPT_TIME_MAX)
            .build();
        Client { agent: ureq::Agent::with_parts(config, Dial.chain(Tls::default()), NoResolver) }
    }

    /// Asks, and lets `reader` read the answer as it comes.
    ///
    /// # Errors
    /// Whatever goes wrong on the way, in the answer, or because the run was stopped.
    pub fn ask(&self, post: &Post<'_>, reader: &mut Reader, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        let (mut sent, mut waited) =
            socket::waiting(post.stop, Reach::Anywhere, post.idle, deadline, || self.send_and_read(post, reader, tell));
        // A provider may close a kept connection just when it is used again. Nothing was answered then, so nothing is
        // asked twice; the next connection is new, because the kept ones of that provider are as old.
        let mut tries_left = KEPT_PER_PROVIDER_MAX;
        while matches!(sent, Err(Ended::Connection(_)))
            && waited.is_reused
            && waited.trouble.is_none()
            && tries_left > 0
        {
            tries_left -= 1;
            (sent, waited) = socket::waiting(post.stop, Reach::Anywhere, post.idle, deadline, || {
                self.send_and_read(post, reader, tell)
            });
        }
        sent.map_err(|ended| ended.into_failure(waited))
    }

    /// Fetches JSON, at most [`BODY_BYTES_MAX`] of it.
    ///
    /// # Errors
    /// Whatever goes wrong on the way or in the answer.
    pub fn get(&self, get: &Get<'_>) -> Result<Value, Failure> {
        let deadline = Instant::now() + get.time_max;
        let (fetched, waited) = socket::waiting(get.stop, Reach::Anywhere, get.time_max, deadline, || self.fetch(get));
        fetched.map_err(|ended| ended.into_failure(waited))
    }

    fn fetch(&self, get: &Get<'_>) -> Result<Value, Ended> {
        let mut request = self.agent.get(get.url).header("accept", "application/json");
        for (name, value) in get.headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(Ended::Connection)?;
        let status = response.status().as_u16();
        let (head, body) = response.into_parts();
        let body = body.into_reader();
        let header = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        let mut text = Vec::new();
        if !(200..300).contains(&status) {
            // What was read of it is enough.
            let _ = body.take(ERROR_BYTES_MAX).read_to_end(&mut text);
            return Err(trouble::of_status(status, &String::from_utf8_lossy(&text), &header, get.now_ms).into());
        }
        body.take(BODY_BYTES_MAX + 1).read_to_end(&mut text).map_err(Ended::of_read)?;
        if text.len() as u64 > BODY_BYTES_MAX {
            return Err(failure(FailureKind::Format, "the answer is too long").into());
        }
        Ok(serde_json::from_slice(&text).map_err(|_| failure(FailureKind::Format, "the answer is not JSON"))?)
    }

    fn send_and_read(
        &self,
        post: &Post<'_>,
        reader: &mut Reader,
        tell: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), Ended> {
        let mut request = self
            .agent
            .post(post.url)
            .header("content-type", "application/json")
            .header("accept", "text/event-stream, application/json");
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let response = request.send(post.body).map_err(Ended::Connection)?;
        let status = response.status().as_u16();
        let (head, body) = response.into_parts();
        let mut body = body.into_reader();
        let header = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        if !(200..300).contains(&status) {
            let mut text = Vec::new();
            // What was read of it is enough.
            let _ = body.take(ERROR_BYTES_MAX).read_to_end(&mut text);
            return Err(trouble::of_status(status, &String::from_utf8_lossy(&text), &header, post.now_ms).into());
        }
        let kind = header("content-type").unwrap_or_default().to_lowercase();
        read_answer(&mut body, &kind, reader, tell)
    }
}

/// Reads an answer: a stream of events, or JSON where the server does not stream, whatever it calls it.
fn read_answer(
    body: &mut dyn Read,
    kind: &str,
    reader: &mut Reader,
    tell: &mut dyn FnMut(Piece<'_>),
) -> Result<(), Ended> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut read = body.read(&mut buffer).map_err(Ended::of_read)?;
    let takes_lines = reader.takes_lines();
    let is_stream = match buffer[..read].trim_ascii_start().first() {
        _ if kind.starts_with("text/event-stream") => true,
        Some(b'{') if takes_lines => true,
        Some(b'{' | b'[') => false,
        Some(_) if kind.starts_with("application/json") => false,
        // `data: `, `event: ` or a comment.
        Some(b'd' | b'e' | b':') => true,
        None => true,
        Some(_) => {
            let kind = if kind.is_empty() { "something" } else { kind };
            return Err(failure(
                FailureKind::Format,
                format!("answered with {}, no model's answer", trouble::clean(kind)),
            )
            .into());
        }
    };
    if !is_stream {
        let mut text = buffer[..read].to_vec();
        body.take(BODY_BYTES_MAX).read_to_end(&mut text).map_err(Ended::of_read)?;
        if text.len() as u64 > BODY_BYTES_MAX {
            return Err(failure(FailureKind::Format, "the answer is longer than any model's").into());
        }
        let value: Value =
            serde_json::from_slice(&text).map_err(|_| failure(FailureKind::Format, "the answer is not JSON"))?;
        return Ok(reader.whole(&value, tell)?);
    }
    let mut parser = if takes_lines { sse::Parser::of_lines() } else { sse::Parser::default() };
    while read > 0 {
        let mut take = |name: &str, data: &str| match reader.event(name, data, tell) {
            Ok(Flow::More) => Ok(()),
            Ok(Flow::Done) => Err(None),
            Err(failure) => Err(Some(failure)),
        };
        match parser.feed(&buffer[..read], &mut take) {
            Err(sse::TooLong) => return Err(failure(FailureKind::Format, "an event of the answer is too long").into()),
            Ok(Err(Some(failure))) => return Err(failure.into()),
            Ok(Err(None)) => {
                // The end of the body, so that the connection can be kept. No matter if there is none.
                socket::hurry(TAIL_TIME);
                while body.read(&mut buffer).is_ok_and(|read| read > 0) {}
                return Ok(());
            }
            Ok(Ok(())) => {}
        }
        read = body.read(&mut buffer).map_err(Ended::of_read)?;
    }
    Ok(())
}

/// How a request ended without an answer.
#[derive(Debug)]
enum Ended {
    /// Before anything was answered.
    Connection(ureq::Error),
    /// In the middle of the answer.
    Reading(ureq::Error),
    /// With a failure that is known already.
    Known(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Known(failure)
    }
}

impl Ended {
    fn of_read(error: std::io::Error) -> Ended {
        Ended::Reading(error.into())
    }

    fn into_failure(self, waited: Waited) -> Failure {
        let (error, has_begun) = match self {
            Ended::Known(failure) => return failure,
            Ended::Connection(error) => (error, false),
            Ended::Reading(error) => (error, true),
        };
        match waited.trouble {
            Some(Trouble::Stopped) => failure(FailureKind::Stopped, "the run was stopped"),
            Some(Trouble::Silent(idle)) => {
                failure(FailureKind::Timeout, format!("said nothing for {} seconds", idle.as_secs_f64()))
            }
            Some(Trouble::TooLong) => failure(
                FailureKind::Timeout,
                format!("took longer than {} minutes to answer", ANSWER_TIME_MAX.as_secs() / 60),
            ),
            Some(Trouble::Forbidden) => failure(FailureKind::Unavailable, "its address may not be reached"),
            Some(Trouble::Unreachable(why)) => failure(FailureKind::Unavailable, format!("cannot be reached: {why}")),
            None => of_transport(error, has_begun),
        }
    }
}

fn of_transport(error: ureq::Error, has_begun: bool) -> Failure {
    use std::io::ErrorKind;
    match error {
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                trouble::cut_off(!has_begun)
            }
            // What TLS refuses comes as this.
            ErrorKind::InvalidData => {
                failure(FailureKind::Unavailable, format!("TLS failed: {}", trouble::clean(&error.to_string())))
            }
            _ => failure(FailureKind::Unavailable, format!("the connection failed: {error}")),
        },
        ureq::Error::Rustls(error) => {
            failure(FailureKind::Unavailable, format!("TLS failed: {}", trouble::clean(&error.to_string())))
        }
        ureq::Error::Tls(why) => failure(FailureKind::Unavailable, format!("TLS failed: {why}")),
        ureq::Error::BadUri(_) => failure(FailureKind::Format, "its address is not one"),
        // They may quote what was sent, which holds the key.
        ureq::Error::Http(_) => failure(FailureKind::Format, "a header of the request cannot be sent"),
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            failure(FailureKind::Format, "it does not speak HTTP as we know it")
        }
        _ => failure(FailureKind::Unavailable, "the request failed"),
    }
}
