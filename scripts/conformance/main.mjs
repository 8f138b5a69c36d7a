// The conformance run: see scripts/conformance.sh.
import fs from 'node:fs';
import path from 'node:path';
import { runClientLibrary } from './client.mjs';
import { runCommandLines } from './cli.mjs';
import { cleanUp, recordedConfig, releases, root, startGateway, temporary } from './gateway.mjs';
import { startModel } from './model.mjs';
import { runOpenAi } from './openai.mjs';
import { runReplays } from './replay.mjs';
import { validateAnswers } from './schema.mjs';
import { runTerminalPages } from './tui.mjs';
import { runControlUis } from './ui.mjs';

const words = process.argv.slice(2);
const option = (name) => (words.includes(name) ? words[words.indexOf(name) + 1] : undefined);
const short = words.includes('--short');
const verbose = words.includes('--verbose');
const release = option('--against');
if (release && !releases[release]) { console.error(`--against takes one of ${Object.keys(releases).join(', ')}`); process.exit(2); }
const parts = option('--only')?.split(',') ?? (short ? ['cli', 'client', 'openai', 'schema'] : ['cli', 'client', 'openai', 'tui', 'replay', 'ui', 'schema']);
const say = (line) => console.log(line);
const token = 'conformance-token-4c1d';
fs.mkdirSync(path.join(root, 'target/conformance'), { recursive: true });

const seen = []; const results = {};
const part = async (name, run) => {
  if (!parts.includes(name)) return;
  const started = Date.now();
  say(`\n== ${name}`);
  const outcome = await run();
  results[name] = outcome.results;
  seen.push(...(outcome.seen ?? []));
  say(`   ${outcome.results.filter((r) => r.good).length} of ${outcome.results.length} in ${Math.round((Date.now() - started) / 1000)} s`);
};

let failed = null;
try {
  if (['cli', 'client', 'tui'].some((name) => parts.includes(name))) {
    const model = await startModel();
    const protocol = release ? releases[release].protocol : 4;
    const gateway = await startGateway({ release, token, config: recordedConfig({ token, workspace: temporary('workspace'), modelPort: model.port, protocol }) });
    await part('cli', () => runCommandLines({ gateway, only: release, say }));
    // The published library speaks protocol 4 only.
    if (protocol === 4) await part('client', () => runClientLibrary({ gateway, say }));
    await part('tui', () => runTerminalPages({ gateway, say }));
    await gateway.stop();
    model.stop();
  }
  // A gateway of its own, because the account it asks with rests after the last of these checks.
  if (parts.includes('openai') && release !== '2026.2.21') {
    const model = await startModel();
    const config = recordedConfig({ token, workspace: temporary('workspace'), modelPort: model.port, protocol: 4 });
    config.gateway.http = { endpoints: { chatCompletions: { enabled: true }, responses: { enabled: true } } };
    const gateway = await startGateway({ release, token, config });
    await part('openai', () => runOpenAi({ gateway, say }));
    await gateway.stop();
    model.stop();
  }
  await part('replay', () => runReplays({ release, token, say, verbose }));
  await part('ui', () => runControlUis({ release, token, say }));
  await part('schema', async () => validateAnswers({ seen, say, verbose }));
} catch (error) { failed = error; }
cleanUp();
if (failed) { console.error(failed); process.exit(1); }

// What passed once must go on passing: the floor names it.
const file = path.join(root, 'scripts/conformance/floor.json');
const floor = JSON.parse(fs.readFileSync(file, 'utf8'));
const lost = []; let gained = 0;
for (const [name, list] of Object.entries(results)) {
  const held = new Set(floor[name] ?? []);
  for (const result of list) {
    if (!result.good && held.has(result.name)) lost.push(result.name);
    if (result.good && !held.has(result.name)) { gained++; held.add(result.name); }
  }
  if (words.includes('--raise') && !release) floor[name] = [...held].sort();
}
if (words.includes('--raise') && !release) fs.writeFileSync(file, `${JSON.stringify(floor, null, 1)}\n`);
else if (gained && !release) say(`\n${gained} more than the floor holds: scripts/conformance.sh --raise`);
if (release) process.exit(0);
if (lost.length) { console.error(`\nbelow the floor:\n  ${lost.join('\n  ')}`); process.exit(1); }
say('\nnothing is below the floor');
