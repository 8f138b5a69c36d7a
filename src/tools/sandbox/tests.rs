use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;

use super::*;

/// An agent's directory in a state directory with a secret, as a daemon has them.
struct Place {
    _temp: tempfile::TempDir,
    state: PathBuf,
}

impl Place {
    fn new() -> Place {
        let temp = tempfile::TempDir::new().unwrap();
        let state = temp.path().canonicalize().unwrap().join("state");
        for name in ["workspace", "scratch", "other"] {
            fs::create_dir_all(state.join(name)).unwrap();
        }
        fs::write(state.join("token"), "canary-51c2").unwrap();
        fs::write(state.join("workspace/note"), "hello").unwrap();
        Place { _temp: temp, state }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            mode: Mode::Sandbox,
            network: Network::Off,
            workspace: self.state.join("workspace"),
            access: Access::ReadWrite,
            scratch: self.state.join("scratch"),
            read: Vec::new(),
            write: Vec::new(),
            hidden: vec![self.state.clone()],
            limits: LIMITS,
        }
    }
}

#[track_caller]
fn run(wanted: Wanted, layers: Layers, script: &str) -> Output {
    let workspace = wanted.workspace.clone();
    let confinement = Confinement::with_layers(wanted, Kernel::get(), layers).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin").current_dir(workspace);
    confinement.confine(&mut command).unwrap();
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{error}: {:?}", refusal(&error)),
    }
}

#[track_caller]
fn says(wanted: Wanted, script: &str) -> String {
    let output = run(wanted, Layers::ALL, script);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_command_works_in_its_workspace_and_sees_nothing_beside_it() {
    let place = Place::new();
    let said = says(place.wanted(), "pwd; cat note; echo made > new; ls -a; ls ..; cat ../token; echo $HOME; ls /");
    let workspace = place.state.join("workspace");
    assert!(said.starts_with(&format!("{}\nhello", workspace.display())), "{said}");
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(fs::read_to_string(workspace.join("new")).unwrap(), "made\n");
    assert!(!said.contains("scratch\n") && !said.contains("other\n"), "{said}");
}

#[test]
fn every_subset_of_layers_can_be_put_up() {
    let place = Place::new();
    for layer in Layer::ALL {
        for layers in [Layers::ALL.without(layer), Layers::NONE.with(layer)] {
            let output = run(place.wanted(), layers, "cat note && exit 7");
            assert_eq!(output.status.code(), Some(7), "{layer:?} {layers:?} {output:?}");
            assert_eq!(output.stdout, b"hello");
        }
    }
}

#[test]
fn a_command_ends_as_it_ended() {
    let place = Place::new();
    for (script, code, signal) in [
        ("true", Some(0), None),
        ("exit 41", Some(41), None),
        ("kill -TERM $$", None, Some(15)),
        ("kill -9 $$", None, Some(9)),
    ] {
        let status = run(place.wanted(), Layers::ALL, script).status;
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
    }
    let mut missing = Command::new("/no/such/program");
    Confinement::of(place.wanted(), Kernel::get()).unwrap().confine(&mut missing).unwrap();
    missing.current_dir(place.wanted().workspace);
    let error = missing.output().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(refusal(&error).is_none());
}

/// Whether a process with this text among its words runs, here or in any namespace below.
fn is_running(mark: &str) -> bool {
    let is_one = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|words| String::from_utf8_lossy(&words).contains(mark))
    };
    fs::read_dir("/proc").unwrap().flatten().any(|entry| is_one(&entry))
}

#[track_caller]
fn ends(mark: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while is_running(mark) {
        assert!(std::time::Instant::now() < deadline, "{mark} runs on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Starts a script that says `ready` and goes on.
fn start(wanted: Wanted, script: &str) -> std::process::Child {
    use std::io::Read as _;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin").current_dir(&wanted.workspace);
    command.stdout(std::process::Stdio::piped());
    Confinement::of(wanted, Kernel::get()).unwrap().confine(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    let mut word = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ready\n");
    child
}

#[test]
fn a_workspace_that_may_only_be_read_cannot_be_changed() {
    let place = Place::new();
    let said =
        says(Wanted { access: Access::ReadOnly, ..place.wanted() }, "cat note; echo x > new; rm note; echo y > /tmp/z");
    assert!(said.starts_with("hello"), "{said}");
    assert_eq!(fs::read_dir(place.state.join("workspace")).unwrap().count(), 1, "{said}");
    assert_eq!(fs::read_to_string(place.state.join("scratch/z")).unwrap(), "y\n");
}

#[test]
fn a_workspace_that_is_not_seen_is_not_there() {
    let place = Place::new();
    let script = format!("pwd; cat {}/note", place.state.join("workspace").display());
    let said = says(Wanted { access: Access::None, ..place.wanted() }, &script);
    assert!(said.starts_with("/tmp\n") && !said.contains("hello"), "{said}");
}

#[test]
fn what_is_hidden_is_covered_and_what_is_allowed_in_it_is_seen() {
    let place = Place::new();
    let home = place.state.parent().unwrap().to_owned();
    fs::write(home.join("plain"), "plain").unwrap();
    fs::create_dir(home.join("more")).unwrap();
    fs::write(home.join("key"), "canary-77").unwrap();
    let wanted = Wanted {
        read: vec![home.clone()],
        write: vec![home.join("more")],
        hidden: vec![place.state.clone(), home.join("key")],
        ..place.wanted()
    };
    let said = says(
        wanted.clone(),
        "cd ../..; cat plain; cat key state/token; ls state; cat state/workspace/note; echo x > more/x; echo y > plain",
    );
    assert!(said.starts_with("plain") && said.contains("workspace\nhello"), "{said}");
    assert!(!said.contains("canary") && !said.contains("other"), "{said}");
    assert_eq!(fs::read_to_string(home.join("more/x")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(home.join("plain")).unwrap(), "plain");

    // Without a view of its own nothing can be covered, so there is no sandbox.
    let kernel = Kernel { mount: false, ..Kernel::get() };
    let confinement = Confinement::of(wanted, kernel).unwrap();
    let refused = confinement.confine(&mut Command::new("/bin/true"));
    assert!(matches!(refused, Err(SandboxError::Uncovered { path }) if path == place.state));
}

#[test]
fn nobody_opens_the_system_by_a_setting() {
    let place = Place::new();
    for path in ["/", "/proc", "/proc/1", "/sys", "/dev", "/etc", "/dev/shm"] {
        let path = PathBuf::from(path);
        for wanted in [
            Wanted { read: vec![path.clone()], ..place.wanted() },
            Wanted { write: vec![path.clone()], ..place.wanted() },
            Wanted { workspace: path.clone(), ..place.wanted() },
        ] {
            let refused = Confinement::of(wanted, Kernel::get());
            assert!(matches!(refused, Err(SandboxError::Forbidden { .. })), "{} {refused:?}", path.display());
        }
    }
}

#[test]
fn a_directory_that_was_changed_for_another_is_not_bound() {
    let place = Place::new();
    let workspace = place.state.join("workspace");
    let mut command = Command::new("/bin/true");
    command.current_dir("/");
    Confinement::of(place.wanted(), Kernel::get()).unwrap().confine(&mut command).unwrap();
    fs::rename(&workspace, place.state.join("moved")).unwrap();
    std::os::unix::fs::symlink(place.state.join("other"), &workspace).unwrap();
    let error = command.status().unwrap_err();
    let refusal = refusal(&error).expect("a step of the sandbox failed");
    assert!(refusal.to_string().contains("putting files into it"), "{refusal}");
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let place = Place::new();
    run(place.wanted(), Layers::ALL, "sleep 971.25 > /dev/null 2>&1 & setsid sleep 971.25 > /dev/null 2>&1 & exit 0");
    ends("971.25");
}

#[test]
fn a_signal_to_the_group_arrives_and_a_kill_of_the_keeper_ends_everything() {
    let place = Place::new();
    let mut child = start(place.wanted(), "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    // SAFETY: the group of a child that was not collected, so its number is its own.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(9));

    let mut child = start(place.wanted(), "echo ready; sleep 972.5");
    child.kill().unwrap();
    child.wait().unwrap();
    ends("972.5");
}

#[test]
fn time_on_a_processor_ends() {
    let place = Place::new();
    let limits = Limits { cpu_seconds: 1, ..LIMITS };
    let status = run(Wanted { limits, ..place.wanted() }, Layers::ALL, "while :; do :; done").status;
    assert!(matches!(status.signal(), Some(libc::SIGXCPU | libc::SIGKILL)), "{status}");
}

#[test]
fn an_elevated_command_runs_on_the_host_without_what_was_left_open() {
    let place = Place::new();
    let left = fs::File::open(place.state.join("token")).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&left);
    // SAFETY: numbers only.
    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    let wanted = Wanted { mode: Mode::Elevated, scratch: PathBuf::from("/no/such/directory"), ..place.wanted() };
    let said = says(wanted, &format!("cat ../token; cat <&{fd}"));
    assert!(said.starts_with("canary-51c2"), "{said}");
    assert!(!said[4..].contains("canary"), "{said}");
}

#[test]
fn with_the_network_on_the_host_is_reached() {
    let place = Place::new();
    if !Path::new("/bin/bash").exists() {
        println!("NOT SHOWN on this machine: there is no bash to connect with");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script =
        format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}' && echo reached", listener.local_addr().unwrap().port());
    assert!(says(Wanted { network: Network::On, ..place.wanted() }, &script).contains("reached"));
    assert!(!says(place.wanted(), &script).contains("reached"));
}
