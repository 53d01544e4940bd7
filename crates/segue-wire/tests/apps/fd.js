'use strict';

const net = require('net');

const own = net.createServer().listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
  net
    .createServer()
    .on('error', (error) => own.close(() => process.send(error.code)))
    .listen({ fd: own._handle.fd });
});
