// A relay between a client and the gateway that changes nothing and remembers every WebSocket frame.
// What a client printed can come from a local file; what passed here came from the gateway.
import net from 'node:net';

export async function startWitness(target) {
  const connections = []; const sockets = new Set();
  const server = net.createServer((client) => {
    const gateway = net.connect(target, '127.0.0.1');
    const connection = { id: connections.length, protocol: null, connect: null, hello: null, calls: [], events: [], open: new Map() };
    connections.push(connection);
    for (const [from, to, reader] of [[client, gateway, reading((f) => asked(connection, f))], [gateway, client, reading((f) => answered(connection, f))]]) {
      sockets.add(from);
      from.setNoDelay(true);
      from.on('data', (bytes) => { to.write(bytes); reader(bytes); });
      from.on('end', () => to.end());
      from.on('close', () => { sockets.delete(from); to.destroy(); });
      from.on('error', () => to.destroy());
    }
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    port: server.address().port,
    connections,
    /** Cuts every connection, as a network does. */
    cut: () => sockets.forEach((socket) => socket.destroy()),
    stop: () => { sockets.forEach((socket) => socket.destroy()); server.close(); },
  };
}

function asked(connection, frame) {
  if (frame?.type !== 'req') return;
  if (frame.method === 'connect') connection.connect = frame.params;
  connection.open.set(frame.id, { method: frame.method, params: frame.params });
}

function answered(connection, frame) {
  if (frame?.type === 'event') return void connection.events.push(frame);
  if (frame?.type !== 'res') return;
  const call = connection.open.get(frame.id);
  if (!call) return;
  if (call.method === 'connect' && frame.ok) { connection.hello = frame.payload; connection.protocol = frame.payload?.protocol ?? null; }
  // Copies only what a schema looks at; a request may be answered twice.
  connection.calls.push({ ...call, frame });
}

/** Reads an HTTP head, then, when it was an upgrade, WebSocket frames; anything else is passed over. */
function reading(onFrame) {
  let buffer = Buffer.alloc(0); let state = 'head'; let parts = [];
  return (bytes) => {
    if (state === 'other') return;
    buffer = buffer.length ? Buffer.concat([buffer, bytes]) : bytes;
    if (state === 'head') {
      const end = buffer.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = buffer.subarray(0, end).toString('latin1');
      if (!/^upgrade:\s*websocket/im.test(head)) { state = 'other'; buffer = null; return; }
      state = 'frames'; buffer = buffer.subarray(end + 4);
    }
    for (;;) {
      if (buffer.length < 2) return;
      let length = buffer[1] & 127; let at = 2;
      if (length === 126) { if (buffer.length < 4) return; length = buffer.readUInt16BE(2); at = 4; }
      else if (length === 127) { if (buffer.length < 10) return; length = Number(buffer.readBigUInt64BE(2)); at = 10; }
      const masked = (buffer[1] & 128) !== 0; const mask = masked ? buffer.subarray(at, at + 4) : null;
      if (masked) at += 4;
      if (buffer.length < at + length) return;
      const opcode = buffer[0] & 15;
      if (opcode <= 2) {
        const payload = Buffer.from(buffer.subarray(at, at + length));
        if (mask) for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i & 3];
        parts.push(payload);
        if (buffer[0] & 128) {
          const text = Buffer.concat(parts).toString('utf8'); parts = [];
          try { onFrame(JSON.parse(text)); } catch (error) { if (!(error instanceof SyntaxError)) throw error; }
        }
      }
      buffer = buffer.subarray(at + length);
    }
  };
}
