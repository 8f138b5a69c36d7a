// A model provider on loopback whose reply is chosen by a directive in the newest user text, as when the recordings were made:
// none: "Hello from the stub model."; [[say:TEXT]]; [[slow]]; [[tool:CMD]]; [[call:NAME:JSON]]; [[http:CODE]].
import http from 'node:http';

const CHUNK_MS = 60; const SLOW_CHUNK_MS = 150; const SLOW_CHUNKS = 60;
const usage = { prompt_tokens: 10, completion_tokens: 6, total_tokens: 16 };

export async function startModel() {
  let answers = 0;
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (d) => { body += d; });
    request.on('end', () => answer(request, response, body, ++answers));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return { port: server.address().port, stop: () => { server.closeAllConnections(); server.close(); } };
}

const textOf = (content) => (typeof content === 'string' ? content
  : (content ?? []).map((part) => part?.text ?? (typeof part?.content === 'string' ? part.content : '')).join('\n'));

function plan(messages) {
  const last = messages.findLastIndex((m) => m.role === 'assistant');
  const newest = messages.slice(last + 1);
  if (newest.some((m) => m.role === 'tool')) return { text: 'tool done' };
  const texts = newest.filter((m) => m.role === 'user').map((m) => textOf(m.content)).reverse();
  const text = texts.find((t) => /\[\[[a-z]+/.test(t)) ?? texts.at(-1) ?? '';
  let m;
  if (text.includes('[[slow]]')) return { chunks: Array.from({ length: SLOW_CHUNKS }, (_, i) => `w${i} `), gap: SLOW_CHUNK_MS };
  if ((m = /\[\[tool:(.+?)\]\]/s.exec(text))) return { tool: 'exec', args: { command: m[1] } };
  if ((m = /\[\[call:(\w+):(.+?)\]\]/s.exec(text))) { let args = {}; try { args = JSON.parse(m[2]); } catch { /* sent as no arguments */ } return { tool: m[1], args }; }
  if ((m = /\[\[http:(\d+)\]\]/.exec(text))) return { status: Number(m[1]) };
  if ((m = /\[\[say:(.+?)\]\]/s.exec(text))) return { text: m[1] };
  return { text: 'Hello from the stub model.' };
}

async function answer(request, response, body, n) {
  const json = (status, value) => { response.writeHead(status, { 'content-type': 'application/json' }); response.end(JSON.stringify(value)); };
  if (request.url.includes('/models')) return json(200, { object: 'list', data: [{ id: 'test-model', object: 'model', owned_by: 'stub' }] });
  let asked = {};
  try { asked = JSON.parse(body); } catch { return json(400, { error: { message: 'not JSON' } }); }
  if (request.url.includes('/embeddings')) {
    const data = [].concat(asked.input ?? '').map((_, index) => ({ object: 'embedding', index, embedding: [0.1, 0.2, 0.3] }));
    return json(200, { object: 'list', data, usage: { prompt_tokens: 1, total_tokens: 1 } });
  }
  const p = plan(asked.messages ?? []);
  if (p.status) return json(p.status, { error: { message: `stub error ${p.status}`, type: 'stub_error', code: 'stub_error' } });
  const tool_calls = p.tool ? [{ index: 0, id: `call_${n}`, type: 'function', function: { name: p.tool, arguments: JSON.stringify(p.args) } }] : undefined;
  const chunks = p.chunks ?? p.text?.match(/\S+\s*/g) ?? [];
  const finish_reason = p.tool ? 'tool_calls' : 'stop';
  const base = { id: `stub-${n}`, object: 'chat.completion.chunk', created: 1700000000, model: asked.model ?? 'test-model' };
  if (!asked.stream) {
    const message = { role: 'assistant', content: tool_calls ? null : chunks.join(''), tool_calls };
    return json(200, { ...base, object: 'chat.completion', choices: [{ index: 0, message, finish_reason }], usage });
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const send = (delta, finish = null) => response.write(`data: ${JSON.stringify({ ...base, choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
  send({ role: 'assistant', content: '' });
  if (tool_calls) send({ tool_calls });
  else {
    for (const content of chunks) {
      if (response.destroyed) return;
      send({ content });
      await new Promise((done) => setTimeout(done, p.gap ?? CHUNK_MS));
    }
  }
  send({}, finish_reason);
  response.end(`data: ${JSON.stringify({ ...base, choices: [], usage })}\n\ndata: [DONE]\n\n`);
}
