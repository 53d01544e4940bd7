'use strict';

// Messages: what goes over the wire, and what the app hears of it.

const events = require('events');
const http = require('http');
const net = require('net');
const { Duplex } = require('stream');
const { ask, close, listen, note, once, pause, raw } = require('./tools.cjs');

const GET = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n';

// A server for one case; `body` gets its port.
async function served(handler, body, options = {}) {
  const server = http.createServer(options, handler);
  const port = await listen(server);
  try {
    await body(server, port);
  } finally {
    await close(server);
  }
}

const ok = (req, res) => { req.resume(); res.end('ok'); };

exports.cases = {
  'keep-alive': (trace) => served((req, res) => res.end(req.url), async (server, port) => {
    note(trace, 'server', server, ['connection', 'request', 'close']);
    const sockets = [];
    server.on('connection', (socket) => { sockets.push(socket); note(trace, 'socket', socket, ['end', 'close', 'timeout', 'error']); });
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (const path of ['/a', '/b', '/c']) {
      const { text, headers, request } = await ask({ port, path, agent });
      trace(text, headers.connection, headers['keep-alive'], request.reusedSocket);
    }
    server.getConnections((error, count) => trace('connections', error, count));
    const closed = once(sockets[0], 'close');
    agent.destroy();
    await closed;
    trace('connections', await new Promise((resolve) => server.getConnections((error, count) => resolve(count))));
  }),

  'Connection: close, HTTP/1.0, HEAD, 204, 304': (trace) => served((req, res) => {
    res.statusCode = Number(req.url.slice(1)) || 200;
    res.end(res.statusCode === 200 ? 'body' : undefined);
  }, async (server, port) => {
    trace(await raw(port, 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'));
    trace(await raw(port, 'GET / HTTP/1.0\r\n\r\n'));
    trace(await raw(port, 'GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n'));
    trace(await raw(port, 'HEAD / HTTP/1.1\r\nHost: x\r\n\r\n'));
    trace(await raw(port, 'GET /204 HTTP/1.1\r\nHost: x\r\n\r\n'));
    trace(await raw(port, 'GET /304 HTTP/1.1\r\nHost: x\r\n\r\n'));
  }),

  'the headers an app sets itself': (trace) => served((req, res) => {
    res.setHeader('Connection', req.url === '/close' ? 'close' : 'keep-alive');
    if (req.url === '/both') res.setHeader('Keep-Alive', 'timeout=77');
    if (req.url === '/head') res.writeHead(201, 'Made', { 'X-A': ['1', '2'] });
    res.end('x');
  }, async (server, port) => {
    for (const path of ['/', '/close', '/both', '/head']) trace(await raw(port, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`));
  }),

  'pipelining keeps the order': (trace) => served((req, res) => {
    trace('request', req.url);
    res.on('finish', () => trace('finish', req.url));
    setTimeout(() => res.end(req.url), { '/1': 90, '/2': 40, '/3': 0 }[req.url]);
  }, async (server, port) => {
    trace(await raw(port, ['/1', '/2', '/3'].map((path) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`).join('')));
    trace(await raw(port, [GET.slice(0, 10), GET.slice(10)]));
  }),

  'a body by length, in chunks, with trailers': (trace) => served((req, res) => {
    let text = '';
    req.setEncoding('utf8');
    req.on('data', (data) => { text += data; });
    req.on('end', () => {
      trace('body', text, req.complete, req.trailers, req.rawTrailers);
      res.writeHead(200, { Trailer: 'X-Sum' });
      res.write(text);
      res.addTrailers({ 'X-Sum': String(text.length) });
      res.end();
    });
    note(trace, 'req', req, ['end', 'close', 'aborted', 'error']);
    note(trace, 'res', res, ['finish', 'close', 'error']);
  }, async (server, port) => {
    trace(await raw(port, ['POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab', 'cde']));
    trace(await raw(port, ['POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nab', 'c\r\n0\r\nX-T: 1\r\n\r\n']));
  }),

  'Expect': async (trace) => {
    const post = (expect) => [`POST / HTTP/1.1\r\nHost: x\r\nExpect: ${expect}\r\nContent-Length: 2\r\n\r\n`, 'ab'];
    await served(ok, async (server, port) => {
      trace(await raw(port, post('100-continue')));
      trace(await raw(port, post('something')));
      server.on('checkContinue', (req, res) => { trace('checkContinue'); res.writeContinue(); ok(req, res); });
      server.on('checkExpectation', (req, res) => { trace('checkExpectation', req.headers.expect); ok(req, res); });
      trace(await raw(port, post('100-continue')));
      trace(await raw(port, post('something')));
    });
  },

  'informational answers': (trace) => served((req, res) => {
    res.writeProcessing();
    if (!res.writeEarlyHints) res.end('none');
    else res.writeEarlyHints({ link: '</a.css>; rel=preload' }, () => res.end('hinted'));
  }, async (server, port) => trace(await raw(port, GET))),

  'upgrade': async (trace) => {
    const upgrade = 'GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nfirst';
    await served(ok, async (server, port) => {
      trace(await raw(port, upgrade));
      server.on('upgrade', (req, socket, head) => {
        trace('upgrade', req.url, head.toString(), socket.listenerCount('data'), typeof socket.parser);
        note(trace, 'socket', socket, ['end', 'close', 'error']);
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n');
        socket.on('data', (data) => socket.write(`<${data}>`));
        socket.on('end', () => socket.end());
      });
      trace(await raw(port, [upgrade, 'second', 'third'], { half: true, inTurn: true }));
      await pause(20);
    });
  },

  'CONNECT': async (trace) => {
    const connect = 'CONNECT far.example:443 HTTP/1.1\r\nHost: far.example\r\n\r\n';
    await served(ok, async (server, port) => {
      trace(await raw(port, connect));
      server.on('connect', (req, socket, head) => {
        trace('connect', req.url, head.toString());
        socket.end('HTTP/1.1 200 Connection Established\r\n\r\nover');
      });
      trace(await raw(port, connect));
    });
  },

  'what is no HTTP': async (trace) => {
    const wrong = {
      garbage: 'garbage\r\n\r\n', version: 'GET / HTTP/9.9\r\n\r\n', 'two lengths': 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
      'length and chunks': 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      'a long head': `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20000)}\r\n\r\n`, 'no host': 'GET / HTTP/1.1\r\n\r\n', 'a lone CRLF': `\r\n${GET}`,
    };
    await served(ok, async (server, port) => {
      for (const [name, bytes] of Object.entries(wrong)) trace(name, await raw(port, bytes));
      server.on('clientError', (error, socket) => {
        trace('clientError', error.code, error.bytesParsed, socket.writable, socket.destroyed);
        socket.end('HTTP/1.1 418 Teapot\r\n\r\n');
      });
      for (const [name, bytes] of Object.entries(wrong)) trace(name, await raw(port, bytes));
    });
  },

  'a client that goes away': async (trace) => {
    let heard = () => {};
    let asked = () => {};
    await served((req, res) => {
      asked();
      note(trace, 'req', req, ['aborted', 'end', 'error', 'close']);
      note(trace, 'res', res, ['finish', 'error', 'close']);
      res.on('close', () => { trace('ended', res.writableEnded, res.writableFinished, res.headersSent, req.destroyed, req.aborted); setTimeout(heard, 30); });
      if (req.url === '/answer') { req.resume(); res.write('half'); }
    }, async (server, port) => {
      const over = () => new Promise((resolve) => { heard = resolve; });
      for (const bytes of ['POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab', 'GET /answer HTTP/1.1\r\nHost: x\r\n\r\n']) {
        const ended = over();
        const begun = new Promise((resolve) => { asked = resolve; });
        const socket = net.connect(port, '127.0.0.1', () => socket.write(bytes));
        if (bytes.startsWith('GET')) await once(socket, 'data');
        await begun;
        socket.resetAndDestroy && bytes.startsWith('GET') ? socket.resetAndDestroy() : socket.destroy();
        await ended;
      }
    });
  },

  'a client that closes its half': async (trace) => {
    for (const options of [{}, { allowHalfOpen: true }]) {
      await served((req, res) => { 
        note(trace, 'req', req, ['end', 'close', 'aborted']);
        req.socket.on('end', () => setImmediate(() => res.end('late')));
      }, async (server, port) => {
        server.httpAllowHalfOpen = Boolean(options.allowHalfOpen);
        trace(await raw(port, GET, { half: true }));
        trace(await raw(port, GET.slice(0, 8), { half: true }));
      });
    }
  },

  'a handler that fails': async (trace) => {
    events.captureRejections = true;
    try {
      await served(async (req, res) => {
        if (req.url === '/late') res.write('x');
        throw new Error('meant');
      }, async (server, port) => {
        trace(await raw(port, GET));
        trace(await raw(port, 'GET /late HTTP/1.1\r\nHost: x\r\n\r\n'));
      });
    } finally {
      events.captureRejections = false;
    }
  },

  'answers written in pieces': (trace) => served((req, res) => {
    note(trace, 'res', res, ['drain', 'finish', 'close', 'prefinish', 'pipe', 'unpipe']);
    res.flushHeaders();
    trace('head sent', res.headersSent, res.writableLength > 0);
    trace('room', res.write(Buffer.alloc(200000, 'x')));
    res.once('drain', () => { res.cork(); res.write('a'); res.write('b'); res.uncork(); res.end('c', () => trace('end called back')); });
  }, async (server, port) => { const { text } = await ask({ port }); trace('length', text.length, text.slice(-3)); }),

  'a connection that is handed in by hand': async (trace) => {
    const server = http.createServer((req, res) => res.end(`got ${req.url}`));
    const sent = [];
    const stream = new Duplex({ read() {}, write(chunk, encoding, done) { sent.push(chunk.toString('latin1')); done(); } });
    note(trace, 'server', server, ['connection', 'request']);
    server.emit('connection', stream);
    stream.push('GET /by-hand HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    await once(stream, 'finish');
    trace(sent.join('').replace(/Date: .*\r\n/, ''));
    trace('listening', server.listening, server.address());
  },

  'diagnostics': async (trace) => {
    const channels = ['http.server.request.start', 'http.server.response.finish', 'http.server.response.created', 'net.server.socket'];
    const dc = require('diagnostics_channel');
    const seen = (name) => () => trace(name);
    const subscribers = channels.map((name) => [name, seen(name)]);
    for (const name of channels) trace(name, dc.channel(name).hasSubscribers);
    for (const [name, subscriber] of subscribers) dc.channel(name).subscribe(subscriber);
    await served(ok, async (server, port) => { await raw(port, GET + GET); });
    for (const [name, subscriber] of subscribers) dc.channel(name).unsubscribe(subscriber);
  },
};
