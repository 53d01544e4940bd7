'use strict';

const http2 = require('http2');

const server = http2.createServer((req, res) => {
  res.setHeader('Content-Length', req.url.length);
  setTimeout(() => res.end(req.url), Math.random() * 20);
});
server.listen(0, '127.0.0.1');
