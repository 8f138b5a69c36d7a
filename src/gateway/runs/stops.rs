//! Calls that stop runs: each is answered when what it stopped has ended and that is on disk.
//!
//! Stopping closes a provider's socket at once and the end is written within moments. A run that does not stop is given
//! up after [`END_TIME_MAX`](crate::sessions::scheduler::END_TIME_MAX), and its end is written then.

use serde_json::Value;

use crate::gateway::Gateway;
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::table::Call;
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::stop::Why;

/// Calls that may wait for runs they stopped; one more stops nothing and is told to come back.
pub const STOPS_MAX: usize = 256;

/// What a call stops.
#[derive(Debug)]
pub enum Stopped<'a> {
    /// What goes on in a session and what waits in it.
    Session(&'a SessionKey),
    /// What goes on in a session; what waits has its turn.
    Active(&'a SessionKey),
    /// One run.
    Run(&'a str),
}

/// How a call is told which runs it stopped.
pub type StopAnswer = fn(&[String]) -> Value;

/// A call that waits.
pub(super) struct StopWait {
    conn: ConnId,
    id: String,
    /// Runs whose ends are not on disk.
    left: Vec<String>,
    /// Runs that ended because of it.
    stopped: Vec<String>,
    answer: StopAnswer,
}

impl StopWait {
    /// What it waits for.
    pub(super) fn left(&self) -> impl Iterator<Item = &String> {
        self.left.iter()
    }
}

/// How a run that was to stop came to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended<'a> {
    /// Stopped, on disk.
    Stopped,
    /// It had said what it had to say, or failed, before it heard of it.
    Otherwise,
    /// This way, which could not be written.
    Unwritten(&'a str),
}

impl Gateway {
    /// Stops runs and answers when their ends are on disk.
    ///
    /// # Errors
    /// `UNAVAILABLE`, retryable, when [`STOPS_MAX`] calls wait.
    pub(in crate::gateway) fn stop_and_answer(
        &mut self,
        call: &Call,
        which: &Stopped<'_>,
        why: Why,
        answer: StopAnswer,
    ) -> Result<(), RpcError> {
        if self.runs.stops.len() >= STOPS_MAX {
            return Err(RpcError::busy("too many calls wait for runs to stop", BUSY_RETRY_MS));
        }
        let now = self.now;
        let left = match *which {
            Stopped::Session(session) => self.stop_session(now, session, why),
            Stopped::Active(session) => {
                let active = self.runs.scheduler.active_run(session).map(str::to_owned);
                active.into_iter().filter(|run_id| self.stop_run(now, run_id, why)).collect()
            }
            Stopped::Run(run_id) => {
                if self.stop_run(now, run_id, why) {
                    vec![run_id.to_owned()]
                } else {
                    Vec::new()
                }
            }
        };
        let wait = StopWait { conn: call.conn(), id: call.id.clone(), left, stopped: Vec::new(), answer };
        if wait.left.is_empty() {
            self.answer_stop(wait);
        } else {
            self.runs.stops.push(wait);
        }
        Ok(())
    }

    /// Tells who stopped a run that it has ended.
    pub(super) fn tell_stops(&mut self, run_id: &str, how: Ended<'_>) {
        let mut idx = 0;
        while let Some(wait) = self.runs.stops.get_mut(idx) {
            let n_before = wait.left.len();
            wait.left.retain(|left| left != run_id);
            if wait.left.len() == n_before {
                idx += 1;
                continue;
            }
            if let Ended::Unwritten(why) = how {
                let wait = self.runs.stops.remove(idx);
                self.answer_request(wait.conn, &wait.id, Err(RpcError::unavailable(why)));
                continue;
            }
            if let Ended::Stopped = how {
                wait.stopped.push(run_id.to_owned());
            }
            if wait.left.is_empty() {
                let wait = self.runs.stops.remove(idx);
                self.answer_stop(wait);
            } else {
                idx += 1;
            }
        }
    }

    fn answer_stop(&mut self, wait: StopWait) {
        let answer = Json::of(&(wait.answer)(&wait.stopped));
        self.answer_request(wait.conn, &wait.id, answer);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::effect::Effect;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol;

    /// The job that is a run, which is not begun.
    fn held(stage: &mut Stage) -> Effect {
        loop {
            let effect = stage.core.next_effect().expect("a run is to begin");
            match &effect {
                Effect::Start(job) if matches!(job.work, crate::gateway::Work::Run(_)) => return effect,
                _ => stage.carry_out(effect),
            }
        }
    }

    #[test]
    fn who_stops_a_run_hears_of_it_when_its_end_is_written_and_only_so_many_wait() {
        let mut stage = Stage::new(&json!({}));
        let message = json!({ "sessionKey": "main", "message": "hi", "idempotencyKey": "hi" });
        assert!(stage.begin(Protocol::V4, "chat.send", &message).unwrap().is_none());
        let run = held(&mut stage);
        let abort = json!({ "sessionKey": "main" });
        for _ in 0..STOPS_MAX {
            assert!(stage.begin(Protocol::V4, "chat.abort", &abort).unwrap().is_none());
        }
        assert_eq!(stage.core.runs.stops.len(), STOPS_MAX);
        let error = stage.begin(Protocol::V4, "chat.abort", &abort).unwrap_err();
        assert_eq!((error.retryable, error.retry_after_ms), (Some(true), Some(BUSY_RETRY_MS)));

        stage.carry_out(run);
        assert_eq!(stage.core.runs.stops.len(), STOPS_MAX, "its end is not written yet");
        stage.run();
        assert!(stage.core.runs.stops.is_empty());
        // What has ended is answered at once.
        stage.begin(Protocol::V4, "chat.abort", &abort).unwrap();
        assert!(stage.core.runs.stops.is_empty());
    }
}
