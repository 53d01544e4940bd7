'use strict';
// The app of the benchmark: as little work for each request as Node allows.
const http = require('http');

const body = Buffer.from('hello\n');
http
  .createServer((req, res) => {
    res.writeHead(200, { 'content-type': 'text/plain', 'content-length': body.length });
    res.end(body);
  })
  .listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 });
