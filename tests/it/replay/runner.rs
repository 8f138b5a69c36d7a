//! Plays scenarios against one gateway, step by step, and says what was observed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::recording::{ExpectEvent, Op, Scenario, Step};
use super::variables::{Variables, matches};
use crate::harness::connect::OPERATOR_SCOPES;
use crate::harness::{Arrival, ConnectOptions, Identities, Inbox, Proto, Socket, What};

/// The default connection of a scenario.
const DEFAULT_CONNECTION: &str = "op";
/// Time for a challenge after the upgrade.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the close after a refusal.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Rest after a connection of the recording was closed or the default one was opened: what it set off at other connections
/// belongs to the step that did it.
const SETTLE_TIME: Duration = Duration::from_millis(80);
/// Waits that ran out before the replay stops being patient: a gateway that does not answer must not hold it up.
const SLOW_STEPS_MAX: u32 = 8;

/// How long to wait for what may not come.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Longest single wait.
    pub(super) step: Duration,
    /// Longest single wait after [`SLOW_STEPS_MAX`] of them ran out.
    pub(super) hurried: Duration,
    /// Longest wait for a gateway that is still starting.
    pub(super) start: Duration,
}

/// The gateway that is played against.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) token: String,
    pub(super) proto: Proto,
    pub(super) patience: Patience,
}

/// What came back in a step.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// A response frame, or an event's payload dressed as one; with the close that followed, where one was waited for.
    Answer {
        frame: Value,
        close: Option<u16>,
    },
    Closed(u16),
    Timeout,
    /// The step asks nothing.
    None,
}

/// One step as it went.
pub(super) struct Observation {
    pub(super) response: Response,
    /// For each expected event: its payload, when it came.
    pub(super) events: Vec<Option<Value>>,
    /// States of the chat events on the step's connection, repeated ones collapsed.
    pub(super) chat_order: Vec<String>,
}

/// A connection of the scenario.
struct Connection {
    socket: Socket,
    next_id: u64,
}

/// A request under way.
struct Sent {
    socket: u64,
    id: String,
    from: usize,
    last_answer: bool,
    deadline: Instant,
}

/// The state of one replay.
pub(super) struct Runner {
    target: Target,
    identities: Identities,
    pub(super) variables: Variables,
    inbox: Arc<Inbox>,
    connections: HashMap<String, Connection>,
    started: HashMap<String, Sent>,
    slow_steps: u32,
    part: Part,
}

/// What a scenario is played for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is judged: everything it waits for is waited for.
    Judged,
    /// Only later scenarios need what it leaves behind (sessions, mostly): its requests are made and answered, and no more.
    Context,
}

/// Longest wait at the end of a scenario for a run it began.
const RUN_END_TIME: Duration = Duration::from_secs(2);
/// Longest wait for an answer in a scenario that is only context.
const CONTEXT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Longest wait there for what may not come at all.
const CONTEXT_EVENT_TIMEOUT: Duration = Duration::from_millis(50);

impl Runner {
    pub(super) fn new(target: Target) -> Runner {
        let identities = Identities::default();
        Runner {
            target,
            variables: Variables::new(identities.clone()),
            identities,
            inbox: Arc::new(Inbox::default()),
            connections: HashMap::new(),
            started: HashMap::new(),
            slow_steps: 0,
            part: Part::Judged,
        }
    }

    /// The hello of the default connection.
    ///
    /// # Errors
    /// The gateway does not let the default operator in.
    pub(super) fn greet(&mut self) -> Result<Value, String> {
        let deadline = Instant::now() + self.target.patience.start;
        loop {
            let response = self.connect(DEFAULT_CONNECTION, &Map::new());
            let starting = match &response {
                Response::Answer { frame, .. } if frame["ok"] == true => return Ok(frame["payload"].clone()),
                Response::Answer { frame, .. } => frame["error"]["retryable"] == true,
                Response::Closed(code) => matches!(code, 0 | 1006),
                Response::Timeout | Response::None => false,
            };
            if !starting || Instant::now() > deadline {
                return Err(format!("the operator connection is refused: {response:?}"));
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// Plays one scenario. Its connections are closed at the end, but for the default one.
    pub(super) fn play(&mut self, scenario: &Scenario, part: Part) -> Vec<Observation> {
        self.part = part;
        if !scenario.steps[0].fresh && !self.has_default_connection() {
            let unheard = || Observation { response: Response::Closed(0), events: vec![], chat_order: vec![] };
            return scenario.steps.iter().map(|_| unheard()).collect();
        }
        let start = self.inbox.len();
        let observations: Vec<Observation> = scenario.steps.iter().map(|step| self.step(step, start)).collect();
        self.let_runs_end(start, &observations);
        self.connections.retain(|name, _| name == DEFAULT_CONNECTION);
        self.started.clear();
        observations
    }

    /// Lets the runs that a scenario began come to their end: whoever recorded did not go on as fast as this does.
    fn let_runs_end(&self, start: usize, observations: &[Observation]) {
        let begun = observations.iter().filter_map(|observation| match &observation.response {
            Response::Answer { frame, .. } => {
                let begun = ["accepted", "started"].iter().any(|status| frame["payload"]["status"] == *status);
                frame["payload"]["runId"].as_str().filter(|_| begun)
            }
            _ => None,
        });
        for run_id in begun {
            let deadline = Instant::now() + RUN_END_TIME;
            self.inbox.wait(start, deadline, |arrival| {
                let chat = arrival.event("chat").filter(|chat| chat["runId"] == run_id)?;
                ["final", "error", "aborted"].iter().any(|state| chat["state"] == *state).then_some(())
            });
        }
    }

    fn has_default_connection(&mut self) -> bool {
        if self.connections.get(DEFAULT_CONNECTION).is_some_and(|connection| connection.socket.is_open()) {
            return true;
        }
        let let_in = self.greet().is_ok();
        sleep(SETTLE_TIME);
        let_in
    }

    fn step(&mut self, step: &Step, scenario_start: usize) -> Observation {
        let from = self.inbox.len();
        let response = self.act(step, scenario_start);
        if matches!(response, Response::Timeout) && self.part == Part::Judged {
            self.slow_steps += 1;
        }
        if let Response::Answer { frame, .. } = &response {
            if frame["ok"] == true {
                self.variables.save(&step.save, &frame["payload"]);
            } else {
                self.variables.save(&step.save_error, &frame["error"]);
            }
        }
        let answered = matches!(&response, Response::Answer { frame, .. } if frame["ok"] == true);
        // The call itself has failed: what it should have caused will not come.
        let hopeless = !answered && step.expect.as_ref().is_some_and(|expect| expect.ok == Some(true));
        let hopeless = hopeless || self.part == Part::Context;
        let mut events = Vec::new();
        for expected in step.expect_events.iter().filter(|expected| !expected.absent) {
            let payload = if hopeless { None } else { self.expected_event(expected, from) };
            if let Some(payload) = &payload {
                self.variables.save(&expected.save, payload);
            }
            events.push(payload);
        }
        if let Some(ms) = step.wait_ms
            && step.op != Op::Start
            && !hopeless
        {
            sleep(Duration::from_millis(ms));
        }
        Observation { response, events, chat_order: self.chat_order(&step.on, from) }
    }

    fn act(&mut self, step: &Step, scenario_start: usize) -> Response {
        let timeout = |otherwise| Duration::from_millis(step.timeout_ms.unwrap_or(otherwise));
        match step.op {
            Op::Connect => self.connect(&step.on, &step.connect),
            Op::Close => {
                if let Some(connection) = self.connections.get(&step.on) {
                    connection.socket.close();
                    connection.socket.closed(&self.inbox, CLOSE_TIMEOUT);
                    // Some servers count a connection as open until the client has closed its half.
                    connection.socket.cut();
                    sleep(SETTLE_TIME);
                }
                Response::None
            }
            Op::Sleep => {
                sleep(self.event_limit(Duration::from_millis(step.ms.unwrap_or(0))));
                Response::None
            }
            Op::Raw => self.raw(step),
            Op::Start => {
                if let Some(sent) = self.send(step, timeout(30_000))
                    && let Some(name) = &step.reference
                {
                    self.started.insert(name.clone(), sent);
                }
                sleep(Duration::from_millis(step.wait_ms.unwrap_or(50)));
                Response::None
            }
            Op::Join => match step.reference.as_ref().and_then(|name| self.started.remove(name)) {
                Some(sent) => {
                    let deadline = sent.deadline.min(Instant::now() + self.limit(timeout(15_000)));
                    self.answer(&Sent { deadline, ..sent })
                }
                None => Response::Closed(0),
            },
            Op::Await => {
                let name = step.event.as_deref().expect("an await names its event");
                let wait = self.event_limit(timeout(10_000));
                let payload = self.event(name, Some(&step.on), &step.filter, scenario_start, wait);
                payload.map_or(Response::Timeout, |payload| Response::Answer {
                    frame: json!({ "ok": true, "payload": payload }),
                    close: None,
                })
            }
            Op::AnswerInvoke => self.answer_invoke(step, scenario_start, timeout(10_000)),
            Op::Req => match self.send(step, self.limit(timeout(15_000))) {
                Some(sent) => self.answer(&sent),
                None => Response::Closed(self.close_code(&step.on).unwrap_or(0)),
            },
        }
    }

    fn connect(&mut self, name: &str, options: &Map<String, Value>) -> Response {
        let default = name == DEFAULT_CONNECTION && options.is_empty();
        let options = if default {
            let scopes = OPERATOR_SCOPES.map(str::to_owned).to_vec();
            ConnectOptions { device: Some(String::from("operator")), scopes, ..ConnectOptions::default() }
        } else {
            serde_json::from_value(self.variables.fill(&Value::Object(options.clone())))
                .expect("the recordings use only the connect options of their README")
        };
        self.connections.remove(name);
        let from = self.inbox.len();
        let Ok(socket) = Socket::open(self.target.address, &[], name, &self.inbox) else {
            return Response::Closed(0);
        };
        let challenge = self.inbox.wait(from, Instant::now() + CHALLENGE_TIMEOUT, |arrival| {
            (arrival.socket == socket.id).then(|| arrival.event("connect.challenge").cloned())
        });
        let challenge = challenge.and_then(|(_, payload)| payload).unwrap_or(Value::Null);
        let mut connection = Connection { socket, next_id: 1 };
        if options.no_connect {
            self.connections.insert(name.to_owned(), connection);
            let frame = json!({ "ok": true, "payload": { "challenge": challenge } });
            return Response::Answer { frame, close: None };
        }
        let Target { proto, token, .. } = &self.target;
        let params = options.params(*proto, challenge["nonce"].as_str(), token, &self.identities);
        let deadline = Instant::now() + self.limit(Duration::from_secs(10));
        let sent = request(&self.inbox, &mut connection, "connect", Some(params), false, deadline);
        self.connections.insert(name.to_owned(), connection);
        let response = self.answer(&sent);
        match &response {
            Response::Answer { frame, .. } if frame["ok"] == true => {
                let token = &frame["payload"]["auth"]["deviceToken"];
                if token.is_string() {
                    self.variables.set(format!("deviceToken:{name}"), token.clone());
                }
                response
            }
            Response::Answer { frame, .. } => Response::Answer { frame: frame.clone(), close: self.close_code(name) },
            _ => response,
        }
    }

    /// The close of a connection that is expected to be closing.
    fn close_code(&self, name: &str) -> Option<u16> {
        let connection = self.connections.get(name)?;
        connection.socket.closed(&self.inbox, CLOSE_TIMEOUT).map(|(code, _)| code)
    }

    fn raw(&mut self, step: &Step) -> Response {
        let Some(connection) = self.connections.get(&step.on) else { return Response::Closed(0) };
        let raw = step.raw.as_ref().expect("a raw step has a frame");
        let filled = self.variables.fill(raw);
        let text = match &filled {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let from = self.inbox.len();
        if step.binary {
            connection.socket.send_binary(text.as_bytes());
        } else {
            connection.socket.send_text(&text);
        }
        let id = connection.socket.id;
        let wait = self.limit(Duration::from_millis(step.timeout_ms.unwrap_or(3000)));
        let found = self.inbox.wait(from, Instant::now() + wait, |arrival| {
            (arrival.socket == id && !arrival.is_event()).then(|| match &arrival.what {
                What::Frame(frame) => Response::Answer { frame: frame.clone(), close: None },
                What::Unparsable(text) => Response::Answer { frame: json!({ "text": text }), close: None },
                What::Closed { code, .. } => Response::Closed(*code),
                What::Sent(_) => Response::None,
            })
        });
        match found {
            Some((_, Response::Answer { frame, .. })) if step.then_close => {
                Response::Answer { frame, close: self.close_code(&step.on) }
            }
            Some((_, response)) => response,
            None => Response::Timeout,
        }
    }

    fn answer_invoke(&mut self, step: &Step, scenario_start: usize, timeout: Duration) -> Response {
        let limit = self.event_limit(timeout);
        let Some(asked) = self.event("node.invoke.request", Some(&step.on), &Map::new(), scenario_start, limit) else {
            return Response::Timeout;
        };
        self.variables.set("invokeId", asked["id"].clone());
        self.variables.set("invokeNode", asked["nodeId"].clone());
        let mut params = json!({ "id": asked["id"], "nodeId": asked["nodeId"] });
        if let Some(Value::Object(more)) = step.params.as_ref().map(|params| self.variables.fill(params)) {
            params.as_object_mut().expect("made as an object above").extend(more);
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        let Some(connection) = self.connections.get_mut(&step.on) else { return Response::Closed(0) };
        let sent = request(&self.inbox, connection, "node.invoke.result", Some(params), false, deadline);
        self.answer(&sent)
    }

    fn send(&mut self, step: &Step, timeout: Duration) -> Option<Sent> {
        let params = step.params.as_ref().map(|params| self.variables.fill(params));
        let method = step.method.as_deref().expect("a request names its method");
        let connection = self.connections.get_mut(&step.on).filter(|connection| connection.socket.is_open());
        let deadline = Instant::now() + timeout;
        match connection {
            Some(connection) => Some(request(&self.inbox, connection, method, params, step.last_answer, deadline)),
            None => None,
        }
    }

    fn answer(&self, sent: &Sent) -> Response {
        let mut accepted = None;
        let found = self.inbox.wait(sent.from, sent.deadline, |arrival| {
            if arrival.socket != sent.socket {
                return None;
            }
            match &arrival.what {
                What::Closed { code, .. } => Some(Response::Closed(*code)),
                What::Frame(frame) if frame["type"] == "res" && frame["id"] == sent.id.as_str() => {
                    let answer = Response::Answer { frame: frame.clone(), close: None };
                    if sent.last_answer && frame["ok"] == true && frame["payload"]["status"] == "accepted" {
                        accepted = Some(answer);
                        return None;
                    }
                    Some(answer)
                }
                _ => None,
            }
        });
        found.map(|(_, response)| response).or(accepted).unwrap_or(Response::Timeout)
    }

    fn expected_event(&mut self, expected: &ExpectEvent, from: usize) -> Option<Value> {
        let timeout = self.limit(Duration::from_millis(expected.timeout_ms.unwrap_or(10_000)));
        let payload = self.event(&expected.event, expected.on.as_deref(), &expected.filter, from, timeout);
        if payload.is_none() {
            self.slow_steps += 1;
        }
        payload
    }

    fn event(
        &self,
        name: &str,
        on: Option<&str>,
        filter: &Map<String, Value>,
        from: usize,
        timeout: Duration,
    ) -> Option<Value> {
        let filter = match self.variables.fill(&Value::Object(filter.clone())) {
            Value::Object(filter) => filter,
            _ => Map::new(),
        };
        let found = self.inbox.wait(from, Instant::now() + timeout, |arrival| {
            let payload = arrival.event(name)?;
            (on.is_none_or(|on| arrival.name == on) && matches(payload, &filter)).then(|| payload.clone())
        });
        found.map(|(_, payload)| payload)
    }

    fn chat_order(&self, on: &str, from: usize) -> Vec<String> {
        let mut order: Vec<String> = Vec::new();
        let log = self.inbox.since(from);
        for payload in log.iter().filter(|arrival| arrival.name == on).filter_map(|arrival| arrival.event("chat")) {
            let state = payload["state"].as_str().unwrap_or("").to_owned();
            if order.last() != Some(&state) {
                order.push(state);
            }
        }
        order
    }

    fn event_limit(&self, wanted: Duration) -> Duration {
        match self.part {
            Part::Judged => self.limit(wanted),
            Part::Context => wanted.min(CONTEXT_EVENT_TIMEOUT),
        }
    }

    fn limit(&self, wanted: Duration) -> Duration {
        if self.part == Part::Context {
            return wanted.min(CONTEXT_TIMEOUT);
        }
        let Patience { step, hurried, .. } = self.target.patience;
        wanted.min(if self.slow_steps > SLOW_STEPS_MAX { hurried } else { step })
    }
}

fn request(
    inbox: &Inbox,
    connection: &mut Connection,
    method: &str,
    params: Option<Value>,
    last_answer: bool,
    deadline: Instant,
) -> Sent {
    let id = format!("r{}", connection.next_id);
    connection.next_id += 1;
    let mut frame = json!({ "type": "req", "id": id, "method": method });
    if let Some(params) = params {
        frame["params"] = params;
    }
    let from = inbox.len();
    let text = frame.to_string();
    inbox.push(Arrival { socket: connection.socket.id, name: String::new(), what: What::Sent(text.clone()) });
    connection.socket.send_text(&text);
    Sent { socket: connection.socket.id, id, from, last_answer, deadline }
}
