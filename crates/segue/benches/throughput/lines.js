'use strict';
// The app of the comparison of logs: prints as many lines as it is asked to, a hundred a turn of the
// event loop, and says what that took of it.
const http = require('http');

const text = 'x'.repeat(90);

http
  .createServer((req, res) => {
    const count = Number(new URL(req.url, 'http://x').searchParams.get('lines')) || 0;
    const began = process.hrtime.bigint();
    const before = process.cpuUsage();
    let printed = 0;
    const turn = () => {
      for (let i = 0; i < 100 && printed < count; i += 1) {
        printed += 1;
        console.log(`${printed} ${text}`);
      }
      if (printed < count) {
        setImmediate(turn);
        return;
      }
      const used = process.cpuUsage(before);
      const took = Number(process.hrtime.bigint() - began) / 1e9;
      res.end(JSON.stringify({ took, cpu: (used.user + used.system) / 1e6 }));
    };
    turn();
  })
  .listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
