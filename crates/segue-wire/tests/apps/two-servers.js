'use strict';

const http = require('http');

http.createServer((request, response) => response.end('ok')).listen(+process.env.PORT);
http.createServer().listen(+process.env.OTHER_PORT);
