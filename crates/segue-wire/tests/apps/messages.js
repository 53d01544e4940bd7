'use strict';

const server = require('net').createServer();

server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
  process.send('ready');
  process.send(['\u00e9\n', null]);
  process.send('mine', server, () => process.send('end'));
});
