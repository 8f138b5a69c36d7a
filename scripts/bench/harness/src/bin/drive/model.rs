//! A model that answers at once, so that a turn's time is the gateway's: OpenAI chat completions, streamed, on loopback.
//!
//! It reads every request whole and answers with the same few words. What the conversation holds decides the pace:
//! [`PAUSE`] sends the first word at once and the rest after a while, [`SLOWLY`] a word at a time for some seconds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;

/// The provider and model that a gateway is configured with.
pub const PROVIDER: &str = "bench";
/// See [`PROVIDER`].
pub const NAME: &str = "at-once";
/// The first word of every answer; nobody else says it.
pub const FIRST_WORD: &str = "Quokka";
/// In a message: the first word at once, the rest after [`PAUSE_TIME`].
pub const PAUSE: &str = "[[pause]]";
/// In a message: a word every [`WORD_TIME`] for [`SLOW_WORDS`] words.
pub const SLOWLY: &str = "[[slowly]]";

const PAUSE_TIME: Duration = Duration::from_millis(100);
const WORD_TIME: Duration = Duration::from_millis(50);
const SLOW_WORDS: usize = 80;
/// What is said when nothing else is asked for.
const WORDS: [&str; 6] = [FIRST_WORD, " answers", " with", " a", " few", " words."];
/// Largest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Stack of a connection's thread, in bytes.
const STACK_BYTES: usize = 256 * 1024;

/// The model, until the driver ends.
pub struct Model {
    pub port: u16,
    n_answers: Arc<AtomicU64>,
}

impl Model {
    /// Listens, and answers on a thread for each connection.
    pub fn start() -> Result<Model> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let n_answers = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&n_answers);
        thread::Builder::new().name("model".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                let serving = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                    // A gateway that hangs up ends its connection, nothing more: what is missing shows at its client.
                    let _ = serve(stream, &counter);
                });
                if let Err(error) = serving {
                    eprintln!("the model cannot serve a connection: {error}");
                }
            }
        })?;
        Ok(Model { port, n_answers })
    }

    /// Answers given so far.
    pub fn n_answers(&self) -> u64 {
        self.n_answers.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, n_answers: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut answers = stream;
    while let Some(body) = read_request(&mut requests)? {
        let has = |mark: &str| body.windows(mark.len()).any(|bytes| bytes == mark.as_bytes());
        let slow = if has("[[") { Some((has(SLOWLY), has(PAUSE))) } else { None };
        answer(&mut answers, slow.unwrap_or_default())?;
        n_answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The body of the next request; `None` at the end of the connection.
fn read_request(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let (mut length, mut is_chunked) = (0, false);
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = number(value, 10)?,
            "transfer-encoding" => is_chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !is_chunked {
        append(from, &mut body, length)?;
        return Ok(Some(body));
    }
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let size = number(&line, 16)?;
        append(from, &mut body, size)?;
        line.clear();
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok(Some(body));
        }
    }
}

fn append(from: &mut impl Read, body: &mut Vec<u8>, n_bytes: usize) -> io::Result<()> {
    let began = body.len();
    if began + n_bytes > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    body.resize(began + n_bytes, 0);
    from.read_exact(&mut body[began..])
}

fn number(text: &str, radix: u32) -> io::Result<usize> {
    usize::from_str_radix(text.trim(), radix).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn answer(to: &mut TcpStream, (slowly, pause): (bool, bool)) -> io::Result<()> {
    let mut text =
        String::from("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    let n_words = if slowly { SLOW_WORDS } else { WORDS.len() };
    for (i, word) in WORDS.iter().cycle().take(n_words).enumerate() {
        let delta = if i == 0 { json!({ "role": "assistant", "content": word }) } else { json!({ "content": word }) };
        event(&mut text, &chunk(&delta, None).to_string());
        let rest = match (slowly, pause && i == 0) {
            (true, _) => WORD_TIME,
            (false, true) => PAUSE_TIME,
            (false, false) => continue,
        };
        to.write_all(text.as_bytes())?;
        text.clear();
        thread::sleep(rest);
    }
    let mut last = chunk(&json!({}), Some("stop"));
    last["usage"] = json!({ "prompt_tokens": 10, "completion_tokens": n_words, "total_tokens": 10 + n_words });
    event(&mut text, &last.to_string());
    event(&mut text, "[DONE]");
    text.push_str("0\r\n\r\n");
    to.write_all(text.as_bytes())
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({ "id": "bench-1", "object": "chat.completion.chunk", "created": 1, "model": NAME,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

/// Adds one event as one HTTP chunk.
fn event(text: &mut String, data: &str) {
    let event = format!("data: {data}\n\n");
    text.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
}

/// The configuration of a gateway that asks this model and nobody else. Both the measured ones read this form.
pub fn configuration(gateway_port: u16, token: &str, workspace: &str, model_port: u16) -> Value {
    json!({
        "gateway": { "mode": "local", "port": gateway_port, "bind": "loopback", "auth": { "mode": "token", "token": token } },
        "update": { "checkOnStart": false },
        "agents": {
            "defaults": { "workspace": workspace, "skipBootstrap": true, "model": { "primary": format!("{PROVIDER}/{NAME}") } },
            "entries": { "main": {} },
        },
        "models": { "mode": "merge", "providers": { PROVIDER: {
            "baseUrl": format!("http://127.0.0.1:{model_port}/v1"), "apiKey": "bench-key", "api": "openai-completions",
            "models": [{ "id": NAME, "name": "At once", "reasoning": false, "input": ["text"],
                         "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
                         "contextWindow": 128_000, "maxTokens": 8192 }],
        } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_both_lengths_are_read_one_after_the_other() {
        let bytes = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n";
        let mut from = BufReader::new(&bytes[..]);
        assert_eq!(read_request(&mut from).unwrap().unwrap(), b"abc");
        assert_eq!(read_request(&mut from).unwrap().unwrap(), b"def");
        assert!(read_request(&mut from).unwrap().is_none());
    }
}
