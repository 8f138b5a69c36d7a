// (b) The published client library through its whole life: connect, request, event, refusal, reconnect.
import crypto from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { peers } from './gateway.mjs';
import { startWitness } from './witness.mjs';

const WAIT_MS = 20_000;

export async function runClientLibrary({ gateway, say }) {
  const { GatewayClient } = await import(pathToFileURL(`${peers}/gwc/node_modules/@openclaw/gateway-client/dist/index.mjs`));
  const witness = await startWitness(gateway.port);
  const url = `ws://127.0.0.1:${witness.port}`;
  const results = []; const clients = [];
  const check = async (name, what) => {
    let why = null;
    try { await within(what()); } catch (error) { why = error?.message ?? String(error); }
    results.push({ name: `gateway-client ${name}`, good: why === null });
    say(`${why === null ? 'ok  ' : 'FAIL'} gateway-client ${name}${why === null ? '' : `: ${why}`}`);
  };
  const open = (options) => {
    const seen = { hellos: [], events: [], closes: [], gaps: [], errors: [], paused: [] };
    const client = new GatewayClient({
      url, token: gateway.token, minProtocol: 4, maxProtocol: 4, scopes: ['operator.admin'],
      onHelloOk: (h) => seen.hellos.push(h), onEvent: (e) => seen.events.push(e), onClose: (code, reason) => seen.closes.push({ code, reason }),
      onConnectError: (e) => seen.errors.push(e), onGap: (g) => seen.gaps.push(g), onReconnectPaused: (p) => seen.paused.push(p), ...options,
    });
    client.start();
    clients.push(client);
    return { client, seen };
  };
  const ann = open({});
  const device = identity();
  const stored = new Map();
  const bob = open({
    mode: 'ui', clientName: 'openclaw-macos', instanceId: 'bobs-mac', deviceIdentity: device, scopes: ['operator.admin', 'operator.read', 'operator.write'],
    hostDeps: { ...signing, storeDeviceAuthToken: (t) => stored.set(t.role, t), loadDeviceAuthToken: ({ role }) => stored.get(role) ?? null },
  });
  await check('connects', async () => {
    await until(() => ann.seen.hellos.length && bob.seen.hellos.length, () => String(ann.seen.errors[0] ?? bob.seen.errors[0] ?? 'no hello'));
    equal(ann.seen.hellos[0].protocol, 4);
  });
  await check('keeps the device token of its first hello', async () => { if (!stored.get('operator')?.token) throw new Error('none was stored'); });
  for (const method of ['health', 'status', 'sessions.list', 'config.get', 'models.list', 'agents.list', 'channels.status', 'system-presence']) {
    await check(`request ${method}`, () => ann.client.request(method, {}));
  }
  await check('is told of an unknown method', async () => {
    const error = await ann.client.request('no.such.method', {}).then(() => null, (e) => e);
    equal(error?.gatewayCode ?? error?.code, 'INVALID_REQUEST');
  });
  const chats = (seen, runId) => seen.events.filter((e) => e.event === 'chat' && e.payload.runId === runId).map((e) => e.payload);
  await check('chats: the answer is streamed, then final', async () => {
    const runId = crypto.randomUUID();
    const started = await bob.client.request('chat.send', { sessionKey: 'agent:main:library', message: '[[say:one two three four five six]]', idempotencyKey: runId });
    equal([started.runId, started.status], [runId, 'started']);
    await until(() => chats(bob.seen, runId).some((e) => e.state === 'final'), () => `chat events: ${chats(bob.seen, runId).map((e) => e.state)}`);
    const texts = chats(bob.seen, runId).filter((e) => e.state === 'delta').map((e) => e.message.content[0].text);
    if (!texts.length || !texts.every((text, i) => 'one two three four five six'.startsWith(text) && text.length > (texts[i - 1] ?? '').length)) throw new Error(`deltas: ${texts}`);
    equal(chats(bob.seen, runId).at(-1).message.content[0].text, 'one two three four five six');
    const { messages } = await bob.client.request('chat.history', { sessionKey: 'agent:main:library' });
    equal(messages.map((m) => m.role), ['user', 'assistant']);
  });
  await check('asks an agent and waits for its last words', async () => {
    const answer = await bob.client.request('agent', { message: 'hello', sessionKey: 'agent:main:library', idempotencyKey: crypto.randomUUID() }, { expectFinal: true });
    equal([answer.status, answer.result.payloads[0].text], ['ok', 'Hello from the stub model.']);
  });
  await check('stops an answer', async () => {
    const runId = crypto.randomUUID();
    await bob.client.request('chat.send', { sessionKey: 'agent:main:library', message: '[[slow]]', idempotencyKey: runId });
    await until(() => chats(bob.seen, runId).some((e) => e.state === 'delta'), () => 'nothing was streamed');
    equal((await bob.client.request('chat.abort', { sessionKey: 'agent:main:library', runId })).runIds, [runId]);
    await until(() => chats(bob.seen, runId).some((e) => e.state === 'aborted'), () => `chat events: ${chats(bob.seen, runId).map((e) => e.state)}`);
  });
  await check('gets events', async () => {
    const carol = open({ mode: 'ui', clientName: 'openclaw-macos', instanceId: 'carols-mac', deviceIdentity: identity(), hostDeps: signing, scopes: ['operator.read'] });
    await until(() => bob.seen.events.some((e) => e.event === 'presence' && JSON.stringify(e.payload).includes('carols-mac')), () => `events: ${bob.seen.events.map((e) => e.event)}`);
    await carol.client.stopAndWait();
  });
  await check('reconnects by itself and requests again', async () => {
    witness.cut();
    await until(() => ann.seen.hellos.length > 1 && bob.seen.hellos.length > 1, () => `closes ${JSON.stringify(ann.seen.closes)}`);
    await ann.client.request('health', {});
    await bob.client.request('sessions.list', {});
  });
  await check('finds no gap in the numbering of events', async () => equal(ann.seen.gaps.length + bob.seen.gaps.length, 0));
  await check('signs in with its device token alone', async () => {
    const dave = open({
      token: undefined, mode: 'ui', clientName: 'openclaw-macos', deviceIdentity: device, scopes: ['operator.read'],
      hostDeps: { ...signing, loadDeviceAuthToken: ({ role }) => stored.get(role) ?? null, storeDeviceAuthToken: () => {} },
    });
    await until(() => dave.seen.hellos.length, () => String(dave.seen.errors[0] ?? 'no hello'));
    await dave.client.request('sessions.list', {});
    await dave.client.stopAndWait();
  });
  await check('is told of a wrong token in a way it understands', async () => {
    const eve = open({ token: 'not-the-token' });
    await until(() => eve.seen.errors.length, () => 'no error');
    equal(eve.seen.errors[0].details?.code, 'AUTH_TOKEN_MISMATCH');
    await eve.client.stopAndWait();
  });
  for (const client of clients) client.stop();
  witness.stop();
  return { results, seen: witness.connections };
}

const signing = {
  signDevicePayload: (pem, payload) => crypto.sign(null, Buffer.from(payload), crypto.createPrivateKey(pem)).toString('base64url'),
  publicKeyRawBase64UrlFromPem: (pem) => raw(crypto.createPublicKey(pem)).toString('base64url'),
};
const raw = (key) => key.export({ type: 'spki', format: 'der' }).subarray(-32);
function identity() {
  const { publicKey, privateKey } = crypto.generateKeyPairSync('ed25519');
  return {
    deviceId: crypto.createHash('sha256').update(raw(publicKey)).digest('hex'),
    publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }), privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  };
}
function equal(actual, wanted) { if (JSON.stringify(actual) !== JSON.stringify(wanted)) throw new Error(`${JSON.stringify(actual)}, expected ${JSON.stringify(wanted)}`); }
async function until(holds, otherwise) {
  const deadline = Date.now() + WAIT_MS;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(otherwise());
    await new Promise((done) => setTimeout(done, 20));
  }
}
function within(promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('no end in time')), WAIT_MS + 5000); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
