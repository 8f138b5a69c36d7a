use serde_json::json;

use super::*;
use crate::agent::run::Approval as Wanted;
use crate::gateway::stage::Stage;
use crate::tools::exec_policy::document::Document;

fn row(id: &str, created_ms: i64) -> Approval {
    let record = Record {
        request: Value::Null,
        decisions: Decision::ALL.to_vec(),
        asker: Asker::default(),
        audience: Vec::new(),
        bound: None,
    };
    let row = ApprovalRow {
        id: id.to_owned(),
        kind: "exec".to_owned(),
        created_ms,
        expires_ms: created_ms + 100,
        record: serde_json::to_string(&record).unwrap(),
        end: None,
        used_ms: None,
    };
    Approval::of_row(&row).unwrap()
}

fn end(at_ms: i64) -> End {
    End {
        decision: Some(Decision::AllowOnce),
        reason: Reason::User,
        by: Some("ann".to_owned()),
        resolver: ("device".to_owned(), None),
        at_ms,
    }
}

fn call(n: u64, form: Form) -> Waiter {
    Waiter::Call(ConnId(n), "r".to_owned(), form)
}

#[test]
fn an_approval_has_one_end_and_everybody_who_waits_hears_it() {
    let mut approvals = Approvals::default();
    let form = Form::Request { two_phase: false, is_silent: false };
    approvals.reserve(("a", Kind::Exec), (0, 100), Some(ConnId(1)), Some(call(1, form))).unwrap();
    assert!(!approvals.ending("a"), "nobody was told of it yet");
    assert_eq!(approvals.reserve(("a", Kind::Exec), (0, 100), None, None), Err(Refusal::Taken));
    approvals.entered(row("a", 0));
    assert_eq!(approvals.get("a").unwrap().asker_conn, Some(ConnId(1)));
    assert!(approvals.wait("a", call(2, Form::Wait), |_| true));
    assert!(approvals.ending("a") && !approvals.ending("a"), "one answer is written at a time");
    assert_eq!(approvals.ended("a", end(5)).unwrap().len(), 2);
    assert!(approvals.ended("a", end(6)).is_none(), "no second end");
    assert_eq!(approvals.get("a").unwrap().end().unwrap().at_ms, 5);
    approvals.check_invariants();
}

#[test]
fn an_end_that_cannot_be_written_leaves_it_open() {
    let mut approvals = Approvals::default();
    approvals.entered(row("a", 0));
    approvals.wait("a", call(1, Form::Wait), |_| true);
    approvals.ending("a");
    approvals.wait("a", call(2, Form::Resolve { decision: Decision::Deny, decides: false }), |_| true);
    assert_eq!(approvals.not_ended("a", 7).len(), 1, "who answered hears of it, who waits goes on");
    assert!(approvals.get("a").unwrap().is_open());
    assert_eq!(approvals.next_due_ms(), Some(7 + RETRY_MS));
}

#[test]
fn time_ends_what_nobody_answers_and_forgets_what_ended() {
    let mut approvals = Approvals::load(vec![row("a", 0), row("b", 50)]);
    assert_eq!(approvals.next_due_ms(), Some(100));
    assert!(approvals.overdue(99).is_empty());
    assert_eq!(approvals.overdue(100), [Due::Expired("a".to_owned())]);
    approvals.ending("a");
    approvals.ended("a", End::of_system(Reason::Timeout, 100));
    assert_eq!(approvals.next_due_ms(), Some(150));
    assert_eq!(approvals.overdue(100 + ENDED_KEPT_MS - 1), [Due::Expired("b".to_owned())]);
    assert!(approvals.get("a").is_some(), "an end can be read for a while");
    approvals.overdue(100 + ENDED_KEPT_MS);
    assert!(approvals.get("a").is_none());
}

#[test]
fn approvals_and_who_waits_for_them_are_bounded() {
    let mut approvals = Approvals::default();
    for n in 0..APPROVALS_MAX {
        approvals.reserve((&n.to_string(), Kind::Exec), (0, 1), None, None).unwrap();
    }
    assert_eq!(approvals.reserve(("more", Kind::Exec), (0, 1), None, None), Err(Refusal::Full));
    let mut approvals = Approvals::default();
    let large = Approval { bytes: APPROVAL_BYTES_MAX, ..row("large", 0) };
    approvals.entered(large);
    assert_eq!(approvals.reserve(("more", Kind::Exec), (0, 1), None, None), Err(Refusal::Full));
    for n in 0..APPROVAL_WAITERS_MAX {
        assert!(approvals.wait("large", call(n as u64, Form::Wait), |_| true));
    }
    assert!(!approvals.wait("large", call(99, Form::Wait), |_| true));
    assert!(approvals.wait("large", call(99, Form::Wait), |conn| conn != ConnId(3)), "one had gone");
}

#[test]
fn only_a_person_says_yes() {
    for reason in [Reason::NoRoute, Reason::Timeout, Reason::RunAborted] {
        assert_ne!(End::of_system(reason, 0).permission(), Permission::Granted);
    }
    assert_eq!(end(0).permission(), Permission::Granted);
    assert_eq!(End { decision: Some(Decision::Deny), ..end(0) }.status(), "denied");
}

fn wanted(digest: &str) -> Wanted {
    Wanted {
        key: "run:step:1:call:0".to_owned(),
        agent: "main".to_owned(),
        call_id: "call".to_owned(),
        command: "rm\u{200b} x TOKEN=ghp_abcdefghijklmnopqrstuvwxyz0123456789".to_owned(),
        program: Some("/usr/bin/rm".to_owned()),
        cwd: Some("/work".to_owned()),
        host: "gateway",
        security: Some("allowlist"),
        ask: Some("on-miss"),
        env_names: vec!["A".to_owned()],
        why: Some("because".to_owned()),
        digest: digest.to_owned(),
        may_always: true,
    }
}

#[test]
fn a_yes_is_to_exactly_what_was_asked_and_is_used_once() {
    let mut stage = Stage::new(&json!({}));
    let dir = stage.dir().to_owned();
    let run = flow::AskingRun::for_tests(Arc::clone(&stage.core.rules));
    let mut begin = |digest: &str| {
        let wanted = wanted(digest);
        stage.database.write(|db| flow::begin_for_run(db, (&wanted, &run), (10, 20))).unwrap()
    };
    let flow::Begun::Open(approval) = begin("d1") else { panic!("it is asked") };
    let request = &approval.record.request;
    let shown = request["command"].as_str().unwrap();
    assert!(shown.starts_with("rm\\u{200B} x") && !shown.contains("ghp_"), "{shown}");
    for (name, value) in [("resolvedPath", "/usr/bin/rm"), ("agentId", "main"), ("host", "gateway"), ("cwd", "/work")] {
        assert_eq!(request[name], value, "{name}");
    }
    assert!(matches!(begin("d1"), flow::Begun::Open(_)), "asked again, it is the same question");
    assert!(matches!(begin("d2"), flow::Begun::Answered(Permission::Changed)));
    let yes = End { decision: Some(Decision::AllowAlways), ..end(15) };
    let no = End { decision: Some(Decision::Deny), ..end(16) };
    let ended = stage.database.write(|db| flow::settle(db, &approval.id, &yes, &dir)).unwrap();
    assert_eq!(ended, yes);
    let second = stage.database.write(|db| flow::settle(db, &approval.id, &no, &dir)).unwrap();
    assert_eq!(second, yes, "the first answer stands");
    let mut begin = |digest: &str| {
        let wanted = wanted(digest);
        stage.database.write(|db| flow::begin_for_run(db, (&wanted, &run), (10, 20))).unwrap()
    };
    assert!(matches!(begin("d2"), flow::Begun::Answered(Permission::Changed)), "nothing else runs under it");
    assert!(matches!(begin("d1"), flow::Begun::Answered(Permission::Granted)));
    assert!(matches!(begin("d1"), flow::Begun::Answered(Permission::Used)));
    let document = stage.database.write(|db| Document::load(db, &dir)).unwrap();
    assert!(document.entries("main").any(|entry| entry.is_bound_to("d1") && entry.id == approval.id));
    assert!(!document.entries("main").any(|entry| entry.is_bound_to("d2")));
    assert_eq!(document.entries("other").count(), 0);
}
