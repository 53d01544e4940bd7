'use strict';

// What the cases share: servers on a port of their own, and a client that shows every byte.

const http = require('http');
const net = require('net');

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const once = (emitter, name) => new Promise((resolve) => emitter.once(name, (...args) => resolve(args)));

async function listen(server, ...args) {
  server.listen(...(args.length > 0 ? args : [0, '127.0.0.1']));
  await once(server, 'listening');
  return server.address() && server.address().port;
}

const close = (server) => new Promise((resolve) => {
  server.close((error) => resolve(error ? error.code : 'closed'));
  if (server.closeAllConnections) server.closeAllConnections();
});

// Notes events by name, with the code of an error.
function note(trace, who, emitter, names) {
  for (const name of names) {
    emitter.on(name, (argument) => trace(who, name, argument && argument.code ? argument.code : ''));
  }
}

const steady = (text) => text.replace(/^Date: .*\r\n/gim, '').replace(/127\.0\.0\.1:\d+/g, 'host');

// How many answers are there whole, and whether the last one announces the end.
function answersIn(text, isHead) {
  let count = 0;
  let closes = false;
  for (let rest = text; ;) {
    const at = rest.indexOf('\r\n\r\n');
    if (at < 0) return { count, closes };
    const head = rest.slice(0, at);
    rest = rest.slice(at + 4);
    const status = Number(head.split(' ')[1]);
    if (status === 101) return { count, closes: true };
    if (status < 200) continue;
    const [, length] = /content-length: (\d+)/i.exec(head) || [];
    if (isHead || status === 204 || status === 304) {
      // Nothing follows.
    } else if (length !== undefined) {
      if (rest.length < length) return { count, closes };
      rest = rest.slice(length);
    } else {
      const end = /(^|\r\n)0\r\n([^\r\n]+\r\n)*\r\n/.exec(rest);
      if (!/chunked/i.test(head) || !end) return { count, closes: true };
      rest = rest.slice(end.index + end[0].length);
    }
    count += 1;
    closes = /connection: close/i.test(head);
  }
}

// Sends parts, a moment apart (with `inTurn` each when something has come), and returns what came: until there is an answer for each request, or,
// with `quiet`, until nothing has come for so many ms; and in both cases until the server's end.
function raw(port, parts, { quiet, half = false, inTurn = false } = {}) {
  const sent = [].concat(parts).join('');
  const wanted = (sent.match(/ HTTP\/\d\.\d\r\n/g) || []).length;
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    let text = '';
    let timer;
    const done = (how) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(`${JSON.stringify(steady(text))} ${how}`);
    };
    const rest = () => { clearTimeout(timer); timer = setTimeout(() => done('open'), quiet === undefined ? 5000 : quiet); };
    socket.on('data', (data) => {
      text += data.toString('latin1');
      rest();
      const { count, closes } = answersIn(text, sent.startsWith('HEAD'));
      if (quiet === undefined && !half && count >= wanted && !closes) done('open');
    });
    socket.on('end', () => done('ended'));
    socket.on('error', (error) => done(error.code));
    socket.on('connect', async () => {
      for (const part of [].concat(parts)) {
        socket.write(part);
        await (inTurn ? once(socket, 'data') : pause(30));
      }
      if (half) socket.end();
      rest();
    });
  });
}

function ask(options) {
  return new Promise((resolve, reject) => {
    const { body, ...rest } = options;
    const request = http.request({ host: '127.0.0.1', ...rest }, (response) => {
      let text = '';
      response.on('data', (data) => { text += data; });
      response.on('end', () => resolve({ status: response.statusCode, text, headers: response.headers, response, request }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

module.exports = { ask, close, listen, note, once, pause, raw, steady };
