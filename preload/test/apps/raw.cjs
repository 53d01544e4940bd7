'use strict';

// A server of a protocol that nobody knows: an echo.

require('net').createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
