//! Which profile rests until when, and who was used when (MODEL-40, -41). A pure value: it is told the time.
//!
//! Each run works on a copy and gives it back; the owner merges what several runs found ([`Cooldowns::merge`]): for each
//! profile the newer word counts, so the order in which runs end makes no difference.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::talk::FailureKind;
use crate::config::settings::models::Cooldowns as Rules;

/// Most profiles that are remembered; the one that nothing happened to for longest is forgotten.
pub const PROFILES_MAX: usize = 512;
/// How long a profile rests after its first failure, its second, …; the last counts for all further ones.
const LADDER: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(25 * 60), Duration::from_secs(60 * 60)];
/// Doublings after which no rest grows any more, so that counting cannot overflow.
const DOUBLINGS_MAX: u32 = 30;

/// What is known of every profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cooldowns {
    profiles: BTreeMap<String, Entry>,
}

/// What is known of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Entry {
    /// When anything happened to it last; the newer of two entries counts. First, because that is how they are compared.
    at_ms: i64,
    /// Until when it rests after a failure that passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    cooldown_until_ms: Option<i64>,
    /// Until when it rests because there is no money.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_until_ms: Option<i64>,
    /// Failures since it last answered.
    errors: u32,
    /// Those for want of money.
    billing_errors: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_ms: Option<i64>,
}

/// Why a profile is not to be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It failed; until then, in milliseconds since 1970.
    Cooldown(i64),
    /// It has no money; until then.
    Disabled(i64),
}

impl Rest {
    /// When it ends, in milliseconds since 1970.
    pub fn until_ms(self) -> i64 {
        match self {
            Rest::Cooldown(until) | Rest::Disabled(until) => until,
        }
    }

    /// The reason in attempt traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Rest::Cooldown(_) => "profile_cooldown",
            Rest::Disabled(_) => "profile_disabled",
        }
    }
}

impl Cooldowns {
    /// From the text it was kept as; what cannot be read counts as nothing, and costs a few requests at most.
    pub fn of_json(text: &str) -> Cooldowns {
        let mut read: Cooldowns = serde_json::from_str(text).unwrap_or_default();
        read.forget_most_idle();
        read
    }

    /// As a text to be kept.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a map of texts to numbers is JSON")
    }

    /// Whether a profile rests.
    pub fn rest(&self, profile: &str, now_ms: i64) -> Option<Rest> {
        let entry = self.profiles.get(profile)?;
        let ahead = |until: Option<i64>| until.filter(|until| *until > now_ms);
        // The longer rest counts.
        let disabled = ahead(entry.disabled_until_ms).map(Rest::Disabled);
        let cooldown = ahead(entry.cooldown_until_ms).map(Rest::Cooldown);
        disabled.into_iter().chain(cooldown).max_by_key(|rest| rest.until_ms())
    }

    /// When a profile was used last, in milliseconds since 1970; 0: never.
    pub fn used_ms(&self, profile: &str) -> i64 {
        self.profiles.get(profile).and_then(|entry| entry.used_ms).unwrap_or(0)
    }

    /// Failures of a profile since it last answered.
    pub fn errors(&self, profile: &str) -> u32 {
        self.profiles.get(profile).map_or(0, |entry| entry.errors)
    }

    /// A profile answered: it rests no more.
    pub fn answered(&mut self, profile: &str, now_ms: i64) {
        self.profiles.insert(profile.to_owned(), Entry { at_ms: now_ms, used_ms: Some(now_ms), ..Entry::default() });
        self.forget_most_idle();
    }

    /// A profile of a provider failed: it rests, when its kind of failure asks for that.
    pub fn failed(
        &mut self,
        profile: &str,
        provider: &str,
        kind: FailureKind,
        retry_after_ms: Option<u64>,
        rules: &Rules,
        now_ms: i64,
    ) {
        use FailureKind::*;
        if matches!(kind, NotFound | ContextLength | Refusal | Stopped | NoModel) {
            return;
        }
        let entry = self.profiles.entry(profile.to_owned()).or_default();
        let is_stale = entry.failed_ms.is_some_and(|at| now_ms.saturating_sub(at) > ms(rules.failure_window));
        if is_stale {
            (entry.errors, entry.billing_errors) = (0, 0);
        }
        entry.errors = entry.errors.saturating_add(1);
        entry.failed_ms = Some(now_ms);
        entry.used_ms = Some(now_ms);
        entry.at_ms = now_ms;
        if kind == Billing {
            entry.billing_errors = entry.billing_errors.saturating_add(1);
            let rest = billing_rest(provider, entry.billing_errors, rules);
            entry.disabled_until_ms = Some(now_ms.saturating_add(ms(rest)));
        } else {
            let rest = retry_after_ms.map_or_else(|| ladder(entry.errors, rules), Duration::from_millis);
            entry.cooldown_until_ms = Some(now_ms.saturating_add(ms(rest)));
        }
        self.forget_most_idle();
    }

    /// Lets a profile, or every one whose id begins with it and a colon, be asked again.
    pub fn clear(&mut self, profile_or_provider: &str, now_ms: i64) {
        let is_meant = |id: &str| {
            id.strip_prefix(profile_or_provider).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        for (_, entry) in self.profiles.iter_mut().filter(|(id, _)| is_meant(id)) {
            *entry = Entry { at_ms: now_ms, used_ms: entry.used_ms, ..Entry::default() };
        }
    }

    /// Takes over what is newer in `found`. Says whether anything is.
    pub fn merge(&mut self, found: &Cooldowns) -> bool {
        let mut is_changed = false;
        for (profile, entry) in &found.profiles {
            let own = self.profiles.entry(profile.clone()).or_default();
            // Two that happened in the same moment: the later fields decide, so that all orders end the same.
            if entry > own {
                *own = entry.clone();
                is_changed = true;
            }
        }
        self.forget_most_idle();
        is_changed
    }

    fn forget_most_idle(&mut self) {
        while self.profiles.len() > PROFILES_MAX {
            let oldest = self.profiles.iter().min_by_key(|(_, entry)| entry.at_ms).map(|(id, _)| id.clone());
            self.profiles.remove(&oldest.expect("there are some"));
        }
    }
}

/// How long a profile rests after so many failures.
fn ladder(errors: u32, rules: &Rules) -> Duration {
    match rules.doubling {
        Some((base, max)) => doubled(base, errors, max),
        None => LADDER[(errors.max(1) as usize - 1).min(LADDER.len() - 1)],
    }
}

fn billing_rest(provider: &str, errors: u32, rules: &Rules) -> Duration {
    let own = rules.billing_by_provider.iter().find(|(id, _)| super::providers::table::canonical(id) == provider);
    doubled(own.map_or(rules.billing, |(_, rest)| *rest), errors, rules.billing_max)
}

/// `base`, doubled with every error after the first.
fn doubled(base: Duration, errors: u32, max: Duration) -> Duration {
    base.saturating_mul(1 << errors.saturating_sub(1).min(DOUBLINGS_MAX)).min(max)
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;

    fn rules() -> Rules {
        crate::config::settings::Settings::for_tests().models.auth.cooldowns
    }

    fn rest_after(cooldowns: &mut Cooldowns, kind: FailureKind, rules: &Rules, now_ms: i64) -> i64 {
        cooldowns.failed("p:a", "p", kind, None, rules, now_ms);
        cooldowns.rest("p:a", now_ms).map_or(0, |rest| rest.until_ms() - now_ms)
    }

    #[test]
    fn rests_grow_along_the_ladder_and_an_answer_ends_them() {
        let mut cooldowns = Cooldowns::default();
        let rests: Vec<i64> =
            (0..5).map(|_| rest_after(&mut cooldowns, FailureKind::RateLimit, &rules(), 0) / MINUTE_MS).collect();
        assert_eq!(rests, [1, 5, 25, 60, 60]);
        assert_eq!(cooldowns.rest("p:a", 60 * MINUTE_MS), None, "until, not beyond");
        cooldowns.answered("p:a", 1);
        assert_eq!((cooldowns.rest("p:a", 1), cooldowns.errors("p:a"), cooldowns.used_ms("p:a")), (None, 0, 1));
        assert_eq!(rest_after(&mut cooldowns, FailureKind::Auth, &rules(), 2), MINUTE_MS);
    }

    #[test]
    fn a_day_without_failure_begins_anew_and_doubling_takes_the_ladders_place() {
        let mut cooldowns = Cooldowns::default();
        rest_after(&mut cooldowns, FailureKind::Timeout, &rules(), 0);
        rest_after(&mut cooldowns, FailureKind::Timeout, &rules(), 1);
        assert_eq!(rest_after(&mut cooldowns, FailureKind::Timeout, &rules(), 25 * HOUR_MS), MINUTE_MS);
        let doubling = Rules { doubling: Some((Duration::from_secs(10), Duration::from_secs(35))), ..rules() };
        let mut cooldowns = Cooldowns::default();
        let rests: Vec<i64> =
            (0..4).map(|_| rest_after(&mut cooldowns, FailureKind::Format, &doubling, 0) / 1000).collect();
        assert_eq!(rests, [10, 20, 35, 35]);
    }

    #[test]
    fn without_money_it_rests_for_hours() {
        let mut cooldowns = Cooldowns::default();
        let rests: Vec<i64> =
            (0..4).map(|_| rest_after(&mut cooldowns, FailureKind::Billing, &rules(), 0) / HOUR_MS).collect();
        assert_eq!(rests, [5, 10, 20, 24]);
        assert_eq!(cooldowns.rest("p:a", 0).map(Rest::as_str), Some("profile_disabled"));
        let own = Rules { billing_by_provider: vec![("p".to_owned(), Duration::from_secs(3600))], ..rules() };
        assert_eq!(rest_after(&mut Cooldowns::default(), FailureKind::Billing, &own, 0), HOUR_MS);
    }

    #[test]
    fn what_a_provider_asks_for_counts_and_what_is_not_its_fault_does_not() {
        let mut cooldowns = Cooldowns::default();
        cooldowns.failed("p:a", "p", FailureKind::RateLimit, Some(7000), &rules(), 0);
        assert_eq!(cooldowns.rest("p:a", 0), Some(Rest::Cooldown(7000)));
        for kind in [FailureKind::NotFound, FailureKind::ContextLength, FailureKind::Refusal, FailureKind::Stopped] {
            assert_eq!(rest_after(&mut Cooldowns::default(), kind, &rules(), 0), 0);
        }
        cooldowns.clear("p", 1);
        assert_eq!(cooldowns.rest("p:a", 1), None);
    }

    #[test]
    fn runs_that_end_in_any_order_find_the_same() {
        let mut base = Cooldowns::default();
        base.answered("p:a", 1);
        let (mut one, mut two) = (base.clone(), base.clone());
        one.failed("p:a", "p", FailureKind::RateLimit, None, &rules(), 10);
        one.answered("p:b", 12);
        two.answered("p:a", 11);
        two.failed("p:b", "p", FailureKind::Auth, None, &rules(), 12);
        let merged = |first: &Cooldowns, second: &Cooldowns| {
            let mut owner = base.clone();
            assert!(owner.merge(first));
            owner.merge(second);
            assert!(!owner.merge(second) && !owner.merge(first), "nothing is new twice");
            owner
        };
        assert_eq!(merged(&one, &two), merged(&two, &one));
        assert_eq!(merged(&one, &two).rest("p:a", 12), None, "it answered after it had failed");
    }

    #[test]
    fn it_is_kept_as_text_and_bounded() {
        let mut cooldowns = Cooldowns::default();
        for n in 0..PROFILES_MAX + 3 {
            cooldowns.answered(&format!("p:{n}"), n as i64 + 1);
        }
        assert_eq!(cooldowns.profiles.len(), PROFILES_MAX);
        assert_eq!((cooldowns.used_ms("p:2"), cooldowns.used_ms("p:3")), (0, 4), "the oldest are forgotten");
        cooldowns.failed("p:3", "p", FailureKind::Billing, None, &rules(), 9);
        assert_eq!(Cooldowns::of_json(&cooldowns.to_json()), cooldowns);
        assert_eq!(Cooldowns::of_json("nonsense"), Cooldowns::default());
    }
}
