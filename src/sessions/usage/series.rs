//! One session point by point: what each answer took (`sessions.usage.timeseries`), and what was said for it
//! (`sessions.usage.logs`).

use serde_json::Value;

use super::totals::{dollars, number, tokens};
use super::{spent, totals};
use crate::protocol::json::json;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::transcript::{MessageRow, PageAt, PageLimits};
use crate::store::usage::{Spent, UsageFilter};

/// Points shown when nothing is said, and at most (SES-67).
pub const POINTS: usize = 200;
/// See [`POINTS`].
pub const POINTS_MAX: usize = 1000;
/// Lines shown when nothing is said, and at most (SES-67).
pub const LINES: usize = 200;
/// See [`LINES`].
pub const LINES_MAX: usize = 1000;
/// Characters of a line; the rest is cut off.
pub const LINE_CHARS_MAX: usize = 2000;
/// Messages read at once while lines are looked for.
const PAGE_ROWS: usize = 100;
/// Bytes of messages read at once.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A larger message is named by its size and not read, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Answers that follow each other, as one point.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    at_ms: i64,
    n_answers: usize,
    tokens: [u64; 4],
    dollars: f64,
}

impl Point {
    fn add(&mut self, at_ms: i64, spent: &Spent) {
        self.at_ms = at_ms;
        self.n_answers += 1;
        let counted = [spent.input, spent.output, spent.cache_read, spent.cache_write];
        for (sum, n) in self.tokens.iter_mut().zip(counted) {
            *sum = sum.saturating_add(n);
        }
        self.dollars += dollars(spent).unwrap_or(0.0);
    }
}

/// What the answers of a transcript took, in the order of time, at most `n_points_max` points: neighbours are taken
/// together where there are more answers.
///
/// # Errors
/// The store's.
pub fn points(db: &Queries, session_id: &str, n_points_max: usize) -> Result<Vec<Value>, StoreError> {
    let filter = UsageFilter { session_id: Some(session_id.to_owned()), ..UsageFilter::default() };
    let mut n_answers = 0;
    db.usage_each(&filter, |_, row| n_answers += usize::from(row.spent.is_some()))?;
    let step = n_answers.div_ceil(n_points_max.max(1)).max(1);
    let mut points: Vec<Point> = Vec::new();
    db.usage_each(&filter, |_, row| {
        let Some(spent) = &row.spent else { return };
        if points.last().is_none_or(|point| point.n_answers == step) {
            points.push(Point::default());
        }
        if let Some(point) = points.last_mut() {
            point.add(row.at_ms, spent);
        }
    })?;
    let (mut all_tokens, mut all_dollars) = (0_u64, 0.0);
    let show = |point: Point| {
        let [input, output, cache_read, cache_write] = point.tokens;
        let tokens = point.tokens.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        all_tokens = tokens.saturating_add(all_tokens);
        all_dollars += point.dollars;
        json!({
            "timestamp": point.at_ms,
            "input": input,
            "output": output,
            "cacheRead": cache_read,
            "cacheWrite": cache_write,
            "totalTokens": tokens,
            "cost": number(point.dollars),
            "cumulativeTokens": all_tokens,
            "cumulativeCost": number(all_dollars),
        })
    };
    Ok(points.into_iter().map(show).collect())
}

/// The newest lines of a session, oldest first: what was said, by whom, and what it took.
///
/// # Errors
/// The store's.
pub fn lines(db: &Queries, session_id: &str, n_lines_max: usize) -> Result<Vec<Value>, StoreError> {
    let limits =
        PageLimits { rows_max: PAGE_ROWS, page_bytes_max: PAGE_BYTES_MAX, message_bytes_max: MESSAGE_BYTES_MAX };
    let (mut lines, mut at) = (Vec::new(), PageAt::Newest);
    while lines.len() < n_lines_max {
        let page = db.transcript_page(session_id, at, limits)?;
        let found = page.messages.iter().rev().filter_map(line);
        lines.extend(found.take(n_lines_max - lines.len()));
        match page.messages.first() {
            Some(first) if page.has_older => at = PageAt::Before(first.seq),
            _ => break,
        }
    }
    lines.reverse();
    Ok(lines)
}

/// A message as a line; `None`: it says nothing.
fn line(row: &MessageRow) -> Option<Value> {
    if !["user", "assistant", "toolResult"].contains(&row.role.as_str()) {
        return None;
    }
    let message: Value = match &row.message {
        Some(text) => serde_json::from_str(text).ok()?,
        None => json!({ "content": format!("[{} bytes]", row.size_bytes) }),
    };
    let content = said(&row.role, &message);
    let content = content.trim();
    if content.is_empty() {
        return None;
    }
    let mut out = json!({ "timestamp": row.at_ms, "role": row.role, "content": cut(content) });
    if let Some(spent) = spent(&message).filter(|_| row.role == "assistant") {
        out["tokens"] = json!(tokens(&spent));
        if let Some(dollars) = totals::dollars(&spent) {
            out["cost"] = number(dollars);
        }
    }
    Some(out)
}

fn said(role: &str, message: &Value) -> String {
    let mut parts = Vec::new();
    if role == "toolResult" {
        parts.push(format!("[Tool: {}]", message["toolName"].as_str().unwrap_or("tool")));
        parts.push("[Tool Result]".to_owned());
    }
    match &message["content"] {
        Value::String(text) => parts.push(text.clone()),
        Value::Array(blocks) => parts.extend(blocks.iter().filter_map(|block| match block["type"].as_str()? {
            "text" => block["text"].as_str().map(str::to_owned),
            "toolCall" => Some(format!("[Tool: {}]", block["name"].as_str().unwrap_or("unknown"))),
            _ => None,
        })),
        _ => {}
    }
    parts.join("\n")
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
