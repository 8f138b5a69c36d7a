//! The core: one owner of all live state, deciding everything and doing no IO.
//!
//! The shell (`net`) feeds it [`Event`]s and carries out the [`Effect`]s it queues, so the same core runs under a seeded
//! simulation. **Invariant:** no socket, no file, no SQL, no clock in here; slow work leaves as a [`Job`] with owned
//! input and comes back as a [`Report`].
//!
//! Read in this order: [`event`] and [`effect`] (what comes and goes), [`clients`] (who is connected), [`handshake`]
//! with [`auth`], [`locality`], [`limiter`] and [`pairing`] (how one gets in), [`table`] and [`dispatch`] (how a request
//! finds its method and its answer), [`methods`] (what they do), [`broadcast`] (who hears of it), [`inbound`] (how a
//! message is accepted), [`routes`] (the same over HTTP).

pub mod active;
pub mod approvals;
pub mod auth;
pub mod broadcast;
pub mod clients;
pub mod control_writes;
pub mod cost_cache;
pub mod diary;
pub mod dispatch;
pub mod effect;
pub mod event;
pub mod facts;
pub mod handshake;
pub mod health;
pub mod hello;
pub mod housekeeping;
pub mod http;
pub mod inbound;
pub mod invocations;
pub mod limiter;
pub mod locality;
pub mod media;
pub mod methods;
pub mod openai;
pub mod page;
pub mod pairing;
pub mod presence;
pub mod records;
pub mod reference;
pub mod reload;

pub mod routes;
pub mod runs;
pub mod setups;
#[cfg(test)]
mod simulation;
pub mod stability;
#[cfg(test)]
mod stage;
pub mod suspend;
pub mod table;
pub mod typing;
pub mod unbuilt;
pub mod upgrades;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use effect::{Done, Effect, Job, Lane, Origin, Report, Work};
pub use event::{Event, Gone, Signal, Upgrade};
pub use facts::Fact;

use crate::config::load::{LoadInputs, Loaded};
use crate::defender::decision::Action;
use crate::defender::rules::Rules;
use crate::protocol::ConnId;
use crate::protocol::frame::Json;
use crate::protocol::scope::Role;
use crate::protocol::session_key::KeyRules;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::metrics;

use broadcast::For;
use clients::Clients;
use health::SessionSummary;
use limiter::Limiter;
use pairing::{Devices, TokenKey};
use presence::{Entry, Presence, Shown};

/// How often aged presence entries are looked for.
const PRESENCE_SWEEP: Duration = Duration::from_secs(30);

/// What is fixed for the life of the process.
#[derive(Debug)]
pub struct Boot {
    /// Names this run.
    pub id: String,
    /// When it started.
    pub at: Now,
    /// The machine's name.
    pub host: String,
    /// `linux 6.1.0`.
    pub platform: String,
    /// The state directory.
    pub state_dir: String,
    /// The log file.
    pub log_file: String,
    /// The gateway port.
    pub port: u16,
}

/// Everything the core starts with.
pub struct Setup {
    /// The run.
    pub boot: Boot,
    /// The configuration in force.
    pub config: Arc<Loaded>,
    /// Where it comes from.
    pub load_inputs: LoadInputs,
    /// The defender's compiled rules.
    pub rules: Arc<Rules>,
    /// What device tokens are derived from.
    pub token_key: TokenKey,
    /// What the store held.
    pub kept: records::Kept,
}

/// A cheap copy of what workers read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The configuration in force when the call came.
    pub config: Arc<Loaded>,
    /// How short names of sessions are read.
    pub keys: Arc<KeyRules>,
    /// The state directory.
    pub state_dir: Arc<str>,
    /// The log file.
    pub log_file: Arc<str>,
    /// Names this run.
    pub boot_id: Arc<str>,
    /// The gateway port.
    pub port: u16,
    /// How long the daemon had been running.
    pub uptime_ms: u64,
    /// What agents do between messages.
    pub heartbeat: health::HeartbeatRule,
    /// System events that wait for an agent.
    pub system_events: Vec<String>,
    /// What was under way.
    pub active: active::Counts,
    /// The runs that had not ended.
    pub runs: Arc<crate::sessions::row::OpenRuns>,
    /// In how many milliseconds the configuration is read again because somebody asked for it; `None`: nobody did.
    pub reload_in_ms: Option<u64>,
    /// Where the configuration comes from.
    pub load_inputs: Arc<LoadInputs>,
    /// The models that may be asked.
    pub models: Arc<crate::agent::models::LazyModels>,
}

impl Snapshot {
    /// What showing sessions needs of it.
    pub fn session_rows(&self) -> crate::sessions::row::Context<'_> {
        crate::sessions::row::Context::of(&self.config).with_runs(&self.runs)
    }
}

/// All live state, and the only place it changes. Lives on the loop's thread; there is nobody to lock out.
pub struct Gateway {
    effects: VecDeque<Effect>,
    /// The clock's reading of this turn.
    now: Now,
    boot: Boot,
    config: Arc<Loaded>,
    load_inputs: Arc<LoadInputs>,
    keys: Arc<KeyRules>,
    state_dir: Arc<str>,
    log_file: Arc<str>,
    boot_id: Arc<str>,
    rules: Arc<Rules>,

    clients: Clients,
    presence: Presence,
    typing: typing::Typing,
    setups: setups::Setups,
    approvals: approvals::Approvals,
    /// Presence keys of connections that are closing; their entries change once they are gone.
    left_presence: Vec<String>,
    /// Connections that close once the answer to their own call is out.
    closing_behind_answer: Vec<(ConnId, &'static str)>,
    limiter: Limiter,
    control_writes: control_writes::ControlWrites,
    comparer: auth::Comparer,
    /// Who knows it may read the canvas; new with every start.
    canvas_token: String,
    token_key: TokenKey,
    devices: Devices,
    upgrades: upgrades::Upgrades,

    health_version: u64,
    health_made_at_ms: i64,
    /// The snapshot as text, for protocols 3 and 4; empty when it must be made again.
    health_cache: [Option<Json>; 2],
    sessions: SessionSummary,
    /// Why health is not ok.
    degraded: Option<String>,
    cost_cache: cost_cache::CostCache,
    /// Calls that wait for what providers say; none: nobody is asking them.
    quota_waiters: Vec<methods::usage::status::Waiter>,
    heartbeats_enabled: bool,
    last_heartbeat: Option<serde_json::Value>,
    system_events: VecDeque<String>,
    voicewake: Vec<String>,

    /// System events that are only in memory; the next sweep writes them.
    system_events_unsaved: bool,
    active: active::Active,
    suspension: Option<suspend::Suspension>,
    stability: stability::Stability,
    inbound: inbound::Inbound,
    runs: runs::Runs,
    notices: runs::notices::Notices,
    invocations: invocations::Invocations,
    /// HTTP requests that wait for a method's answer.
    http_calls: BTreeMap<ConnId, routes::HttpCall>,
    /// Sessions of responses that may be continued.
    responses: openai::Responses,
    reload: reload::Reload,

    next_tick: Instant,
    next_sweep: Instant,
    next_health: Instant,
    housekeeping: housekeeping::Housekeeping,
    stopping: bool,
}

impl Gateway {
    /// A gateway with nobody connected.
    pub fn new(setup: Setup, now: Now) -> Gateway {
        let Setup { boot, config, load_inputs, rules, token_key, kept } = setup;
        let mut own = Entry {
            host: Some(boot.host.clone()),
            ip: Some(boot.host.clone()),
            version: Some(hello::RELEASE_V4.to_owned()),
            platform: Some(boot.platform.clone()),
            device_family: Some("Linux".to_owned()),
            model_identifier: Some(crate::runtime::host::arch().to_owned()),
            mode: Some("gateway".to_owned()),
            reason: Some("self".to_owned()),
            instance_id: Some(boot.id.clone()),
            ts: now.wall_ms,
            ..Entry::default()
        };
        own.describe_gateway();
        let runs = runs::Runs::new(&config, &load_inputs, kept.cooldowns, kept.left, now);
        let tick = config.settings.gateway.server.tick_interval;
        metrics::RPC_REQUESTS.declare(table::sorted().iter().map(|method| method.name).chain([dispatch::UNKNOWN]));
        metrics::DECISIONS.declare([Action::Allow, Action::Review, Action::Block].map(Action::as_str));
        Gateway {
            effects: VecDeque::new(),
            now,
            keys: Arc::new(reload::key_rules(&config)),
            state_dir: boot.state_dir.as_str().into(),
            log_file: boot.log_file.as_str().into(),
            boot_id: boot.id.as_str().into(),
            reload: reload::Reload::new(&config, now),
            housekeeping: housekeeping::Housekeeping::new(&config.settings, now),
            boot,
            config,
            load_inputs: Arc::new(load_inputs),
            rules,
            clients: Clients::default(),
            presence: Presence::new(own),
            typing: typing::Typing::default(),
            setups: kept.setups,
            approvals: approvals::Approvals::load(kept.approvals),
            left_presence: Vec::new(),
            closing_behind_answer: Vec::new(),
            limiter: Limiter::default(),
            control_writes: Default::default(),
            comparer: auth::Comparer::new(),
            canvas_token: crate::runtime::random::token(),
            token_key,
            devices: kept.devices,
            upgrades: upgrades::Upgrades::default(),
            health_version: 1,
            health_made_at_ms: now.wall_ms,
            health_cache: Default::default(),
            sessions: kept.sessions,
            degraded: None,
            cost_cache: cost_cache::CostCache::default(),
            quota_waiters: Vec::new(),
            heartbeats_enabled: kept.heartbeats_enabled,
            last_heartbeat: kept.last_heartbeat,
            system_events: kept.system_events,
            voicewake: kept.voicewake,
            system_events_unsaved: false,
            active: active::Active::default(),
            suspension: None,
            stability: stability::Stability::default(),
            inbound: inbound::Inbound::new(kept.runs),
            runs,
            notices: runs::notices::Notices::of_last(kept.lost_commands, now),
            invocations: invocations::Invocations::default(),
            http_calls: BTreeMap::new(),
            responses: openai::Responses::default(),
            next_tick: now.mono + tick,
            next_sweep: now.mono + PRESENCE_SWEEP,
            next_health: now.mono + Duration::from_millis(health::REFRESH_MS as u64),
            stopping: false,
        }
    }

    /// Takes one event and queues its effects.
    pub fn handle(&mut self, now: Now, event: Event<'_>) {
        self.now = now;
        match event {
            Event::Opened(conn, upgrade) => self.opened(now, conn, upgrade),
            Event::Frame(conn, text) => self.text(now, conn, text),
            Event::Closed(conn, gone) => self.closed(now, conn, &gone),
            Event::Http(conn, request) => self.http(now, conn, *request),
            Event::HttpGone(conn) => self.http_gone(now, conn),
            Event::Report(report) => self.report(now, *report),
            Event::Told(no, event) => self.run_told(now, no, *event),
            Event::Shed(origin, lane) => self.shed(now, origin, lane),
            Event::Timer => self.timer(now),
            Event::Signal(Signal::Stop) => self.stop("server_shutdown"),
            Event::Signal(Signal::Reload) => self.reload_now("SIGHUP"),
        }
        debug_assert!(self.check_invariants(), "state hangs together after each event");
    }

    /// The next effect to carry out, oldest first.
    pub fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front()?;
        if let Effect::Start(job) = &effect {
            self.active.started(&job.origin);
        }
        Some(effect)
    }

    /// When to send [`Event::Timer`] next.
    pub fn deadline(&self) -> Option<Instant> {
        let earliest = self.next_tick.min(self.next_sweep).min(self.next_health).min(self.housekeeping.next());
        let suspended_until = self.suspension.as_ref().map(|held| held.until);
        let runs = self.runs.deadline(self.now);
        let typing = self.typing.deadline();
        let invocations = self.invocations.deadline();
        let approvals = self
            .approvals
            .next_due_ms()
            .map(|due_ms| self.now.mono + Duration::from_millis(u64::try_from(due_ms - self.now.wall_ms).unwrap_or(0)));
        let typing = typing.into_iter().chain(approvals).chain(self.notices.deadline());
        self.reload
            .next_poll()
            .into_iter()
            .chain(suspended_until)
            .chain(runs)
            .chain(typing)
            .chain(invocations)
            .chain([earliest])
            .min()
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Loaded> {
        &self.config
    }

    fn text(&mut self, now: Now, conn: ConnId, text: &str) {
        match self.clients.get(conn).map(|client| &client.phase) {
            Some(clients::Phase::Ready(_)) => self.frame(now, conn, text),
            Some(clients::Phase::Challenged { .. }) => self.first_frame(now, conn, text),
            // A client that sends before its hello has nothing to say yet; one that is leaving has nothing more.
            Some(clients::Phase::Recording(_) | clients::Phase::Leaving) | None => {}
        }
    }

    fn closed(&mut self, now: Now, conn: ConnId, gone: &Gone) {
        let Some(client) = self.clients.remove(conn) else { return };
        if let clients::Phase::Recording(admitted) = &client.phase
            && let Some(setup) = admitted.spent()
        {
            self.setup_ended(setup);
        }
        if let clients::Phase::Ready(ready) = client.phase {
            log::info!("client gone conn={} code={} client={}", conn.0, gone.code, ready.caller.client_id.as_str());
            self.left_presence.extend(ready.presence_key);
        }
        self.typing.left(conn);
        self.leave_invocations(conn);
        let keys = std::mem::take(&mut self.left_presence);
        let mut changed = false;
        for key in keys {
            let still_here = self.clients.all_ready().any(|(_, ready)| ready.presence_key.as_deref() == Some(&key));
            if still_here {
                changed |= self.watched_by(&key);
            } else {
                self.presence.left(&key, now.wall_ms);
                changed = true;
            }
        }
        if changed && !self.stopping {
            self.presence_changed(For::All);
        }
    }

    fn timer(&mut self, now: Now) {
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + self.config.settings.gateway.server.tick_interval;
            if let Ok(payload) = Json::of(&serde_json::json!({ "ts": now.wall_ms })) {
                self.broadcast(&broadcast::TICK, For::All, &payload);
            }
        }
        if now.mono >= self.next_sweep {
            self.next_sweep = now.mono + PRESENCE_SWEEP;
            if self.presence.age(now.wall_ms) {
                self.presence_changed(For::All);
            }
            self.inbound.forget_old_runs(now.wall_ms);
            self.save_system_events(now);
            self.expire_upgrades(now.wall_ms);
        }
        if now.mono >= self.next_health {
            self.next_health = now.mono + Duration::from_millis(health::REFRESH_MS as u64);
            self.refresh_health(now);
        }
        self.end_suspension(now);
        self.tend_runs(now);
        self.tend_invocations(now);
        self.tend_approvals(now);
        self.tend_notices(now);
        self.tell_typing(now);
        self.keep_house(now);
        self.poll_config(now);
    }

    /// Says goodbye to everybody and stops.
    fn stop(&mut self, reason: &str) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.save_system_events(self.now);
        self.stop_all_runs();
        self.stop_invocations();
        self.end_openai_calls();
        if let Ok(payload) = Json::of(&serde_json::json!({ "reason": reason })) {
            self.broadcast(&broadcast::SHUTDOWN, For::All, &payload);
        }
        for conn in self.clients.ids() {
            self.leave(conn, crate::protocol::close::SERVICE_RESTART, "service restart");
        }
        self.effects.push_back(Effect::Stop);
    }

    /// `accepting`, or `draining` once it stops.
    fn phase(&self) -> &'static str {
        if self.stopping { "draining" } else { "accepting" }
    }

    fn key_rules(&self) -> Arc<KeyRules> {
        Arc::clone(&self.keys)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: Arc::clone(&self.config),
            keys: Arc::clone(&self.keys),
            state_dir: Arc::clone(&self.state_dir),
            log_file: Arc::clone(&self.log_file),
            boot_id: Arc::clone(&self.boot_id),
            port: self.boot.port,
            uptime_ms: self.uptime_ms(self.now),
            heartbeat: self.heartbeat_rule(),
            system_events: self.system_events.iter().cloned().collect(),
            active: self.under_way(),
            runs: self.runs.listed(),
            reload_in_ms: self.reload.due_in_ms(self.now),
            load_inputs: Arc::clone(&self.load_inputs),
            models: self.models(),
        }
    }

    /// What showing sessions needs of the configuration.
    fn session_rows(&self) -> crate::sessions::row::Context<'_> {
        crate::sessions::row::Context::of(&self.config).with_runs(self.runs.list())
    }

    /// Writes through the store and answers the call once it is durable.
    fn store_and_answer<T: serde::Serialize>(
        &mut self,
        call: &table::Call,
        answer: &T,
        write: impl FnOnce(&crate::store::db::Db<'_>) -> Result<(), crate::store::StoreError> + Send + 'static,
    ) -> Result<(), crate::protocol::error::RpcError> {
        self.store_tell_and_answer(call, answer, Vec::new(), write)
    }

    /// The same, with facts that are applied before the answer.
    fn store_tell_and_answer<T: serde::Serialize>(
        &mut self,
        call: &table::Call,
        answer: &T,
        facts: Vec<Fact>,
        write: impl FnOnce(&crate::store::db::Db<'_>) -> Result<(), crate::store::StoreError> + Send + 'static,
    ) -> Result<(), crate::protocol::error::RpcError> {
        let answer = Json::of(answer)?;
        let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
        let work = Work::Store(Box::new(move |db| {
            write(db)?;
            Ok(Done { answer: Some(answer), facts })
        }));
        self.effects.push_back(Effect::Start(Job { origin, work }));
        Ok(())
    }

    /// Records who did what, for the audit trail.
    fn audit(&mut self, call: &table::Call, action: &'static str, resource: &str) {
        let record = crate::store::audit::AuditRecord {
            at_ms: call.now_ms,
            actor: call.caller.actor(),
            address: Some(call.caller.address.to_string()),
            action: action.to_owned(),
            resource: resource.to_owned(),
            outcome: "ok".to_owned(),
            request_id: Some(call.id.clone()),
            detail: None,
        };
        let work = Work::Store(Box::new(move |db| {
            db.audit_append(&record)?;
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("audit"), work }));
    }

    fn uptime_ms(&self, now: Now) -> u64 {
        now.mono.saturating_duration_since(self.boot.at.mono).as_millis() as u64
    }

    /// Where sessions are kept, as shown to clients.
    fn store_path(&self) -> String {
        format!("{}/{}", self.state_dir, crate::store::dir::DATABASE_FILE)
    }

    /// Enters a new connection into the presence list. Command lines come and go too fast to show; programs and probes
    /// are shown on protocol 3 alone.
    fn enter_presence(
        &mut self,
        now: Now,
        caller: &clients::Caller,
        params: &crate::protocol::connect::ConnectParams,
    ) -> Option<String> {
        use crate::protocol::connect::ClientMode::{Backend, Cli, Probe};
        let shown = match caller.mode {
            Cli => return None,
            Backend | Probe => Shown::OnlyV3,
            _ => Shown::All,
        };
        let client = &params.client;
        let text = |value: &Option<crate::protocol::params::NonEmpty>| value.as_ref().map(|v| v.0.clone());
        let instance = text(&client.instance_id);
        let key =
            caller.device_id.clone().or_else(|| instance.clone()).unwrap_or_else(|| format!("conn-{}", caller.conn.0));
        let mut entry = Entry {
            host: Some(text(&client.display_name).unwrap_or_else(|| client.id.as_str().to_owned())),
            client_id: Some(client.id.as_str().to_owned()),
            ip: (!caller.address.is_loopback()).then(|| caller.address.to_string()),
            version: Some(client.version.0.clone()),
            platform: Some(client.platform.0.clone()),
            device_family: text(&client.device_family),
            model_identifier: text(&client.model_identifier),
            mode: Some(client.mode.as_str().to_owned()),
            reason: Some("connect".to_owned()),
            device_id: caller.device_id.clone(),
            roles: vec![caller.role.as_str().to_owned()],
            scopes: caller.scopes.names().to_vec(),
            instance_id: instance.or_else(|| caller.device_id.clone()),
            ts: now.wall_ms,
            ..Entry::default()
        };
        entry.text = format!("Node: {} · mode {}", entry.host.as_deref().unwrap_or("unknown"), client.mode.as_str());
        self.presence.put(&key, entry, true, shown);
        Some(key)
    }

    /// Notes what the connections behind a presence entry look at together; says whether that changed.
    fn watched_by(&mut self, presence_key: &str) -> bool {
        let same = |ready: &&clients::Ready| ready.presence_key.as_deref() == Some(presence_key);
        let ready = self.clients.all_ready().map(|(_, ready)| ready).filter(same);
        let mut watched: Vec<String> =
            ready.flat_map(|ready| &ready.subscriptions.watched).map(|key| key.as_str().to_owned()).collect();
        watched.sort();
        watched.dedup();
        self.presence.watches(presence_key, watched)
    }

    fn presence_changed(&mut self, to: For<'_>) {
        let version = Some(self.state_version());
        for protocol in [Protocol::V3, Protocol::V4] {
            if let Ok(payload) = Json::of(&serde_json::json!({ "presence": self.presence.entries(protocol) })) {
                self.broadcast_versioned(&broadcast::PRESENCE, For::Those(&to, protocol), &payload, version);
            }
        }
    }

    fn send_voicewake(&mut self, conn: ConnId) {
        if let Ok(payload) = Json::of(&serde_json::json!({ "triggers": self.voicewake })) {
            self.send_event(conn, &broadcast::VOICEWAKE_CHANGED, &payload);
        }
    }

    /// What must hold between events; each clause says what.
    fn check_invariants(&self) -> bool {
        assert!(self.inbound.len() <= inbound::MESSAGES_MAX, "messages on their way are bounded");
        self.runs.check_invariants();
        self.approvals.check_invariants();
        assert!(self.presence.len() <= presence::ENTRIES_MAX, "presence is bounded");
        for (conn, ready) in self.clients.all_ready() {
            assert_eq!(ready.caller.conn, conn, "a connection's caller is its own");
            assert!(
                ready.caller.role != Role::Node || ready.caller.scopes.is_empty(),
                "a node holds no operator scope"
            );
            assert!(
                ready.subscriptions.messages.len() <= clients::SUBSCRIBED_SESSIONS_MAX,
                "what a connection follows is bounded"
            );
            assert!(
                ready.subscriptions.watched.len() <= clients::WATCHED_SESSIONS_MAX,
                "what a connection looks at is bounded"
            );
        }
        true
    }
}
