'use strict';

// HTTP/2 sessions and upgraded sockets.

const assert = require('node:assert');
const fs = require('node:fs');
const http2 = require('node:http2');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');
const { Connection, pause } = require('./client.cjs');

const H2 = path.join(__dirname, 'apps', 'h2.cjs');
const WS = path.join(__dirname, 'apps', 'ws.cjs');
const MODULES = process.env.SEGUE_TEST_MODULES; // a node_modules folder that holds `ws`

async function stage(node, body) {
  const primary = new Primary(node);
  try {
    await body(primary);
  } finally {
    await primary.close();
  }
}

each('HTTP/2 streams finish; only those beyond GOAWAY are refused', ({ node, t }) => stage(node, async (primary) => {
  const worker = await primary.spawn(H2);
  const counts = { done: 0, refused: 0, failed: 0 };
  let draining = false;
  const sessions = Array.from({ length: 10 }, () => {
    const session = http2.connect(`http://127.0.0.1:${worker.port}`);
    const mine = { session, lastStream: Infinity };
    session.on('error', () => {});
    session.on('goaway', (code, last) => { mine.lastStream = last; });
    mine.closed = new Promise((resolve) => session.on('close', resolve));
    return mine;
  });
  const streams = [];
  const ask = (mine) => new Promise((resolve) => {
    let body = '';
    let length = '';
    const stream = mine.session.request({ ':path': '/x' });
    stream.on('response', (headers) => { length = headers['content-length']; });
    stream.on('data', (d) => { body += d; });
    stream.on('error', () => {});
    stream.on('close', () => {
      // Node's client calls a stream cancelled whose socket closes before its 'end' is delivered.
      if (length === '2' && body === '/x') counts.done += 1;
      else if (stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM && stream.id > mine.lastStream) counts.refused += 1;
      else counts.failed += 1;
      resolve();
    });
  });
  const loops = sessions.map(async (mine) => {
    while (!mine.session.closed && !mine.session.destroyed) {
      streams.push(ask(mine));
      await pause(2);
      if (!draining && counts.done > 200) { draining = true; primary.drain(worker); }
    }
  });
  await Promise.all([...loops, ...sessions.map((mine) => mine.closed)]);
  await Promise.all(streams);
  const drained = await primary.drained(worker);
  assert.strictEqual(counts.failed, 0, JSON.stringify(counts));
  assert.deepStrictEqual([drained.announced, drained.cut], [10, 0]);
  t.diagnostic(JSON.stringify(counts));
}));

// A client at the level of frames, which a session that is cut short cannot deceive.
class Frames {
  constructor(port) {
    this.socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
    this.buffer = Buffer.alloc(0);
    this.next = 1;
    this.open = new Set();
    this.last = null; // the last stream of GOAWAY
    this.error = null;
    this.socket.on('data', (data) => { this.buffer = Buffer.concat([this.buffer, data]); this.read(); });
    this.socket.on('error', (error) => { this.error = error; });
    this.ended = new Promise((resolve) => this.socket.on('close', resolve));
    this.answered = new Promise((resolve) => { this.heard = resolve; });
    this.socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    this.send(4, 0, 0, Buffer.alloc(0));
  }

  send(type, flags, stream, payload) {
    const head = Buffer.from([0, 0, payload.length, type, flags, 0, 0, 0, 0]);
    head.writeUInt32BE(stream, 5);
    if (!this.socket.destroyed) this.socket.write(Buffer.concat([head, payload]));
  }

  ask() {
    this.open.add(this.next);
    this.send(1, 5, this.next, Buffer.concat([Buffer.from([0x82, 0x86, 0x84, 0x41, 1]), Buffer.from('x')]));
    this.next += 2;
  }

  read() {
    while (this.buffer.length >= 9 && this.buffer.length >= 9 + this.buffer.readUIntBE(0, 3)) {
      const payload = this.buffer.subarray(9, 9 + this.buffer.readUIntBE(0, 3));
      const [type, flags] = [this.buffer[3], this.buffer[4]];
      const stream = this.buffer.readUInt32BE(5) & 0x7fffffff;
      this.buffer = this.buffer.subarray(9 + payload.length);
      if (type === 7) this.last = payload.readUInt32BE(0);
      if ((type === 0 || type === 1) && (flags & 1)) { this.open.delete(stream); this.heard(); }
      if (type === 3 && this.last !== null && stream > this.last) this.open.delete(stream);
    }
  }
}

each('an HTTP/2 session is not over before its last frame is out', ({ node, t }) => stage(node, async (primary) => {
  const worker = await primary.spawn(H2);
  const clients = Array.from({ length: 20 }, () => new Frames(worker.port));
  for (const client of clients) client.ask();
  await Promise.all(clients.map((client) => client.answered));
  let asked = 0;
  await Promise.all(clients.map(async (client) => {
    while (client.last === null && !client.error && !client.socket.destroyed) {
      for (let i = 0; i < 5; i += 1) client.ask();
      asked += 5;
      if (asked === 1000) primary.drain(worker);
      await pause(Math.random() * 20);
    }
    // Frames that come late must not cost the answers that are on their way.
    client.send(6, 0, 0, Buffer.alloc(8));
    await client.ended;
  }));
  for (const client of clients) {
    assert.strictEqual(client.error, null);
    assert.notStrictEqual(client.last, null, 'a session ended without GOAWAY');
    assert.deepStrictEqual([...client.open].filter((stream) => stream <= client.last), [], 'streams without their end');
  }
  assert.deepStrictEqual((await primary.drained(worker)).cut, 0);
  t.diagnostic(`${asked} streams`);
}));

// One stream, and how it ended: its body, or null.
async function stream(worker, path, { body } = {}) {
  const session = http2.connect(`http://127.0.0.1:${worker.port}`);
  session.on('error', () => {});
  const request = session.request({ ':path': path, ':method': body === undefined ? 'GET' : 'POST' });
  let answer = '';
  const begun = new Promise((resolve) => session.on('remoteSettings', resolve));
  const done = new Promise((resolve) => {
    request.on('data', (data) => { answer += data; });
    request.on('error', () => {});
    request.on('close', () => resolve(answer === path ? answer : null));
  });
  if (body === undefined) request.end();
  else request.write(body);
  await begun;
  return { session, request, done };
}

each('an app that takes longer for an answer over HTTP/2 than a transfer may stall is let finish', ({ node }) => stage(node, async (primary) => {
  const worker = await primary.spawn(H2);
  const { done } = await stream(worker, '/think');
  await pause(50);
  primary.drain(worker, { stall: 300 });
  assert.strictEqual(await done, '/think');
  assert.strictEqual((await primary.drained(worker)).cut, 0);
}));

each('HTTP/2 that moves no byte in either direction is cut at stall', ({ node }) => stage(node, async (primary) => {
  const worker = await primary.spawn(H2);
  const silent = await stream(worker, '/silent');
  const upload = await stream(worker, '/think', { body: 'half' });
  await pause(50);
  primary.drain(worker, { stall: 300 });
  assert.deepStrictEqual(await Promise.all([silent.done, upload.done]), [null, null]);
  assert.strictEqual((await primary.drained(worker)).cut, 2);
}));

const HANDSHAKE = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n';

async function websockets(worker, count) {
  const open = [];
  for (let i = 0; i < count; i += 1) {
    const connection = await new Connection({ port: worker.port }).ready;
    await connection.write(HANDSHAKE);
    await connection.readUntil('\r\n\r\n');
    open.push(connection);
  }
  return open;
}

// The server's close frame, answered by a masked one of the client.
async function closed(connection) {
  const head = await connection.readBytes(2);
  assert.strictEqual(head[0], 0x88);
  const payload = Buffer.from(await connection.readBytes(head[1]));
  await connection.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, payload[0], payload[1]]));
  await connection.gone;
  return { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString() };
}

for (const kind of ['ws', 'raw']) {
  each(`WebSockets get a close frame of 1012 (${kind})`, ({ node, t }) => {
    if (kind === 'ws' && !MODULES) { t.skip('SEGUE_TEST_MODULES is not set'); return undefined; }
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segue-preload-'));
    fs.mkdirSync(path.join(dir, 'node_modules', 'websocket'), { recursive: true });
    fs.writeFileSync(path.join(dir, 'node_modules', 'websocket', 'index.js'), '');
    return stage(node, async (primary) => {
      const worker = await primary.spawn(WS, [kind, kind === 'ws' ? MODULES : path.join(dir, 'node_modules')]);
      const open = await websockets(worker, 20);
      const all = open.map(closed);
      const began = Date.now();
      primary.drain(worker, { ws_after: 500 });
      for (const end of await Promise.all(all)) assert.deepStrictEqual(end, { code: 1012, reason: 'Service Restart' });
      const drained = await primary.drained(worker);
      assert.deepStrictEqual([drained.announced, drained.cut], [20, 0]);
      t.diagnostic(`20 closed in ${Date.now() - began} ms`);
    });
  });
}

each('an upgraded socket of unknown kind has the plain rules', ({ node }) => stage(node, async (primary) => {
  const worker = await primary.spawn(WS, ['unknown', '']);
  const [connection] = await websockets(worker, 1);
  primary.drain(worker, { stall: 400 });
  await connection.gone;
  assert.strictEqual(connection.buffer.length, 0);
  assert.strictEqual((await primary.drained(worker)).cut, 1);
}));
