//! `doctor.memory.*`: the dream diary in an agent's workspace, and what is left of dreaming there.
//!
//! Dreaming itself (recall, condensing notes) is not built: nothing here adds to a diary. What another gateway left in a
//! workspace can be read, cleaned and set aside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value};

use crate::config::files;
use crate::gateway::diary::{self, Kept};
use crate::gateway::table::{QueryCx, StoreCx, need};
use crate::gateway::{Fact, Snapshot};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::runtime::{clock, random};
use crate::store::StoreError;

crate::methods! {
    "doctor.memory.status",                 V4, need::ADMIN, need::READ,  Query status;
    "doctor.memory.dreamDiary",             V4, need::ADMIN, need::READ,  Query dream_diary;
    "doctor.memory.backfillDreamDiary",     V4, need::ADMIN, need::WRITE, Query backfill;
    "doctor.memory.resetDreamDiary",        V4, need::ADMIN, need::WRITE, Store reset;
    "doctor.memory.resetGroundedShortTerm", V4, need::ADMIN, need::WRITE, Query reset_short_term;
    "doctor.memory.repairDreamingArtifacts", V4, need::ADMIN, need::WRITE, Store repair;
    "doctor.memory.dedupeDreamDiary",       V4, need::ADMIN, need::WRITE, Store dedupe;
}

/// What earlier versions of dreaming left behind, below a workspace; a repair sets them aside.
const CORPUS: &str = "memory/.dreams/session-corpus";
const INGESTION: &str = "memory/.dreams/session-ingestion.json";
/// Where it sets them.
const ARCHIVE: &str = ".openclaw-repair/dreaming";

/// An agent and where it works.
struct Target {
    agent_id: String,
    workspace: PathBuf,
}

/// The agent that `agentId` names, else the default one.
fn target(snapshot: &Snapshot, params: &Map<String, Value>) -> Result<Target, RpcError> {
    let agents = &snapshot.config.settings.agents;
    let asked = match params.get("agentId") {
        None => agents.default_id.clone(),
        Some(id) => id.as_str().ok_or_else(|| RpcError::invalid("agentId must be a string"))?.trim().to_lowercase(),
    };
    let agent = agents.get(&asked).ok_or_else(|| RpcError::invalid(format!("unknown agent id \"{asked}\"")))?;
    Ok(Target { agent_id: agent.id.clone(), workspace: agent.workspace.clone() })
}

fn unreadable(error: impl std::fmt::Display) -> RpcError {
    RpcError::unavailable(format!("the dream diary cannot be read: {error}"))
}

/// A diary on disk.
struct Diary {
    name: &'static str,
    text: String,
    updated_at_ms: u64,
}

/// The diary of a workspace. A link is none: it could lead out of the workspace.
fn read_diary(workspace: &Path) -> Result<Option<Diary>, RpcError> {
    for name in diary::FILE_NAMES {
        let path = workspace.join(name);
        let about = match fs::symlink_metadata(&path) {
            Ok(about) if about.is_file() => about,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        let Some(text) = files::read(&path).map_err(unreadable)? else { continue };
        let changed = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        return Ok(Some(Diary { name, text, updated_at_ms: changed.map_or(0, |since| since.as_millis() as u64) }));
    }
    Ok(None)
}

fn name_of(diary: Option<&Diary>) -> &'static str {
    diary.map_or(diary::FILE_NAMES[0], |diary| diary.name)
}

/// There is no memory to ask, as upstream says it of a gateway without one.
fn status(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let target = target(&cx.snapshot, &params.0)?;
    Ok(json!({
        "agentId": target.agent_id,
        "searchRuntimeRegistered": false,
        "embedding": { "ok": false, "checked": false, "error": "memory search is not built in openclaw-rs yet" },
    }))
}

fn dream_diary(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let target = target(&cx.snapshot, &params.0)?;
    let diary = read_diary(&target.workspace)?;
    let mut out = json!({ "agentId": target.agent_id, "found": diary.is_some(), "path": name_of(diary.as_ref()) });
    if let Some(diary) = diary {
        out["content"] = json!(diary.text);
        out["updatedAtMs"] = json!(diary.updated_at_ms);
    }
    Ok(out)
}

/// Condensing notes takes a memory; without notes there is nothing to condense, and that can be said.
fn backfill(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let target = target(&cx.snapshot, &params.0)?;
    if has_daily_notes(&target.workspace.join("memory")).map_err(unreadable)? {
        return Err(RpcError::unavailable("this build of openclaw-rs cannot write a diary from notes yet"));
    }
    let diary = read_diary(&target.workspace)?;
    Ok(json!({
        "agentId": target.agent_id,
        "action": "backfill",
        "path": name_of(diary.as_ref()),
        "found": diary.is_some(),
        "scannedFiles": 0,
        "written": 0,
        "replaced": 0,
    }))
}

/// Whether a directory holds a note of a day, `2026-05-01.md` or `2026-05-01-more.md`.
fn has_daily_notes(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if is_daily_note(&entry?.file_name().to_string_lossy()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_daily_note(name: &str) -> bool {
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let Some((day, rest)) = stem.split_at_checked(10) else { return false };
    let is_day = day.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    kind.eq_ignore_ascii_case("md") && is_day && (rest.is_empty() || rest.len() > 1 && rest.starts_with('-'))
}

/// Has `clean` take blocks out of the diary, and writes what stayed when something went.
fn clean(workspace: &Path, clean: fn(&str) -> Kept) -> Result<(Option<Diary>, Kept), RpcError> {
    let Some(diary) = read_diary(workspace)? else {
        return Ok((None, Kept { text: String::new(), n_removed: 0, n_kept: 0 }));
    };
    let kept = clean(&diary.text);
    if kept.n_removed > 0 {
        let path = workspace.join(diary.name);
        let written = fs::metadata(&path).map_err(|error| error.to_string()).and_then(|about| {
            files::put(&path, &kept.text).map_err(|error| error.to_string())?;
            fs::set_permissions(&path, about.permissions()).map_err(|error| error.to_string())
        });
        written.map_err(|why| RpcError::unavailable(format!("the dream diary cannot be written: {why}")))?;
    }
    Ok((Some(diary), kept))
}

fn reset(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let target = target(&cx.snapshot, &params.0)?;
    let (diary, kept) = clean(&target.workspace, diary::without_backfilled)?;
    let answer = json!({
        "agentId": target.agent_id,
        "action": "reset",
        "path": name_of(diary.as_ref()),
        "found": diary.is_some(),
        "removedEntries": kept.n_removed,
    });
    Ok((answer, Vec::new()))
}

fn dedupe(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let target = target(&cx.snapshot, &params.0)?;
    let (diary, kept) = clean(&target.workspace, diary::without_doubles)?;
    let answer = json!({
        "agentId": target.agent_id,
        "action": "dedupeDreamDiary",
        "path": name_of(diary.as_ref()),
        "found": diary.is_some(),
        "removedEntries": kept.n_removed,
        "dedupedEntries": kept.n_removed,
        "keptEntries": kept.n_kept,
    });
    Ok((answer, Vec::new()))
}

/// Nothing is recalled in this build, so nothing waits in a short-term store: none is removed.
fn reset_short_term(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let target = target(&cx.snapshot, &params.0)?;
    Ok(json!({ "agentId": target.agent_id, "action": "resetGroundedShortTerm", "removedShortTermEntries": 0 }))
}

fn repair(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let target = target(&cx.snapshot, &params.0)?;
    let stamp = clock::iso(cx.call.now_ms).replace([':', '.'], "-");
    let archive = target.workspace.join(ARCHIVE).join(stamp);
    let mut warnings = Vec::new();
    let mut set_aside = |what: &str| match move_into(&archive, &target.workspace.join(what)) {
        Ok(moved) => moved,
        Err(error) => {
            warnings.push(format!("{what} was left where it is: {error}"));
            false
        }
    };
    let (corpus, ingestion) = (set_aside(CORPUS), set_aside(INGESTION));
    let answer = json!({
        "agentId": target.agent_id,
        "action": "repairDreamingArtifacts",
        "changed": corpus || ingestion,
        "archiveDir": archive,
        // The diary is a person's to read: a repair leaves it alone.
        "archivedDreamsDiary": false,
        "archivedSessionCorpus": corpus,
        "archivedSessionIngestion": ingestion,
        "warnings": warnings,
    });
    Ok((answer, Vec::new()))
}

/// Moves a file or directory into `archive` under a name of its own; whether there was one.
fn move_into(archive: &Path, path: &Path) -> io::Result<bool> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        about => about?,
    };
    if !about.is_file() && !about.is_dir() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    fs::create_dir_all(archive)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    fs::rename(path, archive.join(format!("{name}.{}", random::uuid())))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::V4;

    const DIARY: &str = "<!-- openclaw:dreaming:diary:start -->\n---\n\n*May 1*\n\nrain\n\n---\n\n*May 1*\n\nrain\n\n---\n\n\
                         <!-- openclaw:dreaming:backfill-entry day=2026-05-02 -->\n\nsun\n<!-- openclaw:dreaming:diary:end -->\n";

    fn stage() -> (Stage, PathBuf) {
        let stage = Stage::new(&json!({}));
        let workspace = stage.workspace("main");
        fs::create_dir_all(workspace.join("memory/.dreams")).unwrap();
        (stage, workspace)
    }

    #[test]
    fn a_diary_is_shown_and_what_is_double_or_filled_in_is_taken_out() {
        let (mut stage, workspace) = stage();
        let none = stage.ok(V4, "doctor.memory.dreamDiary", &json!({}));
        assert_eq!(none, json!({ "agentId": "main", "found": false, "path": "DREAMS.md" }));
        let path = workspace.join("dreams.md");
        fs::write(&path, DIARY).unwrap();

        let found = stage.ok(V4, "doctor.memory.dreamDiary", &json!({ "agentId": "main" }));
        assert_eq!((&found["content"], &found["path"]), (&json!(DIARY), &json!("dreams.md")));
        let deduped = stage.ok(V4, "doctor.memory.dedupeDreamDiary", &json!({}));
        assert_eq!((&deduped["removedEntries"], &deduped["keptEntries"]), (&json!(1), &json!(2)));
        let reset = stage.ok(V4, "doctor.memory.resetDreamDiary", &json!({}));
        assert_eq!((&reset["removedEntries"], &reset["found"]), (&json!(1), &json!(true)));
        let left = fs::read_to_string(&path).unwrap();
        assert!(left.contains("rain") && !left.contains("sun"), "{left}");
    }

    #[test]
    fn a_link_is_no_diary() {
        let (mut stage, workspace) = stage();
        let secret = stage.dir().join("secret");
        fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, workspace.join("DREAMS.md")).unwrap();
        assert_eq!(stage.ok(V4, "doctor.memory.dreamDiary", &json!({}))["found"], false);
    }

    #[test]
    fn a_repair_sets_aside_what_dreaming_left_and_nothing_else() {
        let (mut stage, workspace) = stage();
        assert_eq!(stage.ok(V4, "doctor.memory.repairDreamingArtifacts", &json!({}))["changed"], false);
        assert!(!workspace.join(ARCHIVE).exists(), "nothing was set aside");
        fs::create_dir(workspace.join(CORPUS)).unwrap();
        fs::write(workspace.join(INGESTION), "{}").unwrap();
        fs::write(workspace.join("memory/2026-05-01.md"), "note").unwrap();

        let repaired = stage.ok(V4, "doctor.memory.repairDreamingArtifacts", &json!({}));

        assert_eq!(repaired["warnings"], json!([]));
        assert_eq!(
            (&repaired["archivedSessionCorpus"], &repaired["archivedSessionIngestion"]),
            (&json!(true), &json!(true))
        );
        let archived = fs::read_dir(repaired["archiveDir"].as_str().unwrap()).unwrap().count();
        assert_eq!(archived, 2);
        assert!(!workspace.join(CORPUS).exists());
        assert!(workspace.join("memory/2026-05-01.md").exists());
    }

    #[test]
    fn notes_are_not_condensed_and_that_is_said() {
        let (mut stage, workspace) = stage();
        assert_eq!(stage.ok(V4, "doctor.memory.backfillDreamDiary", &json!({}))["scannedFiles"], 0);
        fs::write(workspace.join("memory/2026-05-01-walk.md"), "note").unwrap();
        let why = "this build of openclaw-rs cannot write a diary from notes yet";
        stage.refused(V4, "doctor.memory.backfillDreamDiary", &json!({}), why);
        for (name, is_note) in
            [("2026-05-01.md", true), ("2026-05-01-.md", false), ("2026-5-1.md", false), ("notes.md", false)]
        {
            assert_eq!(is_daily_note(name), is_note, "{name}");
        }
    }

    #[test]
    fn an_agent_nobody_configured_is_refused() {
        let (mut stage, _) = stage();
        let nobody = json!({ "agentId": "nobody" });
        stage.refused(V4, "doctor.memory.dreamDiary", &nobody, "unknown agent id \"nobody\"");
        stage.refused(V4, "doctor.memory.resetDreamDiary", &json!({ "agentId": 1 }), "agentId must be a string");
    }
}
