'use strict';

// Before a drain nothing of the preload is called for a request, and little for a connection.

const assert = require('node:assert');
const path = require('node:path');
const { each } = require('./nodes.cjs');
const { Primary } = require('./primary.cjs');
const { Connection } = require('./client.cjs');

each('no call per request', async ({ node, t }) => {
  const primary = new Primary(node);
  try {
    const worker = await primary.spawn(path.join(__dirname, 'apps', 'counted.cjs'));
    const calls = async () => {
      worker.userMessages.length = 0;
      worker.child.kill('SIGUSR2');
      await primary.until(worker, () => worker.userMessages.length > 0);
      return worker.userMessages[0].calls;
    };
    const open = [];
    for (let i = 0; i < 4; i += 1) open.push(await new Connection({ port: worker.port }).ready);
    const ask = (connection) => connection.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n').then(() => connection.response());
    for (const connection of open) await ask(connection);
    const before = await calls();
    for (let i = 0; i < 500; i += 1) await Promise.all(open.map(ask));
    const during = await calls();
    const more = await new Connection({ port: worker.port }).ready;
    await ask(more);
    more.end();
    await more.gone;
    await ask(open[0]);
    const connection = await calls();
    t.diagnostic(`start ${before}, 2,000 requests ${during}, one connection ${connection}`);
    assert.ok(before > 0, 'the preload is counted');
    assert.strictEqual(during, 0);
    assert.ok(connection <= 4);
    for (const c of open) c.end();
  } finally {
    await primary.close();
  }
});
