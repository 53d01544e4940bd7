'use strict';

// A small stand-in for the supervisor: it answers the cluster protocol with shared sockets, hands
// moved connections to the newest worker, and records what the workers say.

const { spawn } = require('node:child_process');
const { EventEmitter, once } = require('node:events');
const net = require('node:net');
const path = require('node:path');

const LIMIT_MS = 60000; // how long anything may take
const PRELOAD = path.join(__dirname, '..', 'preload.cjs');

class Primary extends EventEmitter {
  constructor(node, { preload = true, execArgv = [], env = {} } = {}) {
    super();
    Object.assign(this, { node, preload, execArgv, env });
    this.sockets = new Map(); // place -> { key, handle, port }
    this.workers = [];
    this.nextKey = 0;
    this.nextSeq = 0;
    this.moves = 0;
    this.refused = 0;
    this.holdMoves = false;
  }

  // Resolves when the app listens; `newest` workers get the moved connections.
  async spawn(app, args = []) {
    const argv = [...this.execArgv, ...(this.preload ? ['--require', PRELOAD] : []), app, ...args.map(String)];
    const child = spawn(this.node, argv, {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, NODE_UNIQUE_ID: String(this.workers.length + 1), SEGUE_APP: 'test', NODE_OPTIONS: '', ...this.env },
    });
    const worker = Object.assign(new EventEmitter(), {
      child, id: this.workers.length + 1, said: [], userMessages: [], out: '', port: null, ports: [], exit: null, wakers: [],
    });
    this.workers.push(worker);
    for (const event of ['said', 'out', 'user']) worker.on(event, () => { for (const wake of worker.wakers.splice(0)) wake(); });
    child.stdout.on('data', (d) => { worker.out += d; worker.emit('out'); });
    child.stderr.on('data', (d) => { worker.out += d; worker.emit('out'); });
    child.on('error', () => {});
    child.on('message', (m) => { worker.userMessages.push(m); worker.emit('user', m); });
    child.on('internalMessage', (message, handle) => this.heard(worker, message, handle));
    worker.gone = once(child, 'exit').then(([code, signal]) => {
      worker.exit = { code, signal };
      worker.emit('said', {});
      return worker.exit;
    });
    await this.until(worker, () => worker.port !== null);
    return worker;
  }

  heard(worker, message, handle) {
    if (message.cmd === 'NODE_CLUSTER') {
      if (message.act === 'queryServer') this.answer(worker, message);
      if (message.act === 'listening') { worker.port = worker.port || message.port; worker.ports.push(message.port); worker.emit('said', message); }
      if (message.act === 'close') { worker.closed = true; worker.emit('said', message); }
      if (message.ack !== undefined && message.accepted === false) this.refused += 1;
    } else if (message.cmd === 'NODE_SEGUE') {
      worker.said.push(message);
      if (message.act === 'conn') this.pass(worker, message, handle);
      worker.emit('said', message);
    }
  }

  answer(worker, query) {
    const place = `${query.address}:${query.port}:${query.addressType}${query.port === 0 ? `:${query.index}` : ''}`;
    let socket = this.sockets.get(place);
    if (!socket) {
      const handle = net._createServerHandle(query.address, query.port, query.addressType, query.fd, query.flags);
      if (typeof handle === 'number') {
        worker.child.send({ cmd: 'NODE_CLUSTER', ack: query.seq, errno: handle, key: '-', data: query.data, seq: this.nextSeq++ });
        return;
      }
      socket = { key: String(this.nextKey++), handle, data: query.data };
      this.sockets.set(place, socket);
    }
    worker.child.send({ cmd: 'NODE_CLUSTER', ack: query.seq, errno: 0, key: socket.key, data: socket.data, seq: this.nextSeq++ }, socket.handle);
  }

  pass(from, message, handle) {
    this.moves += 1;
    const to = [...this.workers].reverse().find((w) => w.exit === null && w !== from && w.child.connected);
    if (!to) { handle.close(); return; }
    to.child.send({ cmd: 'NODE_CLUSTER', act: 'newconn', key: message.key, seq: this.nextSeq++, segue: { ka: message.ka } },
      handle, () => handle.close());
  }

  drain(worker, options = {}) {
    worker.child.send({ cmd: 'NODE_SEGUE', act: 'drain', accept: false, idle: 'migrate', stall: 30000, deadline: 60000,
      ws_after: 0, ws_code: 1012, ...options });
  }

  said(worker, act) { return worker.said.filter((m) => m.act === act); }

  async until(worker, condition) {
    let late = false;
    const limit = setTimeout(() => { late = true; worker.emit('said', {}); }, LIMIT_MS);
    try {
      while (!condition()) {
        if (worker.exit !== null) throw new Error(`worker ended with ${JSON.stringify(worker.exit)}: ${worker.out}`);
        if (late) throw new Error(`did not come: ${condition}; the worker said ${JSON.stringify(worker.said)}: ${worker.out}`);
        await new Promise((resolve) => worker.wakers.push(resolve));
      }
    } finally {
      clearTimeout(limit);
    }
  }

  async drained(worker) {
    await this.until(worker, () => this.said(worker, 'drained').length > 0);
    return this.said(worker, 'drained')[0];
  }

  async stop(worker) {
    worker.child.kill('SIGTERM');
    return worker.gone;
  }

  async close() {
    for (const worker of this.workers) if (worker.exit === null) worker.child.kill('SIGKILL');
    await Promise.all(this.workers.map((w) => w.gone));
    for (const { handle } of this.sockets.values()) handle.close();
  }
}

module.exports = { Primary };
