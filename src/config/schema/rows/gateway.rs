//! `gateway.*`: config.md section 2, upstream's `gateway`.

use crate::config::schema::{ANY_INT, Kind, Row, any, choice, flag, int, open, path, row, secret, table, text, texts};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    row("gateway.url", Kind::Url(&["ws", "wss"])).or("\"ws://127.0.0.1:18789/ws\"").env(&["OPENCLAW_RS_GATEWAY_URL"]).restart()
        .doc("Peer of the bridge mode and default target of the command line."),
    choice("gateway.runtime_mode", &["standalone_server", "bridge_client", "inline_proxy"]).or("\"standalone_server\"")
        .env(&["OPENCLAW_RS_GATEWAY_RUNTIME_MODE"]).restart().now()
        .doc("What this process is. This build is `standalone_server` only; the other modes are refused."),
    choice("gateway.mode", &["local", "remote"]).or("\"local\"").restart().now()
        .doc("Upstream's key. `remote` means that the gateway runs elsewhere, so this build refuses to start one with it."),
    int("gateway.port", 1, 65535).or("18789").env(&["OPENCLAW_GATEWAY_PORT"]).restart().now().basic().label("Gateway Port")
        .doc("Port for WebSocket and HTTP when `gateway.server.bind` names none. `--port` wins over `OPENCLAW_GATEWAY_PORT`, which wins over the key."),
    choice("gateway.bind", &["auto", "loopback", "lan", "tailnet", "custom"]).or("\"loopback\"").env(&["OPENCLAW_RS_BIND_MODE"])
        .alias(&["runtime.bind_mode"]).restart().now().basic().label("Gateway Bind Mode")
        .doc("Which addresses to listen on: `loopback` (127.0.0.1 and ::1), `lan` (0.0.0.0), `tailnet` (the tailnet address), `auto` (tailnet when it is up, else loopback), `custom` (`gateway.customBindHost`)."),
    text("gateway.customBindHost").env(&["OPENCLAW_RS_BIND_ADDR"]).alias(&["runtime.bind_addr"]).restart().now()
        .doc("Address for `gateway.bind = custom`."),

    choice("gateway.auth.mode", &["auto", "none", "token", "password", "trusted-proxy"]).or("\"auto\"")
        .env(&["OPENCLAW_RS_GATEWAY_AUTH_MODE"]).alias(&["gateway.server.auth_mode"]).new_only().now().basic().label("Gateway Auth Mode")
        .doc("How clients prove themselves. `auto`: the token if one is set, else the password if one is set, else a token is made on first start, kept in the state directory with mode 0600 and shown once. Only a written `none` means none."),
    secret("gateway.auth.token").env(&["OPENCLAW_RS_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_TOKEN"]).alias(&["gateway.token"]).new_only().now().basic()
        .label("Gateway Token").doc("Shared secret of auth mode `token`."),
    secret("gateway.auth.password").env(&["OPENCLAW_RS_GATEWAY_PASSWORD", "OPENCLAW_GATEWAY_PASSWORD"]).alias(&["gateway.password"]).new_only().now().basic()
        .label("Gateway Password").doc("Shared secret of auth mode `password`."),
    flag("gateway.auth.allowTailscale").otherwise("`true` with `gateway.tailscale.mode = serve`, else `false`").new_only()
        .doc("Accept tailnet identity headers."),
    int("gateway.auth.rateLimit.maxAttempts", 1, 1_000_000).or("10").now().doc("Failed attempts within the window before a lock-out."),
    int("gateway.auth.rateLimit.windowMs", 1, ANY_INT).or("60000").now().doc("Window in which failures count, in milliseconds."),
    int("gateway.auth.rateLimit.lockoutMs", 0, ANY_INT).or("300000").now().doc("How long a locked-out address waits, in milliseconds."),
    flag("gateway.auth.rateLimit.exemptLoopback").or("false").now()
        .doc("Do not count loopback. Upstream exempts it; a web page can reach loopback, so this build counts it too unless told not to."),
    text("gateway.auth.trustedProxy.userHeader").new_only().now().doc("Header in which the proxy names the user; required by auth mode `trusted-proxy`."),
    texts("gateway.auth.trustedProxy.requiredHeaders").or("[]").new_only().now().doc("Headers that must all be present."),
    texts("gateway.auth.trustedProxy.allowUsers").or("[]").new_only().now().doc("Users who may connect; empty: every user the proxy names."),
    flag("gateway.auth.trustedProxy.allowLoopback").or("false").new_only().now().doc("Accept the proxy from loopback."),

    row("gateway.trustedProxies", Kind::Ranges).or("[]").new_only().now().doc("Addresses and ranges of proxies whose forwarded headers count."),
    flag("gateway.allowRealIpFallback").or("false").new_only().now().doc("Accept `X-Real-IP` from a trusted proxy that sends no `X-Forwarded-For`."),
    choice("gateway.tailscale.mode", &["off", "serve", "funnel"]).or("\"off\"").restart().doc("Expose the gateway through Tailscale."),
    flag("gateway.tailscale.resetOnExit").or("false").restart().doc("Undo serve or funnel at stop."),

    flag("gateway.controlUi.enabled").or("true").now().basic().doc("Serve the control page."),
    text("gateway.controlUi.basePath").or("\"/\"").restart().now().doc("Path below which the control page is served."),
    path("gateway.controlUi.root").otherwise("the embedded page").restart().now().doc("Directory with another build of the control page."),
    texts("gateway.controlUi.allowedOrigins").or("[]").new_only().now().doc("Further origins from which browsers may connect."),
    flag("gateway.controlUi.allowInsecureAuth").or("false").new_only().doc("Allow token authentication over plain HTTP from other machines."),
    flag("gateway.controlUi.dangerouslyDisableDeviceAuth").or("false").new_only().now()
        .doc("Break-glass: browser clients connect without a device identity."),
    flag("gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback").or("false").new_only().now()
        .doc("Break-glass: an origin that equals the Host header counts as allowed."),
    choice("gateway.controlUi.embedSandbox", &["strict", "scripts", "trusted"]).doc("Sandbox of embedded pages, for upstream's page."),
    flag("gateway.controlUi.allowExternalEmbedUrls").doc("Whether upstream's page may embed other sites."),

    row("gateway.remote.url", Kind::Url(&["ws", "wss"])).doc("Gateway to use in remote mode."),
    choice("gateway.remote.transport", &["ssh", "direct"]).or("\"ssh\"").doc("How the remote gateway is reached."),
    secret("gateway.remote.token").doc("Token for the remote gateway."),
    secret("gateway.remote.password").doc("Password for the remote gateway."),
    text("gateway.remote.tlsFingerprint").doc("Certificate that the remote gateway must show."),
    text("gateway.remote.sshTarget").doc("`user@host` of the tunnel."),
    path("gateway.remote.sshIdentity").doc("Key file of the tunnel."),

    choice("gateway.reload.mode", &["hybrid", "hot", "restart", "off"]).or("\"hybrid\"").now()
        .doc("What a changed config file does: apply what can be applied and ask for a restart for the rest, apply only, ask for a restart only, nothing."),
    int("gateway.reload.debounceMs", 0, ANY_INT).or("300").now().doc("Quiet time after a change before it is read, in milliseconds."),
    int("gateway.reload.deferralTimeoutMs", 0, ANY_INT).doc("How long upstream's gateway puts off a restart while runs are active."),

    flag("gateway.tls.enabled").or("false").restart().now().doc("TLS on the gateway port. Not built yet: `true` is refused."),
    flag("gateway.tls.autoGenerate").or("true").restart().doc("Make a self-signed certificate when none is given."),
    path("gateway.tls.certPath").restart().doc("Certificate file."),
    path("gateway.tls.keyPath").restart().doc("Key file."),
    path("gateway.tls.caPath").restart().doc("CA bundle for client certificates."),

    texts("gateway.tools.deny").or("[]").now().doc("Tools that HTTP tool calls may not use, beside the built-in list."),
    texts("gateway.tools.allow").or("[]").now().doc("Tools taken off the built-in deny list of HTTP tool calls."),
    int("gateway.webchat.chatHistoryMaxChars", 1, 500_000).doc("Length of history answers, for upstream's gateway."),
    int("gateway.channelHealthCheckMinutes", 0, ANY_INT).or("5").doc("Interval of channel health checks; 0 turns them off."),
    int("gateway.channelStaleEventThresholdMinutes", 1, ANY_INT).doc("When a silent channel counts as stale."),
    int("gateway.channelMaxRestartsPerHour", 1, ANY_INT).doc("Most restarts of one channel account in an hour."),

    flag("gateway.http.endpoints.chatCompletions.enabled").or("false").now().doc("Serve `POST /v1/chat/completions`."),
    int("gateway.http.endpoints.chatCompletions.maxBodyBytes", 1, ANY_INT).or("20000000").now()
        .doc("Largest request body, in bytes; more than 24 MiB counts as 24 MiB."),
    int("gateway.http.endpoints.chatCompletions.maxImageParts", 0, ANY_INT).or("8").now().doc("Most images in a request."),
    int("gateway.http.endpoints.chatCompletions.maxTotalImageBytes", 1, ANY_INT).or("20971520").now().doc("Most image bytes in a request."),
    open("gateway.http.endpoints.chatCompletions.images").doc("How images named by URL are fetched."),
    flag("gateway.http.endpoints.responses.enabled").or("false").now().doc("Serve `POST /v1/responses`."),
    int("gateway.http.endpoints.responses.maxBodyBytes", 1, ANY_INT).or("20000000").now()
        .doc("Largest request body, in bytes; more than 24 MiB counts as 24 MiB."),
    int("gateway.http.endpoints.responses.maxUrlParts", 0, ANY_INT).or("8").doc("Most parts given by URL."),
    table("gateway.http.endpoints.responses.files").doc("Files in requests."),
    flag("gateway.http.endpoints.responses.files.allowUrl").or("true").doc("Accept files by URL."),
    texts("gateway.http.endpoints.responses.files.urlAllowlist").or("[]").doc("Hosts from which files may come."),
    texts("gateway.http.endpoints.responses.files.allowedMimes").otherwise("a built-in set").doc("Media types accepted."),
    int("gateway.http.endpoints.responses.files.maxBytes", 1, ANY_INT).or("5242880").doc("Largest file, in bytes."),
    int("gateway.http.endpoints.responses.files.maxChars", 1, ANY_INT).or("200000").doc("Most characters taken from a file."),
    int("gateway.http.endpoints.responses.files.maxRedirects", 0, 20).or("3").doc("Redirects followed."),
    int("gateway.http.endpoints.responses.files.timeoutMs", 1, ANY_INT).or("10000").doc("Deadline of a fetch, in milliseconds."),
    int("gateway.http.endpoints.responses.files.pdf.maxPages", 1, ANY_INT).or("4").doc("Most pages rendered."),
    int("gateway.http.endpoints.responses.files.pdf.maxPixels", 1, ANY_INT).or("4000000").doc("Largest rendered page."),
    int("gateway.http.endpoints.responses.files.pdf.minTextChars", 0, ANY_INT).or("200").doc("Text below which pages are rendered."),
    table("gateway.http.endpoints.responses.images").doc("Images in requests."),
    flag("gateway.http.endpoints.responses.images.allowUrl").or("true").doc("Accept images by URL."),
    texts("gateway.http.endpoints.responses.images.urlAllowlist").or("[]").doc("Hosts from which images may come."),
    texts("gateway.http.endpoints.responses.images.allowedMimes").otherwise("a built-in set").doc("Media types accepted."),
    int("gateway.http.endpoints.responses.images.maxBytes", 1, ANY_INT).or("10485760").now().doc("Largest image, in bytes."),
    int("gateway.http.endpoints.responses.images.maxRedirects", 0, 20).or("3").doc("Redirects followed."),
    int("gateway.http.endpoints.responses.images.timeoutMs", 1, ANY_INT).or("10000").doc("Deadline of a fetch, in milliseconds."),
    any("gateway.http.securityHeaders.strictTransportSecurity").doc("`Strict-Transport-Security`, for upstream's gateway; `false` leaves it out."),
    int("gateway.http.request_timeout_ms", 100, ANY_INT).or("30000").env(&["OPENCLAW_RS_HTTP_REQUEST_TIMEOUT_MS"]).env_min(100).now()
        .doc("Deadline of one HTTP request, in milliseconds."),
    int("gateway.http.max_concurrency", 1, 65_536).or("64").env(&["OPENCLAW_RS_HTTP_MAX_CONCURRENCY"]).env_min(1).now()
        .doc("HTTP requests at work at once."),
    open("gateway.push").doc("Push relay of upstream's mobile apps."),

    choice("gateway.nodes.browser.mode", &["auto", "manual", "off"]).or("\"auto\"").doc("How a node's browser is chosen."),
    text("gateway.nodes.browser.node").doc("Node whose browser is used."),
    row("gateway.nodes.allowCommands", Kind::Texts { items_max: 256 }).or("[]").doc("Node commands allowed beside the platform's own."),
    row("gateway.nodes.denyCommands", Kind::Texts { items_max: 256 }).or("[]").doc("Node commands refused; wins over every allowance."),
    flag("gateway.nodes.pairing.autoApproveLocal").or("true").now()
        .doc("Approve a device that connects directly from this machine, by the documented rules, without asking."),
    row("gateway.nodes.pairing.autoApproveCidrs", Kind::Ranges).doc("Ranges from which upstream's gateway approves nodes."),

    row("gateway.server.bind", Kind::Address).env(&["OPENCLAW_RS_GATEWAY_SERVER_BIND"]).restart().now()
        .doc("Address to listen on as `host:port`; wins over `gateway.bind` and `gateway.port`. Port 0 takes any free port."),
    row("gateway.server.http_bind", Kind::Address).env(&["OPENCLAW_RS_GATEWAY_HTTP_BIND"]).restart().now()
        .doc("Address of the separate control port; without it there is none."),
    int("gateway.server.handshake_timeout_ms", 1, ANY_INT).or("10000").env(&["OPENCLAW_RS_GATEWAY_HANDSHAKE_TIMEOUT_MS"]).env_min(500).new_only().now()
        .doc("How long a socket may take until `connect` is accepted, in milliseconds."),
    int("gateway.server.event_queue_capacity", 1, 1_000_000).or("256").env(&["OPENCLAW_RS_GATEWAY_EVENT_QUEUE_CAPACITY"]).env_min(8).new_only().now()
        .doc("Frames that may wait for one connection."),
    int("gateway.server.reload_interval_secs", 0, ANY_INT).or("3").env(&["OPENCLAW_RS_GATEWAY_RELOAD_INTERVAL_SECS"]).env_min(0).now()
        .doc("How often the config file is looked at, in seconds; 0 turns polling off."),
    int("gateway.server.tick_interval_ms", 1, ANY_INT).or("30000").env(&["OPENCLAW_RS_GATEWAY_TICK_INTERVAL_MS"]).env_min(250).now()
        .doc("Interval of `tick` events, in milliseconds. Clients leave after twice that without any frame."),
    int("gateway.server.max_connections", 1, 1_000_000).or("2048").now().doc("Sockets accepted at once."),
    int("gateway.server.shutdown_drain_ms", 0, ANY_INT).or("10000").now().doc("How long a stopping gateway lets connections and jobs finish, in milliseconds."),
];
