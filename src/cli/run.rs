//! Running the daemon: everything is opened here, in order, and handed to the loop.
//!
//! Configuration, state directory and its lock, store, sockets, the core, then the loop. Nothing waits for anything
//! beyond this machine, so a hello is possible milliseconds after the start.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::Args;
use super::target::AddressNote;
use super::term::Out;
use super::{CliError, Exit, Outcome, place};
use crate::config::files;
use crate::config::load::{self, Loaded, TokenOrigin};
use crate::config::redact::Scrubber;
use crate::config::settings::Settings;
use crate::config::settings::gateway::AuthMode;
use crate::defender::rules::Rules;
use crate::gateway::pairing::TokenKey;
use crate::gateway::{Boot, Gateway, Setup as CoreSetup, records};
use crate::intake::judge;
use crate::net::lanes::StoreLane;
use crate::net::limits::Limits;
use crate::net::signals::Signals;
use crate::net::{ExitReason, NetError, Setup, Shell};
use crate::protocol::json::json;
use crate::runtime::allocator::AtHand;
use crate::runtime::clock::Now;
use crate::runtime::logging::{self, Logger};
use crate::runtime::notify::Notify;
use crate::runtime::{allocator, host, memory, random};
use crate::store::dir::StateDir;
use crate::store::open::{Database, OnDamage, READER_CACHE_KIB, Tuning, WRITER_CACHE_KIB};
use crate::tools::change;

/// File of the key that device tokens are derived from.
const TOKEN_KEY_FILE: &str = "device-token-key";

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// [`CliError`]: what could not be read, opened or listened on.
pub fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let started = Now::read();
    // Before anything is opened: a signal in between must find its handler.
    let signals = Signals::install().map_err(NetError::SetUp)?;
    let inputs = place::daemon_inputs(args);
    let mut loaded = load::load(&inputs)?;
    let dir = StateDir::open(&loaded.state_dir)?;
    let _lock = dir.lock()?;
    let origin = load::ensure_token(&mut loaded)?;
    let log_file = log_file(&loaded)?;
    let logger = start_log(&loaded, &log_file)?;
    for warning in &loaded.document.warnings {
        log::warn!("configuration: {warning}");
    }
    let n_undone = change::recover(&loaded.state_dir);
    if n_undone > 0 {
        log::warn!("changes of files that did not come to their end were undone count={n_undone}");
    }
    let rules = Rules::compile(&judge::rule_inputs(&loaded.settings)).map_err(CliError::Rules)?;
    let opened = Database::open_tuned(&dir, started.wall_ms, OnDamage::SetAside, tuning(&loaded.settings))?;
    if let Some(aside) = &opened.set_aside {
        log::error!("the database was damaged and set aside, a fresh one is in use path={}", aside.display());
    }
    let kept = records::load(&opened.database, started.wall_ms)?;
    let token_key = TokenKey::new(&read_token_key(&dir)?);

    let shell = Shell::open(&addresses(&loaded.settings))?;
    let addresses = shell.addresses();
    let port = addresses.first().map_or(0, SocketAddr::port);
    let _note = AddressNote::write(&dir, &addresses)?;
    // Whoever read the first line and went away (`| head -1`) still wants a gateway.
    if let Err(error) = say_where(&loaded, &addresses, origin, out) {
        log::warn!("cannot say where the gateway listens: {error}");
    }

    let control = control_address(&loaded.settings);
    let boot = Boot {
        id: random::uuid(),
        at: started,
        host: host::hostname(),
        platform: host::platform(),
        state_dir: loaded.state_dir.display().to_string(),
        log_file: log_file.display().to_string(),
        port,
    };
    let limits = Limits::of(&loaded.settings);
    let core = Gateway::new(
        CoreSetup { boot, config: Arc::new(loaded), load_inputs: inputs, rules: Arc::new(rules), token_key, kept },
        Now::read(),
    );
    let store = StoreLane::start(opened.database, shell.sender())?;
    let setup = Setup {
        core,
        limits,
        limits_of: take_over,
        store,
        signals: Some(signals),
        notify: Notify::from_env(),
        control,
    };
    let released = memory::release_program_pages();
    allocator::trim();
    log::debug!("released pages that only the start needed bytes={released}");
    let at_hand = AtHand::open();
    let reason = shell.run(setup);
    drop(at_hand);
    log::info!("stopped");
    logger.stop();
    match reason? {
        ExitReason::Stopped => Ok(Outcome::Done),
        ExitReason::Unfinished => Ok(Outcome::BadNews(Exit::Failure)),
    }
}

/// The store's connections as configured.
fn tuning(settings: &Settings) -> Tuning {
    let store = &settings.store;
    Tuning {
        writer_cache_kib: store.cache_kib.unwrap_or(WRITER_CACHE_KIB),
        reader_cache_kib: store.cache_kib.unwrap_or(READER_CACHE_KIB),
        busy_timeout: store.busy_timeout,
    }
}

fn addresses(settings: &Settings) -> Vec<SocketAddr> {
    settings.gateway.listen.addresses.clone()
}

fn control_address(settings: &Settings) -> Option<SocketAddr> {
    settings.gateway.http_bind.as_ref().and_then(|listen| listen.addresses.first().copied())
}

/// What of a changed configuration comes into force outside the core.
fn take_over(core: &Gateway) -> Limits {
    let settings = &core.config().settings;
    logging::set_levels(settings.logging.level, settings.logging.console_level);
    logging::set_redactor(redactor(core.config()));
    Limits::of(settings)
}

/// The configured log file, else one in a directory of its own that only we can look into.
fn log_file(loaded: &Loaded) -> Result<PathBuf, CliError> {
    if let Some(configured) = &loaded.settings.logging.file {
        return Ok(configured.clone());
    }
    let dir = loaded.state_dir.join("logs");
    files::make_dir(&dir)?;
    Ok(dir.join("openclaw-rs.log"))
}

/// Takes the secrets of a configuration out of log lines.
fn redactor(loaded: &Loaded) -> logging::Redactor {
    let auth = &loaded.settings.gateway.auth;
    let secrets = [&auth.token, &auth.password, &loaded.settings.hooks.token].into_iter().flatten().cloned();
    let scrubber = Scrubber::new(&loaded.document.config, secrets);
    Box::new(move |line| scrubber.scrub(line).into_owned())
}

fn start_log(loaded: &Loaded, file: &std::path::Path) -> Result<Logger, CliError> {
    let options = logging::Options {
        level: loaded.settings.logging.level,
        console_level: loaded.settings.logging.console_level,
        file: Some(file.to_owned()),
        redactor: Some(redactor(loaded)),
    };
    Logger::start(options).map_err(|source| CliError::Input { name: "the log".to_owned(), source })
}

/// The key of device tokens, made on first start.
fn read_token_key(dir: &StateDir) -> Result<[u8; 32], CliError> {
    let path = dir.path().join(TOKEN_KEY_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| CliError::Input {
            name: path.display().to_string(),
            source: std::io::Error::other(format!(
                "it has {} bytes instead of 32; remove it to make a new one (devices must then pair again)",
                bytes.len()
            )),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = random::bytes::<32>();
            dir.write_private(TOKEN_KEY_FILE, &key)?;
            Ok(key)
        }
        Err(source) => Err(CliError::Input { name: path.display().to_string(), source }),
    }
}

/// Says where the gateway listens, and on its first run how to get in.
fn say_where(loaded: &Loaded, addresses: &[SocketAddr], origin: TokenOrigin, out: &mut Out) -> Result<(), CliError> {
    let urls: Vec<String> = addresses.iter().map(|address| format!("ws://{address}")).collect();
    let page = addresses.first().map(|address| format!("http://{address}/")).unwrap_or_default();
    let auth = &loaded.settings.gateway.auth;
    if out.is_json() {
        out.json(&json!({
            "listening": urls,
            "page": page,
            "auth": auth.mode.as_str(),
            "stateDir": loaded.state_dir,
            "config": loaded.document.path,
            "tokenFile": loaded.state_dir.join(load::TOKEN_FILE),
        }))?;
        out.flush()?;
        return Ok(());
    }
    out.line(&format!("listening on {}", urls.join(" ")))?;
    match (&auth.token, origin) {
        // Shown once, to whoever started it on a terminal or first of all; afterwards the file has it.
        (Some(token), TokenOrigin::Made) => out.line(&format!("open {page}#token={}", token.reveal()))?,
        (Some(_), TokenOrigin::Known) if auth.mode == AuthMode::Token && std::io::stdout().is_terminal() => {
            out.line(&format!("open {page} (the token is in the configuration or in {})", load::TOKEN_FILE))?;
        }
        _ => out.line(&format!("open {page}"))?,
    }
    out.line(&format!("state {}", loaded.state_dir.display()))?;
    out.flush()?;
    Ok(())
}
