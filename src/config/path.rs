//! Where a value stands in a document.

use std::fmt;

use serde_json::Value;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

/// A place in a document; written as upstream writes it, `agents.list.0.id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The document itself.
    pub fn root() -> KeyPath {
        KeyPath::default()
    }

    /// From steps.
    pub fn new(steps: Vec<Step>) -> KeyPath {
        KeyPath(steps)
    }

    /// Down a dotted path of keys; no key of it may hold a dot.
    pub fn dotted(path: &str) -> KeyPath {
        KeyPath(path.split('.').filter(|part| !part.is_empty()).map(|part| Step::Key(part.to_owned())).collect())
    }

    /// Its steps.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether it is the document itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// One key further.
    #[must_use]
    pub fn key(&self, key: &str) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        KeyPath(steps)
    }

    /// One element further.
    #[must_use]
    pub fn index(&self, idx: usize) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(Step::Index(idx));
        KeyPath(steps)
    }

    /// What holds it; the root holds itself.
    #[must_use]
    pub fn parent(&self) -> KeyPath {
        KeyPath(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// Its last step as text; empty for the root.
    pub fn last(&self) -> String {
        self.0.last().map(Step::to_string).unwrap_or_default()
    }

    /// The value that stands here.
    pub fn get<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.as_object()?.get(key),
            Step::Index(idx) => value.as_array()?.get(*idx),
        })
    }

    /// Puts a value here, making objects on the way; does nothing where a list or a plain value is in the way.
    pub fn set(&self, document: &mut Value, value: Value) {
        let mut place = document;
        for step in &self.0 {
            let next = match step {
                Step::Key(key) => {
                    if place.is_null() {
                        *place = Value::Object(serde_json::Map::new());
                    }
                    place.as_object_mut().map(|object| object.entry(key.clone()).or_insert(Value::Null))
                }
                Step::Index(idx) => place.as_array_mut().and_then(|items| items.get_mut(*idx)),
            };
            let Some(next) = next else { return };
            place = next;
        }
        *place = value;
    }

    /// Takes the value away from here.
    pub fn remove(&self, document: &mut Value) -> Option<Value> {
        let Some(Step::Key(key)) = self.0.last() else { return None };
        let mut place = document;
        for step in &self.0[..self.0.len() - 1] {
            place = match step {
                Step::Key(key) => place.as_object_mut()?.get_mut(key)?,
                Step::Index(idx) => place.as_array_mut()?.get_mut(*idx)?,
            };
        }
        place.as_object_mut()?.shift_remove(key)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Key(key) => f.write_str(key),
            Step::Index(idx) => write!(f, "{idx}"),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(".")?;
            }
            write!(f, "{step}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_gets_and_removes_where_it_says() {
        let mut document = json!({ "a": [{ "b": 1 }] });
        let path = KeyPath::new(vec![Step::Key("a".into()), Step::Index(0), Step::Key("b".into())]);
        assert_eq!(path.to_string(), "a.0.b");
        assert_eq!(path.get(&document), Some(&json!(1)));
        KeyPath::dotted("c.d").set(&mut document, json!(2));
        assert_eq!(document, json!({ "a": [{ "b": 1 }], "c": { "d": 2 } }));
        assert_eq!(KeyPath::dotted("c.d").remove(&mut document), Some(json!(2)));
        KeyPath::dotted("a.x").set(&mut document, json!(3));
        assert_eq!(document, json!({ "a": [{ "b": 1 }], "c": {} }), "a list is not overwritten by a key");
    }
}
