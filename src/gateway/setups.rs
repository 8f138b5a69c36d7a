//! SetupCode codes: whoever administers the gateway shows one, and the device that presents it is approved without anybody
//! being asked, once.
//!
//! A code holds an address and a token. The token is derived from the key beside the store and the setup's id, so what
//! is kept of it ([`SetupCode`], a value for each in the store) gives nothing away. It lives [`SETUP_TTL_MS`], belongs to
//! the first device that presents it, and is spent with the hello that hands the device its own tokens. What came of it
//! can be asked for a while: `confirmed` when that hello was on its way to a device that was still there, `uncertain`
//! when it was not, in which case nobody can use the code again either.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::Comparer;
use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::pairing::{Paired, TokenKey};
use super::{Fact, Gateway, records};
use crate::protocol::connect::{ClientId, ClientMode, ConnectParams};
use crate::protocol::device::Device;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::scope::{Role, Scopes};
use crate::store::StoreError;
use crate::store::db::Db;

/// Setups remembered at once, spent ones included; one more takes the place of the oldest.
pub const SETUPS_MAX: usize = 64;
/// How long a code can be used, in milliseconds.
pub const SETUP_TTL_MS: i64 = 10 * 60 * 1000;
/// How long what came of one can be asked, from when it came, in milliseconds.
pub const OUTCOME_TTL_MS: i64 = 2 * SETUP_TTL_MS;

/// What a device gets that presents the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// A phone that administers.
    Full,
    /// A phone that talks.
    Limited,
    /// A machine that runs commands.
    Node,
    /// An embedded machine that listens and speaks.
    VoiceNode,
}

/// Scopes of a phone that talks.
const LIMITED: [&str; 5] =
    ["operator.approvals", "operator.questions", "operator.read", "operator.talk.secrets", "operator.write"];

impl Access {
    /// The word of answers and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Full => "full",
            Access::Limited | Access::VoiceNode => "limited",
            Access::Node => "node",
        }
    }

    /// What the device may be.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Access::Node => &[Role::Node],
            Access::Full | Access::Limited | Access::VoiceNode => &[Role::Node, Role::Operator],
        }
    }

    /// What it may do as an operator.
    pub fn scopes(self) -> Scopes {
        match self {
            Access::Full => Scopes::from_names(LIMITED.into_iter().chain(["operator.admin"])).sorted(),
            Access::Limited => Scopes::from_names(LIMITED),
            Access::VoiceNode => Scopes::from_names(["operator.read", "operator.talk"]),
            Access::Node => Scopes::none(),
        }
    }

    /// What it may do in one role.
    pub fn scopes_as(self, role: Role) -> Scopes {
        if role == Role::Operator { self.scopes() } else { Scopes::none() }
    }

    /// Whether this is the kind of program the code is for: only such a one is approved without anybody being asked.
    pub fn is_for(self, params: &ConnectParams) -> bool {
        let client = &params.client;
        let platform = client.platform.0.trim().to_ascii_lowercase();
        let family = client.device_family.as_ref().map(|family| family.0.trim().to_ascii_lowercase());
        let family = family.as_deref().unwrap_or_default();
        let system = platform.split_whitespace().next().unwrap_or_default();
        let is_kind = match self {
            Access::Full | Access::Limited => match client.id {
                ClientId::Android => system == "android" && family == "android",
                ClientId::Ios => matches!(system, "ios" | "ipados") && matches!(family, "iphone" | "ipad" | "ios"),
                _ => false,
            },
            Access::Node => client.id == ClientId::NodeHost,
            Access::VoiceNode => client.id == ClientId::NodeHost && system == "esp32" && family == "esp32",
        };
        is_kind && client.mode == ClientMode::Node
    }
}

/// One code, without its token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupCode {
    /// Names it, to who shows it.
    pub id: String,
    /// What it gives.
    pub access: Access,
    /// Where the device finds the gateway.
    pub url: String,
    /// When it was made.
    pub issued_ms: i64,
    /// Whether the link to it still works; the first look at it closes it.
    pub has_link: bool,
    /// The device that presented it: its id and its key.
    pub bound: Option<(String, String)>,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

/// What came of a code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Who presented it.
    pub device_id: String,
    /// What that device calls itself.
    pub device_name: Option<String>,
    /// When.
    pub at_ms: i64,
    /// Whether the device was there for its tokens.
    pub is_confirmed: bool,
}

impl SetupCode {
    /// When the code stops to work.
    pub fn expires_ms(&self) -> i64 {
        self.issued_ms + SETUP_TTL_MS
    }

    fn is_live(&self, now_ms: i64) -> bool {
        self.outcome.is_none() && now_ms < self.expires_ms()
    }

    fn is_remembered(&self, now_ms: i64) -> bool {
        self.is_live(now_ms) || self.outcome.as_ref().is_some_and(|outcome| now_ms < outcome.at_ms + OUTCOME_TTL_MS)
    }

    /// What a device reads in the code, with its token.
    pub fn payload(&self, token: &str) -> Value {
        json!({ "url": self.url, "bootstrapToken": token, "expiresAtMs": self.expires_ms() })
    }

    /// What came of it, as events and `device.pair.setupStatus` tell.
    pub fn told(&self) -> Option<(bool, Value)> {
        let outcome = self.outcome.as_ref()?;
        let mut told = json!({
            "setupId": self.id,
            "deviceId": outcome.device_id,
            "access": self.access.as_str(),
            "ts": outcome.at_ms,
        });
        if let Some(name) = &outcome.device_name {
            told["deviceName"] = json!(name);
        }
        Some((outcome.is_confirmed, told))
    }
}

/// All that are remembered, oldest first.
#[derive(Debug, Default)]
pub struct Setups(Vec<SetupCode>);

impl Setups {
    /// What the store held.
    pub fn load(mut setups: Vec<SetupCode>) -> Setups {
        setups.sort_by_key(|setup| setup.issued_ms);
        Setups(setups)
    }

    /// Remembers a new one.
    pub fn put(&mut self, setup: SetupCode) {
        let now_ms = setup.issued_ms;
        self.0.retain(|known| known.is_remembered(now_ms));
        if self.0.len() >= SETUPS_MAX {
            self.0.remove(0);
        }
        self.0.push(setup);
    }

    /// One of them.
    pub fn get(&self, id: &str, now_ms: i64) -> Option<&SetupCode> {
        self.0.iter().find(|setup| setup.id == id && setup.is_remembered(now_ms))
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut SetupCode> {
        self.0.iter_mut().find(|setup| setup.id == id)
    }

    /// The one that a token is of, when `device` may use it as what it asks to be: then it is that device's from now
    /// on. Says whether it was nobody's before.
    pub fn present(
        &mut self,
        token: &str,
        device: &Device,
        (role, wanted): (Role, &Scopes),
        (key, comparer): (&TokenKey, &Comparer),
        now_ms: i64,
    ) -> Option<(SetupCode, bool)> {
        let live = self.0.iter_mut().filter(|setup| setup.is_live(now_ms));
        // Each is compared, so that the time it takes tells nothing of which one was close.
        let mut found = None;
        for setup in live {
            if comparer.same(&key.setup_token(&setup.id), token) {
                found = Some(setup);
            }
        }
        let setup = found?;
        let may_be = setup.access.roles().contains(&role);
        let may_do = role != Role::Operator || setup.access.scopes().cover(wanted);
        let own = (device.id.clone(), device.public_key.clone());
        let is_its = setup.bound.as_ref().is_none_or(|bound| *bound == own);
        if !may_be || !may_do || !is_its {
            return None;
        }
        let is_news = setup.bound.is_none();
        setup.bound = Some(own);
        Some((setup.clone(), is_news))
    }

    /// Opens the link of one, once.
    pub fn open_link(&mut self, code: &str, key: &TokenKey, comparer: &Comparer, now_ms: i64) -> Option<SetupCode> {
        let mut found = None;
        for setup in self.0.iter_mut().filter(|setup| setup.has_link && setup.is_live(now_ms)) {
            if comparer.same(&key.setup_link(&setup.id), code) {
                found = Some(setup);
            }
        }
        let setup = found?;
        setup.has_link = false;
        Some(setup.clone())
    }

    /// Spends one on a device; nobody can use it again, whatever becomes of the answer.
    pub fn spend(&mut self, id: &str, device: &Paired, now_ms: i64) -> Option<SetupCode> {
        let setup = self.get_mut(id)?;
        setup.outcome = Some(Outcome {
            device_id: device.device_id.clone(),
            device_name: device.profile.display_name.clone(),
            at_ms: now_ms,
            is_confirmed: false,
        });
        Some(setup.clone())
    }

    /// Takes back the codes that a device presented and did not spend: whoever turned it away does not want it back by
    /// itself. Their ids.
    pub fn revoke_of(&mut self, device_id: &str) -> Vec<String> {
        let is_its = |setup: &SetupCode| {
            setup.outcome.is_none() && setup.bound.as_ref().is_some_and(|(bound, _)| bound == device_id)
        };
        let ids = self.0.iter().filter(|setup| is_its(setup)).map(|setup| setup.id.clone()).collect();
        self.0.retain(|setup| !is_its(setup));
        ids
    }

    /// The device could not be written down: the code is as it was.
    pub fn unspend(&mut self, id: &str) {
        if let Some(setup) = self.get_mut(id) {
            setup.outcome = None;
        }
    }

    /// The device was there for its tokens.
    fn confirm(&mut self, id: &str) -> Option<SetupCode> {
        let setup = self.get_mut(id)?;
        setup.outcome.as_mut()?.is_confirmed = true;
        Some(setup.clone())
    }
}

/// Writes what is kept of one, and forgets those that are not remembered any more.
///
/// # Errors
/// The store's.
pub fn write(db: &Db<'_>, setup: &SetupCode, now_ms: i64) -> Result<(), StoreError> {
    let prefix = records::meta::SETUPS;
    let mut kept = records::setups(db)?;
    kept.retain(|known| known.id != setup.id);
    kept.sort_by_key(|known| known.issued_ms);
    let n_over = (kept.len() + 1).saturating_sub(SETUPS_MAX);
    for (idx, known) in kept.iter().enumerate() {
        if idx < n_over || !known.is_remembered(now_ms) {
            db.meta_delete(&format!("{prefix}{}", known.id))?;
        }
    }
    db.meta_put(&format!("{prefix}{}", setup.id), &json!(setup).to_string(), now_ms)
}

/// Forgets codes.
///
/// # Errors
/// The store's.
pub fn forget(db: &Db<'_>, ids: &[String]) -> Result<(), StoreError> {
    for id in ids {
        db.meta_delete(&format!("{}{id}", records::meta::SETUPS))?;
    }
    Ok(())
}

impl Gateway {
    /// Writes down what became of a code, where nobody waits for it.
    pub(super) fn store_setup(&mut self, setup: SetupCode, now_ms: i64) {
        let work = Work::Store(Box::new(move |db| {
            write(db, &setup, now_ms)?;
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("setup code"), work }));
    }

    /// The hello with a device's tokens is on its way: that the code did its work is written down, then told.
    pub(super) fn setup_delivered(&mut self, id: &str, now_ms: i64) {
        let Some(setup) = self.setups.confirm(id) else { return };
        let work = Work::Store(Box::new(move |db| {
            write(db, &setup, now_ms)?;
            Ok(Done { answer: None, facts: vec![Fact::SetupEnded(Box::new(setup))] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("setup code"), work }));
    }

    /// Tells operators what came of a code.
    pub(super) fn setup_ended(&mut self, setup: &SetupCode) {
        let Some((is_confirmed, told)) = setup.told() else { return };
        let kind = if is_confirmed { &broadcast::SETUP_COMPLETED } else { &broadcast::SETUP_UNCERTAIN };
        if let Ok(payload) = Json::of(&told) {
            self.broadcast(kind, For::All, &payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(id: &str, issued_ms: i64) -> SetupCode {
        SetupCode {
            id: id.to_owned(),
            access: Access::Limited,
            url: "wss://gateway.example".to_owned(),
            issued_ms,
            has_link: true,
            bound: None,
            outcome: None,
        }
    }

    fn device(name: &str) -> Device {
        Device { id: name.to_owned(), public_key: format!("key of {name}") }
    }

    fn keys() -> (TokenKey, Comparer) {
        (TokenKey::new(&[7; 32]), Comparer::new())
    }

    #[test]
    fn a_code_is_the_first_device_s_and_works_until_it_is_spent_or_late() {
        let (key, comparer) = keys();
        let mut setups = Setups::load(vec![setup("s", 0)]);
        let token = key.setup_token("s");
        let present = |setups: &mut Setups, token: &str, name: &str, role, wanted: &Scopes, now_ms| {
            let found = setups.present(token, &device(name), (role, wanted), (&key, &comparer), now_ms);
            found.map(|(_, is_news)| is_news)
        };
        let none = Scopes::none();
        assert_eq!(present(&mut setups, "guess", "phone", Role::Node, &none, 1), None);
        let admin = Scopes::from_names(["operator.admin"]);
        assert_eq!(present(&mut setups, &token, "phone", Role::Operator, &admin, 1), None, "more than it gives");
        assert_eq!(present(&mut setups, &token, "phone", Role::Node, &none, 1), Some(true));
        assert_eq!(present(&mut setups, &token, "phone", Role::Node, &none, 2), Some(false), "once more");
        assert_eq!(present(&mut setups, &token, "thief", Role::Node, &none, 2), None);
        assert_eq!(present(&mut setups, &token, "phone", Role::Node, &none, SETUP_TTL_MS), None, "too late");
        assert_eq!(present(&mut setups, &token, "phone", Role::Node, &none, SETUP_TTL_MS - 1), Some(false));
    }

    #[test]
    fn a_link_opens_once() {
        let (key, comparer) = keys();
        let mut setups = Setups::load(vec![setup("s", 0)]);
        let code = key.setup_link("s");
        assert_ne!(code, key.setup_token("s"));
        assert!(setups.open_link("x", &key, &comparer, 1).is_none());
        assert!(setups.open_link(&code, &key, &comparer, SETUP_TTL_MS).is_none());
        assert!(setups.open_link(&code, &key, &comparer, 1).is_some());
        assert!(setups.open_link(&code, &key, &comparer, 1).is_none());
    }

    #[test]
    fn there_are_only_so_many_and_the_oldest_goes() {
        let mut setups = Setups::default();
        for n in 0..=SETUPS_MAX as i64 {
            setups.put(setup(&n.to_string(), n));
        }
        assert_eq!(setups.0.len(), SETUPS_MAX);
        assert!(setups.get("0", 1).is_none() && setups.get("1", 1).is_some());
        setups.put(setup("late", SETUP_TTL_MS + SETUPS_MAX as i64));
        assert_eq!(setups.0.len(), 1, "what expired is forgotten");
    }

    #[test]
    fn each_kind_of_access_is_what_upstream_s_profiles_are() {
        assert_eq!(Access::Node.roles(), [Role::Node]);
        assert!(Access::Full.scopes().cover(&Scopes::from_names(["operator.admin"])));
        assert!(!Access::Limited.scopes().names().iter().any(|name| name == "operator.admin"));
        assert_eq!(Access::VoiceNode.as_str(), "limited");
        assert!(Access::Full.scopes_as(Role::Node).is_empty());
    }
}
