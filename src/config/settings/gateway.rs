//! `gateway.*`: where to listen, who may connect, the page.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use crate::config::cidr::Cidr;
use crate::config::document::Context;
use crate::config::environment::{Layered, Origin};
use crate::config::network::{BindMode, HostPort, Listen};
use crate::config::secret::Secret;

/// The gateway section.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Where WebSocket and HTTP are served.
    pub listen: Listen,
    /// Where the control port is served, if anywhere.
    pub http_bind: Option<Listen>,
    pub auth: Auth,
    /// Peers whose forwarded headers count.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether such a peer's `X-Real-IP` counts too.
    pub allow_real_ip_fallback: bool,
    pub control_ui: ControlUi,
    pub server: Server,
    pub http: Http,
    pub reload: ReloadPolicy,
    pub nodes: Nodes,
}

/// How a client proves itself, `auto` resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    None,
    Token,
    Password,
    TrustedProxy,
}

impl AuthMode {
    /// Its word in documents and in `hello-ok`.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMode::None => "none",
            AuthMode::Token => "token",
            AuthMode::Password => "password",
            AuthMode::TrustedProxy => "trusted-proxy",
        }
    }
}

/// Who may connect.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub mode: AuthMode,
    pub token: Option<Secret>,
    pub password: Option<Secret>,
    /// Mode `auto` found nothing: a token is to be made and kept in the state directory
    /// ([`crate::config::load::ensure_token`]). Until then nobody gets in.
    pub token_to_be_generated: bool,
    pub trusted_proxy: TrustedProxy,
    pub rate_limit: RateLimit,
}

/// Auth mode `trusted-proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxy {
    pub user_header: Option<String>,
    pub required_headers: Vec<String>,
    /// Empty: every user the proxy names.
    pub allow_users: Vec<String>,
    pub allow_loopback: bool,
}

/// Lock-out after failed attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub max_attempts: u32,
    pub window: Duration,
    pub lockout: Duration,
    pub exempt_loopback: bool,
}

/// The page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUi {
    pub enabled: bool,
    /// Empty at the root, else `/path` without a slash at the end.
    pub base_path: String,
    /// Directory of another build; `None`: the embedded page.
    pub root: Option<PathBuf>,
    pub allowed_origins: Vec<String>,
    pub dangerously_disable_device_auth: bool,
    pub dangerously_allow_host_header_origin_fallback: bool,
}

/// Limits of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub handshake_timeout: Duration,
    /// Frames that may wait for one connection.
    pub event_queue_capacity: usize,
    /// `None`: the file is not polled.
    pub reload_interval: Option<Duration>,
    pub tick_interval: Duration,
    pub max_connections: usize,
    pub shutdown_drain: Duration,
}

/// Limits of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub request_timeout: Duration,
    pub max_concurrency: usize,
    /// `POST /v1/chat/completions`.
    pub chat: Endpoint,
    /// `POST /v1/responses`.
    pub responses: Endpoint,
}

/// An endpoint in OpenAI's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is served.
    pub enabled: bool,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Most pictures of a request.
    pub images_max: usize,
    /// Bytes of all pictures of a request.
    pub images_bytes_max: usize,
}

/// What a changed file does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadPolicy {
    pub mode: ReloadMode,
    pub debounce: Duration,
}

/// `gateway.reload.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// Apply what can be applied, ask for a restart for the rest.
    Hybrid,
    /// Apply what can be applied.
    Hot,
    /// Ask for a restart.
    Restart,
    Off,
}

/// Nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Whether a device on this machine is approved without asking.
    pub auto_approve_local: bool,
}

impl Gateway {
    pub(super) fn read(root: &Reader<'_>, layered: &Layered, context: &Context) -> Gateway {
        let gateway = root.at("gateway");
        refuse_what_is_not_built(&gateway);
        Gateway {
            listen: listen(&gateway, layered, context),
            http_bind: gateway.text("server.http_bind").and_then(|text| {
                let address = HostPort::parse(&text).ok()?;
                Some(Listen::at_address(address, context.tailnet))
            }),
            auth: Auth::read(&gateway.at("auth"), context),
            trusted_proxies: gateway.texts("trustedProxies").iter().filter_map(|text| Cidr::parse(text).ok()).collect(),
            allow_real_ip_fallback: gateway.flag("allowRealIpFallback"),
            control_ui: ControlUi::read(&gateway.at("controlUi")),
            server: Server::read(&gateway.at("server")),
            http: Http {
                request_timeout: gateway.ms("http.request_timeout_ms"),
                max_concurrency: gateway.usize("http.max_concurrency"),
                chat: {
                    let chat = gateway.at("http.endpoints.chatCompletions");
                    Endpoint {
                        enabled: chat.flag("enabled"),
                        body_bytes_max: chat.usize("maxBodyBytes").min(BODY_BYTES_MOST),
                        images_max: chat.usize("maxImageParts"),
                        images_bytes_max: chat.usize("maxTotalImageBytes"),
                    }
                },
                responses: {
                    let responses = gateway.at("http.endpoints.responses");
                    let body_bytes_max = responses.usize("maxBodyBytes").min(BODY_BYTES_MOST);
                    Endpoint {
                        enabled: responses.flag("enabled"),
                        body_bytes_max,
                        images_max: IMAGES_MAX,
                        images_bytes_max: responses.usize("images.maxBytes").min(body_bytes_max),
                    }
                },
            },
            reload: ReloadPolicy {
                mode: match gateway.text_or_default("reload.mode").as_str() {
                    "hot" => ReloadMode::Hot,
                    "restart" => ReloadMode::Restart,
                    "off" => ReloadMode::Off,
                    _ => ReloadMode::Hybrid,
                },
                debounce: gateway.ms("reload.debounceMs"),
            },
            nodes: Nodes { auto_approve_local: gateway.flag("nodes.pairing.autoApproveLocal") },
        }
    }
}

/// Largest body that an endpoint takes, whatever is configured: it is kept as a row of the inbox, which takes no more.
const BODY_BYTES_MOST: usize = 24 * 1024 * 1024;
/// Pictures of one request to `/v1/responses`.
const IMAGES_MAX: usize = 8;

/// Keys that ask for something this build does not do and whose silence would be unsafe.
fn refuse_what_is_not_built(gateway: &Reader<'_>) {
    if gateway.flag("tls.enabled") {
        let message =
            "TLS on the gateway port is not built yet: put a TLS proxy in front, or leave gateway.tls.enabled out";
        gateway.issue("tls.enabled", message.to_owned());
    }
    let mode = gateway.text_or_default("runtime_mode");
    if mode != "standalone_server" {
        let message = format!("runtime mode `{mode}` is not built yet; this build is `standalone_server`");
        gateway.issue("runtime_mode", message);
    }
    if gateway.text_or_default("mode") == "remote" {
        let message = "gateway.mode is `remote`: the gateway runs elsewhere, and this build starts none beside it";
        gateway.issue("mode", message.to_owned());
    }
}

/// One listening policy. Host and port are decided apart, each by the strongest voice: command line, environment,
/// document; within one voice a written address beats mode and port.
fn listen(gateway: &Reader<'_>, layered: &Layered, context: &Context) -> Listen {
    let flag_address = context.overrides.bind.as_deref().and_then(|word| HostPort::parse(word).ok());
    let written = gateway.text("server.bind").and_then(|text| HostPort::parse(&text).ok());
    let beats = |path: &str| layered.origin("gateway.server.bind") >= layered.origin(path);
    let port = context
        .overrides
        .port
        .or(flag_address.map(|address| address.port))
        .or(written.filter(|_| beats("gateway.port")).map(|address| address.port))
        .unwrap_or_else(|| u16::try_from(gateway.int("port")).unwrap_or_default());

    let custom = gateway.text("customBindHost");
    let mode = BindMode::parse(&gateway.text_or_default("bind")).expect("validated");
    let by_mode = |mode, custom: Option<&str>| Listen::by_mode(mode, port, custom, context.tailnet);
    let found = match (&context.overrides.bind, flag_address, written) {
        (Some(_), Some(address), _) => Ok(Listen::at_address(HostPort { port, ..address }, context.tailnet)),
        (Some(word), None, _) => match BindMode::parse(word) {
            Some(mode) => by_mode(mode, custom.as_deref()),
            None => by_mode(BindMode::Custom, Some(word)).map_err(|_| {
                format!("--bind {word}: expected a mode (auto, loopback, lan, tailnet, custom) or an address")
            }),
        },
        (None, _, Some(address)) if beats("gateway.bind") => {
            Ok(Listen::at_address(HostPort { port, ..address }, context.tailnet))
        }
        // An address from the environment alone means `custom`, as it does beside the reference's own mode variable.
        (None, _, None)
            if layered.origins.get("gateway.customBindHost") == Some(&Origin::Environment)
                && layered.origin("gateway.bind").is_none() =>
        {
            by_mode(BindMode::Custom, custom.as_deref())
        }
        _ => by_mode(mode, custom.as_deref()),
    };
    found.unwrap_or_else(|message| {
        gateway.issue("bind", message);
        Listen::by_mode(BindMode::Loopback, port, None, None).expect("loopback is always there")
    })
}

impl Auth {
    fn read(auth: &Reader<'_>, context: &Context) -> Auth {
        let (mut token, password) = (auth.secret("token"), auth.secret("password"));
        let mut token_to_be_generated = false;
        let mode = match auth.text_or_default("mode").as_str() {
            "none" => AuthMode::None,
            "token" => AuthMode::Token,
            "password" => AuthMode::Password,
            "trusted-proxy" => AuthMode::TrustedProxy,
            _ if token.is_some() => AuthMode::Token,
            _ if password.is_some() => AuthMode::Password,
            _ => {
                token = context.generated_token.clone();
                token_to_be_generated = token.is_none();
                AuthMode::Token
            }
        };
        Auth {
            mode,
            token,
            password,
            token_to_be_generated,
            trusted_proxy: TrustedProxy {
                user_header: auth.text("trustedProxy.userHeader"),
                required_headers: auth.texts("trustedProxy.requiredHeaders"),
                allow_users: auth.texts("trustedProxy.allowUsers"),
                allow_loopback: auth.flag("trustedProxy.allowLoopback"),
            },
            rate_limit: RateLimit {
                max_attempts: u32::try_from(auth.int("rateLimit.maxAttempts")).unwrap_or(u32::MAX),
                window: auth.ms("rateLimit.windowMs"),
                lockout: auth.ms("rateLimit.lockoutMs"),
                exempt_loopback: auth.flag("rateLimit.exemptLoopback"),
            },
        }
    }
}

impl ControlUi {
    fn read(ui: &Reader<'_>) -> ControlUi {
        let base = ui.text_or_default("basePath");
        let trimmed = base.trim_matches('/');
        ControlUi {
            enabled: ui.flag("enabled"),
            base_path: if trimmed.is_empty() { String::new() } else { format!("/{trimmed}") },
            root: ui.path("root"),
            allowed_origins: ui.texts("allowedOrigins"),
            dangerously_disable_device_auth: ui.flag("dangerouslyDisableDeviceAuth"),
            dangerously_allow_host_header_origin_fallback: ui.flag("dangerouslyAllowHostHeaderOriginFallback"),
        }
    }
}

impl Server {
    fn read(server: &Reader<'_>) -> Server {
        let reload_interval = server.secs("reload_interval_secs");
        Server {
            handshake_timeout: server.ms("handshake_timeout_ms"),
            event_queue_capacity: server.usize("event_queue_capacity"),
            reload_interval: (!reload_interval.is_zero()).then_some(reload_interval),
            tick_interval: server.ms("tick_interval_ms"),
            max_connections: server.usize("max_connections"),
            shutdown_drain: server.ms("shutdown_drain_ms"),
        }
    }
}
