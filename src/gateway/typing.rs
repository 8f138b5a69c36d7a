//! Who is writing where: what `session.typing` tells others who look at the same session.
//!
//! [`Typing`] is a machine without IO: it hears of keystrokes ([`Typing::hear`]) and of connections that end
//! ([`Typing::left`]), and says what is to be told, at once or when its time has come ([`Typing::due`]). A person who
//! writes on several connections writes as long as one of them does. Nothing of it is kept: who does not say it again
//! has stopped.
//!
//! A person is who a connection proved to be, as the audit trail names it: its device, else how it got in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::{Fact, Gateway};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock::Now;

/// People in sessions who write at once; of more, the one heard of longest ago is forgotten.
pub const TYPISTS_MAX: usize = 2048;
/// How long somebody writes who does not say it again.
pub const ACTIVE: Duration = Duration::from_millis(2500);
/// Others are told of somebody no more often than this,
pub const TELL_EVERY: Duration = Duration::from_secs(1);
/// or than this, when what is written is shown.
pub const TELL_EVERY_WITH_PREVIEW: Duration = Duration::from_millis(250);

/// Somebody who writes in a session: the session's key and transcript, and who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer {
    /// The session.
    pub session: SessionKey,
    /// Its id when they wrote.
    pub session_id: String,
    /// Who.
    pub actor: String,
}

/// What others are told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether they write.
    pub is_typing: bool,
    /// What they wrote so far, when they let it be seen.
    pub preview: Option<String>,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Of whom.
    pub writer: Writer,
    /// What.
    pub state: State,
}

#[derive(Debug)]
struct Hand {
    until: Instant,
    preview: Option<String>,
}

#[derive(Debug)]
struct Typist {
    /// The connections on which they write.
    hands: BTreeMap<ConnId, Hand>,
    heard: Instant,
    /// What was told last, and when.
    told: Option<(State, Instant)>,
}

impl Typist {
    fn state(&self) -> State {
        let newest = self.hands.values().filter(|hand| hand.preview.is_some()).max_by_key(|hand| hand.until);
        State { is_typing: !self.hands.is_empty(), preview: newest.and_then(|hand| hand.preview.clone()) }
    }

    /// When its state may be told.
    fn may_tell(&self, state: &State) -> Option<Instant> {
        let (_, at) = self.told.as_ref()?;
        Some(*at + if state.preview.is_some() { TELL_EVERY_WITH_PREVIEW } else { TELL_EVERY })
    }

    /// When something is to be done about it, if nothing else happens.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let is_news = self.told.as_ref().is_none_or(|(told, _)| *told != state);
        let tell = self.may_tell(&state).filter(|_| is_news);
        self.hands.values().map(|hand| hand.until).chain(tell).min()
    }
}

/// Everybody who writes.
#[derive(Debug, Default)]
pub struct Typing {
    typists: BTreeMap<Writer, Typist>,
}

impl Typing {
    /// Somebody writes, or stopped, on a connection; what is to be told at once.
    pub fn hear(&mut self, now: Instant, writer: &Writer, conn: ConnId, state: State) -> Option<Tell> {
        if !self.typists.contains_key(writer) {
            if !state.is_typing {
                return None;
            }
            self.make_room();
        }
        let fresh = || Typist { hands: BTreeMap::new(), heard: now, told: None };
        let typist = self.typists.entry(writer.clone()).or_insert_with(fresh);
        typist.heard = now;
        typist.hands.retain(|_, hand| hand.until > now);
        if state.is_typing {
            typist.hands.insert(conn, Hand { until: now + ACTIVE, preview: state.preview });
        } else {
            typist.hands.remove(&conn);
        }
        self.tell(now, writer, true)
    }

    /// A connection ended: nobody writes on it any more. Others are told when [`Typing::due`] is asked next.
    pub fn left(&mut self, conn: ConnId) {
        for typist in self.typists.values_mut() {
            typist.hands.remove(&conn);
        }
    }

    /// What was told of somebody did not reach anybody: they are forgotten, so that the next word is news again.
    pub fn forget(&mut self, writer: &Writer) {
        self.typists.remove(writer);
    }

    /// What is to be told by now.
    pub fn due(&mut self, now: Instant) -> Vec<Tell> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let writers: Vec<Writer> = self.typists.keys().cloned().collect();
        writers
            .into_iter()
            .filter_map(|writer| {
                let typist = self.typists.get_mut(&writer)?;
                typist.hands.retain(|_, hand| hand.until > now);
                self.tell(now, &writer, false)
            })
            .collect()
    }

    /// When [`Typing::due`] is to be asked again, though nothing else happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.typists.values().filter_map(Typist::deadline).min()
    }

    /// How many there are.
    pub fn n_typists(&self) -> usize {
        self.typists.len()
    }

    /// What is to be told of somebody now; what was told before is told again only when they were just heard of.
    fn tell(&mut self, now: Instant, writer: &Writer, is_heard: bool) -> Option<Tell> {
        let typist = self.typists.get_mut(writer)?;
        let state = typist.state();
        let is_news = typist.told.as_ref().map_or(state.is_typing, |(told, _)| *told != state);
        let may_tell = typist.may_tell(&state).is_none_or(|at| at <= now);
        if !state.is_typing && (!is_news || may_tell) {
            self.typists.remove(writer);
        } else if may_tell && (is_news || is_heard) {
            typist.told = Some((state.clone(), now));
        }
        (may_tell && (is_news || is_heard && state.is_typing)).then(|| Tell { writer: writer.clone(), state })
    }

    fn make_room(&mut self) {
        if self.typists.len() < TYPISTS_MAX {
            return;
        }
        let oldest = self.typists.iter().min_by_key(|(_, typist)| typist.heard).map(|(writer, _)| writer.clone());
        if let Some(oldest) = oldest {
            self.typists.remove(&oldest);
        }
    }
}

/// A `session.typing` whose session is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// On which connection,
    pub conn: ConnId,
    /// under which id.
    pub id: String,
    /// Who writes where, as they say.
    pub writer: Writer,
    /// Whether they do.
    pub state: State,
}

impl Gateway {
    /// Somebody says whether they write. Only when somebody else looks at the session is it looked up, for its id: who
    /// writes to one that was reset meanwhile writes to nobody.
    pub(super) fn asked_to_tell_typing(&mut self, asked: Asked) {
        if !self.is_of_interest(&asked.writer, asked.state.is_typing) {
            self.typing.forget(&asked.writer);
            return self.answer_typing(&asked, Ok(false));
        }
        let key = asked.writer.session.as_str().to_owned();
        let work = Work::Query(Box::new(move |store| {
            let session_id = store.get()?.session(&key)?.map(|session| session.session_id);
            Ok(Done { answer: None, facts: vec![Fact::SessionId(session_id)] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Typing(Box::new(asked)), work }));
    }

    /// The session of a `session.typing` is known.
    pub(super) fn typing_looked_up(&mut self, now: Now, asked: Asked, outcome: Result<Done, RpcError>) {
        let is_this = |done: Done| {
            done.facts.iter().any(|fact| matches!(fact, Fact::SessionId(Some(id)) if *id == asked.writer.session_id))
        };
        let told = match outcome.map(is_this) {
            // Whoever left meanwhile writes no more.
            Ok(true) if self.clients.ready(asked.conn).is_some() => {
                let tell = self.typing.hear(now.mono, &asked.writer, asked.conn, asked.state.clone());
                Ok(tell.is_some_and(|tell| self.tell_typing_of(now, &tell)))
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        self.answer_typing(&asked, told);
    }

    fn answer_typing(&mut self, asked: &Asked, told: Result<bool, RpcError>) {
        let answer = told.and_then(|told| Json::of(&json!({ "ok": true, "broadcast": told })));
        self.answer_request(asked.conn, &asked.id, answer);
    }

    /// Tells what is due.
    pub(super) fn tell_typing(&mut self, now: Now) {
        for tell in self.typing.due(now.mono) {
            self.tell_typing_of(now, &tell);
        }
    }

    /// Tells others who follow the session; says whether it was told.
    fn tell_typing_of(&mut self, now: Now, tell: &Tell) -> bool {
        let Tell { writer, state } = tell;
        if !self.is_of_interest(writer, state.is_typing) {
            self.typing.forget(writer);
            return false;
        }
        let mut actor = json!({ "type": "human", "id": writer.actor });
        if let Some(name) = self.name_of(&writer.actor) {
            actor["label"] = json!(name);
        }
        let mut payload = json!({
            "sessionKey": writer.session.as_str(),
            "sessionId": writer.session_id,
            "agentId": writer.session.agent().unwrap_or(&self.keys.default_agent),
            "actor": actor,
            "typing": state.is_typing,
            "ts": now.wall_ms,
        });
        if let Some(preview) = &state.preview {
            payload["preview"] = json!(preview);
        }
        let Ok(payload) = Json::of(&payload) else { return false };
        self.broadcast(&broadcast::SESSION_TYPING, For::SessionMessagesBut(&writer.session, &writer.actor), &payload);
        true
    }

    /// Whether somebody else looks at the session; who writes there looks at it as well, and who stopped need not.
    fn is_of_interest(&self, writer: &Writer, is_typing: bool) -> bool {
        let watching =
            self.clients.all_ready().filter(|(_, ready)| ready.subscriptions.watched.contains(&writer.session));
        let (mut own, mut others) = (false, false);
        for (_, ready) in watching {
            if ready.caller.actor() == writer.actor { own = true } else { others = true }
        }
        others && (own || !is_typing)
    }

    /// What a person's program calls itself in the presence list.
    fn name_of(&self, actor: &str) -> Option<String> {
        let of_actor = self.clients.all_ready().find(|(_, ready)| ready.caller.actor() == actor);
        let key = of_actor?.1.presence_key.as_ref()?;
        self.presence.get(key)?.host.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(name: &str) -> Writer {
        let session = SessionKey::stored("agent:main:main".to_owned());
        Writer { session, session_id: "s".to_owned(), actor: name.to_owned() }
    }

    fn typing(preview: Option<&str>) -> State {
        State { is_typing: true, preview: preview.map(str::to_owned) }
    }

    fn told(tells: Vec<Tell>) -> Vec<State> {
        tells.into_iter().map(|tell| tell.state).collect()
    }

    #[test]
    fn others_hear_of_it_at_once_then_at_a_pace_and_of_its_end() {
        let (mut all, start, ann) = (Typing::default(), Instant::now(), writer("ann"));
        let at = |ms| start + Duration::from_millis(ms);
        let mut hear = |ms, state| all.hear(at(ms), &ann, ConnId(1), state).map(|tell| tell.state);
        assert_eq!(hear(0, typing(None)), Some(typing(None)));
        assert_eq!(hear(500, typing(None)), None, "told lately");
        assert_eq!(hear(1000, typing(None)), Some(typing(None)), "still there");
        assert_eq!(hear(1100, State::default()), None, "the end waits as well");
        assert_eq!(all.deadline(), Some(at(2000)));
        assert!(all.due(at(1999)).is_empty());
        assert_eq!(told(all.due(at(2000))), [State::default()]);
        assert_eq!((all.n_typists(), all.deadline()), (0, None));
    }

    #[test]
    fn who_does_not_say_it_again_has_stopped() {
        let (mut all, start) = (Typing::default(), Instant::now());
        all.hear(start, &writer("ann"), ConnId(1), typing(None));
        assert_eq!(all.deadline(), Some(start + ACTIVE));
        assert!(all.due(start + ACTIVE - Duration::from_millis(1)).is_empty());
        assert_eq!(told(all.due(start + ACTIVE)), [State::default()]);
        assert_eq!(all.n_typists(), 0);
    }

    #[test]
    fn a_person_writes_as_long_as_one_of_their_connections_does() {
        let (mut all, start, ann) = (Typing::default(), Instant::now(), writer("ann"));
        all.hear(start, &ann, ConnId(1), typing(Some("one")));
        all.hear(start, &ann, ConnId(2), typing(Some("two")));
        all.left(ConnId(2));
        assert_eq!(told(all.due(start + TELL_EVERY_WITH_PREVIEW)), [] as [State; 0], "the first was told");
        all.left(ConnId(1));
        assert_eq!(told(all.due(start + TELL_EVERY)), [State::default()], "their connections ended");
    }

    #[test]
    fn what_is_written_is_shown_more_often() {
        let (mut all, start, ann) = (Typing::default(), Instant::now(), writer("ann"));
        all.hear(start, &ann, ConnId(1), typing(Some("h")));
        assert_eq!(all.hear(start, &ann, ConnId(1), typing(Some("he"))), None);
        assert_eq!(all.deadline(), Some(start + TELL_EVERY_WITH_PREVIEW));
        assert_eq!(told(all.due(start + TELL_EVERY_WITH_PREVIEW)), [typing(Some("he"))]);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut all, start) = (Typing::default(), Instant::now());
        for n in 0..=TYPISTS_MAX as u64 {
            let at = start + Duration::from_micros(n);
            assert!(all.hear(at, &writer(&n.to_string()), ConnId(n), typing(None)).is_some());
        }
        assert_eq!(all.n_typists(), TYPISTS_MAX);
        assert!(all.hear(start, &writer("0"), ConnId(0), State::default()).is_none(), "the oldest was forgotten");
    }
}
