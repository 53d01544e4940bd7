'use strict';

// Answers with the path: soon, late, or with a head that nothing follows.

const http2 = require('http2');

const server = http2.createServer((req, res) => {
  res.setHeader('Content-Length', req.url.length);
  if (req.url === '/silent') res.write('/');
  else setTimeout(() => res.end(req.url), req.url === '/think' ? 1200 : Math.random() * 20);
});
server.listen(0, '127.0.0.1');
