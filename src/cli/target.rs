//! Which gateway a command speaks to, and with which secret.
//!
//! An address given by hand needs a secret given by hand: what the configuration knows belongs to the configured
//! gateway and must not be sent to whoever answers elsewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::Value;

use super::args::Args;
use super::client::{Plaintext, TIMEOUT_DEFAULT, Target};
use super::{CliError, place};
use crate::config::files;
use crate::config::load::Loaded;
use crate::config::secret::Secret;
use crate::protocol::connect::Credentials;
use crate::store::StoreError;
use crate::store::dir::StateDir;

/// Where the daemon notes the address it listens on; a command reads it when the port was not the configured one.
pub const ADDRESS_FILE: &str = "gateway-address";

/// Variables that hold an address, a token, a password; the first that is set wins.
const URL_ENV: &[&str] = &["OPENCLAW_RS_GATEWAY_URL"];
const TOKEN_ENV: &[&str] = &["OPENCLAW_RS_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_TOKEN"];
const PASSWORD_ENV: &[&str] = &["OPENCLAW_RS_GATEWAY_PASSWORD", "OPENCLAW_GATEWAY_PASSWORD"];

/// What configuration and state directory know of the gateway.
#[derive(Debug, Default)]
pub struct Configured {
    /// Where it is.
    pub url: String,
    /// What it accepts.
    pub credentials: Credentials,
}

/// The environment, as a function so that tests have their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// This process's environment; a variable that is empty is not set.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Finds the target. `configured` is asked only when the command line and the environment leave something open.
///
/// # Errors
/// [`CliError::BadRequest`] for an address without a secret, and what `configured` fails with.
pub fn resolve(
    args: &Args,
    env: Env<'_>,
    configured: impl FnOnce() -> Result<Configured, CliError>,
) -> Result<Target, CliError> {
    let first = |names: &[&str]| names.iter().find_map(|name| env(name));
    let given = Credentials {
        token: args.secrets.token.as_ref().map(|secret| secret.reveal().to_owned()),
        password: args.secrets.password.as_ref().map(|secret| secret.reveal().to_owned()),
        ..Credentials::default()
    };
    let given_any = given.token.is_some() || given.password.is_some();
    let from_env = Credentials { token: first(TOKEN_ENV), password: first(PASSWORD_ENV), ..Credentials::default() };
    let env_any = from_env.token.is_some() || from_env.password.is_some();
    let target = |url, credentials| Target {
        url,
        credentials,
        plaintext: if args.connect.insecure_plaintext { Plaintext::Anywhere } else { Plaintext::LoopbackOnly },
        timeout: args.connect.timeout.unwrap_or(TIMEOUT_DEFAULT),
    };
    if let Some(url) = &args.connect.url {
        if !given_any {
            return Err(CliError::BadRequest {
                what: "--url without a secret".to_owned(),
                hint: "add --token or --password: the configured secret belongs to the configured gateway",
            });
        }
        return Ok(target(url.clone(), given));
    }
    if let Some(url) = first(URL_ENV) {
        if !given_any && !env_any {
            return Err(CliError::BadRequest {
                what: format!("{} is set, and no secret for it", URL_ENV[0]),
                hint: "set OPENCLAW_RS_GATEWAY_TOKEN as well, or unset the address to use the configured gateway",
            });
        }
        return Ok(target(url, if given_any { given } else { from_env }));
    }
    let configured = configured()?;
    let credentials = if given_any {
        given
    } else if env_any {
        from_env
    } else {
        configured.credentials
    };
    Ok(target(configured.url, credentials))
}

/// What the configuration and the state directory of this machine say.
///
/// # Errors
/// [`CliError::Config`] when the configuration cannot be used; [`CliError::BadRequest`] for a remote gateway without
/// an address.
pub fn configured(args: &Args) -> Result<Configured, CliError> {
    let document = place::document(args)?;
    if document.config.pointer("/gateway/mode").is_some_and(|mode| mode == "remote") {
        return remote(&document.config);
    }
    let loaded = place::loaded(args)?;
    let auth = &loaded.settings.gateway.auth;
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let credentials =
        Credentials { token: reveal(&auth.token), password: reveal(&auth.password), ..Credentials::default() };
    Ok(Configured { url: local_gateway(&loaded), credentials })
}

/// The gateway of `gateway.mode = remote`.
fn remote(config: &Value) -> Result<Configured, CliError> {
    let text = |key: &str| config.pointer(&format!("/gateway/remote/{key}")).and_then(Value::as_str).map(str::to_owned);
    let url = text("url").ok_or(CliError::BadRequest {
        what: "gateway.mode is remote, and gateway.remote.url is not set".to_owned(),
        hint: "set gateway.remote.url, or give --url and --token",
    })?;
    let credentials = Credentials { token: text("token"), password: text("password"), ..Credentials::default() };
    Ok(Configured { url, credentials })
}

/// Where the gateway of this state directory listens: what it wrote down itself, else what is configured.
fn local_gateway(loaded: &Loaded) -> String {
    let noted = files::read(&loaded.state_dir.join(ADDRESS_FILE)).ok().flatten();
    let noted = noted.map(|text| text.trim().to_owned()).filter(|text| text.starts_with("ws://"));
    noted.unwrap_or_else(|| local_url(nearest_address(&loaded.settings.gateway.listen.addresses)))
}

/// The note of where a gateway listens, in its state directory, for as long as it does: with `--port 0` nothing else
/// says it. A killed gateway leaves its note behind; whoever reads it then finds nobody there, which is the truth.
#[derive(Debug)]
pub struct AddressNote {
    path: PathBuf,
}

impl AddressNote {
    /// Writes down that a gateway listens on `bound`.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn write(dir: &StateDir, bound: &[SocketAddr]) -> Result<AddressNote, StoreError> {
        let text = format!("{}\n", local_url(nearest_address(bound)));
        dir.write_private(ADDRESS_FILE, text.as_bytes())?;
        Ok(AddressNote { path: dir.path().join(ADDRESS_FILE) })
    }
}

impl Drop for AddressNote {
    fn drop(&mut self) {
        // Nothing depends on it: a note of a gateway that is gone only leads to nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// The address to speak to of several that are listened on: loopback if there is one.
pub fn nearest_address(addresses: &[SocketAddr]) -> SocketAddr {
    let loopback = addresses.iter().find(|address| address.ip().is_loopback());
    let any = loopback.or(addresses.first()).copied();
    any.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// The address a client on this machine uses for a gateway that listens on `bound`.
pub fn local_url(bound: SocketAddr) -> String {
    let ip = match bound.ip() {
        // Listening everywhere includes loopback, and only there does the secret stay on the machine.
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    format!("ws://{}", SocketAddr::new(ip, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &Args, env: &[(&str, &str)]) -> Result<(String, Option<String>), String> {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let configured = || {
            let credentials = Credentials { token: Some("configured".to_owned()), ..Credentials::default() };
            Ok(Configured { url: "ws://127.0.0.1:1".to_owned(), credentials })
        };
        match resolve(args, &env, configured) {
            Ok(target) => Ok((target.url, target.credentials.token)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn with(url: Option<&str>, token: Option<&str>) -> Args {
        let mut args = Args::default();
        args.connect.url = url.map(str::to_owned);
        args.secrets.token = token.map(|token| Secret::new(token.to_owned()));
        args
    }

    #[track_caller]
    fn finds(args: &Args, env: &[(&str, &str)], url: &str, token: &str) {
        assert_eq!(check(args, env), Ok((url.to_owned(), Some(token.to_owned()))));
    }

    #[test]
    fn flag_beats_environment_beats_configuration() {
        let ours = ("OPENCLAW_RS_GATEWAY_TOKEN", "ours");
        let upstream = ("OPENCLAW_GATEWAY_TOKEN", "upstream");
        finds(&with(None, None), &[], "ws://127.0.0.1:1", "configured");
        finds(&with(None, None), &[upstream], "ws://127.0.0.1:1", "upstream");
        finds(&with(None, None), &[upstream, ours], "ws://127.0.0.1:1", "ours");
        finds(&with(None, Some("flag")), &[upstream, ours], "ws://127.0.0.1:1", "flag");
        finds(&with(Some("ws://[::1]:9"), Some("flag")), &[ours], "ws://[::1]:9", "flag");
    }

    #[test]
    fn the_configured_secret_never_goes_to_an_address_given_by_hand() {
        let ours = ("OPENCLAW_RS_GATEWAY_TOKEN", "ours");
        assert_eq!(check(&with(Some("ws://h"), None), &[]), Err("--url without a secret".to_owned()));
        assert_eq!(check(&with(Some("ws://h"), None), &[ours]), Err("--url without a secret".to_owned()));
        let url = ("OPENCLAW_RS_GATEWAY_URL", "ws://127.0.0.1:7");
        assert!(check(&with(None, None), &[url]).is_err());
        finds(&with(None, None), &[url, ours], "ws://127.0.0.1:7", "ours");
    }

    #[test]
    fn a_gateway_that_listens_everywhere_is_reached_on_loopback() {
        let cases = [
            ("0.0.0.0:80", "ws://127.0.0.1:80"),
            ("[::]:80", "ws://127.0.0.1:80"),
            ("[::1]:80", "ws://[::1]:80"),
            ("10.0.0.2:80", "ws://10.0.0.2:80"),
        ];
        for (bound, url) in cases {
            assert_eq!(local_url(bound.parse().unwrap()), url);
        }
    }

    #[test]
    fn a_command_finds_a_gateway_on_another_port_than_the_configured_one() {
        let home = tempfile::TempDir::new().unwrap();
        let mut args = Args::default();
        args.place.state_dir = Some(home.path().to_owned());
        args.place.config = Some(home.path().join("openclaw.json"));
        fs::write(home.path().join("openclaw.json"), "{ gateway: { port: 7, auth: { token: 'shared' } } }").unwrap();
        let found = |args: &Args| configured(args).map(|found| (found.url, found.credentials.token));
        let token = Some("shared".to_owned());
        assert_eq!(found(&args).unwrap(), ("ws://127.0.0.1:7".to_owned(), token.clone()));

        let dir = StateDir::open(home.path()).unwrap();
        let note = AddressNote::write(&dir, &["127.0.0.1:4711".parse().unwrap()]).unwrap();
        assert_eq!(found(&args).unwrap(), ("ws://127.0.0.1:4711".to_owned(), token.clone()));
        drop(note);
        assert_eq!(found(&args).unwrap(), ("ws://127.0.0.1:7".to_owned(), token));
    }

    #[test]
    fn remote_mode_uses_the_remote_gateway_and_its_own_secret() {
        let home = tempfile::TempDir::new().unwrap();
        let mut args = Args::default();
        args.place.state_dir = Some(home.path().to_owned());
        args.place.config = Some(home.path().join("openclaw.json"));
        let write = |text: &str| fs::write(home.path().join("openclaw.json"), text).unwrap();
        write("{ gateway: { mode: 'remote', auth: { token: 'ours' }, remote: { url: 'ws://h:1', token: 'theirs' } } }");
        let found = configured(&args).unwrap();
        assert_eq!((found.url.as_str(), found.credentials.token.as_deref()), ("ws://h:1", Some("theirs")));
        write("{ gateway: { mode: 'remote' } }");
        assert!(configured(&args).is_err());
    }
}
