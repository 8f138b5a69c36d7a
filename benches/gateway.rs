//! What the core costs: from an event to the effects the shell carries out, with a thousand clients connected.
//!
//! - `dispatch/*`: one request of one client: `health` from its snapshot, `agents.list` made for each call,
//!   `chat.history` up to the job that will read it, a method that does not exist.
//! - `connect`: a client that comes, signs in with the shared token, and goes.
//! - `broadcast/chat`: one `chat` event to 1,000 clients, up to the effects.
//! - `broadcast/chat to outboxes`: the same, framed and taken by sockets that never block.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openclaw_rs::config::load::{self, LoadInputs};
use openclaw_rs::config::secret::Secret;
use openclaw_rs::defender::rules::Rules;
use openclaw_rs::gateway::pairing::TokenKey;
use openclaw_rs::gateway::{Boot, Done, Effect, Event, Fact, Gateway, Gone, Origin, Report, Setup, Upgrade, records};
use openclaw_rs::intake::judge;
use openclaw_rs::net::outbox::{Outbox, Queued, Room};
use openclaw_rs::protocol::ConnId;
use openclaw_rs::protocol::session_key::SessionKey;
use openclaw_rs::runtime::clock::Now;
use openclaw_rs::store::dir::StateDir;
use openclaw_rs::store::open::{Database, OnDamage};
use serde_json::json;
use tempfile::TempDir;

const N_CLIENTS: u64 = 1000;
const TOKEN: &str = "bench-token";

/// A core with its clients; the folder lives as long as it does.
struct World {
    core: Gateway,
    now: Now,
    _dir: TempDir,
}

impl World {
    fn new() -> World {
        let dir = TempDir::new().unwrap();
        let now = Now::read();
        let state = StateDir::open(dir.path().to_owned()).unwrap();
        let database = Database::open(&state, now.wall_ms, OnDamage::Fail).unwrap().database;
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.state_dir = Some(dir.path().to_owned());
        inputs.cwd = dir.path().to_owned();
        inputs.overrides.token = Some(Secret::new(TOKEN));
        let loaded = load::load(&inputs).unwrap();
        let setup = Setup {
            boot: Boot {
                id: "bench".to_owned(),
                at: now,
                host: "bench".to_owned(),
                platform: "linux".to_owned(),
                state_dir: dir.path().display().to_string(),
                log_file: String::new(),
                port: 1,
            },
            rules: Arc::new(Rules::compile(&judge::rule_inputs(&loaded.settings)).unwrap()),
            config: Arc::new(loaded),
            load_inputs: inputs,
            token_key: TokenKey::new(&[1; 32]),
            kept: records::load(&database, now.wall_ms).unwrap(),
        };
        let mut world = World { core: Gateway::new(setup, now), now, _dir: dir };
        for n in 1..=N_CLIENTS {
            world.connect(ConnId(n));
        }
        world
    }

    /// Connects a client as the command line does: on loopback with the shared token, whose scopes stay without a device.
    fn connect(&mut self, conn: ConnId) {
        let upgrade = Upgrade {
            peer: "127.0.0.1:9".parse().unwrap(),
            local: "127.0.0.1:1".parse().unwrap(),
            target: "/".to_owned(),
            headers: vec![("host".to_owned(), "127.0.0.1:1".to_owned())],
        };
        self.core.handle(self.now, Event::Opened(conn, Box::new(upgrade)));
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.admin"],
            "auth": { "token": TOKEN },
            "client": { "id": "cli", "mode": "cli", "version": "1", "platform": "linux" },
        });
        let frame = json!({ "type": "req", "id": "connect", "method": "connect", "params": params }).to_string();
        self.core.handle(self.now, Event::Frame(conn, &frame));
        let mut admitted = false;
        while let Some(effect) = self.core.next_effect() {
            admitted |= matches!(effect, Effect::Admit(admitted) if admitted == conn);
        }
        assert!(admitted, "{conn:?} was not admitted");
    }

    /// Gives the core one frame and returns the first thing it wants done about it.
    fn ask(&mut self, frame: &str) -> Option<Effect> {
        self.core.handle(self.now, Event::Frame(ConnId(2), frame));
        let first = self.core.next_effect();
        while self.core.next_effect().is_some() {}
        first
    }

    /// A message that is to be shown at once, as its job reports it.
    fn chat(&mut self) {
        let fact = Fact::Injected {
            key_as_sent: "main".to_owned(),
            key: SessionKey::stored("agent:main:main".to_owned()),
            message: json!({ "role": "assistant", "content": [{ "type": "text", "text": "Good morning. ".repeat(40) }] }),
            message_id: "0a1b2c3d".to_owned(),
        };
        let done = Done { answer: None, facts: vec![fact] };
        let report = Report { origin: Origin::Housekeeping("bench"), outcome: Ok(done) };
        self.core.handle(self.now, Event::Report(Box::new(report)));
    }
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"type":"req","id":"000000001","method":"{method}","params":{params}}}"#)
}

fn dispatch(criterion: &mut Criterion) {
    let mut world = World::new();
    let mut group = criterion.benchmark_group("dispatch");
    for (method, params, is_expected) in [
        ("health", "{}", is_ok as fn(&Effect) -> bool),
        ("agents.list", "{}", is_ok),
        ("chat.history", r#"{"sessionKey":"main"}"#, |effect| matches!(effect, Effect::Start(_))),
        ("no.such.method", "{}", |effect| matches!(effect, Effect::Send(_, frame) if frame.text().contains("unknown"))),
    ] {
        let frame = request(method, params);
        assert!(world.ask(&frame).is_some_and(|effect| is_expected(&effect)), "{method}");
        group.bench_function(method, |bencher| bencher.iter(|| world.ask(black_box(&frame)).is_some()));
    }
    group.finish();

    criterion.bench_function("connect", |bencher| {
        let conn = ConnId(N_CLIENTS + 1);
        bencher.iter(|| {
            world.connect(conn);
            world.core.handle(world.now, Event::Closed(conn, Gone { code: 1000, reason: String::new() }));
            while world.core.next_effect().is_some() {}
        });
    });
}

fn is_ok(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(_, frame) if frame.text().contains(r#""ok":true"#))
}

/// Takes everything and keeps nothing.
struct Sink;

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn broadcast(criterion: &mut Criterion) {
    let mut world = World::new();
    let room = Room { events_max: 16, bytes_max: 1024 * 1024 };
    let mut outboxes: Vec<Outbox> = (0..=N_CLIENTS).map(|_| Outbox::default()).collect();
    let to_effects = |world: &mut World| {
        world.chat();
        std::iter::from_fn(|| world.core.next_effect()).filter(|effect| matches!(effect, Effect::Send(..))).count()
    };
    let mut to_outboxes = |world: &mut World| {
        world.chat();
        let mut n_sent = 0;
        while let Some(Effect::Send(conn, frame)) = world.core.next_effect() {
            let outbox = &mut outboxes[conn.0 as usize];
            assert_eq!(outbox.push_frame(frame, room), Queued::Yes);
            n_sent += usize::from(outbox.write_to(&mut Sink).unwrap().bytes > 500);
        }
        n_sent
    };
    assert_eq!(to_effects(&mut world), N_CLIENTS as usize);
    assert_eq!(to_outboxes(&mut world), N_CLIENTS as usize);

    let mut group = criterion.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(N_CLIENTS));
    group.bench_function("chat", |bencher| bencher.iter(|| to_effects(&mut world)));
    group.bench_function("chat to outboxes", |bencher| bencher.iter(|| to_outboxes(&mut world)));
    group.finish();
}

criterion_group!(benches, dispatch, broadcast);
criterion_main!(benches);
