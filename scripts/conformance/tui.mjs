// (f) The terminal pages of both releases: typed into as by a person, on a terminal that `script` makes.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { node, releases, temporary } from './gateway.mjs';

const READY_MS = 30_000; const ANSWER_MS = 30_000; const KEY_MS = 25;
const ANSWER = 'Hello from the stub model.';
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What a terminal would show, without the words that move its cursor. */
const plain = (text) => text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>]/g, '');

export async function runTerminalPages({ gateway, say }) {
  const results = [];
  for (const [release, { folder }] of Object.entries(releases)) {
    const name = `${release} tui answers what is typed`;
    const why = await typed(path.join(folder, 'openclaw.mjs'), gateway).catch((error) => error.message);
    results.push({ name, good: why === null });
    say(`${why === null ? 'ok  ' : 'FAIL'} ${name}${why === null ? '' : `: ${why}`}`);
  }
  return { results };
}

/** Types a line and waits for the answer: `null`, or why there was none. */
async function typed(entry, gateway) {
  const home = temporary('tui');
  fs.mkdirSync(path.join(home, '.openclaw'));
  const remote = { url: `ws://127.0.0.1:${gateway.port}`, token: gateway.token };
  fs.writeFileSync(path.join(home, '.openclaw/openclaw.json'), JSON.stringify({ gateway: { mode: 'remote', remote } }));
  const env = { HOME: home, PATH: `${path.dirname(node)}:/usr/bin:/bin`, TERM: 'xterm-256color', LANG: 'C.UTF-8' };
  const command = `stty rows 40 cols 120; exec "${node}" "${entry}" tui`;
  const child = spawn('script', ['-qfec', command, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  let shown = '';
  let failure = null;
  child.on('error', (error) => { failure = error; });
  child.stdout.on('data', (data) => {
    shown += data;
    // Terminals answer what they are asked about themselves.
    if (data.includes('\x1b[c')) child.stdin.write('\x1b[?62;c');
    if (data.includes('\x1b[6n')) child.stdin.write('\x1b[1;1R');
  });
  const until = async (is, ms) => {
    for (const end = Date.now() + ms; Date.now() < end && !failure; await pause(50)) if (is(plain(shown))) return true;
    return false;
  };
  try {
    if (!await until((text) => /connected \| idle|agent main \| session/.test(text), READY_MS)) return `it is not connected: ${failure?.message ?? plain(shown).slice(-300)}`;
    for (const key of 'hello there') { child.stdin.write(key); await pause(KEY_MS); }
    child.stdin.write('\r');
    return await until((text) => text.includes(ANSWER), ANSWER_MS) ? null : `no answer: ${plain(shown).slice(-300)}`;
  } finally {
    child.kill('SIGKILL');
  }
}
