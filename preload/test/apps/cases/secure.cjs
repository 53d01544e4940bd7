'use strict';

// HTTPS and HTTP/2. The certificate is in SEGUE_TEST_CERT and SEGUE_TEST_KEY.

const fs = require('fs');
const http2 = require('http2');
const https = require('https');
const tls = require('tls');
const { listen, note, once, pause, raw } = require('./tools.cjs');

const pair = () => ({ cert: fs.readFileSync(process.env.SEGUE_TEST_CERT), key: fs.readFileSync(process.env.SEGUE_TEST_KEY) });
const closed = (server) => new Promise((resolve) => server.close((error) => resolve(error ? error.code : 'closed')));

function get(options) {
  return new Promise((resolve, reject) => {
    https.get({ host: '127.0.0.1', rejectUnauthorized: false, ...options }, (response) => {
      let text = '';
      response.on('data', (data) => { text += data; });
      response.on('end', () => resolve({ text, headers: response.headers }));
    }).on('error', reject);
  });
}

// One request, with every event of its stream.
async function stream(trace, session, headers, body) {
  const request = session.request(headers, { endStream: body === undefined });
  let text = '';
  request.setEncoding('utf8');
  request.on('response', ({ ':status': status, 'content-type': type }) => trace('response', status, type || ''));
  request.on('trailers', (trailers) => trace('trailers', { ...trailers }));
  request.on('data', (data) => { text += data; });
  note(trace, 'stream', request, ['aborted', 'error', 'end']);
  if (body !== undefined) request.end(body);
  await once(request, 'close');
  trace('stream', request.rstCode, text);
}

exports.cases = {
  'https': async (trace) => {
    const server = https.createServer(pair(), (req, res) => res.end(`${req.url} ${req.socket.encrypted} ${req.socket.alpnProtocol}`));
    note(trace, 'server', server, ['connection', 'secureConnection', 'request', 'tlsClientError', 'close']);
    const port = await listen(server);
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    for (const path of ['/a', '/b']) {
      const { text, headers } = await get({ port, path, agent });
      trace(text, headers.connection);
    }
    agent.destroy();
    trace((await raw(port, 'GET / HTTP/1.1\r\n\r\n')).split(' ').pop());
    const bare = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => bare.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'));
    bare.resume();
    await once(bare, 'close');
    trace(await closed(server));
  },

  'http2': async (trace) => {
    const server = http2.createServer();
    // Which end of a session hears first of its end is open.
    const [ours, theirs] = [[], []];
    server.on('session', (session) => { trace('session'); note((...words) => ours.push(words.join(' ')), 'session', session, ['close', 'goaway', 'error', 'stream']); });
    server.on('stream', (one, headers) => {
      trace('method', headers[':method']);
      note(trace, 'server stream', one, ['error', 'close']);
      if (headers[':path'] === '/refuse') { one.close(http2.constants.NGHTTP2_REFUSED_STREAM); return; }
      if (headers[':path'] === '/trailers') {
        one.respond({ ':status': 200, 'content-type': 'text/plain' }, { waitForTrailers: true });
        one.on('wantTrailers', () => one.sendTrailers({ sum: '5' }));
        one.end('hello');
        return;
      }
      one.respond({ ':status': 200 });
      one.pipe(one);
    });
    const port = await listen(server);
    const client = http2.connect(`http://127.0.0.1:${port}`);
    note((...words) => theirs.push(words.join(' ')), 'client', client, ['connect', 'close', 'goaway', 'error']);
    await stream(trace, client, { ':path': '/echo', ':method': 'POST' }, 'body');
    await stream(trace, client, { ':path': '/trailers' });
    await stream(trace, client, { ':path': '/refuse' });
    trace('ping', await new Promise((resolve) => client.ping((error) => resolve(error))));
    client.close();
    await once(client, 'close');
    await pause(20);
    trace(await closed(server), server.listening);
    trace(ours, theirs);
  },

  'http2 by the interface of http, and allowHTTP1': async (trace) => {
    const server = http2.createSecureServer({ ...pair(), allowHTTP1: true }, (req, res) => {
      note(trace, 'res', res, ['finish', 'close']);
      res.setHeader('Content-Type', 'text/plain');
      res.end(`${req.httpVersion} ${req.url}`);
    });
    note(trace, 'server', server, ['session', 'secureConnection', 'request', 'unknownProtocol', 'close']);
    const port = await listen(server);
    const client = http2.connect(`https://127.0.0.1:${port}`, { rejectUnauthorized: false });
    await stream(trace, client, { ':path': '/two' });
    client.close();
    await once(client, 'close');
    const { text, headers } = await get({ port, path: '/one', agent: false });
    trace(text, headers.connection);
    await pause(20);
    trace(await closed(server));
  },
};
