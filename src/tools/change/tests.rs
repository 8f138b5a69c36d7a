use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;
use crate::tools::workspace::Workspace;

/// Tells the victim where to write.
const DIR_VARIABLE: &str = "OPENCLAW_RS_TEST_CHANGE_DIR";
/// How often it is killed.
const N_ROUNDS: usize = 30;
/// Files that are changed together.
const N_FILES: usize = 12;

struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { temp: tempfile::tempdir().unwrap() };
        for folder in ["ws", "state"] {
            fs::create_dir(bench.temp.path().join(folder)).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("ws").join(name)
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn make(&self, steps: &[Step]) -> Result<(), ChangeError> {
        make(steps, &self.state())
    }

    /// Every file and folder there is, by its path.
    fn all(&self) -> BTreeMap<String, String> {
        all(&self.temp.path().join("ws"))
    }

    /// Whether nothing is left of any change.
    fn is_clean(&self) -> bool {
        fs::read_dir(self.state().join(JOURNALS)).map_or(0, Iterator::count) == 0
    }
}

fn all(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.insert(format!("{name}/"), String::new());
            found.extend(all(&entry.path()).into_iter().map(|(inner, content)| (format!("{name}/{inner}"), content)));
        } else {
            found.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}

fn step(root: &Path, name: &str, new: Option<&str>) -> Step {
    let place = Workspace::open(root).unwrap().place(Path::new(name)).unwrap();
    let old = place.look().unwrap();
    Step { place, old, new: new.map(|new| new.as_bytes().to_vec()), like: None }
}

impl Bench {
    fn step(&self, name: &str, new: Option<&str>) -> Step {
        step(&self.temp.path().join("ws"), name, new)
    }
}

#[test]
fn makes_all_of_it() {
    let bench = Bench::new();
    fs::write(bench.path("old"), "1").unwrap();
    fs::write(bench.path("gone"), "2").unwrap();
    let steps = [
        bench.step("old", Some("one")),
        bench.step("gone", None),
        bench.step("deep/er/new", Some("three")),
        bench.step("deep/new", Some("four")),
    ];
    bench.make(&steps).unwrap();
    let files = bench.all();
    let expected = [("deep/", ""), ("deep/er/", ""), ("deep/er/new", "three"), ("deep/new", "four"), ("old", "one")];
    assert!(files.iter().map(|(name, content)| (name.as_str(), content.as_str())).eq(expected), "{files:?}");
    assert!(bench.is_clean());
}

#[test]
fn what_fails_on_the_way_leaves_everything_as_it_was() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        fs::write(bench.path(name), name).unwrap();
    }
    let before = bench.all();
    type Meanwhile = fn(&Bench);
    let cases: [(&str, Meanwhile, Meanwhile); 4] = [
        (
            "was changed meanwhile",
            |bench| fs::write(bench.path("c"), "other").unwrap(),
            |bench| {
                fs::write(bench.path("c"), "c").unwrap();
            },
        ),
        (
            "was changed meanwhile",
            |bench| {
                fs::write(bench.path("new/y"), "other").unwrap_or_else(|_| {
                    fs::create_dir(bench.path("new")).unwrap();
                    fs::write(bench.path("new/y"), "theirs").unwrap();
                })
            },
            |bench| {
                assert_eq!(fs::read_to_string(bench.path("new/y")).unwrap(), "theirs");
                fs::remove_dir_all(bench.path("new")).unwrap();
            },
        ),
        (
            "has more than one name",
            |bench| fs::hard_link(bench.path("c"), bench.path("d")).unwrap(),
            |bench| {
                fs::remove_file(bench.path("d")).unwrap();
            },
        ),
        (
            "cannot be used: not a directory",
            |bench| fs::write(bench.path("new"), "").unwrap(),
            |bench| {
                fs::remove_file(bench.path("new")).unwrap();
            },
        ),
    ];
    for (words, meanwhile, cleared) in cases {
        let steps = [
            bench.step("a", Some("changed")),
            bench.step("b", None),
            bench.step("new/x", Some("x")),
            bench.step("new/y", Some("y")),
            bench.step("c", Some("changed")),
        ];
        meanwhile(&bench);
        let error = bench.make(&steps).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        cleared(&bench);
        assert_eq!(bench.all(), before, "{error}");
        assert!(bench.is_clean(), "{error}");
    }
}

#[test]
fn a_file_that_somebody_made_meanwhile_stays_even_if_it_is_the_same() {
    let bench = Bench::new();
    let steps = [bench.step("a", Some("a")), bench.step("b", Some("b"))];
    fs::write(bench.path("b"), "b").unwrap();
    bench.make(&steps).unwrap_err();
    assert_eq!(bench.all().into_iter().collect::<Vec<_>>(), [("b".to_owned(), "b".to_owned())]);
}

#[test]
fn without_a_journal_nothing_is_begun() {
    let bench = Bench::new();
    fs::write(bench.state().join(JOURNALS), "in the way").unwrap();
    let error = bench.make(&[bench.step("a", Some("a")), bench.step("b", Some("b"))]).unwrap_err();
    assert!(error.to_string().starts_with("the journal of changes"), "{error}");
    assert_eq!(bench.all().len(), 0);
    // One file alone needs none.
    bench.make(&[bench.step("a", Some("a"))]).unwrap();
}

#[test]
fn a_journal_that_is_not_understood_is_left_and_an_unfinished_one_is_not() {
    let bench = Bench::new();
    let journals = bench.state().join(JOURNALS);
    fs::create_dir(&journals).unwrap();
    fs::write(journals.join("x.open.json"), "{").unwrap();
    fs::write(journals.join(own_name("tmp")), "{").unwrap();
    assert_eq!(recover(&bench.state()), 0);
    assert_eq!(all(&journals).into_keys().collect::<Vec<_>>(), ["x.open.json"]);
    assert_eq!(recover(&bench.temp.path().join("none")), 0);
}

#[test]
fn what_was_written_after_a_kill_is_not_undone() {
    let bench = Bench::new();
    fs::write(bench.path("a"), "old").unwrap();
    let journal = Journal::of(&[bench.step("a", Some("new"))]);
    let folder = Folder::open(&bench.temp.path().join("ws")).unwrap();
    folder.keep("a", journal.steps[0].kept.as_ref().unwrap()).unwrap();
    fs::remove_file(bench.path("a")).unwrap();
    fs::write(bench.path("a"), "theirs").unwrap();
    let _on_disk = journal.write(&bench.state()).unwrap();
    assert_eq!(recover(&bench.state()), 1);
    let left: Vec<String> = bench.all().into_values().collect();
    assert!(left.contains(&"theirs".to_owned()) && left.contains(&"old".to_owned()), "{left:?}");
}

/// The states that a victim's files may be in, between which every change of its leads.
fn state(number: usize) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for index in 0..N_FILES {
        // Some change, some come and go, some of them with their folder.
        match index % 3 {
            0 => {
                files.insert(format!("f{index}"), format!("content {number} of {index}"));
            }
            1 if number.is_multiple_of(2) => {
                files.insert(format!("f{index}"), "even".to_owned());
            }
            2 if !number.is_multiple_of(2) => {
                files.insert(format!("d{index}/"), String::new());
                files.insert(format!("d{index}/f"), "odd".to_owned());
            }
            _ => {}
        }
    }
    files
}

#[test]
#[ignore = "runs in a process of its own, which a_kill_leaves_all_or_nothing starts and kills"]
fn changes_until_killed() {
    let dir = PathBuf::from(std::env::var_os(DIR_VARIABLE).expect("the killer says where"));
    let root = dir.join("ws");
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
    };
    for number in 1.. {
        let (before, after) = (all(&root), state(number));
        let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let files = names.into_iter().filter(|name| !name.ends_with('/'));
        let steps: Vec<Step> = files.map(|name| step(&root, name, after.get(name).map(String::as_str))).collect();
        make(&steps, &dir.join("state")).unwrap();
        // Folders of files that went stay; the next round is to make them.
        for name in before.keys().filter(|name| name.ends_with('/')) {
            let _ = fs::remove_dir(root.join(name));
        }
        say(format!("done {number}"));
    }
}

#[test]
fn a_kill_leaves_all_or_nothing() {
    let mut n_undone = 0;
    for round in 0..N_ROUNDS {
        let bench = Bench::new();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["tools::change::tests::changes_until_killed", "--exact", "--ignored", "--nocapture"])
            .env(DIR_VARIABLE, bench.temp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(victim.stdout.take().unwrap());
        let (mut line, mut last) = (String::new(), 0);
        while out.read_line(&mut line).unwrap() > 0 {
            if let Some(number) = line.strip_prefix("done ").and_then(|rest| rest.strip_suffix('\n')) {
                last = number.parse().unwrap();
                if last == 1 + round % 4 {
                    // Anywhere in the next change: each takes some milliseconds.
                    let micros = u64::from(u16::from_le_bytes(random::bytes::<2>())) % 20_000;
                    std::thread::sleep(std::time::Duration::from_micros(micros));
                    victim.kill().unwrap();
                }
            }
            line.clear();
        }
        victim.wait().unwrap();
        n_undone += recover(&bench.state());
        let files: BTreeMap<_, _> = bench.all().into_iter().filter(|(name, _)| !name.ends_with('/')).collect();
        let is_state =
            |number: usize| state(number).into_iter().filter(|(name, _)| !name.ends_with('/')).eq(files.clone());
        assert!(is_state(last) || is_state(last + 1), "round {round} after {last}: {files:?}");
        assert!(bench.is_clean(), "round {round}");
    }
    assert!(n_undone > 0, "no kill met a change");
}
