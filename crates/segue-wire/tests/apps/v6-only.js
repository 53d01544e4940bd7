'use strict';

require('net').createServer().listen({ port: +process.env.PORT, host: '::1', ipv6Only: true });
