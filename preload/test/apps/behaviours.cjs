'use strict';

// Runs every case of ./cases/ in this process and sends what could be observed: { name: [line, …] }.
// A case that does not end in time says so in its trace.

const fs = require('fs');
const path = require('path');

const LIMIT_MS = 10000;
const folder = path.join(__dirname, 'cases');

async function run(body) {
  const lines = [];
  const trace = (...words) => { lines.push(words.map((w) => (typeof w === 'string' ? w : JSON.stringify(w))).join(' ')); };
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(() => { trace('did not end in time'); resolve(); }, LIMIT_MS); });
  try {
    await Promise.race([body(trace), late]);
  } catch (error) {
    trace('failed', String(error && error.stack));
  }
  clearTimeout(timer);
  return lines.slice();
}

(async () => {
  const all = {};
  for (const file of fs.readdirSync(folder).sort()) {
    for (const [name, body] of Object.entries(require(path.join(folder, file)).cases || {})) all[name] = await run(body);
  }
  process.send(all, () => process.exit(0));
})();

// The harness waits for a port.
require('net').createServer().listen(0, '127.0.0.1');
