'use strict';

// Loaded by Node into every worker before the app (`--require`). It owns the worker's side of a
// drain: it knows the connections, hands idle ones to the next generation, announces the end of
// those that cannot move, and tells the supervisor when nothing is left. While the worker serves it
// answers pings, and while a canary runs it counts answers.
//
// It must not throw, keep a process alive outside a drain, be called on the path of a request
// before a drain or a count begins, or do anything in a process that is not a worker of segue (helpers the
// app starts inherit both the option and the environment). In a worker's threads it only says
// where they listen, for what they bind is out of the supervisor's reach.
//
// Node's internals are used where there is no public way. Those are the same from 16 to 26; on
// any other version connections are not moved.

const { setTimeout, setImmediate, setInterval, clearInterval } = require('timers');

const MARGIN_MS = 1000; // grace beyond an announced keep-alive time; Node's own margin since 22
const SWEEP_MS = 25;
const STATE_MS = 1000; // at most one state message in this time
const COUNT_MS = 1000; // between two reports of what has been counted
const MAX_OUTGOING = 16; // Node re-queues all waiting handles at every acknowledgement
const HANDSHAKE_MS = 5000; // how long a TLS handshake may still take once nothing is accepted
const WS_ANSWER_MS = 10000; // how long a WebSocket peer may take to answer our close frame
const LINGER_MS = 5000; // how long an HTTP/2 peer may take to close its half once we have closed ours
const MAX_TIMER_MS = 0x7fffffff;
const THREADS = 'segue.threads'; // name of the channel between the threads of a worker

// Packages that tie an identity to a connection: what they know of it would not move along.
const CONNECTION_STATE = ['express-ntlm', 'node-sspi', 'node-expose-sspi', 'passport-negotiate',
  'proxywrap', 'findhit-proxywrap', 'proxy-protocol', 'proxy-protocol-js', 'proxy-protocol-v2'];
// Packages that keep a set of open sockets only to close them at the end.
const SOCKET_SETS = ['@hapi/hapi', 'fastify', 'stoppable', 'http-terminator', '@godaddy/terminus',
  'http-graceful-shutdown', 'lightship'];
// WebSocket servers other than `ws`.
const OTHER_WEBSOCKETS = ['websocket', 'faye-websocket', 'websocket-driver', 'nodejs-websocket', 'sockjs'];

const ignore = () => {};
const clock = process.hrtime; // an app may replace the clocks
const now = () => Math.floor(Number(clock.bigint()) / 1e6);

function isOurWorker() {
  try {
    return Boolean(process.env.SEGUE_APP) && process.connected === true &&
      typeof process.send === 'function' && !process.versions.bun && !process.versions.deno &&
      require('worker_threads').isMainThread && require('cluster').isWorker;
  } catch (_) {
    return false;
  }
}

function isThreadOfOurWorker() {
  try {
    const { isMainThread, getEnvironmentData } = require('worker_threads');
    return !isMainThread && getEnvironmentData(THREADS) === true;
  } catch (_) {
    return false;
  }
}

// Nothing here may reach the app: a failed step leaves the connection to the plain rules.
function safely(step) {
  return function guarded() {
    try {
      return Reflect.apply(step, this, arguments);
    } catch (_) {
      return undefined;
    }
  };
}

// `before` may change the arguments of net.Server.prototype.listen, `after` gets the server.
function hookListen(before, after) {
  const { prototype } = require('net').Server;
  const original = prototype.listen;
  const descriptor = Object.getOwnPropertyDescriptor(prototype, 'listen');
  const listen = function() {
    let args = arguments;
    try {
      args = before(this, arguments);
    } catch (_) { /* as the app wrote it */ }
    const result = Reflect.apply(original, this, args);
    try {
      after(this);
    } catch (_) { /* not tracked: the plain rules */ }
    return result;
  };
  Object.defineProperty(listen, 'name', { value: original.name, configurable: true });
  descriptor.value = listen;
  Object.defineProperty(prototype, 'listen', descriptor);
}

// The cluster module leaves threads alone: each binds what it asks for.
function startInThread() {
  const { BroadcastChannel } = require('worker_threads');
  const net = require('net');
  const places = [];
  let channel = null;

  function report(server, options) {
    // Without a place of its own it cannot be meant for clients.
    if (!(options.port > 0) && !options.path && !(options.fd >= 0) && !options._handle && !options.handle) return;
    server.once('listening', safely(() => {
      places.push(nameOf(server.address()));
      if (channel === null) {
        // It asks when it has not been there from the beginning.
        channel = new BroadcastChannel(THREADS);
        channel.onmessage = safely(({ data }) => { if (data === 'who') for (const place of places) channel.postMessage({ place }); });
        channel.unref();
      }
      channel.postMessage({ place: places[places.length - 1] });
    }));
  }

  hookListen((server, args) => {
    report(server, net._normalizeArgs(Array.from(args))[0]);
    return args;
  }, ignore);
}

const nameOf = (at) => (at && typeof at === 'object' ? `${at.address}:${at.port}` : String(at));

function start() {
  const net = require('net');
  const threads = require('worker_threads');
  const major = parseInt(process.versions.node, 10);
  const canMigrate = major >= 16 && major <= 26;
  const sendToSupervisor = process.send; // the app may replace it

  const keys = new WeakMap(); // listening handle -> the supervisor's key of its address
  const known = new WeakMap(); // server -> its entry
  const entries = new Set(); // of the servers that listen or still have connections
  const internal = new WeakSet(); // servers that are the app's own affair
  const metas = new WeakMap(); // connection -> what the drain knows of it
  const outgoing = new Set(); // handles on their way to the supervisor
  const totals = { moved: 0, announced: 0, cut: 0, stalled: 0 };
  let adoption = null; // the connection that is being handed in right now
  let replacedSend = null; // the app's own process.send, while the cluster module works
  let drain = null;
  let count = null; // the hooks that count answers, while there are any

  function tell(message) {
    if (!process.connected) return;
    message.cmd = 'NODE_SEGUE';
    sendToSupervisor.call(process, message, undefined, { swallowErrors: true }, ignore);
  }

  // A supervisor that has taken over asks how far we have read. While Node awaits an acknowledgement
  // it sends nothing but acknowledgements, so the answer is one, with members of its own.
  function answerSync(n) {
    const awaits = Boolean(process._handleQueue);
    const answer = { cmd: 'NODE_HANDLE_ACK', segue: 'synced', n, awaits };
    sendToSupervisor.call(process, answer, undefined, { swallowErrors: true }, ignore);
  }

  // ---- Servers and their connections -----------------------------------------------------

  // `exclusive` and `reusePort` make a worker bind a socket of its own, which would collide with
  // the next generation. Without a port of its own a server cannot be meant for clients.
  function ontoChannel(server, args) {
    const options = args[0];
    if (options === null || typeof options !== 'object' || Array.isArray(options)) return args;
    if (!options.exclusive && !options.reusePort) return args;
    if (options._handle || options.handle || options.fd >= 0) return args;
    if (!options.path && !(options.port > 0)) {
      internal.add(server);
      return args;
    }
    const copy = Object.assign(Object.create(Object.getPrototypeOf(options)), options);
    copy.exclusive = false;
    copy.reusePort = false;
    const list = Array.from(args);
    list[0] = copy;
    return list;
  }

  function watch(server) {
    if (known.has(server)) return;
    const live = new Map(); // connection -> when it came
    const entry = {
      server, live, handle: null, key: undefined, stopped: false, movable: true,
      lingering: new Map(), // socket of a finished HTTP/2 session -> since when it waits for its peer
      secure: typeof server.setSecureContext === 'function',
      h2: typeof server.updateSettings === 'function',
      http: typeof server.keepAliveTimeout === 'number',
    };
    known.set(server, entry);
    const forget = function() { live.delete(this); };
    const track = (connection) => {
      // An app that removes all listeners of its sockets takes ours away, too.
      if (live.size > 2 * server._connections + 256) forgetDestroyed(live);
      live.set(connection, now());
      connection.on('close', forget);
      if (adoption !== null && connection._handle === adoption.handle) adopted(entry, connection);
    };
    if (entry.h2) {
      server.on('session', track);
      if (entry.secure) server.on('secureConnection', (socket) => { if (socket.parser) track(socket); });
    } else {
      server.on(entry.secure ? 'secureConnection' : 'connection', track);
    }
    server.on('listening', safely(() => listening(entry)));
    server.on('close', () => entries.delete(entry));
  }

  function forgetDestroyed(live) {
    for (const connection of live.keys()) if (connection.destroyed) live.delete(connection);
  }

  function listening(entry) {
    entry.handle = entry.server._handle;
    entry.key = keys.get(entry.handle);
    entry.stopped = false;
    if (entry.key !== undefined) {
      entries.add(entry);
      if (count !== null) count.watch(entry);
      if (drain !== null && !drain.accept) stopAccepting(entry);
    } else if (!internal.has(entry.server)) {
      tell({ act: 'bypass', what: nameOf(entry.server.address()) });
    }
  }

  // Nothing is there to be heard before there is a thread.
  function hearThreads() {
    threads.setEnvironmentData(THREADS, true);
    process.once('worker', safely(() => {
      const told = new Set();
      const channel = new threads.BroadcastChannel(THREADS);
      channel.onmessage = safely(({ data: { place } }) => {
        if (!place || told.has(place)) return;
        told.add(place);
        tell({ act: 'bypass', what: `${place} in a worker thread` });
      });
      channel.unref();
      channel.postMessage('who');
    }));
  }

  // ---- Messages of the supervisor --------------------------------------------------------

  // Runs before the cluster module's own listener for the same message, afterCluster after it.
  function beforeCluster(message, handle) {
    afterCluster();
    if (message.cmd === 'NODE_SEGUE') onOrder(message);
    if (message.cmd !== 'NODE_CLUSTER') return;
    lendSend();
    if (message.act === 'newconn') {
      if (handle && message.segue) beginAdoption(entryOf(message.key), handle, Number(message.segue.ka) || 0, now());
    } else if (message.ack !== undefined && message.key !== undefined && !message.errno) {
      if (handle) keys.set(handle, message.key);
    }
  }

  function onOrder(message) {
    if (message.act === 'drain') onDrain(message);
    else if (message.act === 'sync') answerSync(message.n);
    else if (message.act === 'ping') tell({ act: 'pong', n: message.n });
    else if (message.act === 'count') onCount(message.on === true);
    else if (message.act === 'cache') fillCache();
  }

  function afterCluster() {
    endAdoption();
    if (replacedSend !== null) process.send = replacedSend.send;
    replacedSend = null;
  }

  // The cluster module answers by process.send, whatever the app has made of it.
  function lendSend() {
    if (process.send === sendToSupervisor) return;
    replacedSend = { send: process.send };
    process.send = sendToSupervisor;
    process.nextTick(afterCluster); // if a listener throws, ours is not reached
  }

  function entryOf(key) {
    for (const entry of entries) if (entry.key === key && !entry.stopped) return entry;
    return undefined;
  }

  // ---- A connection comes from an older worker -------------------------------------------

  // maxConnections must not drop it: the client has been served for a while already.
  function beginAdoption(entry, handle, ka, since) {
    adoption = { handle, ka, since, server: null, limit: undefined };
    const server = entry && entry.server;
    if (server && server.maxConnections != null && server._connections >= server.maxConnections) {
      adoption.server = server;
      adoption.limit = server.maxConnections;
      server.maxConnections = server._connections + 1;
    }
  }

  function endAdoption() {
    if (adoption !== null && adoption.server !== null) adoption.server.maxConnections = adoption.limit;
    adoption = null;
  }

  // To Node the connection is new: it has no keep-alive timer, and the first request is due
  // within requestTimeout (and, from 18 on, headersTimeout), after which an idle client would get
  // an unsolicited 408. A fresh parser, by handing the connection in again, starts that time anew.
  const adopted = safely((entry, socket) => {
    const { ka, since } = adoption;
    const { headersTimeout, requestTimeout } = entry.server;
    const limits = [major >= 18 ? headersTimeout : 0, requestTimeout].filter((ms) => ms > 0);
    const closeAt = ka > 0 ? since + ka + MARGIN_MS : Infinity;
    const renewAt = limits.length > 0 ? now() + 0.8 * Math.min(...limits) : Infinity;
    const at = Math.min(closeAt, renewAt);
    if (at === Infinity) return;
    setTimeout(safely(() => {
      if (socket.destroyed || socket.bytesRead > 0) return;
      if (now() >= closeAt - 1) socket.destroy();
      else if (isIdle(socket)) handIn(entry, detach(socket), ka, since);
    }), Math.min(Math.max(at - now(), 1), MAX_TIMER_MS)).unref();
  });

  function handIn(entry, handle, ka, since) {
    beginAdoption(entry, handle, ka, since);
    try {
      entry.handle.onconnection(0, handle);
    } finally {
      endAdoption();
    }
  }

  // ---- Which connections can move --------------------------------------------------------

  // Must not be called from inside a read of this socket. The parser's finish() is an error
  // exactly when it has seen a part of a message; it does not disturb the parser.
  function isIdle(socket) {
    const parser = socket.parser;
    const handle = socket._handle;
    if (!parser || !handle || socket.destroyed) return false;
    if (socket._httpMessage || parser.incoming || socket._paused) return false;
    if (socket.readableLength > 0 || socket.writableLength > 0 || handle.writeQueueSize > 0) return false;
    if (socket._readableState.ended || socket._writableState.ending) return false;
    return !(parser.finish() instanceof Error);
  }

  let pristine = null; // what a socket looks like that the app has left alone

  function pristineSocket() {
    if (pristine === null) {
      const socket = new net.Socket();
      const server = new (require('http').Server)();
      server.emit('connection', socket);
      pristine = {
        own: new Set(Reflect.ownKeys(socket)),
        listeners: new Map(socket.eventNames().map((name) => [name, socket.listenerCount(name)])),
      };
      for (const name of ['_httpMessage', '_peername', '_sockname', 'timeout']) pristine.own.add(name);
      pristine.listeners.set('close', (pristine.listeners.get('close') || 0) + 1); // ours
      socket.destroy();
      server.close();
    }
    return pristine;
  }

  // What the app has put on a connection stays behind in this process.
  function carriesProperties(socket) {
    if (Object.getPrototypeOf(socket) !== net.Socket.prototype) return true;
    return Reflect.ownKeys(socket).some((key) => !pristineSocket().own.has(key) &&
      !(typeof key === 'symbol' && (key.description === 'RequestTimeout' || key.description === 'kResourceStore')));
  }

  function carriesListeners(socket) {
    return socket.eventNames().some((name) => {
      const extra = socket.listenerCount(name) - (pristineSocket().listeners.get(name) || 0);
      if (extra <= 0 || name === 'error' || name === 'timeout') return false;
      if (name !== 'close' || !isLoaded(SOCKET_SETS)) return true;
      return socket.listeners('close').filter(onlyDeletes).length < extra;
    });
  }

  function onlyDeletes(listener) {
    return /^[^{;]*(=>|\{)(\s|\/\/.*)*[\w$.[\]]+\.delete\([\w$.]+\);?\s*\}?$/.test(String(listener));
  }

  // A package that is bundled or a pure ES module cannot be seen here.
  function isLoaded(packages) {
    if (drain.packages === null) {
      drain.packages = new Set();
      for (const file of Object.keys(require.cache)) {
        const match = /.*[\\/]node_modules[\\/]((?:@[^\\/]+[\\/])?[^\\/]+)/.exec(file);
        if (match) drain.packages.add(match[1].replace('\\', '/'));
      }
    }
    return packages.some((name) => drain.packages.has(name));
  }

  function mayMove(entry, socket) {
    return canMigrate && drain.idle === 'migrate' && entry.movable && entry.http && !entry.secure &&
      !entry.h2 && socket.server === entry.server && !metaOf(socket).pinned;
  }

  function metaOf(connection) {
    let meta = metas.get(connection);
    if (meta === undefined) {
      meta = {
        progress: -1, progressAt: 0, idleSince: 0, pinned: false, announced: false, over: false, wsAt: 0, wsSent: 0,
      };
      metas.set(connection, meta);
    }
    return meta;
  }

  // ---- Moving one ------------------------------------------------------------------------

  // Takes the handle out; to the app the connection just closes. What arrives from now on stays
  // in the kernel and is read by the next owner. The live parser is left to the 'close' event:
  // taking it out of Node's lists by hand makes 24 and later deaf.
  function detach(socket) {
    const handle = socket._handle;
    const parser = socket.parser;
    handle.readStop();
    handle.reading = false;
    if (parser._consumed) {
      parser.unconsume();
      parser._consumed = false;
    }
    handle._consumed = false;
    socket._handle = null;
    socket.setTimeout(0);
    socket.destroy();
    return handle;
  }

  // The raw handle is sent: for a net.Socket Node would expect a primary that counts them.
  function move(entry, socket) {
    const ka = keepAlive(entry.server);
    const handle = detach(socket);
    const job = { entry, handle, ka };
    entry.live.delete(socket);
    outgoing.add(job);
    const done = safely((error) => {
      if (!outgoing.has(job)) return;
      if (error) {
        takeBack(job);
      } else {
        outgoing.delete(job);
        totals.moved += 1;
        handle.close();
      }
      if (drain.waiting && outgoing.size <= MAX_OUTGOING / 2) {
        drain.waiting = false;
        setImmediate(moveIdle);
      }
    });
    const message = { cmd: 'NODE_SEGUE', act: 'conn', key: entry.key, ka };
    try {
      sendToSupervisor.call(process, message, handle, {}, done);
    } catch (error) {
      done(error);
    }
  }

  // It could not be sent: it goes on here, and from now on this server announces instead.
  function takeBack(job) {
    outgoing.delete(job);
    job.entry.movable = false;
    handIn(job.entry, job.handle, job.ka, now());
  }

  const moveIdle = safely(() => {
    for (const entry of entries) for (const socket of entry.live.keys()) if (!tryMove(entry, socket)) return;
  });

  // False when there is no room for more on the channel.
  function tryMove(entry, socket) {
    if (!mayMove(entry, socket) || !isIdle(socket)) return true;
    if (outgoing.size >= MAX_OUTGOING) {
      drain.waiting = true;
      return false;
    }
    if (carriesProperties(socket) || carriesListeners(socket)) metaOf(socket).pinned = true;
    else move(entry, socket);
    return true;
  }

  function keepAlive(server) {
    return server.keepAliveTimeout > 0 ? server.keepAliveTimeout : 0;
  }

  // ---- Announcing the end ----------------------------------------------------------------

  // With a newer request already read, the end belongs on the answer to that one.
  function announces(response) {
    const socket = response.req && response.req.socket;
    const entry = socket && socket.server && known.get(socket.server);
    if (!entry || !entries.has(entry) || drain.idle === 'keep' || response.statusCode === 101) return false;
    const newest = socket.parser && socket.parser.incoming;
    if (newest && newest !== response.req) return false;
    const meta = metaOf(socket);
    if (mayMove(entry, socket)) {
      if (!carriesProperties(socket)) return false;
      meta.pinned = true;
    }
    if (!meta.announced) totals.announced += 1;
    meta.announced = true;
    return true;
  }

  // An app's own `Connection: keep-alive` would win otherwise.
  function rewriteHeader(response) {
    const kept = response._header.replace(/^(?:connection|keep-alive):[^\r\n]*\r\n/gim, '');
    response._header = `${kept.slice(0, -2)}Connection: close\r\n\r\n`;
    response._last = true;
  }

  function hookResponses() {
    const { ServerResponse } = require('http');
    const original = ServerResponse.prototype._storeHeader;
    const announcing = safely(announces);
    ServerResponse.prototype._storeHeader = function _storeHeader(firstLine, headers) {
      const last = announcing(this);
      if (last) this.shouldKeepAlive = false;
      const result = original.call(this, firstLine, headers);
      if (last && !this._headerSent) rewriteHeader(this);
      return result;
    };
    require('diagnostics_channel').channel('http.server.response.finish').subscribe(safely(({ socket, server }) => {
      const entry = known.get(server);
      if (!entry || !entries.has(entry)) return;
      setImmediate(safely(() => { if (entry.live.has(socket)) tryMove(entry, socket); }));
    }));
  }

  // ---- Counting answers ------------------------------------------------------------------

  // Said again, as by a supervisor that has taken over, it goes on from where it is.
  function onCount(on) {
    if (on === (count !== null)) return;
    if (count !== null) count.end();
    count = on ? startCounting() : null;
  }

  function startCounting() {
    const tally = { answers: 0, errors: 0 };
    const { channel } = require('diagnostics_channel');
    const requests = channel('http.server.request.start');
    let told = 0;

    const over = (failed) => {
      tally.answers += 1;
      if (failed) tally.errors += 1;
    };
    const responseOver = safely(function() { over(this.statusCode >= 500 || !this.writableFinished); });
    const streamOver = safely(function() {
      const status = this.sentHeaders && this.sentHeaders[':status'];
      over(!(status < 500) || this.rstCode !== 0);
    });
    const onRequest = safely(({ response, server }) => {
      const entry = known.get(server);
      // Those of HTTP/2 are counted by their stream.
      if (entry && entries.has(entry) && !response.stream) response.on('close', responseOver);
    });
    const onStream = safely((stream) => { stream.on('close', streamOver); });

    const watchStreams = ({ server, h2 }) => { if (h2 && !server.listeners('stream').includes(onStream)) server.on('stream', onStream); };
    const tellCount = safely(() => {
      if (tally.answers === told) return;
      told = tally.answers;
      tell(Object.assign({ act: 'counted' }, tally));
    });
    requests.subscribe(onRequest);
    for (const entry of entries) watchStreams(entry);
    const timer = setInterval(tellCount, COUNT_MS);
    timer.unref();
    return {
      watch: watchStreams,
      end() {
        clearInterval(timer);
        requests.unsubscribe(onRequest);
        for (const { server, h2 } of entries) if (h2) server.removeListener('stream', onStream);
        tellCount();
      },
    };
  }

  // ---- Node's compile cache --------------------------------------------------------------

  // Node itself writes it at a process's end, which is too late for those that start meanwhile.
  function fillCache() {
    const { flushCompileCache } = require('module');
    if (typeof flushCompileCache === 'function') flushCompileCache();
  }

  // ---- The drain -------------------------------------------------------------------------

  function onDrain(message) {
    const time = now();
    const first = drain === null;
    if (first) {
      drain = {
        accept: true, stoppedAt: 0, idle: 'keep', stall: 0, cutAt: Infinity, wsAfter: 0, wsCode: 1012,
        packages: null, waiting: false, drained: false, lastState: '', lastStateAt: -Infinity,
      };
      if (isLoaded(CONNECTION_STATE)) drain.neverMove = true;
    }
    drain.idle = message.idle === 'migrate' && (!canMigrate || drain.neverMove) ? 'close' : String(message.idle);
    drain.stall = Number(message.stall) || 0;
    const limit = Number(message.deadline) || 0;
    drain.cutAt = limit > 0 ? time + limit - Math.min(500, limit / 10) : Infinity;
    drain.wsAfter = Number(message.ws_after) || 0;
    drain.wsCode = Number(message.ws_code) || 1012;
    if (first) {
      if (Array.from(entries).some((entry) => entry.http || entry.h2)) hookResponses();
      announceUnsent();
      setTimeout(sweep, 0);
    }
    if (message.accept === false && drain.accept) {
      drain.accept = false;
      drain.stoppedAt = time;
      for (const entry of entries) stopAccepting(entry);
    }
  }

  // Heads that are written but not sent yet.
  function announceUnsent() {
    for (const entry of entries) {
      for (const socket of entry.live.keys()) {
        const response = socket._httpMessage;
        if (response && response._header && !response._headerSent && announces(response)) rewriteHeader(response);
      }
    }
  }

  // The app's server must look as if it listened: `listening`, address() and a later close(cb)
  // work, and the idle connections that http.Server.close() would end at once stay.
  const stopAccepting = safely((entry) => {
    const { server } = entry;
    const handle = server._handle;
    if (entry.stopped || !handle || handle !== entry.handle) return;
    entry.stopped = true;
    const close = (done) => { if (typeof done === 'function') setImmediate(done); };
    const stub = { close, ref: ignore, unref: ignore, listen: () => 0 };
    const name = {};
    if (typeof handle.getsockname === 'function' && handle.getsockname(name) === 0) {
      stub.getsockname = (out) => { Object.assign(out, name); return 0; };
    }
    server._handle = stub;
    lendSend();
    handle.close();
    afterCluster();
  });

  // The only timer, and a ref'd one: a process without other work has to live until it is told
  // to stop, or its handler for that would never run.
  const sweep = () => {
    const began = now();
    try {
      if (!process.connected) for (const job of Array.from(outgoing)) takeBack(job);
      if (drain.drained) {
        if (process.connected) setTimeout(sweep, 100);
        return;
      }
      inspect(began);
    } catch (_) { /* the next one tries again */ }
    setTimeout(sweep, Math.min(Math.max(SWEEP_MS, 10 * (now() - began)), 1000));
  };

  function inspect(time) {
    const state = { act: 'state', idle: 0, busy: 0, upgraded: 0, tls: 0, h2: 0, other: 0, outgoing: 0, oldest_ms: 0 };
    let oldest = time;
    let left = 0;
    for (const entry of entries) {
      forgetDestroyed(entry.live);
      for (const [connection, since] of entry.live) {
        try {
          const kind = serve(entry, connection, time);
          if (time >= drain.cutAt) cut(connection);
          if (!connection.destroyed) state[kind] += 1;
        } catch (_) {
          state.other += 1;
        }
        if (since < oldest) oldest = since;
        left += 1;
      }
      const lingering = linger(entry, time);
      state.h2 += lingering;
      left += lingering;
      // Handshakes: the server counts them, nobody has announced them.
      const unknown = Math.max(0, entry.server._connections - entry.live.size - lingering);
      if (drain.accept || time < Math.min(drain.stoppedAt + HANDSHAKE_MS, drain.cutAt)) {
        state.other += unknown;
        left += unknown;
      }
    }
    state.outgoing = outgoing.size;
    report(state, time, oldest);
    if (!drain.accept && left === 0 && outgoing.size === 0) {
      drain.drained = true;
      tell(Object.assign({ act: 'drained' }, totals));
    }
  }

  function report(state, time, oldest) {
    Object.assign(state, totals);
    const text = JSON.stringify(state);
    if (text === drain.lastState || time - drain.lastStateAt < STATE_MS) return;
    drain.lastState = text;
    drain.lastStateAt = time;
    state.oldest_ms = time - oldest;
    tell(state);
  }

  // Gives one connection what its kind is due; returns the kind.
  function serve(entry, connection, time) {
    if (typeof connection.goaway === 'function') return serveSession(entry, connection, time);
    const kind = entry.secure ? 'tls' : undefined;
    if (!entry.http && !entry.h2) {
      cutIfStalled(connection, connection, time);
      return kind || 'other';
    }
    if (!connection.parser) {
      serveUpgraded(connection, time);
      return 'upgraded';
    }
    const meta = metaOf(connection);
    if (!isIdle(connection)) {
      meta.idleSince = 0;
      if (waitsForApp(connection)) meta.progress = -1;
      cutIfStalled(connection, connection, time);
      return kind || 'busy';
    }
    tryMove(entry, connection);
    if (!entry.live.has(connection) || mayMove(entry, connection) || drain.idle === 'keep') return kind || 'idle';
    // Node's timer would end it exactly when the client may still believe in it.
    const ka = keepAlive(entry.server);
    if (meta.idleSince === 0) {
      meta.idleSince = time;
      connection.setTimeout(0);
    } else if (ka > 0 && time - meta.idleSince > ka + MARGIN_MS) {
      connection.destroy();
    }
    return kind || 'idle';
  }

  // One GOAWAY with the exact last stream; what runs is finished. Never one with a higher stream
  // as a first notice: nghttp2 then leaves new streams without any answer.
  function serveSession(entry, session, time) {
    if (session.destroyed) return 'h2';
    const meta = metaOf(session);
    if (!drain.accept && drain.idle !== 'keep' && !session.closed) {
      if (!meta.announced) totals.announced += 1;
      meta.announced = true;
      closeSession(session, meta);
    }
    // While something is still to be sent Node puts the end off, and up to now forgets it then.
    if (session.closed && isWithoutStreams(session)) meta.over = true;
    if (meta.over) {
      endSession(entry, session, time);
    } else {
      if (hasStreamThatWaitsForApp(session)) meta.progress = -1;
      cutIfStalled(session, session.socket, time);
    }
    return 'h2';
  }

  // Node ends a closed session with its last stream, from within nghttp2's sending. Up to Node 18
  // all that is not sent by then is dropped, answers and GOAWAY included. So that waits for a sweep.
  function closeSession(session, meta) {
    const { destroy } = session;
    session.destroy = function(error) {
      if (arguments.length !== 1 || error != null) return Reflect.apply(destroy, this, arguments);
      meta.over = true;
      return undefined;
    };
    session.close();
  }

  // A peer that still sends when we are gone is reset, and may lose what it has not read yet.
  function endSession(entry, session, time) {
    const socket = session.socket.removeListener('close', ignore); // the one behind the proxy
    if (socket._handle && (session.state.outboundQueueSize > 0 || socket._handle.writeQueueSize > 0)) {
      cutIfStalled(session, socket, time);
      return;
    }
    delete session.destroy;
    if (major < 18) closeAfterPeer(socket);
    entry.lingering.set(socket, time);
    session.destroy(null);
  }

  // Node 16 closes the socket once everything is written; from 18 on it waits by itself.
  function closeAfterPeer(socket) {
    socket.destroy = function(error) {
      delete socket.destroy;
      if (error || !socket._handle) return socket.destroy(error);
      socket.once('end', () => socket.destroy());
      socket.resume();
      socket._handle.readStart();
      return socket;
    };
  }

  // How many sockets still wait for their peer.
  function linger({ lingering }, time) {
    for (const [socket, since] of lingering) {
      if (!socket.destroyed && time - since < LINGER_MS && time < drain.cutAt) continue;
      lingering.delete(socket);
      delete socket.destroy;
      socket.destroy();
    }
    return lingering.size;
  }

  // A WebSocket server (`ws`, and what is built on it) keeps its object on the socket.
  function serveUpgraded(socket, time) {
    if (drain.accept) return;
    const meta = metaOf(socket);
    const symbol = Object.getOwnPropertySymbols(socket).find((key) => key.description === 'websocket');
    const raw = !symbol && !socket.encrypted && isLoaded(OTHER_WEBSOCKETS);
    if (!symbol && !raw) {
      cutIfStalled(socket, socket, time);
      return;
    }
    if (meta.wsAt === 0) meta.wsAt = time + Math.random() * drain.wsAfter;
    if (meta.wsSent > 0) {
      if (time - meta.wsSent > WS_ANSWER_MS) cut(socket);
    } else if (time >= meta.wsAt) {
      meta.wsSent = time;
      totals.announced += 1;
      if (symbol) socket[symbol].close(drain.wsCode, 'Service Restart');
      else socket.write(closeFrame(drain.wsCode, 'Service Restart'));
    }
  }

  function closeFrame(code, reason) {
    const text = Buffer.from(reason);
    return Buffer.concat([Buffer.from([0x88, text.length + 2, code >> 8, code & 0xff]), text]);
  }

  // The request has been read whole and not a byte of its answer written: the app is at work, and
  // no transfer that could stall has begun.
  function waitsForApp(socket) {
    const response = socket._httpMessage;
    return Boolean(response) && !response.headersSent && Boolean(response.req) && response.req.complete;
  }

  // Node's own state of a session.
  function innerState(session) {
    const symbol = Object.getOwnPropertySymbols(session).find((key) => key.description === 'state');
    return symbol && session[symbol];
  }

  function hasStreamThatWaitsForApp(session) {
    const state = innerState(session);
    return Boolean(state) && Array.from(state.streams.values())
      .some((stream) => !stream.headersSent && !stream.destroyed && stream.state.remoteClose === 1);
  }

  function isWithoutStreams(session) {
    const state = innerState(session);
    return Boolean(state) && state.streams.size === 0 && state.pendingStreams.size === 0;
  }

  function cutIfStalled(connection, socket, time) {
    const handle = socket._handle;
    const progress = handle ? handle.bytesRead + handle.bytesWritten - handle.writeQueueSize : 0;
    const meta = metaOf(connection);
    if (progress !== meta.progress) {
      meta.progress = progress;
      meta.progressAt = time;
    } else if (!drain.accept && drain.stall > 0 && time - meta.progressAt >= drain.stall) {
      if (!connection.destroyed) totals.stalled += 1;
      cut(connection);
    }
  }

  function cut(connection) {
    if (connection.destroyed) return;
    totals.cut += 1;
    connection.destroy();
  }

  hookListen(ontoChannel, watch);
  safely(hearThreads)();
  process.prependListener('internalMessage', safely(beforeCluster));
  process.on('internalMessage', safely(afterCluster));
  tell({ act: 'hello', v: 1, node: process.versions.node, migrate: canMigrate });
}

if (isOurWorker()) safely(start)();
else if (isThreadOfOurWorker()) safely(startInThread)();
