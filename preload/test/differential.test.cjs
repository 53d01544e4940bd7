'use strict';

// Before a drain an app must not be able to tell whether the preload script is there. The tests of
// Node itself are in no package of a registry, so these are cases of our own, over what Node's
// test/parallel/test-http-* are about: keep-alive, pipelining, bodies, trailers, Expect, upgrade,
// CONNECT, errors, clients that go away, the life of a server, its timeouts and limits, listeners,
// raw servers, HTTPS and HTTP/2. Each case writes down all it sees (apps/cases); the same process
// with and without the script, both workers of a primary, must write the same.

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');

const BEHAVIOURS = path.join(__dirname, 'apps', 'behaviours.cjs');

// What the script is known to add, and nothing else.
const OURS = {
  server: { connection: 1, listening: 1, close: 1 },
  'raw server': { connection: 1, listening: 1, close: 1 },
  socket: { close: 1 },
  process: { internalMessage: 2, worker: 1 },
};

let pair = null;

function certificate() {
  if (pair === null) {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segue-preload-'));
    pair = { SEGUE_TEST_KEY: path.join(dir, 'key.pem'), SEGUE_TEST_CERT: path.join(dir, 'cert.pem') };
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', pair.SEGUE_TEST_KEY,
      '-out', pair.SEGUE_TEST_CERT, '-days', '2', '-subj', '/CN=localhost'], { stdio: 'ignore' });
  }
  return pair;
}

async function behaviours(node, preload) {
  const primary = new Primary(node, { preload, env: certificate() });
  try {
    const worker = await primary.spawn(BEHAVIOURS);
    await primary.until(worker, () => worker.userMessages.length > 0);
    assert.deepStrictEqual(primary.said(worker, 'bypass'), []);
    return worker.userMessages[0];
  } finally {
    await primary.close();
  }
}

// Takes the known listeners off the lines `name {"event":count}` of a trace.
function withoutOurs(lines) {
  return lines.map((line) => {
    const [, name, json] = /^([a-z ]+?) (\{.*)$/.exec(line) || [];
    if (!OURS[name]) return line;
    const counts = JSON.parse(json);
    for (const [event, ours] of Object.entries(OURS[name])) {
      assert.ok(counts[event] >= ours, `${name} ${event}: ${counts[event]}`);
      counts[event] -= ours;
      if (counts[event] === 0) delete counts[event];
    }
    return `${name} ${JSON.stringify(counts)}`;
  });
}

each('apps behave as without it', async ({ node, t }) => {
  const [without, withIt] = await Promise.all([behaviours(node, false), behaviours(node, true)]);
  withIt.listeners = withoutOurs(withIt.listeners);
  const names = Object.keys(without);
  assert.ok(names.length > 25, `${names}`);
  for (const name of names) {
    assert.ok(without[name].length > 0, `${name} has seen nothing`);
    assert.ok(!without[name].some((line) => /^failed|did not end in time/.test(line)), `${name}: ${without[name].join('\n')}`);
    assert.deepStrictEqual(withIt[name], without[name], name);
  }
  t.diagnostic(`${names.length} cases, ${names.reduce((sum, name) => sum + without[name].length, 0)} observations`);
});
