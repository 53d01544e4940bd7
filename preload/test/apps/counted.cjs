'use strict';

// Counts, by V8's own call counts, what of the preload runs while requests are served.

const inspector = require('inspector');
const http = require('http');

const session = new inspector.Session();
session.connect();
session.post('Profiler.enable');
session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false });

const calls = () => {
  let counts = 0;
  session.post('Profiler.takePreciseCoverage', (error, { result }) => {
    for (const script of result.filter((s) => s.url.endsWith('preload.cjs'))) {
      for (const { ranges } of script.functions) counts += ranges[0].count;
    }
  });
  return counts;
};

process.on('SIGUSR2', () => process.send({ calls: calls() }));
http.createServer((req, res) => res.end('ok')).listen(0, '127.0.0.1');
