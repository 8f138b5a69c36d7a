//! A gateway client as small as the protocol allows: challenge, `connect` with the shared token, requests.
//!
//! It is the command line's own shape (`cli`/`cli`, no device): on loopback with a valid token both the reference gateway
//! and openclaw-rs leave such a client the scopes it asks for.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, Utf8Bytes, WebSocket};

use crate::Result;

/// Read buffer of a client that measures, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Read buffer of a client that only sits there, in bytes: a thousand of them fit into one driver.
const READ_BUFFER_BYTES_IDLE: usize = 1024;
/// Longest wait for one answer. Generous, because the reference gateway takes seconds for its first ones.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Digits of a request id: fixed, so that every request of a method has the same size.
pub const ID_DIGITS: usize = 9;

/// A connected operator.
pub struct Client {
    /// The socket after the handshake; the many-clients measures take it over.
    pub socket: WebSocket<TcpStream>,
    /// The methods the gateway says it has.
    pub methods: Vec<String>,
    next_id: u64,
}

/// What a client is for; decides its buffer.
#[derive(Clone, Copy)]
pub enum Purpose {
    Measure,
    Idle,
}

impl Client {
    /// Connects, waits for the challenge and signs in.
    ///
    /// # Errors
    /// The network's, or the gateway's refusal as text.
    pub fn connect(port: u16, token: &str, scopes: &[&str], purpose: Purpose) -> Result<Client> {
        let mut socket = open(port, "/", purpose)?;
        loop {
            let frame: Value = serde_json::from_str(&read_text(&mut socket)?)?;
            if frame["event"] == "connect.challenge" {
                break;
            }
        }
        let mut client = Client { socket, methods: Vec::new(), next_id: 0 };
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": { "id": "cli", "version": "2026.9.6", "platform": "linux", "mode": "cli" },
            "role": "operator", "scopes": scopes, "caps": [], "auth": { "token": token },
        });
        let hello = client.call("connect", Some(&params))?;
        if hello["type"] != "hello-ok" {
            return Err(format!("connect was answered with {hello}").into());
        }
        let methods = hello["features"]["methods"].as_array().into_iter().flatten();
        client.methods = methods.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(client)
    }

    /// Sends a request and returns the payload of its answer.
    ///
    /// # Errors
    /// The network's, or the refusal as text.
    pub fn call(&mut self, method: &str, params: Option<&Value>) -> Result<Value> {
        let (text, id) = self.request(method, params);
        let answer: Value = serde_json::from_str(&self.round_trip(text, &id)?)?;
        if answer["ok"] == true {
            Ok(answer["payload"].clone())
        } else {
            Err(format!("{method} was refused: {}", answer["error"]).into())
        }
    }

    /// Whether the gateway says it has a method.
    pub fn has(&self, method: &str) -> bool {
        self.methods.iter().any(|name| name == method)
    }

    /// The next request's text, and the fragment by which its answer is known.
    pub fn request(&mut self, method: &str, params: Option<&Value>) -> (Utf8Bytes, String) {
        self.next_id += 1;
        (request_text(self.next_id, method, params).into(), answer_mark(self.next_id))
    }

    /// Sends a text and returns the first frame that carries `mark`, passing over events.
    pub fn round_trip(&mut self, text: Utf8Bytes, mark: &str) -> Result<Utf8Bytes> {
        self.socket.send(Message::Text(text))?;
        loop {
            let frame = read_text(&mut self.socket)?;
            if frame.contains(mark) {
                return Ok(frame);
            }
        }
    }
}

/// A request frame.
pub fn request_text(id: u64, method: &str, params: Option<&Value>) -> String {
    match params {
        Some(params) => format!(r#"{{"type":"req","id":"{id:0ID_DIGITS$}","method":"{method}","params":{params}}}"#),
        None => format!(r#"{{"type":"req","id":"{id:0ID_DIGITS$}","method":"{method}"}}"#),
    }
}

fn answer_mark(id: u64) -> String {
    format!(r#""id":"{id:0ID_DIGITS$}""#)
}

/// Opens a WebSocket on loopback.
pub fn open(port: u16, path: &str, purpose: Purpose) -> Result<WebSocket<TcpStream>> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let bytes = match purpose {
        Purpose::Measure => READ_BUFFER_BYTES,
        Purpose::Idle => READ_BUFFER_BYTES_IDLE,
    };
    let config = WebSocketConfig::default().read_buffer_size(bytes);
    let url = format!("ws://127.0.0.1:{port}{path}");
    match tungstenite::client::client_with_config(url, stream, Some(config)) {
        Ok((socket, _)) => Ok(socket),
        Err(error) => Err(error.to_string().into()),
    }
}

/// The next text frame.
pub fn read_text(socket: &mut WebSocket<TcpStream>) -> Result<Utf8Bytes> {
    loop {
        match socket.read()? {
            Message::Text(text) => return Ok(text),
            Message::Close(frame) => return Err(format!("closed by the server: {frame:?}").into()),
            _ => {}
        }
    }
}
