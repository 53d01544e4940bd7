'use strict';
// What segue is compared with: Node's own cluster primary and nothing else.
const cluster = require('cluster');
const path = require('path');

cluster.schedulingPolicy = process.env.POLICY === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
// `setupMaster` is its name before Node 16.
(cluster.setupPrimary || cluster.setupMaster)({ exec: path.join(__dirname, 'app.js') });
for (let i = 0; i < Number(process.env.WORKERS); i += 1) cluster.fork();
process.on('SIGTERM', () => process.exit(0));
