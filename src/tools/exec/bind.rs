//! Binding: which program, with which words, where, with what environment, and what lies in the files it names.
//!
//! What is bound is what runs. The program is opened once and executed by what was opened; the directory it begins in
//! is opened once too. Scripts that an interpreter opens again are digested, and digested again right before the
//! start. [`Bound::digest`] stands for all of it: one byte more or less anywhere is another digest.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use super::super::processes::launch::open_dir;
use crate::runtime::beneath::Folder;
use crate::runtime::random::hex;

/// Files that a command names and that are looked into; it is refused when it names more.
pub const FILES_MAX: usize = 32;
/// Bytes of a file that are digested; a larger one is known by its place, its size and its times.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Mode of a workspace that is made.
const DIR_MODE: u32 = 0o700;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Programs that run what a file says.
#[rustfmt::skip]
const INTERPRETERS: &[&str] = &[
    "sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "csh", "tcsh", "busybox", "source", ".", "python", "pypy", "perl",
    "ruby", "node", "nodejs", "deno", "bun", "tsx", "ts-node", "php", "lua", "luajit", "awk", "gawk", "mawk", "sed",
    "make", "tclsh", "Rscript", "julia", "java", "expect",
];

/// Ends of names of such files.
const SCRIPTS: &[&str] = &[
    "sh", "bash", "zsh", "fish", "ksh", "py", "pl", "rb", "js", "mjs", "cjs", "ts", "php", "lua", "awk", "sed", "mk",
    "tcl", "jar",
];

/// What a file is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    /// When it was written, and when anything of it changed, in seconds and nanoseconds since 1970.
    times: [i64; 4],
    /// Of its content, unless it is larger than [`FILE_BYTES_MAX`].
    digest: Option<[u8; 32]>,
}

/// A command, bound.
#[derive(Debug)]
pub struct Bound {
    /// The words that are run.
    pub argv: Vec<OsString>,
    /// The program's path, without links.
    pub program: PathBuf,
    /// Where it begins.
    pub cwd: PathBuf,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    file: File,
    /// Whether the kernel hands it to an interpreter, which opens it again.
    is_script: bool,
    known: Vec<Known>,
    dir: OwnedFd,
}

/// What is to be bound.
pub struct Wanted<'a> {
    /// The words: the first names the program.
    pub argv: Vec<OsString>,
    /// Text of a shell among them.
    pub script: Option<&'a str>,
    /// Where it begins: from `root`, or absolute.
    pub cwd: &'a Path,
    /// The agent's directory.
    pub root: &'a Path,
    /// Whether it must begin inside of that.
    pub is_inside: bool,
    /// Where programs are looked for.
    pub path: &'a [PathBuf],
    /// Makes the environment of one that begins there.
    pub env: &'a dyn Fn(&Path) -> Vec<(OsString, OsString)>,
}

impl Bound {
    /// Binds a command.
    ///
    /// # Errors
    /// Why there is nothing to run, in words for the model.
    pub fn of(wanted: Wanted<'_>) -> Result<Bound, String> {
        let (cwd, dir) = begin(&wanted)?;
        let name = wanted.argv.first().filter(|name| !name.is_empty()).ok_or("the command has no program")?;
        let path = find(name, &cwd, wanted.path)
            .ok_or_else(|| format!("Command not found: {}", name.to_string_lossy().escape_debug()))?;
        let program = path.canonicalize().map_err(|error| not_to_be_had(&path, &error))?;
        let (mut file, known) = look(&program).map_err(|error| not_to_be_had(&program, &error))?;
        let mut head = [0; 2];
        let is_script = file.read_exact(&mut head).is_ok() && &head == b"#!";
        file.rewind().map_err(|error| not_to_be_had(&program, &error))?;
        let mut all = vec![known];
        for path in named(&wanted, &cwd) {
            let Ok((_, known)) = look(&path) else { continue };
            if all.iter().all(|there| there.path != known.path) {
                all.push(known);
            }
            if all.len() > FILES_MAX {
                return Err(format!("the command names more than {FILES_MAX} programs and scripts"));
            }
        }
        let env = (wanted.env)(&cwd);
        Ok(Bound { argv: wanted.argv, program, cwd, env, file, is_script, known: all, dir })
    }

    /// Stands for all of it, in 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            // With its length before it, so that no two ways to divide the bytes are the same.
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        add(b"exec 1");
        add(&(self.argv.len() as u64).to_le_bytes());
        self.argv.iter().for_each(|word| add(word.as_bytes()));
        add(self.cwd.as_os_str().as_bytes());
        add(&(self.env.len() as u64).to_le_bytes());
        for (name, value) in &self.env {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for known in &self.known {
            add(known.path.as_os_str().as_bytes());
            match &known.digest {
                Some(digest) => add(digest),
                None => {
                    add(&known.inode.to_le_bytes());
                    known.times.iter().for_each(|time| add(&time.to_le_bytes()));
                }
            }
        }
        hex(context.finish().as_ref())
    }

    /// Whether every file is what it was when it was bound.
    ///
    /// # Errors
    /// Which one is not, in words for the model.
    pub fn check(&mut self) -> Result<(), String> {
        for (nth, known) in self.known.iter().enumerate() {
            let now = match nth {
                // What was opened is what runs, and may have been written to.
                0 if !self.is_script => identify(&mut self.file, &known.path),
                _ => look(&known.path).map(|(_, known)| known),
            };
            if now.as_ref().ok() != Some(known) {
                return Err(format!("not done: {} changed after the command was read", known.path.display()));
            }
        }
        Ok(())
    }

    /// What is started: the open program, or the path of one that an interpreter opens again; where; the words; the
    /// environment.
    pub fn into_parts(self) -> Parts {
        let Bound { argv, program, env, file, is_script, dir, .. } = self;
        let file = (!is_script).then_some(file);
        Parts { argv, program, file, dir, env }
    }
}

/// What is started.
#[derive(Debug)]
pub struct Parts {
    /// The words.
    pub argv: Vec<OsString>,
    /// The program's path.
    pub program: PathBuf,
    /// The program, open; `None`: an interpreter opens its path again.
    pub file: Option<File>,
    /// Where it begins, open.
    pub dir: OwnedFd,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Where it begins, without links, and open.
fn begin(wanted: &Wanted<'_>) -> Result<(PathBuf, OwnedFd), String> {
    let shown = wanted.cwd.display();
    // An agent that has written nothing yet has no directory either.
    let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(wanted.root);
    let root = made.and_then(|()| wanted.root.canonicalize());
    let root = root.map_err(|error| format!("the workspace cannot be used: {}", error.kind()))?;
    let cwd = root.join(wanted.cwd).canonicalize();
    let cwd = cwd.map_err(|error| format!("workdir {shown} cannot be used: {}", error.kind()))?;
    let opened = match cwd.strip_prefix(&root) {
        Ok(inside) => {
            // Part by part, so that a link that is swapped meanwhile leads nowhere.
            let parts: Vec<&OsStr> = inside.iter().collect();
            Folder::open(&root).and_then(|folder| folder.folder(&parts)).map(OwnedFd::from)
        }
        Err(_) if wanted.is_inside => return Err(format!("workdir {shown} is outside of the workspace")),
        Err(_) => open_dir(&cwd),
    };
    let dir = opened.map_err(|error| format!("workdir {shown} cannot be used: {}", error.kind()))?;
    Ok((cwd, dir))
}

/// The file of a program: a path as it is, a name by the list of directories.
fn find(name: &OsStr, cwd: &Path, dirs: &[PathBuf]) -> Option<PathBuf> {
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0);
    if name.as_bytes().contains(&b'/') {
        return Some(cwd.join(name)).filter(|path| is_program(path));
    }
    dirs.iter().map(|dir| dir.join(name)).find(|path| is_program(path))
}

fn not_to_be_had(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be used: {}", path.display(), error.kind())
}

/// Opens a regular file and looks into it.
fn look(path: &Path) -> io::Result<(File, Known)> {
    let path = path.canonicalize()?;
    // Not blocking: opening a pipe that nobody writes to must not hold up the run.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&path)?;
    let known = identify(&mut file, &path)?;
    Ok((file, known))
}

fn identify(file: &mut File, path: &Path) -> io::Result<Known> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let digest = if metadata.len() > FILE_BYTES_MAX { None } else { Some(digest(file)?) };
    Ok(Known {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        times: [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()],
        digest,
    })
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    file.rewind()?;
    // Whoever writes while we read makes it no longer than this.
    let mut within = (&*file).take(FILE_BYTES_MAX);
    loop {
        match within.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => context.update(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Programs and scripts that the words name, as far as they are files: what is run by its path, what an interpreter is
/// given, what looks like a script or may be executed.
fn named(wanted: &Wanted<'_>, cwd: &Path) -> Vec<PathBuf> {
    let commands = match wanted.script {
        Some(script) => commands(script),
        None => vec![wanted.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect()],
    };
    let mut files = Vec::new();
    for words in commands {
        let mut is_given_to = false;
        for word in &words {
            let base = word.rsplit('/').next().unwrap_or(word);
            let stem = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            let is_interpreter = INTERPRETERS.contains(&base) || INTERPRETERS.contains(&stem);
            let path = cwd.join(word.strip_prefix("file:").unwrap_or(word));
            let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
            if is_file {
                let may_run = path.metadata().is_ok_and(|metadata| metadata.mode() & 0o111 != 0);
                let is_named_so = SCRIPTS.iter().any(|end| word.rsplit_once('.').is_some_and(|(_, own)| own == *end));
                if is_given_to || may_run || is_named_so {
                    files.push(path);
                }
            }
            is_given_to |= is_interpreter;
        }
    }
    files
}

/// The words of the commands in a shell's text, as far as they can be told without running it.
fn commands(script: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut chars = script.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('"'), '\\') | (None, '\\') => {
                if let Some(next) = chars.next().filter(|next| *next != '\n') {
                    word.get_or_insert_default().push(next);
                }
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, ';' | '|' | '&' | '(' | ')' | '<' | '>' | '\n' | '`') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
                // What is read from a file by redirection is named by it.
                if c == '<' || c == '>' {
                    words.extend(commands.pop().unwrap_or_default());
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Bench {
        temp: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            let temp = tempfile::TempDir::new().unwrap();
            fs::create_dir(temp.path().join("w")).unwrap();
            Bench { temp }
        }

        fn root(&self) -> PathBuf {
            self.temp.path().join("w")
        }

        fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }

        fn bind(&self, script: &str, change: impl FnOnce(&mut Wanted<'_>)) -> Result<Bound, String> {
            self.bind_at(script, "", change)
        }

        fn bind_at(&self, script: &str, cwd: &str, change: impl FnOnce(&mut Wanted<'_>)) -> Result<Bound, String> {
            let root = self.root();
            let dirs = ["/usr/bin".into(), "/bin".into()];
            let mut wanted = Wanted {
                argv: ["/bin/sh", "-c", script].map(OsString::from).into(),
                script: Some(script),
                cwd: Path::new(cwd),
                root: &root,
                is_inside: true,
                path: &dirs,
                env: &|cwd| vec![("PWD".into(), cwd.into())],
            };
            change(&mut wanted);
            Bound::of(wanted)
        }

        fn words(&self, words: &[&str]) -> Result<Bound, String> {
            self.bind("", |wanted| {
                wanted.script = None;
                wanted.argv = words.iter().map(OsString::from).collect();
            })
        }
    }

    #[test]
    fn the_digest_is_another_when_anything_is() {
        let bench = Bench::new();
        bench.file("x.sh", "echo one", 0o644);
        bench.file("sub/y", "", 0o644);
        let digest = |bound: Result<Bound, String>| bound.unwrap().digest();
        let first = digest(bench.bind("bash x.sh", |_| ()));
        assert_eq!(first, digest(bench.bind("bash x.sh", |_| ())));
        let mut others = vec![
            digest(bench.bind("bash  x.sh", |_| ())),
            digest(bench.bind("bash x.sh ", |_| ())),
            digest(bench.bind("bash x.sh\u{200b}", |_| ())),
            digest(bench.bind_at("bash x.sh", "sub", |_| ())),
            digest(bench.bind("bash x.sh", |wanted| wanted.env = &|_| vec![("PWD".into(), "".into())])),
            digest(bench.bind("bash x.sh", |wanted| wanted.argv.push("more".into()))),
            digest(bench.words(&["bash", "x.sh"])),
            digest(bench.words(&["bash", "x.", "sh"])),
        ];
        bench.file("x.sh", "echo onf", 0o644);
        others.push(digest(bench.bind("bash x.sh", |_| ())));
        others.push(first);
        let n = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), n);
    }

    #[test]
    fn every_byte_of_the_words_is_bound() {
        let bench = Bench::new();
        let words = "printf hello world";
        let first = bench.bind(words, |_| ()).unwrap().digest();
        for at in 0..words.len() {
            let mut bytes = words.as_bytes().to_vec();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_ne!(bench.bind(&changed, |_| ()).unwrap().digest(), first, "{changed:?}");
        }
    }

    #[test]
    fn a_script_that_changed_meanwhile_is_not_run() {
        for script in [
            "bash x.sh",
            "cd . && . ./x.sh",
            "env A=1 bash \"x.sh\" arg",
            "sh <x.sh",
            "true; ./run",
            "x='1' nice bash x\\.sh",
            "python3.11 x.sh",
        ] {
            let bench = Bench::new();
            bench.file("x.sh", "echo one", 0o644);
            bench.file("run", "#!/bin/sh\necho one", 0o755);
            let mut bound = bench.bind(script, |_| ()).unwrap();
            assert_eq!(bound.check(), Ok(()), "{script}");
            bench.file("x.sh", "echo two", 0o644);
            bench.file("run", "#!/bin/sh\necho two", 0o755);
            let error = bound.check().unwrap_err();
            assert!(error.contains("changed after the command was read"), "{script}: {error}");
        }
    }

    #[test]
    fn a_program_is_what_was_opened_and_one_that_was_written_to_is_refused() {
        let bench = Bench::new();
        let path = bench.file("tool", "", 0o755);
        fs::copy("/bin/true", &path).unwrap();
        let mut bound = bench.words(&["./tool"]).unwrap();
        fs::rename(bench.file("other", "#!/bin/sh\nexit 3", 0o755), &path).unwrap();
        assert_eq!(bound.program, path.canonicalize().unwrap());
        let error = bound.check().unwrap_err();
        assert!(error.contains("changed"), "its last name is gone, which its times tell: {error}");
        assert!(bench.words(&["./tool"]).unwrap().into_parts().file.is_none(), "an interpreter opens it again");
        fs::copy("/bin/true", &path).unwrap();
        assert!(bench.words(&["./tool"]).unwrap().into_parts().file.is_some());
    }

    #[test]
    fn it_begins_inside_of_the_workspace() {
        let bench = Bench::new();
        bench.file("sub/y", "", 0o644);
        symlink("/etc", bench.root().join("out")).unwrap();
        symlink("sub", bench.root().join("in")).unwrap();
        let begins = |cwd: &str| bench.bind_at("true", cwd, |_| ()).map(|bound| bound.cwd);
        let root = bench.root().canonicalize().unwrap();
        assert_eq!(begins("").unwrap(), root);
        assert_eq!(begins("sub").unwrap(), root.join("sub"));
        assert_eq!(begins("in").unwrap(), root.join("sub"), "a link that stays inside is followed");
        for cwd in ["..", "/", "/etc", "out", "sub/../.."] {
            assert!(begins(cwd).unwrap_err().contains("outside of the workspace"), "{cwd}");
        }
        for cwd in ["none", "sub/y"] {
            assert!(begins(cwd).unwrap_err().contains("cannot be used"), "{cwd}");
        }
        let outside = bench.bind_at("true", "/etc", |wanted| wanted.is_inside = false);
        assert_eq!(outside.unwrap().cwd, Path::new("/etc"));
    }

    #[test]
    fn a_program_is_found_by_its_path_or_by_the_list_and_nowhere_else() {
        let bench = Bench::new();
        bench.file("here", "#!/bin/sh", 0o755);
        bench.file("data", "", 0o644);
        assert!(bench.words(&["true"]).is_ok() && bench.words(&["./here"]).is_ok());
        for words in [&["here"][..], &["./data"], &["./none"], &["no-such-program"], &["sub/"], &[""], &[]] {
            assert!(bench.words(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn no_more_files_are_named_than_are_looked_into() {
        let bench = Bench::new();
        let named = |n: usize| (0..n).map(|i| format!(" s{i}.sh")).collect::<String>();
        for i in 0..=FILES_MAX {
            bench.file(&format!("s{i}.sh"), "", 0o644);
        }
        // The shell is one of them.
        assert!(bench.bind(&format!("cat{}", named(FILES_MAX - 1)), |_| ()).is_ok());
        assert!(bench.bind(&format!("cat{}", named(FILES_MAX)), |_| ()).is_err());
    }
}
