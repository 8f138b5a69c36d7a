//! Failed attempts to authenticate, counted by where they come from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::settings::gateway::RateLimit;

/// Addresses remembered at once; beyond that the one with the oldest failure is forgotten.
pub const TRACKED_MAX: usize = 4096;

/// Which secret was tried: a wrong webhook token must not lock a person out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The shared token or password.
    Shared,
    /// A device's token.
    Device,
    /// A webhook's token.
    Hook,
    /// A link to a setup code.
    SetupLink,
}

/// What is counted: a secret's kind, a canonical address and, for a browser, the page it came from, so that a hostile
/// page cannot lock out the command line of the same machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Which secret.
    pub kind: Kind,
    /// The address.
    pub address: IpAddr,
    /// The `Origin` of a browser.
    pub origin: Option<String>,
}

#[derive(Debug, Default)]
struct Record {
    failed_at_ms: Vec<i64>,
    locked_until_ms: i64,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Limiter {
    records: BTreeMap<Subject, Record>,
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: one client, one count.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl Limiter {
    /// Milliseconds until `subject` may try again; `None` when it may now.
    pub fn locked_for_ms(&self, subject: &Subject, now_ms: i64) -> Option<u64> {
        let left_ms = self.records.get(subject)?.locked_until_ms - now_ms;
        u64::try_from(left_ms).ok().filter(|ms| *ms > 0)
    }

    /// Counts a failure.
    pub fn failed(&mut self, subject: Subject, rules: &RateLimit, now_ms: i64) {
        if rules.exempt_loopback && subject.address.is_loopback() {
            return;
        }
        if !self.records.contains_key(&subject) && self.records.len() >= TRACKED_MAX {
            let oldest = self
                .records
                .iter()
                .min_by_key(|(_, record)| record.failed_at_ms.last().copied().unwrap_or(0))
                .map(|(subject, _)| subject.clone());
            if let Some(oldest) = oldest {
                self.records.remove(&oldest);
            }
        }
        let record = self.records.entry(subject).or_default();
        record.failed_at_ms.retain(|at| now_ms - at < rules.window.as_millis() as i64);
        record.failed_at_ms.push(now_ms);
        if record.failed_at_ms.len() >= rules.max_attempts as usize {
            record.failed_at_ms.clear();
            record.locked_until_ms = now_ms + rules.lockout.as_millis() as i64;
        }
    }

    /// Forgets the failures of one that succeeded.
    pub fn succeeded(&mut self, subject: &Subject) {
        self.records.remove(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RULES: RateLimit = RateLimit {
        max_attempts: 10,
        window: Duration::from_secs(60),
        lockout: Duration::from_secs(300),
        exempt_loopback: false,
    };

    fn subject(address: &str) -> Subject {
        Subject { kind: Kind::Shared, address: canonical(address.parse().unwrap()), origin: None }
    }

    #[test]
    fn ten_failures_in_a_minute_lock_and_the_lock_ends() {
        let mut limiter = Limiter::default();
        let who = subject("127.0.0.1");
        for n in 0..10 {
            assert_eq!(limiter.locked_for_ms(&who, n), None, "after {n} failures");
            limiter.failed(who.clone(), &RULES, n);
        }
        assert!(limiter.locked_for_ms(&who, 10).is_some());
        assert_eq!(limiter.locked_for_ms(&who, 9 + 300_000), None);
    }

    #[test]
    fn old_failures_and_successes_do_not_count() {
        let mut limiter = Limiter::default();
        let who = subject("10.0.0.9");
        for n in 0..30 {
            limiter.failed(who.clone(), &RULES, n * 10_000);
        }
        assert_eq!(limiter.locked_for_ms(&who, 300_000), None, "ten in a minute, not in an hour");
        for n in 0..9 {
            limiter.failed(who.clone(), &RULES, 400_000 + n);
        }
        limiter.succeeded(&who);
        limiter.failed(who.clone(), &RULES, 400_010);
        assert_eq!(limiter.locked_for_ms(&who, 400_011), None);
    }

    #[test]
    fn one_client_has_one_count_whatever_the_form_of_its_address() {
        assert_eq!(subject("::ffff:10.1.2.3"), subject("10.1.2.3"));
    }

    #[test]
    fn remembers_a_bounded_number_of_addresses() {
        let mut limiter = Limiter::default();
        for n in 0..TRACKED_MAX as u32 + 50 {
            let who = Subject { kind: Kind::Shared, address: std::net::Ipv4Addr::from(n).into(), origin: None };
            limiter.failed(who, &RULES, i64::from(n));
        }
        assert_eq!(limiter.records.len(), TRACKED_MAX);
    }
}
