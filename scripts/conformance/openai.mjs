// (g) The published `openai` package against /v1: models, completions, tools, responses, whole and streamed, and refusals.
import { pathToFileURL } from 'node:url';
import { peers } from './gateway.mjs';

const WAIT_MS = 20_000;
const weather = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };

export async function runOpenAi({ gateway, say }) {
  const { default: OpenAI } = await import(pathToFileURL(`${peers}/openai/node_modules/openai/index.mjs`));
  const open = (apiKey) => new OpenAI({ apiKey, baseURL: `http://127.0.0.1:${gateway.port}/v1`, maxRetries: 0, timeout: WAIT_MS });
  const client = open(gateway.token);
  const results = [];
  const check = async (name, what) => {
    let why = null;
    try { await what(); } catch (error) { why = error?.message ?? String(error); }
    results.push({ name: `openai ${name}`, good: why === null });
    say(`${why === null ? 'ok  ' : 'FAIL'} openai ${name}${why === null ? '' : `: ${why}`}`);
  };
  const ask = (content, more = {}) => client.chat.completions.create({ model: 'openclaw', messages: [{ role: 'user', content }], ...more });

  await check('models.list', async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    equal(ids.includes('openclaw') && ids.includes('openclaw/main'), true);
  });
  await check('models.retrieve', async () => equal((await client.models.retrieve('openclaw/main')).object, 'model'));
  await check('chat.completions.create', async () => {
    const answer = await ask('[[say:Good morning]]');
    equal(answer.choices[0].message.content, 'Good morning');
    equal(answer.choices[0].finish_reason, 'stop');
    equal(answer.usage.total_tokens, 16);
  });
  await check('chat.completions.create streamed', async () => {
    const stream = await ask('[[say:one two three]]', { stream: true, stream_options: { include_usage: true } });
    let text = ''; let chunks = 0; let usage;
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) { text += chunk.choices[0].delta.content; chunks++; }
      usage = chunk.usage ?? usage;
    }
    equal(text, 'one two three');
    equal(chunks > 1, true);
    equal(usage.total_tokens, 16);
  });
  await check('chat.completions.stream helper', async () => {
    const stream = client.chat.completions.stream({ model: 'openclaw', messages: [{ role: 'user', content: '[[say:by the helper]]' }] });
    equal((await stream.finalChatCompletion()).choices[0].message.content, 'by the helper');
  });
  const tools = [{ type: 'function', function: { name: 'get_weather', description: 'The weather', parameters: weather } }];
  await check('tools there and back', async () => {
    const messages = [{ role: 'user', content: '[[call:get_weather:{"city":"Bern"}]]' }];
    const first = await client.chat.completions.create({ model: 'openclaw', messages, tools });
    const [call] = first.choices[0].message.tool_calls;
    equal(first.choices[0].finish_reason, 'tool_calls');
    equal(JSON.parse(call.function.arguments).city, 'Bern');
    messages.push(first.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'rain' });
    const second = await client.chat.completions.create({ model: 'openclaw', messages, tools });
    equal(second.choices[0].message.content, 'tool done');
  });
  await check('tools by the runner, streamed', async () => {
    let asked = null;
    const runner = client.chat.completions.runTools({
      model: 'openclaw', stream: true, messages: [{ role: 'user', content: '[[call:get_weather:{"city":"Bern"}]]' }],
      tools: [{ type: 'function', function: { name: 'get_weather', description: 'The weather', parameters: weather, parse: JSON.parse, function: (args) => { asked = args; return 'rain'; } } }],
    });
    equal(await runner.finalContent(), 'tool done');
    equal(asked?.city, 'Bern');
  });
  await check('responses.create, continued', async () => {
    const first = await client.responses.create({ model: 'openclaw', input: '[[say:I am here]]', instructions: 'Be brief.' });
    equal(first.output_text, 'I am here');
    equal(first.status, 'completed');
    const next = await client.responses.create({ model: 'openclaw', input: '[[say:still here]]', previous_response_id: first.id });
    equal(next.output_text, 'still here');
  });
  await check('responses.create streamed', async () => {
    const stream = await client.responses.create({ model: 'openclaw', input: '[[say:one two three]]', stream: true });
    let text = ''; let last;
    for await (const event of stream) {
      if (event.type === 'response.output_text.delta') text += event.delta;
      last = event;
    }
    equal(text, 'one two three');
    equal(last.type, 'response.completed');
  });
  await check('responses.stream helper with a tool', async () => {
    const stream = client.responses.stream({
      model: 'openclaw', input: '[[call:get_weather:{"city":"Bern"}]]', tools: [{ type: 'function', name: 'get_weather', parameters: weather, strict: false }],
    });
    const response = await stream.finalResponse();
    const call = response.output.find((item) => item.type === 'function_call');
    equal(JSON.parse(call.arguments).city, 'Bern');
  });
  await check('is told of a wrong key', async () => {
    const error = await open('not-the-token').models.list().then(() => null, (e) => e);
    equal(error instanceof OpenAI.AuthenticationError, true);
  });
  await check('is told of a wrong model', async () => {
    const error = await ask('hi', { model: 'gpt-4' }).then(() => null, (e) => e);
    equal(error instanceof OpenAI.BadRequestError, true);
    equal(error.type, 'invalid_request_error');
  });
  await check('is told of a provider that limits', async () => {
    const error = await ask('[[http:429]]').then(() => null, (e) => e);
    equal(error instanceof OpenAI.RateLimitError, true);
  });
  return { results };
}

function equal(actual, wanted) { if (actual !== wanted) throw new Error(`${JSON.stringify(actual)}, expected ${JSON.stringify(wanted)}`); }
