//! `connect`: from the challenge to `hello-ok`, or to a refusal that says what to do.
//!
//! The checks run in upstream's order, and nothing about secrets shows before they are due: frame, parameters, version,
//! role, origin, then credentials (computed), device (missing, proof), credentials (decided), pairing, scopes.

use serde_json::Value;

use super::auth::{Refusal, check_shared};
use super::broadcast::{self, For};
use super::clients::{Admission, Caller, Caps, Phase, Ready, Subscriptions};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::limiter::{Kind, Subject};
use super::locality::{Head, OriginVerdict};
use super::pairing::{Ask, Paired, Pending, Profile, Reason, VIA_SETUP, VIA_SILENT};
use super::setups::{self, SetupCode};
use super::upgrades::End;
use super::{Fact, Gateway, hello};
use crate::protocol::connect::{ClientId, ClientMode, ConnectParams, Credentials};
use crate::protocol::device::{self, Device, NonceRule, ProofError};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{BadFrame, Json, read_request, response_error, response_ok};
use crate::protocol::json::json;
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;
use crate::protocol::{ConnId, close, params};
use crate::runtime::clock::Now;

/// A connect that passed every check and whose device is being recorded.
#[derive(Debug)]
pub struct Admitted {
    request_id: String,
    params: ConnectParams,
    caller: Caller,
    device: Option<Device>,
    /// The device's record before this connect, to go back to when it cannot be recorded.
    before: Option<Paired>,
    /// Set when this connect paired the device without asking.
    approved: Option<Pending>,
    /// The setup code that it presented.
    setup: Option<SetupCode>,
    /// The same, once it is spent on this connect: its device gets a token for each role.
    spent: Option<SetupCode>,
}

impl Admitted {
    /// The setup code that this connect spent.
    pub fn spent(&self) -> Option<&SetupCode> {
        self.spent.as_ref()
    }
}

/// A refusal: what to answer, and the close that follows.
struct Refused {
    error: RpcError,
    code: u16,
    reason: String,
}

impl Refused {
    fn new(error: RpcError) -> Refused {
        let reason = error.message.clone();
        Refused { error, code: close::POLICY, reason }
    }
}

/// How a checked connect goes on.
enum Verdict {
    /// Say hello now.
    Hello(Box<Admitted>),
    /// Record the device first.
    Record(Box<Admitted>, Box<Paired>),
}

impl Gateway {
    /// Whether a request may become a WebSocket at all; otherwise the status and text to refuse it with.
    ///
    /// A foreign page gets nothing, not even the challenge, and so no chance to guess.
    ///
    /// # Errors
    /// Status and text of the refusal.
    pub fn may_upgrade(&self, upgrade: &super::Upgrade) -> Result<(), (u16, &'static str)> {
        let head = Head { peer: upgrade.peer.ip(), headers: &upgrade.headers };
        if head.is_unattributable(&self.config.settings) {
            return Err((403, "proxy not trusted (gateway.trustedProxies)"));
        }
        if head.origin_verdict(&self.config.settings) == OriginVerdict::Foreign {
            return Err((403, "origin not allowed (gateway.controlUi.allowedOrigins)"));
        }
        Ok(())
    }

    /// A socket was upgraded: it gets its challenge.
    pub(super) fn opened(&mut self, now: Now, conn: ConnId, upgrade: Box<super::Upgrade>) {
        let nonce = crate::runtime::random::uuid();
        let mut challenge = json!({ "nonce": nonce, "ts": now.wall_ms });
        // Clients of protocol 3 ignore what they do not know here.
        challenge["capabilities"] = json!([hello::CAP_MODEL_CATALOG]);
        self.clients.insert(conn, super::clients::Client { upgrade, phase: Phase::Challenged { nonce } });
        if let Ok(payload) = Json::of(&challenge) {
            self.send_event(conn, &broadcast::CHALLENGE, &payload);
        }
    }

    /// The first frame of a connection.
    pub(super) fn first_frame(&mut self, now: Now, conn: ConnId, text: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let Phase::Challenged { nonce } = &client.phase else { return };
        let nonce = nonce.clone();
        let request = match read_request(text, Protocol::V4) {
            Ok(request) => request,
            Err(BadFrame::NotJson) => return self.leave(conn, close::NORMAL, ""),
            Err(BadFrame::Invalid { .. }) => return self.leave(conn, close::POLICY, "invalid request frame"),
        };
        if request.method != "connect" {
            let error = RpcError::invalid("invalid handshake: first request must be connect");
            return self.refuse(conn, &request.id, Protocol::V4, Refused::new(error));
        }
        let style = style_of(request.params);
        let params: ConnectParams = match request.params {
            None => {
                let error = RpcError::invalid("invalid connect params: must be object");
                return self.refuse(conn, &request.id, style, Refused::new(error));
            }
            Some(raw) => match params::decode("connect", Some(raw), style) {
                Ok(params) => params,
                Err(error) => return self.refuse(conn, &request.id, style, Refused::new(error)),
            },
        };
        let request_id = request.id.into_owned();
        let Some(protocol) = Protocol::negotiate(params.min_protocol.0, params.max_protocol.0) else {
            let error = RpcError::invalid("protocol mismatch").with_details(json!({
                "code": "PROTOCOL_MISMATCH",
                "clientMinProtocol": params.min_protocol.0,
                "clientMaxProtocol": params.max_protocol.0,
                "expectedProtocol": Protocol::NEWEST.number(),
                "minimumProbeProtocol": Protocol::V3.number(),
            }));
            let refused = Refused { code: close::PROTOCOL, ..Refused::new(error) };
            return self.refuse(conn, &request_id, style, refused);
        };
        match self.check_connect(now, conn, &request_id, &nonce, protocol, params) {
            Err(refused) => self.refuse(conn, &request_id, protocol, *refused),
            Ok(Verdict::Hello(admitted)) => self.admit(now, conn, *admitted),
            Ok(Verdict::Record(admitted, record)) => self.record_device(now, conn, admitted, *record),
        }
    }

    fn check_connect(
        &mut self,
        now: Now,
        conn: ConnId,
        request_id: &str,
        nonce: &str,
        protocol: Protocol,
        params: ConnectParams,
    ) -> Result<Verdict, Box<Refused>> {
        let refuse = |error: RpcError| Box::new(Refused::new(error));
        let role = Role::parse(params.role.as_ref().map(|role| role.0.as_str()))
            .ok_or_else(|| refuse(RpcError::invalid("invalid role")))?;
        let Some(client) = self.clients.get(conn) else {
            return Err(refuse(RpcError::unavailable("the connection is gone")));
        };
        let upgrade = client.upgrade.clone();
        let head = Head { peer: upgrade.peer.ip(), headers: &upgrade.headers };
        check_origin(&params, &head, role, protocol, self).map_err(refuse)?;

        let credentials = params.auth.clone().unwrap_or_default();
        let address = head.client_address(&self.config.settings);
        let who = Where {
            local: head.is_direct_local(),
            has_origin: head.origin().is_some(),
            address,
            origin: head.origin().map(str::to_owned),
        };
        let shared = self.try_shared(&credentials, &head, &who, now.wall_ms, protocol);

        self.check_device_present(&params, role, protocol, &who, &shared).map_err(refuse)?;
        let rule = if protocol == Protocol::V3 && who.local { NonceRule::MayBeAbsent } else { NonceRule::Required };
        let proven = device::verify(&params, nonce, protocol, rule, now.wall_ms)
            .map_err(|error| refuse(proof_refusal(error)))?;

        let mut setup = None;
        let wanted = if role == Role::Node { Scopes::none() } else { Scopes::from_names(params.scope_names()) };
        let admission = match shared {
            Ok(admission) => admission,
            Err(refusal) => {
                let tried = self.try_setup(&credentials, proven.as_ref(), (role, &wanted), &who, now.wall_ms, &refusal);
                let tried = match tried {
                    Some(found) => found.map(|found| {
                        setup = Some(found);
                        Admission::SetupCode
                    }),
                    None => {
                        let device = proven.as_ref();
                        self.try_device_token(&credentials, device, role, &wanted, &who, now.wall_ms, refusal, protocol)
                    }
                };
                tried.map_err(|refusal| refuse(auth_refusal(&refusal, &params, &who, protocol)))?
            }
        };

        let scopes = match &proven {
            Some(_) => wanted,
            None if keeps_scopes_without_device(&params, protocol, role, &who, admission, self) => wanted,
            None => Scopes::none(),
        };
        let name = proven
            .as_ref()
            .map(|device| device.id.clone())
            .or_else(|| params.client.display_name.as_ref().map(|name| name.0.clone()))
            .unwrap_or_else(|| params.client.id.as_str().to_owned());
        let caller = Caller {
            conn,
            protocol,
            role,
            scopes,
            client_id: params.client.id,
            mode: params.client.mode,
            device_id: proven.as_ref().map(|device| device.id.clone()),
            admission,
            address,
            name,
            label: params.client.display_name.as_ref().map_or(params.client.id.as_str(), |name| &name.0).to_owned(),
            caps: Caps {
                session_scoped_events: params.has_cap("session-scoped-events"),
                tool_events: params.has_cap("tool-events"),
                approvals: params.has_cap("approvals"),
                exec_approvals: params.has_cap("exec-approvals"),
                plugin_approvals: params.has_cap("plugin-approvals"),
            },
        };
        let request_id = request_id.to_owned();
        let (before, approved, spent) = (None, None, None);
        let admitted = Admitted { request_id, params, caller, device: proven, before, approved, setup, spent };
        self.check_pairing(now, admitted, &who)
    }

    /// The shared secret, unless its source is locked out.
    fn try_shared(
        &mut self,
        credentials: &Credentials,
        head: &Head<'_>,
        who: &Where,
        now_ms: i64,
        protocol: Protocol,
    ) -> Result<Admission, Refusal> {
        if head.is_unattributable(&self.config.settings) {
            return Err(Refusal::ProxyAttribution);
        }
        let subject = who.subject(Kind::Shared);
        if let Some(retry_after_ms) = self.limiter.locked_for_ms(&subject, now_ms) {
            return Err(Refusal::RateLimited { retry_after_ms });
        }
        let result = check_shared(&self.config.settings, credentials, head, &self.comparer, protocol);
        if result.is_ok() {
            self.limiter.succeeded(&subject);
        }
        result
    }

    /// Refuses who must have a device and sent none.
    fn check_device_present(
        &self,
        params: &ConnectParams,
        role: Role,
        protocol: Protocol,
        who: &Where,
        shared: &Result<Admission, Refusal>,
    ) -> Result<(), RpcError> {
        if params.device.is_some() {
            return Ok(());
        }
        let control_ui = &self.config.settings.gateway.control_ui;
        let id = params.client.id;
        let is_ui = id == ClientId::ControlUi
            || protocol == Protocol::V4 && matches!(id, ClientId::Tui | ClientId::BrowserCopilot);
        if is_ui {
            let excused = control_ui.dangerously_disable_device_auth && id == ClientId::ControlUi
                || *shared == Ok(Admission::TrustedProxy);
            if !excused {
                let text = "control ui requires device identity (use HTTPS or localhost secure context)";
                let details = json!({ "code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED" });
                return Err(v4_details(RpcError::invalid(text), details, protocol));
            }
        }
        let missing = || {
            let error = RpcError::new(ErrorCode::NotPaired, "device identity required");
            Err(v4_details(error, json!({ "code": "DEVICE_IDENTITY_REQUIRED" }), protocol))
        };
        match shared {
            Ok(Admission::None) if is_local_backend(params, who) && protocol == Protocol::V4 => Ok(()),
            Ok(Admission::None) => missing(),
            Ok(_) if role == Role::Node && protocol == Protocol::V4 => missing(),
            Ok(_) => Ok(()),
            // Nothing was sent that could be wrong: what is missing is a device.
            Err(Refusal::TokenMissing | Refusal::PasswordMissing) => missing(),
            Err(_) => Ok(()),
        }
    }

    /// A setup code, after the shared secret failed with `refusal`; `None` when none was sent.
    fn try_setup(
        &mut self,
        credentials: &Credentials,
        proven: Option<&Device>,
        wanted: (Role, &Scopes),
        who: &Where,
        now_ms: i64,
        refusal: &Refusal,
    ) -> Option<Result<SetupCode, Refusal>> {
        let token = credentials.bootstrap_token.as_deref().filter(|token| !token.is_empty())?;
        if matches!(refusal, Refusal::RateLimited { .. } | Refusal::ProxyAttribution) {
            return Some(Err(refusal.clone()));
        }
        let secrets = (&self.token_key, &self.comparer);
        let found = proven.and_then(|device| self.setups.present(token, device, wanted, secrets, now_ms));
        let Some((setup, is_news)) = found else {
            let rules = self.config.settings.gateway.auth.rate_limit.clone();
            self.limiter.failed(who.subject(Kind::Shared), &rules, now_ms);
            return Some(Err(Refusal::BootstrapTokenInvalid));
        };
        if is_news {
            self.store_setup(setup.clone(), now_ms);
        }
        Some(Ok(setup))
    }

    /// A device's own token, after the shared secret failed with `refusal`.
    #[expect(clippy::too_many_arguments, reason = "one step of a sequence whose state is these values")]
    fn try_device_token(
        &mut self,
        credentials: &Credentials,
        proven: Option<&Device>,
        role: Role,
        wanted: &Scopes,
        who: &Where,
        now_ms: i64,
        refusal: Refusal,
        protocol: Protocol,
    ) -> Result<Admission, Refusal> {
        let explicit = credentials.device_token.as_deref().filter(|token| !token.is_empty());
        let offered = explicit.or(credentials.token.as_deref()).filter(|token| !token.is_empty());
        let locked = matches!(refusal, Refusal::RateLimited { .. } | Refusal::ProxyAttribution);
        let subject = who.subject(Kind::Device);
        let verdict = match (proven, offered) {
            _ if locked => Err(refusal),
            _ if credentials.bootstrap_token.is_some() => Err(Refusal::BootstrapTokenInvalid),
            (Some(device), Some(token)) => {
                if let Some(retry_after_ms) = self.limiter.locked_for_ms(&subject, now_ms) {
                    return Err(Refusal::RateLimited { retry_after_ms });
                }
                let record = self.devices.get(&device.id).filter(|r| r.public_key == device.public_key);
                match record.filter(|r| r.admits(role, token, &self.token_key, &self.comparer)) {
                    Some(record) => {
                        let held = record.token(role).map_or_else(Scopes::none, |t| Scopes::from_names(&t.scopes));
                        if held.cover(wanted) { Ok(Admission::DeviceToken) } else { Err(Refusal::ScopeMismatch) }
                    }
                    // Clients of protocol 3 throw their stored token away when they read this; those of protocol 4
                    // only when they named it a device token.
                    None if explicit.is_some() || protocol == Protocol::V3 => Err(Refusal::DeviceTokenMismatch),
                    None => Err(refusal),
                }
            }
            _ => Err(refusal),
        };
        match &verdict {
            Ok(_) => self.limiter.succeeded(&subject),
            Err(refusal) if refusal.is_wrong_secret() => {
                let rules = self.config.settings.gateway.auth.rate_limit.clone();
                // Both are counted: a guess at the shared secret may come dressed as a device token.
                self.limiter.failed(who.subject(Kind::Shared), &rules, now_ms);
                if explicit.is_some() {
                    self.limiter.failed(subject, &rules, now_ms);
                }
            }
            Err(_) => {}
        }
        verdict
    }

    fn check_pairing(&mut self, now: Now, mut admitted: Admitted, who: &Where) -> Result<Verdict, Box<Refused>> {
        let Some(device) = admitted.device.clone() else { return Ok(Verdict::Hello(Box::new(admitted))) };
        let (caller, params) = (&admitted.caller, &admitted.params);
        let control_ui = &self.config.settings.gateway.control_ui;
        let exempt = params.client.id == ClientId::ControlUi
            && (control_ui.dangerously_disable_device_auth || caller.admission == Admission::None)
            || caller.protocol == Protocol::V4 && is_local_backend(params, who);
        let profile = Profile::of(params, who.address, caller.protocol);
        let ask = Ask {
            device_id: &device.id,
            public_key: &device.public_key,
            role: caller.role,
            scopes: &caller.scopes,
            profile: &profile,
        };
        let before = self.devices.get(&device.id).cloned();
        // A setup code stands for the approval of the kind of device that it is for, when that connects as a node.
        let setup = admitted.setup.clone().filter(|setup| caller.role == Role::Node && setup.access.is_for(params));
        let said = (caller.protocol == Protocol::V4 && !exempt).then_some(&profile);
        let reasons = self.devices.needs_approval(&device, caller.role, &caller.scopes, said);
        if exempt && !reasons.is_empty() {
            // Such a client needs no approval, and so gets no record and no token that one would have to stand behind.
            admitted.device = None;
            return Ok(Verdict::Hello(Box::new(admitted)));
        }
        let mut record = match (reasons.as_slice(), before.clone()) {
            ([], Some(mut record)) => {
                record.profile.refresh(profile.clone());
                record
            }
            (reasons, before) => {
                debug_assert!(!reasons.is_empty(), "a device without a record has a reason to be asked about");
                let by_setup = setup.is_some()
                    && reasons.iter().all(|reason| match reason {
                        Reason::NotPaired => before.is_none(),
                        Reason::ScopeUpgrade => true,
                        Reason::RoleUpgrade | Reason::MetadataUpgrade => false,
                    });
                let is_asked =
                    |reason: &&Reason| !by_setup && !self.is_silent(**reason, &admitted, before.as_ref(), who);
                let told = reasons.iter().find(is_asked);
                if let Some(&reason) = told {
                    return Err(self.ask_for_approval(&ask, reason, before.as_ref(), caller.protocol, now.wall_ms));
                }
                let request = self.devices.ask(&ask, now.wall_ms);
                self.devices.resolve(&request.request_id);
                let via = if by_setup { VIA_SETUP } else { VIA_SILENT };
                let mut record = self.devices.approved(&ask, via, now.wall_ms);
                if let Some(setup) = setup.as_ref().filter(|_| by_setup) {
                    record.widen(setup.access.roles(), &setup.access.scopes());
                }
                admitted.approved = Some(request);
                record
            }
        };
        if caller.role == Role::Node {
            record.offers(params, now.wall_ms);
        }
        record.last_seen_at_ms = now.wall_ms;
        if caller.admission == Admission::DeviceToken {
            record.used_token(caller.role, now.wall_ms);
        }
        let minted = record.ensure_token(caller.role, &caller.scopes, now.wall_ms);
        // It is handed the tokens of all its roles only when it was approved for all that the code gives.
        let covered = setup.filter(|setup| record.is_approved_for(setup.access.roles(), &setup.access.scopes()));
        if let Some(setup) = covered {
            for role in setup.access.roles() {
                record.ensure_token(*role, &setup.access.scopes_as(*role), now.wall_ms);
            }
            admitted.spent = self.setups.spend(&setup.id, &record, now.wall_ms);
        }
        let must_wait = minted || admitted.approved.is_some() || admitted.spent.is_some();
        admitted.before = before;
        self.devices.put(record.clone());
        if must_wait {
            return Ok(Verdict::Record(Box::new(admitted), Box::new(record)));
        }
        self.store_device(Origin::Housekeeping("device last seen"), record);
        Ok(Verdict::Hello(Box::new(admitted)))
    }

    /// Whether a device is approved without asking anybody: only on this machine, only with what admits there.
    fn is_silent(&self, reason: Reason, admitted: &Admitted, record: Option<&Paired>, who: &Where) -> bool {
        let caller = &admitted.caller;
        let is_ui = matches!(caller.client_id, ClientId::ControlUi | ClientId::Webchat | ClientId::WebchatUi);
        if !who.local || who.has_origin && !is_ui || !self.config.settings.gateway.nodes.auto_approve_local {
            return false;
        }
        match reason {
            Reason::NotPaired => true,
            Reason::RoleUpgrade => false,
            // A page says whatever it likes of its machine; an app of this machine was updated or moved with it.
            Reason::MetadataUpgrade => {
                let is_app =
                    matches!(caller.client_id, ClientId::MacOs | ClientId::Linux | ClientId::Ios | ClientId::Android);
                !who.has_origin && is_app && caller.mode == ClientMode::Ui
            }
            Reason::ScopeUpgrade => match caller.protocol {
                Protocol::V4 => caller.admission != Admission::DeviceToken,
                // Protocol 3's own gateway never does this, and its command line then locks itself out: its first
                // `health` or `status` pairs the machine's device, as a probe that asks only to read.
                Protocol::V3 => {
                    caller.admission != Admission::DeviceToken
                        && record.and_then(|r| r.profile.client_mode.as_deref()).is_some_and(|mode| {
                            mode == ClientMode::Backend.as_str() || mode == ClientMode::Probe.as_str()
                        })
                }
            },
        }
    }

    fn ask_for_approval(
        &mut self,
        ask: &Ask<'_>,
        reason: Reason,
        record: Option<&Paired>,
        protocol: Protocol,
        now_ms: i64,
    ) -> Box<Refused> {
        let pending = self.devices.ask(ask, now_ms);
        self.store_pending(&pending);
        if let Ok(payload) = Json::of(&pending) {
            self.broadcast(&broadcast::DEVICE_PAIR_REQUESTED, For::All, &payload);
        }
        let id = &pending.request_id;
        if protocol == Protocol::V3 {
            let error =
                RpcError::new(ErrorCode::NotPaired, "pairing required").with_details(json!({ "requestId": id }));
            return Box::new(Refused::new(error));
        }
        let mut details = json!({
            "code": "PAIRING_REQUIRED",
            "reason": reason.as_str(),
            "requestId": id,
            "remediationHint": reason.hint(),
            "deviceId": ask.device_id,
            "requestedRole": ask.role.as_str(),
        });
        if !ask.scopes.is_empty() {
            details["requestedScopes"] = json!(ask.scopes.names());
        }
        if let Some(record) = record {
            details["approvedRoles"] = json!(record.roles);
            details["approvedScopes"] = json!(record.scopes);
        }
        let error = RpcError::new(ErrorCode::NotPaired, reason.message()).with_details(details);
        let close_reason = format!("{} (requestId: {id})", reason.message());
        Box::new(Refused { error, code: close::POLICY, reason: close_reason })
    }

    fn record_device(&mut self, now: Now, conn: ConnId, admitted: Box<Admitted>, record: Paired) {
        let spent = admitted.spent.clone();
        if let Some(client) = self.clients.get_mut(conn) {
            client.phase = Phase::Recording(admitted);
        }
        let work = Work::Store(Box::new(move |db| {
            super::records::put_paired(db, &record)?;
            if let Some(setup) = &spent {
                setups::write(db, setup, now.wall_ms)?;
            }
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Pairing(conn), work }));
    }

    /// Writes a device's record.
    pub(super) fn store_device(&mut self, origin: Origin, record: Paired) {
        let work = Work::Store(Box::new(move |db| {
            super::records::put_paired(db, &record)?;
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin, work }));
    }

    /// The device of a connect was recorded, or could not be.
    pub(super) fn device_recorded(&mut self, now: Now, conn: ConnId, outcome: Result<Done, RpcError>) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        let Phase::Recording(admitted) = std::mem::replace(&mut client.phase, Phase::Leaving) else { return };
        match outcome {
            Ok(_) => self.admit(now, conn, *admitted),
            Err(error) => {
                let protocol = admitted.caller.protocol;
                if let Some(setup) = &admitted.spent {
                    self.setups.unspend(&setup.id);
                }
                if let Some(device) = &admitted.device {
                    self.devices.remove(&device.id);
                }
                if let Some(before) = admitted.before {
                    self.devices.put(before);
                }
                self.refuse(conn, &admitted.request_id, protocol, Refused::new(error));
            }
        }
    }

    /// Says hello and makes the connection one of us.
    fn admit(&mut self, now: Now, conn: ConnId, admitted: Admitted) {
        let Admitted { request_id, params, caller, device, approved, spent, .. } = admitted;
        let presence_key = self.enter_presence(now, &caller, &params);
        let token_for = |role: Role| {
            let record = self.devices.get(&device.as_ref()?.id)?;
            let secret = record.secret(role, &self.token_key)?;
            Some(hello::DeviceToken { secret, token: record.token(role)?.clone() })
        };
        let token = token_for(caller.role);
        let roles = spent.as_ref().map_or(&[][..], |setup| setup.access.roles());
        let handed: Vec<hello::DeviceToken> = roles.iter().filter_map(|role| token_for(*role)).collect();
        let own = format!("127.0.0.1:{}", self.boot.port);
        let host = self.clients.get(conn).and_then(|client| client.upgrade.header("host")).unwrap_or(&own).to_owned();
        let hello = hello::hello(self, now, &caller, &host, token, &handed);
        let caller = std::sync::Arc::new(caller);
        if let Some(client) = self.clients.get_mut(conn) {
            client.phase = Phase::Ready(Ready {
                caller: std::sync::Arc::clone(&caller),
                connected_at_ms: now.wall_ms,
                seq: 0,
                subscriptions: Subscriptions::default(),
                n_role_refusals: 0,
                presence_key,
            });
        }
        match hello {
            Ok(payload) => self.effects.push_back(Effect::Send(conn, response_ok(&request_id, &payload))),
            Err(error) => return self.refuse(conn, &request_id, caller.protocol, Refused::new(error)),
        }
        self.effects.push_back(Effect::Admit(conn));
        if let Some(setup) = &spent {
            self.setup_delivered(&setup.id, now.wall_ms);
        }
        log::info!(
            "client connected conn={} client={} mode={} role={} protocol={} auth={} scopes={}",
            conn.0,
            caller.client_id.as_str(),
            caller.mode.as_str(),
            caller.role.as_str(),
            caller.protocol.number(),
            caller.admission.as_str(),
            caller.scopes.names().len(),
        );
        if let Some(pending) = approved {
            self.pairing_resolved(&pending.request_id, &pending.device_id, "approved", now.wall_ms);
            self.upgrade_ended(&pending.request_id, End::Approved, now.wall_ms);
        }
        self.presence_changed(For::AllBut(conn));
        if caller.role == Role::Node {
            self.send_voicewake(conn);
        } else if params.model_catalog.is_some() && caller.protocol == Protocol::V4 {
            self.send_model_catalog(conn, params.model_catalog.map(|any| any.0));
        }
        self.refresh_health(now);
    }

    /// Tells operators that a pairing request was answered.
    pub(super) fn pairing_resolved(&mut self, request_id: &str, device_id: &str, decision: &str, now_ms: i64) {
        let payload = json!({ "requestId": request_id, "deviceId": device_id, "decision": decision, "ts": now_ms });
        if let Ok(payload) = Json::of(&payload) {
            self.broadcast(&broadcast::DEVICE_PAIR_RESOLVED, For::All, &payload);
        }
    }

    /// Answers a refused connect and closes.
    fn refuse(&mut self, conn: ConnId, request_id: &str, protocol: Protocol, refused: Refused) {
        log::info!("connect refused conn={} code={} reason={}", conn.0, refused.code, refused.error.message);
        let frame = response_error(request_id, &refused.error, None, protocol);
        self.effects.push_back(Effect::Send(conn, frame));
        self.leave(conn, refused.code, &refused.reason);
    }

    /// Closes a connection; what it still sends is not read.
    pub(super) fn leave(&mut self, conn: ConnId, code: u16, reason: &str) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        if matches!(client.phase, Phase::Leaving) {
            return;
        }
        if let Phase::Ready(ready) = std::mem::replace(&mut client.phase, Phase::Leaving) {
            self.left_presence.extend(ready.presence_key);
        }
        self.effects.push_back(Effect::Close(conn, code, close::reason(reason).to_owned()));
    }

    /// Closes the connections of a device, in one role or in all: its authority is gone. A caller that takes away its
    /// own still hears that it was done; its connection closes behind the answer.
    pub(super) fn close_device(&mut self, device_id: &str, role: Option<Role>, reason: &'static str, own: ConnId) {
        let of_device = |caller: &Caller| {
            caller.device_id.as_deref() == Some(device_id) && role.is_none_or(|role| role == caller.role)
        };
        let conns: Vec<ConnId> =
            self.clients.all_ready().filter(|(_, ready)| of_device(&ready.caller)).map(|(conn, _)| conn).collect();
        for conn in conns {
            if conn == own {
                self.closing_behind_answer.push((conn, reason));
            } else {
                self.leave(conn, close::AUTHORITY_GONE, reason);
            }
        }
    }

    /// Keeps a pairing request over a restart.
    fn store_pending(&mut self, pending: &Pending) {
        let pending = pending.clone();
        let work = Work::Store(Box::new(move |db| {
            super::records::put_pending(db, &pending)?;
            Ok(Done { answer: None, facts: Vec::<Fact>::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("pairing request"), work }));
    }
}

/// Where a connect comes from.
struct Where {
    local: bool,
    has_origin: bool,
    address: std::net::IpAddr,
    origin: Option<String>,
}

impl Where {
    fn subject(&self, kind: Kind) -> Subject {
        Subject { kind, address: self.address, origin: self.origin.clone() }
    }
}

/// Whose words a refused parameter is explained in: the newest version the client says it speaks.
fn style_of(raw: Option<&str>) -> Protocol {
    let newest = raw
        .and_then(|raw| serde_json::from_str::<Value>(raw).ok())
        .and_then(|value| value.get("maxProtocol").and_then(Value::as_i64));
    if newest == Some(3) { Protocol::V3 } else { Protocol::V4 }
}

/// Adds `details` for the protocol that has them.
fn v4_details(error: RpcError, details: Value, protocol: Protocol) -> RpcError {
    if protocol == Protocol::V4 { error.with_details(details) } else { error }
}

/// Programs that are pages in a browser and must say which.
fn is_browser_client(params: &ConnectParams) -> bool {
    params.client.mode == ClientMode::Webchat
        || matches!(params.client.id, ClientId::ControlUi | ClientId::WebchatUi | ClientId::BrowserCopilot)
}

fn check_origin(
    params: &ConnectParams,
    head: &Head<'_>,
    role: Role,
    protocol: Protocol,
    gateway: &Gateway,
) -> Result<(), RpcError> {
    let verdict = head.origin_verdict(&gateway.config.settings);
    let refused = match verdict {
        OriginVerdict::Foreign => true,
        OriginVerdict::Absent => role == Role::Operator && is_browser_client(params),
        OriginVerdict::Allowed => false,
    };
    if !refused {
        return Ok(());
    }
    let text = "origin not allowed (open the Control UI from the gateway host or allow it in \
                gateway.controlUi.allowedOrigins)";
    let reason = if verdict == OriginVerdict::Absent { "origin missing or invalid" } else { "origin not allowed" };
    let details = json!({ "code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": reason });
    Err(v4_details(RpcError::invalid(text), details, protocol))
}

/// The program that the command line runs inside others: on this machine, not in a browser.
fn is_local_backend(params: &ConnectParams, who: &Where) -> bool {
    params.client.id == ClientId::GatewayClient
        && params.client.mode == ClientMode::Backend
        && who.local
        && !who.has_origin
}

/// Whether a client without a device keeps the scopes it asked for.
///
/// Protocol 4's command line sends no device on loopback and depends on this; everybody else without a device can call
/// `health` and nothing more.
fn keeps_scopes_without_device(
    params: &ConnectParams,
    protocol: Protocol,
    role: Role,
    who: &Where,
    admission: Admission,
    gateway: &Gateway,
) -> bool {
    if role != Role::Operator {
        return false;
    }
    let excused = gateway.config.settings.gateway.control_ui.dangerously_disable_device_auth;
    if params.client.id == ClientId::ControlUi && excused && admission.is_shared() {
        return true;
    }
    if protocol != Protocol::V4 || !who.local || who.has_origin {
        return false;
    }
    let is_cli = params.client.id == ClientId::Cli && params.client.mode == ClientMode::Cli;
    is_local_backend(params, who) || is_cli && admission.is_shared()
}

fn proof_refusal(error: ProofError) -> RpcError {
    let (code, reason) = error.details();
    RpcError::invalid(error.message()).with_details(json!({ "code": code, "reason": reason }))
}

fn auth_refusal(refusal: &Refusal, params: &ConnectParams, who: &Where, protocol: Protocol) -> RpcError {
    let message = auth_message(refusal, params, who, protocol);
    let auth = params.auth.clone().unwrap_or_default();
    let can_retry = *refusal == Refusal::TokenMismatch
        && params.device.is_some()
        && auth.token.is_some()
        && auth.password.is_none()
        && auth.device_token.is_none();
    let (code, step) = match refusal {
        Refusal::TokenMissing => ("AUTH_TOKEN_MISSING", "update_auth_configuration"),
        Refusal::TokenMismatch if can_retry => ("AUTH_TOKEN_MISMATCH", "retry_with_device_token"),
        Refusal::TokenMismatch => ("AUTH_TOKEN_MISMATCH", "update_auth_credentials"),
        Refusal::TokenNotConfigured => ("AUTH_TOKEN_NOT_CONFIGURED", "update_auth_configuration"),
        Refusal::PasswordMissing => ("AUTH_PASSWORD_MISSING", "update_auth_configuration"),
        Refusal::PasswordMismatch => ("AUTH_PASSWORD_MISMATCH", "update_auth_credentials"),
        Refusal::PasswordNotConfigured => ("AUTH_PASSWORD_NOT_CONFIGURED", "update_auth_configuration"),
        Refusal::DeviceTokenMismatch => ("AUTH_DEVICE_TOKEN_MISMATCH", "update_auth_credentials"),
        Refusal::ScopeMismatch => ("AUTH_SCOPE_MISMATCH", "review_auth_configuration"),
        Refusal::BootstrapTokenInvalid => ("AUTH_BOOTSTRAP_TOKEN_INVALID", "review_auth_configuration"),
        Refusal::RateLimited { .. } => ("AUTH_RATE_LIMITED", "wait_then_retry"),
        Refusal::TrustedProxy(reason) if reason.starts_with("trusted_proxy_missing_header") => {
            ("AUTH_IDENTITY_HEADER_REQUIRED", "review_auth_configuration")
        }
        Refusal::TrustedProxy(_) | Refusal::ProxyAttribution => ("AUTH_UNAUTHORIZED", "review_auth_configuration"),
    };
    let details = json!({
        "code": code,
        "authReason": refusal.reason(),
        "canRetryWithDeviceToken": can_retry,
        "recommendedNextStep": step,
    });
    let mut error = v4_details(RpcError::invalid(message), details, protocol);
    if let Refusal::RateLimited { retry_after_ms } = refusal {
        error.retryable = Some(true);
        error.retry_after_ms = Some(*retry_after_ms);
    }
    error
}

fn auth_message(refusal: &Refusal, params: &ConnectParams, who: &Where, protocol: Protocol) -> String {
    let is_cli = matches!(params.client.id, ClientId::Cli) || params.client.mode == ClientMode::Cli;
    let is_page = is_browser_client(params);
    let v4_cli = protocol == Protocol::V4 && is_cli && who.local;
    let token_hint = if v4_cli {
        "use this gateway's gateway.auth.token or pair the device"
    } else if is_cli {
        "set gateway.remote.token to match gateway.auth.token"
    } else if is_page && protocol == Protocol::V4 {
        "paste in Control UI settings or openclaw doctor --generate-gateway-token; restart"
    } else if is_page {
        "open the dashboard URL and paste the token in Control UI settings"
    } else {
        "provide gateway auth token"
    };
    let password_hint = if v4_cli {
        "use this gateway's gateway.auth.password"
    } else if is_cli {
        "set gateway.remote.password to match gateway.auth.password"
    } else if is_page {
        "enter the password in Control UI settings"
    } else {
        "provide gateway auth password"
    };
    match refusal {
        Refusal::TokenMissing => format!("unauthorized: gateway token missing ({token_hint})"),
        Refusal::TokenMismatch => format!("unauthorized: gateway token mismatch ({token_hint})"),
        Refusal::TokenNotConfigured => {
            "unauthorized: gateway token not configured on gateway (set gateway.auth.token)".to_owned()
        }
        Refusal::PasswordMissing => format!("unauthorized: gateway password missing ({password_hint})"),
        Refusal::PasswordMismatch => format!("unauthorized: gateway password mismatch ({password_hint})"),
        Refusal::PasswordNotConfigured => {
            "unauthorized: gateway password not configured on gateway (set gateway.auth.password)".to_owned()
        }
        Refusal::DeviceTokenMismatch => "unauthorized: device token mismatch (rotate/reissue device token)".to_owned(),
        Refusal::ScopeMismatch if protocol == Protocol::V4 => {
            "unauthorized: device token scope mismatch (re-pair or approve scope upgrade)".to_owned()
        }
        Refusal::ScopeMismatch => "unauthorized: device token mismatch (rotate/reissue device token)".to_owned(),
        Refusal::BootstrapTokenInvalid => "unauthorized: setup code invalid, expired, revoked, or already used \
             (create a new code; review `openclaw devices list`)"
            .to_owned(),
        Refusal::RateLimited { .. } => "unauthorized: too many failed authentication attempts (retry later)".to_owned(),
        Refusal::TrustedProxy(_) => "unauthorized".to_owned(),
        Refusal::ProxyAttribution => "unauthorized: proxy client attribution is required (configure \
             gateway.trustedProxies narrowly and make the proxy overwrite or safely rebuild forwarded client headers)"
            .to_owned(),
    }
}
