//! Methods of the released gateways that are not built here, with what each of them asks of a caller.
//!
//! The released gateways look at a caller's scopes before they look at anything else, and so does this one, also for a
//! name it cannot serve yet: who lacks the scope hears which one, who has it hears `unknown method`. Nothing here can
//! be called or is advertised; a wrong row could only change which refusal is read.
//!
//! `unbuilt.txt` is written from the contract (`fixtures/protocol/methods.json`) less the rows of
//! [`table`](super::table): a method that gets built leaves it. A line is a name, what protocol 3 asks, and what
//! protocol 4 asks; a protocol that does not know the method asks for `operator.admin`, as for any unknown name.

use std::sync::OnceLock;

use super::table::Need;
use crate::protocol::scope::Scope;
use crate::protocol::version::Protocol;

/// The rows, sorted by name.
const LINES: &str = include_str!("unbuilt.txt");

/// One method that is not built.
struct Row {
    name: &'static str,
    need3: Need,
    need4: Need,
}

/// What calling `name` would ask of a caller; `None` when it is built, or no method of any release.
pub fn need(name: &str, protocol: Protocol) -> Option<Need> {
    let rows = rows();
    let idx = rows.binary_search_by_key(&name, |row| row.name).ok()?;
    Some(match protocol {
        Protocol::V3 => rows[idx].need3,
        Protocol::V4 => rows[idx].need4,
    })
}

/// The names, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    rows().iter().map(|row| row.name)
}

fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| LINES.lines().filter_map(read).collect())
}

fn read(line: &'static str) -> Option<Row> {
    let mut words = line.split(' ');
    Some(Row { name: words.next()?, need3: read_need(words.next()?)?, need4: read_need(words.next()?)? })
}

/// `anyone`, `node`, `operator`, a scope without its `operator.`, or two of them with a `/` between.
fn read_need(word: &str) -> Option<Need> {
    let scope = |name: &str| Scope::parse(&format!("operator.{name}"));
    Some(match word.split_once('/') {
        Some((asked, narrower)) => Need::Either(scope(asked)?, scope(narrower)?),
        None if word == "anyone" => Need::Anyone,
        None if word == "node" => Need::Node,
        None if word == "operator" => Need::Operator,
        None => Need::Scope(scope(word)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_row_and_none_is_built() {
        assert_eq!(rows().len(), LINES.lines().count(), "a line that cannot be read asks for operator.admin");
        assert!(rows().len() > 50, "{} rows", rows().len());
        for pair in rows().windows(2) {
            assert!(pair[0].name < pair[1].name, "{} stands out of order", pair[1].name);
        }
        for name in names() {
            assert!(super::super::table::find(name).is_none(), "{name} is built: UPDATE_FIXTURES=1 cargo test unbuilt");
        }
    }

    #[test]
    fn a_name_of_no_release_has_no_row() {
        assert!(need("no.such.method", Protocol::V4).is_none());
        assert!(need("", Protocol::V3).is_none());
    }

    #[test]
    fn a_word_that_is_no_need_is_not_read() {
        assert!(read_need("everything").is_none());
        assert!(read_need("read/everything").is_none());
        assert!(matches!(read_need("read/sessions.read"), Some(Need::Either(Scope::Read, Scope::SessionsRead))));
        assert!(read("only.a.name").is_none());
    }
}
