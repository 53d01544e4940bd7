'use strict';

// Makes this Node look like one that does not exist yet.

Object.defineProperty(process, 'versions', { value: Object.assign({}, process.versions, { node: '99.0.0' }) });
