use std::ffi::CString;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::runtime::threads;

const WAYS: [Way; 2] = [Way::Kernel, Way::Parts];

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/a.txt"), "inside").unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    (dir, folder)
}

#[test]
fn no_part_leads_out() {
    let (dir, folder) = folder();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    let inside = folder.folder(&["in"]).unwrap();
    for parts in [vec![".."], vec!["..", "secret"], vec!["../secret"], vec!["/etc/passwd"], vec![""], vec!["a\0b"]] {
        assert_eq!(inside.file(&parts).unwrap_err().kind(), io::ErrorKind::NotFound, "{parts:?}");
    }
    symlink(dir.path().join("secret"), dir.path().join("in/link")).unwrap();
    symlink(dir.path(), dir.path().join("in/up")).unwrap();
    assert!(is_link(&inside.file(&["link"]).unwrap_err()));
    assert!(inside.file(&["up", "secret"]).is_err());
    let names: Vec<String> = inside.entries(10).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a.txt"], "links are not listed");
    assert_eq!(folder.entries(1).unwrap().len(), 1, "no more names than asked for are looked at");
}

#[test]
fn what_is_no_regular_file_is_not_there() {
    let (dir, folder) = folder();
    let pipe = CString::new(dir.path().join("pipe").to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    for name in ["pipe", "in"] {
        assert_eq!(folder.file(&[name]).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
    }
}

#[test]
fn a_file_of_the_limit_is_read_and_a_larger_one_is_not() {
    let (dir, folder) = folder();
    fs::write(dir.path().join("at"), [b'x'; 10]).unwrap();
    assert_eq!(folder.file(&["at"]).unwrap().read(10).unwrap().len(), 10);
    let over = folder.file(&["at"]).unwrap().read(9).unwrap_err();
    assert_eq!(over.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(folder.file(&["at"]).unwrap().head(3).unwrap(), b"xxx");
}

#[test]
fn a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it() {
    let (dir, folder) = folder();
    let path = dir.path().join("in/a.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let inside = folder.folder(&["in"]).unwrap();
    inside.replace("a.txt", b"new").unwrap();
    inside.replace("b.txt", b"made").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & MODE_BITS, 0o640);
    assert_eq!(fs::metadata(dir.path().join("in/b.txt")).unwrap().mode() & MODE_BITS, 0o600);
    assert_eq!(fs::read_dir(dir.path().join("in")).unwrap().count(), 2);
    assert!(inside.replace("../a.txt", b"out").is_err());
}

#[test]
fn what_is_moved_is_the_thing_itself() {
    let (dir, _) = folder();
    let trash = dir.path().join("trash");
    symlink(dir.path().join("in"), dir.path().join("link")).unwrap();
    assert!(move_into(&dir.path().join("link"), &trash, "l").unwrap());
    assert!(dir.path().join("in/a.txt").exists());
    assert!(move_into(&dir.path().join("in"), &trash, "i").unwrap());
    assert_eq!(fs::read_to_string(trash.join("i/a.txt")).unwrap(), "inside");
    assert_eq!(fs::metadata(&trash).unwrap().mode() & MODE_BITS, 0o700);
    assert!(!move_into(&dir.path().join("in"), &trash, "i2").unwrap(), "nothing is there any more");
}

#[test]
fn what_is_no_plain_file_is_not_replaced() {
    let (dir, folder) = folder();
    let inside = folder.folder(&["in"]).unwrap();
    let path = |name: &str| dir.path().join("in").join(name);
    fs::write(dir.path().join("victim"), "mine").unwrap();
    symlink(dir.path().join("victim"), path("link")).unwrap();
    fs::hard_link(dir.path().join("victim"), path("second")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    let _listener = UnixListener::bind(path("socket")).unwrap();
    make_pipe(&path("pipe"));
    for (name, why) in [
        ("link", Refusal::Link),
        ("second", Refusal::HardLink),
        ("folder", Refusal::Folder),
        ("socket", Refusal::Special),
        ("pipe", Refusal::Special),
    ] {
        assert_eq!(refusal(&inside.replace(name, b"theirs").unwrap_err()), Some(why), "{name}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("victim")).unwrap(), "mine");
    assert_eq!(fs::read_dir(dir.path().join("in")).unwrap().count(), 6, "nothing was left beside them");
}

#[test]
fn a_protected_file_is_not_replaced() {
    let (dir, folder) = folder();
    let path = dir.path().join("in/a.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    // SAFETY: it asks for a number and has no conditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let replaced = folder.folder(&["in"]).unwrap().replace("a.txt", b"new");
    assert_eq!(replaced.is_ok(), is_root, "nothing is protected from root");
    assert_eq!(replaced.err().and_then(|error| refusal(&error)), (!is_root).then_some(Refusal::Protected));
}

#[test]
fn a_replaced_file_stays_its_owners() {
    let (dir, folder) = folder();
    let path = dir.path().join("in/a.txt");
    if std::os::unix::fs::chown(&path, Some(4711), Some(4712)).is_err() {
        // Only root gives files away.
        return;
    }
    folder.folder(&["in"]).unwrap().replace("a.txt", b"new").unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.len()), (4711, 4712, 3));
}

#[test]
fn what_is_staged_and_not_named_leaves_nothing() {
    let (dir, folder) = folder();
    let stage = |content: &[u8]| folder.stage(own_name("tmp"), content, None).unwrap();
    drop(stage(b"x"));
    let count = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(count(), 1);
    stage(b"x").create("new").unwrap();
    let taken = stage(b"y").create("new").unwrap_err();
    assert_eq!((taken.kind(), count()), (io::ErrorKind::AlreadyExists, 2));
    assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"x");
    let long = "n".repeat(255);
    folder.replace(&long, b"z").unwrap();
    assert_eq!(fs::read(dir.path().join(long)).unwrap(), b"z", "the longest name there is");
}

#[test]
fn what_was_kept_is_given_back_whatever_happened() {
    let (dir, folder) = folder();
    let inside = folder.folder(&["in"]).unwrap();
    let read = || fs::read_to_string(dir.path().join("in/a.txt")).unwrap();
    let before = inside.look("a.txt").unwrap().unwrap().id;
    for happens in [
        (|_| {}) as fn(&Folder),
        |inside| inside.stage(own_name("tmp"), b"new", None).unwrap().replace("a.txt").unwrap(),
        |inside| inside.remove("a.txt").unwrap(),
    ] {
        let kept = own_name("old");
        inside.keep("a.txt", &kept).unwrap();
        happens(&inside);
        inside.give_back(&kept, "a.txt").unwrap();
        assert_eq!((&*read(), inside.look("a.txt").unwrap().unwrap().id), ("inside", before));
        assert_eq!(fs::read_dir(dir.path().join("in")).unwrap().count(), 1);
    }
}

#[test]
fn both_ways_open_the_same_and_say_the_same() {
    let (dir, _) = folder();
    fs::create_dir_all(dir.path().join("in/deep/er")).unwrap();
    fs::write(dir.path().join("in/deep/er/b.txt"), "b").unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    symlink("../secret", dir.path().join("in/out")).unwrap();
    symlink("deep", dir.path().join("in/inner")).unwrap();
    symlink(dir.path(), dir.path().join("in/up")).unwrap();
    let said = |way: Way, path: &str| {
        let folder = Folder::open_by(&dir.path().join("in"), way).unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        folder
            .file(&parts)
            .and_then(|found| found.read(100))
            .map_err(|error| if is_link(&error) { None } else { Some(error.kind()) })
    };
    for (path, expected) in [
        ("a.txt", Ok(b"inside".to_vec())),
        ("deep/er/b.txt", Ok(b"b".to_vec())),
        ("out", Err(None)),
        ("up/secret", Err(None)),
        ("inner/er/b.txt", Err(None)),
        ("deep/../a.txt", Err(Some(io::ErrorKind::NotFound))),
        ("deep/none", Err(Some(io::ErrorKind::NotFound))),
        ("none/b.txt", Err(Some(io::ErrorKind::NotFound))),
        ("a.txt/b.txt", Err(Some(io::ErrorKind::NotADirectory))),
        ("deep/er", Err(Some(io::ErrorKind::NotFound))),
    ] {
        for way in WAYS {
            assert_eq!(said(way, path), expected, "{path} {way:?}");
        }
    }
}

fn make_pipe(path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// A folder `swap` that becomes a link to `out`, and a folder again, as often as the machine can.
struct Swapped {
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    n_swaps: Arc<AtomicUsize>,
    swapper: Option<std::thread::JoinHandle<()>>,
}

impl Swapped {
    fn start() -> Swapped {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["swap", "out"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("swap/a.txt"), "inside").unwrap();
        fs::write(dir.path().join("out/a.txt"), "outside").unwrap();
        symlink(dir.path().join("out"), dir.path().join("link")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let n_swaps = Arc::new(AtomicUsize::new(0));
        let (stopped, swaps) = (Arc::clone(&stop), Arc::clone(&n_swaps));
        let name = |name: &str| CString::new(dir.path().join(name).to_str().unwrap()).unwrap();
        let (swap, link) = (name("swap"), name("link"));
        let swapper = threads::spawn("swapper", threads::STACK_BYTES, move || {
            while !stopped.load(Ordering::Relaxed) {
                let at = libc::AT_FDCWD;
                // SAFETY: both names are NUL-terminated strings that outlive the call.
                let status = unsafe {
                    libc::syscall(libc::SYS_renameat2, at, swap.as_ptr(), at, link.as_ptr(), libc::RENAME_EXCHANGE)
                };
                assert_eq!(status, 0);
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        Swapped { dir, stop, n_swaps, swapper: Some(swapper.unwrap()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits for the next swap: on a busy machine the two would else take turns of thousands of rounds.
    fn wait(&self) {
        let before = self.n_swaps.load(Ordering::Relaxed);
        while self.n_swaps.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
    }

    /// Stops, and says what became of what lies outside.
    fn outside(mut self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.swapper.take().unwrap().join().unwrap();
        let names = fs::read_dir(self.path("out")).unwrap().map(|entry| entry.unwrap());
        let read = |entry: fs::DirEntry| {
            let content = fs::read_to_string(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), content)
        };
        names.map(read).collect()
    }
}

/// Reads, writes and makes folders below `swap`; how often that worked.
fn race(way: Way, rounds: usize) -> usize {
    let swapped = Swapped::start();
    let folder = Folder::open_by(swapped.dir.path(), way).unwrap();
    let mut n_done = 0;
    for round in 0..rounds {
        if round % 64 == 0 {
            swapped.wait();
        }
        // It is a folder, or a link, which is refused: never what the link leads to.
        let done = match round % 4 {
            0 => folder.folder(&["swap"]).and_then(|folder| folder.make_folder("made")).map(|_| ()),
            1 => folder
                .folder(&["swap"])
                .and_then(|folder| folder.stage(own_name("tmp"), b"inside", None)?.replace("a.txt")),
            _ => folder.file(&["swap", "a.txt"]).and_then(|found| found.read(100)).map(|content| {
                assert_eq!(content, b"inside");
            }),
        };
        n_done += usize::from(done.is_ok());
    }
    assert_eq!(swapped.outside(), [("a.txt".to_owned(), "outside".to_owned())], "{way:?}");
    n_done
}

#[test]
fn a_name_that_is_swapped_all_the_time_never_leads_out() {
    for way in WAYS {
        let n_done = race(way, 4_000);
        assert!((1..4_000).contains(&n_done), "it met both, folder and link: {n_done} {way:?}");
    }
}

/// Takes minutes: `cargo test --lib a_million -- --ignored`.
#[test]
#[ignore = "a million rounds each way"]
fn a_million_rounds_do_not_lead_out_either() {
    for way in WAYS {
        let n_done = race(way, 1_000_000);
        println!("{way:?}: 1000000 rounds, {n_done} met the folder, the others its link, and none led out");
    }
}

/// Without the guard the same race is lost at once, or it would show nothing.
#[test]
fn the_race_is_lost_by_a_path_that_is_walked() {
    let swapped = Swapped::start();
    let path = swapped.path("swap/a.txt");
    let is_outside = || fs::read(&path).is_ok_and(|content| content == b"outside");
    assert!((0..100_000).any(|round: usize| {
        if round.is_multiple_of(64) {
            swapped.wait();
        }
        is_outside()
    }));
}
