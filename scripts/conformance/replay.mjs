// (d) The recordings, all families and both protocols, by the replayer of the tests, through a witness.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { recordedConfig, releases, root, startGateway, temporary } from './gateway.mjs';
import { startModel } from './model.mjs';
import { startWitness } from './witness.mjs';

export async function runReplays({ release, token, say, verbose }) {
  const seen = []; let good = true;
  for (const protocol of [3, 4]) {
    if (release && releases[release].protocol !== protocol) continue;
    const model = await startModel();
    const workspace = path.join(temporary('workspace'), 'workspace');
    fs.mkdirSync(workspace);
    const gateway = await startGateway({ release, token, config: recordedConfig({ token, workspace, modelPort: model.port, protocol }) });
    const witness = await startWitness(gateway.port);
    const env = {
      ...process.env, REPLAY_URL: `ws://127.0.0.1:${witness.port}`, REPLAY_TOKEN: token, REPLAY_PROTOCOL: String(protocol),
      REPLAY_HIDE: gateway.state, REPLAY_WORKSPACE: workspace, REPLAY: 'all', ...(release ? {} : { REPLAY_HOLD: '1' }),
    };
    const { code, out } = await new Promise((resolve) => {
      const args = ['test', '--quiet', '--locked', '--test', 'it', '--', '--ignored', '--nocapture', 'plays_against_another_gateway'];
      const child = spawn('cargo', args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      child.stdout.on('data', (d) => { text += d; });
      child.stderr.on('data', (d) => { text += d; });
      child.once('close', (status) => resolve({ code: status, out: text }));
    });
    const lines = out.split('\n');
    const file = path.join(root, 'target/conformance', `replay-v${protocol}.txt`);
    fs.writeFileSync(file, out);
    // The table always, the differences on demand: they are in the file.
    const end = lines.findIndex((line) => line.startsWith('== '));
    say(lines.slice(0, verbose || end < 0 ? lines.length : end).filter((line) => line.trim()).join('\n'));
    say(`differences: ${path.relative(root, file)}`);
    good &&= code === 0;
    witness.stop();
    await gateway.stop();
    model.stop();
    seen.push(...witness.connections);
  }
  return { results: [{ name: 'replay', good }], seen };
}
