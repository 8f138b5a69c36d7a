use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Somebody who could ask: the main session of `main`, with a model of `prov`.
struct Who {
    session: SessionKey,
    spawned_by: Option<String>,
    model: (&'static str, &'static str),
    account: Option<&'static str>,
    sender: Sender<'static>,
    role: Role,
    is_sandboxed: bool,
    inherited: Option<Vec<String>>,
}

fn who() -> Who {
    Who {
        session: SessionKey::stored("agent:main:main".to_owned()),
        spawned_by: None,
        model: ("prov", "model-1"),
        account: None,
        sender: Sender::default(),
        role: Role::Main,
        is_sandboxed: false,
        inherited: None,
    }
}

fn within(key: &str) -> Who {
    Who { session: SessionKey::stored(key.to_owned()), ..who() }
}

fn canonical_provider(name: &str) -> String {
    // One alias, as real tables have.
    match name.trim().to_lowercase().as_str() {
        "provider" => "prov".to_owned(),
        other => other.to_owned(),
    }
}

fn policy_of(config: &Value, who: &Who) -> Policy {
    let settings = Settings::of_document(config).unwrap_or_else(|issues| panic!("{issues:?}"));
    let subject = Subject {
        agent: who.session.agent().unwrap_or("main"),
        session: &who.session,
        spawned_by: who.spawned_by.as_deref(),
        model: Some(who.model),
        canonical_provider,
        channel: who.session.channel(),
        account: who.account,
        sender: who.sender,
        role: who.role,
        is_sandboxed: who.is_sandboxed,
        inherited: who.inherited.as_deref(),
    };
    Policy::of(&settings, &subject)
}

/// Holds that `config` allows and refuses, for `who`, just these of the tools named.
#[track_caller]
fn check(config: Value, who: &Who, allowed: &[&str], refused: &[(&str, &str, &str)]) {
    let policy = policy_of(&config, who);
    for tool in allowed {
        let verdict = policy.verdict(tool);
        assert!(verdict.allowed && policy.allows(tool), "{tool}: {verdict:?}");
    }
    for (tool, stage, rule) in refused {
        let verdict = policy.verdict(tool);
        assert!(!verdict.allowed && !policy.allows(tool), "{tool} is allowed: {verdict:?}");
        assert_eq!(verdict.stage, *stage, "{tool}: {verdict:?}");
        assert!(verdict.rule.contains(rule), "{tool}: {rule:?} not in {verdict:?}");
    }
}

#[test]
fn nothing_is_restricted_where_nothing_is_written() {
    check(json!({}), &who(), &["read", "exec", "message", "what_is_not_built"], &[]);
    assert_eq!(policy_of(&json!({}), &who()).verdict("read").stage, "default");
    let empty = json!({ "tools": { "allow": [], "deny": [] } });
    check(empty, &who(), &["read", "exec"], &[]);
}

#[test]
fn a_profile_is_the_first_stage() {
    let minimal = json!({ "tools": { "profile": "minimal" } });
    check(minimal, &who(), &["session_status"], &[("read", "profile", "tools.profile: \"minimal\" does not have it")]);
    let wider = json!({ "tools": { "profile": "minimal", "alsoAllow": ["group:fs", "web_*"] } });
    check(wider, &who(), &["session_status", "read", "web_fetch"], &[("exec", "profile", "minimal")]);
    let own = json!({
        "tools": { "profile": "minimal" },
        "agents": { "list": [{ "id": "main", "tools": { "profile": "coding" } }, { "id": "other" }] },
    });
    check(own.clone(), &who(), &["read", "exec"], &[("message", "profile", "agents.main.tools.profile")]);
    check(own, &within("agent:other:main"), &["session_status"], &[("read", "profile", "tools.profile")]);
}

#[test]
fn deny_wins_at_every_stage() {
    let denied = json!({ "tools": { "allow": ["read", "exec"], "deny": ["exec"] } });
    check(
        denied,
        &who(),
        &["read"],
        &[("exec", "global", "tools: deny has \"exec\""), ("write", "global", "tools: allow does not have it")],
    );
    let agent = json!({
        "tools": { "deny": ["exec"] },
        "agents": { "list": [{ "id": "main", "tools": { "allow": ["exec", "read"] } }] },
    });
    check(agent, &who(), &["read"], &[("exec", "global", "deny"), ("write", "agent", "agents.main.tools: allow")]);
    let hardened = json!({
        "tools": { "allow": ["exec", "read"] },
        "security": { "tool_runtime_policy": { "deny": ["group:runtime"], "byProvider": { "prov": { "deny": ["read"] } } } },
    });
    let refused = [
        ("exec", "security", "security.tool_runtime_policy: deny has \"group:runtime\""),
        ("read", "security provider", "byProvider[prov]: deny"),
    ];
    check(hardened, &who(), &[], &refused);
}

#[test]
fn names_are_read_as_people_write_them() {
    let config = json!({ "tools": { "allow": [" READ ", "Bash", "memory_*"] } });
    check(config, &who(), &["read", "Read", "exec", "bash", "memory_get"], &[("write", "global", "")]);
    let config = json!({ "tools": { "deny": ["*_spawn", "group:FS", "Automations"] } });
    let refused = [("sessions_spawn", "global", "*_spawn"), ("edit", "global", "group:fs"), ("cron", "global", "cron")];
    check(config, &who(), &["exec", "sessions_list"], &refused);
    check(json!({ "tools": { "deny": ["*"] } }), &who(), &[], &[("read", "global", "\"*\"")]);
    // A list that names nothing there is still a list.
    check(json!({ "tools": { "allow": [""] } }), &who(), &[], &[("read", "global", "allow")]);
    check(json!({ "tools": { "allow": ["group:nothing"] } }), &who(), &[], &[("read", "global", "allow")]);
}

#[test]
fn who_may_write_or_execute_may_patch_and_deny_still_wins() {
    let openai = Who { model: ("openai", "gpt-5.4"), ..who() };
    check(json!({ "tools": { "allow": ["exec"] } }), &openai, &["exec", "apply_patch"], &[("write", "global", "")]);
    check(json!({ "tools": { "allow": ["write"] } }), &openai, &["write", "apply_patch"], &[]);
    let denied = json!({ "tools": { "allow": ["write"], "deny": ["apply-patch"] } });
    check(denied, &openai, &["write"], &[("apply_patch", "global", "deny")]);
}

#[test]
fn patches_are_for_the_models_that_write_them() {
    let openai = Who { model: ("openai", "gpt-5.4"), ..who() };
    check(json!({}), &openai, &["apply_patch"], &[]);
    check(json!({}), &who(), &[], &[("apply_patch", "model", "allowModels")]);
    let off = json!({ "tools": { "exec": { "applyPatch": { "enabled": false } } } });
    check(off, &openai, &["write"], &[("apply_patch", "model", "enabled: false")]);
    for named in ["prov/model-1", " Model-1 "] {
        let config = json!({ "tools": { "exec": { "applyPatch": { "allowModels": [named] } } } });
        check(config.clone(), &who(), &["apply_patch"], &[]);
        check(config, &openai, &[], &[("apply_patch", "model", "allowModels")]);
    }
}

#[test]
fn the_exact_model_stands_before_its_provider_whose_name_is_canonical() {
    let config = json!({ "tools": { "byProvider": {
        "Provider": { "deny": ["exec"] },
        "provider/Model-1": { "profile": "messaging", "alsoAllow": ["read"], "deny": ["message"] },
        "elsewhere": { "deny": ["*"] },
    } } });
    let refused = [
        ("message", "global provider", "tools.byProvider[provider/Model-1]: deny"),
        ("exec", "provider profile", "tools.byProvider[provider/Model-1].profile: \"messaging\""),
    ];
    check(config.clone(), &who(), &["session_status", "read"], &refused);
    let other = Who { model: ("prov", "model-2"), ..who() };
    check(config, &other, &["message", "read"], &[("exec", "global provider", "byProvider[Provider]")]);
    let own = json!({
        "tools": { "byProvider": { "prov": { "profile": "minimal" } } },
        "agents": { "list": [{ "id": "main", "tools": { "byProvider": { "prov": { "profile": "coding", "deny": ["write"] } } } }] },
    });
    check(own, &who(), &["read"], &[("write", "agent provider", "agents.main.tools.byProvider[prov]")]);
}

#[test]
fn groups_restrict_who_speaks_in_them() {
    let config = json!({ "channels": { "telegram": {
        "groups": {
            "-100": { "tools": { "allow": ["read"] }, "toolsBySender": { "id:7": { "allow": ["read", "exec"] } } },
            "-100:topic:3": { "tools": { "deny": ["read"] } },
            "*": { "tools": { "deny": ["exec"] } },
        },
        "accounts": { "work": { "groups": { "-100": { "tools": { "deny": ["*"] } } } } },
    } } });
    let group = || within("agent:main:telegram:group:-100");
    check(config.clone(), &group(), &["read"], &[("exec", "group", "channels.telegram.groups[-100].tools: allow")]);
    let seven = Who { sender: Sender { id: Some("7"), ..Sender::default() }, ..group() };
    check(config.clone(), &seven, &["read", "exec"], &[("write", "group", "toolsBySender[id:7]")]);
    let topic = within("agent:main:telegram:group:-100:topic:3");
    check(config.clone(), &topic, &["exec"], &[("read", "group", "-100:topic:3")]);
    let thread = within("agent:main:telegram:group:-100:topic:9");
    check(config.clone(), &thread, &["read"], &[("exec", "group", "groups[-100].tools")]);
    let other = within("agent:main:telegram:group:-5");
    check(config.clone(), &other, &["read"], &[("exec", "group", "groups[*].tools: deny")]);
    let work = Who { account: Some("work"), ..group() };
    check(config.clone(), &work, &[], &[("read", "group", "deny")]);
    check(config.clone(), &who(), &["exec"], &[]);
    check(config.clone(), &within("agent:main:telegram:direct:7"), &["exec"], &[]);
    // Who starts a run elsewhere does not get out of the group by it.
    let child =
        Who { spawned_by: Some("agent:main:telegram:group:-100".to_owned()), ..within("agent:main:subagent:x") };
    check(config, &child, &["read"], &[("exec", "group", "groups[-100]")]);
}

#[test]
fn senders_are_known_by_what_the_key_says() {
    let config = json!({ "tools": { "toolsBySender": {
        "channel:telegram:1": { "deny": ["read"] },
        "id:1": { "deny": ["write"] },
        "E164:+491": { "deny": ["edit"] },
        "username:@Ann": { "deny": ["exec"] },
        "name:Bea B": { "deny": ["process"] },
        "plain": { "deny": ["image"] },
        "*": { "deny": ["message"] },
    } } });
    let at = |key: &str, sender| Who { sender, ..within(key) };
    let id = |id| Sender { id: Some(id), ..Sender::default() };
    let refused = |who: &Who, tool| check(config.clone(), who, &[], &[(tool, "sender", "tools.toolsBySender[")]);
    refused(&at("agent:main:telegram:direct:1", id("1")), "read");
    refused(&at("agent:main:discord:direct:1", id("1")), "write");
    refused(&at("agent:main:main", Sender { e164: Some("+491"), ..Sender::default() }), "edit");
    refused(&at("agent:main:main", Sender { username: Some("ANN"), ..Sender::default() }), "exec");
    refused(&at("agent:main:main", Sender { name: Some("bea b"), ..Sender::default() }), "process");
    refused(&at("agent:main:main", id("Plain")), "image");
    refused(&at("agent:main:main", id("anybody else")), "message");
    refused(&who(), "message");
    let own = json!({
        "tools": { "toolsBySender": { "id:1": { "deny": ["read"] } } },
        "agents": { "list": [{ "id": "main", "tools": { "toolsBySender": { "id:1": { "deny": ["write"] } } } }] },
    });
    let one = at("agent:main:main", id("1"));
    check(own, &one, &["read"], &[("write", "sender", "agents.main.tools.toolsBySender[id:1]")]);
}

#[test]
fn a_sandbox_has_its_own_tools() {
    let boxed = || Who { is_sandboxed: true, ..who() };
    check(json!({}), &boxed(), &["exec", "read"], &[("nodes", "sandbox", "deny"), ("web_fetch", "sandbox", "allow")]);
    let named = json!({ "tools": { "sandbox": { "tools": { "alsoAllow": ["nodes", "web_*"] } } } });
    check(named, &boxed(), &["exec", "nodes", "web_fetch"], &[("browser", "sandbox", "deny")]);
    let own = json!({
        "tools": { "sandbox": { "tools": { "allow": ["exec"] } } },
        "agents": { "list": [{ "id": "main", "tools": { "sandbox": { "tools": { "allow": ["read"], "deny": [] } } } }] },
    });
    check(own, &boxed(), &["read"], &[("exec", "sandbox", "agents.main.tools.sandbox.tools: allow")]);
    check(json!({}), &who(), &["nodes"], &[]);
}

#[test]
fn runs_that_runs_start_have_less() {
    let child = |role| Who { role, ..within("agent:main:subagent:x") };
    let always = [("gateway", "subagent", "deny"), ("message", "subagent", "deny"), ("cron", "subagent", "deny")];
    check(json!({}), &child(Role::Orchestrator), &["read", "exec", "sessions_spawn", "subagents"], &always);
    check(json!({}), &child(Role::Leaf), &["read", "exec"], &[("sessions_spawn", "subagent", "deny")]);
    let config = json!({ "tools": { "subagents": { "tools": { "allow": ["read", "gateway"], "deny": ["edit"] } } } });
    let refused = [("exec", "subagent", "allow"), ("edit", "subagent", "deny"), ("gateway", "subagent", "deny")];
    check(config, &child(Role::Leaf), &["read"], &refused);
    let inherited = Who { inherited: Some(vec!["read".to_owned()]), ..child(Role::Leaf) };
    check(json!({}), &inherited, &["read"], &[("exec", "inherited", "the run that started this one")]);
    let nothing = Who { inherited: Some(Vec::new()), ..child(Role::Leaf) };
    check(json!({}), &nothing, &[], &[("read", "inherited", "")]);
}

#[test]
fn both_ways_of_allowing_in_one_scope_are_refused() {
    let both = || json!({ "allow": ["read"], "alsoAllow": ["write"] });
    let cases = [
        (json!({ "tools": both() }), "tools.alsoAllow"),
        (json!({ "tools": { "byProvider": { "p": both() } } }), "tools.byProvider.p.alsoAllow"),
        (json!({ "tools": { "toolsBySender": { "*": both() } } }), "tools.toolsBySender.*.alsoAllow"),
        (json!({ "tools": { "sandbox": { "tools": both() } } }), "tools.sandbox.tools.alsoAllow"),
        (json!({ "agents": { "list": [{ "id": "a", "tools": both() }] } }), "agents.list.0.tools.alsoAllow"),
        (
            json!({ "channels": { "c": { "groups": { "g": { "tools": both() } } } } }),
            "channels.c.groups.g.tools.alsoAllow",
        ),
    ];
    for (config, path) in cases {
        let issues = Settings::of_document(&config).expect_err(path);
        let issue = issues.iter().find(|issue| issue.path == path).unwrap_or_else(|| panic!("{path}: {issues:?}"));
        assert!(issue.message.contains("cannot set both allow and alsoAllow"), "{issue:?}");
    }
    Settings::of_document(&json!({ "tools": { "allow": [], "alsoAllow": ["read"] } })).unwrap();
}

#[test]
fn what_cannot_be_read_is_no_policy() {
    let cases = [
        json!({ "tools": { "byProvider": { "p": { "deny": "exec" } } } }),
        json!({ "tools": { "byProvider": { "p": { "profile": "everything" } } } }),
        json!({ "agents": { "list": [{ "id": "a", "tools": { "deny": ["exec", 1] } }] } }),
        json!({ "channels": { "c": { "groups": { "g": { "tools": ["exec"] } } } } }),
        json!({ "tools": { "subagents": { "tools": { "deny": {} } } } }),
    ];
    for config in cases {
        assert!(Settings::of_document(&config).is_err(), "{config}");
    }
}

#[test]
fn every_stage_can_be_asked() {
    let config = json!({ "tools": { "profile": "coding", "allow": ["group:fs"], "deny": ["edit"] } });
    let policy = policy_of(&config, &who());
    let steps = |tool: &str| policy.steps(tool).into_iter().map(|step| (step.stage, step.passes)).collect::<Vec<_>>();
    assert_eq!(steps("read"), [("profile", true), ("global", true)]);
    assert_eq!(steps("edit"), [("profile", true), ("global", false)]);
    assert_eq!(steps("exec"), [("profile", true), ("global", false)]);
    assert_eq!(policy.verdict("read").to_string(), "tools: allow has \"group:fs\" (global)");
    assert_eq!(policy.profile(), Profile::Coding);
}

#[test]
fn callers_over_the_gateway_may_do_less() {
    let over = |config: Value, is_owner: bool| {
        let tools = Settings::of_document(&config).unwrap().tools;
        policy_of(&config, &who()).over_gateway(&tools, is_owner)
    };
    let policy = over(json!({}), true);
    for tool in [
        "exec",
        "bash",
        "process",
        "write",
        "edit",
        "apply_patch",
        "sessions_spawn",
        "sessions_send",
        "cron",
        "gateway",
        "nodes",
    ] {
        let verdict = policy.verdict(tool);
        assert_eq!(
            (verdict.allowed, verdict.stage),
            (false, if tool == "apply_patch" { "model" } else { "gateway" }),
            "{tool}"
        );
    }
    assert!(["read", "session_status", "memory_search", "web_fetch"].iter().all(|tool| policy.allows(tool)));
    let opened = json!({ "gateway": { "tools": { "allow": ["Exec", "nodes"], "deny": ["read"] } } });
    let policy = over(opened.clone(), true);
    assert!(policy.allows("exec") && policy.allows("nodes") && !policy.allows("read") && !policy.allows("write"));
    assert!(over(opened.clone(), false).allows("exec") && !over(opened, false).allows("nodes"), "that is an owner's");
    let both = json!({ "gateway": { "tools": { "allow": ["exec"], "deny": ["exec"] } } });
    assert!(!over(both, true).allows("exec"), "deny wins");
    let denied = json!({ "tools": { "deny": ["exec"] }, "gateway": { "tools": { "allow": ["exec"] } } });
    assert_eq!(over(denied, true).verdict("exec").stage, "global", "what agents may not, nobody may");
}

#[test]
fn wildcards_stand_for_anything() {
    for (pattern, text, fits) in [
        ("*", "", true),
        ("a*", "a", true),
        ("*a", "ba", true),
        ("a*a", "a", false),
        ("a*b*c", "aXbYbc", true),
        ("a*b*c", "aXcYb", false),
        ("a**c", "ac", true),
        ("read", "read", true),
        ("read", "reader", false),
        ("", "read", false),
    ] {
        assert_eq!(wildcard(pattern, text), fits, "{pattern} {text}");
    }
}

/// Entries as people write them.
fn entry() -> impl Strategy<Value = String> {
    let names = names::PLACES.iter().map(|place| place.name.to_owned());
    let others = ["*", "group:fs", "group:runtime", "group:openclaw", "sessions_*", "*_get", "Bash", "nothing"];
    prop::sample::select(names.chain(others.map(str::to_owned)).collect::<Vec<_>>())
}

fn list() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(entry(), 0..4)
}

/// Lists of every scope that has some, in one document.
fn scopes() -> impl Strategy<Value = Vec<(Vec<String>, Vec<String>)>> {
    prop::collection::vec((list(), list()), 6)
}

fn document(profile: usize, scopes: &[(Vec<String>, Vec<String>)]) -> Value {
    let lists = |idx: usize| json!({ "allow": scopes[idx].0, "deny": scopes[idx].1 });
    let mut tools = lists(0);
    tools["profile"] = json!(Profile::ALL[profile].as_str());
    tools["byProvider"] = json!({ "prov": lists(1) });
    tools["toolsBySender"] = json!({ "*": lists(2) });
    tools["subagents"] = json!({ "tools": lists(3) });
    json!({
        "tools": tools,
        "security": { "tool_runtime_policy": lists(4) },
        "agents": { "list": [{ "id": "main", "tools": lists(5) }] },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_deny_never_loses_and_order_says_nothing(
        profile in 0..4_usize, scopes in scopes(), at in 0..6_usize, further in entry(), is_child in any::<bool>(),
    ) {
        let child = || Who { role: Role::Leaf, ..within("agent:main:subagent:x") };
        let who = || if is_child { child() } else { who() };
        let policy = policy_of(&document(profile, &scopes), &who());
        let again = policy_of(&document(profile, &scopes), &who());
        let mut turned = scopes.clone();
        turned.iter_mut().for_each(|(allow, deny)| { allow.reverse(); deny.reverse(); });
        let turned = policy_of(&document(profile, &turned), &who());
        let mut stricter = scopes.clone();
        stricter[at].1.push(further.clone());
        let stricter = policy_of(&document(profile, &stricter), &who());
        let pattern = Pattern::of(&further);
        for place in names::PLACES {
            let verdict = policy.verdict(place.name);
            prop_assert_eq!(verdict.allowed, policy.allows(place.name));
            prop_assert_eq!(verdict.allowed, policy.steps(place.name).iter().all(|step| step.passes));
            prop_assert_eq!(&verdict, &again.verdict(place.name), "the same says the same");
            prop_assert_eq!(verdict.allowed, turned.allows(place.name), "{} depends on order", place.name);
            prop_assert!(verdict.allowed || !stricter.allows(place.name), "a deny gave {}", place.name);
            // Scope 3 is for runs that runs start.
            if pattern.fits(place.name) && (at != 3 || is_child) {
                prop_assert!(!stricter.allows(place.name), "{} is denied and allowed", place.name);
            }
            // Nothing that a scope denies is allowed by another one.
            for (idx, (_, deny)) in scopes.iter().enumerate().filter(|(idx, _)| *idx != 3 || is_child) {
                let is_denied = deny.iter().any(|text| Pattern::of(text).fits(place.name));
                prop_assert!(!is_denied || !verdict.allowed, "scope {idx} denies {}", place.name);
            }
        }
    }
}
