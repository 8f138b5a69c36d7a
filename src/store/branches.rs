//! Branches: a transcript is a tree, and one way through it, from its root to the active leaf, is the conversation.
//!
//! Messages keep their numbers and stay where they are; a rewind only moves the leaf. A row of `branches` says that a
//! number follows another one than the number before it. The leaf is moved by writing that row for the next number, the
//! one that is not given out yet: what is added then needs no other statement than ever, and a transcript that nobody
//! rewound has no rows here. On any way through the tree the numbers rise, with gaps where other branches lie, so a
//! number is as good a cursor as ever.

use super::StoreError;
use super::db::{Columns, Db, Queries, signed};
use super::sessions::SessionRow;
use super::transcript::{Live, MessageRow, Page, PageAt, PageLimits};

/// Places at which a transcript branches, among its live messages. One more is refused until what they lie in is archived
/// (`sessions.compact`, `sessions.reset`).
pub const BRANCHES_MAX: usize = 512;
/// Largest conversation that is copied into a session of its own, in bytes of JSON: one transaction writes it.
pub const FORK_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Numbers of a transcript that follow each other, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Stretch {
    fn n_rows(self) -> u64 {
        self.last + 1 - self.first
    }
}

/// The live messages from the root of a transcript to one of its messages; oldest stretch first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Stretch>);

impl Path {
    pub(super) fn n_rows(&self) -> u64 {
        self.0.iter().map(|stretch| stretch.n_rows()).sum()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.first().map(|stretch| stretch.first)
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.0.last().map(|stretch| stretch.last)
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.0.iter().any(|stretch| (stretch.first..=stretch.last).contains(&seq))
    }

    /// The newest message when `n_skipped` newer ones are left out; 0: none is left.
    pub(super) fn without_newest(&self, n_skipped: u64) -> u64 {
        let mut n_left = n_skipped;
        for stretch in self.0.iter().rev() {
            if n_left < stretch.n_rows() {
                return stretch.last - n_left;
            }
            n_left -= stretch.n_rows();
        }
        0
    }

    /// How many of its messages have at most this number.
    pub(super) fn n_up_to(&self, seq: u64) -> u64 {
        let within = self.0.iter().filter(|stretch| stretch.first <= seq);
        within.map(|stretch| stretch.last.min(seq) + 1 - stretch.first).sum()
    }
}

/// A place where a message follows another one than the one before it.
#[derive(Clone, Copy, Debug)]
struct Fork {
    first: u64,
    parent: u64,
}

/// The shape of a transcript.
struct Tree {
    live: Live,
    /// By the number of the message.
    forks: Vec<Fork>,
}

impl Tree {
    /// The newest message of the active branch; 0 when it has none.
    fn active_leaf(&self) -> u64 {
        match self.forks.last() {
            Some(fork) if fork.first > self.live.last => fork.parent,
            _ => self.live.last,
        }
    }

    /// The fork that the stretch of a message begins with; `None` for the first stretch.
    fn fork_of(&self, seq: u64) -> Option<Fork> {
        let n_before = self.forks.partition_point(|fork| fork.first <= seq);
        n_before.checked_sub(1).map(|idx| self.forks[idx])
    }

    /// The message that `seq` follows; 0: none.
    fn parent(&self, seq: u64) -> u64 {
        match self.fork_of(seq) {
            Some(fork) if fork.first == seq => fork.parent,
            _ => seq - 1,
        }
    }

    fn path(&self, leaf: u64) -> Path {
        let (mut stretches, mut last) = (Vec::new(), leaf);
        while last > self.live.floor {
            let fork = self.fork_of(last);
            let first = fork.map_or(1, |fork| fork.first);
            stretches.push(Stretch { first: first.max(self.live.floor + 1), last });
            // A message follows an older one, whatever a damaged file says: so this ends.
            last = fork.map_or(0, |fork| fork.parent).min(first - 1);
        }
        stretches.reverse();
        Path(stretches)
    }

    /// The messages that none follows, and the active leaf; newest first, the active one before them.
    fn tips(&self) -> Vec<u64> {
        let active = self.active_leaf();
        let ends = self.forks.iter().map(|fork| fork.first - 1).chain([self.live.last]);
        let is_followed = |seq| self.forks.iter().any(|fork| fork.parent == seq && fork.first <= self.live.last);
        let mut tips: Vec<u64> = ends.filter(|&seq| seq > self.live.floor && !is_followed(seq)).collect();
        tips.push(active);
        tips.retain(|&seq| seq > self.live.floor);
        tips.sort_unstable_by_key(|&seq| (seq != active, std::cmp::Reverse(seq)));
        tips.dedup();
        tips
    }
}

/// A branch, by the message it ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// That message's number,
    pub leaf: u64,
    /// its id,
    pub message_id: String,
    /// and when it was said.
    pub at_ms: i64,
    /// Live messages of the branch, from the root of the transcript on.
    pub n_messages: u64,
    /// Whether the conversation goes on here.
    pub is_active: bool,
}

/// A message and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The message.
    pub row: MessageRow,
    /// Whether it is a live message of the active branch.
    pub is_active: bool,
    /// The number of the message it follows; 0: none.
    pub parent: u64,
}

impl Queries {
    fn transcript_tree(&self, session_id: &str) -> Result<Tree, StoreError> {
        let live = self.transcript_live(session_id)?;
        let forks = self.rows(
            "SELECT first_seq, parent_seq FROM branches WHERE session_id = ?1 ORDER BY first_seq",
            [session_id],
            |row| {
                let mut columns = Columns::of(row);
                Ok(Fork { first: columns.count()?.max(1), parent: columns.count()? })
            },
        )?;
        Ok(Tree { live, forks })
    }

    /// The live messages of the active branch.
    pub(super) fn transcript_path(&self, session_id: &str) -> Result<Path, StoreError> {
        let tree = self.transcript_tree(session_id)?;
        Ok(tree.path(tree.active_leaf()))
    }

    /// The number of the newest message of the active branch; 0 when it has none.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_leaf(&self, session_id: &str) -> Result<u64, StoreError> {
        Ok(self.transcript_tree(session_id)?.active_leaf())
    }

    /// Whether a message is a live one of the active branch.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_is_active(&self, session_id: &str, seq: u64) -> Result<bool, StoreError> {
        Ok(self.transcript_path(session_id)?.contains(seq))
    }

    /// The branches of a transcript: the active one, then the others, newest first. A transcript without live messages
    /// has none.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_branches(&self, session_id: &str) -> Result<Vec<Branch>, StoreError> {
        let tree = self.transcript_tree(session_id)?;
        let active = tree.active_leaf();
        let mut branches = Vec::new();
        for leaf in tree.tips() {
            let found = self.first(
                "SELECT message_id, at_ms FROM transcript WHERE session_id = ?1 AND seq = ?2",
                (session_id, signed(leaf)),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            // A copied transcript has the numbers of the one it was copied from, and only one branch of it.
            let Some((message_id, at_ms)) = found else { continue };
            let n_messages = tree.path(leaf).n_rows();
            branches.push(Branch { leaf, message_id, at_ms, n_messages, is_active: leaf == active });
        }
        Ok(branches)
    }

    /// The newest messages of the branch that ends with `leaf`.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_branch_page(&self, session_id: &str, leaf: u64, limits: PageLimits) -> Result<Page, StoreError> {
        let path = self.transcript_tree(session_id)?.path(leaf);
        self.transcript_page_of(session_id, &path, PageAt::Newest, limits)
    }

    /// A message by its id, and where it stands.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_standing(&self, session_id: &str, message_id: &str) -> Result<Option<Standing>, StoreError> {
        let Some(row) = self.transcript_message(session_id, message_id)? else { return Ok(None) };
        let tree = self.transcript_tree(session_id)?;
        let is_active = tree.path(tree.active_leaf()).contains(row.seq);
        Ok(Some(Standing { is_active, parent: tree.parent(row.seq), row }))
    }
}

impl Db<'_> {
    /// Makes `leaf` the newest message of the active branch: what is added next follows it. 0: nothing precedes it.
    ///
    /// # Errors
    /// [`StoreError::TableFull`] at [`BRANCHES_MAX`], and those of a statement.
    pub fn transcript_move_leaf(&self, session_id: &str, leaf: u64) -> Result<(), StoreError> {
        let live = self.transcript_live(session_id)?;
        debug_assert!(leaf <= live.last, "the leaf is a message");
        // Places below what is archived are on no way any more.
        self.run("DELETE FROM branches WHERE session_id = ?1 AND first_seq <= ?2", (session_id, signed(live.floor)))?;
        self.run("DELETE FROM branches WHERE session_id = ?1 AND first_seq > ?2", (session_id, signed(live.last)))?;
        if leaf < live.last {
            let n_rows: u64 = self.one("SELECT count(*) FROM branches WHERE session_id = ?1", [session_id], |row| {
                Columns::of(row).count()
            })?;
            if n_rows >= BRANCHES_MAX as u64 {
                return Err(StoreError::TableFull { what: "branches of the session", rows_max: BRANCHES_MAX });
            }
            self.branch_put(session_id, live.last + 1, leaf)?;
        }
        let n_messages = self.transcript_path(session_id)?.n_rows();
        self.run("UPDATE sessions SET message_count = ?2 WHERE session_id = ?1", (session_id, signed(n_messages)))?;
        Ok(())
    }

    fn branch_put(&self, session_id: &str, first: u64, parent: u64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO branches (session_id, first_seq, parent_seq) VALUES (?1, ?2, ?3)",
            (session_id, signed(first), signed(parent)),
        )?;
        Ok(())
    }

    /// Writes the new session `to` and copies the live messages up to and including `leaf` into its transcript, with
    /// their ids and numbers; returns how many.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above [`FORK_BYTES_MAX`], those of [`Db::session_put`] and of a statement.
    pub fn transcript_fork(
        &self,
        session_id: &str,
        leaf: u64,
        to: &SessionRow,
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        let tree = self.transcript_tree(session_id)?;
        let path = tree.path(leaf);
        let mut size_bytes = 0;
        for stretch in &path.0 {
            size_bytes += self.one(
                "SELECT coalesce(sum(octet_length(message)), 0) FROM transcript
                 WHERE session_id = ?1 AND seq BETWEEN ?2 AND ?3",
                (session_id, signed(stretch.first), signed(stretch.last)),
                |row| Columns::of(row).count(),
            )?;
        }
        if size_bytes > FORK_BYTES_MAX {
            let what = "conversation to be copied";
            let (size_bytes, size_bytes_max) = (size_bytes as usize, FORK_BYTES_MAX as usize);
            return Err(StoreError::TooLarge { what, size_bytes, size_bytes_max });
        }
        self.session_put(to)?;
        // What is archived stays with the first session; here nothing precedes the copy, and an empty archive says so.
        if tree.live.floor > 0 && !path.0.is_empty() {
            self.archive_nothing_before(&to.session_id, &to.key, tree.live.floor + 1, now_ms)?;
        }
        let mut before = None;
        for stretch in &path.0 {
            if let Some(before) = before {
                self.branch_put(&to.session_id, stretch.first, before)?;
            } else if stretch.first > tree.live.floor + 1 {
                self.branch_put(&to.session_id, stretch.first, tree.live.floor)?;
            }
            before = Some(stretch.last);
            self.run(
                "INSERT INTO transcript (session_id, seq, message_id, parent_id, role, idempotency_key, at_ms, message)
                 SELECT ?4, seq, message_id, parent_id, role, idempotency_key, at_ms, message FROM transcript
                 WHERE session_id = ?1 AND seq BETWEEN ?2 AND ?3",
                (session_id, signed(stretch.first), signed(stretch.last), &to.session_id),
            )?;
        }
        let n_messages = path.n_rows();
        self.run("UPDATE sessions SET message_count = ?2 WHERE session_id = ?1", (&to.session_id, signed(n_messages)))?;
        Ok(n_messages)
    }
}

#[cfg(test)]
mod tests;
