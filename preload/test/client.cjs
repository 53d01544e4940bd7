'use strict';

// A strict HTTP/1.1 client on a raw socket: no retry, no reconnect unless the server announced
// the end. Every request is numbered and its body hashed; a wrong number, hash or remote port,
// an unannounced end, unasked bytes or silence is a failure.

const crypto = require('node:crypto');
const net = require('node:net');
const tls = require('node:tls');

const SILENCE_MS = 30000;

class Connection {
  constructor({ port, secure = false, localName }) {
    this.buffer = Buffer.alloc(0);
    this.waiter = null;
    this.error = null;
    this.expecting = 0;
    this.requests = 0;
    this.socket = secure ? tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, maxVersion: localName })
      : net.connect({ port, host: '127.0.0.1', noDelay: true });
    this.ready = new Promise((resolve, reject) => {
      this.socket.once(secure ? 'secureConnect' : 'connect', () => { this.localPort = this.socket.localPort; resolve(this); });
      this.socket.once('error', reject);
    });
    this.gone = new Promise((resolve) => { this.socket.once('close', resolve); });
    this.socket.on('data', (chunk) => {
      this.buffer = Buffer.concat([this.buffer, chunk]);
      this.wake();
    });
    this.socket.on('error', (error) => { this.error = this.error || error; this.wake(); });
    this.socket.on('close', () => { this.error = this.error || new Error('closed'); this.wake(); });
    this.socket.on('end', () => { this.error = this.error || new Error('closed'); this.wake(); });
  }

  wake() { if (this.waiter) { const w = this.waiter; this.waiter = null; w(); } }

  async more() {
    if (this.error) throw this.error;
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.waiter = null; reject(new Error('silence')); }, SILENCE_MS);
      this.waiter = () => { clearTimeout(timer); resolve(); };
    });
  }

  async readUntil(mark) {
    for (;;) {
      const at = this.buffer.indexOf(mark);
      if (at >= 0) return this.take(at + mark.length);
      await this.more();
    }
  }

  async readBytes(length) {
    while (this.buffer.length < length) await this.more();
    return this.take(length);
  }

  take(length) {
    const part = this.buffer.subarray(0, length);
    this.buffer = this.buffer.subarray(length);
    return part;
  }

  // -> { status, headers, body, close }
  async response() {
    const head = (await this.readUntil('\r\n\r\n')).toString('latin1').split('\r\n');
    const status = Number(head[0].split(' ')[1]);
    if (status === 100) return this.response();
    const headers = {};
    for (const line of head.slice(1)) {
      const at = line.indexOf(':');
      if (at > 0) headers[line.slice(0, at).toLowerCase()] = line.slice(at + 1).trim();
    }
    let body = Buffer.alloc(0);
    if (headers['transfer-encoding'] === 'chunked') {
      const parts = [];
      for (;;) {
        const size = parseInt((await this.readUntil('\r\n')).toString(), 16);
        const chunk = await this.readBytes(size + 2);
        if (size === 0) break;
        parts.push(Buffer.from(chunk.subarray(0, size)));
      }
      body = Buffer.concat(parts);
    } else if (headers['content-length'] !== undefined) {
      body = Buffer.from(await this.readBytes(Number(headers['content-length'])));
    }
    return { status, headers, body, close: (headers.connection || '').toLowerCase() === 'close' };
  }

  write(bytes) { return new Promise((resolve) => this.socket.write(bytes, () => resolve())); }

  end() { this.socket.destroy(); }
}

const sha = (bytes) => crypto.createHash('sha1').update(bytes).digest('hex');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// One request as bytes, with what its answer must be.
function make(number, random, kinds) {
  const kind = kinds[Math.floor(random() * kinds.length)];
  const head = `Host: x\r\nX-Number: ${number}\r\n`;
  if (kind === 'get') return { kind, number, bytes: Buffer.from(`GET /echo HTTP/1.1\r\n${head}\r\n`), hash: sha('') };
  if (kind === 'slow') return { kind, number, bytes: Buffer.from(`GET /slow HTTP/1.1\r\n${head}\r\n`), hash: sha('') };
  if (kind === 'download') return { kind, number, bytes: Buffer.from(`GET /download HTTP/1.1\r\n${head}\r\n`), hash: sha('') };
  const body = crypto.randomBytes(Math.floor(random() * 20000));
  if (kind === 'post') {
    return { kind, number, hash: sha(body),
      bytes: Buffer.concat([Buffer.from(`POST /echo HTTP/1.1\r\n${head}Content-Length: ${body.length}\r\n\r\n`), body]) };
  }
  const cut = Math.floor(random() * body.length);
  const chunks = [body.subarray(0, cut), body.subarray(cut)].filter((c) => c.length > 0);
  return { kind, number, hash: sha(body), bytes: Buffer.concat([
    Buffer.from(`POST /echo HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n`),
    ...chunks.flatMap((c) => [Buffer.from(`${c.length.toString(16)}\r\n`), c, Buffer.from('\r\n')]), Buffer.from('0\r\n\r\n')]) };
}

// Keeps `connections` busy until stop(); the result counts everything.
class Load {
  constructor({ port, connections, secure = false, pipelines = true, kinds = ['get', 'get', 'post', 'chunked', 'slow', 'download'], think = 20 }) {
    Object.assign(this, { port, secure, pipelines, kinds, think });
    this.result = { requests: 0, failures: [], announced: 0, opened: 0, byWorker: {} };
    this.running = true;
    this.number = 0;
    this.loops = Array.from({ length: connections }, () => this.loop());
  }

  async loop() {
    let connection = null;
    while (this.running) {
      try {
        if (!connection) {
          connection = await new Connection({ port: this.port, secure: this.secure }).ready;
          this.result.opened += 1;
        }
        if (!await this.turn(connection)) {
          this.result.announced += 1;
          connection.end();
          connection = null;
          continue;
        }
      } catch (error) {
        this.result.failures.push(`${error.code || error.message} after ${connection ? connection.requests : 0} requests`);
        if (connection) connection.end();
        connection = null;
        if (this.result.failures.length > 20) return;
      }
      await pause(Math.random() * this.think);
    }
    if (connection) connection.end();
  }

  // False when the server announced the end.
  async turn(connection) {
    const count = this.pipelines && Math.random() < 0.3 ? 2 + Math.floor(Math.random() * 4) : 1;
    const requests = Array.from({ length: count }, () => make(this.number++, Math.random, this.kinds));
    if (connection.buffer.length > 0) throw new Error('unasked bytes');
    if (connection.error) throw connection.error;
    const bytes = Buffer.concat(requests.map((r) => r.bytes));
    const writing = (async () => {
      if (Math.random() < 0.5) {
        const cut = Math.floor(Math.random() * bytes.length);
        await connection.write(bytes.subarray(0, cut));
        await pause(Math.random() * 15);
        await connection.write(bytes.subarray(cut));
      } else {
        await connection.write(bytes);
      }
    })();
    for (let i = 0; i < requests.length; i += 1) {
      const answer = await connection.response();
      this.check(requests[i], answer, connection);
      if (answer.close) {
        if (i < requests.length - 1) throw new Error('announced the end before a pipelined answer');
        await writing;
        return false;
      }
    }
    await writing;
    return true;
  }

  check(request, { status, headers, body }, connection) {
    connection.requests += 1;
    this.result.requests += 1;
    if (status !== 200) throw new Error(`status ${status}`);
    if (Number(headers['x-number']) !== request.number) throw new Error(`answer ${headers['x-number']} for ${request.number}`);
    if (headers['x-hash'] !== request.hash) throw new Error('request body arrived wrong');
    if (Number(headers['x-port']) !== connection.localPort) throw new Error('another connection answered');
    if (headers['x-sum'] && headers['x-sum'] !== sha(body)) throw new Error('answer body arrived wrong');
    this.result.byWorker[headers['x-worker']] = (this.result.byWorker[headers['x-worker']] || 0) + 1;
  }

  async stop() {
    this.running = false;
    await Promise.all(this.loops);
    return this.result;
  }
}

module.exports = { Connection, Load, pause, sha };
