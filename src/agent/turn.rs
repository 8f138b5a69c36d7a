//! The loop of a run: ask a model, call the tools it wants, write down what they said, ask again.
//!
//! What a model said is recorded before its tools are called, and what a tool said before the model is asked again. So
//! whatever moment a run ends at, its transcript says how far it came: a call with a result was made, a call without
//! one may have been. It is made again where that does nothing twice ([`Effect`]), and else never. The last words are not recorded here; whoever gets them writes them
//! together with the run's end.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::{Value, json};

use super::ask::{self, Answered, AskEvent, Asked, Asking};
use super::calls::{self, Called, OVERTAKEN, RESTARTED, Refusal, Weighed};
use super::compaction;
use super::conversation::{Conversation, Item, Step, User};
use super::cooldown::Cooldowns;
use super::history::{self, Eyes, Reading, SILENT};
use super::memory::{self, Added, Place};
use super::models::ModelRef;
use super::run::{
    Host, Judged, Load, Ordered, Outcome, Record, Reply, RunEnd, RunEvent, RunInput, Steered, approval_id,
};
use super::setting::{self, Setting};
use super::silence::{self, Gate, ReplyTo};
use super::talk::{
    Attempt, Bill, Failure, FailureKind, Part, Piece, Prices, Prompt, Said, StopReason, ToolCall, ToolResult, Usage,
};
use crate::runtime::clock;
use crate::runtime::stop::{Stop, Why};
use crate::sessions::row::is_subagent;
use crate::sessions::transcript;
use crate::sessions::usage::totals::number;
use crate::store::StoreError;
use crate::store::media::MediaDir;
use crate::tools::guard::{Guard, Standing};
use crate::tools::policy::Policy;
use crate::tools::{self, Effect};

/// How much less of a conversation is sent, in percent, after a provider found it too long although we did not.
const SHRINK_PERCENT: u64 = 60;

/// Asks models for a run ([`ask::ask`]), and tells what happens meanwhile.
pub type Asker<'a> = dyn FnMut(&Question<'_>, &mut dyn FnMut(AskEvent<'_>)) -> Asked + 'a;

/// What is asked, and whom.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// Who, in order.
    pub chain: &'a [ModelRef],
    /// The only profile that may be used of its provider.
    pub profile: Option<&'a str>,
}

/// Why the loop ended without last words.
enum End {
    Stopped(Why),
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> End {
        End::Failed(failure(FailureKind::Unavailable, format!("the transcript cannot be used: {error}")))
    }
}

fn failure(kind: FailureKind, message: String) -> Failure {
    Failure { kind, message, status: None, retry_after_ms: None }
}

/// Runs an agent: asks the models that the configuration offers, calls the tools there are.
pub fn run(input: RunInput, host: &mut dyn Host) -> RunEnd {
    let mut cooldowns = input.cooldowns.clone();
    let end = {
        let stop = host.stop().clone();
        let mut ask = asker(&input, stop, &mut cooldowns);
        turn(&input, host, &mut ask, &mut |host, setting, call, weighed| {
            calls::call(&input, setting, host, call, weighed)
        })
    };
    RunEnd { cooldowns, ..end }
}

/// Asks the models of `input`. Whoever answered one step is asked first for the next.
fn asker<'a>(
    input: &'a RunInput,
    stop: Stop,
    cooldowns: &'a mut Cooldowns,
) -> impl FnMut(&Question<'_>, &mut dyn FnMut(AskEvent<'_>)) -> Asked + 'a {
    let mut preferred: Option<String> = None;
    move |question, tell| {
        let asking = Asking {
            stop: &stop,
            now_ms: &clock::wall_ms,
            tell,
            pinned_profile: question.profile,
            preferred_profile: preferred.as_deref(),
        };
        let asked = ask::ask(&input.models.get(), cooldowns, question.chain, question.prompt, asking);
        if let Ok(answered) = &asked.result {
            preferred = answered.profile.clone();
        }
        asked
    }
}

/// Calls a tool for a run ([`super::calls::call`]).
pub type Caller<'a> = dyn FnMut(&mut dyn Host, &Setting, &ToolCall, Weighed) -> Called + 'a;

/// Runs the loop to its end.
pub fn turn(input: &RunInput, host: &mut dyn Host, ask: &mut Asker<'_>, call: &mut Caller<'_>) -> RunEnd {
    let began_ms = host.now_ms();
    let mut turn = Turn::new(input, host);
    let outcome = match turn.go(ask, call) {
        Ok(reply) => Outcome::Replied(Box::new(reply)),
        Err(End::Stopped(why)) => Outcome::Stopped { why, partial: silence::clean(&turn.partial).text },
        Err(End::Failed(failure)) => Outcome::Failed(failure),
    };
    let Turn { host, tally, load, .. } = turn;
    let judged = match &outcome {
        Outcome::Replied(reply) if is_subagent(&input.session) && !reply.is_silent => {
            Some(Box::new(calls::judge_result(input, &reply.text)))
        }
        _ => None,
    };
    RunEnd {
        outcome,
        judged,
        compacted: None,
        usage: tally.usage,
        bill: tally.bill,
        unrecorded: tally.usage.minus(&tally.recorded),
        attempts: tally.attempts,
        tool_calls: tally.tool_calls,
        steps: tally.steps,
        // What came of asking is put here by whoever asks ([`run`]).
        cooldowns: input.cooldowns.clone(),
        load,
        began_ms,
        ended_ms: host.now_ms(),
    }
}

/// What came of a compaction that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// Tokens of the conversation before.
    pub tokens_before: u64,
    /// Number of the first message that stayed.
    pub first_kept: u64,
    /// The summary.
    pub summary: String,
    /// Files that were read in what it stands for.
    pub files_read: Vec<String>,
}

/// What came of a compaction, and what is to be remembered of asking.
#[derive(Debug)]
pub struct CompactEnd {
    /// `Ok(None)`: there is nothing to summarise. A failure changed nothing.
    pub outcome: Result<Option<Compacted>, Failure>,
    /// Which profiles rest, as found at the end: for its owner to merge.
    pub cooldowns: Cooldowns,
    /// What it took.
    tally: Tally,
}

/// Summarises a session's conversation up to its newest turn (`/compact`, `sessions.compact`).
pub fn compact(input: &RunInput, instructions: Option<&str>, host: &mut dyn Host) -> CompactEnd {
    let mut cooldowns = input.cooldowns.clone();
    let (outcome, tally) = {
        let mut ask = asker(input, host.stop().clone(), &mut cooldowns);
        compact_with(input, instructions, host, &mut ask)
    };
    CompactEnd { outcome, cooldowns, tally }
}

fn compact_with(
    input: &RunInput,
    instructions: Option<&str>,
    host: &mut dyn Host,
    ask: &mut Asker<'_>,
) -> (Result<Option<Compacted>, Failure>, Tally) {
    let mut turn = Turn::new(input, host);
    let outcome = turn.compact_all(instructions, ask).map_err(|end| match end {
        End::Failed(failure) => failure,
        End::Stopped(why) => failure(FailureKind::Stopped, format!("stopped: {}", why.as_str())),
    });
    (outcome, turn.tally)
}

/// The same as a run of its own, whose reply says what came of it.
pub fn compact_run(input: &RunInput, instructions: Option<&str>, host: &mut dyn Host) -> RunEnd {
    let began_ms = host.now_ms();
    let CompactEnd { outcome, cooldowns, tally } = compact(input, instructions, host);
    let mut done = None;
    let outcome = match (outcome, host.stop().why()) {
        (Ok(compacted), _) => {
            let reply = said_of(input, compacted.as_ref());
            done = compacted.map(Box::new);
            Outcome::Replied(Box::new(reply))
        }
        (Err(_), Some(why)) => Outcome::Stopped { why, partial: String::new() },
        (Err(failure), None) => Outcome::Failed(failure),
    };
    RunEnd {
        outcome,
        judged: None,
        compacted: done,
        usage: tally.usage,
        bill: tally.bill,
        unrecorded: tally.usage.minus(&tally.recorded),
        attempts: tally.attempts,
        tool_calls: 0,
        steps: tally.steps,
        load: None,
        cooldowns,
        began_ms,
        ended_ms: host.now_ms(),
    }
}

/// What a person is told of a compaction.
fn said_of(input: &RunInput, compacted: Option<&Compacted>) -> Reply {
    let text = match compacted {
        Some(compacted) => format!(
            "What was said before is summarised: it was about {} tokens. It stays where it is, to be read.",
            compacted.tokens_before
        ),
        None => "There is nothing to summarise yet.".to_owned(),
    };
    let (provider, model) = transcript::BY_GATEWAY;
    Reply {
        said: vec![Said::Text(text.clone())],
        is_silent: false,
        provider: provider.to_owned(),
        model: model.to_owned(),
        api: "openai-responses",
        stop: StopReason::Stop,
        usage: Usage::default(),
        record: Record {
            role: "assistant",
            content: json!([{ "type": "text", "text": text }]),
            extra: transcript::answer_fields(),
            idempotency_key: input.run_id.clone(),
            judged: Vec::new(),
            background: None,
        },
        text,
    }
}

#[derive(Debug, Default)]
struct Tally {
    usage: Usage,
    /// Of answers that a message was recorded for.
    recorded: Usage,
    bill: Bill,
    attempts: Vec<Attempt>,
    tool_calls: u32,
    steps: u32,
}

struct Turn<'a> {
    input: &'a RunInput,
    host: &'a mut dyn Host,
    tally: Tally,
    /// What the model has said since the last tool call.
    partial: String,
    deadline: Option<Instant>,
    /// What was to be put before the first model.
    load: Option<Load>,
    /// Where pictures and files lie.
    media: MediaDir,
}

impl<'a> Turn<'a> {
    fn new(input: &'a RunInput, host: &'a mut dyn Host) -> Turn<'a> {
        let media = MediaDir::of(&input.config.state_dir);
        Turn { input, host, tally: Tally::default(), partial: String::new(), deadline: None, load: None, media }
    }
}

impl Turn<'_> {
    fn go(&mut self, ask: &mut Asker<'_>, call: &mut Caller<'_>) -> Result<Reply, End> {
        self.check()?;
        self.host.tell(RunEvent::Phase("preparing_context"));
        let setting = self.setting()?;
        self.deadline = Instant::now().checked_add(setting.timeout);
        let mut budget = setting.conversation_tokens_max();
        let mut conversation = self.read(&setting, budget, true)?;
        if conversation.newest_user().is_none() {
            return Err(failure(FailureKind::Format, "there is no message to answer".to_owned()).into());
        }
        self.load = self.load(&setting, &conversation);
        let mut guard = Guard::new(setting.loops, setting.tool_steps_max);
        let mut n_steps = self.take_up(&setting, &mut conversation, &mut guard, call)?;
        let (mut may_compact, mut may_shrink) = (true, true);
        self.host.tell(RunEvent::Phase("starting_model"));
        loop {
            self.check()?;
            if conversation.tokens() > budget && may_compact {
                may_compact = false;
                conversation = self.compact_and_read(&setting, conversation, budget, ask)?;
            }
            if !conversation.fit(budget) {
                return Err(too_long().into());
            }
            let answered = match self.ask(&setting, &conversation, ask)? {
                Ok(answered) => answered,
                Err(failure) if failure.kind == FailureKind::ContextLength && (may_compact || may_shrink) => {
                    budget = conversation.tokens().min(budget) * SHRINK_PERCENT / 100;
                    may_shrink = may_compact;
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            if let Some(reply) = self.reply(&answered) {
                return Ok(reply);
            }
            n_steps += 1;
            let step = self.step(&setting, answered, n_steps, &mut guard, call)?;
            conversation.items.extend(step);
            if guard.is_hopeless() {
                let message = format!("the model called tools without end ({} calls)", guard.n_calls());
                return Err(failure(FailureKind::Format, message).into());
            }
        }
    }

    /// What the first model is to be asked with; `None`: there is no model.
    fn load(&self, setting: &Setting, conversation: &Conversation) -> Option<Load> {
        let model = setting.chain.first()?;
        let models = self.input.models.get();
        let facts = models.facts(model)?;
        let beside = setting.input_tokens_max.saturating_sub(setting.conversation_tokens_max());
        Some(Load {
            provider: model.provider.clone(),
            model: model.model.clone(),
            api: facts.api.as_str(),
            prices: facts.cost,
            window: setting.facts.context_window.unwrap_or(setting.input_tokens_max),
            room: setting.input_tokens_max,
            tokens: beside + conversation.tokens(),
            n_items: conversation.items.len() as u64,
            reducible_chars: conversation.old_result_chars(),
            at_ms: self.host.now_ms(),
        })
    }

    /// Ends the run when it is to be stopped, or has lasted too long.
    fn check(&self) -> Result<(), End> {
        if let Some(why) = self.host.stop().why() {
            return Err(End::Stopped(why));
        }
        match self.deadline {
            // What it waited for people is no time of its own.
            Some(deadline) if Instant::now() >= deadline + self.host.waited() => Err(End::Stopped(Why::Timeout)),
            _ => Ok(()),
        }
    }

    fn setting(&mut self) -> Result<Setting, End> {
        let key = self.input.session.as_str();
        let session = self.host.store()?.session(key)?;
        let Some(session) = session else {
            return Err(failure(FailureKind::Format, format!("session {key} is not there")).into());
        };
        let now_ms = self.host.now_ms();
        Setting::of(self.input, session, self.host.stop(), now_ms)
            .map_err(|error| failure(FailureKind::NoModel, error.to_string()).into())
    }

    fn read(&mut self, setting: &Setting, budget: u64, is_to_answer: bool) -> Result<Conversation, End> {
        let (provider, model) = setting.first();
        let reading = Reading {
            session_id: &setting.session.session_id,
            provider,
            model,
            budget,
            zone: setting.has_timestamps.then_some(&setting.zone),
            is_to_answer,
            media: &self.media,
            sees_pictures: setting.sees_pictures,
        };
        let store = self.host.store()?;
        Ok(store.snapshot(|store| history::read(store, &reading))?)
    }

    /// Takes up what this very run has done before: makes calls that were interrupted again, where that does nothing twice,
    /// answers the others, and counts its steps.
    fn take_up(
        &mut self,
        setting: &Setting,
        conversation: &mut Conversation,
        guard: &mut Guard,
        caller: &mut Caller<'_>,
    ) -> Result<u32, End> {
        let prefix = step_prefix(&self.input.run_id);
        let unanswered = std::mem::take(&mut conversation.unanswered);
        let mut n_steps = 0;
        for (place, item) in conversation.items.iter_mut().enumerate() {
            let Item::Step(step) = item else { continue };
            let number = step.key.as_deref().and_then(|key| key.strip_prefix(&prefix)?.parse::<u32>().ok());
            let Some(number) = number else { continue };
            n_steps = n_steps.max(number);
            let missing = unanswered.iter().find(|(at, _)| *at == place).map(|(_, ids)| ids.as_slice());
            let calls: Vec<ToolCall> = step.calls().cloned().collect();
            for (idx, call) in calls.iter().enumerate() {
                if missing.is_some_and(|ids| ids.contains(&call.id)) {
                    self.check()?;
                    let weighed = calls::weigh(self.input, setting, self.host.stop(), &setting.policy, call);
                    // What a person was asked about is begun only once that is on disk.
                    let asked =
                        self.host.store()?.approval(&approval_id(&call_key(&self.input.run_id, number, idx)))?;
                    let never_begun = asked.is_some_and(|asked| asked.used_ms.is_none());
                    let weighed = weighed.ok().filter(|weighed| weighed.effect != Effect::Once || never_begun);
                    step.results[idx] = self.told(call, (number, idx), |turn, key| match weighed {
                        Some(weighed) => {
                            turn.tally.tool_calls += 1;
                            turn.make(setting, call, weighed, key, caller)
                        }
                        None => Called::failed(call, RESTARTED),
                    })?;
                }
                let is_unknown = tools::find(&call.name).is_none();
                guard.note(&call.name, &call.arguments, &step.results[idx].text(), is_unknown);
            }
        }
        Ok(n_steps)
    }

    fn ask(
        &mut self,
        setting: &Setting,
        conversation: &Conversation,
        ask: &mut Asker<'_>,
    ) -> Result<Result<Answered, Failure>, End> {
        let mut params = self.input.ask.params.clone();
        // Every wire format has its own word for it.
        let max_output_tokens = params.remove("max_completion_tokens").and_then(|tokens| tokens.as_u64());
        let prompt = Prompt {
            system: setting.system.clone(),
            messages: conversation.messages(),
            tools: setting.tools.clone(),
            thinking: setting.thinking,
            max_output_tokens,
            params,
            conversation: setting.session.session_id.clone(),
        };
        self.partial.clear();
        self.tally.steps += 1;
        let (host, partial, deadline) = (&mut *self.host, &mut self.partial, self.deadline);
        let mut gate = Gate::default();
        let question = Question { prompt: &prompt, chain: &setting.chain, profile: setting.profile.as_deref() };
        let asked = ask(&question, &mut |heard| {
            // A provider that dribbles is never silent for long, and never done.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                host.stop().stop(Why::Timeout);
            }
            match heard {
                AskEvent::Model(ModelRef { provider, model }) => {
                    host.tell(RunEvent::Model { provider: provider.clone(), model: model.clone() });
                }
                AskEvent::Piece(Piece::Text(text)) => {
                    partial.push_str(text);
                    let shown = gate.push(text);
                    if !shown.is_empty() {
                        host.tell(RunEvent::Text(shown));
                    }
                }
                AskEvent::Piece(Piece::Thinking(text)) => host.tell(RunEvent::Thinking(text.to_owned())),
                AskEvent::Fallback { from, to } => {
                    host.tell(RunEvent::Fallback { from: from.clone(), to: to.to_string() });
                }
                AskEvent::Restart => begin_anew(host, partial, &mut gate),
            }
        });
        self.tally.attempts.extend(asked.attempts);
        let answered = match asked.result {
            Ok(answered) => answered,
            Err(failure) => {
                // What was stopped, or ran out of time, failed because of that.
                self.check()?;
                if failure.kind == FailureKind::Stopped {
                    return Err(End::Stopped(self.host.stop().why().unwrap_or(Why::Rpc)));
                }
                if !self.partial.is_empty() {
                    begin_anew(self.host, &mut self.partial, &mut gate);
                }
                return Ok(Err(failure));
            }
        };
        let rest = gate.finish();
        if !rest.is_empty() {
            self.host.tell(RunEvent::Text(rest));
        }
        self.count(&answered);
        self.host.tell(RunEvent::Usage(self.tally.usage));
        Ok(Ok(answered))
    }

    /// The last words of the run, when these are its last: no tools are to be called, or the caller's.
    fn reply(&self, answered: &Answered) -> Option<Reply> {
        let is_theirs = |call: &ToolCall| self.input.ask.client_tools.iter().any(|tool| tool.name == call.name);
        let mut answer = answered.answer.clone();
        if answer.calls().next().is_some() {
            if !answer.calls().any(is_theirs) {
                return None;
            }
            // It is the caller who goes on; a call of ours beside theirs would wait for a result for good.
            answer.said.retain(|said| !matches!(said, Said::Call(call) if !is_theirs(call)));
        }
        let has_calls = answer.calls().next().is_some();
        let cleaned = silence::clean(&answer.text());
        let mut content: Vec<Value> =
            answer.said.iter().filter(|said| matches!(said, Said::Thinking { .. })).map(block).collect();
        if !cleaned.text.is_empty() {
            content.push(json!({ "type": "text", "text": cleaned.text }));
        }
        content.extend(answer.said.iter().filter(|said| matches!(said, Said::Call(_))).map(block));
        let mut extra = self.about(answered);
        let is_silent = cleaned.is_silent && !has_calls;
        if is_silent && !answer.text().trim().is_empty() {
            extra.push((SILENT, json!(true)));
        }
        match &cleaned.reply_to {
            Some(ReplyTo::Current) => extra.push(("replyToCurrent", json!(true))),
            Some(ReplyTo::Id(id)) => extra.push(("replyToId", json!(id))),
            None => {}
        }
        if self.input.attempt > 1 {
            extra.push(("continuedAfterRestart", json!(true)));
        }
        Some(Reply {
            said: answer.said,
            text: cleaned.text,
            is_silent,
            provider: answered.model.provider.clone(),
            model: answered.model.model.clone(),
            api: answered.api,
            stop: answer.stop,
            usage: answer.usage,
            record: Record {
                role: "assistant",
                content: Value::Array(content),
                extra,
                idempotency_key: format!("{}:reply", self.input.run_id),
                judged: Vec::new(),
                background: None,
            },
        })
    }

    /// Records what the model said, calls what it wants, and records each answer. Messages that come meanwhile follow.
    fn step(
        &mut self,
        setting: &Setting,
        answered: Answered,
        number: u32,
        guard: &mut Guard,
        caller: &mut Caller<'_>,
    ) -> Result<Vec<Item>, End> {
        let key = step_key(&self.input.run_id, number);
        let calls: Vec<ToolCall> = answered.answer.calls().cloned().collect();
        let policy = self.policy(setting, &answered.model);
        let weighed: Vec<Result<Weighed, Refusal>> =
            calls.iter().map(|call| calls::weigh(self.input, setting, self.host.stop(), &policy, call)).collect();
        let record = Record {
            role: "assistant",
            content: Value::Array(answered.answer.said.iter().map(block).collect()),
            extra: self.about(&answered),
            idempotency_key: key.clone(),
            judged: weighed.iter().flatten().map(|weighed| weighed.judged.clone()).collect(),
            background: None,
        };
        self.check()?;
        self.host.record(vec![record])?;
        self.tally.recorded = self.tally.recorded.plus(&answered.answer.usage);
        self.partial.clear();
        let (mut results, mut steered) = (Vec::with_capacity(calls.len()), Vec::new());
        for (idx, (call, weighed)) in calls.iter().zip(weighed).enumerate() {
            self.check()?;
            let is_overtaken = !steered.is_empty();
            let result = self.told(call, (number, idx), |turn, key| {
                if is_overtaken {
                    return Called::failed(call, OVERTAKEN);
                }
                let standing = guard.check(&call.name, &call.arguments);
                if let Standing::Refused(notice) = standing {
                    return Called::circling(call, &notice);
                }
                let is_unknown = weighed.as_ref().is_err_and(Refusal::is_unknown);
                let mut called = match weighed {
                    Ok(weighed) => turn.make(setting, call, weighed, key, caller),
                    Err(refusal) => refusal.called(call),
                };
                guard.note(&call.name, &call.arguments, &called.text(), is_unknown);
                if let Standing::Warned(notice) = standing {
                    called.add_notice(&notice);
                }
                turn.tally.tool_calls += 1;
                called
            })?;
            results.push(result);
            steered.extend(self.host.steered());
        }
        let said = answered.answer.said;
        let mut items = vec![Item::Step(Step { seq: None, said, results, key: Some(key) })];
        let mut eyes = Eyes::new(&self.media, setting.sees_pictures);
        let user = |said: Steered| {
            let mut parts = vec![Part::Text(said.text)];
            parts.extend(said.media.iter().map(|media| eyes.see(media)));
            Item::User(User { seq: None, parts, is_summary: false })
        };
        items.extend(steered.into_iter().map(user));
        Ok(items)
    }

    /// Has a call made, the `idx`th of step `number`, under a key of its own: tells that it begins, records what comes of
    /// it, and tells that.
    fn told(
        &mut self,
        call: &ToolCall,
        (number, idx): (u32, usize),
        make: impl FnOnce(&mut Self, String) -> Called,
    ) -> Result<ToolResult, End> {
        let (id, name) = (call.id.clone(), call.name.clone());
        self.host.tell(RunEvent::ToolStart { id, name, arguments: call.arguments.clone() });
        let called = make(self, call_key(&self.input.run_id, number, idx));
        self.host.record(vec![called.record(result_key(&self.input.run_id, number, idx))])?;
        self.host.tell(RunEvent::ToolEnd {
            id: call.id.clone(),
            name: call.name.clone(),
            text: called.kept(),
            is_error: called.result.is_error,
            details: called.details,
        });
        Ok(called.result)
    }

    /// What the model that answered may use: each one's provider may have rules of its own.
    fn policy<'s>(&self, setting: &'s Setting, model: &ModelRef) -> Cow<'s, Policy> {
        if setting.chain.first() == Some(model) {
            return Cow::Borrowed(&setting.policy);
        }
        let RunInput { config, session, ask, .. } = self.input;
        Cow::Owned(setting::policy(config, session, &ask.speaker, &setting.session, Some(model)))
    }

    /// Makes a call; what its tool asks the program for is carried out under `key`.
    fn make(
        &mut self,
        setting: &Setting,
        call: &ToolCall,
        mut weighed: Weighed,
        key: String,
        caller: &mut Caller<'_>,
    ) -> Called {
        let judged = weighed.judged.clone();
        if let Err(refusal) = calls::ask(self.input, setting, self.host, call, &mut weighed, &key) {
            return Called::failed(call, refusal);
        }
        let mut called = caller(self.host, setting, call, weighed);
        let Some(order) = called.order.take() else { return called };
        let tools = setting.inherited_tools();
        match self.host.carry_out(Ordered { order, key, judged, tools }) {
            Ok(answer) => Called::answered(call, answer),
            Err(why) => Called::failed(call, why),
        }
    }

    /// The fields of an answer's message beside its content, in the order of upstream's transcripts.
    fn about(&self, answered: &Answered) -> Vec<(&'static str, Value)> {
        let answer = &answered.answer;
        let stop = if answer.calls().next().is_some() { StopReason::ToolUse } else { answer.stop };
        let mut about = self.taken(answered, &answered.answer.usage);
        about.push(("stopReason", json!(stop.as_str())));
        about.extend(answer.response_id.as_ref().map(|id| ("responseId", json!(id))));
        about
    }

    /// Who gave an answer, and what was used for it.
    fn taken(&self, answered: &Answered, usage: &Usage) -> Vec<(&'static str, Value)> {
        vec![
            ("api", json!(answered.api)),
            ("provider", json!(answered.model.provider)),
            ("model", json!(answered.model.model)),
            ("usage", usage_of(usage, self.prices(answered).as_ref())),
        ]
    }

    /// What the model that answered takes; `None`: not known.
    fn prices(&self, answered: &Answered) -> Option<Prices> {
        self.input.models.get().facts(&answered.model).and_then(|facts| facts.cost)
    }

    fn count(&mut self, answered: &Answered) {
        let usage = &answered.answer.usage;
        self.tally.usage = self.tally.usage.plus(usage);
        let prices = self.prices(answered);
        self.tally.bill.add(usage, prices.as_ref());
    }

    /// Summarises the older part when leaving out old tool results is not enough, and reads the transcript again. When
    /// the model cannot, old turns are left out instead.
    fn compact_and_read(
        &mut self,
        setting: &Setting,
        conversation: Conversation,
        budget: u64,
        ask: &mut Asker<'_>,
    ) -> Result<Conversation, End> {
        let mut pruned = conversation.clone();
        pruned.clear_old_results(budget);
        if pruned.tokens() <= budget {
            return Ok(pruned);
        }
        let keep = compaction::KEEP_TOKENS.min(budget / 2);
        match self.compact(setting, &conversation, keep, None, ask) {
            Ok(Some(_)) => self.read(setting, budget, true),
            Ok(None) => Ok(conversation),
            Err(End::Stopped(why)) => Err(End::Stopped(why)),
            Err(End::Failed(failure)) => {
                log::warn!("agent: session {} could not be summarised: {failure}", setting.session.key);
                Ok(conversation)
            }
        }
    }

    fn compact_all(&mut self, instructions: Option<&str>, ask: &mut Asker<'_>) -> Result<Option<Compacted>, End> {
        self.check()?;
        let setting = self.setting()?;
        self.deadline = Instant::now().checked_add(setting.timeout);
        let conversation = self.read(&setting, setting.conversation_tokens_max(), false)?;
        self.compact(&setting, &conversation, 0, instructions, ask)
    }

    fn compact(
        &mut self,
        setting: &Setting,
        conversation: &Conversation,
        keep: u64,
        instructions: Option<&str>,
        ask: &mut Asker<'_>,
    ) -> Result<Option<Compacted>, End> {
        let material_max = setting.input_tokens_max / 2;
        let Some(plan) = compaction::plan(conversation, keep, material_max) else { return Ok(None) };
        // Only what happens by itself: who shortens a conversation on purpose has read it.
        let (memory, judged) = if keep > 0 { self.note(setting, &plan.material, ask)? } else { (None, None) };
        self.host.tell(RunEvent::CompactionStart);
        let prompt = compaction::prompt(&plan, instructions, &setting.session.session_id);
        let question = Question { prompt: &prompt, chain: &setting.chain, profile: setting.profile.as_deref() };
        let (host, deadline) = (&mut *self.host, self.deadline);
        let asked = ask(&question, &mut |_| {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                host.stop().stop(Why::Timeout);
            }
        });
        self.tally.attempts.extend(asked.attempts);
        let summary = asked.result.map(|answered| {
            self.count(&answered);
            (answered.answer.text(), answered)
        });
        let text = summary.as_ref().map(|(summary, _)| compaction::kept(summary)).unwrap_or_default();
        let recorded = match summary {
            Ok((summary, _)) if summary.trim().is_empty() => {
                Err(failure(FailureKind::Format, "the summary is empty".to_owned()).into())
            }
            Ok((summary, answered)) => {
                let key = format!("{}:compaction:{}", self.input.run_id, self.input.attempt);
                let mut record = compaction::record(&plan, &summary, memory.as_deref(), key);
                // With what the note took that was made for it: that has no message of its own.
                let usage = self.tally.usage.minus(&self.tally.recorded);
                record.extra.extend(self.taken(&answered, &usage));
                record.judged = judged.into_iter().collect();
                let recorded = self.host.record(vec![record]).map_err(End::from);
                if recorded.is_ok() {
                    self.tally.recorded = self.tally.usage;
                }
                recorded
            }
            Err(failure) => self.check().and(Err(failure.into())),
        };
        // Whoever was told of the beginning is told of the end.
        self.host.tell(RunEvent::CompactionEnd { will_retry: keep > 0 });
        recorded?;
        Ok(Some(Compacted {
            tokens_before: plan.tokens_before(),
            first_kept: plan.first_kept(),
            summary: text,
            files_read: plan.files_read().to_vec(),
        }))
    }

    /// Has noted what of a conversation is worth remembering before it is summarised; gives the file it is in, and what
    /// was decided about it. What goes wrong is told in the log: a summary does not fail for it.
    fn note(
        &mut self,
        setting: &Setting,
        material: &str,
        ask: &mut Asker<'_>,
    ) -> Result<(Option<String>, Option<Judged>), End> {
        let nothing = Ok((None, None));
        if !self.input.config.settings.agents.defaults.runs.notes_memory || is_subagent(&self.input.session) {
            return nothing;
        }
        let (session, now_ms) = (&setting.session, self.host.now_ms());
        let compactions = setting.facts.compactions;
        let Some(place) = Place::of(&session.session_id, compactions, now_ms, &setting.zone) else { return nothing };
        if place.is_noted(&setting.workspace) {
            return Ok((Some(place.path()), None));
        }
        self.host.tell(RunEvent::Phase("memory_flushing"));
        let prompt = memory::prompt(material, &session.session_id);
        let question = Question { prompt: &prompt, chain: &setting.chain, profile: setting.profile.as_deref() };
        let (host, deadline) = (&mut *self.host, self.deadline);
        let asked = ask(&question, &mut |_| {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                host.stop().stop(Why::Timeout);
            }
        });
        self.tally.attempts.extend(asked.attempts);
        self.check()?;
        let answered = match asked.result {
            Ok(answered) => answered,
            Err(failure) => {
                log::warn!("agent: nothing is noted of session {} before it is summarised: {failure}", session.key);
                return nothing;
            }
        };
        self.count(&answered);
        let Some(entry) = memory::entry(&answered.answer.text()) else { return nothing };
        // The words were made of what anybody may have said, and will be read as the agent's own.
        let (judged, entry) = calls::judge_note(self.input, setting, &self.input.run_id, &entry);
        let Some(entry) = entry else { return Ok((None, Some(judged))) };
        let noted = match place.add(&setting.workspace, &entry) {
            Ok(Added::Now | Added::Before) => Some(place.path()),
            Ok(Added::Full) => {
                log::warn!("agent: {} has no room for what was to be noted of session {}", place.path(), session.key);
                None
            }
            Err(error) => {
                log::warn!("agent: {} cannot be written: {error}", place.path());
                None
            }
        };
        Ok((noted, Some(judged)))
    }
}

fn too_long() -> Failure {
    failure(FailureKind::ContextLength, "the message is longer than the model reads".to_owned())
}

/// What was shown of an answer counts no more.
fn begin_anew(host: &mut dyn Host, partial: &mut String, gate: &mut Gate) {
    partial.clear();
    *gate = Gate::default();
    host.tell(RunEvent::Restart);
}

/// The beginning of the idempotency keys of what a run recorded step by step.
pub fn step_prefix(run_id: &str) -> String {
    format!("{run_id}:step:")
}

/// The idempotency key of a call's result; `step` is that of the answer that called.
pub fn result_key_of(step: &str, idx: usize) -> String {
    format!("{step}:result:{idx}")
}

fn step_key(run_id: &str, step: u32) -> String {
    format!("{}{step}", step_prefix(run_id))
}

/// Names a call of a run for good.
fn call_key(run_id: &str, number: u32, idx: usize) -> String {
    format!("{}:call:{idx}", step_key(run_id, number))
}

fn result_key(run_id: &str, step: u32, idx: usize) -> String {
    result_key_of(&step_key(run_id, step), idx)
}

/// A part of what a model said, as it is stored.
fn block(said: &Said) -> Value {
    match said {
        Said::Text(text) => json!({ "type": "text", "text": text }),
        Said::Thinking { text, signature } => {
            let mut block = json!({ "type": "thinking", "thinking": text });
            if let Some(signature) = signature {
                block["thinkingSignature"] = json!(signature);
            }
            block
        }
        Said::Call(call) => {
            json!({ "type": "toolCall", "id": call.id, "name": call.name, "arguments": call.arguments })
        }
    }
}

/// Tokens and what they cost, as transcripts show them. A price that is not known is left out.
pub fn usage_of(usage: &Usage, prices: Option<&Prices>) -> Value {
    let mut out = json!({
        "input": usage.input,
        "output": usage.output,
        "cacheRead": usage.cache_read,
        "cacheWrite": usage.cache_write,
        "totalTokens": usage.total(),
    });
    let nothing = Prices::default();
    if let Some(prices) = prices.or((usage.total() == 0).then_some(&nothing)) {
        let costs = prices.of(usage);
        out["cost"] = json!({
            "input": number(costs[0]),
            "output": number(costs[1]),
            "cacheRead": number(costs[2]),
            "cacheWrite": number(costs[3]),
            "total": number(prices.total(usage)),
        });
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
