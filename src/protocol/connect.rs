//! The parameters of `connect`: the union of both protocols' fields.

use super::params::{Any, Count, Int, NonEmpty, Object, RequiredSince4, Text};

crate::words! {
    /// Programs the gateway accepts.
    pub enum ClientId {
        /// Old web chat.
        WebchatUi = "webchat-ui",
        /// The Control UI.
        ControlUi = "openclaw-control-ui",
        /// The browser extension (protocol 4).
        BrowserCopilot = "openclaw-browser-copilot",
        /// The terminal UI (protocol 4).
        Tui = "openclaw-tui",
        /// Web chat.
        Webchat = "webchat",
        /// The command line.
        Cli = "cli",
        /// Programs that use the client library.
        GatewayClient = "gateway-client",
        /// The macOS app.
        MacOs = "openclaw-macos",
        /// The Linux app (protocol 4).
        Linux = "openclaw-linux",
        /// The iOS app.
        Ios = "openclaw-ios",
        /// The watch app (protocol 4).
        WatchOs = "openclaw-watchos",
        /// The Android app.
        Android = "openclaw-android",
        /// A machine that offers commands.
        NodeHost = "node-host",
        /// A cloud worker (protocol 4).
        Worker = "openclaw-worker",
        /// Tests.
        Test = "test",
        /// Fingerprinting.
        Fingerprint = "fingerprint",
        /// Probes.
        Probe = "openclaw-probe",
    }
}

crate::words! {
    /// What a client is doing.
    pub enum ClientMode {
        /// A web page.
        Webchat = "webchat",
        /// A command.
        Cli = "cli",
        /// An app.
        Ui = "ui",
        /// A program.
        Backend = "backend",
        /// A machine that offers commands.
        Node = "node",
        /// A cloud worker (protocol 4).
        Worker = "worker",
        /// Looking whether the gateway lives.
        Probe = "probe",
        /// A test.
        Test = "test",
    }
}

crate::params! {
    /// Who connects.
    pub struct Client {
        id: ClientId = "id",
        display_name: Option<NonEmpty> = "displayName",
        version: NonEmpty = "version",
        platform: NonEmpty = "platform",
        device_family: Option<NonEmpty> = "deviceFamily",
        model_identifier: Option<NonEmpty> = "modelIdentifier",
        mode: ClientMode = "mode",
        instance_id: Option<NonEmpty> = "instanceId",
        build_id: Option<Text<1, 96>> = "buildId",
        time_zone: Option<Text<1, 64>> = "timeZone",
    }
}

crate::params! {
    /// The proof that a client holds a device's key.
    pub struct DeviceProof {
        id: NonEmpty = "id",
        public_key: NonEmpty = "publicKey",
        signature: NonEmpty = "signature",
        signed_at: Count = "signedAt",
        nonce: RequiredSince4<String> = "nonce",
    }
}

/// Secrets a client presents. `Debug` shows which are there, never what they are.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The shared token, or a device token.
    pub token: Option<String>,
    /// The shared password.
    pub password: Option<String>,
    /// A device token, named as one (protocol 4).
    pub device_token: Option<String>,
    /// A setup code's token (protocol 4).
    pub bootstrap_token: Option<String>,
}

impl Credentials {
    /// The text that a device signs: the first of token, device token, setup token; the password never.
    pub fn signed_token(&self) -> &str {
        [&self.token, &self.device_token, &self.bootstrap_token]
            .into_iter()
            .find_map(|secret| secret.as_deref())
            .unwrap_or("")
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.is_some())
            .field("password", &self.password.is_some())
            .field("device_token", &self.device_token.is_some())
            .field("bootstrap_token", &self.bootstrap_token.is_some())
            .finish()
    }
}

mod secrets {
    use serde_json::Value;

    use super::Credentials;
    use crate::protocol::params::{Issues, Param};

    const FIELDS: [&str; 6] =
        ["token", "password", "deviceToken", "bootstrapToken", "approvalRuntimeToken", "agentRuntimeIdentityToken"];

    impl Param for Credentials {
        fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
            let Value::Object(object) = value else {
                issues.wrong(path, "must be object");
                return None;
            };
            let mut whole = true;
            for (key, value) in object {
                if !FIELDS.contains(&key.as_str()) {
                    issues.unexpected(path, key);
                    whole = false;
                } else if !value.is_string() {
                    issues.wrong(&format!("{path}/{key}"), "must be string");
                    whole = false;
                }
            }
            let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
            whole.then(|| Credentials {
                token: text("token"),
                password: text("password"),
                device_token: text("deviceToken"),
                bootstrap_token: text("bootstrapToken"),
            })
        }
    }
}

/// A protocol number; upstream accepts any integer from 1.
pub type ProtocolNumber = Int<1, { i64::MAX }>;

crate::params! {
    /// Everything a client says of itself when it connects.
    pub struct ConnectParams {
        min_protocol: ProtocolNumber = "minProtocol",
        max_protocol: ProtocolNumber = "maxProtocol",
        client: Client = "client",
        caps: Option<Vec<NonEmpty>> = "caps",
        commands: Option<Vec<NonEmpty>> = "commands",
        permissions: Option<Object> = "permissions",
        path_env: Option<String> = "pathEnv",
        role: Option<NonEmpty> = "role",
        scopes: Option<Vec<NonEmpty>> = "scopes",
        device: Option<DeviceProof> = "device",
        auth: Option<Credentials> = "auth",
        locale: Option<String> = "locale",
        user_agent: Option<String> = "userAgent",
        computer_use: Option<Any> = "computerUse",
        worker_runs: Option<Any> = "workerRuns",
        model_catalog: Option<Any> = "modelCatalog",
    }
}

impl ConnectParams {
    /// Whether the client declared capability `name`.
    pub fn has_cap(&self, name: &str) -> bool {
        self.caps.iter().flatten().any(|cap| cap.0 == name)
    }

    /// The scopes as sent, in order, for the signature and the request.
    pub fn scope_names(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().flatten().map(|scope| scope.0.as_str())
    }
}
