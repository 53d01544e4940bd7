'use strict';

// A WebSocket echo server: `ws` where a folder with it is given, otherwise one written out here
// that does without any object on its socket (kind "raw": known only by the name of its package).

const crypto = require('crypto');
const http = require('http');
const path = require('path');
const [kind, modules] = process.argv.slice(2);

const server = http.createServer((req, res) => res.end('ok'));
if (kind === 'ws') {
  const { WebSocketServer } = require(path.join(modules, 'ws'));
  new WebSocketServer({ server }).on('connection', (ws) => ws.on('message', (m) => ws.send(String(m))));
} else {
  if (kind === 'raw') require(path.join(modules, 'websocket'));
  server.on('upgrade', (req, socket) => {
    const accept = crypto.createHash('sha1').update(`${req.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    socket.on('data', (data) => { if ((data[0] & 0x0f) === 8) socket.end(); });
    socket.on('error', () => {});
  });
}
server.listen(0, '127.0.0.1');
