//! One client, one request at a time: how long an answer takes, beside the bare echo with the same sizes.
//!
//! The two are measured in turns of a few hundred requests, so that whatever else the machine does meets both. Driver and
//! servers share one processor meanwhile ([`crate::process::Pinned`]): what is measured is the work, not the wake-up.

use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::Message;

use crate::Result;
use crate::client::{Client, Purpose, open, read_text};
use crate::samples::Samples;

/// Alternations between gateway and echo.
const ROUNDS: usize = 20;
/// Requests before a measure that are not counted, so that caches and buffers have their size.
const WARM_UP_REQUESTS: usize = 200;
/// A cell of the table takes at most this long, however slow the gateway is.
const CELL_TIME_MAX: Duration = Duration::from_secs(30);

/// What one method took.
pub struct Latency {
    pub method: String,
    pub request_bytes: usize,
    pub answer_bytes: usize,
    /// Round trips to the gateway, in µs.
    pub gateway_us: Samples,
    /// Round trips to the echo server with the same sizes, in µs.
    pub echo_us: Samples,
    /// Gateway median over echo median, of each round.
    pub ratio: Samples,
}

/// Measures one method on one connection with about `n_requests` requests.
pub fn measure(
    client: &mut Client,
    echo_port: u16,
    method: &str,
    params: Option<&Value>,
    n_requests: usize,
) -> Result<Latency> {
    // The answer is looked at once, then only recognized: a refusal is quick, and would be a fine time for the wrong thing.
    client.call(method, params)?;
    let (text, mark) = client.request(method, params);
    let request_bytes = text.len();
    let answer_bytes = client.round_trip(text, &mark)?.len();

    let mut echo = open(echo_port, &format!("/reply/{answer_bytes}"), Purpose::Measure)?;
    let echo_request = "x".repeat(request_bytes);
    let mut echo_once = || -> Result<f64> {
        let message = Message::text(echo_request.clone());
        let began = Instant::now();
        echo.send(message)?;
        let answer = read_text(&mut echo)?;
        let took = micros(began.elapsed());
        (answer.len() == answer_bytes).then_some(took).ok_or_else(|| "the echo's answer has another size".into())
    };
    let mut gateway_once = || -> Result<f64> {
        let (text, mark) = client.request(method, params);
        let began = Instant::now();
        let answer = client.round_trip(text, &mark)?;
        let took = micros(began.elapsed());
        is_ok(&answer).then_some(took).ok_or_else(|| format!("{method} was refused under load: {answer}").into())
    };

    for _ in 0..WARM_UP_REQUESTS {
        echo_once()?;
        gateway_once()?;
    }
    let began = Instant::now();
    let (mut gateway_us, mut echo_us, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let per_round = n_requests.div_ceil(ROUNDS);
        let echo_round = (0..per_round).map(|_| echo_once()).collect::<Result<Vec<f64>>>()?;
        let gateway_round = (0..per_round).map(|_| gateway_once()).collect::<Result<Vec<f64>>>()?;
        ratio.push(Samples::new(gateway_round.clone()).median() / Samples::new(echo_round.clone()).median());
        echo_us.extend(echo_round);
        gateway_us.extend(gateway_round);
        if began.elapsed() > CELL_TIME_MAX {
            break;
        }
    }
    Ok(Latency {
        method: method.to_owned(),
        request_bytes,
        answer_bytes,
        gateway_us: Samples::new(gateway_us),
        echo_us: Samples::new(echo_us),
        ratio: Samples::new(ratio),
    })
}

/// Whether an answer says `ok`, by its first bytes: the envelope's keys come before the payload on every gateway measured.
pub fn is_ok(answer: &str) -> bool {
    let head = answer.as_bytes();
    let head = &head[..head.len().min(128)];
    head.windows(9).any(|bytes| bytes == b"\"ok\":true")
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
