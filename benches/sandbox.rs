//! What a sandbox costs a command.
//!
//! - `exec/plain`: a program that does nothing, started and waited for.
//! - `exec/sandbox`: the same with every layer that this machine has.
//! - `sandbox/plan`: the part of it that is done before the fork.
//!
//! Both kinds of start take turns in one run before anything is timed by Criterion, and their medians are compared with
//! what a sandbox may cost: an answer that is too slow is an answer that is wrong.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use openclaw_rs::tools::sandbox::kernel::Kernel;
use openclaw_rs::tools::sandbox::{Access, Confinement, LIMITS, Mode, Network, Wanted};

/// What a sandbox may cost a command.
const COST_MAX: Duration = Duration::from_millis(5);
/// Starts of each kind that are compared.
const ROUNDS: usize = 200;

fn nothing(workspace: &Path) -> Command {
    let mut command = Command::new("/bin/true");
    command.env_clear().current_dir(workspace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(mut command: Command) {
    assert!(command.status().expect("it can be started").success());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn exec(criterion: &mut Criterion) {
    let temp = tempfile::TempDir::new().expect("a directory can be made");
    let (workspace, scratch) = (temp.path().join("workspace"), temp.path().join("scratch"));
    for dir in [&workspace, &scratch] {
        std::fs::create_dir(dir).expect("a directory can be made");
    }
    let wanted = Wanted {
        mode: Mode::Sandbox,
        network: Network::Off,
        workspace: workspace.clone(),
        access: Access::ReadWrite,
        scratch,
        read: Vec::new(),
        write: Vec::new(),
        hidden: Vec::new(),
        limits: LIMITS,
    };
    let confined = || {
        let mut command = nothing(&workspace);
        let confinement = Confinement::of(wanted.clone(), Kernel::get()).expect("this machine has a sandbox");
        confinement.confine(&mut command).expect("it can be planned");
        command
    };
    let (mut plain, mut sandbox, mut planned) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run(nothing(&workspace));
        plain.push(start.elapsed());
        let start = Instant::now();
        let command = confined();
        planned.push(start.elapsed());
        run(command);
        sandbox.push(start.elapsed());
    }
    let (plain, sandbox, planned) = (median(plain), median(sandbox), median(planned));
    let cost = sandbox.saturating_sub(plain);
    println!(
        "medians of {ROUNDS}: plain {plain:?}, in a sandbox {sandbox:?} ({planned:?} for the plan): {cost:?} more"
    );
    assert!(cost <= COST_MAX, "a sandbox costs more than {COST_MAX:?}");

    let mut group = criterion.benchmark_group("exec");
    group.bench_function("plain", |bencher| bencher.iter(|| run(nothing(&workspace))));
    group.bench_function("sandbox", |bencher| bencher.iter(|| run(confined())));
    group.finish();
    criterion.bench_function("sandbox/plan", |bencher| bencher.iter(confined));
}

criterion_group!(benches, exec);
criterion_main!(benches);
