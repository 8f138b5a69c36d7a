//! The configuration: usable, understood, private, and safe.

use std::net::SocketAddr;

use super::check::{Check, Status};
use super::state::file_mode;
use crate::cli::CliError;
use crate::cli::term::counted;
use crate::config::Issue;
use crate::config::document::Document;
use crate::config::load::Loaded;
use crate::config::network::Exposure;
use crate::config::settings::Settings;
use crate::config::settings::gateway::{Auth, AuthMode};

/// A shared secret with fewer characters can be guessed by someone who may try as often as the limits let them.
pub const SECRET_CHARS_MIN: usize = 16;

/// `config.load` when there is nothing to look at.
pub fn unreadable(error: &CliError) -> Check {
    let check = Check::fail("config.load", error.to_string());
    let cause = std::error::Error::source(error).map(ToString::to_string);
    match cause.or_else(|| error.hint()) {
        Some(detail) => check.detail(detail),
        None => check,
    }
}

/// `config.load`: whether the gateway would start with it.
pub fn load(document: &Document, loaded: &Result<Loaded, CliError>) -> Check {
    const ID: &str = "config.load";
    let path = document.path.display();
    match loaded {
        Ok(_) if document.exists() => Check::pass(ID, format!("{path} is valid")),
        Ok(_) => Check::pass(ID, format!("{path} does not exist; defaults are in force")),
        Err(error) if document.issues.is_empty() || document.parsed.is_none() => unreadable(error),
        Err(_) => Check::fail(ID, format!("{path} is not valid")).detail(lines(&document.issues)),
    }
}

/// `config.unknown_keys`: keys that say nothing to this version.
pub fn unknown_keys(document: &Document) -> Check {
    const ID: &str = "config.unknown_keys";
    match document.unknown.len() {
        0 => Check::pass(ID, "every key is known"),
        n => {
            let named: Vec<Issue> = document.unknown.iter().map(|unknown| unknown.warning()).collect();
            Check::warn(ID, counted(n, "unknown key")).detail(lines(&named))
        }
    }
}

/// `config.warnings`: what else the loader found odd.
pub fn warnings(document: &Document) -> Check {
    const ID: &str = "config.warnings";
    let unknown: Vec<Issue> = document.unknown.iter().map(|unknown| unknown.warning()).collect();
    let rest: Vec<Issue> = document.warnings.iter().filter(|warning| !unknown.contains(warning)).cloned().collect();
    match rest.len() {
        0 => Check::pass(ID, "nothing odd"),
        n => Check::warn(ID, counted(n, "warning")).detail(lines(&rest)),
    }
}

/// `config.mode`: whether others can read the file.
pub fn mode(document: &Document) -> Check {
    const ID: &str = "config.mode";
    let repairs: Vec<_> = document.files().filter_map(file_mode).collect();
    if repairs.is_empty() {
        return Check::pass(ID, "only the owner has access");
    }
    Check::warn(ID, "others can read the configuration, which may hold secrets")
        .detail("`openclaw-rs doctor --fix` closes it")
        .repairs(repairs)
}

/// `gateway.auth_secret`: whether there is one, and a good one.
pub fn auth_secret(auth: &Auth) -> Check {
    const ID: &str = "gateway.auth_secret";
    let (key, secret) = match auth.mode {
        AuthMode::None => return Check::warn(ID, "authentication is off: whoever reaches the port is the owner"),
        AuthMode::TrustedProxy => return Check::pass(ID, "a trusted proxy says who connects"),
        AuthMode::Token if auth.token_to_be_generated => {
            return Check::pass(ID, "none yet; the first start makes a token");
        }
        AuthMode::Token => ("token", &auth.token),
        AuthMode::Password => ("password", &auth.password),
    };
    match secret {
        None => Check::fail(ID, format!("authentication by {key}, and there is none"))
            .detail(format!("set gateway.auth.{key}")),
        Some(secret) if secret.reveal().chars().count() < SECRET_CHARS_MIN => {
            Check::warn(ID, format!("the {key} is shorter than {SECRET_CHARS_MIN} characters")).detail(format!(
                "a good one: `head -c 32 /dev/urandom | base64 | openclaw-rs config set gateway.auth.{key} -`"
            ))
        }
        Some(_) => Check::pass(ID, format!("there is a {key}")),
    }
}

/// `gateway.bind`: who can reach the port, and what stops them.
pub fn bind(settings: &Settings) -> Check {
    const ID: &str = "gateway.bind";
    let listen = &settings.gateway.listen;
    let addresses: Vec<String> = listen.addresses.iter().map(SocketAddr::to_string).collect();
    let addresses = addresses.join(", ");
    match (listen.exposure, settings.gateway.auth.mode) {
        (Exposure::Loopback, _) => Check::pass(ID, format!("only this machine reaches {addresses}")),
        (_, AuthMode::None) => Check::new(ID, Status::Fail, format!("anyone can reach {addresses} and is the owner"))
            .detail("set gateway.auth.mode to token, or gateway.bind to loopback"),
        (Exposure::Tailnet, _) => Check::pass(ID, format!("the tailnet reaches {addresses}, with a secret")),
        (Exposure::Public, _) => Check::warn(ID, format!("the network reaches {addresses}, with a secret"))
            .detail("the secret crosses the network in the clear unless a TLS proxy stands in front"),
    }
}

fn lines(issues: &[Issue]) -> String {
    issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::config::document::EnvHidden;
    use crate::config::load::{self as loader, LoadInputs};

    /// A machine whose configuration is `text`.
    fn with(text: &str) -> (TempDir, LoadInputs) {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("openclaw.json"), text).unwrap();
        let inputs = LoadInputs {
            flag_config: None,
            state_dir: Some(home.path().to_owned()),
            cwd: home.path().to_owned(),
            env: EnvHidden::default(),
            overrides: Default::default(),
        };
        (home, inputs)
    }

    fn checks(text: &str) -> Vec<Check> {
        let (_home, inputs) = with(text);
        let document = loader::inspect(&inputs).unwrap();
        let loaded = loader::load(&inputs).map_err(CliError::from);
        let mut checks = vec![load(&document, &loaded), unknown_keys(&document), warnings(&document)];
        if let Ok(loaded) = &loaded {
            checks.push(auth_secret(&loaded.settings.gateway.auth));
            checks.push(bind(&loaded.settings));
        }
        checks
    }

    #[track_caller]
    fn finds(text: &str, id: &str, status: Status) -> Check {
        let check = checks(text).into_iter().find(|check| check.id == id).expect("the check is made");
        assert_eq!(check.status, status, "{check:?}");
        check
    }

    #[test]
    fn a_broken_file_is_named_with_line_and_column() {
        let broken = finds("{ gateway: {\n port: , } }", "config.load", Status::Fail);
        assert!(broken.message.contains("openclaw.json:2:"), "{}", broken.message);
        let wrong = finds("{ gateway: { port: 'x', bind: 'moon' } }", "config.load", Status::Fail);
        let detail = wrong.detail.unwrap();
        assert!(detail.contains("gateway.port") && detail.contains("gateway.bind"), "{detail}");
    }

    #[test]
    fn unknown_keys_are_named_and_do_not_fail() {
        let unknown = finds("{ gateway: { prot: 1 } }", "config.unknown_keys", Status::Warn);
        assert!(unknown.detail.unwrap().contains("gateway.port"));
        finds("{ gateway: { prot: 1 } }", "config.load", Status::Pass);
        finds("{ gateway: { prot: 1 } }", "config.warnings", Status::Pass);
    }

    #[test]
    fn judges_secret_and_address() {
        finds("{}", "gateway.auth_secret", Status::Pass);
        finds("{}", "gateway.bind", Status::Pass);
        let canary = finds("{ gateway: { auth: { token: 'canary' } } }", "gateway.auth_secret", Status::Warn);
        assert!(!format!("{canary:?}").contains("canary"));
        finds("{ gateway: { auth: { mode: 'none' } } }", "gateway.auth_secret", Status::Warn);
        let strong = "{ gateway: { bind: 'lan', auth: { token: '0123456789abcdef' } } }";
        finds(strong, "gateway.auth_secret", Status::Pass);
        finds(strong, "gateway.bind", Status::Warn);
        let open = "{ gateway: { bind: 'lan', auth: { mode: 'none' } },
                     runtime: { allow_public_bind_without_auth: true } }";
        finds(open, "gateway.bind", Status::Fail);
    }

    #[test]
    fn a_readable_file_is_closed_once() {
        let (home, inputs) = with("{}");
        let path = home.path().join("openclaw.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let open = mode(&loader::inspect(&inputs).unwrap());
        assert_eq!((open.status, open.repairs.len()), (Status::Warn, 1));
        assert!(open.repairs[0].make().ok);
        assert_eq!(mode(&loader::inspect(&inputs).unwrap()).status, Status::Pass);
    }
}
