//! The real binary, started on port 0 in a directory of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use openclaw_rs::runtime::threads;
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Attempt, Client, Door};
use super::connect::{ConnectOptions, Proto};
use super::http::{self, HttpReply};
use super::identity::Identities;
use super::inbox::Inbox;

/// Longest from the start of the process to the line that names its port, and from a signal to its end.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// How the daemon says where it listens.
static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"127\.0\.0\.1:(\d+)").expect("a literal pattern compiles"));

/// A gateway that has not been started yet.
pub(crate) struct ServerBuilder {
    config: Value,
    config_text: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    file_bytes_max: Option<u64>,
    run_as_nobody: bool,
}

impl Default for ServerBuilder {
    fn default() -> ServerBuilder {
        let config = json!({ "gateway": { "auth": { "mode": "token", "token": Server::TOKEN } } });
        ServerBuilder {
            config,
            config_text: None,
            args: Vec::new(),
            env: Vec::new(),
            file_bytes_max: None,
            run_as_nobody: false,
        }
    }
}

impl ServerBuilder {
    /// Merges `patch` into the configuration, objects key by key; null removes a key.
    #[must_use]
    pub(crate) fn config(mut self, patch: &Value) -> ServerBuilder {
        merge(&mut self.config, patch);
        self
    }

    /// Names a model whose provider nobody answers for: messages are accepted, and no assistant speaks.
    #[must_use]
    pub(crate) fn model(self) -> ServerBuilder {
        let provider = json!({
            "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "stub-key", "api": "openai-completions",
            "models": [{ "id": "test-model", "name": "Test Model", "contextWindow": 128000, "maxTokens": 8192 }],
        });
        self.config(&json!({
            "agents": { "defaults": { "model": { "primary": "stub/test-model" } } },
            "models": { "mode": "merge", "providers": { "stub": provider } },
        }))
    }

    /// Writes this text as the configuration file instead.
    #[must_use]
    pub(crate) fn config_text(self, text: &str) -> ServerBuilder {
        ServerBuilder { config_text: Some(text.to_owned()), ..self }
    }

    /// Adds words to the command line.
    #[must_use]
    pub(crate) fn args(mut self, args: &[&str]) -> ServerBuilder {
        self.args.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    /// Adds a variable to the otherwise empty environment.
    #[must_use]
    pub(crate) fn env(mut self, key: &str, value: &str) -> ServerBuilder {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// No file may grow beyond this: writes fail as they do on a full disk.
    #[must_use]
    pub(crate) fn file_bytes_max(self, bytes: u64) -> ServerBuilder {
        ServerBuilder { file_bytes_max: Some(bytes), ..self }
    }

    /// Runs it as a user who owns nothing, where the tests themselves run as root (to whom nothing is read-only).
    #[must_use]
    pub(crate) fn run_as_nobody(self) -> ServerBuilder {
        ServerBuilder { run_as_nobody: true, ..self }
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let home = TempDir::new().expect("a temporary directory can be made");
        self.start_in(home)
    }

    #[track_caller]
    fn start_in(self, home: TempDir) -> Server {
        self.prepare(home.path());
        let daemon = Daemon::spawn(self.command(home.path()), home.path());
        let address = daemon.address();
        Server {
            daemon,
            address,
            home,
            builder: self,
            identities: Identities::default(),
            inbox: Arc::new(Inbox::default()),
        }
    }

    /// Starts it where it must not start, and waits for its end.
    pub(crate) fn run_to_end(self, prepare: impl FnOnce(&Path)) -> Ended {
        let home = TempDir::new().expect("a temporary directory can be made");
        self.prepare(home.path());
        prepare(home.path());
        let mut daemon = Daemon::spawn(self.command(home.path()), home.path());
        let status = daemon.wait();
        Ended { status, stderr: daemon.stderr() }
    }

    fn prepare(&self, home: &Path) {
        let state = state_dir(home);
        fs::create_dir_all(&state).expect("the state directory can be made");
        let text = self
            .config_text
            .clone()
            .unwrap_or_else(|| serde_json::to_string_pretty(&self.config).expect("a JSON value can be written"));
        fs::write(state.join("openclaw.json"), text).expect("the configuration can be written");
    }

    fn command(&self, home: &Path) -> Command {
        let state = state_dir(home);
        let mut command = Command::new(env!("CARGO_BIN_EXE_openclaw-rs"));
        command.env_clear().env("HOME", home).env("TZ", "UTC").env("OPENCLAW_RS_STATE_DIR", &state);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.current_dir(home).stdin(Stdio::null());
        command.args(["gateway", "run", "--config"]).arg(state.join("openclaw.json"));
        if !self.args.iter().any(|arg| arg == "--port") {
            command.args(["--port", "0"]);
        }
        command.args(&self.args);
        // SAFETY: geteuid(2) takes nothing and always succeeds.
        if self.run_as_nobody && unsafe { libc::geteuid() } == 0 {
            fs::set_permissions(home, fs::Permissions::from_mode(0o755)).expect("the home is ours");
            command.uid(NOBODY).gid(NOBODY);
        }
        if let Some(bytes) = self.file_bytes_max {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            let apply = move || {
                // SAFETY: both calls are async-signal-safe and touch only this value and this process.
                let outcome = unsafe {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
                };
                if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            };
            // SAFETY: the closure allocates nothing and takes no lock between fork and exec.
            unsafe { command.pre_exec(apply) };
        }
        command
    }
}

/// Objects key by key; null removes a key; anything else is replaced.
fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                    continue;
                }
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn state_dir(home: &Path) -> PathBuf {
    home.join("state")
}

/// How a daemon that did not stay ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

/// The child process and what it writes.
struct Daemon {
    child: Child,
    stdout: Receiver<String>,
    stderr_path: PathBuf,
}

impl Daemon {
    fn spawn(mut command: Command, home: &Path) -> Daemon {
        let stderr_path = home.join("daemon.stderr");
        let stderr = fs::File::options().create(true).append(true).open(&stderr_path).expect("a log can be opened");
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the binary can be started");
        let stdout = BufReader::new(child.stdout.take().expect("stdout was asked for as a pipe"));
        let (tx, rx) = channel();
        // Reads to the end whether or not anybody listens: a full pipe would stop the daemon.
        let read = move || stdout.lines().map_while(Result::ok).for_each(|line| drop(tx.send(line)));
        threads::spawn("test-stdout", threads::STACK_BYTES, read).expect("a thread can be started");
        Daemon { child, stdout: rx, stderr_path }
    }

    #[track_caller]
    fn address(&self) -> SocketAddr {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut said = String::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Ok(line) = self.stdout.recv_timeout(left) else { break };
            if let Some(found) = ADDRESS.captures(&line) {
                let port: u16 = found[1].parse().expect("a port is a number below 65536");
                return SocketAddr::from(([127, 0, 0, 1], port));
            }
            said.push_str(&line);
            said.push('\n');
        }
        panic!("the daemon named no port within {START_TIMEOUT:?}\nstdout: {said}\nstderr: {}", self.stderr());
    }

    fn stderr(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(&self.stderr_path) {
            // What cannot be read as text is of no use in a message.
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Waits for the end of the process, killing it when it takes too long.
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                let stderr = self.stderr();
                self.kill();
                panic!("the daemon did not end within {START_TIMEOUT:?}\nstderr: {stderr}");
            }
            // There is no wait with a deadline for children; this is its polling interval.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running gateway. Dropping it kills it.
pub(crate) struct Server {
    daemon: Daemon,
    address: SocketAddr,
    builder: ServerBuilder,
    pub(crate) identities: Identities,
    /// Everything said on every connection, in order.
    pub(crate) inbox: Arc<Inbox>,
    home: TempDir,
}

impl Server {
    /// The gateway token of every test server.
    pub(crate) const TOKEN: &'static str = "test-gateway-token-0f1e2d3c";

    /// A gateway with token authentication and nothing else configured.
    #[track_caller]
    pub(crate) fn start() -> Server {
        ServerBuilder::default().start()
    }

    /// A gateway to be described first.
    pub(crate) fn with() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The state directory; the configuration file is `openclaw.json` in it.
    pub(crate) fn state_dir(&self) -> PathBuf {
        state_dir(self.home.path())
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.daemon.child.id()).expect("process ids are positive and small")
    }

    /// What the daemon has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.daemon.stderr()
    }

    /// Waits until standard error holds `text`.
    #[track_caller]
    pub(crate) fn expect_said(&self, text: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "the daemon did not say {text:?} but: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL at once and starts it again on what is left in its directory, on another port.
    #[track_caller]
    pub(crate) fn kill_and_restart(&mut self) {
        self.daemon.kill();
        self.daemon = Daemon::spawn(self.builder.command(self.home.path()), self.home.path());
        self.address = self.daemon.address();
    }

    /// The same, and the new process has no limit on the size of files.
    #[track_caller]
    pub(crate) fn kill_and_restart_without_limit(&mut self) {
        self.builder.file_bytes_max = None;
        self.kill_and_restart();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes two integers and touches no memory of ours; the child has not been waited for, so the id is its own.
        let outcome = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(outcome, 0, "the daemon can be signalled");
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.daemon.wait()
    }

    /// One HTTP request on the gateway port.
    #[track_caller]
    pub(crate) fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpReply {
        http::request(self.address, method, path, headers, body)
    }

    /// A protocol 4 operator with all five scopes and a device of its own.
    #[track_caller]
    pub(crate) fn operator(&self, name: &str) -> Client {
        self.client(name, Proto::V4, &ConnectOptions::operator(name))
    }

    /// A protocol 4 node host.
    #[track_caller]
    pub(crate) fn node(&self, name: &str) -> Client {
        self.client(name, Proto::V4, &ConnectOptions::node(name))
    }

    /// A client that must be let in.
    #[track_caller]
    pub(crate) fn client(&self, name: &str, proto: Proto, options: &ConnectOptions) -> Client {
        self.attempt(name, proto, options).expect_accepted()
    }

    /// One `connect`, whatever comes of it.
    pub(crate) fn attempt(&self, name: &str, proto: Proto, options: &ConnectOptions) -> Attempt {
        self.attempt_with(name, proto, options, &[])
    }

    /// The same with HTTP headers on the upgrade.
    pub(crate) fn attempt_with(
        &self,
        name: &str,
        proto: Proto,
        options: &ConnectOptions,
        headers: &[(&str, &str)],
    ) -> Attempt {
        let door = Door {
            address: self.address,
            headers,
            token: Server::TOKEN,
            identities: &self.identities,
            inbox: &self.inbox,
        };
        Attempt::make(&door, name, proto, options)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was said:\n{}\nthe daemon's log:\n{}", self.inbox.transcript(), self.daemon.stderr());
        }
    }
}
