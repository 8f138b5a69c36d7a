// Starts a gateway in a directory of its own: ours, or a released one to calibrate on.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '../..');
export const peers = process.env.PEERS;
export const node = process.execPath;
export const releases = {
  '2026.9.6': { folder: `${peers}/oc96/node_modules/openclaw`, protocol: 4 },
  '2026.2.21': { folder: `${peers}/oc221/package`, protocol: 3 },
};
const START_MS = 90_000;

/** A new temporary directory; `cleanUp` removes them all. */
const made = [];
export function temporary(name) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), `conformance-${name}-`));
  made.push(dir);
  return dir;
}
export const cleanUp = () => made.forEach((dir) => fs.rmSync(dir, { recursive: true, force: true, maxRetries: 5 }));

/** The configuration with which the recordings were made. */
export function recordedConfig({ token, workspace, modelPort, protocol }) {
  const agents = { defaults: { workspace, model: { primary: 'stub/test-model' }, skipBootstrap: true } };
  if (protocol === 4) agents.entries = { main: {} };
  return {
    gateway: { mode: 'local', bind: 'loopback', auth: { mode: 'token', token } },
    update: { checkOnStart: false },
    agents,
    models: { mode: 'merge', providers: { stub: {
      baseUrl: `http://127.0.0.1:${modelPort}/v1`, apiKey: 'stub-key', api: 'openai-completions',
      models: [{ id: 'test-model', name: 'Test Model', reasoning: false, input: ['text'],
        cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 }, contextWindow: 128000, maxTokens: 8192 }] } } },
    tools: { exec: { host: 'gateway', security: 'full', ask: 'off' } },
  };
}

/** A port that was free a moment ago, for programs that cannot take port 0. */
export const freePort = () => new Promise((resolve, reject) => {
  const server = net.createServer().once('error', reject);
  server.listen(0, '127.0.0.1', () => { const { port } = server.address(); server.close(() => resolve(port)); });
});

/** Starts ours (`release` undefined) or a released gateway, and waits until its port is known and open. */
export async function startGateway({ release, config, token }) {
  const home = temporary(release ? `gateway-${release}` : 'gateway');
  const state = path.join(home, 'state');
  fs.mkdirSync(state, { mode: 0o700 });
  const file = path.join(state, 'openclaw.json');
  const env = { HOME: home, TZ: 'UTC', PATH: `${path.dirname(node)}:/usr/bin:/bin` };
  let child, port;
  const log = path.join(home, 'gateway.log');
  const out = fs.openSync(log, 'a');
  if (release) {
    port = await freePort();
    config = { ...config, gateway: { ...config.gateway, port } };
    fs.writeFileSync(file, JSON.stringify(config));
    Object.assign(env, { OPENCLAW_STATE_DIR: state, OPENCLAW_CONFIG_PATH: file, OPENCLAW_SKIP_CHANNELS: '1', OPENCLAW_DISABLE_BONJOUR: '1' });
    child = spawn(node, ['openclaw.mjs', 'gateway', 'run', '--port', String(port)],
      { cwd: releases[release].folder, env, stdio: ['ignore', out, out], detached: true });
  } else {
    fs.writeFileSync(file, JSON.stringify(config));
    env.OPENCLAW_RS_STATE_DIR = state;
    child = spawn(process.env.OPENCLAW_RS_BIN, ['gateway', 'run', '--port', '0', '--config', file],
      { cwd: home, env, stdio: ['ignore', out, out] });
  }
  let ended = null;
  child.once('exit', (code, signal) => { ended = signal ?? code; });
  const deadline = Date.now() + START_MS;
  for (;;) {
    if (ended !== null && !release) throw new Error(`the gateway ended with ${ended}:\n${fs.readFileSync(log, 'utf8')}`);
    if (!port) port = Number(/127\.0\.0\.1:(\d+)/.exec(fs.readFileSync(log, 'utf8'))?.[1] ?? 0);
    if (port && await opens(port)) break;
    if (Date.now() > deadline) throw new Error(`the gateway did not listen in time:\n${fs.readFileSync(log, 'utf8').slice(-4000)}`);
    await new Promise((done) => setTimeout(done, 50));
  }
  const stop = async () => {
    if (ended === null) {
      try { process.kill(release ? -child.pid : child.pid, 'SIGTERM'); } catch { /* it was faster */ }
      await Promise.race([new Promise((done) => child.once('exit', done)), new Promise((done) => setTimeout(done, 8000))]);
      if (ended === null) { try { process.kill(release ? -child.pid : child.pid, 'SIGKILL'); } catch { /* it was faster */ } }
    }
    return ended;
  };
  return { port, token, state, log, stop };
}

function opens(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('connect', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  });
}
