//! `read`: a file of the workspace, in lines; a picture as a picture.

use std::path::Path;

use serde_json::{Value, json};

use super::files::{self, FILE_BYTES_MAX, PATH_ALIASES};
use super::workspace::FileError;
use super::{Effect, Image, Output, Prepared, Scene, Tool, ToolError, text, workspace};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Int, NonEmpty};

/// Lines given at once; more are named, not given.
pub const LINES_MAX: usize = 2000;
/// Bytes of text given at once to a model of which no more is known. A line that is longer by itself is cut.
pub const BYTES_MIN: usize = 50 * 1024;
/// The same for one that reads much at once.
pub const BYTES_MAX: usize = 256 * 1024;
/// What of a model's window one answer may fill: one part of so many, a token taken for four bytes.
const WINDOW_PARTS: u64 = 5;
/// Largest picture, in bytes: more than that no provider takes.
pub const IMAGE_BYTES_MAX: u64 = 5 * 1024 * 1024;

pub(super) const TOOL: Tool = Tool {
    name: "read",
    description: "Read a file of the workspace. Text comes as lines, at most 2000 lines or some 50 KiB at once: use offset and \
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
    Ok(Box::new(super::decode_named::<ReadArguments>("read", arguments, PATH_ALIASES)?))
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
    let why_not = |error: FileError| files::why_not(path, &error);
    let found = files::workspace(scene)?.file(Path::new(path)).map_err(why_not)?;
    if let Some(mime) = picture(path) {
        let bytes = workspace::read(found, IMAGE_BYTES_MAX).map_err(why_not)?;
        let text = format!("{path}: {mime}, {} bytes", bytes.len());
        return Ok(Output { text, image: Some(Image { mime, bytes }), ..Output::default() });
    }
    let bytes = workspace::read(found, FILE_BYTES_MAX).map_err(why_not)?;
    let (_, text) = text::decode(&bytes).map_err(|error| files::no_text(path, error))?;
    let count = |n: Option<i64>, otherwise| n.map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let offset = count(wanted.offset.as_ref().map(|n| n.0), 1);
    let limit = count(wanted.limit.as_ref().map(|n| n.0), LINES_MAX).min(LINES_MAX);
    let window = scene.session.context_window.unwrap_or(0);
    let bytes_max = usize::try_from(window * 4 / WINDOW_PARTS).unwrap_or(usize::MAX).clamp(BYTES_MIN, BYTES_MAX);
    let mut output = lines(path, &text, offset, limit, bytes_max)?;
    if let Some(Value::Object(details)) = &mut output.details {
        details.insert("bytes".to_owned(), bytes.len().into());
    }
    Ok(output)
}

/// The lines from `offset`, counted from 1, and a word about those that follow.
fn lines(path: &str, text: &str, offset: usize, limit: usize, bytes_max: usize) -> Result<Output, ToolError> {
    let n_lines = text.lines().count();
    if offset > n_lines.max(1) {
        return Err(ToolError::Failed(format!("{path} has {n_lines} lines, none from {offset} on")));
    }
    let (mut shown, mut n_shown) = (String::new(), 0);
    let mut cut_line = None;
    for line in text.lines().skip(offset - 1).take(limit) {
        if shown.len() + line.len() + 1 > bytes_max {
            if n_shown > 0 {
                break;
            }
            shown.push_str(&line[..line.floor_char_boundary(bytes_max)]);
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

#[cfg(test)]
mod tests {
    use super::super::tests::Files;
    use super::*;

    #[test]
    fn gives_the_lines_that_are_asked_for_and_says_what_follows() {
        let bench = Files::new();
        bench.write("a.txt", "one\ntwo\nthree\nfour");
        let text = |arguments| bench.call(&TOOL, arguments).unwrap().text;
        assert_eq!(text(json!({ "path": "a.txt" })), "one\ntwo\nthree\nfour\n");
        assert_eq!(
            text(json!({ "path": "a.txt", "offset": 2, "limit": 2 })),
            "two\nthree\n\n[lines 2 to 3 of 4; go on with offset=4]\n"
        );
        assert_eq!(text(json!({ "path": "a.txt", "offset": 4 })), "four\n");
        bench.write("empty", "");
        assert_eq!(text(json!({ "path": "empty" })), "");
        bench.refuses(&TOOL, json!({ "path": "a.txt", "offset": 5 }), "has 4 lines, none from 5");
    }

    #[test]
    fn gives_no_more_than_its_limits() {
        let bench = Files::new();
        bench.write("long", "x\n".repeat(LINES_MAX + 1));
        let output = bench.call(&TOOL, json!({ "path": "long", "limit": 999_999 })).unwrap();
        assert!(output.text.ends_with(&format!("go on with offset={}]\n", LINES_MAX + 1)), "{}", output.text);
        assert_eq!(output.details.unwrap()["truncated"], true);

        bench.write("wide", format!("{}\nnext", "é".repeat(BYTES_MIN)));
        let output = bench.call(&TOOL, json!({ "path": "wide" })).unwrap();
        assert!(output.text.len() < BYTES_MIN + 200);
        assert!(output.text.contains("is cut here]") && output.text.contains("offset=2]"));

        bench.write("many", format!("{}\n", "y".repeat(1023)).repeat(51));
        let output = bench.call(&TOOL, json!({ "path": "many" })).unwrap();
        assert!(output.text.contains("[lines 1 to 50 of 51; go on with offset=51]"));

        // Who reads much at once is given more, up to a limit.
        for (window, bytes_max) in [(64_000, 51_200), (128_000, 102_400), (10_000_000, BYTES_MAX)] {
            let mut bench = Files::new();
            bench.facts.context_window = Some(window);
            bench.write("long", format!("{}\n", "y".repeat(1023)).repeat(300));
            let output = bench.call(&TOOL, json!({ "path": "long" })).unwrap();
            assert_eq!(output.details.unwrap()["to"], bytes_max / 1024, "{window}");
        }
    }

    #[test]
    fn gives_a_picture_as_one() {
        let bench = Files::new();
        bench.write("p.PNG", [1, 2, 3]);
        let image = bench.call(&TOOL, json!({ "path": "p.PNG" })).unwrap().image.unwrap();
        assert_eq!((image.mime, image.bytes), ("image/png", vec![1, 2, 3]));
        bench.write("big.png", vec![0; IMAGE_BYTES_MAX as usize + 1]);
        bench.refuses(&TOOL, json!({ "path": "big.png" }), "larger than 5242880 bytes");
    }

    #[test]
    fn says_what_is_wrong() {
        let bench = Files::new();
        bench.write("binary", [7, 0, 7]);
        bench.refuses(&TOOL, json!({ "path": "binary" }), "is no text");
        bench.refuses(&TOOL, json!({ "path": "none" }), "is not there");
        bench.refuses(&TOOL, json!({ "path": "../x" }), "outside of the workspace");
        bench.refuses(&TOOL, json!({ "path": "/etc/passwd" }), "outside of the workspace");
        bench.refuses(&TOOL, json!({ "file_path": "/etc/passwd" }), "outside of the workspace");
        bench.refuses(&TOOL, json!({ "filePath": "../x" }), "outside of the workspace");
        bench.refuses(&TOOL, json!({}), "invalid read arguments: must have required property 'path'");
        bench.refuses(&TOOL, json!({ "path": 7 }), "invalid read arguments: at /path");
        bench.refuses(&TOOL, json!({ "path": "a", "offset": 0 }), "invalid read arguments: at /offset");
        bench.refuses(&TOOL, json!({ "path": "a", "lines": 1 }), "unexpected property 'lines'");
        bench.refuses(&TOOL, json!({ "_raw": "{" }), "invalid read arguments");
    }
}
