'use strict';

// The preload inside a process: where it must be inert, what apps do to the channel, how it ends.

const assert = require('node:assert');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');
const { Connection, pause } = require('./client.cjs');

const ECHO = path.join(__dirname, 'apps', 'echo.cjs');
const PROCESS = path.join(__dirname, 'apps', 'process.cjs');
const get = (number) => `GET /echo HTTP/1.1\r\nHost: x\r\nX-Number: ${number}\r\n\r\n`;

async function stage(node, settings, body) {
  const primary = new Primary(node, settings);
  try {
    await body(primary);
  } finally {
    await primary.close();
  }
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const heard = async (primary, worker, key) => {
  await primary.until(worker, () => worker.userMessages.some((m) => m[key] !== undefined));
  return worker.userMessages.find((m) => m[key] !== undefined)[key];
};

each('it says hello once, with what it can', ({ node, version }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(ECHO);
  assert.deepStrictEqual(primary.said(worker, 'hello'), [{ cmd: 'NODE_SEGUE', act: 'hello', v: 1, node: version, migrate: true }]);
}));

each('forks and children of a worker are left alone', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(PROCESS, [JSON.stringify({ fork: true, spawn: true })]);
  assert.deepStrictEqual(await heard(primary, worker, 'fork'), { hooked: false });
  assert.deepStrictEqual(await heard(primary, worker, 'spawn'), { hooked: false, error: null });
  worker.child.kill('SIGUSR2');
  assert.strictEqual(await heard(primary, worker, 'hooked'), true);
}));

each('a worker of another primary is left alone, and its threads are', ({ node }) => stage(node, { env: { SEGUE_APP: '' } }, async (primary) => {
  const worker = await primary.spawn(PROCESS, [JSON.stringify({ thread: true })]);
  assert.deepStrictEqual(await heard(primary, worker, 'thread'), { hooked: false });
  worker.child.kill('SIGUSR2');
  assert.strictEqual(await heard(primary, worker, 'hooked'), false);
  assert.deepStrictEqual(worker.said, []);
}));

each('the app sees no listeners of ours but the one for connections', async ({ node }) => {
  const seen = [];
  for (const preload of [false, true]) {
    await stage(node, { preload }, async (primary) => {
      const worker = await primary.spawn(PROCESS);
      worker.child.kill('SIGUSR2');
      seen.push(await heard(primary, worker, 'listeners'));
    });
  }
  seen[0].connection += 1;
  assert.deepStrictEqual(seen[1], seen[0]);
});

for (const listen of [{ exclusive: true }, { reusePort: true }]) {
  each(`${Object.keys(listen)} comes onto the supervisor's socket`, ({ node }) => stage(node, {}, async (primary) => {
    const port = await freePort();
    await primary.spawn(PROCESS, [JSON.stringify({ port, listen })]);
    const second = await primary.spawn(PROCESS, [JSON.stringify({ port, listen })]);
    assert.strictEqual(second.port, port);
    assert.deepStrictEqual(primary.said(second, 'bypass'), []);
  }));
}

each('an internal server keeps its own socket, silently, through a drain', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(PROCESS, [JSON.stringify({ internal: true })]);
  const port = await heard(primary, worker, 'internal');
  primary.drain(worker);
  await primary.drained(worker);
  const body = await new Promise((resolve, reject) => http.get({ port, host: '127.0.0.1', agent: false }, (res) => {
    res.on('data', (d) => resolve(String(d)));
  }).on('error', reject));
  assert.strictEqual(body, 'inner');
  assert.deepStrictEqual(primary.said(worker, 'bypass'), []);
}));

each('a server on a handle of its own is named', ({ node, major, t }) => {
  // Before 22 Node asks the primary even then, for a port of -1.
  if (major < 22) { t.skip('asks the primary'); return undefined; }
  return stage(node, {}, async (primary) => {
    const worker = await primary.spawn(PROCESS, [JSON.stringify({ handle: true })]);
    await primary.until(worker, () => primary.said(worker, 'bypass').length > 0);
    assert.match(primary.said(worker, 'bypass')[0].what, /^127\.0\.0\.1:\d+$/);
  });
});

for (const block of [0, 500]) {
  each(`what threads listen at is named${block ? ', also late' : ''}`, ({ node }) => stage(node, {}, async (primary) => {
    const ports = [await freePort(), await freePort()];
    const worker = await primary.spawn(PROCESS, [JSON.stringify({ listenInThread: ports, block })]);
    const seen = await heard(primary, worker, 'listensInThread');
    assert.deepStrictEqual([seen.own, seen.more.own], ports);
    await primary.until(worker, () => primary.said(worker, 'bypass').length > 1);
    assert.deepStrictEqual(primary.said(worker, 'bypass').map((said) => said.what).sort(),
      ports.map((port) => `127.0.0.1:${port} in a worker thread`).sort());
    // They neither hold up a drain nor keep the process alive after it.
    primary.drain(worker);
    await primary.drained(worker);
    assert.deepStrictEqual(await primary.stop(worker), { code: null, signal: 'SIGTERM' });
  }));
}

each('a thread that does not listen is not heard of, and the process ends with its work', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(PROCESS, [JSON.stringify({ thread: true })]);
  assert.deepStrictEqual(await heard(primary, worker, 'thread'), { hooked: true });
  worker.child.kill('SIGHUP');
  assert.deepStrictEqual(await worker.gone, { code: 0, signal: null });
  assert.deepStrictEqual(primary.said(worker, 'bypass'), []);
}));

each('on a Node whose inside is not known connections are announced', ({ node }) => stage(node, {
  execArgv: ['--require', path.join(__dirname, 'apps', 'future.cjs')],
}, async (primary) => {
  const worker = await primary.spawn(ECHO);
  assert.deepStrictEqual(primary.said(worker, 'hello').map(({ node: version, migrate }) => [version, migrate]), [['99.0.0', false]]);
  await isAnnounced(primary, worker);
}));

each('a package that ties an identity to connections keeps them where they are', ({ node }) => stage(node, {}, async (primary) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segue-preload-'));
  const file = path.join(dir, 'node_modules', 'express-ntlm', 'index.js');
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, '');
  await isAnnounced(primary, await primary.spawn(ECHO, [JSON.stringify({ load: file })]));
}));

async function isAnnounced(primary, worker) {
  const connection = await new Connection({ port: worker.port }).ready;
  await connection.write(get(0));
  await connection.response();
  primary.drain(worker);
  await primary.until(worker, () => primary.said(worker, 'state').some((s) => s.idle === 1));
  await connection.write(get(1));
  assert.ok((await connection.response()).close);
  assert.deepStrictEqual([primary.moves, (await primary.drained(worker)).announced], [0, 1]);
}

each('the app can still close a server that accepts no more', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(ECHO, [JSON.stringify({ sigterm: 'close' })]);
  primary.drain(worker);
  await primary.drained(worker);
  assert.deepStrictEqual(await primary.stop(worker), { code: 0, signal: null });
  assert.match(worker.out, /closed well/);
}));

each('a drained server still looks like a listening one', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(PROCESS);
  primary.drain(worker);
  await primary.drained(worker);
  worker.child.kill('SIGUSR2');
  await heard(primary, worker, 'listeners');
  const seen = worker.userMessages.find((m) => m.listening !== undefined);
  assert.strictEqual(seen.listening, true);
  assert.deepStrictEqual(seen.address, { address: '127.0.0.1', family: seen.address.family, port: worker.port });
  // The primary's socket is still there, but nobody accepts from it here.
  const late = await new Connection({ port: worker.port }).ready;
  await late.write(get(1));
  await pause(300);
  assert.strictEqual(late.buffer.length, 0);
  late.end();
}));

each('an app that replaces process.send takes part, on both sides', ({ node }) => stage(node, {}, async (primary) => {
  const app = JSON.stringify({ lateReplaceSend: true, onMessage: true });
  const old = await primary.spawn(ECHO, [app]);
  const connection = await new Connection({ port: old.port }).ready;
  await connection.write(get(0));
  await connection.response();
  const young = await primary.spawn(ECHO, [app]);
  primary.drain(old);
  assert.strictEqual((await primary.drained(old)).moved, 1);
  await connection.write(get(1));
  assert.strictEqual((await connection.response()).headers['x-worker'], String(young.id));
  assert.strictEqual(young.exit, null);
  connection.end();
}));

each('a connection that cannot be sent goes on and is announced', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(ECHO, [JSON.stringify({ failMoves: true })]);
  const connection = await new Connection({ port: worker.port }).ready;
  await connection.write(get(0));
  await connection.response();
  primary.drain(worker);
  await primary.until(worker, () => primary.said(worker, 'state').some((s) => s.idle === 1));
  await pause(200);
  await connection.write(get(1));
  const answer = await connection.response();
  assert.strictEqual(answer.headers['x-number'], '1');
  assert.ok(answer.close);
  const drained = await primary.drained(worker);
  assert.deepStrictEqual([drained.moved, drained.announced, drained.cut], [0, 1, 0]);
}));

each('the state says what a drain waits for, with its age', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(ECHO);
  const connection = await new Connection({ port: worker.port }).ready;
  await connection.write('GET /forever HTTP/1.1\r\nHost: x\r\n\r\n');
  await connection.readUntil('\r\n\r\n');
  await pause(300);
  primary.drain(worker, { idle: 'keep' });
  await primary.until(worker, () => primary.said(worker, 'state').length > 0);
  const state = primary.said(worker, 'state')[0];
  assert.ok(state.oldest_ms >= 300 && state.oldest_ms < 10000, `${state.oldest_ms}`);
  delete state.oldest_ms;
  assert.deepStrictEqual(state, { cmd: 'NODE_SEGUE', act: 'state', idle: 0, busy: 1, upgraded: 0, tls: 0, h2: 0, other: 0,
    outgoing: 0, moved: 0, announced: 0, cut: 0, stalled: 0 });
  connection.end();
  await primary.drained(worker);
}));

each('a supervisor that is gone ends a draining worker', ({ node }) => stage(node, {}, async (primary) => {
  const worker = await primary.spawn(ECHO);
  const connection = await new Connection({ port: worker.port }).ready;
  await connection.write('GET /forever HTTP/1.1\r\nHost: x\r\n\r\n');
  await connection.readUntil('\r\n\r\n');
  primary.drain(worker, { accept: true });
  await primary.until(worker, () => primary.said(worker, 'state').length > 0);
  worker.child.disconnect();
  assert.deepStrictEqual(await worker.gone, { code: 0, signal: null });
}));

each('many idle connections move with bounded room on the channel', ({ node, t }) => stage(node, {}, async (primary) => {
  const old = await primary.spawn(ECHO);
  const open = [];
  for (let i = 0; i < 1000; i += 1) open.push(await new Connection({ port: old.port }).ready);
  const young = await primary.spawn(ECHO);
  const began = Date.now();
  primary.drain(old);
  assert.strictEqual((await primary.drained(old)).moved, open.length);
  t.diagnostic(`${open.length} moved in ${Date.now() - began} ms`);
  await Promise.all(open.map(async (connection, i) => {
    await connection.write(get(i));
    assert.strictEqual((await connection.response()).headers['x-worker'], String(young.id));
    connection.end();
  }));
}));
