//! `health`, `logs.tail`: is it well, what did it say.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use serde::Serialize;
use serde_json::Value;

use crate::gateway::Gateway;
use crate::gateway::table::{Call, Need, QueryCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::{Count, Int, Loose};

crate::methods! {
    "health",    Both, Need::Anyone, Need::Anyone, Raw   health;
    "logs.tail", Both, need::READ,   need::READ,   Query tail;
}

/// The snapshot as it stands; `probe: true` makes it anew first.
fn health(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<crate::protocol::frame::Json, RpcError> {
    if params.0.get("probe").and_then(Value::as_bool) == Some(true) {
        gateway.health_cache = Default::default();
        gateway.health_made_at_ms = call.now_ms;
    }
    let now = gateway.now;
    Ok(gateway.health_json(now, call.protocol()))
}

/// Lines given out when nothing is said.
const TAIL_LINES: i64 = 500;
/// Bytes looked at when nothing is said.
const TAIL_BYTES: i64 = 250_000;

crate::params! {
    /// Where to go on reading the log, and how much.
    pub struct TailParams {
        cursor: Option<Count> = "cursor",
        limit: Option<Int<1, 5000>> = "limit",
        max_bytes: Option<Int<1, 1_000_000>> = "maxBytes",
    }
}

#[derive(Serialize)]
struct Tail {
    file: String,
    cursor: u64,
    size: u64,
    lines: Vec<String>,
    truncated: bool,
    reset: bool,
}

fn tail(cx: QueryCx<'_>, params: TailParams) -> Result<Tail, RpcError> {
    let file = cx.snapshot.log_file.to_string();
    let limit = params.limit.map_or(TAIL_LINES, |limit| limit.0) as usize;
    let bytes_max = params.max_bytes.map_or(TAIL_BYTES, |bytes| bytes.0) as u64;
    let failed = |error: std::io::Error| RpcError::unavailable(format!("cannot read the log file: {error}"));
    let mut log = match File::open(&file) {
        Ok(log) => log,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Tail { file, cursor: 0, size: 0, lines: Vec::new(), truncated: false, reset: false });
        }
        Err(error) => return Err(failed(error)),
    };
    let size = log.metadata().map_err(failed)?.len();
    let asked = params.cursor.map(|cursor| cursor.0 as u64);
    let oldest = size.saturating_sub(bytes_max);
    // A cursor beyond the end is of a file that was replaced; one too far back is of lines no longer in reach.
    let reset = asked.is_some_and(|cursor| cursor > size || cursor < oldest);
    let start = asked.filter(|_| !reset).unwrap_or(oldest);
    log.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut bytes = Vec::new();
    log.take(size - start).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    let mut truncated = asked.is_none() && start > 0;
    if start > 0 && asked.is_none_or(|_| reset) && !lines.is_empty() {
        lines.remove(0); // the middle of a line
    }
    if lines.len() > limit {
        lines.drain(..lines.len() - limit);
        truncated = true;
    }
    let lines = lines.into_iter().map(str::to_owned).collect();
    Ok(Tail { file, cursor: size, size, lines, truncated, reset })
}
