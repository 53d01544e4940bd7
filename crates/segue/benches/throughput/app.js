'use strict';
// The app of the benchmark: as little work for each request as Node allows.
const http = require('http');

// As an app does that compiles and connects a lot before it listens.
const until = Date.now() + Number(process.env.BOOT_MS || 0);
while (Date.now() < until);

const body = Buffer.from('hello\n');
http
  .createServer((req, res) => {
    res.writeHead(200, { 'content-type': 'text/plain', 'content-length': body.length });
    res.end(body);
  })
  .listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 });
