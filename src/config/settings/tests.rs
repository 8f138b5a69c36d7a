use std::sync::Arc;

use serde_json::json;

use super::gateway::*;
use super::*;
use crate::config::document::{Context, EnvHidden};
use crate::config::environment::Overrides;
use crate::config::schema::{self, Read};
use crate::config::secret::{Secret, Source};

fn context() -> Context {
    Context {
        env: EnvHidden::default(),
        overrides: Overrides::default(),
        state_dir: "/state".into(),
        home: Some("/home/ann".into()),
        tailnet: None,
        generated_token: None,
    }
}

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn built(config: Value) -> Settings {
    build(&config, Path::new("/etc/claw"), &context(), &Env::new()).unwrap().settings
}

#[track_caller]
fn refused(config: Value, path: &str, words: &[&str]) {
    let issues = build(&config, Path::new("/etc/claw"), &context(), &Env::new()).unwrap_err();
    let found = issues.iter().find(|issue| issue.path == path).unwrap_or_else(|| panic!("{path} not in {issues:?}"));
    for word in words {
        assert!(found.message.contains(word), "{word:?} not in {:?}", found.message);
    }
}

fn addresses(settings: &Settings) -> Vec<String> {
    settings.gateway.listen.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_read_is_what_the_rows_say_is_read() {
    // One of everything, so that every list and map is entered.
    let config = json!({
        "agents": { "defaults": { "models": { "p/m": {} } }, "list": [{ "id": "a" }], "entries": { "b": {} } },
        "models": { "providers": { "p": { "models": [{ "id": "m" }] } } },
        "auth": { "profiles": { "p:a": {} } },
        "secrets": { "providers": { "s": {} } },
        "mcp": { "servers": { "p": { "command": "x" }, "a": { "url": "http://x" } } },
        "channels": { "c": {} },
        "security": { "tool_runtime_policy": { "byProvider": { "p": {} } } },
    });
    let (_, mut seen) = build_and_trace(&config, Path::new("/"), &context(), &Env::new()).unwrap();
    // The loader reads these before there are settings.
    seen.extend(["env.vars", "env.vars.*", "env.*"].map(str::to_owned));
    let marked: BTreeSet<String> =
        schema::all().filter(|row| row.read == Read::Now).map(|row| row.path.to_owned()).collect();
    // Containers whose own row need not be marked: their keys are.
    let containers = [
        "agents.list",
        "agents.entries",
        "agents.defaults.model",
        "agents.list[].model",
        "agents.entries.*.model",
        "channels",
        "channels.*.accounts",
    ];
    for container in containers {
        assert!(seen.remove(container), "{container} is read no more: take it off this list");
    }
    assert!(
        marked.difference(&seen).collect::<Vec<_>>().is_empty(),
        "marked, not read: {:?}",
        marked.difference(&seen)
    );
    assert!(
        seen.difference(&marked).collect::<Vec<_>>().is_empty(),
        "read, not marked: {:?}",
        seen.difference(&marked)
    );
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = built(json!({}));
    assert_eq!(addresses(&settings), ["127.0.0.1:18789", "[::1]:18789"]);
    assert_eq!(settings.gateway.auth.mode, AuthMode::Token);
    assert!(settings.gateway.auth.token_to_be_generated, "nothing set: a token is to be made, not nothing asked for");
    assert_eq!(settings.gateway.server.reload_interval, Some(std::time::Duration::from_secs(3)));
    assert_eq!(settings.runtime.memory_sample, std::time::Duration::from_secs(15));
    assert_eq!(settings.security.tool_risk_bonus["exec"], 20);
    assert_eq!(settings.security.quarantine_dir, Path::new("/state/quarantine"));
    assert_eq!(settings.agents.default_id, "main");
    assert_eq!(settings.agents.defaults.heartbeat.every_text, "30m");
    assert_eq!((settings.store.cache_kib, settings.store.busy_timeout.as_secs()), (None, 5));
    assert!(!settings.hooks.enabled);
}

/// Document, environment, `--port`, `--bind`, and the addresses that come of them.
type ListenCase<'a> = (Value, &'a [(&'a str, &'a str)], Option<u16>, Option<&'a str>, &'a [&'a str]);

#[test]
fn host_and_port_go_to_the_strongest_voice() {
    let cases: &[ListenCase<'_>] = &[
        (json!({ "gateway": { "port": 5 } }), &[], None, None, &["127.0.0.1:5", "[::1]:5"]),
        (
            json!({ "gateway": { "port": 5 } }),
            &[("OPENCLAW_GATEWAY_PORT", "6")],
            None,
            None,
            &["127.0.0.1:6", "[::1]:6"],
        ),
        (
            json!({ "gateway": { "port": 5 } }),
            &[("OPENCLAW_GATEWAY_PORT", "6")],
            Some(0),
            None,
            &["127.0.0.1:0", "[::1]:0"],
        ),
        (json!({ "gateway": { "port": 5, "server": { "bind": "127.0.0.1:7" } } }), &[], None, None, &["127.0.0.1:7"]),
        (
            json!({ "gateway": { "server": { "bind": "127.0.0.1:7" } } }),
            &[("OPENCLAW_GATEWAY_PORT", "6")],
            None,
            None,
            &["127.0.0.1:6"],
        ),
        (
            json!({ "gateway": { "server": { "bind": "127.0.0.1:7" } } }),
            &[("OPENCLAW_RS_GATEWAY_SERVER_BIND", "127.0.0.1:8")],
            None,
            None,
            &["127.0.0.1:8"],
        ),
        (json!({ "gateway": { "server": { "bind": "127.0.0.1:7" } } }), &[], Some(9), None, &["127.0.0.1:9"]),
        (
            json!({ "gateway": { "server": { "bind": "127.0.0.1:7" } } }),
            &[],
            None,
            Some("loopback"),
            &["127.0.0.1:7", "[::1]:7"],
        ),
        (json!({}), &[], None, Some("[::1]:3"), &["[::1]:3"]),
        (json!({}), &[], Some(4), Some("127.0.0.1"), &["127.0.0.1:4"]),
        (json!({ "gateway": { "bind": "lan" } }), &[], None, None, &["0.0.0.0:18789"]),
        (json!({}), &[("OPENCLAW_RS_BIND_ADDR", "127.0.0.9")], None, None, &["127.0.0.9:18789"]),
        (json!({ "gateway": { "server": { "bind": "localhost:2" } } }), &[], None, None, &["127.0.0.1:2", "[::1]:2"]),
    ];
    for (config, pairs, port, bind, expected) in cases {
        let mut context = context();
        context.overrides.port = *port;
        context.overrides.bind = bind.map(str::to_owned);
        let settings = build(config, Path::new("/"), &context, &env(pairs)).unwrap().settings;
        assert_eq!(addresses(&settings), *expected, "{config} {pairs:?} {port:?} {bind:?}");
    }
}

#[test]
fn a_bad_bind_flag_is_refused_by_name() {
    let mut context = context();
    context.overrides.bind = Some("moon".to_owned());
    let issues = build(&json!({}), Path::new("/"), &context, &Env::new()).unwrap_err();
    assert!(issues[0].message.starts_with("--bind moon"), "{issues:?}");
}

#[test]
fn auto_takes_the_token_first_and_none_must_be_written() {
    let mode = |config: Value| built(config).gateway.auth.mode;
    assert_eq!(mode(json!({ "gateway": { "auth": { "token": "t", "password": "p" } } })), AuthMode::Token);
    assert_eq!(mode(json!({ "gateway": { "auth": { "password": "p" } } })), AuthMode::Password);
    assert_eq!(mode(json!({ "gateway": { "auth": { "mode": "none" } } })), AuthMode::None);
    let mut context = context();
    context.generated_token = Some(Secret::new("made"));
    let auth = build(&json!({}), Path::new("/"), &context, &Env::new()).unwrap().settings.gateway.auth;
    assert_eq!((auth.token, auth.token_to_be_generated), (Some(Secret::new("made")), false));
}

#[test]
fn secrets_come_from_variables_by_every_documented_form() {
    let forms = [
        json!("env:MY_TOKEN"),
        json!("shell env:MY_TOKEN"),
        json!("MY_TOKEN"),
        json!({ "source": "env", "id": "MY_TOKEN" }),
    ];
    for form in forms {
        let config = json!({ "gateway": { "auth": { "token": form } } });
        let found = build(&config, Path::new("/"), &context(), &env(&[("MY_TOKEN", " s3cret ")])).unwrap();
        assert_eq!(found.settings.gateway.auth.token, Some(Secret::new("s3cret")), "{form}");
        refused(config, "gateway.auth.token", &["MY_TOKEN", "missing"]);
    }
    // A token given by variable or flag is the token, whatever it looks like.
    let found = build(&json!({}), Path::new("/"), &context(), &env(&[("OPENCLAW_GATEWAY_TOKEN", "MY_TOKEN")])).unwrap();
    assert_eq!(found.settings.gateway.auth.token, Some(Secret::new("MY_TOKEN")));
    let exec = json!({ "gateway": { "auth": { "token": { "source": "exec", "id": "x" } } } });
    refused(exec, "gateway.auth.token", &["exec", "not built"]);
    refused(
        json!({ "gateway": { "auth": { "token": "__OPENCLAW_REDACTED__" } } }),
        "gateway.auth.token",
        &["placeholder"],
    );
}

#[test]
fn rules_across_keys_name_their_keys() {
    let token = "gateway.auth.token";
    refused(json!({ "gateway": { "auth": { "mode": "token" } } }), token, &[token, "OPENCLAW_RS_GATEWAY_TOKEN"]);
    refused(
        json!({ "gateway": { "auth": { "mode": "password", "token": "t" } } }),
        "gateway.auth.password",
        &["OPENCLAW_RS_GATEWAY_PASSWORD"],
    );
    let open = json!({ "gateway": { "bind": "lan", "auth": { "mode": "none" } } });
    refused(open, "gateway.auth.mode", &["gateway.bind", "runtime.allow_public_bind_without_auth"]);
    let proxy = json!({ "gateway": { "auth": { "mode": "trusted-proxy" } } });
    refused(proxy.clone(), "gateway.trustedProxies", &["gateway.trustedProxies"]);
    refused(proxy, "gateway.auth.trustedProxy.userHeader", &["userHeader"]);
    refused(json!({ "hooks": { "enabled": true } }), "hooks.token", &["hooks.enabled", "hooks.token"]);
    let same = json!({ "hooks": { "enabled": true, "token": "t" }, "gateway": { "auth": { "token": "t" } } });
    refused(same, "hooks.token", &["gateway.auth.token"]);
    refused(json!({ "hooks": { "path": "/" } }), "hooks.path", &["hooks.path"]);
    let thresholds = json!({ "security": { "review_threshold": 65, "block_threshold": 65 } });
    refused(thresholds, "security.review_threshold", &["security.review_threshold", "security.block_threshold"]);
    let same_port = json!({ "gateway": { "server": { "bind": "127.0.0.1:7", "http_bind": "127.0.0.1:7" } } });
    refused(same_port, "gateway.server.http_bind", &["gateway.server.bind"]);
    refused(json!({ "agents": { "list": [{ "id": "a" }, { "id": "A" }] } }), "agents.list", &["twice"]);
    refused(json!({ "agents": { "list": [{ "name": "no id" }] } }), "agents.list", &["agent id"]);
    refused(json!({ "gateway": { "bind": "tailnet" } }), "gateway.bind", &["tailnet address"]);
}

#[test]
fn what_is_not_built_fails_closed() {
    refused(json!({ "gateway": { "tls": { "enabled": true } } }), "gateway.tls.enabled", &["not built"]);
    refused(json!({ "gateway": { "runtime_mode": "bridge_client" } }), "gateway.runtime_mode", &["bridge_client"]);
    refused(json!({ "gateway": { "mode": "remote" } }), "gateway.mode", &["remote"]);
}

#[test]
fn public_bind_is_fine_with_auth_or_when_break_glass_says_so() {
    built(json!({ "gateway": { "bind": "lan", "auth": { "token": "t" } } }));
    built(json!({ "gateway": { "bind": "lan" } }));
    let glass = json!({
        "gateway": { "bind": "lan", "auth": { "mode": "none" } },
        "runtime": { "allow_public_bind_without_auth": true },
    });
    built(glass);
}

#[test]
fn paths_are_from_the_config_file_and_home() {
    let file = |text: &str| built(json!({ "logging": { "file": text } })).logging.file.unwrap();
    assert_eq!(file("logs/a.log"), Path::new("/etc/claw/logs/a.log"));
    assert_eq!(file("~/a.log"), Path::new("/home/ann/a.log"));
    assert_eq!(file("/var/a.log"), Path::new("/var/a.log"));
}

#[test]
fn agents_come_from_list_and_entries() {
    let settings = built(json!({
        "agents": {
            "defaults": { "model": "stub/m", "workspace": "ws" },
            "list": [{ "id": "Ann", "identity": { "emoji": "🦀" } }],
            "entries": { "bob": { "default": true, "model": { "primary": "stub/b", "fallbacks": ["stub/c"] } } },
        },
    }));
    let agents = &settings.agents;
    assert_eq!(agents.list.iter().map(|agent| agent.id.as_str()).collect::<Vec<_>>(), ["ann", "bob"]);
    assert_eq!(agents.default_id, "bob");
    assert_eq!(agents.model_of("ann").primary.as_deref(), Some("stub/m"));
    assert_eq!(agents.model_of("bob").fallbacks, ["stub/c"]);
    assert_eq!(agents.list[0].workspace, Path::new("/etc/claw/ws"));
    assert_eq!(agents.list[0].identity.emoji.as_deref(), Some("🦀"));
}

#[test]
fn models_are_read_and_need_ids() {
    let config = json!({ "models": { "providers": { "stub": {
        "baseUrl": "http://127.0.0.1:1/v1", "apiKey": "k", "api": "openai-completions",
        "models": [{ "id": "m", "name": "M", "input": ["text", "image"], "contextWindow": 128_000.0, "maxTokens": 8192 }],
    } } } });
    let provider = &built(config).models.providers[0];
    assert_eq!((provider.id.as_str(), provider.models[0].name.as_str()), ("stub", "M"));
    assert_eq!(provider.models[0].context_window, Some(128_000));
    let without = json!({ "models": { "providers": { "stub": { "models": [{ "name": "M" }] } } } });
    refused(without, "models.providers.stub.models.0.id", &["id"]);
}

#[test]
fn what_is_written_of_models_is_read_and_nothing_is_fetched() {
    let models = built(json!({
        "models": { "mode": "replace", "requestTimeoutMs": 5000, "providers": { "p": {
            "apiKey": { "source": "exec", "provider": "vault", "id": "a/b" }, "timeoutMs": 2000,
            "authHeaderName": "X-Key", "authHeaderPrefix": "Key ", "headers": { "X-Team": "env:TEAM" },
            "requestDefaults": { "seed": 1 },
            "models": [{ "id": "m", "cost": { "input": 1.5, "cacheRead": 0.5 }, "maxTokens": 9, "compat": { "supportsStore": true } }],
        } } },
        "agents": { "defaults": { "models": { "p/m": { "alias": "quick", "params": { "temperature": 0 } } } } },
        "keys": { "p_api_keys": ["one", "env:TWO"] },
        "auth": {
            "profiles": { "p:a": { "mode": "token" } }, "order": { "p": ["p:a"] },
            "cooldowns": { "billingBackoffHours": 0.5, "billingBackoffHoursByProvider": { "p": 2 }, "failureWindowHours": 1 },
        },
        "general": { "failover_cooldown_base_seconds": 10 },
    }))
    .models;
    let secs = std::time::Duration::from_secs;
    assert_eq!((models.replaces_catalog, models.request_timeout), (true, secs(5)));
    let provider = &models.providers[0];
    let vault = Source::Referred { source: "exec".into(), provider: Some("vault".into()), id: "a/b".into() };
    assert_eq!((provider.api_key.as_ref(), provider.timeout), (Some(&vault), Some(secs(2))));
    assert_eq!(
        (provider.auth_header_name.as_deref(), provider.auth_header_prefix.as_deref()),
        (Some("X-Key"), Some("Key "))
    );
    assert_eq!(provider.headers, [("X-Team".to_owned(), Source::Variable("TEAM".into()))]);
    assert_eq!(provider.request_defaults["seed"], 1);
    let model = &provider.models[0];
    let cost = model.cost.unwrap();
    assert_eq!((cost.input, cost.output, cost.cache_read, model.max_tokens), (1.5, 0.0, 0.5, Some(9)));
    assert_eq!(models.offered[0].alias.as_deref(), Some("quick"));
    let keys = vec![Source::Written(Secret::new("one")), Source::Variable("TWO".into())];
    assert_eq!(models.key_lists, [("p_api_keys".to_owned(), keys)]);
    assert_eq!((models.auth.profiles[0].provider.as_str(), models.auth.profiles[0].mode.as_str()), ("p", "token"));
    assert_eq!(models.auth.order, [("p".to_owned(), vec!["p:a".to_owned()])]);
    let cooldowns = &models.auth.cooldowns;
    assert_eq!(
        (cooldowns.billing, cooldowns.billing_max, cooldowns.failure_window),
        (secs(1800), secs(86_400), secs(3600))
    );
    assert_eq!(cooldowns.billing_by_provider, [("p".to_owned(), secs(7200))]);
    assert_eq!(cooldowns.doubling, Some((secs(10), secs(3600))));
    assert_eq!(built(json!({})).models.auth.cooldowns.doubling, None, "the ladder, unless somebody asks for doubling");
    let website = json!({ "models": { "providers": { "p": { "api": "website-chat" } } } });
    refused(website, "models.providers.p.api", &["never through a website"]);
}

#[test]
fn places_of_secrets_are_read() {
    use crate::config::settings::secrets::Access;
    let secrets = built(json!({ "secrets": {
        "providers": {
            "e": { "source": "env", "allowlist": ["A"] },
            "f": { "source": "file", "path": "keys.json", "maxBytes": 9 },
            "x": { "source": "exec", "command": "/usr/bin/vault", "args": ["-q"], "env": { "TOKEN": "hunter2" }, "timeoutMs": 100 },
            "s": { "source": "store" },
        },
        "defaults": { "exec": "x" },
    } }))
    .secrets;
    assert!(!format!("{secrets:?}").contains("hunter2"));
    let [env, file, exec, store] = &secrets.places[..] else { panic!("{secrets:?}") };
    assert_eq!(env.access, Access::Env(Some(vec!["A".to_owned()])));
    assert_eq!(
        (&file.access, file.bytes_max),
        (&Access::File { path: "/etc/claw/keys.json".into(), is_json: true }, 9)
    );
    let Access::Exec(program) = &exec.access else { panic!("{exec:?}") };
    assert_eq!((program.command.as_path(), &program.args[0]), (Path::new("/usr/bin/vault"), &"-q".to_owned()));
    assert_eq!((exec.fetch_timeout.as_millis(), exec.bytes_max, program.json_only), (100, 1024 * 1024, true));
    assert_eq!(store.access, Access::Unknown("store".to_owned()));
    assert_eq!(secrets.default_places, [("exec".to_owned(), "x".to_owned())]);
}

#[test]
fn floors_hold_and_debug_shows_no_secret() {
    let settings = built(json!({
        "runtime": { "eval_timeout_ms": 1 },
        "gateway": { "auth": { "token": "hunter2-token" } },
    }));
    assert_eq!(settings.runtime.eval_timeout, std::time::Duration::from_millis(100));
    assert!(!format!("{:?}", Arc::new(settings)).contains("hunter2"));
}

#[test]
fn a_channel_has_its_own_webhook_secret_else_the_shared_one() {
    let channels = json!({ "defaults": { "x": 1 }, "telegram": { "webhookSecret": "own-secret" }, "Teams": {} });
    let settings = built(json!({ "channels": channels, "automation": { "webhook_secret": "shared-secret" } }));
    let secret = |channel| settings.channels.webhook_secret(channel).map(Secret::reveal);
    assert_eq!(secret("telegram"), Some("own-secret"));
    assert_eq!(secret("teams"), Some("shared-secret"));
    assert_eq!(secret("unknown"), None, "the shared secret opens no channel that is not configured");
    assert_eq!(secret("defaults"), None, "what every channel starts from is no channel");
    assert!(!format!("{settings:?}").contains("-secret"), "secrets are not shown");
    let without = built(json!({ "channels": { "teams": {} } }));
    assert_eq!(without.channels.webhook_secret("teams"), None);
}

#[test]
fn what_waits_is_said_by_the_queue_or_else_by_the_runtime() {
    use super::scheduling::{Activation, Mode, Overflow, Wishes};
    let none = Wishes::default();
    let scheduling = built(json!({})).scheduling;
    assert_eq!((scheduling.workers, scheduling.pending_max), (8, 256));
    assert_eq!((scheduling.main_max, scheduling.subagents_max, scheduling.cron_max), (4, 8, 1));
    assert_eq!(scheduling.group_activation, Activation::Mention);
    let policy = scheduling.queue.policy(Some("webchat"), &none);
    assert_eq!(
        (policy.mode, policy.overflow, policy.cap, policy.debounce_ms),
        (Mode::Followup, Overflow::Summarize, 20, 1000)
    );

    let floor = json!({ "session_queue_mode": "queue", "max_queue": 3, "group_activation_mode": "always" });
    let scheduling = built(json!({ "runtime": floor })).scheduling;
    assert_eq!(scheduling.queue.policy(None, &none).mode, Mode::Steer);
    assert_eq!((scheduling.pending_max, scheduling.group_activation), (16, Activation::Always));

    let queue = json!({
        "mode": "collect", "drop": "old", "cap": 5, "debounceMs": 7,
        "byChannel": { "Slack": "steer+backlog" }, "debounceMsByChannel": { "slack": 9 },
    });
    let scheduling = built(json!({ "runtime": floor, "messages": { "queue": queue } })).scheduling;
    let policy = scheduling.queue.policy(None, &none);
    assert_eq!((policy.mode, policy.overflow, policy.cap, policy.debounce_ms), (Mode::Collect, Overflow::Old, 5, 7));
    let policy = scheduling.queue.policy(Some("slack"), &none);
    assert_eq!((policy.mode, policy.debounce_ms), (Mode::SteerBacklog, 9));
}
