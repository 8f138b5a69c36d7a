//! Asking: one prompt, a chain of models, and within each provider its profiles, until one answers (MODEL-33, -40,
//! -50 to -52).
//!
//! A failure says by its kind what is done next: another profile, another model, or nothing more. Profiles that rest are
//! left out, unless nobody else is left: then the one that wakes first is asked, because an answer that might come is
//! worth more than a rest that nobody is spared by.

use std::time::Duration;

use serde_json::{Map, Value};

use super::cooldown::{Cooldowns, Rest};
use super::models::{ModelRef, Models, Provider};
use super::profiles::{self, Kind, Profile, Wish};
use super::providers::format::{self, Api, Reader, Request, Target};
use super::providers::http::Post;
use super::providers::trouble;
use super::talk::{Answer, Attempt, AttemptOutcome, Failure, FailureKind, Piece, Prompt};
use crate::runtime::stop::Stop;

/// Most requests made for one prompt, over all models and profiles.
pub const REQUESTS_MAX: usize = 32;
/// Longest wait that a provider may ask for and get in place, once for each prompt; for a longer one others are asked.
pub const WAIT_IN_PLACE_MS_MAX: u64 = 2000;
/// How often a wait looks whether the run is stopped.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// Most characters of the words that say why nobody answered.
const WHY_CHARS_MAX: usize = 1200;

/// How a prompt is asked.
pub struct Asking<'a> {
    /// Ends it.
    pub stop: &'a Stop,
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: &'a dyn Fn() -> i64,
    /// Is told what happens.
    pub tell: &'a mut dyn FnMut(AskEvent<'_>),
    /// The only profile of its provider that may be used, because a person chose it; an unknown one counts as none.
    pub pinned_profile: Option<&'a str>,
    /// The profile to use first, because it was used last: whoever answered the last step should answer the next.
    pub preferred_profile: Option<&'a str>,
}

/// What happens while a prompt is asked.
#[derive(Debug)]
pub enum AskEvent<'a> {
    /// This model is asked.
    Model(&'a ModelRef),
    /// A piece of its answer.
    Piece(Piece<'a>),
    /// The pieces so far count no more: somebody is asked anew.
    Restart,
    /// The next model is asked.
    Fallback {
        /// Who failed last.
        from: &'a Attempt,
        /// Who is next.
        to: &'a ModelRef,
    },
}

/// What came of asking.
#[derive(Debug)]
pub struct Asked {
    /// The answer, or why there is none.
    pub result: Result<Answered, Failure>,
    /// Who was asked, in order.
    pub attempts: Vec<Attempt>,
}

/// An answer and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The model.
    pub model: ModelRef,
    /// The API it was asked through.
    pub api: &'static str,
    /// The profile; `None` where none was needed.
    pub profile: Option<String>,
}

/// Asks the models of `chain` in order until one answers, and notes in `cooldowns` how their profiles did.
pub fn ask(
    models: &Models,
    cooldowns: &mut Cooldowns,
    chain: &[ModelRef],
    prompt: &Prompt,
    asking: Asking<'_>,
) -> Asked {
    let mut round = Round {
        models,
        cooldowns,
        prompt,
        asking,
        attempts: Vec::new(),
        requests: 0,
        has_shown: false,
        may_wait: true,
    };
    let result = round.run(chain);
    Asked { result, attempts: round.attempts }
}

struct Round<'r, 'a> {
    models: &'r Models,
    cooldowns: &'r mut Cooldowns,
    prompt: &'r Prompt,
    asking: Asking<'a>,
    attempts: Vec<Attempt>,
    requests: usize,
    /// Pieces were shown that count no more once another is asked.
    has_shown: bool,
    may_wait: bool,
}

/// What to do after a model gave no answer.
enum Next {
    /// Ask the next one.
    Model,
    /// Ask nobody any more.
    Nobody(Failure),
}

/// A profile that was left out because it rests.
struct Resting<'a> {
    model: &'a ModelRef,
    profile: String,
    rest: Rest,
}

impl Round<'_, '_> {
    fn run(&mut self, chain: &[ModelRef]) -> Result<Answered, Failure> {
        if chain.is_empty() {
            return Err(trouble::failure(
                FailureKind::NoModel,
                "no model is configured, and no provider has an API key: set agents.defaults.model.primary, or a \
                 provider's key in the gateway's environment",
            ));
        }
        let mut resting: Vec<Resting<'_>> = Vec::new();
        for (idx, model) in chain.iter().enumerate() {
            if let (true, Some(from)) = (idx > 0, self.attempts.last()) {
                (self.asking.tell)(AskEvent::Fallback { from, to: model });
            }
            match self.ask_model(model, &mut resting) {
                Ok(answered) => return Ok(answered),
                Err(Next::Model) => {}
                Err(Next::Nobody(failure)) => return Err(failure),
            }
        }
        if self.requests == 0
            && let Some(soonest) = resting.iter().min_by_key(|resting| resting.rest.until_ms())
            && let Some(provider) = self.models.provider(&soonest.model.provider)
        {
            let profile = provider.profiles.iter().find(|profile| profile.id == soonest.profile);
            let model = soonest.model.clone();
            match self.ask_profile(provider, &model, profile, true) {
                Ok(answered) => return Ok(answered),
                Err(failure) if ends_it(failure.kind) => return Err(failure),
                Err(_) => {}
            }
        }
        Err(self.why())
    }

    fn ask_model<'m>(&mut self, model: &'m ModelRef, resting: &mut Vec<Resting<'m>>) -> Result<Answered, Next> {
        let Some(provider) = self.models.provider(&model.provider) else {
            let why = format!("{model}: nobody is known as {}", model.provider);
            self.note(model, None, AttemptOutcome::Error(trouble::failure(FailureKind::NoModel, why)));
            return Err(Next::Model);
        };
        if let Some(why) = self.models.problem(model) {
            let failure = trouble::failure(FailureKind::Auth, format!("{model}: {why}"));
            self.note(model, None, AttemptOutcome::Error(failure));
            return Err(Next::Model);
        }
        let now_ms = (self.asking.now_ms)();
        let wish = Wish { pinned: self.asking.pinned_profile, preferred: self.asking.preferred_profile };
        let turns = profiles::in_order(&provider.profiles, &provider.order, wish, self.cooldowns, now_ms);
        if turns.is_empty() {
            return self.ask_without_profile(provider, model, resting, now_ms);
        }
        for (idx, turn) in turns.iter().enumerate() {
            if let Some(rest) = turn.rest {
                self.skip(model, &turn.profile.id, rest, resting);
                continue;
            }
            let is_last = turns[idx + 1..].iter().all(|turn| turn.rest.is_some());
            match self.ask_profile(provider, model, Some(turn.profile), is_last) {
                Ok(answered) => return Ok(answered),
                Err(failure) if ends_it(failure.kind) || self.requests >= REQUESTS_MAX => {
                    return Err(Next::Nobody(failure));
                }
                Err(failure) if !is_about_profile(failure.kind) => return Err(Next::Model),
                Err(_) => {}
            }
        }
        Err(Next::Model)
    }

    fn ask_without_profile<'m>(
        &mut self,
        provider: &Provider,
        model: &'m ModelRef,
        resting: &mut Vec<Resting<'m>>,
        now_ms: i64,
    ) -> Result<Answered, Next> {
        if !provider.is_open {
            let problem = provider.profiles.iter().find_map(|profile| profile.problem(now_ms));
            let why = problem.unwrap_or_else(|| "none of its profiles may be used".to_owned());
            let failure = trouble::failure(FailureKind::Auth, format!("{model}: {why}"));
            self.note(model, None, AttemptOutcome::Error(failure));
            return Err(Next::Model);
        }
        let key = profile_key(provider, None);
        if let Some(rest) = self.cooldowns.rest(&key, now_ms) {
            self.skip(model, &key, rest, resting);
            return Err(Next::Model);
        }
        match self.ask_profile(provider, model, None, true) {
            Ok(answered) => Ok(answered),
            Err(failure) if ends_it(failure.kind) || self.requests >= REQUESTS_MAX => Err(Next::Nobody(failure)),
            Err(_) => Err(Next::Model),
        }
    }

    fn skip<'m>(&mut self, model: &'m ModelRef, profile: &str, rest: Rest, resting: &mut Vec<Resting<'m>>) {
        self.note(model, Some(profile), AttemptOutcome::Skipped(rest.as_str()));
        resting.push(Resting { model, profile: profile.to_owned(), rest });
    }

    /// Asks with one profile; once more after a short wait, when the provider asks for that and there is no other one.
    fn ask_profile(
        &mut self,
        provider: &Provider,
        model: &ModelRef,
        profile: Option<&Profile>,
        is_last: bool,
    ) -> Result<Answered, Failure> {
        let failure = match self.ask_once(provider, model, profile) {
            Ok(answered) => return Ok(answered),
            Err(failure) => failure,
        };
        let wait_ms = failure.retry_after_ms.filter(|ms| *ms <= WAIT_IN_PLACE_MS_MAX);
        let is_worth_it = matches!(failure.kind, FailureKind::RateLimit | FailureKind::Unavailable);
        let failure = match wait_ms {
            Some(wait_ms) if is_last && is_worth_it && std::mem::take(&mut self.may_wait) => {
                self.wait(Duration::from_millis(wait_ms))?;
                match self.ask_once(provider, model, profile) {
                    Ok(answered) => return Ok(answered),
                    Err(failure) => failure,
                }
            }
            _ => failure,
        };
        let (key, now_ms) = (profile_key(provider, profile), (self.asking.now_ms)());
        let rules = self.models.cooldown_rules();
        self.cooldowns.failed(&key, &provider.id, failure.kind, failure.retry_after_ms, rules, now_ms);
        Err(failure)
    }

    fn ask_once(
        &mut self,
        provider: &Provider,
        model: &ModelRef,
        profile: Option<&Profile>,
    ) -> Result<Answered, Failure> {
        if std::mem::take(&mut self.has_shown) {
            (self.asking.tell)(AskEvent::Restart);
        }
        (self.asking.tell)(AskEvent::Model(model));
        self.requests += 1;
        let facts = self.models.manner(provider, model);
        let params = self.params(model);
        let target = Target {
            provider: &provider.id,
            model: &model.model,
            quirks: facts.quirks,
            reasoning: facts.reasoning,
            sees_images: facts.sees_images,
            context_window: facts.context_window,
            max_tokens: facts.max_tokens,
            params: &params,
        };
        let answer = match self.asking.stop.why() {
            Some(_) => Err(trouble::failure(FailureKind::Stopped, "the run was stopped")),
            None => {
                let told = if facts.sees_images { None } else { self.prompt.without_pictures() };
                let request = format::request(facts.api, &target, told.as_ref().unwrap_or(self.prompt));
                let headers = headers(provider, &facts.headers, facts.api, &request, profile);
                self.send(provider, request, &headers, Reader::new(facts.api, &target))
            }
        };
        let profile_id = profile.map(|profile| profile.id.as_str());
        match answer {
            Ok(answer) => {
                self.note(model, profile_id, AttemptOutcome::Ok);
                self.cooldowns.answered(&profile_key(provider, profile), (self.asking.now_ms)());
                let (model, profile) = (model.clone(), profile_id.map(str::to_owned));
                Ok(Answered { answer, model, api: facts.api.as_str(), profile })
            }
            Err(failure) => {
                let failure = Failure { message: format!("{model}: {}", failure.message), ..failure };
                self.note(model, profile_id, AttemptOutcome::Error(failure.clone()));
                Err(failure)
            }
        }
    }

    fn send(
        &mut self,
        provider: &Provider,
        request: Request,
        headers: &[(String, String)],
        mut reader: Reader,
    ) -> Result<Answer, Failure> {
        let Request { path, body: mut fields, .. } = request;
        for (name, value) in &provider.defaults {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let body = serde_json::to_vec(&fields).expect("a map of values is JSON");
        // It holds every picture once more, and an answer takes its time.
        drop(fields);
        let url = join(&provider.base_url, &path);
        let post = Post {
            url: &url,
            headers,
            body: &body,
            idle: provider.idle,
            stop: self.asking.stop,
            now_ms: (self.asking.now_ms)(),
        };
        let (tell, has_shown) = (&mut self.asking.tell, &mut self.has_shown);
        let mut tell_piece = |piece: Piece<'_>| {
            *has_shown = true;
            tell(AskEvent::Piece(piece));
        };
        self.models.client().ask(&post, &mut reader, &mut tell_piece)?;
        let answer = reader.end()?;
        // What was shown is what was answered.
        self.has_shown = false;
        Ok(answer)
    }

    /// The fields of a model's requests: what the configuration gives it, and over that what is asked for now.
    fn params(&self, model: &ModelRef) -> Map<String, Value> {
        let mut params = self.models.params(model).cloned().unwrap_or_default();
        params.extend(self.prompt.params.clone());
        params
    }

    fn wait(&self, time: Duration) -> Result<(), Failure> {
        let until = std::time::Instant::now() + time;
        loop {
            if self.asking.stop.why().is_some() {
                return Err(trouble::failure(FailureKind::Stopped, "the run was stopped"));
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STOP_LOOK));
        }
    }

    fn note(&mut self, model: &ModelRef, profile: Option<&str>, outcome: AttemptOutcome) {
        self.attempts.push(Attempt {
            provider: model.provider.clone(),
            model: model.model.clone(),
            profile: profile.map(str::to_owned),
            outcome,
        });
    }

    /// Why nobody answered: the first failure's kind, which is that of the model that was wanted, and everyone's words.
    fn why(&self) -> Failure {
        let failures: Vec<&Failure> = self
            .attempts
            .iter()
            .filter_map(|attempt| match &attempt.outcome {
                AttemptOutcome::Error(failure) => Some(failure),
                _ => None,
            })
            .collect();
        match failures[..] {
            [] => trouble::failure(FailureKind::NoModel, "no model may be asked"),
            [only] => only.clone(),
            [first, ..] => {
                let words: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
                let mut message = format!("nobody answered ({} attempts): {}", failures.len(), words.join("; "));
                if let Some((end, _)) = message.char_indices().nth(WHY_CHARS_MAX) {
                    message.truncate(end);
                    message.push('…');
                }
                Failure { message, ..first.clone() }
            }
        }
    }
}

/// Whether a failure ends the asking: nobody else would do better, or nobody else may be asked.
fn ends_it(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Stopped | FailureKind::Refusal | FailureKind::ContextLength)
}

/// Whether another profile of the same provider might do better.
fn is_about_profile(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Auth | FailureKind::RateLimit | FailureKind::Billing)
}

/// What a provider's cool-down is kept under where it is asked without a profile.
fn profile_key(provider: &Provider, profile: Option<&Profile>) -> String {
    profile.map_or_else(|| format!("{}:none", provider.id), |profile| profile.id.clone())
}

/// A path below an address, before its query; an address that ends with the path is taken as it is (MODEL-11).
fn join(base: &str, path: &str) -> String {
    let (base, query) = base.split_once('?').map_or((base, None), |(base, query)| (base, Some(query)));
    let base = base.trim_end_matches('/');
    // `https://host/v1` and `/v1/messages` share their middle; Ollama's own API lies beside `/v1`.
    let is_beside = path.starts_with("/v1/") || path.starts_with("/api/");
    let base = base.strip_suffix("/v1").filter(|_| is_beside).unwrap_or(base);
    let (path, own_query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut url = if base.ends_with(path) { base.to_owned() } else { format!("{base}{path}") };
    for (idx, query) in [query, own_query].into_iter().flatten().enumerate() {
        url.push(if idx == 0 { '?' } else { '&' });
        url.push_str(query);
    }
    url
}

/// Every header of a request; later ones of the same name take the place of earlier ones.
fn headers(
    provider: &Provider,
    of_model: &[(String, crate::config::secret::Secret)],
    api: Api,
    request: &Request,
    profile: Option<&Profile>,
) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: String| {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.to_owned(), value));
    };
    for (name, value) in &request.headers {
        put(name, value.clone());
    }
    if let (true, Some(profile)) = (provider.sends_auth, profile)
        && let Ok(secret) = &profile.secret
    {
        let (name, prefix) = auth_of(provider, api, profile.kind, secret.reveal());
        put(&name, format!("{prefix}{}", secret.reveal()));
        if api == Api::AnthropicMessages && name.eq_ignore_ascii_case("authorization") && is_sign_in(secret.reveal()) {
            put("anthropic-beta", "oauth-2025-04-20".to_owned());
        }
    }
    for (name, value) in provider.headers.iter().chain(of_model) {
        put(name, value.reveal().to_owned());
    }
    headers
}

/// The header that carries the secret, and what stands before it.
fn auth_of(provider: &Provider, api: Api, kind: Kind, secret: &str) -> (String, String) {
    let is_key = kind == Kind::ApiKey && !is_sign_in(secret);
    let usual = match api {
        Api::AnthropicMessages if is_key => "x-api-key",
        Api::GoogleGenerativeAi if is_key => "x-goog-api-key",
        _ => "Authorization",
    };
    let name = provider.auth_header.clone().unwrap_or_else(|| usual.to_owned());
    let usual_prefix = if name.eq_ignore_ascii_case("authorization") { "Bearer " } else { "" };
    let prefix = provider.auth_prefix.clone().unwrap_or_else(|| usual_prefix.to_owned());
    (name, prefix)
}

/// Whether a secret is Anthropic's token of somebody who signed in, which looks different from a key.
fn is_sign_in(secret: &str) -> bool {
    secret.starts_with("sk-ant-oat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_below_any_address() {
        let chat = "/chat/completions";
        let cases = [
            ("https://h/v1", chat, "https://h/v1/chat/completions"),
            ("https://h/v1/", chat, "https://h/v1/chat/completions"),
            ("https://h/v1/chat/completions", chat, "https://h/v1/chat/completions"),
            ("https://h/d?api-version=1", chat, "https://h/d/chat/completions?api-version=1"),
            ("https://h", "/v1/messages", "https://h/v1/messages"),
            ("https://h/v1", "/v1/messages", "https://h/v1/messages"),
            ("https://h/v1/messages", "/v1/messages", "https://h/v1/messages"),
            ("http://h:11434/v1", "/api/chat", "http://h:11434/api/chat"),
            ("http://h:11434", "/api/chat", "http://h:11434/api/chat"),
            ("https://h/v1beta", "/models/m:s?alt=sse", "https://h/v1beta/models/m:s?alt=sse"),
            ("https://h/v1beta?k=1", "/models/m:s?alt=sse", "https://h/v1beta/models/m:s?k=1&alt=sse"),
        ];
        for (base, path, url) in cases {
            assert_eq!(join(base, path), url, "{base} {path}");
        }
    }
}
