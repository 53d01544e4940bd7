'use strict';

// The Node binaries under test: SEGUE_TEST_NODES (paths separated by colons), or this one.

const { execFileSync } = require('node:child_process');
const test = require('node:test');

const nodes = (process.env.SEGUE_TEST_NODES || process.execPath).split(':').filter(Boolean)
  .map((node) => ({ node, version: execFileSync(node, ['-p', 'process.versions.node'], { env: {} }).toString().trim() }));

// Declares a test once per binary.
function each(name, body) {
  for (const { node, version } of nodes) {
    test(`${name} (Node ${version})`, (t) => body({ node, version, major: parseInt(version, 10), t }));
  }
}

module.exports = { each, nodes };
