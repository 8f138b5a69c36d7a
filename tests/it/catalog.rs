//! The models and agents that are configured, as clients see and change them.

use serde_json::json;

use crate::harness::Server;
use crate::harness::connect::{ConnectOptions, Proto};

#[test]
fn a_published_catalogue_is_promised_and_kept() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");

    let promised = ann.hello["features"]["capabilities"].as_array().unwrap();
    assert!(promised.contains(&json!("published-model-catalog")), "{promised:?}");

    let asked = json!({ "view": "all", "provider": "STUB", "includeDetails": true, "refresh": true });
    let answer = ann.call("models.list", asked).expect_ok();
    let row = &answer["models"][0];
    assert_eq!(answer["models"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!((&row["id"], &row["available"], &row["local"]), (&json!("test-model"), &json!(true), &json!(true)));
    assert_eq!(row["input"], json!(["text"]));

    ann.call("models.list", json!({ "provider": "nobodys" }))
        .expect_err("INVALID_REQUEST")
        .message_starts("unknown model catalog provider \"nobodys\"");
    for forbidden in
        [json!({ "refresh": true, "preparedOnly": true }), json!({ "sessionKey": "a", "authProfileId": "b" })]
    {
        ann.call("models.list", forbidden)
            .expect_err("INVALID_REQUEST")
            .message("invalid models.list params: must not be valid");
    }
    ann.call("models.list", json!({ "agentId": "ghost" }))
        .expect_err("INVALID_REQUEST")
        .message("unknown agent id \"ghost\"");
    ann.call("models.list", json!({ "sessionKey": "agent:main:x", "agentId": "ghost" })).expect_err("INVALID_REQUEST");
}

#[test]
fn a_model_without_a_key_is_listed_as_lacking_one() {
    let provider = json!({
        "baseUrl": "https://api.example.com/v1", "apiKey": { "source": "env", "id": "NOBODY_SET_THIS_KEY" },
        "models": [{ "id": "far" }],
    });
    let server = Server::with().model().config(&json!({ "models": { "providers": { "far": provider } } })).start();
    let ann = server.operator("ann");

    let models = ann.call("models.list", json!({ "provider": "far" })).expect_ok();
    assert_eq!(models["models"][0]["available"], false, "{models}");
    assert_eq!(models["models"][0]["unavailableReason"], "missing-auth", "{models}");

    let status = ann.call("models.authStatus", json!({})).expect_ok();
    let known: Vec<_> = status["providers"].as_array().unwrap().iter().map(|row| &row["provider"]).collect();
    assert_eq!(known, ["stub"], "only who has a key: {status}");
    assert_eq!(status["providers"][0]["apiKey"], json!({ "source": "config" }));
    assert!(!status.to_string().contains("stub-key"), "{status}");
    ann.call("models.authStatus", json!({ "agentId": "ghost" }))
        .expect_err("INVALID_REQUEST")
        .detail("/code", "UNKNOWN_AGENT_ID");
}

#[test]
fn an_agent_is_listed_with_the_model_it_inherits() {
    let agents = json!({ "agents": { "entries": { "main": {}, "ops": { "model": { "primary": "stub/other" } } } } });
    let server = Server::with().model().config(&agents).start();
    let ann = server.operator("ann");

    let agents = ann.call("agents.list", json!({})).expect_ok();
    let models: Vec<_> = agents["agents"].as_array().unwrap().iter().map(|row| &row["model"]["primary"]).collect();
    assert_eq!(models, ["stub/test-model", "stub/other"], "{agents}");

    // A gateway without a model says so, and the Control UI asks for one.
    let bare = Server::start();
    let agents = bare.operator("ann").call("agents.list", json!({})).expect_ok();
    assert_eq!(agents["agents"][0]["model"], json!({}), "{agents}");
}

#[test]
fn an_identity_is_told_of_anyone_but_not_under_anothers_session() {
    let server = Server::start();
    let ann = server.operator("ann");
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("old"));

    for client in [&ann, &old] {
        let ghost = client.call("agent.identity.get", json!({ "agentId": "ghost" })).expect_ok();
        assert_eq!((&ghost["agentId"], &ghost["name"]), (&json!("ghost"), &json!("Assistant")));
    }
    let mixed = json!({ "agentId": "ghost", "sessionKey": "agent:main:x" });
    ann.call("agent.identity.get", mixed.clone()).expect_err("INVALID_REQUEST").message("Unknown agent id \"ghost\"");
    old.call("agent.identity.get", mixed)
        .expect_err("INVALID_REQUEST")
        .message("invalid agent.identity.get params: agent \"ghost\" does not match session key agent \"main\"");
}

/// Writes into a workspace behind the gateway's back.
fn workspace(server: &Server) -> std::path::PathBuf {
    let path = server.state_dir().join("workspace");
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn an_agent_is_made_changed_and_removed_on_both_protocols() {
    for proto in [Proto::V3, Proto::V4] {
        let server = Server::with().model().start();
        let ann = server.client("ann", proto, &ConnectOptions::operator("ann"));
        let home = server.state_dir().join("homes/bea");

        let made = ann.call("agents.create", json!({ "name": "Bea  B", "workspace": home, "emoji": "🐝" })).expect_ok();
        assert_eq!((&made["agentId"], &made["name"]), (&json!("bea-b"), &json!("Bea B")), "{made}");
        assert!(home.is_dir(), "it has somewhere to work");
        ann.call("agents.create", json!({ "name": "bea b", "workspace": home }))
            .expect_err("INVALID_REQUEST")
            .message("agent \"bea-b\" already exists");

        let listed = ann.call("agents.list", json!({})).expect_ok();
        let ids: Vec<_> = listed["agents"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
        assert_eq!(ids, ["main", "bea-b"], "the agent that was there without being written stays: {listed}");
        assert_eq!((&listed["defaultId"], &listed["agents"][1]["identity"]["emoji"]), (&json!("main"), &json!("🐝")));

        ann.call("agents.update", json!({ "agentId": "bea-b", "name": "Beatrice", "model": "stub/other" })).expect_ok();
        let identity = ann.call("agent.identity.get", json!({ "agentId": "bea-b" })).expect_ok();
        assert_eq!((&identity["name"], &identity["emoji"]), (&json!("Beatrice"), &json!("🐝")));
        let document = std::fs::read_to_string(server.state_dir().join("openclaw.json")).unwrap();
        assert!(document.contains("stub/other") && document.contains(Server::TOKEN), "{document}");

        let key = "agent:bea-b:main";
        let hello = json!({ "sessionKey": key, "message": "hello", "idempotencyKey": "to-bea" });
        ann.call("chat.send", hello).expect_ok();
        std::fs::write(home.join("notes.txt"), "kept").unwrap();

        let gone = ann.call("agents.delete", json!({ "agentId": "bea-b" })).expect_ok();
        assert_eq!(gone["removedBindings"], 0);
        if proto == Proto::V4 {
            assert_eq!(gone["removed"], json!([{ "path": home, "method": "trash" }]), "{gone}");
        }
        assert!(!home.exists());
        let trash = std::fs::read_dir(server.state_dir().join("trash")).unwrap().next().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(trash.path().join("notes.txt")).unwrap(), "kept");
        let sessions = ann.call("sessions.list", json!({})).expect_ok();
        assert!(!sessions["sessions"].to_string().contains(key), "{sessions}");
        ann.call("agents.delete", json!({ "agentId": "bea-b" }))
            .expect_err("INVALID_REQUEST")
            .message("agent \"bea-b\" not found");
        ann.call("agents.update", json!({ "agentId": "bea-b", "name": "Bea" }))
            .expect_err("INVALID_REQUEST")
            .message("agent \"bea-b\" not found");
    }
}

#[test]
fn an_agent_goes_from_a_list_with_the_rules_that_lead_to_it_and_leaves_what_others_use() {
    let list =
        json!([{ "id": "main", "workspace": "shared" }, { "id": "ops", "workspace": "shared" }, { "id": "log" }]);
    let bindings = json!([
        { "agentId": "ops", "match": { "channel": "telegram" } },
        { "agentId": "log", "match": { "channel": "irc" } },
    ]);
    let server = Server::with().config(&json!({ "agents": { "list": list }, "bindings": bindings })).start();
    let ann = server.operator("ann");
    let shared = server.state_dir().join("shared");
    std::fs::create_dir(&shared).unwrap();

    let gone = ann.call("agents.delete", json!({ "agentId": "ops" })).expect_ok();

    assert_eq!((&gone["removedBindings"], &gone["removed"]), (&json!(1), &json!([])), "{gone}");
    assert_eq!(gone["failed"][0]["reason"], "agent \"main\" works there too", "{gone}");
    assert!(shared.is_dir());
    let config = ann.call("config.get", json!({})).expect_ok();
    let text = config["config"].to_string();
    assert!(!text.contains("\"ops\"") && text.contains("\"irc\"") && text.contains("\"log\""), "{text}");
    // Where the gateway itself lives is never put away either.
    let state = server.state_dir();
    ann.call("agents.update", json!({ "agentId": "log", "workspace": state })).expect_ok();
    let gone = ann.call("agents.delete", json!({ "agentId": "log" })).expect_ok();
    assert_eq!(gone["removed"], json!([]), "{gone}");
    assert!(state.join("openclaw.json").exists());
    // Where nobody chose, it is a folder of its own in the default workspace, and goes without the rest.
    let made = ann.call("agents.create", json!({ "name": "tmp" })).expect_ok();
    let own = std::path::PathBuf::from(made["workspace"].as_str().unwrap());
    assert_eq!(own, state.join("workspace/tmp"));
    let gone = ann.call("agents.delete", json!({ "agentId": "tmp" })).expect_ok();
    assert_eq!(gone["removed"][0]["method"], "trash", "{gone}");
    assert!(state.join("workspace").is_dir());
    // And who is asked to leave the files, leaves them.
    let made = ann.call("agents.create", json!({ "name": "tmp" })).expect_ok();
    let gone = ann.call("agents.delete", json!({ "agentId": "tmp", "deleteFiles": false })).expect_ok();
    assert_eq!(gone["removed"], json!([]));
    assert!(std::path::Path::new(made["workspace"].as_str().unwrap()).is_dir());
}

#[test]
fn an_agent_is_refused_under_a_name_that_makes_no_id() {
    let server = Server::start();
    let (new, old) = (server.operator("new"), server.client("old", Proto::V3, &ConnectOptions::operator("old")));
    let named = |name: &str| json!({ "name": name, "workspace": "/nowhere/at/all" });

    new.call("agents.create", named("!!!"))
        .expect_err("INVALID_REQUEST")
        .message("Agent name \"!!!\" has no valid id characters. Use at least one letter a-z or digit.");
    new.call("agents.create", named("main")).expect_err("INVALID_REQUEST").message("agent \"main\" already exists");
    old.call("agents.create", named("main")).expect_err("INVALID_REQUEST").message("\"main\" is reserved");
    old.call("agents.create", json!({})).expect_err("INVALID_REQUEST").message(
        "invalid agents.create params: must have required property 'name'; must have required property 'workspace'",
    );
    old.call("agents.delete", json!({ "agentId": "main" }))
        .expect_err("INVALID_REQUEST")
        .message("\"main\" cannot be deleted");
    for relative in ["here", "../up", "~ann/x"] {
        new.call("agents.create", json!({ "name": "x", "workspace": relative })).expect_err("INVALID_REQUEST");
    }
    new.call("agents.create", named(&"n".repeat(257)))
        .expect_err("INVALID_REQUEST")
        .message_starts("agent name is longer");
}

#[test]
fn there_is_a_last_agent() {
    // `roster::AGENTS_MAX`.
    let entries: serde_json::Map<_, _> = (0..255).map(|n| (format!("a{n}"), json!({}))).collect();
    let server = Server::with().config(&json!({ "agents": { "entries": entries } })).start();
    let ann = server.operator("ann");
    ann.call("agents.create", json!({ "name": "last" })).expect_ok();
    ann.call("agents.create", json!({ "name": "over" }))
        .expect_err("INVALID_REQUEST")
        .message("there are 256 agents already");
}

#[test]
fn a_document_is_written_whole_and_read_as_it_was() {
    let server = Server::start();
    let (new, old) = (server.operator("new"), server.client("old", Proto::V3, &ConnectOptions::operator("old")));
    let soul = |content: &str| json!({ "agentId": "main", "name": "SOUL.md", "content": content });

    let missing = new.call("agents.files.get", json!({ "agentId": "main", "name": "SOUL.md" })).expect_ok();
    assert_eq!((&missing["file"]["missing"], &missing["file"]["expectedAbsent"]), (&json!(true), &json!(true)));
    let written = new.call("agents.files.set", soul("be kind\n")).expect_ok();
    let seen = new.call("agents.files.get", json!({ "agentId": "main", "name": "SOUL.md" })).expect_ok();
    assert_eq!(seen["file"], written["file"]);
    assert_eq!((&seen["file"]["content"], &seen["file"]["size"]), (&json!("be kind\n"), &json!(8)));
    let seen = old.call("agents.files.get", json!({ "agentId": "main", "name": "SOUL.md" })).expect_ok();
    assert!(seen["file"].get("hash").is_none(), "protocol 3 closes the entry: {seen}");

    // Who saw an older one is told.
    let hash = written["file"]["hash"].as_str().unwrap();
    old.call("agents.files.set", soul("be quick\n")).expect_ok();
    let mut stale = soul("be slow\n");
    stale["expectedHash"] = json!(hash);
    let refusal = new.call("agents.files.set", stale.clone()).expect_err("INVALID_REQUEST");
    refusal.message("agent file \"SOUL.md\" changed since it was read").detail("/type", "agent_file_conflict");
    stale["expectedHash"] = json!("nonsense");
    new.call("agents.files.set", stale).expect_err("INVALID_REQUEST");

    // Each protocol lists its own documents.
    let names = |client: &crate::harness::Client| {
        let listed = client.call("agents.files.list", json!({ "agentId": "main" })).expect_ok();
        let rows = listed["files"].as_array().unwrap().clone();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&new), ["AGENTS.md", "SOUL.md", "USER.md", "BOOTSTRAP.md", "MEMORY.md"]);
    assert_eq!(names(&old).len(), 8);
    std::fs::write(workspace(&server).join("memory.md"), "old").unwrap();
    assert_eq!(names(&old).last().unwrap(), "memory.md");

    new.call("agents.files.set", soul(&"x".repeat(2 * 1024 * 1024))).expect_ok();
    new.call("agents.files.set", soul(&"x".repeat(2 * 1024 * 1024 + 1)))
        .expect_err("INVALID_REQUEST")
        .message("workspace file \"SOUL.md\" is larger than 2097152 bytes");
}

#[test]
fn no_document_leads_out_of_the_workspace() {
    let server = Server::start();
    let ann = server.operator("ann");
    let home = workspace(&server);
    let secret = server.state_dir().join("openclaw.json");
    std::os::unix::fs::symlink(&secret, home.join("USER.md")).unwrap();
    std::fs::hard_link(&secret, home.join("MEMORY.md")).unwrap();
    std::fs::create_dir(home.join("AGENTS.md")).unwrap();
    let before = std::fs::read_to_string(&secret).unwrap();

    for name in ["USER.md", "MEMORY.md", "AGENTS.md"] {
        let unsafe_file = format!("unsafe workspace file \"{name}\"");
        let of = json!({ "agentId": "main", "name": name });
        ann.call("agents.files.get", of.clone()).expect_err("INVALID_REQUEST").message(&unsafe_file);
        let mut write = of;
        write["content"] = json!("{}");
        ann.call("agents.files.set", write).expect_err("INVALID_REQUEST").message(&unsafe_file);
        ann.call("agents.workspace.get", json!({ "agentId": "main", "path": name })).expect_err("INVALID_REQUEST");
    }
    for name in ["../openclaw.json", "openclaw.json", "/etc/passwd", "SOUL.md/../../openclaw.json", "soul.md"] {
        ann.call("agents.files.get", json!({ "agentId": "main", "name": name }))
            .expect_err("INVALID_REQUEST")
            .message_starts("unsupported file");
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), before);
    let listed = ann.call("agents.files.list", json!({ "agentId": "main" })).expect_ok();
    assert!(listed["files"].as_array().unwrap().iter().all(|row| row["missing"] == true), "{listed}");
}

#[test]
fn a_workspace_is_looked_at_page_by_page_and_never_from_outside() {
    let server = Server::start();
    let ann = server.operator("ann");
    let home = workspace(&server);
    std::fs::create_dir_all(home.join("src/deep")).unwrap();
    std::fs::write(home.join("src/b.txt"), "text").unwrap();
    std::fs::write(home.join("src/a.png"), b"\x89PNG\r\n\x1a\n....").unwrap();
    std::fs::write(home.join("src/raw.txt"), b"\xff\xfe").unwrap();
    std::fs::write(home.join("src/big.txt"), vec![b'x'; 256 * 1024 + 1]).unwrap();
    std::os::unix::fs::symlink("/etc", home.join("src/etc")).unwrap();
    let list = |more: serde_json::Value| {
        let mut params = json!({ "agentId": "main" });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ann.call("agents.workspace.list", params)
    };
    let get = |path: &str| ann.call("agents.workspace.get", json!({ "agentId": "main", "path": path }));

    let page = list(json!({ "path": "src/", "limit": 2 })).expect_ok();
    let names: Vec<_> = page["entries"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["src/deep", "src/a.png"], "{page}");
    assert_eq!((&page["totalEntries"], &page["parentPath"]), (&json!(5), &json!("")), "links are not there: {page}");
    let rest = list(json!({ "path": "src", "offset": 4 })).expect_ok();
    assert_eq!(rest["entries"][0]["name"], "raw.txt", "{rest}");

    assert_eq!(get("src/b.txt").expect_ok()["file"]["content"], "text");
    assert_eq!(get("src/a.png").expect_ok()["file"]["mimeType"], "image/png");
    let why = |path: &str, kind: &str| drop(get(path).expect_err("INVALID_REQUEST").detail("/type", kind));
    why("src/raw.txt", "workspace_file_unsupported");
    why("src/big.txt", "workspace_file_too_large");
    why("src/etc/passwd", "workspace_file_not_found");
    why("src", "workspace_file_not_found");
    why("../openclaw.json", "workspace_path_invalid");
    why("/etc/passwd", "workspace_path_invalid");
    for n in 0..501 {
        std::fs::write(home.join(format!("src/deep/{n}")), "").unwrap();
    }
    let page = list(json!({ "path": "src/deep", "limit": 1000 })).expect_ok();
    assert_eq!((page["entries"].as_array().unwrap().len(), &page["totalEntries"]), (500, &json!(501)));
    list(json!({ "path": "src/etc" })).expect_err("INVALID_REQUEST").message("workspace directory not found");
    ann.call("agents.workspace.list", json!({ "agentId": "ghost" }))
        .expect_err("INVALID_REQUEST")
        .message("agent \"ghost\" not found");
}

#[test]
fn a_built_in_provider_is_known_by_a_key_that_is_elsewhere() {
    let config = json!({ "keys": { "groq_api_keys": ["list-key-one", "list-key-two"] } });
    let server = Server::with().model().config(&config).env("OPENAI_API_KEY", "environment-key").start();
    let ann = server.operator("ann");

    let models = ann.call("models.list", json!({ "provider": "openai" })).expect_ok();
    let rows = models["models"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["available"] == true), "{models}");
    let status = ann.call("models.authStatus", json!({})).expect_ok();
    let of = |id: &str| status["providers"].as_array().unwrap().iter().find(|row| row["provider"] == id).cloned();
    assert_eq!(of("openai").unwrap()["apiKey"], json!({ "source": "env", "envVar": "OPENAI_API_KEY" }));
    let groq = of("groq").unwrap();
    let profiles: Vec<_> = groq["profiles"].as_array().unwrap().iter().map(|row| &row["profileId"]).collect();
    assert_eq!(profiles, ["groq:key-1", "groq:key-2"]);
    for secret in ["environment-key", "list-key"] {
        assert!(!status.to_string().contains(secret), "{status}");
    }
}
