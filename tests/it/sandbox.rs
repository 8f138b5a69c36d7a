//! Sandboxes: that they hold, that each way out is one where nothing holds it, and what they cost.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use openclaw_rs::tools::sandbox::kernel::Kernel;
use openclaw_rs::tools::sandbox::selftest::{self, Outcome, Row, SelfTestError};
use openclaw_rs::tools::sandbox::{Layers, SandboxError};
use serde_json::json;
use tempfile::TempDir;

use crate::exec::{Shop, runs, wait_until};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_openclaw-rs"))
}

fn outcomes(layers: Layers) -> BTreeMap<&'static str, Row> {
    let root = TempDir::new().unwrap();
    let rows = selftest::run_with(program(), root.path(), Kernel::get(), Some(layers)).expect("the attempts were made");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something of the stage was left behind");
    rows.into_iter().map(|row| (row.name, row)).collect()
}

#[test]
fn no_way_out_of_a_sandbox_is_open() {
    let root = TempDir::new().unwrap();
    let rows = selftest::run(program(), root.path()).expect("the attempts were made");
    assert!(rows.len() >= 30, "{}", rows.len());
    let escaped: Vec<&Row> = rows.iter().filter(|row| row.outcome == Outcome::Escaped).collect();
    assert!(escaped.is_empty(), "{escaped:#?}");
}

/// For each attempt the layers that stand in its way are switched off, and it must get out: so it is an attempt, and
/// nothing else holds it by chance. What gets nowhere without any sandbox cannot be shown on this machine, and
/// is named aloud.
#[test]
fn every_way_out_is_one_when_what_holds_it_is_switched_off() {
    let bare = outcomes(Layers::NONE);
    let mut seen: Vec<(Layers, BTreeMap<&'static str, Row>)> = Vec::new();
    let (mut shown, mut wrong) = (0, Vec::new());
    for (name, held_by, needs_root) in selftest::attempts() {
        if bare[name].outcome != Outcome::Escaped {
            println!("NOT SHOWN on this machine: {name} (needs root: {needs_root}): {}", bare[name].saw);
            continue;
        }
        let layers = held_by.iter().fold(Layers::ALL, |layers, layer| layers.without(*layer));
        if !seen.iter().any(|(known, _)| *known == layers) {
            seen.push((layers, outcomes(layers)));
        }
        let row = &seen.iter().find(|(known, _)| *known == layers).expect("just made").1[name];
        match row.outcome {
            Outcome::Escaped => shown += 1,
            _ => wrong.push(format!("{name} is held by more than {held_by:?}: {}", row.saw)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // As an ordinary user fewer things can be done outside in the first place.
    assert!(shown >= 30, "only {shown} were shown");
}

/// Linux 5.4 has no Landlock: namespaces and the filter carry everything.
#[test]
fn a_sandbox_holds_without_landlock() {
    holds(Kernel { landlock_abi: 0, release: (5, 4), ..Kernel::get() });
}

/// In a container that allows no namespaces, Landlock and the filter do.
#[test]
fn a_sandbox_holds_without_namespaces() {
    let kernel = Kernel { user: false, mount: false, pid: false, proc: false, net: false, ipc: false, ..Kernel::get() };
    if kernel.landlock_abi < 6 {
        println!("NOT SHOWN on this machine: its Landlock keeps no signals in");
        return;
    }
    holds(kernel);
}

#[track_caller]
fn holds(kernel: Kernel) {
    let root = TempDir::new().unwrap();
    let rows = selftest::run_with(program(), root.path(), kernel, None).expect("the attempts were made");
    let escaped: Vec<&Row> = rows.iter().filter(|row| row.outcome == Outcome::Escaped).collect();
    assert!(escaped.is_empty(), "{escaped:#?}");
}

#[test]
fn without_anything_that_keeps_a_promise_there_is_no_sandbox() {
    let bare = Kernel { landlock_abi: 0, mount: false, ..Kernel::get() };
    let unfiltered = Kernel { seccomp_filter: false, ..Kernel::get() };
    for kernel in [bare, unfiltered] {
        let root = TempDir::new().unwrap();
        let refused = selftest::run_with(program(), root.path(), kernel, None);
        assert!(matches!(refused, Err(SelfTestError::Sandbox(SandboxError::Unavailable { .. }))), "{refused:?}");
    }
}

/// What an agent may ask for in these stories: the host, without a person who is asked.
fn shop_with_host() -> Shop {
    Shop::with(json!({ "tools": {
        "shell_policy": { "allow_elevated": true },
        "exec": { "host": "auto", "security": "full", "ask": "off" },
    } }))
}

#[test]
fn a_command_reads_no_state_and_reaches_no_network_and_an_elevated_one_does() {
    let shop = shop_with_host();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::fs::write(shop.server.state_dir().join("canary"), "canary-8d1f").unwrap();
    let state = shop.server.state_dir();
    let script = format!(
        "cat {0}/canary; ls -a {0}; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null && echo connected; \
         kill -0 {1} && echo signalled; echo made > made; pwd; exit 0",
        state.display(),
        shop.server.pid()
    );
    let held = shop.call("r1", "exec", json!({ "command": script }));
    for way_out in ["canary-8d1f", "openclaw.db", "connected", "signalled"] {
        assert!(!held.contains(way_out), "{way_out}: {held}");
    }
    let workspace = state.join("workspace").canonicalize().unwrap();
    assert!(held.contains(workspace.to_str().unwrap()), "{held}");
    assert_eq!(std::fs::read_to_string(workspace.join("made")).unwrap(), "made\n");

    let free = shop.call("r2", "exec", json!({ "command": script, "elevated": true }));
    for way in ["canary-8d1f", "signalled"] {
        assert!(free.contains(way), "{way}: {free}");
    }
    if Path::new("/bin/bash").exists() {
        assert!(free.contains("connected"), "{free}");
    } else {
        println!("NOT SHOWN on this machine: there is no bash to connect with");
    }
}

#[test]
fn what_a_command_keeps_in_tmp_is_there_for_the_next_one_and_for_nobody_else() {
    let shop = Shop::open();
    shop.call("r1", "exec", json!({ "command": "echo kept > /tmp/between; echo $HOME" }));
    assert!(shop.call("r2", "exec", json!({ "command": "cat /tmp/between" })).contains("kept"));
    assert!(!Path::new("/tmp/between").exists());
}

#[test]
fn a_sandbox_that_cannot_be_made_is_a_refusal_and_not_the_host() {
    let shop = Shop::with(json!({ "tools": { "shell_policy": { "sandbox_backend": "docker" } } }));
    let said = shop.call("r1", "exec", json!({ "command": "touch done" }));
    assert!(said.contains("sandbox_backend"), "{said}");
    assert!(!shop.server.state_dir().join("workspace/done").exists());
}

#[test]
fn however_the_gateway_ends_what_is_in_a_sandbox_ends() {
    let mut shop = Shop::open();
    shop.background("r1", json!({ "command": "setsid sleep 974.25 & sleep 974.25", "background": true }));
    wait_until("it runs", || runs("sleep 974.25"));
    shop.server.kill_and_restart();
    wait_until("it ends", || !runs("sleep 974.25"));
}
