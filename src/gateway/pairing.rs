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

use crate::protocol::connect::{ClientId, ClientMode, ConnectParams};
use crate::protocol::device::Device;
use crate::protocol::params::NonEmpty;
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;
use crate::runtime::random;
use crate::store::devices::{DEVICES_PAIRED_MAX, PAIRS_PENDING_MAX, PAIRS_PENDING_TTL_MS};

/// [`Paired::approved_via`]: nobody was asked.
pub const VIA_SILENT: &str = "silent";
/// [`Paired::approved_via`]: it presented a setup code.
pub const VIA_SETUP: &str = "bootstrap";
/// [`Paired::approved_via`]: an operator approved.
pub const VIA_OWNER: &str = "owner";

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

    /// The token in the setup code of this id.
    pub fn setup_token(&self, setup_id: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, format!("setup-token|{setup_id}").as_bytes()).as_ref())
    }

    /// What the link to that setup code ends with: 16 bytes.
    pub fn setup_link(&self, setup_id: &str) -> String {
        let tag = hmac::sign(&self.0, format!("setup-link|{setup_id}").as_bytes());
        URL_SAFE_NO_PAD.encode(&tag.as_ref()[..16])
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
    /// A node host that names its machine as protocol 3 did gets protocol 4's names for it, as from upstream's gateway.
    pub fn of(params: &ConnectParams, address: std::net::IpAddr, protocol: Protocol) -> Profile {
        let client = &params.client;
        let text = |value: &Option<crate::protocol::params::NonEmpty>| value.as_ref().map(|v| v.0.clone());
        let (mut platform, mut family) = (client.platform.0.clone(), text(&client.device_family));
        let is_node_host = client.id == ClientId::NodeHost && client.mode == ClientMode::Node;
        if let Some((_, name, of)) =
            MACHINES.iter().find(|(known, ..)| protocol == Protocol::V4 && is_node_host && *known == platform)
            && family.as_deref().is_none_or(|said| fold(Some(said)) == fold(Some(of)))
        {
            platform = (*name).to_owned();
            family = family.or_else(|| Some((*of).to_owned()));
        }
        Profile {
            display_name: text(&client.display_name),
            platform: Some(platform),
            device_family: family,
            client_id: Some(client.id.as_str().to_owned()),
            client_mode: Some(client.mode.as_str().to_owned()),
            remote_ip: (!address.is_loopback()).then(|| address.to_string()),
        }
    }
}

/// Platforms as clients name them, with protocol 4's name and the family.
const MACHINES: [(&str, &str, &str); 5] = [
    ("darwin", "macos", "Mac"),
    ("macos", "macos", "Mac"),
    ("win32", "windows", "Windows"),
    ("windows", "windows", "Windows"),
    ("linux", "linux", "Linux"),
];

/// As metadata is compared: without spaces around, ASCII in lower case; absent is empty.
fn fold(text: Option<&str>) -> String {
    text.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Which of the apps' systems a platform names, for the app that names it so: its version may change by itself.
fn app_system(client_id: &str, platform: &str) -> Option<&'static str> {
    let (name, rest) = platform.split_once(' ').map_or((platform, None), |(name, rest)| (name, Some(rest)));
    let is_version = rest.is_some_and(|version| {
        version.split('.').count() <= 3
            && version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    match (ClientId::parse(client_id)?, name) {
        (ClientId::Ios, "ios" | "ipados") => Some("ios"),
        (ClientId::Android, "android") => Some("android"),
        (ClientId::WatchOs, "watchos") if is_version => Some("watchos"),
        (ClientId::MacOs, "macos") if is_version => Some("macos"),
        _ => None,
    }
}

/// What a device that comes back says of its machine, beside what it was approved with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The same, or another name for the same.
    Same,
    /// The same with another version of its system.
    Updated,
    /// Another one: the device must be approved again.
    Other,
}

impl Profile {
    /// Compares with what a client says now, by the rules of protocol 4's gateway: platform and family stay what they
    /// were approved as, whatever the client holds. What was never said is not pinned.
    pub fn machine(&self, now: &Profile) -> Machine {
        let (pinned, said) = (fold(self.platform.as_deref()), fold(now.platform.as_deref()));
        let (pinned_family, family) = (fold(self.device_family.as_deref()), fold(now.device_family.as_deref()));
        if !pinned_family.is_empty() && pinned_family != family {
            return Machine::Other;
        }
        if pinned.is_empty() || pinned == said {
            return Machine::Same;
        }
        let client_id = now.client_id.as_deref().unwrap_or_default();
        let is_node_host =
            client_id == ClientId::NodeHost.as_str() && now.client_mode.as_deref() == Some(ClientMode::Node.as_str());
        let machine = |name: &str| MACHINES.iter().find(|(known, ..)| *known == name);
        let renamed = machine(&pinned).is_some_and(|(_, name, of)| {
            pinned_family.is_empty() && *name != pinned && *name == said && fold(Some(of)) == family
        });
        let same_host = is_node_host && machine(&pinned).zip(machine(&said)).is_some_and(|(a, b)| a.1 == b.1);
        let (was, is) = (app_system(client_id, &pinned), app_system(client_id, &said));
        let mac_app = app_system(ClientId::MacOs.as_str(), &pinned).is_some();
        if renamed || same_host || is_node_host && mac_app && ["darwin", "macos"].contains(&said.as_str()) {
            return Machine::Same;
        }
        if is.is_some() && is == was || is == Some("macos") && ["darwin", "macos"].contains(&pinned.as_str()) {
            return Machine::Updated;
        }
        Machine::Other
    }

    /// Takes in what a device said when it came back: all but the machine, which only an approval changes.
    pub fn refresh(&mut self, now: Profile) {
        let machine = self.machine(&now);
        let Profile { display_name, platform, client_id, client_mode, remote_ip, device_family: _ } = now;
        if machine == Machine::Updated {
            self.platform = platform;
        }
        self.display_name = display_name.or(self.display_name.take());
        (self.client_id, self.client_mode, self.remote_ip) = (client_id, client_mode, remote_ip);
    }
}

/// Capabilities, commands and permissions that are kept of what a node offers; the others are left out. Real ones offer
/// some thirty commands.
pub const OFFERED_NAMES_MAX: usize = 64;
/// Longest name of one that is kept, in bytes.
pub const OFFERED_NAME_BYTES_MAX: usize = 64;

/// What a node offered when it last connected, and nobody has approved. Kept in memory only: a node says it anew each
/// time it comes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Names what would be approved.
    pub request_id: String,
    /// Changes with what is offered.
    pub revision: String,
    /// Who offers.
    #[serde(flatten)]
    pub from: Offerer,
    /// Kinds of things it can do.
    pub caps: Vec<String>,
    /// Commands it can run.
    pub commands: Vec<String>,
    /// What its owner allows it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub permissions: BTreeMap<String, bool>,
    /// Set when the device itself was approved without asking.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// When it was first offered.
    pub ts: i64,
}

/// What a node says of itself beside its offer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the wire contract's node surface, field for field")]
pub struct Offerer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    pub version: String,
}

impl Offer {
    /// From a connect, at `now_ms`.
    fn of(params: &ConnectParams, profile: &Profile, silent: bool, now_ms: i64) -> Offer {
        let is_kept = |name: &&str| name.len() <= OFFERED_NAME_BYTES_MAX;
        let names = |list: &Option<Vec<NonEmpty>>| -> Vec<String> {
            let names = list.iter().flatten().map(|name| name.0.as_str()).filter(is_kept);
            names.take(OFFERED_NAMES_MAX).map(str::to_owned).collect()
        };
        let permissions = params.permissions.iter().flat_map(|map| &map.0);
        let permissions = permissions.filter_map(|(name, allowed)| Some((name.as_str(), allowed.as_bool()?)));
        Offer {
            request_id: random::uuid(),
            revision: random::uuid(),
            from: Offerer {
                display_name: profile.display_name.clone(),
                platform: profile.platform.clone(),
                device_family: profile.device_family.clone(),
                version: params.client.version.0.clone(),
            },
            caps: names(&params.caps),
            commands: names(&params.commands),
            permissions: permissions
                .filter(|(name, _)| is_kept(name))
                .take(OFFERED_NAMES_MAX)
                .map(|(name, allowed)| (name.to_owned(), allowed))
                .collect(),
            silent,
            ts: now_ms,
        }
    }

    /// Whether another offer is the same but for when it was made and what it is called.
    fn is_like(&self, other: &Offer) -> bool {
        let part = |offer: &Offer| {
            (offer.from.clone(), offer.caps.clone(), offer.commands.clone(), offer.permissions.clone(), offer.silent)
        };
        part(self) == part(other)
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
    /// `silent`, `bootstrap` or `owner`.
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
    /// What it offers as a node.
    #[serde(skip)]
    pub offer: Option<Offer>,
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

    /// Approves it for more: what its setup code gives.
    pub fn widen(&mut self, roles: &[Role], scopes: &Scopes) {
        for role in roles {
            if !self.roles.iter().any(|known| known == role.as_str()) {
                self.roles.push(role.as_str().to_owned());
            }
        }
        self.scopes = self.granted().union(scopes).names().to_vec();
    }

    /// Whether it was approved for all of this.
    pub fn is_approved_for(&self, roles: &[Role], scopes: &Scopes) -> bool {
        roles.iter().all(|role| self.roles.iter().any(|known| known == role.as_str())) && self.granted().cover(scopes)
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

    /// Notes what the device offers as a node. The same offer goes on under its name.
    pub fn offers(&mut self, params: &ConnectParams, now_ms: i64) {
        let offer = Offer::of(params, &self.profile, self.approved_via == VIA_SILENT, now_ms);
        if !self.offer.as_ref().is_some_and(|known| known.is_like(&offer)) {
            self.offer = Some(offer);
        }
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
    /// It says that it is another machine than the one that was approved.
    MetadataUpgrade,
}

impl Reason {
    /// `details.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotPaired => "not-paired",
            Reason::RoleUpgrade => "role-upgrade",
            Reason::ScopeUpgrade => "scope-upgrade",
            Reason::MetadataUpgrade => "metadata-upgrade",
        }
    }

    /// Protocol 4's message.
    pub fn message(self) -> &'static str {
        match self {
            Reason::NotPaired => "pairing required: device is not approved yet",
            Reason::RoleUpgrade => "pairing required: device is asking for a higher role than currently approved",
            Reason::ScopeUpgrade => "pairing required: device is asking for more scopes than currently approved",
            Reason::MetadataUpgrade => "pairing required: device identity changed and must be re-approved",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Reason::NotPaired => "Approve this device from the pending pairing requests.",
            Reason::RoleUpgrade => "Review the requested role upgrade, then approve the pending request.",
            Reason::ScopeUpgrade => "Review the requested scopes, then approve the pending upgrade.",
            Reason::MetadataUpgrade => "Review the refreshed device details, then approve the pending request.",
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

    /// Why `device` needs an approval for what it asks, in upstream's order; empty when it needs none. `said` is what
    /// it says of its machine, where that counts: on protocol 4.
    pub fn needs_approval(&self, device: &Device, role: Role, wanted: &Scopes, said: Option<&Profile>) -> Vec<Reason> {
        let Some(record) = self.paired.get(&device.id).filter(|record| record.public_key == device.public_key) else {
            return vec![Reason::NotPaired];
        };
        let is_other = said.is_some_and(|said| record.profile.machine(said) == Machine::Other);
        let is_new_role = !record.roles.iter().any(|known| known == role.as_str());
        // A node's scopes mean nothing; what it may do is its list of commands.
        let is_wider = role == Role::Operator && !record.granted().cover(wanted);
        let reasons =
            [(is_other, Reason::MetadataUpgrade), (is_new_role, Reason::RoleUpgrade), (is_wider, Reason::ScopeUpgrade)];
        reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
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
            offer: None,
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
        let needs = |devices: &Devices, device: &Device, role, wanted: &Scopes| {
            devices.needs_approval(device, role, wanted, None)
        };
        assert_eq!(needs(&devices, &device(), Role::Operator, &read), [Reason::NotPaired]);
        let record = devices.approved(&ask(Role::Operator, &read, &profile), "owner", 1);
        devices.put(record);
        assert_eq!(needs(&devices, &device(), Role::Operator, &read), []);
        assert_eq!(needs(&devices, &device(), Role::Operator, &all), [Reason::ScopeUpgrade]);
        assert_eq!(needs(&devices, &device(), Role::Node, &read), [Reason::RoleUpgrade]);
        let stranger = Device { id: "d1".to_owned(), public_key: "other".to_owned() };
        assert_eq!(needs(&devices, &stranger, Role::Operator, &read), [Reason::NotPaired]);
    }

    fn profile(client: ClientId, mode: ClientMode, platform: &str, family: Option<&str>) -> Profile {
        Profile {
            platform: Some(platform.to_owned()),
            device_family: family.map(str::to_owned),
            client_id: Some(client.as_str().to_owned()),
            client_mode: Some(mode.as_str().to_owned()),
            ..Profile::default()
        }
    }

    #[test]
    fn another_machine_is_another_approval() {
        let cli = |platform, family| profile(ClientId::Cli, ClientMode::Cli, platform, family);
        let host = |platform, family| profile(ClientId::NodeHost, ClientMode::Node, platform, family);
        let app = |platform| profile(ClientId::MacOs, ClientMode::Ui, platform, None);
        let ios = |platform| profile(ClientId::Ios, ClientMode::Ui, platform, None);
        for (approved, now, wanted) in [
            (cli("linux", None), cli(" Linux ", Some("Linux")), Machine::Same),
            (cli("linux", Some("Linux")), cli("linux", None), Machine::Other),
            (cli("linux", Some("Linux")), cli("linux", Some("linux")), Machine::Same),
            (cli("linux", None), cli("win32", None), Machine::Other),
            (cli("darwin", None), cli("macos", Some("Mac")), Machine::Same),
            (cli("darwin", None), cli("macos", None), Machine::Other),
            (cli("darwin", Some("Mac")), cli("macos", Some("Mac")), Machine::Other),
            (host("macos", Some("Mac")), host("darwin", Some("Mac")), Machine::Same),
            (app("macos 15.1"), host("macos", None), Machine::Same),
            (app("macos 15.1"), app("macos 15.2.1"), Machine::Updated),
            (app("macos"), app("macos 15.2"), Machine::Updated),
            (app("macos 15.1"), app("macos next"), Machine::Other),
            (ios("iOS 17.5"), ios("iPadOS 18.0"), Machine::Updated),
            (ios("iOS 17.5"), cli("iOS 18.0", None), Machine::Other),
            (Profile::default(), cli("linux", Some("Linux")), Machine::Same),
        ] {
            assert_eq!(approved.machine(&now), wanted, "{approved:?} {now:?}");
        }
    }

    #[test]
    fn an_offer_keeps_its_name_while_it_is_the_same_and_is_bounded() {
        let connect = |caps: Vec<String>| -> ConnectParams {
            let text = serde_json::json!({
                "minProtocol": 4, "maxProtocol": 4, "caps": caps, "permissions": { "screen.record": true, "odd": 3 },
                "client": { "id": "node-host", "version": "1.0.0", "platform": "linux", "mode": "node" },
            });
            crate::protocol::params::decode("connect", Some(&text.to_string()), Protocol::V4).unwrap()
        };
        let (none, profile) = (Scopes::none(), Profile::default());
        let mut record = Devices::default().approved(&ask(Role::Node, &none, &profile), VIA_SILENT, 1);
        record.offers(&connect(vec!["canvas".to_owned()]), 1);
        let first = record.offer.clone().unwrap();
        assert_eq!(first.permissions, BTreeMap::from([("screen.record".to_owned(), true)]));
        assert!(first.silent);
        record.offers(&connect(vec!["canvas".to_owned()]), 2);
        assert_eq!(record.offer.as_ref(), Some(&first));
        let mut many: Vec<String> = (0..OFFERED_NAMES_MAX + 1).map(|n| format!("c{n}")).collect();
        many.insert(0, "x".repeat(OFFERED_NAME_BYTES_MAX + 1));
        record.offers(&connect(many), 3);
        let offer = record.offer.unwrap();
        assert_eq!((offer.caps.len(), offer.caps[0].as_str()), (OFFERED_NAMES_MAX, "c0"));
        assert_ne!(offer.request_id, first.request_id);
    }

    #[test]
    fn coming_back_changes_no_machine() {
        let mut kept = profile(ClientId::Cli, ClientMode::Probe, "linux", None);
        kept.display_name = Some("attic".to_owned());
        kept.refresh(profile(ClientId::Cli, ClientMode::Cli, "win32", Some("Windows")));
        assert_eq!(kept.platform.as_deref(), Some("linux"));
        assert_eq!((kept.device_family, kept.display_name.as_deref()), (None, Some("attic")));
        assert_eq!(kept.client_mode.as_deref(), Some("cli"));
        let mut app = profile(ClientId::Ios, ClientMode::Ui, "ios 17.5", None);
        app.refresh(profile(ClientId::Ios, ClientMode::Ui, "ios 18.0", None));
        assert_eq!(app.platform.as_deref(), Some("ios 18.0"));
    }

    #[test]
    fn every_reason_is_told_in_upstreams_order() {
        let mut devices = Devices::default();
        let (read, all) = (scopes(&["operator.read"]), scopes(&["operator.admin"]));
        let linux = profile(ClientId::Cli, ClientMode::Cli, "linux", Some("Linux"));
        devices.put(devices.approved(&ask(Role::Operator, &read, &linux), "owner", 1));
        let bare = profile(ClientId::Cli, ClientMode::Cli, "linux", None);
        let reasons = |role| devices.needs_approval(&device(), role, &all, Some(&bare));
        assert_eq!(reasons(Role::Operator), [Reason::MetadataUpgrade, Reason::ScopeUpgrade]);
        assert_eq!(reasons(Role::Node), [Reason::MetadataUpgrade, Reason::RoleUpgrade]);
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
