//! `read`: a file of the workspace, in lines; a picture as a picture.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::workspace::Workspace;
use super::{Effect, Image, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Int, NonEmpty};

/// Lines given at once; more are named, not given.
pub const LINES_MAX: usize = 2000;
/// Bytes of text given at once. A line that is longer by itself is cut.
pub const BYTES_MAX: usize = 50 * 1024;
/// Largest text file that is looked into, in bytes.
pub const TEXT_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest picture, in bytes: more than that no provider takes.
pub const IMAGE_BYTES_MAX: u64 = 5 * 1024 * 1024;

pub(super) const TOOL: Tool = Tool {
    name: "read",
    description: "Read a file of the workspace. Text comes as lines, at most 2000 lines or 50 KiB at once: use offset and \
                  limit for the rest of a longer file. A picture (png, jpeg, gif, webp) comes as a picture.",
    summary: "Read a file of the workspace",
    parameters,
    effect: Effect::None,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "path": { "type": "string", "description": "The file, from the workspace or absolute" },
            "offset": { "type": "integer", "minimum": 1, "description": "First line, counted from 1" },
            "limit": { "type": "integer", "minimum": 1, "description": "Most lines" },
        },
        "required": ["path"],
        "additionalProperties": false,
    })
}

crate::params! {
    /// Which part of which file.
    pub struct ReadArguments {
        path: NonEmpty = "path",
        offset: Option<Int<1, { i64::MAX }>> = "offset",
        limit: Option<Int<1, { i64::MAX }>> = "limit",
    }
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    Ok(Box::new(super::decode::<ReadArguments>("read", arguments)?))
}

impl Prepared for ReadArguments {
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        ActionRequest { file: Some(self.path.0.clone()), ..ActionRequest::default() }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        read(scene, &self)
    }
}

fn read(scene: &Scene<'_>, wanted: &ReadArguments) -> Result<Output, ToolError> {
    let path = wanted.path.0.as_str();
    let found = Workspace::open(scene.workspace).and_then(|workspace| workspace.file(Path::new(path)));
    let found = found.map_err(|error| why_not(path, &error, 0))?;
    if let Some(mime) = picture(path) {
        let bytes = found.read(IMAGE_BYTES_MAX).map_err(|error| why_not(path, &error, IMAGE_BYTES_MAX))?;
        let text = format!("{path}: {mime}, {} bytes", bytes.len());
        return Ok(Output { text, image: Some(Image { mime, bytes }), ..Output::default() });
    }
    let bytes = found.read(TEXT_FILE_BYTES_MAX).map_err(|error| why_not(path, &error, TEXT_FILE_BYTES_MAX))?;
    if bytes.contains(&0) {
        return Err(ToolError::Failed(format!("{path} is no text")));
    }
    let text = String::from_utf8_lossy(&bytes);
    let count = |n: Option<i64>, otherwise| n.map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let offset = count(wanted.offset.as_ref().map(|n| n.0), 1);
    let limit = count(wanted.limit.as_ref().map(|n| n.0), LINES_MAX).min(LINES_MAX);
    lines(path, &text, offset, limit)
}

/// The lines from `offset`, counted from 1, and a word about those that follow.
fn lines(path: &str, text: &str, offset: usize, limit: usize) -> Result<Output, ToolError> {
    let n_lines = text.lines().count();
    if offset > n_lines.max(1) {
        return Err(ToolError::Failed(format!("{path} has {n_lines} lines, none from {offset} on")));
    }
    let (mut shown, mut n_shown) = (String::new(), 0);
    let mut cut_line = None;
    for line in text.lines().skip(offset - 1).take(limit) {
        if shown.len() + line.len() + 1 > BYTES_MAX {
            if n_shown > 0 {
                break;
            }
            shown.push_str(&line[..line.floor_char_boundary(BYTES_MAX)]);
            shown.push('\n');
            n_shown = 1;
            cut_line = Some(line.len());
            break;
        }
        shown.push_str(line);
        shown.push('\n');
        n_shown += 1;
    }
    let last = offset + n_shown - n_shown.min(1);
    let is_whole = last >= n_lines && cut_line.is_none();
    if let Some(bytes) = cut_line {
        shown.push_str(&format!("\n[line {offset} has {bytes} bytes and is cut here]\n"));
    }
    if last < n_lines {
        shown.push_str(&format!("\n[lines {offset} to {last} of {n_lines}; go on with offset={}]\n", last + 1));
    }
    let details = json!({ "lines": n_lines, "from": offset, "to": last, "truncated": !is_whole });
    Ok(Output { text: shown, details: Some(details), ..Output::default() })
}

/// The kind of a picture, by its name.
fn picture(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "gif" => Some("image/gif"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

fn why_not(path: &str, error: &io::Error, bytes_max: u64) -> ToolError {
    ToolError::Failed(match error.kind() {
        io::ErrorKind::NotFound => format!("{path} is not there, or is no file"),
        io::ErrorKind::PermissionDenied => format!("{path} is outside of the workspace, or may not be read"),
        io::ErrorKind::FileTooLarge => format!("{path} is larger than {bytes_max} bytes"),
        kind => format!("{path} cannot be read: {kind}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::session_status::Facts;
    use super::*;
    use crate::tools::tests::call;

    struct Bench {
        temp: tempfile::TempDir,
        facts: Facts,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { temp: tempfile::TempDir::new().unwrap(), facts: Facts::default() }
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.temp.path().join(name), content).unwrap();
        }

        fn read(&self, arguments: Value) -> Result<Output, ToolError> {
            call(&TOOL, self.temp.path(), &self.facts, &arguments)
        }

        #[track_caller]
        fn refuses(&self, arguments: Value, words: &str) {
            let error = self.read(arguments).unwrap_err().to_string();
            assert!(error.contains(words), "{words:?} not in {error:?}");
        }
    }

    #[test]
    fn gives_the_lines_that_are_asked_for_and_says_what_follows() {
        let bench = Bench::new();
        bench.file("a.txt", "one\ntwo\nthree\nfour");
        let text = |arguments| bench.read(arguments).unwrap().text;
        assert_eq!(text(json!({ "path": "a.txt" })), "one\ntwo\nthree\nfour\n");
        assert_eq!(
            text(json!({ "path": "a.txt", "offset": 2, "limit": 2 })),
            "two\nthree\n\n[lines 2 to 3 of 4; go on with offset=4]\n"
        );
        assert_eq!(text(json!({ "path": "a.txt", "offset": 4 })), "four\n");
        bench.file("empty", "");
        assert_eq!(text(json!({ "path": "empty" })), "");
        bench.refuses(json!({ "path": "a.txt", "offset": 5 }), "has 4 lines, none from 5");
    }

    #[test]
    fn gives_no_more_than_its_limits() {
        let bench = Bench::new();
        bench.file("long", "x\n".repeat(LINES_MAX + 1));
        let output = bench.read(json!({ "path": "long", "limit": 999_999 })).unwrap();
        assert!(output.text.ends_with(&format!("go on with offset={}]\n", LINES_MAX + 1)), "{}", output.text);
        assert_eq!(output.details.unwrap()["truncated"], true);

        bench.file("wide", format!("{}\nnext", "é".repeat(BYTES_MAX)));
        let output = bench.read(json!({ "path": "wide" })).unwrap();
        assert!(output.text.len() < BYTES_MAX + 200);
        assert!(output.text.contains("is cut here]") && output.text.contains("offset=2]"));

        bench.file("many", format!("{}\n", "y".repeat(1023)).repeat(51));
        let output = bench.read(json!({ "path": "many" })).unwrap();
        assert!(output.text.contains("[lines 1 to 50 of 51; go on with offset=51]"));
    }

    #[test]
    fn gives_a_picture_as_one() {
        let bench = Bench::new();
        bench.file("p.PNG", [1, 2, 3]);
        let image = bench.read(json!({ "path": "p.PNG" })).unwrap().image.unwrap();
        assert_eq!((image.mime, image.bytes), ("image/png", vec![1, 2, 3]));
        bench.file("big.png", vec![0; IMAGE_BYTES_MAX as usize + 1]);
        bench.refuses(json!({ "path": "big.png" }), "larger than 5242880 bytes");
    }

    #[test]
    fn says_what_is_wrong() {
        let bench = Bench::new();
        bench.file("binary", [7, 0, 7]);
        bench.refuses(json!({ "path": "binary" }), "is no text");
        bench.refuses(json!({ "path": "none" }), "is not there");
        bench.refuses(json!({ "path": "../x" }), "outside of the workspace");
        bench.refuses(json!({ "path": "/etc/passwd" }), "outside of the workspace");
        bench.refuses(json!({}), "invalid read arguments: must have required property 'path'");
        bench.refuses(json!({ "path": 7 }), "invalid read arguments: at /path");
        bench.refuses(json!({ "path": "a", "offset": 0 }), "invalid read arguments: at /offset");
        bench.refuses(json!({ "path": "a", "lines": 1 }), "unexpected property 'lines'");
        bench.refuses(json!({ "_raw": "{" }), "invalid read arguments");
    }
}
