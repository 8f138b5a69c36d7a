use super::super::open::tests::scratch;
use super::*;

const OF: UsageOf<'static> =
    UsageOf { session_id: "s1", session_key: "agent:main:main", agent_id: "main", channel: Some("webchat") };

fn row(at_ms: i64, role: UsageRole) -> UsageRow {
    UsageRow { at_ms, role, is_error: false, latency_ms: None, spent: None, tools: Vec::new() }
}

fn answer(at_ms: i64, cost: Option<[f64; 4]>) -> UsageRow {
    let spent =
        Spent { provider: "stub".into(), model: "m".into(), input: 10, output: 6, cache_read: 2, cache_write: 1, cost };
    UsageRow { spent: Some(spent), ..row(at_ms, UsageRole::Assistant) }
}

fn found(queries: &Queries, filter: &UsageFilter) -> Vec<(String, UsageRow)> {
    let mut rows = Vec::new();
    queries.usage_each(filter, |transcript, row| rows.push((transcript.session_id.clone(), row))).unwrap();
    rows
}

#[test]
fn a_row_is_read_as_it_was_written_and_an_unknown_price_stays_unknown() {
    let (_dir, mut database) = scratch();
    let priced = UsageRow { tools: vec!["read".into(), "exec".into()], ..answer(30, Some([0.5, 0.25, 0.0, 1.5])) };
    let unpriced = UsageRow { is_error: true, ..answer(40, None) };
    database
        .write(|db| {
            db.usage_append(&OF, &row(10, UsageRole::User))?;
            db.usage_append(&OF, &priced)?;
            db.usage_append(&OF, &unpriced)
        })
        .unwrap();
    let rows: Vec<UsageRow> = found(&database, &UsageFilter::default()).into_iter().map(|(_, row)| row).collect();
    let late = |row: &UsageRow, latency_ms| UsageRow { latency_ms: Some(latency_ms), ..row.clone() };
    assert_eq!(rows, [row(10, UsageRole::User), late(&priced, 20), late(&unpriced, 30)]);
}

#[test]
fn an_answer_half_a_day_later_has_no_latency() {
    let (_dir, mut database) = scratch();
    database
        .write(|db| {
            db.usage_append(&OF, &row(0, UsageRole::User))?;
            db.usage_append(&OF, &answer(USAGE_LATENCY_MS_MAX, None))?;
            db.usage_append(&OF, &answer(USAGE_LATENCY_MS_MAX + 1, None))
        })
        .unwrap();
    let rows = found(&database, &UsageFilter::default());
    assert_eq!(rows[1].1.latency_ms, Some(USAGE_LATENCY_MS_MAX as u64));
    assert_eq!(rows[2].1.latency_ms, None);
}

#[test]
fn filters_narrow_by_time_agent_session_and_transcript() {
    let (_dir, mut database) = scratch();
    let other = UsageOf { session_id: "s2", session_key: "agent:ops:main", agent_id: "ops", channel: None };
    let before_reset = UsageOf { session_id: "s0", ..OF };
    database
        .write(|db| {
            db.usage_append(&before_reset, &row(1, UsageRole::User))?;
            db.usage_append(&OF, &row(5, UsageRole::User))?;
            db.usage_append(&other, &row(6, UsageRole::User))?;
            db.usage_append(&OF, &row(7, UsageRole::ToolResult))
        })
        .unwrap();
    let times =
        |filter: UsageFilter| -> Vec<i64> { found(&database, &filter).into_iter().map(|(_, row)| row.at_ms).collect() };
    let any = UsageFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(times(any()), [1, 5, 7, 6], "the transcripts of one session follow each other");
    assert_eq!(times(UsageFilter { since_ms: 5, until_ms: 6, ..any() }), [5, 6]);
    assert_eq!(times(UsageFilter { agent_id: text("ops"), ..any() }), [6]);
    assert_eq!(times(UsageFilter { session_key: text("agent:main:main"), ..any() }), [1, 5, 7]);
    assert_eq!(times(UsageFilter { session_id: text("s1"), ..any() }), [5, 7]);
    assert_eq!(times(UsageFilter { session_id: text("s1"), agent_id: text("ops"), ..any() }), [0i64; 0]);
}

#[test]
fn a_transcript_is_where_it_was_held_last() {
    let (_dir, mut database) = scratch();
    database
        .write(|db| {
            db.usage_append(&OF, &row(1, UsageRole::User))?;
            db.usage_append(&UsageOf { channel: Some("telegram"), ..OF }, &row(2, UsageRole::User))?;
            db.usage_append(&UsageOf { channel: None, ..OF }, &row(3, UsageRole::Assistant))
        })
        .unwrap();
    let kept = database.usage_transcript("s1").unwrap().unwrap();
    assert_eq!((kept.channel.as_deref(), kept.last_ms), (Some("telegram"), 3));
    assert_eq!(database.usage_transcript("nobody").unwrap(), None);
}

#[test]
fn the_oldest_rows_leave_at_the_bound_and_then_their_transcripts() {
    let (_dir, mut database) = scratch();
    let other = UsageOf { session_id: "s2", ..OF };
    database
        .write(|db| {
            db.usage_append(&OF, &row(1, UsageRole::User))?;
            for at_ms in 2..=4 {
                db.usage_append(&other, &row(at_ms, UsageRole::User))?;
            }
            db.usage_bound(4, 4)?;
            assert_eq!((db.n_rows("usage"), db.usage_prune()?), (4, 0), "at the bound nothing goes");
            db.usage_bound(4, 2)?;
            assert_eq!((db.n_rows("usage"), db.usage_prune()?), (2, 1));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(database.usage_transcript("s1").unwrap(), None);
    assert!(database.usage_transcript("s2").unwrap().is_some());
}
