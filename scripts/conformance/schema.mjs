// (c) Every answer that a witness saw, against the JSON schema of the connection's protocol.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { peers, root } from './gateway.mjs';

const ERRORS_SHOWN = 3;
const METHODS_SHOWN = 15;

// What is sent beyond the definitions, by the released gateways themselves or for a released client that reads it: protocol, method,
// property. `v3 connect policy` is the snapshot's: the 2026.2.21 Control UI looks for its tick there, and only it is given it.
const SENT_ANYWAY = new Set([
  'v4 health modelRuntime', 'v4 connect modelRuntime', 'v4 tools.catalog fullDescription',
  'v4 models.list local', 'v4 models.list accountSelection', 'v4 models.list manualSelectionAllowed', 'v3 models.list input', 'v3 connect policy',
]);

export function validateAnswers({ seen, say, verbose }) {
  const Ajv = createRequire(`${peers}/tools/`)('ajv').default;
  const load = (file) => JSON.parse(fs.readFileSync(`${root}/fixtures/protocol/${file}`, 'utf8'));
  const rows = new Map(load('methods.json').map((row) => [row.name, row]));
  const protocols = {
    3: { schema: load('v3/protocol.schema.json'), result: (row) => row?.resultV3, name: 'v3' },
    4: { schema: load('v4/protocol-2026.9.6.schema.json'), result: (row) => row?.result, name: 'v4' },
  };
  for (const protocol of Object.values(protocols)) {
    const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
    ajv.addSchema({ $id: 'gateway', definitions: protocol.schema.definitions });
    const compiled = new Map();
    protocol.check = (definition, value, method) => {
      if (!(definition in protocol.schema.definitions)) return null;
      if (!compiled.has(definition)) compiled.set(definition, ajv.compile({ $ref: `gateway#/definitions/${definition}` }));
      const validate = compiled.get(definition);
      if (validate(value)) return [];
      const counts = validate.errors.filter((e) => !SENT_ANYWAY.has(`${protocol.name} ${method} ${e.params?.additionalProperty}`));
      return counts.map((e) => `${e.instancePath || '/'} ${e.message}${e.params?.additionalProperty ? ` '${e.params.additionalProperty}'` : ''}`);
    };
  }
  const totals = {};
  const note = (protocol, kind, name, errors) => {
    const table = ((totals[protocol] ??= {})[kind] ??= new Map());
    const row = table.get(name) ?? { seen: 0, valid: 0, unnamed: 0, errors: new Map() };
    row.seen++;
    if (errors === null) row.unnamed++;
    else if (errors.length === 0) row.valid++;
    else for (const error of errors) row.errors.set(error, (row.errors.get(error) ?? 0) + 1);
    table.set(name, row);
  };
  const advertised = { v3: new Set(), v4: new Set() };
  for (const connection of seen) {
    const protocol = protocols[connection.protocol];
    if (!protocol) continue; // never let in: there is no protocol to hold it to
    (connection.hello.features?.methods ?? []).forEach((method) => advertised[protocol.name].add(method));
    for (const event of connection.events) note(protocol.name, 'frames', `event ${event.event}`, protocol.check('EventFrame', event));
    for (const call of connection.calls) {
      note(protocol.name, 'frames', 'response', protocol.check('ResponseFrame', call.frame));
      if (!call.frame.ok) continue;
      const definition = call.method === 'connect' ? 'HelloOk' : protocol.result(rows.get(call.method));
      note(protocol.name, 'answers', call.method, definition ? protocol.check(definition, call.frame.payload, call.method) : null);
    }
  }
  const results = [];
  for (const [protocol, kinds] of Object.entries(totals)) {
    for (const [kind, table] of Object.entries(kinds)) {
      const all = [...table.values()];
      const sum = (key) => all.reduce((n, row) => n + row[key], 0);
      const methods = [...table].filter(([, row]) => row.seen > row.unnamed);
      const bad = methods.filter(([, row]) => row.errors.size);
      say(`${protocol} ${kind}: ${sum('valid')} of ${sum('seen') - sum('unnamed')} valid (${methods.length - bad.length} of ${methods.length} ${kind === 'answers' ? 'methods' : 'kinds'}; ${sum('unnamed')} without a definition)`);
      for (const [name, row] of bad) {
        const lines = [...row.errors].slice(0, verbose ? 100 : ERRORS_SHOWN).map(([error, n]) => `${error} (${n}x)`);
        say(`  INVALID ${protocol} ${name}: ${lines.join('; ')}${row.errors.size > lines.length ? `; ${row.errors.size - lines.length} more` : ''}`);
      }
      for (const [name, row] of methods) results.push({ name: `${protocol} ${kind} ${name}`, good: row.errors.size === 0 });
      if (kind === 'answers') {
        const silent = [...advertised[protocol]].filter((method) => !table.has(method));
        if (silent.length) say(`  listed, never answered well in this run: ${silent.length} (${silent.slice(0, verbose ? 1000 : METHODS_SHOWN).join(', ')}${silent.length > METHODS_SHOWN && !verbose ? ', ...' : ''})`);
      }
    }
  }
  return { results };
}
