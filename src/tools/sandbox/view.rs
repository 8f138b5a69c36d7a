//! The files a command sees: which paths, and the steps that make a root of them.
//!
//! [`Seen`] is the list, made of what is wanted and of what programs need of a system. [`View`] turns it into mounts
//! below a root of its own; [`Seen::rules`] says the same to Landlock.
//!
//! A path is seen under its own name, so what a file tool writes and what a command reads is called the same. Only the
//! scratch directory is called `/tmp`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use super::landlock::{Allowed, Ruleset};
use super::{Access, Network, SandboxError, Wanted, c_path};

/// What the scratch directory is called inside.
pub(super) const TMP: &str = "/tmp";
/// Where the roots lie while the new one is made.
pub(super) const OLD_ROOT: &std::ffi::CStr = c"/oldroot";
pub(super) const NEW_ROOT: &std::ffi::CStr = c"/newroot";

/// Programs and what they load. A command that needs more is given it by a setting.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/run/current-system",
    "/gnu/store",
];

/// Of `/etc` only what programs read that have no business with secrets.
const ETC: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "environment",
    "fonts",
    "gai.conf",
    "gitconfig",
    "group",
    "host.conf",
    "hosts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "python3",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "xdg",
];
/// Needed only to find names on a network.
const RESOLVER: &str = "/etc/resolv.conf";

/// What no setting opens, nor a directory that holds it: the kernel's own files, devices, and the sockets by which a
/// command would have others start what it likes.
const FORBIDDEN: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/run/dbus",
    "/run/systemd",
    "/var/run",
];

/// Devices that are nobody's.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// What a process may know of the machine where it has no `/proc` of its own.
const MACHINE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/version",
    "/proc/filesystems",
];

/// Room in file systems that are made of memory, for each command.
const MEMORY_FILES: &std::ffi::CStr = c"size=64m,nr_inodes=4096,mode=1777";
/// Those that hold only names.
const NAMES_ONLY: &std::ffi::CStr = c"size=1m,nr_inodes=4096,mode=755";

/// Whether a real path is none that a setting may open.
pub(super) fn is_forbidden(path: &Path) -> bool {
    // Of `/etc` a part may be opened by name, of the others none.
    let is_kernel = ["/proc", "/sys", "/dev"].iter().any(|above| path.starts_with(above));
    is_kernel || FORBIDDEN.iter().any(|forbidden| Path::new(forbidden).starts_with(path))
}

/// One thing that is seen.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// What lies at `source`.
    Bound { source: PathBuf, is_dir: bool, can_write: bool },
    /// A link with this text.
    Link(PathBuf),
    /// Nothing, where something would be.
    Covered { is_dir: bool },
}

/// The paths a command sees, by the names it sees them by.
#[derive(Debug)]
pub(super) struct Seen(BTreeMap<PathBuf, Entry>);

impl Seen {
    /// All paths of `wanted` are real ones.
    pub(super) fn of(wanted: &Wanted) -> Result<Seen, SandboxError> {
        let mut seen = Seen(BTreeMap::new());
        for path in SYSTEM {
            seen.system(Path::new(path));
        }
        for name in ETC {
            seen.system(&Path::new("/etc").join(name));
        }
        if wanted.network == Network::On {
            seen.system(Path::new(RESOLVER));
        }
        seen.bind(&wanted.scratch, PathBuf::from(TMP), true)?;
        // What may be changed wins over what may be read, whatever the order.
        let readable = (wanted.access == Access::ReadOnly).then_some(&wanted.workspace);
        let writable = (wanted.access == Access::ReadWrite).then_some(&wanted.workspace);
        for path in wanted.read.iter().chain(readable) {
            seen.bind(path, path.clone(), false)?;
        }
        for path in wanted.write.iter().chain(writable) {
            seen.bind(path, path.clone(), true)?;
        }
        for path in &wanted.hidden {
            if seen.shows(path) && !seen.0.contains_key(path) {
                seen.0.insert(path.clone(), Entry::Covered { is_dir: path.is_dir() });
            }
        }
        Ok(seen)
    }

    /// A path of the system, which may not be there.
    fn system(&mut self, path: &Path) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        // Where the directories above are no links, what is none itself is real already: most are of this kind.
        let is_plain =
            !metadata.is_symlink() && [Some(Path::new("/")), Some(Path::new("/etc"))].contains(&path.parent());
        let Ok(real) = (if is_plain { Ok(path.to_owned()) } else { path.canonicalize() }) else { return };
        let is_seen = SYSTEM.iter().any(|seen| real != *path && real.starts_with(seen));
        let entry = match fs::read_link(path) {
            // Where it leads is seen as well.
            Ok(text) if is_seen => Entry::Link(text),
            _ => Entry::Bound { is_dir: real.is_dir(), source: real, can_write: false },
        };
        self.0.insert(path.to_owned(), entry);
    }

    fn bind(&mut self, source: &Path, at: PathBuf, can_write: bool) -> Result<(), SandboxError> {
        let metadata = fs::metadata(source);
        let metadata = metadata.map_err(|error| SandboxError::Path { path: source.to_owned(), source: error })?;
        self.0.insert(at, Entry::Bound { source: source.to_owned(), is_dir: metadata.is_dir(), can_write });
        Ok(())
    }

    /// Whether what lies at `path` on the host is seen, by its own name or below another.
    fn shows(&self, path: &Path) -> bool {
        self.nearest(path).is_some_and(|(above, entry)| match entry {
            Entry::Bound { source, .. } => source == above,
            _ => false,
        })
    }

    /// Whether a path lies in something that is covered.
    fn covers(&self, path: &Path) -> bool {
        self.nearest(path).is_some_and(|(_, entry)| matches!(entry, Entry::Covered { .. }))
    }

    /// What decides about a path: the entry at it, or at the nearest directory above it.
    fn nearest<'a>(&self, path: &'a Path) -> Option<(&'a Path, &Entry)> {
        path.ancestors().find_map(|above| Some((above, self.0.get(above)?)))
    }

    /// The first of `hidden` that only a cover keeps out of sight.
    pub(super) fn uncovered<'a>(&self, hidden: &'a [PathBuf]) -> Option<&'a Path> {
        let is_covered = |path: &&PathBuf| matches!(self.0.get(*path), Some(Entry::Covered { .. }));
        hidden.iter().find(is_covered).map(PathBuf::as_path)
    }

    /// The rules for Landlock, and those that can only be made inside.
    pub(super) fn rules(
        &self,
        kernel: &Kernel,
        network: Network,
        has_own_network: bool,
        has_own_files: bool,
    ) -> Result<Rules, SandboxError> {
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |source| SandboxError::Path { path, source }
        };
        let ruleset = Ruleset::new(kernel.landlock_abi, network, has_own_network).map_err(cannot(Path::new("/")))?;
        for (path, entry) in &self.0 {
            if let Entry::Bound { source, is_dir, can_write } = entry {
                let allowed = if *can_write { Allowed::Write } else { Allowed::Read };
                ruleset.allow(&c_path(source), *is_dir, allowed).map_err(cannot(path))?;
            }
        }
        for path in DEVICES.iter().map(Path::new).filter(|path| path.exists()) {
            ruleset.allow(&c_path(path), false, Allowed::Devices).map_err(cannot(path))?;
        }
        let late = match has_own_files {
            true => vec![
                Late { path: c"/".into(), is_dir: true, allowed: Allowed::List },
                Late { path: c"/proc".into(), is_dir: true, allowed: Allowed::Read },
                Late { path: c"/dev/pts".into(), is_dir: true, allowed: Allowed::Devices },
                Late { path: c"/dev/shm".into(), is_dir: true, allowed: Allowed::Write },
            ],
            false => {
                for path in MACHINE.iter().map(Path::new).filter(|path| path.exists()) {
                    ruleset.allow(&c_path(path), false, Allowed::Read).map_err(cannot(path))?;
                }
                vec![Late { path: c"/proc/self".into(), is_dir: true, allowed: Allowed::Read }]
            }
        };
        Ok(Rules { ruleset, late })
    }
}

/// Rules for Landlock.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) ruleset: Ruleset,
    /// About what is there only once the child has made it.
    pub(super) late: Vec<Late>,
}

/// A rule that is made inside. What is not there needs none.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) path: CString,
    pub(super) is_dir: bool,
    pub(super) allowed: Allowed,
}

/// A step on the way to a root of its own. Targets lie below [`NEW_ROOT`], sources below [`OLD_ROOT`].
#[derive(Debug)]
pub(super) enum Step {
    Folder(CString),
    File(CString),
    Link {
        text: CString,
        target: CString,
    },
    /// What is bound must be the file that was looked at.
    Bind {
        source: CString,
        target: CString,
        device: u64,
        inode: u64,
    },
    /// A device, which is what its name says or is not there.
    Device {
        source: CString,
        target: CString,
    },
    Flags {
        target: CString,
        flags: libc::c_ulong,
    },
    Memory {
        target: CString,
        options: &'static std::ffi::CStr,
    },
    Proc(CString),
    Terminals(CString),
}

/// The steps.
#[derive(Debug)]
pub(super) struct View {
    /// A directory that is covered for as long as the root is made.
    pub(super) base: CString,
    pub(super) steps: Vec<Step>,
    /// Mounts that are made read-only at the end, also where the kernel's number of processes has been written.
    pub(super) last: Vec<Step>,
}

impl View {
    pub(super) fn of(seen: &Seen, has_proc: bool) -> Result<View, SandboxError> {
        let mut steps = Vec::new();
        let mut last = Vec::new();
        let mut made: BTreeSet<PathBuf> = BTreeSet::new();
        let submounts = mount_points();
        for (path, entry) in &seen.0 {
            let is_there =
                |above: &Path| matches!(seen.0.get(above), Some(Entry::Bound { source, .. }) if source == above);
            let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !is_there(above)).collect();
            for parent in parents.into_iter().rev().filter(|parent| parent.parent().is_some()) {
                if !seen.0.contains_key(parent) && made.insert(parent.to_owned()) {
                    steps.push(Step::Folder(inside(parent)));
                }
            }
            let is_host_dir = path.parent().is_some_and(|parent| seen.shows(parent));
            match entry {
                Entry::Link(text) if !is_host_dir => {
                    steps.push(Step::Link { text: c_path(text), target: inside(path) });
                }
                // It is there as it is.
                Entry::Link(_) => {}
                Entry::Bound { source, is_dir, can_write } => {
                    if !is_host_dir {
                        steps.push(if *is_dir { Step::Folder(inside(path)) } else { Step::File(inside(path)) });
                    }
                    steps.push(bind(source, path)?);
                    let mode = if *can_write { 0 } else { libc::MS_RDONLY };
                    last.push(flags(source, path, mode)?);
                    let below = submounts.iter().filter(|point| *point != source && point.starts_with(source));
                    for point in below {
                        let Ok(rest) = point.strip_prefix(source) else { continue };
                        // One that cannot be asked cannot be reached by the command either.
                        last.extend(
                            flags(point, &path.join(rest), mode).ok().filter(|_| !seen.covers(&path.join(rest))),
                        );
                    }
                }
                Entry::Covered { is_dir: true } => {
                    steps.push(Step::Memory { target: inside(path), options: NAMES_ONLY });
                    last.push(Step::Flags { target: inside(path), flags: libc::MS_RDONLY | NO_FORCE });
                }
                Entry::Covered { is_dir: false } => {
                    steps.push(Step::Device { source: outside(Path::new("/dev/null")), target: inside(path) });
                }
            }
        }
        let of_own = own_files(has_proc);
        // Devices and the rest of the system come first: a path that is wanted may lie below.
        let steps = of_own.into_iter().chain(steps).collect();
        let is_dir = |path: &&str| Path::new(path).is_dir();
        let base = ["/tmp", "/usr", "/etc"].into_iter().find(is_dir).unwrap_or("/");
        last.push(Step::Flags { target: inside(Path::new("/dev")), flags: libc::MS_RDONLY | libc::MS_NOSUID });
        if has_proc {
            let flags = libc::MS_RDONLY | NO_FORCE | libc::MS_NOEXEC;
            last.push(Step::Flags { target: inside(Path::new("/proc")), flags });
        }
        last.push(Step::Flags { target: inside(Path::new("/")), flags: libc::MS_RDONLY | NO_FORCE });
        Ok(View { base: c_path(Path::new(base)), steps, last })
    }
}

/// Nothing that is mounted gives a program rights or is a device.
const NO_FORCE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// What every root has.
fn own_files(has_proc: bool) -> Vec<Step> {
    let mut steps = vec![
        Step::Folder(inside(Path::new("/etc"))),
        Step::Folder(inside(Path::new("/run"))),
        Step::Folder(inside(Path::new("/var"))),
        Step::Link { text: c"/tmp".into(), target: inside(Path::new("/var/tmp")) },
        Step::Folder(inside(Path::new("/proc"))),
        Step::Folder(inside(Path::new("/dev"))),
        Step::Memory { target: inside(Path::new("/dev")), options: NAMES_ONLY },
    ];
    for device in DEVICES.iter().map(Path::new).filter(|device| device.exists()) {
        steps.push(Step::File(inside(device)));
        steps.push(Step::Device { source: outside(device), target: inside(device) });
    }
    for (name, text) in [
        ("/dev/fd", c"/proc/self/fd"),
        ("/dev/stdin", c"/proc/self/fd/0"),
        ("/dev/stdout", c"/proc/self/fd/1"),
        ("/dev/stderr", c"/proc/self/fd/2"),
        ("/dev/ptmx", c"pts/ptmx"),
    ] {
        steps.push(Step::Link { text: text.into(), target: inside(Path::new(name)) });
    }
    for name in ["/dev/shm", "/dev/pts"] {
        steps.push(Step::Folder(inside(Path::new(name))));
    }
    steps.push(Step::Memory { target: inside(Path::new("/dev/shm")), options: MEMORY_FILES });
    steps.push(Step::Terminals(inside(Path::new("/dev/pts"))));
    if has_proc {
        steps.push(Step::Proc(inside(Path::new("/proc"))));
    }
    steps
}

fn bind(source: &Path, at: &Path) -> Result<Step, SandboxError> {
    let metadata = fs::metadata(source);
    let metadata = metadata.map_err(|error| SandboxError::Path { path: source.to_owned(), source: error })?;
    Ok(Step::Bind { source: outside(source), target: inside(at), device: metadata.dev(), inode: metadata.ino() })
}

/// `ST_RELATIME` of linux/statfs.h, which the C library's crate does not name everywhere.
const ST_RELATIME: libc::c_ulong = 4096;

/// The flags a mount has on the host, which the kernel does not let go of, and those that are added.
fn flags(source: &Path, at: &Path, added: libc::c_ulong) -> Result<Step, SandboxError> {
    let path = c_path(source);
    // SAFETY: the struct is plain numbers, for which all zeros is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte and the struct lives on this stack for the length of the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(SandboxError::Path { path: source.to_owned(), source: std::io::Error::last_os_error() });
    }
    let pairs = [
        (libc::ST_RDONLY, libc::MS_RDONLY),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (ST_RELATIME, libc::MS_RELATIME),
    ];
    let kept = pairs.iter().filter(|(is, _)| found.f_flag & is != 0).fold(0, |flags, (_, flag)| flags | flag);
    Ok(Step::Flags { target: inside(at), flags: kept | added | NO_FORCE })
}

/// Every mount point of this process.
fn mount_points() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    table.split(|byte| *byte == b'\n').filter_map(point).collect()
}

/// `\040` is a blank: proc(5) writes blanks, tabs, newlines and backslashes this way.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| field[at] == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(field[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn inside(path: &Path) -> CString {
    below(NEW_ROOT, path)
}

fn outside(path: &Path) -> CString {
    below(OLD_ROOT, path)
}

fn below(root: &std::ffi::CStr, path: &Path) -> CString {
    let mut whole = root.to_bytes().to_vec();
    whole.extend_from_slice(path.as_os_str().as_bytes());
    CString::new(whole).expect("a path that exists holds no zero byte")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::{LIMITS, Mode};
    use super::*;

    fn wanted(home: &Path) -> Wanted {
        for name in ["state/workspace", "state/scratch", "state/keys", "home/.ssh"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        Wanted {
            mode: Mode::Sandbox,
            network: Network::Off,
            workspace: home.join("state/workspace"),
            access: Access::ReadWrite,
            scratch: home.join("state/scratch"),
            read: Vec::new(),
            write: Vec::new(),
            hidden: vec![home.join("state"), home.join("home/.ssh")],
            limits: LIMITS,
        }
    }

    #[test]
    fn what_is_hidden_is_covered_only_where_it_would_be_seen() {
        let temp = tempfile::TempDir::new().unwrap();
        let home = temp.path().canonicalize().unwrap();
        let wanted = wanted(&home);
        let seen = Seen::of(&wanted).unwrap();
        assert!(seen.shows(&home.join("state/workspace/x")));
        assert!(!seen.shows(&home.join("state/keys")), "the scratch directory is not /tmp of the host");
        assert_eq!(seen.uncovered(&wanted.hidden), None);

        let wide = Wanted { read: vec![home.clone()], ..wanted };
        let seen = Seen::of(&wide).unwrap();
        assert_eq!(seen.uncovered(&wide.hidden), Some(home.join("state").as_path()));
        assert_eq!(seen.0[&home.join("state")], Entry::Covered { is_dir: true });
        assert!(matches!(seen.0[&home.join("state/workspace")], Entry::Bound { can_write: true, .. }));
    }

    #[test]
    fn a_workspace_is_seen_as_it_is_asked_for() {
        let temp = tempfile::TempDir::new().unwrap();
        let home = temp.path().canonicalize().unwrap();
        let wanted = wanted(&home);
        let write = |access| {
            let seen = Seen::of(&Wanted { access, ..wanted.clone() }).unwrap();
            match seen.0.get(&wanted.workspace) {
                Some(Entry::Bound { can_write, .. }) => Some(*can_write),
                _ => None,
            }
        };
        assert_eq!(write(Access::None), None);
        assert_eq!(write(Access::ReadOnly), Some(false));
        assert_eq!(write(Access::ReadWrite), Some(true));
    }

    #[test]
    fn no_secret_of_the_system_is_among_what_is_seen() {
        let temp = tempfile::TempDir::new().unwrap();
        let seen = Seen::of(&wanted(&temp.path().canonicalize().unwrap())).unwrap();
        for path in ["/etc/shadow", "/etc/ssl/private", "/etc/ssh", "/root", "/home", "/var/run/docker.sock", "/sys"] {
            assert!(!seen.shows(Path::new(path)), "{path}");
        }
        assert!(seen.shows(Path::new("/usr/bin/env")));
        assert!(!seen.0.contains_key(Path::new(RESOLVER)));
    }

    #[test]
    fn parents_are_made_before_what_lies_in_them() {
        let temp = tempfile::TempDir::new().unwrap();
        let home = temp.path().canonicalize().unwrap();
        symlink("/usr", home.join("link")).unwrap();
        let wanted = wanted(&home);
        let view = View::of(&Seen::of(&wanted).unwrap(), true).unwrap();
        let mut made: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::from("/newroot")]);
        for step in &view.steps {
            let target = match step {
                Step::Folder(target) | Step::File(target) | Step::Proc(target) | Step::Terminals(target) => target,
                Step::Link { target, .. } | Step::Memory { target, .. } => target,
                Step::Bind { target, .. } | Step::Device { target, .. } | Step::Flags { target, .. } => target,
            };
            let target = PathBuf::from(OsString::from_vec(target.to_bytes().to_vec()));
            assert!(made.contains(target.parent().unwrap()), "{} has no parent", target.display());
            made.insert(target);
        }
    }

    #[test]
    fn names_of_mount_points_are_read_as_they_are() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), PathBuf::from(r"/a\04"));
        assert!(mount_points().contains(&PathBuf::from("/")));
    }
}
