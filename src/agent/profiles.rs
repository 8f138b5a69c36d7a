//! Auth profiles: the credentials a provider may be asked with, where they come from, and in which order they are used
//! (MODEL-30, -31, -32).
//!
//! An id is `provider:name`. Credentials stand in the configuration (`provider:default`), in the lists for rotation
//! (`provider:key-1`, …), in the provider's own variable (`provider:env`), or in the file [`STORE_FILE`] of the state
//! directory, which has upstream's form.

use std::path::Path;

use serde_json::Value;

use super::cooldown::{Cooldowns, Rest};
use super::providers::table;
use super::secrets::read_bounded;
use crate::config::secret::Secret;

/// The file of stored credentials, in the state directory.
pub const STORE_FILE: &str = "auth-profiles.json";
/// Largest one that is read, in bytes.
pub const STORE_BYTES_MAX: u64 = 1024 * 1024;
/// Most profiles of one provider; further ones are not used.
pub const PROFILES_PER_PROVIDER_MAX: usize = 64;

/// Kinds of credentials, the ones that are used first first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Somebody signed in.
    OAuth,
    /// A token that may expire.
    Token,
    /// A key.
    ApiKey,
}

impl Kind {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OAuth => "oauth",
            Kind::Token => "token",
            Kind::ApiKey => "api_key",
        }
    }

    pub(super) fn of(word: &str) -> Kind {
        match word {
            "oauth" => Kind::OAuth,
            "token" => Kind::Token,
            _ => Kind::ApiKey,
        }
    }
}

/// A provider's credentials of one account.
#[derive(Debug, Clone)]
pub struct Profile {
    /// `provider:name`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The secret, or why there is none.
    pub secret: Result<Secret, String>,
    /// When it is worth nothing any more, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

impl Profile {
    /// Why it cannot be used.
    pub fn problem(&self, now_ms: i64) -> Option<String> {
        match (&self.secret, self.expires_ms) {
            (Err(why), _) => Some(why.clone()),
            (Ok(_), Some(until)) if until <= now_ms => Some("it has expired".to_owned()),
            _ => None,
        }
    }
}

/// Stored credentials, with the id of their provider. A file that is not there holds none.
///
/// # Errors
/// Words that say why the file cannot be read.
pub fn read_store(state_dir: &Path) -> Result<Vec<(String, Profile)>, String> {
    let path = state_dir.join(STORE_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read_bounded(&path, STORE_BYTES_MAX)?;
    let store: Value = serde_json::from_str(&text).map_err(|_| format!("{} is not JSON", path.display()))?;
    let profiles = store["profiles"].as_object().into_iter().flatten();
    Ok(profiles.filter_map(|(id, profile)| Some((provider_of(id, profile)?, stored(id, profile)))).collect())
}

fn provider_of(id: &str, profile: &Value) -> Option<String> {
    let written = profile["provider"].as_str().or_else(|| Some(id.split_once(':')?.0))?;
    Some(table::canonical(written))
}

fn stored(id: &str, profile: &Value) -> Profile {
    let text = |name: &str| profile[name].as_str().map(str::trim).filter(|text| !text.is_empty());
    let kind = Kind::of(text("type").unwrap_or_default());
    let secret = match kind {
        Kind::OAuth => text("access"),
        Kind::Token => text("token"),
        Kind::ApiKey => text("key"),
    };
    Profile {
        id: id.to_owned(),
        kind,
        secret: secret.map(Secret::new).ok_or_else(|| "its stored entry holds no secret".to_owned()),
        expires_ms: profile["expires"].as_i64().filter(|ms| *ms > 0),
    }
}

/// A profile and what stands against asking with it.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// Until when it rests.
    pub rest: Option<Rest>,
}

/// In which order profiles are used, and which of them at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// None but this one, where it belongs to the provider (MODEL-33: chosen by a person).
    pub pinned: Option<&'a str>,
    /// This one first (MODEL-34: used last).
    pub preferred: Option<&'a str>,
}

/// The usable profiles in order of use: the ones that rest come last, the soonest to wake first (MODEL-31).
pub fn in_order<'a>(
    profiles: &'a [Profile],
    explicit: &[String],
    wish: Wish<'_>,
    cooldowns: &Cooldowns,
    now_ms: i64,
) -> Vec<Turn<'a>> {
    let pinned = wish.pinned.filter(|id| profiles.iter().any(|profile| profile.id == *id));
    let mut turns: Vec<Turn<'a>> = profiles
        .iter()
        .filter(|profile| profile.problem(now_ms).is_none())
        .filter(|profile| pinned.is_none_or(|id| id == profile.id))
        .filter(|profile| explicit.is_empty() || pinned.is_some() || explicit.contains(&profile.id))
        .map(|profile| Turn { profile, rest: cooldowns.rest(&profile.id, now_ms) })
        .collect();
    turns.sort_by_key(|turn| {
        let id = turn.profile.id.as_str();
        let place = explicit.iter().position(|listed| listed == id).unwrap_or(usize::MAX);
        (
            turn.rest.map_or(0, Rest::until_ms),
            wish.preferred != Some(id),
            place,
            turn.profile.kind,
            cooldowns.used_ms(id),
        )
    });
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::talk::FailureKind;

    fn profile(id: &str, kind: Kind) -> Profile {
        Profile { id: id.to_owned(), kind, secret: Ok(Secret::new("s")), expires_ms: None }
    }

    fn ids(turns: Vec<Turn<'_>>) -> Vec<String> {
        turns.into_iter().map(|turn| turn.profile.id.clone()).collect()
    }

    #[test]
    fn the_order_is_sign_ins_tokens_keys_then_who_waited_longest_then_who_rests() {
        let profiles = [
            profile("p:k1", Kind::ApiKey),
            profile("p:k2", Kind::ApiKey),
            profile("p:t", Kind::Token),
            profile("p:o", Kind::OAuth),
            Profile { secret: Err("gone".into()), ..profile("p:x", Kind::OAuth) },
            Profile { expires_ms: Some(5), ..profile("p:y", Kind::OAuth) },
        ];
        let mut cooldowns = Cooldowns::default();
        cooldowns.answered("p:k1", 1);
        let rules = crate::config::settings::Settings::for_tests().models.auth.cooldowns;
        let order = |cooldowns: &Cooldowns, explicit: &[&str], wish: Wish<'_>| {
            let explicit: Vec<String> = explicit.iter().map(|id| (*id).to_owned()).collect();
            ids(in_order(&profiles, &explicit, wish, cooldowns, 10))
        };
        assert_eq!(order(&cooldowns, &[], Wish::default()), ["p:o", "p:t", "p:k2", "p:k1"]);
        assert_eq!(order(&cooldowns, &["p:k1", "p:t"], Wish::default()), ["p:k1", "p:t"], "what is listed, as listed");
        let wish = Wish { preferred: Some("p:k1"), ..Wish::default() };
        assert_eq!(order(&cooldowns, &[], wish)[0], "p:k1");
        let wish = Wish { pinned: Some("p:t"), ..Wish::default() };
        assert_eq!(order(&cooldowns, &["p:k1"], wish), ["p:t"]);
        let wish = Wish { pinned: Some("other:x"), ..Wish::default() };
        assert_eq!(order(&cooldowns, &[], wish).len(), 4, "another provider's pin is none here");
        cooldowns.failed("p:o", "p", FailureKind::Billing, None, &rules, 0);
        cooldowns.failed("p:t", "p", FailureKind::Auth, None, &rules, 0);
        assert_eq!(order(&cooldowns, &[], Wish::default()), ["p:k2", "p:k1", "p:t", "p:o"]);
    }

    #[test]
    fn stored_credentials_have_upstreams_form() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_store(dir.path()).unwrap().is_empty(), "no file: none");
        let store = serde_json::json!({ "version": 1, "profiles": {
            "anthropic:me": { "type": "oauth", "provider": "claude", "access": "a", "refresh": "r", "expires": 7 },
            "openai:k": { "type": "api_key", "provider": "openai", "key": "k" },
            "openai:t": { "type": "token", "token": "" },
            "nameless": { "type": "token", "token": "" },
        } });
        std::fs::write(dir.path().join(STORE_FILE), store.to_string()).unwrap();
        let read = read_store(dir.path()).unwrap();
        assert_eq!(
            read.iter().map(|(provider, _)| provider.as_str()).collect::<Vec<_>>(),
            ["anthropic", "openai", "openai"]
        );
        assert_eq!((read[0].1.kind, read[0].1.expires_ms), (Kind::OAuth, Some(7)));
        assert_eq!(read[1].1.secret.as_ref().unwrap().reveal(), "k");
        assert!(read[2].1.problem(0).is_some());
        std::fs::write(dir.path().join(STORE_FILE), "{").unwrap();
        assert!(read_store(dir.path()).is_err());
    }
}
