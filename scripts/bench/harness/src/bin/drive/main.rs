//! Measures gateways as whole processes: start, memory, latency, throughput beside a bare echo server in the same run, and
//! whole turns with a model that answers at once.
//!
//! `drive [options] --target NAME COMMAND [--target NAME COMMAND]...`
//!
//! A COMMAND is words separated by spaces in which `{port}`, `{token}` and `{state}` are filled in; it must serve the gateway
//! protocol on that loopback port with that shared token and keep its state in that folder. The first target is held to the
//! limits in `report.rs`.

mod client;
mod crowd;
mod latency;
mod model;
mod process;
mod report;
mod samples;
mod turns;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::WebSocket;

use client::{Client, Purpose, open};
use crowd::{Crowd, Request};
use latency::Latency;
use process::{Memory, Pinned, Process, TOKEN, Target};
use samples::Samples;
use turns::Turns;

/// What can go wrong in a measure; shown to a person and never acted on.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rest before memory is read, so that what start-up or load left for later is done.
const SETTLE: Duration = Duration::from_secs(2);
/// A series of starts ends after this time, with fewer than asked for (never fewer than three), when the target is slow.
const STARTS_TIME_MAX: Duration = Duration::from_secs(60);
/// Sessions that exist while `sessions.list` is measured.
const N_SESSIONS: usize = 50;
/// Clients and requests under way on each in the throughput measure: together fewer than a lane of the gateway holds,
/// because beyond that it refuses, as it should.
const LOAD_CLIENTS: usize = 16;
const LOAD_DEPTH: usize = 12;
/// Alternations between gateway and echo in the throughput measure.
const LOAD_ROUNDS: usize = 3;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    n_starts: usize,
    n_requests: usize,
    n_idle_clients: usize,
    load_time: Duration,
    turns: turns::Extent,
}

const FULL: Extent = Extent {
    n_starts: 20,
    n_requests: 20_000,
    n_idle_clients: 1000,
    load_time: Duration::from_secs(2),
    turns: turns::Extent { n_turns: 2000, n_first: 50, n_memory: 10_000 },
};
/// Enough to see that everything works; the figures mean little.
const QUICK: Extent = Extent {
    n_starts: 3,
    n_requests: 1000,
    n_idle_clients: 50,
    load_time: Duration::from_millis(300),
    turns: turns::Extent { n_turns: 100, n_first: 5, n_memory: 400 },
};

struct Args {
    extent: Extent,
    check: bool,
    out: Option<PathBuf>,
    echo: PathBuf,
    label: String,
    targets: Vec<Target>,
}

/// Everything measured on one target.
pub struct Measured {
    pub name: String,
    pub command: String,
    pub program_bytes: Option<u64>,
    /// Process start to first accepted `connect`, in ms, each in a new state folder.
    pub start_fresh_ms: Samples,
    /// The same in one state folder that earlier starts have made.
    pub start_warm_ms: Samples,
    /// SIGTERM to the end of the process, in ms.
    pub stop_ms: Samples,
    pub idle: Memory,
    pub crowd: Memory,
    pub n_idle_clients: usize,
    /// Own memory that the same number of idle connections costs the bare echo, each, in KiB.
    pub echo_kib_per_client: f64,
    pub after_crowd: Memory,
    /// Sessions that `sessions.list` lists; `None` when there is no such method.
    pub n_sessions: Option<usize>,
    pub latencies: Vec<Latency>,
    pub loads: Vec<Load>,
    pub after_load: Memory,
    /// `None` when there is no `chat.send`.
    pub turns: Option<Turns>,
}

impl Measured {
    pub fn latency(&self, method: &str) -> Option<&Latency> {
        self.latencies.iter().find(|latency| latency.method == method)
    }

    pub fn load(&self, method: &str) -> Option<&Load> {
        self.loads.iter().find(|load| load.method == method)
    }
}

/// Throughput of one method, beside the echo with the same sizes.
pub struct Load {
    pub method: String,
    pub gateway_per_s: Samples,
    pub echo_per_s: Samples,
    /// Processor time of the gateway for each request, in µs; says more than requests a second on a busy machine.
    pub gateway_cpu_us: Samples,
    pub echo_cpu_us: Samples,
    /// Share of one processor that this driver took while it loaded the gateway; near 1 it is the driver that was measured.
    pub driver_share: Samples,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Args> {
    let mut words = words;
    let echo = std::env::current_exe()?.with_file_name("echo");
    let mut args = Args { extent: FULL, check: false, out: None, echo, label: String::new(), targets: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--quick" => args.extent = QUICK,
            "--check" => args.check = true,
            "--out" => args.out = Some(value()?.into()),
            "--echo" => args.echo = value()?.into(),
            "--label" => args.label = value()?,
            "--target" => args.targets.push(Target { name: value()?, command: value()? }),
            _ => return Err(format!("unknown argument: {word}").into()),
        }
    }
    if args.targets.is_empty() {
        return Err("no --target given".into());
    }
    Ok(args)
}

/// Measures all targets and says whether the first keeps its limits; always true without `--check`.
fn run(args: Args) -> Result<bool> {
    let work = std::env::temp_dir().join(format!("openclaw-rs-bench-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let measured: Result<Vec<Measured>> =
        args.targets.iter().map(|target| measure(target, &args, &work.join(&target.name))).collect();
    let measured = match measured {
        Ok(measured) => measured,
        Err(error) => return Err(format!("{error}\n(state and logs are left in {})", work.display()).into()),
    };
    fs::remove_dir_all(&work)?;

    let machine = report::machine(&args.label)?;
    print!("{}", report::table(&machine, &measured));
    let verdicts = report::verdicts(&measured[0]);
    print!("{}", report::verdict_lines(&verdicts));
    if let Some(out) = &args.out {
        if let Some(folder) = out.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(out, report::json(&machine, &measured, &verdicts))?;
        println!("written to {}", out.display());
    }
    Ok(!args.check || verdicts.iter().all(|verdict| verdict.holds))
}

fn measure(target: &Target, args: &Args, folder: &Path) -> Result<Measured> {
    let extent = args.extent;
    fs::create_dir_all(folder)?;
    progress(&target.name, "starting on new state folders");
    let fresh = starts(target, extent.n_starts, |i| folder.join(format!("fresh-{i}")))?;
    progress(&target.name, "starting on one state folder");
    let warm = starts(target, extent.n_starts, |_| folder.join("warm"))?;

    progress(&target.name, "resting");
    let (process, client, took) = target.start(&folder.join("warm"), None)?;
    drop(client);
    // One that starts slowly also finishes its start slowly.
    std::thread::sleep(SETTLE.max(took));
    let idle = process.memory()?;

    progress(&target.name, "with many idle clients");
    let crowd = with_idle_clients(&process, extent.n_idle_clients, || {
        Ok(Client::connect(process.port, TOKEN, &["operator.read"], Purpose::Idle)?.socket)
    })?;
    std::thread::sleep(SETTLE);
    let after_crowd = process.memory()?;
    let echo = Process::echo(&args.echo)?;
    let echo_idle = echo.memory()?;
    let echo_crowd = with_idle_clients(&echo, extent.n_idle_clients, || open(echo.port, "/", Purpose::Idle))?;
    let echo_kib = echo_crowd.anonymous_kib.saturating_sub(echo_idle.anonymous_kib);

    let mut admin = Client::connect(process.port, TOKEN, &["operator.admin"], Purpose::Measure)?;
    let n_sessions = make_sessions(&mut admin)?;
    // What a gateway does not advertise is not measured: its refusal would be a fine time for the wrong thing.
    let mut methods = vec![("health", None), ("sessions.list", Some(json!({})))];
    methods.retain(|(method, _)| admin.has(method));
    drop(admin);

    let mut latencies = Vec::new();
    let pinned = Pinned::new(&[&process, &echo])?;
    for (method, params) in &methods {
        progress(&target.name, &format!("{method}, one client"));
        let mut client = Client::connect(process.port, TOKEN, &["operator.read"], Purpose::Measure)?;
        latencies.push(latency::measure(&mut client, echo.port, method, params.as_ref(), extent.n_requests)?);
    }
    drop(pinned);
    let mut loads = Vec::new();
    for ((method, params), latency) in methods.into_iter().zip(&latencies) {
        progress(&target.name, &format!("{method}, {LOAD_CLIENTS} clients"));
        loads.push(load(&process, &echo, method, params, latency, extent.load_time)?);
    }
    std::thread::sleep(SETTLE);
    let after_load = process.memory()?;
    process.stop()?;
    echo.stop()?;
    let turns = turns::measure(target, &folder.join("turns"), extent.turns)?;

    Ok(Measured {
        name: target.name.clone(),
        command: target.command.clone(),
        program_bytes: target.program_bytes(),
        start_fresh_ms: Samples::new(fresh.start_ms),
        start_warm_ms: Samples::new(warm.start_ms),
        stop_ms: Samples::new(warm.stop_ms),
        idle,
        crowd,
        n_idle_clients: extent.n_idle_clients,
        echo_kib_per_client: echo_kib as f64 / extent.n_idle_clients as f64,
        after_crowd,
        n_sessions,
        latencies,
        loads,
        after_load,
        turns,
    })
}

/// Makes sessions for `sessions.list` to list, where the gateway can, and says how many there are.
fn make_sessions(admin: &mut Client) -> Result<Option<usize>> {
    if !admin.has("sessions.list") {
        return Ok(None);
    }
    if admin.has("sessions.patch") {
        for i in 0..N_SESSIONS {
            let params = json!({ "key": format!("agent:main:bench-{i:02}"), "label": format!("bench {i:02}") });
            admin.call("sessions.patch", Some(&params))?;
        }
    }
    let listed = admin.call("sessions.list", Some(&json!({})))?;
    Ok(Some(listed["sessions"].as_array().ok_or("sessions.list answered without sessions")?.len()))
}

struct Starts {
    start_ms: Vec<f64>,
    stop_ms: Vec<f64>,
}

/// Starts and stops a target several times. The first start is not counted: it is the one that reads the binary from disk.
fn starts(target: &Target, n_starts: usize, state: impl Fn(usize) -> PathBuf) -> Result<Starts> {
    let began = Instant::now();
    let mut starts = Starts { start_ms: Vec::new(), stop_ms: Vec::new() };
    for i in 0..=n_starts {
        let (process, client, took) = target.start(&state(i), None)?;
        drop(client);
        let stop = process.stop()?;
        if i > 0 {
            starts.start_ms.push(took.as_secs_f64() * 1000.0);
            starts.stop_ms.push(stop.as_secs_f64() * 1000.0);
        }
        if i >= 3 && began.elapsed() > STARTS_TIME_MAX {
            break;
        }
    }
    Ok(starts)
}

/// Memory of a server while so many connections do nothing.
fn with_idle_clients(
    process: &Process,
    n_clients: usize,
    connect: impl Fn() -> Result<WebSocket<TcpStream>>,
) -> Result<Memory> {
    /// Connections made between two looks at those that are already there.
    const BATCH: usize = 50;
    let mut crowd = Crowd::new()?;
    while crowd.len() < n_clients {
        for _ in 0..BATCH.min(n_clients - crowd.len()) {
            crowd.add(connect().map_err(|error| format!("idle client {}: {error}", crowd.len() + 1))?)?;
        }
        crowd.idle(Duration::from_millis(1))?;
    }
    crowd.idle(SETTLE)?;
    process.memory()
}

fn load(
    process: &Process,
    echo: &Process,
    method: &str,
    params: Option<Value>,
    latency: &Latency,
    time: Duration,
) -> Result<Load> {
    let mut gateway_crowd = Crowd::new()?;
    let mut echo_crowd = Crowd::new()?;
    for _ in 0..LOAD_CLIENTS {
        gateway_crowd.add(Client::connect(process.port, TOKEN, &["operator.read"], Purpose::Measure)?.socket)?;
        echo_crowd.add(open(echo.port, &format!("/reply/{}", latency.answer_bytes), Purpose::Measure)?)?;
    }
    let gateway_request = Request::Method { method: method.to_owned(), params };
    let echo_request = Request::Echo { bytes: latency.request_bytes };
    let (mut bare, mut gateway) = (LoadRounds::default(), LoadRounds::default());
    for _ in 0..LOAD_ROUNDS {
        bare.add(&mut echo_crowd, &echo_request, echo, time)?;
        gateway.add(&mut gateway_crowd, &gateway_request, process, time)?;
    }
    Ok(Load {
        method: method.to_owned(),
        gateway_per_s: Samples::new(gateway.per_s),
        echo_per_s: Samples::new(bare.per_s),
        gateway_cpu_us: Samples::new(gateway.cpu_us),
        echo_cpu_us: Samples::new(bare.cpu_us),
        driver_share: Samples::new(gateway.driver_share),
    })
}

/// The rounds of one server under load.
#[derive(Default)]
struct LoadRounds {
    per_s: Vec<f64>,
    cpu_us: Vec<f64>,
    driver_share: Vec<f64>,
}

impl LoadRounds {
    fn add(&mut self, crowd: &mut Crowd, request: &Request, server: &Process, time: Duration) -> Result<()> {
        let (server_before, driver_before, began) = (server.cpu()?, process::cpu("self")?, Instant::now());
        let counted = crowd.load(request, LOAD_DEPTH, time)?;
        let driver = process::cpu("self")? - driver_before;
        self.driver_share.push(driver.as_secs_f64() / began.elapsed().as_secs_f64());
        self.cpu_us.push((server.cpu()? - server_before).as_secs_f64() * 1e6 / counted.n_answers_all as f64);
        self.per_s.push(counted.per_second());
        Ok(())
    }
}

fn progress(name: &str, what: &str) {
    eprintln!("{name}: {what}");
}
