//! Rules across keys (`config.md` section 21) for the keys that this build reads.
//!
//! A rule names every key it is about, never a value that may be secret. What is not built yet and would be unsafe to
//! ignore is refused here: a gateway that is told to speak TLS and does not is worse than one that does not start.

use super::Issue;
use super::network::Exposure;
use super::settings::Settings;
use super::settings::gateway::AuthMode;

/// Largest compiled form of one configured regular expression, in bytes; a larger one is an error naming the key.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// Whether a configured regular expression compiles within [`REGEX_BYTES_MAX`].
///
/// # Errors
/// Why not, in words for an issue.
pub fn check_regex(pattern: &str) -> Result<(), String> {
    regex::RegexBuilder::new(pattern).case_insensitive(true).size_limit(REGEX_BYTES_MAX).build().map(|_| ()).map_err(
        |error| match error {
            regex::Error::CompiledTooBig(limit) => format!("Invalid pattern: compiles to more than {limit} bytes"),
            error => format!("Invalid pattern: {}", error.to_string().lines().last().unwrap_or_default()),
        },
    )
}

/// Holds finished settings against every rule.
pub fn check(settings: &Settings, issues: &mut Vec<Issue>) {
    thresholds(settings, issues);
    auth(settings, issues);
    exposure(settings, issues);
    hooks(settings, issues);
    agents(settings, issues);
}

fn thresholds(settings: &Settings, issues: &mut Vec<Issue>) {
    let security = &settings.security;
    if security.review_threshold >= security.block_threshold {
        issues.push(Issue::new(
            "security.review_threshold",
            format!(
                "security.review_threshold ({}) must be below security.block_threshold ({})",
                security.review_threshold, security.block_threshold
            ),
        ));
    }
}

fn auth(settings: &Settings, issues: &mut Vec<Issue>) {
    let auth = &settings.gateway.auth;
    match auth.mode {
        AuthMode::Token if auth.token.is_none() && !auth.token_to_be_generated => issues.push(Issue::new(
            "gateway.auth.token",
            "gateway.auth.mode is `token`, but there is none: set gateway.auth.token or OPENCLAW_RS_GATEWAY_TOKEN",
        )),
        AuthMode::Password if auth.password.is_none() => issues.push(Issue::new(
            "gateway.auth.password",
            "gateway.auth.mode is `password`, but there is none: set gateway.auth.password or OPENCLAW_RS_GATEWAY_PASSWORD",
        )),
        AuthMode::TrustedProxy => {
            if settings.gateway.trusted_proxies.is_empty() {
                issues.push(Issue::new(
                    "gateway.trustedProxies",
                    "gateway.auth.mode is `trusted-proxy`, but gateway.trustedProxies is empty",
                ));
            }
            if auth.trusted_proxy.user_header.is_none() {
                issues.push(Issue::new(
                    "gateway.auth.trustedProxy.userHeader",
                    "gateway.auth.mode is `trusted-proxy`, but gateway.auth.trustedProxy.userHeader is not set",
                ));
            }
        }
        _ => {}
    }
}

fn exposure(settings: &Settings, issues: &mut Vec<Issue>) {
    let gateway = &settings.gateway;
    let is_open = gateway.auth.mode == AuthMode::None && !settings.runtime.allow_public_bind_without_auth;
    if gateway.listen.exposure == Exposure::Public && is_open {
        issues.push(Issue::new(
            "gateway.auth.mode",
            format!(
                "gateway.auth.mode is `none` while gateway.bind is `{}`, which others can reach: set a token or password, or \
                 runtime.allow_public_bind_without_auth",
                gateway.listen.mode
            ),
        ));
    }
    let Some(http) = &gateway.http_bind else { return };
    if http.exposure == Exposure::Public && is_open {
        issues.push(Issue::new(
            "gateway.server.http_bind",
            "gateway.auth.mode is `none` while gateway.server.http_bind can be reached by others",
        ));
    }
    if http.addresses.iter().any(|address| address.port() != 0 && gateway.listen.addresses.contains(address)) {
        issues.push(Issue::new(
            "gateway.server.http_bind",
            "gateway.server.http_bind must differ from the gateway's own address (gateway.server.bind, gateway.bind, gateway.port)",
        ));
    }
}

fn hooks(settings: &Settings, issues: &mut Vec<Issue>) {
    let hooks = &settings.hooks;
    if hooks.path == "/" {
        issues.push(Issue::new("hooks.path", "hooks.path must be below /, so that it does not take every request"));
    }
    if !hooks.enabled {
        return;
    }
    let Some(token) = &hooks.token else {
        issues.push(Issue::new("hooks.token", "hooks.enabled is true, but hooks.token is not set"));
        return;
    };
    let gateway = &settings.gateway.auth;
    for (secret, name) in [(&gateway.token, "gateway.auth.token"), (&gateway.password, "gateway.auth.password")] {
        if secret.as_ref() == Some(token) {
            issues.push(Issue::new("hooks.token", format!("hooks.token must differ from {name}")));
        }
    }
}

fn agents(settings: &Settings, issues: &mut Vec<Issue>) {
    let mut seen: Vec<&str> = Vec::new();
    for agent in &settings.agents.list {
        if !is_agent_id(&agent.id) {
            let message = format!("agent id \"{}\" must be [a-z0-9][a-z0-9_-]{{0,63}}", agent.id);
            issues.push(Issue::new("agents.list", message));
        }
        if seen.contains(&agent.id.as_str()) {
            issues.push(Issue::new("agents.list", format!("agent id \"{}\" is there twice", agent.id)));
        }
        seen.push(&agent.id);
    }
}

/// `[a-z0-9][a-z0-9_-]{0,63}`.
fn is_agent_id(id: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| is_word(b) || b == b'_' || b == b'-')
        && id.bytes().next().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_must_compile_and_stay_small() {
        assert_eq!(check_regex(r"\brm\s+-rf\s+/"), Ok(()));
        assert!(check_regex("(").unwrap_err().contains("unclosed group"));
        assert!(check_regex(r"\w{1000}{1000}").unwrap_err().contains("bytes"));
    }

    #[test]
    fn agent_ids() {
        for good in ["main", "a", "a-b_c9", "0x"] {
            assert!(is_agent_id(good), "{good}");
        }
        for bad in ["", "Main", "-a", "_a", "a b", "ä", &"a".repeat(65)] {
            assert!(!is_agent_id(bad), "{bad}");
        }
    }
}
