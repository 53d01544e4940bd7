'use strict';

// Rolls under a strict mixed load: keep-alive, pauses, bodies, cuts at random bytes, pipelines.

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');
const { Load, pause } = require('./client.cjs');

const ECHO = path.join(__dirname, 'apps', 'echo.cjs');
const ROLLS = Number(process.env.SEGUE_TEST_ROLLS || 4);
const CONNECTIONS = Number(process.env.SEGUE_TEST_CONNECTIONS || 60);

async function roll(node, { app = {}, idle = 'migrate', connections = CONNECTIONS, load = {} }) {
  const primary = new Primary(node);
  const argument = JSON.stringify(app);
  const seen = { drained: [], handled: 0 };
  try {
    let worker = await primary.spawn(ECHO, [argument]);
    const client = new Load({ port: worker.port, connections, secure: Boolean(app.tls), ...load });
    for (let i = 0; i < ROLLS; i += 1) {
      const before = client.result.requests;
      while (client.result.requests < before + connections * 4 && client.result.failures.length === 0) await pause(20);
      const next = await primary.spawn(ECHO, [argument]);
      primary.drain(worker, { accept: true, idle });
      primary.drain(worker, { accept: false, idle });
      seen.drained.push(await primary.drained(worker));
      await primary.stop(worker);
      worker = next;
    }
    Object.assign(seen, await client.stop());
    worker.child.kill('SIGUSR2');
    await primary.until(worker, () => /handled=\d+\./.test(worker.out));
    for (const w of primary.workers) seen.handled += Number((/handled=(\d+)/.exec(w.out) || [0, 0])[1]);
    assert.deepStrictEqual(seen.failures, []);
    assert.strictEqual(seen.requests, seen.handled, 'every request is done once');
    assert.strictEqual(primary.refused, 0);
    return seen;
  } finally {
    await primary.close();
  }
}

const sum = (list, key) => list.reduce((all, each_) => all + each_[key], 0);

function certificate() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segue-preload-'));
  const key = path.join(dir, 'key.pem');
  const cert = path.join(dir, 'cert.pem');
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key,
    '-out', cert, '-days', '2', '-subj', '/CN=localhost'], { stdio: 'ignore' });
  return { key, cert };
}

each('idle connections move and no client notices', async ({ node, t }) => {
  const seen = await roll(node, { app: { sigterm: 'exit' } });
  assert.strictEqual(seen.opened, CONNECTIONS, 'the same connections all the time');
  assert.strictEqual(seen.announced, 0);
  assert.strictEqual(sum(seen.drained, 'moved'), CONNECTIONS * ROLLS);
  assert.strictEqual(sum(seen.drained, 'cut'), 0);
  t.diagnostic(`${seen.requests} requests, ${ROLLS} rolls, ${sum(seen.drained, 'moved')} moved`);
});

each('announced close loses nothing and waits for nobody who keeps talking', async ({ node, t }) => {
  const seen = await roll(node, { app: { sigterm: 'exit', explicitKeepAlive: true }, idle: 'close', load: { pipelines: false } });
  assert.strictEqual(sum(seen.drained, 'moved'), 0);
  assert.ok(seen.announced >= CONNECTIONS);
  assert.strictEqual(sum(seen.drained, 'cut'), 0);
  t.diagnostic(`${seen.requests} requests, ${seen.announced} announced`);
});

each('a connection that carries the state of the app stays and is announced', async ({ node, t }) => {
  const seen = await roll(node, { app: { sigterm: 'exit', mark: true }, load: { pipelines: false } });
  assert.ok(seen.announced > 0);
  assert.strictEqual(sum(seen.drained, 'cut'), 0);
  t.diagnostic(`${seen.requests} requests, ${seen.announced} announced`);
});

each('TLS keep-alive is announced', async ({ node, t }) => {
  const seen = await roll(node, { app: { sigterm: 'exit', tls: certificate() }, connections: 20, load: { pipelines: false } });
  assert.ok(seen.announced > 0);
  assert.strictEqual(sum(seen.drained, 'moved'), 0);
  t.diagnostic(`${seen.requests} requests, ${seen.announced} announced`);
});
