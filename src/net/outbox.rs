//! What one connection still has to send: a bounded queue of pieces that share the bodies of broadcasts.
//!
//! A frame is a header of its own, a body that other connections may share, and a tail of its own; the three are
//! handed to the kernel together, so a broadcast to a thousand clients is one body in memory and no copy of it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::protocol::BUFFERED_BYTES_MAX;
use crate::protocol::frame::{Body, FrameClass, OutFrame, Tail};

use super::ws::{self, OUT_HEADER_BYTES_MAX};

/// Slices handed to the kernel in one call; Linux takes at most 1,024.
const SLICES_PER_WRITE: usize = 96;
/// Bytes written to one connection per turn, so that one fast reader of much cannot hold up the rest.
pub const WRITE_BYTES_PER_TURN: usize = 1024 * 1024;
/// Unsent bytes above which nothing more is read from the peer: who does not read answers gets no more of them.
pub const READ_PAUSE_BYTES: usize = 1024 * 1024;
/// Places an empty queue keeps; a longer one is given back when it has drained.
const IDLE_PIECES_MAX: usize = 4;

const _: () = assert!(READ_PAUSE_BYTES < BUFFERED_BYTES_MAX);

/// What a piece is, for the rules that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An answer, HTTP or WebSocket, or a control frame.
    Plain,
    /// An event: counted against the connection's event limit.
    Event,
    /// A ping of ours: its leaving starts the wait for the pong.
    Ping,
}

#[derive(Debug)]
struct Piece {
    header: [u8; OUT_HEADER_BYTES_MAX],
    header_len: u8,
    tail_len: u8,
    kind: Kind,
    tail: [u8; Tail::BYTES_MAX],
    body: Body,
}

impl Piece {
    fn len(&self) -> usize {
        usize::from(self.header_len) + self.body.as_bytes().len() + usize::from(self.tail_len)
    }

    fn parts(&self) -> [&[u8]; 3] {
        let header = &self.header[..usize::from(self.header_len)];
        [header, self.body.as_bytes(), &self.tail[..usize::from(self.tail_len)]]
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// It will be sent.
    Yes,
    /// It was skipped: the peer is slow and the next one makes it good.
    Skipped,
    /// It cannot be skipped and there is no room: the peer is to be closed as a slow consumer.
    NoRoom,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Events.
    pub events_max: usize,
    /// Bytes.
    pub bytes_max: usize,
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes the kernel took.
    pub bytes: usize,
    /// The kernel takes no more for now.
    pub blocked: bool,
    /// A ping of ours has left.
    pub ping_left: bool,
}

/// One connection's queue.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have left.
    sent_bytes: usize,
    queued_bytes: usize,
    queued_events: usize,
}

impl Outbox {
    /// Bytes not yet taken by the kernel.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether everything has been sent.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether an event would find no room now.
    pub fn is_full(&self, room: Room) -> bool {
        self.queued_events >= room.events_max || self.queued_bytes > room.bytes_max
    }

    /// Queues bytes as they are.
    pub fn push_bytes(&mut self, bytes: Vec<u8>) {
        self.push(Piece {
            header: [0; OUT_HEADER_BYTES_MAX],
            header_len: 0,
            tail_len: 0,
            kind: Kind::Plain,
            tail: [0; Tail::BYTES_MAX],
            body: Body::Own(bytes),
        });
    }

    /// Queues a ping.
    pub fn push_ping(&mut self) {
        self.push_bytes(ws::ping());
        if let Some(piece) = self.pieces.back_mut() {
            piece.kind = Kind::Ping;
        }
    }

    /// Queues a frame as its class and the room there is allow.
    pub fn push_frame(&mut self, frame: OutFrame, room: Room) -> Queued {
        let kind = match frame.class {
            FrameClass::Response => Kind::Plain,
            FrameClass::DropIfSlow if self.is_full(room) => return Queued::Skipped,
            FrameClass::Event if self.is_full(room) => return Queued::NoRoom,
            FrameClass::Event | FrameClass::DropIfSlow => Kind::Event,
        };
        let (tail, tail_len) = tail_bytes(frame.tail);
        let payload_bytes = frame.body.as_bytes().len() + usize::from(tail_len);
        let (header, header_len) = ws::text_header(payload_bytes);
        self.push(Piece { header, header_len, tail_len, kind, tail, body: frame.body });
        Queued::Yes
    }

    fn push(&mut self, piece: Piece) {
        self.queued_bytes += piece.len();
        self.queued_events += usize::from(piece.kind == Kind::Event);
        self.pieces.push_back(piece);
    }

    /// Throws away what has not begun to leave; a piece that has must be finished, or the stream is broken.
    pub fn clear_unsent(&mut self) {
        let keep = usize::from(self.sent_bytes > 0);
        while self.pieces.len() > keep {
            if let Some(piece) = self.pieces.pop_back() {
                self.forget(&piece);
            }
        }
    }

    fn forget(&mut self, piece: &Piece) {
        self.queued_bytes -= piece.len();
        self.queued_events -= usize::from(piece.kind == Kind::Event);
    }

    /// Writes until everything has left, the kernel takes no more, or [`WRITE_BYTES_PER_TURN`] is used up.
    ///
    /// # Errors
    /// The socket's, other than that it would block.
    pub fn write_to(&mut self, socket: &mut impl io::Write) -> io::Result<Written> {
        let mut written = Written { bytes: 0, blocked: false, ping_left: false };
        while !self.pieces.is_empty() && written.bytes < WRITE_BYTES_PER_TURN {
            match self.write_once(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    written.bytes += n;
                    written.ping_left |= self.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    written.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn write_once(&self, socket: &mut impl io::Write) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
        let mut n = 0;
        let mut skip = self.sent_bytes;
        'pieces: for piece in &self.pieces {
            for part in piece.parts() {
                let left = &part[skip.min(part.len())..];
                skip -= part.len() - left.len();
                if left.is_empty() {
                    continue;
                }
                if n == SLICES_PER_WRITE {
                    break 'pieces;
                }
                slices[n] = IoSlice::new(left);
                n += 1;
            }
        }
        socket.write_vectored(&slices[..n])
    }

    /// Takes `n` bytes as sent; says whether a ping was among the pieces that are now complete.
    fn advance(&mut self, n: usize) -> bool {
        let mut ping_left = false;
        self.sent_bytes += n;
        while let Some(piece) = self.pieces.front()
            && self.sent_bytes >= piece.len()
        {
            self.sent_bytes -= piece.len();
            ping_left |= piece.kind == Kind::Ping;
            if let Some(piece) = self.pieces.pop_front() {
                self.forget(&piece);
            }
        }
        if self.pieces.is_empty() && self.pieces.capacity() > IDLE_PIECES_MAX {
            self.pieces = VecDeque::new();
        }
        debug_assert!(self.pieces.is_empty() == (self.queued_bytes == 0), "an empty queue owes nothing");
        ping_left
    }
}

/// [`Tail::text`] without an allocation.
fn tail_bytes(tail: Tail) -> ([u8; Tail::BYTES_MAX], u8) {
    use io::Write as _;
    let mut out = [0; Tail::BYTES_MAX];
    let mut rest = &mut out[..];
    // The buffer is as long as the longest tail.
    let _ = match tail {
        Tail::None => Ok(()),
        Tail::Seq(n) => write!(rest, ",\"seq\":{n}}}"),
        Tail::Unnumbered => rest.write_all(b"}"),
    };
    let len = Tail::BYTES_MAX - rest.len();
    (out, len as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A socket that takes `room` bytes.
    struct Sink {
        got: Vec<u8>,
        room: usize,
    }

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.got.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn room(events_max: usize) -> Room {
        Room { events_max, bytes_max: BUFFERED_BYTES_MAX }
    }

    fn frame(text: &str, tail: Tail, class: FrameClass) -> OutFrame {
        OutFrame { body: Body::Shared(Arc::from(text.as_bytes())), tail, class }
    }

    #[test]
    fn frames_leave_whole_whatever_the_kernel_takes() {
        for step in 1..40 {
            let mut outbox = Outbox::default();
            outbox.push_bytes(b"HTTP".to_vec());
            outbox.push_frame(frame("{\"a\":1", Tail::Seq(7), FrameClass::Event), room(256));
            outbox.push_frame(frame("{}", Tail::None, FrameClass::Response), room(256));
            let mut sink = Sink { got: Vec::new(), room: 0 };
            while !outbox.is_empty() {
                sink.room = step;
                let written = outbox.write_to(&mut sink).unwrap();
                assert!(written.bytes > 0);
            }
            assert_eq!(sink.got, b"HTTP\x81\x0f{\"a\":1,\"seq\":7}\x81\x02{}".to_vec());
            assert_eq!((outbox.queued_bytes, outbox.queued_events, outbox.sent_bytes), (0, 0, 0));
        }
    }

    #[test]
    fn a_full_queue_skips_closes_or_grows_by_class() {
        let mut outbox = Outbox::default();
        for n in 0..8 {
            assert_eq!(outbox.push_frame(frame("{", Tail::Seq(n), FrameClass::Event), room(8)), Queued::Yes);
        }
        assert_eq!(outbox.push_frame(frame("{", Tail::Seq(8), FrameClass::DropIfSlow), room(8)), Queued::Skipped);
        assert_eq!(outbox.push_frame(frame("{", Tail::Seq(9), FrameClass::Event), room(8)), Queued::NoRoom);
        assert_eq!(outbox.push_frame(frame("{}", Tail::None, FrameClass::Response), room(8)), Queued::Yes);
        assert!(outbox.is_full(room(8)) && !outbox.is_full(room(9)));
    }

    #[test]
    fn bytes_bound_the_queue_as_well() {
        let mut outbox = Outbox::default();
        let body: Arc<[u8]> = vec![b' '; BUFFERED_BYTES_MAX / 2].into();
        let big = || OutFrame { body: Body::Shared(Arc::clone(&body)), tail: Tail::None, class: FrameClass::Event };
        assert_eq!(outbox.push_frame(big(), room(256)), Queued::Yes);
        assert_eq!(outbox.push_frame(big(), room(256)), Queued::Yes);
        assert_eq!(outbox.push_frame(frame("{", Tail::Unnumbered, FrameClass::Event), room(256)), Queued::NoRoom);
        assert_eq!(Arc::strong_count(&body), 3, "the body is shared, not copied");
    }

    #[test]
    fn what_has_begun_to_leave_is_finished() {
        let mut outbox = Outbox::default();
        outbox.push_frame(frame("{\"a\":1}", Tail::None, FrameClass::Event), room(256));
        outbox.push_frame(frame("{\"b\":1}", Tail::None, FrameClass::Event), room(256));
        let mut sink = Sink { got: Vec::new(), room: 3 };
        outbox.write_to(&mut sink).unwrap();
        outbox.clear_unsent();
        outbox.push_bytes(ws::close(1008, "slow consumer"));
        sink.room = 1000;
        assert!(!outbox.write_to(&mut sink).unwrap().blocked);
        assert_eq!(sink.got, b"\x81\x07{\"a\":1}\x88\x0f\x03\xf0slow consumer".to_vec());
    }

    #[test]
    fn an_idle_queue_gives_its_memory_back() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push_bytes(vec![1]);
        }
        outbox.push_ping();
        assert!(outbox.write_to(&mut Sink { got: Vec::new(), room: 1000 }).unwrap().ping_left);
        assert_eq!(outbox.pieces.capacity(), 0);
    }

    #[test]
    fn one_turn_writes_a_bounded_amount() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push_bytes(vec![0; WRITE_BYTES_PER_TURN]);
        }
        let mut sink = Sink { got: Vec::new(), room: usize::MAX };
        let written = outbox.write_to(&mut sink).unwrap();
        assert!(written.bytes >= WRITE_BYTES_PER_TURN && written.bytes < 3 * WRITE_BYTES_PER_TURN);
        assert!(!written.blocked);
    }

    #[test]
    fn a_tail_is_written_as_it_says() {
        for tail in [Tail::None, Tail::Seq(0), Tail::Seq(u64::MAX), Tail::Unnumbered] {
            let (bytes, len) = tail_bytes(tail);
            assert_eq!(&bytes[..usize::from(len)], tail.text().as_bytes());
        }
    }
}
