//! Who takes part in a session: the programs its messages came from.

use serde_json::Value;

use crate::protocol::json::json;
use crate::store::sessions::SessionRow;

/// Programs that are remembered of a session; further ones are not, as nobody reads a list of more.
pub const PARTICIPANTS_MAX: usize = 16;

/// Where a session keeps them.
const FIELD: &str = "participants";

/// Whether a program is to be noted, because it is not yet.
pub fn is_new(session: &SessionRow, id: &str) -> bool {
    let known = ids(session);
    known.len() < PARTICIPANTS_MAX && !known.contains(&id)
}

/// Notes a program.
pub fn join(session: &mut SessionRow, id: &str) {
    if !is_new(session, id) {
        return;
    }
    let mut known: Vec<Value> = ids(session).into_iter().map(|id| json!(id)).collect();
    known.push(json!(id));
    session.entry.insert(FIELD.to_owned(), json!(known));
}

fn ids(session: &SessionRow) -> Vec<&str> {
    let known = session.entry.get(FIELD).and_then(Value::as_array);
    known.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// They as protocol 4 shows them. A program proves who it is and not who sits before it, so none of them is a person.
pub fn shown(session: &SessionRow) -> Vec<Value> {
    let one = |id: &str| {
        json!({ "identity": {
            "type": "observation", "pluginId": null, "accountId": null, "senderKind": "unknown", "id": id,
        } })
    };
    ids(session).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_noted_once_and_no_more_than_the_limit() {
        let mut session = SessionRow::new("agent:main:a", "main", "s".to_owned(), "direct", 1);
        for _ in 0..2 {
            join(&mut session, "cli");
        }
        assert_eq!(shown(&session).len(), 1);
        assert_eq!(shown(&session)[0]["identity"]["id"], "cli");
        for n in 0..2 * PARTICIPANTS_MAX {
            join(&mut session, &format!("p{n}"));
        }
        assert_eq!(shown(&session).len(), PARTICIPANTS_MAX);
        assert!(!is_new(&session, "one-more"));
    }
}
