'use strict';

// An ordinary app: echoes number, hash and port; slow answers, chunked downloads.

const crypto = require('crypto');
const cluster = require('cluster');

const options = JSON.parse(process.argv[2] || '{}');
const download = crypto.randomBytes(30000);
const sum = crypto.createHash('sha1').update(download).digest('hex');
let handled = 0;
if (options.load) require(options.load);

function handler(req, res) {
  const hash = crypto.createHash('sha1');
  req.on('data', (chunk) => hash.update(chunk));
  req.on('end', () => {
    handled += 1;
    if (options.mark) req.socket.ntlm = { user: 'x' };
    res.setHeader('X-Number', req.headers['x-number'] || '');
    res.setHeader('X-Hash', hash.digest('hex'));
    res.setHeader('X-Port', req.socket.remotePort);
    res.setHeader('X-Worker', cluster.worker ? cluster.worker.id : 0);
    if (options.explicitKeepAlive) res.setHeader('Connection', 'keep-alive');
    if (req.url === '/slow') {
      setTimeout(() => res.end('slow'), Math.random() * 30);
    } else if (req.url === '/late') {
      res.writeHead(200);
      process.send('late');
      setTimeout(() => res.end('late'), 300);
    } else if (req.url === '/download') {
      res.setHeader('X-Sum', sum);
      let at = 0;
      const next = () => {
        if (at >= download.length) { res.end(); return; }
        res.write(download.subarray(at, at + 10000));
        at += 10000;
        setTimeout(next, 2);
      };
      next();
    } else if (req.url === '/think') {
      setTimeout(() => res.end('thought'), 1200);
    } else if (req.url === '/forever') {
      res.write('x');
    } else {
      res.end('ok');
    }
  });
}

const modules = { http: 'http', https: 'https' };
const server = options.tls
  ? require(modules.https).createServer({ key: require('fs').readFileSync(options.tls.key), cert: require('fs').readFileSync(options.tls.cert) }, handler)
  : require(modules.http).createServer(options.check ? { connectionsCheckingInterval: options.check } : {}, handler);
for (const name of ['keepAliveTimeout', 'headersTimeout', 'requestTimeout', 'maxConnections']) {
  if (options[name] !== undefined) server[name] = options[name];
}
if (options.lateReplaceSend) {
  server.once('listening', () => setImmediate(() => { process.send = () => { throw new Error('not for you'); }; }));
}
if (options.failMoves) {
  const real = process._send;
  process._send = function(message, handle) {
    if (handle) throw new Error('no room');
    return Reflect.apply(real, this, arguments);
  };
}
if (options.onMessage) process.on('message', () => {});
if (options.sigterm === 'exit') process.on('SIGTERM', () => process.exit(0));
if (options.sigterm === 'close') {
  process.on('SIGTERM', () => server.close((error) => { console.log(`closed ${error ? error.code : 'well'}`); process.exit(error ? 1 : 0); }));
}
process.on('exit', () => { console.log(`handled=${handled}`); });
process.on('SIGUSR2', () => { console.log(`handled=${handled}.`); });
server.listen(Object.assign({ port: options.port || 0, host: '127.0.0.1' }, options.listen));
