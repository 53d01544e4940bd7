'use strict';

const cluster = require('cluster');

require('http').createServer().listen(+process.env.PORT, () => cluster.worker.disconnect());
