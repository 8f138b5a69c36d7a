//! A WebSocket connection whose reader fills an [`Inbox`], and whose writer may also misbehave.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openclaw_rs::runtime::threads;
use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::ProtocolError;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, HandshakeError, Message};

use super::inbox::{Arrival, Inbox, What};

/// Longest the operating system may hold one read or write of the opening handshake, or one write later.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message a test accepts: above the 25 MiB a gateway may send.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The stream below one connection. Reader and writer each hold a clone; the gate keeps their frames apart, because the
/// reader answers pings and closes by itself.
struct Wire {
    stream: TcpStream,
    gate: Arc<Mutex<()>>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Wire {
    /// Writes all of `buf`: tungstenite hands over whole frames, so no frame is ever cut by another.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _held = self.gate.lock().expect("no holder of this lock panics");
        self.stream.write_all(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// An upgrade that did not happen.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The HTTP status, when the peer answered at all.
    pub(crate) status: Option<u16>,
    pub(crate) text: String,
}

/// One open connection. Dropping it cuts it.
pub(crate) struct Socket {
    /// Unique for the life of the process.
    pub(crate) id: u64,
    stream: TcpStream,
    gate: Arc<Mutex<()>>,
    writer: Mutex<WebSocket<Wire>>,
    open: Arc<AtomicBool>,
}

impl Socket {
    /// Upgrades to a WebSocket at `address` and starts the reader.
    ///
    /// # Errors
    /// The peer does not listen, or answers something else than 101.
    pub(crate) fn open(
        address: SocketAddr,
        headers: &[(&str, &str)],
        name: &str,
        inbox: &Arc<Inbox>,
    ) -> Result<Socket, Refused> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let failed = |text: String| Refused { status: None, text };
        let stream = TcpStream::connect_timeout(&address, IO_TIMEOUT).map_err(|e| failed(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        stream.set_write_timeout(Some(IO_TIMEOUT)).map_err(|e| failed(e.to_string()))?;
        stream.set_read_timeout(Some(IO_TIMEOUT)).map_err(|e| failed(e.to_string()))?;
        let gate = Arc::new(Mutex::new(()));
        let wire =
            |stream: &TcpStream| -> io::Result<Wire> { Ok(Wire { stream: stream.try_clone()?, gate: gate.clone() }) };
        let mut request = format!("ws://{address}/").into_client_request().expect("an address makes a URL");
        for (key, value) in headers {
            let key = HeaderName::try_from(*key).expect("a test's header name is valid");
            request.headers_mut().insert(key, HeaderValue::from_str(value).expect("a test's header value is valid"));
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .write_buffer_size(0)
            .read_buffer_size(16 * 1024);
        let first = wire(&stream).map_err(|e| failed(e.to_string()))?;
        let reader = match tungstenite::client::client_with_config(request, first, Some(config)) {
            Ok((reader, _)) => reader,
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                return Err(Refused { status: Some(response.status().as_u16()), text: body });
            }
            Err(HandshakeError::Failure(error)) => return Err(failed(error.to_string())),
            Err(HandshakeError::Interrupted(_)) => return Err(failed(String::from("no answer to the upgrade"))),
        };
        // From here on the reader waits as long as it takes; waits with a deadline happen at the inbox.
        stream.set_read_timeout(None).map_err(|e| failed(e.to_string()))?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let writer = wire(&stream).map_err(|e| failed(e.to_string()))?;
        let writer = Mutex::new(WebSocket::from_raw_socket(writer, Role::Client, Some(config)));
        let (inbox, name) = (inbox.clone(), name.to_owned());
        let open = Arc::new(AtomicBool::new(true));
        let ours = open.clone();
        threads::spawn("test-reader", threads::STACK_BYTES_DEEP, move || read_all(reader, id, &name, &inbox, &ours))
            .map_err(|e| failed(e.to_string()))?;
        Ok(Socket { id, stream, gate, writer, open })
    }

    /// Whether the end of this connection has not been seen yet.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Sends a text frame. A connection that is already gone is no error here: the inbox says so.
    pub(crate) fn send_text(&self, text: &str) {
        self.send(Message::text(text));
    }

    /// Sends a binary frame.
    pub(crate) fn send_binary(&self, bytes: &[u8]) {
        self.send(Message::binary(bytes.to_vec()));
    }

    fn send(&self, message: Message) {
        let outcome = self.writer.lock().expect("no holder of this lock panics").send(message);
        match outcome {
            Ok(()) | Err(Error::Io(_) | Error::AlreadyClosed | Error::ConnectionClosed) => {}
            Err(Error::Protocol(ProtocolError::SendAfterClosing)) => {}
            Err(other) => panic!("a test could not send: {other}"),
        }
    }

    /// Writes bytes below the WebSocket layer, for frames no library would make. Says whether they could be written.
    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> bool {
        let _held = self.gate.lock().expect("no holder of this lock panics");
        (&self.stream).write_all(bytes).is_ok()
    }

    /// Starts the closing handshake; the end of it arrives in the inbox.
    pub(crate) fn close(&self) {
        // An error here means that the connection has ended already.
        let _ = self.writer.lock().expect("no holder of this lock panics").close(None);
    }

    /// Ends the TCP connection under the WebSocket.
    pub(crate) fn cut(&self) {
        // An error means that the peer was faster.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Waits until `inbox` has the end of this connection: its close code and reason.
    pub(crate) fn closed(&self, inbox: &Inbox, within: Duration) -> Option<(u16, String)> {
        let found = inbox.wait(0, Instant::now() + within, |arrival| match &arrival.what {
            What::Closed { code, reason } if arrival.socket == self.id => Some((*code, reason.clone())),
            _ => None,
        });
        found.map(|(_, end)| end)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
        // Ends the reader too.
        self.cut();
    }
}

/// The reader's whole life: frames, then one `Closed`.
fn read_all(mut socket: WebSocket<Wire>, id: u64, name: &str, inbox: &Inbox, open: &AtomicBool) {
    let mut end = (1006, String::new());
    let push = |what| inbox.push(Arrival { socket: id, name: name.to_owned(), what });
    loop {
        let text = match socket.read() {
            Ok(Message::Text(text)) => text.as_str().to_owned(),
            Ok(Message::Binary(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(Message::Close(None)) => {
                end = (1005, String::new());
                continue;
            }
            Ok(Message::Close(Some(frame))) => {
                end = (u16::from(frame.code), frame.reason.as_str().to_owned());
                continue;
            }
            Ok(_) => continue,
            Err(_) => break,
        };
        match serde_json::from_str::<Value>(&text) {
            Ok(frame) => push(What::Frame(frame)),
            Err(_) => push(What::Unparsable(text)),
        }
    }
    open.store(false, Ordering::Release);
    push(What::Closed { code: end.0, reason: end.1 });
}
