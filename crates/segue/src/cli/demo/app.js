'use strict';
// The app of `segue demo`: an ordinary HTTP server without a line of segue, cluster code or a
// signal handler. Its answers say who gave them, so that the client can check each one.
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const path = require('path');

const version = fs.readFileSync(path.join(__dirname, 'VERSION'), 'utf8').trim();

function headers(req, body) {
  return {
    'content-length': body.length,
    'x-segue-echo': req.headers['x-segue-n'] || '0',
    'x-segue-version': version,
    'x-segue-worker': String(process.pid),
    'x-body-sha256': crypto.createHash('sha256').update(body).digest('hex'),
  };
}

function answer(req, res, body) {
  res.writeHead(200, headers(req, body));
  res.end(body);
}

function echo(req, res) {
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => answer(req, res, Buffer.concat(parts)));
}

// `bytes` bytes over `ms` milliseconds; the byte at offset i is (n + i) % 251.
function download(req, res, query) {
  const number = Number(req.headers['x-segue-n']) || 0;
  const body = Buffer.alloc(Number(query.get('bytes')) || 0);
  for (let i = 0; i < body.length; i += 1) body[i] = (number + i) % 251;
  const pieces = 20;
  const size = Math.ceil(body.length / pieces) || 1;
  res.writeHead(200, headers(req, body));
  let sent = 0;
  const timer = setInterval(() => {
    const piece = body.subarray(sent, sent + size);
    sent += piece.length;
    if (sent < body.length) {
      res.write(piece);
    } else {
      clearInterval(timer);
      res.end(piece);
    }
  }, (Number(query.get('ms')) || 0) / pieces);
  res.on('close', () => clearInterval(timer));
}

http
  .createServer((req, res) => {
    const url = new URL(req.url, 'http://demo');
    if (req.method === 'POST') echo(req, res);
    else if (url.pathname === '/download') download(req, res, url.searchParams);
    else answer(req, res, Buffer.from(`${version}\n`));
  })
  .listen(Number(process.env.PORT) || 0, '127.0.0.1');
