'use strict';

const http = require('http');

http.createServer().listen(0, () => http.createServer().listen(0));
