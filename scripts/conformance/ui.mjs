// (e) Both released Control UI builds, served by the gateway, in a real browser: they load, sign in by token, show chat and overview,
// and a message that is typed into the chat is answered.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { peers, recordedConfig, releases, root, startGateway, temporary } from './gateway.mjs';
import { startModel } from './model.mjs';
import { startWitness } from './witness.mjs';

const WAIT_MS = 30_000;
// What the model is asked to say.
const ANSWER = 'The lamp in the attic is on.';
// A picture of one dot.
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

// How each build is signed in to, and its views: path, what must be on the page, what the gateway must have answered.
const builds = {
  '2026.9.6': {
    signIn: (token) => `/#token=${token}`,
    // Rewind, branches, forks and groups: only this build has them.
    waysBack: true,
    // Whether files are chosen; the other build takes what is pasted, and shows nothing of it afterwards.
    choosesFiles: true,
    views: [
      ['chat', '/chat/main', ['chat.startup'], (page) => page.locator('textarea, [contenteditable="true"]').first().waitFor({ timeout: WAIT_MS })],
      // This build has no view called overview: the sessions and connection views are what became of it.
      ['overview', '/settings/connection', [], (page) => page.getByText('Connected').locator('visible=true').first().waitFor({ timeout: WAIT_MS })],
      ['sessions', '/sessions', ['sessions.list'], (page) => page.getByText(/Sessions/i).first().waitFor({ timeout: WAIT_MS })],
      ['usage', '/usage', ['sessions.usage'], (page) => page.getByText(/Usage/i).locator('visible=true').first().waitFor({ timeout: WAIT_MS })],
    ],
  },
  '2026.2.21': {
    signIn: (token) => `/#token=${token}`,
    views: [
      ['chat', '/chat', ['chat.history'], (page) => page.locator('textarea').first().waitFor({ timeout: WAIT_MS })],
      ['overview', '/overview', ['health', 'status'], (page) => page.getByText(/Overview/i).first().waitFor({ timeout: WAIT_MS })],
      ['sessions', '/sessions', ['sessions.list'], (page) => page.getByText(/Sessions/i).first().waitFor({ timeout: WAIT_MS })],
    ],
  },
};

// Goes back in a conversation as a person does, to another branch, on in a fork, and puts that into a group.
async function checkWaysBack({ page, base, check, answered, until, shoot }) {
  const visible = (locator) => locator.locator('visible=true').last();
  const words = (text) => page.getByText(text, { exact: true });
  const button = (name) => visible(page.getByRole('button', { name }));
  const field = () => visible(page.locator('textarea, [contenteditable="true"]'));
  const typed = async () => (await field().inputValue().catch(() => field().innerText())).trim();
  const called = (method) => until(() => answered([method]).length === 0, () => `${method} was not answered`);
  const shown = (text) => visible(words(text)).waitFor({ timeout: WAIT_MS });
  const gone = async (text) => {
    const deadline = Date.now() + WAIT_MS;
    while (await words(text).locator('visible=true').count() > 0) {
      if (Date.now() > deadline) throw new Error(`${text} is still shown`);
      await new Promise((done) => setTimeout(done, 50));
    }
  };
  const say = async (name) => {
    await field().fill(`Say [[say:${name}]]`);
    await field().press('Enter');
    await shown(name);
  };
  const stepAs = (name, what) => check(name, async () => { try { await what(); } finally { await shoot(name.replaceAll(' ', '-')); } });
  await stepAs('rewinds to a message', async () => {
    await page.goto(`${base}/chat/main`, { waitUntil: 'load', timeout: WAIT_MS });
    await field().waitFor({ timeout: WAIT_MS });
    await say('willow');
    await say('maple');
    await visible(page.getByText('Say [[say:maple]]')).hover();
    await visible(page.locator('.chat-group-rewind')).click();
    await button(/^Rewind$/).click();
    await called('sessions.rewind');
    await gone('maple');
    if (await typed() !== 'Say [[say:maple]]') throw new Error(`the editor holds "${await typed()}"`);
    await say('birch');
  });
  await stepAs('takes up another branch', async () => {
    await button('Session branches').click();
    await visible(words('maple')).click();
    await called('sessions.branches.switch');
    await gone('birch');
    await shown('maple');
  });
  await stepAs('forks from a message', async () => {
    await visible(page.getByText('Say [[say:maple]]')).click({ button: 'right' });
    await visible(page.getByText('Fork from here')).click();
    await called('sessions.fork');
    await visible(page.getByRole('button', { name: /^Open parent session/ })).waitFor({ timeout: WAIT_MS });
    if (await typed() !== 'Say [[say:maple]]') throw new Error(`the editor holds "${await typed()}"`);
  });
  await stepAs('puts a session into a new group', async () => {
    await button(/^Actions for/).click();
    await visible(page.getByText('Move to group')).hover();
    await visible(page.getByText('New group')).click();
    // The dialog takes the keyboard a moment after it is shown.
    await page.locator('input:focus').first().waitFor({ timeout: WAIT_MS });
    await page.keyboard.type('Trees');
    await button('Create group').click();
    await called('sessions.groups.put');
    await shown('Trees');
  });
}

// Asks for leave on a connection of its own, as a command line does; gives what was decided.
function askForLeave({ port, token, id, timeoutMs }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    const send = (request, method, params) => socket.send(JSON.stringify({ type: 'req', id: request, method, params }));
    socket.onerror = () => reject(new Error('the connection that asks broke'));
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.event === 'connect.challenge') {
        const client = { id: 'cli', version: '1.0.0', platform: 'linux', mode: 'cli' };
        const scopes = ['operator.admin', 'operator.approvals'];
        send('hello', 'connect', { minProtocol: 4, maxProtocol: 4, client, role: 'operator', scopes, auth: { token } });
      } else if (frame.id === 'hello') {
        if (!frame.ok) return reject(new Error(frame.error.message));
        const command = `echo ${id}`;
        send('ask', 'exec.approval.request', { id, command, commandArgv: ['echo', id], cwd: '/tmp', host: 'gateway', security: 'allowlist',
          ask: 'on-miss', agentId: 'main', sessionKey: 'agent:main:main', resolvedPath: '/usr/bin/echo', timeoutMs });
      } else if (frame.id === 'ask') {
        socket.close();
        if (frame.ok) resolve(frame.payload.decision); else reject(new Error(frame.error.message));
      }
    };
  });
}

// What waits for leave is shown, and its buttons answer it.
async function checkApprovals({ page, check, shoot, gateway, token }) {
  const answers = [['granted once', /^Allow once/i, 'allow-once'], ['granted always', /^Always allow/i, 'allow-always'], ['denied', /^Deny/i, 'deny']];
  const prompt = (id) => page.getByText(`echo ${id}`).locator('visible=true').first();
  const gone = async (id) => {
    const deadline = Date.now() + WAIT_MS;
    while (await page.getByText(`echo ${id}`).locator('visible=true').count() > 0) {
      if (Date.now() > deadline) throw new Error('it is still shown');
      await new Promise((done) => setTimeout(done, 100));
    }
  };
  for (const [name, button, decision] of answers) {
    await check(`approval ${name}`, async () => {
      const id = `ui-${decision}`;
      const asked = askForLeave({ port: gateway.port, token, id, timeoutMs: WAIT_MS });
      try {
        await prompt(id).waitFor({ timeout: WAIT_MS });
        await shoot(`approval-${decision}`);
        await page.getByRole('button', { name: button }).locator('visible=true').first().click({ timeout: WAIT_MS });
      } finally {
        const decided = await asked;
        if (decided !== decision) throw new Error(`it was decided: ${decided}`);
      }
      await gone(id);
    });
  }
  await check('approval timed out', async () => {
    const asked = askForLeave({ port: gateway.port, token, id: 'ui-late', timeoutMs: 2_500 });
    await prompt('ui-late').waitFor({ timeout: WAIT_MS });
    const decided = await asked;
    if (decided !== null) throw new Error(`it was decided: ${decided}`);
    await gone('ui-late');
  });
}

export async function runControlUis({ release, token, say }) {
  const { chromium } = createRequire(`${peers}/tools/`)('playwright-core');
  const executablePath = execFileSync('sh', ['-c', 'command -v chromium']).toString().trim();
  const folder = path.join(root, 'target/conformance');
  const results = []; const seen = [];
  for (const [build, { signIn, views, waysBack, choosesFiles }] of Object.entries(builds)) {
    if (release && release !== build) continue;
    const model = await startModel();
    const protocol = releases[build].protocol;
    const config = recordedConfig({ token, workspace: temporary('ui-workspace'), modelPort: model.port, protocol });
    // The released gateway finds its own page; ours is told where it lies.
    if (!release) config.gateway.controlUi = { root: `${releases[build].folder}/dist/control-ui` };
    const gateway = await startGateway({ release, token, config });
    const witness = await startWitness(gateway.port);
    const profile = temporary('chromium');
    const browser = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: ARGS, viewport: { width: 1360, height: 900 } });
    const page = browser.pages()[0] ?? await browser.newPage();
    const broken = [];
    page.on('pageerror', (error) => broken.push(error.message));
    const base = `http://127.0.0.1:${witness.port}`;
    const check = async (name, what) => {
      let why = null;
      try { await what(); } catch (error) { why = error.message.split('\n')[0]; }
      results.push({ name: `Control UI ${build} ${name}`, good: why === null });
      say(`${why === null ? 'ok  ' : 'FAIL'} Control UI ${build} ${name}${why === null ? '' : `: ${why}`}`);
    };
    const answered = (methods) => {
      const good = witness.connections.flatMap((c) => c.calls).filter((call) => call.frame.ok).map((call) => call.method);
      return methods.filter((method) => !good.includes(method));
    };
    const until = async (holds, otherwise) => {
      const deadline = Date.now() + WAIT_MS;
      while (!holds()) {
        if (Date.now() > deadline) throw new Error(otherwise());
        await new Promise((done) => setTimeout(done, 50));
      }
    };
    await check('loads and signs in', async () => {
      const response = await page.goto(base + signIn(token), { waitUntil: 'load', timeout: WAIT_MS });
      if (!response.ok()) throw new Error(`the page answers ${response.status()}`);
      await until(() => witness.connections.some((c) => c.hello), () => `no hello; asked: ${JSON.stringify(witness.connections.map((c) => c.calls.map((x) => x.frame.error?.message)))}`);
      const signedIn = witness.connections.find((c) => c.hello);
      if (signedIn.protocol !== protocol) throw new Error('another protocol was agreed on');
      // The page signs in again on the next address with what it keeps, and a slow machine is on its way there before it has kept it.
      const isKept = (secret) => JSON.stringify({ ...localStorage }).includes(secret);
      await page.waitForFunction(isKept, signedIn.hello.auth.deviceToken, { timeout: WAIT_MS });
    });
    for (const [name, address, methods, shown] of views) {
      await check(`shows ${name}`, async () => {
        try {
          await page.goto(base + address, { waitUntil: 'load', timeout: WAIT_MS });
          await shown(page);
          await until(() => answered(methods).length === 0, () => `not answered: ${answered(methods)}`);
          // Late answers redraw the page; the screenshot is for people.
          await page.waitForLoadState('networkidle', { timeout: 5000 }).catch(() => {});
        } finally {
          await page.screenshot({ path: path.join(folder, `control-ui-${build}-${name}.png`) });
        }
      });
    }
    // A turn as a person has it: typed, sent, and read.
    await check('answers a typed message', async () => {
      const shown = page.getByText(ANSWER).locator('visible=true');
      try {
        await page.goto(base + views[0][1], { waitUntil: 'load', timeout: WAIT_MS });
        const field = page.locator('textarea, [contenteditable="true"]').locator('visible=true').first();
        await field.waitFor({ timeout: WAIT_MS });
        // Its page sends nothing before it is connected.
        await until(() => answered(views[0][2]).length === 0, () => `not answered: ${answered(views[0][2])}`);
        await field.fill(`Say it: [[say:${ANSWER}]]`);
        await field.press('Enter');
        await until(() => answered(['chat.send']).length === 0, () => 'chat.send was not called');
        // Beside what was typed, which the directive makes hold the same words.
        const deadline = Date.now() + WAIT_MS;
        while (await page.getByText(ANSWER, { exact: true }).count() === 0) {
          if (Date.now() > deadline) throw new Error('the answer is not on the page');
          await new Promise((done) => setTimeout(done, 100));
        }
        await shown.first().waitFor({ timeout: WAIT_MS });
        const ends = witness.connections.flatMap((c) => c.events).filter((e) => e.event === 'chat' && e.payload.state === 'final');
        if (!ends.some((e) => e.payload.message?.content?.[0]?.text === ANSWER)) throw new Error(`no final event: ${JSON.stringify(ends)}`);
      } finally {
        await page.screenshot({ path: path.join(folder, `control-ui-${build}-answer.png`), animations: 'disabled' });
      }
    });
    // A picture as a person brings it: chosen or pasted, sent, answered, and there again when the page is loaded anew.
    await check('sends a picture', async () => {
      try {
        await page.goto(base + views[0][1], { waitUntil: 'load', timeout: WAIT_MS });
        const field = page.locator('textarea, [contenteditable="true"]').locator('visible=true').first();
        await field.waitFor({ timeout: WAIT_MS });
        const finals = () => witness.connections.flatMap((c) => c.events).filter((e) => e.event === 'chat' && e.payload.state === 'final').length;
        const before = finals();
        await field.fill('See it: [[say:I see it.]]');
        if (choosesFiles) await page.locator('input[type="file"]').first().setInputFiles({ name: 'attic.png', mimeType: 'image/png', buffer: Buffer.from(PNG, 'base64') });
        else await field.evaluate((element, png) => {
          const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], 'attic.png', { type: 'image/png' }));
          element.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
        }, PNG);
        // It is read before it can be sent.
        await page.locator('img[src^="data:image/png"], img[src^="blob:"]').first().waitFor({ timeout: WAIT_MS });
        await field.press('Enter');
        await until(() => finals() > before, () => 'it is not answered');
        const kept = fs.readdirSync(path.join(gateway.state, 'media/inbound'));
        if (!release && kept.length !== 1) throw new Error(`kept are: ${kept}`);
        if (!choosesFiles) return;
        await page.goto(base + views[0][1], { waitUntil: 'load', timeout: WAIT_MS });
        await page.waitForFunction(() => [...document.querySelectorAll('img')].some((img) => img.src.includes('assistant-media') && img.naturalWidth > 0), undefined, { timeout: WAIT_MS });
      } finally {
        await page.screenshot({ path: path.join(folder, `control-ui-${build}-picture.png`), animations: 'disabled' });
      }
    });
    await page.goto(base + views[0][1], { waitUntil: 'load', timeout: WAIT_MS });
    await until(() => answered(views[0][2]).length === 0, () => `not answered: ${answered(views[0][2])}`);
    if (waysBack) await checkWaysBack({ page, base, check, answered, until, shoot: (name) => page.screenshot({ path: path.join(folder, `control-ui-${build}-${name}.png`), animations: 'disabled' }) });
    await page.goto(base + views[0][1], { waitUntil: 'load', timeout: WAIT_MS });
    await until(() => answered(views[0][2]).length === 0, () => `not answered: ${answered(views[0][2])}`);
    await checkApprovals({ page, check, gateway, token, shoot: (name) => page.screenshot({ path: path.join(folder, `control-ui-${build}-${name}.png`), animations: 'disabled' }) });
    await check('runs without a script error', async () => { if (broken.length) throw new Error([...new Set(broken)].join('; ').slice(0, 400)); });
    const refused = witness.connections.flatMap((c) => c.calls).filter((call) => !call.frame.ok).map((call) => `${call.method}: ${call.frame.error?.message}`);
    if (refused.length) say(`     refused: ${[...new Set(refused)].join('; ').slice(0, 1200)}`);
    await browser.close();
    witness.stop();
    await gateway.stop();
    model.stop();
    seen.push(...witness.connections);
  }
  say(`screenshots: ${path.relative(root, folder)}/*.png`);
  return { results, seen };
}
