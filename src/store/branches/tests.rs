use super::super::open::tests::scratch;
use super::*;
use crate::runtime::random;
use crate::store::open::Database;
use crate::store::transcript::{NewMessage, TRANSCRIPT_MESSAGE_BYTES_MAX};

const UNLIMITED: PageLimits =
    PageLimits { rows_max: usize::MAX, page_bytes_max: usize::MAX, message_bytes_max: TRANSCRIPT_MESSAGE_BYTES_MAX };

fn write<T>(database: &mut Database, change: impl FnOnce(&Db<'_>) -> Result<T, StoreError>) -> T {
    database.write(change).unwrap()
}

fn say(db: &Db<'_>, session_id: &str) -> u64 {
    let id = random::uuid();
    let new = NewMessage {
        session_id,
        message_id: &id,
        parent_id: None,
        role: "user",
        idempotency_key: None,
        at_ms: 1,
        message: "{}",
    };
    db.transcript_append(&new).unwrap().seq
}

/// A session `a` with transcript `s` of `n` messages.
fn spoken(n: u64) -> (super::super::open::tests::StateDirInTemp, Database) {
    let (dir, mut database) = scratch();
    write(&mut database, |db| {
        db.session_put(&SessionRow::new("a", "main", "s", "direct", 1))?;
        (1..=n).for_each(|seq| assert_eq!(say(db, "s"), seq));
        Ok(())
    });
    (dir, database)
}

fn said(db: &Queries, session_id: &str) -> Vec<u64> {
    let page = db.transcript_page(session_id, PageAt::Newest, UNLIMITED).unwrap();
    assert_eq!(page.n_total, page.messages.len() as u64);
    page.messages.iter().map(|row| row.seq).collect()
}

#[track_caller]
fn check(database: &Database, expected: &[u64]) {
    assert_eq!(said(database, "s"), expected);
    let session = database.session("a").unwrap().unwrap();
    assert_eq!(session.message_count, expected.len() as u64, "the session counts its conversation");
}

/// Leaf, length and whether it is active, of each branch.
fn branches(database: &Database) -> Vec<(u64, u64, bool)> {
    let branches = database.transcript_branches("s").unwrap();
    branches.iter().map(|branch| (branch.leaf, branch.n_messages, branch.is_active)).collect()
}

#[test]
fn what_is_said_after_a_rewind_follows_the_leaf() {
    let (_dir, mut database) = spoken(5);
    assert_eq!(branches(&database), [(5, 5, true)]);
    write(&mut database, |db| db.transcript_move_leaf("s", 2));
    check(&database, &[1, 2]);
    assert_eq!(branches(&database), [(2, 2, true), (5, 5, false)]);
    write(&mut database, |db| db.transcript_move_leaf("s", 3));
    check(&database, &[1, 2, 3]);
    assert_eq!(write(&mut database, |db| Ok((say(db, "s"), say(db, "s")))), (6, 7));
    check(&database, &[1, 2, 3, 6, 7]);
    assert_eq!(branches(&database), [(7, 5, true), (5, 5, false)]);

    write(&mut database, |db| db.transcript_move_leaf("s", 5));
    check(&database, &[1, 2, 3, 4, 5]);
    assert_eq!(write(&mut database, |db| Ok(say(db, "s"))), 8);
    check(&database, &[1, 2, 3, 4, 5, 8]);
    assert_eq!(branches(&database), [(8, 6, true), (7, 5, false)]);
    write(&mut database, |db| db.transcript_move_leaf("s", 7));
    write(&mut database, |db| db.transcript_move_leaf("s", 8));
    check(&database, &[1, 2, 3, 4, 5, 8]);
    assert_eq!(database.n_rows("branches"), 2, "moving there and back leaves nothing behind");
}

#[test]
fn a_transcript_can_begin_again_at_its_root() {
    let (_dir, mut database) = spoken(2);
    write(&mut database, |db| db.transcript_move_leaf("s", 0));
    check(&database, &[]);
    assert_eq!(branches(&database), [(2, 2, false)]);
    assert_eq!(write(&mut database, |db| Ok(say(db, "s"))), 3);
    check(&database, &[3]);
    assert_eq!(branches(&database), [(3, 1, true), (2, 2, false)]);
    let first = database.transcript_first_of_role("s", "user", 99).unwrap().unwrap();
    assert_eq!(first.seq, 3);
}

#[test]
fn pages_step_over_other_branches() {
    let (_dir, mut database) = spoken(4);
    write(&mut database, |db| {
        db.transcript_move_leaf("s", 2)?;
        (5..=7).for_each(|seq| assert_eq!(say(db, "s"), seq));
        Ok(())
    });
    let page = |at, rows_max| {
        let page = database.transcript_page("s", at, PageLimits { rows_max, ..UNLIMITED }).unwrap();
        let seqs: Vec<u64> = page.messages.iter().map(|row| row.seq).collect();
        assert_eq!(page.n_total, 5);
        (seqs, page.has_older, page.has_newer)
    };
    assert_eq!(page(PageAt::Newest, 4), (vec![2, 5, 6, 7], true, false));
    assert_eq!(page(PageAt::BeforeNewest(2), 2), (vec![2, 5], true, true));
    assert_eq!(page(PageAt::BeforeNewest(3), 9), (vec![1, 2], false, true));
    assert_eq!(page(PageAt::Before(5), 9), (vec![1, 2], false, true));
    assert_eq!(page(PageAt::After(1), 2), (vec![2, 5], true, true));
    assert_eq!(page(PageAt::After(3), 2), (vec![5, 6], true, true));
    assert!(database.transcript_is_active("s", 5).unwrap());
    assert!(!database.transcript_is_active("s", 3).unwrap());
    let mut found = |seq: u64| {
        let id = write(&mut database, |db| {
            Ok(db.first("SELECT message_id FROM transcript WHERE seq = ?1", [signed(seq)], |row| row.get(0))?.unwrap())
        });
        let id: String = id;
        let standing = database.transcript_standing("s", &id).unwrap().unwrap();
        (standing.row.seq, standing.is_active, standing.parent)
    };
    assert_eq!([found(1), found(4), found(5), found(6)], [(1, true, 0), (4, false, 3), (5, true, 2), (6, true, 5)]);
    assert_eq!(database.transcript_standing("s", "no such").unwrap(), None);
}

#[test]
fn compaction_keeps_the_newest_of_the_conversation_and_drops_branches_below() {
    let (_dir, mut database) = spoken(4);
    write(&mut database, |db| {
        db.transcript_move_leaf("s", 2)?;
        (5..=7).for_each(|seq| assert_eq!(say(db, "s"), seq));
        Ok(())
    });
    assert_eq!(write(&mut database, |db| db.transcript_compact("s", 4, 9)), 1);
    check(&database, &[2, 5, 6, 7]);
    assert_eq!(branches(&database), [(7, 4, true), (4, 3, false)]);
    assert_eq!(write(&mut database, |db| db.transcript_compact("s", 2, 9)), 2);
    check(&database, &[6, 7]);
    assert_eq!(branches(&database), [(7, 2, true)]);
    // A place below the archive is forgotten with the next move.
    write(&mut database, |db| db.transcript_move_leaf("s", 6));
    check(&database, &[6]);
    assert_eq!(database.n_rows("branches"), 1);
}

#[test]
fn a_fork_is_a_copy_that_goes_its_own_way() {
    let (_dir, mut database) = spoken(4);
    write(&mut database, |db| {
        db.transcript_move_leaf("s", 3)?;
        (5..=7).for_each(|seq| assert_eq!(say(db, "s"), seq));
        db.transcript_compact("s", 5, 9)?;
        Ok(())
    });
    check(&database, &[2, 3, 5, 6, 7]);
    let to = SessionRow::new("b", "main", "t", "direct", 1);
    assert_eq!(write(&mut database, |db| db.transcript_fork("s", 6, &to, 9)), 4);
    assert_eq!(said(&database, "t"), [2, 3, 5, 6]);
    assert_eq!(database.session("b").unwrap().unwrap().message_count, 4);
    write(&mut database, |db| {
        assert_eq!(say(db, "t"), 7);
        db.transcript_move_leaf("s", 2)
    });
    assert_eq!(said(&database, "t"), [2, 3, 5, 6, 7], "what becomes of the first is nothing to the second");
    check(&database, &[2]);
    let of_copy = database.transcript_branches("t").unwrap();
    assert_eq!(of_copy.iter().map(|branch| branch.leaf).collect::<Vec<_>>(), [7], "one branch was copied");
    assert!(database.archive_list("b").unwrap().is_empty(), "nothing of it was archived");

    let empty = SessionRow::new("c", "main", "u", "direct", 1);
    assert_eq!(write(&mut database, |db| db.transcript_fork("s", 0, &empty, 9)), 0);
    assert_eq!(write(&mut database, |db| Ok(say(db, "u"))), 1);
}

#[test]
fn what_is_too_large_is_not_copied() {
    let (_dir, mut database) = spoken(0);
    let text = "x".repeat(TRANSCRIPT_MESSAGE_BYTES_MAX);
    write(&mut database, |db| {
        for id in ["1", "2", "3"] {
            let text = if id == "3" { "y" } else { &text };
            db.transcript_append(&NewMessage {
                session_id: "s",
                message_id: id,
                parent_id: None,
                role: "user",
                idempotency_key: None,
                at_ms: 1,
                message: text,
            })?;
        }
        let to = |key: &str| SessionRow::new(key, "main", key, "direct", 1);
        assert_eq!(db.transcript_fork("s", 2, &to("b"), 1)?, 2, "at the limit");
        let refused = db.transcript_fork("s", 3, &to("c"), 1);
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
        assert!(db.session("c")?.is_none());
        Ok(())
    });
}

#[test]
fn there_are_only_so_many_branches_until_they_are_archived() {
    let (_dir, mut database) = spoken(2);
    let mut move_and_say = || {
        database.write(|db| {
            db.transcript_move_leaf("s", 1)?;
            Ok::<_, StoreError>(say(db, "s"))
        })
    };
    for _ in 0..BRANCHES_MAX {
        move_and_say().unwrap();
    }
    assert!(matches!(move_and_say(), Err(StoreError::TableFull { .. })));
    assert_eq!(branches(&database).len(), BRANCHES_MAX + 1);
    write(&mut database, |db| db.transcript_compact("s", 0, 1));
    write(&mut database, |db| Ok((say(db, "s"), say(db, "s"))));
    write(&mut database, |db| db.transcript_move_leaf("s", BRANCHES_MAX as u64 + 3));
    check(&database, &[BRANCHES_MAX as u64 + 3]);
    assert_eq!(database.n_rows("branches"), 1);
}

#[test]
fn what_is_deleted_for_good_takes_its_branches_along() {
    let (_dir, mut database) = spoken(3);
    write(&mut database, |db| {
        db.transcript_move_leaf("s", 1)?;
        say(db, "s");
        db.session_delete("a", crate::store::sessions::TranscriptFate::Archive, 1)?;
        while db.archive_prune(9)? > 0 {}
        Ok(())
    });
    assert_eq!((database.n_rows("transcript"), database.n_rows("branches")), (0, 0));
}

/// The same moves on a tree of which every message knows its parent, held against the stored one after each.
#[test]
fn a_thousand_random_moves_lead_where_a_plain_tree_leads() {
    let (_dir, mut database) = spoken(0);
    let seed = std::env::var("BRANCHES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_u64);
    println!("BRANCHES_SEED={seed}");
    let mut state = seed;
    let mut pick = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    // parents[seq - 1] is what `seq` follows.
    let (mut parents, mut leaf, mut floor): (Vec<u64>, u64, u64) = (Vec::new(), 0, 0);
    let way = |parents: &[u64], leaf: u64, floor: u64| {
        let steps = std::iter::successors(Some(leaf), |&seq| (seq > 0).then(|| parents[seq as usize - 1]));
        let mut way: Vec<u64> = steps.take_while(|&seq| seq > floor).collect();
        way.reverse();
        way
    };
    for _ in 0..1000 {
        let conversation = way(&parents, leaf, floor);
        match pick(10) {
            0..6 => {
                parents.push(leaf);
                leaf = write(&mut database, |db| Ok(say(db, "s")));
                assert_eq!(leaf, parents.len() as u64);
            }
            6 | 7 if !conversation.is_empty() => {
                let cut = conversation[pick(conversation.len())];
                leaf = parents[cut as usize - 1];
                write(&mut database, |db| db.transcript_move_leaf("s", leaf));
            }
            8 => {
                let branches = database.transcript_branches("s").unwrap();
                if !branches.is_empty() {
                    leaf = branches[pick(branches.len())].leaf;
                    write(&mut database, |db| db.transcript_move_leaf("s", leaf));
                }
            }
            9 if pick(8) == 0 && conversation.len() > 6 => {
                floor = conversation[conversation.len() - 7];
                write(&mut database, |db| db.transcript_compact("s", 6, 1));
            }
            _ => {}
        }
        check(&database, &way(&parents, leaf, floor));
        let followed: Vec<u64> = parents.clone();
        let last = parents.len() as u64;
        let mut tips: Vec<u64> = (floor + 1..=last).filter(|seq| !followed.contains(seq) || *seq == leaf).collect();
        tips.sort_unstable_by_key(|&seq| (seq != leaf, std::cmp::Reverse(seq)));
        let found: Vec<(u64, u64)> = branches(&database).iter().map(|(leaf, n, _)| (*leaf, *n)).collect();
        let expected: Vec<(u64, u64)> = tips.iter().map(|&tip| (tip, way(&parents, tip, floor).len() as u64)).collect();
        assert_eq!(found, expected, "the tips of seed {seed}");
    }
}
