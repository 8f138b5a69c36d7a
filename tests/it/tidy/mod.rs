//! The house rules that a machine can read. Each rule has a test over the tree and one that shows it can fail.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use self::source::{Source, everything, library, root};
use regex::Regex;

/// Which rooms a room may import, from the top down; every other import is refused. This table is the one place: the
/// picture in `ARCHITECTURE.md` follows it.
const EDGES: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "net", "gateway", "agent", "tools", "intake", "sessions", "ui", "defender", "store", "config", "protocol",
            "runtime",
        ],
    ),
    // The shell holds the owner of every command, which outlives any run.
    ("net", &["gateway", "agent", "tools", "defender", "store", "config", "protocol", "runtime"]),
    ("gateway", &["agent", "tools", "intake", "sessions", "ui", "defender", "store", "config", "protocol", "runtime"]),
    // A run is a function of its session's transcript.
    ("agent", &["tools", "sessions", "defender", "store", "config", "protocol", "runtime"]),
    // A tool does what it is told; whoever calls it has judged the call.
    ("tools", &["defender", "store", "config", "protocol", "runtime"]),
    // Accepting a message writes it into its session's transcript in the same transaction.
    ("intake", &["sessions", "defender", "store", "config", "protocol", "runtime"]),
    ("sessions", &["defender", "store", "config", "protocol", "runtime"]),
    ("ui", &["config", "protocol", "runtime"]),
    ("defender", &["store", "config", "protocol", "runtime"]),
    ("store", &["protocol", "runtime"]),
    ("config", &["protocol", "runtime"]),
    ("protocol", &[]),
    ("runtime", &[]),
];

/// Packages that only some rooms may name, because an invariant of the map says so.
const PACKAGES: &[(&str, &[&str])] = &[
    ("mio", &["net"]),
    ("httparse", &["net"]),
    ("tiny_http", &["net"]),
    ("signal_hook", &["net"]),
    ("tungstenite", &["net", "cli"]),
    ("ureq", &["runtime", "agent"]),
    ("rusqlite", &["store"]),
    ("toml_edit", &["config"]),
    ("lexopt", &["cli"]),
    ("getrandom", &["runtime"]),
];

/// Rooms without IO: what they need from files, sockets and the clock comes in as a value.
const WITHOUT_IO: &[&str] = &["protocol", "gateway", "intake", "sessions"];

/// Files of rooms without IO that may read files all the same, and where that runs.
const IO_ALLOWED: &[(&str, &str)] = &[
    ("src/gateway/methods/health.rs", "logs.tail reads the end of the log on a query worker"),
    ("src/gateway/methods/doctor.rs", "a workspace's diary is read on a query worker and cleaned on the store thread"),
];

/// Rooms that are told the time.
const WITHOUT_CLOCK: &[&str] = &["protocol", "config", "store", "defender", "intake", "sessions", "ui", "gateway"];

/// Files of such rooms that read a clock all the same, and why.
const CLOCK_ALLOWED: &[(&str, &str)] = &[
    ("src/store/writer.rs", "the writer measures how long a group has been open, and how long stopping takes"),
    ("src/gateway/inbound.rs", "the defender's deadline is measured on its worker, in the job"),
    ("src/gateway/runs/notices.rs", "the defender's deadline is measured on its worker, in the job"),
];

/// Most lines of a file, its tests included.
const FILE_LINES_MAX: usize = 1500;

/// Fewer files than this cannot be the whole library: a rule that looked at them would have looked past something.
const LIBRARY_FILES_MIN: usize = 50;

/// Packages that run async code.
const ASYNC_RUNTIMES: &[&str] = &[
    "tokio",
    "async-std",
    "async-io",
    "async-executor",
    "async-global-executor",
    "smol",
    "futures-executor",
    "glommio",
    "monoio",
    "compio",
    "embassy-executor",
    "actix-rt",
];

/// What a rule finds wrong with a file: `path:line: what`.
type Rule = fn(&Source) -> Vec<String>;

/// Holds every file to a rule.
#[track_caller]
fn hold(files: &[Source], rule: Rule) {
    assert!(files.len() > LIBRARY_FILES_MIN, "only {} files were looked at", files.len());
    let found: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

/// Shows that a rule finds what is wrong with one text and nothing wrong with another.
#[track_caller]
fn tells(rule: Rule, path: &str, bad: &str, good: &str) {
    assert_eq!(rule(&Source::of(path, bad)).len(), 1, "not found once: {bad}");
    assert_eq!(rule(&Source::of(path, good)), Vec::<String>::new(), "wrongly found: {good}");
}

fn find_all(source: &Source, text: &str, pattern: &str, what: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.find_iter(text).map(|found| format!("{}: {what}: {}", source.at(found.start()), found.as_str())).collect()
}

fn is_allowed(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(allowed, _)| *allowed == path)
}

// Imports.

/// Every room that a file names, by `crate::` or by climbing with `super::`, and where.
fn rooms_named(source: &Source) -> Vec<(usize, String)> {
    let word = Regex::new(r"\bcrate::(?:(\w+)|\{)|\bmod\s+\w+\s*\{|[{}]|\b((?:super::)+)(\w+|\{|\*)").unwrap();
    let code = &source.code;
    let mut named = Vec::new();
    let (mut braces, mut modules) = (0_usize, Vec::new());
    for found in word.captures_iter(code) {
        let whole = found.get(0).unwrap();
        if let Some(supers) = found.get(2) {
            if supers.as_str().matches("super").count() >= source.depth() + modules.len() {
                named.push((whole.start(), found[3].to_owned()));
            }
        } else if let Some(room) = found.get(1) {
            named.push((whole.start(), room.as_str().to_owned()));
        } else if whole.as_str().ends_with("::{") {
            named.extend(heads(code, whole.end()).map(|head| (whole.start(), head)));
            // Its braces are counted too.
            braces += 1;
        } else if whole.as_str() == "}" {
            braces = braces.saturating_sub(1);
            modules.retain(|opened| *opened < braces + 1);
        } else {
            braces += 1;
            if whole.as_str() != "{" {
                modules.push(braces);
            }
        }
    }
    named
}

/// The first word of each item in the braces that were opened just before `start`.
fn heads(code: &str, start: usize) -> impl Iterator<Item = String> {
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in code[start..].chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    items.into_iter().filter_map(|item| {
        let head: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        (!head.is_empty()).then_some(head)
    })
}

/// Macros live at the crate's root whatever room wrote them: the room each belongs to.
fn macro_rooms() -> &'static BTreeMap<String, String> {
    static ROOMS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    ROOMS.get_or_init(|| {
        let exported = Regex::new(r"#\[macro_export\]\s*(?:#\[[^\]]*\]\s*)*macro_rules!\s*(\w+)").unwrap();
        let of_file = |source: &Source| {
            let room = source.room().unwrap_or("").to_owned();
            exported.captures_iter(&source.code).map(|found| (found[1].to_owned(), room.clone())).collect::<Vec<_>>()
        };
        library().iter().flat_map(of_file).collect()
    })
}

fn imports(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else {
        let doors =
            find_all(source, &source.shipped, r"\bopenclaw_rs::(?:[^c]|c[^l]|cl[^i])\w*", "main starts `cli` only");
        return if source.path == "src/main.rs" { doors } else { Vec::new() };
    };
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: room {room} has no row in EDGES", source.path)];
    };
    rooms_named(source)
        .into_iter()
        .filter_map(|(at, named)| {
            let target = macro_rooms().get(&named).cloned().unwrap_or(named);
            let is_fine = target == room || allowed.contains(&target.as_str());
            (!is_fine).then(|| format!("{}: {room} imports {target}", source.at(at)))
        })
        .collect()
}

#[test]
fn imports_point_down() {
    hold(library(), imports);
}

#[test]
fn the_table_of_edges_has_no_way_up_and_names_every_room() {
    let rooms: Vec<&str> = EDGES.iter().map(|(room, _)| *room).collect();
    for (idx, (room, allowed)) in EDGES.iter().enumerate() {
        for target in *allowed {
            assert!(rooms[idx + 1..].contains(target), "{room} may import {target}, which is not below it");
        }
    }
    let found: BTreeSet<&str> = library().iter().filter_map(Source::room).collect();
    assert_eq!(found, rooms.into_iter().collect::<BTreeSet<_>>(), "rooms in src and rows of the table");
}

#[test]
fn an_import_upward_is_found_however_it_is_written() {
    for bad in [
        "use crate::gateway::Gateway;",
        "fn f() -> crate::net::Shell {}",
        "use crate::{protocol, cli::term};",
        "use crate::{\n    runtime::{clock, random},\n    ui,\n};",
        "use super::super::net::Shell;",
        "mod inner {\n    use super::super::super::gateway::Gateway;\n}",
        "mod inner {}\nuse super::super::cli;",
        "crate::methods! {}",
    ] {
        tells(imports, "src/store/writer.rs", bad, "use super::db::Db; // crate::net\nuse crate::runtime;");
    }
    tells(imports, "src/main.rs", "openclaw_rs::net::run()", "openclaw_rs::cli::main()");
    assert_eq!(imports(&Source::of("src/attic/mod.rs", "")), ["src/attic/mod.rs: room attic has no row in EDGES"]);
}

// Settings.

/// Settings that nothing but the configuration itself reads, and why.
const SETTINGS_ALLOWED: &[(&str, &str)] =
    &[("allow_public_bind_without_auth", "it lifts a rule across keys, which src/config/rules.rs holds")];

/// The public fields of the types in `src/config/settings/` that no shipped line outside of `src/config/` reads.
///
/// Only files that speak of settings count as readers, so a field called like another type's is not taken for read
/// just anywhere.
fn unread_settings(files: &[Source]) -> Vec<String> {
    let field = Regex::new(r"(?m)^    pub (\w+):").unwrap();
    let speaks = Regex::new(r"\bsettings\b").unwrap();
    let is_settings = |file: &&Source| file.path.starts_with("src/config/settings/");
    let readers: Vec<&str> = files
        .iter()
        .filter(|file| !file.path.starts_with("src/config/") && speaks.is_match(&file.shipped))
        .map(|file| file.shipped.as_str())
        .collect();
    let is_read = |name: &str| {
        let read = Regex::new(&format!(r"\.\s*{name}\b[^(\w]")).unwrap();
        readers.iter().any(|code| read.is_match(code))
    };
    let mut unread = Vec::new();
    for file in files.iter().filter(is_settings) {
        for found in field.captures_iter(&file.shipped) {
            let place = found.get(1).unwrap();
            if !is_read(place.as_str()) {
                unread.push(format!("{}: {}", file.at(place.start()), place.as_str()));
            }
        }
    }
    unread
}

#[test]
fn every_typed_setting_is_read_outside_of_the_configuration() {
    let settings = library().iter().filter(|file| file.path.starts_with("src/config/settings/")).count();
    assert!(settings > 6, "only {settings} files of settings were looked at");
    let unread = unread_settings(library());
    let is_excused = |found: &String| SETTINGS_ALLOWED.iter().any(|(name, _)| found.ends_with(&format!(": {name}")));
    let bad: Vec<&String> = unread.iter().filter(|found| !is_excused(found)).collect();
    assert!(bad.is_empty(), "nobody reads {bad:#?}");
    for (name, _) in SETTINGS_ALLOWED {
        let is_needed = unread.iter().any(|found| found.ends_with(&format!(": {name}")));
        assert!(is_needed, "{name} is read: take it off the list");
    }
}

#[test]
fn a_setting_that_nobody_reads_is_found() {
    let settings = "pub struct A {\n    pub used: u8,\n    pub idle: u8,\n    pub tested: u8,\n    own: u8,\n}\n";
    let files = [
        Source::of("src/config/settings/a.rs", settings),
        Source::of("src/config/rules.rs", "fn f(settings: &A) -> u8 { settings.idle }"),
        Source::of(
            "src/net/a.rs",
            "fn f(settings: &A) -> u8 { settings.used }\n#[cfg(test)]\nfn g(settings: &A) -> u8 { settings.tested }",
        ),
        Source::of("src/net/b.rs", "fn f(other: &B) -> u8 { other.idle }"),
        Source::of("src/net/c.rs", "fn f(settings: &A, other: &B) { settings.g(); other.idle(); }"),
    ];
    assert_eq!(unread_settings(&files), ["src/config/settings/a.rs:3: idle", "src/config/settings/a.rs:4: tested"]);
}

// Packages, IO and clocks.

fn packages(source: &Source) -> Vec<String> {
    let room = source.room().unwrap_or("");
    let is_forbidden = |rooms: &&(&str, &[&str])| !rooms.1.contains(&room);
    PACKAGES
        .iter()
        .filter(is_forbidden)
        .flat_map(|(package, rooms)| {
            let pattern = format!(r"\b{package}::|\buse {package}\b");
            find_all(source, &source.shipped, &pattern, &format!("only {} may", rooms.join(", ")))
        })
        .collect()
}

#[test]
fn packages_stay_in_their_rooms() {
    hold(library(), packages);
}

#[test]
fn a_package_in_the_wrong_room_is_found() {
    let tests = "use super::mio;\n#[cfg(test)]\nmod tests { use rusqlite::Connection; }";
    tells(packages, "src/gateway/mod.rs", "fn f(s: mio::net::TcpStream) {}", tests);
    tells(packages, "src/cli/doctor/state.rs", "use rusqlite::Connection;", "use tungstenite::Message;");
}

fn io(source: &Source) -> Vec<String> {
    if source.room().is_none_or(|room| !WITHOUT_IO.contains(&room)) || is_allowed(IO_ALLOWED, &source.path) {
        return Vec::new();
    }
    let doors = r"\bstd::fs\b|\bFile::\w+|\bTcp(?:Stream|Listener)\b|\bUdpSocket\b|\bUnix(?:Stream|Datagram)\b|\bprocess::Command\b|\bthread::sleep\b";
    find_all(source, &source.shipped, doors, "no IO in this room")
}

#[test]
fn the_core_does_no_io() {
    hold(library(), io);
}

#[test]
fn io_in_the_core_is_found() {
    tells(io, "src/gateway/hello.rs", "use std::fs;", "use std::net::IpAddr; // std::fs");
    tells(io, "src/protocol/frame.rs", "let f = File::open(path);", "struct FileRow;");
}

fn clocks(source: &Source) -> Vec<String> {
    if source.room().is_none_or(|room| !WITHOUT_CLOCK.contains(&room)) || is_allowed(CLOCK_ALLOWED, &source.path) {
        return Vec::new();
    }
    let reads = r"\b(?:SystemTime|Instant|Now|Zoned|Timestamp)::(?:now|read)\b|\bclock::wall_ms\b|\.elapsed\(\)";
    find_all(source, &source.shipped, reads, "the time comes in")
}

#[test]
fn nothing_below_the_loop_reads_a_clock() {
    hold(library(), clocks);
    let everywhere = |source: &Source| {
        if source.path == "src/runtime/clock.rs" {
            return Vec::new();
        }
        find_all(source, &source.shipped, r"\bSystemTime::now\b", "the wall clock is read in runtime::clock")
    };
    hold(library(), everywhere);
}

#[test]
fn a_clock_below_the_loop_is_found() {
    tells(clocks, "src/gateway/mod.rs", "let now = Instant::now();", "fn f(now: Instant) {}");
    tells(clocks, "src/intake/mod.rs", "Now::read()", "now.mono");
}

#[test]
fn every_exemption_is_still_needed() {
    for (path, _) in IO_ALLOWED.iter().chain(CLOCK_ALLOWED) {
        let source = library().iter().find(|source| source.path == *path);
        let source = source.unwrap_or_else(|| panic!("{path} is exempt and not there"));
        let moved = Source { path: "src/gateway/x.rs".to_owned(), code: source.code.clone(), ..Source::of("", "") };
        let moved = Source { shipped: source.shipped.clone(), ..moved };
        assert!(!io(&moved).is_empty() || !clocks(&moved).is_empty(), "{path} is exempt and does not need it");
    }
}

// Calls of tools.

/// The one file that lets a tool be called: there a call is decided about, by the policy and by the defender.
const DECIDES: &str = "src/agent/calls.rs";

/// Whoever calls a tool must be let by a policy ([`Policy::admit`], the type says so), and that happens in one place.
/// What was read of a call runs there too, once it was judged.
fn tool_calls(source: &Source) -> Vec<String> {
    if source.path == DECIDES || source.room() == Some("tools") {
        return Vec::new();
    }
    let doors = r"\.\s*let_call\s*\(|\bMayCall\b|\bdyn Prepared\b|\btools::(?:\{[^}]*)?\bPrepared\b";
    find_all(source, &source.shipped, doors, "tools are called in agent::calls")
}

#[test]
fn tools_are_called_in_one_place() {
    hold(library(), tool_calls);
    let decides = library().iter().find(|source| source.path == DECIDES).expect("it is there");
    assert_eq!(decides.shipped.matches(".let_call(").count(), 1, "and there by one function");
    assert_eq!(decides.shipped.matches("prepared.run(").count(), 1, "which runs what it was given");
    let tools = library().iter().find(|source| source.path == "src/tools/mod.rs").expect("it is there");
    assert!(
        tools.shipped.contains("    fn prepare(") && !tools.shipped.contains("pub fn prepare("),
        "and no other way in"
    );
}

#[test]
fn a_tool_called_elsewhere_is_found() {
    tells(tool_calls, "src/gateway/x.rs", "policy.let_call(tool)?;", "policy.allows(name)");
    tells(
        tool_calls,
        "src/agent/turn.rs",
        "use crate::tools::{self, Prepared};",
        "struct Prepared; use crate::tools::Effect;",
    );
}

// Threads, panics, attributes, comments.

fn threads(source: &Source) -> Vec<String> {
    if source.path == "src/runtime/threads.rs" {
        return Vec::new();
    }
    let starts = r"\bthread::(?:spawn|scope|Builder)\b|\bthread::\{[^}]*\b(?:spawn|scope|Builder)\b|\brayon::";
    find_all(source, &source.shipped, starts, "threads start in runtime::threads")
}

#[test]
fn threads_start_in_one_place() {
    hold(library(), threads);
}

#[test]
fn a_thread_started_elsewhere_is_found() {
    tells(threads, "src/net/x.rs", "std::thread::spawn(|| {});", "threads::spawn(\"loop\", 1, f)");
    tells(threads, "src/net/x.rs", "use std::thread::{Builder, JoinHandle};", "use std::thread::JoinHandle;");
}

fn hollow(source: &Source) -> Vec<String> {
    let mut found = find_all(source, &source.code, r"\b(?:todo|unimplemented|dbg)!", "not finished");
    found.extend(find_all(source, &source.comments, r"\b(?:TODO|FIXME|HACK|XXX)\b", "not finished"));
    found
}

#[test]
fn nothing_is_left_to_do() {
    hold(everything(), hollow);
}

#[test]
fn what_is_left_to_do_is_found() {
    tells(hollow, "src/a/b.rs", "fn f() { todo!() }", "fn f() { \"todo!()\"; }");
    tells(hollow, "tests/b.rs", "// TODO later", "let text = \"TODO\";");
}

fn unwraps(source: &Source) -> Vec<String> {
    find_all(
        source,
        &source.shipped,
        r"\.unwrap\(\)|\.expect\(\s*\)|\.unwrap_unchecked\(\)",
        "say why it holds, with expect",
    )
}

#[test]
fn every_unwrap_says_why_it_holds() {
    hold(library(), unwraps);
}

#[test]
fn an_unwrap_is_found() {
    tells(unwraps, "src/a/b.rs", "x.unwrap();", "x.expect(\"it was just set\"); y.unwrap_or(1);");
}

fn attributes(source: &Source) -> Vec<String> {
    let exemption = Regex::new(r"#!?\[(?:allow|expect)\([^\]]*\)\]").unwrap();
    let without_reason = exemption.find_iter(&source.code).filter(|found| !found.as_str().contains("reason ="));
    without_reason.map(|found| format!("{}: no reason: {}", source.at(found.start()), found.as_str())).collect()
}

#[test]
fn every_exemption_from_a_lint_gives_its_reason() {
    hold(everything(), attributes);
}

#[test]
fn an_exemption_without_a_reason_is_found() {
    tells(attributes, "src/a/b.rs", "#[allow(dead_code)]", "#[expect(dead_code, reason = \"it is a test's\")]");
    tells(attributes, "src/a/b.rs", "#![allow(\n    clippy::all,\n)]", "#[allow(x, reason = \"y\")]");
}

fn unsafety(source: &Source) -> Vec<String> {
    let block = Regex::new(r"\bunsafe\s*(?:\{|impl\b)").unwrap();
    let comments: Vec<&str> = source.comments.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    let is_explained = |line: usize| {
        // The comment stands above the statement, which may have begun some lines earlier, or beside it.
        let above = (0..line).rev().take(4).take_while(|n| {
            let text = code[*n].trim();
            !text.ends_with(';') && !text.ends_with('}') || !comments[*n].trim().is_empty()
        });
        let mut looked_at: Vec<usize> = above.chain([line]).collect();
        let top = looked_at.iter().copied().min().unwrap_or(line);
        looked_at.extend((0..top).rev().take_while(|n| !comments[*n].trim().is_empty() && code[*n].trim().is_empty()));
        looked_at.iter().any(|n| comments[*n].contains("SAFETY:"))
    };
    block
        .find_iter(&source.code)
        .filter(|found| !is_explained(source.code[..found.start()].matches('\n').count()))
        .map(|found| format!("{}: unsafe without a SAFETY: comment", source.at(found.start())))
        .collect()
}

#[test]
fn every_unsafe_block_says_what_it_upholds() {
    hold(everything(), unsafety);
    let n_blocks: usize = library().iter().map(|source| source.shipped.matches("unsafe {").count()).sum();
    assert!(n_blocks > 0, "none was looked at");
}

#[test]
fn an_unexplained_unsafe_block_is_found() {
    let explained = "// SAFETY: it is open\n// for as long.\nlet a = unsafe { f() };\nlet b = 1;";
    tells(unsafety, "src/a/b.rs", "let a = 1;\nlet b = unsafe { f() };", explained);
    tells(unsafety, "src/a/b.rs", "// SAFETY: x\nlet a = unsafe { f() };\nlet b = unsafe { g() };", explained);
}

fn length(source: &Source) -> Vec<String> {
    let n = source.n_lines();
    if n > FILE_LINES_MAX { vec![format!("{}: {n} lines, at most {FILE_LINES_MAX}", source.path)] } else { Vec::new() }
}

#[test]
fn no_file_is_the_program() {
    hold(everything(), length);
}

#[test]
fn a_file_over_its_length_is_found() {
    tells(length, "src/a/b.rs", &"\n".repeat(FILE_LINES_MAX + 1), &"\n".repeat(FILE_LINES_MAX));
}

// Dependencies.

/// Dependencies of a manifest that no comment stands above: each, or the group it stands in, says what it is for.
fn unexplained(manifest: &str) -> Vec<String> {
    let (mut in_dependencies, mut explained) = (false, false);
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_dependencies = line.trim_matches(['[', ']']).ends_with("dependencies");
            explained = false;
        } else if line.is_empty() {
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if in_dependencies && !explained && line.contains('=') {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn every_dependency_says_what_it_is_for() {
    for manifest in ["Cargo.toml", "scripts/bench/harness/Cargo.toml", "fuzz/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        assert!(text.contains("[dependencies]"), "{manifest}");
        assert_eq!(unexplained(&text), Vec::<String>::new(), "{manifest}");
    }
}

#[test]
fn an_unexplained_dependency_is_found() {
    let bad = "[dependencies]\n# For x.\na = \"1\"\n\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n[profile.dev]\nd = 1\n";
    assert_eq!(unexplained(bad), ["b = \"1\"", "c = \"1\""]);
}

/// Packages of a lock file.
fn locked(lock: &str) -> Vec<&str> {
    lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect()
}

#[test]
fn no_async_runtime_is_drawn_in() {
    for lock in ["Cargo.lock", "scripts/bench/harness/Cargo.lock", "fuzz/Cargo.lock"] {
        let text = fs::read_to_string(root().join(lock)).unwrap();
        let packages = locked(&text);
        assert!(packages.len() > 20, "{lock}: {} packages were looked at", packages.len());
        let found: Vec<_> = packages.iter().filter(|name| ASYNC_RUNTIMES.contains(name)).collect();
        assert!(found.is_empty(), "{lock} has {found:?}");
    }
}

#[test]
fn an_async_runtime_is_found() {
    let packages = locked("[[package]]\nname = \"tokio\"\nversion = \"1.0.0\"\n");
    assert!(ASYNC_RUNTIMES.contains(&packages[0]));
}

// The manual.

/// Links of a Markdown text to files, without what follows `#`.
fn links(text: &str) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)").unwrap();
    let prose = Regex::new(r"(?ms)^```.*?^```|`[^`\n]*`").unwrap().replace_all(text, "");
    let all = link.captures_iter(&prose).map(|found| found[1].to_owned());
    all.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// Every Markdown page: beside the sources, and in `docs/`.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for dir in ["", "docs"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(Path::new(dir).join(name).to_string_lossy().into_owned());
            }
        }
    }
    pages.sort();
    pages
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut n_links = 0;
    for page in pages().iter().filter(|page| *page != "ARCHITECTURE.md") {
        let dir = Path::new(page).parent().unwrap();
        for target in links(&fs::read_to_string(root().join(page)).unwrap()) {
            assert!(root().join(dir).join(&target).exists(), "{page} links to {target}, which is not there");
            n_links += 1;
        }
    }
    assert!(n_links > 5, "{n_links} links were looked at");
}

#[test]
fn the_readme_leads_to_every_page_of_the_manual() {
    let readme = links(&fs::read_to_string(root().join("README.md")).unwrap());
    for page in pages().iter().filter(|page| page.starts_with("docs/")) {
        assert!(readme.contains(page), "{page} is not in the table of README.md");
    }
}

#[test]
fn links_are_told_from_other_text() {
    let text = "[a](docs/a.md#part) `[b](b.md)` [c](https://c.example/) ![d](d.png)\n```\n[e](e.md)\n```\n";
    assert_eq!(links(text), ["docs/a.md", "d.png"]);
}

/// Names such as `net::serve::STRANGER_BYTES_MAX` that stand in the map without a link, because rustdoc links nothing
/// private: those that are not in their file.
fn names_of_nothing(map: &str, files: &[Source]) -> Vec<String> {
    let name = Regex::new(r"[^\[]`((?:\w+::)+)(\w+)`").unwrap();
    let is_there = |path: &str, item: &str| {
        let file = format!("src/{}", path.trim_end_matches("::").replace("::", "/"));
        let below = [format!("{file}/{item}.rs"), format!("{file}/{item}/mod.rs")];
        let item = Regex::new(&format!(r"\b{item}\b")).unwrap();
        files.iter().any(|source| {
            below.contains(&source.path)
                || [format!("{file}.rs"), format!("{file}/mod.rs")].contains(&source.path)
                    && item.is_match(&source.code)
        })
    };
    let of_ours = |room: &str| EDGES.iter().any(|(name, _)| room.starts_with(&format!("{name}::")));
    let unlinked = name.captures_iter(map).filter(|found| of_ours(&found[1]));
    // A method is looked for where its type is.
    let parts = |path: &str| path.trim_end_matches(|c: char| c != ':').to_owned();
    unlinked
        .filter(|found| {
            let ty = found[1].trim_end_matches("::").rsplit("::").next().unwrap_or_default().to_owned();
            let is_method = ty.starts_with(char::is_uppercase);
            let home = if is_method { parts(found[1].trim_end_matches("::")) } else { found[1].to_owned() };
            !is_there(&home, &found[2])
        })
        .map(|found| format!("{}{}", &found[1], &found[2]))
        .collect()
}

#[test]
fn the_map_names_what_exists_also_where_it_cannot_link() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert_eq!(names_of_nothing(&map, library()), Vec::<String>::new());
}

#[test]
fn a_name_of_nothing_is_found() {
    let files = [Source::of("src/net/serve.rs", "const A: u8 = 1;"), Source::of("src/net/mod.rs", "fn wait() {}")];
    let map =
        " `net::serve::A` `net::serve::B` `net::serve` `net::attic` `net::Server::wait` `std::fs::File` [`net::x::Y`]";
    assert_eq!(names_of_nothing(map, &files), ["net::serve::B", "net::attic"]);
}

#[test]
fn the_readme_has_two_setup_commands_and_no_more() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let cargo: Vec<&str> = readme.lines().map(str::trim).filter(|line| line.starts_with("cargo ")).collect();
    assert_eq!(cargo, ["cargo run --release -- gateway run", "cargo test"]);
}

/// Pages written from tables, and what writes them.
type Written = (&'static str, fn() -> String);
const WRITTEN: &[Written] = &[
    ("docs/cli-reference.md", openclaw_rs::cli::reference::page),
    ("docs/config-reference.md", openclaw_rs::config::schema::reference::page),
    ("docs/methods.md", openclaw_rs::gateway::reference::methods_page),
    ("docs/metrics.md", openclaw_rs::gateway::reference::metrics_page),
];

/// Whether a page says what its table says.
fn is_fresh(path: &Path, page: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|stored| stored == page)
}

#[test]
fn every_reference_page_says_what_its_table_says() {
    for (path, page) in WRITTEN {
        let (path, page) = (root().join(path), page());
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let name = path.display();
        assert!(is_fresh(&path, &page), "{name} is stale; UPDATE_FIXTURES=1 cargo test reference_page rewrites it");
    }
}

#[test]
fn a_stale_page_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.md");
    assert!(!is_fresh(&path, "a"), "a missing page");
    fs::write(&path, "a").unwrap();
    assert!(!is_fresh(&path, "b"), "another page");
    assert!(is_fresh(&path, "a"));
}
