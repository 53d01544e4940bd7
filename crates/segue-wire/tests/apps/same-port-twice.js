'use strict';

const http = require('http');
const port = +process.env.PORT;

http.createServer().listen(port, () => {
  http.createServer().on('error', (error) => process.send(error.code)).listen(port);
});
