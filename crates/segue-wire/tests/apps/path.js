'use strict';

require('http')
  .createServer((request, response) => response.end('ok'))
  .listen({ path: process.env.SOCKET, readableAll: true, writableAll: true });
