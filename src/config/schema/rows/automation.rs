//! `hooks.*`, `cron.*`, `automation.*`: config.md sections 14 and 15.

use crate::config::schema::{
    ANY_INT, Kind, Row, Unit, any, choice, flag, int, list, open, path, row, secret, text, texts,
};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    flag("hooks.enabled").or("false").now().basic().doc("Accept webhooks; needs `hooks.token`."),
    text("hooks.path").or("\"/hooks\"").now().basic().doc("Path below which they arrive."),
    secret("hooks.token").now().basic().doc("Their secret; must differ from the gateway's."),
    int("hooks.maxBodyBytes", 1, 25 * 1024 * 1024).or("262144").now().doc("Largest body, in bytes."),
    text("hooks.defaultSessionKey").now().doc("Session of a webhook that names none."),
    flag("hooks.allowRequestSessionKey").or("false").now().doc("Let the request name its session."),
    texts("hooks.allowedSessionKeyPrefixes").now().doc("Prefixes such names must have."),
    texts("hooks.allowedAgentIds").now().doc("Agents a request may name; `*` for all, absent: all."),
    texts("hooks.presets").or("[]").doc("Built-in mappings: `gmail`."),
    path("hooks.transformsDir").otherwise("`<state>/hooks/transforms`").doc("Scripts that mappings name."),
    list("hooks.mappings").or("[]").doc("How further paths become messages."),
    open("hooks.mappings[]").doc("One mapping."),
    text("hooks.mappings[].sessionKey").hidden().doc("Session, may be a template."),
    open("hooks.gmail").account().doc("Gmail push."),
    secret("hooks.gmail.pushToken").account().doc("Secret of the push endpoint."),
    open("hooks.internal").restart().doc("Scripts inside upstream's gateway."),
    any("hooks.internal.entries").restart().doc("Scripts by id."),

    open("cron").doc("Scheduled jobs."),
    flag("cron.enabled").or("true").doc("Run them."),
    path("cron.store").otherwise("the store database").alias(&["cron.storePath"]).doc("Where the reference kept them."),
    int("cron.maxConcurrentRuns", 1, ANY_INT).or("1").now().doc("At once."),
    row("cron.webhook", Kind::Url(&["http", "https"])).doc("Where the end of a job is told."),
    secret("cron.webhookToken").chars(512).doc("Token for that."),
    row("cron.sessionRetention", Kind::DurationOrOff(Unit::Hours)).or("\"24h\"").doc("How long a job's session is kept."),
    int("cron.tickMs", 1, ANY_INT).or("250").doc("How often due jobs are looked for, in milliseconds."),
    int("cron.batch", 1, ANY_INT).or("32").doc("Most started at once."),

    flag("automation.enabled").or("false").env(&["OPENCLAW_RS_AUTOMATION_ENABLED"]).doc("Ingest."),
    int("automation.heartbeat_interval_seconds", 1, ANY_INT).or("1800").env(&["OPENCLAW_RS_AUTOMATION_HEARTBEAT_INTERVAL_SECONDS"]).doc("Interval of its heartbeat, in seconds."),
    secret("automation.webhook_secret").env(&["OPENCLAW_RS_AUTOMATION_WEBHOOK_SECRET"]).now().doc("Secret of its webhooks."),
    list("automation.sources").or("[]").doc("What is ingested."),
    open("automation.sources[]").doc("One source."),
    text("automation.sources[].id").doc("Its id."),
    choice("automation.sources[].kind", &["webhook", "poll"]).doc("How it arrives."),
    int("automation.sources[].interval_seconds", 1, ANY_INT).doc("How often, in seconds."),
    secret("automation.sources[].secret").doc("Its secret."),
];
