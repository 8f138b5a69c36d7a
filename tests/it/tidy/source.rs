//! Rust files as the house rules read them: code apart from comments, and without its tests.
//!
//! No parser: strings and comments are blanked in place, so places in a view are places in the file, and what is left
//! can be searched by words and braces.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regex::Regex;

/// One file.
pub(super) struct Source {
    /// From the project's root, with slashes.
    pub(super) path: String,
    /// Everything but comments, and literals without what they hold.
    pub(super) code: String,
    /// Nothing but comments.
    pub(super) comments: String,
    /// `code` without what is compiled for tests only.
    pub(super) shipped: String,
}

impl Source {
    /// A file of this text.
    pub(super) fn of(path: &str, text: &str) -> Source {
        let (code, comments) = split(text);
        let shipped = if is_test_path(path) { blank(&code, 0..code.len()) } else { without_tests(&code) };
        Source { path: path.to_owned(), code, comments, shipped }
    }

    /// The room a file of `src/` belongs to; `None` for `main.rs` and `lib.rs`.
    pub(super) fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        below.split_once('/').map(|(room, _)| room)
    }

    /// How many modules deep the file's own module is below the crate.
    pub(super) fn depth(&self) -> usize {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let parts = below.split('/').count();
        if below.ends_with("/mod.rs") || !below.contains('/') && below != "main.rs" { parts - 1 } else { parts }
    }

    /// `path:line` of a place.
    pub(super) fn at(&self, offset: usize) -> String {
        let line = self.code[..offset].bytes().filter(|b| *b == b'\n').count() + 1;
        format!("{}:{line}", self.path)
    }

    /// How many lines the file has.
    pub(super) fn n_lines(&self) -> usize {
        self.code.lines().count()
    }
}

/// The project's root.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src/`. Read once for all rules.
pub(super) fn library() -> &'static [Source] {
    static FILES: OnceLock<Vec<Source>> = OnceLock::new();
    FILES.get_or_init(|| read(&["src"]))
}

/// Every Rust file of the project: the library, its tests and its benches.
pub(super) fn everything() -> &'static [Source] {
    static FILES: OnceLock<Vec<Source>> = OnceLock::new();
    FILES.get_or_init(|| read(&["src", "tests", "benches", "scripts", "fuzz"]))
}

fn read(dirs: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for dir in dirs {
        list(&root().join(dir), &mut paths);
    }
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    let mut files: Vec<Source> =
        paths.iter().map(|path| Source::of(&relative(path), &fs::read_to_string(path).unwrap())).collect();
    let tests: Vec<String> = files.iter().flat_map(test_files).collect();
    for file in &mut files {
        if tests.iter().any(|path| file.path == *path || file.path.starts_with(path.trim_end_matches("mod.rs"))) {
            file.shipped = blank(&file.code, 0..file.code.len());
        }
    }
    files
}

fn list(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn is_test_path(path: &str) -> bool {
    !path.starts_with("src/")
}

/// The files of modules that `file` declares for tests only: `x.rs`, and `x/mod.rs` for all of `x/`.
fn test_files(file: &Source) -> Vec<String> {
    let module = Regex::new(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;").unwrap();
    let below = match file.path.strip_suffix("/mod.rs").or(file.path.strip_suffix("/lib.rs")) {
        Some(dir) => dir.to_owned(),
        None => file.path.trim_end_matches(".rs").to_owned(),
    };
    module
        .captures_iter(&file.code)
        .flat_map(|found| [format!("{below}/{}.rs", &found[1]), format!("{below}/{}/mod.rs", &found[1])])
        .collect()
}

/// `text` with the bytes of `range` replaced by spaces; line ends stay.
fn blank(text: &str, range: Range<usize>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for byte in &mut bytes[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
    String::from_utf8(bytes).expect("whole characters were replaced")
}

/// Code and comments, each with the other blanked; what literals hold is blanked in both.
fn split(text: &str) -> (String, String) {
    let token = Regex::new(concat!(
        r"(?s)(?P<line>//[^\n]*)",
        r"|(?P<block>/\*)",
        r##"|(?P<raw>\b(?:b|c)?r(?P<hashes>#*)")"##,
        r#"|(?P<text>"(?:[^"\\]|\\.)*")"#,
        r"|(?P<char>'(?:[^'\\\n]|\\[^u\n]|\\x[0-9a-fA-F]{2}|\\u\{[^}]*\})')",
    ))
    .unwrap();
    let mut code = text.as_bytes().to_vec();
    let mut comments: Vec<u8> = text.bytes().map(|b| if b == b'\n' { b } else { b' ' }).collect();
    let wipe = |bytes: &mut [u8], range: Range<usize>| {
        for byte in &mut bytes[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut from = 0;
    while let Some(found) = token.captures_at(text, from) {
        let whole = found.get(0).unwrap();
        from = whole.end();
        if found.name("line").is_some() || found.name("block").is_some() {
            if found.name("block").is_some() {
                from = block_end(text, whole.start());
            }
            comments[whole.start()..from].copy_from_slice(&text.as_bytes()[whole.start()..from]);
            wipe(&mut code, whole.start()..from);
        } else if let Some(hashes) = found.name("hashes") {
            let close = format!("\"{}", hashes.as_str());
            let end = text[from..].find(&close).map_or(text.len(), |at| from + at);
            wipe(&mut code, from..end);
            from = (end + close.len()).min(text.len());
        } else {
            wipe(&mut code, whole.start() + 1..from - 1);
        }
    }
    (String::from_utf8(code).unwrap(), String::from_utf8(comments).unwrap())
}

/// The end of a block comment, which may hold others.
fn block_end(text: &str, start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// `code` without the items that `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    let mark = Regex::new(r"#!?\[cfg\(test\)\]").unwrap();
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = mark.find_at(code, from) {
        let end = if found.as_str().starts_with("#!") { code.len() } else { item_end(code, found.end()) };
        out = blank(&out, found.start()..end);
        from = end;
    }
    out
}

/// The end of the item that begins at `start`: its closing brace, or its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn strings_and_comments_are_told_from_code() {
    let text = r###"let a = "x // y"; // note "b"
let c = r#"todo!() " "#; let d = '"'; /* one /* two */ three */ let e: &'static str = "\"";"###;
    let source = Source::of("src/a/b.rs", text);
    assert!(!source.code.contains("todo!"), "{}", source.code);
    assert!(!source.code.contains("three"), "{}", source.code);
    assert!(source.code.contains("let e: &'static str = \"  \";"), "{}", source.code);
    assert!(source.comments.contains("// note \"b\""), "{}", source.comments);
    assert!(!source.comments.contains("// y"), "{}", source.comments);
    assert_eq!(source.code.len(), text.len());
}

#[test]
fn what_is_compiled_for_tests_is_not_shipped() {
    let source = Source::of(
        "src/a/b.rs",
        "fn a() {}\n#[cfg(test)]\n#[derive(Debug)]\nmod tests {\n fn b() { x(); }\n}\n#[cfg(test)]\nuse d;\nfn c() {}\n",
    );
    assert_eq!(source.shipped.split_whitespace().collect::<Vec<_>>(), ["fn", "a()", "{}", "fn", "c()", "{}"]);
    assert_eq!(Source::of("tests/x.rs", "fn a() {}").shipped.trim(), "");
    assert_eq!(test_files(&Source::of("src/a/mod.rs", "#[cfg(test)]\nmod t;")), ["src/a/t.rs", "src/a/t/mod.rs"]);
    assert_eq!(test_files(&Source::of("src/a/b.rs", "#[cfg(test)]\nmod t;"))[0], "src/a/b/t.rs");
}

#[test]
fn a_files_depth_is_its_modules() {
    let depth = |path| Source::of(path, "").depth();
    assert_eq!(
        ["src/lib.rs", "src/a/mod.rs", "src/a/b.rs", "src/a/b/mod.rs", "src/a/b/c.rs"].map(depth),
        [0, 1, 2, 2, 3]
    );
}
