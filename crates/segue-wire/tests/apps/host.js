'use strict';

require('net').createServer().listen({ port: +process.env.PORT, host: '127.0.0.1', backlog: 77 });
