//! Who woke the loop: the poll tokens, and how a connection's token, id and place go together.

use mio::Token;

use crate::protocol::ConnId;

/// Another thread has posted something.
pub const WAKER: Token = Token(0);
/// SIGTERM or SIGINT.
pub const SIGNAL_STOP: Token = Token(1);
/// SIGHUP.
pub const SIGNAL_RELOAD: Token = Token(2);
/// The first listening socket; the others follow.
pub const LISTENER_FIRST: Token = Token(16);
/// Most listening sockets.
pub const LISTENERS_MAX: usize = 16;

/// Bits of a connection's id that say where it is kept. The rest is a serial number from 1, so that an id is never
/// used twice and an event or effect meant for an earlier connection finds nobody.
const PLACE_BITS: u32 = 20;
/// Most connections there is a place for.
pub const PLACES_MAX: usize = 1 << PLACE_BITS;
/// Set in the ids of requests that came over the control port and have no connection here.
const CONTROL_BIT: u64 = 1 << 63;

const _: () = assert!(LISTENER_FIRST.0 + LISTENERS_MAX < PLACES_MAX, "tokens of connections begin above");
const _: () = assert!(usize::BITS == 64, "a token holds a whole connection id");

/// The id of the connection with this serial number in this place.
pub fn conn_id(serial: u64, place: usize) -> ConnId {
    debug_assert!(serial > 0 && place < PLACES_MAX);
    ConnId(serial << PLACE_BITS | place as u64)
}

/// Where a connection is kept.
pub fn place(id: ConnId) -> usize {
    (id.0 & (PLACES_MAX as u64 - 1)) as usize
}

/// The id of a request of the control port.
pub fn control_id(serial: u64) -> ConnId {
    ConnId(CONTROL_BIT | serial)
}

/// Whether an id stands for a request of the control port.
pub fn is_control(id: ConnId) -> bool {
    id.0 & CONTROL_BIT != 0
}

/// The token of a connection.
pub fn of_conn(id: ConnId) -> Token {
    Token(id.0 as usize)
}

/// The connection of a token, if it is one's.
pub fn conn_of(token: Token) -> Option<ConnId> {
    (token.0 >= PLACES_MAX).then_some(ConnId(token.0 as u64))
}

/// Which listening socket a token stands for, if it is one's.
pub fn listener_of(token: Token) -> Option<usize> {
    token.0.checked_sub(LISTENER_FIRST.0).filter(|n| *n < LISTENERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tokens_and_places_go_together() {
        let id = conn_id(1, 0);
        assert_eq!((place(id), conn_of(of_conn(id))), (0, Some(id)));
        let id = conn_id(77, PLACES_MAX - 1);
        assert_eq!((place(id), conn_of(of_conn(id))), (PLACES_MAX - 1, Some(id)));
        assert_eq!(conn_of(WAKER), None);
        assert_eq!((listener_of(LISTENER_FIRST), listener_of(SIGNAL_STOP)), (Some(0), None));
        assert!(is_control(control_id(5)) && !is_control(id));
    }
}
