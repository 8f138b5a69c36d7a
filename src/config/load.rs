//! From files to settings, and back.
//!
//! [`load`] at start and at every reload, [`inspect`] to look at a document that may be broken, [`plan`] and
//! [`commit`] for an edit, [`ensure_token`] on first start. Everything here may wait for the disk; none of it runs on
//! the loop.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ConfigError;
use super::cidr::Cidr;
use super::document::{self, Context, Document, EnvHidden, Source};
use super::dotenv;
use super::edit::{self, EditError, Planned, Request};
use super::environment::Overrides;
use super::expand::Env;
use super::files;
use super::secret::Secret;
use super::settings::Settings;
use crate::runtime::random;

/// File in the state directory that keeps the token made on first start.
pub const TOKEN_FILE: &str = "gateway-token";
/// The document's name in the state directory.
const DEFAULT_FILE: &str = "openclaw.json";
/// The document's name in the working directory.
const LOCAL_FILE: &str = "openclaw-rs.toml";
/// The state directory below the home directory.
const STATE_DIR: &str = ".openclaw-rs";

/// What the process was started with.
#[derive(Clone, Debug)]
pub struct LoadInputs {
    /// `--config`.
    pub flag_config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Environment of the process.
    pub env: EnvHidden,
    /// Further flags.
    pub overrides: Overrides,
}

impl LoadInputs {
    /// From this process, without flags.
    pub fn of_process() -> LoadInputs {
        // A variable that is no UTF-8 is none of ours.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        LoadInputs {
            flag_config: None,
            state_dir: None,
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            env: EnvHidden(env.collect()),
            overrides: Overrides::default(),
        }
    }
}

/// A usable configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub document: Document,
    pub settings: Arc<Settings>,
    /// Where state lives. It may not exist yet.
    pub state_dir: PathBuf,
}

/// Reads the configuration.
///
/// # Errors
/// `NoStateDir`, `Unreadable`, `TooLarge`; `Syntax` with line and column; `Invalid` with every issue.
pub fn load(inputs: &LoadInputs) -> Result<Loaded, ConfigError> {
    let document = inspect(inputs)?;
    match &document.settings {
        Some(settings) => {
            Ok(Loaded { settings: Arc::clone(settings), state_dir: document.context.state_dir.clone(), document })
        }
        None => Err(why_not(document)),
    }
}

/// The error that says why a document cannot be used.
fn why_not(document: Document) -> ConfigError {
    let raw = document.raw.as_deref().unwrap_or_default();
    match document::parse(raw, document.format) {
        Err(error) if !raw.trim().is_empty() => {
            ConfigError::Syntax { path: document.path, line: error.line, column: error.column, message: error.message }
        }
        _ => ConfigError::Invalid { path: document.path, issues: document.issues },
    }
}

/// Reads the document whether it is usable or not.
///
/// # Errors
/// `NoStateDir`, `Unreadable`, `TooLarge`.
pub fn inspect(inputs: &LoadInputs) -> Result<Document, ConfigError> {
    let home = home(&inputs.env.0);
    let state_dir = state_dir(inputs)?;
    let (path, must_exist) = config_file(inputs, &state_dir);
    let raw = files::read(&path)?;
    if raw.is_none() && must_exist {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(ConfigError::Unreadable { path, source });
    }
    let mut env = inputs.env.0.clone();
    for dir in [&inputs.cwd, &state_dir] {
        if let Some(text) = files::read(&dir.join(dotenv::FILE))? {
            for (name, value) in dotenv::read(&text) {
                env.entry(name).or_insert(value);
            }
        }
    }
    let generated_token = files::read(&state_dir.join(TOKEN_FILE))?;
    let generated_token = generated_token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let context = Context {
        env: EnvHidden(env),
        overrides: inputs.overrides.clone(),
        state_dir,
        home,
        tailnet: tailnet_address(),
        generated_token: generated_token.map(Secret::new),
    };
    Ok(document::evaluate(Source { path, raw }, Arc::new(context), &files::read_included))
}

/// The state directory: `--state-dir`, `OPENCLAW_RS_STATE_DIR`, `~/.openclaw-rs`.
///
/// # Errors
/// `NoStateDir` when none of them says where.
pub fn state_dir(inputs: &LoadInputs) -> Result<PathBuf, ConfigError> {
    let home = home(&inputs.env.0);
    let from_env = || inputs.env.0.get("OPENCLAW_RS_STATE_DIR").filter(|dir| !dir.trim().is_empty()).map(PathBuf::from);
    match inputs.state_dir.clone().or_else(from_env) {
        Some(dir) => Ok(inputs.cwd.join(in_home(&dir, home.as_deref()))),
        None => home.map(|home| home.join(STATE_DIR)).ok_or(ConfigError::NoStateDir),
    }
}

/// The document, and whether it must be there: a file named by flag that is missing is a mistake in the flag.
fn config_file(inputs: &LoadInputs, state_dir: &Path) -> (PathBuf, bool) {
    let home = home(&inputs.env.0);
    let named = |path: &Path| inputs.cwd.join(in_home(path, home.as_deref()));
    if let Some(path) = &inputs.flag_config {
        return (named(path), true);
    }
    for name in ["OPENCLAW_RS_CONFIG", "OPENCLAW_CONFIG_PATH"] {
        if let Some(path) = inputs.env.0.get(name).filter(|path| !path.trim().is_empty()) {
            return (named(Path::new(path)), false);
        }
    }
    let local = inputs.cwd.join(LOCAL_FILE);
    (if local.is_file() { local } else { state_dir.join(DEFAULT_FILE) }, false)
}

fn home(env: &Env) -> Option<PathBuf> {
    env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// `~` and `~/x` below the home directory.
fn in_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// This machine's address in its tailnet: the one the system would use to reach the tailnet's own resolver. Asking
/// sends nothing.
fn tailnet_address() -> Option<IpAddr> {
    /// MagicDNS of every tailnet.
    const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(100, 100, 100, 100), 53);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(RESOLVER).ok()?;
    let address = socket.local_addr().ok()?.ip();
    let range = Cidr::parse("100.64.0.0/10").expect("a range");
    range.contains(address).then_some(address)
}

/// Whether a token had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOrigin {
    /// The configuration needs no made token, or it was made earlier.
    Known,
    /// It was made just now, and should be shown once.
    Made,
}

/// Makes sure that auth mode `auto` with nothing set has its token: made on first start, kept in the state directory
/// with mode 0600, the same ever after. No config file is needed or written.
///
/// # Errors
/// `Write`, `Unreadable`.
pub fn ensure_token(loaded: &mut Loaded) -> Result<TokenOrigin, ConfigError> {
    if !loaded.settings.gateway.auth.token_to_be_generated {
        return Ok(TokenOrigin::Known);
    }
    files::make_dir(&loaded.state_dir)?;
    let (text, is_new) = files::read_or_make(&loaded.state_dir.join(TOKEN_FILE), random::token)?;
    let token = Secret::new(text.trim());
    let context = &loaded.document.context;
    loaded.document.context = Arc::new(Context {
        env: context.env.clone(),
        overrides: context.overrides.clone(),
        state_dir: context.state_dir.clone(),
        home: context.home.clone(),
        tailnet: context.tailnet,
        generated_token: Some(token.clone()),
    });
    let auth = &mut Arc::make_mut(&mut loaded.settings).gateway.auth;
    auth.token = Some(token);
    auth.token_to_be_generated = false;
    loaded.document.settings = Some(Arc::clone(&loaded.settings));
    Ok(if is_new { TokenOrigin::Made } else { TokenOrigin::Known })
}

/// Works an edit out, reading included files from disk.
///
/// # Errors
/// As [`edit::plan`].
pub fn plan(stored: &Document, request: &Request<'_>) -> Result<Planned, EditError> {
    edit::plan(stored, request, &files::read_included)
}

/// Works an edit out against the document as it is on disk now, which may not be the one in force.
///
/// # Errors
/// As [`edit::plan`]; `HashUnavailable` when the document cannot be read.
pub fn plan_now(inputs: &LoadInputs, request: &Request<'_>) -> Result<Planned, EditError> {
    let stored = inspect(inputs).map_err(|_| EditError::HashUnavailable)?;
    plan(&stored, request)
}

/// Writes a planned edit.
///
/// # Errors
/// `Raced` when the file is no longer the one the plan was made for; `Write`.
pub fn commit(planned: &Planned) -> Result<(), ConfigError> {
    let text = planned.document.raw.as_deref().unwrap_or_default();
    files::replace(&planned.document.path, text, planned.replaces.as_deref())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;
    use crate::config::edit::Method;
    use crate::protocol::version::Protocol;

    struct Machine {
        dir: tempfile::TempDir,
        inputs: LoadInputs,
    }

    impl Machine {
        fn new() -> Machine {
            let dir = tempfile::tempdir().unwrap();
            for name in ["home/.openclaw-rs", "cwd"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            let home = dir.path().join("home").to_string_lossy().into_owned();
            let inputs = LoadInputs {
                flag_config: None,
                state_dir: None,
                cwd: dir.path().join("cwd"),
                env: EnvHidden([("HOME".to_owned(), home)].into()),
                overrides: Overrides::default(),
            };
            Machine { dir, inputs }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn env(&mut self, name: &str, value: impl Into<String>) {
            self.inputs.env.0.insert(name.to_owned(), value.into());
        }

        fn port(&self) -> u16 {
            load(&self.inputs).unwrap().settings.gateway.listen.addresses[0].port()
        }
    }

    #[test]
    fn the_file_is_chosen_in_the_documented_order() {
        let mut machine = Machine::new();
        assert_eq!(machine.port(), 18789, "no file: defaults");
        machine.write("home/.openclaw-rs/openclaw.json", "{ gateway: { port: 1 } }");
        assert_eq!(machine.port(), 1);
        machine.write("cwd/openclaw-rs.toml", "[gateway]\nport = 2\n");
        assert_eq!(machine.port(), 2);
        let upstream = machine.write("upstream.json", "{ gateway: { port: 3 } }");
        machine.env("OPENCLAW_CONFIG_PATH", upstream.to_string_lossy());
        assert_eq!(machine.port(), 3);
        machine.write("cwd/ours.toml", "gateway.port = 4");
        machine.env("OPENCLAW_RS_CONFIG", "ours.toml");
        assert_eq!(machine.port(), 4);
        machine.inputs.flag_config = Some(machine.write("flag.conf", " { gateway: { port: 5 } }"));
        assert_eq!(machine.port(), 5);
        machine.inputs.flag_config = Some("missing.json".into());
        assert!(matches!(load(&machine.inputs), Err(ConfigError::Unreadable { .. })));
    }

    #[test]
    fn the_state_directory_is_chosen_in_the_documented_order() {
        let mut machine = Machine::new();
        let root = machine.dir.path().to_owned();
        assert_eq!(state_dir(&machine.inputs).unwrap(), root.join("home/.openclaw-rs"));
        machine.env("OPENCLAW_RS_STATE_DIR", "~/other");
        assert_eq!(state_dir(&machine.inputs).unwrap(), root.join("home/other"));
        machine.inputs.state_dir = Some("here".into());
        assert_eq!(state_dir(&machine.inputs).unwrap(), root.join("cwd/here"));
        machine.inputs.state_dir = None;
        machine.inputs.env.0.clear();
        assert!(matches!(state_dir(&machine.inputs), Err(ConfigError::NoStateDir)));
    }

    #[test]
    fn a_broken_file_is_named_with_line_and_column() {
        let machine = Machine::new();
        machine.write("cwd/openclaw-rs.toml", "[gateway]\nport = \n");
        let error = load(&machine.inputs).unwrap_err().to_string();
        assert!(error.contains("openclaw-rs.toml:2:8: "), "{error}");
        assert!(!inspect(&machine.inputs).unwrap().is_valid());
    }

    #[test]
    fn an_invalid_file_names_every_issue_and_unknown_keys_only_warn() {
        let machine = Machine::new();
        machine.write("home/.openclaw-rs/openclaw.json", "{ gateway: { port: 'x', bind: 'moon' } }");
        let error = load(&machine.inputs).unwrap_err().to_string();
        assert!(error.contains("gateway.port: ") && error.contains("gateway.bind: "), "{error}");
        machine.write("home/.openclaw-rs/openclaw.json", "{ gateway: { prot: 1 } }");
        let warnings = load(&machine.inputs).unwrap().document.warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].message.contains("gateway.port"), "{warnings:?}");
    }

    #[test]
    fn variables_come_from_process_dotenv_and_document() {
        let mut machine = Machine::new();
        machine.write(
            "home/.openclaw-rs/openclaw.json",
            "{ env: { vars: { A: 'doc', D: 'doc' }, C: 'doc' }, ui: { assistant: { name: '${A}-${B}-${C}-${D}' } } }",
        );
        machine.write("home/.openclaw-rs/.env", "# note\nexport B='state # x'\nD=state # tail\nnot a line\n");
        machine.write("cwd/.env", "D=cwd\n");
        machine.env("A", "process");
        let name = load(&machine.inputs).unwrap().settings.ui.assistant_name.clone();
        assert_eq!(name.as_deref(), Some("process-state # x-doc-cwd"));
    }

    #[test]
    fn the_first_start_makes_a_token_and_keeps_it() {
        let machine = Machine::new();
        let mut first = load(&machine.inputs).unwrap();
        assert_eq!(ensure_token(&mut first).unwrap(), TokenOrigin::Made);
        let token = first.settings.gateway.auth.token.clone().unwrap();
        assert_eq!(token.reveal().len(), 43);
        let file = first.state_dir.join(TOKEN_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut second = load(&machine.inputs).unwrap();
        assert_eq!(ensure_token(&mut second).unwrap(), TokenOrigin::Known);
        assert_eq!(second.settings.gateway.auth.token.as_ref(), Some(&token));
        assert!(!second.document.exists(), "no config file is written");
        machine.write("home/.openclaw-rs/openclaw.json", "{ gateway: { auth: { token: 'mine' } } }");
        let mut third = load(&machine.inputs).unwrap();
        assert_eq!(ensure_token(&mut third).unwrap(), TokenOrigin::Known);
        assert_eq!(third.settings.gateway.auth.token, Some(Secret::new("mine")));
    }

    #[test]
    fn an_edit_is_planned_written_and_read_back() {
        let machine = Machine::new();
        machine.write("home/.openclaw-rs/openclaw.json", "// mine\n{ gateway: { auth: { token: 'keep-this' } } }\n");
        let loaded = load(&machine.inputs).unwrap();
        let request = Request {
            method: Method::Patch,
            protocol: Protocol::V4,
            raw: "{ logging: { level: 'warn' } }",
            base_hash: Some(&loaded.document.hash),
            replace_paths: &[],
        };
        let planned = plan(&loaded.document, &request).unwrap();
        commit(&planned).unwrap();
        let again = load(&machine.inputs).unwrap();
        assert_eq!(again.document.hash, planned.document.hash);
        assert_eq!(again.document.config, planned.document.config);
        assert_eq!(again.settings.logging.level, log::LevelFilter::Warn);
        assert!(again.document.raw.unwrap().starts_with("// mine\n"));
        assert!(matches!(commit(&planned), Err(ConfigError::Raced { .. })), "the same plan fits only once");
        assert_eq!(again.document.parsed.unwrap()["gateway"], json!({ "auth": { "token": "keep-this" } }));
    }

    #[test]
    fn an_edit_meets_the_document_on_disk_not_the_one_in_force() {
        let machine = Machine::new();
        let path = machine.write("home/.openclaw-rs/openclaw.json", "{}");
        let in_force = load(&machine.inputs).unwrap();
        let request = Request {
            method: Method::Patch,
            protocol: Protocol::V4,
            raw: "{ logging: { level: 'warn' } }",
            base_hash: Some(&in_force.document.hash),
            replace_paths: &[],
        };
        assert!(plan_now(&machine.inputs, &request).is_ok());
        fs::write(&path, "{ gateway: { port: 5 } }").unwrap();
        assert_eq!(plan_now(&machine.inputs, &request).unwrap_err(), EditError::Stale);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = plan_now(&machine.inputs, &request).unwrap_err();
        assert_eq!(error.to_string(), "config base hash unavailable; re-run config.get and retry");
    }

    #[test]
    fn upstreams_own_document_loads_without_a_warning() {
        let machine = Machine::new();
        for name in ["upstream-v3.json", "upstream-v4.json"] {
            let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/config").join(name);
            machine.write("home/.openclaw-rs/openclaw.json", &fs::read_to_string(fixture).unwrap());
            let loaded = load(&machine.inputs).unwrap();
            assert_eq!(loaded.document.warnings, [], "{name}");
            assert_eq!(loaded.settings.agents.defaults.model.primary.as_deref(), Some("stub/test-model"), "{name}");
        }
    }
}
