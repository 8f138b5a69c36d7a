//! The servers that are measured: starting, watching and stopping them as separate processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{Client, Purpose};
use crate::model;

/// The secret every measured gateway is started with.
pub const TOKEN: &str = "bench-token-0123456789abcdef0123456789abcdef";
/// Pause between two attempts to connect to a process that starts: short beside what is measured, long enough not to take
/// the processor from it.
const POLL_PAUSE: Duration = Duration::from_micros(100);
/// A process that does not accept a client within this time does not start at all.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// A process that does not end within this time after SIGTERM is killed, and the run fails.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Clock ticks per second in `/proc/PID/stat`; fixed by the Linux ABI (proc(5), `USER_HZ`).
const TICKS_PER_SEC: u64 = 100;

/// A command to measure, with `{port}`, `{token}` and `{state}` to fill in.
pub struct Target {
    pub name: String,
    pub command: String,
}

/// A process that was started and is not yet stopped. Killed when dropped.
pub struct Process {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

/// Resident memory of a process and its descendants, in KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// For a single process the kernel's `VmRSS`. With descendants, file pages count once (as the largest share of one
    /// process has them): they run the same program, and a plain sum would charge it to each.
    pub resident_kib: u64,
    /// The part that is the process's own: heap and stacks.
    pub anonymous_kib: u64,
    /// The part that is pages of files, mostly of the binary.
    pub file_kib: u64,
    pub n_threads: u64,
    pub n_processes: u64,
}

impl Target {
    /// The size of the program, when it is one file that needs no interpreter.
    pub fn program_bytes(&self) -> Option<u64> {
        let program = fs::read(self.command.split_whitespace().next()?).ok()?;
        program.starts_with(b"\x7fELF").then_some(program.len() as u64)
    }

    /// Starts the command on a port that was free a moment ago, without waiting for it; with a model on that port, when there
    /// is one, and with nothing configured otherwise.
    pub fn spawn(&self, state: &Path, model_port: Option<u16>) -> Result<Process> {
        let port = free_port()?;
        if let Some(model_port) = model_port {
            let workspace = state.join("workspace");
            fs::create_dir_all(&workspace)?;
            let document = model::configuration(port, TOKEN, &workspace.to_string_lossy(), model_port);
            fs::write(state.join("openclaw.json"), format!("{document:#}\n"))?;
        }
        let fill = |word: &str| {
            word.replace("{port}", &port.to_string())
                .replace("{token}", TOKEN)
                .replace("{state}", &state.display().to_string())
        };
        let mut words = self.command.split_whitespace().map(fill);
        let program = words.next().ok_or("a target's command is empty")?;
        let log = state.with_extension("log");
        let output = File::create(&log)?;
        // A measured daemon gets the environment of a service, not that of whoever runs the bench: what it inherits (proxies,
        // RUST_LOG, RUST_BACKTRACE) would be measured with it.
        let child = Command::new(&program)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", state)
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        Ok(Process { child, port, log })
    }

    /// Starts the command and returns it with its first accepted client and the time from before the start until `hello-ok`.
    pub fn start(&self, state: &Path, model_port: Option<u16>) -> Result<(Process, Client, Duration)> {
        fs::create_dir_all(state)?;
        let began = Instant::now();
        let mut process = self.spawn(state, model_port)?;
        loop {
            match Client::connect(process.port, TOKEN, &["operator.read"], Purpose::Measure) {
                Ok(client) => return Ok((process, client, began.elapsed())),
                Err(error) if began.elapsed() > START_TIMEOUT => {
                    return Err(format!("{} accepts no client: {error}\n{}", self.name, process.log_tail()).into());
                }
                Err(_) => {}
            }
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("{} ended while starting ({status})\n{}", self.name, process.log_tail()).into());
            }
            sleep(POLL_PAUSE);
        }
    }
}

impl Process {
    /// Starts the echo server next to this driver.
    pub fn echo(program: &Path) -> Result<Process> {
        let mut child = Command::new(program)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout was piped")).read_line(&mut line)?;
        let port = line.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| format!("the echo server said {line:?}"))?;
        Ok(Process { child, port, log: PathBuf::new() })
    }

    /// Sends SIGTERM and returns how long the process took to end.
    pub fn stop(mut self) -> Result<Duration> {
        let began = Instant::now();
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > STOP_TIMEOUT {
                return Err(format!("did not end within {STOP_TIMEOUT:?} after SIGTERM\n{}", self.log_tail()).into());
            }
            sleep(POLL_PAUSE);
        }
        Ok(began.elapsed())
    }

    /// Memory of the process and of everything it started.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in tree(self.child.id()) {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let fields: BTreeMap<&str, u64> = status
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter_map(|(name, value)| Some((name, value.split_whitespace().next()?.parse().ok()?)))
                .collect();
            let field = |name: &str| fields.get(name).copied().ok_or(format!("no {name} in /proc/{pid}/status"));
            let file_kib = field("RssFile")?;
            memory.resident_kib += field("VmRSS")? - file_kib;
            memory.anonymous_kib += field("RssAnon")?;
            memory.file_kib = memory.file_kib.max(file_kib);
            memory.n_threads += field("Threads")?;
            memory.n_processes += 1;
        }
        memory.resident_kib += memory.file_kib;
        Ok(memory)
    }

    /// Processor time used so far by the process and its descendants, in all threads.
    pub fn cpu(&self) -> Result<Duration> {
        tree(self.child.id()).into_iter().map(|pid| cpu(&pid.to_string())).sum()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a proper stop the process is already reaped and both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps this driver and some servers on one processor until dropped.
///
/// Whether the kernel wakes two processes that talk to each other on one processor or on two is a matter of luck, and on
/// virtual machines the second takes ten times as long: without this, round trips of the same program come out at 7 or at
/// 80 µs, and of two programs the lucky one looks faster.
pub struct Pinned {
    pids: Vec<u32>,
    allowed: String,
}

impl Pinned {
    pub fn new(servers: &[&Process]) -> Result<Pinned> {
        let status = fs::read_to_string("/proc/self/status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = allowed.ok_or("no Cpus_allowed_list in /proc/self/status")?.trim().to_owned();
        // The last one: the first takes most interrupts.
        let last = allowed.rsplit([',', '-']).next().unwrap_or("0").to_owned();
        let trees = servers.iter().flat_map(|server| tree(server.child.id()));
        let pinned = Pinned { pids: trees.chain([std::process::id()]).collect(), allowed };
        pinned.set(&last)?;
        Ok(pinned)
    }

    fn set(&self, cpus: &str) -> Result<()> {
        for pid in &self.pids {
            let set =
                Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", cpus, &pid.to_string()]).output();
            let set = set.map_err(|error| format!("cannot run taskset (package util-linux): {error}"))?;
            if !set.status.success() {
                return Err(format!("taskset: {}", String::from_utf8_lossy(&set.stderr)).into());
            }
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.allowed) {
            eprintln!("the processes stay on one processor: {error}");
        }
    }
}

/// Processor time used so far by a process; `self` is this one.
pub fn cpu(pid: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold anything, so counting starts behind its closing parenthesis (proc(5)): utime and stime
    // are fields 14 and 15 of all, the 12th and 13th from there.
    let rest = stat.rsplit_once(')').ok_or("no command name in /proc stat")?.1;
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SEC))
}

fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
