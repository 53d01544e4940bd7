'use strict';

// An app whose side jobs the preload must leave alone; what to do is in the argument.

const child = require('child_process');
const http = require('http');
const path = require('path');
const options = JSON.parse(process.argv[2] || '{}');

const hooked = () => !/\[native code\]|normalizeArgs/.test(String(require('net').Server.prototype.listen));

if (process.env.ROLE === 'fork' || options.role === 'fork') {
  process.send({ hooked: hooked() }, () => process.disconnect());
} else {
  const server = http.createServer((req, res) => res.end('ok'));
  if (options.fork) {
    const helper = child.fork(__filename, ['{}'], { env: Object.assign({}, process.env, { ROLE: 'fork' }) });
    helper.on('message', (message) => process.send({ fork: message }));
  }
  if (options.thread) {
    const { Worker } = require('worker_threads');
    const code = `const net = require('net'); require('worker_threads').parentPort.postMessage(
      !/\\[native code\\]|normalizeArgs/.test(String(net.Server.prototype.listen)))`;
    new Worker(code, { eval: true }).on('message', (is) => process.send({ thread: { hooked: is } }));
  }
  if (options.listenInThread) {
    const { Worker } = require('worker_threads');
    const thread = new Worker(path.join(__dirname, 'thread.cjs'), { workerData: options.listenInThread });
    thread.on('message', (message) => process.send({ listensInThread: message }));
    if (options.block) for (const until = Date.now() + options.block; Date.now() < until;);
  }
  if (options.spawn) {
    child.execFile(process.execPath, process.execArgv.concat('-p',
      '!/\\[native code\\]|normalizeArgs/.test(String(require("net").Server.prototype.listen))'),
    (error, out) => process.send({ spawn: { hooked: out.trim() !== 'false', error: error && String(error) } }));
  }
  if (options.internal) {
    const inner = http.createServer((req, res) => res.end('inner'));
    inner.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => process.send({ internal: inner.address().port }));
  }
  if (options.handle) {
    const own = require('net')._createServerHandle('127.0.0.1', 0, 4);
    http.createServer().listen(own, () => process.send({ handle: true }));
  }
  process.on('SIGHUP', () => { server.close(); process.disconnect(); });
  process.on('SIGUSR2', () => process.send({ hooked: hooked(), listeners: {
    message: process.listenerCount('message'), disconnect: process.listenerCount('disconnect'),
    sigterm: process.listenerCount('SIGTERM'), connection: server.listenerCount('connection'), upgrade: server.listenerCount('upgrade') },
  address: server.address(), listening: server.listening }));
  server.listen(Object.assign({ port: Number(options.port || 0), host: '127.0.0.1' }, options.listen));
}
