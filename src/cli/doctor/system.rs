//! The machine: disk, clock and sandbox.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::check::Check;
use crate::config::load::Loaded;
use crate::store::dir::DATABASE_FILE;
use crate::tools::sandbox::kernel::Kernel;
use crate::tools::sandbox::rule::{self, Session};
use crate::tools::sandbox::{Layer, Mode, selftest};

/// With less free space the store cannot fold its log back, and messages are refused.
pub const FREE_BYTES_FAIL: u64 = 32 * 1024 * 1024;
/// With less free space someone should look.
pub const FREE_BYTES_WARN: u64 = 256 * 1024 * 1024;
/// With fewer free files nothing new can be made.
pub const FREE_FILES_MIN: u64 = 100;
/// No clock that is right stands before this program was written: 2026-01-01T00:00:00Z, milliseconds since 1970.
pub const EARLIEST_MS: i64 = 1_767_225_600_000;
/// How far the newest record may lie in the future before the clock is doubted, in milliseconds.
pub const AHEAD_MS_MAX: i64 = 5 * 60 * 1000;

const MIB: u64 = 1024 * 1024;

/// `system.disk`: whether the disk of the state directory has room.
pub fn disk(state_dir: &Path) -> Check {
    const ID: &str = "system.disk";
    // The directory may not be there yet; its disk is that of the nearest one that is.
    let Some(there) = state_dir.ancestors().find(|path| path.exists()) else {
        return Check::warn(ID, format!("no part of {} exists", state_dir.display()));
    };
    match free(there) {
        Ok(free) => judge_disk(free),
        Err(error) => Check::warn(ID, "the free space cannot be asked for").detail(error.to_string()),
    }
}

/// What is left of a disk for this user.
struct Free {
    bytes: u64,
    /// Files that can still be made; `None` where the file system sets no limit.
    files: Option<u64>,
}

fn judge_disk(free: Free) -> Check {
    const ID: &str = "system.disk";
    if free.bytes < FREE_BYTES_FAIL {
        return Check::fail(ID, format!("less than {} MiB are free", FREE_BYTES_FAIL / MIB))
            .detail("free space on the disk of the state directory: messages are refused when it is full");
    }
    if free.files.is_some_and(|files| files < FREE_FILES_MIN) {
        return Check::fail(ID, "the file system takes hardly any more files")
            .detail(format!("fewer than {FREE_FILES_MIN} inodes are free"));
    }
    if free.bytes < FREE_BYTES_WARN {
        return Check::warn(ID, format!("less than {} MiB are free", FREE_BYTES_WARN / MIB));
    }
    Check::pass(ID, "enough space")
}

fn free(path: &Path) -> io::Result<Free> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the struct is plain numbers, for which all zeros is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte and the struct lives on this stack for the length of the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let files = (found.f_files > 0).then_some(found.f_favail);
    Ok(Free { bytes: found.f_bavail.saturating_mul(found.f_frsize), files })
}

/// `system.clock`: whether the wall clock can be right.
pub fn clock(state_dir: &Path, now_ms: i64) -> Check {
    let newest = fs::metadata(state_dir.join(DATABASE_FILE)).and_then(|meta| meta.modified()).ok();
    let newest_ms = newest.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_millis() as i64);
    judge_clock(now_ms, newest_ms)
}

fn judge_clock(now_ms: i64, newest_ms: Option<i64>) -> Check {
    const ID: &str = "system.clock";
    const HINT: &str = "signatures of devices and webhooks carry times and are refused when the clock is wrong; \
                        set up time synchronisation";
    if now_ms < EARLIEST_MS {
        return Check::fail(ID, "the clock stands before this program was written").detail(HINT);
    }
    if newest_ms.is_some_and(|newest_ms| newest_ms > now_ms + AHEAD_MS_MAX) {
        return Check::warn(ID, "the database was written in the future: the clock went back").detail(HINT);
    }
    Check::pass(ID, "the clock can be right")
}

/// `system.sandbox`: whether agents' commands run confined here, and that this holds.
pub fn sandbox(config: &Loaded) -> Check {
    const ID: &str = "system.sandbox";
    const HINT: &str = "`openclaw-rs sandbox explain` and `openclaw-rs sandbox selftest` say more";
    let agents = &config.settings.agents;
    let agent = &agents.default_id;
    let key = format!("agent:{agent}:{}", config.settings.session.main_key);
    let workspace = agents.get(agent).map_or(&agents.defaults.workspace, |own| &own.workspace);
    let decision = rule::decide(config, Session { agent, key: &key, workspace, wants_elevated: false });
    if decision.mode.value == Mode::Elevated {
        return Check::warn(ID, "commands of agents run without a sandbox").detail(decision.mode.rule);
    }
    if decision.is_unbuilt {
        return Check::warn(ID, "commands are off: this build makes no containers").detail(HINT);
    }
    if let Err(why) = selftest::ready(&config.settings.sandbox.root) {
        return Check::warn(ID, why.to_string()).detail(HINT);
    }
    let have = Kernel::get().layers();
    let layers: Vec<&str> = Layer::ALL.into_iter().filter(|layer| have.has(*layer)).map(Layer::as_str).collect();
    Check::pass(ID, format!("commands are held by {}", layers.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn judges_space_at_its_limits() {
        let status = |bytes, files| judge_disk(Free { bytes, files }).status;
        assert_eq!(status(FREE_BYTES_FAIL - 1, None), Status::Fail);
        assert_eq!(status(FREE_BYTES_FAIL, None), Status::Warn);
        assert_eq!(status(FREE_BYTES_WARN, None), Status::Pass);
        assert_eq!(status(FREE_BYTES_WARN, Some(FREE_FILES_MIN - 1)), Status::Fail);
        assert_eq!(status(FREE_BYTES_WARN, Some(FREE_FILES_MIN)), Status::Pass);
    }

    #[test]
    fn asks_the_disk_of_a_directory_that_is_not_there_yet() {
        let home = tempfile::TempDir::new().unwrap();
        assert!(free(home.path()).unwrap().bytes > 0);
        assert_ne!(disk(&home.path().join("a/b/c")).message, "the free space cannot be asked for");
    }

    #[test]
    fn judges_the_clock_at_its_limits() {
        let status = |now_ms, newest_ms| judge_clock(now_ms, newest_ms).status;
        assert_eq!(status(EARLIEST_MS - 1, None), Status::Fail);
        assert_eq!(status(EARLIEST_MS, None), Status::Pass);
        assert_eq!(status(EARLIEST_MS, Some(EARLIEST_MS + AHEAD_MS_MAX)), Status::Pass);
        assert_eq!(status(EARLIEST_MS, Some(EARLIEST_MS + AHEAD_MS_MAX + 1)), Status::Warn);
    }
}
