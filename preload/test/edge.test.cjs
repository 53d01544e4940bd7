'use strict';

// Single connections in awkward states, and clients that do not behave.

const assert = require('node:assert');
const path = require('node:path');
const { once } = require('node:events');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');
const { Connection, pause } = require('./client.cjs');

const ECHO = path.join(__dirname, 'apps', 'echo.cjs');
const get = (number, more = '') => `GET /echo HTTP/1.1\r\nHost: x\r\nX-Number: ${number}\r\n${more}\r\n`;

async function stage(node, app, body, file = ECHO) {
  const primary = new Primary(node);
  try {
    const old = await primary.spawn(file, [JSON.stringify(app)]);
    await body(primary, old, () => primary.spawn(file, [JSON.stringify(app)]));
  } finally {
    await primary.close();
  }
}

async function ask(connection, bytes, worker) {
  await connection.write(bytes);
  const answer = await connection.response();
  assert.strictEqual(answer.status, 200);
  if (worker) assert.strictEqual(answer.headers['x-worker'], String(worker.id));
  return answer;
}

const state = (primary, worker, condition) => primary.until(worker, () => primary.said(worker, 'state').some(condition));

// The rest of a message that the old worker has begun to read is answered there; the next request
// on the same connection reaches the new one.
const partials = {
  'half a head on a fresh connection': { used: false, head: 'GET /echo HTTP/1.1\r\nHo', tail: 'st: x\r\nX-Number: 1\r\n\r\n' },
  'half a head on a used one': { used: true, head: 'GET /echo HTTP/1.1\r\nHo', tail: 'st: x\r\nX-Number: 1\r\n\r\n' },
  'one byte': { used: true, head: 'G', tail: get(1).slice(1) },
  'half a body': { used: true, head: 'POST /echo HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\nContent-Length: 10\r\n\r\n12345', tail: '67890' },
  'half a chunk': { used: true, head: 'POST /echo HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123', tail: '45\r\n0\r\n\r\n' },
  'a body that waits for 100': { used: true, head: 'POST /echo HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n', tail: 'ab' },
};

each('a partial message is finished by the worker that began it', ({ node }) => stage(node, {}, async (primary, old, next) => {
  const open = [];
  for (const [name, { used, head, tail }] of Object.entries(partials)) {
    const connection = await new Connection({ port: old.port }).ready;
    if (used) await ask(connection, get(0), old);
    await connection.write(head);
    open.push({ name, connection, tail });
  }
  await pause(100);
  const young = await next();
  primary.drain(old, { accept: true });
  primary.drain(old);
  await state(primary, old, (s) => s.busy === open.length && s.idle === 0);
  for (const { name, connection, tail } of open) {
    const answer = await ask(connection, tail, old);
    assert.ok(!answer.close, name);
    await ask(connection, get(2), young);
  }
  const drained = await primary.drained(old);
  assert.deepStrictEqual([drained.moved, drained.announced, drained.cut], [open.length, 0, 0]);
  for (const { connection } of open) connection.end();
}));

each('fresh, used, and blank-line connections move at once', ({ node }) => stage(node, {}, async (primary, old, next) => {
  const fresh = await new Connection({ port: old.port }).ready;
  const used = await new Connection({ port: old.port }).ready;
  const blank = await new Connection({ port: old.port }).ready;
  await ask(used, get(0), old);
  await ask(blank, get(0), old);
  await blank.write('\r\n');
  await pause(50);
  const young = await next();
  primary.drain(old);
  assert.strictEqual((await primary.drained(old)).moved, 3);
  for (const connection of [fresh, used, blank]) {
    await ask(connection, get(1), young);
    connection.end();
  }
}));

each('a pipeline with half a request at its end', ({ node }) => stage(node, {}, async (primary, old, next) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write(get(0) + get(1) + get(2) + get(3).slice(0, 20));
  for (let i = 0; i < 3; i += 1) assert.strictEqual((await connection.response()).headers['x-number'], String(i));
  const young = await next();
  primary.drain(old);
  await state(primary, old, (s) => s.busy === 1);
  await ask(connection, get(3).slice(20), old);
  await ask(connection, get(4), young);
  await primary.drained(old);
  connection.end();
}));

each('a head that is written but not sent is announced', ({ node }) => stage(node, {}, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write('GET /late HTTP/1.1\r\nHost: x\r\n\r\n');
  await primary.until(old, () => old.userMessages.includes('late'));
  primary.drain(old, { idle: 'close' });
  assert.ok((await connection.response()).close);
  assert.strictEqual((await primary.drained(old)).announced, 1);
}));

each('an HTTP/1.0 client gets its answer and a half-closed one holds nothing up', ({ node }) => stage(node, {}, async (primary, old, next) => {
  const plain = await new Connection({ port: old.port }).ready;
  await plain.write('GET /slow HTTP/1.0\r\nHost: x\r\n\r\n');
  const half = await new Connection({ port: old.port }).ready;
  half.socket.end('GET /slow HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\n\r\n');
  await pause(5);
  await next();
  primary.drain(old);
  assert.match((await plain.readUntil('\r\n\r\n')).toString(), /200 OK/);
  await plain.readUntil('slow');
  // Node itself ends a half-closed connection without the answer; nothing is left of it.
  await half.gone;
  assert.strictEqual((await primary.drained(old)).cut, 0);
}));

each('half a request and then silence is cut at stall', ({ node }) => stage(node, {}, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12');
  await pause(50);
  primary.drain(old, { stall: 300 });
  assert.strictEqual((await primary.drained(old)).cut, 1);
  await assert.rejects(connection.response());
}));

each('an app that takes longer for an answer than a transfer may stall is let finish', ({ node }) => stage(node, {}, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write('GET /think HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\n\r\n');
  await pause(50);
  primary.drain(old, { stall: 300 });
  assert.strictEqual((await connection.response()).status, 200);
  assert.strictEqual((await primary.drained(old)).cut, 0);
  connection.end();
}));

each('half a request behind one that the app is at work on is waited for as long', ({ node }) => stage(node, {}, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write(`GET /think HTTP/1.1\r\nHost: x\r\nX-Number: 1\r\n\r\n${get(2).slice(0, 20)}`);
  await pause(50);
  primary.drain(old, { stall: 300 });
  assert.strictEqual((await connection.response()).headers['x-number'], '1');
  await connection.gone;
  assert.strictEqual((await primary.drained(old)).cut, 1);
}));

// Nobody can tell whether a peer of an unknown protocol is waited for or is gone.
each('a raw connection lives as long as bytes move', ({ node }) => stage(node, {}, async (primary, worker) => {
  const [silent, busy] = await Promise.all([1, 2].map(() => new Connection({ port: worker.port }).ready));
  for (const connection of [silent, busy]) {
    await connection.write('x');
    await connection.readBytes(1);
  }
  primary.drain(worker, { stall: 300 });
  const over = silent.gone.then(() => 'over');
  let echoes = 0;
  while (await Promise.race([over, pause(50)]) !== 'over') {
    await busy.write('y');
    await busy.readBytes(1);
    echoes += 1;
  }
  assert.ok(echoes > 2, `${echoes}`);
  busy.end();
  assert.strictEqual((await primary.drained(worker)).cut, 1);
}, path.join(__dirname, 'apps', 'raw.cjs')));

each('what is left at the deadline is cut', ({ node }) => stage(node, {}, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write('GET /forever HTTP/1.1\r\nHost: x\r\n\r\n');
  await connection.readUntil('\r\n\r\n');
  primary.drain(old, { deadline: 600 });
  const drained = await primary.drained(old);
  assert.strictEqual(drained.cut, 1);
  connection.end();
}));

each('an announced idle connection stays for its keep-alive time and is then closed', ({ node }) => stage(node, { keepAliveTimeout: 700 }, async (primary, old) => {
  const connection = await new Connection({ port: old.port }).ready;
  await ask(connection, get(0));
  const began = Date.now();
  primary.drain(old, { idle: 'close' });
  await primary.drained(old);
  assert.ok(Date.now() - began >= 1600, `${Date.now() - began} ms`);
  connection.end();
}));

each('a moved connection that stays silent is closed after its keep-alive time', ({ node }) => stage(node, { keepAliveTimeout: 700 }, async (primary, old, next) => {
  // Its keep-alive time begins with an answer, and a boot may take longer.
  const connection = await new Connection({ port: old.port }).ready;
  const young = await next();
  await ask(connection, get(0), old);
  const began = Date.now();
  primary.drain(old);
  await primary.drained(old);
  if (!connection.error) await once(connection.socket, 'close');
  assert.ok(Date.now() - began >= 1600 && Date.now() - began < 4000, `${Date.now() - began} ms`);
  assert.strictEqual(connection.buffer.length, 0);
  assert.strictEqual(young.exit, null);
}));

each('a moved connection gets no 408', ({ node }) => stage(node, { keepAliveTimeout: 8000, headersTimeout: 800, requestTimeout: 800, check: 100 }, async (primary, old, next) => {
  const connection = await new Connection({ port: old.port }).ready;
  await ask(connection, get(0));
  const young = await next();
  primary.drain(old);
  await primary.drained(old);
  await pause(3000);
  assert.strictEqual(connection.buffer.length, 0, connection.buffer.toString());
  await ask(connection, get(1), young);
  connection.end();
}));

each('a moved connection is let in beyond maxConnections', ({ node }) => stage(node, { maxConnections: 1 }, async (primary, old, next) => {
  const first = await new Connection({ port: old.port }).ready;
  await ask(first, get(0), old);
  const young = await next();
  primary.drain(old);
  await primary.drained(old);
  await ask(first, get(1), young);
  const third = await next();
  const second = await occupy(third);
  primary.drain(young);
  await primary.drained(young);
  await ask(first, get(2), third);
  await ask(second, get(3), third);
  assert.strictEqual(primary.refused, 0);
}));

// The shared socket may give a connection to either worker; the full one drops it.
async function occupy(wanted) {
  for (;;) {
    const connection = await new Connection({ port: wanted.port }).ready;
    try {
      await ask(connection, get(1), wanted);
      return connection;
    } catch (error) {
      connection.end();
    }
  }
}
