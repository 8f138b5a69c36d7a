use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use super::*;

const SCOPE: &str = "main";
/// Long enough for anything that does not hang.
const LONG: Duration = Duration::from_secs(20);

struct Bench {
    processes: Processes,
    ended: Receiver<Ended>,
}

impl Bench {
    fn new() -> Bench {
        let (tell, ended) = bounded(64);
        let mark = format!("test-{}", crate::runtime::random::uuid());
        Bench { processes: Processes::new(mark, move |end| tell.try_send(end).unwrap()), ended }
    }

    fn launch(script: &str) -> Launch {
        let words = ["sh", "-c", script].map(OsString::from);
        let path = ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
        Launch {
            program: Program::File(File::open("/bin/sh").unwrap()),
            argv: words.into(),
            env: vec![path],
            cwd: launch::open_dir(Path::new("/")).unwrap(),
            input: Input::Nothing,
            timeout: None,
            confine: None,
        }
    }

    fn about() -> About {
        About {
            scope: SCOPE.to_owned(),
            session: None,
            command: "a test".to_owned(),
            cwd: "/".to_owned(),
            notify: Notify::default(),
            kept: Duration::from_secs(60),
        }
    }

    fn start(&self, launch: Launch) -> Foreground {
        self.processes.start(launch, Bench::about()).unwrap()
    }

    #[track_caller]
    fn run(&self, launch: Launch) -> Box<Ended> {
        ended(&mut self.start(launch))
    }

    /// Starts it and lets it go on.
    fn background(&self, launch: Launch) -> Id {
        let mut foreground = self.start(launch);
        assert!(matches!(foreground.promote(8), Promoted::Background(_)));
        foreground.id
    }

    #[track_caller]
    fn says(&self, id: Id, words: &str) {
        let (until, mut all) = (Instant::now() + LONG, String::new());
        while !all.contains(words) {
            assert!(Instant::now() < until, "{words:?} not in {all:?}");
            let (_, text, _) = self.processes.poll(id, SCOPE, Duration::from_secs(1), &|| false).expect("it is there");
            all.push_str(&text);
        }
    }

    fn background_end(&self) -> Ended {
        self.ended.recv_timeout(LONG).expect("its end is told")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        assert!(self.processes.stop(), "everything ends in time");
        assert_eq!(sweep::sweep(&self.processes.0.mark), 0, "nothing is left");
    }
}

#[track_caller]
fn ended(foreground: &mut Foreground) -> Box<Ended> {
    match foreground.wait(Some(Instant::now() + LONG), &|| false, &mut |_| ()) {
        Waited::Ended(ended) => ended,
        other => panic!("it did not end: {other:?}"),
    }
}

/// How many processes carry this mark, zombies aside: those have no environment any more.
fn marked(mark: &str) -> usize {
    let wanted = format!("{}={mark}", sweep::MARK);
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter_map(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok())
        .filter(|environ| environ.windows(wanted.len()).any(|bytes| bytes == wanted.as_bytes()))
        .count()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn there_is_no_thread_before_the_first_command_and_none_after_the_end() {
    let bench = Bench::new();
    assert!(matches!(*bench.processes.state(), State::Idle));
    assert!(bench.processes.list(SCOPE).is_empty());
    assert!(matches!(*bench.processes.state(), State::Idle), "asking starts nothing");
    let end = bench.run(Bench::launch("echo hello; echo problem >&2; exit 3"));
    assert_eq!(end.exit, Exit::Code(3));
    assert!(end.output.contains("hello\n") && end.output.contains("problem\n"), "{}", end.output);
    assert!(bench.processes.stop());
    assert!(matches!(bench.processes.start(Bench::launch("true"), Bench::about()), Err(StartError::Stopping)));
}

#[test]
fn a_child_has_a_session_of_its_own_and_no_descriptor_of_ours() {
    let bench = Bench::new();
    // SAFETY: `dup` takes a number; the copy is not close-on-exec and is closed below.
    let leaked = unsafe { libc::dup(2) };
    let script = "cut -d' ' -f1,5,6,8 /proc/$$/stat; ls /proc/$$/fd; cat /proc/$$/oom_score_adj; ulimit -c; env";
    let end = bench.run(Bench::launch(script));
    // SAFETY: the copy made above is closed once.
    unsafe { libc::close(leaked) };
    let lines: Vec<&str> = end.output.lines().collect();
    let numbers: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((numbers[0], numbers[0]), (numbers[1], numbers[2]), "group and session have its number: {lines:?}");
    assert_eq!(numbers[3], "-1", "no terminal");
    assert_eq!(&lines[1..6], ["0", "1", "2", "1000", "0"], "{lines:?}");
    let names: Vec<&str> = lines[6..].iter().map(|line| line.split('=').next().unwrap()).collect();
    assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_", sweep::MARK].contains(name)), "{names:?}");
}

#[test]
fn what_was_opened_is_run_whatever_lies_at_its_path_later() {
    let bench = Bench::new();
    let temp = tempfile::TempDir::new().unwrap();
    let path = temp.path().join("tool");
    std::fs::copy("/bin/sh", &path).unwrap();
    let launch = Launch { program: Program::File(File::open(&path).unwrap()), ..Bench::launch("echo the first") };
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "#!/bin/sh\necho the second").unwrap();
    assert_eq!(bench.run(launch).output, "the first\n");
}

#[test]
fn what_cannot_be_started_says_why() {
    let bench = Bench::new();
    let launch = Launch { program: Program::Path("/nowhere/at/all".into()), ..Bench::launch("") };
    let error = bench.processes.start(launch, Bench::about()).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    let confine: Confine = Box::new(|_| Err(io::Error::other("no confinement")));
    let error = bench.processes.start(Launch { confine: Some(confine), ..Bench::launch("true") }, Bench::about());
    assert!(error.unwrap_err().to_string().contains("no confinement"), "what cannot be confined is not run");
}

#[test]
fn one_that_takes_too_long_is_ended_with_all_it_started() {
    let bench = Bench::new();
    let launch = Launch { timeout: Some(Duration::from_millis(200)), ..Bench::launch("sleep 98 & sleep 99") };
    let began = Instant::now();
    assert_eq!(bench.run(launch).exit, Exit::TimedOut);
    assert!(began.elapsed() < GRACE, "nobody had to be made to");
    wait_until("both are gone", || marked(&bench.processes.0.mark) == 0);
}

#[test]
fn one_that_ignores_being_told_is_made_to_after_its_time() {
    let bench = Bench::new();
    let script = "trap '' TERM; (trap '' TERM; echo deaf; while :; do sleep 0.05; done) & while :; do sleep 0.05; done";
    let id = bench.background(Bench::launch(script));
    bench.says(id, "deaf");
    let began = Instant::now();
    assert!(bench.processes.kill(id, SCOPE));
    assert_eq!(bench.background_end().exit, Exit::Cancelled);
    assert!(began.elapsed() >= GRACE, "it had its time");
    wait_until("all are gone", || marked(&bench.processes.0.mark) == 0);
}

#[test]
fn one_that_left_its_group_is_found_when_it_is_killed() {
    let bench = Bench::new();
    let script = "trap '' TERM; setsid sh -c 'echo out; exec sleep 97' & while :; do sleep 0.05; done";
    let foreground = bench.start(Bench::launch(script));
    wait_until("both run", || marked(&bench.processes.0.mark) >= 3);
    foreground.end().expect("it ends");
    wait_until("the one outside is gone too", || marked(&bench.processes.0.mark) == 0);
}

#[test]
fn whoever_is_left_when_the_leader_ends_does_not_run_on() {
    let bench = Bench::new();
    let began = Instant::now();
    let end = bench.run(Bench::launch("sleep 96 & echo done"));
    assert_eq!((end.exit, end.output.as_str()), (Exit::Code(0), "done\n"));
    assert!(began.elapsed() < LONG, "its line is not waited for");
    wait_until("it is gone", || marked(&bench.processes.0.mark) == 0);
}

#[test]
fn one_that_nobody_waits_for_any_more_is_ended() {
    let bench = Bench::new();
    drop(bench.start(Bench::launch("sleep 95")));
    wait_until("it is gone", || marked(&bench.processes.0.mark) == 0);
    let mut foreground = bench.start(Bench::launch("sleep 95"));
    assert!(matches!(foreground.wait(None, &|| true, &mut |_| ()), Waited::Stopped));
}

#[test]
fn a_flood_is_kept_within_its_bounds() {
    let bench = Bench::new();
    let flood = "yes 0123456789abcdef | head -c 20000000; echo the end";
    let end = bench.run(Bench::launch(flood));
    assert!(end.is_cut && end.output.len() <= log::LOG_BYTES_MAX && end.output.ends_with("the end\n"));
    // Together they may keep less than each alone.
    let ids: Vec<Id> = (0..20).map(|_| bench.background_many(flood)).collect();
    for _ in &ids {
        bench.background_end();
    }
    let kept: usize = ids.iter().map(|id| bench.processes.log(*id, SCOPE).unwrap().1.len()).sum();
    assert!((LOGS_BYTES_MAX / 2..=LOGS_BYTES_MAX).contains(&kept), "{kept}");
}

impl Bench {
    fn background_many(&self, script: &str) -> Id {
        let mut foreground = self.start(Bench::launch(script));
        match foreground.promote(PROCESSES_MAX) {
            Promoted::Background(_) => foreground.id,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_it_writes_is_shown_at_a_bounded_rate() {
    let bench = Bench::new();
    let mut foreground =
        bench.start(Bench::launch("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.05; done"));
    let mut shown = Vec::new();
    let waited = foreground.wait(Some(Instant::now() + LONG), &|| false, &mut |text| shown.push(text));
    let Waited::Ended(end) = waited else { panic!("it did not end") };
    let most = end.duration.as_millis() / SHOW_EVERY.as_millis() + 2;
    assert!((1..=most).contains(&(shown.len() as u128)), "{shown:?} in {:?}", end.duration);
    assert!(shown[0].starts_with('1'), "{shown:?}");
}

#[test]
fn in_the_background_it_is_listed_read_and_told_of() {
    let bench = Bench::new();
    let id = bench.background(Bench::launch("echo begun; sleep 0.3; echo ended; exit 4"));
    assert_eq!(bench.processes.list(SCOPE)[0].id, id);
    assert!(bench.processes.list("another").is_empty() && bench.processes.log(id, "another").is_none());
    assert!(!bench.processes.kill(id, "another"), "another agent's is not there");
    bench.says(id, "begun\n");
    let end = bench.background_end();
    assert_eq!((end.exit, end.background.unwrap().id), (Exit::Code(4), id));
    bench.says(id, "ended\n");
    let (seen, text) = bench.processes.log(id, SCOPE).unwrap();
    assert_eq!((seen.exit, text.as_str()), (Some(Exit::Code(4)), "begun\nended\n"));
    assert!(!bench.processes.kill(id, SCOPE), "it has ended");
    assert!(bench.processes.clear(id, SCOPE) && !bench.processes.clear(id, SCOPE));
    assert!(bench.processes.poll(id, SCOPE, Duration::ZERO, &|| false).is_none());
}

#[test]
fn no_more_go_on_than_may_and_what_has_ended_is_not_let_go() {
    let bench = Bench::new();
    let mut first = bench.start(Bench::launch("sleep 94"));
    let mut second = bench.start(Bench::launch("sleep 94"));
    assert!(matches!(first.promote(1), Promoted::Background(_)));
    assert_eq!(second.promote(1), Promoted::Full);
    assert!(bench.processes.kill(first.id, SCOPE));
    assert_eq!(bench.background_end().exit, Exit::Cancelled);
    assert!(matches!(second.promote(1), Promoted::Background(_)), "there is room again");
    let mut third = bench.start(Bench::launch("true"));
    let end = ended(&mut third);
    assert_eq!((end.exit, third.promote(9)), (Exit::Code(0), Promoted::Ended));
}

#[test]
fn one_that_is_removed_is_ended_and_not_told_of() {
    let bench = Bench::new();
    let id = bench.background(Bench::launch("sleep 93"));
    assert_eq!(bench.processes.remove(id, SCOPE), Some(true));
    assert!(bench.processes.look(id, SCOPE).is_none() && bench.processes.remove(id, SCOPE).is_none());
    wait_until("it is gone", || marked(&bench.processes.0.mark) == 0);
    assert!(bench.ended.is_empty());
}

#[test]
fn the_oldest_that_ended_are_forgotten() {
    let bench = Bench::new();
    let ids: Vec<Id> = (0..ENDED_MAX + 2)
        .map(|_| {
            let id = bench.background(Bench::launch("sleep 0.1"));
            bench.background_end();
            id
        })
        .collect();
    assert_eq!(bench.processes.list(SCOPE).len(), ENDED_MAX);
    assert!(bench.processes.look(ids[1], SCOPE).is_none() && bench.processes.look(ids[2], SCOPE).is_some());
    let about = About { kept: Duration::from_millis(1), ..Bench::about() };
    let mut short = bench.processes.start(Bench::launch("sleep 0.1"), about).unwrap();
    assert!(matches!(short.promote(8), Promoted::Background(_)));
    wait_until("its time is over", || bench.processes.look(short.id, SCOPE).is_none());
}

#[test]
fn what_is_written_is_read_up_to_the_limit() {
    let bench = Bench::new();
    let id = bench.background(Launch { input: Input::Pipe, ..Bench::launch("read name; echo hello $name; cat") });
    assert!(bench.processes.look(id, SCOPE).unwrap().is_input_open);
    bench.processes.write(id, SCOPE, b"ann\n".to_vec(), false).unwrap();
    bench.says(id, "hello ann\n");
    bench.processes.write(id, SCOPE, b"the rest".to_vec(), true).unwrap();
    bench.says(id, "the rest");
    assert_eq!(bench.background_end().exit, Exit::Code(0), "it found the end");

    let deaf = bench.background(Launch { input: Input::Pipe, ..Bench::launch("sleep 92") });
    bench.processes.write(deaf, SCOPE, vec![b'x'; INPUT_BYTES_MAX], false).expect("the limit itself");
    let more = bench.processes.write(deaf, SCOPE, vec![b'x'; INPUT_BYTES_MAX], false);
    assert_eq!(more.unwrap_err(), WriteError::Full);
    let none = bench.background(Bench::launch("sleep 92"));
    assert_eq!(bench.processes.write(none, SCOPE, b"x".to_vec(), false).unwrap_err(), WriteError::Closed);
}

#[test]
fn a_terminal_is_a_terminal() {
    let bench = Bench::new();
    let script = "test -t 0 && test -t 1 && tty >/dev/null && stty size; read line; echo got $line; sleep 91";
    let id = bench.background(Launch { input: Input::Terminal, ..Bench::launch(script) });
    bench.says(id, "30 120\n");
    bench.processes.write(id, SCOPE, b"abc\r".to_vec(), false).unwrap();
    bench.says(id, "got abc\n");
    bench.processes.write(id, SCOPE, vec![0x03], false).unwrap();
    assert_eq!(bench.background_end().exit, Exit::Signal(libc::SIGINT), "what is typed reaches it as a signal");

    let script = r"printf '\033[?1h\033[6n'; stty -icanon -echo; dd bs=1 count=6 2>/dev/null | od -An -c; sleep 91";
    let id = bench.background(Launch { input: Input::Terminal, ..Bench::launch(script) });
    bench.says(id, "033   [   1   ;   1   R");
    assert!(bench.processes.is_application_mode(id));
}

#[test]
fn ten_thousand_short_children_leave_nothing() {
    let bench = Bench::new();
    bench.run(Bench::launch("true"));
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let zombies = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        children.map(|list| list.split_whitespace().filter(|pid| is_zombie(pid)).count()).sum::<usize>()
    };
    let rounds = if std::env::var_os("EXEC_CHILDREN").is_some() { 10_000 } else { 500 };
    let before = open();
    for _ in 0..rounds {
        let end = bench.run(Launch { argv: vec!["true".into()], ..true_program() });
        assert_eq!(end.exit, Exit::Code(0));
    }
    // Other tests of this process have files and children of their own.
    assert!(open() < before + 100, "{} and {before} descriptors", open());
    assert!(zombies() < 20, "{} zombies", zombies());
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn true_program() -> Launch {
    Launch { program: Program::Path("/bin/true".into()), ..Bench::launch("") }
}

#[test]
fn no_more_run_at_once_than_may() {
    let bench = Bench::new();
    let running: Vec<Foreground> =
        (0..PROCESSES_MAX).map(|_| bench.start(Bench::launch("read x < /dev/zero"))).collect();
    let more = bench.processes.start(Bench::launch("true"), Bench::about());
    assert!(matches!(more, Err(StartError::TooMany(PROCESSES_MAX))));
    drop(running);
    wait_until("there is room again", || bench.processes.start(Bench::launch("true"), Bench::about()).is_ok());
}

#[test]
fn a_fork_bomb_stays_within_its_limit_and_ends() {
    let bench = Bench::new();
    // The limit counts processes of a user, and does not hold for the one who may do everything.
    const NOBODY: libc::uid_t = 48_213;
    const MOST: libc::rlim_t = 40;
    let confine: Confine = Box::new(|command| {
        // SAFETY: both calls take numbers and a pointer to a local, and are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: MOST, rlim_max: MOST };
                libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
                libc::setresuid(NOBODY, NOBODY, NOBODY);
                Ok(())
            });
        }
        Ok(())
    });
    let bomb = "b() { b | b & }; b; sleep 90";
    let launch = Launch { confine: Some(confine), timeout: Some(Duration::from_secs(1)), ..Bench::launch(bomb) };
    let mut foreground = bench.start(launch);
    let mark = &bench.processes.0.mark;
    let most = std::cell::Cell::new(0);
    let waited = foreground.wait(
        Some(Instant::now() + LONG),
        &|| {
            most.set(most.get().max(marked(mark)));
            false
        },
        &mut |_| (),
    );
    assert!(matches!(waited, Waited::Ended(_)));
    // SAFETY: `getuid` cannot fail and touches no memory.
    if unsafe { libc::getuid() } == 0 {
        assert!(most.get() as u64 <= MOST + 2, "{} at once", most.get());
    }
    wait_until("all of it is gone", || marked(mark) == 0);
}

#[test]
fn the_end_of_the_daemon_is_the_end_of_its_children() {
    let bench = Bench::new();
    let stubborn = bench.background(Bench::launch("trap '' TERM; while :; do sleep 0.05; done"));
    bench.background(Bench::launch("setsid sleep 89 & sleep 89"));
    wait_until("they run", || marked(&bench.processes.0.mark) >= 3);
    let began = Instant::now();
    assert!(bench.processes.stop());
    assert!(began.elapsed() < GRACE + STOP_MARGIN, "{:?}", began.elapsed());
    wait_until("all are gone", || marked(&bench.processes.0.mark) == 0);
    assert!(bench.ended.is_empty(), "it is told at the next start");
    assert!(bench.processes.look(stubborn, SCOPE).is_none());
}

#[test]
fn an_id_is_read_as_it_is_written() {
    let id = Id(0x00ab_cdef);
    assert_eq!((id.to_string().as_str(), Id::parse("00abcdef")), ("00abcdef", Some(id)));
    for text in ["", "abcdef", "+0abcdef", "00abcdefg", "00ABCDEF0"] {
        assert_eq!(Id::parse(text), None, "{text}");
    }
}
