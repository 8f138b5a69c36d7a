//! Paired devices: who is known, what each was approved for, which tokens it holds, who waits for an answer.
//!
//! The table is held here and written through the store; a change counts once it is on disk. A paired device's record
//! only grows by approval, and a token never reaches further than its device's record.
//!
//! A token is derived from a key that lives beside the store and a random salt in the record. So the store alone gives
//! no token away, and yet a device that connects twice is told the same one: minting at each connect would invalidate
//! what another process of the same device just saved.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};

use crate::protocol::connect::ConnectParams;
use crate::protocol::device::Device;
use crate::protocol::scope::{Role, Scopes};
use crate::runtime::random;
use crate::store::devices::{DEVICES_PAIRED_MAX, PAIRS_PENDING_MAX, PAIRS_PENDING_TTL_MS};

/// The key device tokens are derived from: 32 random bytes in a file of their own.
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// From the file's bytes.
    pub fn new(bytes: &[u8; 32]) -> TokenKey {
        TokenKey(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A name for what `principal` keeps on its own machine; opaque, and the same as long as the state directory is.
    pub fn recovery_scope(&self, principal: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, format!("recovery-scope|{principal}").as_bytes()).as_ref())
    }

    /// The gateway's own device id and public key: an Ed25519 key that stays with the state directory, so that a client
    /// can tell this gateway from another one at the same address.
    pub fn gateway_identity(&self) -> (String, String) {
        let seed = hmac::sign(&self.0, b"gateway-identity");
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("a seed has 32 bytes");
        let mut key = [0u8; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        (crate::protocol::device::id_of(&key), URL_SAFE_NO_PAD.encode(key))
    }

    fn derive(&self, device_id: &str, role: &str, salt: &str) -> String {
        let tag = hmac::sign(&self.0, format!("device-token|{device_id}|{role}|{salt}").as_bytes());
        URL_SAFE_NO_PAD.encode(tag.as_ref())
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// A device's token for one role, without the token: what is kept says nothing without the [`TokenKey`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// What this token was derived with.
    pub salt: String,
    /// The role it admits.
    pub role: String,
    /// What it reaches.
    pub scopes: Vec<String>,
    /// When the first token of this role was made.
    pub created_at_ms: i64,
    /// When it was last replaced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rotated_at_ms: Option<i64>,
    /// When it was revoked; a revoked token admits nobody.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revoked_at_ms: Option<i64>,
    /// When it last admitted somebody.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used_at_ms: Option<i64>,
}

/// What a device said of itself, last time it connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the wire contract's device record, field for field")]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device_family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote_ip: Option<String>,
}

impl Profile {
    /// From a connect. A loopback address says nothing and is left out, as upstream does.
    ///
    /// A node that does not say its family gets that of its platform, as protocol 4's gateway does.
    pub fn of(params: &ConnectParams, address: std::net::IpAddr, role: Role) -> Profile {
        let client = &params.client;
        let implied = (role == Role::Node && client.platform.0.trim().to_ascii_lowercase().starts_with("linux"))
            .then(|| "Linux".to_owned());
        let text = |value: &Option<crate::protocol::params::NonEmpty>| value.as_ref().map(|v| v.0.clone());
        Profile {
            display_name: text(&client.display_name),
            platform: Some(client.platform.0.clone()),
            device_family: text(&client.device_family).or(implied),
            client_id: Some(client.id.as_str().to_owned()),
            client_mode: Some(client.mode.as_str().to_owned()),
            remote_ip: (!address.is_loopback()).then(|| address.to_string()),
        }
    }
}

/// A paired device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    /// Hash of its key.
    pub device_id: String,
    /// Its key.
    pub public_key: String,
    /// What it said of itself.
    #[serde(flatten)]
    pub profile: Profile,
    /// The role it was last approved for.
    pub role: String,
    /// Every role it was approved for.
    pub roles: Vec<String>,
    /// Everything it was approved for as an operator.
    pub scopes: Vec<String>,
    /// `silent` or `owner`.
    pub approved_via: String,
    /// When it was first approved.
    pub created_at_ms: i64,
    /// When it was last approved.
    pub approved_at_ms: i64,
    /// When it last connected.
    pub last_seen_at_ms: i64,
    /// A name an operator gave it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operator_label: Option<String>,
    /// Its tokens, one a role.
    pub tokens: Vec<Token>,
}

impl Paired {
    /// Its token for `role`, revoked or not.
    pub fn token(&self, role: Role) -> Option<&Token> {
        self.tokens.iter().find(|token| token.role == role.as_str())
    }

    fn token_mut(&mut self, role: Role) -> Option<&mut Token> {
        self.tokens.iter_mut().find(|token| token.role == role.as_str())
    }

    /// What it was approved for.
    pub fn granted(&self) -> Scopes {
        Scopes::from_names(&self.scopes)
    }

    /// Replaces the token for `role` by a new one that reaches `scopes`.
    pub fn mint(&mut self, role: Role, scopes: &Scopes, now_ms: i64) {
        let salt = random::token();
        let names = scopes.sorted().names().to_vec();
        match self.token_mut(role) {
            Some(token) => {
                token.salt = salt;
                token.scopes = names;
                token.rotated_at_ms = Some(now_ms);
                token.revoked_at_ms = None;
            }
            None => self.tokens.push(Token {
                salt,
                role: role.as_str().to_owned(),
                scopes: names,
                created_at_ms: now_ms,
                rotated_at_ms: None,
                revoked_at_ms: None,
                last_used_at_ms: None,
            }),
        }
        self.tokens.sort_by(|a, b| a.role.cmp(&b.role));
    }

    /// Notes that the token of `role` admitted somebody.
    pub fn used_token(&mut self, role: Role, now_ms: i64) {
        if let Some(token) = self.token_mut(role) {
            token.last_used_at_ms = Some(now_ms);
        }
    }

    /// The live token for `role`.
    pub fn secret(&self, role: Role, key: &TokenKey) -> Option<String> {
        let token = self.token(role).filter(|token| token.revoked_at_ms.is_none())?;
        Some(key.derive(&self.device_id, &token.role, &token.salt))
    }

    /// Marks the token of `role` as revoked.
    pub fn revoke(&mut self, role: Role, now_ms: i64) -> bool {
        match self.token_mut(role) {
            Some(token) => {
                token.revoked_at_ms = Some(now_ms);
                true
            }
            None => false,
        }
    }

    /// Whether `secret` is this device's live token for `role`.
    pub fn admits(&self, role: Role, secret: &str, key: &TokenKey, comparer: &super::auth::Comparer) -> bool {
        self.secret(role, key).is_some_and(|live| comparer.same(&live, secret))
    }

    /// Makes sure that the live token for `role` reaches `wanted`; says whether a new one was made.
    pub fn ensure_token(&mut self, role: Role, wanted: &Scopes, now_ms: i64) -> bool {
        let live = self.token(role).filter(|token| token.revoked_at_ms.is_none());
        let held = live.map_or_else(Scopes::none, |token| Scopes::from_names(&token.scopes));
        if live.is_some() && held.cover(wanted) {
            return false;
        }
        self.mint(role, &held.union(wanted), now_ms);
        true
    }
}

/// A device that asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Names the request.
    pub request_id: String,
    /// Who asks.
    pub device_id: String,
    /// Its key.
    pub public_key: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub profile: Profile,
    /// The role it asks for.
    pub role: String,
    /// The same, as a list.
    pub roles: Vec<String>,
    /// What it asks for.
    pub scopes: Vec<String>,
    /// Whether it could have been approved without asking.
    pub silent: bool,
    /// Whether it was known before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub is_repair: Option<bool>,
    /// When it asked.
    pub ts: i64,
}

/// Why a device must be approved first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not known, or came back with another key.
    NotPaired,
    /// It asks for a role it was not approved for.
    RoleUpgrade,
    /// It asks for more than it was approved for.
    ScopeUpgrade,
}

impl Reason {
    /// `details.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotPaired => "not-paired",
            Reason::RoleUpgrade => "role-upgrade",
            Reason::ScopeUpgrade => "scope-upgrade",
        }
    }

    /// Protocol 4's message.
    pub fn message(self) -> &'static str {
        match self {
            Reason::NotPaired => "pairing required: device is not approved yet",
            Reason::RoleUpgrade => "pairing required: device is asking for a higher role than currently approved",
            Reason::ScopeUpgrade => "pairing required: device is asking for more scopes than currently approved",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Reason::NotPaired => "Approve this device from the pending pairing requests.",
            Reason::RoleUpgrade => "Review the requested role upgrade, then approve the pending request.",
            Reason::ScopeUpgrade => "Review the requested scopes, then approve the pending upgrade.",
        }
    }
}

/// Everything known of devices.
#[derive(Debug, Default)]
pub struct Devices {
    paired: BTreeMap<String, Paired>,
    pending: Vec<Pending>,
}

impl Devices {
    /// What the store holds at start.
    pub fn load(paired: Vec<Paired>, pending: Vec<Pending>) -> Devices {
        Devices { paired: paired.into_iter().map(|record| (record.device_id.clone(), record)).collect(), pending }
    }

    /// A paired device.
    pub fn get(&self, device_id: &str) -> Option<&Paired> {
        self.paired.get(device_id)
    }

    /// Every paired device, the newest approval first.
    pub fn paired(&self) -> Vec<&Paired> {
        let mut all: Vec<&Paired> = self.paired.values().collect();
        all.sort_by_key(|record| std::cmp::Reverse(record.approved_at_ms));
        all
    }

    /// Every request that still waits, the newest first.
    pub fn pending(&self, now_ms: i64) -> Vec<&Pending> {
        let mut all: Vec<&Pending> = self.pending.iter().filter(|p| now_ms - p.ts < PAIRS_PENDING_TTL_MS).collect();
        all.sort_by_key(|pending| std::cmp::Reverse(pending.ts));
        all
    }

    /// A request that still waits.
    pub fn request(&self, request_id: &str, now_ms: i64) -> Option<&Pending> {
        self.pending.iter().find(|p| p.request_id == request_id && now_ms - p.ts < PAIRS_PENDING_TTL_MS)
    }

    /// Whether `device` needs an approval for what it asks, and why.
    pub fn needs_approval(&self, device: &Device, role: Role, wanted: &Scopes) -> Option<Reason> {
        let Some(record) = self.paired.get(&device.id).filter(|record| record.public_key == device.public_key) else {
            return Some(Reason::NotPaired);
        };
        if !record.roles.iter().any(|known| known == role.as_str()) {
            return Some(Reason::RoleUpgrade);
        }
        // A node's scopes mean nothing; what it may do is its list of commands.
        (role == Role::Operator && !record.granted().cover(wanted)).then_some(Reason::ScopeUpgrade)
    }

    /// The record of a device after approving it for `role` and `scopes`; not entered yet.
    pub fn approved(&self, ask: &Ask<'_>, via: &str, now_ms: i64) -> Paired {
        let known = self.paired.get(ask.device_id).filter(|record| record.public_key == ask.public_key);
        let mut record = known.cloned().unwrap_or_else(|| Paired {
            device_id: ask.device_id.to_owned(),
            public_key: ask.public_key.to_owned(),
            profile: Profile::default(),
            role: String::new(),
            roles: Vec::new(),
            scopes: Vec::new(),
            approved_via: String::new(),
            created_at_ms: now_ms,
            approved_at_ms: now_ms,
            last_seen_at_ms: now_ms,
            operator_label: None,
            tokens: Vec::new(),
        });
        record.profile = ask.profile.clone();
        record.role = ask.role.as_str().to_owned();
        if !record.roles.iter().any(|role| role == ask.role.as_str()) {
            record.roles.push(ask.role.as_str().to_owned());
        }
        record.scopes = record.granted().union(ask.scopes).names().to_vec();
        record.approved_via = via.to_owned();
        record.approved_at_ms = now_ms;
        record
    }

    /// Enters a record that is on disk, or takes one back.
    pub fn put(&mut self, record: Paired) {
        if !self.paired.contains_key(&record.device_id) && self.paired.len() >= DEVICES_PAIRED_MAX {
            let oldest = self.paired.values().min_by_key(|r| r.last_seen_at_ms).map(|r| r.device_id.clone());
            if let Some(oldest) = oldest {
                self.paired.remove(&oldest);
            }
        }
        self.paired.insert(record.device_id.clone(), record);
    }

    /// Forgets a device and what it asked.
    pub fn remove(&mut self, device_id: &str) -> Option<Paired> {
        self.pending.retain(|pending| pending.device_id != device_id);
        self.paired.remove(device_id)
    }

    /// Enters a request, merged with what the same device already asked.
    pub fn ask(&mut self, ask: &Ask<'_>, now_ms: i64) -> Pending {
        self.pending.retain(|pending| now_ms - pending.ts < PAIRS_PENDING_TTL_MS);
        let before = self.pending.iter().position(|p| p.device_id == ask.device_id && p.role == ask.role.as_str());
        let (request_id, scopes) = match before.map(|idx| self.pending.remove(idx)) {
            Some(old) => (old.request_id, Scopes::from_names(&old.scopes).union(ask.scopes)),
            None => (random::uuid(), ask.scopes.clone()),
        };
        if self.pending.len() >= PAIRS_PENDING_MAX {
            self.pending.remove(0);
        }
        let pending = Pending {
            request_id,
            device_id: ask.device_id.to_owned(),
            public_key: ask.public_key.to_owned(),
            profile: ask.profile.clone(),
            role: ask.role.as_str().to_owned(),
            roles: vec![ask.role.as_str().to_owned()],
            scopes: scopes.names().to_vec(),
            silent: false,
            is_repair: self.paired.contains_key(ask.device_id).then_some(true),
            ts: now_ms,
        };
        self.pending.push(pending.clone());
        pending
    }

    /// Takes a request out, answered.
    pub fn resolve(&mut self, request_id: &str) -> Option<Pending> {
        let idx = self.pending.iter().position(|pending| pending.request_id == request_id)?;
        Some(self.pending.remove(idx))
    }
}

/// A device and what it wants.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Who.
    pub device_id: &'a str,
    /// Its key.
    pub public_key: &'a str,
    /// The role.
    pub role: Role,
    /// The scopes.
    pub scopes: &'a Scopes,
    /// What it says of itself.
    pub profile: &'a Profile,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device { id: "d1".to_owned(), public_key: "k1".to_owned() }
    }

    fn scopes(names: &[&str]) -> Scopes {
        Scopes::from_names(names)
    }

    fn ask<'a>(role: Role, wanted: &'a Scopes, profile: &'a Profile) -> Ask<'a> {
        Ask { device_id: "d1", public_key: "k1", role, scopes: wanted, profile }
    }

    #[test]
    fn a_device_is_asked_about_until_it_is_approved_for_what_it_wants() {
        let mut devices = Devices::default();
        let (read, all, profile) = (scopes(&["operator.read"]), scopes(&["operator.admin"]), Profile::default());
        assert_eq!(devices.needs_approval(&device(), Role::Operator, &read), Some(Reason::NotPaired));
        let record = devices.approved(&ask(Role::Operator, &read, &profile), "owner", 1);
        devices.put(record);
        assert_eq!(devices.needs_approval(&device(), Role::Operator, &read), None);
        assert_eq!(devices.needs_approval(&device(), Role::Operator, &all), Some(Reason::ScopeUpgrade));
        assert_eq!(devices.needs_approval(&device(), Role::Node, &read), Some(Reason::RoleUpgrade));
        let stranger = Device { id: "d1".to_owned(), public_key: "other".to_owned() };
        assert_eq!(devices.needs_approval(&stranger, Role::Operator, &read), Some(Reason::NotPaired));
    }

    #[test]
    fn a_new_key_under_an_old_id_inherits_nothing() {
        let mut devices = Devices::default();
        let (all, read, profile) = (scopes(&["operator.admin"]), scopes(&["operator.read"]), Profile::default());
        let record = devices.approved(&ask(Role::Operator, &all, &profile), "owner", 1);
        devices.put(record);
        let other = Ask { public_key: "k2", ..ask(Role::Operator, &read, &profile) };
        assert_eq!(devices.approved(&other, "owner", 2).scopes, ["operator.read"]);
    }

    #[test]
    fn only_the_live_token_of_the_role_admits() {
        let (comparer, key) = (super::super::auth::Comparer::new(), TokenKey::new(&[7; 32]));
        let devices = Devices::default();
        let (all, profile) = (scopes(&["operator.admin"]), Profile::default());
        let mut record = devices.approved(&ask(Role::Operator, &all, &profile), "owner", 1);
        assert!(record.ensure_token(Role::Operator, &all, 1));
        let first = record.secret(Role::Operator, &key).unwrap();
        assert_eq!(first.len(), 43);
        assert!(!record.ensure_token(Role::Operator, &all, 2), "the same token is told again");
        assert!(record.admits(Role::Operator, &first, &key, &comparer));
        assert!(!record.admits(Role::Node, &first, &key, &comparer));
        assert!(!record.admits(Role::Operator, &first, &TokenKey::new(&[8; 32]), &comparer));
        record.mint(Role::Operator, &all, 2);
        assert!(!record.admits(Role::Operator, &first, &key, &comparer), "rotated");
        let second = record.secret(Role::Operator, &key).unwrap();
        assert_eq!(record.token(Role::Operator).unwrap().created_at_ms, 1);
        record.revoke(Role::Operator, 3);
        assert!(!record.admits(Role::Operator, &second, &key, &comparer), "revoked");
        assert!(!format!("{record:?}").contains(&second), "the token itself is nowhere");
    }

    #[test]
    fn requests_merge_expire_and_are_bounded() {
        let mut devices = Devices::default();
        let profile = Profile::default();
        let (read, write) = (scopes(&["operator.read"]), scopes(&["operator.write"]));
        let first = devices.ask(&ask(Role::Operator, &read, &profile), 0);
        let second = devices.ask(&ask(Role::Operator, &write, &profile), 1);
        assert_eq!(first.request_id, second.request_id);
        assert_eq!(second.scopes, ["operator.read", "operator.write"]);
        assert!(devices.request(&first.request_id, PAIRS_PENDING_TTL_MS).is_some());
        assert!(devices.request(&first.request_id, PAIRS_PENDING_TTL_MS + 1).is_none());
        for n in 0..PAIRS_PENDING_MAX + 10 {
            let id = format!("d{n}");
            devices.ask(&Ask { device_id: &id, ..ask(Role::Operator, &read, &profile) }, 2);
        }
        assert_eq!(devices.pending(2).len(), PAIRS_PENDING_MAX);
    }
}
