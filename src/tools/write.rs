//! `write`: a whole file, new or replaced.

use serde_json::{Value, json};

use super::diff;
use super::files::{self, FILE_BYTES_MAX, Old, PATH_ALIASES, Target};
use super::text::Encoding;
use super::{Effect, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{NonEmpty, Text};

pub(super) const TOOL: Tool = Tool {
    name: "write",
    description: "Write a whole file of the workspace: a new one, or in place of the old one. Folders on the way are made. \
                  To change a part of a file use edit.",
    summary: "Write a file of the workspace",
    parameters,
    effect: Effect::Once,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "path": { "type": "string", "description": "The file, from the workspace or absolute" },
            "content": { "type": "string", "description": "All that is to be in it" },
        },
        "required": ["path", "content"],
        "additionalProperties": false,
    })
}

crate::params! {
    /// What is to be in which file.
    pub struct WriteArguments {
        path: NonEmpty = "path",
        content: Text<0, { FILE_BYTES_MAX as usize }> = "content",
    }
}

/// A call that was read.
#[derive(Debug)]
struct Write {
    target: Target,
    content: String,
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: WriteArguments = super::decode_named("write", arguments, PATH_ALIASES)?;
    Ok(Box::new(Write { target: Target::new(wanted.path.0), content: wanted.content.0 }))
}

impl Prepared for Write {
    fn parts(&self, scene: &Scene<'_>) -> ActionRequest {
        let place = files::workspace(scene).ok().and_then(|workspace| self.target.place(&workspace).ok());
        files::parts([(place.map(|place| place.shown), self.content.as_str())])
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let Write { target, content } = *self;
        let workspace = files::workspace(scene)?;
        let place = target.place(&workspace).map_err(|error| files::why_not(&target.said, &error))?;
        let known = place.look().map_err(|error| files::why_not(&target.said, &error))?;
        // What cannot be shown as text can be replaced all the same.
        let old = known.as_ref().and_then(|_| Old::read(&place).ok());
        let shown = place.shown.clone();
        let is_same = old.as_ref().is_some_and(|old| old.encoding == Encoding::Utf8 && old.text == content);
        let mut details = match &old {
            _ if is_same => serde_json::Map::new(),
            Some(old) => diff::details(&shown, &old.text, &content),
            None if known.is_none() => diff::details(&shown, "", &content),
            None => serde_json::Map::new(),
        };
        files::sizes(&mut details, content.len(), &content);
        details.insert("changed".to_owned(), (!is_same).into());
        details.insert("created".to_owned(), known.is_none().into());
        if is_same {
            let text = format!("{shown} is what it was");
            return Ok(Output { text, details: Some(Value::Object(details)), ..Output::default() });
        }
        let before = old.as_ref().map_or("", |old| &old.text);
        let mut step = files::step(scene, place, Encoding::Utf8, before, &content)?;
        step.old = known;
        files::make(scene, &[step])?;
        let verb = if details["created"] == true { "made" } else { "replaced" };
        let text = format!("{verb} {shown}: {} bytes, {} lines", content.len(), details["lines"]);
        Ok(Output { text, details: Some(Value::Object(details)), ..Output::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::tests::Files;
    use super::*;

    #[test]
    fn makes_and_replaces_files_and_folders() {
        let bench = Files::new();
        let output = bench.call(&TOOL, json!({ "path": "a/b/c.txt", "content": "one\ntwo\n" })).unwrap();
        assert_eq!(output.text, "made a/b/c.txt: 8 bytes, 2 lines");
        let details = output.details.unwrap();
        assert_eq!((&details["created"], &details["bytes"], &details["lines"]), (&json!(true), &json!(8), &json!(2)));
        assert_eq!((&details["diff"], &details["firstChangedLine"]), (&json!("+1 one\n+2 two"), &json!(1)));

        let output = bench.call(&TOOL, json!({ "file_path": "a/b/c.txt", "content": "one\n2\n" })).unwrap();
        assert_eq!(output.details.unwrap()["diff"], " 1 one\n-2 two\n+2 2");
        assert_eq!(bench.read("a/b/c.txt"), "one\n2\n");

        let output = bench.call(&TOOL, json!({ "path": "a/b/c.txt", "content": "one\n2\n" })).unwrap();
        assert_eq!((&*output.text, &output.details.unwrap()["changed"]), ("a/b/c.txt is what it was", &json!(false)));
        // What was no text, and what is empty now.
        bench.write("bin", [0, 1, 2]);
        let output = bench.call(&TOOL, json!({ "path": "bin", "content": "" })).unwrap();
        assert_eq!((&*output.text, bench.read("bin")), ("replaced bin: 0 bytes, 0 lines", String::new()));
    }

    #[test]
    fn nothing_outside_is_written_whatever_the_path_is_called() {
        let bench = Files::new();
        let outside = bench.beside("victim");
        fs::write(&outside, "mine").unwrap();
        symlink(&outside, bench.path("link")).unwrap();
        symlink(bench.beside(""), bench.path("up")).unwrap();
        fs::hard_link(&outside, bench.path("second")).unwrap();
        for name in ["path", "file_path", "filePath"] {
            for path in
                ["../victim", "link", "up/victim", "up/new", outside.to_str().unwrap(), "a/../../victim", "second"]
            {
                let error = bench.call(&TOOL, json!({ name: path, "content": "theirs" })).unwrap_err();
                let is_outside = matches!(error, ToolError::Outside(_));
                assert_eq!(is_outside, path != "second", "{name} {path}: {error}");
            }
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
        assert_eq!(bench.beside("").read_dir().unwrap().count(), 1, "nothing new is beside the workspace");
        bench.refuses(&TOOL, json!({ "path": "a", "file_path": "b", "content": "" }), "different things");
        bench.refuses(&TOOL, json!({ "path": ".", "content": "" }), "is a folder");
        bench.refuses(&TOOL, json!({ "content": "" }), "must have required property 'path'");
    }

    #[test]
    fn a_link_inside_is_written_through_and_stays() {
        let bench = Files::new();
        bench.write("real", "old");
        symlink("real", bench.path("link")).unwrap();
        bench.call(&TOOL, json!({ "path": "link", "content": "new" })).unwrap();
        assert_eq!(bench.read("real"), "new");
        assert!(bench.path("link").is_symlink());
    }

    #[test]
    fn what_is_judged_is_where_the_path_leads() {
        let bench = Files::new();
        fs::create_dir_all(bench.path(".git/hooks")).unwrap();
        symlink(".git/hooks", bench.path("docs")).unwrap();
        let parts = bench.parts(&TOOL, json!({ "path": "docs/pre-commit", "content": "#!/bin/sh" }));
        assert_eq!((parts.writes, parts.prompt), (vec![".git/hooks/pre-commit".to_owned()], None));
        let parts = bench.parts(&TOOL, json!({ "path": "x/../AGENTS.md", "content": "be kind" }));
        assert_eq!((parts.writes, parts.prompt.as_deref()), (vec!["AGENTS.md".to_owned()], Some("be kind\n")));
    }

    #[test]
    fn a_path_that_leads_elsewhere_by_then_is_not_written() {
        let bench = Files::new();
        fs::create_dir_all(bench.path(".git/hooks")).unwrap();
        fs::create_dir(bench.path("docs")).unwrap();
        let error = bench
            .call_after(&TOOL, json!({ "path": "docs/pre-commit", "content": "x" }), || {
                fs::remove_dir(bench.path("docs")).unwrap();
                symlink(".git/hooks", bench.path("docs")).unwrap();
            })
            .unwrap_err();
        assert!(error.to_string().contains("was changed meanwhile"), "{error}");
        assert!(!bench.path(".git/hooks/pre-commit").exists());
    }
}
