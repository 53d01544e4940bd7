'use strict';

const port = +process.env.PORT;
const server = require('http').createServer((request, response) => response.end('ok'));

server.listen(port, () => {
  // Closed within this callback, the first `listening` would not be sent.
  setImmediate(() => server.close(() => server.listen(port)));
});
