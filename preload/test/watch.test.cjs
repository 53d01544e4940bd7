'use strict';

// What the preload says of a worker that serves: answers to pings, and counts while it is to count.

const assert = require('node:assert');
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');

const APP = path.join(__dirname, 'apps', 'answers.cjs');

async function stage(node, kind, body) {
  const primary = new Primary(node);
  try {
    await body(primary, await primary.spawn(APP, [kind]));
  } finally {
    await primary.close();
  }
}

const order = (worker, act, more) => worker.child.send({ cmd: 'NODE_SEGUE', act, ...more });

// Resolves with the status, or with null for an answer that was cut off.
const over1 = (library) => (port, url, abort) => new Promise((resolve, reject) => {
  const options = { port, host: '127.0.0.1', path: url, agent: false, rejectUnauthorized: false };
  const request = library.get(options, (response) => {
    response.resume();
    response.on('end', () => resolve(response.statusCode));
    response.on('aborted', () => resolve(null));
    response.on('error', () => resolve(null));
  });
  request.on('error', reject);
  if (abort) abort.then(() => request.destroy());
});

const over2 = (port, url, abort) => new Promise((resolve, reject) => {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.on('error', reject);
  const stream = session.request({ ':path': url });
  let status = null;
  stream.on('response', (headers) => { status = headers[':status']; });
  stream.on('error', () => {});
  stream.on('close', () => { session.close(); resolve(stream.rstCode === 0 ? status : null); });
  stream.resume();
  if (abort) abort.then(() => stream.close(http2.constants.NGHTTP2_CANCEL));
});

const CLIENTS = { http: over1(http), https: over1(https), http2: over2 };

const hooks = async (primary, worker) => {
  worker.userMessages.length = 0;
  worker.child.kill('SIGUSR2');
  await primary.until(worker, () => worker.userMessages.some((m) => m.listeners !== undefined));
  return worker.userMessages.find((m) => m.listeners !== undefined);
};

each('a ping is answered as soon as the event loop is free', ({ node }) => stage(node, 'http', async (primary, worker) => {
  order(worker, 'ping', { n: 1 });
  await primary.until(worker, () => primary.said(worker, 'pong').length === 1);
  const blocked = CLIENTS.http(worker.port, '/block');
  order(worker, 'ping', { n: 2 });
  await primary.until(worker, () => primary.said(worker, 'pong').length === 2);
  assert.deepStrictEqual(primary.said(worker, 'pong').map((m) => m.n), [1, 2]);
  assert.strictEqual(await blocked, 200);
  assert.deepStrictEqual(worker.userMessages, [], 'the app hears nothing of it');
}));

for (const kind of Object.keys(CLIENTS)) {
  each(`answers over ${kind} are counted while that is asked for, and no longer`, ({ node }) => stage(node, kind, async (primary, worker) => {
    const ask = (url, abort) => CLIENTS[kind](worker.port, url, abort);
    const before = await hooks(primary, worker);
    await ask('/error');

    order(worker, 'count', { on: true });
    for (const url of ['/ok', '/ok']) await ask(url);
    order(worker, 'count', { on: true }); // as a supervisor does that has taken over
    for (const url of ['/error', '/ok']) await ask(url);
    const hangs = primary.until(worker, () => worker.userMessages.some((m) => m.hangs));
    assert.strictEqual(await ask('/hang', hangs).catch(() => null), null);
    const counted = () => primary.said(worker, 'counted');
    const last = () => counted()[counted().length - 1] || {};
    await primary.until(worker, () => last().answers === 5);
    assert.strictEqual(last().errors, 2);
    assert.ok(counted().length <= 5, 'not one message for each answer');

    order(worker, 'count', { on: false });
    await ask('/ok');
    assert.deepStrictEqual(await hooks(primary, worker), before, 'nothing is left of it');

    // From zero.
    order(worker, 'count', { on: true });
    await ask('/error');
    await primary.until(worker, () => last().answers === 1);
    assert.strictEqual(last().errors, 1);
  }));
}

each('the compile cache is written when that is asked for', async ({ node, version, t }) => {
  const [major, minor] = version.split('.').map(Number);
  if (major < 22 || (major === 22 && minor < 10)) return;
  const fs = require('node:fs');
  const directory = fs.mkdtempSync(path.join(require('node:os').tmpdir(), 'segue-cache-'));
  const primary = new Primary(node, { env: { NODE_COMPILE_CACHE: directory } });
  const files = () => fs.readdirSync(directory).flatMap((name) => fs.readdirSync(path.join(directory, name)));
  try {
    const worker = await primary.spawn(APP, ['http']);
    assert.deepStrictEqual(files(), []);
    order(worker, 'cache');
    order(worker, 'ping', { n: 1 });
    await primary.until(worker, () => primary.said(worker, 'pong').length === 1);
    assert.notDeepStrictEqual(files(), []);
    t.diagnostic(`${files().length} files`);
  } finally {
    await primary.close();
    fs.rmSync(directory, { recursive: true });
  }
});
