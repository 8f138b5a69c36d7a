// (a) The real command lines, unchanged, each command in a process of its own against the gateway behind a witness.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { node, releases, temporary } from './gateway.mjs';
import { startWitness } from './witness.mjs';

const COMMAND_MS = 120_000;
const json = (holds) => (text) => holds(JSON.parse(text.slice(text.search(/[[{]/))));
const has = (pattern) => (text) => pattern.test(text);

// What the stub model says when nothing else is asked of it, as `agent` gives it.
const ANSWER = 'Hello from the stub model.';
const answered = (v) => v.status === 'ok' && v.result.payloads.some((payload) => payload.text === ANSWER);

// words; what the gateway must have answered well; what must have been printed. URL stands for --url and --token.
const both = [
  [['gateway', 'call', 'health', '--json', 'URL'], ['health'], json((v) => v.ok === true)],
  [['gateway', 'call', 'health'], ['health'], has(/"ok": true/)],
  [['health', '--json'], ['health'], json((v) => v.ok === true && Array.isArray(v.agents))],
  [['health'], ['health'], has(/Agents: /)],
  [['status', '--json'], ['status'], json((v) => v.gateway?.reachable !== false)],
  [['status'], [], has(/reachable/)],
  [['sessions', '--json'], [], json((v) => Array.isArray(v.sessions))],
  [['gateway', 'usage-cost', '--json', 'URL'], ['usage.cost'], json((v) => Array.isArray(v.daily) && v.totals.missingCostEntries === 0)],
  [['gateway', 'usage-cost', '--days', '7'], ['usage.cost'], has(/Total/)],
  [['gateway', 'call', 'sessions.usage', '--json', 'URL'], ['sessions.usage'], json((v) => Array.isArray(v.sessions) && v.totals)],
  // What it says of usage it asks the providers itself.
  [['status', '--usage', '--json'], [], json((v) => v.gateway?.reachable !== false)],
  [['devices', 'list', '--json', 'URL'], ['device.pair.list'], json((v) => Array.isArray(v.paired))],
  [['devices', 'list'], ['device.pair.list'], has(/Paired|No device/)],
  [['approvals', 'get', '--gateway', '--json', 'URL'], ['exec.approvals.get'], json((v) => typeof v.hash === 'string' && v.file.version === 1)],
  [['approvals', 'get', '--gateway'], ['exec.approvals.get'], has(/Approvals/)],
  [['approvals', 'allowlist', 'add', '--gateway', '--agent', 'main', '/usr/bin/uptime'], ['exec.approvals.set'], has(/uptime/)],
  [['approvals', 'allowlist', 'remove', '--gateway', '--agent', 'main', '/usr/bin/uptime'], ['exec.approvals.set'], has(/./)],
  [['config', 'get', 'gateway.mode'], [], has(/remote/)],
  [['channels', 'status', '--json'], ['channels.status'], json((v) => typeof v.channels === 'object')],
  [['channels', 'status'], ['channels.status'], has(/Gateway reachable/)],
  [['logs', '--json', '--limit', '5', 'URL'], ['logs.tail'], has(/"type":"meta"/)],
  [['logs', '--limit', '5'], ['logs.tail'], has(/Log file: /)],
  [['agent', '--agent', 'main', '--message', 'hello', '--json'], ['agent'], json(answered)],
  [['agent', '--agent', 'main', '--message', 'hello'], ['agent'], has(new RegExp(ANSWER))],
  [['agent', '--session-id', 'SESSION', '--message', 'hello', '--json'], ['agent'], json(answered)],
  [['agent', '--agent', 'main', '--message', '[[say:one two three]]', '--thinking', 'low', '--json'], ['agent'], json((v) => v.result.payloads[0].text === 'one two three')],
];
const commands = {
  '2026.9.6': [
    ...both,
    [['models', 'list', '--json'], ['models.list'], json((v) => Array.isArray(v.models))],
    [['approvals', 'pending', '--json', 'URL'], ['exec.approval.list', 'plugin.approval.list', 'openclaw.approval.list'], has(/\[|\{/)],
    [['approvals', 'grants', 'list', '--json', 'URL'], ['exec.approval.grants.list'], has(/grants|\[/)],
    [['sessions', 'cleanup', '--enforce', '--json'], ['sessions.cleanup'], json((v) => v.mode === 'enforce' && v.appliedCount >= 1)],
    [['sessions', 'cleanup', '--fix-missing'], ['sessions.cleanup'], has(/Applied maintenance/)],
    // It asks for no scope it could use without a device, and takes the refusals as an answer.
    [['gateway', 'probe', '--json', 'URL'], [], json((v) => v.ok === true)],
    [['system', 'presence', '--json', 'URL'], ['system-presence'], json((v) => Array.isArray(v))],
  ],
  // Its `models list` and `config get` read local files only; they must not fail for it.
  '2026.2.21': [
    ...both,
    [['models', 'list', '--json'], [], json((v) => Array.isArray(v.models))],
    [['gateway', 'probe', '--json', 'URL'], ['health', 'status', 'config.get'], json((v) => v.ok === true)],
    [['system', 'presence', '--json', 'URL'], ['system-presence'], json((v) => Array.isArray(v))],
  ],
};

export async function runCommandLines({ gateway, only, say }) {
  const wanted = Object.keys(commands).filter((release) => !only || only === release);
  const outcomes = await Promise.all(wanted.map((release) => runRelease(release, gateway, say)));
  return { results: outcomes.flatMap((o) => o.results), seen: outcomes.flatMap((o) => o.seen) };
}

async function runRelease(release, gateway, say) {
  const results = [];
  const home = temporary(`cli-${release}`);
  const witness = await startWitness(gateway.port);
  const url = `ws://127.0.0.1:${witness.port}`;
  const file = path.join(home, 'openclaw.json');
  fs.writeFileSync(file, JSON.stringify({ gateway: { mode: 'remote', remote: { url, token: gateway.token } }, update: { checkOnStart: false } }));
  const env = { HOME: home, TZ: 'UTC', NO_COLOR: '1', PATH: `${path.dirname(node)}:/usr/bin:/bin`, OPENCLAW_STATE_DIR: home, OPENCLAW_CONFIG_PATH: file };
  for (const [words, methods, holds] of commands[release]) {
    const args = words.flatMap((word) => (word === 'URL' ? ['--url', url, '--token', gateway.token] : word === 'SESSION' ? [`conformance-${release}`] : [word]));
    const from = witness.connections.length;
    const { code, out, err } = await run(args, { cwd: releases[release].folder, env });
    const calls = witness.connections.slice(from).flatMap((c) => c.calls);
    const answered = calls.filter((call) => call.frame.ok).map((call) => call.method);
    const refused = calls.filter((call) => !call.frame.ok).map((call) => `${call.method}: ${call.frame.error?.message}`);
    const missing = methods.filter((method) => !answered.includes(method));
    let printed = false; let why = '';
    try { printed = holds(out); } catch (error) { why = error.message; }
    const good = code === 0 && missing.length === 0 && printed;
    results.push({ name: `${release} ${words.join(' ')}`, good });
    say(`${good ? 'ok  ' : 'FAIL'} ${release} openclaw ${words.join(' ')}${refused.length ? `   (refused: ${[...new Set(refused)].join('; ').slice(0, 200)})` : ''}`);
    if (!good) say(`     exit ${code}; not answered: ${missing.join(', ') || '-'}; printed ${printed ? 'well' : `otherwise ${why}`}\n     ${(out + err).trim().slice(0, 600).replaceAll('\n', '\n     ')}`);
  }
  witness.stop();
  return { results, seen: witness.connections };
}

function run(args, options) {
  return new Promise((resolve) => {
    const child = spawn(node, ['openclaw.mjs', ...args], { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let out = ''; let err = '';
    child.stdout.on('data', (d) => { out += d; });
    child.stderr.on('data', (d) => { err += d; });
    const timer = setTimeout(() => child.kill('SIGKILL'), COMMAND_MS);
    child.once('close', (code, signal) => { clearTimeout(timer); resolve({ code: code ?? signal, out, err }); });
  });
}
