'use strict';

// The life of a server, its limits in time and number, and what it is made of.

const fs = require('fs');
const http = require('http');
const net = require('net');
const os = require('os');
const path = require('path');
const util = require('util');
const { ask, close, listen, note, once, pause, raw } = require('./tools.cjs');

const GET = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n';
const ok = (req, res) => { req.resume(); res.end('ok'); };
const address = (server) => {
  const at = server.address();
  return at && { ...at, port: typeof at.port };
};
const failure = (action) => {
  try {
    action();
    return 'no error';
  } catch (error) {
    return `${error.name} ${error.code}`;
  }
};

exports.cases = {
  'listening, address, close': async (trace) => {
    const server = http.createServer(ok);
    note(trace, 'server', server, ['listening', 'close', 'error']);
    trace(server.listening, address(server), server.listen(0, '127.0.0.1', () => trace('called back')) === server);
    trace(server.listening);
    await once(server, 'listening');
    trace(server.listening, address(server));
    trace(failure(() => server.listen(0)));
    trace(server.close((error) => trace('closed', error && error.code)) === server, server.listening, address(server));
    await once(server, 'close');
    trace(await new Promise((resolve) => server.close((error) => resolve(error.code))));
    await listen(server);
    trace('again', server.listening, address(server));
    trace(await close(server));
  },

  'close with connections': async (trace) => {
    let finish = null;
    const server = http.createServer((req, res) => {
      if (req.url === '/slow') finish = () => res.end('late');
      else res.end('soon');
    });
    server.keepAliveTimeout = 0;
    const port = await listen(server);
    let number = 0;
    server.on('connection', (socket) => { number += 1; const name = `socket ${number}`; socket.on('close', () => trace(name, 'close')); });
    const agent = new http.Agent({ keepAlive: true });
    trace((await ask({ port, agent })).text);
    const asked = once(server, 'request');
    const slow = ask({ port, path: '/slow' });
    await asked;
    const over = once(server, 'close');
    server.close((error) => trace('closed', error));
    trace('accepts', await raw(port, '', { quiet: 100 }).then((text) => text.split(' ').pop()));
    finish();
    const { text, headers } = await slow;
    trace(text, headers.connection);
    agent.destroy();
    if (server.closeAllConnections) server.closeAllConnections();
    await over;
  },

  'closeIdleConnections and closeAllConnections': async (trace) => {
    trace(typeof http.Server.prototype.closeIdleConnections, typeof http.Server.prototype.closeAllConnections,
      typeof http.Server.prototype[Symbol.asyncDispose || 'none']);
    if (!http.Server.prototype.closeIdleConnections) return;
    const server = http.createServer((req, res) => { if (req.url !== '/hang') res.end('x'); });
    const port = await listen(server);
    const asked = new Promise((resolve) => { let count = 0; server.on('request', () => { count += 1; if (count === 2) resolve(); }); });
    const idle = raw(port, GET, { quiet: 5000 });
    const hanging = raw(port, 'GET /hang HTTP/1.1\r\nHost: x\r\n\r\n', { quiet: 5000 });
    await asked;
    await pause(100);
    server.closeIdleConnections();
    trace('idle', await idle);
    server.closeAllConnections();
    trace('hanging', await hanging);
    trace(await close(server));
  },

  'errors of listen': async (trace) => {
    const first = http.createServer(ok);
    const port = await listen(first);
    const second = net.createServer();
    second.listen({ port: 1, host: '203.0.113.1' });
    const [error] = await once(second, 'error');
    trace(error.code, error.syscall, error.address, error.port, second.listening);
    for (const args of [[70000], [-1], [{}], [{ port: 'abc' }], [{ path: 7 }], [true], [null], [{ fd: -5 }], [{ port: 0, host: 'no.such.host.invalid' }]]) {
      const server = net.createServer();
      const over = Promise.race([once(server, 'listening').then(() => 'listens'), once(server, 'error').then(([{ code }]) => code), pause(1000)]);
      const error = failure(() => server.listen(...args));
      trace(util.inspect(args), error, error === 'no error' ? await over : '');
      if (server.listening) server.close();
    }
    trace(typeof port, await close(first));
  },

  'ways to listen': async (trace) => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segue-cases-'));
    const file = path.join(dir, 's');
    for (const args of [[0], [{ port: 0, host: '127.0.0.1' }], ['0'], [], [0, '127.0.0.1', 10], [{ port: 0, ipv6Only: true, host: '::1' }], [file], [{ path: file, readableAll: true }]]) {
      const server = net.createServer();
      server.on('error', (error) => trace(error.code));
      server.listen(...args, () => trace('called back', typeof server.address() === 'string' ? server.address() === file : address(server)));
      await Promise.race([once(server, 'listening'), once(server, 'error')]);
      if (server.listening) trace(await close(server), fs.existsSync(file));
    }
    fs.rmSync(dir, { recursive: true });
    const controller = new AbortController();
    const server = net.createServer();
    server.listen({ port: 0, host: '127.0.0.1', signal: controller.signal });
    await once(server, 'listening');
    const over = once(server, 'close');
    controller.abort();
    await over;
    trace('aborted', server.listening);
  },

  'kinds of servers': async (trace) => {
    class Mine extends http.Server {
      constructor() { super(ok); this.mine = true; }
      listen(...args) { trace('own listen'); return super.listen(...args); }
    }
    function Old() { http.Server.call(this, ok); }
    util.inherits(Old, http.Server);
    for (const server of [new Mine(), new Old(), http.Server(ok), new net.Server((socket) => socket.resume().end('hello'))]) {
      const port = await listen(server);
      trace(server.constructor.name, server.listening, await raw(port, GET));
      trace(await close(server));
    }
    const { listen: method } = net.Server.prototype;
    const { writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(net.Server.prototype, 'listen');
    trace(method.name, method.length, writable, enumerable, configurable, Object.keys(net.Server.prototype).includes('listen'));
    trace(Object.keys(http.createServer()).sort());
  },

  'ref and unref': async (trace) => {
    const server = http.createServer(ok);
    trace(server.unref() === server);
    await listen(server);
    trace(server.ref() === server, server.unref() === server, server.ref() === server);
    trace(await close(server));
  },

  'keepAliveTimeout': async (trace) => {
    const server = http.createServer(ok);
    server.keepAliveTimeout = 100;
    server.on('timeout', () => trace('server timeout'));
    server.on('connection', (socket) => note(trace, 'socket', socket, ['timeout', 'end', 'close']));
    const port = await listen(server);
    trace(await raw(port, GET, { quiet: 600 }));
    await pause(20);
    server.keepAliveTimeout = 0;
    trace(await raw(port, GET, { quiet: 300 }));
    trace(await close(server));
  },

  'headersTimeout and requestTimeout': async (trace) => {
    const server = http.createServer({ connectionsCheckingInterval: 50 }, ok);
    Object.assign(server, { headersTimeout: 150, requestTimeout: 150, keepAliveTimeout: 1000 });
    const port = await listen(server);
    trace(await raw(port, GET.slice(0, 10), { quiet: 700 }));
    trace(await raw(port, 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab', { quiet: 700 }));
    trace(await raw(port, '', { quiet: 700 }));
    server.on('clientError', (error, socket) => { trace('clientError', error.code); socket.destroy(); });
    trace(await raw(port, GET.slice(0, 10), { quiet: 700 }));
    trace(await close(server));
  },

  'timeouts of server, request and answer': async (trace) => {
    const server = http.createServer((req, res) => {
      if (req.url === '/req') req.setTimeout(60, () => { trace('req timed out'); res.end('req'); });
      if (req.url === '/res') res.setTimeout(60, () => { trace('res timed out'); res.end('res'); });
      res.on('timeout', () => trace('res timeout event'));
    });
    const port = await listen(server);
    for (const url of ['/req', '/res']) trace(await raw(port, `GET ${url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, { quiet: 500 }));
    trace(server.setTimeout(80, (socket) => { trace('server timed out', socket.destroyed); socket.destroy(); }) === server, server.timeout);
    trace(await raw(port, 'GET /hang HTTP/1.1\r\nHost: x\r\n\r\n', { quiet: 500 }));
    server.removeAllListeners('timeout');
    trace(await raw(port, 'GET /hang HTTP/1.1\r\nHost: x\r\n\r\n', { quiet: 500 }));
    trace(await close(server));
  },

  'maxConnections': async (trace) => {
    const server = http.createServer(ok);
    server.maxConnections = 1;
    server.on('drop', (data) => trace('drop', Object.keys(data || {}).sort()));
    server.on('connection', () => trace('connection'));
    const port = await listen(server);
    const [[socket], first] = await Promise.all([once(server, 'connection'), net.connect(port, '127.0.0.1')]);
    const dropped = await raw(port, GET);
    trace(/ok/.test(dropped) ? dropped : 'dropped');
    const over = once(socket, 'close');
    first.destroy();
    await over;
    trace(await raw(port, GET));
    trace(await close(server));
  },

  'maxRequestsPerSocket': async (trace) => {
    const server = http.createServer(ok);
    server.maxRequestsPerSocket = 2;
    server.on('dropRequest', (req, socket) => trace('dropRequest', req.url, socket.destroyed));
    const port = await listen(server);
    trace(await raw(port, [GET, GET, GET], { quiet: 300 }));
    trace(await raw(port, GET + GET + GET, { quiet: 300 }));
    trace(await close(server));
  },

  'a raw server': async (trace) => {
    for (const options of [{}, { allowHalfOpen: true }, { noDelay: true, keepAlive: true }]) {
      const server = net.createServer(options, (socket) => {
        note(trace, 'socket', socket, ['end', 'finish', 'close', 'error']);
        socket.on('data', (data) => socket.write(data));
        socket.on('end', () => { if (options.allowHalfOpen) socket.end('bye'); });
      });
      const port = await listen(server);
      trace(util.inspect(options), await raw(port, ['ab', 'cd'], { half: true }));
      await pause(20);
      trace(await close(server));
    }
  },

  // Those of the preload script are known, and taken off by the test.
  'listeners': async (trace) => {
    const counts = (emitter) => Object.fromEntries(emitter.eventNames().map((name) => [String(name), emitter.listenerCount(name)]).sort());
    const server = http.createServer(ok);
    const port = await listen(server);
    trace('server', counts(server));
    const [[socket]] = await Promise.all([once(server, 'connection'), raw(port, GET)]);
    trace('socket', counts(socket));
    trace('socket keys', Object.keys(socket).sort());
    trace(await close(server));
    const raw_ = net.createServer();
    await listen(raw_);
    trace('raw server', counts(raw_));
    trace(await close(raw_));
    trace('process', Object.fromEntries(Object.entries(counts(process)).filter(([name]) => name !== 'newListener' && name !== 'removeListener')));
  },
};
