'use strict';

// A worker thread with servers: one at each place it is given, one within a thread of its own, and
// one at no place in particular. It reports when all of them listen.

const http = require('http');
const { Worker, parentPort, workerData } = require('worker_threads');

const listen = (place) => new Promise((resolve) => {
  const server = http.createServer((req, res) => res.end('thread'));
  server.listen(place, '127.0.0.1', () => resolve(server.address().port));
});

const [place, ...others] = workerData;
const below = others.length > 0 && new Promise((resolve) => {
  new Worker(__filename, { workerData: others }).on('message', resolve);
});
Promise.all([listen(place), listen(0), below]).then(([own, random, more]) => parentPort.postMessage({ own, random, more }));
