//! What is done from time to time although nobody asks: old files and rows are removed, resident memory is sampled.
//!
//! Each round starts one job per lane it needs and waits for none of them. A round of removing takes at most
//! [`QUARANTINE_FILES_MAX`](crate::defender::quarantine::QUARANTINE_FILES_MAX) files and one bounded batch of rows per
//! table, so it holds up no writer for long; what is left goes in the next round.

use std::time::{Duration, Instant};

use super::runs::children;
use super::stability::Memory;
use super::{Done, Effect, Fact, Gateway, Job, Origin, Work};
use crate::config::settings::Settings;
use crate::defender::quarantine::{Quarantine, Retention};
use crate::protocol::error::RpcError;
use crate::runtime::clock::Now;
use crate::runtime::memory;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::media::MediaDir;

/// From the start to the first removing: nothing is in a hurry while clients come back.
pub const FIRST_REMOVAL: Duration = Duration::from_secs(60);
/// Between removals. At 2000 rows a round this keeps up with 48 000 archived messages, or audit records, a day.
pub const REMOVAL_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Between two looks at sessions that may be put away, at least.
pub const CHILDREN_INTERVAL_MIN: Duration = Duration::from_secs(60);

/// When what is next.
#[derive(Debug)]
pub(super) struct Housekeeping {
    removal: Instant,
    sample: Instant,
    /// When sessions of runs that a run started may be put away; `None`: there is none.
    children: Option<Instant>,
}

impl Housekeeping {
    pub(super) fn new(settings: &Settings, now: Now) -> Housekeeping {
        Housekeeping {
            removal: now.mono + FIRST_REMOVAL,
            sample: now.mono + settings.runtime.memory_sample,
            children: Some(now.mono + FIRST_REMOVAL),
        }
    }

    /// When the timer must ring.
    pub(super) fn next(&self) -> Instant {
        self.children.into_iter().fold(self.removal.min(self.sample), Instant::min)
    }
}

impl Gateway {
    /// Starts what is due.
    pub(super) fn keep_house(&mut self, now: Now) {
        let settings = &self.config.settings;
        if now.mono >= self.housekeeping.sample {
            self.housekeeping.sample = now.mono + settings.runtime.memory_sample;
            let work = Work::Query(Box::new(|_| {
                memory::sample();
                let facts = vec![Fact::Memory(Box::new(Memory::sample()))];
                Ok(Done { answer: None, facts })
            }));
            self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("memory sample"), work }));
        }
        if self.housekeeping.children.is_some_and(|at| now.mono >= at) {
            // Until the job says what is left.
            self.housekeeping.children = Some(now.mono + REMOVAL_INTERVAL);
            let limits = self.config.settings.agents.defaults.subagents.clone();
            let work = Work::Store(Box::new(move |db| {
                let (mut facts, left) = children::archive(db, &limits, now.wall_ms)?;
                facts.push(Fact::ChildrenLeft(left));
                Ok(Done { answer: None, facts })
            }));
            self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("subagents"), work }));
        }
        if now.mono >= self.housekeeping.removal {
            self.housekeeping.removal = now.mono + REMOVAL_INTERVAL;
            let limits = Limits::of(&self.config.settings);
            let quarantine = Quarantine::new(self.config.settings.security.quarantine_dir.clone());
            let sweep = Work::Query(Box::new(move |_| limits.sweep(&quarantine, now.wall_ms)));
            let media = MediaDir::of(&self.config.state_dir);
            let prune = Work::Store(Box::new(move |db| {
                let n_files = db.media_prune(&media, now.wall_ms)?;
                if n_files > 0 {
                    log::info!("files of messages that are gone were removed files={n_files}");
                }
                limits.prune(db, now.wall_ms)
            }));
            for (what, work) in [("quarantine", sweep), ("old records", prune)] {
                self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping(what), work }));
            }
        }
    }
}

impl Gateway {
    /// Sessions of runs that a run started were looked at; the oldest that is left was used last at this time.
    pub(super) fn children_left(&mut self, now: Now, oldest_ms: Option<i64>) {
        self.housekeeping.children = None;
        let (Some(oldest_ms), Some(kept)) = (oldest_ms, self.config.settings.agents.defaults.subagents.archive_after)
        else {
            return;
        };
        let used_for = Duration::from_millis(u64::try_from(now.wall_ms - oldest_ms).unwrap_or(0));
        self.housekeeping.children = Some(now.mono + kept.saturating_sub(used_for).max(CHILDREN_INTERVAL_MIN));
    }

    /// A run begins that another one started: in time, its session is put away.
    pub(super) fn child_begins(&mut self, now: Now) {
        if let (None, Some(kept)) =
            (self.housekeeping.children, self.config.settings.agents.defaults.subagents.archive_after)
        {
            self.housekeeping.children = Some(now.mono + kept.max(CHILDREN_INTERVAL_MIN));
        }
    }
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    quarantine: Retention,
    audit_ms: i64,
    /// `None`: for good.
    archives_ms: Option<i64>,
}

impl Limits {
    fn of(settings: &Settings) -> Limits {
        let security = &settings.security;
        Limits {
            quarantine: Retention {
                age_ms_max: ms(security.quarantine_age_max),
                bytes_max: security.quarantine_bytes_max,
            },
            audit_ms: ms(security.audit_kept),
            archives_ms: settings.session.archives_kept.map(ms),
        }
    }

    fn sweep(&self, quarantine: &Quarantine, now_ms: i64) -> Result<Done, RpcError> {
        let swept = quarantine.sweep(self.quarantine, now_ms).map_err(|error| {
            log::error!("{error}");
            RpcError::unavailable("the quarantine could not be swept")
        })?;
        if swept.removed_files > 0 {
            let (files, bytes) = (swept.removed_files, swept.removed_bytes);
            log::info!("old quarantine files removed files={files} bytes={bytes}");
        }
        Ok(nothing())
    }

    fn prune(&self, db: &Db<'_>, now_ms: i64) -> Result<Done, StoreError> {
        let n_records = db.audit_prune(now_ms.saturating_sub(self.audit_ms))?;
        let n_messages = match self.archives_ms {
            Some(kept_ms) => db.archive_prune(now_ms.saturating_sub(kept_ms))?,
            None => 0,
        };
        db.usage_prune()?;
        if n_records > 0 || n_messages > 0 {
            log::info!("old rows removed audit_records={n_records} archived_messages={n_messages}");
        }
        Ok(nothing())
    }
}

/// Nobody waits and nothing live has changed.
fn nothing() -> Done {
    Done { answer: None, facts: Vec::new() }
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::audit::{AuditFilter, AuditRecord};
    use crate::store::dir::StateDir;
    use crate::store::open::{Database, OnDamage};
    use crate::store::sessions::{SessionRow, TranscriptFate};
    use crate::store::transcript::NewMessage;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    const NOW_MS: i64 = 1_800_000_000_000;

    fn database() -> (tempfile::TempDir, Database) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temp.path()).unwrap();
        let database = Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap().database;
        (temp, database)
    }

    #[test]
    fn quarantine_is_swept_by_the_configured_age() {
        let dir = tempfile::tempdir().unwrap();
        let (old, young) = (NOW_MS - 90 * DAY_MS - 1, NOW_MS - 90 * DAY_MS);
        for at_ms in [old, young] {
            fs::write(dir.path().join(format!("blocked-{at_ms}-x.json")), "{}").unwrap();
        }
        Limits::of(&Settings::for_tests()).sweep(&Quarantine::new(dir.path()), NOW_MS).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("blocked-{young}-x.json").as_str()], "90 days are the default");
    }

    #[test]
    fn the_audit_trail_is_kept_for_the_configured_time() {
        let (_temp, mut database) = database();
        let limits = Limits::of(&Settings::for_tests());
        let young = NOW_MS - 365 * DAY_MS;
        database
            .write(|db| {
                for at_ms in [young - 1, young] {
                    db.audit_append(&AuditRecord { at_ms, ..AuditRecord::default() })?;
                }
                limits.prune(db, NOW_MS)
            })
            .unwrap();
        let rows = database.audit_list(&AuditFilter::default(), 9).unwrap();
        assert_eq!(rows.iter().map(|row| row.record.at_ms).collect::<Vec<_>>(), [young]);
    }

    #[test]
    fn archives_stay_unless_the_operator_wants_them_removed() {
        let (_temp, mut database) = database();
        let kept = Limits::of(&Settings::for_tests());
        assert_eq!(kept.archives_ms, None, "history is not removed by default");
        let bounded = Limits { archives_ms: Some(30 * DAY_MS), ..kept };
        let archives = |limits: Limits, database: &mut Database, now_ms| {
            database.write(|db| limits.prune(db, now_ms)).unwrap();
            database.archive_list("a").unwrap().len()
        };
        database
            .write(|db| {
                db.session_put(&SessionRow::new("a", "main", "a", "direct", 1))?;
                let message = NewMessage {
                    session_id: "a",
                    message_id: "m",
                    parent_id: None,
                    role: "user",
                    idempotency_key: None,
                    at_ms: 1,
                    message: "{}",
                };
                db.transcript_append(&message)?;
                db.session_delete("a", TranscriptFate::Archive, NOW_MS)
            })
            .unwrap();
        assert_eq!(archives(kept, &mut database, NOW_MS + 900 * DAY_MS), 1);
        assert_eq!(archives(bounded, &mut database, NOW_MS + 30 * DAY_MS), 1, "at the limit it stays");
        assert_eq!(archives(bounded, &mut database, NOW_MS + 30 * DAY_MS + 1), 0);
    }
}
