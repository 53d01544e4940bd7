'use strict';

// HTTP/2 sessions and upgraded sockets.

const assert = require('node:assert');
const fs = require('node:fs');
const http2 = require('node:http2');
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
