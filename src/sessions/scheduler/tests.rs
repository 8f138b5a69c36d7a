use std::time::Duration;

use serde_json::json;

use super::rings::FOREGROUND_TURNS_MAX;
use super::session::QUIET_TIMES_MAX;
use super::*;

const LIMITS: Limits = Limits {
    workers: 8,
    lanes: [NESTED_RUNS_MAX, 4, 8, 1],
    pending_max: 256,
    lease: LEASE,
    run_time_max: Duration::from_secs(630),
};

const POLICY: Policy = Policy { mode: Mode::Followup, overflow: Overflow::Summarize, cap: 20, debounce_ms: 1000 };

fn key(name: &str) -> SessionKey {
    SessionKey::stored(format!("agent:main:{name}"))
}

/// Message number `id`, whose run is `r{id}`.
fn item(id: i64, session: &str, mode: Mode) -> Item {
    Item {
        id,
        run_id: format!("r{id}"),
        session: key(session),
        lane: RunLane::Main,
        policy: Policy { mode, ..POLICY },
        merge: Merge::Route("webchat".to_owned()),
        line: format!("message {id}"),
        begun: None,
        at_ms: id,
    }
}

fn alone(item: Item) -> Item {
    Item { merge: Merge::Alone, ..item }
}

fn in_lane(item: Item, lane: RunLane) -> Item {
    Item { lane, ..item }
}

/// A scheduler in which message 1 of session `a` is being answered.
fn busy() -> Scheduler {
    let mut scheduler = Scheduler::new(LIMITS);
    assert!(scheduler.reserve(&key("a"), RunLane::Main));
    let turn = scheduler.begin(item(1, "a", Mode::Followup), 0).expect("was reserved");
    assert_eq!(turn.run_id, "r1");
    scheduler
}

/// Effects in short: `drop r2 r3 superseded`, `interrupt r1`, `steer r1`, `queued 0`, `known`.
fn short(effects: &[Added]) -> Vec<String> {
    let word = |effect: &Added| match effect {
        Added::Dropped { which, why } => {
            let ids: Vec<&str> = which.iter().map(|item| item.run_id.as_str()).collect();
            format!("drop {} {}", ids.join(" "), why.as_str())
        }
        Added::Interrupts { run_id } => format!("interrupt {run_id}"),
        Added::Steers { run_id } => format!("steer {run_id}"),
        Added::Queued { ahead } => format!("queued {ahead}"),
        Added::Known => "known".to_owned(),
    };
    effects.iter().map(word).collect()
}

/// Ends what runs in `a` and lets turn after turn of it pass, at `now_ms`; the messages of each.
fn turns_of_a(scheduler: &mut Scheduler, now_ms: i64) -> Vec<Vec<i64>> {
    let mut turns = Vec::new();
    loop {
        if let Some(run_id) = scheduler.active_run(&key("a")).map(str::to_owned) {
            assert_eq!(scheduler.ended(&run_id), Some(key("a")));
        }
        let Some(turn) = scheduler.next(now_ms) else { return turns };
        turns.push(turn.items.iter().map(|item| item.id).collect());
    }
}

/// Messages 2, 3, … come to a busy session, each with its mode; what adding each does, and the turns afterwards.
#[track_caller]
fn check(arrivals: &[Item], effects: &[&[&str]], turns: &[&[i64]]) {
    let mut scheduler = busy();
    for (item, expected) in arrivals.iter().zip(effects) {
        assert_eq!(short(&scheduler.add(item.clone(), 10)), *expected, "adding {}", item.id);
    }
    assert_eq!(turns_of_a(&mut scheduler, 10_000), turns);
    assert_eq!(scheduler.counts(), Counts::default(), "nothing is left");
}

#[test]
fn followups_have_their_turns_in_order() {
    let of = |id| item(id, "a", Mode::Followup);
    check(&[of(2), of(3), of(4)], &[&["queued 0"], &["queued 1"], &["queued 2"]], &[&[2], &[3], &[4]]);
}

#[test]
fn a_message_whose_report_was_overtaken_still_stands_in_its_order() {
    let of = |id| item(id, "a", Mode::Followup);
    check(&[of(4), of(2), of(3)], &[&["queued 0"], &["queued 0"], &["queued 1"]], &[&[2], &[3], &[4]]);
}

#[test]
fn the_newest_steering_message_takes_the_place_of_the_one_before() {
    let of = |id| item(id, "a", Mode::Steer);
    check(
        &[of(2), of(3), item(4, "a", Mode::Followup), of(5)],
        &[
            &["steer r1", "queued 0"],
            &["drop r2 superseded", "steer r1", "queued 0"],
            &["queued 1"],
            &["drop r3 superseded", "steer r1", "queued 1"],
        ],
        &[&[4], &[5]],
    );
}

#[test]
fn what_is_more_than_words_is_not_put_into_a_run() {
    check(&[alone(item(2, "a", Mode::Steer))], &[&["queued 0"]], &[&[2]]);
}

#[test]
fn a_steering_message_that_the_run_took_has_no_turn() {
    let mut scheduler = busy();
    scheduler.add(item(2, "a", Mode::Steer), 0);
    assert_eq!(scheduler.answered_by("r2"), None);
    assert_eq!(scheduler.steered("r2").map(|item| item.id), Some(2));
    assert_eq!(scheduler.steered("r2"), None, "once");
    assert_eq!(scheduler.answered_by("r2"), Some("r1"));
    assert_eq!(short(&scheduler.add(item(2, "a", Mode::Steer), 0)), ["known"]);
    assert_eq!(scheduler.ended("r2"), None, "it has no end of its own");
    assert_eq!(turns_of_a(&mut scheduler, 0), Vec::<Vec<i64>>::new());
    assert_eq!(scheduler.session_of("r2"), None);
}

#[test]
fn a_steering_message_with_backlog_has_its_turn_all_the_same() {
    let mut scheduler = busy();
    for id in [2, 3] {
        let effects = scheduler.add(item(id, "a", Mode::SteerBacklog), 0);
        assert_eq!(short(&effects), ["steer r1".to_owned(), format!("queued {}", id - 2)]);
        assert_eq!(scheduler.steered(&format!("r{id}")), None, "it waits on");
    }
    assert_eq!(turns_of_a(&mut scheduler, 0), [[2], [3]]);
}

#[test]
fn messages_are_collected_up_to_one_that_must_stand_alone_or_goes_another_way() {
    let of = |id| item(id, "a", Mode::Collect);
    let elsewhere = |id| Item { merge: Merge::Route("telegram 7".to_owned()), ..of(id) };
    let arrivals =
        [of(2), of(3), alone(of(4)), of(5), elsewhere(6), elsewhere(7), of(8), item(9, "a", Mode::Followup), of(10)];
    let queued: Vec<String> = (0..arrivals.len()).map(|n| format!("queued {n}")).collect();
    let queued: Vec<[&str; 1]> = queued.iter().map(|text| [text.as_str()]).collect();
    let queued: Vec<&[&str]> = queued.iter().map(|list| list.as_slice()).collect();
    check(&arrivals, &queued, &[&[2, 3], &[4], &[5], &[6, 7], &[8], &[9], &[10]]);
}

#[test]
fn a_collected_turn_goes_by_the_newest_of_its_messages_and_answers_all() {
    let mut scheduler = busy();
    scheduler.add(item(2, "a", Mode::Collect), 0);
    scheduler.add(item(3, "a", Mode::Collect), 0);
    scheduler.ended("r1");
    let turn = scheduler.next(2_000).unwrap();
    assert_eq!(turn.run_id, "r3");
    assert_eq!(scheduler.answered_by("r2"), Some("r3"));
    assert_eq!(scheduler.ended("r2"), None);
    assert_eq!(scheduler.ended("r3"), Some(key("a")));
    assert_eq!(scheduler.ended("r3"), None, "a run ends once");
}

#[test]
fn a_turn_holds_so_many_messages_at_most() {
    let mut scheduler = busy();
    let cap = TURN_ITEMS_MAX + 1;
    for id in 0..cap as i64 {
        let of = item(2 + id, "a", Mode::Collect);
        scheduler.add(Item { policy: Policy { cap, ..of.policy }, ..of }, 0);
    }
    let turns = turns_of_a(&mut scheduler, 10_000);
    assert_eq!(turns.iter().map(Vec::len).collect::<Vec<_>>(), [TURN_ITEMS_MAX, 1]);
}

#[test]
fn an_interrupting_message_stops_the_run_and_what_waits() {
    let of = |id| item(id, "a", Mode::Interrupt);
    check(
        &[item(2, "a", Mode::Followup), item(3, "a", Mode::Steer), of(4), of(5)],
        &[
            &["queued 0"],
            &["steer r1", "queued 1"],
            &["drop r2 r3 interrupted", "interrupt r1", "queued 0"],
            // The run is told to stop once.
            &["drop r4 interrupted", "queued 0"],
        ],
        &[&[5]],
    );
}

#[test]
fn nothing_is_put_into_a_run_that_is_being_stopped() {
    let mut scheduler = busy();
    scheduler.stopping("r1", 0);
    assert_eq!(short(&scheduler.add(item(2, "a", Mode::Steer), 0)), ["queued 0"]);
}

#[track_caller]
fn check_full(overflow: Overflow, effect: &[&str], turns: &[&[i64]], summary: Option<&str>) {
    let mut scheduler = busy();
    let of = |id| {
        let item = item(id, "a", Mode::Followup);
        Item { policy: Policy { overflow, cap: 2, ..item.policy }, ..item }
    };
    for id in [2, 3] {
        assert_eq!(short(&scheduler.add(of(id), 0)), [format!("queued {}", id - 2)], "up to the cap there is room");
    }
    assert_eq!(short(&scheduler.add(of(4), 0)), effect);
    scheduler.ended("r1");
    let turn = scheduler.next(0).unwrap();
    assert_eq!(turn.dropped_summary.as_deref(), summary);
    let mut all = vec![turn.items.iter().map(|item| item.id).collect::<Vec<_>>()];
    all.extend(turns_of_a(&mut scheduler, 0));
    assert_eq!(all, turns);
}

#[test]
fn a_full_session_drops_as_it_is_told() {
    check_full(Overflow::New, &["drop r4 dropped_session_full"], &[&[2], &[3]], None);
    check_full(Overflow::Old, &["drop r2 dropped_session_full", "queued 1"], &[&[3], &[4]], None);
    let summary = "[1 message was left out because too many were waiting]\n- message 2";
    check_full(Overflow::Summarize, &["drop r2 dropped_summarized", "queued 1"], &[&[3], &[4]], Some(summary));
}

#[test]
fn the_next_turn_is_told_of_the_newest_that_were_left_out() {
    let mut scheduler = busy();
    let last = 2 + 20 + SUMMARY_LINES_MAX as i64 + 1;
    for id in 2..last {
        scheduler.add(item(id, "a", Mode::Followup), 0);
    }
    scheduler.ended("r1");
    let summary = scheduler.next(0).unwrap().dropped_summary.unwrap();
    assert!(summary.starts_with(&format!("[{} messages were left out", SUMMARY_LINES_MAX + 1)), "{summary}");
    assert_eq!(summary.lines().count(), 1 + SUMMARY_LINES_MAX);
    assert!(!summary.contains("message 2\n"), "the oldest is counted and not told: {summary}");
    assert!(summary.contains("- message 3\n"), "{summary}");
    scheduler.ended(&format!("r{}", last - 20));
    assert_eq!(scheduler.next(0).unwrap().dropped_summary, None, "told once");
}

#[test]
fn under_a_cap_of_16_a_blocked_first_and_16_of_24_more_are_delivered_in_order() {
    let mut scheduler = Scheduler::new(Limits { pending_max: 1, ..LIMITS });
    assert!(scheduler.reserve(&key("a"), RunLane::Main));
    scheduler.begin(item(1, "a", Mode::Followup), 0).unwrap();
    let mut delivered = vec![1];
    for id in 2..=24 {
        let effects = short(&scheduler.add(item(id, "a", Mode::Followup), 0));
        if id <= 17 {
            assert_eq!(effects, [format!("queued {}", id - 2)]);
        } else {
            assert_eq!(effects, [format!("drop r{id} dropped_capacity")], "never in silence");
        }
    }
    delivered.extend(turns_of_a(&mut scheduler, 0).into_iter().flatten());
    assert_eq!(delivered, (1..=17).collect::<Vec<_>>());
}

#[test]
fn without_room_in_all_nobody_gives_way_for_nothing() {
    let mut scheduler = busy();
    scheduler.set_limits(Limits { pending_max: PENDING_MIN, ..LIMITS });
    for id in 2..2 + PENDING_MIN as i64 {
        scheduler.restore(item(id, "b", Mode::Followup), 0);
    }
    scheduler.restore(item(90, "a", Mode::Followup), 0);
    let of = item(91, "a", Mode::Followup);
    let capped = Item { policy: Policy { cap: 1, ..of.policy }, ..of };
    assert_eq!(short(&scheduler.add(capped.clone(), 0)), ["drop r91 dropped_capacity"]);
    assert_eq!(scheduler.position("r90"), Some(0), "it did not give way to one that has no room");
    scheduler.set_limits(Limits { pending_max: PENDING_MIN + 1, ..LIMITS });
    assert_eq!(short(&scheduler.add(capped, 0)), ["drop r90 dropped_summarized", "queued 0"]);
}

#[test]
fn collected_messages_wait_for_silence_but_not_for_ever() {
    let mut scheduler = busy();
    for n in 0..3 {
        scheduler.add(item(2 + n, "a", Mode::Collect), 100 * n);
    }
    scheduler.ended("r1");
    assert_eq!(scheduler.deadline_ms(), Some(1_200), "a second after the last");
    assert_eq!(scheduler.next(1_199), None);
    assert!(scheduler.reserve(&key("b"), RunLane::Main), "nobody else waits for it");
    scheduler.release(&key("b"));
    for n in 3..12 {
        scheduler.add(item(2 + n, "a", Mode::Collect), 1_000 + 300 * (n - 3));
    }
    assert_eq!(scheduler.deadline_ms(), Some(QUIET_TIMES_MAX * 1_000));
    assert_eq!(scheduler.next(3_999), None);
    assert_eq!(scheduler.next(4_000).unwrap().items.len(), 12);
}

#[test]
fn who_came_before_anything_went_on_does_not_wait_for_silence() {
    let mut scheduler = Scheduler::new(Limits { workers: 1, ..LIMITS });
    assert!(scheduler.reserve(&key("b"), RunLane::Main));
    scheduler.begin(item(1, "b", Mode::Collect), 0);
    assert!(!scheduler.reserve(&key("a"), RunLane::Main), "no worker is free");
    scheduler.add(item(2, "a", Mode::Collect), 0);
    scheduler.ended("r1");
    assert_eq!(scheduler.next(0).unwrap().run_id, "r2");
}

#[test]
fn a_clock_that_runs_back_makes_nobody_wait_longer() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.reserve(&key("a"), RunLane::Main);
    scheduler.begin(item(1, "a", Mode::Collect), 1_000_000);
    scheduler.add(item(2, "a", Mode::Collect), 1_000_000);
    scheduler.ended("r1");
    assert_eq!(scheduler.next(500_000), None);
    assert_eq!(scheduler.deadline_ms(), Some(501_000));
    assert_eq!(scheduler.next(501_000).unwrap().run_id, "r2");
    assert_eq!(scheduler.overdue(100_000), Vec::<String>::new());
    assert_eq!(scheduler.deadline_ms(), Some(100_000 + 120_000));
}

#[test]
fn a_place_is_reserved_once_and_given_back() {
    let mut scheduler = Scheduler::new(LIMITS);
    assert!(scheduler.reserve(&key("a"), RunLane::Main));
    assert!(!scheduler.reserve(&key("a"), RunLane::Main), "a second one waits");
    assert_eq!(scheduler.counts().busy, 1);
    scheduler.add(item(2, "a", Mode::Followup), 0);
    assert_eq!(scheduler.next(0), None, "it waits for the one that is being written");
    scheduler.release(&key("a"));
    scheduler.release(&key("a"));
    assert_eq!(scheduler.next(0).unwrap().run_id, "r2");
    scheduler.release(&key("a"));
    assert_eq!(scheduler.active_run(&key("a")), Some("r2"), "what began is not released");
    assert_eq!(scheduler.begin(item(3, "b", Mode::Followup), 0), None, "nothing was reserved");
    assert!(scheduler.reserve(&key("b"), RunLane::Main));
    assert_eq!(scheduler.begin(item(2, "b", Mode::Followup), 0), None, "the run is known");
    assert_eq!(scheduler.counts().busy, 1, "and its place is free again");
}

#[test]
fn lanes_and_workers_are_limits() {
    let mut scheduler = Scheduler::new(Limits { workers: 6, ..LIMITS });
    for n in 0..4 {
        assert!(scheduler.reserve(&key(&format!("m{n}")), RunLane::Main));
    }
    assert!(!scheduler.reserve(&key("m4"), RunLane::Main), "the lane is full");
    assert!(scheduler.reserve(&key("c"), RunLane::Cron));
    assert!(!scheduler.reserve(&key("c2"), RunLane::Cron), "the lane is full");
    assert!(scheduler.reserve(&key("s"), RunLane::Subagent));
    assert!(!scheduler.reserve(&key("s2"), RunLane::Subagent), "no worker is free");
    scheduler.add(item(1, "m5", Mode::Followup), 0);
    assert_eq!(scheduler.next(0), None);
    scheduler.release(&key("s"));
    assert_eq!(scheduler.next(0), None, "a worker is free, its lane is full");
    scheduler.release(&key("m0"));
    assert!(!scheduler.reserve(&key("m6"), RunLane::Main), "nobody overtakes who is in line");
    assert_eq!(scheduler.next(0).unwrap().run_id, "r1");
    scheduler.set_limits(Limits { workers: 1, lanes: [1; 4], ..LIMITS });
    assert_eq!(scheduler.counts().busy, 5, "what runs goes on");
}

#[test]
fn sessions_take_turns() {
    let mut scheduler = Scheduler::new(Limits { workers: 1, ..LIMITS });
    for (id, session) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")] {
        scheduler.add(item(id, session, Mode::Followup), 0);
    }
    let mut order = Vec::new();
    while let Some(turn) = scheduler.next(0) {
        order.push(turn.items[0].id);
        scheduler.ended(&turn.run_id);
    }
    assert_eq!(order, [1, 4, 6, 2, 5, 3]);
}

#[test]
fn people_come_first_and_nobody_starves() {
    let mut scheduler = Scheduler::new(Limits { workers: 1, ..LIMITS });
    let mut id = 0;
    let mut add = |scheduler: &mut Scheduler, lane: RunLane| {
        id += 1;
        scheduler.add(in_lane(item(id, &format!("s{id}"), Mode::Followup), lane), 0);
    };
    for _ in 0..3 {
        add(&mut scheduler, RunLane::Cron);
        add(&mut scheduler, RunLane::Subagent);
    }
    for _ in 0..2 * FOREGROUND_TURNS_MAX + 1 {
        add(&mut scheduler, RunLane::Main);
    }
    add(&mut scheduler, RunLane::Nested);
    let mut lanes = Vec::new();
    while let Some(turn) = scheduler.next(0) {
        lanes.push(turn.lane);
        scheduler.ended(&turn.run_id);
    }
    use RunLane::{Cron, Main, Nested, Subagent};
    let mut expected = vec![Nested];
    expected.extend([Main; FOREGROUND_TURNS_MAX - 1]);
    expected.push(Subagent);
    expected.extend([Main; FOREGROUND_TURNS_MAX]);
    expected.push(Cron);
    expected.extend([Main; 2]);
    expected.extend([Subagent, Cron, Subagent, Cron]);
    assert_eq!(lanes, expected);
}

#[test]
fn a_silent_run_is_named_once_and_given_up_once() {
    let mut scheduler = busy();
    assert_eq!(scheduler.deadline_ms(), Some(120_000));
    scheduler.renew("r1", 60_000);
    assert_eq!(scheduler.overdue(179_999), Vec::<String>::new());
    assert_eq!(scheduler.overdue(180_000), ["r1"]);
    scheduler.renew("r1", 180_001);
    assert_eq!(scheduler.overdue(400_000), Vec::<String>::new());
    assert_eq!(scheduler.active_run(&key("a")), Some("r1"), "it is active until it ended");
    assert_eq!(scheduler.deadline_ms(), Some(210_000));
    assert_eq!(scheduler.given_up(209_999), Vec::<String>::new());
    assert_eq!(scheduler.given_up(210_000), ["r1"]);
    assert_eq!(scheduler.given_up(900_000), Vec::<String>::new());
    assert_eq!(scheduler.deadline_ms(), None);
    scheduler.add(item(2, "a", Mode::Followup), 900_000);
    assert_eq!(scheduler.ended("r1"), Some(key("a")));
    assert_eq!(scheduler.next(900_000).unwrap().run_id, "r2", "the session goes on");
    assert_eq!(scheduler.ended("r1"), None, "its late end is nobody's");
}

#[test]
fn a_run_that_talks_for_too_long_is_overdue_too() {
    let mut scheduler = busy();
    for second in 1..630 {
        scheduler.renew("r1", second * 1000);
        assert_eq!(scheduler.overdue(second * 1000), Vec::<String>::new());
    }
    assert_eq!(scheduler.overdue(630_000), ["r1"]);
}

#[test]
fn waiting_is_not_staleness() {
    let mut scheduler = busy();
    scheduler.add(item(2, "a", Mode::Followup), 0);
    for day in 1..100 {
        scheduler.renew("r1", day * 86_400_000);
        assert!(!scheduler.overdue(day * 86_400_000).contains(&"r2".to_owned()));
    }
    assert_eq!(turns_of_a(&mut scheduler, 100 * 86_400_000), [[2]]);
}

#[test]
fn a_run_that_is_stopped_and_does_not_end_is_given_up() {
    let mut scheduler = busy();
    assert_eq!(short(&scheduler.add(item(2, "a", Mode::Interrupt), 5_000)), ["interrupt r1", "queued 0"]);
    assert_eq!(scheduler.overdue(35_000), Vec::<String>::new(), "it is being stopped already");
    assert_eq!(scheduler.given_up(35_000), ["r1"]);
}

#[test]
fn what_waits_can_be_taken_back() {
    let mut scheduler = busy();
    for id in 2..=5 {
        scheduler.add(item(id, "a", Mode::Collect), 0);
    }
    assert_eq!(scheduler.cancel("r3").map(|item| item.id), Some(3));
    assert_eq!(scheduler.cancel("r3"), None);
    assert_eq!(scheduler.cancel("r1"), None, "it does not wait");
    assert_eq!(scheduler.position("r4"), Some(1));
    assert_eq!(scheduler.waiting(&key("a")).map(|item| item.id).collect::<Vec<_>>(), [2, 4, 5]);
    let taken: Vec<i64> = scheduler.cancel_session(&key("a")).iter().map(|item| item.id).collect();
    assert_eq!(taken, [2, 4, 5]);
    assert_eq!(scheduler.active_run(&key("a")), Some("r1"));
    assert_eq!(turns_of_a(&mut scheduler, 0), Vec::<Vec<i64>>::new());
    assert_eq!(scheduler.counts(), Counts::default());
}

#[test]
fn taking_back_the_last_leaves_no_one_in_line() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(item(1, "a", Mode::Followup), 0);
    assert_eq!(scheduler.rings.in_line(RunLane::Main).len(), 1);
    scheduler.cancel("r1");
    assert_eq!(scheduler.rings.in_line(RunLane::Main).len(), 0);
    assert_eq!(scheduler.next(0), None);
}

#[test]
fn what_had_begun_before_a_restart_begins_again_as_it_was() {
    let mut scheduler = Scheduler::new(Limits { pending_max: PENDING_MIN, ..LIMITS });
    let begun = |id| Item { begun: Some(3), ..item(id, "a", Mode::Collect) };
    for item in [begun(2), begun(3), item(4, "a", Mode::Collect), item(5, "a", Mode::Collect)] {
        scheduler.restore(item, 0);
    }
    for id in 100..100 + 2 * PENDING_MIN as i64 {
        scheduler.restore(item(id, &format!("s{id}"), Mode::Followup), 0);
    }
    assert_eq!(scheduler.counts().waiting, 4 + 2 * PENDING_MIN, "what was accepted is kept");
    scheduler.restore(begun(3), 0);
    assert_eq!(scheduler.counts().waiting, 4 + 2 * PENDING_MIN, "once");
    scheduler.set_limits(LIMITS);
    let of = item(6, "a", Mode::Followup);
    let full = Item { policy: Policy { cap: 1, ..of.policy }, ..of };
    assert_eq!(short(&scheduler.add(full, 0)), ["drop r4 r5 dropped_summarized", "queued 2"], "2 and 3 had begun");
    let turn = scheduler.next(0).unwrap();
    assert_eq!(turn.items.iter().map(|item| item.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((turn.run_id.as_str(), turn.dropped_summary), ("r3", None));
    assert!(scheduler.ended("r3").is_some());
}

#[test]
fn what_a_run_had_taken_before_a_restart_is_part_of_its_turn_again() {
    let mut scheduler = Scheduler::new(LIMITS);
    let begun = |id, mode| Item { begun: Some(2), ..item(id, "a", mode) };
    for item in
        [begun(2, Mode::Followup), item(3, "a", Mode::Followup), begun(4, Mode::Steer), item(5, "a", Mode::Steer)]
    {
        scheduler.restore(item, 0);
    }
    let turn = scheduler.next(0).unwrap();
    assert_eq!(turn.run_id, "r2");
    assert_eq!(turn.items.iter().map(|item| item.id).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(scheduler.answered_by("r4"), Some("r2"));
    assert_eq!(turns_of_a(&mut scheduler, 0), [[3], [5]]);
}

#[test]
fn a_line_is_the_start_of_what_was_said() {
    assert_eq!(summary_line("  buy \n\t milk  "), "buy milk");
    assert_eq!(summary_line(""), "");
    let exact = "x".repeat(SUMMARY_LINE_CHARS_MAX);
    assert_eq!(summary_line(&exact), exact);
    for long in [format!("{exact}y"), "é ".repeat(4_000), "ü".repeat(100_000)] {
        let line = summary_line(&long);
        assert!(line.ends_with('…') && !line.ends_with(" …"), "{line}");
        assert!(line.chars().count() <= SUMMARY_LINE_CHARS_MAX, "{line}");
    }
}

#[test]
fn a_session_says_what_it_wants() {
    let entry =
        json!({ "queueMode": "queue", "queueCap": 25, "queueDrop": "new", "queueDebounceMs": 2000, "label": "x" });
    let expected =
        Wishes { mode: Some(Mode::Steer), overflow: Some(Overflow::New), cap: Some(25), debounce_ms: Some(2000) };
    assert_eq!(wishes(entry.as_object().unwrap()), expected);
    let odd = json!({ "queueMode": 7, "queueCap": -1, "queueDrop": "all" });
    assert_eq!(wishes(odd.as_object().unwrap()), Wishes::default());
}
