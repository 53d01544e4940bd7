'use strict';

// Serves by http, https or http2 (the first argument): /ok, /error, /hang without an answer, and
// /block, which keeps the event loop busy for half a second.

const fs = require('fs');
const path = require('path');

const FIXTURES = path.join(__dirname, '..', '..', '..', 'crates', 'segue', 'tests', 'fixtures');
const pem = (name) => fs.readFileSync(path.join(FIXTURES, `tls-${name}.pem`));

function answer(req, res) {
  if (req.url === '/hang') {
    res.write('never');
    process.send({ hangs: true });
    return;
  }
  if (req.url === '/block') {
    const until = Date.now() + 500;
    while (Date.now() < until);
  }
  res.statusCode = req.url === '/error' ? 503 : 200;
  res.end('answer');
}

const make = {
  http: () => require('http').createServer(answer),
  https: () => require('https').createServer({ key: pem('key'), cert: pem('cert') }, answer),
  http2: () => require('http2').createServer(answer),
}[process.argv[2] || 'http'];
const server = make();
server.listen(0, '127.0.0.1');
process.on('SIGUSR2', () => process.send({ listeners: server.listenerCount('stream'), subscribed: require('diagnostics_channel').hasSubscribers('http.server.request.start') }));
