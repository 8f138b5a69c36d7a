use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::super::tests::Files;
use super::*;

fn patch(inner: &str) -> Value {
    json!({ "input": format!("*** Begin Patch\n{inner}\n*** End Patch") })
}

#[test]
fn does_all_of_it() {
    let bench = Files::new();
    bench.write("old.txt", "1\n");
    bench.write("a.txt", "one\r\ntwo\r\n");
    bench.write("b.sh", "x\n");
    fs::set_permissions(bench.path("b.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = bench
        .call(
            &TOOL,
            patch(
                "*** Add File: new/n.txt\n+fresh\n*** Delete File: old.txt\n*** Update File: a.txt\n@@\n one\n-two\n\
                 +2\n*** Update File: b.sh\n*** Move to: bin/c.sh\n@@\n-x\n+y",
            ),
        )
        .unwrap();
    assert_eq!(output.text, "Success. Updated the following files:\nA new/n.txt\nM a.txt\nM bin/c.sh\nD old.txt");
    let details = output.details.unwrap();
    let summary = json!({ "added": ["new/n.txt"], "modified": ["a.txt", "bin/c.sh"], "deleted": ["old.txt"] });
    assert_eq!(details["summary"], summary);
    assert!(details["diff"].as_str().unwrap().contains("a.txt:\n 1 one\n-2 two\n+2 2\n"), "{details}");
    assert_eq!((bench.read("a.txt"), bench.read("new/n.txt")), ("one\r\n2\r\n".to_owned(), "fresh\n".to_owned()));
    assert!(!bench.path("old.txt").exists() && !bench.path("b.sh").exists());
    assert_eq!(fs::metadata(bench.path("bin/c.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(bench.state().join("changes")).unwrap().count(), 0);
}

#[test]
fn sections_build_on_each_other() {
    let bench = Files::new();
    bench.write("a", "1\n2\n");
    let output = bench
        .call(
            &TOOL,
            patch(
                "*** Update File: a\n-1\n+x\n*** Update File: a\n-2\n+y\n*** Add File: b\n+b\n*** Update File: b\n-b\n\
                 +c\n*** Delete File: b\n*** Add File: d\n+d\n*** Update File: d\n*** Move to: e",
            ),
        )
        .unwrap();
    assert_eq!(output.text, "Success. Updated the following files:\nM a\nM e");
    assert_eq!((bench.read("a"), bench.read("e")), ("x\ny\n".to_owned(), "d\n".to_owned()));
    assert!(!bench.path("b").exists() && !bench.path("d").exists());
    let output = bench.call(&TOOL, patch("*** Update File: a\n@@\n-x\n+x")).unwrap();
    assert_eq!(output.text, "No changes made to a.");
    bench.call(&TOOL, patch("*** Delete File: a\n*** Add File: a\n+again")).unwrap();
    assert_eq!(bench.read("a"), "again\n");
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let bench = Files::new();
    bench.write("a", "1\n");
    bench.write("bin", [0, 1]);
    fs::write(bench.beside("victim"), "mine").unwrap();
    symlink(bench.beside("victim"), bench.path("out")).unwrap();
    symlink("a", bench.path("link")).unwrap();
    let good = "*** Add File: new\n+x\n*** Update File: a\n@@\n-1\n+2\n";
    for (bad, words) in [
        ("*** Update File: a\n@@\n-nope", "a: the lines of change 1 are not there"),
        ("*** Update File: none\n@@\n-x", "none is not there"),
        ("*** Delete File: none", "none is not there"),
        ("*** Delete File: link", "link is a symbolic link"),
        ("*** Update File: link\n*** Move to: b", "link is a symbolic link"),
        ("*** Add File: bin\n+x", "bin is there already"),
        ("*** Update File: a\n*** Move to: bin\n", "bin is there already"),
        ("*** Update File: bin\n@@\n-x", "bin is no text"),
        ("*** Add File: ../x\n+x", "../x is outside of the workspace"),
        ("*** Add File: out\n+x", "out is outside of the workspace"),
        ("*** Delete File: ../beside/victim", "is outside of the workspace"),
        ("*** Update File: a\n*** Move to: ../x\n", "../x is outside of the workspace"),
        ("*** Add File: /etc/x\n+x", "/etc/x is outside of the workspace"),
        ("*** Add File: a/b\n+x", "a/b cannot be used: not a directory"),
        ("*** What", "expected *** Add File"),
    ] {
        bench.refuses(&TOOL, patch(&format!("{good}{bad}")), words);
        assert!(!bench.path("new").exists() && bench.read("a") == "1\n", "{bad}");
    }
    bench.refuses(&TOOL, json!({ "input": "" }), "patch must start with *** Begin Patch");
    bench.refuses(&TOOL, json!({}), "must have required property 'input'");
    assert_eq!(fs::read_to_string(bench.beside("victim")).unwrap(), "mine");
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_not_do_it() {
    let bench = Files::new();
    bench.write("a", "1\n");
    let mut arguments = patch("*** Update File: a\n@@\n-1\n+2\n*** Add File: b\n+x");
    arguments["dryRun"] = json!(true);
    let output = bench.call(&TOOL, arguments).unwrap();
    assert_eq!(output.text, "The patch fits. It would update the following files:\nA b\nM a");
    assert_eq!(output.details.unwrap()["dryRun"], true);
    assert!(bench.read("a") == "1\n" && !bench.path("b").exists());
}

#[test]
fn leaves_the_workspace_only_when_both_settings_say_so() {
    for (fs_only, patch_only, is_free) in
        [(true, true, false), (true, false, false), (false, true, false), (false, false, true)]
    {
        let bench = Files::configured(json!({
            "tools": { "fs": { "workspaceOnly": fs_only }, "exec": { "applyPatch": { "workspaceOnly": patch_only } } }
        }));
        let path = bench.beside("new");
        let done = bench.call(&TOOL, patch(&format!("*** Add File: {}\n+x", path.display())));
        assert_eq!((done.is_ok(), path.exists()), (is_free, is_free), "{fs_only} {patch_only}");
        // The gateway's own files stay closed.
        let own = bench.state().join("openclaw.json");
        bench.refuses(
            &TOOL,
            patch(&format!("*** Delete File: {}", own.display())),
            if is_free { "belongs to the gateway itself" } else { "is outside" },
        );
    }
}

#[test]
fn what_is_judged_is_every_path_and_every_line_that_comes() {
    let bench = Files::new();
    bench.write("a", "1\n");
    let parts = bench.parts(
        &TOOL,
        patch(
            "*** Add File: x/../AGENTS.md\n+be kind\n*** Update File: a\n*** Move to: .git/hooks/pre-commit\n@@\n-1\n+run\n\
             *** Delete File: skills/s/SKILL.md",
        ),
    );
    assert_eq!(parts.writes, ["AGENTS.md", "a", ".git/hooks/pre-commit", "skills/s/SKILL.md"]);
    assert_eq!(parts.prompt.as_deref(), Some("be kind\n"));
    assert!(parts.file.unwrap().contains("run"));
}

#[test]
fn files_together_are_bounded() {
    let bench = Files::new();
    let n_files = 5;
    for n in 0..n_files {
        bench.write(&format!("f{n}"), format!("begin\n{}", format!("{}\n", "x".repeat(1023)).repeat(7 * 1024)));
    }
    let inner: String = (0..n_files).map(|n| format!("*** Update File: f{n}\n@@\n-begin\n+end\n")).collect();
    bench.refuses(&TOOL, patch(&inner), "more than 67108864 bytes together");
    assert!(bench.read("f0").starts_with("begin"));
}
