//! A tool that a person or a program calls, and no model: `tools.invoke`, `POST /tools/invoke`.
//!
//! It goes the way of a run's calls: [`super::calls::weigh`] decides, what was decided is on disk before the tool is
//! called, and its answer is judged before anybody sees it. A dry run ends after the decision.

use serde_json::{Value, json};

use super::calls::{self, Called, Refusal};
use super::run::{Host, Ordered, RunInput};
use super::setting::Setting;
use super::talk::{Part, ToolCall};
use crate::defender::decision::Action;
use crate::sessions::transcript;
use crate::store::StoreError;
use crate::tools::policy::Verdict;
use crate::tools::{self, Code};

/// What is to be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Invoke {
    /// The tool, by its name or another one of it.
    pub tool: String,
    /// Its `action`, where it is not among the arguments.
    pub action: Option<String>,
    /// An object.
    pub arguments: Value,
    /// Names the call for good: under it nothing that the program does for a tool is done twice.
    pub key: String,
    /// Only to be decided about.
    pub is_dry: bool,
    /// Whether its caller administers the gateway.
    pub is_owner: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Invoked {
    /// The tool.
    pub tool: String,
    /// Its answer, as tools give it: `content`, `details`.
    pub outcome: Result<Value, Failed>,
}

/// Where such a call comes from, in what is written down about it.
const SOURCE: &str = "tools.invoke";

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    /// What kind of reason.
    pub kind: FailedKind,
    /// For people.
    pub message: String,
    /// For programs.
    pub details: Option<Value>,
}

/// Kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedKind {
    /// There is no such tool, or the policy does not let it be used here.
    NotFound,
    /// Its arguments cannot be used.
    Arguments,
    /// The defender decided against it.
    Blocked,
    /// It needs a person's approval.
    NeedsApproval,
    /// It was called, and failed.
    Tool,
    /// The program could not do its part.
    Unavailable,
}

impl Failed {
    fn new(kind: FailedKind, message: impl Into<String>) -> Failed {
        Failed { kind, message: message.into(), details: None }
    }

    fn of(refusal: &Refusal, tool: &str) -> Failed {
        let details = match &refusal.verdict {
            Some(verdict) => json!({ "code": refusal.code.as_str(), "stage": verdict.stage, "rule": verdict.rule }),
            None => json!({ "code": refusal.code.as_str() }),
        };
        let failed = match refusal.code {
            Code::UnsupportedTool | Code::PolicyDenied => not_available(tool),
            _ => Failed::new(FailedKind::Arguments, refusal.text.as_str()),
        };
        Failed { details: Some(details), ..failed }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::new(FailedKind::Unavailable, format!("the store cannot be used: {error}"))
    }
}

fn not_available(tool: &str) -> Failed {
    Failed::new(FailedKind::NotFound, format!("Tool not available: {tool}"))
}

/// Calls a tool, or only decides about it.
pub fn invoke(input: &RunInput, host: &mut dyn Host, invoke: &Invoke) -> Invoked {
    // What is not known keeps the name it was asked for by.
    let tool = tools::find(&tools::policy::names::canonical(&invoke.tool));
    let name = tool.map_or(invoke.tool.as_str(), |tool| tool.name).to_owned();
    let mut arguments = invoke.arguments.clone();
    if let (Some(action), Some(tool)) = (&invoke.action, tool)
        && arguments.get("action").is_none()
        && (tool.parameters)()["properties"].get("action").is_some()
    {
        arguments["action"] = json!(action);
    }
    let call = ToolCall { id: invoke.key.clone(), name: name.clone(), arguments };
    Invoked { outcome: make(input, host, invoke, &call), tool: name }
}

fn make(input: &RunInput, host: &mut dyn Host, invoke: &Invoke, call: &ToolCall) -> Result<Value, Failed> {
    let now_ms = host.now_ms();
    let session = host.store()?.session(input.session.as_str())?;
    let session = session.unwrap_or_else(|| transcript::fresh(&input.session, now_ms));
    let setting = Setting::of(input, session, host.stop(), now_ms)
        .map_err(|error| Failed::new(FailedKind::Unavailable, error.to_string()))?;
    let policy = setting.policy.clone().over_gateway(&input.config.settings.tools, invoke.is_owner);
    let weighed = calls::weigh(input, &setting, host.stop(), &policy, call);
    if invoke.is_dry {
        return Ok(foretold(input, &policy.verdict(&call.name), &weighed));
    }
    let weighed = weighed.map_err(|refusal| Failed::of(&refusal, &invoke.tool))?;
    let mut judged = weighed.judged.clone();
    judged.request.source = SOURCE.to_owned();
    host.decided(vec![judged.clone()])?;
    if let Some(text) = calls::refused(&judged.decision, input.config.settings.runtime.audit_only) {
        let kind = match judged.decision.action {
            Action::Review => FailedKind::NeedsApproval,
            _ => FailedKind::Blocked,
        };
        return Err(Failed::new(kind, text));
    }
    let mut called = calls::call(input, &setting, host, call, weighed);
    if let Some(order) = called.order.take() {
        let tools = setting.inherited_tools();
        let ordered = Ordered { order, key: format!("invoke:{}", invoke.key), judged, tools };
        called = match host.carry_out(ordered) {
            Ok(answer) => Called::answered(call, answer),
            Err(why) => return Err(Failed::new(FailedKind::Tool, why)),
        };
    }
    if let Some(answer) = called.judged.take() {
        let is_withheld = answer.decision.action == Action::Block;
        host.decided(vec![answer])?;
        if is_withheld {
            return Err(Failed::new(FailedKind::Blocked, called.text()));
        }
    }
    if called.result.is_error {
        // What a failure says may name what it failed on.
        let text = called.text();
        return Err(Failed::new(FailedKind::Tool, input.rules.scrub(&text).0.into_owned()));
    }
    Ok(answer(&called))
}

/// An answer as upstream's tools give it.
fn answer(called: &Called) -> Value {
    let part = |part: &Part| match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { mime, base64 } => json!({ "type": "image", "mimeType": mime, "data": &**base64 }),
    };
    let mut answer = json!({ "content": called.result.content.iter().map(part).collect::<Vec<_>>() });
    if let Some(details) = &called.details {
        answer["details"] = details.clone();
    }
    answer
}

/// What would become of a call.
fn foretold(input: &RunInput, verdict: &Verdict, weighed: &Result<calls::Weighed, Refusal>) -> Value {
    let mut details = json!({
        "dryRun": true,
        "policy": { "allowed": verdict.allowed, "stage": verdict.stage, "rule": verdict.rule },
    });
    let would = match weighed {
        Err(refusal) => {
            details["error"] = json!({ "code": refusal.code.as_str(), "message": refusal.text });
            "refused"
        }
        Ok(weighed) => {
            let decision = &weighed.judged.decision;
            details["decision"] = json!({
                "action": decision.action.as_str(),
                "riskScore": decision.risk_score,
                "reasons": decision.reasons,
                "tags": decision.tags,
            });
            match calls::refused(decision, input.config.settings.runtime.audit_only) {
                None => "allowed",
                Some(_) if decision.action == Action::Review => "review",
                Some(_) => "blocked",
            }
        }
    };
    details["would"] = json!(would);
    json!({ "content": [{ "type": "text", "text": format!("dry run: {would} ({verdict})") }], "details": details })
}
