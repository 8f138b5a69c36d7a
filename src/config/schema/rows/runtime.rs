//! `runtime.*`: config.md section 3.

use crate::config::schema::{Kind, Row, choice, flag, int, path, row, text};

#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    flag("runtime.audit_only").or("false").env(&["OPENCLAW_RS_AUDIT_ONLY"]).now().basic()
        .doc("Blocks become reviews: the defender judges and records, and stops nothing."),
    text("runtime.decision_event").or("\"security.decision\"").restart().now().doc("Name of the event that carries a decision."),
    int("runtime.worker_concurrency", 1, 1024).or("8").env(&["OPENCLAW_RS_WORKER_CONCURRENCY"]).env_min(1).restart().now()
        .doc("Runs at once over all sessions and lanes."),
    int("runtime.max_queue", 1, 1_000_000).or("256").env(&["OPENCLAW_RS_MAX_QUEUE"]).env_min(1).floor(16).now()
        .doc("Pending items over all sessions; fewer than 16 take effect as 16."),
    choice("runtime.session_queue_mode", &["followup", "steer", "collect", "interrupt", "queue", "steer-backlog", "steer+backlog"]).or("\"followup\"")
        .env(&["OPENCLAW_RS_SESSION_QUEUE_MODE"]).now().doc("What a message does that arrives while its session is busy, unless `messages.queue` or the session says otherwise."),
    choice("runtime.group_activation_mode", &["mention", "always"]).or("\"mention\"")
        .env(&["OPENCLAW_RS_GROUP_ACTIVATION_MODE", "OPENCLAW_RS_GROUP_ACTIVATION"]).now().doc("When a message in a group is answered."),
    int("runtime.eval_timeout_ms", 1, 600_000).or("2500").floor(100).now()
        .doc("Deadline of one judgement, in milliseconds; fewer than 100 take effect as 100."),
    int("runtime.memory_sample_secs", 1, 86_400).or("15").env(&["OPENCLAW_RS_MEMORY_SAMPLE_SECS"]).env_min(1).now()
        .doc("Interval of resident-memory samples, in seconds."),
    int("runtime.idempotency_ttl_secs", 1, 31_536_000).or("300").env(&["OPENCLAW_RS_IDEMPOTENCY_TTL_SECS"]).env_min(1)
        .doc("How long an answered key is remembered, in seconds."),
    int("runtime.idempotency_max_entries", 1, 10_000_000).or("5000").env(&["OPENCLAW_RS_IDEMPOTENCY_MAX_ENTRIES"]).env_min(32).floor(32)
        .doc("Most answered keys remembered; fewer than 32 take effect as 32."),
    path("runtime.session_state_path").otherwise("the store database").env(&["OPENCLAW_RS_SESSION_STATE_PATH"]).restart()
        .doc("Where the reference kept session state: `.db`, `.sqlite` and `.sqlite3` are SQLite, others JSON."),
    choice("runtime.profile", &["core", "edge"]).or("\"core\"").alias(&["runtime.runtimeProfile"]).env(&["OPENCLAW_RS_RUNTIME_PROFILE"])
        .doc("Chooses the self-healing and speech defaults."),
    flag("runtime.selfHealing.enabled").or("true").alias(&["agents.defaults.selfHealing.enabled", "selfHealing.enabled", "runtime.selfHealingEnabled", "runtime.agentSelfHealingEnabled"])
        .env(&["OPENCLAW_RS_AGENT_SELF_HEAL_ENABLED"]).doc("Retry a failed run by itself."),
    int("runtime.selfHealing.maxAttempts", 0, 6).otherwise("1 in profile `core`, 2 in `edge`")
        .alias(&["agents.defaults.selfHealing.maxAttempts", "selfHealing.maxAttempts", "runtime.selfHealingMaxAttempts", "runtime.agentSelfHealingMaxAttempts"])
        .env(&["OPENCLAW_RS_AGENT_SELF_HEAL_MAX_ATTEMPTS"]).doc("Retries of one run."),
    int("runtime.selfHealing.backoffMs", 0, 5000).otherwise("250 in profile `core`, 80 in `edge`")
        .alias(&["agents.defaults.selfHealing.backoffMs", "selfHealing.backoffMs", "runtime.selfHealingBackoffMs", "runtime.agentSelfHealingBackoffMs"])
        .env(&["OPENCLAW_RS_AGENT_SELF_HEAL_BACKOFF_MS"]).doc("Pause before a retry, in milliseconds."),
    flag("runtime.allow_public_bind_without_auth").or("false").env(&["OPENCLAW_RS_ALLOW_PUBLIC_BIND_WITHOUT_AUTH"]).restart().now()
        .doc("Break-glass: listen beyond loopback with auth mode `none`."),
    choice("runtime.discovery_mode", &["off", "mdns", "tailnet_serve", "tailnet_funnel"]).or("\"off\"").env(&["OPENCLAW_RS_DISCOVERY_MODE"]).restart()
        .doc("How the gateway announces itself."),
    row("runtime.stateDir", Kind::Path).otherwise("`~/.openclaw-rs`").env(&["OPENCLAW_RS_STATE_DIR"]).restart()
        .doc("The state directory. It is chosen before the document is read, so `--state-dir` and the environment decide; the key is kept for the reference."),
];
