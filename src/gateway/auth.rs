//! Secrets that are compared, never printed: the shared token and password, device tokens, trusted proxies.

use ring::hmac;

use super::clients::Admission;
use super::locality::Head;
use crate::config::settings::Settings;
use crate::config::settings::gateway::AuthMode;
use crate::protocol::connect::Credentials;
use crate::protocol::version::Protocol;
use crate::runtime::random;

/// Compares texts in constant time by their authentication codes under a key of this process, so that neither content
/// nor length shows in how long it takes.
pub struct Comparer {
    key: hmac::Key,
}

impl Comparer {
    /// With a fresh random key.
    pub fn new() -> Comparer {
        Comparer { key: hmac::Key::new(hmac::HMAC_SHA256, &random::bytes::<32>()) }
    }

    /// Whether the texts are equal.
    pub fn same(&self, one: &str, other: &str) -> bool {
        let tag = hmac::sign(&self.key, one.as_bytes());
        hmac::verify(&self.key, other.as_bytes(), tag.as_ref()).is_ok()
    }
}

impl crate::intake::hooks::Same for Comparer {
    fn same(&self, one: &str, other: &str) -> bool {
        Comparer::same(self, one, other)
    }
}

impl Default for Comparer {
    fn default() -> Comparer {
        Comparer::new()
    }
}

impl std::fmt::Debug for Comparer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Comparer")
    }
}

/// Why credentials did not suffice. The names are upstream's `authReason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token was sent.
    TokenMissing,
    /// Not the token.
    TokenMismatch,
    /// Token mode without a token to compare with.
    TokenNotConfigured,
    /// No password was sent.
    PasswordMissing,
    /// Not the password.
    PasswordMismatch,
    /// Password mode without a password to compare with.
    PasswordNotConfigured,
    /// A device token that is not this device's.
    DeviceTokenMismatch,
    /// A device token that does not reach as far as asked.
    ScopeMismatch,
    /// A setup code this gateway did not make or no longer knows.
    BootstrapTokenInvalid,
    /// Too many failures from there.
    RateLimited {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Trusted-proxy mode, and it does not come from one, or lacks what one must say.
    TrustedProxy(String),
    /// Forwarding headers from someone who is not a trusted proxy.
    ProxyAttribution,
}

impl Refusal {
    /// Upstream's name for it.
    pub fn reason(&self) -> &str {
        match self {
            Refusal::TokenMissing => "token_missing",
            Refusal::TokenMismatch => "token_mismatch",
            Refusal::TokenNotConfigured => "token_missing_config",
            Refusal::PasswordMissing => "password_missing",
            Refusal::PasswordMismatch => "password_mismatch",
            Refusal::PasswordNotConfigured => "password_missing_config",
            Refusal::DeviceTokenMismatch => "device_token_mismatch",
            Refusal::ScopeMismatch => "scope_mismatch",
            Refusal::BootstrapTokenInvalid => "bootstrap_token_invalid",
            Refusal::RateLimited { .. } => "rate_limited",
            Refusal::TrustedProxy(reason) => reason,
            Refusal::ProxyAttribution => "proxy_attribution_required",
        }
    }

    /// Whether it was a wrong secret, as opposed to none: only those are counted.
    pub fn is_wrong_secret(&self) -> bool {
        matches!(
            self,
            Refusal::TokenMismatch
                | Refusal::PasswordMismatch
                | Refusal::DeviceTokenMismatch
                | Refusal::BootstrapTokenInvalid
        )
    }
}

/// Tries the shared secret (or what the mode asks instead). Protocol 3 looks for it in the field of its name alone,
/// protocol 4 in the other one too.
///
/// # Errors
/// Why it does not suffice; a device token may still.
pub fn check_shared(
    settings: &Settings,
    credentials: &Credentials,
    head: &Head<'_>,
    comparer: &Comparer,
    protocol: Protocol,
) -> Result<Admission, Refusal> {
    let auth = &settings.gateway.auth;
    let sent = |first: &Option<String>, second: &Option<String>| {
        let second = second.as_ref().filter(|_| protocol == Protocol::V4);
        [first.as_ref(), second].into_iter().flatten().find(|text| !text.is_empty()).cloned()
    };
    match auth.mode {
        AuthMode::None => Ok(Admission::None),
        AuthMode::Token => {
            let Some(expected) = &auth.token else { return Err(Refusal::TokenNotConfigured) };
            match sent(&credentials.token, &credentials.password) {
                None => Err(Refusal::TokenMissing),
                Some(sent) if comparer.same(&sent, expected.reveal()) => Ok(Admission::Token),
                Some(_) => Err(Refusal::TokenMismatch),
            }
        }
        AuthMode::Password => {
            let Some(expected) = &auth.password else { return Err(Refusal::PasswordNotConfigured) };
            match sent(&credentials.password, &credentials.token) {
                None => Err(Refusal::PasswordMissing),
                Some(sent) if comparer.same(&sent, expected.reveal()) => Ok(Admission::Password),
                Some(_) => Err(Refusal::PasswordMismatch),
            }
        }
        AuthMode::TrustedProxy => check_proxy(settings, head),
    }
}

fn check_proxy(settings: &Settings, head: &Head<'_>) -> Result<Admission, Refusal> {
    let refuse = |reason: String| Err(Refusal::TrustedProxy(reason));
    let rules = &settings.gateway.auth.trusted_proxy;
    if !head.is_from_trusted_proxy(settings) {
        return refuse("trusted_proxy_untrusted_source".to_owned());
    }
    // Anybody with a shell on this machine could pose as a proxy on it.
    if head.peer.to_canonical().is_loopback() && !rules.allow_loopback {
        return refuse("trusted_proxy_loopback_source".to_owned());
    }
    let value = |name: &str| {
        super::http::header(head.headers, &name.to_ascii_lowercase()).map(str::trim).filter(|v| !v.is_empty())
    };
    if let Some(missing) = rules.required_headers.iter().find(|name| value(name).is_none()) {
        return refuse(format!("trusted_proxy_missing_header_{}", missing.to_ascii_lowercase()));
    }
    let Some(user) = rules.user_header.as_deref().and_then(value) else {
        return refuse("trusted_proxy_user_missing".to_owned());
    };
    if !rules.allow_users.is_empty() && !rules.allow_users.iter().any(|allowed| allowed == user) {
        return refuse("trusted_proxy_user_not_allowed".to_owned());
    }
    Ok(Admission::TrustedProxy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cidr::Cidr;
    use crate::config::secret::Secret;

    fn head(headers: &[(String, String)]) -> Head<'_> {
        Head { peer: "10.0.0.1".parse().unwrap(), headers }
    }

    fn credentials(token: Option<&str>, password: Option<&str>) -> Credentials {
        Credentials { token: token.map(str::to_owned), password: password.map(str::to_owned), ..Credentials::default() }
    }

    #[test]
    fn protocol_3_reads_the_field_of_the_secret_alone() {
        let mut settings = Settings::for_tests();
        settings.gateway.auth.mode = AuthMode::Token;
        settings.gateway.auth.token = Some(Secret::new("s3cret"));
        settings.gateway.auth.password = Some(Secret::new("s3cret"));
        let comparer = Comparer::new();
        let check =
            |settings: &Settings, t, p| check_shared(settings, &credentials(t, p), &head(&[]), &comparer, Protocol::V3);
        assert_eq!(check(&settings, Some("s3cret"), None), Ok(Admission::Token));
        assert_eq!(check(&settings, None, Some("s3cret")), Err(Refusal::TokenMissing));
        settings.gateway.auth.mode = AuthMode::Password;
        assert_eq!(check(&settings, Some("s3cret"), None), Err(Refusal::PasswordMissing));
        assert_eq!(check(&settings, None, Some("s3cret")), Ok(Admission::Password));
    }

    #[test]
    fn either_field_may_carry_the_shared_secret() {
        let mut settings = Settings::for_tests();
        settings.gateway.auth.mode = AuthMode::Token;
        settings.gateway.auth.token = Some(Secret::new("s3cret"));
        let comparer = Comparer::new();
        let check = |t, p| check_shared(&settings, &credentials(t, p), &head(&[]), &comparer, Protocol::V4);
        assert_eq!(check(Some("s3cret"), None), Ok(Admission::Token));
        assert_eq!(check(None, Some("s3cret")), Ok(Admission::Token));
        assert_eq!(check(Some("s3cret "), None), Err(Refusal::TokenMismatch));
        assert_eq!(check(Some("wrong"), Some("s3cret")), Err(Refusal::TokenMismatch));
        assert_eq!(check(Some(""), None), Err(Refusal::TokenMissing));
    }

    #[test]
    fn a_mode_without_its_secret_admits_nobody() {
        let mut settings = Settings::for_tests();
        settings.gateway.auth.mode = AuthMode::Token;
        settings.gateway.auth.token = None;
        let got = check_shared(&settings, &credentials(Some(""), Some("")), &head(&[]), &Comparer::new(), Protocol::V4);
        assert_eq!(got, Err(Refusal::TokenNotConfigured));
        settings.gateway.auth.mode = AuthMode::Password;
        let got = check_shared(&settings, &credentials(Some("x"), None), &head(&[]), &Comparer::new(), Protocol::V4);
        assert_eq!(got, Err(Refusal::PasswordNotConfigured));
    }

    #[test]
    fn a_trusted_proxy_must_say_who_it_speaks_for() {
        let mut settings = Settings::for_tests();
        settings.gateway.auth.mode = AuthMode::TrustedProxy;
        settings.gateway.auth.trusted_proxy.user_header = Some("X-User".to_owned());
        settings.gateway.auth.trusted_proxy.required_headers = vec!["X-Proof".to_owned()];
        settings.gateway.auth.trusted_proxy.allow_users = vec!["ann".to_owned()];
        let check = |settings: &Settings, list: &[(&str, &str)]| {
            let headers: Vec<_> = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            check_shared(settings, &Credentials::default(), &head(&headers), &Comparer::new(), Protocol::V4)
                .map_err(|refusal| refusal.reason().to_owned())
        };
        assert_eq!(check(&settings, &[]), Err("trusted_proxy_untrusted_source".to_owned()));
        settings.gateway.trusted_proxies = vec![Cidr::parse("10.0.0.1/32").unwrap()];
        assert_eq!(check(&settings, &[("x-user", "ann")]), Err("trusted_proxy_missing_header_x-proof".to_owned()));
        assert_eq!(check(&settings, &[("x-proof", "1")]), Err("trusted_proxy_user_missing".to_owned()));
        assert_eq!(
            check(&settings, &[("x-proof", "1"), ("x-user", "bob")]),
            Err("trusted_proxy_user_not_allowed".to_owned())
        );
        assert_eq!(check(&settings, &[("x-proof", "1"), ("x-user", "ann")]), Ok(Admission::TrustedProxy));

        let from_here = |settings: &Settings| {
            let headers = [("x-proof".to_owned(), "1".to_owned()), ("x-user".to_owned(), "ann".to_owned())];
            let head = Head { peer: "::1".parse().unwrap(), headers: &headers };
            check_shared(settings, &Credentials::default(), &head, &Comparer::new(), Protocol::V4)
        };
        settings.gateway.trusted_proxies = vec![Cidr::parse("::1/128").unwrap()];
        let refused = Refusal::TrustedProxy("trusted_proxy_loopback_source".to_owned());
        assert_eq!(from_here(&settings), Err(refused));
        settings.gateway.auth.trusted_proxy.allow_loopback = true;
        assert_eq!(from_here(&settings), Ok(Admission::TrustedProxy));
    }
}
